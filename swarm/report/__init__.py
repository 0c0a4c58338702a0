"""`swarm report`: the story of a swarm, as a researcher would publish it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from swarm.disk import write_whole, writing
from swarm.report import chapters, markdown, opening, page
from swarm.report.blocks import Block, Heading
from swarm.report.reproduction import reproduction
from swarm.report.story import Story


def write(story: Story, folder: Path) -> list[Path]:
    """Write `progress.png`, `report.md` and `report.html`, whole each; return where they are.

    Raises `SwarmError` where the folder cannot be written, or matplotlib is missing.
    """
    from swarm.report import progress  # late: matplotlib takes a second

    picture = progress.draw(story)
    content = list(blocks(story))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    files = {
        folder / opening.PLOT: picture,
        folder / "report.md": markdown.render(content).encode(errors="replace"),
        folder / "report.html": page.render(
            opening.title(story), content, {opening.PLOT: picture}
        ).encode(errors="replace"),
    }
    for path, data in files.items():
        write_whole(path, data)
    return list(files)


def blocks(story: Story) -> Iterator[Block]:
    """All that a report says, in order; what there is one of for each device class says whose."""
    yield from opening.opening(story)
    found = [chapter for chapter in story.chapters if chapter.result.steps]
    if found:
        yield Heading(2, "What was kept")
    for chapter in found:
        yield from _whose(story, chapter.name)
        yield from chapters.timeline(story, chapter)
    if story.experiments:
        yield from chapters.contributions(story)
        yield Heading(2, "What did not work")
        for chapter in story.chapters:
            yield from _whose(story, chapter.name)
            yield from chapters.failures(chapter)
    yield Heading(2, "How sure we are")
    for chapter in story.chapters:
        yield from _whose(story, chapter.name)
        yield from chapters.sureness(chapter)
    yield Heading(2, "How to repeat it")
    for chapter in story.chapters:
        yield from _whose(story, chapter.name)
        yield from reproduction(story, chapter)


def _whose(story: Story, name: str) -> Iterator[Block]:
    if len(story.chapters) > 1:
        yield Heading(3, name)
