"""The job of a run: the objects that the workers need, and the settings as texts that identify the run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from hashlib import blake2b
from importlib.metadata import version
from typing import Any, Literal, get_args

import numpy as np
import PIL
import torch
from torch import Tensor, nn

from ..base.devices import as_device
from ..base.named import Named
from ..base.types import Arithmetic, Outputs
from ..base.version import versions
from ..checks import Check
from ..engine.budget import MOST_ROWS
from ..engine.layers import layer_names, modules_of
from ..methods import Method
from ..models.catalogue import AnyImageModel, Declaration, ImageModel, load_model
from ..models.text import TextModel
from ..models.text_models import load_text_model
from ..models.weights import bytes_of, state_bytes
from ..question.baselines import Baseline
from ..question.question import Options, require_arithmetic
from ..question.readings import require_outputs
from ..question.targets import Target
from ..question.text_targets import Continuation
from .manifest import HASH_BYTES, content_hash

Store = Literal["values", "heatmap-float16", "scores"]
STORES: tuple[Store, ...] = get_args(Store)
LABEL = "label"
"""The target that explains each example's own label."""
_PLAIN_SETTINGS = ("layer", "seed", "store", "shard_size", "group", "rows_per_pass", "threads", "device", "limit")
_MOST_FACTOR = 4  # of the rows of large pictures; with more, passes of small pictures became slower again


