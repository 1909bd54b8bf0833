"""On linear models the true map is known: it beats its negative under every check, target and sign of the score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.checks import Blurred, Imputer, MeanColour, NoisyLinear
from limelight.question.output_targets import Function
from limelight.question.random_streams import Streams
from limelight.question.registries import TARGETS

D = torch.float64
SIDE = 6
GAUSSIAN = ll.Infidelity("gaussian", samples=16)
FAITHFULNESS: tuple[ll.Check, ...] = (
    *(ll.Deletion(steps=6), ll.Insertion(steps=6), ll.SRG(steps=6), ll.PixelFlipping(region=2, steps=None)),
    *(ll.ROAD(), ll.ROAD(order="morf"), ll.ROAD(order="lerf"), ll.IROF(segments=2)),
    *(ll.Infidelity(samples=16), GAUSSIAN, ll.SensitivityN(samples=12)),
    ll.FaithfulnessCorrelation(samples=16),
)


def weights() -> Tensor:
    """Weights `(1, 3, side, side)` whose mean is 0 in each channel, as that of the pictures, so that fills are 0."""
    w = torch.randn(1, 3, SIDE, SIDE, dtype=D, generator=torch.Generator().manual_seed(0))
    return w - w.mean((2, 3), keepdim=True)


def pictures() -> Tensor:
    """Pictures at which w x is 3, -3, 1e-9 and -1e-9."""
    x = torch.randn(4, 3, SIDE, SIDE, dtype=D, generator=torch.Generator().manual_seed(1))
    x = x - x.mean((2, 3), keepdim=True)
    w = weights()
    wanted = torch.tensor([3.0, -3.0, 1e-9, -1e-9], dtype=D)
    return x + (wanted - (w * x).flatten(1).sum(1)).view(-1, 1, 1, 1) * w / w.square().sum()


class Linear(nn.Module):
    """The sum u = w x, times `scale`, in the place of the outputs that a target reads."""

    def __init__(self, form: str = "logits", scale: float = 1.0) -> None:
        super().__init__()
        self.form = form
        self.product = nn.Conv2d(3, 1, SIDE, bias=False).to(D)
        with torch.no_grad():
            self.product.weight.copy_(scale * weights())

    def forward(self, x: Tensor) -> Any:
        u = self.product(x).flatten(1)
        one = torch.ones_like(u)
        if self.form == "logits":
            return torch.cat([u, -u], 1)
        if self.form == "map":
            return (u[:, :, None, None] * torch.eye(4, dtype=D)).expand(-1, 2, 4, 4)
        if self.form == "embedding":  # the cosine with (1, 0) rises with u
            return torch.cat([u, one], 1)
        if self.form == "regression":
            return u
        score = (u / 100 + 0.5)[:, None]
        boxes = torch.tensor([[[1.0, 1.0, 4.0, 4.0]]], dtype=D).expand(len(x), 1, 4)
        return [
            {"boxes": b, "scores": s[0], "labels": torch.zeros(1, dtype=torch.long)}
            for b, s in zip(boxes, score, strict=True)
        ]


# Each target's score is a rising function of u.
TARGET_CASES: dict[str, tuple[str, Any]] = {
    "logit": ("logits", ll.Logit(0)),
    "a regressor": ("regression", ll.Logit(0)),
    "probability": ("logits", ll.Probability(0)),
    "log-probability": ("logits", ll.LogProbability(0)),
    "margin": ("logits", ll.Margin(0)),
    "margin of two": ("logits", ll.Margin(0, other=1)),
    "centred-logit": ("logits", ll.CentredLogit(0)),
    "region": ("map", ll.Region(torch.eye(4), 0)),
    "region, mean, each": ("map", ll.Region(torch.eye(4).expand(4, 4, 4), 0, "mean")),
    "box": ("detections", ll.Box(1, 1, 4, 4)),
    "boxes": ("detections", ll.Box(torch.tensor([[1.0, 1.0, 4.0, 4.0]] * 4))),
    "detection": ("detections", ll.Detection(0)),
    "similarity": ("embedding", ll.Similarity([1.0, 0.0])),
    "similarity, each": ("embedding", ll.Similarity([[1.0, 0.0]] * 4)),
    "neuron": ("logits", ll.Neuron("product", channel=0)),
    "next token": ("logits", ll.NextToken(0)),
    "function": ("logits", lambda z: 2 * z[:, 0]),
}


def test_every_target_has_a_case() -> None:
    covered = {type(target) for _, target in TARGET_CASES.values()}
    # A continuation needs a model of texts: tests/test_texts.py. Entropy falls on both sides of u = 0.
    others = {ll.Continuation, ll.PredictiveEntropy, Function}
    assert set(TARGETS) - others <= covered


def exact(check: ll.Check) -> Tensor:
    """The true map: each feature's share of u, or its slope where the check reads slopes."""
    return weights().expand(4, -1, -1, -1) if check == GAUSSIAN else weights() * pictures()


