"""Ideas for the default policy, each tried by itself in simulated swarms: what lost, and how.

    python benchmarks/ideas.py [SWARMS]

Every idea is the default policy with one thing changed, run through the fold of real swarms.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
from dataclasses import replace

from swarm import policies, simulate, sweep
from swarm.beliefs import belief_of
from swarm.decide import Verdict
from swarm.policies import Due, Greedy, Likely, Occasion, Probable
from swarm.policies.probable import MOST_CREDITS
from swarm.standings import DeviceClass, Entry

SIGMAS = (2e-4, 5e-4, 1e-3)


class FixedPrior(Probable):
    """The published distribution of effects, not learnt from the swarm's own results."""

    def scored(self, known: DeviceClass, entry: Entry, base: Entry | None) -> None:
        known.effects._next = sys.maxsize
        super().scored(known, entry, base)


class NoRechecks(Probable):
    """No replicates but for claims: the search lives on first trials."""

    def _most_valuable(self, known: DeviceClass, least: float) -> Due | None:
        return None


class Racing(Probable):
    """Every new incumbent is measured a second time before anything else."""

    def replicate(self, known: DeviceClass, occasion: Occasion) -> Due | None:
        top = known.top()
        if top and top.base and len(top.values) < 2 and not top.running and occasion == "busy":
            return Due(top.experiment, "replicate", "racing")
        return super().replicate(known, occasion)


class ByProbability(Probable):
    """Keep what is better with a probability of at least `level`, not what is better on average."""

    level = 0.5

    def _judge(self, known: DeviceClass, entry: Entry, base: Entry) -> None:
        super()._judge(known, entry, base)
        if entry.belief and entry.belief.better < self.level and not entry.confirmed:
            known.drop(entry)
            entry.belief = None
            entry.judge(entry_verdict(known, entry))


def entry_verdict(known: DeviceClass, entry: Entry) -> Verdict:
    return Verdict("discard", Likely(known, entry))


class ByProbability80(ByProbability):
    """The same, from 0.8 on."""

    level = 0.8


class Ancestors(Probable):
    """Every fifty results the doubtful ancestors of the incumbent are measured again."""

    def replicate(self, known: DeviceClass, occasion: Occasion) -> Due | None:
        if occasion == "busy" and len(known.entries) % 50 < 3:
            line, entry = [], known.top()
            while entry and entry.base:
                line.append(entry)
                entry = entry.base
            doubtful = [e for e in line if len(e.values) < 3 and not e.running]
            if doubtful:
                least = min(doubtful, key=lambda e: belief_of(known, e).better)
                return Due(least.experiment, "replicate", "ancestor")
        return super().replicate(known, occasion)


class ClaimEverything(Probable):
    """Claims are not paid for with credits: each incumbent that may pass is tested at once."""

    def replicate(self, known: DeviceClass, occasion: Occasion) -> Due | None:
        known.credits = MOST_CREDITS
        return super().replicate(known, occasion)


class Sampled(simulate.Simulation):
    """Each worker builds on a base drawn by the chance that it is the best (Thompson sampling)."""

    def _base(self, worker: str) -> str:
        known = self.board.class_of(worker)
        if not known.incumbent:
            return simulate.BASELINE
        drawn = {
            entry.experiment: self.proposals.gauss(belief.mean, math.sqrt(belief.variance))
            for entry in known.leaders()
            if (belief := entry.belief)
        }
        return min(drawn, key=drawn.__getitem__)


IDEAS: dict[str, policies.Policy] = {
    "the default": Probable(),
    "greedy": Greedy(),
    "effects not learnt": FixedPrior(),
    "no rechecks": NoRechecks(),
    "racing: recheck each": Racing(),
    "re-test ancestors": Ancestors(),
    "keep if P > 0.5": ByProbability(),
    "keep if P > 0.8": ByProbability80(),
    "claim at once": ClaimEverything(),
    "sampled base": Probable(),
}


def run(world: simulate.World) -> simulate.Outcome:
    chosen = Sampled if world.policy == "sampled base" else simulate.Simulation
    return chosen(world).run()


def main() -> None:
    swarms = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    policies.POLICIES.update(IDEAS)
    print(f"{'idea':<22} {'σ':>6} {'true val_bpb':>19} {'claimed':>8} false claims  repl.")
    with multiprocessing.get_context("fork").Pool() as pool:
        for name in IDEAS:
            for sigma in SIGMAS:
                world = simulate.World(policy=name, sigma=sigma)
                seeded = [replace(world, seed=seed) for seed in range(swarms)]
                found = sweep.summarise(world, pool.map(run, seeded, chunksize=2))
                print(
                    f"{name:<22} {sigma:6.0e} {found.true.value:9.5f} ± {found.true.error:7.5f}"
                    f" {found.claimed.value:8.5f} {found.false_claims:12.1%}"
                    f" {found.replicates:6.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
