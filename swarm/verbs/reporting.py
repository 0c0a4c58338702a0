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
