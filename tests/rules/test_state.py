"""Nothing of the model, of torch or of another thread changes; each example is alone in its batch."""

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limelight.rules import ATTN_LRP, DECONVNET, DEEPLIFT, GUIDED_BACKPROP, Propagation, composite, multipliers
from tests.rules.helpers import constant, frozen, randomise_batch_norm

pytestmark = pytest.mark.quick

METHODS = [DEEPLIFT["rescale"], DEEPLIFT["genomics"], GUIDED_BACKPROP, DECONVNET, composite("epsilon-plus")]
METHODS += [composite("epsilon-gamma-box"), ATTN_LRP]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.max_pool2d(x + self.body(x).relu_(), 3, 2)
        return self.head(x)  # type: ignore[no-any-return]


def _net() -> nn.Module:
    torch.manual_seed(0)
    return frozen(randomise_batch_norm(Net()))


def _given(propagation: Propagation, rows: int) -> dict[str, Tensor]:
    return {"reference": constant(rows, 3, 8, 8, seed=9)} if propagation.needs_reference else {}


@pytest.mark.parametrize("propagation", METHODS, ids=lambda p: p.name)
def test_each_example_is_alone_in_its_batch(propagation: Propagation) -> None:
    net, x = _net(), constant(4, 3, 8, 8)
    given = _given(propagation, 4)
    together = multipliers(lambda rows: net(rows)[:, 1], x, propagation, **given).values
    for i in range(4):
        one = {key: value[i : i + 1] for key, value in given.items()}
        alone = multipliers(lambda rows: net(rows)[:, 1], x[i : i + 1], propagation, **one).values
        assert torch.allclose(alone[0], together[i], rtol=1e-9, atol=1e-14)


def _snapshot(net: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = {
        name: (id(t), t.clone(), t.requires_grad, t.grad) for name, t in net.state_dict(keep_vars=True).items()
    }
    for name, module in net.named_modules():
        hooks = (len(v) for k, v in vars(module).items() if "hooks" in k and v is not None)
        state[f"module {name}"] = (id(module), type(module), module.training, tuple(hooks), set(vars(module)))
    functions = {f"F.{name}": id(value) for name, value in vars(F).items()}
    return (
        state
        | functions
        | {"torch.relu": id(torch.relu), "conv": id(nn.Conv2d.forward), "grad": torch.is_grad_enabled()}
    )


@pytest.mark.parametrize("fails", [False, True], ids=["success", "exception"])
@pytest.mark.parametrize("propagation", METHODS, ids=lambda p: p.name)
def test_nothing_changes(propagation: Propagation, fails: bool) -> None:
    net, x = _net(), constant(2, 3, 8, 8)
    kept, before = x.clone(), _snapshot(net)

    def score(rows: Tensor) -> Tensor:
        out = net(rows)
        if fails:
            raise KeyboardInterrupt
        return out[:, 1]  # type: ignore[no-any-return]

    try:
        multipliers(score, x, propagation, **_given(propagation, 2))
    except KeyboardInterrupt:
        assert fails
    after = _snapshot(net)
    assert before.keys() == after.keys()
    for name, value in before.items():
        if isinstance(value, tuple) and isinstance(value[1], Tensor):
            assert value[0] == after[name][0] and torch.equal(value[1], after[name][1]) and value[2:] == after[name][2:]
        else:
            assert value == after[name]
    assert torch.equal(x, kept) and not x.requires_grad
    assert torch.overrides._get_current_function_mode() is None


def test_the_model_may_write_into_its_input() -> None:
    x = constant(2, 5)
    kept = x.clone()
    found = multipliers(
        lambda rows: rows.mul_(2).relu_().sum(1), x, DEEPLIFT["rescale"], reference=torch.zeros(1, 5).double()
    )
    assert torch.equal(x, kept)
    assert torch.equal(found.values, 2 * x.clamp(min=0))


def test_two_threads_explain_the_same_model_at_once() -> None:
    net, x = _net(), constant(2, 3, 8, 8)
    pair = [DEEPLIFT["rescale"], composite("epsilon-plus")]
    alone = [multipliers(lambda rows: net(rows)[:, 1], x, p, **_given(p, 2)).values for p in pair]
    found: dict[tuple[int, int], Tensor] = {}
    barrier = threading.Barrier(2)

    def work(which: int) -> None:
        barrier.wait()
        for turn in range(10):
            propagation = pair[which]
            given = _given(propagation, 2)
            found[which, turn] = multipliers(lambda rows: net(rows)[:, 1], x, propagation, **given).values

    threads = [threading.Thread(target=work, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(torch.allclose(values, alone[which], rtol=1e-9, atol=1e-14) for (which, _), values in found.items())


def test_user_hooks_see_the_backward_pass_and_change_nothing_by_looking() -> None:
    net, x, seen = _net(), constant(2, 3, 8, 8), []
    expected = multipliers(lambda rows: net(rows)[:, 1], x, composite("epsilon-plus")).values
    net.head.register_full_backward_hook(lambda module, given, got: seen.append(module))  # type: ignore[union-attr, operator]
    found = multipliers(lambda rows: net(rows)[:, 1], x, composite("epsilon-plus")).values
    assert torch.equal(found, expected) and seen
