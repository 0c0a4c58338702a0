"""`swarm status` for people: the swarm and what each of its workers does."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from swarm.views import crew
from swarm.views.documents import Document
from swarm.views.table import Style, aligned, fit, noise, printable, room, score, tokens, usd

_INDENT = "        "
_WIDE, _LEAST_ROOM = 120, 20


def status(document: Document, style: Style) -> str:
    """The swarm and its workers."""
    lines = [_headline(document, style)]
    baseline = document["baseline"]
    for name in ("incumbent", "best"):
        found = document[name]
        if found:
            sd = f", their SD {found['sd']:.6f}" if found["sd"] is not None else ""
            lines.append(
                f"{name}: {found['experiment']}, val_bpb {found['val_bpb']:.6f}"
                f" (trials: {found['replicates']}{sd}), commit {found['commit'][:10]}"
            )
            if baseline and found["experiment"] != baseline["experiment"]:
                lines.append(f"{_INDENT}{_gain(found, baseline)}")
    several = len(document["device_classes"]) > 1
    for known in document["device_classes"]:
        where = f" on {known['name']}" if several else ""
        lines.append(f"noise{where}: {noise(known['noise'])}")
        lines += [_claim(known["claim"])] if known["claim"] else []
        if known["unverified"] and not known["verified"]:
            lines.append(f"claims rest on trials' own scores, {printable(known['unverified'])}")
    lines += _spend(document["spend"])
    shown = [part for line in lines for part in _wrapped(line, style.width)]
    return "\n".join([*shown, "", *_workers(document["workers"], style)])


def _headline(document: Document, style: Style) -> str:
    state = style.word(document["state"])
    state += f" ({document['reason']})" if document["reason"] else ""
    if document["state"] == "running" and not document["supervisor"]:
        state = "running without its supervisor (swarm recover starts it again)"
    limit = f" of {document['max_experiments']:,}" if document["max_experiments"] else ""
    line = f"swarm {document['tag']}: {state}, {document['experiments']:,}{limit} experiments"
    hours = document["spend"]["device_hours"]
    duty = [w["duty_cycle"] for w in document["workers"] if w["duty_cycle"] is not None]
    busy = f", devices {sum(duty) / len(duty):.0%} busy" if duty else ""
    return line + (f", {hours:,.1f} device hours{busy}" if hours >= 0.05 else busy)


def _gain(found: Document, baseline: Document) -> str:
    """What an experiment has over the baseline."""
    gain = baseline["val_bpb"] - found["val_bpb"]
    better = "below" if gain >= 0 else "above"
    return f"{abs(gain):.6f} ({abs(gain) / baseline['val_bpb']:.2%}) {better} the baseline"


def _wrapped(line: str, width: int) -> list[str]:
    return textwrap.wrap(
        line, max(40, width), subsequent_indent=_INDENT, break_on_hyphens=False,
        break_long_words=False, drop_whitespace=True,
    ) if len(line) > width else [line]  # fmt: skip


def _workers(workers: Sequence[Document], style: Style) -> Iterable[str]:
    """A line per worker; below it, in full, what does not fit there or hinders its agent."""
    rows = [["worker", "state", "exps", "best", "duty", "agent", "what"]]
    rows += [
        [
            worker["name"],
            _state(worker),
            str(worker["experiments"]),
            score(worker["best_val_bpb"]),
            "-" if worker["duty_cycle"] is None else f"{worker['duty_cycle']:.0%}",
            fit(worker["agent"], 16),
            "",
        ]
        for worker in workers
    ]
    left, below = room(rows, style), [""]
    for row, worker in zip(rows[1:], workers, strict=True):
        row[-1], more = _what(worker, left, style.width)
        below.append(more)
    for line, more in zip(aligned(rows, style, (2, 3, 4), coloured=1), below, strict=True):
        yield line
        yield from _indented(more, style.width)


def _indented(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, max(40, width), initial_indent=_INDENT, subsequent_indent=_INDENT,
        break_on_hyphens=False,
    )  # fmt: skip


def _state(worker: Document) -> str:
    """The state, and how far its trial is."""
    state, trial = str(worker["state"]), worker["trial"]
    if state == "training" and trial and trial["step"] is not None:
        return f"{state} {trial['percent']:.0f}%"
    return crew.word(worker)


def _what(worker: Document, room: int, width: int) -> tuple[str, str]:
    """Why a worker is in its state: what stands in its row, and what stands below it.

    What keeps its agent from working is worth a line of its own, unless one is wide enough for all.
    """
    reason, agent = printable(worker["reason"]), printable(worker["agent_reason"])
    if worker["state"] == "stopped":  # nobody has to do anything about it
        return reason, ""
    if worker["state"] == "training" and worker["trial"]:
        reason = fit(_training(worker["trial"], width >= _WIDE), max(room, _LEAST_ROOM))
    hindered = worker["agent_state"] not in ("working", "starting", "ended", "")
    hindrance = agent if hindered and agent not in reason else ""
    whole = f"{hindrance}; {reason}" if hindrance else reason
    if len(whole) <= room and (width >= _WIDE or not hindered):
        return whole, ""
    if worker["state"] == "training" or (hindrance and len(reason) <= room):
        return reason, hindrance
    return "", whole


def _training(trial: Document, wide: bool) -> str:
    """What trains: `e17 MATRIX_LR 0.04 → 0.03`, and how it does where there is room."""
    again = "" if trial["purpose"] == "experiment" else f" (a {trial['purpose']})"
    what = f"{trial['experiment']}{again} {trial['description']}"
    if not wide or trial["step"] is None:
        return what
    speed, left, loss = trial["tokens_per_second"], trial["seconds_left"], trial["loss"]
    facts = [
        "" if left is None else f"{left:.0f} s left",
        "" if loss is None else f"loss {loss:.4f}",
        "" if speed is None else f"{tokens(round(speed))} tokens/s",
    ]
    return f"{what} | {', '.join(filter(None, facts))}"


def _spend(found: Document) -> list[str]:
    """What was spent, where anything was."""
    uncounted = found["uncounted_calls"]
    if not found["tokens"] and not uncounted and found["devices_usd"] is None:
        return []
    limit = "" if found["max_usd"] is None else f" of {found['max_usd']:g}"
    line = f"spent: {usd(found['usd'])}{limit} USD, {tokens(found['tokens'])} tokens"
    whose = " agents'" if found["devices_usd"] else ""  # only they are shared among experiments
    for what, each in (("experiment", "usd_per_experiment"), ("kept change", "usd_per_keep")):
        line += "" if found[each] is None else f", {usd(found[each])}{whose} USD per {what}"
    unknown = found["unpriced_tokens"]
    line += f" ({tokens(unknown)} tokens have no known price)" if unknown else ""
    told = f"; of {uncounted} calls the provider did not say how much they took"
    return [line + (told if uncounted else "")]


def _claim(found: Document) -> str:
    own, other = found["trials"]
    return (
        f"claim under test: {found['experiment']} against {found['against']}"
        f" ({own} and {other} trials made; looked at when both have {found['next_look']})"
    )
