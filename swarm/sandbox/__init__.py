"""What keeps a trial to itself: Landlock for files, seccomp for system calls, limits for the rest.

All of it needs no root and no container. Where a kernel lacks a part, a trial runs without it, and
`swarm doctor` says so. Where it has Landlock, no trial starts without its rules.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swarm.errors import SwarmError
from swarm.sandbox import landlock, limits, places, seccomp

PRIVATE = "tmp"
"""The folder in a trial's folder that is its home and its temporary folder."""
PARTS = ("files", "signals", "network", "limits")
_PROBE_SECONDS = 20.0


@dataclass(frozen=True)
class Sandbox:
    """Rules made ready by the watchdog; `enter` binds the child to them between fork and exec."""

    environment: dict[str, str]
    _rules: int | None
    _filter: bytes | None

    @classmethod
    def prepare(
        cls, folder: Path, evaluator: Path, given: Mapping[str, str], hidden: Sequence[Path]
    ) -> Sandbox:
        """For a trial in `folder`, whose environment is `given`; see `places.grants`.

        Raises `SwarmError` where the kernel has Landlock and its rules cannot be made.
        """
        private = folder / PRIVATE
        private.mkdir(exist_ok=True)
        rules = None
        version = landlock.abi()
        if version >= landlock.MIN_ABI:
            try:
                rules = landlock.ruleset(places.grants(folder, evaluator, given, hidden), version)
            except (OSError, ValueError, RuntimeError) as error:  # of paths: see pathlib
                raise refused(error) from error
        return cls(places.environment(given, private), rules, seccomp.program())

    def enter(self) -> None:
        """Bind this process and its descendants, in the order in which each step is still allowed.

        A step that the system refuses is left out, but for Landlock: then `OSError` is raised.
        """
        limits.die_with_parent(signal.SIGKILL)
        with contextlib.suppress(OSError, ValueError):
            limits.limit()
        limits.forbid_new_privileges()
        if self._rules is not None:
            landlock.restrict(self._rules)
        if self._filter is not None:
            with contextlib.suppress(OSError):
                seccomp.install(self._filter)

    def close(self) -> None:
        """Let go of the rules, once the child has them."""
        if self._rules is not None:
            os.close(self._rules)


def refused(why: Exception) -> SwarmError:
    """What a user hears when a trial cannot be confined, and so does not start."""
    return SwarmError(
        f"the trial cannot be confined: {why}", "see swarm doctor, or SWARM_CONFINE=off"
    )


_PROBE = """
import json, os, resource, socket, sys
def fails(call, *arguments):
    try:
        call(*arguments)
    except PermissionError:
        return True
    return False
core = resource.getrlimit(resource.RLIMIT_CORE)[1] == 0
found = {
    "files": fails(open, sys.argv[1], "w"),
    "signals": fails(os.kill, os.getppid(), 0),
    "network": fails(socket.socket, socket.AF_INET),
    "limits": core and resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY,
}
sys.stdout.write(json.dumps(found))
"""


def try_out() -> dict[str, bool]:
    """Which of `PARTS` are in force on this machine: a confined child tries to break each.

    Raises `OSError`, `subprocess.SubprocessError` or `SwarmError` when not even Python runs there.
    """
    with tempfile.TemporaryDirectory() as place:
        folder, outside = Path(place, "trial"), Path(place, "outside")
        folder.mkdir()
        sandbox = Sandbox.prepare(folder, folder, {}, ())
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", _PROBE, str(outside)],
                cwd=folder,
                env=sandbox.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_PROBE_SECONDS,
                check=True,
                start_new_session=True,
                preexec_fn=sandbox.enter,
            )
        finally:
            sandbox.close()
    found: dict[str, bool] = json.loads(done.stdout)
    return found
