"""FullGrad: the gradient at the input and at every bias."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..base.arithmetic import rounding_of
from ..base.named import require
from ..base.notes import Note
from ..engine.programs import without_biases
from ..engine.score import GradientPass, Score, result_dtype, sum_dtype
from ..question.random_streams import Streams
from .at_layer import spread
from .base import Estimate, Method
from .cam import upsampled
from .cam_forward import stretched
from .moments import column


@dataclass(frozen=True)
class FullGrad(Method):
    r"""Divide the score among the input and the biases of all layers, each times the gradient there.

    $$f(x) = \sum_i x_i \frac{\partial f}{\partial x_i} + \sum_l \sum_p b_l \frac{\partial f}{\partial z_{l,p}}$$

    over the layers l with a bias b and the positions p of their outputs z. Exact where the score is piecewise linear,
    as with ReLU and max pooling. Biases are the parameters of linear layers and (transposed) convolutions, $\beta -
    \mu\gamma / \sqrt{\sigma^2 + \epsilon}$ of batch norm, the bounds of ReLU6 and Hardtanh where these are reached,
    and the mean that an ImageModel subtracts from the pixels. Constants from elsewhere (functional calls, attention,
    smooth activations) are missing: `notes` carry a caution where they exceed 0.1% of f(x), rounding aside.

    `signed=True`: the values `(n, 1, *space)` sum to f(x), not to f(x) - f(baseline). Channels are summed; the terms
    of a map are spread linearly over the input's positions, all others equally. Spreading keeps sums.
    `signed=False` is the published saliency map $\psi(x \odot \nabla f) + \sum_l \sum_c \psi(b_{l,c} \nabla_{z_{l,c}}
    f)$ over the channels c of the layers with a map. $\psi$ takes the absolute value, rescales each channel to
    [0, 1] and upsamples it to the input; the map promises no sum. [srinivas2019]

    >>> ll.explain(model, x, ll.FullGrad(), target=2).values.shape
    torch.Size([2, 1, 16, 16])
    """

    by_part: ClassVar[bool] = True
    signed: bool = True

    fixed_rows: ClassVar[int | None] = 1

    def __post_init__(self) -> None:
        require(isinstance(self.signed, bool), self, "signed", "True or False")

    @property
    def no_sum(self) -> str:  # type: ignore[override]
        if self.signed:
            return "the values sum to the score f(x) itself, not to f(x) - f(baseline)"
        return "absolute values, each channel stretched to [0, 1], promise no sum"

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        unknown = without_biases(score.modules)
        if unknown:
            raise ValueError(f"layer: FullGrad reads the biases of layers; {unknown}")
        biased = {name: module for name, module in score.modules.items() if _has_bias(module)}
        mean = _mean(score.module)
        maps: list[Tensor] = []
        notes: list[Note] = []
        for found in score.gradients_at(x, list(biased)):
            term = ((x[found.position] - mean) * found.gradient).to(sum_dtype(x))
            values, totals = self._map(term), [_total(term)]
            for term in _bias_terms(biased, found):
                values = values + self._at_input(term, x)
                totals.append(_total(term))
            maps.append(values)
            notes += _missing(found, torch.stack(totals))
            flat = (found.gradient == 0).flatten(1).all(1)
            text = "the score has no gradient at the input: the map is of biases alone"
            notes += [Note("caution", text, int(i)) for i in found.position[flat]]
        return Estimate(torch.cat(maps).to(result_dtype(x)), notes=tuple(notes))

    def _at_input(self, term: Tensor, x: Tensor) -> Tensor:
        """Place the term of a bias `(n, channels, *map)` or `(n, units)` over the positions of x."""
        if term.ndim == x.ndim > 2:
            return spread(self._map(term), x.shape[2:]) if self.signed else upsampled(self._map(term), x)
        if not self.signed:
            return torch.zeros_like(column(_total(term), x))
        positions = x[0].numel() if x.ndim == 2 else x[0, 0].numel()
        return column(_total(term) / positions, x)

    def _map(self, term: Tensor) -> Tensor:
        """Sum a term over its channels, if it has any, to `(n, 1, *map)`; unless signed, rescale each channel first."""
        maps = term.flatten(0, 1) if term.ndim > 2 else term
        sized = (maps if self.signed else stretched(maps.abs())).view_as(term)
        return sized.sum(1, keepdim=True) if term.ndim > 2 else sized


def _has_bias(module: nn.Module) -> bool:
    """Return whether the module has a bias that is read."""
    if isinstance(module, nn.Linear | _ConvNd):
        return module.bias is not None
    # A batch norm with modules inside, as in timm, applies an activation to its output.
    return (isinstance(module, _BatchNorm) and not module._modules) or isinstance(module, nn.Hardtanh)


def _bias(module: nn.Module, output: Tensor) -> Tensor:
    """Return the constant that the module adds to its output, in a shape that broadcasts to it."""
    channels = (-1, *[1] * (output.ndim - 2))
    match module:
        case nn.Linear(bias=Tensor() as bias):
            return bias
        case _ConvNd(bias=Tensor() as bias):
            return bias.view(channels)
        case _BatchNorm(running_mean=Tensor() as mean, running_var=Tensor() as variance):
            zero = torch.zeros_like(mean)[None]
            return F.batch_norm(zero, mean, variance, module.weight, module.bias, eps=module.eps).view(channels)
        case nn.Hardtanh():  # ReLU6 is one
            return output * ((output <= module.min_val) | (output >= module.max_val))
    raise AssertionError(module)  # _has_bias excludes all others


def _bias_terms(biased: Mapping[str, nn.Module], found: GradientPass) -> Iterator[Tensor]:
    """Yield bias times gradient for each run of a module: `(n, channels, *map)`, or `(n, units)` of a linear layer."""
    for name, runs in found.runs.items():
        for output, gradient in runs:
            term = (_bias(biased[name], output) * gradient).to(sum_dtype(output))
            yield term.flatten(1) if isinstance(biased[name], nn.Linear) else term


def _mean(module: nn.Module) -> Tensor | float:
    """Return the mean that an ImageModel subtracts from its input; 0 for other models."""
    from ..models.catalogue import ImageModel  # imports Pillow, which `import limelight` does without

    return module.mean if isinstance(module, ImageModel) else 0.0


def _total(term: Tensor) -> Tensor:
    """Sum over all axes but the first, `(n,)`."""
    return term.flatten(1).sum(1)


def _missing(found: GradientPass, totals: Tensor) -> list[Note]:
    """Write a caution for each example whose terms, of totals `(terms, n)`, miss its score by more than rounding."""
    total, score = totals.sum(0), found.scores.to(totals.dtype)
    missed = (score - total).abs()
    rounding = rounding_of(found.scores.dtype, totals.abs().sum(0))
    notes = []
    for i in (missed > 1e-3 * score.abs() + rounding).nonzero()[:, 0].tolist():
        text = f"INCOMPLETE, the terms of the input and the biases sum to {float(total[i]):.4g} and miss "
        text += f"{float(missed[i] / score[i].abs()):.1%} of f(x) = {float(score[i]):.4g}: the score is not piecewise "
        text += "linear, or constants enter outside of the modules whose biases are read"
        notes.append(Note("incomplete", text, int(found.position[i])))
    return notes
