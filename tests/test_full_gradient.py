"""FullGrad and the gradients at layers that it reads, against definitions worked out slowly in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.engine.runner import Runner
from limelight.engine.score import GradientPass, Score
from limelight.models.catalogue import ImageModel, Preprocessing
from limelight.question.registries import as_target

from .networks import conv_net, pictures
from .test_methods import Counting

pytestmark = pytest.mark.quick

D = torch.float64


def drawn_norms(net: nn.Module) -> nn.Module:
    """The network in float64 and eval mode, its norms with statistics, weights and biases of their own."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2.0)
                if module.affine:
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.uniform_(-0.5, 0.5)
    return net.double().eval()


def relu_net() -> nn.Module:
    torch.manual_seed(3)
    return drawn_norms(
        nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1),
            nn.BatchNorm2d(5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(5, 4, 3, bias=False),
            nn.BatchNorm2d(4, affine=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16, 6),
            nn.ReLU(),
            nn.Linear(6, 3),
        )
    )


def sums(a: ll.Attribution) -> Tensor:
    return a.values.flatten(1).sum(1)


@contextmanager
def score_of(net: nn.Module, x: Tensor, rows_per_pass: int | None = None) -> Iterator[Score]:
    with Runner(net, x, rows_per_pass, None) as runner:
        yield Score(runner, as_target(0, len(x)), torch.arange(len(x)))


def gradients_by_probes(net: nn.Module, x: Tensor, target: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradients at x and at the output of each module of `relu_net()`: of a zero that is added to it."""
    net.requires_grad_(False)
    for module in net:
        module.inplace = False
    x, h, probes = x.clone().requires_grad_(), x, {}
    h = x
    for name, module in net.named_children():
        h = module(h)
        probes[name] = torch.zeros_like(h, requires_grad=True)
        h = h + probes[name]
    own, *others = torch.autograd.grad(h[:, target].sum(), [x, *probes.values()])
    return own, dict(zip(probes, others, strict=True))


def effective_biases(net: nn.Module) -> dict[str, Tensor]:
    """The bias of each module of `relu_net()` as its definition has it."""
    first, second = net[1], net[5]
    return {
        "0": net[0].bias,
        "1": first.bias - first.running_mean * first.weight / (first.running_var + first.eps).sqrt(),
        "5": -second.running_mean / (second.running_var + second.eps).sqrt(),
        "8": net[8].bias,
        "10": net[10].bias,
    }


def test_by_hand_in_one_dimension() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double()  # f = relu(2x - 1) + 3
    with torch.no_grad():
        net[0].weight.fill_(2), net[0].bias.fill_(-1), net[2].weight.fill_(1), net[2].bias.fill_(3)
    a = ll.explain(net, torch.tensor([[2.0], [0.0]], dtype=D), ll.FullGrad(), target=0)
    assert a.values.tolist() == [[4 - 1 + 3], [3]] and a.score.tolist() == [6, 3]
    assert [note.example for note in a.cautions] == [1]  # flat there: 3 is the last bias
    assert "sum to the score f(x) itself" in a.method.no_sum


def test_by_hand_in_two_dimensions() -> None:
    net = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)).double()  # f = 2 relu(2a - b - 1) + 3
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[2.0, -1.0]])), net[0].bias.fill_(-1)
        net[2].weight.fill_(2), net[2].bias.fill_(3)
    x = torch.tensor([[2.0, 1.0]], dtype=D)
    # Input terms 2 * 4 and 1 * -2; biases -1 * 2 + 3 = 1, half of it each.
    assert ll.explain(net, x, ll.FullGrad(), target=0).values.tolist() == [[8.5, -1.5]]
    # |8| and |-2| stretched to [0, 1]; no bias has a map.
    assert ll.explain(net, x, ll.FullGrad(signed=False), target=0).values.tolist() == [[1, 0]]


def test_bias_gradients_are_those_of_the_bias_parameters() -> None:
    net, x = relu_net(), pictures()
    names = ["0", "1", "8", "10"]
    with score_of(net, x, 2) as score:
        passes = list(score.gradients_at(x, names))
    assert [found.position.tolist() for found in passes] == [[0, 1], [2]]
    for found in passes:
        for row, i in enumerate(found.position.tolist()):
            leaf = x[i : i + 1].clone().requires_grad_()
            score_there = net(leaf)[0, 0]
            own, *expected = torch.autograd.grad(score_there, [leaf, *(net[int(name)].bias for name in names)])
            torch.testing.assert_close(found.gradient[row], own[0])
            torch.testing.assert_close(found.scores[row], score_there.detach())
            for name, gradient in zip(names, expected, strict=True):
                ((output, slope),) = found.runs[name]
                assert output.shape == slope.shape
                torch.testing.assert_close(slope[row].flatten(1).sum(1) if slope.ndim > 2 else slope[row], gradient)


def test_values_by_definition() -> None:
    net, x = relu_net(), pictures()
    a = ll.explain(net, x, ll.FullGrad(), target=1)
    own, slopes = gradients_by_probes(net, x, 1)
    parts = {
        name: bias.view(-1, *[1] * (slopes[name].ndim - 2)) * slopes[name]
        for name, bias in effective_biases(net).items()
    }
    with torch.no_grad():
        f = net(x)[:, 1]
    torch.testing.assert_close(sums(a), f, atol=1e-10, rtol=0)
    torch.testing.assert_close((x * own).flatten(1).sum(1) + sum(p.flatten(1).sum(1) for p in parts.values()), f)
    # Biases at the input's size stay where they are; the small maps' and the units' move, but keep their sums.
    exact = (x * own).sum(1) + parts["0"].sum(1) + parts["1"].sum(1)
    units = sum(parts[name].flatten(1).sum(1) for name in ("8", "10")) / 64
    small = a.values[:, 0] - exact - units.view(-1, 1, 1)
    torch.testing.assert_close(small.flatten(1).sum(1), parts["5"].flatten(1).sum(1))
    linear = F.interpolate(torch.eye(2, dtype=D)[None], size=8, mode="linear")[0]
    shares = linear / linear.sum(1, keepdim=True)
    torch.testing.assert_close(small, torch.einsum("nij,iy,jx->nyx", parts["5"].sum(1), shares, shares))
    assert a.values.shape == (3, 1, 8, 8) and not a.cautions


def test_the_published_map_by_definition() -> None:
    net, x = relu_net(), pictures()
    a = ll.explain(net, x, ll.FullGrad(signed=False), target=1)
    own, slopes = gradients_by_probes(net, x, 1)
    biases = effective_biases(net)
    for i in range(3):
        channels = list(x[i] * own[i])
        for name in ("0", "1", "5"):
            channels += [biases[name][c] * slopes[name][i, c] for c in range(len(biases[name]))]
        expected = torch.zeros(8, 8, dtype=D)
        for channel in channels:
            size = channel.abs()
            width = float(size.max() - size.min())
            psi = (size - size.min()) / width if width else torch.zeros_like(size)
            expected += F.interpolate(psi[None, None], size=(8, 8), mode="bilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(a.values[i, 0], expected)
    assert a.values.min() >= 0 and "promise no sum" in a.method.no_sum


class Reused(nn.Module):
    """A convolution and a norm that run twice, a saturated ReLU6, and a classifier that does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act, self.head, self.auxiliary = nn.ReLU6(inplace=True), nn.Linear(4, 2), nn.Linear(4, 7)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(20 * self.stem(x))
        for _ in range(2):
            h = h + self.act(self.norm(self.body(h)))
        out: Tensor = self.head(h.mean((2, 3)))
        return out


def deconvolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.Hardtanh(-0.1, 0.2),
        nn.ConvTranspose2d(4, 2, 2),
        nn.Flatten(),
        nn.Linear(32, 2),
    )


