"""The contract with the model: what runs is the user's function, and its gradient is the true one."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll

from .networks import conv_net, every_case, patterns_for, pictures


class Stem(nn.Module):
    """A convolution and an evaluating batch norm whose gradient arrives in channels-last strides, from tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 6, 4, 4), nn.BatchNorm2d(6)
        self.mix, self.head = nn.Linear(6, 6), nn.Linear(6 * 4, 5)
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 2)
            self.norm.running_mean.uniform_(-0.5, 0.5)
            self.norm.running_var.uniform_(0.5, 2)
        self.double().eval()

    def normalise(self, y: Tensor) -> Tensor:
        return self.norm(y)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.normalise(self.conv(x)).flatten(2).transpose(1, 2)
        return self.head(F.gelu(self.mix(tokens)).flatten(1))


class Functional(Stem):
    """The same through torch.nn.functional."""

    def normalise(self, y: Tensor) -> Tensor:
        norm = self.norm
        return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.1, norm.eps)


class Native(Stem):
    """The same through the operator that exported programs call."""

    def normalise(self, y: Tensor) -> Tensor:
        norm = self.norm
        arguments = (norm.weight, norm.bias, norm.running_mean, norm.running_var, 0.1, norm.eps)
        return torch.ops.aten._native_batch_norm_legit_no_training(y, *arguments)[0]


class OneByOne(Stem):
    """The same, row by row inside the model, so that every norm sees a single row in any batch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super(OneByOne, self).forward(row) for row in x.split(1)])


class Plain(Stem):
    """The definition: scale and shift."""

    def normalise(self, y: Tensor) -> Tensor:
        norm = self.norm
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        return y * scale[:, None, None] + shift[:, None, None]


SPELLINGS = (Stem, Functional, Native, OneByOne)
X = torch.rand(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("net", SPELLINGS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "method", ["gradient", "input-x-gradient", "integrated-gradients(midpoint(4))", "smooth-grad(samples=4)"]
)
def test_gradients_through_a_batch_norm_are_those_of_scale_and_shift(net: type[Stem], method: str) -> None:
    expected = ll.explain(Plain(), X, method, target=1).values
    for options in ({}, {"rows_per_pass": 1}):
        found = ll.explain(net(), X, method, target=1, **options).values
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def test_the_gradient_is_the_slope_of_the_score() -> None:
    net = Stem()
    direction = torch.rand(X.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) - 0.5
    up, down = (net(X + step * 1e-5 * direction)[0, 1] for step in (1, -1))
    slope = (ll.explain(net, X, "gradient", target=1).values * direction).sum()
    assert float(slope) == pytest.approx(float(up - down) / 2e-5, rel=1e-6)


@every_case
@pytest.mark.parametrize(
    "net", [Stem, pytest.param(Functional, marks=pytest.mark.long)], ids=lambda kind: kind.__name__
)
def test_one_picture_alone_has_the_map_that_it_has_in_a_batch(method: ll.Method, net: type[Stem]) -> None:
    model = net()

    def explained(x: Tensor, **options: Any) -> Tensor | str:
        try:
            return ll.explain(model, x, patterns_for(model, method), target=1, **options).values
        except ValueError as error:  # a method that this network does not suit
            return type(error).__name__

    whole = explained(X.expand(2, -1, -1, -1))
    for options in ({}, {"rows_per_pass": 1}):
        alone = explained(X, **options)
        if isinstance(alone, str) or isinstance(whole, str):
            assert alone == whole
        else:
            torch.testing.assert_close(alone[0], whole[0], atol=1e-12, rtol=1e-9)


class Skip(nn.Module):
    """Keeps features in a dictionary by a hook's closure, and reads them in forward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kept = kept = {}
        self.first, self.second, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2, 1), nn.Linear(14, 5)
        self.first.register_forward_hook(lambda module, rows, output: kept.update(features=output))
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.second(F.relu(self.first(x))))
        return self.head(torch.cat([y.mean((2, 3)), F.relu(self.kept["features"]).mean((2, 3))], 1))


class PlainSkip(Skip):
    """The same written plainly."""

    def forward(self, x: Tensor) -> Tensor:
        kept = self.first(x)
        y = F.relu(self.second(F.relu(kept)))
        return self.head(torch.cat([y.mean((2, 3)), F.relu(kept).mean((2, 3))], 1))


FROM_A_COPY = [
    "gradient",
    "integrated-gradients(midpoint(4))",
    "grad-cam",
    "lrp",
    "deep-lift",
    "guided-backprop",
    "occlusion(4, 4)",
]


