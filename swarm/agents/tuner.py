"""The built-in offline agent: tunes the constants of `train.py`, with no network and no key.

It learns from the results of all workers of its device class, whoever proposed them, as far as
they differ from its base by constants alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from swarm import hyperparameters
from swarm.agents.draft import Draft
from swarm.agents.tpe import Observation, Tuner, informative
from swarm.errors import Refused, SwarmError
from swarm.fingerprint import fingerprint
from swarm.leaderboard import BASELINE, Leaderboard
from swarm.standings import DeviceClass, Entry

REFUSALS = 20
"""After so many refusals in a row something else than duplicates is wrong."""

_FAILED = ("crash", "timeout", "rejected")
_COLOURS = {"keep": "32", "discard": "2", **dict.fromkeys(_FAILED, "31")}


def run(
    board: Leaderboard,
    worker: str,
    begin: Callable[[], Draft],
    submit: Callable[[Draft, str], Mapping[str, Any]],
    source_of: Callable[[str], str | None],
    say: Callable[[str], None],
    *,
    colour: bool = False,
) -> NoReturn:
    """Propose, submit and learn until `submit` raises: the swarm ends it, or it is killed.

    `begin()` is a draft of what the worker builds on now. `submit(draft, description)` blocks until
    the verdict; `Refused` means that somebody was faster, and something else is proposed.
    `source_of(experiment)` is its `train.py`, `None` if it is lost. Raises `SwarmError` when the
    baseline does not train, or nothing is left to try.
    """
    board.refresh()
    assert board.swarm is not None and board.config is not None
    state, scale = board.workers[worker], board.config.scale
    device_class = board.classes[state.joined.device_class]
    tuner = Tuner(_seed(board.swarm.tag, worker, state.experiments))
    history, refused = History(source_of, scale), list[str]()

    def tried(source: str) -> bool:
        return source in refused or fingerprint(source) in board.fingerprints

    while True:
        board.refresh()
        _check_baseline(device_class)
        tuner.learn(history.news(device_class.entries))
        draft, before = begin(), _incumbent(device_class)
        proposal = tuner.propose(draft.original, scale, tried)
        if begin().commit != draft.commit:
            continue  # the worktree was moved onto another incumbent meanwhile
        say(f"trying  {proposal.description} …")
        draft.text = proposal.source
        try:
            say(_line(submit(draft, proposal.description), before, colour))
            refused.clear()
        except Refused as reason:
            refused.append(proposal.source)
            if len(refused) >= REFUSALS:
                raise
            say(f"refused  {reason}")


class History:
    """The experiments of a device class as observations; each `train.py` is read at most once."""

    def __init__(self, source_of: Callable[[str], str | None], scale: str) -> None:
        self._source_of = source_of
        self._scale = scale
        self._seen: dict[str, tuple[str, int]] = {}
        self._read: dict[str, Observation | None] = {}

    def news(self, entries: Mapping[str, Entry]) -> Iterator[Observation]:
        """What changed since the last call. Of a long backlog, only what says most is read."""
        states = ((entry, (entry.kind, len(entry.values))) for entry in entries.values())
        new = [
            (entry, state) for entry, state in states if self._seen.get(entry.experiment) != state
        ]
        self._seen.update((entry.experiment, state) for entry, state in new)
        for entry in informative([entry for entry, _ in new], _mean):
            known = self._observation(entry.experiment)
            if known is not None:
                failed = entry.kind in _FAILED
                yield Observation(
                    entry.experiment, known.skeleton, known.params, _mean(entry), failed
                )

    def _observation(self, experiment: str) -> Observation | None:
        if experiment not in self._read:
            self._read[experiment] = self._parsed(experiment, self._source_of(experiment))
        return self._read[experiment]

    def _parsed(self, experiment: str, source: str | None) -> Observation | None:
        if source is None:
            return None
        try:
            constants = hyperparameters.parse(source, self._scale)
            skeleton = hyperparameters.skeleton(source, self._scale)
        except SwarmError:
            return None  # an agent did away with the block: another structure, nothing to learn
        return Observation(experiment, skeleton, {c.name: c.value for c in constants.values()})


def _mean(entry: Entry) -> float | None:
    return entry.estimate.mean if entry.estimate else None


def _incumbent(device_class: DeviceClass) -> float | None:
    entry = device_class.entries.get(device_class.incumbent or "")
    return _mean(entry) if entry else None


def _check_baseline(device_class: DeviceClass) -> None:
    baseline = device_class.entries.get(BASELINE)
    if baseline and baseline.kind in _FAILED and not baseline.values:
        raise SwarmError(
            f"the baseline does not train: {baseline.reason}",
            f"see swarm show {BASELINE}; correct train.py, commit it, and spawn a new swarm",
        )


def _seed(tag: str, worker: str, experiments: int) -> int:
    """Workers explore differently, and a restarted one does not begin anew."""
    name = f"{tag}/{worker}/{experiments}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _line(answer: Mapping[str, Any], before: float | None, colour: bool) -> str:
    """`e17  keep  0.993812  Δ -0.000412`, the change against the incumbent it was based on."""
    verdict, val_bpb = str(answer["verdict"]), answer.get("val_bpb")
    shown = f"\033[{_COLOURS.get(verdict, '0')}m{verdict}\033[0m" if colour else verdict
    parts = [str(answer["experiment"]), shown]
    if val_bpb is None:
        return "  ".join([*parts, str(answer.get("reason", ""))])
    parts.append(f"{val_bpb:.6f}")
    if before is not None:
        parts.append(f"Δ {val_bpb - before:+.6f}")
    return "  ".join(parts)
