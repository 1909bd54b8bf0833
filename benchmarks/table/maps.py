"""Cases of maps that a formula gives: guided backpropagation and class activation maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from captum import attr
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, GuidedBackpropReLUModel
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchcam import methods as torchcam
from zennit.attribution import Gradient
from zennit.composites import GuidedBackprop

import limelight as ll

from .row import Row, apart, stretched
from .sums import TARGET, Functional, Twice, scene


class _Guided(torch.autograd.Function):
    """The definition: of the gradient, what is positive passes where the input is positive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        out: Tensor = x.clamp(min=0)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        out: Tensor = gradient.clamp(min=0) * (x > 0)
        return out


def _guided(make: Callable[[], Twice], name: str, words: str) -> Row:
    def right() -> Tensor:
        net, x, _ = scene(make)
        assert isinstance(net, Twice)
        rows = x.clone().requires_grad_()
        relu: Callable[[Tensor], Tensor] = _Guided.apply
        hidden = relu(net.second(relu(net.first(rows))))
        return torch.autograd.grad(net.head(hidden.flatten(1))[:, TARGET].sum(), rows)[0]

    def ours() -> float:
        net, x, _ = scene(make)
        return apart(ll.explain(net, x, "guided-backprop", target=TARGET).values, right())

    def captum() -> float:
        net, x, _ = scene(make)
        return apart(attr.GuidedBackprop(net).attribute(x.clone().requires_grad_(), TARGET), right())

    def grad_cam() -> float:
        net, x, _ = scene(make)
        run = GuidedBackpropReLUModel(net, "cpu")
        found = [torch.as_tensor(run(each, TARGET)) for each in x.split(1)]  # (h, w, channels), one example a call
        return apart(torch.stack(found).permute(0, 3, 1, 2), right())

    def zennit() -> float:
        net, x, _ = scene(make)
        with Gradient(net, GuidedBackprop()) as run:
            start = torch.eye(3, dtype=x.dtype)[[TARGET] * 2]
            return apart(run(x.clone().requires_grad_(), start)[1], right())

    sides = {"limelight": ours, "captum": captum, "pytorch-grad-cam": grad_cam, "zennit": zennit}
    title = f"guided backpropagation: {words}"
    return Row(f"guided-{name}", title, "negative gradients stop at each ReLU", sides, 1e-5)


def _transformer(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, img_size=64).eval()
    return model, torch.rand(1, 3, 64, 64)


def _by_hand(name: str, layer: str, grid: Callable[[Tensor], Tensor]) -> Tensor:
    """Grad-CAM's formula at a layer, before it is enlarged."""
    model, x = _transformer(name)
    kept: list[Tensor] = []
    model.get_submodule(layer).register_forward_hook(lambda module, args, out: kept.append(out))
    score = model(x)[:, TARGET].sum()
    gradient = torch.autograd.grad(score, kept[0])[0]
    values, slopes = grid(kept[0].detach()), grid(gradient)
    return (slopes.mean((2, 3), keepdim=True) * values).sum(1, keepdim=True).clamp(min=0)


def _default_layer(words: str, name: str, layer: str, grid: Callable[[Tensor], Tensor]) -> Row:
    def enlarged(values: Tensor) -> Tensor:
        return stretched(F.interpolate(values, size=(64, 64), mode="bilinear"))

    def right() -> Tensor:
        return enlarged(_by_hand(name, layer, grid))

    def ours() -> float:
        model, x = _transformer(name)
        raw = ll.explain(model, x, "grad-cam", target=TARGET).raw
        assert raw is not None
        return apart(enlarged(raw), right())

    def captum() -> float:
        model, x = _transformer(name)
        return apart(enlarged(attr.LayerGradCam(model).attribute(x, TARGET)), right())

    def grad_cam() -> float:
        model, x = _transformer(name)
        return apart(torch.from_numpy(GradCAM(model)(x, [ClassifierOutputTarget(TARGET)]))[:, None], right())

    def torch_cam() -> float:
        model, x = _transformer(name)
        with torchcam.GradCAM(model, input_shape=(3, 64, 64)) as run:
            (found,) = run(TARGET, model(x))
        return apart(enlarged(found[:, None]), right())

    sides = {"limelight": ours, "captum": captum, "pytorch-grad-cam": grad_cam, "torchcam": torch_cam}
    right_words = f"the formula at `{layer}`, the last layer whose positions have a gradient"
    return Row(f"default-layer-{words.lower()}", f"Grad-CAM of a {words}, no layer given", right_words, sides)


