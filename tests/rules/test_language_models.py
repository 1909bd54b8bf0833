"""AttnLRP and CP-LRP on transformers' language models, against the published rules written out.

Each model's forward pass is written here once more, from its weights, with the rules as plain derivatives: scales of
norms detached, activations as z times the constant f(z) / z, half of each product of activations, and the attention
weights kept (AttnLRP) or detached (CP-LRP). Relevance is then input times gradient. [achtibat2024] [ali2022]
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.rules import ATTN_LRP, CP_LRP, DEEPLIFT, Propagation, composite, multipliers
from tests.rules.helpers import constant

transformers = pytest.importorskip("transformers")
LENGTH, WIDTH, HEADS, CLASSES = 6, 16, 2, 5
EMBEDDINGS = constant(2, LENGTH, WIDTH, seed=3)
PLACES = ("wpe", "position_emb", "token_type", "relative_attention_bias")  # of parameters that are added like biases


class AtEmbeddings(nn.Module):
    """A model from embeddings to the outputs at one position, or to their mean over all where it is None."""

    def __init__(self, model: nn.Module, at: int | None, head: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.at, self.head = model, at, nn.Identity() if head is None else head

    def forward(self, embeddings: Tensor) -> Tensor:
        out = self.model(inputs_embeds=embeddings)[0]
        out = out if out.ndim == 2 else out.mean(1) if self.at is None else out[:, self.at]
        return self.head(out)  # type: ignore[no-any-return]


def _shaken(model: nn.Module, biases: bool) -> nn.Module:
    """Weights large enough for attention and norms to matter; without biases also without position embeddings."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        extra = "bias" in name.rsplit(".", 1)[-1] or any(part in name for part in PLACES)
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        norm = parameter.ndim == 1 and not extra
        parameter.data = 1 + 0.2 * noise if norm else noise * (0.3 if biases or not extra else 0.0)
    return model.double().eval().requires_grad_(False)


def bert(biases: bool = True, attention: str = "eager") -> AtEmbeddings:
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=32,
        num_labels=CLASSES, attn_implementation=attention,
    )  # fmt: skip
    return AtEmbeddings(_shaken(transformers.BertForSequenceClassification(config), biases), None)


