"""Random seeds in a program: which changes are another draw only, and which are not."""

from __future__ import annotations

import pytest

from swarm.fingerprint import prints

LOOP = """
import random
import torch
import numpy as np
import prepare
generator = torch.Generator()
for step in range(9):
    generator.manual_seed(3)
    use(torch.randn(9, generator=generator))
loader = prepare.Loader(data, rows, device, 5)
"""
BLOCK = """
import random
import torch
class Block(torch.nn.Module):
    def __init__(self):
        torch.manual_seed(4)
        self.w = torch.randn(9)
model = [Block() for _ in range(4)]
use(model)
"""


@pytest.mark.parametrize(
    ("source", "old", "new"),
    [
        (LOOP, "    generator.manual_seed(3)\n", ""),  # noise resampled, and not frozen
        (LOOP, "manual_seed(3)", "manual_seed(step)"),
        (LOOP, "manual_seed(3)", "manual_seed(prepare.SEED + 7 * step)"),
        (LOOP, "device, 5)", "device, 5 + epoch)"),
        (LOOP, "manual_seed(3)", "manual_seed(build(depth=3))"),
        (BLOCK, "        torch.manual_seed(4)\n", ""),  # blocks that begin each with other weights
        (BLOCK, "torch.manual_seed(4)", "torch.manual_seed(hash(torch.rand(1)))"),
        (BLOCK, "torch.manual_seed(4)", "random.seed(4)"),
        (BLOCK, "use(model)", "torch.manual_seed(build(depth=3))\nuse(model)"),
    ],
)
def test_how_often_it_is_seeded_is_no_choice_of_a_seed(source: str, old: str, new: str) -> None:
    changed = source.replace(old, new)
    assert changed != source
    assert prints(changed).seedless != prints(source).seedless


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("import torch\ntorch.manual_seed(build(depth=3))\n", ("depth=3", "depth=4")),
        ("import torch\ntorch.manual_seed(x := 3)\nuse(x)\n", (":= 3", ":= 4")),
        ("import torch\nA = D = 8\ntorch.manual_seed(A)\nmodel(D)\n", ("= 8", "= 10")),
        ("class Random(Layer):\n    pass\nmodel = Random(64)\n", ("64", "128")),
        ("def default_rng(n):\n    return layer(n)\nuse(default_rng(3))\n", ("(3)", "(4)")),
        ("use(self.seed(embedding, 0.02))\n", ("0.02", "0.5")),
        ("use(f(seed=left))\n", ("left", "right")),
    ],
)
def test_what_a_seeding_call_is_given_besides_seeds_counts(
    one: str, other: tuple[str, str]
) -> None:
    changed = one.replace(*other)
    assert changed != one
    assert prints(changed).seedless != prints(one).seedless


@pytest.mark.parametrize(
    ("one", "old", "new"),
    [
        (LOOP, "manual_seed(3)", "manual_seed(4)"),
        (LOOP, "manual_seed(3)", "manual_seed(int(prepare.SEED))"),
        (LOOP, "device, 5)", "device, 6)"),
        (LOOP.replace("(3)", "(step + 3)"), "step + 3", "step + 4"),
        (LOOP.replace("(3)", "(int(prepare.SEED) + step)"), "int(prepare.SEED) + step", "step - 1"),
        (LOOP.replace("device, 5)", "device, epoch + 5)"), "+ 5", "+ 6"),
        (BLOCK, "seed(4)", "seed(5)"),
        (BLOCK, "model = ", "random.seed(3)\nmodel = "),
        ("import torch\nA = B = 8\ntorch.manual_seed(A + B)\n", "8", "9"),
        ("from prepare import SEED\nfrom numpy.random import *\nx = default_rng([SEED, 3])\nuse(x)",
         "3", "4"),
        ("import random\nr = random.Random(f'{3} b')\nuse(r)\n", "b", "c"),
        ("import torch\ndef main():\n    use()\nmain()\n", "    use", "    torch.seed(3)\n    use"),
    ],
)  # fmt: skip
def test_another_constant_is_a_seed_wherever_it_stands(one: str, old: str, new: str) -> None:
    assert prints(one.replace(old, new)).seedless == prints(one).seedless
