"""The tuner: what it proposes, what it learns from, and how its loop meets a real leaderboard."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from swarm import records
from swarm.agents import tuner
from swarm.agents.draft import Draft
from swarm.agents.tpe import HISTORY, Observation, Tuner, informative
from swarm.assignments import Value
from swarm.errors import Refused, SwarmError
from swarm.fingerprint import fingerprint
from swarm.hyperparameters import parse, skeleton
from swarm.journal import Journal
from swarm.leaderboard import Leaderboard

BANNER = "# ----- Hyperparameters -----\n"
BLOCK = """LR = 0.1  # learning rate [0.001, 1.0]
BATCH = 2**14  # tokens [2**10, 2**16]
DEPTH = 8  # blocks [4, 14]
DECAY = 0.2  # weight decay [0.0, 1.0]
PATTERN = "SL"  # spans {L, SL, SSL}
if SCALE == "small":
    DEPTH = 3  # [1, 6]
"""
PROGRAM = f'SCALE = "full"\n{BANNER}{BLOCK}# ----- Model -----\nOTHER = 5  # [1, 9]\nprint(LR)\n'
TINY = (
    f"{BANNER}A = 1  # {{1, 2, 3}}\nB = True  # {{True, False}}\n# ----- Rest -----\nprint(A, B)\n"
)


def combinations() -> list[str]:
    """All six programs of the `TINY` space; the first is `TINY`."""
    pairs = [(a, b) for a in (1, 2, 3) for b in (True, False)]
    return [TINY.replace("A = 1 ", f"A = {a} ").replace("B = True", f"B = {b}") for a, b in pairs]


def never(source: str) -> bool:
    return False


def observed(name: str, source: str, val_bpb: float | None, scale: str = "full") -> Observation:
    params = {c.name: c.value for c in parse(source, scale).values()}
    return Observation(name, skeleton(source, scale), params, val_bpb, failed=val_bpb is None)


def varied(count: int, score: Callable[[float], float | None]) -> list[Observation]:
    """Results of others, who tried all learning rates."""
    rates = [round(0.001 * 1000 ** (i / (count - 1)), 6) for i in range(count)]
    return [
        observed(f"e{i}", PROGRAM.replace("LR = 0.1 ", f"LR = {rate} "), score(rate))
        for i, rate in enumerate(rates)
    ]


def proposed(own: Tuner, name: str, count: int = 60, scale: str = "full") -> list[Any]:
    proposals = (own.propose(PROGRAM, scale, never) for _ in range(count))
    return [p.changes[name] for p in proposals if name in p.changes]


def test_a_proposal_edits_one_to_three_constants_of_the_block_within_their_ranges() -> None:
    own = Tuner(1)
    for _ in range(60):
        proposal = own.propose(PROGRAM, "full", never)
        assert 1 <= len(proposal.changes) <= 3
        before, after = parse(PROGRAM, "full"), parse(proposal.source, "full")
        changed = {n: c.value for n, c in after.items() if c.value != before[n].value}
        assert changed == dict(proposal.changes)
        for name, value in changed.items():
            assert value in before[name].choices or before[name].low <= value <= before[name].high
        assert math.log2(after["BATCH"].value).is_integer()
        assert isinstance(after["DEPTH"].value, int)
        assert proposal.source.splitlines()[-3:] == PROGRAM.splitlines()[-3:]


def test_the_description_says_what_changed_as_it_is_written() -> None:
    own = Tuner(3)
    texts = [own.propose(PROGRAM, "full", never).description for _ in range(40)]
    assert any(text.startswith("BATCH 2**14 → 2**") for text in texts)
    assert any(
        ', PATTERN "SL" → "' in text or text.startswith('PATTERN "SL" → "') for text in texts
    )


def test_the_override_of_the_scale_is_edited() -> None:
    own = Tuner(1)
    for _ in range(40):
        source = own.propose(PROGRAM, "small", never).source
        assert "DEPTH = 8  # blocks" in source
    assert set(proposed(own, "DEPTH", scale="small")) <= {1, 2, 4, 5, 6}


def test_equal_seeds_propose_the_same_and_workers_do_not() -> None:
    def first(seed: int) -> list[str]:
        own = Tuner(seed)
        own.learn(varied(20, lambda rate: rate))
        return [own.propose(PROGRAM, "full", never).source for _ in range(5)]

    assert first(7) == first(7)
    seeds = [tuner._seed("t", worker, n) for worker in ("cpu0", "cpu1") for n in (0, 1)]
    assert len({tuple(first(seed)) for seed in seeds}) == 4
    assert seeds[0] == 0xA5D253A6CFAED5F8  # the same on every machine and in every process


def test_a_finite_space_is_walked_to_its_end_without_repeating() -> None:
    own, tried = Tuner(1), {fingerprint(TINY)}
    for _ in range(5):
        source = own.propose(TINY, "full", lambda s: fingerprint(s) in tried).source
        assert fingerprint(source) not in tried
        tried.add(fingerprint(source))
    with pytest.raises(SwarmError, match="nothing left to try"):
        own.propose(TINY, "full", lambda s: fingerprint(s) in tried)


def test_the_last_untried_program_of_a_large_finite_space_is_found() -> None:
    program = BANNER + "".join(f"{n} = 5  # [1, 9]\n" for n in "ABC")
    last = program.replace("A = 5", "A = 1").replace("B = 5", "B = 9").replace("C = 5", "C = 2")
    assert Tuner(1).propose(program, "full", lambda source: source != last).source == last


def test_what_is_known_is_not_proposed_again_even_while_it_runs() -> None:
    others = combinations()
    own = Tuner(1)
    outcomes = [0.9, None, 0.8, 0.7, 0.6]
    own.learn(
        observed(f"e{i}", s, v) for i, (s, v) in enumerate(zip(others, outcomes, strict=False))
    )
    running = observed("e4", others[4], None)
    own.learn([Observation("e4", running.skeleton, running.params)])
    assert own.propose(TINY, "full", never).source == others[5]


def test_results_of_others_move_the_proposals() -> None:
    own = Tuner(1)
    own.learn(varied(60, lambda rate: 1 + (math.log10(rate) + 2.5) ** 2))
    informed = proposed(own, "LR", 120)
    blind = proposed(Tuner(1), "LR", 120)
    near = [
        sum(10**-3 < rate < 10**-2 for rate in rates) / len(rates) for rates in (informed, blind)
    ]
    assert near[0] > 0.75 > 0.5 > near[1]


def test_crashes_are_avoided() -> None:
    own = Tuner(1)
    own.learn(varied(60, lambda rate: None if rate > 0.1 else 1 + random.Random(rate).random()))
    rates = proposed(own, "LR", 120)
    assert sum(rate > 0.1 for rate in rates) / len(rates) < 0.15


def test_results_of_another_structure_say_nothing() -> None:
    own, blank = Tuner(1), Tuner(1)
    strangers = varied(40, lambda rate: rate)
    own.learn(Observation(o.experiment, "other", o.params, o.val_bpb) for o in strangers)
    assert own.propose(PROGRAM, "full", never) == blank.propose(PROGRAM, "full", never)


def test_long_histories_are_cut_to_the_best_and_the_latest() -> None:
    scores = [*range(500, 0, -1), *[None] * 20, *range(600, 620)]
    kept = informative(scores, lambda score: score)
    assert len(kept) == HISTORY
    assert kept[-40:] == scores[-40:]
    assert set(range(1, HISTORY // 2 + 1)) <= set(kept)


def test_nothing_is_printed_and_nothing_warns() -> None:
    script = f"""if True:
        from swarm.agents.tpe import Tuner
        own = Tuner(1)
        [own.propose({PROGRAM!r}, "full", lambda source: False) for _ in range(3)]
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, check=True, text=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_a_program_without_constants_is_an_error_with_a_hint() -> None:
    with pytest.raises(SwarmError, match="nothing to tune") as caught:
        Tuner(1).propose(BANNER + 'NAME = "x"\n', "full", never)
    assert "range" in caught.value.hint


