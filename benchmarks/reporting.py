"""How long a report and the exports of a night take, and how large they are.

    python benchmarks/reporting.py [EXPERIMENTS …]

The nights are simulated; their commits do not exist, so no hyperparameters are read.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import nights

from swarm import report
from swarm.commands import folded
from swarm.exports import files, mirrors
from swarm.journal import Cursor
from swarm.report import story

ALL = (800, 10_000)
MIRRORED = 2_000
"""More experiments than that are not written for MLflow here: it takes minutes."""


def main() -> None:
    """Print a table."""
    counts = [int(given) for given in sys.argv[1:]] or ALL
    print(f"{'experiments':>11}  {'what':<12} {'seconds':>8} {'MB':>8}")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), count)


def measure(folder: Path, count: int) -> None:
    """A night of `count` experiments, told and then written in each way."""
    paths = nights.tell(folder / "repo", count)
    board = folded(paths)

    def write_report() -> None:
        told = story.tell(board, board.journal.read(Cursor()), lambda _: None)
        report.write(told, folder / "report")

    def write_file(form: str) -> Callable[[], None]:
        return lambda: files.write(folder / f"night.{form}", paths.tag, board, form, False)

    def write_copy(tool: str) -> Callable[[], object]:
        return lambda: mirrors.mirror(tool, paths, board, folder / tool)

    jobs: dict[str, tuple[Callable[[], object], Path]] = {
        "report": (write_report, folder / "report")
    }
    jobs |= {form: (write_file(form), folder / f"night.{form}") for form in ("parquet", "csv")}
    tools = ("tensorboard", "wandb", "mlflow") if count <= MIRRORED else ("tensorboard",)
    jobs |= {tool: (write_copy(tool), folder / tool) for tool in tools}
    for name, (job, place) in jobs.items():
        began = time.perf_counter()
        job()
        seconds = time.perf_counter() - began
        print(f"{len(board.claims):>11,}  {name:<12} {seconds:8.2f} {size(place) / 1e6:8.2f}")


def size(place: Path) -> int:
    """Bytes of a file, or of all in a folder."""
    inside = [place, *place.rglob("*")]
    return sum(path.stat().st_size for path in inside if path.is_file())


if __name__ == "__main__":
    main()
