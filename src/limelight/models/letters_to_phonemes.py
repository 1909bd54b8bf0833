"""The letters-to-phonemes network of the package g2p-en: a GRU reads a word, another GRU says its phonemes."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .weights import ModelError

# Both lists in the order of the rows of the published weights (g2p_en/g2p.py, version 2.1.0).
LETTERS = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
PHONEMES = tuple(
    [
        "<pad>",
        "<unk>",
        "<s>",
        "</s>",
        "AA0",
        "AA1",
        "AA2",
        "AE0",
        "AE1",
        "AE2",
        "AH0",
        "AH1",
        "AH2",
        "AO0",
        "AO1",
        "AO2",
        "AW0",
        "AW1",
        "AW2",
        "AY0",
        "AY1",
        "AY2",
        "B",
        "CH",
        "D",
        "DH",
        "EH0",
        "EH1",
        "EH2",
        "ER0",
        "ER1",
        "ER2",
        "EY0",
        "EY1",
        "EY2",
        "F",
        "G",
        "HH",
        "IH0",
        "IH1",
        "IH2",
        "IY0",
        "IY1",
        "IY2",
        "JH",
        "K",
        "L",
        "M",
        "N",
        "NG",
        "OW0",
        "OW1",
        "OW2",
        "OY0",
        "OY1",
        "OY2",
        "P",
        "R",
        "S",
        "SH",
        "T",
        "TH",
        "UH0",
        "UH1",
        "UH2",
        "UW",
        "UW0",
        "UW1",
        "UW2",
        "V",
        "W",
        "Y",
        "Z",
        "ZH",
    ]
)
_END_OF_WORD, _START, _END = LETTERS.index("</s>"), PHONEMES.index("<s>"), PHONEMES.index("</s>")
_PACKAGE, _FILE = "g2p_en", "checkpoint20.npz"


class LettersToPhonemes(nn.Module):
    r"""The network: the embeddings of a word's letters `(rows, width, letters)` to logits of each next phoneme.

    Encoder and decoder are GRUs of one layer. With $h$ the state, $x$ an embedding and $\odot$ the product by element:

    $$r = \sigma(W_r x + b_r + U_r h + c_r), \qquad z = \sigma(W_z x + b_z + U_z h + c_z)$$
    $$n = \tanh(W_n x + b_n + r \odot (U_n h + c_n)), \qquad h' = (1 - z) \odot n + z \odot h$$

    The encoder's last state is the decoder's first. [cho2014]
    """

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(LETTERS), width)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.phonemes = nn.Embedding(len(PHONEMES), width)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.output = nn.Linear(width, len(PHONEMES))

    def forward(self, x: Tensor, said: Sequence[int] = ()) -> Tensor:
        """Return the logits `(rows, len(said) + 1, phonemes)` of each phoneme after `said`, which are given."""
        _, state = self.encoder(x.transpose(1, 2))
        before = self.phonemes(torch.tensor([_START, *said], device=x.device)).expand(len(x), -1, -1)
        states, _ = self.decoder(before, state)
        logits: Tensor = self.output(states)
        return logits

    def embed(self, word: str) -> Tensor:
        """Return the embeddings `(1, width, letters + 1)` of a word and the sign </s> that ends it.

        Raises ValueError for a word that is not of the letters a to z.
        """
        strange = sorted(set(word) - set(LETTERS[3:]))
        if strange or not word:
            raise ValueError(f"word: {word!r} is not of the letters a to z; use one word in small letters")
        places = torch.tensor([*map(LETTERS.index, word), _END_OF_WORD])
        return self.letters.weight.detach()[places].T[None]

    def without_letters(self, word: str, letter: str = "<pad>") -> Tensor:
        """Return the embeddings `(width, letters + 1)` of `letter` at each place of the word; </s> stays.

        As a baseline of the word's embeddings it leaves no doubt that </s> is no part of the word: its value is 0.
        """
        if letter not in LETTERS:
            raise ValueError(f"letter: {letter!r} is not one of {', '.join(LETTERS)}")
        given = self.embed(word)[0].clone()
        given[:, :-1] = self.letters.weight.detach()[LETTERS.index(letter)][:, None]
        return given

    @torch.no_grad()
    def pronounce(self, word: str, most: int = 20) -> tuple[str, ...]:
        """Return the phonemes of a word by greedy decoding: the most likely phoneme each time, at most `most`."""
        x = self.embed(word)
        said: list[int] = []
        while len(said) < most:
            likeliest = int(self(x, said)[0, -1].argmax())
            if likeliest == _END:
                break
            said.append(likeliest)
        return tuple(PHONEMES[each] for each in said)


class Pronunciation(nn.Module):
    r"""The log-probability $\log p(k_i \mid k_1 \ldots k_{i-1}, x)$ of each phoneme $k_i$ of one pronunciation.

    Embeddings of a word's letters `(rows, width, letters)` to `(rows, phonemes)`. An explanation of all outputs is a
    table of phonemes by letters:

        network = load_letters_to_phonemes()
        said = network.pronounce("phone")                                          # ("F", "OW1", "N")
        found = limelight.explain(
            Pronunciation(network, said), network.embed("phone"), "integrated-gradients",
            target=[list(range(len(said)))], baseline=network.without_letters("phone"),
        )
        table = found.values.sum(2)                                                # (1, phonemes, letters + 1)
    """

    def __init__(self, network: LettersToPhonemes, phonemes: Sequence[str]) -> None:
        super().__init__()
        unknown = [each for each in phonemes if each not in PHONEMES]
        if unknown or not phonemes:
            raise ValueError(f"phonemes: {tuple(phonemes)} has {unknown or 'none'}; use those of PHONEMES, such as OW1")
        self.network = network
        self.said = tuple(map(PHONEMES.index, phonemes))

    def forward(self, x: Tensor) -> Tensor:
        found = self.network(x, self.said[:-1]).log_softmax(-1)
        return torch.stack([found[:, place, phoneme] for place, phoneme in enumerate(self.said)], 1)


def load_letters_to_phonemes() -> LettersToPhonemes:
    """Return the network with its published weights, in eval mode.

    Raises ModelError where the package g2p-en is not installed. It is not imported: it would load a tagger and a
    dictionary, and download them.
    """
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise ModelError("letters-to-phonemes: its weights are in a missing package: pip install 'limelight[study]'")
    network = LettersToPhonemes()
    with np.load(Path(package.submodule_search_locations[0]) / _FILE) as published:
        given = {_named(name): torch.from_numpy(published[name]) for name in published.files}
    network.load_state_dict(given)
    return network.eval().requires_grad_(False)


_SHORT = {"enc": "encoder", "dec": "decoder", "w": "weight", "b": "bias"}


def _named(published: str) -> str:
    """Translate a published name: enc_w_ih is encoder.weight_ih_l0; gates are in torch's order r, z, n already."""
    part, kind, *which = published.split("_")
    if part == "fc":
        return f"output.{_SHORT[kind]}"
    if kind == "emb":
        return "letters.weight" if part == "enc" else "phonemes.weight"
    return f"{_SHORT[part]}.{_SHORT[kind]}_{which[0]}_l0"
