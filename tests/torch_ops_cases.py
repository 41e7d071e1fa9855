"""Cases for what the torch backend moves and adds up: every dtype, every reduce op, uneven sizes.

Every rank can make every rank's input, so that what comes out is compared with what torch computes
alone. All sums are of small integers, hence exact in any order, unless a case says otherwise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import _functional_collectives as functional
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from torch_cases import _TIMEOUT, Case, group  # noqa: F401  (`group` is what stage.py asks for)

CASES: dict[str, Case] = {}

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SIGNED = [torch.int8, torch.int16, torch.int32, torch.int64]
UNSIGNED = [torch.uint8, torch.uint16, torch.uint32, torch.uint64]
COMPLEX = [torch.complex32, torch.complex64, torch.complex128]
FLOAT8 = [
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz),
    *(torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu),
]
EVERY = [*FLOATS, *SIGNED, *UNSIGNED, torch.bool, *COMPLEX, *FLOAT8]
# Those that torch itself only keeps: it neither adds nor, most of them, copies them.
KEPT = [
    torch.float4_e2m1fn_x2,
    *(getattr(torch, f"{kind}{bits}") for kind in ("int", "uint") for bits in range(1, 8)),
    *(torch.bits8, torch.bits16, torch.bits1x8, torch.bits2x4, torch.bits4x2),
]


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def _bytes(tensor: Tensor) -> list[int]:
    packed = tensor.contiguous()  # which may keep odd strides where there is at most one element
    return packed.as_strided((packed.numel(),), (1,)).view(torch.uint8).tolist()


def same(got: Tensor | Iterable[Tensor], wanted: Tensor | Iterable[Tensor]) -> None:
    """The same bits, in the same shape."""
    pairs = [(got, wanted)] if isinstance(got, Tensor) else zip(got, wanted, strict=True)
    for one, other in pairs:
        assert isinstance(one, Tensor)
        assert isinstance(other, Tensor)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert _bytes(one) == _bytes(other), (one, other)


def noise(dtype: torch.dtype, *shape: int, seed: int) -> Tensor:
    """Any bits, among them NaNs; of bool, only those that are one."""
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    count = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
    bits = torch.randint(0, 256, (count,), generator=generator, dtype=torch.uint8)
    return bits.view(dtype).reshape(shape)


def small(dtype: torch.dtype, *shape: int, seed: int, least: int = -4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    least = 0 if dtype in UNSIGNED else least
    return torch.randint(least, 5, shape, generator=generator).to(dtype)


def strided(tensor: Tensor) -> Tensor:
    """The same elements in memory with holes."""
    holes = torch.zeros(*tensor.shape, 2, dtype=tensor.dtype)[..., 1]
    holes.copy_(tensor)
    assert tensor.numel() < 2 or not holes.is_contiguous()
    return holes


@case
def every_dtype_takes_every_way(pg: Any) -> None:
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    for dtype in [*EVERY, *KEPT]:
        of = [noise(dtype, 3, 5, seed=r) for r in range(n)]
        x = noise(dtype, 3, 5, seed=0) if rank == 0 else torch.empty(3, 5, dtype=dtype)
        dist.broadcast(x, 0, group=pg)
        same(x, of[0])
        outs = [torch.empty(3, 5, dtype=dtype) for _ in range(n)]
        dist.all_gather(outs, of[rank], group=pg)
        same(outs, of)
        flat = torch.empty(3 * n, 5, dtype=dtype)
        dist.all_gather_into_tensor(flat, of[rank], group=pg)
        same(flat.split(3), of)
        outs = [torch.empty(3, 5, dtype=dtype) for _ in range(n)]
        dist.gather(of[rank], outs if rank == n - 1 else None, n - 1, group=pg)
        same(outs, of if rank == n - 1 else outs)
        dist.scatter(x, of if rank == 0 else None, 0, group=pg)
        same(x, of[rank])
        blocks = [noise(dtype, n, 4, seed=100 + r) for r in range(n)]
        into = torch.empty(n, 4, dtype=dtype)
        dist.all_to_all_single(into, blocks[rank], group=pg)
        same(into.split(1), [block[rank : rank + 1] for block in blocks])
        send = dist.isend(of[rank], (rank + 1) % n, group=pg)
        dist.recv(x, (rank - 1) % n, group=pg)
        assert send is not None
        send.wait()
        same(x, of[rank - 1])


@case
def types_without_arithmetic(pg: Any) -> None:
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    for dtype in KEPT:
        of = [noise(dtype, 3, 5, seed=r) for r in range(n)]
        outs = [torch.empty(5, 3, dtype=dtype).t() for _ in range(n)]
        dist.all_gather(outs, noise(dtype, 5, 3, seed=rank).t(), group=pg)
        for out, r in zip(outs, range(n), strict=True):
            assert _bytes(out.t()) == _bytes(noise(dtype, 5, 3, seed=r))
        with pytest.raises(ValueError, match="are moved but never reduced"):
            dist.all_reduce(of[rank], group=pg)


@case
def uneven_lists(pg: Any) -> None:
    """Blocks whose shapes, sizes and layouts differ from rank to rank; some are empty."""
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    shapes = [(r, 3) if r % 2 else (2, r * 50_000) for r in range(n)]
    of = [small(torch.float32, *shape, seed=r) for r, shape in enumerate(shapes)]
    for layout in (Tensor.clone, strided):
        outs = [layout(torch.zeros_like(x)) for x in of]
        dist.all_gather(outs, layout(of[rank]), group=pg)
        same(outs, of)
        out = layout(torch.zeros_like(of[rank]))
        dist.reduce_scatter(out, [layout((rank + 1) * x) for x in of], group=pg)
        same(out, of[rank] * sum(range(1, n + 1)))
        # Rank r sends r + s elements to rank s; none to itself.
        ins = [
            small(torch.int64, 0 if s == rank else rank + s, seed=10 * rank + s) for s in range(n)
        ]
        wanted = [
            small(torch.int64, 0 if r == rank else r + rank, seed=10 * r + rank) for r in range(n)
        ]
        outs = [layout(torch.zeros_like(x)) for x in wanted]
        dist.all_to_all(outs, [layout(x) for x in ins], group=pg)
        same(outs, wanted)


@case
def split_sizes(pg: Any) -> None:
    rank, n = dist.get_rank(), dist.get_world_size(pg)

    def rows(sender: int, receiver: int) -> int:
        return (sender * 3 + receiver * 2) % 4 * (1 if receiver else 7_000)

    def block(sender: int, receiver: int) -> Tensor:
        return small(torch.float16, rows(sender, receiver), 6, seed=10 * sender + receiver)

    ins = [block(rank, s) for s in range(n)]
    outs = [block(r, rank) for r in range(n)]
    wanted = torch.cat(outs)
    for layout in (Tensor.clone, strided):
        into = layout(torch.zeros_like(wanted))
        dist.all_to_all_single(
            into, layout(torch.cat(ins)), [len(x) for x in outs], [len(x) for x in ins], group=pg
        )
        same(into, wanted)


@case
def from_any_source(pg: Any) -> None:
    """Everybody sends to rank 0, by several tags; one receive does not say from whom."""
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    if rank > 0:
        works = [
            dist.isend(torch.tensor([rank, tag, i]), 0, group=pg, tag=tag)
            for i in range(5)
            for tag in (7, 2)
        ]
        for work in works:
            assert work is not None
            work.wait()
        return
    for tag in (2, 7):
        seen: dict[int, list[int]] = {r: [] for r in range(1, n)}
        for _ in range(5 * (n - 1)):
            x = torch.empty(3, dtype=torch.int64)
            source = dist.recv(x, None, group=pg, tag=tag)
            assert (source, tag) == (x[0].item(), x[1].item())
            seen[source].append(int(x[2]))
        assert seen == {r: list(range(5)) for r in range(1, n)}


def _reduced(op: Any, of: list[Tensor]) -> Tensor:
    """What the reduction of these tensors is, by torch's own arithmetic in a wider type."""
    dtype = of[0].dtype
    wide = torch.float64 if dtype.is_floating_point else torch.int64
    wide = torch.complex128 if dtype.is_complex else wide
    x = torch.stack([one.to(wide) for one in of])
    if op == dist.ReduceOp.SUM:
        return (x != 0).any(0) if dtype is torch.bool else x.sum(0).to(dtype)
    if op == dist.ReduceOp.AVG:
        total = x.sum(0)
        if dtype.is_floating_point or dtype.is_complex:
            return (total / len(of)).to(dtype)
        return total.div(len(of), rounding_mode="trunc").to(dtype)
    if op == dist.ReduceOp.PRODUCT:
        return x.prod(0).to(dtype)
    if op == dist.ReduceOp.MIN:
        return x.amin(0).to(dtype)
    if op == dist.ReduceOp.MAX:
        return x.amax(0).to(dtype)
    bits = {
        dist.ReduceOp.BAND: torch.bitwise_and,
        dist.ReduceOp.BOR: torch.bitwise_or,
        dist.ReduceOp.BXOR: torch.bitwise_xor,
    }[op]
    result = x[0]
    for one in x[1:]:
        result = bits(result, one)
    return result.to(dtype)


