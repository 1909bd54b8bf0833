"""A rule's answer depends on what the model computes, not on how it is spelled."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.rules import (
    ATTN_LRP,
    CP_LRP,
    DEEPLIFT,
    EXCITATION,
    Propagation,
    UncoveredOperator,
    composite,
    deep_taylor,
    multipliers,
)
from tests.rules.helpers import constant

Function = Callable[[Tensor], Tensor]
RELEVANCE = [ATTN_LRP, CP_LRP]
COMPOSITES = [composite(name) for name in ("epsilon", "epsilon-plus", "gamma")]
DIFFERENCES = list(DEEPLIFT.values())
WEIGHT, EPS = constant(6, seed=9), 1e-6
BEFORE, AFTER = constant(6, 6, seed=1), constant(6, seed=2)


def _values(f: Function, propagation: Propagation, x: Tensor | None = None, reference: float | None = None) -> Tensor:
    """The map of f between two layers, for three rows, against rows or a constant as the reference."""

    def score(rows: Tensor) -> Tensor:
        return f(F.linear(rows, BEFORE, AFTER / 3)).reshape(len(rows), -1).matmul(AFTER)

    x = constant(3, 6, seed=4) if x is None else x
    if not propagation.needs_reference:
        return multipliers(score, x, propagation).values
    x0 = constant(3, 6, seed=5) if reference is None else torch.full_like(x, reference)
    found = multipliers(score, x, propagation, reference=x0)
    assert torch.allclose(found.values.sum(1), found.score - score(x0), rtol=1e-12, atol=1e-12)
    return found.values


def _same(f: Function, g: Function, propagation: Propagation, tolerance: float, reference: float | None = None) -> None:
    a, b = _values(f, propagation, reference=reference), _values(g, propagation, reference=reference)
    assert b.abs().max() > 1e-3
    assert (a - b).abs().max() <= tolerance * b.abs().max()


# Normalisation ----------------------------------------------------------------------------------------------------


def _mean_square(z: Tensor) -> Tensor:
    return z.pow(2).mean(-1, keepdim=True) + EPS


def _in_place(z: Tensor) -> Tensor:
    y = z.clone()
    y *= torch.rsqrt(_mean_square(z))
    return y


def _assigned(z: Tensor) -> Tensor:
    scale = 1 / _mean_square(z).sqrt()
    return scale * z


RMS: dict[str, Function] = {
    "rsqrt": lambda z: z * torch.rsqrt(_mean_square(z)),
    "on the left": lambda z: _mean_square(z).rsqrt() * z,
    "torch.mul": lambda z: torch.mul(z, other=_mean_square(z).rsqrt()),
    "negative power": lambda z: z * _mean_square(z) ** -0.5,
    "pow": lambda z: torch.pow(_mean_square(z), -0.5).mul(z),
    "reciprocal": lambda z: z * _mean_square(z).sqrt().reciprocal(),
    "root of reciprocal": lambda z: z * (1 / _mean_square(z)).sqrt(),
    "power of reciprocal": lambda z: z * _mean_square(z).reciprocal() ** 0.5,
    "assigned": _assigned,
    "in place": _in_place,
    "ones over": lambda z: z * (torch.ones(1, dtype=z.dtype) / _mean_square(z).sqrt()),
    "quotient": lambda z: z / _mean_square(z).sqrt(),
    "torch.div": lambda z: torch.div(z, _mean_square(z).sqrt()),
    "norm": lambda z: z * (z.norm(dim=-1, keepdim=True).square() / 6 + EPS).rsqrt(),
    "mean, unsqueezed": lambda z: z * torch.rsqrt((z * z).mean(-1) + EPS).unsqueeze(-1),
    "indexed": lambda z: z * torch.rsqrt((z**2).mean(-1) + EPS)[:, None],
    "expanded": lambda z: z * torch.rsqrt(_mean_square(z)).expand_as(z),
    "cast": lambda z: (
        (z.to(torch.float64).double() * torch.rsqrt(_mean_square(z.double()))).to(torch.float64).type_as(z)
    ),
    "negated twice": lambda z: -z * -torch.rsqrt(_mean_square(z)),
    "addcmul": lambda z: torch.addcmul(torch.zeros_like(z), z, torch.rsqrt(_mean_square(z))),
    "addcdiv": lambda z: torch.addcdiv(torch.zeros_like(z), z, torch.sqrt(_mean_square(z))),
    "scale in place": lambda z: z * _mean_square(z).rsqrt_(),
    "quotient in place": lambda z: z.clone().div_(_mean_square(z).sqrt_()),
    "aten": lambda z: torch.ops.aten.mul.Tensor(z, torch.ops.aten.rsqrt.default(_mean_square(z))),
    "float_power": lambda z: z * torch.float_power(_mean_square(z), -0.5),
    "transposed": lambda z: (z.T * torch.rsqrt(z.square().sum(-1) / 6 + EPS)).T,
    "half by half": lambda z: torch.cat([part * torch.rsqrt(_mean_square(z)) for part in z.split(3, -1)], -1),
    "masked scale": lambda z: z * torch.rsqrt(_mean_square(z)).masked_fill(torch.zeros(3, 1) > 0, 0.0),
    "einsum": lambda z: torch.einsum("nd,n->nd", z, torch.rsqrt(_mean_square(z))[:, 0]),
    "diagonal matrix": lambda z: torch.diag(torch.rsqrt(_mean_square(z))[:, 0]) @ z,
    "nn.RMSNorm": nn.RMSNorm(6, eps=EPS, dtype=torch.float64).requires_grad_(False),
}


def _layer(z: Tensor) -> tuple[Tensor, Tensor]:
    return z - z.mean(-1, keepdim=True), z.var(-1, keepdim=True, unbiased=False) + EPS


def _var_mean(z: Tensor) -> Tensor:
    variance, mean = torch.var_mean(z, -1, keepdim=True, correction=0)
    return (z - mean) * torch.rsqrt(variance + EPS)


LAYER: dict[str, Function] = {
    "var_mean": _var_mean,
    "rsqrt": lambda z: _layer(z)[0] * torch.rsqrt(_layer(z)[1]),
    "negative power": lambda z: _layer(z)[0] * _layer(z)[1] ** -0.5,
    "quotient": lambda z: _layer(z)[0] / torch.sqrt(_layer(z)[1]),
    "mean square": lambda z: _layer(z)[0] * (_layer(z)[0].pow(2).mean(-1, True) + EPS).rsqrt(),
    "std": lambda z: _layer(z)[0] / (z.std(-1, correction=0, keepdim=True) ** 2 + EPS).sqrt(),
    "normalize": lambda z: F.normalize(_layer(z)[0], dim=-1, eps=0.0) * math.sqrt(6),
}


@pytest.mark.parametrize("propagation", RELEVANCE + DIFFERENCES, ids=lambda p: p.name)
@pytest.mark.parametrize("spelling", RMS)
def test_rms_norm_by_hand_is_rms_norm(spelling: str, propagation: Propagation) -> None:
    _same(RMS[spelling], lambda z: F.rms_norm(z, (6,), eps=EPS), propagation, 1e-12)


@pytest.mark.parametrize("propagation", RELEVANCE + DIFFERENCES, ids=lambda p: p.name)
@pytest.mark.parametrize("spelling", ["rsqrt", "negative power", "quotient", "cast", "assigned", "in place", "einsum"])
def test_a_weight_beside_the_scale_changes_nothing(spelling: str, propagation: Propagation) -> None:
    _same(lambda z: WEIGHT * RMS[spelling](z), lambda z: F.rms_norm(z, (6,), WEIGHT, EPS), propagation, 1e-12)


@pytest.mark.parametrize("propagation", RELEVANCE + DIFFERENCES, ids=lambda p: p.name)
def test_a_weight_on_the_scale_changes_nothing(propagation: Propagation) -> None:
    by_hand: Function = lambda z: z * (WEIGHT * torch.rsqrt(_mean_square(z)))  # noqa: E731
    divided: Function = lambda z: z * (WEIGHT / torch.sqrt(_mean_square(z)))  # noqa: E731
    for f in (by_hand, divided):
        _same(f, lambda z: F.rms_norm(z, (6,), WEIGHT, EPS), propagation, 1e-12)


@pytest.mark.parametrize("propagation", RELEVANCE + DIFFERENCES, ids=lambda p: p.name)
@pytest.mark.parametrize("spelling", LAYER)
def test_layer_norm_by_hand_is_layer_norm(spelling: str, propagation: Propagation) -> None:
    eps = 0.0 if spelling == "normalize" else EPS
    _same(LAYER[spelling], lambda z: F.layer_norm(z, (6,), eps=eps), propagation, 1e-11)


@pytest.mark.parametrize("propagation", [*COMPOSITES, deep_taylor(), EXCITATION], ids=lambda p: p.name)
def test_every_relevance_rule_gives_the_numerator_all(propagation: Propagation) -> None:
    for f, g in ((RMS["rsqrt"], RMS["quotient"]), (LAYER["rsqrt"], LAYER["quotient"])):
        _same(f, g, propagation, 1e-12)


@pytest.mark.parametrize("propagation", [deep_taylor(), composite("epsilon-plus-flat")], ids=lambda p: p.name)
def test_rules_for_first_layers_see_through_a_norm_and_a_product(propagation: Propagation) -> None:
    """They map relevance to the input through what comes before the first layer, by its derivative."""
    x, weight = constant(2, 3, 4, 4), constant(3, 3, 2, 2, seed=1)
    scale: Function = lambda z: z.square().mean(1, keepdim=True) + EPS  # noqa: E731
    by_hand, quotient, product = (
        multipliers(lambda r, f=f: F.conv2d(f(r), weight).sum((1, 2, 3)), x, propagation).values
        for f in (lambda r: r * scale(r).rsqrt(), lambda r: r / scale(r).sqrt(), lambda r: r * scale(r))
    )
    assert torch.allclose(by_hand, quotient, rtol=1e-12) and by_hand.any()
    assert product.isfinite().all() and product.any()


def test_a_norm_of_a_constant_reference_does_not_explode() -> None:
    """63, -9, -87, 32 for a change of -.98 where the reciprocal is a factor of its own."""
    x = torch.tensor([[1.0, -2.0, 0.5, 3.0]], dtype=torch.float64)
    w = torch.tensor([0.3, 0.5, -0.4, -0.1], dtype=torch.float64)
    whole, by_hand = (
        multipliers(lambda r, f=f: torch.mv(f(r), w), x, DEEPLIFT["rescale"], reference=torch.zeros_like(x)).values
        for f in (
            lambda z: F.rms_norm(z, (4,), eps=1e-12),
            lambda z: z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-12),
        )
    )
    assert torch.allclose(whole, by_hand, rtol=1e-12, atol=0)
    assert by_hand.abs().max() < 2


def test_a_scale_of_another_tensor_is_a_denominator_too() -> None:
    """a / b gives its numerator all relevance whatever b is, and so does a times one over b."""
    other: Function = lambda z: z.flip(-1).square().mean(-1, keepdim=True) + 0.5  # noqa: E731
    for propagation in RELEVANCE + DIFFERENCES + COMPOSITES:
        _same(lambda z: z.sin() * torch.rsqrt(other(z)), lambda z: z.sin() / other(z).sqrt(), propagation, 1e-12)


def test_what_stands_beside_a_scale_is_no_scale() -> None:
    """The columns that are factors stay factors."""

    def columns(z: Tensor, together: bool) -> Tensor:
        scale, factor, x = torch.rsqrt(_mean_square(z)), z[:, :1].tanh(), z[:, 2:4].sin()
        return x * torch.cat([scale, factor], 1) if together else torch.cat([x[:, :1] * scale, x[:, 1:] * factor], 1)

    x = constant(3, 6, seed=4)
    mixed, apart = (
        multipliers(lambda r, t=t: columns(F.linear(r, BEFORE), t)[:, 1], x, ATTN_LRP).values for t in (True, False)
    )
    assert torch.allclose(mixed, apart, rtol=1e-12)


def test_a_denominator_that_changes_its_sign_stays_finite_and_complete() -> None:
    x, x0 = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[2.0, -2.0]]).double()
    expected = torch.tensor([[0.0, 1.5]]).double()  # midpoints: (1/b + 1/b0) / 2 = 0, and 1.5 (1/b - 1/b0)
    for f in (lambda r: r[:, 0] / r[:, 1], lambda r: r[:, 0] * (1 / r[:, 1])):
        found = multipliers(f, x, DEEPLIFT["rescale"], reference=x0).values
        assert torch.allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("propagation", [*RELEVANCE, *COMPOSITES, DEEPLIFT["rescale"]], ids=lambda p: p.name)
def test_a_gate_written_with_a_reciprocal_is_a_factor(propagation: Propagation) -> None:
    for gated in (
        lambda z: z.flip(-1) * (1 / (1 + torch.exp(-z))),
        lambda z: z.flip(-1) / (1 + torch.exp(-z)),
        lambda z: z.flip(-1).div_(torch.exp(-z) + 1),
    ):
        _same(gated, lambda z: z.flip(-1) * torch.sigmoid(z), propagation, 1e-9)


@pytest.mark.parametrize("propagation", [*RELEVANCE, *COMPOSITES, DEEPLIFT["rescale"]], ids=lambda p: p.name)
def test_exponentials_and_softplus_under_the_line(propagation: Propagation) -> None:
    u: Function = lambda z: z.flip(-1).sin()  # noqa: E731
    _same(lambda z: u(z) / z.exp(), lambda z: u(z) * torch.exp(-z), propagation, 1e-9)
    _same(lambda z: u(z) / torch.log(1 + z.exp()), lambda z: u(z) / F.softplus(z), propagation, 1e-9)
    _same(lambda z: u(z) * (1 / torch.log(1 + z.exp())), lambda z: u(z) / F.softplus(z), propagation, 1e-9)


@pytest.mark.parametrize("propagation", RELEVANCE + COMPOSITES + DIFFERENCES, ids=lambda p: p.name)
def test_over_one_over_something_is_a_product(propagation: Propagation) -> None:
    _same(
        lambda z: z.sin() / torch.rsqrt(_mean_square(z)), lambda z: z.sin() * _mean_square(z).sqrt(), propagation, 1e-12
    )


# Activations ------------------------------------------------------------------------------------------------------


def _gelu_in_place(z: Tensor) -> Tensor:
    u = z.clone().pow_(3).mul_(0.044715).add_(z).mul_(math.sqrt(2 / math.pi)).tanh_().add_(1)
    return u.mul_(z).mul_(0.5)


def _hard_swish_in_place(z: Tensor) -> Tensor:
    u = z.clone()
    return z * F.relu6(u.add_(3), inplace=True) / 6


def _hard_sigmoid_over_the_source(z: Tensor) -> Tensor:
    z = z * 1.0
    return z.add_(3).clamp_(0, 6).div_(6)


def _swish_over_the_source(z: Tensor) -> Tensor:
    z = z * 1.0
    z *= torch.sigmoid(z)
    return z


GELU: Function = lambda z: F.gelu(z, approximate="tanh")  # noqa: E731
WRITTEN: dict[str, tuple[Function, Function]] = {
    "GPT-2's GELU": (
        lambda z: 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * torch.pow(z, 3.0)))),
        GELU,
    ),
    "GELU with products": (
        lambda z: z * 0.5 * (1.0 + torch.tanh(z * 0.7978845608028654 * (1.0 + 0.044715 * z * z))),
        GELU,
    ),
    "GELU in place": (_gelu_in_place, GELU),
    "GELU by erf": (lambda z: z * 0.5 * (1.0 + torch.erf(z / math.sqrt(2.0))), F.gelu),
    "GELU's square": (lambda z: F.gelu(z) ** 2 + 1, lambda z: F.gelu(z).square().add(1)),
    "SiLU": (lambda z: z / (1 + torch.exp(-z)), F.silu),
    "SiLU by sigmoid": (lambda z: z * torch.sigmoid(z), F.silu),
    "SiLU over its source": (_swish_over_the_source, F.silu),
    "mish": (lambda z: z * torch.tanh(torch.log(1 + torch.exp(z))), F.mish),
    "softplus": (lambda z: torch.log(1 + torch.exp(z)), F.softplus),
    "softplus by log1p": (lambda z: torch.log1p(z.exp()), F.softplus),
    "sigmoid": (lambda z: 1 / (1 + torch.exp(-z)), torch.sigmoid),
    "sigmoid by reciprocal": (lambda z: (1 + (-z).exp()).reciprocal(), torch.sigmoid),
    "sigmoid by tanh": (lambda z: 0.5 * torch.tanh(z / 2) + 0.5, torch.sigmoid),
    "tanh": (lambda z: 2 * torch.sigmoid(2 * z) - 1, torch.tanh),
    "tanh of exponentials": (lambda z: (z.exp() - (-z).exp()) / (z.exp() + (-z).exp()), torch.tanh),
    "softsign": (lambda z: z / (1 + z.abs()), F.softsign),
    "hard swish": (lambda z: z * F.relu6(z + 3) / 6, F.hardswish),
    "hard swish by clamp": (lambda z: z * (z + 3).clamp(0, 6) / 6, F.hardswish),
    "hard swish in place": (_hard_swish_in_place, F.hardswish),
    "hard sigmoid": (lambda z: F.relu6(z + 3) / 6, F.hardsigmoid),
    "hard sigmoid over its source": (_hard_sigmoid_over_the_source, F.hardsigmoid),
    "tanhshrink": (lambda z: z - torch.tanh(z), F.tanhshrink),
    "square": (lambda z: z * z, torch.square),
    "leaky ReLU": (lambda z: z.clamp(min=0) + 0.2 * z.clamp(max=0), lambda z: F.leaky_relu(z, 0.2)),
    "ELU": (lambda z: F.relu(z) + (z.exp() - 1).clamp(max=0), F.elu),
    "mish past a dropout": (lambda z: F.dropout(z, 0.1, False) * torch.tanh(torch.log(1 + z.exp())), F.mish),
    "swish of a parameter": (lambda z: z * torch.sigmoid(BETA * z), lambda z: F.silu(BETA * z) / BETA),
}
BETA = nn.Parameter(torch.tensor(1.3, dtype=torch.float64), requires_grad=False)
QUICK: Function = lambda z: z * torch.sigmoid(1.702 * z)  # noqa: E731


@pytest.mark.parametrize("propagation", [*RELEVANCE, *COMPOSITES, *DIFFERENCES, deep_taylor()], ids=lambda p: p.name)
@pytest.mark.parametrize("name", WRITTEN)
def test_an_activation_written_out_is_that_activation(name: str, propagation: Propagation) -> None:
    by_hand, published = WRITTEN[name]
    assert torch.allclose(by_hand(BEFORE.clone()), published(BEFORE), rtol=1e-12)
    _same(by_hand, published, propagation, 1e-9)


def test_relevance_passes_whole_through_an_activation_written_out() -> None:
    """The score is the sum of one activation of x, so that each position's relevance is its value."""
    x = constant(2, 5)
    for f in (QUICK, *(by_hand for by_hand, _ in WRITTEN.values())):
        for propagation in RELEVANCE:
            found = multipliers(lambda r, f=f: f(r * 1.0).sum(1), x, propagation)
            assert torch.allclose(found.values, f(x.clone()), rtol=1e-12, atol=1e-15)