def figures(model: nn.Module, check: ll.Check, target: Any, values: Tensor) -> Tensor:
    found = ll.check(model, pictures(), values, check, target=target)[0]
    assert not found.value.isnan().any(), found.reason
    return found.value * (1 if check.better == "higher" else -1)


# Other spellings of a target that is among the cases: in the long run.
SPELLINGS = ("a regressor", "margin of two", "region, mean, each", "boxes", "similarity, each")


@pytest.mark.parametrize("check", FAITHFULNESS, ids=repr)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in SPELLINGS else ()) for name in TARGET_CASES]
)
def test_the_exact_map_beats_its_negative(check: ll.Check, name: str) -> None:
    form, target = TARGET_CASES[name]
    model, values = Linear(form), exact(check)
    assert (figures(model, check, target, values) > figures(model, check, target, -values)).all()


@pytest.mark.parametrize("check", FAITHFULNESS, ids=repr)
@pytest.mark.parametrize("scale", [1e-8, 1e6])
def test_the_size_of_the_scores_does_not_matter(check: ll.Check, scale: float) -> None:
    model, values = Linear("regression", scale), scale * exact(check)
    assert (figures(model, check, ll.Logit(0), values) > figures(model, check, ll.Logit(0), -values)).all()


@pytest.mark.parametrize("check", [each for each in FAITHFULNESS if not isinstance(each, ll.Deletion | ll.Insertion)])
@pytest.mark.parametrize("offset", [5.0, -5.0])
def test_a_constant_in_the_score_changes_nothing_of_the_order(check: ll.Check, offset: float) -> None:
    values, target = exact(check), lambda z: z[:, 0] + offset
    assert (figures(Linear(), check, target, values) > figures(Linear(), check, target, -values)).all()


# What is no comparison of the order or the size of a map's values with what hiding costs, and so need not rank the two.
OTHERS: dict[type[ll.Check], str] = {
    ll.AverageDrop: "blends each pixel by its share of the map's range, which one large value decides",
    ll.IncreaseInConfidence: "counts where the score rises, which both may do",
    ll.ADCC: "is of AverageDrop",
    ll.ARCC: "explains again; tested with a method in test_kept",
    ll.FineDetail: "compares bright pixels with dark ones beside them, by their own sizes",
}


def test_every_check_of_faithfulness_is_tested() -> None:
    listed = {type(each) for each in FAITHFULNESS}
    faithful = {kind for kind in ll.CHECKS if kind.kind == "faithfulness"}
    assert listed | OTHERS.keys() == faithful and not listed & OTHERS.keys()


FILLS: tuple[Imputer, ...] = (MeanColour(), Blurred(3, 1.0), NoisyLinear())


def filled_by(check: ll.Check, fill: Imputer) -> ll.Check | None:
    """The check with another fill; None for one that has its own."""
    if isinstance(check, ll.SRG):
        return replace(check, imputers=(fill,))
    return replace(check, fill=fill) if "fill" in vars(check) and check != GAUSSIAN else None


FILLED = [(filled, fill) for fill in FILLS for each in FAITHFULNESS if (filled := filled_by(each, fill)) is not None]


