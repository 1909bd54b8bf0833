"""The pages of the API reference, made from the registries: the site's build calls `pages()`.

Every public name has one entry: its text as typed, its docstring, what its settings refuse, and an example that
`tests/test_reference.py` runs. Examples of methods stand in their docstrings, all others in `examples.py`.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import limelight as ll
from limelight import rules
from limelight.base.named import Registry
from limelight.checks.imputers import IMPUTERS
from limelight.methods.families import FAMILIES, family_of

HERE = Path(__file__).parent
REGISTRIES: dict[str, tuple[str, Any, str]] = {
    "METHODS": ("Methods", ll.METHODS, "`method=` of every function, and `inner=` of a method that uses another."),
    "CHECKS": ("Checks", ll.CHECKS, "`check=`, or a list of them. [In plain words](../checks-in-words.md)."),
    "TARGETS": ("Targets", ll.TARGETS, "`target=`: one number for each example, read from the model's outputs."),
    "BASELINES": ("Baselines", ll.BASELINES, "`baseline=`: what absence means. A number or a tensor is a constant."),
    "PLAYERS": ("Players", ll.PLAYERS, "`players=` of games and surrogates, `segments=` of ablation."),
    "QUADRATURES": ("Quadratures", ll.QUADRATURES, "`quadrature=` of path methods: nodes and weights on [0, 1]."),
    "WINDOWS": ("Windows", ll.WINDOWS, "`window=` of `Occlusion`, besides a box of so many positions a side."),
    "VIEWS": ("Views", ll.VIEWS, "`view=`: how a map is read and drawn. [Looking at maps](../viewer.md)."),
}
FIELD = re.compile(r"(\w+)\s*=\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")  # with braces within braces
SETUP = """
import torch
from torch import nn

import limelight as ll

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
).eval()
x = torch.rand(2, 3, 16, 16)            # two pictures of 16 x 16 in three channels
""".strip()
TEXTS = """
from tokenizers import Tokenizer, models, pre_tokenizers

vocabulary = {"[UNK]": 0, "[MASK]": 1, "a": 2, "good": 3, "film": 4, ".": 5}
tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()


class Writer(nn.Module):                # a language model: the mean of the tokens so far predicts the next one
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(6, 8), nn.Linear(8, 6)

    def get_input_embeddings(self):
        return self.table

    def get_output_embeddings(self):
        return self.head

    def forward(self, inputs_embeds, attention_mask):
        seen = attention_mask[..., None]
        return self.head((inputs_embeds * seen).cumsum(1) / seen.cumsum(1).clamp(min=1))


writer = ll.TextModel(Writer(), tokenizer)
""".strip()
SHAPES = """
Inputs are `(batch, *features)`; maps are `(batch, *features)`, with one channel where a method gives one value for each
pixel. Every example runs after these lines:
"""
ERRORS = """
??? note "Errors that all share"
    An unknown name or setting is a `ValueError` or `TypeError` that gives the nearest names. A target out of
    range, a layer that the model lacks and inputs of another shape are a `ValueError` that names the argument, its
    value and what would have worked. NaN or infinity in inputs, scores or maps are a `FloatingPointError` that
    names the example. A method that needs gradients refuses a black box and names the methods that do not; a check
    without an answer gives NaN and the reason. What an entry lists below comes on top.
