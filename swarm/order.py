"""What the user ordered, and the choices made for them where they left one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from swarm import agents, config, devices, directions, keys, records, spending, summary
from swarm.errors import Refused, SwarmError, UsageError
from swarm.leaderboard import Leaderboard
from swarm.panes import tmux_available
from swarm.prices import Prices

DEFAULT_SECONDS = 300.0
DEFAULT_SYNC_SECONDS = 1800.0
DEFAULT_POLICY = "probable"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What the user asked for; `None` leaves the choice to us. Times are in seconds.

    For a swarm that goes on, the choice is what it had, but for its limits.
    """

    agents: int | None = None
    agent: list[str] = field(default_factory=list)
    devices: str | None = None
    oversubscribe: bool = False
    tag: str | None = None
    seconds: float | None = None
    timeout: float | None = None
    scale: str | None = None
    dataset: str | None = None
    policy: str | None = None
    sync_every: float | None = None
    max_experiments: int | None = None
    max_hours: float | None = None
    max_usd: float | None = None
    device_hour_usd: float | None = None
    directions: str | None = None
    islands: int | None = None
    pass_env: list[str] = field(default_factory=list)
    tmux: bool | None = None


def choose_slots(
    order: Order, environment: Mapping[str, str], say: Say
) -> tuple[list[records.Device], list[str]]:
    """The devices and, for each, its agent; says what was chosen for the user."""
    options = order.agent or ["tuner"]
    wanted = order.agents
    if wanted is None and order.agent and (order.devices is None or order.devices == "cpu"):
        wanted = len(agents.assign(options, None, environment))
    if wanted is not None and wanted < 1:
        raise UsageError(f"--agents {wanted} makes no swarm", "--agents 2")
    slots = devices.choose(wanted, order.devices, order.oversubscribe, environment)
    if not order.agent:
        say(f"agent: tuner, the built-in offline one{_others(environment)} (choose with --agent)")
    if order.devices is None and slots[0].kind == "cpu":
        say(f"devices: no GPU found, so {len(slots)} CPU worker(s) (choose with --devices)")
    return slots, agents.assign(options, len(slots), environment)


def _others(environment: Mapping[str, str]) -> str:
    """Which other agents could start here: a hint, so nothing is refused over it."""
    try:
        others = ", ".join(agents.available(environment))
    except SwarmError as error:
        return f"; others are not known: {error}"
    return f"; here are also {others}" if others else ""


def choose_settings(
    root: Path,
    order: Order,
    environment: dict[str, str],
    slots: list[records.Device],
    stored: records.Config | None,
    say: Say,
) -> records.Config:
    """The settings of a swarm: ordered, else `stored` by its earlier run, else our default."""
    scale = order.scale or (stored.scale if stored else None)
    if scale is None:
        scale = devices.default_scale(slots[0])
    if order.scale is None and stored is None and scale == "small":
        say("scale: small, as there is no GPU fast enough for full (choose with --scale)")
    tmux = _tmux(order, environment, stored, say)
    data = _prepare(root, scale, order.dataset, environment, stored)
    seconds = order.seconds or (stored.seconds if stored else DEFAULT_SECONDS)
    same = stored is not None and stored.seconds == seconds
    timeout = order.timeout or (stored.timeout if stored and same else None)
    return records.Config(
        seconds=seconds,
        timeout=timeout or _default_timeout(seconds, scale),
        scale=scale,
        dataset=data["dataset"],
        dataset_fingerprint=data["fingerprint"],
        policy=_policy(order, stored),
        sync_every=order.sync_every or (stored.sync_every if stored else DEFAULT_SYNC_SECONDS),
        max_experiments=order.max_experiments,
        max_hours=order.max_hours,
        max_usd=order.max_usd,
        device_hour_usd=order.device_hour_usd or (stored.device_hour_usd if stored else None),
        directions=_directions(root, order, stored),
        islands=order.islands or (stored.islands if stored else 1),
        pass_env=tuple(order.pass_env) or (stored.pass_env if stored else ()),
        tmux=tmux,
    )


def check_agents(
    specs: Sequence[str], passed: Sequence[str], environment: Mapping[str, str]
) -> None:
    """Raise `SwarmError` for an agent that could not start; `passed` names secrets it gets."""
    Prices.load(config.prices_file(environment))  # a damaged file would end every runner
    for spec in dict.fromkeys(specs):
        agent = agents.build(spec, environment, passed)
        agent.check(environment)
        keys.for_runner(environment, agent.needs, ())  # and a damaged one of keys, its supervisor


