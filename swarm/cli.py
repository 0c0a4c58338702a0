"""The command line: parse, call one function, print. The only place that exits."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeAlias

from swarm import __version__, config
from swarm.arguments import count, duration, list_of, positive
from swarm.errors import INTERRUPTED, USAGE, SwarmError

_READING, _RUNNING, _SIMULATING, _WORKING = (
    f"swarm.commands.{name}" for name in ("reading", "running", "simulating", "working")
)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in the words of every other error. Sub-parsers are of its class too."""

    def error(self, message: str) -> NoReturn:
        _complain(SwarmError(message, f"{self.prog} --help"))
        sys.exit(USAGE)


# The type that add_subparsers returns has no public name.
Parsers: TypeAlias = "argparse._SubParsersAction[_Parser]"


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 failed, 2 wrong usage, 3 refused, 130 interrupted."""
    config.forget_git()
    arguments = parser().parse_args(argv)
    try:
        _verb(arguments.function)(_session(arguments))
    except SwarmError as error:
        if arguments.debug:
            raise
        _complain(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        if arguments.debug:
            raise
        told = f"{type(error).__name__}: {error}"
        _complain(
            SwarmError(f"unexpected: {told}", "run it with --debug and report what it prints")
        )
        sys.exit(1)


def parser() -> argparse.ArgumentParser:
    """The whole command line, importing nothing that a verb needs."""
    top = _Parser(
        prog="swarm",
        description="Autonomous LLM research by a swarm of coding agents, one per GPU.",
        epilog="A first try, on any machine: swarm spawn --agents 2 --seconds 20 --wait",
    )
    top.add_argument("--version", action="version", version=f"swarm {__version__}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_running(verbs)
    _add_reading(verbs)
    _add_simulating(verbs)
    _add_working(verbs)
    _add_completion(verbs)
    return top


def _session(arguments: argparse.Namespace) -> object:
    return importlib.import_module("swarm.commands").Session(arguments, config.environ())


def _verb(name: str) -> Callable[[object], None]:
    module, _, function = name.partition(":")
    found: Callable[[object], None] = getattr(importlib.import_module(module), function)
    return found


def _complain(error: SwarmError) -> None:
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def _add(verbs: Parsers, name: str, function: str, text: str, example: str) -> _Parser:
    added = verbs.add_parser(name, help=text, description=text, epilog=f"example: {example}")
    added.add_argument("--tag", help="which swarm; default: the worktree's, else the latest")
    added.add_argument("--debug", action="store_true", help="show tracebacks")
    added.set_defaults(function=function)
    return added


def _add_running(verbs: Parsers) -> None:
    _add_spawn(verbs)
    stop = _add(
        verbs, "stop", f"{_RUNNING}:stop",
        "end a swarm once its running trials have ended", "swarm stop --tag nov21",
    )  # fmt: skip
    stop.add_argument("--now", action="store_true", help="cut running trials off")
    _add(
        verbs, "recover", f"{_RUNNING}:recover",
        "start again what died of a running swarm", "swarm recover",
    )  # fmt: skip
    for verb, text in (
        ("pause", "start no further trials on these workers (default: all)"),
        ("resume", "go on with paused or parked workers (default: all)"),
        ("sync", "move idle worktrees onto the incumbent now (default: all)"),
    ):
        added = _add(verbs, verb, f"{_RUNNING}:{verb}", text, f"swarm {verb} gpu3")
        added.add_argument("workers", nargs="*", metavar="WORKER")
    merge = _add(
        verbs, "merge", f"{_RUNNING}:merge",
        "merge the best experiment into your branch", "swarm merge --into main",
    )  # fmt: skip
    merge.add_argument("--into", metavar="BRANCH", help="default: the branch you are on")
    merge.add_argument("--squash", action="store_true", help="as a single commit")
    merge.add_argument("--incumbent", action="store_true", help="what the search builds on")
    noise = _add(
        verbs, "noise", f"{_RUNNING}:noise",
        "measure the noise: run the incumbent again, on whichever devices are free first",
        "swarm noise --replicates 5 --wait",
    )  # fmt: skip
    noise.add_argument("--replicates", type=count, default=5, metavar="N", help="default 5")
    noise.add_argument("--wait", action="store_true", help="until they have ended")
    clean = _add(
        verbs, "clean", f"{_RUNNING}:clean",
        "remove the worktrees and branches of a stopped swarm; commits and results stay",
        "swarm clean --tag nov21",
    )  # fmt: skip
    clean.add_argument("--force", action="store_true", help="even with unsubmitted edits")


def _add_spawn(verbs: Parsers) -> None:
    spawn = _add(
        verbs, "spawn", f"{_RUNNING}:spawn",
        "start a swarm: one agent per device, each with its worktree and pane",
        "swarm spawn --agents 8 --max-hours 10",
    )  # fmt: skip
    spawn.add_argument("--agents", type=count, metavar="N", help="how many; default: all GPUs")
    spawn.add_argument(
        "--agent", action="append", metavar="KIND[:MODEL][=COUNT],…",
        help="tuner (default), anthropic, openai, claude, codex, gemini, opencode, aider, or"
        " cmd:'any shell command'; may be repeated",
    )  # fmt: skip
    spawn.add_argument(
        "--devices", metavar="0,1,…|cpu", help="default: the first free GPUs, or CPU"
    )
    spawn.add_argument("--oversubscribe", action="store_true", help="more CPU workers than cores")
    budget = spawn.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=positive, help="of one trial (default 5)")
    budget.add_argument("--seconds", type=positive, help="of one trial, instead of minutes")
    spawn.add_argument("--trial-timeout", type=positive, metavar="SECONDS", help="for all of it")
    spawn.add_argument("--scale", choices=("full", "small"), help="default: small on CPU")
    spawn.add_argument("--dataset", help="climbmix, builtin or a folder; default: the prepared one")
    _add_limits(spawn)
    spawn.add_argument(
        "--directions", metavar="A,B,…|none",
        help="what workers look into: names from program.md, or words of your own",
    )  # fmt: skip
    spawn.add_argument(
        "--islands", type=count, metavar="K",
        help="groups of workers that build on what they found themselves, and seldom mix",
    )  # fmt: skip
    spawn.add_argument(
        "--pass-env", action="append", default=[], metavar="NAME",
        help="also give this variable to agents that are no part of swarm, though it looks secret",
    )  # fmt: skip
    spawn.add_argument(
        "--policy", choices=("probable", "greedy", "strict"),
        help="what the search builds on: what is probably better (default), whatever scored lower,"
        " or only what replicates confirmed",
    )  # fmt: skip
    spawn.add_argument(
        "--sync-every", type=duration, metavar="30m",
        help="carry the incumbent into idle worktrees this often (30m, 90s, 1h)",
    )  # fmt: skip
    spawn.add_argument("--no-tmux", action="store_true", help="background processes with logs")
    spawn.add_argument("--wait", action="store_true", help="comment on it until it ends")


def _add_limits(spawn: _Parser) -> None:
    """When a swarm has had enough."""
    spawn.add_argument("--max-experiments", type=count, metavar="M", help="of all workers together")
    spawn.add_argument("--max-hours", type=positive, metavar="H")
    spawn.add_argument(
        "--max-usd", type=positive, metavar="D", help="for models and devices together"
    )
    spawn.add_argument(
        "--device-hour-usd",
        type=positive,
        metavar="D",
        help="what a device costs in an hour",
    )


def _add_reading(verbs: Parsers) -> None:
    status = _add(
        verbs, "status", f"{_READING}:status", "the swarm and its workers", "swarm status --json"
    )
    board = _add(
        verbs, "board", f"{_READING}:board", "the leaderboard, best first", "swarm board --top 20"
    )
    board.add_argument("--top", type=count, metavar="K")
    board.add_argument("--device-class", metavar="C")
    board.add_argument(
        "--held-out", action="store_true", help="with scores on text that no trial is judged by"
    )
    show = _add(
        verbs, "show", f"{_READING}:show",
        "an experiment: verdict and why, trials, diff", "swarm show e17",
    )  # fmt: skip
    show.add_argument("experiment", metavar="EXPERIMENT")
    notes = _add(verbs, "notes", f"{_READING}:notes", "what the workers noted", "swarm notes")
    doctor = _add(
        verbs, "doctor", f"{_READING}:doctor",
        "what is here, what is missing and how to get it", "swarm doctor",
    )  # fmt: skip
    verify = _add(
        verbs, "verify", "swarm.commands.verifying:verify",
        "evaluate an experiment's kept weights again, on a free device; exits 1 unless it holds",
        "swarm verify e17",
    )  # fmt: skip
    verify.add_argument("experiment", metavar="EXPERIMENT")
    verify.add_argument("--device", metavar="WORKER", help="of this worker; default: any free one")
    for reader in (status, board, show, notes, doctor, verify):
        reader.add_argument("--json", action="store_true", help="one JSON document on stdout")
    log = _add(
        verbs, "log", f"{_READING}:log",
        "the log of a worker (its pane), a trial or an experiment", "swarm log gpu3 -f",
    )  # fmt: skip
    log.add_argument("name", metavar="WORKER|TRIAL")
    log.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    attach = _add(
        verbs, "attach", f"{_READING}:attach", "show the panes (tmux)", "swarm attach gpu3"
    )
    attach.add_argument("worker", nargs="?", metavar="WORKER")


def _add_simulating(verbs: Parsers) -> None:
    simulate = _add(
        verbs, "simulate", f"{_SIMULATING}:simulate",
        "compare policies on synthetic swarms, run through the code of real ones",
        "swarm simulate --swarms 300 --sigma 2e-4,5e-4,1e-3",
    )  # fmt: skip
    for name, kind, default, text in (
        ("--policy", str, "probable,greedy,strict", "policies to compare"),
        ("--sigma", positive, "5e-4", "SDs of a trial's val_bpb"),
        ("--workers", count, "8", "numbers of workers"),
    ):
        simulate.add_argument(
            name, type=list_of(kind), default=default, metavar="A,B,…",
            help=f"{text} (default {default})",
        )  # fmt: skip
    simulate.add_argument("--hours", type=positive, default=8.8, help="a night (default 8.8)")
    simulate.add_argument("--swarms", type=count, default=40, help="of each kind (default 40)")
    simulate.add_argument(
        "--think", type=positive, default=0.0, metavar="MINUTES",
        help="an agent takes from the start of a trial to its next proposal (default: none)",
    )  # fmt: skip
    simulate.add_argument("--no-idle", action="store_true", help="let waiting devices wait")
    simulate.add_argument("--constant", action="store_true", help="gains do not fade with progress")
    simulate.add_argument("--placebo", action="store_true", help="no change does anything")
    simulate.add_argument("--scaling", action="store_true", help="what would be too slow, and when")
    simulate.add_argument("--plot", metavar="FILE", help="draw the results (PNG, SVG, PDF)")
    simulate.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _add_working(verbs: Parsers) -> None:
    evaluate = _add(
        verbs, "eval", f"{_WORKING}:evaluate",
        "in a worktree: submit the edited train.py, wait, print the verdict",
        "swarm eval -m 'halve the matrix learning rate'",
    )  # fmt: skip
    evaluate.add_argument("-m", "--message", required=True, metavar="TEXT")
    evaluate.add_argument("--no-wait", action="store_true", help="return once it is queued")
    result = _add(
        verbs, "result", f"{_WORKING}:result",
        "the verdict on an experiment; in a worktree by default on its last one",
        "swarm result --wait 90",
    )  # fmt: skip
    result.add_argument("experiment", nargs="?", metavar="EXPERIMENT")
    result.add_argument("--wait", type=positive, metavar="SECONDS")
    for reader in (evaluate, result):
        reader.add_argument("--json", action="store_true", help="one JSON document on stdout")
    note = _add(
        verbs, "note", f"{_WORKING}:note",
        "share what was learnt with all workers", "swarm note 'warm-up does not help'",
    )  # fmt: skip
    note.add_argument("text", metavar="TEXT")
    _add(
        verbs, "brief", f"{_WORKING}:brief",
        "in a worktree: what an agent should know before its next idea", "swarm brief",
    )  # fmt: skip
    agent = _add(
        verbs, "agent", f"{_WORKING}:agent",
        "a built-in agent, as a runner starts it in a worktree", "swarm agent tuner",
    )  # fmt: skip
    agent.add_argument("spec", metavar="KIND[:MODEL]")
    runner = _add(
        verbs, "runner", f"{_WORKING}:runner",
        "a worker's process, as the supervisor starts it", "swarm runner gpu0",
    )  # fmt: skip
    runner.add_argument("worker", metavar="WORKER")
    _add(
        verbs, "supervise", f"{_WORKING}:supervise",
        "the supervisor's process, as spawn and recover start it", "swarm supervise --tag nov21",
    )  # fmt: skip


def _add_completion(verbs: Parsers) -> None:
    completion = _add(
        verbs, "completion", "swarm.commands.completion:completion",
        "print the completion script of a shell",
        "swarm completion bash > ~/.local/share/bash-completion/completions/swarm",
    )  # fmt: skip
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))


if __name__ == "__main__":
    main()