@pytest.mark.parametrize("method", FROM_A_COPY)
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "after a forward pass with gradients"])
def test_features_kept_by_a_hook_are_those_of_the_copy(method: str, used: bool) -> None:
    net, options = Skip(), {"layer": "second", "target": 1} if method == "grad-cam" else {"target": 1}
    if used:
        net(torch.rand(2, 3, 8, 8, dtype=torch.float64))
    before = dict(net.kept)
    a = ll.explain(net, X, method, **options)
    expected = ll.explain(PlainSkip(), X, method, **options)
    torch.testing.assert_close(a.values, expected.values, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(a.score, net(X)[:, 1].detach())
    if used:
        net.kept.clear()
        net.kept.update(before)
        a = ll.explain(net, X, method, **options)
        assert net.kept.keys() == before.keys() and all(net.kept[key] is before[key] for key in before)
        assert not any("could not be copied" in note for note in a.notes)


def autocast(net: nn.Module) -> None:
    net.forward = torch.autocast("cpu", enabled=False)(net.forward)


def logged(net: nn.Module) -> None:
    inner = net.forward

    @functools.wraps(inner)
    def forward(*arguments: Any, **options: Any) -> Any:
        return inner(*arguments, **options)

    net.forward = forward


def by_lambda(net: nn.Module) -> None:
    old = net.forward
    net.forward = lambda x: old(x)


def by_default(net: nn.Module) -> None:
    forward = type(net).forward
    net.forward = lambda x, inner=forward, own=net: inner(own, x)


def by_partial(net: nn.Module) -> None:
    net.forward = functools.partial(type(net).forward, net)


def twice(net: nn.Module) -> None:
    by_lambda(net)
    autocast(net)


WRAPPERS = [autocast, logged, by_lambda, by_default, by_partial, twice]


@pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("method", FROM_A_COPY)
def test_a_wrapped_forward_runs_the_copy(wrap: Any, method: str) -> None:
    net = conv_net().train()
    expected = ll.explain(net, pictures(2), method, target=1)
    wrap(net)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    ran = []
    handles = [module.register_forward_hook(lambda own, *_: ran.append(own)) for module in net.modules()]
    for handle in handles:
        handle.remove()
    a = ll.explain(net, pictures(2), method, target=1)
    torch.testing.assert_close(a.values, expected.values, atol=1e-12, rtol=1e-9)
    assert a.layer == expected.layer and net.training and all(module.training for module in net.modules())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any("could not be copied" in note for note in a.notes)


class Unregistered(nn.Module):
    """A weight with requires_grad that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        self.weight, self.more = weight.requires_grad_(), [torch.ones(3, dtype=torch.float64, requires_grad=True)]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) * self.more[0]


class Registered(Unregistered):
    def __init__(self) -> None:
        super().__init__()
        weight = self.weight
        del self.weight
        self.weight, self.more = nn.Parameter(weight.detach()), [torch.ones(3, dtype=torch.float64)]


@pytest.mark.parametrize(
    "method",
    [
        "gradient",
        "lrp('epsilon')",
        "attn-lrp",
        "cplrp",
        "deep-taylor",
        "deep-lift",
        "guided-backprop",
        "excitation-backprop",
    ],
)
def test_a_plain_tensor_of_the_model_is_a_constant(method: str) -> None:
    x = torch.rand(2, 4, dtype=torch.float64)
    net = Unregistered()
    found, expected = (ll.explain(each, x, method, target=1) for each in (net, Registered()))
    torch.testing.assert_close(found.values, expected.values, atol=1e-12, rtol=1e-9)
    assert net.weight.requires_grad and net.weight.grad is None


class Wrapped(nn.Module):
    """Returns its scores in a dictionary, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv_net()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"scores": self.net(x), "other": x}

    def scores(self, x: Tensor) -> Tensor:
        return self(x)["scores"]


