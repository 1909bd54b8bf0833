"""Your own model in one line: each format that networks are kept in, from its file to a map."""

from __future__ import annotations

import json
import pickle
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner, Result

import limelight as ll
from limelight.cli.main import app
from limelight.models.catalogue import ImageModel, ModelError, load_model
from limelight.models.pictures import Preprocessing, open_image, prepare
from limelight.models.weights import read_state

CLASSES = ("cat", "dog", "fox", "owl", "elk")
UNNORMALISED = "pixels in [0, 1] go in unnormalised"


def small(channels: int = 3, classes: int = 5) -> nn.Sequential:
    torch.manual_seed(1)
    convolutions = (nn.Conv2d(channels, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU())
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)).eval()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a picture, labels, and modules that can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((96, 72)).save("cat.png")
    Path("classes.json").write_text(json.dumps(CLASSES))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def explained(*arguments: str, methods: str = "gradient") -> dict[str, Any]:
    """The document of one picture's maps by `limelight explain`."""
    result = run("explain", "cat.png", "-m", methods, "--check-rows", "0", "--no-progress", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout)["pictures"][0])


def one(document: dict[str, Any]) -> dict[str, Any]:
    return dict(document["explanations"][0])


def notes(document: dict[str, Any]) -> str:
    return " ".join(note for each in one(document)["maps"] for note in each["notes"])


# State dicts of torchvision and timm


def fine_tuned(library: str) -> nn.Module:
    torch.manual_seed(2)
    if library == "timm":
        network: nn.Module = pytest.importorskip("timm").create_model("resnet18", num_classes=5)
    else:
        network = pytest.importorskip("torchvision").models.resnet18(num_classes=5)
    return network.eval()


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_fine_tuned_state_dict(library: str, here: Path) -> None:
    network = fine_tuned(library)
    torch.save(network.state_dict(), "ft.pth")
    document = explained("--model", f"{library}:resnet18", "--weights", "ft.pth", "--labels", "classes.json")
    model = load_model(f"{library}:resnet18", weights="ft.pth", labels="classes.json")
    pixels = model.preprocess("cat.png")
    expected = network((pixels - model.mean) / model.std)
    assert torch.allclose(model(pixels), expected, atol=1e-6)
    assert one(document)["target"]["label"] == CLASSES[int(expected.argmax())]
    assert model.labels == CLASSES and UNNORMALISED not in notes(document)


def test_a_lightning_checkpoint(here: Path) -> None:
    network = fine_tuned("torchvision")
    checkpoint = {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{key}": value for key, value in network.state_dict().items()}
        | {"loss.weight": torch.ones(5)},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4, "completed": 3}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5), "dirpath": "/a"}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}],
        "lr_schedulers": [],
        "hyper_parameters": {"lr": 0.1, "classes": 5, "name": "resnet18"},
    }
    torch.save(checkpoint, "last.ckpt")
    document = explained("--model", "torchvision:resnet18", "--weights", "last.ckpt", "--labels", "classes.json")
    assert one(document)["target"]["label"] in CLASSES
    model = load_model("torchvision:resnet18", weights="last.ckpt")
    assert torch.equal(model.network.state_dict()["fc.weight"], network.state_dict()["fc.weight"])


@pytest.mark.parametrize("key", ["state_dict", "model", "ema", "model_state_dict", "state_dict_ema", ""])
@pytest.mark.parametrize("prefix", ["", "model.", "net.", "module.", "module.model.", "_orig_mod."])
def test_nested_and_prefixed_state_dicts(key: str, prefix: str, here: Path) -> None:
    (here / "own_small.py").write_text("import tests.test_own_models as here\ndef make(): return here.small()\n")
    network = small()
    state = {prefix + name: value * 2 for name, value in network.state_dict().items()}
    torch.save({key: state, "epoch": 1} if key else state, "a.pt")
    loaded = load_model("own_small:make", weights="a.pt").network.state_dict()
    assert all(torch.equal(loaded[name], value * 2) for name, value in network.state_dict().items())


@pytest.mark.parametrize("key", ["model", "net"])
def test_a_prefix_that_is_the_networks_own_stays(key: str, here: Path) -> None:
    torch.save({f"{key}.weight": torch.ones(2, 3), f"{key}.bias": torch.ones(2)}, "a.pt")
    from limelight.models.weights import load_state

    own = nn.ModuleDict({key: nn.Linear(3, 2)})
    load_state(own, read_state(Path("a.pt")), "weights")
    assert bool((own[key].weight == 1).all())


