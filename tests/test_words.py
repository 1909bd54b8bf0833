"""Texts are drawn on the colours of their pieces: their sums, their letters, and every output."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import limelight as ll
from limelight.base.text import Text
from limelight.cli.maps import map_lines, print_map
from limelight.show import draw_figure
from limelight.show.colour import colourise, values_of
from limelight.show.drawn import text_tile
from limelight.show.fonts import fonts
from limelight.show.image import TILE_OPACITY, overlay
from limelight.show.layouts import LAYOUT
from limelight.show.placement import LINE, PAD, WIDTH, placed
from limelight.show.subject import text_drawing
from limelight.show.words import Words, by_pieces, ink_on, on_paper, shares, strongest

from .texts import AWKWARD, explained, split

EMOJI = split("So 🙂 good")  # [CLS] So 🙂 🙂 good [SEP]


class TestPieces:
    def test_tokens_that_share_characters_are_summed(self) -> None:
        values = torch.tensor([[[0.0, 1.0, 2.0, -5.0, 0.5, 0.25, 100.0], [0.0, -3.0, 1.0, 1.0, 0.5, 0.0, 100.0]]])
        for view, wanted in {
            "signed": [0, -2, -1, 1, 0.25],
            "magnitude": [0, 4, 9, 1, 0.25],
            "positive": [0, 1, 4, 1, 0.25],
            "negative": [0, -3, -5, 0, 0],
            "signed(smooth=0.3)": [0, -2, -1, 1, 0.25],
            "magnitude(blocks=2)": [0, 4, 9, 1, 0.25],
        }.items():
            tile = text_tile("m", (), values[0], EMOJI, ll.VIEWS.read(view))
            assert tile.heatmap.tolist() == [wanted], view
            assert "smoothed" not in tile.how and "blocks" not in tile.how and "pixels" not in tile.how
        assert tile.how.startswith("magnitude summed over channels; ")
        assert [each.label for each in EMOJI.pieces] == ["[CLS]", "So", "🙂", "good", "[SEP]"]

    def test_padding_is_never_drawn(self) -> None:
        texts = [split("Mix butter"), split("Mix butter, sugar and cocoa")]
        a = explained(texts, "integrated-gradients(midpoint(4))")
        junk = a.values.clone()
        for place, text in enumerate(texts):
            junk[place, ..., len(text) :] = 1e9
        other = replace(a, values=junk)
        for place in (0, 1):
            first, second = a.tiles(place)[0], other.tiles(place)[0]
            assert torch.equal(first.heatmap, second.heatmap) and first.total == second.total
            assert first.heatmap.shape == (1, len(texts[place].pieces))
            assert a.show(place, view="signed").size == other.show(place, view="signed").size
        with pytest.raises(ValueError, match="a text of 8 tokens and a map of 7"):
            by_pieces(torch.zeros(3, 7), texts[1])

    def test_nan_and_zero_are_said(self) -> None:
        values = torch.zeros(3, 6)
        assert "all zero" in " ".join(text_tile("m", (), values, EMOJI, ll.View()).caption)
        values[1, 3] = torch.nan
        tile = text_tile("m", (), values, EMOJI, ll.View())
        assert tile.heatmap[0].isnan().tolist() == [False, False, True, False, False]
        assert "20.0% undefined (NaN)" in tile.caption
        fills = on_paper(values_of(tile.heatmap), tile.scale, 1.0)[0].tolist()
        assert fills[2] == [128, 128, 128] and fills[1] == fills[0] != fills[2]
        assert strongest(values_of(tile.heatmap)[0]) == [] and np.isnan(shares(values_of(tile.heatmap)[0])).all()

    def test_shares_are_of_all_sizes(self) -> None:
        row = np.array([1.0, -3.0, np.nan, 0.0])
        assert shares(row)[[0, 1, 3]].tolist() == [0.25, 0.75, 0.0] and np.isnan(shares(row)[2])
        assert strongest(row) == [1, 0]


class TestLetters:
    @pytest.mark.parametrize("string", [AWKWARD, "", " ", "\n\n", "a\r\nb", "no", "🙂", "x" * 500, "word " * 2000])
    def test_every_letter_stands_once_and_within_the_width(self, string: str) -> None:
        layout = Words(split(string))
        shown = "".join(each.letters for each in layout.segments if not each.small)
        assert shown.replace("↵", "") == string.replace("\r\n", "\n")
        boxes, lines = placed(layout.segments)
        assert all(each.left >= 0 and each.left + each.width <= WIDTH + 0.01 for each in boxes)
        assert all(0 <= each.line < lines for each in boxes)
        by_line: dict[int, list[tuple[float, float]]] = {}
        for each in boxes:
            by_line.setdefault(each.line, []).append((each.left, each.left + each.width))
        for spans in by_line.values():
            spans.sort()
            assert all(a[1] <= b[0] + 0.01 for a, b in pairwise(spans))

    def test_lines_break_where_the_texts_do_and_words_stay_whole(self) -> None:
        boxes, lines = placed(Words(split("one\ntwo " + "word " * 40, special=False)).segments)
        assert boxes[0].line == 0 and next(each for each in boxes if each.letters == "two").line == 1 and lines > 2
        assert {each.letters.strip() for each in boxes} <= {"one", "↵", "two", "word", ""}

    def test_what_is_read_from_the_right_stands_so(self) -> None:
        boxes, _ = placed(Words(split("a שלום עולם b", special=False)).segments)
        order = [each.letters for each in sorted(boxes, key=lambda each: each.left) if each.letters.strip()]
        assert order == ["a", "עולם", "שלום", "b"]

    def test_characters_beyond_the_pieces_have_no_colour(self) -> None:
        text = Text("ab cd ef", ("cd",), ((3, 5),), (False,))
        assert [(each.letters, each.piece) for each in Words(text).segments] == [("ab ", -1), ("cd", 0), (" ef", -1)]

    def test_a_token_of_several_parts_of_a_letter_is_named(self) -> None:
        assert [Words(EMOJI).predicted(place) for place in (1, 2, 3)] == ["So", "🙂 (1 of 2)", "🙂 (2 of 2)"]
        assert Words(split("a\nb", special=False)).names == ("a", "↵", "b")


class TestColours:
    def test_a_pieces_box_has_the_colour_of_its_value(self) -> None:
        tile = text_tile("m", (), torch.tensor([[0.0, 2.0, 1.0, 0.0, -1.0, 0.0]]), EMOJI, ll.View(percentile=100))
        picture = text_drawing(EMOJI)
        shown = np.asarray(overlay(picture, tile.heatmap, tile.scale, 1.0)).astype(int)
        boxes, _ = placed(Words(EMOJI).segments)
        ends = colourise(tile.heatmap, tile.scale)[0].astype(int)
        box = next(each for each in boxes if each.piece == 1)
        assert (shown[PAD + 3, round(PAD + box.left) + 2] == ends[1]).all()
        assert (shown[PAD + box.line * LINE + 3, -2] == 246).all()

    @pytest.mark.parametrize(
        "view", ["signed", "magnitude", "signed(colours=orange-purple)", "magnitude(colours=grey)"]
    )
    def test_letters_can_be_read_on_every_colour(self, view: str) -> None:
        values = torch.linspace(-1, 1, 301)[None] if "signed" in view else torch.linspace(0, 1, 301)[None]
        read = ll.VIEWS.read(view)
        scale = ll.show.scale_of(values, None, read.percentile, read.colours)
        for fill in on_paper(values_of(values), scale, TILE_OPACITY)[0]:
            assert contrast(fill, ink_on(fill)) >= 4.5


def contrast(first: object, second: object) -> float:
    lights = []
    for colour in (first, second):
        parts = [float(each) / 255 for each in colour]  # type: ignore[attr-defined]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(lights) / min(lights)


class TestTargets:
    def test_predicted_tokens_are_rows_of_one_map(self) -> None:
        text = split("The capital is Paris, of course", special=False, continued=3)
        a = explained([text], outputs=3, target=[[0, 1, 2]])
        (tile,) = a.tiles()
        assert tile.heatmap.shape == (3, len(text)) and tile.title == "input-x-gradient"
        assert torch.allclose(tile.heatmap, a.values[0].double().sum(1)[:, : len(text)])
        largest = np.percentile(tile.heatmap.abs().numpy(), 99.5)
        assert tile.scale.limit == pytest.approx(float(largest))
        layout = a._picture(0).info[LAYOUT]
        assert [layout.predicted(each) for each in layout.targets] == [",", "of", "course"]
        shown = overlay(a._picture(0), tile.heatmap, tile.scale, 1.0)
        assert shown.width == WIDTH + 2 * PAD and shown.height < 300
        row = a.tiles((0, 1))[0]
        assert row.title == "input-x-gradient: predicts “of”" and torch.equal(row.heatmap[0], tile.heatmap[1])
        assert a.show((0, 1)).height != a.show().height

    def test_targets_that_are_no_tokens_have_a_map_each(self) -> None:
        a = explained([split("a b c")], outputs=3, target=[[0, 2]])
        assert [each.title for each in a.tiles()] == ["input-x-gradient: 0", "input-x-gradient: 2"]
        assert all(each.heatmap.shape == (1, 5) for each in a.tiles()) and a.show().mode == "RGB"


class TestOutputs:
    @pytest.mark.parametrize("continued", [0, 3])
    def test_no_output_refuses_a_text(self, tmp_path: Path, continued: int) -> None:
        pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
        text = split(AWKWARD, continued=continued)
        target = [[0, 1, 2]] if continued else 0
        panel = explained([text], ["integrated-gradients(midpoint(4))", "gradient"], outputs=3, target=target)
        for view in (None, "magnitude(percentile=90)", "positive", "negative", "signed(colours=orange-purple)"):
            assert panel.show(view=view).mode == "RGB"
        for suffix in (".png", ".html", ".svg", ".pdf", ".npz"):
            assert panel.save(tmp_path / f"a{suffix}").stat().st_size > 500
        assert Image.open(tmp_path / "a.png").width > WIDTH
        drawn = (tmp_path / "a.svg").read_text()
        assert "naïve" in drawn and "&lt;" in drawn and len(draw_figure(panel[0]).axes) >= 2
        page = (tmp_path / "a.html").read_text()
        assert "<b>&amp;" not in page and "&lt;" in page and "Strongest tokens" in page
        assert 'class="letters' in panel._repr_html_()
        assert ll.Panel.load(tmp_path / "a.npz")[0].texts == (text,)
        assert ll.Attribution.load(panel[0].save(tmp_path / "a.safetensors")).texts == (text,)

    def test_an_empty_text_among_others_is_drawn(self, tmp_path: Path) -> None:
        a = explained([Text("", (), (), ()), split("a b")])
        assert a.show(0).mode == "RGB" and "all zero" in " ".join(a.tiles(0)[0].caption)
        a.save(tmp_path / "a.html")
        print_map(a, 0, stream=io.StringIO())

    def test_a_long_text_is_drawn(self) -> None:
        a = explained([split("word " * 2000, special=False)])
        shown = a.show()
        lines = placed(a._picture(0).info[LAYOUT].segments)[1]
        assert lines * LINE < shown.height < lines * LINE + 400

    def test_letters_have_fonts(self) -> None:
        assert len(fonts(15)) >= 1


class TestTerminal:
    def test_a_text_is_coloured_as_the_picture_is(self) -> None:
        a = explained([split("Mix <b> butter\nnow")])
        tile, picture = a.tiles()[0], a._picture(0)
        (line,) = map_lines(picture, tile, coloured=True)
        assert line.plain == "[CLS]Mix <b> butter↵\nnow[SEP]"
        fills = on_paper(values_of(tile.heatmap), tile.scale, TILE_OPACITY)[0]
        found = [str(span.style).split(" on ")[1] for span in line.spans if " on " in str(span.style)]
        assert found[:2] == [f"rgb({','.join(map(str, fills[k].tolist()))})" for k in (0, 1)]

    def test_without_colours_there_are_signed_numbers(self) -> None:
        out = io.StringIO()
        a = explained([split("Mix\x1b[31m butter")])
        print_map(a, stream=out)
        lines = out.getvalue().split("\n")
        value = float(a.tiles()[0].heatmap[0, 1])
        assert "\x1b" not in out.getvalue() and f"{value:+.3g}" in lines[2] and lines[2].endswith("Mix")

    @pytest.mark.parametrize("coloured", [True, False])
    def test_columns_and_series_have_their_names(self, coloured: bool) -> None:
        for shape in ((3,), (60,), (3, 40), (2, 900), (2, 1)):
            x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
            names = [f"name{place}" for place in range(shape[0])]
            a = ll.explain(lambda each: each.flatten(1).sin().sum(1, keepdim=True), x, "occlusion(1, 1)", target=0)
            a = replace(a, names=tuple(names))
            lines = map_lines(a._picture(0), a.tiles()[0], coloured)
            assert any("name1" in line.plain for line in lines) and len(lines) == min(shape[0], 41)
        with pytest.raises(ValueError, match="the map of a picture has no lines of text"):
            a = ll.explain(lambda each: each.flatten(1), torch.rand(1, 3, 4, 4), "occlusion(2, 2)", target=0)
            print_map(a)
