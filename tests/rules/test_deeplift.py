"""DeepLIFT: completeness on unmodified architectures, worked numbers, the linear rule, batches and references."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limelight.rules import DEEPLIFT, OtherPath, multipliers
from tests.rules.helpers import constant, frozen, logit, randomise_batch_norm

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")
RESCALE, REVEAL, GENOMICS = DEEPLIFT["rescale"], DEEPLIFT["reveal-cancel"], DEEPLIFT["genomics"]


def _vit_b_16() -> nn.Module:
    model = torchvision.models.vit_b_16(image_size=32)
    nn.init.normal_(model.heads.head.weight)  # zero as torchvision makes it, and so would be every difference
    return model  # type: ignore[no-any-return]


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{
        name: getattr(torchvision.models, name)
        for name in ("resnet18", "resnet50", "vgg16_bn", "densenet121", "mobilenet_v3_large", "efficientnet_b0")
    },
    "googlenet": lambda: torchvision.models.googlenet(init_weights=False, aux_logits=False),
    "convnext_tiny": torchvision.models.convnext_tiny,
    "vit_b_16": _vit_b_16,
    "swin_t": torchvision.models.swin_t,
    "vit_tiny": lambda: timm.create_model("vit_tiny_patch16_224", img_size=32),
}
NORMALISED = ("convnext_tiny", "vit_b_16", "swin_t", "vit_tiny")


OFTEN = ("resnet18", "mobilenet_v3_large", "swin_t", "vit_tiny")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in OFTEN else pytest.mark.long) for name in MODELS]
)
def test_complete_on_unmodified_models(name: str) -> None:
    torch.manual_seed(0)
    score = logit(MODELS[name](), 3)
    x, reference = constant(2, 3, 32, 32, seed=1), constant(2, 3, 32, 32, seed=2)
    found = multipliers(score, x, RESCALE, reference=reference)
    assert found.reference_score is not None
    change = found.score - found.reference_score
    assert ((found.values.sum((1, 2, 3)) - change).abs() <= 1e-10 * change.abs()).all()
    assert any("health ratio" in note for note in found.notes) == (name in NORMALISED)


@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_a_shared_reference_gives_what_repeating_it_gives(name: str) -> None:
    torch.manual_seed(0)
    score = logit(MODELS[name](), 3)
    x, reference = constant(2, 3, 32, 32, seed=1), constant(1, 3, 32, 32, seed=2)
    shared = multipliers(score, x, RESCALE, reference=reference)
    repeated = multipliers(score, x, RESCALE, reference=reference.expand_as(x))
    assert torch.allclose(shared.values, repeated.values, rtol=1e-9, atol=1e-14)


def test_float32_is_complete_to_a_thousandth() -> None:
    torch.manual_seed(0)
    model = randomise_batch_norm(torchvision.models.resnet18()).eval().requires_grad_(False)
    x = torch.randn(2, 3, 32, 32)
    found = multipliers(lambda rows: model(rows)[:, 3], x, RESCALE, reference=torch.zeros(1, 3, 32, 32))
    assert found.reference_score is not None and found.values.dtype == torch.float32
    change = found.score - found.reference_score
    assert ((found.values.sum((1, 2, 3)) - change).abs() <= 1e-3 * change.abs()).all()


class Tricky(nn.Module):
    """In-place, functional and reused rectifiers, residual +=, an overwritten activation, overlapping pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.act, self.head = nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Linear(6 * 9, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.first(x)))
        kept = x
        y = F.relu(self.second(x), inplace=True)
        y += kept
        y = self.act(y.mul_(0.5).sub_(0.1))
        y = torch.max_pool2d(y, 3, 2)
        return self.head(torch.relu_(y.flatten(1) - 0.05))  # type: ignore[no-any-return]


@pytest.mark.parametrize("rule", DEEPLIFT)
def test_complete_through_in_place_reused_and_residual(rule: str) -> None:
    torch.manual_seed(0)
    score = logit(randomise_batch_norm(Tricky()), 1)
    x, reference = constant(3, 3, 8, 8, seed=1), constant(3, 3, 8, 8, seed=2)
    found = multipliers(score, x, DEEPLIFT[rule], reference=reference)
    assert found.reference_score is not None
    error = found.values.sum((1, 2, 3)) - (score(x) - score(reference))
    assert error.abs().max() < 1e-14


def test_relu_before_max_pooling() -> None:
    """[3, 2] against [-1, 1]: the maximum rises from 1 to 3, of which relu and pool keep exactly 2."""
    x, reference = torch.tensor([[[3.0, 2.0]]]).double(), torch.tensor([[[-1.0, 1.0]]]).double()
    found = multipliers(lambda r: F.max_pool1d(r.relu(), 2)[:, 0, 0], x, RESCALE, reference=reference)
    assert found.values.sum() == 2


