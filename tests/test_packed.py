"""Packed rows: the same function from weights laid out once, and plain rows wherever that is not so."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.engine import packed as engine_packed
from limelight.engine.bfloat16_rows import has_bfloat16
from limelight.engine.layers import LayerInput
from limelight.engine.packed import NotPacked, PackedWeights
from limelight.engine.packed_convolution import PackedConvolution, available
from limelight.engine.runner import Runner

pytestmark = pytest.mark.skipif(not available(), reason="this build of torch has no packed convolution")
SMALL = 1e-5
NOTE = "plain rows and not packed ones"


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


def shaken(net: nn.Module, smooth: bool = True) -> nn.Module:
    """The network frozen, in eval mode, with batch-norm statistics of its own, and smooth units in place of kinks."""
    generator = torch.Generator().manual_seed(1)
    for module in list(net.modules()):
        if isinstance(module, nn.BatchNorm2d):
            for buffer, low, high in ((module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 2.0)):
                assert buffer is not None
                buffer.uniform_(low, high, generator=generator)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.uniform_(-0.3, 0.3, generator=generator)
        for name, child in module.named_children():
            if smooth and isinstance(child, nn.ReLU | nn.ReLU6 | nn.Hardswish | nn.Hardsigmoid):
                setattr(module, name, nn.SiLU())
    return net.eval().requires_grad_(False)


def picture(size: int = 32, rows: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(rows, 3, size, size, generator=torch.Generator().manual_seed(seed))


# One convolution ---------------------------------------------------------------------------------------

CONVOLUTIONS: dict[str, tuple[dict[str, Any], tuple[int, int, int, int]]] = {
    "3x3": ({}, (2, 6, 9, 11)),
    "one row and column": ({}, (1, 6, 1, 1)),
    "stride 2, odd maps": ({"stride": 2}, (2, 6, 9, 11)),
    "stride 2, even maps": ({"stride": 2}, (2, 6, 10, 8)),
    "stem": ({"kernel_size": 7, "stride": 2, "padding": 3}, (2, 3, 17, 20)),
    "stem of a gray picture": ({"kernel_size": 7, "stride": 2, "padding": 3}, (2, 1, 32, 31)),
    "stem of four channels": ({"kernel_size": 3, "stride": 2}, (1, 4, 15, 16)),
    "stem without padding": ({"kernel_size": 3, "stride": 2, "padding": 0}, (1, 2, 15, 16)),
    "more padding than kernel": ({"kernel_size": 2, "stride": 3, "padding": (5, 7)}, (2, 2, 9, 9)),
    "stride beyond the kernel": ({"kernel_size": 1, "stride": 4, "padding": 0}, (2, 3, 9, 11)),
    "patches of 4": ({"kernel_size": 4, "stride": 4, "padding": 0}, (2, 3, 18, 21)),
    "patches of 16": ({"kernel_size": 16, "stride": 16, "padding": 0}, (1, 3, 48, 50)),
    "patches of 2, many channels": ({"kernel_size": 2, "stride": 2, "padding": 0}, (2, 16, 9, 8)),
    "1x1, stride 2": ({"kernel_size": 1, "stride": 2, "padding": 0}, (2, 5, 9, 8)),
    "1x7": ({"kernel_size": (1, 7), "padding": (0, 3)}, (2, 6, 9, 9)),
    "unequal strides": ({"stride": (2, 1)}, (2, 6, 9, 8)),
    "dilated": ({"dilation": 2, "padding": 2}, (2, 6, 9, 9)),
    "dilated, strided": ({"dilation": (2, 1), "stride": 2}, (2, 6, 9, 9)),
    "groups": ({"groups": 3}, (2, 6, 9, 9)),
    "strided groups": ({"groups": 3, "stride": 2}, (2, 6, 9, 9)),
    "depthwise": ({"groups": 6, "kernel_size": 5, "padding": 2}, (2, 6, 9, 9)),
    "strided depthwise": ({"groups": 6, "stride": 2}, (2, 6, 9, 9)),
    "wide padding, stride 1": ({"padding": 4}, (1, 6, 5, 6)),
    "padding same": ({"padding": "same"}, (2, 6, 9, 9)),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_equals_torchs_in_float64(name: str, bias: bool) -> None:
    settings, shape = CONVOLUTIONS[name]
    torch.manual_seed(0)
    conv = nn.Conv2d(shape[1], 12, **{"kernel_size": 3, "padding": 1, **settings}, bias=bias).requires_grad_(False)
    padding = engine_packed._padding(conv)
    assert padding is not None
    packed = PackedConvolution(conv.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)  # type: ignore[arg-type]
    exact, x = copy.deepcopy(conv).double(), torch.randn(shape)
    leaf, exact_leaf = x.clone().requires_grad_(), x.double().requires_grad_()
    out, expected = packed(leaf), exact(exact_leaf)
    slope = torch.randn_like(out)
    (found,), (wanted,) = (
        torch.autograd.grad(out, leaf, slope),
        torch.autograd.grad(expected, exact_leaf, slope.double()),
    )
    assert relative(out.detach(), expected.detach()) < 2e-6 and relative(found, wanted) < 2e-6
    with torch.no_grad():
        assert relative(packed(x), expected) < 2e-6


def test_other_sizes_and_numbers_of_rows_of_one_convolution() -> None:
    torch.manual_seed(0)
    packed = PackedConvolution(torch.randn(64, 32, 3, 3), None, (1, 1), (1, 1), (1, 1), 1)
    for size in (7, 14, 28, 9, 30, 5, 7):
        for rows in (1, 4):
            x = torch.randn(rows, 32, size, size)
            assert relative(packed(x), packed.plain(x.double().float())) < SMALL
    assert len(packed.kept.forward) <= 4


def test_what_packed_weights_are_not_for_runs_plainly() -> None:
    weight = torch.randn(4, 3, 3, 3)
    packed = PackedConvolution(weight, None, (1, 1), (1, 1), (1, 1), 1)
    x = torch.randn(1, 3, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert packed(x).dtype == torch.bfloat16
    assert torch.equal(packed(x[0]), packed.plain(x[0]))  # a picture without a batch axis
    assert packed(x[:0]).shape == (0, 4, 6, 6)


# Whole networks ----------------------------------------------------------------------------------------


class Twice(nn.Module):
    """A convolution that runs twice, and a norm that two convolutions share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.other = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.norm, self.own, self.act, self.head = nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.SiLU(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.own(self.first(x)))
        x = self.act(self.norm(self.twice(x)))
        x = self.act(self.norm(self.other(self.twice(x))))
        return self.head(x.mean((2, 3)))


