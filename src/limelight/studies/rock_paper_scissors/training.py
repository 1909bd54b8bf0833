"""Training by epochs that can be stopped after any of them and taken up again, to the same weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ...files import write_whole
from ...networks.rock_paper_scissors import CLASSES, SIZE, PublishedHands, SmallHands
from ...networks.weights import ModelError, read_state
from .data import Part

NETWORKS: dict[str, type[nn.Module]] = {"published": PublishedHands, "small": SmallHands}
_BATCH = 32


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: epochs at each size of picture, and the rate that AdamW starts each size with.

    Within a size the rate falls to a tenth along a half cosine; with one size and no fall (`falls` off) training can
    go on for as long as wanted. `patience` is the epochs without a better validation accuracy that end it.
    """

    phases: tuple[tuple[int, int, float], ...]  # (side in pixels, epochs, rate)
    falls: bool = True
    patience: int = 6

    @property
    def epochs(self) -> int:
        return sum(epochs for _, epochs, _ in self.phases)

    def at(self, epoch: float) -> tuple[int, float]:
        """The side and the rate at a moment counted in epochs."""
        start = 0.0
        for side, epochs, rate in self.phases:
            if epoch < start + epochs:
                done = (epoch - start) / epochs
                cosine = float(torch.cos(torch.tensor(done * torch.pi)))
                return side, rate * (0.55 + 0.45 * cosine) if self.falls else rate
            start += epochs
        raise ValueError(f"epoch: {epoch}; the recipe has {self.epochs}")


