"""Each train.py in `hostile/` attacks something; none gets anything, and the next trial is well.

They run through the real watchdog, beside decoys of what a user has. They act on no path but those
that `places.json` gives them, so that a machine without confinement is not harmed either.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import toy
from conftest import processes_of, wait_for
from trainer_fixtures import ROOT, prepared  # noqa: F401  a fixture

from swarm import sandbox
from swarm.launchers.local import LocalLauncher
from swarm.records import TrialFinished
from swarm.trial import Job

HOSTILE = Path(__file__).parent / "hostile"
SECRET = "sk-decoy-123"
HONEST = "import prepare; prepare.evaluate_bpb(0.9); print('---\\nval_bpb: 0.900000')"
IN_FORCE = sandbox.try_out()


@dataclass
class Scene:
    """A user's machine in small: home, repository with a swarm in it, and a trial about to run."""

    root: Path
    runner: subprocess.Popen[bytes]
    environment: dict[str, str] = field(default_factory=dict)
    ran: int = 1

    @property
    def swarm(self) -> Path:
        return self.root / "repository" / "leaderboard" / "nov21"

    @property
    def folder(self) -> Path:
        return self.swarm / "trials" / f"t{self.ran}"

    def run(self, source: str, places: dict[str, object], **limits: object) -> TrialFinished:
        """Run a train.py as the next trial."""
        self.ran += 1
        self.folder.mkdir()
        (self.folder / "train.py").write_text(source)
        (self.folder / "places.json").write_text(json.dumps(places))
        given = {
            "seconds": 1.0,
            "timeout": 60.0,
            "memory": 8 << 30,
            "environment": {"PATH": os.environ["PATH"], "HOME": str(self.root / "home")}
            | self.environment,
        } | limits
        launcher = LocalLauncher()
        handle = launcher.submit(
            Job(
                trial=f"t{self.ran}",
                folder=str(self.folder),
                evaluator=str(self.swarm / "pristine"),
                python=sys.executable,
                hidden=(str(self.root / "repository"),),
                **given,  # type: ignore[arg-type]
            )
        )
        result: TrialFinished = wait_for(  # type: ignore[assignment]
            lambda: launcher.poll(handle), timeout=90, every=0.01
        )
        assert processes_of(str(self.folder / "attested.json")) == []
        return result

    def places(self) -> dict[str, object]:
        home = self.root / "home"
        secrets = [home / ".ssh" / "id_rsa", home / ".config" / "key", self.swarm / "journal.jsonl"]
        return {
            "home": str(home),
            "repository": str(self.root / "repository"),
            "journal's folder": str(self.swarm),
            "other trial": str(self.swarm / "trials" / "t1"),
            "pristine": str(self.swarm / "pristine"),
            "elsewhere": str(self.root / "elsewhere"),
            "secrets": [str(path) for path in secrets],
            "runner": self.runner.pid,
        }

    def snapshot(self, left_out: Path) -> dict[str, tuple[object, ...]]:
        """All files but those of a trial: rights, owners, times, contents."""
        found = {}
        for path in [self.root, *self.root.rglob("*")]:
            if left_out in (path, *path.parents) or path.name == "trials":  # it makes a folder
                continue
            status = path.lstat()
            kind = stat.S_IFMT(status.st_mode)
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            about = (kind, status.st_mode, status.st_uid, status.st_mtime_ns, content)
            found[str(path)] = about
        return found


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setenv("SOME_API_KEY", SECRET)  # of the watchdog
    root = tmp_path / "a user's machine"
    home = root / "home"
    for secret in (home / ".ssh" / "id_rsa", home / ".config" / "key"):
        secret.parent.mkdir(parents=True)
        secret.write_text(SECRET)
    (root / "elsewhere").mkdir()
    toy.make_repository(root / "repository")
    runner = subprocess.Popen(
        ["sleep", "1000"], env={"SOME_API_KEY": SECRET}, start_new_session=True
    )
    scene = Scene(root, runner)
    (scene.swarm / "pristine").mkdir(parents=True)
    (scene.swarm / "pristine" / "prepare.py").write_text(toy.PREPARE)
    (scene.swarm / "journal.jsonl").write_text("{}\n")
    other = scene.swarm / "trials" / "t1"
    other.mkdir(parents=True)
    (other / "result.json").write_text("{}")
    yield scene
    assert runner.poll() is None, "the runner was killed"
    runner.kill()
    runner.wait()
    subprocess.run(["rm", "-rf", str(root)], check=True)  # deeper than pytest can remove