class Feeds(nn.Module):
    """A convolution whose output feeds a norm and something else."""

    def __init__(self, other: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.head, self.other = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4), other

    def forward(self, x: Tensor) -> Tensor:
        made = self.conv(x)
        return self.head((F.silu(self.norm(made)) + self.other(made)).mean((2, 3)))


class Rewritten(nn.Module):
    """A convolution whose output is written to in place before its norm reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.silu(self.norm(self.conv(x).mul_(2))).mean((2, 3)))


class Residual(nn.Module):
    """A norm after a residual sum, and units that work in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.SiLU(inplace=True))
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8, affine=False))
        self.norm, self.act, self.head = nn.BatchNorm2d(8), nn.SiLU(inplace=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.act(self.norm(x + self.body(x))).mean((2, 3)))


def sequence(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    # with the number of norms that are folded
    "twice": (Twice, 1),
    "feeds a sum too": (lambda: Feeds(torch.tanh), 0),
    "feeds something that is 0 at the picture": (lambda: Feeds(lambda t: F.relu(t - 100)), 0),
    "feeds a view": (lambda: Feeds(lambda t: t[:, :1] * 1e-9), 0),
    "is asked for its shape": (lambda: Feeds(lambda t: torch.ones(t.shape[1], 1, 1) * t.size(0)), 1),
    "rewritten": (Rewritten, 0),
    "residual": (Residual, 2),
    "dilated": (
        lambda: sequence(nn.Conv2d(3, 8, 3, dilation=2), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3, 2)),
        1,
    ),
    "reflected": (
        lambda: sequence(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.SiLU(), nn.Conv2d(8, 4, 1)),
        0,
    ),
    "odd sides": (lambda: sequence(nn.ZeroPad2d((0, 1, 1, 2)), nn.Conv2d(3, 8, 5, 2), nn.BatchNorm2d(8), nn.GELU()), 1),
}


def made(name: str, smooth: bool = True) -> nn.Module:
    torch.manual_seed(0)
    net = NETWORKS[name][0]()
    net.eval()(picture())  # makes lazy layers
    return shaken(net, smooth)


