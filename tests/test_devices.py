"""Devices: what vendors' tools say (real executables on a PATH), masks, shares, names."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from swarm import config, cores, devices
from swarm.errors import SwarmError, UsageError
from swarm.harness import probes
from swarm.records import Device

UUIDS = [f"GPU-{digit * 8}-1111-2222-3333-444444444444" for digit in "0a1b"]
H100 = "NVIDIA H100 80GB HBM3"
ROCM = {
    "card0": {"Card series": "AMD Instinct MI300X", "Card model": "0x74a1", "Unique ID": "0x1a2b"},
    "card1": {"Card Series": "N/A", "Device Name": "AMD Instinct MI210", "Unique ID": "N/A"},
    "system": {"Driver version": "6.10.5"},
}
AMD_ID = "GPU-0000000000001a2b"
MAX = "Intel(R) Data Center GPU Max 1550"
CORES = sorted(cores.available())

Fake = Callable[[str, str], None]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A PATH with the usual tools, and in front a folder for fake ones; no variable of our own."""
    folder = tmp_path / 'a\'; echo "foo" bin'
    folder.mkdir()
    return {"PATH": f"{folder}:/usr/bin:/bin"}


@pytest.fixture
def fake(environ: dict[str, str]) -> Fake:
    def write(name: str, script: str) -> None:
        path = Path(environ["PATH"].split(":")[0]) / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return write


@pytest.fixture
def four_gpus(fake: Fake) -> None:
    table = "\n".join(f"{i}, {uuid}, {H100}" for i, uuid in enumerate(UUIDS))
    expected = "--query-gpu=index,uuid,name --format=csv,noheader"
    fake("nvidia-smi", f'[ "$*" = {expected!r} ] || exit 2\necho {shlex.quote(table)}')


def names(found: list[Device]) -> list[str]:
    return [device.name for device in found]


def test_without_a_vendor_tool_there_are_no_gpus(environ: dict[str, str]) -> None:
    assert devices.discover(environ) == []


@pytest.mark.usefixtures("four_gpus")
def test_nvidia_gpus_are_named_pinned_and_locked_by_uuid(environ: dict[str, str]) -> None:
    found = devices.discover(environ)
    assert names(found) == ["gpu0", "gpu1", "gpu2", "gpu3"]
    assert [device.id for device in found] == UUIDS
    assert [device.locks for device in found] == [(uuid,) for uuid in UUIDS]
    assert {(device.kind, device.model, device.exclusive) for device in found} == {
        ("cuda", H100, True)
    }
    assert all(len(device.cores) == max(1, len(CORES) // 4) for device in found)
    assert devices.environment(found[1]) == {
        "CUDA_VISIBLE_DEVICES": UUIDS[1],
        "SWARM_DEVICE": "cuda",
    }


def test_a_single_gpu_may_use_all_cores(environ: dict[str, str], fake: Fake) -> None:
    fake("nvidia-smi", f"echo '0, {UUIDS[0]}, NVIDIA H200'; echo 'WARNING: infoROM is corrupted'")
    (gpu,) = devices.discover(environ)
    assert (gpu.model, gpu.cores) == ("NVIDIA H200", ())


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("2", ["gpu2"]),
        ("3,1", ["gpu1", "gpu3"]),
        (f"{UUIDS[3]}, {UUIDS[0]}", ["gpu0", "gpu3"]),
        ("GPU-aaaa", ["gpu1"]),
        ("gpu-AAAA", ["gpu1"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,-1,2", ["gpu1"]),
        ("0,7,1", ["gpu0"]),
        ("1,1,2", ["gpu1"]),
        ("GPU-,0", []),
        ("nonsense", []),
    ],
)
def test_masks_mean_what_they_mean_to_cuda(
    environ: dict[str, str], mask: str, expected: list[str]
) -> None:
    assert names(devices.discover({**environ, "CUDA_VISIBLE_DEVICES": mask})) == expected


@pytest.mark.usefixtures("four_gpus")
def test_a_mig_slice_is_refused_by_name(environ: dict[str, str]) -> None:
    with pytest.raises(SwarmError, match="part of a GPU, MIG-1234"):
        devices.discover({**environ, "CUDA_VISIBLE_DEVICES": "MIG-1234"})


def test_a_hidden_gpu_is_not_asked_for(environ: dict[str, str], fake: Fake) -> None:
    fake("nvidia-smi", "exit 9")
    assert devices.discover({**environ, "CUDA_VISIBLE_DEVICES": ""}) == []


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            'echo "couldn\'t communicate with the NVIDIA driver"; exit 9',
            "code 9: it said couldn't communicate",
        ),
        ("echo '0, [Unknown Error], NVIDIA H100'", "Unknown Error"),
        ("echo garbage", "garbage"),
    ],
)
def test_a_failing_nvidia_smi_is_an_error(
    environ: dict[str, str], fake: Fake, script: str, said: str
) -> None:
    fake("nvidia-smi", script)
    with pytest.raises(SwarmError, match="nvidia-smi") as error:
        devices.choose(None, None, False, environ)
    assert said in str(error.value)
    assert "--devices cpu" in error.value.hint
    assert names(devices.choose(None, "cpu", False, environ)) == ["cpu0"]


