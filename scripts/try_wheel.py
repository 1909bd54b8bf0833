"""Install the wheel into an empty environment and use it: `limelight explain` and `limelight serve`.

    python -m scripts.try_wheel dist/       # builds first; needs a package index

Prints what it did, and exits with an error where a command fails or the page does not answer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from .archives import ROOT, build

PORT = 8799
_SECONDS = 120


def main(folder: Path) -> None:
    _, wheel = build(folder)
    with tempfile.TemporaryDirectory() as made:
        here = Path(made)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        subprocess.run([sys.executable, "-m", "venv", "env"], cwd=here, check=True)
        constraints = ["--constraint", str(ROOT / "constraints.txt")]
        install = ["env/bin/pip", "install", "--quiet", *constraints, f"{wheel.resolve()}[demo,app]"]
        subprocess.run(install, cwd=here, env=environment, check=True)
        limelight = str(here / "env" / "bin" / "limelight")
        subprocess.run([limelight, "explain", "demo", "-o", "maps"], cwd=here, env=environment, check=True)
        print(f"explain: {sorted(path.name for path in (here / 'maps').iterdir())}")
        server = subprocess.Popen([limelight, "serve", "--port", str(PORT)], cwd=here, env=environment)
        try:
            print(f"serve: {_answer(server, f'http://127.0.0.1:{PORT}/')} bytes")
        finally:
            server.terminate()
            server.wait()


def _answer(server: subprocess.Popen[bytes], url: str) -> int:
    """Return the size of the page, once it answers."""
    end = time.monotonic() + _SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as page:
                return len(page.read())
        except OSError:
            if server.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.5)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist"))
