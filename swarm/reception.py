"""The runner's side of the door: takes the agent's requests and answers them."""

from __future__ import annotations

import os

from swarm import experiment, pollinate, records
from swarm.bookkeeper import Bookkeeper
from swarm.config import Desk
from swarm.errors import DiskFull, Refused, SwarmError
from swarm.experiment import Bench
from swarm.mailbox import (
    Answer,
    Mailbox,
    NoteRequest,
    Request,
    SpendRequest,
    Submission,
    SyncRequest,
)

LONGEST_NOTE = 2000
QUEUE_DEPTH = 1
"""So many experiments may wait beside the one that trains."""


class Reception:
    """Turns requests in the mailbox into experiments, notes and moves, and answers each of them."""

    def __init__(self, bench: Bench, books: Bookkeeper) -> None:
        self.bench, self.books = bench, books
        self.mailbox = Mailbox(bench.worktree.folder)
        self.doorbell = -1
        self._unanswered: dict[str, str] = {}

    def open(self) -> None:
        """Make the mailbox if it is not there (any more), and listen at its doorbell.

        Raises `SwarmError` where the whole worktree is gone: only `swarm recover` makes it anew.
        """
        if self.doorbell >= 0 and self.mailbox.exists():
            return
        folder = self.bench.worktree.folder
        if not (folder / ".git").exists():
            raise SwarmError(f"the worktree {folder} is gone", "swarm recover makes it anew")
        if self.doorbell >= 0:
            os.close(self.doorbell)
        paths = self.bench.paths
        self.mailbox.create(Desk(str(paths.root), paths.tag, self.bench.worker))
        self.doorbell = self.mailbox.open_doorbell()

    def is_asked(self) -> bool:
        """Whether a request waits."""
        return bool(self.mailbox.waiting())

    def take_all(self) -> int:
        """Handle every request that waits; return how many new experiments there are.

        Raises `DiskFull` with the request still in the box, to be taken again.
        """
        state = self.bench.board.workers[self.bench.worker]
        before = state.experiments
        for request in self._waiting():
            try:
                self._take(request)
            except DiskFull:
                raise
            except SwarmError as error:
                self._refuse(request.id, error)
        return state.experiments - before

    def answer_verdicts(self) -> None:
        """Tell the agent about its experiments that now have a verdict, whoever's result it was."""
        board = self.bench.board
        decided = [name for name in self._unanswered if board.entry(name).kind != "candidate"]
        if decided:
            experiment.sync(self.bench)
        for name in decided:
            self.mailbox.answer(experiment.describe(self.bench, self._unanswered[name], name))
            del self._unanswered[name]

    def take_over(self) -> None:
        """Go on where a predecessor died: its unanswered submissions are ours now."""
        claims = self.bench.board.claims.values()
        mine = [claim for claim in claims if claim.worker == self.bench.worker]
        for claim in mine[-QUEUE_DEPTH - 2 :]:
            answer = self.mailbox.read_answer(claim.request)
            if answer and answer.state == "queued":
                self._unanswered[claim.experiment] = claim.request
        self.answer_verdicts()

    def close(self) -> None:
        """Refuse experiments that still wait, so that nobody waits for nothing; keep the rest."""
        for request in self._waiting():
            if isinstance(request, NoteRequest | SpendRequest):
                self._take(request)
            else:
                self._refuse(request.id, SwarmError("the swarm has ended", "see swarm board"))

    def _waiting(self) -> list[Request]:
        waiting = []
        for found in self.mailbox.requests():
            if isinstance(found, Answer):
                self.mailbox.answer(found)
            else:
                waiting.append(found)
        return waiting

    def _take(self, request: Request) -> None:
        match request:
            case Submission():
                self._take_submission(request)
            case NoteRequest():
                if request.id not in self.bench.board.requests:
                    text = self.bench.scrubber.scrub(request.text)[:LONGEST_NOTE]
                    self.bench.journal.append(
                        records.Note(worker=self.bench.worker, text=text, request=request.id)
                    )
                self.mailbox.answer(Answer(id=request.id, state="done"))
            case SpendRequest():
                self._take_spending(request)
            case SyncRequest():
                self._take_sync(request)

    def _take_spending(self, request: SpendRequest) -> None:
        try:
            self.books.report(request)
        except (ValueError, OverflowError) as error:
            raise Refused(f"that cannot have been used: {error}", "report tokens") from error
        self.mailbox.answer(Answer(id=request.id, state="done"))

    def _take_submission(self, submission: Submission) -> None:
        board = self.bench.board
        # A predecessor may have died between journal and answer: then it is claimed already.
        name = board.requests.get(submission.id)
        if name is None:
            if board.stopping:
                raise SwarmError("the swarm is stopping", "swarm spawn --tag starts it again")
            state = board.workers[self.bench.worker]
            if len(state.queue) >= QUEUE_DEPTH + (state.open_trial is None):
                raise Refused(
                    f"the queue is full: {', '.join(state.queue)} not yet started",
                    "wait for it: swarm result --wait 90",
                )
            name = experiment.submit(self.bench, submission)
        experiment.keep_commit(self.bench, name)
        self._unanswered[name] = submission.id
        self.mailbox.answer(experiment.describe(self.bench, submission.id, name))

    def _take_sync(self, request: SyncRequest) -> None:
        if not experiment.sync(self.bench):
            raise Refused(
                "train.py has edits that were not submitted, so it was not moved",
                "submit them with swarm eval, or drop them: git checkout -- train.py",
            )
        base = pollinate.base_for(self.bench.board, self.bench.worker)
        self.mailbox.answer(
            Answer(id=request.id, state="done", base=base.commit, reason=f"on {base.experiment}")
        )

    def _refuse(self, request: str, error: SwarmError) -> None:
        self.mailbox.answer(
            Answer(
                id=request,
                state="refused",
                reason=str(error),
                hint=error.hint,
                exit_code=error.exit_code,
            )
        )
