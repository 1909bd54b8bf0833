"""Maps of one class while the input is shifted: in Python and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import limelight as ll
from limelight.base.similarity import rank_correlation
from limelight.checks.maps import ssim
from limelight.cli.main import app

from .test_sweep import here as here


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)).eval()


def batch(n: int = 2) -> Tensor:
    return torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("method", ["gradient", "integrated-gradients", "smooth-grad(samples=4)"])
def test_every_map_is_of_the_unshifted_class_with_the_same_draws(method: str) -> None:
    net, x = network(), batch()
    study = ll.compare_shifts(net, x, method, [0.5, 4.0])
    own = ll.explain(net, x, method)
    assert list(study) == ["+0", "+0.5", "+4"] and torch.equal(study["+0"].values, own.values)
    for shift in (0.5, 4.0):
        again = ll.explain(net, x + shift, method, target=own.target, draws_of=x)
        assert torch.equal(study[f"+{shift:g}"].values, again.values)
        assert torch.equal(study[f"+{shift:g}"].inputs, x + shift)  # not clipped
    assert torch.equal(study.alike[:, 1], rank_correlation(own.heatmap(), study[1].heatmap()))
    assert torch.equal(study.structure[:, 2], ssim(own.heatmap(), study[2].heatmap()))
    assert torch.allclose(study.alike[:, 0], torch.ones(2).double())


def test_the_figures_are_those_of_the_check() -> None:
    net, x = network(), batch()
    study = ll.compare_shifts(net, x, "gradient", [0.1, 0.4])
    detail = ll.check(net, x, "gradient", ll.BiasShift(levels=(0.1, 0.4)))[0].detail
    assert torch.allclose(study.alike[:, 1:], detail["spearman"])
    assert torch.allclose(study.structure[:, 1:], detail["ssim"])


def test_what_is_said_and_what_is_clipped() -> None:
    class Brightness(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.flatten(1).mean(1)
            return torch.stack([mean, torch.full_like(mean, 0.75)], 1)

    x = torch.linspace(0, 1, 100).reshape(1, 1, 10, 10)
    study = ll.compare_shifts(Brightness(), x, "gradient", [0.4], target=0, outputs="logits")
    assert study.said(0) == f"class 1 {1 / (1 + np.exp(-0.25)):.1%}, score 0.5"
    assert study.said(1) == f"class 0 {1 / (1 + np.exp(-0.15)):.1%}, score 0.9"
    assert study.clipped.tolist() == [[0.0, 0.4]]  # 40 of 0, 1/99, ... are above 0.6
    assert study.remarks(0, 0) == ()


def test_the_tiles_get_brighter_and_the_maps_share_a_scale(tmp_path: Path) -> None:
    net, x = network(), batch(1)
    study = ll.compare_shifts(net, x, "gradient", [0.0, 0.4, 0.8])
    shown = np.asarray(study.show()).astype(float)
    room = shown.shape[1] // 3
    grey = [shown[60:300, 40 + k * room : 300 + k * room].mean() for k in range(3)]
    assert grey[0] < grey[1] < grey[2]
    study.save(tmp_path / "a.png")
    study.save(tmp_path / "a.pdf")
    folder = study.save(tmp_path / "a.safetensors")
    saved = [ll.Attribution.load(each).values for each in sorted(folder.glob("*.safetensors"))]
    assert all(torch.equal(a, b.values) for a, b in zip(saved, study.values(), strict=True))
    assert json.loads((folder / "summary.json").read_text())["shifts"] == [0.0, 0.4, 0.8]


def test_bad_shifts_are_named() -> None:
    net, x = network(), batch()
    with pytest.raises(TypeError, match=r"shifts: 0.1 is no list"):
        ll.compare_shifts(net, x, "gradient", 0.1)
    with pytest.raises(ValueError, match=r"shifts: nan is no number"):
        ll.compare_shifts(net, x, "gradient", [float("nan")])
    with pytest.raises(ValueError, match="not a picture's"):
        ll.compare_shifts(nn.Linear(3, 2), torch.rand(1, 3), "gradient").show()


def run(*arguments: str) -> Result:
    options = ["--model", "own_model_to_sweep:tiny", "--no-progress", "-o", "out"]
    return CliRunner().invoke(app, ["explain", "demo", *arguments, *options])


def test_the_command_writes_one_figure_of_all_methods(here: Path) -> None:
    done = run("-m", "gradient,integrated-gradients(Midpoint(4))", "--shift", "0,0.1,0.4")
    assert done.exit_code == 0, done.output
    assert "the model says" in done.stdout and "rank correlation" in done.stdout
    with Image.open(here / "out" / "demo-shift.png") as figure:
        assert figure.width > 1000
    assert len(list((here / "out").rglob("*.safetensors"))) == 6
    document = json.loads(run("-m", "gradient", "--shift", "0.1", "--json").stdout)["pictures"][0]
    study = document["methods"]["gradient"]
    assert study["shifts"] == [0.0, 0.1] and len(study["said"][0]) == 2
    assert -1 <= study["rank_correlation_with_unshifted"][0][1] <= 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--shift", "0.1,bright"), "'bright' is no number"),
        (("--shift", "0.1", "--top", "2"), "give one of the two options"),
        (("--shift", "0.1", "--baseline", "black,white"), "give one"),
    ],
)
def test_the_command_refuses(here: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run("-m", "gradient", *arguments)
    assert done.exit_code == 2 and message in done.output
    assert not (here / "out").exists()
