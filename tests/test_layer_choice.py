"""The layer that class activation maps read by default, where blocks are more than modules in a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.models.catalogue import Preprocessing

from .networks import pictures

D = torch.float64


class Reading(nn.Module):
    """A model called by `call(model, x)`."""

    def __init__(self, model: nn.Module, call: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.model, x)


def timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        library = pytest.importorskip("timm", reason="timm is not installed")
        return library.create_model(name, num_classes=7, **options)  # type: ignore[no-any-return]

    return make


VISION = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32,
    "patch_size": 8, "num_labels": 7,
}  # fmt: skip
TEXT = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "num_labels": 7,
}  # fmt: skip


def transformers(kind: str, config: str, call: Callable[[Any, Tensor], Tensor], **options: Any) -> Any:
    def make() -> nn.Module:
        library = pytest.importorskip("transformers", reason="transformers is not installed")
        return Reading(getattr(library, kind)(getattr(library, config)(**options)), call)

    return make


def classes(model: Any, x: Tensor) -> Tensor:
    out: Tensor = model(x).logits
    return out


def classes_of_embeddings(model: Any, x: Tensor) -> Tensor:
    out: Tensor = model(inputs_embeds=x).logits
    return out


def next_token(model: Any, x: Tensor) -> Tensor:
    out: Tensor = model(inputs_embeds=x).logits[:, -1]
    return out


def first_query(model: Any, x: Tensor) -> Tensor:
    out: Tensor = model(pixel_values=x).logits[:, 0]
    return out


def detr() -> nn.Module:
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    backbone = library.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 12, 16], depths=[1] * 4, layer_type="basic", out_features=["stage4"]
    )
    config = library.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, d_model=32,
        encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
        decoder_ffn_dim=48, num_queries=5, num_labels=7,
    )  # fmt: skip
    return Reading(library.DetrForObjectDetection(config), first_query)


class Encoder(nn.Module):
    """A transformer over `(rows, channels, length)`."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.enc(x.transpose(1, 2)).mean(1))
        return out


def inception() -> nn.Module:
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    return models.inception_v3(weights=None, init_weights=False, num_classes=7)  # type: ignore[no-any-return]


# Of each the features of an input, the layer, and its grid.
EXPECTED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, tuple[int, ...]]] = {
    "vit": (timm("vit_tiny_patch16_224", img_size=64, depth=3), (3, 64, 64), "blocks.1", (4, 4)),
    "deit, distilled": (
        timm("deit_tiny_distilled_patch16_224", img_size=64, depth=3),
        (3, 64, 64),
        "blocks.1",
        (4, 4),
    ),
    "swin": (
        timm("swin_tiny_patch4_window7_224", img_size=64, depths=(1, 1, 2, 1), window_size=4),
        (3, 64, 64),
        "norm",
        (2, 2),
    ),
    "cait": (timm("cait_xxs24_224", img_size=64, depth=3), (3, 64, 64), "blocks", (4, 4)),
    "tnt": (timm("tnt_s_patch16_224", img_size=64, depth=3), (3, 64, 64), "blocks.1", (4, 4)),
    "crossvit": (timm("crossvit_9_240"), (3, 240, 240), "blocks.1[1]", (14, 14)),
    "volo": (timm("volo_d1_224", img_size=64), (3, 64, 64), "post_network.0", (4, 4)),
    "siglip": (
        timm("vit_base_patch16_siglip_224", img_size=64, depth=3, embed_dim=48, num_heads=4),
        (3, 64, 64),
        "norm",
        (4, 4),
    ),
    "levit": (timm("levit_128s", img_size=64), (3, 64, 64), "stages.1", (2, 2)),
    "inception of a small picture": (inception, (3, 96, 96), "Mixed_6e", (4, 4)),
    "transformers vit": (
        transformers("ViTForImageClassification", "ViTConfig", classes, **VISION),
        (3, 32, 32),
        "model.vit.layers.1",
        (4, 4),
    ),
    "dinov2 with registers": (
        transformers("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", classes, **VISION),
        (3, 32, 32),
        "model.dinov2_with_registers.layernorm",
        (4, 4),
    ),
    "beit": (
        transformers("BeitForImageClassification", "BeitConfig", classes, **VISION),
        (3, 32, 32),
        "model.beit.layers.2",
        (4, 4),
    ),
    "detr": (detr, (3, 192, 192), "model.model.encoder.layers.1", (6, 6)),
    "bert": (
        transformers("BertForSequenceClassification", "BertConfig", classes_of_embeddings, **TEXT),
        (9, 32),
        "model.bert.encoder.layer.1",
        (9,),
    ),
    "gpt2": (
        transformers(
            "GPT2LMHeadModel", "GPT2Config", next_token, vocab_size=50, n_embd=32, n_layer=3, n_head=4,
            bos_token_id=0, eos_token_id=0,
        ),
        (9, 32),
        "model.transformer.h.1",
        (9,),
    ),
    "gpt2, classes": (
        transformers(
            "GPT2ForSequenceClassification", "GPT2Config", classes_of_embeddings, vocab_size=50, n_embd=32, n_layer=3,
            n_head=4, num_labels=5, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        ),
        (9, 32),
        "model.transformer.h.1",
        (9,),
    ),
    "encoder": (Encoder, (32, 8), "enc", (8,)),
    "encoder of as many positions as channels": (Encoder, (32, 32), "enc", (32,)),
}  # fmt: skip


