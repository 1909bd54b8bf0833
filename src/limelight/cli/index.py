"""The index page of several pictures: a line for each, with a thumbnail and sortable columns of test results."""

from __future__ import annotations

import base64
import io
import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import quote

from PIL import Image

from ..base.files import replacing
from ..evaluation.findings import Finding
from ..show import picture_of
from ..show.assets import asset, words
from ..show.explained import Explained, Explanation
from ..show.html import page_opening

INDEX = "index"
"""The stem of the index, which no picture's files may use."""

_THUMBNAIL = 96  # pixels


class Index:
    """Lines in the order of the pictures, kept in a file so that memory does not grow with their number."""

    def __init__(self, lines: IO[str]) -> None:
        self._lines = lines
        self.columns: tuple[tuple[str, str], ...] = ()  # (method, check)
        self.done = self.failed = 0

    def add(self, done: Explained, stem: str) -> None:
        """Add a line for each class of a picture whose page is `STEM.html`."""
        for explanation in done.explanations:
            tests = explanation.tests
            self.columns = self.columns or tuple((name, each.name) for name, found in tests.items() for each in found)
            self._lines.write(_line(done, explanation, stem))
        self.done += 1

    def fail(self, name: str, reason: str) -> None:
        why = _text(reason.removeprefix(f"{name}: "))
        self._lines.write(f'<tr class="failed"><td></td><td>{_text(name)}</td><td colspan="99">{why}</td></tr>\n')
        self.failed += 1


@contextmanager
def index_in(out: Path, wanted: bool) -> Iterator[Index]:
    """Collect lines; when the block ends, also by an error, write `OUT/index.html` if any picture was explained."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as lines:
        index = Index(lines)
        try:
            yield index
        finally:
            if wanted and index.done:
                _write(out / f"{INDEX}.html", index, lines)


def _write(path: Path, index: Index, lines: IO[str]) -> None:
    """Write the page line by line; on failure nothing is left."""
    lines.seek(0)
    with replacing(path) as part, part.open("w", encoding="utf-8", errors="replace") as page:
        page.write(_opening(index))
        shutil.copyfileobj(lines, page)
        page.write(f"</tbody></table></div></div><script>{asset('index.js')}</script></body></html>\n")


def _opening(index: Index) -> str:
    methods = dict.fromkeys(method for method, _ in index.columns)
    options = "".join(f"<option>{words(each)}</option>" for each in methods)
    heads = "".join(
        f'<th data-method="{words(method)}"><button type="button">{words(method)}<br>{words(check)}</button></th>'
        for method, check in index.columns
    )
    failed = f", {index.failed} failed" if index.failed else ""
    return (
        page_opening(f"limelight: {index.done} pictures", asset("viewer.css") + asset("index.css"), asset("index.js"))
        + f'<body><div class="limelight"><h2>{index.done} pictures explained{failed}</h2>\n'
        f'<form class="controls"><label><span>tests of</span><select><option value="">all methods</option>{options}'
        "</select></label></form>\n"
        '<div class="scroll"><table><thead><tr><th></th><th><button type="button">picture</button></th>'
        '<th><button type="button">class explained</button></th><th><button type="button">probability</button></th>'
        f"{heads}</tr></thead><tbody>\n"
    )


def _line(done: Explained, explanation: Explanation, stem: str) -> str:
    target = explanation.target
    link = quote(f"{stem}.html")
    thumbnail = _thumbnail(picture_of(explanation.panel[0].inputs[0]))
    probability = "-" if math.isnan(target.probability) else f"{target.probability:.1%}"
    cells = "".join(_cell(each) for found in explanation.tests.values() for each in found)
    return (
        f'<tr><td><a href="{link}" tabindex="-1" aria-hidden="true"><img alt="" src="{thumbnail}"></a></td>'
        f'<td data-value="{_text(done.name)}"><a href="{link}">{_text(done.name)}</a></td>'
        f'<td data-value="{_text(target.named)}">{_text(target.named)}</td>'
        f'<td data-number="{_number(target.probability)}">{probability}</td>{cells}</tr>\n'
    )


def _cell(finding: Finding) -> str:
    if math.isnan(finding.mean):
        return f'<td data-number="" title="{_text(finding.reason)}">-</td>'
    kind, mark = {True: ("good", ""), False: ("bad", " FAIL"), None: ("", "")}[finding.passed]
    return f'<td class="{kind}" data-number="{_number(finding.mean)}">{finding.mean:.3g}{mark}</td>'


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""


def _text(text: str) -> str:
    return words(text).replace("\n", " ")


def _thumbnail(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
