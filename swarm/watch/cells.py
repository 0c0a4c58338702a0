"""Workers, experiments and the swarm as lines of styled text; nothing in them is markup."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

from swarm.views import crew
from swarm.views.table import printable, tokens, usd
from swarm.watch.board import Row

Document = dict[str, Any]
Line = tuple[tuple[str, str], ...]
"""Pieces of text, each with its style in the words of rich (`bold green`)."""

STYLES = {
    "keep": "green", "confirmed": "bold green", "training": "green", "evaluating": "green",
    "crash": "red", "timeout": "red", "rejected": "red", "dead": "bold red",
    "must log in": "bold red", "parked": "yellow", "paused": "yellow", "candidate": "cyan",
    "interrupted": "yellow", "discard": "dim", "stopped": "dim", "waits": "yellow",
    "limited": "yellow", "asks": "bold yellow", "at prompt": "yellow", "at a dialog": "yellow",
}  # fmt: skip
_MAKERS = {"NVIDIA", "GeForce", "AMD", "Instinct", "Intel(R)", "Apple", "Tesla"}
_BAR, _MODEL = 8, 8
_ELLIPSIS = "…"
WORKERS_HEADING = (
    ("worker device   agent      state        exp  progress        loss  tok/s  left what", ""),
)
BOARD_HEADING = (("   exp     val_bpb    Δ/σ  n verdict    worker what", ""),)


def clean(text: str) -> str:
    """Text of agents and logs, safe for a terminal."""
    return text if text.isprintable() else printable(text)  # the former takes a hundredth


def fitted(text: str, width: int) -> str:
    """`text` on exactly `width` columns of a terminal, however wide its characters are."""
    shown = clean(text)
    if cell_len(shown) > width:
        return set_cell_size(shown, width - 1) + _ELLIPSIS
    return set_cell_size(shown, width)


def worker(found: Document, paused: bool) -> Line:
    """A worker: what it is, and how far its trial is or what keeps it from having one."""
    trial, state = found["trial"], _state(found)
    mark = "‖" if paused and state != "paused" else ""
    left = (
        f"{fitted(found['name'], 6)} {_model(found['device_model'])} {fitted(found['agent'], 10)} "
    )
    shown = fitted(state + mark, 11) + " "
    style = "yellow" if mark else STYLES.get(state, "")
    if trial is None:
        return ((left, ""), (shown, style), (clean(_why(found)), ""))
    return (
        (left, ""),
        (shown, style),
        (f"{trial['experiment']:>5} ", ""),
        *_bar(trial["percent"]),
        (f"{trial['percent']:4.0f}% {_loss(trial['loss']):>6}", ""),
        (f" {_rate(trial['tokens_per_second']):>6} {_clock(trial['seconds_left']):>5} ", ""),
        (clean(trial["description"]), "dim"),
    )


def _model(model: str) -> str:
    """What tells devices apart: `RTX 4090` of `NVIDIA GeForce RTX 4090`."""
    words = [word for word in model.split() if word not in _MAKERS] or [model]
    while len(words) > 1 and cell_len(" ".join(words)) > _MODEL:
        words.pop()
    return fitted(" ".join(words), _MODEL)


def _state(found: Document) -> str:
    """In a word; of a trial its phase, of an agent without one what that is at."""
    state = str(found["state"])
    if state == "training" and found["trial"]:
        return str(found["trial"]["phase"])
    return crew.word(found)


def _why(found: Document) -> str:
    reasons = dict.fromkeys(filter(None, (found["agent_reason"], found["reason"])))
    return "; ".join(reasons)


def _bar(percent: float) -> Line:
    """Progress in eighths of a character."""
    eighths = round(min(100.0, max(0.0, percent)) / 100 * _BAR * 8)
    full, rest = divmod(eighths, 8)
    done = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
    return (done, "green"), ("░" * (_BAR - len(done)), "dim")


def _loss(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"[:6]


def _rate(tokens_per_second: float | None) -> str:
    if tokens_per_second is None:
        return "-"
    count = tokens_per_second
    if count < 10_000:
        return f"{count:.0f}"
    return f"{count / 1e3:.0f}k" if count < 1e6 else f"{count / 1e6:.2f}M"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, left = divmod(int(seconds), 60)
    return f"{minutes}:{left:02}" if minutes < 100 else f"{minutes // 60}h{minutes % 60:02}"


def experiment(row: Row) -> Line:
    """A row of the leaderboard."""
    sigmas, stands_out = row.sigmas, "bold" if row.marks else ""
    distance = "-" if sigmas is None else f"{sigmas:+.1f}" if abs(sigmas) < 999 else "far"
    return (
        (f"{row.marks:<2}", "bold green"),
        (f" {row.experiment:<7}{score(row.val_bpb):>8} ", stands_out),
        (f"{distance:>6} ", "green" if sigmas is not None and sigmas < 0 else ""),
        (f"{row.replicates:>2} ", ""),
        (f"{row.verdict:<11}", STYLES.get(row.verdict, "")),
        (f"{fitted(row.worker or '-', 6)} ", ""),
        (clean(row.description), "dim" if row.verdict == "discard" else ""),
    )


def score(value: float | None) -> str:
    return "-" if value is None else f"{value:.6f}"


def swarm(status: Document) -> Sequence[Line]:
    """The swarm on two lines: how it does, and what it has found."""
    return _progress(status), _findings(status)


def _progress(status: Document) -> Line:
    limit = f" of {status['max_experiments']}" if status["max_experiments"] else ""
    state, style = status["state"], "bold green"
    if status["state"] != "running":
        style = "bold"
    elif not status["supervisor"]:
        state, style = "no supervisor: swarm recover", "bold red"
    parts = [f"{status['experiments']}{limit} experiments"]
    duties = [w["duty_cycle"] for w in status["workers"] if w["duty_cycle"] is not None]
    if duties:
        parts.append(f"duty {math.fsum(duties) / len(duties):.0%}")
    spend = status["spend"]
    if spend["tokens"] or spend["devices_usd"] is not None:
        most = "" if spend["max_usd"] is None else f" of {spend['max_usd']:g}"
        parts.append(f"{usd(spend['usd'])}{most} USD")
    if spend["tokens"]:
        parts.append(f"{tokens(spend['tokens'])} tokens")
    why = f": {clean(status['reason'])}" if status["reason"] else ""
    return (
        (f"{status['tag']}  ", "bold"),
        (state, style),
        ("  " + "  ".join(parts), ""),
        (why if status["state"] != "running" else "", "dim"),
    )


def _findings(status: Document) -> Line:
    found: list[tuple[str, str]] = []
    for name, style in (("incumbent", "green"), ("best", "bold green")):
        entry = status[name]
        if entry:
            found += [
                (f"{name} ", "dim"),
                (f"{entry['experiment']} {entry['val_bpb']:.6f}", style),
                (f" n {entry['replicates']}  ", "dim"),
            ]
    # Incumbent and best are those of the first worker's class.
    primary = status["workers"][0]["device_class"]
    classes = status["device_classes"]
    noise = next((known["noise"] for known in classes if known["name"] == primary), None)
    if noise is not None:
        how = "" if noise["replicates"] else " assumed"
        found.append((f"σ {noise['sd']:.6f}{how}", ""))
    return tuple(found) or (("nothing is measured yet", "dim"),)


def plain(lines: Iterable[Line]) -> str:
    """What the lines say, without their styles."""
    return "\n".join("".join(text for text, _ in line) for line in lines)
