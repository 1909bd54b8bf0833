"""Language models of one's own, and networks that a text is no question for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll

from .text_models import SENTENCES, bert_classifier, bert_embedding, byte_pairs, seeded, words

TEXT = "the cat"


class Recurrent(nn.Module):
    """Logits `(n, length, tokens)` of the token after each, as a tensor, or as `shape` returns them."""

    def __init__(self, shape: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        size = byte_pairs().get_vocab_size()
        self.table, self.inner, self.out = nn.Embedding(size, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, size)
        self.shape = shape

    def forward(self, ids: Tensor) -> Any:
        return self.shape(self.out(self.inner(self.table(ids))[0]))


class Writer(Recurrent):
    """One that says that it predicts tokens."""

    def get_output_embeddings(self) -> nn.Module:
        return self.out


def text_model(kind: type[Recurrent], shape: Callable[[Tensor], Any] = lambda logits: logits) -> ll.TextModel:
    return ll.TextModel(seeded(lambda: kind(shape)), byte_pairs(), embedding="table", name="mine")


SHAPES: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda logits: logits,
    "mapping": lambda logits: {"logits": logits},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_language_model_of_one_s_own_is_read_at_the_last_token(shape: str) -> None:
    model = text_model(Writer, SHAPES[shape])
    ids = list(byte_pairs().encode(TEXT).ids)
    logits = model.module.out(model.module.inner(model.module.table(torch.tensor([ids])))[0])[0]
    found = ll.explain(model, TEXT, "gradient", target=5)
    assert float(found.score) == pytest.approx(float(logits[-1, 5]), abs=1e-12)
    token = model.tokenizer.vocabulary.index(" the")
    found = ll.explain(model, TEXT, "gradient", target="next-token('the')")
    assert float(found.score) == pytest.approx(float(logits[-1].log_softmax(0)[token]), abs=1e-12)
    found = ll.explain(model, TEXT, "gradient", target="continuation('the dog', each=true)")
    both = torch.tensor([list(byte_pairs().encode(f"{TEXT} the dog").ids)])
    logs = model.module.out(model.module.inner(model.module.table(both))[0])[0].log_softmax(-1)
    expected = [float(logs[k - 1, both[0, k]]) for k in range(len(ids), both.shape[1])]
    assert found.score[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_a_language_model_of_one_s_own_writes() -> None:
    torch.manual_seed(0)
    model = text_model(Writer)
    network, rows = model.module.float(), [torch.tensor([byte_pairs().encode(each).ids]) for each in SENTENCES]
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(40):
        optimiser.zero_grad()
        sum(nn.functional.cross_entropy(network(each)[0, :-1], each[0, 1:]) for each in rows).backward()
        optimiser.step()
    prompt = "the quick brown fox jumps over"
    ids = list(byte_pairs().encode(prompt).ids)
    start = len(ids)
    for _ in range(3):
        ids.append(int(network(torch.tensor([ids]))[0, -1].argmax()))
    expected = byte_pairs().decode(ids[start:])
    assert model.generate(prompt, 3) == expected
    found = ll.explain(model, prompt, "gradient", target=ll.Continuation(None, tokens=3))
    assert found.texts[0].string == prompt + expected


@pytest.mark.parametrize(
    "target", ["continuation('the dog')", "continuation(none)", "next-token('the')", "next-token(5)"]
)
def test_what_a_language_model_of_one_s_own_has_to_say(target: str) -> None:
    with pytest.raises((TypeError, ValueError), match=r"a method get_output_embeddings\(\)"):
        ll.explain(text_model(Recurrent, lambda logits: logits[:, -1]), TEXT, "gradient", target=target)


@pytest.mark.parametrize("target", ["continuation('the dog')", "next-token(1)"])
def test_a_classifier_predicts_no_tokens(target: str) -> None:
    with pytest.raises(TypeError, match=r"predicts no tokens.*; use a class as target"):
        ll.explain(bert_classifier(), TEXT, "gradient", target=target)


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_of_every_token_are_not_averaged(shape: str) -> None:
    """A mean over the text of what follows each token is the answer to no question."""
    with pytest.raises(TypeError, match=r"shape \(1, 2, 355\), a row for each token.*get_output_embeddings"):
        ll.explain(text_model(Recurrent, SHAPES[shape]), TEXT, "gradient", target=5)


def test_classes_of_every_token_are_not_read_at_the_last() -> None:
    from transformers import BertForTokenClassification

    network = BertForTokenClassification(bert_embedding().module.config)
    with pytest.raises(TypeError, match=r"logits have shape \(1, 4, 2\), a row for each token"):
        ll.explain(ll.TextModel(network, words()), TEXT, "gradient", target=1)


def test_a_tuple_says_what_to_return() -> None:
    with pytest.raises(TypeError, match=r"returns tuple.*return a tensor, or a mapping with"):
        ll.explain(text_model(Writer, lambda logits: (logits, None)), TEXT, "gradient", target=5)


def test_a_model_that_fills_in_masks_is_asked_about_a_mask() -> None:
    """At any other token its logits say what stands there, and not what follows."""
    from transformers import BertForMaskedLM

    model = ll.TextModel(seeded(lambda: BertForMaskedLM(bert_embedding().module.config)), words())
    found = ll.explain(model, "the [MASK] sat", "gradient", target=ll.NextToken("cat"))
    ids = torch.tensor([list(words().encode("the [MASK] sat").ids)])
    logs = model.module(input_ids=ids).logits[0, 2].log_softmax(0)
    assert float(found.score) == pytest.approx(float(logs[words().token_to_id("cat")]), abs=1e-12)
    with pytest.raises(ValueError, match=r"fills in masks, and the text 'the cat sat' has no \[MASK\]; write one"):
        ll.explain(model, "the cat sat", "gradient", target=ll.NextToken("cat"))
    for target in ("continuation('cat sat')", "continuation(none)"):
        with pytest.raises(TypeError, match=r"fills in masks and goes on with no text; write \[MASK\] in the text"):
            ll.explain(model, "the [MASK]", "gradient", target=target)


def test_a_classifier_that_reads_the_last_token_is_not_padded() -> None:
    """Without token numbers transformers reads the padding's place, and its scores are of no text."""
    from transformers import GPT2Config, GPT2ForSequenceClassification

    tokenizer = byte_pairs()
    shape = {"vocab_size": tokenizer.get_vocab_size(), "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    network = seeded(lambda: GPT2ForSequenceClassification(GPT2Config(**shape, pad_token_id=0, num_labels=2)))
    model, texts = ll.TextModel(network, tokenizer), ["the cat sat", "a dog"]
    with pytest.raises(
        ValueError,
        match=r"2 to 3 tokens, and padding changes what model says.*make it with embedding='transformer.wte'",
    ):
        model.tokens(texts)
    together = ll.check(model, texts, "gradient", "gini", target=1)[0].value  # one length at a time
    alone = [ll.check(model, text, "gradient", "gini", target=1)[0].value for text in texts]
    torch.testing.assert_close(together, torch.cat(alone))
    with_numbers = ll.TextModel(network, tokenizer, embedding="transformer.wte")
    found = ll.explain(model, texts, "gradient", target=1)  # one length at a time
    padded = with_numbers.asked(*with_numbers.tokens(texts))[:, 1]
    torch.testing.assert_close(padded, found.score, atol=1e-12, rtol=0)
    for score, text in zip(found.score.tolist(), texts, strict=True):
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([tokenizer.encode(text).ids])).logits
        assert score == pytest.approx(float(logits[0, 1]), abs=1e-12)


