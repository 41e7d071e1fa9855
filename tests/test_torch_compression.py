"""Gradient compression of torch models; see torch_compression_cases.py."""

from __future__ import annotations

import warnings

import pytest

from conftest import Outcome
from worlds import World, played

with warnings.catch_warnings():  # torch's own, about torch.jit
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch_compression_cases

WORLDS = [World("processes", "aa"), World("processes", "abc")]
SLOW_WORLDS = [
    World("processes", "aaaa"),
    World("processes", "aabb"),
    World("mpich", "aabb"),
    World("openmpi", "ab"),
]

PLAYED = played(torch_compression_cases, WORLDS, SLOW_WORLDS)


@pytest.mark.parametrize(("world", "case"), PLAYED)
def test_torch_compression(world: World, case: str, outcome: Outcome) -> None:
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)
