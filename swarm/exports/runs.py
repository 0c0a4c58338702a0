"""Experiments as tools that track runs know them: parameters, metrics, tags and times."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from swarm import hyperparameters
from swarm.config import TRAINER
from swarm.errors import SwarmError
from swarm.exports import rows
from swarm.leaderboard import Leaderboard
from swarm.standings import Entry
from swarm.worktree import Repository

Value = str | int | float | bool
_AT_ONCE = 200


class Run(NamedTuple):
    """One experiment of a device class. `number` is its place in the journal, `trials` the val_bpb
    of those that gave one, with when they started."""

    number: int
    experiment: str
    device_class: str
    ok: bool
    began: datetime
    ended: datetime
    parameters: Mapping[str, Value]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    trials: tuple[tuple[datetime, float], ...]


def runs(board: Leaderboard, constants: Mapping[str, Mapping[str, Value]]) -> Iterator[Run]:
    """Every experiment that has ended; `constants` are those of train.py by commit, where known."""
    table = rows.experiments(board)
    names = table.names
    entries = ((k, e) for k in board.classes.values() for e in k.entries.values())
    for (known, entry), row in zip(entries, table.rows, strict=True):
        if entry.kind == "candidate":
            continue
        facts = dict(zip(names, row, strict=True))
        numbers = {
            column.name: float(value)
            for column, value in zip(table.columns, row, strict=True)
            if column.kind in ("number", "count") and isinstance(value, int | float)
        }
        yield Run(
            number=number_of(entry),
            experiment=entry.experiment,
            device_class=known.name,
            ok=entry.estimate is not None,
            began=entry.claim.time,
            ended=_ended(entry),
            parameters=constants.get(entry.claim.commit, {}),
            metrics=numbers,
            tags={
                column.name: "" if (value := facts[column.name]) is None else str(value)
                for column in table.columns
                if column.kind in ("text", "flag")
            },
            trials=tuple((t.started, t.val_bpb) for t in entry.trials if t.val_bpb is not None),
        )


def number_of(entry: Entry) -> int:
    """17 of e17."""
    return int(entry.experiment.removeprefix("e"))


def _ended(entry: Entry) -> datetime:
    ends = (trial.started + timedelta(seconds=trial.seconds) for trial in entry.trials)
    return max(ends, default=entry.claim.time)


def read_constants(
    repository: Repository, commits: Collection[str], scale: str
) -> dict[str, dict[str, Value]]:
    """The hyperparameters of the train.py of each commit, by few git processes; without those that
    are lost."""
    found: dict[str, dict[str, Value]] = {}
    waiting = list(dict.fromkeys(commits))
    for start in range(0, len(waiting), _AT_ONCE):
        some = waiting[start : start + _AT_ONCE]
        asked = "".join(f"{commit}:{TRAINER}\n" for commit in some)
        answer = repository.run("cat-file", "--batch", stdin=asked.encode())
        for commit, source in _blobs(answer.encode(), some):
            found[commit] = _constants(source, scale)
    return found


def _blobs(answer: bytes, commits: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What `git cat-file --batch` said: a line with the size, then so many bytes and a newline."""
    at = 0
    for commit in commits:
        end = answer.find(b"\n", at)
        end = len(answer) if end < 0 else end
        head, at = answer[at:end].split(), end + 1
        if len(head) == 3 and head[1] == b"blob":
            size = int(head[2])
            yield commit, answer[at : at + size].decode()
            at += size + 1


def _constants(source: str, scale: str) -> dict[str, Value]:
    try:
        return {name: found.value for name, found in hyperparameters.parse(source, scale).items()}
    except SwarmError:  # it has no block that can be read
        return {}
