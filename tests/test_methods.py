"""Every method x every property: parametrised from METHODS, so a new method is tested by being listed there."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.question.random_streams import Streams

from .memory import peaks
from .networks import conv_net, every_case, few_cases, patterns_for, pictures, refusing


@functools.cache
def usual(method: ll.Method) -> ll.Attribution:
    """The map of two pictures that several tests compare theirs with."""
    return ll.explain(conv_net(), pictures(2), method)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All of a model's state that an explanation must leave alone, tensors as bytes."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "bytes": {
            name: (value.detach().numpy().tobytes(), id(value), value._version) for name, value in tensors.items()
        },
        "grad": {name: value.grad if value.grad is None else value.grad.clone() for name, value in tensors.items()},
        "wanted": {name: value.requires_grad for name, value in tensors.items()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            name: (list(module._forward_hooks), list(module._forward_pre_hooks), list(module._backward_hooks))
            for name, module in model.named_modules()
        },
        "modules": {name: (id(module), sorted(vars(module))) for name, module in model.named_modules()},
    }


def same(a: ll.Attribution, b: ll.Attribution, rows: slice | list[int] = slice(None)) -> None:
    torch.testing.assert_close(a.values, b.values[rows], atol=1e-12, rtol=1e-9)
    if a.stderr is not None and b.stderr is not None:
        torch.testing.assert_close(a.stderr, b.stderr[rows], atol=1e-12, rtol=1e-7, equal_nan=True)


@every_case
def test_shapes_and_evidence(method: ll.Method) -> None:
    x, a = pictures(2), usual(method)
    assert a.values.shape in (x.shape, (2, 1, 8, 8)) and a.values.dtype == x.dtype and not a.values.requires_grad
    assert a.heatmap().shape == (2, 8, 8) and a.heatmap("max").min() >= 0
    assert a.score.shape == a.baseline_score.shape == a.delta.shape == (2,)
    assert isinstance(a.target, Tensor) and a.target.tolist() == conv_net()(x).argmax(1).tolist()
    assert (a.layer is not None) == method.needs.layer
    assert bool(a.delta.isnan().all()) == (method.no_sum is not None)
    assert not any(note.kind == "no-sum" for note in a.notes)  # a property of the method, no news about the map
    assert set(a.versions) == {"limelight", "torch", "numpy", "python"}


@every_case
def test_chunk_invariance(method: ll.Method) -> None:
    """Rows by themselves, and seven, so that passes end within an example of the three."""
    net, x = conv_net(), pictures()
    baseline = ll.Samples(pictures(5, seed=3), n=2)
    whole, *parts = (
        ll.explain(net, x, method, target=[0, 1, 2], baseline=baseline, rows_per_pass=rows) for rows in (1000, 1, 7)
    )
    for each in parts:
        same(each, whole)


@every_case
def test_batch_and_order_independence(method: ll.Method) -> None:
    net, x = conv_net(), pictures()
    baseline = ll.Noise(seed=4)
    whole = ll.explain(net, x, method, target=[0, 1, 2], baseline=baseline)
    same(ll.explain(net, x[1:2], method, target=1, baseline=baseline), whole, [1])
    same(ll.explain(net, x[[2, 0]], method, target=[2, 0], baseline=baseline), whole, [2, 0])


@every_case
def test_seed_determinism_and_untouched_global_generators(method: ll.Method) -> None:
    net, x = conv_net(), pictures(2)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = ll.explain(net, x, method, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    second = ll.explain(net, x, method, seed=1)
    assert torch.equal(first.values, second.values)
    random = first.stderr is not None and bool((first.stderr != 0).any())  # 0 where samples hold every coalition
    assert torch.equal(first.values, ll.explain(net, x, method, seed=2).values) != random


@every_case
def test_float32_agrees_with_float64(method: ll.Method) -> None:
    net, x = conv_net(), pictures(2).float()  # exactly representable in both, so the same example
    exact = ll.explain(net, x.double(), method, target=0)
    net = net.float()
    single = ll.explain(net, x, patterns_for(net, method), target=0)
    assert single.values.dtype == torch.float32
    if exact.stderr is None:  # the draws of the two precisions differ
        scale = exact.values.abs().max()
        # Relevance is divided by sums that cancel: weights off by half a float32 step, in float64, move these maps by
        # 1.8e-5 and a gradient by 9e-8. DeepLIFT's finite differences of activations lose a digit more.
        divided = ll.LRP | ll.DeepTaylor | ll.ExcitationBackprop | ll.AttnLRP | ll.CPLRP
        atol = 2e-4 if isinstance(method, ll.DeepLift | ll.DeepShap) else 1e-4 if isinstance(method, divided) else 2e-5
        torch.testing.assert_close(single.values.double() / scale, exact.values / scale, atol=atol, rtol=0)


@every_case
def test_rows_are_counted_where_the_model_is_called_and_forecast(method: ll.Method) -> None:
    net, x = conv_net(), pictures()
    spy = Counting(net)
    a = ll.explain(spy, x, patterns_for(spy, method), target=0)
    assert a.forward_rows == spy.rows and a.backward_rows == spy.backward_rows
    forecast = method.rows(x.shape[1:])
    if forecast is not None:
        own = 3 * (forecast - method.needs.at_inputs)  # the gradient at the input comes with the clean pass
        compared = 1 if method.needs.baseline else 0  # f(b), the same for the whole batch
        clean = 0 if method.needs.own_scores else 3  # a lone method that tells f(x) itself needs no pass beside its own
        every = clean + own + compared + 1  # f(x), the method's own, f(b), the probe
        assert a.forward_rows == every or (method.rows_at_most and every / 2 < a.forward_rows < every)
        assert a.backward_rows == (3 * forecast if method.needs.gradients or method.needs.at_inputs else 0)


class Counting(nn.Module):
    """Counts rows in a list, which the copy shares through a default argument rather than through deepcopy."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        seen: dict[str, int] = {"forward": 0, "backward": 0, "passes": 0}
        self._seen = lambda: seen  # functions are not copied, so the twin counts here too

    rows = property(lambda self: self._seen()["forward"])
    backward_rows = property(lambda self: self._seen()["backward"])
    passes = property(lambda self: self._seen()["passes"])

    def forward(self, x: Tensor) -> Tensor:
        seen = self._seen()
        seen["forward"] += len(x)
        seen["passes"] += 1
        y: Tensor = self.net(x)
        if y.requires_grad:
            y.register_hook(lambda grad: seen.__setitem__("backward", seen["backward"] + len(grad)))
        return y


