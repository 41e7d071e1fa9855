"""send_recv: ranks of the first half and of the second talk in pairs, as OSU's benchmarks do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from quoit.bench.calls import Buffers, Tensors, Waitable, mpi_type
from quoit.bench.data import DType
from quoit.bench.plan import Plan

WINDOW = 16  # messages in flight when bandwidth is measured
WINDOW_BYTES = 64 << 20  # but not more than these, unless one is larger


@dataclass(frozen=True)
class Line:
    """A peer's messages between this rank and its partner; number i has buffers of its own.

    answer, hear: one byte that says that a window of messages has come.
    """

    send: Callable[[int], object]
    recv: Callable[[int], object]
    isend: Callable[[int], Waitable]
    irecv: Callable[[int], Waitable]
    answer: Callable[[], object]
    hear: Callable[[], object]


def partner(rank: int, ranks: int) -> int:
    return (rank + ranks // 2) % ranks


def window(plan: Plan, size: int) -> int:
    """How many messages are in flight at a time."""
    if plan.mode == "latency":
        return 1
    return plan.in_flight or max(1, min(WINDOW, WINDOW_BYTES // max(1, size)))


def exchange(plan: Plan, line: Line, count: int, first: bool) -> Callable[[], object]:
    """One turn of the pattern: there and back, or `count` messages in flight.

    first: whether this rank is in the first half, which speaks first.
    """
    if plan.mode == "latency":

        def ping_pong() -> None:
            if first:
                line.send(0)
                line.recv(0)
            else:
                line.recv(0)
                line.send(0)

        return ping_pong

    both = plan.mode == "bidirectional"

    def burst() -> None:
        works: list[Waitable] = []
        if both or not first:
            works += [line.irecv(i) for i in range(count)]
        if both or first:
            works += [line.isend(i) for i in range(count)]
        for work in works:
            work.wait()
        if not both:
            (line.hear if first else line.answer)()

    return burst


def of_torch(sets: Sequence[Tensors], group: Any, peer: int) -> Line:
    import torch
    import torch.distributed as dist

    word = torch.zeros(1, dtype=torch.uint8, device=sets[0].give.device)
    send, recv = partial(dist.send, group=group), partial(dist.recv, group=group)

    def waitable(work: Any) -> Waitable:
        assert work is not None, "this rank is in the group"
        return work  # type: ignore[no-any-return]

    return Line(
        send=lambda i: send(sets[i].give, peer),
        recv=lambda i: recv(sets[i].take, peer),
        isend=lambda i: waitable(dist.isend(sets[i].give, peer, group=group)),
        irecv=lambda i: waitable(dist.irecv(sets[i].take, peer, group=group)),
        answer=lambda: send(word, peer),
        hear=lambda: recv(word, peer),
    )


def of_communicator(sets: Sequence[Buffers], comm: Any, peer: int) -> Line:
    word = np.zeros(1, np.uint8)
    return Line(
        send=lambda i: comm.send(sets[i].give, peer),
        recv=lambda i: comm.recv(sets[i].take, peer),
        isend=lambda i: comm.send(sets[i].give, peer, async_op=True),
        irecv=lambda i: comm.recv(sets[i].take, peer, async_op=True),
        answer=lambda: comm.send(word, peer),
        hear=lambda: comm.recv(word, peer),
    )


def of_mpi(plan: Plan, dtype: DType, sets: Sequence[Buffers], mpi: Any, peer: int) -> Line:
    world, kind = mpi.COMM_WORLD, mpi_type(plan, dtype, mpi)
    gives = [[buffers.give, kind] for buffers in sets]
    takes = [[buffers.take, kind] for buffers in sets]
    word = np.zeros(1, np.uint8)
    return Line(
        send=lambda i: world.Send(gives[i], peer),
        recv=lambda i: world.Recv(takes[i], peer),
        isend=lambda i: world.Isend(gives[i], peer),
        irecv=lambda i: world.Irecv(takes[i], peer),
        answer=lambda: world.Send(word, peer),
        hear=lambda: world.Recv(word, peer),
    )
