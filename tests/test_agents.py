"""Agents: who gets which, and a process that is restarted, parked and ended."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest
from conftest import wait_for

from swarm import agents, config
from swarm.agents.kinds import BuiltIn, Errand
from swarm.agents.models.endpoints import Endpoint
from swarm.agents.process import BACKOFF_SECONDS, AgentProcess
from swarm.errors import Refused, SwarmError, UsageError


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
    assert agents.assign(options, workers, {}) == expected


@pytest.mark.parametrize(
    ("options", "workers"), [(["tuner=3"], 2), (["tuner=1"], 2), (["tuner:big"], 1), (["gpt"], 1)]
)
def test_specs_that_do_not_fit_are_refused(options: list[str], workers: int) -> None:
    with pytest.raises(UsageError):
        agents.assign(options, workers, {})


def test_the_tuner_gets_no_secret() -> None:
    inherited = {"PATH": "/bin", "OPENAI_API_KEY": "x", "TORCH_HUB_TOKEN": "x", "CUDA_HOME": "/c"}
    given = agents.build("tuner", {}).environment(inherited)
    assert given == {"PATH": "/bin", "CUDA_HOME": "/c"} | config.own_package()


EXITING = [sys.executable, "-c", "raise SystemExit(9)"]


def exit_code(agent: AgentProcess, now: float) -> int | None:
    codes: list[int] = []

    def reaped() -> bool:
        code = agent.reap(now)
        codes.extend([] if code is None else [code])
        return code is not None

    wait_for(reaped, every=0.01)
    return codes[0]


def test_restarts_wait_longer_and_longer_until_it_is_hopeless(tmp_path: Path) -> None:
    agent, now = AgentProcess(tmp_path), 0.0
    for wait in BACKOFF_SECONDS:
        assert agent.is_due(now)
        agent.start(EXITING, os.environ)
        assert not agent.is_due(now + 99.0)
        assert exit_code(agent, now) == 9
        assert not agent.is_due(now + wait - 0.01)
        assert not agent.hopeless
        now += wait
    agent.start(EXITING, os.environ)
    assert exit_code(agent, now) == 9
    assert agent.hopeless
    agent.restart_soon()
    assert not agent.hopeless
    assert agent.is_due(now)


def test_progress_makes_earlier_exits_forgotten(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path)
    agent.start(EXITING, os.environ)
    exit_code(agent, 0.0)
    agent.made_progress()
    assert agent.fruitless_exits == 0


def test_ending_takes_what_it_started_along(tmp_path: Path) -> None:
    stubborn = "trap '' TERM; sleep 987 & sleep 987"
    agent = AgentProcess(tmp_path)
    agent.start(["/bin/sh", "-c", stubborn], os.environ)
    assert agent.pid is not None
    parent = psutil.Process(agent.pid)
    children = wait_for(lambda: len(c := parent.children(recursive=True)) == 2 and c)
    agent.end()
    assert not parent.is_running()
    assert not any(child.is_running() for child in children)  # type: ignore[attr-defined]


def test_what_cannot_be_started_says_so(tmp_path: Path) -> None:
    with pytest.raises(SwarmError, match="cannot start the agent /no/such: No such file"):
        AgentProcess(tmp_path).start(["/no/such"], os.environ)


@pytest.mark.parametrize(
    ("spec", "kind", "model", "url"),
    [
        ("anthropic", "anthropic", "claude-sonnet-5-5", None),
        ("anthropic:claude-opus-4-5", "anthropic", "claude-opus-4-5", None),
        ("openai:llama@http://localhost:8000/v1", "openai", "llama", "http://localhost:8000/v1"),
        ("anthropic:claude@20250101", "anthropic", "claude@20250101", None),
    ],
)
def test_a_spec_names_a_model_and_its_server(
    spec: str, kind: str, model: str, url: str | None
) -> None:
    built = agents.build(spec, {})
    assert isinstance(built, BuiltIn)
    assert built.endpoint == Endpoint(kind, model, url)
    assert built.argv(Errand("", Path(), True, False))[-1] == spec


@pytest.mark.parametrize(
    "spec",
    ["openai:@http://x/v1", "openai:m@http://", "openai:m@http://me:secret@host/v1", "tuner:x",
     "cmd:", "nobody"],
)  # fmt: skip
def test_specs_that_mean_nothing_are_refused(spec: str) -> None:
    with pytest.raises(UsageError):
        agents.build(spec, {})


def test_each_agent_gets_the_keys_it_needs_and_no_others(tmp_path: Path) -> None:
    file = tmp_path / ".config" / "swarm" / "keys"
    file.parent.mkdir(parents=True)
    file.write_text("OPENROUTER_API_KEY=sk-or-v1-333333333333\n")
    file.chmod(0o600)
    keys = {
        "ANTHROPIC_API_KEY": "sk-ant-111111111111", "OPENAI_API_KEY": "sk-222222222222",
        "GITHUB_TOKEN": "ghp_444444444444444444444444444444444444",
    }  # fmt: skip
    mine = {"PATH": "/bin", "HOME": str(tmp_path), "EDITOR": "vi", **keys}

    def given(spec: str, *passed: str) -> set[str]:
        found = agents.build(spec, mine, passed).environment(mine)
        return found.keys() & {*keys, "OPENROUTER_API_KEY"}

    assert given("tuner") == set()
    assert given("anthropic") == {"ANTHROPIC_API_KEY"}
    assert given("openai:gpt-5") == {"OPENAI_API_KEY"}
    assert given("openai:x/y@https://openrouter.ai/api/v1") == {"OPENROUTER_API_KEY"}
    assert given("openai:llama@http://10.0.0.7:8000/v1") == set()  # not for whoever is named
    assert given("anthropic:m@https://proxy.example") == set()
    assert given("claude") == {"ANTHROPIC_API_KEY"}
    assert given("codex") == {"OPENAI_API_KEY"}
    assert given("cmd:my-agent") == set()
    assert given("cmd:my-agent", "GITHUB_TOKEN") == {"GITHUB_TOKEN"}
    assert agents.build("cmd:x", mine).environment(mine)["EDITOR"] == "vi"


def test_an_agent_that_cannot_work_is_refused_before_anything_starts(tmp_path: Path) -> None:
    mine = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    with pytest.raises(SwarmError, match="needs ANTHROPIC_API_KEY, which is not set"):
        agents.build("anthropic", mine).check(mine)
    with pytest.raises(SwarmError, match="claude is not installed") as missing:
        agents.build("claude", mine).check(mine)
    assert "npm install" in missing.value.hint
    assert agents.available(mine) == []
    codex = tmp_path / "codex"
    codex.write_text("#!/bin/sh\n")
    codex.chmod(0o755)
    assert agents.available(mine | {"OPENAI_API_KEY": "sk-1"}) == ["openai", "codex"]
    local = agents.build("openai:llama@http://127.0.0.1:8000/v1", mine)
    local.check(mine)  # a server on this machine needs no key


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("cmd:my-agent --key sk-ant-abcdefghijklmnopqrs12345", "cmd:my-agent --key [key]"),
        ("cmd:TOKEN=quite-an-ordinary-word my-agent=2", "cmd:TOKEN=[MY_TOKEN] my-agent=2"),
        ("openai:m@http://h/v1/from-the-file", "openai:m@http://h/v1/[FILE_KEY]"),
    ],
)
def test_a_spec_with_a_key_in_it_is_refused_and_not_repeated(
    tmp_path: Path, option: str, shown: str
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("FILE_KEY=from-the-file\n")
    keys.chmod(0o600)
    environment = {"SWARM_KEYS": str(keys), "MY_TOKEN": "quite-an-ordinary-word"}
    with pytest.raises(Refused) as caught:
        agents.assign([option], 2, environment)
    assert f"--agent {shown} holds a key" in str(caught.value)
    assert "--pass-env NAME" in caught.value.hint


def test_an_address_with_a_query_is_refused() -> None:
    with pytest.raises(UsageError, match="a key in an address would be journalled"):
        agents.build("openai:m@http://localhost:8000/v1?api_key=x", {})
