"""The architecture, read from the imports: arrows point down, nothing is imported that isn't a core dependency."""

from __future__ import annotations

import ast
import graphlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import limelight as ll

PACKAGE = Path(ll.__file__).parent
BIBLIOGRAPHY = PACKAGE.parents[1] / "docs" / "references.bib"
DECISIONS = PACKAGE.parents[1] / "docs" / "decisions"

# Highest first; a module imports only from those further down. The root, "", holds the public names.
ORDER = (
    "__main__",
    "",
    "lab",
    "cli",
    "server",
    "loggers",
    "studies",
    "runs",
    "show",
    "evaluation",
    "checks",
    "model_edits",
    "explain",
    "inputs",
    "by_length",
    "answer",
    "methods",
    "engine",
    "rules",
    "question",
    "models",
    "base",
    "ctrl_c",
)

# Imports that point up or close a circle, made when a function runs or for types alone: (module, what it imports).
FORWARDS = {
    # Save and show of what lies below the drawing.
    ("base.attribution", "show.figure"),
    ("base.attribution", "show.html"),
    ("base.attribution", "show.image"),
    ("base.attribution", "show.drawn"),
    ("evaluation.card", "show.image"),
    ("evaluation.findings", "show.exhibits"),
    # A panel's agreement needs findings.
    ("base.attribution", "evaluation.agreement"),
    ("evaluation.along_path", "show.lines"),
    ("evaluation.compare_baselines", "show"),
    ("evaluation.compare_shifts", "show.exhibits"),
    ("evaluation.sweep", "show.exhibits"),
    ("evaluation.window_scores", "show.exhibits"),
    ("evaluation.compare_shifts", "show.image"),
    # The type of a field.
    ("base.attribution", "question.targets"),
}


class Arrow(NamedTuple):
    """`module` imports `target`, both dotted below limelight, the root being "".

    `late`: when a function runs, or for type checkers alone.
    """

    module: str
    target: str
    late: bool
    line: int


def arrows(package: Path) -> list[Arrow]:
    """Every import of the package from itself, however it is spelled: relative, absolute, or of the package whole.

    A public name that is imported from the root counts as an arrow to the module that the root has it from.
    """
    sources = {_dotted(source, package): source.read_text() for source in sorted(package.rglob("*.py"))}
    public = {
        alias.asname or alias.name: target
        for node, _ in _imports(sources[""])
        if isinstance(node, ast.ImportFrom)
        for alias, target in _targets(node, "", True, package, {})
    }
    found = []
    for module, text in sources.items():
        is_package = (package.joinpath(*module.split(".")) / "__init__.py").exists() if module else True
        for node, late in _imports(text):
            if isinstance(node, ast.Import):
                names = [alias.name.split(".") for alias in node.names]
                targets = [".".join(name[1:]) for name in names if name[0] == package.name]
            else:
                targets = [target for _, target in _targets(node, module, is_package, package, public)]
            found += [Arrow(module, target, late, node.lineno) for target in dict.fromkeys(targets)]
    return found


@cache
def _imports(text: str) -> list[tuple[ast.Import | ast.ImportFrom, bool]]:
    """The imports of a source text, each with whether it is late."""
    nodes = list(ast.walk(ast.parse(text)))
    late = {id(inner) for node in nodes if _is_late(node) for inner in ast.walk(node)}
    return [(node, id(node) in late) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def _is_late(node: ast.AST) -> bool:
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    return is_function or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")


def _dotted(source: Path, package: Path) -> str:
    parts = source.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _targets(
    node: ast.ImportFrom, module: str, is_package: bool, package: Path, public: dict[str, str]
) -> Iterator[tuple[ast.alias, str]]:
    """The modules that an import from the package names, each with the alias that names it."""
    named = (node.module or "").split(".") if node.module else []
    if node.level:
        holder = module.split(".") if module else []
        above = node.level - is_package
        base = [*holder[: len(holder) - above], *named]
    elif named[:1] == [package.name]:
        base = named[1:]
    else:
        return
    for alias in node.names:
        inner = package.joinpath(*base, alias.name)
        if inner.with_suffix(".py").exists() or (inner / "__init__.py").exists():
            yield alias, ".".join([*base, alias.name])
        else:
            yield alias, public.get(alias.name, "") if not base else ".".join(base)


def room(module: str) -> str:
    return module.partition(".")[0]


def wrong_arrows(package: Path, order: tuple[str, ...] = ORDER) -> list[str]:
    """Imports that point up, that reach what has no place in the order, or that close a circle inside a room."""
    wrong = []
    inside: dict[str, dict[str, set[str]]] = {}
    for module, target, late, line in arrows(package):
        if (module, target) in FORWARDS and late:
            continue
        place = f"{module or '__init__'}:{line} imports {target or package.name}"
        strangers = [each for each in (room(module), room(target)) if each not in order]
        if strangers:
            wrong.append(f"{place}: {strangers[0]!r} has no place in ORDER yet")
        elif order.index(room(target)) < order.index(room(module)):
            wrong.append(f"{place} from above itself")
        elif room(target) == room(module) and module:
            inside.setdefault(room(module), {}).setdefault(module, set()).add(target)
    for name, graph in inside.items():
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            wrong.append(f"{name}: a circle of imports: {' -> '.join(error.args[1])}")
    return wrong


def test_arrows_point_down() -> None:
    assert not wrong_arrows(PACKAGE)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("{low}.py", "from .{high} import anything"),
        ("{low}.py", "from limelight.{high} import anything"),
        ("{low}.py", "import limelight.{high}"),
        ("{low}.py", "import limelight"),
        ("{low}.py", "from limelight import explain"),
        ("{low}.py", "def late():\n    from limelight import explain"),
        ("{room}/{low_inside}.py", "from ..{high} import anything"),
        ("{room}/{low_inside}.py", "from limelight.{high} import anything"),
        ("{room}/{low_inside}.py", "from .{high_inside} import anything"),
        ("{room}/{low_inside}.py", "from limelight.{room}.{high_inside} import anything"),
        ("{room}/{low_inside}.py", "from . import {high_inside}"),
        ("new_module.py", "import math"),
    ],
)
def test_a_forbidden_import_is_found(place: str, line: str, tmp_path: Path) -> None:
    """In a copy of the package with one more import, which is never run."""
    names = {"low": "answer", "high": "explain", "room": "rules", "low_inside": "call", "high_inside": "engine"}
    copy = tmp_path / "limelight"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.pyc", "data", "viewer"))
    assert not wrong_arrows(copy)
    source = copy / place.format(**names)
    before = source.read_text() if source.exists() else ""
    source.write_text(f"{before}\n{line.format(**names)}\nfrom math import pi\n")
    if place == "new_module.py":
        (copy / "answer.py").write_text("from .new_module import anything\n")
    assert len(wrong_arrows(copy)) == 1


