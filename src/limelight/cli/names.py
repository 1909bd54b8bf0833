"""The commands that list what has a name: methods by family, checks, targets and baselines."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Annotated, Any

import torch
import typer

from ..base.named import Named, Registry
from ..checks import CHECKS, Check
from ..methods import METHODS, Method
from ..methods.families import FAMILIES, family_of
from ..question.registries import BASELINES, TARGETS
from .options import usage
from .printing import plain_table
from .question_options import Json
from .terminal import console, print_lines, write_json

PHOTOGRAPH = torch.Size((3, 224, 224))
Name = Annotated[str | None, typer.Argument(metavar="NAME", help="One of them, of which all is shown.")]


def methods_command(name: Name = None, as_json: Json = False) -> None:
    """List the methods by family, with what they cost and need; or show all about one."""
    if name is not None:
        _show(METHODS, name, as_json)
        return
    if as_json:
        write_json({"methods": [_document(kind) for kind in METHODS]})
        return
    table = plain_table("method", "what it does", "evaluations", "needs", "adds up to", numbers=("evaluations",))
    table.columns[0].no_wrap = True
    for family in FAMILIES:
        members = [kind for kind in METHODS if family_of(kind) == family]
        if not members:
            continue
        table.add_section()
        table.add_row(family.upper(), "", "", "", "")
        for kind in members:
            document = _document(kind)
            needs = ", ".join(document["needs"]) or "-"
            table.add_row(document["name"], document["summary"], _cost(document), needs, _sum(document))
    console().print(table)
    height, width = PHOTOGRAPH[1:]
    print_lines(
        "",
        f"evaluations: of the model, for one picture of {height} x {width} pixels with the default settings, beside "
        "f(x) and f(baseline).",
        "'limelight methods NAME' shows the settings, the formula and the paper.",
    )


def checks_command(name: Name = None, as_json: Json = False) -> None:
    """List the checks, with what they tell; or show all about one."""
    _list(CHECKS, "checks", name, as_json)


def targets_command(name: Name = None, as_json: Json = False) -> None:
    """List the targets for the option --target; or show all about one."""
    _list(TARGETS, "targets", name, as_json)


def baselines_command(name: Name = None, as_json: Json = False) -> None:
    """List the baselines for the option --baseline; or show all about one."""
    _list(BASELINES, "baselines", name, as_json)


def _list(registry: Registry[Any], plural: str, name: str | None, as_json: bool) -> None:
    if name is not None:
        _show(registry, name, as_json)
        return
    if as_json:
        write_json({plural: [_document(kind) for kind in registry]})
        return
    has_kinds = registry is CHECKS
    table = plain_table(plural.removesuffix("s"), *["kind"] * has_kinds, "what it does")
    for kind in registry:
        table.add_row(kind.kebab(), *[getattr(kind, "kind", "")] * has_kinds, _sentence(kind))
    console().print(table)
    print_lines("", f"'limelight {plural} NAME' shows the settings, the formula and the paper.")


def _show(registry: Registry[Any], name: str, as_json: bool) -> None:
    """Print one member with its settings and its whole documentation."""
    kind = registry.kind_of(name)
    if kind is None:
        near = registry.nearest(name)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(registry.names)}"
        raise usage("NAME", f"{name!r} is unknown; {hint}")
    document = _document(kind)
    if as_json:
        write_json(document | {"documentation": inspect.getdoc(kind)})
        return
    print_lines(kind.usage(), "")
    facts = [("Python", f"limelight.{kind.__name__}")]
    if issubclass(kind, Method):
        evaluations = f"{_cost(document)} for a picture of 224 x 224 pixels, beside f(x) and f(baseline)"
        facts += [("family", document["family"]), ("evaluations", evaluations)]
        facts += [("needs", ", ".join(document["needs"]) or "-"), ("adds up to", _sum(document))]
    if issubclass(kind, Check):
        facts += [("kind", kind.kind), ("better", kind.better or "-"), ("meaning", document["summary"])]
    for title, text in facts:
        print_lines(f"{title:12} {text}")
    print_lines("", *(inspect.getdoc(kind) or "").splitlines())


def _document(kind: type[Named]) -> dict[str, Any]:
    """Return what is known about a class, as plain values."""
    settings = [each for each in dataclasses.fields(kind) if each.init and each.repr]  # type: ignore[arg-type]
    found: dict[str, Any] = {"name": kind.kebab(), "class": kind.__name__, "summary": _sentence(kind)}
    if not issubclass(kind, Method):
        return found | {"usage": kind.usage(), "settings": [each.name for each in settings]}
    method = kind()
    return found | {
        "family": family_of(kind),
        "fields": {each.name: repr(getattr(method, each.name)) for each in settings},
        "needs": [need for need in ("gradients", "layer", "baseline") if getattr(method.needs, need)],
        "complete": method.no_sum is None,
        "no_sum": method.no_sum,
        "evaluations": method.rows_at_least(PHOTOGRAPH),
        "evaluations_exact": method.rows(PHOTOGRAPH) is not None and not method.rows_at_most,
        "evaluations_at_most": method.rows_at_most and method.rows(PHOTOGRAPH) is not None,
    }


def _sentence(kind: type[Named]) -> str:
    """Return what a class is in a sentence: of a check what its figure means."""
    if issubclass(kind, Check) and kind.meaning:
        return f"{kind.meaning[0].upper()}{kind.meaning[1:]}."
    return kind.plain_summary()


def _cost(document: dict[str, Any]) -> str:
    figure = f"{document['evaluations']:,}"
    if document["evaluations_exact"]:
        return figure
    return f"up to {figure}" if document["evaluations_at_most"] else f"{figure} or more"


def _sum(document: dict[str, Any]) -> str:
    if document["complete"]:
        return "f(x) - f(baseline)" if "baseline" in document["needs"] else "f(x)"
    return "-"
