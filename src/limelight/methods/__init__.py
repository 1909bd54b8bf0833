"""Every method, and METHODS, the one registry that tests, command line, page, docs and benchmark read."""

from ..base.named import Registry
from .at_layer import AtLayer as AtLayer
from .backward import (
    CPLRP as CPLRP,
    LRP as LRP,
    AttnLRP as AttnLRP,
    DeepLift as DeepLift,
    DeepShap as DeepShap,
    DeepTaylor as DeepTaylor,
    ExcitationBackprop as ExcitationBackprop,
    PatternAttribution as PatternAttribution,
    PatternNet as PatternNet,
)
from .base import Estimate as Estimate, Method as Method, Needs as Needs
from .cam import (
    GradCAM as GradCAM,
    GradCAMPlusPlus as GradCAMPlusPlus,
    HiResCAM as HiResCAM,
    LayerCAM as LayerCAM,
    XGradCAM as XGradCAM,
)
from .cam_forward import (
    CAM as CAM,
    SSCAM as SSCAM,
    AblationCAM as AblationCAM,
    EigenCAM as EigenCAM,
    EigenGradCAM as EigenGradCAM,
    ScoreCAM as ScoreCAM,
)
from .expected_gradients import ExpectedGradients as ExpectedGradients
from .finer_cam import FinerCAM as FinerCAM
from .full_gradient import FullGrad as FullGrad
from .gradient import (
    Gradient as Gradient,
    InputXGradient as InputXGradient,
    TaylorDecomposition as TaylorDecomposition,
)
from .guided import DeconvNet as DeconvNet, GuidedBackprop as GuidedBackprop, GuidedGradCAM as GuidedGradCAM
from .guided_path import GuidedIntegratedGradients as GuidedIntegratedGradients
from .idgi import IDGI as IDGI
from .interactions import ShapleyInteractions as ShapleyInteractions
from .kernel_shap import KernelShap as KernelShap
from .layer_path import Conductance as Conductance, InternalInfluence as InternalInfluence
from .lime import Lime as Lime
from .occlusion import FeatureAblation as FeatureAblation, Occlusion as Occlusion
from .partition import PartitionShap as PartitionShap
from .path import (
    BlurIntegratedGradients as BlurIntegratedGradients,
    IntegratedGradients as IntegratedGradients,
)
from .perturbation import (
    ExtremalPerturbation as ExtremalPerturbation,
    MeaningfulPerturbation as MeaningfulPerturbation,
)
from .quadrature import (
    GaussLegendre as GaussLegendre,
    Midpoint as Midpoint,
    Quadrature as Quadrature,
    RiemannLeft as RiemannLeft,
    RiemannRight as RiemannRight,
    Trapezoid as Trapezoid,
)
from .rise import RISE as RISE
from .shapley import (
    ExactShapley as ExactShapley,
    PermutationShap as PermutationShap,
    ShapleySampling as ShapleySampling,
)
from .windows import WINDOWS as WINDOWS, Circle as Circle, Window as Window, WindowMask as WindowMask
from .wrap import SmoothGrad as SmoothGrad, SmoothGradSquared as SmoothGradSquared, VarGrad as VarGrad
from .xrai import XRAI as XRAI

METHODS: Registry[Method] = Registry(
    "method",
    Method,
    (
        *(Gradient, InputXGradient, IntegratedGradients, ExpectedGradients, BlurIntegratedGradients),
        *(GuidedIntegratedGradients, IDGI, XRAI, AtLayer, Conductance, InternalInfluence, TaylorDecomposition),
        *(SmoothGrad, SmoothGradSquared, VarGrad),
        *(DeconvNet, GuidedBackprop, DeepLift, DeepShap, LRP, DeepTaylor),
        *(PatternNet, PatternAttribution, ExcitationBackprop, AttnLRP, CPLRP),
        *(CAM, FullGrad, GradCAM, GuidedGradCAM, GradCAMPlusPlus, XGradCAM, HiResCAM, LayerCAM),
        *(EigenCAM, EigenGradCAM, FinerCAM, ScoreCAM, SSCAM, AblationCAM),
        *(Occlusion, FeatureAblation, RISE, MeaningfulPerturbation, ExtremalPerturbation),
        *(ExactShapley, KernelShap, ShapleySampling, PermutationShap, PartitionShap),
        *(ShapleyInteractions, Lime),
    ),
    "smooth-grad(samples=8)",
    {
        "saliency": "gradient",
        "noise-tunnel": "smooth-grad",
        "lrp-epsilon": "lrp",
        "vanilla-gradient": "gradient",
        "gradient-shap": "expected-gradients",
        "blur-ig": "blur-integrated-gradients",
        "guided-ig": "guided-integrated-gradients",
        "shap": "kernel-shap",
        "shapley": "exact-shapley",
        "deconvolution": "deconv-net",
        "grad-cam++": "grad-cam-plus-plus",
        "sliding-window": "occlusion",
        "layer-wise-relevance-propagation": "lrp",
    },
)

QUADRATURES: Registry[Quadrature] = Registry(
    "quadrature", Quadrature, (GaussLegendre, Midpoint, RiemannLeft, RiemannRight, Trapezoid), "midpoint(16)"
)
