"""Status, board and experiment as text for a terminal."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Sequence

from swarm import drift
from swarm.leaderboard import BASELINE, Leaderboard
from swarm.standings import DeviceClass, Entry
from swarm.views import documents
from swarm.views.documents import Document, ranked

_COLOURS: dict[str, str] = {
    "keep": "32", "confirmed": "1;32", "training": "32",
    "crash": "31", "timeout": "31", "rejected": "31", "dead": "31",
    "parked": "33", "paused": "33", "candidate": "36", "interrupted": "33",
    "discard": "2",
    "waits": "33", "limited": "33", "asks": "33", "at prompt": "33", "must log in": "31",
}  # fmt: skip
_AGENT_STATES: dict[str, str] = {
    "starting": "starting", "waiting": "waits", "prompt": "at prompt", "dialog": "at a dialog",
    "limit": "limited", "login": "must log in", "asks": "asks",
}  # fmt: skip
_INDENT = "        "
_WIDE = 120
_ELLIPSIS = "…"


class Style:
    """Colours words when `colour` is on; `width` is the terminal's columns."""

    def __init__(self, colour: bool, width: int) -> None:
        self.colour, self.width = colour, width

    def word(self, word: str, text: str | None = None) -> str:
        shown = word if text is None else text
        code = _COLOURS.get(word.strip())
        return f"\x1b[{code}m{shown}\x1b[0m" if self.colour and code else shown


def printable(text: str) -> str:
    """Text of agents and logs, safe for a terminal: control characters are made visible."""
    return "".join(
        f"\\x{ord(c):02x}" if unicodedata.category(c) in ("Cc", "Cf") else c for c in text
    )


def fit(text: str, width: int) -> str:
    clean = printable(text)
    return clean if len(clean) <= width else clean[: max(0, width - 1)] + _ELLIPSIS


def board(
    fold: Leaderboard, top: int | None, device_class: str | None, style: Style,
    held_out: bool = False,
) -> str:  # fmt: skip
    """The leaderboard, one table per device class, best first; `held_out` scores are for people."""
    parts = [
        "\n".join(_class_lines(known, top, style, held_out))
        for name, known in fold.classes.items()
        if device_class in (None, name)
    ]
    return "\n\n".join(parts)


def status(document: Document, style: Style) -> str:
    """The swarm and its workers."""
    state = document["state"] + (f" ({document['reason']})" if document["reason"] else "")
    if document["state"] == "running" and not document["supervisor"]:
        state = "running without its supervisor (swarm recover starts it again)"
    limit = f" of {document['max_experiments']}" if document["max_experiments"] else ""
    lines = [f"swarm {document['tag']}: {state}, {document['experiments']}{limit} experiments"]
    for name in ("incumbent", "best"):
        found = document[name]
        if found:
            sd = f" ± {found['sd']:.6f}" if found["sd"] is not None else ""
            lines.append(
                f"{name}: {found['experiment']}, val_bpb {found['val_bpb']:.6f}{sd}"
                f" (trials: {found['replicates']}), commit {found['commit'][:10]}"
            )
    for known in document["device_classes"]:
        lines.append(f"noise: {noise(known['noise'])}, {known['name']}")
        lines += [_claim(known["claim"])] if known["claim"] else []
        if known["unverified"] and not known["verified"]:
            lines.append(f"claims rest on trials' own scores, {printable(known['unverified'])}")
    lines += _spend(document["spend"])
    return "\n".join([*lines, "", *_workers(document["workers"], style)])


