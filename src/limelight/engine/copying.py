"""A copy of a model made from its module graph: new module objects over the same parameters."""

from __future__ import annotations

import copy
import copyreg
import enum
import types
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..base.functions import closure, held
from .rebinding import is_object, rebind

# What deepcopy raises for locks, file handles, generators, non-leaf tensors and the like.
REFUSALS = (TypeError, RuntimeError, NotImplementedError, AttributeError, ValueError, copy.Error)

_CONTAINERS = frozenset((dict, OrderedDict, set, list))
_CONSTANTS = frozenset((type(None), bool, int, float, str))
_TENSORS_AND_CHILDREN = ("_parameters", "_buffers", "_modules")
_MODULE_STATE = frozenset(vars(nn.Module()))
_IMMUTABLE = (torch.dtype, torch.device, torch.layout, torch.memory_format, enum.Enum, types.BuiltinFunctionType, type)
_ATOMS = (Tensor, nn.Module, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type, weakref.ref)


@dataclass
class Copied:
    """A copy, in eval mode and frozen.

    `pairs`: the model's modules, each with its copy. `doubts`: parts that were copied in a way that may not run as the
    original does, such as functions built anew; empty where every part is a constant, a tensor or a module.
    """

    module: nn.Module
    pairs: list[tuple[nn.Module, nn.Module]] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def copied(model: nn.Module) -> Copied:
    """Copy a model: new modules over the same parameter storage, without gradients, and over clones of the buffers.

    What has no copy, such as a lock, is shared. Raises one of `REFUSALS` where a class that defines its own copying
    refuses, and ValueError for a parameter that is not initialised.
    """
    modules = list(model.modules())
    memo: dict[int, Any] = {}
    others = []
    for module in reversed(modules):  # children before their parents
        _tensors(module, memo)
        plain = _plain_copy(module, memo)
        if plain is None:
            others.append(module)
        else:
            memo[id(module)] = plain
    doubts = _copy_others(others, memo) if others else []
    whole: nn.Module = memo[id(model)]
    if others:
        _freeze(whole, modules)
    if any(module.training for module in modules):
        whole.eval()
    return Copied(whole, [(module, memo[id(module)]) for module in modules], doubts)


def _freeze(whole: nn.Module, originals: Iterable[nn.Module]) -> None:
    """Freeze what a class that defines its own copying made. Raises copy.Error where it shared a module."""
    ids = {id(original) for original in originals}
    for module in whole.modules():
        if id(module) in ids:
            raise copy.Error(f"{type(module).__name__} gives itself as its copy")
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.requires_grad:
                module._parameters[name] = _frozen(parameter)


def foreign(modules: Iterable[nn.Module]) -> dict[str, nn.Module]:
    """Find the modules that the classes of these run without holding them: globals and closures of their methods."""
    modules = list(modules)
    own = {id(module) for module in modules}
    found = {}
    for kind in {type(module) for module in modules}:
        for function, names in _methods(kind):
            values = ((name, function.__globals__.get(name)) for name in names)
            for name, value in (*values, *closure(function)):
                if isinstance(value, nn.Module) and id(value) not in own:
                    found[f"{kind.__name__}.{function.__name__}: {name}"] = value
    return found


def _methods(kind: type) -> Iterator[tuple[types.FunctionType, tuple[str, ...]]]:
    """Yield the functions that a user's class of modules defines, each with the names of globals that it reads."""
    for base in kind.__mro__:
        if not base.__module__.startswith(("torch.", "builtins")):
            functions = (each for each in vars(base).values() if isinstance(each, types.FunctionType))
            yield from ((each, each.__code__.co_names) for each in functions)


def _tensors(module: nn.Module, memo: dict[int, Any]) -> None:
    """Enter the module's parameters, sharing their memory, and clones of its buffers."""
    for name, parameter in module._parameters.items():
        if parameter is not None and id(parameter) not in memo:
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise ValueError(
                    f"model: parameter {name!r} of a {type(module).__name__} is not initialised yet; "
                    "call the model once on an input first"
                )
            memo[id(parameter)] = _frozen(parameter)
    for buffer in module._buffers.values():
        if buffer is not None and id(buffer) not in memo:
            memo[id(buffer)] = buffer.detach().clone()


def _frozen(parameter: nn.Parameter) -> nn.Parameter:
    """Return a parameter over the same memory, without gradient and with a count of writes of its own."""
    data = parameter.detach().clone() if parameter.is_inference() else parameter.data  # autograd cannot save the former
    if type(parameter) is nn.Parameter:  # as the line below, in a third of its time
        made: nn.Parameter = torch.Tensor._make_subclass(nn.Parameter, data, False)
        return made
    return nn.Parameter(data, requires_grad=False)


