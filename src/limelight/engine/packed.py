"""Packed rows: the model's convolutions on weights laid out once, with the batch norms behind them folded in.

The same function, equal to rounding, from cheaper rows. No module is replaced: for the time of a pass, the copy's
convolutions and folded norms get a `forward` of their own, so that hooks fire as ever and any layer can be left out.
`PackedWeights.proven` says for which models this holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from ..base.second_run import is_second_run
from ..question.targets import output_tensor
from ..rules.audit import tensors
from ..rules.engine import Propagate
from ..rules.names import METADATA, canonical
from ..rules.packed import entered
from .graph import make_exact
from .layers import Modules, hooked
from .packed_convolution import Layouts, PackedConvolution, Pair, available
from .randomness import run_without_draws

LEAST_SIDE = 32  # of pictures whose rows repay packing
VALUE_TOLERANCE = 1e-5  # of the largest output
GRADIENT_TOLERANCE = 1e-3  # of its Euclidean norm
LAYER_TOLERANCE = 1e-5  # the same, of one convolution
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class NotPacked(Exception):
    """The rows of this model cannot be packed; the message says why."""


@dataclass(frozen=True, eq=False)
class PackedLayer:
    """A convolution in both forms: `alone`, and `folded` with the batch norm `norm` where one follows it."""

    alone: PackedConvolution
    folded: PackedConvolution | None = None
    norm: str | None = None


@dataclass(frozen=True, eq=False)
class PackedWeights:
    """The packed convolutions of a model, by dotted name, for any copy of it that has the same weights.

    Made once, they serve any number of runners and threads. `with_gradient`: whether gradients were proven too. The
    weights are laid out at the first pass that needs them.
    """

    layers: Mapping[str, PackedLayer]
    with_gradient: bool = False

    @property
    def bytes(self) -> int:
        """The memory of everything laid out so far."""
        forms = (each for layer in self.layers.values() for each in (layer.alone, layer.folded) if each is not None)
        return sum(form.kept.bytes for form in forms)

    @staticmethod
    def proven(module: nn.Module, row: Tensor, gradient: bool) -> PackedWeights:
        """Pack a frozen copy, as one plain pass and one packed pass at `row` `(1, *features)` prove; see `Options`.

        The plain pass shows which norm alone reads which convolution. Outputs must agree to VALUE_TOLERANCE and, with
        `gradient`, a gradient to GRADIENT_TOLERANCE; where units flipped at their kinks, so that it cannot, every
        layer's own gradient must. Raises NotPacked, saying why not.
        """
        modules = dict(module.named_modules())
        reason = unfit(modules, row)
        if reason:
            raise NotPacked(reason)
        convolutions = {name: each for name, each in modules.items() if _fits(each)}
        try:
            with _observed(modules) as seen:
                plain = _outputs(module, row, gradient)
            layers = {
                name: _layer(each, modules, seen.norm(name)) for name, each in convolutions.items() if seen.runs[name]
            }
            found = PackedWeights(layers, gradient)
            with found.installed(modules):
                packed = _outputs(module, row, gradient)
            _compare(plain, packed, layers, seen)
        except NotPacked:
            raise
        except Exception as error:  # models raise anything; plain rows then tell what is wrong
            raise NotPacked(f"{type(error).__name__} ({error})") from error
        return found

    def folds(self, modules: Modules, apart: Collection[str] = ()) -> frozenset[str]:
        """Return the convolutions that take their norm with them in a pass made now, without those named `apart`.

        A convolution that is hooked or replaced at that time keeps its own output. A norm that is hooked does not: what
        it returns is what the two make together.
        """
        return frozenset(
            name
            for name, layer in self.layers.items()
            if layer.norm
            and name not in apart
            and _untouched(modules[name])
            and "forward" not in vars(modules[layer.norm])
        )

    @contextmanager
    def installed(self, modules: Modules, apart: Collection[str] = ()) -> Iterator[None]:
        """Compute the packed layers of a copy with these modules while this is open; norms are folded as `folds` says.

        In a pass by rules that tell convolutions from norms none is folded, and the rules run the convolutions. Raises
        NotPacked where a folded norm does not read its convolution, as on another path through the model's code than
        the proof took.
        """
        folded = self.folds(modules, apart)
        rules = [mode.propagation for mode in _get_current_function_mode_stack() if isinstance(mode, Propagate)]
        tell_apart = not all(each.folds for each in rules)
        placed: list[dict[str, Any]] = []
        folds: list[_Fold] = []
        run: dict[int, PackedConvolution] = {}
        try:
            for name, layer in self.layers.items():
                conv = modules[name]
                if tell_apart:
                    run[id(conv.weight)] = layer.alone
                elif "forward" in vars(conv):
                    continue
                elif name in folded:
                    assert layer.norm is not None and layer.folded is not None
                    norm = modules[layer.norm]
                    fold = _Fold(partial(_unseen, layer.folded) if rules else layer.folded)
                    folds.append(fold)
                    vars(conv)["forward"], vars(norm)["forward"] = fold.convolve, fold.normalise
                    placed += vars(conv), vars(norm)
                    run[id(layer.folded.weight)] = layer.folded
                else:
                    vars(conv)["forward"] = partial(_unseen, layer.alone) if rules else layer.alone
                    placed.append(vars(conv))
                    run[id(layer.alone.weight)] = layer.alone
            with entered(run):
                yield
            for fold in folds:
                fold.finish()
        finally:
            for each in placed:
                del each["forward"]


@dataclass
class _Fold:
    """A convolution and the norm behind it in one pass: the norm must get what the convolution made, and only that."""

    convolution: Callable[[Tensor], Tensor]
    waiting: Tensor | None = None

    def convolve(self, x: Tensor) -> Tensor:
        self.finish()
        self.waiting = self.convolution(x)
        return self.waiting

    def normalise(self, x: Tensor) -> Tensor:
        if x is not self.waiting:
            raise NotPacked(_OTHER_PATH)
        self.waiting = None
        return x

    def finish(self) -> None:
        if self.waiting is not None:
            raise NotPacked(_OTHER_PATH)


def _unseen(convolution: PackedConvolution, x: Tensor) -> Tensor:
    """Convolve without a pass by rules seeing the operators that do it."""
    with torch._C.DisableTorchFunction():
        return convolution(x)


_OTHER_PATH = "the model takes another path through its code at other inputs"


def unfit(modules: Modules, rows: Tensor) -> str:
    """Return why such rows of a model with these modules cannot be packed at all; empty where they can."""
    if rows.ndim != 4 or rows.dtype != torch.float32 or rows.device.type != "cpu":
        given = f"{rows.ndim - 1}-d {rows.dtype} on {rows.device}"
        return f"they are for float32 pictures on the CPU, and these are {given}"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled and available()):
        return "this build of torch has no packed convolution"
    if _has_any_global_hook():
        return "hooks of all modules are set"
    fits = any(name and _fits(module) for name, module in modules.items())
    return "" if fits else "the model has no torch.nn.Conv2d with zero padding and frozen float32 weights"


def repays(modules: Modules, rows: Tensor) -> bool:
    """Whether many rows are cheaper packed: pictures that are not tiny, through convolutions more than dense layers."""
    convolutions = sum(_fits(module) for module in modules.values())
    dense = sum(isinstance(module, nn.Linear) for module in modules.values())
    return convolutions >= dense and not unfit(modules, rows) and rows.shape[2] * rows.shape[3] >= LEAST_SIDE**2


def _fits(module: nn.Module) -> bool:
    """Whether this is a plain convolution that nothing of the user's is attached to."""
    return (
        type(module) is nn.Conv2d
        and module.padding_mode == "zeros"
        and _padding(module) is not None
        and _untouched(module)
        and all(_is_frozen_float(each) for each in (module.weight, module.bias) if each is not None)
    )


