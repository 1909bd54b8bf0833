"""Models that are awkward to copy, to run again or to leave as they were, each in a few lines.

Most compute what `conv_net()` computes, so that its maps are theirs.
"""

from __future__ import annotations

import collections
import copy
import functools
import io
import tempfile
import threading
import types
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils import checkpoint as checkpoints

from .networks import conv_net, pictures

D = torch.float64


@dataclass(frozen=True)
class Awkward:
    """A model with inputs; `plain` computes the same, written plainly, where there is such a module."""

    model: Any
    inputs: Tensor
    plain: nn.Module | None = None


AWKWARD: dict[str, Callable[[], Awkward]] = {}
WITH_PLAIN: list[str] = []  # the names of those that have a `plain`, which is known before they are made


def awkward(name: str, plain: bool = True, inputs: Callable[[], Tensor] = lambda: pictures(2)) -> Callable[..., Any]:
    """Enter the function that makes a model; `plain`: it computes what `conv_net()` computes."""

    def enter(make: Callable[[], Any]) -> Callable[[], Any]:
        AWKWARD[name] = lambda: Awkward(make(), inputs(), conv_net() if plain else None)
        if plain:
            WITH_PLAIN.append(name)
        return make

    return enter


class Around(nn.Module):
    """`conv_net()` inside another module; subclasses add what is awkward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv_net()

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


def with_attribute(name: str, make: Callable[[], Any]) -> None:
    def model() -> nn.Module:
        net = Around()
        net.extra = make()
        return net

    awkward(name)(model)


with_attribute("a lock", threading.Lock)
with_attribute("a reentrant lock", threading.RLock)
with_attribute("a condition", threading.Condition)
with_attribute("an open file", lambda: tempfile.TemporaryFile())  # noqa: SIM115
with_attribute("bytes in memory", lambda: io.BytesIO(b"abc"))
with_attribute("a running generator", lambda: iter_once())
with_attribute("a generator of random numbers", lambda: torch.Generator().manual_seed(3))
with_attribute("thread-local attributes", lambda: local(3))
with_attribute("a tensor from a computation", lambda: nn.Parameter(torch.ones(2)) * 2)
with_attribute("a tensor with a gradient", lambda: with_gradient(torch.ones(2, requires_grad=True)))
with_attribute("a Python module", lambda: types)
with_attribute("a lambda over a lock", lambda: (lambda lock: lambda: lock)(threading.Lock()))
with_attribute("a partial", lambda: functools.partial(max, 3))
with_attribute("a class", lambda: collections.OrderedDict)
with_attribute("a memory view", lambda: memoryview(b"abc"))
with_attribute("an inference tensor", lambda: made_in_inference(lambda: torch.ones(3)))


def iter_once() -> Any:
    numbers = (i for i in range(3))
    next(numbers)
    return numbers


def local(value: int) -> threading.local:
    held = threading.local()
    held.value = value
    return held


def with_gradient(tensor: Tensor) -> Tensor:
    tensor.sum().backward()
    return tensor


def made_in_inference(make: Callable[[], Any]) -> Any:
    with torch.inference_mode():
        return make()


@awkward("tied weights", plain=False)
def tied() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 3, 3, padding=1), nn.Flatten(2)).double()
    net[2].weight = net[0].weight
    return nn.Sequential(net, nn.AdaptiveAvgPool1d(1), nn.Flatten(1))


@awkward("a layer under two names")
def two_names() -> nn.Module:
    net = conv_net()
    net.again = net.body
    return net


def reweighted(change: Callable[[nn.Module], Any]) -> nn.Module:
    net = conv_net()
    for module in (net.body, net.head):
        change(module)
    return net.eval()


class PlainWeights(nn.Module):
    """`conv_net()` with the weights of a reweighted net, as plain parameters."""

    def __new__(cls, net: nn.Module, x: Tensor) -> Any:
        with torch.no_grad():
            net(x)
        plain = conv_net()
        for name in ("body", "head"):
            plain.get_submodule(name).weight = nn.Parameter(net.get_submodule(name).weight.detach().clone())
        return plain


def reweighting(name: str, change: Callable[[nn.Module], Any]) -> None:
    def make() -> Awkward:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net, x = reweighted(change), pictures(2)
        return Awkward(net, x, PlainWeights(net, x))

    AWKWARD[name] = make
    WITH_PLAIN.append(name)


reweighting("pruned weights", lambda module: prune.l1_unstructured(module, "weight", 0.4))
reweighting("weight norm of old", lambda module: nn.utils.weight_norm(module))
reweighting("weight norm", parametrizations.weight_norm)
reweighting("spectral norm of old", lambda module: nn.utils.spectral_norm(module))
reweighting("spectral norm", parametrizations.spectral_norm)


@awkward("pruned weights after a training step", plain=False)
def pruned_and_trained() -> nn.Module:
    net = reweighted(lambda module: prune.random_unstructured(module, "weight", 0.3)).train()
    net(pictures(2)).sum().backward()
    return net


@awkward("averaged weights")
def averaged() -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(conv_net())


@awkward("data parallel")
def data_parallel() -> nn.Module:
    return nn.DataParallel(conv_net())


@awkward("a counter of calls")
class Counting(Around):
    calls = 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return self.net(x)


@awkward("a counting buffer, written in place")
class CountingBuffer(Around):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return self.net(x)


@awkward("a counting buffer, assigned")
class AssignedBuffer(CountingBuffer):
    def forward(self, x: Tensor) -> Any:
        self.calls = self.calls + 1
        return self.net(x)


@awkward("a counter in a list")
class CountingList(Around):
    def __init__(self) -> None:
        super().__init__()
        self.calls = [0]

    def forward(self, x: Tensor) -> Any:
        self.calls[0] += 1
        return self.net(x)


@awkward("a counter beside a lock")
class CountingAndLocked(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        with self.lock:
            self.seen = self.seen + 1
            return super().forward(x)


@awkward("a forward over a closure")
def closure() -> nn.Module:
    net, outer = conv_net(), Around()
    outer.forward = lambda x: net(x)
    return outer


@awkward("a weak reference to itself")
class WeaklySelf(Around):
    def __init__(self) -> None:
        super().__init__()
        self.own = weakref.ref(self)

    def forward(self, x: Tensor) -> Any:
        own = self.own()
        assert own is not None
        return own.net(x)


@awkward("a weak reference to itself, in training mode")
def weakly_training() -> nn.Module:
    return WeaklySelf().train()


@awkward("a forward over a closure, in training mode")
def closure_training() -> nn.Module:
    net, outer = conv_net().train(), Around()
    outer.forward = lambda x: net(x)
    return outer


@awkward("modules in a list")
class InAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = [conv_net()]

    def forward(self, x: Tensor) -> Any:
        return self.parts[0](x)


@awkward("modules in a list, in training mode")
def listed_training() -> nn.Module:
    net = InAList()
    net.parts[0].train()
    return net


@awkward("modules in a dictionary")
class InADictionary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = {"net": conv_net()}

    def forward(self, x: Tensor) -> Any:
        return self.parts["net"](x)


@awkward("a parent in a list")
def parent() -> nn.Module:
    net = Around()
    net.net.parents = [net]
    return net


@awkward("a tensor kept from the first call")
class Cached(Around):
    scale: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        if self.scale is None:
            self.scale = torch.ones(1, dtype=x.dtype)
        return self.net(x) * self.scale


@awkward("a cached property")
class CachedProperty(Around):
    @functools.cached_property
    def scale(self) -> Tensor:
        return torch.ones(1, dtype=D)

    def forward(self, x: Tensor) -> Any:
        return self.net(x) * self.scale


@awkward("a getattr of its own")
class Delegating(Around):
    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)


class Slotted:
    __slots__ = ("slot",)


@awkward("slots")
class WithSlots(Slotted, Around):
    def __init__(self) -> None:
        super().__init__()
        self.slot = 1.0

    def forward(self, x: Tensor) -> Any:
        return self.net(x) * self.slot


@awkward("a deepcopy that raises")
class Uncopied(Around):
    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("this model is never copied")


@awkward("a deepcopy of its own")
class OwnCopy(Around):
    def __deepcopy__(self, memo: Any) -> Any:
        made = type(self)()
        made.load_state_dict(self.state_dict())
        return made.eval()


@awkward("a forward hook")
def forward_hook() -> nn.Module:
    net = conv_net()
    net.body.register_forward_hook(lambda module, rows, output: None)
    return net


@awkward("a forward hook that keeps the output")
def keeping_hook() -> nn.Module:
    net = Around()
    net.kept = {}
    net.net.body.register_forward_hook(lambda module, rows, output: net.kept.update(body=output))
    return net


@awkward("a forward hook that returns the output again")
def returning_hook() -> nn.Module:
    net = conv_net()
    net.body.register_forward_hook(lambda module, rows, output: output * 1.0)
    return net


@awkward("a forward pre-hook")
def pre_hook() -> nn.Module:
    net = conv_net()
    net.body.register_forward_pre_hook(lambda module, rows: (rows[0] * 1.0,))
    return net


@awkward("a full backward hook")
def backward_hook() -> nn.Module:
    net = conv_net()
    net.body.register_full_backward_hook(lambda module, inner, outer: None)
    return net


@awkward("a full backward pre-hook")
def backward_pre_hook() -> nn.Module:
    net = conv_net()
    net.body.register_full_backward_pre_hook(lambda module, outer: None)
    return net


@awkward("state dictionary hooks")
def state_hooks() -> nn.Module:
    net = conv_net()
    net.register_state_dict_post_hook(lambda module, state, prefix, local: None)
    net.register_load_state_dict_pre_hook(lambda *given: None)
    net.register_load_state_dict_post_hook(lambda module, keys: None)
    return net


@awkward("a hook that raises at its second call", plain=False)
def raising_hook() -> nn.Module:
    net = conv_net()
    net.calls = [0]

    def hook(module: nn.Module, rows: Any, output: Tensor) -> None:
        net.calls[0] += 1
        if net.calls[0] == 2:
            raise RuntimeError("the second call")

    net.body.register_forward_hook(hook)
    return net


@awkward("its last input is kept")
class KeepsInput(Around):
    def forward(self, x: Tensor) -> Any:
        self.last = x
        return self.net(x)


@awkward("every output is kept")
class KeepsAll(Around):
    def __init__(self) -> None:
        super().__init__()
        self.history: list[Tensor] = []

    def forward(self, x: Tensor) -> Any:
        self.history.append(self.net(x))
        return self.history[-1]


@awkward("its input is overwritten")
class Overwriting(Around):
    def forward(self, x: Tensor) -> Any:
        x.mul_(2.0).div_(2.0)
        return self.net(x)


@awkward("dropouts of all kinds")
class Dropouts(Around):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Dropout2d(0.5), nn.FeatureAlphaDropout(0.3)
        self.third = nn.AlphaDropout(0.2)
        self.eval()

    def forward(self, x: Tensor) -> Any:
        x = self.third(self.second(self.first(x)))
        return self.net(F.dropout(x, 0.4, self.training))


@awkward("training mode")
def training() -> nn.Module:
    return conv_net().train()


@awkward("some modules in training mode")
def partly_training() -> nn.Module:
    net = conv_net()
    net.stem[1].train()
    return net


@awkward("gradients from training")
def with_gradients() -> nn.Module:
    net = conv_net()
    net(pictures(2)).sum().backward()
    net.body.bias.requires_grad_(False)
    return net


@awkward("normalisations of all kinds", plain=False)
def norms() -> nn.Module:
    layers = [nn.BatchNorm2d(3), nn.SyncBatchNorm(3), nn.BatchNorm2d(3, affine=False), nn.GroupNorm(3, 3)]
    more = [nn.InstanceNorm2d(3, affine=True, track_running_stats=True), nn.BatchNorm2d(3, momentum=None)]
    return nn.Sequential(*layers, *more, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12, 5)).double().eval()


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.net, self.head = kind(6, 4, batch_first=True, bidirectional=True), nn.Linear(8, 5)
        self.double()

    def forward(self, x: Tensor) -> Any:
        return self.head(self.net(x)[0].mean(1))


def sequences() -> Tensor:
    return torch.rand(2, 5, 6, dtype=D, generator=torch.Generator().manual_seed(0))


for kind in (nn.LSTM, nn.GRU, nn.RNN):
    awkward(f"a recurrent network: {kind.__name__}", plain=False, inputs=sequences)(functools.partial(Recurrent, kind))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 5)
        self.double().eval()

    def forward(self, x: Tensor) -> Any:
        return self.head(self.attention(x, x, x)[0].mean(1))


awkward("attention", plain=False, inputs=sequences)(Attending)


@awkward("a transformer's layer", plain=False, inputs=sequences)
def transformer() -> nn.Module:
    block = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(block, 2), nn.Flatten(), nn.Linear(30, 5)).double().eval()


@awkward("an embedding of bounded norm", plain=False)
class Bounded(Around):
    def __init__(self) -> None:
        super().__init__()
        self.bounded = nn.Embedding(3, 5, max_norm=0.5, dtype=D)

    def forward(self, x: Tensor) -> Any:
        return self.net(x) + self.bounded(torch.zeros(len(x), dtype=torch.long))


@awkward("a weight clamped in forward", plain=False)
class Clamped(Around):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            self.net.head.weight.clamp_(-0.2, 0.2)
        return self.net(x)


class Checkpointed(Around):
    """The body, or each block, is run again in the backward pass."""

    def __init__(self, reentrant: bool, blocks: bool) -> None:
        super().__init__()
        self.reentrant, self.blocks = reentrant, blocks

    def forward(self, x: Tensor) -> Any:
        net, run = self.net, functools.partial(checkpoints.checkpoint, use_reentrant=self.reentrant)
        if not self.blocks:
            return run(net, x)
        x = run(net.stem, x)
        x = run(lambda y: net.act(y + net.body(y)), x)
        return net.head(net.drop(x.mean((2, 3))))


for reentrant in (True, False):
    for blocks in (True, False):
        label = f"checkpointed {'blocks' if blocks else 'body'}, {'' if reentrant else 'not '}reentrant"
        awkward(label)(functools.partial(Checkpointed, reentrant, blocks))


@awkward("a checkpointed sequence", plain=False)
class CheckpointedSequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
        self.head = nn.Linear(4, 5)
        self.double().eval()

    def forward(self, x: Tensor) -> Any:
        return self.head(checkpoints.checkpoint_sequential(self.body, 2, x, use_reentrant=False).mean((2, 3)))


compiling = functools.partial(torch.compile, backend="eager")


@awkward("compiled")
def compiled() -> nn.Module:
    return compiling(conv_net())


@awkward("compiled in place")
def compiled_in_place() -> nn.Module:
    net = conv_net()
    net.compile(backend="eager")
    return net


@awkward("compiled layers")
def compiled_layers() -> nn.Module:
    net = conv_net()
    net.stem = compiling(net.stem)
    net.body.compile(backend="eager")
    return net


@awkward("a compiled function")
class CompiledFunction(Around):
    def __init__(self) -> None:
        super().__init__()
        self.function = compiling(lambda x: x * 2.0)

    def forward(self, x: Tensor) -> Any:
        return self.net(self.function(x) / 2.0)


def exported(rows: int | None, strict: bool = False) -> nn.Module:
    """Export `conv_net()` for so many rows, or any number of them."""
    x = pictures(rows or 2)
    shapes = ({0: torch.export.Dim("rows", min=1, max=1024)},) if rows is None else None
    program = torch.export.export(conv_net(), (x,), dynamic_shapes=shapes, strict=strict)
    return program.module()


for count in (None, 1, 2, 3):
    awkward(f"exported for {count or 'any number of'} rows")(functools.partial(exported, count))


@awkward("an unflattened program")
def unflattened() -> nn.Module:
    shapes = ({0: torch.export.Dim("rows", min=1, max=1024)},)
    return torch.export.unflatten(torch.export.export(conv_net(), (pictures(2),), dynamic_shapes=shapes))


def quietly(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


@awkward("scripted")
def scripted() -> nn.Module:
    return quietly(lambda: torch.jit.script(scriptable()))


@awkward("traced")
def traced() -> nn.Module:
    return quietly(lambda: torch.jit.trace(conv_net(), pictures(2)))


@awkward("scripted and frozen")
def frozen() -> nn.Module:
    return quietly(lambda: torch.jit.freeze(torch.jit.script(scriptable())))


@awkward("a scripted layer")
def scripted_layer() -> nn.Module:
    net = conv_net()
    net.stem = quietly(lambda: torch.jit.script(net.stem))
    return net


class Scriptable(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.stem, self.body, self.act, self.drop, self.head = net.stem, net.body, net.act, net.drop, net.head

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.act(x + self.body(x))
        return self.head(self.drop(x.mean((2, 3))))


def scriptable() -> nn.Module:
    return Scriptable(conv_net()).eval()


@awkward("traced by fx")
def fx_traced() -> nn.Module:
    return torch.fx.symbolic_trace(conv_net())


class Doubling(Around):
    """Its outputs are doubled; `conv_net()`'s are those of its half."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x) / 2


