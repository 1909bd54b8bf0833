"""AttnLRP and CP-LRP on vision transformers, against their definitions written out."""

import math

import pytest
import torch
from torch import Tensor, nn

from limelight.rules import ATTN_LRP, CP_LRP, composite, multipliers
from tests.rules.helpers import constant, frozen, logit

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")


def _without_biases(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if "bias" in name or "pos_embed" in name or "cls_token" in name or "class_token" in name:
            nn.init.zeros_(parameter)
    return model


def _vit() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=7)
    nn.init.normal_(model.head.weight)
    return _without_biases(model)


def _torchvision_vit() -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=7)
    nn.init.normal_(model.heads.head.weight)
    return _without_biases(model)


@pytest.mark.parametrize("make", [_vit, _torchvision_vit])
def test_cp_lrp_conserves_relevance(make: object) -> None:
    assert callable(make)
    x = constant(2, 3, 32, 32)
    found = multipliers(logit(make(), 3), x, CP_LRP)
    assert torch.allclose(found.values.sum((1, 2, 3)), found.score, rtol=1e-10)
    assert found.shares is not None and "softmax" not in found.shares.taken


@pytest.mark.parametrize("make", [_vit, _torchvision_vit])
@pytest.mark.parametrize("propagation", [ATTN_LRP, composite("zero")], ids=lambda p: p.name)
def test_attn_lrp_conserves_what_softmax_does_not_absorb(make: object, propagation: object) -> None:
    """The first-order rule of softmax has a constant term by definition; with it, the balance is exact. These networks
    have no biases, and LRP-0 takes next to nothing."""
    assert callable(make)
    x = constant(2, 3, 32, 32)
    found = multipliers(logit(make(), 3), x, propagation)  # type: ignore[arg-type]
    assert found.shares is not None
    absorbed = found.shares.taken["softmax"]
    assert torch.allclose(found.values.sum((1, 2, 3)) + absorbed, found.score, rtol=1e-7)
    assert (absorbed.abs() > 0.01 * found.score.abs()).all()
    assert all("softmax took" in note for note in found.shares.notes())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(6), nn.Linear(6, 18), nn.Linear(6, 6)
        self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v))
        return x + self.down(nn.functional.gelu(self.up(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("propagation", [ATTN_LRP, CP_LRP], ids=lambda p: p.name)
def test_equal_to_the_definition_written_out(propagation: object) -> None:
    """Detached factors and halved products in plain autograd give the same as the rules."""
    block, x, v = frozen(Block()), constant(2, 5, 6), constant(30)
    assert isinstance(block, Block)

    def half(t: Tensor) -> Tensor:
        return t / 2 + t.detach() / 2

    leaf = x.clone().requires_grad_()
    centred = leaf - leaf.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt().detach()
    q, k, value = block.qkv(centred / scale * block.norm.weight + block.norm.bias).chunk(3, -1)
    if propagation is CP_LRP:
        mixed = torch.softmax(q @ k.mT / math.sqrt(6), -1).detach() @ value
    else:
        mixed = half(torch.softmax(half(q @ k.mT) / math.sqrt(6), -1) @ value)
    y = leaf + block.out(mixed)
    up = block.up(y)
    y = y + block.down(up * (nn.functional.gelu(up) / up).detach())
    (m,) = torch.autograd.grad(torch.mv(y.flatten(1), v).sum(), leaf)
    found = multipliers(lambda rows: torch.mv(block(rows).flatten(1), v), x, propagation)  # type: ignore[arg-type]
    assert torch.allclose(found.values, m * x, rtol=1e-10, atol=1e-13)


def test_a_masked_score_takes_no_part() -> None:
    """Relevance through causal attention is finite, and nothing flows from the future."""
    block, x = frozen(Block()), constant(1, 5, 6)
    assert isinstance(block, Block)

    def score(rows: Tensor) -> Tensor:
        q, k, v = block.qkv(rows).chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 2].sum(-1)

    for propagation in (ATTN_LRP, CP_LRP, composite("epsilon-plus")):
        values = multipliers(score, x, propagation).values
        assert values.isfinite().all() and values[:, 3:].abs().max() == 0 and values[:, :3].abs().min() > 0
