"""Texts: how maps are read and compared, wrong words, and relevance in half precision."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import nn

import limelight as ll
from limelight.models.tokens import Tokens
from limelight.question.question import question_of
from limelight.show.explained import ranked

from .text_models import bag, bert_classifier, byte_pairs, gpt2, llama, words

PROMPT = "the quick brown fox jumps over"


def test_what_excites_is_read_by_its_magnitude_as_gradients_are() -> None:
    panel = ll.explain(bert_classifier(), "the cat sat", ["deconv-net", "guided-backprop", "guided-grad-cam"], target=1)
    for name, found in panel.items():
        assert torch.allclose(found.viewed().squeeze(), found.values[0].abs().sum(0)), name


def test_padding_has_no_part_in_agreement() -> None:
    model, methods = bert_classifier(), ["occlusion", "attn-lrp", "input-x-gradient"]
    texts = ["the cat sat on the mat and the dog ate the food", "a quick dog sat"]
    padded = ll.explain(model, texts, methods, target=1).agreement()
    alone = ll.explain(model, texts[1], methods, target=1).agreement()
    assert torch.equal(padded.correlations[1], alone.correlations[0])
    length = alone.region.shape[-1]
    assert torch.equal(padded.region[1, :length], alone.region[0]) and not bool(padded.region[1, length:].any())
    assert padded.left_out[1] == alone.left_out[0]


def test_only_the_classes_that_are_shown_are_named() -> None:
    class Counting:
        named = 0

        def label(self, index: int) -> str:
            self.named += 1
            return str(index)

    model, outputs = Counting(), torch.arange(1000.0)[None]
    found = ranked(model, outputs, ("score",), 5, beside=(3, 999))  # type: ignore[arg-type]
    assert [each.index for each in found] == [999, 998, 997, 996, 995, 3] and model.named == 6


# Wrong words


def test_kinds_of_tokens() -> None:
    pieces = Tokenizer(models.WordPiece({"[CLS]": 0, "[UNK]": 1, "cat": 2, "##s": 3}, unk_token="[UNK]"))
    assert Tokens(pieces).begins_word == (None, None, True, False)
    bytes_ = byte_pairs()
    found = Tokens(bytes_).begins_word
    for i, each in enumerate(found):
        name = bytes_.id_to_token(i)
        assert each == (None if name == "<|endoftext|>" else name.startswith("\u0120"))
    assert set(Tokens(words()).begins_word) == {None, True}


@pytest.mark.parametrize("model", [gpt2, bert_classifier])
def test_wrong_words_are_random_tokens_of_the_same_kind(model: Callable[[], ll.TextModel]) -> None:
    reader, samples = model(), 400
    text = "the quick brown fox"
    rows, given = reader.tokens(text)
    kinds, table = reader.tokenizer.begins_word, reader.vectors()
    with question_of(reader, rows, {"given": given, "baseline": ll.WrongWords(samples), "target": 1}) as question:
        found = question.references()
        again = question.references()
    assert found.shape == (samples, *rows.shape) and torch.equal(found, again)
    ids = reader.tokenizer.encode(text).ids
    drawn = torch.cdist(found[:, 0].transpose(1, 2), table).argmin(-1)
    assert torch.equal(table[drawn].transpose(1, 2), found[:, 0])
    for place, (own, special) in enumerate(zip(ids, given.texts[0].special, strict=True)):
        seen = drawn[:, place].tolist()
        if special:
            assert set(seen) == {own}
            continue
        assert {kinds[each] for each in seen} == {kinds[own]}
        # The mean place among the tokens of the kind: uniform, so within five standard errors of the middle.
        members = [i for i, kind in enumerate(kinds) if kind == kinds[own]]
        places = torch.tensor([members.index(each) for each in seen], dtype=torch.float64)
        count = len(members)
        spread = math.sqrt((count**2 - 1) / 12 / samples)
        assert abs(float(places.mean()) - (count - 1) / 2) < 5 * spread


def test_wrong_words_hide_tokens_in_checks() -> None:
    model, text = bert_classifier(), "the cat sat"
    (found,) = ll.check(model, text, "gradient", "deletion(fill=wrong-words)", target=1)
    curve = found.detail["curve"][0]
    rows, given = model.tokens(text)
    assert float(curve[0]) == pytest.approx(float(model(rows, **given).softmax(1)[0, 1]), abs=1e-6)
    # Every word of the curve's last text is one of the vocabulary, [CLS] and [SEP] stay: one of few probabilities.
    kinds, table = model.tokenizer.begins_word, model.vectors()
    members = [i for i, kind in enumerate(kinds) if kind]
    triples = torch.cartesian_prod(*[torch.tensor(members)] * 3)
    whole = rows.expand(len(triples), -1, -1).clone()
    whole[:, :, 1:4] = table[triples].transpose(1, 2)
    with torch.no_grad():
        possible = model(whole, **{k: v.expand(len(triples), *v.shape[1:]) for k, v in given.items()}).softmax(1)[:, 1]
    assert float((possible - float(curve[-1])).abs().min()) < 1e-6
    with pytest.raises(ValueError, match="of a text's tokens"):
        ll.explain(torch.nn.Linear(3, 2), torch.rand(1, 3), "integrated-gradients", target=0, baseline="wrong-words")


# Half precision


def test_relevance_in_half_precision_is_cautioned() -> None:
    exact = ll.explain(llama(), PROMPT, "attn-lrp", target=5).values
    size, missed = exact.abs().max(), {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        model = ll.TextModel(copy.deepcopy(llama().module).to(dtype), llama().tokenizer)
        panel = ll.explain(model, PROMPT, ["attn-lrp", "smooth-grad(samples=2, inner=lrp)", "gradient"], target=5)
        missed[dtype] = float((panel["attn-lrp"].values.double() - exact).abs().max() / size)
        said = [any("relevance was computed in" in each for each in found.cautions) for found in panel.values()]
        half = dtype != torch.float32
        assert said == [half, half, False], dtype
    assert missed[torch.float32] < 1e-5 < 1e-4 < missed[torch.float16] < missed[torch.bfloat16]


# Other functions than explain


def test_texts_where_a_tensor_is_taken() -> None:
    """The error names the two lines that work, and they do."""
    model = bag()
    for call in (
        lambda: ll.sweep(model, "the cat", "kernel-shap", samples=[8, 16], target="good"),
        lambda: ll.compare_baselines(model, ["the cat"], baselines=["pad"], target="good"),
    ):
        with pytest.raises(TypeError, match=r"x, given = model\.tokens\(texts\).*given=given"):
            call()
    with pytest.raises(
        TypeError, match=r"inputs: 'the cat', and Linear takes tensors; .*TextModel\(module, tokenizer\)"
    ):
        ll.explain(nn.Linear(3, 2), "the cat", "gradient", target=1)
    x, given = model.tokens("the cat")
    assert len(ll.sweep(model, x, "kernel-shap", samples=[8, 16], target="good", given=given)) == 2


def test_baselines_of_texts_are_compared() -> None:
    model = bert_classifier()
    x, given = model.tokens(["the cat sat", "the dog ate"])
    wanted = ["cut", "pad", "mean-token", "wrong-words", "token('[MASK]')"]
    study = ll.compare_baselines(model, x, "kernel-shap", wanted, target="good", given=given)
    for label, baseline in zip(study, wanted, strict=True):
        alone = ll.explain(model, x, "kernel-shap", target="good", given=given, baseline=baseline)
        assert torch.equal(study[label].values, alone.values), baseline


def test_baselines_that_name_columns_are_compared() -> None:
    torch.manual_seed(0)
    net, x, names = nn.Sequential(nn.Linear(4, 2)), torch.rand(2, 4), ["red", "blue", "size", "age"]
    baseline = ll.SegmentMean(ll.Columns([["red", "blue"]]))
    study = ll.compare_baselines(net, x, "kernel-shap", [baseline], target=1, names=names)
    alone = ll.explain(net, x, "kernel-shap", target=1, names=names, baseline=baseline)
    assert torch.equal(study[0].values, alone.values)


def test_lengths_that_cannot_be_padded_say_what_to_give() -> None:
    with pytest.raises(ValueError, match="give texts of as many tokens, or one at a time"):
        bag().tokens(["the cat", "a quick brown fox"])


def test_a_control_for_pictures_is_left_out_of_a_table_of_texts() -> None:
    table = ll.evaluate(bag(), "the cat", ["gradient"], "deletion", target="good")
    said = "a control for pictures (batch, channels, H, W), and the inputs are texts"
    assert table.refused == {"sobel-edges": said} and table.controls == ("random-map", "constant-map")


@pytest.mark.parametrize("method", ["attn-lrp", "kernel-shap"])
def test_the_figure_of_a_text_is_its_own_in_any_list(method: str) -> None:
    """Padding counted as a token that a check hides, and random numbers depended on it."""
    model, texts = bert_classifier(), ["the cat sat", "the dog ate the food", "a dog", "the cat ate"]
    checks = [
        "deletion",
        "insertion",
        "srg(steps=3)",
        "completeness",
        "determinism",
        "max-sensitivity(samples=2)",
        "gini",
    ]
    together = ll.check(model, texts, method, checks, target="good")
    for i, text in enumerate(texts):
        alone = ll.check(model, text, method, checks, target="good")
        for own, whole in zip(alone, together, strict=True):
            name = own.check.kebab()
            torch.testing.assert_close(whole.value[i], own.value[0], atol=1e-6, rtol=1e-6, equal_nan=True, msg=name)
            assert whole.reasons[i] == own.reasons[0] and (own.passed is None or whole.passed is not None), name
    curve = together[0].detail["curve"]
    assert curve.shape == (4, 8) and curve[2].isnan().tolist() == [False] * 5 + [True] * 3
    table = ll.evaluate(model, texts, [method, "gradient"], "deletion", target="good")
    assert torch.equal(table[method]["deletion"].finding.value, together[0].value)


def test_the_figure_of_a_continuation_is_its_own_in_any_list() -> None:
    texts, target = [PROMPT, "the cat sat on"], ll.Continuation("the")
    (together,) = ll.check(gpt2(), texts, "attn-lrp", "deletion", target=target)
    for i, text in enumerate(texts):
        (alone,) = ll.check(gpt2(), text, "attn-lrp", "deletion", target=target)
        torch.testing.assert_close(together.value[i], alone.value[0], atol=1e-6, rtol=1e-6)


def test_the_baselines_of_pictures_are_no_default_of_texts_and_tables() -> None:
    model = bag()
    x, given = model.tokens("the cat")
    with pytest.raises(ValueError, match=r"by default are of pictures; name yours, such as \[Pad\(\), MeanToken\(\)"):
        ll.compare_baselines(model, x, "kernel-shap", target=1, given=given)
    with pytest.raises(ValueError, match=r"by default are of pictures; name yours, such as \[0.0, Mean\(data\)"):
        ll.compare_baselines(nn.Linear(4, 2), torch.rand(2, 4), target=1)
