"""The result: reading it, saving it, loading it, showing it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import limelight as ll

from .networks import CASES, conv_net, pictures


@pytest.mark.parametrize("method", CASES, ids=repr)
def test_save_and_load_give_back_everything(method: ll.Method, tmp_path: Path) -> None:
    baseline = ll.Samples(pictures(4, seed=2), n=2)
    a = ll.explain(conv_net(), pictures(2), method, target=ll.Margin((0, 3), other=1), baseline=baseline)
    b = ll.Attribution.load(a.save(tmp_path / "map.safetensors"))
    for name in ("values", "raw", "inputs", "score", "baseline_score", "stderr", "spread", "outputs", "delta"):
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


def test_heatmaps() -> None:
    a = ll.explain(conv_net(), pictures(2), "gradient")
    torch.testing.assert_close(a.heatmap(), a.values.sum(1))
    torch.testing.assert_close(a.heatmap("abs"), a.values.abs().sum(1))
    torch.testing.assert_close(a.heatmap("max"), a.values.abs().amax(1))
    torch.testing.assert_close(a.heatmap("norm"), a.values.norm(dim=1))
    row = ll.explain(torch.nn.Linear(3, 2).double(), torch.rand(2, 3).double(), "gradient")
    assert row.heatmap().shape == (2, 3)
    assert "<pre>" in row._repr_html_()
    with pytest.raises(ValueError, match=r"not a picture's"):
        row.show()


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


def test_captions_say_what_the_map_cost_and_whether_it_sums() -> None:
    p = ll.explain(conv_net(), pictures(1), ["gradient", "integrated-gradients", "smooth-grad"])
    assert "delta: no sum promised" in p["gradient"].caption()
    assert any(line.startswith("delta ") and "of the change" in line for line in p["integrated-gradients"].caption())
    assert any(line.startswith("standard error ") for line in p["smooth-grad"].caption())
    assert f"{p['smooth-grad'].forward_rows} forward + 32 backward rows" in p["smooth-grad"].caption()
