"""Rows that differ from one picture inside a box: a tensor that stores the picture's activation once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...rules.audit import tensors
from ...rules.names import canonical, words
from .boxes import Boxes


class Picture:
    """The operators' results for the picture itself, computed once and cached from pass to pass.

    The key is the operator with the identity of its tensors and its settings, so a model that takes another path in
    another pass never gets the wrong activation. An entry that a pass did not use is dropped at the end of the next.
    `whole_from` names the operators at which whole rows had to be made.
    """

    def __init__(self) -> None:
        self._last: dict[Any, tuple[Any, Tensor]] = {}
        self._now: dict[Any, tuple[Any, Tensor]] = {}
        self.whole_from: dict[str, None] = {}

    def next_pass(self) -> None:
        self._last, self._now = self._now, {}

    def run(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Return `func(*args, **kwargs)` of plain tensors, from the cache where it is there. `func` must be pure."""
        key = (func, _key(args), _key(tuple(kwargs.items())))
        entry = self._now.get(key) or self._last.get(key)
        if entry is None:
            entry = ((args, kwargs), func(*args, **kwargs))
        # The arguments are kept beside the result: while they live, no other tensor gets their ids.
        self._now[key] = entry
        return entry[1]


def _key(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (Tensor, id(value), value._version)
    if isinstance(value, tuple | list):
        return tuple(map(_key, value))
    return (type(value), value if isinstance(value, Hashable) else object())  # object() equals no other key


class Patched(Tensor):
    """Rows `(rows, channels, H, W)`: row n is `base` `(1, channels, H, W)` with `patch[n]` in box n of `boxes`.

    Every operator of torch arrives at `__torch_function__`. The operators in `OPERATORS` work on base and patch; for
    any other, whole rows are made and the model continues with them. From then on this tensor represents those rows,
    so views and in-place writes behave as usual. Calls below that level (TorchScript, extensions) arrive at
    `__torch_dispatch__` and also get whole rows. So nothing is approximated.
    """

    base: Tensor
    patch: Tensor
    boxes: Boxes
    picture: Picture
    rows: Tensor | None

    @staticmethod
    def __new__(cls, base: Tensor, patch: Tensor, boxes: Boxes, picture: Picture) -> Patched:
        shape = (len(patch), *base.shape[1:])
        made: Patched = Tensor._make_wrapper_subclass(cls, shape, dtype=base.dtype, device=base.device)
        made.base, made.patch, made.boxes, made.picture, made.rows = base, patch, boxes, picture, None
        return made

    def become(self, other: Tensor) -> Patched:
        """Take the values of other rows of the same shape, as after an in-place operator."""
        if isinstance(other, Patched):
            self.base, self.patch, self.boxes = other.base, other.patch, other.boxes
        else:
            self.rows = other
        return self

    def whole(self) -> Tensor:
        """Return the rows themselves, made once."""
        if self.rows is None:
            self.rows = self.boxes.whole(self.base, self.patch)
        return self.rows

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name, writes = canonical(func)
        patched = [each for each in found((args, kwargs)) if each.rows is None]
        if patched and name in METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        operator = OPERATORS.get(name) if patched and kwargs.get("out") is None else None
        in_place = writes or bool(kwargs.get("inplace"))
        target = args[0] if in_place and args else None
        if operator is not None and (not in_place or isinstance(target, Patched)):
            settings = {key: value for key, value in kwargs.items() if key != "inplace"}
            result = operator(_pure(func) if writes else func, args, settings)
            if result is not None:
                return result if target is None or result is target else target.become(result)
        for each in patched:
            each.picture.whole_from[name] = None
        return func(*in_full(args), **in_full(kwargs))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for each in found((args, kwargs)):
            if each.rows is None:
                each.picture.whole_from[canonical(func)[0]] = None
        return func(*in_full(args), **in_full(kwargs or {}))


Operator = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Tensor | None]
OPERATORS: dict[str, Operator] = {}
"""Operators on a base and a patch, by canonical name. They return None for arguments that need whole rows."""

METADATA = words("""
    shape size dim ndim ndimension dtype device is_cuda requires_grad numel nelement len is_floating_point is_complex
    layout is_sparse is_quantized is_leaf grad_fn is_mkldnn is_nested is_meta element_size itemsize
""")


@cache
def _pure(func: Callable[..., Any]) -> Callable[..., Any]:
    """Make an operator that writes into its first operand write into a copy of it."""
    return lambda first, *rest, **settings: func(first.clone(), *rest, **settings)


def found(value: Any) -> Iterator[Patched]:
    """Yield the patched tensors among arguments."""
    return (each for each in tensors(value) if isinstance(each, Patched))


def in_full(value: Any) -> Any:
    """Return the arguments with whole rows for every patched tensor."""
    return tree_map(lambda each: each.whole() if isinstance(each, Patched) else each, value)


def joined(base: Tensor, patch: Tensor, boxes: Boxes, picture: Picture) -> Tensor:
    """Make a patched tensor; plain rows where the boxes are the whole map."""
    return patch if patch.shape[2:] == base.shape[2:] else Patched(base, patch, boxes, picture)
