"""Inputs of several parts: tuples and mappings of tensors, token ids, pictures; a map for each explained part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import limelight as ll

from .networks import conv_net, pictures

D = torch.float64


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D)


class Two(nn.Module):
    """A picture and a table beside it, multiplied in the middle."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.table = nn.Conv2d(3, 6, 3, padding=1).double(), nn.Linear(4, 6).double()
        self.head = nn.Linear(6, 5).double()

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        pooled = torch.tanh(self.conv(image)).mean((2, 3))
        found: Tensor = self.head(pooled * torch.sigmoid(self.table(table)) + pooled)
        return found


IMAGE, TABLE = numbers(3, 3, 8, 8).sigmoid(), numbers(3, 4, seed=1)
JOINT = [
    "gradient",
    "input-x-gradient",
    "integrated-gradients(gauss-legendre(40))",
    "smooth-grad(samples=4)",
    "deep-lift",
    "guided-integrated-gradients",
]


def test_gradients_are_those_of_torch() -> None:
    net = Two()
    leaves = [IMAGE.clone().requires_grad_(), TABLE.clone().requires_grad_()]
    slopes = torch.autograd.grad(net(*leaves)[:, 2].sum(), leaves)
    found = ll.explain(net, (IMAGE, TABLE), "gradient", target=2)
    assert isinstance(found.values, tuple) and [each.shape for each in found.values] == [IMAGE.shape, TABLE.shape]
    for mine, theirs in zip(found.values, slopes, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-9)
    assert torch.allclose(found.score, net(IMAGE, TABLE)[:, 2])
    named = ll.explain(net, {"table": TABLE, "image": IMAGE}, "gradient", target=2)
    assert list(named.values) == ["table", "image"] and torch.equal(named.values["image"], found.values[0])
    assert torch.equal(named["table"].values, found[1].values)


def test_integrated_gradients_are_complete_over_all_parts() -> None:
    net = Two()
    found = ll.explain(
        net, (IMAGE, TABLE), ll.IntegratedGradients(ll.GaussLegendre(60)), target=2, baseline=(0.5, TABLE.mean(0))
    )
    change = net(IMAGE, TABLE) - net(torch.full_like(IMAGE, 0.5), TABLE.mean(0).expand_as(TABLE))
    total = found.values[0].flatten(1).sum(1) + found.values[1].sum(1)
    assert torch.allclose(total, change[:, 2], rtol=1e-9) and found.delta.abs().max() < 1e-9
    # By hand, on a straight line of both.
    nodes, weights = np.polynomial.legendre.leggauss(60)
    by_hand = torch.zeros_like(TABLE)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        image = 0.5 + node * (IMAGE - 0.5)
        table = (TABLE.mean(0) + node * (TABLE - TABLE.mean(0))).requires_grad_()
        by_hand += weight * torch.autograd.grad(net(image, table)[:, 2].sum(), table)[0]
    assert torch.allclose(found.values[1], by_hand * (TABLE - TABLE.mean(0)), rtol=1e-9)


@pytest.mark.parametrize("method", [*JOINT, "occlusion(4, 4)", "rise(32)"])
def test_an_example_does_not_depend_on_its_batch(method: str) -> None:
    net = Two()
    inputs = {"image": IMAGE, "table": TABLE}
    batch = ll.explain(net, inputs, method, target=2)
    for i in range(3):
        alone = ll.explain(net, {name: each[i : i + 1] for name, each in inputs.items()}, method, target=2)
        for name in inputs:
            assert torch.allclose(batch.values[name][i], alone.values[name][0], rtol=1e-9, atol=1e-12)
    single = ll.explain(net, inputs, method, target=2, rows_per_pass=1)
    prepared = ll.explain(ll.prepare(net), inputs, method, target=2)
    for name in inputs:
        assert torch.allclose(batch.values[name], single.values[name], rtol=1e-9, atol=1e-12)
        assert torch.allclose(batch.values[name], prepared.values[name], rtol=1e-9, atol=1e-12)


def test_methods_of_neighbourhoods_explain_each_part_beside_the_others() -> None:
    net = Two()
    found = ll.explain(net, (IMAGE, TABLE), "occlusion(4, 4)", target=2)
    image = ll.explain(lambda rows: net(rows, TABLE[:1].expand(len(rows), -1)), IMAGE[:1], "occlusion(4, 4)", target=2)
    assert torch.allclose(found[0].values[0], image.values[0]) and found.delta.isnan().all()
    assert found.whole is None and found.forward_rows == sum(each.forward_rows for each in found)


def test_noise_follows_the_range_of_each_part() -> None:
    class Sum(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a.square().sum(1) + b.square().sum(1))[:, None]

    a, b = numbers(2, 3), 1000 * numbers(2, 4, seed=1)
    found = ll.explain(Sum(), (a, b), "smooth-grad(samples=64, noise=0.1, antithetic=False)", target=0)
    spread = [(each.amax(1) - each.amin(1))[:, None] for each in (a, b)]
    for values, x, wide in zip(found.values, (a, b), spread, strict=True):
        # The mean of 2 (x + noise): off by the mean of 64 draws of 2 x 0.1 x range.
        off = (values - 2 * x).abs() / wide
        assert off.min() > 0 and off.max() < 4 * 0.2 / 8