def sequence() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Unflatten(1, (4, 48)), nn.Conv1d(4, 3, 5), nn.BatchNorm1d(3), nn.ReLU(),
        nn.Linear(44, 6), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(18), nn.Linear(18, 2),
    )  # fmt: skip


@pytest.mark.parametrize(
    "make", [Reused, deconvolution, sequence, lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 2))]
)
def test_sums_to_the_score(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(1)
    net, x = drawn_norms(make()), pictures() - 0.3
    for target in (0, ll.Margin(1, other=0)):
        a = ll.explain(net, x, ll.FullGrad(), target=target)
        torch.testing.assert_close(sums(a), a.score, atol=1e-10, rtol=0)
        assert not a.cautions
    if isinstance(net, Reused):
        assert (net.act(20 * net.stem(x)) == 6).any()
    flat = x.flatten(1)
    if make is not deconvolution:  # as features, the values have the input's shape
        net = nn.Sequential(nn.Unflatten(1, (3, 8, 8)), net)
        a = ll.explain(net, flat, ll.FullGrad(), target=0)
        assert a.values.shape == flat.shape
        torch.testing.assert_close(sums(a), a.score, atol=1e-10, rtol=0)


def test_the_mean_that_an_image_model_subtracts_is_a_bias() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(144, 2))
    model = ImageModel(net, Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))).double().eval()
    x = pictures()
    a = ll.explain(model, x, ll.FullGrad(), target=0)
    torch.testing.assert_close(sums(a), a.score, atol=1e-10, rtol=0)
    assert not a.cautions


