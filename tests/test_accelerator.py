"""The test accelerator and the fake NCCL on it do what they say; see tests/accelerator.

Their cases are played by processes of their own: a process has one accelerator, and for the rest
of the tests that is none.
"""

from __future__ import annotations

import pytest

import accelerator
import accelerator_cases
import accelerator_nccl_cases
from conftest import Outcome
from worlds import World, played


@pytest.mark.parametrize(
    ("world", "case"),
    [
        *played(accelerator_cases, [World("processes", "a")]),
        *played(accelerator_nccl_cases, [World("processes", "aa")]),
    ],
)
def test_accelerator(world: World, case: str, outcome: Outcome) -> None:
    accelerator.build()  # which may take longer than a launch
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)
