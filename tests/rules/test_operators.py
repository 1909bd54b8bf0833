"""Every covered operator in every spelling: DeepLIFT is complete through it, and no method refuses it."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from limelight.rules import ATTN_LRP, CP_LRP, DECONVNET, DEEPLIFT, GUIDED_BACKPROP, composite, multipliers

pytestmark = pytest.mark.quick

aten = torch.ops.aten
Function = Callable[[Tensor], Tensor]


def constant(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


W4, W34 = constant(4, 4), constant(3, 4)
C1, C2, C3 = constant(5, 3, 3), constant(5, 3, 3, 3), constant(5, 3, 2, 2, 2)
MASK = torch.ones(6, 6, dtype=torch.bool).tril()

# name -> (function of x, shape of one row)
VECTOR: dict[str, Function] = {
    "linear": lambda x: F.linear(x, W34, constant(3)),
    "aten.linear": lambda x: aten.linear(x, W34, constant(3)),
    "x @ W": lambda x: x @ W4,
    "W @ x": lambda x: (W4 @ x.mT).mT,
    "mm": lambda x: torch.mm(x, W4),
    "aten.mm": lambda x: aten.mm.default(x, W4),
    "addmm": lambda x: torch.addmm(constant(4), x, W4),
    "aten.addmm": lambda x: aten.addmm(constant(4), x, W4, beta=0.5, alpha=2),
    "einsum constant": lambda x: torch.einsum("bi,io->bo", x, W4),
    "einsum product": lambda x: torch.einsum("bi,bj->bij", x, torch.sin(x)),
    "bilinear": lambda x: F.bilinear(x, torch.tanh(x), constant(3, 4, 4), constant(3)),
    "bmm": lambda x: torch.bmm(x.unsqueeze(1), torch.tanh(x).unsqueeze(2)),
    "matmul": lambda x: torch.matmul(x.unsqueeze(1), torch.tanh(x).unsqueeze(2)),
    "baddbmm": lambda x: torch.baddbmm(x[:, :1, None], x.unsqueeze(1), torch.tanh(x).unsqueeze(2)),
    "mul": lambda x: x * torch.sigmoid(x),
    "mul_": lambda x: x.clone().mul_(torch.sigmoid(x)),
    "mul constant": lambda x: 3 * x * W4[0],
    "addcmul": lambda x: torch.addcmul(x, x, torch.sin(x), value=0.5),
    "addcmul_ seen through an alias": lambda x: _addcmul_(x),
    "div": lambda x: x / (2 + torch.sigmoid(x)),
    "div constant": lambda x: x / 3,
    "constant over x": lambda x: 2 / (3 + torch.tanh(x)),
    "tensor over x": lambda x: W4[0] / (3 + torch.tanh(x)),
    "add": lambda x: x + torch.relu(x),
    "add_": lambda x: torch.relu(x).add_(x, alpha=2),
    "iadd": lambda x: _iadd(x),
    "sub": lambda x: x - torch.relu(x),
    "rsub": lambda x: 1 - torch.relu(x),
    "sum": lambda x: torch.relu(x).sum(1, keepdim=True),
    "mean": lambda x: torch.relu(x).mean(1, keepdim=True),
    "cat, stack": lambda x: torch.stack([torch.cat([x, x.relu()], 1), torch.cat([x, x.tanh()], 1)], 1),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.3], dtype=torch.float64)),
    "rpow": lambda x: 2**x,
    "pow 3": lambda x: x**3,
    "square": torch.square,
    "log": lambda x: torch.log(x * x + 1),
    "sqrt": lambda x: torch.sqrt(x * x + 1),
    "rsqrt": lambda x: torch.rsqrt(x * x + 1),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clip": lambda x: torch.clip(x, max=0.3),
    "clamp_": lambda x: x.clone().clamp_(min=0),
    "threshold": lambda x: F.threshold(x, 0.1, 0.1),
    "softmax": lambda x: F.softmax(x, 1),
    "method softmax": lambda x: x.softmax(-1),
    "aten._softmax": lambda x: aten._softmax(x, 1, False),
    "softmin": lambda x: F.softmin(x, 1),
    "log_softmax": lambda x: torch.log_softmax(x, 1),
    "logsumexp": lambda x: x.logsumexp(1, keepdim=True),
    "logsumexp, squeezed": lambda x: x.logsumexp(dim=1).unsqueeze(1),
    "glu": lambda x: F.glu(x, 1),
    "amax": lambda x: x.amax(1, keepdim=True),
    "max": lambda x: x.max(1, keepdim=True)[0],
    "max.values": lambda x: torch.max(x, dim=1).values.unsqueeze(1),
    "min": lambda x: x.min(dim=1, keepdim=True)[0],
    "normalize": lambda x: F.normalize(x, dim=1),
    "var": lambda x: x.var(1, keepdim=True),
    "std": lambda x: torch.std(x, dim=1, unbiased=False, keepdim=True),
    "layer_norm": lambda x: F.layer_norm(x, (4,), W4[0], W4[1]),
    "rms_norm": lambda x: F.rms_norm(x, (4,), W4[0]),
    "embedding added": lambda x: x + F.embedding(torch.zeros(x.shape[0], dtype=torch.long), W4),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "indexing": lambda x: x[:, [0, 2, 2]].flip(1),
    "roll": lambda x: x.roll(1, 1),
    "setitem": lambda x: _setitem(x),
    "masked_fill": lambda x: x.masked_fill(W4[0] > 0, 0.0),
    "float64 cast": lambda x: x.double().type_as(W4),
}
ELEMENTWISE = [
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "mish",
    "hardswish",
    "hardsigmoid",
    "hardtanh",
    "softplus",
    "sigmoid",
    "tanh",
    "softsign",
    "logsigmoid",
    "hardshrink",
    "softshrink",
    "tanhshrink",
]
for _name in ELEMENTWISE:
    VECTOR[f"F.{_name}"] = getattr(F, _name)
    if hasattr(torch.Tensor, _name):
        VECTOR[f"Tensor.{_name}"] = lambda x, _name=_name: getattr(x, _name)()  # type: ignore[misc]
    if hasattr(torch.Tensor, _name + "_"):
        VECTOR[f"Tensor.{_name}_"] = lambda x, _name=_name: getattr(x.clone(), _name + "_")()  # type: ignore[misc]
    if hasattr(aten, _name):
        VECTOR[f"aten.{_name}"] = lambda x, _name=_name: getattr(aten, _name).default(x)  # type: ignore[misc]
    if _name in ("relu", "relu6", "leaky_relu", "elu", "selu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh"):
        VECTOR[f"F.{_name} in place"] = lambda x, _name=_name: getattr(F, _name)(x.clone(), inplace=True)  # type: ignore[misc]
for _name in ("exp", "sin", "abs", "expm1", "erf", "atan"):
    VECTOR[f"torch.{_name}"] = getattr(torch, _name)

# Operators that select are covered where the rule is about differences or relevance, and refused by Guided Backprop.
SELECTING: dict[str, Function] = {
    "maximum": lambda x: torch.maximum(x, torch.tanh(2 * x)),
    "maximum constant": lambda x: torch.maximum(x, torch.zeros((), dtype=x.dtype)),
    "minimum": lambda x: torch.minimum(x, 0.5 * x + 0.1),
    "binary max": lambda x: torch.max(x, 0.3 * x),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "where number": lambda x: torch.where(x > 0, x, 0.0),
}
IMAGE: dict[str, Function] = {
    "conv2d": lambda x: F.conv2d(x, C2, constant(5), stride=2, padding=1),
    "conv2d same": lambda x: F.conv2d(x, constant(5, 3, 2, 2), padding="same"),
    "conv2d groups": lambda x: F.conv2d(x, constant(6, 1, 3, 3), groups=3, dilation=2),
    "aten.convolution": lambda x: aten.convolution(x, C2, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, constant(3, 4, 3, 3), constant(4), stride=2, output_padding=1),
    "batch_norm": lambda x: F.batch_norm(x, constant(3), constant(3).abs() + 1, constant(3), constant(3)),
    "torch.batch_norm": lambda x: torch.batch_norm(
        x, constant(3), None, constant(3), constant(3).abs() + 1, False, 0.1, 1e-5, False
    ),
    "group_norm": lambda x: F.group_norm(x.repeat(1, 2, 1, 1) * W4[0, 0], 3, constant(6), constant(6)),
    "instance_norm": lambda x: F.instance_norm(x, weight=constant(3), bias=constant(3)),
    "layer_norm": lambda x: F.layer_norm(x, (3, 6, 6), constant(3, 6, 6)),
    "local_response_norm": lambda x: F.local_response_norm(x, 2),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "max_pool2d overlapping": lambda x: F.max_pool2d(x, 3, 1, 1),
    "torch.max_pool2d": lambda x: torch.max_pool2d(x, 3, 2, ceil_mode=True),
    "max_pool2d with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 4),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 1, padding=1),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 4),
    "amax over axes": lambda x: x.amax((2, 3)),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2),
    "pad reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "unfold": lambda x: F.unfold(x, 2),
    "attention": lambda x: F.scaled_dot_product_attention(x, x.tanh(), x + 1),
    "attention causal": lambda x: F.scaled_dot_product_attention(x, x.tanh(), x, is_causal=True, scale=0.3),
    "attention mask": lambda x: F.scaled_dot_product_attention(x, x.tanh(), x, attn_mask=MASK),
    "attention float mask": lambda x: F.scaled_dot_product_attention(x, x.tanh(), x, constant(6, 6)),
    "attention -inf mask": lambda x: F.scaled_dot_product_attention(
        x, x.tanh(), x, torch.zeros(6, 6, dtype=torch.float64).masked_fill(~MASK, -math.inf)
    ),
    "attention gqa": lambda x: F.scaled_dot_product_attention(x, x[:, :1].tanh(), x[:, :1], enable_gqa=True),
    "channel softmax": lambda x: torch.softmax(x, dim=1),
}
OTHER: dict[str, tuple[Function, tuple[int, ...]]] = {
    "conv1d": (lambda x: F.conv1d(x, C1, constant(5), padding=1), (3, 7)),
    "conv3d": (lambda x: F.conv3d(x, C3), (3, 4, 4, 4)),
    "conv_transpose1d": (lambda x: F.conv_transpose1d(x, constant(3, 2, 3), groups=1), (3, 7)),
    "conv_transpose3d": (lambda x: F.conv_transpose3d(x, constant(3, 2, 2, 2, 2)), (3, 4, 4, 4)),
    "max_pool1d": (lambda x: F.max_pool1d(x, 3, 2), (3, 7)),
    "max_pool3d": (lambda x: F.max_pool3d(x, 2, 1), (3, 4, 4, 4)),
    "adaptive_max_pool1d": (lambda x: F.adaptive_max_pool1d(x, 3), (3, 7)),
    "adaptive_max_pool3d": (lambda x: F.adaptive_max_pool3d(x, 2), (3, 4, 4, 4)),
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 2), (3, 7)),
    "avg_pool3d": (lambda x: F.avg_pool3d(x, 2), (3, 4, 4, 4)),
    "adaptive_avg_pool1d": (lambda x: F.adaptive_avg_pool1d(x, 3), (3, 7)),
    "adaptive_avg_pool3d": (lambda x: F.adaptive_avg_pool3d(x, 2), (3, 4, 4, 4)),
}
SHAPES = {"vector": (4,), "image": (3, 6, 6)}
CASES = {
    **{f"vector {name}": (f, (4,)) for name, f in VECTOR.items()},
    **{f"image {name}": (f, (3, 6, 6)) for name, f in IMAGE.items()},
    **OTHER,
}


def _iadd(x: Tensor) -> Tensor:
    y = torch.relu(x)
    y += x
    return y


def _addcmul_(x: Tensor) -> Tensor:
    y = torch.relu(x)
    alias = y
    y.addcmul_(x, torch.sin(x))
    return alias


def _setitem(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = torch.relu(x[:, 1])
    return y


def _score(f: Function, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """f between two layers with random weights, so that differences and relevance vary in sign."""
    size = math.prod(shape)
    before = constant(size, size, seed=1) / size**0.5

    def score(rows: Tensor) -> Tensor:
        out = f(F.linear(rows.flatten(1), before, constant(size, seed=2)).reshape(-1, *shape)).reshape(len(rows), -1)
        return out.matmul(constant(out.shape[1], seed=3))

    return score


@pytest.mark.parametrize("name", [*CASES, *SELECTING])
def test_deeplift_is_complete_through(name: str) -> None:
    f, shape = CASES[name] if name in CASES else (SELECTING[name], (4,))
    score, x, x0 = _score(f, shape), constant(3, *shape, seed=4), constant(3, *shape, seed=5)
    for reference in (x0, x0[:1]):
        found = multipliers(score, x, DEEPLIFT["rescale"], reference=reference)
        change = score(x) - score(reference)
        assert torch.equal(found.score, score(x)) or torch.allclose(found.score, score(x), rtol=1e-14)
        size = found.values.abs().sum().item()
        assert (found.values.flatten(1).sum(1) - change).abs().max().item() <= 1e-12 * size
        assert size > 0


@pytest.mark.parametrize("name", CASES)
def test_every_method_runs_through(name: str) -> None:
    f, shape = CASES[name]
    score, x = _score(f, shape), constant(3, *shape, seed=4)
    methods = [GUIDED_BACKPROP, DECONVNET, composite("epsilon-plus"), composite("gamma"), ATTN_LRP]
    # Conservative propagation takes softmax for a constant: with nothing beside it there is no relevance to find.
    methods += [] if ("soft" in name and "attention" not in name) or "logsumexp" in name else [CP_LRP]
    for propagation in methods:
        found = multipliers(score, x, propagation)
        assert found.values.shape == x.shape
        assert found.values.isfinite().all()
        assert torch.allclose(found.score, score(x), rtol=1e-12)
        assert not [note for note in found.notes if "plain gradient" in note]
