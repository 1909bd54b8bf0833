"""What the positive and the negative part of a unit's change contribute, against the rules written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import limelight as ll

RULES = ["rescale", "reveal-cancel", "genomics"]


def mlp(inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(3)
    layers = [nn.Linear(5, 6), nn.LeakyReLU(0.1, inplace), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 2)]
    return nn.Sequential(*layers).double().eval().requires_grad_(False)


def linear(layer: nn.Module, below: Tensor) -> tuple[Tensor, Tensor]:
    """The terms of each sign."""
    assert isinstance(layer, nn.Linear)
    terms = below[:, None] * layer.weight
    return terms.clamp(min=0).sum(2), terms.clamp(max=0).sum(2)


def nonlinear(f: nn.Module, at: Tensor, up: Tensor, down: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """The effect of each part on the output."""
    if rule == "rescale":
        slope = (f(at + up + down) - f(at)) / (up + down)
        return slope * up, slope * down
    one = (f(at + up) - f(at) + f(at + up + down) - f(at + down)) / 2
    other = (f(at + down) - f(at) + f(at + up + down) - f(at + up)) / 2
    return one, other


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_every_layer_of_a_network_by_hand(rule: str, inplace: bool) -> None:
    plain, net = mlp(), mlp(inplace)
    x, b = torch.randn(3, 5, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64)
    h0, y0, z0 = (plain[:k](b) for k in (1, 2, 3))
    parts: dict[str, tuple[Tensor, Tensor]] = {"0": linear(plain[0], x - b)}
    parts["1"] = nonlinear(plain[1], h0, *parts["0"], rule)
    parts["2"] = linear(plain[2], plain[:2](x) - y0)
    parts["3"] = nonlinear(plain[3], z0, *parts["2"], rule)
    # Multipliers from the top down: those of a nonlinearity's input differ by part, those of its output do not.
    top = plain[4].weight[1].expand(3, -1)  # type: ignore[index]
    at_z = [top * (out / part).nan_to_num() for out, part in zip(parts["3"], parts["2"], strict=True)]
    weight, change = plain[2].weight, (plain[:2](x) - y0)[:, None]
    share = ((change * weight) > 0).double()
    at_y = ((share * at_z[0][:, :, None] + (1 - share) * at_z[1][:, :, None]) * weight).sum(1)
    at_h = [at_y * (out / part).nan_to_num() for out, part in zip(parts["1"], parts["0"], strict=True)]
    expected = {"0": at_h, "1": [at_y, at_y], "2": at_z, "3": [top, top]}
    for layer, multipliers in expected.items():
        for part, size, multiplier in zip(("positive", "negative"), parts[layer], multipliers, strict=True):
            asked = {
                multiply: ll.AtLayer(ll.DeepLift(rule, part=part, multiply=multiply), layer)  # type: ignore[arg-type]
                for multiply in (True, False)
            }
            found = ll.explain(net, x, asked[True], target=1, baseline=b)
            assert float((found.values - size * multiplier).abs().max()) < 1e-12, (layer, part)
            own = ll.explain(net, x, asked[False], target=1, baseline=b).values
            torch.testing.assert_close(own[size != 0], multiplier[size != 0], atol=1e-12, rtol=0)


class Residual(nn.Module):
    """Convolutions, a batch norm with scales of both signs, a residual sum, pooling and moves."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.body, self.pool, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2), nn.Linear(64, 3)
        self.norm.weight.data = torch.tensor([1.0, -0.7, 0.5, -1.2])
        self.norm.running_mean = torch.tensor([0.1, -0.2, 0.3, 0.0])

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.stem(x))
        h = self.act(h + self.body(self.act(h.clone())))
        return self.head(self.pool(h).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("layer", ["stem", "norm", "act#0", "act#1", "body", "add#0", "pool", "head"])
@pytest.mark.parametrize("rule", RULES)
def test_the_parts_add_up_alone_and_in_a_batch(rule: str, layer: str) -> None:
    torch.manual_seed(1)
    net = Residual().double().eval().requires_grad_(False)
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)

    def values(inputs: Tensor, **settings: object) -> Tensor:
        method = ll.AtLayer(ll.DeepLift(rule, **settings), layer)  # type: ignore[arg-type]
        found = ll.explain(net, inputs, method, target=2, baseline=0.4)
        assert found.raw is not None
        return found.raw

    whole, up, down = values(x), values(x, part="positive"), values(x, part="negative")
    torch.testing.assert_close(up + down, whole, atol=1e-12, rtol=0)
    assert float(up.abs().max()) > 1e-4 and float(down.abs().max()) > 1e-4
    torch.testing.assert_close(values(x[1:], part="positive"), up[1:], atol=1e-12, rtol=0)


def test_a_negative_scale_exchanges_the_parts() -> None:
    """Of a unit after the norm, what raises it is what lowers the convolution's."""
    torch.manual_seed(1)
    net = Residual().double().eval().requires_grad_(False)
    net.act = nn.Identity()  # so that the multipliers of both parts are one
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)

    def size(part: str, layer: str) -> Tensor:
        found = [
            ll.explain(net, x, ll.AtLayer(ll.DeepLift(part=part, multiply=each), layer), target=2, baseline=0.4)  # type: ignore[arg-type]
            for each in (True, False)
        ]
        assert found[0].raw is not None and found[1].raw is not None
        return found[0].raw / found[1].raw

    scale = (net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()).view(4, 1, 1)  # type: ignore[operator]
    kept, other = size("positive", "stem"), size("negative", "stem")
    read = size("positive", "norm")
    torch.testing.assert_close(read, torch.where(scale < 0, other, kept) * scale, atol=1e-9, rtol=0)
    assert float(read.min()) >= 0


def test_of_the_input_the_parts_are_the_features_that_rose_and_fell() -> None:
    net, x = mlp(), torch.tensor([[1.0, -2.0, 0.5, 0.0, -0.1]], dtype=torch.float64)
    whole = ll.explain(net, x, "deep-lift", target=0).values
    for part, rose in (("positive", x > 0), ("negative", x < 0)):
        found = ll.explain(net, x, f"deep-lift(part={part})", target=0)
        torch.testing.assert_close(found.values, torch.where(rose, whole, 0.0), atol=1e-15, rtol=0)
        assert found.delta.isnan().all()


def test_a_part_that_there_is_not() -> None:
    with pytest.raises(ValueError, match=r"DeepLift.part='up': use 'both', 'positive' or 'negative'"):
        ll.DeepLift(part="up")  # type: ignore[arg-type]
