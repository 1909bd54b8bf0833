"""Every target under every method by rules: no operator of limelight's own is ever uncovered."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.methods import METHODS
from limelight.methods.backward import Backward, PatternMethod
from limelight.question.output_targets import Function
from limelight.question.registries import TARGETS
from tests.networks import conv_net, pictures

D = torch.float64
X = pictures(2)
BASELINE = torch.full((1, 3, 8, 8), 0.4, dtype=D)


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(torch.relu(self.stem(x)))}


class Detector(nn.Module):
    """Six boxes in pixels, with a score for each of three classes; `form` says how they are returned."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.stem, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6 * 16, 6 * 8)

    def forward(self, x: Tensor) -> Any:
        features = F.max_pool2d(torch.relu(self.stem(x)), 2).flatten(1)
        raw = self.head(features).unflatten(1, (6, 8))
        centre, sides = 8 * raw[..., :2].sigmoid(), 1 + 4 * raw[..., 2:4].sigmoid()
        scores, objectness = raw[..., 4:7].sigmoid(), raw[..., 7:].sigmoid()
        if self.form == "torchvision":
            boxes = torch.cat([centre - sides / 2, centre + sides / 2], -1)
            best, labels = scores.max(-1)
            return [{"boxes": b, "scores": s, "labels": c} for b, s, c in zip(boxes, best, labels, strict=True)]
        if self.form == "detr":
            return {"logits": raw[..., 4:], "pred_boxes": torch.cat([centre, sides], -1) / 8}
        return torch.cat([centre, sides, objectness, scores], -1)


LABELS = {"reduction": "none"}
CASES: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "logit": (conv_net, ll.Logit(2)),
    "top class": (conv_net, None),
    "probability": (conv_net, ll.Probability(2)),
    "log-probability": (conv_net, ll.LogProbability(2)),
    "margin": (conv_net, ll.Margin(2)),
    "margin of two": (conv_net, ll.Margin(2, other=0)),
    "centred-logit": (conv_net, ll.CentredLogit(2)),
    "region": (Segmenter, ll.Region(torch.eye(8), 1)),
    "region, mean": (Segmenter, ll.Region(torch.eye(8), 1, "mean")),
    "box": (lambda: Detector("torchvision"), ll.Box(2, 2, 6, 6)),
    "box of a class": (lambda: Detector("yolo-objectness"), ll.Box(2, 2, 6, 6, label=1, format="yolo-objectness")),
    "box with a vector": (
        lambda: Detector("yolo-objectness"),
        ll.Box(2, 2, 6, 6, vector=[0.2, 0.9, 0.4], format="yolo-objectness"),
    ),
    "box, detr": (lambda: Detector("detr"), ll.Box(2, 2, 6, 6, label=1)),
    "detection": (lambda: Detector("detr"), ll.Detection(1)),
    "detection, torchvision": (lambda: Detector("torchvision"), ll.Detection(None)),
    "similarity": (conv_net, ll.Similarity([0.3, -1.0, 0.5, 2.0, 0.1])),
    "neuron": (conv_net, ll.Neuron("body", (1, 2, 3))),
    "neuron, mean": (conv_net, ll.Neuron("stem", channel=1)),
    "neuron, max": (conv_net, ll.Neuron("stem", channel=1, pooling="max")),
    "function": (conv_net, lambda z: z.square().sum(1)),
    "predictive entropy": (conv_net, ll.PredictiveEntropy()),
    "next token": (conv_net, ll.NextToken(1)),
    "cross_entropy": (conv_net, lambda z: F.cross_entropy(z, torch.full((len(z),), 1), reduction="none")),
    "nll_loss": (conv_net, lambda z: F.nll_loss(z.log_softmax(1), torch.full((len(z),), 1), reduction="none")),
    "cross_entropy, module": (conv_net, lambda z: nn.CrossEntropyLoss(**LABELS)(z, torch.full((len(z),), 1))),
    "binary_cross_entropy_with_logits": (
        conv_net,
        lambda z: F.binary_cross_entropy_with_logits(z, torch.full_like(z, 0.3), reduction="none").sum(1),
    ),
    "binary_cross_entropy": (
        conv_net,
        lambda z: F.binary_cross_entropy(z.sigmoid(), torch.full_like(z, 0.3), reduction="none").mean(1),
    ),
    "mse_loss": (conv_net, lambda z: F.mse_loss(z, torch.ones_like(z), reduction="none").mean(1)),
    "l1_loss": (conv_net, lambda z: F.l1_loss(z, torch.ones_like(z), reduction="none").mean(1)),
    "smooth_l1_loss": (conv_net, lambda z: F.smooth_l1_loss(z, torch.ones_like(z), reduction="none").sum(1)),
    "huber_loss": (conv_net, lambda z: F.huber_loss(z, torch.ones_like(z), reduction="none").sum(1)),
    "kl_div": (conv_net, lambda z: F.kl_div(z.log_softmax(1), torch.full_like(z, 0.2), reduction="none").sum(1)),
    "cosine_similarity": (conv_net, lambda z: F.cosine_similarity(z, torch.arange(5.0, dtype=D)[None])),
    "pairwise_distance": (conv_net, lambda z: F.pairwise_distance(z, torch.arange(5.0, dtype=D)[None])),
    "norm": (conv_net, lambda z: z.norm(dim=1)),
    "entropy": (conv_net, lambda z: -(z.softmax(1) * z.log_softmax(1)).sum(1)),
    "a maximum": (conv_net, lambda z: z[:, :3].amax(1) - torch.maximum(z[:, 3], z[:, 4])),
}
RULES = [kind for kind in METHODS if issubclass(kind, Backward)]
# Constants of what CP-LRP holds constant leave nothing to explain: it says so.
_SOFTMAX_ALONE = ("takes the output of", "no other way to the input")


