"""Cases for the torch backend's groups: made, split, shrunk, aborted, watched; in any world."""

from __future__ import annotations

import itertools
import random
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from torch_cases import _TIMEOUT, Case, _ones, group  # noqa: F401  (`group` is for stage.py)

CASES: dict[str, Case] = {}
CPU = torch.device("cpu")
c10d = dist.distributed_c10d
SHORT = timedelta(seconds=0.5)


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def works(pg: Any) -> None:
    """The ranks of a group can add up, whoever they are."""
    ranks = dist.get_process_group_ranks(pg)
    x = torch.full((1000,), 2.0 ** dist.get_rank())
    dist.all_reduce(x, group=pg)
    assert torch.equal(x, torch.full((1000,), float(sum(2**rank for rank in ranks))))
    assert pg.rank() == dist.get_rank(pg) == ranks.index(dist.get_rank())
    assert pg.size() == len(ranks)


@case
def groups_that_overlap_run_side_by_side(pg: Any) -> None:
    """Every rank begins the works of its groups in an order of its own, and waits in another."""
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    members = [
        list(ranks) for k in range(1, n + 1) for ranks in itertools.combinations(range(n), k)
    ]
    groups = [(ranks, dist.new_group(ranks, timeout=_TIMEOUT)) for ranks in members]
    mine = [(ranks, sub) for ranks, sub in groups if rank in ranks]
    chosen = random.Random(rank)
    begun: list[tuple[Tensor, int, Any]] = []
    for i in range(5):
        chosen.shuffle(mine)
        for ranks, sub in mine:
            x = torch.full((10 ** (i + 1),), 2.0**rank)
            work = dist.all_reduce(x, group=sub, async_op=True)
            begun.append((x, sum(2**member for member in ranks), work))
    chosen.shuffle(begun)
    for x, expected, work in begun:
        work.wait()
        assert bool((x == expected).all())
    for _, sub in mine:
        dist.destroy_process_group(sub)


@case
def only_members_make_a_group(pg: Any) -> None:
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    if rank == n - 1 and n > 1:
        return  # takes no part, and nobody waits for it
    ranks = list(range(max(1, n - 1)))
    sub = dist.new_group(ranks, timeout=_TIMEOUT, use_local_synchronization=True)
    works(sub)
    dist.destroy_process_group(sub)


@case
def groups_are_split(pg: Any) -> None:
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    halves = [list(range(0, n, 2)), list(range(1, n, 2))][: min(n, 2)]
    half = dist.split_group(pg, halves, group_desc="half")
    assert half is not None
    assert dist.get_process_group_ranks(half) == halves[rank % 2]
    assert half.group_desc == "half"
    works(half)
    again = dist.split_group(pg, halves, timeout=_TIMEOUT)
    works(again)
    # Of a split, by ranks of its own, not of the world.
    alone = dist.split_group(half, [[0]])
    assert (alone is None) == (dist.get_rank(half) != 0)
    if alone is not None:
        works(alone)
        dist.destroy_process_group(alone)
    with pytest.raises(ValueError, match="not a set of ranks of the parent group"):
        dist.split_group(pg, [[0, n]])
    with pytest.raises(ValueError, match="split_ranks is empty"):
        dist.split_group(pg, [])
    for sub in (half, again):
        dist.destroy_process_group(sub)
    works(pg)


@case
def subgroups_of_one_size(pg: Any) -> None:
    n = dist.get_world_size(pg)
    size = 2 if n % 2 == 0 else 1
    own, all_of_them = dist.new_subgroups(size, timeout=_TIMEOUT)
    assert len(all_of_them) == n // size
    works(own)
    dist.destroy_process_group(own)


@case
def groups_are_merged(pg: Any) -> None:
    """What split_group took apart, each side knowing only its own ranks."""
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    if n == 1:
        return
    part = dist.split_group(pg, [[0], list(range(1, n))])
    assert part is not None
    name = c10d._world.pg_names[pg]
    store = dist.PrefixStore(f"merge {name}/", c10d._get_default_store())
    whole = part.merge_remote_group(store, n, timeout=_TIMEOUT, group_name=f"{name}:whole")
    assert whole.size() == n
    x = torch.full((9,), 2.0**rank)
    whole.allreduce([x]).wait()
    assert x[0].item() == 2.0**n - 1
    whole.shutdown()
    dist.destroy_process_group(part)


