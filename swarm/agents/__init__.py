"""Who proposes changes: an agent is a command that runs in its worktree and uses the one door."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from swarm import config
from swarm.agents import clis
from swarm.agents.kinds import Agent, BuiltIn, Command, Foreign
from swarm.agents.models import endpoints
from swarm.errors import Refused, SwarmError, UsageError
from swarm.keys import Keys, Scrubber


def _tuner(model: str, passed: Sequence[str]) -> Agent:
    if model:
        raise UsageError(f"the tuner has no model '{model}'", "--agent tuner")
    return BuiltIn("tuner")


def _command(line: str, passed: Sequence[str]) -> Agent:
    if not line.strip():
        raise UsageError("cmd: needs a command", '--agent "cmd:my-agent --loop"')
    return Command(line, tuple(passed))


def _asks(kind: str) -> Callable[[str, Sequence[str]], Agent]:
    def build(model: str, passed: Sequence[str]) -> Agent:
        return BuiltIn(f"{kind}:{model}" if model else kind, endpoints.parse(kind, model))

    return build


KINDS: dict[str, Callable[[str, Sequence[str]], Agent]] = {
    "tuner": _tuner,
    "cmd": _command,
    **{kind: _asks(kind) for kind in endpoints.KINDS},
}
"""What is built in; the command lines of others are in a table that a user can extend."""


def build(spec: str, environment: Mapping[str, str], passed: Sequence[str] = ()) -> Agent:
    """The agent of a spec `KIND[:MODEL]`; `passed` names secrets that foreign agents get too.

    Raises `UsageError` for an unknown kind, `SwarmError` where the user's own table is damaged.
    """
    kind, _, model = spec.partition(":")
    if kind in KINDS:
        return KINDS[kind](model, passed)
    table = clis.load(config.clis_file(environment))
    if kind not in table:
        known = ", ".join([*KINDS, *table])
        raise UsageError(f"unknown agent '{kind}'", f"known: {known}; any program: cmd:'…'")
    table[kind].argv("", model, True, False, Path())  # raises for a model where it takes none
    return Foreign(table[kind], model, tuple(passed))


def available(environment: Mapping[str, str]) -> list[str]:
    """The kinds of coding agents that could start here: there is a key, or the program."""
    found = []
    for kind in [*endpoints.KINDS, *clis.load(config.clis_file(environment))]:
        try:
            build(kind, environment).check(environment)
        except SwarmError:
            continue  # what it lacks is said when somebody asks for it
        found.append(kind)
    return found


def assign(options: list[str], workers: int | None, environment: Mapping[str, str]) -> list[str]:
    """One spec per worker from `--agent KIND[:MODEL][=COUNT],…` options.

    Without a count a kind fills up what the others leave; `workers` of `None` takes the sum of the
    counts. A `cmd:` option is one spec as it is, up to an `=COUNT` at its end. Raises `UsageError`,
    and `Refused` for an option that holds a key: specs are written down, shown and passed on.
    """
    _refuse_keys(options, environment)
    counted = [_counted(spec) for option in options for spec in _split(option)]
    for spec, _ in counted:
        build(spec, environment)
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


def _refuse_keys(options: list[str], environment: Mapping[str, str]) -> None:
    scrubber = Scrubber(Keys.load(environment).secrets("*"))
    for option in options:
        shown = scrubber.scrub(option)
        if shown != option:
            raise Refused(
                f"--agent {shown} holds a key, which would be journalled",
                "leave it in the environment, and name it: --pass-env NAME",
            )


def _split(option: str) -> list[str]:
    return [option] if option.startswith("cmd:") else [s for s in option.split(",") if s]


def _counted(spec: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(.*)=(\d+)", spec, re.DOTALL)
    return (match[1], int(match[2])) if match else (spec, None)
