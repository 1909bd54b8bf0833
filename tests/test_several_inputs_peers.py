"""Our maps of several inputs are Captum's: one, two and three tensors, baselines, given arguments, labels, targets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore::UserWarning:captum")]

attr = pytest.importorskip("captum.attr", reason="captum, the peer, is not installed")
linear = pytest.importorskip("captum._utils.models.linear_model", reason="captum, the peer, is not installed")

D = torch.float64
SIZES = (3, 2, 4)
TARGETS: list[Any] = [1, [2, 0, 1, 2]]


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D)


class Mixed(nn.Module):
    """Up to three tensors, each through a layer of its own, then added, rectified and mixed; scaled by example."""

    def __init__(self, count: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(count)
            self.own = nn.ModuleList(nn.Linear(size, 6).double() for size in SIZES[:count])
            self.relu, self.head = nn.ReLU(), nn.Linear(6, 3).double()

    def forward(self, *given: Any) -> Tensor:
        count = len(self.own)
        hidden = sum((layer(x) for layer, x in zip(self.own, given, strict=False)), torch.zeros((), dtype=D))
        scale, power = given[count:] or (1.0, 1)
        found: Tensor = self.head(self.relu(hidden)) * scale**power
        return found


def scene(count: int) -> tuple[Mixed, tuple[Tensor, ...], tuple[Any, ...]]:
    inputs = tuple(2 * numbers(4, size, seed=10 + i) for i, size in enumerate(SIZES[:count]))
    return Mixed(count), inputs, (numbers(4, 1, seed=1).abs() + 0.5, 2)


def baselines(kind: str, count: int) -> Any:
    each = {
        "none": 0,
        "numbers": tuple(0.5 - i for i in range(count)),
        "shared": tuple(numbers(1, size, seed=20 + i) for i, size in enumerate(SIZES[:count])),
        "each": tuple(numbers(4, size, seed=30 + i) for i, size in enumerate(SIZES[:count])),
        "mixed": tuple(1.5 if i == 1 else numbers(4, size, seed=40 + i) for i, size in enumerate(SIZES[:count])),
    }
    return each[kind]


def labels(count: int, own: bool) -> tuple[Tensor, ...]:
    """Labels that parts share, with the same ones for every example as Captum's games want them."""
    each = [torch.tensor([0, 1, 1]), torch.tensor([2, 0]), torch.tensor([1, 2, 3, 3])][:count]
    return tuple(torch.stack([part, part.flip(0), part, part]) if own else part[None] for part in each)


def assert_close(mine: Any, theirs: Any, within: float = 1e-5) -> None:
    """Relative to the largest value of all parts; Captum's games add up in float32."""
    largest = max(float(each.abs().max()) for each in theirs)
    for one, other in zip(mine, theirs, strict=True):
        assert one.shape == other.shape and float((one - other).abs().max()) <= within * largest


PAIRS: list[tuple[str, Any, Any, bool]] = [
    ("gradient", attr.Saliency, {"abs": False}, False),
    ("input-x-gradient", attr.InputXGradient, {}, False),
    ("guided-backprop", attr.GuidedBackprop, {}, False),
    ("deconv-net", attr.Deconvolution, {}, False),
    ("integrated-gradients(gauss-legendre(40))", attr.IntegratedGradients, {"n_steps": 40}, True),
    ("deep-lift", attr.DeepLift, {}, True),
    ("feature-ablation", attr.FeatureAblation, {}, True),
    ("exact-shapley", attr.ShapleyValues, {}, True),
    ("kernel-shap", attr.ShapleyValues, {}, True),
]


