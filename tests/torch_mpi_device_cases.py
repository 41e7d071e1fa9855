"""The cases of torch_device_cases.py and of training where an MPI is given memory of devices.

On the test accelerator, whose memory is the host's in truth, so that any MPI moves it.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

import accelerator
import tested_device
import torch_device_cases as on_host
import torch_device_training_cases as training
from stage import Job
from torch_cases import Case
from torch_device_cases import SLOW_S, check, mine, on_device, total
from torch_ipc_cases import DTYPES, OPS, gathers_of_freed_tensors, ring_of_messages, route

CASES: dict[str, Case] = {}


def goes_over_mpi(function: Case) -> Case:
    """By way of the host it looks the same."""

    @functools.wraps(function)
    def play(pg: Any) -> None:
        assert route(pg) == "mpi"
        function(pg)
        assert route(pg) == "mpi"

    return play


for _name, _case in {**on_host.CASES, **training.CASES}.items():
    CASES[_name] = goes_over_mpi(_case)


def case(function: Case) -> Case:
    CASES[function.__name__] = goes_over_mpi(function)
    return function


@contextlib.contextmanager
def group(job: Job, rank: int, number: int) -> Iterator[Any]:
    os.environ["QUOIT_NCCL"] = "off"
    os.environ["QUOIT_MPI_CUDA"] = "on"
    tested_device.install()
    os.environ["QUOIT_CUDA_DRIVER"] = str(accelerator.DRIVER_LIBRARY)
    with accelerator.kernels(), on_host.on_device_group(job, rank, number) as pg:
        yield pg
        torch.accelerator.synchronize()  # before the kernels are no longer offered


@case
def sums_by_kernels_alone(pg: Any) -> None:
    kernels = accelerator.kernels_library()
    for count in (1, 1000, 1_000_003):
        before = kernels.fake_kernel_launches()
        tensor = on_device(mine(count, dist.get_rank(pg)))
        dist.all_reduce(tensor, group=pg)
        check(tensor, total(pg, count))
        assert kernels.fake_kernel_launches() > before


@case
def every_reduction_as_on_the_cpu(pg: Any) -> None:
    """Of numbers whose results are exact, so that hosts with several ranks have the same bits."""
    for dtype in DTYPES:
        values = mine(5003, dist.get_rank(pg)).to(dtype)
        for op in OPS:
            on_cpu, tensor = values.clone(), on_device(values)
            try:
                dist.all_reduce(on_cpu, op, group=pg)
            except ValueError:
                continue
            dist.all_reduce(tensor, op, group=pg)
            check(tensor.view(torch.uint8), on_cpu.view(torch.uint8))


@case
def forgotten_at_once(pg: Any) -> None:
    """A tensor that is freed while MPI or the stream uses it is not given to others before."""
    gathers_of_freed_tensors(pg, 6, lambda k: k % 2 == 1)


@case
def a_ring_of_messages(pg: Any) -> None:
    ring_of_messages(pg)


@case
def tensors_that_are_not_contiguous_in_messages(pg: Any) -> None:
    me, size = dist.get_rank(pg), dist.get_world_size(pg)
    into = on_device(torch.zeros(6000)).view(60, 100).t()
    with tested_device.delay(SLOW_S / 5):
        given = on_device(mine(6000, me)).view(60, 100).t()
        sent = dist.isend(given, group_dst=(me + 1) % size, group=pg)
        dist.recv(into, group_src=(me - 1) % size, group=pg)
        check(into, mine(6000, (me - 1) % size).view(60, 100).t())
        sent.wait()