@awkward("traced by fx, with a hook")
def fx_hooked() -> nn.Module:
    net = torch.fx.symbolic_trace(Doubling())
    net.register_forward_hook(lambda module, rows, output: output * 2)
    return net


def floats() -> Tensor:
    return pictures(2).float()


@awkward("quantised linear layers", plain=False, inputs=floats)
def quantised() -> nn.Module:
    return quietly(lambda: torch.ao.quantization.quantize_dynamic(conv_net().float(), {nn.Linear}))


@awkward("quantised in the middle", plain=False, inputs=floats)
def quantised_inside() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)]
    return quietly(lambda: torch.ao.quantization.quantize_dynamic(nn.Sequential(*layers).eval(), {"3"}))


@awkward("statically quantised", plain=False, inputs=floats)
def statically_quantised() -> nn.Module:
    from torch.ao import quantization

    torch.manual_seed(0)
    layers = [quantization.QuantStub(), nn.Conv2d(3, 4, 3), nn.ReLU(), quantization.DeQuantStub(), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(144, 5)).eval()
    net.qconfig = quantization.default_qconfig
    net[5].qconfig = None

    def convert() -> nn.Module:
        made = quantization.prepare(net)
        made(floats())
        return quantization.convert(made)

    return quietly(convert)


@awkward("autocast inside", plain=False, inputs=floats)
class Autocast(Around):
    def __init__(self) -> None:
        super().__init__()
        self.float()

    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x).float()


