"""`swarm verify`: an experiment's kept weights, evaluated again on a device that is free."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from swarm import children, config, examination, experiment, pristine, weights
from swarm.errors import Refused
from swarm.examination import Finding, Subject
from swarm.leaderboard import Leaderboard
from swarm.locks import DeviceLock
from swarm.paths import Paths
from swarm.records import Device
from swarm.standings import Trial
from swarm.worktree import Repository


@dataclass(frozen=True)
class Verified:
    """A trial of the experiment, the device that was used, and what was found."""

    trial: Trial
    device: str
    finding: Finding


def verify(
    paths: Paths, board: Leaderboard, name: str, worker: str | None, environment: Mapping[str, str]
) -> Verified:
    """Examine the experiment `name`, on the device of `worker` or any of its class.

    Raises `Refused` when its weights are not kept or no such device is free, and `SwarmError` when
    the harness was changed.
    """
    trial = _trial(paths, board, name)
    assert board.swarm is not None
    pristine.verify(paths.pristine, board.swarm.prepare_sha256)
    commit = board.claims[name].commit
    source = Repository(paths.root).read(commit, config.TRAINER).encode()
    folder = paths.trial(trial.id)
    with _device(board, trial, worker, environment) as device:
        job = experiment.make_job(paths, board, device, environment, trial.id, trial.seed)
        if not examination.is_possible(job):
            raise Refused(
                f"the harness of swarm {paths.tag} cannot examine", "start a new swarm: --tag"
            )
        if job.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, job.cores)
        children.adopt_orphans()
        attestation, kept = folder / "attested.json", paths.weights(trial.id)
        subject = Subject(source, attestation, kept, trial.val_bpb)
        lifeline, other_end = os.pipe()  # nobody ends it but the user, by an interrupt
        try:
            finding = examination.examine(job, subject, lifeline)
        finally:
            os.close(lifeline)
            os.close(other_end)
    return Verified(trial, device.name, finding)


def _trial(paths: Paths, board: Leaderboard, name: str) -> Trial:
    """The last trial of an experiment whose weights are kept."""
    kept = [board.trials[trial] for trial in weights.kept(paths) if trial in board.trials]
    ours = [trial for trial in kept if trial.experiment == name]
    if not ours:
        others = sorted({trial.experiment for trial in kept}, key=lambda e: int(e[1:]))
        raise Refused(
            f"the weights of {name} were not kept",
            f"kept are those of {', '.join(others)}" if others else "none are kept in this swarm",
        )
    return max(ours, key=lambda trial: trial.started)


@contextmanager
def _device(
    board: Leaderboard, trial: Trial, worker: str | None, environment: Mapping[str, str]
) -> Iterator[Device]:
    """A free device of the trial's class, locked."""
    joined = [state.joined for state in board.workers.values()]
    fitting = [one for one in joined if one.device_class == trial.device_class]
    named = [one.device for one in fitting if worker in (None, one.worker)]
    if not named:
        names = ", ".join(one.worker for one in fitting)
        raise Refused(f"no device '{worker}' is of {trial.device_class}", f"such are: {names}")
    busy: Refused | None = None
    for device in named:
        lock = DeviceLock(config.cache_folder(environment) / "locks", device)
        try:
            lock.acquire(0.0, f"swarm verify of {trial.experiment}")
        except Refused as error:
            busy = error
            continue
        try:
            yield device
        finally:
            lock.release()
        return
    assert busy is not None
    raise Refused(str(busy), "verify when the swarm has come to rest: swarm stop")
