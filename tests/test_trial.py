"""The watchdog: every ending gets the right outcome, and nothing outlives a trial."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import msgspec.structs
import psutil
import pytest
import toy
from conftest import processes_of, wait_for

from swarm.launchers.local import LocalHandle, LocalLauncher
from swarm.logfile import CappedLog
from swarm.records import TrialFinished
from swarm.strays import kill_trial
from swarm.summary import parse
from swarm.trial import Job

PRINTED = ("---", "val_bpb: 0.900000", "training_seconds: 1.0", "num_steps: 7")
SUMMARY = "; ".join(f"print({line!r})" for line in PRINTED)
GOOD = f"import prepare; prepare.evaluate_bpb(0.9); {SUMMARY}"

Submit = Callable[..., LocalHandle]


@pytest.fixture
def launcher() -> LocalLauncher:
    return LocalLauncher()


@pytest.fixture
def submit(tmp_path: Path, launcher: LocalLauncher) -> Submit:
    """Run a train.py as a trial, in a folder whose name needs quoting."""
    evaluator = tmp_path / "pristine"
    evaluator.mkdir()
    (evaluator / "prepare.py").write_text(toy.PREPARE)
    folder = tmp_path / "trial's; echo folder"
    folder.mkdir()

    def call(source: str, timeout: float = 30.0, seconds: float = 1.0) -> LocalHandle:
        (folder / "train.py").write_text(source)
        return launcher.submit(
            Job(
                trial="t1",
                folder=str(folder),
                evaluator=str(evaluator),
                python=sys.executable,
                seconds=seconds,
                timeout=timeout,
                environment={"PATH": os.environ["PATH"], "SWARM_SEED": "1"},
            )
        )

    return call


def finish(launcher: LocalLauncher, handle: LocalHandle) -> TrialFinished:
    return wait_for(lambda: launcher.poll(handle), every=0.01)  # type: ignore[return-value]


def log_of(handle: LocalHandle) -> str:
    return (Path(handle.job.folder) / "run.log").read_text()


def alive(handle: LocalHandle) -> list[psutil.Process]:
    return processes_of(str(Path(handle.job.folder) / "attested.json"))


def assert_no_orphan(handle: LocalHandle) -> None:
    assert alive(handle) == []


def test_a_good_trial(submit: Submit, launcher: LocalLauncher) -> None:
    handle = submit(GOOD)
    result = finish(launcher, handle)
    assert (result.outcome, result.val_bpb, result.exit_code) == ("ok", 0.9, 0)
    assert result.metrics.num_steps == 7
    assert "val_bpb: 0.900000" in log_of(handle)


@pytest.mark.parametrize(
    ("source", "outcome", "reason"),
    [
        ("raise RuntimeError('no memory')", "crash", "exit code 1: RuntimeError: no memory"),
        (f"{GOOD}; raise SystemExit(7)", "crash", "exit code 7"),
        (
            "raise OSError(28, 'No space left on device')",
            "crash",
            "exit code 1: OSError: [Errno 28]",
        ),
        ("print('hello')", "crash", "ended without a summary: hello"),
        (SUMMARY, "rejected", "that prepare.evaluate_bpb did not measure"),
        (GOOD.replace("0.900000", "0.800000"), "rejected", "printed val_bpb 0.800000, measured"),
        (GOOD.replace("(0.9)", "(-1.0)"), "rejected", "val_bpb -1 is no plausible score"),
        (GOOD.replace("0.900000", "nan"), "crash", "ended without a summary"),
        (GOOD.replace("seconds: 1.0", "seconds: 99"), "rejected", "trained 99 s of a budget"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crash", "exit code -11"),
    ],
)
def test_bad_endings(
    submit: Submit, launcher: LocalLauncher, source: str, outcome: str, reason: str
) -> None:
    result = finish(launcher, submit(source))
    assert result.outcome == outcome
    assert reason in result.reason
    assert result.val_bpb is None


@pytest.mark.parametrize("absurd", ["1e308", "-5", "nan", "9" * 400, "10**9"])
def test_absurd_numbers_do_no_harm(submit: Submit, launcher: LocalLauncher, absurd: str) -> None:
    source = GOOD.replace("num_steps: 7", f"num_steps: {absurd}")
    result = finish(launcher, submit(source))
    assert result.outcome == "ok" and result.metrics.num_steps is None
    again = GOOD.replace("0.9)", "1e6)").replace("0.900000", "1e6")
    result = finish(launcher, submit(again))
    assert (result.outcome, result.val_bpb) == ("rejected", None)
    assert "no plausible score" in result.reason


def test_a_hang_that_ignores_sigterm_times_out(submit: Submit, launcher: LocalLauncher) -> None:
    source = "import signal, time; signal.signal(15, signal.SIG_IGN); print('hm', flush=True)\n"
    handle = submit(source + "while True: time.sleep(1)", timeout=0.7)
    result = finish(launcher, handle)
    assert result.outcome == "timeout"
    assert "no result after 1 s; last line: hm" in result.reason
    assert_no_orphan(handle)


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(0)
time.sleep(0.2)
"""


