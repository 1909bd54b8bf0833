"""The answer with its evidence: Attribution for one method, Panel for several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from .storage import read, write
from .targets import Target

if TYPE_CHECKING:
    from PIL.Image import Image

    from .show.image import Tile

_CAUTIONS = ("NOT converged", "INCOMPLETE", "identically zero", "never hidden", "did not converge")

Reduce = Literal["sum", "abs", "max", "norm"]


@dataclass(frozen=True, eq=False)
class Attribution:
    """A map for each example of a batch, with what it explains, what it cost and what to know about it.

    `values`: `(batch, *features)`; a channel axis of 1 where a method treats a pixel's channels as one.
    `raw`: the map before upsampling, or one value per player; else None. `target`: the classes explained
    `(batch,)`, or the Target. `score`, `baseline_score`: `(batch,)`, f(x) and the mean f(b) over references
    (NaN where the method compares with none). `stderr`: the values' standard error, or None. `spread`: the values'
    standard deviation over several references, or None. `forward_rows`, `backward_rows`: model rows this map needs,
    the shared clean pass included. `outputs`: the model's outputs `(batch, outputs)` at x, where they are vectors.
    `seconds`: what the method's own passes took, without the shared ones.
    """

    values: Tensor
    raw: Tensor | None
    inputs: Tensor
    target: Tensor | Target
    score: Tensor
    baseline_score: Tensor
    stderr: Tensor | None
    spread: Tensor | None
    forward_rows: int
    backward_rows: int
    method: Any
    baseline: Any
    layer: str | None
    seed: int
    versions: Mapping[str, str]
    notes: tuple[str, ...]
    outputs: Tensor | None = None
    complete: bool = False
    seconds: float = 0.0

    @property
    def delta(self) -> Tensor:
        """Completeness `(batch,)`: sum of values minus (score - baseline_score); NaN where no sum is promised."""
        if not self.complete:
            return torch.full_like(self.score, torch.nan)
        total = self.values.double().flatten(1).sum(1)
        return (total - (self.score.double() - self.baseline_score.double())).to(self.score.dtype)

    @property
    def name(self) -> str:
        """The method's name as typed, such as `integrated-gradients`."""
        kebab = getattr(type(self.method), "kebab", None)
        return kebab() if kebab else str(self.method)

    def heatmap(self, reduce: Reduce = "sum") -> Tensor:
        """One value per position, `(batch, H, W)` for pictures: channels summed with their sign, or the sum of
        absolute values ("abs"), the largest absolute value ("max"), or the Euclidean norm ("norm")."""
        if self.values.ndim < 3:
            return self.values
        reduced: dict[str, Callable[[], Tensor]] = {
            "sum": lambda: self.values.sum(1),
            "abs": lambda: self.values.abs().sum(1),
            "max": lambda: self.values.abs().amax(1),
            "norm": lambda: self.values.square().sum(1).sqrt(),
        }
        if reduce not in reduced:
            raise ValueError(f"reduce: {reduce!r}; use {', '.join(map(repr, reduced))}")
        return reduced[reduce]()

    @property
    def cautions(self) -> tuple[str, ...]:
        """The notes that must be read before the map is believed."""
        return tuple(note for note in self.notes if any(word in note for word in _CAUTIONS))

    def caption(self, example: int = 0) -> tuple[str, ...]:
        """What a person should read beside the map of one example: short lines."""
        lines = [f"score {float(self.score[example]):.4g}"]
        delta = float(self.delta[example])
        if self.complete:
            change = float(self.score[example] - self.baseline_score[example])
            share = f" ({abs(delta / change):.1%} of the change)" if change else ""
            lines.append(f"delta {delta:.2g}{share}")
        else:
            lines.append("delta: no sum promised")
        if self.stderr is not None:
            error, size = self.stderr[example].double().norm(), self.values[example].double().norm()
            lines.append(f"standard error {float(error / size):.0%} of the map")
        lines.append(f"{self.forward_rows} forward + {self.backward_rows} backward rows")
        if self.layer:
            lines.append(f"layer {self.layer}")
        return tuple(lines)

    def tile(self, example: int = 0) -> Tile:
        from .show.image import Tile

        return Tile(self.name, self.caption(example), self._picture_map(example), warning=bool(self.cautions))

    def show(self, example: int = 0) -> Image:
        """The map of one example over its picture, as a PIL image."""
        from .show.image import draw_panel

        return draw_panel(self._picture(example), [self.tile(example)], self._heading(example))

    def save(self, path: str | Path) -> Path:
        """Write by suffix: `.png` and `.html` to look at, `.safetensors` (with a `.json` beside it) to load again."""
        path = Path(path)
        if path.suffix == ".safetensors":
            return write(path, {each.name: getattr(self, each.name) for each in fields(self)})
        return _save_pictures(path, [self])

    @staticmethod
    def load(path: str | Path) -> Attribution:
        """Read what `save` wrote as `.safetensors`; no code in the file is ever run.

        A target or baseline that cannot be stored (a callable) comes back as its text.
        """
        return Attribution(**read(Path(path)))

    def _repr_html_(self) -> str:
        return _html([self])

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.values.shape))
        return (
            f"Attribution({self.method!r}, values {shape}, target={describe_target(self)}, "
            f"delta={_short(self.delta)}, rows {self.forward_rows}+{self.backward_rows})"
        )

    def _picture(self, example: int) -> Image:
        from .show.image import picture_of

        picture = self.inputs[example]
        if picture.ndim != 3:
            raise ValueError(f"show: inputs have shape {tuple(picture.shape)}, not a picture's (channels, H, W)")
        return picture_of(picture)

    def _picture_map(self, example: int) -> Tensor:
        return self.heatmap()[example].detach().float().cpu()

    def _heading(self, example: int) -> str:
        return f"target {describe_target(self, example)}"


