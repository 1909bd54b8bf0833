"""Named values with settings: their names, checks, reading and writing as text.

Methods, checks, targets, baselines, quadratures, players and imputers are `Named`, and each family has a `Registry`.
Python, the command line, the page and runs read the same text, such as `"margin(281, other=285)"`.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from .nearest import nearest_names, plain
from .plain_text import plain_sentence
from .requirements import (
    MOST_NUMBERS,
    brief,
    is_finite as is_finite,
    is_whole as is_whole,
    require as require,
    require_finite,
    require_number as require_number,
    require_sizes,
    require_steadiness as require_steadiness,
    require_tolerance as require_tolerance,
    require_whole as require_whole,
    shown,
)

_CONSTANTS = {"true": True, "false": False, "none": None}  # also as other languages write them
LATER = {"later": True}
"""Metadata of a setting that was added to a class later. At its default it is left out of what a run keeps of its
settings, so that a run that was begun before can be gone on with."""


class Named:
    """Base of frozen dataclasses that users name; their fields are the settings."""

    other_names: ClassVar[Mapping[str, str]] = {}
    """What other libraries call a setting, and its name here, for the error that such a name gets."""

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Raise TypeError for a setting that does not exist, with the name of the nearest one that does."""
        made = vars(cls).get("__dataclass_params__")
        known = set(inspect.signature(cls.__init__).parameters) if made and made.init else set(settings)
        for name in settings:
            if name not in known:
                near = [cls.other_names[name]] if name in cls.other_names else difflib.get_close_matches(name, known, 1)
                named = ", ".join(each.name for each in _settings(cls)) or "none"
                use = f"use {near[0]}" if near else f"its settings: {named}"
                raise TypeError(f"{cls.__name__}: there is no setting {name!r}; {use}")
        require_sizes(cls, dict(zip((each.name for each in _settings(cls)), args, strict=False)) | settings)
        return super().__new__(cls)

    when_none: ClassVar[Mapping[str, Any]] = {}
    """Values with settings of their own that None stands for, by setting, so that a sweep can vary these."""

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if "__repr__" not in vars(cls):  # a dataclass leaves it then
            cls.__repr__ = Named.__repr__  # type: ignore[method-assign]
        own = vars(cls).get("__post_init__")
        if own is not None:

            @functools.wraps(own)
            def checked(self: Self, *initial: Any) -> None:
                own(self, *initial)
                if type(self).__post_init__ is checked:  # after the checks of all its classes, which say more
                    Named.__post_init__(self)

            cls.__post_init__ = checked  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Raise ValueError for a number that is not finite, which a class's own checks did not ask about."""
        require_finite(self, (each.name for each in _settings(type(self))))

    def __repr__(self) -> str:
        """Return the dataclass's repr, in which a tensor of more than 64 numbers is its size."""
        fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        held = [each.name for each in fields if each.repr]
        return f"{type(self).__qualname__}({', '.join(f'{name}={brief(getattr(self, name))}' for name in held)})"

    @property
    def without_effect(self) -> Mapping[str, Any]:
        """Settings that have no effect beside the others, as a run that was begun before wrote them."""
        return {}

    @classmethod
    def kebab(cls) -> str:
        """Return the name as typed: `integrated-gradients` for `IntegratedGradients`, `srg` for `SRG`."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", cls.__name__).lower()

    @classmethod
    def usage(cls) -> str:
        """The name with every setting and its default as typed: `"margin(index=None, other=None)"`."""
        settings = [_usage(each) for each in _settings(cls)]
        return cls.kebab() + (f"({', '.join(settings)})" if settings else "")

    @classmethod
    def plain_summary(cls) -> str:
        """The first sentence of the documentation as plain text, without formulas of more than a symbol and keys."""
        return plain_sentence(inspect.getdoc(cls) or "")

    @classmethod
    def has_defaults(cls) -> bool:
        """Whether the name alone can be read: every setting has a default."""
        return all(_default(each) is not dataclasses.MISSING for each in _settings(cls))

    def as_text(self) -> str:
        """Return text from which the value can be read: the name and the settings that differ from their defaults.

        Raises ValueError for functions, and for tensors of more than 64 numbers.
        """
        return text_of(self)


T = TypeVar("T", bound=Named)
_REGISTRIES: list[Registry[Any]] = []


class Registry(tuple[type[T], ...]):
    """The classes of one family, in order. Every class listed is read, saved, tested and offered to users.

    `argument` begins every error, `base` is the family's base class, and `example` a readable text. `elsewhere`: what
    others call a member, such as `{"saliency": "gradient"}`, for the error that such a name gets.
    """

    argument: str
    base: Any
    example: str
    elsewhere: Mapping[str, str]

    def __new__(
        cls,
        argument: str,
        base: Any,
        kinds: Iterable[type[T]],
        example: str,
        elsewhere: Mapping[str, str] = MappingProxyType({}),
    ) -> Self:
        registry = super().__new__(cls, kinds)
        registry.argument, registry.base, registry.example, registry.elsewhere = argument, base, example, elsewhere
        _REGISTRIES.append(registry)
        return registry

    def __repr__(self) -> str:
        return f"Registry({self.argument}: {', '.join(self.names)})"

    @property
    def names(self) -> tuple[str, ...]:
        """The names as typed."""
        return tuple(kind.kebab() for kind in self)

    def nearest(self, name: str) -> tuple[str, ...]:
        """Return the names that an unknown one may stand for, at most three; see `nearest_names`."""
        return nearest_names(name, self.names, self.elsewhere)

    def kind_of(self, name: str) -> type[T] | None:
        """Return the class of a name in kebab-case or as the class is written; None if there is none."""
        return next((kind for kind in self if plain(kind.kebab()) == plain(name)), None)

    def read(self, text: str) -> T:
        """Read a member of the family from text, without evaluating it as code.

        Names are in kebab-case or as the class is written. Settings are numbers, quoted strings, lists, None, True,
        False, or any named value with its own settings. Raises ValueError that gives the nearest names.
        """
        found = _Reader(text, self).value()
        if not self._has(found):
            given = f"{text!r} is a {type(found).__name__}, not a {self._noun()}"
            raise ValueError(f"{self.argument}: {given}; write for example {self.example!r}")
        member: T = found
        return member

    def coerce(self, value: Any) -> T:
        """Return the member of the family for a member, its class or its text. Raises TypeError for other values."""
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


def settings_of(thing: Any) -> tuple[tuple[str, str], ...]:
    """Return the settings of a dataclass as pairs of name and text; none for other values."""
    if not dataclasses.is_dataclass(thing):
        return ()
    return tuple((each.name, repr(getattr(thing, each.name))) for each in dataclasses.fields(thing) if each.repr)


def registered(name: str) -> type[Named] | None:
    """Return the registered class of a Python name; None if there is none."""
    return next((kind for kind in _every_kind() if kind.__name__ == name), None)


def read_value(text: str) -> Any:
    """Read a setting's value: a number, True, False, None, a list, a named value, or else the text itself."""
    try:
        return _Reader(text, None).value()
    except ValueError:
        return text.strip()


