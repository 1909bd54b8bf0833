"""How the peers are called, each in the way its own documentation shows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import shap
import torch
import torch.nn.functional as F
from captum import attr
from torch import Tensor, nn

import limelight as ll

from .case import Peer
from .counting import Passes, bare, counted
from .operators import torchvision
from .scenes import Scene

STEPS = tuple(2**k for k in range(3, 12))


def saliency() -> Peer:
    return Peer("captum Saliency", lambda s: attr.Saliency(s.model).attribute(_leaf(s), s.target, abs=False))


def input_x_gradient() -> Peer:
    return Peer("captum InputXGradient", lambda s: attr.InputXGradient(s.model).attribute(_leaf(s), s.target))


def integrated_gradients(rule: str, steps: int) -> tuple[Peer, ...]:
    """All steps in one batch, as is the default, and in batches of 16."""
    return tuple(
        Peer(
            f"captum IG {rule}, batches of {batch or steps}",
            partial(_ig, rule=rule, steps=steps, batch=batch),
        )
        for batch in (None, 16)
    )


def _ig(s: Scene, rule: str, steps: int, batch: int | None) -> Tensor:
    found: Tensor = attr.IntegratedGradients(s.model).attribute(
        s.x, 0.0, s.target, n_steps=steps, method=rule, internal_batch_size=batch
    )
    return found


def told_the_steps(tolerance: float) -> Peer:
    return Peer(
        "captum IG, told the steps it needs",
        lambda s: _ig(s, "gausslegendre", steps_to(tolerance, s), 16),
        prepare=lambda s: steps_to(tolerance, s),
    )


def doubling_the_steps(tolerance: float) -> Peer:
    return Peer("captum IG, steps doubled until it is there", lambda s: _search(s, tolerance)[1])


@cache
def steps_to(tolerance: float, s: Scene) -> int:
    return _search(s, tolerance)[0]


def _search(s: Scene, tolerance: float) -> tuple[int, Tensor]:
    """The first doubling of 8 steps with |delta| <= tolerance x min(1, |f(x) - f(b)|), and its map."""
    with torch.no_grad():
        rise = float((s.model(s.x) - s.model(torch.zeros_like(s.x)))[0, s.target])
    for steps in STEPS:
        found = _ig(s, "gausslegendre", steps, 16)
        if abs(float(found.double().sum()) - rise) <= tolerance * min(1.0, abs(rise)):
            break
    return steps, found


def noise_tunnel(statistic: str, samples: int, noise: float) -> tuple[Peer, ...]:
    def run(s: Scene, batch: int) -> Tensor:
        found: Tensor = attr.NoiseTunnel(attr.Saliency(s.model)).attribute(
            _leaf(s),
            nt_type=statistic,
            nt_samples=samples,
            nt_samples_batch_size=batch,
            stdevs=noise * float(s.x.max() - s.x.min()),
            target=s.target,
            abs=False,
        )
        return found

    return tuple(Peer(f"captum NoiseTunnel {statistic}, batches of {b}", partial(run, batch=b)) for b in (samples, 16))


def gradient_shap(samples: int) -> Peer:
    def run(s: Scene) -> Tensor:
        found: Tensor = attr.GradientShap(s.model).attribute(
            _leaf(s), s.references, n_samples=samples, stdevs=0.0, target=s.target
        )
        return found

    return Peer("captum GradientShap", run)


def layer_grad_cam() -> Peer:
    def run(s: Scene) -> Tensor:
        layer = s.model.get_submodule(s.layer)
        found = attr.LayerGradCam(s.model, layer).attribute(s.x, s.target, relu_attributions=True)
        return F.interpolate(found, size=s.x.shape[2:], mode="bilinear").detach()

    return Peer("captum LayerGradCam", run)


def layer_integrated_gradients(steps: int) -> Peer:
    def run(s: Scene) -> Tensor:
        layer = attr.LayerIntegratedGradients(s.model, s.model.get_submodule(s.layer))
        found: Tensor = layer.attribute(s.x, target=s.target, n_steps=steps, internal_batch_size=16)
        return found.sum(1, keepdim=True).detach()

    return Peer("captum LayerIntegratedGradients", run)


def pytorch_grad_cam(name: str = "GradCAM") -> Peer:
    def run(s: Scene) -> Tensor:
        torchvision()
        import pytorch_grad_cam as package
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        with getattr(package, name)(s.model, [s.model.get_submodule(s.layer)]) as cam:
            return torch.from_numpy(cam(s.x, [ClassifierOutputTarget(s.target)]))

    return Peer(f"pytorch-grad-cam {name}", run)


def deconvolution() -> Peer:
    return Peer("captum Deconvolution", lambda s: attr.Deconvolution(s.model).attribute(_leaf(s), s.target))


def guided_backprop() -> Peer:
    return Peer("captum GuidedBackprop", lambda s: attr.GuidedBackprop(s.model).attribute(_leaf(s), s.target))


def guided_grad_cam() -> Peer:
    def run(s: Scene) -> Tensor:
        method = attr.GuidedGradCam(s.model, s.model.get_submodule(s.layer))
        found: Tensor = method.attribute(_leaf(s), s.target, interpolate_mode="bilinear")
        return found.detach()

    return Peer("captum GuidedGradCam", run)


def deep_lift() -> Peer:
    def run(s: Scene) -> Tensor:
        found: Tensor = attr.DeepLift(rewired(s.model)).attribute(_leaf(s), torch.zeros_like(s.x), s.target)
        return found.detach()

    return Peer("captum DeepLift, ResNet rewritten for it", run)


def deep_lift_shap() -> Peer:
    def run(s: Scene) -> Tensor:
        found: Tensor = attr.DeepLiftShap(rewired(s.model)).attribute(_leaf(s), s.references, s.target)
        return found.detach()

    return Peer("captum DeepLiftShap, ResNet rewritten for it", run)


def shap_deep() -> Peer:
    def run(s: Scene) -> Tensor:
        # With the check on it refuses its own values here: they miss the sum.
        explainer = shap.DeepExplainer(rewired(s.model), s.references)
        values, ranked = explainer.shap_values(s.x, ranked_outputs=1, check_additivity=False)
        assert int(ranked) == s.target
        return torch.as_tensor(values[..., 0])

    return Peer("shap DeepExplainer, ResNet rewritten for it", run)


def zennit_epsilon_plus() -> Peer:
    def start(s: Scene, output: Tensor) -> Tensor:
        return output * F.one_hot(torch.tensor([s.target], device=output.device), output.shape[1])

    return Peer("zennit EpsilonPlus, canonised", lambda s: _zennit(s, "EpsilonPlus", partial(start, s)))


def zennit_excitation() -> Peer:
    def start(s: Scene, output: Tensor) -> Tensor:
        return F.one_hot(torch.tensor([s.target], device=output.device), output.shape[1]).to(output)

    def run(s: Scene) -> Tensor:
        return _zennit(s, "ExcitationBackprop", partial(start, s), zero_params="bias").sum(1, keepdim=True)

    return Peer("zennit ExcitationBackprop, canonised", run)


def _zennit(s: Scene, name: str, start: Callable[[Tensor], Tensor], **options: Any) -> Tensor:
    """zennit needs the ResNet canonised, batch norm merged and sums made modules, each time it is used: timed."""
    torchvision()
    from zennit import composites
    from zennit.attribution import Gradient
    from zennit.torchvision import ResNetCanonizer

    composite = getattr(composites, name)(canonizers=[ResNetCanonizer()], **options)
    with Gradient(_copied(s.model), composite) as attributor:
        found: Tensor = attributor(_leaf(s), start)[1]
    return found.detach()


def rewired(model: nn.Module) -> nn.Module:
    """A copy of a torchvision ResNet of basic blocks that the peers' DeepLIFT accepts: no ReLU is called twice."""
    model = _copied(model)
    for stage in model.children():
        if isinstance(stage, nn.Sequential):
            for name, block in list(stage.named_children()):
                setattr(stage, name, _BasicBlock(block))
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # shap's hooks
    return model


