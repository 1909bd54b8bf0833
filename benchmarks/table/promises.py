"""Cases of what a call must leave alone: other examples, the seed's draws, the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import shap
import torch
from captum import attr
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchcam import methods as torchcam
from zennit.attribution import Gradient, SmoothGrad
from zennit.composites import EpsilonPlus

import limelight as ll

from .maps import convolutional
from .row import Row, apart
from .sums import TARGET

SAMPLES, NOISE = 32, 0.15
CLASSES = [0, 2]


def _smooth_grad() -> Row:
    """Two examples together, against each alone, after the same seed."""

    def compared(run: Callable[[nn.Module, Tensor], Tensor]) -> float:
        maps = []
        for rows in (slice(2), slice(1), slice(1, 2)):
            net, x = convolutional()
            torch.manual_seed(0)
            maps.append(run(net, x[rows].clone()).detach())
        return apart(maps[0], torch.cat(maps[1:]))

    def ours() -> float:
        return compared(lambda net, x: ll.explain(net, x, ll.SmoothGrad(samples=SAMPLES), target=TARGET).values)

    def captum() -> float:
        def run(net: nn.Module, x: Tensor) -> Tensor:
            tunnel = attr.NoiseTunnel(attr.Saliency(net))
            found: Tensor = tunnel.attribute(
                x.requires_grad_(), nt_samples=SAMPLES, stdevs=NOISE, target=TARGET, abs=False
            )
            return found

        return compared(run)

    def zennit() -> float:
        def run(net: nn.Module, x: Tensor) -> Tensor:
            with SmoothGrad(net, n_iter=SAMPLES, noise_level=NOISE) as attributor:
                found: Tensor = attributor(x.requires_grad_(), torch.eye(3)[[TARGET] * len(x)])[1]
            return found

        return compared(run)

    sides = {"limelight": ours, "captum": captum, "zennit": zennit}
    return Row("smooth-grad-batch", "SmoothGrad: two examples, together and alone, same seed", "the same maps", sides)


def _grad_cams() -> dict[str, Callable[[nn.Module, Tensor, list[int]], Tensor]]:
    """Grad-CAM at the same layer by each library, as `(n, h, w)`; zennit has none, and gives its LRP."""

    def ours(net: nn.Module, x: Tensor, classes: list[int]) -> Tensor:
        return ll.explain(net, x, "grad-cam", target=classes, layer="1").values[:, 0]

    def captum(net: Any, x: Tensor, classes: list[int]) -> Tensor:
        found: Tensor = attr.LayerGradCam(net, net[1]).attribute(x, classes, relu_attributions=True)
        return found[:, 0].detach()

    def grad_cam(net: Any, x: Tensor, classes: list[int]) -> Tensor:
        with GradCAM(net, [net[1]]) as run:
            return torch.from_numpy(run(x, [ClassifierOutputTarget(each) for each in classes]))

    def torch_cam(net: nn.Module, x: Tensor, classes: list[int]) -> Tensor:
        with torchcam.GradCAM(net, "1") as run:
            found: Tensor = run(classes, net(x))[0]
        return found

    def zennit(net: nn.Module, x: Tensor, classes: list[int]) -> Tensor:
        with Gradient(net, EpsilonPlus()) as run:
            found: Tensor = run(x.clone().requires_grad_(), torch.eye(3)[classes])[1]
        return found.sum(1).detach()

    return {
        "limelight": ours,
        "captum": captum,
        "pytorch-grad-cam": grad_cam,
        "torchcam": torch_cam,
        "zennit": zennit,
    }


def _targets() -> Row:
    def of(run: Callable[[nn.Module, Tensor, list[int]], Tensor]) -> Callable[[], float]:
        def compared() -> float:
            net, x = convolutional()
            together = run(net, x, CLASSES)
            alone = [run(net, x[i : i + 1], CLASSES[i : i + 1]) for i in range(2)]
            return apart(together, torch.cat(alone))

        return compared

    sides = {library: of(run) for library, run in _grad_cams().items()}
    notes = {"zennit": "LRP; it has no Grad-CAM"}
    title = "Grad-CAM of two examples, a class for each, in one call"
    return Row("per-example-targets", title, "the maps of two calls", sides, notes=notes)


def changes(before: dict[str, Any], after: dict[str, Any]) -> int:
    return sum(before.get(name) != after.get(name) for name in {*before, *after})


def state(net: nn.Module) -> dict[str, Any]:
    """What a call could leave behind: hooks, modes, attributes, gradients, frozen parameters."""
    found: dict[str, Any] = {}
    for name, module in net.named_modules():
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            found[f"{name}.{hooks}"] = len(getattr(module, hooks))
        found |= {f"{name}.training": module.training, f"{name}.class": type(module)}
        found[f"{name}.attributes"] = sorted(set(vars(module)) - {"_is_full_backward_hook", "_compiled_call_impl"})
    for name, parameter in net.named_parameters():
        found |= {f"{name}.frozen": parameter.requires_grad, f"{name}.gradient": parameter.grad is not None}
        found[f"{name}.values"] = parameter.detach().sum().item()
    return found


def _unchanged(after_an_error: bool) -> Row:
    def of(run: Callable[[nn.Module, Tensor, list[int]], Any], training: bool = True) -> Callable[[], float]:
        def compared() -> float:
            net, x = convolutional()
            net.train(training)
            before = state(net)
            try:
                run(net, x, [99, 99] if after_an_error else CLASSES)
            except (IndexError, RuntimeError, ValueError, AssertionError):
                if not after_an_error:
                    raise
            return float(changes(before, state(net)))

        return compared

    runs = _grad_cams()

    def deep(net: nn.Module, x: Tensor, classes: list[int]) -> Any:
        if after_an_error:
            return shap.DeepExplainer(net, x).shap_values(x[:, :1])  # a channel only
        return shap.DeepExplainer(net, x).shap_values(x, check_additivity=False)

    sides = {library: of(run) for library, run in runs.items()} | {"shap": of(deep)}
    notes = {"zennit": "LRP", "shap": "DeepExplainer"}
    words = "after a call that raised (a class that does not exist)" if after_an_error else "after a call"
    name = "unchanged-after-error" if after_an_error else "unchanged"
    right = "no hook, mode, attribute or gradient is other than before"
    return Row(name, f"the model {words}, training mode before", right, sides, 0, "", notes)


def _training_mode() -> Row:
    """A network in training mode, whose batch norm mixes the rows of a batch."""

    def make() -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        return net, torch.rand(2, 3, 8, 8)

    def compared(run: Callable[[nn.Module, Tensor], Tensor]) -> float:
        net, x = make()
        together = run(net, x)
        net, _ = make()
        return apart(together[:1], run(net, x[:1]))

    def ours() -> float:
        return compared(lambda net, x: ll.explain(net, x, "gradient", target=TARGET).values)

    def captum() -> float:
        return compared(
            lambda net, x: attr.Saliency(net).attribute(x.clone().requires_grad_(), TARGET, abs=False).detach()
        )

    def zennit() -> float:
        def run(net: nn.Module, x: Tensor) -> Tensor:
            with Gradient(net) as attributor:
                found: Tensor = attributor(x.clone().requires_grad_(), torch.eye(3)[[TARGET] * len(x)])[1]
            return found.detach()

        return compared(run)

    sides = {"limelight": ours, "captum": captum, "zennit": zennit}
    title = "the gradient of a network left in training mode, with batch norm"
    return Row("training-mode", title, "one example's map, alone and beside another", sides)


ROWS = (_smooth_grad(), _targets(), _training_mode(), _unchanged(False), _unchanged(True))
