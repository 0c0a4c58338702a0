"""How a report begins: what was found in plain words, the plot, and the summary table."""

from __future__ import annotations

from collections.abc import Iterator

from swarm.leaderboard import BASELINE
from swarm.report.blocks import (
    Block,
    Code,
    Heading,
    Inline,
    Paragraph,
    Picture,
    Strong,
    Table,
    Text,
)
from swarm.report.result import Improvement, Measured, Result, Score
from swarm.report.story import Chapter, Story
from swarm.report.wording import (
    counted,
    described,
    digits,
    hours,
    listed,
    lower,
    moment,
    number,
    short,
    spread,
    uncertain,
)
from swarm.views.table import fit, tokens, usd

PLOT = "progress.png"
_NAME = 60


def title(story: Story) -> str:
    """Of the report and its page."""
    what = f"{story.asked} of swarm {story.tag}" if story.asked else f"Swarm {story.tag}"
    return what if story.over else f"{what}, so far"


def opening(story: Story) -> Iterator[Block]:
    """Title, summary, plot, table."""
    yield Heading(1, title(story))
    for chapter in story.chapters:
        yield Paragraph(_summary(story, chapter), "lead")
    yield Picture(PLOT, "val_bpb of every experiment; what was kept; what the result is built of")
    yield Heading(2, "Summary")
    if len(story.chapters) == 1:
        rows = [*_score_rows(story.chapters[0]), *_effort_rows(story)]
        yield Table(("", ""), rows)
        return
    for chapter in story.chapters:
        yield Heading(3, chapter.name)
        yield Table(("", ""), list(_score_rows(chapter)))
    yield Heading(3, "All together")
    yield Table(("", ""), list(_effort_rows(story)))


def _summary(story: Story, chapter: Chapter) -> Text:
    """What was found, and how sure that is."""
    ran = f"{_crew(story, chapter)} tried {counted(chapter.experiments, 'change')} of train.py"
    took = f" in {hours(story.attendance.wall)}" if story.attendance.wall else ""
    place = f" on {chapter.name}" if len(story.chapters) > 1 else ""
    told: tuple[Inline, ...] = (f"{ran}{took}{place}", "" if story.over else " so far", ". ")
    return told + _found(story, chapter)


def _crew(story: Story, chapter: Chapter) -> str:
    crew = [each for each in story.workers if each.name in chapter.workers]
    agents = [fit(each.agent, _NAME) for each in crew]
    names = list(dict.fromkeys(agents))
    shown = names if len(names) < 5 else [*names[:3], f"{len(names) - 3} other kinds"]
    return f"{counted(len(agents), 'agent')} ({listed(shown)})"


def _found(story: Story, chapter: Chapter) -> tuple[Inline, ...]:
    found = chapter.result
    if found.final is None or found.improvement is None or found.baseline is None:
        return _nothing(story, chapter)
    decimals = min(4, digits(found.final.val_bpb.error))
    before, after = _mean(found.baseline, decimals), _mean(found.final, decimals)
    name, gain, claim = found.final.experiment, found.improvement, found.unselected
    if found.standing == "confirmed" and claim:
        sentence = f"{name} lowered val_bpb by {_percent(claim)}, {_sigmas(claim)}"
        rest = ", by trials made for this claim alone, after the choice had fallen"
        if claim != gain:  # what it was chosen by is partly luck
            rest += (
                f"; over all its trials, with those that it was chosen by, from {before} to"
                f" {after} ({_percent(gain)})"
            )
    else:
        scored = f"{name} scored {after}, the baseline {before} val_bpb"
        sentence = f"{scored} ({_percent(gain, sign=-1)}, {_sigmas(gain)})"
        rest = ""
    return (Strong(sentence), f"{rest}. ", *_sureness(found), _made_of(chapter))


def _percent(gain: Improvement, sign: int = 1) -> str:
    """A gain in per cent; with `sign` -1 as the change of val_bpb that it is."""
    value, error = gain.percent
    shown = min(2, digits(error))
    return uncertain(Measured(sign * value, error), sign < 0, " %", shown)


def _sigmas(gain: Improvement) -> str:
    return f"{abs(gain.sigmas.value):.1f} σ of a trial"


def _nothing(story: Story, chapter: Chapter) -> tuple[Inline, ...]:
    """Why there is no result."""
    if chapter.result.standing == "asked":
        what = "is the baseline" if story.asked == BASELINE else "has no score"
        return (Strong(f"{story.asked} {what}"), ".")
    if not chapter.experiments:
        return ("There is nothing to report yet but the baseline.",)
    if chapter.result.baseline is None:
        return ("The baseline has no score yet to hold them against.",)
    if not chapter.scored:
        if sum(cause.count for cause in chapter.failures.causes) < chapter.experiments:
            return ("None of them has a score yet.",)
        return (Strong("None of them got a score"), ": each crashed, was rejected or was cut off.")
    return (Strong("None of them is believed to be better than the baseline"), ".")


