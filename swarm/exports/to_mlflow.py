"""A swarm in MLflow's file store: one MLflow experiment, a run per experiment of the swarm."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from swarm.errors import Refused, SwarmError
from swarm.exports.mirrors import Swarm
from swarm.exports.runs import Run

try:
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
except ImportError as error:
    raise SwarmError("mlflow is not installed", "pip install 'swarm-research[mlflow]'") from error

_LONGEST = 5000
"""Characters of a tag or parameter; MLflow takes a little more."""
_AT_ONCE = 100


def write(swarm: Swarm, folder: Path) -> None:
    """Write the runs with their hyperparameters as parameters and all scores as metrics.

    Raises `Refused` where the store has an experiment of that name, and `SwarmError` with what
    MLflow said.
    """
    client = MlflowClient(tracking_uri=folder.as_uri())
    name = f"swarm {swarm.tag}"
    try:
        if client.get_experiment_by_name(name):
            raise Refused(f"{folder} has an experiment '{name}' already", "name another folder")
        experiment = client.create_experiment(name, tags={"swarm.tag": swarm.tag})
        for run in swarm.runs:
            _write_run(client, experiment, run)
    except MlflowException as error:
        raise SwarmError(
            f"mlflow cannot write to {folder}: {error}", "name another folder"
        ) from error


def _write_run(client: MlflowClient, experiment: str, run: Run) -> None:
    made = client.create_run(experiment, _milliseconds(run.began), run_name=run.experiment)
    ended = _milliseconds(run.ended)
    metrics = [Metric(name, value, ended, 0) for name, value in run.metrics.items()]
    metrics += [
        Metric("trial_val_bpb", value, _milliseconds(started), step)
        for step, (started, value) in enumerate(run.trials)
    ]
    facts = {"mlflow.note.content": run.tags["description"], **run.tags}
    tags = [RunTag(name, value[:_LONGEST]) for name, value in facts.items() if value]
    parameters = [Param(name, str(value)[:_LONGEST]) for name, value in run.parameters.items()]
    client.log_batch(
        made.info.run_id, metrics=metrics[:1000], tags=tags, params=parameters[:_AT_ONCE]
    )
    client.set_terminated(made.info.run_id, "FINISHED" if run.ok else "FAILED", ended)


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)
