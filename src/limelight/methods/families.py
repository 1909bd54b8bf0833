"""The families of methods, in the order in which people meet them."""

from __future__ import annotations

from .base import Method

_MODULES = {
    "Gradients": ("gradient", "full_gradient"),
    "Averages over noise": ("wrap",),
    "Paths from a baseline": ("path", "expected_gradients", "guided_path", "idgi", "xrai"),
    "Inside the network": ("at_layer", "layer_path"),
    "Backward rules": ("guided", "backward"),
    "Class activation maps": ("cam", "cam_forward", "finer_cam"),
    "Covering parts of the picture": ("occlusion", "rise", "perturbation"),
    "Games between parts of the picture": ("shapley", "kernel_shap", "partition", "interactions", "lime"),
}
_BY_MODULE = {module: family for family, modules in _MODULES.items() for module in modules}

OWN = "Your own"
"""The family of methods from outside the library."""

FAMILIES: tuple[str, ...] = (*_MODULES, OWN)
"""Every family's name."""


def family_of(kind: type[Method]) -> str:
    """Return the family of a method's class, by the module it is written in.

    >>> from limelight.methods import GradCAM
    >>> family_of(GradCAM)
    'Class activation maps'
    """
    package, _, module = kind.__module__.rpartition(".")
    return _BY_MODULE.get(module, OWN) if package == __package__ else OWN