def beats_its_negative(check: ll.Check, fill: Imputer, name: str) -> None:
    """Hiding pixel p of a sum costs w_p (x_p - b_p), which is the map; of pictures that are not 0 in the mean.

    Linear imputation has no b of its own: near the mean of a picture of noise.
    """
    form, target = TARGET_CASES[name]
    x = pictures() + torch.tensor([0.5, -0.3, 2.0], dtype=D).view(1, 3, 1, 1)  # w of a constant is 0
    b = fill.hiding(x, Streams.of(x, 0))(torch.ones_like(x, dtype=torch.bool), 0)
    better = [
        ll.check(Linear(form), x, sign * weights() * (x - b), check, target=target)[0].value for sign in (1.0, -1.0)
    ]
    sign = 1 if check.better == "higher" else -1
    assert (sign * better[0] > sign * better[1]).all(), (name, better)


@pytest.mark.parametrize(("check", "fill"), FILLED, ids=repr)
def test_it_does_so_with_other_fills(check: ll.Check, fill: Imputer) -> None:
    beats_its_negative(check, fill, "margin")


@pytest.mark.long
@pytest.mark.parametrize("name", TARGET_CASES)
@pytest.mark.parametrize(("check", "fill"), FILLED, ids=repr)
def test_it_does_so_for_every_target(check: ll.Check, fill: Imputer, name: str) -> None:
    beats_its_negative(check, fill, name)


def test_irof_is_the_papers_where_a_probability_falls_and_bounded_elsewhere() -> None:
    x = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=D)
    for sign in (1.0, -1.0):
        net: Callable[[Tensor], Tensor] = lambda rows, sign=sign: sign * rows.sum(1, keepdim=True)  # noqa: E731
        found = ll.check(net, x, sign * x, ll.IROF(fill=0.0), target=0)[0]
        # 1 - f_k / f_0: .4, .7, .9, 1; for the negative score the least negative goes first, and all falls are rises.
        assert float(found.value) == pytest.approx(0.75 if sign > 0 else -(0.1 + 0.3 + 0.6 + 1) / 4)
    nothing = ll.check(lambda rows: 0 * rows.sum(1, keepdim=True), x, x, ll.IROF(fill=0.0), target=0)[0]
    assert nothing.value.isnan().all() and "is 0, whatever goes" in nothing.reason


# Closed forms: hiding feature i of f = x'Qx + w'x takes g_i = 2 x_i (Q x)_i - Q_ii x_i^2 + w_i x_i.
Q = torch.tensor([[1.0, 0.5, 0.0], [0.5, -2.0, 0.25], [0.0, 0.25, 3.0]], dtype=D)
W = torch.tensor([1.0, -1.0, 2.0], dtype=D)
V = torch.tensor([[1.0, 2.0, -0.5], [0.5, 1.0, 2.0]], dtype=D)


