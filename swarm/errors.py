"""What can go wrong, as exceptions that say what happened, what to do, and how to exit."""

from __future__ import annotations

FAILED, USAGE, REFUSED, INTERRUPTED = 1, 2, 3, 130


class SwarmError(Exception):
    """Something failed; `hint` tells the user what to do about it."""

    exit_code = FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(SwarmError):
    """The command line does not make sense."""

    exit_code = USAGE


class Refused(SwarmError):
    """The request is understood and deliberately not carried out; nothing was changed."""

    exit_code = REFUSED


class JournalError(SwarmError):
    """A journal line is damaged; the message names file and line."""


class GitError(SwarmError):
    """A git command failed; the message names the command."""


class DiskFull(SwarmError):
    """Nothing more can be written; what was acknowledged before is intact."""
