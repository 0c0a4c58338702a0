"""What the coordinator costs: everything around a trial, measured on this machine.

    python benchmarks/coordinator.py [--quick]

Prints a Markdown table: what, budget, measured. The trainer is a toy of some milliseconds, so what
is left is the coordinator. Everything is real: git, tmux, processes, fsync.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import nights  # noqa: E402  simulated nights of swarms
import toy  # noqa: E402  the repository that the tests run swarms on

from swarm import records  # noqa: E402
from swarm.door import Door  # noqa: E402
from swarm.journal import Cursor, Journal  # noqa: E402
from swarm.leaderboard import Leaderboard  # noqa: E402
from swarm.paths import Paths  # noqa: E402
from swarm.records import Note  # noqa: E402

SWARM = [sys.executable, "-P", "-m", "swarm.cli"]
Row = tuple[str, str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller numbers, to see that it runs")
    quick = parser.parse_args().quick
    many, workers, appenders = (2_000, 8, 8) if quick else (100_000, 64, 64)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},")
    print(f"{subprocess.getoutput('git --version')}, {subprocess.getoutput('tmux -V')}\n")
    print("| what | budget | measured |\n|---|---|---|")
    for measure in (
        cli_start,
        lambda: spawn(8),
        lambda: overhead("1 worker", 1, 0, 8 if quick else 40),
        lambda: overhead(f"1 worker, {many:,} experiments before", 1, many, 8 if quick else 40),
        lambda: overhead(f"{workers} workers, one at work", workers, 0, 8 if quick else 40),
        lambda: appends(appenders, 20 if quick else 100),
        lambda: cold_reads(many),
        lambda: pollination(workers),
        lambda: duty_cycle(6 if quick else 16),
    ):
        for row in measure():
            print("| " + " | ".join(row) + " |", flush=True)


# ---- what is measured --------------------------------------------------------------------------


def cli_start() -> Iterator[Row]:
    with a_repository() as (root, environment):
        spawned(
            root, environment, 1, "--max-experiments", "1", "--wait", "--no-tmux", agent="tuner"
        )
        floor = median_seconds([sys.executable, "-P", "-c", "pass"], root, environment)
        for verb in ("--help", "status", "board"):
            took = median_seconds([*SWARM, verb], root, environment)
            text = f"{took * 1e3:.0f} ms (Python alone {floor * 1e3:.0f} ms)"
            yield f"`swarm {verb}`", "< 200 ms", text


def spawn(workers: int) -> Iterator[Row]:
    floors, whole = [], []
    for _ in range(5):
        with a_repository() as (root, environment):
            floors.append(git_and_tmux(root, environment, workers))
            started = time.perf_counter()
            spawned(root, environment, workers)
            whole.append(time.perf_counter() - started)
            stop(root, environment)
    floor, took = statistics.median(floors), statistics.median(whole)
    yield (
        f"spawn {workers} workers, to all runners alive",
        "< 1 s beyond git + tmux",
        f"{took:.2f} s = {floor:.2f} s + {took - floor:.2f} s",
    )


def overhead(name: str, workers: int, before: int, experiments: int) -> Iterator[Row]:
    """From the request to the verdict, without the seconds of train.py itself."""
    with a_repository() as (root, environment):
        spawned(root, environment, workers)
        if before:
            stop(root, environment)
            lengthen(journal_of(root), before)
            spawned(root, environment, workers)
        time.sleep(2)
        cost = [one_experiment(root, number) for number in range(experiments)]
        stop(root, environment)
    median, tail = statistics.median(cost), sorted(cost)[int(len(cost) * 0.9)]
    yield (
        f"overhead per experiment, {name}",
        "< 150 ms",
        f"median {median * 1e3:.0f} ms, p90 {tail * 1e3:.0f} ms",
    )


def appends(processes: int, each: int) -> Iterator[Row]:
    """Many processes append with fsync; the latency is that of one acknowledged append."""
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        path = Path(folder) / "journal.jsonl"
        Journal(path).append(Note(worker="first", text=""))
        code = (
            "import sys, time; from pathlib import Path\n"
            "from swarm.journal import Journal; from swarm.records import Note\n"
            "journal = Journal(Path(sys.argv[1])); sys.stdin.read(1)\n"
            f"for i in range({each}):\n"
            "    at = time.perf_counter(); journal.append(Note(worker='w', text='x' * 300))\n"
            "    print(time.perf_counter() - at)\n"
        )
        running = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(path)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for _ in range(processes)
        ]  # fmt: skip
        time.sleep(0.1 * processes)
        started = time.perf_counter()
        for process in running:
            assert process.stdin is not None
            process.stdin.write("!")
            process.stdin.flush()
        outputs = [process.communicate()[0] for process in running]
        took = time.perf_counter() - started
        assert len(Journal(path).read(Cursor())) == processes * each + 1
    latency = sorted(float(line) for output in outputs for line in output.split())
    yield (
        f"appends with fsync, {processes} processes",
        "≥ 500/s, p99 < 200 ms",
        f"{processes * each / took:,.0f}/s, p50 {latency[len(latency) // 2] * 1e3:.1f} ms,"
        f" p99 {latency[int(len(latency) * 0.99)] * 1e3:.0f} ms",
    )


def cold_reads(experiments: int) -> Iterator[Row]:
    """Of a night as it might have been, and of one in which nothing was better or repeated."""
    with a_repository() as (root, environment):
        night = nights.tell(root, experiments, workers=64)
        yield from cold_read(f"a night of {experiments:,} experiments", night)
        for verb in ("status", "board --top 20"):
            took = median_seconds([*SWARM, *verb.split()], root, environment)
            yield f"`swarm {verb}` after it", "< 1 s", f"{took:.2f} s"
    with tempfile.TemporaryDirectory() as folder:
        plain = Paths(Path(folder), "b")
        plain.home.mkdir(parents=True)
        write_founding(plain.journal)
        lengthen(plain.journal, experiments)
        yield from cold_read(f"{experiments:,} discarded experiments", plain)


def cold_read(name: str, paths: Paths) -> Iterator[Row]:
    """From the journal's first line, then from a snapshot, each in a process of its own."""
    code = (
        "import resource, sys, time; from pathlib import Path\n"
        "from swarm import snapshots; from swarm.paths import Paths\n"
        "from swarm.records import Note\n"
        "paths = Paths(Path(sys.argv[1]), sys.argv[2]); at = time.perf_counter()\n"
        "board = snapshots.leaderboard(paths); board.refresh(); print(time.perf_counter() - at)\n"
        "board.journal.append(Note(worker='', text=''))\n"
        "at = time.perf_counter(); board.refresh(); print(time.perf_counter() - at)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
        "at = time.perf_counter()\n"
        "if not board.resumed: snapshots.write(paths.snapshot, board)\n"
        "print(time.perf_counter() - at)\n"
    )
    runs: dict[str, list[list[float]]] = {}
    for way, budget in (("without a snapshot", ""), ("with a snapshot", "< 1 s")):
        for _ in range(5):
            if not budget:
                paths.snapshot.unlink(missing_ok=True)
            command = [sys.executable, "-c", code, str(paths.root), paths.tag]
            output = subprocess.check_output(command, text=True)
            runs.setdefault(way, []).append([float(line) for line in output.split()])
        cold, again, memory, wrote = map(statistics.median, zip(*runs[way], strict=True))
        text = f"{cold:.2f} s, {memory:.0f} MB at most"
        if not budget:
            size = paths.snapshot.stat().st_size / 1e6
            text += f"; to write the snapshot of {size:.0f} MB {wrote:.2f} s"
        yield f"cold read, {name}, {way}", budget or "-", text
    yield f"refresh after one append, {name}", "< 5 ms", f"{again * 1e3:.2f} ms"


