"""Names, texts and files of everything that is registered; the options that every verb takes; notes by kind."""

from __future__ import annotations

import dataclasses
import pickle
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import limelight as ll
from limelight.base.named import _REGISTRIES, Named, registered, text_of
from limelight.checks.imputers import IMPUTERS
from limelight.question.registries import read_target
from limelight.runs.job import described

from .networks import conv_net, pictures

pytestmark = pytest.mark.quick

OLD = Path(__file__).parent / "fixtures" / "format1"
FILES = sorted(OLD.glob("*.safetensors"))
SETTINGS: dict[type[Named], tuple[Any, ...]] = {
    ll.Region: ([[1.0, 0.0], [0.0, 1.0]], 1),
    ll.Box: ([0.0, 0.0, 4.0, 4.0],),
    ll.Similarity: ([1.0, 0.0, 0.5, 0.0, 0.0],),
    ll.Neuron: ("stem.0", (0, 1, 1)),
    ll.Frequencies: ((0.5, 0.5),),
    ll.Mean: (torch.zeros(2, 3, 8, 8, dtype=torch.float64),),
    ll.Median: (torch.zeros(2, 3, 8, 8, dtype=torch.float64),),
    ll.Samples: (torch.rand(3, 3, 8, 8, dtype=torch.float64), 2),
    ll.Columns: (((0, 1), "colour_*"),),
    ll.Segments: (torch.arange(64).view(8, 8) // 16,),
}
PYTHON_ALONE = {"Function"}  # it holds a function
NOT_OF_PICTURES = {ll.Frequencies, ll.Shuffle, ll.Region, ll.Box, ll.Detection}
NOT_OF_PICTURES |= {ll.Interpolation, ll.CircularShift, ll.Continuation, ll.Token, ll.Pad, ll.MeanToken, ll.Cut}
NOT_OF_PICTURES |= {ll.WrongWords}


def made(kind: type[Any]) -> Any:
    return kind(*SETTINGS.get(kind, ()))


def all_of(*registries: Any) -> list[type[Any]]:
    return [kind for registry in registries for kind in registry if kind.__name__ not in PYTHON_ALONE]


def test_names_are_unique_over_all_registries() -> None:
    kinds = all_of(ll.METHODS, ll.CHECKS, ll.TARGETS, ll.BASELINES, ll.PLAYERS, ll.QUADRATURES, ll.VIEWS, IMPUTERS)
    names = [kind.kebab().replace("-", "") for kind in kinds]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("kind", all_of(ll.TARGETS, ll.BASELINES, ll.PLAYERS), ids=lambda kind: kind.__name__)
def test_text_and_file_bring_it_back(kind: type[Any], tmp_path: Path) -> None:
    thing = made(kind)
    field = "target" if kind in ll.TARGETS else "baseline"  # players, too, are held and saved by any field
    a = ll.explain(conv_net(), pictures(1), "gradient")
    saved = ll.Attribution.load(replace(a, **{field: thing}).save(tmp_path / "a.safetensors"))
    assert type(getattr(saved, field)) is kind and described(getattr(saved, field)) == described(thing)
    if kind in (ll.Mean, ll.Median, ll.Samples):  # more numbers than text holds
        with pytest.raises(ValueError, match="cannot be written as text"):
            thing.as_text()
        return
    registry: Any = next(each for each in (ll.TARGETS, ll.BASELINES, ll.PLAYERS) if kind in each)
    assert registry.read(thing.as_text()).as_text() == thing.as_text()


@pytest.mark.parametrize("kind", all_of(ll.METHODS, ll.CHECKS, ll.PLAYERS), ids=lambda kind: kind.__name__)
def test_each_setting_alone_is_read_back(kind: type[Any]) -> None:
    """One setting at a time differs from its default, so that no name is left out by mistake."""
    assert kind.usage().startswith(kind.kebab())
    if kind.has_defaults():
        assert kind().as_text() == kind.kebab()
    for each in dataclasses.fields(kind):
        default = getattr(made(kind), each.name)
        if isinstance(default, bool) or not isinstance(default, int | float):
            continue
        for other in (default + 1, default * 2, default / 2):  # one of them is allowed
            try:
                thing = replace(made(kind), **{each.name: other})
            except (ValueError, TypeError):
                continue
            read = next(r for r in (ll.METHODS, ll.CHECKS, ll.PLAYERS) if kind in r).read(thing.as_text())
            assert getattr(read, each.name) == other and read.as_text() == thing.as_text()
            break


def test_a_setting_given_by_name_alone_is_written_with_its_name() -> None:
    for method in (ll.LRP(on_uncovered="gradient"), ll.KernelShap(players=ll.Grid(2)), ll.Lime(players=ll.Grid(2))):
        assert ll.METHODS.read(method.as_text()) == method
    assert ll.LRP("epsilon").as_text() == "lrp('epsilon')" and ll.KernelShap(64).as_text() == "kernel-shap(64)"
    assert ll.DeepLift.usage() == "deep-lift(rule='rescale', on_uncovered='error', multiply=True, part='both')"


@pytest.mark.parametrize("kind", all_of(ll.TARGETS), ids=lambda kind: kind.__name__)
def test_targets_do_not_depend_on_the_batch_or_the_packing(kind: type[Any]) -> None:
    if kind in NOT_OF_PICTURES:
        pytest.skip("it reads a map, boxes or texts: test_targets_and_baselines.py, test_detectors.py, test_texts.py")
    net, x, target = conv_net(), pictures(), made(kind)
    whole = ll.explain(net, x, "integrated-gradients(midpoint(4))", target=target, rows_per_pass=7)
    for i in range(3):
        alone = ll.explain(net, x[i : i + 1], "integrated-gradients(midpoint(4))", target=target, rows_per_pass=1)
        torch.testing.assert_close(alone.values, whole.values[i : i + 1], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("kind", all_of(ll.BASELINES), ids=lambda kind: kind.__name__)
def test_baselines_do_not_depend_on_the_batch_or_the_packing(kind: type[Any]) -> None:
    if kind in NOT_OF_PICTURES:
        pytest.skip("it is of sequences, series or texts: test_sequences.py, test_tables_and_series.py, test_texts.py")
    net, x, baseline = conv_net(), pictures(), made(kind)
    whole = ll.explain(net, x, "occlusion(4, 3)", target=0, baseline=baseline, rows_per_pass=7)
    for i in range(3):
        alone = ll.explain(net, x[i : i + 1], "occlusion(4, 3)", target=0, baseline=baseline, rows_per_pass=1)
        torch.testing.assert_close(alone.values, whole.values[i : i + 1], atol=1e-12, rtol=1e-9)


def test_the_same_texts_in_python() -> None:
    net, x = conv_net(), pictures(1)
    a = ll.explain(net, x, "input-x-gradient", target="margin(1, other=2)", baseline="blur(2)")
    b = ll.explain(net, x, ll.InputXGradient(), target=ll.Margin(1, 2), baseline=ll.Blur(2))
    assert torch.equal(a.values, b.values) and a.target == ll.Margin(1, 2)
    assert described(a.baseline) == described(ll.Blur(2))
    assert repr(ll.CHECKS.read("deletion(fill=blur(3))")) == repr(ll.Deletion(fill=ll.Blur(3)))
    assert ll.check(net, x, "gradient", "deletion(fill=blur(2), steps=2)", target="1")[0].value.isfinite().all()


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (ll.TARGETS.read, "mrgin(3)", "target: 'mrgin' is unknown; did you mean margin"),
        (ll.BASELINES.read, "blurr(3)", "baseline: 'blurr' is unknown; did you mean blur"),
        (ll.CHECKS.read, "deletion(fill=blurr(3))", "'blurr' is unknown; did you mean blur"),
        (ll.TARGETS.read, "margin(3, othr=4)", "settings of margin: index, other"),
        (ll.TARGETS.read, "blur(3)", "is a Blur, not a target"),
        (
            ll.METHODS.read,
            "lrp(composite=epsilon-pluss)",
            "LRP.composite='epsilon-pluss': use a Propagation or",
        ),
        (ll.METHODS.read, "deep-lift(rule=rescal)", "DeepLift.rule='rescal': use 'rescale', 'reveal-cancel'"),
        (ll.METHODS.read, "smooth-grad(inner=gradien)", "'gradien' is unknown; did you mean gradient"),
        (ll.METHODS.read, "grad-cam(relu=fals)", "'fals' is unknown; did you mean false?"),
        (
            ll.METHODS.read,
            "smooth-grad(inner=blurr)",
            "'blurr' is unknown; known: gradient, ",
        ),  # a method, and no baseline
        (ll.METHODS.read, "occlusion(window=circl(3))", "'circl' is unknown; did you mean circle?"),
        (ll.METHODS.read, "rise(players=blak)", "there is no setting 'players'"),  # before its value is read
        (ll.METHODS.read, "ig", "'ig' is unknown; did you mean integrated-gradients?"),
        (ll.METHODS.read, "saliency", "'saliency' is unknown; did you mean gradient?"),
        (ll.METHODS.read, "gradcam++", "'gradcam++' is unknown; did you mean grad-cam-plus-plus?"),
        (ll.METHODS.read, "integrated", "did you mean integrated-gradients, blur-integrated-gradients, guided"),
        (ll.METHODS.read, "foo", "'foo' is unknown; known: gradient, "),  # nothing is near
        (ll.BASELINES.read, "samples", "cannot read 'samples': samples needs data; write samples(data, n=8)"),
        (ll.TARGETS.read, "neuron(index=3)", "neuron needs at; write neuron(at, index=None"),
        (ll.METHODS.read, "kernel-shap(players=segments)", "segments needs map; write segments(map)"),
        (ll.BASELINES.read, "samples(data)", "'data' is no number and no name; a text goes in quotes"),
        (ll.BASELINES.read, "constant('x')", "Constant.value='x': use a number, a tensor, an array or a list"),
        (ll.METHODS.read, "smooth-grad(" * 300, "cannot read"),
        (ll.BASELINES.read, "blur(3", "write for example 'blur"),
    ],
)
def test_misspelt_texts(read: Any, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        read(text)


SHORT_ALREADY = {ll.WindowMask, ll.rules.Patterns}  # their own repr holds no numbers


@pytest.mark.parametrize(
    "kind", [kind for each in _REGISTRIES for kind in each if kind not in SHORT_ALREADY], ids=lambda kind: kind.kebab()
)
def test_a_large_tensor_is_printed_as_its_size(kind: type[Named]) -> None:
    """In whatever setting it stands, also inside of a tuple; a small one in numbers."""
    thing = object.__new__(kind)
    names = [each.name for each in dataclasses.fields(kind) if each.repr]  # type: ignore[arg-type]
    for name in names:
        object.__setattr__(thing, name, (torch.rand(3, 30, 30), torch.ones(2)))
    expected = "(Tensor(3 x 30 x 30), tensor([1., 1.]))"
    assert repr(thing).count(expected) == len(names)


def test_what_others_call_a_method_names_one_of_ours() -> None:
    for family in _REGISTRIES:
        assert set(family.elsewhere.values()) <= set(family.names)
        assert not set(family.elsewhere) & set(family.names)


def test_checks_that_differ_in_a_large_tensor_have_columns_of_their_own() -> None:
    net, x = conv_net(), pictures(1)
    checks = [ll.Deletion(fill=torch.full(x.shape[1:], fill), steps=2) for fill in (0.0, 0.5)]
    found = ll.evaluate(net, x, "gradient", checks, target=1)
    assert len(found.checks) == 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_of_format_1_still_load(path: Path) -> None:
    a = ll.Attribution.load(path)
    family, name = path.stem.split("-")[:2]
    held = {"target": a.target, "baseline": a.baseline}.get(family, a.method)
    if path.stem != "target-function" and family != "whole":
        assert isinstance(held, Named) and registered(type(held).__name__) is type(held)
    if family in ("target", "baseline") and name != "function":
        expected = "logit" if name == "logit" else name
        assert type(held).__name__.lower() == expected
    assert all(isinstance(note, ll.Note) for note in a.notes)


def test_notes_of_format_1_have_their_kinds() -> None:
    plain = ll.Attribution.load(OLD / "whole-plain-gradient.safetensors")
    assert [note.kind for note in plain.cautions] == ["plain-gradient"]
    missed = ll.Attribution.load(OLD / "whole-incomplete.safetensors")
    assert [note.example for note in missed.cautions] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_run_of_before_opens_and_reports_its_settings() -> None:
    pytest.importorskip("pyarrow", reason="dataset runs need the extra 'run'")
    run = ll.open_run(OLD / "run")
    assert len(run) == 3 and run[0]["gradient"].values.shape == (16, 16)
    assert run.counts.failed == 1 and "not a picture" in run[1]["gradient"].error
    methods = ("gradient", "integrated-gradients(GaussLegendre(2))", "smooth-grad(samples=2)")
    checks = ("gini", "completeness", "deletion(steps=2)")
    # The texts by which a run is gone on with.
    assert run.settings["method"] == [described(ll.METHODS.read(each)) for each in methods]
    assert run.settings["check"] == [described(ll.CHECKS.read(each)) for each in checks]
    assert run.settings["baseline"] == described(ll.BASELINES.read("blur(2.0)"))


def test_notes_are_values() -> None:
    note = ll.Note("zero-map", "the map is zero", 3)
    assert note == "example 3: the map is zero" and note.is_caution and note.about((1, 0)).example == (1, 0)
    assert pickle.loads(pickle.dumps(note)) == note and repr(note) == "Note('zero-map', 'the map is zero', 3)"
    assert ll.Note("fact", "a") != ll.Note("caution", "a") and not ll.Note("no-sum", "a").is_caution
    with pytest.raises(ValueError, match="kind: 'x'"):
        ll.Note("x", "a")  # type: ignore[arg-type]


def test_wrappers_keep_the_cautions_of_what_they_wrap() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.GELU(), nn.Linear(3, 2)).double()
    a = ll.explain(net, pictures(2), ll.SmoothGrad(ll.GuidedBackprop(), samples=2))
    assert [note.kind for note in a.cautions] == ["plain-gradient", "caution"]  # and stderr is NaN after one draw


