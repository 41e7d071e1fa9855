"""The cases of torch_device_cases.py and of training by CUDA IPC, between ranks of one host.

On the test accelerator with the stand-in for CUDA's driver, or on one GPU that all ranks share.
Left out are those of what this way does otherwise.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

import accelerator
import tested_device
import torch_device_cases as on_host
import torch_device_training_cases as training
from quoit import _build
from stage import Job, of_several
from torch_cases import Case
from torch_device_cases import SLOW_S, check, mine, on_device, ranks, total

# The deadline of copies to the host, which this way has none of; and what makes no collective here.
_OF_STAGING = {"device_that_does_not_come"}
_NOT_BY_IPC = {
    *("ranks_that_differ_in_device", "devices_that_differ_in_a_call"),
    *("messages", "pipeline"),
}


def route(pg: Any) -> str:
    backend = pg._get_backend(torch.device(tested_device.NAME))
    said: str = _build.load_c10d().device_route(backend)
    return said


def goes_by_ipc(function: Case) -> Case:
    """Through the host it looks the same."""

    @functools.wraps(function)
    def play(pg: Any) -> None:
        function(pg)
        alone = dist.get_world_size(pg) == 1  # fully_shard then makes no collective
        assert route(pg) == "ipc" or (alone and route(pg) == "")

    return play


CASES: dict[str, Case] = {
    name: function if name in _NOT_BY_IPC else goes_by_ipc(function)
    for name, function in {**on_host.CASES, **training.CASES}.items()
    if name not in _OF_STAGING
}


def case(function: Case) -> Case:
    CASES[function.__name__] = goes_by_ipc(function)
    return function


@contextlib.contextmanager
def group(job: Job, rank: int, number: int) -> Iterator[Any]:
    os.environ["QUOIT_NCCL"] = "off"
    os.environ.pop("QUOIT_IPC", None)
    if not tested_device.FAKE:
        with on_host.on_device_group(job, rank, number) as pg:
            yield pg
        return
    tested_device.install()
    os.environ["QUOIT_CUDA_DRIVER"] = str(accelerator.DRIVER_LIBRARY)
    with accelerator.kernels(), on_host.on_device_group(job, rank, number) as pg:
        yield pg
        torch.accelerator.synchronize()  # before the kernels are no longer offered


OPS: list[Any] = [
    *(dist.ReduceOp.SUM, dist.ReduceOp.AVG, dist.ReduceOp.PRODUCT, dist.ReduceOp.MIN),
    *(dist.ReduceOp.MAX, dist.ReduceOp.BAND, dist.ReduceOp.BOR, dist.ReduceOp.BXOR),
]
DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.int16),
    *(torch.int32, torch.int64, torch.uint8, torch.bool),
    *([] if tested_device.FAKE else [torch.complex64]),  # it cannot see pairs of numbers in them
]


@case
def every_reduction_as_on_the_cpu(pg: Any) -> None:
    """Bit for bit, and refused where it is refused there."""
    numbers = torch.Generator().manual_seed(dist.get_rank(pg))
    for dtype in DTYPES:
        real = torch.randn(5003, generator=numbers) * 3
        values = real.to(dtype) if dtype != torch.bool else real > 0
        for op in [*OPS, dist._make_nccl_premul_sum(0.5)]:
            on_cpu, tensor = values.clone(), on_device(values)
            try:
                dist.all_reduce(on_cpu, op, group=pg)
            except ValueError:
                with pytest.raises(ValueError, match=r"has no meaning; |does not support"):
                    dist.all_reduce(tensor, op, group=pg)
                continue
            dist.all_reduce(tensor, op, group=pg)
            check(tensor.view(torch.uint8), on_cpu.view(torch.uint8))


@case
def many_spans(pg: Any) -> None:
    """While the ranks' devices are slow in turns."""
    me, count = dist.get_rank(pg), (9 << 20) + 3
    for slow in ranks(pg):
        with tested_device.delay(SLOW_S / 2 if me == slow else 0):
            tensor = on_device(mine(count, me))
            dist.all_reduce(tensor, group=pg)
            check(tensor, total(pg, count))
            dist.broadcast(tensor, group_src=slow, group=pg)
            check(tensor, total(pg, count))


