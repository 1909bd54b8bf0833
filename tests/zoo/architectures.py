"""Published architectures, small, with random weights that leave nothing at 0 or at 1, for the standing tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 7


@dataclass(frozen=True)
class Architecture:
    """`build` makes the network; an example has this `shape`, channels first.

    `coarse`: whether its own code computes something in float32, whatever its weights are.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    coarse: bool = False

    def network(self) -> nn.Module:
        """Return the network in eval mode, float64 and frozen, the same at each call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return shaken(self.build().double(), self.examples(4))

    def examples(self, rows: int = 1) -> Tensor:
        """Return examples `(rows, *shape)`; the first do not depend on `rows`."""
        made = [torch.Generator().manual_seed(row) for row in range(rows)]
        return torch.stack([torch.rand(self.shape, generator=each, dtype=torch.float64) for each in made])


def shaken(net: nn.Module, examples: Tensor) -> nn.Module:
    """Give batch norms the statistics of some examples, not exactly, and weights to what starts at 0 (heads, gates)."""
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        if parameter.numel() and float(parameter.detach().abs().max()) <= 1e-3:
            parameter.data.uniform_(-0.3, 0.3, generator=generator)
    norms = [each for each in net.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    if norms:
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        with torch.no_grad():
            net(examples)
        for norm in norms:
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean += (
                0.2 * norm.running_var.sqrt() * (torch.rand(len(norm.running_mean), generator=generator) - 0.5)
            )
            norm.running_var *= 0.8 + 0.4 * torch.rand(len(norm.running_var), generator=generator)
    return net.eval().requires_grad_(False)


def _torchvision(name: str, size: int = 64, **options: Any) -> Architecture:
    def build() -> nn.Module:
        from torchvision import models

        return models.get_model(name, weights=None, num_classes=CLASSES, **options)  # type: ignore[no-any-return]

    return Architecture(build, (3, size, size))


def _with_narrow_head(name: str, features: int, size: int = 64) -> Architecture:
    """A network of torchvision's whose head has tens of millions of weights, with a small one in its place."""

    def build() -> nn.Module:
        from torchvision import models

        net: Any = models.get_model(name, weights=None)
        net.classifier = nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, CLASSES))
        return net  # type: ignore[no-any-return]

    return Architecture(build, (3, size, size))


def _timm(name: str, size: int = 64, **options: Any) -> Architecture:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=CLASSES, **options)  # type: ignore[no-any-return]

    return Architecture(build, (3, size, size))


class Classifier(nn.Module):
    """A body with a linear head over what `read` takes of it."""

    def __init__(self, body: nn.Module, width: int, read: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.head, self.read = body, nn.Linear(width, CLASSES), read

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self.body, x))  # type: ignore[no-any-return]


def _pooled(body: nn.Module, x: Tensor) -> Tensor:
    hidden: Tensor = body(x).last_hidden_state
    return hidden.mean(1) if hidden.ndim == 3 else hidden.mean((2, 3))


def _queries(body: nn.Module, x: Tensor) -> Tensor:
    return body(x).logits.mean(1)  # type: ignore[no-any-return]


def _last_token(body: nn.Module, x: Tensor) -> Tensor:
    """Of embeddings `(n, width, length)`, as a series has them."""
    return body(inputs_embeds=x.transpose(1, 2)).last_hidden_state[:, -1]  # type: ignore[no-any-return]


def _transformers(
    model: str,
    config: str,
    shape: tuple[int, ...] = (3, 32, 32),
    read: Callable[[nn.Module, Tensor], Tensor] = _pooled,
    width: int = 16,
    coarse: bool = False,
    **options: Any,
) -> Architecture:
    def build() -> nn.Module:
        import transformers

        options.setdefault("attn_implementation", "eager")
        made = getattr(transformers, config)(**options)
        return Classifier(getattr(transformers, model)(made), width, read)

    return Architecture(build, shape, coarse)


def _swin() -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer([2, 2], 12, [1, 1, 2], [2, 2, 4], [4, 4], num_classes=CLASSES)


def _vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 3, 2, 24, 48, num_classes=CLASSES)


def _maxvit() -> nn.Module:
    from torchvision.models.maxvit import MaxVit

    return MaxVit((64, 64), 8, 2, [16, 16], [1, 1], 8, 0.0, num_classes=CLASSES)