def _is_frozen_float(tensor: Tensor) -> bool:
    floats = tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.layout == torch.strided
    return floats and type(tensor) in (Tensor, nn.Parameter) and not tensor.requires_grad


def _untouched(module: nn.Module) -> bool:
    return "forward" not in vars(module) and not any(getattr(module, name) for name in _HOOKS)


def _padding(conv: nn.Conv2d) -> Pair | None:
    """Return the padding of rows and columns; None where the two sides differ."""
    if not isinstance(conv.padding, str):
        return conv.padding[0], conv.padding[1]
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    return (top, left) if (left, top) == (right, bottom) else None


def _layer(conv: nn.Module, modules: Modules, norm_name: str | None) -> PackedLayer:
    assert isinstance(conv, nn.Conv2d)
    padding = _padding(conv)
    assert padding is not None
    stride, dilation = (conv.stride[0], conv.stride[1]), (conv.dilation[0], conv.dilation[1])
    alone = PackedConvolution(conv.weight, conv.bias, stride, padding, dilation, conv.groups)
    if norm_name is None:
        return PackedLayer(alone)
    norm = modules[norm_name]
    assert isinstance(norm, nn.BatchNorm2d)
    scale, shift = _scale_and_shift(norm)
    # In float64, so that each folded weight is rounded once.
    weight = (conv.weight.double() * scale.view(-1, 1, 1, 1)).float()
    bias = (shift if conv.bias is None else conv.bias.double() * scale + shift).float()
    return PackedLayer(alone, replace(alone, weight=weight, bias=bias, kept=Layouts()), norm_name)


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return an evaluating batch norm as `scale * x + shift` per channel, in float64."""
    assert norm.running_var is not None and norm.running_mean is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


# Which norm reads which convolution -------------------------------------------------------------------


@dataclass
class _Output:
    """The output of a convolution: its writes until then, its reads since, the norm that read it, and the sizes."""

    tensor: Tensor
    version: int
    size: torch.Size
    readers: int = 0
    norm: str | None = None


@dataclass(eq=False)
class _Observed(TorchFunctionMode):
    """What happened in a pass: how often each layer ran, and who read the outputs of convolutions."""

    runs: Counter[str] = field(default_factory=Counter)
    outputs: dict[str, _Output] = field(default_factory=dict)
    _by_id: dict[int, _Output] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def norm(self, conv: str) -> str | None:
        """Return the evaluating batch norm that alone reads the convolution's output; None where there is none."""
        output = self.outputs[conv]
        alone = output.norm is not None and output.readers == 1 and self.runs[conv] == self.runs[output.norm] == 1
        return output.norm if alone else None

    def convolved(self, name: str, conv: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if is_second_run():
            return
        self.runs[name] += 1
        self.outputs[name] = self._by_id[id(output)] = _Output(output, output._version, args[0].shape)

    def normalised(self, name: str, norm: nn.Module, args: tuple[Any, ...]) -> None:
        if is_second_run():
            return
        self.runs[name] += 1
        output = self._by_id.get(id(args[0])) if len(args) == 1 else None
        if output is not None and output.version == args[0]._version and output.norm is None:
            output.norm = name

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self._by_id and not is_second_run() and canonical(func)[0] not in METADATA:
            for each in tensors((args, kwargs)):
                if id(each) in self._by_id:
                    self._by_id[id(each)].readers += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def _observed(modules: Modules) -> Iterator[_Observed]:
    """Observe the convolutions and norms of a pass made while this is open."""
    observed = _Observed()
    with ExitStack() as stack:
        for name, module in modules.items():
            if _is_norm(module):
                hook = module.register_forward_pre_hook(partial(observed.normalised, name))
                stack.callback(hook.remove)
        stack.enter_context(hooked({name: each for name, each in modules.items() if _fits(each)}, observed.convolved))
        stack.enter_context(observed)
        yield observed


def _is_norm(module: nn.Module) -> bool:
    if type(module) is not nn.BatchNorm2d or module.training or module.running_mean is None:
        return False
    held = (module.weight, module.bias, module.running_mean, module.running_var)
    return _untouched(module) and all(_is_frozen_float(each) for each in held if each is not None)


# The proof --------------------------------------------------------------------------------------------

Found = tuple[Tensor, Tensor | None]
"""Outputs, and a gradient of them."""


def _outputs(module: nn.Module, row: Tensor, gradient: bool) -> Found:
    """Return the model's outputs at the row, and a gradient of a fixed mixture of them where they carry one."""
    with torch.set_grad_enabled(gradient):
        leaf = row.detach().requires_grad_(gradient)
        try:
            outputs = output_tensor(run_without_draws(module, leaf.clone()))
        except TypeError as error:
            raise NotPacked("the model returns no tensor to compare") from error
        if not outputs.requires_grad:
            return outputs.detach(), None
        mixture = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs.dtype)
        make_exact(outputs)
        (slope,) = torch.autograd.grad((outputs * mixture).sum(), leaf)
    return outputs.detach(), slope


