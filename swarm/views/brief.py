"""What a researcher must know before the next idea, in a text that does not grow with the journal.

It is for agents: no held-out score is in it, and what others wrote is clipped and marked as data.
"""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Callable, Iterable, Sequence

from swarm import pollinate
from swarm.beliefs import belief_of
from swarm.leaderboard import BASELINE, Leaderboard
from swarm.standings import DeviceClass, Entry
from swarm.views.table import fit

LONGEST = 20_000
"""Characters of a brief, whatever the journal holds: some 6,000 tokens."""
_LINE = 200
_DIFF, _CHAIN, _NEAR, _RECENT, _OWN, _FAILED, _NOTES, _RUNNING = 6000, 16, 10, 16, 8, 8, 10, 12
_FAILURES = ("crash", "timeout", "rejected")
SourceOf = Callable[[str], str | None]


def build(board: Leaderboard, worker: str, source_of: SourceOf) -> str:
    """The brief of a worker. `source_of(experiment)` is its `train.py`, `None` if it is lost."""
    known = board.class_of(worker)
    base = known.entries[pollinate.base_for(board, worker).experiment]
    parts = [
        _standing(board, known, worker, base),
        _direction(board, worker),
        _section("Notes of the workers, the latest first", _notes(board)),
        _section("In training or waiting: do not repeat", _running(board, known)),
        _section("Not in the base, but good or nearly so: worth combining", _near(known, base)),
        _section("What failed, and why", _failed(known)),
        _section("Your own latest", _own(known, worker)),
        _section("Tried lately, by anyone", _recent(known)),
        _section("How the base came to be, each step against the one before", _chain(known, base)),
    ]
    text = "\n\n".join(part for part in parts if part)
    left = LONGEST - len(text) - 200
    changes = _difference(source_of, base, min(left, _DIFF)) if left > _LINE else ""
    text = f"{text}\n\n{changes}" if changes else text
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _standing(board: Leaderboard, known: DeviceClass, worker: str, base: Entry) -> str:
    assert board.config is not None
    device = board.workers[worker].joined.device
    lines = [
        f"You are worker {worker} on {device.model}; a trial trains {board.config.seconds:g} s.",
        f"Noise of one trial's val_bpb: σ = {known.noise.sd:.6f}.",
        f"Experiments so far: {board.spent_experiments} by {len(board.active)} workers.",
    ]
    baseline, top = known.entries.get(BASELINE), known.top()
    for name, entry in (("Baseline", baseline), ("Your base", base), ("Incumbent", top)):
        if entry and entry.estimate and not (name == "Incumbent" and entry is base):
            lines.append(f"{name}: {entry.experiment}, {_score(entry)}{_change(baseline, entry)}")
    return "\n".join(lines)


def _direction(board: Leaderboard, worker: str) -> str:
    mine = board.workforce.direction_of(worker)
    if not mine:
        return ""
    lines = [f"Your direction: {fit(mine, 2 * _LINE)}"]
    lines += [
        f"  {fit(name.partition(':')[0], 40)}: {tally.kept} kept of {tally.tried}"
        for name, tally in list(board.workforce.directions.items())[:_RUNNING]
    ]
    return "\n".join(lines)


def _chain(known: DeviceClass, base: Entry) -> list[str]:
    steps: list[Entry] = []
    entry: Entry | None = base
    while entry and entry.claim.parent and len(steps) < _CHAIN:
        steps.append(entry)
        entry = known.entries.get(entry.claim.parent)
    return [_line(known, step) for step in reversed(steps)]


def _difference(source_of: SourceOf, base: Entry, longest: int) -> str:
    """What the base changed since the baseline, as far as it fits."""
    before, after = source_of(BASELINE), source_of(base.experiment)
    if base.experiment == BASELINE or before is None or after is None:
        return ""
    text = clipped(diff(before, after), longest)
    return f"The base against the baseline:\n{text}" if text else ""


def diff(before: str, after: str) -> str:
    """A unified diff of two train.py with two lines of context."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), "before", "after", n=2, lineterm=""
    )
    return "\n".join(line for at, line in enumerate(lines) if at > 1)


def clipped(text: str, longest: int) -> str:
    """The beginning and the end of a text, with what was left out said between."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def _near(known: DeviceClass, base: Entry) -> list[str]:
    """Kept, or discarded by little, and not among what the base has already."""
    inside, entry = set[str](), base
    while entry.claim.parent and entry.claim.parent in known.entries:
        inside.add(entry.experiment)
        entry = known.entries[entry.claim.parent]
    margin = known.noise.sd
    found = [
        (effect, -at, entry)
        for at, entry in enumerate(known.entries.values())
        if (effect := _effect(known, entry)) is not None
        and effect < margin
        and entry.experiment not in inside
    ]
    return [_line(known, entry) for _, _, entry in heapq.nsmallest(_NEAR, found)]


