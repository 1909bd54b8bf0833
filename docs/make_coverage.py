"""Writes docs/coverage.md from the zoo: `python -m docs.make_coverage [PART OF A NAME ...]` (half an hour for all).

With names only those rows are run, and the page keeps the others.
"""

# ruff: noqa: E501
from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn

import limelight as ll
from limelight.methods.backward import Backward
from tests.zoo.architectures import ZOO, Architecture

PAGE = Path(__file__).with_name("coverage.md")
RECORD = Path(__file__).with_name("coverage.json")
EXACT, COARSE = 1e-6, 1e-4
BASELINE = 0.3


@dataclass(frozen=True)
class Column:
    """Methods that ask the same of a model: what is run for them, and what shows that its map is right, if anything."""

    title: str
    run: ll.Method
    kinds: tuple[type[ll.Method], ...]
    shows: str
    error: Callable[[nn.Module, Tensor, int, ll.Attribution], float] | None = None


def _sum_to(of: Callable[[ll.Attribution], Tensor]) -> Callable[[nn.Module, Tensor, int, ll.Attribution], float]:
    def error(net: nn.Module, x: Tensor, target: int, a: ll.Attribution) -> float:
        return float((a.values.sum() - of(a).sum()).abs() / of(a).abs().sum())

    return error


def _slope(net: nn.Module, x: Tensor, target: int, a: ll.Attribution) -> float:
    direction = 0.1 * a.values / a.values.norm()
    slope = float((a.values * direction).sum())
    with torch.no_grad():
        found = [
            float(net(x + step * direction)[0, target] - net(x - step * direction)[0, target]) / (2 * step)
            for step in (10.0**-power for power in range(1, 11))
        ]
    return min(abs(each - slope) for each in found) / abs(slope)


