"""Every public name has an entry in the reference, with a source where it is a method, and an example that runs."""

from __future__ import annotations

import doctest
import inspect
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

import limelight as ll
from limelight import rules
from limelight.methods.families import OWN, family_of

DOCS = Path(__file__).parents[1] / "docs"
REFERENCE: dict[str, Any] = runpy.run_path(str(DOCS / "make_reference.py"))
EXAMPLES: dict[str, str] = REFERENCE["examples"]()
HEAVY = {"Run", "audit", "Audit"}  # they explain folders
METHODS = [kind.__name__ for kind in ll.METHODS]


def setup(example: str = "") -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    exec(REFERENCE["setup"](example), names)
    return names


def test_every_public_name_has_one_entry() -> None:
    pages = REFERENCE["pages"]()
    entries = re.findall(r"^### (\w+) \{ #", "\n".join(pages.values()), re.MULTILINE)
    entries += [name for name, (title, _, _) in REFERENCE["REGISTRIES"].items() if f"{title.lower()}.md" in pages]
    assert not set(ll.__all__) - {*entries, "__version__"}
    public = [
        name for page, text in pages.items() if page != "rules.md" for name in re.findall(r"^### (\w+)", text, re.M)
    ]
    assert sorted(public) == sorted(set(public))


def test_every_method_has_a_family() -> None:
    assert not [kind.__name__ for kind in ll.METHODS if family_of(kind) == OWN]


def test_every_rule_has_an_entry() -> None:
    page = REFERENCE["pages"]()["rules.md"]
    mine = [n for n, each in vars(rules).items() if n[0] != "_" and (inspect.isclass(each) or inspect.isfunction(each))]
    assert not [name for name in mine if f"### {name} {{" not in page]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_its_source_and_shows_an_example(name: str) -> None:
    text = inspect.getdoc(getattr(ll, name)) or ""
    assert re.search(r"\[\w+\d{4}\w*", text), f"{name}: the docstring cites no paper"
    assert f"ll.{name}(" in "\n".join(re.findall(r"^\s*>>> (.*)$", text, re.MULTILINE)), f"{name}: no example of it"


@pytest.mark.parametrize("name", METHODS)
def test_the_example_of_a_method_gives_what_it_says(name: str) -> None:
    text = inspect.getdoc(getattr(ll, name)) or ""
    test = doctest.DocTestParser().get_doctest(text, setup(), name, None, None)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert not said, "".join(said)


def test_all_others_have_an_example() -> None:
    assert not sorted(set(ll.__all__) - {*EXAMPLES, *METHODS, "__version__"})
    assert not sorted(set(EXAMPLES) - {*ll.__all__, "rules"})


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in HEAVY else name for name in EXAMPLES]
)
def test_an_example_runs(name: str) -> None:
    """By itself, after the lines that the page begins with."""
    for library, word in {"tokenizers": "writer", "tokenizers ": "tokenizers", "skimage": "demo_image"}.items():
        if word in EXAMPLES[name]:
            pytest.importorskip(library.strip())
    if name in ("Slic", "Felzenszwalb"):
        pytest.importorskip("skimage")
    exec(compile(EXAMPLES[name], f"{name} in examples.py", "exec"), setup(EXAMPLES[name]))


def test_docstrings_become_markdown() -> None:
    sys.path.insert(0, str(DOCS))
    try:
        docstrings = runpy.run_path(str(DOCS / "docstrings.py"))
    except ImportError:
        pytest.skip("griffe is not installed: pip install limelight[docs]")
    finally:
        sys.path.remove(str(DOCS))
    assert docstrings["with_code_blocks"]("A.\n\n>>> 1 + 1\n2\n\nB.") == "A.\n\n\n```pycon\n>>> 1 + 1\n2\n```\n\nB."
    assert docstrings["with_links"]("as in [smilkov2017]", "p.md") == "as in [smilkov2017](p.md#smilkov2017)"
    assert docstrings["with_links"]("a[2017] and `[a2017]`", "p.md") == "a[2017] and `[a2017]`"
