"""The trust card: the results of the checks on one map, in words and figures."""

from __future__ import annotations

import html
import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from torch import Tensor

from ..base.attribution import Attribution
from ..base.files import finite, write_whole
from ..base.types import Model
from ..base.view import View
from ..by_length import Group, joined
from ..checks.base import Check
from ..checks.case import open_case, question_about
from ..checks.shared import Shared, key_of
from ..question.baselines import Constant
from ..question.question import CheckOptions, Options, Question, question_of
from ..question.targets import Target
from .check import CARD, REFUSALS, ChecksLike, Subject, as_checks, as_mask, examination, examined, measure
from .controls import CONTROLS
from .evaluate import column_of, interval
from .findings import Finding
from .tables import shown
from .texts import joined_finding, options_of, several_lengths, subject_of

if TYPE_CHECKING:
    from PIL.Image import Image

_WIDTH = 100
_ALONE = "for which no right answer is known"


@dataclass(frozen=True)
class Entry:
    """One line of a card. `mark` "pass", "FAIL", "above" and "NOT ABOVE" are shown in colours of their own.

    `limit`: what the figure is held against: the largest that passes, or the best control's; "" where there is none.
    `left_out`: there is no figure for want of budget, and running the test would give one.
    """

    mark: str
    name: str
    figure: str
    words: str
    limit: str = ""
    left_out: bool = False

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """The four columns that are drawn."""
        return self.mark, self.name, self.figure, self.words


@dataclass(frozen=True)
class Verdict:
    """What a card says of a map, in a word and in one sentence."""

    word: Literal["holds up", "in doubt", "does not hold up", "not tested"]
    sentence: str

    def __str__(self) -> str:
        return f"{self.word}: {self.sentence}"


@dataclass(frozen=True)
class Section:
    """A titled part of a card. `pictures`: pairs of words and a data URI, for pages alone."""

    title: str
    entries: tuple[Entry, ...]
    pictures: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, eq=False)
