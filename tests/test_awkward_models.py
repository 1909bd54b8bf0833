"""Awkward models and inputs: the map of the same function written plainly, or one sentence that says why not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.base.errors import NoGradient
from limelight.rules.patterns import fingerprint

from .awkward import AWKWARD, WITH_PLAIN, Around, Checkpointed, Returning, Tagged, exported, quietly
from .networks import CASES, EACH, conv_net, patterns_for, pictures

D = torch.float64
X = pictures(2)
SAMPLE: tuple[ll.Method, ...] = (
    ll.Gradient(),
    ll.IntegratedGradients(ll.Midpoint(2)),
    ll.GradCAM(),
    ll.CAM(),
    ll.AblationCAM(),
    ll.AtLayer(ll.IntegratedGradients(ll.Midpoint(2))),
    ll.FullGrad(),
    ll.GuidedBackprop(),
    ll.LRP("epsilon"),
    ll.DeepLift(),
    ll.Occlusion(4, 4),
    ll.RISE(6, cells=2),
)
RULES = r"has no rule for .*(TorchScript|lstm|gru|rnn_tanh|complex|ScaledBackward)"
LAYERS = r"layer: "

# What a model cannot do: for each, the names of methods (a prefix) and the sentence.
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        [f"exported for {rows}" for rows in ("any number of rows", "1 rows", "2 rows", "3 rows")],
        LAYERS + "(FullGrad reads.*exported program|CAM needs a model|.*exported program)",
    ),
    "an unflattened program": LAYERS + "(FullGrad reads.*exported program|CAM needs a model)",
    **dict.fromkeys(
        ["scripted", "traced", "scripted and frozen", "a scripted layer"], f"{LAYERS}.*TorchScript|{RULES}"
    ),
    **dict.fromkeys(["checkpointed blocks, reentrant", "checkpointed body, reentrant"], "use_reentrant=True"),
    "complex numbers inside": RULES,
    "a function with a derivative of its own": RULES,
    "two halves of a double batch": r"layer: .*(for each row|rows must be its first axis)",
}
# What a call does with its rows may differ here, so these are looked at in passes of each kind.
IN_PASSES = (
    "checkpointed",
    "compiled",
    "exported",
    "unflattened",
    "script",
    "traced",
    "returns",
    "inference",
    "double",
)
# What the copy does not do justice to, by the reason.
NOT_COPIED: dict[str, str] = {}


def except_uncopied(names: Any, also: dict[str, str] | None = None) -> list[Any]:
    """Mark the models that the copy does not do justice to."""
    reasons = {**NOT_COPIED, **(also or {})}
    return [
        pytest.param(name, marks=pytest.mark.xfail(strict=True, reason=reasons[name])) if name in reasons else name
        for name in names
    ]


def outcome(model: Any, method: ll.Method, x: Tensor, **options: Any) -> Tensor | Exception:
    try:
        return ll.explain(model, x, method, target=0, **options).values
    except (ValueError, TypeError, ll.UncoveredOperator) as error:
        return error


@functools.cache
def expected(method: ll.Method, rows: int, rows_per_pass: int | None) -> Tensor | Exception:
    net = conv_net()
    return outcome(net, patterns_for(net, method), X[:rows], rows_per_pass=rows_per_pass)


USUAL = ((2, None),)
EVERY_PASS = (*USUAL, (1, None), (2, 1))


def compare(name: str, methods: tuple[ll.Method, ...], passes: tuple[tuple[int, int | None], ...]) -> None:
    """Compare maps of so many rows, in passes of so many at most."""
    case = AWKWARD[name]()
    assert case.plain is not None
    usual = torch.equal(case.plain(X), conv_net()(X))
    tolerance = 1e-6 if name == "two halves of a double batch" else 1e-9  # LRP's epsilon enters at one more sum
    for method in methods:
        if isinstance(method, ll.PatternNet | ll.PatternAttribution) and not isinstance(case.model, nn.Module):
            continue  # patterns belong to a module
        for rows, most in passes:
            given = patterns_for(case.model, method)
            found = outcome(case.model, given, case.inputs[:rows], rows_per_pass=most)
            if usual:
                wanted = expected(method, rows, most)
            else:
                given = patterns_for(case.plain, method)
                wanted = outcome(case.plain, given, case.inputs[:rows], rows_per_pass=most)
            if isinstance(wanted, Exception):
                assert type(found) is type(wanted), (method, rows, most, found)
            elif isinstance(found, Exception) and "patterns" in str(found):
                assert isinstance(method, ll.PatternNet | ll.PatternAttribution)  # of operators in another order
            elif isinstance(found, Exception):
                assert name in REFUSED, (method, rows, most, found)
                with pytest.raises(type(found), match=REFUSED[name]):
                    raise found
            else:
                torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance, msg=f"{method} {rows} {most}")


@pytest.mark.parametrize("name", except_uncopied(WITH_PLAIN))
def test_a_map_is_that_of_the_function_written_plainly(name: str) -> None:
    compare(name, SAMPLE, EVERY_PASS[:2] if any(each in name for each in IN_PASSES) else USUAL)


@pytest.mark.long
@pytest.mark.parametrize("name", except_uncopied(WITH_PLAIN))
def test_every_map_is_that_of_the_function_written_plainly(name: str) -> None:
    compare(name, CASES, USUAL)
    if any(each in name for each in IN_PASSES):
        compare(name, EACH, EVERY_PASS[1:])


# Checkpoints -----------------------------------------------------------------------------------------


def test_a_checkpoint_runs_once_and_is_a_checkpoint_again_afterwards() -> None:
    runs: list[int] = []
    net = Checkpointed(False, blocks=False)
    net.net.body.register_forward_hook(lambda *_: runs.append(1))
    ll.explain(net, X, "gradient", target=1)
    runs.clear()
    ll.explain(net, X, "gradient", target=1)
    assert len(runs) == 2  # the input pass, and the pass that compares rows
    runs.clear()
    net(X.clone().requires_grad_()).sum().backward()
    assert len(runs) == 2


# torch.compile ---------------------------------------------------------------------------------------


class Backend:
    """A compiler that counts what it is given."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.calls += 1
        return graph.forward


