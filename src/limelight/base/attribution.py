"""Results: Attribution for one method, Panel for several."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from .labels import names_of, target_text
from .notes import Note, Place as Example
from .panel_file import read_panel, write_panel
from .records import file_stem, read, write
from .similarity import relative_size
from .steadiness import error_as_drawn, noise_words, two_runs
from .text import Text
from .types import Outputs, RowArithmetic
from .view import SINGLE_PIXELS, VIEWS, View, default_view, view_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..evaluation.agreement import Agreement
    from ..question.targets import Target
    from ..show.image import Tile

Reduce = Literal["sum", "abs", "max", "norm"]


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
    columns or channels of the inputs, for drawings; empty without. `texts`: the texts that the inputs are embeddings
    `(batch, width, tokens)` of, one an example; columns beyond a text's tokens are padding. Empty without.
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
    texts: tuple[Text, ...] = ()

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
        if self.texts and getattr(self.method, "per_unit", False):
            return View("magnitude")
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
        lines = [] if self.score.ndim == 1 else [f"score {float(self.score[example]):.4g}"]  # else in the heading
        delta = float(self.delta[example])
        if self.complete:
            change = float(self.score[example] - self.baseline_score[example])
            of_change = f" ({abs(delta / change):.1%} of the change)" if change else ""
            lines.append(f"delta {delta:.2g}{of_change}")
        if self.stderr is not None:
            share = relative_size(self.stderr[example], self.values[example])
            where = "" if drawn.scale == SINGLE_PIXELS else ", at single pixels"
            lines.append(f"standard error {'unknown' if math.isnan(share) else f'{share:.0%} of the map{where}'}")
        return (*lines, *self._steadiness_words(example, drawn), *self.cost_words())

    def cost_words(self) -> tuple[str, ...]:
        """Return the lines of a caption on what the maps cost, and their layer."""
        rows = f"{self.forward_rows} forward + {self.backward_rows} backward model evaluations"
        rows += f", {self.cached_rows} from the cache" if self.cached_rows else ""
        rows += "" if self.arithmetic == "plain" else f", {self.arithmetic}"
        return (rows, *([f"layer {self.layer}"] if self.layer else []))

    def _steadiness_words(self, example: Example, view: View) -> list[str]:
        """Say how alike two runs would be as drawn, and how much of a magnitude is noise."""
        found = []
        if self.steadiness is not None:
            value, low, high = self.steadiness[example].tolist()
            as_drawn = view.scale == self.view.scale
            words = f"{two_runs(value, low, high)}{error_as_drawn(value)}"
            words += ", channel by channel" if self.texts else ""  # not by its tokens' sums, as they are drawn
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

        Pictures, volumes (three planes), series (lines), columns (bars) and texts are drawn. `view`: how the map is
        read and drawn, such as `"signed(smooth=0.02)"`; None is the method's own, see `View`.
        """
        return self._panel().show(example, view=view)

    def save(self, path: str | Path, view: View | str | None = None) -> Path:
        """Write a `.png`, `.html`, `.pdf` or `.svg` to look at, or to load again a `.safetensors` (with a `.json`
        beside it) or a `.npz`, see `Panel.save`."""
        path = Path(path)
        if path.suffix == ".safetensors":
            return write(path, self.fields())
        return self._panel().save(path, view)

    def fields(self) -> dict[str, Any]:
        """Return every field by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @staticmethod
    def load(path: str | Path) -> Attribution:
        """Read a `.safetensors` or `.npz` file of `save`, without running code from it.

        A target or baseline that can't be stored, such as a callable, is read as text. Raises ValueError for other
        files.
        """
        if Path(path).suffix == ".npz":
            panel = Panel.load(path)
            if len(panel) != 1:
                raise ValueError(f"path: {str(path)!r} holds {len(panel)} maps; use Panel.load")
            return panel[0]
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
        heading = f"target {describe_target(self, example)}"
        return heading if self.score.ndim > 1 else f"{heading}, score {float(self.score[self._place(example)]):.4g}"


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
        """Write a `.png`, `.html`, `.pdf` or `.svg` with all maps; a `.npz` of all maps, which `load` reads; or for
        `.safetensors` a folder with one file per method.

        The files have the maps' names, shortened to valid file names and numbered where two are equal. A `.npz` is read
        without limelight too: `numpy.load(path)["gradient/values"]`; its text `limelight` holds all else as JSON.
        """
        path = Path(path)
        if path.suffix == ".npz":
            rows = {name: vars(self)[name] for name in ("forward_rows", "backward_rows", "cached_rows")}
            return write_panel(path, {name: each.fields() for name, each in self.items()}, rows)
        if path.suffix != ".safetensors":
            return self._save_pictures(path, view)
        folder = path.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        stems = [file_stem(name) for name in self]
        for place, (stem, attribution) in enumerate(zip(stems, self.values(), strict=True)):
            attribution.save(folder / f"{stem if stems.count(stem) == 1 else f'{place} {stem}'}.safetensors")
        return folder

    @staticmethod
    def load(path: str | Path) -> Panel:
        """Read a `.npz` file of `save`, without running code from it: the maps by name and in order, with their notes.

        What can't be stored is read as text, see `Attribution.load`. Raises ValueError for other files.
        """
        maps, rows = read_panel(Path(path))
        return Panel([Attribution(**each) for each in maps.values()], names=list(maps), **rows)

    def _save_pictures(self, path: Path, view: View | str | None = None) -> Path:
        from ..show.figure import draw_figure, save_figure
        from ..show.html import write_panel as write_page
        from ..show.image import save_png

        match path.suffix:
            case ".png":
                save_png(self.show(view=view), path)
            case ".html":
                write_page(path, self, view)
            case ".pdf" | ".svg":
                save_figure(draw_figure(self, heading=self._heading(), view=view), path)
            case suffix:
                raise ValueError(
                    f"path: {str(path)!r} ends in {suffix!r}; use .png, .html, .pdf, .svg, .npz or .safetensors"
                )
        return path

    def _repr_html_(self) -> str:
        from ..show.html import panel_fragment

        if not 2 <= self[0].inputs.ndim <= 5:
            return f"<pre>{'<br>'.join(map(repr, self.values())).replace('<', '&lt;')}</pre>"
        return panel_fragment(self)

    def _heading(self, example: Example = 0) -> str:
        return self[0]._heading(example)

    def _title(self) -> str:
        """Return the heading of a page, whose summary names target and score."""
        return ""

    def _facts(self) -> list[tuple[str, str]]:
        from ..show.html import facts_of

        return facts_of(self)


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


def _short(values: Tensor) -> str:
    shown = ", ".join(f"{value:.2g}" for value in values.flatten().tolist()[:4])
    return f"[{shown}{', ...' if values.numel() > 4 else ''}]"
