"""Cases for NCCL on the test accelerator: what comes out, in which order, and what fails how.

Every rank can make every rank's input, so that what comes out is compared with what torch computes
alone on the CPU. Sums are of small integers, hence exact in any order.
"""

from __future__ import annotations

import copy
import os
import random
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

import accelerator
from nccl_rank import World

Case = Callable[[World], None]
CASES: dict[str, Case] = {}

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTEGERS = [torch.int8, torch.uint8, torch.int32, torch.int64]
MOVED = [*FLOATS, *INTEGERS, torch.int16, torch.bool, torch.complex64, torch.float8_e4m3fn]
SUM, AVG, PRODUCT, MIN, MAX, BAND, BOR, BXOR = (
    getattr(dist.ReduceOp, name)
    for name in ("SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR")
)


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def small(dtype: torch.dtype, *shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    least = 0 if dtype in (torch.uint8, torch.bool) else -4
    return torch.randint(least, 5, shape, generator=generator).to(dtype)


def same(got: Tensor, wanted: Tensor) -> None:
    got = got.cpu()
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    flat = [one.contiguous().reshape(-1).view(torch.uint8) for one in (got, wanted)]
    assert torch.equal(*flat), (got, wanted)


def same_all(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        same(one, other)


def reduced(op: Any, inputs: Sequence[Tensor]) -> Tensor:
    """As on the CPU: integers wrap, their AVG truncates, 16-bit floats are summed in float32."""
    dtype = inputs[0].dtype
    if dtype is torch.bool:
        some = torch.stack(list(inputs))
        return some.any(0) if op in (SUM, MAX, BOR) else some.all(0)
    wide = torch.stack(
        [one.to(torch.float64 if dtype.is_floating_point else one.dtype) for one in inputs]
    )
    if op == MIN:
        return wide.amin(0).to(dtype)
    if op == MAX:
        return wide.amax(0).to(dtype)
    if op == PRODUCT:
        return wide.prod(0).to(dtype)
    total = wide.sum(0).to(dtype) if not dtype.is_floating_point else wide.sum(0)
    if op == AVG and dtype.is_floating_point:
        return (total / len(inputs)).to(dtype)
    if op == AVG and not dtype.is_complex:
        return torch.div(total, len(inputs), rounding_mode="trunc")
    return (total / len(inputs) if op == AVG else total).to(dtype)


def options(kind: str, **values: Any) -> Any:
    made = getattr(distributed_c10d, f"{kind}Options")()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def inputs_of(world: World, dtype: torch.dtype, *shape: int, seed: int = 0) -> list[Tensor]:
    return [small(dtype, *shape, seed=100 * seed + rank) for rank in range(world.size)]


def barrier(world: World, group: Any) -> None:
    group.barrier(options("Barrier", device=world.device)).wait()


@case
def sums_and_others_of_every_dtype(world: World) -> None:
    group = world.group()
    ops = {dtype: [SUM, AVG, PRODUCT, MIN, MAX] for dtype in [*FLOATS, *INTEGERS]}
    ops |= {torch.bool: [SUM, PRODUCT, MIN, MAX, BAND, BOR], torch.complex64: [SUM, AVG]}
    for dtype, some in ops.items():
        for seed, op in enumerate(some):
            # AVG in halves and quarters is exact on 2 ranks, and alike rounded on 3.
            inputs = inputs_of(world, dtype, 5, 7, seed=seed)
            wanted = reduced(op, inputs)
            if op == AVG and world.size == 3 and (dtype.is_floating_point or dtype.is_complex):
                inputs = [one * 3 for one in inputs]
                wanted = reduced(op, inputs)
            mine = inputs[world.rank].to(world.device)
            group.allreduce([mine], options("Allreduce", reduceOp=op)).wait()
            same(mine, wanted)
            root = seed % world.size
            mine = inputs[world.rank].to(world.device)
            group.reduce([mine], options("Reduce", reduceOp=op, rootRank=root)).wait()
            if world.rank == root:
                same(mine, wanted)


@case
def reduce_scatter_in_all_its_forms(world: World) -> None:
    group = world.group()
    n, me = world.size, world.rank
    for dtype in (torch.float32, torch.bfloat16, torch.int32):
        for op in (SUM, MAX):
            given = inputs_of(world, dtype, n * 6)
            wanted = reduced(op, given).chunk(n)[me]
            out = torch.empty(6, dtype=dtype, device=world.device)
            whole = given[me].to(world.device)
            how = options("ReduceScatter", reduceOp=op)
            group._reduce_scatter_base(out, whole, how).wait()
            same(out, wanted)
            out.zero_()
            group.reduce_scatter([out], [list(whole.chunk(n))], how).wait()
            same(out, wanted)
    splits = [3 * rank for rank in range(n)]  # the first has none
    given = inputs_of(world, torch.float32, sum(splits))
    out = torch.empty(splits[me], device=world.device)
    group.reduce_scatter([out], [list(given[me].to(world.device).split(splits))]).wait()
    same(out, reduced(SUM, given).split(splits)[me])
    given = inputs_of(world, torch.int32, n * 4)
    out = torch.empty(4, dtype=torch.int32, device=world.device)
    group._reduce_scatter_base(
        out, given[me].to(world.device), options("ReduceScatter", reduceOp=AVG)
    ).wait()
    same(out, reduced(AVG, given).chunk(n)[me])


@case
def a_factor_before_the_sum(world: World) -> None:
    group = world.group()
    for dtype in FLOATS:
        given = inputs_of(world, dtype, 9)
        mine = given[world.rank].to(world.device)
        half = dist._make_nccl_premul_sum(0.5)
        group.allreduce([mine], options("Allreduce", reduceOp=half)).wait()
        same(mine, reduced(SUM, [one * 0.5 for one in given]))


@case
def what_nccl_lacks_says_what_to_do(world: World) -> None:
    group = world.group()

    def all_reduce(dtype: torch.dtype, op: Any) -> None:
        tensor = small(dtype, 4, seed=0).to(world.device)
        group.allreduce([tensor], options("Allreduce", reduceOp=op)).wait()

    for dtype, op, words in (
        (torch.int32, BAND, "NCCL has no BAND: reduce a copy in host memory"),
        (torch.bool, BXOR, "NCCL has no BXOR"),
        (torch.int16, SUM, "NCCL does not reduce int16"),
        (torch.float32, BOR, "BOR of float32 has no meaning"),
        (torch.complex64, MAX, "has no meaning for complex tensors"),
    ):
        with pytest.raises(ValueError, match=words):
            all_reduce(dtype, op)
    with pytest.raises(ValueError, match="NCCL must know the sender"):
        group.recv_anysource([torch.empty(1, device=world.device)], 0)
    with pytest.raises(ValueError, match="name another rank"):
        group.send([torch.empty(1, device=world.device)], world.rank, 0)
    other = torch.device("fake", 1)
    all_reduce(torch.float32, SUM)  # the group is as good as before, and bound to its device
    with pytest.raises(ValueError, match=r"is on fake:1, but this group .* is on fake:0"):
        group.allreduce([torch.ones(2, device=other)])
    with pytest.raises(ValueError, match="does not make"):
        group._allgather_base(
            torch.empty(3, device=world.device), torch.empty(2, device=world.device)
        )


@case
def moves_every_dtype(world: World) -> None:
    group = world.group()
    n, me, device = world.size, world.rank, world.device
    for seed, dtype in enumerate(MOVED):
        given = inputs_of(world, dtype, 3, 4, seed=seed)
        mine = given[me].to(device)
        root = seed % n

        def empty(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(*shape, dtype=dtype, device=device)

        tensor = mine.clone()
        group.broadcast([tensor], options("Broadcast", rootRank=root)).wait()
        same(tensor, given[root])
        outs = [empty(3, 4) for _ in range(n)]
        group.allgather([outs], [mine]).wait()
        same_all(outs, given)
        whole = empty(3 * n, 4)
        group._allgather_base(whole, mine).wait()
        same(whole, torch.cat(given))
        outs = [empty(3, 4) for _ in range(n)] if me == root else []
        group.gather([outs] if outs else [], [mine], options("Gather", rootRank=root)).wait()
        same_all(outs, given if outs else [])
        out = empty(3, 4)
        lists = [[one.to(device) for one in given]] if me == root else []
        group.scatter([out], lists, options("Scatter", rootRank=root)).wait()
        same(out, given[me])


@case
def all_to_all_and_uneven_sizes(world: World) -> None:
    group = world.group()
    n, me, device = world.size, world.rank, world.device

    def sent(source: int, target: int) -> Tensor:  # of rows, perhaps none
        return small(torch.float32, (source + 2 * target) % 4, 3, seed=10 * source + target)

    outs = [torch.empty_like(sent(peer, me), device=device) for peer in range(n)]
    group.alltoall(outs, [sent(me, peer).to(device) for peer in range(n)]).wait()
    same_all(outs, [sent(peer, me) for peer in range(n)])
    give = [sent(me, peer).shape[0] for peer in range(n)]
    take = [sent(peer, me).shape[0] for peer in range(n)]
    whole = torch.empty(sum(take), 3, device=device)
    mine = torch.cat([sent(me, peer) for peer in range(n)]).to(device)
    group.alltoall_base(whole, mine, take, give).wait()
    same(whole, torch.cat([sent(peer, me) for peer in range(n)]))
    even = [torch.arange(2 * n, dtype=torch.int64) + 100 * rank for rank in range(n)]
    whole = torch.empty(2 * n, dtype=torch.int64, device=device)
    group.alltoall_base(whole, even[me].to(device), [], []).wait()
    same(whole, torch.cat([one.chunk(n)[me] for one in even]))
    uneven = [small(torch.float32, 2 * rank, seed=rank) for rank in range(n)]
    outs = [torch.empty_like(one, device=device) for one in uneven]
    group.allgather([outs], [uneven[me].to(device)]).wait()
    same_all(outs, uneven)


@case
def coalesced_forms_and_regions(world: World) -> None:
    group = world.group()
    n, me, device = world.size, world.rank, world.device
    sizes = (1, 5, 0, 8)
    given = [inputs_of(world, torch.float32, size, seed=size) for size in sizes]
    mine = [one[me].to(device) for one in given]
    group.allreduce_coalesced(mine).wait()
    same_all(mine, [reduced(SUM, one) for one in given])
    mine = [one[me].to(device) for one in given]
    outs = [torch.empty(n * size, device=device) for size in sizes]
    group.allgather_into_tensor_coalesced(outs, mine).wait()
    same_all(outs, [torch.cat(one) for one in given])
    parts = [torch.empty(size, device=device) for size in sizes]
    group.reduce_scatter_tensor_coalesced(parts, outs).wait()
    same_all(parts, [torch.cat(one).chunk(n)[me] * n for one in given])

    group._start_coalescing(device)
    first, second = given[1][me].to(device), given[3][me].to(device)
    gathered = torch.empty(n * 8, device=device)
    group.allreduce([first])
    group._allgather_base(gathered, second)
    received = torch.empty(5, device=device)
    group.send([first.clone()], (me + 1) % n, 0)
    group.recv([received], (me - 1) % n, 0)
    group._end_coalescing(device).wait()
    same(first, reduced(SUM, given[1]))
    same(gathered, torch.cat(given[3]))
    same(received, given[1][(me - 1) % n])


@case
def tensors_that_are_not_contiguous(world: World) -> None:
    group = world.group()
    n, me, device = world.size, world.rank, world.device
    given = inputs_of(world, torch.float32, 6, 4)
    mine = given[me].to(device).t()
    group.allreduce([mine]).wait()
    same(mine, reduced(SUM, given).t())
    mine = given[me].to(device).t()
    outs = [torch.empty(6, 4, device=device).t() for _ in range(n)]
    group.allgather([outs], [mine]).wait()
    same_all(outs, [one.t() for one in given])
    out = torch.zeros(6, 4, device=device)[:, ::2]
    message = given[me].to(device)[:, 1::2]
    sent = group.send([message], (me + 1) % n, 0)
    group.recv([out], (me - 1) % n, 0).wait()
    sent.wait()
    same(out, given[(me - 1) % n][:, 1::2])


@case
def streams_wait_and_the_host_does_not(world: World) -> None:
    group = world.group()
    tensor = torch.zeros(1000, device=world.device)
    group.allreduce([tensor]).wait()  # the communicator is there
    total = float(sum(range(1, world.size + 1)))
    with accelerator.delay(0.3):
        tensor.fill_(world.rank + 1.0)
        work = group.allreduce([tensor])
        work.wait()
        assert not work.is_completed()  # so the host did not wait
        tensor.mul_(2.0)
    assert tensor.cpu().eq(2 * total).all()
    assert work.is_completed()
    assert work.is_success()
    with accelerator.delay(0.1):  # on a stream of the program's own
        stream = torch.Stream(world.device)
        event = torch.Event(world.device)
        event.record()
        stream.wait_event(event)
        with stream:
            tensor.fill_(world.rank + 2.0)
            group.allreduce([tensor]).wait()
            tensor.add_(1.0)
    stream.synchronize()
    assert tensor.cpu().eq(total + world.size + 1).all()


@case
def memory_is_kept_until_the_device_is_done(world: World) -> None:
    group = world.group()
    n, device = world.size, world.device
    group.allreduce([torch.zeros(1, device=device)]).wait()
    with accelerator.delay(0.05):
        for turn in range(5):
            out = torch.zeros(n * 512, device=device)
            given = torch.zeros(512, device=device)
            given.fill_(world.rank + turn)
            work = group._allgather_base(out, given)
            del given  # its memory is overwritten as soon as no stream is known to use it
            again = torch.zeros(512, device=device)
            again.fill_(-1.0)
            work.wait()
            wanted = torch.arange(n).repeat_interleave(512) + float(turn)
            same(out, wanted.float())
    pieces = [torch.zeros(64, device=device) for _ in range(n)]
    with accelerator.delay(0.05):
        mine = torch.zeros(64, device=device)
        mine.fill_(float(world.rank))
        work = group.send([mine], (world.rank + 1) % n, 0)
        del mine
        torch.zeros(64, device=device).fill_(-1.0)
        group.recv([pieces[0]], (world.rank - 1) % n, 0).wait()
    assert pieces[0].cpu().eq((world.rank - 1) % n).all()
    work.wait()


@case
def calls_that_are_not_asynchronous(world: World) -> None:
    group = world.group()
    mine = torch.ones(100, device=world.device)
    group.allreduce([mine]).wait()
    with accelerator.delay(0.02):
        for turn in range(6):  # one in the caller's stream, one in the communicator's, ...
            mine.fill_(1.0)
            work = group.allreduce([mine], options("Allreduce", asyncOp=turn % 2 == 0))
            assert (work is None) == (turn % 2 == 1)
            if work is not None:
                work.wait()
            mine.add_(1.0)
            assert mine.cpu().eq(world.size + 1).all()
        first, second = mine.clone().fill_(1.0), mine.clone().fill_(2.0)
        work = group.allreduce([first])
        assert group.allreduce([second], options("Allreduce", asyncOp=False)) is None
        work.wait()
        assert first.cpu().eq(world.size).all()
        assert second.cpu().eq(2 * world.size).all()


@case
def futures_hold_values_in_order(world: World) -> None:
    group = world.group()
    mine = torch.ones(10, device=world.device)
    with accelerator.delay(0.05):
        mine.fill_(world.rank + 1.0)
        work = group.allreduce([mine])
        future = work.get_future().then(lambda done: done.value()[0].mul_(2.0))
        got = future.wait()
    assert got.cpu().eq(sum(range(1, world.size + 1)) * 2.0).all()
    assert work.result()[0] is mine or work.result()[0].data_ptr() == mine.data_ptr()
    outs = [torch.empty(2, 3, device=world.device) for _ in range(world.size)]
    given = inputs_of(world, torch.float32, 2, 3)
    value = group.allgather([outs], [given[world.rank].to(world.device)]).get_future().wait()
    same(value[0], torch.stack(given))


@case
def messages_go_both_ways_at_once(world: World) -> None:
    group = world.group()
    n, me, device = world.size, world.rank, world.device
    peers = [peer for peer in range(n) if peer != me]
    for turn in range(3):
        # Everybody sends first, and receives in another order than was sent.
        works = [
            group.send([torch.full((5,), float(10 * me + turn), device=device)], peer, 0)
            for peer in peers
        ]
        got = {peer: torch.empty(5, device=device) for peer in peers}
        works += [group.recv([got[peer]], peer, 0) for peer in reversed(peers)]
        for work in works:
            work.wait()
        for peer in peers:
            assert got[peer].cpu().eq(10 * peer + turn).all()
    if me < 2:  # an order of their own, big after small
        small_, big = torch.empty(3, device=device), torch.empty(100_000, device=device)
        for _ in range(2):
            works = [
                group.send([torch.full((3,), float(me), device=device)], 1 - me, 0),
                group.send([torch.full((100_000,), me + 0.5, device=device)], 1 - me, 0),
                group.recv([small_], 1 - me, 0),
                group.recv([big], 1 - me, 0),
            ]
            for work in works:
                work.wait()
            assert small_.cpu().eq(1 - me).all()
            assert big.cpu().eq(1.5 - me).all()


@case
def a_send_does_not_wait_for_its_receiver(world: World) -> None:
    group = world.group()
    group.allreduce([torch.ones(1, device=world.device)]).wait()  # ranks know of each other
    tensor = torch.full((4,), 7.0, device=world.device)
    if world.rank == 0:
        work = group.send([tensor], 1, 0)
        assert not work.is_completed()
    world.meet("sent")  # rank 1 receives only now
    group.allreduce([torch.ones(1, device=world.device)]).wait()
    if world.rank == 1:
        tensor.zero_()
        group.recv([tensor], 0, 0).wait()
        assert tensor.cpu().eq(7).all()
    if world.rank == 0:
        work.wait()
    barrier(world, group)


@case
def the_first_calls_may_cross(world: World) -> None:
    group = world.group()
    message = torch.full((4,), 3.0, device=world.device)
    tensor = torch.ones(2, device=world.device)
    if world.rank == 0:  # meets rank 1 only in all_reduce, which comes after its recv
        work = group.send([message], 1, 0)
        group.allreduce([tensor]).wait()
        work.wait()
    elif world.rank == 1:
        message.zero_()
        group.recv([message], 0, 0).wait()
        assert message.cpu().eq(3).all()
        group.allreduce([tensor]).wait()
    else:
        group.allreduce([tensor]).wait()
    assert tensor.cpu().eq(world.size).all()


@case
def many_calls_of_all_kinds(world: World) -> None:
    group = world.group()
    n, me, device = world.size, world.rank, world.device
    order = random.Random(7)  # the same on all ranks
    with accelerator.delay(0.0005):
        for turn in range(60):
            kind, count = order.randrange(5), order.randrange(1, 3000)
            is_async = order.random() < 0.6
            mine = torch.zeros(count, device=device)
            mine.fill_(float(me + turn))
            total = float(sum(rank + turn for rank in range(n)))
            if kind == 0:
                work = group.allreduce([mine], options("Allreduce", asyncOp=is_async))
                got, wanted = mine, torch.full((count,), total)
            elif kind == 1:
                got = torch.zeros(n * count, device=device)
                work = group._allgather_base(got, mine, options("Allgather", asyncOp=is_async))
                wanted = (torch.arange(n).repeat_interleave(count) + turn).float()
            elif kind == 2:
                root = order.randrange(n)
                how = options("Broadcast", rootRank=root, asyncOp=is_async)
                work = group.broadcast([mine], how)
                got, wanted = mine, torch.full((count,), float(root + turn))
            elif kind == 3:
                got = torch.zeros(count, device=device)
                sent = group.send([mine], (me + 1) % n, 0)
                work = group.recv([got], (me - 1) % n, 0)
                sent.wait()
                wanted = torch.full((count,), float((me - 1) % n + turn))
            else:
                got = torch.zeros(n, device=device)
                whole = torch.zeros(n, device=device)
                whole.fill_(float(me + turn))
                work = group.alltoall_base(
                    got, whole, [], [], options("AllToAll", asyncOp=is_async)
                )
                wanted = (torch.arange(n) + turn).float()
            del mine
            if work is not None:
                work.wait()
            got.mul_(2.0)
            same(got, wanted * 2.0)


@case
def a_model_trains_as_alone(world: World) -> None:
    """DistributedDataParallel, and torch.distributed's own functions, on such a group."""
    n, me, device = world.size, world.rank, world.device

    def backend(store: Any, rank: int, size: int, timeout: Any) -> Any:
        seconds = timeout.total_seconds()
        return world.c10d.nccl_group(store, rank, size, seconds, [], f"device {rank}")

    dist.Backend.register_backend("only_nccl", backend, devices=["fake"])
    store = dist.PrefixStore("model", world.store)
    dist.init_process_group("only_nccl", store=store, rank=me, world_size=n)
    try:
        torch.manual_seed(3)
        alone = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        model = copy.deepcopy(alone).to(device)
        shared = torch.nn.parallel.DistributedDataParallel(model, bucket_cap_mb=1)
        data = torch.randn(n, 6, 4)
        for step in range(3):
            alone.zero_grad()
            shared.zero_grad()
            alone(data.reshape(-1, 4) + step).pow(2).mean().backward()
            shared((data[me] + step).to(device)).pow(2).mean().backward()
            with torch.no_grad():
                for one, other in zip(alone.parameters(), model.parameters(), strict=True):
                    torch.testing.assert_close(other.grad.cpu(), one.grad)
                    one -= 0.1 * one.grad
                    other -= 0.1 * other.grad
        got = torch.zeros(3, device=device)
        ops = [
            dist.P2POp(dist.isend, torch.full((3,), float(me), device=device), (me + 1) % n),
            dist.P2POp(dist.irecv, got, (me - 1) % n),
        ]
        for work in dist.batch_isend_irecv(ops):
            work.wait()
        assert got.cpu().eq((me - 1) % n).all()
        first, second = torch.ones(2, device=device), torch.ones(3, device=device)
        with dist._coalescing_manager(device=device):
            dist.all_reduce(first)
            dist.all_reduce(second)
        assert first.cpu().eq(n).all()
        assert second.cpu().eq(n).all()
    finally:
        dist.destroy_process_group()


@case
def a_barrier_holds_the_host(world: World) -> None:
    group = world.group()
    barrier(world, group)
    with accelerator.delay(0.2):
        tensor = torch.zeros(10, device=world.device)
        tensor.fill_(1.0)
        event = torch.Event(world.device)
        event.record()
        assert not event.query()
        barrier(world, group)
        assert event.query()
    began = time.monotonic()
    if world.rank == 0:
        time.sleep(1.0)
    barrier(world, group)
    if world.rank != 0:
        assert time.monotonic() - began > 0.5


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


@case
def captures(world: World) -> None:
    group = world.group()
    tensor = torch.ones(3, device=world.device)
    with accelerator.capturing():
        with pytest.raises(ValueError, match="in a graph capture is the first collective"):
            group.allreduce([tensor])
        with pytest.raises(ValueError, match="in a graph capture: the first message"):
            group.send([tensor], (world.rank + 1) % world.size, 0)
    group.allreduce([tensor]).wait()
    with accelerator.capturing():
        work = group.allreduce([tensor])
        work.wait()
        tensor.add_(1.0)
    assert tensor.cpu().eq(world.size**2 + 1).all()
    assert not work.is_completed()  # nobody may ask
    group.allreduce([tensor]).wait()
    assert tensor.cpu().eq(world.size * (world.size**2 + 1)).all()
