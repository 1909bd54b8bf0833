"""Texts to tokens by a tokenizer of the library tokenizers, whose characters are checked (extra `text`)."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.text import Text

_EXTRA = "pip install 'limelight[text]'"


@dataclass(frozen=True)
class Encoded:
    """A text, the number of each of its tokens in the vocabulary, and its segment where the model is told of two."""

    text: Text
    ids: tuple[int, ...]
    types: tuple[int, ...]


class Tokens:
    """A tokenizer that says for each token which characters it stands for.

    `tokenizer`: of the library tokenizers, one of transformers that is made of such, or the path of a `tokenizer.json`.
    It is copied, without truncation and padding. Raises TypeError for others, whose characters are not known, and
    ImportError without the extra `text`.
    """

    def __init__(self, tokenizer: Any) -> None:
        try:
            library = importlib.import_module("tokenizers")
        except ImportError as error:
            raise ImportError(f"tokenizer: texts need the library tokenizers: {_EXTRA} ({error})") from error
        found = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if isinstance(found, str | Path):
            if not Path(found).is_file():
                raise ValueError(f"tokenizer: {str(found)!r} is no file; give the path of a tokenizer.json")
            found = library.Tokenizer.from_file(str(found))
        if not isinstance(found, library.Tokenizer):
            raise TypeError(
                f"tokenizer: {type(tokenizer).__name__} does not say which characters a token stands for; give a "
                "tokenizers.Tokenizer, a fast tokenizer of transformers, or the path of a tokenizer.json"
            )
        self._tokenizer = library.Tokenizer.from_str(found.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        named = getattr(tokenizer, "special_tokens_map", None)
        self._named = dict(named) if isinstance(named, dict) else {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Tokens:
        return self  # it holds no state

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    @property
    def content(self) -> str:
        """All that decides how it reads texts, as text."""
        return f"{self._tokenizer.to_str()} {sorted((name, str(each)) for name, each in self._named.items())}"

    def encode(self, string: str, special: bool = True) -> Encoded:
        """Return a text's tokens, with those that the model's texts begin and end with unless `special` is False.

        Raises ValueError where the tokens' characters do not make up the text; see `require_whole`.
        """
        if not isinstance(string, str):
            raise TypeError(f"text: {type(string).__name__}, not a str")
        found = self._tokenizer.encode(string, add_special_tokens=special)
        # Special tokens that are written in the text, such as "[MASK]", are parts of it.
        offsets = tuple((int(start), int(end)) for start, end in found.offsets)
        marked = tuple(
            bool(mark) and start == end for mark, (start, end) in zip(found.special_tokens_mask, offsets, strict=True)
        )
        text = Text(string, tuple(found.tokens), offsets, marked)
        self._require_whole(text, found.ids, special)
        return Encoded(text, tuple(found.ids), tuple(found.type_ids))

    def continued(self, string: str, more: str) -> Encoded:
        """Return the tokens of a text and of what continues it, whose number is the text's `continued`.

        Raises ValueError where there is no such token, or where the tokenizer joins both at the place where they meet.
        """
        first, both = self.encode(string), self.encode(string + more)
        place = next((i for i, (a, b) in enumerate(zip(first.ids, both.ids, strict=False)) if a != b), len(first.ids))
        ends = [i for i in range(place, len(first.ids)) if not first.text.special[i]]
        tail = len(both.ids) - 1
        while tail >= place and both.text.special[tail]:
            tail -= 1
        if ends or tail < place:
            at = f"the tokenizer makes one token of the end of {string[-12:]!r} and the start of {more[:12]!r}"
            raise ValueError(f"target: {at if ends else f'{more!r} has no token'}; continue the text at a whole word")
        keep = tail + 1
        text = both.text
        cut = Text(text.string, text.tokens[:keep], text.offsets[:keep], text.special[:keep], keep - place)
        return Encoded(cut, both.ids[:keep], both.types[:keep])

    def id_of(self, token: str) -> int:
        """Return the number of a token as the tokenizer writes it. Raises ValueError for one that it does not have."""
        found = self._tokenizer.token_to_id(token)
        if found is None:
            some = [each for each in map(self.special, ("mask", "pad", "unk")) if each]
            raise ValueError(f"token: {token!r} is not in the vocabulary; it has for example {', '.join(some)}")
        return int(found)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens by their numbers."""
        found: str = self._tokenizer.decode(list(ids))
        return found

    def special(self, kind: str) -> str | None:
        """Return the token of a kind, "mask", "pad", "unk", "eos": of transformers' names, or as they are mostly
        written; None where the vocabulary has none."""
        usual = {
            "mask": ("[MASK]", "<mask>"),
            "pad": ("[PAD]", "<pad>"),
            "unk": ("[UNK]", "<unk>"),
            "eos": ("</s>", "<|endoftext|>", "[SEP]"),
        }
        named = self._named.get(f"{kind}_token")
        for token in ([str(named)] if named else []) + list(usual[kind]):
            if self._tokenizer.token_to_id(token) is not None:
                return token
        return None

    @functools.cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Every token as it reads in a text, such as " Paris"; those that are no text by themselves as they are
        written."""
        named = self._tokenizer.id_to_token
        # Decoders drop the space before the first token, so that there is one before each.
        anchor = self._tokenizer.encode("x", add_special_tokens=False).ids[-1:]
        alone = self._tokenizer.decode(anchor, skip_special_tokens=False)
        pairs = [[*anchor, i] for i in range(len(self))]
        read = self._tokenizer.decode_batch(pairs, skip_special_tokens=False)
        found = [each.removeprefix(alone) for each in read]
        return tuple(text or str(named(i)) for i, text in enumerate(found))

    @functools.cached_property
    def begins_word(self) -> tuple[bool | None, ...]:
        """Whether each token of the vocabulary begins a word or goes on with one; None for special ones.

        By the mark that the tokenizer writes: "##" of what goes on, or a space's of what begins. Without either every
        token is a word.
        """
        names = [str(self._tokenizer.id_to_token(i) or "") for i in range(len(self))]
        special = {i for i, each in self._tokenizer.get_added_tokens_decoder().items() if each.special}
        goes_on = any(name.startswith("##") for name in names)
        mark = next((mark for mark in ("\u0120", "\u2581") if any(name.startswith(mark) for name in names)), "")

        def begins(place: int, name: str) -> bool | None:
            if place in special or not name or (len(name) > 2 and name[0] + name[-1] in ("[]", "<>")):
                return None
            return not name.startswith("##") if goes_on else name.startswith(mark)

        return tuple(begins(place, name) for place, name in enumerate(names))

    def _require_whole(self, text: Text, ids: Sequence[int], special: bool) -> None:
        """Raise ValueError unless the tokens' characters are in order and make up the text.

        Spaces may be between them, and characters that the tokenizer drops, such as accents: then the text without
        them has the same tokens.
        """
        last, covered = 0, [False] * len(text.string)
        for start, end in text.offsets:
            if start == end:
                continue
            if not 0 <= start < end <= len(covered) or end < last:
                raise ValueError(f"text: the tokenizer gives characters {start} to {end} after character {last}{_ASK}")
            last = end
            covered[start:end] = [True] * (end - start)
        dropped = [i for i, known in enumerate(covered) if not known and not text.string[i].isspace()]
        if not dropped:
            return
        rest = "".join(letter for i, letter in enumerate(text.string) if i not in set(dropped))
        if list(self._tokenizer.encode(rest, add_special_tokens=special).ids) != list(ids):
            shown = text.string[dropped[0] : dropped[0] + 1]
            raise ValueError(f"text: no token stands for character {dropped[0]}, {shown!r}, and it matters{_ASK}")


_ASK = "; maps could not be placed on the text. Use a tokenizer whose offsets are right"
