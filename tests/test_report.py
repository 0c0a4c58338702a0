"""The report: its numbers are those of the fold, its words are right, and nothing escapes."""

from __future__ import annotations

import html.parser
import io
import itertools
import math
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import nights
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from toy_swarm import WORKERS, Story

from swarm import records, report
from swarm.commands import folded
from swarm.journal import Cursor
from swarm.leaderboard import Leaderboard
from swarm.paths import Paths
from swarm.report import attendance, chapters, labels, markdown, page, progress, simplicity, story
from swarm.report.blocks import Code, Heading, Items, Paragraph, Strong, Table
from swarm.strays import AGENT_MARK
from swarm.views import documents
from swarm.views.table import printable

HOSTILE = (
    "<script>alert(1)</script>", "a | b || c", "`code` and ``more``", "[a](http://x.y) ![](x)",
    "see http://evil.example/x and www.evil.example", "$x$ *bold* _it_ ~~gone~~ # no",
    "line\nbreak\x1b[31m\u202e", "<img src=x onerror=alert(1)>", "=cmd|' /C calc'!A0",
)  # fmt: skip


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A night of some 300 experiments by eight workers."""
    return nights.tell(tmp_path_factory.mktemp("it's") / "a repo", 300)


@pytest.fixture
def told(tmp_path: Path) -> Story:
    return Story(tmp_path / "a user's repo", policy="probable")


def story_of(board: Leaderboard, **sources: str) -> story.Story:
    return story.tell(board, board.journal.read(Cursor()), sources.get)


def words(found: story.Story) -> str:
    """All that a report says, as Markdown."""
    return markdown.render(report.blocks(found))


def lead(found: story.Story) -> str:
    text = next(
        b for b in report.blocks(found) if isinstance(b, Paragraph) and b.kind == "lead"
    ).text
    return "".join(part if isinstance(part, str) else part.text for part in text)


class Page(html.parser.HTMLParser):
    """What a browser would see of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


# ---- the command -----------------------------------------------------------------------------


