"""Stand-ins for other people's coding CLIs: small programs drawn like them, with known habits.

`install` writes one into a folder, to be put on PATH under the name of the CLI it is drawn like.
It takes its prompt from behind `--` or typed, and then does what its habits say. In a worktree of
a swarm it can do experiments: it edits `LR` in train.py, submits, waits for the verdict.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Habits:
    """How a stand-in behaves. `works`: what it does upon a message.

    `forever`: experiments without end; `once`: one, then it exits with 0; `idle`: one (or
    `seconds` of looking busy outside of a swarm), then back to its prompt; `never`: nothing.
    The first `limited` messages hit a usage limit that `resets` then.
    """

    drawn_like: Literal["claude", "codex"] = "claude"
    works: Literal["forever", "once", "idle", "never"] = "forever"
    dialogs: tuple[Literal["trust", "bypass"], ...] = ()
    starts_in: float = 0.0
    dies: bool = False
    drops_argument: bool = False
    swallows_enters: int = 0
    loses_pastes: int = 0
    limited: int = 0
    resets: str = "3am"
    logged_in: bool = True
    escapes: bool = False
    seconds: float = 0.3
    record: str = ""


def install(folder: Path, name: str, habits: Habits) -> Path:
    """Write the stand-in as an executable `name`; its events go to the file `habits.record`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    text = PROGRAM.replace("HABITS_AS_JSON", repr(json.dumps(asdict(habits))))
    script = folder / f".{name}.py"
    script.write_text(text)
    # A first line that names an interpreter cannot have a space in it, as a checkout's path may.
    run = " ".join(shlex.quote(str(part)) for part in (sys.executable, script))
    program.write_text(f'#!/bin/sh\nexec {run} "$@"\n')
    program.chmod(0o755)
    return program


def events(record: Path) -> list[dict[str, Any]]:
    """What a stand-in noted: `event`, `time` (seconds since the epoch) and perhaps `text`."""
    if not record.exists():
        return []
    return [json.loads(line) for line in record.read_text().splitlines()]


