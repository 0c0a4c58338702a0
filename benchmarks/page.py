"""What the live page costs: bytes and seconds until it is drawn, frames while zooming, and CPU.

    python benchmarks/page.py [--quick]

Prints a Markdown table: what, measured. Needs a Chromium on PATH; it draws without a GPU.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import nights  # noqa: E402
import toy  # noqa: E402  the repository that the tests run swarms on
from test_browser import CHROMIUM, QUIET, TALKING  # noqa: E402
from web_fixtures import request, serving, write_night  # noqa: E402

Row = tuple[str, str]
DRAWN = "count => Number(document.querySelector('#progress').dataset.drawn) >= count"
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
FRAMES = """() => {
  window.gaps = [];
  let last = performance.now();
  const next = now => {
    gaps.push(now - last);
    last = now;
    window.frame = requestAnimationFrame(next);
  };
  window.frame = requestAnimationFrame(next);
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller numbers, to see that it runs")
    quick = parser.parse_args().quick
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| what | measured |\n|---|---|")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        root = ["--no-sandbox"] if sys.platform == "linux" and os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *root])
        show(sizes())
        for experiments in (80, 800) if quick else (800, 100_000):
            show(loading(browser, Path(folder) / f"night {experiments}", experiments))
        show(cpu(browser, Path(folder) / "live", 2 if quick else 8, 10 if quick else 60))
        browser.close()


def show(rows: Iterator[Row]) -> None:
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def sizes() -> Iterator[Row]:
    """The page itself: all of it is our own."""
    files = list((HERE.parent / "swarm/web/static").iterdir())
    total = sum(path.stat().st_size for path in files)
    yield "the page, its styles and scripts", f"{total / 1024:.0f} KiB in {len(files)} files"


def loading(browser: Browser, root: Path, experiments: int) -> Iterator[Row]:
    """A page of a finished swarm, before and after the server has read its journal."""
    large = experiments > 10_000
    paths = write_night(root, experiments, 64) if large else nights.tell(root, experiments)
    name = f"{experiments:,} experiments"
    with serving(paths.root, dict(os.environ)) as (url, process):
        first = open_page(browser, url, experiments)
        yield f"{name}: first page to all drawn, journal still unread", seconds(first)
        first.close()
        _, body = request(url, "/api/swarm")
        yield f"{name}: data", f"{len(body) / 1024:,.0f} KiB compressed"
        page = open_page(browser, url, experiments)
        yield f"{name}: first paint", f"{page.evaluate(PAINT) / 1000:.2f} s"
        yield f"{name}: all drawn", seconds(page)
        yield f"{name}: a frame while zooming", frames(page)
        memory = psutil.Process(process.pid).memory_info().rss
        yield f"{name}: memory of the server", f"{memory / 2**20:.0f} MiB"
        page.close()


def open_page(browser: Browser, url: str, experiments: int) -> Page:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(url)
    page.wait_for_function(DRAWN, arg=0.9 * experiments, timeout=120_000)
    return page


def seconds(page: Page) -> str:
    return f"{page.evaluate('performance.now()') / 1000:.2f} s"


def frames(page: Page) -> str:
    """The time between frames while the wheel zooms in and out."""
    chart = page.locator("#progress")
    chart.focus()
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
    page.evaluate(FRAMES)
    for turn in range(60):
        page.mouse.wheel(0, -40 if turn < 30 else 40)
    gaps = page.evaluate("(cancelAnimationFrame(frame), gaps)")[1:]
    slow = statistics.quantiles(gaps, n=20)[-1]
    return f"median {statistics.median(gaps):.0f} ms, p95 {slow:.0f} ms"


def cpu(browser: Browser, root: Path, workers: int, lasting: int) -> Iterator[Row]:
    """A swarm whose trials take ten seconds, thirty times as busy as one of five-minute trials."""
    train = toy.TRAIN.replace("\n    time.sleep(WAIT)\n", TALKING).replace(
        "WAIT = 0.0", "WAIT = 0.8"
    )
    toy.make_repository(root, train)
    environment = dict(os.environ)
    with running(root, workers, environment), serving(root, environment) as (url, process):
        server = psutil.Process(process.pid)
        for pages in (0, 1, 4):
            opened = [open_page(browser, url, 0) for _ in range(pages)]
            time.sleep(2)
            before, at = server.cpu_times(), time.monotonic()
            time.sleep(lasting / 3)
            after = server.cpu_times()
            used = sum(after[:2]) - sum(before[:2])
            share = used / (time.monotonic() - at)
            yield f"server, {workers} workers, {pages} pages open: of a core", f"{share:.1%}"
            for page in opened:
                page.close()


@contextmanager
def running(root: Path, workers: int, environment: dict[str, str]) -> Iterator[None]:
    spawn = ("spawn", "--agents", str(workers), "--devices", "cpu", "--oversubscribe", "--no-tmux",
             "--seconds", "1", "--trial-timeout", "120", "--tag", "live")  # fmt: skip
    done = toy.swarm(root, *spawn, environment=environment)
    assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        toy.swarm(root, "stop", "--now", environment=environment)


if __name__ == "__main__":
    main()
