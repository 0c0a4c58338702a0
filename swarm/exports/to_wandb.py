"""A swarm as an offline run of Weights & Biases: a step per experiment, and a table of all."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from swarm.errors import SwarmError
from swarm.exports import rows
from swarm.exports.mirrors import Swarm

try:
    import wandb
except ImportError as error:
    raise SwarmError("wandb is not installed", "pip install 'swarm-research[wandb]'") from error


def write(swarm: Swarm, folder: Path) -> None:
    """Write one run, and leave none of the library's processes behind.

    A step is an experiment's number. Raises `SwarmError` with what the library said.
    """
    settings = wandb.Settings(
        mode="offline", silent=True, console="off", disable_git=True, disable_code=True,
        x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True,
        x_save_requirements=False,
    )  # fmt: skip
    try:
        run = wandb.init(
            project="swarm", name=swarm.tag, dir=str(folder), settings=settings,
            config=msgspec.to_builtins(swarm.board.config),
        )  # fmt: skip
        try:
            _log(run, swarm)
        finally:
            run.finish()
    except wandb.Error as error:
        raise SwarmError(
            f"wandb cannot write to {folder}: {error}", "name another folder"
        ) from error
    finally:
        wandb.teardown()


def _log(run: wandb.Run, swarm: Swarm) -> None:
    lowest: dict[str, float] = {}
    for found in sorted(swarm.runs, key=lambda each: each.number):
        values = dict(found.metrics)
        if (score := found.metrics.get("val_bpb")) is not None and found.tags["verdict"] == "keep":
            lowest[found.device_class] = min(score, lowest.get(found.device_class, score))
        if found.device_class in lowest:
            values["lowest_kept_val_bpb"] = lowest[found.device_class]
        values |= {"time": found.began.timestamp()}
        prefix = f"{found.device_class}/" if len(swarm.board.classes) > 1 else ""
        run.log({f"{prefix}{name}": value for name, value in values.items()}, step=found.number)
    table = rows.experiments(swarm.board)
    told = [
        [cell.isoformat() if isinstance(cell, datetime) else cell for cell in row]
        for row in table.rows
    ]
    run.log({"experiments": wandb.Table(columns=[*table.names], data=told)})
    for known in swarm.board.classes.values():
        for name, entry in (("incumbent", known.top()), ("best", known.champion())):
            if entry and entry.estimate:
                run.summary[name] = entry.experiment
                run.summary[f"{name}_val_bpb"] = entry.estimate.mean
