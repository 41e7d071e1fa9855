"""A rank that runs random programs of torch.distributed and checks every result.

random_rank.py FIRST_SEED PROGRAMS      (under a launcher, with 3 ranks or more)

All ranks draw the same program from its seed: operations of random kinds, groups, sizes, dtypes and
tags, waited for at once or later in random order. Operands are small whole numbers, so that results
are exact. What goes wrong is told with the seed.
"""

from __future__ import annotations

import faulthandler
import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

import quoit  # noqa: F401  # registers the backend

PROGRAM_S = 60.0  # the longest that one program may take
STEPS = 14
SIZES = (0, 1, 2, 7, 8, 9, 100, 4096, 4097, 40_000, 300_000)
DTYPES = (torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bfloat16)
REDUCE: dict[Any, Callable[[torch.Tensor], torch.Tensor]] = {
    dist.ReduceOp.SUM: lambda all_: all_.sum(0),
    dist.ReduceOp.MAX: lambda all_: all_.amax(0),
    dist.ReduceOp.MIN: lambda all_: all_.amin(0),
    dist.ReduceOp.PRODUCT: lambda all_: all_.prod(0),
}


@dataclass
class Pending:
    """An operation in flight, and how its result is checked once it is done."""

    works: list[dist.Work]
    check: Callable[[], None]


@dataclass
class Group:
    ranks: list[int]
    pg: dist.ProcessGroup

    def __contains__(self, rank: int) -> bool:
        return rank in self.ranks