_SUMS = [dist.ReduceOp.SUM, dist.ReduceOp.AVG]
_ORDERS = [dist.ReduceOp.PRODUCT, dist.ReduceOp.MIN, dist.ReduceOp.MAX]
_BITS = [dist.ReduceOp.BAND, dist.ReduceOp.BOR, dist.ReduceOp.BXOR]


def _meaningful(dtype: torch.dtype) -> list[Any]:
    if dtype in FLOATS:
        return [*_SUMS, *_ORDERS]
    if dtype in FLOAT8:
        return []
    if dtype is torch.bool:
        return [dist.ReduceOp.SUM, *_ORDERS, *_BITS]
    return _SUMS if dtype.is_complex else [*_SUMS, *_ORDERS, *_BITS]


@case
def every_reduce_op_where_it_has_a_meaning(pg: Any) -> None:
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    for dtype in EVERY:
        for op in (*_SUMS, *_ORDERS, *_BITS):
            of = [small(dtype, n, 7, seed=r) for r in range(n)]
            x = of[rank].clone()
            if op not in _meaningful(dtype):
                with pytest.raises(ValueError, match=r"has no meaning|never reduced|not support"):
                    dist.all_reduce(x, op, group=pg)
                continue
            wanted = _reduced(op, of)
            dist.all_reduce(x, op, group=pg)
            if op == dist.ReduceOp.AVG and (dtype.is_floating_point or dtype.is_complex):
                torch.testing.assert_close(x, wanted)  # n may not be a power of two
                wanted = x
            same(x, wanted)
            x = of[rank].clone()
            dist.reduce(x, n - 1, op, group=pg)
            same(x, wanted if rank == n - 1 else of[rank])
            own = torch.empty_like(x[0])
            dist.reduce_scatter_tensor(own, of[rank].flatten(), op, group=pg)
            same(own, wanted[rank])


