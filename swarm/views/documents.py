"""The `--json` documents: what scripts may rely on, as dictionaries."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from swarm import drift, heartbeat, locks
from swarm.leaderboard import Leaderboard
from swarm.mailbox import Answer
from swarm.paths import Paths
from swarm.standings import DeviceClass, Entry
from swarm.workers import WorkerState

Document = dict[str, Any]


def status(paths: Paths, board: Leaderboard, now: datetime | None = None) -> Document:
    """The swarm, its workers and what it has found; see DESIGN of `swarm status --json`."""
    moment = now or datetime.now(UTC)
    primary = board.primary
    seconds = sum(worker.device_seconds for worker in board.workers.values())
    return {
        "tag": paths.tag,
        "state": board.state,
        "reason": board.ended_because,
        "supervisor": locks.is_held(paths.supervisor_lock),
        "experiments": board.spent_experiments,
        "max_experiments": board.config.max_experiments if board.config else None,
        "workers": [_worker(paths, board, name, moment) for name in board.active],
        "incumbent": _claimed(primary, primary.incumbent) if primary else None,
        "best": _claimed(primary, primary.best) if primary else None,
        "device_classes": [
            {
                "name": known.name,
                "noise": noise(known),
                "claim": _claim(known),
                "verified": known.verifies,
                "unverified": known.unverified,
            }
            for known in board.classes.values()
        ],
        "spend": {"usd": 0.0, "tokens": 0, "device_hours": round(seconds / 3600, 4)},
    }


def board(paths: Paths, fold: Leaderboard, top: int | None, device_class: str | None) -> Document:
    """The leaderboard by device class, best first, experiments without a score last."""
    classes = [c for name, c in fold.classes.items() if device_class in (None, name)]
    policy = fold.config.policy if fold.config else ""
    return {
        "tag": paths.tag,
        "policy": policy,
        "device_classes": [
            {
                "name": known.name,
                "sigma": known.sigma,
                "noise": noise(known),
                "incumbent": _claimed(known, known.incumbent),
                "best": _claimed(known, known.best),
                "experiments": [experiment(entry) for entry in ranked(known)[:top]],
            }
            for known in classes
        ],
    }


def noise(known: DeviceClass) -> Document:
    """The SD of a trial's val_bpb with its 95 % interval, and what it is known from."""
    low, high = known.noise.interval()
    return {
        "sd": known.noise.sd,
        "low": low,
        "high": high,
        "replicates": known.noise.freedom,
        "measured": known.noise.is_measured,
    }


def _claim(known: DeviceClass) -> Document | None:
    """The claim that is being tested, if any."""
    contest, best = known.contest, known.champion()
    if contest is None or best is None:
        return None
    return {
        "experiment": contest.contender.experiment,
        "against": best.experiment,
        "trials": [len(contest.contender.evidence), len(best.evidence)],
        "next_look": contest.wanted,
    }


def with_held_out(document: Document, fold: Leaderboard) -> Document:
    """A board with what agents should not see: held-out scores, and how far val_bpb has drifted."""
    for known in document["device_classes"]:
        device_class = fold.classes[known["name"]]
        found = drift.of(device_class)
        known["drift"] = found and found._asdict() | {"is_real": found.is_real}
        for experiment in known["experiments"]:
            entry = device_class.entries[experiment["experiment"]]
            experiment["heldout_bpb"] = drift.heldout(entry)
    return document


def ranked(device_class: DeviceClass) -> list[Entry]:
    """Entries by mean val_bpb; those without one behind, oldest first."""
    return sorted(
        device_class.entries.values(),
        key=lambda entry: entry.estimate.mean if entry.estimate else float("inf"),
    )


def experiment(entry: Entry) -> Document:
    claim, estimate, metrics = entry.claim, entry.estimate, entry.metrics
    return {
        "experiment": claim.experiment,
        "worker": claim.worker,
        "agent": claim.agent,
        "parent": claim.parent,
        "commit": claim.commit,
        "description": claim.description,
        "verdict": entry.kind,
        "confirmed": entry.confirmed,
        "reason": entry.reason,
        "val_bpb": estimate.mean if estimate else None,
        "replicates": estimate.replicates if estimate else 0,
        "sd": estimate.sd if estimate else None,
        "num_steps": metrics.num_steps,
        "tokens_per_second": metrics.tokens_per_second,
        "memory_gb": metrics.memory_gb,
        "seconds": entry.seconds,
        "time": claim.time.isoformat(),
    }


def answer(found: Answer) -> Document:
    """What `swarm eval` and `swarm result` print."""
    return {
        "experiment": found.experiment,
        "verdict": found.verdict,
        "reason": found.reason,
        "val_bpb": found.val_bpb,
        "incumbent_val_bpb": found.incumbent_val_bpb,
        "commit": found.commit,
        "base": found.base,
    }


def _worker(paths: Paths, fold: Leaderboard, name: str, now: datetime) -> Document:
    state = fold.workers[name]
    beat = heartbeat.read(paths.heartbeat(name))
    doing, reason = _doing(paths, fold, name, beat)
    alive = doing not in ("dead", "stopped")
    return {
        "name": name,
        "device": state.joined.device.id,
        "device_model": state.joined.device.model,
        "device_class": state.joined.device_class,
        "agent": state.joined.agent,
        "state": doing,
        "reason": reason,
        "pid": beat.pid if beat and alive else None,
        "pane": beat.pane if beat and alive else None,
        "worktree": state.joined.worktree,
        "branch": state.joined.branch,
        "experiments": state.experiments,
        "best_val_bpb": state.best_val_bpb,
        "duty_cycle": _duty_cycle(fold, state, now),
    }


def _doing(
    paths: Paths, fold: Leaderboard, name: str, beat: heartbeat.Heartbeat | None
) -> tuple[str, str]:
    if locks.is_held(paths.worker_lock(name)):
        return (beat.state, beat.reason) if beat else ("thinking", "is starting")
    if fold.state != "running":
        return "stopped", f"the swarm has {fold.state}"
    if fold.workers[name].parked:
        return "parked", f"{fold.workers[name].parked}; swarm resume {name} tries again"
    return "dead", "its runner died; swarm recover starts it again"


def _duty_cycle(fold: Leaderboard, state: WorkerState, now: datetime) -> float | None:
    """Share of the time since the worker's first trial that its device spent in trials."""
    if state.first_trial is None:
        return None
    busy, end = state.busy_seconds, state.last_result or now
    if state.open_trial and fold.state == "running":
        end = now
        busy += (now - fold.trials[state.open_trial].started).total_seconds()
    elapsed = (end - state.first_trial).total_seconds()
    return round(min(1.0, busy / elapsed), 4) if elapsed > 0 else None


def _claimed(device_class: DeviceClass | None, name: str | None) -> Document | None:
    if device_class is None or name is None:
        return None
    entry = device_class.entries[name]
    assert entry.estimate is not None
    return {
        "experiment": name,
        "commit": entry.claim.commit,
        "val_bpb": entry.estimate.mean,
        "replicates": entry.estimate.replicates,
        "sd": entry.estimate.sd,
    }
