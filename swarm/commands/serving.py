"""The verb that serves the live page."""

from __future__ import annotations

import threading
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
        # A browser in the terminal would not return before it is left.
        threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
    server.run()
