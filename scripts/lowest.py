"""Print the lowest version that pyproject.toml allows of each package that the core needs, as pins for pip.

    python -m scripts.lowest            # torch==2.8.0 numpy==2.0.0 ...

`make lowest` installs them into an environment of their own and runs the quick tests there, before a release.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest(requirements: Iterable[str]) -> list[str]:
    """Return each requirement `name>=version` as a pin of that version.

    >>> lowest(["torch>=2.6", "pillow>=10.3"])
    ['torch==2.6.0', 'pillow==10.3.0']

    Raises ValueError where a requirement is written otherwise.
    """
    pins = []
    for requirement in requirements:
        found = re.fullmatch(r"([\w-]+)>=(\d+)\.(\d+)(?:\.(\d+))?", requirement)
        if found is None:
            raise ValueError(f"dependencies: {requirement!r}; write name>=version, such as torch>=2.6")
        name, major, minor, patch = found.groups()
        pins.append(f"{name}=={major}.{minor}.{patch or 0}")
    return pins


if __name__ == "__main__":
    print(*lowest(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]))
