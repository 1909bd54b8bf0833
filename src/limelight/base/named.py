"""What has a name and settings: how it is named, checked, read from text and written as text.

Methods, checks, targets, baselines, quadratures, players and imputers are `Named`, and each family has a `Registry`.
A text such as `"margin(281, other=285)"` or `"deletion(fill=blur(3))"` means the same in Python, on the command line,
on the page and in a run.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np
from torch import Tensor

MOST_NUMBERS = 64  # of a tensor that is written as text


class Named:
    """Base of frozen dataclasses that users name: their fields are the settings."""

    @classmethod
    def kebab(cls) -> str:
        """The name as typed: `IntegratedGradients` is `integrated-gradients`, `SRG` is `srg`."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", cls.__name__).lower()

    @classmethod
    def usage(cls) -> str:
        """The name with every setting and its default as typed: `"margin(index=None, other=None)"`."""
        settings = [_usage(each) for each in _settings(cls)]
        return cls.kebab() + (f"({', '.join(settings)})" if settings else "")

    @classmethod
    def has_defaults(cls) -> bool:
        """Whether the name alone can be read: every setting has a default."""
        return all(_default(each) is not dataclasses.MISSING for each in _settings(cls))

    def as_text(self) -> str:
        """The text that reads back as this value: the name and the settings that differ from their defaults.

        Raises ValueError for settings that text cannot hold: functions, and tensors of more than 64 numbers.
        """
        return text_of(self)


T = TypeVar("T", bound=Named)
_REGISTRIES: list[Registry[Any]] = []


class Registry(Sequence[type[T]], Generic[T]):
    """The classes of one family, in order. Whoever lists a class here has it read, saved, tested and offered.

    `argument` begins every error, `base` is the family's base class, `example` a text that can be read.
    """

    def __init__(self, argument: str, base: Any, kinds: Iterable[type[T]], example: str) -> None:
        self.argument, self.base, self.example = argument, base, example
        self._kinds = tuple(kinds)
        _REGISTRIES.append(self)

    @overload
    def __getitem__(self, place: int) -> type[T]: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[type[T], ...]: ...
    def __getitem__(self, place: int | slice) -> type[T] | tuple[type[T], ...]:
        return self._kinds[place]

    def __len__(self) -> int:
        return len(self._kinds)

    def __repr__(self) -> str:
        return f"Registry({self.argument}: {', '.join(self.names)})"

    @property
    def names(self) -> tuple[str, ...]:
        """The names as typed."""
        return tuple(kind.kebab() for kind in self)

    def read(self, text: str) -> T:
        """Read one of the family from text; nothing is evaluated.

        Names are in kebab-case or as the class is written. Settings are numbers, quoted strings, lists, None, True,
        False, or any named thing with its own settings. Raises ValueError that gives the nearest names.
        """
        found = _Reader(text, self).value()
        if not self._has(found):
            given = f"{text!r} is a {type(found).__name__}, not a {self._noun()}"
            raise ValueError(f"{self.argument}: {given}; write for example {self.example!r}")
        member: T = found
        return member

    def coerce(self, value: Any) -> T:
        """A member of the family as a user may give it: itself, its class, or its text.

        Raises TypeError for anything else.
        """
        if self._has(value):
            member: T = value
            return member
        if isinstance(value, str):
            return self.read(value)
        if isinstance(value, type) and issubclass(value, self.base):
            return self.coerce(value())
        raise TypeError(f"{self.argument}: {value!r} is not a {self._noun()}; use for example {self.example!r}")

    def _noun(self) -> str:
        return str(self.base.__name__).lower()

    def _has(self, value: object) -> bool:
        return isinstance(value, self.base)


def registered(name: str) -> type[Named] | None:
    """The registered class of that name, as written in Python; None if there is none."""
    return next((kind for kind in _every_kind() if kind.__name__ == name), None)


def read_value(text: str) -> Any:
    """Read a setting's value: a number, True, False, None, a list, a named thing, or else the text itself."""
    try:
        return _Reader(text, None).value()
    except ValueError:
        return text.strip()


