"""`limelight explain --text`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from limelight.cli.main import app

MODEL = ["--model", "tests.text_models:bert_classifier", "--no-progress", "--check-rows", "0", "-m", "gradient"]


def run(*arguments: str) -> object:
    return CliRunner().invoke(app, ["explain", *arguments])


def test_texts_are_explained_and_written(tmp_path: Path) -> None:
    found = run(
        "--text", "the cat sat", "--text", "a dog", "--target", "good", *MODEL, "-m", "occlusion", "-o", str(tmp_path)
    )
    assert found.exit_code == 0, found.stderr
    assert "good" in found.stdout and "occlusion" in found.stdout and "* cat" in found.stdout
    assert (tmp_path / "1-the-cat-sat.html").is_file() and (tmp_path / "2-a-dog.png").is_file()
    assert (
        "<b>" in (tmp_path / "1-the-cat-sat.html").read_text() and (tmp_path / "2-a-dog/gradient.safetensors").is_file()
    )


def test_lines_of_a_file_as_json(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("the cat sat\n\n" + "cat " * 40 + "\n", encoding="utf-8")
    found = run("--text-file", str(texts), "--json", *MODEL, "-o", str(tmp_path / "out"))
    document = json.loads(found.stdout)
    assert found.exit_code == 3 and document["failed"] == 1
    first, second = document["texts"]
    assert first["tokens"][0] == "[CLS]" and first["characters"][1] == [0, 3] and first["special"][0] is True
    assert len(first["maps"]["gradient"]["values"]) == 5
    assert "reads 32" in second["error"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["photo.png", "--text", "a dog"], "is for pictures"),
        (["--text", "a dog", "--size", "64"], "is for pictures"),
        (["--text", "a dog", "--top", "2"], "is for pictures"),
        (["--text", "a dog", "--baseline", "pad,cut"], "names 2; give one"),
        (["--text", "  "], "empty text"),
        (["--text", "a dog", "--model", "nowhere"], "no text model 'nowhere'"),
        (["--text", "a dog", "--model", "tests.text_models:bert_embedding"], "similarity"),
    ],
)
def test_bad_input_is_a_usage_error(arguments: list[str], said: str) -> None:
    found = run(*arguments)
    assert found.exit_code == 2
    assert said in found.stderr


def test_a_model_of_texts_for_pictures_names_the_option() -> None:
    found = run("demo", "--model", "tests.text_models:bag")
    assert found.exit_code != 0 and "explain --text" in found.stderr


def test_black_is_the_baseline_of_texts_where_it_is_said(tmp_path: Path) -> None:
    """It is the default of pictures, and was taken for it."""
    sums = []
    for given in ([], ["--baseline", "token('[MASK]')"], ["--baseline", "black"]):
        arguments = ["--text", "the cat sat", "--model", "tests.text_models:bag", "--json", "-m", "kernel-shap", *given]
        found = run(*arguments, "--check-rows", "0", "--no-progress", "-o", str(tmp_path))
        sums.append(sum(json.loads(found.stdout)["texts"][0]["maps"]["kernel-shap"]["values"]))
    assert sums[0] == sums[1] != sums[2]
