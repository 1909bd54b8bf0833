"""Every caution of the source has a row in docs/cautions.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "limelight"
PAGE = (ROOT / "docs" / "cautions.md").read_text(encoding="utf-8")
PHRASES = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
CAUTIONS = {"caution", "not-converged", "incomplete", "plain-gradient", "zero-map"}
# Calls that hand on a note made elsewhere, or text of an attribute: where that text is written.
ELSEWHERE = {
    ("methods/lime.py", "fit.quality"): "which misses most of the score's variance",
    ("question/readings.py", "text(self.kinds[0])"): "outputs are read as",
    ("question/readings.py", "text(read)"): "outputs are read as",
}
HANDED_ON = {"base/notes.py", "base/records.py"}


def strings(node: ast.AST) -> list[str]:
    return [each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def notes() -> Iterator[tuple[str, str, list[str]]]:
    """Each call of Note that may be a caution: its file, its text as written, and all strings of the text."""
    for path in sorted(SOURCE.rglob("*.py")):
        file = path.relative_to(SOURCE).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in [tree, *(each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef))]:
            inner = [each for each in ast.walk(function) if isinstance(each, ast.FunctionDef) and each is not function]
            hidden = {id(each) for other in inner for each in ast.walk(other)}
            for call in ast.walk(function):
                if id(call) in hidden or not isinstance(call, ast.Call) or getattr(call.func, "id", "") != "Note":
                    continue
                kinds = set(strings(call.args[0]))
                if kinds & CAUTIONS or (not kinds and file not in HANDED_ON):
                    yield file, ast.unparse(call.args[1]), followed(call.args[1], function, tree)


def followed(text: ast.expr, function: ast.AST, tree: ast.Module) -> list[str]:
    """The strings of an expression, and of whatever is assigned to its names in the function or the module."""
    found, names, seen = strings(text), [each.id for each in ast.walk(text) if isinstance(each, ast.Name)], set()
    while names:
        name = names.pop()
        if name in seen:
            continue
        seen.add(name)
        for each in [*ast.walk(function), *tree.body]:
            if isinstance(each, ast.Assign | ast.AugAssign):
                targets = each.targets if isinstance(each, ast.Assign) else [each.target]
                if any(isinstance(part, ast.Name) and part.id == name for one in targets for part in ast.walk(one)):
                    found += strings(each.value)
                    names += [part.id for part in ast.walk(each.value) if isinstance(part, ast.Name)]
    return found


CALLS = [*notes()]


def test_the_source_has_cautions_and_the_page_rows() -> None:
    assert len(CALLS) > 30 and len(PHRASES) == len(set(PHRASES)) > 30


@pytest.mark.parametrize(("file", "written", "found"), CALLS, ids=[f"{f}-{i}" for i, (f, _, _) in enumerate(CALLS)])
def test_every_caution_has_a_row(file: str, written: str, found: list[str]) -> None:
    phrase = ELSEWHERE.get((file, written))
    assert phrase in PHRASES if phrase else any(each in text for each in PHRASES for text in found), (
        f"{file}: no row of docs/cautions.md begins with words of {found}"
    )


def test_every_row_is_of_a_caution() -> None:
    """So that a text that changes takes its row along."""
    source = [text for path in SOURCE.rglob("*.py") for text in strings(ast.parse(path.read_text(encoding="utf-8")))]
    assert not [phrase for phrase in PHRASES if not any(phrase in text for text in source)]