def test_a_head_that_is_not_found_by_shape(here: Path) -> None:
    network = fine_tuned("torchvision")
    state = {key: value for key, value in network.state_dict().items() if not key.startswith("fc.")}
    torch.save(state | {"fc.1.weight": torch.zeros(5, 512), "fc.1.bias": torch.zeros(5)}, "ft.pth")
    with pytest.raises(ModelError, match=r"missing fc.weight, fc.bias; unexpected fc.1.weight.*package.module:factory"):
        load_model("torchvision:resnet18", weights="ft.pth")
    torch.save(network.state_dict() | {"layer1.0.conv1.weight": torch.zeros(64, 64, 5, 5)}, "other.pth")
    with pytest.raises(ModelError, match=r"layer1.0.conv1.weight"):
        load_model("torchvision:resnet18", weights="other.pth")


def test_a_checkpoint_that_holds_code_is_refused(here: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {"path": Harm()}}, "bad.ckpt")
    with pytest.raises(ModelError, match="never unpickles"):
        load_model("resnet18", weights="bad.ckpt")


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


# Folders of transformers


def saved(model: Any, folder: str, processor: dict[str, Any] | None = None) -> None:
    model.save_pretrained(folder)
    if processor is not None:
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(processor))


VIT_PROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.25, 0.3],
    "image_processor_type": "ViTImageProcessor",
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 32, "width": 32},
}


def vit(labels: tuple[str, ...] = CLASSES) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    names = dict(enumerate(labels))
    configuration = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8,
        id2label=names, label2id={name: index for index, name in names.items()},
    )  # fmt: skip
    return transformers.ViTForImageClassification(configuration).eval()


def test_a_vit_folder(here: Path) -> None:
    network = vit()
    saved(network, "my-vit", VIT_PROCESSOR)
    document = explained("--model", "./my-vit")
    model = load_model("./my-vit")
    assert model.labels == CLASSES
    assert model.preprocessing.mean == (0.4, 0.5, 0.6) and model.preprocessing.sides == (32, 32)
    pixels = model.preprocess("cat.png")
    processor = pytest.importorskip("transformers").ViTImageProcessor.from_pretrained("my-vit")
    theirs = processor(Image.open("cat.png"), return_tensors="pt")["pixel_values"]
    assert torch.allclose((pixels - model.mean) / model.std, theirs, atol=0.03)
    top = int(network((pixels - model.mean) / model.std).logits.argmax())
    assert one(document)["target"]["label"] == CLASSES[top] and UNNORMALISED not in notes(document)