def pollination(workers: int) -> Iterator[Row]:
    """A new incumbent appears; how long until every worktree is on it once `swarm sync` is said."""
    with a_repository() as (root, environment):
        spawned(root, environment, workers)
        time.sleep(3)
        one_experiment(root, 0, learning_rate=0.3)
        board = Leaderboard(Journal(journal_of(root)))
        board.refresh()
        assert board.primary is not None and board.primary.incumbent == "e1"
        commit = board.claims["e1"].commit
        started = time.perf_counter()
        subprocess.run([*SWARM, "sync"], cwd=root, env=environment, check=True, capture_output=True)
        refs = [root / ".git" / "refs" / "heads" / "swarm" / "b" / name for name in board.active]
        files = [root / "worktrees" / "b" / name / "train.py" for name in board.active]
        until(lambda: all(ref.read_text().strip() == commit for ref in refs))
        until(lambda: all("LR = 0.3" in file.read_text() for file in files))
        took = time.perf_counter() - started
        stop(root, environment)
    yield f"new incumbent into {workers} idle worktrees", "< 2 s", f"{took:.2f} s"


def duty_cycle(experiments: int) -> Iterator[Row]:
    """Two tuners with trials of three seconds; real trials are a hundred times as long."""
    with a_repository(wait=3.0) as (root, environment):
        spawned(
            root, environment, 2, "--max-experiments", str(experiments), "--wait", agent="tuner"
        )
        status = json.loads(
            subprocess.check_output([*SWARM, "status", "--json"], cwd=root, env=environment)
        )
    shares = [worker["duty_cycle"] for worker in status["workers"]]
    share = statistics.mean(shares)
    at_300 = 300 / (300 + 3.0 * (1 / share - 1))
    yield (
        "duty cycle, 2 tuners, 3-second trials",
        "≥ 97 % (of 300-second trials)",
        f"{share:.1%}, which at 300 s is {at_300:.2%}",
    )


