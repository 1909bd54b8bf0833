"""Composite operators, run as the elementary operators that the rules know."""

import math
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .call import Call, by_channel
from .losses import LOSSES, at_least
from .names import BATCH_NORMS, CONVOLUTIONS, NORMALISATIONS
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


def _norm(x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None, out: None = None) -> Tensor:
    x = x if dtype is None else x.to(dtype)
    axes = tuple(range(x.ndim)) if dim is None else dim
    if p in (2, None, "fro"):
        return x.square().sum(axes, keepdim=keepdim).sqrt()
    size = x.abs()
    if math.isinf(p):
        return size.amax(axes, keepdim=keepdim) if p > 0 else size.amin(axes, keepdim=keepdim)
    total: Tensor = (size if p == 1 else size.pow(p)).sum(axes, keepdim=keepdim)
    return total if p == 1 else total.pow(1 / p)


def _normalize(x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    return x / at_least(_norm(x, p, dim, keepdim=True), eps)


def _cosine(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    lengths = at_least(_norm(x1, 2, dim), eps) * at_least(_norm(x2, 2, dim), eps)
    return (x1 * x2).sum(dim) / lengths


def _distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    return _norm(x1 - x2 + eps, p, -1, keepdim)


def _einsum(equation: str, *operands: Tensor) -> Tensor:
    """Contract more than two operands one after the other, as the chain of products that they are."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow:
        letters = inputs.replace(",", "").replace(".", "")
        output = "..." * ("..." in inputs) + "".join(sorted(each for each in set(letters) if letters.count(each) == 1))
    term, found = terms[0], operands[0]
    for i, operand in enumerate(operands[1:], 1):
        later = set("".join(terms[i + 1 :]) + output)
        both = "".join(dict.fromkeys((term + terms[i]).replace(".", "")))
        kept = "..." * ("..." in term + terms[i]) + "".join(each for each in both if each in later)
        kept = output if i == len(operands) - 1 else kept
        found = torch.einsum(f"{term},{terms[i]}->{kept}", found, operand)
        term = kept
    return found


def _chain(*matrices: Any) -> Tensor:
    given = matrices[0] if isinstance(matrices[0], (tuple, list)) else matrices
    found: Tensor = given[0]
    for matrix in given[1:]:
        found = found @ matrix
    return found


def _var(x: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, correction: Any = None) -> Tensor:
    if isinstance(dim, bool):  # var(unbiased)
        dim, unbiased = None, dim
    axes = tuple(range(x.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    count = math.prod(x.shape[axis] for axis in axes)
    correction = int(unbiased) if correction is None else correction
    squares = (x - x.mean(axes, keepdim=True)).square()
    variance: Tensor = squares.sum(axes, keepdim=keepdim) / (count - correction)
    return variance


def _mean(x: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, correction: Any = None) -> Tensor:
    axes = tuple(range(x.ndim)) if dim is None or isinstance(dim, bool) else dim
    return x.mean(axes, keepdim=keepdim)


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
    "normalize": _normalize,
    "cosine_similarity": _cosine,
    "pairwise_distance": _distance,
    "einsum": _einsum,
    **dict.fromkeys(("chain_matmul", "multi_dot", "linalg_multi_dot"), _chain),
    "hypot": lambda a, b: (a.square() + b.square()).sqrt(),
    "logaddexp": lambda a, b: torch.stack(torch.broadcast_tensors(a, b)).logsumexp(0),
    "abs": lambda x: _norm(torch.view_as_real(x), 2, -1),  # of complex numbers
    "scaled_dot_product_attention": attention,
    "glu": _glu,
    "softmin": _softmin,
    **dict.fromkeys(("norm", "linalg_vector_norm", "linalg_norm"), _norm),
    "var": _var,
    "std": lambda x, *args, **kwargs: _var(x, *args, **kwargs).sqrt(),
    "var_mean": lambda x, *args, **kwargs: (_var(x, *args, **kwargs), _mean(x, *args, **kwargs)),
    "std_mean": lambda x, *args, **kwargs: (_var(x, *args, **kwargs).sqrt(), _mean(x, *args, **kwargs)),
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
    **LOSSES,
}


_BIASED = CONVOLUTIONS | {"linear"}


def _bare_norm(call: Call) -> Callable[[], Tensor]:
    """Return a normalisation with its weight and bias as a product and a sum."""
    given: dict[str, Any] = {**call.bound(), "weight": None, "bias": None}
    weight, bias = call.bound().get("weight"), call.bound().get("bias")
    given.pop("cudnn_enabled", None)
    trailing = 0 if call.name in ("layer_norm", "rms_norm") else given["input"].ndim - 2
    if call.name == "rms_norm":
        del given["bias"]
    function = getattr(F, call.name.removeprefix("torch."))

    def body() -> Tensor:
        y: Tensor = function(**given)
        y = y if weight is None else y * by_channel(weight, trailing)
        return y if bias is None else y + by_channel(bias, trailing)

    return body


def _bare_layer(call: Call, bias: Tensor) -> Callable[[], Tensor]:
    """Return a linear layer or convolution with its bias as a sum."""
    args, kwargs = list(call.args), dict(call.kwargs)
    if len(args) > 2:
        args[2] = None
    else:
        kwargs["bias"] = None
    trailing = 0 if call.name == "linear" else call.args[1].ndim - 2
    return lambda: call.func(*args, **kwargs) + by_channel(bias, trailing)


def parameters(call: Call) -> tuple[Tensor, ...]:
    """Return the weight and bias that a normalisation, or the bias that a layer multiplies and adds at its end."""
    if call.name in NORMALISATIONS or (call.name in BATCH_NORMS and not call.bound().get("training")):
        found = (call.bound().get(key) for key in ("weight", "bias"))
        return tuple(t for t in found if isinstance(t, Tensor))
    return (call.bias,) if call.name in _BIASED and call.bias is not None else ()


def bare(call: Call) -> Callable[[], Tensor]:
    """Return a normalisation or layer whose `parameters` are activations, as the operators that it then consists of."""
    return _bare_layer(call, call.bias) if call.bias is not None else _bare_norm(call)


def opened(call: Call) -> Callable[[], Any] | None:
    """Return the body of a composite operator, to be run under the mode; None for an elementary one."""
    body = OPENED.get(call.name)
    if body is None or (body is _norm and not _is_vector_norm(call)):
        return None
    if call.name == "einsum" and len(call.args) <= 3:
        return None
    if call.name == "abs" and not call.operands[0].is_complex():
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


def _is_vector_norm(call: Call) -> bool:
    """Whether this is the norm of a vector of some order other than 0, or Frobenius'."""
    order = call.args[1] if len(call.args) > 1 else None
    if order in (None, "fro"):
        return True
    dim = call.args[2] if len(call.args) > 2 else call.kwargs.get("dim")
    axes = call.operands[0].ndim if dim is None else 1 if isinstance(dim, int) else len(dim)
    if call.name == "linalg_norm" and axes != 1:  # of two axes it is a matrix's
        return False
    return isinstance(order, (int, float)) and order != 0
