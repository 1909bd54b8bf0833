"""Targets in words: numbers, names, labels, and labels and files inside targets; arrays and one-hot tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import limelight as ll
from limelight.cli.options import fitted_target
from limelight.models.catalogue import ImageModel
from limelight.models.pictures import Preprocessing
from limelight.question.output_targets import Function
from limelight.question.registries import as_target, read_target
from limelight.question.target_words import in_words
from limelight.question.targets import Target
from limelight.server.forms import Refused, read_target as read_target_of_page

from .networks import conv_net, pictures

pytestmark = pytest.mark.quick

D = torch.float64
LABELS = (
    "tench",
    "tabby, tabby cat",
    "tiger cat",
    "Persian cat",
    "crane",
    "CRANE",
    "box",
    "margin call",
    "T-shirt",
    "cab (car)",
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", ll.Logit(3)),
        (" 2 ", ll.Logit(2)),
        ("margin", ll.Margin()),  # a name goes before the label's word
        ("Log_Probability", ll.LogProbability()),
        ("margin(3, other=1)", ll.Margin(3, 1)),
        ("tabby", ll.Logit(1)),
        ("TABBY CAT", ll.Logit(1)),
        ("tiger", ll.Logit(2)),
        ("persian", ll.Logit(3)),
        ("crane", ll.Logit(4)),  # as it is written
        ("CRANE", ll.Logit(5)),
        ("call", ll.Logit(7)),
        ("t-shirt", ll.Logit(8)),
        ("box", ll.Logit(6)),  # the target needs its settings
        ("cab (car)", ll.Logit(9)),
        ("margin('tabby', other='tiger cat')", ll.Margin(1, 2)),
        ("probability('persian')", ll.Probability(3)),
        ("detection('tench')", ll.Detection(0)),
        ("margin(['tabby', 3])", ll.Margin((1, 3))),
        ("box(1, 2, 3, 4, label='persian')", ll.Box(1, 2, 3, 4, label=3)),
        ("box([1, 2, 3, 4], label=3)", ll.Box(1, 2, 3, 4, label=3)),
        ("neuron('layer1', index=[0, 1])", ll.Neuron("layer1", (0, 1))),
    ],
)
def test_texts_and_the_targets_that_they_are(text: str, expected: ll.Target) -> None:
    assert read_target(text, LABELS) == expected
    assert read_target_of_page(text, LABELS) == expected
    assert as_target(text, expected.per_example or 1, LABELS) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cat", "'cat' fits 3 classes; use a number: 1 tabby, tabby cat, 2 tiger cat, 3 Persian cat"),
        ("Crane", "'Crane' fits 2 classes; use a number: 4 crane, 5 CRANE"),
        ("tab", "no class is called 'tab'; nearest: 1 tabby, tabby cat"),  # not a whole word
        ("tigre cat", "no class is called 'tigre cat'; nearest: 2 tiger cat"),
        ("prob", "no class is called 'prob'; a target is called probability, log-probability"),
        ("margni", "nearest: 7 margin call; a target is called margin"),
        ("10", "10 is not a class of the model; use 0 to 9, or a label"),
        ("-1", "-1 is not a class of the model"),
        ("", "an empty label"),
        ("region", "cannot read 'region'"),
        ("margn(3)", "'margn' is unknown; did you mean margin"),
        ("margin('cat')", "'cat' fits 3 classes"),
        ("box(1, 2, 3, 4, label='dog')", "no class is called 'dog'"),
        ("region('mask.png')", "region needs label; write region(mask, label, reduction='sum', resize=False)"),
    ],
)
def test_texts_that_fit_nothing_or_several(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace(")", r"\)")):
        read_target(text, LABELS)


def test_labels_in_targets_of_python() -> None:
    net, x = conv_net(), pictures(2)
    model = Labelled(net)
    for given, expected in (
        (ll.Margin("tabby", other="tiger cat"), ll.Margin(1, 2)),
        (ll.Probability(["tench", "persian"]), ll.Probability((0, 3))),
        (["tench", 3], ll.Logit((0, 3))),
        ([["tench", "tabby"], [2, "persian"]], ll.Logit(((0, 1), (2, 3)))),
        (np.array(["tench", "Persian cat"]), ll.Logit((0, 3))),
    ):
        found = ll.explain(model, x, "gradient", target=given)
        torch.testing.assert_close(found.values, ll.explain(net, x, "gradient", target=expected).values)
    with pytest.raises(ValueError, match="this model has no labels"):
        ll.explain(net, x, "gradient", target=ll.Margin("tabby"))
    with pytest.raises(TypeError, match=r"a class is an integer or a label, not 1\.5"):
        ll.Margin(1.5)  # type: ignore[arg-type]


class Labelled(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.labels = net, LABELS[:5]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


@pytest.mark.parametrize(
    ("given", "index"),
    [
        (np.array([1, 0, 4]), (1, 0, 4)),
        (np.array([1, 0, 4], np.uint16), (1, 0, 4)),
        (np.array([[0, 3], [1, 2], [2, 4]]), ((0, 3), (1, 2), (2, 4))),
        (np.array(3), 3),
        (np.int64(3), 3),
        (torch.tensor(3), 3),
        (torch.tensor([1, 0, 4], dtype=torch.int32), (1, 0, 4)),
        ([torch.tensor(1), np.int32(0), 4], (1, 0, 4)),
        ([np.array([0, 3]), torch.tensor([1, 2]), [2, 4]], ((0, 3), (1, 2), (2, 4))),
        ([[0, 1]] * 3, ((0, 1),) * 3),  # two classes for each example, not one-hot
        ([[0, 1, 2]] * 3, ((0, 1, 2),) * 3),
        ([0, 0, 1], (0, 0, 1)),  # a class for each example
    ],
    ids=str,
)
def test_arrays_and_tensors_of_classes(given: Any, index: Any) -> None:
    assert as_target(given, 3) == ll.Logit(index)
    assert ll.Margin(given) == ll.Margin(index)
    a = ll.explain(conv_net(), pictures(), "gradient", target=given)
    torch.testing.assert_close(a.values, ll.explain(conv_net(), pictures(), "gradient", target=ll.Logit(index)).values)


@pytest.mark.parametrize("of", [list, np.array, torch.tensor])
def test_one_hot_tables_are_refused_with_what_to_write(of: Any) -> None:
    with pytest.raises(ValueError, match=r"a one-hot table 1 x 5; give the classes themselves, target=\[2\], as from"):
        as_target(of([[0, 0, 1, 0, 0]]), 1)
    with pytest.raises(ValueError, match=r"a one-hot table 3 x 3; .*target=\[1, 0, 2\]"):
        ll.Probability(of([[0, 1, 0], [1, 0, 0], [0, 0, 1]]))
    with pytest.raises(ValueError, match=r"a table 2 x 4 of 0 and 1 .* the numbers of the classes that are marked"):
        as_target(of([[0, 1, 1, 0], [1, 0, 0, 0]]), 2)


@pytest.mark.parametrize("table", [np.eye(3), torch.eye(3), np.eye(3, dtype=bool), torch.eye(3).bool()], ids=str)
def test_one_hot_tables_of_other_kinds(table: Any) -> None:
    with pytest.raises(TypeError, match=r"holds integers.*for one-hot labels give table\.argmax\(1\)"):
        as_target(table, 3)


def segmentation() -> nn.Module:
    """A map of half the input's size: the mean of each 2 x 2 block, times 1, 2, 3 and 4 for four classes."""
    net = nn.Conv2d(3, 4, 2, stride=2, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.arange(1.0, 5).view(4, 1, 1, 1).expand(4, 3, 2, 2) / 12)
    return net