"""


def pages() -> dict[str, str]:
    """Return the Markdown of every page by its file name."""
    found = {f"{title.lower()}.md": _registry(name) for name, (title, _, _) in REGISTRIES.items()}
    functions, results, models, bases = _others()
    found["functions.md"] = _page("Functions", "What is called. `import limelight as ll`.", functions)
    found["results.md"] = _page("Results", "What the functions return.", results)
    found["models.md"] = _page("Models and pictures", "What is explained ([how](../your-own-model.md)).", models)
    found["bases.md"] = _page("Base classes", "What your own methods, checks and targets inherit.", bases)
    found["rules.md"] = _rules()
    found["papers.md"] = papers()
    return found


def _others() -> tuple[list[str], list[str], list[str], list[str]]:
    """The public names that no registry lists: functions, results, models, base classes."""
    listed = {kind.__name__ for _, registry, _ in REGISTRIES.values() for kind in registry}
    listed |= {*REGISTRIES}
    names = [name for name in ll.__all__ if name not in listed and name != "__version__"]
    functions = [name for name in names if not isinstance(getattr(ll, name), type)]
    bases = [name for name in names if _is_base(getattr(ll, name))]
    models = [name for name in names if _home(name).startswith("limelight.models") and name not in functions]
    models += ["Prepared", "Patterns", "UncoveredOperator"]
    results = [name for name in names if name not in {*functions, *bases, *models}]
    return functions, results, models, bases


def _is_base(thing: Any) -> bool:
    bases = {registry.base.__name__ for _, registry, _ in REGISTRIES.values()}
    return isinstance(thing, type) and thing.__name__ in {*bases, "Named", "Score"}


def _home(name: str) -> str:
    return str(getattr(getattr(ll, name), "__module__", ""))


def _page(title: str, about: str, names: Iterable[str]) -> str:
    return "\n".join([f"# {title}", "", about, SHAPES, _code(SETUP), *(line for n in names for line in _entry(n)), ""])


def setup(example: str) -> str:
    """The lines that an example runs after."""
    return f"{SETUP}\n\n{TEXTS}" if "writer" in example else SETUP


def _registry(name: str) -> str:
    """The page of a registry: methods by family, checks by kind."""
    title, registry, about = REGISTRIES[name]
    lines = [f"# {title}", "", about, SHAPES, _code(SETUP), ERRORS]
    lines += [
        "",
        f"`ll.{name}` lists these classes, `ll.{name}.names` the names; `ll.{name}.read(text)` reads one.",
    ]
    lines += ["", _code(examples()[name]), ""]
    if any("writer" in examples().get(kind.__name__, "") for kind in registry):
        lines += ["Examples of texts run after these lines, too:", "", _code(TEXTS), ""]
    for group, kinds in _groups(registry):
        lines += [f"## {group}", ""] if group else []
        for kind in kinds:
            lines += _entry(kind.__name__) if hasattr(ll, kind.__name__) else []
    return "\n".join(lines) + "\n"


def _groups(registry: Registry[Any]) -> Iterator[tuple[str, list[Any]]]:
    if registry is ll.METHODS:
        for family in FAMILIES:
            kinds = [kind for kind in registry if family_of(kind) == family]
            if kinds:
                yield family, kinds
    elif registry is ll.CHECKS:
        for kind in dict.fromkeys(each.kind for each in registry):
            yield kind.capitalize(), [each for each in registry if each.kind == kind]
    else:
        yield "", list(registry)


def _entry(name: str) -> list[str]:
    """One name: heading, text as typed, facts, docstring by mkdocstrings, refusals, example."""
    thing = getattr(ll, name)
    lines = [f"### {name} {{ #{name} }}", ""]
    if dataclasses.is_dataclass(thing) and hasattr(thing, "usage") and not _is_base(thing):
        lines += [f"`{thing.usage()}`", ""]
    if not isinstance(thing, type) and callable(thing):
        plain = inspect.signature(thing)
        named = [each.replace(annotation=inspect.Parameter.empty) for each in plain.parameters.values()]
        lines += [_code(f"{name}{plain.replace(parameters=named, return_annotation=inspect.Signature.empty)}"), ""]
    lines += [*facts(thing), f"::: {path_of(thing)}"]
    if hasattr(thing, "usage"):  # what is inside a method or a check is no one's to call
        lines += ["    options:", "      members: false"]
    lines += [""]
    lines += [f"Refuses: {'; '.join(refused)}.", ""] if (refused := refusals(thing)) else []
    example = examples().get(name)
    return [*lines, _code(example), ""] if example else lines


def facts(thing: Any) -> list[str]:
    """What a method promises and costs, what a check's figure means: from the attributes of the class."""
    found: list[str] = []
    if isinstance(thing, type) and issubclass(thing, ll.Method) and thing in ll.METHODS:
        found = [promise(thing()), f"cost: {cost(thing())}", needed(thing())]
    elif isinstance(thing, type) and issubclass(thing, ll.Check) and thing in ll.CHECKS:
        better = {None: "describes", "higher": "higher is better", "lower": "lower is better"}[thing.better]
        found = [thing.meaning, better] if thing.meaning else [better]
    return ["\n".join(f"- {each}" for each in found), ""] if found else []


def promise(method: ll.Method) -> str:
    """The promise on the sum of a method's map."""
    if method.no_sum is None:
        return "promises: values sum to $f(x) - f(b)$"
    return f"promises no sum: {method.no_sum}"