def test_players_may_span_parts() -> None:
    net = Two()
    segments = (torch.arange(64).reshape(1, 8, 8).expand(3, 8, 8) // 32, torch.tensor([2, 2, 3, 0]))
    game = ll.ExactShapley(players=ll.Segments(segments))
    found = ll.explain(net, (IMAGE, TABLE), game, target=2)
    image, table = found.values
    assert image[:, :, :4].flatten(1).unique(dim=1).shape[1] == 1  # one player
    assert torch.allclose(image[:, 0, 0, 0], table[:, 3]) or torch.allclose(image[:, 0, 0, 0], table[:, 3])
    whole = sum(
        (ll.explain(net, (IMAGE, TABLE), game, target=2).whole.raw[:, k] for k in range(4)), torch.zeros(3, dtype=D)
    )
    change = net(IMAGE, TABLE) - net(torch.zeros_like(IMAGE), torch.zeros_like(TABLE))
    assert torch.allclose(whole, change[:, 2], rtol=1e-9)


def test_whole_numbers_go_along_and_are_said() -> None:
    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(7, 4).double(), nn.Linear(4, 2).double()

        def forward(self, x: Tensor, kind: Tensor, keep: Tensor) -> Tensor:
            found: Tensor = self.head(x * self.words(kind) * keep[:, None])
            return found

    net, x = Kinds(), numbers(2, 4)
    kind, keep = torch.tensor([1, 5]), torch.tensor([True, True])
    found = ll.explain(net, {"x": x, "kind": kind, "keep": keep}, "gradient", target=1)
    assert list(found.values) == ["x"]
    assert any("go along with their example: kind, keep" in note for note in found.notes)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(leaf, kind, keep)[:, 1].sum(), leaf)
    assert torch.allclose(found.values["x"], slope)


