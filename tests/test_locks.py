"""Locks between real processes: who may train, who is alive, and what a kill leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swarm.errors import Refused, SwarmError
from swarm.locks import DeviceLock, ProcessLock, is_held
from swarm.records import Device

GPU = Device(name="gpu0", kind="cuda", id="GPU-1", model="NVIDIA H200", locks=("GPU-1",))
WIDE = Device(name="cpu0", kind="cpu", id="0,1", model="CPU x2", locks=("cpu-1", "cpu-0"))
SHARED = Device(name="cpu1", kind="cpu", id="0", model="CPU x1", locks=("cpu-0",), exclusive=False)
HOLD_DEVICE = """
import sys, time
from pathlib import Path
from swarm.locks import DeviceLock
from swarm.records import Device
device = Device(name="d", kind="cpu", id="", model="", locks=tuple(sys.argv[2].split(",")))
lock = DeviceLock(Path(sys.argv[1]), device)
lock.acquire(0, "gpu0 of swarm 'nov21', trial t7")
"""
HOLD_PROCESS = """
import sys, time
from pathlib import Path
from swarm.locks import ProcessLock
lock = ProcessLock(Path(sys.argv[1]))
assert lock.try_acquire()
"""
WAIT = "print('locked', flush=True); time.sleep(600)"
HAND_OVER = """
import subprocess
child = subprocess.Popen(["sleep", "600"], pass_fds=lock.filenos, stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / 'a\'; echo "foo" $x' / "locks"


@pytest.fixture
def start() -> Iterator[Start]:
    """Run a Python script in a process of its own, which is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def run(script: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, *map(str, arguments)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_processes_cannot_train_on_one_device(folder: Path, start: Start) -> None:
    other = start(HOLD_DEVICE + WAIT, folder, "GPU-1")
    assert line(other) == "locked"
    lock = DeviceLock(folder, GPU)
    with pytest.raises(Refused) as refusal:
        lock.acquire(0, "me")
    assert str(refusal.value) == (
        "device gpu0 (NVIDIA H200) is already training: "
        f"pid {other.pid}, gpu0 of swarm 'nov21', trial t7"
    )
    assert refusal.value.hint
    assert lock.filenos == ()


def test_a_lock_dies_with_its_process(folder: Path, start: Start) -> None:
    other = start(HOLD_DEVICE + WAIT, folder, "GPU-1")
    assert line(other) == "locked"
    other.send_signal(signal.SIGKILL)
    other.wait()
    lock = DeviceLock(folder, GPU)
    lock.acquire(0, "me")
    assert (folder / "GPU-1.lock").read_text() == f"pid {os.getpid()}, me\n"
    lock.release()


def test_who_inherited_the_files_holds_on_after_their_opener_is_killed(
    folder: Path, start: Start
) -> None:
    runner = start(HOLD_DEVICE + HAND_OVER + WAIT, folder, "GPU-1")
    watchdog = int(line(runner))
    try:
        runner.send_signal(signal.SIGKILL)
        runner.wait()
        with pytest.raises(Refused):
            DeviceLock(folder, GPU).acquire(0, "me")
    finally:
        os.kill(watchdog, signal.SIGKILL)
    lock = DeviceLock(folder, GPU)
    lock.acquire(5, "me")
    lock.release()


def test_releasing_does_not_take_the_lock_from_who_inherited_it(folder: Path) -> None:
    lock = DeviceLock(folder, GPU)
    lock.acquire(0, "me")
    watchdog = subprocess.Popen(["sleep", "600"], pass_fds=lock.filenos)
    try:
        lock.release()
        with pytest.raises(Refused):
            DeviceLock(folder, GPU).acquire(0, "again")
    finally:
        watchdog.kill()
        watchdog.wait()
    lock.acquire(0, "again")
    lock.release()


def test_children_do_not_hold_the_lock_unasked(folder: Path) -> None:
    lock = DeviceLock(folder, GPU)
    lock.acquire(0, "me")
    child = subprocess.Popen(["sleep", "600"], close_fds=False)
    try:
        lock.release()
        DeviceLock(folder, GPU).acquire(0, "again")
    finally:
        child.kill()
        child.wait()


def test_a_refused_device_leaves_no_part_of_it_locked(folder: Path, start: Start) -> None:
    other = start(HOLD_DEVICE + WAIT, folder, "cpu-1")
    assert line(other) == "locked"
    with pytest.raises(Refused):
        DeviceLock(folder, WIDE).acquire(0, "me")
    assert not is_held(folder / "cpu-0.lock")
    assert is_held(folder / "cpu-1.lock")


def test_waiting_ends_when_the_device_is_free(folder: Path) -> None:
    first, second = DeviceLock(folder, GPU), DeviceLock(folder, GPU)
    first.acquire(0, "first")
    timer = threading.Timer(0.2, first.release)
    timer.start()
    second.acquire(10, "second")
    timer.join()
    assert first.filenos == ()
    with pytest.raises(Refused, match="second"):
        first.acquire(0, "first")
    second.release()


def test_oversubscribed_workers_share_and_exclude_a_lone_training(folder: Path) -> None:
    one, two = DeviceLock(folder, SHARED), DeviceLock(folder, SHARED)
    folder.mkdir(parents=True)
    (folder / "cpu-0.lock").write_text("pid 1, long gone\n")
    one.acquire(0, "one")
    two.acquire(0, "two")
    lone = DeviceLock(folder, WIDE)
    with pytest.raises(Refused) as refusal:
        lone.acquire(0, "lone")
    assert "long gone" not in str(refusal.value)
    one.release()
    two.release()
    lone.acquire(0, "lone")
    with pytest.raises(Refused, match="lone"):
        one.acquire(0, "one")
    lone.release()


def test_a_folder_that_cannot_be_made_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SwarmError, match="cannot lock") as error:
        DeviceLock(tmp_path / "file" / "locks", GPU).acquire(0, "me")
    assert "SWARM_CACHE" in error.value.hint


def test_a_process_is_alive_while_it_holds_its_lock(folder: Path, start: Start) -> None:
    path = folder / "gpu0.lock"
    assert not is_held(path)
    folder.mkdir(parents=True)
    assert not is_held(path)
    assert not path.exists()
    other = start(HOLD_PROCESS + WAIT, path)
    assert line(other) == "locked"
    assert is_held(path)
    mine = ProcessLock(path)
    assert not mine.try_acquire()
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert not is_held(path)
    assert mine.try_acquire()
    assert mine.try_acquire()
    assert is_held(path)
    mine.release()
    assert not is_held(path)


def test_asking_never_keeps_a_process_from_its_lock(folder: Path) -> None:
    path = folder / "gpu0.lock"
    lock, done = ProcessLock(path), threading.Event()

    def ask() -> None:
        while not done.is_set():
            is_held(path)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert lock.try_acquire()
            lock.release()
    finally:
        done.set()
        for asker in askers:
            asker.join()


IN_A_SWARM = """
import os, time
from swarm import config, devices
from swarm.locks import DeviceLock
(gpu,) = devices.discover(os.environ)
lock = DeviceLock(config.cache_folder(os.environ) / "locks", gpu)
try:
    lock.acquire(0, "gpu0 of swarm 'nov21', trial t7")
except Exception as error:
    print(error, flush=True)
else:
    print("locked", flush=True)
    time.sleep(600)
"""
BY_HAND = """
import dataclasses, sys, time
import prepare
device = dataclasses.replace(prepare.pick_device(), lock_keys=(f"GPU-{sys.argv[1]}",))
try:
    held = prepare.lock_device(device)
except prepare.PrepareError as error:
    print(error, flush=True)
else:
    print("locked", flush=True)
    time.sleep(600)
"""


def test_swarms_of_two_repositories_and_a_training_by_hand_exclude_each_other(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is the device's, by its UUID, whoever trains there and from wherever."""
    uuid = "0a0a0a0a-1111-2222-3333-444444444444"  # as torch has it; nvidia-smi puts GPU- before
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho '0, GPU-{uuid}, NVIDIA H200'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "the cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    here, there = tmp_path / "one repo", tmp_path / "another repo"
    for folder in (here, there):
        folder.mkdir()

    monkeypatch.chdir(here)
    first = start(IN_A_SWARM)
    assert line(first) == "locked"
    monkeypatch.chdir(there)
    told = f"pid {first.pid}, gpu0 of swarm 'nov21', trial t7"
    assert line(start(IN_A_SWARM)).endswith(f"is already training: {told}")
    assert line(start(BY_HAND, uuid)).endswith(f"is already training: {told}")

    first.send_signal(signal.SIGKILL)
    first.wait()
    by_hand = start(BY_HAND, uuid)
    assert line(by_hand) == "locked"
    monkeypatch.chdir(here)
    assert line(start(IN_A_SWARM)).endswith(f"pid {by_hand.pid} in {there}")