def plain_and_packed(net: nn.Module, x: Tensor) -> tuple[PackedWeights, list[tuple[Tensor, Tensor]]]:
    """The packed weights, and outputs and gradients of plain and packed rows."""
    found = []
    weights = PackedWeights.proven(net, x[:1], gradient=True)
    for packs in (False, True):
        leaf = x.clone().requires_grad_()
        if packs:
            with weights.installed(dict(net.named_modules())):
                out = net(leaf)
        else:
            out = net(leaf)
        mixture = torch.linspace(-1, 1, out.shape[1])
        found.append((out.detach(), torch.autograd.grad((out * mixture).sum(), leaf)[0]))
    return weights, found


@pytest.mark.parametrize("name", NETWORKS)
def test_packed_rows_of_small_networks_equal_plain_ones(name: str) -> None:
    weights, (plain, packed) = plain_and_packed(made(name), picture(rows=3))
    assert sum(layer.norm is not None for layer in weights.layers.values()) == NETWORKS[name][1]
    assert relative(packed[0], plain[0]) < SMALL and relative(packed[1], plain[1]) < SMALL


ARCHITECTURES = {
    "resnet18": (64, 20),
    "resnet50": (64, 53),
    "vgg16": (32, 0),
    "mobilenet_v3_small": (96, 34),
    "efficientnet_b0": (96, 49),
    "convnext_tiny": (64, 0),
    "densenet121": (64, 59),
    "regnet_y_400mf": (64, 53),
    "vit_b_16": (48, 0),
    "swin_t": (96, 0),
}