def _workers(workers: Sequence[Document], style: Style) -> Iterable[str]:
    """A line per worker; below it, in full, what does not fit there or hinders its agent."""
    rows = [["worker", "state", "exps", "best", "duty", "agent", "what"]]
    rows += [
        [
            worker["name"],
            _state(worker),
            str(worker["experiments"]),
            _score(worker["best_val_bpb"]),
            "-" if worker["duty_cycle"] is None else f"{worker['duty_cycle']:.0%}",
            fit(worker["agent"], 16),
            "",
        ]
        for worker in workers
    ]
    room, below = _room(rows, style), [""]
    for row, worker in zip(rows[1:], workers, strict=True):
        row[-1], more = _what(worker, room, style.width)
        below.append(more)
    for line, more in zip(_table(rows, style, (2, 3, 4), coloured=1), below, strict=True):
        yield line
        yield from _indented(more, style.width)


def _indented(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, max(40, width), initial_indent=_INDENT, subsequent_indent=_INDENT,
        break_on_hyphens=False,
    )  # fmt: skip


def experiment(fold: Leaderboard, entry: Entry, style: Style) -> str:
    """One experiment: what, why, and its trials."""
    claim = entry.claim
    who = f"{claim.worker}, {claim.agent}" if claim.worker else "the starting point"
    lines = [
        f"{claim.experiment}  {style.word(entry.kind)}  {printable(claim.description)}",
        f"why      {printable(entry.reason)}",
        f"who      {who}, {claim.time:%Y-%m-%d %H:%M:%S} UTC",
        f"commit   {claim.commit}" + (f", on {claim.parent}" if claim.parent else ""),
    ]
    if entry.metrics.num_steps:
        speed = entry.metrics.tokens_per_second or 0
        lines.append(f"speed    {entry.metrics.num_steps} steps, {speed:,.0f} tokens/s")
    if entry.bill:
        known = entry.bill.known_usd
        price = "at no known price" if known is None else f"{usd(known)} USD"
        lines.append(f"cost     {price}, {tokens(entry.bill.tokens)} tokens")
    for trial in entry.trials:
        score = "" if trial.val_bpb is None else f"  val_bpb {trial.val_bpb:.6f}"
        purpose = "" if trial.purpose == "experiment" else f", {trial.purpose}"
        slow = f" (only {trial.batches} batches: disturbed, not scored)" if trial.slow else ""
        verified = ", verified" if trial.verified else ""
        lines.append(
            f"{trial.id:<8} {style.word(trial.outcome or 'training')} on {trial.worker},"
            f" seed {trial.seed}{purpose}, {trial.seconds:.0f} s{score}{verified}{slow}"
        )
    return "\n".join(lines)


def verdict_line(entry: Entry, style: Style) -> str:
    """One experiment in one line, for a running commentary."""
    claim = entry.claim
    text = f"{claim.experiment:<5} {claim.worker:<6} {entry.kind:<9} {printable(claim.description)}"
    return style.word(entry.kind, fit(f"{text} | {entry.reason}", style.width))


def _class_lines(
    known: DeviceClass, top: int | None, style: Style, held_out: bool
) -> Iterable[str]:
    yield f"{known.name}   noise {noise(documents.noise(known))}"
    baseline = known.entries[BASELINE].estimate if BASELINE in known.entries else None
    rows = [["", "exp", "val_bpb", "Δ base", "n", "verdict", "worker", "parent", "description"]]
    if held_out:
        rows[0].insert(-1, "held-out")
    for entry in ranked(known)[:top]:
        mean = entry.estimate.mean if entry.estimate else None
        delta = mean - baseline.mean if mean is not None and baseline else None
        rows.append(
            [
                _marks(known, entry),
                entry.experiment,
                _score(mean),
                "-" if delta is None else f"{delta:+.6f}",
                str(len(entry.values)),
                "confirmed" if entry.confirmed else entry.kind,
                entry.claim.worker or "-",
                entry.claim.parent or "-",
                entry.claim.description,
            ]
        )
        if held_out:
            rows[-1].insert(-1, _score(drift.heldout(entry)))
    yield from _table(rows, style, right=(2, 3, 4, 8) if held_out else (2, 3, 4), coloured=5)
    yield "* incumbent: the search builds on it   + best: what is claimed"