def mask_file(folder: Path, size: tuple[int, int] = (16, 16), mode: str = "L") -> Path:
    """White in the upper left quarter."""
    image = Image.new(mode, size)
    image.paste(255 if mode == "L" else "white", (0, 0, size[0] // 2, size[1] // 2))
    path = folder / "mask.png"
    image.save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
@pytest.mark.parametrize("size", [(4, 4), (8, 8), (16, 16), (40, 24)])
def test_a_mask_file_covers_the_input_and_is_resized_to_the_output_map(
    tmp_path: Path, size: tuple[int, int], mode: str
) -> None:
    path, x = mask_file(tmp_path, size, mode), pictures(2)
    expected = 4 * 3 * x[:, :, :4, :4].mean((1, 2, 3))  # four positions of class 2
    for target in (f"region('{path}', 2)", ll.Region(path, 2), ll.Region(str(path), 2), ll.Region(Image.open(path), 2)):
        a = ll.explain(segmentation(), x, "gradient", target=target)
        torch.testing.assert_close(a.score, expected)
        assert not a.values[:, :, 4:].any() and bool((a.values[:, :, :4, :4] != 0).all())
    assert isinstance(a.target, ll.Region) and a.target.resize
    ll.Attribution.load(a.save(tmp_path / "a.safetensors"))
    assert ll.Region(path, 2).as_text() == f"region('{path}', label=2, resize=True)"


def test_a_mask_file_of_a_photograph_is_cropped_as_the_model_crops(tmp_path: Path) -> None:
    """A mask of 32 x 16 for a model that sees the middle 16 x 16, resized to 8 x 8: the white half is off the left."""
    image = Image.new("L", (32, 16))
    image.paste(255, (0, 0, 16, 16))
    image.save(tmp_path / "mask.png")
    model = ImageModel(segmentation().float(), Preprocessing(8, crop_fraction=1.0))
    x = pictures(1).float()
    for given in (model, ll.prepare(model)):
        a = ll.explain(given, x, "gradient", target=f"region('{tmp_path / 'mask.png'}', 0)")
        torch.testing.assert_close(a.score, 8 * x[:, :, :, :4].mean((1, 2, 3)))
    read = fitted_target(f"region('{tmp_path / 'mask.png'}', 0)", model)
    assert isinstance(read, ll.Region) and isinstance(read.mask, Tensor) and read.mask.shape == (8, 8)


def test_masks_as_arrays() -> None:
    x, mask = pictures(2), np.zeros((4, 4), bool)
    mask[:2, :2] = True
    net = segmentation()
    expected = ll.explain(net, x, "gradient", target=ll.Region(torch.tensor(mask), 1))
    mask.setflags(write=False)
    for given in (mask, mask.astype(np.uint8) * 255, mask.astype(float), mask.tolist(), np.stack([mask, mask])):
        found = ll.explain(net, x, "gradient", target=ll.Region(given, 1))
        torch.testing.assert_close(found.values, expected.values)
    large = ll.Region(np.kron(mask, np.ones((3, 3))), 1, resize=True)
    torch.testing.assert_close(ll.explain(net, x, "gradient", target=large).values, expected.values)
    reference = np.arange(4.0)
    a = ll.explain(ll.Differentiable(lambda x: net(x).mean((2, 3))), x, "gradient", target=ll.Similarity(reference))
    b = ll.Similarity(torch.arange(4.0))
    assert a.target == ll.Similarity(reference) and torch.equal(b.reference, torch.arange(4.0))


def test_what_is_wrong_with_a_region_is_said(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="label"):
        ll.Region(np.ones((4, 4)))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="a class is an integer or a label, not None"):
        ll.Region(np.ones((4, 4)), None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"target: Region\.mask='/nowhere\.png': no such file"):
        ll.explain(segmentation(), pictures(1), "gradient", target="region('/nowhere.png', 2)")
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match=r"Region\.mask is empty"):
        ll.explain(segmentation(), pictures(1), "gradient", target=f"region('{tmp_path / 'black.png'}', 2)")
    with pytest.raises(ValueError, match="or give resize=True"):
        ll.explain(segmentation(), pictures(1), "gradient", target=ll.Region(np.ones((8, 8)), 2))


