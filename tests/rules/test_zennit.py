"""LRP against zennit with its canonizers, on networks with random batch-norm statistics."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limelight.rules import composite, multipliers
from tests.rules.helpers import constant, logit, randomise_batch_norm

pytestmark = pytest.mark.long

torchvision = pytest.importorskip("torchvision")
zennit = pytest.importorskip("zennit")

from zennit.attribution import Gradient  # noqa: E402
from zennit.canonizers import SequentialMergeBatchNorm  # noqa: E402
from zennit.composites import (  # noqa: E402
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    LayerMapComposite,
    layer_map_base,
)
from zennit.rules import Epsilon, Gamma  # noqa: E402
from zennit.torchvision import ResNetCanonizer  # noqa: E402
from zennit.types import Linear  # noqa: E402


def theirs(name: str, canonizer: Any) -> Any:
    given = {"canonizers": [canonizer()]}
    return {
        "epsilon": lambda: LayerMapComposite(layer_map=[*layer_map_base(1e-6), (Linear, Epsilon())], **given),
        "gamma": lambda: LayerMapComposite(layer_map=[*layer_map_base(1e-6), (Linear, Gamma())], **given),
        "epsilon-plus": lambda: EpsilonPlus(**given),
        "epsilon-plus-flat": lambda: EpsilonPlusFlat(**given),
        "epsilon-alpha2-beta1": lambda: EpsilonAlpha2Beta1(**given),
        "epsilon-alpha2-beta1-flat": lambda: EpsilonAlpha2Beta1Flat(**given),
        "epsilon-gamma-box": lambda: EpsilonGammaBox(low=-3.0, high=3.0, **given),
    }[name]()


NAMES = ("epsilon", "gamma", "epsilon-plus", "epsilon-plus-flat", "epsilon-alpha2-beta1", "epsilon-alpha2-beta1-flat")


@pytest.mark.parametrize("name", [*NAMES, "epsilon-gamma-box"])
@pytest.mark.parametrize("model", ["resnet18", "vgg11_bn"])
def test_equal_to_zennit(model: str, name: str) -> None:
    torch.manual_seed(0)
    network: nn.Module = getattr(torchvision.models, model)(num_classes=10)
    if model == "vgg11_bn":  # the same depth with a smaller classifier, for the sake of time
        network.classifier = nn.Sequential(nn.Flatten(), nn.Linear(512 * 49, 32), nn.ReLU(), nn.Linear(32, 10))
    network = randomise_batch_norm(network).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0  # zennit's merge counts eps twice (its merged module keeps dividing by sqrt(1 + eps))
    x = constant(2, 3, 32, 32, seed=1).clamp(-3, 3)

    def score(out: Tensor) -> Tensor:
        return torch.zeros_like(out).index_fill(1, torch.tensor(3), 1.0) * out

    with Gradient(
        model=network, composite=theirs(name, SequentialMergeBatchNorm if model == "vgg11_bn" else ResNetCanonizer)
    ) as run:
        expected = run(x.clone().requires_grad_(), score)[1]
    absolute = multipliers(
        logit(network, 3), x, composite(name, -3.0, 3.0).tuned(relative=False)
    )  # zennit's stabiliser
    assert (absolute.values - expected).abs().max() <= 1e-8 * expected.abs().max()
    assert not absolute.notes
    # At usual scales ours differs little: by up to 3e-4, and 1e-2 under plain epsilon, which amplifies.
    found = multipliers(logit(network, 3), x, composite(name, -3.0, 3.0))
    assert (found.values - expected).abs().max() <= (2e-2 if name == "epsilon" else 1e-3) * expected.abs().max()
