"""Verbs that act on a swarm: spawn, stop, recover, pause, resume, sync, merge, clean."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from swarm import control, drift, records, supervisor
from swarm import merge as merging
from swarm import spawn as spawning
from swarm.commands import Session, begun, folded, say
from swarm.commands.reading import SCREENFUL, style
from swarm.commands.ticker import Ticker
from swarm.errors import Refused, SwarmError
from swarm.leaderboard import BASELINE, Leaderboard
from swarm.order import Order
from swarm.paths import Paths
from swarm.standings import DeviceClass, Entry
from swarm.views import board as boards
from swarm.views import documents, table

_WATCH_SECONDS = 0.2


def spawn(session: Session) -> None:
    given = session.arguments
    order = Order(
        agents=given.agents,
        agent=given.agent or [],
        devices=given.devices,
        oversubscribe=given.oversubscribe,
        tag=given.tag,
        seconds=given.minutes * 60 if given.minutes is not None else given.seconds,
        timeout=given.trial_timeout,
        scale=given.scale,
        dataset=given.dataset,
        policy=given.policy,
        sync_every=given.sync_every,
        max_experiments=given.max_experiments,
        max_hours=given.max_hours,
        max_usd=given.max_usd,
        device_hour_usd=given.device_hour_usd,
        directions=given.directions,
        islands=given.islands,
        pass_env=given.pass_env,
        tmux=False if given.no_tmux else None,
    )
    paths = spawning.spawn(session.place.root, order, session.environment, say)
    fold = folded(paths)
    for name in fold.active:
        joined = fold.workers[name].joined
        say(f"  {name}: {joined.agent} on {joined.device.model}, branch {joined.branch}")
    tag = f" --tag {paths.tag}"
    see = "attach" if fold.config and fold.config.tmux else f"log -f {next(iter(fold.active))}"
    say(f"swarm {paths.tag} is running; swarm {see}{tag}, swarm board{tag}, swarm stop{tag}")
    if given.wait:
        _wait(session, paths, fold)


def _wait(session: Session, paths: Paths, fold: Leaderboard) -> None:
    """Comment on every verdict until the swarm comes to rest, then print the leaderboard."""
    shown = style(session)
    try:
        with Ticker(paths, fold) as ticker:
            _comment(paths, fold, shown, ticker)
    except KeyboardInterrupt:
        say(f"\nno longer waiting; the swarm goes on. End it: swarm stop --tag {paths.tag}")
        raise
    say(f"swarm {paths.tag} has {fold.state}: {fold.ended_because}\n")
    print(boards.board(fold, boards.Look(datetime.now(UTC), SCREENFUL), shown))
    _say_best(paths, fold)
    if fold.state == "stopped" and fold.ended_because.startswith("every worker"):
        raise SwarmError(fold.ended_because, "see swarm log and swarm status")


def _comment(paths: Paths, fold: Leaderboard, shown: table.Style, ticker: Ticker) -> None:
    told: set[str] = set()
    missing_since = None
    while True:
        fold.refresh()
        for entry in _new_verdicts(fold, told):
            ticker.say(boards.verdict_line(entry, shown))
        if fold.state != "running":
            return
        missing_since = None if supervisor.is_running(paths) else missing_since or time.time()
        if missing_since and time.time() - missing_since > 5:
            raise SwarmError("the swarm's processes are gone", "swarm recover")
        ticker.tick()
        time.sleep(_WATCH_SECONDS)


def _new_verdicts(fold: Leaderboard, told: set[str]) -> Iterator[Entry]:
    """Experiments that have got their verdict since the last time."""
    for device_class in fold.classes.values():
        for name, entry in device_class.entries.items():
            if entry.kind != "candidate" and name not in told:
                told.add(name)
                yield entry


def _say_best(paths: Paths, fold: Leaderboard) -> None:
    primary = fold.primary
    if primary is None or primary.best in (None, BASELINE):
        found = primary.incumbent if primary else None
        if found in (None, BASELINE):
            print("\nno experiment was better than the baseline")
        else:
            print(f"\nno improvement is confirmed; {found} is only probably one")
            print(f"merge it as it is: swarm merge --incumbent --tag {paths.tag}")
        return
    entry = primary.entries[primary.best or ""]
    print(f"\nbest: {entry.experiment} = commit {entry.claim.commit[:10]} on {paths.best_branch}")
    print(f"look:  swarm show {entry.experiment} --tag {paths.tag}")
    print(f"merge: swarm merge --tag {paths.tag}")


def stop(session: Session) -> None:
    paths = session.paths
    fold = begun(paths)
    if fold.state != "running":
        raise Refused(f"swarm '{paths.tag}' has {fold.state} already", "see swarm board")
    fold.journal.append(records.Control(action="stop", now=session.arguments.now))
    if any(state.open_trial for state in fold.workers.values()) and not session.arguments.now:
        say("waiting for running trials to end (swarm stop --now cuts them off)")
    supervisor.wait_until_at_rest(paths, fold, session.environment)
    say(f"swarm {paths.tag} is stopped; go on with it: swarm spawn --tag {paths.tag}")


def recover(session: Session) -> None:
    paths = session.paths
    dead = spawning.recover(paths, session.environment)
    say(f"swarm {paths.tag} runs; started again: {', '.join(dead) or 'nothing, all was alive'}")


def pause(session: Session) -> None:
    _control(session, "pause")


def resume(session: Session) -> None:
    _control(session, "resume")


def _control(session: Session, action: records.Action) -> None:
    """Append a command to the runners, for the workers named or all of them."""
    paths, workers = session.paths, session.arguments.workers
    control.ask(paths, begun(paths), action, workers)
    say(f"{action}: {', '.join(workers) or 'all workers'}")


def sync(session: Session) -> None:
    """In a worktree ask its own runner, which works from inside a sandbox; else ask all."""
    if session.place.worktree is not None and not session.arguments.workers:
        from swarm.door import Door

        say(f"now {Door(session.place.worktree).sync().reason}")
    else:
        _control(session, "sync")


def noise(session: Session) -> None:
    """Ask for replicates of the incumbents; with --wait print what they showed."""
    paths, count = session.paths, session.arguments.replicates
    fold = begun(paths)
    if fold.state != "running":
        raise Refused(f"swarm '{paths.tag}' has {fold.state}", f"swarm spawn --tag {paths.tag}")
    if not any(map(_can_repeat, fold.classes.values())):
        raise Refused("there is no incumbent yet that could be repeated", "see swarm status")
    wanted = {known.name: _calibrations(known) + count for known in fold.classes.values()}
    fold.journal.append(records.Control(action="calibrate", count=count))
    say(f"{count} replicates of the incumbent asked for (swarm status shows the noise)")
    if session.arguments.wait:
        _wait_for_calibrations(paths, fold, wanted)
        for known in fold.classes.values():
            print(f"{known.name}: {table.noise(documents.noise(known))}")


def _wait_for_calibrations(paths: Paths, fold: Leaderboard, wanted: dict[str, int]) -> None:
    with Ticker(paths, fold) as ticker:
        while fold.state == "running":
            fold.refresh()
            if all(
                _calibrations(known) >= wanted[known.name] or not _can_repeat(known)
                for known in fold.classes.values()
            ):
                return
            ticker.tick()
            time.sleep(_WATCH_SECONDS)


def _can_repeat(known: DeviceClass) -> bool:
    entry = known.top() or known.entries[BASELINE]
    return entry.may_repeat and entry.kind in ("keep", "candidate")


def _calibrations(known: DeviceClass) -> int:
    """How many have ended, but for those that were cut off."""
    trials = (trial for entry in known.entries.values() for trial in entry.trials)
    ended = (t for t in trials if t.outcome not in (None, "interrupted"))
    return sum(trial.purpose == "calibration" for trial in ended)


def merge(session: Session) -> None:
    paths, given = session.paths, session.arguments
    fold = folded(paths, from_start=True)
    found = drift.of(fold.primary) if fold.primary else None
    done = merging.merge(paths, fold, given.into, given.squash, given.incumbent)
    if found and found.is_real:
        say(f"warning: {found}")
    print(f"{done.branch} is at {done.commit[:10]} with {done.experiment} ({done.how})")


def clean(session: Session) -> None:
    from swarm import clean as cleaning

    paths = session.paths
    removed = cleaning.clean(paths, folded(paths), session.arguments.force)
    print("\n".join(f"removed {what}" for what in removed) or "nothing to remove")