def attack(
    scene: Scene, name: str, more: dict[str, object] | None = None, **limits: object
) -> TrialFinished:
    """Run a hostile file; nothing outside its folder changes, and an honest trial goes well."""
    own = scene.folder.with_name(f"t{scene.ran + 1}")
    before = scene.snapshot(own)
    source = (HOSTILE / f"{name}.py").read_text()
    result = scene.run(source, scene.places() | (more or {}), **limits)
    assert scene.snapshot(own) == before
    log = scene.folder / "run.log"
    assert log.is_file() and not log.is_symlink()
    assert log.stat().st_size < 5 << 20
    assert SECRET not in log.read_text()
    attacked = scene.folder
    pristine = scene.swarm / "pristine" / "prepare.py"
    if pristine.read_text() == toy.PREPARE:
        assert scene.run(HONEST, scene.places()).outcome == "ok"
    known = {"train.py", "run.log", "attested.json", "result.json", "weights.safetensors"}
    left = {path.name for path in attacked.iterdir() if path.is_file() and not path.is_symlink()}
    assert left <= known | {"examination.log"}
    assert len(left) == len(list(attacked.iterdir()))
    return result


ENDINGS = {
    "fake_score": ("rejected", "that prepare.evaluate_bpb did not measure"),
    "exits_7": ("crash", "exit code 7"),
    "replace_evaluator": ("rejected", "that prepare.evaluate_bpb did not measure"),
    "daemon": ("ok", ""),
    "ignore_sigterm": ("timeout", "last line: still here"),
    "flood": ("timeout", "no result after"),
    "change_budget": ("timeout", "no result after"),
    "eat_memory": ("crash", "used more than 0.4 GB of memory (its share of this machine)"),
    "eat_memory_in_children": ("crash", "used more than 0.4 GB of memory"),
    "share_memory": ("ok", ""),
    "fill_disk": ("crash", "wrote more than 0.0 GB into its folder"),
    "fork_bomb": ("crash", "started more than 40 processes"),
    "weights_folder": ("ok", ""),
    "many_links": ("ok", ""),
    "leaves_checkpoint": ("ok", ""),
}
LIMITS: dict[str, dict[str, object]] = {
    "ignore_sigterm": {"timeout": 1.0},
    "flood": {"timeout": 1.0},
    "change_budget": {"timeout": 1.5},
    "eat_memory": {"memory": 400_000_000},
    "eat_memory_in_children": {"memory": 400_000_000},
    "share_memory": {"memory": 400_000_000},
    "fill_disk": {"disk": 20_000_000},
    "fork_bomb": {"processes": 40},
}


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is what the meter reads")
def test_it_ends_with_the_right_verdict(scene: Scene, name: str) -> None:
    outcome, reason = ENDINGS[name]
    result = attack(scene, name, **LIMITS.get(name, {}))
    assert (result.outcome, reason in result.reason) == (outcome, True), result.reason
    if outcome != "ok":
        assert result.val_bpb is None


CONFINED = {
    "steal_environment": ("files", "keys found in []"),
    "steal_files": ("files", "read 0 files"),
    "write_outside": ("files", "done: []"),
    "edit_prepare": ("files", "PermissionError"),
    "change_attributes": ("network", "tried all"),
    "kill_others": ("signals network", "reached []"),
    "network": ("network", "reached []; files from outside: 0"),
    "datagram": ("network", "reached [], but itself: b'x'"),
    "take_cores": ("network", "runs on 1 core"),
    "system_calls": ("network", "allowed: []"),
}


@pytest.mark.parametrize("name", CONFINED)
def test_a_confined_trial_gets_nothing(scene: Scene, name: str) -> None:
    parts, reason = CONFINED[name]
    if not all(IN_FORCE[part] for part in parts.split()):
        pytest.skip(f"no confinement of {parts} here")
    if name == "system_calls" and platform.machine() != "x86_64":
        pytest.skip("its numbers are of x86_64")
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as local,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mailbox,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract_mailbox,
    ):
        mailbox.bind(os.path.relpath(scene.root / "m"))
        abstract_mailbox.bind(f"\0swarm mail {os.getpid()}")
        where = Path(os.path.relpath(scene.root / "s"))  # a socket's path ends at 108 bytes
        local.bind(str(where))
        local.listen()
        abstract.bind(f"\0swarm test {os.getpid()}")
        abstract.listen()
        result = attack(
            scene,
            name,
            {
                "port": server.getsockname()[1],
                "socket": os.path.relpath(scene.root / "s", scene.folder.with_name("t2")),
                "abstract": f"swarm test {os.getpid()}",
                "mailbox": os.path.relpath(scene.root / "m", scene.folder.with_name("t2")),
                "abstract mailbox": f"swarm mail {os.getpid()}",
            },
            cores=(min(os.sched_getaffinity(0)),),
        )
        for one in (mailbox, abstract_mailbox):
            with pytest.raises(BlockingIOError):
                one.recv(1, socket.MSG_DONTWAIT)
    assert result.outcome == "crash"
    assert result.reason.startswith("exit code 1")
    assert reason in result.reason, result.reason


