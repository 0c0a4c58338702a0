"""Whether something simpler does as well: a change that turned out to be none can be left out."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swarm.leaderboard import BASELINE
from swarm.report.result import Result, Step

SourceOf = Callable[[str], str | None]
_NO_BETTER = 0.5
_NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENCODING, tokenize.ENDMARKER,
}  # fmt: skip


@dataclass(frozen=True)
class Doubt:
    """A change of the result's lineage that turned out no better than what it was made on.

    `lines` are the effective lines of its train.py, `parent_lines` those without it; `None` where
    a commit is lost. `is_last`: nothing else was built on it, so its parent stands in for it.
    """

    step: Step
    parent_commit: str
    lines: int | None
    parent_lines: int | None
    is_last: bool

    @property
    def parent_is_simpler(self) -> bool:
        """Ties go to the simpler train.py; of equals, to what was there before."""
        if self.lines is None or self.parent_lines is None:
            return False
        return self.parent_lines <= self.lines


def doubts(found: Result, source_of: SourceOf) -> tuple[Doubt, ...]:
    """The steps that did not lower val_bpb by all their trials, confirmed or not.

    Confirmed ones are among them if they were better than the best before, but are no longer
    believed to be better than what they were made on.
    """
    commits = {step.score.experiment: step.score.commit for step in found.steps}
    if found.baseline:
        commits[BASELINE] = found.baseline.commit
    return tuple(
        Doubt(
            step,
            commits.get(step.parent, ""),
            _lines(source_of(step.score.experiment)),
            _lines(source_of(step.parent)),
            step is found.steps[-1],
        )
        for step in found.steps
        if step.gain.value <= 0 or (step.score.confirmed and step.better < _NO_BETTER)
    )


def _lines(source: str | None) -> int | None:
    return None if source is None else effective_lines(source)


def effective_lines(source: str) -> int:
    """Lines with code on them: no blank ones, no comments, no docstrings."""
    lines = set[int]()
    try:
        tokens = [
            token
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type not in (tokenize.COMMENT, tokenize.NL)
        ]
    except (tokenize.TokenError, SyntaxError):
        stripped = (line.strip() for line in source.splitlines())
        return sum(bool(line) and not line.startswith("#") for line in stripped)
    for at, token in enumerate(tokens):
        if token.type not in _NO_CODE and not _is_docstring(tokens, at):
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def _is_docstring(tokens: Sequence[tokenize.TokenInfo], at: int) -> bool:
    """Whether a token is a string that is a statement by itself."""
    edges = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    before = tokens[at - 1].type if at else tokenize.NEWLINE
    alone = before in edges and tokens[at + 1].type in edges
    return tokens[at].type == tokenize.STRING and alone
