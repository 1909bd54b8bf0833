"""What is published: the source archive builds and tests the wheel, and the wheel has all that it needs to run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

import pytest

import limelight as ll

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from scripts.archives import build  # noqa: E402
from scripts.lowest import lowest  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOT_FOR_USERS = {"all", "loggers", "bench", "docs", "dev"}
LICENCES = {"LICENSE", "LICENSE-torchvision.txt", "LICENSE-rock-paper-scissors.txt"}


def test_all_is_every_extra_that_a_user_may_want() -> None:
    assert EXTRAS["all"] == [f"limelight[{','.join(sorted(set(EXTRAS) - NOT_FOR_USERS))}]"]


def test_every_extra_that_an_error_or_a_page_names_exists() -> None:
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    named = {
        (path.name, extra)
        for path in files
        for extras in re.findall(r"(?:limelight|'\.|\")\[([a-z,]+)\]'", path.read_text(encoding="utf-8"))
        for extra in extras.split(",")
    }
    assert len(named) > 10 and not {pair for pair in named if pair[1] not in EXTRAS}


def test_the_lowest_versions_are_read_from_the_requirements() -> None:
    pins = lowest(PROJECT["dependencies"])
    assert [pin.split("==")[0] for pin in pins] == ["torch", "numpy", "pillow", "safetensors", "typer"]
    with pytest.raises(ValueError, match="write name>=version"):
        lowest(["torch<3"])


def test_the_citation_has_the_version_and_the_licences() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {ll.__version__}\n" in text
    assert re.findall(r"^  - ([\w.-]+)$", text, re.MULTILINE) == PROJECT["license"].split(" AND ")


@dataclass(frozen=True)
class Built:
    source: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(*build(tmp_path_factory.mktemp("dist")))


@pytest.fixture(scope="module")
def environment(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel unpacked into it, and our own packages behind it."""
    folder = tmp_path_factory.mktemp("env")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    with zipfile.ZipFile(built.wheel) as archive:
        archive.extractall(packages)
    (packages / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def clean() -> dict[str, str]:
    """The variables of this process without those that name other places for packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@pytest.mark.long
@pytest.mark.release
def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
        metadata = Parser().parsestr(archive.read(f"limelight-{ll.__version__}.dist-info/METADATA").decode())
    source = ROOT / "src"
    package = {
        str(path.relative_to(source))
        for path in (source / "limelight").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == package
    assert "limelight/py.typed" in package
    assert {Path(name).name for name in names if ".dist-info/licenses/" in name} == LICENCES
    assert metadata["License-Expression"] == PROJECT["license"]
    assert metadata["Version"] == ll.__version__
    assert set(metadata.get_all("Provides-Extra")) == set(EXTRAS)


@pytest.mark.long
@pytest.mark.release
def test_the_source_archive_holds_what_tests_it(built: Built) -> None:
    with tarfile.open(built.source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ["src", "tests", "benchmarks", "docs", "scripts"]
    present = {
        str(path.relative_to(ROOT))
        for folder in wanted
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", ".hypothesis"} & set(path.parts) and ".egg-info" not in str(path)
    }
    present |= {
        "Makefile",
        "constraints.txt",
        "mkdocs.yml",
        "CITATION.cff",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        ".ci/run",
    }
    assert present <= names, sorted(present - names)
    assert not [name for name in names if name.endswith((".pyc", ".whl")) or name.startswith((".git/", ".venv"))]


@pytest.mark.long
@pytest.mark.release
def test_the_wheel_explains_a_picture(environment: Path, tmp_path: Path) -> None:
    """With its own data files: the embedded weights, and the names and scripts of the page."""
    from PIL import Image

    Image.new("RGB", (64, 64), (20, 160, 40)).save(tmp_path / "hand.png")
    arguments = ["explain", "hand.png", "--model", "rock-paper-scissors", "--method", "gradient", "-o", "maps"]
    command = [str(environment / "bin" / "python"), "-m", "limelight", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=clean(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.suffix for path in (tmp_path / "maps").iterdir()} >= {".png", ".html"}
    where = [str(environment / "bin" / "python"), "-c", "import limelight; print(limelight.__file__)"]
    assert subprocess.run(where, env=clean(), capture_output=True, text=True).stdout.startswith(str(environment))


CONSUMER = """
from typing import assert_type

import torch
from torch import Tensor, nn

import limelight as ll

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
x = torch.rand(2, 4)
one = ll.explain(model, x, ll.IntegratedGradients(), target=1)
assert_type(one, ll.Attribution)
assert_type(one.values, Tensor)
assert_type(one.delta, Tensor)
several = ll.explain(model, x, [ll.Gradient(), "lrp"], target=1)
assert_type(several, ll.Panel)
ll.SmoothGrad(samples="many")  # wrong
"""


@pytest.fixture
def consumer(tmp_path: Path) -> Path:
    path = tmp_path / "consumer.py"
    path.write_text(CONSUMER)
    return path


@pytest.mark.long
@pytest.mark.release
def test_a_consumer_is_checked_by_mypy(environment: Path, consumer: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")

    def checked() -> list[str]:
        command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(environment / "bin" / "python")]
        command += ["--config-file", os.devnull, "--cache-dir", str(consumer.parent / "cache"), consumer.name]
        done = subprocess.run(command, cwd=consumer.parent, env=clean(), capture_output=True, text=True)
        return [line for line in done.stdout.splitlines() if "error" in line and not line.startswith("Found")]

    (line,) = checked()
    assert 'Argument "samples" to "SmoothGrad" has incompatible type "str"' in line
    (marker,) = environment.glob("lib/*/site-packages/limelight/py.typed")
    marker.rename(marker.with_suffix(".away"))
    try:
        assert any("missing library stubs or py.typed marker" in line for line in checked())
    finally:
        marker.with_suffix(".away").rename(marker)


@pytest.mark.long
@pytest.mark.release
def test_a_consumer_is_checked_by_pyright(environment: Path, consumer: Path) -> None:
    pytest.importorskip("pyright", reason="pyright is not installed")
    if shutil.which("node") is None:
        pytest.skip("pyright needs node, which would be downloaded")
    command = [sys.executable, "-m", "pyright", "--pythonpath", str(environment / "bin" / "python"), consumer.name]
    done = subprocess.run(command, cwd=consumer.parent, capture_output=True, text=True)
    (line,) = [line for line in done.stdout.splitlines() if " - error" in line]
    assert '"samples"' in line, done.stdout


def test_the_readme_is_short_and_begins_with_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    first = lines[:20]
    assert any(line.startswith("make demo ") for line in first) and any(line.startswith("make test ") for line in first)


def test_the_readme_links_to_what_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert len(links) > 20 and not [link for link in links if not (ROOT / link).exists()]
