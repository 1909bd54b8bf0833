"""Every architecture of the zoo: maps against their definitions written out, alone and in a batch; nothing is left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from tests.zoo.architectures import ZOO, Architecture
from tests.zoo.cam_layers import CAM_LAYERS

pytestmark = pytest.mark.long
pytest.importorskip("timm", reason="timm is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
SILENT = {"timm coat"}  # what its head reads is a token of its own
EXACT = 1e-9
CASE = tuple[str, nn.Module, Tensor, int]


@pytest.fixture(scope="module", params=list(ZOO))
def case(request: pytest.FixtureRequest) -> Iterator[CASE]:
    """An architecture's name, its network, two examples, and the class that the first one's outputs put first."""
    architecture: Architecture = ZOO[request.param]
    net, x = architecture.network(), architecture.examples(2)
    yield request.param, net, x, int(net(x[:1]).argmax())


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest expected value, which is not 0."""
    assert found.shape == expected.shape and float(expected.abs().max()) > 0
    return float((found - expected).abs().max() / expected.abs().max())


def gradient(net: nn.Module, x: Tensor, target: int) -> Tensor:
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(net(leaf)[:, target].sum(), leaf)
    return found


def state_of(net: nn.Module) -> dict[str, Any]:
    """Everything that a call could leave behind: values, flags, hooks, attributes."""
    state: dict[str, Any] = {name: each.clone() for name, each in net.state_dict().items()}
    for name, module in net.named_modules():
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        state[f"{name}: module"] = (module.training, hooks, sorted(vars(module)))
    return state | {f"{name}: wants": each.requires_grad for name, each in net.named_parameters()}


def same_state(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return before.keys() == after.keys() and all(
        torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
        for name, value in before.items()
    )


def test_gradient_is_the_slope_alone_and_in_a_batch(case: CASE) -> None:
    name, net, x, target = case
    before = state_of(net)
    both = ll.explain(net, x, "gradient", target=target).values
    alone = ll.explain(net, x[:1], "gradient", target=target).values
    assert difference(alone, both[:1]) < EXACT
    # One of several steps, since a longer one crosses kinks and a shorter one rounds; that of the middle often does.
    direction = torch.randn(x[:1].shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    direction *= float(alone.norm() / direction.norm()) / float(alone.norm()) * 0.1
    direction += 0.1 * alone / alone.norm()  # so that the slope is not small by chance
    slope = float((alone * direction).sum())
    near = (1e-3 if ZOO[name].coarse else 1e-5) * abs(slope)

    def measured(step: float) -> float:
        with torch.no_grad():
            up, down = (net(x[:1] + side * step * direction)[0, target] for side in (1, -1))
        return float(up - down) / (2 * step)

    assert any(abs(measured(10.0**-power) - slope) < near for power in (4, 5, 3, 6, 2, 7, 1, 8, 9, 10))
    assert same_state(before, state_of(net))


def test_integrated_gradients_by_hand(case: CASE) -> None:
    _, net, x, target = case
    found = ll.explain(net, x, "integrated-gradients(midpoint(2))", target=target, baseline=0.3).values
    along = sum(gradient(net, 0.3 + share * (x - 0.3), target) for share in (0.25, 0.75)) / 2
    assert difference(found, (x - 0.3) * along) < EXACT


def test_occlusion_by_brute_force(case: CASE) -> None:
    """Halves of each axis, hidden one after the other."""
    _, net, x, target = case
    window = tuple(-(-size // 2) for size in x.shape[2:])
    method = ll.Occlusion(window=window, stride=window, border="cut")
    found = ll.explain(net, x, method, target=target, baseline=0.3).values
    expected = torch.zeros_like(x[:, :1])
    with torch.no_grad():
        score = net(x)[:, target]
        for corner in (
            torch.cartesian_prod(*(torch.tensor([0, step]) for step in window)).view(-1, len(window)).tolist()
        ):
            place = (slice(None), slice(None), *(slice(a, a + step) for a, step in zip(corner, window, strict=True)))
            hidden = x.clone()
            hidden[place] = 0.3
            expected[place] = (score - net(hidden)[:, target]).view(-1, *[1] * (x.ndim - 1))
    assert difference(found, expected) < EXACT


def test_deep_lift_is_complete(case: CASE) -> None:
    name, net, x, target = case
    a = ll.explain(net, x, "deep-lift", target=target, baseline=0.3)
    sums = a.values.flatten(1).sum(1)
    near = 1e-5 if ZOO[name].coarse else 1e-7
    assert difference(sums, a.score - a.baseline_score) < near
    alone = ll.explain(net, x[:1], "deep-lift", target=target, baseline=0.3).values
    assert difference(alone, a.values[:1]) < near


def test_grad_cam_of_the_layer_that_is_meant(case: CASE) -> None:
    """By name and grid; and where the layer is one module's only output, its map by hand."""
    name, net, x, target = case
    a = ll.explain(net, x, "grad-cam(relu=false)", target=target)
    assert a.raw is not None
    assert (a.layer, tuple(a.raw.shape[2:])) == CAM_LAYERS[name]
    assert a.layer is not None
    if "#" in a.layer or "[" in a.layer:
        return
    kept: list[Tensor] = []

    def keep(module: nn.Module, given: Any, output: Any) -> Any:
        rows = [each for each in (output if isinstance(output, tuple) else [output]) if len(each) == len(x)]
        kept.append(rows[0])
        # The network goes on with a copy, since it may write into it.
        return rows[0].clone() if output is rows[0] else output

    handle = net.get_submodule(a.layer).register_forward_hook(keep)
    score = net(x.clone().requires_grad_())[:, target].sum()
    handle.remove()
    (output,) = kept
    (slope,) = torch.autograd.grad(score, output)
    grid = a.raw.shape[2:]
    maps = [positions_last(each.detach(), grid) for each in (output, slope)]
    by_hand = (maps[1].mean(2, keepdim=True) * maps[0]).sum(1)
    assert difference(a.raw.flatten(1), by_hand) < EXACT


def positions_last(output: Tensor, grid: torch.Size) -> Tensor:
    """An output's values `(rows, channels, positions)`, whether it has channels first, last, or tokens."""
    if output.shape[2:] == grid:
        return output.flatten(2)
    if output.ndim == 3:  # of tokens, of which the last are the positions
        return output[:, -grid.numel() :].transpose(1, 2)
    assert output.shape[1:-1] == grid
    return output.flatten(1, -2).transpose(1, 2)


CONSTANTS = re.compile(r"bias|beta|pos|_tokens?_?\d?$|latent|class_embedding")


def without_constants(net: nn.Module) -> nn.Module:
    """The network without what it adds to its input's share: biases, positions, tokens of its own, batch means."""
    for place, module in net.named_modules():
        for name, parameter in module.named_parameters(place, recurse=False):
            if isinstance(module, nn.Embedding) or CONSTANTS.search(name):
                parameter.data.zero_()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.zero_()
    return net


def test_relevance_is_conserved_without_constants(case: CASE) -> None:
    name, _, x, _ = case
    net = without_constants(ZOO[name].network())
    scores = net(x[:1])[0]
    target = int(scores.abs().argmax())
    assert (float(scores[target].abs()) < 1e-12) == (name in SILENT)
    if name not in SILENT:
        a = ll.explain(net, x[:1], "cplrp", target=target)
        assert abs(float(a.values.sum() / a.score) - 1) < (1e-4 if ZOO[name].coarse else 1e-6)
