"""The walk of one experiment: check, commit, trial, record, decide, sync."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import filelock
import msgspec.structs

from swarm import config, devices, memory, novelty, pollinate, pristine, records, weights
from swarm.disk import writing
from swarm.errors import Refused, SwarmError
from swarm.fingerprint import Prints
from swarm.job import Job
from swarm.journal import Journal, utc_now
from swarm.keys import Scrubber
from swarm.leaderboard import BASELINE, Leaderboard
from swarm.mailbox import Answer, Submission
from swarm.paths import Paths
from swarm.policies import Due
from swarm.standings import DeviceClass, Entry
from swarm.worktree import Worktree

MAX_SOURCE_BYTES = 1 << 20
MAX_DESCRIPTION = 500
FIRST_SEED = 42
_ANY_SCORE = 1e9  # JSON has no infinity


@dataclass
class Bench:
    """What the steps of a walk work with."""

    paths: Paths
    worker: str
    journal: Journal
    board: Leaderboard
    worktree: Worktree
    environment: Mapping[str, str]
    scrubber: Scrubber = field(default_factory=lambda: Scrubber({}))
    _branches: tuple[str | None, str | None] = (None, None)

    @property
    def joined(self) -> records.Worker:
        return self.board.workers[self.worker].joined

    @property
    def settings(self) -> records.Config:
        assert self.board.config is not None
        return self.board.config


def submit(bench: Bench, submission: Submission) -> str:
    """Check a submission, journal the intent and commit it; return the experiment's name.

    Raises `Refused`, before anything is written, for a change that must not be tried.
    """
    claim = _check(bench, submission)
    commit = bench.worktree.commit_trainer(
        submission.base, submission.source, _message(bench, claim.description), _author(bench)
    )
    with bench.journal.transaction() as append:
        bench.board.refresh()
        _refuse_exhausted(bench)
        novelty.refuse_known(bench.board, Prints(claim.fingerprint, claim.seedless))
        name = f"e{len(bench.board.claims)}"
        append(
            records.Claim(
                experiment=name,
                worker=bench.worker,
                agent=claim.agent,
                parent=claim.parent,
                commit=commit,
                fingerprint=claim.fingerprint,
                seedless=claim.seedless,
                description=claim.description,
                request=submission.id,
            )
        )
    bench.board.refresh()
    return name


def keep_commit(bench: Bench, experiment: str) -> None:
    """Give an experiment's commit the ref that keeps it for good; safe to repeat."""
    commit = bench.board.claims[experiment].commit
    bench.worktree.set_ref(bench.paths.experiment_ref(experiment), commit, experiment)


def start_trial(bench: Bench, due: Due, again: Callable[[], Due | None]) -> Job | None:
    """Lay out a trial's folder and journal its start; `None` when it is no longer due.

    `again` says what is due, asked with the journal locked: two devices may want the same. What a
    trial of the baseline scores is evaluated again; where that held, so is what a claim rests on,
    and whatever scores lower than the incumbent.
    """
    experiment = due.experiment
    device_class = bench.joined.device_class
    commit = bench.board.claims[experiment].commit
    source = bench.worktree.read(commit, config.TRAINER).encode()
    with bench.journal.transaction() as append:
        bench.board.refresh()
        now_due = again()
        if now_due is None or now_due[:2] != due[:2]:
            return None
        entry = bench.board.entry(experiment, device_class)
        trial = f"t{len(bench.board.trials)}"
        taken = {known.seed for known in entry.trials if known.outcome != "interrupted"}
        seed = next(seed for seed in itertools.count(FIRST_SEED) if seed not in taken)
        folder = bench.paths.trial(trial)
        with writing(folder):  # before the journal, so that a full disk starts nothing
            folder.mkdir(parents=True, exist_ok=True)
            (folder / config.TRAINER).write_bytes(source)
        append(
            records.TrialStarted(
                trial=trial,
                experiment=experiment,
                worker=bench.worker,
                device_class=device_class,
                seed=seed,
                purpose=due.purpose,
            )
        )
    bench.board.refresh()
    device = bench.joined.device
    job = make_job(bench.paths, bench.board, device, bench.environment, trial, seed)
    return msgspec.structs.replace(
        job,
        examine_below=_examine_below(bench.board.classes[device_class], due),
        trusted=experiment == BASELINE,
    )


def _examine_below(known: DeviceClass, due: Due) -> float:
    """From which score down a trial must stand a second evaluation."""
    if due.experiment == BASELINE and due.purpose in ("experiment", "claim"):
        return _ANY_SCORE
    if not known.verifies:
        return 0.0
    top = known.top()
    if due.purpose == "claim" or top is None or top.estimate is None:
        return _ANY_SCORE
    return top.estimate.mean


def record(bench: Bench, result: records.TrialFinished) -> Entry:
    """Append the facts of a trial, once, and fold them; return the experiment as it stands now."""
    trial = bench.board.trials[result.trial]
    if trial.outcome is None:
        weights.keep(bench.paths, result)
        bench.journal.append(result)
        bench.board.refresh()
        weights.prune(bench.paths, bench.board)
    return bench.board.entry(trial.experiment, trial.device_class)


def reconcile(bench: Bench) -> bool:
    """Bring git to where a process that died at any point should have left it.

    Returns whether the worktree is on its base (it is not while it has unsubmitted edits).
    """
    mine = (c.experiment for c in reversed(bench.board.claims.values()) if c.worker == bench.worker)
    last = next(mine, None)
    if last:
        keep_commit(bench, last)
    return sync(bench)


