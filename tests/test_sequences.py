"""Baselines of one-hot sequences, and the rank correlation that studies compare maps by."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import limelight as ll
from limelight.base.similarity import rank_correlation, rank_correlations, ranks
from limelight.question.random_streams import Streams

D = torch.float64


def sequences(*texts: str) -> Tensor:
    """One-hot `(batch, 4, length)`."""
    letters = torch.tensor([["ACGT".index(letter) for letter in text] for text in texts])
    return one_hot(letters, 4).to(D).movedim(-1, 1)


def texts(hot: Tensor) -> list[str]:
    return ["".join("ACGT"[i] for i in row) for row in hot.argmax(1).tolist()]


def references(baseline: ll.Baseline, x: Tensor) -> Tensor:
    return baseline.references(x, Streams.of(x, 0))


LONG = "ACGTTGCAACGTACCATGGACTTAGACCA"


@pytest.mark.parametrize("k", [1, 2])
def test_shuffles_keep_the_counts_of_letters_and_pairs(k: int) -> None:
    x = sequences(LONG, LONG[::-1])
    found = references(ll.Shuffle(k, samples=6), x)  # type: ignore[arg-type]
    assert found.shape == (6, *x.shape) and found.dtype == x.dtype
    assert set(found.unique().tolist()) == {0, 1} and (found.sum(2) == 1).all()
    for sample in found:
        for before, after in zip(texts(x), texts(sample), strict=True):
            assert Counter(after) == Counter(before) and after != before
            if k == 2:
                assert Counter(pairwise(after)) == Counter(pairwise(before))
                assert (after[0], after[-1]) == (before[0], before[-1])
    assert len({text for sample in found for text in texts(sample)}) > 8  # and they differ


def test_pair_shuffles_are_uniform_over_the_sequences_with_the_same_pairs() -> None:
    # Every path from A back to A takes the loops AA, ACA and AGA in one of their 3! orders, all equally often.
    x = sequences("AACAGA")
    found = Counter(texts(references(ll.Shuffle(2, samples=600), x).flatten(0, 1)))
    assert set(found) == {"AACAGA", "AAGACA", "ACAAGA", "AGAACA", "ACAGAA", "AGACAA"}
    assert all(60 < count < 145 for count in found.values())  # 100 each, standard deviation 9


def test_shuffles_do_not_depend_on_the_batch_and_go_through_explain() -> None:
    x = sequences(LONG, LONG[::-1], LONG[3:] + "ACG")
    whole = references(ll.Shuffle(2), x)
    for i in range(3):
        assert torch.equal(references(ll.Shuffle(2), x[i : i + 1])[:, 0], whole[:, i])
    weight = torch.randn(4, len(LONG), dtype=D, generator=torch.Generator().manual_seed(0))
    f = ll.Differentiable(lambda x: (x * weight).flatten(1).sum(1, keepdim=True))
    a = ll.explain(f, x, ll.IntegratedGradients(ll.Midpoint(2)), baseline=ll.Shuffle(2, samples=3))
    own = ll.explain(f, x, ll.ExpectedGradients(samples=6), baseline=ll.Shuffle(2, samples=3))
    assert a.delta.abs().max() < 1e-10 and a.spread is not None and own.stderr is not None


def test_a_shuffle_of_a_sequence_with_one_order_is_that_order() -> None:
    x = sequences("AAAAA", "ACACA")
    assert texts(references(ll.Shuffle(2, samples=1), x)[0]) == ["AAAAA", "ACACA"]


def test_frequencies_stand_at_every_position() -> None:
    x = sequences("ACGT", "AAAA")
    p = (0.3, 0.2, 0.2, 0.3)
    found = references(ll.Frequencies(p), x)
    assert found.shape == (1, *x.shape) and found[0, 1, :, 2].tolist() == pytest.approx(p)
    last = references(ll.Frequencies(p, axis=2), x.movedim(1, 2))
    assert torch.equal(last[0], found[0].movedim(1, 2))
    assert found[0].stride(0) == 0  # the same for all examples, so evaluated once


def test_bad_sequences_are_refused() -> None:
    x = sequences("ACGT")
    with pytest.raises(ValueError, match="add up to 1"):
        ll.Frequencies((0.5, 0.6))
    with pytest.raises(ValueError, match="has 2 frequencies"):
        references(ll.Frequencies((0.5, 0.5)), x)
    with pytest.raises(ValueError, match=r"Shuffle\.k=3"):
        ll.Shuffle(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one-hot"):
        references(ll.Shuffle(), x * 0.5)
    with pytest.raises(ValueError, match="needs sequences"):
        references(ll.Shuffle(), x[:, :, :, None])


# Rank correlation -------------------------------------------------------------------------------------


def test_ranks_average_ties() -> None:
    assert ranks(torch.tensor([[3.0, 1.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0]])).tolist() == [
        [3.5, 1, 3.5, 2],
        [2.5, 2.5, 2.5, 2.5],
    ]


def test_rank_correlation_by_hand() -> None:
    # Without ties rho = 1 - 6 sum d^2 / (n (n^2 - 1)): d = (0, 1, -1, 0) gives 1 - 12 / 60 = .8.
    a, b = torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[10.0, 30, 20, 4000]])
    assert float(rank_correlation(a, b)) == pytest.approx(0.8)
    assert float(rank_correlation(a, -a)) == pytest.approx(-1)
    assert float(rank_correlation(a, a.exp())) == pytest.approx(1)
    # With ties (1, 1, 2) and (1, 2, 3): ranks (1.5, 1.5, 3), (1, 2, 3): covariance 1.5, variances 1.5 and 2.
    assert float(rank_correlation(torch.tensor([[1.0, 1, 2]]), torch.tensor([[1.0, 2, 3]]))) == pytest.approx(
        3**0.5 / 2
    )


def test_rank_correlation_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats", reason="the oracle")
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 9, (2, 5, 3, 40), generator=generator).double()
    expected = [stats.spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(rank_correlation(a, b), torch.tensor(expected, dtype=D))


def test_rank_correlation_where_there_is_none() -> None:
    a = torch.tensor([[1.0, 2, 3], [1, 1, 1], [1, float("nan"), 2]])
    assert rank_correlation(a, torch.arange(9.0).view(3, 3)).isnan().tolist() == [False, True, True]
    table = rank_correlations([a[:1], -a[:1], a[:1] ** 3])
    torch.testing.assert_close(table, torch.tensor([[[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]]], dtype=D))
    with pytest.raises(ValueError, match="shapes"):
        rank_correlation(a, a[:, :2])