def test_a_report_is_three_files_that_need_nothing_else(
    night: Paths, environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / 'the user\'s "docs"'
    done = toy.swarm(night.root, "report", "--out", str(out), environment=environment)
    assert done.returncode == 0, done.stderr
    names = ["progress.png", "report.md", "report.html"]
    assert done.stdout.splitlines() == [str(out / name) for name in names]
    picture = (out / "progress.png").read_bytes()
    width, height = struct.unpack(">II", picture[16:24])
    assert picture.startswith(b"\x89PNG") and 1200 < width < 2000 and height < 1200
    assert len(picture) < 200_000
    seen = Page((out / "report.html").read_text())
    assert "script" not in seen.tags and "link" not in seen.tags
    assert len(seen.sources) == 1 and seen.sources[0].startswith("data:image/png;base64,")
    assert "![" in (out / "report.md").read_text()
    assert not list(out.glob("*.part"))


def test_it_goes_beside_the_journal_and_is_refused_to_agents(
    told: Story, environment: dict[str, str]
) -> None:
    root = told.paths.root
    agent = toy.swarm(root, "report", environment=environment | {AGENT_MARK: "cpu0"})
    assert agent.returncode == 3 and "are for people" in agent.stderr
    unknown = toy.swarm(root, "report", "--experiment", "e77", environment=environment)
    assert unknown.returncode == 3 and "there is no experiment 'e77'" in unknown.stderr
    assert not (told.paths.home / "report").exists()


def test_without_matplotlib_there_is_one_clear_error(told: Story) -> None:
    program = (
        "import sys; sys.modules['matplotlib'] = None; sys.argv = ['swarm', 'report']\n"
        "from swarm import cli; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=told.paths.root, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: matplotlib is not installed",
        "hint: pip install 'swarm-research[plot]'",
    ]


# ---- the numbers -----------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_fold(night: Paths) -> None:
    board = folded(night)
    found = story_of(board)
    (chapter,) = found.chapters
    known = board.primary
    assert known and known.best and chapter.result.final and chapter.result.improvement
    best, baseline = known.champion(), known.entries["e0"]
    assert best and best.estimate and baseline.estimate
    gain = baseline.estimate.mean - best.estimate.mean
    assert chapter.result.standing == "confirmed" and best.confirmed
    assert chapter.result.final.commit == best.claim.commit
    assert chapter.result.improvement.absolute.value == pytest.approx(gain)
    assert chapter.result.improvement.sigmas.value == pytest.approx(gain / known.noise.sd)
    assert chapter.result.improvement.percent.value == pytest.approx(
        100 * gain / baseline.estimate.mean
    )
    assert sum(step.gain.value for step in chapter.result.steps) == pytest.approx(gain)
    assert chapter.result.steps[-1].total.value == pytest.approx(gain)
    for crew in (found.workers, found.agents):
        assert sum(each.gain for each in crew) == pytest.approx(gain)
        assert sum(each.experiments for each in crew) == len(known.entries) - 1
        assert sum(each.kept for each in crew) == chapter.keeps == len(known.kept) - 1
        assert sum(each.bill.usd for each in crew if each.bill) == pytest.approx(
            documents.spend(board)["agents_usd"]
        )
    assert sum(w.devices for w in found.workers) / 3600 == pytest.approx(
        documents.spend(board)["device_hours"], abs=1e-3
    )
    assert 0 < chapter.false_keeps < chapter.keeps and chapter.false_claims < 1
    assert sum(cause.count for cause in chapter.failures.causes) == sum(
        entry.kind == "crash" for entry in known.entries.values()
    )
    assert found.attendance.wall == pytest.approx(chapter.idle / 8 + 3600 * 4, rel=0.3)


def test_failures_are_grouped_by_what_they_say_but_for_numbers(told: Story) -> None:
    for reason in ("CUDA out of memory: 2.5 GiB", "nan at step 4", "CUDA out of memory: 17 GiB"):
        name = told.claim("cpu0")
        trial = f"t{len(told.board.trials)}"
        told.tell(
            records.TrialStarted(
                trial=trial, experiment=name, worker="cpu0", device_class="CPU", seed=1
            ),
            records.TrialFinished(trial=trial, outcome="crash", seconds=1.0, reason=reason),
        )
    causes = story_of(told.board).chapters[0].failures.causes
    assert [(c.text, c.count, c.experiments) for c in causes] == [
        ("CUDA out of memory: 2.5 GiB", 2, ("e1", "e3")),
        ("nan at step 4", 1, ("e2",)),
    ]


def test_hyperparameters_are_found_in_descriptions(night: Paths) -> None:
    topics = {topic.name: topic for topic in story_of(folded(night)).chapters[0].failures.topics}
    known = folded(night).primary
    assert known
    named = [e for e in known.entries.values() if "MATRIX_LR" in e.claim.description]
    assert topics["MATRIX_LR"].tried == len(named)
    assert topics["MATRIX_LR"].kept == sum(entry.kind == "keep" for entry in named)
    assert set(topics) == {"MATRIX_LR", "WARMDOWN_RATIO", "EMBEDDING_LR"}


def test_constants_of_the_trainer_are_known_by_name(told: Story) -> None:
    for text in ("LR 0.04 → 0.3 and BATCH doubled", "no LRX", "BATCH 2**7"):
        name = f"e{len(told.board.claims)}"
        claim = records.Claim(
            experiment=name, worker="cpu0", agent="x", parent="e0", commit=name, fingerprint=name,
            description=text,
        )  # fmt: skip
        told.tell(claim)
    found = story_of(told.board, e0=toy.TRAIN).chapters[0].failures.topics
    assert {topic.name: topic.tried for topic in found} == {"LR": 1, "BATCH": 2}


def test_agents_are_at_work_from_start_to_exit_or_parking() -> None:
    began = datetime(2026, 11, 20, tzinfo=UTC)
    config = records.Config(seconds=1, timeout=9, scale="small", dataset="", dataset_fingerprint="")

    def lines() -> Iterator[records.AnyRecord]:
        yield records.Swarm(
            time=at(0), tag="t", root="", prepare_sha256="", config=config, version="",
            workers=("a", "b"),
        )  # fmt: skip
        yield records.AgentEvent(time=at(10), worker="a", state="started")
        yield records.AgentEvent(time=at(20), worker="a", state="started")  # with its runner
        yield records.AgentEvent(time=at(30), worker="a", state="exited")
        yield records.AgentEvent(time=at(40), worker="a", state="started")
        yield records.AgentEvent(time=at(45), worker="b", state="started")
        yield records.AgentEvent(time=at(50), worker="b", state="nudged")
        yield records.AgentEvent(time=at(65), worker="b", state="parked")
        yield records.Ended(time=at(100), state="stopped")
        yield records.Reconfigured(time=at(1000), config=config, workers=("a",))
        yield records.AgentEvent(time=at(1001), worker="a", state="started")
        yield records.Note(time=at(1011), worker="a", text="the last line")

    def at(seconds: float) -> datetime:
        return began + timedelta(seconds=seconds)

    found = attendance.of(lines())
    assert found.agents == {"a": 20 + 60 + 10, "b": 20}
    assert found.wall == 100 + 11
    assert (found.began, found.ended) == (at(0), at(1011))


# ---- simpler, and as good --------------------------------------------------------------------

SHORT, LONG = "x = 1\n", "# why\nx = 1\n\ny = (\n    2\n)\n"


def test_effective_lines_are_those_with_code() -> None:
    assert simplicity.effective_lines(SHORT) == 1
    assert simplicity.effective_lines(LONG) == 4
    text = '"""What it is\nand does."""\n\ndef f():  # why\n    """Short."""\n    return "a"\n'
    assert simplicity.effective_lines(text) == 2
    assert simplicity.effective_lines("def (:\n\n# no\n") == 1  # no Python: counted by its lines


def test_what_turned_out_to_be_no_gain_can_be_left_out(told: Story) -> None:
    for _ in range(4):
        told.trial("e0", "cpu0", 1.0)
    told.experiment("cpu0", 0.9)
    told.experiment("cpu1", 0.89, parent="e1")
    for score in (0.92, 0.93, 0.9):
        told.trial("e2", "cpu1", score)
    found = story.tell(
        told.board, told.board.journal.read(Cursor()), {"e1": SHORT, "e2": LONG}.get, "e2"
    )
    (doubt,) = found.chapters[0].doubts
    assert (doubt.step.score.experiment, doubt.lines, doubt.parent_lines) == ("e2", 4, 1)
    assert "git checkout e1 -- train.py" in words(found)
    longer = story.tell(
        told.board, told.board.journal.read(Cursor()), {"e1": LONG, "e2": SHORT}.get, "e2"
    )
    assert "so it stays" in words(longer) and "git checkout e1" not in words(longer)


def test_a_change_is_taken_out_by_the_command_that_is_offered(told: Story) -> None:
    """In a real repository, without touching what the user has checked out."""
    root = told.paths.root
    versions = {"e0": toy.TRAIN}
    for name, parent, old, new in (
        ("e1", "e0", "LR = 0.04", "LR = 0.3"), ("e2", "e1", "time.sleep(WAIT)", "time.sleep(0)"),
        ("e3", "e2", 'print("depth: 1")', 'print("depth: 2")'),
    ):  # fmt: skip
        versions[name] = versions[parent].replace(old, new)
        (root / "train.py").write_text(versions[name])
        toy.git(root, "commit", "-qam", name)
        toy.git(root, "tag", name)  # the commits of a told experiment have its name
    for worker, scores, parent in (
        ("cpu0", [0.9], "e0"), ("cpu1", [0.89, 0.92, 0.93], "e1"), ("cpu2", [0.8], "e2"),
    ):  # fmt: skip
        name = told.experiment(worker, scores[0], parent)
        for score in scores[1:]:
            told.trial(name, worker, score)
    toy.git(root, "checkout", "-q", "HEAD~3")
    found = story.tell(told.board, told.board.journal.read(Cursor()), versions.get, "e3")
    (command,) = (
        part.text
        for block in report.blocks(found)
        if isinstance(block, Items)
        for item in block.items
        for part in item
        if isinstance(part, Code)
    )
    done = subprocess.run(command, shell=True, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    taken_out = (root.parent / "race-without-e2" / "train.py").read_text()
    assert taken_out == versions["e3"].replace("time.sleep(0)", "time.sleep(WAIT)")
    assert (root / "train.py").read_text() == toy.TRAIN


# ---- swarms of every kind --------------------------------------------------------------------


def test_a_swarm_with_nothing_but_a_baseline_says_so(told: Story) -> None:
    found = story_of(told.board)
    assert "nothing to report yet but the baseline" in lead(found)
    assert "so far" in words(found)


def test_a_swarm_of_crashes_says_so(told: Story) -> None:
    for worker in ("cpu0", "cpu1"):
        told.experiment(worker, None)
    found = story_of(told.board)
    assert "None of them got a score" in lead(found)
    assert "no score yet" in progress.headline(found, found.chapters[0])[0]
    assert progress.draw(found)


def test_what_has_not_ended_has_not_failed(told: Story) -> None:
    name = told.claim("cpu0")
    assert "None of them has a score yet" in lead(story_of(told.board))
    told.trial(name, "cpu0", None)
    assert "each crashed" in lead(story_of(told.board))


def test_an_experiment_that_is_asked_for_may_have_no_story(told: Story) -> None:
    told.experiment("cpu0", 0.8)
    crashed = told.experiment("cpu1", None)
    for asked, said in ((crashed, "e2 has no score"), ("e0", "e0 is the baseline")):
        found = story.tell(told.board, told.board.journal.read(Cursor()), {}.get, asked)
        assert said in lead(found) and "None of them" not in lead(found)
        assert "| incumbent | " in words(found) and "change of val\\_bpb" not in words(found)
        assert ("git worktree add" in words(found)) is (asked == "e0")
        assert progress.draw(found)


def test_a_claim_is_put_first_by_the_trials_that_were_made_for_it(night: Paths) -> None:
    board = folded(night)
    known, found = board.primary, story_of(board)
    best = known and known.champion()
    assert known and best and len(best.values) > len(best.evidence) >= 1
    baseline = sum(known.entries["e0"].evidence) / len(known.entries["e0"].evidence)
    ours = sum(best.evidence) / len(best.evidence)
    said = f"{best.experiment} lowered val_bpb by {100 * (1 - ours / baseline):.2f} ± "
    assert said in lead(found)
    text = next(b.text for b in report.blocks(found) if isinstance(b, Paragraph))
    assert said in next(part.text for part in text if isinstance(part, Strong))
    percent = f"−{100 * (1 - ours / baseline):.2f} ± "
    assert percent in progress.headline(found, found.chapters[0])[0]


def test_noise_that_is_partly_assumed_is_called_so(told: Story) -> None:
    assert "assumed: nothing was replicated" in words(story_of(told.board))
    for count in range(1, 5):
        told.trial("e0", "cpu0", 1.0 + 0.01 * count)
        text = words(story_of(told.board))
        trials = "1 replicate" if count == 1 else f"{count} replicates"
        assert text.count(f"from {trials} and what is usual)") == (2 if count < 4 else 0)
    assert text.count("from 4 replicates)") == 2


def test_a_repetition_varies_by_the_trial_and_by_the_mean(told: Story) -> None:
    for _ in range(4):
        told.trial("e0", "cpu0", 1.01)
    found = story_of(told.board)
    sigma = found.chapters[0].noise.sd
    spread = math.sqrt(sigma**2 + sigma**2 / 5)
    assert f" ± {spread:.4f} (the SD of one new trial" in words(found)


def test_a_swarm_without_improvement_says_so(told: Story) -> None:
    told.experiment("cpu0", 1.5)
    told.tell(records.Ended(state="stopped", reason="by a person"))
    found = story_of(told.board)
    assert "believed to be better than the baseline" in lead(found)
    assert "so far" not in words(found) and "ended: by a person" in words(found)


def test_an_unconfirmed_result_is_not_claimed(told: Story) -> None:
    told.experiment("cpu0", 0.8)
    found = story_of(told.board)
    assert "only probable" in lead(found) and "so far" in lead(found)
    assert "not confirmed" in progress.headline(found, found.chapters[0])[0]
    assert "Winner's curse" in words(found)


def test_device_classes_have_chapters_of_their_own(told: Story) -> None:
    device = records.Device(name="gpu0", kind="cuda", id="0", model="H100")
    told.tell(
        records.Worker(
            worker="gpu0", agent="claude", device=device, device_class="H100 | fast", branch="b",
            worktree="w",
        )
    )  # fmt: skip
    told.trial("e0", "cpu0", 1.01)
    for trial, experiment, score in (("a", "e0", 0.7), ("b", "", 0.6)):
        name = experiment or told.claim("gpu0")
        told.tell(
            records.TrialStarted(
                trial=trial, experiment=name, worker="gpu0", device_class="H100 | fast", seed=3
            ),
            records.TrialFinished(trial=trial, outcome="ok", seconds=3.0, val_bpb=score),
        )
    told.experiment("cpu1", 0.9)
    found = story_of(told.board)
    assert [chapter.name for chapter in found.chapters] == ["CPU", "H100 | fast"]
    text = words(found)
    assert text.count("### H100 \\| fast") >= 4 and text.count("git worktree add") == 2
    assert "1 agent (claude) tried 1 change" in text and "4 agents (tuner) tried 1 change" in text
    assert [c.result.final and c.result.final.experiment for c in found.chapters] == ["e2", "e1"]


def test_a_swarm_that_was_spawned_anew_for_longer_trials_keeps_its_old_story(told: Story) -> None:
    told.experiment("cpu0", 0.9)
    assert told.board.config
    again = records.Reconfigured(config=told.board.config, workers=("cpu0",))
    joined = told.board.workers["cpu0"].joined
    told.tell(again, msgspec.structs.replace(joined, device_class="CPU/longer"))
    found = story_of(told.board)
    assert [chapter.name for chapter in found.chapters] == ["CPU/longer", "CPU"]
    assert len(found.chapters[1].workers) == 4 and "0 agents" not in words(found)
    told.tell(
        again, *(msgspec.structs.replace(told.board.workers[name].joined, device_class="CPU/longer")
                 for name in WORKERS)
    )  # fmt: skip
    assert "1 agent (tuner) tried 1 change of train.py" in words(story_of(told.board))


# ---- words that agents wrote -----------------------------------------------------------------


def test_nothing_that_agents_wrote_is_markup(told: Story) -> None:
    for text in HOSTILE:
        name = f"e{len(told.board.claims)}"
        told.tell(
            records.Claim(
                experiment=name, worker="cpu0", agent=f"cmd:{text}", parent="e0", commit=name,
                fingerprint=name, seedless=name, description=text,
            )
        )  # fmt: skip
        told.trial(name, "cpu0", 0.9)
    name = told.experiment("cpu1", None)
    assert name
    found = story_of(told.board)
    content = list(report.blocks(found))
    seen = Page(page.render("t", content, {"progress.png": b"x"}))
    assert not {"script", "a", "link", "iframe"} & set(seen.tags) and seen.tags.count("img") == 1
    tokens = MarkdownIt("gfm-like").parse(markdown.render(content))
    parts = [inner for token in tokens for inner in (token, *(token.children or ()))]
    kinds = [part.type for part in parts]
    assert not {"html_inline", "html_block", "em_open", "s_open"} & set(kinds)
    # (This parser, unlike GitHub's, takes train.py for a place in Paraguay.)
    links = {part.attrs["href"] for part in parts if part.type == "link_open"}
    assert links <= {"http://train.py"}
    assert kinds.count("image") == 1 and kinds.count("table_open") == sum(
        isinstance(block, Table) for block in content
    )
    assert progress.draw(found).startswith(b"\x89PNG")


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=60) | st.sampled_from(HOSTILE) | st.text("`|\\*_[]<>:/w.#-+!&~ ", max_size=30)
)
def test_a_table_cell_shows_the_text_and_only_that(text: str) -> None:
    shown = printable(text)
    table = Table(("a", "b"), [((text, Code(text)), "end")])
    tokens = MarkdownIt("gfm-like").parse(markdown.render([Heading(1, "t"), table]))
    cells = [
        "".join(inner.content for inner in token.children or ())
        for opened, token in itertools.pairwise(tokens)
        if opened.type == "td_open"
    ]
    assert len(cells) == 2 and cells[1] == "end"
    assert "".join(cells[0].split()) == "".join((shown + shown).split())


