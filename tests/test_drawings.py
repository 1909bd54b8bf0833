"""Volumes, series, columns and bands are drawn in every output; pictures keep their brightness; views in captions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import limelight as ll
from limelight.base import view as views
from limelight.base.steadiness import noise_words
from limelight.show import draw_figure, drawing_of, overlay, picture_of, tile_of
from limelight.show.colour import DIVERGING, MAGNITUDE
from limelight.show.image import TILE_OPACITY, size_of
from limelight.show.layouts import LAYOUT, Bars, Lines, Planes

from .networks import conv_net, pictures

SHAPES = {
    "columns": (7,),
    "many columns": (130,),
    "series": (3, 40),
    "one step": (2, 1),
    "long series": (40, 3000),
    "bands": (6, 12, 16),
    "volume": (1, 5, 6, 7),
    "bands of a volume": (4, 5, 6, 7),
    "clip": (3, 4, 16, 12),
}


class Sums(nn.Module):
    """Two smooth scores of inputs of any shape."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return torch.stack([flat.square().sum(1), flat.sin().sum(1)], 1)


def explained(shape: tuple[int, ...], **options: Any) -> ll.Panel:
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1)) - 0.3
    return ll.explain(Sums(), x, ["integrated-gradients(midpoint(4))", "smooth-grad(samples=4)"], target=0, **options)


