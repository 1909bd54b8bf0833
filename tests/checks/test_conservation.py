"""The share of the score that relevance maps keep, by hand, and what says so."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import limelight as ll
from limelight.checks.conservation import divided_by

from ..networks import conv_net, every_case, pictures


def biased(bias: float) -> nn.Module:
    """f = x1 - x2 + bias."""
    net = nn.Sequential(nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -1.0]]))
        net[0].bias.fill_(bias)
    return net


X = torch.tensor([[3.0, 2.0], [3.0, 1.0]], dtype=torch.float64)


def test_shares_by_hand() -> None:
    """LRP gives 3 - 2 of 1 + 1 and 3 - 1 of 2 + 1; a map's size is 5 of 2 and 4 of 3."""
    found = ll.check(biased(1.0), X, "lrp('epsilon')", "conserved-share", target=0)[0]
    assert found.value.tolist() == pytest.approx([1 / 2, 2 / 3], rel=1e-5)
    assert found.detail["size"].tolist() == pytest.approx([5 / 2, 4 / 3], rel=1e-5)
    assert found.passed is None and found.forward_rows == 0


@pytest.mark.parametrize(("bias", "cautioned"), [(8.9, False), (9.1, True), (99.0, True)])
def test_below_a_tenth_the_map_has_a_caution(bias: float, cautioned: bool) -> None:
    """Of 1 + bias the first example keeps 1; the second, of 2 + bias, 2."""
    a = ll.explain(biased(bias), X, "lrp('epsilon')", target=0)
    assert [each.example for each in a.cautions] == ([0, 1] if bias > 50 else [0] if cautioned else [])
    card = ll.trust_card(biased(bias), X, "lrp('epsilon')", "conserved-share", target=0)
    assert ("LITTLE KEPT" in card.to_text()) is cautioned and "conserved-share" in card.to_text()


def test_a_score_of_0_has_no_share() -> None:
    found = ll.check(biased(-1.0), X, "lrp('epsilon')", "conserved-share", target=0)[0]
    assert found.value.isnan().tolist() == [True, False] and "score is 0" in found.reasons[0]


@every_case
def test_every_method_with_a_balance_has_the_figure(method: ll.Method) -> None:
    net, x = conv_net(), pictures(2)
    a = ll.explain(net, x, method, target=0)
    found = ll.check(net, x, a, "conserved-share")[0]
    balances = [each for each in a.notes if re.search("the values sum to .* of the (score|probab)", each)]
    if divided_by(method) is None:
        assert "relevance methods" in found.reason
        # A mean over noisy inputs tells each balance in its notes, and has none itself.
        assert not balances or isinstance(method, ll.SmoothGrad)
        return
    total = a.score if divided_by(method) == "score" else torch.ones(2).double()
    torch.testing.assert_close(found.value, a.values.flatten(1).sum(1) / total)
    assert len(balances) == 2


def test_a_file_and_a_bare_map_keep_to_what_is_known(tmp_path) -> None:  # type: ignore[no-untyped-def]
    a = ll.explain(biased(1.0), X, "lrp('epsilon')", target=0)
    again = ll.Attribution.load(a.save(tmp_path / "map.safetensors"))
    shares = [ll.check(biased(1.0), X, each, "conserved-share")[0] for each in (a, again, a.values)]
    assert shares[0].value.tolist() == shares[1].value.tolist()
    assert "relevance methods" in shares[2].reason
