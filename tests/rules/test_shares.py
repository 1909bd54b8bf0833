"""The balance of a pass: what the map keeps, and what biases, stabilisers and softmax took, adds up to the score."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.rules import (
    ATTN_LRP,
    COMPOSITES,
    CP_LRP,
    EXCITATION,
    Epsilon,
    Flat,
    Gamma,
    Propagated,
    Propagation,
    Sharing,
    WSquare,
    ZBox,
    composite,
    deep_taylor,
    first,
    multipliers,
    without_biases,
)
from tests.rules.helpers import constant, frozen, logit, randomise_batch_norm
from tests.rules.test_linear_rules import RULES

pytestmark = pytest.mark.quick

UNBIASED = [*(each.tuned(bias=False) for each in COMPOSITES.values()), *map(without_biases, (ATTN_LRP, CP_LRP))]
BIASED = [*COMPOSITES.values(), deep_taylor(), deep_taylor(-3.0, 3.0), ATTN_LRP, CP_LRP, EXCITATION]
BIASED += [each.tuned(relative=False) for each in COMPOSITES.values()]


def name(propagation: Propagation) -> str:
    return propagation.name


class Residual(nn.Module):
    """Batch norms that fold and that stand alone, added constants, functional and in-place operators, a maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv, self.body = nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 6, 3)
        self.after, self.deep, self.head = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.Linear(24, 4)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(self.conv(self.norm(x - 0.45)))
        x = F.hardswish(self.body(F.pad(F.relu(x), (1, 1, 1, 1), value=0.2)))
        x = x + torch.sigmoid(self.deep(x)) + self.scale
        x += 0.1
        x = torch.maximum(x, self.scale / 4)
        x = torch.cat([x[:, :5], self.scale[5:].expand(len(x), 1, *x.shape[2:])], 1)
        return self.head(F.adaptive_avg_pool2d(F.max_pool2d(x, 2), 2).flatten(1))  # type: ignore[no-any-return]


class Tokens(nn.Module):
    """A class token, position embeddings and encoder layers, sequence first or batch first."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first, self.embed, self.head = batch_first, nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 4)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 17, 8) / 4)
        layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        for parameter in self.encoder.parameters():
            nn.init.normal_(parameter, std=0.4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(x), 1, 8), tokens], 1) + self.position
        if not self.batch_first:
            tokens = tokens.transpose(0, 1)
        tokens = self.encoder(tokens)
        return self.head(tokens[:, 0] if self.batch_first else tokens[0])  # type: ignore[no-any-return]


def _dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.Sigmoid(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 4))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dense": _dense,
    "residual": Residual,
    "tokens": lambda: Tokens(True),
    "tokens, sequence first": lambda: Tokens(False),
}


def network(kind: str) -> Callable[[Tensor], Tensor]:
    torch.manual_seed(0)
    return logit(randomise_batch_norm(NETWORKS[kind]()), 1)


def balance(found: Propagated) -> Tensor:
    """What the rows' accounts are off by, in parts of all that moved."""
    shares = found.shares
    assert shares is not None
    moved = shares.total.abs() + shares.kept.abs() + sum(each.abs() for each in shares.taken.values())
    return shares.remainder.abs() / moved


@pytest.mark.parametrize("propagation", [*BIASED, *UNBIASED], ids=name)
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_shares_add_up_to_each_score(kind: str, propagation: Propagation) -> None:
    score, x = network(kind), constant(3, 3, 8, 8)
    x[0, :, 2] = 0.0
    found = multipliers(score, x, propagation)
    shares = found.shares
    assert shares is not None and torch.allclose(shares.kept, found.values.sum((1, 2, 3)), rtol=1e-12)
    assert torch.allclose(shares.total, torch.ones(3).double() if shares.of_one else found.score, rtol=1e-9)
    assert balance(found).max() < 1e-9
    for i in range(3):  # as alone
        alone = multipliers(score, x[i : i + 1], propagation).shares
        assert alone is not None
        for key, taken in shares.taken.items():
            size = float(shares.total[i].abs() + shares.kept[i].abs())
            assert float(alone.taken[key][0]) == pytest.approx(float(taken[i]), rel=1e-9, abs=1e-9 * size)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_every_rule_conserves_without_biases(rule: Sharing) -> None:
    """With biases in both layers; what reaches an output that no input contributes to goes nowhere."""
    w, v, b, c, x = constant(9, 4), constant(3, 9, seed=1), constant(9, seed=2), constant(3, seed=3), constant(6, 4)

    def score(rows: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(rows, w, b)), v, c)[:, 0]

    rules = composite("epsilon").prepend((first, rule)).tuned(epsilon=0.0)
    biased, unbiased = multipliers(score, x, rules).shares, multipliers(score, x, rules.tuned(bias=False)).shares
    assert biased is not None and unbiased is not None
    assert biased.taken["biases"].abs().min() > 1e-3 and "biases" not in unbiased.taken
    stranded = unbiased.taken["outputs without contributing inputs"]
    assert torch.allclose(unbiased.kept + stranded, unbiased.total, rtol=1e-12, atol=1e-13)
    if isinstance(rule, Epsilon | Gamma | Flat | WSquare | ZBox):
        assert not stranded.any()


