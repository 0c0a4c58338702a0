"""Which trials of an experiment count: not those that were disturbed or found out."""

from __future__ import annotations

from swarm.decide import Verdict
from swarm.policies import Policy
from swarm.records import TrialFinished
from swarm.standings import DeviceClass, Entry, Trial


def add(known: DeviceClass, entry: Entry, trial: Trial) -> bool:
    """Score an experiment by one more trial; return whether its scores changed.

    A trial that took far fewer batches than others of the same code is marked slow, be it the new
    one or an earlier one that only now is seen to have been disturbed.
    """
    if entry.kind == "rejected" and entry.claim.parent is not None:
        return False  # it ran on when another trial of it was found out
    if len(entry.trials) == 1 and trial.val_bpb is not None:
        known.rescore(entry, [trial.val_bpb])
        return True
    scored = [other for other in entry.trials if other.val_bpb is not None and not other.unsure]
    counted = [(other, other.batches) for other in scored if other.batches]
    if len(counted) > 1:
        flags = known.pace.too_slow([steps for _, steps in counted])
        for (other, _), slow in zip(counted, flags, strict=True):
            other.slow = slow
        if trial.batches and not trial.slow:
            peers = [n for other, n in counted if other is not trial and not other.slow]
            known.pace.learn(peers, trial.batches)
    values = [other.val_bpb for other in scored if other.val_bpb is not None and not other.slow]
    if values == entry.values:
        return False
    known.rescore(entry, values)
    return True


def is_sure(
    known: DeviceClass, entry: Entry, trial: Trial, record: TrialFinished, policy: Policy
) -> bool:
    """Whether a score may count: where others stood a second evaluation, it must have, if asked."""
    known.verifies = known.verifies or record.verified
    if entry.claim.parent is None and record.unverified:
        known.unverified = record.reason
    if not (record.unverified and known.verifies):
        return True
    trial.unsure = True
    if entry.values:
        policy.failed(known, entry)
    else:
        entry.judge(Verdict("rejected", f"{trial.id}: {record.reason}"))
    return False


def failed(known: DeviceClass, entry: Entry, record: TrialFinished, policy: Policy) -> None:
    """A trial gave no score. One that was found out takes the scores of all others with it."""
    assert record.outcome != "ok"
    if not entry.values:
        entry.judge(Verdict(record.outcome, record.reason))
    elif record.outcome == "rejected":
        known.rescore(entry, [])
        entry.belief = None
        entry.judge(Verdict("rejected", f"{record.trial}: {record.reason}"))
        policy.withdrawn(known, entry)
    else:
        policy.failed(known, entry)