SMALL_ONES = ("resnet18", "mobilenet_v3_small", "regnet_y_400mf")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SMALL_ONES else pytest.mark.long) for name in ARCHITECTURES]
)
def test_packed_rows_of_real_architectures_equal_plain_ones(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    size, folded = ARCHITECTURES[name]
    torch.manual_seed(0)
    net = getattr(models, name)(**({"image_size": size} if name.startswith("vit") else {}))
    for parameter in net.parameters():
        if not parameter.abs().sum():  # a head of zeros says nothing
            parameter.data.normal_(std=0.02)
        elif "layer_scale" in name or float(parameter.abs().max()) <= 1e-5:
            parameter.data.fill_(0.5)
    weights, (plain, packed) = plain_and_packed(shaken(net), picture(size, rows=2))
    assert sum(layer.norm is not None for layer in weights.layers.values()) == folded
    assert relative(packed[0], plain[0]) < SMALL and relative(packed[1], plain[1]) < SMALL


# Through the library -----------------------------------------------------------------------------------

METHODS = [
    "gradient",
    "integrated-gradients(midpoint(8))",
    "smooth-grad(samples=16)",
    "grad-cam",
    "full-grad",
    "ablation-cam",
    "score-cam",
    "at-layer(integrated-gradients(midpoint(8)))",
    "rise(32, cells=3)",
    "occlusion(8, 8)",
    "occlusion(8, 8, incremental=False)",
    "lime(players=grid(3), samples=40)",
    "lrp",
    "lrp('epsilon')",
    "deep-lift",
    "guided-backprop",
    "smooth-grad(deep-lift, samples=4)",
    "extremal-perturbation((0.2,), steps=4, step=4, sigma=3.0, blur=2.0)",
]


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_method_gives_the_same_map_on_packed_rows(method: str) -> None:
    net, x = made("residual"), picture(rows=2)
    options: dict[str, Any] = {"target": [1, 2], "baseline": "blur(3)"}
    if method.startswith("guided"):
        options = {"target": [1, 2]}
    plain = ll.explain(net, x, method, arithmetic="plain", **options)
    packed = ll.explain(net, x, method, arithmetic="packed", **options)
    assert (plain.arithmetic, packed.arithmetic) == ("plain", "packed")
    assert not any(NOTE in note for note in packed.notes)
    assert relative(packed.values, plain.values) < 2e-4  # differences of scores keep fewer digits than scores
    assert relative(packed.score, plain.score) < SMALL
    assert (packed.forward_rows, packed.backward_rows) == (plain.forward_rows, plain.backward_rows)


@pytest.mark.parametrize("method", ["guided-backprop", "deep-lift", "lrp('epsilon')", "gradient"])
def test_rules_run_on_packed_weights_too(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = sequence(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False), nn.ReLU()).eval()
    net(picture())
    plain = ll.explain(net, picture(), method, target=1, arithmetic="plain")
    runs = {"forward": 0, "backward": 0}
    for name in runs:
        right = getattr(PackedConvolution, name)

        def counted(*args: Any, name: str = name, right: Callable[..., Tensor] = right) -> Tensor:
            runs[name] += 1
            return right(*args)

        monkeypatch.setattr(PackedConvolution, name, counted)
    with Runner(net, picture(), None, None) as runner, runner.packing.wanted(True):
        proof = dict(runs)
    found = ll.explain(net, picture(), method, target=1, arithmetic="packed")
    assert relative(found.values, plain.values) < 1e-4  # LRP divides by outputs that may be small
    assert runs["forward"] - 2 * proof["forward"] >= 2 and runs["backward"] - 2 * proof["backward"] >= 2


def test_incremental_rows_run_on_packed_weights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = made("residual"), picture()
    plain = ll.explain(net, x, "occlusion(8, 4)", target=1, arithmetic="plain")
    passes: list[int] = []
    right = PackedConvolution.conv2d

    def counted(self: PackedConvolution, x: Tensor, **settings: Any) -> Tensor:
        passes.append(len(x))
        return right(self, x, **settings)

    monkeypatch.setattr(PackedConvolution, "conv2d", counted)
    packed = ll.explain(net, x, "occlusion(8, 4)", target=1)
    assert packed.arithmetic == "packed" and relative(packed.values, plain.values) < 2e-4
    assert max(passes) > 1 and passes.count(1) == 2  # the picture's own maps once, for both convolutions


def test_the_call_alone_decides() -> None:
    net, x = made("residual"), picture(rows=2)
    for method, arithmetic in (
        ("gradient", "plain"),
        ("smooth-grad(samples=14)", "plain"),
        ("rise(31)", "plain"),
        ("rise(32)", "packed"),
        ("smooth-grad(samples=16)", "packed"),
        ("rise(64, tolerance=0.9)", "two-precision" if has_bfloat16(torch.device("cpu")) else "packed"),
        ("deep-lift", "plain"),
        ("at-layer(gradient)", "plain"),
        ("at-layer", "packed"),
    ):
        alone = ll.explain(net, x[:1], method, target=1)
        batch = ll.explain(net, x, ["input-x-gradient", method], target=1)[1]
        assert alone.arithmetic == batch.arithmetic == arithmetic, method
        several = ll.explain(net, x, method, target=[[1, 2], [0, 1]], rows_per_pass=1)
        # Several targets an example are not sampled in two precisions.
        assert several.arithmetic == ("packed" if arithmetic == "two-precision" else arithmetic)


@pytest.mark.parametrize(
    ("net", "x", "words"),
    [
        (lambda: made("residual").double(), picture().double(), "float64"),
        (lambda: made("residual"), picture()[:, :, :16, :16], None),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)), picture(), "no torch.nn.Conv2d"),
        (
            lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 30, 2)),
            picture()[:, :, 0],
            "these are 2-d",
        ),
    ],
)
def test_where_rows_cannot_be_packed_the_library_is_silent_and_the_option_says_why(
    net: Callable[[], nn.Module], x: Tensor, words: str | None
) -> None:
    torch.manual_seed(0)
    method, model = "smooth-grad(samples=16)", net()
    quiet = ll.explain(model, x, method, target=1)
    assert quiet.arithmetic == "plain" and not any("packed" in note for note in quiet.notes)
    asked = ll.explain(model, x, method, target=1, arithmetic="packed")
    assert asked.arithmetic == ("packed" if words is None else "plain")
    assert words is None or any(NOTE in note and words in note for note in asked.notes)
    assert relative(asked.values, quiet.values) < SMALL


def test_a_black_box_runs_plainly() -> None:
    def mean(rows: Any) -> Any:
        return rows.mean((2, 3))

    found = ll.explain(ll.BlackBox(mean), picture(), "rise(32)", target=1, arithmetic="packed")
    assert found.arithmetic == "plain" and any(NOTE in note for note in found.notes)


class AssumesMemory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 32 * 32, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.silu(self.conv(x)).view(len(x), -1))


