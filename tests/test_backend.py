"""The torch.distributed backend under every launcher."""

from __future__ import annotations

import pytest

import torch_cases
from conftest import Outcome
from worlds import World, played

WORLDS = [
    World("processes", "aa"),
    World("processes", "aaa"),
    World("torchrun", "aab"),
    World("spawn-file", "aa"),
    World("spawn-tcp", "aa"),
    World("mpich", "aabb"),
    World("openmpi", "ab"),
    World("cluster-torchrun", "aabb"),
    World("cluster-openmpi", "ab"),
]
SLOW_WORLDS = [
    World("torchrun", "aa"),
    World("mpich", "aa"),
    World("openmpi", "aa"),
    World("cluster-mpich", "aab"),
]


@pytest.mark.parametrize(("world", "case"), played(torch_cases, WORLDS, SLOW_WORLDS))
def test_backend(world: World, case: str, outcome: Outcome) -> None:
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)