def check_prices(
    specs: Sequence[str], max_usd: float | None, environment: Mapping[str, str], say: Say
) -> None:
    """Raise `Refused` for a limit that could not hold, as nobody knows what an agent costs."""
    if max_usd is None:
        return
    prices = Prices.load(config.prices_file(environment))
    for spec in dict.fromkeys(specs):
        asks = agents.build(spec, environment).asks
        if asks is None:
            continue
        if not asks:
            say(f"--max-usd: what {spec} uses is not known everywhere, and may not be counted")
        elif prices.of(asks) is None:
            raise Refused(
                f"--max-usd cannot hold: the price of {asks} is not known",
                f"write it into {config.prices_file(environment)}; 0 is a price too",
            )


def check_limits(settings: records.Config, board: Leaderboard, say: Say) -> None:
    """Say which limits a swarm that goes on has now, and what counts towards them already.

    Raises `Refused` where all that may be spent is spent.
    """
    assert board.config is not None
    seconds = sum(worker.device_seconds for worker in board.workers.values())
    usd = sum(worker.bill.usd for worker in board.workers.values())
    usd += spending.device_usd(settings, seconds)
    most = settings.max_usd
    if most is not None and usd >= most:
        raise Refused(
            f"--max-usd {most:g} is used up: this swarm has spent {usd:.2f} USD so far",
            "it counts what was spent before: a higher one, or another swarm: --tag …",
        )
    limits = {
        "--max-experiments": f"{board.spent_experiments} so far, which it counts",
        "--max-hours": "from now on",
        "--max-usd": f"spent so far {usd:.2f} USD, which it counts",
    }
    now, before = _limits(settings), _limits(board.config)
    set_now = [f"{name} {now[name]:g} ({counts})" for name, counts in limits.items() if name in now]
    spent = f"; spent so far {usd:.2f} USD" if usd and most is None else ""
    say(f"limits: {', '.join(set_now) or 'none'}{spent}")
    for name in [name for name in before if name not in now]:
        say(f"no {name} this time (before: {before[name]:g})")


def _limits(settings: records.Config) -> dict[str, float]:
    found = {
        "--max-experiments": settings.max_experiments,
        "--max-hours": settings.max_hours,
        "--max-usd": settings.max_usd,
    }
    return {name: limit for name, limit in found.items() if limit is not None}


def _tmux(
    order: Order, environment: Mapping[str, str], stored: records.Config | None, say: Say
) -> bool:
    """Whether workers get panes. A swarm that was begun without any goes on so."""
    wanted = order.tmux
    if wanted is None and stored and not stored.tmux:
        say("tmux: workers run in the background, as before")
        return False
    if wanted is not False and not tmux_available(environment):
        if wanted:
            raise SwarmError(
                "tmux is not installed", "apt install tmux / brew install tmux, or --no-tmux"
            )
        say("tmux: not found, so workers run in the background (install it to watch panes)")
        return False
    return wanted is not False


def _directions(root: Path, order: Order, stored: records.Config | None) -> tuple[str, ...]:
    if order.directions is None and stored:
        return stored.directions
    program = root / config.PROGRAM
    text = program.read_text(errors="replace") if program.is_file() else ""
    return directions.choose(order.directions, text)


def _policy(order: Order, stored: records.Config | None) -> str:
    if stored and order.policy not in (None, stored.policy):
        raise Refused(
            f"this swarm was begun with the policy {stored.policy}, which cannot change",
            "start another one: --tag NAME",
        )
    return stored.policy if stored else order.policy or DEFAULT_POLICY


def _default_timeout(seconds: float, scale: str) -> float:
    """Twice the budget, and time to compile and evaluate: for an old GPU that is longer than
    training. It ends what hangs; a blown budget is noticed all the same."""
    return 2 * seconds + (1200.0 if scale == "full" else 60.0)


def _prepare(
    root: Path,
    scale: str,
    dataset: str | None,
    environment: dict[str, str],
    stored: records.Config | None,
) -> dict[str, str]:
    """Run the repository's prepare.py, which does nothing when the data is there."""
    if stored and dataset is None and stored.scale == scale and Path(stored.dataset).exists():
        return {"dataset": stored.dataset, "fingerprint": stored.dataset_fingerprint}
    command = [config.python(), config.EVALUATOR, "--scale", scale]
    if dataset:
        command += ["--dataset", dataset]
    process = subprocess.run(
        command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    told = summary.parse(process.stdout.decode(errors="replace"))
    if process.returncode or not {"dataset", "fingerprint"} <= told.keys():
        raise SwarmError(
            f"prepare.py could not prepare the data (exit code {process.returncode})",
            f"see its message above; by hand: python prepare.py --scale {scale}",
        )
    return told
