"""The page of what runs on which architecture: it is what was recorded, and of everything that there is."""

from __future__ import annotations

from zlib import crc32

import pytest

import limelight as ll
from docs.make_coverage import PAGE, columns, page, recorded, row
from tests.zoo.architectures import ZOO


def test_the_page_is_what_was_recorded() -> None:
    rows = recorded()
    assert list(rows) == list(ZOO), "run python -m docs.make_coverage for new architectures"
    assert PAGE.read_text(encoding="utf-8") == page(rows), "coverage.md is out of date: python -m docs.make_coverage"


def test_every_method_has_one_column() -> None:
    for shape in ((3, 64, 64), (16, 9), (3, 4, 32, 32)):
        kinds = [kind for column in columns(shape) for kind in column.kinds]
        assert sorted(kinds, key=ll.METHODS.index) == list(ll.METHODS)
        assert all(type(column.run) in column.kinds for column in columns(shape))


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(ZOO, key=lambda name: crc32(name.encode()))[:6])
def test_rows_are_what_was_recorded(name: str) -> None:
    """Their signs, and not the numbers in their reasons."""
    pytest.importorskip("timm", reason="timm is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    found, known = row(name), recorded()[name]
    assert {title: cell.status for title, cell in found.items()} == {
        title: cell.status for title, cell in known.items()
    }