class TrustCard:
    """The findings on the map of a batch, in the order of the checks, and warnings (`cautions`) from map and findings.

    `controls`: the findings of each control that the evidence is compared with, by the check's name, or by its settings
    where several checks have that name.
    """

    attribution: Attribution
    findings: tuple[Finding, ...]
    controls: dict[str, dict[str, Finding]]
    cautions: tuple[str, ...]

    @property
    def hard(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.check.kind == "hard")

    @property
    def evidence(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.check.kind != "hard")

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the hard tests that the map failed."""
        return tuple(each.name for each in self.hard if each.passed is False)

    def beats(self, finding: Finding) -> dict[str, bool]:
        """Whether the map is better than each control, by the mean over the examples for which both have a figure.

        Controls without such examples are left out.
        """
        if finding.check.better is None:
            return {}
        sign = 1 if finding.check.better == "higher" else -1
        gaps = {name: float((finding.value - other.value).nanmean()) for name, other in self._controls(finding).items()}
        return {name: sign * gap > 0 for name, gap in gaps.items() if not math.isnan(gap)}

    def _column(self, finding: Finding) -> str:
        return column_of(finding.check, [each.check for each in self.findings])

    def _controls(self, finding: Finding) -> dict[str, Finding]:
        """Return the controls' findings for the same check, on the examples for which `finding` has a figure."""
        column = self._column(finding)
        unknown = finding.value.isnan()
        return {
            name: replace(found[column], value=found[column].value.masked_fill(unknown, math.nan))
            for name, found in self.controls.items()
            if column in found
        }

    @property
    def headline(self) -> str:
        """One sentence that counts the passed and failed hard tests."""
        passed = sum(each.passed is True for each in self.hard)
        failed = len(self.failed)
        silent = len(self.hard) - passed - failed
        if not self.hard:
            return "no hard test was run"
        text = f"{passed} of {passed + failed} hard tests passed"
        text += f"; failed: {', '.join(self.failed)}" if failed else ""
        return text + (f"; {silent} could not be run" if silent else "")

    @property
    def verdict(self) -> Verdict:
        """One line to read first. A failed hard test decides; then cautions, and controls that do better."""
        failed = [each for each in self.hard if each.passed is False]
        passed = sum(each.passed is True for each in self.hard)
        if failed:
            others = f", and {len(failed) - 1} more of {len(failed) + passed} hard tests failed" if failed[1:] else ""
            return Verdict("does not hold up", f"{failed[0].sentence} ({failed[0].name}){others}")
        compared = {each.name: beaten for each in self.evidence if (beaten := self.beats(each))}
        lost = {name: [control for control, won in beaten.items() if not won] for name, beaten in compared.items()}
        worse = {name: controls for name, controls in lost.items() if controls}
        tests = f"{passed} hard test{'s' * (passed != 1)} passed"
        if not passed and not compared:
            return Verdict("not tested", self.headline)
        if 2 * len(worse) > len(compared):
            controls = ", ".join(dict.fromkeys(each for lost in worse.values() for each in lost))
            text = f"{tests}, but by {len(worse)} of {len(compared)} figures it is no better than {controls}"
            return Verdict("in doubt", text)
        if self.cautions:
            count = len(self.cautions) - 1
            more = f" (and {count} more caution{'s' * (count > 1)})" if count else ""
            return Verdict("in doubt", f"{tests}, but {self.cautions[0]}{more}")
        better = f", and by {len(compared) - len(worse)} of {len(compared)} figures it beats every control"
        return Verdict("holds up", tests + better * bool(compared))

    @property
    def line(self) -> str:
        """The verdict's word, how many hard tests passed, and what each says in a few words, failed ones first.

        `"holds up: 2 of 2 tests; adds up within 0.6%, follows the weights"`, of several examples by the mean figure, in
        a failed test of those that fail it.
        """
        judged = sorted((each for each in self.hard if each.passed is not None), key=lambda each: bool(each.passed))
        word = self.verdict.word
        if not judged:
            return word
        passed = sum(each.passed is True for each in judged)
        parts = [each.brief for each in judged]
        steadiness = self.attribution.steadiness
        if steadiness is not None and not math.isnan(known := float(steadiness[..., 0].nanmean())):
            parts.append(f"two runs agree {known:.2f}")
        return f"{word}: {passed} of {len(judged)} tests; {', '.join(parts)}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and text."""
        return {
            "method": self.attribution.name,
            "settings": repr(self.attribution.method),
            "verdict": asdict(self.verdict),
            "line": self.line,
            "headline": self.headline,
            "failed": list(self.failed),
            "findings": [
                each.to_dict() | {"beats": self.beats(each), "best_control": finite(self._best_control(each)[1])}
                for each in self.findings
            ],
            "controls": {
                name: {check: found.to_dict()["mean"] for check, found in by_check.items()}
                for name, by_check in self.controls.items()
            },
            "cautions": list(self.cautions),
            "rows": {
                "forward": sum(each.forward_rows for each in self.findings),
                "backward": sum(each.backward_rows for each in self.findings),
                "shared": sum(each.shared_rows for each in self.findings),
            },
        }

    def to_json(self) -> str:
        return json.dumps(finite(self.to_dict()), indent=1, allow_nan=False)

    def sections(self) -> tuple[Section, ...]:
        """Return the parts of the card: hard tests, evidence with the controls, cautions."""
        hard = tuple(
            Entry(e.verdict, e.name, _figure(e), self._settings(e) + e.sentence, _at_most(e), e.left_out)
            for e in self.hard
        )
        evidence = tuple(self._evidence(each) for each in self.evidence)
        cautions = tuple(Entry("-", "", "", each) for each in self.cautions)
        beside = "compared with maps that do not depend on the model" if self.controls else _ALONE
        parts = (
            Section("Hard tests, where the right answer is known", hard),
            Section(f"Evidence, {beside}", evidence),
            Section("Before you believe it", cautions),
        )
        return tuple(part for part in parts if part.entries)

    def _evidence(self, finding: Finding) -> Entry:
        beaten = self.beats(finding)
        lost = [name for name, won in beaten.items() if not won]
        controls = self._controls(finding).items()
        others = [f"{name} {shown(other.mean)}" for name, other in controls if not math.isnan(other.mean)]
        words = finding.reason or finding.check.meaning
        words += f" ({finding.check.better} is better)" if finding.check.better else ""
        words += f"; controls: {', '.join(others)}" if others else ""
        words += f"; does not beat {', '.join(lost)}" if lost else ""
        mark = "-" if not beaten else "NOT ABOVE" if lost else "above"
        name, best = self._best_control(finding)
        limit = "" if math.isnan(best) else f"{name} {shown(best)}"
        return Entry(mark, finding.name, _figure(finding), self._settings(finding) + words, limit, finding.left_out)

    def _best_control(self, finding: Finding) -> tuple[str, float]:
        """Return the control that did best by the figure, and its figure; "" and NaN without any."""
        sign = 1 if finding.check.better == "higher" else -1
        known = {name: other.mean for name, other in self._controls(finding).items() if not math.isnan(other.mean)}
        return max(known.items(), key=lambda each: sign * each[1], default=("", math.nan))

    def _settings(self, finding: Finding) -> str:
        """Return the check's settings where the card has several checks of its name."""
        column = self._column(finding)
        return "" if column == finding.name else f"{column}: "

    def to_text(self) -> str:
        lines = [f"Trust card: {self.attribution.name}", *textwrap.wrap(str(self.verdict), _WIDTH), self.headline]
        for section in self.sections():
            lines += ["", section.title]
            for each in section.entries:
                head = f"  {each.mark:<9} {each.name:<26} {each.figure:>10}  " if each.name else f"  {each.mark} "
                indent = " " * 12 if each.name else " " * 4
                held = f" ({each.limit})" if each.limit.startswith("at most") else ""
                lines += textwrap.wrap(each.words + held, _WIDTH, initial_indent=head, subsequent_indent=indent)
        return "\n".join(lines) + "\n"

    __str__ = to_text

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.to_text())}</pre>"

    def show(self, example: int = 0, view: View | str | None = None) -> Image:
        """Draw the picture, the map and the card as one PIL image; `view` as in `Attribution.show`."""
        from ..show.image import draw_card

        heading = f"Trust card: {self.attribution.name}"
        return draw_card(self.attribution.show(example, view), heading, self.headline, self.sections())

    def save(self, path: str | Path) -> Path:
        """Write by suffix: `.txt`, `.json`, or `.png` for the figure. A failure leaves an earlier file as it was."""
        path = Path(path)
        match path.suffix:
            case ".txt":
                write_whole(path, self.to_text().encode())
            case ".json":
                write_whole(path, (self.to_json() + "\n").encode())
            case ".png":
                from ..show.image import save_png

                save_png(self.show(), path)
            case suffix:
                raise ValueError(f"path: {str(path)!r} ends in {suffix!r}; use .txt, .json or .png")
        return path


