"""Every covered operator in every spelling: DeepLIFT is complete through it, and no method refuses it."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from limelight.rules import (
    ATTN_LRP,
    CP_LRP,
    DECONVNET,
    DEEPLIFT,
    GUIDED_BACKPROP,
    Propagation,
    UncoveredOperator,
    composite,
    multipliers,
)
from limelight.rules.engine import Propagate
from limelight.rules.tape import Tape

pytestmark = pytest.mark.quick

aten = torch.ops.aten
Function = Callable[[Tensor], Tensor]


def constant(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


W4, W34 = constant(4, 4), constant(3, 4)
C1, C2, C3 = constant(5, 3, 3), constant(5, 3, 3, 3), constant(5, 3, 2, 2, 2)
LABELS = torch.tensor([0, 2, 1])
SHARES = constant(3, 4, seed=9).softmax(1)
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
    "einsum of three": lambda x: torch.einsum("bi,ij,kj->bk", x, W4, W34),
    "einsum of three, implicit": lambda x: torch.einsum("...i,ij,kj", x, W4, W34),
    "einsum of two activations and a constant": lambda x: torch.einsum("bi,ij,bj->bj", x, W4, x.sin()),
    "einsum of three activations": lambda x: torch.einsum("bi,bi,bi->b", x, x.sin(), x + 1).unsqueeze(1),
    "tensordot": lambda x: torch.tensordot(x, W34, dims=([1], [1])),
    "tensordot, constant first": lambda x: torch.tensordot(W34, x, ([1], [1])).mT,
    "inner": lambda x: torch.inner(x, W34),
    "kron": lambda x: torch.kron(x, W34[:1]),
    "outer": lambda x: torch.outer(x[:, 0], W4[0]),
    "vecdot": lambda x: torch.linalg.vecdot(x, x.sin()).unsqueeze(1),
    "cross": lambda x: torch.linalg.cross(x[:, :3], x[:, 1:].sin()),
    "multi_dot": lambda x: torch.linalg.multi_dot([x, W4, W34.T]),
    "rfft and back": lambda x: torch.fft.irfft(torch.fft.rfft(x) * torch.complex(W4[0, :3], W4[1, :3]), 4),
    "fft, real part": lambda x: torch.fft.fft(x).real,
    "fft, both parts": lambda x: torch.view_as_real(torch.fft.fft(x)).flatten(1),
    "fft, imaginary part": lambda x: torch.fft.fft(x).imag,
    "fft of two axes": lambda x: torch.fft.fft2(x.unflatten(1, (2, 2))).real.flatten(1),
    "sum of spectra": lambda x: (torch.fft.rfft(x) + torch.fft.rfft(x.sin())).real,
    "spectrum by a complex matrix": lambda x: (torch.fft.rfft(x) @ torch.complex(W34[:, :3], W34[:, 1:])).real,
    "product of spectra": lambda x: torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(torch.tanh(x)), 4),
    "magnitude of a spectrum": lambda x: torch.fft.rfft(x).abs(),
    "prod": lambda x: (x + 2).prod(1, keepdim=True),
    "prod of two": lambda x: x[:, :2].prod(1).unsqueeze(1),
    "hypot": lambda x: torch.hypot(x, x.sin() + 1),
    "logaddexp": lambda x: torch.logaddexp(x, x.sin()),
    "cosine_similarity": lambda x: F.cosine_similarity(x, W4[:1]).unsqueeze(1),
    "cosine_similarity of two": lambda x: F.cosine_similarity(x, x.sin() + 1).unsqueeze(1),
    "pairwise_distance": lambda x: F.pairwise_distance(x, W4[:1]).unsqueeze(1),
    "norm 1": lambda x: x.norm(1, 1, keepdim=True),
    "norm 3": lambda x: torch.linalg.vector_norm(x, 3, dim=1, keepdim=True),
    "norm inf": lambda x: torch.linalg.vector_norm(x, math.inf, dim=1, keepdim=True),
    "normalize by absolutes": lambda x: F.normalize(x, 1.0, 1),
    "cross_entropy": lambda x: F.cross_entropy(x, LABELS[1:2].expand(len(x)), reduction="none").unsqueeze(1),
    "cross_entropy of shares": lambda x: F.cross_entropy(
        x, SHARES[:1].expand(len(x), 4), W4[0].abs(), reduction="none"
    )[:, None],
    "cross_entropy smoothed": lambda x: F.cross_entropy(
        x, LABELS[1:2].expand(len(x)), W4[0].abs(), label_smoothing=0.2, reduction="none"
    )[:, None],
    "nll_loss": lambda x: F.nll_loss(x.log_softmax(1), LABELS[1:2].expand(len(x)), reduction="none").unsqueeze(1),
    "binary_cross_entropy_with_logits": lambda x: F.binary_cross_entropy_with_logits(
        x, SHARES[:1].expand(len(x), 4), pos_weight=W4[0].abs(), reduction="none"
    ),
    "binary_cross_entropy": lambda x: F.binary_cross_entropy(
        x.sigmoid(), SHARES[:1].expand(len(x), 4), reduction="none"
    ),
    "mse_loss": lambda x: F.mse_loss(x, SHARES[:1].expand(len(x), 4), reduction="none"),
    "l1_loss": lambda x: F.l1_loss(x, SHARES[:1].expand(len(x), 4), reduction="none"),
    "smooth_l1_loss": lambda x: F.smooth_l1_loss(x, SHARES[:1].expand(len(x), 4), reduction="none", beta=0.7),
    "huber_loss": lambda x: F.huber_loss(x, SHARES[:1].expand(len(x), 4), reduction="none", delta=0.7),
    "kl_div": lambda x: F.kl_div(x.log_softmax(1), SHARES[:1].expand(len(x), 4), reduction="none"),
    "kl_div of logarithms": lambda x: F.kl_div(
        x, SHARES[:1].expand(len(x), 4).log(), reduction="none", log_target=True
    ),
    "soft_margin_loss": lambda x: F.soft_margin_loss(x, W4[:1].sign(), reduction="none"),
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
    blind = ("softmax", "softmin", "logsumexp", "logaddexp", "cross_entropy", "nll_loss", "kl_div")
    methods += [] if any(each in name for each in blind) and "logarithms" not in name else [CP_LRP]
    for propagation in methods:
        found = multipliers(score, x, propagation)
        assert found.values.shape == x.shape
        assert found.values.isfinite().all()
        assert torch.allclose(found.score, score(x), rtol=1e-12)
        assert not [note for note in found.notes if "plain gradient" in note]


LOSSES = {
    "cross_entropy": lambda z, **k: F.cross_entropy(z, LABELS, **k),
    "cross_entropy weighted": lambda z, **k: F.cross_entropy(z, LABELS, W4[0].abs(), label_smoothing=0.1, **k),
    "cross_entropy ignoring": lambda z, **k: F.cross_entropy(z, LABELS, ignore_index=2, **k),
    "cross_entropy of shares": lambda z, **k: F.cross_entropy(z, SHARES, W4[0].abs(), label_smoothing=0.1, **k),
    "nll_loss": lambda z, **k: F.nll_loss(z, LABELS, W4[0].abs(), **k),
    "binary_cross_entropy": lambda z, **k: F.binary_cross_entropy(z.sigmoid(), SHARES, W4[0].abs(), **k),
    "binary_cross_entropy_with_logits": lambda z, **k: F.binary_cross_entropy_with_logits(z, SHARES, W4[0].abs(), **k),
    "mse_loss": lambda z, **k: F.mse_loss(z, SHARES, **k),
    "l1_loss": lambda z, **k: F.l1_loss(z, SHARES, **k),
    "smooth_l1_loss": lambda z, **k: F.smooth_l1_loss(z, SHARES, beta=0.3, **k),
    "huber_loss": lambda z, **k: F.huber_loss(z, SHARES, delta=0.3, **k),
    "kl_div": lambda z, **k: F.kl_div(z, SHARES, **k),
    "soft_margin_loss": lambda z, **k: F.soft_margin_loss(z, W4[:3].sign(), **k),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_taken_apart_are_torchs_own(name: str) -> None:
    z, loss = constant(3, 4), LOSSES[name]
    for reduction in ("none", "sum", "mean"):
        with Propagate(ATTN_LRP, z, Tape()):
            found = loss(z.clone().requires_grad_(), reduction=reduction)
        torch.testing.assert_close(found.detach(), loss(z, reduction=reduction), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [None, 1, 2, 3, math.inf, -math.inf, "fro"])
def test_norms_taken_apart_are_torchs_own(order: float | str | None) -> None:
    z = constant(3, 4)
    calls: list[Function] = [lambda t: torch.linalg.norm(t)]
    if order is not None:
        calls += [lambda t: t.norm(order), lambda t: t.norm(order, dim=1), lambda t: torch.norm(t, p=order, dim=(0, 1))]
    if order not in (None, "fro"):
        calls += [lambda t: torch.linalg.norm(t, order, dim=1), lambda t: torch.linalg.vector_norm(t, order)]
    for call in calls:
        with Propagate(ATTN_LRP, z, Tape()):
            found = call(z.clone().requires_grad_())
        torch.testing.assert_close(found.detach(), call(z), rtol=1e-12, atol=1e-12)
    with pytest.raises(UncoveredOperator, match="norm"), Propagate(ATTN_LRP, z, Tape()):
        torch.linalg.norm(z.clone().requires_grad_(), 2)  # the largest singular value


@pytest.mark.parametrize("factors", [1, 2, 3, 4, 5])
def test_a_product_of_many_gives_each_its_shapley_value(factors: int) -> None:
    x, x0 = constant(3, factors), constant(3, factors, seed=1)
    x[0, 0] = 0
    found = multipliers(lambda r: r.prod(1), x, DEEPLIFT["rescale"], reference=x0).values
    orders = list(itertools.permutations(range(factors)))
    expected = torch.zeros_like(x)
    for order in orders:
        now = x0.clone()
        for i in order:
            before = now.prod(1)
            now[:, i] = x[:, i]
            expected[:, i] += (now.prod(1) - before) / len(orders)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    relevance = multipliers(lambda r: r.prod(1), x[1:], ATTN_LRP).values
    torch.testing.assert_close(relevance, (x[1:].prod(1) / factors)[:, None].expand_as(relevance))


@pytest.mark.parametrize("propagation", [ATTN_LRP, CP_LRP, composite("zero"), GUIDED_BACKPROP], ids=lambda p: p.name)
def test_sorting_moves_what_it_sorts(propagation: Propagation) -> None:
    x = constant(3, 5)
    orders: list[Function] = [
        lambda r: r.sort(1).values,
        lambda r: r.topk(3, 1)[0],
        lambda r: torch.msort(r.T).T,
        lambda r: r.kthvalue(2, 1)[0][:, None],
    ]
    for sort in orders:
        leaf = x.clone().requires_grad_()
        weight = constant(sort(x).shape[1], seed=2)
        (slope,) = torch.autograd.grad((sort(leaf) @ weight).sum(), leaf)
        found = multipliers(lambda r: sort(r) @ weight, x, propagation).values  # noqa: B023
        torch.testing.assert_close(found, slope if propagation is GUIDED_BACKPROP else slope * x)
        for rule in DEEPLIFT.values():
            with pytest.raises(UncoveredOperator, match=r"sort|topk|kthvalue"):
                multipliers(lambda r: sort(r) @ weight, x, rule, reference=x.flip(1))  # noqa: B023


LINEAR = [name for name in VECTOR if any(word in name for word in ("fft", "spectr", "tensordot", "inner", "outer"))]


@pytest.mark.parametrize("name", [name for name in LINEAR if name.split()[0] not in ("product", "magnitude", "sum")])
def test_linear_operators_are_the_gradient_times_the_input(name: str) -> None:
    f = VECTOR[name]
    x, x0 = constant(3, 4), constant(3, 4, seed=1)
    weight = constant(f(x).flatten(1).shape[1], seed=2)
    score: Function = lambda r: f(r).flatten(1) @ weight  # noqa: E731
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(score(leaf).sum(), leaf)
    torch.testing.assert_close(score(x + x0), score(x) + score(x0))
    torch.testing.assert_close(multipliers(score, x, DEEPLIFT["rescale"], reference=x0).values, slope * (x - x0))
    for propagation in (ATTN_LRP, composite("zero")):
        torch.testing.assert_close(multipliers(score, x, propagation).values, slope * x, rtol=1e-5, atol=1e-6)
