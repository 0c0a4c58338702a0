"""Compare `train.py` with upstream's values and with a plain trainer, at equal wall-clock.

    python benchmarks/trainer.py [--scale small] [--seconds 20] [--seeds 3]
    python benchmarks/trainer.py --noise 8 --seeds 2 [--steps 150]

The first prints a table of three variants: `ours`, train.py as it is; `upstream`, train.py with the
constants of the upstream trainer (at the small scale only those that are no sizes); `reference`,
benchmarks/reference.py with the sizes and values of `upstream`. The second measures the noise of
`ours` over N seeds, and what halving and doubling each main learning rate does, in units of it;
with `--steps` a trial ends after so many steps, whatever else the machine does meanwhile.

A trial is a process of its own, one at a time, seed by seed, so that drift of the machine hits all
variants alike. Where there is no accelerator it gets one core. The dataset is the one prepared last
for the scale (SWARM_CACHE, SWARM_DATASET). The table goes to stdout, the rest to stderr; logs stay.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import math
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import prepare  # noqa: E402
from swarm import hyperparameters  # noqa: E402
from swarm.assignments import Value  # noqa: E402
from swarm.harness import settings  # noqa: E402

# The upstream trainer's values (karpathy's autoresearch) under train.py's names.
SIZES: dict[str, Value] = {
    "DEPTH": 8,
    "ASPECT_RATIO": 64,
    "HEAD_DIM": 128,
    "MLP_RATIO": 4,
    "TOTAL_BATCH_SIZE": 2**19,
    "DEVICE_BATCH_SIZE": 128,
}
VALUES: dict[str, Value] = {
    "WINDOW_PATTERN": "SSSL",
    "SHORT_WINDOW": 0.5,
    "ROPE_BASE": 1e4,
    "SOFTCAP": 15.0,
    "INIT_SCALE": 1.0,
    "X0_INIT": 0.1,
    "MATRIX_LR": 0.04,
    "EMBEDDING_LR": 0.6,
    "UNEMBEDDING_LR": 0.004,
    "SCALAR_LR": 0.5,
    "WEIGHT_DECAY": 0.2,
    "ADAM_BETA1": 0.8,
    "ADAM_BETA2": 0.95,
    "MUON_MOMENTUM": 0.95,
    "MUON_MOMENTUM_START": 0.85,
    "MUON_MOMENTUM_STEPS": 300,
    "MUON_BETA2": 0.95,
    "WARMUP_RATIO": 0.0,
    "WARMDOWN_RATIO": 0.5,
    "FINAL_LR_FRAC": 0.0,
}
# What upstream does not have, at the value that does nothing. Not every train.py has them.
NEUTRAL: dict[str, Value] = {
    "QUERY_SCALE": 1.0,
    "EMBEDDING_DECAY": 0.0,
    "SHIFT_INIT": 0.0,
    "SHIFT_LR": 0.0,
}

LEARNING_RATES = ("MATRIX_LR", "EMBEDDING_LR", "UNEMBEDDING_LR")
REFERENCE_ROWS = 32  # at most, of a pass: its T × T matrices take 0.9 GB a row at the full scale
TIMEOUT = 3600.0  # seconds after which a trial hangs
TAIL = 15  # lines of a failed trial's log that are shown


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ==================================================================================================
# Variants
# ==================================================================================================


@dataclass(frozen=True)
class Variant:
    """A program to run: `source` is its text, `arguments` its command line."""

    name: str
    source: str
    seeds: int
    arguments: tuple[str, ...] = ()


def changed(source: str, changes: dict[str, Value], scale: str) -> str:
    """`source` with those of the constants that it has changed, and a line on what differs."""
    known = hyperparameters.parse(source, scale)
    for name in changes.keys() - NEUTRAL.keys() - known.keys():
        say(f"train.py has no constant {name}: skipped")
    for name in known.keys() - changes.keys() - SIZES.keys():
        say(f"upstream's value of {name} is not known: it stays {known[name].value}")
    present = {name: value for name, value in changes.items() if name in known}
    return hyperparameters.edit(source, present, scale)


def with_upstream_values(source: str, scale: str) -> str:
    sizes = SIZES if scale == "full" else {}
    return changed(source, sizes | VALUES | NEUTRAL, scale)


def with_fixed_steps(source: str, steps: int) -> str:
    """`source` where progress and the end of training are a matter of steps, not of time."""
    edits: list[tuple[str, Callable[[re.Match[str]], str]]] = [
        (r"^( +)progress = .*$", lambda found: f"{found[1]}progress = step / {steps}"),
        (r"^( +)while .*TIME_BUDGET:$", lambda found: f"{found[1]}while step < {steps}:"),
    ]
    for pattern, edit in edits:
        source, count = re.subn(pattern, edit, source, flags=re.M)
        if count != 1:
            sys.exit(f"error: {count} lines of train.py match {pattern!r}: its steps stay unfixed")
    return source


def reference_arguments(source: str, scale: str) -> tuple[str, ...]:
    """The command line that gives the reference the sizes of a train.py."""
    constants = hyperparameters.parse(source, scale)
    sizes = {name: int(constants[name].value) for name in SIZES if name in constants}
    if missing := SIZES.keys() - sizes.keys():
        sys.exit(f"error: train.py has no constant {', '.join(sorted(missing))}")
    heads = math.ceil(sizes["DEPTH"] * sizes["ASPECT_RATIO"] / sizes["HEAD_DIM"])
    wanted = {
        "--depth": sizes["DEPTH"],
        "--width": heads * sizes["HEAD_DIM"],
        "--head-dim": sizes["HEAD_DIM"],
        "--mlp-ratio": sizes["MLP_RATIO"],
        "--batch": sizes["TOTAL_BATCH_SIZE"],
        "--rows": min(sizes["DEVICE_BATCH_SIZE"], REFERENCE_ROWS),
    }
    return tuple(word for flag, value in wanted.items() for word in (flag, str(value)))


def compared(names: Sequence[str], source: str, scale: str, seeds: int) -> list[Variant]:
    """The variants of the comparison, in the order of `names`."""
    upstream = with_upstream_values(source, scale)
    reference = (ROOT / "benchmarks/reference.py").read_text(encoding="utf-8")
    known = {
        "ours": Variant("ours", source, seeds),
        "upstream": Variant("upstream", upstream, seeds),
        "reference": Variant("reference", reference, seeds, reference_arguments(upstream, scale)),
    }
    return [known[name] for name in names]


def perturbed(source: str, scale: str, seeds: int, perturbed_seeds: int) -> list[Variant]:
    """`ours`, and with each main learning rate halved and doubled."""
    variants = [Variant("ours", source, seeds)]
    known = hyperparameters.parse(source, scale)
    for name in LEARNING_RATES:
        for factor in (0.5, 2.0):
            text = hyperparameters.edit(source, {name: float(known[name].value) * factor}, scale)
            variants.append(Variant(f"{name} × {factor:g}", text, perturbed_seeds))
    return variants


# ==================================================================================================
# Trials
# ==================================================================================================


@dataclass(frozen=True)
class Result:
    """What a trial printed: its summary, seconds by phase, and the line on its device."""

    summary: dict[str, str]
    phases: dict[str, float]
    device: str

    def number(self, key: str) -> float:
        """A value of the summary; NaN where it is missing or unknown."""
        try:
            return float(self.summary.get(key, "nan"))
        except ValueError:
            return math.nan

    @property
    def tokens_per_second(self) -> float:
        return 1e6 * self.number("total_tokens_M") / self.number("training_seconds")


def read_output(output: str) -> Result | None:
    """The result in a trial's output, or None where there is no finite score."""
    head, _, tail = output.rpartition("\n---\n")
    summary = dict(line.split(": ", 1) for line in tail.splitlines() if ": " in line)
    phases = re.findall(r"^seconds: (.+)$", head, flags=re.M)
    pairs = re.findall(r"(\S+) ([\d.]+)", phases[-1]) if phases else []
    device = re.search(r"^device: (.+)$", head, flags=re.M)
    result = Result(
        summary, {name: float(seconds) for name, seconds in pairs}, device[1] if device else ""
    )
    return result if math.isfinite(result.number("val_bpb")) else None


