"""A big swarm that is written down in a moment, and `swarm web` as a process."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import toy

from swarm import records
from swarm.paths import Paths

BEGAN = datetime(2026, 11, 20, 21, 0, tzinfo=UTC)
HOSTILE = "<img src=x onerror=alert(1)><script>document.title='owned'</script> & \x1b[31m“done”"


def write_night(root: Path, experiments: int, workers: int = 8) -> Paths:
    """A finished swarm whose scores fall and scatter; e1 has a description that wants to be run.

    Its policy is the greedy one, which is folded fast. For a swarm as it would be: `nights`.
    """
    paths = Paths(toy.make_repository(root), "big")
    paths.home.mkdir(parents=True)
    commit = toy.git(root, "rev-parse", "HEAD")
    encode = msgspec.json.Encoder().encode
    with open(paths.journal, "wb") as file:
        lines = _records(experiments, [f"gpu{n}" for n in range(workers)], commit)
        for number, (second, line) in enumerate(lines, start=1):
            time = BEGAN + timedelta(seconds=second)
            file.write(encode(msgspec.structs.replace(line, seq=number, time=time)) + b"\n")
    return paths


def _records(
    experiments: int, workers: list[str], commit: str
) -> Iterator[tuple[float, records.AnyRecord]]:
    chance = random.Random(7)
    config = records.Config(
        seconds=300.0, timeout=900.0, scale="full", dataset="", dataset_fingerprint=""
    )
    yield 0, records.Swarm(tag="big", root=commit, prepare_sha256="", config=config, version="",
                           workers=tuple(workers))  # fmt: skip
    yield 0, _claim(0, "", None, commit, "baseline")
    for name in workers:
        device = records.Device(name=name, kind="cuda", id=name, model="H100")
        yield 0, records.Worker(worker=name, agent="tuner", device=device, device_class="H100",
                                branch=f"swarm/big/{name}", worktree="")  # fmt: skip
    yield from _trial(0, workers[0], 0, 1.0)
    top, best = "e0", 1.0
    for number in range(1, experiments):
        place = number % len(workers)
        second = 330 * (1 + number // len(workers)) + place
        text = HOSTILE if number == 1 else f"MATRIX_LR 0.04 → {chance.uniform(0.01, 0.9):.4f}"
        yield second, _claim(number, workers[place], top, f"{number:040x}", text)
        score = None if chance.random() < 0.07 else best + abs(chance.gauss(0, 0.004))
        if score and chance.random() < 30 / experiments:
            score = best - 0.001
        yield from _trial(number, workers[place], second, score)
        if score is not None and score < best:
            top, best = f"e{number}", score
    yield second + 331, records.Ended(state="finished", reason="all are used")


def _claim(
    number: int, worker: str, parent: str | None, commit: str, text: str
) -> records.AnyRecord:
    return records.Claim(
        experiment=f"e{number}", worker=worker, agent="tuner" if worker else "", parent=parent,
        commit=commit, fingerprint=f"{number:x}", seedless=f"{number:x}", description=text,
    )  # fmt: skip


def _trial(
    number: int, worker: str, second: float, score: float | None
) -> Iterator[tuple[float, records.AnyRecord]]:
    yield (
        second,
        records.TrialStarted(
            trial=f"t{number}",
            experiment=f"e{number}",
            worker=worker,
            device_class="H100",
            seed=number,
        ),
    )
    yield second + 320, records.TrialFinished(
        trial=f"t{number}", outcome="ok" if score else "crash", seconds=320.0, val_bpb=score,
        reason="" if score else "exit code 1: CUDA out of memory",
    )  # fmt: skip


@contextmanager
def serving(
    root: Path, environment: dict[str, str], *arguments: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`swarm web` on any free port: its URL, and the process, which is ended if it still runs."""
    port = () if "--port" in arguments else ("--port", "0")
    command = [sys.executable, "-P", "-m", "swarm.cli", "web", *port, *arguments]
    process = subprocess.Popen(
        command, cwd=root, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stderr is not None
        url = process.stdout.readline().strip()
        assert url, process.stderr.read()
        yield url, process
    finally:
        process.kill()
        process.communicate()


def request(
    url: str, path: str = "/", method: str = "GET", **headers: str
) -> tuple[HTTPResponse, bytes]:
    """One request, by a client that knows no browser's rules."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


class Events:
    """A stream of server-sent events, read one by one."""

    def __init__(self, url: str, since: str, **headers: str) -> None:
        self._connection = HTTPConnection(urlsplit(url).netloc, timeout=20)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request("GET", f"/api/events?since={since}", headers=named)
        self._answer = self._connection.getresponse()

    def next(self) -> tuple[str, Any]:
        """The id and the data of the next one."""
        mark = ""
        while line := self._answer.readline().decode():
            if line.startswith("id: "):
                mark = line[4:].strip()
            elif line.startswith("data: "):
                return mark, json.loads(line[6:])
        raise EOFError("the stream has ended")

    def close(self) -> None:
        self._connection.close()
