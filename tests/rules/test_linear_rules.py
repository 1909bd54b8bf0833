"""Each linear rule against its definition, term by term over an explicit Jacobian in double precision."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from limelight.rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    LinearRule,
    Native,
    Propagation,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
    is_kind,
    multipliers,
    named,
)

EPS = 1e-6


def constant(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Layer:
    name: str
    run: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    weight: tuple[int, ...]
    outputs: int
    row: tuple[int, ...]


LAYERS = {
    "linear": Layer("linear", F.linear, (3, 4), 3, (4,)),
    "conv1d": Layer("conv1d", lambda x, w, b: F.conv1d(x, w, b, 2, 1), (4, 3, 3), 4, (3, 6)),
    "conv2d": Layer("conv2d", lambda x, w, b: F.conv2d(x, w, b, (1, 2), 1, 2), (4, 2, 2, 3), 4, (2, 5, 4)),
    "conv2d grouped": Layer("conv2d", lambda x, w, b: F.conv2d(x, w, b, groups=2), (4, 1, 2, 2), 4, (2, 4, 4)),
    "conv2d same": Layer("conv2d", lambda x, w, b: F.conv2d(x, w, b, padding="same"), (3, 2, 3, 3), 3, (2, 4, 4)),
    "conv3d": Layer("conv3d", lambda x, w, b: F.conv3d(x, w, b, padding=1), (2, 2, 2, 2, 2), 2, (2, 2, 3, 2)),
    "transposed 1d": Layer("conv_transpose1d", lambda x, w, b: F.conv_transpose1d(x, w, b, 2), (3, 2, 3), 2, (3, 4)),
    "transposed 2d": Layer(
        "conv_transpose2d", lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1, 2), (4, 2, 2, 2), 4, (4, 2, 3)
    ),
    "transposed 3d": Layer(
        "conv_transpose3d", lambda x, w, b: F.conv_transpose3d(x, w, b), (2, 3, 2, 2, 2), 3, (2, 2, 2, 2)
    ),
}
LOW, HIGH = -2.0, 3.0
RULES: list[LinearRule] = [
    Zero(), Epsilon(), Epsilon(0.3), Gamma(), Gamma(0.7), AlphaBeta(2, 1), AlphaBeta(1.5, 0.5), AlphaBeta(2, 1, False),
    ZPlus(), ZPlus(bias=False), Flat(), WSquare(), WSquare(bias=False), ZBox(LOW, HIGH),
]  # fmt: skip


def jacobian(run: Callable[[Tensor], Tensor], row: Tensor) -> Tensor:
    """The (outputs, inputs) matrix of a linear map of one row."""
    found = torch.autograd.functional.jacobian(lambda flat: run(flat.view(1, *row.shape)).flatten(), row.flatten())
    assert isinstance(found, Tensor)
    return found


def st(z: float, epsilon: float) -> float:
    return z + (epsilon if z >= 0 else -epsilon)


def slow(rule: LinearRule, w: list[list[float]], b: list[float], ones: list[list[float]], squares: list[list[float]],
         b2: list[float], x: list[float], v: list[float]) -> list[float]:  # fmt: skip
    """Relevance of every input by the textbook, one output at a time; v is the output's multiplier."""
    relevance = [0.0] * len(x)
    inputs = range(len(x))
    for j, multiplier in enumerate(v):
        z = sum(x[i] * w[j][i] for i in inputs) + b[j]
        r = z * multiplier
        if isinstance(rule, Epsilon):
            shares = [(1.0, [x[i] * w[j][i] for i in inputs], z)]
        elif isinstance(rule, Gamma):
            # The terms whose sign is the output's are favoured, whichever of input and weight is negative.
            sign = 1 if z > 0 else -1
            terms = [x[i] * w[j][i] * (1 + rule.gamma * (x[i] * w[j][i] * sign > 0)) for i in inputs]
            shares = [(1.0, terms, sum(terms) + b[j] * (1 + rule.gamma * (b[j] * sign > 0)))]
        elif isinstance(rule, AlphaBeta):
            shares = []
            for factor, sign in ((rule.alpha, 1), (-rule.beta, -1)):
                terms = [x[i] * w[j][i] * (x[i] * w[j][i] * sign > 0) for i in inputs]
                shares.append((factor, terms, sum(terms) + (b[j] * (b[j] * sign > 0) if rule.bias else 0.0)))
        elif isinstance(rule, Flat):
            shares = [(1.0, ones[j], sum(ones[j]))]
        elif isinstance(rule, WSquare):
            shares = [(1.0, squares[j], sum(squares[j]) + (b2[j] if rule.bias else 0.0))]
        else:
            assert isinstance(rule, ZBox)
            terms = [x[i] * w[j][i] - LOW * max(w[j][i], 0) - HIGH * min(w[j][i], 0) for i in inputs]
            shares = [(1.0, terms, sum(terms))]
        for factor, terms, total in shares:
            for i in inputs:
                relevance[i] += factor * terms[i] / st(total, rule.epsilon) * r
    return relevance


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_rule_is_its_definition(rule: LinearRule, layer: Layer, bias: bool) -> None:
    weight = constant(*layer.weight)
    b = constant(layer.outputs, seed=1) if bias else None
    x = constant(2, *layer.row, seed=2)
    x[0].view(-1)[:2] = 0  # zeros, on which only the first-layer rules may put relevance
    y = layer.run(x, weight, b)
    v = constant(y[0].numel(), seed=3)
    propagation = Propagation("LRP", ((named(layer.name), rule), (is_kind("affine"), Native())), linear_nodes=False)
    forward = layer.run

    def score(rows: Tensor) -> Tensor:
        return torch.mv(forward(rows, weight, b).flatten(1), v)

    found = multipliers(score, x, propagation).values
    for row, mine in zip(x, found, strict=True):
        matrices = [
            jacobian(lambda t, k=k: forward(t, k, None), row) for k in (weight, torch.ones_like(weight), weight**2)
        ]
        zero = torch.zeros(1, *row.shape, dtype=torch.float64)
        biases = [
            (forward(zero, weight, k) if bias else torch.zeros_like(y[:1])).flatten()
            for k in (b, None if b is None else b**2)
        ]
        expected = slow(
            rule, matrices[0].tolist(), biases[0].tolist(), matrices[1].tolist(), matrices[2].tolist(),
            biases[1].tolist(), row.flatten().tolist(), v.tolist(),
        )  # fmt: skip
        assert torch.allclose(mine.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_alpha_and_beta_must_differ_by_one() -> None:
    with pytest.raises(ValueError, match="alpha - beta = 1"):
        AlphaBeta(2, 2)


def test_first_layer_rules_refuse_inner_layers() -> None:
    weight = constant(4, 4)
    propagation = Propagation("LRP", ((is_kind("affine"), Flat()),), linear_nodes=False)
    with pytest.raises(ValueError, match="only a first layer"):
        multipliers(lambda rows: F.linear(F.linear(rows, weight), weight[:1])[:, 0], constant(1, 4), propagation)


@pytest.mark.parametrize("rule", [Flat(), WSquare(bias=False), ZBox(0.0, 1.0)], ids=repr)
def test_relevance_is_carried_through_the_inputs_normalisation(rule: LinearRule) -> None:
    """A model that normalises inside: same relevance as for the normalised input, with bounds in pixel units."""
    x, weight, v = torch.rand(2, 3, 5, 5, dtype=torch.float64), constant(4, 3, 3, 3), constant(36)
    x[0, :, 0, 0] = 0
    mean, std = constant(3, 1, 1, seed=5), constant(3, 1, 1, seed=6).abs() + 0.2

    def inner(rows: Tensor) -> Tensor:
        return torch.mv(F.conv2d(rows, weight).flatten(1), v)

    propagation = Propagation("LRP", ((named("conv2d"), rule), (is_kind("affine"), Native())), linear_nodes=False)
    whole = multipliers(lambda rows: inner((rows.permute(0, 1, 3, 2) - mean) / std), x, propagation)
    if isinstance(rule, ZBox):
        low, high = (0 - mean) / std, (1 - mean) / std
        bounded = ZBox(low, high)
        propagation = Propagation(
            "LRP", ((named("conv2d"), bounded), (is_kind("affine"), Native())), linear_nodes=False
        )
    part = multipliers(inner, (x.permute(0, 1, 3, 2) - mean) / std, propagation)
    assert torch.allclose(whole.values, part.values.permute(0, 1, 3, 2), rtol=1e-10, atol=1e-12)
    assert torch.allclose(whole.values.sum((1, 2, 3)), whole.score, rtol=1e-5)
