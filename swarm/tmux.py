"""One tmux pane per worker, in a tmux server of the swarm's own."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import libtmux
from libtmux import exc

from swarm import processes
from swarm.errors import SwarmError

PANES_PER_WINDOW = 16
_SIZE = ("-x", "240", "-y", "60")
_TMUX_TIMEOUT_SECONDS = 20.0
_INSTALL_HINT = "apt install tmux / brew install tmux, or --no-tmux"

# A pane that is made before its command is known shows this, which waits and prints nothing.
_PLACEHOLDER = "cat"
# An ended pane does not show its status: with libutempter, tmux misses the end of some children.
_SERVER_OPTIONS = """\
set -s escape-time 10
set -g default-shell /bin/sh
set -g default-terminal screen-256color
set -g default-size 240x60
set -g history-limit 50000
set -g mouse on
set -g remain-on-exit on
set -g allow-rename off
set -gq allow-set-title off
set -g automatic-rename off
set -g set-titles off
set -g pane-border-status top
set -g pane-border-format " #{@worker}#{?pane_dead, (exited),} "
"""
# Printed after each command of a script, to know which one failed.
_DONE = "swarm-done"
# What the tmux server itself gets; a pane's environment is given to it in full.
_SERVER_ENVIRONMENT = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ")


class _Pane(NamedTuple):
    """`pid` is 0 when the process has ended: its number may be another's by now.

    `log` tells to which file its output goes; it is empty when it goes to none.
    """

    id: str
    window: str
    pid: int
    log: str
    worker: str


_PANE_FIELDS = (
    "#{pane_id}",
    "#{window_id}",
    "#{?pane_dead,0,#{pane_pid}}",
    "#{?pane_pipe,#{@log},}",
    "#{@worker}",
)


class TmuxPanes:
    """The panes of one swarm: a tmux server of its own with one session, `swarm-<tag>`.

    Its socket lies where `tmux -L <socket.name>` looks. Panes are addressed by pane id only, and a
    worker's pane is the one whose user option `@worker` is its exact name.
    """

    def __init__(self, tag: str, root: Path, environ: Mapping[str, str]) -> None:
        """Names things, starts nothing. Raises `SwarmError` when there is no tmux."""
        binary = shutil.which("tmux", path=environ.get("PATH"))
        if binary is None:
            raise SwarmError("tmux is not installed", _INSTALL_HINT)
        # tmux itself would replace dots and colons in a session name.
        self.session = "swarm-" + re.sub(r"[^A-Za-z0-9_-]", "_", tag)
        self.socket = _socket_path(tag, root, environ)
        self._environ = {key: environ[key] for key in _SERVER_ENVIRONMENT if key in environ}
        self._server = libtmux.Server(
            socket_path=self.socket, config_file="/dev/null", tmux_bin=binary
        )
        self._base = [binary, "-S", str(self.socket), "-f", "/dev/null"]

    def start(
        self, worker: str, argv: Sequence[str], environ: Mapping[str, str], cwd: Path, log: Path
    ) -> str | None:
        panes = self._panes()
        known = next((pane for pane in panes if pane.worker == worker), None)
        pane = known.id if known else self._new_pane(panes)
        log.parent.mkdir(parents=True, exist_ok=True)
        variables = [f"{key}={value}" for key, value in processes.inherited(environ).items()]
        self._run(
            ["set-option", "-p", "-t", pane, "@worker", worker],
            ["select-pane", "-t", pane, "-T", _literal(worker)],
            *_piping(pane, known, log),
            ["select-layout", "-t", pane, "tiled"],
            ["respawn-pane", "-k", "-t", pane, "-c", _literal(str(cwd))]
            + [argument for variable in variables for argument in ("-e", variable)]
            + ["--", *_direct(argv)],
        )
        return pane

    def close(self) -> None:
        # A pane's process leads a session; whatever in it survives the hang-up is killed.
        members = processes.in_sessions({pane.pid for pane in self._panes() if pane.pid})
        try:
            self._server.kill()
        except exc.LibTmuxException as error:
            if not _is_down(str(error)):
                raise _failed("kill-server", str(error)) from error
        processes.kill_survivors(members)
        self.socket.unlink(missing_ok=True)

    def attach_command(self, worker: str | None) -> list[str] | None:
        panes = self._panes()
        attach = ["attach-session", "-t", f"={self.session}"]
        if worker is None:
            return [*self._base, *attach] if panes else None
        pane = next((pane.id for pane in panes if pane.worker == worker), None)
        if pane is None:
            return None
        select = ["select-window", "-t", pane, ";", "select-pane", "-t", pane, ";"]
        return [*self._base, *select, *attach]

    def _panes(self) -> list[_Pane]:
        form = "\t".join(_PANE_FIELDS)
        result = self._server.cmd("list-panes", "-s", "-F", form, target=f"={self.session}")
        if result.returncode != 0:
            message = "\n".join(result.stderr)
            if _is_down(message) or "can't find session" in message:
                return []
            raise _failed("list-panes", message)
        fields = [line.split("\t", 4) for line in result.stdout]
        return [_Pane(pane, window, int(pid), *rest) for pane, window, pid, *rest in fields]

    def _new_pane(self, panes: list[_Pane]) -> str:
        """Make a pane in the first window with room, else in a new window, else a new session."""
        if not panes:
            options = [line for line in _SERVER_OPTIONS.splitlines() if line]
            new = ["new-session", "-d", "-s", self.session, "-n", "swarm", *_SIZE]
            return self._run(*options, [*new, "-P", "-F", "#{pane_id}", _PLACEHOLDER])
        made = ("-d", "-P", "-F", "#{pane_id}")
        last_of_window = {pane.window: pane.id for pane in panes}
        for window, count in Counter(pane.window for pane in panes).items():
            if count < PANES_PER_WINDOW:
                last = last_of_window[window]
                result = self._server.cmd("split-window", *made, _PLACEHOLDER, target=last)
                if result.returncode == 0:
                    return result.stdout[0]
                # A person's small terminal may leave no space in this window.
        result = self._server.cmd(
            "new-window", "-a", "-n", "swarm", *made, _PLACEHOLDER, target=panes[-1].window
        )
        if result.returncode != 0:
            raise _failed("new-window", "\n".join(result.stderr))
        return result.stdout[0]

    def _run(self, *commands: str | list[str]) -> str:
        """Run tmux commands in one call, starting the server if need be; return what they print.

        They go in through stdin, because command lines (`-e KEY=VALUE`) can be read by everyone
        on the machine, and libtmux has no stdin. The one that fails is named, and is the last.
        """
        lines = [c if isinstance(c, str) else " ".join(map(_quoted, c)) for c in commands]
        script = "".join(f"{line} ; display-message -p {_DONE} ; " for line in lines)
        try:
            result = subprocess.run(
                [*self._base, "start-server", ";", "source-file", "-"],
                input=os.fsencode(script.removesuffix(" ; ")),
                capture_output=True,
                check=False,
                cwd="/",
                env=self._environ,
                timeout=_TMUX_TIMEOUT_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _failed("source-file", str(error)) from error
        printed = result.stdout.decode(errors="replace").splitlines()
        if result.returncode != 0:
            failed = lines[min(printed.count(_DONE), len(lines) - 1)].split()[0].strip('"')
            raise _failed(failed, result.stderr.decode(errors="replace").strip())
        return "\n".join(line for line in printed if line != _DONE)


def _socket_path(tag: str, root: Path, environ: Mapping[str, str]) -> Path:
    """Where `tmux -L` would put it: short, and different for the same tag in two repositories."""
    digest = hashlib.sha256(os.fsencode(root.resolve()) + b"\0" + tag.encode()).hexdigest()[:8]
    name = f"swarm-{re.sub(r'[^A-Za-z0-9_-]', '_', tag)[:24]}-{digest}"
    folder = Path(environ.get("TMUX_TMPDIR") or "/tmp").resolve() / f"tmux-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise SwarmError(
            f"cannot use {folder} for tmux: {error.strerror}", _INSTALL_HINT
        ) from error
    if status.st_uid != os.getuid() or status.st_mode & 0o007:
        raise SwarmError(f"{folder} is open to other users", f"chmod 700 '{folder}', or --no-tmux")
    return folder / name


def _direct(argv: Sequence[str]) -> list[str]:
    """Make tmux execute `argv` as it is: a single argument it would give to a shell.

    The command leads the terminal's session, so it is told (SIGHUP) when tmux goes away.
    """
    return list(argv) if len(argv) > 1 else [shlex.quote(argv[0])]


def _piping(pane: str, known: _Pane | None, log: Path) -> list[list[str]]:
    """The commands that make a pane append to `log`; run before it starts, no line is missed.

    A pipe that is there is left alone: closing it would lose what it has not written yet.
    """
    name = hashlib.sha256(os.fsencode(log)).hexdigest()[:16]
    if known and known.log == name and log.exists():
        return []
    # A pane whose process has ended takes no pipe.
    revive = [["respawn-pane", "-k", "-t", pane, _PLACEHOLDER]] if known else []
    command = _literal(f"exec cat >> {shlex.quote(str(log))}", time=True)
    mark = ["set-option", "-p", "-t", pane, "@log", name]
    return [*revive, ["pipe-pane", "-t", pane, command], mark]


def _literal(text: str, time: bool = False) -> str:
    """Escape what tmux expands in a format: `#…`, and `%…` where it knows the time.

    A run of `#` before `[` is the exception: tmux leaves it as it is.
    """
    text = re.sub(r"#+(?![#\[])", lambda run: run[0] * 2, text)
    return text.replace("%", "%%") if time else text


def _quoted(argument: str) -> str:
    """Quote for tmux's own command language, where even single quotes lose a line's indent."""
    escaped = re.sub(r'[\\"$~]', lambda special: "\\" + special[0], argument)
    return '"' + escaped.replace("\n", "\\n") + '"'


def _is_down(message: str) -> bool:
    return any(
        text in message
        for text in ("no server running", "error connecting to", "lost server", "server exited")
    )


def _failed(command: str, message: str) -> SwarmError:
    return SwarmError(
        f"tmux {command} failed: {message or 'it did not say why'}", "or run with --no-tmux"
    )
