"""Each linear rule against its definition, term by term over an explicit Jacobian in double precision."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from limelight.rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Native,
    Propagation,
    Sharing,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
    is_kind,
    multipliers,
    named,
)


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
RULES: list[Sharing] = [
    Zero(), Epsilon(), Epsilon(0.3), Gamma(), Gamma(0.7), AlphaBeta(2, 1), AlphaBeta(1.5, 0.5), ZPlus(), Flat(),
    WSquare(), ZBox(LOW, HIGH), Epsilon(0.3, bias=False), Epsilon(bias=False), Gamma(bias=False),
    AlphaBeta(2, 1, bias=False), ZPlus(bias=False), WSquare(bias=False), Epsilon(0.3, relative=False),
    ZPlus(epsilon=0.3), ZPlus(epsilon=0.3, relative=False, bias=False), Flat(epsilon=0.3),
]  # fmt: skip


def jacobian(run: Callable[[Tensor], Tensor], row: Tensor) -> Tensor:
    """The (outputs, inputs) matrix of a linear map of one row."""
    found = torch.autograd.functional.jacobian(lambda flat: run(flat.view(1, *row.shape)).flatten(), row.flatten())
    assert isinstance(found, Tensor)
    return found


def st(z: float, epsilon: float) -> float:
    return z + (epsilon if z >= 0 else -epsilon)


def slow(rule: Sharing, w: list[list[float]], b: list[float], ones: list[list[float]], squares: list[list[float]],
         b2: list[float], x: list[float], v: list[float]) -> list[float]:  # fmt: skip
    """Relevance of every input by the textbook, one output at a time; v is the output's multiplier."""
    inputs, outputs = range(len(x)), range(len(v))
    y = [sum(x[i] * w[j][i] for i in inputs) + b[j] for j in outputs]
    products = [[x[i] * w[j][i] for i in inputs] for j in outputs]
    bias = b if rule.bias else [0.0] * len(b)
    # Sums that share: (factor of each output, terms of each output, bias of each output).
    sums: list[tuple[list[float], list[list[float]], list[float]]]
    one, none = [1.0] * len(v), [0.0] * len(v)
    if isinstance(rule, Epsilon):
        sums = [(one, products, bias)]
    elif isinstance(rule, Gamma):
        # The terms whose sign is the output's are favoured, whichever of input and weight is negative.
        sums = [
            (
                [float(value * sign > 0) for value in y],
                [[term * (1 + rule.gamma * (term * sign > 0)) for term in row] for row in products],
                [each * (1 + rule.gamma * (each * sign > 0)) for each in bias],
            )
            for sign in (1, -1)
        ]
    elif isinstance(rule, AlphaBeta):
        sums = [
            (
                [factor] * len(v),
                [[term * (term * sign > 0) for term in row] for row in products],
                [each * (each * sign > 0) for each in bias],
            )
            for factor, sign in ((rule.alpha, 1), (-rule.beta, -1))
        ]
    elif isinstance(rule, Flat):
        sums = [(one, ones, none)]
    elif isinstance(rule, WSquare):
        sums = [(one, squares, b2 if rule.bias else none)]
    else:
        assert isinstance(rule, ZBox)
        boxed = [[x[i] * w[j][i] - LOW * max(w[j][i], 0) - HIGH * min(w[j][i], 0) for i in inputs] for j in outputs]
        sums = [(one, boxed, none)]
    relevance = [0.0] * len(x)
    for factors, terms, added in sums:
        totals = [sum(row) + more for row, more in zip(terms, added, strict=True)]
        scale = sum(map(abs, totals)) / len(totals) if rule.relative else 1.0
        for j in outputs:
            for i in inputs:
                if totals[j] != 0:
                    relevance[i] += factors[j] * terms[j][i] / st(totals[j], rule.epsilon * scale) * y[j] * v[j]
    return relevance


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_rule_is_its_definition(rule: Sharing, layer: Layer, bias: bool) -> None:
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
def test_relevance_is_carried_through_the_inputs_normalisation(rule: Sharing) -> None:
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


@pytest.mark.parametrize("size", [1e-12, 1e-3, 1e9])
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.relative and not isinstance(rule, ZBox)], ids=repr)
def test_the_stabiliser_is_relative(rule: Sharing, size: float) -> None:
    """Scaling a layer and undoing it afterwards changes no map, nor does the company in the batch."""
    weight, b, x, v = constant(3, 4), constant(3, seed=1), constant(2, 4, seed=2), constant(3, seed=3)
    x[1] *= 1e4

    def values(size: float, x: Tensor, rule: Sharing) -> Tensor:
        def score(rows: Tensor) -> Tensor:
            return torch.mv(F.linear(rows, weight * size, b * size) / size, v)

        entries = ((named("linear"), rule), (is_kind("affine"), Native()))
        return multipliers(score, x, Propagation("LRP", entries, linear_nodes=False)).values

    expected = values(1.0, x, rule)
    assert torch.allclose(values(size, x, rule), expected, rtol=1e-9, atol=0)
    # A single row runs another kernel on some processors, which rounds otherwise.
    assert torch.allclose(values(1.0, x[:1], rule)[0], expected[0], rtol=1e-12, atol=0)
    if size < 1e-6 and isinstance(rule, Epsilon) and rule.epsilon < 0.1:
        lost = values(size, x[:1], replace(rule, relative=False))
        assert lost.abs().max() < 0.01 * expected[0].abs().max()  # an absolute stabiliser takes nearly all
