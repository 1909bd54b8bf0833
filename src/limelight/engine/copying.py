"""A copy of a model made from its module graph: new module objects over the same parameters."""

from __future__ import annotations

import copy
import copyreg
import enum
import types
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..base.functions import closure, global_names, held, is_gone, modules_in
from .rebinding import is_object, rebind

# What deepcopy raises for locks, file handles, generators, non-leaf tensors and the like.
REFUSALS = (TypeError, RuntimeError, NotImplementedError, AttributeError, ValueError, copy.Error)

_CONTAINERS = frozenset((dict, OrderedDict, set, list))
CONSTANTS = frozenset((type(None), bool, int, float, str))
_TENSORS_AND_CHILDREN = ("_parameters", "_buffers", "_modules")
_MODULE_STATE = frozenset(vars(nn.Module()))
_IMMUTABLE = (torch.dtype, torch.device, torch.layout, torch.memory_format, enum.Enum, types.BuiltinFunctionType, type)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_PROGRAMS = (torch.jit.ScriptModule, torch.fx.GraphModule)  # data, which torch copies as such
_ATOMS = (Tensor, nn.Module, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type, weakref.ref)


@dataclass
class Copied:
    """A copy, in eval mode and frozen.

    `pairs`: the model's modules, each with its copy. `doubts`: parts that were copied in a way that may not run as the
    original does, such as functions built anew; empty where every part is a constant, a tensor or a module. `hidden`:
    the copies of modules that no module has as its child, such as those in a list.
    """

    module: nn.Module
    pairs: list[tuple[nn.Module, nn.Module]] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    hidden: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def copies(self) -> list[nn.Module]:
        """The modules of the copy."""
        return [copy for _, copy in self.pairs]


def copied(model: nn.Module, modules: Sequence[nn.Module] | None = None) -> Copied:
    """Copy a model: new modules over the same parameter storage, without gradients, and over clones of the buffers.

    What has no copy, such as a lock, is shared. Raises one of `REFUSALS` where a class that defines its own copying
    refuses, and ValueError for a parameter that is not initialised. `modules`: those of the model, if known.
    """
    modules = list(model.modules() if modules is None else modules)
    memo: dict[int, Any] = {}
    others: list[nn.Module] = []
    kinds: dict[type, bool] = {}
    for module in reversed(modules):  # children before their parents
        _tensors(module, memo)
        plain = _plain_copy(module, memo, kinds)
        if plain is None:
            others.append(module)
        else:
            memo[id(module)] = plain
    doubts, hidden = _copy_others(others, memo) if others else ([], {})
    modules += [each for root in hidden.values() for each in root.modules()]
    copies = {name: memo[id(root)] for name, root in hidden.items()}
    whole: nn.Module = memo[id(model)]
    for part in (whole, *copies.values()) if others else ():
        _freeze(part, modules)
    if any(map(trains, modules)):
        for part in (whole, *copies.values()):
            part.eval()
    return Copied(whole, [(module, memo[id(module)]) for module in modules], doubts, copies)


def trains(module: nn.Module) -> bool:
    """Whether a module is in training mode."""
    return getattr(module, "training", False)  # frozen TorchScript has no mode


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
            yield from ((each, global_names(each.__code__)) for each in functions)


def _tensors(module: nn.Module, memo: dict[int, Any]) -> None:
    """Enter the module's parameters, sharing their memory, and clones of its buffers."""
    for name, parameter in module._parameters.items():
        if parameter is not None and id(parameter) not in memo:
            memo[id(parameter)] = _frozen(_initialised(module, name, parameter))
    for name, buffer in module._buffers.items():
        if buffer is not None and id(buffer) not in memo:
            memo[id(buffer)] = _initialised(module, name, buffer).detach().clone()


def _initialised(module: nn.Module, name: str, tensor: Any) -> Any:
    if nn.parameter.is_lazy(tensor):
        raise ValueError(
            f"model: parameter {name!r} of a {type(module).__name__} is not initialised yet; "
            "call the model once on an input first"
        )
    return tensor


def _frozen(parameter: nn.Parameter) -> nn.Parameter:
    """Return a parameter over the same memory, without gradient and with a count of writes of its own."""
    data = parameter.detach().clone() if parameter.is_inference() else parameter.data  # autograd cannot save the former
    if type(parameter) is nn.Parameter:  # as the line below, in a third of its time
        made: nn.Parameter = torch.Tensor._make_subclass(nn.Parameter, data, False)
        return made
    return nn.Parameter(data, requires_grad=False)


def _plain_copy(module: nn.Module, memo: dict[int, Any], kinds: dict[type, bool]) -> nn.Module | None:
    """Copy a module attribute by attribute; None where deepcopy might do otherwise.

    Every attribute must be a constant, a list, tuple or set of constants, an empty container (no hooks), or parameters,
    buffers and children that `memo` holds already. `kinds`: the classes seen so far, and whether they are plain.
    """
    kind = type(module)
    if kind not in kinds:
        kinds[kind] = _copies_by_state(kind) and not any(_slots(kind))
    if not kinds[kind]:
        return None
    state = vars(module).copy()
    containers = {}
    for name, value in vars(module).items():
        kind = type(value)
        if kind in CONSTANTS:
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
    plain: nn.Module = object.__new__(type(module))
    object.__setattr__(plain, "__dict__", state)  # past nn.Module's own, which takes longer than all of the above
    return plain


