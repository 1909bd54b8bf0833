"""Your own model in one line, where formats, black boxes, detectors and several inputs meet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import limelight as ll

from .test_own_models import explained, here, one, run

__all__ = ["here"]  # the fixture


def test_an_onnx_file_of_bytes_channels_last_in_fixed_batches(here: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(3, 5)).astype("f")
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "w"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [4, 32, 32, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 5])
    graph = helper.make_graph(nodes, "bytes", [x], [y], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), "bytes.onnx")
    document = explained(
        "--model", "bytes.onnx", "--labels", "classes.json", "--target", "2", methods="occlusion(8, 8)"
    )
    model = ll.load_model("bytes.onnx")
    pixels = model.preprocess("cat.png")
    assert pixels.shape == (1, 3, 32, 32)
    bytes_of = (pixels * 255).round().mean((2, 3)).double()
    expected = float(bytes_of[0] @ torch.from_numpy(weights).double()[:, 2])
    assert abs(one(document)["maps"][0]["score"] - expected) < 1e-3 * abs(expected)
    assert ll.explain("bytes.onnx", pixels, "occlusion(8, 8)", target=2).values.shape == (1, 1, 32, 32)


def test_a_detector_in_numpy_is_one_command(here: Path) -> None:
    Path("own_yolo.py").write_text(
        """
import numpy as np
import limelight as ll

def answer(rows):
    '''(rows, 4 + 2 classes, 20 boxes): the first box's class 1 is as sure as its place is bright.'''
    found = np.zeros((len(rows), 6, 20), "f")
    found[:, 0], found[:, 1], found[:, 2], found[:, 3] = np.arange(20) * 3 + 4, 24, 16, 16
    found[:, 5, 7] = rows[:, :, 16:32, 17:33].mean((1, 2, 3))
    return found

def detector():
    return ll.BlackBox(answer)
"""
    )
    wanted = ["--model", "own_yolo:detector", "--size", "64", "--mean", "0", "--std", "1"]
    target = ["--target", "box(17, 16, 33, 32, label=1)"]
    document = explained(*wanted, *target, methods="occlusion(8, 8)")
    pixels = ll.load_model("own_yolo:detector", size=64, mean=0, std=1).preprocess("cat.png")
    bright = float(pixels[0, :, 16:32, 17:33].mean())
    assert abs(one(document)["maps"][0]["score"] - bright) < 1e-4
    swapped = run("explain", "cat.png", *wanted, "--target", "box(33, 32, 17, 16, label=1)", "-m", "occlusion(8, 8)")
    assert swapped.exit_code != 0 and "x0 < x1" in swapped.output


def test_a_two_input_network_is_one_call() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.picture, self.table = nn.Conv2d(3, 4, 3), nn.Linear(2, 4)

        def forward(self, image: Tensor, table: Tensor) -> Tensor:
            return self.picture(image).relu().mean((2, 3)) * self.table(table)

    image, table = torch.rand(2, 3, 16, 16), torch.rand(2, 2)
    found = ll.explain(Beside().eval(), (image, table), "integrated-gradients", target=1)
    assert [each.shape for each in found.values] == [image.shape, table.shape]
    assert found.delta.abs().max() < 1e-2 * found.score.abs().max()


def test_probabilities_of_a_file_are_said_on_the_command_line(here: Path) -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)).eval()
    torch.jit.trace(network, torch.rand(1, 3, 32, 32)).save("net.ts")
    common = ["--model", "net.ts", "--size", "32", "--mean", "0.5", "--std", "0.5", "--labels", "classes.json"]
    plain = one(explained(*common))
    said = one(explained(*common, "--outputs", "score"))
    assert plain["target"]["probability"] is not None and said["target"]["probability"] is None
    wrong = run("explain", "cat.png", *common, "--outputs", "probabilities", "-m", "gradient")
    assert wrong.exit_code != 0 and "declared 'probabilities'" in wrong.output
