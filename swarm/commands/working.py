"""Verbs of agents and of the swarm's own processes: eval, result, note, agent, runner, …"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from swarm import records
from swarm.commands import Session, folded, print_json
from swarm.commands.reading import find, style
from swarm.commands.ticker import Ticker
from swarm.errors import Refused, UsageError
from swarm.locks import ProcessLock
from swarm.mailbox import Answer
from swarm.views import documents, table

if TYPE_CHECKING:
    from swarm.door import Door

# The kernel hangs up a terminal with the leader of its session, and tmux loses what it has not
# read by then: the agent's last lines.
_LINGER_SECONDS = 0.2


def _door(session: Session) -> Door:
    from swarm.door import Door

    worktree = session.place.worktree
    if worktree is None:
        raise Refused("this is not a worktree of a swarm", "run it inside worktrees/<tag>/<worker>")
    return Door(worktree)


def evaluate(session: Session) -> None:
    door = _door(session)
    request = door.submit(session.arguments.message)
    answer = door.wait_accepted(request)
    if not session.arguments.no_wait:
        answer = _wait(session, door, request, None)
    _print(session, answer)


def _wait(session: Session, door: Door, request: str, timeout: float | None) -> Answer:
    """Wait for a verdict; a person at a terminal sees how far the trial is."""
    if not sys.stderr.isatty():
        return door.wait_done(request, timeout)
    paths = session.paths
    fold = folded(paths)

    def meanwhile() -> None:
        fold.refresh()
        ticker.tick([door.desk.worker])

    with Ticker(paths, fold) as ticker:
        return door.wait_done(request, timeout, meanwhile)


def result(session: Session) -> None:
    name = session.arguments.experiment
    if name is None:
        door = _door(session)
        _print(session, _wait(session, door, door.last_request(), session.arguments.wait or 0.0))
        return
    _print(session, _await_verdict(session, name))


def _await_verdict(session: Session, name: str) -> Answer:
    paths = session.paths
    fold = folded(paths)
    deadline = time.monotonic() + (session.arguments.wait or 0.0)
    while find(fold, name).kind == "candidate" and time.monotonic() < deadline:
        time.sleep(0.1)
        fold.refresh()
    entry = find(fold, name)
    known = fold.classes[fold.home_class(name)]
    incumbent = known.entries[known.incumbent].estimate if known.incumbent else None
    return Answer(
        id="",
        state="done",
        experiment=name,
        verdict=entry.kind,
        reason=entry.reason,
        val_bpb=entry.estimate.mean if entry.estimate else None,
        incumbent_val_bpb=incumbent.mean if incumbent else None,
        commit=entry.claim.commit,
        base=fold.claims[known.incumbent].commit if known.incumbent else None,
    )


def _print(session: Session, answer: Answer) -> None:
    if session.arguments.json:
        print_json(documents.answer(answer))
        return
    shown = style(session)
    print(f"{answer.experiment or 'submitted'}  {shown.word(answer.verdict or 'candidate')}")
    if answer.reason:
        print(table.printable(answer.reason))
    if answer.id and answer.base and answer.verdict not in (None, "candidate"):
        print(f"this worktree is on {answer.base[:10]} now")


def note(session: Session) -> None:
    worktree = session.place.worktree
    if worktree is not None:
        _door(session).note(session.arguments.text)
        return
    fold = folded(session.paths)
    fold.journal.append(records.Note(worker="", text=session.arguments.text))


def agent(session: Session) -> None:
    from swarm.agents import session as agent_session

    worktree, spec = session.place.worktree, session.arguments.spec
    if worktree is None:
        raise UsageError("swarm agent is run by a worker in its worktree", "swarm spawn --agent …")
    if spec == "tuner":
        agent_session.run_tuner(worktree, session.environment)
    else:
        agent_session.run_researcher(worktree, spec, session.environment)


def brief(session: Session) -> None:
    """Print what is known; in a worktree for its worker, else for the first one."""
    from swarm.agents.session import source_reader
    from swarm.views import brief as view

    fold = folded(session.paths)
    worker = session.place.worker or next(iter(fold.active))
    print(view.build(fold, worker, source_reader(session.paths, fold)))


def runner(session: Session) -> None:
    paths, worker = session.paths, session.arguments.worker
    _log_to(paths.runner_log(worker))
    # Before the slow imports: whoever has this lock is the worker, and is seen to be alive.
    lock = ProcessLock(paths.worker_lock(worker))
    try:
        with _recorded():
            if not lock.try_acquire():
                raise Refused(f"worker {worker} is running already", "see swarm status")
            from swarm.runner import Runner

            Runner(paths, worker, session.environment).run()
    finally:
        lock.release()
        if sys.stdout.isatty():
            time.sleep(_LINGER_SECONDS)


def supervise(session: Session) -> None:
    from swarm.supervisor import Supervisor

    paths = session.paths
    _log_to(paths.supervisor_log)
    with _recorded():
        Supervisor(paths, session.environment).run()


def _log_to(path: Path) -> None:
    """A process without a screen of its own logs to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.raiseExceptions = False  # a full disk must not print tracebacks into the pane
    logging.basicConfig(filename=path, level=logging.INFO, format=form)


@contextlib.contextmanager
def _recorded() -> Iterator[None]:
    """The outermost loop of a process nobody watches: whatever ends it is in its log."""
    try:
        yield
    except Exception:
        logging.exception("this process ends")
        raise
