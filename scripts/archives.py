"""Build the source archive, and the wheel from that archive, as an index would hand them out.

    python -m scripts.archives dist/

Needs setuptools alone and fetches nothing. The repository stays as it is: what is built is a copy.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
_LEFT_OUT = (".git", ".venv*", "*_cache", "__pycache__", ".hypothesis", "*.egg-info", "build", "dist", "site", "*-out")
_HOOK = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def build(folder: Path) -> tuple[Path, Path]:
    """Return the source archive and the wheel, written to `folder`. Raises CalledProcessError where a build fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        copy, unpacked = Path(made) / "copy", Path(made) / "unpacked"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        source = _built("build_sdist", copy, folder, "*.tar.gz")
        with tarfile.open(source) as archive:
            archive.extractall(unpacked, filter="data")
        (inside,) = unpacked.iterdir()
        return source, _built("build_wheel", inside, folder, "*.whl")


def _built(hook: str, tree: Path, folder: Path, pattern: str) -> Path:
    for old in folder.glob(f"limelight-{pattern}"):
        old.unlink()
    command = [sys.executable, "-c", _HOOK, hook, str(folder.resolve())]
    subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True)
    (found,) = folder.glob(f"limelight-{pattern}")
    return found


if __name__ == "__main__":
    for path in build(Path(sys.argv[1] if len(sys.argv) > 1 else "dist")):
        print(path)
