"""What each worker of a swarm does right now, as the documents of `--json`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from swarm import heartbeat, locks
from swarm.heartbeat import Heartbeat
from swarm.leaderboard import Leaderboard
from swarm.paths import Paths
from swarm.views import live
from swarm.workers import WorkerState

Document = dict[str, Any]
_STARTING = "is starting"
_AGENT_STATES: dict[str, str] = {
    "starting": "starting", "waiting": "waits", "prompt": "at prompt", "dialog": "at a dialog",
    "limit": "limited", "login": "must log in", "asks": "asks",
}  # fmt: skip


def is_laid_out(fold: Leaderboard) -> bool:
    """Whether the journal has all workers of a swarm: it begins with them."""
    return bool(fold.active) and fold.active.keys() <= fold.workers.keys()


def worker(paths: Paths, fold: Leaderboard, name: str, now: datetime) -> Document:
    """What a worker is, does and has done."""
    state = fold.workers[name]
    alive = locks.is_held(paths.worker_lock(name))
    beat = heartbeat.read(paths.heartbeat(name))
    if alive:
        doing, reason = _doing(state, beat, now)
        agent, agent_reason = _agent(state, beat, now)
    else:
        doing, reason = _why_gone(paths, fold, name, beat, now)
        agent, agent_reason = "ended", ""
    return {
        "name": name,
        "device": state.joined.device.id,
        "device_model": state.joined.device.model,
        "device_class": state.joined.device_class,
        "agent": state.joined.agent,
        "state": doing,
        "reason": reason,
        "agent_state": agent,
        "agent_reason": agent_reason,
        "direction": fold.workforce.direction_of(name),
        "island": state.place % max(1, fold.config.islands) if fold.config else 0,
        "nudges": state.nudges,
        "restarts": state.restarts,
        "usd": state.bill.known_usd,
        "tokens": state.bill.tokens,
        "pid": beat.pid if beat and alive else None,
        "pane": beat.pane if beat and alive else None,
        "worktree": state.joined.worktree,
        "branch": state.joined.branch,
        "experiments": state.experiments,
        "best_val_bpb": state.best_val_bpb,
        "duty_cycle": _duty_cycle(fold, state, now),
        "trial": trial(paths, fold, state, now) if alive else None,
    }


def trial(paths: Paths, fold: Leaderboard, state: WorkerState, now: datetime) -> Document | None:
    """The trial that runs on a worker's device, and how far it is; `None`: none does."""
    if state.open_trial is None:
        return None
    running = fold.trials[state.open_trial]
    found = live.of(paths.trial(running.id) / "run.log")
    return {
        "trial": running.id,
        "experiment": running.experiment,
        "purpose": running.purpose,
        "description": fold.claims[running.experiment].description,
        "seconds": round((now - running.started).total_seconds(), 1),
        "phase": found.phase if found else "starting",
        "step": found.step if found else None,
        "percent": found.percent if found else 0.0,
        "loss": found.loss if found else None,
        "tokens_per_second": found.tokens_per_second if found else None,
        "seconds_left": found.seconds_left if found else None,
    }


def _doing(state: WorkerState, beat: Heartbeat | None, now: datetime) -> tuple[str, str]:
    """What a worker with a runner does, and why."""
    if beat is None:
        return "thinking", _STARTING
    if beat.state == "parked":
        return "parked", _parked(state, now) or beat.reason
    return beat.state, beat.reason or _silence(beat)


def _agent(state: WorkerState, beat: Heartbeat | None, now: datetime) -> tuple[str, str]:
    """What the agent of a living runner does, in a word and in a line."""
    if beat is None:
        return "starting", _STARTING
    if beat.agent == "parked":
        return "parked", _parked(state, now) or beat.agent_reason
    return beat.agent, beat.agent_reason or _silence(beat)


def _silence(beat: Heartbeat) -> str:
    """What a CLI that shows nothing yet is about."""
    return _STARTING if beat.agent == "starting" else ""


def _parked(state: WorkerState, now: datetime) -> str:
    """Until when an agent is parked and why; times come first, as they are looked for."""
    if not state.parked:
        return ""
    until = state.parked_until
    if until is None:
        return f"{state.parked}; swarm resume {state.joined.worker} tries again"
    day = "" if until.date() == now.date() else f"{until:%b %d} "
    return f"until {day}{until:%H:%M} UTC: {state.parked}"


def _why_gone(
    paths: Paths, fold: Leaderboard, name: str, beat: Heartbeat | None, now: datetime
) -> tuple[str, str]:
    """Why a worker has no runner."""
    state = fold.workers[name]
    if fold.state != "running":
        return "stopped", f"the swarm has {fold.state}"
    if fold.stopping:
        return "stopped", "the swarm is being stopped"
    if state.parked and state.parked_until is None:
        return "parked", _parked(state, now)
    left = fold.queued(name) or fold.replicate(name, "ending")
    if fold.exhausted(now) and not left:
        return "stopped", "nothing is left for it to do"
    if not locks.is_held(paths.supervisor_lock):
        return "dead", "its runner died; swarm recover starts it again"
    if beat is None:
        return "thinking", _STARTING
    if beat.state == "dead":
        return "dead", f"{beat.reason}; that is tried again"
    return "dead", "its runner died; it is started again"


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


def word(found: Document) -> str:
    """A worker's state in a word; what its agent is at says more than that it does not train."""
    state = str(found["state"])
    return _AGENT_STATES.get(found["agent_state"], state) if state == "thinking" else state
