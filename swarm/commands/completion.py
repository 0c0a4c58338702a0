"""Shell completion, generated from the parser."""

from __future__ import annotations

import shtab

from swarm.cli import parser
from swarm.commands import Session


def completion(session: Session) -> None:
    print(shtab.complete(parser(), session.arguments.shell))