@pytest.mark.parametrize("kind", SHAPES)
def test_no_output_refuses_a_kind_of_inputs(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    shape = SHAPES[kind]
    names = [f"name <{place}>" for place in range(shape[0])]
    panel = explained(shape, names=names)
    assert panel[0].names == tuple(names)
    for view in (None, "signed(sort=true)", "magnitude(percentile=90)", "positive", "negative", "signed(blocks=2)"):
        assert panel.show(1, view=view).mode == "RGB"
    panel.save(tmp_path / "a.png")
    panel[0].save(tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert page == (tmp_path / "a.html").read_text() and "<img" in panel._repr_html_()
    if len(shape) < 3:
        assert "name \\u003c0\\u003e" in page
    picture, tiles = panel[0]._picture(0), panel.tiles()
    assert len(draw_figure(picture, tiles).axes) >= 3
    loaded = ll.Attribution.load(panel[0].save(tmp_path / "a.safetensors"))
    assert loaded.names == tuple(names)


def test_maps_with_one_value_for_all_channels_are_drawn_over_all_of_them() -> None:
    x = torch.rand(1, 3, 40)
    a = ll.explain(Sums(), x, "occlusion(8, 8)", target=0)
    assert a.values.shape == (1, 1, 40) and a.show().mode == "RGB"
    tile, picture = a.tiles()[0], a._picture(0)
    shown = np.asarray(overlay(picture, tile.heatmap, tile.scale, TILE_OPACITY)).astype(int)
    three = np.asarray(overlay(picture, tile.heatmap.expand(3, -1), tile.scale, TILE_OPACITY)).astype(int)
    assert (shown == three).all()


def test_inputs_that_cannot_be_drawn_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2, 3, 4, 5\).*volumes"):
        drawing_of(torch.zeros(1, 2, 3, 4, 5))
    assert "<pre>" in explained((1, 2, 2, 2, 2))[0]._repr_html_()


class TestNames:
    def test_they_are_checked_where_they_are_given(self) -> None:
        with pytest.raises(ValueError, match=r"names: 2 names; inputs of shape \(2, 7\) have 7 columns"):
            explained((7,), names=["a", "b"])
        with pytest.raises(TypeError, match="names: 'abc'"):
            explained((3, 5), names="abc")
        with pytest.raises(ValueError, match="names: they are of one tensor"):
            parts = (torch.rand(2, 3), torch.rand(2, 3))
            ll.explain(lambda a, b: a + b, parts, "occlusion", target=0, names=["a", "b", "c"])

    def test_bands_are_chosen_by_number_or_name(self) -> None:
        inputs, names = torch.rand(6, 8, 9), ["B2", "B3", "B4", "B8", "B11", "B12"]
        same = np.asarray(picture_of(inputs[[3, 2, 1]]))
        for bands in ((4, 3, 2), ("B8", "B4", "B3")):
            assert (np.asarray(drawing_of(inputs, names=names, bands=bands)) == same).all()
        assert "bands B8, B4 and B3 of 6" in size_of(drawing_of(inputs, names=names, bands=(4, 3, 2)))
        with pytest.raises(ValueError, match="bands: 7; the inputs have B2, B3"):
            drawing_of(inputs, names=names, bands=(7,))
        with pytest.raises(ValueError, match="bands: 'B9'; the inputs have bands 1 to 6"):
            drawing_of(inputs, bands=("B9",))


class TestLayouts:
    def test_planes_go_through_the_voxel(self) -> None:
        values = torch.arange(5.0 * 6 * 7).reshape(5, 6, 7)
        layout = Planes((5, 6, 7), (3, 4, 2))
        index = layout.voxels()[:: layout.zoom, :: layout.zoom]
        assert (values.flatten()[index[:6, :7]] == values[3]).all()
        whole = layout.voxels()
        left = 7 * layout.zoom + 4
        assert (
            values.flatten()[whole[: 5 * layout.zoom : layout.zoom, left : left + 7 * layout.zoom : layout.zoom]]
            == values[:, 4]
        ).all()
        left += 7 * layout.zoom + 4
        assert (values.flatten()[whole[: 5 * layout.zoom : layout.zoom, left :: layout.zoom]] == values[:, :, 2]).all()

    def test_a_volume_is_drawn_through_its_strongest_voxel_on_the_scale_of_all(self) -> None:
        a = explained((1, 5, 6, 7))[0]
        values = a.viewed()[0]
        layout = a._picture(0).info[LAYOUT]
        assert values[layout.at].abs() == values.abs().max()
        assert a.tiles()[0].scale.limit == pytest.approx(float(np.percentile(values.abs().numpy(), 99.5)), rel=1e-6)

    def test_a_spike_of_a_long_series_is_seen(self) -> None:
        inputs, values = torch.zeros(2, 5000), torch.zeros(2, 5000)
        values[1, 3217] = 2.0
        picture, tile = drawing_of(inputs), tile_of("m", (), values, ll.View())
        layout: Lines = picture.info[LAYOUT]
        drawn = np.asarray(overlay(picture, tile.heatmap, tile.scale, 1.0)).astype(int)
        bright = (drawn[..., 0] - drawn[..., 2]) > 60
        assert bright.any(0).sum() == 1 and bright.any(0).argmax() == layout.left + 3217 * layout.width // 5000
        assert not bright[: layout.height].any()

    def test_bars_have_the_lengths_of_the_values(self) -> None:
        values = torch.tensor([1.0, -2.0, 0.0, 4.0])
        picture, tile = drawing_of(torch.zeros(4)), tile_of("m", (), values, ll.View())
        drawn = np.asarray(overlay(picture, tile.heatmap, tile.scale, 1.0)).astype(int)
        coloured = abs(drawn[..., 0] - drawn[..., 2]) > 60
        lengths = [int(coloured[22 * row + 12].sum()) for row in range(4)]
        assert lengths[3] == pytest.approx(95, abs=2) and tile.scale.limit == 4
        assert lengths[0] == pytest.approx(lengths[3] / 4, abs=2) and lengths[1] == pytest.approx(lengths[3] / 2, abs=2)
        assert lengths[2] <= 1

    def test_of_many_columns_the_strongest_are_drawn(self) -> None:
        values = torch.linspace(-3, 1, 130).double().numpy()
        layout = Bars(tuple(map(str, range(130))), tuple([0.0] * 130))
        strongest = np.argsort(-abs(values), kind="stable")[:40].tolist()
        assert layout.order(values) == sorted(strongest) and replace(layout, sort=True).order(values) == strongest


class TestBrightness:
    @pytest.mark.parametrize("noise", [0.0, 0.1])
    def test_mean_grey_of_a_tile_rises_with_the_shift(self, noise: float) -> None:
        x = pictures(1).float()[0].clamp(0, 1) + noise * torch.randn(
            3, 8, 8, generator=torch.Generator().manual_seed(0)
        )
        a = ll.explain(conv_net().float(), x[None], "gradient", target=0)
        shown = {}
        for shift in (-0.8, -0.4, -0.1, 0.0, 0.1, 0.4, 0.8):
            shifted = replace(a, inputs=a.inputs + shift)
            tile = shifted.tiles()[0]
            picture = shifted._picture(0)
            shown[shift] = [
                float(np.asarray(each.convert("L"), dtype=float).mean())
                for each in (picture, overlay(picture, tile.heatmap, tile.scale, TILE_OPACITY))
            ]
            values = (x + shift).double()
            beyond = float(((values < 0) | (values > 1)).any(0).double().mean())  # of pixels, not of channels
            assert ("clipped" in size_of(picture)) == (beyond > 0)
            if beyond >= 0.0005:
                assert f"{beyond:.1%} clipped" in size_of(picture)
        for before, after in zip(list(shown.values()), list(shown.values())[1:], strict=False):
            assert before[0] < after[0] and before[1] < after[1]

    def test_clipped_pictures_are_those_of_a_display(self) -> None:
        x = torch.tensor([-0.3, 0.2, 0.6, 1.4]).expand(3, 1, 4)
        assert np.asarray(picture_of(x, clip=True))[0, :, 0].tolist() == [0, 51, 153, 255]
        assert "50.0% clipped" in size_of(picture_of(x, clip=True))

    def test_normalised_inputs_are_scaled_and_the_caption_says_so(self) -> None:
        x = (torch.rand(3, 32, 32) - 0.45) / 0.225
        picture = picture_of(x)
        grey = np.asarray(picture)
        assert grey.min() == 0 and grey.max() == 255 and "scaled to black to white" in size_of(picture)
        assert "clipped" in size_of(picture_of(x, clip=True))


class TestCaptions:
    def test_the_view_is_named_and_percentile_and_total_are_said(self) -> None:
        panel = explained((3, 20, 20))
        assert panel.tiles()[0].caption[0] == (
            "magnitude summed over channels, smoothed by 0.3 pixels; colours end at percentile 99.5"
        )
        complete = panel.tiles(view="signed(blocks=5, percentile=90)")[0]
        total = float(panel[0].score[0] - panel[0].baseline_score[0])
        assert complete.caption[0] == (
            f"signed sum of channels, in blocks of 5 x 5 pixels; colours end at percentile 90; total {total:.3g}"
        )
        assert "total" not in panel.tiles(view="signed")[1].caption[0], "no sum is promised"

    @pytest.mark.parametrize("side", [1, 3, 8])
    def test_blocks_as_drawn_add_up_to_the_total(self, side: int) -> None:
        a = explained((3, 20, 17))[0]
        tile = a.tiles(view=f"signed(blocks={side})")[0]
        blocks = tile.heatmap[::side, ::side].double()
        assert float(blocks.sum()) == pytest.approx(float(a.score[0] - a.baseline_score[0]), abs=2e-3)
        assert f"total {float(blocks.sum()):.3g}" in tile.caption[0]

    def test_steadiness_names_the_view_that_it_is_of(self) -> None:
        a = explained((3, 20, 20))[1]
        own, other = (" ; ".join(a.caption(0, view)) for view in (None, "signed"))
        assert "two runs would correlate" in own and "read as" not in own
        assert "read as magnitude(smooth=0.015)" in other and "of the map ;" in other and "at single pixels" in own
        share = (1 - float(a.steadiness[0, 0])) ** 0.5
        assert f", standard error {share:.0%} of the spread" in own
        assert "read as" not in " ".join(a.caption(0, "magnitude(smooth=0.015, percentile=90)"))

    def test_a_magnitude_of_noise_says_so(self) -> None:
        values, stderr = torch.randn(3, 64, 64), torch.ones(3, 64, 64)
        (words,) = noise_words(values, stderr)
        assert words.startswith("noise alone would draw ") and 95 <= int(words.split()[-4].rstrip("%")) <= 100
        assert noise_words(values, 0.2 * stderr) == [] and noise_words(0 * values, stderr) == []
        a = ll.explain(Sums(), torch.rand(1, 3, 8, 8), ll.SmoothGrad(samples=4, noise=3.0), target=1)
        assert "noise alone" in " ".join(a.caption()) and "noise alone" not in " ".join(a.caption(0, "signed"))

    def test_series_and_columns_are_drawn_with_their_sign(self) -> None:
        for shape in ((7,), (3, 40)):
            a = explained(shape)[1]
            assert a.view == ll.View() and a.tiles()[0].scale.signed and a.tiles()[0].how.startswith("signed; ")


class TestTexts:
    def test_every_verb_that_takes_a_view_takes_its_text(self) -> None:
        panel, view = explained((3, 12, 12)), ll.View("signed", 0.1)
        text = view.as_text()
        assert torch.equal(panel[0].viewed(text), panel[0].viewed(view))
        assert torch.equal(panel.agreement(view=text).correlations, panel.agreement(view=view).correlations)
        assert panel.show(view=text).tobytes() == panel.show(view=view).tobytes()
        assert panel[0].caption(0, text) == panel[0].caption(0, view)

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("signed", ll.View()),
            ("signed(smooth=.02)", ll.View("signed", 0.02)),
            ("magnitude(0.03, percentile=98)", ll.View("magnitude", 0.03, percentile=98)),
            ("signed(blocks=8, colours=orange-purple)", ll.View(blocks=8, colours="orange-purple")),
            ("view(positive, colours=viridis)", ll.View("positive", colours="viridis")),
            ("magnitude(bands=['B8', 4, 3])", ll.View("magnitude", bands=("B8", 4, 3))),
        ],
    )
    def test_a_text_is_a_view_and_comes_back(self, text: str, wanted: ll.View) -> None:
        assert ll.VIEWS.read(text) == wanted and ll.VIEWS.read(wanted.as_text()) == wanted
        assert wanted.as_text().partition("(")[0] == wanted.reduce

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("signd", "view: 'signd' is unknown; did you mean signed"),
            ("signed(smoth=2)", "no setting 'smoth'; use smooth"),
            ("blur(3)", "is a Blur, not a view"),
            ("signed(percentile=0)", "View.percentile=0; use a number above 0"),
            ("magnitude(colours=red-blue)", "a magnitude view uses 'inferno'"),
            ("signed(bands=[1, 2])", "use one or three bands"),
            ("signed(bands=[0])", "use one or three bands"),
            ("signed(sort=1)", "View.sort=1; use True or False"),
        ],
    )
    def test_errors_name_what_was_given(self, text: str, said: str) -> None:
        with pytest.raises(ValueError, match=said.replace("(", r"\(")):
            ll.VIEWS.read(text)
        with pytest.raises(TypeError, match="view: 3 is not a view"):
            explained((3,)).show(view=3)  # type: ignore[arg-type]

    def test_colours_are_the_tables_names(self) -> None:
        assert set(get_args(views.Diverging)) == set(DIVERGING) and set(get_args(views.Sequential)) == set(MAGNITUDE)
        shown = [
            np.asarray(overlay(picture_of(torch.rand(1, 6, 6)), tile.heatmap, tile.scale, 1.0))
            for colours in (None, "viridis")
            for tile in [tile_of("m", (), torch.rand(1, 6, 6), ll.View("magnitude", colours=colours))]  # type: ignore[arg-type]
        ]
        assert (shown[0] != shown[1]).any()


