"""Processes of a trial that outlived its watchdog: found by what they carry, and killed."""

from __future__ import annotations

from pathlib import Path

import psutil


def kill_strays(trial_folder: Path) -> int:
    """Kill every process whose environment names this trial; return how many there were."""
    mark = str(trial_folder / "attested.json")
    strays = [process for process in psutil.process_iter() if _carries(process, mark)]
    for process in strays:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(strays, timeout=5)
    return len(strays)


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("SWARM_ATTEST") == mark
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return False
