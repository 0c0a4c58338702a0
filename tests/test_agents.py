"""Agents: who gets which, and a process that is restarted, parked and ended."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest
from conftest import wait_for

from swarm import agents
from swarm.agents.process import BACKOFF_SECONDS, AgentProcess
from swarm.errors import UsageError


@pytest.mark.parametrize(
    ("options", "workers", "expected"),
    [
        (["tuner"], 3, ["tuner"] * 3),
        (["tuner=2"], None, ["tuner"] * 2),
        (["tuner=1", "cmd:a, b=c"], 3, ["tuner", "cmd:a, b=c", "cmd:a, b=c"]),
        (["cmd:a=2", "tuner"], 3, ["cmd:a", "cmd:a", "tuner"]),
        (["tuner", "cmd:x"], 4, ["tuner", "cmd:x", "tuner", "cmd:x"]),
    ],
)
def test_specs_are_spread_over_the_workers(
    options: list[str], workers: int | None, expected: list[str]
) -> None:
    assert agents.assign(options, workers) == expected


@pytest.mark.parametrize(
    ("options", "workers"), [(["tuner=3"], 2), (["tuner=1"], 2), (["tuner:big"], 1), (["gpt"], 1)]
)
def test_specs_that_do_not_fit_are_refused(options: list[str], workers: int) -> None:
    with pytest.raises(UsageError):
        agents.assign(options, workers)


def test_the_tuner_gets_no_secret() -> None:
    inherited = {"PATH": "/bin", "OPENAI_API_KEY": "x", "TORCH_HUB_TOKEN": "x", "CUDA_HOME": "/c"}
    given = agents.build("tuner").environment(inherited)
    assert given == {"PATH": "/bin", "CUDA_HOME": "/c"}
    assert "OPENAI_API_KEY" in agents.build("cmd:x").environment({"OPENAI_API_KEY": "x"})


def exiting(tmp_path: Path) -> AgentProcess:
    return AgentProcess([sys.executable, "-c", "raise SystemExit(9)"], os.environ, tmp_path)


def exit_code(agent: AgentProcess, now: float) -> int | None:
    codes: list[int] = []

    def reaped() -> bool:
        code = agent.reap(now)
        codes.extend([] if code is None else [code])
        return code is not None

    wait_for(reaped, every=0.01)
    return codes[0]


def test_restarts_wait_longer_and_longer_until_it_is_hopeless(tmp_path: Path) -> None:
    agent, now = exiting(tmp_path), 0.0
    for wait in BACKOFF_SECONDS:
        assert agent.start_when_due(now)
        assert exit_code(agent, now) == 9
        assert not agent.start_when_due(now + wait - 0.01)
        assert not agent.hopeless
        now += wait
    assert agent.start_when_due(now)
    assert exit_code(agent, now) == 9
    assert agent.hopeless
    agent.restart_soon()
    assert not agent.hopeless
    assert agent.start_when_due(now)
    agent.end()


def test_progress_makes_earlier_exits_forgotten(tmp_path: Path) -> None:
    agent = exiting(tmp_path)
    assert agent.start_when_due(0.0)
    exit_code(agent, 0.0)
    agent.made_progress()
    assert agent.fruitless_exits == 0


def test_ending_takes_what_it_started_along(tmp_path: Path) -> None:
    stubborn = "trap '' TERM; sleep 987 & sleep 987"
    agent = AgentProcess(["/bin/sh", "-c", stubborn], os.environ, tmp_path)
    agent.start_when_due(0.0)
    assert agent.pid is not None
    parent = psutil.Process(agent.pid)
    children = wait_for(lambda: len(c := parent.children(recursive=True)) == 2 and c)
    agent.end()
    assert not parent.is_running()
    assert not any(child.is_running() for child in children)  # type: ignore[attr-defined]