def of_random_weights(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    net = make().eval()
    for module in net.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():  # a head of zeros has no gradient anywhere
            nn.init.normal_(module.weight, std=0.02)
    return net


def output_of(net: nn.Module, layer: str, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda module, args, output: found.append(output))
    with torch.no_grad():
        net(x)
    handle.remove()
    return found[0]


# Networks whose like is among the others, or the zoo's (tests/zoo): in the long run.
ALIKE = ("crossvit", "volo", "cait", "siglip", "levit", "deit, distilled", "beit", "gpt2, classes")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in ALIKE else ()) for name in EXPECTED]
)
def test_the_layer_and_a_planted_patch(name: str) -> None:
    """What is changed in one place changes the map most there, at the grid that the layer is said to have."""
    make, features, layer, grid = EXPECTED[name]
    net = of_random_weights(make)
    axes = {"axes": "NTC"} if len(features) == 2 and name.startswith(("bert", "gpt2")) else {}
    is_text = len(features) == 2
    x = torch.randn(1, *features) if is_text else torch.rand(1, *features)
    cell = tuple(min(1, size - 1) if place == 0 else size - 1 for place, size in enumerate(grid))
    planted = x.clone()
    if is_text:
        place = 4
        cell = (place,)
        (planted[:, place] if axes else planted[:, :, place]).mul_(-2)
    else:
        (top, left), (height, width) = cell, (features[1] // grid[0], features[2] // grid[1])
        planted[:, :, top * height : (top + 1) * height, left * width : (left + 1) * width] += 3.0
    maps = [ll.explain(net, each, ll.GradCAM(relu=False), target=1, **axes) for each in (x, planted)]
    assert [each.layer for each in maps] == [layer] * 2
    raws = [each.raw for each in maps]
    assert raws[0] is not None and raws[1] is not None and raws[0].shape == (1, 1, *grid)
    moved = (raws[1] - raws[0]).abs().flatten()
    if name in (
        "volo",
        "detr",
    ):  # read by a maximum and by queries: gradients move too
        tokens = [output_of(net, layer, each)[0, -len(moved) :] for each in (x, planted)]
        moved = (tokens[1] - tokens[0]).norm(dim=1)
    found = divmod(int(moved.argmax()), 1 if is_text else grid[1])
    if name == "detr":  # random convolutions over neighbours spread a patch
        assert max(abs(a - b) for a, b in zip(found, cell, strict=True)) <= 1
    else:
        assert found[: len(cell)] == cell
    assert ll.explain(net, x, "eigen-cam", target=1, **axes).layer == layer
    named = ll.explain(net, x, ll.GradCAM(relu=False), target=1, layer=layer, **axes)
    torch.testing.assert_close(named.values, maps[0].values)


class Twice(nn.Module):
    """A backbone that runs on the picture and on its mirror image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.Tanh())
        self.head = nn.Linear(8, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        both = [self.body(x).mean((2, 3)), self.body(x.flip(-1)).mean((2, 3))]
        out: Tensor = self.head(torch.cat(both, 1))
        return out


def grad_cam(maps: Tensor, score: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(score.sum(), maps)
    return torch.einsum("nk,nkhw->nhw", slope.mean((2, 3)), maps).detach()


def test_a_backbone_that_runs_twice_has_a_map_for_each_run() -> None:
    net, x = Twice().eval(), pictures(2)
    runs = [net.body(x), net.body(x.flip(-1))]
    for run, name in enumerate(("body#0", "body#1")):
        score = net.head(torch.cat([each.mean((2, 3)) for each in runs], 1))[:, 1]
        a = ll.explain(net, x, ll.GradCAM(relu=False), target=1, layer=name)
        assert a.layer == name and a.raw is not None
        torch.testing.assert_close(a.raw[:, 0], grad_cam(runs[run], score))
    for method in ("grad-cam", "eigen-cam", "score-cam", "ablation-cam"):
        assert ll.explain(net, x, method, target=1).layer == "body#1"
        with pytest.raises(ValueError, match="'body' runs more than once in a forward pass; choose one of body#0, bod"):
            ll.explain(net, x, method, target=1, layer="body")
    with pytest.raises(ValueError, match="'body#2' did not run in the forward pass: body runs 2 times, as body#0, bod"):
        ll.explain(net, x, "grad-cam", target=1, layer="body#2")
    b = ll.explain(net, x, ll.AblationCAM(relu=False), target=1, layer="body#0")
    whole, shares = net(x)[:, 1], []
    for channel in range(4):
        first = net.body(x).index_fill(1, torch.tensor([channel]), 0)
        without = net.head(torch.cat([first.mean((2, 3)), net.body(x.flip(-1)).mean((2, 3))], 1))[:, 1]
        shares.append((whole - without) / whole)
    assert b.raw is not None
    torch.testing.assert_close(b.raw[:, 0], torch.einsum("kn,nkhw->nhw", torch.stack(shares), net.body(x)))
    neuron = ll.explain(net, x, "gradient", target=ll.Neuron("body#1", channel=2))
    torch.testing.assert_close(neuron.score, net.body(x.flip(-1))[:, 2].mean((1, 2)))
    inside = ll.explain(net, x, ll.AtLayer(ll.InputXGradient(), layer="body.3#0"), target=1)
    (slope,) = torch.autograd.grad(net.head(torch.cat([each.mean((2, 3)) for each in runs], 1))[:, 1].sum(), runs[0])
    assert inside.raw is not None
    torch.testing.assert_close(inside.raw, (slope * runs[0]).detach())
    prepared = ll.prepare(net)
    for _ in range(2):
        again = ll.explain(prepared, x, "grad-cam", target=1)
        assert again.layer == "body#1"
        torch.testing.assert_close(again.values, ll.explain(net, x, "grad-cam", target=1).values)


class Residual(nn.Module):
    """A residual sum in the model's own forward: no module returns it."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.in_place = in_place
        self.stem, self.branch, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).tanh()
        if self.in_place:
            y += self.branch(y)
        else:
            y = y + self.branch(y)
        out: Tensor = self.head((y * 2).mean((2, 3)))
        return out


