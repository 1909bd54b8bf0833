"""Some examples of a case as a case of their own, so that a figure does not depend on the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..checks.case import Case, open_case
from ..models.text_outputs import OF_TOKENS


def groups_by_length(case: Case) -> list[list[int]]:
    """Return the examples of each number of tokens; one group where no text is padded, or there are none."""
    lengths = [len(text) for text in case.question.texts]
    padded = any(length != case.x.shape[-1] for length in lengths)
    if not padded:
        return [list(range(len(case)))]
    return [[i for i, each in enumerate(lengths) if each == length] for length in sorted(set(lengths))]


@contextmanager
def opened(case: Case, group: list[int]) -> Iterator[Case]:
    """Yield the case of some examples, of texts those of one length without padding. Its rows count in the whole's.

    What goes along with the examples is that of theirs: `Case.select` keeps the rows of the whole batch's model, which
    gives the first examples' to whatever is selected. Raises NotApplicable for a target that cannot be cut.
    """
    part = case.select(group)
    if not part.question.given:
        yield part
        return
    padded = case.x.shape[-1]
    length = len(case.question.texts[group[0]]) if case.question.texts else padded

    def cut(value: Any) -> Any:
        own = isinstance(value, Tensor) and value.ndim > 1 and value.shape[-1] == padded
        return value[..., :length].contiguous() if own else value

    given = part.question.given
    named = {name: cut(each) if name in OF_TOKENS else each for name, each in given.named.items()}
    maps = {name: cut(getattr(part.attribution, name)) for name in ("values", "inputs", "stderr", "spread")}
    question = replace(part.question, inputs=maps["inputs"], given=replace(given, named=named))
    attribution = replace(part.attribution, target=question.target, **maps)
    with open_case(question, attribution, part.method, cut(part.mask), case.shared) as own:
        try:
            yield own
        finally:
            case.score.runner.forward_rows += own.score.runner.forward_rows
            case.score.runner.backward_rows += own.score.runner.backward_rows