@case
def factors_as_fsdp_gives_them(pg: Any) -> None:
    """PREMUL_SUM with a float, and with a tensor of one element."""
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    for dtype in FLOATS:
        of = [small(dtype, n, 5, seed=r) for r in range(n)]
        total = torch.stack(of).double().sum(0)
        for factor in (0.25, torch.tensor([0.25], dtype=dtype), torch.tensor(0.25)):
            op = dist._make_nccl_premul_sum(factor)
            x = of[rank].clone()
            dist.all_reduce(x, op, group=pg)
            same(x, (total / 4).to(dtype))
            own = torch.empty_like(x[0])
            dist.reduce_scatter_tensor(own, of[rank].flatten(), op, group=pg)
            same(own, (total / 4).to(dtype)[rank])
    with pytest.raises(ValueError, match="PREMUL_SUM of int64 has no meaning"):
        dist.all_reduce(torch.ones(2).long(), dist._make_nccl_premul_sum(0.5), group=pg)
    x = torch.complex(torch.full((4,), rank + 1.0), torch.ones(4))
    dist.all_reduce(x, dist._make_nccl_premul_sum(0.5), group=pg)
    same(x, torch.complex(torch.full((4,), n * (n + 1) / 4), torch.full((4,), n / 2)))


@case
def objects_of_all_kinds(pg: Any) -> None:
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    gathered: list[Any] = [None] * n
    dist.gather_object(("from", rank), gathered if rank == 0 else None, 0, group=pg)
    assert gathered == ([("from", r) for r in range(n)] if rank == 0 else [None] * n)
    got: list[Any] = [None]
    dist.scatter_object_list(got, [{"to": r} for r in range(n)] if rank == 0 else None, 0, group=pg)
    assert got == [{"to": rank}]
    if n > 1 and rank < 2:
        told: list[Any] = ["word" * 1000, 5] if rank == 0 else [None, None]
        (dist.send_object_list if rank == 0 else dist.recv_object_list)(told, 1 - rank, group=pg)
        assert told == ["word" * 1000, 5]


