"""Training that can be stopped after any epoch and resumed with the same resulting weights."""

from __future__ import annotations

import copy
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ...base.files import write_whole
from ...models.rock_paper_scissors import CLASSES, SIZE, PublishedHands, SmallHands
from .data import Part

NETWORKS: dict[str, type[PublishedHands] | type[SmallHands]] = {"published": PublishedHands, "small": SmallHands}
Network = TypeVar("Network", bound=PublishedHands | SmallHands)
_ROWS = 32  # of a pass without training
_INPUTS = 256 * 3 * 3  # of the widest convolution
_PATIENCE = 6  # epochs without a better validation accuracy, after which training ends
_LAST, _BEST = "last.safetensors", "best.safetensors"


class Phase(NamedTuple):
    """Epochs at one picture size: side in pixels, number of epochs, learning rate of AdamW, photographs for a step."""

    side: int
    epochs: int
    rate: float
    batch: int


@dataclass(frozen=True)
class Recipe:
    """The schedule of a training. Within a phase the rate falls to a tenth along a half cosine."""

    phases: tuple[Phase, ...]

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def at(self, epoch: float) -> Phase:
        """Return the phase at a moment counted in epochs, with the rate at that moment."""
        start = 0.0
        for phase in self.phases:
            if epoch < start + phase.epochs:
                done = (epoch - start) / phase.epochs
                cosine = float(torch.cos(torch.tensor(done * torch.pi)))
                return phase._replace(rate=phase.rate * (0.55 + 0.45 * cosine))
            start += phase.epochs
        raise ValueError(f"epoch: {epoch}; the recipe has {self.epochs}")


