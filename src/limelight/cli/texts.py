"""`limelight explain --text`: maps of texts, as tables, pages, pictures and files."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..answer import answer
from ..base.errors import EXPECTED, reason
from ..base.version import in_words as versions_in_words
from ..base.view import View
from ..by_length import rows_of_texts
from ..evaluation.budget import quick_findings
from ..methods import Method
from ..models.catalogue import DEFAULT_MODEL, ModelError
from ..models.text import TextModel
from ..models.text_models import MINILM, load_text_model
from ..question.question import Options, question_of
from ..show import Row, draw_panel, save_png, write_report
from ..show.drawn import picture_of_example
from ..show.explained import MOST_SHOWN, TEXT_METHODS, Explanation, classes_shown, explained_class, ranked
from ..show.summary import answer_in_words, summary_of
from .maps import print_map
from .model_options import import_from_here
from .options import usage
from .printing import print_maps
from .question_options import QuestionOptions
from .terminal import exit_code, print_lines, progress_on, say, visible, write_json
from .writing import publish, staging


@dataclass(frozen=True)
class TextRequest:
    """What is asked of every text: see `show.explained.Request`."""

    model: TextModel
    methods: tuple[Method, ...]
    options: Options
    check_rows: int | None
    view: View | None


def read_texts(texts: Sequence[str], file: Path | None) -> list[str]:
    """Return the texts of the options, and the lines of a file that are not empty. Raises a usage error for none."""
    found = list(texts)
    if file is not None:
        try:
            found += [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise usage("--text-file", f"{file}: not UTF-8 text ({error})") from error
    if not any(each.strip() for each in found):
        raise usage("--text", "an empty text; give at least one word")
    return found


def text_request(
    methods: tuple[Method, ...] | None, common: QuestionOptions, check_rows: int | None, view: View | None
) -> TextRequest:
    """Load the model and read the options. Raises usage errors that name the option."""
    common.require_none_of_pictures("white", "draws_of")
    common.require_one_baseline()
    name = MINILM if common.model == DEFAULT_MODEL else common.model
    import_from_here(name)
    try:
        model = load_text_model(name, device=common.device)
    except ModelError as error:
        raise usage("--model", error) from error
    if common.target is None and not model.labels:
        raise usage("--target", f"{model.name} embeds texts; say what it is compared with: \"similarity('a text')\"")
    options: Options = {**common.without_model}
    if common.baseline is None:  # the model's own is no picture's
        del options["baseline"]
    if common.target is not None:
        options["target"] = common.target
    if common.layer is not None:
        options["layer"] = common.layer
    return TextRequest(model, methods or TEXT_METHODS, options, check_rows, view)


def explain_texts(texts: Sequence[str], request: TextRequest, out: Path, common: QuestionOptions) -> int:
    """Explain each text, write its files, print it, and return the exit code."""
    failed, documents = 0, []
    for place, text in enumerate(texts):
        name = f"text {place + 1}" if len(texts) > 1 else "text"
        try:
            with contextlib.redirect_stdout(sys.stderr), staging(out) as folder:  # a user's model may print
                rows, own = rows_of_texts(request.model, [text], request.options)
                counts = [method.rows(rows.shape[1:]) for method in request.methods]
                total = None if None in counts else 2 + sum(filter(None, counts))
                with progress_on(name, total, common.progress) as report:
                    done = _explained(rows, request, {**own, "progress": report})
                files = _written(done, _stem(text, place, len(texts)), request, folder, out)
        except EXPECTED as error:
            if common.debug:
                raise
            failed += 1
            line = reason(error, name)
            say(line)
            documents.append({"text": text, "status": "failed", "error": line})
            continue
        if common.as_json:
            documents.append(_document(text, done, files))
        else:
            _print(text, done, files, request)
    if common.as_json:
        write_json({"model": request.model.name, "failed": failed, "texts": documents})
    return exit_code(failed, len(texts))


def _explained(rows: Tensor, request: TextRequest, options: Options) -> Explanation:
    start = time.perf_counter()
    with question_of(request.model, rows, options) as question:
        panel = answer(question, request.methods)
        seconds = time.perf_counter() - start
        silent = replace(question, progress=None)
        tests = {} if request.check_rows == 0 else quick_findings(silent, panel, request.check_rows)
    return Explanation(explained_class(request.model, panel[0]), panel, seconds, tests, view=request.view)


def _written(done: Explanation, stem: str, request: TextRequest, folder: Path, out: Path) -> list[Path]:
    panel, model = done.panel, request.model
    picture = picture_of_example(panel[0], 0, request.view)
    classes = _ranking(done, model)
    footer = f"{_first(classes, model)}{panel.forward_rows} forward + {panel.backward_rows} backward model evaluations."
    heading = f"{done.target.described()}, score {done.target.output:.4g}"
    save_png(draw_panel(picture, panel.tiles(view=request.view), heading, footer), folder / f"{stem}.png")
    panel.save(folder / f"{stem}.safetensors")
    first = panel[0]
    facts = [
        ("model", model.name),
        ("model evaluations", f"{panel.forward_rows} forward + {panel.backward_rows} backward"),
        ("baseline", ", ".join(dict.fromkeys(repr(each.baseline) for each in panel.values()))),
        ("seed", str(first.seed)),
        *done.notes(),
        ("versions", versions_in_words(first.versions)),
    ]
    shown = [(each.named, each.probability) for each in classes]
    said = answer_in_words(done.target.named, done.target.output, shown)
    summary = summary_of(said, shown, done.agreement, done.verdicts() if done.tests else {})
    write_report(folder / f"{stem}.html", [Row("", picture, tuple(done.tiles()), summary)], heading, "", facts)
    return publish(folder, out)


def _ranking(done: Explanation, model: TextModel) -> Any:
    first = done.panel[0]
    if not model.labels:
        return ()
    explained = () if done.target.index is None else (done.target.index,)
    return ranked(model, first.outputs, first.output_kinds, MOST_SHOWN, beside=explained)


def _first(classes: Any, model: TextModel) -> str:
    return f"First of {model.name}: {classes_shown(classes)}. " if classes else ""


def _print(text: str, done: Explanation, files: Sequence[Path], request: TextRequest) -> None:
    print_lines(f"{visible(text[:100])}: {done.target.described()}", style="bold")
    classes = _ranking(done, request.model)
    if classes:
        print_lines(f"first: {classes_shown(classes)}")
    print_lines("")
    print_maps(done)
    print_lines("")
    for each in done.panel.values():
        print_map(each, view=request.view)
    print_lines("", *(str(each) for each in files if each.suffix in (".png", ".html")), "")


def _document(text: str, done: Explanation, files: Sequence[Path]) -> dict[str, Any]:
    maps = {}
    for name, each in done.panel.items():
        values = each.heatmap()[0]
        maps[name] = {
            "values": values.tolist(),
            "delta": each.delta[0].tolist(),
            "rows": [each.forward_rows, each.backward_rows],
            "seconds": each.seconds,
            "notes": [str(note) for note in each.notes],
            "tests": {found.check.kebab(): float(found.value[0]) for found in done.tests.get(name, ())},
        }
    read = done.panel[0].texts[0]
    return {
        "text": text,
        "status": "done",
        "target": done.target.named,
        "score": done.target.output,
        "tokens": list(read.tokens),
        "characters": [list(each) for each in read.offsets],
        "special": list(read.special),
        "maps": maps,
        "files": [str(each) for each in files],
    }


def _stem(text: str, place: int, count: int) -> str:
    words = "-".join(re.findall(r"\w+", text.lower())[:5])[:40] or "text"
    return words if count == 1 else f"{place + 1}-{words}"
