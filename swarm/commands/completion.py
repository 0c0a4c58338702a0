"""Shell completion, generated from the parser."""

from __future__ import annotations

import shtab

from swarm.commands import Session
from swarm.verbs import parser


def completion(session: Session) -> None:
    print(shtab.complete(parser(), session.arguments.shell))
