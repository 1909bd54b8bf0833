"""The study's files: a page, the same as Markdown and JSON, and pictures of the maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ...base.files import json_bytes, write_whole
from ...base.version import in_words as versions_in_words
from ...evaluation.tables import html_table, markdown
from ...models.rock_paper_scissors import CLASSES
from ...show import Row, Tile, draw_grid, picture_of, save_png, write_report
from .shifting import CLAIMS, STUDIED, TOP_SHARE, Shifted
from .study import ENOUGH_TO_TEST, PART_TESTED, Study

Table = list[dict[str, Any]]
CHANGED, STAYED = 0.5, 0.9  # rank correlations below which a map counts as changed, and from which as stable
_SHOWN = 3  # hands whose maps are on the page
_STYLE = """<style>
.study { font: 15px/1.45 system-ui, sans-serif; padding: 20px; color-scheme: light dark; overflow-wrap: anywhere }
.study table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6em 0 }
.study th, .study td { text-align: left; padding: .2em 1em .2em 0; border-bottom: 1px solid #8886; vertical-align: top }
.study .wide { overflow-x: auto }
@media (prefers-color-scheme: dark) { body { background: #17181c } .study { color: #ececf0 } }
</style>"""


def write_study(study: Study, out: Path) -> list[Path]:
    """Write index.html, study.md, study.json and maps-N.png to `out`, each whole or absent; return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = [out / f"maps-{place + 1}.png" for place in range(min(_SHOWN, len(study.hands)))]
    for place, path in enumerate(pictures):
        save_png(grid_of(study, place), path)
    page, text, data = out / "index.html", out / "study.md", out / "study.json"
    versions = versions_in_words(study.maps[STUDIED[0]][0.0].versions)
    facts = [("seed", str(study.seed)), ("rows", str(study.rows)), ("versions", versions)]
    write_report(page, rows_of(study), "The maps", "", facts, before=_above(study))
    write_whole(text, as_markdown(study, [path.name for path in pictures]).encode())
    write_whole(data, json_bytes(as_plain(study)))
    return [page, text, data, *pictures]


def sections(study: Study) -> list[tuple[str, str, Table]]:
    """Return the sections in order, each as (title, text, table)."""
    best, history = study.trained.best, study.trained.history
    minutes = sum(each.seconds for each in history) / 60
    large = max(study.levels)
    tested = "at any cost"
    if study.rows < ENOUGH_TO_TEST:
        tested = f"within {PART_TESTED:.0%} of the rows that the maps themselves took"
    return [
        (
            "The model",
            f"{study.model.name}: the best validation accuracy, {best.accuracy:.1%}, came after epoch {best.epoch} of "
            f"{len(history)}; training took {minutes:.0f} minutes here. The split is by a hash of the pixels; the "
            "test part was seen neither in training nor in the choice of the epoch.",
            [
                {"part": a.part, "photographs": int(a.counts.sum()), "accuracy": f"{a.share:.1%}"}
                for a in study.accuracies
            ],
        ),
        (
            "Test photographs: true class (row) and predicted class (column)",
            "",
            _matrix(CLASSES, study.accuracies[-1].counts),
        ),
        (
            "Training",
            "Accuracy on the validation part is measured at full size only.",
            [
                {
                    "epoch": each.epoch,
                    "side": each.side,
                    "loss": each.loss,
                    "validation accuracy": "-" if each.accuracy is None else f"{each.accuracy:.1%}",
                    "seconds": round(each.seconds),
                }
                for each in history
            ],
        ),
        (
            "The model's answers under the shift",
            "A constant is added to every channel of the input, as a share of full brightness; a display would clip it "
            "at 1, the model's input is not clipped.",
            [
                {
                    "shift": f"+{level:g}",
                    "hands that keep their class": f"{int(study.kept[level].sum())} of {len(study.hands)}"
                    if level
                    else "-",
                    "mean probability of that class": f"{float(study.confidence[level].mean()):.1%}",
                }
                for level in (0.0, *study.levels)
            ],
        ),
        (
            "The published observations",
            "Margin is by how much the sentence is true: of the mean rank correlations, or of the share that leaves "
            "the hand. Its interval is the bootstrap's over the hands, 95%. A sentence holds where all of it is above "
            "0, and does not where all is below.",
            [
                {
                    "published": each.claim,
                    "shift": f"+{each.level:g}",
                    "hands": each.n,
                    "here": each.verdict,
                    "margin": f"{each.margin:.3f} ({each.low:.3f} to {each.high:.3f})",
                    "figures": each.figures,
                }
                for claim in CLAIMS
                for each in study.observations
                if each.claim == claim
            ],
        ),
        (
            "The published study's maps under the shift",
            "Means over the hands that keep their class. Each map is compared with the unshifted one by Spearman's "
            f"rank correlation, structural similarity, and the share of the brightest {TOP_SHARE:.0%} of pixels that "
            "stay; missing is the share of f(x) - f(baseline) that the sum of the unshifted map lacks; on the hand is "
            "the share of positive relevance on pixels with more red than green.",
            [{"map": line.name, "shift": f"+{line.level:g}"} | _line(line) for line in study.lines],
        ),
        (
            "Integrated Gradients by baseline",
            "Rank correlation of the maps with each other, mean over the hands: it is low where the baseline decides "
            "the map.",
            _matrix(list(study.baselines), study.baselines.correlations.double().nanmean(0)),
        ),
        ("Findings", f"{_summary(study)} Explaining and testing took {study.seconds / 60:.0f} minutes here.", []),
        (
            f"Every method under a shift of +{large:g}",
            f"Means over {study.explained} hands, with about {study.rows} rows for each method with a choice, sorted "
            f"by the change; the last columns are the other quick checks, {tested}. A method that samples uses the "
            "same random numbers for the shifted picture. A dash is a figure that does not apply, that no picture "
            "allowed, or that would cost too many rows: the JSON file has the reason.",
            [_line(line) | _verdicts(study, line.name) for line in _by_change(study.every)],
        ),
        (
            "Methods that could not explain this model",
            "" if study.refused else "None.",
            [{"method": name, "reason": reason} for name, reason in study.refused.items()],
        ),
    ]


def _summary(study: Study) -> str:
    """Name the maps that changed although the class did not, and the stable maps."""
    known = [line for line in study.every if line.n and not math.isnan(line.spearman)]
    large = f"a shift of +{max(study.levels):g}"
    if not known:
        return f"No hand kept its class under {large}, so no map can be compared."
    changed = [line.name for line in _by_change(known) if line.spearman < CHANGED]
    stayed = [line.name for line in known if line.spearman >= STAYED]
    level = max((seen.level for seen in study.observations), default=0.0)
    held = sum(seen.holds is True for seen in study.observations if seen.level == level)
    return (
        f"Under {large}, {known[0].n} of {study.explained} hands kept their class and {len(changed)} of {len(known)} "
        f"maps changed (rank correlation with the unshifted map below {CHANGED:g}): {', '.join(changed) or 'none'}. "
        f"{len(stayed)} stayed stable ({STAYED:g} or more): {', '.join(stayed) or 'none'}. Of the {len(CLAIMS)} "
        f"published observations {held} hold at +{level:g}; the figures above show by how much each one holds or fails."
    )


def _line(line: Shifted) -> dict[str, Any]:
    return {
        "map": line.name,
        "hands": line.n,
        "rank correlation": line.spearman,
        "SSIM": line.ssim,
        "top pixels kept": line.top,
        "missing": line.missing,
        "on the hand": line.on_hand,
        "on the hand, shifted": line.on_hand_shifted,
    }


def _by_change(lines: Sequence[Shifted]) -> list[Shifted]:
    return sorted(lines, key=lambda line: (math.isnan(line.spearman), line.spearman))


def _verdicts(study: Study, name: str) -> dict[str, Any]:
    words = {}
    for finding in study.tests[name]:
        figure = "-" if math.isnan(finding.mean) else f"{finding.mean:.3g}"
        verdict = finding.verdict if finding.check.kind == "hard" and not math.isnan(finding.mean) else ""
        words[finding.name] = f"{figure} {verdict}".strip()
    return words


def _matrix(names: Sequence[str], values: Tensor) -> Table:
    """Make a table of values `(n, n)` with the same names for rows and columns."""
    return [{"": name, **dict(zip(names, row, strict=True))} for name, row in zip(names, values.tolist(), strict=True)]


def as_markdown(study: Study, pictures: Sequence[str]) -> str:
    """Write the study as Markdown; `pictures` are names of files in its folder."""
    command = "`limelight study rock-paper-scissors`"
    parts = [f"# Rock, paper, scissors: {study.model.name}\n\nWritten by {command}; seed {study.seed}.\n"]
    for title, words, table in sections(study):
        parts.append("\n".join(filter(None, (f"## {title}\n", words + "\n" if words else "", markdown(table)))))
    for place, picture in enumerate(pictures):
        parts.append(f"![Maps of {_name(study, place)} at each shift]({picture})\n")
    return "\n".join(parts)


def _above(study: Study) -> str:
    parts = [f"<h1>Rock, paper, scissors: {escape(study.model.name)}</h1>"]
    for title, words, table in sections(study):
        body = f'<div class="wide">{html_table(table)}</div>' if table else ""
        parts.append(f"<h2>{escape(title)}</h2>" + (f"<p>{escape(words)}</p>" if words else "") + body)
    return f'{_STYLE}<div class="study">{"".join(parts)}</div>'


def as_plain(study: Study) -> dict[str, Any]:
    """Write the whole study in plain numbers, texts and lists."""
    return {
        "model": study.model.name,
        "seed": study.seed,
        "rows": study.rows,
        "levels": list(study.levels),
        "files": [_name(study, place) for place in range(len(study.files))],
        "classes": list(CLASSES),
        "parts": {each.part: {"accuracy": each.share, "confusion": each.counts.tolist()} for each in study.accuracies},
        "training": [asdict(each) for each in study.trained.history],
        "target": study.hands.y.tolist(),
        "kept": {f"{level:g}": kept.tolist() for level, kept in study.kept.items()},
        "confidence": {f"{level:g}": values.tolist() for level, values in study.confidence.items()},
        "observations": [asdict(each) | {"holds": each.holds, "verdict": each.verdict} for each in study.observations],
        "shifted": [asdict(line) for line in study.lines],
        "baselines": study.baselines.summary(),
        "every method": [asdict(line) for line in study.every],
        "tests": {name: findings.to_dict()["findings"] for name, findings in study.tests.items()},
        "refused": study.refused,
        "seconds": study.seconds,
    }


def _name(study: Study, place: int) -> str:
    path = study.files[place]
    return f"{path.parent.name}/{path.name}"


def rows_of(study: Study) -> list[Row]:
    """Make a row for each hand and level, a tile for each of STUDIED; the picture is clipped as on a display."""
    rows = []
    for place in range(min(_SHOWN, len(study.hands))):
        for level in (0.0, *study.levels):
            share = float(study.confidence[level][place])
            label = CLASSES[int(study.hands.y[place])]
            kept = "" if not level or bool(study.kept[level][place]) else ", no longer the model's first class"
            words = f"{_name(study, place)}, +{level:g}: {label} {share:.1%}{kept}"
            picture = picture_of((study.hands.x[place] + level).clamp(max=1))
            rows.append(Row(words, picture, _tiles(study, place, level)))
    return rows


def _tiles(study: Study, place: int, level: float) -> tuple[Tile, ...]:
    return tuple(replace(study.maps[name][level].tiles(place)[0], title=name) for name in STUDIED)


def grid_of(study: Study, place: int) -> Image.Image:
    """Draw the maps of one hand: a row for each level, a column for each of STUDIED."""
    tiles = [
        [replace(tile, title=f"{tile.title}, +{level:g}") for tile in _tiles(study, place, level)]
        for level in (0.0, *study.levels)
    ]
    label = CLASSES[int(study.hands.y[place])]
    shares = ", ".join(f"+{level:g} {float(study.confidence[level][place]):.1%}" for level in (0.0, *study.levels))
    return draw_grid(picture_of(study.hands.x[place]), tiles, f"{_name(study, place)}: {label}, probability {shares}")