@dataclass(frozen=True)
class Job:
    """The arguments of `run` that a worker needs; sent to it by pickle.

    `model`: a name, which each worker loads with what is `declared` of it, or the model itself. `target` None: the top
    class of each picture. `text_column`: examples are the texts of this column of a table; `baseline` None is then the
    model's own.
    `group` pictures are explained at once, and `rows_per_pass` rows run at once, on `threads` threads of `device`.
    These belong to the settings, because the last bits of a result depend on them. `elsewhere` does not.
    """

    images: str
    model: str | ImageModel | TextModel
    weights: str | None
    methods: tuple[Method, ...]
    checks: tuple[Check, ...]
    target: int | Literal["label"] | Target | None
    baseline: Baseline | None
    layer: str | None
    store: Store
    shard_size: int | None
    group: int
    threads: int
    device: str
    limit: int | None
    seed: int = 0
    rows_per_pass: int | None = None
    draws_of: Tensor | None = None
    arithmetic: Arithmetic | None = None
    outputs: Outputs | None = None
    mask: Tensor | None = None
    white: float | None = None
    declared: Declaration = field(default_factory=Declaration)
    elsewhere: bool = False
    text_column: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError that names the argument."""
        if self.store not in STORES:
            raise ValueError(f"store: {self.store!r}; use {', '.join(map(repr, STORES))}")
        if isinstance(self.target, str) and self.target != LABEL:
            raise ValueError(f"target: {self.target!r}; use the number of a class, a target, {LABEL!r} or None")
        if isinstance(self.target, Target) and self.target.per_example is not None:
            raise ValueError(f"target: {self.target!r} is written for {self.target.per_example} examples; give one")
        if self.draws_of is not None and len(self.draws_of) != 1:
            raise ValueError(f"draws_of: {len(self.draws_of)} examples; a run takes one, for all pictures")
        if self.mask is not None and self.mask.ndim != 2:
            raise ValueError(f"mask: shape {tuple(self.mask.shape)}; a run takes one region (H, W), for all pictures")
        for name in ("shard_size", "group", "rows_per_pass", "threads", "limit"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name}: {value!r}; use 1 or more, a whole number")
        if type(self.seed) is not int:  # an audit draws by it too
            raise ValueError(f"seed: {self.seed!r}; use a whole number")
        if self.white is not None and not (isinstance(self.white, int | float) and 0 < self.white < math.inf):
            raise ValueError(f"white: {self.white!r}; use the value of white in the files, such as 4095 for 12 bits")
        self._require_fitting_texts()
        require_arithmetic(self.arithmetic)
        require_outputs(self.outputs)
        if len(set(self.method_names)) < len(self.methods) or len(set(self.check_names)) < len(self.checks):
            raise ValueError("methods, checks: the same one twice; name each once")

    def _require_fitting_texts(self) -> None:
        """Raise ValueError for a model or an option that does not fit what the run is over."""
        if not self.is_of_texts:
            if isinstance(self.model, TextModel):
                raise ValueError("text_column: None, and the model reads texts; name the column of the table with them")
            return
        if isinstance(self.model, ImageModel):
            raise ValueError(f"text_column: {self.text_column!r}, and {self.model.name} takes pictures")
        of_pictures = {"weights": self.weights, "draws_of": self.draws_of, "mask": self.mask, "white": self.white}
        for name, value in {**of_pictures, **self.declared}.items():
            if value is not None:
                raise ValueError(f"{name}: is for pictures; leave it out with text_column")
        if isinstance(self.target, Continuation) and self.target.each:
            raise ValueError("target: each=True explains several tokens of each text; a run keeps one map, use place=0")

    def require_fitting(self, model: AnyImageModel | TextModel) -> None:
        """Raise ValueError for a layer that the model lacks and a mask of another size: all examples would fail."""
        if self.layer is not None:
            if not isinstance(model, nn.Module):
                raise ValueError(f"layer: {model.name} is a black box and has no layers")
            layer_names(modules_of(model), self.layer)
        if self.mask is not None and not isinstance(model, TextModel):
            sides, shape = model.preprocessing.sides, tuple(self.mask.shape)
            if shape != sides:
                raise ValueError(f"mask: shape {shape}; use {sides}, one region of the model's input for all pictures")

    @property
    def is_of_texts(self) -> bool:
        return self.text_column is not None

    def options(self, labels: Sequence[int | None], rows: int | None) -> Options:
        """Return the options of `explain` for pictures of these labels."""
        own: Options = {} if self.baseline is None else {"baseline": self.baseline}
        return {
            **own,
            "target": labels if self.target == LABEL else self.target,
            "layer": self.layer,
            "seed": self.seed,
            "draws_of": self.draws_of,
            "rows_per_pass": rows,
            "arithmetic": self.arithmetic,
            "outputs": self.outputs,
        }

    def load(self) -> AnyImageModel | TextModel:
        """Load the model in eval mode on the device. Raises ValueError where torch cannot use the device."""
        if self.is_of_texts:
            return self._loaded_for_texts()
        assert not isinstance(self.model, TextModel)
        return loaded(self.model, self.weights, self.device, self.declared)

    def _loaded_for_texts(self) -> TextModel:
        """Raises ValueError also where the model embeds texts and nothing says what they are compared with."""
        assert isinstance(self.model, str | TextModel)
        place = as_device(self.device)
        found = load_text_model(self.model) if isinstance(self.model, str) else self.model
        if self.target is None and not found.labels:
            raise ValueError(
                f"target: {found.name} embeds texts; say what they are compared with: \"similarity('a text')\""
            )
        return found.eval().to(place)

    def rows(self, model: AnyImageModel | TextModel) -> int | None:
        """Return the rows of a pass: `rows_per_pass`, else on the CPU as many as have MOST_ROWS x 224 x 224 pixels.

        At most 32 on the CPU, and of texts always. The number does not depend on a machine's memory, so that all
        workers write the same bits.
        """
        kind = self.device.partition(":")[0]
        most = MOST_ROWS.get(kind)
        if self.rows_per_pass or most is None or kind != "cpu":
            return self.rows_per_pass or most
        if isinstance(model, TextModel):
            return _MOST_FACTOR * most
        return most * max(1, min(_MOST_FACTOR, 224**2 // math.prod(model.preprocessing.sides)))

    def passes(self, model: AnyImageModel | TextModel) -> int | None:
        """Return the forward rows that a picture takes; None where a method or a check decides them as it goes, and
        for texts, where they depend on the length."""
        if isinstance(model, TextModel):
            return None
        shape = torch.Size((model.preprocessing.channels, *model.preprocessing.sides))
        counts = [method.rows(shape) for method in self.methods]
        return None if self.checks or None in counts else 2 + sum(filter(None, counts))  # f(x) and f(baseline)

    @property
    def method_names(self) -> tuple[str, ...]:
        """The methods' names in columns and files."""
        return _names(self.methods)

    @property
    def check_names(self) -> tuple[str, ...]:
        return _names(self.checks)

    def settings(self, model: AnyImageModel | TextModel) -> dict[str, Any]:
        """Return all settings that decide the results, as plain values under the names of the options."""
        found = {
            "images": self.images,
            "model": self.model if isinstance(self.model, str) else model.name,
            **model_identity(model),
            "method": [described(method) for method in self.methods],
            "check": [described(check) for check in self.checks],
            "target": described(self.target) if isinstance(self.target, Target) else self.target,
            "baseline": described(self.baseline),
            **{name: getattr(self, name) for name in _PLAIN_SETTINGS},
            "rows_per_pass": self.rows(model),
        }
        if isinstance(model, TextModel):
            found |= {"text_column": self.text_column, "versions": {**versions(), "tokenizers": version("tokenizers")}}
        else:
            own = {**versions(), "pillow": PIL.__version__}
            found |= {"preprocessing": asdict(model.preprocessing), "versions": own}
        # Listed only where given, so that runs begun before these options existed can be resumed.
        found |= {name: described(given) for name in ("draws_of", "mask") if (given := getattr(self, name)) is not None}
        found |= {
            name: given for name in ("arithmetic", "outputs", "white") if (given := getattr(self, name)) is not None
        }
        plain: dict[str, Any] = json.loads(json.dumps(found))  # tuples become lists, as when it is read again
        return plain