# ---- the loop, over a real journal -----------------------------------------------------------

DEVICE = records.Device(name="cpu0", kind="cpu", id="0", model="a cpu")


class Lab:
    """A swarm of two workers: a journal, the worktree of `cpu0`, and what its runner would do."""

    def __init__(self, folder: Path, program: str = PROGRAM, scale: str = "full") -> None:
        folder.mkdir()
        self.journal = Journal(folder / "journal.jsonl")
        self.base = program
        self.sources: dict[str, str] = {}
        self.read: list[str] = []
        self.said: list[str] = []
        self.duplicates: set[int] = set()
        self.budget = 3
        self.submissions = 0
        self.lost = ""
        settings = records.Config(
            seconds=1, timeout=9, scale=scale, dataset="d", dataset_fingerprint="f"
        )
        self.journal.append(
            records.Swarm(
                tag="t",
                root="c0",
                prepare_sha256="",
                config=settings,
                version="0",
                workers=("cpu0",),
            )
        )
        for worker in ("cpu0", "cpu1"):
            self.journal.append(
                records.Worker(
                    worker=worker, agent="tuner", device=DEVICE, device_class="cpu",
                    branch=worker, worktree=str(folder),
                )
            )  # fmt: skip
        self.claim("e0", "", program)

    def claim(self, experiment: str, worker: str, source: str) -> None:
        self.sources[experiment] = source
        self.journal.append(
            records.Claim(
                experiment=experiment, worker=worker, agent="tuner", commit=experiment,
                parent="e0" if worker else None, fingerprint=fingerprint(source), description="",
            )
        )  # fmt: skip

    def finish(self, experiment: str, val_bpb: float | None, worker: str = "cpu0") -> None:
        trial = f"t-{experiment}"
        self.journal.append(
            records.TrialStarted(
                trial=trial, experiment=experiment, worker=worker, device_class="cpu", seed=0
            )
        )
        outcome = "crash" if val_bpb is None else "ok"
        reason = "out of memory" if val_bpb is None else ""
        self.journal.append(
            records.TrialFinished(
                trial=trial, outcome=outcome, seconds=1, val_bpb=val_bpb, reason=reason
            )
        )

    def begin(self) -> Draft:
        return Draft(f"{hash(self.base)}", self.base, self.base)

    def submit(self, change: Draft, description: str) -> Mapping[str, Any]:
        source = change.text
        assert change.original == self.base
        self.submissions += 1
        if self.submissions > self.budget:
            raise SwarmError("the swarm is stopping")
        if self.submissions in self.duplicates:
            raise Refused("this was tried before as e9")
        self.base = source
        name = f"e{10 + self.submissions}"
        self.claim(name, "cpu0", source)
        val_bpb = 0.9 - self.submissions / 1000
        self.finish(name, val_bpb)
        return {"experiment": name, "verdict": "keep", "reason": "", "val_bpb": val_bpb}

    def source_of(self, experiment: str) -> str | None:
        self.read.append(experiment)
        return None if experiment == self.lost else self.sources[experiment]

    def run(self, **options: Any) -> SwarmError:
        """Run the loop to the error that ends it."""
        with pytest.raises(SwarmError) as caught:
            tuner.run(
                Leaderboard(self.journal), "cpu0", self.begin, self.submit, self.source_of,
                self.said.append, **options,
            )  # fmt: skip
        return caught.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a user's worktree"