def _sureness(found: Result) -> tuple[Inline, ...]:
    if found.standing == "confirmed":
        other = found.incumbent
        if other and found.final and other.experiment != found.final.experiment:
            return (
                f"The search builds on {other.experiment} by now, which is only probably better. ",
            )
        return ()
    if found.standing == "claimed":
        return ("The policy keeps whatever scores lower and ", Strong("confirms nothing"), ". ")
    if found.standing == "asked":
        assert found.final is not None
        done = "It is" if found.final.confirmed else "It is not"
        return (f"{done} confirmed. ",)
    return ("That is ", Strong("only probable"), ": no claim of it was confirmed. ")


def _made_of(chapter: Chapter) -> str:
    steps = len(chapter.result.steps)
    text = f"It is made of {counted(steps, 'kept change')}"
    if chapter.keeps:
        doubt = f"{chapter.false_keeps:.1f}" if chapter.false_keeps >= 0.05 else "none"
        keeps = counted(chapter.keeps, "keep")
        text += f"; of {keeps} in all, {doubt} are expected to be no improvement"
    return f"{text}."


def _mean(score: Score, decimals: int) -> str:
    return number(score.val_bpb.value, decimals)


def _score_rows(chapter: Chapter) -> Iterator[tuple[Text, Text]]:
    found = chapter.result
    for name, score in (("baseline", found.baseline), (_called(found), found.final)):
        if score:
            yield name, _scored(score)
    if found.incumbent and found.incumbent != (found.final or found.baseline):
        doubt = "" if found.standing == "asked" else ", only probably better"
        yield f"incumbent{doubt}", _scored(found.incumbent)
    if found.unselected:
        yield "change of val_bpb, by trials made after the choice", _change(found.unselected)
    if found.improvement and found.improvement != found.unselected:
        yield "change of val_bpb, over all trials", _change(found.improvement)
    if found.believed is not None and found.improvement:
        error = found.improvement.absolute.error
        yield "believed, allowing for lucky scores", number(-found.believed, digits(error), True)
    yield "noise of a trial", spread(chapter.noise)


def _called(found: Result) -> str:
    if found.standing == "asked":
        return "this experiment"
    return "best, confirmed" if found.standing == "confirmed" else "result, not confirmed"


def _scored(score: Score) -> Text:
    text = f"{uncertain(score.val_bpb)}, mean of {counted(score.trials, 'trial')}"
    told = described(score.description)
    about = f": {told}" if told and score.experiment != BASELINE else ""
    return (text, f"; {score.experiment} (", Code(short(score.commit)), f"){about}")


def _change(gain: Improvement) -> Text:
    return (
        Strong(lower(gain.absolute)),
        f"; {lower(gain.percent, ' %')}; {lower(gain.sigmas, ' σ')}",
    )


def _effort_rows(story: Story) -> Iterator[tuple[Text, Text]]:
    spend, times = story.spend, story.attendance
    yield "experiments, trials", f"{story.experiments:,}, {story.trials:,}"
    yield "device hours in trials", f"{spend['device_hours']:,.2f}"
    yield "wall-clock time", f"{hours(times.wall)}, {moment(times.began)} to {moment(times.ended)}"
    what = "" if story.agent_seconds is None else " (their processes ran; waiting counts too)"
    yield "agents at work, all together", f"{hours(story.agent_seconds)}{what}"
    yield "cost", _cost(story)
    why = f": {story.why_over}" if story.why_over else ""
    yield "state", fit(f"ended{why}" if story.over else "still running, or cut off", 200)


def _cost(story: Story) -> str:
    spend = story.spend
    devices = spend["devices_usd"]
    models = f"models {usd(spend['agents_usd'])} USD for {tokens(spend['tokens'])} tokens"
    if not spend["tokens"] and not spend["uncounted_calls"]:
        models = "no language model was used"
    unpriced = spend["unpriced_tokens"]
    if unpriced:
        models += f" ({tokens(unpriced)} of them at no known price)"
    if spend["uncounted_calls"]:
        models += f", {counted(spend['uncounted_calls'], 'call')} not counted by the provider"
    price = "devices at no given price" if devices is None else f"devices {usd(devices)} USD"
    return f"{models}; {price}"
