"""How alike two maps are: rank correlation, structural similarity, histograms of oriented gradients, top pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pearson(a: Tensor, b: Tensor, dim: int = -1) -> Tensor:
    """Correlation along `dim`, in float64; NaN where either side does not vary by more than its rounding."""
    a, b = a.double(), b.double()
    (a, a_varies), (b, b_varies) = _centred(a, dim), _centred(b, dim)
    scale = (a.square().sum(dim) * b.square().sum(dim)).sqrt()
    found = (a * b).sum(dim) / scale
    varies = a_varies & b_varies & (scale > 0)
    return torch.where(varies, found.clamp(-1, 1), torch.full_like(found, torch.nan))


def _centred(z: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    rounding = 64 * torch.finfo(z.dtype).eps * z.abs().amax(dim)
    centred = z - z.mean(dim, keepdim=True)
    return centred, centred.abs().amax(dim) > rounding


def on_unit(maps: Tensor) -> Tensor:
    """Each map stretched to [0, 1] by itself; a constant one becomes 0."""
    flat = maps.double().flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    scaled = (flat - low) / (high - low).clamp(min=torch.finfo(torch.float64).tiny)
    return scaled.reshape(maps.shape)


def ssim(a: Tensor, b: Tensor, window: int = 7) -> Tensor:
    r"""Mean structural similarity `(n,)` of maps `(n, H, W)`, each stretched to [0, 1]. [wang2004]

    Uniform windows of 7 x 7 wholly inside the picture, sample covariances, $C_1 = 0.01^2$, $C_2 = 0.03^2$.
    """
    a, b = on_unit(a)[:, None], on_unit(b)[:, None]
    side = min(window, *a.shape[2:])

    def mean(z: Tensor) -> Tensor:
        return F.avg_pool2d(z, side, stride=1)

    n = side * side
    unbias = n / max(n - 1, 1)
    ma, mb = mean(a), mean(b)
    va, vb = unbias * (mean(a * a) - ma * ma), unbias * (mean(b * b) - mb * mb)
    cab = unbias * (mean(a * b) - ma * mb)
    c1, c2 = 0.01**2, 0.03**2
    found = (2 * ma * mb + c1) * (2 * cab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    mean_over_windows: Tensor = found.flatten(1).mean(1)
    return mean_over_windows


def hog(maps: Tensor, cell: int = 8, orientations: int = 9) -> Tensor:
    """Histograms of oriented gradients `(n, features)` of maps `(n, H, W)`, cells normalised (L2). [dalal2005]"""
    z = on_unit(maps)
    dy, dx = torch.zeros_like(z), torch.zeros_like(z)
    dy[:, 1:-1], dx[:, :, 1:-1] = z[:, 2:] - z[:, :-2], z[:, :, 2:] - z[:, :, :-2]
    length = (dx.square() + dy.square()).sqrt()
    angle = torch.atan2(dy, dx) % torch.pi
    bins = (angle / torch.pi * orientations).long().clamp(max=orientations - 1)
    weighted = F.one_hot(bins, orientations).movedim(-1, 1) * length[:, None]
    side = min(cell, *maps.shape[1:])
    cells = F.avg_pool2d(weighted, side)
    norm = cells.square().sum(1, keepdim=True).sqrt()
    return (cells / norm.clamp(min=1e-5)).flatten(1)


def top_overlap(a: Tensor, b: Tensor, k: int) -> Tensor:
    """Share of the k highest units of a `(n, units)` that are among the k highest of b."""
    chosen = torch.zeros_like(a, dtype=torch.bool).scatter_(1, a.topk(k, dim=1).indices, True)
    others = torch.zeros_like(chosen).scatter_(1, b.topk(k, dim=1).indices, True)
    return (chosen & others).sum(1).double() / k
