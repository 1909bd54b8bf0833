"""Where the time of one gradient of one picture goes: the model's own pass, and what each library adds to it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

import limelight as ll
from limelight.engine.packed import PackedWeights
from limelight.engine.runner import Runner

from . import peers
from .scenes import Scene, scene
from .timing import seconds

MODELS = ("efficientnet-lite0", "resnet18")
TURNS = 15


@dataclass(frozen=True)
class Part:
    """Milliseconds, medians: a whole call, the model's pass forward and backward alone, and opening the model alone."""

    model: str
    way: str
    call: float
    model_pass: float
    opening: float | None

    @property
    def rest(self) -> float:
        return self.call - self.model_pass - (self.opening or 0.0)


def parts() -> list[Part]:
    return [part for name in MODELS for part in _parts(scene(name))]


def _parts(at: Scene) -> list[Part]:
    peer = peers.saliency()
    plain = copy.deepcopy(at.model).requires_grad_(False).eval()
    folded = copy.deepcopy(plain)
    modules = dict(folded.named_modules())
    weights = PackedWeights.proven(folded, at.x, gradient=True)

    def packed_pass() -> None:
        with weights.installed(modules):
            _gradient(folded, at.x.contiguous(memory_format=torch.channels_last), at.target)

    runs: dict[str, Callable[[], object]] = {
        "bare": lambda: ll.explain(at.model, at.x, "gradient", target=at.target),
        "prepared": lambda: ll.explain(at.prepared, at.x, "gradient", target=at.target),
        "peer": lambda: peer.run(at),
        "plain pass": lambda: _gradient(plain, at.x, at.target),
        "packed pass": packed_pass,
        "opening bare": lambda: _open(at.model, at.x),
        "opening prepared": lambda: _open(at.prepared.snapshot, at.x),
    }
    for run in runs.values():
        run()
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, run in runs.items():
            spent[name].append(1e3 * seconds(run))
    took = {name: median(each) for name, each in spent.items()}
    return [
        Part(at.name, "ours, bare", took["bare"], took["plain pass"], took["opening bare"]),
        Part(at.name, "ours, prepared", took["prepared"], took["packed pass"], took["opening prepared"]),
        Part(at.name, peer.name, took["peer"], took["plain pass"], None),
    ]


def _gradient(net: nn.Module, x: Tensor, target: int) -> Tensor:
    leaf = x.detach().requires_grad_()
    (found,) = torch.autograd.grad(net(leaf)[:, target].sum(), leaf)
    return found


def _open(model: nn.Module, x: Tensor) -> None:
    with Runner(model, x, None, None):
        pass


def markdown(found: list[Part]) -> str:
    lines = [
        "One gradient of one picture, medians in milliseconds. The model's pass: forward and backward of a frozen "
        "module, plain or with packed weights. Opening: copying the module and looking at what it holds, or taking a "
        "prepared copy, and giving it back. A bare row runs the same operators as a peer's, so that what opening takes "
        "is what it loses.\n",
        "| model | way | whole call | the model's pass | opening | rest |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in found:
        opening = "" if each.opening is None else f"{each.opening:.1f}"
        lines.append(
            f"| {each.model} | {each.way} | {each.call:.1f} | {each.model_pass:.1f} | {opening} | {each.rest:.1f} |"
        )
    return "\n".join(lines) + "\n"
