"""API keys: where they come from, who gets which, and how they stay out of what is written."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from swarm import config
from swarm.errors import SwarmError

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_SHORTEST_SECRET = 8  # a shorter value would be struck out of words
_BUILTIN = ("SWARM_CACHE", "SWARM_PRICES", "NO_COLOR", "XDG_CONFIG_HOME")
_LOGINS = ("ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", "GITHUB_TOKEN", "HF_TOKEN")


@dataclass(frozen=True)
class Keys:
    """The environment's keys and the file's, by name; what the environment has wins."""

    environment: Mapping[str, str]
    file: Mapping[str, str]
    path: Path

    @classmethod
    def load(cls, environment: Mapping[str, str]) -> Keys:
        """Read the keys file, if there is one.

        Raises `SwarmError` where others could read it, or for a line that is no `NAME=value`.
        """
        path = config.keys_file(environment)
        return cls(environment, _parse(_read_private(path), path), path)

    def get(self, name: str) -> str | None:
        """The value of a variable; an empty one counts as none."""
        return self.environment.get(name) or self.file.get(name) or None

    def matching(self, patterns: Iterable[str]) -> dict[str, str]:
        """Whatever is set and matches one of `patterns`, such as `ANTHROPIC_*` or a whole name."""
        wanted = tuple(patterns)
        names = sorted(self.environment.keys() | self.file.keys())
        found = {n: self.get(n) for n in names if any(fnmatchcase(n, p) for p in wanted)}
        return {name: value for name, value in found.items() if value is not None}

    def secrets(self, patterns: Iterable[str]) -> dict[str, str]:
        """Those of them that are secret: a region or an address is not."""
        return {n: v for n, v in self.matching(patterns).items() if config.is_secret(n, v)}

    def found(self) -> list[tuple[str, str]]:
        """The names of the keys for models and where each is from; never a value."""
        here = [
            (name, "environment")
            for name, value in sorted(self.environment.items())
            if value and (name.endswith("_API_KEY") or name in _LOGINS)
        ]
        known = {name for name, _ in here}
        there = [
            n for n, v in sorted(self.file.items()) if n not in known and config.is_secret(n, v)
        ]
        return here + [(name, str(self.path)) for name in there]


def found(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """`Keys.found` of this environment and its keys file."""
    return Keys.load(environment).found()


def for_runner(
    environment: Mapping[str, str], patterns: Sequence[str], extra: Sequence[str]
) -> dict[str, str]:
    """What the runner of one worker gets: all but the secrets that its agent does not need.

    `patterns` is what its kind of agent needs (`ANTHROPIC_*`), `extra` what the user passes by
    name. What is in the keys file stays there: it is read again when an agent starts. Raises
    `SwarmError` where it is damaged.
    """
    plain = {n: v for n, v in environment.items() if not config.is_secret(n, v)}
    here = replace(Keys.load(environment), file={})
    return plain | here.matching([*patterns, *extra])


def agent_environment(
    environment: Mapping[str, str], patterns: Sequence[str], extra: Sequence[str]
) -> dict[str, str]:
    """What somebody else's agent sees: the same, with this `swarm` first on PATH."""
    wanted = for_runner(environment, patterns, extra)
    wanted |= Keys.load(environment).matching([*patterns, *extra])
    wanted.pop("SWARM_KEYS", None)  # its keys it has; where the others are is not its business
    return config.agent_environment(wanted)


def builtin_environment(environment: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """What a built-in agent sees: what a trial may, the way to the network, and `names` exactly."""
    kept = {n: environment[n] for n in (*_BUILTIN, *config.NETWORK) if n in environment}
    keys = Keys.load(environment)
    given = {name: value for name in names if (value := keys.get(name)) is not None}
    return config.trial_environment(environment) | kept | given


class Scrubber:
    """Strikes secrets out of text that is going to be written or shown."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        """`secrets` are values by name; those shorter than 8 characters are left alone."""
        long = [(v, f"[{n}]") for n, v in secrets.items() if len(v) >= _SHORTEST_SECRET]
        self._known = sorted(long, key=lambda pair: len(pair[0]), reverse=True)

    def holds(self, text: str) -> bool:
        """Whether one of the known secrets is in `text`."""
        return any(value in text for value, _ in self._known)

    def scrub(self, text: str) -> str:
        """`text` with `[NAME]` for each known secret, and `[key]` for whatever looks like one."""
        for value, instead in self._known:
            text = text.replace(value, instead)
        for shape in config.KEY_SHAPES:
            text = shape.sub("[key]", text)
        return text


def _read_private(path: Path) -> str:
    """The text of a file that is the user's alone; a missing one is empty."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not block
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise SwarmError(f"{path} cannot be read: {error.strerror}", f"chmod 600 {path}") from error
    try:
        _check_private(path, os.fstat(number))
        with open(number, "rb", closefd=False) as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SwarmError(f"{path} is no text", "one NAME=value per line") from None
    finally:
        os.close(number)


def _check_private(path: Path, known: os.stat_result) -> None:
    if not stat.S_ISREG(known.st_mode):
        raise SwarmError(f"{path} is no regular file", "SWARM_KEYS names another one")
    if known.st_uid != os.geteuid():
        raise SwarmError(f"{path} belongs to somebody else", f"chown {os.geteuid()} {path}")
    if known.st_mode & 0o077:
        mode = stat.S_IMODE(known.st_mode)
        raise SwarmError(f"others may read {path} (mode {mode:04o})", f"chmod 600 {path}")


def _parse(text: str, path: Path) -> dict[str, str]:
    """The `NAME=value` lines of a keys file; errors name the line and never show it."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        value = _unquoted(match[2]) if match else None
        if match is None or value is None or not value.isprintable():
            raise SwarmError(
                f"{path}, line {number} is no NAME=value", "see it in an editor: keys are not shown"
            )
        if value:
            values[match[1]] = value
    return values


def _unquoted(value: str) -> str | None:
    """A value without its quotes or the comment behind it; `None` where a quote is left open."""
    if value[:1] in ("'", '"'):
        inside, closed, rest = value[1:].partition(value[0])
        return inside if closed and not rest.split("#")[0].strip() else None
    return re.split(r"\s#", value, maxsplit=1)[0].strip()
