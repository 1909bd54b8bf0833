"""Path methods refined where the change of the score is missed most, in float64 and from the definition."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import limelight as ll

from .networks import conv_net, pictures

pytestmark = pytest.mark.quick

D = torch.float64
OLD = Path(__file__).parent / "fixtures" / "format1"
METHODS = [
    ll.IntegratedGradients(tolerance=1e-4),
    ll.BlurIntegratedGradients(max_sigma=4, tolerance=1e-3),
    ll.IDGI(ll.IntegratedGradients(tolerance=1e-4)),
    ll.IDGI(ll.BlurIntegratedGradients(max_sigma=4, tolerance=1e-3)),
    ll.AtLayer(ll.IntegratedGradients(tolerance=1e-4), "body"),
]


def bent(x: Tensor) -> Tensor:
    """Steep in a small part of the path, at another place for each ratio of the inputs."""
    return torch.tanh(60 * (x[:, :1] - 0.31)) + torch.relu(x[:, 1:2] - 0.7)


def nodes_of(notes: tuple[ll.Note, ...]) -> list[int]:
    return [int(found[1]) for found in (re.search(r"converged with (\d+) nodes", note) for note in notes) if found]


def test_the_default_is_the_midpoint_rule_where_that_suffices() -> None:
    net, x = conv_net(), pictures(2)
    a, b = (ll.explain(net, x, each, target=0) for each in (ll.IntegratedGradients(), ll.IntegratedGradients(32)))
    torch.testing.assert_close(a.values, b.values, atol=1e-14, rtol=1e-10)
    assert a.backward_rows == b.backward_rows == 64 and a.forward_rows == b.forward_rows
    assert nodes_of(a.notes) == [32, 32] and not a.cautions and not b.notes


def test_misses_that_cancel_are_not_taken_for_a_sum_that_is_met() -> None:
    """Two steep steps between the first nodes, one up and one down: their sum is right without them."""

    def steps(x: Tensor) -> Tensor:
        up, down = torch.tanh(400 * (x[:, :1] - 0.3135)), torch.tanh(400 * (x[:, 1:2] - 0.7207))
        return up - down + x[:, 2:]

    x = torch.ones(1, 3, dtype=D)
    equal, refined = (
        ll.explain(ll.Differentiable(steps), x, method, target=0)
        for method in (ll.IntegratedGradients(32), ll.IntegratedGradients())
    )
    assert float(equal.delta.abs()) < 0.01 and float(equal.values[0, :2].abs().max()) < 0.1
    torch.testing.assert_close(refined.values, torch.tensor([[2.0, -2.0, 1.0]], dtype=D), atol=0.25, rtol=0)
    assert not refined.cautions


def test_nodes_are_added_where_the_score_changes_and_all_of_them_count() -> None:
    """By hand: the gradient at each node, times half the distance of its neighbours, or all of it at the ends."""
    seen: list[Tensor] = []

    def spied(x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            seen.append(x.detach()[:, 0].clone())
        return bent(x)

    x = torch.tensor([[1.0, 0.9]], dtype=D)
    a = ll.explain(ll.Differentiable(spied), x, ll.IntegratedGradients(), target=0)
    assert float(a.delta.abs() / (a.score - a.baseline_score)) <= 0.01
    (nodes,) = nodes_of(a.notes)
    times = torch.cat(seen).unique()
    assert len(times) == nodes == a.backward_rows and 32 < nodes < 80
    assert int(((times > 0.26) & (times < 0.36)).sum()) > (nodes - 32) / 2
    edges = torch.cat([torch.zeros(1, dtype=D), (times[1:] + times[:-1]) / 2, torch.ones(1, dtype=D)])
    points = (times[:, None] * x).requires_grad_()
    (slope,) = torch.autograd.grad(bent(points).sum(), points)
    torch.testing.assert_close(a.values, (edges.diff()[:, None] * slope).sum(0, keepdim=True) * x)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_an_example_does_not_depend_on_its_neighbours_or_the_packing(method: ll.Method) -> None:
    net, x = conv_net(), pictures(3)
    x[1] *= 0.1
    whole = ll.explain(net, x, method, target=[0, 1, 2], rows_per_pass=7)
    counts = nodes_of(whole.notes)
    assert len(counts) == 3
    for i in range(3):
        alone = ll.explain(net, x[i : i + 1], method, target=i, rows_per_pass=None if i else 1)
        torch.testing.assert_close(alone.values[0], whole.values[i], atol=1e-13, rtol=1e-9)
        assert nodes_of(alone.notes) == counts[i : i + 1]


def test_an_example_alone_pays_for_its_own_nodes() -> None:
    x = torch.tensor([[1.0, 0.9], [0.2, 0.1], [0.5, 0.9]], dtype=D)
    a = ll.explain(ll.Differentiable(bent), x, ll.IntegratedGradients(tolerance=1e-4), target=0)
    counts = nodes_of(a.notes)
    assert a.backward_rows == sum(counts) and len(set(counts)) > 1


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_refined_maps_come_to_the_map_of_many_nodes(method: ll.Method) -> None:
    net, x = conv_net(), pictures(2)
    found = ll.explain(net, x, method, target=0)
    inner = getattr(method, "inner", method)
    many = replace(inner, tolerance=None, **{"quadrature" if hasattr(inner, "quadrature") else "steps": 600})
    exact = ll.explain(net, x, many if inner is method else replace(method, inner=many), target=0).values
    assert (found.values - exact).abs().sum() < 0.01 * exact.abs().sum()


def test_the_sum_of_a_blur_is_within_its_tolerance() -> None:
    net, x = conv_net(), pictures(2)
    a = ll.explain(net, x, ll.BlurIntegratedGradients(max_sigma=4), target=1)
    blurred = ll.Blur(4).references(x, None)[0]  # type: ignore[arg-type]
    change = (net(x) - net(blurred))[:, 1].detach()
    assert ((a.values.flatten(1).sum(1) - change).abs() <= 0.01 * change.abs()).all()
    assert sum("f(x) - f(x blurred by 4 pixels)" in note for note in a.notes) == 2
    assert (
        ll.BlurIntegratedGradients(16).rows(x.shape[1:]) == 17
        and ll.BlurIntegratedGradients().rows(x.shape[1:]) is None
    )


def test_what_has_not_converged_is_a_caution_that_says_the_miss() -> None:
    f = ll.Differentiable(lambda x: torch.tanh(1e6 * (x[:, :1] - 0.3123456)) + 0.1 * x[:, 1:2])
    a = ll.explain(f, torch.tensor([[1.0, 1.0]], dtype=D), ll.IntegratedGradients(most_nodes=40), target=0)
    (caution,) = (note for note in a.cautions if note.kind == "not-converged")
    missed = float((a.delta / (a.score - a.baseline_score)).abs())
    assert "NOT converged with 40 nodes" in caution and f"misses {missed:.2%} of f(x) - f(baseline)" in caution
    assert a.backward_rows == 40 and missed > 0.01


def test_where_the_score_does_not_change_rounding_is_enough() -> None:
    """f(x) = f(b) exactly: a linear score needs no more than the first nodes, in either precision."""
    for dtype in (torch.float32, D):
        x = torch.tensor([[0.3, 0.7]], dtype=dtype)
        f = ll.Differentiable(lambda x: (7 * x[:, :1] - 3 * x[:, 1:2]) + 1e3)
        a = ll.explain(f, x, ll.IntegratedGradients(), target=0)
        assert nodes_of(a.notes) == [32] and not [note for note in a.cautions if note.kind == "not-converged"]


def test_the_estimate_is_what_half_of_the_nodes_would_miss() -> None:
    """A sum met by luck: the misses of two steep places cancel, and the note says that the map is not settled."""
    x = torch.tensor([[1.0, 1.0]], dtype=D)
    f = ll.Differentiable(lambda x: torch.tanh(200 * (x[:, :1] - 0.3)) - torch.tanh(200 * (x[:, 1:] - 0.7)) + x[:, :1])
    a = ll.explain(f, x, ll.IntegratedGradients(), target=0)
    said = [re.search(r"every second node alone gives a map that differs by ([\d.]+)%", note) for note in a.notes]
    (share,) = (float(each[1]) / 100 for each in said if each)
    exact = torch.tensor([[3.0, -2.0]], dtype=D)
    assert share >= 0.5 * float((a.values - exact).abs().sum() / exact.abs().sum())
    assert not a.delta.isnan().any()


@pytest.mark.parametrize("file", sorted(OLD.glob("method-*integrated*.safetensors")), ids=lambda file: file.stem)
def test_old_maps_keep_their_fixed_rule(file: Path) -> None:
    method = ll.Attribution.load(file).method
    record = file.with_suffix("").name
    if isinstance(method, ll.IntegratedGradients):
        assert method.quadrature is not None and (method.stop is None) == (method.tolerance is None), record
    if isinstance(method, ll.BlurIntegratedGradients):
        assert method.steps is not None and method.stop is None


def test_old_default_maps_are_read_as_what_made_them() -> None:
    """Both earlier formats hold every setting, so an old default is 32 Gauss nodes and not today's default."""
    from limelight.base.records import decode

    fields = {"quadrature": {"$class": "GaussLegendre", "fields": {"n": 32}}, "tolerance": None, "most_nodes": 2048}
    method = decode({"$class": "IntegratedGradients", "fields": fields}, {})
    assert method == ll.IntegratedGradients(ll.GaussLegendre(32), most_nodes=2048) and method.stop is None
    blur = decode({"$class": "BlurIntegratedGradients", "fields": {"steps": 32, "max_sigma": 50.0}}, {})
    assert blur.stop is None and blur.rows(torch.Size([3, 8, 8])) == 33


@pytest.mark.parametrize(
    "make",
    [lambda: ll.IntegratedGradients(tolerance=0.1, most_nodes=31), lambda: ll.BlurIntegratedGradients(most_nodes=31)],
)
def test_most_nodes_holds_the_first_ones(make: object) -> None:
    with pytest.raises(ValueError, match="most_nodes=31: use at least 32, the first nodes"):
        make()  # type: ignore[operator]


def test_rows_are_bounded_before_the_run() -> None:
    shape = torch.Size([3, 8, 8])
    for method in (ll.IntegratedGradients(), ll.BlurIntegratedGradients(), ll.IDGI(), ll.AtLayer(layer="body")):
        assert method.rows(shape) is None and method.rows_at_least(shape) == 32