class _BasicBlock(nn.Module):
    def __init__(self, block: Any) -> None:
        super().__init__()
        self.body = nn.Sequential(block.conv1, block.bn1, nn.ReLU(), block.conv2, block.bn2)
        self.shortcut: nn.Module = nn.Identity() if block.downsample is None else block.downsample
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def _copied(model: nn.Module) -> nn.Module:
    """A copy to take apart, hooks included; its parameters are its own but share their numbers, so it costs little."""
    shared: dict[int, Tensor] = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    shared |= {id(buffer): buffer.detach() for buffer in model.buffers()}
    return copy.deepcopy(model, shared)


def occlusion(window: int, stride: int) -> tuple[Peer, ...]:
    def run(s: Scene, batch: int) -> Tensor:
        found: Tensor = attr.Occlusion(s.model).attribute(
            s.x,
            sliding_window_shapes=(3, window, window),
            strides=(3, stride, stride),
            baselines=0.0,
            target=s.target,
            perturbations_per_eval=batch,
        )
        return found[:, :1]  # equal in all channels, which are hidden together

    return tuple(Peer(f"captum Occlusion, {b} a pass", partial(run, batch=b)) for b in (16, 1))


def feature_ablation(cells: int) -> tuple[Peer, ...]:
    def run(s: Scene, batch: int) -> Tensor:
        size = s.x.shape[-1]
        band = torch.arange(size, device=s.x.device) * cells // size
        labels = band[:, None] * cells + band
        found: Tensor = attr.FeatureAblation(s.model).attribute(
            s.x, 0.0, s.target, feature_mask=labels[None, None], perturbations_per_eval=batch
        )
        share = torch.bincount(labels.flatten())[labels]
        return found[:, :1] / share  # Captum gives each pixel its segment's whole value

    return tuple(Peer(f"captum FeatureAblation, {b} a pass", partial(run, batch=b)) for b in (16, 1))


