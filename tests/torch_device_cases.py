"""Cases for tensors of an accelerator that quoit brings to the host and back.

On the accelerator of tests/accelerator streams are threads, so that a missing wait shows in the
numbers. Under `delay`, each piece of its work takes its time; nothing here waits for the device as
a whole, but for what a user waits for.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import accelerator
import quoit
import tested_device
import torch_cases
from stage import Job, of_several
from torch_cases import Case

CASES: dict[str, Case] = {}
SLOW_S = 0.05  # of one copy or kernel under delay()
# Elements of one line, of a few pieces, and of more pieces than there are slots for.
COUNTS = [0, 1, 7, 1000, (3 << 20) + 5, (5 << 20) + 1]


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def case_of_fake(function: Case) -> Case:
    """One that needs what CUDA has not: a second device on any machine, captures by word."""
    return case(function) if tested_device.FAKE else function


@contextlib.contextmanager
def group(job: Job, rank: int, number: int) -> Iterator[Any]:
    os.environ["QUOIT_NCCL"] = "off"  # which could serve several ranks on a device
    with on_device_group(job, rank, number) as pg:
        yield pg


@contextlib.contextmanager
def on_device_group(job: Job, rank: int, number: int) -> Iterator[Any]:
    tested_device.install()
    dist.Backend.backend_capability["quoit"] = ["cpu", tested_device.NAME]
    with torch_cases.group(job, rank, number) as pg:
        yield pg


def on_device(values: Tensor) -> Tensor:
    return values.to(tested_device.NAME)


def mine(count: int, rank: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """What a rank puts in: small integers, whose sums are exact."""
    return ((torch.arange(count) + 3 * rank) % 11).to(dtype)


def ranks(pg: Any) -> range:
    return range(dist.get_world_size(pg))


def total(pg: Any, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.stack([mine(count, r, dtype) for r in ranks(pg)]).sum(0, dtype=dtype)


def check(got: Tensor, wanted: Tensor) -> None:
    assert got.device.type == tested_device.NAME
    assert torch.equal(got.cpu(), wanted)


@case
def all_reduce(pg: Any) -> None:
    me = dist.get_rank(pg)
    for count in COUNTS:
        tensor = on_device(mine(count, me))
        dist.all_reduce(tensor, group=pg)
        check(tensor, total(pg, count))
    for dtype in (torch.float64, torch.bfloat16, torch.int32, torch.int64, torch.uint8):
        tensor = on_device(mine(5000, me, dtype))
        dist.all_reduce(tensor, group=pg)
        check(tensor, total(pg, 5000, dtype))
    tensor = on_device(mine(5000, me))
    dist.all_reduce(tensor, dist.ReduceOp.MAX, group=pg)
    check(tensor, torch.stack([mine(5000, r) for r in ranks(pg)]).amax(0))


@case
def broadcast_and_reduce(pg: Any) -> None:
    me, last = dist.get_rank(pg), dist.get_world_size(pg) - 1
    for count in COUNTS:
        tensor = on_device(mine(count, me))
        dist.broadcast(tensor, group_src=last, group=pg)
        check(tensor, mine(count, last))
        tensor = on_device(mine(count, me))
        dist.reduce(tensor, group_dst=last, group=pg)
        check(tensor, total(pg, count) if me == last else mine(count, me))


@case
def all_gather_and_reduce_scatter(pg: Any) -> None:
    me, size = dist.get_rank(pg), dist.get_world_size(pg)
    for count in COUNTS[1:]:
        whole = on_device(torch.zeros(size * count))
        dist.all_gather_into_tensor(whole, on_device(mine(count, me)), group=pg)
        check(whole, torch.cat([mine(count, r) for r in ranks(pg)]))
        # In place: the input is where its output will be.
        whole = on_device(torch.zeros(size * count))
        block = whole.narrow(0, me * count, count)
        block.copy_(mine(count, me))
        dist.all_gather_into_tensor(whole, block, group=pg)
        check(whole, torch.cat([mine(count, r) for r in ranks(pg)]))
        out = on_device(torch.zeros(count))
        dist.reduce_scatter_tensor(out, on_device(mine(size * count, me)), group=pg)
        check(out, total(pg, size * count).narrow(0, me * count, count))
    uneven = [on_device(torch.zeros(1000 * r + 1)) for r in ranks(pg)]
    dist.all_gather(uneven, on_device(mine(1000 * me + 1, me)), group=pg)
    for r, part in enumerate(uneven):
        check(part, mine(1000 * r + 1, r))


@case
def all_to_all_gather_and_scatter(pg: Any) -> None:
    me, size = dist.get_rank(pg), dist.get_world_size(pg)
    for count in COUNTS[1:]:
        out = on_device(torch.zeros(size * count))
        dist.all_to_all_single(out, on_device(mine(size * count, me)), group=pg)
        wanted = [mine(size * count, r).narrow(0, me * count, count) for r in ranks(pg)]
        check(out, torch.cat(wanted))
        outs = [on_device(torch.zeros(count)) for _ in ranks(pg)] if me == 0 else None
        dist.gather(on_device(mine(count, me)), outs, group_dst=0, group=pg)
        for r, part in enumerate(outs or []):
            check(part, mine(count, r))
        out = on_device(torch.zeros(count))
        ins = [on_device(mine(count, r)) for r in ranks(pg)] if me == 0 else None
        dist.scatter(out, ins, group_src=0, group=pg)
        check(out, mine(count, me))
    splits = [r + 1 for r in ranks(pg)]
    out = on_device(torch.zeros(size * (me + 1)))
    dist.all_to_all_single(out, on_device(mine(sum(splits), me)), [me + 1] * size, splits, group=pg)
    begin = sum(splits[:me])
    check(out, torch.cat([mine(sum(splits), r).narrow(0, begin, me + 1) for r in ranks(pg)]))


@case
def not_contiguous(pg: Any) -> None:
    me = dist.get_rank(pg)
    tensor = on_device(mine(6000, me)).view(60, 100).t()
    dist.all_reduce(tensor, group=pg)
    check(tensor, total(pg, 6000).view(60, 100).t())
    every_other = on_device(mine(6000, me))[::2]
    with tested_device.delay(SLOW_S / 5):
        dist.all_reduce(every_other, group=pg)
        check(every_other, total(pg, 6000)[::2])


@case
@of_several
def messages(pg: Any) -> None:
    me, size = dist.get_rank(pg), dist.get_world_size(pg)
    to, source = (me + 1) % size, (me - 1) % size
    for count in COUNTS[1:]:
        into = on_device(torch.zeros(count))
        with tested_device.delay(SLOW_S / 5):
            sent = dist.isend(on_device(mine(count, me)), group_dst=to, group=pg, tag=3)
            dist.recv(into, group_src=source, group=pg, tag=3)
            check(into, mine(count, source))
            sent.wait()
    if me == 0:
        heard = []
        for _ in range(size - 1):
            into = on_device(torch.zeros(5))
            heard.append(dist.recv(into, group=pg))
            check(into, mine(5, heard[-1]))
        assert sorted(heard) == list(range(1, size))
    else:
        dist.send(on_device(mine(5, me)), group_dst=0, group=pg)


@case
def order_of_streams(pg: Any) -> None:
    """Before the call comes what made its input; after wait() comes what uses its output."""
    me = dist.get_rank(pg)
    for count in (1000, (5 << 20) + 1):
        source = mine(count, me).pin_memory()
        side = torch.Stream(tested_device.NAME)
        with side, tested_device.delay(SLOW_S):
            tensor = torch.empty(count, device=tested_device.NAME)
            tensor.copy_(source, non_blocking=True)  # not there yet when the call is made
            work = dist.all_reduce(tensor, group=pg, async_op=True)
            work.wait()
            after = torch.empty(count).pin_memory()
            after.copy_(tensor, non_blocking=True)
            side.synchronize()
        assert torch.equal(after, total(pg, count))


@case
def freed_before_it_is_done(pg: Any) -> None:
    """A tensor that the program forgot lives until the copies are over."""
    me = dist.get_rank(pg)
    count = (2 << 20) + 3
    outs = []
    with tested_device.delay(SLOW_S / 5):
        for _ in range(4):
            out = on_device(torch.zeros(dist.get_world_size(pg) * count))
            work = dist.all_gather_into_tensor(
                out, on_device(mine(count, me)), group=pg, async_op=True
            )
            outs.append((out, work))
        for out, work in outs:
            work.wait()
            check(out, torch.cat([mine(count, r) for r in ranks(pg)]))


@case
def futures(pg: Any) -> None:
    me = dist.get_rank(pg)
    count = (5 << 20) + 1
    with tested_device.delay(SLOW_S / 5):
        tensor = on_device(mine(count, me))
        future = dist.all_reduce(tensor, group=pg, async_op=True).get_future()
        twice = future.then(lambda done: done.value()[0] * 2)
        check(twice.wait(), total(pg, count) * 2)


@case
def several_in_flight(pg: Any) -> None:
    """Collectives and messages of two streams, in any order of waiting."""
    me, size = dist.get_rank(pg), dist.get_world_size(pg)
    tensors = [on_device(mine(20_000 * (i + 1), me + i)) for i in range(6)]
    works = [dist.all_reduce(t, group=pg, async_op=True) for t in tensors]
    side = torch.Stream(tested_device.NAME)
    with side:
        into = on_device(torch.zeros(30))
        message = dist.irecv(into, group_src=(me - 1) % size, group=pg)
        sent = dist.isend(on_device(mine(30, me)), group_dst=(me + 1) % size, group=pg)
    for i in (5, 0, 3, 1, 4, 2):
        works[i].wait()
        wanted = torch.stack([mine(20_000 * (i + 1), r + i) for r in ranks(pg)]).sum(0)
        check(tensors[i], wanted)
    with side:
        message.wait()
        sent.wait()
        check(into, mine(30, (me - 1) % size))


@case
def host_and_device_side_by_side(pg: Any) -> None:
    me = dist.get_rank(pg)
    on_host, tensor = mine(9000, me), on_device(mine(9000, me))
    first = dist.all_reduce(on_host, group=pg, async_op=True)
    second = dist.all_reduce(tensor, group=pg, async_op=True)
    second.wait()
    first.wait()
    check(tensor, total(pg, 9000))
    assert torch.equal(on_host, total(pg, 9000))
    objects: list[Any] = [{"rank": me}]
    dist.broadcast_object_list(
        objects, group_src=0, group=pg, device=torch.device(tested_device.NAME)
    )
    assert objects == [{"rank": 0}]
    dist.barrier(group=pg)


@case
def compressed_all_reduce(pg: Any) -> None:
    given = [torch.randn(100_000, generator=torch.Generator().manual_seed(r)) for r in ranks(pg)]
    tensor = on_device(given[dist.get_rank(pg)])
    quoit.all_reduce(tensor, codec=quoit.Int8(), group=pg)
    wrong = (tensor.cpu() - torch.stack(given).sum(0)).abs().max().item()
    assert wrong < 0.2
    assert wrong > 1e-3 or dist.get_world_size(pg) == 1, "nothing was compressed"


@case
@of_several
def ranks_that_differ_in_device(pg: Any) -> None:
    values = mine(100, dist.get_rank(pg))
    tensor = on_device(values) if dist.get_rank(pg) == 0 else values
    with pytest.raises((ValueError, dist.DistBackendError), match="on an accelerator"):
        dist.all_reduce(tensor, group=pg)


@case_of_fake
def devices_that_differ_in_a_call(pg: Any) -> None:
    outs = [torch.zeros(3) for _ in ranks(pg)]
    with pytest.raises(ValueError, match=r"output is on cpu, another .* on fake:0"):
        dist.all_gather(outs, on_device(torch.ones(3)), group=pg)
    outs = [torch.zeros(3, device="fake:1") for _ in ranks(pg)]
    with pytest.raises(ValueError, match=r"output is on fake:1, another .* on fake:0"):
        dist.all_gather(outs, on_device(torch.ones(3)), group=pg)
    with pytest.raises(ValueError, match=r"input is on fake:0, another .* on cpu"):
        dist.reduce_scatter_tensor(torch.zeros(3), on_device(torch.ones(3 * len(outs))), group=pg)


@case_of_fake
def capture_is_refused(pg: Any) -> None:
    tensor = on_device(torch.ones(3))
    with accelerator.capturing(), pytest.raises(ValueError, match="captured into a graph"):
        dist.all_reduce(tensor, group=pg)
    dist.all_reduce(tensor, group=pg)
    check(tensor, torch.full((3,), float(dist.get_world_size(pg))))


@case
def device_that_does_not_come(pg: Any) -> None:
    """The deadline holds although nobody can wake who waits for a device."""
    tensor = on_device(torch.ones(3))
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=0.5), pg)
    begun = time.monotonic()
    with tested_device.delay(2.0):
        tensor += 1
        with pytest.raises(dist.DistBackendError, match=r"accelerator|gave up|timed out"):
            dist.all_reduce(tensor, group=pg)
        assert time.monotonic() - begun < 1.9
