"""ONNX models and scikit-learn estimators as black boxes, given to explain() as they are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import limelight as ll

from .networks import pictures

WEIGHT = np.linspace(-1, 1, 192).reshape(3, 8, 8)
METHOD = ll.ExactShapley(ll.Grid(2))


def quarters(x: Tensor) -> Tensor:
    """The exact map of x . WEIGHT over a 2 x 2 grid."""
    return (x.double() * torch.from_numpy(WEIGHT)).sum(1).reshape(len(x), 2, 4, 2, 4).sum((2, 4)).flatten(1)


# ONNX --------------------------------------------------------------------------------------------


def linear(
    shape: list[Any], kind: str = "FLOAT", outputs: tuple[str, ...] = ("y",), scale: float = 1.0, last: bool = False
) -> Any:
    """y = (x / scale) . (w, -w) over pictures, of any input type, as a ModelProto; "label" is the larger of y."""
    onnx = pytest.importorskip("onnx", reason="onnx is an extra of the tests")
    from onnx import TensorProto, helper, numpy_helper

    weight = (np.moveaxis(WEIGHT, 0, -1) if last else WEIGHT).reshape(-1) / scale
    table = numpy_helper.from_array(np.stack([weight, -weight], 1).astype(np.float32), "w")
    made = {
        "y": (["MatMul", ["flat", "w"]], TensorProto.FLOAT, [None, 2]),
        "half": (["Identity", ["y"]], TensorProto.FLOAT, [None, 2]),
        "label": (["ArgMax", ["y"]], TensorProto.INT64, [None]),
    }
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
    ]
    for name in sorted({"y", *outputs}, key=list(made).index):
        (operator, inputs), *_ = made[name]
        more = {"axis": 1, "keepdims": 0} if operator == "ArgMax" else {}
        nodes.append(helper.make_node(operator, inputs, [name], **more))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", getattr(TensorProto, kind), shape)],
        [helper.make_tensor_value_info(name, *made[name][1:]) for name in outputs],
        [table],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def given_as(model: Any, how: str, folder: Path) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is an extra")
    path = folder / "linear.onnx"
    path.write_bytes(model.SerializeToString())
    return {
        "proto": model,
        "bytes": path.read_bytes(),
        "path": path,
        "text": str(path),
        "session": onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]),
    }[how]


@pytest.mark.parametrize("how", ["proto", "bytes", "path", "text", "session"])
def test_onnx_models_are_explained_as_they_are(how: str, tmp_path: Path) -> None:
    x = pictures(2).float()
    model = given_as(linear(["rows", 3, 8, 8]), how, tmp_path)
    for each in (model, ll.BlackBox.from_onnx(model)):
        a = ll.explain(each, x, METHOD, target=0)
        torch.testing.assert_close(a.raw.double(), quarters(x), atol=1e-4, rtol=1e-4)
        b = ll.explain(each, x, "exact-shapley(players=grid(2))", target=1)
        torch.testing.assert_close(b.raw.double(), -quarters(x), atol=1e-4, rtol=1e-4)
    with pytest.raises(TypeError, match=r"BlackBox is a black box, and gradient needs gradients"):
        ll.explain(model, x, "gradient")
    assert ll.check(model, x[:1], ll.Occlusion(4, 4), [ll.Deletion(steps=4)], target=0)


@pytest.mark.parametrize(
    ("kind", "scale"),
    [("FLOAT", 1), ("DOUBLE", 1), ("FLOAT16", 1), ("UINT8", 255), ("UINT16", 65535)],
)
@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("rows", ["rows", None, 1, 3])
def test_every_input_type_layout_and_number_of_rows(kind: str, scale: float, last: bool, rows: Any) -> None:
    x = (pictures(2).clamp(0, 1) * 255).round() / 255  # what 8 bits hold
    shape = [rows, 8, 8, 3] if last else [rows, 3, 8, 8]
    a = ll.explain(linear(shape, kind, scale=scale, last=last), x, METHOD, target=0)
    tolerance = 5e-2 if kind == "FLOAT16" else 1e-3
    torch.testing.assert_close(a.raw, quarters(x), atol=tolerance, rtol=0)


def test_whole_numbers_keep_their_values() -> None:
    x = (pictures(2) * 9).round()
    for kind in ("INT64", "INT32", "INT8"):
        a = ll.explain(linear(["rows", 3, 8, 8], kind), x, METHOD, target=0)
        torch.testing.assert_close(a.raw, quarters(x), atol=1e-3, rtol=0)
    scaled = ll.BlackBox.from_onnx(linear(["rows", 3, 8, 8], "UINT8"), range=(0, 1))
    torch.testing.assert_close(ll.explain(scaled, x.abs(), METHOD, target=0).raw, quarters(x.abs()), atol=1e-3, rtol=0)


class Session:
    """What is read of an InferenceSession before it is run."""

    def __init__(self, shape: list[Any], inputs: int = 1, kind: str = "tensor(float)") -> None:
        self.inputs = [SimpleNamespace(name=f"x{i}", type=kind, shape=shape) for i in range(inputs)]

    def get_inputs(self) -> list[Any]:
        return self.inputs

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="y", type="tensor(float)", shape=[None, 2])]

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[Any]:
        return [feeds["x0"].reshape(len(feeds["x0"]), -1)[:, :2]]


def test_inputs_that_cannot_be_given_are_named() -> None:
    with pytest.raises(ValueError, match="the inputs x0, x1; use one with a single input"):
        ll.BlackBox.from_onnx(Session([None, 4], inputs=2))
    with pytest.raises(ValueError, match=r"takes tensor\(string\); use one that takes tensor\(float\)"):
        ll.BlackBox.from_onnx(Session([None, 4], kind="tensor(string)"))


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        (["rows", 3, 8, 8], "NCHW"),
        (["rows", 8, 8, 3], "NHWC"),
        (["rows", "h", "w", 3], "NHWC"),
        ([None, None, None, 1], "NHWC"),
        (["rows", 3, "h", "w"], "NCHW"),
        (["rows", 3, 8, 3], "NCHW"),
        (["rows", 16, 16, 16], "NCHW"),
        (["rows", "c", "h", "w"], "NCHW"),
        (["rows", 5, 8, 8, 4], "NHWC"),
        (["rows", 8, 3], "NCHW"),
        (["rows", 192], "flat"),
    ],
    ids=str,
)
def test_the_layout_is_read_off_the_inputs_shape(shape: list[Any], layout: str) -> None:
    session = Session(shape)
    assert ll.BlackBox.from_onnx(session).layout == layout
    assert ll.BlackBox.from_onnx(session, layout="flat-channels-last").layout == "flat-channels-last"


def test_outputs_are_read_by_name_and_labels_passed_over() -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is an extra")
    x = pictures(2).float()
    model = linear(["rows", 3, 8, 8], outputs=("label", "y", "half"))
    expected = ll.BlackBox.from_onnx(linear(["rows", 3, 8, 8]))(x)
    for output in (None, "y", "half"):
        torch.testing.assert_close(ll.BlackBox.from_onnx(model, output)(x), expected)
    with pytest.raises(
        ValueError, match=r"the output 'label' .* holds tensor\(int64\), labels .* use output='y' or 'half'"
    ):
        ll.BlackBox.from_onnx(model, "label")
    with pytest.raises(ValueError, match="labels and no scores; export its scores too"):
        ll.BlackBox.from_onnx(linear(["rows", 3, 8, 8], outputs=("label",)))
    with pytest.raises(ValueError, match="no output 'z'; it has label, y, half"):
        ll.BlackBox.from_onnx(model, "z")


def test_scores_by_class_name_are_read() -> None:
    """What skl2onnx makes of a classifier: a label, and a mapping from classes to probabilities for each row."""

    class Zipmap(Session):
        def get_outputs(self) -> list[Any]:
            kinds = {"label": "tensor(int64)", "probabilities": "seq(map(int64,tensor(float)))"}
            return [SimpleNamespace(name=name, type=kind) for name, kind in kinds.items()]

        def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[Any]:
            assert names == ["probabilities"]
            return [[{10: float(row.mean()), 11: 1 - float(row.mean())} for row in feeds["x0"]]]

    x = pictures(2)
    a = ll.explain(Zipmap([None, 192]), x, METHOD, target=1)  # type: ignore[call-overload]
    torch.testing.assert_close(a.score, 1 - x.mean((1, 2, 3)), atol=1e-6, rtol=0)


def test_what_is_no_onnx_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="dict is no ONNX model; use a path, the bytes"):
        ll.BlackBox.from_onnx({})
    x = pictures(1)
    for wrong in ("resnet18", {}, 3, None):
        with pytest.raises(TypeError, match="neither a module nor callable, and neither an ONNX model"):
            ll.explain(wrong, x, "occlusion")  # type: ignore[call-overload]


# scikit-learn ------------------------------------------------------------------------------------


def data(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures, flattened, and labels 10, 11, ... by the brightness of the left half."""
    rows = pictures(90, seed=1)
    left = rows[..., :4].sum((1, 2, 3))
    labels = left.argsort().argsort() * classes // 90
    return rows.flatten(1).numpy(), labels.numpy() + 10