def _at_most(finding: Finding) -> str:
    return "" if finding.limit is None else f"at most {shown(finding.limit)}"


def _figure(finding: Finding) -> str:
    if math.isnan(finding.mean):
        return "-"
    known = finding.value[~finding.value.isnan()]
    low, high = interval(known, 0)
    return shown(finding.mean) + ("" if math.isnan(low) else f" [{shown(low)}, {shown(high)}]")


def trust_card(
    model: Model,
    inputs: Tensor,
    method: Subject,
    checks: ChecksLike | None = None,
    **options: Unpack[CheckOptions],
) -> TrustCard:
    """Sum up one map: `check()` on it, the faithfulness and localisation checks on the three controls, and warnings.

    The arguments are those of `check`. Evidence is compared on the same examples. It compares the map with maps that do
    not depend on the model, and not with other methods.
    """
    wanted = as_checks(CARD if checks is None else checks)
    groups, target = several_lengths(model, inputs, options)
    if target is not None:
        each: Any = [(group.texts, subject_of(group, method), options_of(group, options)) for group in groups]
        cards = [trust_card(model, texts, own, wanted, **given) for texts, own, given in each]
        return _joined(cards, groups, target)
    with examination(model, inputs, options) as (question, mask):
        attribution, again = examined(question, method, options)
        return card_about(question, attribution, again, wanted, mask)