def test_the_loop_submits_until_it_is_told_to_stop(folder: Path) -> None:
    lab = Lab(folder)
    lab.finish("e0", 0.9)
    assert str(lab.run()) == "the swarm is stopping"
    assert len(set(map(fingerprint, lab.sources.values()))) == 4
    assert sorted(lab.read) == ["e0", "e11", "e12", "e13"]  # each once
    assert lab.said[0].startswith("trying  ")
    assert " → " in lab.said[0]
    assert lab.said[1] == "e11  keep  0.899000  Δ -0.001000"


def test_the_loop_takes_a_refused_proposal_back_and_makes_another(folder: Path) -> None:
    lab = Lab(folder)
    lab.finish("e0", 0.9)
    lab.duplicates, seen = {1, 2}, []

    def submit(change: Draft, description: str) -> Mapping[str, Any]:
        base = lab.sources["e0"] if lab.submissions < 3 else lab.sources["e13"]
        before, after = parse(base, "full"), parse(change.text, "full")
        seen.append({n for n in before if before[n].value != after[n].value})
        return lab.submit(change, description)

    with pytest.raises(SwarmError, match="stopping"):
        board = Leaderboard(lab.journal)
        tuner.run(board, "cpu0", lab.begin, submit, lab.source_of, lab.said.append)
    assert all(1 <= len(changed) <= 3 for changed in seen[:3])  # never piled on a refused one
    assert "refused  this was tried before as e9" in lab.said


