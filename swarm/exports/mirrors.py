"""Local copies of a swarm for tools that track experiments; nothing leaves the machine."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from swarm import config
from swarm.disk import writing
from swarm.errors import Refused
from swarm.exports.runs import Run, read_constants, runs
from swarm.leaderboard import Leaderboard
from swarm.paths import Paths
from swarm.worktree import Repository


class Swarm(NamedTuple):
    """What a mirror is made of."""

    tag: str
    board: Leaderboard
    runs: list[Run]


class Tool(NamedTuple):
    """A tool, the experiments it bears, and what keeps its library from asking and telling.

    `parametrised` of them, the best, come with their hyperparameters. `shown` is how to look at the
    copy. In it and in the values of the environment, `{}` is the folder, in the former quoted.
    """

    module: str
    most: int
    parametrised: int
    environment: dict[str, str]
    shown: str


SESSIONS = 300
"""TensorBoard's HParams dashboard reads a folder for each."""
TOOLS = {
    "tensorboard": Tool("to_tensorboard", 200_000, SESSIONS, {}, "tensorboard --logdir {}"),
    "mlflow": Tool(
        "to_mlflow", 5_000, 5_000,
        # The file store is in maintenance, and refused unless this is set; the library's
        # telemetry is not wanted.
        {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true",
         "DO_NOT_TRACK": "true"},
        "MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {}",
    ),
    "wandb": Tool(
        "to_wandb", 10_000, 0,
        {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false",
         "WANDB_CONSOLE": "off", "WANDB_DATA_DIR": "{}/library", "WANDB_CACHE_DIR": "{}/library",
         "WANDB_CONFIG_DIR": "{}/library"},
        "wandb sync {}/wandb/offline-run-* puts it online",
    ),
}  # fmt: skip


def mirror(tool: str, paths: Paths, board: Leaderboard, folder: Path) -> str:
    """Write a swarm to `folder` for a tool; return how to look at it.

    Raises `Refused` for more experiments than the tool bears, `SwarmError` where its library is
    missing.
    """
    chosen = TOOLS[tool]
    refuse_too_many(tool, sum(len(known.entries) for known in board.classes.values()))
    config.tell_libraries(
        {name: value.format(folder.absolute()) for name, value in chosen.environment.items()}
    )
    write: Callable[[Swarm, Path], None] = import_module(f"swarm.exports.{chosen.module}").write
    scale = board.config.scale if board.config else ""
    commits = _commits(board, chosen.parametrised)
    constants = read_constants(Repository(paths.root), commits, scale)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write(Swarm(paths.tag, board, list(runs(board, constants))), folder.absolute())
    return f"to look at it: {chosen.shown.format(shlex.quote(str(folder)))}"


def refuse_too_many(tool: str, experiments: int) -> None:
    """Raise `Refused` where a tool would take for ever, then and whenever it shows them."""
    most = TOOLS[tool].most
    if experiments > most:
        raise Refused(
            f"{experiments:,} experiments are too many for {tool}: it is slow beyond {most:,}",
            "swarm export night.parquet takes any number",
        )


def _commits(board: Leaderboard, most: int) -> list[str]:
    """Of `most` experiments, those with the lowest val_bpb first, those without a score last."""
    entries = [entry for known in board.classes.values() for entry in known.entries.values()]
    entries.sort(key=lambda entry: entry.estimate.mean if entry.estimate else math.inf)
    return [entry.claim.commit for entry in entries[:most]]