def _compare(plain: Found, packed: Found, layers: Mapping[str, PackedLayer], seen: _Observed) -> None:
    """Raise NotPacked where outputs or gradients differ by more than the tolerances."""
    error = relative_error(packed[0], plain[0], torch.inf)
    if not error <= VALUE_TOLERANCE:
        raise NotPacked(f"packed outputs differ by {error:.1e} of the largest")
    if plain[1] is None or packed[1] is None or relative_error(packed[1], plain[1], 2) <= GRADIENT_TOLERANCE:
        return
    # Rounding flipped a unit at its kink, which is no fault of either gradient, or a layer is wrong.
    for name, layer in layers.items():
        error = _gradient_error(layer.folded or layer.alone, seen.outputs[name].size)
        if not error <= LAYER_TOLERANCE:
            raise NotPacked(f"the packed gradient of {name!r} differs by {error:.1e}")


def _gradient_error(convolution: PackedConvolution, size: torch.Size) -> float:
    with torch.enable_grad():
        x = torch.zeros(size, requires_grad=True)
        out = convolution.plain(x)
        slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
        (expected,) = torch.autograd.grad(out, x, slope)
    return relative_error(convolution.backward(slope, (size[2], size[3])), expected, 2)


def relative_error(found: Tensor, expected: Tensor, norm: float) -> float:
    """Return |found - expected| / |expected| in a norm."""
    if found.shape != expected.shape:
        return torch.inf
    size = float(torch.linalg.vector_norm(expected.double(), norm))
    error = float(torch.linalg.vector_norm(found.double() - expected.double(), norm))
    return error / size if size else (torch.inf if error else 0.0)
