r"""PatternNet and PatternAttribution propagate the direction of the signal, estimated from data. [kindermans2018]

A neuron $y = w^\top x$ extracts a signal $s = a\,y$ from its input; the weight $w$ must also cancel distractors, so it
does not point along $a$. From data, with $\mathrm{E}_+$ the mean where the neuron's output is positive:

- linear estimator: $a = \mathrm{cov}(x, y) / w^\top \mathrm{cov}(x, y)$ with $\mathrm{cov}(x, y) = E[xy] - E[x]E[y]$;
- two-component estimator: the same with $E_+[xy] - E_+[x]E[y]$.

PatternNet propagates by $a$ in place of $w$, PatternAttribution by $w \odot a$.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import safe_open
from safetensors.torch import save as serialised
from torch import Tensor, nn

from ..base.files import write_whole
from ..base.named import Named, Registry
from ..models.weights import state_bytes
from .affine import Affine
from .call import Call
from .engine import Entry, Native, Propagate, Propagation
from .linear import Folding, LinearRule, Take
from .predicates import constant_condition, is_kind, of_any_target, of_target, relu_like
from .relevance import Fold
from .ruled import ratio
from .tape import Tape

Estimator = Literal["linear", "two-component"]
_REST: tuple[Entry, ...] = (
    (is_kind("batch_norm"), Fold()),
    (is_kind("sum", "max", "maximum", "order", "softmax", "product", "quotient"), Native()),
    (is_kind("normalisation", "activation"), Native()),
    (constant_condition, Native()),
    (of_any_target, Native()),
)


def fingerprint(model: nn.Module) -> str:
    """Return a hash of the model's parameters and buffers, by name; a compiled model's is that of the model itself."""
    digest = hashlib.sha256()
    for part in state_bytes(dict(model.named_children()).get("_orig_mod", model)):
        digest.update(part)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Patterns(Named):
    """One pattern per affine operator, in the order of the forward pass, each shaped like the operator's weight."""

    tensors: dict[str, Tensor]
    estimator: str
    model: str

    def __repr__(self) -> str:
        return f"<{self.estimator} patterns of {len(self.tensors)} operators, model {self.model[:12]}>"

    def save(self, path: str | Path) -> None:
        """Write a safetensors file that contains the model's fingerprint, atomically."""
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        write_whole(path, serialised(tensors, metadata={"estimator": self.estimator, "model": self.model}))

    @staticmethod
    def load(path: str | Path, model: nn.Module) -> "Patterns":
        """Read saved patterns. Raises ValueError if they were estimated for other weights than this model's."""
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        patterns = Patterns(tensors, metadata.get("estimator", "unknown"), metadata.get("model", "unknown"))
        return patterns.checked(model, str(path))

    def checked(self, model: nn.Module, holder: str) -> "Patterns":
        """Return these patterns. Raises ValueError, naming `holder`, if they were estimated for another model.

        The model's weights are hashed, which takes about a tenth of a second for 100 MB.
        """
        if self.model != fingerprint(model):
            raise ValueError(f"{holder} holds patterns of another model: its fingerprint is {self.model}")
        return self


_STORED = Registry("patterns", Patterns, (Patterns,), "Patterns.load(path, model)")  # files hold them inside a method


@dataclass(frozen=True)
class _Observe(LinearRule):
    """Record each affine operator of the pass; a batch norm that folds into one replaces its record."""

    seen: dict[str, tuple[Affine, Tensor]] = field(hash=False, compare=False)

    def attach(self, operator: Affine, value: Tensor, x: Tensor, call: Call, propagate: Propagate) -> Tensor:
        self.seen[operator.name] = (operator, value.clone())
        return super().attach(operator, value, x, call, propagate)

    def multiplier(self, operator: Affine, y: Tensor, g: Tensor, take: Take) -> Tensor:
        return operator.transpose(operator.weight, g)


@dataclass(frozen=True)
class _Rectified:
    """Record which affine operators feed a rectifier directly."""

    names: set[str] = field(hash=False, compare=False)

    def __call__(self, call: Call, propagate: Propagate) -> Any:
        made = propagate.producer(call.operands[0])
        if made is not None and isinstance(made.detail, Folding):
            self.names.add(made.detail.operator.name)
        return propagate.native(call, covered=True)


def _sums(operator: Affine, y: Tensor, counted: Tensor) -> list[Tensor]:
    """Sum, over all uses of each weight, xy, x and 1 where `counted`, and y and 1 everywhere.

    Sums without x have one entry for all inputs of an output where every input has the same positions.
    """
    x, ones, weight = operator.x, torch.ones_like(operator.x), operator.weight
    at_x = _weight_sums(operator, x, weight, (y * counted, counted))
    axis = _inputs_axis(operator)
    if axis is not None:
        ones, weight = ones.narrow(axis, 0, 1), weight[:, :1]
    return [*at_x, *_weight_sums(operator, ones, weight, (counted, y, torch.ones_like(y)))]


