"""Cases with a known answer, without downloads: the public names of this folder."""

from .handset import HANDSET, HandSet
from .mosaics import Mosaic, mosaic
from .patterns import PATTERNS, Pattern, earth_mover_score, pattern_problem, precision
from .scenes import CLASSES, Scenes, scenes
from .trained import SceneCNN, SceneViT, trained

__all__ = [
    "CLASSES",
    "HANDSET",
    "PATTERNS",
    "HandSet",
    "Mosaic",
    "Pattern",
    "SceneCNN",
    "SceneViT",
    "Scenes",
    "earth_mover_score",
    "mosaic",
    "pattern_problem",
    "precision",
    "scenes",
    "trained",
]