def test_nothing_is_compiled_and_compiled_code_runs_afterwards() -> None:
    backend = Backend()
    net = torch.compile(conv_net(), backend=backend)
    ll.explain(net, X, ["gradient", "guided-backprop", "occlusion(4, 4)"], target=1)
    assert backend.calls == 0
    with torch.no_grad():
        net(X)
        compiled = backend.calls
        assert compiled > 0
        ll.explain(net, X, "grad-cam", target=1)
        net(X)
    assert backend.calls == compiled


def test_layers_of_a_compiled_model_have_their_own_names() -> None:
    plain, net = conv_net(), conv_net()
    net.stem = torch.compile(net.stem, backend="eager")
    whole = torch.compile(net, backend="eager")
    expected = ll.explain(plain, X, "grad-cam", layer="stem.1", target=1)
    for layer in ("stem.1", "_orig_mod.stem._orig_mod.1", "stem._orig_mod.1", net.stem._orig_mod[1]):
        a = ll.explain(whole, X, "grad-cam", layer=layer, target=1)
        torch.testing.assert_close(a.values, expected.values)
        assert a.layer == "stem.1"
    assert ll.explain(whole, X, "grad-cam", layer=net.stem, target=1).layer == "stem"
    assert ll.explain(whole, X, "grad-cam", target=1).layer == ll.explain(plain, X, "grad-cam", target=1).layer
    for at in ("_orig_mod.body", "body"):
        neuron = ll.Neuron(at=at, channel=0)
        values = ll.explain(whole, X, "gradient", target=neuron).values
        torch.testing.assert_close(values, ll.explain(plain, X, "gradient", target=neuron).values)
    with pytest.raises(ValueError, match=r"layer: 'bodi' is not a module of the model; nearest: body"):
        ll.explain(whole, X, "grad-cam", layer="bodi", target=1)


# Programs --------------------------------------------------------------------------------------------


RAN: list[int] = []


