"""Linear layers between two rectifiers, written as the difference of two layers, the first of them rectified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..engine.as_written import eagerly
from ..engine.carried import arguments
from ..engine.programs import rows_taken
from ..rules.audit import tensors
from ..rules.names import DROPOUTS, MAX_POOLS, METADATA, canonical, words

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
RECTIFIERS = words("relu relu6")  # 0 for every negative number, so that nothing below 0 gets past them
LIMITED = {"hardtanh": "min_val", "clamp": "min", "clamp_min": "min"}  # these too, where their lower limit is 0
# Operators whose output has no negative entry where the first operand has none, or none of its tensors.
KEEPING = (
    MAX_POOLS
    | DROPOUTS
    | words("""
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean amax flatten
    reshape view squeeze unsqueeze permute transpose contiguous clone getitem cat stack
""")
)
NEGATIVE_SHARE = 0.5  # of the negative weights that is taken away after the rectifier, the rest before it


class Rectified(nn.Module):
    r"""A layer of non-negative inputs $a$ whose output $u - v$ a rectifier reads, as $\mathrm{relu}(u) - v$.

    $v = \tfrac12 W^- a \ge 0$ and $u = W a + b + v$, where $W^- = \max(-W, 0)$. Below 0 the output differs and stays
    below 0, so $\mathrm{relu}(\mathrm{relu}(u) - v) = \mathrm{relu}(u - v)$ for every input. All other attributes are
    the layer's.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        weight: Tensor = layer.weight.detach()
        negative = NEGATIVE_SHARE * (-weight).clamp(min=0)
        self.layer = layer
        self.first = _like(layer, weight + negative, layer.bias)
        self.second = _like(layer, negative, None)

    def forward(self, input: Tensor) -> Tensor:
        second: Tensor = self.second(input)
        return torch.relu(self.first(input)) - second

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


def _like(layer: nn.Module, weight: Tensor, bias: Any) -> nn.Module:
    """Return the same layer with other parameters."""
    found: Any = deepcopy(layer)
    found.weight = nn.Parameter(weight.clone(), requires_grad=False)
    found.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
    made: nn.Module = found
    return made


def _folded(layer: Any, norm: Any) -> nn.Module:
    """Return the layer followed by a batch norm of fixed statistics as one layer."""
    scale = (norm.running_var + norm.eps).rsqrt()
    shift = torch.zeros_like(norm.running_mean)
    if norm.weight is not None:
        scale, shift = scale * norm.weight.detach(), shift + norm.bias.detach()
    weight: Tensor = layer.weight
    mean = norm.running_mean if layer.bias is None else norm.running_mean - layer.bias.detach()
    return _like(layer, weight.detach() * scale.view(-1, *[1] * (weight.ndim - 1)), shift - mean * scale)


@dataclass
class _Calls(TorchFunctionMode):
    """What a pass shows: which tensors have no negative entry by construction, and which operators read a tensor.

    Tensors are known by identity and held, so that no identity is used twice.
    """

    kept: dict[int, Tensor] = field(default_factory=dict)
    positive: set[int] = field(default_factory=set)
    readers: dict[int, list[tuple[bool, int]]] = field(default_factory=dict)  # (by a rectifier?, into which tensor)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name, _ = canonical(func)
        if name in METADATA:
            return result
        operands = tensors((*args, *kwargs.values()))
        first = args[0] if args else kwargs.get("input")
        rectified = name in RECTIFIERS or _lower_limit(name, args, kwargs) == 0
        positive = rectified or (name in KEEPING and self._all_positive(first))
        results = tensors((result,))
        self.kept |= {id(each): each for each in (*operands, *results)}
        for each in operands:
            own = self.readers.setdefault(id(each), [])
            own += [(rectified, id(made)) for made in results] or [(False, 0)]  # a number read from it
        for made in results:
            (self.positive.add if positive else self.positive.discard)(id(made))
        return result

    def _all_positive(self, value: Any) -> bool:
        held = tensors((value,))
        return bool(held) and all(id(each) in self.positive for each in held)

    def only_rectified(self, tensor: int) -> bool:
        """Whether rectifiers alone read the tensor; what one of them has written into its place may be read by all."""
        for rectified, made in self.readers.get(tensor, []):
            if not rectified:
                return False
            if made == tensor:
                return True
        return tensor in self.readers


def _lower_limit(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the lower limit of a clipping operator as a number; None where it has none or is another operator."""
    if name not in LIMITED:
        return None
    found = args[1] if len(args) > 1 else kwargs.get(LIMITED[name])
    return found if isinstance(found, int | float) else None


@dataclass(frozen=True)
class _Call:
    layer: str
    fits: bool  # its input has no negative entry
    output: int


def between_rectifiers(module: nn.Module, x: Tensor, read: Collection[str] = ()) -> dict[str, str]:
    """Return the layers whose input is never negative and whose output only rectifiers read, each with the name of the
    batch norm between them, or "". A layer whose output is that of a layer in `read` is left out: a map reads it."""
    mode, looked_at, handles = _Calls(), set[int](), list[Any]()
    calls: list[_Call] = []
    norms: dict[int, _Call] = {}

    def watch(name: str, layer: nn.Module) -> None:
        norm = type(layer) in NORMS

        def after(layer: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
            mode.kept[id(output)] = output
            call = _Call(name, bool(given) and id(given[0]) in mode.positive, id(output))
            if norm:
                norms[call.output] = call
            else:
                calls.append(call)

        handles.append(layer.register_forward_hook(after))

    def look(layer: nn.Module, given: Any, output: Any) -> None:
        looked_at.update(map(id, tensors((output,))))

    for name, child in module.named_modules():
        if _is_plain(child):
            watch(name, child)
        if name in read:
            handles.append(child.register_forward_hook(look))
    try:
        with torch.no_grad(), eagerly():
            placed, named = arguments(rows_taken(dict(module.named_modules())).padded(x))
            with mode:
                module(*placed, **named)
    finally:
        for handle in handles:
            handle.remove()
    return _fitting(mode, calls, norms, looked_at)


def _is_plain(layer: nn.Module) -> bool:
    """Whether the layer is one of LAYERS, or a batch norm of fixed statistics, and does nothing else."""
    fixed = type(layer) in NORMS and not layer.training and layer.running_mean is not None
    return (type(layer) in LAYERS or fixed) and not layer._forward_hooks and not layer._forward_pre_hooks


def _fitting(mode: _Calls, calls: list[_Call], norms: dict[int, _Call], looked_at: set[int]) -> dict[str, str]:
    runs = Counter(each.layer for each in norms.values())  # a norm that runs again is not the layer's alone
    found: dict[str, set[str | None]] = {}
    for call in calls:
        output, norm = call.output, ""
        made = {each for _, each in mode.readers.get(output, [])}
        between = norms.get(made.pop()) if len(made) == 1 else None
        if between is not None and output not in looked_at:
            output, norm = between.output, between.layer
        good = call.fits and output not in looked_at and mode.only_rectified(output) and runs[norm] <= 1
        found.setdefault(call.layer, set()).add(norm if good else None)
    return {layer: norm for layer, (norm, *others) in found.items() if norm is not None and not others}


def rectify(module: nn.Module, layers: Mapping[str, str]) -> None:
    """Replace these layers of a copy, each with the batch norm after it, by their rewritten form."""
    for name, norm in layers.items():
        layer = module.get_submodule(name)
        if norm:
            layer = _folded(layer, module.get_submodule(norm))
            module.set_submodule(norm, nn.Identity())
        module.set_submodule(name, Rectified(layer))