def is_recorded(board: Leaderboard, worktree: Worktree, source: str) -> bool:
    """Whether this train.py is safe in the commit of an experiment that has its verdict."""
    try:
        name = novelty.claimed_as(board, source)
    except Refused:
        return False
    if name is None or board.entry(name).kind == "candidate":
        return False
    return worktree.read(board.claims[name].commit, config.TRAINER) == source


def sync(bench: Bench) -> bool:
    """Move git to what the fold says; return whether the worktree is on its base. Idempotent."""
    advance_branches(bench)
    head = bench.worktree.head()
    if head not in bench.board.commits:  # the agent committed by itself: keep that too
        bench.worktree.set_ref(bench.paths.experiment_ref(f"stray/{head[:10]}"), head, "stray")
    base = pollinate.base_for(bench.board, bench.worker)
    return bench.worktree.move(
        base.commit, lambda source: is_recorded(bench.board, bench.worktree, source)
    )


def advance_branches(bench: Bench) -> None:
    """Point `swarm/<tag>/incumbent` and `…/best` at what the fold says."""
    primary = bench.board.primary
    wanted = (primary.incumbent, primary.best) if primary else (None, None)
    if wanted == bench._branches:
        return
    with filelock.FileLock(bench.paths.git_lock, fallback_to_soft=False):
        bench.board.refresh()  # under the lock: a slower runner must not set an older one
        primary = bench.board.primary
        wanted = (primary.incumbent, primary.best) if primary else (None, None)
        names = (bench.paths.incumbent_branch, bench.paths.best_branch)
        for name, experiment in zip(names, wanted, strict=True):
            if experiment:
                commit = bench.board.claims[experiment].commit
                bench.worktree.set_ref(f"refs/heads/{name}", commit, f"swarm: {experiment}")
    bench._branches = wanted


def describe(bench: Bench, request: str, experiment: str) -> Answer:
    """The answer to a submission as things stand: queued, or done with its verdict."""
    entry = bench.board.entry(experiment)
    incumbent = bench.board.incumbent_of(bench.worker).experiment
    best = bench.board.entry(incumbent, bench.joined.device_class).estimate
    return Answer(
        id=request,
        state="queued" if entry.kind == "candidate" else "done",
        experiment=experiment,
        verdict=entry.kind,
        reason=entry.reason,
        val_bpb=entry.estimate.mean if entry.estimate else None,
        incumbent_val_bpb=best.mean if best else None,
        commit=entry.claim.commit,
        base=bench.worktree.head(),
    )


def _check(bench: Bench, submission: Submission) -> records.Claim:
    parent = bench.board.commits.get(submission.base)
    if parent is None:
        raise Refused(
            f"the base {submission.base[:10]} is no experiment of this swarm",
            "do not commit yourself; swarm sync takes the current base",
        )
    if len(submission.source.encode()) > MAX_SOURCE_BYTES:
        raise Refused(f"{config.TRAINER} is larger than 1 MiB", "keep data out of it")
    if bench.scrubber.holds(submission.source):
        raise Refused(f"{config.TRAINER} holds an API key", "take it out; trials get none")
    others = [name for name in bench.worktree.changed_files() if name != config.TRAINER]
    if others:
        raise Refused(
            f"only {config.TRAINER} may be changed, not {', '.join(others[:3])}",
            f"undo it: git restore --staged --worktree {others[0]}",
        )
    _refuse_exhausted(bench)
    new = novelty.check(bench.board, bench.worktree, parent, submission.source)
    return records.Claim(
        experiment="",
        worker=bench.worker,
        agent=bench.joined.agent,
        parent=parent,
        commit="",
        fingerprint=new.fingerprint,
        seedless=new.seedless,
        description=" ".join(bench.scrubber.scrub(submission.description).split())[:MAX_DESCRIPTION]
        or "(no description)",
    )


def _refuse_exhausted(bench: Bench) -> None:
    why = bench.board.exhausted(utc_now())
    if why:
        raise SwarmError(f"no further experiment: {why}", "see swarm board")


def make_job(
    paths: Paths, board: Leaderboard, device: records.Device, environment: Mapping[str, str],
    trial: str, seed: int,
) -> Job:  # fmt: skip
    """A trial of the swarm on a device, in the trial's folder.

    Raises `SwarmError` where the pristine folder was changed.
    """
    assert board.swarm is not None and board.config is not None
    settings = board.config
    pristine.verify(paths.pristine, board.swarm.prepare_sha256)
    cache = config.cache_folder(environment)
    own = {
        "SWARM_CACHE": str(cache),
        "SWARM_SCALE": settings.scale,
        "SWARM_DATASET": settings.dataset,
        "SWARM_SEED": str(seed),
    }
    return Job(
        trial=trial,
        folder=str(paths.trial(trial)),
        evaluator=str(paths.pristine),
        python=config.python(),
        seconds=settings.seconds,
        timeout=settings.timeout,
        environment=config.trial_environment(environment) | devices.environment(device) | own,
        cores=device.cores,
        memory=memory.share(len(board.active)),
        confine=config.wants_confinement(environment),
        hidden=(str(paths.root), str(cache / "datasets")),
    )


def _message(bench: Bench, description: str) -> str:
    trailers = f"Swarm: {bench.paths.tag}\nWorker: {bench.worker}\nAgent: {bench.joined.agent}"
    return f"{description}\n\n{trailers}\n"


def _author(bench: Bench) -> str:
    return f"swarm {bench.worker}"