def test_a_proof_that_fails_leaves_plain_rows_and_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    x, method = picture(), "smooth-grad(samples=16)"
    torch.manual_seed(0)
    net = AssumesMemory().eval()
    found = ll.explain(net, x, method, target=1)
    assert found.arithmetic == "plain" and any(NOTE in note and "view size" in note for note in found.notes)
    torch.testing.assert_close(found.values, ll.explain(net, x, method, target=1, arithmetic="plain").values)

    residual = made("residual")
    plain = ll.explain(residual, x, method, target=1, arithmetic="plain")
    right = PackedConvolution.backward
    with monkeypatch.context() as patch:
        patch.setattr(PackedConvolution, "backward", lambda *args: 1.01 * right(*args))
        found = ll.explain(residual, x, method, target=1)
        assert found.arithmetic == "plain" and any("gradient of" in note for note in found.notes)
        torch.testing.assert_close(found.values, plain.values)
        # Rows that take no gradient are not concerned.
        assert ll.explain(residual, x, "rise(32)", target=1).arithmetic == "packed"
    forward = PackedConvolution.forward
    monkeypatch.setattr(PackedConvolution, "forward", lambda *args: forward(*args) + 1e-3)
    found = ll.explain(residual, x, method, target=1)
    assert found.arithmetic == "plain" and any("outputs differ" in note for note in found.notes)


class Branches(nn.Module):
    """Its norm is left out where the pictures are dark, or reads something else where they are bright."""

    def __init__(self, skips: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.head, self.skips = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4), skips

    def forward(self, x: Tensor) -> Tensor:
        made = self.conv(x)
        if float(x[:, :, :8, :8].detach().mean()) < 0.4:
            made = made if self.skips else self.norm(made * 2)
        else:
            made = self.norm(made)
        return self.head(F.silu(made).mean((2, 3)))


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("method", ["occlusion(8, 4, incremental=False)", "expected-gradients(samples=16)"])
def test_another_path_than_that_of_the_proof_is_seen(skips: bool, method: str) -> None:
    torch.manual_seed(0)
    net, x = shaken(Branches(skips)), 0.5 + 0.5 * picture()
    options: dict[str, Any] = {"target": 1, "rows_per_pass": 1}
    found = ll.explain(net, x, method, **options)
    plain = ll.explain(net, x, method, **options, arithmetic="plain")
    assert found.arithmetic == "plain" and any(NOTE in note and "another path" in note for note in found.notes)
    assert relative(found.values, plain.values) < 1e-4


def test_a_flipped_unit_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tolerance that every gradient exceeds, the layers' own gradients decide."""
    monkeypatch.setattr(engine_packed, "GRADIENT_TOLERANCE", -1.0)
    assert ll.explain(made("residual"), picture(), "smooth-grad(samples=16)", target=1).arithmetic == "packed"


@pytest.fixture
def runner() -> Iterator[Runner]:
    with Runner(made("residual"), picture(), None, None) as opened:
        yield opened


def test_layers_that_are_read_or_replaced_are_what_they_are_plainly(runner: Runner) -> None:
    """The output of a convolution whose norm is folded otherwise, and the gradient there."""
    x = picture()
    target, own = ll.Logit(1), torch.zeros(1, dtype=torch.long)
    names = ("stem.0", "stem.1", "body.0", "norm")
    plain = runner.once(x, own, target, True, names, True)
    rows = {name: plain.activations[name] * 1.5 for name in names}
    replaced = {name: runner.once(rows[name], own, target, True, inside=LayerInput(name, x)) for name in names}
    with runner.packing.wanted(gradient=True):
        assert runner.packing.weights is not None
        packed = runner.once(x, own, target, True, names, True)
        for name in names:
            assert relative(packed.activations[name], plain.activations[name]) < SMALL, name
            assert relative(packed.layer_gradients[name], plain.layer_gradients[name]) < SMALL, name
            found = runner.once(rows[name], own, target, True, inside=LayerInput(name, x))
            assert relative(found.scores, replaced[name].scores) < SMALL
            assert found.gradient is not None and replaced[name].gradient is not None
            assert relative(found.gradient, replaced[name].gradient) < SMALL
    assert runner.packing.weights is None
    assert not any("forward" in vars(module) for module in runner.modules.values())


def doubled(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return forward(x) * 2


def test_layers_with_hooks_or_a_forward_of_their_own_stay_plain() -> None:
    x = picture()
    for change in (
        lambda net: net.stem[0].register_forward_hook(lambda module, args, output: output * 2),
        lambda net: net.stem[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,)),
        lambda net: net.stem[1].register_forward_hook(lambda module, args, output: output * 2),
        lambda net: setattr(net.stem[0], "forward", partial(doubled, net.stem[0].forward)),
        lambda net: nn.utils.parametrizations.weight_norm(net.stem[0]),
    ):
        net = made("residual")
        change(net)
        net.requires_grad_(False)
        plain = ll.explain(net, x, "smooth-grad(samples=16)", target=1, arithmetic="plain")
        packed = ll.explain(net, x, "smooth-grad(samples=16)", target=1, arithmetic="packed")
        assert packed.arithmetic == "packed" and relative(packed.values, plain.values) < SMALL


