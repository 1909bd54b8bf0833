"""The copy of the model: it runs what the model runs, and whatever the model writes stays the user's own."""

from __future__ import annotations

import io
import random
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import limelight as ll

from .networks import CASES, EACH, conv_net, every_case, pictures, refusing
from .test_methods import same, snapshot

SAMPLE = CASES[::8]


def every_and_some(name: str, first: Any, *others: Any) -> pytest.MarkDecorator:
    """Try the first value with every method, the others with some of them, and with all settings in the long run."""
    cases = [pytest.param(first, method, marks=() if method in EACH else pytest.mark.long) for method in CASES]
    for other in others:
        cases += [pytest.param(other, method, marks=() if method in SAMPLE else pytest.mark.long) for method in CASES]
    return pytest.mark.parametrize((name, "method"), cases, ids=_label)


def _label(value: Any) -> str:
    if isinstance(value, tuple):
        return str(value[1])
    return getattr(value, "__name__", None) or repr(value)


class Written(nn.Module):
    """A network over conv_net whose forward writes one of its parameters before it reads it."""

    def __init__(self, write: Callable[[Written], None]) -> None:
        super().__init__()
        self.net, self.write = conv_net(), write
        self.mix = nn.Embedding(5, 5).double()
        with torch.no_grad():
            self.mix.weight.mul_(3)

    def forward(self, x: Tensor) -> Tensor:
        self.write(self)
        return self.net(x) @ self.mix.weight


def renormalise(model: Written) -> None:
    torch.embedding_renorm_(model.mix.weight.data, torch.arange(5), 1.0, 2.0)


def clamp(model: Written) -> None:
    model.mix.weight.data.clamp_(-0.5, 0.5)


def assign(model: Written) -> None:
    model.mix.weight.data = model.mix.weight.detach().clamp(-0.5, 0.5)


def round_in_place(model: Written) -> None:
    with torch.no_grad():
        model.mix.weight.copy_(model.mix.weight.round())


class Frozen(nn.Module):
    """The same function, written plainly over fixed weights."""

    def __init__(self, model: Written) -> None:
        super().__init__()
        self.net = model.net
        copied = Written(model.write)
        model.write(copied)
        self.mix = nn.Parameter(copied.mix.weight.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) @ self.mix


@every_and_some("write", renormalise, clamp, assign, round_in_place)
def test_what_forward_writes_into_a_parameter_stays_in_the_copy(write: Any, method: ll.Method) -> None:
    torch.manual_seed(0)
    model = Written(write)
    plain = Frozen(model)
    before, version = snapshot(model), model.mix.weight.data_ptr()
    mine = theirs = method
    if isinstance(method, ll.PatternNet | ll.PatternAttribution):
        mine, theirs = (replace(method, patterns=ll.estimate_patterns(m, [pictures(4)])) for m in (model, plain))
    if isinstance(method, ll.CAM):  # neither model ends in pooling and one linear layer
        return
    for rows_per_pass in (None, 1):
        a = ll.explain(model, pictures(2), mine, target=1, rows_per_pass=rows_per_pass)
        b = ll.explain(plain, pictures(2), theirs, target=1, rows_per_pass=rows_per_pass)
        same(a, b)
        assert str(snapshot(model)) == str(before) and model.mix.weight.data_ptr() == version
    if write is not assign:  # which writes another tensor
        assert any("writes mix.weight as it runs" in note for note in a.notes)


def test_a_model_that_writes_another_weight_at_each_call_is_refused_by_the_parameter() -> None:
    def decay(model: Written) -> None:
        model.mix.weight.data.mul_(0.9)

    model = Written(decay)
    before = snapshot(model)
    for method in ("gradient", "lrp", "occlusion", "rise(masks=4)"):
        with pytest.raises(ValueError, match=r"writes mix\.weight, so that the same input gets another score"):
            ll.explain(model, pictures(1), method)
    assert str(snapshot(model)) == str(before)