def rise(masks: int, cells: int, probability: float) -> Peer:
    """As published: all masks made before, enlarged one by one, and the weighted sum of masks divided by N p."""

    def run(s: Scene) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        size = s.x.shape[-1]
        cell = -(-size // cells)
        grids = (torch.rand(masks, 1, cells, cells, generator=generator) < probability).float()
        made = torch.empty(masks, 1, size, size)
        for k, grid in enumerate(grids):
            top, left = torch.randint(0, cell, (2,), generator=generator).tolist()
            enlarged = F.interpolate(grid[None], size=(cells + 1) * cell, mode="bilinear", align_corners=False)
            made[k] = enlarged[0, :, top : top + size, left : left + size]
        made = made.to(s.x.device)
        with torch.no_grad():
            scores = torch.cat([s.model(s.x * part)[:, s.target] for part in made.split(16)])
        return torch.einsum("k,kchw->chw", scores, made)[None] / (masks * probability)

    return Peer("RISE by its published formula, 16 a pass", run)


def one_at_a_time(*methods: ll.Method) -> Peer:
    def run(s: Scene) -> Tensor:
        maps = [ll.explain(s.model, s.x, each, target=s.target).values for each in methods]
        return torch.cat([each.flatten() for each in maps])

    return Peer("ours, one at a time", run)


def bare_passes(method: ll.Method, only_backward: bool = False, channels_last: bool = False) -> Peer:
    """The model alone, run for the very passes that our method makes, or for those with a backward pass."""

    @cache
    def alone(s: Scene) -> Callable[[], None]:
        with counted(s.model) as passes:
            ll.explain(s.model, s.x, method, target=s.target)
        kept = [pair for pair in zip(passes.forward, passes.backward, strict=True) if pair[1] or not only_backward]
        return bare(s, Passes([f for f, _ in kept], [b for _, b in kept]), channels_last)

    def run(s: Scene) -> Tensor:
        alone(s)()
        return torch.zeros(())

    name = "bare rows with a backward pass" if only_backward else "bare rows, all passes"
    return Peer(name + (", channels-last" if channels_last else ""), run, prepare=alone)


def _leaf(s: Scene) -> Tensor:
    return s.x.clone().requires_grad_()


def captum_game(method: type, rows: int, cells: int = 14, **options: Any) -> tuple[Peer, ...]:
    """One of captum's samplers of coalitions over a grid of `cells` x `cells` players, for as many samples."""

    def run(s: Scene, batch: int) -> Tensor:
        row = torch.arange(s.x.shape[2], device=s.x.device) * cells // s.x.shape[2]
        segment = row[:, None] * cells + row
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found: Tensor = method(s.model).attribute(
                s.x,
                target=s.target,
                feature_mask=segment[None, None],
                n_samples=rows,
                perturbations_per_eval=batch,
                **options,
            )
        return found[:, :1].detach()

    return tuple(Peer(f"captum {method.__name__}, {b} a pass", partial(run, batch=b)) for b in (16, 1))
