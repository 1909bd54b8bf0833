"""The numbers that the definitions give by hand for several inputs, given arguments, baselines and labels of parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll

from .networks import conv_net, pictures

pytestmark = pytest.mark.quick

D = torch.float64


def rows(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=D)


class Gate(nn.Module):
    """f = s relu(z), z = a1 + 2 a2 - b, with a factor s that each example brings."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 1, bias=False).double()
        self.mix.weight.data = rows([1, 2, -1])

    def forward(self, a: Tensor, b: Tensor, s: Tensor, sign: float = 1.0) -> Tensor:
        gated: Tensor = torch.relu(self.mix(torch.cat([a, b], 1))) * s[:, None]
        return gated * sign


# Example 0: z = 3 and f = 6. Example 1: z = -3 and f = 0.
A, B, S = rows([3, 1], [1, 0]), rows([2], [4]), rows(2, 3)


def gate(method: Any, **options: Any) -> ll.SeveralAttributions:
    return ll.explain(Gate(), (A, B), method, target=0, **{"given": (S,), **options})


def check(found: ll.SeveralAttributions, a: Tensor, b: Tensor, within: float = 1e-9) -> None:
    assert [each.shape for each in found.values] == [a.shape, b.shape]
    for mine, expected in zip(found.values, (a, b), strict=True):
        torch.testing.assert_close(mine, expected, atol=within, rtol=0)


@pytest.mark.parametrize(
    ("method", "a", "b"),
    [
        ("gradient", ([2, 4], [0, 0]), ([-2], [0])),
        ("smooth-grad(samples=8, noise=0.01)", ([2, 4], [0, 0]), ([-2], [0])),
        ("input-x-gradient", ([6, 4], [0, 0]), ([-4], [0])),
        ("integrated-gradients", ([6, 4], [0, 0]), ([-4], [0])),
        ("guided-backprop", ([2, 4], [0, 0]), ([-2], [0])),
        ("deconv-net", ([2, 4], [3, 6]), ([-2], [-3])),  # it does not ask whether the ReLU was on
        (ll.LRP("zero"), ([6, 4], [0, 0]), ([-4], [0])),
        ("deep-lift", ([6, 4], [0, 0]), ([-4], [0])),
        ("feature-ablation", ([6, 4], [0, 0]), ([-4], [-3])),
        ("occlusion(1, 1)", ([6, 4], [0, 0]), ([-4], [-3])),
        ("occlusion(2, 1)", ([6, 6], [0, 0]), ([-4], [-3])),
        # v: a1 6, a2 4, b 0, a1 a2 10, a1 b 2, a2 b 0, all 6; and a1 3, a1 a2 3, the others 0.
        ("exact-shapley", ([16 / 3, 10 / 3], [1.5, 0]), ([-8 / 3], [-1.5])),
        ("kernel-shap", ([16 / 3, 10 / 3], [1.5, 0]), ([-8 / 3], [-1.5])),
        # With equal weights and no penalty, the mean of v with a player minus the mean without it.
        ("lime(kernel_width=1e6, alpha=0)", ([5, 3], [1.5, 0]), ([-3], [-1.5])),
    ],
    ids=str,
)
def test_each_part_gets_its_numbers(method: Any, a: Any, b: Any) -> None:
    check(gate(method), rows(*a), rows(*b), within=1e-8)  # LRP's quotients have a stabiliser of 1e-9


def test_a_baseline_for_each_part_moves_the_kink() -> None:
    # From b = 1 example 0 goes from z = -1 to 3: its ReLU is on for the last three quarters of the way.
    for method in (ll.IntegratedGradients(ll.Midpoint(400)), "deep-lift"):
        check(gate(method, baseline=(0, 1)), rows([4.5, 3], [0, 0]), rows([-1.5], [0]))
    # Baselines of each example: from a1 = 3 example 0 goes from z = 3 - b to 3, and example 1 from z = -4 to -3.
    own = (rows([3, 0], [0, 0]), rows([0], [4]))
    for method in (ll.IntegratedGradients(ll.Midpoint(400)), "deep-lift"):
        check(gate(method, baseline=own), rows([0, 4], [0, 0]), rows([-4], [0]))
    # v: a2 10, b 2, a2 b 6, none 6: a1 is at its baseline.
    check(gate("exact-shapley", baseline=own), rows([0, 4], [0, 0]), rows([-4], [0]))


