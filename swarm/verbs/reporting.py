"""Verbs that take a swarm's results elsewhere."""

from __future__ import annotations

from swarm.verbs.grammar import Parsers, add

_REPORTING = "swarm.commands.reporting"


def declare(verbs: Parsers) -> None:
    report = add(
        verbs, "report", f"{_REPORTING}:report",
        "write progress.png, report.md and report.html: what was found, how sure that is",
        "swarm report --out docs/report",
    )  # fmt: skip
    report.add_argument("--out", metavar="DIR", help="default: leaderboard/<tag>/report")
    report.add_argument(
        "--experiment", metavar="EXPERIMENT", help="the story of this one; default: of the result"
    )
    export = add(
        verbs, "export", f"{_REPORTING}:export",
        "write all experiments (or trials) to a file, or into another tool's format; times are"
        " UTC, losses bits per byte; in CSV, a text that a spreadsheet would run starts with '",
        "swarm export night.parquet; swarm export --to mlflow",
    )  # fmt: skip
    export.add_argument(
        "place", nargs="?", metavar="FILE|DIR",
        help="by its ending .parquet, .csv or .tsv; - is stdout; with --to a folder, by default"
        " leaderboard/<tag>/<tool>",
    )  # fmt: skip
    export.add_argument("--format", choices=("parquet", "csv", "tsv"), help="whatever the ending")
    export.add_argument("--trials", action="store_true", help="a row per trial, not experiment")
    export.add_argument(
        "--to", choices=("tensorboard", "mlflow", "wandb"),
        help="a local copy for this tool (W&B: an offline run); nothing leaves the machine",
    )  # fmt: skip