def recipe_of(model: str, epochs: int | None = None) -> Recipe:
    """The published network at full size throughout, 30 epochs; the small one mostly at a third and half, 14.

    Averaging over positions lets the small network read pictures of any side: an epoch at a third of the side costs a
    ninth. What it learned there has to get used to larger hands, so the first epoch at full size is a phase of its own.
    Only epochs at full size count for its accuracy.
    """
    if model == "published":
        return Recipe(((SIZE, epochs or 30, 3e-4),), falls=False)
    epochs = epochs or 14
    full = max(1, round(epochs * 3 / 14))
    half = min(epochs - full, round(epochs * 4 / 14))
    third = epochs - full - half
    phases = ((SIZE // 3, third, 1e-3), (SIZE // 2, half, 7e-4), (SIZE, 1, 4e-4), (SIZE, full - 1, 7e-4))
    return Recipe(tuple(phase for phase in phases if phase[1]))


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to; `accuracy` is the validation accuracy at full size, None where it was not measured."""

    epoch: int
    side: int
    loss: float
    accuracy: float | None
    seconds: float


@dataclass
class Trained:
    """The network with the best validation accuracy, and the history of its training."""

    network: nn.Module
    history: list[Epoch]
    best: Epoch


Progress = Callable[[int, int, float], None]  # batches done, batches in all, loss


def train(
    model: str,
    training: Part,
    validation: Part,
    folder: Path,
    *,
    epochs: int | None = None,
    seed: int = 0,
    start: Path | None = None,
    progress: Progress | None = None,
    told: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Train until the recipe or the patience ends, and go on from `folder` where a checkpoint lies in it.

    `folder`/last.safetensors holds the weights, the optimiser's state and the history after every epoch, best.
    safetensors the weights with the best validation accuracy; each appears whole or not at all. Stopped and resumed
    gives the same weights as undisturbed, on one machine and thread count. The global random state is left as it was.

    `start` is a file of weights to begin with instead of random ones, where names and shapes fit: the published network
    can take the convolutions of the small one.

    Raises ValueError where the checkpoint is of another model, seed, start or recipe, naming the difference, and
    ModelError for weights that can't be read or of which none fits.
    """
    recipe = recipe_of(model, epochs)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NETWORKS[model]()
    begun = [] if start is None else begin_with(network, start)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    # How far a run with no falling rate goes is no part of what it is: it may be taken up for more epochs.
    identity: dict[str, Any] = {"model": model, "seed": seed, "pictures": len(training), "start": begun}
    identity |= {"phases": recipe.phases} if recipe.falls else {"rate": recipe.phases[0][2]}
    checkpoint = Checkpoint(folder, json.loads(json.dumps(identity)))
    history = checkpoint.load(network, optimiser)
    while len(history) < recipe.epochs and not _exhausted(history, recipe.patience):
        epoch, clock = len(history), time.perf_counter()
        loss = _one_epoch(network, optimiser, training, recipe, epoch, seed, progress)
        side = recipe.at(epoch)[0]
        counts = side == SIZE
        accuracy = float((predict(network, validation) == validation.y).double().mean()) if counts else None
        history.append(Epoch(epoch + 1, side, loss, accuracy, time.perf_counter() - clock))
        checkpoint.save(network, optimiser, history)
        if told:
            told(history[-1])
    best = best_of(history)
    assert best is not None  # the last phase is at full size
    checkpoint.load_best(network)
    return Trained(network.eval().requires_grad_(False), history, best)


def begin_with(network: nn.Module, path: Path) -> list[str]:
    """Copy every weight of the file whose name and shape the network has; the file's digest and the names."""
    state, own = read_state(path), network.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise ModelError(f"start={str(path)!r}: no weight fits {type(network).__name__}")
    network.load_state_dict(own | fitting)
    return [blake2b(path.read_bytes(), digest_size=8).hexdigest(), *fitting]


def best_of(history: Sequence[Epoch]) -> Epoch | None:
    """The first epoch with the highest validation accuracy."""
    return max((each for each in history if each.accuracy is not None), key=lambda e: e.accuracy or 0, default=None)


def _exhausted(history: Sequence[Epoch], patience: int) -> bool:
    best = best_of(history)
    return best is not None and len(history) - best.epoch >= patience


def _one_epoch(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    training: Part,
    recipe: Recipe,
    epoch: int,
    seed: int,
    progress: Progress | None,
) -> float:
    """The mean loss. Order and mirrorings depend on the seed and the epoch alone."""
    random = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    batches = torch.randperm(len(training), generator=random).split(_BATCH)
    network.train()
    total = 0.0
    for place, rows in enumerate(batches):
        side, rate = recipe.at(epoch + place / len(batches))
        for group in optimiser.param_groups:
            group["lr"] = rate
        x = _mirrored(training.pixels(rows), random)
        if side != SIZE:
            x = F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
        loss = F.cross_entropy(network(x), training.y[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        total += float(loss.detach()) * len(rows)
        if progress:
            progress(place + 1, len(batches), total / min((place + 1) * _BATCH, len(training)))
    return total / len(training)


def _mirrored(x: Tensor, random: torch.Generator) -> Tensor:
    """Each photograph mirrored left to right and top to bottom, or not: a hand seen from above is a hand still."""
    for axis in (2, 3):
        chosen = torch.rand(len(x), 1, 1, 1, generator=random) < 0.5
        x = torch.where(chosen, x.flip(axis), x)
    return x


def predict(network: nn.Module, part: Part) -> Tensor:
    """The class of each photograph, `(n,)`."""
    network.eval()
    with torch.inference_mode():
        rows = torch.arange(len(part)).split(_BATCH)
        return torch.cat([network(part.pixels(each)).argmax(1) for each in rows])


def confusion(predicted: Tensor, true: Tensor) -> Tensor:
    """Counts `(3, 3)`: row = true class, column = predicted class."""
    n = len(CLASSES)
    return torch.bincount(true * n + predicted, minlength=n * n).view(n, n)


@dataclass(frozen=True)
class Checkpoint:
    """The files of one training in `folder`; `identity` is what a checkpoint must have been made with."""

    folder: Path
    identity: dict[str, Any]

    @property
    def last(self) -> Path:
        return self.folder / "last.safetensors"

    @property
    def best(self) -> Path:
        return self.folder / "best.safetensors"

    def save(self, network: nn.Module, optimiser: torch.optim.Optimizer, history: list[Epoch]) -> None:
        weights = {f"weights.{name}": value.contiguous() for name, value in network.state_dict().items()}
        if history[-1] == best_of(history):
            write_whole(self.best, save(dict(network.state_dict())))
        moments = {
            f"moments.{name}.{key}": value.contiguous()
            for name, parameter in network.named_parameters()
            for key, value in optimiser.state[parameter].items()
        }
        record = json.dumps({"identity": self.identity, "history": [asdict(each) for each in history]})
        write_whole(self.last, save(weights | moments, metadata={"training": record}))

    def load(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> list[Epoch]:
        """Put the checkpoint into both, in place; its history, empty where there is none."""
        if not self.last.exists():
            return []
        with safe_open(self.last, "pt") as file:
            record = json.loads(file.metadata()["training"])
            for name, wanted in self.identity.items():
                if record["identity"].get(name) != wanted:
                    raise ValueError(
                        f"{str(self.folder)!r} holds a training with {name} {record['identity'].get(name)}, and this "
                        f"one has {wanted}; use another folder, or delete that one"
                    )
            network.load_state_dict({name: file.get_tensor(f"weights.{name}") for name in network.state_dict()})
            for name, parameter in network.named_parameters():
                optimiser.state[parameter] = {
                    key: file.get_tensor(f"moments.{name}.{key}") for key in ("step", "exp_avg", "exp_avg_sq")
                }
        return [Epoch(**each) for each in record["history"]]

    def load_best(self, network: nn.Module) -> None:
        with safe_open(self.best, "pt") as file:
            network.load_state_dict({name: file.get_tensor(name) for name in network.state_dict()})
