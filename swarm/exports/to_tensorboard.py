"""A swarm as TensorBoard event files: its scores over experiments and time, and hyperparameters."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from swarm.errors import Refused, SwarmError
from swarm.exports.mirrors import SESSIONS, Swarm
from swarm.exports.runs import Run, Value
from swarm.standings import DeviceClass
from swarm.views import history

try:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams import plugin_data_pb2 as hparams
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
except ImportError as error:
    raise SwarmError(
        "tensorboard is not installed", "pip install 'swarm-research[tensorboard]'"
    ) from error

Point = tuple[int, datetime, float]


def write(swarm: Swarm, folder: Path) -> None:
    """Write a run per device class below `folder/<tag>`, and one per experiment among the best.

    A step is an experiment's number, the wall time when it was submitted. Raises `Refused` where
    the folder has this swarm already.
    """
    home = folder / swarm.tag
    if home.exists():
        raise Refused(f"{home} is there already", "remove it, or name another folder")
    for number, known in enumerate(swarm.board.classes.values()):
        place = home if len(swarm.board.classes) == 1 else home / f"class{number}"
        mine = [run for run in swarm.runs if run.device_class == known.name]
        _write_class(known, mine, place)


def _write_class(known: DeviceClass, runs: list[Run], place: Path) -> None:
    best = sorted((r for r in runs if r.ok), key=lambda r: r.metrics["val_bpb"])[:SESSIONS]
    lineage = {entry.experiment for entry in history.lineage(known, known.incumbent)}
    series: dict[str, list[Point]] = {
        "val_bpb/tried": _points(runs, "val_bpb"),
        "val_bpb/kept": _points([r for r in runs if r.tags["verdict"] == "keep"], "val_bpb"),
        "val_bpb/incumbent": _points([r for r in runs if r.experiment in lineage], "val_bpb"),
        "speed/tokens_per_second": _points(runs, "tokens_per_second"),
        "memory/gb": _points(runs, "memory_gb"),
    }
    events = [_scalar(tag, *point) for tag, points in series.items() for point in points]
    _write_events(place, [_experiment(best, runs[0].began), *events] if best else events)
    for run in best:
        _write_session(run, place / "experiments" / run.experiment)


def _points(runs: Iterable[Run], metric: str) -> list[Point]:
    return [(r.number, r.began, r.metrics[metric]) for r in runs if metric in r.metrics]


def _scalar(tag: str, step: int, time: datetime, value: float) -> Event:
    found = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
    return Event(step=step, wall_time=time.timestamp(), summary=found)


def _experiment(runs: Iterable[Run], time: datetime) -> Event:
    """What the HParams dashboard shows: the constants of all sessions, and their score."""
    kinds: dict[str, int] = {}
    for run in runs:
        for name, value in _parameters(run).items():
            kinds.setdefault(name, _kind(value))
    described = api_pb2.Experiment(
        hparam_infos=[api_pb2.HParamInfo(name=name, type=kind) for name, kind in kinds.items()],
        metric_infos=[
            api_pb2.MetricInfo(name=api_pb2.MetricName(tag="val_bpb"), display_name="val_bpb")
        ],
        time_created_secs=time.timestamp(),
    )
    data = hparams.HParamsPluginData(experiment=described)
    return _about(metadata.EXPERIMENT_TAG, time, data)


def _about(tag: str, time: datetime, data: hparams.HParamsPluginData) -> Event:
    """What the HParams dashboard is to know; the library's own function needs TensorFlow."""
    value = Summary.Value(
        tag=tag,
        metadata=metadata.create_summary_metadata(data),
        tensor=metadata.NULL_TENSOR,
    )
    return Event(step=0, wall_time=time.timestamp(), summary=Summary(value=[value]))


def _write_session(run: Run, place: Path) -> None:
    start = hparams.SessionStartInfo(start_time_secs=run.began.timestamp())
    for name, value in _parameters(run).items():
        chosen = start.hparams[name]
        if isinstance(value, bool):
            chosen.bool_value = value
        elif isinstance(value, str):
            chosen.string_value = value
        else:
            chosen.number_value = value
    end = hparams.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=run.ended.timestamp())
    *others, _ = run.trials
    scores = [
        _scalar("val_bpb", step, started, value) for step, (started, value) in enumerate(others)
    ]
    # The dashboard shows the last value of a metric: that is the mean over all trials.
    scores.append(_scalar("val_bpb", len(others), run.ended, run.metrics["val_bpb"]))
    began = hparams.HParamsPluginData(session_start_info=start)
    ended = hparams.HParamsPluginData(session_end_info=end)
    _write_events(
        place,
        [
            _about(metadata.SESSION_START_INFO_TAG, run.began, began),
            *scores,
            _about(metadata.SESSION_END_INFO_TAG, run.ended, ended),
        ],
    )


def _parameters(run: Run) -> dict[str, Value]:
    return {"agent": run.tags["agent"], "verdict": run.tags["verdict"], **run.parameters}


def _kind(value: Value) -> int:
    if isinstance(value, bool):
        return int(api_pb2.DATA_TYPE_BOOL)
    return int(api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64)


def _write_events(place: Path, events: Iterable[Event]) -> None:
    writer = EventFileWriter(str(place))
    for event in events:
        writer.add_event(event)
    writer.close()
