"""The command line: parse, call one function, print. The only place that exits."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

from swarm import config
from swarm.errors import INTERRUPTED, SwarmError
from swarm.verbs import parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 failed, 2 wrong usage, 3 refused, 130 interrupted."""
    config.forget_git()
    arguments = None
    try:
        arguments = parser().parse_args(argv)
        _verb(arguments.function)(_session(arguments))
    except SwarmError as error:
        if arguments and arguments.debug:
            raise
        _complain(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        if arguments and arguments.debug:
            raise
        told = f"{type(error).__name__}: {error}"
        _complain(
            SwarmError(f"unexpected: {told}", "run it with --debug and report what it prints")
        )
        sys.exit(1)


def _session(arguments: argparse.Namespace) -> object:
    return importlib.import_module("swarm.commands").Session(arguments, config.environ())


def _verb(name: str) -> Callable[[object], None]:
    module, _, function = name.partition(":")
    found: Callable[[object], None] = getattr(importlib.import_module(module), function)
    return found


def _complain(error: SwarmError) -> None:
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


if __name__ == "__main__":
    main()
