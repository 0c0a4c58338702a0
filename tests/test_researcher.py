"""Whole swarms of built-in coding agents: the real SDKs, a server with their wire formats."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import toy
from conftest import wait_for
from llm_model import TROUBLES, Model
from llm_server import Server, Step, serve

from swarm import records
from swarm.journal import Cursor, Journal
from swarm.leaderboard import Leaderboard

Run = Callable[..., subprocess.CompletedProcess[str]]
Serving = Callable[[Model], AbstractContextManager[Server]]
ANTHROPIC_KEY = "sk-ant-api03-" + "a1b2" * 8
OPENAI_KEY = "sk-proj-" + "c3d4" * 8


@pytest.fixture
def environment(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """With keys, and a home of its own."""
    home = tmp_path / "the home"
    home.mkdir()
    inherited = {
        name: value
        for name, value in environment.items()
        if not name.startswith(("ANTHROPIC", "OPENAI", "XDG_CONFIG"))
    }
    keys = {"ANTHROPIC_API_KEY": ANTHROPIC_KEY, "OPENAI_API_KEY": OPENAI_KEY}
    return inherited | keys | {"HOME": str(home)}


MODELS = "anthropic:claude-sonnet-4-5=1,openai:gpt-5=1"


@pytest.fixture
def serving(environment: dict[str, str]) -> Serving:
    """`with serving(model) as server`: it is where the environment says that the providers are."""

    @contextmanager
    def start(model: Model) -> Iterator[Server]:
        with serve(model) as server:
            environment["ANTHROPIC_BASE_URL"] = server.url_anthropic
            environment["OPENAI_BASE_URL"] = server.url_openai
            yield server

    return start


def spawn(run: Run, agents: str, *more: str) -> subprocess.CompletedProcess[str]:
    return run(
        "spawn", "--agent", agents, "--devices", "cpu", "--oversubscribe", "--seconds", "1",
        "--tag", "t", *more,
    )  # fmt: skip


def fold(repository: Path) -> Leaderboard:
    board = Leaderboard(Journal(repository / "leaderboard" / "t" / "journal.jsonl"))
    board.refresh()
    return board


def lines(repository: Path) -> list[records.AnyRecord]:
    return Journal(repository / "leaderboard" / "t" / "journal.jsonl").read(Cursor())


def pane(repository: Path, worker: str) -> str:
    text = (repository / f"leaderboard/t/workers/{worker}.log").read_text(errors="replace")
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def status(run: Run) -> dict[str, Any]:
    return json.loads(run("status", "--json", "--tag", "t").stdout)  # type: ignore[no-any-return]


def test_two_agents_improve_the_trainer_whatever_goes_wrong(
    repository: Path, run: Run, serving: Serving
) -> None:
    model = Model(TROUBLES)
    with serving(model) as server:
        spawn(run, MODELS)

        def all_went_on() -> bool:
            workers = fold(repository).workers.values()
            return not model.troubles and all(worker.experiments >= 3 for worker in workers)

        wait_for(all_went_on, timeout=90)
        run("stop", "--tag", "t")
    assert server.bad == []  # every conversation was well formed
    assert {request.wire for request in server.requests} == {"anthropic", "chat"}
    board = fold(repository)
    known = board.primary
    assert known is not None
    assert known.incumbent not in (None, "e0")
    for worker in ("cpu0", "cpu1"):
        assert board.workers[worker].restarts == 0  # no trouble ended its process
    panes = pane(repository, "cpu0") + pane(repository, "cpu1")
    for shown in (
        "slow down", "Overloaded", "not valid JSON", "the model refuses", "same as its base",
        "occurs 0 times", "no Python program", "there is no tool 'bash'", "A higher rate may help.",
        "→ edit (1 → 1 lines)\n  - LR = ", "taken as e", " keep 1.",
    ):  # fmt: skip
        assert shown in panes
    assert [e.claim.description for e in known.entries.values()][1].startswith("learning rate 0.0")


def test_ideas_begin_with_a_brief_and_what_they_cost_is_known(
    repository: Path, run: Run, serving: Serving
) -> None:
    with serving(Model()) as server:
        spawn(
            run, MODELS, "--device-hour-usd", "36",
            "--directions", "optimizer,schedules",
        )  # fmt: skip
        wait_for(
            lambda: all(w.experiments > 1 for w in fold(repository).workers.values()), timeout=90
        )
        run("stop", "--tag", "t")
    board = fold(repository)
    for name, claim in board.claims.items():
        if claim.worker:
            bill = board.entry(name).bill
            assert bill is not None
            assert bill.tokens > 1000
            assert bill.usd > 0
    spends = [line for line in lines(repository) if isinstance(line, records.Spend)]
    assert Counter(spend.model for spend in spends).keys() == {"claude-sonnet-4-5", "gpt-5"}
    told = sum(spend.calls for spend in spends)
    assert server.count - 2 <= told <= server.count  # but for what was cut off in the middle
    assert any(spend.cached_tokens for spend in spends if spend.model.startswith("claude"))
    spent = status(run)["spend"]
    device = sum(worker.device_seconds for worker in board.workers.values()) * 0.01
    assert spent["usd"] == pytest.approx(sum(s.usd or 0 for s in spends) + device, abs=1e-5)
    assert spent["unpriced_tokens"] == 0
    assert "USD per experiment" in run("status", "--tag", "t").stdout
    assert re.search(r"^cost     0\.0\d+ USD, \d+ k tokens$", run("show", "e1").stdout, re.M)
    first = next(r for r in server.requests if r.turn == 0)
    text = json.dumps(first.body, ensure_ascii=False)
    assert "<data>" in text
    assert "You are worker cpu" in text
    assert "Your direction: " in text
    assert "Toy trainer" in text
    later = [json.dumps(r.body) for r in server.requests if r.turn == 0][-1]
    assert "Your own latest" in later or "Tried lately" in later
    told = run("brief", "--tag", "t", cwd=repository / "worktrees" / "t" / "cpu1").stdout
    assert told.startswith("You are worker cpu1")
    document = status(run)
    assert {worker["direction"] for worker in document["workers"]} == {"optimizer", "schedules"}


def test_a_refused_key_parks_its_worker_alone_until_a_person_resumes_it(
    repository: Path, run: Run, serving: Serving
) -> None:
    model = Model()
    model.refused.add(ANTHROPIC_KEY)
    with serving(model):
        spawn(run, MODELS)
        parked = wait_for(
            lambda: (w := status(run)["workers"])[0]["state"] == "parked" and w, timeout=90
        )
        assert "invalid x-api-key" in parked[0]["reason"]  # type: ignore[index]
        assert parked[0]["agent_state"] == "parked"  # type: ignore[index]
        wait_for(lambda: fold(repository).workers["cpu1"].experiments >= 2, timeout=90)
        model.refused.clear()
        run("resume", "cpu0", "--tag", "t")
        wait_for(lambda: fold(repository).workers["cpu0"].experiments >= 1, timeout=90)
        run("stop", "--now", "--tag", "t")
    exits = [e for e in lines(repository) if isinstance(e, records.AgentEvent)]
    assert [e.state for e in exits if e.worker == "cpu0"][:3] == ["started", "exited", "parked"]


def test_a_long_limit_parks_until_it_ends_and_then_the_agent_goes_on(
    repository: Path, run: Run, serving: Serving
) -> None:
    """Longer than an agent would sleep by itself, but short in the journal of this test."""
    limit = Step(status=429, headers={"retry-after": "130"}, message="5-hour limit")
    model = Model([limit])
    with serving(model):
        spawn(run, "anthropic:m")
        wait_for(lambda: fold(repository).workers["cpu0"].parked, timeout=90)
        worker = fold(repository).workers["cpu0"]
        events = [e for e in lines(repository) if isinstance(e, records.AgentEvent)]
        assert worker.parked_until is not None
        assert 120 < (worker.parked_until - events[-1].time).total_seconds() <= 131
        shown = status(run)["workers"][0]
        assert shown["state"] in ("parked", "training")  # meanwhile the device runs replicates
        # the time has come
        Journal(repository / "leaderboard/t/journal.jsonl").append(
            records.AgentEvent(worker="cpu0", state="parked", reason="limit", until=events[-1].time)
        )
        wait_for(lambda: fold(repository).workers["cpu0"].experiments >= 1, timeout=90)
        run("stop", "--now", "--tag", "t")


def test_a_budget_in_dollars_ends_the_swarm_cleanly(
    repository: Path, run: Run, serving: Serving
) -> None:
    with serving(Model()):
        spawn(run, MODELS, "--max-usd", "0.06", "--wait")
    board = fold(repository)
    assert board.state == "finished"
    assert "of 0.06 USD are spent" in board.ended_because
    assert 0.06 <= board.workforce.usd < 0.2
    assert not any(worker.open_trial or worker.queue for worker in board.workers.values())
    verdicts = {board.entry(name).kind for name, claim in board.claims.items() if claim.worker}
    assert "candidate" not in verdicts


def test_the_next_idea_is_prepared_while_one_trains(
    repository: Path, run: Run, serving: Serving
) -> None:
    slow = toy.TRAIN.replace("WAIT = 0.0", "WAIT = 1.5")
    (repository / "train.py").write_text(slow)
    toy.git(repository, "commit", "-qam", "slow")
    with serving(Model()):
        spawn(run, "anthropic:m", "--max-experiments", "2", "--wait")
    told = lines(repository)
    claimed = {e.experiment: e.time for e in told if isinstance(e, records.Claim)}
    began = [t for t in told if isinstance(t, records.TrialStarted)]
    trial = {t.experiment: t.trial for t in began if t.purpose == "experiment"}
    ended = {r.trial: r.time for r in told if isinstance(r, records.TrialFinished)}
    assert set(claimed) == {"e0", "e1", "e2"}
    assert claimed["e2"] < ended[trial["e1"]]


@pytest.mark.parametrize("agent", ["anthropic:m", "tuner"])
def test_a_person_may_edit_where_an_agent_works(
    repository: Path, run: Run, serving: Serving, agent: str
) -> None:
    with serving(Model()):
        spawn(run, agent)
        train = repository / "worktrees/t/cpu0/train.py"
        mine = train.read_text() + "# my own idea\n"
        train.write_text(mine)
        wait_for(lambda: fold(repository).workers["cpu0"].experiments >= 3, timeout=90)
        assert train.read_text() == mine
        run("stop", "--now", "--tag", "t")
    assert train.read_text() == mine


def test_a_price_that_is_not_known_makes_no_budget(repository: Path, run: Run) -> None:
    done = run(
        "spawn", "--agent", "openai:home-made@http://127.0.0.1:9/v1", "--devices", "cpu",
        "--max-usd", "1", check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "the price of home-made is not known" in done.stderr
    assert not (repository / "leaderboard").exists() or not list(
        (repository / "leaderboard").glob("*/journal.jsonl")
    )


DUMP = """
import os, pathlib
pathlib.Path("environment.txt").write_text(repr(dict(os.environ)))
print(dict(os.environ), flush=True)
if "SWARM_ATTEST" in os.environ:
    print(pathlib.Path(f"/proc/{os.getppid()}/environ").read_bytes())
