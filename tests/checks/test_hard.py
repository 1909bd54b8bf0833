"""Hard tests on networks whose answers are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.model_edits.input_shift import compensated
from limelight.model_edits.rewrite import rewritten
from limelight.studies.ground_truth.handset import HANDSET, Formula, HandSet

from ..networks import ReluOfDifference, conv_net, pictures
from ..test_methods import snapshot

WORKED = torch.tensor([[3.0, 1.0]], dtype=torch.float64)


def finding(model: nn.Module, x: Tensor, method: object, check: ll.Check, **options: object) -> ll.Finding:
    return ll.check(model, x, method, check, **options)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["gradient", "integrated-gradients(Midpoint(512))"])
def test_implementation_invariance_passes_on_the_worked_pair(method: str) -> None:
    found = finding(ReluOfDifference(), WORKED, method, ll.ImplementationInvariance(ReluOfDifference(True)))
    assert found.passed is True, found


def test_implementation_invariance_fails_for_deep_lift_on_the_worked_pair() -> None:
    found = finding(ReluOfDifference(), WORKED, "deep-lift", ll.ImplementationInvariance(ReluOfDifference(True)))
    # (1.5, -0.5) and (2, -1): apart by 0.5 of 1.5.
    assert found.passed is False and float(found.value) == pytest.approx(1 / 3), found


class Layers(nn.Module):
    """The worked pair written with linear layers: relu(relu(x1) - 1 - relu(x2)), relu(relu(x1 - 1) - relu(x2))."""

    def __init__(self, rewritten: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2).double(), nn.Linear(2, 1).double()
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(2))
            self.first.bias.copy_(torch.tensor([-1.0 if rewritten else 0.0, 0.0]))
            self.second.weight.copy_(torch.tensor([[1.0, -1.0]]))
            self.second.bias.fill_(0.0 if rewritten else -1.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))))


@pytest.mark.parametrize("composite", ["gamma", "epsilon-gamma-box", "epsilon-gamma-flat"])
def test_implementation_invariance_fails_for_lrp_on_the_worked_pair(composite: str) -> None:
    found = finding(Layers(False), WORKED, ll.LRP(composite), ll.ImplementationInvariance(Layers(True)))
    assert found.passed is False and float(found.value) > 0.05, found


def test_lrp_whose_biases_absorb_gives_both_of_the_pair_the_same() -> None:
    """The paper's LRP hands the bias's share on, (2, -1) and (1.5, -0.5); epsilon rules lose it: (3, -1) twice."""
    for first, second in ((ReluOfDifference(), ReluOfDifference(True)), (Layers(False), Layers(True))):
        found = finding(first, WORKED, ll.LRP("epsilon"), ll.ImplementationInvariance(second))
        assert found.passed is True


def test_networks_that_differ_are_not_compared() -> None:
    other = nn.Linear(2, 1).double()
    found = finding(ReluOfDifference(), WORKED, "gradient", ll.ImplementationInvariance(other))
    assert found.passed is None and found.value.isnan().all() and "differ in score" in found.reason


def test_rewrites_compute_the_same() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    x = torch.randn(20, 5, dtype=torch.float64)
    with rewritten(net, x) as (other, done):
        torch.testing.assert_close(other(x), net(x))
        assert len(done) == 2
        gradient = finding(net, x, "gradient", ll.ImplementationInvariance())
        guided = finding(net, x, "guided-backprop", ll.ImplementationInvariance())
    assert gradient.passed is True and guided.passed is False
    none = finding(Formula(lambda rows: rows.sum(1)), x, "gradient", ll.ImplementationInvariance())
    assert none.passed is None and "other=" in none.reason


def test_sensitivity_at_the_saturated_unit() -> None:
    problem = next(each for each in HANDSET if each.name == "saturated")
    gradient = finding(problem.model, problem.x, "gradient", ll.Sensitivity())
    assert gradient.passed is False and float(gradient.value) == 1
    assert finding(problem.model, problem.x, "integrated-gradients", ll.Sensitivity()).passed is True


def test_dummy_features() -> None:
    net = nn.Linear(4, 1).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 0.0, -2.0, 0.0]]))
    x = torch.rand(2, 4, dtype=torch.float64)
    found = finding(net, x, "input-x-gradient", ll.Dummy())
    assert found.passed is True and found.detail["ignored"].tolist() == [2, 2]
    wrong = torch.tensor([[1.0, 0.5, -2.0, 0.0], [1.0, 0.0, -2.0, 0.0]], dtype=torch.float64)
    assert finding(net, x, wrong, ll.Dummy()).value.tolist() == [0.25, 0.0]
    with torch.no_grad():
        net.weight.fill_(1.0)
    assert "ignores none" in finding(net, x, "gradient", ll.Dummy()).reason


@pytest.mark.parametrize(
    ("formula", "x", "values"),
    [
        (lambda x: torch.relu(0.5 - x[:, 0]) + x[:, 1], [1.0, 2.0], [-0.5, 2.0]),
        (lambda x: torch.relu(x[:, 0] - 5 * x[:, 1]) + x[:, 2], [1.0, 1.0, 1.0], [0.5, -0.5, 1.0]),
    ],
    ids=["at the baseline", "in a coalition"],
)
def test_a_feature_that_matters_elsewhere_is_no_dummy(formula: Any, x: list[float], values: list[float]) -> None:
    """Shapley values from 0, which give nothing to features that the score ignores everywhere."""
    net, row = Formula(formula), torch.tensor([x], dtype=torch.float64)
    assert ll.explain(net, row, "exact-shapley", target=0).values[0].tolist() == pytest.approx(values)
    found = finding(net, row, "exact-shapley", ll.Dummy())
    assert found.value.isnan().all() and "ignores none" in found.reason
    box = finding(lambda rows: net(rows).detach(), row, "exact-shapley", ll.Dummy())  # type: ignore[arg-type]
    assert box.value.isnan().all()


def test_a_feature_that_matters_on_the_way_is_no_dummy() -> None:
    """relu(.2 - |x1 - .5|) x2 + x2 is 0 in x1 at 0 and 1; Integrated Gradients pass the bump."""
    net = Formula(lambda x: torch.relu(0.2 - (x[:, 0] - 0.5).abs()) * x[:, 1] + x[:, 1])
    row = torch.ones(1, 2, dtype=torch.float64)
    assert float(ll.explain(net, row, "integrated-gradients(64)", target=0).values[0, 0].abs()) > 0.01
    found = finding(net, row, "integrated-gradients(64)", ll.Dummy())
    assert found.value.isnan().all() and "ignores none" in found.reason


def test_a_real_dummy_still_fails_beside_features_that_matter_elsewhere() -> None:
    """Of x = (1, 1, 1, 1) and relu(x1 - 5 x2) + x3 the fourth is ignored everywhere, the first at x alone."""
    net = Formula(lambda x: torch.relu(x[:, 0] - 5 * x[:, 1]) + x[:, 2])
    rows = torch.ones(2, 4, dtype=torch.float64)
    wrong = torch.tensor([[0.5, -0.5, 1.0, 0.2], [0.5, -0.5, 1.0, 0.0]], dtype=torch.float64)
    found = finding(net, rows, wrong, ll.Dummy())
    assert found.value.tolist() == [0.2, 0.0] and found.detail["ignored"].tolist() == [1, 1]


def test_shapley_values_of_a_tree_keep_the_axiom() -> None:
    """A tree reads few features at an example, and others where these have other values."""

    def tree(rows: Tensor) -> Tensor:
        left = torch.where(rows[:, 1] > 0, 0.9137513, 0.2291719)
        return torch.where(rows[:, 0] > 0, left, torch.where(rows[:, 2] > 0.5, 0.7310911, 0.1171393))[:, None].double()

    x = torch.randn(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = finding(tree, x, "exact-shapley", ll.Dummy())  # type: ignore[arg-type]
    assert found.passed is True and (found.detail["ignored"] >= 3).all()


def test_completeness_of_a_map_that_misses_a_tenth() -> None:
    net, x = conv_net(), pictures(2)
    a = ll.explain(net, x, ll.IntegratedGradients(ll.Midpoint(64)))
    assert finding(net, x, a, ll.Completeness()).passed is True
    b = ll.explain(net, x, ll.IntegratedGradients(ll.Midpoint(64)))
    object.__setattr__(b, "values", 0.9 * a.values)
    found = finding(net, x, b, ll.Completeness())
    assert found.passed is False and found.value.tolist() == pytest.approx([0.1, 0.1], abs=2e-3)
    assert "no sum is promised" in finding(net, x, "gradient", ll.Completeness()).reason


def test_linearity() -> None:
    net, x = conv_net(), pictures(2)
    for method in ("gradient", "integrated-gradients(Midpoint(8))", "occlusion(4, 4)"):
        assert finding(net, x, method, ll.Linearity()).passed is True, method
    assert finding(net, x, "grad-cam", ll.Linearity()).passed is False  # its relu
    assert "second one" in finding(Formula(lambda rows: rows.flatten(1).sum(1)), x, "gradient", ll.Linearity()).reason


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_sensitivity_of_scores_of_any_size(size: float) -> None:
    """size (1 - relu(1 - x)) at 2 rises by size from 0 and is flat there: a gradient misses that, IG does not."""
    net = Formula(lambda rows: size * (1 - torch.relu(1 - rows[:, 0])))
    x = torch.tensor([[2.0]], dtype=torch.float64)
    missed = finding(net, x, "gradient", ll.Sensitivity())
    assert missed.value.tolist() == [1] and missed.detail["tried"].tolist() == [1]
    assert finding(net, x, "integrated-gradients", ll.Sensitivity()).value.tolist() == [0]


@pytest.mark.parametrize(
    "method",
    [
        ll.IntegratedGradients(tolerance=1e-6),
        ll.BlurIntegratedGradients(tolerance=0.01),
        ll.SmoothGrad(ll.IntegratedGradients(tolerance=1e-6), samples=2),
        ll.SmoothGrad(samples=64, tolerance=0.1),
    ],
    ids=str,
)
def test_linearity_fails_no_map_for_where_it_stops(method: ll.Method) -> None:
    """Where a method stops depends on the score; its sums of gradients are linear in the score."""
    net, x = conv_net(), 3 * pictures(2)
    found = finding(net, x, method, ll.Linearity())
    assert found.passed is True and found.value.max() < 1e-9, found
    assert "as many nodes or samples for each score" in found.notes[0]


@pytest.mark.parametrize("padding", [0, 1, (0, 2), "same", "valid"])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_bias_takes_the_shift_whatever_the_padding(padding: Any, scaled: bool) -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, (3, 2), padding=padding, bias=scaled, dilation=(1, 2))

        def forward(self, rows: Tensor) -> Tensor:
            mean = torch.tensor([0.5, 0.4, 0.3], dtype=rows.dtype).view(3, 1, 1)
            return self.first((rows - mean) / (mean if scaled else 1)).relu()

    torch.manual_seed(0)
    net, x = Normalised().double(), pictures(2)
    with compensated(net, x, 0.7) as (shifted, note), torch.no_grad():
        torch.testing.assert_close(shifted(x + 0.7), net(x))
        assert "the bias of layer first" in note
        kinds = {type(module).__name__ for module in shifted.modules()}
        assert "Subtracted" not in kinds and ("Padded" in kinds) is (padding not in (0, "valid"))


@pytest.mark.parametrize("shift", [0.5, -0.3])
def test_the_first_layer_takes_the_shift_back_at_borders_too(shift: float) -> None:
    net, x = conv_net(), pictures(2)
    before = snapshot(net)
    with compensated(net, x, shift) as (shifted, _), torch.no_grad():
        torch.testing.assert_close(shifted(x + shift), net(x))
        assert not torch.allclose(net(x + shift), net(x))
    assert str(before) == str(snapshot(net))


def test_input_shift_has_kindermans_outcomes() -> None:
    net, x = conv_net(), pictures(2) + 0.2
    moving, zero = ll.Minimum(), ll.Black()
    for method in ("gradient", "deconv-net", "guided-backprop"):
        assert finding(net, x, method, ll.InputShift()).passed is True, method
    assert finding(net, x, "integrated-gradients", ll.InputShift(), baseline=moving).passed is True
    assert finding(net, x, "integrated-gradients", ll.InputShift(), baseline=zero).passed is False
    assert finding(net, x, "input-x-gradient", ll.InputShift()).passed is False


@pytest.mark.parametrize("samples", [2, 8])
def test_sampling_is_no_answer_to_a_shift(samples: int) -> None:
    """With the noise held fixed both models see the same points, moved: SmoothGrad inherits what the gradient does."""
    net, x = conv_net(), pictures(2) + 0.2
    smooth = ll.SmoothGrad(ll.Gradient(), noise=0.3, samples=samples)
    found = finding(net, x, smooth, ll.InputShift())
    assert found.passed is True and max(found.value) < 1e-9
    assert (
        finding(net, x, ll.SmoothGrad(ll.InputXGradient(), noise=0.3, samples=samples), ll.InputShift()).passed is False
    )
    # The control has no answer that could stay: it's another map for every other input.
    assert finding(net, x, ll.RandomMap(), ll.InputShift()).passed is False


def test_a_model_without_a_first_layer_is_wrapped() -> None:
    found = finding(Formula(lambda rows: rows.square().sum(1)), WORKED, "gradient", ll.InputShift())
    assert found.passed is True and "subtracted" in found.notes[0]


def test_identity_randomisation_scores_exactly_one() -> None:
    net, x = conv_net(), pictures(2)
    for method in ("gradient", "grad-cam", "lrp"):
        found = finding(net, x, method, ll.Randomisation(init="identity"))
        for name in ("spearman", "spearman signed", "ssim", "hog"):
            assert found.detail[name].sub(1).abs().max() < 1e-12, (method, name)
        assert found.detail["entropy rise"].abs().max() == 0 and found.passed is False


@pytest.mark.parametrize("order", ["cascade", "independent"])
@pytest.mark.parametrize("init", ["moments", "permute"])
def test_randomisation_never_touches_the_model(order: str, init: str) -> None:
    net, x = conv_net().train(), pictures(2)
    before = snapshot(net)
    found = finding(net, x, "gradient", ll.Randomisation(order, 4, init=init, draws=1))  # type: ignore[arg-type]
    assert str(before) == str(snapshot(net))
    assert found.detail["spearman"].shape == (2, 3) and not found.value.isnan().any()
    assert "head" in found.notes[0]


def test_every_parameter_is_drawn_anew() -> None:
    from limelight.model_edits.randomise import redraw, redrawable

    torch.manual_seed(0)

    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.randn(1, 1, 8))
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.norm = nn.BatchNorm1d(8)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = torch.cat([self.token.expand(len(x), 1, 8), x], 1)
            mixed, _ = self.attention(tokens, tokens, tokens)
            out: Tensor = self.head(self.norm(mixed[:, 0]))
            return out

    net = Attentive().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter))
    with redrawable(net, torch.rand(1, 4, 8)) as (module, layers):
        assert layers[0] == "head" and layers[-1] == "" and "attention.out_proj" in layers
        for layer in layers:
            redraw(module, layer, "moments", 0)
        for (name, fresh), old in zip(module.named_parameters(), net.parameters(), strict=True):
            assert not torch.equal(fresh, old), name


def test_determinism_catches_a_model_that_answers_at_random() -> None:
    net, x = conv_net(), pictures(3)
    assert finding(net, x, "smooth-grad(samples=4)", ll.Determinism()).passed is True
    a = ll.explain(net, x, "gradient")
    assert "explains again" in finding(net, x, a, ll.Determinism()).reason


# IDGI's squared gradients are complete, but give no term its own change, and a layer is no input.
COMPLETE = [m for m in ll.METHODS if m().no_sum is None and m is not ll.IDGI and not m().needs.layer]


@pytest.mark.parametrize("problem", HANDSET, ids=lambda each: each.name)
@pytest.mark.parametrize("kind", COMPLETE, ids=lambda m: m.kebab())
def test_every_complete_method_finds_the_hand_set_truth(problem: HandSet, kind: type[ll.Method]) -> None:
    found = ll.explain(problem.model, problem.x, kind(), target=0, baseline=problem.baseline)
    allowed = 1e-6 if found.stderr is None else 5 * found.stderr.abs().max() + 1e-6
    assert (found.values - problem.truth).abs().max() <= allowed, (found.values, problem.truth)