def _pattern(operator: Affine, sums: list[Tensor]) -> Tensor:
    xy, x, counted, y, total = sums
    covariance = (xy - x * y / total) / counted.clamp(min=1)
    return ratio(covariance, _per_output(operator, operator.weight * covariance))


def _inputs_axis(operator: Affine) -> int | None:
    """Find the axis of x that the weight's second axis runs along; None where sizes differ, as with groups."""
    x, weight = operator.x, operator.weight
    if operator.channel != 0 or weight.ndim < 2:
        return None
    axis = x.ndim - 1 if weight.ndim == 2 else 1
    batched = weight.ndim == 2 or x.ndim == weight.ndim
    return axis if batched and x.shape[axis] == weight.shape[1] else None


def _weight_sums(operator: Affine, x: Tensor, like: Tensor, cotangents: Sequence[Tensor]) -> list[Tensor]:
    """Sum x v over every use of each weight, for each v: the gradient under v of a weight of the shape `like`."""
    with torch.enable_grad():
        weight = torch.zeros_like(like).requires_grad_()
        out = operator.forward(x, weight, None)
        return [torch.autograd.grad(out, weight, v, retain_graph=True)[0] for v in cotangents]


def _per_output(operator: Affine, weights: Tensor) -> Tensor:
    """Sum over each output's weights, shaped to broadcast over them."""
    if operator.channel is None:
        raise ValueError(f"patterns need one weight vector per output; {operator.name} has none")
    if operator.groups > 1:
        blocks = weights.view(operator.groups, -1, *weights.shape[1:])
        sums = blocks.sum([1, *range(3, blocks.ndim)], keepdim=True)
        return sums.expand_as(blocks).reshape(weights.shape)
    return weights.sum([axis for axis in range(weights.ndim) if axis != operator.channel], keepdim=True)


def estimate_patterns(
    forward: Callable[[Tensor], Tensor],
    batches: Iterable[Tensor],
    model: nn.Module,
    estimator: Estimator = "two-component",
) -> Patterns:
    """Estimate every affine operator's pattern from batches of inputs; memory does not grow with the data.

    `forward` runs the (frozen) model on rows; `model` is only hashed. Under "two-component" operators that feed
    a rectifier use the positive regime, all others the linear estimator. Raises ValueError without any batch.
    """
    if estimator not in get_args(Estimator):
        raise ValueError(f"unknown estimator {estimator!r}; there are {', '.join(get_args(Estimator))}")
    sums: dict[str, tuple[Affine, list[Tensor]]] = {}
    for batch in batches:
        seen: dict[str, tuple[Affine, Tensor]] = {}
        rectified: set[str] = set()
        entries: tuple[Entry, ...] = ((relu_like, _Rectified(rectified)), (is_kind("affine"), _Observe(seen)), *_REST)
        leaf = batch.detach().clone().requires_grad_()
        with torch.enable_grad(), Propagate(Propagation("pattern estimation", entries), leaf, Tape()):
            forward(leaf.clone())
        for name, (operator, y) in seen.items():
            positive = estimator == "two-component" and name in rectified
            found = _sums(operator, y, (y > 0).to(y) if positive else torch.ones_like(y))
            if name in sums:
                found = [a + b for a, b in zip(sums[name][1], found, strict=True)]
            sums[name] = operator, found
    if not sums:
        raise ValueError("no batch to estimate patterns from")
    return Patterns({name: _pattern(*found) for name, found in sums.items()}, estimator, fingerprint(model))


@dataclass(frozen=True)
class _Pattern(LinearRule):
    """Propagate by the pattern in place of the weight, or by their elementwise product."""

    patterns: Patterns
    times_weight: bool

    def multiplier(self, operator: Affine, y: Tensor, g: Tensor, take: Take) -> Tensor:
        pattern = self.patterns.tensors.get(operator.name)
        if pattern is None or pattern.shape != operator.weight.shape:
            raise ValueError(f"no pattern for {operator.name} with weight {tuple(operator.weight.shape)}: other model?")
        pattern = pattern.to(operator.weight)
        return operator.transpose(operator.weight * pattern if self.times_weight else pattern, g)


def _propagation(name: str, patterns: Patterns, times_weight: bool) -> Propagation:
    rule = _Pattern(patterns, times_weight)
    entries: tuple[Entry, ...] = ((of_target, Native()), (is_kind("affine"), rule), (relu_like, Native()), *_REST)
    return Propagation(name, entries, answer="multiplier", linear_nodes=False)


def pattern_net(patterns: Patterns) -> Propagation:
    """Propagate the signal that the score responds to, in the input's space. [kindermans2018]"""
    return _propagation("PatternNet", patterns, False)


def pattern_attribution(patterns: Patterns) -> Propagation:
    """Propagate how much each input's signal contributes to the score. [kindermans2018]"""
    return _propagation("PatternAttribution", patterns, True)
