"""Learned masks: optimise the part of a picture to delete or to keep."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.named import is_finite, require, require_number, require_whole
from ..base.notes import Note
from ..engine.score import Score, result_dtype, sum_dtype
from ..question.baselines import gaussian_blur
from ..question.random_streams import Streams
from .base import Estimate, Method, Needs
from .cam import upsampled

_TEMPERATURE = 20.0  # of the smooth maximum
_MOMENTUM = 0.9


@dataclass(frozen=True)
class MeaningfulPerturbation(Method):
    r"""The smallest smooth part of a picture without which the score falls.

    $$\min_m f(m \odot x + (1 - m) \odot b) + \lambda_1 \overline{|1 - m|}
      + \lambda_2 \overline{|\nabla m|^\beta}$$

    for a mask of `size` x `size` in [0, 1] (1 keeps), upsampled bilinearly, by `steps` steps of Adam from m = 1; the
    bars are means over the mask. The map is 1 - m `(n, 1, H, W)`, `raw` the map before upsampling. The weights are for
    a score between 0 and 1: choose the target `Probability`; other scores get a caution. The paper's baseline is
    `Blur(10)`. The shift of the picture goes through all of up to `jitter` pixels in turn. One row forward and
    backward a step. Raises ValueError unless inputs are `(n, channels, H, W)`. [fong2017]

    >>> ll.explain(model, x, ll.MeaningfulPerturbation(steps=8), target=2).values.shape
    torch.Size([2, 1, 16, 16])
    """

    by_part: ClassVar[bool] = True
    pictures_only: ClassVar[bool] = True
    steps: int = 300
    size: int = 28
    l1: float = 1e-2
    variation: float = 0.2
    beta: float = 3.0
    learning_rate: float = 0.1
    jitter: int = 4

    no_sum: ClassVar[str | None] = "a mask says what to delete, it does not divide up the score"
    needs: ClassVar[Needs] = Needs(value=True, baseline=True)

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("size", 1), ("jitter", 0)):
            require_whole(self, name, least)
        for name in ("l1", "variation"):
            require_number(self, name, lambda weight: weight >= 0, "0 or a positive weight")
        require_number(self, "beta", lambda beta: beta >= 1, "1 or more")
        require_number(self, "learning_rate", lambda rate: rate > 0, "a positive number")

    def rows(self, features: torch.Size) -> int | None:
        return self.steps

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        _require_pictures(self, x)
        height, width = min(self.size, x.shape[2]), min(self.size, x.shape[3])
        kept = torch.ones(len(x), 1, height, width, dtype=result_dtype(x), device=x.device)
        first, second = torch.zeros(2, *kept.shape, dtype=kept.dtype, device=x.device)
        for step in range(self.steps):
            with torch.enable_grad():
                kept.requires_grad_()
                mask = upsampled(kept, x)
            shift = (step % (self.jitter + 1), step // (self.jitter + 1) % (self.jitter + 1))
            rows = torch.lerp(baseline, x, mask.detach().to(x)).roll(shift, (2, 3))
            slope = score.gradient(rows).roll((-shift[0], -shift[1]), (2, 3))
            pulled = (slope * (x - baseline)).sum(1, keepdim=True).to(mask)
            with torch.enable_grad():
                down, right = kept.diff(dim=2).abs() ** self.beta, kept.diff(dim=3).abs() ** self.beta
                area, rough = (1 - kept).abs().flatten(1).mean(1), _mean(down) + _mean(right)
                loss = (mask * pulled).sum() + (self.l1 * area + self.variation * rough).sum()
            (gradient,) = torch.autograd.grad(loss, kept)
            # Adam with its usual constants, entry by entry, so that examples do not influence each other.
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
            kept = (kept.detach() - self.learning_rate * mean / (square.sqrt() + 1e-8)).clamp(0, 1)
        scores = score.values(x)
        notes = tuple(_out_of_scale(i, float(each)) for i, each in enumerate(scores) if not 0 <= each <= 1)
        return Estimate(upsampled(1 - kept, x), raw=1 - kept, notes=notes)


def _out_of_scale(example: int, score: float) -> Note:
    said = f"the weights are for scores between 0 and 1, and this one is {score:.3g}: the mask is noise that moves it"
    return Note("caution", f"{said}; use the target Probability, or larger l1 and variation", example)


def _mean(each: Tensor) -> Tensor:
    return each.flatten(1).mean(1) if each.numel() else each.new_zeros(len(each))


def _require_pictures(method: Method, x: Tensor) -> None:
    """Raise ValueError unless x is `(n, channels, H, W)`."""
    if x.ndim != 4:
        name, shape = type(method).__name__, tuple(x.shape)
        raise ValueError(
            f"inputs: {name} learns masks of pictures (n, channels, H, W), not of {shape}; use Occlusion, RISE or "
            "FeatureAblation"
        )


@dataclass(frozen=True)
class ExtremalPerturbation(Method):
    r"""For each area a, the smooth mask of that share of the picture with the highest score.

    $$\max_m f(m \otimes x) - \lambda\, \bigl(\overline{(\mathrm{sort}(m) - r_a)^2} + |\bar m - \bar r_a|\bigr),
      \qquad r_a = (0, \dots, 0, 1, \dots, 1)$$

    m (x) x blurs each position by its mask: 1 leaves it, 0 blurs it by `blur` pixels, with `levels` levels between.
    "delete" minimises f of the complement, "dual" does both. The mask is the smooth maximum of bumps of `sigma` pixels
    around a grid of `step` pixels, computed at the grid points and bilinear between. The search begins with the whole
    picture. `steps` steps of gradient ascent with momentum (and equal damping) optimise all pictures and areas
    together, in float64 because near ties in the order matter; lambda grows by `growth` a step. a is a share of the
    picture; what a bump covers beyond the border counts too, or the border would be the cheapest place to show.
    The map `(n, 1, H, W)` is the mean over areas, `raw` `(n, areas, H, W)` holds each mask; `notes` give the areas
    found inside the picture, which are smaller for masks at the border. One row forward and backward a step and area
    ("dual": two). Raises ValueError unless inputs are pictures. [fong2019]

    >>> ll.explain(model, x, ll.ExtremalPerturbation(areas=(0.2,), steps=8), target=2).values.shape
    torch.Size([2, 1, 16, 16])
    """

    by_part: ClassVar[bool] = True
    pictures_only: ClassVar[bool] = True
    areas: tuple[float, ...] = (0.025, 0.05, 0.1, 0.2)
    variant: Literal["preserve", "delete", "dual"] = "preserve"
    steps: int = 800
    step: int = 7
    sigma: float = 21.0
    levels: int = 8
    blur: float = 20.0
    learning_rate: float = 0.01
    weight: float = 300.0
    growth: float = 1.0035

    no_sum: ClassVar[str | None] = "a mask says what to keep, it does not divide up the score"

    def __post_init__(self) -> None:
        areas = self.areas if isinstance(self.areas, tuple) else ()
        fit = len(areas) > 0 and all(is_finite(area) and 0 < area < 1 for area in areas)
        require(fit, self, "areas", "shares of the picture between 0 and 1, as a tuple")
        require(self.variant in ("preserve", "delete", "dual"), self, "variant", "'preserve', 'delete' or 'dual'")
        for name, least in (("levels", 2), ("steps", 1), ("step", 1)):
            require_whole(self, name, least)
        for name in ("sigma", "blur", "learning_rate", "weight", "growth"):
            require_number(self, name, lambda value: value > 0, "a positive number")

    def rows(self, features: torch.Size) -> int | None:
        return self.steps * len(self.areas) * (2 if self.variant == "dual" else 1)

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        _require_pictures(self, x)
        count, pixels = len(self.areas), x.shape[2] * x.shape[3]
        example = torch.arange(len(x), device=x.device).repeat_interleave(count)
        per_area, bumps = score.select(example), _Bumps(self, x)
        # The levels `(n, levels, channels, H, W)`, from the most blurred to x itself.
        sigmas = [self.blur * (1 - level / (self.levels - 1)) for level in range(self.levels)]
        pyramid = torch.stack([gaussian_blur(x, sigma) if sigma else x for sigma in sigmas], 1)
        kept = torch.tensor([math.ceil(area * pixels) for area in self.areas], device=x.device).repeat(len(x))
        wanted = (torch.arange(bumps.area, device=x.device) >= bumps.area - kept[:, None]).to(sum_dtype(x))
        # From the whole picture, whose slopes say most: a blurred one has little to say about what matters.
        start = float(self.variant != "delete")
        grid = torch.full((len(example), 1, *bumps.shape), start, dtype=wanted.dtype, device=x.device)
        speed, weight = torch.zeros_like(grid), self.weight
        moved = torch.zeros(len(example), dtype=torch.bool, device=x.device)
        for step in range(self.steps):
            with torch.enable_grad():
                grid.requires_grad_()
                canvas = bumps.canvas(grid)
                mask = bumps.inside(canvas)
            pulled = self._slope(per_area, pyramid, example, mask.detach().to(x)).to(mask)
            moved |= pulled.flatten(1).any(1)
            with torch.enable_grad():
                gain = (mask * pulled).sum()
                if step:  # at first the mask is constant; one step along the slopes gives it an order
                    slopes = bumps.beyond(pulled)
                    ordered = canvas.flatten(1).gather(1, _order(canvas.detach().flatten(1), slopes.flatten(1)))
                    wrong = (ordered - wanted).square().mean(1) + (ordered.mean(1) - wanted.mean(1)).abs()
                    gain = gain - weight * wrong.sum()
            (gradient,) = torch.autograd.grad(gain, grid)
            speed = _MOMENTUM * speed + (1 - _MOMENTUM) * gradient
            grid = (grid.detach() + self.learning_rate * speed).clamp(0, 1)
            weight *= self.growth
        masks = bumps.inside(bumps.canvas(grid)).to(result_dtype(x)).reshape(len(x), count, *x.shape[2:])
        inside = masks.flatten(2).mean(2)
        notes = []
        for i, row in enumerate(inside):
            shares = [f"{float(each):.3f} ({area:g} wanted)" for each, area in zip(row, self.areas, strict=True)]
            notes.append(Note("fact", f"areas inside the picture {', '.join(shares)}", i))
        flat = "the score has no gradient at any mask: the masks come from their areas alone and say nothing about it"
        notes += [Note("caution", flat, i) for i, any_ in enumerate(moved.view(len(x), count).any(1)) if not any_]
        return Estimate(masks.mean(1, keepdim=True), raw=masks, notes=tuple(notes))

    def _slope(self, score: Score, pyramid: Tensor, example: Tensor, mask: Tensor) -> Tensor:
        """Return the objective's gradient with respect to the masks `(rows, 1, H, W)`."""
        found = torch.zeros_like(mask)
        for kept, sign in ((mask, 1.0), (1 - mask, -1.0)):
            if self.variant not in ("dual", "preserve" if sign > 0 else "delete"):
                continue
            place = kept * (self.levels - 1)
            lower = place.floor().clamp(max=self.levels - 2)
            index = lower.long()[:, None].expand(-1, 1, pyramid.shape[2], -1, -1)
            levels = pyramid[example]
            below, above = levels.gather(1, index)[:, 0], levels.gather(1, index + 1)[:, 0]
            rise = (above - below) * (self.levels - 1)
            slope = score.gradient(torch.lerp(below, above, place - lower))
            # For the complement both the derivative by the mask and the objective change their sign.
            found += (slope * rise).sum(1, keepdim=True)
        return found