@dataclass(frozen=True)
class Bench:
    """Where and how trials run; `core` is the one they are bound to, or None."""

    folder: Path
    scale: str
    seconds: float
    core: int | None

    def environment(self, seed: int) -> dict[str, str]:
        ours = ("SWARM_ATTEST", "SWARM_DEVICE_LOCKED")
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        settings = {"SWARM_SCALE": self.scale, "SWARM_SEED": str(seed), "PYTHONPATH": str(ROOT)}
        settings["SWARM_SECONDS"] = f"{self.seconds:g}"
        return kept | settings | ({"OMP_NUM_THREADS": "1"} if self.core is not None else {})

    def trial(self, variant: Variant, seed: int) -> Result | None:
        """Run a variant with a seed; None where it fails, which is shown with its log's end."""
        place = self.folder / f"{re.sub(r'[^a-zA-Z0-9.]+', '-', variant.name)}-seed{seed}"
        place.mkdir()
        (place / "train.py").write_text(variant.source, encoding="utf-8")
        command = [sys.executable, "train.py", *variant.arguments]
        log = place / "log.txt"
        with log.open("w", encoding="utf-8") as file:
            code = run(command, place, self.environment(seed), file.fileno(), self.core)
        output = log.read_text(encoding="utf-8", errors="replace")
        result = read_output(output) if code == 0 else None
        if result is None:
            end = "\n".join(f"    {line}" for line in output.splitlines()[-TAIL:])
            say(f"{variant.name}, seed {seed}: failed, exit code {code}; {log} ends with\n{end}")
        else:
            say(f"{variant.name}, seed {seed}: {result.number('val_bpb'):.6f}")
        return result


