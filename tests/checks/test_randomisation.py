"""Randomisation draws what the score reads: heads, poolers, frozen trunks, tied weights, neurons, experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.checks.case import open_case
from limelight.model_edits.randomise import put_back, redraw, redrawable
from limelight.question.question import question_of

from ..networks import conv_net, linear_net, pictures
from ..test_methods import snapshot


def body() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU())


class Auxiliary(nn.Module):
    """A head that is explained, and one that nothing reads; it runs last."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.aux = body(), nn.Linear(16, 3), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x)
        return {"logits": self.head(h), "aux": self.aux(h)}


class Pooled(nn.Module):
    """A transformer with a pooler over the class token, whose logits come from the mean of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head, self.pooler = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 3), nn.Linear(16, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        return self.head(tokens.tanh().mean(1)), self.pooler(tokens[:, 0]).tanh()


class TiedAuxiliary(Auxiliary):
    """The head that nothing reads shares the weight of the one that is explained."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(16, 3)
        self.aux.weight = self.head.weight


class TiedToStem(nn.Module):
    """The logits are read by the first layer's weight, after a norm whose weights are all but 1."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.embed, self.norm = nn.Flatten(), nn.Linear(192, 16, bias=False), nn.LayerNorm(16)
        self.take = nn.Linear(16, 16)
        with torch.no_grad():
            self.norm.weight += 0.01 * torch.randn(16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.take(self.embed(self.flat(x)).relu()))
        return h @ self.embed.weight[:, :5]


class SharedModule(nn.Module):
    """One layer runs three times, the last time as the head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.shared, self.side = body(), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.shared(self.shared(self.body(x)).relu()).relu()
        self.side(h)
        return self.shared(h)


class FrozenTrunk(nn.Module):
    """A trunk without gradients, whose forward has none either, beside a trained path around it."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.path, self.head, self.aux = body(), body(), nn.Linear(16, 3), nn.Linear(16, 2)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            fixed = self.trunk(x)
        h = fixed + self.path(x)
        self.aux(h)
        return self.head(h)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "auxiliary": (Auxiliary, ("aux",)),
    "pooler": (Pooled, ("pooler",)),
    "tied auxiliary": (TiedAuxiliary, ()),
    "tied to the stem": (TiedToStem, ()),
    "shared module": (SharedModule, ("side",)),
    "frozen": (FrozenTrunk, ("aux",)),
}


def built(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().double().eval()


def finding(
    model: nn.Module, check: ll.Check | None = None, method: Any = "integrated-gradients", **options: Any
) -> Any:
    return ll.check(model, pictures(2), method, check or ll.Randomisation(), **options)[0]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_good_map_passes_and_the_finding_says_what_was_left_out(name: str, frozen: bool) -> None:
    kind, unread = NETS[name]
    net = built(kind).requires_grad_(not frozen)
    before = snapshot(net)
    found = finding(net, target=0)
    assert found.passed is True and float(found.value.max()) < 0.7, found
    (left,) = [note for note in found.notes if "left out" in note] or [""]
    assert left == (f"left out, as the score does not depend on them: {', '.join(unread)}" if unread else "")
    assert str(snapshot(net)) == str(before)


@pytest.mark.parametrize("name", NETS)
def test_a_map_of_edges_still_fails(name: str) -> None:
    """What does not depend on the model is caught on each of them."""
    found = finding(
        built(NETS[name][0]), ll.Randomisation(stages=1, draws=1), ll.evaluation.controls.SobelEdges(), target=0
    )
    assert found.passed is False and found.value.tolist() == [1, 1]


def test_a_layer_above_a_neuron_is_left_out() -> None:
    found = finding(conv_net(), target=ll.Neuron("stem", channel=5))
    assert "left out, as the score does not depend on them: head, body" in found.notes
    assert found.passed is True


class Experts(nn.Module):
    """Each class has a head of its own, so that examples of different classes read different layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.heads = body(), nn.ModuleList(nn.Linear(16, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return torch.cat([head(h) for head in self.heads], 1)


@pytest.mark.parametrize("order", ["cascade", "independent"])
def test_each_example_has_its_own_top_layer(order: Any) -> None:
    net, x, check = built(Experts), pictures(3), ll.Randomisation(order, draws=1)
    together = ll.check(net, x, "gradient", check, target=[0, 2, 0])[0]
    for i, target in enumerate((0, 2, 0)):
        alone = ll.check(net, x[i : i + 1], "gradient", check, target=target)[0]
        torch.testing.assert_close(together.value[i : i + 1], alone.value)
        torch.testing.assert_close(together.detail["spearman"][i : i + 1], alone.detail["spearman"])
    assert "examples 0, 2: left out, as the score does not depend on them: heads.2, heads.1" in together.notes
    assert "examples 1: layers replaced, in turn: heads.2" in " ".join(together.notes)


def test_a_score_that_reads_nothing_is_a_reason() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(192, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.unused(x.flatten(1))
            return x.flatten(1).square()

    found = finding(built(Around), method="gradient", target=0)
    assert found.passed is None and "depends on no layer" in found.reason


def test_a_unit_that_is_off_is_read_all_the_same() -> None:
    """Without a gradient at this input, and drawn anew it changes the score."""
    net, x = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 1))), pictures(1)
    with torch.no_grad():
        net[1].weight.copy_(x.mean() - x.flatten(1).expand(4, -1))  # type: ignore[operator, union-attr]
    assert not net[:2](x).relu().any()  # type: ignore[index]
    found = ll.check(net, x, "gradient", ll.Randomisation(draws=1), target=0)[0]
    assert not [note for note in found.notes if "left out" in note]


