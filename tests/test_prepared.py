"""Prepared models: a snapshot with its own weights, proven once, equal to the model it was made from."""

from __future__ import annotations

import gc
import pickle
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll

from .networks import conv_net, every_case, few_cases, pictures, refusing
from .test_methods import Counting, same, snapshot
from .test_model_copy import Global, ItsOwnCopy, Registered


@every_case
def test_a_prepared_model_is_explained_as_the_model(method: ll.Method) -> None:
    net, x = conv_net().train(), pictures(2)
    before = snapshot(net)
    prepared = ll.prepare(net)
    plain = ll.explain(net, x, method, target=1)
    for _ in range(2):
        a = ll.explain(prepared, x, method, target=1)
        same(a, plain)
        assert (a.forward_rows, a.backward_rows) == (plain.forward_rows, plain.backward_rows)
        assert "model was in training mode: explained in eval mode" in a.notes
    assert str(snapshot(net)) == str(before)


def test_training_on_changes_nothing_of_the_snapshot_and_is_said() -> None:
    net, x = conv_net(), pictures(2)
    prepared, shared = ll.prepare(net), ll.prepare(net, share=True)
    first = ll.explain(prepared, x, "gradient", target=1)
    assert not any("trained since" in note for note in first.notes)
    with torch.no_grad():
        net.body.weight.mul_(3)
        net.stem[1].running_mean.add_(1)
    again = ll.explain(prepared, x, "gradient", target=1)
    same(again, first)
    assert any("trained since" in note for note in again.notes)
    same(ll.explain(shared, x, "gradient", target=1), ll.explain(net, x, "gradient", target=1))
    same(ll.explain(ll.prepare(net), x, "gradient", target=1), ll.explain(net, x, "gradient", target=1))


def test_a_prepared_model_runs_moves_and_pickles() -> None:
    net, x = conv_net(), pictures(3)
    prepared = ll.prepare(net)
    assert torch.equal(prepared(x), net(x)) and prepared.module is net and not prepared(x).requires_grad
    assert not isinstance(prepared, nn.Module)
    weights = sum(each.numel() * 8 for each in (*net.parameters(), *net.buffers()))
    assert prepared.memory.weights == weights and ll.prepare(net, share=True).memory.weights < weights
    moved = prepared.to("cpu")
    assert moved is not prepared and torch.equal(moved(x), net(x))
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).double()
    prepared = ll.prepare(net)
    with torch.no_grad():
        net[0].weight.zero_()
    loaded = pickle.loads(pickle.dumps(prepared))
    same(ll.explain(loaded, x, "gradient", target=1), ll.explain(prepared, x, "gradient", target=1))


def test_layers_of_a_prepared_model_are_those_of_the_original() -> None:
    net, x = conv_net(), pictures(2)
    prepared = ll.prepare(net)
    for layer in (net.body, "body", [net.stem, net.body]):
        same(ll.explain(prepared, x, "grad-cam", layer=layer), ll.explain(net, x, "grad-cam", layer=layer))


def test_checks_and_a_panel_take_a_prepared_model() -> None:
    net, x = conv_net(), pictures(2)
    prepared = ll.prepare(net)
    panel = ll.explain(prepared, x, ["gradient", "lrp", "grad-cam"], target=1)
    for name, each in ll.explain(net, x, ["gradient", "lrp", "grad-cam"], target=1).items():
        same(panel[name], each)
    for check in (ll.Deletion(steps=4), ll.Randomisation(), ll.Fragility(iterations=2, looks=2)):
        mine, theirs = (ll.check(m, x, "gradient", check)[0] for m in (prepared, net))
        torch.testing.assert_close(mine.value, theirs.value, equal_nan=True)


@few_cases
def test_eight_threads_share_a_prepared_model(method: ll.Method) -> None:
    prepared, x = ll.prepare(conv_net().train()), pictures(8)
    expected = ll.explain(prepared, x, method, target=1)
    found: list[Any] = [None] * 8

    def work(i: int) -> None:
        found[i] = ll.explain(prepared, x[i : i + 1], method, target=1)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, a in enumerate(found):
        same(a, expected, [i])


def test_nothing_is_copied_or_checked_again() -> None:
    net = Counting(conv_net())
    prepared = ll.prepare(net)
    a = ll.explain(prepared, pictures(1), "gradient")
    assert net.rows == a.forward_rows == 1
    seen: list[nn.Module] = []
    made = Recording(seen)
    prepared = ll.prepare(made)
    for _ in range(3):
        ll.explain(prepared, pictures(1), "gradient")
    assert len(set(map(id, seen))) == 1 and seen[0] is not made


