"""Detectors in every format, by the definition of the score: IoU x class score, with numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import limelight as ll
from limelight.question.detections import format_of, read_detections

pytestmark = pytest.mark.quick

D = torch.float64
# Two boxes in a picture of 16 x 16, by their corners and by their centres and sides.
CORNERS = torch.tensor([[0.0, 0, 8, 4], [8, 8, 16, 16]], dtype=D)
CENTRES = torch.tensor([[4.0, 2, 8, 4], [12, 12, 8, 8]], dtype=D)


def pictures(rows: int = 2) -> Tensor:
    return torch.rand(rows, 3, 16, 16, dtype=D, generator=torch.Generator().manual_seed(0))


def brightness(x: Tensor) -> Tensor:
    """The mean pixel in each box, `(rows, 2)`."""
    return torch.stack([x[:, :, :4, :8].mean((1, 2, 3)), x[:, :, 8:, 8:].mean((1, 2, 3))], 1)


def class_scores(x: Tensor) -> Tensor:
    """The first box is of class 1, the second of class 2: `(rows, 2, 3)`; each has a tenth of the other classes."""
    shares = torch.tensor([[0.1, 1, 0.1], [0.1, 0.1, 1]], dtype=D)
    return brightness(x)[..., None] * shares


def torchvision(x: Tensor) -> list[dict[str, Tensor]]:
    labels = torch.tensor([1, 2])
    return [{"boxes": CORNERS, "scores": scores, "labels": labels} for scores in brightness(x)]


def in_one(x: Tensor) -> dict[str, Tensor]:
    rows = len(x)
    return {
        "boxes": CORNERS.expand(rows, 2, 4),
        "scores": brightness(x),
        "labels": torch.tensor([1, 2]).expand(rows, 2),
    }


def with_classes(x: Tensor) -> dict[str, Tensor]:
    return {"boxes": CORNERS.expand(len(x), 2, 4), "scores": class_scores(x)}


def detr(x: Tensor) -> SimpleNamespace:
    """Logits whose softmax is the class scores; the rest is 'no object'."""
    scores = class_scores(x) / 2
    logits = torch.cat([scores, 1 - scores.sum(-1, keepdim=True)], -1).log()
    return SimpleNamespace(logits=logits, pred_boxes=(CENTRES / 16).expand(len(x), 2, 4))


def yolo(x: Tensor) -> Tensor:
    """`(rows, 4 + 3, 14)`: the two boxes and twelve that are elsewhere and of nothing."""
    boxes = torch.cat([CENTRES, torch.tensor([[1.0, 15, 2, 2]], dtype=D).expand(12, 4)]).expand(len(x), 14, 4)
    scores = torch.cat([class_scores(x), torch.zeros(len(x), 12, 3, dtype=D)], 1)
    return torch.cat([boxes, scores], 2).transpose(1, 2)


def yolo_with_objectness(x: Tensor) -> tuple[Tensor, None]:
    """`(rows, 16, 5 + 3)`, first of a tuple; a score is the objectness times the share of the class."""
    boxes = torch.cat([CENTRES, torch.tensor([[1.0, 15, 2, 2]], dtype=D).expand(14, 4)]).expand(len(x), 16, 4)
    objectness = torch.cat([brightness(x), torch.zeros(len(x), 14, dtype=D)], 1)[..., None]
    shares = torch.tensor([[0.1, 1, 0.1], [0.1, 0.1, 1]], dtype=D)
    shares = torch.cat([shares, torch.zeros(14, 3, dtype=D)]).expand(len(x), 16, 3)
    return torch.cat([boxes, objectness, shares], 2), None


def corners(x: Tensor) -> Tensor:
    rows = len(x)
    classes = torch.tensor([1.0, 2], dtype=D).expand(rows, 2)
    return torch.cat([CORNERS.expand(rows, 2, 4), brightness(x)[..., None], classes[..., None]], 2)


DETECTORS: dict[str, tuple[Callable[[Tensor], Any], float, dict[str, Any]]] = {
    # The detector, the factor of its scores, and settings that it needs.
    "torchvision": (torchvision, 1, {}),
    "one mapping": (in_one, 1, {}),
    "class scores": (with_classes, 1, {}),
    "detr": (detr, 0.5, {}),
    "yolo": (yolo, 1, {}),
    "yolo with objectness": (yolo_with_objectness, 1, {}),
    "corners": (corners, 1, {"format": "corners"}),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_every_format_gives_overlap_times_class_score(name: str) -> None:
    detector, factor, settings = DETECTORS[name]
    x = pictures()
    # [0, 4) x [0, 4) meets the first box in 16 of 32 pixels.
    for box, label, expected in (
        (ll.Box(0, 0, 4, 4, label=1, **settings), 1, 0.5 * brightness(x)[:, 0]),
        (ll.Box(8, 8, 16, 16, label=2, **settings), 2, brightness(x)[:, 1]),
        (ll.Box(8, 8, 16, 16, **settings), None, brightness(x)[:, 1]),
    ):
        a = ll.explain(ll.Differentiable(detector), x, "gradient", target=box)
        torch.testing.assert_close(a.score, factor * expected)
        for i in range(2):
            alone = ll.explain(ll.Differentiable(detector), x[i : i + 1], "gradient", target=box)
            torch.testing.assert_close(alone.score, a.score[i : i + 1])
            torch.testing.assert_close(alone.values, a.values[i : i + 1])
        if label is not None:
            best = ll.explain(detector, x, "gradient", target=ll.Detection(label, **settings))
            torch.testing.assert_close(best.score, factor * brightness(x)[:, label - 1])
    any_class = ll.explain(detector, x, "gradient", target=ll.Detection(**settings))
    torch.testing.assert_close(any_class.score, factor * brightness(x).amax(1))


@pytest.mark.parametrize("name", DETECTORS)
def test_gradients_flow_where_the_score_is_read(name: str) -> None:
    detector, factor, settings = DETECTORS[name]
    x = pictures()
    a = ll.explain(ll.Differentiable(detector), x, "gradient", target=ll.Box(0, 0, 8, 4, label=1, **settings))
    expected = torch.zeros_like(x)
    expected[:, :, :4, :8] = factor / (3 * 32)  # the mean over 96 numbers
    torch.testing.assert_close(a.values, expected)


@pytest.mark.parametrize("name", DETECTORS)
def test_the_format_is_said(name: str) -> None:
    detector, _, settings = DETECTORS[name]
    a = ll.explain(detector, pictures(), "occlusion(8, 8)", target=ll.Detection(1, **settings))
    kind = settings.get("format") or format_of(detector(pictures()))
    assert sum(f"the detector's outputs are read as {kind!r}" in note for note in a.notes) == 1 and not a.cautions


def as_arrays(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.numpy()
    if isinstance(outputs, dict):
        return {name: as_arrays(each) for name, each in outputs.items()}
    return [as_arrays(each) for each in outputs if each is not None]


@pytest.mark.parametrize("name", [name for name in DETECTORS if name not in ("detr", "yolo with objectness")])
@pytest.mark.parametrize("black_box", [True, False])
def test_detectors_that_answer_in_arrays(name: str, black_box: bool) -> None:
    detector, _, settings = DETECTORS[name]
    target = ll.Box(0, 0, 8, 4, label=1, **settings)
    x = pictures()

    def boxed(rows: np.ndarray) -> Any:
        return as_arrays(detector(torch.from_numpy(rows)))

    def plain(rows: Tensor) -> Any:
        found = as_arrays(detector(rows))
        return torch.from_numpy(found) if isinstance(found, np.ndarray) else found

    model = ll.BlackBox(boxed) if black_box else plain
    for method in ("occlusion(8, 8, incremental=False)", "rise(40, cells=2)", "kernel-shap(20, players=grid(2))"):
        found = ll.explain(model, x, method, target=target)
        expected = ll.explain(ll.Differentiable(detector), x, method, target=target)
        torch.testing.assert_close(found.values, expected.values)
        torch.testing.assert_close(found.score, expected.score)
    assert ll.check(model, x, expected, ll.Deletion(steps=4), target=target)[0].value.isfinite().all()


def test_float32_rows_and_arrays_of_whole_numbers() -> None:
    def detector(rows: np.ndarray) -> dict[str, Any]:
        scores = rows.mean((1, 2, 3))[:, None].astype(np.float64)
        return {"boxes": np.array([[[0, 0, 8, 4]]] * len(rows)), "scores": scores, "labels": [[3]] * len(rows)}

    x = pictures().float()
    a = ll.explain(ll.BlackBox(detector), x, "occlusion(8, 8)", target=ll.Box(0.5, 0, 8, 4, label=3))
    torch.testing.assert_close(a.score, 7.5 / 8 * x.mean((1, 2, 3)))
    assert a.score.dtype == torch.float32


def test_a_row_without_detections_scores_0_and_keeps_its_graph() -> None:
    x = pictures()

    def detector(rows: Tensor) -> list[dict[str, Tensor]]:
        """Nothing in the second picture, as torchvision's detectors return it."""
        found = torchvision(rows)
        for row, picture in zip(found, rows, strict=True):
            if float(picture.detach().mean()) == float(x[1].mean()):
                row |= {"boxes": picture[0, :0, :4], "scores": picture[0, :0, 0], "labels": torch.zeros(0)}
        return found

    for target in (ll.Box(0, 0, 8, 4, label=1), ll.Detection(1), ll.Detection()):
        a = ll.explain(ll.Differentiable(detector), x, "gradient", target=target)
        assert float(a.score[0]) > 0 and float(a.score[1]) == 0 and not a.values[1].any()

    def blind(rows: np.ndarray) -> list[dict[str, Any]]:
        return [{"boxes": np.zeros(0), "scores": np.zeros(0), "labels": np.zeros(0, int)} for _ in rows]

    a = ll.explain(ll.BlackBox(blind), x, "occlusion(8, 8)", target=ll.Box(0, 0, 8, 4, label=1))
    assert a.score.tolist() == [0, 0] and not a.values.any()
    y = x.clone().requires_grad_()
    score = ll.Detection()([{"boxes": y[0, 0, :0, :4], "scores": y[0, 0, :0, 0]}], torch.tensor([0]))
    assert not torch.autograd.grad(score.sum(), y)[0].any()


