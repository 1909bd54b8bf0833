"""Agreement of the maps of a panel, against its definition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor, nn

import limelight as ll
from limelight.base.view import View
from limelight.checks.base import Measured
from limelight.evaluation.agreement import agreement_of
from limelight.evaluation.findings import Finding

from .texts import explained, split

D = torch.float64


def panel_of(*maps: Tensor, names: tuple[str, ...] = ("a", "b", "c", "d")) -> ll.Panel:
    """A panel of finished maps `(n, 1, H, W)`."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(maps[0][0].numel(), 2)).double()
    base = ll.explain(net, torch.rand(maps[0].shape, dtype=D), "occlusion(window=2, stride=2)", target=0)
    return ll.Panel([replace(base, values=each) for each in maps], 0, 0, names[: len(maps)])


def hill(row: float, column: float, n: int = 1, side: int = 10) -> Tensor:
    grid = torch.arange(side, dtype=D)
    squares = (grid[:, None] - row) ** 2 + (grid[None] - column) ** 2
    return (-squares / 20).exp().expand(n, 1, side, side).clone()


def test_correlations_are_those_of_ranks_at_the_scale_drawn() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(1600, 3)).double()
    x = torch.rand(2, 3, 20, 20, dtype=D)
    panel = ll.explain(net, x, ["gradient", "input-x-gradient", "occlusion(window=5, stride=5)"], target=1)
    found = panel.agreement()
    assert found.names == tuple(panel) and found.correlations.shape == (2, 3, 3)
    for i in range(2):
        seen = [each.viewed()[i].flatten().numpy() for each in panel.values()]
        for j, a in enumerate(seen):
            for k, b in enumerate(seen):
                assert float(found.correlations[i, j, k]) == pytest.approx(spearmanr(a, b).statistic, abs=1e-10)
    signed = panel.agreement(view=View())
    assert float(signed.correlations[0, 0, 1]) == pytest.approx(
        spearmanr(panel[0].heatmap()[0].flatten(), panel[1].heatmap()[0].flatten()).statistic, abs=1e-10
    )
    assert found.views[0].startswith("magnitude") and signed.views[0].startswith("signed")


def test_the_region_is_where_most_maps_have_their_top_tenth() -> None:
    found = panel_of(hill(2, 2), hill(2, 2), hill(7, 7)).agreement()
    top = hill(2, 2)[0, 0].flatten().argsort(descending=True)[:10]
    assert set(found.region[0].flatten().nonzero()[:, 0].tolist()) <= set(top.tolist())
    assert 5 <= int(found.region.sum()) <= 10  # ties at the tenth are a whole ring
    # Two of four are not most.
    assert not panel_of(hill(2, 2), hill(2, 2), hill(7, 7), hill(7, 2)).agreement().region.any()


def test_only_what_speaks_for_the_score_is_a_top() -> None:
    """A map that is zero but for three positions has those three, and one below zero has none."""
    a = torch.zeros(1, 1, 10, 10, dtype=D)
    a[0, 0, 4, 4:7] = 1
    assert panel_of(a, a.clone()).agreement().region[0].nonzero().tolist() == [[4, 4], [4, 5], [4, 6]]
    below = hill(3, 3) - 5
    assert not panel_of(below, below.clone()).agreement().region.any()


def test_constant_and_nan_maps_are_left_out_with_the_reason() -> None:
    still, unknown = torch.full((2, 1, 10, 10), 0.25, dtype=D), hill(2, 2, 2)
    unknown[1, 0, 3, 3] = torch.nan
    found = panel_of(hill(2, 2, 2), hill(2, 3, 2), still, unknown).agreement()
    assert found.left_out == ({"c": "it is constant"}, {"c": "it is constant", "d": "it holds NaN"})
    assert found.correlations[0, 2].isnan().all() and found.correlations[1, :, 3].isnan().all()
    assert not found.correlations[0, :2, :2].isnan().any()
    alone = panel_of(hill(2, 2), hill(2, 2), still[:1], unknown[:1]).agreement()
    assert bool(alone.region.any()) and "c left out: it is constant" in alone.sentence()
    nothing = panel_of(hill(2, 2), still[:1]).agreement()
    assert not nothing.region.any() and nothing.sentence().startswith("no agreement: 1 of 2 maps")
    assert nothing.to_dict()["mean"] is None


def failed(*each: float) -> list[Finding]:
    measured = Measured(torch.tensor(each), passed=torch.tensor([value < 1 for value in each]))
    return [Finding.of(ll.Completeness(), "a", measured, 0, 0)]


def test_maps_that_failed_a_hard_test_are_no_part_of_the_consensus_of_that_example() -> None:
    panel = panel_of(hill(2, 2, 2), hill(2, 2, 2), hill(7, 7, 2))
    found = panel.agreement({"b": failed(0.0, 9.0)})
    assert found.left_out == ({}, {"b": "it failed completeness"})
    assert bool(found.region[0].any()) and not found.region[1].any()
    assert not found.correlations.isnan().any()  # it still has a rank
    assert found.mean(1) == pytest.approx(float(found.correlations[1, 0, 2]))
    with pytest.raises(KeyError, match="x is not in the panel, which has a, b, c"):
        panel.agreement({"x": []})


