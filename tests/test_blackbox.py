"""Models that are no PyTorch modules, and work that is cut short."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import limelight as ll

from .networks import pictures

D = torch.float64
WEIGHT = np.linspace(-1, 1, 192).reshape(3, 8, 8)


def function(rows: np.ndarray) -> np.ndarray:
    assert isinstance(rows, np.ndarray) and rows.shape[1:] == (3, 8, 8)
    return (rows * WEIGHT).sum((1, 2, 3))


def test_a_numpy_function_is_explained_in_every_layout() -> None:
    x = pictures(2)
    expected = (x * torch.from_numpy(WEIGHT)).sum(1).reshape(2, 2, 4, 2, 4).sum((2, 4)).flatten(1)
    last = lambda rows: (rows * np.moveaxis(WEIGHT, 0, -1)).sum((1, 2, 3))  # noqa: E731
    flat = lambda rows: (rows @ WEIGHT.reshape(-1)).tolist()  # noqa: E731
    for box in (ll.BlackBox(function), ll.BlackBox(last, "channels-last"), ll.BlackBox(flat, "flat")):
        a = ll.explain(box, x, ll.ExactShapley(ll.Grid(2)))
        assert a.raw is not None and a.values.dtype == D
        torch.testing.assert_close(a.raw, expected)


def test_single_precision_stays_single_and_rows_are_packed() -> None:
    sizes: list[int] = []

    def counted(rows: np.ndarray) -> np.ndarray:
        sizes.append(len(rows))
        assert rows.dtype == np.float32
        return function(rows)

    a = ll.explain(ll.BlackBox(counted), pictures(1).float(), ll.KernelShap(80, players=ll.Grid(3)), rows_per_pass=32)
    assert a.values.dtype == torch.float32 and sizes == [1, 2, 32, 32, 16]


def test_gradient_methods_name_those_that_need_none() -> None:
    with pytest.raises(TypeError, match=r"BlackBox is a black box, and gradient needs gradients.*kernel-shap"):
        ll.explain(ll.BlackBox(function), pictures(1), "gradient")


def test_a_scikit_learn_pipeline_on_pictures() -> None:
    sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    assert sklearn
    data = pictures(40, seed=1)
    left = data[..., :4].sum((1, 2, 3))
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    pipeline.fit(data.flatten(1).numpy(), (left > left.median()).numpy())
    x = pictures(2)
    a = ll.explain(ll.BlackBox.from_sklearn(pipeline), x, ll.ExactShapley(ll.Grid(2)), target=1)
    torch.testing.assert_close(a.score, torch.from_numpy(pipeline.predict_proba(x.flatten(1).numpy())[:, 1]))
    assert float(a.delta.abs().max()) < 1e-12
    with pytest.raises(TypeError, match="dict has no predict_proba"):
        ll.BlackBox.from_sklearn({})


def _onnx_model(path: Path, rows: str | int = "rows") -> Path:
    """y = x . w over pictures (rows, 3, 8, 8), as a file."""
    onnx = pytest.importorskip("onnx", reason="onnx is an extra of the tests")
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.stack([WEIGHT.reshape(-1), -WEIGHT.reshape(-1)], 1).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 2])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def test_an_onnx_runtime_session_is_explained(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is an extra")
    path = _onnx_model(tmp_path / "linear.onnx")
    x = pictures(2).float()
    expected = (x * torch.from_numpy(WEIGHT).float()).sum(1).reshape(2, 2, 4, 2, 4).sum((2, 4)).flatten(1)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for given in (path, str(path), session):
        a = ll.explain(ll.BlackBox.from_onnx(given, "y"), x, ll.ExactShapley(ll.Grid(2)), target=0)
        assert a.raw is not None
        torch.testing.assert_close(a.raw, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="no output 'z'; it has y"):
        ll.BlackBox.from_onnx(session, "z")
    with pytest.raises(TypeError, match=r"BlackBox\.from_onnx"):
        ll.BlackBox(session)


@pytest.mark.parametrize("rows", [1, 3])
def test_an_onnx_model_of_a_fixed_number_of_rows_is_explained(rows: int, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is an extra")
    fixed, free = (ll.BlackBox.from_onnx(_onnx_model(tmp_path / f"{each}.onnx", each), "y") for each in (rows, "rows"))
    x = pictures(4).float()
    torch.testing.assert_close(fixed(x), free(x))
    a, b = (ll.explain(each, x, ll.ExactShapley(ll.Grid(2)), target=0).values for each in (fixed, free))
    torch.testing.assert_close(a, b)


def test_without_onnxruntime_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"limelight\[onnx\]"):
        ll.BlackBox.from_onnx("model.onnx")


class Flaky:
    """A service that fails at the calls in `bad`, with `error`."""

    def __init__(self, bad: set[int], error: BaseException) -> None:
        self.bad, self.error, self.calls = bad, error, 0

    def __call__(self, rows: Any) -> Any:
        self.calls += 1
        if self.calls in self.bad:
            raise self.error
        return (rows * WEIGHT).sum((1, 2, 3)) if isinstance(rows, np.ndarray) else rows.sum((1, 2, 3))[:, None]


def test_passes_that_fail_for_the_moment_are_tried_again() -> None:
    x, method = pictures(1), ll.ExactShapley(ll.Grid(2))
    flaky = Flaky({1, 4, 5}, TimeoutError("busy"))
    a = ll.explain(ll.BlackBox(flaky, retries=2, wait=0.0), x, method)
    clean = ll.explain(ll.BlackBox(function), x, method)
    torch.testing.assert_close(a.values, clean.values)
    assert a.forward_rows == clean.forward_rows
    with pytest.raises(TimeoutError):
        ll.explain(ll.BlackBox(Flaky({2, 3, 4}, TimeoutError()), retries=2, wait=0.0), x, method)
    with pytest.raises(ZeroDivisionError):  # a defect is no reason to try again
        ll.explain(ll.BlackBox(Flaky({2}, ZeroDivisionError()), retries=2, wait=0.0), x, method)


SAMPLING = [
    ll.RISE(120, cells=3),
    ll.RISE(120, cells=3, centred=False),
    ll.RISE(512, cells=3, tolerance=1e-3),
    ll.KernelShap(120, players=ll.Grid(4)),
    ll.KernelShap(200, tolerance=1e-3, players=ll.Grid(4)),
    ll.ShapleySampling(8, players=ll.Grid(4)),
    ll.PermutationShap(8, players=ll.Grid(4)),
    ll.PartitionShap(120, players=ll.Grid(4)),
    ll.Lime(120, players=ll.Grid(4)),
    ll.ExactShapley(ll.Grid(2)),
    ll.Occlusion(4, 2),
    ll.FeatureAblation(ll.Grid(4)),
]


@pytest.mark.parametrize("method", SAMPLING, ids=repr)
@pytest.mark.parametrize("error", [ConnectionError(), TimeoutError(), OSError("url")], ids=repr)
def test_each_try_gets_its_own_rows(method: ll.Method, error: Exception) -> None:
    """A function that scales its rows in place, as Keras' preprocessing does, and fails afterwards."""
    calls: list[int] = []

    def scaling(bad: set[int]) -> Any:
        calls.clear()

        def service(rows: np.ndarray) -> np.ndarray:
            calls.append(len(rows))
            rows *= 255
            if len(calls) in bad:
                raise error
            return np.tanh((rows * WEIGHT).sum((1, 2, 3)) / 255)

        return service

    x = pictures(2)
    clean = ll.explain(ll.BlackBox(scaling(set())), x, method, rows_per_pass=16)
    some = set(range(1, len(calls) + 1, 2))
    box = ll.BlackBox(scaling(some | {len(calls)}), retries=2, wait=0.0)
    a = ll.explain(box, x, method, rows_per_pass=16)
    torch.testing.assert_close(a.values, clean.values, rtol=0, atol=0)
    assert a.forward_rows == clean.forward_rows and len(calls) > len(some)