def test_tied_weights_stay_tied_and_come_back() -> None:
    net = built(TiedAuxiliary)
    with redrawable(net, pictures(1)) as (module, layers):
        assert set(layers[:2]) == {"aux", "head"} and layers[-1] == "body.1"
        replaced = redraw(module, "aux", "moments", 0)
        assert module.aux.weight is module.head.weight and not torch.equal(module.head.weight, net.head.weight)  # type: ignore[arg-type, union-attr]
        put_back(replaced)
        assert module.aux.weight is module.head.weight and torch.equal(module.head.weight, net.head.weight)  # type: ignore[arg-type, union-attr]


def test_layers_are_ordered_by_where_their_weights_are_last_read() -> None:
    with redrawable(built(TiedToStem), pictures(1)) as (_, layers):
        assert layers == ["embed", "norm", "take"]
    with redrawable(built(SharedModule), pictures(1)) as (_, layers):
        assert layers == ["shared", "side", "body.1"]


class Counted(nn.Module):
    """A network on pictures, which counts the rows that it and all its copies run on."""

    rows: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.body, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)
        for each in (self.norm.weight, self.norm.bias):
            nn.init.uniform_(each, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        Counted.rows += len(x)
        return self.head(self.body(self.norm(self.stem(x)).relu()).relu().mean((2, 3)))


class Doubtful(Counted):
    """A copy has to build this one's function anew, so that what it computes is compared with the original."""

    def __init__(self) -> None:
        super().__init__()
        self.act = lambda h: self.norm(h).relu()

    def forward(self, x: Tensor) -> Tensor:
        Counted.rows += len(x)
        return self.head(self.body(self.act(self.stem(x))).relu().mean((2, 3)))


def loaded(net: nn.Module) -> nn.Module:
    model = ll.ImageModel(net)
    model.loaded = True
    return model


@pytest.mark.parametrize(("method", "forward", "backward"), [("gradient", 1, 1), ("integrated-gradients(4)", 6, 4)])
@pytest.mark.parametrize("made", [Counted, Doubtful, lambda: ll.prepare(Counted()), lambda: loaded(Counted())])
def test_a_redrawn_network_costs_its_map_alone(
    made: Callable[[], Any], method: str, forward: int, backward: int
) -> None:
    """Neither its proof nor its packing nor a row that is compared is run again: the code is that of the first one."""
    torch.manual_seed(0)
    model, x, counts = made(), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)), []
    for stages, draws in ((1, 1), (1, 1), (4, 2)):  # the first proves the model itself
        Counted.rows = 0
        found = ll.check(model, x, method, ll.Randomisation(stages=stages, draws=draws), target=[0, 1])[0]
        counts.append((Counted.rows, found.forward_rows, found.backward_rows))
    _, (ran, forwards, backwards), (all_ran, all_forwards, all_backwards) = counts
    more = (4 * 2 - 1) * 2
    assert (all_ran - ran, all_forwards - forwards, all_backwards - backwards) == (
        more * forward,
        more * forward,
        more * backward,
    )


def test_the_first_redrawn_network_shows_whether_rows_are_independent() -> None:
    class Batch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = linear_net()

        def forward(self, x: Tensor) -> Tensor:
            h = self.net(x)
            return h + h.mean(0)

    x = pictures(2)
    a = ll.explain(linear_net(), x, "gradient", target=0)
    with (
        question_of(built(Batch), x, {"target": 0}) as question,
        open_case(question, a, ll.Gradient()) as case,
        pytest.raises(ValueError, match="the output depends on the rest of the batch"),
    ):
        ll.Randomisation().run(case)


@pytest.mark.parametrize("init", ["moments", "permute"])
def test_a_head_of_equal_weights_decides_nothing(init: Any) -> None:
    """Of a head that averages only the bias can be drawn, which moves no gradient: the layer before it decides."""

    class Averaged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = body(), nn.Linear(16, 3)
            with torch.no_grad():
                self.head.weight.fill_(1 / 16)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(self.body(x))
            return found

    found = ll.check(built(Averaged), pictures(2), "gradient", ll.Randomisation(init=init), target=0)[0]
    assert found.passed is True and found.value.abs().max() < 0.5, found
    assert found.notes[0] == "layers replaced, in turn: body.1"
