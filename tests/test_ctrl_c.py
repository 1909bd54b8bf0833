"""Ctrl-C at any import of any command: exit code 130, at most one line, no traceback."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from limelight.cli.main import app

ROOT = Path(__file__).parents[1]
COMMANDS = [str(each.name) for each in app.registered_commands] + [str(each.name) for each in app.registered_groups]
# The first finder of modules: it interrupts the process at one import of those after the first of the package.
_SITE = """
import os, signal, sys

class Interrupts:
    left, begun = int(os.environ["LIMELIGHT_TEST_IMPORT"]), False

    def find_spec(self, name, path=None, target=None):
        self.begun = self.begun or name == "limelight.base"
        self.left -= self.begun
        if self.begun and self.left == 0 and "--multiprocessing-fork" not in sys.orig_argv:
            with open(os.environ["LIMELIGHT_TEST_REACHED"], "w"):
                pass
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
"""


def _interrupted(tmp_path: Path, at: int, *arguments: str) -> bool:
    """Interrupt a command at an import, and whether it came so far."""
    (tmp_path / "sitecustomize.py").write_text(_SITE)
    reached = tmp_path / "reached"
    reached.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "limelight", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src"), str(ROOT)]),
            "LIMELIGHT_TEST_IMPORT": str(at),
            "LIMELIGHT_TEST_REACHED": str(reached),
        },
        capture_output=True,
        text=True,
        timeout=400,
    )
    if reached.exists():
        assert done.returncode == 130, (at, done)
        assert all(line.startswith("limelight: ") for line in done.stderr.splitlines()), (at, done.stderr)
    return reached.exists()


def test_an_interrupt_at_the_first_import(tmp_path: Path) -> None:
    assert _interrupted(tmp_path, 1, "methods")


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupt_at_any_import(command: str, tmp_path: Path) -> None:
    draw = random.Random(command)
    assert all(_interrupted(tmp_path, draw.randrange(1, most), command, "--help") for most in (20, 200, 600))


@pytest.mark.long
@pytest.mark.parametrize("arguments", [("methods",), ("models",), ("explain", "demo", "-m", "gradient", "-o", "OUT")])
def test_an_interrupt_at_an_import_of_the_work(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Also where a command imports what it alone needs; the last of the numbers are beyond the end."""
    own = [str(tmp_path / "out") if each == "OUT" else each for each in arguments]
    reached = [_interrupted(tmp_path, at, *own) for at in (1000, 2000, 2500, 3000, 3500)]
    assert reached[0] and reached == sorted(reached, reverse=True)


def test_a_program_that_uses_the_library_keeps_its_handler() -> None:
    code = "import signal; before = signal.getsignal(signal.SIGINT); import limelight.ctrl_c; "
    code += "assert signal.getsignal(signal.SIGINT) is before is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})


def test_an_ignored_interrupt_stays_ignored() -> None:
    """A shell starts its background jobs so."""
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.argv[0] = 'limelight'; "
    code += "import limelight.ctrl_c; assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
