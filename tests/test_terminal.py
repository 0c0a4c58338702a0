"""A pane seen from inside, in a real tmux on a private socket."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import wait_for

from swarm.errors import SwarmError
from swarm.terminal import Terminal
from swarm.tmux import TmuxPanes

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="no tmux here")

# Shows what it is sent, byte for byte, with bracketed paste on.
ECHO = r"""
import os, sys, termios, tty
tty.setraw(0)
os.write(1, b"\x1b[?2004hready \xe2\x9d\xaf \x1b[2mfaint\x1b[0m\r\n")
while data := os.read(0, 4096):
    os.write(1, repr(data).encode() + b"\r\n")
"""


@pytest.fixture
def panes(tmp_path: Path, environment: dict[str, str]) -> Iterator[TmuxPanes]:
    panes = TmuxPanes("t", tmp_path, environment)
    yield panes
    panes.close()


@pytest.fixture
def terminal(panes: TmuxPanes, tmp_path: Path, environment: dict[str, str]) -> Terminal:
    argv = [sys.executable, "-c", ECHO]
    pane = panes.start("cpu0", argv, environment, tmp_path, tmp_path / "log")
    inside = {"PATH": environment["PATH"], "LANG": "C"}
    inside |= {"TMUX": f"{panes.socket},17,0", "TMUX_PANE": pane or ""}
    found = Terminal.of(inside)
    assert found is not None
    wait_for(lambda: "ready" in found.screen())
    return found


@contextmanager
def attached(panes: TmuxPanes, environment: dict[str, str]) -> Iterator[int]:
    """Somebody at a terminal of his own who looks at the panes; what is written there he types."""
    command = panes.attach_command(None)
    assert command is not None
    pid, screen = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, {**environment, "TERM": "xterm"})
    try:
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        wait_for(lambda: panes._server.cmd("list-clients").stdout)
        yield screen
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(screen)


def shown(terminal: Terminal) -> str:
    return terminal.screen().replace("\n", "")


def test_outside_of_tmux_there_is_none() -> None:
    assert Terminal.of({}) is None
    assert Terminal.of({"TMUX": "/tmp/socket,1,0"}) is None
    found = Terminal.of({"TMUX": "/tmp/a,b/socket,12,0", "TMUX_PANE": "%3"})
    assert found is not None
    assert found.pane == "%3"


def test_the_screen_has_every_character_and_says_what_is_faint(terminal: Terminal) -> None:
    line = next(line for line in terminal.screen().splitlines() if "ready" in line)
    assert line.startswith("ready ❯ \x1b[2mfaint")


def test_a_paste_is_bracketed_and_not_sent(terminal: Terminal, panes: TmuxPanes) -> None:
    terminal.paste("go on; 'all' $x #{pane_id} ünd\nline two\x1b[201~\x03")
    wait_for(lambda: "201~" in shown(terminal))
    pasted = "go on; 'all' $x #{pane_id} ünd\rline two[201~".encode()
    assert repr(b"\x1b[200~" + pasted + b"\x1b[201~") in shown(terminal)
    assert "\\r\\x1b" not in shown(terminal), "no Enter"
    assert not panes._server.cmd("list-buffers").stdout, "the buffer is gone"


def test_keys_are_pressed(terminal: Terminal) -> None:
    terminal.press("Down", "Enter")
    wait_for(lambda: "\\r'" in shown(terminal))
    assert "[B" in shown(terminal) or "OB" in shown(terminal)


def test_a_person_at_the_pane_is_noticed(
    terminal: Terminal, panes: TmuxPanes, environment: dict[str, str], tmp_path: Path
) -> None:
    assert not terminal.person_is_typing(time.time())
    with attached(panes, environment) as screen:
        assert not terminal.person_is_typing(time.time()), "who only looks does not type"

        def typed() -> bool:
            os.write(screen, b"x")
            return terminal.person_is_typing(time.time())

        wait_for(typed, every=0.2)
        assert not terminal.person_is_typing(time.time() + 61)
        panes.start("cpu1", ["sleep", "600"], environment, tmp_path, tmp_path / "log1")
        other = panes._server.cmd("list-panes", "-s", "-F", "#{pane_id}").stdout[1]
        panes._server.cmd("select-pane", "-t", other)
        assert not terminal.person_is_typing(time.time()), "types in another pane"


def test_copy_mode_is_a_person_who_looks(
    terminal: Terminal, panes: TmuxPanes, environment: dict[str, str]
) -> None:
    panes._server.cmd("copy-mode", "-t", terminal.pane)
    assert not terminal.person_is_typing(time.time()), "who left it on has gone"
    with attached(panes, environment):
        assert terminal.person_is_typing(time.time())
        assert not terminal.person_is_typing(time.time() + 301)
        panes._server.cmd("send-keys", "-t", terminal.pane, "-X", "cancel")
        assert not terminal.person_is_typing(time.time())


def test_copy_mode_that_was_left_on_takes_no_keys(terminal: Terminal, panes: TmuxPanes) -> None:
    for write, shown_as in ((terminal.press, "'x'"), (terminal.paste, "201~")):
        panes._server.cmd("copy-mode", "-t", terminal.pane)
        write("x")
        wait_for(lambda wanted=shown_as: wanted in shown(terminal))


def test_a_cleared_pane_is_empty_and_still_there(terminal: Terminal, panes: TmuxPanes) -> None:
    panes._server.cmd("copy-mode", "-t", terminal.pane)
    terminal.clear()
    assert not terminal.screen().strip()
    assert panes._server.cmd("display-message", "-p", "#{history_size}").stdout == ["0"]
    terminal.press("y")
    wait_for(lambda: "'y'" in shown(terminal))


def test_a_pane_that_is_gone_is_an_error(terminal: Terminal, panes: TmuxPanes) -> None:
    other = Terminal(str(panes.socket), "%99", {"PATH": os.environ["PATH"]})
    with pytest.raises(SwarmError, match="tmux capture-pane failed: can't find pane: %99"):
        other.screen()
    panes.close()
    with pytest.raises(SwarmError, match="tmux send-keys failed: "):
        terminal.press("Enter")
    with pytest.raises(SwarmError, match="tmux capture-pane failed"):
        Terminal(str(panes.socket), "%0", {"PATH": "/nowhere"}).screen()
