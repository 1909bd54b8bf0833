"""The rock-paper-scissors study: splits that leak nothing, training that resumes, figures by hand, end to end."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import limelight as ll
from limelight.cli.main import app
from limelight.methods.backward import estimate_patterns
from limelight.models.pictures import open_image
from limelight.models.rock_paper_scissors import CLASSES, PublishedHands, SmallHands
from limelight.rules import Patterns
from limelight.studies.ground_truth.each import one_of_each
from limelight.studies.rock_paper_scissors.data import DataError, Part, part_of, read_parts
from limelight.studies.rock_paper_scissors.shifting import (
    STUDIED,
    Hands,
    Shifted,
    compared,
    every_method,
    hand_mask,
    maps_of,
    observe,
)
from limelight.studies.rock_paper_scissors.study import _chosen
from limelight.studies.rock_paper_scissors.training import (
    Epoch,
    confusion,
    folded,
    normalised,
    predict,
    recipe_of,
    train,
)

DATA = Path(__file__).parents[3] / "shared" / "data" / "rock-paper-scissors"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the photographs are not in {DATA}")
WEIGHTS = Path(ll.__file__).parent / "models" / "data" / "rock-paper-scissors.safetensors"


def hand(label: int, number: int) -> Image.Image:
    """A skin-coloured sign on green, another for each class; no two alike."""
    picture = Image.new("RGB", (60, 40), (20, 140 + number % 90, 40))
    draw = ImageDraw.Draw(picture)
    left, skin = 8 + number % 20, (210, 160 - number % 30, 130)
    match label:
        case 0:
            draw.rectangle((left, 8, left + 24, 32), fill=skin)
        case 1:
            draw.ellipse((left, 14, left + 12, 26), fill=skin)
        case _:
            draw.line((left, 8, left + 24, 20), fill=skin, width=4)
            draw.line((left, 32, left + 24, 20), fill=skin, width=4)
    return picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures in the Kaggle layout."""
    root = tmp_path_factory.mktemp("hands")
    for label, name in enumerate(CLASSES):
        (root / name).mkdir()
        for number in range(20):
            hand(label, number).save(root / name / f"{number:02}.png")
    return root


class TestNetworks:
    def test_the_published_layers(self) -> None:
        net = PublishedHands()
        convolutions = [m for m in net.features if isinstance(m, nn.Conv2d)]
        assert [(m.in_channels, m.out_channels) for m in convolutions] == [
            (3, 32), (32, 64), (64, 128), (128, 128), (128, 256), (256, 256)
        ]  # fmt: skip
        kinds = "".join(type(m).__name__[0] for m in net.features)
        assert kinds == "CRCRM" * 3
        linears = [m for m in net.classifier if isinstance(m, nn.Linear)]
        assert [(m.in_features, m.out_features) for m in linears] == [(82944, 1024), (1024, 512), (512, 3)]
        assert net.features(torch.zeros(1, 3, 150, 150)).shape == (1, 256, 18, 18)

    def test_the_small_one_shares_the_convolutions(self) -> None:
        small, published = SmallHands().state_dict(), PublishedHands().state_dict()
        shared = {name for name in small if name.startswith("features.")}
        assert shared == {name for name in published if name.startswith("features.")} and len(shared) == 12
        assert SmallHands()(torch.zeros(2, 3, 75, 75)).shape == (2, 3)
        assert sum(value.numel() for value in small.values()) * 2 < 3_000_000  # bytes, in half precision


