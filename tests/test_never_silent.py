"""No map of nothing without a word: flat scores, dead layers, scores made of biases; and what messages advise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.methods.checked import _advice

READS_LAYERS = [kind for kind in ll.METHODS if kind().needs.layer or kind is ll.AtLayer]


class Case(nn.Module):
    """A convolution b after a: "dead relu" switches off all after b, "dead layer" leaves another way to the score,
    "biases only" cuts b off from the input."""

    def __init__(self, case: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.case, self.fc = case, nn.Linear(4, 3)
        self.a, self.b, self.c = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(3, 4, 3, padding=1),
        )
        if case == "biases only":
            nn.init.zeros_(self.b.weight)
            nn.init.constant_(self.b.bias, 1.0)
        else:
            nn.init.constant_(self.b.bias, -100.0)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.b(F.relu(self.a(x))))
        y = y + F.relu(self.c(x)) if self.case == "dead layer" else y
        return self.fc(y.mean((2, 3)))  # type: ignore[no-any-return]


def _method(kind: type[ll.Method], net: nn.Module) -> ll.Method:
    small = {"steps": 4, "samples": 32, "permutations": 4, "evaluations": 32, "masks": 32}
    known = {each.name for each in dataclasses.fields(kind)}
    if issubclass(kind, ll.PatternNet | ll.PatternAttribution):
        return kind(ll.estimate_patterns(net, [torch.rand(8, 3, 16, 16, dtype=torch.float64)]))
    if kind is ll.AtLayer:
        return ll.AtLayer(ll.Gradient(), "b")
    if kind is ll.ExactShapley:
        return ll.ExactShapley(ll.Grid(2))
    return kind(**{key: value for key, value in small.items() if key in known})


CASES = [(case, kind) for case in ("dead relu", "biases only") for kind in ll.METHODS]
CASES += [("dead layer", kind) for kind in READS_LAYERS]


@pytest.mark.parametrize(("case", "kind"), CASES, ids=lambda each: each if isinstance(each, str) else each.__name__)
def test_a_map_of_nothing_is_an_error_or_a_caution(case: str, kind: type[ll.Method]) -> None:
    net = Case(case).double().eval()
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    method = _method(kind, net)
    if case == "dead layer" and isinstance(method, ll.FullGrad):
        return  # reads every layer
    try:
        found = ll.explain(net, x, method, target=0, layer="b" if method.needs.layer else None)
    except ValueError as error:
        assert "layer" in str(error) or "gradient" in str(error)
        return
    for i in range(2):
        assert [note for note in found.cautions if note.example in (i, None)], found.notes


def test_eigen_cam_says_where_the_score_does_not_depend_on_the_layer() -> None:
    """For the example that is so alone; a model without gradients has a map too, as one cannot tell."""

    class Net(nn.Module):
        def __init__(self, cut: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.cut, self.a, self.fc = cut, nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            y = y.detach() if self.cut else y * (x.mean((1, 2, 3), keepdim=True) > 0)
            with torch.set_grad_enabled(not self.cut and torch.is_grad_enabled()):
                return self.fc(y.mean((2, 3)))  # type: ignore[no-any-return]

    x = torch.rand(2, 3, 8, 8)
    x[1] -= 2
    found = ll.explain(Net(False).eval(), x, "eigen-cam", target=0, layer="a")
    assert [(note.example, "does not depend on a" in note) for note in found.cautions] == [(1, True)]
    assert found.values[1].any()
    alone = ll.explain(Net(True).eval(), x, "eigen-cam", target=0, layer="a")
    torch.testing.assert_close(alone.values, found.values)


def test_incomplete_advises_what_the_method_has() -> None:
    """Settings of its own, or where it has none, another way."""

    for kind in ll.METHODS:
        if kind.no_sum is not None:
            continue
        method = kind()
        names = {each.name for each in dataclasses.fields(method)}
        told = _advice(method)
        for setting in ("samples=", "steps=", "quadrature=", "tolerance=", "permutations=", "evaluations="):
            assert (setting in told) <= (setting[:-1] in names), kind
        assert ("by construction" in told) == (kind in (ll.DeepLift, ll.DeepShap, ll.ExactShapley))


def test_a_function_of_arrays_is_sent_to_black_box() -> None:
    def arrays(rows: Tensor) -> np.ndarray:
        return np.asarray(rows.detach()).reshape(len(rows), -1)

    def numbers(rows: Tensor) -> list[list[float]]:
        return rows.tolist()  # type: ignore[no-any-return]

    def back(rows: Tensor) -> Tensor:
        return torch.from_numpy(arrays(rows))

    x = torch.rand(2, 3)
    for function in (arrays, numbers):
        for method in ("occlusion", "gradient", "lrp"):
            with pytest.raises((TypeError, ValueError), match=r"limelight\.BlackBox\(f\)"):
                ll.explain(function, x, method, target=0)
    with pytest.raises(ValueError, match=r"limelight\.BlackBox\(f\)"):
        ll.explain(back, x, "gradient", target=0)


def test_the_batchs_company_is_none_where_a_row_runs_alone() -> None:
    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / x.std(0, correction=0).clamp(min=1e-3)

    with pytest.raises(ValueError, match="in a pass of its own"):
        ll.explain(Mixed(), torch.rand(3, 4), "gradient", target=0)


def test_a_note_names_the_precision_of_autocast() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    x = torch.rand(2, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = ll.explain(net, x, "gradient", target=0)
    assert any("computes in bfloat16" in note for note in low.notes)
    assert not any("computes in" in note for note in ll.explain(net, x, "gradient", target=0).notes)