def split_texts(text: str) -> list[str]:
    """Split at the commas outside brackets and quotes: `"gradient, lrp('epsilon')"` holds two texts."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([":
            depth += 1
        elif letter in ")]":
            depth -= 1
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def text_of(value: Any) -> str:
    """Write a value so that it can be read back: see `Named.as_text`."""
    match value:
        case None | bool() | int() | str():
            return repr(value)
        case float() if math.isfinite(value):
            return repr(value)
        case tuple() | list():
            return f"[{', '.join(map(text_of, value))}]"
        case Tensor() if value.numel() <= MOST_NUMBERS:
            return text_of(value.tolist())
        case Named():
            settings = []
            for place, each in enumerate(_settings(type(value))):
                setting = getattr(value, each.name)
                if not _is_default(setting, each):
                    settings.append(f"{each.name}=" * (place > 0 or bool(each.kw_only)) + text_of(setting))
            return value.kebab() + (f"({', '.join(settings)})" if settings else "")
    raise ValueError(f"{type(value).__name__}: {value!r} cannot be written as text; give it in Python")


def require(condition: bool, thing: object, field: str, wanted: str) -> None:
    """Raise ValueError that names a setting, its value and what would have worked."""
    if not condition:
        raise ValueError(f"{type(thing).__name__}.{field}={getattr(thing, field)!r}: use {wanted}")


def is_whole(value: Any, least: int) -> bool:
    """Whether a setting is a whole number of `least` or more."""
    return isinstance(value, int | np.integer) and bool(value >= least)


def is_finite(value: Any) -> bool:
    """Whether a setting is a number, neither NaN nor infinite."""
    return isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value)


def require_whole(thing: object, field: str, least: int) -> None:
    """`require` that the setting is a whole number of `least` or more."""
    require(is_whole(getattr(thing, field), least), thing, field, f"a whole number of {least} or more")


def require_number(thing: object, field: str, fits: Callable[[float], bool], wanted: str) -> None:
    """`require` that the setting is a finite number that fits."""
    value = getattr(thing, field)
    require(is_finite(value) and fits(value), thing, field, wanted)


def require_tolerance(thing: object) -> None:
    """`require` that the setting `tolerance` is a positive number or None."""
    if vars(thing)["tolerance"] is not None:
        require_number(thing, "tolerance", lambda value: value > 0, "a positive number or None")


def _settings(kind: type[Named]) -> list[dataclasses.Field[Any]]:
    """The fields that are settings, in the order in which they are given: those given by name alone come last."""
    assert dataclasses.is_dataclass(kind)
    return sorted((each for each in dataclasses.fields(kind) if each.init), key=lambda each: bool(each.kw_only))


def _default(field: dataclasses.Field[Any]) -> Any:
    """The default of a field, or MISSING."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _usage(field: dataclasses.Field[Any]) -> str:
    default = _default(field)
    return field.name if default is dataclasses.MISSING else f"{field.name}={text_of(default)}"


def _is_default(setting: Any, field: dataclasses.Field[Any]) -> bool:
    default = _default(field)
    return type(setting) is type(default) and not isinstance(setting, Tensor) and bool(setting == default)


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()


def _every_kind() -> Iterator[type[Named]]:
    return (kind for registry in _REGISTRIES for kind in registry)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads one text; `registry` is the family that the name at its front belongs to, None for any value."""

    text: str
    registry: Registry[Any] | None

    def value(self) -> Any:
        # Names in kebab-case become Python's outside quotes.
        pattern = r"'[^']*'|\"[^\"]*\"|(?<=\w)-(?=[A-Za-z])"
        written = re.sub(pattern, lambda found: "_" if found[0] == "-" else found[0], self.text.strip())
        try:
            return self._built(ast.parse(written, mode="eval").body, first=True)
        except (SyntaxError, RecursionError, MemoryError) as error:
            deep = " (it is nested too deeply)" if not isinstance(error, SyntaxError) else ""
            raise self._refusal(f"cannot read {self.text!r}{deep}; {self._example()}") from error

    def _built(self, node: ast.expr, first: bool = False) -> Any:
        match node:
            case ast.Name(id=name):
                return self._made(self._kind(name, first), [], {})
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
                settings = {each.arg: self._built(each.value) for each in keywords if each.arg}
                return self._made(self._kind(name, first), [self._built(each) for each in args], settings)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                return tuple(self._built(each) for each in elements)
        try:
            return ast.literal_eval(node)
        except ValueError as error:
            raise self._refusal(f"cannot read {ast.unparse(node)!r} in {self.text!r}; {self._example()}") from error

    def _kind(self, name: str, first: bool) -> type[Named]:
        kinds = tuple(_every_kind())
        found = next((kind for kind in kinds if _plain(kind.kebab()) == _plain(name)), None)
        if found is None:
            known = self.registry.names if self.registry and first else tuple(kind.kebab() for kind in kinds)
            raise self._refusal(_unknown(name, known) + ("" if first else "; a text goes in quotes"))
        return found

    def _made(self, kind: type[Named], values: list[Any], settings: dict[str, Any]) -> Named:
        try:
            return kind(*values, **settings)
        except TypeError as error:
            names = ", ".join(each.name for each in _settings(kind)) or "none"
            reason = f"cannot read {self.text!r} ({error}); settings of {kind.kebab()}: {names}"
            raise self._refusal(reason) from error

    def _refusal(self, reason: str) -> ValueError:
        return ValueError(f"{self.registry.argument}: {reason}" if self.registry else reason)

    def _example(self) -> str:
        return f"write for example {self.registry.example if self.registry else 'blur(5)'!r}"


def _unknown(name: str, known: Sequence[str]) -> str:
    typed = name.strip().replace("_", "-")
    near = difflib.get_close_matches(typed.lower(), known, n=3, cutoff=0.4)
    return f"{typed!r} is unknown; " + (f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}")