@pytest.mark.parametrize("ending", ["", "time.sleep(1000)", "os._exit(3)"])
def test_a_daemon_does_not_outlive_its_trial(
    submit: Submit, launcher: LocalLauncher, ending: str
) -> None:
    handle = submit(DAEMON + ending, timeout=1.5)
    assert finish(launcher, handle).outcome in ("crash", "timeout")
    assert_no_orphan(handle)


def test_a_flood_of_output_is_capped(submit: Submit, launcher: LocalLauncher) -> None:
    handle = submit(f"for i in range(300000): print('x' * 60)\n{GOOD}")
    result = finish(launcher, handle)
    assert result.outcome == "ok"
    size = (Path(handle.job.folder) / "run.log").stat().st_size
    assert size < 5 << 20
    assert "bytes cut" in log_of(handle)
    assert log_of(handle).endswith("num_steps: 7\n")


def test_a_trial_sees_only_the_environment_it_was_given(
    submit: Submit, launcher: LocalLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-123")
    handle = submit("import os; print(sorted(os.environ))")
    finish(launcher, handle)
    assert "SOME_API_KEY" not in log_of(handle)
    assert "SWARM_SEED" in log_of(handle)


def test_cancelling_ends_it_as_interrupted(submit: Submit, launcher: LocalLauncher) -> None:
    handle = submit(DAEMON + "time.sleep(1000)")
    wait_for(lambda: len(alive(handle)) >= 2)
    launcher.cancel(handle)
    assert finish(launcher, handle).outcome == "interrupted"
    assert_no_orphan(handle)


def test_a_killed_watchdog_takes_its_trial_along(submit: Submit, launcher: LocalLauncher) -> None:
    handle = submit(DAEMON + "time.sleep(1000)")
    wait_for(lambda: len(alive(handle)) >= 2)
    time.sleep(0.4)
    os.kill(handle.watchdog.pid, signal.SIGKILL)
    result = finish(launcher, handle)
    assert result.outcome == "interrupted"
    wait_for(lambda: len(alive(handle)) == 1)  # the daemon; train.py dies by itself
    assert kill_trial(Path(handle.job.folder)) == 1
    assert_no_orphan(handle)


RUNNER = """
import sys, time
from pathlib import Path
import msgspec
from swarm.launchers.local import LocalLauncher
from swarm.trial import Job
LocalLauncher().submit(msgspec.json.decode(sys.argv[1], type=Job))
print("started", flush=True)
time.sleep(1000)
"""


def test_a_trial_ends_when_its_runner_is_killed(submit: Submit, launcher: LocalLauncher) -> None:
    handle = submit(DAEMON + "time.sleep(1000)")
    job = handle.job
    launcher.cancel(handle)
    finish(launcher, handle)
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, msgspec.json.encode(job).decode()], stdout=subprocess.PIPE
    )
    wait_for(lambda: len(alive(handle)) >= 2)
    runner.kill()
    runner.wait()
    assert runner.stdout is not None
    runner.stdout.close()
    wait_for(lambda: not alive(handle))


def test_the_cores_are_pinned(tmp_path: Path, submit: Submit, launcher: LocalLauncher) -> None:
    handle = submit("import os; print('cores', sorted(os.sched_getaffinity(0)))")
    finish(launcher, handle)
    core = min(psutil.Process().cpu_affinity() or [0])
    job = msgspec.structs.replace(handle.job, cores=(core,))
    pinned = launcher.submit(job)
    finish(launcher, pinned)
    assert f"cores [{core}]" in log_of(pinned)


def test_capped_log_keeps_head_and_tail(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with CappedLog(path, head=10, tail=6) as log:
        for chunk in (b"0123456", b"789abc", b"defghi"):
            log.write(chunk)
        assert log.tail() == "defghi"
    assert path.read_bytes() == b"0123456789\n[... 3 bytes cut ...]\ndefghi"


def test_the_last_summary_counts() -> None:
    assert parse("---\nval_bpb: 1\n---\nval_bpb: 2\nmfu_percent: unknown\n") == {
        "val_bpb": "2",
        "mfu_percent": "unknown",
    }
    assert parse("val_bpb: 1\n") == {}