def test_a_class_that_is_not_found_scores_0() -> None:
    a = ll.explain(ll.Differentiable(torchvision), pictures(), "gradient", target=ll.Box(0, 0, 8, 4, label=2))
    assert a.score.tolist() == [0, 0]  # the second box, of class 2, does not meet this one


def test_the_published_similarity() -> None:
    """IoU x cosine of the class vectors x objectness."""
    x, vector = pictures(), torch.tensor([0.1, 1, 0.1], dtype=D)
    box = ll.Box(0, 0, 4, 4, vector=vector)
    found = ll.explain(yolo_with_objectness, x, "occlusion(8, 8)", target=box)
    torch.testing.assert_close(found.score, 0.5 * brightness(x)[:, 0])  # the cosine is 1
    other = torch.tensor([0.1, 0.1, 1], dtype=D)
    cosine = (0.01 + 0.1 + 0.1) / 1.02
    found = ll.explain(yolo_with_objectness, x, "occlusion(8, 8)", target=ll.Box(0, 0, 4, 4, vector=other))
    torch.testing.assert_close(found.score, 0.5 * cosine * brightness(x)[:, 0], rtol=1e-6, atol=0)
    # Without objectness the best class score of the box stands for it.
    each = ll.Box([[0.0, 0, 4, 4], [8, 8, 16, 16]], vector=torch.stack([vector, other]))
    found = ll.explain(with_classes, x, "occlusion(8, 8)", target=each)
    torch.testing.assert_close(found.score, torch.stack([0.5 * brightness(x)[0, 0], brightness(x)[1, 1]]))
    with pytest.raises(ValueError, match=r"Box\.vector has 3 classes, the detector gives one score for each box"):
        ll.explain(torchvision, x, "occlusion(8, 8)", target=box)
    with pytest.raises(ValueError, match="a label and a vector"):
        ll.Box(0, 0, 4, 4, label=1, vector=vector)