"""


def test_no_secret_gets_into_any_file_or_to_anyone_who_needs_it_not(
    repository: Path, run: Run, serving: Serving, environment: dict[str, str], tmp_path: Path
) -> None:
    """Trials and a foreign agent print all that they get; the model tells the key everywhere."""
    environment["SWARM_CONFINE"] = "off"  # where a trial can look into its parent
    dump = "def main():\n" + textwrap.indent(DUMP.strip(), "    ")
    (repository / "train.py").write_text(toy.TRAIN.replace("def main():", dump))
    toy.git(repository, "commit", "-qam", "nosy")
    (tmp_path / "nosy.py").write_text(f"import time\n{DUMP}\ntime.sleep(600)")
    leak = (("note", {"text": f"the key is {ANTHROPIC_KEY}"}),)
    written = {"old": "WAIT = 0.0", "new": f"KEY = '{ANTHROPIC_KEY}'\nWAIT = 0.001"}
    told = Step(calls=(("submit", {"description": f"with {ANTHROPIC_KEY}"}),))
    model = Model([Step(calls=leak), Step(calls=(("edit", written),)), told])
    nosy = f"cmd:exec {shlex.join([sys.executable, str(tmp_path / 'nosy.py')])}"
    with serving(model):
        spawn(run, "anthropic:m=1", "--agent", nosy, "--agents", "2")
        wait_for(
            lambda: len(fold(repository).notes) and fold(repository).spent_experiments >= 2,
            timeout=90,
        )
        run("stop", "--now", "--tag", "t")
    assert fold(repository).notes[0].text == "the key is [ANTHROPIC_API_KEY]"
    dumped = repository / "worktrees/t/cpu1/environment.txt"
    assert "SWARM_WORKER" in dumped.read_text()
    for secret in (ANTHROPIC_KEY, OPENAI_KEY):
        for folder, _, names in os.walk(repository):
            for name in names:
                path = Path(folder, name)
                if path.is_file():
                    assert secret.encode() not in path.read_bytes(), path
        objects = subprocess.run(
            ["git", "cat-file", "--batch-all-objects", "--batch"],
            cwd=repository, capture_output=True, check=True,
        ).stdout  # fmt: skip
        assert secret.encode() not in objects
    assert b"learning rate" in objects


def test_a_missing_key_is_said_before_anything_starts(
    repository: Path, run: Run, environment: dict[str, str]
) -> None:
    environment.pop("OPENAI_API_KEY")
    done = run("spawn", "--agent", "openai", "--devices", "cpu", check=False)
    assert done.returncode == 1
    assert "needs OPENAI_API_KEY" in done.stderr
    assert "hint: export OPENAI_API_KEY" in done.stderr
    assert not list((repository / "leaderboard").glob("*/journal.jsonl"))