def _tokens(out: Tensor) -> Tensor:
    found: Tensor = out[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    return found


def _channels_last(out: Tensor) -> Tensor:
    return out.permute(0, 3, 1, 2)


def convolutional() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 3)
    )
    return net.eval(), torch.rand(2, 3, 16, 16)


def _plus_plus() -> Row:
    """With f itself as the score: second and third derivatives are powers of the gradient, as in the paper."""

    def right() -> Tensor:
        net, x = convolutional()
        values = net[:2](x).detach().double().requires_grad_()  # type: ignore[index]
        slopes = torch.autograd.grad(net[2:].double()(values)[:, TARGET].sum(), values)[0]  # type: ignore[index]
        values = values.detach()
        bottom = 2 * slopes**2 + values.sum((2, 3), keepdim=True) * slopes**3
        alpha = torch.where(slopes == 0, 0, slopes**2 / torch.where(bottom == 0, 1, bottom))
        weights = (alpha * slopes.clamp(min=0)).sum((2, 3), keepdim=True)
        return stretched((weights * values).sum(1, keepdim=True).clamp(min=0)).float()

    def ours() -> float:
        net, x = convolutional()
        raw = ll.explain(net, x, "grad-cam-plus-plus", target=TARGET, layer="1").raw
        assert raw is not None
        return apart(stretched(raw), right())

    def grad_cam() -> float:
        net, x = convolutional()
        with GradCAMPlusPlus(net, [net[1]]) as run:  # type: ignore[index]
            return apart(torch.from_numpy(run(x, [ClassifierOutputTarget(TARGET)] * 2))[:, None], right())

    def torch_cam() -> float:
        net, x = convolutional()
        with torchcam.GradCAMpp(net, "1") as run:
            (found,) = run([TARGET] * 2, net(x))
        return apart(stretched(found[:, None]), right())

    sides = {"limelight": ours, "pytorch-grad-cam": grad_cam, "torchcam": torch_cam}
    return Row("grad-cam-plus-plus", "Grad-CAM++ of small gradients", "the paper's formula in float64", sides, 1e-3)


def _grad_cam() -> Row:
    def right() -> Tensor:
        net, x = convolutional()
        values = net[:2](x).detach().requires_grad_()  # type: ignore[index]
        slopes = torch.autograd.grad(net[2:](values)[:, TARGET].sum(), values)[0]  # type: ignore[index]
        return stretched((slopes.mean((2, 3), keepdim=True) * values.detach()).sum(1, keepdim=True).clamp(min=0))

    def ours() -> float:
        net, x = convolutional()
        raw = ll.explain(net, x, "grad-cam", target=TARGET, layer="1").raw
        assert raw is not None
        return apart(stretched(raw), right())

    def captum() -> float:
        net, x = convolutional()
        found = attr.LayerGradCam(net, net[1]).attribute(x, TARGET, relu_attributions=True)  # type: ignore[index]
        return apart(stretched(found.detach()), right())

    def grad_cam() -> float:
        net, x = convolutional()
        with GradCAM(net, [net[1]]) as run:  # type: ignore[index]
            return apart(torch.from_numpy(run(x, [ClassifierOutputTarget(TARGET)] * 2))[:, None], right())

    def torch_cam() -> float:
        net, x = convolutional()
        with torchcam.GradCAM(net, "1") as run:
            (found,) = run([TARGET] * 2, net(x))
        return apart(stretched(found[:, None]), right())

    sides = {"limelight": ours, "captum": captum, "pytorch-grad-cam": grad_cam, "torchcam": torch_cam}
    return Row("grad-cam", "Grad-CAM at a layer that is given", "the formula", sides)


ROWS = (
    _guided(Twice, "modules", "`nn.ReLU`, used twice"),
    _guided(Functional, "functional", "`F.relu`"),
    _grad_cam(),
    _plus_plus(),
    _default_layer("ViT", "vit_tiny_patch16_224", "blocks.10", _tokens),
    _default_layer("Swin", "swin_tiny_patch4_window7_224", "norm", _channels_last),
)
