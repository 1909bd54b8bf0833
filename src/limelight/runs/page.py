"""The page of `limelight report`: self-contained, without script, readable in light and dark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..base.files import write_whole
from ..show import overlay, picture_of, scale_of
from ..show.image import fit, png_source
from .clusters import Cluster
from .extras import need
from .stored import Run
from .summary import Extremes, Spread, Summary

PAGE = "report.html"
_SIDE = 128  # pixels of a picture's longer side
_SHOWN = 12  # clusters, the most coherent first
_MEANS = 24  # classes whose mean maps are shown, the largest first
_EXAMPLES = 4  # pictures of a cluster, and at either end of a column

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title><style>
:root { color-scheme: light dark; --ink: #1c1c20; --faint: #5d6068; --page: #fff; --line: #d9dae0; --bar: #4393c3; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf0; --faint: #a5a8b2; --page: #17181c; --line: #3a3c44; --bar: #92c5de; } }
body { margin: 0 auto; max-width: 1100px; padding: 20px; color: var(--ink); background: var(--page);
  font: 15px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5em } h2 { font-size: 1.2em; margin: 2em 0 .3em }
p, figcaption { color: var(--faint); margin: .2em 0 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25em 1em .25em 0; border-bottom: 1px solid var(--line); vertical-align: top }
.n { text-align: right; white-space: nowrap; overflow-wrap: normal }
svg { display: block } svg rect { fill: var(--bar) } svg line { stroke: var(--ink) }
.row { display: flex; flex-wrap: wrap; gap: 14px; margin-bottom: 1em } figure { margin: 0; width: {{ side }}px }
figcaption { font-size: .85em } img { display: block; width: 100%; image-rendering: pixelated }
summary { cursor: pointer; margin: .6em 0 }
</style></head><body>
{% macro figures(several) %}<div class="row">{% for each in several %}<figure>
<img alt="{{ each.words }}" src="{{ each.source }}"><figcaption>{{ each.words }}</figcaption></figure>{% endfor %}</div>
{% endmacro %}
{% macro shares(several, what) %}<div class="wide"><table><tr><th>{{ what }}</th><th class="n">share</th>
<th class="n">of</th></tr>
{% for each in several %}<tr><td>{{ each.name }}</td><td class="n">{{ "%.1f%%" % (100 * each.share) }}</td>
<td class="n">{{ each.count }} / {{ each.total }}</td></tr>{% endfor %}</table></div>{% endmacro %}
<h1>{{ title }}</h1>
<p>{{ status }}</p>
{% if failures %}<h2>Failed</h2><p>The latest few; the column <code>error</code> of the index has all.</p><ul>
{% for each in failures %}<li>{{ each }}</li>{% endfor %}</ul>{% endif %}
{% if accuracy %}<h2>Accuracy</h2>{{ shares(accuracy, "class") }}{% endif %}
{% if failing %}<h2>Maps that fail a hard test</h2>
<p>A hard test has a right answer: these maps break what their method promises.</p>
{{ shares(failing, "test") }}{% endif %}
{% for method, clusters in clusters %}<h2>Clusters of maps: {{ method }}</h2>
<p>Maps of one class that are alike, the most alike first. Objects move from picture to picture, so a map that always
lies in the same place deserves a look: a tag, a watermark, a border.</p>
{% for each in clusters %}<p><b>{{ each.name }}</b></p>{{ figures(each.figures) }}{% endfor %}{% endfor %}
{% if means %}<h2>Mean maps</h2>
<p>Each map divided by its sum of sizes; aligned: moved so that the centre of its relevance lies in the middle.
At most {{ most_means }} classes for each method, those with the most maps.</p>
{{ figures(means) }}{% endif %}
<h2>Distributions</h2>
<p>Minimum, quartiles and maximum; the box holds the middle half, the line is the median.</p>
{% for name, spreads in spreads %}<h3>{{ name }}</h3><div class="wide"><table><tr><th>method</th><th>class</th><th></th>
<th class="n">median</th><th class="n">from</th><th class="n">to</th><th class="n">figures</th></tr>
{% for each in spreads %}<tr><td>{{ each.method }}</td>
<td>{{ each.group }}</td><td><svg width="180" height="14" role="img" aria-label="box plot">
<line x1="{{ each.x[0] }}" x2="{{ each.x[4] }}" y1="7" y2="7"></line>
<rect x="{{ each.x[1] }}" width="{{ [each.x[3] - each.x[1], 1] | max }}" y="2" height="10"></rect>
<line x1="{{ each.x[2] }}" x2="{{ each.x[2] }}" y1="1" y2="13"></line></svg></td>
<td class="n">{{ "%.3g" % each.quantiles[2] }}</td><td class="n">{{ "%.3g" % each.quantiles[0] }}</td>
<td class="n">{{ "%.3g" % each.quantiles[4] }}</td><td class="n">{{ each.count }}</td></tr>{% endfor %}</table></div>
{% endfor %}
<h2>Examples at either end</h2>
{% for each in extremes %}<details><summary>{{ each.name }}</summary>
<p>smallest</p>{{ figures(each.smallest) }}<p>largest</p>{{ figures(each.largest) }}</details>{% endfor %}
<h2>Settings</h2><div class="wide"><table>{% for name, value in settings %}
<tr><td>{{ name }}</td><td>{{ value }}</td></tr>{% endfor %}</table></div>
</body></html>
"""


