"""The work of `limelight check` on one picture, and what it says: trust cards as text, JSON and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.text import Text
from torch import Tensor

from ..base.types import Progress
from ..checks import Check
from ..evaluation.card import TrustCard, card_about
from ..evaluation.check import as_mask
from ..methods import GaussLegendre, GradCAM, Gradient, IntegratedGradients, Method
from ..models.pictures import Picture
from ..question.question import question_of
from ..show import picture_of, save_png, write_html
from ..show.explained import Explained, Request, explain_picture
from .terminal import visible

CHECK_METHODS: tuple[Method, ...] = (Gradient(), IntegratedGradients(GaussLegendre(128)), GradCAM())


def check_picture(
    name: str,
    picture: Picture,
    request: Request,
    checks: tuple[Check, ...],
    mask: Tensor | None,
    progress: Progress,
) -> tuple[Explained, list[TrustCard]]:
    """Explain a picture by each method and test each map. Raises what `explain_picture` raises."""
    done = explain_picture(name, picture, request, progress)
    panel = done.explanations[0].panel
    with question_of(request.model, panel[0].inputs, {**request.options, "progress": progress}) as question:
        region = as_mask(mask, question.inputs)
        cards = [card_about(question, each, each.method, checks, region) for each in panel.values()]
    return done, cards


def write_cards(cards: Sequence[TrustCard], stem: str, folder: Path) -> list[Path]:
    """`STEM-METHOD.png` and `.json` for each card and `STEM.html` for all, in `folder`, each whole or not there."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for place, card in enumerate(cards):
        same = [each.attribution.name for each in cards].count(card.attribution.name) > 1
        path = folder / f"{stem}-{card.attribution.name}{f'-{place}' if same else ''}.json"
        written.append(card.save(path))
        image = path.with_suffix(".png")
        save_png(card.show(), image)
        written.append(image)
    written.append(folder / f"{stem}.html")
    first = cards[0].attribution
    # A picture has one class here, so a map is one tile.
    tiles = [replace(each.attribution.tiles()[0], sections=each.sections()) for each in cards]
    facts = [("baseline", repr(first.baseline)), ("seed", str(first.seed))]
    write_html(written[-1], picture_of(first.inputs[0]), tiles, f"Trust cards: {stem}", "", facts)
    return written


def cards_document(done: Explained, cards: Sequence[TrustCard], files: Sequence[Path]) -> dict[str, Any]:
    """The same for machines."""
    target = done.explanations[0].target
    return {
        "picture": done.name,
        "status": "done",
        "target": {"class": target.index, "label": target.label, "probability": target.probability},
        "cards": [card.to_dict() for card in cards],
        "files": [str(each) for each in files],
    }


def cards_text(done: Explained, cards: Sequence[TrustCard], files: Sequence[Path]) -> Text:
    lines = [f"{visible(done.name)}: {visible(done.explanations[0].target.described())}", ""]
    lines += [line for card in cards for line in [*map(visible, card.to_text().splitlines()), ""]]
    return Text("\n".join([*lines, *(visible(path) for path in files)]))
