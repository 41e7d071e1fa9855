"""Cases for NCCL on the test accelerator: what is refused, and how groups fail and end."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import ReduceOp

from nccl_world import Case, World, barrier, options, small

CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


@case
def what_nccl_lacks_says_what_to_do(world: World) -> None:
    group = world.group()

    def all_reduce(dtype: torch.dtype, op: Any) -> None:
        tensor = small(dtype, 4, seed=0).to(world.device)
        group.allreduce([tensor], options("Allreduce", reduceOp=op)).wait()

    for dtype, op, words in (
        (torch.int32, ReduceOp.BAND, "NCCL has no BAND: reduce a copy in host memory"),
        (torch.bool, ReduceOp.BXOR, "NCCL has no BXOR"),
        (torch.int16, ReduceOp.SUM, "NCCL does not reduce int16"),
        (torch.float32, ReduceOp.BOR, "BOR of float32 has no meaning"),
        (torch.complex64, ReduceOp.MAX, "has no meaning for complex tensors"),
    ):
        with pytest.raises(ValueError, match=words):
            all_reduce(dtype, op)
    with pytest.raises(ValueError, match="NCCL must know the sender"):
        group.recv_anysource([torch.empty(1, device=world.device)], 0)
    with pytest.raises(ValueError, match="name another rank"):
        group.send([torch.empty(1, device=world.device)], world.rank, 0)
    other = torch.device("fake", 1)
    all_reduce(
        torch.float32, ReduceOp.SUM
    )  # the group is as good as before, and bound to its device
    with pytest.raises(ValueError, match=r"is on fake:1, but this group .* is on fake:0"):
        group.allreduce([torch.ones(2, device=other)])
    with pytest.raises(ValueError, match="does not make"):
        group._allgather_base(
            torch.empty(3, device=world.device), torch.empty(2, device=world.device)
        )


@case
def a_rank_that_never_comes_is_named(world: World) -> None:
    group = world.group(timeout_s=2.0)
    if world.rank != 1:
        with pytest.raises(dist.DistBackendError, match="waited 2 s for rank 1 to use NCCL"):
            group.allreduce([torch.ones(1, device=world.device)])
        with pytest.raises(dist.DistBackendError, match="waited 2 s for rank 1"):
            group.allreduce([torch.ones(1, device=world.device)])


@case
def a_rank_that_stops_coming_is_named_on_all(world: World) -> None:
    group = world.group(timeout_s=3.0)
    tensor = torch.ones(4, device=world.device)
    group.allreduce([tensor]).wait()
    began = time.monotonic()
    if world.rank != 1:
        work = group.allreduce([tensor])
        with pytest.raises(dist.DistBackendError, match=r"all_reduce #2 Float\[4\]") as first:
            work.wait(timedelta(seconds=30))
        assert time.monotonic() - began < 12.0
        assert "1" in str(first.value).rpartition("these ranks are in no call")[2]
        assert f"[quoit rank {world.rank} on " in str(first.value)
    world.meet("failed")
    if world.rank == 1:  # hears of it in its next call
        with pytest.raises(dist.DistBackendError, match="the group failed, first on rank"):
            barrier(world, group)
    with pytest.raises(dist.DistBackendError, match="all_reduce #2"):
        group.allreduce([tensor])


@case
def an_abort_ends_all_ranks(world: World) -> None:
    backend = world.backend()
    group = world.around(backend)
    tensor = torch.ones(4, device=world.device)
    group.allreduce([tensor]).wait()
    torch.accelerator.synchronize()
    began = time.monotonic()
    if world.rank == 0:
        backend.abort()
    else:
        work = group.allreduce([tensor])
        with pytest.raises(dist.DistBackendError, match="the process group was aborted"):
            work.wait(timedelta(seconds=15))
    assert time.monotonic() - began < 8.0
    with pytest.raises(dist.DistBackendError, match="the process group was aborted"):
        group.allreduce([tensor])


@case
def after_a_shutdown_nothing_goes(world: World) -> None:
    backend = world.backend()
    group = world.around(backend)
    tensor = torch.full((4,), 1.0, device=world.device)
    received = torch.zeros(4, device=world.device)
    work = group.allreduce([tensor])
    works = [
        group.send([torch.ones(4, device=world.device)], (world.rank + 1) % world.size, 0),
        group.recv([received], (world.rank - 1) % world.size, 0),
    ]
    for one in (work, *works):
        one.wait()
    began = time.monotonic()
    backend.shutdown()
    assert time.monotonic() - began < 5.0
    assert tensor.cpu().eq(world.size).all()
    assert received.cpu().eq(1).all()
    with pytest.raises(dist.DistBackendError, match="was shut down"):
        group.allreduce([tensor])


@case
def ranks_that_share_a_device_say_so(world: World) -> None:
    backend = world.backend(device="GPU-7" if world.rank < 2 else None)
    why = world.c10d.nccl_unusable(backend, world.device)
    assert why.startswith("ranks 0 and 1 share one device (GPU-7)")
    group = world.around(backend)
    with pytest.raises(dist.DistBackendError, match="cannot serve this group: ranks 0 and 1"):
        group.allreduce([torch.ones(1, device=world.device)])
    os.environ["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
    try:
        backend = world.backend(device="GPU-7")
        assert world.c10d.nccl_unusable(backend, world.device) == ""
        tensor = torch.ones(1, device=world.device)
        world.around(backend).allreduce([tensor]).wait()
        assert tensor.cpu().item() == world.size
    finally:
        del os.environ["NCCL_MULTI_RANK_GPU_ENABLE"]
    os.environ["QUOIT_NCCL"], library = "off", os.environ["QUOIT_NCCL"]
    try:
        why = world.c10d.nccl_unusable(world.backend(), world.device)
        assert why.endswith(": QUOIT_NCCL=off")
    finally:
        os.environ["QUOIT_NCCL"] = library


@case
def devices_are_told_apart_by_python(world: World) -> None:
    backend = world.backend(device="")  # quoit.nccl.device_identity is asked: one host, one device
    why = world.c10d.nccl_unusable(backend, world.device)
    assert "share one device" in why
    assert "fake:0" in why
