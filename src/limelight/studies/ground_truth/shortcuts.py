"""Scenes with a shortcut planted in one class, and a small CNN trained on them, cached by content hash."""

from __future__ import annotations

import hashlib
import inspect
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor

from ...base.files import write_whole
from . import scenes as _scenes
from .scenes import CLASSES, scenes
from .trained import SceneCNN

Kind = Literal["tag", "border", "watermark", "cast"]
SHORTCUTS: tuple[str, ...] = get_args(Kind)
BEARER = CLASSES.index("square")
"""The class whose pictures bear the shortcut."""
_EXAMPLES, _BATCH, _STEPS, _RATE = 1000, 32, 130, 1e-2


@dataclass(frozen=True, eq=False)
class ShortcutScenes:
    """`x` `(n, 3, size, size)`, some with the shortcut; `without`, the same pictures before it was planted; classes `y`
    `(n,)`; `planted` `(n,)`, which pictures bear it."""

    x: Tensor
    without: Tensor
    y: Tensor
    planted: Tensor


def plant(x: Tensor, kind: Kind) -> Tensor:
    """Plant a shortcut into pictures `(n, 3, H, W)` of 32 pixels a side or more.

    "tag": a white frame around black, 4 pixels wide, in the bottom right corner. "border": two pixels of cyan on all
    sides. "watermark": white strokes over the lower part, half transparent. "cast": a shift towards red.
    """
    if kind not in SHORTCUTS:
        raise ValueError(f"kind: {kind!r}; use one of {', '.join(map(repr, SHORTCUTS))}")
    if min(x.shape[-2:]) < 32:
        raise ValueError(f"x: shape {tuple(x.shape)}; use pictures of 32 pixels a side or more")
    x = x.clone()
    match kind:
        case "tag":
            x[:, :, -5:-1, -5:-1] = 1
            x[:, :, -4:-2, -4:-2] = 0
        case "border":
            inside = x[:, :, 2:-2, 2:-2]
            x = x.new_tensor([0.1, 0.9, 0.9])[:, None, None].expand_as(x).clone()
            x[:, :, 2:-2, 2:-2] = inside
        case "watermark":
            strokes = torch.zeros(x.shape[-2:], dtype=x.dtype)
            for k in range(5):
                strokes[21:26, 5 + 5 * k] = 1
                strokes[21 + k, 5 + 5 * k : 8 + 5 * k] = 1
            x = x + 0.5 * strokes * (1 - x)
        case "cast":
            x = (x * x.new_tensor([1.0, 0.85, 0.85])[:, None, None] + x.new_tensor([0.1, 0, 0])[:, None, None]).clamp(
                0, 1
            )
    return x


def shortcut_scenes(n: int, kind: Kind | None, share: float, seed: int = 0) -> ShortcutScenes:
    """Make `n` scenes with the shortcut in this share of the squares; None for scenes without."""
    if not 0 <= share <= 1:
        raise ValueError(f"share: {share}; use a share of the pictures of a class, from 0 to 1")
    data = scenes(n, seed=seed)
    chosen = torch.from_numpy(np.random.default_rng([seed, 77]).random(n) < share)
    planted = (data.y == BEARER) & chosen if kind else torch.zeros(n, dtype=torch.bool)
    x = data.x.clone()
    if kind and bool(planted.any()):
        x[planted] = plant(x[planted], kind)
    return ShortcutScenes(x, data.x, data.y, planted)


def shortcut_model(kind: Kind | None, share: float, seed: int = 0, cache: str | Path | None = None) -> SceneCNN:
    """Return a small CNN in eval mode, trained on such scenes, from the cache or anew; in some ten seconds.

    `cache` is as for `trained`. The global random state does not change.
    """
    folder = Path(cache or os.environ.get("LIMELIGHT_CACHE") or Path.home() / ".cache" / "limelight")
    code = "".join(inspect.getsource(each) for each in (_scenes, SceneCNN, plant, shortcut_scenes, _train))
    settings = repr((kind, share, seed, _EXAMPLES, _BATCH, _STEPS, _RATE, torch.__version__))
    path = folder / f"shortcut-{hashlib.blake2b((settings + code).encode(), digest_size=8).hexdigest()}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SceneCNN(width=8)
        if path.exists():
            model.load_state_dict(load_file(path))
        else:
            _train(model, shortcut_scenes(_EXAMPLES, kind, share, seed=1000 + seed), seed)
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, save({name: value.contiguous() for name, value in model.state_dict().items()}))
    return model.eval()


def _train(model: SceneCNN, data: ShortcutScenes, seed: int) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=_STEPS)
    random = np.random.default_rng(seed)
    model.train()
    for _ in range(_STEPS):
        chosen = torch.from_numpy(random.integers(0, len(data.x), _BATCH))
        loss = F.cross_entropy(model(data.x[chosen]), data.y[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
