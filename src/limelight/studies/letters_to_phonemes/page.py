"""The study's files: a page, the same as Markdown and JSON, and pictures of the tables."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from ...base.files import json_bytes, write_whole
from ...base.version import in_words as versions_in_words
from ...evaluation.tables import html_table, markdown
from ...show import save_png
from ...show.html import page_opening
from .agreement import Hits, Miss
from .study import BASELINES, Study, unstressed
from .tables import draw_tables, table_html

Table = list[dict[str, Any]]
COMMAND = "limelight study letters-phonemes"
_DRAWN = ("kernel-shap", "integrated-gradients", "occlusion")
_MOST_KINDS = 3  # of misses that a method's line names
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 20px; color: #1b1c20; background: #fff; overflow-wrap: anywhere }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6em 0 }
th, td { text-align: left; padding: .2em 1em .2em 0; border-bottom: 1px solid #8886; vertical-align: top }
.wide { overflow-x: auto }
.heats { display: flex; flex-wrap: wrap; gap: 1.5em }
.heat caption { text-align: left }
.heat th, .heat td { padding: .3em .5em; text-align: center; border: 1px solid #fff }
"""


def write_study(study: Study, out: Path) -> list[Path]:
    """Write index.html, study.md, study.json and a picture for each word drawn; return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    drawn = [word for word in study.words if word.word in study.tables]
    pictures = [out / f"{word.word}.png" for word in drawn]
    for word, path in zip(drawn, pictures, strict=True):
        save_png(draw_tables(word, study.said[word.word], _shown(study, word.word)), path)
    page, text, data = out / "index.html", out / "study.md", out / "study.json"
    write_whole(page, as_html(study).encode())
    write_whole(text, as_markdown(study, [path.name for path in pictures]).encode())
    write_whole(data, json_bytes(as_plain(study)))
    return [page, text, data, *pictures]


def sections(study: Study) -> list[tuple[str, str, Table]]:
    """Return the sections in order, each as (title, text, table)."""
    total = len(study.words) + len(study.left_out)
    return [
        (
            "Which letters a phoneme comes from",
            f"{len(study.words)} words with {sum(study.controls[0].phonemes)} phonemes. A phoneme's answer is the "
            "letter of the largest value, with its sign; it is right if that letter is in the group that the alignment "
            "gives. The value is of the phoneme's log-probability, given those before it. Intervals are 95%, of "
            "the bootstrap over words. Above is by how much the share is above another one on the same words. A name's "
            "end is the letter that stands for an absent one; methods without it read no baseline.",
            ranking(study),
        ),
        (
            "Wrong answers",
            "By where the answer lies: on a silent letter, else on a letter next to the right group, else further "
            "away. The last column names the groups that are missed most.",
            [_missed(each) for each in study.ranked if each.misses],
        ),
        (
            "Words that are left out",
            f"The network says {len(study.words)} of {total} words as the alignment does, without regard to stress. "
            "The others say little about its letters: a few are a second pronunciation, most are wrong.",
            [
                {
                    "word": each.word.word,
                    "aligned": " ".join(each.word.phonemes),
                    "said": " ".join(unstressed(each.said)),
                }
                for each in study.left_out
            ],
        ),
    ]


def ranking(study: Study) -> Table:
    """Return a line for each method and control, with what it is above."""
    same, best = study.controls[0], study.best_control
    return [
        {
            "answers by": each.name,
            "kind": "control" if each in study.controls else "method",
            "right": f"{each.share:.1%} ({_range(each.interval(study.seed))})",
            f"above {same.name}": _above(each, same, study.seed),
            f"above {best.name}": _above(each, best, study.seed),
        }
        for each in study.ranked
    ]


def _above(each: Hits, other: Hits, seed: int) -> str:
    if each is other:
        return "-"
    more, *between = each.above(other, seed)
    return f"{more:+.1%} ({_range(between, '+')})"


def _range(between: Any, sign: str = "") -> str:
    low, high = between
    return f"{low:{sign}.1%} to {high:{sign}.1%}"


def kind_of(miss: Miss) -> str:
    """Say where a wrong answer lies."""
    return "silent letter" if miss.silent else "next to the group" if miss.distance == 1 else "further away"


def _missed(hits: Hits) -> dict[str, Any]:
    kinds = Counter(map(kind_of, hits.misses))
    groups = Counter(f"{miss.group}:{miss.phoneme}" for miss in hits.misses).most_common(_MOST_KINDS)
    return {
        "answers by": hits.name,
        "wrong": len(hits.misses),
        **{kind: kinds[kind] for kind in ("silent letter", "next to the group", "further away")},
        "missed most": ", ".join(f"{group} {count}" for group, count in groups),
    }


def _shown(study: Study, word: str) -> dict[str, Any]:
    return {name: table for name, table in study.tables[word].items() if name in _DRAWN}


_TABLES = (
    f"Values in nats with the baseline {BASELINES[0]}: positive letters (red) raise the phoneme's log-probability. An "
    "outline marks the letters that the alignment gives. Each table has its own scale."
)


def as_markdown(study: Study, pictures: list[str]) -> str:
    """Write the study as Markdown; `pictures` are names of files in its folder."""
    parts = [f"# Letters and phonemes\n\nWritten by `{COMMAND}`; seed {study.seed}; {_ended(study)}.\n"]
    for title, words, table in sections(study):
        # Outside code, Markdown takes <pad> for a tag.
        parts.append("\n".join([f"## {title}\n", words + "\n", markdown(table).replace("<", "&lt;")]))
    parts.append("## Tables\n\n" + _TABLES.replace("<", "&lt;") + "\n")
    parts += [f"![{picture.removesuffix('.png')}]({picture})\n" for picture in pictures]
    return "\n".join(parts)


def as_html(study: Study) -> str:
    parts = ["<h1>Letters and phonemes</h1>", f"<p>Written by {COMMAND}; seed {study.seed}; {_ended(study)}.</p>"]
    for title, words, table in sections(study):
        body = f'<div class="wide">{html_table(table)}</div>' if table else ""
        parts.append(f"<h2>{escape(title)}</h2><p>{escape(words)}</p>{body}")
    parts.append(f"<h2>Tables</h2><p>{escape(_TABLES)}</p>")
    for word in study.words:
        if word.word in study.tables:
            said = study.said[word.word]
            heats = (table_html(word, said, name, table) for name, table in _shown(study, word.word).items())
            parts.append(f'<h3>{word.word}</h3><div class="wide"><div class="heats">{"".join(heats)}</div></div>')
    return page_opening("Letters and phonemes", _STYLE, "") + f"<body>{''.join(parts)}</body></html>\n"


def _ended(study: Study) -> str:
    versions = versions_in_words(study.versions)
    return f"{study.seconds:.0f} seconds here; {versions}"


def as_plain(study: Study) -> dict[str, Any]:
    """Write the whole study in plain numbers, texts and lists."""
    return {
        "seed": study.seed,
        "seconds": study.seconds,
        "versions": study.versions,
        "words": {word.word: str(word) for word in study.words},
        "left out": {each.word.word: {"aligned": str(each.word), "said": list(each.said)} for each in study.left_out},
        "phonemes": sum(study.controls[0].phonemes),
        "best control": study.best_control.name,
        "ranking": [_plain(study, each) for each in study.ranked],
        "tables": {
            word: {"said": list(study.said[word]), **{name: table.tolist() for name, table in tables.items()}}
            for word, tables in study.tables.items()
        },
    }


def _plain(study: Study, hits: Hits) -> dict[str, Any]:
    low, high = hits.interval(study.seed)
    return {
        "name": hits.name,
        "control": hits in study.controls,
        "share": hits.share,
        "low": low,
        "high": high,
        "above": {other.name: list(hits.above(other, study.seed)) for other in study.controls if other is not hits},
        "right": list(hits.right),
        "misses": [asdict(miss) | {"kind": kind_of(miss)} for miss in hits.misses],
    }