def test_a_layers_bias_is_no_part_of_an_activation() -> None:
    """The bias takes its share before z * sigmoid(z), spelled as a tensor that is added."""
    scale, shift = constant(6, seed=7), constant(6, seed=8)
    for propagation in (*RELEVANCE, *COMPOSITES, DEEPLIFT["reveal-cancel"]):
        _same(
            lambda z: (u := z * scale + shift) * torch.sigmoid(u),
            lambda z: F.silu(z * scale + shift),
            propagation,
            1e-9,
        )


@pytest.mark.parametrize("propagation", [composite("epsilon-gamma-box"), deep_taylor(0.0, 1.0)], ids=lambda p: p.name)
def test_the_box_of_a_first_layer_follows_a_normalisation_with_a_clamp(propagation: Propagation) -> None:
    x, weight = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).double(), constant(4, 3, 3, 3)

    def net(pixels: Tensor) -> Tensor:
        return F.relu(F.conv2d(pixels, weight)).sum((1, 2, 3))

    plain, clamped, late = (
        multipliers(lambda r, f=f: net(f(r)), x, propagation).values
        for f in (lambda r: 2 * r - 1, lambda r: 2 * r.clamp(0, 1) - 1, lambda r: (2 * r - 1).clamp(-1, 1))
    )
    assert torch.allclose(clamped, plain, rtol=1e-12) and torch.allclose(late, plain, rtol=1e-12)


