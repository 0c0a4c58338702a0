"""How every verb of the command line is declared."""

from __future__ import annotations

import argparse
from typing import NoReturn, TypeAlias

from swarm.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` for what is wrong. Sub-parsers are of its class too."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"{self.prog} --help")


# The type that add_subparsers returns has no public name.
Parsers: TypeAlias = "argparse._SubParsersAction[Parser]"


def add(verbs: Parsers, name: str, function: str, text: str, example: str) -> Parser:
    added = verbs.add_parser(name, help=text, description=text, epilog=f"example: {example}")
    added.add_argument("--tag", help="which swarm; default: the worktree's, else the latest")
    added.add_argument("--debug", action="store_true", help="show tracebacks")
    added.set_defaults(function=function)
    return added