def _joined(cards: Sequence[TrustCard], groups: Sequence[Group], target: Target) -> TrustCard:
    """Join the cards of texts of each length to one of all."""
    attribution = joined([card.attribution for card in cards], groups, target)
    findings = tuple(joined_finding(groups, parts) for parts in zip(*(card.findings for card in cards), strict=True))
    controls = {
        name: {column: joined_finding(groups, [card.controls[name][column] for card in cards]) for column in own}
        for name, own in cards[0].controls.items()
        if all(name in card.controls for card in cards)
    }
    return TrustCard(attribution, findings, controls, _cautions(attribution, findings))


def card_of(
    model: Model,
    attribution: Attribution,
    method: Any,
    checks: tuple[Check, ...],
    mask: Tensor | None = None,
    **options: Unpack[Options],
) -> TrustCard:
    """Make the trust card of a finished map; `method` None where only the map is known.

    Only the options `rows_per_pass` and `progress` are used; all else is as the map was made.
    """
    with question_of(model, attribution.inputs, options) as question:
        return card_about(question, attribution, method, checks, as_mask(mask, question.inputs))


def card_about(
    question: Question,
    attribution: Attribution,
    method: Any,
    checks: tuple[Check, ...],
    mask: Tensor | None = None,
    shared: Shared | None = None,
) -> TrustCard:
    """Make the trust card of a map of a question; `mask` as booleans, `shared` of the cards of several maps."""
    own, shared = question_about(attribution, question), Shared() if shared is None else shared
    with open_case(own, attribution, method, mask, shared) as case:
        findings = tuple(measure(each, case, exhibits=True) for each in checks)
    run = [each.check for each in findings]  # with what the question decided of their settings
    pairs = [(column_of(each, run), check) for each, check in zip(run, checks, strict=True)]
    compared = [(column, each) for column, each in pairs if each.kind in ("faithfulness", "localisation")]
    controls: dict[str, dict[str, Finding]] = {}
    plain = replace(own, baseline=Constant(0.0), layer=None)
    for control in CONTROLS if compared else ():
        key = control, key_of(plain.target), plain.arithmetic, *plain.streams().keys
        try:
            other, _ = shared.once(key, partial(examined, plain, control))
        except REFUSALS:  # edges need pictures; the card then shows the other two controls
            continue
        with open_case(plain, other, control, mask, shared) as case:
            controls[other.name] = {column: measure(each, case) for column, each in compared}
    return TrustCard(attribution, findings, controls, _cautions(attribution, findings))


def _cautions(attribution: Attribution, findings: tuple[Finding, ...]) -> tuple[str, ...]:
    found: list[str] = list(attribution.cautions)
    if attribution.stderr is not None:
        size = attribution.values.double().flatten(1).norm(dim=1)
        error = attribution.stderr.double().flatten(1).norm(dim=1) / size
        if bool((error > 0.2).any()):
            found.append(f"sampling noise is {float(error.nan_to_num(0).max()):.0%} of the map: take more samples")
    found += [each.sentence for each in findings if each.passed is False]
    shifts = [each.detail for each in findings if each.name == "bias-shift"]
    if any(bool(detail["flips"].any()) for detail in shifts if "flips" in detail):
        found.append("the model's own answer changes when the picture gets brighter")
    return tuple(dict.fromkeys(found))