def test_progress_means_the_same_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    net, x = conv_net(), pictures(2)
    verbs: list[Any] = [
        lambda **o: ll.explain(net, x, "occlusion(4, 4)", **o),
        lambda **o: ll.check(net, x, "gradient", "gini", **o),
        lambda **o: ll.evaluate(net, x, "gradient", "gini", **o),
        lambda **o: ll.trust_card(net, x, "gradient", "gini", **o),
        lambda **o: ll.sweep(net, x, "occlusion(4, 4)", window=[4, 5], **o),
        lambda **o: ll.compare_baselines(net, x, "occlusion(4, 4)", **o),
    ]
    for verb in verbs:
        rows: list[int] = []
        verb(progress=rows.append, draws_of=x.flip(0), seed=1)
        assert rows and all(isinstance(each, int) for each in rows)
        capsys.readouterr()
        verb(progress=True)
        assert f"limelight: {sum(rows)} rows\n" in capsys.readouterr().err
        with pytest.raises(TypeError, match="tragte: there is no such option; use target"):
            verb(tragte=1) if verb is not verbs[4] else ll.explain(net, x, "gradient", tragte=1)  # type: ignore[call-overload]


def test_old_names_are_found_until_0_2() -> None:
    from limelight.lab.ranking import rank_on_scenes

    assert rank_on_scenes is ll.lab.ranking.rank_on_scenes
    for name in ("CARD", "QUICK", "CONTROLS", "check", "evaluate", "trust_card", "TrustCard", "Finding", "Findings"):
        assert getattr(ll.checks, name) is not None and name in dir(ll.checks)
    for name in ("parse_check", "quick_checks", "card_of", "Cell", "Evaluation", "RandomMap", "SobelEdges", "Case"):
        assert getattr(ll.checks, name) is not None
    assert ll.parse_method("gradient") == ll.Gradient() and ll.checks.parse_check("srg") == ll.SRG()
    net, x = conv_net(), pictures(1)
    a = ll.explain(net, x, "gradient")
    assert ll.checks.quick_checks(net, {"gradient": a}, 0, rows_per_pass=2)["gradient"]
    assert ll.checks.card_of(net, a, a.method, (ll.Gini(),), rows_per_pass=2).findings


