r"""Problems with a known pattern on a noise background, so that the relevant pixels are known. [clark2024]

Additive: $x = \alpha\,P/|P| + (1 - \alpha)\,B/|B|$, P one of two patterns by the class, B smoothed noise.
Multiplicative: $x \propto (1 - \alpha P) B$. Rotated: P turned by quarter turns and moved for each example. XOR: both
patterns, and the class is whether their signs agree. The truth is the pixels of the patterns in the example.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ...question.baselines import gaussian_blur

Kind = Literal["additive", "multiplicative", "rotated", "xor"]
PATTERNS: tuple[str, ...] = get_args(Kind)

# Two tetrominoes on a grid of 8 x 8: a T and an L.
_T = ((1, 0), (1, 1), (1, 2), (2, 1))
_L = ((4, 5), (5, 5), (6, 5), (6, 6))


@dataclass(frozen=True, eq=False)
class Pattern:
    """`x` `(n, 1, size, size)`, classes `y` `(n,)` of 0 and 1, `truth` `(n, 1, size, size)` booleans."""

    x: Tensor
    y: Tensor
    truth: Tensor


def pattern_problem(kind: Kind, n: int, size: int = 8, alpha: float = 0.3, seed: int = 0) -> Pattern:
    """Make `n` examples of a problem. `size` is 8 or a multiple of 8. Raises ValueError for other sizes."""
    if kind not in PATTERNS:
        raise ValueError(f"kind: {kind!r}; use one of {', '.join(PATTERNS)}")
    if size < 8 or size % 8:
        raise ValueError(f"size: {size}; use 8 or a multiple of 8")
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha: {alpha}; use a share of the pattern above 0, at most 1")
    random = np.random.default_rng([seed, n, size, PATTERNS.index(kind)])
    y = torch.from_numpy(random.integers(0, 2, n))
    background = torch.from_numpy(random.standard_normal((n, 1, size, size)))
    background = gaussian_blur(background, size / 16)
    t, l_shape = (_drawn(cells, size) for cells in (_T, _L))
    if kind == "xor":
        signs = torch.from_numpy(random.choice([-1.0, 1.0], n))
        second = signs * (2 * y - 1)
        pattern = signs.view(-1, 1, 1, 1) * t + second.view(-1, 1, 1, 1) * l_shape
    else:
        pattern = torch.where(y.view(-1, 1, 1, 1) == 1, t, l_shape)
    if kind == "rotated":
        turns, moves = random.integers(0, 4, n), random.integers(0, size, (n, 2))
        pattern = torch.stack(
            [
                each.rot90(int(k), (1, 2)).roll((int(a), int(b)), (1, 2))
                for each, k, (a, b) in zip(pattern, turns, moves, strict=True)
            ]
        )
    truth = pattern != 0
    if kind == "multiplicative":
        x = (1 - alpha * pattern) * background
        return Pattern((x / _norm(x)).float(), y, truth)
    x = alpha * pattern / _norm(pattern) + (1 - alpha) * background / _norm(background)
    return Pattern(x.float(), y, truth)


def _drawn(cells: tuple[tuple[int, int], ...], size: int) -> Tensor:
    small = torch.zeros(8, 8, dtype=torch.float64)
    for row, column in cells:
        small[row, column] = 1
    return small.repeat_interleave(size // 8, 0).repeat_interleave(size // 8, 1)[None, None]


def _norm(x: Tensor) -> Tensor:
    length: Tensor = x.flatten(1).norm(dim=1)
    return length.view(-1, 1, 1, 1)


def precision(maps: Tensor, truth: Tensor) -> Tensor:
    """Share of true pixels `(n,)` among the |truth| pixels with the largest |A|; ties at the limit count in part."""
    units, inside = maps.abs().flatten(1).double(), truth.flatten(1)
    size = inside.sum(1)
    limit = units.sort(dim=1, descending=True).values.gather(1, (size - 1).clamp(min=0)[:, None])
    above, tied = units > limit, units == limit
    room = (size - above.sum(1)).double()
    hits = (above & inside).sum(1) + room * (tied & inside).sum(1) / tied.sum(1).clamp(min=1)
    return hits / size


def earth_mover_score(maps: Tensor, truth: Tensor, blur: float = 0.01, iterations: int = 400) -> Tensor:
    r"""Compute $1 - \mathrm{EMD}/d_{\max}$ `(n,)` between |A| and the truth, both as distributions over the pixels.

    The distance is Euclidean, d_max the picture's diagonal. It comes from Sinkhorn's iterations with an entropy of
    `blur` x d_max, which overstate it by at most a few times that. For maps of up to some thousand pixels.
    """
    height, width = maps.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], 1).double().to(maps.device)
    diagonal = max(float(torch.dist(places[0], places[-1])), 1.0)
    scores = []
    for one, true in zip(maps.abs().flatten(1).double(), truth.flatten(1), strict=True):
        there = true.nonzero()[:, 0]
        if one.sum() == 0 or not len(there):
            scores.append(torch.full((), torch.nan, dtype=torch.float64))
            continue
        source = one > 0
        a = (one[source] / one.sum()).log()
        b = torch.full((len(there),), -float(np.log(len(there))), dtype=torch.float64, device=maps.device)
        cost = torch.cdist(places[source], places[there]) / diagonal
        f, g = torch.zeros_like(a), torch.zeros_like(b)
        for _ in range(iterations):
            f = -blur * torch.logsumexp((g - cost) / blur + b, 1)
            g = -blur * torch.logsumexp((f[:, None] - cost) / blur + a[:, None], 0)
        plan = ((f[:, None] + g - cost) / blur + a[:, None] + b).exp()
        scores.append(1 - (plan * cost).sum())
    return torch.stack(scores)