class TestData:
    def test_a_part_is_a_fact_of_the_pixels(self, tmp_path: Path) -> None:
        picture = hand(0, 3)
        picture.save(tmp_path / "a.png")
        picture.save(tmp_path / "b.png", compress_level=0)
        assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
        assert part_of(open_image(tmp_path / "a.png")) == part_of(open_image(tmp_path / "b.png"))
        parts = [part_of(open_image(hand(label, n))) for label in range(3) for n in range(20)]
        assert {parts.count(part) > 0 for part in ("training", "validation", "test")} == {True}

    def test_copies_never_cross(self, folder: Path, tmp_path: Path) -> None:
        for name in CLASSES:
            (tmp_path / name).mkdir()
            for path in (folder / name).iterdir():
                Image.open(path).save(tmp_path / name / path.name)
                Image.open(path).save(tmp_path / name / f"copy of {path.name}")
        parts = read_parts(tmp_path)
        seen = {name: {row.numpy().tobytes() for row in part.x} for name, part in parts.items()}
        assert sum(map(len, parts.values())) == 120 and sum(map(len, seen.values())) == 60
        assert not seen["training"] & seen["validation"] | seen["test"] & (seen["training"] | seen["validation"])

    def test_what_is_missing_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"does not exist; expected .*rock.*kaggle.*--data"):
            read_parts(tmp_path / "nowhere")
        (tmp_path / "rock").mkdir()
        with pytest.raises(DataError, match="has no folder paper or scissors"):
            read_parts(tmp_path)
        for name in CLASSES:
            (tmp_path / name).mkdir(exist_ok=True)
        with pytest.raises(DataError, match=r"holds no \.png"):
            read_parts(tmp_path)
        for name in CLASSES:
            (tmp_path / name / "a.jpg").write_bytes(b"no picture")
        with pytest.raises(DataError, match=r"a\.jpg"):
            read_parts(tmp_path)

    @needs_data
    def test_the_photographs_split_as_said(self) -> None:
        names = [path for name in CLASSES for path in sorted((DATA / name).iterdir())[::10]]
        parts = [part_of(open_image(path)) for path in names]
        shares = {part: parts.count(part) / len(parts) for part in set(parts)}
        # Three deviations of a share of 219 pictures.
        assert abs(shares["training"] - 0.7) < 0.093 and abs(shares["test"] - 0.1) < 0.061


class TestTraining:
    def test_recipes(self) -> None:
        published = recipe_of("published")
        assert published.epochs == 30 and published.at(0) == (150, 30, 7e-4, 8)
        assert published.at(29.999).rate == pytest.approx(7e-5, rel=1e-3)  # a tenth, at the end
        small = recipe_of("small")
        assert [(phase.side, phase.epochs) for phase in small.phases] == [(50, 2), (75, 1), (105, 1), (150, 1)]
        assert small.at(0).rate == 1e-3 and small.at(4.5).side == 150
        assert small.at(1.999).rate == pytest.approx(1e-4, rel=1e-3)  # a tenth, at the end of a size
        assert [phase.side for phase in recipe_of("small", 1).phases] == [150]
        assert all(recipe_of("small", n).epochs == n for n in range(1, 30))
        with pytest.raises(ValueError, match="the recipe has 5"):
            small.at(5)

    @pytest.mark.parametrize("kind", [SmallHands, PublishedHands])
    def test_folding_keeps_the_answers(self, kind: type[SmallHands] | type[PublishedHands]) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            plain = kind()
            network = normalised(kind())
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    for values in (module.weight, module.bias, module.running_mean, module.running_var):
                        assert isinstance(values, torch.Tensor)
                        nn.init.uniform_(values, 0.5, 2)
            x = torch.rand(2, 3, 150, 150)
        before = [str(module) for module in network.children()]
        found = folded(network)
        assert found.state_dict().keys() == plain.state_dict().keys()
        assert str(found) == str(plain.eval())
        assert [str(module) for module in network.children()] == before
        expected = network.double().eval()(x.double())
        torch.testing.assert_close(found.double()(x.double()), expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(expected, kind().double()(x.double()))

    @pytest.fixture
    def few(self) -> tuple[Part, Part]:
        x = torch.randint(0, 256, (6, 3, 150, 150), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        y = torch.tensor([0, 1, 2] * 2)
        return Part(x[:4], y[:4], (Path("a"),) * 4), Part(x[4:], y[4:], (Path("b"),) * 2)

    @pytest.mark.long
    def test_stopped_and_resumed_is_undisturbed(self, few: tuple[Part, Part], tmp_path: Path) -> None:
        before = torch.random.get_rng_state()
        straight = train("small", *few, tmp_path / "a", epochs=3, seed=4)
        assert torch.equal(torch.random.get_rng_state(), before)

        def stop(epoch: Epoch) -> None:
            if epoch.epoch == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train("small", *few, tmp_path / "b", epochs=3, seed=4, on_epoch=stop)
        resumed = train("small", *few, tmp_path / "b", epochs=3, seed=4)
        assert [replace(e, seconds=0) for e in resumed.history] == [replace(e, seconds=0) for e in straight.history]
        for (name, a), b in zip(
            straight.network.state_dict().items(), resumed.network.state_dict().values(), strict=True
        ):
            assert torch.equal(a, b), name
        assert [each.side for each in straight.history] == [75, 105, 150]
        other = train("small", *few, tmp_path / "c", epochs=1, seed=5).network.state_dict()
        assert not torch.equal(other["classifier.weight"], straight.network.state_dict()["classifier.weight"])

    def test_another_training_is_refused(self, few: tuple[Part, Part], tmp_path: Path) -> None:
        train("small", *few, tmp_path, epochs=1)
        with pytest.raises(ValueError, match="holds a training with seed 0, and this one has 1"):
            train("small", *few, tmp_path, epochs=1, seed=1)
        with pytest.raises(ValueError, match="phases"):
            train("small", *few, tmp_path, epochs=2)

    def test_what_is_kept_is_the_network_without_normalisation(self, few: tuple[Part, Part], tmp_path: Path) -> None:
        trained = train("small", *few, tmp_path, epochs=1)
        kept = load_file(tmp_path / "best.safetensors")
        assert kept.keys() == SmallHands().state_dict().keys()
        assert all(torch.equal(kept[name], value) for name, value in trained.network.state_dict().items())
        assert not load_file(tmp_path / "last.safetensors")  # the history alone: nothing goes on from here
        again = train("small", *few, tmp_path, epochs=1)
        assert again.history == trained.history
        assert torch.equal(again.network.state_dict()["classifier.weight"], kept["classifier.weight"])
        share = float((predict(trained.network, few[1]) == few[1].y).double().mean())
        assert trained.best.accuracy == share

    def test_counts(self) -> None:
        counts = confusion(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1]))
        assert counts.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]


