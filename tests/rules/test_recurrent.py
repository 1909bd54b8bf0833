"""Recurrent layers and cells are taken apart: the layer's own outputs, and the maps of a cell written by hand."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.rules import (
    ATTN_LRP,
    CP_LRP,
    DECONVNET,
    DEEPLIFT,
    EXCITATION,
    GUIDED_BACKPROP,
    Propagation,
    Proportional,
    UncoveredOperator,
    Zero,
    composite,
    deep_taylor,
    is_kind,
    multipliers,
)
from limelight.rules.engine import Propagate
from limelight.rules.tape import Tape
from tests.rules.helpers import constant, frozen

pytestmark = pytest.mark.quick

METHODS = [*DEEPLIFT.values(), GUIDED_BACKPROP, DECONVNET, ATTN_LRP, CP_LRP, EXCITATION, deep_taylor()]
METHODS += [composite("epsilon"), composite("epsilon-plus"), composite("zero"), composite("gamma")]
KINDS: dict[str, Callable[..., nn.Module]] = {
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "RNN tanh": nn.RNN,
    "RNN relu": lambda *args, **given: nn.RNN(*args, nonlinearity="relu", **given),
}
CELLS: dict[str, Callable[..., nn.Module]] = {
    "LSTM": nn.LSTMCell,
    "GRU": nn.GRUCell,
    "RNN tanh": nn.RNNCell,
    "RNN relu": lambda *args, **given: nn.RNNCell(*args, nonlinearity="relu", **given),
}
SETTINGS: list[dict[str, Any]] = [
    dict(zip(("num_layers", "bidirectional", "batch_first", "bias"), values, strict=True))
    for values in itertools.product((1, 2), (False, True), (False, True), (False, True))
]
SETTINGS.append({"num_layers": 2, "dropout": 0.5, "batch_first": True})


def _layer(kind: str, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return frozen(KINDS[kind](3, 4, **settings))


def _under_rules(forward: Callable[[Tensor], Any], x: Tensor) -> Any:
    leaf = x.clone().requires_grad_()
    with torch.enable_grad(), Propagate(ATTN_LRP, leaf, Tape()):
        return forward(leaf.clone())


def _flat(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [each for part in outputs for each in _flat(part)]


def _state(kind: str, *shape: int) -> Any:
    return (constant(*shape, seed=7), constant(*shape, seed=8)) if kind == "LSTM" else constant(*shape, seed=7)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_the_layers_own(kind: str) -> None:
    for settings in SETTINGS:
        layer = _layer(kind, **settings)
        x = constant(5, 2, 3)
        batch = x.shape[0] if settings.get("batch_first") else x.shape[1]
        width = settings["num_layers"] * (2 if settings.get("bidirectional") else 1)
        for hx in (None, _state(kind, width, batch, 4)):
            expected, found = layer(x, hx), _under_rules(lambda rows: layer(rows, hx), x)  # noqa: B023
            for a, b in zip(_flat(found), _flat(expected), strict=True):
                torch.testing.assert_close(a.detach(), b, rtol=1e-12, atol=1e-12)
    cell = frozen(CELLS[kind](3, 4))
    for hx in (None, _state(kind, 2, 4)):
        expected, found = cell(x[0], hx), _under_rules(lambda rows: cell(rows, hx), x[0])  # noqa: B023
        for a, b in zip(_flat(found), _flat(expected), strict=True):
            torch.testing.assert_close(a.detach(), b, rtol=1e-12, atol=1e-12)


def test_an_lstm_with_projections() -> None:
    layer = frozen(nn.LSTM(3, 4, 2, proj_size=2, bidirectional=True))
    for a, b in zip(_flat(_under_rules(layer, constant(5, 2, 3))), _flat(layer(constant(5, 2, 3))), strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=1e-12, atol=1e-12)


def _score(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """Read all outputs and the last hidden state of a layer that takes the batch first."""

    def score(rows: Tensor) -> Tensor:
        outputs, last = layer(rows)
        hidden = last[0] if isinstance(last, tuple) else last
        together = torch.cat([outputs.flatten(1), hidden.transpose(0, 1).flatten(1)], 1)
        return together @ constant(together.shape[1], seed=3)

    return score


@pytest.mark.parametrize("kind", KINDS)
def test_deeplift_is_complete_through(kind: str) -> None:
    x, x0 = constant(3, 5, 3), constant(3, 5, 3, seed=1)
    for settings in ({}, {"num_layers": 2, "bidirectional": True}):
        score = _score(_layer(kind, **settings, batch_first=True))  # type: ignore[arg-type]
        for rule in DEEPLIFT.values():
            for reference in (x0, 0 * x0[:1]):
                found = multipliers(score, x, rule, reference=reference)
                change = score(x) - score(reference)
                torch.testing.assert_close(found.values.sum((1, 2)), change, atol=1e-9, rtol=1e-9)


def _by_hand(kind: str, layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """A layer of one direction as textbooks write it down."""
    weights: Any = layer

    def run(rows: Tensor) -> tuple[Tensor, Tensor]:
        h = c = torch.zeros(len(rows), 4, dtype=rows.dtype)
        outputs = []
        for t in range(rows.shape[1]):
            x = F.linear(rows[:, t], weights.weight_ih_l0, weights.bias_ih_l0)
            state = F.linear(h, weights.weight_hh_l0, weights.bias_hh_l0)
            if kind == "LSTM":
                i, f, g, o = (x + state).split(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            elif kind == "GRU":
                (x_r, x_z, x_n), (h_r, h_z, h_n) = x.split(4, 1), state.split(4, 1)
                r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
                h = (1 - z) * (x_n + r * h_n).tanh() + z * h
            else:
                h = (x + state).tanh() if kind == "RNN tanh" else (x + state).relu()
            outputs.append(h)
        return torch.stack(outputs, 1), h[None]

    return _score(run)  # type: ignore[arg-type]


@pytest.mark.parametrize("propagation", METHODS, ids=lambda each: each.name)
def test_a_layer_gets_what_a_cell_by_hand_gets(propagation: Propagation) -> None:
    x, x0 = constant(3, 5, 3), constant(3, 5, 3, seed=1)
    given = {"reference": x0} if propagation.needs_reference else {}
    for kind in KINDS:
        layer = _layer(kind, batch_first=True)
        expected = multipliers(_by_hand(kind, layer), x, propagation, **given)
        found = multipliers(_score(layer), x, propagation, **given)
        assert not [note for note in found.notes if "plain gradient used" in note]
        torch.testing.assert_close(found.values, expected.values, rtol=1e-9, atol=1e-12)
        cell = frozen(CELLS[kind](3, 4))
        cell.load_state_dict({name.removesuffix("_l0"): each for name, each in layer.state_dict().items()})

        def stepped(rows: Tensor) -> tuple[Tensor, Tensor]:
            state, outputs = None, []
            for t in range(rows.shape[1]):
                state = cell(rows[:, t], state)  # noqa: B023
                outputs.append(state[0] if isinstance(state, tuple) else state)
            return torch.stack(outputs, 1), outputs[-1][None]

        found = multipliers(_score(stepped), x, propagation, **given)  # type: ignore[arg-type]
        torch.testing.assert_close(found.values, expected.values, rtol=1e-9, atol=1e-12)


def test_relevance_is_conserved_without_biases() -> None:
    """With little in the denominators, which the default epsilon of 1e-6 would let take relevance. The 1 of 1 - z is
    no bias either."""
    exact = composite("zero").prepend((is_kind("sum"), Proportional(1e-14)), (is_kind("affine"), Zero(1e-14)))
    x = constant(3, 5, 3)
    for kind, settings in itertools.product(KINDS, SETTINGS):
        if not settings.get("bias", True):
            continue
        layer = _layer(kind, **{**settings, "batch_first": True})
        for name, parameter in layer.named_parameters():
            if "bias" in name:
                parameter.zero_()
        found = multipliers(_score(layer), x, exact)
        torch.testing.assert_close(found.values.sum((1, 2)), found.score, rtol=1e-8, atol=1e-8)


def test_a_gates_complement_is_a_gate() -> None:
    """f = (1 - sigmoid(a)) b has half of f at a and half at b, however the gate is written; overwritten it is none."""
    x = constant(4, 2)
    for gate in (
        lambda a: 1 - torch.sigmoid(a),
        lambda a: 1 - a.sigmoid(),
        lambda a: torch.rsub(torch.sigmoid(a), 1),
        lambda a: torch.sigmoid(-a),
    ):
        found = multipliers(lambda r: gate(r[:, 0]) * r[:, 1], x, ATTN_LRP)  # noqa: B023
        expected = torch.sigmoid(-x[:, 0]) * x[:, 1] / 2
        torch.testing.assert_close(found.values, expected[:, None].expand(4, 2))
    written = multipliers(lambda r: (1 - r[:, 0].clone().sigmoid_()) * r[:, 1], x, ATTN_LRP)
    torch.testing.assert_close(written.score, torch.sigmoid(-x[:, 0]) * x[:, 1])


def test_explained_from_outside() -> None:
    class Reader(nn.Module):
        def __init__(self, kind: str) -> None:
            super().__init__()
            self.layer, self.head = _layer(kind, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x)[0].mean(1))  # type: ignore[no-any-return]

    x = constant(2, 3, 3)
    for kind in KINDS:
        model = Reader(kind).double().eval()
        before = copy.deepcopy(model.state_dict())
        found = ll.explain(model, x, "deep-lift", target=1)
        torch.testing.assert_close(found.values.sum((1, 2)), model(x)[:, 1] - model(0 * x)[:, 1], atol=1e-9, rtol=1e-9)
        for method in ("lrp", "guided-backprop", "deep-shap"):
            assert ll.explain(model, x, method, target=1).values.any()
        assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


def test_random_dropout_and_packed_rows_are_refused() -> None:
    layer, x = _layer("LSTM", num_layers=2, dropout=0.5, batch_first=True).train(), constant(2, 5, 3)
    with pytest.raises(UncoveredOperator, match="lstm"):
        multipliers(_score(layer), x, composite("epsilon"))
    for kind in KINDS:
        other = _layer(kind, batch_first=True)

        def packed(rows: Tensor) -> Tensor:
            given = nn.utils.rnn.pack_padded_sequence(rows, torch.tensor([5, 3]), batch_first=True)
            return nn.utils.rnn.pad_packed_sequence(other(given)[0], batch_first=True)[0].sum((1, 2))  # noqa: B023

        for propagation in METHODS:
            given = {"reference": 0 * x} if propagation.needs_reference else {}
            with pytest.raises(UncoveredOperator, match="pack"):
                multipliers(packed, x, propagation, **given)
