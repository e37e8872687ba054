"""Pictures of a run -> before and after: units kept, filters, answers to samples and confusions of each pick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.report.document import FrontDocument, Member
from autoprune.report.html.charts import MatrixChart, Strip, StripChart
from autoprune.report.html.examined import StaticFigure
from autoprune.report.html.images import data_uri
from autoprune.report.html.models import Look, look_of
from autoprune.report.html.numbers import NONE
from autoprune.report.pictures import MOST_GROUPS, MOST_UNITS, Answer, Confusions, Filters, Pictures

_LETTERS = 160


@dataclass(frozen=True)
class AnswerShown:
    """What a model says; `verdict` is `right`, `wrong` or nothing where that is not known."""

    text: str
    share: str
    verdict: str


@dataclass(frozen=True)
class SampleRow:
    """One unit of val with the answers of the dense model and of each pick; `image` is a data URI."""

    image: str
    text: str
    label: str
    answers: tuple[AnswerShown, ...]


@dataclass(frozen=True)
class FilterShown:
    """A filter of the dense model as a data URI, and whether it stays."""

    image: str
    number: int
    kept: bool


@dataclass(frozen=True)
class MemberPictures:
    """What is drawn of one pick."""

    id: str
    name: str
    look: Look
    roles: tuple[str, ...]
    strips: StaticFigure | None
    filters: tuple[FilterShown, ...]
    filters_told: str
    confusions: tuple[StaticFigure, ...]


@dataclass(frozen=True)
class BeforeAfter:
    """Everything of the section; `left_out` counts the picks that there was no room for."""

    names: tuple[str, ...]
    samples: tuple[SampleRow, ...]
    dense_confusion: StaticFigure | None
    members: tuple[MemberPictures, ...]
    filters_of: str
    left_out: int


def before_after(
    front: FrontDocument, pictures: Pictures, roles: dict[str, tuple[str, ...]], most: int
) -> BeforeAfter | None:
    """Return what is drawn of at most `most` picks; None where there is nothing.

    Args:
        front: The run's front.
        pictures: What was kept of it; members that the front does not know are left out.
        roles: Member id -> which picks it is, in words.
        most: How many picks there is room for.
    """
    known = {member.id: member for member in front.members}
    shown = [known[i] for i in pictures.shown if i in known]
    shown.sort(key=lambda m: "balanced" not in roles.get(m.id, ()))
    left_out = len(shown[most:])
    shown = shown[:most]
    if not shown:
        return BeforeAfter((), (), None, (), "", left_out) if left_out else None
    confusion = pictures.confusion
    before = None if confusion is None else _matrix("confusion-dense", "Dense model", confusion, None)
    return BeforeAfter(
        names=tuple(member.name for member in shown),
        samples=_samples(pictures, shown),
        dense_confusion=before,
        members=tuple(_member(front, m, pictures, i, roles.get(m.id, ())) for i, m in enumerate(shown)),
        filters_of="" if pictures.filters is None else pictures.filters.group,
        left_out=left_out,
    )


def _member(
    front: FrontDocument, member: Member, pictures: Pictures, index: int, roles: tuple[str, ...]
) -> MemberPictures:
    bits = {g.group: g.members[member.id] for g in pictures.groups if member.id in g.members}
    confusion, matrices = pictures.confusion, []
    if confusion is not None and member.id in confusion.members:
        matrices.append(_matrix(f"confusion-{index}", member.name, confusion, member.id))
        matrices.append(_difference(f"difference-{index}", member.name, confusion, member.id))
    filters, told = _filters(pictures.filters, bits)
    return MemberPictures(
        id=member.id,
        name=member.name,
        look=look_of(front, member),
        roles=roles,
        strips=_strips(f"kept-{index}", member.name, bits, pictures.groups_left_out),
        filters=filters,
        filters_told=told,
        confusions=tuple(matrices),
    )


def _strips(identity: str, name: str, bits: dict[str, str], left_out: int) -> StaticFigure | None:
    if not bits:
        return None
    strips = [Strip(group, own) for group, own in bits.items()]
    kept, total = sum(own.count("1") for own in bits.values()), sum(map(len, bits.values()))
    groups = f"{len(bits)} of {len(bits) + left_out} groups" if left_out else f"{len(bits)} groups"
    described = f"Units kept by {name}: {kept} of {total} in {groups}. "
    described += "; ".join(f"{s.name} {s.value}" for s in strips[:20])
    note = "One mark a unit of the dense model: filled where it stays, an empty frame where it is gone."
    title = f"{kept:,} of {total:,} units kept"
    if left_out:
        title += f" in {groups}"
        note += f" Left out are groups after the first {MOST_GROUPS}, and those of more than {MOST_UNITS:,} units."
    return StaticFigure(identity, title, StripChart(strips, described), note=note)


def _filters(filters: Filters | None, bits: dict[str, str]) -> tuple[tuple[FilterShown, ...], str]:
    own = "" if filters is None else bits.get(filters.group, "")
    if filters is None or len(own) != len(filters.filters):
        return (), ""
    shown = tuple(
        FilterShown(data_uri(one), number, bit == "1")
        for number, (one, bit) in enumerate(zip(filters.filters, own, strict=True))
    )
    gone = [str(f.number) for f in shown if not f.kept]
    told = f"{len(shown) - len(gone)} of {len(shown)} filters kept"
    return shown, f"{told}; removed: {', '.join(gone)}." if gone else f"{told}."


def _samples(pictures: Pictures, shown: Sequence[Member]) -> tuple[SampleRow, ...]:
    rows = []
    for sample in pictures.samples:
        answers = [sample.dense, *(sample.members.get(m.id) for m in shown)]
        text = " ".join((sample.text or "").split())
        rows.append(
            SampleRow(
                image="" if sample.image is None else data_uri(sample.image),
                text=text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…",
                label=NONE if sample.label is None else sample.label,
                answers=tuple(_answer(answer) for answer in answers),
            )
        )
    return tuple(rows)


def _answer(answer: Answer | None) -> AnswerShown:
    if answer is None:
        return AnswerShown(NONE, "", "")
    verdict = "" if answer.right is None else "right" if answer.right else "wrong"
    share = "" if answer.share is None else f"{100 * answer.share:.0f}%"
    return AnswerShown(answer.text, share, verdict)


def _matrix(identity: str, name: str, confusion: Confusions, member: str | None) -> StaticFigure:
    counts = confusion.dense if member is None else confusion.members[member]
    totals = [sum(row) for row in counts]
    right = sum(row[i] for i, row in enumerate(counts))
    described = f"Confusion matrix of {name}: {right} of {sum(totals)} units of test on the diagonal."
    return StaticFigure(identity, name, MatrixChart(confusion.names, counts, totals, described))


def _difference(identity: str, name: str, confusion: Confusions, member: str) -> StaticFigure:
    before, after = confusion.dense, confusion.members[member]
    change = [[b - a for a, b in zip(*rows, strict=True)] for rows in zip(before, after, strict=True)]
    gained = sum(row[i] for i, row in enumerate(change))
    described = f"Difference of the confusion matrices of {name} and the dense model: {gained:+d} on the diagonal."
    chart = MatrixChart(confusion.names, change, [sum(row) for row in before], described, signed=True)
    return StaticFigure(identity, f"{name} − dense", chart)