@pytest.mark.parametrize("in_place", [False, True])
def test_a_sum_that_no_module_returns(in_place: bool) -> None:
    net, x = Residual(in_place).eval(), pictures(2)
    first = net.stem(x).tanh()
    total = first + net.branch(first)
    wanted = grad_cam(total, net.head((total * 2).mean((2, 3)))[:, 1])
    for model in (net, torch.fx.symbolic_trace(net)):
        a = ll.explain(model, x, ll.GradCAM(relu=False), target=1, layer="add#0")
        assert a.raw is not None
        torch.testing.assert_close(a.raw[:, 0], wanted)
        torch.testing.assert_close(ll.explain(model, x, ll.GradCAM(relu=False), target=1).raw, a.raw)
    with pytest.raises(ValueError, match="layer: 'add#1' did not run in the forward pass: add runs 1 time, as add#0"):
        ll.explain(net, x, "grad-cam", target=1, layer="add#1")
    with pytest.raises(ValueError, match="layer: 'summ#1' is not a module of the model"):
        ll.explain(net, x, "grad-cam", target=1, layer="summ#1")


def test_programs_have_the_maps_of_the_module_that_they_were_made_of() -> None:
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    torch.manual_seed(0)
    x = torch.rand(1, 3, 64, 64)
    for net in (
        models.resnet18(num_classes=4).eval(),
        models.VisionTransformer(64, 16, 3, 2, 24, 48, num_classes=4).eval(),
    ):
        head = net.fc if hasattr(net, "fc") else net.heads.head
        nn.init.normal_(head.weight, std=0.1)
        wanted = ll.explain(net, x, "grad-cam", target=1)
        for program in (torch.fx.symbolic_trace(net), torch.export.export(net, (x,)).module()):
            found = ll.explain(program, x, "grad-cam", target=1)
            assert found.layer is not None and "#" in found.layer
            torch.testing.assert_close(found.values, wanted.values, atol=1e-6, rtol=1e-4)
            torch.testing.assert_close(
                ll.explain(program, x, "grad-cam", target=1, layer=found.layer).values, found.values
            )