def cost(method: ll.Method, features: tuple[int, ...] = (3, 224, 224)) -> str:
    """The rows that one picture of 224 x 224 costs under the settings that stand."""
    import torch

    rows = method.rows(torch.Size(features))
    if rows is None:
        return f"model rows depend on the example, {method.least_rows} and more"
    most = "at most " if method.rows_at_most else ""
    return f"{most}{rows:,} model row{'s' * (rows != 1)} for a picture of 224 x 224, beside f(x) and f(b)"


def needed(method: ll.Method) -> str:
    """What a method needs of the model and of the question."""
    needs = method.needs
    words = ["gradients"] * needs.gradients + ["a layer"] * needs.layer
    words += ["a baseline"] * (needs.baseline or needs.references)
    return f"needs: {', '.join(words) or 'scores alone, so any function is explained'}"


def refusals(kind: Any) -> list[str]:
    """What the settings of a class refuse, from the calls of `require` in its `__post_init__`."""
    found: list[str] = []
    for each in getattr(kind, "__mro__", ()):
        init = vars(each).get("__post_init__")
        if init is None or not each.__module__.startswith("limelight"):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(init)))
        found += [text for node in ast.walk(tree) if isinstance(node, ast.Call) and (text := _refusal(node))]
    return list(dict.fromkeys(found))


def _refusal(call: ast.Call) -> str | None:
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    constants = [each.value for each in call.args if isinstance(each, ast.Constant)]
    match name, constants:
        case "require" | "require_number", [str(field), str(wanted)]:
            return f"`{field}` other than {wanted}"
        case "require_whole", [str(field), int(least)]:
            return f"`{field}` other than a whole number of {least} or more"
        case "require_tolerance", []:
            return "`tolerance` other than a positive number or None"
        case "require_steadiness", []:
            return "`steadiness` other than a correlation below 1 or None"
    return None


def path_of(thing: Any) -> str:
    """The path by which mkdocstrings finds the source of a public object."""
    if inspect.ismethod(thing):
        return f"limelight.base.named.Registry.{thing.__name__}"
    return f"{thing.__module__}.{thing.__qualname__}"


def _code(text: str) -> str:
    return f"```python\n{text.strip()}\n```\n"


def examples() -> dict[str, str]:
    """The examples by public name; see `examples.py`."""
    text = (HERE / "examples.py").read_text(encoding="utf-8")
    parts = re.split(r"^# (\w+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))


def _rules() -> str:
    """The rules by which relevance is passed back, and the composites that choose among them."""
    lines = ["# Rules", "", "`limelight.rules`: what your own composites are made of ([how](../rules.md)).", ""]
    lines += ["## Composites", "", "`ll.LRP(name)` takes one of these by name:", ""]
    lines += [f"- `{name}`" for name in rules.COMPOSITES]
    lines += ["", _code(examples()["rules"]), "## Rules and predicates", ""]
    for name, thing in sorted(vars(rules).items()):
        if not name.startswith("_") and (inspect.isclass(thing) or inspect.isfunction(thing)) and inspect.getdoc(thing):
            lines += [f"### {name} {{ #{name} }}", "", f"::: {path_of(thing)}", ""]
    return "\n".join(lines) + "\n"


def imputers() -> list[str]:
    """The names of the imputers, which `fill=` of checks takes."""
    return [kind.usage() for kind in IMPUTERS]


def papers() -> str:
    """The papers that docstrings cite, one anchor each, from references.bib."""
    text = (HERE / "references.bib").read_text(encoding="utf-8")
    lines = ["# Papers", "", "What the docstrings and pages cite, from `docs/references.bib`.", ""]
    for key, body in re.findall(r"@\w+\{(\w+),(.*?)\}\s*(?=@|\Z)", text, re.DOTALL):
        fields = {name: _plain(value) for name, value in FIELD.findall(body)}
        where = fields.get("booktitle") or fields.get("journal") or fields.get("publisher") or ""
        lines += [f"`{key}` {fields['author']}. *{fields['title']}*. {where}, {fields['year']}.", f"{{ #{key} }}", ""]
    return "\n".join(lines)


def _plain(value: str) -> str:
    accents = {r"\"": "\u0308", r"\'": "\u0301", r"\`": "\u0300", r"\^": "\u0302", r"\~": "\u0303", r"\c ": "\u0327"}
    for written, mark in accents.items():
        value = re.sub(r"\{?" + re.escape(written) + r"\{?(\w)\}?\}?", lambda m, mark=mark: m[1] + mark, value)
    return " ".join(re.sub(r"[{}]", "", value).split()).replace(" and ", ", ")