class Recording(nn.Module):
    """Says which copy runs, in a list that all share."""

    def __init__(self, seen: list[nn.Module]) -> None:
        super().__init__()
        self.net, self.see = conv_net(), lambda module: seen.append(module)

    def forward(self, x: Tensor) -> Tensor:
        self.see(self)
        return self.net(x)


def test_a_call_that_fails_or_leaves_something_behind_gives_its_copy_up() -> None:
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            if bool(self.calls > 0):  # a second pass on the same copy is another function
                return self.net(x) * 2
            self.calls += 1
            return self.net(x)

    x = pictures(1)
    prepared = ll.prepare(Remembering())
    first, second = (ll.explain(prepared, x, "gradient", target=1) for _ in range(2))
    same(first, second)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: refusing(conv_net()), "it has no copy"),
        (ItsOwnCopy, "it has no copy"),
        (Global, "it runs a module that it does not hold"),
        (Registered, "it has no snapshot, since the model's copy runs net of the original"),
    ],
)
def test_a_model_without_a_true_copy_is_not_prepared(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ll.explain(ll.prepare(make()), pictures(1), "gradient")


def test_what_cannot_be_prepared_is_named() -> None:
    with pytest.raises(TypeError, match="nothing to prepare"):
        ll.prepare(lambda x: x.mean((2, 3)))
    with pytest.raises(ValueError, match="not initialised yet"):
        ll.prepare(nn.LazyLinear(3))


def test_a_function_over_a_model_is_prepared() -> None:
    net, x = conv_net(), pictures(2)
    prepared = ll.prepare(lambda rows: {"logits": net(rows)})
    same(ll.explain(prepared, x, "gradient", target=1), ll.explain(net, x, "gradient", target=1))


def test_prepared_models_and_their_weights_are_released() -> None:
    net = conv_net()
    prepared = ll.prepare(net)
    ll.explain(prepared, pictures(1), "gradient")
    kept = weakref.ref(prepared.snapshot), weakref.ref(net)
    del prepared, net
    gc.collect()
    assert kept[0]() is None and kept[1]() is None


def test_a_loaded_model_is_kept_as_long_as_its_weights_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    from limelight.engine import kept

    model = ll.load_model("rock-paper-scissors")
    x = torch.rand(1, 3, 64, 64)
    made: list[int] = []
    original = kept.copied
    monkeypatch.setattr(kept, "copied", lambda *args: made.append(1) or original(*args))
    first = ll.explain(model, x, "gradient", target=1)
    ll.explain(model, x, "gradient", target=1)
    assert len(made) == 2  # the snapshot, and one copy to run
    with torch.no_grad():
        next(model.parameters()).data.mul_(2)  # which counts no write
    assert not torch.equal(ll.explain(model, x, "gradient", target=1).values, first.values)
    model.train()
    assert "model was in training mode: explained in eval mode" in ll.explain(model, x, "gradient", target=1).notes
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.long
def test_three_thousand_calls_leak_nothing() -> None:
    from limelight.engine import borrowing, kept, model_copy

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double()
    unwilling = refusing(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).double())
    prepared, x = ll.prepare(net), pictures(1)
    models = (net, prepared, unwilling, lambda rows: net(rows) * 2, "new")

    def call(times: int) -> None:
        for i in range(times):
            model = models[i % len(models)]
            if model == "new":  # a model of its own each time
                model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).double()
            ll.explain(model, x, "gradient", target=1)

    call(200)
    gc.collect()
    before = len(gc.get_objects())
    tables = len(kept._snapshots), len(kept._loaded), len(model_copy._knowledge), len(borrowing._locks)
    call(3000)
    gc.collect()
    assert len(gc.get_objects()) - before < 300
    assert tables == (len(kept._snapshots), len(kept._loaded), len(model_copy._knowledge), len(borrowing._locks))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_patterns_of_a_prepared_model_are_those_of_the_model() -> None:
    net, x = conv_net(), pictures(4)
    prepared = ll.prepare(net)
    for model, other in ((net, prepared), (prepared, net)):
        found = ll.PatternNet(patterns=ll.estimate_patterns(model, [x]))
        same(ll.explain(other, x[:1], found, target=1), ll.explain(model, x[:1], found, target=1))


