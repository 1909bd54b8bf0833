"""One name for every spelling of an operator.

`F.relu`, `torch.relu_`, `Tensor.relu`, `torch.ops.aten.relu.default` are all `"relu"`. The tables below say what
kind of operator a name means; `call.py` refines the kind by the operands (a product with a constant is linear, a
product of two activations is not).
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
from torch.overrides import resolve_name

Kind = Literal[
    "affine", "activation", "sum", "product", "quotient", "normalisation", "batch_norm", "softmax", "max",
    "maximum", "order", "where", "plain", "refused", "unknown",
]  # fmt: skip


def words(text: str) -> frozenset[str]:
    """Return the words of a table."""
    return frozenset(text.split())


# spelling -> canonical name; a trailing underscore marks one that writes into its first operand
ALIASES = dict(
    pair.split(":")
    for pair in words("""
        true_divide:div divide:div truediv:div rtruediv:rdiv multiply:mul rmul:mul subtract:sub negative:neg radd:add
        fmax:maximum fmin:minimum
        absolute:abs clip:clamp expit:sigmoid special_expit:sigmoid log_sigmoid:logsigmoid _prelu_kernel:prelu
        concat:cat concatenate:cat linalg_matmul:matmul spmm:mm special_logsumexp:logsumexp
        _softmax:softmax special_softmax:softmax _log_softmax:log_softmax special_log_softmax:log_softmax
        float_power:pow vector_norm:linalg_vector_norm
        iadd:add_ isub:sub_ imul:mul_ itruediv:div_ idiv:div_ ipow:pow_
        _adaptive_avg_pool2d:adaptive_avg_pool2d _adaptive_avg_pool3d:adaptive_avg_pool3d
        _unsafe_view:view _reshape_alias:reshape _to_copy:to passed_on:to _convolution:convolution
    """)
)

CONVOLUTIONS = words("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution")
MATRIX_PRODUCTS = words("""
    matmul bmm mm mv dot einsum rmatmul tensordot inner outer ger kron vecdot linalg_vecdot vdot cross linalg_cross
""")
ORDERS = words("sort msort topk kthvalue")  # gathers whose places depend on the values
RELUS = words("relu relu6 leaky_relu prelu rrelu threshold clamp clamp_min hardtanh")
ACTIVATIONS = RELUS | words("""
    elu selu celu gelu silu mish hardswish hardsigmoid hardshrink softshrink tanhshrink softsign sigmoid tanh softplus
    logsigmoid clamp_max exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square pow rpow abs sin cos tan asin acos atan
    sinh cosh asinh acosh atanh erf erfc reciprocal rdiv
""")
POWERS = words("square pow sqrt rsqrt reciprocal rdiv")  # arithmetic, of which statistics are made
AVERAGES = words("""
    mean sum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
""")
SUMS = AVERAGES | {"add", "sub", "rsub"}
MAX_POOLS = frozenset(
    f"{prefix}max_pool{n}d{suffix}"
    for prefix in ("", "adaptive_")
    for n in (1, 2, 3)
    for suffix in ("", "_with_indices")
)
NORMALISATIONS = words("layer_norm group_norm instance_norm torch.instance_norm rms_norm")
BATCH_NORMS = words("batch_norm torch.batch_norm")
SOFTMAXES = words("softmax log_softmax logsumexp")
KINDS: dict[str, Kind] = {
    **dict.fromkeys(SUMS, "sum"),
    **dict.fromkeys(ACTIVATIONS, "activation"),
    **dict.fromkeys(BATCH_NORMS, "batch_norm"),
    **dict.fromkeys(NORMALISATIONS, "normalisation"),
    **dict.fromkeys(SOFTMAXES, "softmax"),
    **dict.fromkeys(("elementwise", "arithmetic"), "activation"),  # written out as several operators
    **dict.fromkeys(ORDERS, "order"),
    "prod": "product",
}
AFFINE = CONVOLUTIONS | MATRIX_PRODUCTS | {"linear"}
MAXIMA = words("maximum minimum max min amax amin")
# Operators whose value depends nonlinearly on what varies: a method with a reference must record them.
NONLINEAR = (
    ACTIVATIONS | MAX_POOLS | NORMALISATIONS | SOFTMAXES | MATRIX_PRODUCTS | MAXIMA | {"mul", "div", "where", "prod"}
)
DROPOUTS = words("dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout")
RULED = (
    NONLINEAR | AFFINE | SUMS | BATCH_NORMS | DROPOUTS | ORDERS
)  # all that some method may have a rule for or refuse

# Operators that make a constant out of activations: nonlinear once the constant is combined with an activation.
DETACHING = words("""
    gt ge lt le eq ne greater greater_equal less less_equal not_equal isclose sign sgn signbit heaviside logical_not
    detach data item tolist numpy bool
