"""One method over several baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import limelight as ll
from limelight.base.similarity import rank_correlation

from .networks import conv_net, linear_net, pictures

IG = ll.IntegratedGradients(ll.Midpoint(8))


def test_a_study_holds_the_maps_that_explain_gives() -> None:
    net, x = conv_net(), pictures(2)
    study = ll.compare_baselines(net, x, IG, target=[0, 1])
    assert list(study) == ["black", "white", "noise", "blur"]
    for label, baseline in zip(study, (ll.Black(), ll.White(), ll.Noise(), ll.Blur()), strict=True):
        own = ll.explain(net, x, IG, target=[0, 1], baseline=baseline)
        torch.testing.assert_close(study[label].values, own.values)
        assert study[label].baseline == baseline
    assert study.delta.shape == (4, 2) and study.delta.abs().max() < 0.05
    table = study.correlations
    assert table.shape == (2, 4, 4) and torch.allclose(table, table.mT)
    torch.testing.assert_close(table.diagonal(dim1=1, dim2=2), torch.ones(2, 4, dtype=torch.float64))
    own_table = rank_correlation(study["black"].heatmap(), study["blur"].heatmap())
    torch.testing.assert_close(table[:, 0, 3], own_table)
    torch.testing.assert_close(study.lowest_correlation, table.flatten(1).min(1).values)
    assert torch.equal(study.agreement, study.lowest_correlation)  # its name until 0.2


def test_opposite_baselines_turn_a_linear_map_around() -> None:
    # (x - 0) w and (x - 1) w for x = 1/4 w-independent: 1/4 w and -3/4 w, so the ranks are reversed.
    net, x = linear_net(), torch.full((1, 3, 8, 8), 0.25, dtype=torch.float64)
    study = ll.compare_baselines(net, x, IG, {"dark": 0.0, "light": ll.White()}, target=0)
    assert list(study) == ["dark", "light"] and float(study.lowest_correlation) == pytest.approx(-1)


def test_baselines_of_one_kind_are_told_apart_and_data_may_be_given() -> None:
    net, x, data = conv_net(), pictures(1), pictures(6, seed=3)
    study = ll.compare_baselines(net, x, IG, [ll.Blur(1), ll.Blur(2), ll.Mean(data), ll.Samples(data, 2)], target=0)
    assert list(study) == ["Blur(sigma=1)", "Blur(sigma=2)", "mean", "samples"]
    assert study["samples"].spread is not None


def test_a_study_is_shown_and_saved(tmp_path: Path) -> None:
    study = ll.compare_baselines(conv_net(), pictures(2), IG, target=0)
    image = study.show(1)
    assert image.width > image.height / 3
    tiles = study.tiles(1)
    assert [tile.title for tile in tiles] == list(study)
    assert tiles[0].lines[0].startswith("rank correlation with white ") and "blur" in tiles[0].lines[0]
    assert study.save(tmp_path / "a.png").stat().st_size > 1000
    assert "integrated-gradients by baseline" in study.save(tmp_path / "a.html").read_text()
    folder = study.save(tmp_path / "a.safetensors")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["labels"] == list(study) and len(summary["rank_correlations"][1]) == 4
    again = ll.Attribution.load(folder / "3 blur.safetensors")
    assert torch.equal(again.values, study["blur"].values)
    with pytest.raises(ValueError, match=r"use \.png, \.html, \.pdf, \.svg, \.npz or \.safetensors"):
        study.save(tmp_path / "a.gif")


def test_a_study_needs_a_method_that_compares() -> None:
    with pytest.raises(ValueError, match="compares with no baseline"):
        ll.compare_baselines(conv_net(), pictures(1), "gradient")


@pytest.mark.parametrize("baselines", [0, "black", ll.Black()], ids=repr)
def test_one_baseline_is_no_list_of_them(baselines: Any) -> None:
    with pytest.raises(TypeError, match=r"baselines: .* is no list; use baselines=\["):
        ll.compare_baselines(conv_net(), pictures(1), IG, baselines)
    with pytest.raises(ValueError, match="baselines: none given"):
        ll.compare_baselines(conv_net(), pictures(1), IG, [])
    with pytest.raises(ValueError, match="one target at a time"):
        ll.compare_baselines(conv_net(), pictures(1), IG, target=[[0, 1]])