def test_each_example_has_its_box_and_its_label() -> None:
    x = pictures()
    target = ll.Box(np.array([[0, 0, 8, 4], [8, 8, 16, 16]]), label=np.array([1, 2]))
    a = ll.explain(ll.Differentiable(torchvision), x, "integrated-gradients", target=target, rows_per_pass=3)
    torch.testing.assert_close(a.score, torch.stack([brightness(x)[0, 0], brightness(x)[1, 1]]))
    for i in range(2):
        alone = ll.explain(torchvision, x[i : i + 1], "integrated-gradients", target=target.select([i]))
        torch.testing.assert_close(alone.values, a.values[i : i + 1])
    found = ll.explain(torchvision, x, "gradient", target=ll.Detection([2, 1])).score
    torch.testing.assert_close(found, torch.stack([brightness(x)[0, 1], brightness(x)[1, 0]]))
    with pytest.raises(ValueError, match="fields for 2 and 3 examples"):
        ll.Box([[0.0, 0, 4, 4]] * 2, label=[1, 2, 3])


@pytest.mark.parametrize("corners", [(16, 16, 8, 8), (0, 0, 0, 4), (0, 4, 4, 4), (0, 0, float("nan"), 4)])
def test_an_empty_box_is_refused_when_it_is_written(corners: tuple[float, ...]) -> None:
    for call in (lambda: ll.Box(list(corners)), lambda: ll.Box(*corners), lambda: ll.Box([[0.0, 0, 1, 1], [*corners]])):
        with pytest.raises(ValueError, match=r"need x0 < x1 and y0 < y1.*x \+ width"):
            call()


