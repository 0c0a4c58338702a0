"""Verbs that look: at a swarm, and at synthetic ones."""

from __future__ import annotations

from swarm.arguments import count, list_of, port, positive
from swarm.verbs.grammar import Parsers, add

_READING, _SIMULATING = (f"swarm.commands.{name}" for name in ("reading", "simulating"))


def declare(verbs: Parsers) -> None:
    _add_reading(verbs)
    _add_simulating(verbs)


def _add_reading(verbs: Parsers) -> None:
    status = add(
        verbs, "status", f"{_READING}:status", "the swarm and its workers", "swarm status --json"
    )
    board = add(
        verbs, "board", f"{_READING}:board", "the leaderboard, best first", "swarm board --top 20"
    )
    board.add_argument("--top", type=count, metavar="K")
    board.add_argument("--device-class", metavar="C")
    board.add_argument(
        "--held-out", action="store_true", help="with scores on text that no trial is judged by"
    )
    show = add(
        verbs, "show", f"{_READING}:show",
        "an experiment: verdict and why, trials, diff", "swarm show e17",
    )  # fmt: skip
    show.add_argument("experiment", metavar="EXPERIMENT")
    notes = add(verbs, "notes", f"{_READING}:notes", "what the workers noted", "swarm notes")
    doctor = add(
        verbs, "doctor", f"{_READING}:doctor",
        "what is here, what is missing and how to get it", "swarm doctor",
    )  # fmt: skip
    verify = add(
        verbs, "verify", "swarm.commands.verifying:verify",
        "evaluate an experiment's kept weights again, on a free device; exits 1 unless it holds",
        "swarm verify e17",
    )  # fmt: skip
    verify.add_argument("experiment", metavar="EXPERIMENT")
    verify.add_argument("--device", metavar="WORKER", help="of this worker; default: any free one")
    for reader in (status, board, show, notes, doctor, verify):
        reader.add_argument("--json", action="store_true", help="one JSON document on stdout")
    log = add(
        verbs, "log", f"{_READING}:log",
        "the log of a worker (its pane), a trial or an experiment", "swarm log gpu3 -f",
    )  # fmt: skip
    log.add_argument("name", metavar="WORKER|TRIAL")
    log.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    watch = add(
        verbs, "watch", "swarm.commands.watching:watch",
        "workers, leaderboard, progress and logs, live in the terminal", "swarm watch",
    )  # fmt: skip
    watch.add_argument(
        "--every", type=positive, default=1.0, metavar="SECONDS", help="how often (default 1)"
    )
    attach = add(
        verbs, "attach", f"{_READING}:attach", "show the panes (tmux)", "swarm attach gpu3"
    )
    attach.add_argument("worker", nargs="?", metavar="WORKER")
    _add_web(verbs)


def _add_web(verbs: Parsers) -> None:
    web = add(
        verbs, "web", "swarm.commands.serving:web",
        "the same, live, in a browser; read-only", "swarm web --open",
    )  # fmt: skip
    web.add_argument(
        "--port", type=port, metavar="P", help="default: 8420 or the next free one; 0: any"
    )
    web.add_argument(
        "--host", default="127.0.0.1", metavar="H",
        help="address to listen on (default: 127.0.0.1); any other needs the token in the URL",
    )  # fmt: skip
    web.add_argument("--open", action="store_true", help="open it in the browser")


def _add_simulating(verbs: Parsers) -> None:
    simulate = add(
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
