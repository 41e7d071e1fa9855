"""Tensors of an accelerator by way of the host: in shared memory, over TCP and over MPI.

The accelerator is that of tests/accelerator; with CUDA, nothing but torch's device would differ.
"""

from __future__ import annotations

import pytest

import torch_device_cases
from conftest import Outcome
from worlds import World, played

WORLDS = [World("processes", "aa"), World("processes", "aab", transport="tcp")]
SLOW_WORLDS = [
    World("processes", "a"),
    World("processes", "aabb"),
    World("mpich", "ab"),
    World("openmpi", "aab"),
]


@pytest.mark.parametrize(("world", "case"), played(torch_device_cases, WORLDS, SLOW_WORLDS))
def test_torch_device(world: World, case: str, outcome: Outcome) -> None:
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)