@pytest.mark.parametrize("given", [(), (1, 2, 3), (1, 2, 3, 4, 5)])
def test_a_box_of_another_number_of_values(given: tuple[int, ...]) -> None:
    with pytest.raises(TypeError, match=r"Box takes x0, y0, x1, y1 or one tensor.*Box\(10, 20, 110, 90, label=3\)"):
        ll.Box(*given)
    with pytest.raises(ValueError, match=r"Box\.box has shape \(3,\)"):
        ll.Box([1, 2, 3])


def test_a_box_outside_the_picture_is_an_error_and_one_over_the_border_a_caution() -> None:
    for box in ((16, 0, 20, 4), (0, -4, 4, 0), (0, 16, 4, 17)):
        with pytest.raises(ValueError, match="lies outside the picture of 16 x 16"):
            ll.explain(torchvision, pictures(), "gradient", target=ll.Box(*box))
    a = ll.explain(torchvision, pictures(), "gradient", target=ll.Box(8, 8, 17, 16))
    assert [str(each) for each in a.cautions] == ["the box reaches over the border of the picture of 16 x 16"]
    wide = torch.rand(1, 3, 4, 32, dtype=D)
    assert ll.Box(20, 0, 24, 4).fitted(wide.shape[1:]).size == (32, 4)


def test_boxes_that_are_shares_of_the_picture_are_a_caution() -> None:
    def shares(x: Tensor) -> list[dict[str, Tensor]]:
        return [each | {"boxes": each["boxes"] / 16} for each in torchvision(x)]

    a = ll.explain(shares, pictures(), "gradient", target=ll.Box(0, 0, 8, 4, label=1))
    assert any("are they shares of the picture?" in each for each in a.cautions)


def test_formats_in_doubt_are_refused_with_the_choices() -> None:
    x = pictures()
    small = lambda rows: corners(rows)  # noqa: E731  (rows, 2, 6)
    with pytest.raises(ValueError, match=r"may be boxes in several formats; give format=, one of 'yolo': a tensor"):
        ll.explain(small, x, "occlusion(8, 8)", target=ll.Detection(1))
    many = torch.zeros(1, 300, 6)  # six columns: objectness and one class, or corners, score and class
    with pytest.raises(ValueError, match="give format="):
        format_of(many)
    assert format_of(torch.zeros(1, 84, 8400)) == "yolo" and format_of(torch.zeros(1, 25200, 85)) == "yolo-objectness"
    assert format_of([{"boxes": 0, "scores": 0}]) == format_of({"boxes": 0, "scores": 0}) == "torchvision"
    logits = torch.full((1, 84, 8400), 3.0)
    with pytest.raises(ValueError, match=r"the shape of 'yolo' .* but its scores run from 3 to 3; apply a sigmoid"):
        read_detections(logits, 1, None, None)
    assert len(read_detections(logits, 1, "yolo", None)[0].boxes) == 8400


