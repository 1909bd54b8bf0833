"""Results: Attribution for one method, Panel for several."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from .named import Named, text_of
from .notes import Note, Place as Example
from .records import file_stem, read, write
from .similarity import relative_size
from .steadiness import error_as_drawn, noise_words, two_runs
from .types import Outputs, RowArithmetic
from .view import SINGLE_PIXELS, VIEWS, View, default_view, view_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..evaluation.agreement import Agreement
    from ..question.targets import Target
    from ..show.image import Tile

Reduce = Literal["sum", "abs", "max", "norm"]
_LONGEST_TARGET = 160  # characters


@dataclass(frozen=True, eq=False)
class Attribution:
    """A map for each example of a batch, with its question, its cost and its notes.

    All tensors start with the axis `batch`. With several targets for each example, such as
    `target=[[281, 285], [7, 8]]`, these start with `(batch, targets)` instead: values, raw, target, score,
    baseline_score, delta, stderr, spread, steadiness and heatmap(). show() and caption() then take a pair
    `(example, target)`.

    `values`: `(batch, *features)`; the channel axis is 1 for methods with one value per pixel. `raw`: the map before
    upsampling, or one value per player; else None. `target`: the classes explained `(batch,)`, or the Target. `score`,
    `baseline_score`: `(batch,)`, f(x) and the mean f(b) over references, NaN for methods without a baseline. `stderr`:
    the values' standard error, or None. `spread`: the values' standard deviation over several references, or None.
    `forward_rows`, `backward_rows`: model rows of this map, with the shared unmodified forward pass. `outputs`: the
    model's outputs `(batch, outputs)` at x, if they are vectors. `output_kinds`: what they are for each example, such
    as "logits" or "probabilities", see the option `outputs`; empty where they are no vectors. `seconds`: the time of
    the method's own passes.
    `steadiness`: `(batch, 3)`, for methods that draw samples: the correlation that two runs with other seeds would have
    at the scale of `view`, estimated from two halves of the samples, and the ends of its 95% interval; else None.
    `arithmetic`: how the method's own rows were computed, see `Options`; those that prove packed rows are not counted.
    `cached_rows`: rows that the cache of a `BlackBox` answered, which are no forward rows. `raw_stderr`: the standard
    error of `raw` where that holds more than the map, such as a matrix of interactions, or None. `names`: of the
    columns or channels of the inputs, for drawings; empty without.
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
    notes: tuple[Note, ...]
    outputs: Tensor | None = None
    complete: bool = False
    seconds: float = 0.0
    arithmetic: RowArithmetic = "plain"
    output_kinds: tuple[Outputs, ...] = ()
    cached_rows: int = 0
    steadiness: Tensor | None = None
    raw_stderr: Tensor | None = None
    names: tuple[str, ...] = ()

    @property
    def delta(self) -> Tensor:
        """The sum of values minus (score - baseline_score), shaped like `score`; NaN if no sum is promised."""
        if not self.complete:
            return torch.full_like(self.score, torch.nan)
        total = self.values.double().reshape(*self.score.shape, -1).sum(-1)
        return (total - (self.score.double() - self.baseline_score.double())).to(self.score.dtype)

    @property
    def name(self) -> str:
        """The method's name as typed, such as `integrated-gradients`."""
        kebab = getattr(type(self.method), "kebab", None)
        return kebab() if kebab else str(self.method)

    def heatmap(self, reduce: Reduce = "sum") -> Tensor:
        """Reduce channels to one value per position, `(batch, H, W)` for pictures: their sum, the sum of absolute
        values ("abs"), the largest absolute value ("max"), or the Euclidean norm ("norm")."""
        channels = self.score.ndim
        if self.values.ndim < channels + 2:
            return self.values
        reduced: dict[str, Callable[[], Tensor]] = {
            "sum": lambda: self.values.sum(channels),
            "abs": lambda: self.values.abs().sum(channels),
            "max": lambda: self.values.abs().amax(channels),
            "norm": lambda: self.values.square().sum(channels).sqrt(),
        }
        if reduce not in reduced:
            raise ValueError(f"reduce: {reduce!r}; use {', '.join(map(repr, reduced))}")
        return reduced[reduce]()

    @property
    def view(self) -> View:
        """How the maps are drawn by default, and read for figures such as `steadiness`."""
        axes = self.values.ndim - self.score.ndim - 1
        return default_view(getattr(self.method, "view", SINGLE_PIXELS), axes)

    def viewed(self, view: View | str | None = None) -> Tensor:
        """Return the maps at the scale of a view, by default the method's: `(batch, H, W)` for pictures."""
        leading = self.score.shape
        seen = view_of(view, self.view).of(self.values.flatten(0, len(leading) - 1))
        return seen.reshape(*leading, *seen.shape[1:])

    @property
    def cautions(self) -> tuple[Note, ...]:
        """The notes that limit the trust in the map."""
        return tuple(note for note in self.notes if note.is_caution)

    def caption(self, example: Example = 0, view: View | str | None = None) -> tuple[str, ...]:
        """Return short lines of text for the map of one example as a view draws it."""
        example, drawn = self._place(example), view_of(view, self.view)
        lines = [f"score {float(self.score[example]):.4g}"]
        delta = float(self.delta[example])
        if self.complete:
            change = float(self.score[example] - self.baseline_score[example])
            of_change = f" ({abs(delta / change):.1%} of the change)" if change else ""
            lines.append(f"delta {delta:.2g}{of_change}")
        else:
            lines.append("delta: no sum promised")
        if self.stderr is not None:
            share = relative_size(self.stderr[example], self.values[example])
            where = "" if drawn.scale == SINGLE_PIXELS else ", at single pixels"
            lines.append(f"standard error {'unknown' if math.isnan(share) else f'{share:.0%} of the map{where}'}")
        lines += self._steadiness_words(example, drawn)
        rows = f"{self.forward_rows} forward + {self.backward_rows} backward rows"
        rows += f", {self.cached_rows} from the cache" if self.cached_rows else ""
        lines.append(rows if self.arithmetic == "plain" else f"{rows}, {self.arithmetic}")
        if self.layer:
            lines.append(f"layer {self.layer}")
        return tuple(lines)

    def _steadiness_words(self, example: Example, view: View) -> list[str]:
        """Say how alike two runs would be as drawn, and how much of a magnitude is noise."""
        found = []
        if self.steadiness is not None:
            value, low, high = self.steadiness[example].tolist()
            as_drawn = view.scale == self.view.scale
            words = f"{two_runs(value, low, high)}{error_as_drawn(value)}"
            found.append(words + ("" if as_drawn else f", read as {self.view.as_text()}"))
        if self.stderr is not None and not view.is_linear:
            found += noise_words(self.values[example], self.stderr[example])
        return found

    def tiles(self, example: Example = 0, view: View | str | None = None) -> list[Tile]:
        """Return the maps of one example with their captions, one for each of its targets."""
        from ..show.drawn import tiles_of

        return tiles_of(self, example, view)

    def show(self, example: Example = 0, view: View | str | None = None) -> Image:
        """Draw the map of one example over its inputs, or the maps of its targets, as a PIL image.

        Pictures, volumes (three planes), series (lines) and columns (bars) are drawn. `view`: how the map is read and
        drawn, such as `"signed(smooth=0.02)"`; None is the method's own, see `View`.
        """
        return self._panel().show(example, view=view)

    def save(self, path: str | Path, view: View | str | None = None) -> Path:
        """Write a `.png` or `.html` to look at, or a `.safetensors` (with a `.json` beside it) to load again."""
        path = Path(path)
        if path.suffix == ".safetensors":
            return write(path, self.fields())
        return self._panel()._save_pictures(path, view)

    def fields(self) -> dict[str, Any]:
        """Return every field by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @staticmethod
    def load(path: str | Path) -> Attribution:
        """Read a `.safetensors` file of `save`, without running code from it.

        A target or baseline that can't be stored, such as a callable, is read as text. Raises ValueError for other
        files.
        """
        record = read(Path(path))
        try:
            return Attribution(**record)
        except TypeError as error:
            raise ValueError(
                f"path: {str(path)!r} holds {', '.join(record) or 'nothing'}, which is no Attribution ({error}); "
                "use a file that Attribution.save wrote"
            ) from error

    def _repr_html_(self) -> str:
        return self._panel()._repr_html_()

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.values.shape))
        return (
            f"Attribution({self.method!r}, values {shape}, target={describe_target(self)}, "
            f"delta={_short(self.delta)}, rows {describe_rows(self)})"
        )

    def _panel(self) -> Panel:
        return Panel([self], self.forward_rows, self.backward_rows, cached_rows=self.cached_rows)

    def _place(self, example: Example) -> Example:
        """Return the index of an example in the scores; a number alone means its first target."""
        return (example, 0) if self.score.ndim == 2 and isinstance(example, int) else example

    def _picture(self, example: Example, view: View | str | None = None) -> Image:
        from ..show.drawn import picture_of_example

        return picture_of_example(self, example, view)

    def _heading(self, example: Example) -> str:
        return f"target {describe_target(self, example)}"


class Panel(Mapping[str, Attribution]):
    """Maps of several methods for the same question, in order; found by name, method or position.

    `forward_rows` and `backward_rows` are the rows that were run, `cached_rows` those that the cache of a `BlackBox`
    answered; rows that methods share are counted once.
    """

    def __init__(
        self,
        attributions: list[Attribution],
        forward_rows: int,
        backward_rows: int,
        names: Sequence[str] | None = None,
        cached_rows: int = 0,
    ) -> None:
        self._by_name = dict(zip(names or names_of(attributions), attributions, strict=True))
        self.forward_rows = forward_rows
        self.backward_rows = backward_rows
        self.cached_rows = cached_rows

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

    def agreement(self, findings: Mapping[str, Any] | None = None, view: View | str | None = None) -> Agreement:
        """Compare the maps at the scale they are drawn at: see `Agreement`.

        `findings`: of maps by name, what `check` or `trust_card` found; maps that failed a hard test are no part of the
        consensus. `view`: one reading for all maps, by default each method's own.
        """
        from ..evaluation.agreement import agreement_of

        return agreement_of(self, findings or {}, None if view is None else VIEWS.coerce(view))

    def tiles(self, example: Example = 0, view: View | str | None = None) -> list[Tile]:
        """Return the maps of one example with their captions, each under its name in the panel."""
        return [
            replace(tile, title=tile.title.replace(each.name, name, 1))
            for name, each in self.items()
            for tile in each.tiles(example, view)
        ]

    def show(self, example: Example = 0, heading: str | None = None, view: View | str | None = None) -> Image:
        """Draw all maps of one example side by side, as a PIL image; `view` as in `Attribution.show`."""
        from ..show.image import draw_panel

        picture = self[0]._picture(example, view)
        return draw_panel(picture, self.tiles(example, view), heading or self._heading(example))

    def save(self, path: str | Path, view: View | str | None = None) -> Path:
        """Write a `.png` or `.html` with all maps, or for `.safetensors` a folder with one file per method.

        The files have the maps' names, shortened to valid file names and numbered where two are equal.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            return self._save_pictures(path, view)
        folder = path.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        stems = [file_stem(name) for name in self]
        for place, (stem, attribution) in enumerate(zip(stems, self.values(), strict=True)):
            attribution.save(folder / f"{stem if stems.count(stem) == 1 else f'{place} {stem}'}.safetensors")
        return folder

    def _save_pictures(self, path: Path, view: View | str | None = None) -> Path:
        from ..show.html import write_html
        from ..show.image import save_png

        match path.suffix:
            case ".png":
                save_png(self.show(view=view), path)
            case ".html":
                picture = self[0]._picture(0, view)
                write_html(path, picture, self.tiles(view=view), self._heading(), "", self._facts())
            case suffix:
                raise ValueError(f"path: {str(path)!r} ends in {suffix!r}; use .png, .html or .safetensors")
        return path

    def _repr_html_(self) -> str:
        from ..show.html import html_fragment

        if not 2 <= self[0].inputs.ndim <= 5:
            return f"<pre>{'<br>'.join(map(repr, self.values())).replace('<', '&lt;')}</pre>"
        return html_fragment(self[0]._picture(0), self.tiles(), self._heading(), "", self._facts())

    def _heading(self, example: Example = 0) -> str:
        return self[0]._heading(example)

    def _facts(self) -> list[tuple[str, str]]:
        first = self[0]
        facts = [
            ("baseline", repr(first.baseline)),
            ("seed", str(first.seed)),
            ("versions", ", ".join(f"{name} {version}" for name, version in first.versions.items())),
        ]
        agreed = [("agreement", Panel.agreement(self).sentence())] if len(self) > 1 else []
        return facts + agreed + [(name, note) for name, each in self.items() for note in each.notes]