def recipe_of(model: str, epochs: int | None = None) -> Recipe:
    """Make the recipe: 30 epochs at full size for the published network, 5 at growing sizes for the small one.

    The small network averages over positions, so it takes pictures of any side, and an epoch at a third of the side
    costs a ninth. Only epochs at full size count for its accuracy.
    """
    if model == "published":
        return Recipe((Phase(SIZE, epochs or 30, 7e-4, 8),))
    left = total = epochs or 5
    phases = []
    for side, rate, batch in ((SIZE, 5e-4, 8), (SIZE * 7 // 10, 6e-4, 8), (SIZE // 2, 7e-4, 16)):
        share = min(left, max(round(total / 5), int(side == SIZE)))
        left -= share
        phases.append(Phase(side, share, rate, batch))
    phases.append(Phase(SIZE // 3, left, 1e-3, 16))
    return Recipe(tuple(phase for phase in reversed(phases) if phase.epochs))


@dataclass(frozen=True)
class Epoch:
    """The result of an epoch; `accuracy` is the validation accuracy at full size, None where it was not measured."""

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
    progress: Progress | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Train until the recipe or the patience ends; resume from a checkpoint in `folder`.

    The network is trained with batch normalisation, and validated and stored without it (`folded`).
    `folder`/last.safetensors holds the history after every epoch, and until the last epoch the weights and the
    optimiser's state; best.safetensors holds the network with the best validation accuracy. Each file is whole or
    absent. A resumed training gives the same weights as an uninterrupted one, on one machine and thread count. The
    global random state does not change.

    Raises ValueError that names the difference where the checkpoint has another model, seed or recipe.
    """
    recipe = recipe_of(model, epochs)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = normalised(NETWORKS[model]())
    optimiser = torch.optim.AdamW(_groups(network), weight_decay=1e-2, fused=True)
    identity = {"model": model, "seed": seed, "pictures": len(training), "phases": recipe.phases}
    checkpoint = Checkpoint(folder, json.loads(json.dumps(identity)))
    history = checkpoint.load(network, optimiser)
    while not _over(history, recipe):
        epoch, clock = len(history), time.perf_counter()
        loss = _one_epoch(network, optimiser, training, recipe, epoch, seed, progress)
        side = recipe.at(epoch).side
        plain = folded(network)
        accuracy = float((predict(plain, validation) == validation.y).double().mean()) if side == SIZE else None
        history.append(Epoch(epoch + 1, side, loss, accuracy, time.perf_counter() - clock))
        if history[-1] == best_of(history):
            write_whole(folder / _BEST, save(dict(plain.state_dict())))
        checkpoint.save(history, None if _over(history, recipe) else (network, optimiser))
        if on_epoch:
            on_epoch(history[-1])
    best = best_of(history)
    assert best is not None  # the last phase is at full size
    plain = folded(network)
    plain.load_state_dict(load_file(folder / _BEST))
    return Trained(plain.requires_grad_(False), history, best)


def normalised(network: Network) -> Network:
    """Add a batch normalisation [ioffe2015] after every convolution, in place, for fewer epochs of training."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, module in network.features.named_children():
        layers[name] = module
        if isinstance(module, nn.Conv2d):
            layers[name.replace("conv", "norm")] = nn.BatchNorm2d(module.out_channels)
    network.features = nn.Sequential(layers)
    return network


def folded(network: Network) -> Network:
    """Copy the network without the normalisations, with the published layers and the same outputs in eval mode.

    With running mean m and variance v, g (w x + b - m) / sqrt(v + eps) + c is a convolution with weights
    g w / sqrt(v + eps) and bias g (b - m) / sqrt(v + eps) + c.
    """
    plain = copy.deepcopy(network)
    plain.eval()
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, module in plain.features.named_children():
        if isinstance(module, nn.BatchNorm2d):
            before, convolution = layers.popitem()
            assert isinstance(convolution, nn.Conv2d)
            layers[before] = fuse_conv_bn_eval(convolution, module)
        else:
            layers[name] = module
    plain.features = nn.Sequential(layers)
    return plain


def best_of(history: Sequence[Epoch]) -> Epoch | None:
    """Return the first epoch with the highest validation accuracy, None before any was measured."""
    return max((each for each in history if each.accuracy is not None), key=lambda e: e.accuracy or 0, default=None)


def _groups(network: nn.Module) -> list[dict[str, Any]]:
    """Group the parameters, each with its share of the rate: 1, or less for weights of more than `_INPUTS` inputs.

    A step of Adam moves every weight by about the rate, and so a sum over n inputs by up to n times as much. At the
    rate for the convolutions, the sums over the 82,944 inputs of the published network's first linear layer would
    diverge in the first steps.
    """
    return [
        {"params": [each], "share": min(1.0, _INPUTS / each[0].numel()) if each.ndim > 1 else 1.0}
        for each in network.parameters()
    ]


def _over(history: Sequence[Epoch], recipe: Recipe) -> bool:
    best = best_of(history)
    return len(history) >= recipe.epochs or (best is not None and len(history) - best.epoch >= _PATIENCE)


def _one_epoch(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    training: Part,
    recipe: Recipe,
    epoch: int,
    seed: int,
    progress: Progress | None,
) -> float:
    """Train one epoch and return the mean loss. Order and flips depend only on the seed and the epoch."""
    random = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    batches = torch.randperm(len(training), generator=random).split(recipe.at(epoch).batch)
    network.train()
    total, seen = 0.0, 0
    for place, rows in enumerate(batches):
        now = recipe.at(epoch + place / len(batches))
        for group in optimiser.param_groups:
            group["lr"] = now.rate * group["share"]
        x = training.pixels(rows)
        for axis in (2, 3):  # a flipped hand seen from above is still a hand
            x = torch.where(torch.rand(len(x), 1, 1, 1, generator=random) < 0.5, x.flip(axis), x)
        if now.side != SIZE:
            x = F.interpolate(x, (now.side, now.side), mode="bilinear", antialias=True, align_corners=False)
        loss = F.cross_entropy(network(x), training.y[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        total, seen = total + float(loss.detach()) * len(rows), seen + len(rows)
        if progress:
            progress(place + 1, len(batches), total / seen)
    return total / len(training)


def predict(network: nn.Module, part: Part) -> Tensor:
    """Predict the class of each photograph, `(n,)`."""
    network.eval()
    with torch.inference_mode():
        rows = torch.arange(len(part)).split(_ROWS)
        return torch.cat([network(part.pixels(each)).argmax(1) for each in rows])


def confusion(predicted: Tensor, true: Tensor) -> Tensor:
    """Count the predictions `(3, 3)`: row = true class, column = predicted class."""
    n = len(CLASSES)
    return torch.bincount(true * n + predicted, minlength=n * n).view(n, n)


@dataclass(frozen=True)
class Checkpoint:
    """The files of one training in `folder`; `identity` holds the settings that a stored checkpoint must have."""

    folder: Path
    identity: dict[str, Any]

    def save(self, history: list[Epoch], state: tuple[nn.Module, torch.optim.Optimizer] | None) -> None:
        """Store the history and the state to resume from; None, which saves a gigabyte, after the last epoch."""
        tensors: dict[str, Tensor] = {}
        if state is not None:
            network, optimiser = state
            tensors = {f"weights.{name}": value.contiguous() for name, value in network.state_dict().items()} | {
                f"moments.{name}.{key}": value.contiguous()
                for name, parameter in network.named_parameters()
                for key, value in optimiser.state[parameter].items()
            }
        record = json.dumps({"identity": self.identity, "history": [asdict(each) for each in history]})
        write_whole(self.folder / _LAST, save(tensors, metadata={"training": record}))

    def load(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> list[Epoch]:
        """Return the history, empty without a checkpoint, and load the stored state into both arguments."""
        if not (self.folder / _LAST).exists():
            return []
        with safe_open(self.folder / _LAST, "pt") as file:
            record = json.loads(file.metadata()["training"])
            for name, wanted in self.identity.items():
                found = record["identity"].get(name)
                if found != wanted:
                    raise ValueError(
                        f"{str(self.folder)!r} holds a training with {name} {found}, and this one has {wanted}; "
                        "use another folder, or delete that one"
                    )
            history = [Epoch(**each) for each in record["history"]]
            if not file.keys():
                return history
            network.load_state_dict({name: file.get_tensor(f"weights.{name}") for name in network.state_dict()})
            for name, parameter in network.named_parameters():
                optimiser.state[parameter] = {
                    key: file.get_tensor(f"moments.{name}.{key}") for key in ("step", "exp_avg", "exp_avg_sq")
                }
        return history
