"""`swarm board` and `swarm show` for people: experiments, best first, and each in full."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NamedTuple

from swarm import drift
from swarm.leaderboard import BASELINE, Leaderboard
from swarm.standings import DeviceClass, Entry
from swarm.views import documents, history
from swarm.views.documents import ranked
from swarm.views.table import Style, ago, aligned, fit, noise, printable, score, tokens, usd

_WIDE = 110
"""Columns from which on a board says more."""


class Look(NamedTuple):
    """What of a board is shown: `top` rows of each class, or of one class; `now` dates them.

    Held-out scores are for people.
    """

    now: datetime
    top: int | None = None
    device_class: str | None = None
    held_out: bool = False


def board(fold: Leaderboard, look: Look, style: Style) -> str:
    """The leaderboard, one table per device class, best first.

    Below a board that is cut stand the incumbent, the best and the baseline, if they are not in it.
    """
    parts = [
        "\n".join(_class_lines(known, look, style))
        for name, known in fold.classes.items()
        if look.device_class in (None, name)
    ]
    return "\n\n".join(parts)


def experiment(fold: Leaderboard, entry: Entry, style: Style) -> str:
    """One experiment: what, why, and its trials."""
    claim, known = entry.claim, fold.classes[fold.home_class(entry.experiment)]
    who = f"{claim.worker}, {claim.agent}" if claim.worker else "the starting point"
    lines = [
        f"{claim.experiment}  {style.word(entry.kind)}  {printable(claim.description)}",
        f"why      {printable(entry.reason)}",
        f"who      {who}, {claim.time:%Y-%m-%d %H:%M:%S} UTC",
        f"commit   {claim.commit}" + (f", on {claim.parent}" if claim.parent else ""),
    ]
    lines += [_effect(known, entry)] if entry.base else []
    if entry.metrics.num_steps:
        speed = entry.metrics.tokens_per_second or 0
        lines.append(f"speed    {entry.metrics.num_steps} steps, {speed:,.0f} tokens/s")
    if entry.bill:
        dollars = entry.bill.known_usd
        price = "at no known price" if dollars is None else f"{usd(dollars)} USD"
        lines.append(f"cost     {price}, {tokens(entry.bill.tokens)} tokens")
    for trial in entry.trials:
        found = "" if trial.val_bpb is None else f"  val_bpb {trial.val_bpb:.6f}"
        purpose = "" if trial.purpose == "experiment" else f", {trial.purpose}"
        slow = f" (only {trial.batches} batches: disturbed, not scored)" if trial.slow else ""
        verified = ", verified" if trial.verified else ""
        lines.append(
            f"{trial.id:<8} {style.word(trial.outcome or 'training')} on {trial.worker},"
            f" seed {trial.seed}{purpose}, {trial.seconds:.0f} s{found}{verified}{slow}"
        )
    return "\n".join(lines)


def _effect(known: DeviceClass, entry: Entry) -> str:
    """What it did to the val_bpb of what it is judged against, over all trials of both."""
    assert entry.base is not None
    if entry.estimate is None or entry.base.estimate is None:
        return f"effect   not known, on {entry.base.experiment}"
    gain, error = history.gain(known, entry, entry.base)
    lower = "lower" if gain >= 0 else "higher"
    sigmas = abs(gain) / known.noise.sd
    return (
        f"effect   {abs(gain):.6f} ± {error:.6f} {lower} than {entry.base.experiment}"
        f" ({sigmas:.1f} σ of one trial)"
    )


def verdict_line(entry: Entry, style: Style) -> str:
    """One experiment in one line, for a running commentary."""
    claim = entry.claim
    text = f"{claim.experiment:<5} {claim.worker:<6} {entry.kind:<9} {printable(claim.description)}"
    return style.word(entry.kind, fit(f"{text} | {entry.reason}", style.width))


def _class_lines(known: DeviceClass, look: Look, style: Style) -> Iterable[str]:
    found = ranked(known, look.top)
    left = len(known.entries) - len(found)
    named = dict.fromkeys((known.best or BASELINE, known.incumbent or BASELINE, BASELINE))
    marked = [known.entries[name] for name in named if name in known.entries]
    below = [entry for entry in marked if not any(entry is shown for shown in found)]
    columns = _columns(known, look, style.width >= _WIDE)
    rows = [[column.head for column in columns]]
    rows += [[column.cell(entry) for column in columns] for entry in (*found, *below)]
    right = [i for i, column in enumerate(columns) if column.right]
    verdict = next(i for i, column in enumerate(columns) if column.head == "verdict")
    head, *lines = aligned(rows, style, right, verdict)
    yield style.word("heading", known.name)
    yield f"noise {noise(documents.noise(known))}"
    yield head
    yield from lines[: len(found)]
    if left:
        yield f"… {left:,} more (--top {len(known.entries)} shows all)"
    yield from lines[len(found) :]
    yield "* incumbent: built on   + best: claimed   Δσ: to the incumbent in trial SDs"


class _Column(NamedTuple):
    head: str
    cell: Callable[[Entry], str]
    right: bool = False


def _columns(known: DeviceClass, look: Look, wide: bool) -> list[_Column]:
    """What is told of each experiment; the last column takes the room that is left."""
    maybe = [
        (True, _Column("", lambda entry: _marks(known, entry))),
        (True, _Column("exp", lambda entry: entry.experiment)),
        (True, _Column("val_bpb", lambda entry: score(_mean(entry)), right=True)),
        (True, _Column("Δσ", lambda entry: _sigmas(known, entry), right=True)),
        (wide, _Column("Δ base", lambda entry: _change(known, entry), right=True)),
        (look.held_out, _Column("held-out", lambda entry: score(drift.heldout(entry)), right=True)),
        (True, _Column("n", lambda entry: str(len(entry.values)), right=True)),
        (True, _Column("verdict", _verdict)),
        (True, _Column("worker", lambda entry: entry.claim.worker or "-")),
        (wide, _Column("agent", lambda entry: fit(entry.claim.agent, 20) or "-")),
        (wide, _Column("parent", lambda entry: entry.claim.parent or "-")),
        (True, _Column("age", lambda entry: _age(look.now, entry), right=True)),
        (True, _Column("description", lambda entry: entry.claim.description)),
    ]
    return [column for shown, column in maybe if shown]


def _mean(entry: Entry) -> float | None:
    return entry.estimate.mean if entry.estimate else None


def _sigmas(known: DeviceClass, entry: Entry) -> str:
    """How far it is from the incumbent, in SDs of one trial."""
    found = history.in_sigmas(known, entry)
    if found is None:
        return "-"
    return f"{found:+.1f}" if abs(found) < 99.95 else f"{found:+.0f}"


def _change(known: DeviceClass, entry: Entry) -> str:
    """By how much val_bpb differs from that of the baseline."""
    baseline = known.entries[BASELINE].estimate if BASELINE in known.entries else None
    mean = _mean(entry)
    return "-" if mean is None or baseline is None else f"{mean - baseline.mean:+.6f}"


def _verdict(entry: Entry) -> str:
    if entry.kind == "candidate" and entry.running:
        return "training"
    return "confirmed" if entry.confirmed else entry.kind


def _age(now: datetime, entry: Entry) -> str:
    return ago((now - entry.claim.time).total_seconds())


def _marks(known: DeviceClass, entry: Entry) -> str:
    incumbent, best = (entry.experiment == name for name in (known.incumbent, known.best))
    return "*" * incumbent + "+" * best