def test_the_page_reads_no_files() -> None:
    for text in ("region('/etc/hostname', 2)", "region('mask.png', 'tabby')"):
        with pytest.raises(Refused, match="a page reads no files of its server"):
            read_target_of_page(text, LABELS)
    assert isinstance(read_target_of_page("region([[1, 0], [0, 1]], 2)", LABELS), ll.Region)


NAMES = ("tench", "tabby", "class 2")


WORDS: list[tuple[Target, str]] = [
    (ll.Logit(1), "tabby (1)"),
    (ll.Logit(2), "class 2"),
    (ll.Logit(7), "class 7"),
    (ll.Logit((0, 1)), "tench (0), tabby (1)"),
    (ll.Logit(), "the model's first class"),
    (ll.Probability(1), "the probability of tabby (1)"),
    (ll.LogProbability(1), "the log-probability of tabby (1)"),
    (ll.Margin(1), "tabby (1) rather than the next class"),
    (ll.Margin(1, other=0), "tabby (1) rather than tench (0)"),
    (ll.CentredLogit(1), "tabby (1) above the mean of all classes"),
    (ll.Region(torch.ones(30, 30), 2), "class 2 in a region of 900 pixels"),
    (ll.Region(torch.eye(3), 1, "mean"), "the mean of tabby (1) in a region of 3 pixels"),
    (ll.Region(torch.tensor([[[1.0, 0], [0, 0]], [[1, 1], [0, 1]]]), 0), "tench (0) in a region of 1 to 3 pixels"),
    (ll.Box(1, 2, 30, 40, label=1), "tabby (1) in the box from (1, 2) to (30, 40)"),
    (ll.Detection(), "any object anywhere in the picture"),
    (ll.Similarity(torch.ones(5)), "similarity to a reference of 5 numbers"),
    (ll.Neuron("a.b", channel=3), "the mean of channel 3 of layer a.b"),
    (ll.Neuron("a.b", (1, 2, 3)), "unit 1, 2, 3 of layer a.b"),
    (ll.PredictiveEntropy(), "how undecided the model is"),
    (ll.NextToken(1), "the next token tabby (1)"),
    (ll.Continuation("a b"), "the continuation 'a b'"),
    (ll.Continuation("a b", place=1), "token 1 of the continuation 'a b'"),
    (Function(len), "the function len"),
]


@pytest.mark.parametrize(("target", "words"), WORDS)
def test_a_target_in_words(target: Target, words: str) -> None:
    assert in_words(target, NAMES) == words


def test_every_target_has_words_of_its_own() -> None:
    assert {type(target) for target, _ in WORDS} == set(ll.TARGETS)