PROCESSORS: list[tuple[str, dict[str, Any], bool]] = [
    ("ViTImageProcessor", {}, True),
    ("ViTImageProcessor", {"do_rescale": False, "do_normalize": False}, True),
    ("CLIPImageProcessor", {}, True),
    ("DeiTImageProcessor", {}, True),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}, True),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}, True),
    ("EfficientNetImageProcessor", {}, True),
    ("EfficientNetImageProcessor", {"rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False}, True),
    ("SegformerImageProcessor", {}, True),
    ("SiglipImageProcessor", {}, True),
    ("MobileViTImageProcessor", {}, False),  # exchanges red and blue
    ("LevitImageProcessor", {}, False),  # resizes by its own rule
]


@pytest.mark.parametrize("kind, settings, alike", PROCESSORS)
def test_a_folders_processor_is_followed_or_a_caution_says_so(
    kind: str, settings: dict[str, Any], alike: bool, here: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    saved(vit(), "my-vit")
    getattr(transformers, kind)(**settings).save_pretrained("my-vit")
    found = load_model("./my-vit").loading_notes
    assert not found if alike else found[0].is_caution and f"own {kind} prepares pictures otherwise" in found[0]


def test_a_processor_of_texts_too_holds_that_of_images(here: Path) -> None:
    saved(vit(), "my-vit")
    (here / "my-vit" / "processor_config.json").write_text(json.dumps({"image_processor": VIT_PROCESSOR}))
    assert load_model("./my-vit").preprocessing.mean == (0.4, 0.5, 0.6)


def test_a_folder_that_lacks_weights_is_refused(here: Path) -> None:
    saved(vit(), "my-vit", VIT_PROCESSOR)
    state = {
        key: value
        for key, value in read_state(here / "my-vit" / "model.safetensors").items()
        if "classifier" not in key
    }
    save_file(state, here / "my-vit" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack classifier.bias, classifier.weight.*random"):
        load_model("./my-vit")


def test_a_folder_without_a_processor_says_so(here: Path) -> None:
    saved(vit(), "my-vit")
    document = explained("--model", "./my-vit")
    assert UNNORMALISED in notes(document)
    assert load_model("./my-vit").preprocessing.sides == (32, 32)
    told = explained("--model", "./my-vit", "--mean", "0.5", "--std", "0.5")
    assert UNNORMALISED not in notes(told)


def segformer() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    configuration = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[16, 32], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=32, num_labels=4,
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(configuration).eval().requires_grad_(False)


def test_a_segformer_folder_and_a_region(here: Path) -> None:
    network = segformer()
    processor = {"do_resize": True, "size": {"height": 64, "width": 64}, "do_normalize": True, "resample": 2}
    saved(network, "seg", processor | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    np.save("road.npy", mask)
    document = explained("--model", "./seg", "--target", "region('road.npy', label=1)", methods="gradient,occlusion")
    target = one(document)["target"]
    assert target["text"] == "region(mask=16 x 16 numbers, label=1, reduction='sum', resize=False)"
    assert target["label"] == "class 1 in a region of 64 pixels"
    model = load_model("./seg")
    x = model.preprocess("cat.png")
    expected = network((x - 0.5) / 0.5).logits[0, 1][torch.from_numpy(mask)].sum()
    assert one(document)["maps"][0]["score"] == pytest.approx(float(expected), rel=1e-4)
    assert UNNORMALISED not in notes(document)


def clip() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = shape | {"vocab_size": 99, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
    vision = shape | {"image_size": 32, "patch_size": 8}
    return transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    ).eval()


@pytest.mark.parametrize("file", ["text.pt", "text.npy", "text.safetensors"])
def test_clip_by_text_embeddings(file: str, here: Path) -> None:
    network = clip()
    saved(network, "clip", VIT_PROCESSOR | {"image_processor_type": "CLIPImageProcessor"})
    tokens = torch.tensor([[1, 7, 8, 2]])
    found = network.get_text_features(input_ids=tokens)
    embedding = (found if isinstance(found, torch.Tensor) else found.pooler_output)[0].detach()
    match Path(file).suffix:
        case ".pt":
            torch.save(embedding, file)
        case ".npy":
            np.save(file, embedding.numpy())
        case _:
            save_file({"embedding": embedding}, file)
    document = explained("--model", "./clip", "--target", f"similarity('{file}')")
    model = load_model("./clip")
    x = model.preprocess("cat.png")
    per_image = network(input_ids=tokens, pixel_values=(x - model.mean) / model.std).logits_per_image
    cosine = float((per_image[0, 0] / network.logit_scale.exp()).detach())
    assert one(document)["maps"][0]["score"] == pytest.approx(cosine, abs=1e-5)
    assert one(document)["target"]["text"] == "similarity(reference=16 numbers)" and document["top"] == []
    a = ll.explain(model, x, "gradient", target=ll.Similarity(embedding))
    assert float(a.score[0]) == pytest.approx(cosine, abs=1e-5)


def test_tensor_files_hold_numbers_alone(here: Path) -> None:
    torch.save(Harm(), "harm.pt")
    np.save("harm.npy", np.array([Harm()], dtype=object), allow_pickle=True)
    Path("raw.pt").write_bytes(pickle.dumps(Harm()))
    for file in ("harm.pt", "harm.npy", "raw.pt"):
        with pytest.raises(ValueError, match=f"{file}.*never unpickles"):
            ll.Similarity(file)
    with pytest.raises(ValueError, match=r"none.npy.*no such file"):
        ll.Similarity("none.npy")
    with pytest.raises(ValueError, match=r"the file of one \(.npy, .pt, .pth, .safetensors\)"):
        ll.explain(nn.Linear(4, 3), torch.rand(1, 4), "gradient", target=ll.Similarity("none.txt"))


def test_the_page_reads_no_file(here: Path) -> None:
    forms = pytest.importorskip("limelight.server.forms")
    torch.save(torch.ones(16), "text.pt")
    with pytest.raises(forms.Refused, match="file"):
        forms.read_target("similarity('text.pt')", ())
    assert ll.Similarity("text.pt").reference.shape == (16,)


def test_a_folder_that_is_no_model(here: Path) -> None:
    (here / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config.json"):
        load_model("./empty")
    (here / "empty" / "config.json").write_text('{"architectures": ["TheirOwn"], "model_type": "own"}')
    pytest.importorskip("transformers")
    with pytest.raises(ModelError, match="TheirOwn"):
        load_model("./empty")


# ONNX


def onnx_file(path: str, kind: type = np.float32, rows: int | str = "rows", side: int = 24) -> None:
    """A network of two operators: the mean of each channel, and a linear layer."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    generator = np.random.default_rng(0)
    weights = [generator.normal(size=shape).astype(kind) for shape in ((3, 5), (5,))]
    element = onnx.TensorProto.FLOAT if kind is np.float32 else onnx.TensorProto.FLOAT16
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["means"]),
            helper.make_node("Flatten", ["means"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w", "b"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", element, [rows, 3, side, side])],
        [helper.make_tensor_value_info("y", element, [rows, 5])],
        [numpy_helper.from_array(each, name) for each, name in zip(weights, "wb", strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


@pytest.mark.parametrize("file", ["net.onnx", "net.bin"])
def test_onnx(file: str, here: Path) -> None:
    onnx_file(file)
    document = explained(
        "--model", file, "--labels", "classes.json", "--mean", "0.5", "--std", "0.25", methods="occlusion"
    )
    assert one(document)["target"]["label"] in CLASSES and UNNORMALISED not in notes(document)
    model = load_model(file, labels=CLASSES)
    assert model.preprocessing.sides == (24, 24) and model.preprocess("cat.png").shape == (1, 3, 24, 24)
    assert isinstance(model, ll.BlackBox)


def test_onnx_without_a_normalisation_says_so_and_has_its_own_default_methods(here: Path) -> None:
    onnx_file("net.onnx")
    result = run("explain", "cat.png", "--model", "net.onnx", "--no-progress", "--check-rows", "0")
    assert result.exit_code == 0, result.output
    assert "CAUTION" in result.stdout and UNNORMALISED in result.stdout and "occlusion" in result.stdout
    refused = run("explain", "cat.png", "--model", "net.onnx", "-m", "gradient", "--no-progress")
    assert refused.exit_code == 1 and "black box" in refused.output


@pytest.mark.parametrize("command", ["check", "sweep", "models"])
def test_other_commands_take_onnx(command: str, here: Path) -> None:
    onnx_file("net.onnx")
    match command:
        case "check":
            result = run("check", "cat.png", "--model", "net.onnx", "-m", "occlusion", "-c", "gini", "--no-progress")
            assert result.exit_code == 0, result.output
        case "sweep":
            fields = ("-m", "occlusion", "-f", "window=8,12", "--no-progress")
            result = run("sweep", "cat.png", "--model", "net.onnx", *fields)
            assert result.exit_code == 0, result.output
        case _:
            result = run("models", "net.onnx", "--layers", "--picture", "cat.png")
            assert result.exit_code == 1 and "no layers" in result.output


def test_onnx_in_half_precision_and_of_a_fixed_number_of_rows(here: Path) -> None:
    onnx_file("half.onnx", np.float16)
    onnx_file("fixed.onnx", rows=2)
    scores = [
        one(explained("--model", file, methods="occlusion"))["maps"][0]["score"] for file in ("half.onnx", "fixed.onnx")
    ]
    assert scores[0] == pytest.approx(scores[1], rel=5e-3)


# TorchScript and exported programs


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("file", ["net.pt", "net.ts", "net"])
def test_torchscript(file: str, here: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(small(), torch.rand(1, 3, 24, 24)).save(file)
    options = ("--model", f"./{file}", "--size", "24", "--labels", "classes.json")
    document = explained(*options, methods="gradient,integrated-gradients(midpoint(8)),occlusion")
    x = load_model(f"./{file}", size=24).preprocess("cat.png")
    expected = ll.explain(small(), x, "gradient")
    assert one(document)["target"]["label"] == CLASSES[int(expected.target[0])]
    assert torch.allclose(
        ll.explain(load_model(f"./{file}", size=24), x, "gradient").values, expected.values, atol=1e-6
    )


def exported(rows: int | None = None) -> Any:
    shapes = ({0: torch.export.Dim("rows")},) if rows is None else None
    return torch.export.export(small(), (torch.rand(rows or 2, 3, 24, 24),), dynamic_shapes=shapes)


@pytest.mark.parametrize("rows", [None, 1])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_exported_program(rows: int | None, here: Path) -> None:
    torch.export.save(exported(rows), "net.pt2")
    document = explained("--model", "net.pt2", "--labels", "classes.json", methods="gradient,occlusion")
    model = load_model("net.pt2")
    assert model.preprocessing.sides == (24, 24)
    x = model.preprocess("cat.png")
    expected = ll.explain(small(), x, "gradient")
    assert one(document)["target"]["label"] == CLASSES[int(expected.target[0])]
    assert torch.allclose(ll.explain(model, x, "gradient").values, expected.values, atol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_default_methods_leave_out_what_programs_lack(here: Path) -> None:
    torch.export.save(exported(), "net.pt2")
    result = run("explain", "cat.png", "--model", "net.pt2", "--no-progress", "--check-rows", "0")
    assert result.exit_code == 0, result.output
    assert "grad-cam" in result.stderr and "layers" in result.stderr


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("place", ["sample inputs", "a weight", "a weight named as a text"])
def test_an_exported_program_that_holds_a_pickle_is_refused(place: str, here: Path) -> None:
    torch.export.save(exported(), "net.pt2")
    torch.save(Harm(), "harm.pt")
    with zipfile.ZipFile("net.pt2") as whole:
        records = {name.partition("/")[2]: whole.read(name) for name in whole.namelist()}
    if place == "sample inputs":
        records["data/sample_inputs/model.pt"] = Path("harm.pt").read_bytes()
    else:
        listed = json.loads(records["data/weights/model_weights_config.json"])
        file = "weight_0" if place == "a weight" else "version.json"
        next(iter(listed["config"].values())).update(use_pickle=True, path_name=file)
        records["data/weights/model_weights_config.json"] = json.dumps(listed).encode()
        records[f"data/weights/{file}"] = Path("harm.pt").read_bytes()
    with zipfile.ZipFile("bad.pt2", "w") as bad:
        for name, content in records.items():
            bad.writestr(f"net/{name}", content)
    with pytest.raises(ModelError, match="never unpickles"):
        load_model("bad.pt2")


def test_files_that_are_no_network(here: Path) -> None:
    torch.save(small().state_dict(), "weights.pt")
    save_file(small().state_dict(), "weights.safetensors")
    for file in ("weights.pt", "weights.safetensors"):
        with pytest.raises(ModelError, match=r"weights alone.*weights="):
            load_model(file)
    with pytest.raises(ModelError, match="no such file"):
        load_model("none.onnx")
    Path("noise.onnx").write_bytes(bytes(range(8, 200)))
    with pytest.raises(ModelError, match=r"noise.onnx"):
        load_model("noise.onnx")
    torch.save(small(), "whole.pt")
    with pytest.raises(ModelError, match=r"never unpickles"):
        load_model("whole.pt")


# Factories


FACTORIES = """
import torch
from torch import nn
from tests.test_own_models import small

def tuned():
    import timm
    torch.manual_seed(2)
    return timm.create_model("resnet18", num_classes=5)

def grey(): return small(1)
def bands(): return small(13)
def wide(): return nn.Sequential(*list(small())[:4], nn.Flatten(), nn.Linear(8 * 5 * 9, 5))
def plain(): return small()
def hf():
    from transformers import ViTForImageClassification
    return ViTForImageClassification.from_pretrained("my-vit")
"""


@pytest.fixture
def factories(here: Path) -> str:
    (here / "own_factories.py").write_text(FACTORIES)
    return "own_factories"


def test_a_timm_factory_brings_its_normalisation(factories: str) -> None:
    network = fine_tuned("timm")
    wrapped = ImageModel(network, Preprocessing(224, 0.95, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))
    model = load_model(f"{factories}:tuned")
    x = model.preprocess("cat.png")
    mine, right = (ll.explain(each, x, "gradient") for each in (model, wrapped.eval()))
    assert int(mine.target[0]) == int(right.target[0])
    assert torch.allclose(mine.values, right.values, atol=1e-6) and not mine.cautions
    configuration = pytest.importorskip("timm").data.resolve_data_config(model=network)
    theirs = pytest.importorskip("timm").data.create_transform(**configuration)(Image.open("cat.png"))
    assert torch.allclose((x - model.mean) / model.std, theirs[None], atol=1e-5)


def test_a_transformers_factory_brings_its_folders(factories: str) -> None:
    saved(vit(), "my-vit", VIT_PROCESSOR)
    model = load_model(f"{factories}:hf")
    assert model.labels == CLASSES and model.preprocessing.mean == (0.4, 0.5, 0.6)


def test_a_plain_factory_says_that_nothing_is_known(factories: str) -> None:
    document = explained("--model", f"{factories}:plain", "--size", "24x24")
    assert UNNORMALISED in notes(document)
    model = load_model(f"{factories}:plain", size=24)
    a = ll.explain(model, model.preprocess("cat.png"), "gradient")
    assert [note.kind for note in a.cautions] == ["caution"] and UNNORMALISED in a.cautions[0]
    prepared = ll.explain(ll.prepare(model), model.preprocess("cat.png"), "gradient")
    assert prepared.cautions == a.cautions
    told = load_model(f"{factories}:plain", size=24, mean=0.5, std=(0.2, 0.3, 0.4))
    assert told.preprocessing.mean == (0.5, 0.5, 0.5) and told.preprocessing.std == (0.2, 0.3, 0.4)
    assert not ll.explain(told, told.preprocess("cat.png"), "gradient").cautions


# Other inputs than square pictures in colour


def test_a_one_channel_network(factories: str) -> None:
    model = load_model(f"{factories}:grey", size=32, channels=1, mean=0.5, std=0.25)
    x, _, picture = model.prepare("cat.png")
    assert x.shape == (1, 1, 32, 32) and "colour reduced to grey" in picture.notes
    grey = Image.open("cat.png").convert("L")
    grey.save("grey.png")
    again, _, picture = model.prepare("grey.png")
    assert torch.equal(x, again) and picture.notes == ()
    options = ("--model", f"{factories}:grey", "--size", "32", "--channels", "1", "--mean", "0.5", "--std", "0.25")
    document = explained(*options, methods="gradient,occlusion,grad-cam,lime")
    assert one(document)["target"]["class"] == int(model(x).argmax())
    a = ll.explain(model, x, "gradient")
    assert a.values.shape == (1, 1, 32, 32) and a.show().width and "<figure" in a._panel()._repr_html_()
    with pytest.raises(ValueError, match=r"\(rows, 1, H, W\)"):
        model(torch.rand(1, 3, 32, 32))
    checked = run("check", "cat.png", *options, "-m", "gradient", "-c", "gini", "--no-progress")
    assert checked.exit_code == 0, checked.output


def test_channels_of_a_checkpoint(here: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("resnet18", in_chans=1, num_classes=5).state_dict(), "xray.pth")
    model = load_model("timm:resnet18", weights="xray.pth", labels="classes.json")
    assert model.preprocess("cat.png").shape == (1, 1, 224, 224)
    assert UNNORMALISED in model.loading_notes[0]  # the mean of three colours is none of one channel
    pytest.importorskip("torchvision")
    with pytest.raises(ModelError, match=r"1 channel"):
        load_model("torchvision:resnet18", weights="xray.pth")


def test_a_thirteen_band_network(factories: str) -> None:
    model = load_model(f"{factories}:bands", size=24, channels=13, mean=0.1, std=0.2)
    x = torch.rand(1, 13, 24, 24)
    a = ll.explain(model, x, ["gradient", "occlusion", "grad-cam"])
    assert a["gradient"].values.shape == x.shape and a.show().width
    assert "bands 1, 2 and 3 of 13" in a.save("bands.html").read_text()
    with pytest.raises(ValueError, match=r"13 channels.*\(1, 13, 24, 24\)"):
        model.preprocess("cat.png")
    refused = run("explain", "cat.png", "--model", f"{factories}:bands", "--channels", "13")
    assert refused.exit_code == 1 and "13 channels" in refused.output


def test_a_rectangular_network(factories: str) -> None:
    model = load_model(f"{factories}:wide", size=(24, 40), mean=0.5, std=0.5)
    x, geometry, _ = model.prepare("cat.png")
    assert x.shape == (1, 3, 24, 40) and geometry.crop[2] - geometry.crop[0] == 40
    options = ("--model", f"{factories}:wide", "--size", "24x40", "--mean", "0.5,0.5,0.5", "--std", "0.5")
    document = explained(*options, methods="gradient,occlusion")
    assert one(document)["target"]["class"] == int(model(x).argmax())
    assert document["crop"][2] - document["crop"][0] == 40


@pytest.mark.parametrize(
    "size, fraction, squash, resized, crop",
    [
        ((24, 40), 1.0, False, (40, 30), (0, 3, 40, 27)),
        ((40, 24), 1.0, False, (53, 40), (14, 0, 38, 40)),
        ((24, 40), 0.5, False, (80, 60), (20, 18, 60, 42)),
        ((24, 40), 1.0, True, (40, 24), (0, 0, 40, 24)),
        (30, 0.5, False, (80, 60), (25, 15, 55, 45)),
    ],
)
def test_geometry_of_sizes(size: Any, fraction: float, squash: bool, resized: Any, crop: Any) -> None:
    picture = open_image(np.zeros((300, 400, 3), np.uint8))
    pixels, geometry = prepare(picture, Preprocessing(size, fraction, squash=squash))
    assert (geometry.resized, geometry.crop) == (resized, crop)
    assert pixels.shape[2:] == (crop[3] - crop[1], crop[2] - crop[0])


@pytest.mark.parametrize("resize", [32, "squash"])
def test_resize(resize: Any, factories: str) -> None:
    model = load_model(f"{factories}:plain", size=24, resize=resize)
    assert model.prepare("cat.png")[1].resized == ((24, 24) if resize == "squash" else (42, 32))
    result = explained("--model", f"{factories}:plain", "--size", "24", "--resize", str(resize))
    assert result["resized"] == list(model.prepare("cat.png")[1].resized)


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("crop", [1.0, 0.9, 0.875])
@pytest.mark.parametrize("size", [(48, 32), (32, 48), (32, 32)])
def test_timm_preprocessing_of_any_proportions(mode: str, crop: float, size: tuple[int, int], here: Path) -> None:
    timm = pytest.importorskip("timm")
    from limelight.models.libraries import timm_preprocessing

    configuration = {"input_size": (3, *size), "crop_mode": mode, "crop_pct": crop, "interpolation": "bicubic"}
    configuration |= {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}
    ours = prepare(open_image("cat.png"), timm_preprocessing(configuration, "timm:any"))[0]
    theirs = timm.data.create_transform(**configuration)(Image.open("cat.png"))[None]
    mean, std = (torch.tensor(configuration[name]).view(3, 1, 1) for name in ("mean", "std"))
    assert torch.allclose((ours - mean) / std, theirs, atol=1e-5)


# Labels


@pytest.mark.parametrize(
    "file, text",
    [
        ("a.json", json.dumps(CLASSES)),
        ("b.json", json.dumps({str(place): name for place, name in enumerate(CLASSES)})),
        ("c.json", json.dumps({name: place for place, name in enumerate(CLASSES)})),
        ("d.txt", "\n".join(CLASSES) + "\n"),
        ("e.txt", "\ufeff" + "\r\n".join(CLASSES)),
    ],
)
def test_labels_from_files(file: str, text: str, factories: str) -> None:
    Path(file).write_text(text, encoding="utf-8")
    assert load_model(f"{factories}:plain", size=24, labels=file).labels == CLASSES
    assert load_model(f"{factories}:plain", size=24, labels=list(CLASSES)).labels == CLASSES


def test_labels_that_do_not_fit(factories: str) -> None:
    with pytest.raises(ModelError, match=r"3 labels.*5 outputs"):
        load_model(f"{factories}:plain", size=24, labels=("a", "b", "c"))
    for text, words in (
        ('{"0": "a", "2": "b"}', "0 to 1"),
        ('{"a": 0, "b": 0}', "0 to 1"),
        ("[1, 2]", "names"),
        ("3", "a list of names"),
        ("{", "JSON"),
    ):
        Path("bad.json").write_text(text)
        with pytest.raises(ModelError, match=words):
            load_model(f"{factories}:plain", size=24, labels="bad.json")
    with pytest.raises(ModelError, match="no such file"):
        load_model(f"{factories}:plain", size=24, labels="none.txt")
    with pytest.raises(ModelError, match=r"use .json or .txt"):
        load_model(f"{factories}:plain", size=24, labels="classes.csv")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"mean": (0.5, 0.5)}, "mean.*2 numbers.*3 channels"),
        ({"std": 0}, "std"),
        ({"size": (0, 3)}, "size"),
        ({"size": (1, 2, 3)}, "size"),
        ({"channels": 0}, "channels"),
        ({"resize": 16, "size": 24}, "resize.*24"),
        ({"resize": "crop"}, "resize.*squash"),
        ({"device": "gpu"}, "device.*auto"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], words: str, factories: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_model(f"{factories}:plain", **options)


def test_option_texts_that_do_not_fit(factories: str) -> None:
    for option, text in (("--size", "axb"), ("--mean", "a,b"), ("--resize", "crop"), ("--device", "gpu")):
        result = run("explain", "cat.png", "--model", f"{factories}:plain", option, text)
        assert result.exit_code in (1, 2) and option.strip("-") in result.output, result.output


# Devices, runs and the page


def test_device_auto(factories: str) -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert load_model(f"{factories}:plain", size=24, device="auto").mean.device.type == expected
    for command in ("explain", "check", "sweep", "run", "serve", "patterns", "models"):
        help_text = run(command, "--help").stdout
        for option in ("--weights", "--labels", "--mean", "--std", "--size", "--channels", "--resize", "--device"):
            assert option in help_text, (command, option)


def test_a_run_takes_the_same_options(factories: str) -> None:
    pytest.importorskip("pyarrow")
    Path("pictures").mkdir()
    Image.open("cat.png").save("pictures/cat.png")
    options = ("--model", f"{factories}:grey", "--size", "24x32", "--channels", "1", "--labels", "classes.json")
    result = run(
        *("run", "--images", "pictures", "--output", "out", "-m", "gradient", "--workers", "0", "--no-progress"),
        *options,
    )
    assert result.exit_code == 0, result.output
    found = ll.open_run("out")
    assert found[0].values.shape == (1, 24, 32) and found.picture(0).shape == (1, 24, 32)
    assert found[0].first.row["predicted"] in CLASSES and found.show(0).width
    assert UNNORMALISED in found[0].first.row["notes"]


@pytest.mark.long
def test_a_run_loads_files_in_its_workers(here: Path) -> None:
    pytest.importorskip("pyarrow")
    torch.export.save(exported(), "net.pt2")
    onnx_file("net.onnx")
    Path("pictures").mkdir()
    Image.open("cat.png").save("pictures/cat.png")
    declared: dict[str, Any] = {"labels": "classes.json", "mean": 0.5, "std": 0.25}
    for model, method in (("net.pt2", "gradient"), ("./net.onnx", ll.Occlusion(8, 8))):
        found = ll.run("pictures", model, method, output=f"out-{Path(model).suffix}", workers=1, declared=declared)
        row = found[0].first.row
        assert row["predicted"] in CLASSES and not row["error"] and UNNORMALISED not in row["notes"]
        with pytest.raises(ValueError, match="preprocessing"):  # another normalisation is another run
            ll.run("pictures", model, method, output=f"out-{Path(model).suffix}", workers=1, declared={"mean": 0.4})


def test_the_page_shows_other_models(here: Path, factories: str) -> None:
    testclient = pytest.importorskip("fastapi.testclient")
    from limelight.server.app import create_app

    saved(vit(), "my-vit", VIT_PROCESSOR)
    onnx_file("net.onnx")
    names: list[tuple[str, dict[str, Any], str]] = [
        (f"{factories}:grey", {"channels": 1, "size": (24, 32)}, "gradient"),
        ("./my-vit", {}, "gradient"),
        ("net.onnx", {}, "occlusion"),
    ]
    for name, options, method in names:
        client = testclient.TestClient(create_app(load_model(name, **options)), base_url="http://127.0.0.1:8765")
        png = {"content-type": "image/png", "origin": "http://127.0.0.1:8765"}
        picture = client.post("/api/pictures", content=Path("cat.png").read_bytes(), headers=png).json()
        question = {"pictures": [picture["id"]], "methods": [{"name": method}], "tests": False}
        headers = {"content-type": "application/json", "origin": "http://127.0.0.1:8765"}
        answer = client.post("/api/explain", content=json.dumps(question), headers=headers)
        assert "event: map" in answer.text, (name, answer.text[:500])
        assert client.get("/api/form").status_code == 200
