"""Class activation maps with weights from the classifier, a principal component, or the score itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..base.arithmetic import rounding_of
from ..base.named import is_whole, require, require_number, require_whole
from ..base.notes import Note
from ..engine.layers import Linear
from ..engine.score import Activation, Score, sum_dtype
from ..question.random_streams import Streams
from .base import Estimate, Needs
from .cam import ActivationMap, GradientMap, upsampled, weighted
from .moments import spread_over

ROWS_OF_OUTPUTS = 1024  # outputs without one channel that are held at once; no pass of the model is needed


@dataclass(frozen=True)
class ForwardMap(ActivationMap):
    """Base of the maps that read the layer's activation alone."""

    needs: ClassVar[Needs] = Needs(gradients=False, layer=True)

    def read(self, score: Score, x: Tensor) -> Sequence[Activation]:
        return score.activations(x, gradient=False)


def classifier(layer: Activation, score: Score) -> Linear | None:
    """Return the linear classifier whose outputs are scored, if the layer's mean is its input; else None."""
    return None if score.target.layer else layer.layer.linear


@dataclass(frozen=True)
class CAM(ForwardMap):
    r"""Channels weighted by the classifier's weights, the first class activation map.

    $$A = \mathrm{relu}\Big(\sum_k w_{ck} A_k\Big)$$

    for a model that is global average pooling and one linear layer after this one; raises ValueError for others. For
    a target other than the logit of class c, the classes' weights are weighted by the target's derivative at x.
    [zhou2016]

    >>> ll.explain(model, x, ll.CAM(), target=2).values.shape
    torch.Size([2, 1, 16, 16])
    """

    fixed_rows: ClassVar[int | None] = 0

    def map(self, layer: Activation, score: Score, x: Tensor, rng: Streams) -> Tensor:
        linear = classifier(layer, score)
        if linear is None:
            raise ValueError(
                f"layer: CAM needs a model that is global average pooling and one linear layer after {layer.name!r}, "
                "which this one is not; GradCAM gives the same map there up to a factor and runs on any model"
            )
        with torch.enable_grad():
            pooled = layer.values.flatten(2).mean(2).to(linear.weight.dtype).requires_grad_()
            (weights,) = torch.autograd.grad(score.target(linear(pooled), score.examples).sum(), pooled)
        return weighted(weights, layer.values.to(weights.dtype))


@dataclass(frozen=True)
class EigenCAM(ForwardMap):
    r"""The activation's first principal component over positions, whatever the target.

    $$A_p = \mathrm{relu}\Big(\sum_k v_k (A_{k,p} - \bar A_k)\Big)$$

    with v the first right singular vector of the centred positions x channels, its sign such that the map correlates
    with the mean activation. A caution says where the score's gradient is zero all over the layer, where the model has
    gradients. [muhammad2020]

    >>> ll.explain(model, x, ll.EigenCAM()).values.shape
    torch.Size([2, 1, 16, 16])
    """

    needs: ClassVar[Needs] = Needs(gradients=False, at_inputs=True, layer=True)
    fixed_rows: ClassVar[int | None] = 1

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        notes = []
        for layer in self.read(score, x):
            flat = [] if layer.gradient is None else (layer.gradient.flatten(1) == 0).all(1).nonzero()[:, 0].tolist()
            text = f"the score does not depend on {layer.name}, where its gradient is zero all over: the map shows the "
            notes += [Note("caution", text + "layer's main component and says nothing of the score", i) for i in flat]
        return replace(super().run(score, x, baseline, rng), notes=tuple(notes))

    def map(self, layer: Activation, score: Score, x: Tensor, rng: Streams) -> Tensor:
        return principal(layer.values)


@dataclass(frozen=True)
class EigenGradCAM(GradientMap):
    r"""The first principal component over positions of gradient times activation.

    $$A_p = \mathrm{relu}\Big(\sum_k v_k (g_{k,p} A_{k,p} - \overline{g_k A_k})\Big)$$

    with v the first right singular vector of the centred positions x channels, its sign such that the map correlates
    with HiResCAM's, the sum of gradient times activation. Raises ValueError where the gradient at the layer is zero.
    EigenCAM with the class in it, as pytorch-grad-cam has it. [muhammad2020]

    >>> ll.explain(model, x, ll.EigenGradCAM(), target=2).values.shape
    torch.Size([2, 1, 16, 16])
    """

    def combined(self, activation: Tensor, gradient: Tensor) -> Tensor:
        return principal(gradient * activation)


