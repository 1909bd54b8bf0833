"""Integrated gradients of texts beside inseq's: `python benchmarks/inseq_texts.py`, in an environment that has inseq.

inseq wants versions of its own; this measured inseq 0.7.1 with torch 2.13.0 and transformers 5.24:

    python -m venv with-inseq && with-inseq/bin/pip install torch==2.13.0 inseq && with-inseq/bin/pip install .
    with-inseq/bin/python benchmarks/inseq_texts.py

A GPT-2 with random weights, made from a small configuration, goes on with a prompt. Both explain the log-probability of
each token that follows, from the embedding of one token in every place, with Gauss-Legendre points.
"""

from __future__ import annotations

import sys
from typing import Any

import inseq  # type: ignore[import-not-found]  # in an environment of its own
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import limelight as ll

SENTENCES = ("the quick brown fox jumps over the lazy dog", "Paris is the capital of France, Rome of Italy")
PROMPT, MORE, STEPS = "the quick brown fox", " jumps over the dog", 32
END = "<|endoftext|>"


def tokenizer() -> Tokenizer:
    """A byte-level tokenizer trained on two sentences."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=330, special_tokens=[END], initial_alphabet=alphabet)
    )
    return made


def main() -> int:
    """Print both maps' largest difference, and return 1 where it is more than float32 explains."""
    torch.manual_seed(0)
    own = tokenizer()
    config = GPT2Config(vocab_size=own.get_vocab_size(), n_positions=64, n_embd=32, n_layer=2, n_head=4)
    network: Any = GPT2LMHeadModel(config)
    network.eval()
    fast: Any = PreTrainedTokenizerFast
    prompt: Any = PROMPT
    with torch.no_grad():
        for each in network.parameters():
            each.add_(0.1 * torch.randn_like(each))
    theirs = inseq.load_model(
        network,
        "integrated_gradients",
        tokenizer=fast(tokenizer_object=own, eos_token=END, bos_token=END, unk_token=END, pad_token=END),
    )
    found = theirs.attribute(
        PROMPT,
        PROMPT + MORE,
        attributed_fn="crossentropy",  # minus the log-probability
        n_steps=STEPS,
        show_progress=False,
        pretty_progress=False,
    )
    said = found.sequence_attributions[0].target_attributions  # (tokens, predicted tokens, width), NaN after the token
    assert said is not None
    expected = -said.permute(1, 2, 0).nan_to_num(0.0)
    ours = ll.explain(
        ll.TextModel(network, own),
        prompt,
        ll.IntegratedGradients(ll.GaussLegendre(STEPS)),
        target=ll.Continuation(MORE, each=True),
        baseline=ll.Token(END),
    )
    difference = float((ours.values[0] - expected).abs().max())
    largest = float(expected.abs().max())
    print(f"predicted tokens x width x tokens: {tuple(expected.shape)}; largest value {largest:.3g}")
    print(f"largest difference {difference:.2g}, {difference / largest:.2g} of the largest value")
    return int(difference > 1e-5 * largest)


if __name__ == "__main__":
    sys.exit(main())
