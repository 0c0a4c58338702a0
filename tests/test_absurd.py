"""Whatever a trial prints and attests: it is judged, journalled and folded, and nothing breaks."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import msgspec.structs
from hypothesis import given, settings
from hypothesis import strategies as st
from test_leaderboard import BASELINE, CONFIG, Story, claim, started

from swarm import summary
from swarm.trial import Ending
from swarm.views import documents, tsv

KEYS = (
    "training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent", "total_tokens_M",
    "num_steps", "num_params_M", "depth",
)  # fmt: skip
ODD = ("1e308", "-1e308", "1.7e308", "nan", "inf", "-5", "0", "9" * 400, "1e-320", "", "x", "-0")
VALUE = st.sampled_from(ODD) | st.floats().map(str) | st.integers().map(str)
SCORE = st.sampled_from([0.9, 0.91, 1e-12, 1e200, -1.0, 0.0])
COUNT = st.sampled_from([0, 10, -3, 10**30]) | st.integers(-(2**70), 2**70)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(SCORE, st.dictionaries(st.sampled_from(KEYS), VALUE), COUNT), max_size=5))
def test_the_fold_survives_what_trials_say(trials: list[tuple[float, dict[str, str], int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        story = Story(Path(folder))
        story.board.config = msgspec.structs.replace(CONFIG, policy="probable")
        story.tell(claim("e1"))
        attestation = Path(folder) / "attested.json"
        for number, (score, printed, batches) in enumerate(trials):
            attestation.write_text(json.dumps({"val_bpb": score, "batches": batches}))
            lines = ["---", f"val_bpb: {score}", *(f"{k}: {v}" for k, v in printed.items())]
            ending = Ending(0, None, 1.0)
            name = f"t{number}"
            result = summary.judge(name, 1e9, 1e9, ending, "\n".join(lines), attestation)
            story.tell(started(name, "e1" if number else BASELINE), result)
        entry = story.board.entry("e1")
        assert str(entry.reason)
        for known in story.board.classes.values():
            assert [documents.experiment(known, found) for found in documents.ranked(known)]
        assert list(tsv.rows(story.board))