@dataclass
class Program:
    seed: int
    groups: list[Group]
    draw: random.Random = field(init=False)
    pending: list[Pending] = field(default_factory=list)
    step: int = 0

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.rank = dist.get_rank()
        # Only waits may differ between ranks.
        self.own_draw = random.Random(self.seed * 1000 + self.rank)

    def run(self) -> None:
        operations = [
            self.all_reduce,
            self.broadcast,
            self.reduce,
            self.all_gather,
            self.reduce_scatter,
            self.all_to_all,
            self.gather,
            self.scatter,
            self.message,
            self.message,
            self.any_source,
            self.barrier,
        ]
        for self.step in range(STEPS):
            operation = self.draw.choice(operations)
            try:
                operation()
                if self.pending and self.own_draw.random() < 0.3:
                    self.settle(self.own_draw.randrange(len(self.pending)))
            except Exception as error:
                where = f"seed {self.seed}, step {self.step}, {operation.__name__}"
                raise RuntimeError(f"{where}: {error}") from error
        while self.pending:
            self.settle(self.own_draw.randrange(len(self.pending)))

    # ---- What is drawn.

    def data(self, count: int, dtype: torch.dtype, who: int, salt: int = 0) -> torch.Tensor:
        """The operand of a rank in this step, known to all."""
        begin = self.seed * 7 + self.step * 5 + who * 3 + salt
        return ((torch.arange(count) + begin) % 4).to(dtype)

    def shape(self) -> tuple[Group, int, torch.dtype]:
        return self.draw.choice(self.groups), self.draw.choice(SIZES), self.draw.choice(DTYPES)

    # ---- What is done with the work.

    def started(self, work: Any, asynchronous: bool, check: Callable[[], None]) -> None:
        if asynchronous:
            works = work if isinstance(work, list) else [work]
            self.pending.append(Pending(works, check))
        else:
            check()

    def settle(self, index: int) -> None:
        done = self.pending.pop(index)
        for work in done.works:
            work.wait()
        done.check()

    def expect(self, found: torch.Tensor, wanted: torch.Tensor, what: str) -> None:
        if not torch.equal(found, wanted.to(found.dtype)):
            raise AssertionError(f"{what}: {found[:8]}... is not {wanted[:8]}...")

    # ---- The operations.

    def all_reduce(self) -> None:
        group, count, dtype = self.shape()
        op, later = self.draw.choice(list(REDUCE)), self.draw.random() < 0.5
        if self.rank not in group:
            return
        tensor = self.data(count, dtype, self.rank)
        everybody = torch.stack([self.data(count, dtype, rank) for rank in group.ranks])
        wanted = REDUCE[op](everybody)
        work = dist.all_reduce(tensor, op, group=group.pg, async_op=later)
        self.started(work, later, lambda: self.expect(tensor, wanted, "all_reduce"))

    def broadcast(self) -> None:
        group, count, dtype = self.shape()
        root, later = self.draw.choice(group.ranks), self.draw.random() < 0.5
        if self.rank not in group:
            return
        tensor = self.data(count, dtype, self.rank)
        wanted = self.data(count, dtype, root)
        work = dist.broadcast(tensor, root, group=group.pg, async_op=later)
        self.started(work, later, lambda: self.expect(tensor, wanted, "broadcast"))

    def reduce(self) -> None:
        group, count, dtype = self.shape()
        root, later = self.draw.choice(group.ranks), self.draw.random() < 0.5
        if self.rank not in group:
            return
        tensor = self.data(count, dtype, self.rank)
        wanted = torch.stack([self.data(count, dtype, rank) for rank in group.ranks]).sum(0)
        work = dist.reduce(tensor, root, group=group.pg, async_op=later)
        if self.rank == root:
            self.started(work, later, lambda: self.expect(tensor, wanted, "reduce"))
        else:
            self.started(work, later, lambda: None)

    def all_gather(self) -> None:
        group, count, dtype = self.shape()
        uneven, later = self.draw.random() < 0.4, self.draw.random() < 0.5
        if self.rank not in group:
            return
        counts = {rank: count + (rank if uneven else 0) for rank in group.ranks}
        outs = [torch.zeros(counts[rank], dtype=dtype) for rank in group.ranks]
        tensor = self.data(counts[self.rank], dtype, self.rank)
        work = dist.all_gather(outs, tensor, group=group.pg, async_op=later)

        def check() -> None:
            for rank, out in zip(group.ranks, outs, strict=True):
                self.expect(out, wanted[rank], f"all_gather from {rank}")

        wanted = {rank: self.data(counts[rank], dtype, rank) for rank in group.ranks}
        self.started(work, later, check)

    def reduce_scatter(self) -> None:
        group, count, dtype = self.shape()
        later = self.draw.random() < 0.5
        if self.rank not in group:
            return
        place = group.ranks.index(self.rank)
        ins = [self.data(count, dtype, self.rank, salt=i) for i in range(len(group.ranks))]
        out = torch.zeros(count, dtype=dtype)
        wanted = torch.stack([self.data(count, dtype, r, salt=place) for r in group.ranks]).sum(0)
        work = dist.reduce_scatter(out, ins, group=group.pg, async_op=later)
        self.started(work, later, lambda: self.expect(out, wanted, "reduce_scatter"))

    def all_to_all(self) -> None:
        group, count, dtype = self.shape()
        later = self.draw.random() < 0.5
        count %= 5000
        if self.rank not in group:
            return

        def size(source: int, target: int) -> int:
            return (count + 3 * source + target) % (count + 1)

        ins = [self.data(size(self.rank, to), dtype, self.rank, salt=to) for to in group.ranks]
        outs = [torch.zeros(size(source, self.rank), dtype=dtype) for source in group.ranks]
        wanted = [
            self.data(size(source, self.rank), dtype, source, salt=self.rank)
            for source in group.ranks
        ]
        work = dist.all_to_all(outs, ins, group=group.pg, async_op=later)

        def check() -> None:
            for out, expected in zip(outs, wanted, strict=True):
                self.expect(out, expected, "all_to_all")

        self.started(work, later, check)

    def gather(self) -> None:
        group, count, dtype = self.shape()
        root, later = self.draw.choice(group.ranks), self.draw.random() < 0.5
        if self.rank not in group:
            return
        outs = [torch.zeros(count, dtype=dtype) for _ in group.ranks] if self.rank == root else None
        wanted = [self.data(count, dtype, rank) for rank in group.ranks]
        tensor = self.data(count, dtype, self.rank)
        work = dist.gather(tensor, outs, dst=root, group=group.pg, async_op=later)

        def check() -> None:
            for out, expected in zip(outs or [], wanted, strict=outs is not None):
                self.expect(out, expected, "gather")

        self.started(work, later, check)

    def scatter(self) -> None:
        group, count, dtype = self.shape()
        root, later = self.draw.choice(group.ranks), self.draw.random() < 0.5
        if self.rank not in group:
            return
        place = group.ranks.index(self.rank)
        ins = (
            [self.data(count, dtype, root, salt=i) for i in range(len(group.ranks))]
            if self.rank == root
            else None
        )
        out = torch.zeros(count, dtype=dtype)
        wanted = self.data(count, dtype, root, salt=place)
        work = dist.scatter(out, ins, src=root, group=group.pg, async_op=later)
        self.started(work, later, lambda: self.expect(out, wanted, "scatter"))

    def message(self) -> None:
        group, count, dtype = self.shape()
        source, target = self.draw.sample(group.ranks, 2)
        tag, sends_later, takes_later = self.draw.randrange(3), *self.draw.choices((0, 1), k=2)
        wanted = self.data(count, dtype, source)
        if self.rank == source:
            tensor = wanted.clone()
            if sends_later:
                work = dist.isend(tensor, target, group=group.pg, tag=tag)
                self.started(work, True, lambda: self.expect(tensor, wanted, "what was sent"))
            else:
                dist.send(tensor, target, group=group.pg, tag=tag)
        elif self.rank == target:
            into = torch.zeros(count, dtype=dtype)
            if takes_later:
                work = dist.irecv(into, source, group=group.pg, tag=tag)
                self.started(work, True, lambda: self.expect(into, wanted, "recv"))
            else:
                dist.recv(into, source, group=group.pg, tag=tag)
                self.expect(into, wanted, "recv")

    def any_source(self) -> None:
        """Everybody else of a group sends to one rank, which takes them as they come."""
        group, count, dtype = self.shape()
        target = self.draw.choice(group.ranks)
        tag = 100 + self.step  # no other message may be taken for one of these
        if self.rank == target:
            heard = set()
            for _ in range(len(group.ranks) - 1):
                into = torch.zeros(count, dtype=dtype)
                source = dist.recv(into, group=group.pg, tag=tag)
                self.expect(into, self.data(count, dtype, source), f"message of {source}")
                heard.add(source)
            assert heard == set(group.ranks) - {target}, heard
        elif self.rank in group:
            tensor = self.data(count, dtype, self.rank)
            work = dist.isend(tensor, target, group=group.pg, tag=tag)
            self.started(work, True, lambda: None)

    def barrier(self) -> None:
        group = self.draw.choice(self.groups)
        later = self.draw.random() < 0.5
        if self.rank in group:
            work = dist.barrier(group=group.pg, async_op=later)
            self.started(work, later, lambda: None)


def main() -> None:
    first, programs = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    if host := os.environ.get(f"QUOIT_TEST_HOST_{os.environ['RANK']}"):
        os.environ["QUOIT_HOST"] = host
    dist.init_process_group("quoit", timeout=timedelta(seconds=PROGRAM_S))
    size = dist.get_world_size()
    lists = [
        list(range(size)),
        [0, 1],
        list(range(1, size)),
        list(range(0, size, 2)),
        [size - 1, 0],
    ]
    # A second group of the same ranks, and groups that overlap.
    pgs = [dist.new_group(ranks) for ranks in [*lists, lists[0]]]
    groups = [
        Group(sorted(ranks), pg)
        for ranks, pg in zip([*lists, lists[0]], pgs, strict=True)
        if len(ranks) > 1
    ]
    for seed in range(first, first + programs):
        faulthandler.dump_traceback_later(2 * PROGRAM_S, exit=True)
        Program(seed, groups).run()
        if dist.get_rank() == 0:
            print(f"seed {seed}: ok", flush=True)
    faulthandler.cancel_dump_traceback_later()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
