"""Which layer a class activation map reads, and how its output becomes a grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.engine.layer_maps import Grid, grid_of

from .networks import pictures

D = torch.float64


@pytest.mark.parametrize(
    "shape, space, known, expected",
    [
        ((512, 7, 7), (224, 224), (), Grid("channels first", (7, 7))),
        ((768, 7, 10), (224, 320), (), Grid("channels first", (7, 10))),
        ((7, 7, 768), (224, 224), (), Grid("channels last", (7, 7))),
        ((56, 56, 96), (224, 224), (), Grid("channels last", (56, 56))),
        ((7, 10, 64), (224, 320), (), Grid("channels last", (7, 10))),
        ((8, 8, 8), (32, 32), (), Grid("channels first", (8, 8))),
        ((64, 20, 300), (80, 300), (), Grid("channels first", (20, 300))),  # strides differ, but so they do otherwise
        ((16, 4, 6, 8), (16, 24, 32), (), Grid("channels first", (4, 6, 8))),
        ((4, 6, 8, 96), (16, 24, 32), (), Grid("channels last", (4, 6, 8))),
        ((64, 50), (100,), (), Grid("channels first", (50,))),
        ((51, 64), (100,), ((64, (50,)),), Grid("tokens", (50,), 1)),
        ((197, 192), (224, 224), ((192, (14, 14)),), Grid("tokens", (14, 14), 1)),
        ((201, 192), (224, 224), ((192, (14, 14)),), Grid("tokens", (14, 14), 5)),
        ((141, 192), (224, 320), ((192, (10, 14)),), Grid("tokens", (10, 14), 1)),
        ((49, 384), (224, 224), ((96, (28, 28)),), Grid("tokens", (7, 7))),  # neighbours merged twice
        ((50, 192), (224, 224), ((192, (28, 28)), (192, (7, 7)), (192, (6, 6))), Grid("tokens", (7, 7), 1)),
        ((4, 17), (8, 8), ((4, (4, 4)),), None),  # channels x tokens, half way through mixing them
        ((197, 192), (224, 224), (), Grid("tokens", (14, 14), 1)),  # nothing seen before: the picture's proportions
        ((96, 192), (128, 192), (), Grid("tokens", (8, 12))),
        ((100, 256), (224, 224), ((256, (7, 7)),), None),  # queries of a detector
        ((1000,), (224, 224), (), None),
        ((12, 197, 197, 3), (224, 224), (), None),
        ((5, 6), (), (), None),
    ],
    ids=str,
)
def test_grid_of_a_shape(shape: Any, space: Any, known: Any, expected: Grid | None) -> None:
    assert grid_of(shape, space, known) == expected


def test_maps_are_views_with_channels_first() -> None:
    x = torch.arange(2 * 5 * 3).view(2, 5, 3)
    maps = Grid("tokens", (2, 2), 1).maps(x)
    assert maps.shape == (2, 3, 2, 2) and maps[1, 2].tolist() == [[20, 23], [26, 29]]
    assert Grid("channels last", (2, 2)).maps(x[:, 1:].reshape(2, 2, 2, 3)).equal(maps)
    maps[0, 0] = -1
    assert (x[0, 1:, 0] == -1).all() and x[0, 0, 0] == 0


def torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
        if name == "googlenet":
            options["init_weights"] = False
        return models.get_model(name, weights=None, **options)  # type: ignore[no-any-return]

    return make


def timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        return pytest.importorskip("timm", reason="timm is not installed").create_model(name, **options)  # type: ignore[no-any-return]

    return make


CNNS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "resnet18": (torchvision("resnet18"), "layer4", 512),
    "resnet50": (torchvision("resnet50"), "layer4", 2048),
    "vgg11": (torchvision("vgg11"), "features", 512),
    "vgg16_bn": (torchvision("vgg16_bn"), "features", 512),
    "densenet121": (torchvision("densenet121"), "features", 1024),
    "googlenet": (torchvision("googlenet"), "inception5b", 1024),
    "mobilenet_v2": (torchvision("mobilenet_v2"), "features", 1280),
    "mobilenet_v3_small": (torchvision("mobilenet_v3_small"), "features", 576),
    "efficientnet_b0": (torchvision("efficientnet_b0"), "features", 1280),
    "convnext_tiny": (torchvision("convnext_tiny"), "features", 768),
    "swin_t": (torchvision("swin_t"), "norm", 768),
    "timm convnext_atto": (timm("convnext_atto"), "stages", 320),
    "timm efficientnet_b0": (timm("efficientnet_b0"), "bn2", 1280),
    "timm resnet18": (timm("resnet18"), "layer4", 512),
}


# Their weights take seconds to draw.
LARGE = ("resnet50", "vgg11", "vgg16_bn", "densenet121", "googlenet", "convnext_tiny", "vit_b_16")


def some_and_all(names: Iterable[str]) -> pytest.MarkDecorator:
    """Try the small networks, and in the long run the large ones too."""
    cases = [pytest.param(name, marks=pytest.mark.long if name in LARGE else ()) for name in names]
    return pytest.mark.parametrize("name", cases)


@some_and_all(CNNS)
def test_networks_that_shrink_the_picture_32_times(name: str) -> None:
    make, layer, channels = CNNS[name]
    torch.manual_seed(0)
    a = ll.explain(make(), torch.rand(1, 3, 64, 96), ll.GradCAM(), target=0)
    assert a.layer == layer and a.raw is not None and a.raw.shape == (1, 1, 2, 3) and a.values.shape[2:] == (64, 96)
    order = " with channels last" if name == "swin_t" else ""
    assert f"layer {layer}: the last one with a spatial map ({channels} channels of 2 x 3{order})" in a.notes


TOKENS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "timm vit": (timm("vit_tiny_patch16_224", img_size=64), "blocks.10", "after 1 prefix token"),
    "timm vit, averaged": (
        timm("vit_tiny_patch16_224", img_size=64, global_pool="avg", class_token=False, fc_norm=True),
        "blocks",
        "tokens)",
    ),
    "timm deit": (timm("deit_tiny_patch16_224", img_size=64), "blocks.10", "after 1 prefix token"),
    "timm deit distilled": (timm("deit_tiny_distilled_patch16_224", img_size=64), "blocks.10", "after 2 prefix tokens"),
    "timm swin": (timm("swin_tiny_patch4_window7_224", img_size=128), "norm", "channels last"),
    "vit_b_16": (torchvision("vit_b_16", image_size=64), "encoder.layers.encoder_layer_10", "after 1 prefix token"),
}


@some_and_all(TOKENS)
def test_transformers(name: str) -> None:
    make, layer, reading = TOKENS[name]
    torch.manual_seed(0)
    net, size = make(), 128 if name == "timm swin" else 64
    for module in net.modules():  # a head of zeros, as torchvision's, has no gradient anywhere
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
    a = ll.explain(net, torch.rand(1, 3, size, size), ll.GradCAM(), target=0)
    assert a.layer == layer and a.raw is not None and a.raw.shape == (1, 1, 4, 4)
    (note,) = [note for note in a.notes if note.startswith(f"layer {layer}")]
    assert reading in note
    assert ("whose positions have no gradient" in note) == ("prefix" in reading)
    assert (a.forward_rows, a.backward_rows) == (1, 1)


def test_the_same_layer_without_a_gradient_of_its_own() -> None:
    """A principal component needs no gradient, but where the class token is all that counts, one finds the layer."""
    torch.manual_seed(0)
    net, x = timm("vit_tiny_patch16_224", img_size=64)(), torch.rand(1, 3, 64, 64)
    a = ll.explain(net, x, ll.EigenCAM(), target=0)
    assert a.layer == "blocks.10" and a.backward_rows == 1
    p = ll.explain(net, x, [ll.EigenCAM(), ll.GradCAM()], target=0)
    assert [each.layer for each in p.values()] == ["blocks.10"] * 2 and p["eigen-cam"].backward_rows == 1
    torch.testing.assert_close(p["eigen-cam"].values, a.values)


def test_a_segmentation_is_explained_by_features_not_by_its_answer() -> None:
    models = pytest.importorskip("torchvision.models.segmentation", reason="torchvision is not installed")
    torch.manual_seed(0)
    net = models.fcn_resnet50(weights=None, weights_backbone=None, aux_loss=True)  # the other head runs last
    mask = torch.zeros(64, 96, dtype=torch.bool)
    mask[10:30, 20:50] = True
    x = torch.rand(1, 3, 64, 96)
    a = ll.explain(net, x, ll.GradCAM(), target=ll.Region(mask, 3))
    assert a.layer == "classifier.2" and a.raw is not None and a.raw.shape == (1, 1, 8, 12)
    b = ll.explain(net, x, ll.GradCAM(), target=ll.Region(mask, 3), layer="backbone.layer4")
    assert b.raw is not None and b.raw.shape == (1, 1, 8, 12)


@pytest.mark.parametrize(
    "layers, expected",
    [
        ([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU()], "3"),
        ([nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)], "1"),
        ([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout()], "2"),
        ([nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())], "1"),
        ([nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))], "0"),  # its map is what it hands on
        ([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 8), nn.ReLU()], "1"),  # 1 x 1 is no map
    ],
    ids=str,
)
def test_any_sequential(layers: list[nn.Module], expected: str) -> None:
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(2)).double().eval()
    x = torch.rand(1, 3, 10, 10, dtype=D)
    net(x)
    a = ll.explain(net, x, ll.EigenCAM(), target=0)
    assert a.layer == expected


class Tokens(nn.Module):
    """Patches of 2 x 2 as tokens behind a class token; one mixing of all of them; reads the class token."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, stride=2)
        self.first = nn.Linear(width, width)
        self.mix = nn.Linear(17, 17)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.new_ones(len(x), 1, tokens.shape[2]), tokens], 1)
        tokens = self.first(tokens).tanh()
        out: Tensor = self.head((self.mix(tokens.transpose(1, 2)).tanh())[:, :, 0])
        return out


