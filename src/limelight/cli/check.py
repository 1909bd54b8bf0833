"""The command `limelight check`: a trust card for each picture and method."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..base.view import View
from ..checks.shared import Shared
from ..evaluation.card import TrustCard, card_about
from ..evaluation.check import CARD, as_mask
from ..evaluation.findings import Findings
from ..methods import GradCAM, Gradient, IntegratedGradients, Method
from ..question.question import Options, question_of
from ..show import drawing_of, save_png, write_html
from ..show.exhibits import pictures_behind
from ..show.explained import Explained, Request, explain_picture, fitting
from .options import read_checks, read_mask, read_methods, read_view, usage
from .pictures import DEMO, Item, find_pictures, for_each_picture
from .question_options import Checks, Images, Mask, QuestionOptions, ViewText, methods_option, takes_question_options
from .terminal import boundary, exit_code, print_lines, progress_on, say

CHECK_METHODS: tuple[Method, ...] = (Gradient(), IntegratedGradients(), GradCAM())


@takes_question_options
def check_command(
    image: Images = None,
    method: Annotated[list[str] | None, methods_option(CHECK_METHODS)] = None,
    check: Checks = None,
    mask: Mask = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", file_okay=False, metavar="DIR", help="A folder to write the cards to as well."),
    ] = None,
    view: ViewText = None,
    *,
    common: QuestionOptions,
) -> None:
    """Test maps and print a trust card for each: hard tests, evidence beside controls, cautions."""
    if not image:
        raise usage("IMAGE", f"give a picture or a folder of pictures, or '{DEMO}' for one to try")
    chosen = read_methods(method) if method else None
    checks = read_checks(check) if check else CARD
    drawn = read_view(view)
    with boundary(common.debug), contextlib.redirect_stdout(sys.stderr):
        common.require_one_baseline()
        loaded = common.load()
        methods = chosen or fitting(loaded, CHECK_METHODS, say)
        request = Request(loaded, methods, common.read(loaded))
        region = read_mask(mask, loaded)

    def work(item: Item, stem: str) -> tuple[Explained, list[TrustCard], list[Path]]:
        with progress_on(item.name, None, common.progress) as report:
            done = explain_picture(item.name, item.open(), request, report)
            panel = done.explanations[0].panel
            options: Options = {**request.options, "progress": report}
            with question_of(loaded, panel[0].inputs, options) as question, Shared(several=len(panel) > 1) as shared:
                true_region = as_mask(region, question.inputs)
                cards = [
                    card_about(question, each, each.method, checks, true_region, shared) for each in panel.values()
                ]
        return done, cards, [] if out is None else _write_cards(cards, stem, out, drawn)

    with boundary(common.debug):
        items = find_pictures(image, common.white)
        failed = for_each_picture(
            items, loaded.name, work, _document, _print, as_json=common.as_json, debug=common.debug
        )
    raise typer.Exit(exit_code(failed, len(items)))


def _write_cards(cards: Sequence[TrustCard], stem: str, folder: Path, view: View | None) -> list[Path]:
    """Write into `folder`: `STEM-METHOD.png` and `.json` for each card, `STEM-CHECK.png` with the pictures behind each
    check, all methods below each other, and `STEM.html` for all."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    names = [each.attribution.name for each in cards]
    for place, (card, name) in enumerate(zip(cards, names, strict=True)):
        path = folder / f"{stem}-{name}{f'-{place}' if names.count(name) > 1 else ''}.json"
        image = path.with_suffix(".png")
        written += [card.save(path), image]
        save_png(card.show(view=view), image)
    for name in dict.fromkeys(each.name for card in cards for each in card.findings):
        some = Findings(each for card in cards for each in card.findings if each.name == name and each.exhibits)
        if some:  # a row for each method
            written.append(some.save(folder / f"{stem}-{name}.png"))
    written.append(folder / f"{stem}.html")
    first = cards[0].attribution
    # A picture has one class here, so a map is one tile.
    tiles = [
        replace(
            each.attribution.tiles(view=view)[0],
            sections=(*each.sections(), *pictures_behind(Findings(each.findings))),
            verdict=each.line,
        )
        for each in cards
    ]
    facts = [("baseline", repr(first.baseline)), ("seed", str(first.seed))]
    write_html(
        written[-1],
        drawing_of(first.inputs[0], bands=view.bands if view else None, clip=True),
        tiles,
        f"Trust cards: {stem}",
        "",
        facts,
    )
    return written


def _document(done: Explained, cards: Sequence[TrustCard], files: Sequence[Path]) -> dict[str, Any]:
    target = done.explanations[0].target
    return {
        "picture": done.name,
        "status": "done",
        "target": {"class": target.index, "label": target.label, "probability": target.probability},
        "cards": [card.to_dict() for card in cards],
        "files": [str(each) for each in files],
    }


def _print(done: Explained, cards: Sequence[TrustCard], files: Sequence[Path]) -> None:
    print_lines(f"{done.name}: {done.explanations[0].target.described()}")
    print_lines(*(f"CAUTION (picture): {each}" for each in done.picture.cautions), "")
    for card in cards:
        print_lines(*card.to_text().splitlines(), "")
    print_lines(*files)