class Words(nn.Module):
    """A small text classifier with positions and a mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.words, self.places = nn.Embedding(30, 8).double(), nn.Embedding(6, 8).double()
        self.mix, self.head = nn.Linear(8, 8).double(), nn.Linear(8, 3).double()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        x = torch.tanh(self.mix(x)) * x
        if attention_mask is not None:
            x = x * attention_mask[..., None]
        found: Tensor = self.head(x.mean(1))
        return found


IDS = torch.tensor([[3, 7, 7, 1, 0, 2], [4, 4, 9, 29, 5, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])


@pytest.mark.parametrize(
    "method", ["gradient", "integrated-gradients", "smooth-grad(samples=4)", "kernel-shap", "deep-lift"]
)
@pytest.mark.parametrize("given", ["mapping", "given"])
def test_token_ids_are_explained_at_their_embedding(method: str, given: str) -> None:
    net = Words()
    if given == "mapping":
        found = ll.explain(net, {"input_ids": IDS, "attention_mask": MASK}, method, target=1)
    else:
        found = ll.explain(net, IDS, method, target=1, given={"attention_mask": MASK})
    assert found.values.shape[0] == 2 and found.values.shape[-1] == 6
    assert torch.allclose(found.score, net(IDS, MASK)[:, 1])
    assert any("explained at the embedding 'words'" in note for note in found.notes)
    assert found.heatmap().shape == (2, 6)
    sampled = 0.05 * float(found.values.abs().max()) if method == "kernel-shap" else 1e-9
    assert found.heatmap()[0, 4:].abs().max() < sampled  # masked tokens
    alone = ll.explain(net, IDS[1:], method, target=1, given={"attention_mask": MASK[1:]})
    assert torch.allclose(found.values[1], alone.values[0], rtol=1e-9, atol=1e-12)
    if method == "gradient":
        at = net.words(IDS).detach().requires_grad_()
        x = at + net.places(torch.arange(6))
        x = torch.tanh(net.mix(x)) * x * MASK[..., None]
        (slope,) = torch.autograd.grad(net.head(x.mean(1))[:, 1].sum(), at)
        assert torch.allclose(found.values, slope.transpose(1, 2))
    if method in ("integrated-gradients", "kernel-shap"):
        zero = net.head(
            (torch.tanh(net.mix(net.places(torch.arange(6)))) * net.places(torch.arange(6)) * MASK[..., None]).mean(1)
        )
        assert torch.allclose(found.values.flatten(1).sum(1), (net(IDS, MASK) - zero)[:, 1], rtol=1e-3)


def test_pictures_go_straight_into_a_model_with_preprocessing(tmp_path: Any) -> None:
    model = ll.load_model()
    picture = ll.demo_image()
    picture.image.save(tmp_path / "cat.png")
    expected = ll.explain(model, model.preprocess(picture), "gradient", target=281)
    for source in (picture, picture.image, np.asarray(picture.image), tmp_path / "cat.png", str(tmp_path / "cat.png")):
        assert torch.equal(ll.explain(model, source, "gradient", target=281).values, expected.values)
    two = ll.explain(ll.prepare(model), [picture.image, tmp_path / "cat.png"], "gradient", target=281)
    assert two.values.shape[0] == 2
    with pytest.raises(TypeError, match="inputs"):
        ll.explain(nn.Flatten(), Image.new("RGB", (4, 4)), "gradient")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "empty structure"),
        ((IMAGE, "text"), r"part '1' is a str, not a tensor; other values go into given="),
        ((IMAGE, TABLE[:2]), r"part '1' has shape \(2, 4\), and the first part 3 examples"),
        ((IMAGE, TABLE.float()), "parts of several kinds"),
    ],
)
def test_what_is_no_structure_of_examples_is_named(inputs: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        ll.explain(Two(), inputs, "gradient", target=1)


def test_baselines_and_ids_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="baseline: 3 for 2 explained parts; give one, or one a part"):
        ll.explain(Two(), (IMAGE, TABLE), "integrated-gradients", target=1, baseline=(0, 0, 0))
    with pytest.raises(ValueError, match="baseline: for picture, table; the explained parts are image, table"):
        ll.explain(Two(), {"image": IMAGE, "table": TABLE}, "integrated-gradients", baseline={"picture": 0, "table": 0})
    with pytest.raises(TypeError, match=r"no torch.nn.Embedding of the model does; use inputs.float\(\) for numbers"):
        ll.explain(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.ones(2, 4, dtype=torch.long), "gradient")
    functional = F.one_hot(torch.tensor([0, 1]), 2)
    with pytest.raises(TypeError, match="this model is no module"):
        ll.explain(lambda x: x.float(), functional, "occlusion")


@pytest.mark.parametrize("check", ["completeness", "deletion(steps=4)", "input-shift", "randomisation"])
def test_checks_take_parts_side_by_side(check: str) -> None:
    net = Two()
    found = ll.check(net, (IMAGE, TABLE), ll.IntegratedGradients(ll.GaussLegendre(40)), check, target=2)[0]
    for i in range(3):
        one = (IMAGE[i : i + 1], TABLE[i : i + 1])
        alone = ll.check(net, one, ll.IntegratedGradients(ll.GaussLegendre(40)), check, target=2)[0]
        assert torch.allclose(found.value[i], alone.value[0], rtol=1e-6, equal_nan=True)
    with pytest.raises(ValueError, match="occlusion explains each of several parts by itself"):
        ll.check(net, (IMAGE, TABLE), "occlusion", check, target=2)


def last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    "method", [*JOINT, "occlusion(4, 4)", "rise(32)", "grad-cam", "kernel-shap(60, players=grid(4))", "lrp(epsilon)"]
)
def test_axes_say_where_the_channels_are(method: str) -> None:
    """M7: the map of a network that takes channels last is that of the network behind it."""
    net = conv_net()
    x = pictures(2)
    asked = ll.LRP("epsilon") if method.startswith("lrp") else method
    expected = ll.explain(net, x, asked, target=1)
    for model in (lambda rows: net(rows.permute(0, 3, 1, 2)), ll.prepare(Last(net), axes="NHWC")):
        axes = {} if isinstance(model, ll.Prepared) else {"axes": "NHWC"}
        found = ll.explain(model, last(x), asked, target=1, **axes)
        assert found.values.shape == expected.values.shape and found.inputs.shape == x.shape
        assert torch.allclose(found.values, expected.values, rtol=1e-9, atol=1e-12)
        assert not any("axes=" in note for note in found.notes)


class Last(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.net(rows.permute(0, 3, 1, 2))
        return found


def test_other_axes() -> None:
    net, x = conv_net(), pictures(2)
    grey = ll.explain(
        lambda rows: net(rows[:, None].expand(-1, 3, -1, -1)), x[:, 0], "occlusion(2, 2)", axes="NHW", target=1
    )
    assert grey.values.shape == (2, 1, 8, 8) and grey.heatmap().shape == (2, 8, 8)
    video = torch.stack([x, x.flip(-1)], 1)
    found = ll.explain(lambda rows: net(rows.mean(1)), video, "integrated-gradients", axes="NTCHW", target=1)
    assert found.values.shape == (2, 3, 2, 8, 8)
    occlusion, deletion = "occlusion(2, 2)", "deletion(steps=4)"
    checked = ll.check(Last(net), last(x), occlusion, deletion, axes="NHWC", target=1)[0]
    assert torch.allclose(checked.value, ll.check(net, x, occlusion, deletion, target=1)[0].value)
    for axes, message in (("HWC", "from N, the batch"), ("NHWCC", "distinct"), ("NCT", "give a letter for each axis")):
        with pytest.raises(ValueError, match=f"axes: .*{message}"):
            ll.explain(net, x, "gradient", axes=axes)


def test_channels_that_seem_to_stand_last_are_a_caution() -> None:
    net = Last(conv_net())
    found = ll.explain(net, last(pictures(2)), "gradient", target=1)
    assert any("where they are last say axes='NHWC'" in note for note in found.cautions)
    assert not ll.explain(conv_net(), pictures(2), "gradient", target=1).cautions