def _order(masks: Tensor, slopes: Tensor) -> Tensor:
    """Order positions `(rows, pixels)` from the least to the most visible, and equal ones by slope."""
    by_slope = slopes.argsort(dim=1, stable=True)
    coarse = (masks * 1e6).round().gather(1, by_slope)
    return by_slope.gather(1, coarse.argsort(dim=1, stable=True))


class _Bumps:
    r"""Masks from grids: at a grid point u, the smooth maximum of $k(|u - v|)\,g_v$ over the points v around it.

    $k(d) = \exp(-2 \max(0, d / \sigma - 1/2)^2)$. The grid lies on the picture; `canvas` also has what its bumps cover
    beyond the border, `radius` points on every side. `area` is the canvas's size in pixels.
    """

    def __init__(self, method: ExtremalPerturbation, x: Tensor) -> None:
        self._step, self._size = method.step, (x.shape[2], x.shape[3])
        self._radius = math.ceil(method.sigma / method.step) + 1
        self.shape = tuple(math.ceil((size - 1) / method.step) + 1 for size in self._size)
        self._points = [each + 2 * self._radius for each in self.shape]
        self._enlarged = tuple((each - 1) * self._step + 1 for each in self._points)
        self.area = math.prod(self._enlarged)
        along = torch.arange(-self._radius, self._radius + 1, dtype=sum_dtype(x), device=x.device) * method.step
        distance = (along[:, None] ** 2 + along[None] ** 2).sqrt()
        self._kernel = torch.exp(-2 * (distance / method.sigma - 0.5).clamp(min=0) ** 2).reshape(1, -1, 1)

    def canvas(self, grid: Tensor) -> Tensor:
        """Compute masks `(rows, 1, height, width)` in [0, 1] of the canvas from grids `(rows, 1, *shape)`."""
        around = F.pad(grid, (2 * self._radius,) * 4)
        values = F.unfold(around, 2 * self._radius + 1) * self._kernel
        points = (values * (_TEMPERATURE * values).softmax(1)).sum(1).reshape(len(grid), 1, *self._points)
        return F.interpolate(points, size=self._enlarged, mode="bilinear", align_corners=True)

    def inside(self, canvas: Tensor) -> Tensor:
        """Return the picture's part `(rows, 1, H, W)` of a canvas."""
        first = self._radius * self._step
        return canvas[:, :, first : first + self._size[0], first : first + self._size[1]]

    def beyond(self, picture: Tensor) -> Tensor:
        """Return the canvas with the picture's values in its part and zeros beyond."""
        canvas = picture.new_zeros(len(picture), 1, *self._enlarged)
        self.inside(canvas).copy_(picture)
        return canvas
