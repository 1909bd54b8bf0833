"""What a black box returns: any array, scores and no labels, known up to rounding."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import limelight as ll

from .networks import pictures

WEIGHT = np.linspace(-1, 1, 384).reshape(192, 2)


def scores(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows.reshape(len(rows), -1) @ WEIGHT)


class Dlpack:
    """An array of another library, which offers this protocol alone."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __dlpack__(self, **how: Any) -> Any:
        return self.values.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class Arrays:
    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values


RETURNS: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": lambda found: found,
    "list": lambda found: found.tolist(),
    "list of rows": list,
    "tuple of rows": tuple,
    "torch": torch.from_numpy,
    "torch with a graph": lambda found: torch.from_numpy(found).requires_grad_() * 1,
    "torch bfloat16": lambda found: torch.from_numpy(found).bfloat16(),
    "torch half": lambda found: torch.from_numpy(found).half(),
    "list of tensors": lambda found: [each.requires_grad_() for each in torch.from_numpy(found)],
    "list of lists of tensors": lambda found: [[torch.tensor(each) for each in row] for row in found],
    "__dlpack__": lambda found: Dlpack(found),
    "__array__": lambda found: Arrays(found),
    "list of __array__": lambda found: [Arrays(row) for row in found],
    "float16": lambda found: found.astype(np.float16),
    "read only": lambda found: np.broadcast_to(found, found.shape),
}


@pytest.mark.parametrize("kind", RETURNS)
def test_any_array_is_read(kind: str) -> None:
    x = pictures(2)
    box = ll.BlackBox(lambda rows: RETURNS[kind](scores(rows)))
    found, expected = box(x), torch.from_numpy(scores(x.numpy()))
    coarse = {"torch bfloat16": 1e-2, "torch half": 1e-3, "float16": 1e-3}.get(kind, 0)
    assert found.dtype == x.dtype and not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=coarse, atol=0)
    a = ll.explain(box, x, ll.ExactShapley(ll.Grid(2)), target=1)
    torch.testing.assert_close(a.score, expected[:, 1], rtol=coarse, atol=0)


def test_bfloat16_of_other_libraries_is_read() -> None:
    types = pytest.importorskip("ml_dtypes", reason="ml_dtypes comes with onnx")
    x = pictures(2)
    found = ll.BlackBox(lambda rows: scores(rows).astype(types.bfloat16))(x)
    torch.testing.assert_close(found, torch.from_numpy(scores(x.numpy())), rtol=1e-2, atol=0)