@case
def groups_shrink(pg: Any) -> None:
    """Without asking the rank that is left out, and although the group was given up."""
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    if n == 1:
        return
    for flags in (c10d.SHRINK_DEFAULT, c10d.SHRINK_ABORT):
        sub = dist.new_group(list(range(n)), timeout=_TIMEOUT)
        works(sub)
        stuck = None
        if flags == c10d.SHRINK_ABORT and rank < n - 1:
            stuck = dist.barrier(group=sub, async_op=True)
        dist.barrier(group=pg)
        if rank == n - 1:
            continue
        smaller = dist.shrink_group([n - 1], group=sub, shrink_flags=flags)
        if stuck is not None:
            with pytest.raises(dist.DistBackendError, match="aborted"):
                stuck.wait()
        assert dist.get_process_group_ranks(smaller) == list(range(n - 1))
        works(smaller)
        assert smaller.name() == "custom"  # and not "gloo", whose insides DDP would look at
        model = DistributedDataParallel(torch.nn.Linear(2, 1), process_group=smaller)
        model(_ones(1, 2)).sum().backward()
        assert model.module.weight.grad is not None
        mean = sum(range(1, n)) / (n - 1)
        assert torch.allclose(model.module.weight.grad, torch.full((1, 2), mean))
        dist.destroy_process_group(smaller)
    works(pg)


@case
def an_aborted_group_takes_no_other_with_it(pg: Any) -> None:
    n = dist.get_world_size(pg)
    sub = dist.new_group(list(range(n)), timeout=_TIMEOUT)
    works(sub)
    dist.barrier(group=pg)  # all are through
    if dist.get_rank() == 0:
        sub.abort()

    def go_on() -> None:
        for _ in range(10_000):  # until the word has come
            dist.all_reduce(_ones(1), group=sub)

    with pytest.raises(dist.DistBackendError, match="the process group was aborted"):
        go_on()
    works(pg)
    dist.destroy_process_group(sub)


@case
def a_group_that_was_shut_down(pg: Any) -> None:
    sub = dist.new_group(timeout=_TIMEOUT)
    works(sub)
    backend = sub._get_backend(CPU)
    dist.destroy_process_group(sub)
    with pytest.raises(dist.DistBackendError, match="was shut down"):
        sub.allreduce([_ones(1)])
    with pytest.raises(dist.DistBackendError, match="was shut down"):
        backend._get_sequence_number_for_group()
    with pytest.raises(dist.DistBackendError, match="was shut down"):
        backend.set_timeout(SHORT)


@case
def timeouts_that_change(pg: Any) -> None:
    n = dist.get_world_size(pg)
    sub = dist.new_group(list(range(n)), timeout=_TIMEOUT)
    works(sub)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        c10d._set_pg_timeout(SHORT, sub)
    if dist.get_rank() == 0 and n > 1:
        began = time.monotonic()
        with pytest.raises(dist.DistBackendError, match="timed out waiting for"):
            dist.barrier(group=sub)
        assert time.monotonic() - began < _TIMEOUT.total_seconds() / 2
    dist.barrier(group=pg)
    dist.destroy_process_group(sub)


@case
def sequence_numbers(pg: Any) -> None:
    """Equal on all ranks, one more for each collective, none for a message."""
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    backend = pg._get_backend(CPU)
    backend._set_sequence_number_for_group()
    first = backend._get_sequence_number_for_group()
    dist.all_reduce(_ones(1), group=pg)
    send = dist.isend(_ones(1), (rank + 1) % n, group=pg)
    dist.recv(_ones(1), (rank - 1) % n, group=pg)
    assert send is not None
    send.wait()
    dist.barrier(group=pg)
    assert backend._get_sequence_number_for_group() == first + 2
    numbers: list[Any] = [None] * n
    dist.all_gather_object(numbers, backend._get_sequence_number_for_group(), group=pg)
    assert len(set(numbers)) == 1


@contextmanager
def watched() -> Iterator[None]:
    """As with TORCH_DISTRIBUTED_DEBUG=DETAIL, for groups that are made now."""
    before = dist.get_debug_level()
    dist.set_debug_level(dist.DebugLevel.DETAIL)
    try:
        yield
    finally:
        dist.set_debug_level(before)


