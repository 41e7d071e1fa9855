"""The memory of one size on one rank: what an operation is given, and what it must give."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from quoit.bench import messages
from quoit.bench.calls import Buffers
from quoit.bench.data import DTYPES, LARGEST, Array, inputs, reduced, spoil
from quoit.bench.plan import REDUCING, SPLITTING, Plan


@dataclass(frozen=True)
class Case:
    """One size. All ranks have the same but for what is in the memory.

    count: elements of the size. sets: buffers of the calls that are in flight together. spare: the
    same memory as pairs of `count` elements each, for memcpy. fresh: writes the inputs, and spoils
    what is to be written. wrong: after one call on each of the sets, how many elements of this rank
    are not what they must be. most: how many calls may follow each other before a sum of sums is no
    longer finite.
    """

    count: int
    sets: tuple[Buffers, ...]
    spare: tuple[Buffers, ...]
    fresh: Callable[[], None]
    wrong: Callable[[], int]
    most: int


def in_flight(plan: Plan, size: int) -> int:
    """How many calls of a size are in flight together."""
    return messages.window(plan, size) if plan.op == "send_recv" else plan.in_flight or 1


def bytes_needed(plan: Plan) -> int:
    """Of each rank."""
    return 2 * max((size * in_flight(plan, size) for size in plan.sizes), default=0)


class Memory:
    """All the memory of a rank, and the truth about what it shall hold."""

    def __init__(self, plan: Plan, rank: int, ranks: int) -> None:
        self._plan, self._rank, self._ranks = plan, rank, ranks
        self._dtype = DTYPES[plan.dtype]
        half = bytes_needed(plan) // 2 // self._dtype.size
        # Written once, so that no turn pays for the first touch of a page.
        self._halves = [np.ones(half, self._dtype.carrier) for _ in range(2)]
        self._inputs = [inputs(other, self._dtype) for other in range(ranks)]

    def case(self, size: int) -> Case:
        count = size // self._dtype.size
        gives, takes = (
            [half[i * count :][:count] for i in range(in_flight(self._plan, size))]
            for half in self._halves
        )
        part = count // self._ranks if self._plan.op in SPLITTING else count
        spare = tuple(map(Buffers, gives, takes))
        if self._plan.op in ("all_reduce", "broadcast"):
            sets = [Buffers(give, give) for give in gives]
        elif self._plan.op == "reduce_scatter":
            sets = [Buffers(give, take[:part]) for give, take in zip(gives, takes, strict=True)]
        elif self._plan.op == "all_gather":
            sets = [Buffers(give[:part], take) for give, take in zip(gives, takes, strict=True)]
        else:
            sets = list(spare)
        check = self._check(part)

        def fresh() -> None:
            for buffers in sets:
                if buffers.take is not buffers.give:
                    spoil(buffers.take)
                self._inputs[self._rank].fill(buffers.give)

        def wrong() -> int:
            return sum(check(buffers.take) for buffers in sets)

        return Case(count, tuple(sets), spare, fresh, wrong, self._most())

    def _check(self, part: int) -> Callable[[Array], int]:
        plan, rank = self._plan, self._rank

        def by_parts(first: int) -> Callable[[Array], int]:
            def check(take: Array) -> int:
                parts = np.split(take, self._ranks)
                return sum(
                    its.wrong(got, first) for its, got in zip(self._inputs, parts, strict=True)
                )

            return check

        if plan.op in REDUCING:
            result = reduced(self._ranks, plan.redop, self._dtype)
            first = rank * part if plan.op == "reduce_scatter" else 0
            return lambda take: result.wrong(take, first)
        if plan.op == "all_gather":
            return by_parts(0)
        if plan.op == "all_to_all":
            return by_parts(rank * part)
        if plan.op == "broadcast":
            return self._inputs[plan.root].wrong
        if plan.op == "send_recv":
            if plan.mode == "bandwidth" and rank < self._ranks // 2:
                return lambda _: 0  # it receives nothing
            return self._inputs[messages.partner(rank, self._ranks)].wrong
        return lambda _: 0

    def _most(self) -> int:
        if self._plan.op != "all_reduce" or self._plan.redop != "sum" or not self._dtype.floating:
            return 1 << 30
        largest = {"float16": 65504.0, "float64": 1e308}.get(self._dtype.name, 3e38)
        return max(1, int(math.log(largest / (LARGEST * self._ranks), self._ranks)))