# ---- helpers -----------------------------------------------------------------------------------


@contextmanager
def a_repository(wait: float = 0.0) -> Iterator[tuple[Path, dict[str, str]]]:
    """A toy repository on the disk that this script is on, with sockets and cache of its own."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=HERE))
    sockets = tempfile.mkdtemp(prefix="sw", dir="/tmp")
    environment = os.environ | {"SWARM_CACHE": str(folder / "cache"), "TMUX_TMPDIR": sockets}
    try:
        train = toy.TRAIN.replace("WAIT = 0.0  # seconds to sleep", f"PAUSE = {wait}  # {{{wait}}}")
        yield (
            toy.make_repository(folder / "repo", train=train.replace("WAIT", "PAUSE")),
            environment,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(sockets, ignore_errors=True)


def spawned(
    root: Path, environment: dict[str, str], workers: int, *more: str, agent: str = "cmd:sleep 9999"
) -> None:
    command = [*SWARM, "spawn", "--tag", "b", "--agents", str(workers), "--oversubscribe"]
    subprocess.run(
        [*command, "--devices", "cpu", "--seconds", "1", "--agent", agent, *more],
        cwd=root, env=environment, check=True, capture_output=True,
    )  # fmt: skip


def stop(root: Path, environment: dict[str, str]) -> None:
    subprocess.run(
        [*SWARM, "stop", "--now"], cwd=root, env=environment, check=True, capture_output=True
    )


def one_experiment(root: Path, number: int, learning_rate: float | None = None) -> float:
    """Submit a change in cpu0's worktree; return the seconds beside the trial's own."""
    desk = root / "worktrees" / "b" / "cpu0"
    value = learning_rate or 0.0001 + number * 1e-6  # never better, so the base stays
    train = desk / "train.py"
    train.write_text(train.read_text().replace("LR = 0.04", f"LR = {value}"))
    door = Door(desk)
    started = time.perf_counter()
    answer = door.wait_done(door.submit("another learning rate"))
    took = time.perf_counter() - started
    board = Leaderboard(Journal(journal_of(root)))
    board.refresh()
    assert answer.experiment is not None and answer.verdict in ("keep", "discard"), answer
    (trial,) = board.entry(answer.experiment).trials
    return took - board.trials[trial].seconds


def git_and_tmux(root: Path, environment: dict[str, str], workers: int) -> float:
    """The floor: as many `git worktree add`, and one chained tmux call."""
    started = time.perf_counter()
    for i in range(workers):
        toy.git(root, "worktree", "add", "-q", "-b", f"floor{i}", str(root.parent / f"floor{i}"))
    split = [";", "split-window", "-d", "cat", ";", "select-layout", "tiled"] * (workers - 1)
    socket = ["tmux", "-L", "floor", "-f", "/dev/null"]
    subprocess.run(
        [*socket, "new-session", "-d", "-x", "240", "-y", "60", "cat", *split],
        env=environment, check=True,
    )  # fmt: skip
    took = time.perf_counter() - started
    subprocess.run([*socket, "kill-server"], env=environment, check=True)
    return took


def journal_of(root: Path) -> Path:
    return root / "leaderboard" / "b" / "journal.jsonl"


def write_founding(path: Path) -> None:
    """The first lines of a swarm of one worker, with its baseline measured."""
    config = records.Config(
        seconds=1.0, timeout=60.0, scale="small", dataset="", dataset_fingerprint=""
    )
    device = records.Device(name="cpu0", kind="cpu", id="cpu0", model="cpu")
    journal = Journal(path)
    journal.append(
        records.Swarm(
            tag="b",
            root="0" * 40,
            prepare_sha256="",
            config=config,
            version="0",
            workers=("cpu0",),
        )
    )
    journal.append(
        records.Claim(
            experiment="e0", worker="", agent="", parent=None, commit="0" * 40, fingerprint="",
            description="baseline",
        )
    )  # fmt: skip
    journal.append(
        records.Worker(
            worker="cpu0", agent="tuner", device=device, device_class="cpu", branch="", worktree=""
        )
    )
    journal.append(
        records.TrialStarted(
            trial="t0", experiment="e0", worker="cpu0", device_class="cpu", seed=42
        )
    )
    journal.append(records.TrialFinished(trial="t0", outcome="ok", seconds=1.0, val_bpb=1.0))


def lengthen(path: Path, experiments: int) -> None:
    """Append as many finished, discarded experiments of cpu0, as a long swarm would leave them."""
    board = Leaderboard(Journal(path))
    board.refresh()
    device_class = next(iter(board.classes))
    seq, claims, trials = board.cursor.lines, len(board.claims), len(board.trials)
    known = board.workers["cpu0"].joined
    now = datetime.now(UTC)
    with open(path, "ab") as file:

        def add(record: records.AnyRecord) -> None:
            nonlocal seq
            seq += 1
            whole = msgspec.structs.replace(record, seq=seq, time=now)
            file.write(msgspec.json.encode(whole) + b"\n")

        add(msgspec.structs.replace(known, worker="before"))  # a worker of an earlier spawn
        for i in range(experiments):
            name, trial = f"e{claims + i}", f"t{trials + i}"
            add(
                records.Claim(
                    experiment=name, worker="before", agent="tuner", parent="e0",
                    commit=f"{i + 1:040d}", fingerprint=f"{i + 1:032d}", request=f"eval-{i}",
                    description="MATRIX_LR 0.04 → 0.028, WARMDOWN_RATIO 0.5 → 0.7",
                )
            )  # fmt: skip
            add(
                records.TrialStarted(
                    trial=trial,
                    experiment=name,
                    worker="before",
                    device_class=device_class,
                    seed=42,
                )
            )
            add(
                records.TrialFinished(
                    trial=trial, outcome="ok", seconds=320.0, val_bpb=2.0 + i * 1e-6, exit_code=0,
                    metrics=records.Metrics(
                        num_steps=953, tokens_per_second=1.6e6, memory_gb=45.0,
                        training_seconds=300.0, mfu_percent=39.8, num_params_m=50.3, depth=8,
                    ),
                )
            )  # fmt: skip


def median_seconds(command: list[str], cwd: Path, environment: dict[str, str]) -> float:
    times = []
    for _ in range(11):
        started = time.perf_counter()
        subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen within 60 s")
        time.sleep(0.005)


if __name__ == "__main__":
    main()
