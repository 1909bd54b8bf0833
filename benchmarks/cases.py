"""The cases, as data. A new method adds its line here, or a reason to NO_CASE."""

from __future__ import annotations

from functools import cache

import torch
from captum import attr
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


def difference_in_the_mean(scene: Scene, ours: Tensor, theirs: Tensor) -> str:
    """Two samples of one estimate: L2 distance, without each map's mean, over the spread."""
    mine, other = (each.double() - each.double().mean() for each in (ours, theirs))
    return f"{float((mine - other).norm() / other.norm()):.2f} apart (L2, of the peer's spread)"


ADAPTIVE = ll.IntegratedGradients(ll.Midpoint(32), tolerance=TOLERANCE)
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
    *(Case("gradient", m, ll.Gradient(), (peers.saliency(),), 1.25 if m == LITE else 1.2) for m in BOTH),
    *(Case("input x gradient", model, ll.InputXGradient(), (peers.input_x_gradient(),), quick=False) for model in BOTH),
    *(Case("Grad-CAM", model, ll.GradCAM(), (GRAD_CAM,), error=rescaled, quick=model == LITE) for model in BOTH),
    *(
        Case(name, model, ll.GradCAM(), (LAYER_GRAD_CAM,), target, quick=model == LITE, at_layer=at_layer)
        for model in BOTH
        for name, target, at_layer in (
            ("Grad-CAM at Captum's layer", 1.2, True),
            ("Grad-CAM, which finds it", 1.0, False),
        )
    ),
    *(
        Case(name, RESNET, method, (peers.pytorch_grad_cam(peer),), target, rescaled, quick=False)
        for name, method, peer, target in (
            ("HiResCAM", ll.HiResCAM(), "HiResCAM", 1.0),
            ("LayerCAM", ll.LayerCAM(), "LayerCAM", 1.0),
            ("XGradCAM", ll.XGradCAM(), "XGradCAM", 1.0),
            ("Grad-CAM++", ll.GradCAMPlusPlus(), "GradCAMPlusPlus", 1.0),
            ("EigenCAM", ll.EigenCAM(), "EigenCAM", 1.0),
            ("ScoreCAM", ll.ScoreCAM(), "ScoreCAM", 1.3),
            ("AblationCAM", ll.AblationCAM(), "AblationCAM", 10.0),
            ("FullGrad, as published", ll.FullGrad(signed=False), "FullGrad", 2.0),
        )
    ),
    Case("IG, 50 midpoints", LITE, FIFTY, peers.integrated_gradients("riemann_middle", 50), 1.5),
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
        1.4,
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
    # Ours is at the input's size and the peer's at the layer's: what they share is the sum.
    Case(
        "layer IG, 32 nodes",
        RESNET,
        ll.AtLayer(ll.IntegratedGradients()),
        (peers.layer_integrated_gradients(32),),
        error=completeness,
        quick=False,
    ),
    Case("occlusion 32/16", LITE, ll.Occlusion(), peers.occlusion(32, 16), target=2.1),
    Case("occlusion 32/16", RESNET, ll.Occlusion(), peers.occlusion(32, 16), target=2.3, quick=False),
    Case("occlusion 32/16", "resnet50", ll.Occlusion(), peers.occlusion(32, 16), target=3.0, quick=False),
    Case("occlusion 32/16", "vgg16", ll.Occlusion(), peers.occlusion(32, 16), target=8.0, quick=False),
    Case("feature ablation, 14 x 14", LITE, ll.FeatureAblation(), peers.feature_ablation(14), target=1.35, quick=False),
    # The plain form, so that the maps estimate the same; each draws its own masks.
    Case(
        "RISE, 500 masks",
        LITE,
        ll.RISE(500, centred=False),
        (peers.rise(500, 7, 0.5),),
        error=difference_in_the_mean,
        quick=False,
    ),
    # The same rows for both; what they buy in accuracy is in the table of games.
    Case(
        "KernelSHAP, 196 players, 512 samples",
        LITE,
        ll.KernelShap(512),
        peers.captum_game(attr.KernelShap, 512),
        1.35,
        no_error,
        quick=False,
    ),
    Case(
        "Shapley sampling, 196 players, 2 orders",
        LITE,
        ll.ShapleySampling(2),
        peers.captum_game(attr.ShapleyValueSampling, 2),
        1.35,
        no_error,
        quick=False,
    ),
    Case(
        "LIME, 196 players, 500 samples",
        LITE,
        ll.Lime(500),
        peers.captum_game(attr.Lime, 500),
        1.35,
        no_error,
        quick=False,
    ),
    # Captum's hooks cope with torchvision's reused, in-place ReLUs in these three: on resnet18 the maps are equal.
    Case("DeconvNet", RESNET, ll.DeconvNet(), (peers.deconvolution(),), 1.15),
    Case("guided backprop", RESNET, ll.GuidedBackprop(), (peers.guided_backprop(),), 1.15),
    Case("guided Grad-CAM", RESNET, ll.GuidedGradCAM(), (peers.guided_grad_cam(),)),
    # In DeepLIFT they do not: captum refuses resnet18, and gets a rewritten copy (peers.rewired). It also loses
    # completeness at the ReLU before max pooling, so each map is held against completeness, not against the other.
    Case("DeepLIFT", RESNET, ll.DeepLift(), (peers.deep_lift(),), 1.5, completeness),
    *(
        Case(
            name,
            RESNET,
            ll.DeepShap(),
            (peer,),
            error=completeness_over_references,
            baseline=of_references,
            quick=False,
        )
        for name, peer in (
            ("DeepSHAP, 6 references", peers.deep_lift_shap()),
            ("DeepSHAP, 6 references, shap's", peers.shap_deep()),
        )
    ),
    Case("LRP, epsilon-plus", RESNET, ll.LRP("epsilon-plus"), (peers.zennit_epsilon_plus(),), 1.8),
    Case("excitation backprop", RESNET, ll.ExcitationBackprop(), (peers.zennit_excitation(),), 1.0),
    # No peer has these as published; the ratio is the share of the time that goes into the bare model's passes.
    *(
        Case(method.kebab(), model, method, (peers.bare_passes(method),), 0.0, no_error, quick=False)
        for method, model in ((ll.DeepTaylor(), RESNET), (ll.AttnLRP(), "swin_t"), (ll.CPLRP(), "swin_t"))
    ),
    Case("panel of five", LITE, FIVE, (peers.one_at_a_time(*FIVE),), target=1.0),
    Case("overhead, IG 50", LITE, FIFTY, (peers.bare_passes(FIFTY),), 1 / 1.05, no_error),
    # What a layout would save that we leave alone, because it flips units at their kinks (docs/decisions/0005).
    Case(
        "overhead, IG 50, over channels-last rows",
        LITE,
        FIFTY,
        (peers.bare_passes(FIFTY, channels_last=True),),
        1 / 1.05,
        no_error,
        quick=False,
    ),
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
    "cam": "no installed peer: pytorch-grad-cam has none",
    "blur-integrated-gradients": "no installed peer: captum has none; saliency, its authors', is no dependency",
    "guided-integrated-gradients": "no installed peer: captum has none; saliency, as above",
    "idgi": "no installed peer: captum has none",
    "xrai": "no installed peer: captum has none; saliency, as above",
    "conductance": "no case yet: captum's LayerConductance takes other nodes, so that its error differs as well",
    "internal-influence": "no case yet: equal to captum's in tests/test_peers.py",
    "eigen-grad-cam": "no case yet: equal to pytorch-grad-cam's in tests/test_peers.py; the time is Grad-CAM's",
    "finer-cam": "no case: pytorch-grad-cam's weighs the other classes by probability, ours takes a pass for each",
    "sscam": "no installed peer: captum and pytorch-grad-cam have none; the time is Score-CAM's times the samples",
    "taylor-decomposition": "no installed peer: captum has none",
    "meaningful-perturbation": "no installed peer: captum has none; TorchRay, its authors', is no dependency",
    "extremal-perturbation": "no installed peer: captum has none; TorchRay, as above",
    "exact-shapley": "the reference of the table of games; no peer evaluates every coalition once",
    "permutation-shap": "no case yet: shap's wants maskers of its own; its intervals are in the table of games",
    "partition-shap": "no case yet: shap's wants maskers of its own",
    "shapley-interactions": "no installed peer for any model: shap's are of trees; exact values by definition in tests",
    "pattern-net": "no installed peer: captum and zennit do not estimate patterns",
    "pattern-attribution": "no installed peer: captum and zennit do not estimate patterns",
}
"""Methods without a case, by name, each with the reason."""


def unaccounted() -> list[str]:
    """Methods of METHODS that have neither a case nor a reason to have none."""
    having = {method.kebab() for case in CASES for method in case.methods} | set(NO_CASE)
    return [method.kebab() for method in ll.METHODS if method.kebab() not in having]
