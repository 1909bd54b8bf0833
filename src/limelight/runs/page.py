"""The page of `limelight report`: self-contained, without script, in light and dark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from ..base.errors import DamagedFile, reason
from ..base.files import write_whole
from ..base.view import View, view_of
from ..show import overlay, picture_of, scale_of
from ..show.image import fit, png_source
from ..show.text_html import letters_of
from ..show.words import Words
from .clusters import MOST, Cluster
from .storage import storage_at
from .stored import Run
from .summary import Spread, Summary
from .tables import need

PAGE = "report.html"
SIDE = 128  # pixels of a picture's longer side
_CLUSTERS = 12  # the most coherent ones
_MEANS = 24  # classes whose mean maps are shown: the ones with the most maps
_EXAMPLES = 4  # pictures of a cluster, and at either end of a column

HEAD = """<!doctype html>
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
figure.text { width: 100% } .letters { margin: 0; padding: .5em .8em; border-radius: 4px; white-space: pre-wrap;
  color: var(--ink); border: 1px solid var(--line) } .letters.pale { background: #f5f5f5; color: #000; border: 0 }
.letters.dark { background: #1c1c1c; color: #fff; border: 0 } .letters .small { font-size: .8em }
</style></head><body>
{% macro figures(several) %}<div class="row">{% for each in several %}{% if each.letters %}<figure class="text">
{{ each.letters | safe }}<figcaption>{{ each.words }}</figcaption></figure>{% else %}<figure>
<img alt="{{ each.words }}" src="{{ each.source }}"><figcaption>{{ each.words }}</figcaption></figure>{% endif %}
{% endfor %}</div>{% endmacro %}
{% macro shares(several, what) %}<div class="wide"><table><tr><th>{{ what }}</th><th class="n">share</th>
<th class="n">of</th></tr>
{% for each in several %}<tr><td>{{ each.name }}</td><td class="n">{{ "%.1f%%" % (100 * each.share) }}</td>
<td class="n">{{ each.count }} / {{ each.total }}</td></tr>{% endfor %}</table></div>{% endmacro %}
"""
"""The head of a page and its macros: it takes `title` and `side`, the width of a figure in pixels."""

_TEMPLATE = (
    HEAD
    + """<h1>{{ title }}</h1>
<p>{{ status }}</p>
{% if failures %}<h2>Failed</h2><p>The latest failures; the column <code>error</code> of the index lists all.</p><ul>
{% for each in failures %}<li>{{ each }}</li>{% endfor %}</ul>{% endif %}
{% if accuracy %}<h2>Accuracy</h2>{{ shares(accuracy, "class") }}{% endif %}
{% if failing %}<h2>Maps that fail a hard test</h2>
<p>A hard test has a right answer: these maps lack a property that their method promises.</p>
{{ shares(failing, "test") }}{% endif %}
{% if correlations %}<h2>Where the maps agree</h2>
<p>Mean rank correlation of every two methods' maps at the scale they are drawn at, over the examples that both
explained. 1: the same order of pixels; 0: unrelated. The column <code>agreement</code> of the index has each map's mean
over the others that failed no hard test; the examples at either end are below.</p>
<div class="wide"><table><tr><th></th>{% for name in methods %}<th class="n">{{ name }}</th>{% endfor %}</tr>
{% for line in correlations %}<tr><td>{{ methods[loop.index0] }}</td>{% for mean, count in line %}
<td class="n">{{ "%.2f" % mean if count else "" }}</td>{% endfor %}</tr>{% endfor %}</table></div>{% endif %}
{% for method, compared, clusters in clusters %}<h2>Clusters of maps: {{ method }}</h2>
<p>Similar maps of one class, the most coherent cluster first. Objects move from picture to picture, so maps that always
highlight the same place may show a shortcut: a tag, a watermark, a border. The first {{ compared }} maps of a class at
most are compared.</p>
{% for name, examples in clusters %}<p><b>{{ name }}</b></p>{{ figures(examples) }}{% endfor %}{% endfor %}
{% if means %}<h2>Mean maps</h2>
<p>The mean over maps, the first {{ most }} of a class at most, each divided by its sum of absolute values; aligned:
each moved so that the centre of its relevance is in the middle.{% if left_out %} At most {{ most_means }} classes for
each method, the ones with the most maps; {{ left_out }} others are left out.{% endif %}</p>
{{ figures(means) }}{% endif %}
<h2>Distributions</h2>
<p>Minimum, quartiles and maximum; the box holds the middle half, the line is the median.</p>
{% for name, spreads in spreads %}<h3>{{ name }}</h3><div class="wide"><table><tr><th>method</th><th>class</th><th></th>
<th class="n">median</th><th class="n">from</th><th class="n">to</th><th class="n">figures</th></tr>
{% for each, x in spreads %}<tr><td>{{ each.method }}</td>
<td>{{ each.group }}</td><td><svg width="180" height="14" role="img" aria-label="box plot">
<line x1="{{ x[0] }}" x2="{{ x[4] }}" y1="7" y2="7"></line>
<rect x="{{ x[1] }}" width="{{ [x[3] - x[1], 1] | max }}" y="2" height="10"></rect>
<line x1="{{ x[2] }}" x2="{{ x[2] }}" y1="1" y2="13"></line></svg></td>
<td class="n">{{ "%.3g" % each.quantiles[2] }}</td><td class="n">{{ "%.3g" % each.quantiles[0] }}</td>
<td class="n">{{ "%.3g" % each.quantiles[4] }}</td><td class="n">{{ each.count }}</td></tr>{% endfor %}</table></div>
{% endfor %}
<h2>Examples at either end</h2>
{% for name, smallest, largest in extremes %}<details><summary>{{ name }}</summary>
<p>smallest</p>{{ figures(smallest) }}<p>largest</p>{{ figures(largest) }}</details>{% endfor %}
<h2>Settings</h2><div class="wide"><table>{% for name, value in settings %}
<tr><td>{{ name }}</td><td>{{ value }}</td></tr>{% endfor %}</table></div>
</body></html>
"""
)


class Figure(NamedTuple):
    """A picture on the page, as the source of an image, or a text as safe HTML in its place, and its caption."""

    source: str
    words: str
    letters: str = ""


def write_report(run: Run, path: Path | None = None, view: View | str | None = None) -> PurePath:
    """Write the report of a run to `path`, by default `report.html` in the run's folder or bucket; return the path.

    `view`: how the examples' maps are drawn; None is the view of each method.

    Raises LookupError where nothing is done yet, ImportError where the extra `report` is missing.
    """
    jinja2 = need("jinja2", "report", "a report")
    summary, status = Summary.of(run, _EXAMPLES, _MEANS), run.status
    views = {method: view_of(view, run.view_of(method)) for method in run.methods}
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_TEMPLATE)
    text = page.render(
        title=f"{run.settings['model']} on {run.settings['images']}",
        side=SIDE,
        status=status.line(),
        failures=status.failures,
        most=f"{MOST:,}",
        most_means=_MEANS,
        left_out=max((each.left_out for each in summary.maps.values()), default=0),
        accuracy=summary.accuracy if summary.accuracy[0].total else (),
        failing=summary.failing,
        methods=run.methods,
        correlations=summary.correlations,
        clusters=[
            (
                method,
                f"{maps.compared:,}",
                [_cluster(run, method, each, views[method]) for each in maps.clusters[:_CLUSTERS]],
            )
            for method, maps in summary.maps.items()
        ],
        means=list(_means(summary)),
        spreads=[(name, _boxes(spreads)) for name, spreads in summary.spreads.items() if spreads],
        extremes=[
            (
                f"{each.column}, {each.method}",
                *(
                    [example_figure(run, i, each.method, f"{x:.4g}", views[each.method]) for i, x in end]
                    for end in (each.smallest, each.largest)
                ),
            )
            for each in summary.extremes
        ],
        settings=[*run.settings.items(), *((f"{name} drawn as", each.as_text()) for name, each in views.items())],
    )
    content = text.encode("utf-8", errors="replace")
    if path is not None:
        write_whole(path, content)
        return path
    storage_at(run.out).replace(PAGE, content)
    return run.out / PAGE


def _boxes(spreads: Sequence[Spread]) -> list[tuple[Spread, list[float]]]:
    """Pair each spread with the places of its quantiles on a line of 180 pixels, the same scale for all."""
    low = min(each.quantiles[0] for each in spreads)
    width = max(each.quantiles[-1] for each in spreads) - low or 1.0
    return [(each, [round(180 * (q - low) / width, 1) for q in each.quantiles]) for each in spreads]


def _cluster(run: Run, method: str, cluster: Cluster, view: View) -> tuple[str, list[Figure]]:
    """Name a cluster, and draw its medoid and the first others."""
    others = [each for each in cluster.ids if each != cluster.medoid][: _EXAMPLES - 1]
    words = {cluster.medoid: "medoid"}
    figures = [example_figure(run, i, method, words.get(i, ""), view) for i in (cluster.medoid, *others)]
    return f"{cluster.group}: {len(cluster.ids)} maps, mean correlation {cluster.coherence:.2f}", figures


def _means(summary: Summary) -> Iterator[Figure]:
    for method, each in summary.maps.items():
        for group, maps in each.means.items():
            for heatmap, word in zip(maps.means(), ("mean", "aligned"), strict=True):
                yield Figure(source_of(map_alone(heatmap)), f"{group}, {method}, {word} of {maps.count}")


def example_figure(run: Run, example: int, method: str, words: str = "", view: View | str | None = None) -> Figure:
    """Draw an example's map over its picture by its view; without the map or the picture where it is missing.

    A picture that cannot be read, for whatever reason, is named in the caption. Raises DamagedFile for the run's files.
    """
    found = run[example]
    caption = f"{found.entry.path} {words}".strip()
    drawn_as = view_of(view, run.view_of(method))
    text = found[method].text
    if text is not None:
        tile = None if run.settings["store"] == "scores" else run.tile(found[method], (), drawn_as)
        return Figure("", caption, letters_of(Words(text), tile))
    try:
        picture: Image.Image | None = picture_of(run.picture(example), clip=True)
    except DamagedFile:
        raise
    except Exception as error:  # noqa: BLE001  a bucket's file system and a decoder raise anything
        picture, caption = None, f"{caption} (the picture cannot be read: {reason(error)})"
    if run.settings["store"] == "scores":
        return Figure(source_of(picture or Image.new("RGB", (1, 1))), caption)
    tile = run.tile(found[method], (), drawn_as)
    ground = Image.new("RGB", (tile.heatmap.shape[1], tile.heatmap.shape[0]), "white") if picture is None else picture
    drawn = overlay(ground, tile.heatmap, tile.scale, 1.0 if picture is None else 0.6)
    return Figure(source_of(drawn), caption)


def map_alone(heatmap: Tensor) -> Image.Image:
    """Draw a map on white."""
    height, width = heatmap.shape
    return overlay(Image.new("RGB", (width, height), "white"), heatmap, scale_of(heatmap), 1.0)


def source_of(image: Image.Image) -> str:
    return png_source(fit(image, SIDE))
