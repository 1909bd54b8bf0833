"""Runs over a table of texts: maps as `explain` makes them, the same bytes for any workers, bad rows recorded."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import limelight as ll
from limelight.runs.text_sources import find_texts
from tests.runs.helpers import results
from tests.text_models import bag, bert_embedding, gpt2

pytest.importorskip("tokenizers", reason="texts need the extra 'text'")

MODEL = "tests.text_models:bag"
METHODS = ("occlusion", "integrated-gradients(GaussLegendre(4))", "gradient")
HOSTILE = "the <img src=x onerror=alert(1)> cat"
ROWS = [
    ("a", "good", "the cat sat on the mat"),
    ("b", "bad", "a dog"),
    ("c", "good", "  "),
    ("d", "bad", "the dog sat"),
    ("e", "neither", "a fox"),
    ("f", "bad", HOSTILE),
    ("", "good", 'the "quick" dog,\nand more'),
]


def table(folder: Path, rows: list[Any] = ROWS) -> Path:
    path = folder / "texts.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "label", "review"), *rows])
    return path


def start(path: Path, out: Path, **options: Any) -> ll.Run:
    settings: dict[str, Any] = {"methods": METHODS, "shard_size": 3, "group": 3, "workers": 0, **options}
    model = settings.pop("model", MODEL)
    return ll.run(path, model, output=out, text_column="review", **settings)


def test_maps_are_those_of_explain_and_a_bad_row_fails_alone(tmp_path: Path) -> None:
    found = start(table(tmp_path), tmp_path / "out", checks=["deletion"])
    assert (found.counts.ok, found.counts.failed) == (6, 1) and found.is_of_texts
    assert [each.entry.path for each in found] == ["a", "b", "c", "d", "e", "f", "row 7"]
    assert "the text in the column 'review' is empty" in found[2].error
    model = bag()
    for place, (_, label, text) in enumerate(ROWS):
        if place == 2:
            continue
        for method, kept in found[place].maps.items():
            own = ll.explain(model, text, METHODS[list(found.methods).index(method)], rows_per_pass=32)
            assert torch.allclose(kept.values, own.values[0], atol=1e-12) and kept.text == own.texts[0]
            assert kept.heatmap().shape == (len(own.texts[0]),)
            row = kept.row
            assert row["text"] == text and row["tokens"] == len(own.texts[0])
            assert row["content"] == ll.runs.manifest.content_hash(text.encode())
            assert row["correct"] == (row["predicted"] == label) and row["deletion"] is not None
    with pytest.raises(ValueError, match="different lengths"):
        found.shard_maps(0, "occlusion")


@pytest.mark.long
def test_the_same_bytes_for_any_workers_and_after_a_resume(tmp_path: Path) -> None:
    path = table(tmp_path)
    alone = start(path, tmp_path / "alone")
    several = start(path, tmp_path / "several", workers=2)
    assert results(alone.out) == results(several.out)
    (alone.out / "shards" / sorted(each.name for each in (alone.out / "shards").iterdir())[1]).unlink()
    assert ll.runs.verify(alone.out).outcome == "to be made again"
    path.write_text("changed", encoding="utf-8")  # the manifest has the texts
    assert results(start(path, alone.out, verify=True).out) == results(several.out)
    assert ll.runs.verify(alone.out).outcome == "whole"
    with pytest.raises(ValueError, match="other settings: text_column was 'review' and is now 'other'"):
        ll.run(path, MODEL, METHODS, output=alone.out, text_column="other", shard_size=3, group=3, workers=0)


@pytest.mark.parametrize("store", ["heatmap-float16", "scores"])
def test_other_stores(tmp_path: Path, store: Any) -> None:
    found = start(table(tmp_path), tmp_path / "out", store=store)
    if store == "scores":
        with pytest.raises(ValueError, match="scores alone"):
            _ = found[0].values
    else:
        for method, reduce in (("occlusion", "sum"), ("gradient", "abs")):
            own = ll.explain(bag(), ROWS[0][2], method).heatmap(reduce)[0]
            assert torch.allclose(found[0][method].values, own.float(), atol=1e-3 * float(own.abs().max()))
    assert "cat</span>" in ll.runs.write_report(found).read_text(encoding="utf-8")


def test_targets_of_texts(tmp_path: Path) -> None:
    path = table(tmp_path, [("a", "good", "the cat"), ("b", "bad", "a quick dog"), ("c", "bad", "")])
    labels = start(path, tmp_path / "labels", target="label", methods=["occlusion"])
    assert [labels[i].first.row["target"] for i in range(2)] == [1, 0]
    target = ll.Continuation("the dog")
    said = start(path, tmp_path / "said", model=gpt2(), target=target, methods=["gradient"])
    for place, text in enumerate(("the cat", "a quick dog")):
        own = ll.explain(gpt2(), text, "gradient", target=target)
        assert torch.allclose(said[place].values, own.values[0], atol=1e-9)
        assert said[place].first.text == own.texts[0] and own.texts[0].continued > 0
    alike = start(path, tmp_path / "alike", model=bert_embedding(), target="similarity('a fox')", methods=["gradient"])
    assert alike[0].first.row["prediction"] is None and alike[0].first.row["target"] is None


def test_tables_of_other_kinds(tmp_path: Path) -> None:
    lines = tmp_path / "texts.jsonl"
    written = [{"id": 5, "text": "a dog", "label": 1}, {"text": 7}, {"text": "\ud800"}]
    deep = "[" * 100_000
    broken = "\n".join(map(json.dumps, written)) + f"\n[no JSON\n\n{deep}\n" + json.dumps({"text": "last"})
    lines.write_text(broken, encoding="utf-8")
    found = list(find_texts(str(lines), "text"))
    assert [each.text for each in found] == ["a dog", None, None, None, None, "last"]
    assert [each.path for each in found] == ["5", *(f"row {i}" for i in range(2, 7))] and found[0].label == "1"
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"text": ["a dog", None], "ID": ["x", "y"], "n": [1, 2]}), tmp_path / "t.parquet")
    found = list(find_texts(str(tmp_path / "t.parquet"), "text"))
    assert [(each.path, each.text) for each in found] == [("x", "a dog"), ("y", None)]
    with pytest.raises(ValueError, match=r"its column 'n' is int64; make it text$"):
        list(find_texts(str(tmp_path / "t.parquet"), "n"))
    for name, said in (("texts.jsonl", "is in no line"), ("t.parquet", "are text, ID, n"), ("t.txt", "use a .csv")):
        (tmp_path / "t.txt").write_text("a", encoding="utf-8")
        with pytest.raises(ValueError, match=said):
            list(find_texts(str(tmp_path / name), "texts"))


def test_a_name_that_no_utf_8_can_hold(tmp_path: Path) -> None:
    row = {"id": "\ud800", "label": "\udfff", "review": "a dog"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    found = start(tmp_path / "a.jsonl", tmp_path / "out", methods=["gradient"])
    assert found.counts.ok == 1 and (found[0].entry.path, found[0].entry.label) == ("\ud800", "\udfff")
    assert found[0].first.row["path"] == "\\ud800"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": bert_embedding}, "embeds texts; say what they are compared with"),
        ({"white": 255.0}, "white: is for pictures"),
        ({"weights": "a.pt"}, "weights: is for pictures"),
        ({"mask": torch.ones(2, 2)}, "mask: is for pictures"),
        ({"declared": {"size": 32}}, "size: is for pictures"),
        ({"target": ll.Continuation("a", each=True)}, "each=True"),
        ({"model": lambda: "nowhere"}, "no text model 'nowhere'"),
    ],
)
def test_what_does_not_fit_is_refused_at_the_start(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    model = options.pop("model", lambda: MODEL)()
    with pytest.raises(ValueError, match=said):
        start(table(tmp_path), tmp_path / "out", model=model, **options)


def test_a_model_of_texts_needs_a_column(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="text_column: None, and the model reads texts"):
        ll.run(table(tmp_path), bag(), "gradient", output=tmp_path / "out")
    with pytest.raises(ValueError, match="an audit compares places in pictures"):
        ll.audit(table(tmp_path), MODEL, output=tmp_path / "out", text_column="review")


def test_the_command_and_its_report(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from limelight.cli.main import app

    out = tmp_path / "out"
    given = ["--text-column", "review", "--model", MODEL, "-m", "occlusion", "--target", "good", "--workers", "0"]
    done = CliRunner().invoke(app, ["run", str(table(tmp_path)), *given, "--no-progress", "-o", str(out)])
    assert done.exit_code == 3 and "c: ValueError" in done.stderr
    assert {each.first.row["target"] for each in ll.runs.open_run(out) if not each.error} == {1}
    assert CliRunner().invoke(app, ["report", str(out)]).exit_code == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert '<span class="piece"' in page and "&lt;" in page and "<img src=x" not in page
    assert CliRunner().invoke(app, ["verify", str(out)]).exit_code == 0
    assert ll.runs.open_run(out).show(0).width > 100
    wrong = CliRunner().invoke(app, ["run", str(table(tmp_path)), *given, "--size", "32", "-o", str(out)])
    assert wrong.exit_code == 2 and "is for pictures" in wrong.stderr