""")

# Linear in their floating operand whatever the other arguments are: plain autograd is correct under every rule.
PLAIN = words("""
    view reshape flatten ravel unflatten permute transpose t swapaxes swapdims moveaxis movedim squeeze unsqueeze
    expand expand_as repeat tile repeat_interleave broadcast_to broadcast_tensors contiguous clone to type type_as
    float double half bfloat16 cpu cuda view_as reshape_as getitem select narrow slice index_select gather
    take_along_dim chunk split split_with_sizes tensor_split hsplit vsplit dsplit unsafe_split unsafe_chunk unbind
    cat stack hstack vstack dstack column_stack flip fliplr flipud roll rot90 pad constant_pad_nd pixel_shuffle
    pixel_unshuffle channel_shuffle native_channel_shuffle unfold fold im2col col2im interpolate upsample
    upsample_nearest upsample_bilinear embedding alias neg positive diagonal diag diag_embed tril triu T mT H mH
    real setitem index_put index_add scatter_add copy cumsum atleast_1d atleast_2d atleast_3d as_strided
    select_scatter slice_scatter meshgrid block_diag lift_fresh set_ resize_ fill_ zero_
    new_zeros new_ones new_full new_empty new_tensor zeros_like ones_like full_like empty_like rand_like randn_like
    grad requires_grad_ register_hook retain_grad names argmax argmin isnan isinf isfinite hash format repr str
""")

# Linear too, with complex numbers between real ends: Fourier transforms and views of complex numbers.
PLAIN = PLAIN | words("""
    fft ifft rfft irfft hfft ihfft fft2 ifft2 rfft2 irfft2 hfft2 ihfft2 fftn ifftn rfftn irfftn hfftn ihfftn
    fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_hfft2 fft_ihfft2
    fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_hfftn fft_ihfftn fftshift ifftshift fft_fftshift fft_ifftshift
    stft istft view_as_real view_as_complex complex imag conj conj_physical resolve_conj resolve_neg
""")

# What tells of a tensor without reading its values.
METADATA = words("""
    shape dtype device is_cuda ndim size dim numel grad_fn requires_grad is_floating_point is_complex is_contiguous
    stride is_nested is_sparse is_leaf layout len nelement ndimension data_ptr element_size storage_offset is_quantized
    itemsize nbytes is_mkldnn is_meta is_same_size _version is_inference
""")
PLAIN = PLAIN | METADATA


@cache
def canonical(func: Callable[..., Any]) -> tuple[str, bool]:
    """Return the operator's canonical name and whether this spelling writes into its first operand."""
    if isinstance(func, torch._ops.OpOverload):
        func = func.overloadpacket
    if isinstance(func, torch._ops.OpOverloadPacket):
        parts = ["aten", func._qualified_op_name.rsplit("::", 1)[-1]]
    else:
        parts = (resolve_name(func) or getattr(func, "__name__", "")).split(".")
    if parts[-1] in ("__get__", "__set__"):
        parts.pop()
    name = parts[-1]
    if name.startswith("__") and name.endswith("__"):
        name = name.strip("_")
    if name in ("norm", "vector_norm") and parts[-2:-1] == ["linalg"]:
        name = f"linalg_{name}"  # torch.norm flattens where this takes a matrix's norm
    name = ALIASES.get(name, name)
    in_place = name.endswith("_") and name not in PLAIN  # `fill_`: the values it overwrites no longer matter
    name = ALIASES.get(name.rstrip("_"), name.rstrip("_")) if in_place else name
    # torch's own functions have another order of arguments than those of torch.nn.functional with the same name.
    if name in ("batch_norm", "instance_norm") and parts[-2] != "functional":
        name = f"torch.{name}"
    return name, in_place