class Recurrent(nn.Module):
    """Returns tuples, dicts and nested ones."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x.transpose(1, 2))[0].mean(1))
        return out


def test_an_element_of_a_layers_output() -> None:
    net, x = Recurrent().eval(), torch.randn(2, 4, 9, dtype=D)
    wanted = net.lstm(x.transpose(1, 2))[0]
    (slope,) = torch.autograd.grad(net.head(wanted.mean(1))[:, 1].sum(), wanted)
    for layer in (None, "lstm", "lstm[0]"):
        a = ll.explain(net, x, ll.HiResCAM(relu=False), target=1, layer=layer)
        assert a.layer == (layer or "lstm") and a.raw is not None
        torch.testing.assert_close(a.raw[:, 0], (slope * wanted).sum(2).detach())
    b = ll.explain(net, x, ll.AtLayer(ll.InputXGradient()), target=1, layer="lstm")
    assert b.raw is not None
    torch.testing.assert_close(b.raw, (slope * wanted).detach())
    neuron = ll.explain(net, x, "gradient", target=ll.Neuron("lstm", index=(8, 2)))
    torch.testing.assert_close(neuron.score, wanted[:, 8, 2].detach())
    with pytest.raises(ValueError, match=r"'lstm\[2\]' does not fit: lstm returns tuple; use lstm\[0\], lstm\[1\]"):
        ll.explain(net, x, "grad-cam", target=1, layer="lstm[2]")


def test_tokens_of_a_sequence_that_is_read_at_its_end() -> None:
    """The last step alone reaches the score from the last layer, so that the map of the one before is read."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.mix, self.head = nn.Linear(4, 6), nn.LSTM(6, 6, batch_first=True), nn.Linear(6, 3)
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.mix(self.embed(x.transpose(1, 2)))[0][:, -1])
            return out

    a = ll.explain(Last().eval(), torch.randn(2, 4, 9, dtype=D), "grad-cam", target=1)
    assert a.layer == "embed"
    assert any("before mix, where the score reads a single position or none" in note for note in a.notes)


def test_a_functional_network_without_modules() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.w, self.v = nn.Parameter(torch.randn(6, 3, 3, 3)), nn.Parameter(torch.randn(3, 6))
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.relu(F.conv2d(x, self.w)).mean((2, 3)), self.v)

    net, x = Functional().eval(), pictures(2)
    wanted = torch.einsum("k,nkhw->nhw", net.v[1], F.relu(F.conv2d(x, net.w))).detach()
    a = ll.explain(net, x, ll.CAM(relu=False), target=1)
    assert a.layer == "relu#0" and a.raw is not None
    torch.testing.assert_close(a.raw[:, 0], wanted)


