"""Help pages: options in groups, examples below, as wide as the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

from .model_options import ModelOptions
from .question_options import QuestionOptions

WIDEST = 120  # columns
_MODEL = {each.name for each in dataclasses.fields(ModelOptions)}
_QUESTION = {"target", "baseline", "outputs", "layer", "method", "check", "top", "mask"}
_RUNNING = {each.name for each in dataclasses.fields(QuestionOptions)} - _MODEL - _QUESTION
_GROUPS = (("Question", _QUESTION), ("Model", _MODEL), ("Running", _RUNNING | {"help"}))
EXAMPLES: dict[str, tuple[str, ...]] = {
    "verify": ("limelight verify out/", "limelight verify out/ maps/gradient.safetensors"),
    "explain": (
        "limelight explain --demo",
        "limelight explain --text 'bake the dessert' --target \"similarity('a cake')\"",
        "limelight explain cat.jpg -m 'smooth-grad(samples=64),grad-cam' --target tabby -o out/",
        "limelight explain photos/ --model resnet50 --baseline 'blur(5)' --top 2",
    ),
    "check": (
        "limelight check demo -m grad-cam",
        "limelight check cat.jpg -m occlusion -c 'randomisation,deletion(steps=16)' --json",
    ),
    "sweep": ("limelight sweep cat.jpg -m smooth-grad -f samples=8,32,128 -f noise=0.05,0.15",),
    "run": (
        "limelight run photos/ -o run/ -m integrated-gradients,grad-cam -c deletion",
        "limelight run reviews.csv --text-column text -o run/ -m attn-lrp --target \"similarity('a good film')\"",
    ),
    "report": ("limelight report run/",),
    "audit": ("limelight audit run/",),
    "serve": ("limelight serve --model resnet50", "limelight serve --model minilm"),
    "methods": ("limelight methods", "limelight methods integrated-gradients"),
    "checks": ("limelight checks", "limelight checks deletion"),
    "targets": ("limelight targets", "limelight targets margin"),
    "baselines": ("limelight baselines", "limelight baselines blur"),
    "models": ("limelight models resnet", "limelight models resnet50 --layers"),
}


class GroupedCommand(TyperCommand):
    """A command whose help lists its own options first, then those of the question, the model and the running."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then the options in their groups."""
        arguments: list[tuple[str, str]] = []
        own: list[tuple[str, str]] = []
        grouped: dict[str, list[tuple[str, str]]] = {title: [] for title, _ in _GROUPS}
        for each in self.get_params(ctx):
            record = each.get_help_record(ctx)
            if record is None:
                continue
            title = next((title for title, names in _GROUPS if each.name in names), None)
            where = arguments if each.param_type_name == "argument" else grouped[title] if title else own
            where.append(record)
        if sum(map(len, grouped.values())) < 8:  # too few to divide
            own += [record for records in grouped.values() for record in records]
            grouped = {}
        for title, records in (("Arguments", arguments), ("Options", own), *grouped.items()):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the command's examples, unbroken."""
        examples = EXAMPLES.get(self.name or "", ())
        if examples:
            with formatter.section("Examples"):
                for each in examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{each}\n")


def add_command(app: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command under a name, with grouped help."""
    return app.command(name, cls=GroupedCommand)