def test_a_hanging_nvidia_smi_is_an_error_even_when_its_children_keep_its_output_open(
    environ: dict[str, str], fake: Fake
) -> None:
    fake("nvidia-smi", "sleep 600; true")
    start = time.monotonic()
    with pytest.raises(SwarmError, match=r"did not answer within 0\.3 s"):
        devices.discover(environ, timeout=0.3)
    assert time.monotonic() - start < 5


def test_a_driver_without_gpus_is_no_error(environ: dict[str, str], fake: Fake) -> None:
    fake("nvidia-smi", "echo 'No devices were found'; exit 6")
    assert devices.discover(environ) == []


def test_amd_gpus_from_rocm_smi(environ: dict[str, str], fake: Fake) -> None:
    table = shlex.quote("WARNING: a GPU is in a low-power state\n" + json.dumps(ROCM))
    fake("rocm-smi", f"echo {table}")
    found = devices.discover(environ)
    assert [(d.name, d.kind, d.id, d.model, d.locks) for d in found] == [
        ("gpu0", "rocm", AMD_ID, "AMD Instinct MI300X", ("rocm-0", f"rocm-{AMD_ID}")),
        ("gpu1", "rocm", "1", "AMD Instinct MI210", ("rocm-1",)),
    ]
    assert devices.environment(found[0]) == {
        "ROCR_VISIBLE_DEVICES": AMD_ID,
        "HIP_VISIBLE_DEVICES": "0",
        "CUDA_VISIBLE_DEVICES": "0",
        "SWARM_DEVICE": "cuda",
    }