def test_nothing_is_left_behind() -> None:
    net, x = made("residual"), picture()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in net.named_modules()}
    expected, state = net(x), torch.get_rng_state()
    ll.explain(net, x, ["smooth-grad(samples=16)", "rise(32)", "occlusion(8, 4)"], target=1)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(net(x), expected)
    assert {name: set(vars(module)) for name, module in net.named_modules()} == attributes
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])

    class Fails(Residual):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            if len(x) > 2:
                raise KeyboardInterrupt
            return out

    torch.manual_seed(0)
    failing = shaken(Fails())
    with Runner(failing, x, 4, None) as runner, runner.packing.wanted(True):
        rows = x.expand(4, -1, -1, -1)
        with pytest.raises(KeyboardInterrupt):
            runner.once(rows, torch.zeros(4, dtype=torch.long), ll.Logit(1))
        assert not any("forward" in vars(module) for module in runner.modules.values())


def test_new_weights_are_seen_by_the_next_call() -> None:
    net, x = made("residual"), picture()
    first = ll.explain(net, x, "rise(32)", target=1)
    net.stem[0].weight.data.mul_(3)  # type: ignore[index,union-attr]
    packed, plain = (ll.explain(net, x, "rise(32)", target=1, arithmetic=each) for each in ("packed", "plain"))
    assert relative(packed.values, plain.values) < 1e-4 < relative(first.values, plain.values)


def test_packed_weights_of_a_prepared_model_are_proven_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = made("residual"), picture(rows=2)
    prepared = ll.prepare(net)
    ll.explain(prepared, x, "gradient", target=1)
    monkeypatch.setattr(PackedWeights, "proven", None)
    found = ll.explain(prepared, x, "gradient", target=1)
    plain = ll.explain(net, x, "gradient", target=1, arithmetic="plain")
    assert found.arithmetic == "packed" and plain.arithmetic == "plain"
    assert relative(found.score, plain.score) < SMALL and relative(found.values, plain.values) < SMALL
    assert prepared.memory.packed > 0


@pytest.mark.parametrize("layer", [None, "stem.0", "stem.1", "body.0", "act", "body"])
@pytest.mark.parametrize("others", [["grad-cam"], ["layer-cam", "smooth-grad(samples=16)"], ["integrated-gradients"]])
def test_maps_of_a_prepared_model_do_not_depend_on_their_company(others: list[str], layer: str | None) -> None:
    """Bit for bit, since another rounding anywhere flips units at their kinks in larger networks."""
    net, x = made("residual"), picture(rows=2)
    prepared = ll.prepare(net)
    together = ll.explain(prepared, x, ["gradient", "deconvnet", *others], target=1, layer=layer)
    assert together[0].arithmetic == "packed"
    for each in together.values():
        alone = ll.explain(ll.prepare(net), x, each.method, target=1, layer=layer)
        assert torch.equal(alone.values, each.values) and alone.layer == each.layer
        plain = ll.explain(net, x, each.method, target=1, layer=layer, arithmetic="plain")
        assert alone.layer == plain.layer and relative(alone.score, plain.score) < SMALL


def test_checks_explain_and_score_in_the_arithmetic_of_the_map() -> None:
    net, x = made("residual"), picture(rows=2)
    map_ = ll.explain(net, x, "smooth-grad(samples=16)", target=1)
    for check in (ll.Determinism(), ll.Deletion(steps=4)):
        assert map_.arithmetic == "packed"
        found = ll.check(net, x, "smooth-grad(samples=16)", check, target=1)[0]
        plain = ll.check(net, x, "smooth-grad(samples=16)", check, target=1, arithmetic="plain")[0]
        assert found.passed is not False and found.mean == pytest.approx(plain.mean, abs=1e-4)


def test_a_model_that_is_not_a_tensor_function_says_so() -> None:
    class Returns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> tuple[int, dict[str, Tensor]]:
            return 0, {"a": self.conv(x)}

    with pytest.raises(NotPacked, match="no tensor"):
        PackedWeights.proven(Returns().eval().requires_grad_(False), picture(), False)