def test_the_list_of_layers_holds_what_layer_takes() -> None:
    from limelight.engine.input_pass import layers_of

    for net, x in ((Twice().eval(), pictures(1)), (Residual(False).eval(), pictures(1)), (Recurrent().eval(), None)):
        rows = torch.randn(1, 4, 9, dtype=D) if x is None else x
        found, chosen, _ = layers_of(net, rows)
        assert chosen in [each.name for each in found]
        for each in found:
            a = ll.explain(net, rows, ll.GradCAM(relu=False), target=1, layer=each.name)
            assert a.raw is not None and a.raw.shape[2:] == each.shape[1:]


class Scaled(nn.Module):
    """Each channel in another scale, without weights, as transforms in front of a network."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


def in_forward(rest: nn.Module) -> nn.Module:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rest = rest

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.rest(torch.tanh((x - 0.5) / 0.25) * 2)
            return found

    return Both()


class OwnWeights(nn.Module):
    """Each channel in another scale, which is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0, 0.5, 1.5]).reshape(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Standardised(nn.Module):
    """Each picture by its own mean and deviation."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)


FRONTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "a module": lambda rest: nn.Sequential(Scaled(), rest),
    "a module and what torch has": lambda rest: nn.Sequential(Scaled(), nn.Dropout(), nn.Identity(), nn.Tanh(), rest),
    "the forward": in_forward,
    "a batch norm": lambda rest: nn.Sequential(nn.Sequential(nn.BatchNorm2d(3)), nn.PReLU(3), rest),
    "other norms": lambda rest: nn.Sequential(nn.GroupNorm(3, 3), nn.InstanceNorm2d(3, affine=True), rest),
    "weights of its own": lambda rest: nn.Sequential(OwnWeights(), rest),
    "each picture's mean": lambda rest: nn.Sequential(Standardised(), rest),
    "a picture's model": lambda rest: ll.ImageModel(rest, Preprocessing(size=8), ("a", "b"), "own"),
}


@pytest.mark.parametrize("method", ["grad-cam", "layer-cam", "eigen-cam", "score-cam"])
@pytest.mark.parametrize("front", FRONTS)
def test_the_input_in_another_scale_is_no_layer(front: str, method: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 8)
    flat = FRONTS[front](nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 2))).eval()
    with pytest.raises(ValueError, match="no module of the model returns a spatial map"):
        ll.explain(flat, x, method, target=1)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    a = ll.explain(FRONTS[front](body).eval(), x, method, target=1)
    assert (a.layer or "").endswith(".1")


@pytest.mark.parametrize(
    "stem",
    [
        nn.Conv2d(3, 3, 3, padding=1),
        nn.Conv2d(3, 3, 1),
        nn.AvgPool2d(3, 1, 1),
        torch.jit.script(nn.Conv2d(3, 3, 3, padding=1)),
    ],
    ids=["neighbours", "channels", "an average", "a program"],
)
def test_what_joins_pixels_or_channels_is_a_layer(stem: nn.Module) -> None:
    """Also where it returns as many channels and positions as the input has."""
    net = nn.Sequential(stem, nn.Tanh(), nn.Flatten(), nn.Linear(192, 2)).eval()
    assert ll.explain(net, torch.rand(2, 3, 8, 8), ll.GradCAM(), target=1).layer == "1"


def test_a_prepared_model_reads_its_layer_again_where_that_is_like_the_input() -> None:
    """Later passes watch the chosen layer alone, and see no convolution before it."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), head)
    model, x = ll.prepare(body.eval()), torch.rand(2, 3, 8, 8)
    first, second = (ll.explain(model, x, "grad-cam", target=1) for _ in range(2))
    assert first.layer == second.layer == "1" and torch.equal(first.values, second.values)
