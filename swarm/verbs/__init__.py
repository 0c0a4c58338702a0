"""The whole command line, declared without importing anything that a verb needs."""

from __future__ import annotations

from swarm import __version__
from swarm.verbs import reading, reporting, running, working
from swarm.verbs.grammar import Parser


def parser() -> Parser:
    """The parser of `swarm`; `function` of what it parses names the command, `module:function`."""
    top = Parser(
        prog="swarm",
        description="Autonomous LLM research by a swarm of coding agents, one per GPU.",
        epilog="A first try, on any machine: swarm spawn --agents 2 --seconds 20 --wait",
    )
    top.add_argument("--version", action="version", version=f"swarm {__version__}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    for module in (running, reading, reporting, working):
        module.declare(verbs)
    return top
