"""No operator without a rule passes for one: everything that could hide a nonlinearity raises, or is noted."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight
from limelight.rules import (
    ATTN_LRP,
    CP_LRP,
    DECONVNET,
    DEEPLIFT,
    EXCITATION,
    GUIDED_BACKPROP,
    Propagation,
    UncoveredOperator,
    composite,
    deep_taylor,
    multipliers,
)
from tests.rules.helpers import constant

pytestmark = pytest.mark.quick

BEFORE, AFTER = constant(5, 5, seed=1), constant(5, seed=2)
METHODS = [*DEEPLIFT.values(), GUIDED_BACKPROP, DECONVNET, composite("epsilon"), composite("epsilon-alpha2-beta1")]
METHODS += [ATTN_LRP, CP_LRP, EXCITATION, deep_taylor()]


class Rectifier(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * (ctx.saved_tensors[0] > 0)


def _in_a_worker_thread(x: Tensor) -> Tensor:
    """What nn.DataParallel does: the module runs in threads that inherit gradient mode, but no mode of ours."""
    found: list[Tensor] = []

    def work() -> None:
        with torch.enable_grad():
            found.append(torch.relu(x))

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    return found[0]


def _overwritten(x: Tensor) -> Tensor:
    y = x.clone()
    y[y.abs() < 1] = 0
    return y


_lstm = nn.LSTM(5, 5).double().requires_grad_(False)


def _packed(x: Tensor) -> Tensor:
    lengths = torch.ones(len(x), dtype=torch.long)
    found: Tensor = _lstm(nn.utils.rnn.pack_padded_sequence(x.unsqueeze(0), lengths))[0].data
    return found


HIDDEN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "jit.script": (torch.jit.script(nn.ReLU()), "ReluBackward0"),
    "jit.trace": (torch.jit.trace(nn.ReLU(), torch.ones(2, 5).double()), "ReluBackward0"),
    "custom Function": (Rectifier.apply, "RectifierBackward"),
    "worker thread": (_in_a_worker_thread, "ReluBackward0"),
    "x * (x > -1) * (x < 1)": (lambda x: x * ((x > -1) & (x < 1)), "mul with a mask"),
    "x * x.detach()": (lambda x: x * x.detach(), "mul with a mask"),
    "masked_fill": (lambda x: x.masked_fill(x.roll(1, -1) < 0, 0.0), "masked_fill with a mask"),
    "x[x.abs() < 1] = 0": (_overwritten, "setitem with a mask"),
    "cummax": (lambda x: x.cummax(-1)[0], "cummax"),
    "cumprod": (lambda x: x.cumprod(-1), "cumprod"),
    "random dropout": (lambda x: F.dropout(x, 0.5, training=True), "dropout"),
    "a packed sequence": (_packed, "_pack_padded_sequence"),
}


def _score(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda rows: torch.mv(f(F.linear(rows, BEFORE)), AFTER)


def _given(propagation: Propagation) -> dict[str, Tensor]:
    return {"reference": constant(3, 5, seed=4)} if propagation.needs_reference else {}


@pytest.mark.parametrize("propagation", METHODS, ids=lambda p: p.name)
@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_nonlinearity_is_refused_or_noted(name: str, propagation: Propagation) -> None:
    f, operator = HIDDEN[name]
    score, x = _score(f), constant(3, 5, seed=3)
    with pytest.raises(UncoveredOperator) as caught:
        multipliers(score, x, propagation, **_given(propagation))
    assert caught.value.operator.startswith(operator)
    assert propagation.name in str(caught.value)
    found = multipliers(score, x, propagation, on_uncovered="gradient", **_given(propagation))
    assert any(operator in note and "plain gradient" in note for note in found.notes)


@pytest.mark.parametrize("propagation", [GUIDED_BACKPROP, DECONVNET], ids=lambda p: p.name)
def test_a_selection_that_may_be_a_rectifier_is_refused_by_rectifier_rules(propagation: Propagation) -> None:
    with pytest.raises(UncoveredOperator, match="where"):
        multipliers(_score(lambda x: torch.where(x > x.roll(1, -1), x.tanh(), 0.0)), constant(3, 5), propagation)


@pytest.mark.parametrize("name", ["jit.script", "worker thread"])
def test_linear_operators_out_of_sight_are_refused_by_linear_rules(name: str) -> None:
    """A convolution inside TorchScript would get LRP-0 whatever the composite says."""
    linear = nn.Linear(5, 5).double().requires_grad_(False)
    hidden = torch.jit.script(linear)
    with pytest.raises(UncoveredOperator, match="Addmm"):
        multipliers(lambda rows: torch.mv(hidden(rows), AFTER), constant(2, 5), composite("epsilon-plus"))
    multipliers(lambda rows: torch.mv(hidden(rows), AFTER), constant(2, 5), GUIDED_BACKPROP)


def test_the_error_names_the_line_of_the_model() -> None:
    def hidden(x: Tensor) -> Tensor:
        return x.cumprod(-1)  # the line to be named

    with pytest.raises(UncoveredOperator) as caught:
        multipliers(_score(hidden), constant(2, 5), composite("epsilon"))
    assert caught.value.where == f"{__file__}:{hidden.__code__.co_firstlineno + 1}, in hidden"


def test_trainable_parameters_are_refused() -> None:
    layer = nn.Linear(5, 5).double()
    with pytest.raises(ValueError, match="frozen copy"):
        multipliers(lambda rows: layer(rows).sum(1), constant(2, 5), composite("epsilon"))


def test_a_score_that_ignores_the_input_is_an_error() -> None:
    with pytest.raises(ValueError, match="no gradient back to the inputs"):
        multipliers(lambda rows: rows.detach().sum(1), constant(2, 5), GUIDED_BACKPROP)


def test_one_number_a_row() -> None:
    with pytest.raises(ValueError, match="one number a row"):
        multipliers(lambda rows: rows, constant(2, 5), GUIDED_BACKPROP)


def test_the_error_advises_what_the_reader_can_change() -> None:
    """The line is the model's, or the target's, or limelight's own, or out of sight."""

    def advice(where: str) -> str:
        return str(UncoveredOperator("LRP", "frobnicate", where))

    package = Path(limelight.__file__).parent
    assert "write that line with operators of docs/rules.md" in advice("/home/me/net.py:3, in forward")
    for own in (package / "question" / "targets.py", package / "models" / "pictures.py"):
        assert "that line" not in advice(f"{own}:7, in f")
    assert "target=Logit(c)" in advice(f"{package / 'question' / 'targets.py'}:7, in f")
    assert "that line" not in advice("called where the rule engine cannot see it: TorchScript")
    assert all("on_uncovered='gradient'" in advice(where) for where in ("/a.py:1, in f", "out of sight"))
