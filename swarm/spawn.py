"""From a bare repository to a running swarm: choose, check, prepare, write it down, start."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path

import filelock

from swarm import __version__, config, devices, heartbeat, pristine, records, supervisor
from swarm.errors import Refused, SwarmError
from swarm.filesystem import network_filesystem
from swarm.fingerprint import prints
from swarm.journal import Journal
from swarm.leaderboard import BASELINE, Leaderboard
from swarm.locks import DeviceLock, is_held
from swarm.mailbox import Mailbox
from swarm.order import (
    Order,
    Say,
    check_agents,
    check_limits,
    check_prices,
    choose_settings,
    choose_slots,
)
from swarm.panes import tmux_available
from swarm.paths import Paths
from swarm.views import crew
from swarm.worktree import Repository, add_worktree, open_repository

_ALIVE_TIMEOUT_SECONDS = 60.0


def spawn(root: Path, order: Order, environment: dict[str, str], say: Say) -> Paths:
    """Start a swarm, or start a stopped one again; return once its runners are alive.

    Raises `UsageError`, `Refused` or `SwarmError` before anything has been started.
    """
    repository = open_repository(root)
    paths = Paths(root, (order.tag and config.check_tag(order.tag)) or _new_tag(root))
    with _only_one(paths):
        if supervisor.is_running(paths):
            raise Refused(
                f"swarm '{paths.tag}' is running", "swarm status; or another name: --tag …"
            )
        board = Leaderboard(Journal(paths.journal))
        again = paths.journal.exists()
        if again:
            board.refresh()
            order = _as_before(order, board)
        slots, specs = choose_slots(order, environment, say)
        check_agents(specs, order.pass_env, environment)
        check_prices(specs, order.max_usd, environment, say)
        _check_free(slots, environment)
        root_commit = "" if again else _check_repository(repository)
        settings = choose_settings(root, order, environment, slots, board.config, say)
        if again:
            check_limits(settings, board, say)
            _spawn_again(paths, board, settings, slots, specs)
            say(f"continuing swarm {paths.tag} with {len(board.claims) - 1} experiments so far")
        else:
            _found(repository, paths, board, settings, root_commit, slots, specs)
        board.refresh()
        supervisor.launch(paths, environment)  # it waits for us to have laid out everything
        try:
            lay_out(paths, board)
        except SwarmError:
            board.journal.append(records.Control(action="stop", now=True))
            raise
    wait_alive(paths, board)
    return paths


def recover(paths: Paths, environment: dict[str, str]) -> list[str]:
    """Start again what died of a running swarm; return the workers whose runner was dead.

    Raises `Refused` for a swarm that came to rest, and `SwarmError` for what would keep it from
    starting, before anything has been started.
    """
    board = Leaderboard(Journal(paths.journal))
    board.refresh()
    if not crew.is_laid_out(board):
        raise Refused(
            f"swarm '{paths.tag}' was never laid out whole", f"swarm spawn --tag {paths.tag}"
        )
    if board.state != "running":
        raise Refused(
            f"swarm '{paths.tag}' has {board.state} ({board.ended_because})",
            f"go on with it: swarm spawn --tag {paths.tag}",
        )
    dead = [name for name in board.active if not is_held(paths.worker_lock(name))]
    supervised = is_held(paths.supervisor_lock)
    if not supervised:
        _check_recovery(paths, board, environment)
    lay_out(paths, board)
    if not supervised:
        supervisor.launch(paths, environment)
    if not board.stopping:
        wait_alive(paths, board)
    return dead


def _check_recovery(paths: Paths, board: Leaderboard, environment: dict[str, str]) -> None:
    """Raise `SwarmError` for what a new supervisor, or an agent, would fail for later, unseen."""
    assert board.config is not None
    if board.config.tmux and not tmux_available(environment):
        raise SwarmError(
            "this swarm runs in tmux, which is not on PATH",
            f"install it; or swarm stop, then swarm spawn --tag {paths.tag} --no-tmux",
        )
    if not board.stopping:
        specs = [board.workers[name].joined.agent for name in board.active]
        check_agents(specs, board.config.pass_env, environment)


def lay_out(paths: Paths, board: Leaderboard) -> None:
    """Make the worktrees, branches and mailboxes that are missing. Never removes anything."""
    repository = Repository(paths.root)
    repository.set_ref(
        paths.experiment_ref(BASELINE), board.claims[BASELINE].commit, "swarm: baseline"
    )
    for name in board.active:
        base = board.incumbent_of(name).commit
        branch = board.workers[name].joined.branch
        worktree = add_worktree(paths.root, paths.worktree(name), branch, base, paths.git_lock)
        Mailbox(worktree.folder).create(config.Desk(str(paths.root), paths.tag, name))


def wait_alive(paths: Paths, board: Leaderboard) -> None:
    """Wait until every runner lives. Raises `SwarmError` naming the log of one that does not."""
    deadline = time.monotonic() + _ALIVE_TIMEOUT_SECONDS
    waiting = list(board.active)
    while waiting:
        board.refresh()
        waiting = [
            name
            for name in waiting
            if not is_held(paths.worker_lock(name)) and not board.workers[name].parked
        ]
        if board.state != "running" or board.stopping:
            return
        if waiting and time.monotonic() > deadline:
            beat = heartbeat.read(paths.heartbeat(waiting[0]))
            why = f": {beat.reason}" if beat and beat.state == "dead" else ""
            raise SwarmError(
                f"the runner of {waiting[0]} did not start{why}",
                f"see {paths.runner_log(waiting[0])}",
            )
        time.sleep(0.02)


def _new_tag(root: Path) -> str:
    """Today's date, with a number when that is taken: `nov21`, `nov21-2`, …"""
    today = date.today().strftime("%b%d").lower()
    number = 1
    while True:
        tag = today if number == 1 else f"{today}-{number}"
        if not Paths(root, tag).home.exists():
            return tag
        number += 1


