"""Run `limelight explain` with its defaults on photographs, and count the tests that each default map fails.

    python -m benchmarks.default_maps FOLDER --photographs 200 --out DIR

Makes the maps and runs the quick tests by the functions of the command, within its default budget, in one process.
Prints for each map how often each test passed, failed and was left out, then every failure with its figure, its limit
and the sentences that the report says of it. Results are appended to a file in DIR, a line a photograph; a run that was
stopped goes on from there.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from limelight.base.files import finite
from limelight.cli.pictures import find_pictures
from limelight.cli.question_options import QuestionOptions
from limelight.show.explained import DEFAULT_METHODS, Explanation, Request, explain_picture, fitting

from .photographs import measured, options, photographs


def default_request() -> Request:
    """Return the request of `limelight explain PICTURE` without any option."""
    common = QuestionOptions()
    model = common.load()
    methods = fitting(model, DEFAULT_METHODS, lambda said: print(said, file=sys.stderr))
    return Request(model, methods, common.read(model), check_rows=None)


def measure(request: Request, picture: Path) -> dict[str, Any]:
    """Explain one photograph: the findings on each map, the maps' cautions and rows, and the seconds of it all."""
    (item,) = find_pictures([str(picture)])
    start, used = time.perf_counter(), time.process_time()
    done = explain_picture(item.name, item.open(), request, lambda rows: None)
    seconds = {"seconds": time.perf_counter() - start, "processor seconds": time.process_time() - used}
    (explanation,) = done.explanations
    return {"target": str(explanation.target), **seconds, "maps": dict(_maps(explanation))}


def _maps(explanation: Explanation) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, attribution in explanation.panel.items():
        tests = {
            each.name: {
                "figure": finite(each.mean),
                "limit": each.limit,
                "passed": each.passed,
                "said": each.sentence,
                "rows": each.forward_rows + each.backward_rows,
            }
            for each in explanation.tests[name]
        }
        share = float(attribution.delta[0] / (attribution.score[0] - attribution.baseline_score[0]))
        yield (
            name,
            {
                "tests": tests,
                "missed": finite(share),
                "cautions": [str(each) for each in attribution.cautions],
                "forward rows": attribution.forward_rows,
                "backward rows": attribution.backward_rows,
            },
        )


def table(lines: list[dict[str, Any]]) -> str:
    """Count for each map the verdicts of each test, as a Markdown table."""
    maps, tests = list(lines[0]["maps"]), list(next(iter(lines[0]["maps"].values()))["tests"])
    rows = ["| map | " + " | ".join(tests) + " |", "|---|" + "---|" * len(tests)]
    for name in maps:
        cells = []
        for test in tests:
            found = [line["maps"][name]["tests"][test] for line in lines]
            figures = [each["figure"] for each in found if each["figure"] is not None]
            failed = sum(each["passed"] is False for each in found)
            silent = sum(each["passed"] is None for each in found)
            if not figures:
                cells.append("-")
                continue
            words = f"{len(found) - failed - silent} pass, {failed} fail" + (f", {silent} none" if silent else "")
            cells.append(f"{words}; {min(figures):.2g} .. {statistics.median(figures):.2g} .. {max(figures):.2g}")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def failures(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for every test that a map failed."""
    for line in lines:
        for name, found in line["maps"].items():
            for test, each in found["tests"].items():
                if each["passed"] is False:
                    yield (
                        f"{line['photograph']} ({line['target']}), {name}, {test}: {each['figure']:.3g}, at most "
                        f"{each['limit']:.3g}; says {[each['said'], *found['cautions']]}"
                    )


def main() -> None:
    asked = options(__doc__, 200).parse_args()
    files = photographs(asked.folder, asked.photographs)
    lines = measured(files, asked.out / "default-maps.jsonl", partial(measure, default_request()))
    print(table(lines), "", *failures(lines), sep="\n")
    used = statistics.median(line["processor seconds"] for line in lines)
    print(f"\n{len(lines)} photographs, {used:.0f} processor seconds each in the median")


if __name__ == "__main__":
    main()