def test_texts_are_as_long_as_the_places_after_padding() -> None:
    """RoBERTa counts places from the one after padding's: a text that filled all ended in an error about an index."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = RobertaConfig(vocab_size=words().get_vocab_size(), **shape, max_position_embeddings=10, pad_token_id=0)
    model = ll.TextModel(RobertaForSequenceClassification(config).eval(), words(), name="roberta")
    assert ll.explain(model, "the cat sat on the mat and", "gradient", target=1).values.shape[-1] == 9
    with pytest.raises(ValueError, match="a text of 10 tokens, and roberta reads 9; shorten it"):
        ll.explain(model, "the cat sat on the mat and the", "gradient", target=1)


class Pair(nn.Module):
    """Reads a text, and what a decoder is given in its place, by one embedding; `idle` is never run."""

    def __init__(self) -> None:
        super().__init__()
        size = byte_pairs().get_vocab_size()
        self.table, self.idle, self.out = nn.Embedding(size, 8), nn.Embedding(size, 8), nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        shifted = ids.roll(1, 1)
        found: Tensor = self.out(torch.cat([self.table(ids).tanh().mean(1), self.table(shifted)[:, 0]], 1))
        return found


def test_an_embedding_that_other_tokens_pass_too_is_replaced_for_the_text_alone() -> None:
    network = seeded(Pair)
    model = ll.TextModel(network, byte_pairs(), embedding="table")
    found = ll.explain(model, "the cat sat", "gradient", target=1)
    ids = torch.tensor([list(byte_pairs().encode("the cat sat").ids)])
    assert float(found.score) == pytest.approx(float(network(ids)[0, 1]), abs=1e-12)


def test_an_embedding_that_is_not_run_is_refused() -> None:
    model = ll.TextModel(seeded(Pair), byte_pairs(), embedding="idle")
    with pytest.raises(ValueError, match="Pair does not run 'idle' on the tokens of a text; name the module"):
        ll.explain(model, "the cat sat", "kernel-shap", target=1)
