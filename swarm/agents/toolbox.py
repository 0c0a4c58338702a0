"""What a built-in coding agent can do: look, change its draft of train.py, and submit it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from swarm.agents.draft import Draft
from swarm.agents.models.chat import Call, Result, Tool
from swarm.agents.session import Session
from swarm.errors import Refused
from swarm.mailbox import Answer
from swarm.standings import Entry
from swarm.views import brief

LONGEST_ANSWER = 12_000
"""Characters of a tool's answer; the conversation carries them to its end."""
LONGEST_READ = 60_000
_LOG_LINES = 80
_MOST_LISTED = 50


class Read(msgspec.Struct, forbid_unknown_fields=True):
    """Show your draft of train.py: all of it, or the lines from first (the top is 1) to last."""

    first: int = 1
    last: int = 1_000_000


class Edit(msgspec.Struct, forbid_unknown_fields=True):
    """Replace lines of your draft. `old` must occur in it exactly once, indentation included."""

    old: str
    new: str


class Rewrite(msgspec.Struct, forbid_unknown_fields=True):
    """Replace your draft by a whole new train.py. For small changes, edit is cheaper."""

    source: str


class Diff(msgspec.Struct, forbid_unknown_fields=True):
    """Show what your draft changes, against the base it was begun from."""


class Reset(msgspec.Struct, forbid_unknown_fields=True):
    """Throw your draft's changes away and begin again from the current base."""


class Board(msgspec.Struct, forbid_unknown_fields=True):
    """List the experiments with the lowest val_bpb, best first."""

    top: int = 20


class Show(msgspec.Struct, forbid_unknown_fields=True):
    """Show an experiment (such as e17): its verdict and why, its trials, and its diff."""

    experiment: str


class Log(msgspec.Struct, forbid_unknown_fields=True):
    """Show the end of the log of an experiment's last trial."""

    experiment: str


class Note(msgspec.Struct, forbid_unknown_fields=True):
    """Tell all other workers something that you learnt, in a sentence or two."""

    text: str


class Submit(msgspec.Struct, forbid_unknown_fields=True):
    """Submit your draft for a trial; `description` says in one line what it changes and why."""

    description: str


_TOOLS: tuple[type[msgspec.Struct], ...] = (
    Read, Edit, Rewrite, Diff, Reset, Board, Show, Log, Note, Submit,
)  # fmt: skip