def gathers_of_freed_tensors(
    pg: Any, calls: int, nobody_waits: Callable[[int], bool], *, reused: bool = True
) -> None:
    """What each call gives is freed at once. reused: something else is put where it was."""
    me, count = dist.get_rank(pg), 100_000
    outs = []
    with tested_device.delay(SLOW_S / 5):
        for k in range(calls):
            out = on_device(torch.zeros(dist.get_world_size(pg) * count))
            dist.all_gather_into_tensor(
                out, on_device(mine(count, me + k)), group=pg, async_op=nobody_waits(k)
            )
            outs.append(out)
            if reused:
                on_device(torch.full((count,), -1.0))  # in the memory that was freed, if it was
        if any(map(nobody_waits, range(calls))):
            dist.all_reduce(on_device(torch.ones(3)), group=pg)  # comes after them all
        for k, out in enumerate(outs):
            check(out, torch.cat([mine(count, r + k) for r in ranks(pg)]))


@case
def forgotten_at_once(pg: Any) -> None:
    """A tensor that is freed while its call is in streams is not given to others before."""
    gathers_of_freed_tensors(pg, 6, lambda k: False)


@case
def never_waited_for(pg: Any) -> None:
    """Nor do works that nobody has keep a tensor from being freed too early."""
    gathers_of_freed_tensors(pg, 4, lambda k: True, reused=False)


@case
def barriers_wait_for_the_device(pg: Any) -> None:
    dist.all_reduce(on_device(torch.ones(3)), group=pg)
    if not tested_device.FAKE:
        return
    begun = time.monotonic()
    with tested_device.delay(0.3 if dist.get_rank(pg) == 0 else 0):
        tensor = on_device(torch.zeros(3))
        tensor += 1
        dist.barrier(group=pg, device_ids=[0])
        assert time.monotonic() - begun > 0.25


@case
def several_groups(pg: Any) -> None:
    me = dist.get_rank(pg)
    groups = [pg, dist.new_group(), dist.new_group()]
    with tested_device.delay(SLOW_S / 10):
        works = []
        for k in range(5):
            for number, one in enumerate(groups):
                tensor = on_device(mine(4000 + number, me + k))
                works.append((k, tensor, dist.all_reduce(tensor, group=one, async_op=True)))
        for k, tensor, work in reversed(works):
            work.wait()
            parts = [mine(len(tensor), r + k) for r in ranks(pg)]
            check(tensor, torch.stack(parts).sum(0))
    for one in groups[1:]:
        dist.destroy_process_group(one)


def ring_of_messages(pg: Any) -> None:
    """Both directions at once, as pipelines have them, with large and small ones."""
    me, size = dist.get_rank(pg), dist.get_world_size(pg)
    left, right = (me - 1) % size, (me + 1) % size
    with tested_device.delay(SLOW_S / 10):
        for count in (1, 5000, (3 << 20) + 1):
            from_left, from_right = (on_device(torch.zeros(count)) for _ in range(2))
            operations = [
                (dist.isend, on_device(mine(count, me)), right, 0),
                (dist.irecv, from_left, left, 0),
                (dist.isend, on_device(mine(count, me + 5)), left, 1),
                (dist.irecv, from_right, right, 1),
            ]
            works = dist.batch_isend_irecv(
                [
                    dist.P2POp(call, tensor, group=pg, group_peer=peer, tag=tag)
                    for call, tensor, peer, tag in operations
                ]
            )
            for work in works:
                work.wait()
            check(from_left, mine(count, left))
            check(from_right, mine(count, right + 5))


@case
@of_several
def a_ring_of_messages(pg: Any) -> None:
    dist.all_reduce(on_device(torch.ones(3)), group=pg)
    ring_of_messages(pg)


@contextlib.contextmanager
def _with_nccl(pg: Any) -> Iterator[tuple[Any, Callable[[], int]]]:
    from torch_nccl_cases import _calls_of

    os.environ["QUOIT_NCCL"] = str(accelerator.NCCL_LIBRARY)
    os.environ["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
    try:
        group = dist.new_group()
        yield group, lambda: _calls_of("ncclAllReduce")
        dist.destroy_process_group(group)
    finally:
        os.environ["QUOIT_NCCL"] = "off"


def what_nccl_lacks(pg: Any) -> None:
    """Where NCCL serves a group, what it has no reduction for goes by IPC."""
    with _with_nccl(pg) as (group, calls):
        before = calls()
        tensor = on_device(mine(100, dist.get_rank(pg)))
        dist.all_reduce(tensor, group=group)
        check(tensor, total(pg, 100))
        assert calls() == before + 1
        assert route(group) == ""
        bits = on_device(torch.tensor([1 << dist.get_rank(pg), 3], dtype=torch.int32))
        dist.all_reduce(bits, dist.ReduceOp.BOR, group=group)
        check(bits, torch.tensor([(1 << dist.get_world_size(pg)) - 1, 3], dtype=torch.int32))
        assert calls() == before + 1
        assert route(group) == "ipc"


if tested_device.FAKE:  # whose NCCL counts
    CASES["what_nccl_lacks"] = what_nccl_lacks