def test_the_worked_pair_of_networks() -> None:
    """Equal functions max(max(x1, 0) - 1 - max(x2, 0), 0) and max(max(x1 - 1, 0) - max(x2, 0), 0), both 1 at (3, 1).

    Without biases the first shares 1 over the terms (3, -1) of 2, the second hands (2, -1) on.
    """
    x = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    one, two = torch.tensor([[1.0, -1.0]], dtype=torch.float64), torch.eye(2, dtype=torch.float64)

    def first_of(rows: Tensor) -> Tensor:
        return F.relu(F.linear(F.relu(rows), one, torch.tensor([-1.0]).double()))[:, 0]

    def second(rows: Tensor) -> Tensor:
        return F.relu(F.linear(F.relu(F.linear(rows, two, torch.tensor([-1.0, 0.0]).double())), one))[:, 0]

    def spelled(rows: Tensor) -> Tensor:
        return F.relu(F.linear(F.relu(rows), one) - 1)[:, 0]

    rules = [composite("epsilon").tuned(bias=False, epsilon=0.0), *map(without_biases, (ATTN_LRP, CP_LRP))]
    rules += [composite("zero").tuned(bias=False)]
    for propagation in rules:
        for score, expected in ((first_of, (1.5, -0.5)), (second, (2, -1)), (spelled, (1.5, -0.5))):
            values = multipliers(score, x, propagation).values[0]
            assert values.tolist() == pytest.approx(expected, rel=1e-8), (propagation.name, score.__name__)
    assert multipliers(first_of, x, composite("zero")).values[0].tolist() == pytest.approx([3, -1], rel=1e-8)


def test_shares_by_hand() -> None:
    """y = 2 a - b + 3 from (a, b) = (1, 4): 1 = 2 - 4 + 3; softmax hands on x s (g - s.g) of s.g."""
    x, w = torch.tensor([[1.0, 4.0]], dtype=torch.float64), torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    found = multipliers(lambda r: F.linear(r, w, torch.tensor([3.0]).double())[:, 0], x, composite("zero")).shares
    assert found is not None and found.kept.tolist() == pytest.approx([-2]) and found.total.tolist() == [1]
    assert found.taken["biases"].tolist() == pytest.approx([3])
    assert found.notes() == (
        ll.Note(
            "caution",
            "OTHER SIGN: the values sum to -2 of the score 1 (-200%); biases took 3 (300%); the map says little about "
            "where the score comes from",
            0,
        ),
    )
    half = composite("epsilon").tuned(epsilon=1.0)  # the only output's mean |z| is itself: half is left
    found = multipliers(lambda r: F.linear(r, w.abs())[:, 0], x, half).shares
    assert found is not None and found.kept.tolist() == pytest.approx([3])
    assert found.notes()[0] == "example 0: the values sum to 3 of the score 6 (50%); epsilon took 3 (50%)"
    g = torch.tensor([1.0, 3.0], dtype=torch.float64)
    found = multipliers(lambda r: torch.softmax(r, 1) @ g, x, ATTN_LRP).shares
    s = x[0].softmax(0)
    assert found is not None
    assert found.taken["softmax"].tolist() == pytest.approx([float(s @ g - (x[0] * s * (g - s @ g)).sum())])


def test_what_takes_is_named_after_what_it_is() -> None:
    x = constant(2, 3, seed=1)
    w = constant(3, 3)
    spellings: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
        "a bias added": ("biases", lambda r: F.linear(r, w) + 2),
        "a bias subtracted": ("biases", lambda r: 2 - F.linear(r, w)),
        "a norm's bias": ("biases", lambda r: F.layer_norm(F.linear(r, w), (3,), w[0], w[1])),
        "addmm": ("biases", lambda r: torch.addmm(w[0], r, w)),
        "a token": ("constants", lambda r: torch.cat([F.linear(r, w), w[:2]], 1)),
        "padding": ("constants", lambda r: F.pad(F.linear(r, w), (1, 0), value=2.0)),
        "a write": ("constants", lambda r: _written(F.linear(r, w))),
        "a maximum": ("constants", lambda r: torch.maximum(F.linear(r, w[:1]), torch.ones_like(w[:2]))),
        "a choice": ("constants", lambda r: torch.where(torch.tensor([True, False, True]), F.linear(r, w), w[0])),
        "a sigmoid of 0": ("activations at 0", lambda r: torch.sigmoid(F.linear(r * 0, w))),
        "a square of a sum": ("softmax", lambda r: torch.softmax(F.linear(r, w), 1)),
    }
    for spelling, (who, f) in spellings.items():
        for propagation in (ATTN_LRP, composite("zero")):
            found = multipliers(lambda r, f=f: f(r).sum(1) + f(r)[:, 0], x, propagation).shares
            assert found is not None and found.remainder.abs().max() < 1e-8, spelling
            assert [key for key, each in found.taken.items() if each.abs().max() > 1e-8] == [who], spelling