def test_the_rows_that_are_given_stay_as_they_are() -> None:
    def in_place(rows: np.ndarray) -> np.ndarray:
        rows *= 0
        return np.ones(len(rows))

    for layout in ("NCHW", "NHWC", "flat", "flat-channels-last"):
        x = pictures(2)
        before = x.clone()
        ll.BlackBox(in_place, layout)(x)  # type: ignore[arg-type]
        assert torch.equal(x, before)


def test_errors_of_clients_are_tried_again_by_default() -> None:
    from urllib.error import URLError

    errors: list[Exception] = [URLError("down"), TimeoutError(), ConnectionResetError(), OSError(5, "io")]
    requests = pytest.importorskip("requests", reason="requests is no dependency")
    errors += [
        requests.exceptions.ReadTimeout(),
        requests.exceptions.ConnectionError(),
        requests.exceptions.HTTPError(),
    ]
    for error in errors:
        flaky = Flaky({1}, error)
        ll.BlackBox(flaky, retries=1, wait=0.0)(pictures(1))
        assert flaky.calls == 2


# How rows are given -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("NCHW", (2, 3, 4, 5)),
        ("channels-first", (2, 3, 4, 5)),
        ("NHWC", (2, 4, 5, 3)),
        ("channels-last", (2, 4, 5, 3)),
        ("flat", (2, 60)),
        ("flat-channels-last", (2, 60)),
    ],
)
def test_rows_arrive_in_their_layout(layout: Any, shape: tuple[int, ...]) -> None:
    x = torch.arange(120.0).reshape(2, 3, 4, 5)
    last = np.moveaxis(x.numpy(), 1, -1)
    expected = {"NCHW": x.numpy(), "channels-first": x.numpy(), "NHWC": last, "channels-last": last}
    expected |= {"flat": x.flatten(1).numpy(), "flat-channels-last": last.reshape(2, -1)}
    seen: list[np.ndarray] = []
    ll.BlackBox(lambda rows: seen.append(rows) or rows.reshape(2, -1), layout)(x)
    assert seen[0].shape == shape and seen[0].flags["C_CONTIGUOUS"] and seen[0].flags["WRITEABLE"]
    np.testing.assert_array_equal(seen[0], expected[layout])


