"""What `copy.deepcopy` gets wrong in a model: functions that hold its modules, and plain tensors with gradients.

deepcopy takes a function for a constant, so that a hook or an instance's own `forward` would go on with the original
modules and containers that its closure holds. It refuses tensors that a computation made, and keeps `requires_grad`,
with which a constant of the model would count as an activation.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from ..base.functions import closure, held, is_gone, named_globals


def rebind(modules: Iterable[nn.Module], memo: dict[int, Any]) -> list[str]:
    """Enter into `memo`, for `copy.deepcopy`, the functions and tensors in the attributes of `modules`.

    A function that reaches a module, or a container or object in a module's attributes, through its closure, defaults,
    globals, partials or bound methods, is built anew over their copies; their names are returned. A tensor that is no
    parameter or buffer is cloned without its gradient.
    """
    modules = list(modules)
    before = set(memo)
    attributes = [value for module in modules for value in vars(module).values()]
    found = list(_parts(attributes, set()))
    own = before | {id(each) for module in modules for each in module.modules()} | set(_copied(attributes, set()))
    for each in found:
        if is_gone(each):
            memo[id(each)] = each  # else deepcopy asks for its class
        elif isinstance(each, Tensor) and id(each) not in memo:
            plain = each.detach()
            memo[id(each)] = nn.Parameter(plain, False) if isinstance(each, nn.Parameter) else plain.clone()
    functions = [each for each in found if type(each) is types.FunctionType]
    for each in functions:
        _rebound(each, own, memo)
    return [each.__qualname__ for each in functions if id(each) in memo]


def _rebound(function: types.FunctionType, own: set[int], memo: dict[int, Any]) -> None:
    if id(function) in memo or not _reaches(function, own, set()):
        return
    cells = {name: types.CellType() for name in function.__code__.co_freevars}
    names = {name: each for name, each in named_globals(function).items() if _reaches(each, own, set())}
    variables = {**function.__globals__} if names else function.__globals__
    new = types.FunctionType(function.__code__, variables, function.__name__, None, tuple(cells.values()))
    new.__dict__.update(function.__dict__)
    memo[id(function)] = new  # before its parts are copied, since they may hold the function
    for inner in _parts(list(held(function).values()), set()):
        if type(inner) is types.FunctionType:
            _rebound(inner, own, memo)

    def copied(value: Any) -> Any:
        return copy.deepcopy(value, memo) if id(value) in memo or _reaches(value, own, set()) else value

    for name, value in closure(function):
        cells[name].cell_contents = copied(value)
    for name, value in names.items():
        variables[name] = copied(value)
    if function.__defaults__:
        new.__defaults__ = tuple(map(copied, function.__defaults__))
    if function.__kwdefaults__:
        new.__kwdefaults__ = {name: copied(value) for name, value in function.__kwdefaults__.items()}


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield the functions, tensors and weak proxies of nothing that a value holds, itself included."""
    if is_gone(value):
        yield value
        return
    if id(value) in seen or isinstance(value, nn.Module):
        return
    seen.add(id(value))
    if isinstance(value, types.FunctionType | Tensor):
        yield value
    for each in held(value).values():
        yield from _parts(each, seen)


def _copied(values: Iterable[Any], seen: set[int]) -> Iterator[int]:
    """Yield the identities of the containers and objects in attributes, which deepcopy copies."""
    for value in values:
        if id(value) in seen or is_gone(value):
            continue
        if isinstance(value, dict | list | set | tuple) or is_object(value):
            seen.add(id(value))
            if not isinstance(value, tuple):
                yield id(value)
            yield from _copied(held(value).values(), seen)


def is_object(value: Any) -> bool:
    """Whether a value is an object of an ordinary class, with attributes."""
    others = (type, types.ModuleType, types.FunctionType, types.MethodType, nn.Module, Tensor)
    return not (is_gone(value) or isinstance(value, others)) and isinstance(getattr(value, "__dict__", None), dict)


def _reaches(value: Any, own: set[int], seen: set[int]) -> bool:
    """Whether a value is or holds something of the model: a module, or a container or object in its attributes.

    What a function alone holds, such as a list that a hook fills for its user, is shared with the copy.
    """
    if id(value) in seen:
        return False
    seen.add(id(value))
    if id(value) in own:
        return True
    parts = list(held(value).values())
    if not parts and is_object(value):
        parts = [each for each in vars(value).values() if id(each) in own]
    return any(_reaches(each, own, seen) for each in parts)