class Toolbox:
    """The tools of one idea, which ends when its draft is `submitted`.

    `errors` counts the calls since the last one that succeeded.
    """

    def __init__(self, session: Session, before_submission: Callable[[], None]) -> None:
        self.session = session
        self.draft: Draft = session.begin()
        self.submitted: Answer | None = None
        self.errors = 0
        self._before_submission = before_submission
        self._do: dict[str, Callable[[Any], str]] = {
            "read": self._read, "edit": self._edit, "rewrite": self._rewrite, "diff": self._diff,
            "reset": self._reset, "board": self._board, "show": self._show, "log": self._log,
            "note": self._note, "submit": self._submit,
        }  # fmt: skip

    def run(self, call: Call) -> Result:
        """Do what the model asked for; what is wrong with it is told to the model.

        Raises `SwarmError` for what is wrong with the swarm.
        """
        try:
            if call.problem:
                raise Refused(
                    call.problem, "call the tool again, with arguments as its schema says"
                )
            if self.submitted is not None:
                raise Refused(
                    "this draft was submitted already", "nothing more can be done with it"
                )
            answer = brief.clipped(self._answer(call), LONGEST_READ)
            self.errors = 0
            return Result(call, answer)
        except Refused as error:
            self.errors += 1
            return Result(call, f"error: {error}\nhint: {error.hint}", is_error=True)

    def _answer(self, call: Call) -> str:
        kind = _BY_NAME.get(call.name)
        if kind is None:
            raise Refused(f"there is no tool '{call.name}'", f"tools: {', '.join(_BY_NAME)}")
        try:
            wanted = msgspec.convert(call.arguments, kind, strict=False)
        except msgspec.ValidationError as error:
            raise Refused(f"wrong arguments for {call.name}: {error}", "see its schema") from error
        return self._do[call.name](wanted)

    # ---- the draft -------------------------------------------------------------------------

    def _read(self, wanted: Read) -> str:
        lines = self.draft.text.splitlines()
        first, last = max(1, wanted.first), min(len(lines), wanted.last)
        if first > last:
            raise Refused(f"train.py has {len(lines)} lines", "ask for lines that it has")
        text = "\n".join(lines[first - 1 : last])
        whole = first == 1 and last == len(lines)
        return text if whole else f"[lines {first} to {last} of {len(lines)}]\n{text}"

    def _edit(self, wanted: Edit) -> str:
        self.draft.edit(wanted.old, wanted.new)
        return self._changed()

    def _rewrite(self, wanted: Rewrite) -> str:
        self.draft.rewrite(wanted.source)
        return self._changed()

    def _changed(self) -> str:
        problem = self.draft.problem()
        if problem:
            raise Refused(f"changed, but train.py is no Python program now: {problem}", "mend it")
        return "changed; it compiles"

    def _diff(self, wanted: Diff) -> str:
        changes = brief.diff(self.draft.original, self.draft.text)
        return brief.clipped(changes, LONGEST_ANSWER) or "your draft changes nothing yet"

    def _reset(self, wanted: Reset) -> str:
        self.draft = self.session.begin()
        return "your draft is the current base now"

    # ---- the swarm -------------------------------------------------------------------------

    def _board(self, wanted: Board) -> str:
        self.session.board.refresh()
        known = self.session.board.class_of(self.session.worker)
        return brief.listing(known, max(1, min(wanted.top, _MOST_LISTED)))

    def _show(self, wanted: Show) -> str:
        entry = self._entry(wanted.experiment)
        known = self.session.board.class_of(self.session.worker)
        parts = [brief.described(known, entry)]
        before = self.session.source_of(entry.claim.parent) if entry.claim.parent else None
        after = self.session.source_of(entry.experiment)
        if before is not None and after is not None:
            parts.append(brief.clipped(brief.diff(before, after), LONGEST_ANSWER))
        return "\n".join(parts)

    def _log(self, wanted: Log) -> str:
        entry = self._entry(wanted.experiment)
        text = self.session.log_of(entry.experiment, _LOG_LINES)
        return brief.clipped(text, LONGEST_ANSWER // 2) or "it has no log yet"

    def _entry(self, experiment: str) -> Entry:
        board = self.session.board
        board.refresh()
        known = board.class_of(self.session.worker)
        if experiment not in known.entries:
            raise Refused(f"there is no experiment '{experiment}' here", "see board")
        return known.entries[experiment]

    def _note(self, wanted: Note) -> str:
        self.session.door.note(self.session.scrubber.scrub(wanted.text))
        return "noted"

    def _submit(self, wanted: Submit) -> str:
        problem = self.draft.problem()
        if problem:
            raise Refused(f"train.py is no Python program: {problem}", "mend it, then submit")
        if self.session.scrubber.holds(self.draft.text):
            raise Refused("train.py holds an API key", "take it out; trials get none")
        now = self.session.begin()
        try:
            self.draft.rebase(now.commit, now.original)
        except Refused:
            self.draft = now
            raise
        if broken := self.draft.problem():
            raise Refused(f"on the new base it is no Python program: {broken}", "read and mend it")
        self._before_submission()
        description = self.session.scrubber.scrub(wanted.description)
        self.submitted = self.session.post(self.draft, description)
        return f"taken as {self.submitted.experiment}; its trial comes"


def _tool(kind: type[msgspec.Struct]) -> Tool:
    """The tool's name, description and schema, from the struct of its arguments."""
    schema = msgspec.json.schema(kind)["$defs"][kind.__name__]
    fields = {
        name: {k: v for k, v in of.items() if k != "title"}
        for name, of in schema["properties"].items()
    }
    parameters = {
        "type": "object", "properties": fields, "required": schema.get("required", []),
        "additionalProperties": False,
    }  # fmt: skip
    return Tool(kind.__name__.lower(), " ".join((kind.__doc__ or "").split()), parameters)


_BY_NAME = {kind.__name__.lower(): kind for kind in _TOOLS}
TOOLS = tuple(map(_tool, _TOOLS))
"""What the model is told of the tools."""
