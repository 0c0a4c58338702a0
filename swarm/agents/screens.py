"""What the screen of a coding CLI shows, told from its text alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from swarm.agents.clis import Cli, Dialog, pattern

Kind = Literal[
    "starting", "dialog", "asks", "prompt", "drafted", "busy", "limit", "login", "unknown"
]
_ESCAPE = re.compile(
    r"\x1b\[(?P<sgr>[\d;:]*)m"  # colours and the like
    r"|\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]"
    r"|[\x00-\x08\x0b-\x1f]"
)
_OPTION = re.compile(
    r"^[\s│┃|]*(?P<cursor>[❯›●>▌→])?\s*(?P<number>\d{1,2})[.)] +(?P<text>.*?)[\s│┃|]*$", re.M
)
_BORDER = " \t│┃|╭╮╰╯─━═❯›●•◦>■✕⎿✻*"
_LINE_CHARACTERS = 120
_LINES_ABOVE = 10
"""Signs of what is now stand that near above the prompt box, or below; above may be anything."""


@dataclass(frozen=True)
class Sight:
    """What one look at a screen tells, with the line that tells it.

    `keys` is what a dialog wants next, `draft` what stands unsent in the prompt box (`None` where
    there is no box), `reset` what a usage limit says of its end. `took` tells that the screen shows
    a message that was sent, `trouble` is what the CLI says of a server that fails; `above` is all
    that stands above the prompt box.
    """

    kind: Kind
    line: str = ""
    keys: tuple[str, ...] = ()
    draft: str | None = None
    reset: str = ""
    took: bool = False
    trouble: str = ""
    above: str = field(default="", repr=False)


def recognise(cli: Cli, text: str) -> Sight:
    """What the visible screen `text` shows, escape sequences or not. The last match wins.

    What stands above a newer prompt box or message of ours is old. Faint text is no draft: CLIs
    show examples and suggestions in an empty prompt box.
    """
    plain, bright = _plain(text)
    box = _last(cli.prompt, bright)
    options = _options(plain)
    if box and options and options[0].start() <= box.end() <= options[-1].end():
        box = None  # the cursor of a menu
    sight = _sight(cli, plain, box, options)
    return replace(sight, above=plain[: box.start()] if box else plain)


def limit_in(cli: Cli, log: str) -> Sight | None:
    """The last usage limit in the last lines of a log, such as one without a screen leaves."""
    plain, _ = _plain(log)
    limit = _last(cli.limit, plain)
    if limit is None:
        return None
    return Sight("limit", _telling(limit), reset=limit.groupdict().get("reset") or "")


def _sight(cli: Cli, plain: str, box: re.Match[str] | None, options: list[re.Match[str]]) -> Sight:
    start = box.start() if box else len(plain)
    draft = None if box is None else _draft(cli, box)
    echo = _last(cli.echo, plain[:start])
    took, since = echo is not None, echo.start() if echo else 0
    below = box.start() if box else 0
    if (dialog := _dialog(cli, plain, below)) is not None:
        return dialog
    nearby = plain[max(since, _lines_above(plain, start, _LINES_ABOVE)) :]
    recent = nearby if box else plain[since:]
    failing = _last(cli.trouble, recent)
    trouble = _telling(failing) if failing else ""
    if busy := next((found for sign in cli.busy if (found := _last([sign], nearby))), None):
        return Sight("busy", _telling(busy), draft=draft, took=took, trouble=trouble)
    if limit := _last(cli.limit, recent):
        reset = limit.groupdict().get("reset") or ""
        return Sight("limit", _telling(limit), draft=draft, reset=reset, took=took)
    if login := _last(cli.login, recent):
        return Sight("login", _telling(login), draft=draft, took=took)
    starting = _last(cli.starting, plain)
    started = starting.start() if starting else -1
    if options and options[0].start() > max(started, box.start() if box else -1):
        above = plain[: options[0].start()].rstrip(_BORDER + "\n")
        return Sight("asks", _last_line(above) or _telling(options[0]))
    if starting and started >= below and not took:
        return Sight("starting", _telling(starting))
    if draft is not None:
        kind: Kind = "drafted" if draft else "prompt"
        return Sight(kind, draft, draft=draft, took=took, trouble=trouble)
    return Sight("unknown" if plain.strip() else "starting", _last_line(plain), took=took)


def _dialog(cli: Cli, plain: str, below: int) -> Sight | None:
    """The last known question, if it is newer than the prompt box."""
    known = [(found, d) for d in cli.dialogs if (found := _last([d.sign], plain))]
    sign, dialog = max(known, key=lambda pair: pair[0].start(), default=(None, None))
    answered = _last(cli.starting, plain)
    if sign is None or dialog is None or sign.start() < below:
        return None
    if answered and answered.start() > sign.start():
        return None
    options = _options(plain[sign.start() :])
    if not (dialog.keys or options):
        return None  # somebody's words, or it is still being drawn
    keys = dialog.keys or _step(dialog, options)
    return Sight("dialog" if keys else "asks", _telling(sign), keys)


def _step(dialog: Dialog, options: list[re.Match[str]]) -> tuple[str, ...]:
    """The next key on the way to the wanted option; none when it is not there.

    One step at a time, each seen before the next: keys sent together get lost while it redraws,
    and then the wrong option is confirmed. The order of options differs between versions.
    """
    wanted = [i for i, o in enumerate(options) if pattern(dialog.choose).search(o["text"])]
    if not wanted:
        return ()
    chosen = next(i for i, option in enumerate(options) if option["cursor"])
    if wanted[0] == chosen:
        return ("Enter",)
    return ("Down",) if wanted[0] > chosen else ("Up",)


def _options(plain: str) -> list[re.Match[str]]:
    """The last menu: lines numbered 1, 2, …, two at least, with a cursor at exactly one."""
    found: list[re.Match[str]] = []
    for option in _OPTION.finditer(plain):
        number = int(option["number"])
        if number == 1:
            found = []
        if number == len(found) + 1:
            found.append(option)
    is_menu = len(found) > 1 and sum(bool(option["cursor"]) for option in found) == 1
    return found if is_menu else []


def _draft(cli: Cli, box: re.Match[str]) -> str:
    draft = box["draft"].strip(" \t\u00a0")
    return "" if _last(cli.placeholder, draft) else draft


def _last(patterns: Iterable[str], text: str) -> re.Match[str] | None:
    """The match of any of the patterns that begins last; of equals, that of the first pattern."""
    last: re.Match[str] | None = None
    for source in patterns:
        for found in pattern(source).finditer(text):
            if last is None or found.start() > last.start():
                last = found
    return last


def _plain(text: str) -> tuple[str, str]:
    """The text without escape sequences, and the same with blanks where it is faint."""
    plain, bright, faint, end = [], [], False, 0
    for escape in _ESCAPE.finditer(text.replace("\r\n", "\n")):
        run = escape.string[end : escape.start()]
        plain.append(run)
        bright.append(_blank(run) if faint else run)
        end = escape.end()
        faint = _is_faint(escape["sgr"], faint)
    run = text.replace("\r\n", "\n")[end:]
    plain.append(run)
    bright.append(_blank(run) if faint else run)
    whole = "".join(plain).rstrip()
    return whole, "".join(bright)[: len(whole)]


def _blank(run: str) -> str:
    return re.sub(r"[^\n]", " ", run)


def _is_faint(codes: str | None, faint: bool) -> bool:
    """Whether text is faint after a colour sequence; `38;2;…` and `38;5;…` are colours."""
    if codes is None:
        return faint
    numbers = iter(codes.replace(":", ";").split(";"))
    for number in numbers:
        if number in ("38", "48", "58"):
            skip = {"2": 3, "5": 1}.get(next(numbers, ""), 0)
            for _ in range(skip):
                next(numbers, "")
        elif number == "2":
            faint = True
        elif number in ("", "0", "00", "1", "22"):
            faint = False
    return faint


def _lines_above(text: str, position: int, lines: int) -> int:
    """Where the last `lines` lines above `position` begin; blank ones are not counted."""
    while lines and position > 0:
        start = text.rfind("\n", 0, position - 1) + 1
        lines -= bool(text[start:position].strip())
        position = start
    return position


def _telling(found: re.Match[str]) -> str:
    """The line in which a match begins, once its leading blanks are passed."""
    text = found.string
    begin = found.start() + len(found[0]) - len(found[0].lstrip())
    start = text.rfind("\n", 0, begin) + 1
    end = text.find("\n", begin)
    return _tidy(text[start : end if end >= 0 else len(text)])


def _last_line(text: str) -> str:
    return _tidy(text.rstrip().rpartition("\n")[2])


def _tidy(line: str) -> str:
    return " ".join(line.strip(_BORDER).split())[:_LINE_CHARACTERS]