def test_files_stay_small() -> None:
    long = {str(f.relative_to(PACKAGE)): n for f in PACKAGE.rglob("*.py") if (n := f.read_text().count("\n")) > 400}
    assert not long


def test_import_is_light(tmp_path: Path) -> None:
    """Optional and heavy packages stay out of `import limelight`; beyond torch it takes under a processor's second.

    As after an installation, when the first import has compiled it."""
    optional = ("torchvision", "timm", "skimage", "matplotlib", "typer", "rich", "PIL.Image")
    script = (
        "import torch, time, sys; start = time.process_time(); import limelight; "
        f"print(time.process_time() - start); print(*[m for m in {optional} if m in sys.modules])"
    )
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    compiled["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    for _ in range(3):  # what shares the processor's caches only adds to the time, so the least counts
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=compiled)
        took, loaded = done.stdout.split("\n")[:2]
        assert not loaded
        if float(took) < 1:
            return
    raise AssertionError(took)


def test_public_names_exist_and_are_sorted() -> None:
    assert ll.__all__ == sorted(ll.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    for name in ll.__all__:
        assert getattr(ll, name) is not None
    for method in ll.METHODS:
        assert getattr(ll, method.__name__) is method
        assert (method.__doc__ and "[" in method.__doc__) or method is ll.Gradient


def test_dir_lists_the_public_names_and_no_plumbing() -> None:
    """Also before and after the late ones are loaded."""
    script = "import limelight as ll; before = dir(ll); [getattr(ll, n) for n in ll.__all__]; print(before == dir(ll))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    shown = {name for name in dir(ll) if not (name.startswith("__") and name.endswith("__"))}
    assert shown == {*ll.__all__, "checks", "lab", "rules", "runs"} - {"__version__"}
    assert "__version__" in dir(ll)


def test_every_key_of_a_docstring_is_in_the_bibliography() -> None:
    keys = set(re.findall(r"@\w+\{(\w+),", BIBLIOGRAPHY.read_text()))
    cited: dict[str, str] = {}
    for source in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                cited |= dict.fromkeys(re.findall(r"\[([a-z]+\d{4}[a-z]*)\]", text), source.name)
    assert len(cited) > 50
    assert not {key: name for key, name in cited.items() if key not in keys}


def test_every_decision_has_its_line_in_the_index() -> None:
    index = (DECISIONS / "README.md").read_text()
    numbers = {path.name[:4] for path in DECISIONS.glob("0*.md")}
    for path in DECISIONS.glob("0*.md"):
        title = path.read_text().partition("\n")[0].removeprefix("# ")
        assert f"[{path.name[:4]}]({path.name}) {title}" in index
    missing = {f"{n:04d}" for n in range(1, int(max(numbers)) + 1)} - numbers
    assert all(number in index for number in missing), "say why a number is missing"


def test_the_version_stands_in_one_place() -> None:
    from importlib.metadata import version

    assert version("limelight") == ll.__version__
    assert f'version = "{ll.__version__}"' not in (PACKAGE.parents[1] / "pyproject.toml").read_text()