@case
def a_coalescing_manager(pg: Any) -> None:
    """As torch makes its calls of it, and with a device, which takes any operation."""
    coalescing = dist.distributed_c10d._coalescing_manager
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    sizes = [3, 1, 40_000, 0, 7]
    of = [[small(torch.float32, size * n, seed=10 * r + size) for size in sizes] for r in range(n)]
    totals = [torch.stack(xs).sum(0) for xs in zip(*of, strict=True)]
    for background in (False, True):
        xs = [x.clone() for x in of[rank]]
        with coalescing(pg, async_ops=background) as region:
            for x in xs:
                dist.all_reduce(x, group=pg)
        region.wait()
        same(xs, totals)
        outs = [torch.empty(n, size * n) for size in sizes]
        with coalescing(pg, async_ops=background) as region:
            for out, x in zip(outs, of[rank], strict=True):
                dist.all_gather_into_tensor(out, x, group=pg)
        region.wait()
        same(outs, [torch.stack(xs) for xs in zip(*of, strict=True)])
        outs = [torch.empty(size) for size in sizes]
        with coalescing(pg, async_ops=background) as region:
            for out, x in zip(outs, of[rank], strict=True):
                dist.reduce_scatter_tensor(out, x, group=pg)
        region.wait()
        same(outs, [total.chunk(n)[rank] if len(total) else total for total in totals])

    after, before = (rank + 1) % n, (rank - 1) % n
    xs = [torch.full((4,), float(rank)) for _ in range(2)]
    into = torch.empty(n)
    got = torch.empty(5)
    with coalescing(pg, torch.device("cpu"), async_ops=True) as region:
        dist.broadcast(xs[0], n - 1, group=pg, async_op=True)
        dist.irecv(got, before, group=pg)
        dist.all_to_all_single(into, torch.arange(n) + 10.0 * rank, group=pg, async_op=True)
        dist.isend(torch.full((5,), float(rank)), after, group=pg)
        dist.broadcast(xs[1], 0, group=pg)
    region.wait()
    assert len(region.works) == 1
    assert region.works[0].is_completed()
    same(xs, [torch.full((4,), n - 1.0), torch.zeros(4)])
    same(got, torch.full((5,), float(before)))
    same(into, 10.0 * torch.arange(n) + rank)


