"""Verbs that look: status, board, show, log, attach, notes, doctor."""

from __future__ import annotations

import os
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from swarm import config, drift
from swarm.commands import Session, begun, folded, print_json, say
from swarm.errors import Refused
from swarm.leaderboard import Leaderboard
from swarm.paths import Paths
from swarm.standings import Entry
from swarm.views import board as boards
from swarm.views import diff, documents, table
from swarm.views import status as statuses

_FOLLOW_SECONDS = 0.2
_CHUNK = 1 << 16
SCREENFUL = 20
"""So many rows of a board a terminal shows, unless more are asked for."""


def style(session: Session) -> table.Style:
    colour = config.wants_colour(session.environment, sys.stdout.isatty())
    wide = 100 if sys.stdout.isatty() else 160
    return table.Style(colour, shutil.get_terminal_size((wide, 24)).columns)


def status(session: Session) -> None:
    paths = session.paths
    document = documents.status(paths, begun(paths))
    if session.arguments.json:
        print_json(document)
    else:
        print(statuses.status(document, style(session)))


def board(session: Session) -> None:
    paths, arguments = session.paths, session.arguments
    fold = folded(paths)
    known = arguments.device_class
    if known is not None and known not in fold.classes:
        raise Refused(f"no device class '{known}'", f"known: {', '.join(fold.classes)}")
    if arguments.held_out:
        session.refuse_agents("held-out scores")
    if arguments.json:
        document = documents.board(paths, fold, arguments.top, known)
        print_json(documents.with_held_out(document, fold) if arguments.held_out else document)
    else:
        top = arguments.top or (SCREENFUL if sys.stdout.isatty() else None)
        look = boards.Look(datetime.now(UTC), top, known, arguments.held_out)
        print(boards.board(fold, look, style(session)))
    for device_class in fold.classes.values() if arguments.held_out else ():
        if known in (None, device_class.name) and (found := drift.of(device_class)):
            say(f"warning: {found}" if found.is_real else str(found))


def show(session: Session) -> None:
    paths = session.paths
    fold = begun(paths)
    entry = find(fold, session.arguments.experiment)
    if session.arguments.json:
        known = fold.classes[fold.home_class(entry.experiment)]
        print_json(documents.experiment(known, entry))
        return
    print(boards.experiment(fold, entry, style(session)))
    if entry.claim.parent:
        parent = fold.claims[entry.claim.parent].commit
        found = diff.between(paths.root, parent, entry.claim.commit)
        # Whatever reads it from a pipe gets it as git writes it.
        is_terminal = sys.stdout.isatty()
        print(diff.shown(found, style(session).colour) if is_terminal else found, end="")


def find(fold: Leaderboard, experiment: str) -> Entry:
    if experiment not in fold.claims:
        last = f"the last one is e{len(fold.claims) - 1}"
        raise Refused(f"there is no experiment '{experiment}'", f"{last}; see swarm board")
    return fold.entry(experiment)


def log(session: Session) -> None:
    paths = session.paths
    path = _log_path(paths, folded(paths), session.arguments.name)
    if not path.exists():
        raise Refused(f"{session.arguments.name} has written no log yet", f"it will be {path}")
    with open(path, "rb") as file:
        while True:
            while data := file.read(_CHUNK):
                sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            if not session.arguments.follow:
                return
            time.sleep(_FOLLOW_SECONDS)


def _log_path(paths: Paths, fold: Leaderboard, name: str) -> Path:
    """The log of a worker (what its pane shows), a trial, or an experiment's last trial."""
    if name in fold.workers:
        return paths.worker_log(name)
    if name in fold.claims and (trials := fold.entry(name).trials):
        return paths.trial(trials[-1].id) / "run.log"
    if name in fold.trials:
        return paths.trial(name) / "run.log"
    raise Refused(
        f"'{name}' is no worker, trial or experiment with a trial",
        f"workers: {', '.join(fold.workers)}",
    )


def attach(session: Session) -> None:
    from swarm import panes

    paths = session.paths
    command, environment = panes.attaching(
        paths, begun(paths), session.arguments.worker, session.environment
    )
    os.execvpe(command[0], command, environment)


def notes(session: Session) -> None:
    found = folded(session.paths).notes
    if session.arguments.json:
        print_json(
            [{"worker": n.worker, "time": n.time.isoformat(), "text": n.text} for n in found]
        )
        return
    for note in found:
        print(f"{note.time:%H:%M} {note.worker or '-':<6} {table.printable(note.text)}")


def doctor(session: Session) -> None:
    from swarm import doctor as examination

    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), None)
    checks = examination.examine(root, session.environment)
    if session.arguments.json:
        print_json(
            [
                {"name": check.name, "ok": check.ok, "found": check.found, "hint": check.hint}
                for check in checks
            ]
        )
        return
    marks = {True: "ok", False: "missing", None: "-"}
    for check in checks:
        print(f"{marks[check.ok]:<8} {check.name:<14} {table.printable(check.found)}")
        if check.ok is not True and check.hint:
            print(f"{'':<24}{check.hint}")
