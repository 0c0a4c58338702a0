"""Verbs that take a swarm's results elsewhere: report, export."""

from __future__ import annotations

import sys
from pathlib import Path

from swarm.agents.session import source_reader
from swarm.commands import Session, begun, folded, say
from swarm.commands.reading import find
from swarm.errors import UsageError
from swarm.journal import Cursor


def report(session: Session) -> None:
    from swarm import report as reporting
    from swarm.report import story

    session.refuse_agents("reports, which show held-out scores,")
    paths, arguments = session.paths, session.arguments
    fold = begun(paths)
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


def export(session: Session) -> None:
    session.refuse_agents("exports, which hold held-out scores,")
    given, paths = session.arguments, session.paths
    if given.to and (given.format or given.trials):
        raise UsageError("--to takes neither --format nor --trials", "swarm export --to mlflow")
    if given.to:
        from swarm.exports import mirrors

        folder = Path(given.place) if given.place else paths.home / given.to
        mirrored = mirrors.mirror(given.to, paths, folded(paths), folder)
        print(folder)
        say(mirrored)
        return
    if not given.place:
        raise UsageError("export to which file?", "swarm export night.csv; or - for stdout")
    from swarm.exports import files

    form = files.form_of(given.place, given.format)
    fold = folded(paths)
    if given.place == "-":
        files.print_to(sys.stdout, fold, form, given.trials)
        return
    files.write(Path(given.place), paths.tag, fold, form, given.trials)
    print(given.place)