def _mvit() -> nn.Module:
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    blocks = [
        MSBlockConfig(1, 8, 16, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 2, 2]),
        MSBlockConfig(2, 16, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2]),
    ]
    return MViT((32, 32), 4, blocks, True, False, True, True, num_classes=CLASSES)


def _video(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision.models import video

        return getattr(video, name)(weights=None, num_classes=CLASSES)  # type: ignore[no-any-return]

    return build


_TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage4"],
}
_TINY_VIT = {"patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 3, "img_size": 32}
_TEXT = {"shape": (16, 9), "read": _last_token, "vocab_size": 30}

ZOO: dict[str, Architecture] = {
    # Convolutions, one after the other, side by side, reused, grouped, gated
    "torchvision resnet18": _torchvision("resnet18"),
    "torchvision vgg11_bn": _with_narrow_head("vgg11_bn", 25088, 32),
    "torchvision alexnet": _with_narrow_head("alexnet", 9216),
    "torchvision densenet121": _torchvision("densenet121"),
    "torchvision googlenet": _torchvision("googlenet", init_weights=False, aux_logits=False),
    "torchvision inception_v3": _torchvision("inception_v3", 96, init_weights=False, aux_logits=False),
    "torchvision mobilenet_v2": _torchvision("mobilenet_v2"),
    "torchvision mobilenet_v3_small": _torchvision("mobilenet_v3_small"),
    "torchvision efficientnet_b0": _torchvision("efficientnet_b0"),
    "torchvision shufflenet": _torchvision("shufflenet_v2_x0_5"),
    "torchvision squeezenet": _torchvision("squeezenet1_1"),
    "torchvision mnasnet": _torchvision("mnasnet0_5"),
    "torchvision regnet_y": _torchvision("regnet_y_400mf"),
    "torchvision convnext_tiny": _torchvision("convnext_tiny"),
    "timm ghostnet": _timm("ghostnet_050"),
    "timm hrnet": _timm("hrnet_w18_small"),
    "timm res2net": _timm("res2net50_26w_4s"),
    "timm nfnet": _timm("nfnet_l0"),
    "timm repvgg": _timm("repvgg_a0"),
    "timm dla34": _timm("dla34"),
    "timm dpn48b": _timm("dpn48b"),
    "timm cspresnet50": _timm("cspresnet50"),
    "timm selecsls42": _timm("selecsls42"),
    "timm rexnet": _timm("rexnet_100"),
    "timm starnet": _timm("starnet_s1"),
    "timm mobilenetv4": _timm("mobilenetv4_conv_small"),
    "timm skresnet18": _timm("skresnet18"),
    "timm resnest14d": _timm("resnest14d"),
    "timm vovnet": _timm("ese_vovnet19b_dw"),
    "timm hgnet": _timm("hgnet_tiny"),
    "timm convnextv2": _timm("convnextv2_atto"),
    "timm inception_next": _timm("inception_next_atto"),
    "timm mambaout": _timm("mambaout_femto"),
    "timm xception41": _timm("xception41"),
    # Attention, and what stands in its place
    "torchvision vit": Architecture(_vit, (3, 32, 32)),
    "torchvision swin": Architecture(_swin, (3, 32, 32)),
    "torchvision maxvit": Architecture(_maxvit, (3, 64, 64)),
    "timm vit": _timm("vit_tiny_patch16_224", 32, **_TINY_VIT),
    "timm deit distilled": _timm("deit_tiny_distilled_patch16_224", 32, **_TINY_VIT),
    "timm siglip": _timm("vit_base_patch16_siglip_224", 32, **_TINY_VIT),
    "timm swin": _timm(
        "swin_tiny_patch4_window7_224",
        32,
        img_size=32,
        patch_size=2,
        window_size=4,
        embed_dim=12,
        depths=(1, 1, 2),
        num_heads=(2, 2, 4),
    ),
    "timm cait": _timm("cait_xxs24_224", 32, **_TINY_VIT),
    "timm tnt": _timm(
        "tnt_s_patch16_224", 32, img_size=32, depth=3, embed_dim=24, inner_dim=8, num_heads_inner=2, num_heads_outer=3
    ),
    "timm crossvit": _timm("crossvit_9_240", 240),
    "timm volo": _timm("volo_d1_224", img_size=64),
    "timm levit": _timm("levit_128s", img_size=64),
    "timm xcit": _timm("xcit_nano_12_p16_224", img_size=64, depth=2),
    "timm efficientformer": _timm("efficientformer_l1", 224),
    "timm efficientvit": _timm("efficientvit_m0", img_size=64),
    "timm lambda_resnet": _timm("lambda_resnet26t", 128),
    "timm maxvit": _timm("maxvit_rmlp_pico_rw_256", img_size=64),
    "timm eva02": _timm("eva02_tiny_patch14_224", 56, img_size=56, depth=2),
    "timm mixer": _timm("mixer_s32_224", img_size=64),
    "timm resmlp": _timm("resmlp_12_224", img_size=64),
    "timm poolformer": _timm("poolformer_s12"),
    "timm beit": _timm("beit_base_patch16_224", 32, img_size=32, depth=3, embed_dim=24, num_heads=3),
    "timm pvt_v2": _timm("pvt_v2_b0"),
    "timm twins": _timm("twins_pcpvt_small", img_size=64),
    "timm coat": _timm("coat_tiny", img_size=64),
    "timm convit": _timm("convit_tiny", img_size=64),
    "timm visformer": _timm("visformer_tiny", img_size=64),
    "timm mobilevit": _timm("mobilevit_xxs"),
    "timm edgenext": _timm("edgenext_xx_small"),
    "timm fastvit": _timm("fastvit_t8"),
    "timm davit": _timm("davit_tiny", embed_dims=(16, 32, 48, 64), depths=(1, 1, 1, 1), num_heads=(2, 2, 2, 2)),
    "timm gcvit": _timm("gcvit_xxtiny", img_size=64),
    "timm nest": _timm("nest_tiny", img_size=64),
    "timm pit": _timm("pit_ti_224", img_size=64),
    "timm sequencer": _timm("sequencer2d_s", img_size=64, layers=(1, 1, 1, 1)),
    "timm hiera": _timm("hiera_tiny_224", img_size=64, embed_dim=16, stages=(1, 1, 2, 1)),
    "timm botnet": _timm("botnet26t_256", img_size=64),
    "timm caformer": _timm("caformer_s18"),
    # Other libraries' outputs, words and series
    "transformers vit": _transformers("ViTModel", "ViTConfig", image_size=32, patch_size=8, **_TINY),
    "transformers dinov2 with registers": _transformers(
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", image_size=32, patch_size=8, mlp_ratio=2, **_TINY
    ),
    "transformers beit": _transformers("BeitModel", "BeitConfig", image_size=32, patch_size=8, **_TINY),
    "transformers segformer": _transformers(
        "SegformerModel",
        "SegformerConfig",
        (3, 64, 64),
        width=16,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 2],
        decoder_hidden_size=16,
    ),
    "transformers convnextv2": _transformers(
        "ConvNextV2Model", "ConvNextV2Config", (3, 64, 64), hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 2, 1]
    ),
    "transformers clip": _transformers(
        "CLIPVisionModel", "CLIPVisionConfig", coarse=True, image_size=32, patch_size=8, **_TINY
    ),
    "transformers detr": _transformers(
        "DetrForObjectDetection",
        "DetrConfig",
        (3, 64, 64),
        _queries,
        width=6,
        backbone_config=_RESNET,
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        num_queries=6,
        num_labels=5,
    ),
    "transformers bert": _transformers("BertModel", "BertConfig", **_TEXT, **_TINY),
    "transformers gpt2": _transformers("GPT2Model", "GPT2Config", **_TEXT, n_embd=16, n_layer=2, n_head=2),
    "transformers llama": _transformers(
        "LlamaModel", "LlamaConfig", coarse=True, **_TEXT, **_TINY, num_key_value_heads=1, max_position_embeddings=32
    ),
    "transformers t5 encoder": _transformers(
        "T5EncoderModel", "T5Config", coarse=True, **_TEXT, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2
    ),
    "transformers mamba": _transformers(
        "MambaModel", "MambaConfig", coarse=True, **_TEXT, hidden_size=16, state_size=4, num_hidden_layers=2, expand=2
    ),
    # Moving pictures
    "torchvision r3d_18": Architecture(_video("r3d_18"), (3, 4, 32, 32)),
    "torchvision mvit": Architecture(_mvit, (3, 4, 32, 32)),
}