def principal(values: Tensor) -> Tensor:
    """Return the first principal component over positions `(n, *space)` of values `(n, channels, *space)`.

    Its sign is such that it correlates with the mean of the channels.
    """
    flat = values.flatten(2).transpose(1, 2).to(sum_dtype(values))
    centred = flat - flat.mean(1, keepdim=True)
    component = torch.linalg.svd(centred, full_matrices=False).Vh[:, 0]
    along = torch.einsum("npk,nk->np", centred, component)
    agrees = (along * centred.mean(2)).sum(1, keepdim=True) >= 0
    return along.where(agrees, -along).view(len(values), *values.shape[2:])


@dataclass(frozen=True)
class ScoreCAM(ForwardMap):
    r"""Channels weighted by the score of the input masked by them.

    $$w = \mathrm{softmax}_k f\big(x \odot n(\uparrow A_k)\big)$$

    with each channel upsampled to the input and rescaled to [0, 1] by n, without constant channels. One model row a
    channel, made a pass at a time. `most_channels` is an approximation with fewer rows: it uses the channels that vary
    most over positions alone, in the softmax too. [wang2020]

    >>> ll.explain(model, x, ll.ScoreCAM(), target=2).forward_rows
    19
    """

    most_channels: int | None = None

    def __post_init__(self) -> None:
        fits = self.most_channels is None or is_whole(self.most_channels, 1)
        require(fits, self, "most_channels", "a whole number of 1 or more, or None for every channel")

    def map(self, layer: Activation, score: Score, x: Tensor, rng: Streams) -> Tensor:
        scores, _ = self.channel_scores(layer, score, x, rng)
        return weighted(shares(scores).to(layer.values), layer.values)

    def channel_scores(self, layer: Activation, score: Score, x: Tensor, rng: Streams) -> tuple[Tensor, Tensor]:
        """Return the mean score of each channel's rows `(n, channels)` and their sample variance, NaN for one row.

        Channels that are left out have -inf and 0.
        """
        flat = layer.values.flatten(2)
        scores = torch.full(flat.shape[:2], -torch.inf, dtype=sum_dtype(x), device=x.device)
        variance = torch.zeros_like(scores)
        varies = flat.amax(2) > flat.amin(2)
        if self.most_channels is not None and self.most_channels < flat.shape[1]:
            most = flat.to(scores.dtype).var(2).topk(self.most_channels, dim=1).indices
            varies &= torch.zeros_like(varies).scatter_(1, most, True)
        shown = varies.nonzero()
        size = score.rows_per_pass
        for start in range(0, len(shown), size):
            example, channel = shown[start : start + size].unbind(1)
            masks = stretched(upsampled(layer.values[example, channel][:, None], x))
            draws = rng.select(example.tolist()).fork(channel.tolist())
            rows = self.masked(x[example], masks, draws)
            drawn = score.select(example).stream_values(rows).to(scores)
            scores[example, channel] = drawn.mean(0)
            variance[example, channel] = drawn.var(0) if len(drawn) > 1 else torch.nan
        return scores, variance

    def masked(self, x: Tensor, masks: Tensor, rng: Streams) -> Iterable[Tensor]:
        """Yield the rows `(rows, *features)` whose mean score weighs each channel, for masks `(rows, 1, *space)`."""
        return (x * masks,)