def _written(y: Tensor) -> Tensor:
    y = y.clone()
    y[:, 1] = 2.0
    return y


DEFAULTS = [ll.LRP(), ll.LRP("epsilon"), ll.AttnLRP(), ll.CPLRP(), ll.DeepTaylor(), ll.ExcitationBackprop()]


@pytest.mark.parametrize("method", DEFAULTS, ids=repr)
@pytest.mark.parametrize("rows_per_pass", [1, 2, None])
def test_every_example_has_its_note(method: ll.Method, rows_per_pass: int | None) -> None:
    torch.manual_seed(0)
    net, x = frozen(Residual()), torch.rand(3, 3, 8, 8, dtype=torch.float64)
    found = ll.explain(net, x, method, target=[0, 1, 2], rows_per_pass=rows_per_pass)
    for i in range(3):
        noted = [note for note in found.notes if note.example == i and "the values sum to" in note]
        assert len(noted) == 1 and f"{float(found.values[i].sum()):.4g} of the" in noted[0]
        alone = ll.explain(net, x[i : i + 1], method, target=i)
        assert noted[0].text in [note.text for note in alone.notes]


def test_several_targets_keep_their_shares() -> None:
    net, x = frozen(_dense()), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    found = ll.explain(net, x, ll.LRP(), target=[[0, 1], [2, 3]])
    assert {note.example for note in found.notes if "the values sum to" in note} == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize("method", DEFAULTS[:4], ids=repr)
def test_a_map_of_next_to_nothing_is_a_caution(method: ll.Method) -> None:
    """The bias makes the score: the map is drawn, but with a caution, also through a wrapper."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    nn.init.constant_(net[1].bias, 1e4)
    x = torch.rand(2, 3, 2, 2, dtype=torch.float64)
    for wrapped in (method, ll.SmoothGrad(method, samples=4)):
        found = ll.explain(net, x, wrapped, target=0).cautions
        assert [note.example for note in found if "LITTLE KEPT" in note or "OTHER SIGN" in note] == [0, 1]
    if not isinstance(method, ll.LRP | ll.AttnLRP | ll.CPLRP):
        return
    exact = ll.explain(net, x, replace(method, bias=False), target=0)
    assert not [note for note in exact.cautions if "KEPT" in note]
    assert torch.allclose(exact.values.flatten(1).sum(1), exact.score, rtol=1e-5)


def test_excitation_says_where_it_is_no_probability() -> None:
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(128, 3))
    for net, signed in ((plain, False), (Tokens(True), True)):
        found = ll.explain(net.double(), x - 0.5, ll.ExcitationBackprop(), target=0)
        assert any("NO PROBABILITIES" in note for note in found.cautions) is signed
        share = found.values.clamp(max=0).abs().flatten(1).sum(1) / found.values.abs().flatten(1).sum(1)
        assert bool((share > 0.005).all()) is signed


def test_rows_that_cannot_be_told_apart_are_said_to_be() -> None:
    """Rows laid out along the last axis: the sums are right, how they part is known for one row."""
    weight, bias, last = constant(3, 4), constant(3, seed=1), constant(3, 1, seed=2)

    def sideways(rows: Tensor) -> Tensor:
        return (torch.relu(F.linear(rows, weight, bias)).mT.add(1.5) * last).sum(0)

    several = multipliers(sideways, constant(3, 4), composite("epsilon")).shares
    assert several is not None and several.taken["biases"].isnan().all()
    assert "; biases, epsilon" in several.notes()[0] or "; epsilon, biases" in several.notes()[0]
    assert "how much each is told with rows_per_pass=1" in several.notes()[0]
    for i in range(3):
        alone = multipliers(sideways, constant(3, 4)[i : i + 1], composite("epsilon")).shares
        assert alone is not None and torch.allclose(alone.kept[0], several.kept[i]) and alone.remainder.abs() < 1e-12
