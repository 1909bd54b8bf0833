"""Models that runs load by name, `tests.runs.networks:plain`; those of the faults break on marked pictures."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import limelight as ll
from limelight.models.pictures import Preprocessing
from limelight.runs import beginning, durable, sources

SIDE = 16


class Small(nn.Module):
    """Two convolutions, ReLU, mean, linear: (rows, 3, H, W) to three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x).mean((2, 3)))
        return logits


def plain() -> ll.ImageModel:
    return _model(Small())


def slow() -> ll.ImageModel:
    """A run of it lasts long enough to be ended from outside."""
    model = plain()
    model.register_forward_pre_hook(lambda module, args: time.sleep(0.05))
    return model


def sleepy() -> ll.ImageModel:
    """A row takes 5 ms, however busy the machine is."""
    model = plain()
    model.network.register_forward_pre_hook(lambda module, args: time.sleep(0.005 * len(args[0])))
    return model


def _among_two(module: nn.Module, args: tuple[Tensor, ...]) -> None:
    """Count a worker's rows in a file of its own, and wait for the first ones until two workers are there."""
    folder = Path(os.environ["LIMELIGHT_TEST_FLAG"])
    with (folder / str(os.getpid())).open("a") as file:
        file.write(f"{len(args[0])}\n")
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    time.sleep(0.02 * len(args[0]))


def among_two() -> ll.ImageModel:
    """A run of two workers, of which none is ahead of the other at the start; a row takes 20 ms."""
    model = plain()
    if multiprocessing.parent_process() is not None:
        model.network.register_forward_pre_hook(_among_two)
    return model


class Marked(nn.Module):
    """Does `what` to a picture whose first pixel is all red, and is `Small` for the others."""

    def __init__(self, what: Callable[[], None]) -> None:
        super().__init__()
        self.small, self.what = Small(), what

    def forward(self, x: Tensor) -> Tensor:
        if bool((x[:, :, 0, 0] == torch.tensor([1.0, 0.0, 0.0])).all(1).any()):
            self.what()
        logits: Tensor = self.small(x)
        return logits


def _model(network: nn.Module) -> ll.ImageModel:
    network.load_state_dict({f"{'small.' * isinstance(network, Marked)}{k}": v for k, v in _weights().items()})
    return ll.ImageModel(network, Preprocessing(size=SIDE, crop_fraction=1.0), name="small")


def _weights() -> dict[str, Tensor]:
    """Return the same weights in every thread: threads share the global generator, so it has one of its own."""
    random = torch.Generator().manual_seed(0)
    empty = Small().state_dict()
    # The bounds that torch's own layers draw from.
    spread = {name: each[0].numel() ** -0.5 for name, each in empty.items() if each.ndim > 1}
    bound = {name: spread[name.replace("bias", "weight")] for name in empty}
    return {k: torch.empty_like(v).uniform_(-bound[k], bound[k], generator=random) for k, v in empty.items()}


def lethal() -> ll.ImageModel:
    """Marked pictures kill the worker."""
    return _model(Marked(lambda: os.kill(os.getpid(), signal.SIGKILL)))


def _break() -> None:
    raise KeyError("a fault of the model")


def breaking() -> ll.ImageModel:
    """Marked pictures raise what nobody expects."""
    return _model(Marked(_break))


def _fill_memory() -> None:
    torch.empty(1 << 40, dtype=torch.uint8)  # a terabyte


def hungry() -> ll.ImageModel:
    """Marked pictures need more memory than there is, unless LIMELIGHT_TEST_PLENTY says that there is enough."""
    return _model(Marked((lambda: None) if "LIMELIGHT_TEST_PLENTY" in os.environ else _fill_memory))


def limited() -> ll.ImageModel:
    """A worker that may address no more than it does now: it cannot explain anything."""
    if multiprocessing.parent_process() and "LIMELIGHT_TEST_PLENTY" not in os.environ:
        pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (pages + (1 << 20), resource.RLIM_INFINITY))
    return plain()


def small_disk() -> ll.ImageModel:
    """A worker whose files may have no more than 3,000 bytes."""
    if multiprocessing.parent_process() and "LIMELIGHT_TEST_PLENTY" not in os.environ:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
    return plain()


def killed() -> ll.ImageModel:
    """The process dies at a write point, as LIMELIGHT_TEST_KILL says: "who,folder".

    Each life of a worker takes the next point from the folder, and dies the second time it is there; a driver takes
    one, and dies the first time.
    """
    who, folder = os.environ.get("LIMELIGHT_TEST_KILL", "nobody,").split(",")
    worker = multiprocessing.parent_process() is not None
    points = sorted(Path(folder).iterdir()) if folder else []
    if points and who == ("worker" if worker else "driver"):
        point = points[0].read_text()
        points[0].unlink()
        left = itertools.count(2 if worker else 1, -1)

        def reached(name: str) -> None:
            if name == point and next(left) == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        durable.reached = reached
    return plain()


def wider() -> ll.ImageModel:
    """Another model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return ll.ImageModel(Small(), Preprocessing(size=SIDE, crop_fraction=1.0), name="small")


def _die_once() -> None:
    flag = Path(os.environ["LIMELIGHT_TEST_FLAG"])
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def lethal_once() -> ll.ImageModel:
    """The first worker that sees a marked picture dies."""
    return _model(Marked(_die_once))


class _LethalToOpen(ll.ImageModel):
    """Pictures whose first pixel is all red kill the worker while they are decoded."""

    def prepare(self, picture: Any) -> Any:
        if picture.image.getpixel((0, 0)) == (255, 0, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(picture)


def lethal_to_open() -> ll.ImageModel:
    model = plain()
    return _LethalToOpen(model.network, model.preprocessing, name="small")


def listing_slowly() -> ll.ImageModel:
    """The driver of a command lists 20 examples at once, and then one in 20 seconds."""
    if multiprocessing.parent_process() is None and "limelight" in Path(sys.argv[0]).parts:
        beginning.find_examples = _slowly(sources.find_examples)
    return plain()


def _slowly(listed: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    def slow(*asked: Any) -> Iterator[Any]:
        for i, each in enumerate(listed(*asked)):
            time.sleep(20 if i >= 20 else 0)
            yield each

    return slow