class Sharing(nn.Module):
    """conv_net with attributes that have no copy."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv_net()
        self.lock, self.local, self.file = threading.RLock(), threading.local(), io.StringIO("text")
        self.lines = iter([1, 2, 3])
        self.table: dict[str, Any] = {"lock": threading.Lock(), "net": self.net}
        self.me = weakref.ref(self)
        self.on_event = self.net.forward
        self.hidden = [self.net.head]

    def forward(self, x: Tensor) -> Tensor:
        with self.lock, self.table["lock"]:
            me = self.me()
            assert me is self  # the copy's own, not the original
            return self.on_event(x) + 0 * self.hidden[0](x.mean((2, 3)).repeat(1, 2)) + self.table["net"](x)


@every_case
def test_attributes_without_a_copy_are_shared_and_references_are_the_copys(method: ll.Method) -> None:
    model = Sharing().train()
    before = snapshot(model)
    if method.needs.layer or isinstance(method, ll.FullGrad):  # conv_net runs twice
        return
    if isinstance(method, ll.PatternNet | ll.PatternAttribution):
        method = replace(method, patterns=ll.estimate_patterns(model, [pictures(4)]))
    a = ll.explain(model, pictures(2), method, target=1)
    assert not any("itself" in note for note in a.notes), a.notes
    assert str(snapshot(model)) == str(before)
    torch.testing.assert_close(a.score, 2 * conv_net()(pictures(2))[:, 1])


_registry: dict[str, nn.Module] = {}


class Registered(nn.Module):
    """Runs the module that a registry outside the model holds: this one, whichever copy is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.config = conv_net().train(), type("Config", (), {})()
        self.config.name = "net"
        _registry["net"] = self.net

    def forward(self, x: Tensor) -> Tensor:
        return _registry[self.config.name](x)


class ItsOwnCopy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = conv_net().train()

    def __deepcopy__(self, memo: object) -> ItsOwnCopy:
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


_outside = conv_net()


class Global(nn.Module):
    """Runs a module that stands in its file and that it does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()).double())

    def forward(self, x: Tensor) -> Tensor:
        return _outside(x) * self.scale


@every_and_some(
    "made",
    (Registered, "model's copy runs net of the original"),
    (ItsOwnCopy, "model could not be copied"),
    (Global, "model runs a module that it does not hold (Global.forward: _outside)"),
    (lambda: refusing(conv_net().train()), "model could not be copied"),
)
def test_a_model_whose_copy_is_no_copy_is_run_itself(made: tuple[Any, str], method: ll.Method) -> None:
    make, reason = made
    _outside.train()
    model = make()
    before, outside = snapshot(model), snapshot(_outside)
    if make is Global and (method.needs.layer or isinstance(method, ll.FullGrad)):  # its layers are not the model's
        return
    if isinstance(method, ll.PatternNet | ll.PatternAttribution):
        method = replace(method, patterns=ll.estimate_patterns(model, [pictures(4)]))
    for _ in range(2):  # the second call remembers
        a = ll.explain(model, pictures(2), method, target=1)
        assert any(str(note).startswith(reason) for note in a.notes), a.notes
        torch.testing.assert_close(a.score, conv_net()(pictures(2))[:, 1])
        assert str(snapshot(model)) == str(before) and str(snapshot(_outside)) == str(outside)


class Noisy(nn.Module):
    """Scales by a number from one of the generators that are not torch's."""

    def __init__(self, draw: str) -> None:
        super().__init__()
        self.draw = draw
        if draw == "own":
            self.generator = np.random.default_rng(0)

    def forward(self, x: Tensor) -> Tensor:
        if self.draw == "own":
            return x * (1 + self.generator.random())
        return x * (1 + (random.random() if self.draw == "python" else np.random.rand()))