def _running(board: Leaderboard, known: DeviceClass) -> list[str]:
    names: list[str] = []
    for state in board.workers.values():
        open_trial = board.trials.get(state.open_trial or "")
        names += [open_trial.experiment] if open_trial else []
        names += state.queue
    entries = [known.entries[name] for name in dict.fromkeys(names) if name in known.entries]
    return [
        f"{entry.experiment} {entry.claim.worker}: {entry.claim.description}"
        for entry in entries[:_RUNNING]
        if entry.kind == "candidate" and entry.claim.worker
    ]


def _recent(known: DeviceClass) -> list[str]:
    return [
        _line(known, entry) for entry in _latest(known, _RECENT, lambda entry: bool(entry.values))
    ]


def _own(known: DeviceClass, worker: str) -> list[str]:
    mine = _latest(
        known, _OWN, lambda e: e.claim.worker == worker and e.kind not in ("candidate", *_FAILURES)
    )
    return [_line(known, entry) for entry in mine]


def _failed(known: DeviceClass) -> list[str]:
    found = _latest(known, _FAILED, lambda entry: entry.kind in _FAILURES)
    return [
        f"{e.experiment} {e.kind}: {fit(e.claim.description, 90)} | {fit(e.reason, 120)}"
        for e in found
    ]


def _notes(board: Leaderboard) -> list[str]:
    latest = reversed(board.notes[-_NOTES:])
    return [f"{note.worker or 'a person'}: {note.text}" for note in latest]


def _latest(known: DeviceClass, count: int, fits: Callable[[Entry], bool]) -> list[Entry]:
    found: list[Entry] = []
    for entry in reversed(known.entries.values()):
        if len(found) == count:
            break
        if entry.claim.parent and fits(entry):
            found.append(entry)
    return found[::-1]


def listing(known: DeviceClass, count: int) -> str:
    """The best `count` experiments of a class, a line each."""
    scored = [entry for entry in known.entries.values() if entry.estimate]
    best = heapq.nsmallest(count, enumerate(scored), key=lambda item: (_mean(item[1]), item[0]))
    return (
        "\n".join(fit(_line(known, entry), _LINE) for _, entry in best) or "nothing has a score yet"
    )


def described(known: DeviceClass, entry: Entry) -> str:
    """One experiment in a few lines."""
    trials = ", ".join(f"{value:.6f}" for value in entry.values[:16])
    return (
        f"{entry.experiment} by {entry.claim.worker or 'nobody'}, on {entry.claim.parent}:"
        f" {fit(entry.claim.description, 500)}\n"
        f"{entry.kind}: {fit(entry.reason, 600)}\n"
        f"val_bpb of its trials: {trials or 'none'}; σ of one trial {known.noise.sd:.6f}"
    )


def _line(known: DeviceClass, entry: Entry) -> str:
    effect = _effect(known, entry)
    shown = "" if effect is None else f" {effect:+.6f}"
    if entry.confirmed:
        shown += ", confirmed"
    elif entry.base and entry.estimate:
        shown += f", P(better) {belief_of(known, entry).better:.2f}"
    count = f", mean of {len(entry.values)}" if len(entry.values) > 1 else ""
    return f"{entry.experiment} {entry.kind}{shown}{count}: {entry.claim.description}"


def _effect(known: DeviceClass, entry: Entry) -> float | None:
    """By how much it scored above what it builds on; `None` where that is not known."""
    base = entry.base or known.entries.get(entry.claim.parent or "")
    if entry.estimate is None or base is None or base.estimate is None:
        return None
    return entry.estimate.mean - base.estimate.mean


def _mean(entry: Entry) -> float:
    assert entry.estimate is not None
    return entry.estimate.mean


def _score(entry: Entry) -> str:
    assert entry.estimate is not None
    count = entry.estimate.replicates
    return f"val_bpb {entry.estimate.mean:.6f} ({count} trial{'s' if count > 1 else ''})"


def _change(baseline: Entry | None, entry: Entry) -> str:
    if entry is baseline or baseline is None or baseline.estimate is None:
        return ""
    return f", {_mean(entry) - _mean(baseline):+.6f} to the baseline"


def _section(title: str, lines: Sequence[str] | Iterable[str]) -> str:
    shown = [f"  {fit(line, _LINE)}" for line in lines]
    return "\n".join([f"{title}:", *shown]) if shown else ""
