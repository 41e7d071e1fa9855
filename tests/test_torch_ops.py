"""What the torch backend moves and adds up, and its groups, in shared memory and over MPI."""

from __future__ import annotations

from itertools import product

import pytest

import torch_groups_cases
import torch_ops_cases
from conftest import Outcome
from worlds import World

WORLDS = [
    World("processes", "a"),
    World("processes", "aa"),
    World("processes", "aaa"),
    World("openmpi", "aab"),
]
SLOW_WORLDS = [World("mpich", "aabb")]
# Of those that take longest, the default run has them where they differ most.
LONG = {
    "every_dtype_takes_every_way": "processes-aa",
    "groups_that_overlap_run_side_by_side": "processes-aaa",
}
CASES = [
    *(f"torch_ops_cases.{name}" for name in torch_ops_cases.CASES),
    *(f"torch_groups_cases.{name}" for name in torch_groups_cases.CASES),
]


@pytest.mark.parametrize(
    ("world", "case"),
    [
        pytest.param(
            world,
            case,
            id=f"{world}-{case.partition('.')[2]}",
            marks=[pytest.mark.slow]
            * (world in SLOW_WORLDS or LONG.get(case.partition(".")[2], str(world)) != str(world)),
        )
        for world, case in product(WORLDS + SLOW_WORLDS, CASES)
    ],
)
def test_torch_ops(world: World, case: str, outcome: Outcome) -> None:
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)
