"""A hyper-parameter over a list of values."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

import limelight as ll
from limelight.base.similarity import rank_correlation
from limelight.cli.main import app
from limelight.show.exhibits import one_scale

from .networks import conv_net, pictures
from .test_methods import Counting

MODEL = """
import torch
from torch import nn
from limelight.models import ImageModel, Preprocessing


def tiny():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6),
    )
    return ImageModel(network, Preprocessing(size=32), (), "tiny")
"""


def test_a_sweep_holds_the_maps_that_explain_gives() -> None:
    net, x = conv_net(), pictures(2)
    found = ll.sweep(net, x, ll.SmoothGrad(samples=4), noise=[0.05, 0.1, 0.4], target=0)
    assert list(found) == ["noise=0.05", "noise=0.1", "noise=0.4"] and found.shape == (3,)
    for label, noise in zip(found, (0.05, 0.1, 0.4), strict=True):
        own = ll.explain(net, x, ll.SmoothGrad(samples=4, noise=noise), target=0)
        torch.testing.assert_close(found[label].values, own.values)
    near = found.neighbours["noise"]
    assert near.shape == (2, 2)
    torch.testing.assert_close(near[:, 1], rank_correlation(found[1].heatmap(), found[2].heatmap()))


def test_two_fields_make_a_grid() -> None:
    found = ll.sweep(conv_net(), pictures(1), "smooth-grad", samples=[2, 4], noise=[0.1, 0.2, 0.3], target=0)
    assert found.shape == (2, 3) and list(found)[4] == "samples=4, noise=0.2"
    assert found.rows() == [[0, 1, 2], [3, 4, 5]]
    down, across = found.neighbours["samples"], found.neighbours["noise"]
    assert down.shape == (1, 1, 3) and across.shape == (1, 2, 2)
    assert float(down[0, 0, 1]) == pytest.approx(float(rank_correlation(found[1].heatmap(), found[4].heatmap())))
    assert float(across[0, 1, 1]) == pytest.approx(float(rank_correlation(found[4].heatmap(), found[5].heatmap())))
    last = found.tiles()[5].lines
    assert last[0].startswith("rank correlation with samples=2: ")
    assert last[1].startswith("rank correlation with noise=0.2: ")


def test_layers_are_swept_over() -> None:
    net, x = conv_net(), pictures(1)
    found = ll.sweep(net, x, "grad-cam", layer=["stem", "body", net.act], target=0)
    assert list(found) == ["layer=stem", "layer=body", "layer=Softplus"]
    assert [each.layer for each in found.values()] == ["stem", "body", "act"]
    inside = ll.sweep(net, x, ll.AtLayer(ll.IntegratedGradients(ll.Midpoint(2))), layer=["stem", "body"], target=0)
    assert [each.layer for each in inside.values()] == ["stem", "body"]
    numbered = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).double()
    assert list(ll.sweep(numbered, x, "grad-cam", layer=[0, 1], target=0)) == ["layer=0", "layer=1"]  # type: ignore[list-item]


def test_a_field_of_a_part_is_named_with_two_underscores() -> None:
    found = ll.sweep(conv_net(), pictures(1), "integrated-gradients", quadrature__n=[4, 8, 16], target=0)
    assert list(found) == ["quadrature.n=4", "quadrature.n=8", "quadrature.n=16"]
    assert found[2].method == ll.IntegratedGradients(16)
    assert float(found.neighbours["quadrature.n"].min()) > 0.9
    inner = ll.sweep(conv_net(), pictures(1), "smooth-grad", inner=[ll.Gradient(), ll.GradCAM()], samples=[2], target=0)
    assert found.shape == (3,) and inner.shape == (2, 1)


def test_sweeps_and_studies_caution_where_a_map_has_not_converged() -> None:
    net, x = conv_net(), pictures(2)
    found = ll.sweep(net, x, ll.IntegratedGradients(4, tolerance=1e-4), most_nodes=[4, 300], target=0)
    assert all(each.startswith("most_nodes=4: example") and "own error" in each for each in found.cautions)
    assert len(found.cautions) == 2 and found.summary()["cautions"] == list(found.cautions)
    assert [each for label, each in found._facts() if label == "caution"] == list(found.cautions)
    study = ll.compare_baselines(net, x, ll.IntegratedGradients(4, tolerance=1e-9, most_nodes=5), [0.0, 0.5], target=0)
    assert sum("NOT converged" in each for each in study.cautions) == 4
    assert not ll.compare_baselines(net, x, "integrated-gradients", [0.0, 0.5], target=0).cautions


def test_a_sweep_shares_the_clean_pass() -> None:
    spy = Counting(conv_net())
    ll.sweep(spy, pictures(2), "integrated-gradients", quadrature=[ll.Midpoint(3), ll.Midpoint(5)], target=0)
    assert spy.rows == 2 + 1 + 1 + 2 * (3 + 5)  # f(x), f(b) and the probe once


def test_a_sweep_is_shown_and_saved(tmp_path: Path) -> None:
    found = ll.sweep(conv_net(), pictures(1), "smooth-grad", samples=[2, 4], noise=[0.1, 0.2, 0.3], target=0)
    wide = found.show()
    one = ll.explain(conv_net(), pictures(1), "gradient", target=0).show()
    assert wide.width > 1.8 * one.width  # the picture and three columns, where one map has two
    assert found.save(tmp_path / "a.png").exists() and found.save(tmp_path / "a.html").exists()
    folder = found.save(tmp_path / "a.safetensors")
    assert (folder / "0 samples=2, noise=0.1.safetensors").exists()


def test_several_pictures_are_drawn_as_a_grid_with_one_scale_each() -> None:
    net, x = conv_net(), pictures(3)
    x[2] *= 0.01
    found = ll.sweep(net, x, "smooth-grad", noise=[0.1, 0.2], target=0)
    one, all_ = found.show(1), found.show()
    assert all_.height > 2 * one.height and all_.width == one.width
    for example in range(3):
        maps = [each.viewed()[example] for each in found.values()]
        together = torch.cat([each.flatten() for each in maps]).abs().double()
        (limit,) = {scale.limit for scale in one_scale(maps)}
        assert limit == pytest.approx(float(together.quantile(0.995)))


def test_bad_sweeps_are_refused() -> None:
    net, x = conv_net(), pictures(1)
    with pytest.raises(ValueError, match=r"smooth-grad has no 'noises'; use .*noise"):
        ll.sweep(net, x, "smooth-grad", noises=[0.1])
    with pytest.raises(ValueError, match="fields: none"):
        ll.sweep(net, x, "smooth-grad")
    with pytest.raises(ValueError, match="one field or two"):
        ll.sweep(net, x, "smooth-grad", noise=[0.1], samples=[2], antithetic=[True])
    with pytest.raises(TypeError, match=r"samples: 4 is no list; use samples=\[4\]"):
        ll.sweep(net, x, "smooth-grad", samples=4)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"reduce: 'mean' is no list; use reduce=\['mean'\]"):
        ll.sweep(net, x, "occlusion", reduce="mean")
    with pytest.raises(ValueError, match=r"SmoothGrad\.samples=3"):
        ll.sweep(net, x, "smooth-grad", samples=[3])


# The command line --------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_model_to_sweep.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_model_to_sweep", raising=False)
    return tmp_path


def run(command: str, *arguments: str) -> Result:
    options = ["--model", "own_model_to_sweep:tiny", "--no-progress", "-o", "out"]
    return CliRunner().invoke(app, [command, "demo", *arguments, *options])


def test_the_command_prints_a_table_and_writes_a_grid(here: Path) -> None:
    done = run("sweep", "-m", "smooth-grad", "-f", "samples=2,4", "-f", "noise=0.1,0.2")
    assert done.exit_code == 0, done.output
    assert "samples=4, noise=0.2" in done.stdout and "samples=2: " in done.stdout
    stem = "demo-smooth-grad-by-samples-noise"
    assert (here / "out" / f"{stem}.png").exists() and (here / "out" / f"{stem}.html").exists()
    assert len(list((here / "out" / stem).glob("*.safetensors"))) == 4


def test_the_command_sweeps_over_several_pictures(here: Path) -> None:
    for k in range(2):
        Image.new("RGB", (32, 32), (90 * k, 40, 200)).save(here / f"{k}.png")
    options = ("--model", "own_model_to_sweep:tiny", "--no-progress", "-o", "out", "-m", "smooth-grad(samples=2)")
    done = CliRunner().invoke(app, ["sweep", "0.png", "1.png", "-f", "noise=0.1,0.2", *options])
    assert done.exit_code == 0, done.output
    assert "0.png: smooth-grad by noise, class" in done.stdout and "1.png: " in done.stdout
    assert (here / "out" / "2-pictures-smooth-grad-by-noise.png").exists()
    document = json.loads(CliRunner().invoke(app, ["sweep", "[01].png", "-f", "noise=0.1", *options, "--json"]).stdout)
    assert [each["picture"] for each in document["pictures"]] == ["0.png", "1.png"]
    assert "picture" not in document


def test_the_command_sweeps_over_layers_and_parts_as_json(here: Path) -> None:
    done = run("sweep", "-m", "grad-cam", "-f", "layer=network.0,network.2", "--json")
    document = json.loads(done.stdout)
    assert (
        document["labels"] == ["layer=network.0", "layer=network.2"] and document["fields"]["layer"][1] == "network.2"
    )
    assert -1 <= document["neighbours"]["layer"][0] <= 1
    parts = run("sweep", "-m", "integrated-gradients", "-f", "quadrature=Midpoint(2),Trapezoid(3)", "--json")
    assert json.loads(parts.stdout)["labels"] == ["quadrature=Midpoint(n=2)", "quadrature=Trapezoid(n=3)"]


def test_the_command_refuses_what_it_cannot_sweep(here: Path) -> None:
    for arguments, message in (
        (("-m", "grad-cam", "-f", "noise=1"), "has no 'noise'"),
        (("-m", "grad-cam", "-f", "relu"), "write a setting and its values"),
        (("-m", "grad-cam,gradient", "-f", "relu=True"), "a sweep takes one"),
        (("-m", "grad-cam", "-f", "layer=network.0", "--layer", "network.2"), "give one of them"),
        (("-m", "grad-cam", "-f", "layer=network.77"), "is not a module"),
        (("-m", "smooth-grad", "-f", "noise=0.1,abc"), "SmoothGrad.noise='abc'"),
        (("-m", "smooth-grad", "-f", "noise=0.1,0.2", "-f", "samples=2,3"), "SmoothGrad.samples=3"),
    ):
        done = run("sweep", *arguments)
        assert done.exit_code == 2 and message in done.output
    assert not (here / "out").exists()


def test_explain_compares_several_baselines(here: Path) -> None:
    methods = "gradient,integrated-gradients(Midpoint(4))", "--top", "1"
    done = run("explain", "-m", *methods, "--baseline", "black,white,0.5", "--check-rows", "0")
    assert done.exit_code == 0, done.output
    assert "integrated-gradients: rank correlation" in done.stdout and "integrated-gradients, white" in done.stdout
    assert (here / "out" / "demo" / "integrated-gradients, constant.safetensors").exists()
    again = run("explain", "-m", *methods, "--baseline", "black,white", "--check-rows", "0", "--json")
    (explanation,) = json.loads(again.stdout)["pictures"][0]["explanations"]
    assert explanation["baseline_studies"]["integrated-gradients"]["labels"] == ["black", "white"]
    names = ["gradient", "integrated-gradients, black", "integrated-gradients, white"]
    assert [each["method"] for each in explanation["maps"]] == names
    rows = sum(each["forward_rows"] for each in explanation["maps"])
    assert explanation["forward_rows"] < rows  # shared passes are counted once
    assert run("explain", "-m", *methods, "--baseline", "black,grey").exit_code == 2