def test_a_trust_card_tells_what_failed() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)).double()
    x = torch.rand(1, 3, 8, 8, dtype=D)
    panel = ll.explain(net, x, [ll.IntegratedGradients(ll.RiemannLeft(1)), "gradient", "input-x-gradient"], target=1)
    card = ll.trust_card(net, x, panel[0], [ll.Completeness(tolerance=1e-6)], target=1)
    found = panel.agreement({"integrated-gradients": card})
    assert found.left_out[0] == {"integrated-gradients": "it failed completeness"}


def test_each_example_and_target_is_read_by_itself() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(324, 3)).double()
    x = torch.rand(2, 3, 9, 9, dtype=D)
    methods = ["gradient", "input-x-gradient", "smooth-grad(samples=4)"]
    both = ll.explain(net, x, methods, target=[[0, 1], [2, 0]]).agreement()
    assert both.correlations.shape == (2, 2, 3, 3) and both.region.shape == (2, 2, 9, 9) and len(both.left_out) == 4
    one = ll.explain(net, x[1:], methods, target=2).agreement()
    torch.testing.assert_close(both.correlations[1, 0], one.correlations[0])
    assert torch.equal(both.region[1, 0], one.region[0])
    assert both.sentence((1, 0)) == one.sentence() and both.sentence(1) == both.sentence((1, 0))


def test_the_sentence_names_the_two_that_differ_most() -> None:
    panel = panel_of(hill(2, 2), hill(2, 3), hill(7, 7))
    found = panel.agreement()
    pairs = {("a", "b"): (0, 1), ("a", "c"): (0, 2), ("b", "c"): (1, 2)}
    worst = min(pairs, key=lambda pair: float(found.correlations[0][pairs[pair]]))
    assert found.furthest() == worst
    mean = sum(float(found.correlations[0][at]) for at in pairs.values()) / 3
    share = float(found.region.double().mean())
    text = f"3 maps agree with a rank correlation of {mean:.2f} in the mean, least {worst[0]} and {worst[1]} with "
    assert found.sentence().startswith(text) and f"in {share:.1%} of the positions" in found.sentence()


def test_the_report_says_how_far_the_maps_agree(tmp_path: Path) -> None:
    panel = panel_of(hill(2, 2), hill(2, 3))
    page = panel.save(tmp_path / "maps.html").read_text()
    assert panel.agreement().in_words() in page and "outlined: where the maps agree" in page
    alone = panel_of(hill(2, 2)).save(tmp_path / "one.html").read_text()
    assert "rank correlation" not in alone.split("<script")[0]


def test_agreement_in_words_and_by_chance() -> None:
    """Of k unrelated maps more than half have their top tenth in sum C(k, j) .1^j .9^(k-j) of the positions."""
    alike = panel_of(hill(2, 2), hill(2, 3)).agreement()
    assert alike.word() == "agree" and alike.chance() == pytest.approx(0.01)
    apart = panel_of(hill(2, 2), -hill(2, 2), hill(7, 7)).agreement()
    assert apart.word() == "disagree" and apart.chance() == pytest.approx(3 * 0.01 * 0.9 + 0.001)
    assert apart.in_words().startswith(f"The 3 maps disagree: their rank correlation is {apart.mean():.2f} in the mean")
    alone = panel_of(hill(2, 2)).agreement()
    assert alone.word() == "cannot be compared" and "none is agreed on" in alone.in_words()
    noise = torch.rand(5, 1, 60, 60, generator=torch.Generator().manual_seed(0), dtype=D)
    five = agreement_of(panel_of(*noise[:, None], names=tuple("abcde")), {}, View())
    assert float(five.region.double().mean()) == pytest.approx(five.chance(), rel=0.35)  # 31 of 3600, give or take 5


def test_a_tenth_of_few_positions_is_one_of_them() -> None:
    """Of 4 columns each map marks 1, so that two of three unrelated maps share one of them in 3/16 - 2/64 of cases."""
    net = nn.Linear(4, 2).double()
    x = torch.tensor([[1.0, -2.0, 0.5, 3.0]], dtype=D)
    found = ll.explain(net, x, ["gradient", "input-x-gradient", "integrated-gradients"], target=0).agreement()
    assert found.chance() == pytest.approx(3 / 16 - 2 / 64)
    assert "about 15.6% would be by chance" in found.in_words()
    three = panel_of(hill(2, 2, side=5), hill(2, 2, side=5)).agreement()
    assert three.chance() == pytest.approx((3 / 25) ** 2)  # places 23 to 25 of 25 are above nine tenths


def test_padding_behind_a_text_is_no_position() -> None:
    texts = [split("one two three four"), split("a much longer text with many more words than the first one has")]
    both = explained(texts, ["input-x-gradient", "integrated-gradients"]).agreement()
    for i, text in enumerate(texts):
        share = int(both.region[i].sum()) / len(text)
        assert both.to_dict(i)["region_share"] == pytest.approx(share)
        assert f"their top tenth in {share:.1%} of the positions" in both.sentence(i)
    assert both.chance(0) == pytest.approx((1 / len(texts[0])) ** 2)