class Counting(nn.Module):
    """Tells the rows of each pass to `RAN`."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, x: Tensor) -> Any:
        RAN.append(len(x))
        return self.program(x)


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize(
    "method", ["gradient", "integrated-gradients(midpoint(3))", "lrp", "deep-lift", "rise(masks=5)"]
)
def test_rows_of_a_fixed_program_are_counted_as_they_run(rows: int, method: str) -> None:
    RAN.clear()
    a = ll.explain(Counting(exported(rows)), X, method, target=1)
    assert set(RAN) == {rows} and a.forward_rows == sum(RAN)
    assert any("filled up with copies" in note for note in a.notes) == (rows > 1)


def test_a_program_of_at_most_so_many_rows_gets_no_more() -> None:
    RAN.clear()
    shapes = ({0: torch.export.Dim("rows", min=1, max=3)},)
    program = torch.export.export(conv_net(), (X,), dynamic_shapes=shapes).module()
    a = ll.explain(Counting(program), X, "rise(masks=20)", target=1)
    assert max(RAN) == 3 and a.forward_rows == sum(RAN)
    torch.testing.assert_close(a.values, ll.explain(conv_net(), X, "rise(masks=20)", target=1).values)


def test_a_program_of_at_least_so_many_rows_gets_no_fewer() -> None:
    shapes = ({0: torch.export.Dim("rows", min=4, max=8)},)
    program = torch.export.export(conv_net(), (pictures(5),), dynamic_shapes=shapes).module()
    a = ll.explain(program, X, ["gradient", "occlusion(4, 4)"], target=1)
    expected = ll.explain(conv_net(), X, ["gradient", "occlusion(4, 4)"], target=1)
    for found, wanted in zip(a.values(), expected.values(), strict=True):
        torch.testing.assert_close(found.values, wanted.values, atol=1e-9, rtol=1e-9)


def test_patterns_of_a_program_with_fixed_rows_are_those_of_its_rows() -> None:
    x = pictures(5)
    whole = ll.estimate_patterns(exported(2), [x[:4]]).tensors
    for rows, batches in [(2, x[:4].split(1)), (1, [x[:4]]), (2, [x[:3], x[3:4]])]:
        found = ll.estimate_patterns(exported(rows), batches).tensors
        assert found.keys() == whole.keys()
        assert all((found[name] - whole[name]).abs().max() <= 1e-9 for name in whole)
    with pytest.raises(ValueError, match="the model takes 2 rows a pass, and the last 1 make none"):
        ll.estimate_patterns(exported(2), [x])


def test_several_targets_of_a_fixed_program() -> None:
    a = ll.explain(exported(3), X, "gradient", target=[[0, 1], [2, 3]])
    torch.testing.assert_close(a.values, ll.explain(conv_net(), X, "gradient", target=[[0, 1], [2, 3]]).values)


def test_layers_of_an_unflattened_program_of_fixed_rows() -> None:
    program = torch.export.unflatten(torch.export.export(conv_net(), (pictures(3),)))
    for method in ("grad-cam", "ablation-cam", ll.AtLayer(ll.IntegratedGradients(ll.Midpoint(2)))):
        found = ll.explain(program, X, method, layer="act", target=1)
        wanted = ll.explain(conv_net(), X, method, layer="act", target=1)
        torch.testing.assert_close(found.values, wanted.values, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["exported for any number of rows", "scripted", "traced"])
def test_a_named_layer_of_a_program_is_refused_in_one_sentence(name: str) -> None:
    model = AWKWARD[name]().model
    for method in ("grad-cam", "at-layer", "eigen-cam"):
        with pytest.raises(ValueError, match=r"layer: .*(exported program|TorchScript).*pass the"):
            ll.explain(model, X, method, layer="body", target=1)


# What comes out --------------------------------------------------------------------------------------


def test_notes_name_the_entry_that_was_read() -> None:
    def notes(made: Callable[[Tensor, Tensor], Any]) -> list[str]:
        found = ll.explain(Returning(made), X, ["gradient", "lrp", "occlusion(4, 4)"], target=1)
        told = [[str(note) for note in each.notes if "is explained" in note] for each in found.values()]
        assert all(each == told[0] for each in told)
        return told[0]

    assert notes(lambda y, x: y) == []
    assert notes(lambda y, x: {"scores": y}) == ["the model returns dict: its entry 'scores' is explained"]
    assert notes(lambda y, x: ({"out": 1}, y)) == ["the model returns tuple: its entry '1' is explained"]
    assert notes(lambda y, x: {"logits": y, "more": x}) == ["the model returns dict: its entry 'logits' is explained"]


@pytest.mark.parametrize("made", [lambda y, x: {"scores": y, "boxes": x}, lambda y, x: {"a": [y]}, lambda y, x: "text"])
def test_outputs_that_may_be_read_in_several_ways_are_refused_with_their_entries(made: Any) -> None:
    entries = list(made(X, X)) if isinstance(made(X, X), dict) else []
    for method in ("gradient", "lrp", "occlusion(4, 4)"):
        with pytest.raises(TypeError, match=r"target: the model returns (dict|str)") as caught:
            ll.explain(Returning(made), X, method, target=1)
        assert all(repr(entry) in str(caught.value) for entry in entries)
    if entries == ["scores", "boxes"]:
        a = ll.explain(Returning(made), X, "gradient", target=lambda outputs: outputs["scores"][:, 1])
        torch.testing.assert_close(a.values, ll.explain(conv_net(), X, "gradient", target=1).values)


class Squeezed(Around):
    def forward(self, x: Tensor) -> Any:
        return self.net(x).squeeze()


def test_squeezed_outputs_of_one_row_are_those_of_the_row() -> None:
    one, several = conv_net(classes=1), conv_net()
    for method in ("gradient", "lrp", "deep-lift", "grad-cam", "occlusion(4, 4)"):
        for rows in (1, 2):
            x = X[:rows]
            wanted = ll.explain(several, x, method, target=1)
            found = ll.explain(Squeezed(), x, method, target=1)
            torch.testing.assert_close(found.values, wanted.values)
            torch.testing.assert_close(found.score, wanted.score)
            a = ll.explain(nn.Sequential(one, nn.Flatten(0)), x, method)
            torch.testing.assert_close(a.values, ll.explain(one, x, method).values)
            b = ll.explain(nn.Sequential(one, nn.Flatten(0)), x, method, target=lambda outputs: outputs)
            torch.testing.assert_close(b.values, a.values)


# Layers without a derivative -------------------------------------------------------------------------

GRADIENTS = [method for method in CASES if method.needs.gradients and not method.needs.layer]


@pytest.mark.parametrize("name", ["quantised linear layers", "quantised in the middle", "statically quantised"])
def test_quantised_layers_carry_no_gradient(name: str) -> None:
    case = AWKWARD[name]()
    sure = [ll.Gradient(), ll.IntegratedGradients(), ll.SmoothGrad(samples=2), ll.GradCAM(), ll.LRP(), ll.DeepLift()]
    for method in sure:
        for rows in (1, 2):
            if isinstance(method, ll.GradCAM) and name == "quantised in the middle":
                continue  # it has no maps
            with pytest.raises(NoGradient, match=r"model: the score carries no gradient.*need none: occlusion"):
                ll.explain(case.model, case.inputs[:rows], method, target=0)


@pytest.mark.long
@pytest.mark.parametrize("method", GRADIENTS, ids=repr)
def test_no_method_gives_a_map_without_a_gradient(method: ll.Method) -> None:
    for name in ("quantised linear layers", "quantised in the middle", "statically quantised"):
        case = AWKWARD[name]()
        with pytest.raises((NoGradient, ll.UncoveredOperator, ValueError)):
            ll.explain(case.model, case.inputs, method, target=0)


def test_weights_of_quantised_layers_are_part_of_a_models_fingerprint() -> None:
    prints = []
    for seed in (0, 0, 1):
        net = nn.Sequential(conv_net(seed), nn.Linear(5, 2)).float()
        prints.append(fingerprint(quietly(lambda net=net: torch.ao.quantization.quantize_dynamic(net, {nn.Linear}))))
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("name", ["quantised linear layers", "quantised in the middle", "statically quantised"])
def test_quantised_models_are_perturbed_row_by_row(name: str) -> None:
    case = AWKWARD[name]()
    x, methods = case.inputs, ["occlusion(4, 4)", "rise(masks=8)", "permutation-shap(permutations=2, players=grid(2))"]

    def one_by_one(rows: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([case.model(row) for row in rows.split(1)])

    found = ll.explain(case.model, x, methods, target=0)
    for a, wanted in zip(found.values(), ll.explain(one_by_one, x, methods, target=0).values(), strict=True):
        torch.testing.assert_close(a.values, wanted.values)
    alone = ll.explain(case.model, x[:1], methods, target=0)
    for a, b in zip(found.values(), alone.values(), strict=True):
        torch.testing.assert_close(a.values[:1], b.values)


class Rounded(Around):
    """Rounds its input to eighths; `through`: with the derivative of the identity."""

    def __init__(self, how: str, through: bool) -> None:
        super().__init__()
        self.how, self.through = how, through

    def forward(self, x: Tensor) -> Any:
        flat = getattr(torch, self.how)(x * 8) / 8
        return self.net(x + (flat - x).detach() if self.through else flat)


@pytest.mark.parametrize("how", ["round", "floor", "ceil", "trunc", "sign"])
def test_rounding_carries_no_gradient_unless_it_is_made_to(how: str) -> None:
    for method in (ll.Gradient(), ll.IntegratedGradients(ll.Midpoint(2)), ll.SmoothGrad(samples=2)):
        with pytest.raises(NoGradient, match="rounding"):
            ll.explain(Rounded(how, False), X, method, target=1)
        assert bool(ll.explain(Rounded(how, True), X, method, target=1).values.any())
    inside = ll.explain(Rounded(how, False), X, "grad-cam", target=1)  # after the rounding there is a gradient
    assert bool(inside.values.any())


# What goes in ----------------------------------------------------------------------------------------

METHODS_OF_INPUTS = [
    "gradient",
    "integrated-gradients(midpoint(2))",
    "grad-cam",
    "lrp",
    "occlusion(4, 4)",
    "rise(masks=5)",
]


def negative(x: Tensor) -> Tensor:
    made = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert made.is_neg()
    return made


def video(x: Tensor) -> Tensor:
    tv_tensors = pytest.importorskip("torchvision.tv_tensors")
    return tv_tensors.Image(x)


class Counted(Tensor):
    """A subclass that counts the operators that arrive."""

    arrived = 0

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        Counted.arrived += 1
        return super().__torch_function__(func, types, args, kwargs or {})


INPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "negative": negative,
    "not contiguous": lambda x: x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "a parameter": nn.Parameter,
    "with a graph": lambda x: x.clone().requires_grad_() * 1,
    "a subclass": lambda x: x.as_subclass(Tagged),
    "a subclass with functions": lambda x: x.as_subclass(Counted),
    "torchvision's": video,
    "of inference mode": lambda x: torch.inference_mode()(x.clone)(),
    "a view of another": lambda x: torch.cat([x, x])[:2],
}


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_of_every_kind_give_the_map_of_their_values(kind: str) -> None:
    x = INPUTS[kind](X)
    wanted = ll.explain(conv_net(), X, METHODS_OF_INPUTS, target=1, baseline=X.flip(-1), draws_of=X)
    other = INPUTS[kind](X.flip(-1))
    found = ll.explain(conv_net(), x, METHODS_OF_INPUTS, target=1, baseline=other, draws_of=x)
    for a, b in zip(found.values(), wanted.values(), strict=True):
        torch.testing.assert_close(a.values, b.values)
        assert type(a.values) is Tensor and type(a.inputs) is Tensor and not a.values.requires_grad


def test_an_expanded_batch_has_the_map_of_each_of_its_rows() -> None:
    for x, plain in ((X[:1].expand(2, -1, -1, -1), X[:1]), (X[:, :1, :1, :1].expand(-1, 3, 8, 8), None)):
        for method in METHODS_OF_INPUTS:
            found = ll.explain(conv_net(), x, method, target=1)
            wanted = ll.explain(conv_net(), x.contiguous(), method, target=1)
            torch.testing.assert_close(found.values, wanted.values)
            assert found.forward_rows == wanted.forward_rows
            if plain is not None:
                alone = ll.explain(conv_net(), plain, method, target=1).values
                torch.testing.assert_close(found.values[1:], alone)


def fake() -> Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.rand(2, 3, 8, 8, dtype=D)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: X.to_sparse(), TypeError, r"inputs: torch\.sparse_coo; .*use inputs\.to_dense\(\)"),
        (lambda: X.flatten(1).to_sparse_csr(), TypeError, r"inputs: torch\.sparse_csr"),
        (lambda: X.to("meta"), ValueError, r"inputs: on the device 'meta', whose tensors hold no values"),
        (lambda: quietly(lambda: torch.nested.nested_tensor([X[0], X[1]])), TypeError, "inputs: a nested tensor"),
        (lambda: torch.quantize_per_tensor(X.float(), 0.1, 0, torch.qint8), TypeError, r"use inputs\.dequantize\(\)"),
        (lambda: X.float().to_mkldnn(), TypeError, r"inputs: torch\._mkldnn; .*to_dense"),
        (fake, TypeError, "inputs: FakeTensor, a tensor that runs operators in its own way"),
        (lambda: torch.complex(X, X), TypeError, r"inputs: torch\.complex128"),
    ],
)
def test_inputs_without_values_at_each_place_are_refused(make: Any, kind: type[Exception], message: str) -> None:
    for method in ("gradient", "occlusion"):
        with pytest.raises(kind, match=message):
            ll.explain(conv_net(), make(), method, target=1)


def test_a_model_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="model: parameters on the device 'meta' hold no values"):
        ll.explain(conv_net().to("meta"), X, "gradient", target=1)


@pytest.mark.parametrize(
    "make", [nn.LazyBatchNorm2d, lambda: nn.LazyBatchNorm2d(affine=False), lambda: nn.LazyConv2d(4, 3)]
)
def test_a_lazy_layer_that_never_ran_is_refused(make: Any) -> None:
    net = nn.Sequential(quietly(make), nn.Flatten(), nn.Linear(192, 2)).double().eval()
    for method in ("gradient", "grad-cam", "occlusion"):
        with pytest.raises(ValueError, match="is not initialised yet; call the model once"):
            ll.explain(net, X, method, target=1)


# Defaults of torch -----------------------------------------------------------------------------------


class MakesTensors(Around):
    """Makes tensors on the user's default device, and in the default dtype."""

    seen: tuple[Any, ...] = ()

    def forward(self, x: Tensor) -> Any:
        type(self).seen = (torch.empty(1).device.type, torch.empty(1).dtype)
        return self.net(x)