class Quadratic(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return ((x @ Q) * x).sum(1, keepdim=True) + (x @ W)[:, None]


def test_completeness_of_a_quadratic_is_exact_for_integrated_gradients_and_not_for_input_x_gradient() -> None:
    found = ll.check(Quadratic(), V, "integrated-gradients", ll.Completeness(), target=0, baseline=0.0)[0]
    assert found.passed is True and found.value.tolist() == [0, 0]
    # x (2 Q x + w) sums to f(x) + x'Qx: it misses by x'Qx / f(x).
    a = ll.explain(Quadratic(), V, "integrated-gradients", target=0, baseline=0.0)
    quadratic = ((V @ Q) * V).sum(1)
    object.__setattr__(a, "values", V * (2 * V @ Q + W))
    found = ll.check(Quadratic(), V, a, ll.Completeness(), target=0)[0]
    torch.testing.assert_close(found.value, (quadratic / (quadratic + V @ W)).abs())
    assert found.passed is False


def test_infidelity_of_a_quadratic() -> None:
    """Patches of one feature: the mean over them of (A_i - g_i)^2, for IG's map A = x (Q x + w)."""
    alone = 2 * V * (V @ Q) - Q.diag() * V.square() + V * W
    expected = (V * (V @ Q + W) - alone).square()
    check = ll.Infidelity(samples=1000, patch=1)
    found = ll.check(Quadratic(), V, V * (V @ Q + W), check, target=0, baseline=0.0)[0]
    torch.testing.assert_close(found.value, expected.mean(1), rtol=0.12, atol=0)
    torch.testing.assert_close(found.detail["zero map"], alone.square().mean(1), rtol=0.12, atol=0)
    few = ll.Infidelity(samples=16, patch=1)
    maps = (V * (V @ Q + W), "integrated-gradients", alone)
    tensor, method, exact = (ll.check(Quadratic(), V, a, few, target=0, baseline=0.0)[0].value for a in maps)
    torch.testing.assert_close(tensor, method)
    assert exact.max() < 1e-24


def test_infidelity_of_a_linear_model_under_noise() -> None:
    """E (I'(A - w))^2 = (noise range)^2 |A - w|^2."""
    wrong = W + torch.tensor([0.3, 0.0, -0.4], dtype=D)
    linear: Callable[[Tensor], Tensor] = lambda rows: (rows @ W)[:, None]  # noqa: E731
    found = ll.check(linear, V, wrong.expand(2, -1), ll.Infidelity("gaussian", samples=1000), target=0)[0]
    expected = (0.1 * (V.amax(1) - V.amin(1))).square() * 0.25
    torch.testing.assert_close(found.value, expected, rtol=0.12, atol=0)


def test_sensitivity_n_of_a_quadratic() -> None:
    """Sets of one feature: the correlation of A with g over the features drawn; of two, with the falls of pairs."""
    a, pairs = V * (V @ Q + W), [(0, 1), (0, 2), (1, 2)]
    alone = 2 * V * (V @ Q) - Q.diag() * V.square() + V * W
    falls = {
        1: alone,
        2: torch.stack([alone[:, i] + alone[:, j] - 2 * Q[i, j] * V[:, i] * V[:, j] for i, j in pairs], 1),
    }
    sums = {1: a, 2: torch.stack([a[:, i] + a[:, j] for i, j in pairs], 1)}
    for size in (1, 2):
        found = ll.check(Quadratic(), V, a, ll.SensitivityN((size / 3,), samples=500), target=0)[0]
        expected = [float(torch.corrcoef(torch.stack([sums[size][k], falls[size][k]]))[0, 1]) for k in range(2)]
        assert found.value.tolist() == pytest.approx(expected, abs=0.1)


NO_SUM = ("gradient", "occlusion(3, 3)", "rise(masks=64, cells=3)", "smooth-grad(samples=4)")


@pytest.mark.parametrize("method", NO_SUM)
def test_infidelity_never_prefers_a_map_of_zeros(method: str) -> None:
    """Maps that promise no sum are scaled, by no negative factor."""
    x = pictures()[:2]
    zero = ll.check(Linear(), x, torch.zeros_like(x), ll.Infidelity(), target=0)[0]
    found = ll.check(Linear(), x, method, ll.Infidelity(), target=0)[0]
    torch.testing.assert_close(zero.value, zero.detail["zero map"])
    assert (found.value <= zero.value).all() and (found.detail["factor"] >= 0).all()
    assert any("first multiplied" in note for note in found.notes) and not zero.notes
    raw = ll.check(Linear(), x, method, ll.Infidelity(scaled=False), target=0)[0]
    assert (found.value <= raw.value).all() and raw.detail["factor"].tolist() == [1, 1]


def test_infidelity_takes_maps_that_promise_a_sum_as_they_are() -> None:
    found = ll.check(Linear(), pictures(), "integrated-gradients(4)", ll.Infidelity(), target=0, baseline=0.0)[0]
    assert found.detail["factor"].tolist() == [1] * 4 and not found.notes and found.value.max() < 1e-20


def test_infidelity_needs_a_change_of_the_input() -> None:
    """Noise of a share of the range of one number everywhere, and a fill that the picture is: any map would have 0."""
    plain = torch.cat([torch.full_like(pictures()[:1], 0.5), pictures()[:1]])
    for check, x in ((GAUSSIAN, plain), (ll.Infidelity(fill=0.5), plain), (ll.Infidelity(), plain - 0.5)):
        found = ll.check(Linear(), x, torch.ones_like(x), check, target=0)[0]
        assert found.value.isnan().tolist() == [True, False] and "leave this input as it is" in found.reasons[0]