def test_tokens_as_a_grid_by_hand() -> None:
    torch.manual_seed(0)
    net, x = Tokens().double(), pictures(2)
    a = ll.explain(net, x, ll.HiResCAM(relu=False), target=1, layer="first")
    assert "layer first: a map of 4 x 4 from tokens after 1 prefix token" in a.notes
    found: list[Tensor] = []
    net.first.register_forward_hook(lambda module, args, output: found.append(output))
    (slope,) = torch.autograd.grad(net(x)[:, 1].sum(), found)
    expected = (slope * found[0]).sum(2)[:, 1:].view(2, 4, 4).detach()
    assert a.raw is not None
    torch.testing.assert_close(a.raw[:, 0], expected)
    # A channel is taken away where the map is, not from the class token.
    b = ll.explain(net, x, ll.AblationCAM(relu=False), target=1, layer="first")
    assert b.raw is not None and b.raw.shape == (2, 1, 4, 4)


def test_a_number_is_the_name_of_a_layer() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(32, 3)).double()
    x = pictures(2)
    for number in (0, 2):
        named = ll.explain(net, x, ["grad-cam", ll.AtLayer(layer=str(number))], target=0, layer=str(number))
        found = ll.explain(net, x, ["grad-cam", f"at-layer(layer={number})"], target=0, layer=number)
        assert found[0].layer == found[1].layer == str(number)
        assert all(torch.equal(a.values, b.values) for a, b in zip(found.values(), named.values(), strict=True))
    assert ll.explain(net, x, "grad-cam", target=0, layer=[0, net[2]]).layer == "0, 2"
    neuron = ll.explain(net, x, "gradient", target=ll.Neuron(0, channel=1))
    torch.testing.assert_close(neuron.score, net[0](x)[:, 1].mean((1, 2)).detach())
    with pytest.raises(ValueError, match="layer: 7 is not a module of the model; nearest"):
        ll.explain(net, x, "grad-cam", target=0, layer=7)


