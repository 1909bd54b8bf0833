"""The result: reading it, saving it, loading it, showing it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import limelight as ll
from limelight.base.records import write
from limelight.show.image import png_bytes

from .networks import conv_net, every_case, pictures


@every_case
def test_save_and_load_give_back_everything(method: ll.Method, tmp_path: Path) -> None:
    baseline, margin = ll.Samples(pictures(4, seed=2), n=2), ll.Margin((0, 3), other=1)
    explained = [0, 3] if "FinerCAM" in repr(method) else margin  # which compares logits alone
    a = ll.explain(conv_net(), pictures(2), method, target=explained, baseline=baseline)
    a = replace(a, target=margin)
    b = ll.Attribution.load(a.save(tmp_path / "map.safetensors"))
    for name in (
        "values",
        "raw",
        "inputs",
        "score",
        "baseline_score",
        "stderr",
        "raw_stderr",
        "spread",
        "outputs",
        "delta",
    ):
        mine, theirs = getattr(a, name), getattr(b, name)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, atol=0, rtol=0, equal_nan=True)
    assert repr(a.method) == repr(b.method)
    for name in (
        "target",
        "layer",
        "seed",
        "versions",
        "notes",
        "forward_rows",
        "backward_rows",
        "complete",
        "arithmetic",
        "name",
    ):
        assert getattr(a, name) == getattr(b, name)
    assert torch.equal(b.baseline.data, baseline.data) and b.baseline.n == 2
    record = json.loads((tmp_path / "map.json").read_text())
    assert record["method"]["$class"] == type(method).__name__
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.json", "map.safetensors"]


def test_what_cannot_be_stored_comes_back_as_text_and_foreign_files_are_refused(tmp_path: Path) -> None:
    a = ll.explain(conv_net(), pictures(1), "gradient", target=lambda z: z.sum(1))
    assert "Function" in ll.Attribution.load(a.save(tmp_path / "a.safetensors")).target
    path = tmp_path / "a.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        ll.Attribution.load(path)
    (tmp_path / "b.safetensors").write_bytes(b"hello")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        ll.Attribution.load(tmp_path / "b.safetensors")


def test_a_file_cannot_name_a_class_that_is_not_ours(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for name in ("Popen", "explain", "load_model", "Attribution.load"):
        record = json.dumps({"method": {"$class": name, "fields": {}}})
        save_file({}, tmp_path / "c.safetensors", metadata={"limelight": record})
        with pytest.raises(ValueError, match="does not know"):
            ll.Attribution.load(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    "record",
    [
        "[]",
        '{"values": 1',
        '{"values": 1}',
        "{}",
        '{"x": {"$class": "Gradient", "fields": {"z": 1}}}',
        '{"values": {"$tensor": "nope"}}',
        '{"values": {"$class": "Gradient"}}',
        '{"values": {"$tuple": 3}}',
        '{"method": {"$class": "SmoothGrad", "fields": {"samples": 3}}}',
    ],
)
def test_a_record_that_is_no_attribution_is_refused(record: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "d.safetensors", metadata={"limelight": record})
    with pytest.raises(ValueError, match=r"path: .*d\.safetensors.* use a file that Attribution\.save wrote"):
        ll.Attribution.load(tmp_path / "d.safetensors")


def test_heatmaps() -> None:
    a = ll.explain(conv_net(), pictures(2), "gradient")
    torch.testing.assert_close(a.heatmap(), a.values.sum(1))
    torch.testing.assert_close(a.heatmap("abs"), a.values.abs().sum(1))
    torch.testing.assert_close(a.heatmap("max"), a.values.abs().amax(1))
    torch.testing.assert_close(a.heatmap("norm"), a.values.norm(dim=1))
    row = ll.explain(torch.nn.Linear(3, 2).double(), torch.rand(2, 3).double(), "gradient")
    assert row.heatmap().shape == (2, 3)
    assert "<figure" in row._repr_html_() and row.show().width > 0


def test_panel_is_a_mapping_that_tells_equal_names_apart(tmp_path: Path) -> None:
    methods = [ll.Gradient(), ll.Occlusion(4, 4), ll.Occlusion(2, 2)]
    p = ll.explain(conv_net(), pictures(2), methods)
    assert list(p) == ["gradient", repr(methods[1]), repr(methods[2])] and len(p) == 3
    assert p[methods[2]] is p[2] is p[repr(methods[2])]
    with pytest.raises(KeyError, match=r"rise.*gradient"):
        p["rise"]
    for suffix in ("png", "html"):
        assert p.save(tmp_path / f"panel.{suffix}").stat().st_size > 1000
    with Image.open(tmp_path / "panel.png") as picture:
        assert picture.size[0] > 600
    folder = p.save(tmp_path / "maps.safetensors")
    assert len(list(folder.glob("*.safetensors"))) == 3
    assert "<img" in p._repr_html_() and "Panel(gradient" in repr(p)
    assert p.show(1).size == p.show(0).size


def test_two_settings_of_a_method_are_told_apart_wherever_a_panel_is_seen(tmp_path: Path) -> None:
    methods = [ll.SmoothGrad(ll.Gradient(), samples=4), ll.SmoothGrad(ll.Gradient(), samples=64)]
    p = ll.explain(conv_net(), pictures(1), methods, target=0)
    assert [tile.title for tile in p.tiles()] == [repr(method) for method in methods]
    for page in (p.save(tmp_path / "p.html").read_text(), p._repr_html_()):
        for method in methods:
            assert f'"title":{json.dumps(repr(method))}' in page.replace('": "', '":"')
        assert '"smooth-grad"' not in page and ">smooth-grad<" not in page
    drawn = p.save(tmp_path / "p.png").read_bytes()
    assert drawn == png_bytes(p.show())
    assert ll.explain(conv_net(), pictures(1), methods[0], target=0).tiles()[0].title == "smooth-grad"


def test_a_panel_is_saved_whatever_its_methods_are_called(tmp_path: Path) -> None:
    segments = (torch.arange(64).reshape(8, 8) // 16, torch.arange(64).reshape(8, 8).T // 16)
    methods = [*map(ll.FeatureAblation, segments), ll.Gradient()]
    long = [ll.SmoothGrad(ll.IntegratedGradients(ll.GaussLegendre(n)), samples=2, noise=0.1) for n in (2, 3)]
    for inner in range(4):
        long = [ll.SmoothGrad(each, samples=2, noise=0.1 + 0.1 * inner) for each in long]
    p = ll.explain(conv_net(), pictures(1), [*methods, *long], target=0)
    assert max(map(len, p)) > 255 and any("\n" in name for name in p)
    folder = p.save(tmp_path / "maps.safetensors")
    saved = sorted(path.name for path in folder.glob("*.safetensors"))
    assert "gradient.safetensors" in saved and len(saved) == len(p)
    assert all(name.isprintable() and len(name) < 120 for name in saved)
    again = [ll.Attribution.load(folder / name) for name in saved]
    assert {repr(each.method) for each in again} == {repr(each.method) for each in p.values()}


def test_captions_say_what_the_map_cost_and_whether_it_sums() -> None:
    p = ll.explain(conv_net(), pictures(1), ["gradient", "integrated-gradients", "smooth-grad"])
    assert not any("delta" in line or "score" in line for line in p["gradient"].caption())  # what says nothing
    assert any(line.startswith("delta ") and "of the change" in line for line in p["integrated-gradients"].caption())
    assert any(line.startswith("standard error ") for line in p["smooth-grad"].caption())
    assert f"{p['smooth-grad'].forward_rows} forward + 32 backward model evaluations" in p["smooth-grad"].caption()


def test_an_arithmetic_that_is_not_plain_stands_beside_the_rows_and_in_files(tmp_path: Path) -> None:
    a = ll.explain(conv_net(), pictures(1), "gradient", arithmetic="plain")
    assert (
        a.arithmetic == "plain" and "1 forward + 1 backward model evaluations" in a.caption() and "rows 1+1)" in repr(a)
    )
    b = replace(a, arithmetic="packed")
    assert "1 forward + 1 backward model evaluations, packed" in b.caption() and "rows 1+1 packed)" in repr(b)
    assert ll.Attribution.load(b.save(tmp_path / "b.safetensors")).arithmetic == "packed"
    old = {name: value for name, value in a.fields().items() if name != "arithmetic"}
    assert ll.Attribution.load(write(tmp_path / "old.safetensors", old)).arithmetic == "plain"


@pytest.mark.parametrize(
    "method",
    [
        ll.KernelShap(players=ll.Grid(4), samples=64),
        ll.ShapleySampling(8, players=ll.Grid(2)),
        ll.Lime(players=ll.Grid(4), samples=64),
        ll.RISE(256, cells=2),
        ll.RISE(256, cells=2, tolerance=0.1),
    ],
    ids=repr,
)
def test_a_constant_model_has_no_error_and_no_map(method: ll.Method) -> None:
    a = ll.explain(lambda x: torch.ones(len(x), 2, dtype=x.dtype), pictures(1), method, target=0)
    assert a.stderr is not None and not a.stderr.any() and not a.values.any()
    assert "standard error 0% of the map" in a.caption()
    assert not any("NOT converged" in note for note in a.notes)


def test_an_unknown_standard_error_is_called_so_and_is_a_caution() -> None:
    a = ll.explain(conv_net(), pictures(1), ll.KernelShap(players=ll.Features(), samples=300), target=0)
    assert a.stderr is not None and a.stderr.isnan().all()
    assert "standard error unknown" in a.caption()
    assert any("stderr is NaN" in note for note in a.cautions) and a.tiles()[0].warning


@pytest.mark.parametrize("shape", [(2, 4, 2, 3, 5, 5), (2, 1, 1, 1, 1, 1)])
def test_inputs_that_cannot_be_drawn_are_text_in_a_notebook(shape: tuple[int, ...]) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2))
    net(torch.rand(shape))
    panel = ll.explain(net, torch.rand(shape), [ll.Gradient()], target=0)
    assert panel[0]._repr_html_().startswith("<pre>Attribution(") and panel._repr_html_().startswith("<pre>")
