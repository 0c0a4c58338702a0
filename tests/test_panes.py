"""Panes in a real tmux, on private sockets, and background processes; all reaped at the end."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from swarm.errors import SwarmError
from swarm.panes import BackgroundPanes, Panes, choose_panes, tmux_available
from swarm.tmux import TmuxPanes

WEIRD = 'a\'; echo "foo" $x ~ #{pane_id} ##[x] #(touch pwned) %H'
SLEEP = ["sleep", "600"]
# tmux may lose what a process printed right before its end: see the test of the last lines.
LINGER = "sleep 0.3"

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="no tmux here")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / WEIRD
    folder.mkdir()
    return folder


@pytest.fixture
def environ() -> Iterator[dict[str, str]]:
    """An environment whose tmux sockets are in a folder of their own (a short one: 108 bytes)."""
    folder = tempfile.mkdtemp(prefix="sw t'")
    kept = ("PATH", "HOME", "LANG", "LC_ALL")
    yield {name: os.environ[name] for name in kept if name in os.environ} | {"TMUX_TMPDIR": folder}
    shutil.rmtree(folder)


@pytest.fixture
def panes(root: Path, environ: dict[str, str]) -> Iterator[TmuxPanes]:
    panes = TmuxPanes("nov.21", root, environ)
    yield panes
    panes.close()
    assert not panes.socket.exists()


def tmux(panes: TmuxPanes, *arguments: str) -> str:
    command = ["tmux", "-S", str(panes.socket), *arguments]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip("\n")


def listed(panes: TmuxPanes, form: str) -> list[str]:
    return tmux(panes, "list-panes", "-s", "-t", f"={panes.session}", "-F", form).splitlines()


def wait_for(what: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def wait_for_text(log: Path, text: str) -> None:
    wait_for(lambda: log.exists() and text in log.read_text())


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@needs_tmux
def test_eight_workers_get_titled_panes_in_one_tiled_window(
    panes: TmuxPanes, root: Path, environ: dict[str, str]
) -> None:
    workers = [f"gpu{i}" for i in range(8)]
    ids = [panes.start(w, SLEEP, environ, root, root / f"{w}.log") for w in workers]
    assert ids == [f"%{i}" for i in range(8)]
    assert listed(panes, "#{pane_id} #{@worker} #{pane_title}") == [
        f"{pane} {worker} {worker}" for pane, worker in zip(ids, workers, strict=True)
    ]
    assert len(set(listed(panes, "#{window_id}"))) == 1
    widths = [int(width) for width in listed(panes, "#{pane_width}")]
    heights = [int(height) for height in listed(panes, "#{pane_height}")]
    assert min(widths) > 70 and min(heights) > 15, "the panes are tiles"
    assert tmux(panes, "list-sessions", "-F", "#{session_name}") == "swarm-nov_21"
    assert tmux(panes, "show-options", "-gv", "remain-on-exit") == "on"
    assert tmux(panes, "show-options", "-gv", "pane-border-status") == "top"


@needs_tmux
def test_sixty_four_workers_fit_into_windows_of_sixteen(
    panes: TmuxPanes, root: Path, environ: dict[str, str]
) -> None:
    for i in range(64):
        panes.start(f"gpu{i}", SLEEP, environ, root, root / "all.log")
    windows = listed(panes, "#{window_id}")
    assert [windows.count(window) for window in dict.fromkeys(windows)] == [16, 16, 16, 16]
    assert listed(panes, "#{pane_dead} #{@worker}") == [f"0 gpu{i}" for i in range(64)]


@needs_tmux
def test_the_log_has_everything_from_the_first_line_on_and_keeps_what_it_had(
    panes: TmuxPanes, root: Path, environ: dict[str, str]
) -> None:
    log = root / "logs" / 'g\'p "u" #{pane_id} %d 0.log'
    for attempt in ("one", "two"):
        script = f'echo "start {attempt}"; seq 20000; echo "end {attempt}"; {LINGER}'
        panes.start("gpu0", ["sh", "-c", script], environ, root, log)
        wait_for_text(log, f"end {attempt}")
    numbers = [str(i) for i in range(1, 20001)]
    expected = ["start one", *numbers, "end one", "start two", *numbers, "end two"]
    assert log.read_text().splitlines() == expected
    assert sorted(path.name for path in root.iterdir()) == ["logs"]


@needs_tmux
def test_the_command_gets_its_arguments_folder_and_environment_unchanged(
    panes: TmuxPanes, root: Path, environ: dict[str, str]
) -> None:
    odd = "~ a'b\"c $HOME `id` #{pane_id} %H ; \\; \\n {x}\n  # next line\t|"
    show = 'pwd; printf "<%s>" "$1" "$ODD" "${CLAUDECODE-unset}" "${EMPTY-unset}"; echo; echo done'
    show += f"; {LINGER}"
    given = {**environ, "ODD": odd, "CLAUDECODE": "1", "TMUX": "/outer,1,0", "EMPTY": ""}
    panes.start("gpu0", ["sh", "-c", show, "sh", odd], given, root, root / "log")
    wait_for_text(root / "log", "done")
    assert (root / "log").read_text() == f"{root}\n<{odd}><{odd}><unset><>\ndone\n"


@needs_tmux
def test_a_lone_program_name_with_a_space_is_one_argument(
    panes: TmuxPanes, root: Path, environ: dict[str, str]
) -> None:
    program = root / "say it"
    program.write_text(f"#!/bin/sh\necho said; {LINGER}\n")
    program.chmod(0o755)
    panes.start("gpu0", [str(program)], environ, root, root / "log")
    wait_for_text(root / "log", "\n")
    assert (root / "log").read_bytes() == b"said\r\n"


@needs_tmux
def test_nothing_comes_from_the_environment_of_who_started_the_server(
    panes: TmuxPanes, root: Path, environ: dict[str, str]
) -> None:
    panes.start("gpu0", SLEEP, {**environ, "OLD": "1"}, root, root / "log0")
    panes.start("gpu1", ["sh", "-c", f"env; echo done; {LINGER}"], environ, root, root / "log1")
    wait_for_text(root / "log1", "done")
    assert "OLD=" not in (root / "log1").read_text()
    assert "OLD=" not in tmux(panes, "show-environment", "-g")


@needs_tmux
def test_secrets_are_on_no_command_line(
    panes: TmuxPanes, root: Path, environ: dict[str, str]
) -> None:
    spy, real = root.parent / "tmux", shutil.which("tmux")
    spy.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> "$(dirname "$0")/argv"\nexec {real} "$@"\n')
    spy.chmod(0o755)
    watched = {**environ, "PATH": f"{root.parent}:{environ['PATH']}"}
    TmuxPanes("nov.21", root, watched).start(
        "gpu0", SLEEP, {**environ, "ANTHROPIC_API_KEY": "s3cr3t"}, root, root / "log"
    )
    argv = (root.parent / "argv").read_text()
    assert "source-file" in argv
    assert "s3cr3t" not in argv


@needs_tmux
def test_starting_again_uses_the_same_pane_and_leaves_the_others_alone(
    panes: TmuxPanes, root: Path, environ: dict[str, str]
) -> None:
    for worker in ("gpu10", "gpu1", "gpu"):
        panes.start(worker, SLEEP, environ, root, root / "log")
    before = dict(line.split() for line in listed(panes, "#{@worker} #{pane_pid}"))
    assert panes.start("gpu1", SLEEP, environ, root, root / "log") == "%1"
    after = dict(line.split() for line in listed(panes, "#{@worker} #{pane_pid}"))
    assert list(after) == ["gpu10", "gpu1", "gpu"]
    assert {worker for worker in after if after[worker] != before[worker]} == {"gpu1"}
    wait_for(lambda: not runs(int(before["gpu1"])))


@needs_tmux
def test_the_last_lines_of_workers_that_linger_are_in_their_logs(
    panes: TmuxPanes, root: Path, environ: dict[str, str]
) -> None:
    """The kernel hangs up with the leader, and tmux loses what it has not read by then."""
    logs = [root / f"{i}.log" for i in range(16)]
    for _ in range(3):
        for i, log in enumerate(logs):
            panes.start(
                f"gpu{i}", ["sh", "-c", f"seq 3000; echo end; {LINGER}"], environ, root, log
            )
        wait_for(lambda: set(listed(panes, "#{pane_dead}")) == {"1"})
    wait_for(lambda: all(log.read_text().count("3000\nend\n") == 3 for log in logs))


@needs_tmux
def test_a_log_is_complete_over_restarts_and_comes_back_when_it_is_removed(
    panes: TmuxPanes, root: Path, environ: dict[str, str]
) -> None:
    log, other = root / "log", root / "other"
    for i in range(20):  # each in the middle of the output of the one before
        script = f"echo; echo start {i}; yes"
        panes.start("gpu0", ["sh", "-c", script], environ, root, log)
        wait_for_text(log, f"\nstart {i}\ny\n")
    for said in ("elsewhere", "again"):
        panes.start("gpu0", ["sh", "-c", f"echo {said}; {LINGER}"], environ, root, other)
        wait_for_text(other, said)
    wait_for(lambda: listed(panes, "#{pane_dead}") == ["1"])
    other.unlink()
    panes.start("gpu0", ["sh", "-c", f"echo anew; {LINGER}"], environ, root, other)
    wait_for_text(other, "anew")
    assert "elsewhere" not in log.read_text()


@needs_tmux
def test_ctrl_c_is_for_the_worker_to_decide_about(
    panes: TmuxPanes, root: Path, environ: dict[str, str]
) -> None:
    patient = "trap 'echo int' INT; trap 'echo quit' QUIT; echo ready; while :; do sleep 0.05; done"
    panes.start("gpu0", ["sh", "-c", patient], environ, root, root / "log")
    wait_for_text(root / "log", "ready")
    for key, said in (("C-c", "int"), ("C-\\", "quit")):
        tmux(panes, "send-keys", "-t", "%0", key)
        wait_for_text(root / "log", said)
    time.sleep(0.3)
    assert listed(panes, "#{pane_dead}") == ["0"]
    panes.start("gpu1", ["sh", "-c", "echo ready; exec sleep 600"], environ, root, root / "log1")
    wait_for_text(root / "log1", "ready")
    tmux(panes, "send-keys", "-t", "%1", "C-c")
    wait_for(lambda: listed(panes, "#{pane_dead}")[1] == "1")


@needs_tmux
def test_an_ended_worker_stays_visible_and_comes_back_in_its_pane(
    panes: TmuxPanes, root: Path, environ: dict[str, str]
) -> None:
    panes.start("gpu0", ["sh", "-c", f"echo boom; {LINGER}; exit 3"], environ, root, root / "log")
    panes.start("gpu1", SLEEP, environ, root, root / "log1")
    wait_for(lambda: listed(panes, "#{pane_dead}")[0] == "1")
    assert "boom" in tmux(panes, "capture-pane", "-p", "-S", "-", "-t", "%0")
    assert panes.start("gpu0", SLEEP, environ, root, root / "log") == "%0"
    assert listed(panes, "#{pane_dead}") == ["0", "0"]


@needs_tmux
def test_a_killed_pane_is_made_anew(panes: TmuxPanes, root: Path, environ: dict[str, str]) -> None:
    for worker in ("gpu0", "gpu1"):
        panes.start(worker, SLEEP, environ, root, root / "log")
    tmux(panes, "kill-pane", "-t", "%1")
    assert panes.start("gpu1", SLEEP, environ, root, root / "log") == "%2"
    assert listed(panes, "#{@worker}") == ["gpu0", "gpu1"]


@needs_tmux
def test_a_window_without_space_is_followed_by_another(
    panes: TmuxPanes, root: Path, environ: dict[str, str]
) -> None:
    panes.start("gpu0", SLEEP, environ, root, root / "log")
    tmux(panes, "resize-window", "-t", "%0", "-x", "10", "-y", "2")
    panes.start("gpu1", SLEEP, environ, root, root / "log")
    assert len(set(listed(panes, "#{window_id}"))) == 2


@needs_tmux
def test_it_works_again_after_the_server_was_killed(
    panes: TmuxPanes, root: Path, environ: dict[str, str]
) -> None:
    panes.start("gpu0", SLEEP, environ, root, root / "log")
    server = int(tmux(panes, "display-message", "-p", "#{pid}"))
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: not runs(server))
    assert panes.attach_command("gpu0") is None
    assert (
        panes.start("gpu0", ["sh", "-c", f"echo back; {LINGER}"], environ, root, root / "log")
        == "%0"
    )
    wait_for_text(root / "log", "back")


@needs_tmux
def test_closing_leaves_nothing_even_of_who_ignores_the_hangup(
    panes: TmuxPanes, root: Path, environ: dict[str, str]
) -> None:
    stubborn = (
        f"trap '' HUP TERM; (trap '' HUP; exec sleep 600) & echo $! > '{root.parent}/pid'; wait"
    )
    panes.start("gpu0", ["sh", "-c", stubborn], environ, root, root / "log")
    panes.start("gpu1", SLEEP, environ, root, root / "log")
    wait_for(lambda: (root.parent / "pid").exists() and (root.parent / "pid").read_text() != "")
    pids = [int(pid) for pid in listed(panes, "#{pane_pid}")]
    pids += [
        int((root.parent / "pid").read_text()),
        int(tmux(panes, "display-message", "-p", "#{pid}")),
    ]
    panes.close()
    wait_for(lambda: not any(map(runs, pids)), seconds=2)
    assert not panes.socket.exists()
    panes.close()


@needs_tmux
def test_one_tag_in_two_repositories_does_not_meet(
    panes: TmuxPanes, root: Path, environ: dict[str, str]
) -> None:
    twin = TmuxPanes("nov.21", root.parent, environ)
    sibling = TmuxPanes("nov_21", root, environ)
    assert len({panes.socket, twin.socket, sibling.socket}) == 3
    assert TmuxPanes("nov.21", root, environ).socket == panes.socket
    panes.start("gpu0", SLEEP, environ, root, root / "log")
    assert twin.attach_command(None) is None
    twin.close()
    assert listed(panes, "#{@worker}") == ["gpu0"]


@needs_tmux
def test_a_long_tag_makes_no_long_socket(root: Path, environ: dict[str, str]) -> None:
    assert len(TmuxPanes("x" * 40, root, environ).socket.name) < 50


@needs_tmux
def test_attaching_shows_the_workers_pane(
    panes: TmuxPanes, root: Path, environ: dict[str, str]
) -> None:
    assert panes.attach_command(None) is None
    for i in range(18):
        panes.start(f"gpu{i}", SLEEP, environ, root, root / "log")
    assert panes.attach_command("gpu99") is None
    command = panes.attach_command("gpu1")
    assert command is not None and panes.attach_command(None) is not None
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, {**environ, "TERM": "xterm", "TMUX": "/outer,1,0"})
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        wait_for(lambda: tmux(panes, "list-clients", "-F", "#{client_session}") == panes.session)
        assert tmux(panes, "display-message", "-p", "#{@worker}") == "gpu1"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


@needs_tmux
def test_a_failing_command_is_named(panes: TmuxPanes, root: Path, environ: dict[str, str]) -> None:
    panes.start("gpu0", SLEEP, environ, root, root / "log")
    broken = "pipe-pane=kill-pane -t %99 ; display-message"
    tmux(panes, "set-option", "-g", "command-alias[0]", broken)
    with pytest.raises(SwarmError) as error:
        panes.start("gpu1", SLEEP, environ, root, root / "log")
    assert str(error.value) == "tmux pipe-pane failed: can't find pane: %99"
    assert "--no-tmux" in error.value.hint


def test_without_tmux_asking_for_it_is_an_error(root: Path, environ: dict[str, str]) -> None:
    bare = {**environ, "PATH": str(root)}
    assert not tmux_available(bare)
    with pytest.raises(SwarmError, match="tmux is not installed") as error:
        choose_panes(True, "nov21", root, bare)
    assert "--no-tmux" in error.value.hint
    assert isinstance(choose_panes(False, "nov21", root, bare), BackgroundPanes)


# ---- background ---------------------------------------------------------------------------------


@pytest.fixture
def background() -> Iterator[Panes]:
    panes = BackgroundPanes()
    yield panes
    panes.close()


def test_a_background_worker_is_detached_and_logs(
    background: Panes, root: Path, environ: dict[str, str]
) -> None:
    log = root / "logs" / "cpu 0.log"
    log.parent.mkdir()
    log.write_text("earlier\n")
    script = 'echo out; echo err >&2; pwd; cat; echo "$X ${CLAUDECODE-unset}"; ps -o sid= -p $$'
    given = {**environ, "X": "it's", "CLAUDECODE": "1"}
    terminal, typed = os.pipe()  # stands for our own stdin, which the worker must not get
    stdin = os.dup(0)
    os.dup2(terminal, 0)
    try:
        assert background.start("cpu0", ["sh", "-c", script], given, root, log) is None
    finally:
        os.dup2(stdin, 0)
    assert background.attach_command("cpu0") is None
    wait_for(lambda: log.read_text().count("\n") == 6)
    *lines, session = log.read_text().splitlines()
    assert lines == ["earlier", "out", "err", str(root), "it's unset"]
    assert int(session) != os.getsid(0)
    for file in (terminal, typed, stdin):
        os.close(file)


def test_an_ended_background_worker_is_reaped_with_what_it_left(
    background: Panes, root: Path, environ: dict[str, str]
) -> None:
    background.start("cpu0", ["sh", "-c", "sleep 600 & echo $$ $!"], environ, root, root / "log")
    wait_for_text(root / "log", "\n")
    leader, child = map(int, (root / "log").read_text().split())
    wait_for(lambda: not psutil.pid_exists(leader))
    wait_for(lambda: not runs(child))


def test_starting_a_background_worker_again_ends_the_first(
    background: Panes, root: Path, environ: dict[str, str]
) -> None:
    for worker in ("cpu1", "cpu10", "cpu1"):
        background.start(
            worker, ["sh", "-c", "echo $$; exec sleep 600"], environ, root, root / worker
        )
        wait_for_text(root / worker, "\n")
    wait_for(lambda: len((root / "cpu1").read_text().split()) == 2)
    first, second = map(int, (root / "cpu1").read_text().split())
    assert not runs(first)
    assert runs(second)
    assert runs(int((root / "cpu10").read_text()))


def test_closing_the_background_kills_whole_groups(root: Path, environ: dict[str, str]) -> None:
    panes = BackgroundPanes()
    stubborn = "trap '' TERM HUP; sleep 600 & echo $$ $!; wait; wait"
    panes.start("cpu0", ["sh", "-c", stubborn], environ, root, root / "log")
    wait_for_text(root / "log", "\n")
    panes.close()
    for pid in map(int, (root / "log").read_text().split()):
        wait_for(lambda pid=pid: not runs(pid), seconds=1)  # type: ignore[misc]
    panes.close()


def test_a_program_that_is_not_there_is_an_error(
    background: Panes, root: Path, environ: dict[str, str]
) -> None:
    with pytest.raises(SwarmError, match=r"cannot start cpu0: No such file.*nowhere"):
        background.start("cpu0", ["/nowhere"], environ, root, root / "log")
