"""Policies to compare the default with: one that takes everything, and one that takes nothing."""

from __future__ import annotations

from swarm.beliefs import belief_of
from swarm.decide import Comparison, Verdict
from swarm.policies.base import Due, Likely, Occasion, asked_for, first_reason
from swarm.policies.probable import Probable
from swarm.standings import DeviceClass, Entry


class Greedy:
    """Keep whatever is lower than its base, as autoresearch does. It confirms nothing."""

    def scored(self, known: DeviceClass, entry: Entry, base: Entry | None) -> None:
        if entry.kind in ("keep", "discard") or entry.estimate is None:
            return
        if base is None or base.estimate is None:
            entry.judge(Verdict("keep", first_reason(entry)))
        else:
            compared = Comparison(entry.estimate, base.estimate, base.experiment)
            entry.judge(Verdict("keep" if compared.difference < 0 else "discard", compared))
        top = known.top()
        lower = top is None or top.estimate is None or entry.estimate.mean < top.estimate.mean
        if entry.kind == "keep":
            known.keep(entry)
            if lower:
                known.incumbent = entry.experiment
                known.crown(entry)

    def replicate(self, known: DeviceClass, occasion: Occasion) -> Due | None:
        return asked_for(known)

    def withdrawn(self, known: DeviceClass, entry: Entry) -> None:
        """What was judged against it keeps its verdict: this policy never looks back."""
        known.drop(entry)
        known.uncrown(entry)
        means = {n: e.estimate.mean for n, e in known.kept.items() if e.estimate}
        known.incumbent = min(means, key=means.__getitem__, default=None)
        if known.incumbent:
            known.crown(known.kept[known.incumbent])

    def failed(self, known: DeviceClass, entry: Entry) -> None:
        """What it scored counts, whatever became of a replicate."""


STRICT_LEVEL, STRICT_REPLICATES = 0.95, 6


class Strict(Probable):
    """Build on nothing that replicates have not shown to be better; for comparison."""

    def _judge_again(self, known: DeviceClass, children: list[Entry], base: Entry) -> None:
        for child in children:
            if child.estimate:
                self._judge(known, child, base)

    def _judge(self, known: DeviceClass, entry: Entry, base: Entry) -> None:
        assert entry.estimate is not None and base.estimate is not None
        belief = belief_of(known, entry)
        count = min(entry.estimate.replicates, max(base.estimate.replicates, 2))
        decided = belief.better >= STRICT_LEVEL and count >= 2
        tired = entry.estimate.replicates >= STRICT_REPLICATES or not entry.may_repeat
        hopeless = belief.mean >= belief_of(known, base).mean or tired
        entry.belief = belief if decided else None
        known.doubtful.pop(entry.experiment, None)
        why = Likely(known, entry)
        if decided:
            known.keep(entry)
            entry.judge(Verdict("keep", why, confirmed=True))
        elif hopeless:
            known.drop(entry)
            entry.judge(Verdict("discard", why))
        else:
            known.doubtful[entry.experiment] = entry
            entry.judge(Verdict("candidate", why))

    def scored(self, known: DeviceClass, entry: Entry, base: Entry | None) -> None:
        super().scored(known, entry, base)
        top = known.top()
        if top and known.best != top.experiment:
            known.crown(top)

    def failed(self, known: DeviceClass, entry: Entry) -> None:
        """What cannot be repeated cannot be confirmed."""
        if entry.experiment in known.doubtful and entry.base:
            self._judge(known, entry, entry.base)

    def replicate(self, known: DeviceClass, occasion: Occasion) -> Due | None:
        for entry in known.doubtful.values():
            for chosen in (entry, entry.base):
                behind = chosen and len(chosen.values) <= len(entry.values)
                if chosen and behind and chosen.may_repeat and not chosen.running:
                    return Due(chosen.experiment, "replicate", f"to decide on {entry.experiment}")
        return asked_for(known)
