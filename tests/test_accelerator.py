"""The test accelerator and the fake NCCL on it do what they say; see tests/accelerator.

Their cases are played by processes of their own: a process has one accelerator, and for the rest
of the tests that is none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import accelerator

_HERE = Path(__file__).resolve().parent
_DEADLINE_S = 100.0
DEVICE_CASES = (
    "a_copy_is_seen_after_a_wait",
    "a_copy_of_pageable_memory_waits",
    "streams_are_ordered_by_events_only",
    "an_event_is_recorded_and_reached",
    "freed_memory_is_poisoned_unless_its_streams_are_known",
    "freed_memory_is_used_by_its_own_stream_until_then",
    "pinned_memory_lives_until_its_copies_are_done",
    "each_thread_has_its_current_stream",
    "devices_wait_for_each_other_in_a_copy",
    "in_place_work_is_queued_and_refused_at_once",
    "a_linear_trains_as_on_the_cpu",
    "storages_are_resized_and_saved",
    "a_stream_says_that_it_is_captured",
    "torch_finds_its_device_module",
)
NCCL_CASES = (
    "every_type_and_reduction",
    "the_other_collectives",
    "a_scaled_sum",
    "both_directions_in_one_group",
    "a_group_of_two_communicators_and_two_streams",
    "work_is_on_the_stream",
    "a_non_blocking_communicator",
    "an_abort_frees_a_rank_that_waits",
    "an_abort_frees_a_rank_that_is_alone",
    "a_wrong_length_is_an_error",
    "calls_are_counted_and_named",
)


def play(*ranks: Sequence[object]) -> list[dict[str, str]]:
    """Starts a program for each rank, given by its arguments; what each of their cases raised."""
    accelerator.build()
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, rank)],
            cwd=_HERE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ranks
    ]
    try:
        said = [process.communicate(timeout=_DEADLINE_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(output) for output, _ in said]


@pytest.fixture(scope="module")
def device() -> list[dict[str, str]]:
    return play(["accelerator_cases.py"])


@pytest.fixture(scope="module")
def nccl(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    folder = tmp_path_factory.mktemp("nccl")
    return play(*(["accelerator_nccl_cases.py", rank, folder] for rank in range(2)))


@pytest.mark.parametrize("case", DEVICE_CASES)
def test_the_device(device: list[dict[str, str]], case: str) -> None:
    assert [rank[case] for rank in device] == [""]


@pytest.mark.parametrize("case", NCCL_CASES)
def test_the_fake_nccl(nccl: list[dict[str, str]], case: str) -> None:
    assert [rank[case] for rank in nccl] == ["", ""]


def test_every_case_is_looked_at(device: list[dict[str, str]], nccl: list[dict[str, str]]) -> None:
    assert [list(rank) for rank in device] == [list(DEVICE_CASES)]
    assert [list(rank) for rank in nccl] == [list(NCCL_CASES)] * 2
