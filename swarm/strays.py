"""Processes that outlived the one that watched them: found by what they carry, and killed."""

from __future__ import annotations

from pathlib import Path

import psutil

AGENT_MARK = "SWARM_DESK"
"""In the environment of an agent and all it starts: its worktree."""
TRIAL_MARK = "SWARM_ATTEST"
"""In the environment of a trial and all it starts: where its evaluation is attested."""


def kill_trial(folder: Path) -> int:
    """Kill what is left of the trial in `folder`; return how many processes that were."""
    return _kill(TRIAL_MARK, str(folder / "attested.json"))


def kill_agent(worktree: Path) -> int:
    """Kill what is left of the agent of `worktree`; return how many processes that were."""
    return _kill(AGENT_MARK, str(worktree))


def _kill(name: str, value: str) -> int:
    strays = [process for process in psutil.process_iter() if _carries(process, name, value)]
    for process in strays:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(strays, timeout=5)
    return len(strays)


def _carries(process: psutil.Process, name: str, value: str) -> bool:
    try:
        return process.environ().get(name) == value
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return False
