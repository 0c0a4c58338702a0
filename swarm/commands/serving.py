"""The verb that serves the live page."""

from __future__ import annotations

import webbrowser

from swarm.commands import Session, say
from swarm.web.server import Server


def web(session: Session) -> None:
    """Serve the page until Ctrl-C."""
    session.refuse_agents("the live page with its held-out scores")
    paths, arguments = session.paths, session.arguments
    server = Server(paths, arguments.host, arguments.port)
    print(server.url, flush=True)
    say(f"swarm {paths.tag}, live and read-only; Ctrl-C ends it")
    if arguments.open:
        webbrowser.open(server.url)
    server.run()