def _marks(known: DeviceClass, entry: Entry) -> str:
    incumbent, best = (entry.experiment == name for name in (known.incumbent, known.best))
    return "*" * incumbent + "+" * best


def noise(found: Document) -> str:
    """What is known of the noise of a device class: `σ 0.000512 (95 %: 0.000392 to …)`."""
    count = found["replicates"]
    if not count:
        return f"σ {found['sd']:.6f} assumed; nothing was replicated yet"
    trials = "1 replicate" if count == 1 else f"{count} replicates"
    partly = "" if found["measured"] else " and what is usual"
    between = f"95 %: {found['low']:.6f} to {found['high']:.6f}"
    return f"σ {found['sd']:.6f} ({between}; from {trials}{partly})"


def _claim(found: Document) -> str:
    own, other = found["trials"]
    return (
        f"claim under test: {found['experiment']} against {found['against']},"
        f" {own} and {other} of {found['next_look']} trials each"
    )


def _state(worker: Document) -> str:
    """The state in a word; what its agent is at says more than that it does not train."""
    state = str(worker["state"])
    return _AGENT_STATES.get(worker["agent_state"], state) if state == "thinking" else state


def _what(worker: Document, room: int, width: int) -> tuple[str, str]:
    """Why a worker is in its state: what stands in its row, and what stands below it.

    What keeps its agent from working is worth a line of its own, unless one is wide enough for all.
    """
    reason, agent = printable(worker["reason"]), printable(worker["agent_reason"])
    if worker["state"] == "stopped":  # nobody has to do anything about it
        return reason, ""
    hindered = worker["agent_state"] not in ("working", "starting", "ended", "")
    hindrance = agent if hindered and agent not in reason else ""
    whole = f"{hindrance}; {reason}" if hindrance else reason
    if len(whole) <= room and (width >= _WIDE or not hindered):
        return whole, ""
    if hindrance and len(reason) <= room:
        return reason, hindrance
    return "", whole


def _spend(found: Document) -> list[str]:
    """What was spent, where anything was."""
    uncounted = found["uncounted_calls"]
    if not found["tokens"] and not uncounted and found["devices_usd"] is None:
        return []
    limit = "" if found["max_usd"] is None else f" of {found['max_usd']:g}"
    line = f"spent: {usd(found['usd'])}{limit} USD, {tokens(found['tokens'])} tokens"
    for what, each in (("experiment", "usd_per_experiment"), ("kept change", "usd_per_keep")):
        line += "" if found[each] is None else f", {usd(found[each])} USD per {what}"
    unknown = found["unpriced_tokens"]
    line += f" ({tokens(unknown)} tokens have no known price)" if unknown else ""
    told = f"; of {uncounted} calls the provider did not say how much they took"
    return [line + (told if uncounted else "")]


def usd(amount: float) -> str:
    """`12.30`, or `0.0042` for what is less than a dime."""
    return f"{amount:.2f}" if amount >= 0.1 or not amount else f"{amount:.4f}"


def tokens(count: int) -> str:
    """`950`, `12 k`, `3.4 M`."""
    if count < 1000:
        return str(count)
    return f"{count / 1e3:.0f} k" if count < 1e6 else f"{count / 1e6:.1f} M"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.6f}"


def _table(
    rows: Sequence[Sequence[str]], style: Style, right: Sequence[int], coloured: int
) -> Iterable[str]:
    """Align columns; the last one takes what the terminal's width leaves."""
    widths = _widths(rows)
    left = max(20, _room(rows, style))
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        cells[coloured] = style.word(row[coloured], cells[coloured])
        yield "  ".join([*cells, fit(row[-1], left)]).rstrip()


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]


def _room(rows: Sequence[Sequence[str]], style: Style) -> int:
    """What the terminal's width leaves for the last column."""
    widths = _widths(rows)
    return style.width - sum(widths) - 2 * len(widths)