def test_the_loop_gives_up_when_everything_is_refused(folder: Path) -> None:
    lab = Lab(folder)
    lab.finish("e0", 0.9)
    lab.budget, lab.duplicates = 100, set(range(100))
    assert isinstance(lab.run(), Refused)
    assert lab.submissions == tuner.REFUSALS
    assert lab.base == PROGRAM


def test_the_loop_does_not_submit_again_what_was_refused(folder: Path) -> None:
    lab = Lab(folder, TINY)
    lab.finish("e0", 0.9)
    lab.budget, lab.duplicates = 100, set(range(100))
    assert str(lab.run()).startswith("nothing left to try")
    assert lab.submissions == 5
    assert lab.base == TINY


def test_the_loop_says_when_the_baseline_does_not_train(folder: Path) -> None:
    lab = Lab(folder)
    lab.finish("e0", None)
    error = lab.run()
    assert str(error) == "the baseline does not train: out of memory"
    assert "e0" in error.hint
    assert lab.submissions == 0


def test_the_loop_learns_from_other_workers_and_knows_what_they_run(folder: Path) -> None:
    lab = Lab(folder, TINY)
    lab.finish("e0", 0.9)
    options = combinations()
    for number, source in enumerate(options[1:5], start=1):
        lab.claim(f"e{number}", "cpu1", source)
    lab.finish("e1", None, "cpu1")
    lab.finish("e2", 0.8, "cpu1")
    lab.lost = "e3"  # nobody can read what it did, but its fingerprint is known
    assert str(lab.run()).startswith("nothing left to try")
    assert lab.submissions == 1
    assert lab.sources["e11"] == options[5]


def test_history_tells_what_changed_and_skips_what_it_cannot_read(folder: Path) -> None:
    lab = Lab(folder)
    lab.finish("e0", 0.9)
    lab.claim("e1", "cpu1", PROGRAM.replace("LR = 0.1", "LR = 0.2"))
    lab.claim("e2", "cpu1", "print(1)")
    board = Leaderboard(lab.journal)
    board.refresh()
    entries, history = board.classes["cpu"].entries, tuner.History(lab.source_of, "full")
    first = {o.experiment: o for o in history.news(entries)}
    assert first.keys() == {"e0", "e1"}
    assert (first["e0"].val_bpb, first["e1"].val_bpb, first["e1"].failed) == (0.9, None, False)
    assert first["e1"].params["LR"] == 0.2
    assert list(history.news(entries)) == []
    lab.finish("e1", None, "cpu1")
    board.refresh()
    assert [(o.experiment, o.failed) for o in history.news(entries)] == [("e1", True)]
    assert lab.read == ["e0", "e1", "e2"]  # each once


def test_line_ends_and_foreign_letters_survive_the_loop(folder: Path) -> None:
    program = PROGRAM.replace("# learning rate", "# Lernrate für λ").replace("\n", "\r\n")
    lab = Lab(folder, program)
    lab.finish("e0", 0.9)
    lab.run()
    source = lab.sources["e11"]
    values: dict[str, Value] = {n: c.value for n, c in parse(source, "full").items()}
    assert source.count("\r\n") == program.count("\n") == source.count("\n")
    assert values != {n: c.value for n, c in parse(program, "full").items()}
    assert "Lernrate für λ" in source
