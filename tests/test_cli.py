"""The command line: every mistake gets one clear line, a hint and the right exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import toy
from conftest import wait_for

from swarm.journal import Journal
from swarm.leaderboard import Leaderboard
from swarm.mailbox import Mailbox
from swarm.records import Note
from swarm.verbs import parser

Run = Callable[..., subprocess.CompletedProcess[str]]


def verbs() -> dict[str, str]:
    """Each verb with its help."""
    action = next(a for a in parser()._actions if a.dest == "==SUPPRESS==" or a.choices)
    assert isinstance(action.choices, dict)
    return {name: sub.format_help() for name, sub in action.choices.items()}


def assert_error(
    done: subprocess.CompletedProcess[str], code: int, message: str, hint: str = ""
) -> None:
    lines = done.stderr.strip().splitlines()
    errors = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert message in lines[errors[0]], done.stderr
    assert lines[errors[0] + 1].startswith("hint: ")
    assert hint in lines[errors[0] + 1]
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr


def test_every_verb_has_help_with_an_example() -> None:
    for name, text in verbs().items():
        assert f"example: swarm {name}" in " ".join(text.split())


def test_help_is_quick_because_it_imports_little() -> None:
    code = (
        "import sys; sys.argv = ['swarm', '--help']\n"
        "from swarm import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'git', 'libtmux', 'psutil', 'torch', 'optuna', 'filelock', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


def test_reading_verbs_do_not_load_git_or_tmux(run: Run, spawned: Path) -> None:
    for verb in ("status", "board"):
        code = (
            f"import sys; sys.argv = ['swarm', '{verb}']\n"
            "from swarm import cli\n"
            "cli.main()\n"
            "print(sorted({'git', 'libtmux', 'torch'} & set(sys.modules)), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", code], cwd=spawned, capture_output=True, text=True
        )
        assert done.stderr.strip() == "[]"


@pytest.fixture
def spawned(run: Run, repository: Path) -> Path:
    """A finished swarm of two experiments."""
    run("spawn", "--agents", "1", "--seconds", "1", "--max-experiments", "2", "--no-tmux",
        "--wait", "--tag", "t")  # fmt: skip
    return repository


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        (["--agents", "999"], 2, "999", "--oversubscribe"),
        (["--agents", "2", "--devices", "0,1"], 2, "GPU", ""),
        (["--agent", "chatty"], 2, "unknown agent 'chatty'", "known: tuner, cmd"),
        (["--agent", "tuner=3", "--agents", "1"], 2, "--agent names 3 agents, --agents is 1", ""),
        (["--agent", "cmd:"], 2, "cmd: needs a command", ""),
        (["--tag", "not/a/tag"], 2, "'not/a/tag' cannot be a tag", "--tag nov21"),
    ],
)
def test_bad_orders(
    run: Run, repository: Path, arguments: list[str], code: int, message: str, hint: str
) -> None:
    assert_error(run("spawn", *arguments, check=False), code, message, hint)
    assert not (repository / "leaderboard").exists() or not list(
        (repository / "leaderboard").glob("*/journal.jsonl")
    )


@pytest.mark.parametrize(
    "argument", ["--agents=0", "--seconds=-1", "--seconds=nan", "--frobnicate"]
)
def test_wrong_usage_exits_with_2(run: Run, argument: str) -> None:
    done = run("spawn", argument, check=False)
    assert_error(done, 2, argument.partition("=")[0], "--help")


def test_outside_a_repository(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "no repo"
    folder.mkdir()
    for verb in (["spawn"], ["status"], ["eval", "-m", "x"]):
        assert_error(run(*verb, cwd=folder, check=False), 1, "is not inside a git repository")


def test_a_repository_without_commit_or_trainer(tmp_path: Path, run: Run) -> None:
    root = tmp_path / "empty"
    root.mkdir()
    toy.git(root, "init", "--quiet")
    assert_error(run("spawn", cwd=root, check=False), 3, "has no commit yet", "git commit")
    (root / "README").write_text("hello")
    toy.git(root, "add", "README")
    toy.git(root, "commit", "--quiet", "-m", "start")
    assert_error(run("spawn", cwd=root, check=False), 3, "train.py is not in the last commit")
    assert not list((root / "leaderboard").glob("*/"))


def test_a_dirty_trainer_is_refused(run: Run, repository: Path) -> None:
    (repository / "train.py").write_text("# edited\n")
    done = run("spawn", check=False)
    assert_error(done, 3, "train.py has changes that are not committed", "git stash")
    assert (repository / "train.py").read_text() == "# edited\n"
    toy.git(repository, "checkout", "--quiet", "train.py")
    harness = repository / "swarm" / "harness" / "score.py"
    harness.parent.mkdir(parents=True)
    harness.write_text("# committed\n")
    toy.git(repository, "add", "-f", "swarm")
    toy.git(repository, "commit", "--quiet", "-m", "a harness")
    harness.write_text("# edited\n")
    done = run("spawn", check=False)
    assert_error(done, 3, "swarm/harness/score.py has changes that are not committed", "git stash")


def test_a_trainer_that_does_not_compile(run: Run, tmp_path: Path) -> None:
    root = toy.make_repository(tmp_path / "broken", train="def main(:\n")
    assert_error(run("spawn", cwd=root, check=False), 3, "train.py does not compile: line 1")


def test_data_that_cannot_be_prepared(run: Run, tmp_path: Path) -> None:
    prepare = "import sys\nprint('error: the disk is on fire', file=sys.stderr)\nsys.exit(1)\n"
    root = toy.make_repository(tmp_path / "no data", prepare=prepare)
    done = run("spawn", cwd=root, check=False)
    assert done.returncode == 1
    assert "error: the disk is on fire\nerror: prepare.py could not prepare the data" in done.stderr


def test_missing_tmux(run: Run, repository: Path, environment: dict[str, str]) -> None:
    """A PATH with git but no tmux: it says so and goes on in the background."""
    tools = repository.parent / "tools"
    tools.mkdir()
    for name in ("git", "env", "sh"):
        found = next(Path(p, name) for p in os.environ["PATH"].split(":") if Path(p, name).exists())
        (tools / name).symlink_to(found)
    environment["PATH"] = str(tools)
    done = toy.swarm(
        repository, "spawn", "--agents", "1", "--seconds", "1", "--max-experiments", "1", "--wait",
        environment=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tmux: not found, so workers run in the background" in done.stderr
    assert_error(
        toy.swarm(repository, "attach", environment=environment), 3, "no pane", "swarm log cpu0"
    )


def test_no_swarm_yet(run: Run, repository: Path) -> None:
    assert_error(run("status", check=False), 3, "there is no swarm in", "swarm spawn")
    assert_error(run("board", "--tag", "x", check=False), 3, "there is no swarm 'x'")


def test_names_that_do_not_exist(run: Run, spawned: Path) -> None:
    assert_error(run("show", "e99", check=False), 3, "there is no experiment 'e99'", "e2")
    assert_error(run("log", "gpu7", check=False), 3, "'gpu7' is no worker", "cpu0")
    assert_error(run("attach", "gpu7", check=False), 3, "there is no worker 'gpu7'")
    assert_error(run("board", "--device-class", "x", check=False), 3, "no device class 'x'")
    assert_error(run("eval", "-m", "x", check=False), 3, "this is not a worktree of a swarm")
    assert_error(run("pause", check=False), 3, "swarm 't' has finished")
    assert_error(run("recover", check=False), 3, "swarm 't' has finished", "spawn --tag t")


def test_a_damaged_journal_is_named_and_left_alone(run: Run, spawned: Path) -> None:
    path = spawned / "leaderboard" / "t" / "journal.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2][:-9]
    path.write_bytes(b"\n".join(lines))
    before = path.read_bytes()
    for verb in ("status", "board", "recover", "stop"):
        assert_error(run(verb, check=False), 1, f"{path}, line 3 is damaged", "backup")
    again = run("spawn", "--agents", "1", "--tag", "t", check=False)
    assert_error(again, 1, f"{path}, line 3 is damaged")
    assert path.read_bytes() == before


def test_the_documents(run: Run, spawned: Path) -> None:
    status = json.loads(run("status", "--json").stdout)
    assert status["tag"] == "t"
    assert status["state"] == "finished"
    worker = status["workers"][0]
    assert worker.keys() >= {
        "name", "device", "device_class", "agent", "state", "reason", "pid", "pane", "worktree",
        "branch", "experiments", "best_val_bpb", "duty_cycle",
    }  # fmt: skip
    assert (worker["name"], worker["state"], worker["experiments"]) == ("cpu0", "stopped", 2)
    assert status["spend"].keys() >= {"usd", "tokens", "device_hours"}
    assert status["incumbent"].keys() == {"experiment", "commit", "val_bpb", "replicates", "sd"}
    board = json.loads(run("board", "--json").stdout)
    known = board["device_classes"][0]
    assert known.keys() >= {"name", "sigma", "incumbent", "best", "experiments"}
    assert known["experiments"][0].keys() >= {
        "experiment", "worker", "agent", "parent", "commit", "description", "verdict",
        "confirmed", "reason", "val_bpb", "replicates", "sd", "num_steps", "tokens_per_second",
        "memory_gb", "seconds", "time",
    }  # fmt: skip
    scores = [each["val_bpb"] for each in known["experiments"]]
    assert scores == sorted(scores)
    assert len(json.loads(run("board", "--json", "--top", "1").stdout)["device_classes"][0][
        "experiments"]) == 1  # fmt: skip
    result = json.loads(run("result", "e1", "--json").stdout)
    assert result.keys() == {
        "experiment", "verdict", "reason", "val_bpb", "incumbent_val_bpb", "commit", "base"
    }  # fmt: skip
    shown = run("show", "e1").stdout
    assert "diff --git a/train.py b/train.py" in shown
    assert "seed 42" in shown
    assert "---" in run("log", "e1").stdout
    assert "\x1b[" not in run("board").stdout


def test_notes_and_what_they_do_to_a_terminal(run: Run, spawned: Path) -> None:
    run("note", "evil \x1b[31m red")
    Journal(spawned / "leaderboard/t/journal.jsonl").append(Note(worker="cpu0", text="from cpu0"))
    shown = run("notes").stdout
    assert "evil \\x1b[31m red" in shown
    assert "cpu0   from cpu0" in shown
    assert len(json.loads(run("notes", "--json").stdout)) == 2


def test_eval_by_hand(run: Run, repository: Path) -> None:
    """A person in a worktree: edits, submits, is refused, takes the base, pauses, resumes."""
    run("spawn", "--agents", "1", "--seconds", "1", "--tag", "h", "--no-tmux",
        "--agent", "cmd:sleep 1000")  # fmt: skip
    desk = repository / "worktrees" / "h" / "cpu0"
    assert_error(
        run("eval", "-m", "same", cwd=desk, check=False), 3, "does the same as its base e0"
    )
    train = desk / "train.py"
    original = train.read_text()
    train.write_text(original.replace("LR = 0.04", "LR = 0.3"))
    done = json.loads(run("eval", "-m", "LR up", "--json", cwd=desk).stdout)
    assert (done["experiment"], done["verdict"], done["commit"]) == ("e1", "keep", done["base"])
    assert done["val_bpb"] == done["incumbent_val_bpb"]
    assert json.loads(run("result", "--json", cwd=desk).stdout) == done
    train.write_text(original.replace("LR = 0.04", "LR = 0.30  # renamed"))
    assert_error(run("eval", "-m", "again", cwd=desk, check=False), 3, "same as its base e1")
    train.write_text(original)
    refused = run("eval", "-m", "back", cwd=desk, check=False)
    assert_error(refused, 3, "this was tried before as e0: keep with val_bpb", "swarm show e0")
    train.write_text(original + "# half an idea\n")
    assert_error(run("sync", cwd=desk, check=False), 3, "edits that were not submitted")
    assert train.read_text() == original + "# half an idea\n"
    toy.git(desk, "checkout", "--", "train.py")
    assert run("sync", cwd=desk).stderr == "now on e1\n"

    (desk / "prepare.py").write_text("cheat = 1\n")
    train.write_text(original.replace("LR = 0.04", "LR = 0.2"))
    assert_error(run("eval", "-m", "x", cwd=desk, check=False), 3, "only train.py may be changed")
    mailbox = Mailbox(desk)  # an agent that goes around the check in its own shell
    base = toy.git(desk, "rev-parse", "HEAD")
    request = mailbox.submit(base, "cheat", train.read_text())
    answer = wait_for(lambda: mailbox.read_answer(request))
    assert "only train.py may be changed, not prepare.py" in answer.reason  # type: ignore[attr-defined]
    toy.git(desk, "checkout", "--", "prepare.py")
    run("pause")
    queued = json.loads(run("eval", "-m", "LR 0.2", "--no-wait", "--json", cwd=desk).stdout)
    assert (queued["experiment"], queued["verdict"]) == ("e2", "candidate")
    train.write_text(original.replace("LR = 0.04", "LR = 0.1"))
    run("eval", "-m", "LR 0.1", "--no-wait", cwd=desk)
    train.write_text(original.replace("LR = 0.04", "LR = 0.05"))
    full = run("eval", "-m", "LR 0.05", "--no-wait", cwd=desk, check=False)
    assert_error(full, 3, "the queue is full: e2, e3", "swarm result")
    state = json.loads(run("status", "--json").stdout)["workers"][0]
    assert (state["state"], state["reason"]) == ("paused", "by swarm pause")
    run("resume")
    wait_for(lambda: json.loads(run("result", "e3", "--json").stdout)["verdict"] == "discard")
    assert train.read_text() == original.replace("LR = 0.04", "LR = 0.05"), "edits stay"
    train.write_text("raise ValueError('no')\n")
    crash = json.loads(run("eval", "-m", "crash", "--json", cwd=desk).stdout)
    assert (crash["verdict"], crash["reason"]) == ("crash", "exit code 1: ValueError: no")
    train.write_text("def main(:\n")
    assert_error(run("eval", "-m", "x", cwd=desk, check=False), 3, "does not compile: line 1")
    run("note", "LR 0.3 is good", cwd=desk)
    assert "cpu0   LR 0.3 is good" in run("notes").stdout
    run("stop", "--now")


def test_completion(run: Run, repository: Path) -> None:
    script = run("completion", "bash").stdout
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert "spawn" in script


def test_a_worktree_that_cannot_be_made_ends_the_swarm_again(run: Run, repository: Path) -> None:
    (repository / "worktrees" / "w").mkdir(parents=True)
    (repository / "worktrees" / "w" / "cpu0").write_text("in the way")
    done = run("spawn", "--agents", "1", "--tag", "w", "--no-tmux", check=False)
    assert_error(done, 1, "git worktree add: ", "swarm doctor")
    journal = repository / "leaderboard" / "w" / "journal.jsonl"
    wait_for(lambda: '"state":"stopped"' in journal.read_text())


def test_a_damaged_table_of_clis_is_no_concern_of_the_tuner(
    run: Run, repository: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    environment["HOME"] = str(tmp_path)
    table = tmp_path / ".config/swarm/clis.toml"
    table.parent.mkdir(parents=True)
    table.write_text("[claude\n")
    done = run("spawn", "--agents", "1", "--seconds", "1", "--max-experiments", "1", "--no-tmux",
               "--wait")  # fmt: skip
    assert f"others are not known: cannot read {table}" in done.stderr


def test_a_swarm_that_was_begun_without_panes_goes_on_without(run: Run, spawned: Path) -> None:
    done = run("spawn", "--tag", "t", "--max-experiments", "3", "--wait")
    assert "tmux: workers run in the background, as before" in done.stderr
    assert "limits: --max-experiments 3 (2 so far, which it counts)" in done.stderr
    board = Leaderboard(Journal(spawned / "leaderboard/t/journal.jsonl"))
    board.refresh()
    assert board.config is not None
    assert not board.config.tmux
