"""A language model by script: it improves the toy's learning rate, when it does not misbehave."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterable

from llm_server import Request, Step

_RATE = re.compile(r"^LR = .*$", re.MULTILINE)


class Model:
    """Reads, edits, submits; each idea a learning rate nearer to the best, which is 0.3.

    Every other request is answered by the next of `troubles`, as long as there are any. What a key
    is `refused` gets a 401.
    """

    def __init__(self, troubles: Iterable[Step] = ()) -> None:
        self.troubles, self.refused = deque(troubles), set[str]()
        self._lock, self._rate, self._turn = threading.Lock(), 0.04, 0

    def __call__(self, request: Request) -> Step:
        with self._lock:
            self._turn += 1
            if request.key in self.refused:
                return Step(status=401, message="invalid x-api-key", kind="authentication_error")
            if self.troubles and self._turn % 2:
                return self.troubles.popleft()
            return self._answer(request)

    def _answer(self, request: Request) -> Step:
        last = request.answers[-1] if request.answers else ""
        if last.startswith("changed"):
            why = f"learning rate {self._rate:.3f}"
            return Step("Let us see.", (("submit", {"description": why}),))
        line = _RATE.search(last)
        if line is None:
            return Step(calls=(("read", {"first": 1, "last": 12}),), thinking="What is there?")
        self._rate += 0.004
        new = f"LR = {self._rate:.3f}  # learning rate [0.001, 1.0]"
        return Step("A higher rate may help.", (("edit", {"old": line[0], "new": new}),))


TROUBLES = (
    Step(status=429, headers={"retry-after": "1"}, kind="rate_limit_error", message="slow down"),
    Step(status=529, kind="overloaded_error", message="Overloaded"),
    Step("I begin …", calls=(("read", {}),), fault="drop"),
    Step(calls=(("edit", '{"old": "LR = 0.0'),)),
    Step("I cannot help with that.", stop="refusal"),
    Step("Perhaps one should change the learning rate."),
    Step(calls=(("submit", {"description": "nothing at all"}),)),
    Step(calls=(("edit", {"old": "no such line", "new": "x"}),)),
    Step(calls=(("rewrite", {"source": "def main(:\n"}), ("submit", {"description": "broken"}))),
    Step("word " * 3000, stop="length"),
    Step(calls=(("bash", {"command": "rm -rf /"}),)),
    Step(status=500, message="oops"),
)
"""What goes wrong in a night, one of each."""
