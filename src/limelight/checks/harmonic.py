r"""Linear imputation: each hidden pixel is the weighted mean of its eight neighbours.

With $w$ = 1/6 beside and 1/12 across, $\sum_q w_{pq} (v_p - v_q) = 0$ at every hidden pixel p: a sparse symmetric
system, solved for all pictures and channels at once by conjugate gradients. A multigrid cycle conditions it, because
a large hidden region otherwise takes as many iterations as it is wide. [rong2022]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE, CORNER = 1 / 6, 1 / 12
DAMPING = 0.8  # of a Jacobi sweep
OVER = 1.7  # a correction that is constant on each cell is too small by about this factor


def harmonic(x: Tensor, hidden: Tensor, tolerance: float = 1e-5, most: int = 500) -> Tensor:
    """Replace the hidden pixels of x `(n, c, H, W)`; `hidden` is `(n, 1, H, W)`, booleans.

    Stops when every picture's residual is below `tolerance` of its right-hand side. A picture without a known pixel
    gets its mean colour. Raises RuntimeError if `most` iterations do not suffice.
    """
    levels = _levels(hidden.to(x.dtype))
    fine = levels[0]
    m, known = fine.hidden, 1 - fine.hidden
    some = known.amax((2, 3), keepdim=True)
    mean = x.mean((2, 3), keepdim=True)
    tiny = torch.finfo(x.dtype).tiny
    right = m * fine.around(x * known)
    solved = m * _guess(x, known, mean)
    residual = right - fine(solved)
    enough = tolerance**2 * _dot(right, right) + tiny
    z = _cycle(levels, residual)
    direction, rho = z, _dot(residual, z)
    for _ in range(most):
        active = some * (_dot(residual, residual) > enough)
        if not bool(active.any()):
            return torch.where(hidden, torch.where(some > 0, solved, mean), x)
        image = fine(direction)
        step = active * rho / _dot(direction, image).clamp(min=tiny)
        solved = solved + step * direction
        residual = residual - step * image
        z = _cycle(levels, residual)
        after = _dot(residual, z)
        direction = z + active * after / rho.clamp(min=tiny) * direction
        rho = after
    raise RuntimeError(f"linear imputation: the residual is still above {tolerance} after {most} iterations")


@dataclass(frozen=True)
class _Level:
    """The system on one grid: `hidden` `(n, 1, h, w)` is 1 at the unknowns; `side` and `corner` weigh neighbours."""

    hidden: Tensor
    side: float
    corner: float
    degree: Tensor

    @staticmethod
    def of(hidden: Tensor, side: float, corner: float) -> _Level:
        bare = _Level(hidden, side, corner, hidden)
        return _Level(hidden, side, corner, bare.around(torch.ones_like(hidden[:1])))

    def around(self, v: Tensor) -> Tensor:
        """Sum the eight neighbours with weights: the outer product of (c, s, c) with itself, without its middle."""
        ratio = self.side / self.corner
        p = F.pad(v, (1, 1, 1, 1))
        rows = torch.add(p[:, :, :-2] + p[:, :, 2:], p[:, :, 1:-1], alpha=ratio)
        both = torch.add(rows[..., :-2] + rows[..., 2:], rows[..., 1:-1], alpha=ratio)
        return torch.add(both, v, alpha=-(ratio**2)) * self.corner

    def __call__(self, v: Tensor) -> Tensor:
        return self.hidden * (self.degree * v - self.around(v))


def _levels(hidden: Tensor) -> list[_Level]:
    """Build ever coarser grids, whose unknowns are 2 x 2 cells that are hidden as a whole.

    Two cells side by side are joined by two straight and two slanted edges, two at a corner by one slanted edge: these
    are the weights of the coarser grid.
    """
    found = [_Level.of(hidden, SIDE, CORNER)]
    while min(found[-1].hidden.shape[2:]) > 2 and bool(found[-1].hidden.any()):
        last = found[-1]
        height, width = last.hidden.shape[2:]
        whole = F.avg_pool2d(F.pad(last.hidden, (0, width % 2, 0, height % 2)), 2) > 0.99
        found.append(_Level.of(whole.to(hidden.dtype), 2 * last.side + 2 * last.corner, last.corner))
    return found


def _cycle(levels: list[_Level], residual: Tensor) -> Tensor:
    """Run a symmetric V-cycle: one damped Jacobi sweep down and one up on each grid."""
    level, coarser = levels[0], levels[1:]
    v = DAMPING * level.hidden * residual / level.degree
    if coarser:
        height, width = residual.shape[2:]
        left = residual - level(v)
        below = 4 * F.avg_pool2d(F.pad(left, (0, width % 2, 0, height % 2)), 2) * coarser[0].hidden
        up = F.interpolate(_cycle(coarser, below), scale_factor=2.0, mode="nearest")[..., :height, :width]
        v = v + OVER * up
    return v + DAMPING * level.hidden * (residual - level(v)) / level.degree


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Compute the inner product `(n, c, 1, 1)` of each picture and channel, so that they stay independent."""
    return (a * b).sum((2, 3), keepdim=True)


def _guess(x: Tensor, known: Tensor, mean: Tensor) -> Tensor:
    """Make a first guess: the mean of the known pixels in the smallest cell of 2, 4, 8, ... pixels that has one."""
    guess = mean.expand_as(x)
    height, width = x.shape[2:]
    sizes = [2**k for k in range(1, 12) if 2**k <= min(height, width)]
    for size in reversed(sizes):
        padding = (0, -width % size, 0, -height % size)
        share = F.avg_pool2d(F.pad(known, padding), size)
        cells = F.avg_pool2d(F.pad(x * known, padding), size) / share.clamp(min=1e-12)
        cells, there = (F.interpolate(each, scale_factor=float(size), mode="nearest") for each in (cells, share))
        guess = torch.where(there[..., :height, :width] > 0, cells[..., :height, :width], guess)
    return guess
