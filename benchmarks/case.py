"""A case: one of our methods against one peer on one scene, and what came out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import limelight as ll

from .counting import Passes, bare, counted
from .scenes import Scene, scene
from .timing import Effort, Pairs, in_turn, seconds

Error = Callable[[Scene, Tensor, Tensor], str]


@dataclass(frozen=True)
class Peer:
    """Another way to the same map: `run` gives it as a tensor. What `prepare` does is neither counted nor timed."""

    name: str
    run: Callable[[Scene], Tensor]
    prepare: Callable[[Scene], object] = lambda scene: None


def difference(scene: Scene, ours: Tensor, theirs: Tensor) -> str:
    """For equal definitions: max |ours - theirs| / max |theirs|."""
    error = (ours - theirs).detach().abs().max() / theirs.detach().abs().max()
    return f"{float(error):.1e} to the peer"


def black(scene: Scene) -> ll.Baseline:
    return ll.Black()


@dataclass(frozen=True)
class Case:
    """`target` is the ratio peer / ours that performance.md wants of a prepared model. Of several `peers` (settings of
    one peer) the fastest in the warm-up is compared. `quick=False` leaves the case out of a quick run."""

    name: str
    model: str
    ours: ll.Method | tuple[ll.Method, ...]
    peers: tuple[Peer, ...]
    target: float = 1.3
    error: Error = difference
    baseline: Callable[[Scene], ll.Baseline] = black
    quick: bool = True
    at_layer: bool = False  # ours is told the layer, as the peer is, instead of searching for it

    @property
    def methods(self) -> tuple[ll.Method, ...]:
        return self.ours if isinstance(self.ours, tuple) else (self.ours,)

    def explain(self, at: Scene, prepared: bool = False) -> Tensor:
        """Our maps, flattened side by side when they are several."""
        model = at.prepared if prepared else at.model
        layer = at.layer if self.at_layer else None
        panel = ll.explain(model, at.x, self.methods, target=at.target, baseline=self.baseline(at), layer=layer)
        maps = [each.values for each in panel.values()]
        return maps[0] if len(maps) == 1 else torch.cat([each.flatten() for each in maps])

    def measure(self, effort: Effort) -> Outcome:
        at = scene(self.model)
        with counted(at.model) as our_passes:
            ours = self.explain(at)
        warm = [_warmed(at, peer) for peer in self.peers]
        _, peer, theirs, their_passes = min(warm, key=lambda each: each[0])
        self.explain(at, prepared=True)
        runs = (lambda: self.explain(at), lambda: self.explain(at, prepared=True), lambda: peer.run(at))
        bare_spent, prepared_spent, peer_spent = in_turn(runs, effort)
        pairs, prepared = Pairs(bare_spent, peer_spent), Pairs(prepared_spent, peer_spent)
        share = None
        if at.x.device.type == "cuda":
            alone = bare(at, our_passes)
            alone()
            share = min(seconds(alone) for _ in range(5)) / min(pairs.ours)
        error = self.error(at, ours, theirs)
        return Outcome(self, peer.name, pairs, prepared, our_passes, their_passes, error, share)


def _warmed(at: Scene, peer: Peer) -> tuple[float, Peer, Tensor, Passes]:
    """One counted run of the peer. Scenes are warm by then; only a choice between settings is timed here."""
    found: list[Tensor] = []
    peer.prepare(at)
    with counted(at.model) as passes:
        spent = seconds(lambda: found.append(peer.run(at)))
    return spent, peer, found[0], passes


@dataclass(frozen=True)
class Outcome:
    """A measured case: `pairs` with the bare model, `prepared` with the prepared one.

    `share`: our rows per second over the bare model's, where a GPU ran it.
    """

    case: Case
    peer: str
    pairs: Pairs
    prepared: Pairs
    our_passes: Passes
    their_passes: Passes
    error: str
    share: float | None = None

    @property
    def shortfalls(self) -> list[str]:
        """What is missing: to the peer's speed for the bare model, to the target for the prepared one."""
        found = []
        least = min(1.0, self.case.target)
        if self.pairs.ratio < least:
            found.append(f"bare, slower than the peer: {self.pairs.ratio:.2f} times its speed")
        if self.prepared.ratio < least:
            found.append(f"prepared, slower than the peer: {self.prepared.ratio:.2f} times its speed")
        elif self.prepared.ratio < self.case.target:
            short = f"short of the target {self.case.target:.2f}"
            found.append(f"prepared, {self.prepared.ratio:.2f} times the peer's speed, {short}")
        return found
