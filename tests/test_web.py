"""The server of the live page: what it answers, whom it refuses, and that it can be stopped."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import resource
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from toy_swarm import Story
from web_fixtures import HOSTILE, Events, request, serving, write_night

from swarm import records
from swarm.errors import Refused, SwarmError
from swarm.journal import Journal
from swarm.paths import Paths
from swarm.strays import AGENT_MARK
from swarm.web import detail
from swarm.web.changes import Changes
from swarm.web.feed import Feed
from swarm.web.guard import Guard, is_loopback
from swarm.web.hub import Closed, Hub
from swarm.web.server import Server, bind
from swarm.web.table import Query

BIG = 300
MOVES = ("better", "worse", "crash", "open", "again", "start", "finish")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    return write_night(tmp_path_factory.mktemp("web") / "a user's repo", BIG)


@pytest.fixture(scope="module")
def url(night: Paths) -> Iterator[str]:
    with serving(night.root, dict(os.environ)) as (found, _):
        yield found


def read(url: str, path: str) -> Any:
    answer, body = request(url, path)
    assert answer.status == 200, body
    assert answer.headers["content-type"] == "application/json"
    return json.loads(
        gzip.decompress(body) if answer.headers["content-encoding"] == "gzip" else body
    )


# ---- what it answers ----------------------------------------------------------------------------


def test_the_page_and_its_files_come_with_strict_headers(url: str) -> None:
    for path, kind in (
        ("/", "text/html; charset=utf-8"),
        ("/static/main.js", "text/javascript; charset=utf-8"),
        ("/static/page.css", "text/css; charset=utf-8"),
        ("/static/icon.svg", "image/svg+xml"),
    ):
        answer, body = request(url, path)
        assert (answer.status, answer.headers["content-type"]) == (200, kind)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        again, nothing = request(url, path, if_none_match=str(answer.headers["etag"]))
        assert (again.status, nothing) == (304, b"")
        assert not body.count(b"onclick=") and not body.count(b"style=")
    head, body = request(url, "/", "HEAD")
    assert (head.status, body) == (200, b"")


def test_columns_say_of_every_experiment_what_the_fold_does(url: str, night: Paths) -> None:
    told = read(url, "/api/swarm")
    rows, status = told["experiments"], told["status"]
    board = read(url, "/api/rows?sort=experiment&limit=200")["rows"]
    assert rows["number"] == list(range(BIG))
    for found in board:
        at = int(found["experiment"][1:])
        assert status["words"]["verdicts"][rows["verdict"][at]] == found["verdict"]
        expected = found["val_bpb"] and round(found["val_bpb"], 6)
        assert (rows["val_bpb"][at], rows["replicates"][at]) == (expected, found["replicates"])
        worker = status["lanes"][rows["worker"][at]] if rows["worker"][at] >= 0 else ""
        assert worker == found["worker"]
    assert len(told["trials"]["row"]) == BIG
    assert status["device_classes"][0]["baseline"]["mean"] == 1.0
    assert status["state"] == "finished"


def test_the_table_is_searched_sorted_and_paged_by_the_server(url: str) -> None:
    best = read(url, "/api/rows?limit=50")
    scores = [row["val_bpb"] for row in best["rows"]]
    assert (best["total"], len(scores), scores) == (BIG, 50, sorted(scores))
    worst = read(url, f"/api/rows?descending=true&limit=200&offset={BIG - 120}")["rows"]
    assert worst[-1]["val_bpb"] is None, "what has no score stands last in either order"
    crashed = read(url, "/api/rows?verdict=crash")
    assert 0 < crashed["total"] < BIG
    assert {row["verdict"] for row in crashed["rows"]} == {"crash"}
    found = read(url, "/api/rows?search=SCRIPT%20e1")
    assert [row["description"] for row in found["rows"]] == [HOSTILE]
    assert read(url, "/api/rows?search=gpu3%20crash")["total"] < crashed["total"]
    assert len(read(url, "/api/rows?limit=100000")["rows"]) == 200
    for bad in ("sort=__class__", "limit=many", "descending=2"):
        assert request(url, f"/api/rows?{bad}")[0].status == 400


@pytest.mark.parametrize(
    "path",
    [
        "/static/../feed.py", "/static/%2e%2e%2ffeed.py", "/static/..%2f..%2fcli.py", "/feed.py",
        "/static/", "/static/..", "/static/nothing.js",
        "/api/experiment/..%2f..%2fjournal.jsonl", "/api/experiment/e99999",
        "/api/log/..%2f..%2f..%2fworkers", "/api/log/t99999", "/api/row/e1?device_class=7",
        "/api/rows?device_class=-1",
    ],
)  # fmt: skip
def test_what_is_not_known_is_not_found(url: str, path: str) -> None:
    assert request(url, path)[0].status == 404


def test_an_experiment_is_told_with_its_diff_its_trials_and_the_end_of_its_log(
    tmp_path: Path,
) -> None:
    story = Story(tmp_path / "a user's repo")
    root = story.paths.root
    (root / "train.py").write_text(toy.TRAIN.replace("LR = 0.04", "LR = 0.3"))
    toy.git(root, "commit", "--quiet", "-am", "up")
    commit = toy.git(root, "rev-parse", "HEAD")
    for name, at in (("e1", commit), ("e2", "--output=stolen")):
        story.tell(
            records.Claim(
                experiment=name, worker="cpu0", agent="x", parent="e0", commit=at,
                fingerprint=name, seedless=name, description=HOSTILE,
            )
        )  # fmt: skip
    story.trial("e1", "cpu0", 0.9)
    log = story.paths.trial("t1") / "run.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"\x1b[31mred\x1b[0m\tstep 1\rstep 2\n\x07bell\xff")
    feed = Feed(story.paths)
    feed.poll()
    found = feed.detail("e1", 0)
    assert "-LR = 0.04" in found["diff"] and "+LR = 0.3" in found["diff"]
    assert (found["gained"]["over"], found["log_of"]) == ("e0", "t1")
    assert found["gained"]["gain"] == pytest.approx(0.1)
    assert [trial["outcome"] for trial in found["trials"]] == ["ok"]
    assert found["log"] == "step 2\n\\x07bell\ufffd"
    assert feed.log("t1")["log"] == found["log"]
    option = feed.detail("e2", 0)
    assert option["diff"] is None, "a name from the journal is never an option of git"
    assert not (root / "stolen").exists()
    assert feed.detail("e0", 0)["no_diff"].startswith("This is the starting point")
    with pytest.raises(Refused):
        feed.detail("e1/../e2", 0)
    (log.parent / "secret").write_text("")
    with pytest.raises(Refused):
        feed.log("t1/../t1")
    assert detail.log_of(story.paths, "t0") == ""


# ---- what is new --------------------------------------------------------------------------------


def merged(known: dict[str, dict[int, dict[str, Any]]], update: Any) -> None:
    """What the page does with an update."""
    for kind in ("experiments", "trials"):
        part = update[kind] or {"row": []}
        for i, place in enumerate(part["row"]):
            known[kind][place] = {name: column[i] for name, column in part.items()}


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(moves=st.lists(st.sampled_from([*MOVES, "look", "look"]), max_size=12))
@example(moves=["start", "look", "finish"])
def test_updates_add_up_to_the_whole(
    tmp_path_factory: pytest.TempPathFactory, moves: list[str]
) -> None:
    """Whatever happens, and however often a page looks: it knows what a fresh one is told."""
    story = Story(tmp_path_factory.mktemp("story") / "repo", policy="probable")
    feed = Feed(story.paths)
    feed.poll()
    known: dict[str, dict[int, dict[str, Any]]] = {"experiments": {}, "trials": {}}
    mark, running = "", list[str]()
    for move in [*moves, "look"]:
        score = 1.0 - 0.01 * len(story.board.claims)
        if move in ("better", "worse", "crash"):
            story.experiment("cpu1", {"better": score, "worse": 2.0, "crash": None}[move])
        elif move == "open":
            story.claim("cpu2")
        elif move == "start":
            running.append(f"t{len(story.board.trials)}")
            story.tell(
                records.TrialStarted(
                    trial=running[-1], experiment=story.claim("cpu0"), worker="cpu0",
                    device_class="CPU", seed=1,
                )
            )  # fmt: skip
        elif move == "finish" and running:
            story.tell(
                records.TrialFinished(
                    trial=running.pop(0), outcome="ok", seconds=9.0, val_bpb=score
                )
            )
        elif move == "again":
            top = story.board.classes["CPU"].incumbent or "e0"
            story.trial(top, "cpu3", score + 0.02)
        elif move == "look" and not mark:
            feed.poll()
            update = json.loads(gzip.decompress(feed.whole()))
            mark = update["id"]
            merged(known, update)
        elif move == "look":
            feed.poll()
            mark, encoded = feed.since(mark)
            merged(known, json.loads(encoded))
    whole = json.loads(gzip.decompress(polled(story.paths).whole()))
    fresh: dict[str, dict[int, dict[str, Any]]] = {"experiments": {}, "trials": {}}
    merged(fresh, whole)
    assert known == fresh


def polled(paths: Paths) -> Feed:
    feed = Feed(paths)
    feed.poll()
    return feed


def test_an_update_has_what_changed_and_old_verdicts_are_among_it(tmp_path: Path) -> None:
    story = Story(tmp_path / "a user's repo", policy="probable")
    first = story.experiment("cpu0", 0.9)
    story.experiment("cpu1", 2.0)
    changes = Changes(story.board)
    changes.take()
    before = changes.version
    story.trial(first, "cpu2", 1.2)  # it was luck
    changes.take()
    assert [row.entry.experiment for _, row in changes.rows_since(before)] == [first]
    assert [trial.id for _, trial in changes.trials_since(before)] == ["t3"]
    assert list(changes.rows_since(changes.version)) == []
    before = changes.version
    story.tell(  # begun and ended between two looks, and not scored
        records.TrialStarted(
            trial="t9", experiment=first, worker="cpu2", device_class="CPU", seed=1
        ),
        records.TrialFinished(trial="t9", outcome="crash", seconds=9.0, heldout_bpb=1.1),
    )
    changes.take()
    assert [row.entry.experiment for _, row in changes.rows_since(before)] == [first]


def test_a_stream_goes_on_where_it_was_and_says_when_it_cannot(tmp_path: Path) -> None:
    story = Story(tmp_path / "a user's repo")
    with serving(story.paths.root, dict(os.environ)) as (url, _):
        mark = read(url, "/api/swarm")["id"]
        stream = Events(url, mark)
        same, update = stream.next()
        assert (same, update["experiments"]) == (mark, None)
        name = story.experiment("cpu1", 0.9)
        while not (update["experiments"] and update["trials"]):  # not between the lines of it
            newer, update = stream.next()
        assert f"e{update['experiments']['number'][-1]}" == name
        story.experiment("cpu1", 2.0)
        while not (update := stream.next()[1])["experiments"]:
            continue
        assert update["experiments"]["number"] == [2], "only what is new"
        stream.close()
        again = Events(url, mark, last_event_id=newer)
        while not (update := again.next()[1])["experiments"]:
            continue
        assert update["experiments"]["number"][-1] == 2, "what it missed"
        again.close()
        for stranger in ("", "0-0", "../x", f"{mark}9x", f"{mark}99"):
            lost = Events(url, stranger)
            assert lost.next()[1] is None
            lost.close()


def test_a_damaged_journal_is_told_and_what_was_known_stays(tmp_path: Path) -> None:
    story = Story(tmp_path / "a user's repo")
    story.experiment("cpu1", 0.9)
    path = story.paths.journal
    feed = Feed(story.paths)
    assert feed.poll()
    mark = json.loads(gzip.decompress(feed.whole()))["id"]
    saved = path.read_bytes()
    path.write_bytes(saved + b"{half a line\n")
    assert feed.poll()
    same, told = feed.since(mark)
    assert same == mark
    assert "is damaged" in json.loads(told)["trouble"]
    assert feed.row("e1", 0)["val_bpb"] == 0.9
    story.paths.heartbeat("cpu2").mkdir(parents=True)  # nor can what workers do be seen
    path.unlink()
    feed.poll()
    assert "No such file" in feed.trouble
    path.write_bytes(saved)
    assert feed.poll()
    assert "cpu2.json" in feed.trouble
    story.paths.heartbeat("cpu2").rmdir()
    assert feed.poll()
    anew, told = feed.since(mark)
    assert anew != mark
    assert told == b"null", "the page has to fetch all of it"
    assert feed.trouble == ""
    path.write_bytes(saved[: saved.rindex(b'{"kind')])  # cut, and valid
    os.utime(path, (1, 1))
    feed.poll()
    assert (feed.trouble, feed.row("e1", 0)["val_bpb"]) == ("", None)


def test_a_journal_that_could_not_be_opened_for_a_while_is_read_again(tmp_path: Path) -> None:
    story = Story(tmp_path / "a user's repo")
    feed = Feed(story.paths)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        feed.poll()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "Too many open files" in feed.trouble
    feed.poll()  # though the journal is as it was
    assert feed.trouble == ""
    assert feed.row("e0", 0)["val_bpb"] == 1.0


def test_a_journal_that_is_damaged_from_the_start_is_no_crash(tmp_path: Path) -> None:
    story = Story(tmp_path / "a user's repo")
    story.paths.journal.write_text("nonsense\n")
    with serving(story.paths.root, dict(os.environ)) as (url, _):
        answer, body = request(url, "/api/swarm")
        assert answer.status == 503
        assert b"line 1 is damaged" in body
        assert request(url, "/")[0].status == 200


def test_several_device_classes_are_kept_apart(tmp_path: Path) -> None:
    story = Story(tmp_path / "a user's repo")
    device = records.Device(name="gpu0", kind="cuda", id="0", model="H100")
    story.tell(
        records.Worker(worker="cpu1", agent="x", device=device, device_class="H100", branch="b",
                       worktree="w"),
    )  # fmt: skip
    name = story.claim("cpu1")
    feed = Feed(story.paths)
    feed.poll()
    told = json.loads(gzip.decompress(feed.whole()))
    pairs = zip(told["experiments"]["device_class"], told["experiments"]["number"], strict=True)
    assert sorted(pairs) == [(0, 0), (1, 0), (1, int(name[1:]))]
    assert feed.rows(Query(device_class=1, sort="experiment"))["total"] == 2
    assert feed.rows(Query(device_class=0))["total"] == 1
    assert told["trials"]["device_class"] == [0]
    assert told["status"]["primary"] == 0
    config = story.board.config
    assert config is not None
    story.tell(records.Reconfigured(config=config, workers=("cpu1",)))  # spawned again, on that
    feed.poll()
    status = json.loads(gzip.decompress(feed.whole()))["status"]
    assert status["primary"] == 1
    assert (status["began"], status["started"]) == tuple(
        record.isoformat()
        for record in (story.board.swarm.time, story.board.started)  # type: ignore[union-attr]
    )


# ---- whom it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_it_is_read_only(url: str, method: str) -> None:
    for path in ("/api/swarm", "/nothing"):
        answer, _ = request(url, path, method)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"}, {"Host": "evil.example:{port}"}, {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:1"}, {"Host": ""}, {"Host": "localhost.evil.example:{port}"},
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:1"},
        {"Origin": "https://127.0.0.1:{port}"}, {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)  # fmt: skip
def test_other_sites_and_rebound_names_are_refused(url: str, headers: dict[str, str]) -> None:
    port = url.rstrip("/").rpartition(":")[2]
    named = {name: value.format(port=port) for name, value in headers.items()}
    for path in ("/", "/api/swarm", "/static/main.js"):
        answer, body = request(url, path, **named)
        assert answer.status == 403
        assert b"e17" not in body
        assert answer.headers["content-security-policy"]


CLICKED = {
    "Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document",
}  # fmt: skip


def test_a_link_on_another_site_leads_to_the_page_and_to_nothing_else(url: str) -> None:
    assert request(url, "/", **CLICKED)[0].status == 200
    assert request(url, "/", **CLICKED | {"Sec_Fetch_Site": "same-site"})[0].status == 200
    for path in ("/api/swarm", "/api/experiment/e1", "/static/main.js", "//"):
        assert request(url, path, **CLICKED)[0].status == 403, path
    for changed in (
        {"Sec_Fetch_Dest": "iframe"}, {"Sec_Fetch_Dest": "object"}, {"Sec_Fetch_Dest": "empty"},
        {"Sec_Fetch_Mode": "no-cors"}, {"Sec_Fetch_Mode": "cors"}, {"Sec_Fetch_Mode": ""},
        {"Origin": "http://evil.example"}, {"Host": "evil.example"},
    ):  # fmt: skip
        assert request(url, "/", **CLICKED | changed)[0].status == 403, changed
    assert request(url, "/", "HEAD", **CLICKED)[0].status == 403
    assert request(url, "/", "POST", **CLICKED)[0].status == 405


def test_its_own_names_are_let_in(url: str) -> None:
    port = url.rstrip("/").rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]"):
        own = {"Host": f"{host}:{port}", "Origin": f"http://{host.lower()}:{port}"}
        assert request(url, "/", Sec_Fetch_Site="same-origin", **own)[0].status == 200


def test_another_address_needs_the_token_once(night: Paths) -> None:
    with serving(night.root, dict(os.environ), "--host", "0.0.0.0") as (url, _):
        base, _, token = url.partition("?token=")
        port = base.rstrip("/").rpartition(":")[2]
        assert len(token) >= 24
        here = f"http://127.0.0.1:{port}"
        for path in ("/", "/api/swarm", "/static/main.js", "/?token=wrong", "/?token="):
            assert request(here, path)[0].status == 401
        welcome, _ = request(here, f"/?token={token}")
        assert (welcome.status, welcome.headers["location"]) == (303, "/")
        cookie = welcome.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=lax" in cookie
        pair = cookie.partition(";")[0]
        assert request(here, "/", Cookie=pair)[0].status == 200
        assert request(here, "/", Cookie=f"{pair}x")[0].status == 401
        assert request(here, "/", Cookie=pair, Host=f"evil.example:{port}")[0].status == 403


def test_a_guard_of_all_addresses_trusts_addresses_not_names() -> None:
    guard = Guard("0.0.0.0", 8420, "secret")
    assert guard.refusal("GET", "/", {"host": "192.168.1.7:8420"}) is None
    assert guard.refusal("GET", "/", {"host": "[fe80::1]:8420"}) is None
    assert guard.refusal("GET", "/", {"host": f"{socket.gethostname()}:8420"}) is None
    for host in ("192.168.1.7:8421", "evil.example:8420", "192.168.1.7"):
        assert guard.refusal("GET", "/", {"host": host}) is not None
    assert Guard("127.0.0.1", 80, None).refusal("GET", "/", {"host": "localhost"}) is None
    assert Guard("10.0.0.5", 80, None).refusal("GET", "/", {"host": "10.0.0.6"}) is not None
    assert [is_loopback(host) for host in ("localhost", "127.0.0.9", "::1", "0.0.0.0", "box")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_agents_are_refused(night: Paths) -> None:
    marked = os.environ | {AGENT_MARK: "gpu0"}
    done = toy.swarm(night.root, "web", "--port", "0", environment=marked)
    assert done.returncode == 3
    assert done.stderr.startswith("error: the live page with its held-out scores are for people")


# ---- where it listens, and its end --------------------------------------------------------------


def test_a_port_that_is_taken_is_refused_and_the_default_one_is_passed_over(night: Paths) -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SwarmError, match=f"cannot listen on 127.0.0.1:{port}"):
            bind("127.0.0.1", port)
    with bind("127.0.0.1", None) as one, bind("127.0.0.1", None) as other:
        assert one.getsockname()[1] != other.getsockname()[1]
    with pytest.raises(SwarmError, match="cannot listen on no-such-host"):
        Server(night, "no-such-host.invalid", 0)
    done = toy.swarm(night.root, "web", "--port", "70000", environment=dict(os.environ))
    assert done.returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_it_though_pages_are_open(night: Paths, number: signal.Signals) -> None:
    with serving(night.root, dict(os.environ)) as (url, process):
        mark = read(url, "/api/swarm")["id"]
        streams = [Events(url, mark) for _ in range(3)]
        for stream in streams:
            stream.next()
        process.send_signal(number)
        assert process.wait(timeout=10) == (130 if number == signal.SIGINT else -15)
        for stream in streams:
            with pytest.raises(EOFError):
                stream.next()
            stream.close()
        assert process.stderr is not None
        told = process.stderr.read()
        assert told.splitlines()[1:] == [], "no stream had to be cut off"


def test_what_takes_long_is_broken_off_at_the_end(tmp_path: Path) -> None:
    """Ctrl-C while a huge journal is read."""
    hub = Hub(Feed(Story(tmp_path / "a user's repo").paths))
    began, goes_on = threading.Event(), threading.Event()

    def question() -> None:
        began.set()
        goes_on.wait()

    async def ask() -> None:
        asked = asyncio.create_task(hub.ask(question))
        await asyncio.to_thread(began.wait)
        hub.close()
        for answer in (asked, hub.ask(question)):
            with pytest.raises(Closed):
                await asyncio.wait_for(answer, 20)

    asyncio.run(ask())
    goes_on.set()
    assert {t.daemon for t in threading.enumerate() if t.name == "feed"} == {True}


def test_pages_write_nothing(tmp_path: Path) -> None:
    paths = write_night(tmp_path / "a user's repo", 20)
    before = {path: path.stat().st_mtime_ns for path in paths.leaderboards.rglob("*")}
    with serving(paths.root, dict(os.environ)) as (url, _):
        read(url, "/api/swarm")
        read(url, "/api/experiment/e3")
        stream = Events(url, "")
        stream.next()
        stream.close()
    assert {path: path.stat().st_mtime_ns for path in paths.leaderboards.rglob("*")} == before
    shutil.rmtree(paths.leaderboards)
    feed = Feed(paths)
    assert feed.poll()
    with pytest.raises(SwarmError):
        feed.whole()
    assert Journal(paths.journal).path == paths.journal
