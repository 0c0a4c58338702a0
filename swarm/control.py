"""What a person asks of the runners of a swarm: to pause, to go on, to take the incumbent over."""

from __future__ import annotations

from collections.abc import Sequence

from swarm import records
from swarm.errors import Refused
from swarm.leaderboard import Leaderboard
from swarm.paths import Paths


def ask(paths: Paths, fold: Leaderboard, action: records.Action, workers: Sequence[str]) -> None:
    """Append `action` to the journal, for the workers named or all of them.

    Raises `Refused` where the swarm does not run, or has no such worker.
    """
    if fold.state != "running":
        raise Refused(f"swarm '{paths.tag}' has {fold.state}", f"swarm spawn --tag {paths.tag}")
    for name in workers:
        if name not in fold.active:
            raise Refused(f"there is no worker '{name}'", f"workers: {', '.join(fold.active)}")
    fold.journal.append(records.Control(action=action, workers=tuple(workers)))