def test_text_of_values() -> None:
    assert text_of(ll.SmoothGrad(ll.IntegratedGradients(ll.Midpoint(16)), samples=8)) == (
        "smooth-grad(integrated-gradients(midpoint(16)), samples=8)"
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("grad-cam(relu=false)", ll.GradCAM(relu=False)),
        ("grad-cam(relu=TRUE)", ll.GradCAM(relu=True)),
        ("smooth-grad(tolerance=none)", ll.SmoothGrad(tolerance=None)),
        ("lrp(epsilon)", ll.LRP("epsilon")),
        ("lrp(composite=epsilon-gamma-box, bias=false)", ll.LRP("epsilon-gamma-box", bias=False)),
        ("smooth-grad(lrp(epsilon-alpha2-beta1-flat))", ll.SmoothGrad(ll.LRP("epsilon-alpha2-beta1-flat"))),
        ("deep-lift(rule=reveal-cancel)", ll.DeepLift("reveal-cancel")),
        ("lrp(on_uncovered=gradient)", ll.LRP(on_uncovered="gradient")),  # the text, and not the method of that name
        ("pattern-net(patterns=my_file)", ll.PatternNet("my_file")),
        ("occlusion(border=cut)", ll.Occlusion(border="cut")),
    ],
)
def test_words_need_no_quotes_where_a_text_is_meant(text: str, wanted: ll.Method) -> None:
    assert ll.METHODS.read(text) == wanted