def run(
    command: list[str], cwd: Path, environment: dict[str, str], log: int, core: int | None
) -> int | None:
    """Run a command in a session of its own; its exit code, or None after TIMEOUT."""

    def bind() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    child = subprocess.Popen(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=log,
        stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=bind,
    )  # fmt: skip
    try:
        return child.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if child.poll() is None:  # hangs, or this process was interrupted
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


Results = dict[str, dict[int, Result]]  # by variant and seed


def run_all(bench: Bench, variants: Sequence[Variant]) -> Results:
    """Run seed by seed, so that all variants see the same hours; failed trials are left out."""
    results: Results = {variant.name: {} for variant in variants}
    started, done = time.monotonic(), 0
    total = sum(variant.seeds for variant in variants)
    for seed in range(1, max(variant.seeds for variant in variants) + 1):
        for variant in variants:
            if seed > variant.seeds:
                continue
            if result := bench.trial(variant, seed):
                results[variant.name][seed] = result
            done += 1
            left = (time.monotonic() - started) / done * (total - done)
            say(f"  {done} of {total} trials, about {left / 60:.0f} min left")
    return results


# ==================================================================================================
# Tables
# ==================================================================================================

NONE = "–"


def mean(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return statistics.fmean(known) if known else math.nan


def median(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return statistics.median(known) if known else math.nan


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of the sample; NaN of less than two values."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def cell(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else NONE


def scores(results: Iterable[Result]) -> list[float]:
    return [result.number("val_bpb") for result in results]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *body = lines
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def comparison(results: Results) -> str:
    """A column for each variant: speed (mean, of all steps), seconds by phase (medians), score."""
    columns = {name: list(each.values()) for name, each in results.items()}
    reference = columns.get("reference", [])

    def row(label: str, of: Callable[[list[Result]], float], form: str) -> list[str]:
        return [label, *(cell(of(each), form) for each in columns.values())]

    def rate(each: list[Result]) -> float:
        return mean(result.tokens_per_second for result in each)

    def score(each: list[Result]) -> float:
        return mean(scores(each))

    def summary(key: str) -> Callable[[list[Result]], float]:
        return lambda each: median(result.number(key) for result in each)

    def phase(name: str) -> Callable[[list[Result]], float]:
        return lambda each: median(result.phases.get(name, math.nan) for result in each)

    names = dict.fromkeys(n for each in columns.values() for result in each for n in result.phases)
    ordered = [name for name in names if name != "total"]
    lines = [
        ["", *results],
        row("tokens/s", rate, ",.0f"),
        row("÷ reference", lambda each: rate(each) / rate(reference), ".2f"),
        row("MFU, %", summary("mfu_percent"), ".2f"),
        row("steps", summary("num_steps"), ",.0f"),
        *(row(f"{name}, s", phase(name), ".1f") for name in ordered),
        row("total, s", summary("total_seconds"), ".1f"),
        row("val_bpb", score, ".5f"),
        row("± SD over seeds", lambda each: deviation(scores(each)), ".5f"),
        row("− reference", lambda each: score(each) - score(reference), "+.5f"),
        row("seeds", len, "d"),
    ]
    return markdown(lines)


def noise(results: Results) -> str:
    """A line for each variant: its score, and its mean difference to `ours` with the same seed."""
    ours = results["ours"]
    sigma = deviation(scores(ours.values()))
    lines = [["", "seeds", "val_bpb", "SD", "difference, same seeds", "in SDs of ours"]]
    for name, each in results.items():
        found = scores(each.values())
        pairs = [(each[seed], ours[seed]) for seed in each.keys() & ours.keys()]
        difference = mean(a.number("val_bpb") - b.number("val_bpb") for a, b in pairs)
        difference = math.nan if name == "ours" else difference
        lines.append(
            [
                name, str(len(found)), cell(mean(found), ".5f"), cell(deviation(found), ".5f"),
                cell(difference, "+.5f"), cell(difference / sigma, "+.1f"),
            ]
        )  # fmt: skip
    return markdown(lines)


def machine(results: Results) -> str:
    """The processor, PyTorch and what the trials said of their device."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        named = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        model = named[1] if named else model
    found = (result.device for each in results.values() for result in each.values())
    devices = dict.fromkeys(found)
    facts = [f"{model}, {os.cpu_count()} cores", f"torch {importlib.metadata.version('torch')}"]
    return "; ".join(facts) + "".join(f"\n* {device}" for device in devices if device)


# ==================================================================================================
# Command line
# ==================================================================================================


def trial_core() -> int | None:
    """The core for trials on a CPU, the last that this process may use; None: an accelerator."""
    if prepare.pick_device().kind != "cpu" or not hasattr(os, "sched_setaffinity"):
        return None
    return max(os.sched_getaffinity(0))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare train.py with two baselines.")
    parser.add_argument("--seeds", type=int, default=3, help="trials of a variant (3)")
    parser.add_argument("--seconds", type=float, help="budget of a trial (small 20, full 300)")
    parser.add_argument("--scale", choices=settings.SCALES, default=prepare.SCALE)
    parser.add_argument("--variants", default="ours,upstream,reference", help="(all three)")
    parser.add_argument("--noise", type=int, metavar="N", help="measure noise, with N seeds")
    parser.add_argument("--steps", type=int, metavar="K", help="with --noise: steps of a trial")
    chosen = parser.parse_args()
    chosen.variants = [name for name in chosen.variants.split(",") if name]
    if unknown := set(chosen.variants) - {"ours", "upstream", "reference"}:
        parser.error(f"no variant {', '.join(sorted(unknown))}")
    counts = (chosen.seeds, chosen.noise, chosen.steps, chosen.seconds)
    if not chosen.variants or any(count is not None and count <= 0 for count in counts):
        parser.error("there must be at least one variant, seed, step and second")
    if chosen.steps and not chosen.noise:
        parser.error("--steps goes with --noise")
    if chosen.seconds is None:
        chosen.seconds = 20.0 if chosen.scale == "small" else 300.0
    return chosen


def main() -> int:
    chosen = options()
    source = (ROOT / "train.py").read_text(encoding="utf-8")
    if chosen.noise:
        source = with_fixed_steps(source, chosen.steps) if chosen.steps else source
        variants = perturbed(source, chosen.scale, chosen.noise, chosen.seeds)
    else:
        variants = compared(chosen.variants, source, chosen.scale, chosen.seeds)
    folder = Path(tempfile.mkdtemp(prefix="trainer-bench-"))
    say(f"logs: {folder}")
    bench = Bench(folder, chosen.scale, chosen.seconds, trial_core())
    results = run_all(bench, variants)
    length = f"{chosen.steps} steps" if chosen.steps else f"{chosen.seconds:g} s"
    bound = "bound to one core" if bench.core is not None else "on the accelerator"
    print(f"{chosen.scale} scale, {length} of training, {bound}\n{machine(results)}\n")
    print(noise(results) if chosen.noise else comparison(results))
    wanted = sum(variant.seeds for variant in variants)
    return 0 if sum(map(len, results.values())) == wanted else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
