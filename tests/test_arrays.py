"""Arrays, tables, pictures and texts where tensors are taken: read, or refused with what to give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import limelight as ll
from limelight.models.pictures import Preprocessing
from limelight.question.random_streams import Streams

from .networks import conv_net, pictures


class Frame:
    """Stands for a table of pandas."""

    def to_numpy(self) -> np.ndarray:
        return np.zeros((2, 3))


REFUSED: list[tuple[Any, str]] = [
    (np.zeros((2, 3, 8, 8)), r"ndarray, not a torch.Tensor.*; use torch.as_tensor\(inputs\)"),
    ([[0.1, 0.2]], r"list, not a torch.Tensor.*; use torch.as_tensor\(inputs\)"),
    (Frame(), r"Frame, not a torch.Tensor.*; use torch.as_tensor\(inputs.to_numpy\(\)\)"),
    ("photo.png", r"'photo.png', and Module takes tensors; .*ImageModel\(module, Preprocessing.*TextModel"),
    (Image.new("RGB", (8, 8)), r"a picture, and Module takes tensors; .*ImageModel"),
    (3, r"int, not a torch.Tensor of shape \(batch, \*features\)$"),
]


class Module(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2]


@pytest.mark.parametrize(("inputs", "said"), REFUSED, ids=[type(each).__name__ for each, _ in REFUSED])
def test_inputs_that_are_no_tensor(inputs: Any, said: str) -> None:
    for call in (ll.explain, ll.check, ll.compare_shifts):
        with pytest.raises(TypeError, match=f"inputs: {said}"):
            call(Module(), inputs, "gradient", target=0)  # type: ignore[operator]


def test_several_tensors_where_a_function_takes_one() -> None:
    x = torch.rand(2, 3, 8, 8)
    for several, kind in (((x, x), "tuple"), ({"x": x}, "dict")):
        with pytest.raises(
            TypeError, match=rf"{kind} of tensors, where .* one tensor; use one, and the others as given="
        ):
            ll.sweep(Module(), several, "occlusion", window=[2])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"tuple of ndarray, and not of tensors; use torch.as_tensor for each"):
        ll.explain(Module(), (x.numpy(), x.numpy()), "gradient", target=0)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"torch.int64.*token ids are taken by explain, check"):
        ll.sweep(Module(), torch.ones(2, 3, dtype=torch.long), "occlusion", window=[1])


def test_pictures_where_a_function_takes_their_tensor() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    model = ll.ImageModel(network, Preprocessing(size=(8, 8)))
    for call in (ll.sweep, ll.compare_baselines):
        with pytest.raises(TypeError, match=r"a picture, where .* takes a tensor; use model.preprocess\(picture\)"):
            call(model, Image.new("RGB", (8, 8)), "occlusion", **({"window": [2]} if call is ll.sweep else {}))


def test_a_baseline_that_is_no_tensor() -> None:
    for baseline in (np.zeros(3), [0.1, 0.2, 0.3]):
        with pytest.raises(TypeError, match=r"baseline: .*; use torch.as_tensor\(baseline\)"):
            ll.explain(conv_net(), pictures(1), "integrated-gradients", baseline=baseline)  # type: ignore[arg-type]


def test_a_data_set_in_the_place_of_a_baseline() -> None:
    with pytest.raises(
        ValueError, match=r"does not broadcast .*; of a data set use Samples\(data, n\) or Mean\(data\)"
    ):
        ll.explain(conv_net(), pictures(2), "kernel-shap", target=0, baseline=pictures(5))


def test_masks_and_maps_may_be_arrays() -> None:
    net, x = conv_net(), pictures(2)
    mask = torch.zeros(2, *x.shape[2:])
    mask[:, 2:5, 2:5] = 1
    values = torch.rand(x.shape, dtype=x.dtype)
    (expected,) = ll.check(net, x, values, "relevance-mass", mask=mask, target=0)
    for given in (mask.numpy(), mask.numpy() > 0, mask.tolist()):
        (found,) = ll.check(net, x, values.numpy(), "relevance-mass", mask=given, target=0)  # type: ignore[arg-type]
        assert torch.equal(found.value, expected.value)


def test_an_array_beside_the_inputs_goes_along_with_its_example() -> None:
    """Two rows of a pass may be of one example: an array as it is would give them the numbers of both."""
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)

    class Weighted(nn.Module):
        def forward(self, x: Tensor, weights: Any) -> Tensor:
            return x * torch.as_tensor(weights)

    x = torch.rand(2, 2, dtype=torch.float64)
    for given in ((weights,), (weights.numpy(),)):
        found = ll.explain(Weighted(), x, "feature-ablation", target=[0, 1], given=given, rows_per_pass=2)
        assert torch.equal(found.values, x * weights)


def test_settings_of_methods_that_are_given_as_options() -> None:
    with pytest.raises(TypeError, match=r"n_samples: there is no such option; .*'smooth-grad\(samples=8\)'"):
        ll.explain(conv_net(), pictures(1), "smooth-grad", n_samples=8)  # type: ignore[call-overload]
    for settings, option in (
        ({"target_layers": []}, "layer="),
        ({"layer": "0"}, "layer="),
        ({"baselines": 0}, "baseline="),
    ):
        with pytest.raises(TypeError, match=f"GradCAM: there is no setting .*; give it to explain, as {option}"):
            ll.GradCAM(**settings)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"settings alone; give the model to explain\(model, inputs, IntegratedGradients"
    ):
        ll.IntegratedGradients(conv_net())  # type: ignore[arg-type]
    layer = conv_net().body
    assert ll.Conductance(layer).layer is layer and ll.Conductance(layer="body").layer == "body"
    with pytest.raises(TypeError, match="no setting 'feature_mask'; use players"):
        ll.KernelShap(feature_mask=torch.zeros(8, 8))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no setting 'sliding_window_shapes'; use window"):
        ll.Occlusion(sliding_window_shapes=(3, 4, 4))  # type: ignore[call-arg]


DATA = np.random.default_rng(0).random((6, 4))


@pytest.mark.parametrize("kind", [ll.Mean, ll.Median, ll.Samples])
def test_data_of_a_baseline_as_an_array_a_table_a_list_or_a_file(kind: Any, tmp_path: Path) -> None:
    """Rows of an array were taken for batches of numbers, whose mean is one number for all columns."""
    rest = (6,) if kind is ll.Samples else ()
    x = torch.rand(2, 4, dtype=torch.float64)
    expected = kind(torch.from_numpy(DATA), *rest).references(x, Streams.of(x, 0))
    table = Frame()
    table.to_numpy = lambda: DATA  # type: ignore[method-assign]
    np.save(tmp_path / "data.npy", DATA)
    for data in (DATA, DATA.tolist(), table, str(tmp_path / "data.npy")):
        torch.testing.assert_close(kind(data, *rest).references(x, Streams.of(x, 0)), expected, atol=1e-7, rtol=0)
    if kind is not ll.Samples:
        for data in ([DATA[:2], DATA[2:]], (torch.from_numpy(each) for each in (DATA[:2], DATA[2:]))):
            torch.testing.assert_close(kind(data).references(x, Streams.of(x, 0)), expected)


@pytest.mark.parametrize("kind", [ll.Mean, ll.Median])
def test_data_of_a_baseline_of_other_examples_than_the_inputs(kind: Any) -> None:
    """What is read as batches may be single examples, whose mean would be spread over the inputs."""
    x = torch.rand(2, 3, 8, 8)
    with pytest.raises(ValueError, match=rf"{kind.__name__}.data holds examples of shape \(8, 8\), .* are \(3, 8, 8\)"):
        ll.explain(Module(), x, "integrated-gradients(4)", target=0, baseline=kind([each for each in x]))


def test_batches_with_labels_are_refused_and_one_tensor_is_a_batch() -> None:
    x = torch.rand(6, 4)
    loader = DataLoader(TensorDataset(x, torch.zeros(6)), batch_size=3)
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    for read in (ll.Mean, ll.Median, lambda data: ll.estimate_patterns(network, data)):
        with pytest.raises(TypeError, match=r"list of 2; give the inputs alone, such as \(x for x, \*_ in loader\)"):
            read(loader)
    one, same = ll.estimate_patterns(network, x), ll.estimate_patterns(network, [x.numpy()])
    assert one.tensors and all(torch.equal(each, same.tensors[name]) for name, each in one.tensors.items())


def test_what_a_check_cannot_do_is_said_in_words() -> None:
    net, x = nn.Linear(4, 2), torch.rand(2, 4)
    (found,) = ll.check(net, x, "gradient", "deletion(fill=blur(3))", target=1)
    assert found.reason.startswith("baseline: Blur needs spatial axes")