def line(name: str, spearman: float, level: float = 0.2, n: int = 3, drift: float = 0.0) -> Shifted:
    """The pictures' figures lie 0.05 around their mean, in the same order for every map."""
    around = [0.05 * (k - (n - 1) / 2) for k in range(n)]
    each, drifts = tuple(spearman + a for a in around), tuple(drift + a for a in around)
    return Shifted(name, level, n, spearman, 0.5, 0.5, math.nan, 0.6, 0.6 - drift, each, drifts)


class TestFigures:
    def test_the_hand_is_redder_than_green(self) -> None:
        x = torch.tensor([[0.8, 0.2], [0.6, 0.6], [0.1, 0.1]]).view(1, 3, 1, 2)
        assert hand_mask(x).tolist() == [[[[True, False]]]]

    def test_lines_by_hand(self) -> None:
        """f = (sum x, 0): Input x Gradient is x, so it moves with the shift and the gradient does not."""
        net = nn.Sequential(nn.Flatten(), nn.Linear(12 * 12 * 3, 2, bias=False)).double()
        with torch.no_grad():
            net[1].weight[0] = 1.0  # type: ignore[index]
            net[1].weight[1] = 0.0  # type: ignore[index]
        x = torch.rand(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        mask = torch.zeros(2, 1, 12, 12, dtype=torch.bool)
        mask[..., :6] = True
        hands = Hands(x, torch.tensor([0, 0]), mask)
        kept = {0.5: torch.tensor([True, False])}
        (maps,) = maps_of(net, hands, [ll.InputXGradient()], ll.Black(), [0.5], 0)
        (found,) = compared("ixg", maps, hands, kept)
        assert (found.n, found.level) == (1, 0.5)
        # Adding a constant keeps every order, so ranks and the brightest pixels stay while the shares even out.
        assert found.spearman == pytest.approx(1) and found.top == 1 and found.ssim == pytest.approx(1)
        brightness = x[0].sum(0)
        assert found.on_hand == pytest.approx(float(brightness[:, :6].sum() / brightness.sum()))
        assert found.on_hand_shifted == pytest.approx(float((brightness[:, :6] + 1.5).sum() / (brightness + 1.5).sum()))
        assert found.drift == pytest.approx(found.on_hand - found.on_hand_shifted)
        assert math.isnan(found.missing)  # no sum is promised

    def test_a_refusal_leaves_the_others_their_maps(self) -> None:
        """Methods run together; one that refuses must not take the rest with it, nor change them."""
        net = nn.Sequential(nn.Flatten(), nn.Linear(12 * 12 * 3, 2))
        hands = Hands(torch.rand(1, 3, 12, 12), torch.tensor([0]), torch.ones(1, 1, 12, 12, dtype=torch.bool))
        kept = {0.5: torch.tensor([True])}
        methods = [ll.Gradient(), ll.GradCAM(), ll.SmoothGrad(samples=2)]
        lines, maps, refused = every_method(net, hands, methods, ll.Black(), 0.5, kept, seed=3)
        assert list(refused) == ["grad-cam"] and "layer" in refused["grad-cam"]
        assert [line.name for line in lines] == list(maps) == ["gradient", "smooth-grad"]
        for method, line in zip((methods[0], methods[2]), lines, strict=True):
            (alone,) = maps_of(net, hands, [method], ll.Black(), [0.5], seed=3)
            assert torch.equal(maps[line.name].values, alone[0.0].values)
            assert repr(compared(line.name, alone, hands, kept)) == repr([line])

    def test_no_picture_keeps_its_class(self) -> None:
        net = nn.Sequential(nn.Flatten(), nn.Linear(12 * 12 * 3, 2))
        hands = Hands(torch.rand(1, 3, 12, 12), torch.tensor([0]), torch.ones(1, 1, 12, 12, dtype=torch.bool))
        (maps,) = maps_of(net, hands, [ll.Gradient()], ll.Black(), [0.5], 0)
        (found,) = compared("g", maps, hands, {0.5: torch.tensor([False])})
        assert found.n == 0 and math.isnan(found.spearman)
        assert found.on_hand == 1  # of the unshifted map: no matter what the shift did

    def test_the_published_observations(self) -> None:
        figures = dict(zip(STUDIED, (0.1, 0.2, 0.9, 0.5, 0.8), strict=True))  # ixg, black, white, random, cam
        lines = [line(name, value, drift=0.2 * (name == "grad-cam")) for name, value in figures.items()]
        assert [seen.holds for seen in observe(lines)] == [True] * 4
        figures = dict(zip(STUDIED, (0.9, 0.5, 0.2, 0.6, 0.1), strict=True))
        lines = [line(name, value, drift=-0.1) for name, value in figures.items()]
        assert [seen.verdict for seen in observe(lines)] == ["does not hold"] * 4
        # Each shift speaks, unless it left no picture its class.
        beyond = [line(name, 1 - value, 0.9, n=0) for name, value in figures.items()]
        assert observe([*lines, *beyond]) == observe(lines) and not observe(beyond)
        both = observe([*lines, *(line(name, 1 - value, 0.9) for name, value in figures.items())])
        assert [seen.level for seen in both] == [0.2] * 4 + [0.9] * 4 and both[:4] == observe(lines)

    def test_an_observation_within_its_interval_cannot_be_said(self) -> None:
        """Input x Gradient is .1 lower in the mean of four, by figures that differ by more."""
        figures = {name: (0.5, 0.5, 0.5, 0.5) for name in STUDIED} | {"input-x-gradient": (0.9, -0.1, 0.9, -0.1)}
        lines = [Shifted(name, 0.1, 4, 0.5, 0, 0, 0, 0.5, 0.5, each, (0.0,) * 4) for name, each in figures.items()]
        first, black, *_ = observe(lines)
        assert first.margin == pytest.approx(0.1) and first.low < 0 < first.high and first.holds is None
        # Equal to the others in every picture: neither below them nor above.
        assert (black.margin, black.low, black.high, black.verdict) == (0, 0, 0, "cannot be said")
        assert observe([line(name, 0.5, n=1) for name in STUDIED])[0].verdict == "cannot be said"

    def test_hands_of_each_class_in_turn_the_right_ones_first(self) -> None:
        part = Part(torch.zeros(6, 3, 1, 1, dtype=torch.uint8), torch.tensor([0, 0, 1, 1, 2, 2]), (Path("a"),) * 6)
        assert _chosen(part, torch.tensor([1, 0, 1, 1, 2, 2]), 4).tolist() == [1, 2, 4, 0]


@pytest.fixture(scope="module")
def tiny() -> SmallHands:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallHands().eval()


@pytest.fixture(scope="module")
def patterns(tiny: SmallHands) -> Patterns:
    return estimate_patterns(tiny, [torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))])