@pytest.mark.parametrize("rule", DEEPLIFT)
def test_each_example_is_alone(rule: str) -> None:
    torch.manual_seed(0)
    score = logit(randomise_batch_norm(Tricky()))
    x, reference = constant(4, 3, 8, 8, seed=1), constant(4, 3, 8, 8, seed=2)
    together = multipliers(score, x, DEEPLIFT[rule], reference=reference).values
    for i in range(4):
        alone = multipliers(score, x[i : i + 1], DEEPLIFT[rule], reference=reference[i : i + 1]).values
        assert torch.allclose(alone, together[i : i + 1], rtol=1e-11, atol=1e-15)


def _values(score: Callable[[Tensor], Tensor], x: list[float], reference: list[float], rule: str) -> list[float]:
    rows, zero = torch.tensor([x], dtype=torch.float64), torch.tensor([reference], dtype=torch.float64)
    found: list[float] = multipliers(score, rows, DEEPLIFT[rule], reference=zero).values[0].tolist()
    return found


@pytest.mark.parametrize("rule", DEEPLIFT)
def test_worked_numbers_common_to_the_rules(rule: str) -> None:
    def sums(r: Tensor) -> Tensor:
        return 2 * torch.relu(r[:, 0]) + 2 * torch.relu(r[:, 1] - 1.5)

    assert _values(sums, [1, 2], [0, 0], rule) == pytest.approx([2, 1])
    assert _values(lambda r: torch.relu(r[:, 0] - 10), [10.001], [0], rule) == pytest.approx([0.001])


@pytest.mark.parametrize("dense", [True, False], ids=["dense layer", "subtraction"])
def test_minimum_as_a_rectified_difference(dense: bool) -> None:
    weight = torch.tensor([[1.0, -1.0]], dtype=torch.float64)

    def minimum(r: Tensor) -> Tensor:
        return r[:, 0] - torch.relu(F.linear(r, weight)[:, 0] if dense else r[:, 0] - r[:, 1])

    assert _values(minimum, [6, 4], [0, 0], "rescale") == pytest.approx([0, 4])
    assert _values(minimum, [6, 4], [0, 0], "reveal-cancel") == pytest.approx([2, 2])
    if dense:
        assert _values(minimum, [6, 4], [0, 0], "genomics") == pytest.approx([2, 2])


def test_genomics_rescales_after_convolutions_and_reveals_after_dense_layers() -> None:
    torch.manual_seed(0)
    conv, dense = nn.Conv1d(2, 3, 3), nn.Linear(12, 4)
    x, reference = constant(2, 2, 6, seed=1), constant(1, 2, 6, seed=2)
    for layers, rule in (
        ((conv, nn.ReLU(), nn.Flatten(), nn.Linear(12, 1)), RESCALE),
        ((nn.Flatten(), dense, nn.ReLU(), nn.Linear(4, 1)), REVEAL),
    ):
        score = logit(nn.Sequential(*layers))
        found = multipliers(score, x, GENOMICS, reference=reference).values
        assert torch.equal(found, multipliers(score, x, rule, reference=reference).values)
        other = REVEAL if rule is RESCALE else RESCALE
        assert not torch.allclose(found, multipliers(score, x, other, reference=reference).values)


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "negative batch norm"])
def test_reveal_cancel_with_the_linear_rule_is_its_definition(scaled: bool) -> None:
    """Slow: positive and negative terms of every output of a convolution, one by one, through tanh."""
    weight, bias = torch.tensor([[[-2.0, -1.0]], [[0.0, 1.0]]]).double(), torch.tensor([-1.0, 1.0]).double()
    x = (torch.arange(16).double() - 8)[None, None] / 4
    reference = torch.ones_like(x)
    reference[0, 0, 3] = x[0, 0, 3]  # an input that does not change
    factor = torch.tensor([-1.5, 0.5]).double() if scaled else torch.ones(2).double()
    v = constant(30)

    def score(rows: Tensor) -> Tensor:
        z = F.conv1d(rows, weight, bias)
        if scaled:
            z = F.batch_norm(z, torch.zeros(2).double(), torch.ones(2).double(), factor, None, eps=0.0)
        return torch.mv(torch.tanh(z).flatten(1), v)

    multiplier = torch.zeros(16).double()
    z0 = (F.conv1d(reference, weight, bias) * factor[:, None])[0]
    for o in range(2):
        for t in range(15):
            w = [float(weight[o, 0, k] * factor[o]) for k in range(2)]
            delta = [float(x[0, 0, t + k] - reference[0, 0, t + k]) for k in range(2)]
            terms = [a * b for a, b in zip(w, delta, strict=True)]
            up, down = sum(max(c, 0) for c in terms), sum(min(c, 0) for c in terms)
            f = lambda d, z=z0[o, t]: float(torch.tanh(z + d))  # noqa: E731
            y_up = 0.5 * (f(up) - f(0) + f(up + down) - f(down))
            y_down = 0.5 * (f(down) - f(0) + f(up + down) - f(up))
            slope = lambda a, d: 0.5 * ((1 - f(0) ** 2) + (1 - f(d) ** 2)) if a == 0 else None  # noqa: E731, B023
            m_up = y_up / up if up else slope(up, down)
            m_down = y_down / down if down else slope(down, up)
            for k in range(2):
                c = w[k] * delta[k]
                m = m_up if c > 0 else m_down if c < 0 else (m_up + m_down) / 2
                if delta[k] == 0 or w[k] != 0:
                    multiplier[t + k] += float(v[o * 15 + t]) * w[k] * m
    found = multipliers(score, x, REVEAL, reference=reference)
    assert torch.allclose(found.multiplier[0, 0], multiplier, rtol=1e-10, atol=1e-12)
    assert torch.allclose(found.values.sum(), found.score - score(reference), rtol=1e-12)