def test_slices_that_share_an_id_are_pinned_by_index(environ: dict[str, str], fake: Fake) -> None:
    card = {"Card Series": "AMD Instinct MI300X", "Unique ID": "0x1a2b"}
    fake("rocm-smi", f"echo {shlex.quote(json.dumps({'card0': card, 'card1': card}))}")
    assert [device.id for device in devices.discover(environ)] == ["0", "1"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_amd_gpus_from_amd_smi(environ: dict[str, str], fake: Fake, wrapped: bool) -> None:
    rows = [{"gpu": i, "asic": {"market_name": "AMD Instinct MI300X"}} for i in range(2)]
    table = json.dumps({"gpu_data": rows} if wrapped else rows)
    fake("amd-smi", f"echo {shlex.quote(table)}")
    found = devices.discover(environ)
    assert [(d.id, d.model) for d in found] == [(i, "AMD Instinct MI300X") for i in "01"]


def test_amd_masks_count_within_one_another(environ: dict[str, str], fake: Fake) -> None:
    cards = {f"card{i}": {"Card Series": "MI300X", "Unique ID": f"0x{i + 1}"} for i in range(4)}
    fake("rocm-smi", f"echo {shlex.quote(json.dumps(cards))}")
    masks = {"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "1"}
    assert names(devices.discover(environ | masks)) == ["gpu3"]
    assert devices.discover(environ | {"HIP_VISIBLE_DEVICES": "-1"}) == []


@pytest.mark.parametrize("text", ["", "[1, 2", '{"card0": 3}', "no json"])
def test_what_is_no_list_of_amd_gpus_is_an_error(
    environ: dict[str, str], fake: Fake, text: str
) -> None:
    fake("rocm-smi", f"echo {shlex.quote(text)}; exit {0 if text else 2}")
    with pytest.raises(SwarmError, match="rocm-smi"):
        devices.discover(environ)


@pytest.mark.usefixtures("four_gpus")
def test_both_vendors_in_one_machine_have_names_of_their_own(
    environ: dict[str, str], fake: Fake
) -> None:
    fake("rocm-smi", f"echo {shlex.quote(json.dumps(ROCM))}")
    found = devices.discover(environ)
    assert names(found) == [f"gpu{i}" for i in range(6)]
    assert [device.kind for device in found] == ["cuda"] * 4 + ["rocm"] * 2


@pytest.fixture
def intel_cards(fake: Fake) -> None:
    names = (MAX, "Intel(R) UHD Graphics 770", "Intel(R) Arc(TM) Graphics", "Intel(R) Arc(TM) B580")
    rows = [{"device_id": i, "device_name": name, "uuid": "0"} for i, name in enumerate(names)]
    table = shlex.quote(json.dumps({"device_list": rows}))
    fake("xpu-smi", f'[ "$*" = "discovery -j" ] || exit 2\necho {table}')


@pytest.mark.usefixtures("intel_cards")
def test_intel_cards_but_not_the_graphics_of_a_laptop(environ: dict[str, str]) -> None:
    found = devices.discover(environ)
    assert [(d.name, d.kind, d.id, d.model, d.locks) for d in found] == [
        ("gpu0", "xpu", "0", MAX, ("xpu-0",)),
        ("gpu3", "xpu", "3", "Intel(R) Arc(TM) B580", ("xpu-3",)),
    ]
    assert devices.environment(found[1]) == {
        "ZE_AFFINITY_MASK": "3",
        "ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE",
        "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1",
        "SWARM_DEVICE": "xpu",
    }
    assert [devices.default_scale(device) for device in found] == ["full", "small"]
    assert names(devices.discover(environ | {"ZE_AFFINITY_MASK": "3"})) == ["gpu3"]
    with pytest.raises(SwarmError, match=r"ZE_AFFINITY_MASK names a part of a GPU, 0\.1"):
        devices.discover(environ | {"ZE_AFFINITY_MASK": "0.1"})


def test_gaudis_are_pinned_by_their_module(environ: dict[str, str], fake: Fake) -> None:
    expected = "-Q module_id,name -f csv,noheader"
    table = "6, HL-225\n4, HL-225\n7, HL-225"
    fake("hl-smi", f'[ "$*" = {expected!r} ] || exit 2\necho {shlex.quote(table)}')
    found = devices.discover(environ)
    assert [(d.name, d.kind, d.id, d.model, d.locks) for d in found] == [
        (f"gpu{i}", "hpu", str(i), "Intel Gaudi HL-225", (f"hpu-{i}",)) for i in (4, 6, 7)
    ]
    assert devices.default_scale(found[0]) == "full"
    assert devices.environment(found[0]) == {
        "HABANA_VISIBLE_MODULES": "4",
        "PT_HPU_LAZY_MODE": "0",
        "SWARM_DEVICE": "hpu",
    }
    assert names(devices.discover(environ | {"HABANA_VISIBLE_MODULES": "7,4"})) == ["gpu4", "gpu7"]
    fake("hl-smi", "echo 'N/A, HL-225'")
    with pytest.raises(SwarmError, match="hl-smi lists a Gaudi as 'N/A, HL-225'"):
        devices.discover(environ)


def test_an_apple_chip_is_one_device(
    environ: dict[str, str], fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("sysctl", '[ "$*" = "-n machdep.cpu.brand_string" ] || exit 2\necho Apple M3 Max')
    assert devices.discover(environ) == []  # sysctl is on Linux too
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    (gpu,) = devices.discover(environ)
    assert (gpu.name, gpu.kind, gpu.id, gpu.model) == ("gpu0", "mps", "mps", "Apple M3 Max")
    assert devices.environment(gpu) == {"SWARM_DEVICE": "mps"}
    assert devices.default_scale(gpu) == "small"
    assert names(devices.choose(None, "cpu", False, environ)) == ["cpu0"]


@pytest.mark.usefixtures("four_gpus", "intel_cards")
def test_names_go_on_from_vendor_to_vendor(environ: dict[str, str], fake: Fake) -> None:
    fake("rocm-smi", f"echo {shlex.quote(json.dumps(ROCM))}")
    assert names(devices.discover(environ)) == [f"gpu{i}" for i in (0, 1, 2, 3, 4, 5, 6, 9)]


@pytest.mark.parametrize("mask", ["0", "1", "0,1", "1,0", AMD_ID])
def test_a_training_by_hand_takes_a_lock_of_the_worker_on_its_amd_gpu(
    environ: dict[str, str], fake: Fake, mask: str
) -> None:
    fake("rocm-smi", f"echo {shlex.quote(json.dumps(ROCM))}")
    wanted = {"ROCR_VISIBLE_DEVICES": mask}
    by_hand = probes.lock_key("rocm", wanted, *probes.AMD_MASKS)
    position = 1 if mask.startswith("1") else 0
    assert by_hand in devices.discover(environ)[position].locks


@pytest.mark.parametrize("kind", ["rocm", "xpu", "hpu"])
def test_a_trial_and_its_worker_name_the_device_alike(
    environ: dict[str, str], fake: Fake, kind: str
) -> None:
    fake("rocm-smi", f"echo {shlex.quote(json.dumps(ROCM))}")
    fake("xpu-smi", f"echo '{json.dumps({'device_list': [{'device_id': 5, 'device_name': MAX}]})}'")
    fake("hl-smi", "echo 3, HL-325L")
    masks = {
        "rocm": probes.AMD_MASKS,
        "xpu": ("ZE_AFFINITY_MASK",),
        "hpu": ("HABANA_VISIBLE_MODULES",),
    }
    found = [device for device in devices.discover(environ) if device.kind == kind]
    assert found
    for device in found:
        pinned = devices.environment(device)
        assert probes.lock_key(kind, pinned, *masks[kind]) in device.locks


@pytest.mark.usefixtures("four_gpus")
def test_choosing_among_gpus(environ: dict[str, str]) -> None:
    def chosen(count: int | None, wanted: str | None) -> list[str]:
        return names(devices.choose(count, wanted, False, environ))

    assert chosen(None, None) == ["gpu0", "gpu1", "gpu2", "gpu3"]
    assert chosen(2, None) == ["gpu0", "gpu1"]
    assert chosen(None, "3, 0") == ["gpu3", "gpu0"]
    assert chosen(1, "gpu2,gpu3") == ["gpu2"]
    assert chosen(None, "cpu") == ["cpu0"]


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("count", "wanted", "message", "hint"),
    [
        (8, None, "8 agents need 8 devices, found 4 GPUs", "--agents 4, or --devices cpu"),
        (2, "1", "2 agents need 2 devices, found 1 GPU", "--agents 1, or --devices cpu"),
        (0, None, "cannot start 0 agents", "--agents"),
        (None, "0,5", f"--devices 0,5: no GPU '5'; GPUs here: 0 ({H100}), 1 ({H100})", "cpu"),
        (None, "1,1", "--devices 1,1: a GPU named twice", "--devices"),
        (None, "cpu,0", "--devices cpu,0: no GPU 'cpu'", "--devices"),
        (None, "", "--devices : no GPU ''", "--devices"),
    ],
)
def test_what_cannot_be_chosen_is_a_usage_error(
    environ: dict[str, str], count: int | None, wanted: str | None, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as error:
        devices.choose(count, wanted, False, environ)
    assert str(error.value).startswith(message)
    assert hint in error.value.hint


def test_gpus_where_there_are_none(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="GPUs here: none"):
        devices.choose(None, "0", False, environ)


def test_without_gpus_there_is_one_cpu_worker_with_all_cores(environ: dict[str, str]) -> None:
    (worker,) = devices.choose(None, None, False, environ)
    assert worker.name == "cpu0"
    assert sorted(worker.cores) == CORES
    assert sorted(worker.locks) == sorted(f"cpu-{core}" for core in CORES)
    assert worker.model.endswith(f" x{len(CORES)}")
    assert worker.exclusive
    threads = str(len(CORES))
    assert devices.environment(worker) == {
        "CUDA_VISIBLE_DEVICES": "",
        "HIP_VISIBLE_DEVICES": "-1",
        "SWARM_DEVICE": "cpu",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
    }


@pytest.mark.parametrize("count", range(1, len(CORES) + 1))
def test_cpu_workers_have_equal_shares_that_do_not_overlap(count: int) -> None:
    workers = devices.cpu_workers(count, False)
    assert names(workers) == [f"cpu{i}" for i in range(count)]
    shared = [core for worker in workers for core in worker.cores]
    assert len(set(shared)) == len(shared)
    assert {len(worker.cores) for worker in workers} == {len(CORES) // count}
    assert len({worker.model for worker in workers}) == 1
    assert all(worker.exclusive for worker in workers)


def test_shares_are_equal_and_of_neighbours() -> None:
    assert cores.shares([0, 4, 1, 5, 2], 2) == [(0, 4), (1, 5)]
    assert cores.shares([7, 3], 3) == [(7,), (3,), (7,)]


def test_more_workers_than_cores_must_be_wanted() -> None:
    with pytest.raises(UsageError, match=f"found {len(CORES)}") as error:
        devices.cpu_workers(len(CORES) + 1, False)
    assert "--oversubscribe" in error.value.hint
    workers = devices.cpu_workers(2 * len(CORES) + 1, True)
    assert not any(worker.exclusive for worker in workers)
    used = [worker.cores for worker in workers]
    assert {len(share) for share in used} == {1}
    assert used[: len(CORES)] == used[len(CORES) : -1]
    assert set(used) == {(core,) for core in CORES}
    with pytest.raises(UsageError):
        devices.cpu_workers(0, True)


def test_shares_are_of_the_cores_that_the_process_may_use() -> None:
    script = "from swarm import devices as d; print(d.cpu_workers(1, False)[0].cores)"
    pin = f"import os; os.sched_setaffinity(0, {{{CORES[-1]}}}); {script}"
    run = subprocess.run([sys.executable, "-c", pin], check=True, capture_output=True, text=True)
    assert run.stdout == f"({CORES[-1]},)\n"


def test_a_device_class_is_readable_and_tells_comparable_trials_apart() -> None:
    gpu = Device(name="gpu0", kind="cuda", id="GPU-1", model=H100)
    name = devices.device_class(gpu, 300.0, "3f2a91c0deadbeef", "2.13.0+cu128")
    assert name == "NVIDIA-H100-80GB-HBM3/300s/3f2a91c0/torch2.13.0"
    worker = Device(name="cpu0", kind="cpu", id="0,1", model="AMD EPYC 7B13 @ 2.2GHz x2")
    name = devices.device_class(worker, 2.5, "3f2a91c0", "2.6.0")
    assert name == "AMD-EPYC-7B13-2.2GHz-x2/2.5s/3f2a91c0/torch2.6.0"


def test_a_trial_sees_what_compilers_and_drivers_are_told() -> None:
    told = dict.fromkeys(("CC", "ZE_FLAT_DEVICE_HIERARCHY", "ONEAPI_DEVICE_SELECTOR"), "1")
    told |= dict.fromkeys(("HABANA_LOGS", "PT_HPU_LAZY_MODE", "GC_KERNEL_PATH"), "1")
    secret = {"HABANA_TOKEN": "1", "SWARM_DEVICE": "cpu", "CCACHE": "1"}
    assert config.trial_environment(told | secret) == told


def test_discovery_imports_no_torch() -> None:
    script = "import sys, swarm.devices as d; d.discover({}); print('torch' in sys.modules)"
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONSTARTUP"}
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environ)
    assert run.stdout == "False\n"