@pytest.mark.parametrize("target", TARGETS, ids=["one", "each"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("method", "theirs", "more", "compares"), PAIRS, ids=[name for name, *_ in PAIRS])
def test_methods(method: str, theirs: Any, more: dict[str, Any], compares: bool, count: int, target: Any) -> None:
    net, inputs, given = scene(count)
    if theirs is attr.ShapleyValues and count == 3:
        inputs = tuple(each[:, :2] for each in inputs)  # Captum runs every order: 9 players would be 362,880
        net.own = nn.ModuleList(nn.Linear(2, 6).double() for _ in SIZES)
    kinds = ("none", "numbers", "shared", "each", "mixed")
    if not compares or theirs is attr.ShapleyValues:
        kinds = kinds[:1]
    for kind in kinds:
        for extra in ((), given):
            # A single number is of one tensor to Captum.
            asked = {"baselines": None if kind == "none" else baselines(kind, count), **more} if compares else more
            expected = theirs(net).attribute(inputs, target=target, additional_forward_args=extra or None, **asked)
            own: dict[str, Any] = {"baseline": baselines(kind, count)} if compares else {}
            found = ll.explain(net, inputs, method, target=target, given=extra or None, **own)
            assert_close(found.values, expected)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_references(count: int) -> None:
    net, inputs, given = scene(count)
    data = tuple(numbers(5, size, seed=50 + i) for i, size in enumerate(SIZES[:count]))
    references = tuple(ll.Samples(each, 5) for each in data)
    expected = attr.DeepLiftShap(net).attribute(inputs, data, target=1, additional_forward_args=given)
    assert_close(ll.explain(net, inputs, "deep-shap", target=1, given=given, baseline=references).values, expected)
    # Captum's GradientShap draws the references of each tensor by itself, and so mixes examples of the data set.
    found = ll.explain(net, inputs, "expected-gradients(4000)", target=1, given=given, baseline=references)
    path = attr.IntegratedGradients(net)
    over = [
        path.attribute(inputs, tuple(each[k : k + 1] for each in data), 1, given, n_steps=400, method="riemann_middle")
        for k in range(5)
    ]
    exact = [torch.stack(each).mean(0) for each in zip(*over, strict=True)]
    for values, stderr, mean in zip(found.values, found.stderr, exact, strict=True):
        assert ((values - mean).abs() <= 6 * stderr + 1e-5).all()  # 1e-5: the midpoints at kinks
    if count > 1:
        return
    # For one tensor the two agree; the error is that of Captum's draws, which are not spread over the line.
    drawn = {"n_samples": 200, "stdevs": 0.0, "target": 1, "additional_forward_args": given}
    torch.manual_seed(0)
    runs = torch.stack([attr.GradientShap(net).attribute(inputs, data, **drawn)[0] for _ in range(20)])
    assert ((found.values[0] - runs.mean(0)).abs() <= 5 * runs.std(0) / 20**0.5 + 6 * found.stderr[0]).all()


@pytest.mark.parametrize("own", [False, True], ids=["shared", "each"])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    ("method", "theirs"),
    [(ll.ExactShapley, attr.ShapleyValues), (ll.KernelShap, attr.ShapleyValues), (ll.FeatureAblation, None)],
)
def test_labels_that_parts_share(method: Any, theirs: Any, count: int, own: bool) -> None:
    net, inputs, given = scene(count)
    asked = {"baselines": baselines("mixed", count), "target": [2, 0, 1, 2], "additional_forward_args": given}
    masks = labels(count, own)
    expected = (theirs or attr.FeatureAblation)(net).attribute(inputs, feature_mask=masks, **asked)
    found = ll.explain(
        net,
        inputs,
        method(players=ll.Segments(masks)),
        target=[2, 0, 1, 2],
        given=given,
        baseline=baselines("mixed", count),
    )
    # Captum repeats a player's value at each of its positions, ours share it.
    wide = torch.cat([each.expand(4, -1) for each in masks], 1)
    sizes = (wide[:, :, None] == wide[:, None]).sum(2).split(SIZES[:count], 1)
    assert_close([values * size for values, size in zip(found.values, sizes, strict=True)], expected)


def test_lime_without_penalty_over_equal_weights() -> None:
    net, inputs, given = scene(2)
    masks = labels(2, own=False)
    torch.manual_seed(0)
    similar = attr._core.lime.get_exp_kernel_similarity_function("euclidean", 1e6)
    peer = attr.Lime(net, interpretable_model=linear.SkLearnLinearRegression(), similarity_func=similar)
    expected = peer.attribute(
        inputs, target=1, additional_forward_args=given, feature_mask=masks, n_samples=3000, return_input_shape=True
    )
    lime = ll.Lime(players=ll.Segments(masks), kernel_width=1e6, alpha=0)
    found = ll.explain(net, inputs, lime, target=1, given=given)
    wide = torch.cat([each.expand(4, -1) for each in masks], 1)
    sizes = (wide[:, :, None] == wide[:, None]).sum(2).split(SIZES[:2], 1)
    # Captum draws coalitions with replacement, ours are all: its error is that of 3000 draws.
    assert_close([values * size for values, size in zip(found.values, sizes, strict=True)], expected, within=0.05)