def test_a_zero_gradient_is_an_error_that_names_better_layers() -> None:
    torch.manual_seed(0)
    net, x = Tokens().double(), pictures(2)
    with torch.no_grad():
        net.mix.weight[0, 1:] = 0  # the class token does not look at the patches
    with pytest.raises(ValueError, match=r"zero all over 'first' for example 0, 1.*no other layer has one"):
        ll.explain(net, x, ll.GradCAM(), layer="first")
    branch = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Threshold(1e9, 0.0), nn.Conv2d(4, 4, 1), nn.Flatten())
    net = nn.Sequential(branch, nn.Linear(144, 2)).double()
    with pytest.raises(ValueError, match=r"zero all over '0.0' for example 0, 1.*layers with a gradient: 0.1, 0.2$"):
        ll.explain(net, x, ll.GradCAM(), layer="0.0")
    assert ll.explain(net, x, ll.GradCAM()).layer == "0.2"


def test_layers_that_do_not_feed_the_score_are_passed_over() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.front, self.other, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            h = self.front(x)
            return {"logits": self.head(h.relu().mean((2, 3))), "other": self.other(h)}

    a = ll.explain(Two().double(), pictures(1), ll.GradCAM(), target=lambda outputs: outputs["logits"][:, 0])
    assert a.layer == "front"


def test_a_map_that_the_model_overwrites_is_read_again() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.relu_(self.features(x)).mean((2, 3)))
            return out

    torch.manual_seed(0)
    net, x = Overwriting().double(), pictures(2)
    a = ll.explain(net, x, ll.HiResCAM(relu=False), target=0)
    before = net.features(x)
    (slope,) = torch.autograd.grad(net.head(before.relu().mean((2, 3)))[:, 0].sum(), before)
    assert a.raw is not None and a.layer == "features"
    torch.testing.assert_close(a.raw[:, 0], (slope * before).sum(1).detach())