@pytest.mark.parametrize("method", ["grad-cam", "cam", "score-cam", "layer-cam"])
def test_the_layer_is_searched_once_and_is_the_same(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from limelight.engine import layer_watch

    watched: list[int] = []
    original = layer_watch.hooked

    def counting(modules: Any, hook: Any) -> Any:
        watched.append(len(modules))
        return original(modules, hook)

    monkeypatch.setattr(layer_watch, "hooked", counting)
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3), nn.ReLU())
    net = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)).double().eval()
    x = pictures(2)
    prepared = ll.prepare(net)
    for target in (1, None, ll.Probability(2)):
        plain = ll.explain(net, x, method, target=target)
        for _ in range(3):
            a = ll.explain(prepared, x, method, target=target)
            same(a, plain)
            assert (a.layer, a.notes, a.forward_rows) == (plain.layer, plain.notes, plain.forward_rows)
    assert watched[1] == 10 and watched[2] <= 3


def test_another_path_through_the_model_is_searched_again() -> None:
    class TwoPaths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.dark, self.light, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            chosen = self.light if float(x.mean()) > 1 else self.dark
            return self.head(chosen(x).relu().mean((2, 3)))

    net, x = TwoPaths().eval(), pictures(1)
    prepared = ll.prepare(net)
    for rows, layer in ((x, "dark"), (x + 2, "light"), (x, "dark"), (x + 2, "light")):
        a = ll.explain(prepared, rows, "grad-cam", target=1)
        assert a.layer == layer
        same(a, ll.explain(net, rows, "grad-cam", target=1))


def test_an_early_exit_is_searched_at_its_own_depth() -> None:
    class EarlyExit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x).relu()
            if float(x.mean()) > 1:
                y = self.second(y).relu()
            return self.head(y.mean((2, 3)))

    net, x = EarlyExit().eval(), pictures(1)
    prepared = ll.prepare(net)
    for rows, layer in ((x, "first"), (x, "first"), (x + 2, "second"), (x + 2, "second"), (x, "first")):
        a = ll.explain(prepared, rows, "grad-cam", target=1)
        assert a.layer == layer
        same(a, ll.explain(net, rows, "grad-cam", target=1))


class TwoOutputs(nn.Module):
    """Returns a dictionary, of which the logits are explained."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv_net().float()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"logits": logits, "largest": logits.amax(1)}


class Branches(nn.Module):
    """Takes another path for bright pictures, which no program can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv_net().float()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x)
        return found if float(x.mean()) > 0 else found * 2


@pytest.mark.long  # the compiler takes half a minute
def test_rows_without_gradients_are_compiled() -> None:
    net, x = TwoOutputs(), pictures(2).float()
    plain, fast = ll.prepare(net), ll.prepare(net, compile=True)
    for method in ["rise(masks=64)", "kernel-shap(samples=80)", "score-cam", "occlusion(4, 2)"]:
        mine, theirs = ll.explain(fast, x, method, target=1), ll.explain(plain, x, method, target=1)
        assert (mine.forward_rows, mine.backward_rows) == (theirs.forward_rows, theirs.backward_rows)
        assert (mine.values - theirs.values).abs().max() <= 1e-4 * theirs.values.abs().max()
        # ScoreCAM and Occlusion look into the model: only what they run whole is compiled.
        assert mine.arithmetic == "compiled" or method.startswith("occlusion")
        assert theirs.arithmetic == "plain"
    slope = ll.explain(fast, x, "gradient", target=1)
    assert slope.arithmetic == "plain" and torch.equal(slope.values, ll.explain(plain, x, "gradient", target=1).values)
    assert ll.explain(fast, x, "rise(masks=64)", target=1, arithmetic="plain").arithmetic == "plain"
    ten = pictures(10).float()  # two passes at the inputs
    alone, together = (ll.explain(fast, ten, [*more, "rise(masks=16)"], target=1) for more in ([], ["gradient"]))
    assert torch.equal(alone[0].values, together[1].values) and torch.equal(alone[0].score, together[1].score)
    assert fast.memory.compiled > 0 and "compiled" in str(fast)
    figures = [ll.check(each, x, "rise(masks=64)", "deletion(steps=4)", target=1)[0].value for each in (fast, plain)]
    assert (figures[0] - figures[1]).abs().max() <= 1e-4


def test_what_cannot_be_compiled_runs_as_it_is_and_says_so() -> None:
    x = pictures(2).float()
    net = Branches()
    a = ll.explain(ll.prepare(net, compile=True), x, "rise(masks=16)", target=1)
    assert a.arithmetic == "plain" and any("and not compiled ones" in note for note in a.notes)
    same(a, ll.explain(net, x, "rise(masks=16)", target=1))
    with pytest.raises(ValueError, match="cannot share"):
        ll.prepare(net, share=True, compile=True)
    again = pickle.loads(pickle.dumps(ll.prepare(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), compile=True)))
    assert again._kept.compiles and again.to("cpu")._kept.compiles
