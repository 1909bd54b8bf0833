"""Small text models for tests: tokenizers made here, networks of transformers from small configurations."""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn

import limelight as ll

SENTENCES = (
    "the quick brown fox jumps over the lazy dog",
    "the cat sat on the mat and the dog ate the food",
    "a quick recipe for chocolate cake with butter, sugar and cocoa",
    "Paris is the capital of France. Rome is the capital of Italy!",
)


@functools.cache
def words() -> Tokenizer:
    """A BERT-like tokenizer of whole words, with [CLS] and [SEP] around each text."""
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(SENTENCES, trainers.WordLevelTrainer(special_tokens=special))
    ends = [(each, made.token_to_id(each)) for each in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return made


@functools.cache
def byte_pairs() -> Tokenizer:
    """A GPT-2-like tokenizer of byte pairs, without special tokens in the text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    made.train_from_iterator(SENTENCES, trainer)
    return made


class Bag(nn.Module):
    """Scores of the mean embedding of a text's tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.head(self.table(ids).mean(1))
        return found


def bag() -> ll.TextModel:
    """A classifier without transformers, which a worker of a run loads at once; the vocabulary's order is fixed."""
    plain = sorted({word for each in SENTENCES for word in re.findall(r"\w+", each)})
    known = ["[PAD]", "[UNK]", "[MASK]", *plain][:40]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return ll.TextModel(seeded(Bag), made, embedding="table", labels=("bad", "good", "neither"), name="bag")


def seeded(make: Any, spread: float = 0.2) -> Any:
    """Return a network with random weights, of which norms' scales and biases vary too, in float64 and eval mode."""
    torch.manual_seed(0)
    made = make().double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for each in made.parameters():
            each.add_(spread * torch.randn(each.shape, generator=generator, dtype=each.dtype))
    return made


@functools.cache
def bert_embedding() -> ll.TextModel:
    from transformers import BertConfig, BertModel

    tokenizer = words()
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip
    return ll.TextModel(seeded(lambda: BertModel(config)), tokenizer)


@functools.cache
def bert_classifier() -> ll.TextModel:
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = words()
    names = {0: "bad", 1: "good", 2: "neither"}
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, id2label=names,
    )  # fmt: skip
    return ll.TextModel(seeded(lambda: BertForSequenceClassification(config)), tokenizer)


@functools.cache
def gpt2() -> ll.TextModel:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = byte_pairs()
    config = GPT2Config(vocab_size=tokenizer.get_vocab_size(), n_positions=64, n_embd=16, n_layer=2, n_head=2)
    return ll.TextModel(seeded(lambda: GPT2LMHeadModel(config), 0.1), tokenizer)


@functools.cache
def llama() -> ll.TextModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_pairs()
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    return ll.TextModel(seeded(lambda: LlamaForCausalLM(config), 0.1), tokenizer)


@functools.cache
def t5() -> ll.TextModel:
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = byte_pairs()
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
    )
    return ll.TextModel(seeded(lambda: T5ForConditionalGeneration(config), 0.1), tokenizer)


@functools.cache
def trained_gpt2() -> ll.TextModel:
    """A language model that has learnt the sentences by heart."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    tokenizer = byte_pairs()
    config = GPT2Config(vocab_size=tokenizer.get_vocab_size(), n_positions=64, n_embd=32, n_layer=1, n_head=2)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    network = GPT2LMHeadModel(config)
    rows = [torch.tensor([tokenizer.encode(each).ids]) for each in SENTENCES]
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        optimiser.zero_grad()
        sum(network(input_ids=each, labels=each).loss for each in rows).backward()
        optimiser.step()
    return ll.TextModel(network.eval(), tokenizer)