def test_several_targets_keep_the_baselines_of_their_examples() -> None:
    class Both(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return torch.cat([a * b, a + b], 1)

    a, b = rows([3], [5]), rows([2], [7])
    own = (rows([1], [2]), rows([0], [3]))
    found = ll.explain(Both(), (a, b), "exact-shapley", target=[[0, 1], [1, 0]], baseline=own)
    # The product: each change times the mean of the other; the sum: each change.
    torch.testing.assert_close(found.values[0], rows([[2], [2]], [[3], [15]]))
    torch.testing.assert_close(found.values[1], rows([[4], [2]], [[4], [14]]))


def test_references_of_a_data_set_keep_their_parts_together() -> None:
    # Pair 0 is z = 0, pair 1 a = (2, 0) with b = 2, z = 0 as well: a multiplier of 1 for example 0.
    data = rows([0, 0], [2, 0]), rows([0], [2])
    references = tuple(ll.Samples(each, 2) for each in data)
    for seed in range(4):
        found = gate("deep-shap", baseline=references, seed=seed)
        torch.testing.assert_close(found.values[0][:1], rows([4, 4]))
        torch.testing.assert_close(found.values[1][:1], rows([-2]))
        assert found.delta.abs().max() < 1e-9
    sampled = gate("expected-gradients(512)", baseline=references)
    for values, stderr, exact in zip(sampled.values, sampled.stderr, (rows([4, 4]), rows([-2])), strict=True):
        assert ((values[0] - exact[0]).abs() <= 4 * stderr[0] + 1e-9).all()


def test_sampled_orders_agree_within_their_standard_error() -> None:
    found = gate("shapley-sampling(permutations=400)")
    exact = rows([16 / 3, 10 / 3], [1.5, 0]), rows([-8 / 3], [-1.5])
    for values, stderr, expected in zip(found.values, found.stderr, exact, strict=True):
        assert ((values - expected).abs() <= 4 * stderr + 1e-9).all()


# Player 0 is a1 with b, player 1 is a2; then for example 1 a1, and a2 with b.
SHARED = (torch.tensor([0, 1]), torch.tensor(0))
OWN = (torch.tensor([[0, 1], [0, 1]]), torch.tensor([[0], [1]]))


@pytest.mark.parametrize(
    ("method", "labels", "a", "b"),
    [
        # v: 2, 4, both 6; and 0 throughout. A player's value is shared among its positions.
        (ll.FeatureAblation, SHARED, ([1, 4], [0, 0]), ([1], [0])),
        (ll.ExactShapley, SHARED, ([1, 4], [0, 0]), ([1], [0])),
        (ll.KernelShap, SHARED, ([1, 4], [0, 0]), ([1], [0])),
        # Example 1 has v: 3, 0, both 0.
        (ll.FeatureAblation, OWN, ([1, 4], [0, -1.5]), ([1], [-1.5])),
        (ll.ExactShapley, OWN, ([1, 4], [1.5, -0.75]), ([1], [-0.75])),
        (ll.KernelShap, OWN, ([1, 4], [1.5, -0.75]), ([1], [-0.75])),
    ],
)
def test_a_label_may_be_shared_by_parts(method: Any, labels: Any, a: Any, b: Any) -> None:
    segments = ll.Segments(labels)
    check(gate(method(players=segments)), rows(*a), rows(*b))
    assert segments == ll.Segments(labels) and hash(segments) == hash(ll.Segments(labels))
    assert segments != ll.Segments(labels[0]) and ll.Segments(SHARED) != ll.Segments(OWN)


def test_lime_of_two_players() -> None:
    # Of v 0, 2, 4, 6 the mean with each player minus the mean without it, shared among positions.
    lime = ll.Lime(players=ll.Segments(SHARED), kernel_width=1e6, alpha=0)
    check(gate(lime), rows([1, 4], [0, 0]), rows([1], [0]))


def test_the_units_of_a_layer_belong_to_no_part() -> None:
    for inner in (ll.IntegratedGradients(), ll.ExpectedGradients(64), ll.InputXGradient()):
        found = gate(ll.AtLayer(inner, layer="mix"))
        assert len(found) == 0 and found.whole is not None and found.whole.layer == "mix"
        torch.testing.assert_close(found.values, rows([6], [0]))
        assert found.score.tolist() == [6, 0]
    noisy = gate(ll.AtLayer(ll.SmoothGrad(samples=4), layer="mix"))  # one unit has no range, and so no noise
    torch.testing.assert_close(noisy.values, rows([2], [0]))


def test_a_layer_as_large_as_the_parts_is_no_map_of_them() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turn = nn.Linear(3, 3, bias=False).double()
            self.turn.weight.data = torch.eye(3, dtype=D).flip(0)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (self.turn(torch.cat([a, b], 1)) * rows([1, 10, 100])).sum(1, keepdim=True)

    found = ll.explain(Wide(), (A, B), ll.AtLayer(ll.InputXGradient(), layer="turn"))
    torch.testing.assert_close(found.values, rows([2, 10, 300], [4, 0, 100]))


class Dose(nn.Module):
    """f = relu(x - 2 y) of two numbers for each example."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        assert x.ndim == y.ndim == 1
        return torch.relu(x - 2 * y)[:, None]


X, Y = rows(3, 1), rows(1, 1)  # z = 1, -1


@pytest.mark.parametrize(
    ("method", "baseline", "x", "y"),
    [
        ("gradient", 0.0, [1, 0], [-2, 0]),
        ("input-x-gradient", 0.0, [3, 0], [-2, 0]),
        ("integrated-gradients", 0.0, [3, 0], [-2, 0]),
        ("integrated-gradients", (rows(1, 1), 0.0), [2, 0], [-2, -1]),
        ("deep-lift", (rows(1, 1), rows(0, 0)), [2, 0], [-2, -1]),
        ("deep-shap", (ll.Samples(rows(0, 2), 2), ll.Samples(rows(0, 1), 2)), [2, 0], [-1, 0]),
        ("feature-ablation", 0.0, [1, 0], [-2, -1]),
        ("exact-shapley", 0.0, [2, 0.5], [-1, -0.5]),
        ("occlusion(1, 1)", 0.0, [1, 0], [-2, -1]),
    ],
    ids=str,
)
def test_a_part_may_be_one_number_for_each_example(method: str, baseline: Any, x: Any, y: Any) -> None:
    found = ll.explain(Dose(), (X, Y), method, target=0, baseline=baseline)
    check(found, rows(*x), rows(*y))
    for part, given in zip(found, (X, Y), strict=True):
        assert torch.equal(part.inputs, given) and part.delta.shape == (2,)
    several = ll.explain(Dose(), (X, Y), method, target=[[0], [0]], baseline=baseline)
    assert several.values[0].shape == (2, 1)


def test_one_number_beside_whole_numbers() -> None:
    class Kind(nn.Module):
        def forward(self, x: Tensor, kind: Tensor) -> Tensor:
            return (x * kind)[:, None]

    found = ll.explain(Kind(), {"x": X, "kind": torch.tensor([2, 5])}, "integrated-gradients", target=0)
    torch.testing.assert_close(found.values["x"], rows(6, 5))
    assert found["x"].delta.abs().max() < 1e-9
    shared = ll.ExactShapley(players=ll.Segments({"x": torch.tensor([0, 0])}))
    one = ll.explain(Kind(), {"x": X, "kind": torch.tensor([2, 5])}, shared, target=0)
    torch.testing.assert_close(one.values["x"], rows(6, 5))
    checked = ll.check(Kind(), (X, torch.tensor([2, 5])), shared_by_place(), "completeness", target=0, baseline=(0.0,))
    assert checked[0].value.tolist() == [0, 0]


def shared_by_place() -> ll.Method:
    return ll.ExactShapley(players=ll.Segments((torch.tensor(0),)))


def test_labels_of_single_channels() -> None:
    # f is 1, 10, 100 times the channels' sums: each channel is a player.
    weights = rows(1, 10, 100)[:, None, None]
    x = torch.ones(2, 3, 2, 2, dtype=D)
    labels = torch.tensor([4, 7, 7])[:, None, None].expand(3, 2, 2)
    for inputs, segments in ((x, labels[None]), ((x,), (labels,)), ((x,), (labels.expand(2, 3, 2, 2),))):
        method = ll.FeatureAblation(players=ll.Segments(segments))
        found = ll.explain(lambda rows: (rows * weights).sum((1, 2, 3))[:, None], inputs, method, target=0)
        values = found.values if isinstance(inputs, Tensor) else found.values[0]
        assert values[0, :, 0, 0].tolist() == [1, 55, 55] and torch.equal(values[0], values[1])
    own = torch.stack([labels, labels.flip(0)])
    method = ll.FeatureAblation(players=ll.Segments(own))
    found = ll.explain(lambda rows: (rows * weights).sum((1, 2, 3))[:, None], x, method, target=[[0], [0]])
    assert found.values[:, 0, :, 0, 0].tolist() == [[1, 55, 55], [5.5, 5.5, 100]]
    with pytest.raises(ValueError, match="divides channels; use players of whole pixels"):
        ll.explain(conv_net(), pictures(1), ll.XRAI(segments=torch.arange(192).reshape(1, 3, 8, 8)), target=0)


def test_windows_of_each_part_with_the_others_given() -> None:
    parts = {"a": A, "b": B}
    for name, window, expected in (("a", 2, rows([6, 6], [0, 0])), ("b", 1, rows([-4], [-3]))):
        others = {"s": S, **{other: each for other, each in parts.items() if other != name}}
        found = ll.explain(Gate(), {name: parts[name]}, ll.Occlusion(window, 1), target=0, given=others)
        torch.testing.assert_close(found.values[name], expected)


def test_noise_over_neighbourhoods_stays_with_each_part() -> None:
    class Add(nn.Module):
        def forward(self, picture: Tensor, table: Tensor) -> Tensor:
            return picture.sum((1, 2, 3))[:, None] + table.sum(1, keepdim=True)

    picture, table = pictures(1), rows([1, 2, 3])
    for method in ("smooth-grad(occlusion(2, 2), samples=2, noise=0)", "idgi(blur-integrated-gradients(4))"):
        if method.startswith("idgi"):
            with pytest.raises(ValueError, match="spatial axes"):  # of the table alone, and not of both side by side
                ll.explain(Add(), (picture, table), method, target=0)
            continue
        found, plain = (ll.explain(Add(), (picture, table), each, target=0) for each in (method, "occlusion(2, 2)"))
        assert found.whole is None
        for mine, theirs in zip(found.values, plain.values, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_given_values_of_every_kind() -> None:
    a, b = gate("gradient").values
    for given, factor in (((S, -1.0), -1), ({"s": S, "sign": torch.tensor(2.0, dtype=D)}, 2), ((S,), 1)):
        check(gate("gradient", given=given), factor * a, factor * b)
    # Two inputs with the third given are the same numbers as three inputs.
    three = ll.explain(Gate(), (A, B, S), "input-x-gradient", target=0)
    check(gate("input-x-gradient"), three.values[0], three.values[1])
    assert three.values[2].tolist() == [6, 0]


def test_maps_of_one_name_are_all_kept_and_baselines_are_short() -> None:
    two = [ll.IntegratedGradients(ll.Midpoint(4)), ll.IntegratedGradients(ll.Midpoint(8))]
    found = ll.explain(Gate(), (A, B), two, target=0, given=(S,))
    assert list(found) == [repr(each) for each in two]
    whole = found[repr(two[0])].whole
    assert repr(whole.baseline) == "OfParts(each=(Constant(value=0.0), Constant(value=0.0)))"


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ((torch.tensor([0, 1]),), r"segments for 0; the explained parts are 0, 1"),
        ((torch.tensor([0, 1, 2]), torch.tensor(0)), r"part '0' has shape \(3,\); use \(2,\), or one for each example"),
        ((torch.zeros(3, 2, dtype=torch.long), torch.tensor(0)), "segments of 3 examples for 2; give one map a part"),
    ],
)
def test_labels_that_do_not_fit_are_named(segments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"players: .*{message}"):
        gate(ll.ExactShapley(players=ll.Segments(segments)))


def test_labels_of_parts_for_one_tensor_are_named() -> None:
    labels = ll.Segments((torch.tensor([0, 1]),))
    with pytest.raises(ValueError, match="Segments of the parts 0 for one tensor; give inputs of these parts"):
        ll.explain(lambda rows: rows.sum(1, keepdim=True), A, ll.ExactShapley(players=labels), target=0)
    with pytest.raises(ValueError, match="segments of 3 examples for 2; give one map, or one an example"):
        three = ll.Segments((torch.zeros(3, 2, dtype=torch.long),))
        ll.explain(lambda rows: rows.sum(1, keepdim=True), (A,), ll.ExactShapley(players=three), target=0)


def test_a_mapping_of_inputs_for_a_plain_function() -> None:
    """Its names are the function's parameters; without a module inside, too."""
    a, b = torch.rand(2, 3, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64)
    found = ll.explain(lambda a, b: (a * b).sum(1, keepdim=True), {"b": b, "a": a}, "gradient", target=0)
    assert torch.equal(found.values["a"], b) and torch.equal(found.values["b"], a)
