"""What a user says about a model beside its file: labels, normalisation, size, channels."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, TypedDict

import torch

from .image_model import UNNORMALISED, AnyImageModel
from .pictures import Preprocessing
from .weights import ModelError

Labels = str | os.PathLike[str] | Sequence[str]
Numbers = float | Sequence[float]
SQUASH = "squash"


class Declaration(TypedDict, total=False):
    """The options of `load_model` about inputs and outputs, as `run` and the commands pass them on."""

    labels: Labels | None
    mean: Numbers | None
    std: Numbers | None
    size: int | Sequence[int] | None
    channels: int | None
    resize: int | str | None


@dataclass(frozen=True)
class Declared:
    """The options read: names of classes, numbers for each channel, (height, width); None for what was not said.

    Raises ModelError that names the option.
    """

    labels: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    channels: int | None = None
    resize: int | str | None = None

    @staticmethod
    def of(
        labels: Labels | None = None,
        mean: Numbers | None = None,
        std: Numbers | None = None,
        size: int | Sequence[int] | None = None,
        channels: int | None = None,
        resize: int | str | None = None,
    ) -> Declared:
        if channels is not None and channels < 1:
            raise ModelError(f"channels={channels}: use a whole number of 1 or more")
        if resize is not None and resize != SQUASH and not (isinstance(resize, int) and resize >= 1):
            raise ModelError(f"resize={resize!r}: use the length of the shorter side before cropping, or {SQUASH!r}")
        return Declared(
            None if labels is None else read_labels(labels),
            _numbers("mean", mean),
            _numbers("std", std),
            _size(size),
            channels,
            resize,
        )

    @property
    def normalises(self) -> bool:
        """Whether the normalisation was said."""
        return self.mean is not None or self.std is not None

    def of_inputs(self, known: Preprocessing) -> Preprocessing:
        """Return the preprocessing with what was said in place of what was known."""
        channels = self.channels or max(len(self.mean or ()), len(self.std or ()), known.channels)
        same = channels == known.channels
        found = replace(
            known,
            mean=self._spread("mean", channels, known.mean if same else (0.0,) * channels),
            std=self._spread("std", channels, known.std if same else (1.0,) * channels),
            size=known.size if self.size is None else self.size,
        )
        if self.resize is None:
            return found
        if isinstance(self.resize, str):
            return replace(found, squash=True, crop_fraction=1.0)
        shorter = min(found.sides)
        if self.resize < shorter:
            raise ModelError(
                f"resize={self.resize} is less than the size {shorter} to crop from it; use {shorter} or more"
            )
        return replace(found, squash=False, crop_fraction=shorter / self.resize)

    def of_model(self, model: AnyImageModel) -> AnyImageModel:
        """Describe the model by what was said. Raises ModelError for labels that do not fit its outputs."""
        known = model.preprocessing
        preprocessing = self.of_inputs(known)
        notes = [note for note in model.loading_notes if note != UNNORMALISED]
        was_known = len(notes) == len(model.loading_notes) and preprocessing.channels == known.channels
        if not (was_known or self.normalises):
            notes.append(UNNORMALISED)
        found = model.described(preprocessing, model.labels if self.labels is None else self.labels, notes)
        if self.labels is not None:
            require_labels(found, self.labels)
        return found

    def _spread(self, field: str, channels: int, known: tuple[float, ...]) -> tuple[float, ...]:
        """Return the numbers of a field, one for each channel; a single one is for all."""
        given: tuple[float, ...] | None = getattr(self, field)
        if given is None:
            return known
        if len(given) not in (1, channels):
            raise ModelError(
                f"{field}={given} has {len(given)} numbers for {channels} channels; give one or {channels}"
            )
        return given * channels if len(given) == 1 else given


def read_labels(labels: Labels) -> tuple[str, ...]:
    """Return the names of classes in the order of the outputs: a sequence of them, or a .json or .txt file.

    The .json holds a list, or a mapping from numbers to names or from names to numbers; the .txt has a name a line.
    Raises ModelError that names the file.
    """
    if not isinstance(labels, str | os.PathLike):
        return _all_names(list(labels), "labels")
    path = Path(labels)
    place = f"labels={str(path)!r}"
    suffix = path.suffix.lower()
    if suffix not in (".json", ".txt"):
        raise ModelError(f"{place}: suffix {path.suffix!r}; use .json or .txt, or a sequence of names")
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = json.loads(text) if suffix == ".json" else text.rstrip("\n").splitlines()
    except FileNotFoundError as error:
        raise ModelError(f"{place}: no such file") from error
    except OSError as error:
        raise ModelError(f"{place}: {error}") from error
    except json.JSONDecodeError as error:
        raise ModelError(f"{place}: no JSON ({error})") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{place}: not in UTF-8 ({error.reason}); save it as UTF-8") from error
    if isinstance(found, dict):
        return _in_order(found, place)
    if not isinstance(found, list):
        raise ModelError(
            f"{place}: holds {type(found).__name__}; use a list of names, or a mapping of numbers and names"
        )
    return _all_names(found, place)


def _all_names(found: list[Any], place: str) -> tuple[str, ...]:
    wrong = next((each for each in found if not isinstance(each, str)), None)
    if wrong is not None:
        raise ModelError(f"{place}: {wrong!r} among the names is no text; use names of classes")
    return tuple(found)


def _in_order(found: dict[str, Any], place: str) -> tuple[str, ...]:
    """Order a mapping from numbers to names, or from names to numbers."""
    by_number: dict[Any, Any]
    if all(isinstance(value, int) for value in found.values()):
        by_number = {number: name for name, number in found.items()}
    else:
        by_number = {int(key) if key.isdecimal() else key: value for key, value in found.items()}
    if set(by_number) != set(range(len(found))):
        raise ModelError(f"{place}: its numbers of classes are not 0 to {len(found) - 1}, each once")
    return _all_names([by_number[place] for place in range(len(found))], place)


def require_labels(model: AnyImageModel, labels: Sequence[str]) -> None:
    """Raise ModelError unless there is a label for each output; one grey picture is run to count them.

    Outputs that are no scores of classes, such as a detector's boxes, have any number of labels.
    """
    preprocessing = model.preprocessing
    pixels = torch.full((1, *preprocessing.shape), 0.5).to(model.mean)
    with torch.no_grad():
        found = model(pixels)
    outputs = found if isinstance(found, torch.Tensor) else getattr(found, "logits", None)
    if not isinstance(outputs, torch.Tensor) or outputs.ndim not in (2, 4):
        return
    if outputs.shape[1] != len(labels):
        raise ModelError(
            f"labels: {len(labels)} labels for {outputs.shape[1]} outputs of {model.name}; give one for each"
        )


def _numbers(field: str, given: Numbers | None) -> tuple[float, ...] | None:
    if given is None:
        return None
    found = tuple(float(each) for each in ([given] if isinstance(given, Real) else given))  # type: ignore[union-attr]  # else several
    if not found or (field == "std" and min(found) <= 0):
        raise ModelError(f"{field}={given!r}: use a number{' above 0' * (field == 'std')}, or one for each channel")
    return found


def _size(given: int | Sequence[int] | None) -> tuple[int, int] | None:
    if given is None:
        return None
    sides = (given, given) if isinstance(given, int) else tuple(given)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ModelError(f"size={given!r}: use a whole number of pixels, or two: (height, width)")
    return sides[0], sides[1]
