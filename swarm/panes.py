"""Where runners are shown: one tmux pane per worker, or plain background processes."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from swarm import processes
from swarm.errors import Refused, SwarmError
from swarm.leaderboard import Leaderboard
from swarm.paths import Paths


class Panes(Protocol):
    """Starts runners and shows them."""

    def start(
        self, worker: str, argv: Sequence[str], environ: Mapping[str, str], cwd: Path, log: Path
    ) -> str | None:
        """Run `argv` for `worker`, ending what runs for it already; return its pane id, if any.

        `environ` is the whole environment of the process. What it prints is appended to `log`.
        """
        ...

    def close(self) -> None:
        """End everything that was started here; closing twice is fine."""
        ...

    def attach_command(self, worker: str | None) -> list[str] | None:
        """The command that shows a worker (or all) to a person; `None` when there is no pane."""
        ...


class BackgroundPanes:
    """No panes: runners are detached processes that write to their logs."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, worker: str, argv: Sequence[str], environ: Mapping[str, str], cwd: Path, log: Path
    ) -> str | None:
        if worker in self._processes:
            processes.end_groups([self._processes.pop(worker)])
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            try:
                process = subprocess.Popen(
                    list(argv),
                    env=processes.inherited(environ),
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise SwarmError(
                    f"cannot start {worker}: {error.strerror}: {error.filename or argv[0]}"
                ) from error
        threading.Thread(target=processes.reap, args=(process,), daemon=True).start()
        self._processes[worker] = process
        return None

    def close(self) -> None:
        """End what this object started; the runners of an earlier process are not known here."""
        processes.end_groups(list(self._processes.values()))
        self._processes.clear()

    def attach_command(self, worker: str | None) -> list[str] | None:
        return None


def choose_panes(tmux: bool, tag: str, root: Path, environ: Mapping[str, str]) -> Panes:
    """tmux panes when asked for (`SwarmError` where there is no tmux), else the background."""
    if not tmux:
        return BackgroundPanes()
    from swarm.tmux import TmuxPanes  # late: libtmux takes longer to import than all of ours

    return TmuxPanes(tag, root, environ)


def attaching(
    paths: Paths, fold: Leaderboard, worker: str | None, environ: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """The command that shows a worker (or all) to a person, and the environment to run it in.

    Raises `Refused` where there is no such worker, or it has no pane.
    """
    if worker is not None and worker not in fold.workers:
        raise Refused(f"there is no worker '{worker}'", f"workers: {', '.join(fold.workers)}")
    tmux = bool(fold.config and fold.config.tmux)
    command = choose_panes(tmux, paths.tag, paths.root, environ).attach_command(worker)
    if command is None:
        raise Refused(
            "there is no pane to attach to", f"swarm log {worker or next(iter(fold.active))}"
        )
    # Inside another tmux, attaching is refused while TMUX is set.
    return command, {name: value for name, value in environ.items() if name != "TMUX"}


def tmux_available(environ: Mapping[str, str]) -> bool:
    return shutil.which("tmux", path=environ.get("PATH")) is not None
