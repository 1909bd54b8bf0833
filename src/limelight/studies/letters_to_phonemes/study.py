"""The whole study: choose the words that the network says right, explain each phoneme, compare with the alignment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...explain import explain
from ...methods import LRP, DeepLift, InputXGradient, IntegratedGradients, KernelShap, Lime, Method, Occlusion
from ...models.letters_to_phonemes import LettersToPhonemes, Pronunciation, load_letters_to_phonemes
from ...question.players import Pixels
from .agreement import Answers, Hits, controls, judged
from .words import Aligned, read_words

METHODS: tuple[Method, ...] = (
    KernelShap(players=Pixels()),  # exact: no word here has more letters than it can run all coalitions of
    IntegratedGradients(),
    Occlusion(window=1),
    Lime(players=Pixels()),
    DeepLift(),
    InputXGradient(),
    LRP(),
)
BASELINES = ("<pad>", "<unk>")
"""The letters that stand for an absent one; tables are drawn with the first."""
SHOWN = (
    "phone",
    "knight",
    "write",
    "cheese",
    "lamb",
    "castle",
    "through",
    "eight",
    "church",
    "mixture",
    "bridge",
    "station",
)
"""Words whose tables are drawn."""


@dataclass(frozen=True)
class LeftOut:
    """A word that the network does not say as the alignment does."""

    word: Aligned
    said: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Study:
    """The results; `page.py` writes them to files.

    `words`: those that the network says right; `left_out`: the others. `methods`: the hits of each method with each
    baseline, or of a method that reads none. `controls`: the hits of what knows nothing of the
    network. `tables`: by word and method the values `(phonemes, letters + 1)` for the first baseline, the last column
    for the sign that ends the word. `said`: the phonemes of each of these words. `seconds`: of everything.
    """

    words: tuple[Aligned, ...]
    left_out: tuple[LeftOut, ...]
    methods: tuple[Hits, ...]
    controls: tuple[Hits, ...]
    tables: dict[str, dict[str, Tensor]]
    said: dict[str, tuple[str, ...]]
    versions: dict[str, str]
    seed: int
    seconds: float

    @property
    def ranked(self) -> list[Hits]:
        """Methods and controls, the most right answers first."""
        return sorted([*self.methods, *self.controls], key=lambda each: -each.share)

    @property
    def best_control(self) -> Hits:
        return max(self.controls, key=lambda each: each.share)


def run_study(
    words: Sequence[Aligned] | None = None,
    methods: Sequence[Method] = METHODS,
    *,
    network: LettersToPhonemes | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Study:
    """Explain each phoneme of each word that the network says right, and compare with the alignment.

    `words`: None is the study's file. `progress` receives the words done and their total.

    Raises ModelError where the network's weights are missing, ValueError where it says none of the words right.
    """
    started = time.monotonic()
    network = network or load_letters_to_phonemes()
    heard = {word: network.pronounce(word.word) for word in (read_words() if words is None else words)}
    right = tuple(word for word, said in heard.items() if unstressed(said) == word.phonemes)
    if not right:
        raise ValueError(f"words: the network says none of {len(heard)} as aligned; give words that it says right")
    left_out = tuple(LeftOut(word, said) for word, said in heard.items() if word not in right)
    versions: dict[str, str] = {}
    answers: dict[str, list[Answers]] = {}
    tables: dict[str, dict[str, Tensor]] = {}
    for done, word in enumerate(right):
        for baseline in BASELINES:
            asked = methods if baseline == BASELINES[0] else [each for each in methods if each.needs.baseline]
            found, versions = explained(network, word, heard[word], asked, baseline, seed)
            for method in asked:
                name = f"{method.kebab()}, {baseline}" if method.needs.baseline else method.kebab()
                answers.setdefault(name, []).append(answer(found[method.kebab()]))
            if baseline == BASELINES[0] and word.word in SHOWN:
                tables[word.word] = found
        progress(done + 1, len(right))
    return Study(
        right,
        left_out,
        tuple(judged(name, right, given) for name, given in answers.items()),
        tuple(controls(right, seed)),
        tables,
        {word.word: heard[word] for word in right if word.word in tables},
        versions,
        seed,
        time.monotonic() - started,
    )


def explained(
    network: LettersToPhonemes,
    word: Aligned,
    said: tuple[str, ...],
    methods: Sequence[Method],
    baseline: str,
    seed: int,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return for each method the values `(phonemes, letters + 1)`, summed over an embedding's numbers; and versions."""
    panel = explain(
        Pronunciation(network, said),
        network.embed(word.word),
        list(methods),
        target=[list(range(len(said)))],
        baseline=network.without_letters(word.word, baseline),
        seed=seed,
    )
    tables = {method.kebab(): found.values[0].sum(1) for method, found in zip(methods, panel.values(), strict=True)}
    return tables, dict(panel[0].versions)


def answer(table: Tensor) -> Answers:
    """Return the letter of the largest value for each phoneme; the sign that ends the word is no answer."""
    return tuple(table[:, :-1].argmax(1).tolist())


def unstressed(phonemes: Sequence[str]) -> tuple[str, ...]:
    """Return the phonemes without the digits of their stress: OW1 is OW."""
    return tuple(each.rstrip("012") for each in phonemes)