@dataclass(frozen=True)
class _Figure:
    """A picture on the page and its words."""

    source: str
    words: str


@dataclass(frozen=True)
class _Cluster:
    name: str
    figures: tuple[_Figure, ...]


@dataclass(frozen=True)
class _Box:
    """A spread, and where its quantiles lie on a line of 180 pixels."""

    spread: Spread
    x: tuple[float, ...]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.spread, name)


@dataclass(frozen=True)
class _Ends:
    name: str
    smallest: tuple[_Figure, ...]
    largest: tuple[_Figure, ...]


def write_report(run: Run, path: Path | None = None) -> Path:
    """Write the page over a run, `report.html` in its folder unless `path` says otherwise; returns where it is.

    Raises LookupError where nothing is done yet, ImportError where the extra `run` is missing.
    """
    jinja2 = need("jinja2", "run", "a report")
    summary = Summary.of(run, _EXAMPLES)
    draw, status = _Drawing(run), run.status
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_TEMPLATE)
    text = page.render(
        title=f"{run.settings['model']} on {run.settings['images']}",
        side=_SIDE,
        status=status.line(),
        failures=status.failures,
        most_means=_MEANS,
        accuracy=summary.accuracy if summary.accuracy[0].total else (),
        failing=summary.failing,
        clusters=[
            (method, [draw.cluster(method, each) for each in clusters[:_SHOWN]])
            for method, clusters in summary.clusters.items()
        ],
        means=list(draw.means(summary)),
        spreads=[(name, _boxes(spreads)) for name, spreads in summary.spreads.items() if spreads],
        extremes=[draw.ends(each) for each in summary.extremes],
        settings=list(run.settings.items()),
    )
    path = path or run.out / PAGE
    write_whole(path, text.encode("utf-8", errors="replace"))
    return path


def _boxes(spreads: Sequence[Spread]) -> list[_Box]:
    """All on one scale, so that classes compare."""
    low = min(each.quantiles[0] for each in spreads)
    width = max(each.quantiles[-1] for each in spreads) - low or 1.0
    return [_Box(each, tuple(round(180 * (q - low) / width, 1) for q in each.quantiles)) for each in spreads]


class _Drawing:
    """Draws examples: the map over its picture, or alone where the picture is no longer there."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def cluster(self, method: str, cluster: Cluster) -> _Cluster:
        name = f"{cluster.group}: {len(cluster.ids)} maps, {cluster.coherence:.2f} alike"
        others = [each for each in cluster.ids if each != cluster.medoid][: _EXAMPLES - 1]
        ids = (cluster.medoid, *others)
        words = ("medoid", *("" for _ in others))
        return _Cluster(name, tuple(self._example(i, method, word) for i, word in zip(ids, words, strict=True)))

    def ends(self, extremes: Extremes) -> _Ends:
        def drawn(several: Sequence[tuple[int, float]]) -> tuple[_Figure, ...]:
            return tuple(self._example(i, extremes.method, f"{value:.4g}") for i, value in several)

        return _Ends(f"{extremes.column}, {extremes.method}", drawn(extremes.smallest), drawn(extremes.largest))

    def means(self, summary: Summary) -> Iterator[_Figure]:
        for method in self._run.methods:
            groups = [(maps.count, group, maps) for (name, group), maps in summary.maps.items() if name == method]
            for count, group, maps in sorted(groups, key=lambda each: (-each[0], each[1]))[:_MEANS]:
                for heatmap, word in zip(maps.means(), ("mean", "aligned"), strict=True):
                    yield _Figure(_source(_alone(heatmap)), f"{group}, {method}, {word} of {count}")

    def _example(self, example: int, method: str, words: str) -> _Figure:
        found = self._run[example]
        told = f"{found.entry.path} {words}".strip()
        try:
            picture: Image.Image | None = picture_of(self._run.picture(example))
        except (OSError, ValueError):
            picture, told = None, f"{told} (the picture is no longer there)"
        if self._run.settings["store"] == "scores":
            return _Figure(_source(picture or Image.new("RGB", (1, 1))), told)
        heatmap = found[method].heatmap()
        drawn = _alone(heatmap) if picture is None else overlay(picture, heatmap, scale_of(heatmap))
        return _Figure(_source(drawn), told)


def _alone(heatmap: Tensor) -> Image.Image:
    """A map over nothing."""
    height, width = heatmap.shape
    return overlay(Image.new("RGB", (width, height), "white"), heatmap, scale_of(heatmap), 1.0)


def _source(image: Image.Image) -> str:
    return png_source(fit(image, _SIDE))
