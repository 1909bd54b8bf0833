"""`python -m benchmarks`: measure, print as it goes, write results.md."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from . import arithmetic, games, report, single_row
from .accuracy import accuracies
from .cases import CASES, unaccounted
from .memory import peak
from .scenes import scene
from .timing import FULL, QUICK

EXTRAS = ("accuracy", "memory", "games", "arithmetic", "single row")


def main(arguments: list[str] | None = None) -> int:
    """0: done, 1: a case failed, or a method has neither a case nor a reason, 2: nothing is called that."""
    asked = _parser().parse_args(arguments)
    missing = unaccounted()
    if missing:
        print(f"benchmarks: no case and no reason in NO_CASE for {', '.join(missing)}", file=sys.stderr)
        return 1
    cases = [case for case in CASES if _wanted(f"{case.name}, {case.model}", asked.only)]
    cases = [case for case in cases if case.quick or asked.only or not asked.quick]
    extras = [name for name in EXTRAS if _wanted(name, asked.only)]
    if not cases and not extras:
        print(f"benchmarks: no case is called {asked.only!r}; see benchmarks/cases.py", file=sys.stderr)
        return 2

    start = time.perf_counter()
    effort = QUICK if asked.quick else FULL
    # Memory first: the other processes it starts would disturb the timing.
    peaks = {nodes: peak(nodes) for nodes in effort.nodes} if "memory" in extras else {}
    accurate = accuracies() if "accuracy" in extras else []
    seeds = (5, 40) if asked.quick else (30, 200)
    played = (games.compare(seeds[0]), games.honesty(seeds[1])) if "games" in extras else None
    rows = None
    if "arithmetic" in extras:
        rows = arithmetic.markdown(arithmetic.row_times(effort), arithmetic.distances(6 if asked.quick else 24))
        print(rows, flush=True)
    single = None
    if "single row" in extras:
        single = single_row.markdown(single_row.parts())
        print(single, flush=True)
    outcomes = []
    failed: list[str] = []
    for case in cases:
        try:
            scene(case.model)
            outcome = case.measure(effort)
        except (ValueError, TypeError, RuntimeError, ArithmeticError, AssertionError) as error:
            # Reported below and by the exit code, so that the figures of the other cases are not lost.
            failed.append(f"{case.name}, {case.model}: {type(error).__name__}: {error}")
            print(f"FAILED {failed[-1]}", file=sys.stderr, flush=True)
            continue
        outcomes.append(outcome)
        pairs = outcome.pairs
        print(
            f"[{time.perf_counter() - start:4.0f} s] {case.name}, {case.model}: bare {pairs.ratio:.2f}, prepared "
            f"{outcome.prepared.ratio:.2f} times {outcome.peer} ({pairs.ours_median:.3f}, "
            f"{outcome.prepared.ours_median:.3f} s to {pairs.theirs_median:.3f} s)",
            flush=True,
        )
    # Where the page went is no part of how to get it again.
    chosen = ["--quick"] * asked.quick + [word for name in asked.only for word in ("--only", name)]
    command = shlex.join(["python", "-m", "benchmarks", *chosen])
    text = report.markdown(command, effort, time.perf_counter() - start, outcomes, accurate, peaks)
    if played:
        text += "\n## Shapley values of twelve players\n\n" + games.markdown(*played, seeds)
    if single:
        text += "\n## Where a single row's time goes\n\n" + single
    if rows:
        text += "\n## Bare rows in each arithmetic\n\n" + rows
    if failed:
        text += "\n## Cases that failed\n\n" + "".join(f"- {each}\n" for each in failed)
    asked.output.write_text(text, encoding="utf-8")
    print(f"wrote {asked.output}")
    return 1 if failed else 0


def _wanted(name: str, only: list[str]) -> bool:
    return not only or any(part.lower() in name.lower() for part in only)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewer pairs, and fewer cases unless --only names them: five minutes on two cores",
    )
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="cases whose name holds NAME")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.md"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
