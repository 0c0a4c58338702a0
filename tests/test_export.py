"""Exports are read back with what will read them: pyarrow, csv, and each tool's own library."""

from __future__ import annotations

import csv
import io
import json
import shlex
import struct
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import msgspec
import nights
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toy
from conftest import processes_of
from toy_swarm import Story

from swarm import records
from swarm.commands import folded
from swarm.errors import Refused, UsageError
from swarm.exports import files, mirrors, rows
from swarm.paths import Paths
from swarm.strays import AGENT_MARK

FORMULA = "=HYPERLINK(\"http://evil.example\",'x')"


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    return nights.tell(tmp_path_factory.mktemp("it's") / "a repo", 60)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A real baseline; a good change with a hostile description, a crash, and one that trains."""
    found = Story(tmp_path_factory.mktemp("it's") / "a user's repo", policy="probable")
    found.trial("e0", "cpu0", 1.002)
    source = (found.paths.root / "train.py").read_text().replace("LR = 0.04", "LR = 0.3")
    (found.paths.root / "train.py").write_text(source)
    toy.git(found.paths.root, "commit", "--quiet", "-am", "a change")
    claim = records.Claim(
        experiment="e1", worker="cpu1", agent="claude", parent="e0", description=FORMULA,
        commit=toy.git(found.paths.root, "rev-parse", "HEAD"), fingerprint="1",
    )  # fmt: skip
    found.tell(records.Spend(worker="cpu1", model="m", input_tokens=100, usd=0.5), claim)
    found.trial("e1", "cpu1", 0.9)
    found.experiment("cpu0", None)
    found.claim("cpu2")
    found.experiment("cpu0", 1.5)
    return found


def export(paths: Paths, environment: dict[str, str], *arguments: str) -> str:
    done = toy.swarm(paths.root, "export", *arguments, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("trials", [False, True])
def test_parquet_holds_every_fact_with_its_type_and_unit(
    night: Paths, tmp_path: Path, trials: bool
) -> None:
    board = folded(night)
    path = tmp_path / "a file.parquet"
    files.write(path, night.tag, board, "parquet", trials)
    found = pq.read_table(path)
    table = rows.trials(board) if trials else rows.experiments(board)
    expected = [dict(zip(table.names, row, strict=True)) for row in table.rows]
    assert found.to_pylist() == expected and len(expected) > 50
    assert found.num_rows == len(board.trials if trials else board.claims)
    assert found.schema.field("val_bpb").type == pa.float64()
    assert found.schema.field("val_bpb").metadata[b"unit"] == b"bits per byte"
    moment = "started" if trials else "time"
    assert found.schema.field(moment).type == pa.timestamp("us", tz="UTC")
    assert all(field.metadata[b"description"] for field in found.schema)
    assert found.schema.metadata[b"swarm"] == b"night"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_text_files_are_exact(night: Paths, tmp_path: Path, form: str) -> None:
    board = folded(night)
    path = tmp_path / f"night.{form}"
    files.write(path, night.tag, board, form, False)
    with open(path, newline="") as file:
        found = list(csv.DictReader(file, delimiter="," if form == "csv" else "\t"))
    known = board.primary
    assert known and [row["experiment"] for row in found] == list(known.entries)
    for row, entry in zip(found, known.entries.values(), strict=True):
        mean = entry.estimate.mean if entry.estimate else None
        assert (float(row["val_bpb"]) if row["val_bpb"] else None) == mean
        assert row["confirmed"] == ("true" if entry.confirmed else "false")
        assert row["description"] == entry.claim.description
        assert datetime.fromisoformat(row["time"]) == entry.claim.time
    assert sum(row["is_best"] == "true" for row in found) == 1


def test_no_spreadsheet_runs_what_an_agent_wrote(told: Story, environment: dict[str, str]) -> None:
    found = {
        row["experiment"]: row
        for row in csv.DictReader(io.StringIO(export(told.paths, environment, "-")))
    }
    assert found["e1"]["description"] == f"'{FORMULA}"
    assert not any(
        cell.startswith(("=", "+", "@")) for row in found.values() for cell in row.values()
    )
    assert (found["e1"]["usd"], found["e1"]["tokens"]) == ("0.5", "100")
    assert (found["e2"]["verdict"], found["e2"]["val_bpb"]) == ("crash", "")
    assert found["e3"]["verdict"] == "candidate"
    table = rows.experiments(told.board)
    exact = [dict(zip(table.names, row, strict=True)) for row in table.rows]
    assert exact[1]["description"] == FORMULA  # Parquet has the text as it is


def test_trials_go_to_stdout_too(told: Story, environment: dict[str, str]) -> None:
    text = export(told.paths, environment, "-", "--trials", "--format", "tsv")
    found = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    assert [row["trial"] for row in found] == list(told.board.trials)
    assert [row["outcome"] for row in found] == ["ok", "ok", "ok", "crash", "ok"]


def test_what_cannot_be_written_is_said_before(
    told: Story, environment: dict[str, str], tmp_path: Path
) -> None:
    for place, form in (("night.xlsx", None), ("night", None), ("-", "parquet")):
        with pytest.raises(UsageError):
            files.form_of(place, form)
    with pytest.raises(UsageError, match="no folder"):
        files.form_of(str(tmp_path / "nowhere" / "a.csv"), None)
    assert files.form_of(str(tmp_path / "night.txt"), "csv") == "csv"
    nothing = toy.swarm(told.paths.root, "export", environment=environment)
    assert nothing.returncode == 2 and "export to which file?" in nothing.stderr
    agent = environment | {AGENT_MARK: "cpu0"}
    refused = toy.swarm(told.paths.root, "export", "-", environment=agent)
    assert refused.returncode == 3 and not refused.stdout


@pytest.mark.parametrize(
    ("library", "arguments"),
    [
        ("pyarrow", ["night.parquet"]),
        ("wandb", ["--to", "wandb"]),
        ("mlflow", ["--to", "mlflow"]),
        ("tensorboard", ["--to", "tensorboard"]),
    ],
)
def test_a_missing_library_is_one_clear_error(
    told: Story, library: str, arguments: list[str]
) -> None:
    program = (
        f"import sys; sys.modules[{library!r}] = None\n"
        f"sys.argv = ['swarm', 'export', *{arguments}]\n"
        "from swarm import cli; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=told.paths.root, capture_output=True, text=True
    )
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert error == f"error: {library} is not installed" and "pip install" in hint


def test_too_many_experiments_are_refused_before_they_take_for_ever() -> None:
    mirrors.refuse_too_many("mlflow", 1_000)
    mirrors.refuse_too_many("tensorboard", 100_001)
    for tool in ("mlflow", "wandb"):
        with pytest.raises(Refused, match="100,001 experiments are too many"):
            mirrors.refuse_too_many(tool, 100_001)


# ---- other tools -----------------------------------------------------------------------------


def mirrored(told: Story, environment: dict[str, str], tool: str, folder: Path) -> None:
    """Export to a tool's format; nothing but the folder is on stdout, and the advice on stderr can
    be pasted."""
    done = toy.swarm(told.paths.root, "export", "--to", tool, str(folder), environment=environment)
    assert done.returncode == 0 and done.stdout == f"{folder}\n", done.stderr
    command = done.stderr.removeprefix("to look at it: ").removesuffix(" puts it online\n")
    words = [word.removesuffix("/wandb/offline-run-*") for word in shlex.split(command)]
    assert str(folder) in words


def test_tensorboard_reads_scores_and_hyperparameters(
    told: Story, environment: dict[str, str], tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    folder = tmp_path / "the user's logs"
    mirrored(told, environment, "tensorboard", folder)
    found = EventAccumulator(str(folder / "race"))
    found.Reload()
    tried = found.Scalars("val_bpb/tried")
    assert [(point.step, round(point.value, 4)) for point in tried] == [
        (0, 1.001),
        (1, 0.9),
        (4, 1.5),
    ]
    assert tried[1].wall_time == pytest.approx(told.board.claims["e1"].time.timestamp())
    assert [point.step for point in found.Scalars("val_bpb/incumbent")] == [0, 1]
    session = EventAccumulator(str(folder / "race" / "experiments" / "e1"))
    session.Reload()
    assert session.Scalars("val_bpb")[-1].value == pytest.approx(0.9)
    content = session.PluginTagToContent("hparams")[metadata.SESSION_START_INFO_TAG]
    start = metadata.parse_session_start_info_plugin_data(content)
    assert start.hparams["LR"].number_value == 0.3
    assert start.hparams["agent"].string_value == "claude"
    again = toy.swarm(
        told.paths.root, "export", "--to", "tensorboard", str(folder), environment=environment
    )
    assert again.returncode == 3 and "is there already" in again.stderr


def test_mlflow_reads_a_run_per_experiment(
    told: Story, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in mirrors.TOOLS["mlflow"].environment.items():
        monkeypatch.setenv(name, value)
    from mlflow.tracking import MlflowClient

    folder = tmp_path / "the user's runs"
    mirrored(told, environment, "mlflow", folder)
    client = MlflowClient(tracking_uri=folder.as_uri())
    experiment = client.get_experiment_by_name("swarm race")
    assert experiment
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"e0", "e1", "e2", "e4"}
    assert found["e1"].data.metrics["val_bpb"] == 0.9
    assert found["e0"].data.metrics["replicates"] == 2
    assert (found["e0"].data.params["LR"], found["e1"].data.params["LR"]) == ("0.04", "0.3")
    assert found["e1"].data.tags["description"] == FORMULA
    assert (found["e1"].info.status, found["e2"].info.status) == ("FINISHED", "FAILED")
    history = client.get_metric_history(found["e0"].info.run_id, "trial_val_bpb")
    assert sorted(point.value for point in history) == [1.0, 1.002]


def steps_of(log: bytes) -> dict[int, dict[str, object]]:
    """What an offline run logged, by step. The library can no longer read its own files, so this
    does: records of LevelDB's log format behind a header, each a message of the library's."""
    from wandb.proto.wandb_internal_pb2 import Record

    steps: dict[int, dict[str, object]] = {}
    at, message = 7, b""
    while at + 7 <= len(log):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        length, kind = struct.unpack("<HB", log[at + 4 : at + 7])
        message += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            record, message = Record.FromString(message), b""
            if record.HasField("history"):
                row = steps.setdefault(record.history.step.num, {})
                for item in record.history.item:
                    name = item.key or "/".join(item.nested_key)
                    row[name] = json.loads(item.value_json)
    return steps


def test_wandb_reads_a_step_per_experiment_and_leaves_no_process(
    told: Story, environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "the user's runs"
    home = tmp_path / "home"
    mirrored(told, environment | {"HOME": str(home)}, "wandb", folder)
    assert not home.exists()
    assert not [p for p in processes_of(environment["TMPDIR"]) if "wandb" in p.name()]
    (log,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    steps = steps_of(log.read_bytes())
    assert steps[0]["val_bpb"] == pytest.approx(1.001) and steps[1]["val_bpb"] == 0.9
    assert steps[1]["lowest_kept_val_bpb"] == 0.9
    (table,) = folder.glob("wandb/offline-run-*/files/media/table/*.json")
    content = msgspec.json.decode(table.read_bytes())
    assert [row[0] for row in content["data"]] == ["e0", "e1", "e2", "e3", "e4"]