def _plain_copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module | None:
    """Copy a module attribute by attribute; None where deepcopy might do otherwise.

    Every attribute must be a constant, a list, tuple or set of constants, an empty container (no hooks), or parameters,
    buffers and children that `memo` holds already.
    """
    if not _copies_by_state(type(module)):
        return None
    state = vars(module).copy()
    containers = {}
    for name, value in vars(module).items():
        kind = type(value)
        if kind in _CONSTANTS:
            continue
        if kind in _CONTAINERS and not value:
            state[name] = kind()
            if name not in _MODULE_STATE:
                containers[id(value)] = state[name]
        elif name in _TENSORS_AND_CHILDREN:
            try:
                state[name] = {key: each if each is None else memo[id(each)] for key, each in value.items()}
            except KeyError:
                return None
        elif kind in (list, set) and _all_constant(value):
            containers[id(value)] = state[name] = kind(value)
        elif not _is_constant(value):
            return None
    memo.update(containers)  # a hook of another module may hold one of them
    plain = object.__new__(type(module))
    plain.__dict__ = state
    return plain


def _copy_others(modules: list[nn.Module], memo: dict[int, Any]) -> list[str]:
    """Copy the modules that are not plain, children before their parents; return what may not run as before."""
    for module in _hidden(modules, memo):
        _tensors(module, memo)
        modules.append(module)
    shells = {id(module): object.__new__(type(module)) for module in modules if _copies_by_state(type(module))}
    memo.update(shells)  # before anything is copied, since an attribute may hold any module
    doubts = [f"the function {name}" for name in rebind(modules, memo)]
    seen: set[int] = set()
    for module in modules:
        if id(module) not in shells:
            doubts += [] if isinstance(module, torch.jit.ScriptModule) else [type(module).__name__]
            continue
        for name, value in vars(module).items():
            for part in _parts(value, seen):
                if isinstance(part, weakref.ref):
                    referent = memo.get(id(part()))
                    if referent is not None:
                        memo[id(part)] = weakref.ref(referent)
                elif not isinstance(part, _ATOMS) and not _is_shared(part, memo):
                    doubts.append(f"{type(module).__name__}.{name}")
    for module in modules:
        if id(module) in shells:
            shells[id(module)].__dict__ = {name: copy.deepcopy(value, memo) for name, value in vars(module).items()}
        else:
            memo[id(module)] = copy.deepcopy(module, memo)
    return doubts


def _hidden(modules: Iterable[nn.Module], memo: dict[int, Any]) -> list[nn.Module]:
    """List the modules that stand in lists and dictionaries of the model without being registered."""
    known = {id(module) for module in modules} | set(memo)
    seen: set[int] = set()
    found: dict[int, nn.Module] = {}
    for module in modules:
        for name, value in vars(module).items():
            if name not in _TENSORS_AND_CHILDREN and isinstance(value, dict | list | tuple | set):
                for part in _parts(value, seen):
                    inner = part.modules() if isinstance(part, nn.Module) else ()
                    found.update((id(each), each) for each in inner if id(each) not in known)
    return list(found.values())[::-1]


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield what an attribute holds through containers, partials and objects' attributes, the innermost first.

    Constants and containers are left out; functions and modules are not looked into.
    """
    if id(value) in seen or _is_constant(value):
        return
    seen.add(id(value))
    inside = () if isinstance(value, _ATOMS) else held(value).values()
    if is_object(value):
        inside = (*inside, *vars(value).values())
    for each in inside:
        yield from _parts(each, seen)
    if not isinstance(value, dict | list | tuple | set):
        yield value


def _is_shared(part: Any, memo: dict[int, Any]) -> bool:
    """Whether a copy shares this value, because it is constant, or refuses to be copied like a lock or an open file."""
    try:
        return copy.deepcopy(part, dict(memo)) is part
    except REFUSALS:
        memo[id(part)] = part
        return True


def _copies_by_state(kind: type[nn.Module]) -> bool:
    """Whether deepcopy would only copy the attributes one by one."""
    return kind.__module__.startswith("torch.nn.modules.") or (
        not hasattr(kind, "__deepcopy__")
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind.__getstate__ is nn.Module.__getstate__
        and kind.__setstate__ is nn.Module.__setstate__
        and kind.__new__ is object.__new__
        and kind not in copyreg.dispatch_table
        and not any("__slots__" in vars(base) for base in kind.__mro__)
    )


def _all_constant(values: Iterable[object]) -> bool:
    return all(map(_is_constant, values))


def _is_constant(value: Any) -> bool:
    """Whether a value cannot change and holds no module: a number, text, dtype, a tuple or frozen record of these."""
    kind = type(value)
    if kind in _CONSTANTS:
        return True
    if issubclass(kind, tuple):
        return all(type(each) in _CONSTANTS for each in value) or _all_constant(value)
    if kind is types.FunctionType:
        return value.__module__.startswith("torch.") and not (value.__closure__ or value.__defaults__)
    if isinstance(value, _IMMUTABLE):
        return True
    record = getattr(kind, "__dataclass_params__", None)
    return record is not None and record.frozen and _all_constant(vars(value).values())