@dataclass(frozen=True)
class SSCAM(ScoreCAM):
    r"""Score-CAM whose weights are mean scores over noisy copies, smoothed Score-CAM.

    $$w = \mathrm{softmax}_k \frac1n \sum_{j=1}^n f(x_{kj}), \quad
      x_{kj} = x \odot \big(n(\uparrow A_k) + \sigma\epsilon_{kj}\big)
      \ \text{or} \ x \odot n(\uparrow A_k) + \sigma\,(\max x - \min x)\,\epsilon_{kj}$$

    with $\epsilon_{kj} \sim \mathcal{N}(0, 1)$: `noise="activations"` smooths the map, drawn anew for each position,
    `noise="inputs"` the masked input, for each number of it; types 1 and 2 of the paper. `sigma` is a share of the
    range of what it is added to, 1 for a map in [0, 1], as in SmoothGrad; the paper's 2 has no stated scale. One model
    row for each of `samples` and channel. `sigma=0` is ScoreCAM. `stderr` follows from the variance of the scores by
    the derivative of softmax, before the ReLU; upsampled it is a bound, and NaN with one sample. [wang2020sscam]

    >>> ll.explain(model, x, ll.SSCAM(samples=4), target=2).stderr.shape
    torch.Size([2, 1, 16, 16])
    """

    samples: int = 35
    sigma: float = 0.15
    noise: Literal["activations", "inputs"] = "activations"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(self, "samples", 1)
        require_number(self, "sigma", lambda sigma: sigma >= 0, "0 or a positive share of the range")
        require(self.noise in ("activations", "inputs"), self, "noise", "'activations' or 'inputs'")

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        maps, errors = [], []
        for layer in self.read(score, x):
            scores, variance = self.channel_scores(layer, score, x, rng)
            weights, values = shares(scores), layer.values.to(scores)
            maps.append(weighted(weights, values))
            apart = values - maps[-1][:, None]  # the map changes by w_k (A_k - map) with the score of channel k
            errors.append(weighted(weights.square() * variance / self.samples, apart.square()).sqrt())
        single = Note("caution", "stderr is NaN: a single draw has no known spread; use more samples")
        return replace(self.placed(maps, x, errors), notes=(single,) if self.samples == 1 else ())

    def masked(self, x: Tensor, masks: Tensor, rng: Streams) -> Iterable[Tensor]:
        for sample in range(self.samples):
            if self.noise == "activations":
                yield x * (masks + self.sigma * rng.normal(sample, masks.shape[1:], masks))
            else:
                yield x * masks + self.sigma * spread_over(x) * rng.normal(sample, x.shape[1:], x)


def shares(scores: Tensor) -> Tensor:
    """Return the softmax of scores `(n, channels)` over channels; zero without any channel."""
    return scores.softmax(1).nan_to_num(0)


def stretched(maps: Tensor) -> Tensor:
    """Rescale each map `(maps, ...)` linearly to [0, 1]; a constant map becomes 0."""
    axes = tuple(range(1, maps.ndim))
    low, high = maps.amin(axes, keepdim=True), maps.amax(axes, keepdim=True)
    return (maps - low) / (high - low).where(high > low, 1)


@dataclass(frozen=True)
class AblationCAM(ForwardMap):
    r"""Channels weighted by the share of the score lost without them.

    $$w_k = \frac{f - f_{\setminus k}}{f}$$

    with channel k of the map set to zero. Only the model after the layer runs again, one row a channel. Where that is
    global average pooling and one linear layer, nothing runs: $f_{\setminus k}$ is known in closed form. A negative
    score turns all signs, and a note says so. Raises ValueError for a score of 0. [desai2020]

    >>> ll.explain(model, x, ll.AblationCAM(), target=2).values.shape
    torch.Size([2, 1, 16, 16])
    """

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        found = super().run(score, x, baseline, rng)
        text = "its score is negative, so a positive value is evidence AGAINST it here"
        negative = score.examples[score.values(x) < 0].tolist()
        return replace(found, notes=tuple(Note("fact", text, i) for i in negative))

    def map(self, layer: Activation, score: Score, x: Tensor, rng: Streams) -> Tensor:
        whole = score.values(x)
        if bool((whole == 0).any()):
            which = ", ".join(map(str, score.examples[whole == 0].tolist()))
            raise ValueError(
                f"target: the score of example {which} is 0, and AblationCAM's weights are shares of it; choose "
                "another target, such as Probability()"
            )
        linear = classifier(layer, score)
        without = score.values_without(x, layer.layer) if linear is None else _without(layer, linear, score)
        # A channel that changes the score by no more than rounding has no weight: a layer that is not read has no map.
        lost = whole - without
        lost = torch.where(lost.abs() > rounding_of(score.runner.precision, whole).to(lost), lost, 0)
        return weighted((lost / whole).T.to(layer.values), layer.values)


def _without(layer: Activation, linear: Linear, score: Score) -> Tensor:
    """Return scores `(channels, n)` without each channel: of the outputs less the part that the channel's mean adds."""
    pooled = layer.values.flatten(2).mean(2).to(linear.weight.dtype)
    outputs = linear(pooled)
    found = []
    for channels in torch.arange(pooled.shape[1], device=pooled.device).split(max(1, ROWS_OF_OUTPUTS // len(pooled))):
        part = pooled.T[channels, :, None] * linear.weight.T[channels, None, :]
        rows = (outputs - part).flatten(0, 1)
        scores = score.target(rows, score.examples.repeat(len(channels)))
        found.append(scores.view(len(channels), -1))
    return torch.cat(found)