@pytest.fixture
def default_device() -> Any:
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.usefixtures("default_device")
def test_the_default_device_is_the_users_alone() -> None:
    with torch.device("cpu"):
        net = MakesTensors()
        wanted = [ll.explain(net, X, method, target=[1, 2], baseline=ll.Mean([X])) for method in SAMPLE]
    baseline = ll.Mean([X])
    for method, expected in zip(SAMPLE, wanted, strict=True):
        a = ll.explain(net, X, method, target=[1, 2], baseline=baseline)
        assert torch.equal(a.values, expected.values)
        assert MakesTensors.seen == ("meta", torch.float32)
        assert a.heatmap().device.type == "cpu" and repr(a)
    seen: list[str] = []
    ll.explain(net, X, "gradient", target=lambda outputs: (seen.append(torch.empty(1).device.type), outputs[:, 0])[1])
    assert set(seen) == {"meta"} and torch.empty(1).device.type == "meta"


@pytest.mark.usefixtures("default_device")
@pytest.mark.long
def test_every_method_with_another_default_device() -> None:
    for method in CASES:
        with torch.device("cpu"):
            net = conv_net()
            expected = outcome(net, patterns_for(net, method), X)
        found = outcome(net, patterns_for(net, method), X)
        assert torch.equal(found, expected) if isinstance(expected, Tensor) else type(found) is type(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [D, torch.float32])
def test_the_default_dtype_does_not_matter(dtype: torch.dtype) -> None:
    net, x = conv_net().to(dtype), X.to(dtype)
    wanted = [ll.explain(net, x, method, target=1) for method in SAMPLE]
    before = torch.get_default_dtype()
    torch.set_default_dtype(D)
    try:
        for method, expected in zip(SAMPLE, wanted, strict=True):
            a = ll.explain(net, x, method, target=1)
            assert torch.equal(a.values, expected.values) and a.values.dtype == dtype
    finally:
        torch.set_default_dtype(before)