@case
def coalesced_forms(pg: Any) -> None:
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    dtypes = [torch.float32, torch.int64, torch.bfloat16]
    of = [[small(dtype, 2, 3, seed=r) for dtype in dtypes] for r in range(n)]
    xs = [strided(x) for x in of[rank]]
    pg.allreduce_coalesced(xs).wait()
    same(xs, [torch.stack(one).sum(0) for one in zip(*of, strict=True)])
    lists = [[torch.empty(2, 3, dtype=dtype) for dtype in dtypes] for _ in range(n)]
    pg.allgather_coalesced(lists, of[rank]).wait()
    for got, wanted in zip(lists, of, strict=True):
        same(got, wanted)
    with pytest.raises(ValueError, match=f"give one for each of the {n} ranks"):
        pg.allgather_coalesced([lists[0]] * (n + 1), of[rank])
    with pytest.raises(ValueError, match="give one output for each input"):
        pg.allgather_coalesced([lists[0][:1]] * n, of[rank])
    work = pg.allgather_into_tensor_coalesced(
        outs := [torch.empty(2 * n, 3, dtype=dtype) for dtype in dtypes], of[rank]
    )
    work.get_future().wait()
    same(outs, [torch.cat(one) for one in zip(*of, strict=True)])
    parts = [torch.empty(2, 3, dtype=dtype) for dtype in dtypes]
    pg.reduce_scatter_tensor_coalesced(parts, [x.repeat(n, 1) for x in of[rank]]).wait()
    same(parts, [torch.stack(one).sum(0) for one in zip(*of, strict=True)])


@case
def functional_collectives(pg: Any) -> None:
    """What DTensor and compiled programs call: a result is waited for when it is first used."""
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    of = [small(torch.float32, n, 4, seed=r) for r in range(n)]
    total = torch.stack(of).sum(0)
    same(functional.wait_tensor(functional.all_reduce(of[rank], "sum", pg)), total)
    averaged = functional.wait_tensor(functional.all_reduce(of[rank].long(), "avg", pg))
    same(averaged, total.long().div(n, rounding_mode="trunc"))
    gathered = functional.all_gather_tensor(of[rank], 0, pg)
    same(functional.wait_tensor(gathered), torch.cat(of))
    scattered = functional.reduce_scatter_tensor(of[rank], "sum", 0, pg)
    same(functional.wait_tensor(scattered), total[rank : rank + 1])
    same(functional.wait_tensor(functional.broadcast(of[rank], n - 1, pg)), of[n - 1])
    exchanged = functional.all_to_all_single(of[rank], None, None, pg)
    same(functional.wait_tensor(exchanged), torch.stack([x[rank] for x in of]))
    two = functional.all_reduce_coalesced([of[rank], 2 * of[rank]], "sum", pg)
    same([functional.wait_tensor(x) for x in two], [total, 2 * total])
    two = functional.all_gather_into_tensor_coalesced([of[rank], 2 * of[rank]], pg)
    same([functional.wait_tensor(x) for x in two], [torch.cat(of), 2 * torch.cat(of)])
    two = functional.reduce_scatter_tensor_coalesced([of[rank]] * 2, "sum", [0, 0], pg)
    same([functional.wait_tensor(x) for x in two], [total[rank : rank + 1]] * 2)


@case
def batches_of_messages(pg: Any) -> None:
    """Everybody to everybody, big and small, in an order of everybody's own."""
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    sizes = [1, 300_000, 17]

    def message(sender: int, receiver: int, i: int) -> Tensor:
        return small(torch.float32, sizes[i], seed=100 * sender + 10 * receiver + i)

    ops, wanted = [], []
    for i in range(len(sizes)):
        for peer in sorted(range(n), key=lambda r: (r * 7 + rank * 3 + i) % n):
            if peer == rank:
                continue
            ops.append(dist.P2POp(dist.isend, message(rank, peer, i), peer, pg, tag=i))
            into = torch.empty(sizes[i])
            wanted.append((into, message(peer, rank, i)))
            ops.insert(0, dist.P2POp(dist.irecv, into, peer, pg, tag=i))
    if not ops:
        return
    works = dist.batch_isend_irecv(ops)
    assert len(works) == len(ops)  # each can be waited for by itself
    for work in works:
        work.wait()
    for into, expected in wanted:
        same(into, expected)


