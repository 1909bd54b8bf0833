"""The rows of the index and the tensors of a shard, from attributions; and both as bytes that never change."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..base.attribution import Attribution
from ..base.notes import about_example
from ..evaluation.findings import Finding
from ..models.catalogue import ImageModel
from ..models.weights import bytes_of
from ..question.targets import probabilities
from .extras import arrow
from .job import Store
from .manifest import Entry, content_hash
from .tables import Kind, table_of

_NUMBER = r"\bexample (\d+): "  # how a text begins that is about one example of a batch


@dataclass
class Row:
    """One example and method: a line of the index, and its map, which the shard keeps."""

    id: int
    method: str
    entry: Entry
    facts: dict[str, Any] = field(default_factory=dict)
    map: Tensor | None = None
    seconds: float = 0.0
    error: str = ""


_FACTS: dict[str, Kind] = {
    "target": "int64",
    "prediction": "int64",
    "predicted": "string",
    "correct": "bool_",
    "probability": "float64",
    "score": "float64",
    "baseline_score": "float64",
    "delta": "float64",
    "scale": "float64",
    "notes": "string",
    "cautions": "string",
}


def facts_of(
    a: Attribution,
    i: int,
    model: ImageModel,
    asked: int | None,
    findings: Mapping[str, Finding],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """What the index says of example i, apart from where its map is.

    `asked`: the class of its label, if known. `notes`: on its picture; then follow every note on its map, and why a
    check has no figure. `cautions` are those of the map's notes, each after its kind.
    """
    target = int(a.target[i]) if isinstance(a.target, Tensor) else None
    prediction = probability = None
    if a.outputs is not None and a.outputs.ndim == 2 and a.outputs.shape[1] > 1:
        outputs = a.outputs[i].detach().double().cpu()
        prediction = int(outputs.argmax())
        probability = None if target is None else float(probabilities(outputs)[target])
    about = about_example(a.notes, i)
    facts: dict[str, Any] = {
        "target": target,
        "prediction": prediction,
        "predicted": None if prediction is None else model.label(prediction),
        "correct": None if prediction is None or asked is None else prediction == asked,
        "probability": probability,
        "score": float(a.score[i]),
        "baseline_score": _number(a.baseline_score[i]),
        "delta": _number(a.delta[i]),
        "notes": "; ".join((*notes, *(each.text for each in about), *_unanswered(findings, i))),
        "cautions": "; ".join(f"{each.kind}: {each.text}" for each in about if each.is_caution),
    }
    for name, finding in findings.items():
        facts[name] = _number(finding.value[i])
        facts[f"{name} passed"] = None if finding.each is None or facts[name] is None else bool(finding.each[i])
    return facts


def _number(value: Tensor) -> float | None:
    """NaN is no number: null in the index."""
    found = float(value)
    return None if math.isnan(found) else found


def _unanswered(findings: Mapping[str, Finding], example: int) -> list[str]:
    """Why checks have no figure for one example of a batch, without its number there."""
    told = [(name, finding.reasons[example]) for name, finding in findings.items()]
    return [f"{name}: {re.sub(_NUMBER, '', reason)}" for name, reason in told if reason]


def stored(a: Attribution, i: int, store: Store) -> tuple[Tensor | None, float | None]:
    """The map as it is kept, and the scale that it is divided by: float16 ends at 65504, and below 6e-8 is nothing."""
    match store:
        case "values":
            return a.values[i].detach().cpu().contiguous(), None
        case "heatmap-float16":
            heatmap = a.heatmap()[i].detach().cpu().double()
            scale = float(heatmap.abs().amax()) or 1.0
            return (heatmap / scale).half(), scale
        case "scores":
            return None, None


def shard_bytes(rows: Sequence[Row], methods: Sequence[str]) -> bytes:
    """One tensor for each method, `(examples with a map, *shape of a map)`, in the order of the index."""
    maps = {name: [row.map for row in rows if row.method == name and row.map is not None] for name in methods}
    return save({name: torch.stack(found) for name, found in maps.items() if found})


def index_bytes(rows: Sequence[Row], shard: int, methods: Sequence[str], checks: Sequence[str]) -> bytes:
    """The index as Parquet, without what differs between two runs: no times, no machine."""
    columns: dict[str, Kind] = {"id": "int64", "method": "string", "path": "string", "label": "string", **_FACTS}
    for check in checks:
        columns |= {check: "float64", f"{check} passed": "bool_"}
    columns |= {"shard": "int64", "offset": "int64", "checksum": "string", "content": "string", "error": "string"}
    table = table_of(_lines(rows, shard, methods), columns)
    sink = io.BytesIO()
    arrow("parquet").write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _lines(rows: Sequence[Row], shard: int, methods: Sequence[str]) -> list[dict[str, Any]]:
    lines = []
    offsets = dict.fromkeys(methods, 0)
    for row in rows:
        line = {
            "id": row.id,
            "method": row.method,
            "path": _text(row.entry.path),
            "label": _text(row.entry.label),
            "shard": shard,
            "content": row.entry.content,
            "error": _text(row.error),
            **row.facts,
        }
        if row.map is not None:
            line |= {"offset": offsets[row.method], "checksum": map_checksum(row.map)}
            offsets[row.method] += 1
        lines.append(line)
    return lines


def map_checksum(values: Tensor) -> str:
    """Of a map's bytes, as they lie in the shard."""
    return content_hash(bytes_of(values))


def _text(text: str) -> str:
    """A file's name may hold bytes that are no text (surrogates), which Parquet refuses; they are written out."""
    return text.encode("utf-8", errors="backslashreplace").decode()
