"""Networks in files that hold the whole of them: ONNX, TorchScript, exported programs.

A file is recognised by its content. TorchScript and ONNX run as programs of their own; of an exported program every
part that torch would unpickle is checked to hold tensors alone first.
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import zipfile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from .black_box import BlackBox
from .image_model import UNNORMALISED, AnyImageModel, ImageBlackBox, ImageModel
from .onnx_model import layout_of, open_session
from .pictures import Preprocessing
from .weights import ModelError, load_tensors, reading

SUFFIXES = (".onnx", ".pt", ".pth", ".ts", ".torchscript", ".pt2", ".ckpt", ".safetensors", ".jit")
"""By which a name that is no file is taken for a missing one."""

_TEXTS = {"archive_format", "archive_version", "byteorder", "version", ".data/version", ".data/serialization_id"}

Format = Literal["onnx", "torchscript", "exported", "weights"]


def looks_like_a_path(name: str) -> bool:
    """Whether a model's name is meant as a file or a folder."""
    path = Path(name)
    if path.suffix.lower() in SUFFIXES or name.startswith(("./", "../", "/")):
        return True
    if path.is_dir():
        return (path / "config.json").is_file() or name != path.name
    return path.is_file() and name != path.stem


def is_exported(model: ImageModel) -> bool:
    """Whether its network is an exported program, which has its modes fixed and refuses `.eval()`."""
    return isinstance(model.network, torch.fx.GraphModule) and "eval" in vars(model.network)


def load_file(path: Path) -> AnyImageModel:
    """Load the network that a file holds. Raises ModelError for weights alone, and for what is no network."""
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder")
    match _format(path):
        case "onnx":
            return _from_onnx(path)
        case "torchscript":
            return ImageModel(_from_torchscript(path), name=str(path))
        case "exported":
            return _from_exported(path)
        case _:
            with reading(path, "model"):
                _require_tensors(path)
            raise ModelError(
                f"{path} holds weights alone; name the network too: load_model('timm:resnet18', "
                f"weights={str(path)!r}), on the command line --model timm:resnet18 --weights {path}"
            )


def _format(path: Path) -> Format:
    """Recognise a file by its content."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("constants.pkl") for name in names):
            return "torchscript"
        exported = any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names)
        return "exported" if exported else "weights"
    with path.open("rb") as file:
        start = file.read(2)
    # A message of Protocol Buffers whose first field, ONNX's ir_version, is a small number.
    return "onnx" if path.suffix.lower() == ".onnx" or (start[:1] == b"\x08" and start[1:] < b"\x20") else "weights"


def _require_tensors(path: Path) -> None:
    if path.suffix.lower() != ".safetensors":
        load_tensors(path)


def _from_torchscript(path: Path) -> nn.Module:
    with reading(path, "model"):
        found: nn.Module = torch.jit.load(str(path), map_location="cpu")
    return found


def _from_exported(path: Path) -> ImageModel:
    content = path.read_bytes()
    with reading(path, "model"):
        _refuse_pickles(content)
        program = torch.export.load(io.BytesIO(content))
    inputs = program.graph_signature.user_inputs
    shapes = [
        node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs
    ]
    if len(shapes) != 1:
        raise ModelError(f"{path}: the exported program has {len(shapes)} inputs; use one with a single input")
    # Not .eval(), which it refuses: the mode is that in which it was exported.
    found = ImageModel(program.module(), name=str(path))
    found.training = False
    shape = [each if isinstance(each, int) else None for each in shapes[0]]
    return found.described(_of_shape(shape), (), found.loading_notes)


def _refuse_pickles(content: bytes) -> None:
    """Raise pickle.UnpicklingError for an exported program that holds more than tensors.

    `torch.export.load` unpickles what it finds, whatever it is; these are the same bytes by the same reader.
    """
    reader = torch._C.PyTorchFileReader(io.BytesIO(content))
    names: list[str] = reader.get_all_records()
    plain, pickled = set[str](), set[str]()
    for name in names:
        if name.endswith(("_weights_config.json", "_constants_config.json")):
            for entry in json.loads(reader.get_record(name))["config"].values():
                place = posixpath.join(posixpath.dirname(name), entry["path_name"])
                (plain if entry["use_pickle"] is False else pickled).add(place)
    texts = {name for name in names if name in _TEXTS or name.endswith(".json")}
    for name in names:
        if name in pickled or name not in plain | texts:
            load_tensors(io.BytesIO(reader.get_record(name)))


def _from_onnx(path: Path) -> ImageBlackBox:
    try:
        session = open_session(path)
    except ImportError as error:
        raise ModelError(f"{path}: {str(error).removeprefix('model: ')}") from error
    except Exception as error:  # onnxruntime has a dozen errors without a common class but this one
        raise ModelError(f"{path}: onnxruntime cannot load it: {error}") from error
    try:
        box = BlackBox.from_onnx(session)
    except ValueError as error:
        raise ModelError(f"{path}: {str(error).removeprefix('model: ')}") from error
    given = session.get_inputs()[0]
    shape = [each if isinstance(each, int) else None for each in given.shape]
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "blake2b").hexdigest()
    found = ImageBlackBox.of(box, name=str(path), content=content)
    takes_bytes = given.type == "tensor(uint8)"  # which are a picture's own, 0 to 255
    notes = [note for note in found.loading_notes if not (takes_bytes and note == UNNORMALISED)]
    return found.described(_of_shape(shape), (), notes)


def _of_shape(shape: list[Any]) -> Preprocessing:
    """Return the preprocessing for an input of this shape, with None for axes of any length; channels first or last."""
    if len(shape) != 4:
        return Preprocessing()
    _, channels, height, width = shape
    if layout_of(shape) == "NHWC":
        channels, height, width = width, channels, height
    sides = (height or 224, width or height or 224)
    return Preprocessing(sides, mean=(0.0,) * (channels or 3), std=(1.0,) * (channels or 3))