@pytest.mark.parametrize("draw", ["python", "numpy", "own"])
def test_a_model_that_draws_outside_torch_is_refused_by_the_layer(draw: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.noisy = conv_net(), Noisy(draw)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(self.noisy(x))

    state, numbers = random.getstate(), np.random.get_state()[1].copy()
    for method in ("gradient", "grad-cam", "lrp", "occlusion(window=4, stride=4)"):
        with pytest.raises(ValueError, match=r"'noisy' \(Noisy\) gives another output at each call"):
            ll.explain(Net(), pictures(1), method)
    if draw != "own":
        assert random.getstate() == state and np.array_equal(np.random.get_state()[1], numbers)


def test_a_model_that_seeds_python_itself_is_explained() -> None:
    class Seeded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net()

        def forward(self, x: Tensor) -> Tensor:
            random.seed(1)
            return self.net(x * random.random())

    random.seed(1)
    x, share = pictures(1), random.random()
    slope = ll.explain(Seeded(), x, "gradient", target=1).values
    torch.testing.assert_close(slope, share * ll.explain(conv_net(), share * x, "gradient", target=1).values)


def test_a_model_that_computes_in_bfloat16_inside_is_explained_and_says_so() -> None:
    class Autocast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net().float()

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.net(x).float()

    x = pictures(3).float()
    for method in ("gradient", "integrated-gradients(midpoint(4))", "occlusion(window=4, stride=4)"):
        a = ll.explain(Autocast(), x, method, baseline=0.3)
        assert any("computes in bfloat16 inside" in note for note in a.notes)
        assert not any("computes in" in note for note in ll.explain(conv_net().float(), x, method).notes)


@pytest.mark.parametrize("change", ["hook", "weights", "module", "data"])
def test_what_is_known_of_a_model_holds_for_that_model(change: str) -> None:
    net, x = conv_net(), pictures(1)
    ll.explain(net, x, "gradient", target=1)
    if change == "hook":
        net.body.register_forward_hook(lambda module, args, output: output * 2)
    if change == "weights":
        with torch.no_grad():
            net.body.weight.mul_(2)
    if change == "data":
        net.body.weight.data.mul_(2)
    if change == "module":
        net.body = nn.Conv2d(6, 6, 1).double()
    leaf = x.clone().requires_grad_()
    slope = torch.autograd.grad(net(leaf)[0, 1], leaf)[0]
    torch.testing.assert_close(ll.explain(net, x, "gradient", target=1).values, slope)


def test_a_parameter_that_is_written_in_a_later_pass_only_is_named() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net()

        def forward(self, x: Tensor) -> Tensor:
            if float(x.abs().max()) == 0:
                self.net.head.weight.data.mul_(1)
                self.net.head.bias.requires_grad_(False).add_(1)
            return self.net(x)

    with pytest.raises(ValueError, match=r"its forward wrote net\.head\.bias, and not in its first pass"):
        ll.explain(Late(), pictures(1), "occlusion(window=8)")


class Trainer:
    """Holds what it trains, and modules of its own that are none of the model's: a metric, and the model's wrapper."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.metrics, self.wrapped = model, [nn.Linear(2, 2)], {"strategy": nn.Sequential(model)}
        self.weak = [weakref.proxy(model)]


class Attached(nn.Module):
    """As Lightning's modules are: attached to a trainer, which copies of it are not."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.trainer = conv_net(), None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "trainer": None}

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x)
        return found


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("method", ["integrated-gradients", "grad-cam", "lrp", "rise(32)"])
def test_a_module_attached_to_its_trainer(method: str, wrapped: bool) -> None:
    """Its own copying leaves the trainer out, and so whatever modules are in there."""
    model, x = Attached(), pictures(2)
    expected = ll.explain(model.net, x, method, target=1).values
    model.trainer = trainer = Trainer(model)  # type: ignore[assignment]
    model.train()
    found = ll.explain(nn.Sequential(model) if wrapped else model, x, method, target=1)
    assert torch.equal(found.values, expected)
    assert model.trainer is trainer and model.training and trainer.wrapped["strategy"][0] is model


class Scaled(nn.Module):
    """A layer that reads a number of its network through a weak proxy."""

    network: list[Any]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x * self.network[0].scale
        return found


@pytest.mark.parametrize("own", [False, True], ids=["copied by its attributes", "copied by itself"])
@pytest.mark.parametrize("method", ["integrated-gradients", "grad-cam", "lrp"])
def test_a_layer_that_knows_its_network_by_a_weak_proxy(method: str, own: bool) -> None:
    class Layer(Scaled):
        if own:

            def __getstate__(self) -> dict[str, Any]:
                return dict(vars(self))

    model, x = nn.Sequential(conv_net(), Layer()), pictures(2)
    model.scale = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
    model[1].network = [weakref.proxy(model)]
    found = ll.explain(model, x, method, target=1)
    torch.testing.assert_close(found.score, 3 * conv_net()(x)[:, 1].detach())
    torch.testing.assert_close(found.values, 3 * ll.explain(conv_net(), x, method, target=1).values)
    assert model.scale.grad is None


class Owner:
    """Something that a network may remember."""

    def __init__(self, known: Any = None) -> None:
        self.known = known


@pytest.mark.parametrize("own", [False, True], ids=["copied by its attributes", "copied by itself"])
@pytest.mark.parametrize("method", ["integrated-gradients", "grad-cam", "lrp"])
@pytest.mark.parametrize(
    "kept",
    [
        lambda gone: gone,
        lambda gone: [gone],
        lambda gone: {"owner": (gone,)},
        Owner,
        lambda gone: partial(print, gone),
        lambda gone: lambda: gone,
    ],
    ids=["an attribute", "a list", "a dict", "an object", "a partial", "a closure"],
)
def test_a_weak_proxy_may_have_outlived_its_object(kept: Callable[[Any], Any], method: str, own: bool) -> None:
    """As one of a trainer does when the training is over. The network does not read it, and so it is no error."""

    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            owner = Owner()
            self.net, self.owner = conv_net(), kept(weakref.proxy(owner))

        if own:

            def __getstate__(self) -> dict[str, Any]:
                return dict(vars(self))

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.net(x)
            return found

    model, x = Remembers(), pictures(2)
    expected = ll.explain(conv_net(), x, method, target=1).values
    assert torch.equal(ll.explain(model, x, method, target=1).values, expected)
    if method == "integrated-gradients":
        call = model.forward
        found = ll.explain(lambda batch: call(batch), x, method, target=1).values
        torch.testing.assert_close(found, expected)