class TestOneOfEach:
    @pytest.mark.parametrize("side", [32, 150])
    def test_any_number_of_rows_suits_every_method(self, patterns: Patterns, side: int) -> None:
        for rows in range(4, 1100):
            assert [type(each) for each in one_of_each(patterns, side, rows)] == list(ll.METHODS)
        with pytest.raises(ValueError, match="rows: 3"):
            one_of_each(patterns, side, 3)

    @pytest.mark.parametrize(
        "rows", [5, pytest.param(29, marks=pytest.mark.long), pytest.param(70, marks=pytest.mark.long)]
    )
    def test_every_method_runs_with_odd_numbers(self, tiny: SmallHands, patterns: Patterns, rows: int) -> None:
        x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        hands = Hands(x, torch.tensor([0]), torch.ones(1, 1, 32, 32, dtype=torch.bool))
        methods = one_of_each(patterns, 32, rows)
        _, maps, refused = every_method(tiny, hands, methods, ll.Black(), 0.1, {0.1: torch.tensor([True])})
        assert not refused and len(maps) == len(methods)


@pytest.mark.long
@pytest.mark.release
def test_end_to_end(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["study", "rock-paper-scissors", "--data", str(folder), "--epochs", "1", "--model", "small"]
    command += ["--shift", "0.2", "--pictures", "1", "--rows", "4", "--out", str(out), "--json", "--no-progress"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert {path.name for path in out.iterdir()} == {"index.html", "study.md", "study.json", "maps-1.png", "small"}
    assert json.loads((out / "study.json").read_text()) == {k: v for k, v in found.items() if k != "written"}
    methods = {each["name"] for each in found["every method"]} | set(found["refused"])
    assert methods == {kind.kebab() for kind in ll.METHODS} and not found["refused"]
    assert set(found["tests"]) == methods
    assert {each["name"] for each in found["shifted"]} == set(STUDIED)
    assert len(found["observations"]) == 4
    text, page = (out / "study.md").read_text(), (out / "index.html").read_text()
    for name in methods:
        assert f"| {name} |" in text and f"<td>{name}</td>" in page
    assert "maps-1.png" in text


def test_the_command_names_what_is_wrong(tmp_path: Path) -> None:
    missing = CliRunner().invoke(app, ["study", "rock-paper-scissors", "--data", str(tmp_path / "none")])
    assert missing.exit_code == 1 and "kaggle" in missing.stderr
    dark = CliRunner().invoke(app, ["study", "rock-paper-scissors", "--data", str(tmp_path), "--shift", "-0.1"])
    assert dark.exit_code == 2 and "--shift" in dark.stderr


class TestEmbedded:
    def test_it_ships_small(self) -> None:
        assert WEIGHTS.stat().st_size < 3_000_000
        assert WEIGHTS.with_suffix(".md").is_file()
        model = ll.load_model("rock-paper-scissors")
        assert model.labels == CLASSES and next(model.parameters()).dtype == torch.float32

    def test_it_explains_a_photograph(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        hand(2, 1).save("HAND.jpg")
        command = [
            "explain",
            "HAND.jpg",
            "--model",
            "rock-paper-scissors",
            "-m",
            "gradient",
            "-m",
            "grad-cam",
            "--json",
        ]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["pictures"][0]["top"][0]["label"] in CLASSES

    @pytest.mark.long
    @needs_data
    def test_its_accuracy_on_photographs_never_seen(self) -> None:
        model = ll.load_model("rock-paper-scissors")
        paths = [(label, path) for label, name in enumerate(CLASSES) for path in sorted((DATA / name).iterdir())[::4]]
        held = [(label, open_image(path)) for label, path in paths]
        held = [(label, picture) for label, picture in held if part_of(picture) == "test"]
        x = torch.cat([model.preprocess(picture) for _, picture in held])
        part = Part((x * 255).round().byte(), torch.tensor([label for label, _ in held]), tuple(Path() for _ in held))
        right = float((predict(model.network, part) == part.y).double().mean())
        assert len(held) > 30 and right >= 0.96, f"{right:.1%} of {len(held)}"
