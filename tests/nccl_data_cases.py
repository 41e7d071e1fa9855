"""Cases for NCCL on the test accelerator: what every collective makes of every kind of data.

Every rank can make every rank's input, so that what comes out is compared with what torch computes
alone on the CPU. Sums are of small integers, hence exact in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nccl_world import Case, World, inputs_of, options, same, small

CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTEGERS = [torch.int8, torch.uint8, torch.int32, torch.int64]
MOVED = [*FLOATS, *INTEGERS, torch.int16, torch.bool, torch.complex64, torch.float8_e4m3fn]
SUM, AVG, PRODUCT, MIN, MAX, BAND, BOR = (
    getattr(dist.ReduceOp, name) for name in ("SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR")
)


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
