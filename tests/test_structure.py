"""The architecture, read from the imports: arrows point down, nothing is imported that isn't a core dependency."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import limelight as ll

PACKAGE = Path(ll.__file__).parent

# Highest first; a module imports only from those further down.
ORDER = (
    "apps",
    "studies",
    "lab",
    "runs",
    "checks",
    "sweep",
    "study",
    "explain",
    "question",
    "methods",
    "patterns",
    "clean",
    "attribution",
    "storage",
    "show",
    "score",
    "passes",
    "inside",
    "points",
    "tail",
    "trace",
    "layers",
    "grids",
    "twin",
    "incremental",
    "rules",
    "other_targets",
    "targets",
    "sequences",
    "parts",
    "players",
    "baselines",
    "streams",
    "models",
    "networks",
    "images",
    "differentiable",
    "blackbox",
    "compare",
    "files",
    "_version",
)


def _imports(source: Path) -> set[str]:
    """Top-level parts of limelight that a file imports, wherever in the file it does so."""
    package = source.relative_to(PACKAGE).parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        base = (*package[: len(package) - node.level + 1], *(node.module or "").split("."))
        parts = [part for part in base if part]
        found |= {parts[0]} if parts else {alias.name for alias in node.names}
    return found


def test_arrows_point_down() -> None:
    for source in sorted(PACKAGE.rglob("*.py")):
        parts = source.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] in ("__init__", "__main__"):
            continue
        assert parts[0] in ORDER, f"{parts[0]} has no place in ORDER yet"
        above = {name for name in _imports(source) if ORDER.index(name) < ORDER.index(parts[0])}
        assert not above, f"{'/'.join(parts)}.py imports {sorted(above)} from above itself"


def test_files_stay_small() -> None:
    long = {str(f.relative_to(PACKAGE)): n for f in PACKAGE.rglob("*.py") if (n := f.read_text().count("\n")) > 400}
    assert not long


def test_import_is_light() -> None:
    """Optional and heavy packages stay out of `import limelight`; beyond torch it takes under a processor's second."""
    optional = ("torchvision", "timm", "skimage", "matplotlib", "typer", "rich", "PIL.Image")
    script = (
        "import torch, time, sys; start = time.process_time(); import limelight; "
        f"print(time.process_time() - start); print(*[m for m in {optional} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    took, loaded = done.stdout.split("\n")[:2]
    assert float(took) < 1 and not loaded


def test_public_names_exist_and_are_sorted() -> None:
    assert ll.__all__ == sorted(ll.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    for name in ll.__all__:
        assert getattr(ll, name) is not None
    for method in ll.METHODS:
        assert getattr(ll, method.__name__) is method
        assert (method.__doc__ and "[" in method.__doc__) or method is ll.Gradient
