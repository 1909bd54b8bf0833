"""The site's build: pages from the registries and from outside docs/, the order of pages, formulas without scripts."""

from __future__ import annotations

import html
import json
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import docstrings
import make_reference
import make_tutorials

ROOT = Path(__file__).parents[1]
OUTSIDE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
OUTSIDE |= {f"benchmarks/{path.name}": f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.md")}
NAV: dict[str, tuple[str, ...]] = {
    "Start": (
        *("index.md", "your-own-model.md", "choose.md", "gallery.md", "features.md", "cautions.md"),
        *("migration.md", "comparison.md", "what-changes.md"),
    ),
    "Tutorials": ("tutorials/index.md", "tutorials/*.md"),
    "Explain": (
        *("methods-by-question.md", "targets-and-baselines.md", "paths.md", "rules.md", "tasks.md", "text.md"),
        *("tables-and-series.md", "volumes.md", "black-boxes.md", "model.md", "coverage.md"),
    ),
    "Test": ("checks.md", "checks-in-words.md", "benchmarks/ranking.md", "benchmarks/checks.md", "audit.md"),
    "Look": ("viewer.md",),
    "Run": ("runs.md", "training.md", "deployment.md"),
    "Reference": ("names.md", "reference/*.md"),
    "Studies": ("studies/*.md",),
    "Project": (
        "changelog.md",
        "contributing.md",
        "releasing.md",
        "benchmarks/*.md",
        "decisions/README.md",
        "decisions/*.md",
    ),
}
LAST = "Further"  # pages that NAV does not name


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, then put every page into the navigation."""
    for name, text in make_reference.pages().items():
        files.append(File.generated(config, f"reference/{name}", content=text))
    for path, name in OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text(encoding="utf-8")))
    for path in make_tutorials.sources():
        made = json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))
        text, pictures = make_tutorials.page(made, path.stem)
        for name, content in {f"{path.stem}.md": text, **pictures}.items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    pages = sorted(file.src_uri for file in files.documentation_pages())
    config.nav = navigation(pages)
    return files


def navigation(pages: list[str]) -> list[dict[str, list[str]]]:
    """Every page once, by the sections of NAV; what none of them names comes last."""
    left, nav = list(pages), []
    for title, patterns in NAV.items():
        found: list[str] = []
        for pattern in patterns:
            found += [page for page in left if Path(page).match(pattern) and page not in found]
        left = [page for page in left if page not in found]
        nav += [{title: found}] if found else []
    return [*nav, {LAST: left}] if left else nav


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at pages from outside docs/, and keys of papers at the page of papers."""
    here = page.file.src_uri
    origin = {name: path for path, name in OUTSIDE.items()}.get(here, f"docs/{here}")
    bibliography = posixpath.relpath("reference/papers.md", posixpath.dirname(here) or ".")
    parts = re.split(r"(```.*?```|`[^`\n]+`)", markdown, flags=re.DOTALL)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(
            r"\]\((?!\w+:|#|/)([^)#\s]+)(#[^)]*)?\)", lambda m: f"]({_moved(m[1], origin, here)}{m[2] or ''})", parts[i]
        )
        parts[i] = docstrings.with_links(parts[i], bibliography)
    return "".join(parts)


def _moved(link: str, origin: str, here: str) -> str:
    """The link of a file of the repository as one of the site's pages."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
    if target in ("README.md", "docs/README.md"):
        target = "docs/index.md"
    place = OUTSIDE.get(target, target.removeprefix("docs/"))
    return posixpath.relpath(place, posixpath.dirname(here) or ".")


def on_page_content(content: str, **_: Any) -> str:
    """Turn formulas into MathML, which browsers draw without a script."""
    display = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)
    inline = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
    content = display.sub(lambda m: convert(html.unescape(m[1]), display="block"), content)
    return inline.sub(lambda m: convert(html.unescape(m[1])), content)