def test_a_long_chain_is_cut_and_stays_right() -> None:
    def long(z: Tensor) -> Tensor:
        for _ in range(40):
            z = z + 0.1 * torch.sin(z) * z
        return z

    x = constant(2, 5)
    found = multipliers(lambda r: long(r * 1.0).sum(1), x, ATTN_LRP)
    assert torch.allclose(found.values, long(x), rtol=1e-12)


def test_tensors_that_were_written_into_are_not_read_back() -> None:
    """z is another tensor by the time of the product: no activation of one tensor."""

    def overwritten(z: Tensor) -> Tensor:
        z = z * 1.0
        s = torch.sigmoid(z)
        z.copy_(z.flip(-1))
        return z * s

    for propagation in (*RELEVANCE, *COMPOSITES):
        _same(overwritten, lambda z: z.flip(-1) * torch.sigmoid(z), propagation, 1e-12)


# Softmax ----------------------------------------------------------------------------------------------------------

SHIFTS = (0.0, 3.0, -50.0, 1000.0)
LAST: dict[str, tuple[Function, Function]] = {
    "softmax": (lambda z: z.exp() / z.exp().sum(-1, keepdim=True), lambda z: z.softmax(-1)),
    "softmax, one exponential": (lambda z: (e := torch.exp(z)) / e.sum(-1, keepdim=True), lambda z: z.softmax(-1)),
    "softmax less the maximum": (
        lambda z: (e := torch.exp(z - z.max(-1, keepdim=True)[0])) / e.sum(-1, keepdim=True), lambda z: z.softmax(-1),
    ),
    "softmax less amax, indexed": (
        lambda z: (e := (z - z.amax(-1)[:, None]).exp()) / e.sum(dim=-1)[:, None], lambda z: z.softmax(-1),
    ),
    "softmax less a detached maximum": (
        lambda z: (e := (z - z.max(-1, keepdim=True).values.detach()).exp()) / e.sum(-1, True), lambda z: z.softmax(-1),
    ),
    "softmax in place": (lambda z: (e := (z - z.amax(-1, True)).exp_()) / e.sum(-1, True), lambda z: z.softmax(-1)),
    "softmax by reciprocal": (lambda z: (e := z.exp()) * (1 / e.sum(-1, True)), lambda z: z.softmax(-1)),
    "softmax divided in place": (lambda z: (e := z.exp()).div_(e.sum(-1, True)), lambda z: z.softmax(-1)),
    "softmax less the greatest of all": (
        lambda z: (e := torch.exp(z - z.max())) / e.sum(-1, True), lambda z: z.softmax(-1),
    ),
    "softmax over two axes": (
        lambda z: ((e := z.view(-1, 2, 3).exp()) / e.sum((1, 2), keepdim=True)).flatten(1), lambda z: z.softmax(-1),
    ),
    "softmax of a temperature": (lambda z: (e := torch.exp(z / 2)) / e.sum(-1, True), lambda z: (z / 2).softmax(-1)),
    "softmax by logsumexp": (lambda z: torch.exp(z - z.logsumexp(-1, keepdim=True)), lambda z: z.softmax(-1)),
    "softmax by log-softmax": (lambda z: z.log_softmax(-1).exp(), lambda z: z.softmax(-1)),
    "logsumexp": (lambda z: z.exp().sum(-1, keepdim=True).log(), lambda z: z.logsumexp(-1, keepdim=True)),
    "log-softmax": (lambda z: z - z.exp().sum(-1, True).log(), lambda z: z.log_softmax(-1)),
    "log of softmax": (lambda z: torch.softmax(z, -1).log(), lambda z: z.log_softmax(-1)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAST)
@pytest.mark.parametrize("propagation", DIFFERENCES, ids=lambda p: p.name)
def test_softmax_written_out_is_softmax_by_differences(name: str, propagation: Propagation) -> None:
    by_hand, published = (lambda z, f=f: f(z) * AFTER for f in LAST[name])
    _same(by_hand, published, propagation, 1e-10)


@pytest.mark.parametrize("name", [name for name in LAST if not name.startswith("log")])
@pytest.mark.parametrize("propagation", [ATTN_LRP, *COMPOSITES], ids=lambda p: p.name)
def test_softmax_written_out_is_softmax_by_relevance(name: str, propagation: Propagation) -> None:
    by_hand, published = (lambda z, f=f: f(z) * AFTER for f in LAST[name])
    _same(by_hand, published, propagation, 1e-10)


@pytest.mark.parametrize("propagation", DIFFERENCES, ids=lambda p: p.name)
@pytest.mark.parametrize(
    "head",
    ["softmax", "log_softmax", *(name for name in LAST if " maximum" in name or "amax" in name or "log" in name[8:])],
)
def test_a_common_shift_of_the_logits_is_not_seen(head: str, propagation: Propagation) -> None:
    hidden, top = constant(7, 6, seed=6), constant(4, 7, seed=7)
    x, x0 = constant(3, 6, seed=4), constant(3, 6, seed=5)
    f: Function = getattr(torch.Tensor, head, None) or LAST[head][0]
    f = (lambda z, f=f: f(z, -1)) if hasattr(torch.Tensor, head) else f  # type: ignore[misc]

    def maps(shift: float) -> Tensor:
        def score(rows: Tensor) -> Tensor:
            common = shift * rows.sum(1, keepdim=True)
            out = f(F.linear(torch.tanh(F.linear(rows, hidden)), top) + common)
            return out[:, 1]

        found = multipliers(score, x, propagation, reference=x0)
        error = (found.values.sum(1) - (found.score - score(x0))).abs().max()
        assert error <= (1e-12 if abs(shift) < 100 else 1e-11)
        return found.values

    expected = maps(0.0)
    for shift in SHIFTS[1:]:
        assert (maps(shift) - expected).abs().max() <= 1e-9 * expected.abs().max()


class Shifted(nn.Module):
    def __init__(self, shift: float, dtype: torch.dtype = torch.float64, last: bool = True) -> None:
        super().__init__()
        self.shift, self.last = shift, last
        self.a, self.b = nn.Linear(6, 7, bias=False, dtype=dtype), nn.Linear(7, 4, bias=False, dtype=dtype)
        generator = torch.Generator().manual_seed(0)
        for layer in (self.a, self.b):
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(torch.tanh(self.a(x))) + self.shift * x.sum(1, keepdim=True)
        return y.softmax(1) if self.last else y


@pytest.mark.parametrize("method", [ll.DeepLift(), ll.DeepLift("reveal-cancel"), ll.DeepShap()], ids=repr)
@pytest.mark.parametrize("target", [None, ll.Probability(1), ll.LogProbability(1)], ids=repr)
def test_no_target_of_deeplift_sees_a_common_shift(method: ll.Method, target: ll.Target | None) -> None:
    x = torch.linspace(0.2, 1, 6, dtype=torch.float64)[None]
    baseline = ll.Samples(constant(3, 6, seed=8), n=3) if isinstance(method, ll.DeepShap) else 0.0
    p, q = (
        ll.explain(Shifted(shift, last=target is None), x, method, target=target or 1, baseline=baseline).values
        for shift in (0.0, 3.0)
    )
    assert (p - q).abs().max() <= 1e-9 * p.abs().max()


def test_a_shift_of_a_hundred_costs_float32_no_more_than_its_logits() -> None:
    x = torch.linspace(0.2, 1, 6, dtype=torch.float64)[None]
    exact = ll.explain(Shifted(0.0), x, "deep-lift", target=1, baseline=0.0).values
    found = ll.explain(Shifted(100.0, torch.float32), x.float(), "deep-lift", target=1, baseline=0.0).values
    assert (found - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_softmax_written_out_is_a_constant_of_cp_lrp() -> None:
    """Beside the weighted values, the weights have no relevance of their own."""
    for name in (name for name in LAST if name.startswith("softmax")):
        by_hand, published = (lambda z, f=f: f(z) * z.sin() for f in LAST[name])
        _same(by_hand, published, CP_LRP, 1e-10)


@pytest.mark.parametrize("propagation", DIFFERENCES, ids=lambda p: p.name)
def test_attention_does_not_see_a_shift_of_a_querys_scores(propagation: Propagation) -> None:
    """Masked scores of -inf stay out of it."""
    mask = torch.full((3, 3), -math.inf, dtype=torch.float64).triu(1)

    def attended(shift: float) -> Function:
        def attend(z: Tensor) -> Tensor:
            t = z.view(-1, 3, 2)
            return F.scaled_dot_product_attention(t, t.tanh(), t.sin(), mask + shift * t.sum(-1, keepdim=True))

        return attend

    for shift in (3.0, -40.0):
        _same(attended(shift), attended(0.0), propagation, 1e-9)


# Arguments --------------------------------------------------------------------------------------------------------


def _weight(x: Tensor) -> Tensor:
    return 1 + 0.3 * torch.tanh(x.mean(0))


VARYING: dict[str, tuple[Function, Function]] = {
    "layer_norm": (
        lambda x: F.layer_norm(x, (6,), weight=_weight(x), bias=x.sin().sum(0)),
        lambda x: F.layer_norm(x, (6,)) * _weight(x) + x.sin().sum(0),
    ),
    "layer_norm, bias alone": (
        lambda x: F.layer_norm(x, (6,), WEIGHT, bias=x.sin().sum(0)),
        lambda x: F.layer_norm(x, (6,), WEIGHT) + x.sin().sum(0),
    ),
    "rms_norm": (lambda x: F.rms_norm(x, (6,), weight=_weight(x)), lambda x: F.rms_norm(x, (6,)) * _weight(x)),
    "batch_norm": (
        lambda x: F.batch_norm(x, WEIGHT, WEIGHT.abs() + 1, weight=_weight(x), bias=x.sin().sum(0)),
        lambda x: F.batch_norm(x, WEIGHT, WEIGHT.abs() + 1) * _weight(x) + x.sin().sum(0),
    ),
    "group_norm": (
        lambda x: F.group_norm(x, 2, weight=_weight(x)), lambda x: F.group_norm(x, 2) * _weight(x),
    ),
    "instance_norm": (
        lambda x: F.instance_norm(x.view(1, 2, 3), weight=_weight(x)[:2]),
        lambda x: F.instance_norm(x.view(1, 2, 3)) * _weight(x)[:2, None],
    ),
    "linear": (
        lambda x: F.linear(x, weight=torch.outer(_weight(x), WEIGHT)),
        lambda x: torch.matmul(x, torch.outer(WEIGHT, _weight(x))),
    ),
    "linear, bias": (
        lambda x: F.linear(x, BEFORE, bias=x.sin().sum(0)), lambda x: F.linear(x, BEFORE) + x.sin().sum(0),
    ),
    "conv1d": (
        lambda x: F.conv1d(x[:, None], weight=_weight(x)[None, None, :3], bias=x.sin().sum()[None]),
        lambda x: (x.unfold(1, 3, 1) * _weight(x)[:3]).sum(-1)[:, None] + x.sin().sum(),
    ),
}  # fmt: skip


def _alone(f: Function, propagation: Propagation) -> Tensor:
    """The map of one row, to whose weights there is no other."""
    x, x0 = constant(1, 6, seed=4), constant(1, 6, seed=5)

    def score(rows: Tensor) -> Tensor:
        out = f(F.linear(rows, BEFORE, AFTER / 3)).reshape(1, -1)
        return out.matmul(constant(out.shape[1], seed=3))

    found = multipliers(score, x, propagation, **({"reference": x0} if propagation.needs_reference else {}))
    if propagation.needs_reference:
        assert torch.allclose(found.values.sum(1), found.score - score(x0), rtol=1e-12, atol=1e-13)
    return found.values


@pytest.mark.parametrize("propagation", RELEVANCE + DIFFERENCES, ids=lambda p: p.name)
@pytest.mark.parametrize("name", VARYING)
def test_arguments_that_vary_count_wherever_they_stand(name: str, propagation: Propagation) -> None:
    by_keyword, by_operators = (_alone(f, propagation) for f in VARYING[name])
    assert by_operators.abs().max() > 0
    assert (by_keyword - by_operators).abs().max() <= 1e-10 * by_operators.abs().max()


@pytest.mark.parametrize("propagation", RELEVANCE + COMPOSITES + DIFFERENCES, ids=lambda p: p.name)
@pytest.mark.parametrize(
    "f",
    [
        lambda x: F.batch_norm(x, x.mean(0), x.square().mean(0)),
        lambda x: F.prelu(x, weight=x.mean().reshape(1)),
        lambda x: F.grid_sample(torch.eye(4, dtype=x.dtype)[None, None], x.view(1, 1, 3, 2)),
    ],
    ids=["batch_norm(running_mean=)", "prelu(weight=)", "grid_sample(grid=)"],
)
def test_an_argument_without_a_rule_is_refused(f: Function, propagation: Propagation) -> None:
    with pytest.raises(UncoveredOperator):
        _alone(f, propagation)
