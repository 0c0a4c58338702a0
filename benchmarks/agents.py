"""What coding agents cost beside their models, measured on this machine.

    python benchmarks/agents.py [--quick]

Prints a Markdown table: what, measured. The models are scripts behind a server that speaks the
providers' formats; the command lines of others are stand-ins in a real tmux.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
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

import toy  # noqa: E402  the repository that the tests run swarms on
from fake_clis import Habits, events, install  # noqa: E402
from llm_model import Model  # noqa: E402
from llm_server import serve  # noqa: E402
from toy_swarm import Story  # noqa: E402

from swarm import records  # noqa: E402
from swarm.agents import prompts  # noqa: E402
from swarm.agents.toolbox import TOOLS  # noqa: E402
from swarm.journal import Cursor, Journal  # noqa: E402
from swarm.leaderboard import Leaderboard  # noqa: E402
from swarm.views import brief  # noqa: E402

SWARM = [sys.executable, "-P", "-m", "swarm.cli"]
Row = tuple[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller numbers, to see that it runs")
    quick = parser.parse_args().quick
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| what | measured |\n|---|---|")
    for measure in (
        lambda: briefs((100, 1000) if quick else (100, 10_000, 100_000)),
        request,
        lambda: built_in(4 if quick else 16),
        lambda: command_lines(2 if quick else 8, 5.0 if quick else 30.0),
    ):
        for row in measure():
            print("| " + " | ".join(row) + " |", flush=True)


def briefs(sizes: tuple[int, ...]) -> Iterator[Row]:
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            board = long_night(Path(folder), size)
            took = []
            for _ in range(5):
                started = time.perf_counter()
                text = brief.build(board, "cpu0", lambda experiment: f"LR = {experiment}\n" * 400)
                took.append(time.perf_counter() - started)
        cost = f"{len(text):,} characters, {statistics.median(took) * 1e3:.0f} ms"
        yield f"brief after {size:,} experiments", cost


def long_night(folder: Path, experiments: int) -> Leaderboard:
    """The fold of so many experiments with effects like real ones, with notes."""
    story = Story(folder / "repo", policy="probable", directions=("optimizer: all of it", "free"))
    rng, parent, level = random.Random(0), "e0", 1.0
    for number in range(1, experiments + 1):
        name, worker = f"e{number}", f"cpu{number % 4}"
        score = level + rng.gauss(1e-3, 2e-3)
        for line in (
            records.Claim(
                experiment=name, worker=worker, agent="a", parent=parent, commit=name,
                fingerprint=name, description=f"change number {number} of something or other",
            ),
            records.TrialStarted(
                trial=f"t{number}", experiment=name, worker=worker, device_class="CPU", seed=1
            ),
            records.TrialFinished(trial=f"t{number}", outcome="ok", seconds=1.0, val_bpb=score),
        ):  # fmt: skip
            story.board.apply(line)
        if number % 10 == 0:
            story.board.apply(records.Note(worker=worker, text="a lesson " * 20))
        parent = story.board.incumbent_of("cpu0").experiment
    return story.board


def request() -> Iterator[Row]:
    """The size of a first request with the real train.py, as far as it does not change."""
    root = HERE.parent
    program, source = (root / name for name in ("program.md", "train.py"))
    tools = json.dumps([(tool.name, tool.description, tool.parameters) for tool in TOOLS])
    fixed = prompts.SYSTEM + tools + prompts.context(program.read_text(), source.read_text())
    text = f"{len(fixed):,} characters, of which train.py {len(source.read_text()):,}"
    yield "what all requests of a built-in agent begin with (cached by the provider)", text


def built_in(experiments: int) -> Iterator[Row]:
    """A swarm of two built-in agents whose models answer at once."""
    with a_repository() as (root, environment), serve(Model()) as server:
        agents = f"anthropic:m@{server.url_anthropic}=1,openai:m@{server.url_openai}=1"
        environment |= {"ANTHROPIC_API_KEY": "sk-ant-none-none", "OPENAI_API_KEY": "sk-none-none"}
        spawn(root, environment, agents, "--max-experiments", str(experiments), "--wait")
        lines = journal(root)
    claims = {line.experiment: line for line in lines if isinstance(line, records.Claim)}
    started = {
        line.experiment: line
        for line in reversed(lines)
        if isinstance(line, records.TrialStarted) and line.purpose == "experiment"
    }
    waited = [
        (started[name].time - claim.time).total_seconds()
        for name, claim in claims.items()
        if claim.worker and name in started
    ]
    yield "claim of a built-in agent's experiment to its trial", f"median {median(waited)}"
    per = server.count / max(1, len(waited))
    yield "replies asked for per experiment (read, edit, submit)", f"{per:.1f}"


def command_lines(workers: int, seconds: float) -> Iterator[Row]:
    """Stand-ins for Claude Code: with dialogs; and what watching them costs when they work."""
    with a_repository() as (root, environment):
        cast = root.parent / "cast"
        dialogs = [(), ("trust",), ("bypass",), ("trust", "bypass")]
        shim = f'#!/bin/sh\nexec "{cast}/claude-$SWARM_WORKER" "$@"\n'
        for at in range(workers):
            record = str(cast / f"cpu{at}.jsonl")
            habits = Habits(dialogs=dialogs[at % 4], record=record)
            install(cast, f"claude-cpu{at}", habits)
        (cast / "claude").write_text(shim)
        (cast / "claude").chmod(0o755)
        environment |= {"PATH": f"{cast}:{environment['PATH']}", "HOME": str(root.parent)}
        spawn(root, environment, f"claude={workers}")
        until(lambda: all(noted(cast, at, "busy") for at in range(workers)))
        took = [noted(cast, at, "busy")[0] - noted(cast, at, "ready")[0] for at in range(workers)]
        yield (
            f"{workers} command lines, half with dialogs: prompt ready to working",
            f"median {median(took)}, slowest {max(took):.2f} s",
        )
        subprocess.run(
            [*SWARM, "pause"], cwd=root, env=environment, check=True, capture_output=True
        )
        until(lambda: not running(root))
        before, at = runners_seconds(root), time.perf_counter()
        time.sleep(seconds)
        used = (runners_seconds(root) - before) / (time.perf_counter() - at) / workers
        yield "a runner that watches a screen, of a core", f"{used:.1%}"
        tell(root, environment, "stop", "--now")


# ---- how -----------------------------------------------------------------------------------------


def noted(cast: Path, at: int, event: str) -> list[float]:
    return [e["time"] for e in events(cast / f"cpu{at}.jsonl") if e["event"] == event]


def runners_seconds(root: Path) -> float:
    """CPU seconds of all runners and their children that have ended, such as calls of tmux."""
    total = 0.0
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "runner" in command and process.cwd() == str(root):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def running(root: Path) -> list[records.AnyRecord]:
    """The starts of trials that have not ended."""
    lines = journal(root)
    ended = {line.trial for line in lines if isinstance(line, records.TrialFinished)}
    return [x for x in lines if isinstance(x, records.TrialStarted) and x.trial not in ended]


def median(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s"


def journal(root: Path) -> list[records.AnyRecord]:
    return Journal(root / "leaderboard" / "b" / "journal.jsonl").read(Cursor())


def tell(root: Path, environment: dict[str, str], *words: str) -> None:
    subprocess.run([*SWARM, *words], cwd=root, env=environment, check=True, capture_output=True)


def spawn(root: Path, environment: dict[str, str], agents: str, *more: str) -> None:
    subprocess.run(
        [*SWARM, "spawn", "--agent", agents, "--devices", "cpu", "--oversubscribe", "--seconds",
         "1", "--tag", "b", *more],
        cwd=root, env=environment, check=True, capture_output=True,
    )  # fmt: skip


@contextmanager
def a_repository() -> Iterator[tuple[Path, dict[str, str]]]:
    with tempfile.TemporaryDirectory(prefix="sw", dir="/tmp") as folder:
        root = toy.make_repository(Path(folder) / "repo")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SWARM_", "TMUX"))}
        yield root, environment | {"SWARM_CACHE": f"{folder}/cache", "TMUX_TMPDIR": folder}


def until(what: Callable[[], bool], timeout: float = 120.0) -> None:
    deadline = time.monotonic() + timeout
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
