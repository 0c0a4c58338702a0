"""Submitters that race: whatever is tried, is tried once, and the others hear by whom."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import toy
from toy_swarm import begin

from swarm import records
from swarm.journal import Cursor, Journal
from swarm.paths import Paths

RACER = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from toy_swarm import bench_of
from swarm import experiment
from swarm.errors import Refused
from swarm.mailbox import Submission
from swarm.paths import Paths

paths, worker = Paths(Path(sys.argv[1]), "race"), sys.argv[2]
bench = bench_of(paths, worker)
board = bench.board
print("ready", flush=True)
for line in sys.stdin:
    number, source, start = json.loads(line)
    board.refresh()
    base = board.claims["e0"].commit
    submission = Submission(
        id=f"{worker}-{number}", base=base, description=f"change {number}", source=source
    )
    time.sleep(max(0.0, start - time.monotonic()))
    try:
        answer = ["claimed", experiment.submit(bench, submission), ""]
    except Refused as refusal:
        answer = ["refused", str(refusal), refusal.hint]
    print(json.dumps(answer), flush=True)
"""


class Racers:
    """One process per worker, each of which submits what it is sent, all at the same moment."""

    def __init__(self, paths: Paths, workers: list[str]) -> None:
        tests = str(Path(__file__).parent)
        command = [sys.executable, "-c", RACER, str(paths.root)]
        self.processes = [
            subprocess.Popen(
                [*command, worker, tests], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for worker in workers
        ]
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    def race(self, number: int, sources: list[str]) -> list[list[str]]:
        start = time.monotonic() + 0.001
        for process, source in zip(self.processes, sources, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps([number, source, start]) + "\n")
            process.stdin.flush()
        answers = []
        for process in self.processes:
            assert process.stdout is not None
            answers.append(json.loads(process.stdout.readline()))
        return answers

    def end(self) -> None:
        for process in self.processes:
            process.communicate(timeout=10)


def check(paths: Paths, rounds: list[list[list[str]]]) -> None:
    """One claim a round; whoever was refused was told of it, and what it is doing."""
    claims = [r for r in Journal(paths.journal).read(Cursor()) if isinstance(r, records.Claim)]
    assert Counter(claim.description for claim in claims[1:]) == {
        f"change {number}": 1 for number in range(len(rounds))
    }
    for number, answers in enumerate(rounds):
        (winner,) = (said for kind, said, _ in answers if kind == "claimed")
        for kind, said, hint in answers:
            if kind == "refused":
                assert said == (
                    f"this is being tried already: {winner}: waits for its trial (change {number})"
                )
                assert hint == f"swarm result {winner} --wait 90 waits for its verdict"
    assert len({claim.fingerprint for claim in claims}) == len(claims)


@pytest.mark.parametrize("times", [50, pytest.param(200, marks=pytest.mark.soak)])
def test_two_race_on_one_change_many_times(tmp_path: Path, times: int) -> None:
    workers = ["cpu0", "cpu1"]
    paths = begin(tmp_path / "a user's repo", workers)
    racers = Racers(paths, workers)
    rounds = []
    for number in range(times):
        source = toy.TRAIN.replace("LR = 0.04", f"LR = {0.05 + number / 1000}")
        rounds.append(racers.race(number, [source, source]))
    racers.end()
    check(paths, rounds)


def test_three_race_with_one_change_in_three_spellings(tmp_path: Path) -> None:
    workers = ["cpu0", "cpu1", "cpu2"]
    paths = begin(tmp_path / "a user's repo", workers)
    racers = Racers(paths, workers)
    rounds = []
    for number in range(30):
        plain = toy.TRAIN.replace("BATCH = 2**6", f"BATCH = {2**17 + number}")
        power = toy.TRAIN.replace("BATCH = 2**6", f"BATCH = 2**17 + {number}  # more of them")
        renamed = re.sub(r"\bBATCH\b", "ROWS", plain).replace(
            "import math", "TRIED = 3\nimport math"
        )
        rounds.append(racers.race(number, [plain, power, renamed]))
    racers.end()
    check(paths, rounds)
