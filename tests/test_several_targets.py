"""Several targets for each example: one more axis, the same maps, one forward pass for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import limelight as ll
from limelight.engine.read_scores import read_scores

from .networks import Named, conv_net, every_case, pictures
from .test_methods import Counting

TABLE = [[0, 3], [1, 1], [2, 4]]


@every_case
def test_each_target_has_the_map_that_it_has_alone(method: ll.Method) -> None:
    net, x = conv_net(), pictures()
    baseline = ll.Samples(pictures(5, seed=3), n=2)
    a = ll.explain(net, x, method, target=TABLE, baseline=baseline)
    assert a.values.shape[:2] == (3, 2) and torch.equal(a.inputs, x)
    assert torch.equal(torch.as_tensor(a.target), torch.tensor(TABLE))
    assert a.score.shape == a.delta.shape == a.baseline_score.shape == (3, 2)
    assert a.heatmap().shape[:2] == (3, 2) and a.outputs is not None and len(a.outputs) == 3
    for k in range(2):
        alone = ll.explain(net, x, method, target=[row[k] for row in TABLE], baseline=baseline)
        torch.testing.assert_close(a.values[:, k], alone.values, atol=1e-10, rtol=1e-8)
        torch.testing.assert_close(a.score[:, k], alone.score)
        torch.testing.assert_close(a.delta[:, k], alone.delta, equal_nan=True, atol=1e-10, rtol=1e-6)
        if alone.stderr is not None and a.stderr is not None:
            torch.testing.assert_close(a.stderr[:, k], alone.stderr, equal_nan=True, atol=1e-10, rtol=1e-6)


@pytest.mark.parametrize("rows_per_pass", [1, 5, 100])
def test_the_forward_pass_is_shared_by_an_examples_targets(rows_per_pass: int) -> None:
    spy = Counting(conv_net())
    table = [[0, 1, 2], [3, 4, 0]]
    a = ll.explain(spy, pictures(2), ll.Gradient(), target=table, rows_per_pass=rows_per_pass)
    assert a.forward_rows == spy.rows and a.backward_rows == 6
    if rows_per_pass == 100:
        assert spy.rows == 2 + 1  # and the probe
    exact = ll.explain(conv_net(), pictures(2), ll.Gradient(), target=table)
    torch.testing.assert_close(a.values, exact.values, atol=1e-12, rtol=1e-10)


def test_occlusion_hides_a_window_once_for_all_targets() -> None:
    spy = Counting(conv_net())
    one = ll.explain(spy, pictures(1), ll.Occlusion(4, 4), target=0, rows_per_pass=1000)
    several = ll.explain(spy, pictures(1), ll.Occlusion(4, 4), target=[[0, 1, 2]], rows_per_pass=1000)
    assert several.forward_rows == one.forward_rows


@pytest.mark.parametrize(
    "method",
    [
        ll.RISE(64, cells=3),
        ll.Occlusion(4, 2),
        ll.FeatureAblation(ll.Grid(3)),
        ll.KernelShap(60, players=ll.Grid(3)),
        ll.Lime(40, players=ll.Grid(3)),
        ll.ShapleySampling(3, players=ll.Grid(3)),
        ll.PermutationShap(4, players=ll.Grid(3)),
        ll.ExactShapley(ll.Grid(2)),
        ll.ShapleyInteractions(2, players=ll.Grid(3)),
    ],
    ids=lambda method: method.kebab(),
)
def test_many_targets_run_the_forward_rows_of_one(method: ll.Method) -> None:
    one, several = Counting(conv_net()), Counting(conv_net())
    a = ll.explain(one, pictures(1), method, target=[[3]])
    b = ll.explain(several, pictures(1), method, target=[[3, 1, 2, 0, 4] * 6])
    assert several.rows == b.forward_rows == a.forward_rows == one.rows
    torch.testing.assert_close(b.values[:, 0], a.values[:, 0], atol=1e-10, rtol=1e-8)


def test_rise_with_a_hundred_targets_runs_its_masks_once() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 1000)).double()
    a = ll.explain(net, torch.rand(1, 3, 8, 8).double(), ll.RISE(256), target=[list(range(0, 1000, 10))])
    assert a.forward_rows == 256 + 3  # f(x), f(b) and the probe


def test_outputs_are_repeated_for_some_targets_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5 outputs a row and 23 cells, 4 rows at once."""
    method, table = ll.RISE(16, cells=3), [[0, 1, 2, 3, 4] * 4] * 2
    whole = ll.explain(conv_net(), pictures(2), method, target=table)
    sizes = []

    def counted(outputs: torch.Tensor, *others: object) -> torch.Tensor:
        sizes.append(outputs.numel())
        return read_scores(outputs, *others)  # type: ignore[arg-type]

    monkeypatch.setattr("limelight.engine.runner.read_scores", counted)
    monkeypatch.setattr("limelight.engine.read_scores._CELLS", 23)
    parts = ll.explain(conv_net(), pictures(2), method, target=table)
    assert max(sizes) <= 23 and parts.forward_rows == whole.forward_rows
    assert torch.equal(parts.values, whole.values)


