"""The page of `limelight audit`: the verdicts, and the pictures to look at."""

from __future__ import annotations

from ..base.version import versions
from .page import HEAD, PAGE, SIDE, Figure, example_figure
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
same maps. A group is called found if it is more compact than {{ "%.0f%%" % (100 - 100 * audit.alpha) }} of the shuffles
allow and than a tolerance of {{ audit.tolerance }} (a correlation) on top; p is corrected for all sizes, classes and
methods. Objects move from picture to picture. If the objects of a class never move, they are found too.</p>
{% for each, drawn in groups %}<h2>{{ "FOUND" if each.found else "Not found" }}: {{ each.label }},
{{ each.method }}</h2>
<p>{{ each.sentence }}.</p>{{ figures(drawn) }}{% endfor %}
{% if audit.verdicts %}<h2>All verdicts</h2><div class="wide"><table><tr><th>class</th><th>method</th><th>verdict</th>
<th class="n">p</th><th class="n">correlation</th><th class="n">shuffled</th><th class="n">maps</th><th>place</th>
<th class="n">of the picture</th></tr>
{% for each in audit.verdicts %}<tr><td>{{ each.label }}</td><td>{{ each.method }}</td>
<td>{{ "FOUND" if each.found else "not found" }}</td><td class="n">{{ "%.3g" % each.p }}</td>
<td class="n">{{ "%.2f" % each.compactness }}</td><td class="n">{{ "%.2f" % each.expected }}</td>
<td class="n">{{ each.ids | length }} / {{ each.compared }}</td><td>{{ each.place.words }}</td>
<td class="n">{{ "%.0f%%" % (100 * each.place.area) }}</td></tr>{% endfor %}</table></div>{% endif %}
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
    """Return the page as HTML. Raises ImportError where the extra `run` is missing."""
    jinja2 = need("jinja2", "run", "the page of an audit")
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_TEMPLATE)
    settings = audit.run.settings
    own = {name: getattr(audit, name) for name in ("alpha", "tolerance", "shuffles")}
    text: str = page.render(
        title=f"Audit of {settings['model']} on {settings['images']}",
        side=SIDE,
        audit=audit,
        groups=[(each, _figures(audit, each)) for each in audit.verdicts[:_MOST]],
        report=PAGE,
        settings=[*own.items(), *settings.items(), *versions().items()],
    )
    return text


def _figures(audit: Audit, verdict: Verdict) -> list[Figure]:
    """Draw the medoid and the examples most like it."""
    words = ("medoid", *[""] * (_EXAMPLES - 1))
    return [example_figure(audit.run, i, verdict.method, each) for i, each in zip(verdict.ids, words, strict=False)]
