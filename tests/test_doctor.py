"""The doctor looks at real folders and real executables, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from swarm.doctor import Check, _torch_build, examine
from swarm.filesystem import filesystem_type, network_filesystem

NAMES = [
    "python",
    "git",
    "tmux",
    "torch",
    "devices",
    "confinement",
    "repository",
    "filesystem",
    "cache",
    "cache filesystem",
    "datasets",
    "agent CLIs",
    "API keys",
]

Fake = Callable[[str, str], None]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / 'a\'; echo "foo"'
    (folder / "bin").mkdir(parents=True)
    return folder


@pytest.fixture
def environ(place: Path) -> dict[str, str]:
    """Nothing is on this PATH but what a test puts there."""
    here = {"HOME": str(place / "home"), "SWARM_CACHE": str(place / "cache")}
    return {"PATH": str(place / "bin"), **here}


@pytest.fixture
def fake(place: Path) -> Fake:
    def write(name: str, script: str) -> None:
        path = place / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return write


def check(name: str, root: Path | None, environ: dict[str, str]) -> Check:
    (found,) = [check for check in examine(root, environ) if check.name == name]
    return found


def test_a_bare_machine_says_what_is_missing_and_how_to_get_it(environ: dict[str, str]) -> None:
    checks = examine(None, environ)
    assert [check.name for check in checks] == NAMES
    missing = {check.name: check.ok for check in checks if not check.ok}
    assert missing.pop("torch", False) is False
    assert missing == {
        "git": False,
        "tmux": None,
        "devices": None,
        "repository": False,
        "datasets": None,
        "agent CLIs": None,
        "API keys": None,
    }
    assert all(check.hint for check in checks if not check.ok)
    assert not Path(environ["SWARM_CACHE"]).exists()


def test_tools_are_asked_for_their_version(environ: dict[str, str], fake: Fake) -> None:
    fake("git", "echo git version 2.39.5")
    fake("tmux", '[ "$*" = -V ] && echo tmux 3.3a')
    assert check("git", None, environ) == Check("git", True, "2.39.5")
    assert check("tmux", None, environ) == Check("tmux", True, "3.3a")
    fake("git", "exit 127")
    assert check("git", None, environ).ok is False
    assert "127" in check("git", None, environ).found


def test_gpus_are_listed_and_want_a_torch_that_can_use_them(
    environ: dict[str, str], fake: Fake
) -> None:
    fake("nvidia-smi", "echo '0, GPU-1, NVIDIA H200'; echo '1, GPU-2, NVIDIA H200'")
    assert check("devices", None, environ) == Check(
        "devices", True, "gpu0 NVIDIA H200, gpu1 NVIDIA H200"
    )
    torch = check("torch", None, environ)
    assert torch.ok is ("CPU only" not in torch.found and "not installed" not in torch.found)
    fake("nvidia-smi", "exit 9")
    broken = check("devices", None, environ)
    assert broken.ok is False
    assert "exit code 9" in broken.found
    assert "--devices cpu" in broken.hint


@pytest.mark.parametrize(
    ("version", "requirements", "build"),
    [
        ("2.13.0+cpu", [], "CPU only"),
        ("2.13.0+cu128", [], "CUDA"),
        ("2.13.0+rocm6.4", [], "ROCm"),
        ("2.13.0+xpu", [], "XPU"),
        ("2.13.0", ["filelock", "nvidia-cublas-cu12==12.8; sys_platform == 'linux'"], "CUDA"),
        ("2.13.0", ["filelock"], "CPU only"),
        ("2.9.0a0+50eac811a6.nv25.09", ["filelock"], "build 50eac811a6.nv25.09"),
    ],
)
def test_the_build_of_torch(version: str, requirements: list[str], build: str) -> None:
    assert _torch_build(version, requirements) == build


def test_a_mac_needs_no_other_build_of_torch(
    environ: dict[str, str], fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    fake("sysctl", "echo Apple M3 Max")
    assert check("devices", None, environ) == Check("devices", True, "gpu0 Apple M3 Max")
    assert check("torch", None, environ).ok is True


def test_the_repository_needs_its_two_files(place: Path, environ: dict[str, str]) -> None:
    (place / "train.py").write_text("")
    half = check("repository", place, environ)
    assert (half.ok, half.found) == (False, f"{place} has no prepare.py")
    (place / "prepare.py").write_text("")
    assert check("repository", place, environ) == Check("repository", True, str(place))


def test_a_cache_that_cannot_be_written_is_in_the_way(place: Path, environ: dict[str, str]) -> None:
    assert check("cache", None, environ).ok is not False
    (place / "cache").write_text("a file")
    assert check("cache", None, environ).ok is False
    assert "SWARM_CACHE" in check("cache", None, environ).hint


def test_datasets_are_listed_and_a_damaged_one_is_named(
    place: Path, environ: dict[str, str]
) -> None:
    dataset = place / "cache" / "datasets" / "builtin-small"
    dataset.mkdir(parents=True)
    meta = {"scale": "small", "source": "builtin", "fingerprint": "9024ec74aaaabbbb", "rows": {}}
    meta["files"] = {"val.bin": {"bytes": 3, "sha256": "…"}}
    (dataset / "meta.json").write_text(json.dumps(meta))
    (dataset / "val.bin").write_bytes(b"123")
    assert check("datasets", None, environ) == Check("datasets", True, "builtin (small, 9024ec74)")
    (dataset / "val.bin").write_bytes(b"12")
    torn = check("datasets", None, environ)
    assert torn.ok is False
    assert str(dataset) in torn.found
    (dataset / "meta.json").write_text("{")
    assert check("datasets", None, environ).ok is False


def test_agents_and_keys_are_found_and_a_key_is_never_shown(
    environ: dict[str, str], fake: Fake
) -> None:
    fake("codex", "true")
    fake("claude", "true")
    keys = {**environ, "ANTHROPIC_API_KEY": "s3cr3t", "OPENAI_API_KEY": ""}
    assert check("agent CLIs", None, keys) == Check("agent CLIs", True, "claude, codex")
    assert check("API keys", None, keys) == Check(
        "API keys", True, "ANTHROPIC_API_KEY (environment)"
    )
    assert "s3cr3t" not in repr(examine(None, keys))


def test_a_keys_file_is_named_and_one_that_others_may_read_is_in_the_way(
    place: Path, environ: dict[str, str]
) -> None:
    file = place / "home" / ".config" / "swarm" / "keys"
    assert str(file) in check("API keys", None, environ).hint
    file.parent.mkdir(parents=True)
    file.write_text("OPENAI_API_KEY=s3cr3t-one\nANTHROPIC_API_KEY=s3cr3t-two\n")
    file.chmod(0o640)
    readable = check("API keys", None, environ)
    assert (readable.ok, readable.hint) == (False, f"chmod 600 {file}")
    assert str(file) in readable.found
    file.chmod(0o600)
    both = environ | {"ANTHROPIC_API_KEY": "s3cr3t-three"}
    assert check("API keys", None, both) == Check(
        "API keys", True, f"ANTHROPIC_API_KEY (environment), OPENAI_API_KEY ({file})"
    )
    assert "s3cr3t" not in repr(examine(None, both))


def test_the_deepest_mount_counts_and_of_equals_the_last() -> None:
    mounts = [
        ("/", "ext4"),
        ("/home", "nfs4"),
        ("/home/a b/scratch", "xfs"),
        ("/home/a", "lustre"),
        ("/mnt", "ext4"),
        ("/mnt", "fuse.sshfs"),
    ]

    def kind(path: str) -> str:
        return filesystem_type(Path(path), mounts)

    assert kind("/tmp/x") == "ext4"
    assert kind("/home/a b/repo") == "nfs4"
    assert kind("/home/a b/scratch/repo") == "xfs"
    assert kind("/home/a/repo") == "lustre"
    assert kind("/mnt") == "fuse.sshfs"
    assert filesystem_type(Path("/x"), []) == ""


def test_this_disk_is_local_wherever_a_link_to_it_lies(place: Path) -> None:
    (place / "link").symlink_to(place / "bin")
    assert network_filesystem(place / "link" / "not" / "yet") is None
    assert network_filesystem(Path("/proc/self")) is None