def target_text(target: Any) -> str:
    """Return a target as text, from which it can be read if possible; of many numbers only how many they are."""
    try:
        text = text_of(target)
    except ValueError:
        text = repr(target)
    if len(text) <= _LONGEST_TARGET or not isinstance(target, Named) or not is_dataclass(target):
        return text
    held = {each.name: getattr(target, each.name) for each in fields(target) if each.init}
    return f"{target.kebab()}({', '.join(f'{name}={_brief(value)}' for name, value in held.items())})"


def _brief(value: Any) -> str:
    return f"{' x '.join(map(str, value.shape))} numbers" if isinstance(value, Tensor) else repr(value)


def describe_target(attribution: Attribution, example: Example | None = None) -> str:
    target = attribution.target
    if not isinstance(target, Tensor):
        return target_text(target)
    if example is None:
        return ", ".join(map(str, target.tolist()))
    found = target[example].tolist()
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found)


def describe_rows(attribution: Attribution) -> str:
    """Write forward and backward rows as `12+4`, with those of a cache `12+4+30 cached`, and the arithmetic where it
    is not plain: `12+4 packed`."""
    rows = f"{attribution.forward_rows}+{attribution.backward_rows}"
    rows += f"+{attribution.cached_rows} cached" if attribution.cached_rows else ""
    return rows if attribution.arithmetic == "plain" else f"{rows} {attribution.arithmetic}"


def names_of(attributions: Sequence[Attribution]) -> list[str]:
    """Return kebab-case names; methods of the same name get their repr, equal reprs a number."""
    plain = [each.name for each in attributions]
    return distinct(
        name if plain.count(name) == 1 else repr(each.method) for each, name in zip(attributions, plain, strict=True)
    )


def distinct(labels: Iterable[str]) -> list[str]:
    """Add a number to labels that occurred before."""
    found: list[str] = []
    for label in labels:
        found.append(label if label not in found else f"{label} #{len(found)}")
    return found


def _short(values: Tensor) -> str:
    shown = ", ".join(f"{value:.2g}" for value in values.flatten().tolist()[:4])
    return f"[{shown}{', ...' if values.numel() > 4 else ''}]"
