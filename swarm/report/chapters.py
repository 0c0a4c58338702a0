"""The body of a report: the timeline, who did what, what failed, how sure it is, how to repeat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from swarm.report.blocks import (
    Block,
    Code,
    Heading,
    Inline,
    Items,
    Paragraph,
    Strong,
    Table,
    Text,
)
from swarm.report.contributions import Contribution
from swarm.report.failures import Failures
from swarm.report.result import Score, Step
from swarm.report.simplicity import Doubt
from swarm.report.story import Chapter, Story
from swarm.report.wording import (
    counted,
    described,
    digits,
    hours,
    lower,
    number,
    probability,
    short,
    spread,
)
from swarm.views.table import fit, tokens, usd

_MOST_STEPS, _MOST_ROWS, _NAME = 60, 12, 40


def timeline(story: Story, chapter: Chapter) -> Iterator[Block]:
    """The kept changes that the result is built of, one after the other."""
    steps = chapter.result.steps
    if not steps:
        return
    head = (
        "", "experiment", "change", "Δ val_bpb", "in total", "P(better)", "trials", "verdict", "by",
        "after",
    )  # fmt: skip
    rows: list[Sequence[Text]] = []
    for at, step in enumerate(steps, start=1):
        score = step.score
        rows.append(
            (
                str(at), (f"{score.experiment} ", Code(short(score.commit))),
                described(score.description), lower(step.gain), _total(step),
                probability(step.better), str(score.trials),
                _verdict(score),
                fit(f"{step.worker}, {step.agent}", _NAME), _after(story, step.time),

            )
        )  # fmt: skip
    yield Table(head, middle_out(rows), frozenset({0, 3, 4, 5, 6, 9}))
    yield Paragraph(
        "Δ is against the row above, over all trials of both, ± its standard error; in total:"
        " against the baseline. Below zero is better."
    )
    once = sum(step.score.trials == 1 for step in steps)
    if once:
        yield Paragraph(
            (
                Strong("Winner's curse."),
                f" {once} of these {counted(len(steps), 'change')} were scored by a single trial,"
                " and kept because that trial was good: what it gained is partly luck. Only"
                " confirmed changes were tested with trials made after they had been chosen.",
            ),
            "caution",
        )
    yield from _simpler(story, chapter)


def _verdict(score: Score) -> str:
    """What is thought of it by now: replicates may have turned a keep into a discard."""
    if score.confirmed:
        return "confirmed"
    if score.verdict == "keep":
        return "kept"
    return "dropped since" if score.verdict == "discard" else score.verdict


def _total(step: Step) -> str:
    return number(-step.total.value, digits(step.total.error), sign=True)


def _after(story: Story, time: datetime) -> str:
    """How long after the start of the swarm."""
    began = story.attendance.began
    return hours((time - began).total_seconds()) if began else "-"


def middle_out(rows: list[Sequence[Text]]) -> list[Sequence[Text]]:
    """The first and the last where there are too many."""
    if len(rows) <= _MOST_STEPS:
        return rows
    half = _MOST_STEPS // 2
    gap = ["…", "", f"{len(rows) - 2 * half} more changes", *[""] * (len(rows[0]) - 3)]
    return [*rows[:half], gap, *rows[-half:]]


def _simpler(story: Story, chapter: Chapter) -> Iterator[Block]:
    """What turned out to be no improvement, and how to take the train.py without it."""
    if not chapter.doubts:
        return
    yield Heading(3, "What may be left out")
    items: list[Text] = []
    for doubt in chapter.doubts[:_MOST_ROWS]:
        score, step = doubt.step.score, doubt.step
        lines = (
            ""
            if doubt.lines is None or doubt.parent_lines is None
            else f" ({doubt.lines} effective lines; {doubt.parent_lines} without it)"
        )
        kind = "was confirmed against the best before it" if score.confirmed else "was kept"
        now = "did not score lower" if step.gain.value <= 0 else "is not believed to be better"
        told = (
            f"{score.experiment} {kind}, but {now} than {step.parent}, which it was made on:"
            f" {lower(step.gain)}, P(better) {probability(step.better)}{lines}. "
        )
        items.append((told, *_offer(story, chapter, doubt)))
    yield Items(items)
    yield from _rest(len(chapter.doubts))
    yield Paragraph(
        "That no gain was seen does not prove that there is none: less than two standard errors"
        " cannot be told from nothing."
    )


def _offer(story: Story, chapter: Chapter, doubt: Doubt) -> tuple[Inline, ...]:
    if doubt.lines is None or doubt.parent_lines is None:
        return ("Its train.py cannot be read, so nobody knows whether it is simpler without.",)
    if not doubt.parent_is_simpler:
        return ("Without it train.py is not simpler, so it stays.",)
    if doubt.is_last and doubt.parent_commit:
        take = f"git checkout {short(doubt.parent_commit)} -- train.py"
        ties = "Ties go to the simpler train.py, of equals to the one before: "
        return (ties, Code(take), " takes it.")
    final, score = chapter.result.final, doubt.step.score
    tip = short(final.commit) if final else "HEAD"
    folder = f"../{story.tag}-without-{score.experiment}"
    take = f"git worktree add --detach {folder} {tip} && git -C {folder} revert --no-commit"
    return (
        "To take it out of what was built on it: ", Code(f"{take} {short(score.commit)}"),
        "; where git finds a conflict, later changes are on the same lines. Then measure that.",
    )  # fmt: skip


def contributions(story: Story) -> Iterator[Block]:
    """Who did what."""
    yield Heading(2, "Who did what")
    yield _crew_table("worker", story.workers, with_agent=True)
    if len(story.agents) > 1:
        yield _crew_table("agent", story.agents, with_agent=False)
    yield Paragraph(
        "Share of the gain: of what the results' changes gained, each against the one before. A"
        " worker's device hours are those of its device; an agent's are of its experiments,"
        " replicates included."
    )
    if story.directions:
        yield Heading(3, "By direction")
        rows = [
            (fit(name.partition(":")[0], _NAME), str(tried), str(kept))
            for name, tried, kept in story.directions[:_MOST_ROWS]
        ]
        yield Table(("direction", "tried", "kept at first"), rows, frozenset({1, 2}))


def _crew_table(name: str, crew: Sequence[Contribution], with_agent: bool) -> Table:
    whole = sum(each.gain for each in crew)
    head = [
        name, *(["agent"] if with_agent else []), "experiments", "kept", "confirmed",
        "share of gain", "device hours", "agent at work", "USD", "tokens",
    ]  # fmt: skip
    rows = [
        [
            fit(each.name, _NAME),
            *([fit(each.agent, _NAME)] if with_agent else []),
            f"{each.experiments:,}",
            f"{each.kept:,}",
            f"{each.confirmed:,}",
            f"{number(100 * each.gain / whole, 0)} %" if whole > 0 else "-",
            f"{each.devices / 3600:,.2f}",
            hours(each.agents),
            _price(each),
            tokens(each.bill.tokens) if each.bill else "-",
        ]
        for each in crew
    ]
    return Table(head, rows, frozenset(range(1 + with_agent, len(head))))


def _price(each: Contribution) -> str:
    if each.bill is None or each.bill.known_usd is None:
        return "not known"
    return usd(each.bill.known_usd)


def failures(chapter: Chapter) -> Iterator[Block]:
    """What did not work."""
    found = chapter.failures
    discarded = found.harmful + found.unclear
    if discarded:
        yield Paragraph(
            f"{counted(discarded, 'change')} discarded: {found.harmful:,} clearly worse than what"
            f" they were made on (by more than 2 standard errors), {found.unclear:,} too close to"
            " tell."
        )
    if found.causes:
        rows: list[Sequence[Text]] = [
            (cause.verdict, f"{cause.count:,}", fit(cause.text, 160), ", ".join(cause.experiments))
            for cause in found.causes[:_MOST_ROWS]
        ]
        yield Table(("outcome", "count", "what it said", "such as"), rows, frozenset({1}))
        yield from _rest(len(found.causes))
    yield from _misses(found)
    yield from _topics(found)
    if not (discarded or found.causes):
        yield Paragraph("Nothing was discarded, and nothing failed.")


def _misses(found: Failures) -> Iterator[Block]:
    if not found.near_misses:
        return
    yield Heading(3, "Near misses: scored lower, but not believed to be better")
    rows: list[Sequence[Text]] = [
        (
            miss.experiment, described(miss.description), lower(miss.gain),
            probability(miss.better), str(miss.trials),
        )
        for miss in found.near_misses
    ]  # fmt: skip
    head = ("experiment", "change", "Δ val_bpb", "P(better)", "trials")
    yield Table(head, rows, frozenset({2, 3, 4}))


def _topics(found: Failures) -> Iterator[Block]:
    if not found.topics:
        return
    yield Heading(3, "By hyperparameter, as far as descriptions name one")
    rows: list[Sequence[Text]] = [
        (
            Code(topic.name), f"{topic.tried:,}", f"{topic.kept:,}",
            lower(topic.best) if topic.best else "-",
        )
        for topic in found.topics[:_MOST_ROWS]
    ]  # fmt: skip
    yield Table(("hyperparameter", "tried", "kept", "best Δ val_bpb"), rows, frozenset({1, 2, 3}))
    yield from _rest(len(found.topics))


def _rest(count: int) -> Iterator[Block]:
    if count > _MOST_ROWS:
        yield Paragraph(f"… and {count - _MOST_ROWS} more.")


def sureness(chapter: Chapter) -> Iterator[Block]:
    """Noise, false keeps, held-out text, duty cycle."""
    noise, items = chapter.noise, list[Text]()
    items.append((Strong("Noise."), f" One trial's val_bpb has {spread(noise)}."))
    if chapter.keeps:
        share = 100 * chapter.false_keeps / chapter.keeps
        items.append(
            (
                Strong("False keeps."),
                f" Of {counted(chapter.keeps, 'keep')}, {chapter.false_keeps:.1f} ({share:.0f} %)"
                " are expected to be no better than what they were made on: the sum of"
                " 1 − P(better), as was believed of each when it was last judged. That is cautious:"
                " in simulated swarms it said 44 %, and 31 % were.",
            )
        )
    if chapter.claims:
        few = "fewer than 0.01" if chapter.false_claims < 0.01 else f"{chapter.false_claims:.2f}"
        items.append(
            (
                Strong("False claims."),
                f" {counted(chapter.claims, 'claim')} confirmed; {few} of them"
                " expected to be no better than the best before, by the trials made for claims."
                " Where a change is none, its test passes at most one time in 20.",
            )
        )
    held = (
        str(chapter.drift)
        if chapter.drift
        else "What it says is not known: not both the baseline and the result were evaluated on it"
    )
    items.append((Strong("Held-out text."), f" {held}."))
    if chapter.duty is not None:
        items.append(
            (
                Strong("Duty cycle."),
                f" Devices spent {100 * chapter.duty:.1f} % of their time in trials; they idled"
                f" {hours(chapter.idle)} since the swarm was last spawned, all together.",
            )
        )
    yield Items(items)
