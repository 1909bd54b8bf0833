"""One of each of METHODS, sized to the pictures at hand and to the rows that it may cost."""

from __future__ import annotations

from dataclasses import replace

from ...methods import (
    IDGI,
    METHODS,
    RISE,
    XRAI,
    AtLayer,
    BlurIntegratedGradients,
    ExactShapley,
    ExpectedGradients,
    ExtremalPerturbation,
    FeatureAblation,
    Gradient,
    GuidedIntegratedGradients,
    IntegratedGradients,
    KernelShap,
    Lime,
    MeaningfulPerturbation,
    Method,
    Occlusion,
    PartitionShap,
    PatternAttribution,
    PatternNet,
    PermutationShap,
    ScoreCAM,
    ShapleySampling,
    SmoothGrad,
    SmoothGradSquared,
    TaylorDecomposition,
    VarGrad,
)
from ...methods.quadrature import GaussLegendre
from ...question.players import Grid
from ...rules import Patterns


def one_of_each(patterns: Patterns, side: int, rows: int) -> list[Method]:
    """Every method, for pictures `side` pixels wide, with about `rows` rows of the model for those that can choose.

    Methods without a choice of rows keep their defaults. The games are played with 64 squares where `rows` is 512 or
    more, with 25 from 64, with 9 from 16, else with 4; ExactShapley, which runs every coalition, with 9 from 512, else
    with 4. Below 16 rows occlusion's windows don't overlap and extremal perturbation looks for one area.
    Raises ValueError below 4 rows.
    """
    if rows < 4:
        raise ValueError(f"rows: {rows}; use 4 or more")
    cells = 8 if rows >= 512 else 5 if rows >= 64 else 3 if rows >= 16 else 2
    squares, few = Grid(cells), Grid(3 if rows >= 512 else 2)
    path = IntegratedGradients(GaussLegendre(min(rows, 32)))
    samples = max(2, min(rows, 32) // 2 * 2)
    orders = max(2, rows // cells**2 // 2 * 2)  # each with its reverse
    window = max(1, side // 4)
    extremal = ExtremalPerturbation(steps=min(rows, 800), step=max(2, side // 32), sigma=side / 10.7, blur=side / 11.2)
    chosen: dict[type[Method], Method] = {
        IntegratedGradients: path,
        ExpectedGradients: ExpectedGradients(samples=min(rows, 64)),
        BlurIntegratedGradients: BlurIntegratedGradients(steps=min(rows, 32)),
        GuidedIntegratedGradients: GuidedIntegratedGradients(steps=min(rows, 64)),
        TaylorDecomposition: TaylorDecomposition(most_evaluations=min(max(rows, 16), 48)),
        IDGI: IDGI(path),
        XRAI: XRAI(path),
        AtLayer: AtLayer(path),
        SmoothGrad: SmoothGrad(Gradient(), samples=samples),
        SmoothGradSquared: SmoothGradSquared(Gradient(), samples=samples),
        VarGrad: VarGrad(Gradient(), samples=samples),
        PatternNet: PatternNet(patterns=patterns),
        PatternAttribution: PatternAttribution(patterns=patterns),
        ScoreCAM: ScoreCAM(most_channels=rows),
        Occlusion: Occlusion(window=window, stride=window if rows < 16 else max(1, side // 8)),
        FeatureAblation: FeatureAblation(players=squares),
        RISE: RISE(masks=rows),
        MeaningfulPerturbation: MeaningfulPerturbation(steps=min(rows, 300), size=max(4, side // 8), jitter=side // 56),
        ExtremalPerturbation: replace(extremal, areas=(0.1,)) if rows < 16 else extremal,
        ExactShapley: ExactShapley(players=few),
        KernelShap: KernelShap(players=squares, samples=max(rows, 2 * cells**2)),
        ShapleySampling: ShapleySampling(players=squares, permutations=orders),
        PermutationShap: PermutationShap(players=squares, permutations=orders),
        PartitionShap: PartitionShap(players=squares, evaluations=max(rows, 4)),
        Lime: Lime(players=squares, samples=max(rows, 2 * cells**2)),
    }
    return [chosen[kind] if kind in chosen else kind() for kind in METHODS]
