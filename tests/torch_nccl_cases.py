"""The cases of torch_device_cases.py and of training by NCCL: its stand-in on the test accelerator.

Left out are those of what NCCL does otherwise: messages from any rank, and what concerns the way
through the host.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

import accelerator
import tested_device
import torch_device_cases as on_host
import torch_device_training_cases as training
from stage import Job
from torch_cases import Case
from torch_device_cases import check, mine, on_device, total


def _calls_of(function: str) -> int:
    """By this process; of the stand-in alone, which counts them."""
    if not tested_device.FAKE:
        return 0
    library = ctypes.CDLL(str(accelerator.NCCL_LIBRARY))
    library.fakenccl_calls.restype = ctypes.c_long
    return int(library.fakenccl_calls(function.encode()))


def asks_nccl_for(*functions: str) -> Callable[[Case], Case]:
    """NCCL must be called in the case, by these functions: through the host it looks the same."""

    def around(function: Case) -> Case:
        @functools.wraps(function)
        def play(pg: Any) -> None:
            before = {name: _calls_of(name) for name in functions}
            function(pg)
            idle = [name for name in functions if _calls_of(name) == before[name]]
            assert not idle or not tested_device.FAKE, f"NCCL was not asked for {idle}"

        return play

    return around


_HOST_CASES = {**on_host.CASES, **training.CASES}
CASES: dict[str, Case] = {
    name: asks_nccl_for(*functions)(_HOST_CASES[name])
    for name, functions in {
        "all_reduce": ["ncclAllReduce"],
        "broadcast_and_reduce": ["ncclBroadcast", "ncclReduce"],
        "all_gather_and_reduce_scatter": ["ncclAllGather", "ncclReduceScatter"],
        "all_to_all_gather_and_scatter": ["ncclSend", "ncclRecv"],
        "not_contiguous": ["ncclAllReduce"],
        "order_of_streams": ["ncclAllReduce"],
        "freed_before_it_is_done": ["ncclAllGather"],
        "futures": ["ncclAllReduce"],
        "several_in_flight": ["ncclAllReduce", "ncclSend", "ncclRecv"],
        "host_and_device_side_by_side": ["ncclAllReduce", "ncclBroadcast"],
        "data_parallel_training": ["ncclAllReduce", "ncclBroadcast"],
        "compressed_data_parallel_training": ["ncclBroadcast"],  # gradients go through the host
        "pipeline": ["ncclSend", "ncclRecv"],
        "sharded_training": ["ncclAllGather", "ncclReduceScatter"],
    }.items()
}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


@contextlib.contextmanager
def group(job: Job, rank: int, number: int) -> Iterator[Any]:
    if tested_device.FAKE:
        accelerator.build()
        os.environ["QUOIT_NCCL"] = str(accelerator.NCCL_LIBRARY)
    else:
        os.environ.pop("QUOIT_NCCL", None)
    os.environ["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"  # all ranks have the device 0
    with on_host.on_device_group(job, rank, number) as pg:
        yield pg


def one_all_reduce_is_one_of_nccl(pg: Any) -> None:
    before = _calls_of("ncclAllReduce")
    tensor = on_device(mine(100, dist.get_rank(pg)))
    dist.all_reduce(tensor, group=pg)
    check(tensor, total(pg, 100))
    assert _calls_of("ncclAllReduce") == before + 1


if tested_device.FAKE:  # whose NCCL counts
    case(one_all_reduce_is_one_of_nccl)


@case
def reductions_that_nccl_lacks(pg: Any) -> None:
    """Go through the host."""
    before = _calls_of("ncclAllReduce")
    tensor = on_device(torch.tensor([1 << dist.get_rank(pg), 3], dtype=torch.int32))
    dist.all_reduce(tensor, dist.ReduceOp.BOR, group=pg)
    check(tensor, torch.tensor([(1 << dist.get_world_size(pg)) - 1, 3], dtype=torch.int32))
    assert _calls_of("ncclAllReduce") == before


@case
@asks_nccl_for("ncclAllReduce")
def regions(pg: Any) -> None:
    """Several collectives that NCCL makes one of, and none of the CPU."""
    tensors = [on_device(mine(100 * (i + 1), dist.get_rank(pg))) for i in range(3)]
    with dist._coalescing_manager(pg, async_ops=True) as region:
        for tensor in tensors:
            dist.all_reduce(tensor, group=pg)
    region.wait()
    for i, tensor in enumerate(tensors):
        check(tensor, total(pg, 100 * (i + 1)))
    on_cpu = [mine(100 * (i + 1), dist.get_rank(pg)) for i in range(3)]
    with dist._coalescing_manager(pg, async_ops=True) as region:
        for tensor in on_cpu:
            dist.all_reduce(tensor, group=pg)
    region.wait()
    for i, tensor in enumerate(on_cpu):
        assert torch.equal(tensor, total(pg, 100 * (i + 1)))


@case
@asks_nccl_for("ncclSend", "ncclRecv")
def messages_in_both_directions(pg: Any) -> None:
    me, size = dist.get_rank(pg), dist.get_world_size(pg)
    to, source = (me + 1) % size, (me - 1) % size
    into = on_device(torch.zeros(5000))
    works = dist.batch_isend_irecv(
        [
            dist.P2POp(dist.isend, on_device(mine(5000, me)), group=pg, group_peer=to),
            dist.P2POp(dist.irecv, into, group=pg, group_peer=source),
        ]
    )
    for work in works:
        work.wait()
    check(into, mine(5000, source))
