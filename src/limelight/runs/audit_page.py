"""The page of `limelight audit`: the verdicts, and the pictures to look at."""

from __future__ import annotations

import torch

from ..base.version import versions
from ..show import picture_of
from .clusters import SIDE as SIDE_OF_CELLS
from .covering import covered
from .page import HEAD, PAGE, SIDE, Figure, example_figure, source_of
from .tables import need
from .verdicts import Audit, Verdict

_EXAMPLES = 8  # pictures of a group
_MOST = 24  # groups that are drawn

_TEMPLATE = (
    HEAD
    + """<h1>{{ title }}</h1>
<p><b>{{ audit.sentence }}</b></p>
{% if audit.notes %}<ul>{% for each in audit.notes %}<li>{{ each }}</li>{% endfor %}</ul>{% endif %}
<p>For each class, the most compact group of maps was compared with that of classes whose labels were shuffled over the
same maps (p of the maps, corrected for all sizes, classes and methods). Where it stands out, the place of the maps was
covered with the picture's mean colour, and the right predictions that change were counted: against the same shape
elsewhere, against the other classes, and against classes shuffled over the same changes (p of the cover, corrected for
the places covered). Found is what is at most {{ "%.0f%%" % (100 * audit.alpha) }} in both. Objects move from picture to
picture. If the objects of a class never move, and those of others do, they are found, too.</p>
{% for each, drawn, hidden in groups %}<h2>{{ each.outcome[0] | upper }}{{ each.outcome[1:] }}: {{ each.label }},
{{ each.method }}</h2>
<p>{{ each.sentence }}.</p>{{ figures(drawn) }}
{% if hidden %}<p>With the place covered, the prediction changes:</p>{{ figures(hidden) }}{% endif %}{% endfor %}
{% if audit.verdicts %}<h2>All verdicts</h2><div class="wide"><table><tr><th>class</th><th>method</th><th>verdict</th>
<th class="n">p of the maps</th><th class="n">correlation</th><th class="n">shuffled</th><th class="n">maps</th>
<th>place</th><th class="n">p of the cover</th><th class="n">changed</th><th class="n">elsewhere</th>
<th class="n">other classes</th><th class="n">elsewhere</th><th class="n">times as much</th></tr>
{% for each in audit.verdicts %}<tr><td>{{ each.label }}</td><td>{{ each.method }}</td>
<td>{{ each.outcome }}</td><td class="n">{{ "%.3g" % each.p }}</td>
<td class="n">{{ "%.2f" % each.compactness }}</td><td class="n">{{ "%.2f" % each.expected }}</td>
<td class="n">{{ each.ids | length }} / {{ each.compared }}</td><td>{{ each.words }}</td>
{% if each.cover %}{% set c = each.cover %}<td class="n">{{ "%.3g" % c.p }}</td>
<td class="n">{{ c.changed.count }} / {{ c.changed.total }}</td><td class="n">{{ "%.0f%%" % (100 * c.elsewhere) }}</td>
<td class="n">{{ c.others.count }} / {{ c.others.total }}</td>
<td class="n">{{ "%.0f%%" % (100 * c.others_elsewhere) }}</td>
<td class="n">{{ "%.1f (%.1f to %.1f)" % (c.times, c.low, c.high) }}</td>
{% else %}<td colspan="6"></td>{% endif %}</tr>{% endfor %}</table></div>{% endif %}
{% if audit.accuracy %}<h2>Accuracy</h2>{{ shares(audit.accuracy, "class") }}{% endif %}
{% if audit.failing %}<h2>Maps that fail a hard test</h2>
<p>A hard test has a right answer: these maps lack a property that their method promises.</p>
{{ shares(audit.failing, "test") }}{% endif %}
<p>All figures of the run: {{ report }} in this folder. Every file of the folder is listed in bundle.json with its
SHA-256.</p>
<h2>Settings</h2><div class="wide"><table>{% for name, value in settings %}
<tr><td>{{ name }}</td><td>{{ value }}</td></tr>{% endfor %}</table></div>
</body></html>
"""
)


def audit_page(audit: Audit) -> str:
    """Return the page as HTML. Raises ImportError where the extra `report` is missing."""
    jinja2 = need("jinja2", "report", "the page of an audit")
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_TEMPLATE)
    settings = audit.run.settings
    own = {name: getattr(audit, name) for name in ("alpha", "shuffles")}
    text: str = page.render(
        title=f"Audit of {settings['model']} on {settings['images']}",
        side=SIDE,
        audit=audit,
        groups=[(each, _figures(audit, each), _covered(audit, each)) for each in audit.verdicts[:_MOST]],
        report=PAGE,
        settings=[*own.items(), *settings.items(), *versions().items()],
    )
    return text


def _figures(audit: Audit, verdict: Verdict) -> list[Figure]:
    """Draw the medoid and the examples most like it."""
    words = ("medoid", *[""] * (_EXAMPLES - 1))
    return [example_figure(audit.run, i, verdict.method, each) for i, each in zip(verdict.ids, words, strict=False)]


def _covered(audit: Audit, verdict: Verdict) -> list[Figure]:
    """Draw pictures whose prediction changes, with the place covered; those of the group first."""
    if verdict.cover is None:
        return []
    cells = torch.zeros(SIDE_OF_CELLS**2, dtype=torch.bool)
    cells[list(verdict.cover.cells)] = True
    changed = sorted(verdict.cover.ids, key=lambda i: (i not in verdict.ids, i))[:_EXAMPLES]
    places = cells.view(1, SIDE_OF_CELLS, SIDE_OF_CELLS)
    return [
        Figure(source_of(picture_of(covered(audit.run.picture(i)[None], places)[0, 0])), audit.run[i].entry.path)
        for i in changed
    ]
