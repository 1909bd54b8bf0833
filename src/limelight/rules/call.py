"""One call of an operator, as rules see it: its kind, its varying operands, and how to run it again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .audit import tensors
from .names import BATCH_NORMS, CONVOLUTIONS, DROPOUTS, KINDS, MATRIX_PRODUCTS, MAX_POOLS, PLAIN, Kind, words

_BINARY = (MATRIX_PRODUCTS - {"einsum"}) | words("mul div add sub rsub maximum minimum")
_TWO_OPERANDS = _BINARY | CONVOLUTIONS | {"linear", "max", "min"}  # where the second argument is a tensor

# Names of the leading arguments, for the operators whose tensors may come as keywords.
_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_NATIVE = ("input", "weight", "bias", "running_mean", "running_var")
SIGNATURES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_BINARY | {"pow"}, ("input", "other")),
    **{f"conv{n}d": _CONV for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _TRANSPOSED for n in (1, 2, 3)},
    "convolution": (*_CONV[:6], "transposed", "output_padding", "groups"),
    "linear": ("input", "weight", "bias"),
    "bilinear": ("input1", "input2", "weight", "bias"),
    "addmm": ("input", "mat1", "mat2"),
    **dict.fromkeys(("baddbmm", "addbmm"), ("input", "batch1", "batch2")),
    **dict.fromkeys(("addcmul", "addcdiv"), ("input", "tensor1", "tensor2")),
    "lerp": ("input", "end", "weight"),
    "where": ("condition", "input", "other"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    "torch.batch_norm": (*_NATIVE, "training", "momentum", "eps", "cudnn_enabled"),
    "instance_norm": (
        "input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps",
    ),
    "torch.instance_norm": (*_NATIVE, "use_input_stats", "momentum", "eps", "cudnn_enabled"),
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
    **dict.fromkeys(("softmax", "log_softmax", "var", "std"), ("input", "dim")),
    **dict.fromkeys(("logsumexp", "prod", "max", "min", "amax", "amin"), ("input", "dim", "keepdim")),
    **dict.fromkeys(("norm", "linalg_vector_norm", "linalg_norm"), ("input", "p", "dim", "keepdim")),
    **dict.fromkeys(("bmm", "mm"), ("input", "mat2")),
    "mv": ("input", "vec"),
    **dict.fromkeys(MAX_POOLS, ("input", "kernel_size", "stride", "padding", "dilation")),
    "dropout": ("input", "p", "training"),
}  # fmt: skip
_SYNONYMS = {"input": ("self",), "other": ("tensor", "exponent", "tensor2"), "dim": ("axis",), "p": ("ord",)}


def _is_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bool


def by_channel(parameter: Tensor, trailing: int) -> Tensor:
    """View a parameter `(channels,)` so that it broadcasts over outputs with so many axes after the channels."""
    return parameter.view(-1, *[1] * trailing) if trailing else parameter


def active(value: Any) -> bool:
    """Whether this value depends on the explained input."""
    return isinstance(value, Tensor) and value.requires_grad


@dataclass(frozen=True, eq=False)
class Call:
    """An operator's call with its arguments in canonical order.

    `operands` are the tensors that a rule treats as variables (a product's factors, an activation's argument);
    `run(*operands)` evaluates the operator at other values, never in place. `reference` holds the operands of the
    reference run at this operator, where they were recorded. `reciprocal` is the index of a product's operand that is
    one over something, so that the product is a quotient; an `inverted` quotient is a product with one over its
    denominator. `value` is the operator's value where it is known.
    """

    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    in_place: bool
    reference: tuple[Tensor, ...] = ()
    reciprocal: int | None = None
    inverted: bool = False
    value: Tensor | None = None

    @staticmethod
    def of(
        name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], in_place: bool
    ) -> "Call":
        """Move operands given by keyword to their positions."""
        args, kwargs = tuple(args), dict(kwargs)
        if name == "einsum" and len(args) == 2 and isinstance(args[1], (list, tuple)):
            args = (args[0], *args[1])
        if name == "where" and len(args) == 3 and args[1:2] and _is_mask(args[1]) and not _is_mask(args[0]):
            func, args = torch.where, (args[1], args[0], args[2])  # Tensor.where(self, condition, other)
        signature = SIGNATURES.get(name, ("input",))
        for parameter in signature[len(args) : 4 if len(signature) > 4 else len(signature)]:
            keys = [key for key in (parameter, *_SYNONYMS.get(parameter, ())) if key in kwargs]
            if not keys or len(args) != signature.index(parameter):
                break
            args = (*args, kwargs.pop(keys[0]))
        in_place = in_place or bool(kwargs.get("inplace", False))
        return Call(name, func, args, kwargs, in_place)

    @property
    def positions(self) -> tuple[int, ...]:
        """The operands' positions among the arguments."""
        if self.name == "einsum":
            wanted = range(1, len(self.args))
        elif self.name == "where":
            wanted = range(3)
        else:
            wanted = range(2 if self.name in _TWO_OPERANDS else 1)
        return tuple(i for i in wanted if i < len(self.args) and isinstance(self.args[i], Tensor))

    @cached_property
    def operands(self) -> tuple[Tensor, ...]:
        return tuple(self.args[i] for i in self.positions)

    def run(self, *operands: Tensor) -> Any:
        """Run the operator at other operands, without writing into them."""
        args = list(self.args)
        for position, operand in zip(self.positions, operands, strict=True):
            args[position] = operand.clone() if self.in_place and position == 0 else operand
        return self.func(*args, **self.kwargs)

    def substituted(self, tensors: Mapping[int, Tensor]) -> "Call":
        """Return the same call with other tensors, by the ids of those that they replace."""
        args = tuple(tensors.get(id(each), each) for each in self.args)
        return replace(self, args=args, kwargs={key: tensors.get(id(each), each) for key, each in self.kwargs.items()})

    def detached(self) -> "Call":
        """Return the same call without its operands' graph, for a closure that the graph keeps: no circle is closed."""
        return self.substituted({id(operand): operand.detach() for operand in self.operands})

    def bound(self) -> dict[str, Any]:
        """Return all arguments by name."""
        return {**dict(zip(SIGNATURES[self.name], self.args, strict=False)), **self.kwargs}

    @cached_property
    def is_complex(self) -> bool:
        return any(operand.is_complex() for operand in self.operands)

    @cached_property
    def kind(self) -> Kind:
        """The kind of operator that rules see, which depends on the operands that vary.

        An operator that varies with anything but its operands has no rule, whatever its name. Of complex numbers, which
        have no sign to split by, sums and affine operators are left to the gradient.
        """
        kind: Kind = "product" if self.inverted else "quotient" if self.reciprocal is not None else self._kind
        if self.is_complex and kind not in ("plain", "product"):
            return "plain" if kind in ("affine", "sum") else "unknown"
        if kind in ("plain", "refused", "unknown"):
            return kind
        return "unknown" if self.varies_otherwise else kind

    @property
    def varies_otherwise(self) -> bool:
        """Whether a tensor that is no operand varies."""
        operands = {id(operand) for operand in self.operands}
        return any(active(t) and id(t) not in operands for t in tensors((self.args, self.kwargs)))

    @property
    def _kind(self) -> Kind:
        name, varying = self.name, [active(operand) for operand in self.operands]
        if name == "linear" or name in CONVOLUTIONS or name in MATRIX_PRODUCTS:
            weighted = name not in MATRIX_PRODUCTS  # in linear and convolutions the input must vary
            if not 1 <= len(varying) <= 2 or active(self.bias) or (weighted and not varying[0]):
                return "unknown"
            return "product" if len(varying) == 2 and all(varying) else "affine"
        if name == "mul":
            return "product" if len(varying) == 2 and all(varying) else "plain"
        if name == "div":
            if self.kwargs.get("rounding_mode") is not None:
                return "refused"
            return "quotient" if len(varying) == 2 and varying[1] else "plain"
        if name in ("pow", "clamp", "prelu", "rpow", "threshold") and any(active(a) for a in self.args[1:]):
            return "unknown"
        if name in BATCH_NORMS and self.bound().get("training"):
            return "unknown"
        if name in KINDS:
            return KINDS[name]
        if name in ("maximum", "minimum", "max", "min") and len(varying) == 2:
            return "maximum"
        if name in MAX_POOLS or name in ("amax", "amin", "max", "min"):
            return "max"
        if name == "where":
            return "where" if len(self.args) == 3 else "plain"
        if name in DROPOUTS:
            return "refused" if self._is_random() else "plain"
        if name in ("masked_fill", "masked_select") or name in PLAIN:
            return "plain"
        return "unknown"

    def _is_random(self) -> bool:
        """Whether this dropout is random: `torch.dropout` has the argument `train`, `F.dropout` has `training`."""
        if len(self.args) > 2:
            return bool(self.args[2])
        return bool(self.kwargs.get("training", self.kwargs.get("train", True)))

    @property
    def bias(self) -> Tensor | None:
        if self.name == "linear" or self.name in CONVOLUTIONS:
            bias = self.args[2] if len(self.args) > 2 else self.kwargs.get("bias")
            return bias if isinstance(bias, Tensor) else None
        return None


def keep_parameters_frozen(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise ValueError for a trainable parameter among the arguments, which would be taken for an activation."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.nn.Parameter) and value.requires_grad:
            raise ValueError(
                "the forward function uses parameters that require gradients, which look like activations; "
                "pass a frozen copy of the model (requires_grad=False for every parameter)"
            )
