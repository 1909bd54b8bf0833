"""Colours mean the same at every value, what colours can't say is said in words, and files are whole or absent."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from limelight.show import (
    Scale,
    Tile,
    colour_bar,
    colourise,
    draw_panel,
    draw_tile,
    html_fragment,
    overlay,
    picture_of,
    picture_of_bands,
    save_png,
    scale_of,
    write_html,
)
from limelight.show.assets import viewer_script
from limelight.show.image import CELL, _wrapped, fit, size_of

HOSTILE = "<script>alert(1)</script> \" onerror='alert(2)' & </style>\x00\udcff"


def random_map(height: int = 24, width: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(height, width, generator=torch.Generator().manual_seed(seed))


def grey_picture(height: int = 24, width: int = 32) -> Image.Image:
    return Image.new("RGB", (width, height), (120, 140, 160))


def tiles_like(heatmaps: Sequence[Tensor]) -> list[Tile]:
    return [Tile(f"method {n}", ("score 1.5", "delta 0.01"), heatmap) for n, heatmap in enumerate(heatmaps)]


class TestScale:
    def test_percentile_and_clipped_share_are_numpys(self) -> None:
        heatmap = random_map(40, 50)
        size = heatmap.abs().double().numpy()
        for percentile in (50, 90, 99.5, 100):
            scale = scale_of(heatmap, percentile=percentile)
            assert scale.limit == np.percentile(size, percentile)
            assert scale.clipped == (size > scale.limit).mean()

    def test_a_map_mostly_zero_is_scaled_by_its_maximum(self) -> None:
        heatmap = torch.zeros(50, 50)
        heatmap[3, 4], heatmap[5, 6] = -2.0, 1.0
        assert scale_of(heatmap) == Scale(limit=2.0, signed=True, clipped=0.0, empty=False)

    def test_sign_is_read_from_the_map_unless_given(self) -> None:
        heatmap = random_map()
        assert scale_of(heatmap).signed
        assert not scale_of(heatmap.abs()).signed
        assert not scale_of(heatmap, signed=False).signed
        assert scale_of(heatmap.abs(), signed=True).signed

    def test_nan_is_left_out(self) -> None:
        heatmap = random_map()
        framed = torch.full((40, 40), torch.nan)
        framed[4:28, 5:37] = heatmap
        assert scale_of(framed) == scale_of(heatmap)

    def test_empty_maps(self) -> None:
        assert scale_of(torch.zeros(4, 4)) == Scale(0.0, signed=False, clipped=0.0, empty=True)
        unknown = scale_of(torch.full((4, 4), torch.nan))
        assert unknown.empty and math.isnan(unknown.limit)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_any_float_and_a_map_that_requires_gradients(self, dtype: torch.dtype) -> None:
        assert scale_of(torch.ones(3, 3, dtype=dtype, requires_grad=True)).limit == 1

    def test_mistakes_name_what_was_given(self) -> None:
        with pytest.raises(ValueError, match=r"\(1, 4, 4\)"):
            scale_of(torch.zeros(1, 4, 4))
        with pytest.raises(ValueError, match="percentile: 101"):
            scale_of(torch.zeros(4, 4), percentile=101)

    def test_the_words_for_a_share(self) -> None:
        assert Scale(1, True, 0.005, False).clip_note == "0.5% clipped"
        assert Scale(1, True, 0.0001, False).clip_note == "<0.1% clipped"
        assert Scale(1, True, 0.0, False).clip_note == "0.0% clipped"


class TestColours:
    def test_signed_at_both_ends_at_zero_and_beyond(self) -> None:
        scale = Scale(limit=2.0, signed=True, clipped=0.0, empty=False)
        low, zero, high, beyond = colourise(torch.tensor([[-2.0, 0.0, 2.0, 50.0]]), scale)[0].astype(int)
        assert low[2] > low[0] + 100, "blue at -v"
        assert high[0] > high[2] + 80, "red at +v"
        assert len(set(zero)) == 1 and zero[0] > 240, "neutral at 0"
        assert (beyond == high).all()

    def test_signed_lightness_is_symmetric_and_falls_from_zero(self) -> None:
        ramp = torch.linspace(-1, 1, 201, dtype=torch.float64)[None]
        light = colourise(ramp, Scale(1, True, 0, False))[0] @ np.array([0.2126, 0.7152, 0.0722])
        assert (np.diff(light[:101]) >= 0).all() and (np.diff(light[100:]) <= 0).all()
        assert abs(light - light[::-1]).max() < 45

    def test_unsigned_gets_lighter_all_the_way(self) -> None:
        ramp = torch.linspace(0, 1, 201, dtype=torch.float64)[None]
        colours = colourise(ramp, Scale(1, False, 0, False))[0]
        light = colours @ np.array([0.2126, 0.7152, 0.0722])
        assert (np.diff(light) >= 0).all()
        assert light[0] < 5 and light[-1] > 230

    def test_unsigned_colours_the_magnitude(self) -> None:
        colours = colourise(torch.tensor([[-1.0, 1.0]]), Scale(1, False, 0, False))[0]
        assert (colours[0] == colours[1]).all()

    def test_nan_is_grey_and_nothing_warns(self) -> None:
        with np.errstate(all="raise"):
            colours = colourise(torch.tensor([[torch.nan, 1.0]]), scale_of(torch.ones(1, 2)))
        assert (colours[0, 0] == 128).all()

    @pytest.mark.parametrize("size", [1e-310, 1e-30, 1e30, 1e308])
    def test_the_unit_does_not_matter(self, size: float) -> None:
        heatmap = random_map().double().clamp(-1, 1)
        same = colourise(heatmap * size, scale_of(heatmap * size)).astype(int)
        assert abs(same - colourise(heatmap, scale_of(heatmap))).max() <= 1


class TestPicture:
    def test_unit_range_is_shown_as_it_is(self) -> None:
        inputs = torch.tensor([0.2, 0.4]).expand(3, 1, 2)
        assert np.asarray(picture_of(inputs)).tolist() == [[[51] * 3, [102] * 3]]

    def test_any_other_range_fills_the_greys(self) -> None:
        inputs = torch.tensor([-2.0, 0.0, 2.0]).reshape(1, 1, 3)
        assert np.asarray(picture_of(inputs))[0, :, 0].tolist() == [0, 128, 255]

    def test_a_brighter_picture_is_drawn_brighter_and_the_clipped_share_is_said(self) -> None:
        x = torch.linspace(0, 1, 100).reshape(1, 10, 10)
        shown = [picture_of(x + shift) for shift in (0.0, 0.4, 0.8)]
        grey = [np.asarray(each)[..., 0].mean() for each in shown]
        wanted = [255 * float((x + shift).clamp(max=1).mean()) for shift in (0.0, 0.4, 0.8)]
        assert np.abs(np.array(grey) - wanted).max() < 0.5 and grey[0] < grey[1] < grey[2]
        # 0, 0.0101, ..., 1: 40 of 100 are above 0.6, 80 above 0.2.
        assert [size_of(each) for each in shown[1:]] == [f"10 x 10 pixels, {n}.0% clipped" for n in (40, 80)]
        assert size_of(shown[0]) == "10 x 10 pixels"

    @pytest.mark.parametrize("shift", [-3.0, -0.5, 0.5, 3.0])
    def test_black_and_white_may_be_those_of_another_picture(self, shift: float) -> None:
        x = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))  # of a model that takes normalised pixels
        low, high = x.min(), x.max()
        wanted = 255 * ((x + shift - low) / (high - low)).clamp(0, 1).permute(1, 2, 0).numpy()
        assert np.abs(np.asarray(picture_of(x + shift, like=x)) - wanted).max() < 0.51
        assert np.array_equal(np.asarray(picture_of(x, like=x)), np.asarray(picture_of(x)))

    @pytest.mark.parametrize("value", [0.0, 5.0, -5.0, torch.nan, torch.inf])
    def test_constant_and_undefined_pictures(self, value: float) -> None:
        assert picture_of(torch.full((1, 4, 6), value)).size == (6, 4)

    def test_other_shapes_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\(4, 8, 8\)"):
            picture_of(torch.zeros(4, 8, 8))

    @pytest.mark.parametrize("bands, words", [(2, "band 1 of 2"), (4, "bands 1, 2 and 3 of 4"), (13, "3 of 13")])
    def test_a_part_of_many_bands_is_shown_and_said(self, bands: int, words: str) -> None:
        inputs = torch.rand(bands, 8, 8)
        shown = picture_of_bands(inputs)
        same = picture_of_bands(inputs[:3] if bands > 3 else inputs[:1])
        assert np.array_equal(np.asarray(shown), np.asarray(same))
        assert words in size_of(shown) and size_of(same) == "8 x 8 pixels"
        assert words in html_fragment(shown, [Tile("a", (), torch.rand(8, 8))], "", "", [])


class TestOverlay:
    def test_quiet_parts_keep_the_picture_and_strong_ones_take_the_colour(self) -> None:
        heatmap = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
        picture = picture_of(torch.tensor([0.0, 0.5, 1.0, 0.5]).reshape(1, 1, 4))
        shown = np.asarray(overlay(picture, heatmap, scale_of(heatmap), opacity=1.0)).astype(int)[0]
        assert (np.ptp(shown[:3], axis=1) == 0).all() and (np.diff(shown[:3, 0]) > 50).all()
        assert (shown[3] == colourise(heatmap, scale_of(heatmap))[0, 3]).all()

    def test_opacity_is_proportional_to_strength(self) -> None:
        heatmap = torch.tensor([[0.0, 0.5, 1.0]])
        scale, black = scale_of(heatmap), Image.new("L", (3, 1))
        shown = np.asarray(overlay(black, heatmap, scale, opacity=0.6))
        np.testing.assert_allclose(shown[0, 1], 0.3 * colourise(heatmap, scale)[0, 1], atol=0.51)
        np.testing.assert_allclose(shown[0, 2], 0.6 * colourise(heatmap, scale)[0, 2], atol=0.51)

    def test_a_map_of_another_size_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"7x7.*24x32"):
            overlay(grey_picture(), torch.ones(7, 7), scale_of(torch.ones(7, 7)))


class TestWords:
    @pytest.mark.parametrize(("value", "words"), [(0.0, "all zero: nothing to show"), (torch.nan, "no finite value")])
    def test_empty_maps_say_so_everywhere(self, value: float, words: str) -> None:
        tile = Tile("gradient", (), torch.full((24, 32), value))
        assert tile.caption[0] == words
        assert words in html_fragment(grey_picture(), [tile], "", "", [])
        # Drawn: the bar has no colours but does have ink, and a plate of words lies on the picture.
        bar = np.asarray(colour_bar(tile.scale, 200))
        assert np.ptp(bar.astype(int), axis=-1).max() < 20 and bar.min() < 200
        assert (np.asarray(draw_tile(grey_picture(), tile))[:200, :200] == 255).all(-1).mean() > 0.03

    def test_part_undefined_or_infinite(self) -> None:
        heatmap = random_map()
        heatmap[:6] = torch.nan
        heatmap[10, 10] = torch.inf
        assert Tile("", ("last",), heatmap).caption == ("25.0% undefined (NaN)", "1 infinite value", "last")

    def test_ticks(self) -> None:
        assert Scale(0.00123456, True, 0, False).ticks == ("-0.00123", "0", "0.00123")
        assert Scale(12.0, False, 0, False).ticks == ("0", "12")

    def test_text_is_wrapped_never_cut(self) -> None:
        text = "layer features.18." + "x" * 200 + " end of the words"
        lines = _wrapped(text, 14, 150)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        assert len(lines) > 5
        assert _wrapped("", 14, 150) == []

    def test_letters_the_font_lacks(self) -> None:
        assert _wrapped("égyptien −1 × 猫\x00", 14, 500) == ["egyptien -1 x ??"]


class TestPanel:
    @pytest.mark.parametrize("count", range(1, 13))
    def test_any_number_of_tiles(self, count: int) -> None:
        tiles = tiles_like([random_map(seed=seed) for seed in range(count)])
        panel = draw_panel(grey_picture(), tiles, "281 tabby", "a footer")
        assert panel.mode == "RGB"
        assert panel.getpixel((0, 0)) == panel.getpixel((panel.width - 1, panel.height - 1)) == (255, 255, 255)

    @pytest.mark.parametrize(
        ("channels", "height", "width"),
        [(1, 28, 28), (3, 1, 1), (3, 2, 300), (1, 300, 2), (3, 300, 451), (3, 1024, 700)],
    )
    def test_any_picture(self, channels: int, height: int, width: int) -> None:
        picture = picture_of(torch.rand(channels, height, width))
        panel = draw_panel(picture, tiles_like([random_map(height, width), torch.zeros(height, width)]), "")
        assert 600 < panel.width < 4 * (CELL + 150)
        assert panel.height < CELL + 250

    def test_columns(self) -> None:
        tiles = tiles_like([random_map()] * 5)
        wide, tall = (draw_panel(grey_picture(), tiles, "", columns=count) for count in (6, 1))
        assert wide.width > 4 * tall.width and tall.height > 4 * wide.height
        with pytest.raises(ValueError, match="columns: 0"):
            draw_panel(grey_picture(), tiles, "", columns=0)

    def test_a_warning_and_hostile_text_are_drawn(self) -> None:
        plain, marked = (
            draw_tile(grey_picture(), Tile(HOSTILE, (HOSTILE * 5,), random_map(), warning=warning))
            for warning in (False, True)
        )
        assert plain.tobytes() != marked.tobytes()

    def test_small_pictures_keep_square_pixels(self) -> None:
        shown = np.asarray(fit(picture_of(torch.rand(1, 28, 28)), CELL))
        assert shown.shape == (280, 280, 3)
        assert (shown.reshape(28, 10, 28, 10, 3) == shown[::10, None, ::10, None]).all()


class Elements(HTMLParser):
    """Collects every element with its attributes, and the text outside of style sheets."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


