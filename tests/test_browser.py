"""The live page in a real browser: what a researcher sees, does and is safe from."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import toy
from conftest import reap
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from web_fixtures import HOSTILE, serving, write_night

from swarm import records
from swarm.commands import folded
from swarm.journal import Journal
from swarm.paths import Paths

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = (
    "--disable-gpu", "--disable-quic", "--disable-background-networking", "--no-first-run",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
BIG = 10_000
TALKING = """
    for step in range(12):
        print(f"step {step:05d} ({step * 8.3:.1f} %) | loss {6 - step / 4:.4f} | 1,936 tok/s | "
              f"{12 - step} s left", flush=True)
        time.sleep(WAIT)
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        missing = "there is no Chromium on PATH"
        assert "CI" not in os.environ, missing
        pytest.skip(missing)
    root = ["--no-sandbox"] if sys.platform == "linux" and os.geteuid() == 0 else []
    expect.set_options(timeout=20_000)  # the machine may be busy
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *root])
        yield found
        found.close()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    sockets = tempfile.mkdtemp(prefix="sw", dir="/tmp")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SWARM_", "TMUX"))}
    cache = tmp_path_factory.mktemp("cache")
    yield inherited | {"SWARM_CACHE": str(cache), "TMUX_TMPDIR": sockets, "TMPDIR": sockets}
    reap(sockets)
    shutil.rmtree(sockets, ignore_errors=True)