def loaded(
    model: str | ImageModel, weights: str | os.PathLike[str] | None, device: str, declared: Declaration | None
) -> AnyImageModel:
    """Load the model in eval mode on the device. Raises ValueError where torch cannot use the device."""
    place = as_device(device)
    if isinstance(model, str):
        return load_model(model, weights=weights, device=place, **(declared or {}))
    return model.eval().to(place)


@contextmanager
def keeping(model: str | ImageModel | TextModel) -> Iterator[None]:
    """Restore the modes and the device of a model that was passed as a module."""
    if isinstance(model, str):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device if isinstance(model, TextModel) else _device_of(model)
    try:
        yield
    finally:
        model.to(device)
        for module, training in modes:
            module.training = training


def _device_of(model: ImageModel) -> torch.device:
    return next(model.network.parameters(), model.mean).device


def _names(several: Sequence[Method | Check]) -> tuple[str, ...]:
    """Return the names as typed, with all settings where two share a name."""
    plain = [each.kebab() for each in several]
    return tuple(name if plain.count(name) == 1 else described(each) for name, each in zip(plain, several, strict=True))


def described(value: Any) -> str:
    """Write the value as `repr` does, but arrays by their shape, type and a hash of their bytes.

    `repr` leaves out the middle of a large tensor, and digits of every tensor.
    """
    match value:
        case Tensor():
            return f"Tensor({tuple(value.shape)}, {value.dtype}, {content_hash(bytes_of(value))})"
        case np.ndarray():
            return f"ndarray({value.shape}, {value.dtype}, {content_hash(value.tobytes())})"
        case Mapping():
            return "{" + ", ".join(f"{described(key)}: {described(each)}" for key, each in value.items()) + "}"
        case tuple():
            return f"({', '.join(map(described, value))})"
        case list():
            return f"[{', '.join(map(described, value))}]"
        case nn.Module():
            return f"{type(value).__qualname__}({_module_hash(value)})"
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    written = value.without_effect if isinstance(value, Named) else {}
    given = {each: written.get(each.name, getattr(value, each.name)) for each in fields(value) if each.init}
    # What was added later changes nothing at its default.
    kept = (each for each in given if not (each.metadata.get("later") and given[each] == each.default))
    arguments = (f"{each.name}={described(given[each])}" for each in kept)
    return f"{type(value).__qualname__}({', '.join(arguments)})"


def model_identity(model: AnyImageModel | TextModel) -> dict[str, str]:
    """Return the settings that identify a model: hashes of the module, its preprocessing included, of its labels, and
    of a tokenizer."""
    labels = content_hash(json.dumps(model.labels).encode())
    weights = _module_hash(model) if isinstance(model, nn.Module) else content_hash(model.content.encode())
    read = {"tokenizer": content_hash(model.tokenizer.content.encode())} if isinstance(model, TextModel) else {}
    return {"weights": weights, "labels": f"{len(model.labels)} labels, {labels}", **read}


def _module_hash(module: nn.Module) -> str:
    """Hash a module's structure, the plain attributes of each module in it, its parameters and buffers."""
    digest = blake2b(repr(module).encode(), digest_size=HASH_BYTES)
    for name, part in module.named_modules():
        plain = {k: v for k, v in vars(part).items() if k != "training" and isinstance(v, bool | int | float | str)}
        digest.update(f"{name} {sorted(plain.items())!r}".encode())
    for part_of_state in state_bytes(module):
        digest.update(part_of_state)
    return digest.hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Describe each setting that differs in one line."""
    return [
        f"{name} was {old.get(name)!r} and is now {new.get(name)!r}"
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    ]