PROGRAM = r'''
import json, os, random, re, select, signal, subprocess, sys, termios, threading, time, tty

H = json.loads(HABITS_AS_JSON)
CODEX = H["drawn_like"] == "codex"
MARK = "›" if CODEX else "❯"
QUESTIONS = {
    "trust": (
        ["Trust this folder? It can run files here."] if CODEX else
        ["Quick safety check: Is this a project you created or one you trust?"],
        ["Trust and continue", "Back"] if CODEX else ["Yes, I trust this folder", "No, exit"], 0),
    "bypass": (["WARNING: Claude Code running in Bypass Permissions mode"],
        ["No, exit", "Yes, I accept"], 1),
}
LIMIT = "  ⎿  You've hit your session limit · resets " + H["resets"]
if CODEX:
    LIMIT = "■ You've hit your usage limit. Upgrade to Pro or try again " + H["resets"]
LOGIN = "■ unexpected status 401 Unauthorized" if CODEX else "  ⎿  Not logged in · Run /login"


def note(event, text=""):
    if H["record"]:
        with open(H["record"], "a") as file:
            file.write(json.dumps({"event": event, "text": text, "time": time.time()}) + "\n")


def experiment(say):
    """One experiment by way of the swarm; some looking busy where there is none."""
    if not os.path.exists(".swarm"):
        time.sleep(H["seconds"])
        return
    source = open("train.py").read()
    rate = random.uniform(0.01, 0.9)
    source = re.sub(r"^LR = \S+", f"LR = {rate:.5f}", source, flags=re.M)
    open("train.py", "w").write(source)
    for command in (["eval", "--no-wait", "-m", f"learning rate {rate:.3f}"],
                    ["result", "--wait", "20"]):
        done = subprocess.run(["swarm", *command], stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        say(("• " if CODEX else "● ") + (done.stdout.strip().splitlines() or ["done"])[-1][:90])


class Screen:
    def __init__(self):
        self.said, self.draft, self.busy, self.question = [], "", False, None
        self.cursor, self.ticks, self.shown, self.ready = 0, 0, "", False

    def say(self, line):
        self.said.append(line)

    def lines(self):
        bar = "─" * min(60, os.get_terminal_size().columns)
        if self.question:
            text, options, _ = QUESTIONS[self.question]
            marks = [MARK if i == self.cursor else " " for i in range(len(options))]
            menu = [f" {m} {i + 1}. {o}" for i, (m, o) in enumerate(zip(marks, options))]
            if CODEX:
                menu = [line[1:] for line in menu]
            return [*([] if CODEX else [bar]), "", *text, "", *menu, "", " Enter to confirm"]
        if not self.ready:
            return [""]
        below = [bar, "  ⏵⏵ accept edits on"]
        if CODEX:
            below = ["", "  gpt-5 · ~/tree", "  ? for shortcuts"]
        busy = []
        if self.busy:
            spinner = "·✢✳✶✻✽"[self.ticks % 6]
            busy = ["", f"{spinner} Pondering… ({self.ticks // 10}s)", ""]
            if CODEX:
                busy = ["", f"• Working ({self.ticks // 10}s • esc to interrupt)", ""]
        faint = "\x1b[2mTry asking for something\x1b[0m"
        box = f"{MARK} {self.draft or faint}"
        return [*self.said[-8:], *busy, *([""] if CODEX else [bar]), box, *below]

    def draw(self):
        # A new second of being busy is something new to draw, as it is for a real one.
        self.ticks += self.busy
        text = "\r\n".join(self.lines())
        if H["escapes"]:
            text = re.sub("(?m)^[^\x1b]*$", "\x1b[1;38;5;153m\\g<0>\x1b[0m", text)
            text += "\x1b]0;a title\x07\x1b[?25l"
        if text != self.shown:
            self.shown = text
            os.write(1, ("\x1b[H\x1b[2J" + text).encode())


class Agent:
    def __init__(self, argument):
        self.screen, self.argument = Screen(), "" if H["drops_argument"] else argument
        self.swallow, self.lose = H["swallows_enters"], H["loses_pastes"]
        self.limited = H["limited"]
        self.open = list(H["dialogs"])
        self.starts = time.monotonic() + H["starts_in"]

    def ask(self):
        self.screen.question = self.open.pop(0) if self.open else None
        self.screen.cursor = 0
        if self.screen.question is None:
            self.screen.ready = True
            note("ready")
            if self.argument:
                self.submit(self.argument)

    def answer(self):
        wanted = QUESTIONS[self.screen.question][2]
        note("answered", self.screen.question if self.screen.cursor == wanted else "wrongly")
        if self.screen.cursor != wanted:
            sys.exit(1)
        self.ask()

    def enter(self):
        if not self.screen.draft or self.screen.busy:
            return
        if self.swallow:
            self.swallow -= 1
            return
        text, self.screen.draft = self.screen.draft, ""
        self.submit(text)

    def submit(self, text):
        note("got", text)
        self.screen.say(f"{MARK} {text.splitlines()[0][:70]}")
        self.screen.say("")
        if self.limited or not H["logged_in"]:
            self.screen.say(LIMIT if self.limited else LOGIN)
            self.limited = max(0, self.limited - 1)
        elif H["works"] != "never":
            self.screen.busy = True
            threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        note("busy")
        experiment(self.screen.say)
        while H["works"] == "forever":
            experiment(self.screen.say)
        self.screen.busy = False
        note("idle")
        if H["works"] == "once":
            os.kill(os.getpid(), signal.SIGTERM)

    def feed(self, data):
        for key in re.findall("\x1b\\[200~.*?\x1b\\[201~|\x1b\\[[0-9;]*[A-Za-z~]|.", data, re.S):
            if key.startswith("\x1b[200~"):
                if self.lose:
                    self.lose -= 1
                elif self.screen.ready:
                    self.screen.draft += key[6:-6].replace("\r", " ")
            elif key in ("\x1b[A", "\x1b[B") and self.screen.question:
                last = len(QUESTIONS[self.screen.question][1]) - 1
                step = 1 if key.endswith("B") else -1
                self.screen.cursor = min(last, max(0, self.screen.cursor + step))
            elif key == "\r":
                self.answer() if self.screen.question else self.enter()
            elif key == "\x03":
                sys.exit(130)
            elif key.isprintable() and self.screen.ready:
                self.screen.draft += key

    def run(self):
        tty.setraw(0)
        os.write(1, b"\x1b[?2004h")
        while True:
            if self.starts is not None and time.monotonic() >= self.starts:
                self.starts = None
                self.ask()
            self.screen.draw()
            if select.select([0], [], [], 0.1 if self.screen.busy else 0.05)[0]:
                data = os.read(0, 65536)
                if not data:
                    return
                while data.count(b"\x1b[200~") > data.count(b"\x1b[201~"):
                    data += os.read(0, 65536)
                self.feed(data.decode())


signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
argument = sys.argv[-1] if "--" in sys.argv else ""
note("started")
if H["dies"]:
    print("cannot start: no such option", flush=True)
    time.sleep(0.3)  # tmux may lose what is printed right before the end
    sys.exit(1)
if sys.stdout.isatty() and sys.stdin.isatty():
    before = termios.tcgetattr(0)
    try:
        Agent(argument).run()
    finally:
        os.write(1, b"\x1b[?2004l\r\n")
        termios.tcsetattr(0, termios.TCSANOW, before)
note("busy")
experiment(lambda line: print(line, flush=True))
while H["works"] == "forever":
    experiment(lambda line: print(line, flush=True))
'''
