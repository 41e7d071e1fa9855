"""Torch's parallelisms on quoit; see torch_parallel_cases.py."""

from __future__ import annotations

import warnings

import pytest

from conftest import Outcome
from worlds import World

with warnings.catch_warnings():  # torch's own, about torch.jit
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch_parallel_cases

WORLDS = [World("processes", "aa"), World("processes", "aaaa")]
SLOW_WORLDS = [
    World("torchrun", "aa"),
    World("mpich", "aabb"),
    World("mpich", "abcd"),
    World("openmpi", "abab"),
]
SLOW_CASES = {"compiled_by_inductor"}  # runs a C++ compiler


PLAYED = [
    pytest.param(
        world,
        f"torch_parallel_cases.{name}",
        id=f"{world}-{name}",
        marks=[pytest.mark.slow] if world in SLOW_WORLDS or name in SLOW_CASES else [],
    )
    for world in (*WORLDS, *SLOW_WORLDS)
    for name in torch_parallel_cases.CASES
]


@pytest.mark.parametrize(("world", "case"), PLAYED)
def test_torch_parallel(world: World, case: str, outcome: Outcome) -> None:
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)