class Windows(nn.Module):
    def forward(self, picture: Tensor, series: Tensor, scale: Tensor) -> Tensor:
        mixed = torch.relu(picture.sum(1)).flatten(1)[:, :8] * torch.tanh(series)
        return mixed.cumsum(1) * scale


@pytest.mark.parametrize("kind", ["number", "each"])
def test_windows_of_each_part(kind: str) -> None:
    picture, series, scale = numbers(3, 2, 4, 4, seed=1), numbers(3, 8, seed=2), numbers(3, 1, seed=3)
    base = (0.5, -1.0) if kind == "number" else (numbers(3, 2, 4, 4, seed=4), numbers(3, 8, seed=5))
    expected = attr.Occlusion(Windows()).attribute(
        (picture, series),
        sliding_window_shapes=((2, 2, 2), (4,)),
        strides=((2, 1, 2), (2,)),
        baselines=base,
        target=[7, 2, 5],
        additional_forward_args=scale,
    )
    parts = {"picture": picture, "series": series}
    for place, (name, window, stride) in enumerate((("picture", (2, 2), (1, 2)), ("series", 4, 2))):
        given = {"scale": scale, **{other: each for other, each in parts.items() if other != name}}
        found = ll.explain(
            Windows(),
            {name: parts[name]},
            ll.Occlusion(window, stride),
            target=[7, 2, 5],
            given=given,
            baseline={name: base[place]},
        )
        assert_close([found.values[name].expand_as(parts[name])], [expected[place]])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_layers_and_neurons(count: int) -> None:
    net, inputs, given = scene(count)
    base = baselines("each", count)
    for layer, module in (("relu", net.relu), ("head", net.head)):
        for method, theirs in (
            (ll.IntegratedGradients(ll.GaussLegendre(30)), attr.LayerIntegratedGradients(net, module)),
            (ll.InputXGradient(), attr.LayerGradientXActivation(net, module)),
        ):
            compares = {"baselines": base, "n_steps": 30} if method.needs.baseline else {}
            expected = theirs.attribute(inputs, target=2, additional_forward_args=given, **compares)
            found = ll.explain(net, inputs, ll.AtLayer(method, layer), target=2, given=given, baseline=base)
            raw = found[0].raw if found.whole is None else found.values
            assert_close([raw], [expected])
        expected = attr.NeuronGradient(net, module).attribute(inputs, 1, additional_forward_args=given)
        neuron = ll.Neuron(layer, index=1)
        assert_close(ll.explain(net, inputs, "gradient", target=neuron, given=given).values, expected)


def test_noise_of_none_changes_nothing() -> None:
    net, inputs, given = scene(3)
    expected = attr.NoiseTunnel(attr.IntegratedGradients(net)).attribute(
        inputs, nt_samples=4, stdevs=0.0, target=1, additional_forward_args=given, n_steps=20
    )
    inner = ll.IntegratedGradients(ll.GaussLegendre(20))
    found = ll.explain(net, inputs, ll.SmoothGrad(inner, samples=4, noise=0), target=1, given=given)
    assert_close(found.values, expected)


def test_relevance_is_shared_by_parts_where_captum_counts_it_twice() -> None:
    """Captum's rules end at the module; the sum before it passes all relevance on to each of its terms."""

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.relu, self.head = nn.Linear(3, 5).double(), nn.ReLU(), nn.Linear(5, 2).double()

        def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
            found: Tensor = self.head(self.relu(self.first(a if b is None else a + b)))
            return found

    torch.manual_seed(0)
    net, a, b = Chain(), numbers(2, 3, seed=1), numbers(2, 3, seed=2)
    whole = attr.LRP(net).attribute(a + b, target=1).detach()
    assert_close([ll.explain(net, a + b, ll.LRP("zero"), target=1).values], [whole])
    twice = attr.LRP(net).attribute((a, b), target=1)
    assert_close(twice, (whole, whole))
    found = ll.explain(net, (a, b), ll.LRP("zero"), target=1)
    assert_close([sum(found.values)], [whole])
    assert_close(found.values, (whole * a / (a + b), whole * b / (a + b)))