def sparse(
    dtype: torch.dtype, sizes: tuple[int, ...], sparse_dims: int, stored: int, seed: int
) -> Tensor:
    """Not coalesced: some elements may be stored more than once."""
    generator = torch.Generator().manual_seed(seed)
    indices = [
        torch.randint(0, size, (stored,), generator=generator) for size in sizes[:sparse_dims]
    ]
    values = small(dtype, stored, *sizes[sparse_dims:], seed=seed)
    return torch.sparse_coo_tensor(
        torch.stack(indices), values, sizes, check_invariants=True, is_coalesced=False
    )


@case
def sparse_sums(pg: Any) -> None:
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    for dtype in (*FLOATS, torch.int64, torch.int8, torch.complex64):
        for sizes, dims in (((50,), 1), ((6, 7), 2), ((9, 4, 3), 1), ((3, 4, 2, 5), 2)):
            for background in (False, True):
                # Rank 0 stores nothing.
                of = [sparse(dtype, sizes, dims, stored=5 * r, seed=r) for r in range(n)]
                x = of[rank].clone()
                if dtype.is_complex:  # of which dist.all_reduce makes another tensor
                    work = pg.allreduce([x])
                else:
                    work = dist.all_reduce(x, group=pg, async_op=background)
                after = torch.ones(3)
                dist.all_reduce(after, group=pg)  # behind it, in any case
                assert after[0].item() == n
                if work is not None:
                    work.wait()
                wide = torch.complex128 if dtype.is_complex else torch.float64
                total = torch.stack([one.to(wide).to_dense() for one in of]).sum(0).to(dtype)
                same(x.to_dense(), total)
                assert x.is_coalesced()
                assert (x.sparse_dim(), x.shape) == (dims, torch.Size(sizes))
                places = {tuple(place) for one in of for place in one._indices().t().tolist()}
                assert {tuple(place) for place in x.indices().t().tolist()} == places


@case
def sparse_sums_of_two_groups(pg: Any) -> None:
    """Begun in another order on every second rank: each is a queue of its own."""
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    groups = [dist.new_group(list(range(n)), timeout=_TIMEOUT) for _ in range(2)]
    xs = [torch.eye(n).to_sparse_coo() for _ in groups]
    works = []
    for i in (0, 1) if rank % 2 else (1, 0):
        works.append(dist.all_reduce(xs[i], group=groups[i], async_op=True))
    for work in works:
        assert work is not None
        work.wait()
    same([x.to_dense() for x in xs], [n * torch.eye(n)] * 2)
    for one in groups:
        dist.destroy_process_group(one)


@case
def sparse_sums_add_up_as_dense_ones(pg: Any) -> None:
    """With numbers that are rounded: rank order, half precision rounded once."""
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    for dtype in FLOATS:
        of = [
            torch.randn(20, 30, generator=torch.Generator().manual_seed(r)).relu().to(dtype)
            for r in range(n)
        ]
        x = of[rank].to_sparse_coo()
        dist.all_reduce(x, group=pg)
        total = torch.zeros(20, 30, dtype=torch.promote_types(dtype, torch.float32))
        for one in of:
            total += one
        same(x.to_dense(), total.to(dtype))


@case
def sparse_sums_as_gloo_does_them(pg: Any) -> None:
    other = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    rank = dist.get_rank()
    mine = sparse(torch.float32, (8, 5, 3), 2, stored=3 * rank + 1, seed=rank)
    theirs = mine.clone()
    dist.all_reduce(mine, group=pg)
    dist.all_reduce(theirs, group=other)
    same(mine.indices(), theirs.indices())
    same(mine.values(), theirs.values())
    assert mine.is_coalesced() == theirs.is_coalesced()
    dist.destroy_process_group(other)


@case
def sparse_gradients_in_ddp(pg: Any) -> None:
    other = dist.new_group(backend="gloo", timeout=_TIMEOUT)

    def trained(process_group: Any) -> list[Tensor]:
        torch.manual_seed(0)
        model = DistributedDataParallel(
            nn.Sequential(nn.Embedding(30, 4, sparse=True), nn.Linear(4, 2)),
            process_group=process_group,
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        torch.manual_seed(dist.get_rank() + 1)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randint(0, 30, (6,))).square().sum().backward()
            optimizer.step()
        return [parameter.detach() for parameter in model.parameters()]

    for a, b in zip(trained(pg), trained(other), strict=True):
        torch.testing.assert_close(a, b)
    dist.destroy_process_group(other)