class TestPage:
    def test_hostile_text_stays_text(self, tmp_path: Path) -> None:
        tile = Tile(HOSTILE, (HOSTILE,), random_map(), warning=True)
        write_html(tmp_path / "a.html", grey_picture(), [tile], HOSTILE, HOSTILE, [(HOSTILE, HOSTILE)])
        page = Elements((tmp_path / "a.html").read_text("utf-8"))
        assert not {tag for tag, _ in page.elements} & {"link", "iframe", "object"}
        # Two scripts, the data and the viewer, and the page lets nothing run but the second, whose digest it names.
        assert [found["type"] for tag, found in page.elements if tag == "script"] == ["application/json", "module"]
        script = page.text[page.text.index(viewer_script()[:40]) :].removesuffix("\n")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = next(found["content"] for tag, found in page.elements if "http-equiv" in found)
        assert policy and f"script-src 'sha256-{digest}';" in policy and policy.startswith("default-src 'none'")
        attributes = [(name, value) for _, found in page.elements for name, value in found.items()]
        assert not [name for name, _ in attributes if name.startswith("on")]
        assert all((value or "").startswith("data:") for name, value in attributes if name in ("src", "href"))
        assert page.text.count("<script>alert(1)</script>") == 7

    def test_pictures_and_numbers(self) -> None:
        tile = Tile("gradient", ("score 3",), random_map())
        page = html_fragment(grey_picture(), [tile], "281 tabby", "footer", [("seed", "0")])
        sources = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
        assert [Image.open(io.BytesIO(base64.b64decode(source))).format for source in sources] == ["PNG"] * 2
        for words in (*tile.scale.ticks, tile.scale.clip_note, "score 3", "281 tabby", "footer", "seed"):
            assert words in page
        assert "color-scheme: light dark" in page and "light-dark(" in page


class TestFiles:
    def test_a_failed_save_leaves_what_was_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        target = tmp_path / "map.png"
        save_png(grey_picture(), target)
        before = target.read_bytes()
        write_bytes = Path.write_bytes

        def full_disk(path: Path, content: bytes) -> int:
            write_bytes(path, content[: len(content) // 2])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(OSError, match="No space"):
            save_png(grey_picture(50, 50), target)
        with pytest.raises(OSError, match="No space"):
            write_html(tmp_path / "page.html", grey_picture(), [], "", "", [])
        assert target.read_bytes() == before
        assert list(tmp_path.iterdir()) == [target]

    def test_an_image_that_cannot_be_encoded_writes_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(OSError):
            save_png(Image.new("HSV", (3, 3)), tmp_path / "map.png")
        assert list(tmp_path.iterdir()) == []

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="none/map"):
            save_png(grey_picture(), tmp_path / "none" / "map.png")
