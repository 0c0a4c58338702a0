"""Who proposes changes: an agent is a command that runs in its worktree and uses the one door."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from swarm import config
from swarm.errors import UsageError


class Agent(Protocol):
    """How to run one kind of agent."""

    def argv(self) -> list[str]:
        """The command, run in the worktree."""
        ...

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The environment it gets."""
        ...


@dataclass(frozen=True)
class Tuner:
    """The built-in offline tuner. It needs no secret, so it gets none."""

    def argv(self) -> list[str]:
        return [config.python(), "-P", "-m", "swarm.cli", "agent", "tuner"]

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        kept = {name: inherited[name] for name in ("SWARM_CACHE", "NO_COLOR") if name in inherited}
        return config.trial_environment(inherited) | kept


@dataclass(frozen=True)
class Command:
    """Any shell command: `cmd:'my-agent --loop'`."""

    line: str

    def argv(self) -> list[str]:
        return ["/bin/sh", "-c", self.line]

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        return config.agent_environment(inherited)


def _tuner(model: str) -> Agent:
    if model:
        raise UsageError(f"the tuner has no model '{model}'", "--agent tuner")
    return Tuner()


def _command(line: str) -> Agent:
    if not line.strip():
        raise UsageError("cmd: needs a command", '--agent "cmd:my-agent --loop"')
    return Command(line)


KINDS: dict[str, Callable[[str], Agent]] = {"tuner": _tuner, "cmd": _command}


def build(spec: str) -> Agent:
    """The agent of a spec `KIND[:MODEL]`. Raises `UsageError` for an unknown kind."""
    kind, _, model = spec.partition(":")
    if kind not in KINDS:
        raise UsageError(
            f"unknown agent '{kind}'", f"known: {', '.join(KINDS)}; any program: --agent cmd:'…'"
        )
    return KINDS[kind](model)


def assign(options: list[str], workers: int | None) -> list[str]:
    """One spec per worker from `--agent KIND[:MODEL][=COUNT],…` options.

    Without a count a kind fills up what the others leave; `workers` of `None` takes the sum of the
    counts. A `cmd:` option is one spec as it is, up to an `=COUNT` at its end. Raises `UsageError`.
    """
    counted = [_counted(spec) for option in options for spec in _split(option)]
    for spec, _ in counted:
        build(spec)
    fixed = [spec for spec, count in counted for _ in range(count or 0)]
    open_ended = [spec for spec, count in counted if count is None]
    total = workers if workers is not None else max(1, len(fixed) + len(open_ended))
    left = total - len(fixed)
    if left < 0 or (left and not open_ended) or left < len(open_ended):
        raise UsageError(
            f"--agent names {len(fixed) + len(open_ended)} agents, --agents is {total}",
            "make them agree, or leave one kind without =COUNT",
        )
    return fixed + [open_ended[i % len(open_ended)] for i in range(left)]


def _split(option: str) -> list[str]:
    return [option] if option.startswith("cmd:") else [s for s in option.split(",") if s]


def _counted(spec: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(.*)=(\d+)", spec, re.DOTALL)
    return (match[1], int(match[2])) if match else (spec, None)
