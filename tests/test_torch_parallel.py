"""Torch's parallelisms on quoit; see torch_parallel_cases.py."""

from __future__ import annotations

import warnings

import pytest

from conftest import Outcome
from worlds import World, played

with warnings.catch_warnings():  # torch's own, about torch.jit
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch_parallel_cases

WORLDS = [World("processes", "aa")]
SLOW_WORLDS = [
    World("processes", "aaaa"),
    World("torchrun", "aa"),
    World("mpich", "aabb"),
    World("mpich", "abcd"),
    World("openmpi", "abab"),
]
SLOW_CASES = {"compiled_by_inductor"}  # runs a C++ compiler

PLAYED = played(torch_parallel_cases, WORLDS, SLOW_WORLDS, SLOW_CASES)


@pytest.mark.parametrize(("world", "case"), PLAYED)
def test_torch_parallel(world: World, case: str, outcome: Outcome) -> None:
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)