class Panel(Mapping[str, Attribution]):
    """Maps of several methods for the same question, by name, in the order asked; also found by method or position.

    `forward_rows` and `backward_rows` are what was actually spent: what methods share is counted once.
    """

    def __init__(self, attributions: list[Attribution], forward_rows: int, backward_rows: int) -> None:
        self._by_name = dict(zip(_names(attributions), attributions, strict=True))
        self.forward_rows = forward_rows
        self.backward_rows = backward_rows

    def __getitem__(self, key: Any) -> Attribution:
        if isinstance(key, int):
            return list(self._by_name.values())[key]
        if isinstance(key, str) and key in self._by_name:
            return self._by_name[key]
        for attribution in self._by_name.values():
            if key in (attribution.method, repr(attribution.method)):
                return attribution
        raise KeyError(f"{key!r} is not in the panel, which has {', '.join(self._by_name)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return f"Panel({', '.join(self._by_name)}; rows {self.forward_rows}+{self.backward_rows})"

    def show(self, example: int = 0, heading: str | None = None) -> Image:
        """All maps of one example side by side, as a PIL image."""
        from .show.image import draw_panel

        every = list(self.values())
        return draw_panel(
            every[0]._picture(example),
            [each.tile(example) for each in every],
            heading or every[0]._heading(example),
        )

    def save(self, path: str | Path) -> Path:
        """Write a `.png` or `.html` with all maps; as `.safetensors`, one file a method, in a folder of that name."""
        path = Path(path)
        if path.suffix != ".safetensors":
            return _save_pictures(path, list(self.values()))
        folder = path.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        for name, attribution in self.items():
            attribution.save(folder / f"{name}.safetensors")
        return folder

    def _repr_html_(self) -> str:
        return _html(list(self.values()))


def describe_target(attribution: Attribution, example: int | None = None) -> str:
    target = attribution.target
    if not isinstance(target, Tensor):
        return repr(target)
    classes = target.tolist()
    return str(classes[example]) if example is not None else ", ".join(map(str, classes))


def _names(attributions: list[Attribution]) -> list[str]:
    """Kebab-case names; methods of the same name are told apart by their whole repr, then by a number."""
    plain = [each.name for each in attributions]
    names: list[str] = []
    for each, name in zip(attributions, plain, strict=True):
        name = name if plain.count(name) == 1 else repr(each.method)
        names.append(name if name not in names else f"{name} #{len(names)}")
    return names


def _short(values: Tensor) -> str:
    shown = ", ".join(f"{value:.2g}" for value in values.tolist()[:4])
    return f"[{shown}{', ...' if len(values) > 4 else ''}]"


def _facts(attributions: list[Attribution]) -> list[tuple[str, str]]:
    first = attributions[0]
    facts = [
        ("baseline", repr(first.baseline)),
        ("seed", str(first.seed)),
        ("versions", ", ".join(f"{name} {version}" for name, version in first.versions.items())),
    ]
    return facts + [(each.name, note) for each in attributions for note in each.notes]


def _save_pictures(path: Path, attributions: list[Attribution]) -> Path:
    from .show.html import write_html
    from .show.image import draw_panel, save_png

    first = attributions[0]
    tiles = [each.tile() for each in attributions]
    match path.suffix:
        case ".png":
            save_png(draw_panel(first._picture(0), tiles, first._heading(0)), path)
        case ".html":
            write_html(path, first._picture(0), tiles, first._heading(0), "", _facts(attributions))
        case suffix:
            raise ValueError(f"path: {str(path)!r} ends in {suffix!r}; use .png, .html or .safetensors")
    return path


def _html(attributions: list[Attribution]) -> str:
    from .show.html import html_fragment

    first = attributions[0]
    if first.inputs.ndim != 4:
        return f"<pre>{'<br>'.join(map(repr, attributions)).replace('<', '&lt;')}</pre>"
    tiles = [each.tile() for each in attributions]
    return html_fragment(first._picture(0), tiles, first._heading(0), "", _facts(attributions))
