"""What is seen of a model in training, and where it is written; loggers that aren't installed are skipped."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import limelight as ll
from limelight.loggers import MLflow, Seen, TensorBoard, Watch, WeightsAndBiases, lightning_callback

from .networks import pictures

pytestmark = pytest.mark.quick
X = pictures(2)
METHODS = ["input-x-gradient", "grad-cam"]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 3),
    ).double()  # fmt: skip


def trained(net: nn.Module, watch: Watch | None, epochs: int = 3) -> list[Tensor]:
    """Train with dropout, and return the losses."""
    optimiser = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    torch.manual_seed(7)
    losses = []
    for epoch in range(epochs):
        net.train()
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(net(X + 0.1 * torch.randn_like(X)), torch.tensor([0, 1]))
        loss.backward()
        if watch is not None:
            watch.after_epoch(net, epoch)  # between backward and step, where gradients would be lost
        optimiser.step()
        losses.append(loss.detach())
    return losses


class Kept:
    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def write(self, seen: Seen) -> None:
        self.seen.append(seen)


def test_training_goes_on_as_without_a_watch() -> None:
    """Losses, weights, buffers, mode and gradients bit for bit; random numbers of torch, NumPy and Python too."""
    plain, watched = network(), network()
    random.seed(1), np.random.seed(1)
    expected = trained(plain, None)
    numbers = random.random(), np.random.rand()
    random.seed(1), np.random.seed(1)
    kept = Kept()
    watch = Watch(X, [*METHODS, ll.SmoothGrad(samples=4)], target=[0, 1], checks="randomisation", to=[kept])
    assert trained(watched, watch) == expected and len(kept.seen) == 3
    assert (random.random(), np.random.rand()) == numbers
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert watched.training and all(each.training for each in watched.modules())
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad)


def test_each_look_is_at_the_weights_of_its_epoch() -> None:
    kept, net = Kept(), network()
    states = []
    for epoch in range(5):
        trained(net, None, 1)
        states.append(copy.deepcopy(net).eval())
        Watch(X, METHODS, target=[0, 1], checks=["completeness", "gini"], every=2, to=[kept]).after_epoch(net, epoch)
    assert [seen.epoch for seen in kept.seen] == [0, 2, 4]
    for seen in kept.seen:
        expected = ll.explain(states[seen.epoch], X, METHODS, target=[0, 1])
        for name, each in expected.items():
            torch.testing.assert_close(seen.panel[name].values, each.values)
        gini = ll.check(states[seen.epoch], X, METHODS[0], "gini", target=[0, 1])[0].mean
        assert seen.figures()["input-x-gradient/gini"] == pytest.approx(gini)
        assert "grad-cam/completeness" not in seen.figures()  # it promises no sum
        assert seen.drawings()["picture 1"].tobytes() == seen.panel.show(1).tobytes() and len(seen.drawings()) == 2


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="every: 0"):
        Watch(X, every=0)
    assert Watch(X, "gradient").look(network(), 0).findings == {}


@pytest.fixture
def seen() -> Seen:
    return Watch(X, METHODS, target=[0, 1], checks="gini").look(network(), 3)


def test_tensorboard_holds_the_figures_and_the_pictures(seen: Seen, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard, of the extra 'loggers', is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as board:
        TensorBoard(board).write(seen)
    events = EventAccumulator(str(tmp_path)).Reload()
    found = {tag.removeprefix("limelight/"): events.Scalars(tag)[0] for tag in events.Tags()["scalars"]}
    assert {name: each.value for name, each in found.items()} == pytest.approx(seen.figures())
    assert {each.step for each in found.values()} == {3}
    (image,) = events.Images("limelight/picture 1")
    assert (image.width, image.height) == seen.drawings()["picture 1"].size and image.step == 3


def test_weights_and_biases_offline(seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb, of the extra 'loggers', is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(mode="offline", dir=str(tmp_path), project="limelight-test")
    try:
        WeightsAndBiases(run).write(seen)
        summary = dict(run.summary)
    finally:
        run.finish()
    assert summary["epoch"] == 3
    for name, value in seen.figures().items():
        assert summary[f"limelight/{name}"] == pytest.approx(value)
    files = sorted(tmp_path.rglob("*.png"))
    assert len(files) == 2
    with Image.open(next(each for each in files if "picture 1" in str(each))) as image:
        assert image.convert("RGB").tobytes() == seen.drawings()["picture 1"].convert("RGB").tobytes()


def test_mlflow_holds_metrics_and_artifacts(seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow, of the extra 'loggers', is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "runs").as_uri())
    run = client.create_run(client.create_experiment("test")).info.run_id
    MLflow(client, run).write(seen)
    metrics = client.get_run(run).data.metrics
    assert metrics == pytest.approx({f"limelight/{name}": value for name, value in seen.figures().items()})
    assert [each.path for each in client.list_artifacts(run, "limelight/epoch-3")] == [
        "limelight/epoch-3/picture 0.png",
        "limelight/epoch-3/picture 1.png",
    ]


def test_lightning_writes_to_the_trainers_loggers(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning, of the extra 'loggers', is not installed")
    pytest.importorskip("tensorboard", reason="tensorboard, of the extra 'loggers', is not installed")
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)  # type: ignore[no-any-return]

        def training_step(self, batch: Any, place: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, torch.tensor([0, 1])), 2)

    def fit(name: str, *callbacks: Any) -> nn.Module:
        lightning.seed_everything(3)
        module = Module()
        trainer = lightning.Trainer(
            max_epochs=4, logger=TensorBoardLogger(str(tmp_path), name), callbacks=list(callbacks), accelerator="cpu",
            enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, log_every_n_steps=1,
        )  # fmt: skip
        trainer.fit(module, data)
        return module

    kept = Kept()
    for part in ("net", ""):
        kept.seen.clear()
        watch = Watch(X, METHODS, target=[0, 1], checks="gini", every=2, to=[kept])
        watched, plain = fit(f"with {part}", lightning_callback(watch, network=part)), fit("without")
        assert [each.epoch for each in kept.seen] == [0, 2]
        for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
            assert torch.equal(a, b)
        events = EventAccumulator(str(tmp_path / f"with {part}" / "version_0")).Reload()
        assert [each.step for each in events.Images("limelight/picture 0")] == [0, 2]
        assert [each.value for each in events.Scalars("limelight/grad-cam/gini")] == pytest.approx(
            [each.figures()["grad-cam/gini"] for each in kept.seen]
        )


def test_the_missing_extra_is_named(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("lightning", "lightning.pytorch", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"limelight\[loggers\]"):
        lightning_callback(Watch(X))
    with pytest.raises(ImportError, match=r"limelight\[loggers\]"):
        WeightsAndBiases(None).write(seen)
