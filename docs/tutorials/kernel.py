"""Run in the kernel before a tutorial's first cell: what this machine needs and a reader's does not."""


def _prepare():
    import os
    import sys
    import warnings
    from importlib.util import find_spec
    from pathlib import Path

    root = Path(__file__).parents[2]
    os.environ.setdefault(
        "LIMELIGHT_SHARED", str(root.parent / "shared")
    )  # photographs that are no part of the project
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # bars would be outputs of the cells
    warnings.filterwarnings("ignore", message="IProgress not found")  # transformers looks for widgets to draw them
    if find_spec("torchvision"):
        # transformers imports it where it is installed, and fails where it was built for another torch.
        sys.path.insert(0, str(root))
        from benchmarks.operators import torchvision

        sys.path.pop(0)
        torchvision()


_prepare()
