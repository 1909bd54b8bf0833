"""results.md: what was measured, on what, and where we lose."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .accuracy import Accuracy
from .case import Outcome
from .memory import MODEL
from .timing import Effort, Pairs

PACKAGES = ("limelight", "torch", "torchvision", "captum", "grad-cam", "zennit", "shap", "numpy")
MEMORY_TARGET = 1.10


def markdown(
    command: str,
    effort: Effort,
    took: float,
    outcomes: Sequence[Outcome],
    accuracies: Sequence[Accuracy],
    peaks: Mapping[int, float],
) -> str:
    parts = [
        "# Benchmarks\n",
        "Written by `python -m benchmarks`; edits are overwritten. How the figures are made: one process, ours and "
        "the peer in turn (bare, prepared, peer, bare, ...) after a warm-up, same model, same 224 x 224 picture. Bare: "
        "the module itself, copied at every call. Prepared: `limelight.prepare(module)`, made before. The ratio is the "
        "peer's seconds over ours, the median over the turns with its smallest and largest: above 1, ours is faster. "
        "Rows are counted by a hook on the bare model, for both alike, and hold the two that prove packed weights. Of "
        "a peer's settings the fastest one is compared. Targets are for prepared models; a bare one should not be "
        "slower than the peer.\n",
        _settings(command, effort, took),
    ]
    if outcomes:
        parts += ["## Where we lose\n", _losses(outcomes, peaks), "## Side by side\n", _cases(outcomes)]
    if accuracies:
        parts += ["## Integrated gradients, error by quadrature\n", _accuracy(accuracies)]
    if peaks:
        parts += ["## Peak memory\n", _memory(peaks)]
    return "\n".join(parts)


def _settings(command: str, effort: Effort, took: float) -> str:
    gpu = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    facts = {
        "Machine": f"{processor()}, {torch.get_num_threads()} threads{gpu}; {platform.system()}",
        "Versions": ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
        + f", Python {platform.python_version()}",
        "Date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, took {took:.0f} s",
        "Command": f"`{command}`",
        "Settings": f"{effort.least} to {effort.most} turns a case, no new one after {effort.seconds:g} s",
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items()) + "\n"


def _losses(outcomes: Sequence[Outcome], peaks: Mapping[int, float]) -> str:
    lines = [
        f"- {each.case.name}, {each.case.model}, against {each.peer}: {shortfall}."
        for each in outcomes
        for shortfall in each.shortfalls
    ]
    if peaks and _growth(peaks) > MEMORY_TARGET:
        lines.append(f"- Memory: {max(peaks)} nodes need {_growth(peaks):.2f} times what {min(peaks)} need.")
    return "\n".join(lines or ["Nowhere in this run."]) + "\n"


def _cases(outcomes: Sequence[Outcome]) -> str:
    header = [
        "method",
        "model",
        "peer",
        "bare, s",
        "prepared, s",
        "peer, s",
        "bare, ratio",
        "prepared, ratio",
        "target",
        "rows ours",
        "rows peer",
        "error",
    ]
    shares = any(each.share is not None for each in outcomes)
    rows = [_row(each) + ([f"{each.share or 0:.0%}"] if shares else []) for each in outcomes]
    note = "Rows are forward / backward.\n"
    overheads = [each for each in outcomes if each.peer.startswith("bare")]
    for each in overheads:
        note += f"\n{each.case.name}, against {each.peer}: {1 / each.pairs.ratio - 1:+.1%}.\n"
    return table([*header, *(["of the bare model's rows/s"] if shares else [])], rows) + "\n" + note


def _row(each: Outcome) -> list[str]:
    pairs = each.pairs
    return [
        each.case.name,
        each.case.model,
        each.peer,
        f"{pairs.ours_median:.3f}",
        f"{each.prepared.ours_median:.3f}",
        f"{pairs.theirs_median:.3f}",
        _spread(pairs),
        _spread(each.prepared),
        f"{each.case.target:.2f}",
        str(each.our_passes),
        str(each.their_passes),
        each.error,
    ]


def _spread(pairs: Pairs) -> str:
    ratios = pairs.ratios
    return f"{pairs.ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} turns)"


def _accuracy(accuracies: Sequence[Accuracy]) -> str:
    rows = [[a.network, a.rule, str(a.nodes), f"{a.ours:.1e}", f"{a.theirs:.1e}"] for a in accuracies]
    return (
        "A small network in float64; the error is that of the map, relative L1, against 2,048 nodes. Captum's "
        "trapezoid weights sum to (n - 1)/n.\n\n"
        + table(["network", "quadrature", "nodes", "ours", "Captum's"], rows)
        + "\n"
    )


def _memory(peaks: Mapping[int, float]) -> str:
    rows = [[str(nodes), f"{mib:.0f}"] for nodes, mib in peaks.items()]
    return (
        f"Integrated gradients on {MODEL}, the whole process.\n\n"
        + table(["nodes", "peak, MiB"], rows)
        + f"\nRatio {_growth(peaks):.3f}, target {MEMORY_TARGET:.2f} or less.\n"
    )


def _growth(peaks: Mapping[int, float]) -> float:
    return peaks[max(peaks)] / peaks[min(peaks)]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0]} ({len(models)} cores)" if models else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
