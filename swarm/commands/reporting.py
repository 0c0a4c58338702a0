"""Verbs that take a swarm's results elsewhere: report, export."""

from __future__ import annotations

from pathlib import Path

from swarm.agents.session import source_reader
from swarm.commands import Session, folded
from swarm.commands.reading import find
from swarm.journal import Cursor


def report(session: Session) -> None:
    from swarm import report as reporting
    from swarm.report import story

    session.refuse_agents("reports, which show held-out scores,")
    paths, arguments = session.paths, session.arguments
    fold = folded(paths)
    if arguments.experiment:
        find(fold, arguments.experiment)
    told = story.tell(
        fold,
        fold.journal.read(Cursor()),
        source_reader(paths, fold),
        arguments.experiment,
    )
    folder = Path(arguments.out) if arguments.out else paths.home / "report"
    for path in reporting.write(told, folder):
        print(path)
