"""What `swarm watch` costs: its start, its share of a core, and how long a key waits.

    python benchmarks/watch.py [--quick]

Prints a Markdown table: what, budget, measured. Everything is real: a swarm of 8 toy workers whose
trials take some seconds, and `swarm watch` in a tmux pane of 80 × 24 characters.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import nights  # noqa: E402  swarms that never ran
import toy  # noqa: E402  the repository that the tests run swarms on

SWARM = [sys.executable, "-P", "-m", "swarm.cli"]
TRIAL = """\
    for step in range(1, 41):
        time.sleep(WAIT / 40)
        print(f"step {step:05d} ({step * 2.5:.1f} %) | loss {8 / step:.4f} | lr × 1.00 | 264 ms"
              f" | {1_217_000 + step:,} tok/s | epoch 1 | {WAIT * (1 - step / 40):.0f} s left")
"""
"""In place of the toy's sleep: it tells of its progress as train.py does."""


class Pane:
    """`swarm watch` in a terminal of its own."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self._base = ["tmux", "-S", str(root.parent / "screen"), "-f", os.devnull]
        self.root, self.environment = root, environment

    def tmux(self, *arguments: str) -> str:
        return subprocess.run(
            [*self._base, *arguments], env=self.environment, cwd=self.root,
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    def start(self, tag: str) -> float:
        """Seconds until the workers are seen."""
        began = time.monotonic()
        command = shlex.join([*SWARM, "watch", "--tag", tag])
        self.tmux("new-session", "-d", "-x", "80", "-y", "24", command)
        return self.wait("worker device", "e0", since=began)

    def wait(self, *texts: str, since: float) -> float:
        while not all(text in self.tmux("capture-pane", "-p") for text in texts):
            if time.monotonic() > since + 120:
                raise SystemExit(f"{texts} did not come:\n{self.tmux('capture-pane', '-p')}")
        return time.monotonic() - since

    def press(self, key: str, *texts: str) -> float:
        """Seconds from a key to what it brings."""
        began = time.monotonic()
        self.tmux("send-keys", key)
        return self.wait(*texts, since=began)

    def share(self, seconds: float) -> str:
        """The part of a core that the program takes once it has settled, and its memory."""
        time.sleep(3)
        program = psutil.Process(int(self.tmux("list-panes", "-F", "#{pane_pid}")))
        before = program.cpu_times()
        time.sleep(seconds)
        after = program.cpu_times()
        used = after.user + after.system - before.user - before.system
        return f"{used / seconds:.1%}, {program.memory_info().rss / 1e6:.0f} MB"

    def end(self) -> None:
        self.tmux("kill-server")


@contextmanager
def a_live_swarm(folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """Eight workers, each with a trial of about five seconds."""
    source = toy.TRAIN.replace("    time.sleep(WAIT)\n", TRIAL).replace("WAIT = 0.0", "WAIT = 5.0")
    root = toy.make_repository(folder / "live", train=source)
    toy.swarm(root, "spawn", "--agents", "8", "--devices", "cpu", "--oversubscribe", "--seconds",
              "9", "--tag", "live", environment=environment).check_returncode()  # fmt: skip
    try:
        yield root
    finally:
        toy.swarm(root, "stop", "--now", "--tag", "live", environment=environment)


def rows(folder: Path, quick: bool) -> Iterator[tuple[str, str, str]]:
    environment = dict(os.environ) | {"TMUX_TMPDIR": str(folder), "SWARM_CACHE": str(folder)}
    environment.pop("TMUX", None)
    seconds = 5.0 if quick else 30.0
    measure: Callable[[float], str] = "{:.2f} s".format
    with a_live_swarm(folder, environment) as root:
        pane = Pane(root, environment)
        yield "start, 8 workers at work", "1.5 s", measure(pane.start("live"))
        yield "a core, 8 workers at work", "2 %", pane.share(seconds)
        pane.end()
    for experiments in (800,) if quick else (800, 100_000):
        root = nights.tell(folder / "nights", experiments, tag=f"n{experiments}").root
        pane = Pane(root, environment)
        name = f"{experiments:,} experiments"
        yield f"start, {name}", "", measure(pane.start(f"n{experiments}"))
        yield f"a core, {name} at rest", "2 %", pane.share(seconds)
        yield f"a key, {name}", "0.2 s", measure(pane.press("?", "to the next pane"))
        pane.press("q", "worker device")
        yield f"another order, {name}", "", measure(pane.press("s", "newest first"))
        pane.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller numbers, to see that it runs")
    quick = parser.parse_args().quick
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| what | budget | measured |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="sw", dir="/tmp") as folder:
        for row in rows(Path(folder), quick):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
