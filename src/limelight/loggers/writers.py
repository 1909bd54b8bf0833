"""Writers to TensorBoard, Weights & Biases and MLflow, each around the library's own object."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from .watch import Seen

PREFIX = "limelight"


@dataclass(frozen=True)
class TensorBoard:
    """Write to a `torch.utils.tensorboard.SummaryWriter`: a scalar for each figure and an image for each picture."""

    board: Any

    def write(self, seen: Seen) -> None:
        """Write with the epoch as the step."""
        for name, value in seen.figures().items():
            self.board.add_scalar(f"{PREFIX}/{name}", value, seen.epoch)
        for name, image in seen.drawings().items():
            self.board.add_image(f"{PREFIX}/{name}", np.asarray(image), seen.epoch, dataformats="HWC")


@dataclass(frozen=True)
class WeightsAndBiases:
    """Write to a run of Weights & Biases, as `wandb.init()` returns it. Raises ImportError without wandb."""

    run: Any

    def write(self, seen: Seen) -> None:
        """Write all at once, with the epoch as a value of its own: steps belong to the training."""
        try:
            import wandb
        except ImportError as error:
            raise ImportError(
                f"this writer needs the extra 'loggers': pip install 'limelight[loggers]' ({error})"
            ) from error
        images = {name: wandb.Image(image) for name, image in seen.drawings().items()}
        document = {f"{PREFIX}/{name}": value for name, value in {**seen.figures(), **images}.items()}
        self.run.log({**document, "epoch": seen.epoch})


@dataclass(frozen=True)
class MLflow:
    """Write to a run of MLflow by an `mlflow.MlflowClient`; `run_id` is `run.info.run_id`."""

    client: Any
    run_id: str

    def write(self, seen: Seen) -> None:
        """Write metrics with the epoch as the step, and images as artifacts `limelight/epoch-3/picture 0.png`."""
        for name, value in seen.figures().items():
            plain = re.sub(r"[^\w\-. /]", "_", f"{PREFIX}/{name}")  # what MLflow takes as a name
            self.client.log_metric(self.run_id, plain, value, step=seen.epoch)
        for name, image in seen.drawings().items():
            self.client.log_image(self.run_id, image, f"{PREFIX}/epoch-{seen.epoch}/{name}.png")
