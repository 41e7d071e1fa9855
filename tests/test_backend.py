"""The torch.distributed backend under every launcher."""

from __future__ import annotations

from itertools import product

import pytest

import torch_cases
from conftest import Outcome
from worlds import World

WORLDS = [
    World("processes", "aa"),
    World("processes", "aaa"),
    World("torchrun", "aa"),
    World("torchrun", "aab"),
    World("spawn-file", "aa"),
    World("spawn-tcp", "aa"),
    World("mpich", "aa"),
    World("mpich", "aabb"),
    World("openmpi", "aa"),
    World("openmpi", "ab"),
    World("cluster-torchrun", "aabb"),
    World("cluster-mpich", "aab"),
    World("cluster-openmpi", "ab"),
]


@pytest.mark.parametrize(
    ("world", "case"),
    [
        pytest.param(world, f"torch_cases.{name}", id=f"{world}-{name}", marks=world.marks)
        for world, name in product(WORLDS, torch_cases.CASES)
    ],
)
def test_backend(world: World, case: str, outcome: Outcome) -> None:
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)