def test_a_tensor_on_a_device_is_read() -> None:
    """On the meta device there is nothing to read; the error is torch's own and says so."""
    with pytest.raises(NotImplementedError, match="meta"):
        ll.BlackBox(lambda rows: torch.ones(len(rows), 2, device="meta"))(pictures(1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_tensor_is_read() -> None:
    x = pictures(2)
    found = ll.BlackBox(lambda rows: torch.from_numpy(scores(rows)).cuda().requires_grad_())(x)
    torch.testing.assert_close(found, torch.from_numpy(scores(x.numpy())))


def test_a_squeezed_single_row_is_read() -> None:
    x = pictures(1)
    for squeezed in (lambda rows: scores(rows).squeeze(), lambda rows: scores(rows)[:, 0].squeeze()):
        assert len(ll.BlackBox(squeezed)(x)) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "labels",
    [
        lambda rows: scores(rows).argmax(1),
        lambda rows: (scores(rows) > 0).astype(np.uint8),
        lambda rows: scores(rows)[:, 0] > 0,
        lambda rows: torch.from_numpy(scores(rows)).argmax(1),
        lambda rows: [int(each) for each in scores(rows).argmax(1)],
    ],
)
def test_labels_are_refused_with_the_reason(labels: Any) -> None:
    for method in ("occlusion", "rise", "kernel-shap"):
        with pytest.raises(TypeError, match=r"whole numbers are labels as a rule.*return scores.*astype\(float\)"):
            ll.explain(ll.BlackBox(labels), pictures(1), method)


@pytest.mark.parametrize("wanted", [["a"], {"a": 1.0}, None, [1j]], ids=str)
def test_what_holds_no_numbers_is_refused(wanted: Any) -> None:
    with pytest.raises(TypeError, match="not numbers"):
        ll.BlackBox(lambda rows: wanted)(pictures(1))


# Scores that are known up to rounding ------------------------------------------------------------

TERMS = np.random.default_rng(0).normal(size=(192, 3)).astype(np.float32)


def summed(rows: np.ndarray) -> np.ndarray:
    """Three sums of 192 terms, in the reverse order for passes of an odd number of rows: as libraries do, by size."""
    terms = rows.reshape(len(rows), -1, 1).astype(np.float32) * TERMS
    ordered = terms[:, :: -1 if len(rows) % 2 else 1]
    return np.asarray(np.cumsum(ordered, axis=1, dtype=np.float32)[:, -1])


def _large(rows: np.ndarray) -> np.ndarray:
    return summed(rows) * np.float32(40)


COUNT = itertools.count()
X = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
OFFSET = _large(X.numpy())[0]


def _near(rows: np.ndarray) -> np.ndarray:
    """Outputs of which those of the first example nearly cancel."""
    return _large(rows) - OFFSET


def _softmax(rows: np.ndarray) -> Tensor:
    return torch.from_numpy(_near(rows)).softmax(1)


@pytest.mark.parametrize("function", [_near, _softmax])
@pytest.mark.parametrize("target", [ll.Logit(0), ll.Probability(0), ll.Margin(0)], ids=repr)
@pytest.mark.parametrize("examples", [1, 3])
@pytest.mark.parametrize(
    "method", [ll.Occlusion(4, 4), ll.KernelShap(40, players=ll.Grid(3))], ids=["occlusion", "shap"]
)
def test_large_logits_are_known_to_their_rounding(
    function: Any, target: ll.Target, examples: int, method: ll.Method
) -> None:
    """Not one of these depends on the other rows of a pass by more than the order of 192 additions."""
    a = ll.explain(ll.BlackBox(function), X[:examples], method, target=target)
    told = [note for note in a.cautions if "scores are known to" in note]
    assert len(told) <= 1
    for note in told:
        assert "depending on the rows of its pass" in note and "float32" in note and note.kind == "caution"


def test_the_caution_says_how_far_rounding_goes() -> None:
    a = ll.explain(ll.BlackBox(_near), X, "occlusion", target=ll.Probability(0))
    (note,) = [note for note in a.cautions if "scores are known to" in note]
    share = float(note.split("known to ")[1].split("%")[0]) / 100
    alone, again = (torch.from_numpy(_near(X[:n].numpy())).softmax(1)[0, 0] for n in (3, 2))
    assert share == pytest.approx(float((alone - again).abs() / torch.maximum(alone, again)), rel=0.05)
    assert share > 1e-3


def test_a_module_with_large_logits_is_known_to_its_rounding_too() -> None:
    near = ll.Differentiable(lambda x: torch.from_numpy(_near(x.detach().numpy())) + 0 * x.sum((1, 2, 3))[:, None])
    a = ll.explain(near, X, ll.Occlusion(4, 4, incremental=False), target=ll.Probability(0))
    assert any("scores are known to" in note for note in a.cautions)


@pytest.mark.parametrize(
    "function",
    [
        lambda rows: 4e4 * (rows - rows.mean(0)).mean((2, 3)),
        lambda rows: np.stack([10 * (rows - rows.mean(0)).mean((1, 2, 3)), 4e4 * rows.mean((1, 2, 3))], 1),
        lambda rows: rows.mean((2, 3)) / rows.mean(),
        lambda rows: rows.mean((2, 3)) + 0.1 * len(rows),
        lambda rows: rows.mean((2, 3)) + next(COUNT),
        lambda rows: rows.mean((2, 3)) + next(COUNT) % 2,
    ],
    ids=["large", "beside a large one", "by the mean", "by their number", "another at each call", "two in turn"],
)
@pytest.mark.parametrize("examples", [1, 3])
@pytest.mark.parametrize("cached", [False, True])
def test_what_depends_on_its_company_is_refused_still(
    function: Any, examples: int, cached: bool, tmp_path: Any
) -> None:
    kept: dict[str, Any] = {"cache": tmp_path, "name": "dependent"} if cached else {}
    with pytest.raises(ValueError, match="depends on the rest of the batch"):
        ll.explain(ll.BlackBox(function, **kept), X[:examples] / 255, "occlusion", target=0)


def test_a_target_of_one_column_is_one_number_a_row() -> None:
    x = pictures(2)
    box = ll.BlackBox(scores)
    for method in (ll.Occlusion(4, 4), ll.KernelShap(60, players=ll.Grid(3)), ll.RISE(20, cells=2)):
        one = ll.explain(box, x, method, target=lambda outputs: outputs[:, 1:])
        torch.testing.assert_close(one.values, ll.explain(box, x, method, target=1).values, equal_nan=True)
    net = ll.Differentiable(lambda x: x.mean((2, 3)))
    for single in (x, x[:1]):
        column = ll.explain(net, single, "gradient", target=lambda outputs: outputs[:, :1])
        torch.testing.assert_close(column.values, ll.explain(net, single, "gradient", target=0).values)
    with pytest.raises(ValueError, match=r"gave \(2, 2\) for 2 rows"):
        ll.explain(box, x, "occlusion", target=lambda outputs: outputs)