def test_page_and_markdown_say_the_same(night: Paths) -> None:
    content = list(report.blocks(story_of(folded(night))))
    seen = Page(page.render("t", content, {"progress.png": b""}))
    body = "".join(seen.texts[seen.texts.index(content[0].text) :])  # type: ignore[union-attr]
    tokens = MarkdownIt("gfm-like").parse(markdown.render(content))
    inner = [
        part.content
        for token in tokens
        for part in (token.children or [token])
        if part.type in ("text", "code_inline", "fence")
    ]
    assert "".join("".join(inner).split()) == "".join(body.split())


# ---- the plot --------------------------------------------------------------------------------


def test_the_plot_shows_what_matters_whatever_else_was_tried(told: Story) -> None:
    for score in (0.99, 0.98, 1.02, 9.0, 8.0, 7.0, 1.01, 1.03):
        told.experiment("cpu0", score)
    view = progress.range_of(story_of(told.board).chapters[0])
    assert view.low < 0.98 and 1.0 < view.high < 1.2


def test_labels_lie_over_no_other() -> None:
    figure = Figure(figsize=(8, 4), dpi=100)
    axes = figure.subplots()
    x, y = list(range(0, 200, 8)), [1 - 0.02 * at for at in range(25)]
    axes.set_xlim(0, 210)
    axes.set_ylim(0.3, 1.1)
    wanted = [(float(a), b, f"change number {a} of many") for a, b in zip(x, y, strict=True)]
    count = labels.place(axes, wanted, (x, y, [0.001] * len(x), 210))
    boxes = [label.get_window_extent() for label in axes.texts if label.get_text()]
    assert 3 < count == len(boxes) <= labels.MOST
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    figure.savefig(io.BytesIO())


