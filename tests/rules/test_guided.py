"""DeconvNet and Guided Backprop: every spelling of the rectifier, and a hand-written reference on real networks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from limelight.rules import DECONVNET, GUIDED_BACKPROP, Propagation, multipliers
from tests.rules.helpers import constant, frozen, logit

torchvision = pytest.importorskip("torchvision")
aten = torch.ops.aten


def _imul(x: Tensor) -> Tensor:
    y = x * 1
    alias = y
    torch.relu_(y)
    return alias


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x.clone(), inplace=True),
    "torch.relu": torch.relu,
    "torch.relu_": lambda x: torch.relu_(x.clone()),
    "F.relu_": lambda x: F.relu_(x.clone()),
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_": lambda x: x.clone().relu_(),
    "aten.relu": aten.relu.default,
    "aten.relu_": lambda x: aten.relu_.default(x.clone()),
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": lambda x: nn.ReLU(inplace=True)(x.clone()),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "clip": lambda x: torch.clip(x, 0),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "leaky 0": lambda x: F.leaky_relu(x, 0.0),
    "an alias": _imul,
}


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("propagation", [GUIDED_BACKPROP, DECONVNET], ids=lambda p: p.name)
def test_spelling(name: str, propagation: Propagation) -> None:
    x, before, after = constant(3, 5), constant(5, 5, seed=1), constant(5, seed=2)
    z = F.linear(x, before)
    found = multipliers(lambda r: torch.mv(SPELLINGS[name](F.linear(r, before)), after), x, propagation)
    passed = after.clamp(min=0).expand_as(z) * (1 if propagation is DECONVNET else z > 0)
    assert torch.allclose(found.values, passed.to(x) @ before, rtol=1e-13)
    assert not torch.allclose(found.values, (after * (z > 0)) @ before)


@pytest.mark.parametrize("name", ["relu6", "leaky_relu", "hardtanh"])
def test_relatives_keep_their_slope(name: str) -> None:
    x, after = 4 * constant(3, 5), constant(5, seed=2)
    f = getattr(F, name)
    found = multipliers(lambda r: torch.mv(f(r), after), x, GUIDED_BACKPROP)
    slope = torch.autograd.functional.jvp(f, x, torch.ones_like(x))[1]
    assert isinstance(slope, Tensor)
    assert torch.equal(found.values, slope * after.clamp(min=0))


class _Reference(TorchFunctionMode):
    """Guided backprop by hand: after every functional rectifier, a hook on the gradient."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.relu:
            return func(*args, **(kwargs or {}))
        self.count += 1
        x = args[0].clone()  # what an in-place call overwrites is not looked at again by these networks
        y = torch.clamp(x, min=0)
        y.register_hook(lambda g: g.clamp(min=0))
        return y


@pytest.mark.parametrize(
    ("name", "rectifiers"), [("googlenet", 57), ("densenet121", 121)], ids=["googlenet", "densenet121"]
)
def test_equal_to_a_hand_written_reference(name: str, rectifiers: int) -> None:
    torch.manual_seed(0)
    given = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    model = frozen(getattr(torchvision.models, name)(**given))
    x = constant(1, 3, 32, 32)
    leaf = x.clone().requires_grad_()
    with _Reference() as reference:
        out = model(leaf)[:, 3].sum()
    (expected,) = torch.autograd.grad(out, leaf)
    assert reference.count == rectifiers
    found = multipliers(logit(model, 3), x, GUIDED_BACKPROP).values
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
    plain = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(plain)[:, 3].sum(), plain)
    assert (found - gradient).abs().max() > 0.1 * gradient.abs().max()


def test_worked_numbers() -> None:
    conv, dense = nn.Conv2d(1, 2, 3), nn.Linear(8, 4)
    with torch.no_grad():
        conv.weight.fill_(1)
        conv.bias.copy_(torch.tensor([-50.0, -75.0]))  # type: ignore[union-attr]
        dense.weight.copy_(torch.tensor([1.0] * 5 + [-1.0] * 3).expand(4, 8))
        dense.bias.zero_()
    score = logit(nn.Sequential(conv, nn.ReLU(), nn.Flatten(), dense, nn.ReLU()))
    found = multipliers(score, torch.arange(16).double().view(1, 1, 4, 4), GUIDED_BACKPROP)
    assert found.values[0, 0].tolist() == [[0, 1, 1, 1], [1, 3, 3, 2], [1, 3, 3, 2], [1, 2, 2, 1]]