def gpt2(biases: bool = True, attention: str = "eager") -> AtEmbeddings:
    config = transformers.GPT2Config(
        vocab_size=CLASSES, n_embd=WIDTH, n_layer=2, n_head=HEADS, n_positions=8, attn_implementation=attention,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return AtEmbeddings(_shaken(transformers.GPT2LMHeadModel(config), biases), 3)


def llama(biases: bool = True, attention: str = "eager") -> AtEmbeddings:
    config = transformers.LlamaConfig(
        vocab_size=CLASSES, hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=3, num_attention_heads=HEADS,
        num_key_value_heads=1, attn_implementation=attention, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return AtEmbeddings(_shaken(transformers.LlamaForCausalLM(config), biases), 3)


def t5(biases: bool = True, attention: str = "eager") -> AtEmbeddings:
    config = transformers.T5Config(
        vocab_size=11, d_model=WIDTH, d_kv=8, d_ff=24, num_layers=2, num_heads=HEADS, attn_implementation=attention,
        feed_forward_proj="gated-gelu", dropout_rate=0.0,
    )  # fmt: skip
    head = _shaken(nn.Linear(WIDTH, CLASSES, bias=biases), biases)
    return AtEmbeddings(_shaken(transformers.T5EncoderModel(config), biases), None, head)


@dataclass(frozen=True)
class Published:
    """The rules as plain derivatives, and the models of them."""

    detach_attention: bool

    def scaled(self, x: Tensor, scale: Tensor) -> Tensor:
        return x * scale.detach()

    def layer_norm(self, x: Tensor, norm: Any) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return self.scaled(x, (x.square().mean(-1, keepdim=True) + norm.eps).rsqrt()) * norm.weight + norm.bias

    def rms_norm(self, x: Tensor, norm: Any) -> Tensor:
        kept = x.float()  # as the models do, also in double precision
        return norm.weight * self.scaled(x, (kept.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt())

    def act(self, f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        return z * (f(z) / z).detach()

    def product(self, f: Callable[..., Tensor], a: Tensor, b: Tensor) -> Tensor:
        whole = f(a, b)
        return whole / 2 + (whole / 2).detach()

    def attention(self, q: Tensor, k: Tensor, v: Tensor, added: Tensor | float, scale: float) -> Tensor:
        """Of tensors (rows, heads, length, depth), with the heads' outputs side by side."""
        weights = (self.product(torch.matmul, q, k.mT) * scale + added).softmax(-1)
        out = weights.detach() @ v if self.detach_attention else self.product(torch.matmul, weights, v)
        return out.transpose(1, 2).flatten(2)

    def bert(self, wrapped: Any, x: Tensor) -> Tensor:
        model = wrapped.model.bert
        place = model.embeddings.position_embeddings.weight[: x.shape[1]]
        x = self.layer_norm(x + model.embeddings.token_type_embeddings.weight[0] + place, model.embeddings.LayerNorm)
        for layer in model.encoder.layer:
            own, out = layer.attention.self, layer.attention.output
            mixed = self.attention(
                *map(_heads, (own.query(x), own.key(x), own.value(x))), 0.0, (WIDTH // HEADS) ** -0.5
            )
            x = self.layer_norm(out.dense(mixed) + x, out.LayerNorm)
            inside = self.act(F.gelu, layer.intermediate.dense(x))
            x = self.layer_norm(layer.output.dense(inside) + x, layer.output.LayerNorm)
        return wrapped.model.classifier(self.act(torch.tanh, model.pooler.dense(x[:, 0])))  # type: ignore[no-any-return]

    def gpt2(self, wrapped: Any, x: Tensor) -> Tensor:
        model = wrapped.model.transformer
        x = x + model.wpe.weight[: x.shape[1]]
        for block in model.h:
            qkv = block.attn.c_attn(self.layer_norm(x, block.ln_1)).split(WIDTH, -1)
            mixed = self.attention(*map(_heads, qkv), _causal(x), (WIDTH // HEADS) ** -0.5)
            x = x + block.attn.c_proj(mixed)
            inside = block.mlp.c_fc(self.layer_norm(x, block.ln_2))
            x = x + block.mlp.c_proj(self.act(lambda z: F.gelu(z, approximate="tanh"), inside))
        return wrapped.model.lm_head(self.layer_norm(x, model.ln_f))[:, wrapped.at]  # type: ignore[no-any-return]

    def llama(self, wrapped: Any, x: Tensor) -> Tensor:
        model, depth = wrapped.model.model, WIDTH // HEADS
        angles = torch.arange(x.shape[1])[:, None] * 10000.0 ** -(torch.arange(0, depth, 2) / depth)
        cos, sin = (f(angles.repeat(1, 2)).to(x) for f in (torch.cos, torch.sin))

        def turned(t: Tensor) -> Tensor:
            return t * cos + torch.cat([-t[..., depth // 2 :], t[..., : depth // 2]], -1) * sin

        for layer in model.layers:
            own, mlp, y = layer.self_attn, layer.mlp, self.rms_norm(x, layer.input_layernorm)
            q, k, v = _heads(own.q_proj(y)), _heads(own.k_proj(y), 1), _heads(own.v_proj(y), 1)
            k, v = (t.expand(-1, HEADS, -1, -1) for t in (turned(k), v))
            x = x + own.o_proj(self.attention(turned(q), k, v, _causal(x), depth**-0.5))
            y = self.rms_norm(x, layer.post_attention_layernorm)
            x = x + mlp.down_proj(self.product(torch.mul, self.act(F.silu, mlp.gate_proj(y)), mlp.up_proj(y)))
        return wrapped.model.lm_head(self.rms_norm(x, model.norm))[:, wrapped.at]  # type: ignore[no-any-return]

    def t5(self, wrapped: Any, x: Tensor) -> Tensor:
        model = wrapped.model.encoder
        bias = model.block[0].layer[0].SelfAttention.compute_bias(x.shape[1], x.shape[1])
        for block in model.block:
            own, dense = block.layer[0].SelfAttention, block.layer[1].DenseReluDense
            y = self.rms_norm(x, block.layer[0].layer_norm)
            x = x + own.o(self.attention(*map(_heads, (own.q(y), own.k(y), own.v(y))), bias, 1.0))
            y = self.rms_norm(x, block.layer[1].layer_norm)
            gate = self.act(lambda z: F.gelu(z, approximate="tanh"), dense.wi_0(y))
            x = x + dense.wo(self.product(torch.mul, gate, dense.wi_1(y)))
        return wrapped.head(self.rms_norm(x, model.final_layer_norm).mean(1))  # type: ignore[no-any-return]


def _heads(t: Tensor, heads: int = HEADS) -> Tensor:
    return t.unflatten(-1, (heads, -1)).transpose(1, 2)


def _causal(x: Tensor) -> Tensor:
    return torch.full((x.shape[1], x.shape[1]), -math.inf, dtype=x.dtype).triu(1)


MODELS = {"bert": bert, "gpt2": gpt2, "llama": llama, "t5": t5}
PRECISE = {"bert": 1e-11, "gpt2": 1e-11, "llama": 2e-6, "t5": 2e-6}  # the last two have norms or attention in float32
CAUSAL = ("gpt2", "llama")


def _published(name: str, wrapped: nn.Module, propagation: Propagation, target: int) -> tuple[Tensor, Tensor]:
    x = EMBEDDINGS.clone().requires_grad_()
    score = getattr(Published(propagation is CP_LRP), name)(wrapped, x)[:, target]
    (gradient,) = torch.autograd.grad(score.sum(), x)
    return x.detach() * gradient, score.detach()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("propagation", [ATTN_LRP, CP_LRP], ids=lambda p: p.name)
@pytest.mark.parametrize("name", MODELS)
def test_relevance_is_the_published_rule(name: str, propagation: Propagation, attention: str) -> None:
    wrapped = MODELS[name](attention=attention)
    expected, score = _published(name, wrapped, propagation, 2)
    assert (wrapped(EMBEDDINGS)[:, 2] - score).abs().max() <= PRECISE[name] * score.abs().max()
    found = multipliers(lambda rows: wrapped(rows)[:, 2], EMBEDDINGS, propagation)
    assert (found.values - expected).abs().max() <= PRECISE[name] * expected.abs().max()
    if name in CAUSAL:  # a token after the predicted one has no way to it
        assert wrapped.at is not None and not found.values[:, wrapped.at + 1 :].any()
    assert not [note for note in found.notes if "plain gradient" in note]


@pytest.mark.parametrize("name", MODELS)
def test_relevance_is_conserved_without_biases(name: str) -> None:
    wrapped = MODELS[name](biases=False)
    for propagation in (ATTN_LRP, CP_LRP):
        found = multipliers(lambda rows: wrapped(rows)[:, 1], EMBEDDINGS, propagation)
        assert found.shares is not None
        absorbed = found.shares.taken.get("softmax", torch.zeros(1)).sum()
        left = found.score.sum() - found.values.sum() - absorbed
        assert left.abs() <= 10 * PRECISE[name] * found.values.abs().sum()
        assert (absorbed == 0) == (propagation is CP_LRP)


@pytest.mark.parametrize("method", [ll.AttnLRP(), ll.CPLRP()], ids=repr)
def test_explain_gives_the_same(method: ll.Method) -> None:
    wrapped = gpt2()
    expected, _ = _published("gpt2", wrapped, ATTN_LRP if isinstance(method, ll.AttnLRP) else CP_LRP, 4)
    found = ll.explain(wrapped, EMBEDDINGS, method, target=4)
    assert torch.allclose(found.values, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", DEEPLIFT)
@pytest.mark.parametrize("name", MODELS)
def test_deeplift_is_complete_and_of_the_size_of_the_change(name: str, rule: str) -> None:
    """A reference of zeros has no variance in the first norm: multipliers of 2e17 where its root is a factor."""
    wrapped = MODELS[name](biases=False)
    reference = torch.zeros_like(EMBEDDINGS[:1])
    found = multipliers(lambda rows: wrapped(rows)[:, 1], EMBEDDINGS, DEEPLIFT[rule], reference=reference)
    assert found.reference_score is not None
    change, size = found.score - found.reference_score, found.values.flatten(1).abs().sum(1)
    assert (found.values.flatten(1).sum(1) - change).abs().max() <= 10 * PRECISE[name] * size.max()
    assert size.max() <= 100 * change.abs().max()
    if name in CAUSAL:
        assert wrapped.at is not None and not found.values[:, wrapped.at + 1 :].any()


@pytest.mark.parametrize("name", MODELS)
def test_composites_run_and_keep_to_the_past(name: str) -> None:
    wrapped = MODELS[name]()
    found = multipliers(lambda rows: wrapped(rows)[:, 1], EMBEDDINGS, composite("epsilon"))
    assert found.values.isfinite().all() and found.values.any()
    if name in CAUSAL:
        assert wrapped.at is not None and not found.values[:, wrapped.at + 1 :].any()
