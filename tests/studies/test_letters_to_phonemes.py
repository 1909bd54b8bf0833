"""Letters and phonemes: the network against its equations, values of single words, answers against the alignment."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

import limelight as ll
from limelight.cli.main import app
from limelight.methods import IntegratedGradients, KernelShap, Occlusion
from limelight.models.letters_to_phonemes import (
    LETTERS,
    PHONEMES,
    LettersToPhonemes,
    Pronunciation,
    load_letters_to_phonemes,
)
from limelight.models.weights import ModelError
from limelight.question.players import Pixels
from limelight.studies.letters_to_phonemes import read_words, run_study, write_study
from limelight.studies.letters_to_phonemes.agreement import Hits, controls, judged
from limelight.studies.letters_to_phonemes.page import as_plain
from limelight.studies.letters_to_phonemes.study import unstressed
from limelight.studies.letters_to_phonemes.words import Aligned, Group

Array = NDArray[np.float64]
FEW = ("phone", "knight", "write", "cheese", "lamb", "castle", "though")  # the network says though wrong
EASY = ("same position", "random letter", "uniform, expected")
SHAP = KernelShap(players=Pixels())


@pytest.fixture(scope="module")
def network() -> LettersToPhonemes:
    return load_letters_to_phonemes()


def aligned(*words: str) -> list[Aligned]:
    found = {each.word: each for each in read_words()}
    return [found[word] for word in words]


def gru(x: Array, h: Array, weights: dict[str, Array], part: str) -> Array:
    """A step of a GRU from its equations, gate by gate: r, z, n are the thirds of the published weights."""
    size = len(h)

    def third(gate: int, kind: str, of: Array) -> Array:
        rows = slice(gate * size, (gate + 1) * size)
        return weights[f"{part}_w_{kind}"][rows] @ of + weights[f"{part}_b_{kind}"][rows]

    r = 1 / (1 + np.exp(-third(0, "ih", x) - third(0, "hh", h)))
    z = 1 / (1 + np.exp(-third(1, "ih", x) - third(1, "hh", h)))
    n = np.tanh(third(2, "ih", x) + r * third(2, "hh", h))
    return (1 - z) * n + z * h


def test_the_network_is_its_equations_in_float64(network: LettersToPhonemes) -> None:
    package = importlib.util.find_spec("g2p_en")
    assert package is not None and package.submodule_search_locations
    with np.load(Path(package.submodule_search_locations[0]) / "checkpoint20.npz") as file:
        weights = {name: file[name].astype(np.float64) for name in file.files}
    said = ("N", "AY1", "T")
    h = np.zeros(256)
    for letter in (*"knight", "</s>"):
        h = gru(weights["enc_emb"][LETTERS.index(letter)], h, weights, "enc")
    expected = []
    for before, phoneme in zip(("<s>", *said[:-1]), said, strict=True):
        h = gru(weights["dec_emb"][PHONEMES.index(before)], h, weights, "dec")
        logits = weights["fc_w"] @ h + weights["fc_b"]
        expected.append(logits[PHONEMES.index(phoneme)] - np.log(np.exp(logits).sum()))
    found = Pronunciation(load_letters_to_phonemes().double(), said)(network.embed("knight").double())
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("word", "phonemes"),
    [("phone", "F OW1 N"), ("knight", "N AY1 T"), ("through", "TH R UW1"), ("cheese", "CH IY1 Z"), ("lamb", "L AE1 M")],
)
def test_words_are_said_as_in_english(network: LettersToPhonemes, word: str, phonemes: str) -> None:
    assert network.pronounce(word) == tuple(phonemes.split())


def test_the_package_is_read_without_being_imported() -> None:
    code = (
        "import sys; from limelight.models.letters_to_phonemes import load_letters_to_phonemes as load; load();"
        "assert not {'g2p_en', 'nltk'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_weights_and_wrong_words_are_named(network: LettersToPhonemes, monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("Phone", "two words", ""):
        with pytest.raises(ValueError, match=f"word: '{word}' is not of the letters a to z"):
            network.embed(word)
    with pytest.raises(ValueError, match="letter: 'é' is not one of"):
        network.without_letters("cafe", "é")
    with pytest.raises(ValueError, match=r"\['OW9'\]"):
        Pronunciation(network, ["F", "OW9"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'limelight\[study\]'"):
        load_letters_to_phonemes()


@torch.no_grad()
def shapley(network: LettersToPhonemes, word: str, without: torch.Tensor) -> list[float]:
    """The Shapley values of the first phoneme from their definition, over all coalitions of places."""
    x, said = network.embed(word).double(), network.pronounce(word)
    players = x.shape[2]
    present = torch.tensor(list(itertools.product((0, 1), repeat=players)), dtype=torch.bool)
    scores = Pronunciation(network, said)(torch.where(present[:, None], x, without[None].double()))[:, 0]
    score = {tuple(row.tolist()): float(each) for row, each in zip(present, scores, strict=True)}
    values = [0.0] * players
    for row, value in score.items():
        for player in (k for k, there in enumerate(row) if not there):
            others = sum(row)
            weight = math.factorial(others) * math.factorial(players - others - 1) / math.factorial(players)
            values[player] += weight * (score[(*row[:player], True, *row[player + 1 :])] - value)
    return values


def test_values_of_phone_and_knight() -> None:
    # The log-probability with <pad> in every place, that of </s> too.
    network = load_letters_to_phonemes().double()
    pad = network.letters.weight[LETTERS.index("<pad>")][:, None]
    found = {}
    for word in ("phone", "knight"):
        said, x = network.pronounce(word), network.embed(word)
        values = ll.explain(Pronunciation(network, said), x, SHAP, target=[list(range(len(said)))], baseline=pad).values
        found[word] = values[0, 0].sum(0).tolist()
        assert found[word] == pytest.approx(shapley(network, word, pad), abs=1e-9)
    assert [round(each, 1) for each in found["phone"][:2]] == [8.3, 4.9]
    assert [round(each, 1) for each in found["knight"][:2]] == [-6.7, 24.4]


def test_maps_are_tables_and_the_end_of_the_word_has_no_part(network: LettersToPhonemes) -> None:
    said = network.pronounce("phone")
    x, baseline = network.embed("phone"), network.without_letters("phone")
    model = Pronunciation(network, said)
    gain = (model(x) - model(baseline[None]))[0]
    panel = ll.explain(
        model, x, [SHAP, IntegratedGradients(), Occlusion(window=1)], target=[[0, 1, 2]], baseline=baseline
    )
    for found in panel.values():
        assert found.values.shape[:2] == (1, 3) and found.values.shape[3] == 6
        assert found.values[..., -1].abs().max() < 1e-6  # equal rows of two passes may differ by rounding
    assert not panel[1].values[..., -1].any()  # times x - b, which is 0
    torch.testing.assert_close(panel[0].values[0].sum((1, 2)), gain, atol=1e-4, rtol=1e-4)


class TestAlignment:
    def test_every_line_is_a_word_in_known_phonemes(self) -> None:
        words = read_words()
        assert len(words) == 222
        known = set(unstressed(PHONEMES[4:]))
        assert {each for word in words for each in word.phonemes} <= known
        groups = {group.letters for word in words for group in word.groups}
        assert {"ph", "sh", "ch", "th", "ck", "igh", "ough", "dge", "tch", "tt"} <= groups
        assert sum(bool(word.silent) for word in words) > 60

    def test_200_are_said_right(self, network: LettersToPhonemes) -> None:
        right = [word for word in read_words() if unstressed(network.pronounce(word.word)) == word.phonemes]
        assert len(right) == 200

    def test_truth_is_the_places_of_the_group(self) -> None:
        box, knight = aligned("box", "knight")
        assert box.phonemes == ("B", "AA", "K", "S")
        assert [list(places) for places in box.truth] == [[0], [1], [2], [2]]
        assert [list(places) for places in knight.truth] == [[1], [2, 3, 4], [5]] and knight.silent == {0}
        assert str(knight) == "k:- n:N igh:AY t:T"

    @pytest.mark.parametrize("line", ["phone ph:F o:OW n:N", "a a:-", "phone phone", "be b:B e:IY\nbe b:B e:IY"])
    def test_wrong_lines_are_named(self, line: str, tmp_path: Path) -> None:
        path = tmp_path / "words.txt"
        path.write_text(line)
        with pytest.raises(ValueError, match=r"words\.txt, line|group: 'phone'"):
            read_words(path)


class TestAgreement:
    words = (
        Aligned("she", (Group("sh", ("SH",)), Group("e", ("IY",)))),
        Aligned("ax", (Group("a", ("AE",)), Group("x", ("K", "S")))),
    )

    def test_by_hand(self) -> None:
        hits = judged("mine", self.words, [(1, 0), (0, 1, 0)])
        assert hits.right == (1, 2) and hits.phonemes == (2, 3) and hits.share == 3 / 5
        assert [(miss.phoneme, miss.letter, miss.distance) for miss in hits.misses] == [("IY", "s", 2), ("S", "a", 1)]

    def test_controls_by_hand(self) -> None:
        same, scaled, centred, random, uniform = controls(self.words, 0)
        # she: places 0, 1 / 0, round(1.5) = 2 / int(0.75), int(2.25); ax: 0, 1, 1 / 0, 1, 1 / 0, 1, 1.
        assert (same.right, scaled.right, centred.right) == ((1, 3), (2, 3), (2, 3))
        assert uniform.right == pytest.approx((2 / 3 + 1 / 3, 3 * 1 / 2))
        assert 0 <= random.share <= 1 and controls(self.words, 0)[3] == random

    def test_intervals_are_of_the_share_and_of_the_difference(self) -> None:
        # Two words with shares 1 of 1 and 0 of 3: drawn anew they are 0, 1/4 or 1, a quarter, a half and a quarter.
        one, other = Hits("one", (1, 0), (1, 3)), Hits("other", (0, 0), (1, 3))
        assert one.share == 1 / 4 and one.interval(0) == (0, 1)
        assert one.above(other, 0) == (1 / 4, 0, 1)
        assert one.above(one, 0) == (0, 0, 0)


def test_a_study_of_few_words_beats_same_position_and_chance(network: LettersToPhonemes, tmp_path: Path) -> None:
    study = run_study(aligned(*FEW), (SHAP, Occlusion(window=1)), network=network)
    assert [each.word.word for each in study.left_out] == ["though"]
    by_name = {each.name: each for each in (*study.methods, *study.controls)}
    for method in study.methods:
        for control in EASY:
            assert method.share > by_name[control].share
    files = write_study(study, tmp_path)
    assert [path.name for path in files[:3]] == ["index.html", "study.md", "study.json"]
    plain = json.loads((tmp_path / "study.json").read_text())
    assert plain == json.loads(json.dumps(as_plain(study))) and plain["phonemes"] == 20
    page = (tmp_path / "index.html").read_text()
    assert "knight" in page and "&lt;pad&gt;" in page and "<pad>" not in page
    assert (tmp_path / "knight.png").stat().st_size > 1000


def test_a_study_without_a_right_word_says_so(network: LettersToPhonemes) -> None:
    with pytest.raises(ValueError, match="says none of 1 as aligned"):
        run_study(aligned("though"), (SHAP,), network=network)


def test_the_command_prints_the_ranking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = run_study(aligned("phone", "knight"), (Occlusion(window=1),))
    monkeypatch.setattr("limelight.cli.study.run_letters", lambda **options: study)
    done = CliRunner().invoke(app, ["study", "letters-phonemes", "-o", str(tmp_path), "--json"])
    assert done.exit_code == 0 and len(json.loads(done.stdout)["ranking"]) == 7
    done = CliRunner().invoke(app, ["study", "letters-phonemes", "-o", str(tmp_path)])
    assert done.exit_code == 0 and "scaled position" in done.stdout and "index.html" in done.stdout


@pytest.mark.long
@pytest.mark.release
def test_200_words_agree_more_often_than_the_controls(network: LettersToPhonemes) -> None:
    study = run_study(methods=(SHAP, IntegratedGradients(), Occlusion(window=1)), network=network)
    assert len(study.words) == 200
    lows = {
        method.name: [method.above(control, 0)[1] for control in study.controls if control.name in EASY]
        for method in study.methods
    }
    # Of the three methods one agrees no more often than the same position, and with one baseline only.
    assert [name for name, low in lows.items() if min(low) <= 0] == ["integrated-gradients, <pad>"]