@pytest.fixture(scope="module")
def live(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> Iterator[tuple[str, Paths]]:
    """The page of a swarm that runs: two tuners, trials of a second that say how far they are."""
    train = toy.TRAIN.replace("\n    time.sleep(WAIT)\n", TALKING).replace(
        "WAIT = 0.0", "WAIT = 0.08"
    )
    root = toy.make_repository(tmp_path_factory.mktemp("live") / "a user's repo", train)
    done = toy.swarm(root, "spawn", "--agents", "2", "--devices", "cpu", "--oversubscribe",
                     "--seconds", "1", "--no-tmux", "--tag", "live",
                     environment=environment)  # fmt: skip
    assert done.returncode == 0, done.stderr
    with serving(root, environment) as (url, _):
        yield url, Paths(root, "live")
    toy.swarm(root, "stop", "--now", environment=environment)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    paths = write_night(tmp_path_factory.mktemp("big") / "a user's repo", BIG, workers=16)
    with serving(paths.root, dict(os.environ)) as (url, _):
        yield url


Open = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """Opens pages, and has seen no error, no violation and no foreign request when they close."""
    complaints: list[str] = []
    contexts = []

    def open_page(url: str, **settings: Any) -> Page:
        context = browser.new_context(**({"viewport": {"width": 1440, "height": 900}} | settings))
        contexts.append(context)
        page = context.new_page()
        own = urlsplit(url).netloc
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on(
            "request", lambda sent: own == urlsplit(sent.url).netloc or complaints.append(sent.url)
        )
        page.goto(url)
        expect(page.locator("#connection")).to_have_text("live")
        expect(page.locator("tr[data-place] a").first).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def focused(page: Page) -> str:
    """What of the page has the focus: its id, or its text."""
    return str(page.evaluate("document.activeElement.id || document.activeElement.textContent"))


# ---- a swarm that runs --------------------------------------------------------------------------


def test_a_running_swarm_is_seen_and_grows_without_a_reload(
    opened: Open, live: tuple[str, Paths]
) -> None:
    url, paths = live
    page = opened(url)
    page.evaluate("window.loadedOnce = true")
    expect(page.locator("#state")).to_have_text("running")
    expect(page.locator("#workers li")).to_have_count(2)
    expect(page.locator("#workers .live").first).to_contain_text("tok/s")
    expect(page.locator("#workers .live").first).to_contain_text("left")
    before = int(page.locator("#progress").get_attribute("data-drawn") or 0)
    page.wait_for_function(
        "before => Number(document.querySelector('#progress').dataset.drawn) > before + 2",
        arg=before, timeout=30_000,
    )  # fmt: skip
    assert page.evaluate("window.loadedOnce")
    expect(page.locator("#figures dt").first).to_have_text("Incumbent val_bpb")
    expect(page.locator("#news")).not_to_be_empty(timeout=15_000)  # for a screen reader
    known = folded(paths).primary
    assert known is not None and known.incumbent is not None


def test_a_click_leads_to_the_change_and_its_address_does_too(
    opened: Open, live: tuple[str, Paths]
) -> None:
    url, paths = live
    page = opened(url)
    page.get_by_role("button", name="experiment", exact=True).last.click()  # the newest first
    link = page.locator("tr[data-place] a", has_text="e1").last
    name = link.text_content()
    link.click()
    expect(page.locator("#details-title")).to_have_text(name or "")
    expect(page.locator("#details .diff .add").first).to_contain_text(" = ")
    expect(page.locator("#details .diff .del").first).to_be_visible()
    expect(page.locator("#details .log")).to_contain_text("val_bpb")
    page.locator("#details td button").first.click()
    expect(page.locator("#details h3", has_text="Log of t")).to_be_visible()
    expect(page.locator("#details .log")).to_contain_text("val_bpb")
    expect(page.locator("#details code").first).to_have_text(f"swarm show {name} --tag live")
    page.keyboard.press("Escape")
    expect(page.locator("#details")).to_be_hidden()
    assert page.url == url
    again = opened(f"{url}#{name}")
    expect(again.locator("#details-title")).to_have_text(name or "")
    expect(
        again.locator("#details dd", has_text=folded(paths).claims[name or ""].worker)
    ).to_be_visible()


def test_what_happens_to_a_journal_is_seen(opened: Open, tmp_path: Path) -> None:
    """Another device class joins; the journal is damaged and repaired: the page goes on."""
    paths = write_night(tmp_path / "a user's repo", 40)
    with serving(paths.root, dict(os.environ)) as (url, _):
        page = opened(url)
        expect(page.locator("#classes")).to_be_hidden()
        journal = Journal(paths.journal)
        device = records.Device(name="gpu9", kind="cuda", id="9", model="B200")
        journal.append(
            records.Worker(worker="gpu9", agent="tuner", device=device, device_class="B200",
                           branch="b", worktree="w")
        )  # fmt: skip
        chosen = page.locator("#device-class")
        expect(chosen).to_be_visible()
        kept = coloured(page, "#strip canvas", "keep")
        assert kept > 0
        chosen.select_option("B200")
        expect(page.locator("tr[data-place]")).to_have_count(1)
        expect(page.locator("#progress")).to_have_attribute("data-drawn", "1")
        assert coloured(page, "#strip canvas", "keep") == kept, "of whatever class it is"
        expect(page.locator("#figures .more").nth(2)).to_have_text("0 kept, 0 failed in this class")
        whole = paths.journal.read_bytes()
        paths.journal.write_bytes(whole + b"{half a line\n")
        expect(page.locator("#trouble")).to_contain_text("is damaged")
        expect(page.locator("tr[data-place]")).to_have_count(1)
        paths.journal.write_bytes(whole)
        expect(page.locator("#trouble")).to_be_hidden()
        chosen.select_option("H100")
        expect(page.locator("#found")).to_have_text("40")
        page.close()
        config = folded(paths).config
        assert config is not None
        journal.append(records.Reconfigured(config=config, workers=("gpu9",)))
        page = opened(url)
        expect(page.locator("#device-class option:checked")).to_have_text("B200")
        page.close()


def test_pages_that_nobody_sees_leave_the_others_their_connections(
    opened: Open, tmp_path: Path
) -> None:
    """A browser opens six to a server, and each page that listens needs one."""
    paths = write_night(tmp_path / "a user's repo", 20)
    with serving(paths.root, dict(os.environ)) as (url, _):
        first = opened(url)
        pages = [first, *(first.context.new_page() for _ in range(6))]
        for before, page in itertools.pairwise(pages):
            hide(before, True)
            page.goto(url)
            expect(page.locator("#connection")).to_have_text("live")
        expect(first.locator("#connection")).to_have_text("paused")
        hide(first, False)
        expect(first.locator("#connection")).to_have_text("live")
        first.locator("tr[data-place] a").first.click()
        expect(first.locator("#details .because")).to_be_visible()
        first.context.close()


def hide(page: Page, is_hidden: bool) -> None:
    """Another tab is in front of it, or no more: without a screen all of them are seen."""
    page.evaluate(
        """hidden => {
          Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        is_hidden,
    )


def test_a_diff_that_was_cut_says_so(opened: Open, tmp_path: Path) -> None:
    paths = write_night(tmp_path / "a user's repo", 20)
    (paths.root / "train.py").write_text(toy.TRAIN + "# words\n" * 40_000)
    toy.git(paths.root, "commit", "--quiet", "-am", "long")
    claim = records.Claim(
        experiment="e20", worker="gpu1", agent="tuner", parent="e0", fingerprint="long",
        seedless="long", commit=toy.git(paths.root, "rev-parse", "HEAD"), description="long",
    )  # fmt: skip
    Journal(paths.journal).append(claim)
    with serving(paths.root, dict(os.environ)) as (url, _):
        page = opened(f"{url}#e20")
        expect(page.locator("#details .diff .add").first).to_have_text("+# words\n")
        expect(page.locator("#details")).to_contain_text("The diff was cut.")
        page.context.close()


def answering(markup: str) -> Callable[[Route], None]:
    return lambda route: route.fulfill(body=markup, content_type="text/html")


def test_a_link_on_another_site_leads_in(browser: Browser, tmp_path: Path) -> None:
    paths = write_night(tmp_path / "a user's repo", 20)
    for arguments in ((), ("--host", "0.0.0.0")):
        with serving(paths.root, dict(os.environ), *arguments) as (url, _):
            split = urlsplit(url)
            here = f"http://127.0.0.1:{split.port}/"
            context = browser.new_context()
            link = f"<a href='{here}?{split.query}'>how it goes</a>"
            context.route("http://chat.example/", answering(link))
            page = context.new_page()
            page.goto("http://chat.example/")
            page.get_by_role("link").click()
            expect(page.locator("#connection")).to_have_text("live")
            context.close()


def test_the_token_leaves_the_address_bar(opened: Open, tmp_path: Path) -> None:
    paths = write_night(tmp_path / "a user's repo", 20)
    with serving(paths.root, dict(os.environ), "--host", "0.0.0.0") as (url, _):
        split = urlsplit(url)
        page = opened(f"http://127.0.0.1:{split.port}/?{split.query}")
        assert page.url == f"http://127.0.0.1:{split.port}/"
        page.reload()
        expect(page.locator("#connection")).to_have_text("live")
        page.close()


# ---- a long one ---------------------------------------------------------------------------------


def test_a_long_night_is_drawn_hovered_and_zoomed(opened: Open, big: str) -> None:
    page = opened(big)
    chart = page.locator("#progress")
    expect(chart).to_have_attribute("data-drawn", str(BIG))
    expect(page.locator("#strip")).to_have_attribute("data-drawn", str(BIG))
    found = coloured(page, "#progress canvas")
    assert found > 40_000, "dots, not only lines and words"
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip = page.locator("#tip")
    expect(tip).to_contain_text("val_bpb")
    expect(tip.locator(".words")).to_contain_text("MATRIX_LR")
    reset = page.locator("#reset-progress")
    expect(reset).to_be_hidden()
    chart.focus()
    page.mouse.wheel(0, -200)
    expect(reset).to_be_visible()
    chart.dblclick()
    expect(reset).to_be_hidden()
    # However far one zooms, into val_bpb too, there is an axis.
    for towards in (-200, 200):
        chart.evaluate(
            """async (chart, deltaY) => {
              const { left, top } = chart.getBoundingClientRect();
              const options = { deltaY, shiftKey: true, clientX: left + 300, clientY: top + 90 };
              const turn = () => chart.dispatchEvent(new WheelEvent("wheel", options));
              for (let i = 0; i < 400; i += 1) turn();
              await new Promise(requestAnimationFrame);
            }""",
            towards,
        )
        expect(reset).to_be_visible()
        chart.dblclick()
        expect(reset).to_be_hidden()
    page.mouse.move(box["x"] + 300, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 500, box["y"] + 200, steps=3)
    page.mouse.up()
    expect(reset).to_be_visible()
    page.get_by_role("button", name="time", exact=True).click()
    expect(page.get_by_role("button", name="time", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    expect(page.locator("#progress-text")).to_contain_text(f"{BIG - 1:,} experiments")
    strip = page.locator("#strip").bounding_box()
    assert strip is not None
    page.mouse.move(strip["x"] + 400, strip["y"] + 20)
    expect(tip).to_contain_text("gpu1")
    page.mouse.down()
    page.mouse.up()
    expect(page.locator("#details .because")).to_be_visible()


@pytest.mark.soak
def test_a_hundred_thousand_experiments_are_drawn(opened: Open, tmp_path: Path) -> None:
    paths = write_night(tmp_path / "a user's repo", 100_000, workers=64)
    with serving(paths.root, dict(os.environ)) as (url, _):
        page = opened(url)
        expect(page.locator("#progress")).to_have_attribute("data-drawn", "100000")
        expect(page.locator("#strip")).to_have_attribute("data-drawn", "100000")
        page.locator("#search").fill("e99999")
        expect(page.locator("#found")).to_have_text("1")
        page.close()


def coloured(page: Page, canvas: str, colour: str | None = None) -> int:
    """How many pixels of a canvas are drawn on, or are of this colour."""
    counted = """async (canvas, name) => {
      await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
      const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
      copy.drawImage(canvas, 0, 0);
      const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
      const wanted = name && (await import("/static/raster.js")).packed(
        (await import("/static/dom.js")).colours(name)[0]);
      return new Uint32Array(data.buffer).filter((p) => name ? p === wanted : p >>> 24).length;
    }"""
    return int(page.locator(canvas).first.evaluate(counted, colour))


def test_large_numbers_are_short(opened: Open, big: str) -> None:
    values = [0, 999, 999.6, 1234, 999_400, 999_999, 18.4e6, 1.2e12]
    shown = opened(big).evaluate(
        """async values => values.map((await import("/static/format.js")).short)""", values
    )
    assert shown == ["0", "999", "1.00 k", "1.23 k", "999 k", "1.00 M", "18.4 M", "1.20 T"]


def test_the_table_sorts_searches_and_scrolls_through_all_rows(opened: Open, big: str) -> None:
    page = opened(big)
    first = page.locator("tr[data-place='0']")
    expect(page.locator("#found")).to_have_text(f"{BIG:,}")
    expect(page.locator("th[aria-sort='ascending']")).to_have_text("val_bpb")
    best = first.locator("a").first.text_content()
    page.locator("th button", has_text="val_bpb").click()
    expect(page.locator("th[aria-sort='descending']")).to_have_text("val_bpb")
    expect(first.locator("a").first).not_to_have_text(best or "")
    page.locator("th button", has_text="experiment").click()
    expect(first.locator("a").first).to_have_text(f"e{BIG - 1}")
    first.locator("a").first.focus()
    page.keyboard.press("End")
    expect(page.locator(f"tr[data-place='{BIG - 1}'] a").first).to_have_text("e0")
    assert page.locator("tr[data-place]").count() < 200, "only what is seen is there"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.locator("#details-title")).to_have_text("e1")
    page.keyboard.press("Escape")
    page.locator("#search").fill("e1234")
    expect(first.locator("a").first).to_have_text("e1234")
    page.locator("#search").fill("")
    page.locator("#verdict").select_option("crash")
    expect(first.locator(".verdict")).to_have_text("crash")
    page.locator("#search").fill("no such words")
    expect(page.locator("#rows")).to_have_text("Nothing is found.")


def test_words_of_agents_are_only_text(opened: Open, big: str) -> None:
    page = opened(f"{big}#e1")
    expect(page.locator("#details .description")).to_have_text(HOSTILE)
    page.keyboard.press("Escape")
    page.locator("#search").fill("<script>")
    expect(page.locator("tr[data-place='0'] td").last).to_have_text(HOSTILE)
    assert page.locator("main img, main td script, #details script").count() == 0
    assert page.title() == "big · finished"


def test_the_page_can_be_walked_by_keyboard(opened: Open, big: str) -> None:
    page = opened(big)
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the table of experiments"
    walked: list[str] = []
    while "val_bpb" not in walked:
        page.keyboard.press("Tab")
        walked.append(focused(page))
        if walked[-1] == "progress":
            page.keyboard.press("ArrowLeft")
            expect(page.locator(".readout").first).to_contain_text(f"e{BIG - 1}")
            expect(page.locator(".readout").first).to_contain_text("MATRIX_LR")
            page.keyboard.press("ArrowDown")
            expect(page.locator(".readout").first).to_contain_text("keep")
            page.keyboard.press("+")
            expect(page.locator("#reset-progress")).to_be_visible()
            page.keyboard.press("0")
            page.keyboard.press("Enter")
            expect(page.locator("#details")).to_be_visible()
            assert focused(page) == "×"
            page.keyboard.press("Escape")
            assert focused(page) == "progress", "the focus comes back to where it was"
    for wanted in ("theme", "by-time", "strip", "verdict", "search", "val_bpb"):
        assert wanted in walked
    assert walked.index("progress") < walked.index("strip") < walked.index("search")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_light_and_dark_follow_the_system_and_the_reader(opened: Open, big: str) -> None:
    page = opened(big, color_scheme="dark")
    assert luminance(readable(page)["page"]) < 0.05
    page.get_by_role("button", name="Use light colours").click()
    assert luminance(readable(page)["page"]) > 0.8
    page.reload()
    expect(page.locator("#connection")).to_have_text("live")
    assert luminance(readable(page)["page"]) > 0.8, "it is remembered"


def test_a_phone_shows_it_all_in_its_width(opened: Open, big: str) -> None:
    phone = opened(big, viewport={"width": 390, "height": 844}, reduced_motion="reduce")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    expect(phone.locator("#progress")).to_have_attribute("data-drawn", str(BIG))


def readable(page: Page) -> dict[str, list[int]]:
    """The colours of the page, which have the contrast that WCAG AA asks for.

    That is 4.5 to 1 for text, on the page and on cards, and 3 to 1 for what is drawn.
    """
    found: dict[str, list[int]] = page.evaluate("""async () => {
      const { colours } = await import("/static/dom.js");
      const names = ["page", "card", "idle", "ink", "muted", "keep", "crash", "running", "warn",
                     "link", "heldout", "tried"];
      const got = colours(...names).map(c => c.match(/\\d+/g).slice(0, 3).map(Number));
      return Object.fromEntries(names.map((name, i) => [name, got[i]]));
    }""")
    for paper in ("page", "card", "idle"):
        for text in ("ink", "muted", "keep", "crash", "running", "warn", "link", "heldout"):
            assert contrast(found[text], found[paper]) >= 4.5, (text, paper)
    assert contrast(found["tried"], found["card"]) >= 3
    return found


def contrast(one: list[int], other: list[int]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: list[int]) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-relative-luminance"""
    linear = [
        c / 12.92 if (c := value / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for value in colour
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
