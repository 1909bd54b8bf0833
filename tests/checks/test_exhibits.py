"""What lies behind a check's figure can be looked at: pictures, maps and curves, kept small and drawn on one scale."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import limelight as ll
from limelight.base.display import on_display
from limelight.checks import CHECKS
from limelight.checks.exhibits import MOST_EXAMPLES, Curve, Exhibit
from limelight.checks.imputers import Fill, NoisyLinear
from limelight.checks.removal import as_imputer
from limelight.show.exhibits import draw_findings, one_scale
from limelight.show.image import laid_out


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)).eval()


def pictures(n: int = 1, side: int = 16, seed: int = 1) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def kept(finding: ll.Finding, kind: type) -> list:
    return [each for each in finding.exhibits if isinstance(each, kind)]


def as_bytes(x: Tensor) -> Tensor:
    return (255 * x.clamp(0, 1)).round().byte()


def test_shifted_pictures_and_their_maps_of_the_unshifted_class() -> None:
    model, x = small_network(), pictures(2)
    own = ll.explain(model, x, "gradient")
    finding = ll.check(model, x, "gradient", ll.BiasShift(levels=(0.3, 0.9)))[0]
    first, *brighter = kept(finding, Exhibit)
    assert torch.equal(first.pictures, as_bytes(x)) and torch.equal(first.maps, own.viewed())
    for level, each in zip((0.3, 0.9), brighter, strict=True):
        assert torch.equal(each.pictures, as_bytes(x + level))
        assert torch.allclose(each.clipped, ((x + level) > 1).any(1).flatten(1).double().mean(1))
        again = ll.explain(model, x + level, "gradient", target=own.target)  # what the model saw was not clipped
        assert torch.equal(each.maps, again.viewed())
    for i in range(2):
        rho = float(finding.detail["spearman"][i, 1])
        assert f"rank correlation {rho:.2f}" in brighter[1].lines[i][1]


def test_both_networks_of_the_input_shift() -> None:
    model, x = small_network(), pictures()
    gradient, product = (
        kept(ll.check(model, x, name, "input-shift")[0], Exhibit) for name in ("gradient", "input-x-gradient")
    )
    assert torch.allclose(gradient[0].maps, gradient[1].maps, atol=1e-5)
    assert not torch.allclose(product[0].maps, product[1].maps, rtol=0.1)
    assert torch.equal(product[1].pictures, as_bytes(x + 0.5))


def test_the_cascade_of_random_layers() -> None:
    model, x = small_network(), pictures()
    finding = ll.check(model, x, "gradient", "randomisation(stages=3, draws=1)")[0]
    own, *random = kept(finding, Exhibit)
    assert [each.label for each in random] == ["random 6", "random down to 2", "random down to 0"]
    figures = finding.detail["spearman signed"][0].tolist()
    assert [each.lines[0] for each in random] == [(f"rank correlation {each:.2f}",) for each in figures]
    assert all(not torch.allclose(own.maps, each.maps, rtol=0.1) for each in random)


def test_the_attacked_picture_and_its_map() -> None:
    model, x = small_network(), pictures()
    finding = ll.check(model, x, "gradient", "fragility(eps=0.1, iterations=4)")[0]
    own, attacked = kept(finding, Exhibit)
    moved = (attacked.pictures.double() - own.pictures.double()).abs().max() / 255
    assert 0.02 < moved <= 0.1 + 1 / 255
    assert not torch.allclose(own.maps, attacked.maps)
    assert f"{float(finding.value[0]):.0%} of the top pixels stay" in attacked.lines[0]


@pytest.mark.parametrize("keep", [False, True])
def test_pictures_of_a_removal_curve(keep: bool) -> None:
    model, x = small_network(), pictures(2)
    check = ll.Insertion(fill=0.0, steps=8) if keep else ll.Deletion(fill=0.0, steps=8)
    finding = ll.check(model, x, "gradient", check)[0]
    _, *masked = kept(finding, Exhibit)
    (curve,) = kept(finding, Curve)
    assert torch.equal(curve.scores, finding.detail["curve"].double())
    hidden = [0.0, 0.25, 0.5, 0.75, 1.0]
    wanted = hidden[::-1] if keep else hidden
    assert [each.label for each in masked] == [f"{share:.0%} hidden" for share in wanted]
    for share, each in zip(wanted, masked, strict=True):
        black = (each.pictures == 0).all(1).flatten(1).double().mean(1)
        assert torch.allclose(black, torch.tensor(share).double())
        visible = each.pictures[0][:, (each.pictures[0] > 0).all(0)]
        assert torch.equal(visible, as_bytes(x)[0][:, (each.pictures[0] > 0).all(0)])
    at = masked[1].lines[0][0]
    assert at == f"answer {float(curve.scores[0, 2]):.3g}"


@pytest.mark.parametrize("kind", CHECKS, ids=lambda kind: kind.kebab())
def test_every_check_is_drawn_or_says_why_not(kind: type[ll.Check]) -> None:
    model, x = small_network(), pictures(side=16)
    mask = torch.zeros(16, 16)
    mask[4:9, 4:9] = 1
    small = {"Fragility": "(iterations=2)", "Randomisation": "(draws=1, stages=2)"}
    finding = ll.check(model, x, "gradient", kind.kebab() + small.get(kind.__name__, ""), mask=mask)[0]
    compares = {*("ImplementationInvariance", "InputShift", "BiasShift", "Randomisation", "Fragility", "Deletion")}
    hides = {*("Insertion", "SRG", "PixelFlipping", "ROAD", "IROF")}
    if kind.__name__ in compares | hides:
        assert not bool(finding.value.isnan().any())
        assert finding.show().width > 600
    else:
        with pytest.raises(ValueError, match=f"show: there is no picture of {finding.name}"):
            finding.show()


def test_the_first_examples_of_a_batch_are_kept_and_none_is_saved() -> None:
    model, x = small_network(), pictures(MOST_EXAMPLES + 2)
    finding = ll.check(model, x, "gradient", "deletion(steps=2)")[0]
    assert all(each.examples == tuple(range(MOST_EXAMPLES)) for each in finding.exhibits)
    alone = ll.check(model, x[7:8], "gradient", "deletion(steps=2)")[0]
    assert np.array_equal(np.asarray(finding.show(7)), np.asarray(alone.show()))
    with pytest.raises(ValueError, match=r"8 of the 10 examples are kept, 0 to 7; check fewer at once"):
        finding.show(9)
    with pytest.raises(IndexError, match="example: 10 of 10"):
        finding.show(10)
    assert "exhibits" not in finding.to_dict()
    evaluation = ll.evaluate(model, x[:2], ["gradient"], ["deletion(steps=2)"])
    assert all(cell.finding.exhibits == () for row in evaluation.values() for cell in row.values())


@pytest.mark.parametrize("spelled", [lambda other: other, Fill, lambda other: Fill(ll.Constant(other)), ll.Constant])
@pytest.mark.parametrize(
    "make",
    [
        lambda fill: ll.Deletion(fill=fill, steps=3),
        lambda fill: ll.Insertion(fill=fill, steps=3),
        lambda fill: ll.PixelFlipping(region=8, steps=3, fill=fill),
        lambda fill: ll.IROF(segments=8, fill=fill),
        lambda fill: ll.SRG((as_imputer(fill),), steps=3),
    ],
)
def test_a_filling_for_each_example_of_a_batch_costs_each_its_rows_once(make: Any, spelled: Any) -> None:
    """More examples than are shown: the fillings of those that are go with them, and nothing is run again."""
    model, x = small_network(), pictures(MOST_EXAMPLES + 2)
    other = pictures(len(x), seed=5).contiguous()
    together = ll.check(model, x, "gradient", make(spelled(other)))[0]
    alone = [ll.check(model, x[i : i + 1], "gradient", make(spelled(other[i : i + 1])))[0] for i in (0, len(x) - 1)]
    assert together.forward_rows == len(x) * alone[0].forward_rows
    assert torch.allclose(together.value[[0, -1]], torch.cat([each.value for each in alone]), rtol=1e-5)
    for shown, own in zip(kept(together, Exhibit), kept(alone[0], Exhibit), strict=True):
        assert len(shown.pictures) == MOST_EXAMPLES and torch.equal(shown.pictures[0], own.pictures[0])


def test_inputs_that_are_no_pictures_are_said_to_be_none() -> None:
    torch.manual_seed(0)
    finding = ll.check(nn.Linear(5, 2), torch.rand(3, 5), "gradient", "deletion(steps=2)")[0]
    with pytest.raises(ValueError, match=re.escape("inputs (batch, channels, H, W)")):
        finding.show()


def test_compared_maps_are_drawn_on_one_scale() -> None:
    maps = [torch.full((4, 4), 1.0), torch.full((4, 4), 3.0), torch.zeros(4, 4)]
    scales = one_scale(maps)
    assert {(each.limit, each.signed) for each in scales} == {(3.0, False)}
    maps[2] -= 2
    assert all(each.signed for each in one_scale(maps))
    many = [torch.ones(100, 100), torch.ones(100, 100)]
    many[0][0, :50] = 9.0  # 50 of 20,000 values, beyond the percentile 99.5 of all together
    assert [each.clipped for each in one_scale(many)] == [0.005, 0.0]


@pytest.mark.parametrize("check", [ll.ROAD(noise=0.2), ll.SRG(imputers=(NoisyLinear(0.2),)), ll.Deletion(steps=4)])
def test_the_pictures_of_a_removal_curve_are_those_that_were_scored(check: ll.Check) -> None:
    """With a filling that draws, too, and of the first examples of a larger batch."""
    x, seen = pictures(MOST_EXAMPLES + 1), []

    class Spied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_network()

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach().clone())
            out: Tensor = self.inner(x)
            return out

    finding = ll.check(Spied().eval(), x, "occlusion(window=4, stride=4)", check, target=0)[0]
    scored = {tuple(each.flatten().tolist()) for each in on_display(torch.cat(seen), clip=True)[0]}
    _, *masked = kept(finding, Exhibit)
    assert len(masked) > 2
    for each in masked:
        assert all(tuple(picture.flatten().tolist()) in scored for picture in each.pictures), each.label


def test_several_methods_are_drawn_below_each_other_and_saved(tmp_path: Path) -> None:
    model, x = small_network(), pictures()
    findings = [ll.check(model, x, name, "input-shift")[0] for name in ("gradient", "occlusion")]
    both = draw_findings(findings)
    assert both.height == sum(each.show().height for each in findings)
    assert np.array_equal(np.asarray(ll.Findings(findings).show()), np.asarray(both))
    assert findings[0].save(tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
    assert findings[0].save(tmp_path / "a.pdf").read_bytes()[:5] == b"%PDF-"
    with pytest.raises(ValueError, match=r"a.svg.*use .png or .pdf"):
        findings[0].save(tmp_path / "a.svg")
    with pytest.raises(ValueError, match="none of gini has pictures"):
        ll.check(model, x, "gradient", "gini").show()


def test_cells_of_different_widths_are_drawn_whole() -> None:
    cells = [Image.new("RGB", (width, 40), "red") for width in (40, 90)]
    drawn = np.asarray(laid_out([cells, cells[::-1]], 2, "", ""))
    assert int(((drawn == (255, 0, 0)).all(2)).sum()) == 2 * 40 * (40 + 90)


def test_a_display_clips_and_keeps_what_is_black_and_white() -> None:
    x = torch.tensor([[[0.0, 0.5, 1.5]]])
    shown, clipped = on_display(x, clip=True)
    assert shown.tolist() == [[[0, 128, 255]]] and clipped.tolist() == pytest.approx([1 / 3])
    assert on_display(x - 0.5, like=x.clamp(max=1))[0].tolist() == [[[0, 0, 255]]]
    # More than a quarter beyond [0, 1], over more than a display holds: no brightness, so its own ends.
    assert on_display(x)[0].tolist() == [[[0, 85, 255]]]
