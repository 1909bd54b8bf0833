"""Texts of several lengths: every figure is that of the text alone, whatever its neighbours and their padding."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll

from ..text_models import seeded, words
from .test_properties import SHORT

TEXTS = ["the cat sat", "a quick recipe for chocolate cake with butter, sugar and cocoa", "Paris is the capital"]
CLASSES = [1, 0, 2]
CHECKS = tuple(kind(**SHORT.get(kind, {})) for kind in ll.CHECKS)


class Masked(nn.Module):
    """Scores of the mean state of a text's tokens, padding left out."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(60, 6)
        self.state = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        present = attention_mask.to(self.head.weight)[..., None]
        states = (2 * self.state(self.table(ids))).tanh() * present
        found: Tensor = self.head(states.sum(1) / present.sum(1))
        return found


class Unmasked(Masked):
    def forward(self, ids: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(ids, torch.ones_like(ids[..., 0] if ids.ndim > 2 else ids))


def model(kind: type[nn.Module] = Masked) -> ll.TextModel:
    return ll.TextModel(seeded(kind), words(), embedding="table", labels=("bad", "good", "neither"), name="masked")


def masks() -> Tensor:
    found = torch.zeros(3, 14, dtype=torch.bool)
    found[:, 1:3] = True
    return found


def alone(i: int, method: Any, checks: Any, **options: Any) -> ll.evaluation.findings.Findings:
    length = len(words().encode(TEXTS[i]).ids)
    given: dict[str, Any] = {"target": CLASSES[i], "mask": masks()[i : i + 1, :length], **options}
    return ll.check(model(), [TEXTS[i]], method, checks, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["integrated-gradients", "occlusion"])
def test_every_figure_is_that_of_the_text_alone(method: str) -> None:
    texts: Any = TEXTS
    together = ll.check(model(), texts, method, CHECKS, target=CLASSES, mask=masks())
    each = [alone(i, method, CHECKS) for i in range(3)]
    assert sum(not bool(found.value.isnan().all()) for found in together) > 20
    for k, found in enumerate(together):
        parts = [one[k] for one in each]
        expected = torch.cat([part.value for part in parts])
        torch.testing.assert_close(found.value, expected, atol=1e-9, rtol=1e-7, equal_nan=True, msg=found.name)
        assert found.reasons == tuple(part.reasons[0] for part in parts)
        assert found.forward_rows == sum(part.forward_rows for part in parts), found.name
        judged = [part.each for part in parts]
        if found.each is not None:
            assert found.each.tolist() == [one is not None and bool(one[0]) for one in judged]
            assert found.passed == (None if expected.isnan().all() else all(p.passed is not False for p in parts))


def test_finished_maps_of_texts_of_several_lengths_are_checked() -> None:
    texts: Any = TEXTS
    own = ll.explain(model(), texts, "occlusion", target=CLASSES)
    checks = [ll.Deletion(), ll.Gini(), ll.RelevanceMass()]
    by_method = ll.check(model(), texts, "occlusion", checks, target=CLASSES, mask=masks())
    given: Any
    for subject, given in (
        (own, masks()),
        (own.values, masks().numpy()),
        (own.values.numpy(), masks().tolist()),
    ):
        found = ll.check(model(), texts, subject, checks, target=CLASSES, mask=given)
        for ours, theirs in zip(found, by_method, strict=True):
            torch.testing.assert_close(ours.value, theirs.value)


def test_cards_and_tables_join_the_lengths() -> None:
    texts: Any = TEXTS
    checks = [ll.Completeness(), ll.Deletion(), ll.Gini()]
    card = ll.trust_card(model(), texts, "integrated-gradients", checks, target=CLASSES)
    cards = [
        ll.trust_card(model(), [text], "integrated-gradients", checks, target=c)  # type: ignore[arg-type]
        for text, c in zip(TEXTS, CLASSES, strict=True)
    ]
    assert card.attribution.inputs.shape[0] == 3 and len(card.attribution.texts) == 3
    for k, found in enumerate(card.findings):
        assert found.value.tolist() == pytest.approx([float(each.findings[k].value) for each in cards])
    for name in ("random-map", "constant-map"):
        each = [float(one.controls[name]["deletion"].value) for one in cards]
        assert card.controls[name]["deletion"].value.tolist() == pytest.approx(each)
    assert card.verdict.word and card.to_text()
    table = ll.evaluate(model(), texts, ["integrated-gradients", "occlusion"], checks, target=CLASSES)
    assert list(table) == ["integrated-gradients", "occlusion", "random-map", "constant-map"]
    assert table["integrated-gradients"]["deletion"].mean == pytest.approx(card.findings[1].mean)
    assert "texts" in table.refused["sobel-edges"]


def test_two_checks_of_one_name_have_their_controls() -> None:
    """Of texts the fill is the baseline's, which the card's column names too."""
    text: Any = TEXTS[0]
    card = ll.trust_card(model(), text, "occlusion", [ll.Deletion(), ll.Deletion(steps=2)], target=1)
    for each in card.evidence:
        assert each.check.fill == ll.Token("[MASK]")  # type: ignore[attr-defined]
        assert set(card.beats(each)) == {"random-map", "constant-map"}


def test_a_method_that_refuses_one_length_has_no_figure_for_it() -> None:
    """Exact Shapley values take 16 players at most; the longest of the texts has more."""
    texts: Any = [*TEXTS, " ".join(["the cat"] * 10)]
    table = ll.evaluate(model(), texts, ["exact-shapley", "occlusion"], [ll.Gini()], target=1)
    cell = table["exact-shapley"]["gini"]
    assert cell.n == 3 and math.isnan(float(cell.finding.value[3])) and "16" in cell.finding.reasons[3]
    assert not table["occlusion"]["gini"].finding.value.isnan().any()


def test_a_model_without_a_mask_is_checked_length_by_length() -> None:
    texts: Any = TEXTS
    found = ll.check(model(Unmasked), texts, "occlusion", ll.Gini())[0]
    assert not found.value.isnan().any()
