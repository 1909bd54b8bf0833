"""Attributions of small texts for tests: a model of embeddings and a tokenizer that splits long words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import limelight as ll
from limelight.base.text import Text

AWKWARD = 'Café naïve\t你好 שלום עולם <b>&amp;"</b>\nend cafe\u0301'


class Embedded(nn.Module):
    """A few smooth scores of embeddings `(n, width, tokens)`."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.arange(1.0, self.outputs + 1, dtype=x.dtype)
        return (x * (x[:, :1] + weights[:, None, None, None])).sin().flatten(2).sum(2).T


def split(string: str, special: bool = True, continued: int = 0) -> Text:
    """Words as tokens, long ones in two; an emoji is two tokens that share its character."""
    tokens: list[str] = []
    offsets: list[tuple[int, int]] = []
    for found in re.finditer(r"\n|\w+|[^\w\s]", string):
        start, end = found.span()
        middle = start + 4 if end - start > 6 else end
        for part in [(start, end)] * 2 if found[0] > "\U0001f000" else [(start, middle), (middle, end)]:
            if part[1] > part[0]:
                tokens.append(string[slice(*part)])
                offsets.append(part)
    kinds = [False] * len(tokens)
    if special:
        tokens, offsets, kinds = ["[CLS]", *tokens, "[SEP]"], [(0, 0), *offsets, (0, 0)], [True, *kinds, True]
    return Text(string, tuple(tokens), tuple(offsets), tuple(kinds), continued)


def explained(texts: Sequence[Text], methods: Any = "input-x-gradient", outputs: int = 2, **options: Any) -> Any:
    """The maps of texts of different lengths, padded."""
    x = torch.randn(len(texts), 3, max(map(len, texts)) + 2, generator=torch.Generator().manual_seed(0))
    found = ll.explain(Embedded(outputs), x, methods, **{"target": 0, **options})
    if isinstance(found, ll.Attribution):
        return replace(found, texts=tuple(texts))
    maps = [replace(each, texts=tuple(texts)) for each in found.values()]
    return ll.Panel(maps, found.forward_rows, found.backward_rows, list(found))