@case
def debug_level_detail(pg: Any) -> None:
    """torch checks every call by a group of gloo of its own, before it comes to this backend."""
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    with watched():
        sub = dist.new_group(list(range(n)), timeout=_TIMEOUT)
        assert type(sub._get_backend(CPU)).__name__ == "_ProcessGroupWrapper"
        works(sub)
        outs = [torch.empty(2) for _ in range(n)]
        dist.all_gather(outs, _ones(2), group=sub)
        assert [out[0].item() for out in outs] == list(range(1, n + 1))
        own = torch.empty(2)
        dist.reduce_scatter_tensor(own, torch.ones(2 * n), group=sub)
        assert own.tolist() == [n, n]
        dist.all_to_all_single(torch.empty(n), torch.ones(n), group=sub)
        send = dist.isend(_ones(1), (rank + 1) % n, group=sub)
        dist.recv(_ones(1), (rank - 1) % n, group=sub)
        assert send is not None
        send.wait()
        dist.monitored_barrier(sub, _TIMEOUT)
        c10d._set_pg_timeout(SHORT, sub)
        if n > 1:
            with pytest.raises(RuntimeError, match=r"mismatch|ranks disagree"):
                dist.all_reduce(_ones(12 if rank == n - 1 else 16), group=sub)
        dist.destroy_process_group(sub)


@case
def device_maps(pg: Any) -> None:
    """One backend for each kind of memory; where there is no GPU, gloo stands for nccl."""
    n = dist.get_world_size(pg)
    for backend in ("cpu:quoit", "cpu:quoit,cuda:gloo"):
        sub = dist.new_group(list(range(n)), timeout=_TIMEOUT, backend=backend)
        assert sub._get_backend(CPU).name() == "quoit"
        works(sub)
        dist.barrier(group=sub)
        dist.monitored_barrier(sub, _TIMEOUT)
        objects: list[Any] = [None] * n
        dist.all_gather_object(objects, dist.get_rank(), group=sub)
        assert objects == list(range(n))
        dist.destroy_process_group(sub)


@case
def monitored_barriers(pg: Any) -> None:
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    for wait_all in (False, True):
        for _ in range(20):
            dist.monitored_barrier(pg, wait_all_ranks=wait_all)
    # Nobody leaves before everybody has come.
    came: list[Any] = [None] * n
    if rank == n - 1:
        time.sleep(0.2)
    mine = time.time()
    dist.monitored_barrier(pg, _TIMEOUT)
    left = time.time()
    dist.all_gather_object(came, mine, group=pg)
    assert left >= max(came)


@case
def a_rank_misses_a_monitored_barrier(pg: Any) -> None:
    """Rank 0 says who; the others hear it; the rank that is late too; and the group goes on."""
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    if n == 1:
        return
    began = time.monotonic()
    if rank == n - 1:
        dist.barrier()  # of the world: until the others are through
    else:
        with pytest.raises(RuntimeError) as caught:
            dist.monitored_barrier(pg, SHORT)
        said = str(caught.value)
        assert f"Rank {n - 1} failed to pass monitoredBarrier in 500 ms" in said
        if rank > 0:
            assert f"Rank {rank} successfully reached monitoredBarrier, but received" in said
        assert 0.4 < time.monotonic() - began < 10
        dist.barrier()
    if rank == n - 1:
        with pytest.raises(RuntimeError, match=f"Rank {rank} failed to pass monitoredBarrier"):
            dist.monitored_barrier(pg, _TIMEOUT)
        assert time.monotonic() - began < 10
    dist.monitored_barrier(pg, _TIMEOUT)
    works(pg)


@case
def all_ranks_that_miss_a_monitored_barrier(pg: Any) -> None:
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    if n == 1:
        return
    if rank == 0:
        missing = ", ".join(map(str, range(1, n)))
        words = f"Ranks? {missing} failed to pass monitoredBarrier in 500 ms"
        with pytest.raises(RuntimeError, match=words):
            dist.monitored_barrier(pg, SHORT, wait_all_ranks=True)
        if n > 2:
            with pytest.raises(RuntimeError, match="Rank 1 failed to pass monitoredBarrier"):
                dist.monitored_barrier(pg, SHORT)
    dist.barrier()
    works(pg)


@case
def rank_0_misses_a_monitored_barrier(pg: Any) -> None:
    rank = dist.get_rank()
    if rank > 0:
        with pytest.raises(RuntimeError, match="errors while waiting for send/recv from rank 0"):
            dist.monitored_barrier(pg, SHORT)
    dist.barrier()
    works(pg)


@case
def a_short_time_for_one_call(pg: Any) -> None:
    """Options of one call; the group's own timeout stays what it was."""
    n = dist.get_world_size(pg)
    sub = dist.new_group(list(range(n)), timeout=_TIMEOUT)
    options = dist.BarrierOptions()
    options.timeout = SHORT
    if dist.get_rank() == 0 and n > 1:
        with pytest.raises(dist.DistBackendError, match="timed out"):
            sub.barrier(options).wait()
    dist.barrier(group=pg)
    dist.destroy_process_group(sub)