class Failing(nn.Module):
    """Raises at its k-th call, in the middle of the forward pass, after having changed a buffer."""

    def __init__(self, net: nn.Module, at: int, error: BaseException) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("calls", torch.zeros(()))
        calls = [0]

        def tick() -> None:
            calls[0] += 1
            if calls[0] == at:
                raise error

        net.body.register_forward_hook(lambda *_: tick())

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y: Tensor = self.net(x)
        return y


@every_case
@pytest.mark.parametrize("first", [0, pytest.param(1, marks=pytest.mark.long)])
def test_state_is_untouched_after_an_exception_at_any_call(method: ll.Method, first: int) -> None:
    """An error and an interruption in turn, beginning with either."""
    net = conv_net().train()
    net.head.weight.grad = torch.ones_like(net.head.weight)
    net.stem[0].bias.requires_grad_(False)
    net.register_forward_hook(lambda *_: None)
    clean = Counting(net)
    ll.explain(clean, pictures(2), patterns_for(clean, method), target=0, rows_per_pass=3)
    calls = sorted({1, 2, 3, clean.passes // 2, clean.passes} & {*range(1, clean.passes + 1)})
    for i, at in enumerate(calls):
        error = (RuntimeError("injected"), KeyboardInterrupt())[(first + i) % 2]
        model = Failing(net, at, error)
        before, known = snapshot(model), patterns_for(model, method)
        with pytest.raises(type(error)):
            ll.explain(model, pictures(2), known, target=0, rows_per_pass=3)
        after = snapshot(model)
        assert str(before) == str(after)


@every_case
def test_state_is_untouched_after_success(method: ll.Method) -> None:
    net = conv_net().train()
    net.head.weight.grad = torch.ones_like(net.head.weight)
    net.stem[0].weight.requires_grad_(False)
    fired: list[int] = []
    net.body.register_forward_hook(lambda *_: fired.append(1))
    before, x = snapshot(net), pictures(2)
    x_before = x.clone()
    a = ll.explain(net, x, method)
    assert str(snapshot(net)) == str(before) and torch.equal(x, x_before) and not x.requires_grad
    assert fired  # the user's own hooks run, as in any call of the model
    assert "model was in training mode: explained in eval mode" in a.notes
    same(a, usual(method))


@every_case
def test_a_model_that_refuses_to_be_copied_is_restored(method: ll.Method) -> None:
    net = refusing(conv_net().train())
    before = snapshot(net)
    a = ll.explain(net, pictures(2), method)
    assert str(snapshot(net)) == str(before)
    assert any("could not be copied" in note for note in a.notes)
    same(a, usual(method))


@few_cases
def test_eight_threads_on_one_model(method: ll.Method) -> None:
    net, x = conv_net().train(), pictures(8)
    expected = ll.explain(net, x, method, target=1)
    found: list[ll.Attribution | None] = [None] * 8

    def work(i: int) -> None:
        found[i] = ll.explain(net, x[i : i + 1], method, target=1)

    _in_threads([lambda i=i: work(i) for i in range(8)])  # type: ignore[misc]
    for i, a in enumerate(found):
        assert a is not None
        same(a, expected, [i])


def test_eight_threads_on_one_model_that_refuses_to_be_copied() -> None:
    net, x = conv_net().train(), pictures(8)
    expected = ll.explain(net, x, "integrated-gradients", target=1)
    net = refusing(net)
    before = snapshot(net)
    found: list[Tensor] = [torch.empty(0)] * 8

    def work(i: int) -> None:
        found[i] = ll.explain(net, x[i : i + 1], "integrated-gradients", target=1).values[0]

    _in_threads([lambda i=i: work(i) for i in range(8)])  # type: ignore[misc]
    torch.testing.assert_close(torch.stack(found), expected.values)
    assert str(snapshot(net)) == str(before)


def _in_threads(jobs: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("method", [m() for m in ll.METHODS], ids=repr)
def test_defaults_run_by_name_on_a_small_picture(method: ll.Method) -> None:
    if getattr(method, "patterns", ...) is None:
        with pytest.raises(ValueError, match="estimate_patterns"):
            ll.explain(conv_net(), pictures(1), method.kebab(), target=0)
        return
    a = ll.explain(conv_net(), pictures(1), method.kebab(), target=0)
    assert a.method == method and a.name == method.kebab()
    assert ll.parse_method(repr(method)) == method


def test_packing_fills_passes_over_examples_and_steps() -> None:
    spy = Counting(conv_net())
    ll.explain(spy, pictures(4), ll.IntegratedGradients(ll.Midpoint(50)), target=0, rows_per_pass=6)
    assert spy.passes == 1 + 1 + 34  # f(x): 4 rows are one pass; f(b) and the probe; ceil(4 * 50 / 6)


def test_a_panel_shares_the_clean_pass() -> None:
    spy = Counting(conv_net())
    methods = [ll.Gradient(), ll.InputXGradient(), ll.GradCAM(), ll.IntegratedGradients(ll.Midpoint(10))]
    p = ll.explain(spy, pictures(4), methods, target=0)
    assert (spy.rows, spy.backward_rows) == (4 + 1 + 1 + 40, 4 + 40)
    assert (p.forward_rows, p.backward_rows) == (spy.rows, spy.backward_rows)
    assert list(p) == ["gradient", "input-x-gradient", "grad-cam", "integrated-gradients"]
    for method in methods:
        alone = ll.explain(conv_net(), pictures(4), method, target=0)
        same(p[method], alone)
        assert (p[method].forward_rows, p[method].backward_rows) == (alone.forward_rows, alone.backward_rows)


@pytest.mark.parametrize(
    ("method", "forward", "backward"),
    [
        (ll.Gradient(), 1, 1),
        (ll.GradCAM(), 1, 1),
        (ll.EigenCAM(), 1, 1),  # the gradient tells whether the score depends on the layer
        (ll.AblationCAM(), 1, 0),  # in closed form
        (ll.DeconvNet(), 1, 1),
        (ll.GuidedBackprop(), 1, 1),
        (ll.LRP(), 1, 1),
        (ll.DeepTaylor(), 1, 1),
        (ll.ExcitationBackprop(), 1, 1),
        (ll.ExcitationBackprop(contrastive=True), 2, 2),
        (ll.GuidedGradCAM(), 2, 2),
        (ll.DeepLift(), 2, 1),  # the reference and the picture
        (ll.DeepShap(), 4 + 2, 2),  # two references and the picture beside each, and a probe: they share passes
    ],
    ids=repr,
)
def test_rows_of_one_picture_and_class(method: ll.Method, forward: int, backward: int) -> None:
    spy = Counting(conv_net())
    baseline = ll.Samples(pictures(5, seed=3), n=2) if isinstance(method, ll.DeepShap) else 0.0
    a = ll.explain(spy, pictures(1), method, target=0, baseline=baseline)
    assert (spy.rows, spy.backward_rows) == (forward, backward) == (a.forward_rows, a.backward_rows)
    b = ll.explain(conv_net(), pictures(1), method, baseline=baseline)  # nobody named the class: a pass at x tells it
    assert b.forward_rows == forward + method.needs.own_scores and b.backward_rows == backward


@pytest.mark.parametrize("method", [ll.DeepLift(), ll.DeepShap(), ll.LRP(), ll.DeconvNet()], ids=repr)
def test_a_lone_backward_method_reports_what_a_panel_reports(method: ll.Method) -> None:
    """It makes no clean pass of its own, yet f(x), f(b), outputs and cost are the same, whatever the classes."""
    net, x = conv_net(), pictures()
    for baseline in (0.0, ll.Samples(pictures(5, seed=3), n=2), ll.Noise(seed=4)):
        alone = ll.explain(net, x, method, target=[0, 1, 2], baseline=baseline)
        panel = ll.explain(
            net, x, [ll.IntegratedGradients(ll.Midpoint(4)), method], target=[0, 1, 2], baseline=baseline
        )
        beside = panel[method]
        same(alone, beside)
        with torch.no_grad():
            torch.testing.assert_close(alone.score, net(x)[range(3), [0, 1, 2]])
            torch.testing.assert_close(alone.outputs, net(x))
        torch.testing.assert_close(alone.score, beside.score)
        assert (alone.forward_rows, alone.backward_rows) == (beside.forward_rows, beside.backward_rows)
        torch.testing.assert_close(alone.baseline_score, beside.baseline_score, equal_nan=True)
        if method.needs.baseline:
            expected = panel["integrated-gradients"].baseline_score
            torch.testing.assert_close(alone.baseline_score, expected)


def test_draws_of_are_the_random_numbers_of_other_examples() -> None:
    net, x = conv_net(), pictures(3)
    method = ll.SmoothGrad(ll.Gradient(), samples=4)
    own = ll.explain(net, x, method, target=[0, 1, 2])
    same(own, ll.explain(net, x, method, target=[0, 1, 2], draws_of=x))
    others = ll.explain(net, x, method, target=[0, 1, 2], draws_of=x.flip(0))
    assert not torch.equal(own.values, others.values) and "draws_of" in others.notes[-1]
    both = ll.explain(net, x, method, target=[[0, 1], [1, 2], [2, 0]], draws_of=x.flip(0))
    torch.testing.assert_close(both.values[:, 0], others.values)
    noisy = ll.explain(net, x[:1], "integrated-gradients", target=0, baseline=ll.Noise(), draws_of=x[1:2])
    reference = ll.Noise().references(x[1:2], Streams.of(x[1:2], 0).fork("baseline"))[0]
    fixed = ll.explain(net, x[:1], "integrated-gradients", target=0, baseline=reference)
    torch.testing.assert_close(noisy.values, fixed.values)
    for wrong in (x[:2], "x"):
        with pytest.raises(ValueError, match=r"draws_of: .* use a tensor of 3 examples"):
            ll.explain(net, x, method, target=0, draws_of=wrong)  # type: ignore[arg-type]


@pytest.mark.long
def test_memory_is_flat_in_the_number_of_nodes() -> None:
    """Peak resident memory of 500 nodes is within 10% of 50 nodes', each in a process of its own."""
    script = """
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.Softplus(),
                                  torch.nn.Conv2d(64, 1, 3), torch.nn.Flatten(), torch.nn.LazyLinear(2))
        x = torch.rand(2, 3, 128, 128); net(x)
        before = peak()
        ll.explain(net, x, ll.IntegratedGradients(ll.Midpoint({nodes})), target=0, rows_per_pass=16)
    """
    (few, _), (many, _) = (peaks(script.format(nodes=nodes)) for nodes in (50, 500))
    assert many <= 1.1 * few


def test_memory_that_runs_out_halves_the_pass_and_goes_on() -> None:
    class Tight(nn.Module):
        def __init__(self, net: nn.Module, most: int) -> None:
            super().__init__()
            self.net, self.most = net, most

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > self.most:
                raise torch.OutOfMemoryError(f"{len(x)} rows")
            out: Tensor = self.net(x)
            return out

    x, method = pictures(4), ll.IntegratedGradients(ll.Midpoint(9))
    a = ll.explain(Tight(conv_net(), 3), x, method, target=0, rows_per_pass=8)
    same(a, ll.explain(conv_net(), x, method, target=0))
    assert any(note.startswith("out of memory with") for note in a.notes)
    with pytest.raises(MemoryError, match="a single row does not fit"):
        ll.explain(Tight(conv_net(), 0), x, method, target=0)


def test_half_precision_accumulates_in_float32() -> None:
    net, x = conv_net().bfloat16(), pictures(2).bfloat16()
    a = ll.explain(net, x, ll.IntegratedGradients(ll.Midpoint(64)), target=0)
    assert a.values.dtype == torch.float32
    exact = ll.explain(conv_net(), x.double(), ll.IntegratedGradients(ll.Midpoint(64)), target=0)
    scale = exact.values.abs().max()
    assert (a.values / scale - exact.values / scale).abs().max() < 0.1
