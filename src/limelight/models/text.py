"""Models on texts: a network, its tokenizer and its embedding in one module, whose rows are the tokens' embeddings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..base.nearest import nearest_names
from ..base.text import TextArguments
from ..base.types import Outputs
from .text_outputs import OF_TOKENS, OWN_LANGUAGE_MODEL, Replaced, is_another, rows_or_states, tokens_read
from .tokens import Encoded, Tokens

Pooling = Literal["mean", "first", "last"]
"""How the states of a text's tokens become one embedding: their mean, or that of the first or the last token."""

CUT = 16384.0
"""The number that stands in all channels of a token that `Cut` removes: exact in every dtype, and no embedding's."""


class TextModel(nn.Module):
    r"""A network that reads texts, as a function of its tokens' embeddings: rows `(n, width, length)` -> outputs.

    `explain` takes texts in place of inputs: `explain(model, "a text", ...)`, or a list of them. The outputs are:

    - scores of classes `(n, classes)` of a classifier;
    - of a language model, whose network has `get_output_embeddings()`, the logits of the token that follows,
      `(n, vocabulary)`; of one that fills in masks those at the text's mask token; and `(n, tokens, vocabulary)` where
      a `Continuation` is asked for;
    - of any other network one embedding for each text `(n, dimensions)`, by `pooling`.

    Args:
        module: a network of transformers, or any module that takes `inputs_embeds=` or whose `embedding` is named. It
            gets `attention_mask=` where it takes one, and returns a tensor, or a mapping or object with `logits` or
            `last_hidden_state`.
        tokenizer: of the library tokenizers, a fast one of transformers, or the path of a `tokenizer.json`.
        embedding: the name of the module that turns numbers of tokens `(n, length)` into `(n, length, width)`; None is
            what `module.get_input_embeddings()` returns.
        pooling: see `Pooling`.
        labels: names of the classes; None takes the network's own, and of a language model the vocabulary.

    Raises TypeError or ValueError for a module without an embedding.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification  # doctest: +SKIP
        >>> model = TextModel(BertForSequenceClassification(BertConfig()), "tokenizer.json")  # doctest: +SKIP
    """

    def __init__(
        self,
        module: nn.Module,
        tokenizer: Any,
        embedding: str | None = None,
        pooling: Pooling = "mean",
        labels: Sequence[str] | None = None,
        name: str = "model",
        outputs: Outputs | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(f"module: {type(module).__name__}, not a torch.nn.Module")
        if pooling not in ("mean", "first", "last"):
            raise ValueError(f"pooling: {pooling!r}; use 'mean', 'first' or 'last'")
        self.module = module
        self.name, self.pooling, self.outputs = name, pooling, outputs
        self.tokenizer = tokenizer if isinstance(tokenizer, Tokens) else Tokens(tokenizer)
        self.embedding = _embedding_name(module, embedding)
        self._named = embedding is not None
        self._labels = None if labels is None else tuple(labels)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the outputs: of classes, or the vocabulary of a language model; none where unknown."""
        if self._labels is not None:
            return self._labels
        if self.predicts_tokens:
            return self.tokenizer.vocabulary
        named = getattr(getattr(self.module, "config", None), "id2label", None) or {}
        found = tuple(str(named[key]) for key in sorted(named, key=int))
        classifies = "ForSequenceClassification" in type(self.module).__name__
        return found if classifies and any(each != f"LABEL_{i}" for i, each in enumerate(found)) else ()

    def label(self, index: int) -> str:
        """Return the name of an output, "class 7" where it has none."""
        return self.labels[index] if index < len(self.labels) else f"class {index}"

    @property
    def predicts_tokens(self) -> bool:
        """Whether its outputs are logits of the vocabulary: it has an output embedding, as transformers call it."""
        head = getattr(self.module, "get_output_embeddings", None)
        return callable(head) and head() is not None

    @property
    def fills_masks(self) -> bool:
        """Whether its logits say what stands at a token, and not what follows it."""
        return "ForMaskedLM" in type(self.module).__name__

    @property
    def translates(self) -> bool:
        """Whether it is an encoder with a decoder, which writes a text of its own."""
        return bool(getattr(getattr(self.module, "config", None), "is_encoder_decoder", False))

    def tokens(
        self, texts: str | Sequence[str], continuation: Sequence[str] | None = None
    ) -> tuple[Tensor, TextArguments]:
        """Return the embeddings `(n, width, length)` of texts, and what goes along with them: `given=` of `explain`.

        Shorter texts are padded on the right, where the attention mask is 0. `continuation`: for each text what a
        language model is to go on with. Raises ValueError for a text that is longer than the model reads, for one whose
        tokens do not make it up, and where padding changes what the model says, which two rows of it show.
        """
        several = [texts] if isinstance(texts, str) else list(texts)
        if not several:
            raise ValueError("inputs: an empty list of texts; give at least one")
        if continuation is None or self.translates:
            read = [self.tokenizer.encode(each) for each in several]
        else:
            read = [self.tokenizer.continued(each, more) for each, more in zip(several, continuation, strict=True)]
        given = self._given(read)
        if continuation is not None and self.translates:
            given |= self._decoded([self.tokenizer.encode(each, special=False) for each in continuation])
        elif self.predicts_tokens:
            given["read_at"] = self._read_at(read, continued=continuation is not None)
        most, longest = tokens_read(self.module), max(len(each.ids) for each in read)
        if most is not None and longest > most:
            raise ValueError(f"inputs: a text of {longest} tokens, and {self.name} reads {most}; shorten it")
        ids = given["input_ids"] if self._named else given.pop("input_ids")
        embedded = self.embed(ids).transpose(1, 2).contiguous()
        self._require_same_without_padding(embedded, given, [len(each.ids) for each in read])
        return embedded, TextArguments(given, tuple(each.text for each in read))

    def _require_same_without_padding(self, rows: Tensor, given: Mapping[str, Tensor], lengths: Sequence[int]) -> None:
        """Raise ValueError where the shortest text gets other outputs padded, as where the last token is read."""
        shortest = min(lengths)
        if shortest == rows.shape[-1]:
            return
        i = lengths.index(shortest)
        padded = {name: each[i : i + 1] for name, each in given.items()}
        alone = {name: each[:, :shortest] if name in OF_TOKENS else each for name, each in padded.items()}
        own, other = self.asked(rows[i : i + 1, :, :shortest], alone), self.asked(rows[i : i + 1], padded)
        if is_another(own, other):
            named = f", or make it with embedding={self.embedding!r}, so that it gets the tokens' numbers too"
            named = "" if self._named else named
            raise ValueError(
                f"inputs: texts of {shortest} to {max(lengths)} tokens, and padding changes what {self.name} says, "
                f"with its attention mask too; give texts of as many tokens, or one at a time{named}"
            )

    def continued_by(self, text: str, more: str) -> list[int]:
        """Return the numbers of the tokens by which `more` continues a text, or of the text that a decoder writes."""
        self.require_continues()
        if self.translates:
            return list(self.tokenizer.encode(more, special=False).ids)
        found = self.tokenizer.continued(text, more)
        return list(found.ids[len(found.ids) - found.text.continued :])

    def require_tokens(self) -> None:
        """Raise TypeError for a model that predicts no tokens."""
        if not self.predicts_tokens:
            own = not hasattr(self.module, "get_output_embeddings")
            remedy = OWN_LANGUAGE_MODEL if own else "use a class as target"
            raise TypeError(f"target: {self.name} predicts no tokens; {remedy}")

    def require_continues(self) -> None:
        """Raise TypeError for a model that goes on with no text."""
        self.require_tokens()
        if self.fills_masks:
            mask = self.tokenizer.special("mask")
            raise TypeError(
                f"target: {self.name} fills in masks and goes on with no text; write {mask} in the text, and ask for "
                "one token: next-token('...')"
            )

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings `(n, length, width)` of tokens `(n, length)`."""
        with torch.no_grad():
            found: Tensor = self.module.get_submodule(self.embedding)(ids)
        return found.detach()

    def embeddings(self, texts: str | Sequence[str]) -> Tensor:
        """Return the model's embedding `(dimensions,)` of a text, or `(texts, dimensions)` of several.

        Raises TypeError for a model whose outputs are none.
        """
        if self.predicts_tokens or "ForSequenceClassification" in type(self.module).__name__:
            raise TypeError(f"target: the outputs of {self.name} are no embeddings; use a class or a token as target")
        found = []
        for text in [texts] if isinstance(texts, str) else texts:  # one by one, so that padding has no part in it
            rows, given = self.tokens(text)
            found.append(self.asked(rows, given)[0])
        return found[0] if isinstance(texts, str) else torch.stack(found)

    def asked(self, rows: Tensor, given: Mapping[str, Any]) -> Tensor:
        """Return the outputs of the model as it is in eval mode, without gradients."""
        was = [each for each in self.modules() if each.training]
        try:
            with torch.no_grad():
                found: Tensor = self.eval()(rows, **given)
            return found
        finally:
            for each in was:
                each.training = True

    def vector(self, token: str) -> Tensor:
        """Return the embedding `(width,)` of a token as the tokenizer writes it."""
        return self.embed(self._numbers([[self.tokenizer.id_of(token)]]))[0, 0]

    def vectors(self) -> Tensor:
        """Return the embeddings `(tokens, width)` of the vocabulary."""
        return self.embed(self._numbers([list(range(len(self.tokenizer)))]))[0]

    def mean_vector(self) -> Tensor:
        """Return the mean embedding `(width,)` of the vocabulary."""
        return self.vectors().double().mean(0).to(self._weight().dtype)

    def forward(self, rows: Tensor, attention_mask: Tensor | None = None, **given: Any) -> Any:
        """Return the outputs for rows `(n, width, length)`, see the class; `given` goes to the network."""
        read_at = given.pop("read_at", None)
        unpadded = torch.ones_like(rows[:, 0], dtype=torch.long) if attention_mask is None else attention_mask
        mask, embedded = unpadded, rows.transpose(1, 2)
        if bool((rows == CUT).any()):  # else no operator that rules would have to know of
            present = (rows != CUT).any(1)
            # What is cut takes no part in attention; its own row is set to zero, so that nothing overflows.
            embedded = embedded * present[..., None].to(rows)
            mask = unpadded * present
            # Attention needs one place to look at, whose row is zero where all are cut.
            mask = torch.where(mask.any(1, keepdim=True), mask, torch.eye(1, mask.shape[1]).to(mask))
        outputs = self._called(embedded, mask, given)
        logits, states = rows_or_states(outputs, len(self.tokenizer), self.predicts_tokens or self.translates)
        if states is not None:
            return self._pooled(states, mask, unpadded)
        if logits.ndim == 3 and not self.translates:
            at = (unpadded.sum(1) - 1)[:, None] if read_at is None else read_at
            logits = logits.gather(1, at[..., None].expand(-1, -1, logits.shape[-1]))
        return logits[:, 0] if logits.ndim == 3 and logits.shape[1] == 1 else logits

    def generate(self, text: str, tokens: int = 8) -> str:
        """Return how the model goes on with a text, each time with its first token; it ends at a token that ends texts.

        Every token runs the model once. Raises TypeError for a model that predicts no tokens, and ValueError where the
        text of the tokens reads as other tokens, as bytes do that are no letters.
        """
        ids = self._greedy(text, tokens)
        found = self.tokenizer.decode(ids)
        if not ids or self.continued_by(text, found) != ids:
            said = f"tokens {ids}, whose text {found!r} reads as other tokens" if ids else "nothing more"
            raise ValueError(f"target: after {text[-20:]!r} the model says {said}; give the continuation as a text")
        return found

    def _greedy(self, text: str, tokens: int) -> list[int]:
        self.require_continues()
        ids: list[int] = []
        rows, given = self.tokens(text)
        read = self.tokenizer.encode(text).ids
        end = self.tokenizer.special("eos")
        for _ in range(tokens):
            kinds = dict(given)
            if self.translates:
                kinds["decoder_input_ids"] = self._numbers([[self._decoder_start(), *ids]])
            elif ids:
                every = self._numbers([[*read, *ids]])
                rows = self.embed(every).transpose(1, 2)
                kinds = {"attention_mask": torch.ones_like(every)} | ({"input_ids": every} if self._named else {})
            logits = self.asked(rows, kinds)
            ids.append(int((logits[:, -1] if logits.ndim == 3 else logits).argmax()))
            if end is not None and ids[-1] == self.tokenizer.id_of(end):
                ids.pop()
                break
        return ids

    def _pooled(self, states: Tensor, mask: Tensor, unpadded: Tensor) -> Tensor:
        if self.pooling == "first":
            return states[:, 0]
        if self.pooling == "last":
            last = (unpadded.sum(1) - 1)[:, None, None]
            return states.gather(1, last.expand(-1, 1, states.shape[-1]))[:, 0]
        weights = mask.to(states)[..., None]
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)

    def _called(self, embedded: Tensor, mask: Tensor, given: dict[str, Any]) -> Any:
        named = {**given, "attention_mask": mask} if self.takes_mask else given
        if not self._named:
            return self.module(inputs_embeds=embedded, **named)
        ids = named.pop("input_ids")
        hook = Replaced(ids, embedded)
        handle = self.module.get_submodule(self.embedding).register_forward_hook(hook)
        try:
            found = self.module(ids, **named)
        finally:
            handle.remove()
        if not hook.used:
            raise ValueError(
                f"embedding: {type(self.module).__name__} does not run {self.embedding!r} on the tokens of a text; "
                "name the module that it runs"
            )
        return found

    def _given(self, read: Sequence[Encoded]) -> dict[str, Tensor]:
        longest = max(len(each.ids) for each in read)
        if not self.takes_mask and any(len(each.ids) < longest for each in read):
            raise ValueError(
                f"inputs: texts of {min(len(each.ids) for each in read)} to {longest} tokens, and "
                f"{type(self.module).__name__} takes no attention_mask=, without which padding changes what it says; "
                "give texts of as many tokens, or one at a time"
            )
        if longest == 0:
            raise ValueError("inputs: a text without a token; give at least one word")
        pad = self.tokenizer.special("pad")
        filler = 0 if pad is None else self.tokenizer.id_of(pad)

        def padded(rows: Sequence[Sequence[int]], by: int) -> Tensor:
            return self._numbers([[*row, *[by] * (longest - len(row))] for row in rows])

        found = {"input_ids": padded([each.ids for each in read], filler)}
        found["attention_mask"] = padded([[1] * len(each.ids) for each in read], 0)
        if any(any(each.types) for each in read):
            found["token_type_ids"] = padded([each.types for each in read], 0)
        return found

    def _read_at(self, read: Sequence[Encoded], continued: bool) -> Tensor:
        """Return the places `(n, tokens)` whose logits are read: before each token that is forced, at the text's mask,
        or at its last token."""
        if continued:
            counts = {each.text.continued for each in read}
            if len(counts) > 1:
                raise ValueError(
                    f"target: continuations of {', '.join(map(str, sorted(counts)))} tokens; texts that are explained "
                    "together are continued by as many tokens, so explain these one by one"
                )
            starts = [len(each.ids) - each.text.continued - 1 for each in read]
            if min(starts) < 0:
                raise ValueError("inputs: an empty text, which no token precedes; give at least one word")
            (count,) = counts
            return self._numbers([list(range(start, start + count)) for start in starts])
        mask = self.tokenizer.special("mask")
        found = []
        for each in read:
            masked = [i for i, token in enumerate(each.text.tokens) if token == mask]
            if len(masked) > 1:
                raise ValueError(f"inputs: {len(masked)} tokens {mask} in one text; a text is asked about one of them")
            if not masked and self.fills_masks:
                raise ValueError(
                    f"inputs: {self.name} fills in masks, and the text {each.text.string[:40]!r} has no {mask}; write "
                    "one where it is asked what stands there"
                )
            found.append([masked[0] if masked else len(each.ids) - 1])
        return self._numbers(found)

    def _decoded(self, read: Sequence[Encoded]) -> dict[str, Tensor]:
        """Return the decoder's inputs: each token that is forced sees those before it."""
        counts = {len(each.ids) for each in read}
        if len(counts) > 1 or 0 in counts:
            raise ValueError(f"target: continuations of {', '.join(map(str, sorted(counts)))} tokens; use as many each")
        start = self._decoder_start()
        return {"decoder_input_ids": self._numbers([[start, *each.ids[:-1]] for each in read])}

    def _decoder_start(self) -> int:
        found = getattr(getattr(self.module, "config", None), "decoder_start_token_id", None)
        return int(found) if found is not None else self.tokenizer.id_of(self.tokenizer.special("pad") or "<pad>")

    def _numbers(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor([list(row) for row in rows], device=self._weight().device)

    def _weight(self) -> Tensor:
        found: Tensor = next(self.module.get_submodule(self.embedding).parameters())
        return found

    @property
    def takes_mask(self) -> bool:
        """Whether the network takes `attention_mask=`, by which padding and what `Cut` removes are left out."""
        named = inspect.signature(self.module.forward).parameters
        return "attention_mask" in named or any(each.kind is each.VAR_KEYWORD for each in named.values())

    def extra_repr(self) -> str:
        return f"name={self.name!r}, {len(self.tokenizer)} tokens, embedding={self.embedding!r}"


def _embedding_name(module: nn.Module, given: str | None) -> str:
    modules = dict(module.named_modules())
    if given is not None:
        if given in modules and next(modules[given].parameters(), None) is not None:
            return given
        near = nearest_names(given, tuple(name for name in modules if name))
        raise ValueError(f"embedding: the module has no {given!r} with weights; nearest: {', '.join(near) or 'none'}")
    ask = getattr(module, "get_input_embeddings", None)
    found = ask() if callable(ask) else None
    name = next((name for name, each in modules.items() if each is found), None)
    if found is None or name is None:
        some = [name for name, each in modules.items() if isinstance(each, nn.Embedding)]
        raise ValueError(
            f"embedding: {type(module).__name__} does not say which it is; name one of {some or 'its own'}"
        )
    return str(name)
