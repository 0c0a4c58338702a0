"""How to repeat a result: which commit, on what, by which commands, and what to expect."""

from __future__ import annotations

import math
from collections.abc import Iterator

from swarm.report.blocks import Block, Code, Listing, Paragraph, Text
from swarm.report.story import Chapter, Story
from swarm.report.wording import counted, digits, number

_PREPARED = ("builtin", "climbmix")
_SEEDS = 8


def reproduction(story: Story, chapter: Chapter) -> Iterator[Block]:
    """Commands that train the result's commit as the swarm did."""
    score = chapter.result.final or chapter.result.baseline
    unscored = chapter.result.standing == "asked" and score and score.experiment != story.asked
    if score is None or unscored:
        which = f"{story.asked} has no" if unscored else "no experiment has a"
        yield Paragraph(f"There is nothing to repeat: {which} score.")
        return
    folder = f"../{story.tag}-{score.experiment}"
    config = story.config
    seed = chapter.seeds[0] if chapter.seeds else 42
    yield Listing(
        "\n".join(
            (
                f"git worktree add {folder} {score.commit}",
                f"cd {folder}",
                _prepare(story),
                f"SWARM_SCALE={config.scale} SWARM_SECONDS={config.seconds:g} SWARM_SEED={seed}"
                " python train.py",
            )
        )
    )
    sigma = math.hypot(chapter.noise.sd, score.val_bpb.error)  # of the trial, and of the mean
    shown = digits(sigma)
    seeds = ", ".join(map(str, chapter.seeds[:_SEEDS])) + (", …" * (len(chapter.seeds) > _SEEDS))
    expected: Text = (
        f"Expect val_bpb {number(score.val_bpb.value, shown)} ± {number(sigma, shown)} (the SD of"
        f" one new trial around that mean), on {chapter.name}. The swarm's"
        f" {counted(score.trials, 'trial')} had the"
        f" {'seeds' if len(chapter.seeds) > 1 else 'seed'} {seeds}; another seed differs by noise"
        " alone. In a clone, fetch the commit first: ",
        Code(f"git fetch origin refs/swarm/{story.tag}/{score.experiment}"),
        ".",
    )
    yield Paragraph(expected)
    digest = f" (fingerprint {config.dataset_fingerprint})" if config.dataset_fingerprint else ""
    version = f"swarm {story.version}, " if story.version else ""
    yield Paragraph(
        f"Made with {version}policy {config.policy}, dataset {story.dataset}{digest}, scale"
        f" {config.scale}, {config.seconds:g} s of training a trial."
    )


def _prepare(story: Story) -> str:
    """The command that makes the dataset, where its name says which one it is."""
    source = story.dataset.split("-")[0]
    if source in _PREPARED:
        return f"python prepare.py --dataset {source} --scale {story.config.scale}"
    return "python prepare.py --dataset FOLDER  # with the texts that the swarm had"
