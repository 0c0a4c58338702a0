"""When training began, by what the harness saw itself: a printed time is only a claim."""

from __future__ import annotations

import time

from swarm.harness.settings import seconds_since_start

STARTUP = 5.0
"""Seconds that a process may take until it trains, where nobody saw it begin: importing torch
takes 2 s, and more on a busy machine."""

_clock = time.monotonic
_began: list[float] = []  # when rows were first asked for
_handed_out = 0


def rows_asked_for() -> None:
    """train.py gets rows of a split, by a batch or by itself: from now on it may train."""
    if not _began:
        _began.append(_clock())


def batch_handed_out() -> None:
    """The Loader was asked for a batch."""
    global _handed_out
    _handed_out += 1
    rows_asked_for()


def batches() -> int:
    """How many batches were handed out."""
    return _handed_out


def training_seconds() -> float:
    """Seconds of training until now: since rows were first asked for.

    Who asked for none trained on something else, and nobody knows since when: then it is since the
    process started, less `STARTUP`.
    """
    return _clock() - _began[0] if _began else max(0.0, seconds_since_start() - STARTUP)