@awkward("made in inference mode")
def of_inference() -> nn.Module:
    return made_in_inference(conv_net)


@awkward("a buffer made in inference mode")
class InferenceBuffer(Around):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", made_in_inference(lambda: torch.ones(5, dtype=D)))

    def forward(self, x: Tensor) -> Any:
        return self.net(x) * self.scale


@awkward("complex numbers inside")
class Complex(Around):
    def forward(self, x: Tensor) -> Any:
        turned = torch.complex(x, torch.zeros_like(x))
        return self.net(turned.conj().real)


@awkward("two halves of a double batch")
class Doubled(Around):
    def forward(self, x: Tensor) -> Any:
        first, second = self.net(torch.cat([x, x])).chunk(2)
        return (first + second) / 2


@awkward("no_grad around a part")
class PartlyWithout(Around):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            scale = torch.ones_like(x).mean()
        return self.net(x) * scale


@awkward("a call of the module with other parameters")
class FunctionalCall(Around):
    def forward(self, x: Tensor) -> Any:
        return torch.func.functional_call(self.net, dict(self.net.named_parameters()), (x,))


class Pair(NamedTuple):
    scores: Tensor
    more: Tensor


class Fields(NamedTuple):
    more: Tensor
    logits: Tensor


@dataclass
class Record:
    logits: Tensor
    more: Tensor


