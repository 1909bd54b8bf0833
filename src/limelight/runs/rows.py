"""The rows of the index and the tensors of a shard, made from attributions, and both as reproducible bytes."""

from __future__ import annotations

import io
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..base.attribution import Attribution, Reduce
from ..base.notes import Note, about_example
from ..evaluation.findings import Finding
from ..models.catalogue import AnyImageModel
from ..models.text import TextModel
from ..models.weights import bytes_of
from ..question.output_targets import Similarity
from ..question.readings import confidences
from .job import Store
from .manifest import Entry, content_hash
from .tables import Kind, arrow, table_of

_NUMBER = r"\bexample (\d+): "  # the start of a text about one example of a batch


@dataclass
class Row:
    """One example and method: a line of the index, and its map, which the shard keeps.

    `seen` is the map at the scale it is drawn at, until it is compared with the others of its example.
    """

    id: int
    method: str
    entry: Entry
    facts: dict[str, Any] = field(default_factory=dict)
    map: Tensor | None = None
    seen: Tensor | None = None
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
    "arithmetic": "string",
    "notes": "string",
    "cautions": "string",
}


def facts_of(
    a: Attribution,
    i: int,
    model: AnyImageModel | TextModel,
    label: int | None,
    findings: Mapping[str, Finding],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the columns of example i in the index, without the place of its map.

    `label`: the class of its label, if known. `notes`: on its picture; the column `notes` adds every note on its map,
    and why a check has no figure. The column `cautions` holds the cautions among them, each after its kind.
    """
    target = int(a.target[i]) if isinstance(a.target, Tensor) else None
    prediction = probability = None
    embeds = isinstance(a.target, Similarity)  # whose outputs are no classes
    if a.outputs is not None and a.outputs.ndim == 2 and a.outputs.shape[1] > 1 and not embeds:
        outputs = a.outputs[i].detach().double().cpu()
        prediction = int(outputs.argmax())
        kind = a.output_kinds[i] if a.output_kinds else "score"
        probability = None if target is None else _number(confidences(outputs, kind)[target])
    about = about_example(a.notes, i)
    # A reason names the example's place in its batch, which means nothing in the index.
    reasons = [f"{name}: {re.sub(_NUMBER, '', each.reasons[i])}" for name, each in findings.items() if each.reasons[i]]
    facts: dict[str, Any] = {
        "target": target,
        "prediction": prediction,
        "predicted": None if prediction is None else model.label(prediction),
        "correct": None if prediction is None or label is None else prediction == label,
        "probability": probability,
        "score": float(a.score[i]),
        "baseline_score": _number(a.baseline_score[i]),
        "delta": _number(a.delta[i]),
        "arithmetic": a.arithmetic,
        "notes": "; ".join((*notes, *(each.text for each in about), *reasons)),
        "cautions": "; ".join(
            f"{each.kind}: {each.text}" for each in (*map(Note.of, notes), *about) if each.is_caution
        ),
    }
    if a.texts:
        facts |= {"tokens": len(a.texts[i]), "tokenized": a.texts[i].as_json()}
    for name, finding in findings.items():
        facts[name] = _number(finding.value[i])
        facts[f"{name} passed"] = None if finding.each is None or facts[name] is None else bool(finding.each[i])
    return facts


def _number(value: Tensor) -> float | None:
    """Return None for NaN, which becomes null in the index."""
    found = float(value)
    return None if math.isnan(found) else found


def stored(a: Attribution, i: int, store: Store) -> tuple[Tensor | None, float | None]:
    """Return the map as it is stored, and the scale that it was divided by.

    Float16 reaches from 6e-8 to 65504, so its maps are divided by their largest absolute value.
    """
    match store:
        case "values":
            return a.values[i].detach().cpu().contiguous(), None
        case "heatmap-float16":
            # The sum over channels of a text's slopes is rounding; they are drawn by their magnitude.
            reduced: Reduce = "abs" if a.texts and a.view.reduce == "magnitude" else "sum"
            heatmap = a.heatmap(reduced)[i].detach().cpu().double()
            scale = float(heatmap.abs().amax()) or 1.0
            return (heatmap / scale).half(), scale
        case "scores":
            return None, None


def shard_bytes(rows: Sequence[Row], methods: Sequence[str]) -> bytes:
    """Return a safetensors file with one tensor per method, `(examples with a map, *map)`, in the order of `rows`.

    Maps of texts, `(channels, tokens)` or `(tokens)`, stand one after another along the axis of tokens, unpadded.
    """
    maps = {name: [row for row in rows if row.method == name and row.map is not None] for name in methods}
    return save({name: _joined(found) for name, found in maps.items() if found})


def _joined(rows: Sequence[Row]) -> Tensor:
    maps = [row.map for row in rows if row.map is not None]
    return torch.cat(maps, -1).contiguous() if "tokens" in rows[0].facts else torch.stack(maps)


def index_bytes(
    rows: Sequence[Row], shard: int, checks: Sequence[str], figures: Sequence[str], texts: bool = False
) -> bytes:
    """Return the index as a Parquet file, without times and machines, which differ between equal runs.

    `figures`: further columns of numbers. `texts`: there are columns of the text, the number of its tokens, and how it
    was read, as `Text.as_json` writes it.
    """
    columns: dict[str, Kind] = {"id": "int64", "method": "string", "path": "string", "label": "string", **_FACTS}
    for check in checks:
        columns |= {check: "float64", f"{check} passed": "bool_"}
    columns |= dict.fromkeys(figures, "float64")
    if texts:
        columns |= {"text": "string", "tokens": "int64", "tokenized": "string"}
    columns |= {"shard": "int64", "offset": "int64", "checksum": "string", "content": "string", "error": "string"}
    offsets: defaultdict[str, int] = defaultdict(int)
    sink = io.BytesIO()
    table = table_of([_line(row, shard, offsets) for row in rows], columns)
    arrow("parquet").write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _line(row: Row, shard: int, offsets: defaultdict[str, int]) -> dict[str, Any]:
    """Return a line of the index. `offsets`: where each method's next map begins, which is moved on."""
    place = {}
    if row.map is not None:
        place = {"offset": offsets[row.method], "checksum": map_checksum(row.map)}
        offsets[row.method] += row.facts.get("tokens", 1)
    line = {
        "id": row.id,
        "method": row.method,
        "path": row.entry.path,
        "label": row.entry.label,
        "shard": shard,
        "content": row.entry.content,
        "error": row.error,
        "text": row.entry.text,
        **row.facts,
        **place,
    }
    return {name: _text(value) if isinstance(value, str) else value for name, value in line.items()}


def map_checksum(values: Tensor) -> str:
    """Hash a map's bytes, as stored in the shard."""
    return content_hash(bytes_of(values))


def _text(text: str) -> str:
    """Escape lone surrogates, which Parquet refuses: bytes of a file's name or of a label that are not UTF-8."""
    return text.encode("utf-8", errors="backslashreplace").decode()
