"""What a model's outputs are: declared, told by an operator, or read from each example's own values."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.question.readings import confidences, kind_of

from .test_methods import same

D = torch.float64
W = torch.linspace(-1, 1, 3 * 4 * 4 * 5, dtype=D).sin().reshape(48, 5) * 0.7
X = torch.linspace(0, 1, 3 * 48, dtype=D).reshape(3, 3, 4, 4) ** 2


def logits(rows: Tensor) -> Tensor:
    return rows.flatten(1) @ W


def near(a: ll.Attribution, b: ll.Attribution, tolerance: float) -> bool:
    return float((a.values - b.values).abs().max()) <= tolerance * float(b.values.abs().max())


class Ends(nn.Module):
    """A linear layer, with what the last operator makes of its outputs."""

    def __init__(self, end: Any) -> None:
        super().__init__()
        self.layer, self.end = nn.Linear(48, 5, bias=False).double(), end
        with torch.no_grad():
            self.layer.weight.copy_(W.T)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.layer(x.flatten(1)))


SOFTMAXES = {
    "module": nn.Softmax(1),
    "functional": lambda z: torch.softmax(z, -1),
    "in a view": lambda z: z.softmax(1)[:, None].squeeze(1),
    "exponentials": lambda z: z.exp() / z.exp().sum(1, keepdim=True),
    "of logarithms": lambda z: z.log_softmax(1).exp(),
}


@pytest.mark.parametrize("end", SOFTMAXES)
@pytest.mark.parametrize(
    "method", ["gradient", "integrated-gradients", "occlusion(2, 2)", "rise(64)", "deep-lift", "lrp"]
)
def test_softmax_is_not_taken_twice(end: str, method: str) -> None:
    """M9: the probability of a model that ends in softmax is its output."""
    net, exact = Ends(SOFTMAXES[end]), Ends(lambda z: z)
    options: dict[str, Any] = {"on_uncovered": "gradient"} if method == "lrp" else {}
    asked = ll.LRP("epsilon", **options) if method == "lrp" else method
    found = ll.explain(net, X, asked, target=ll.Probability(2))
    assert torch.allclose(found.score, logits(X).softmax(1)[:, 2], rtol=1e-12)
    assert near(found, ll.explain(net, X, asked, target=2), 1e-12)
    assert found.output_kinds == ("probabilities",) * 3
    if method in ("gradient", "occlusion(2, 2)", "rise(64)"):
        assert near(found, ll.explain(exact, X, asked, target=ll.Probability(2)), 1e-9)
    log = ll.explain(net, X, "gradient", target=ll.LogProbability(2))
    assert torch.allclose(log.score, logits(X).log_softmax(1)[:, 2], rtol=1e-12)


def test_logits_that_look_like_probabilities_are_told_by_their_operator() -> None:
    small = Ends(lambda z: z)
    with torch.no_grad():
        small.layer.weight.copy_(W.T.abs() * 1e-3)
    a = ll.explain(small, X, "gradient", target=ll.Probability(2))
    assert a.output_kinds == ("logits",) * 3 and not a.cautions
    assert torch.allclose(a.score, small(X).softmax(1)[:, 2])


def test_a_guess_by_values_is_a_caution_where_the_score_depends_on_it() -> None:
    box = ll.BlackBox(lambda rows: logits(torch.from_numpy(rows)).softmax(1).numpy())
    a = ll.explain(box, X, "occlusion(2, 2)", target=ll.Probability(2))
    assert a.output_kinds == ("probabilities",) * 3 and torch.allclose(a.score, logits(X).softmax(1)[:, 2])
    assert any("read as probabilities, by their values" in note for note in a.cautions)
    assert not ll.explain(box, X, "occlusion(2, 2)", target=2).cautions
    declared = ll.explain(box, X, "occlusion(2, 2)", target=ll.Probability(2), outputs="probabilities")
    assert not declared.cautions
    same(declared, a)
    logit = ll.explain(box, X, "occlusion(2, 2)", target=ll.Probability(2), outputs="logits")
    assert torch.allclose(logit.score, logits(X).softmax(1).softmax(1)[:, 2])


def test_rows_are_read_as_they_are_at_the_input() -> None:
    """A masked input may answer with numbers that look like another kind."""

    def answer(rows: np.ndarray) -> np.ndarray:
        z = logits(torch.from_numpy(rows)).numpy()
        return np.where(rows.sum((1, 2, 3), keepdims=True)[:, :, 0, 0] > 30, 5 * z, 0 * z + 0.1)

    x = torch.cat([X[2:], X[2:] * 0.99])
    a = ll.explain(ll.BlackBox(answer), x, "occlusion(2, 2)", target=ll.Probability(2), baseline=0.0)
    assert a.output_kinds == ("logits", "logits")
    assert torch.allclose(a.score[:1], (5 * logits(x[:1])).softmax(1)[:, 2])


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ([0.2, 0.3, 0.5], "probabilities"),
        ([0.2, 0.3, 0.1], "probabilities"),  # the best three of more
        ([0.2, 0.301, 0.5], "probabilities"),  # rounded
        ([1.0000001, 0.0], "probabilities"),  # a sum that float32 rounded
        ([0.9, 0.8, 0.0], "sigmoids"),
        ([0.7], "sigmoids"),
        ([0.2, -0.1, 0.9], "logits"),
        ([1.2, 0.1, 0.0], "logits"),
        ([0.0, 0.0, 0.0], "logits"),
        ([float("nan"), 0.0], "logits"),
    ],
)
def test_kinds_by_values(row: list[float], kind: str) -> None:
    assert kind_of(torch.tensor(row)) == kind


def test_thousand_rounded_probabilities_are_still_some() -> None:
    exact = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=D).mul(3).softmax(0)
    for decimals in (1, 2, 3, 4):
        assert kind_of(exact.round(decimals=decimals)) == "probabilities"


@pytest.mark.parametrize(
    "check", ["deletion(steps=8)", "insertion(steps=8)", "srg(steps=8)", "pixel-flipping(steps=8)", "road", "irof"]
)
def test_rounding_moves_a_figure_by_no_more_than_itself(check: str) -> None:
    """B1: a service that rounds to three decimals, answers with its best five, or with sigmoids."""
    w = torch.randn(432, 1000, generator=torch.Generator().manual_seed(0), dtype=D) * 0.2
    x = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(1), dtype=D)
    maps = torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(2), dtype=D)

    def full(rows: np.ndarray) -> np.ndarray:
        return (torch.from_numpy(rows).flatten(1) @ w).softmax(1).numpy()

    def figure(f: Any, which: slice = slice(None)) -> Tensor:
        own = target[which].tolist()
        return ll.check(ll.BlackBox(f), x[which], maps[which], check, target=own)[0].value

    target = torch.from_numpy(full(x.numpy()).argmax(1))
    exact, rounded = figure(full), figure(lambda rows: full(rows).round(3))
    # Areas and differences of curves whose points moved by 5e-4 at most; IROF divides by f(x).
    bound = 2 * 5e-4 / (float(full(x.numpy()).max(1).min()) if check == "irof" else 1) * (2 if check == "irof" else 1)
    assert (exact - rounded).abs().max() <= bound
    # B2: no figure depends on a neighbour's outputs.
    mixed = figure(lambda rows: np.where(np.arange(len(rows))[:, None] >= 0, full(rows).round(3), 0))
    for i in range(4):
        assert torch.allclose(
            figure(lambda rows: full(rows).round(3), slice(i, i + 1))[0], mixed[i], rtol=1e-9, equal_nan=True
        )


def test_a_neighbour_does_not_change_how_an_example_is_read() -> None:
    def answer(rows: np.ndarray) -> np.ndarray:
        z = logits(torch.from_numpy(rows))
        return torch.where(torch.from_numpy(rows).sum((1, 2, 3))[:, None] > 20, z, z.softmax(1)).numpy()

    method, target = "kernel-shap(60, players=grid(4))", ll.Probability(1)
    alone = [ll.explain(ll.BlackBox(answer), X[i : i + 1], method, target=target) for i in range(3)]
    batch = ll.explain(ll.BlackBox(answer), X, method, target=target)
    assert set(batch.output_kinds) == {"logits", "probabilities"}
    for i, each in enumerate(alone):
        assert batch.output_kinds[i] == each.output_kinds[0] and torch.allclose(batch.values[i], each.values[0])


def test_declarations() -> None:
    net = Ends(lambda z: z.sigmoid())
    prepared = ll.prepare(net, outputs="sigmoids", labels=("a", "b", "c", "d", "e"))
    a = ll.explain(prepared, X, "gradient", target=ll.Probability(2))
    assert a.output_kinds == ("sigmoids",) * 3 and torch.allclose(a.score, net(X)[:, 2])
    assert ll.explain(prepared, X, "gradient", target="c").target.tolist() == [2, 2, 2]
    again = pickle.loads(pickle.dumps(ll.prepare(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), outputs="logits")))
    assert again.outputs == "logits"
    with pytest.raises(ValueError, match=r"outputs: declared 'probabilities', and those of example 1 run from"):
        ll.explain(Ends(lambda z: z), X, "gradient", target=ll.Probability(2), outputs="probabilities")
    with pytest.raises(ValueError, match=r"outputs: 'logit'; use 'logits', "):
        ll.explain(net, X, "gradient", outputs="logit")
    with pytest.raises(
        ValueError, match=r"declared 'embeddings', which have no score of a class; use target=Similarity"
    ):
        ll.explain(net, X, "gradient", outputs="embeddings")
    with pytest.raises(ValueError, match=r"declared 'labels'"):
        ll.explain(net, X, "gradient", target=1, outputs="labels")
    score = ll.explain(net, X, "gradient", target=1, outputs="score")
    assert confidences(score.outputs, "score").isnan().all()


def test_labels_have_no_score() -> None:
    """B5: whole numbers are names of classes."""
    for target in (0, None, ll.Probability(0)):
        with pytest.raises(TypeError, match=r"returns torch.int64, which are labels and no scores"):
            ll.explain(lambda x: (x.flatten(1) @ W).argmax(1), X, "occlusion(2, 2)", target=target)


def test_the_kinds_are_saved(tmp_path: Any) -> None:
    a = ll.explain(Ends(nn.Softmax(1)), X, "gradient", target=ll.Probability(2))
    a.save(tmp_path / "a.safetensors")
    again = ll.Attribution.load(tmp_path / "a.safetensors")
    assert again.output_kinds == a.output_kinds and again.target.kinds == "probabilities"
    assert a.target.as_text() == "probability(2)"


def test_an_estimators_probabilities_are_said_by_their_name() -> None:
    from sklearn.naive_bayes import GaussianNB

    data = np.concatenate([np.random.default_rng(0).normal(size=(20, 4)) + shift for shift in (-9, 9)])
    estimator = GaussianNB().fit(data, np.repeat([0, 1], 20))  # sure to the last digit, and one beyond
    found = ll.explain(estimator, torch.from_numpy(data[:4]), "exact-shapley", target=ll.Probability(1))
    assert found.output_kinds == ("probabilities",) * 4 and not found.cautions
    assert torch.allclose(found.score, torch.from_numpy(estimator.predict_proba(data[:4])[:, 1]))
