"""Losses, run as the elementary operators that the rules know, for targets that are one."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn._reduction import legacy_get_string


def _reduced(
    loss: Tensor, reduction: str, size_average: Any = None, reduce: Any = None, weight: Tensor | None = None
) -> Tensor:
    loss = loss if weight is None else loss * weight
    if size_average is not None or reduce is not None:
        reduction = legacy_get_string(size_average, reduce)
    if reduction == "none":
        return loss
    if reduction == "batchmean":
        return loss.sum() / loss.shape[0]
    return loss.sum() if reduction == "sum" else loss.mean()


def at_least(x: Tensor, low: float) -> Tensor:
    """Keep x away from a pole: no rectifier of a network, and so not written as one that rectifier rules would see."""
    return -(-x).clamp(max=-low)


def _cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    axis = 1 if input.ndim > 1 else 0
    log = torch.log_softmax(input, axis)
    if not target.is_floating_point():
        return _nll(log, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing)
    wanted = target * (1 - label_smoothing) + label_smoothing / input.shape[axis]
    if weight is not None:
        wanted = wanted * _along(weight, axis, input.ndim)
    loss = -(log * wanted).sum(axis)
    if reduction == "mean" and size_average is None and reduce is None:
        return loss.sum() / max(loss.numel(), 1)
    return _reduced(loss, reduction, size_average, reduce)


def _nll(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    axis = 1 if input.ndim > 1 else 0
    ignored = target == ignore_index
    index = target.masked_fill(ignored, 0)
    own = input.new_ones(target.shape) if weight is None else weight[index]
    own = own.masked_fill(ignored, 0.0)
    loss = -input.gather(axis, index.unsqueeze(axis)).squeeze(axis).masked_fill(ignored, 0.0) * own
    if label_smoothing:
        every = input if weight is None else input * _along(weight, axis, input.ndim)
        smooth = -every.sum(axis).masked_fill(ignored, 0.0)
        loss = loss * (1 - label_smoothing) + smooth * (label_smoothing / input.shape[axis])
    if reduction == "mean" and size_average is None and reduce is None:
        return loss.sum() / own.sum()
    return _reduced(loss, reduction, size_average, reduce)


def _along(weight: Tensor, axis: int, ndim: int) -> Tensor:
    return weight.view([-1 if each == axis else 1 for each in range(ndim)])


def _bce_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    positive: Any = 1 if pos_weight is None else 1 + (pos_weight - 1) * target
    loss = (1 - target) * input - F.logsigmoid(input) * positive
    return _reduced(loss, reduction, size_average, reduce, weight)


def _bce(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    loss = -(at_least(input.log(), -100) * target + at_least((1 - input).log(), -100) * (1 - target))
    return _reduced(loss, reduction, size_average, reduce, weight)


def _of_difference(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def loss(
        input: Tensor,
        target: Tensor,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        **settings: float,
    ) -> Tensor:
        return _reduced(f(input - target, **settings), reduction, size_average, reduce, weight)

    return loss


def _smooth_l1(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    return _reduced(
        _huber_of(input - target, beta) / beta if beta else (input - target).abs(), reduction, size_average, reduce
    )


def _huber(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    return _reduced(_huber_of(input - target, delta), reduction, weight=weight)


def _huber_of(difference: Tensor, delta: float) -> Tensor:
    r"""Return $\tfrac12 d^2$ up to $\delta$, and $\delta (|d| - \delta / 2)$ from there on."""
    size = difference.abs()
    near = size.clamp(max=delta)
    return near.square() / 2 + (size - near) * delta


def _kl_div(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    loss = target.exp() * (target - input) if log_target else torch.xlogy(target, target) - target * input
    return _reduced(loss, reduction, size_average, reduce)


def _soft_margin(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Tensor:
    return _reduced(-F.logsigmoid(input * target), reduction, size_average, reduce)


LOSSES: dict[str, Callable[..., Any]] = {
    "cross_entropy": _cross_entropy,
    "nll_loss": _nll,
    "binary_cross_entropy": _bce,
    "binary_cross_entropy_with_logits": _bce_with_logits,
    "mse_loss": _of_difference(torch.square),
    "l1_loss": _of_difference(torch.abs),
    "smooth_l1_loss": _smooth_l1,
    "huber_loss": _huber,
    "kl_div": _kl_div,
    "soft_margin_loss": _soft_margin,
}