@pytest.mark.parametrize("layout", ["NHWC", "flat", "flat-channels-last"])
def test_other_shapes_than_pictures_have_layouts_too(layout: Any) -> None:
    seen: list[tuple[int, ...]] = []
    for shape in ((2, 6), (2, 6, 5), (2, 3, 4, 5, 6)):
        ll.BlackBox(lambda rows: seen.append(rows.shape) or rows.reshape(2, -1), layout)(torch.rand(shape))
    flat = layout.startswith("flat")
    assert seen == ([(2, 6), (2, 30), (2, 360)] if flat else [(2, 6), (2, 5, 6), (2, 4, 5, 6, 3)])


@pytest.mark.parametrize(
    ("settings", "dtype", "expected"),
    [
        ({"dtype": "uint8"}, np.uint8, [0, 255, 128, 64]),
        ({"dtype": np.uint8}, np.uint8, [0, 255, 128, 64]),
        ({"dtype": np.dtype("uint8"), "range": (0, 1)}, np.uint8, [0, 1, 0, 0]),
        ({"dtype": "uint16"}, np.uint16, [0, 65535, 32768, 16384]),
        ({"dtype": "int8", "range": (-128, 127)}, np.int8, [-128, 127, 0, -64]),
        ({"dtype": "int64"}, np.int64, [0, 1, 0, 0]),
        ({"range": (0, 255)}, np.float32, [0, 255, 127.5, 63.75]),
        ({"range": (-1, 1)}, np.float32, [-1, 1, 0, -0.5]),
        ({"dtype": "float16", "range": (-1, 1)}, np.float16, [-1, 1, 0, -0.5]),
        ({"dtype": "float64"}, np.float64, [0, 1, 0.5, 0.25]),
        ({}, np.float32, [0, 1, 0.5, 0.25]),
    ],
    ids=str,
)
def test_rows_arrive_in_their_dtype_and_range(settings: Any, dtype: Any, expected: list[float]) -> None:
    seen: list[np.ndarray] = []
    x = torch.tensor([[0, 1, 0.5, 0.25]])
    ll.BlackBox(lambda rows: seen.append(rows) or rows.astype(float), **settings)(x)
    assert seen[0].dtype == dtype
    np.testing.assert_allclose(seen[0][0].astype(float), expected, atol=1e-3)


def test_rounding_is_to_the_nearest_integer() -> None:
    every = torch.arange(256.0)[None] / 255
    seen: list[np.ndarray] = []
    box = ll.BlackBox(lambda rows: seen.append(rows) or rows.astype(float), dtype="uint8")
    for shift in (0.0, 0.4, -0.4):
        box((every + shift / 255).clamp(0, 1))
        assert seen[-1][0].tolist() == list(range(256))