def test_nan_and_infinity_stay_where_they_are() -> None:
    a = torch.rand(1, 2, 9, 9, dtype=torch.float64)
    a[0, 0, 3, 4], a[0, 1, 6, 6] = torch.nan, torch.inf
    seen = ll.View("magnitude", 0.2).of(a)[0]
    assert seen[3, 4].isnan() and seen[6, 6].isinf() and int(seen.isfinite().sum()) == 79
    blocks = ll.View(blocks=3).of(a)[0]
    assert blocks[1, 1].isnan() and blocks[2, 2].isinf() and int(blocks.isfinite().sum()) == 7


@pytest.mark.long
def test_two_seeds_of_every_default_picture_of_the_demo_correlate() -> None:
    """As drawn: above .9, or the caption says how not."""
    from limelight.models.catalogue import demo_image, load_model
    from limelight.show.explained import DEFAULT_METHODS

    model = load_model("efficientnet-lite0")
    x = model.preprocess(demo_image())
    first, second = (ll.explain(model, x, DEFAULT_METHODS, seed=seed) for seed in (0, 1))
    for name, a in first.items():
        drawn = [each.tiles()[0].heatmap.flatten().double() for each in (a, second[name])]
        correlation = float(torch.corrcoef(torch.stack(drawn))[0, 1])
        print(name, round(correlation, 4))
        if correlation <= 0.9:
            low = float(a.steadiness[0, 1]) if a.steadiness is not None else 1.0
            assert low < correlation and "two runs would correlate" in " ".join(a.caption()), (name, correlation)


def test_the_still_pictures_of_a_page_have_words_that_can_be_read(tmp_path: Path) -> None:
    picture = explained((3, 40))[0]._picture(0)
    from limelight.show.image import fit

    assert isinstance(picture, Image.Image) and fit(picture, 224) is picture
