"""One instance of each method of METHODS, sized to the pictures and to the model rows that it may cost."""

from __future__ import annotations

from dataclasses import replace

from ... import methods
from ...methods.quadrature import GaussLegendre
from ...question.players import Grid
from ...rules import Patterns


def one_of_each(patterns: Patterns, side: int, rows: int) -> list[methods.Method]:
    """Make every method for pictures `side` pixels wide; methods with a choice of rows use about `rows` of the model.

    The other methods keep their defaults. The Shapley methods play with 64 squares where `rows` is 512 or more, with 25
    from 64, with 9 from 16, else with 4; ExactShapley, which runs every coalition, with 9 from 512, else with 4. Below
    16 rows occlusion's windows don't overlap and extremal perturbation looks for one area.

    Raises ValueError below 4 rows.
    """
    if rows < 4:
        raise ValueError(f"rows: {rows}; use 4 or more")
    cells = 8 if rows >= 512 else 5 if rows >= 64 else 3 if rows >= 16 else 2
    squares, few = Grid(cells), Grid(3 if rows >= 512 else 2)
    path = methods.IntegratedGradients(GaussLegendre(min(rows, 32)))
    samples = max(2, min(rows, 32) // 2 * 2)
    orders = max(2, rows // cells**2 // 2 * 2)  # each with its reverse
    window = max(1, side // 4)
    extremal = methods.ExtremalPerturbation(
        steps=min(rows, 800), step=max(2, side // 32), sigma=side / 10.7, blur=side / 11.2
    )
    sized: list[methods.Method] = [
        path,
        methods.ExpectedGradients(samples=min(rows, 64)),
        methods.BlurIntegratedGradients(steps=min(rows, 32)),
        methods.GuidedIntegratedGradients(steps=min(rows, 64)),
        methods.TaylorDecomposition(most_evaluations=min(max(rows, 16), 48)),
        methods.IDGI(path),
        methods.XRAI(path),
        methods.AtLayer(path),
        methods.SmoothGrad(methods.Gradient(), samples=samples),
        methods.SmoothGradSquared(methods.Gradient(), samples=samples),
        methods.VarGrad(methods.Gradient(), samples=samples),
        methods.PatternNet(patterns=patterns),
        methods.PatternAttribution(patterns=patterns),
        methods.ScoreCAM(most_channels=rows),
        methods.SSCAM(most_channels=max(1, rows // 4), samples=min(rows, 4)),
        methods.Occlusion(window=window, stride=window if rows < 16 else max(1, side // 8)),
        methods.FeatureAblation(players=squares),
        methods.RISE(masks=rows),
        methods.MeaningfulPerturbation(steps=min(rows, 300), size=max(4, side // 8), jitter=side // 56),
        replace(extremal, areas=(0.1,)) if rows < 16 else extremal,
        methods.ExactShapley(players=few),
        methods.KernelShap(players=squares, samples=max(rows, 2 * cells**2)),
        methods.ShapleySampling(players=squares, permutations=orders),
        methods.PermutationShap(players=squares, permutations=orders),
        methods.PartitionShap(players=squares, evaluations=max(rows, 4)),
        methods.ShapleyInteractions(players=few),
        methods.Lime(players=squares, samples=max(rows, 2 * cells**2)),
    ]
    chosen = {type(each): each for each in sized}
    return [chosen[kind] if kind in chosen else kind() for kind in methods.METHODS]
