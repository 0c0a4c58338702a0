"""When training began, by what the harness saw itself: a printed time is only a claim."""

from __future__ import annotations

import time

from swarm.harness.settings import seconds_since_start

_clock = time.monotonic
_batches: list[float] = []  # when the first two were asked for
_handed_out = 0
_opened: list[float] = []  # when the training rows were first mapped by another than the Loader


def batch_handed_out() -> None:
    """The Loader was asked for a batch. The first may have served to compile the model."""
    global _handed_out
    _handed_out += 1
    if len(_batches) < 2:
        _batches.append(_clock())


def batches() -> int:
    """How many batches were handed out."""
    return _handed_out


def rows_opened() -> None:
    """train.py reads the training rows itself."""
    if not _opened:
        _opened.append(_clock())


def training_seconds() -> float:
    """Seconds of training until now: since the second batch, or since the rows were mapped.

    Who used neither trained on something else, and nobody knows since when: then it is since the
    process started.
    """
    began = _opened + _batches[-1:]
    return _clock() - min(began) if began else seconds_since_start()
