"""How verdicts, incumbents and claims follow from scores, and which replicates are worth a device.

A policy works on the fold of one device class and on nothing else, so everyone who folds the same
journal agrees.
"""

from __future__ import annotations

from swarm.policies.base import Due, Likely, Occasion, Policy
from swarm.policies.others import Greedy, Strict
from swarm.policies.probable import Probable

__all__ = ["POLICIES", "Due", "Greedy", "Likely", "Occasion", "Policy", "Probable", "Strict"]

POLICIES: dict[str, Policy] = {"probable": Probable(), "greedy": Greedy(), "strict": Strict()}
