"""Figures for papers: sizes, text that stays text, the user's axes; and panels in one file."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import limelight as ll
from limelight.base.attribution import Panel
from limelight.runs.job import described
from limelight.show import draw_figure

from .networks import conv_net, pictures

pytestmark = pytest.mark.quick
METHODS = ["gradient", "grad-cam", ll.SmoothGrad(samples=4), ll.Occlusion(window=torch.eye(4))]


@pytest.fixture(scope="module")
def panel() -> Panel:
    return ll.explain(conv_net(), pictures(2), METHODS, target=1)


class TestFigure:
    @pytest.fixture(autouse=True)
    def matplotlib(self) -> None:
        pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")

    @pytest.mark.parametrize("width_cm", [8.5, 17.8])
    @pytest.mark.parametrize("columns", [2, 5])
    @pytest.mark.parametrize("font_size", [9])
    def test_it_has_the_width_asked_for_and_no_text_leaves_it_or_meets_other_text(
        self, panel: Panel, width_cm: float, columns: int, font_size: float
    ) -> None:
        figure: Any = draw_figure(panel, width_cm=width_cm, columns=columns, font_size=font_size, heading="A heading")
        figure.set_dpi(254)  # a hundred pixels a centimetre
        figure.canvas.draw()
        width, height = figure.canvas.get_width_height()
        assert width == pytest.approx(100 * width_cm, abs=1)
        written = [each for each in _texts(figure) if each.get_text()]
        sizes = {each.get_fontsize() for each in written if not re.fullmatch(r"[-\d.e]+", each.get_text())}
        assert sorted(sizes) == pytest.approx([0.83 * font_size, font_size, 1.2 * font_size])
        boxes = [each.get_window_extent() for each in written]
        for k, box in enumerate(boxes):
            assert box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1
            assert not [each for each in boxes[:k] if _overlap(each, box)]

    def test_text_in_vector_files_is_text(self, panel: Panel, tmp_path: Path) -> None:
        draw_figure(panel, width_cm=17, font_size=6).savefig(tmp_path / "a.svg")
        words = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "a.svg").read_text())
        assert {"picture", "gradient", "grad-cam", "smooth-grad", "(!) occlusion"} <= set(words)
        assert any("evaluations" in each for each in words) and any("percentile" in each for each in words)
        draw_figure(panel).savefig(tmp_path / "a.pdf")
        pdf = (tmp_path / "a.pdf").read_bytes()
        assert b"/Type3" not in pdf.replace(b" ", b"") and b"/FontFile2" in pdf  # TrueType, no drawn glyphs

    @pytest.mark.parametrize("suffix", ["pdf", "svg"])
    def test_a_panel_is_saved_alike_each_time(self, panel: Panel, tmp_path: Path, suffix: str) -> None:
        first, second = (panel.save(tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
        assert first == second and len(first) > 1000
        assert panel[0].save(tmp_path / f"one.{suffix}").stat().st_size < len(first)

    def test_maps_only(self, panel: Panel) -> None:
        figure = draw_figure(panel, maps_only=True)
        assert [each.get_title(loc="left").removeprefix("(!) ") for each in figure.axes] == list(panel)
        assert not [each for axes in figure.axes for each in axes.texts if each.get_text()]
        assert all(axes.child_axes for axes in figure.axes)  # the bars

    def test_the_example_is_drawn(self, panel: Panel) -> None:
        shown = [np.asarray(draw_figure(panel, example=k).axes[0].images[0].get_array()) for k in (0, 1)]
        assert (shown[1] == np.asarray(panel[0]._picture(1))).all() and (shown[0] != shown[1]).any()

    def test_axes_of_ones_own(self, panel: Panel) -> None:
        from matplotlib.figure import Figure

        own = Figure((8, 3))
        axes = own.subplots(1, len(panel) + 1)
        assert draw_figure(panel, ax=axes) is own and tuple(own.get_size_inches()) == (8, 3)
        assert [each.get_title(loc="left").removeprefix("(!) ") for each in axes] == ["picture", *panel]
        assert "percentile" in axes[1].get_xlabel() and not axes[0].get_xlabel()
        single = Figure().subplots()
        draw_figure(panel[0], ax=single)
        assert single.get_title(loc="left") == "gradient"
        with pytest.raises(ValueError, match="ax: 1 axes for 4 maps; give 4, or 5 with the picture first"):
            draw_figure(panel, ax=single)
        with pytest.raises(ValueError, match="ax: 5 axes for 4 maps; give 4"):
            draw_figure(panel, ax=axes, maps_only=True)

    @pytest.mark.parametrize(
        "settings", [{"columns": 0}, {"width_cm": 0}, {"width_cm": float("nan")}, {"font_size": -1}], ids=str
    )
    def test_errors_name_the_setting(self, panel: Panel, settings: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=f"^{next(iter(settings))}: "):
            draw_figure(panel, **settings)

    def test_a_panel_takes_no_tiles(self, panel: Panel) -> None:
        with pytest.raises(ValueError, match="tiles"):
            draw_figure(panel, panel.tiles())
        with pytest.raises(ValueError, match="nothing to draw"):
            draw_figure(Image.new("RGB", (8, 8)), maps_only=True)


def _overlap(a: Any, b: Any) -> bool:
    return min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1


def _texts(figure: Any) -> list[Any]:
    found = list(figure.texts)
    for axes in [each for top in figure.axes for each in (top, *top.child_axes)]:
        found += [axes.title, axes._left_title, *axes.texts]
        found += [] if not axes.axison else axes.get_xticklabels()
    return found


class TestOneFile:
    def same(self, a: Any, b: Any) -> bool:
        if isinstance(a, Tensor):
            return a.dtype == b.dtype and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
        return described(a) == described(b)

    @pytest.mark.parametrize(
        "options",
        [
            {"target": 1},
            {"target": [[0, 1, 2], [2, 1, 0]]},
            {"target": ll.Margin(1, 2), "baseline": "blur(2)"},
            {"target": ll.Probability(2), "baseline": torch.full((3, 8, 8), 0.3).double()},
        ],
        ids=["class", "several", "margin", "tensors"],
    )
    def test_it_comes_back_whole(self, options: dict[str, Any], tmp_path: Path) -> None:
        made = ll.explain(conv_net(), pictures(2), [*METHODS, "integrated-gradients"], **options)
        back = Panel.load(made.save(tmp_path / "panel.npz"))
        assert list(back) == list(made) and sorted(each.name for each in tmp_path.iterdir()) == ["panel.npz"]
        assert (back.forward_rows, back.backward_rows, back.cached_rows) == (
            made.forward_rows,
            made.backward_rows,
            made.cached_rows,
        )
        for name in made:
            for field in dataclasses.fields(made[name]):
                assert self.same(getattr(made[name], field.name), getattr(back[name], field.name)), (name, field.name)
        assert back.show().tobytes() == made.show().tobytes()

    def test_numpy_and_json_alone_read_it(self, panel: Panel, tmp_path: Path) -> None:
        with np.load(panel.save(tmp_path / "p.npz"), allow_pickle=False) as opened:
            arrays = dict(opened)
        assert (arrays["inputs"] == panel[0].inputs.numpy()).all() and (arrays["score"] == panel[0].score.numpy()).all()
        for name, each in panel.items():
            assert (arrays[f"{name}/values"] == each.values.numpy()).all()
            assert f"{name}/inputs" not in arrays  # once for all
        record = json.loads(str(arrays["limelight"]))
        assert record["maps"]["smooth-grad"]["method"]["fields"]["samples"] == 4
        assert record["forward_rows"] == panel.forward_rows

    def test_maps_of_a_baseline_study(self, tmp_path: Path) -> None:
        study = ll.compare_baselines(conv_net(), pictures(1), baselines=["black", "blur(2)"])
        back = Panel.load(study.save(tmp_path / "s.npz"))
        assert list(back) == list(study) and back["blur"].baseline == ll.Blur(2)
        assert torch.equal(back["blur"].values, study["blur"].values)

    def test_floats_that_numpy_lacks(self, panel: Panel, tmp_path: Path) -> None:
        half = dataclasses.replace(panel[0], values=panel[0].values.bfloat16())
        back = ll.Attribution.load(half.save(tmp_path / "a.npz"))
        assert back.values.dtype == torch.bfloat16 and torch.equal(back.values, half.values)

    def test_one_map(self, panel: Panel, tmp_path: Path) -> None:
        assert torch.equal(ll.Attribution.load(panel[1].save(tmp_path / "a.npz")).values, panel[1].values)
        with pytest.raises(ValueError, match=r"holds 4 maps; use Panel\.load"):
            ll.Attribution.load(panel.save(tmp_path / "p.npz"))

    def test_other_files_are_refused(self, panel: Panel, tmp_path: Path) -> None:
        whole = panel.save(tmp_path / "p.npz").read_bytes()
        (tmp_path / "short.npz").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "text.npz").write_text("hello")
        np.savez(tmp_path / "other.npz", a=np.zeros(3))
        pickled = io.BytesIO()
        np.savez(pickled, limelight=np.array([{"a": 1}], dtype=object))
        (tmp_path / "pickled.npz").write_bytes(pickled.getvalue())
        np.savez(tmp_path / "later.npz", limelight=np.array(json.dumps({"format": 99})))
        for name in ("short", "text", "other", "pickled", "later"):
            with pytest.raises(ValueError, match=rf"path: .*{name}\.npz.* use a file that Panel\.save wrote"):
                Panel.load(tmp_path / f"{name}.npz")
        with pytest.raises(ValueError, match=r"a folder; load its files with Attribution\.load"):
            Panel.load(panel.save(tmp_path / "maps.safetensors"))
        with pytest.raises(FileNotFoundError):
            Panel.load(tmp_path / "none.npz")
        with pytest.raises(ValueError, match=r"use \.png, \.html, \.pdf, \.svg, \.npz or \.safetensors"):
            panel.save(tmp_path / "p.txt")


def test_the_figure_names_its_extra(monkeypatch: pytest.MonkeyPatch, panel: Panel) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    with pytest.raises(ImportError, match=r"limelight\[plot\]"):
        draw_figure(panel)