def estimators(module: str, *names: str) -> list[Any]:
    found = pytest.importorskip(f"sklearn.{module}", reason="scikit-learn is not installed")
    return [getattr(found, name) for name in names]


@pytest.mark.parametrize("kind", ["LinearSVC", "RidgeClassifier", "SGD", "SVC", "Perceptron", "pipeline", "search"])
def test_a_decision_between_two_classes_has_two_columns(kind: str) -> None:
    linear_svc, svc = estimators("svm", "LinearSVC", "SVC")
    ridge, sgd, perceptron = estimators("linear_model", "RidgeClassifier", "SGDClassifier", "Perceptron")
    (pipeline,), (scaler,) = estimators("pipeline", "make_pipeline"), estimators("preprocessing", "StandardScaler")
    (search,) = estimators("model_selection", "GridSearchCV")
    made = {
        "LinearSVC": lambda: linear_svc(),
        "RidgeClassifier": lambda: ridge(),
        "SGD": lambda: sgd(loss="hinge", random_state=0),
        "SVC": lambda: svc(decision_function_shape="ovo"),
        "Perceptron": lambda: perceptron(random_state=0),
        "pipeline": lambda: pipeline(scaler(), linear_svc()),
        "search": lambda: search(ridge(), {"alpha": [1.0, 10.0]}, cv=2),
    }[kind]()
    rows, labels = data(2)
    fitted = made.fit(rows, labels)
    x = pictures(3)
    decision = torch.from_numpy(fitted.decision_function(x.flatten(1).numpy()))
    for model in (fitted, ll.BlackBox.from_sklearn(fitted)):
        for target, sign in ((0, -1), (1, 1)):
            a = ll.explain(model, x, METHOD, target=target)
            torch.testing.assert_close(a.score, sign * decision)
            assert float(a.delta.abs().max()) < 1e-9
        top = ll.explain(model, x, METHOD)
        assert (top.target + 10).tolist() == fitted.predict(x.flatten(1).numpy()).tolist()
        with pytest.raises(ValueError, match="class 2 is out of range for a model with 2 outputs"):
            ll.explain(model, x, METHOD, target=2)