def _hidden(net: nn.Module, x: Tensor, target: int, a: ll.Attribution) -> float:
    window = tuple(-(-size // 2) for size in x.shape[2:])
    first = (slice(None), slice(None), *map(slice, window))
    hidden = x.clone()
    hidden[first] = BASELINE
    with torch.no_grad():
        lost = float(net(x)[0, target] - net(hidden)[0, target])
    return abs(float(a.values[first].flatten()[0]) - lost) / max(abs(lost), 1e-12)


_DIFFERENCE = _sum_to(lambda a: a.score - a.baseline_score)


def columns(shape: tuple[int, ...]) -> list[Column]:
    """The columns for examples of this shape; together they hold every method."""
    halves = tuple(-(-size // 2) for size in shape[1:])
    own = {
        ll.Occlusion: (ll.Occlusion(halves, halves, border="cut"), "each window equals hiding it by hand", _hidden),
        ll.FullGrad: (ll.FullGrad(), "sums to the score", _sum_to(lambda a: a.score)),
        ll.DeepLift: (ll.DeepLift(), "sums to f(x) - f(b)", _DIFFERENCE),
        ll.DeepShap: (ll.DeepShap(), "sums to f(x) - f(b)", _DIFFERENCE),
    }
    found = [Column(kind().kebab(), run, (kind,), shows, error) for kind, (run, shows, error) in own.items()]
    layered = tuple(kind for kind in ll.METHODS if kind().needs.layer and kind is not ll.AtLayer)
    rules = [kind for kind in ll.METHODS if issubclass(kind, Backward) and kind not in own and kind not in layered]
    alone = {*own, *rules, *layered, ll.AtLayer}
    slopes = tuple(kind for kind in ll.METHODS if kind().needs.gradients and kind not in alone)
    games = tuple(kind for kind in ll.METHODS if not kind().needs.gradients and kind not in alone)
    return [
        Column("gradients", ll.Gradient(), slopes, "the gradient is the slope of the score", _slope),
        Column(
            "masks and games",
            ll.ExactShapley(players=ll.Segments(_quarters(shape))),
            games,
            "Shapley values sum to f(x) - f(b)",
            _DIFFERENCE,
        ),
        *found[:2],
        Column("layers", ll.GradCAM(), layered, ""),
        Column("at-layer", ll.AtLayer(ll.Gradient()), (ll.AtLayer,), ""),
        *found[2:],
        *(Column(kind().kebab(), kind(), (kind,), "") for kind in rules),
    ]


def _quarters(shape: tuple[int, ...]) -> Tensor:
    places = torch.zeros(shape[1:], dtype=torch.long)
    places[shape[1] // 2 :] += 1
    places[..., shape[-1] // 2 :] += 2
    return places.unique(return_inverse=True)[1]


@dataclass(frozen=True)
class Cell:
    """What a column said of an architecture: "exact", "works", "caution" or "refused", and why."""

    status: str
    why: str = ""


def cell(architecture: Architecture, net: nn.Module, target: int, column: Column) -> Cell:
    """Run one column on one example; an error of the library's own is kept as the reason."""
    x, method = architecture.examples(), column.run
    try:
        if isinstance(method, ll.PatternNet | ll.PatternAttribution):
            method = type(method)(patterns=ll.estimate_patterns(net, [architecture.examples(8)]))
        a = ll.explain(net, x, method, target=target, baseline=BASELINE)
    except (ValueError, TypeError, FloatingPointError, ll.UncoveredOperator) as error:
        return Cell("refused", f"{error}".split("\n")[0])
    cautions = [note for note in a.notes if note.is_caution]
    if cautions:
        return Cell("caution", cautions[0].text)
    if column.error is not None:
        error_ = column.error(net, x, target, a)
        return (
            Cell("exact")
            if error_ <= (COARSE if architecture.coarse else EXACT)
            else Cell("caution", f"{column.shows}: off by {error_:.0e}")
        )
    return Cell("works", a.layer or "")


def row(name: str) -> dict[str, Cell]:
    """Return every column's cell for an architecture."""
    architecture = ZOO[name]
    net = architecture.network()
    target = int(net(architecture.examples()).argmax())
    return {column.title: cell(architecture, net, target, column) for column in columns(architecture.shape)}


SIGNS = {"exact": "●", "works": "○", "caution": "△", "refused": "–"}


def page(rows: dict[str, dict[str, Cell]]) -> str:
    """The whole page."""
    shown = columns((3, 64, 64))
    lines = [
        "# Which methods run on which architectures",
        "",
        f"`python -m docs.make_coverage` writes this page by running {len(ZOO)} architectures of torchvision, timm and transformers, small,",
        "with random weights, float64, one example. Methods that ask the same of a model share a column, which one of them was run for.",
        "",
        "- ● **exact**: it ran, and the figure below holds to 1e-6 (1e-4 where the model's own code computes in float32).",
        "- ○ **works**: it ran, its map is finite and not 0, and no caution was said.",
        "- △ **caution**: it ran and says itself what limits the trust in the map.",
        "- – **refused**: an error that names the reason.",
        "",
        "| column | run | methods | exact means |",
        "|---|---|---|---|",
    ]
    for column in shown:
        run = "`exact-shapley` of four quarters" if column.title == "masks and games" else f"`{column.run.kebab()}`"
        lines.append(
            f"| {column.title} | {run} | {', '.join(f'`{kind().kebab()}`' for kind in column.kinds)} | {column.shows} |"
        )
    lines += [
        "",
        "| | " + " | ".join(column.title for column in shown) + " | layer read |",
        "|---|" + ":-:|" * len(shown) + "---|",
    ]
    reasons: dict[str, list[str]] = {}
    for name, cells in rows.items():
        signs = [SIGNS[cells[column.title].status] for column in shown]
        layer = cells["layers"].why if cells["layers"].status == "works" else ""
        lines.append(f"| {name} | " + " | ".join(signs) + f" | {layer and f'`{layer}`'} |")
        for title, each in cells.items():
            if each.status in ("caution", "refused"):
                reasons.setdefault(f"{title}, {each.status}: {_short(each.why)}", []).append(name)
    lines += ["", "## Why", ""]
    lines += [f"- **{reason}** ({', '.join(names)})" for reason, names in sorted(reasons.items())]
    return "\n".join(lines) + "\n"


def _short(text: str) -> str:
    text = " ".join(text.split()).replace("|", r"\|")
    if shouted := re.match(
        r"([A-Z]{3,}[A-Z ]*): the values sum to .*; ", text
    ):  # what took the score differs with the network
        text = f"{shouted[1]}: {text[shouted.end() :]}"
    text = re.sub(r"patterns=<[^>]*>", "patterns=...", text)
    text = re.sub(r"(?<![\w.])-?\d+(\.\d+)?(e[-+]?\d+)?(?![\w.])", "...", text)
    return text if len(text) <= 240 else text[:237] + "..."


def recorded() -> dict[str, dict[str, Cell]]:
    """The rows that were run before, in the order of the zoo."""
    if not RECORD.exists():
        return {}
    known = json.loads(RECORD.read_text(encoding="utf-8"))
    return {name: {title: Cell(*each) for title, each in known[name].items()} for name in ZOO if name in known}


def _prepare() -> None:
    import tests.conftest  # noqa: F401  torchvision's import needs two operators

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)


def main(wanted: list[str]) -> None:
    rows = recorded() if wanted else {}
    names = [name for name in ZOO if not wanted or any(each in name for each in wanted)]
    with get_context("spawn").Pool(os.cpu_count(), _prepare, maxtasksperchild=4) as workers:
        for name, cells in zip(names, workers.imap(row, names, chunksize=1), strict=True):
            rows[name] = cells
            print(name, "".join(SIGNS[each.status] for each in cells.values()), flush=True)
    rows = {name: rows[name] for name in ZOO if name in rows}
    plain = {name: {title: [each.status, each.why] for title, each in cells.items()} for name, cells in rows.items()}
    RECORD.write_text(json.dumps(plain, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
