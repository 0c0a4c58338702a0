"""Verbs of agents, of the swarm's own processes, and of shells."""

from __future__ import annotations

from swarm.arguments import positive
from swarm.verbs.grammar import Parsers, add

_WORKING = "swarm.commands.working"


def declare(verbs: Parsers) -> None:
    _add_working(verbs)
    _add_completion(verbs)


def _add_working(verbs: Parsers) -> None:
    evaluate = add(
        verbs, "eval", f"{_WORKING}:evaluate",
        "in a worktree: submit the edited train.py, wait, print the verdict",
        "swarm eval -m 'halve the matrix learning rate'",
    )  # fmt: skip
    evaluate.add_argument("-m", "--message", required=True, metavar="TEXT")
    evaluate.add_argument("--no-wait", action="store_true", help="return once it is queued")
    result = add(
        verbs, "result", f"{_WORKING}:result",
        "the verdict on an experiment; in a worktree by default on its last one",
        "swarm result --wait 90",
    )  # fmt: skip
    result.add_argument("experiment", nargs="?", metavar="EXPERIMENT")
    result.add_argument("--wait", type=positive, metavar="SECONDS")
    for reader in (evaluate, result):
        reader.add_argument("--json", action="store_true", help="one JSON document on stdout")
    note = add(
        verbs, "note", f"{_WORKING}:note",
        "share what was learnt with all workers", "swarm note 'warm-up does not help'",
    )  # fmt: skip
    note.add_argument("text", metavar="TEXT")
    add(
        verbs, "brief", f"{_WORKING}:brief",
        "in a worktree: what an agent should know before its next idea", "swarm brief",
    )  # fmt: skip
    agent = add(
        verbs, "agent", f"{_WORKING}:agent",
        "a built-in agent, as a runner starts it in a worktree", "swarm agent tuner",
    )  # fmt: skip
    agent.add_argument("spec", metavar="KIND[:MODEL]")
    runner = add(
        verbs, "runner", f"{_WORKING}:runner",
        "a worker's process, as the supervisor starts it", "swarm runner gpu0",
    )  # fmt: skip
    runner.add_argument("worker", metavar="WORKER")
    add(
        verbs, "supervise", f"{_WORKING}:supervise",
        "the supervisor's process, as spawn and recover start it", "swarm supervise --tag nov21",
    )  # fmt: skip


def _add_completion(verbs: Parsers) -> None:
    completion = add(
        verbs, "completion", "swarm.commands.completion:completion",
        "print the completion script of a shell",
        "swarm completion bash > ~/.local/share/bash-completion/completions/swarm",
    )  # fmt: skip
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
