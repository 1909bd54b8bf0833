"""The engine among torch's other machinery: checkpointing, autocast, views, odd spellings; and the operator names."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from limelight.rules import ATTN_LRP, DEEPLIFT, GUIDED_BACKPROP, Propagation, UncoveredOperator, composite, multipliers
from limelight.rules.names import ACTIVATIONS, AVERAGES, CONVOLUTIONS, DROPOUTS, NORMALISATIONS, canonical
from tests.rules.helpers import constant, frozen, randomise_batch_norm

pytestmark = pytest.mark.quick

METHODS = [DEEPLIFT["rescale"], DEEPLIFT["reveal-cancel"], GUIDED_BACKPROP, composite("epsilon-plus"), ATTN_LRP]


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True)]
    net = frozen(randomise_batch_norm(nn.Sequential(*first, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))))
    assert isinstance(net, nn.Sequential)
    return net


def _given(propagation: Propagation, *shape: int) -> dict[str, Tensor]:
    return {"reference": constant(*shape, seed=9)} if propagation.needs_reference else {}


@pytest.mark.parametrize("propagation", METHODS, ids=lambda p: p.name)
def test_activation_checkpointing_changes_nothing(propagation: Propagation) -> None:
    """Recomputing in the backward pass, out of the mode's sight, would bring the plain derivatives back."""
    net, x = _net(), constant(2, 3, 8, 8)

    def saving(rows: Tensor) -> Tensor:
        middle = checkpoint(net[:3], rows, use_reentrant=False)
        return net[5:](checkpoint(net[3:5], middle, use_reentrant=False))[:, 0]  # type: ignore[no-any-return]

    given = _given(propagation, 2, 3, 8, 8)
    expected = multipliers(lambda rows: net(rows)[:, 0], x, propagation, **given)
    assert torch.equal(multipliers(saving, x, propagation, **given).values, expected.values)


@pytest.mark.parametrize("propagation", METHODS, ids=lambda p: p.name)
def test_autocast_agrees_to_its_own_precision(propagation: Propagation) -> None:
    net, x = _net().float(), constant(2, 3, 8, 8).float()

    def low(rows: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return net(rows)[:, 0].float()  # type: ignore[no-any-return]

    given = {key: value.float() for key, value in _given(propagation, 2, 3, 8, 8).items()}
    expected = multipliers(lambda rows: net(rows)[:, 0], x, propagation, **given).values
    found = multipliers(low, x, propagation, **given).values
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_a_view_overwritten_in_place_is_seen_through_its_base() -> None:
    x, reference = constant(2, 3, 4), constant(2, 3, 4, seed=1)

    def score(rows: Tensor) -> Tensor:
        y = rows * 2
        y[:, :2].relu_()
        return y.sum((1, 2))

    found = multipliers(score, x, DEEPLIFT["rescale"], reference=reference)
    assert torch.allclose(found.values.sum((1, 2)), score(x) - score(reference), rtol=1e-12)


W = constant(4, 4)
ODD: dict[str, Callable[[Tensor], Tensor]] = {
    "tensor exponent": lambda x: x ** torch.tensor(2.0),
    "einsum of a list": lambda x: torch.einsum("bi,ij->bj", [x, W]),
    "keywords": lambda x: torch.mul(input=F.linear(weight=W, input=x), other=torch.sigmoid(input=x)),
    "keyword softmax": lambda x: F.softmax(input=x, dim=1),
    "sqrt at zero": lambda x: torch.sqrt((x - x).square() + torch.relu(x)),
    "minus infinity": lambda x: torch.softmax(torch.cat([x, torch.full_like(x, -torch.inf)], 1), 1)[:, :4],
}


@pytest.mark.parametrize("f", ODD.values(), ids=ODD)
def test_odd_spellings(f: Callable[[Tensor], Tensor]) -> None:
    x, reference, v = constant(3, 4), constant(3, 4, seed=1), constant(4, seed=2)

    def score(rows: Tensor) -> Tensor:
        return torch.mv(f(rows), v)

    found = multipliers(score, x, DEEPLIFT["rescale"], reference=reference)
    assert torch.allclose(found.values.sum(1), score(x) - score(reference), rtol=1e-11)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: torch.div(x, 2, rounding_mode="floor"),
        lambda x: F.linear(W[:1], x).mT,
        lambda x: x.round(),
    ],
    ids=["rounding", "weights from activations", "round"],
)
def test_what_looks_linear_and_is_not_the_rules_case_is_refused(f: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UncoveredOperator):
        multipliers(lambda rows: f(rows).sum(1), constant(3, 4), composite("epsilon"))


def test_batch_norm_folds_only_along_the_layers_outputs() -> None:
    """A dense layer over (rows, channels, length) has its outputs on the last axis, a batch norm on the second."""
    dense, norm = nn.Linear(5, 4), nn.BatchNorm1d(4)
    net = frozen(randomise_batch_norm(nn.Sequential(dense, norm)))
    norm = net[1]  # type: ignore[index, assignment]
    assert norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    x, v = constant(2, 4, 5), constant(16, seed=1)

    def apart(rows: Tensor) -> Tensor:
        return torch.mv((net[0](rows) * scale[:, None] + shift[:, None]).flatten(1), v)  # type: ignore[index, operator]

    found = multipliers(lambda rows: torch.mv(net(rows).flatten(1), v), x, composite("epsilon")).values
    assert torch.allclose(found, multipliers(apart, x, composite("epsilon")).values, rtol=1e-9)


@pytest.mark.parametrize("propagation", [composite("epsilon"), DEEPLIFT["reveal-cancel"]], ids=lambda p: p.name)
def test_an_overwritten_output_is_no_longer_its_layers(propagation: Propagation) -> None:
    """What follows must neither fold into the layer nor split its terms: the tensor holds something else by now."""
    net, x, v = _net(), constant(2, 3, 8, 8), constant(144, seed=1)

    def score(rows: Tensor, in_place: bool) -> Tensor:
        y = net[0](rows)
        twice = y.mul_(torch.linspace(-1, 2, 6).double()) if in_place else y * torch.linspace(-1, 2, 6).double()
        return torch.mv(torch.tanh(net[1](twice)).flatten(1), v)

    given = _given(propagation, 2, 3, 8, 8)
    expected = multipliers(lambda rows: score(rows, False), x, propagation, **given).values
    assert torch.allclose(multipliers(lambda rows: score(rows, True), x, propagation, **given).values, expected)


NAMES = sorted(ACTIVATIONS | AVERAGES | CONVOLUTIONS | DROPOUTS | NORMALISATIONS)


@pytest.mark.parametrize("name", NAMES)
def test_every_spelling_has_one_name(name: str) -> None:
    found = 0
    for place in (torch, F, torch.Tensor, torch.special, torch.ops.aten):
        for spelling, in_place in ((name, False), (f"{name}_", True)):
            function = getattr(place, spelling, None)
            if function is not None:
                found += 1
                assert canonical(function)[0].removeprefix("torch.") == name and canonical(function)[1] == in_place
    assert found or name in ("rpow", "rdiv", "torch.instance_norm")  # these exist as operators' methods only