def text_of(value: Any) -> str:
    """Return a value as text from which it can be read; see `Named.as_text`."""
    match value:
        case None | bool() | int() | str():
            return repr(value)
        case float() if math.isfinite(value):
            return repr(value)
        case Path():
            return repr(str(value))
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
    raise ValueError(f"{type(value).__name__}: {shown(value)} cannot be written as text; give it in Python")


def _settings(kind: type[Named]) -> list[dataclasses.Field[Any]]:
    """The fields that are settings, not those the library fills in, as they are given: those by name alone last."""
    fields: Sequence[Any] = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return sorted((each for each in fields if each.init and each.repr), key=lambda each: bool(each.kw_only))


def _default(field: dataclasses.Field[Any]) -> Any:
    """The default of a field, or MISSING."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _usage(field: dataclasses.Field[Any]) -> str:
    default = _default(field)
    return field.name if default is dataclasses.MISSING else f"{field.name}={text_of(default)}"


def _missing(kind: type[Named], placed: int, named: Iterable[str]) -> list[str]:
    """Return the settings without a default that are not given, of a class that takes its settings as they are."""
    made = vars(kind).get("__dataclass_params__")
    if not (made and made.init):
        return []
    settings = _settings(kind)
    given = {*named, *(each.name for each in settings[:placed] if not each.kw_only)}
    unknown = given - {each.name for each in settings}  # which is said in its place
    return [] if unknown else [e.name for e in settings if _default(e) is dataclasses.MISSING and e.name not in given]


def _is_default(setting: Any, field: dataclasses.Field[Any]) -> bool:
    default = _default(field)
    return type(setting) is type(default) and not isinstance(setting, Tensor) and bool(setting == default)


def _every_kind() -> Iterator[type[Named]]:
    return (kind for registry in _REGISTRIES for kind in registry)


def _kind_of(name: str) -> type[Named] | None:
    return next((kind for kind in _every_kind() if plain(kind.kebab()) == plain(name)), None)


def _takes_text(hint: Any, text: str) -> bool:
    """Whether a setting of this type takes a text, or a choice of texts, that is written without quotes."""
    if get_origin(hint) in (Union, UnionType):
        return any(_takes_text(each, text) for each in get_args(hint))
    return text in get_args(hint) or (_kind_of(text) is None and (hint is str or get_origin(hint) is Literal))


@dataclasses.dataclass(frozen=True)
class _Reader:
    """A reader of one text; `registry` is the family of its first name, None for any value."""

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
            near = self.registry.nearest(self.text) if self.registry and "(" not in self.text else ()
            if self.registry and near:
                raise self._refusal(_unknown(self.text, near, self.registry.names)) from error
            raise self._refusal(f"cannot read {self.text!r}{deep}; {self._example()}") from error

    def _built(self, node: ast.expr, first: bool = False, hint: Any = None) -> Any:
        match node:
            case ast.Name(id=name) if not first and name.lower() in _CONSTANTS:
                return _CONSTANTS[name.lower()]
            case ast.Name(id=name):
                return self._made(self._kind(name, first, hint), [], {})
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
                kind = self._kind(name, first, hint)
                places = [each.name for each in _settings(kind) if not each.kw_only]
                self._require_settings(kind, [each.arg for each in keywords if each.arg])
                values = [self._setting(each, kind, *places[i : i + 1]) for i, each in enumerate(args)]
                settings = {each.arg: self._setting(each.value, kind, each.arg) for each in keywords if each.arg}
                return self._made(kind, values, settings)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                return tuple(self._built(each, hint=hint) for each in elements)
        try:
            return ast.literal_eval(node)
        except ValueError as error:
            raise self._refusal(f"cannot read {ast.unparse(node)!r} in {self.text!r}; {self._example()}") from error

    def _setting(self, node: ast.expr, kind: type[Named], field: str | None = None) -> Any:
        """Read a setting; one that takes text may stand without quotes, as `lrp(composite=epsilon-plus)`."""
        hint = get_type_hints(kind).get(field or "")
        if isinstance(node, ast.Name) and node.id.lower() not in _CONSTANTS:
            written = re.search(r"(?<!\w)" + node.id.replace("_", "[-_]") + r"(?!\w)", self.text)
            if written is not None and _takes_text(hint, written[0]):
                return written[0]
        return self._built(node, hint=hint)

    def _kind(self, name: str, first: bool, hint: Any) -> type[Named]:
        found = _kind_of(name)
        if found is not None:
            return found
        if first and self.registry:
            raise self._refusal(_unknown(name, self.registry.nearest(name), self.registry.names))
        words = _words_for(hint)
        near = nearest_names(name, words or tuple(kind.kebab() for kind in _every_kind()))
        if words:
            raise self._refusal(_unknown(name, near, words))
        typed = name.replace("_", "-")
        meant = f"did you mean {', '.join(near)}? A" if near else "a"
        raise self._refusal(f"{typed!r} is no number and no name; {meant} text goes in quotes")

    def _require_settings(self, kind: type[Named], names: Sequence[str]) -> None:
        """Refuse settings that do not exist before their values are read."""
        known = [each.name for each in _settings(kind)]
        for name in names:
            if name not in known:
                self._made(kind, [], {name: None})

    def _made(self, kind: type[Named], values: list[Any], settings: dict[str, Any]) -> Named:
        missing = _missing(kind, len(values), settings)
        if missing:
            raise self._refusal(
                f"cannot read {self.text!r}: {kind.kebab()} needs {' and '.join(missing)}; write {kind.usage()}"
            )
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


def _unknown(name: str, near: Sequence[str], known: Sequence[str]) -> str:
    typed = name.strip().replace("_", "-")
    return f"{typed!r} is unknown; " + (f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}")


def _words_for(hint: Any) -> tuple[str, ...]:
    """Return the words that a setting of this type takes: true and false, choices, the names of a family."""
    if hint is bool:
        return ("true", "false")
    if get_origin(hint) is Literal:
        return tuple(map(str, get_args(hint)))
    if get_args(hint):
        return tuple(dict.fromkeys(word for each in get_args(hint) for word in _words_for(each)))
    if isinstance(hint, type) and issubclass(hint, Named):
        families = (each for each in _REGISTRIES if issubclass(each.base, hint) or issubclass(hint, each.base))
        return tuple(name for each in families for name in each.names)
    return ()
