"""Who did what: by worker, and by kind of agent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from swarm.leaderboard import Leaderboard
from swarm.report.result import Result
from swarm.spending import Bill
from swarm.standings import Entry


@dataclass
class Contribution:
    """What a worker, or all agents of a kind, did. Times are in seconds.

    `gain` is what its changes gained among those that the results are built of. `agents` is how
    long its agent was at work, `None` where that was not recorded. `devices` is the time in trials:
    of a worker on its device, of a kind for its experiments. `bill`: what it used of models.
    """

    name: str
    agent: str = ""
    experiments: int = 0
    kept: int = 0
    confirmed: int = 0
    gain: float = 0.0
    devices: float = 0.0
    agents: float | None = None
    bill: Bill | None = None


def by_worker(
    board: Leaderboard, results: Iterable[Result], hours: Mapping[str, float]
) -> list[Contribution]:
    """Each worker's part, in their order."""
    found = _grouped(board, results, lambda entry: entry.claim.worker)
    for name, state in board.workers.items():
        mine = found.setdefault(name, Contribution(name))
        mine.agent, mine.devices = state.joined.agent, state.device_seconds
        mine.bill, mine.agents = state.bill, hours.get(name)
    return [found[name] for name in board.workers]


def by_agent(
    board: Leaderboard, results: Iterable[Result], hours: Mapping[str, float]
) -> list[Contribution]:
    """Each kind's part, by what submitted the experiments; the busiest first.

    What a worker's agent has used counts for the kind that the worker has now.
    """
    found = _grouped(board, results, lambda entry: entry.claim.agent)
    for name, state in board.workers.items():
        mine = found.setdefault(state.joined.agent, Contribution(state.joined.agent))
        mine.bill = _added(mine.bill or Bill(), state.bill)
        if name in hours:
            mine.agents = (mine.agents or 0.0) + hours[name]
    return sorted(found.values(), key=lambda each: -each.experiments)


def _grouped(
    board: Leaderboard, results: Iterable[Result], name_of: Callable[[Entry], str]
) -> dict[str, Contribution]:
    found: dict[str, Contribution] = {}
    gains = {s.score.experiment: s.gain.value for result in results for s in result.steps}
    for known in board.classes.values():
        for entry in known.entries.values():
            if entry.claim.parent is None:
                continue
            name = name_of(entry)
            mine = found.setdefault(name, Contribution(name))
            mine.experiments += 1
            mine.kept += entry.kind == "keep"
            mine.confirmed += entry.confirmed
            mine.gain += gains.get(entry.experiment, 0.0)
            mine.devices += entry.seconds
    return found


def _added(one: Bill, other: Bill) -> Bill:
    return Bill(
        one.usd + other.usd,
        one.tokens + other.tokens,
        one.unpriced + other.unpriced,
        one.uncounted + other.uncounted,
    )