@pytest.mark.parametrize("wrapped", ["alone", "pipeline", "search"])
@pytest.mark.parametrize("classes", [3, 4])
def test_votes_between_pairs_of_classes_are_refused(wrapped: str, classes: int) -> None:
    (svc,), (pipeline,) = estimators("svm", "SVC"), estimators("pipeline", "make_pipeline")
    (scaler,), (search,) = estimators("preprocessing", "StandardScaler"), estimators("model_selection", "GridSearchCV")
    estimator = svc(decision_function_shape="ovo")
    if wrapped == "pipeline":
        estimator = pipeline(scaler(), estimator)
    elif wrapped == "search":
        estimator = search(estimator, {"C": [1.0]}, cv=2)
    fitted = estimator.fit(*data(classes))
    for how in (lambda: ll.explain(fitted, pictures(1), "occlusion"), lambda: ll.BlackBox.from_sklearn(fitted)):
        with pytest.raises(ValueError, match=r"SVC\(decision_function_shape='ovo'\) gives votes between pairs"):
            how()
    if wrapped == "alone":
        fitted.set_params(decision_function_shape="ovr")
        a = ll.explain(fitted, pictures(2), METHOD, target=classes - 1)
        expected = fitted.decision_function(pictures(2).flatten(1).numpy())[:, -1]
        torch.testing.assert_close(a.score, torch.from_numpy(expected))


def test_one_versus_rest_of_binary_machines_is_explained_whatever_their_shape() -> None:
    (svc,), (rest,) = estimators("svm", "SVC"), estimators("multiclass", "OneVsRestClassifier")
    fitted = rest(svc(decision_function_shape="ovo")).fit(*data(3))
    x = pictures(2)
    a = ll.explain(fitted, x, METHOD, target=2)
    torch.testing.assert_close(a.score, torch.from_numpy(fitted.decision_function(x.flatten(1).numpy())[:, 2]))


def test_predict_of_a_classifier_is_refused_whatever_its_labels() -> None:
    (tree,) = estimators("tree", "DecisionTreeClassifier")
    rows, labels = data(2)
    for wanted in (labels, labels.astype(float), labels.astype(str)):
        fitted = tree(random_state=0).fit(rows, wanted)
        with pytest.raises(TypeError, match=r"predict of a classifier.*labels.*from_sklearn\(DecisionTree"):
            ll.BlackBox(fitted.predict, "flat")
        assert ll.explain(fitted, pictures(1), "occlusion", target=0).score.shape == (1,)


