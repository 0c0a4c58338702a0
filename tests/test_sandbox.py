"""The parts of confinement: which places are granted, limits, memory, and honest work inside."""

from __future__ import annotations

import os
import platform
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from swarm import config, memory, sandbox
from swarm.errors import SwarmError
from swarm.job import Job
from swarm.meter import Meter, descendants, disk_use, memory_use
from swarm.sandbox import Sandbox, landlock, places, seccomp

IN_FORCE = sandbox.try_out()


def inside(
    folder: Path, program: str, given: dict[str, str], *hidden: Path
) -> subprocess.CompletedProcess[str]:
    """Run a program as a trial in `folder` would run."""
    folder.mkdir(exist_ok=True)
    ready = Sandbox.prepare(folder, folder, given, hidden)
    try:
        return subprocess.run(
            [sys.executable, "-I", "-c", program],
            cwd=folder,
            env=ready.environment,
            capture_output=True,
            text=True,
            timeout=60,
            preexec_fn=ready.enter,
        )
    finally:
        ready.close()


def test_a_tree_is_granted_around_what_is_hidden(tmp_path: Path) -> None:
    for name in ("a/b/secret", "a/b/open", "a/c", "d"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")

    def granted(tree: str, *hidden: str) -> list[str]:
        found = places._around(tmp_path / tree, [tmp_path / name for name in hidden])
        return sorted(str(path.relative_to(tmp_path)) for path in found)

    assert granted("a", "d") == ["a"]
    assert granted("", "a/b/secret") == ["a/b/open", "a/c", "d"]
    assert granted("a", "a/b/secret", "a/c") == ["a/b/open"]
    assert granted("a", "a") == []
    assert granted("a/b", "a") == ["a/b"]  # asked for by name
    assert granted("a", "a/b/secre") == ["a/b/open", "a/b/secret", "a/c"]


def test_what_the_environment_names_is_granted_but_not_the_home(tmp_path: Path) -> None:
    home, tools, data = (tmp_path / name for name in ("home", "home/tools", "data"))
    for folder in (tools, data):
        folder.mkdir(parents=True)
    for name in ("heldout.bin", "val.bin"):
        (data / name).write_text("x")
    (data / "another name").symlink_to("heldout.bin")
    (data / "folder").mkdir()
    given = {"HOME": str(home), "PATH": f"{home}:{tools}:relative", "SWARM_DATASET": str(data)}
    granted = {path for path, _ in places.grants(tmp_path / "t", tmp_path / "p", given, ())}
    assert {tools, data / "val.bin"} <= granted
    assert not {home, data, Path("relative"), Path("/")} & granted
    assert not {data / "heldout.bin", data / "another name", data / "folder"} & granted


def test_a_trial_has_a_home_of_its_own_and_caches_it_may_write(tmp_path: Path) -> None:
    given = {"HOME": "/h", "SWARM_CACHE": "/c", "CUDA_CACHE_PATH": "/own", "PATH": "/usr/bin"}
    found = places.environment(given, tmp_path)
    assert (found["HOME"], found["TMPDIR"]) == (str(tmp_path), str(tmp_path))
    assert (found["CUDA_CACHE_PATH"], found["PATH"]) == ("/own", "/usr/bin")
    assert found["MIOPEN_USER_DB_PATH"] == "/c/compile/miopen"
    assert "CUDA_CACHE_PATH" not in places.environment({}, tmp_path)


HONEST = """
import ctypes, multiprocessing, os, shutil, subprocess, tempfile, threading
def name_thread():
    with open(f"/proc/self/task/{threading.get_native_id()}/comm", "w") as file:
        file.write("worker")
    named.append(1)
named = []
for _ in range(2):
    thread = threading.Thread(target=name_thread)
    thread.start()
    thread.join()
assert len(named) == 2
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
source = tempfile.NamedTemporaryFile("w", suffix=".c", delete=False)
source.write("int answer(void) { return 42; }")
source.close()
cache = os.environ["SWARM_CACHE"] + "/compile/here"
os.makedirs(cache, exist_ok=True)
built = source.name + ".so"
subprocess.run(["cc", "-shared", "-fPIC", source.name, "-o", built], check=True)
os.replace(built, cache + "/kernel.so")  # from one folder to another, as Triton does
assert ctypes.CDLL(cache + "/kernel.so").answer() == 42
shutil.copy(source.name, "copy.c")
child = subprocess.Popen(["sleep", "9"])
child.terminate()
print("exit", child.wait(), "score", open("/proc/self/oom_score_adj").read())
"""


@pytest.mark.skipif(not all(IN_FORCE.values()), reason="nothing to be tested here")
@pytest.mark.skipif(not Path("/usr/bin/cc").exists(), reason="no C compiler")
def test_processes_compilers_and_caches_work_inside(tmp_path: Path) -> None:
    given = {"PATH": os.environ["PATH"], "SWARM_CACHE": str(tmp_path / "the cache")}
    done = inside(tmp_path / "trial's folder", HONEST, given)
    assert done.stdout.split() == ["exit", "-15", "score", "1000"], done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_limits_are_lowered_and_never_raised(tmp_path: Path) -> None:
    program = (
        "import resource as r; print([r.getrlimit(x) for x in (r.RLIMIT_CORE, r.RLIMIT_FSIZE)])"
    )
    size = 64 << 30
    assert inside(tmp_path / "t", program, {}).stdout.strip() == str([(0, 0), (size, size)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    smaller = 1 << 30
    if before[0] == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_FSIZE, (smaller, before[1]))
        try:
            found = inside(tmp_path / "t", program, {}).stdout.strip()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert found == str([(0, 0), (smaller, size)])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no filter here")
def test_the_filter_of_each_architecture_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        program = seccomp.program()
        assert program is not None
        steps = list(struct.iter_unpack("HBBI", program))
        for at, (code, if_true, if_false, _) in enumerate(steps):
            assert code in (0x20, 0x54, 0x06, 0x15, 0x35)
            assert at + 1 + max(if_true, if_false) < len(steps) or code == 0x06
        assert steps[-1] == (0x06, 0, 0, 0x7FFF0000)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert seccomp.program() is None


def test_an_old_landlock_is_asked_for_what_it_knows(tmp_path: Path) -> None:
    newest = landlock.abi()
    if newest < landlock.MIN_ABI:
        pytest.skip("no Landlock here")
    for version in range(1, newest + 1):
        os.close(landlock.ruleset([(tmp_path, landlock.WRITE)], version))


def test_a_broken_listing_of_packages_drops_no_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "packages"
    (packages / "there").mkdir(parents=True)
    (packages / "a.pth").symlink_to(tmp_path / "nowhere")
    (packages / "b.pth").mkdir()
    (packages / "c.pth").write_text("x\0y\n" + 5000 * "z" + "\nthere\n")
    monkeypatch.setattr(sandbox.places.site, "getsitepackages", lambda: [str(packages)])
    given = {"PATH": os.environ["PATH"], "LONG": "/" + 5000 * "x", "NUL": "/\udcff"}
    granted = {path for path, _ in places.grants(tmp_path / "t", tmp_path / "p", given, ())}
    assert {packages / "there", tmp_path / "t"} <= granted
    if IN_FORCE["files"]:
        program = f"open({str(tmp_path / 'outside')!r}, 'w')"
        assert "PermissionError" in inside(tmp_path / "t", program, given).stderr
        assert not (tmp_path / "outside").exists()


@pytest.mark.skipif(landlock.abi() < landlock.MIN_ABI, reason="no Landlock here")
def test_a_place_that_cannot_be_granted_leaves_the_others(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    places_ = [(Path(f"/proc/self/fd/{reader}"), landlock.READ), (tmp_path, landlock.WRITE)]
    for file in (landlock.ruleset(places_, landlock.abi()), reader, writer):
        os.close(file)


def job(folder: Path, **more: object) -> Job:
    folder.mkdir()
    (folder / "train.py").write_text("print('it ran')")
    return Job(
        trial="t1", folder=str(folder), evaluator=str(folder), python=sys.executable, seconds=1.0,
        timeout=20.0, environment={"PATH": os.environ["PATH"]}, **more,  # type: ignore[arg-type]
    )  # fmt: skip


# Landlock allows 16 rulesets on top of each other: within as many, a trial's cannot be entered.
NESTED = """
import sys
from pathlib import Path
import msgspec
from swarm import trial
from swarm.job import Job
from swarm.sandbox import landlock, limits
limits.forbid_new_privileges()
for _ in range(16):
    landlock.restrict(landlock.ruleset([(Path("/"), landlock.WRITE)], landlock.abi()))
result = trial.run(msgspec.json.decode(sys.argv[1], type=Job), 0)
print(result.outcome, result.reason)
"""


@pytest.mark.skipif(landlock.abi() < landlock.MIN_ABI, reason="no Landlock here")
@pytest.mark.parametrize("confine", [True, False])
def test_a_trial_that_cannot_be_confined_does_not_start(tmp_path: Path, confine: bool) -> None:
    given = msgspec.json.encode(job(tmp_path / "t", confine=confine)).decode()
    lifeline, other_end = os.pipe()
    done = subprocess.run(
        [sys.executable, "-c", NESTED, given], stdin=lifeline, capture_output=True, text=True
    )
    os.close(lifeline)
    os.close(other_end)
    ran = "it ran" in (tmp_path / "t" / "run.log").read_text()
    assert ran is not confine, done.stderr
    if confine:
        assert done.stdout.startswith("interrupted not started: the trial cannot be confined")


def test_rules_that_cannot_be_made_are_an_error(tmp_path: Path) -> None:
    if landlock.abi() < landlock.MIN_ABI:
        pytest.skip("no Landlock here")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    (tmp_path / "tmp").mkdir()
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(SwarmError, match=r"cannot be confined: .*Too many open files"):
            Sandbox.prepare(tmp_path, tmp_path, {}, ())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_memory_of_a_container_counts(tmp_path: Path) -> None:
    whole = memory.available(tmp_path)  # no cgroup there
    assert whole > 1 << 30

    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    write("proc/self/cgroup", "4:cpu,memory:/a\n2:pids:/p\n0::/user/me\n")
    write("sys/fs/cgroup/user/me/memory.max", "max\n")
    write("sys/fs/cgroup/user/memory.max", "3000000000\n")
    assert memory.available(tmp_path) == min(whole, 3_000_000_000)
    write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "2500000000\n")
    assert memory.available(tmp_path) == min(whole, 2_500_000_000)
    assert memory.share(1, tmp_path) == 2_250_000_000
    assert memory.share(2, tmp_path) == 1_125_000_000
    assert memory.share(50, tmp_path) == 1 << 30


def test_the_meter_counts_files_and_all_descendants(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(os.urandom(100_000))
    (tmp_path / "loop").symlink_to(tmp_path)
    used, files = disk_use(tmp_path)
    assert 100_000 <= used < 200_000
    assert files == 4
    if sys.platform == "linux":
        child = subprocess.Popen(["sh", "-c", "sleep 9 & echo ready; wait"], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        family = list(descendants(os.getpid(), 100))
        assert child.pid in family
        assert len(family) >= 2
        assert len(list(descendants(os.getpid(), 1))) == 1
        for process in descendants(child.pid, 100):
            os.kill(process, signal.SIGKILL)
        child.wait()
        child.stdout.close()


def test_the_meter_works_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "9"])
    monkeypatch.setattr(sys, "platform", "darwin")
    try:
        assert child.pid in list(descendants(os.getpid(), 100))
        assert memory_use([child.pid], 0) > 50_000
        assert "share of this machine" in str(Meter(tmp_path, 50_000, 1 << 40, 99).excess())
    finally:
        child.kill()
        child.wait()
    assert memory_use([child.pid], 0) == 0


def test_confinement_can_be_switched_off() -> None:
    assert config.wants_confinement({})
    assert config.wants_confinement({"SWARM_CONFINE": "on"})
    assert not config.wants_confinement({"SWARM_CONFINE": "off"})
