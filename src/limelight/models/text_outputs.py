"""What the network of a text model returns: rows about texts, or the states of their tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

OWN_LANGUAGE_MODEL = (
    "a language model of your own says that it predicts tokens by a method get_output_embeddings(), which returns the "
    "layer that makes its logits"
)
"""What is missing where the network of a language model is not one of transformers."""

OF_TOKENS = ("input_ids", "attention_mask", "token_type_ids")
"""What goes along with texts and has an entry for each token."""


class Replaced:
    """A hook that puts embeddings `(n, length, width)` in the place of those of the tokens `ids` `(n, length)`.

    A module that embeds other tokens too, such as those that a decoder has written, embeds them as it does.
    """

    def __init__(self, ids: Tensor, embedded: Tensor) -> None:
        self.ids, self.embedded, self.used = ids, embedded, False

    def __call__(self, module: nn.Module, read: tuple[Any, ...], output: Any) -> Tensor | None:
        own = isinstance(output, Tensor) and output.shape == self.embedded.shape
        if own and self.used and read and isinstance(read[0], Tensor):  # the first may number tokens in its own way
            own = read[0].shape == self.ids.shape and torch.equal(read[0], self.ids)
        if not own:
            return None
        self.used = True
        return self.embedded


def tokens_read(module: nn.Module) -> int | None:
    """Return the tokens that a network of transformers reads at most; None where it does not say."""
    most = getattr(getattr(module, "config", None), "max_position_embeddings", None)
    if not isinstance(most, int) or most <= 0:
        return None
    # RoBERTa and its kin count the places of tokens from the one after padding's.
    padding = (
        each.padding_idx
        for name, each in module.named_modules()
        if name.endswith("position_embeddings") and isinstance(each, nn.Embedding) and each.padding_idx is not None
    )
    return most - (next(padding, -1) + 1)


def is_another(outputs: Tensor, others: Tensor) -> bool:
    """Return whether outputs differ by more than the rounding of their dtype explains."""
    size = float(outputs.detach().abs().max())
    most = size * (0.1 if torch.finfo(outputs.dtype).bits < 32 else 1e-3)
    return float((outputs - others).detach().abs().max()) > most


def rows_or_states(outputs: Any, vocabulary: int, logits_of_tokens: bool) -> tuple[Any, Tensor | None]:
    """Return logits and None, or None and the states `(n, length, width)` of tokens, whose mean is about the text.

    `logits_of_tokens`: the network is known to have logits for each token. Raises TypeError for what is neither, and
    for logits of each token of any other network: neither their mean nor those of one token are about the text.
    """
    logits, states = _entry(outputs, "logits"), _entry(outputs, "last_hidden_state")
    found = logits if logits is not None else states if states is not None else outputs
    if not isinstance(found, Tensor):
        raise TypeError(
            f"module: it returns {type(outputs).__name__}, without logits or last_hidden_state; return a tensor, or a "
            "mapping with one of these"
        )
    if found is states and found.ndim == 3:
        return None, found
    if found.ndim != 3 or logits_of_tokens:
        return found, None
    if logits is None and found.shape[-1] != vocabulary:
        return None, found
    raise TypeError(
        f"module: its logits have shape {tuple(found.shape)}, a row for each token, and a text has one; "
        f"{OWN_LANGUAGE_MODEL}; of another network return the row that is asked about, and states of tokens in a "
        "mapping as last_hidden_state"
    )


def _entry(outputs: Any, name: str) -> Any:
    """Return an entry of what a network returns, None where it has none."""
    if isinstance(outputs, Mapping):
        return outputs.get(name)
    return getattr(outputs, name, None)
