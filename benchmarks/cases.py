"""The cases, as data. A new method adds its line here, or a reason to NO_CASE."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

import limelight as ll

from . import peers
from .case import Case
from .scenes import Scene

LITE, RESNET = "efficientnet-lite0", "resnet18"
BOTH = (LITE, RESNET)
TOLERANCE = 0.01


def of_references(scene: Scene) -> ll.Baseline:
    return ll.Samples(scene.references, len(scene.references))


def no_error(scene: Scene, ours: Tensor, theirs: Tensor) -> str:
    return ""


def rescaled(scene: Scene, ours: Tensor, theirs: Tensor) -> str:
    """pytorch-grad-cam stretches its maps to [0, 1]."""
    ours = (ours - ours.amin()) / (ours.amax() - ours.amin())
    return f"{float((ours[:, 0].cpu() - theirs).abs().max()):.1e} to the peer, both on [0, 1]"


def completeness(scene: Scene, ours: Tensor, theirs: Tensor) -> str:
    with torch.no_grad():
        rise = float((scene.model(scene.x) - scene.model(torch.zeros_like(scene.x)))[0, scene.target])
    return f"delta {_delta(ours, rise):.1e}, the peer's {_delta(theirs, rise):.1e}, of a rise of {rise:.3g}"


def completeness_over_references(scene: Scene, ours: Tensor, theirs: Tensor) -> str:
    with torch.no_grad():
        rise = float((scene.model(scene.x) - scene.model(scene.references).mean(0))[0, scene.target])
    return f"delta {_delta(ours, rise):.1e}, the peer's {_delta(theirs, rise):.1e}, of a mean rise of {rise:.3g}"


def _delta(values: Tensor, rise: float) -> float:
    return abs(float(values.double().sum()) - rise)


def expected_error(scene: Scene, ours: Tensor, theirs: Tensor) -> str:
    return _to_reference(_expected(scene), ours, theirs)


@cache
def _expected(scene: Scene) -> Tensor:
    """What expected gradients estimate: the mean over the references of integrated gradients."""
    method, baseline = ll.IntegratedGradients(ll.Midpoint(32)), of_references(scene)
    return ll.explain(scene.model, scene.x, method, target=scene.target, baseline=baseline).values


def smooth_error(scene: Scene, ours: Tensor, theirs: Tensor) -> str:
    return _to_reference(_smooth(scene), ours, theirs)


@cache
def _smooth(scene: Scene) -> Tensor:
    method = ll.SmoothGrad(samples=256, antithetic=False)
    return ll.explain(scene.model, scene.x, method, target=scene.target, seed=12345).values


def _to_reference(reference: Tensor, ours: Tensor, theirs: Tensor) -> str:
    mine, other = (float((each - reference).norm() / reference.norm()) for each in (ours, theirs))
    return f"{mine:.2f} to the reference (L2), the peer's {other:.2f}"


ADAPTIVE = ll.IntegratedGradients(tolerance=TOLERANCE)
FIFTY = ll.IntegratedGradients(ll.Midpoint(50))
FIVE = (
    ll.Gradient(),
    ll.InputXGradient(),
    ll.GradCAM(),
    ll.IntegratedGradients(),
    ll.SmoothGrad(),
)
GRAD_CAM, LAYER_GRAD_CAM = peers.pytorch_grad_cam(), peers.layer_grad_cam()

CASES: tuple[Case, ...] = (
    *(Case("gradient", model, ll.Gradient(), (peers.saliency(),)) for model in BOTH),
    *(Case("input x gradient", model, ll.InputXGradient(), (peers.input_x_gradient(),), quick=False) for model in BOTH),
    *(Case("Grad-CAM", model, ll.GradCAM(), (GRAD_CAM,), error=rescaled, quick=model == LITE) for model in BOTH),
    *(Case("Grad-CAM, Captum's", model, ll.GradCAM(), (LAYER_GRAD_CAM,), quick=model == LITE) for model in BOTH),
    Case("IG, 50 midpoints", LITE, FIFTY, peers.integrated_gradients("riemann_middle", 50)),
    Case("IG, 50 midpoints", RESNET, FIFTY, peers.integrated_gradients("riemann_middle", 50), quick=False),
    Case(
        "IG, 50 Gauss-Legendre nodes",
        LITE,
        ll.IntegratedGradients(ll.GaussLegendre(50)),
        peers.integrated_gradients("gausslegendre", 50),
        quick=False,
    ),
    # Some two thousand rows a run on this model, so not for a quick one.
    Case("IG to 1%", LITE, ADAPTIVE, (peers.told_the_steps(TOLERANCE),), 2.0, completeness, quick=False),
    Case(
        "IG to 1%, nobody told",
        LITE,
        ADAPTIVE,
        (peers.doubling_the_steps(TOLERANCE),),
        2.0,
        completeness,
        quick=False,
    ),
    Case(
        "SmoothGrad, 32 samples",
        LITE,
        ll.SmoothGrad(),
        peers.noise_tunnel("smoothgrad", 32, 0.15),
        error=smooth_error,
    ),
    Case(
        "SmoothGrad squared, 32 samples",
        LITE,
        ll.SmoothGradSquared(),
        peers.noise_tunnel("smoothgrad_sq", 32, 0.15),
        error=no_error,
        quick=False,
    ),
    Case(
        "VarGrad, 32 samples",
        LITE,
        ll.VarGrad(),
        peers.noise_tunnel("vargrad", 32, 0.15),
        error=no_error,
        quick=False,
    ),
    Case(
        "expected gradients, 64 samples",
        LITE,
        ll.ExpectedGradients(),
        (peers.gradient_shap(64),),
        error=expected_error,
        baseline=of_references,
        quick=False,
    ),
    Case("occlusion 32/16", LITE, ll.Occlusion(), peers.occlusion(32, 16)),
    Case("occlusion 32/16", RESNET, ll.Occlusion(), peers.occlusion(32, 16), target=3.0, quick=False),
    # Captum's hooks cope with torchvision's reused, in-place ReLUs in these three: on resnet18 the maps are equal.
    Case("DeconvNet", RESNET, ll.DeconvNet(), (peers.deconvolution(),)),
    Case("guided backprop", RESNET, ll.GuidedBackprop(), (peers.guided_backprop(),)),
    Case("guided Grad-CAM", RESNET, ll.GuidedGradCAM(), (peers.guided_grad_cam(),)),
    # In DeepLIFT they do not: captum refuses resnet18, and gets a rewritten copy (peers.rewired). It also loses
    # completeness at the ReLU before max pooling, so each map is held against completeness, not against the other.
    Case("DeepLIFT", RESNET, ll.DeepLift(), (peers.deep_lift(),), 1.5, completeness),
    # shap's DeepExplainer would be the first peer for this one; shap is not installed.
    Case(
        "DeepSHAP, 6 references",
        RESNET,
        ll.DeepShap(),
        (peers.deep_lift_shap(),),
        error=completeness_over_references,
        baseline=of_references,
        quick=False,
    ),
    Case("LRP, epsilon-plus", RESNET, ll.LRP("epsilon-plus"), (peers.zennit_epsilon_plus(),), 1.0),
    Case("excitation backprop", RESNET, ll.ExcitationBackprop(), (peers.zennit_excitation(),), 1.0),
    Case("panel of five", LITE, FIVE, (peers.one_at_a_time(*FIVE),), target=1.0),
    Case("overhead, IG 50", LITE, FIFTY, (peers.bare_passes(FIFTY),), 1 / 1.05, no_error),
    Case(
        "overhead, IG 50, over its 50 rows alone",
        LITE,
        FIFTY,
        (peers.bare_passes(FIFTY, only_backward=True),),
        1 / 1.05,
        no_error,
        quick=False,
    ),
)

NO_CASE: dict[str, str] = {
    "deep-taylor": "no installed peer: zennit has its rules, but no composite that sets them as the paper does",
    "pattern-net": "no installed peer: captum and zennit do not estimate patterns",
    "pattern-attribution": "no installed peer: captum and zennit do not estimate patterns",
    "attn-lrp": "no installed peer: lxt, its authors' package, patches the model's classes and is not a dependency",
    "cplrp": "no installed peer: lxt, which has it too, patches the model's classes and is not a dependency",
}
"""Methods without a case, by name, each with the reason."""


def unaccounted() -> list[str]:
    """Methods of METHODS that have neither a case nor a reason to have none."""
    having = {method.kebab() for case in CASES for method in case.methods} | set(NO_CASE)
    return [method.kebab() for method in ll.METHODS if method.kebab() not in having]