def test_what_a_trial_leaves_is_no_trap_for_the_watchdog(scene: Scene) -> None:
    result = attack(scene, "leave_traps", timeout=20.0)
    assert result.outcome == "rejected"
    assert "did not measure" in result.reason


def test_a_forged_attestation_is_for_a_second_evaluation_to_find(scene: Scene) -> None:
    """What is forged in the process of the harness looks like the harness; see test_examination."""
    result = attack(scene, "forge_attestation")
    assert (result.outcome, result.val_bpb) == ("ok", 0.1)
    (scene.swarm / "pristine" / "swarm" / "harness").mkdir(parents=True)
    (scene.swarm / "pristine" / "swarm" / "harness" / "examine.py").touch()
    result = scene.run((HOSTILE / "forge_attestation.py").read_text(), {}, examine_below=1e9)
    assert (result.outcome, result.val_bpb) == ("rejected", None)
    assert "its weights were not kept, so nothing verifies its score" in result.reason


@pytest.fixture
def real(scene: Scene, prepared: tuple[Path, object]) -> Scene:  # noqa: F811
    """The scene with the real harness and a small dataset."""
    cache, dataset = prepared
    pristine = scene.swarm / "pristine"
    shutil.copy(ROOT / "prepare.py", pristine)
    (pristine / "swarm").mkdir()
    shutil.copy(ROOT / "swarm" / "__init__.py", pristine / "swarm")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "swarm" / "harness", pristine / "swarm" / "harness", ignore=ignored)
    scene.environment = {
        "SWARM_CACHE": str(cache),
        "SWARM_SCALE": "small",
        "SWARM_DATASET": str(dataset.path),  # type: ignore[attr-defined]
        "SWARM_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    return scene


@pytest.mark.parametrize(
    ("name", "outcome", "reason"),
    [
        ("peek_ahead", "crash", "the model looks ahead"),
        ("nan", "crash", "the model's logits are not finite"),
        ("past_budget", "rejected", r"trained [34] s of a budget of 1 s"),
    ],
)
def test_the_harness_is_not_deceived(real: Scene, name: str, outcome: str, reason: str) -> None:
    result = attack(real, name)
    assert result.outcome == outcome
    assert re.search(reason, result.reason), result.reason


def test_logits_that_are_not_normalised_win_nothing(
    real: Scene,
    prepared: tuple[Path, object],  # noqa: F811
) -> None:
    result = attack(real, "unnormalised")
    assert result.outcome == "ok"
    attested = json.loads((real.folder / "attested.json").read_text())
    uniform = attested["tokens"] / attested["bytes"]
    bits = prepared[1].vocab_size.bit_length() - 1  # type: ignore[attr-defined]
    assert prepared[1].vocab_size == 2**bits  # type: ignore[attr-defined]
    assert result.val_bpb == pytest.approx(bits * uniform, rel=1e-5)


@pytest.mark.skipif(not IN_FORCE["files"], reason="no confinement of files here")
def test_the_held_out_split_cannot_be_read(real: Scene) -> None:
    result = attack(real, "read_heldout")
    assert result.outcome == "crash"
    assert "read it 0 times" in result.reason


def test_a_trial_that_is_not_confined_reads_what_it_likes(scene: Scene) -> None:
    """`SWARM_CONFINE=off` is off; and the attack above would succeed without confinement."""
    source = (HOSTILE / "steal_files.py").read_text()
    result = scene.run(source, scene.places(), confine=False)
    assert "read 0 files" not in result.reason


LOOK = """
try:
    open("../../journal.jsonl").close()
    print("it saw the journal")
except PermissionError as error:
    print(error)
"""


@pytest.mark.parametrize("said", ["on", "off"])
def test_a_swarm_confines_its_trials_unless_told_otherwise(
    run: Callable[..., object], repository: Path, environment: dict[str, str], said: str
) -> None:
    environment["SWARM_CONFINE"] = said
    (repository / "train.py").write_text(toy.TRAIN + LOOK)
    toy.git(repository, "commit", "--quiet", "-am", "look")
    run("spawn", "--agents", "1", "--seconds", "1", "--tag", "h", "--no-tmux",
        "--agent", "cmd:sleep 1000")  # fmt: skip
    trial = repository / "leaderboard" / "h" / "trials" / "t0"
    wait_for(lambda: (trial / "result.json").exists())
    run("stop", "--now")
    confined = said == "on" and IN_FORCE["files"]
    assert ("it saw the journal" in (trial / "run.log").read_text()) is not confined
