"""What a person sees while a command waits: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import toy
from toy_swarm import Story

from swarm import records
from swarm.commands.ticker import Ticker
from swarm.harness.progress import Waiting
from swarm.views.table import fit


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Time as the test tells it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A swarm in which cpu1 trains e1, 25 % of which are done."""
    story = Story(tmp_path / "a user's swarm", max_experiments=12)
    name = story.claim("cpu1")
    story.tell(
        records.TrialStarted(trial="t1", experiment=name, worker="cpu1", device_class="CPU", seed=1)
    )
    log = story.paths.trial("t1") / "run.log"
    log.parent.mkdir(parents=True)
    log.write_text("step 00007 (25.0 %) | loss 3.2 | 9 s left\n")
    return story


def test_a_terminal_has_one_line_that_is_redrawn_below_what_is_said(story: Story) -> None:
    stream, clock = Terminal(), Clock()
    with Ticker(story.paths, story.board, stream, clock) as ticker:
        ticker.tick(["cpu1"])
        assert stream.getvalue() == ""  # not before a second
        clock.now = 1.0
        ticker.tick(["cpu0", "cpu1"])
        bar = "1 of 12 experiments | cpu0 waits for its agent | cpu1 e1 ███░░░░░░░░░ 25%, 9 s left"
        assert stream.getvalue() == fit(bar, 79)
        clock.now = 1.5
        ticker.tick()
        ticker.say("e0 keep")
        assert stream.getvalue().endswith("\r\x1b[Ke0 keep\n")
        ticker.tick(["cpu1"])  # at once, as the line is gone
        assert "25%, 9 s left" in stream.getvalue().splitlines()[-1]
    assert stream.getvalue().endswith("\r\x1b[K")


def test_elsewhere_a_quiet_minute_is_told_in_a_plain_line(story: Story) -> None:
    stream, clock = io.StringIO(), Clock()
    with Ticker(story.paths, story.board, stream, clock) as ticker:
        for second in range(125):
            clock.now = float(second)
            ticker.tick(["cpu1"])
            if second == 30:
                ticker.say("e0 keep")
    line = "1 of 12 experiments | cpu1 e1 25%, 9 s left\n"
    assert stream.getvalue() == "e0 keep\n" + line  # at 90: the next would be at 150


def test_what_nobody_knows_the_progress_of_tells_its_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Waiting("compiling"):
        pass
    assert capsys.readouterr().err == ""
    with Waiting("compiling", seconds=0.01) as waiting:
        waiting.over.wait(0.2)
    said = capsys.readouterr().err.splitlines()
    assert set(said) == {"compiling: 0 s"}
    assert not waiting.thread.is_alive()


def test_a_person_who_waits_sees_bars_and_verdicts(
    repository: Path, environment: dict[str, str]
) -> None:
    step = r'print("step 00001 (50.0 %) | loss 3.2 | 1 s left", flush=True); time.sleep(1.5)'
    train = toy.TRAIN.replace("    time.sleep(WAIT)", f"    {step}")
    (repository / "train.py").write_text(train)
    toy.git(repository, "commit", "-qam", "slow")
    screen, terminal = pty.openpty()
    command = [
        sys.executable, "-P", "-m", "swarm.cli", "spawn", "--agents", "1", "--devices", "cpu",
        "--no-tmux", "--max-experiments", "1", "--policy", "greedy", "--wait",
    ]  # fmt: skip
    child = subprocess.Popen(
        command, cwd=repository, stdout=terminal, stderr=terminal, stdin=subprocess.DEVNULL,
        env=environment | {"COLUMNS": "100"},
    )  # fmt: skip
    os.close(terminal)
    seen = bytearray()

    def read() -> None:
        while True:
            try:
                seen.extend(os.read(screen, 4096))
            except OSError:  # the terminal is closed by its last process
                return

    reader = threading.Thread(target=read)
    reader.start()
    assert child.wait(60) == 0
    reader.join(10)
    os.close(screen)
    text = seen.decode()
    assert re.search(r"of 1 experiments \| cpu0 e[01] ██████░░░░░░ 50%, 1 s left", text)
    lines = [line.rsplit("\x1b[K", 1)[-1].strip() for line in text.split("\n")]
    assert any(re.search(r"e1 +cpu0 ", line) for line in lines)
    assert not any("█" in line for line in lines)  # none is left on the screen
