"""The gallery: every method on the same two pictures. `python docs/make_gallery.py` (extra `demo`, some minutes).

It writes images/gallery/*.jpg, gallery.json with what each map cost and noted, and gallery.md, which
`tests/test_gallery.py` compares with the registry. `--page` writes the page alone, from gallery.json.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

from PIL import Image

import limelight as ll
from limelight.base.plain_text import plain_sentence
from limelight.methods.families import FAMILIES, family_of
from limelight.show.colour import scale_of
from limelight.show.drawn import drawn_map, picture_of_example
from limelight.show.image import TILE_OPACITY, overlay

HERE = Path(__file__).parent
IMAGES, FIGURES, PAGE = HERE / "images" / "gallery", HERE / "gallery.json", HERE / "gallery.md"
PICTURES = ("chelsea", "coffee")
SIDE = 200
# Settings other than the defaults, where these would cost minutes a picture.
SETTINGS: dict[str, str] = {
    "ExactShapley": "exact-shapley(grid(2))",
    "ShapleyInteractions": "shapley-interactions(players=grid(2))",
    "SSCAM": "sscam(samples=2, most_channels=32)",
    "ScoreCAM": "score-cam(most_channels=64)",
    "RISE": "rise(masks=500)",
    "KernelShap": "kernel-shap(160, players=grid(7))",
    "Lime": "lime(160, players=grid(7))",
    "PartitionShap": "partition-shap(64)",
    "ExpectedGradients": "expected-gradients(32, noise=0.15)",
    "ExtremalPerturbation": "extremal-perturbation(areas=[0.1, 0.3], steps=400)",
    "PermutationShap": "permutation-shap(permutations=2, players=grid(7))",
    "ShapleySampling": "shapley-sampling(permutations=2, players=grid(7))",
}
TARGETS = {"MeaningfulPerturbation": "probability"}  # whose weights are for it
CANNOT = {
    "Gradients": "How much of the score a pixel gave. Where the score is saturated the gradient is near zero, and "
    "single pixels carry the noise of the network's kinks.",
    "Averages over noise": "What happens at the picture itself: it is the mean of maps around it.",
    "Paths from a baseline": "What is as dark as the baseline: where x equals it the values are zero. Another baseline "
    "asks another question.",
    "Inside the network": "Which pixels: a place of a layer sees more of the picture than where it is drawn.",
    "Backward rules": "What the rules leave out: they answer with a model of each operator, and biases or stabilisers "
    "may keep part of the score.",
    "Class activation maps": "Fine detail: the map is as coarse as the layer, and places of a layer see most of the "
    "picture.",
    "Covering parts of the picture": "What parts do together: a copy of the evidence elsewhere hides both. Covered "
    "pictures are none that the model was trained on.",
    "Games between parts of the picture": "Anything smaller than a player, and what the model does on pictures without "
    "holes.",
}
NOT_YET = {"refused": "`python docs/make_gallery.py` was stopped before"}
RECTIFIED = "Which class: the map hardly depends on it, nor on the last layers. The test `randomisation` fails it."
CANNOT_OF = {
    "GuidedBackprop": RECTIFIED,
    "DeconvNet": RECTIFIED,
    "EigenCAM": "Which class: it is the main component of a layer, whatever is asked.",
    "VarGrad": "The sign, and whether a pixel matters at all: it shows where the map is unsteady.",
    "SmoothGradSquared": "The sign.",
    "PatternNet": "How much a pixel gave: it shows the signal's direction, and needs data to estimate that from.",
    "PatternAttribution": "Anything without data that the patterns are estimated from.",
    "TaylorDecomposition": "What the root lacks: at plain black the gradient is nearly the same everywhere, so the "
    "map is the picture's brightness and the padding at its border. A blurred baseline is a better root.",
    "Lime": "More than its linear fit: the note says what share of the score's changes that explains.",
}


def main() -> None:
    figures: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    if "--page" not in sys.argv:
        make(figures)
    PAGE.write_text(page(figures), encoding="utf-8")


def make(figures: dict[str, Any]) -> None:
    """Explain both pictures by every method that has no figures yet; delete gallery.json to begin again."""
    network = ll.load_model()
    model = ll.prepare(network)
    pixels = [network.preprocess(ll.demo_image(each)) for each in PICTURES]
    IMAGES.mkdir(parents=True, exist_ok=True)
    shown = [Image.fromarray((each[0].permute(1, 2, 0) * 255).round().byte().numpy()) for each in pixels]
    joined(shown).save(IMAGES / "pictures.jpg", quality=85)
    figures["classes"] = [network.label(int(model(each).argmax())) for each in pixels]
    for kind in ll.METHODS:
        if kind.__name__ not in figures:
            figures[kind.__name__] = made(kind, model, pixels)
            FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def made(kind: type[ll.Method], model: Any, pixels: list[Any]) -> dict[str, Any]:
    """Draw the maps of one method, and return what the first cost and what they noted."""
    target = TARGETS.get(kind.__name__)
    try:
        maps = [ll.explain(model, each, method_of(kind), target=target) for each in pixels]
    except (ValueError, TypeError) as error:
        print(kind.kebab(), "refused:", error, flush=True)
        return {"refused": str(error)}
    joined([draw(each) for each in maps]).save(IMAGES / f"{kind.kebab()}.jpg", quality=82)
    print(kind.kebab(), maps[0].forward_rows, maps[0].backward_rows, f"{maps[0].seconds:.1f} s", flush=True)
    return {
        "forward rows": maps[0].forward_rows,
        "backward rows": maps[0].backward_rows,
        "layer": maps[0].layer,
        "cautions": sorted({note.text for each in maps for note in each.cautions}),
    }


def method_of(kind: type[ll.Method]) -> ll.Method:
    """The method as it is drawn."""
    return ll.METHODS.read(SETTINGS.get(kind.__name__, kind.kebab()))


def draw(a: ll.Attribution) -> Image.Image:
    """The map of the first example over its picture, as its view draws it."""
    heatmap = drawn_map(a.values[0].detach().float().cpu(), a.view)
    scale = scale_of(heatmap, None, a.view.percentile, a.view.colours)
    return overlay(picture_of_example(a).convert("RGB"), heatmap, scale, TILE_OPACITY)


def joined(pictures: list[Image.Image]) -> Image.Image:
    """Pictures side by side."""
    row = Image.new("RGB", (len(pictures) * (SIDE + 8) - 8, SIDE), "white")
    for i, each in enumerate(pictures):
        row.paste(each.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (i * (SIDE + 8), 0))
    return row


def page(figures: dict[str, Any]) -> str:
    """The page, from the registry's docstrings and attributes and the figures of the last run."""
    lines = [
        "# Gallery",
        "",
        "Every method on the same two pictures, each explained for the first class of EfficientNet-lite0:",
        f"{' and '.join(figures['classes'])}. `python docs/make_gallery.py` makes this page. A map is drawn as its",
        "method is read by default: red speaks for the class and blue against it, or brightness is the magnitude.",
        "",
        "![A cat, and a cup of coffee](images/gallery/pictures.jpg)",
        "",
        "Cost is in rows that went through the model for one picture, forward and backward. A map that looks good",
        "proves nothing: [which can be believed](checks.md), [which method for which question](choose.md).",
    ]
    for family in FAMILIES:
        kinds = [kind for kind in ll.METHODS if family_of(kind) == family]
        if kinds:
            lines += ["", f"## {family}"]
        for kind in kinds:
            lines += ["", *entry(kind, figures.get(kind.__name__, NOT_YET))]
    return "\n".join(lines) + "\n"


