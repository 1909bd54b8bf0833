"""Cases with a known answer, without downloads: the public names of this folder."""

from .handset import HANDSET as HANDSET, HandSet as HandSet
from .mosaics import Mosaic as Mosaic, mosaic as mosaic
from .patterns import (
    PATTERNS as PATTERNS,
    Pattern as Pattern,
    earth_mover_score as earth_mover_score,
    pattern_problem as pattern_problem,
    precision as precision,
)
from .scenes import CLASSES as CLASSES, Scenes as Scenes, scenes as scenes
from .trained import SceneCNN as SceneCNN, SceneViT as SceneViT, trained as trained