def test_a_reference_on_another_path_is_an_error_that_names_the_operator() -> None:
    def branches(rows: Tensor) -> Tensor:
        return (rows.relu() if float(rows.detach().sum()) > 0 else rows.tanh()).sum(1)

    x = torch.ones(1, 3, dtype=torch.float64)
    with pytest.raises(OtherPath, match=r"operator 1 of the input's run is relu .*test_deeplift\.py.*it was tanh"):
        multipliers(branches, x, RESCALE, reference=-x)


def test_a_reference_is_needed_and_must_fit() -> None:
    x = constant(2, 3)
    with pytest.raises(ValueError, match="pass reference="):
        multipliers(lambda r: r.sum(1), x, RESCALE)
    with pytest.raises(ValueError, match="one row or one per row"):
        multipliers(lambda r: r.sum(1), x, RESCALE, reference=constant(2, 4))


def test_a_constant_reference_does_not_explode_layer_norm() -> None:
    """No variance in the reference: contributions stay of the size of the change."""
    score = logit(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8, eps=1e-12), nn.Linear(8, 3)))
    copied = frozen(nn.LayerNorm(8, eps=1e-12))
    x = constant(4, 8)
    found = multipliers(
        lambda r: torch.mv(copied(r), constant(8, seed=1)), x, RESCALE, reference=torch.zeros(1, 8).double()
    )
    assert found.reference_score is not None
    change = (found.score - found.reference_score).abs()
    assert found.values.abs().max() < 10  # taking 1 / sigma of the reference apart would give a million
    assert ((found.values.sum(1) - found.score + found.reference_score).abs() <= 1e-12 * change).all()
    assert multipliers(score, x, RESCALE, reference=x[:1]).values[0].abs().max() == 0


@pytest.mark.parametrize("rule", DEEPLIFT)
@pytest.mark.parametrize("flat", ["x", "reference"])
def test_complete_through_the_root_of_a_variance_that_is_zero(rule: str, flat: str) -> None:
    """The derivative of a square root at 0 is infinite, and is to meet no change."""
    conv, dense = frozen(nn.Conv2d(2, 6, 3)), frozen(nn.Linear(6, 3))

    def forward(rows: Tensor) -> Tensor:
        h = conv(rows)
        whitened = (h - h.mean((2, 3), keepdim=True)) / (h.std((2, 3), keepdim=True) + 0.1)
        return dense(F.relu(whitened).mean((2, 3)) + h.std((2, 3)))[:, 1]

    level, varied = torch.full((1, 2, 10, 10), 0.3, dtype=torch.float64), constant(2, 2, 10, 10)
    x, reference = (level.expand_as(varied), varied[:1]) if flat == "x" else (varied, level)
    found = multipliers(forward, x, DEEPLIFT[rule], reference=reference)
    change = forward(x) - forward(reference)
    assert torch.allclose(found.values.flatten(1).sum(1), change, rtol=1e-9)


def test_transformer_encoder_and_multihead_attention() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
    copied = frozen(nn.TransformerEncoder(layer, 2))
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    v = constant(40)

    def score(rows: Tensor) -> Tensor:
        return torch.mv(copied(rows, src_key_padding_mask=padding[: len(rows)]).flatten(1), v)

    x, reference = constant(2, 5, 8, seed=1), constant(2, 5, 8, seed=2)
    found = multipliers(score, x, RESCALE, reference=reference)
    assert found.reference_score is not None
    assert torch.allclose(found.values.sum((1, 2)), found.score - found.reference_score, rtol=1e-12)
