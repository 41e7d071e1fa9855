"""Tensors of an accelerator: by way of the host over all transports, by CUDA IPC, MPI and NCCL.

The accelerator is that of tests/accelerator, and so are NCCL and CUDA's driver.
"""

from __future__ import annotations

import pytest

import torch_device_cases
import torch_device_training_cases
import torch_ipc_cases
import torch_mpi_device_cases
import torch_nccl_cases
from conftest import Outcome
from worlds import World, played

WORLDS = [World("processes", "aab", transport="tcp")]
SLOW_WORLDS = [
    World("processes", "a"),
    World("processes", "aa"),
    World("processes", "aabb"),
    World("mpich", "ab"),
    World("openmpi", "aab"),
]


@pytest.mark.parametrize(
    ("world", "case"),
    [
        *played(torch_device_cases, WORLDS, SLOW_WORLDS),
        *played(torch_device_training_cases, WORLDS, SLOW_WORLDS),
    ],
)
def test_torch_device(world: World, case: str, outcome: Outcome) -> None:
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)


@pytest.mark.parametrize(
    ("world", "case"),
    played(torch_nccl_cases, [World("processes", "aaa")], [World("mpich", "ab")]),
)
def test_torch_nccl(world: World, case: str, outcome: Outcome) -> None:
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)


# Of which the longer ones are those that several ranks on one GPU play, too.
IPC_WORLDS = [World("processes", "aa")]
SLOW_IPC_WORLDS = [
    World("processes", "a"),
    World("processes", "aaaa"),
    World("mpich", "aaa"),
]


@pytest.mark.parametrize(("world", "case"), played(torch_ipc_cases, IPC_WORLDS, SLOW_IPC_WORLDS))
def test_torch_ipc(world: World, case: str, outcome: Outcome) -> None:
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)


MPI_WORLDS = [World("openmpi", "ab")]
SLOW_MPI_WORLDS = [World("mpich", "aab"), World("mpich", "ab"), World("openmpi", "abc")]


@pytest.mark.parametrize(
    ("world", "case"),
    played(torch_mpi_device_cases, MPI_WORLDS, SLOW_MPI_WORLDS, torch_device_cases.CASES),
)
def test_torch_over_mpi(world: World, case: str, outcome: Outcome) -> None:
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)