@pytest.mark.parametrize("signed", [True, False])
def test_missing_terms_are_a_caution(signed: bool) -> None:
    class Functional(nn.Module):
        """f = relu(2x) + 1, whose bias is no module's; the second output has none."""

        def forward(self, x: Tensor) -> Tensor:
            z = torch.relu(2 * x)
            return torch.cat([z + 1, z], 1)

    x = torch.tensor([[1.0], [2.0]], dtype=D)
    a = ll.explain(Functional(), x, ll.FullGrad(signed), target=[0, 0])
    found = [note for note in a.cautions if "INCOMPLETE" in note]
    assert [note.partition(":")[0] for note in found] == ["example 0", "example 1"]
    assert "sum to 2 and miss 33.3% of f(x) = 3" in found[0]
    assert not [
        note for note in ll.explain(Functional(), x, ll.FullGrad(signed), target=1).notes if "INCOMPLETE" in note
    ]
    smooth = ll.explain(conv_net(), pictures(1), ll.FullGrad(signed), target=0)
    assert any("INCOMPLETE" in note for note in smooth.cautions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounding_is_no_caution(dtype: torch.dtype) -> None:
    """Also where terms cancel and f(x) is small beside them."""
    net = relu_net().to(dtype)
    a = ll.explain(net, pictures(8).to(dtype), ll.FullGrad(), target=ll.Margin(0, other=1))
    assert not a.cautions and a.values.dtype == torch.float32


def test_it_costs_one_row_forward_and_backward() -> None:
    spy = Counting(relu_net())
    a = ll.explain(spy, pictures(1), ll.FullGrad(), target=0)
    assert (a.forward_rows, a.backward_rows) == (spy.rows, spy.backward_rows) == (2, 1)  # f(x), and its own


def test_settings_and_layers_are_checked() -> None:
    with pytest.raises(ValueError, match=r"FullGrad\.signed=1"):
        ll.FullGrad(1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gradients_at runs the whole model, not from '0' on"):
        ll.explain(relu_net(), pictures(1), ll.AtLayer(ll.FullGrad(), "0"), target=0)


class Layers(nn.Module):
    """Modules that return a tuple, a tensor without the rows first, one that the rows do not reach; one never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.recurrent, self.turned = nn.Linear(4, 4), nn.GRU(4, 4, batch_first=True), nn.Linear(3, 3)
        self.constant, self.unused, self.head = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(self.first(x)))
        h = h + self.recurrent(h[:, None])[0][:, 0] + self.constant(x.new_ones(1, 2))
        h = h + self.turned(h.T.unflatten(1, (-1, 1)).expand(-1, -1, 3)).mean((0, 2))[:, None]
        out: Tensor = self.head(h)
        return out


def test_layers_that_are_read() -> None:
    torch.manual_seed(0)
    net, x = Layers().double(), torch.rand(3, 4, dtype=D)
    with score_of(net, x) as score:
        (found,) = score.gradients_at(x, ["first", "constant", "unused", "head"])
        assert isinstance(found, GradientPass)
        assert {name: len(runs) for name, runs in found.runs.items()} == {
            "first": 2, "constant": 0, "unused": 0, "head": 1,
        }  # fmt: skip
        once, twice = (output for output, _ in found.runs["first"])
        torch.testing.assert_close(once, net.first(x).detach())
        torch.testing.assert_close(twice, net.first(net.first(x)).detach())
        assert found.runs["head"][0][1].tolist() == [[1, 0]] * 3 and not found.gradient.requires_grad
        with pytest.raises(ValueError, match=r"layer: 'recurrent' returns tuple, not a tensor"):
            list(score.gradients_at(x, ["recurrent"]))
        with pytest.raises(ValueError, match=r"layer: 'firsts' is not a module of the model; nearest: first"):
            list(score.gradients_at(x, ["firsts"]))
        with pytest.raises(ValueError, match=r"layer: 'turned' returned \(4, 2, 3\) for 2 rows"):
            list(score.select([0, 1]).gradients_at(x[:2], ["turned"]))
    scripted = nn.Sequential(torch.jit.script(nn.Linear(4, 4)), nn.Linear(4, 2)).double()
    with score_of(scripted, x) as score, pytest.raises(ValueError, match="'0' is TorchScript"):
        list(score.gradients_at(x, ["0"]))


def test_layers_of_several_targets_share_their_forward_pass() -> None:
    net, x = relu_net(), pictures()
    several = ll.explain(net, x, ll.FullGrad(), target=[[0, 1], [1, 2], [2, 0]])
    assert several.forward_rows == 3 + 3 + 1 and several.backward_rows == 6  # f(x), its own, the probe
    for k in range(2):
        alone = ll.explain(net, x, ll.FullGrad(), target=[(i + k) % 3 for i in range(3)])
        torch.testing.assert_close(several.values[:, k], alone.values)


def test_memory_of_layers_is_that_of_one_pass() -> None:
    """Passes are made when they are asked for, and none is kept."""
    spy, x = Counting(relu_net()), pictures(6)
    with score_of(spy, x, 2) as score:
        passes = score.gradients_at(x, ["net.0"])
        assert spy.passes == 0
        next(passes)
        assert spy.passes == 1