def test_a_long_timeline_keeps_its_ends() -> None:
    rows = [[str(number), *"abcdefghi"] for number in range(500)]
    shown = chapters.middle_out(rows)
    assert len(shown) < 70 and shown[0] == rows[0] and shown[-1] == rows[-1]
    assert "more changes" in shown[len(shown) // 2][2]


def test_a_report_depends_on_the_journal_alone(told: Story) -> None:
    claim = records.Claim(
        experiment="e1", worker="cpu0", agent="x", parent="e0", commit="e1", fingerprint="e1",
        description="A_LR, B_LR, C_LR, D_LR, E_LR and F_LR",
    )  # fmt: skip
    told.tell(claim)
    program = (
        "import sys; from pathlib import Path\n"
        "from swarm.commands import folded; from swarm.paths import Paths\n"
        "from swarm.journal import Cursor; from swarm import report\n"
        "from swarm.report import markdown, story\n"
        "board = folded(Paths(Path(sys.argv[1]), 'race'))\n"
        "told = story.tell(board, board.journal.read(Cursor()), lambda _: None)\n"
        "print(markdown.render(report.blocks(told)))"
    )
    texts = [
        subprocess.run(
            [sys.executable, "-P", "-c", program, str(told.paths.root)],
            capture_output=True, check=True, env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert texts[0] == texts[1]