@contextlib.contextmanager
def _only_one(paths: Paths) -> Iterator[None]:
    fs = network_filesystem(paths.root)
    if fs:
        raise SwarmError(
            f"{paths.root} is on a network filesystem ({fs}), where file locks cannot be trusted",
            "clone the repository onto a local disk",
        )
    paths.home.mkdir(parents=True, exist_ok=True)
    ours = paths.leaderboards / ".gitignore"
    if not ours.exists():
        ours.write_text("*\n")
    try:
        with filelock.FileLock(paths.spawn_lock, timeout=0, fallback_to_soft=False):
            yield
    except filelock.Timeout as error:
        raise Refused(f"swarm '{paths.tag}' is being spawned", "see swarm status") from error
    finally:
        if not paths.journal.exists():
            _remove_if_unused(paths)


def _remove_if_unused(paths: Paths) -> None:
    """A refused spawn leaves no empty swarm behind."""
    paths.spawn_lock.unlink(missing_ok=True)
    if paths.home.exists() and not any(paths.home.iterdir()):
        paths.home.rmdir()


def _check_repository(repository: Repository) -> str:
    """The commit to start from. Raises `Refused` when it is not what lies in the folder."""
    head = repository.resolve("HEAD")
    if head is None:
        raise Refused("the repository has no commit yet", "git add -A && git commit -m 'start'")
    for name in (config.TRAINER, config.EVALUATOR):
        if not repository.run("ls-tree", "--name-only", "HEAD", name):
            raise Refused(
                f"{name} is not in the last commit of {repository.folder}",
                f"git add {name} && git commit; swarm works on repositories with "
                f"{config.TRAINER} and {config.EVALUATOR}",
            )
    changed = repository.changed_files()
    dirty = [path for path in changed if path == config.TRAINER or pristine.is_fixed(path)]
    if dirty:
        raise Refused(
            f"{' and '.join(sorted(dirty))} has changes that are not committed",
            "commit them, or git stash",
        )
    return head


def _check_free(slots: list[records.Device], environment: Mapping[str, str]) -> None:
    """Raise `Refused`, naming the holder, when a device is being trained on."""
    for device in slots:
        lock = DeviceLock(config.cache_folder(environment) / "locks", device)
        lock.acquire(0.0, "swarm spawn")
        lock.release()


def _found(
    repository: Repository,
    paths: Paths,
    board: Leaderboard,
    settings: records.Config,
    root_commit: str,
    slots: list[records.Device],
    specs: list[str],
) -> None:
    """Write down a new swarm: its first lines come together, or not at all."""
    hashes = prints(repository.read(root_commit, config.TRAINER))
    baseline = records.Claim(
        experiment=BASELINE,
        worker="",
        agent="",
        parent=None,
        commit=root_commit,
        fingerprint=hashes.fingerprint,
        seedless=hashes.seedless,
        description="baseline",
    )
    first = records.Swarm(
        tag=paths.tag,
        root=root_commit,
        prepare_sha256=pristine.write(repository, root_commit, paths.pristine),
        config=settings,
        version=__version__,
        workers=tuple(slot.name for slot in slots),
    )
    draft = Journal(paths.journal.with_suffix(".draft"))
    draft.path.unlink(missing_ok=True)
    draft.append(first)
    draft.append(baseline)
    for slot, spec in zip(slots, specs, strict=True):
        draft.append(_worker(paths, settings, slot, spec))
    draft.path.replace(board.journal.path)


def _as_before(order: Order, board: Leaderboard) -> Order:
    """A swarm that goes on keeps its workers, unless the user orders others."""
    if order.agents is not None or order.agent or order.devices is not None:
        return order
    joined = [board.workers[name].joined for name in board.active]
    cpu = all(worker.device.kind == "cpu" for worker in joined)
    return replace(
        order,
        agents=len(joined),
        agent=[worker.agent for worker in joined],
        devices="cpu" if cpu else ",".join(w.device.name.removeprefix("gpu") for w in joined),
        oversubscribe=order.oversubscribe or not all(w.device.exclusive for w in joined),
    )


def _spawn_again(
    paths: Paths,
    board: Leaderboard,
    settings: records.Config,
    slots: list[records.Device],
    specs: list[str],
) -> None:
    with board.journal.transaction() as append:
        for slot, spec in zip(slots, specs, strict=True):
            append(_worker(paths, settings, slot, spec))
        # Last, because it makes the workers before it the active ones.
        append(records.Reconfigured(config=settings, workers=tuple(slot.name for slot in slots)))


def _worker(
    paths: Paths, settings: records.Config, slot: records.Device, spec: str
) -> records.Worker:
    return records.Worker(
        worker=slot.name,
        agent=spec,
        device=slot,
        device_class=devices.device_class(
            slot, settings.seconds, settings.dataset_fingerprint, _torch_version()
        ),
        branch=paths.branch(slot.name),
        worktree=str(paths.worktree(slot.name)),
    )


def _torch_version() -> str:
    """Read from its files: importing torch takes seconds, its metadata a twentieth of one."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return "none"
    text = Path(found.origin).with_name("version.py").read_text()
    version = re.search(r"__version__ = '([^'+]+)", text)
    return version[1] if version else "unknown"
