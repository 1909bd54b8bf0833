"""Targets and baselines by their definitions."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.question.baselines import Constant
from limelight.question.random_streams import Streams

from .networks import PATTERNS, conv_net, pictures

D = torch.float64


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (2, lambda z: z[:, 2]),
        ([1, 0, 4], lambda z: z[torch.arange(3), [1, 0, 4]]),
        (torch.tensor([1, 0, 4]), lambda z: z[torch.arange(3), [1, 0, 4]]),
        (None, lambda z: z.amax(1)),
        (ll.Logit(2), lambda z: z[:, 2]),
        (ll.Probability(2), lambda z: z.softmax(1)[:, 2]),
        (ll.Probability(), lambda z: z.softmax(1).amax(1)),
        (ll.LogProbability(2), lambda z: z.log_softmax(1)[:, 2]),
        (ll.Margin(2), lambda z: z[:, 2] - z[:, [0, 1, 3, 4]].amax(1)),
        (ll.Margin(2, other=4), lambda z: z[:, 2] - z[:, 4]),
        (ll.Margin(), lambda z: z.topk(2).values @ torch.tensor([1.0, -1.0], dtype=D)),
        (ll.CentredLogit(2), lambda z: z[:, 2] - z.mean(1)),
        (ll.Similarity(torch.arange(5.0)), lambda z: F.cosine_similarity(z, torch.arange(5.0, dtype=D)[None])),
        (lambda z: (z**2).sum(1), lambda z: (z**2).sum(1)),
    ],
    ids=[f"target {i}" for i in range(14)],
)
def test_scores_and_gradients_of_class_targets(target: Any, expected: Any) -> None:
    net, x = conv_net(), pictures().requires_grad_()
    score = expected(net(x))
    (gradient,) = torch.autograd.grad(score.sum(), x)
    a = ll.explain(net, x, "gradient", target=target)
    torch.testing.assert_close(a.score, score.detach())
    torch.testing.assert_close(a.values, gradient)


RULES = (
    ll.DeepLift(),
    ll.DeepLift("reveal-cancel"),
    ll.DeepShap(),
    ll.LRP(),
    ll.AttnLRP(),
    ll.CPLRP(),
    ll.DeepTaylor(),
    ll.DeconvNet(),
    ll.GuidedBackprop(),
    ll.ExcitationBackprop(),
    ll.PatternNet(PATTERNS),
    ll.PatternAttribution(PATTERNS),
)


@pytest.mark.parametrize("method", RULES, ids=repr)
def test_the_rival_of_a_margin_is_a_maximum_with_a_rule(method: ll.Method) -> None:
    net, x, classes = conv_net(), pictures(), (0, 3, 1)
    rivals = net(x).scatter(1, torch.tensor(classes)[:, None], -torch.inf).argmax(1).tolist()
    for rows_per_pass in (None, 1):
        a = ll.explain(net, x, method, target=ll.Margin(classes), rows_per_pass=rows_per_pass)
        for i, (own, other) in enumerate(zip(classes, rivals, strict=True)):
            alone = ll.explain(net, x[i : i + 1], method, target=ll.Margin(own))
            torch.testing.assert_close(a.values[i : i + 1], alone.values, atol=1e-12, rtol=1e-9)
            if not method.needs.baseline:  # with a baseline the rival there counts too
                fixed = ll.explain(net, x[i : i + 1], method, target=ll.Margin(own, other=other))
                torch.testing.assert_close(alone.values, fixed.values, atol=1e-12, rtol=1e-9)


def test_a_margin_is_complete_where_the_baselines_rival_is_another() -> None:
    net, x, classes = conv_net(), pictures(), (0, 3, 1)
    baseline = 3 * torch.randn(1, 3, 8, 8, dtype=D, generator=torch.Generator().manual_seed(1))
    own = torch.tensor(classes)[:, None]
    at_x, at_baseline = (net(each).expand(3, -1).scatter(1, own, -torch.inf).argmax(1) for each in (x, baseline))
    assert bool((at_x != at_baseline).any()) and len(set(at_baseline.tolist())) > 1
    for rule in ("rescale", "reveal-cancel"):
        a = ll.explain(net, x, ll.DeepLift(rule), target=ll.Margin(classes), baseline=baseline)
        torch.testing.assert_close(a.delta, torch.zeros(3, dtype=D), atol=1e-12, rtol=0)


@pytest.mark.parametrize("wrap", [lambda z: {"logits": z}, lambda z: SimpleNamespace(logits=z), lambda z: {"out": z}])
def test_outputs_are_kept_whatever_holds_them(wrap: Callable[[Tensor], Any]) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net()

        def forward(self, x: Tensor) -> Any:
            return wrap(self.net(x))

    for method in ("gradient", "occlusion(4, 4)", "deep-lift", "deep-shap", "lrp"):
        outputs = ll.explain(Wrapped(), pictures(), method, target=1).outputs
        assert outputs is not None and not outputs.requires_grad
        torch.testing.assert_close(outputs, conv_net()(pictures()).detach())


def test_outputs_that_are_no_vectors_are_not_kept() -> None:
    x, first = pictures(2), lambda outputs: outputs[0].flatten(1).sum(1)
    pair, maps = ll.Differentiable(lambda x: (x.mean((2, 3)), x)), ll.Differentiable(lambda x: {"out": x})
    for method in ("gradient", "lrp"):
        assert ll.explain(pair, x, method, target=first).outputs is None
        assert ll.explain(maps, x, method, target=ll.Region(torch.ones(8, 8), 1)).outputs is None


def test_deep_shap_of_outputs_that_are_no_tensor() -> None:
    def maps(x: Tensor) -> dict[str, Tensor]:
        return {"out": (x * x).relu()}

    mask = torch.zeros(3, 8, 8)
    for i in range(3):
        mask[i, i:] = 1
    for target in (ll.Region(mask, 1), ll.Region(mask[1], 1)):
        a, b = (ll.explain(ll.Differentiable(maps), pictures(), m, target=target) for m in ("deep-shap", "deep-lift"))
        torch.testing.assert_close(a.values, b.values)
        torch.testing.assert_close(a.delta, torch.zeros(3, dtype=D))
    pair = ll.Differentiable(lambda x: ((x * x).mean((2, 3)), x))
    a = ll.explain(pair, pictures(), "deep-shap", target=lambda outputs: outputs[0][:, 1])
    torch.testing.assert_close(a.delta, torch.zeros(3, dtype=D))


def test_centred_logits_worked_numbers() -> None:
    # Contributions (1,1,0,-1) and (1,0,1,-3) to two classes: what the first has of its own is (0,.5,-.5,1).
    net = nn.Linear(4, 2, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 1, 0, -1], [1, 0, 1, -3]]))
    a = ll.explain(net, torch.ones(1, 4, dtype=D), "integrated-gradients", target=ll.CentredLogit(0))
    torch.testing.assert_close(a.values, torch.tensor([[0, 0.5, -0.5, 1]], dtype=D))


def test_one_output_models_need_no_target() -> None:
    net = nn.Linear(3, 1).double()
    x = torch.rand(2, 3, dtype=D)
    assert ll.explain(net, x, "gradient").target.tolist() == [0, 0]
    squeezed = ll.Differentiable(lambda x: net(x)[:, 0])
    torch.testing.assert_close(ll.explain(squeezed, x, "gradient").values, net.weight.detach().expand(2, 3))
    a = ll.explain(net, x, "gradient", target=ll.Probability(0))
    torch.testing.assert_close(a.score, net(x).detach().sigmoid()[:, 0])


def test_region_sums_a_class_over_a_mask() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1)).double()
    x, mask = pictures(2), torch.zeros(2, 8, 8)
    mask[0, :4], mask[1, :, 5:] = 1, 1
    out = net(x).detach()
    a = ll.explain(net, x, "gradient", target=ll.Region(mask, 3))
    torch.testing.assert_close(a.score, torch.stack([out[0, 3, :4].sum(), out[1, 3, :, 5:].sum()]))
    assert (a.values[0, :, 4:] == 0).all() and (a.values[0, :, :4] != 0).all()
    mean = ll.explain(net, x, "gradient", target=ll.Region(mask[0], 3, reduction="mean"))
    torch.testing.assert_close(mean.score, out[:, 3, :4].mean((1, 2)))
    nested = ll.Differentiable(lambda x: {"out": net(x)})
    torch.testing.assert_close(ll.explain(nested, x, "gradient", target=ll.Region(mask, 3)).score, a.score)


class Detector(nn.Module):
    """Finds two fixed boxes whose scores depend on the pixels inside; the second only in bright pictures."""

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        found = []
        for picture in x:
            boxes = torch.tensor([[0.0, 0, 4, 4], [4, 4, 8, 8]], dtype=x.dtype)
            scores = torch.stack([picture[:, :4, :4].mean(), picture[:, 4:, 4:].mean()])
            keep = torch.tensor([True, bool(picture.mean() > 0.2)])
            found.append({"boxes": boxes[keep], "scores": scores[keep], "labels": torch.tensor([1, 2])[keep]})
        return found


def test_box_weighs_score_by_overlap_and_class() -> None:
    x = pictures(2)
    a = ll.explain(Detector(), x, "gradient", target=ll.Box([0.0, 0, 4, 2], label=1))
    torch.testing.assert_close(a.score, 0.5 * x[:, :, :4, :4].mean((1, 2, 3)))  # intersection 8 of union 16
    assert (a.values[:, :, 4:] == 0).all() and (a.values[:, :, :4, :4] > 0).all()
    per_example = ll.Box([[0.0, 0, 4, 4], [4, 4, 8, 8]])
    expected = torch.stack([x[0, :, :4, :4].mean(), x[1, :, 4:, 4:].mean()])
    torch.testing.assert_close(ll.explain(Detector(), x, "gradient", target=per_example).score, expected)
    assert ll.explain(Detector(), x, "gradient", target=ll.Box([0.0, 0, 4, 4], label=2)).score.tolist() == [0, 0]


def test_box_in_a_batched_detector_and_one_that_finds_nothing() -> None:
    boxes = torch.tensor([[[0.0, 0, 4, 4]]], dtype=D)

    def detector(x: Tensor) -> dict[str, Tensor]:
        score = x.mean((1, 2, 3))[:, None, None] * torch.tensor([0.25, 0.75], dtype=D)
        return {"boxes": boxes.expand(len(x), 1, 4), "scores": score}

    x = pictures(2)
    a = ll.explain(ll.Differentiable(detector), x, "gradient", target=ll.Box([0.0, 0, 4, 4], label=1))
    torch.testing.assert_close(a.score, 0.75 * x.mean((1, 2, 3)))

    def blind(x: Tensor) -> list[dict[str, Tensor]]:
        return [{"boxes": p[0, :0, :4], "scores": p[0, :0, 0], "labels": torch.zeros(0)} for p in x]

    assert ll.explain(ll.Differentiable(blind), x, "gradient", target=ll.Box([0.0, 0, 4, 4])).score.tolist() == [0, 0]


def test_neuron_inside_the_model() -> None:
    net, x = conv_net(), pictures(2)
    map_ = net.stem(x).detach()
    a = ll.explain(net, x, "gradient", target=ll.Neuron("stem", index=(2, 3, 4)))
    torch.testing.assert_close(a.score, map_[:, 2, 3, 4])
    assert (a.values[:, :, 6:] == 0).all()  # outside the neuron's receptive field
    for pooling, expected in {
        "mean": map_[:, 1].mean((1, 2)),
        "sum": map_[:, 1].sum((1, 2)),
        "max": map_[:, 1].amax((1, 2)),
    }.items():
        target = ll.Neuron("stem", channel=1, pooling=pooling)
        torch.testing.assert_close(ll.explain(net, x, "integrated-gradients", target=target).score, expected)
    with pytest.raises(ValueError, match=r"nearest: stem"):
        ll.explain(net, x, "gradient", target=ll.Neuron("stemm", channel=0))
    with pytest.raises(ValueError, match="does not fit the layer's output, which is"):
        ll.explain(net, x, "gradient", target=ll.Neuron("stem", index=(9, 0, 0)))


def reference(baseline: ll.Baseline, x: Tensor, seed: int = 0) -> Tensor:
    """What the baseline gives, read off the linear model f = x, whose IG is x - b."""
    n = x[0].numel()
    identity = nn.Sequential(nn.Flatten(), nn.Linear(n, 1, bias=False)).double()
    with torch.no_grad():
        identity[1].weight.fill_(1)
    return x - ll.explain(identity, x, "integrated-gradients", baseline=baseline, seed=seed).values


def test_constant_baselines() -> None:
    x = pictures(2)
    torch.testing.assert_close(reference(ll.Black(), x), torch.zeros_like(x))
    torch.testing.assert_close(reference(ll.White(), x), torch.ones_like(x))
    torch.testing.assert_close(
        reference(ll.Constant(torch.arange(3.0).view(3, 1, 1)), x)[:, 2], torch.full((2, 8, 8), 2.0, dtype=D)
    )
    torch.testing.assert_close(reference(ll.Mean(x), x)[0], x.mean(0))
    torch.testing.assert_close(reference(ll.Mean(iter([x[:1], x[1:]])), x)[0], x.mean(0))
    assert ll.Black() == ll.Black(0.0) != ll.White() and ll.Constant(0.0) != ll.Black()


def test_noise_is_reproducible_per_example_and_in_range() -> None:
    x = pictures(2)
    uniform = reference(ll.Noise(), x)
    assert uniform.min() >= -1e-9 and uniform.max() <= 1 + 1e-9 and 0.4 < uniform.mean() < 0.6
    torch.testing.assert_close(reference(ll.Noise(), x[1:]), uniform[1:])
    assert (reference(ll.Noise(seed=1), x) - uniform).abs().max() > 0.1
    gaussian = reference(ll.Noise("gaussian", low=-1, high=3), pictures(8))
    assert gaussian.mean() == pytest.approx(1, abs=0.1) and gaussian.std() == pytest.approx(1, abs=0.1)


def test_blur_is_a_gaussian_with_repeated_edges() -> None:
    x = torch.zeros(1, 1, 41, 41, dtype=D)
    x[..., 20, 20] = 1
    blurred = reference(ll.Blur(2.0), x)[0, 0]
    assert blurred.sum() == pytest.approx(1, abs=1e-9)
    assert blurred[20, 24] / blurred[20, 20] == pytest.approx(float(torch.exp(torch.tensor(-2.0))), rel=1e-6)
    flat = torch.full((1, 3, 5, 5), 0.3, dtype=D)
    torch.testing.assert_close(reference(ll.Blur(10.0), flat), flat)


@pytest.mark.parametrize("sigma", [float("inf"), float("nan"), 0.0, -1.0])
def test_a_blur_needs_a_width(sigma: float) -> None:
    with pytest.raises(ValueError, match=r"Blur\.sigma=.*use a positive, finite number of pixels"):
        ll.Blur(sigma)


def test_samples_are_drawn_without_replacement_and_averaged_with_their_spread() -> None:
    x, data = pictures(2), pictures(3, seed=8)
    net = conv_net()
    a = ll.explain(net, x, "integrated-gradients", target=0, baseline=ll.Samples(data, n=3))
    each = torch.stack([ll.explain(net, x, "integrated-gradients", target=0, baseline=b).values for b in data])
    torch.testing.assert_close(a.values, each.mean(0))
    torch.testing.assert_close(a.spread, each.std(0))
    torch.testing.assert_close(a.stderr, each.std(0) / 3**0.5)
    net_at_data = net(data).detach()[:, 0]
    torch.testing.assert_close(a.baseline_score, net_at_data.mean().expand(2))
    assert any("mean over 3 references" in note for note in a.notes)


@pytest.mark.parametrize("method", [ll.ShapleySampling(permutations=4), ll.PermutationShap(permutations=4)])
def test_standard_errors_over_references_are_those_seen_over_seeds(method: ll.Method) -> None:
    """Each reference has draws of its own: eight equal ones are eight times the samples, and the error says so."""
    f = lambda rows: (rows.sum(1, keepdim=True).square() + rows[:, :1] * rows[:, 1:2]).sin()  # noqa: E731
    x = torch.linspace(-1, 1.5, 8, dtype=D)[None]
    seen = {}
    for count in (1, 8):
        baseline = ll.Samples(torch.zeros(8, 8, dtype=D), count)
        runs = [ll.explain(f, x, method, target=0, baseline=baseline, seed=seed) for seed in range(60)]
        seen[count] = torch.stack([run.values for run in runs]).var(0).mean().sqrt()
        said = torch.stack([run.stderr for run in runs if run.stderr is not None]).square().mean().sqrt()
        assert 0.8 < float(said / seen[count]) < 1.3, (count, said, seen)
    assert 2.3 < float(seen[1] / seen[8]) < 3.4  # the root of 8


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_a_baseline_that_gives_no_numbers_is_named(value: float) -> None:
    baseline = ll.Samples(torch.full((2, 3, 8, 8), value), 2)
    with pytest.raises((FloatingPointError, ValueError), match="baseline: "):
        ll.explain(conv_net(), pictures(2), "integrated-gradients", target=0, baseline=baseline)


def test_a_number_is_not_rounded_on_its_way_to_the_inputs() -> None:
    x = torch.zeros(1, 2, dtype=torch.float64)
    for value in (0.3, -0.1, torch.tensor(0.3, dtype=torch.float64)):
        found = Constant(value).references(x, Streams.of(x, 0))
        assert float(found[0, 0, 0]) == float(value)