@dataclass
class OneField:
    scores: Tensor
    words: str = ""


@dataclass(frozen=True)
class Slots:
    __slots__ = ("logits",)
    logits: Tensor


class Ordered(collections.OrderedDict[str, Any]):
    """An output that is a mapping with attributes, as transformers' are."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Returning(Around):
    def __init__(self, made: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.made = made

    def forward(self, x: Tensor) -> Any:
        return self.made(self.net(x), x)


RETURNS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a named tuple": Pair,
    "a named tuple with logits": lambda y, x: Fields(x, y),
    "a tuple": lambda y, x: (y, x),
    "a tuple of one": lambda y, x: (y,),
    "a tuple whose first entry is none": lambda y, x: (None, y, x),
    "a list": lambda y, x: [y, x],
    "a data class": Record,
    "a data class with one tensor": lambda y, x: OneField(y),
    "a data class with slots": lambda y, x: Slots(y),
    "a dictionary with logits": lambda y, x: {"more": x, "logits": y},
    "a dictionary with out": lambda y, x: {"out": y, "aux": x},
    "a dictionary with one tensor": lambda y, x: {"scores": y, "names": ["a"]},
    "a mapping with attributes": lambda y, x: Ordered(loss=None, logits=y, more=(x,)),
    "an object": lambda y, x: types.SimpleNamespace(logits=y, more=x),
    "a tensor's subclass": lambda y, x: y.as_subclass(Tagged),
    "transposed memory": lambda y, x: y.t().contiguous().t(),
}


class Tagged(Tensor):
    """A subclass of Tensor without methods of its own."""


for name, made in RETURNS.items():
    awkward(f"returns {name}")(functools.partial(Returning, made))


class FirstClass(nn.Module):
    """The score of one class as a number for each row."""

    def __init__(self, squeeze: bool) -> None:
        super().__init__()
        self.net, self.squeeze = conv_net(classes=1), squeeze

    def forward(self, x: Tensor) -> Any:
        y = self.net(x)
        return y.squeeze() if self.squeeze else y


def squeezed() -> Awkward:
    return Awkward(FirstClass(True), pictures(2), FirstClass(False))


AWKWARD["returns a squeezed number"] = squeezed
WITH_PLAIN.append("returns a squeezed number")


@awkward("a function")
def function() -> Any:
    net = conv_net()
    return lambda x: net(x)


@awkward("a partial over a module")
def partial() -> Any:
    return functools.partial(lambda net, x: net(x), conv_net())


@awkward("a bound method")
def bound() -> Any:
    return Around().forward


@awkward("a wrapped method")
def wrapped() -> nn.Module:
    net = conv_net()
    inner = net.forward

    @functools.wraps(inner)
    def forward(*given: Any, **named: Any) -> Any:
        return inner(*given, **named)

    net.forward = forward
    return net


@awkward("a copy of a copy")
def copied() -> nn.Module:
    return copy.deepcopy(copy.copy(conv_net()))


@awkward("parameters in lists and dictionaries")
class Lists(Around):
    def __init__(self) -> None:
        super().__init__()
        self.some = nn.ParameterList([torch.ones(1, dtype=D)])
        self.others = nn.ParameterDict({"a": torch.ones(1, dtype=D)})
        self.deep = nn.ModuleDict({"list": nn.ModuleList([nn.Identity()])})

    def forward(self, x: Tensor) -> Any:
        return self.deep["list"][0](self.net(x)) * self.some[0] * self.others["a"]


@awkward("an initialised lazy layer", plain=False)
def lazy() -> nn.Module:
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)).double()
    net(pictures(1))
    return net


@awkward("a parameter of a subclass")
def subclassed() -> nn.Module:
    class Own(nn.Parameter):
        pass

    net = conv_net()
    net.head.bias = Own(net.head.bias.detach().clone())
    return net


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * 2


@awkward("a function with a derivative of its own")
class OwnDerivative(Around):
    def forward(self, x: Tensor) -> Any:
        scaled: Any = Scaled.apply(x)
        return self.net(scaled / 2)