@pytest.mark.parametrize("sigmoid", [True, False])
def test_detr_with_a_sigmoid_is_asked_for(sigmoid: bool) -> None:
    outputs = {"pred_logits": torch.tensor([[[0.0, 1, 2]]]), "pred_boxes": torch.tensor([[[0.5, 0.5, 1, 1]]])}
    target = ll.Box(0, 0, 10, 20, label=1, format="detr-sigmoid" if sigmoid else None, size=(10, 20))
    expected = torch.tensor(1.0).sigmoid() if sigmoid else torch.tensor([0.0, 1, 2]).softmax(0)[1]
    torch.testing.assert_close(target(outputs, torch.tensor([0])), expected[None])
    with pytest.raises(ValueError, match=r"shares of the picture; give size="):
        ll.Box(0, 0, 10, 20)(outputs, torch.tensor([0]))


def without(name: str) -> Callable[[Tensor], list[dict[str, Tensor]]]:
    return lambda x: [{key: value for key, value in row.items() if key != name} for row in torchvision(x)]


@pytest.mark.parametrize(
    ("detector", "target", "error", "said"),
    [
        (without("labels"), ll.Detection(1), ValueError, "no entry 'labels' .* or use label=None for any class"),
        (without("scores"), ll.Detection(1), ValueError, "returns boxes, labels and no scores; 'torchvision' is boxes"),
        (
            lambda x: {"a": x, "b": x},
            ll.Detection(1),
            TypeError,
            r"dict with entries \['a', 'b'\] is not what a detect",
        ),
        (lambda x: x.mean((2, 3)), ll.Box(0, 0, 4, 4), TypeError, r"a tensor \(2, 3\) is not what a detector returns"),
        (with_classes, ll.Detection(7), ValueError, "label 7 is out of range for a detector of 3 classes; use 0 to 2"),
        (detr, ll.Box(0, 0, 4, 4, label=3), ValueError, "label 3 is out of range for a detector of 3 classes"),
        (lambda x: torchvision(x)[:1], ll.Detection(1), ValueError, "returns 1 results for 2 rows"),
        (torchvision, ll.Detection(1, format="yolo"), TypeError, "format='yolo' is a tensor .* returns list"),
    ],
)
def test_what_is_missing_is_named(detector: Any, target: ll.Target, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        ll.explain(detector, pictures(), "occlusion(8, 8)", target=target)


def test_labels_are_not_needed_for_any_class() -> None:
    a = ll.explain(without("labels"), pictures(), "gradient", target=ll.Box(0, 0, 8, 4))
    torch.testing.assert_close(a.score, brightness(pictures())[:, 0])
    with pytest.raises(ValueError, match=r"format='coco': use torchvision, detr"):
        ll.Detection(1, format="coco")  # type: ignore[arg-type]


def test_targets_are_equal_by_their_values() -> None:
    for make in (lambda: ll.Box(0, 0, 8, 4, label=1), lambda: ll.Detection(1), lambda: ll.Similarity([1.0, 2])):
        assert make() == make() and hash(make()) == hash(make())
    assert ll.Box(0, 0, 8, 4) != ll.Box(0, 0, 8, 5) and ll.Similarity([1.0]) != ll.Similarity([1.0, 2])
    assert ll.Box(0, 0, 8, 4) != ll.Box(0, 0, 8, 4, vector=[1.0])


def test_as_text() -> None:
    box = ll.TARGETS.read("box(10, 20, 110, 90, label=3)")
    assert isinstance(box, ll.Box) and box.box.tolist() == [10, 20, 110, 90] and box.label == 3
    again = ll.TARGETS.read(box.as_text())
    assert isinstance(again, ll.Box) and again.box.tolist() == [10, 20, 110, 90] and again.label == 3
    assert ll.TARGETS.read("detection(3, format='yolo')").as_text() == "detection(3, format='yolo')"
    a = ll.explain(torchvision, pictures(), "gradient", target="box(0, 0, 8, 4, label=1)")
    torch.testing.assert_close(a.score, brightness(pictures())[:, 0])


def test_a_box_is_saved_with_its_map(tmp_path: Any) -> None:
    a = ll.explain(torchvision, pictures(), "gradient", target=ll.Box([[0.0, 0, 8, 4]] * 2, label=[1, 2]))
    target = ll.Attribution.load(a.save(tmp_path / "a.safetensors")).target
    assert isinstance(target, ll.Box) and target.label == (1, 2) and target.size == (16, 16)
