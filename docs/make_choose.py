"""The evidence in choose.md, read from benchmarks/ranking.md: `python docs/make_choose.py`."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE, RANKING = HERE / "choose.md", HERE.parent / "benchmarks" / "ranking.md"
SHOWN = (
    *("integrated-gradients", "deep-lift", "expected-gradients", "kernel-shap", "partition-shap", "rise", "occlusion"),
    *("lrp", "attn-lrp", "grad-cam", "score-cam", "input-x-gradient", "gradient", "smooth-grad", "guided-backprop"),
    "(sobel-edges)",
)
BEGIN, END = "<!-- evidence -->", "<!-- end of evidence -->"


def figures() -> dict[str, dict[str, str]]:
    """The relevance-rank of each method by network, with its interval, as the ranking has it."""
    found: dict[str, dict[str, str]] = {}
    for network, table in re.findall(r"## The scenes (\w+)\n(.*?)(?=\n## |\Z)", RANKING.read_text("utf-8"), re.DOTALL):
        for method, rank in re.findall(r"^\| ([\w()-]+) \| ([^|]+) \|", table, re.MULTILINE):
            found.setdefault(method, {})[network] = rank.strip()
    return found


def evidence() -> str:
    """The table, best on the CNN first."""
    known = figures()
    rows = sorted(SHOWN, key=lambda name: -float(known[name]["CNN"].split()[0]))
    lines = ["| method | CNN: relevance-rank [95%] | ViT: relevance-rank [95%] |", "|---|---|---|"]
    for name in rows:
        shown = "edges" if name.startswith("(") else f"`{name}`"
        lines.append(f"| {shown} | {known[name]['CNN']} | {known[name]['VIT']} |")
    return "\n".join(lines)


def page() -> str:
    """The page with its table made anew."""
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{evidence()}\n{END}", text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