def _copy_others(modules: list[nn.Module], memo: dict[int, Any]) -> tuple[list[str], dict[str, nn.Module]]:
    """Copy the modules that are not plain, children before their parents.

    Returns what may not run as before, and the modules that no module has as its child.
    """
    hidden = hidden_modules(modules, memo)
    for root in hidden.values():
        for module in list(root.modules())[::-1]:
            _tensors(module, memo)
            modules.append(module)
    shells = {id(module): object.__new__(type(module)) for module in modules if _copies_by_state(type(module))}
    memo.update(shells)  # before anything is copied, since an attribute may hold any module
    looked: set[int] = set()
    parts = [part for module in modules for value in _state(module).values() for part in _parts(value, looked)]
    memo.update((id(part), part) for part in parts if is_gone(part))  # else deepcopy asks for its class
    doubts = [f"the function {name}" for name in rebind(modules, memo)]
    seen: set[int] = set()
    for module in modules:
        if id(module) not in shells:
            doubts += [] if isinstance(module, _PROGRAMS) else [type(module).__name__]
            continue
        for name, value in vars(module).items():
            for part in _parts(value, seen):
                if is_gone(part):
                    continue
                if isinstance(part, weakref.ref):
                    referent = memo.get(id(part()))
                    if referent is not None:
                        memo[id(part)] = weakref.ref(referent)
                elif type(part) in weakref.ProxyTypes:
                    referent = memo.get(id(_proxied(part))) if isinstance(part, nn.Module) else None
                    memo[id(part)] = part if referent is None else weakref.proxy(referent)
                elif not isinstance(part, _ATOMS) and not _is_shared(part, memo):
                    doubts.append(f"{type(module).__name__}.{name}")
    for module in modules:
        if id(module) in shells:
            state = {name: copy.deepcopy(value, memo) for name, value in vars(module).items()}
            object.__setattr__(shells[id(module)], "__dict__", state)
            for name in _slots(type(module)):
                if hasattr(module, name):
                    object.__setattr__(shells[id(module)], name, copy.deepcopy(getattr(module, name), memo))
        else:
            memo[id(module)] = made = copy.deepcopy(module, memo)
            for name in _HOOKS:  # which a graph's own copying leaves behind, as it should those that torch.export sets
                hooks = getattr(module, name, None) or {}
                users = {k: each for k, each in hooks.items() if not str(each.__module__).startswith("torch.")}
                if users and not getattr(made, name):
                    getattr(made, name).update(copy.deepcopy(users, memo))
                    getattr(made, f"{name}_with_kwargs").update(getattr(module, f"{name}_with_kwargs"))
    return doubts, hidden


def hidden_modules(modules: Iterable[nn.Module], known: Iterable[int] = ()) -> dict[str, nn.Module]:
    """Find the modules that no module has as its child: those in containers and closures, by attribute or variable.

    Those with an identity in `known` are left out.
    """
    modules = list(modules)
    known = {id(module) for module in modules} | set(known)
    seen: set[int] = set()
    found: dict[str, nn.Module] = {}
    for module in modules:
        for attribute, value in _state(module).items():
            if attribute in _TENSORS_AND_CHILDREN or is_gone(value) or isinstance(value, nn.Module):
                continue
            for part in _parts(value, seen):
                if is_gone(part):
                    continue
                inside = {attribute: part} if isinstance(part, nn.Module) else {}
                if isinstance(part, types.FunctionType):
                    inside = modules_in(part)
                for name, each in inside.items():
                    each = _proxied(each)
                    if id(each) not in known:
                        known |= {id(inner) for inner in each.modules()}
                        found[name if name not in found else f"{name}_{len(found)}"] = each
    return found


def _proxied(module: nn.Module) -> nn.Module:
    """Return the module, or that of a weak proxy, which passes for one."""
    found: nn.Module = module.modules.__self__  # type: ignore[attr-defined]
    return found


def _state(module: nn.Module) -> dict[str, Any]:
    """Return the attributes that a copy gets: a class may leave some out, such as the trainer it is attached to."""
    kind = type(module)
    if kind.__getstate__ in (object.__getstate__, nn.Module.__getstate__) or hasattr(kind, "__deepcopy__"):
        return vars(module)
    state = module.__getstate__()
    return state if isinstance(state, dict) else vars(module)


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield what an attribute holds through containers, partials and objects' attributes, the innermost first.

    Constants and containers are left out; functions and modules are not looked into.
    """
    if id(value) in seen or _is_constant(value):
        return
    seen.add(id(value))
    if is_gone(value):
        yield value
        return
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
    )


def _slots(kind: type) -> Iterator[str]:
    """Yield the names of attributes that a class keeps outside its dictionary."""
    for base in kind.__mro__:
        names = vars(base).get("__slots__", ())
        yield from ((names,) if isinstance(names, str) else names)


def _all_constant(values: Iterable[object]) -> bool:
    return all(map(_is_constant, values))


def _is_constant(value: Any) -> bool:
    """Whether a value cannot change and holds no module: a number, text, dtype, a tuple or frozen record of these."""
    kind = type(value)
    if kind in CONSTANTS:
        return True
    if issubclass(kind, tuple):
        return all(type(each) in CONSTANTS for each in value) or _all_constant(value)
    if kind in weakref.ProxyTypes:
        return False
    if kind is types.FunctionType:
        return str(value.__module__).startswith("torch.") and not (value.__closure__ or value.__defaults__)
    if isinstance(value, _IMMUTABLE):
        return True
    record = getattr(kind, "__dataclass_params__", None)
    attributes = getattr(value, "__dict__", None)
    return record is not None and record.frozen and attributes is not None and _all_constant(attributes.values())