def _method(kind: type[Backward], model: nn.Module) -> Backward:
    if issubclass(kind, PatternMethod):
        return kind(patterns=ll.estimate_patterns(model, [pictures(16, seed=11)]))
    return kind()


def test_every_target_has_a_case() -> None:
    covered = {type(target) for _, target in CASES.values()}
    of_texts = {ll.Continuation}  # needs a model of texts: tests/test_texts.py
    assert {kind for kind in TARGETS if kind is not Function} - of_texts <= covered
    assert any(callable(target) and not isinstance(target, ll.Target) for _, target in CASES.values())


@pytest.mark.parametrize("name", CASES)
def test_every_target_under_every_method_by_rules(name: str) -> None:
    build, target = CASES[name]
    model = build().double().eval()
    for kind in RULES:
        method = _method(kind, model)
        layer = "stem" if kind is ll.GuidedGradCAM else None
        try:
            found = ll.explain(model, X, method, target=target, baseline=BASELINE, layer=layer)
        except ValueError as error:
            assert kind is ll.CPLRP and all(each in str(error) for each in _SOFTMAX_ALONE), (name, kind)
            continue
        assert found.values.shape == X.shape or kind is ll.ExcitationBackprop
        assert found.values.isfinite().all(), (name, kind)
        assert not [note for note in found.notes if "plain gradient used" in note]
        gradient = ll.explain(model, X, "gradient", target=target)
        torch.testing.assert_close(found.score, gradient.score, rtol=1e-10, atol=1e-12)
    for rule in ("rescale", "reveal-cancel", "genomics"):
        found = ll.explain(model, X, ll.DeepLift(rule), target=target, baseline=BASELINE)
        assert found.delta is not None
        torch.testing.assert_close(found.delta, torch.zeros(2, dtype=D), atol=1e-9, rtol=0)


OWN = [name for name, (_, target) in CASES.items() if isinstance(target, ll.Target) and target.layer is None]