@pytest.mark.parametrize(("low", "high"), [(-0.1, 1), (0, 1.1), (0, 255), (-2.1, 2.6)])
def test_rows_that_do_not_fit_their_integers_are_an_error(low: float, high: float) -> None:
    x = torch.tensor([[low, high]])
    box = ll.BlackBox(lambda rows: rows.astype(float), dtype="uint8")
    with pytest.raises(ValueError, match=r"rows reach from .* holds 0 to 255, with 0 for 0 and 255 for 1; undo a norm"):
        box(x)


def test_an_image_model_of_bytes_is_explained_as_its_float_twin() -> None:
    x = (pictures(2).clamp(0, 1) * 255).round() / 255
    last = np.moveaxis(WEIGHT, 0, -1)
    box = ll.BlackBox(lambda rows: (rows / 255 * last).sum((1, 2, 3)), layout="NHWC", dtype="uint8")
    for method in (ll.ExactShapley(ll.Grid(2)), ll.Occlusion(4, 4), ll.FeatureAblation(ll.Grid(2))):
        torch.testing.assert_close(
            ll.explain(box, x, method).values, ll.explain(ll.BlackBox(function), x, method).values
        )


@pytest.mark.parametrize(
    "method",
    [
        ll.RISE(300, cells=3),
        ll.RISE(1024, cells=3, tolerance=1e-9),
        ll.RISE(300, cells=3, centred=False),
        ll.KernelShap(300, players=ll.Grid(4)),
        ll.ShapleySampling(20, players=ll.Grid(4)),
        ll.PermutationShap(20, players=ll.Grid(4)),
        ll.PartitionShap(300, players=ll.Grid(4)),
        ll.Lime(300, players=ll.Grid(4)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("wrapped", [True, False], ids=["BlackBox", "callable"])
def test_an_interruption_keeps_what_was_sampled(method: ll.Method, wrapped: bool) -> None:
    x = pictures(2)
    flaky = Flaky({14}, KeyboardInterrupt())
    model = ll.BlackBox(flaky) if wrapped else flaky
    a = ll.explain(model, x, method, target=0, rows_per_pass=10)
    # One pass for f(x), one for f(b), and eleven of ten rows, five for each example, were done by then.
    assert flaky.calls == 14 or isinstance(method, ll.PartitionShap)
    caution = next(note for note in a.cautions if "INTERRUPTED" in note)
    counts = re.fullmatch(r"INTERRUPTED: the map rests on the (\d+), (\d+) samples that were run", caution)
    assert next(note for note in a.cautions if "INTERRUPTED" in note).kind == "not-converged"
    assert counts and sum(map(int, counts.groups())) == a.forward_rows - 4  # f(x) twice, f(b) and the probe
    if not isinstance(method, ll.PartitionShap):
        assert a.forward_rows == 4 + 110
    if method.no_sum is None:
        assert float(a.delta.abs().max()) < 1e-9
        weight = torch.from_numpy(WEIGHT) if wrapped else torch.ones(3, 8, 8, dtype=D)
        cells = (x * weight).sum(1).reshape(2, 4, 2, 4, 2).sum((2, 4)).flatten(1)
        if not isinstance(method, ll.PartitionShap):  # whose unfinished parts share
            assert a.raw is not None
            torch.testing.assert_close(a.raw, cells, atol=1e-9, rtol=0)  # a linear model: any sample will do


def test_rise_keeps_what_was_sampled_exactly() -> None:
    """The map of the first masks, as if no more had been asked for, also where a pass ends between two examples."""
    x = pictures(2)
    weighted = lambda rows: np.tanh((rows * WEIGHT).sum((1, 2, 3)))  # noqa: E731
    calls: list[int] = []

    def cut(rows: np.ndarray) -> np.ndarray:
        calls.append(len(rows))
        if len(calls) == 14:
            raise KeyboardInterrupt
        return weighted(rows)

    a = ll.explain(ll.BlackBox(cut), x, ll.RISE(400, cells=3), rows_per_pass=9)
    assert "INTERRUPTED: the map rests on the 50, 49 samples that were run" in a.cautions
    for i, masks in enumerate((50, 49)):
        whole = ll.explain(ll.BlackBox(weighted), x, ll.RISE(masks, cells=3))
        torch.testing.assert_close(a.values[i], whole.values[i])
        assert a.stderr is not None and whole.stderr is not None
        torch.testing.assert_close(a.stderr[i], whole.stderr[i])


@pytest.mark.parametrize("method", [ll.Occlusion(2, 2), ll.FeatureAblation(ll.Grid(4)), ll.ExactShapley(ll.Grid(3))])
def test_methods_that_need_all_their_rows_are_interrupted(method: ll.Method) -> None:
    with pytest.raises(KeyboardInterrupt):
        ll.explain(ll.BlackBox(Flaky({4}, KeyboardInterrupt())), pictures(2), method, rows_per_pass=8)


def test_a_module_is_interrupted_at_once() -> None:
    flaky = Flaky({14}, KeyboardInterrupt())
    net = ll.Differentiable(lambda rows: flaky(rows))
    for method in (ll.RISE(300, cells=3), ll.KernelShap(300, players=ll.Grid(4))):
        flaky.calls = 0
        with pytest.raises(KeyboardInterrupt):
            ll.explain(net, pictures(2), method, target=0, rows_per_pass=10)


def test_an_interruption_before_there_is_an_answer_goes_through() -> None:
    with pytest.raises(KeyboardInterrupt):  # no mask was run
        ll.explain(Flaky({3}, KeyboardInterrupt()), pictures(1), ll.RISE(300), target=0, rows_per_pass=10)
    with pytest.raises(KeyboardInterrupt):  # two masks of a probability at which they agree somewhere
        few = ll.RISE(300, cells=2, probability=0.99)
        ll.explain(Flaky({4}, KeyboardInterrupt()), pictures(1), few, target=0, rows_per_pass=2)
    for method in (
        ll.KernelShap(300, players=ll.Grid(4)),
        ll.Lime(300, players=ll.Grid(4)),
        ll.ExactShapley(ll.Grid(3)),
    ):
        with pytest.raises(KeyboardInterrupt):
            ll.explain(Flaky({4}, KeyboardInterrupt()), pictures(1), method, target=0, rows_per_pass=10)


def test_progress_tells_the_rows_of_each_pass() -> None:
    seen: list[int] = []
    a = ll.explain(
        ll.BlackBox(function), pictures(1), ll.Lime(50, players=ll.Grid(4)), rows_per_pass=20, progress=seen.append
    )
    assert sum(seen) == a.forward_rows and seen[2:] == [20, 20, 10]


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: ll.BlackBox(3), TypeError, "int, which is not callable"),  # type: ignore[arg-type]
        (lambda: ll.BlackBox(function, "rows"), ValueError, "'NCHW', 'NHWC', 'flat' or 'flat-channels-last'"),  # type: ignore[arg-type]
        (lambda: ll.BlackBox(function, retries=-1), ValueError, "retries=-1"),
        (lambda: ll.BlackBox(function, retries=1.5), ValueError, "retries=1.5: use a whole number"),  # type: ignore[arg-type]
        (lambda: ll.BlackBox(function, wait=-1), ValueError, "wait=-1: use 0 or more seconds"),
        (lambda: ll.BlackBox(function, wait=float("nan")), ValueError, "wait=nan"),
        (lambda: ll.BlackBox(function, dtype="str"), ValueError, "dtype='str': use None, 'uint8'"),
        (lambda: ll.BlackBox(function, dtype="byte-ish"), ValueError, "dtype='byte-ish'"),
        (lambda: ll.BlackBox(function, range=(1,)), ValueError, r"range=\(1,\): use None or what rows of 0 and 1"),  # type: ignore[arg-type]
        (lambda: ll.BlackBox(function, layout=["NCHW"]), ValueError, "layout="),  # type: ignore[arg-type]
        (
            lambda: ll.explain(ll.BlackBox(lambda rows: ["a"] * len(rows)), pictures(1), "lime"),
            TypeError,
            "not numbers",
        ),
        (lambda: ll.explain(ll.BlackBox(lambda rows: [1.0]), pictures(2), "lime"), ValueError, "for 2 rows"),
    ],
)
def test_bad_black_boxes_are_named(build: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        build()


def test_a_black_box_leaves_no_handle_on_its_rows() -> None:
    """A function that reuses its output's memory does not spoil what was returned before."""
    memory = np.zeros((64, 1))

    def reusing(rows: np.ndarray) -> np.ndarray:
        memory[: len(rows), 0] = function(rows)
        return memory[: len(rows)]

    x: Tensor = pictures(1)
    found = ll.explain(ll.BlackBox(reusing), x, ll.ExactShapley(ll.Grid(2))).values
    torch.testing.assert_close(found, ll.explain(ll.BlackBox(function), x, ll.ExactShapley(ll.Grid(2))).values)
