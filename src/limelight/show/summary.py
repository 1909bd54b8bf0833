"""The first screen of a report: what the model said, what the maps agree on, and which of them held up."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ..base.attribution import Panel
from ..base.notes import Place
from ..evaluation.agreement import Agreement
from ..question.readings import confidences
from ..question.target_words import class_words, in_words
from .image import fit

WORDS = {
    "holds up": "hold up",
    "in doubt": "are in doubt",
    "does not hold up": "do not hold up",
    "not tested": "were not tested",
}
"""The verdicts of trust cards, in the order that the summary lists them in, and each of several maps."""

_MOST_CLASSES = 5
_LINE = 2  # pixels of the outline; its dark edge is twice as wide


@dataclass(frozen=True, eq=False)
class Summary:
    """What the first screen says of one question, in words and figures.

    `said`: the model's answer in one line. `explained`: the target and its score in one sentence. `classes`: the
    model's first classes and their probabilities. `agreed`: one to three sentences on the maps' agreement. `region`
    `(H, W)`: the consensus, to be outlined on the picture, or None. `furthest`: the titles of the two maps that differ
    most, where the maps disagree, with their rank correlation. `held`: the titles of the maps by what WORDS say of
    them.
    """

    said: str
    explained: str = ""
    classes: tuple[tuple[str, float], ...] = ()
    agreed: str = ""
    region: Tensor | None = None
    furthest: tuple[str, str, float] | None = None
    held: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def payload(self) -> dict[str, Any]:
        """Return JSON values: the region as base64 of one bit a pixel, row after row."""
        region = None
        if self.region is not None:
            packed = np.packbits(self.region.cpu().numpy().astype(bool).ravel())
            region = {"shape": list(self.region.shape), "bits": base64.b64encode(packed.tobytes()).decode("ascii")}
        return {
            "said": self.said,
            "explained": self.explained,
            "classes": [list(each) for each in self.classes],
            "agreed": self.agreed,
            "region": region,
            "furthest": None if self.furthest is None else list(self.furthest),
            "held": [[word, list(names)] for word, names in self.held],
        }


def summary_of(
    answer: tuple[str, str],
    classes: Sequence[tuple[str, float]] = (),
    agreement: Agreement | None = None,
    verdicts: Mapping[str, str] = {},
    example: Place = 0,
) -> Summary:
    """Sum up the maps of one question.

    `answer`: `said` and `explained`. `classes`: names and probabilities; unknown probabilities (NaN) are left out.
    `verdicts`: the word of each map's trust card by its title; maps without one were not tested.
    """
    known = tuple((name, share) for name, share in classes if not math.isnan(share))[:_MOST_CLASSES]
    held = tuple(
        (plural, names)
        for word, plural in WORDS.items()
        if (names := tuple(name for name, found in verdicts.items() if found == word))
    )
    if agreement is None:
        return Summary(*answer, known, held=held)
    region = agreement.region_of(example)
    return Summary(
        *answer,
        known,
        agreement.in_words(example),
        region if region.ndim == 2 and bool(region.any()) else None,
        _furthest(agreement, example),
        held,
    )


def summary_of_panel(panel: Panel, example: int = 0) -> Summary:
    """Sum up a panel whose model's labels and tests are not known. Its examples have one target each."""
    first = panel[0]
    target: Any = first.target
    named = class_words(int(target[example])) if isinstance(target, Tensor) else in_words(target)
    classes: list[tuple[str, float]] = []
    if first.outputs is not None and first.outputs.ndim == 2 and first.outputs.shape[1] > 1:
        outputs = first.outputs[example].double()
        likely = confidences(outputs, first.output_kinds[example] if first.output_kinds else "score")
        order = outputs.argsort(descending=True, stable=True)[:_MOST_CLASSES].tolist()
        classes = [(class_words(index), float(likely[index])) for index in order]
    agreement = Panel.agreement(panel) if len(panel) > 1 else None
    return summary_of(answer_in_words(named, float(first.score[example]), classes), classes, agreement, example=example)


def answer_in_words(target: str, score: float, classes: Sequence[tuple[str, float]]) -> tuple[str, str]:
    """Say what the model answered, from its first class down, and what the maps explain.

    >>> answer_in_words("tabby (281)", 9.2471, [("tabby (281)", 0.395)])
    ('The model says tabby (281), 39.5%', 'The maps explain its score, 9.247.')
    """
    name, share = classes[0] if classes else ("", math.nan)
    if not name:
        return f"The maps explain {target}", f"Its score is {score:.4g}."
    said = f"The model's largest output is {name}" if math.isnan(share) else f"The model says {name}, {share:.1%}"
    if name == target:
        return said, f"The maps explain its score, {score:.4g}."
    also = next((f", {p:.1%}" for each, p in classes if each == target and not math.isnan(p)), "")
    return said, f"The maps explain {target}{also}, score {score:.4g}."


def _furthest(agreement: Agreement, example: Place) -> tuple[str, str, float] | None:
    """Return the two maps to show side by side; None where the maps do not disagree."""
    pair = agreement.furthest(example)
    if pair is None or agreement.word(example) != "disagree":
        return None
    return (*pair, agreement.correlation(pair, example))


def outlined(picture: Image.Image, region: Tensor, side: int) -> Image.Image:
    """Draw the picture with the outline of a region `(H, W)`, white with a dark edge, `side` pixels or so large."""
    shown = fit(picture.convert("RGB"), side)
    mask = F.interpolate(region[None, None].float(), size=shown.size[::-1], mode="nearest")[0, 0].bool()
    return _drawn(shown, mask)


def _drawn(shown: Image.Image, mask: Tensor) -> Image.Image:
    draw = ImageDraw.Draw(shown)
    padded = F.pad(mask, (1, 1, 1, 1))
    across = (padded[1:-1, 1:] != padded[1:-1, :-1]).nonzero().tolist()  # edges left of a pixel
    down = (padded[1:, 1:-1] != padded[:-1, 1:-1]).nonzero().tolist()  # edges above it
    lines = [((x, y), (x, y + 1)) for y, x in across] + [((x, y), (x + 1, y)) for y, x in down]
    for colour, width in (((20, 20, 24), 2 * _LINE), ((255, 255, 255), _LINE)):
        for start, end in lines:
            draw.line((start, end), fill=colour, width=width)
    return shown
