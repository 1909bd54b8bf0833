"""Composed scenes: coloured shapes on textured backgrounds, the class decided by the red one, all masks exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CLASSES = ("disc", "square", "triangle", "cross")
RED = (0.85, 0.12, 0.12)
_OTHERS = ((0.12, 0.25, 0.85), (0.1, 0.65, 0.2), (0.9, 0.8, 0.1))
_REACH = 1.37  # the farthest corner of a shape, in radii


@dataclass(frozen=True, eq=False)
class Scenes:
    """`x` `(n, 3, size, size)` in [0, 1]; `y` `(n,)`, the shape of the red object; `mask` `(n, 1, size, size)`, its
    pixels; `distractors`, those of the other objects, which decide nothing."""

    x: Tensor
    y: Tensor
    mask: Tensor
    distractors: Tensor


def scenes(n: int, seed: int = 0, size: int = 32, distractors: int = 2) -> Scenes:
    """`n` scenes. Objects never touch. Raises ValueError for pictures too small to hold them."""
    if size < 24:
        raise ValueError(f"size: {size}; three objects that do not touch need 24 pixels a side or more")
    if not 0 <= distractors <= len(_OTHERS):
        raise ValueError(f"distractors: {distractors}; use 0 to {len(_OTHERS)}")
    random = np.random.default_rng([seed, n, size, distractors])
    x = np.empty((n, 3, size, size), dtype=np.float32)
    y = random.integers(0, len(CLASSES), n)
    masks = np.zeros((2, n, size, size), dtype=bool)
    rows, columns = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    for i in range(n):
        picture = _texture(random, rows, columns)
        colours = [RED, *(_OTHERS[k] for k in random.permutation(len(_OTHERS))[:distractors])]
        for place, (down, right, radius) in enumerate(_places(random, len(colours), size)):
            shape = int(y[i]) if place == 0 else int(random.integers(0, len(CLASSES)))
            drawn = _shape(rows - down, columns - right, shape, radius)
            shade = 0.85 + 0.3 * random.random()
            picture[:, drawn] = (np.array(colours[place]) * shade)[:, None]
            masks[min(place, 1), i] |= drawn
        x[i] = picture
    x += 0.03 * random.standard_normal(x.shape, dtype=np.float32)
    np.clip(x, 0, 1, out=x)
    red, others = (torch.from_numpy(each)[:, None] for each in masks)
    return Scenes(torch.from_numpy(x), torch.from_numpy(y), red, others)


def _texture(random: np.random.Generator, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A grey-brown grating with blotches."""
    size = len(rows)
    angle, wave = random.uniform(0, np.pi), random.uniform(4, 12)
    stripes = np.sin(2 * np.pi * (rows * np.sin(angle) + columns * np.cos(angle)) / wave + random.uniform(0, 6))
    blotches = random.standard_normal((size // 4 + 1, size // 4 + 1)).repeat(4, 0).repeat(4, 1)[:size, :size]
    tone = random.uniform(0.3, 0.65) + random.uniform(-0.06, 0.06, 3)
    ground: np.ndarray = tone[:, None, None] + 0.08 * stripes + 0.04 * blotches
    return ground


def _places(random: np.random.Generator, objects: int, size: int) -> list[tuple[float, float, float]]:
    """Centres and radii of objects whose circles stay two pixels apart; they shrink until all find a place."""
    found: list[tuple[float, float, float]] = []
    radius = size * random.uniform(0.13, 0.18)
    while len(found) < objects:
        for _ in range(40):
            down, right = random.uniform(radius + 1, size - 2 - radius, 2)
            if all((down - d) ** 2 + (right - c) ** 2 > (_REACH * (radius + r) + 2) ** 2 for d, c, r in found):
                found.append((down, right, radius))
                break
        else:
            radius *= 0.9
    return found


def _shape(down: np.ndarray, right: np.ndarray, shape: int, radius: float) -> np.ndarray:
    far = np.maximum(np.abs(down), np.abs(right))
    drawn: np.ndarray
    match CLASSES[shape]:
        case "disc":
            drawn = down**2 + right**2 <= radius**2
        case "square":
            drawn = far <= 0.85 * radius
        case "triangle":
            drawn = (down <= 0.8 * radius) & (np.abs(right) <= (down + radius) * 0.6) & (down >= -radius)
        case _:
            drawn = (far <= radius) & (np.minimum(np.abs(down), np.abs(right)) <= 0.35 * radius)
    return drawn
