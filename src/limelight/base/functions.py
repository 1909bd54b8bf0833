"""What a callable holds: closures, defaults, the globals that it names, and the parts of partials and bound methods."""

from __future__ import annotations

import dis
import functools
import types
import weakref
from collections.abc import Iterator
from typing import Any

from torch import nn

_GLOBALS = frozenset(("LOAD_GLOBAL", "LOAD_NAME"))
_WORTH = (nn.Module, types.FunctionType, types.MethodType, functools.partial)


def is_gone(value: Any) -> bool:
    """Whether this is a weak proxy whose object is no more; each other question to it raises ReferenceError."""
    if type(value) in weakref.ProxyTypes:
        try:
            hash(value.__class__)
        except ReferenceError:
            return True
    return False


def held(value: Any) -> dict[str, Any]:
    """Return by name what a container, function, partial or bound method holds; nothing for other values."""
    if is_gone(value):
        return {}
    match value:
        case dict():
            return {str(name): each for name, each in value.items()}
        case list() | set() | tuple():
            return {str(place): each for place, each in enumerate(value)}
        case types.FunctionType():
            found = dict(closure(value)) | named_globals(value)
            positional = value.__code__.co_varnames[: value.__code__.co_argcount]
            defaults = value.__defaults__ or ()
            return (
                found
                | dict(zip(positional[len(positional) - len(defaults) :], defaults, strict=True))
                | (value.__kwdefaults__ or {})
            )
        case types.MethodType():
            return {type(value.__self__).__name__.lower(): value.__self__, "function": value.__func__}
        case functools.partial():
            return {"function": value.func} | {str(k): each for k, each in enumerate(value.args)} | value.keywords
    return {}


def closure(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the variables of a function's closure that have a value."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # no value yet
            continue


def named_globals(function: types.FunctionType) -> dict[str, Any]:
    """Return the modules and functions among the globals that a function names, functions only of its own file."""
    found = {}
    for name in dict.fromkeys(_names(function.__code__)):
        value = function.__globals__.get(name)
        own = not isinstance(value, types.FunctionType) or value.__globals__ is function.__globals__
        if isinstance(value, _WORTH) and own and value is not function:
            found[name] = value
    return found


@functools.lru_cache(maxsize=4096)
def global_names(code: types.CodeType) -> tuple[str, ...]:
    """Return the names of globals that code reads; `co_names` has those of attributes too."""
    return tuple(dict.fromkeys(each.argval for each in dis.get_instructions(code) if each.opname in _GLOBALS))


def _names(code: types.CodeType) -> Iterator[str]:
    yield from global_names(code)
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _names(each)


def modules_in(function: Any) -> dict[str, nn.Module]:
    """Find the modules that a callable reaches, by the name of the variable or attribute that holds each.

    Modules inside another that is found are left out.
    """
    found: dict[str, nn.Module] = {}
    _find("model", function, found, set())
    inner = {id(part) for module in found.values() for part in list(module.modules())[1:]}
    return {name: module for name, module in found.items() if id(module) not in inner}


def _find(name: str, value: Any, found: dict[str, nn.Module], seen: set[int]) -> None:
    if id(value) in seen or is_gone(value):
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        name = name.replace(".", "_")
        found[name if name not in found else f"{name}_{len(found)}"] = value
        return
    parts = held(value)
    if not parts and not isinstance(value, type | types.ModuleType):
        attributes = getattr(value, "__dict__", None)
        parts = attributes if isinstance(attributes, dict) else {}
        worth = (*_WORTH, dict, list, tuple)
        parts = {key: each for key, each in parts.items() if not is_gone(each) and isinstance(each, worth)}
    for key, each in parts.items():
        _find(key if not key.isdigit() else f"{name}{key}", each, found, seen)
