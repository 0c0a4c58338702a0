"""The verb that watches a swarm in a terminal."""

from __future__ import annotations

import sys

from swarm.commands import Session
from swarm.errors import Refused, SwarmError


def watch(session: Session) -> None:
    paths = session.paths
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if not is_terminal or session.environment.get("TERM", "dumb") == "dumb":
        raise Refused("swarm watch needs a terminal", f"swarm status --tag {paths.tag}")
    from swarm.watch.app import Watch  # late: it takes as long to import as the rest together
    from swarm.watch.observer import Observer

    app = Watch(Observer(paths), session.arguments.every, session.environment)
    app.run()
    if app.return_code:
        raise SwarmError("swarm watch failed", "report what is printed above")