@pytest.mark.parametrize(
    "kind", [kind for registry in _REGISTRIES for kind in registry], ids=lambda kind: kind.__name__
)
def test_the_types_of_settings_can_be_read(kind: type[Named]) -> None:
    assert {each.name for each in dataclasses.fields(kind)} <= set(typing.get_type_hints(kind))


def members(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return tuple(each for one in typing.get_args(hint) for each in members(one)) if union else (hint,)


def named_settings() -> Iterator[tuple[type[Named], str]]:
    """Settings that take a named value and nothing else, as players are; baselines are also texts and numbers."""
    for kind in dict.fromkeys(kind for registry in _REGISTRIES for kind in registry):
        hints = typing.get_type_hints(kind)
        for each in dataclasses.fields(kind):
            wanted = [one for one in members(hints[each.name]) if one is not type(None)]
            named = all(isinstance(one, type) and issubclass(one, Named) for one in wanted)
            if each.init and each.repr and named and ll.Baseline not in wanted:
                yield kind, each.name


@pytest.mark.parametrize("other", [5, 2.5, "", "x", (1, 2), object(), ll.Margin(0)], ids=lambda value: repr(value)[:7])
@pytest.mark.parametrize(("kind", "name"), named_settings(), ids=lambda value: getattr(value, "__name__", value))
def test_another_kind_of_value_is_refused_where_it_is_given(kind: type[Named], name: str, other: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{kind.__name__}\.{name}=.*: use "):
        kind(**{name: other})


@pytest.mark.parametrize("other", [0, -3, 2.5, "x", (1, 2), object()], ids=lambda value: repr(value)[:7])
def test_segments_of_another_kind_are_refused(other: Any) -> None:
    with pytest.raises(ValueError, match=r"^IROF\.segments=.*: use "):
        ll.IROF(segments=other)


def test_a_few_classes_are_listed_where_none_is_near() -> None:
    with pytest.raises(ValueError, match="no class is called 'nice'; the classes are 0 negative, 1 positive"):
        read_target("nice", ("negative", "positive"))
