"""The pictures and figures of docs/tables-and-series.md, from the code of the page: `python docs/make_tables.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

import limelight as ll

PAGE = Path(__file__).with_name("tables-and-series.md")
IMAGES = Path(__file__).parent / "images"
NEAR = 8  # positions on either side of the bump's middle that count as its place


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table, series = (_run(block) for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    table["shap"].show().save(IMAGES / "table.png")
    series["found"].show().save(IMAGES / "series.png")
    for name, lines in (("table", of_table(table)), ("series", of_series(series))):
        marked = rf"(<!-- figures: {name} -->\n).*?(<!-- end -->)"
        text = re.sub(
            marked, lambda found, lines=lines: found[1] + "\n".join(lines) + "\n" + found[2], text, flags=re.DOTALL
        )
    PAGE.write_text(text, encoding="utf-8")


def _run(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(block, str(PAGE), "exec"), names)
    return names


def of_table(names: dict[str, Any]) -> list[str]:
    """How much of the variance the network explains, and each patient's values by both methods."""
    model, x, y, test, panel, groups = (names[each] for each in ("model", "x", "y", "test", "panel", "groups"))
    with torch.no_grad():
        left = (model(x[test])[:, 0] - y[test]).square().mean() / y[test].var()
    maps = {name: groups.grouped(each) for name, each in panel.items()}
    columns = next(iter(maps.values())).names
    lines = [
        f"The network explains {1 - float(left):.0%} of the variance of {len(test)} patients that it did not see. "
        "Values of the first of them, in standard deviations, with the model's rows for both patients:",
        "",
        f"| | rows | {' | '.join(columns)} |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name, each in maps.items():
        values = " | ".join(f"{value:.2f}" for value in each.values[0].tolist())
        lines.append(f"| {name} | {each.forward_rows:,} | {values} |")
    return [*lines, ""]


def of_series(names: dict[str, Any]) -> list[str]:
    """The share of the positive map near the bump, by method and baseline, over ten examples."""
    model, beats = names["series"], names["beats"]
    x, _, place = (each[1::2][:10] for each in beats(20))
    inside = (torch.arange(160) - place[:, None]).abs() <= NEAR
    baselines = {
        "0": 0.0,
        "`channel-mean`": ll.ChannelMean(),
        "`interpolation(windows(10))`": ll.Interpolation(ll.Windows(10)),
        "`segment-mean(windows(10))`": ll.SegmentMean(ll.Windows(10)),
        "`circular-shift(4)`": ll.CircularShift(4),
        "`Samples(healthy, 4)`": ll.Samples(beats(20)[0][::2], 4),
    }
    methods = (
        "integrated-gradients",
        "deep-lift",
        "occlusion(10, 10)",
        *(f"{each}(256, players=windows(10))" for each in ("kernel-shap", "lime")),
    )
    lines = [
        f"The share of the positive values within {NEAR} positions of the bump, "
        f"{float(inside.double().mean()):.0%} of the series; mean of {len(x)} examples:",
        "",
        f"| baseline | {' | '.join(f'`{each}`' for each in methods)} |",
        "|---" * (len(methods) + 1) + "|",
    ]
    for name, baseline in baselines.items():
        panel = ll.explain(model, x, methods, target=1, baseline=baseline, rows_per_pass=1024)
        shares = []
        for each in panel.values():
            positive = each.heatmap("sum").clamp(min=0)
            shares.append(float(((positive * inside).sum(1) / positive.sum(1)).mean()))
        lines.append(f"| {name} | {' | '.join(f'{share:.2f}' for share in shares)} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