def entry(kind: type[ll.Method], figures: dict[str, Any]) -> list[str]:
    """One method: picture, sentence, formula, promise, cost, what it cannot tell."""
    name = kind.__name__
    text = inspect.getdoc(kind) or ""
    lines = [f"### {name}", "", plain_sentence(text), ""]
    if formula := re.search(r"\$\$(.*?)\$\$", text, re.DOTALL):
        lines += [f"$${formula[1].strip()}$$", ""]
    if "refused" in figures:
        return [*lines, f"Not drawn: {figures['refused']}"]
    lines += [f"![{name} of both pictures](images/gallery/{kind.kebab()}.jpg)", ""]
    method = method_of(kind)
    promise = "none: " + method.no_sum if method.no_sum else "the values sum to f(x) - f(baseline)"
    cost = f"{figures['forward rows']:,} forward, {figures['backward rows']:,} backward rows"
    cost += f" with `{SETTINGS[name]}`" if name in SETTINGS else ""
    cost += f", of the target `{TARGETS[name]}`" if name in TARGETS else ""
    cost += f"; layer `{figures['layer']}`" if figures["layer"] else ""
    lines += [f"- **Promise**: {promise}.", f"- **Cost**: {cost}."]
    lines += [f"- **Cannot tell**: {CANNOT_OF.get(name, CANNOT[family_of(kind)])}"]
    lines += [f"- **It says itself**: {each}." for each in figures["cautions"]]
    return [*lines, f"- [Reference](reference/methods.md#{name})"]


if __name__ == "__main__":
    main()
