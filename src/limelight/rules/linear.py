r"""LRP's rules for affine operators $z = W x + b$, as multipliers: relevance is $R = x\,m$. [bach2015] [montavon2019]

Each rule maps the multiplier $g$ of the output $y$ (so $R_y = y\,g$) to the multiplier of the input.
$\mathrm{st}(z) = z + \epsilon\,s\,\mathrm{sign}(z)$ with $\mathrm{sign}(0) = 1$ and $s$ the mean $|z|$ over one row's
outputs (a dense layer's last axis, a convolution's channels and positions), or $s = 1$ with `relative=False`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..base.notes import Note
from .affine import Affine, affine
from .ahead import Ahead
from .call import Call, active
from .engine import Propagate
from .ruled import Pulled, jvp, ruled, stabilised
from .shares import BIASES, EPSILON, STRANDED

Take = Callable[[str, Tensor], None]
"""Counts relevance that a rule does not hand on: who took it, and how much at each output."""


@dataclass(frozen=True)
class LinearRule(ABC):
    """A rule for one affine operator. It records itself as producer, so that a batch norm can fold into it."""

    for_first_layers: ClassVar[bool] = False

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        operator = replace(affine(call), name=f"{next(propagate.counter):04d}.{call.name}")
        value = call.run(*(operand.detach() for operand in call.operands))
        varying = next(operand for operand in call.operands if active(operand))
        return self.attach(operator, value, varying, call, propagate)

    def attach(self, operator: Affine, value: Tensor, x: Tensor, call: Call, propagate: Propagate) -> Tensor:
        """Return `value` with this rule as its backward, recorded as the operator's output."""
        pull, saved = self.pull(operator, value, x, call, propagate)
        pull.is_affine = True  # type: ignore[attr-defined]
        out = ruled(value, pull, [x], saved)
        propagate.entered = True
        propagate.produced(out, call, Folding(self, operator, x))
        return out

    def pull(self, operator: Affine, value: Tensor, x: Tensor, call: Call, propagate: Propagate) -> Pulled:
        """Return the backward function, and the tensors to save for it."""

        take, ahead = propagate.taker(x), Ahead()

        def pull(g: Tensor, value: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
            dtype = operator.weight.dtype  # under autocast the operator's own output has a lower one
            rule = self.followed_by(ahead)
            return (rule.multiplier(operator, value.to(dtype), g.to(dtype), take).to(x.dtype),)

        pull.ahead = ahead  # type: ignore[attr-defined]
        return pull, [value.clone(), x]  # a copy: an in-place activation may overwrite the output itself

    def followed_by(self, ahead: Ahead) -> "LinearRule":
        """Return the rule for what follows the operator."""
        return self

    @abstractmethod
    def multiplier(self, operator: Affine, y: Tensor, g: Tensor, take: Take) -> Tensor:
        """Return the input's multiplier from the output `y` and its multiplier `g`.

        `take(name, relevance)` counts relevance that is not handed on, with the shape of `y`.
        """


@dataclass(frozen=True, eq=False)
class Folding:
    """The affine operator and rule that a batch norm after it is folded into."""

    rule: LinearRule
    operator: Affine
    x: Tensor


@dataclass(frozen=True)
class Sharing(LinearRule):
    r"""Base of the rules that share relevance in proportion to terms z_i of a sum z, R_i = z_i R / st(z).

    `bias=False` leaves the bias out of z, so that it takes nothing. `relative=False` takes epsilon itself for the
    stabiliser, which is zennit's: it takes all relevance where a layer's outputs are far below it.
    """

    epsilon: float = field(default=1e-6, kw_only=True)
    bias: bool = field(default=True, kw_only=True)
    relative: bool = field(default=True, kw_only=True)

    def bias_of(self, operator: Affine) -> Tensor | None:
        """Return the bias that takes part."""
        return operator.bias if self.bias else None

    def divided(self, operator: Affine, relevance: Tensor, z: Tensor, bias: Tensor | None, take: Take) -> Tensor:
        """Return R / st(z), 0 where z is 0, and count what the stabiliser and the bias in z take, and zeros."""
        scale = operator.scale(z) if self.relative else 1.0
        stranded = z == 0
        share = torch.where(stranded, 0.0, relevance / stabilised(z, self.epsilon * scale).masked_fill(stranded, 1.0))
        take(EPSILON, (relevance - share * z).masked_fill(stranded, 0.0))
        take(STRANDED, relevance * stranded)
        if bias is not None:
            take(BIASES, share * operator.spread(bias))
        return share


@dataclass(frozen=True)
class Epsilon(Sharing):
    r"""$m = W^\top (g\,y / \mathrm{st}(z))$, z = y, or y - b with `bias=False`. [bach2015]

    A larger epsilon absorbs more contradictory evidence.
    """

    epsilon: float = 1e-6

    def multiplier(self, operator: Affine, y: Tensor, g: Tensor, take: Take) -> Tensor:
        z = y if operator.bias is None or self.bias else y - operator.spread(operator.bias)
        return operator.transpose(operator.weight, self.divided(operator, g * y, z, self.bias_of(operator), take))


@dataclass(frozen=True)
class Zero(Epsilon):
    """LRP-0: Epsilon with just enough to divide by. [bach2015]"""

    epsilon: float = 1e-9


@dataclass(frozen=True)
class SignedSharing(Sharing):
    """Base of the rules that share by several sums, each with weights of its own for positive and negative inputs."""

    def shared(
        self, operator: Affine, terms: Iterable[tuple[Tensor, Tensor, Tensor | None, Tensor]], take: Take
    ) -> Tensor:
        """Sum several terms' multipliers. A term is (weight of positive inputs, of negative ones, bias, relevance).

        Each shares its relevance in proportion to the positive and negative inputs' contributions with these weights.
        """
        x = operator.x
        signed = bool((x < 0).any())  # not after a ReLU
        above, below = (x.clamp(min=0), x.clamp(max=0)) if signed else (x, x)
        up, down = torch.zeros_like(x), torch.zeros_like(x)
        for plus, minus, bias, relevance in terms:
            z = operator.forward(above, plus, bias)
            if signed:
                z = z + operator.forward(below, minus, None)
            share = self.divided(operator, relevance, z, bias, take)
            up = up + operator.transpose(plus, share)
            if signed:
                down = down + operator.transpose(minus, share)
        return torch.where(x < 0, down, up) if signed else up


@dataclass(frozen=True)
class AlphaBeta(SignedSharing):
    r"""$R = x\,(\alpha\,z^+\text{-shares} - \beta\,z^-\text{-shares})$ with $\alpha - \beta = 1$. [bach2015]

    $z^+ = W^+ x^+ + W^- x^- + b^+$ and $z^- = W^- x^+ + W^+ x^- + b^-$; each part gets its share of $R_y$.
    """

    alpha: float = 2.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.beta < 0 or abs(self.alpha - self.beta - 1) > 1e-9:
            raise ValueError(f"alpha={self.alpha}, beta={self.beta}: need alpha - beta = 1 and both not negative")

    def multiplier(self, operator: Affine, y: Tensor, g: Tensor, take: Take) -> Tensor:
        terms, b = [], self.bias_of(operator)
        for factor, sign in ((self.alpha, 1), (-self.beta, -1)):
            if factor != 0:
                weight = operator.weight * sign
                bias = None if b is None else (b * sign).clamp(min=0) * sign
                terms.append((weight.clamp(min=0) * sign, weight.clamp(max=0) * sign, bias, factor * (g * y)))
        return self.shared(operator, terms, take)


@dataclass(frozen=True)
class ZPlus(AlphaBeta):
    """Only positive contributions to the output count: alpha 1, beta 0. [montavon2017]"""

    alpha: float = 1.0
    beta: float = 0.0


@dataclass(frozen=True)
class Gamma(SignedSharing):
    r"""Favour contributions of the output's sign: $\tilde w = w + \gamma w^+$ (positive outputs). [montavon2019]

    Generalised to signed inputs [andeol2021]: for $y > 0$, $z = (w + \gamma w^+) x^+ + (w + \gamma w^-) x^- + b +
    \gamma b^+$; for $y < 0$ with $w^+$ and $w^-$ exchanged.
    """

    gamma: float = 0.25

    def multiplier(self, operator: Affine, y: Tensor, g: Tensor, take: Take) -> Tensor:
        w, b, terms = operator.weight, self.bias_of(operator), []
        plus, minus = w + self.gamma * w.clamp(min=0), w + self.gamma * w.clamp(max=0)
        for favoured, other, sign in ((plus, minus, 1), (minus, plus, -1)):
            bias = None if b is None else b + self.gamma * (b * sign).clamp(min=0) * sign
            terms.append((favoured, other, bias, torch.where(y * sign > 0, g * y, 0.0)))
        return self.shared(operator, terms, take)


@dataclass(frozen=True)
class WhereActivated(LinearRule):
    r"""One rule where an activation follows the operator, another where none does, so that a chain of operators
    without activations between them is propagated as the one linear map that it is.

    $z^+$ asks which inputs switch a unit on. Outputs that no activation reads, such as the projections of linear
    bottlenecks, are read with either sign, and there it drops what the next operator uses.
    """

    activated: LinearRule
    otherwise: LinearRule

    def __post_init__(self) -> None:
        for name in ("activated", "otherwise"):
            if getattr(self, name).for_first_layers:
                raise ValueError(
                    f"WhereActivated.{name}={getattr(self, name)!r}: use a rule that is not only for first layers"
                )

    def followed_by(self, ahead: Ahead) -> LinearRule:
        return self.activated if ahead.activated else self.otherwise

    def multiplier(self, operator: Affine, y: Tensor, g: Tensor, take: Take) -> Tensor:
        raise AssertionError("one of the two rules computes the multiplier")


@dataclass(frozen=True)
class FirstRule(Sharing):
    """Rules whose relevance is not a multiple of the input (zeros may have some): for first layers only.

    They compute the relevance at their operator's input, and `multipliers()` maps it to the model's input.
    """

    for_first_layers: ClassVar[bool] = True

    def pull(self, operator: Affine, value: Tensor, x: Tensor, call: Call, propagate: Propagate) -> Pulled:
        if not propagate.is_first(x):
            raise ValueError(
                f"{self!r} redistributes relevance without regard to the input's values, which only a first layer "
                f"allows; {call.name} with weight {tuple(operator.weight.shape)} comes after another layer. Combine it "
                "with the predicate `first`"
            )
        propagate.keeps_graph = True
        bounds, take = self.bounds(x, propagate), propagate.taker(x)

        def pull(g: Tensor, value: Tensor) -> tuple[Tensor | None, ...]:
            propagate.first_relevances.append((x, self.relevance(operator, value, g, take, *bounds)))
            return (None,)

        return pull, [value.clone()]

    def bounds(self, x: Tensor, propagate: Propagate) -> tuple[Tensor, ...]:
        """Return further tensors that the rule computes from its input during the forward pass."""
        return ()

    def multiplier(self, operator: Affine, y: Tensor, g: Tensor, take: Take) -> Tensor:
        raise AssertionError("first-layer rules compute relevance, no multiplier")

    @abstractmethod
    def relevance(self, operator: Affine, y: Tensor, g: Tensor, take: Take, *bounds: Tensor) -> Tensor:
        """Return the relevance of the operator's input."""

    def shares(self, operator: Affine, weight: Tensor, bias: Tensor | None, relevance: Tensor, take: Take) -> Tensor:
        """Return relevance in proportion to `weight` at an input of ones."""
        z = operator.forward(torch.ones_like(operator.x), weight, bias)
        return operator.transpose(weight, self.divided(operator, relevance, z, bias, take))


@dataclass(frozen=True)
class Flat(FirstRule):
    r"""$R_i = \sum_j R_j / (\text{number of inputs of } j)$: every input counts the same. [lapuschkin2019]

    No bias takes part, whatever `bias` is.
    """

    def relevance(self, operator: Affine, y: Tensor, g: Tensor, take: Take, *bounds: Tensor) -> Tensor:
        return self.shares(operator, torch.ones_like(operator.weight), None, g * y, take)


@dataclass(frozen=True)
class WSquare(FirstRule):
    r"""$R_i = \sum_j w_{ij}^2 / (\sum_i w_{ij}^2)\,R_j$, for inputs without bounds. [montavon2017]"""

    def relevance(self, operator: Affine, y: Tensor, g: Tensor, take: Take, *bounds: Tensor) -> Tensor:
        bias = self.bias_of(operator)
        squares = None if bias is None else bias.square()
        return self.shares(operator, operator.weight.square(), squares, g * y, take)


@dataclass(frozen=True)
class ZBox(FirstRule):
    r"""$R_i = \sum_j (x_i w_{ij} - l_i w_{ij}^+ - h_i w_{ij}^-) / (\sum_i \ldots)\,R_j$, x in [l, h]. [montavon2017]

    `low` and `high` (numbers, or tensors that broadcast) are in the units of the model's input: a normalisation
    inside the model is applied to them as well.
    """

    low: Any = 0.0
    high: Any = 1.0

    def __post_init__(self) -> None:
        if not bool((torch.as_tensor(self.low) < torch.as_tensor(self.high)).all()):
            raise ValueError(f"ZBox.low={self.low!r}: use a number below high, which is {self.high!r}")

    def note(self, x: Tensor) -> tuple[str, ...]:
        """Return a note where the model's input leaves the box, outside which the rule is not defined."""
        low, high = (torch.as_tensor(limit, dtype=x.dtype, device=x.device) for limit in (self.low, self.high))
        rounding = 8 * torch.finfo(x.dtype).eps * torch.maximum(low.abs(), high.abs())
        if not bool(((x < low - rounding) | (x > high + rounding)).any()):
            return ()
        text = (
            f"the inputs run from {float(x.min()):.4g} to {float(x.max()):.4g}, outside the box rule's bounds "
            f"low={self.low}, high={self.high}, within which it is defined: set low= and high= to the least and "
            "greatest value that an input can take"
        )
        return (Note("caution", text),)

    def bounds(self, x: Tensor, propagate: Propagate) -> tuple[Tensor, ...]:
        root = propagate.root
        assert root is not None
        limits = [torch.as_tensor(limit, dtype=root.dtype, device=root.device) for limit in (self.low, self.high)]
        low, high = (x.detach() + jvp(x, root, (limit - root).detach().expand_as(root)) for limit in limits)
        return torch.minimum(low, high), torch.maximum(low, high)

    def relevance(self, operator: Affine, y: Tensor, g: Tensor, take: Take, *bounds: Tensor) -> Tensor:
        (low, high), w = bounds, operator.weight
        plus, minus = w.clamp(min=0), w.clamp(max=0)  # the bias drops out: b - b^+ - b^- = 0
        terms = ((operator.x, w, 1), (low, plus, -1), (high, minus, -1))
        z = sum((sign * operator.forward(t, part, None) for t, part, sign in terms), torch.zeros_like(y))
        v = self.divided(operator, g * y, z, None, take)
        return sum((sign * t * operator.transpose(part, v) for t, part, sign in terms), torch.zeros_like(low))
