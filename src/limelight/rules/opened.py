"""Composite operators, run as the elementary operators that the rules know."""

import math
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .call import Call
from .recurrent import LAYERS, RECURRENT, opens


def _unchecked(function: Any) -> Callable[..., Any]:
    """Copy a Python function of torch.nn.functional without its check for overrides, which would skip its body."""
    checks = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    names = vars(F) | dict.fromkeys(checks, lambda *_: False)
    copy = types.FunctionType(function.__code__, names, argdefs=function.__defaults__, closure=function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    r"""Compute $\mathrm{softmax}(q k^\top / \sqrt d + \mathrm{mask})\,v$, as torch defines it, without dropout."""
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    scores = (query * (1 / math.sqrt(query.size(-1)) if scale is None else scale)).matmul(key.transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones(query.size(-2), key.size(-2), dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.softmax(scores, -1).matmul(value)


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    value, gate = x.chunk(2, dim)
    return value * torch.sigmoid(gate)


def _softmin(x: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    return torch.softmax(-x, -1 if dim is None else dim, dtype=dtype)


def _norm(x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    x = x if dtype is None else x.to(dtype)
    axes = tuple(range(x.ndim)) if dim is None else dim
    return x.square().sum(axes, keepdim=keepdim).sqrt()


def _var(x: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, correction: Any = None) -> Tensor:
    if isinstance(dim, bool):  # var(unbiased)
        dim, unbiased = None, dim
    axes = tuple(range(x.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    count = math.prod(x.shape[axis] for axis in axes)
    correction = int(unbiased) if correction is None else correction
    squares = (x - x.mean(axes, keepdim=True)).square()
    variance: Tensor = squares.sum(axes, keepdim=keepdim) / (count - correction)
    return variance


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    product = a.matmul(b)
    return (product if alpha == 1 else product * alpha) + (bias if beta == 1 else bias * beta)


def _bilinear(a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    left = torch.einsum("...i,kij->...kj", a, weight)
    out: Tensor = (left * b.unsqueeze(-2)).sum(-1)
    return out if bias is None else out + bias


def _clamp(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Clamp by tensors, which may vary."""
    for bound, limit in ((min, torch.maximum), (max, torch.minimum)):
        x = x if bound is None else limit(x, torch.as_tensor(bound, dtype=x.dtype, device=x.device))
    return x


def _aminmax(x: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    axes = () if dim is None else (dim,)
    return torch.return_types.aminmax((x.amin(axes, keepdim), x.amax(axes, keepdim)))


OPENED: dict[str, Callable[..., Any]] = {
    "multi_head_attention_forward": _unchecked(F.multi_head_attention_forward),
    "local_response_norm": _unchecked(F.local_response_norm),
    "normalize": _unchecked(F.normalize),
    "scaled_dot_product_attention": attention,
    "glu": _glu,
    "softmin": _softmin,
    **dict.fromkeys(("norm", "linalg_vector_norm", "linalg_norm"), _norm),
    "var": _var,
    "std": lambda x, *args, **kwargs: _var(x, *args, **kwargs).sqrt(),
    **dict.fromkeys(("addmm", "baddbmm"), _addmm),
    "addcmul": lambda x, a, b, *, value=1: x + a * b * value,
    "addcdiv": lambda x, a, b, *, value=1: x + a / b * value,
    "lerp": lambda x, end, weight: x + weight * (end - x),
    "bilinear": _bilinear,
    "clamp": _clamp,
    "clamp_min": lambda x, min: _clamp(x, min),
    "clamp_max": lambda x, max: _clamp(x, None, max),
    "aminmax": _aminmax,
    **RECURRENT,
}


def opened(call: Call) -> Callable[[], Any] | None:
    """Return the body of a composite operator, to be run under the mode; None for an elementary one."""
    body = OPENED.get(call.name)
    if body is None or (body is _norm and (call.args[1] if len(call.args) > 1 else 2) not in (2, 2.0, "fro", None)):
        return None
    if call.name.startswith("clamp") and not any(
        isinstance(t, Tensor) for t in (*call.args[1:], *call.kwargs.values())
    ):
        return None
    if call.name in LAYERS and not opens(call.args):
        return None
    if body is attention and (call.args[4] if len(call.args) > 4 else call.kwargs.get("dropout_p", 0.0)):
        return None  # random: not opened, so that the audit refuses it
    return lambda: body(*call.args, **call.kwargs)
