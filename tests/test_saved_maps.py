"""Saved maps have a digest: what is not as it was written is refused, and old files are read."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import limelight as ll
from limelight.base.errors import DamagedFile
from limelight.cli.main import app

OLD = sorted((Path(__file__).parent / "fixtures" / "format1").glob("*.safetensors"))


@pytest.fixture(scope="module")
def panel() -> ll.Panel:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    return ll.explain(network, torch.randn(2, 4), ["gradient", "integrated-gradients"], target=1)


def _load(path: Path) -> ll.Attribution | ll.Panel:
    return ll.Panel.load(path) if path.suffix == ".npz" else ll.Attribution.load(path)


def _verified(path: Path) -> tuple[int, str]:
    made = CliRunner().invoke(app, ["verify", str(path)])
    return made.exit_code, made.stdout


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_no_flipped_bit_of_a_saved_map_is_believed(suffix: str, panel: ll.Panel, tmp_path: Path) -> None:
    path = (panel if suffix == ".npz" else panel[0]).save(tmp_path / f"map{suffix}")
    content, draw = path.read_bytes(), random.Random(0)
    assert _verified(path)[0] == 0
    ends = [content[:length] for length in range(0, len(content), 97)]
    for place in range(0, len(content), 3):
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        ends.append(bytes(changed))
    for each in ends:
        path.write_bytes(each)
        with pytest.raises(ValueError, match="path: "):
            _load(path)
    assert _verified(path)[0] == 1


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_changed_number_is_named(suffix: str, panel: ll.Panel, tmp_path: Path) -> None:
    path = (panel if suffix == ".npz" else panel[0]).save(tmp_path / f"map{suffix}")
    content = path.read_bytes()
    value = panel[0].values.numpy().tobytes()
    assert value in content
    path.write_bytes(content.replace(value, value[:-1] + bytes([value[-1] ^ 1])))
    with pytest.raises(DamagedFile, match=rf"map\{suffix}' is damaged \(its digest is not that of its content\)"):
        _load(path)
    code, said = _verified(path)
    assert code == 1 and "lost: " in said and "save the map again" in said


def test_the_record_beside_a_map_is_compared(panel: ll.Panel, tmp_path: Path) -> None:
    folder = panel.save(tmp_path / "maps.safetensors")
    assert _verified(folder) == (0, f"{folder}: whole\n  whole: 2 files\n")
    beside = folder / "gradient.json"
    assert json.loads(beside.read_text())["format"] == 3
    beside.write_text(beside.read_text().replace('"format": 3', '"format": 4'))
    code, said = _verified(folder)
    assert code == 1 and "gradient.json: it is not the record in gradient.safetensors" in said


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_files_of_format_1_are_read_and_said_to_be_unsealed(path: Path) -> None:
    assert ll.Attribution.load(path).values.isfinite().all()
    code, said = _verified(path)
    assert code == 0 and f"unsealed: {path} has no digest, since an older version wrote it" in said


def _as_format_2(path: Path) -> None:
    """Write a map as the version before wrote it: the same without a digest."""
    if path.suffix == ".npz":
        with np.load(path) as opened:
            arrays = dict(opened)
        record = json.loads(str(arrays.pop("limelight")))
        np.savez(path, **{**arrays, "limelight": np.array(json.dumps({**record, "format": 2}))})
        return
    with safe_open(path, "pt") as opened:
        record = json.loads(opened.metadata()["limelight"])
    del record["digest"]
    save_file(load_file(path), path, {"limelight": json.dumps({**record, "format": 2}, indent=1)})


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_files_of_format_2_are_read_and_said_to_be_unsealed(suffix: str, panel: ll.Panel, tmp_path: Path) -> None:
    path = (panel if suffix == ".npz" else panel[0]).save(tmp_path / f"map{suffix}")
    _as_format_2(path)
    found = _load(path)
    first = found[0] if isinstance(found, ll.Panel) else found
    assert torch.equal(first.values, panel[0].values) and first.notes == panel[0].notes
    code, said = _verified(path)
    assert code == 0 and "unsealed: " in said