@case
def sparse_requests_that_have_no_meaning(pg: Any) -> None:
    x = torch.eye(4).to_sparse_coo()
    with pytest.raises(ValueError, match="sparse tensors only works with SUM"):
        dist.all_reduce(x, dist.ReduceOp.MAX, group=pg)
    with pytest.raises((ValueError, NotImplementedError), match=r"[sS]parse"):
        dist.broadcast(x, 0, group=pg)  # torch itself refuses, if it does not know the layout
    with pytest.raises((ValueError, NotImplementedError), match=r"[sS]parse"):
        dist.all_reduce(torch.eye(4).to_sparse_csr(), group=pg)
    dist.barrier(group=pg)  # none of these did any harm


@case
def sparse_tensors_that_differ(pg: Any) -> None:
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    if n == 1:
        return
    x = torch.zeros(4, 5 if rank == n - 1 else 6).to_sparse_coo()
    with pytest.raises((ValueError, dist.DistBackendError), match="ranks disagree") as caught:
        dist.all_reduce(x, group=pg)
    assert "[4, 5]" in str(caught.value)
    assert "[4, 6]" in str(caught.value)


@case
def layouts_of_every_operation(pg: Any) -> None:
    """Inputs and outputs in memory with holes, which nobody writes to."""
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    of = [small(torch.float32, n, 6, seed=r) for r in range(n)]
    total = torch.stack(of).sum(0)
    checks: list[tuple[Callable[[Tensor, Tensor], Any], Tensor, Tensor]] = [
        (lambda x, out: dist.all_reduce(out.copy_(x), group=pg), of[rank], total),
        (lambda x, out: dist.broadcast(out.copy_(x), n - 1, group=pg), of[rank], of[n - 1]),
        (
            lambda x, out: dist.all_gather_into_tensor(out, x, group=pg),
            of[rank],
            torch.cat(of),
        ),
        (
            lambda x, out: dist.reduce_scatter_tensor(out, x, group=pg),
            of[rank],
            total[rank : rank + 1],
        ),
        (
            lambda x, out: dist.all_to_all_single(out, x, group=pg),
            of[rank],
            torch.stack([x[rank] for x in of]),
        ),
    ]
    for call, x, wanted in checks:
        base = torch.full((*wanted.shape, 2), 5.0)
        call(strided(x), base[..., 0])
        same(base[..., 0], wanted)
        assert bool((base[..., 1] == 5.0).all())


@case
def fsdp2_trains_as_one_process(pg: Any) -> None:
    """By AVG, and by PREMUL_SUM when the program chooses what to divide by."""
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    mesh = DeviceMesh.from_group(pg, "cpu")
    batches = [torch.randn(4, 10, generator=torch.Generator().manual_seed(r)) for r in range(n)]
    for factor in (None, 8.0):
        torch.manual_seed(0)
        whole = nn.Sequential(nn.Linear(10, 33), nn.ReLU(), nn.Linear(33, 5))
        sharded = copy.deepcopy(whole)
        for layer in (sharded[0], sharded[2]):
            module = fully_shard(layer, mesh=mesh)
            if factor is not None:
                module.set_gradient_divide_factor(factor)
        fully_shard(sharded, mesh=mesh)
        for _ in range(3):
            sum(whole(x).square().mean() for x in batches).div(factor or n).backward()
            sharded(batches[rank]).square().mean().backward()
            with torch.no_grad():
                for model in (whole, sharded):
                    for parameter in model.parameters():
                        parameter -= 0.1 * parameter.grad
                        parameter.grad = None
        for one, part in zip(whole.parameters(), sharded.parameters(), strict=True):
            torch.testing.assert_close(part.full_tensor(), one)