def test_ablation_after_a_layer_that_is_not_merely_pooled() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 5)).double()
    x = pictures()
    for rows_per_pass in (1, 4, 100):
        a = ll.explain(net, x, "ablation-cam", target=TABLE, layer="1", rows_per_pass=rows_per_pass)
        for k in range(2):
            alone = ll.explain(net, x, "ablation-cam", target=[row[k] for row in TABLE], layer="1")
            torch.testing.assert_close(a.values[:, k], alone.values)


@pytest.mark.parametrize("rows_per_pass", [1, 2, 100])
def test_references_of_a_model_that_returns_a_mapping(rows_per_pass: int) -> None:
    for method in (ll.DeepShap(), ll.DeepLift()):
        a = ll.explain(Named(), pictures(), method, target=TABLE, rows_per_pass=rows_per_pass)
        b = ll.explain(conv_net(), pictures(), ll.DeepLift(), target=TABLE)
        torch.testing.assert_close(a.values, b.values)
        torch.testing.assert_close(a.baseline_score, b.baseline_score)
        torch.testing.assert_close(a.outputs, b.outputs)


def test_tables_of_classes_are_read_from_tensors_and_targets_and_checked() -> None:
    net, x = conv_net(), pictures(2)
    a = ll.explain(net, x, ll.Gradient(), target=torch.tensor([[0, 1], [2, 3]]))
    b = ll.explain(net, x, ll.Gradient(), target=[torch.tensor([0, 1]), (2, 3)])
    assert torch.equal(a.values, b.values)
    c = ll.explain(net, x, ll.Gradient(), target=ll.Probability([[0, 1], [2, 3]]))
    d = ll.explain(net, x, ll.Gradient(), target=ll.Probability([1, 3]))
    torch.testing.assert_close(c.values[:, 1], d.values)
    assert c.target == ll.Probability([[0, 1], [2, 3]])
    for bad, message in (
        ([[0, 1], [2]], "as many classes"),
        ([[0, 1], 2], "as many classes"),
        ([[], []], "as many classes"),
        ([[0, 1]], "1 targets for a batch of 2"),
        ([[0, 1], [2, 99]], "class 99 is out of range"),
        (torch.zeros(2, 2, 2, dtype=torch.long), r"\(examples, classes\)"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            ll.explain(net, x, ll.Gradient(), target=bad)


def test_notes_name_example_and_target() -> None:
    a = ll.explain(
        conv_net(),
        pictures(2),
        ll.IntegratedGradients(ll.Midpoint(1), tolerance=1e-9, most_nodes=3),
        target=[[0, 1], [2, 3]],
    )
    assert any(note.startswith("example 1, target 0: NOT converged") for note in a.notes)


def test_it_is_shown_saved_and_loaded(tmp_path: Path) -> None:
    x = torch.rand(2, 3, 32, 32)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(3600, 5))
    panel = ll.explain(net, x, [ll.Gradient(), ll.GradCAM()], target=[[0, 3], [1, 1]])
    a = panel["gradient"]
    assert [tile.title for tile in a.tiles(1)] == ["gradient: 1", "gradient: 1"]
    assert [tile.title for tile in a.tiles()] == ["gradient: 0", "gradient: 3"]
    assert [tile.title for tile in a.tiles((0, 1))] == ["gradient"]
    assert a.caption((0, 1))[0] == f"score {float(a.score[0, 1]):.4g}"
    assert panel.show().width > a.show((0, 1)).width
    again = ll.Attribution.load(a.save(tmp_path / "a.safetensors"))
    assert torch.equal(again.values, a.values) and torch.equal(again.delta.isnan(), a.delta.isnan())
    assert "<img" in panel._repr_html_() and "3" in repr(a)


def test_the_baseline_is_told_as_it_was_given() -> None:
    """One reference for each example, and not one for each of its targets."""
    given = pictures(3, seed=5)
    a = ll.explain(conv_net(), pictures(3), "input-x-gradient", target=TABLE, baseline=given)
    assert torch.equal(a.baseline.value, given)
