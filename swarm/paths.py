"""Where everything lives: the one class that names the paths of a swarm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The files of one swarm `tag` in the repository whose main checkout is `root`."""

    root: Path
    tag: str

    @property
    def leaderboards(self) -> Path:
        return self.root / "leaderboard"

    @property
    def home(self) -> Path:
        """`leaderboard/<tag>`: everything a swarm stores outside git."""
        return self.leaderboards / self.tag

    @property
    def journal(self) -> Path:
        return self.home / "journal.jsonl"

    @property
    def snapshot(self) -> Path:
        """A cache of what the journal says; see `swarm.snapshots`."""
        return self.home / "fold.snapshot"

    @property
    def results_tsv(self) -> Path:
        return self.home / "results.tsv"

    @property
    def pristine(self) -> Path:
        """The folder with the swarm's own `prepare.py` and harness, which every trial imports."""
        return self.home / "pristine"

    @property
    def spawn_lock(self) -> Path:
        """Held while the swarm is being written down and laid out."""
        return self.home / "spawn.lock"

    @property
    def supervisor_lock(self) -> Path:
        return self.home / "supervisor.lock"

    @property
    def supervisor_log(self) -> Path:
        return self.home / "supervisor.log"

    @property
    def git_lock(self) -> Path:
        """Serialises what git cannot do in parallel, over all swarms of the repository."""
        return self.leaderboards / "git.lock"

    def trial(self, trial: str) -> Path:
        """`trials/<trial>/`: the `train.py` that ran, its `run.log` and `result.json`."""
        return self.home / "trials" / trial

    def weights(self, trial: str) -> Path:
        """The weights that a trial left, while they are kept."""
        return self.home / "weights" / f"{trial}.safetensors"

    def worker_lock(self, worker: str) -> Path:
        """Held by the runner for as long as it lives."""
        return self.home / "workers" / f"{worker}.lock"

    def heartbeat(self, worker: str) -> Path:
        return self.home / "workers" / f"{worker}.json"

    def worker_log(self, worker: str) -> Path:
        """What the pane of the worker shows."""
        return self.home / "workers" / f"{worker}.log"

    def runner_log(self, worker: str) -> Path:
        return self.home / "workers" / f"{worker}.runner.log"

    @property
    def worktrees(self) -> Path:
        return self.root / "worktrees" / self.tag

    def worktree(self, worker: str) -> Path:
        return self.worktrees / worker

    def branch(self, worker: str) -> str:
        return f"swarm/{self.tag}/{worker}"

    @property
    def incumbent_branch(self) -> str:
        return f"swarm/{self.tag}/incumbent"

    @property
    def best_branch(self) -> str:
        return f"swarm/{self.tag}/best"

    def experiment_ref(self, experiment: str) -> str:
        return f"refs/swarm/{self.tag}/{experiment}"