class Service:
    """No module, but it holds one."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.calls = net, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x)["scores"]

    def predict(self, x: Tensor, key: str = "scores") -> Tensor:
        return self.net(x)[key]


NET = Wrapped()


def of_a_global(x: Tensor) -> Tensor:
    return NET(x)["scores"]


def of_a_helper(x: Tensor) -> Tensor:
    return of_a_global(x) * 1.0


def callables() -> dict[str, Any]:
    net = Wrapped()
    holder = {"net": net}
    return {
        "closure": lambda x: net(x)["scores"],
        "default": lambda x, net=net: net(x)["scores"],
        "keyword default": lambda x, *, net=net: net(x)["scores"],
        "container": lambda x: holder["net"](x)["scores"],
        "global": of_a_global,
        "helper": of_a_helper,
        "bound method of a module": net.scores,
        "bound method": Service(net).predict,
        "partial": functools.partial(Service(net).predict, key="scores"),
        "object": Service(net),
        "nested": (lambda inner: lambda x: inner(x))(lambda x: net(x)["scores"]),
    }


@pytest.mark.parametrize("name", callables())
@pytest.mark.parametrize(
    "method",
    ["integrated-gradients", "lrp", "deep-lift", "smooth-grad(samples=4)", "occlusion(4, 4)", "rise(masks=40)"],
)
def test_callables_over_modules_are_explained_as_the_module(name: str, method: str) -> None:
    x = pictures(2)
    expected = ll.explain(conv_net(), x, method, target=1)
    function = callables()[name]
    a = ll.explain(function, x, method, target=1)
    torch.testing.assert_close(a.values, expected.values, atol=1e-12, rtol=1e-9)
    assert not any("could not be copied" in note for note in a.notes)
    for owner in (
        function,
        getattr(function, "__self__", None),
        getattr(getattr(function, "func", None), "__self__", None),
    ):
        assert getattr(owner, "calls", 0) == 0  # the object's own state is left alone


def test_a_callable_in_training_mode_is_run_in_eval_mode_and_left_alone() -> None:
    net = conv_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for method in ("gradient", "occlusion(4, 4)"):
        a = ll.explain(lambda x: net(x), pictures(2), method, target=1)
        torch.testing.assert_close(a.values, ll.explain(conv_net(), pictures(2), method, target=1).values)
        assert any("training mode" in note for note in a.notes) and net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_layers_of_a_callable_go_by_its_variables() -> None:
    net = Wrapped()
    named = ll.explain(lambda x: net(x)["scores"], pictures(1), "grad-cam", layer="net.net.body", target=1)
    given = ll.explain(lambda x: net(x)["scores"], pictures(1), "grad-cam", layer=net.net.body, target=1)
    own = ll.explain(conv_net(), pictures(1), "grad-cam", layer="body", target=1)
    assert torch.equal(named.values, own.values) and torch.equal(given.values, own.values)
    assert named.layer == "net.net.body"


def test_a_function_without_modules_is_differentiated_where_a_method_asks() -> None:
    a = ll.explain(lambda x: (x**2).flatten(1), torch.tensor([[1.0, 2.0]]), "gradient", target=1)
    assert a.values.tolist() == [[0.0, 4.0]]


class Random(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), Dropping())
        self.head = nn.Linear(4, 3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Dropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)


class Seeded(nn.Module):
    """Draws random numbers, and the same ones at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv_net()

    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return self.net(x + 0.1 * torch.rand(x.shape[1:], dtype=x.dtype))


@every_case
def test_a_random_model_is_refused_by_the_name_of_its_layer(method: ll.Method) -> None:
    net, inner = Random(), conv_net()
    state = torch.get_rng_state()
    by_rules = (ll.UncoveredOperator, ValueError)  # a rule method stops at the operator, and patterns at their network
    with pytest.raises(
        by_rules, match=r"model: 'body.1' \(Dropping\) draws random numbers|no rule for dropout|pattern"
    ):
        ll.explain(net, X, method, target=1)
    with pytest.raises(by_rules, match=r"model: the forward of Differentiable draws|no rule for dropout|pattern"):
        ll.explain(lambda x: F.dropout(inner(x)), X, method, target=1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", ["gradient", "integrated-gradients", "occlusion(4, 4)", "lrp"])
def test_a_model_that_seeds_itself_is_explained(method: str) -> None:
    net = Seeded()
    state = torch.get_rng_state()
    a = ll.explain(net, X, method, target=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a.values, ll.explain(net, X, method, target=1).values) and bool(a.values.any())


class Store:
    features: Tensor


class ObjectSkip(PlainSkip):
    """Keeps features in an object by a hook's closure."""

    def __init__(self) -> None:
        super().__init__()
        self.store = store = Store()
        self.first.register_forward_hook(lambda module, rows, output: setattr(store, "features", output))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.second(F.relu(self.first(x))))
        return self.head(torch.cat([y.mean((2, 3)), F.relu(self.store.features).mean((2, 3))], 1))


def test_an_object_that_a_hook_writes_into_is_that_of_the_copy() -> None:
    net = ObjectSkip()
    with torch.no_grad():
        net(torch.rand(1, 3, 8, 8, dtype=torch.float64))
    before = net.store.features
    a = ll.explain(net, X, "gradient", target=1)
    torch.testing.assert_close(a.values, ll.explain(PlainSkip(), X, "gradient", target=1).values)
    assert net.store.features is before
