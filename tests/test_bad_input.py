"""Bad input gets an error that names the argument, its value and the fix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.methods import Needs
from limelight.rules import UncoveredOperator

from .networks import conv_net, pictures

X = pictures(2)


def with_value(value: float) -> Tensor:
    x = X.clone()
    x[1, 0, 0, 0] = value
    return x


def model_giving(make: Callable[[Tensor], Any]) -> nn.Module:
    return ll.Differentiable(make)


class BatchNormOfTheBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, track_running_stats=False).double()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        return y.mean((2, 3))


@dataclass(frozen=True)
class Answering(ll.Method):
    """A method that someone wrote, with this answer."""

    answer: Any = None

    def run(self, score: Any, x: Tensor, baseline: Tensor, rng: Any) -> Any:
        return self.answer


@dataclass(frozen=True)
class Telling(Answering):
    """One that promises to tell the scores."""

    @property
    def needs(self) -> Needs:
        return Needs(own_scores=True)


CASES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a number": (lambda: ll.explain(conv_net(), 3, "gradient"), TypeError, r"inputs: int, not a torch\.Tensor"),  # type: ignore[call-overload]
    "integers": (
        lambda: ll.explain(conv_net(), X.long(), "gradient"),
        TypeError,
        r"inputs: torch\.int64; .*use inputs\.float\(\)",
    ),
    "no batch axis": (
        lambda: ll.explain(conv_net(), X[0, 0, 0], "gradient"),
        ValueError,
        r"\(8,\).*use inputs\[None\]",
    ),
    "a picture without its batch axis": (
        lambda: ll.explain(conv_net(), X[0], "gradient"),
        ValueError,
        r"inputs: shape \(3, 8, 8\) fails in the model.*use inputs\[None\]",
    ),
    "a huge class": (
        lambda: ll.explain(conv_net(), X, "gradient", target=[1, 10**30]),
        ValueError,
        rf"target: Logit\.index=\(1, {10**30}\): use a number below 2\*\*63",
    ),
    "an empty region": (
        lambda: ll.Region(torch.zeros(8, 8), 1),
        ValueError,
        r"Region\.mask is empty; mark at least one",
    ),
    "an example's empty region": (
        lambda: ll.Region(torch.stack([torch.ones(8, 8), torch.zeros(8, 8)]), 1, "mean"),
        ValueError,
        r"Region\.mask is empty for example 1",
    ),
    "values for one example": (
        lambda: ll.explain(conv_net(), X, Answering(ll.methods.Estimate(X[:1]))),
        ValueError,
        r"Answering\.run gave values of shape \(1, 3, 8, 8\) for inputs \(2, 3, 8, 8\); .* or \(2, 1, 8, 8\)",
    ),
    "stderr of another shape": (
        lambda: ll.explain(conv_net(), X, Answering(ll.methods.Estimate(X, X[:, :1]))),
        ValueError,
        r"Answering\.run gave a stderr of shape \(2, 1, 8, 8\)",
    ),
    "scores that were promised": (
        lambda: ll.explain(conv_net(), X, Telling(ll.methods.Estimate(X)), target=0),
        ValueError,
        r"Telling\.run gave no scores, as needs\.own_scores promises",
    ),
    "a bare tensor": (
        lambda: ll.explain(conv_net(), X, Answering(X)),
        TypeError,
        r"Answering\.run gave Tensor; it must return Estimate",
    ),
    "empty batch": (lambda: ll.explain(conv_net(), X[:0], "gradient"), ValueError, r"\(0, 3, 8, 8\) is empty"),
    "NaN": (
        lambda: ll.explain(conv_net(), with_value(torch.nan), "gradient"),
        FloatingPointError,
        "inputs: NaN .* example 1",
    ),
    "infinity": (lambda: ll.explain(conv_net(), with_value(torch.inf), "gradient"), FloatingPointError, "example 1"),
    "other dtype": (
        lambda: ll.explain(conv_net(), X.float(), "gradient"),
        TypeError,
        r"torch\.float32.*use inputs\.to\(torch\.float64",
    ),
    "target too large": (
        lambda: ll.explain(conv_net(), X, "gradient", target=5),
        ValueError,
        "class 5 is out of range.*0 to 4",
    ),
    "target negative": (lambda: ll.explain(conv_net(), X, "gradient", target=-1), ValueError, "class -1 is negative"),
    "target float": (
        lambda: ll.explain(conv_net(), X, "gradient", target=1.0),
        TypeError,
        r"target: 1\.0 is not an int",
    ),
    "target bool": (lambda: ll.explain(conv_net(), X, "gradient", target=True), TypeError, "not True"),
    "target count": (
        lambda: ll.explain(conv_net(), X, "gradient", target=[1, 2, 3]),
        ValueError,
        "3 targets for a batch of 2",
    ),
    "target floats": (
        lambda: ll.explain(conv_net(), X, "gradient", target=torch.ones(2)),
        TypeError,
        "holds integers",
    ),
    "target shape": (
        lambda: ll.explain(conv_net(), X, "gradient", target=lambda z: z),
        ValueError,
        r"gave \(2, 5\) for 2 rows; .* shape \(2,\)",
    ),
    "baseline shape": (
        lambda: ll.explain(conv_net(), X, "integrated-gradients", baseline=torch.zeros(5)),
        ValueError,
        r"baseline: shape \(5,\) does not broadcast to inputs of shape \(2, 3, 8, 8\)",
    ),
    "baseline NaN": (
        lambda: ll.explain(conv_net(), X, "occlusion", baseline=torch.nan),
        ValueError,
        "baseline: Constant.value=nan: use a finite number",
    ),
    "baseline text": (
        lambda: ll.explain(conv_net(), X, "occlusion", baseline="blakc"),
        ValueError,
        "baseline: 'blakc' is unknown; did you mean black",
    ),
    "blur of a row": (
        lambda: ll.explain(nn.Linear(3, 2).double(), torch.rand(1, 3).double(), "occlusion", baseline=ll.Blur(1)),
        ValueError,
        r"Blur needs spatial axes, inputs have shape \(1, 3\)",
    ),
    "samples too many": (lambda: ll.Samples(X, n=3), ValueError, "Samples.n=3: use a whole number from 1 to 2"),
    "layer unknown": (lambda: ll.explain(conv_net(), X, "grad-cam", layer="bodi"), ValueError, "'bodi'.*nearest: body"),
    "layer foreign": (
        lambda: ll.explain(conv_net(), X, "grad-cam", layer=nn.ReLU()),
        ValueError,
        "this ReLU is not a module",
    ),
    "layer without map": (
        lambda: ll.explain(conv_net(), X, "grad-cam", layer="head"),
        ValueError,
        r"returns \(5,\).*layers with a map: .*act",
    ),
    "no layer at all": (
        lambda: ll.explain(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).double(), X, "grad-cam"),
        ValueError,
        "no module of the model returns a spatial map.*pass layer=",
    ),
    "method unknown": (
        lambda: ll.explain(conv_net(), X, "integrated"),
        ValueError,
        "did you mean integrated-gradients",
    ),
    "method field": (
        lambda: ll.explain(conv_net(), X, "smooth-grad(sample=8)"),
        ValueError,
        "settings of smooth-grad: inner, samples",
    ),
    "method object": (lambda: ll.explain(conv_net(), X, 5), TypeError, "5"),  # type: ignore[call-overload]
    "no method": (lambda: ll.explain(conv_net(), X, []), ValueError, "empty sequence"),
    "rows per pass": (lambda: ll.explain(conv_net(), X, "gradient", rows_per_pass=0), ValueError, "rows_per_pass: 0"),
    "arithmetic": (
        lambda: ll.explain(conv_net(), X, "gradient", arithmetic="fast"),  # type: ignore[call-overload]
        ValueError,
        "arithmetic: 'fast'; use 'plain', 'packed', 'two-precision' or None",
    ),
    "arithmetic to come": (
        lambda: ll.explain(conv_net(), X, "gradient", arithmetic="two-precision"),
        ValueError,
        "arithmetic: 'two-precision' is for methods that sample scores, rise, kernel-shap, shapley-sampling, lime, and "
        "not for gradient",
    ),
    "samples odd": (lambda: ll.SmoothGrad(samples=3), ValueError, r"SmoothGrad\.samples=3: use an even number"),
    "window": (lambda: ll.Occlusion(window=0), ValueError, r"Occlusion\.window=0: use 1 or more"),
    "window axes": (
        lambda: ll.explain(conv_net(), X, ll.Occlusion((2, 2, 2))),
        ValueError,
        r"or 2 for an input of \(8, 8\)",
    ),
    "black box": (
        lambda: ll.explain(ll.BlackBox(lambda x: x.mean((2, 3))), X, ["gradient", "occlusion"]),
        TypeError,
        "black box, and gradient needs gradients or layers.*need none: occlusion",
    ),
    "callable without gradients": (
        lambda: ll.explain(lambda x: torch.from_numpy(x.numpy().mean((2, 3))), X, ["gradient", "occlusion"]),
        ValueError,
        "no gradient back to the inputs.*need none: occlusion",
    ),
    "black box layer": (
        lambda: ll.explain(lambda x: x.mean((2, 3)), X, "occlusion", layer="a"),
        TypeError,
        "no layers",
    ),
    "not callable": (lambda: ll.explain("resnet18", X, "gradient"), TypeError, "str is neither a module nor callable"),  # type: ignore[call-overload]
    "detached": (
        lambda: ll.explain(model_giving(lambda x: x.detach().mean((2, 3))), X, "gradient"),
        ValueError,
        "no gradient back to the inputs.*need none: occlusion",
    ),
    "model NaN": (
        lambda: ll.explain(model_giving(lambda x: x.mean((2, 3)).log() * 0 / 0), X, "gradient"),
        FloatingPointError,
        "model's outputs: NaN or infinity for example 0, 1",
    ),
    "gradient infinite": (
        lambda: ll.explain(model_giving(lambda x: (x - x.detach()).flatten(1).sum(1).sqrt()), X, "gradient"),
        FloatingPointError,
        "gradient: NaN or infinity for example 0, 1",
    ),
    "rows lost": (
        lambda: ll.explain(model_giving(lambda x: x.mean((0, 2, 3))[None]), X, "gradient"),
        ValueError,
        r"\(1, 3\) for 2 rows",
    ),
    "dictionary": (
        lambda: ll.explain(model_giving(lambda x: {"a": x.mean((2, 3)), "b": x}), X, "gradient"),
        TypeError,
        r"returns dict with entries \['a', 'b'\]",
    ),
    "segmentation": (
        lambda: ll.explain(nn.Conv2d(3, 2, 1).double(), X, "gradient"),
        ValueError,
        r"use Region\(mask, label\)",
    ),
    "batch statistics": (
        lambda: ll.explain(BatchNormOfTheBatch(), X, "gradient"),
        ValueError,
        "'norm' normalises by the statistics",
    ),
    "depends on the batch": (
        lambda: ll.explain(model_giving(lambda x: (x - x.mean(0)).square().mean((2, 3))), X, "gradient"),
        ValueError,
        "the output depends on the rest of the batch",
    ),
    "depends on its company": (
        lambda: ll.explain(
            model_giving(lambda x: (x - x.mean(0)).square().mean((2, 3))), X[:1], "integrated-gradients"
        ),
        ValueError,
        "the output depends on the rest of the batch",
    ),
    "random": (
        lambda: ll.explain(lambda x: torch.rand(len(x), 2), X, "occlusion", target=0),
        ValueError,
        "the function draws random numbers",
    ),
    "layer twice": (
        lambda: ll.explain(
            nn.Sequential(*[nn.ReLU()] * 2, nn.Flatten(), nn.Linear(192, 2).double()), X, "grad-cam", layer="0"
        ),
        ValueError,
        "runs more than once",
    ),
    "zero gradient": (
        lambda: ll.explain(
            nn.Sequential(nn.Conv2d(3, 2, 1), nn.Threshold(1e9, 0.0), nn.Flatten(), nn.Linear(128, 2)).double(),
            X,
            "grad-cam",
            layer="0",
        ),
        ValueError,
        "zero all over '0' for example 0, 1.*layers with a gradient: 1$",
    ),
    "lazy": (
        lambda: ll.explain(nn.LazyLinear(2), X, "gradient"),
        ValueError,
        "not initialised yet; call the model once",
    ),
    "save": (lambda: ll.explain(conv_net(), X, "gradient").save("map.gif"), ValueError, r"ends in '\.gif'; use \.png"),
    "reduce": (lambda: ll.explain(conv_net(), X, "gradient").heatmap("mean"), ValueError, "reduce: 'mean'; use 'sum'"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", CASES)
def test_message(name: str) -> None:
    call, kind, message = CASES[name]
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ll.RISE(masks=100.5), r"RISE\.masks=100\.5: use a whole number of 3"),  # type: ignore[arg-type]
        (lambda: ll.KernelShap(samples=400.5), r"KernelShap\.samples=400\.5: use a whole number"),  # type: ignore[arg-type]
        (lambda: ll.KernelShap(ll.Grid(2)), r"KernelShap\.samples=Grid\(cells=2\): use a whole number"),  # type: ignore[arg-type]
        (lambda: ll.ExpectedGradients(samples=8.5), r"ExpectedGradients\.samples=8\.5: use a whole"),  # type: ignore[arg-type]
        (lambda: ll.SmoothGrad(samples=4.0), r"SmoothGrad\.samples=4\.0: use a whole number"),  # type: ignore[arg-type]
        (lambda: ll.SmoothGrad(noise="a"), r"SmoothGrad\.noise='a': use 0 or a positive"),  # type: ignore[arg-type]
        (lambda: ll.SmoothGrad(noise=float("nan")), r"SmoothGrad\.noise=nan: use 0 or a positive"),
        (lambda: ll.SmoothGrad(tolerance="a"), r"SmoothGrad\.tolerance='a': use a positive number or None"),  # type: ignore[arg-type]
        (lambda: ll.Lime(samples=300.5), r"Lime\.samples=300\.5: use a whole number of 2"),  # type: ignore[arg-type]
        (lambda: ll.BlurIntegratedGradients(max_sigma=float("inf")), r"\.max_sigma=inf: use a positive number of"),
        (lambda: ll.Midpoint(8.5), r"Midpoint\.n=8\.5: use a whole number of 1"),  # type: ignore[arg-type]
        (lambda: ll.XRAI(scales=("a",)), r"XRAI\.scales=\('a',\): use one or more positive"),  # type: ignore[arg-type]
        (lambda: ll.ExtremalPerturbation(steps=1.5), r"\.steps=1\.5: use a whole number of 1"),  # type: ignore[arg-type]
        (lambda: ll.MeaningfulPerturbation(beta="a"), r"\.beta='a': use 1 or more"),  # type: ignore[arg-type]
        (lambda: ll.Occlusion(window=3.5), r"Occlusion\.window=3\.5: use 1 or more"),  # type: ignore[arg-type]
    ],
)
def test_settings_of_the_wrong_kind_are_refused_where_they_are_set(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_settings_may_be_numpys_numbers() -> None:
    assert ll.SmoothGrad(samples=np.int64(2), noise=np.float32(0.1)).samples == 2
    assert len(list(ll.Midpoint(np.int64(3)))) == 3


def test_a_shape_error_of_a_model_that_takes_such_inputs_is_its_own() -> None:
    class AddsTheChannel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head, self.passes = nn.Conv2d(1, 2, 3), nn.Linear(72, 2), 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            if self.passes > 1:
                raise RuntimeError("something else")
            out: Tensor = self.head(self.conv(x[:, None]).flatten(1))
            return out

    with pytest.raises(RuntimeError, match="something else"):
        ll.explain(AddsTheChannel().double(), X[:, 0], "occlusion(4, 4)", target=0)

    class Sorts(AddsTheChannel):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.conv(x[:, None]).flatten(1).sort(1).values)
            return out

    with pytest.raises(UncoveredOperator, match="sort"):
        ll.explain(Sorts().double(), X[:, 0], "deep-lift", target=0)


def test_a_black_box_runs_where_no_gradient_is_needed() -> None:
    net = conv_net()
    a = ll.explain(lambda x: net(x).detach(), X, "occlusion", target=0)
    torch.testing.assert_close(a.values, ll.explain(net, X, "occlusion", target=0).values)


def test_models_that_overwrite_their_input_or_assume_contiguous_memory() -> None:
    class Rude(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.head = nn.Linear(4 * 32 * 32, 2)

        def forward(self, x: Tensor) -> Tensor:
            x -= 0.5
            out: Tensor = self.head(self.conv(x).view(len(x), -1))  # fails on channels-last maps
            return out

    net, x = Rude(), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before, asked = x.clone(), x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(asked.clone())[:, 1].sum(), asked)
    a = ll.explain(net, x, ["gradient", "integrated-gradients"], target=1)
    torch.testing.assert_close(a["gradient"].values, gradient)
    assert torch.equal(x, before)


def test_context_of_the_caller_does_not_matter() -> None:
    net = conv_net()
    expected = ll.explain(net, X, "gradient", target=0).values
    with torch.no_grad():
        assert torch.equal(ll.explain(net, X, "gradient", target=0).values, expected)
    with torch.inference_mode():
        assert torch.equal(ll.explain(net, X + 0, "gradient", target=0).values, expected)
    x = X.clone().requires_grad_()
    assert torch.equal(ll.explain(net, x, "gradient", target=0).values, expected) and x.grad is None


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x[:, 0])[0][:, -1])
        return out


@pytest.mark.parametrize(
    "build",
    [
        lambda: torch.jit.script(conv_like()),
        lambda: torch.jit.trace(conv_like(), X.float()),
        lambda: nn.DataParallel(conv_like()),
        lambda: nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.Flatten(), nn.Linear(144, 3)),
        lambda: nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), nn.Flatten(), nn.Linear(144, 3)
        ),
        Recurrent,
    ],
    ids=["script", "trace", "data parallel", "weight norm", "spectral norm", "lstm"],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_models_of_every_make(build: Callable[[], nn.Module]) -> None:
    net, x = build().eval(), X.float()
    asked = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(asked)[:, 1].sum(), asked)
    torch.testing.assert_close(ll.explain(net, x, "gradient", target=1).values, gradient)


def conv_like() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_layers_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'0' is TorchScript"):
        ll.explain(torch.jit.script(conv_like()), X.float(), "grad-cam", layer="0")
