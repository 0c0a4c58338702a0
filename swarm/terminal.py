"""One tmux pane as seen by the runner that lives in it: read, typed into, left to a person."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping

from swarm.errors import SwarmError

_TMUX_TIMEOUT_SECONDS = 10.0
_TYPING_SECONDS = 60.0
"""So long after the last key of a person we do not type."""
_READING_SECONDS = 300.0
"""So long after the last key of somebody who looks at its window, copy mode is his."""
_ATTACHING_SECONDS = 1
"""To attach is activity, too."""

# What would end a bracketed paste, or be a command to the program that gets it.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Terminal:
    """The pane of this process, addressed by its id, on the server that it belongs to.

    Each method is one short call of tmux; it raises `SwarmError` where the pane is gone.
    """

    def __init__(self, socket: str, pane: str, environment: Mapping[str, str]) -> None:
        self.pane = pane
        self._base = ["tmux", "-S", socket]
        self._environment = {k: v for k, v in environment.items() if k in ("PATH", "HOME", "LANG")}
        self._buffer = f"swarm-{pane.removeprefix('%')}-{os.getpid()}"

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Terminal | None:
        """The pane that a process with this environment lives in; `None` outside of tmux."""
        server, pane = environment.get("TMUX", ""), environment.get("TMUX_PANE", "")
        socket = server.rsplit(",", 2)[0]
        return cls(socket, pane, environment) if socket and pane else None

    def screen(self) -> str:
        """The visible screen with its colours as escape sequences: faint text means something."""
        return self._tmux("capture-pane", "-p", "-e", "-t", self.pane)

    def clear(self) -> None:
        """Forget what stands here: the next program is not to be judged by it."""
        history = ("clear-history", "-t", self.pane)
        self._tmux("send-keys", "-R", "-t", self.pane, ";", *history, before=self._leave_copy_mode)

    def paste(self, text: str) -> None:
        """Paste `text` as a person would; it is not sent yet: that is `press("Enter")`, later."""
        clean = _CONTROL.sub("", text.replace("\r\n", "\n"))
        load = ("load-buffer", "-b", self._buffer, "-")
        paste = ("paste-buffer", "-p", "-d", "-b", self._buffer, "-t", self.pane)
        self._tmux(*load, ";", *paste, text=clean, before=self._leave_copy_mode)

    def press(self, *keys: str) -> None:
        """Press keys by their tmux names, such as `Enter` or `Down`."""
        self._tmux("send-keys", "-t", self.pane, "--", *keys, before=self._leave_copy_mode)

    def person_is_typing(self, now: float) -> bool:
        """Whether a person is busy in this pane; `now` is seconds since the epoch.

        It is in copy mode and in the window of someone who did anything within minutes, or the
        active pane of someone who pressed a key within one.
        """
        pane = ("display-message", "-p", "-t", self.pane, "#{pane_in_mode} #{window_id}")
        form = "#{pane_id} #{window_id} #{client_created} #{client_activity}"
        first, *lines = self._tmux(*pane, ";", "list-clients", "-F", form).splitlines()
        in_mode, window = first.split()
        for its_pane, its_window, attached, activity in (line.split() for line in lines):
            ago = now - int(activity)
            if in_mode != "0" and its_window == window and ago < _READING_SECONDS:
                return True
            has_typed = int(activity) > int(attached) + _ATTACHING_SECONDS
            if its_pane == self.pane and has_typed and ago < _TYPING_SECONDS:
                return True
        return False

    @property
    def _leave_copy_mode(self) -> tuple[str, ...]:
        """Somebody who went away may have left it on; keys would go to it."""
        cancel = f"send-keys -X -t {self.pane} cancel"
        return ("if-shell", "-F", "-t", self.pane, "#{pane_in_mode}", cancel, ";")

    def _tmux(self, *arguments: str, text: str = "", before: tuple[str, ...] = ()) -> str:
        command = arguments[0]
        try:
            done = subprocess.run(
                [*self._base, *before, *arguments],
                input=text.encode(errors="replace"),
                capture_output=True,
                check=False,
                env=self._environment,
                timeout=_TMUX_TIMEOUT_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SwarmError(f"tmux {command} failed: {error}") from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise SwarmError(f"tmux {command} failed: {said}")
        return done.stdout.decode(errors="replace")
