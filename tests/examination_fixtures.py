"""What the tests of examinations share: a tiny trainer, and trials of it with the real harness."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
import msgspec.structs
import pytest
import warm
from conftest import processes_of, wait_for
from trainer_fixtures import ROOT

from swarm import children, summary
from swarm.examination import Finding
from swarm.harness import examine
from swarm.harness.evaluation import EvaluationError
from swarm.job import WEIGHTS, Job
from swarm.launchers.local import LocalLauncher
from swarm.records import TrialFinished
from swarm.trial import Ending

TINY = """\
import torch, prepare
from torch import nn


class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, x):
        return self.table(x)


def build_model(vocab_size, device):
    return Model(vocab_size)


def main():
    dataset, device = prepare.Dataset.open(), prepare.pick_device()
    prepare.set_up(device)
    torch.manual_seed(1)
    model = build_model(dataset.vocab_size, device)
    loader = prepare.Loader(dataset, 1, device, 1)
    next(loader), next(loader)
    # trained
    bpb = prepare.evaluate_bpb(model, 32, device, dataset)
    # evaluated
    print(f"---\\nval_bpb: {bpb:.6f}\\ntraining_seconds: 0.1")


if __name__ == "__main__":
    main()
"""

_PROGRAM = """
import json, os, sys
from pathlib import Path
import msgspec
from swarm import children, examination, summary
from swarm.job import Job
children.adopt_orphans()
job, source = msgspec.json.decode(sys.argv[1], type=Job), sys.argv[2].encode()
folder = Path(job.folder)
attestation, weights = folder / "attested.json", folder / "weights.safetensors"
score = summary.read_attestation(attestation).val_bpb
subject = examination.Subject(source, attestation, weights, score)
lifeline, other_end = os.pipe()
print(msgspec.json.encode(examination.examine(job, subject, lifeline)).decode())
"""

_SERVED = "import sys; from swarm.harness import served; served.main(sys.argv[1:])"


@dataclass(frozen=True)
class Lab:
    """A swarm's pristine folder, and a place for trials."""

    root: Path
    environment: dict[str, str]

    @classmethod
    def make(cls, root: Path, cache: Path, dataset: Path) -> Lab:
        pristine = root / "pristine"
        (pristine / "swarm").mkdir(parents=True)
        shutil.copy(ROOT / "prepare.py", pristine)
        shutil.copy(ROOT / "swarm" / "__init__.py", pristine / "swarm")
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "swarm/harness", pristine / "swarm/harness", ignore=ignored)
        environment = {
            "PATH": os.environ["PATH"],
            "SWARM_SCALE": "small",
            "SWARM_DEVICE": "cpu",
            "SWARM_CACHE": str(cache),
            "SWARM_DATASET": str(dataset),
            "OMP_NUM_THREADS": "1",
        }
        return cls(root, environment)

    def job(self, name: str, **more: object) -> Job:
        return Job(
            trial=name,
            folder=str(self.root / name),
            evaluator=str(self.root / "pristine"),
            python=sys.executable,
            seconds=2.0,
            timeout=90.0,
            environment=self.environment,
            hidden=(str(self.root),),
            **more,  # type: ignore[arg-type]
        )

    def run(self, name: str, source: str, **more: object) -> TrialFinished:
        """Run a train.py through the watchdog."""
        folder = self.root / name
        folder.mkdir()
        (folder / "train.py").write_text(source)
        launcher = LocalLauncher()
        handle = launcher.submit(self.job(name, **more))
        result = wait_for(lambda: launcher.poll(handle), timeout=90, every=0.02)
        assert isinstance(result, TrialFinished)
        self.assert_nothing_is_left(name)
        return result

    def train(self, name: str, source: str) -> None:
        """Run a train.py by itself: it leaves what a trial does, and a watchdog would say ok."""
        folder = self.root / name
        folder.mkdir()
        (folder / "train.py").write_text(source)
        own = children.harness_environment(self.job(name)) | {"SWARM_WEIGHTS": WEIGHTS}
        done = warm.run_python("train.py", folder=folder, environment=self.environment | own)
        ending = Ending(done.returncode, None, 9.0)
        attestation = folder / "attested.json"
        result = summary.judge(name, 2.0, 90.0, ending, done.stdout, attestation)
        assert result.outcome == "ok", result.reason + done.stderr

    def ask(self, name: str, source: str, limit: float = 30.0) -> str:
        """Why a trial's weights are refused for `source`, or nothing.

        That is for the two programs of an examination alone, outside of a watchdog's care.
        """
        attested = json.loads((self.root / name / "attested.json").read_bytes())
        ours, theirs = socket.socketpair()
        with (
            tempfile.TemporaryDirectory(dir=self.root) as place,
            tempfile.TemporaryFile() as logits,
            (self.root / name / WEIGHTS).open("rb") as weights,
            pytest.MonkeyPatch.context() as patch,
        ):
            Path(place, "train.py").write_text(source)
            logits.truncate(8 << 30)
            files = (theirs.fileno(), logits.fileno(), weights.fileno())
            model = warm.start(["-c", _SERVED], Path(place), self.environment, files)
            theirs.close()
            for key, value in self.environment.items():
                patch.setenv(key, value)
            request = {"channel": ours.detach(), "logits": logits.fileno(), "limit": limit}
            try:
                examine.examine(attested | request)
            except EvaluationError as error:
                return str(error)
            finally:
                model.kill()
                model.join()
        return ""

    def examine(self, name: str, source: str, limit: float = 30.0) -> Finding:
        """Examine what is in the folder of a trial, as if `source` had been its train.py."""
        job = self.job(name, examine_timeout=limit)
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PROGRAM, msgspec.json.encode(job).decode(), source],
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr
        self.assert_nothing_is_left(name)
        return msgspec.json.decode(done.stdout, type=Finding)

    def copied(self, name: str, to: str) -> Path:
        """A copy of a trial's folder, to be tampered with."""
        folder = self.root / to
        shutil.copytree(self.root / name, folder)
        return folder

    def assert_nothing_is_left(self, name: str) -> None:
        folder = self.root / name
        assert processes_of(str(folder / "attested.json")) == []
        assert not list(folder.glob("examination.?*/")), "its scratch folder is there still"
