"""A callback of Lightning that writes to the trainer's own loggers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .watch import Watch, Writer
from .writers import MLflow, TensorBoard, WeightsAndBiases


def lightning_callback(watch: Watch, network: str = "") -> Any:
    """Return a `lightning.Callback` that looks at the model after each epoch of training.

        trainer = lightning.Trainer(callbacks=[lightning_callback(Watch(pictures, target=labels), network="net")])

    What is seen goes to `watch.to`, and to those of the trainer's loggers that take pictures: TensorBoard, Weights &
    Biases, MLflow. `network`: the dotted name of the LightningModule's part that is explained; "" is the whole module.
    Of several processes only the first looks. Raises ImportError without Lightning.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError as error:
        raise ImportError(
            f"the callback needs the extra 'loggers': pip install 'limelight[loggers]' ({error})"
        ) from error

    class LimelightCallback(Callback):  # type: ignore[misc]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            epoch = trainer.current_epoch
            if not trainer.is_global_zero or epoch % watch.every:
                return
            pl_module.trainer = None  # else the snapshot would copy the trainer, with its data and loggers
            try:
                seen = watch.look(pl_module.get_submodule(network), epoch)
            finally:
                pl_module.trainer = trainer
            for writer in (*watch.to, *writers_of(trainer.loggers)):
                writer.write(seen)

    return LimelightCallback()


def writers_of(loggers: Sequence[Any]) -> list[Writer]:
    """Return a writer for each of Lightning's loggers that takes pictures, by the object that it wraps."""
    found: list[Writer] = []
    for logger in loggers:
        match type(logger).__name__:
            case "TensorBoardLogger":
                found.append(TensorBoard(logger.experiment))
            case "WandbLogger":
                found.append(WeightsAndBiases(logger.experiment))
            case "MLFlowLogger":
                found.append(MLflow(logger.experiment, logger.run_id))
    return found
