"""A small CNN and a small ViT trained on the scenes in under two minutes each on two cores, cached by content hash."""

from __future__ import annotations

import hashlib
import inspect
import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ...base.files import write_whole
from . import scenes as _scenes
from .scenes import CLASSES, scenes

Architecture = Literal["cnn", "vit"]
_EXAMPLES, _BATCH = 6000, 64


class SceneCNN(nn.Module):
    """Pixels in [0, 1] `(rows, 3, H, W)` to the four shapes: four convolutions with batch norm, ReLU, mean, linear."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        sizes = (3, width, 2 * width, 2 * width, 2 * width)
        layers: list[nn.Module] = []
        for inputs, outputs, stride in zip(sizes, sizes[1:], (1, 2, 1, 2), strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(sizes[-1], len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(2 * x - 1).mean((2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.project(mixed)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class SceneViT(nn.Module):
    """Pixels in [0, 1] `(rows, 3, 32, 32)` to the four shapes: patches of 4, a class token, pre-norm blocks."""

    def __init__(self, width: int = 64, depth: int = 3, heads: int = 4, size: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // 4) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(2 * x - 1).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return logits


# For each architecture: the network, the steps of its training, the learning rate.
_RECIPES: dict[str, tuple[type[nn.Module], int, float]] = {"cnn": (SceneCNN, 600, 4e-3), "vit": (SceneViT, 700, 1.5e-3)}


def trained(architecture: Architecture = "cnn", cache: str | Path | None = None) -> nn.Module:
    """Return the trained network in eval mode, from the cache, or train it and store it there.

    `cache` None is the folder in LIMELIGHT_CACHE, or ~/.cache/limelight. The file's name is a hash of the code that
    makes the scenes and trains on them and of torch's version, so that weights are never used with other code. The
    global random state does not change.
    """
    if architecture not in _RECIPES:
        raise ValueError(f"architecture: {architecture!r}; use {', '.join(map(repr, _RECIPES))}")
    kind, steps, rate = _RECIPES[architecture]
    folder = Path(cache or os.environ.get("LIMELIGHT_CACHE") or Path.home() / ".cache" / "limelight")
    path = folder / f"scenes-{architecture}-{_recipe(architecture)}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind()
        if path.exists():
            model.load_state_dict(load_file(path))
        else:
            _train(model, steps, rate)
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, save({name: value.contiguous() for name, value in model.state_dict().items()}))
    return model.eval().requires_grad_(False)


def _recipe(architecture: Architecture) -> str:
    kind, *schedule = _RECIPES[architecture]
    settings = (_EXAMPLES, _BATCH, *schedule, torch.__version__)
    code = (_scenes, kind, _Block, _train)
    text = repr(settings) + "".join(inspect.getsource(each) for each in code)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _train(model: nn.Module, steps: int, rate: float) -> None:
    data = scenes(_EXAMPLES, seed=1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    random = np.random.default_rng(0)
    model.train()
    for _ in range(steps):
        chosen = torch.from_numpy(random.integers(0, len(data.x), _BATCH))
        x = data.x[chosen]
        turns = int(random.integers(0, 2))  # shapes are the same in a mirror
        x = x.flip(3) if turns else x
        loss = F.cross_entropy(model(x), data.y[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
