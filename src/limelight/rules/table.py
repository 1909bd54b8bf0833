"""The table of operators and rules in docs/rules.md, which `python -m limelight.rules.table` writes."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch

from .call import Call
from .composites import ATTN_LRP, COMPOSITES, GUIDED_BACKPROP
from .deeplift import RESCALE
from .engine import Native, Propagate, Propagation, Rule
from .names import AVERAGES, DROPOUTS, MAX_POOLS, ORDERS, PLAIN, RULED, Kind
from .opened import OPENED

PAGE = Path(__file__).parents[3] / "docs" / "rules.md"
BEGIN = "<!-- written by `python -m limelight.rules.table` -->"
END = "<!-- end of what is written -->"

COLUMNS: dict[str, Propagation] = {
    "DeepLift": RESCALE,
    "LRP": COMPOSITES["activated-plus"],
    "GuidedBackprop": GUIDED_BACKPROP,
    "AttnLRP": ATTN_LRP,
}
_KINDS: dict[Kind, str] = {
    "affine": "affine, constant weights",
    "activation": "elementwise",
    "sum": "sum, average",
    "product": "product of two activations",
    "quotient": "quotient by an activation",
    "batch_norm": "batch norm, evaluating",
    "normalisation": "normalisation by its own statistics",
    "softmax": "softmax",
    "max": "maximum over positions",
    "maximum": "maximum of two activations",
    "order": "sorting",
    "where": "where",
    "refused": "random or rounded",
}
_GRADIENT = (
    "Left to the gradient by every method, with products and quotients by constants and dropout that is switched off"
)


class _Inner:
    """A stand-in for the engine at an operator in the middle of a network."""

    entered = True

    def is_first(self, *operands: torch.Tensor) -> bool:
        return False

    def is_made_constant(self, tensor: torch.Tensor) -> bool:
        return True


def _calls(name: str) -> Iterator[Call]:
    """Yield calls of this operator with one and with two varying operands; none is run."""
    x, constant = torch.zeros(1, requires_grad=True), torch.zeros(1)
    lead: tuple[Any, ...] = ("",) if name == "einsum" else (constant > 0,) if name == "where" else ()
    options: list[dict[str, Any]] = [{}]
    if name in DROPOUTS:
        options = [{"training": False}, {"training": True}]
    elif name == "div":
        options = [{}, {"rounding_mode": "floor"}]
    single = AVERAGES | MAX_POOLS | DROPOUTS | ORDERS | {"prod"}
    for tensors in ((x, constant), (x, x)) if name not in single else ((x,),):
        for keywords in options:
            yield Call.of(name, torch.add, (*lead, *tensors), keywords, False)
    if name in ("max", "min"):
        yield Call.of(name, torch.add, (x,), {}, False)


def _rows() -> dict[tuple[Kind, tuple[str, ...]], set[str]]:
    """Return operators' names by kind and by the rules that apply to them."""
    engine = cast(Propagate, _Inner())
    rows: dict[tuple[Kind, tuple[str, ...]], set[str]] = {}
    for name in sorted(RULED):
        for call in _calls(name):
            if call.kind in _KINDS:
                cells = tuple(_cell(each.rule(call, engine)) for each in COLUMNS.values())
                rows.setdefault((call.kind, cells), set()).add(name)
    order = list(_KINDS)
    return dict(sorted(rows.items(), key=lambda row: (order.index(row[0][0]), sorted(row[1]))))


def _cell(rule: Rule | None) -> str:
    if rule is None:
        return "refused"
    return "gradient" if isinstance(rule, Native) else type(rule).__name__


def _legend() -> Iterator[str]:
    """Describe each rule of the table with the first paragraph of its docstring."""
    found = {type(rule) for each in COLUMNS.values() for _, rule in each.entries if not isinstance(rule, Native)}
    for rule in sorted(found, key=lambda rule: rule.__name__):
        yield f"- `{rule.__name__}`: {' '.join((rule.__doc__ or '').split(chr(10) * 2)[0].split())}"


def operator_table() -> str:
    """Write in Markdown: kinds of operators, their names, and the rule that each method has for them."""
    lines = [f"| operators | names | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for (kind, cells), names in _rows().items():
        lines.append(f"| {_KINDS[kind]} | {_listed(names)} | {' | '.join(cells)} |")
    lines += ["", *_legend(), ""]
    lines += [f"Run as the elementary operators they consist of: {_listed(OPENED)}.", ""]
    lines += [f"{_GRADIENT}: {_listed(PLAIN)}."]
    return "\n".join(lines) + "\n"


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def written(page: str) -> str:
    """Return the page with the table between its markers. Raises ValueError where they are missing."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page lacks its markers {BEGIN} and {END}")
    return f"{head}{BEGIN}\n\n{operator_table()}\n{END}{tail}"


def main() -> int:
    if not PAGE.is_file():
        print(f"{PAGE}: no such page; run this in a checkout of the project", file=sys.stderr)
        return 2
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