@pytest.mark.parametrize("name", [name for name in OWN if CASES[name][0] is conv_net])
@pytest.mark.parametrize("method", [ll.GuidedBackprop(), ll.DeconvNet()], ids=repr)
def test_rectifier_rules_start_from_the_targets_gradient(method: ll.Method, name: str) -> None:
    """Seen from the network, a target is the linear function of its outputs that its gradient is."""
    _, target = CASES[name]
    model = conv_net()
    for x in X.split(1):
        outputs = model(x).detach().requires_grad_()
        (slope,) = torch.autograd.grad(target(outputs, torch.tensor([0])).sum(), outputs)
        expected = ll.explain(model, x, method, target=lambda z: (z * slope).sum(1)).values  # noqa: B023
        torch.testing.assert_close(ll.explain(model, x, method, target=target).values, expected)


@pytest.mark.parametrize("form", ["torchvision", "yolo-objectness", "detr"])
def test_rectifier_rules_start_from_the_gradient_of_a_boxs_overlap(form: str) -> None:
    """The clamp and maximum in the overlap of two boxes are no rectifiers of the network."""
    model, x = Detector(form).double().eval(), X[:1]
    target = ll.Box(2, 2, 6, 6, format="yolo-objectness" if form.startswith("yolo") else None).fitted((3, 8, 8))
    found = ll.explain(model, x, "guided-backprop", target=target).values

    class Linear(nn.Module):
        """The head's outputs under the gradient of the target with respect to them."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = model.stem

        def forward(self, x: Tensor) -> Tensor:
            features = F.max_pool2d(torch.relu(self.stem(x)), 2).flatten(1)
            return (features * slope).sum(1, keepdim=True)

    features = F.max_pool2d(torch.relu(model.stem(x)), 2).flatten(1).detach().requires_grad_()
    whole = replace_stem(model, features)
    (slope,) = torch.autograd.grad(target(whole, torch.tensor([0])).sum(), features)
    torch.testing.assert_close(found, ll.explain(Linear(), x, "guided-backprop", target=0).values)


def replace_stem(model: Detector, features: Tensor) -> Any:
    """Run the detector from its features on."""

    class Passing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return features.unflatten(1, (6, 4, 4)).repeat_interleave(2, 2).repeat_interleave(2, 3)

    stem, model.stem = model.stem, Passing()  # type: ignore[assignment]
    try:
        return model(X[:1])
    finally:
        model.stem = stem


@pytest.mark.parametrize("method", [ll.LRP("epsilon"), ll.AttnLRP(), ll.CPLRP()], ids=repr)
def test_relevance_of_a_similarity_is_that_of_its_numerator(method: ll.Method) -> None:
    reference = torch.tensor([0.3, -1.0, 0.5, 2.0, 0.1], dtype=D)
    model = conv_net()
    for x in X.split(1):
        length = model(x).detach().norm() * reference.norm()
        expected = ll.explain(model, x, method, target=lambda z: (z * reference).sum(1) / length).values  # noqa: B023
        found = ll.explain(model, x, method, target=ll.Similarity(reference)).values
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)


# A constant that the target subtracts takes relevance as a bias does.
_SUBTRACTING = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "pairwise_distance")


@pytest.mark.parametrize("name", [name for name in CASES if name not in _SUBTRACTING])
def test_relevance_starts_from_the_score_or_the_notes_say_what_softmax_kept(name: str) -> None:
    """Without biases below it, all relevance arrives: through products, quotients, maxima and losses in the target."""
    build, target = CASES[name]
    if build is not conv_net or (isinstance(target, ll.Target) and target.layer):
        return
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 9, bias=False), nn.ReLU(), nn.Linear(9, 5, bias=False)).double()
    found = ll.explain(model, X, ll.LRP("zero"), target=target)
    kept = found.score - found.values.flatten(1).sum(1)
    absorbed = [note for note in found.notes if "softmax took" in note]
    assert absorbed or kept.abs().max() <= 1e-3 * found.score.abs().max(), (kept, found.score)