def test_columns_that_are_no_classes_are_refused() -> None:
    class Strange:
        classes_ = np.array([0, 1, 2])

        def decision_function(self, rows: np.ndarray) -> np.ndarray:
            return rows[:, :2]

    with pytest.raises(ValueError, match="gives 2 columns for 3 classes"):
        ll.explain(Strange(), pictures(1), "occlusion")  # type: ignore[call-overload]


def test_a_classifiers_labels_become_indicators_with_a_caution() -> None:
    (voting,), (centroid,) = estimators("ensemble", "VotingClassifier"), estimators("neighbors", "NearestCentroid")
    (tree,), (ridge,) = estimators("tree", "DecisionTreeClassifier"), estimators("linear_model", "RidgeClassifier")
    rows, labels = data(3)
    names = np.array(["ten", "eleven", "twelve"])[labels - 10]
    x = pictures(3)
    for wanted in (labels, names):
        hard = voting([("tree", tree(random_state=0)), ("ridge", ridge())], voting="hard").fit(rows, wanted)
        a = ll.explain(hard, x, ll.Occlusion(4, 4), target=1)
        expected = hard.predict(x.flatten(1).numpy()) == hard.classes_[1]
        assert a.score.tolist() == expected.astype(float).tolist()
        assert any("the model gives labels alone" in note for note in a.cautions)
    probable = centroid().fit(rows, labels)
    assert not [note for note in ll.explain(probable, x, "occlusion").cautions if "labels alone" in note]


def test_clusters_and_tables_of_labels_are_refused() -> None:
    (kmeans,), (multi,) = estimators("cluster", "KMeans"), estimators("multioutput", "MultiOutputClassifier")
    (tree, regressor) = estimators("tree", "DecisionTreeClassifier", "DecisionTreeRegressor")
    (ridge,) = estimators("linear_model", "RidgeClassifier")
    rows, labels = data(3)
    clusters = kmeans(3, n_init=1, random_state=0).fit(rows)
    with pytest.raises(TypeError, match=r"KMeans\.predict gives labels \(int32 .*for example of its transform"):
        ll.explain(clusters, pictures(1), "occlusion")
    distances = ll.BlackBox(lambda r: -clusters.transform(r), "flat")
    assert ll.explain(distances, pictures(1), "occlusion", target=0).score.shape == (1,)
    tables = multi(tree()).fit(rows, np.stack([labels, labels], 1))
    with pytest.raises(TypeError, match=r"predict_proba gives 2 tables.*explain one"):
        ll.explain(tables, pictures(1), "occlusion")
    with pytest.raises(TypeError, match="predict gives labels"):
        ll.explain(multi(ridge()).fit(rows, np.stack([labels, labels], 1)), pictures(1), "occlusion")
    values = regressor(random_state=0).fit(rows, labels)
    assert ll.explain(values, pictures(1), "occlusion").score.shape == (1,)


def test_an_outlier_detector_has_one_score() -> None:
    (forest,) = estimators("ensemble", "IsolationForest")
    fitted = forest(n_estimators=5, random_state=0).fit(data(2)[0])
    x = pictures(2)
    a = ll.explain(fitted, x, METHOD)
    torch.testing.assert_close(a.score, torch.from_numpy(fitted.decision_function(x.flatten(1).numpy())))


def test_pictures_can_be_flattened_channels_last() -> None:
    (logistic,) = estimators("linear_model", "LogisticRegression")
    rows, labels = data(2)
    flat_last = np.moveaxis(rows.reshape(-1, 3, 8, 8), 1, -1).reshape(len(rows), -1)
    x = pictures(2)
    first = ll.BlackBox.from_sklearn(logistic().fit(rows, labels))
    last = ll.BlackBox.from_sklearn(logistic().fit(flat_last, labels), "flat-channels-last")
    a, b = (ll.explain(each, x, METHOD, target=1).values for each in (first, last))
    torch.testing.assert_close(a, b, atol=1e-3, rtol=0)
    assert (
        float(
            (a - ll.explain(ll.BlackBox.from_sklearn(last.function.estimator), x, METHOD, target=1).values).abs().max()
        )
        > 1e-2
    )  # type: ignore[attr-defined]


def test_an_estimator_that_is_not_fitted_says_so() -> None:
    (logistic,) = estimators("linear_model", "LogisticRegression")
    with pytest.raises(ValueError, match="not fitted"):
        ll.explain(logistic(), pictures(1), "occlusion")
