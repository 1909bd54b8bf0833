"""How the peers are called, each in the way its own documentation shows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from captum import attr
from torch import Tensor

import limelight as ll

from .case import Peer
from .counting import Passes, bare, counted
from .operators import torchvision
from .scenes import Scene

STEPS = tuple(2**k for k in range(3, 12))


def saliency() -> Peer:
    return Peer("captum Saliency", lambda s: attr.Saliency(s.model).attribute(_leaf(s), s.target, abs=False))


def input_x_gradient() -> Peer:
    return Peer("captum InputXGradient", lambda s: attr.InputXGradient(s.model).attribute(_leaf(s), s.target))


def integrated_gradients(rule: str, steps: int) -> tuple[Peer, ...]:
    """All steps in one batch, as is the default, and in batches of 16."""
    return tuple(
        Peer(
            f"captum IG {rule}, batches of {batch or steps}",
            partial(_ig, rule=rule, steps=steps, batch=batch),
        )
        for batch in (None, 16)
    )


def _ig(s: Scene, rule: str, steps: int, batch: int | None) -> Tensor:
    found: Tensor = attr.IntegratedGradients(s.model).attribute(
        s.x, 0.0, s.target, n_steps=steps, method=rule, internal_batch_size=batch
    )
    return found


def told_the_steps(tolerance: float) -> Peer:
    return Peer("captum IG, told the steps it needs", lambda s: _ig(s, "gausslegendre", steps_to(tolerance, s), 16))


def doubling_the_steps(tolerance: float) -> Peer:
    return Peer("captum IG, steps doubled until it is there", lambda s: _search(s, tolerance)[1])


@cache
def steps_to(tolerance: float, s: Scene) -> int:
    return _search(s, tolerance)[0]


def _search(s: Scene, tolerance: float) -> tuple[int, Tensor]:
    """The first doubling of 8 steps with |delta| <= tolerance x min(1, |f(x) - f(b)|), and its map."""
    with torch.no_grad():
        rise = float((s.model(s.x) - s.model(torch.zeros_like(s.x)))[0, s.target])
    for steps in STEPS:
        found = _ig(s, "gausslegendre", steps, 16)
        if abs(float(found.double().sum()) - rise) <= tolerance * min(1.0, abs(rise)):
            break
    return steps, found


def noise_tunnel(statistic: str, samples: int, noise: float) -> tuple[Peer, ...]:
    def run(s: Scene, batch: int) -> Tensor:
        found: Tensor = attr.NoiseTunnel(attr.Saliency(s.model)).attribute(
            _leaf(s),
            nt_type=statistic,
            nt_samples=samples,
            nt_samples_batch_size=batch,
            stdevs=noise * float(s.x.max() - s.x.min()),
            target=s.target,
            abs=False,
        )
        return found

    return tuple(Peer(f"captum NoiseTunnel {statistic}, batches of {b}", partial(run, batch=b)) for b in (samples, 16))


def gradient_shap(samples: int) -> Peer:
    def run(s: Scene) -> Tensor:
        found: Tensor = attr.GradientShap(s.model).attribute(
            _leaf(s), s.references, n_samples=samples, stdevs=0.0, target=s.target
        )
        return found

    return Peer("captum GradientShap", run)


def layer_grad_cam() -> Peer:
    def run(s: Scene) -> Tensor:
        layer = s.model.get_submodule(s.layer)
        found = attr.LayerGradCam(s.model, layer).attribute(s.x, s.target, relu_attributions=True)
        return F.interpolate(found, size=s.x.shape[2:], mode="bilinear").detach()

    return Peer("captum LayerGradCam", run)


def pytorch_grad_cam() -> Peer:
    def run(s: Scene) -> Tensor:
        torchvision()
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        with GradCAM(s.model, [s.model.get_submodule(s.layer)]) as cam:
            return torch.from_numpy(cam(s.x, [ClassifierOutputTarget(s.target)]))

    return Peer("pytorch-grad-cam GradCAM", run)


def occlusion(window: int, stride: int) -> tuple[Peer, ...]:
    def run(s: Scene, batch: int) -> Tensor:
        found: Tensor = attr.Occlusion(s.model).attribute(
            s.x,
            sliding_window_shapes=(3, window, window),
            strides=(3, stride, stride),
            baselines=0.0,
            target=s.target,
            perturbations_per_eval=batch,
        )
        return found[:, :1]  # equal in all channels, which are hidden together

    return tuple(Peer(f"captum Occlusion, {b} a pass", partial(run, batch=b)) for b in (16, 1))


def one_at_a_time(*methods: ll.Method) -> Peer:
    def run(s: Scene) -> Tensor:
        maps = [ll.explain(s.model, s.x, each, target=s.target).values for each in methods]
        return torch.cat([each.flatten() for each in maps])

    return Peer("ours, one at a time", run)


def bare_passes(method: ll.Method, only_backward: bool = False) -> Peer:
    """The model alone, run for the very passes that our method makes, or for those with a backward pass."""

    @cache
    def alone(s: Scene) -> Callable[[], None]:
        with counted(s.model) as passes:
            ll.explain(s.model, s.x, method, target=s.target)
        kept = [pair for pair in zip(passes.forward, passes.backward, strict=True) if pair[1] or not only_backward]
        return bare(s, Passes([f for f, _ in kept], [b for _, b in kept]))

    def run(s: Scene) -> Tensor:
        alone(s)()
        return torch.zeros(())

    return Peer("bare rows with a backward pass" if only_backward else "bare rows, all passes", run)


def _leaf(s: Scene) -> Tensor:
    return s.x.clone().requires_grad_()
