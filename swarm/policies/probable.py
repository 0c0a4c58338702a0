"""The default: two levels, what is probably better and what is confirmed."""

from __future__ import annotations

from typing import Literal

from swarm import claims
from swarm.beliefs import bar_of, belief_of, measured
from swarm.decide import Verdict, worth
from swarm.noise import PRIOR_TRIALS
from swarm.policies.base import Due, Likely, Occasion, asked_for, first_reason
from swarm.standings import UNKNOWN, DeviceClass, Entry

CREDITS_AT_FIRST = 4.0
CREDITS_PER_RESULT = 0.02
MOST_CREDITS = 8.0
LEAST_CHANCE = 0.2
"""Of being better, for a change that the search builds on. A long shot pays, as it is measured
again; from 0.3 on, the swarm got less far."""
BUSY_WORTH = 2.0
"""A replicate goes before a proposal when it is worth so many times what a proposal gains."""
IDLE_WORTH = 0.01
"""An idle device does not repeat what is expected to gain less than this part of σ."""
GAIN_MEMORY = 64
MOST_REPLICATES = 8
ENOUGH_FREEDOM = 30
"""Degrees of freedom at which σ is known to 13 %, and more calibration would be waste."""


class Probable:
    """Build on what is probably better; claim only what trials made for the claim confirm.

    The constants above were chosen with `swarm simulate`; see benchmarks/README.md.
    """

    def scored(self, known: DeviceClass, entry: Entry, base: Entry | None) -> None:
        before = known.top()
        if entry.kind not in ("keep", "discard"):
            self._judge_new(known, entry, base)
            self._learn_gain(known, before)
        else:
            self._revise(known, entry)
        claims.look(known)

    def _judge_new(self, known: DeviceClass, entry: Entry, base: Entry | None) -> None:
        assert entry.estimate is not None
        if base is None:
            entry.belief = measured(known, entry)
            entry.judge(Verdict("keep", first_reason(entry)))
            known.keep(entry)
            if known.best is None:
                known.crown(entry)
        else:
            entry.base = base
            base.children = base.children or []
            base.children.append(entry)
            own = known.noise.variance
            believed = belief_of(known, base)
            known.effects.learn(entry.estimate.mean - believed.mean, own + believed.variance)
            self._judge(known, entry, base)
        top = known.top()
        if entry.belief and (top is None or entry.belief.mean < belief_of(known, top).mean):
            known.incumbent = entry.experiment

    def _judge(self, known: DeviceClass, entry: Entry, base: Entry) -> None:
        """Keep it if it is believed to be lower than its base; most fail already at the bar."""
        assert entry.estimate is not None
        entry.belief = None
        if entry.confirmed:  # against what was best before, which is another question
            entry.belief = belief_of(known, entry)
            return
        if entry.estimate.replicates > 1 or entry.estimate.mean < bar_of(known, base):
            belief = belief_of(known, entry)
            lower = belief.mean < belief_of(known, base).mean
            if lower and belief.better >= LEAST_CHANCE:
                entry.belief = belief
        kind: Literal["keep", "discard"] = "keep" if entry.belief else "discard"
        if kind == entry.kind:
            return
        if entry.belief:
            known.keep(entry)
        else:
            known.drop(entry)
        entry.judge(Verdict(kind, Likely(known, entry)))

    def _revise(self, known: DeviceClass, entry: Entry) -> None:
        """After a replicate: whatever was judged against the entry is judged again."""
        entry.bar_version = UNKNOWN
        if entry.base is None:
            entry.belief = measured(known, entry) if entry.estimate else None
        elif entry.estimate:
            self._judge_again(known, [entry], entry.base)
        for base in known.bases(entry):
            self._judge_again(known, base.children or [], base)
        self._crown(known)

    def _judge_again(self, known: DeviceClass, children: list[Entry], base: Entry) -> None:
        """Judge what has `base` once more. Most was plainly discarded, and stays so."""
        bar = None  # computed no earlier than it is needed, or it would be another one
        for child in children:
            child.bar_version = UNKNOWN
            if child.kind == "discard" and len(child.values) == 1:
                bar = bar_of(known, base) if bar is None else bar
                if child.values[0] >= bar:
                    continue
            if child.estimate:
                self._judge(known, child, base)

    def _crown(self, known: DeviceClass) -> None:
        known.rerank()
        known.incumbent = next((entry.experiment for entry in known.leaders()), None)

    def _learn_gain(self, known: DeviceClass, before: Entry | None) -> None:
        """What a proposal gains lately, a moving average; claims earn their share of trials."""
        top = known.top()
        if before is None or top is None:
            known.gain, known.credits = known.effects.gain, CREDITS_AT_FIRST
            return
        gained = max(0.0, belief_of(known, before).mean - belief_of(known, top).mean)
        known.gain += (gained - known.gain) / GAIN_MEMORY
        known.credits = min(MOST_CREDITS, known.credits + CREDITS_PER_RESULT)

    def withdrawn(self, known: DeviceClass, entry: Entry) -> None:
        known.drop(entry)
        known.doubtful.pop(entry.experiment, None)
        contest = known.contest
        if contest and entry.experiment in (contest.contender.experiment, known.best):
            contest.contender.tested = False
            known.contest = None
        known.uncrown(entry)
        heirs, entry.children = entry.children or [], None
        for child in heirs:  # they are held against what it was held against itself
            child.base = entry.base
            if entry.base:
                entry.base.children = [*(entry.base.children or ()), child]
            if child.estimate:
                self._inherit(known, child)
        self._crown(known)

    def _inherit(self, known: DeviceClass, child: Entry) -> None:
        """Judge what lost its base: against the base's own, or as a beginning of its own."""
        if child.base is None:
            child.belief = measured(known, child)
            child.judge(Verdict("keep", first_reason(child)))
            known.keep(child)
            if known.best is None:
                known.crown(child)
        self._revise(known, child)

    def failed(self, known: DeviceClass, entry: Entry) -> None:
        claims.give_up(known, entry)

    # ---- replicates ----------------------------------------------------------------------------

    def replicate(self, known: DeviceClass, occasion: Occasion) -> Due | None:
        asked = asked_for(known) or self._noise_for_a_claim(known, occasion)
        if asked:
            return asked
        claimed = claims.due(known, occasion == "idle", occasion == "ending")
        if claimed:
            return Due(claimed, "claim", "to confirm what the search has found")
        if occasion == "ending":
            return None
        sd = known.noise.sd
        least = IDLE_WORTH * sd if occasion == "idle" else BUSY_WORTH * known.gain
        valuable = self._most_valuable(known, least)
        top = known.top()
        if valuable or occasion == "busy" or top is None or not top.may_repeat:
            return valuable
        if known.noise.freedom < ENOUGH_FREEDOM:
            return Due(top.experiment, "calibration", "to know the noise")
        return None

    def _noise_for_a_claim(self, known: DeviceClass, occasion: Occasion) -> Due | None:
        """Replicates of the best, where a claim only wants for knowledge of the noise."""
        best = known.champion()
        affordable = occasion != "busy" or known.credits >= 1
        if not (best and best.may_repeat and affordable and claims.lacks_noise(known)):
            return None
        if known.noise.freedom + best.running < PRIOR_TRIALS:
            return Due(best.experiment, "calibration", "to know the noise before a claim")
        return None

    def _most_valuable(self, known: DeviceClass, least: float) -> Due | None:
        """The replicate that improves the choice of the incumbent most, if by `least` val_bpb."""
        leaders = known.leaders()
        if len(leaders) < 2:
            return None
        first, second = (belief_of(known, entry).mean for entry in leaders[:2])
        best, name = least, None
        for entry in leaders:
            belief = belief_of(known, entry)
            gap = belief.mean - (second if entry is leaders[0] else first)
            value = worth(belief.variance, known.noise.variance, gap)
            free = entry.may_repeat and not entry.running
            if value > best and free and len(entry.values) < MOST_REPLICATES:
                best, name = value, entry.experiment
        return Due(name, "replicate", f"worth {best:.6f} val_bpb") if name else None
