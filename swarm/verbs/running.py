"""Verbs that act on a swarm."""

from __future__ import annotations

from swarm.arguments import count, duration, positive
from swarm.verbs.grammar import Parser, Parsers, add

_RUNNING = "swarm.commands.running"


def declare(verbs: Parsers) -> None:
    _add_spawn(verbs)
    stop = add(
        verbs, "stop", f"{_RUNNING}:stop",
        "end a swarm once its running trials have ended", "swarm stop --tag nov21",
    )  # fmt: skip
    stop.add_argument("--now", action="store_true", help="cut running trials off")
    add(
        verbs, "recover", f"{_RUNNING}:recover",
        "start again what died of a running swarm", "swarm recover",
    )  # fmt: skip
    for verb, text in (
        ("pause", "start no further trials on these workers (default: all)"),
        ("resume", "go on with paused or parked workers (default: all)"),
        ("sync", "move idle worktrees onto the incumbent now (default: all)"),
    ):
        added = add(verbs, verb, f"{_RUNNING}:{verb}", text, f"swarm {verb} gpu3")
        added.add_argument("workers", nargs="*", metavar="WORKER")
    merge = add(
        verbs, "merge", f"{_RUNNING}:merge",
        "merge the best experiment into your branch", "swarm merge --into main",
    )  # fmt: skip
    merge.add_argument("--into", metavar="BRANCH", help="default: the branch you are on")
    merge.add_argument("--squash", action="store_true", help="as a single commit")
    merge.add_argument("--incumbent", action="store_true", help="what the search builds on")
    noise = add(
        verbs, "noise", f"{_RUNNING}:noise",
        "measure the noise: run the incumbent again, on whichever devices are free first",
        "swarm noise --replicates 5 --wait",
    )  # fmt: skip
    noise.add_argument("--replicates", type=count, default=5, metavar="N", help="default 5")
    noise.add_argument("--wait", action="store_true", help="until they have ended")
    clean = add(
        verbs, "clean", f"{_RUNNING}:clean",
        "remove the worktrees and branches of a stopped swarm; commits and results stay",
        "swarm clean --tag nov21",
    )  # fmt: skip
    clean.add_argument("--force", action="store_true", help="even with unsubmitted edits")


def _add_spawn(verbs: Parsers) -> None:
    spawn = add(
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


def _add_limits(spawn: Parser) -> None:
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
