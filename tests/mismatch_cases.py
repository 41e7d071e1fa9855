"""Calls on which ranks disagree: all of them must raise, at once, and be told by whom."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from elements import Array
from quoit import Communicator, TransportError, UsageError

LARGE = 1 << 20  # elements: many rounds of everything

Wrong = Callable[[Communicator, int], object]  # the int: 0 for the odd rank, which is the last one


def _zeros(*sizes: int) -> list[Array]:
    return [np.zeros(size, np.float32) for size in sizes]


# Calls on which the last rank and the others disagree, and what the error must tell.
MISMATCHES: dict[str, tuple[Wrong, Sequence[str]]] = {
    "count": (
        lambda c, odd: c.all_reduce(np.zeros(12 + 4 * odd, np.float32)),
        [r"all_reduce #1 float32\[12\]", r"all_reduce #1 float32\[16\]"],
    ),
    "large_count": (
        lambda c, odd: c.all_reduce(np.zeros(LARGE + odd, np.float32)),
        [rf"float32\[{LARGE}\]", rf"float32\[{LARGE + 1}\]"],
    ),
    "path": (  # 4 bytes go another way than 4 MiB
        lambda c, odd: c.all_reduce(np.zeros(LARGE if odd else 1, np.float32)),
        [rf"float32\[{LARGE}\]", r"float32\[1\]"],
    ),
    "dtype": (
        lambda c, odd: c.all_reduce(np.zeros(8, np.int32 if odd else np.float32)),
        [r"float32\[8\]", r"int32\[8\]"],
    ),
    "op": (
        lambda c, odd: c.all_reduce(np.zeros(8), "MAX" if odd else "SUM"),
        [r"float64\[8\] SUM", r"float64\[8\] MAX"],
    ),
    "root": (
        lambda c, odd: c.broadcast(np.zeros(8), 1 if odd else 0),
        [r"broadcast #1 float64\[8\] root 0", r"broadcast #1 float64\[8\] root 1"],
    ),
    "broadcast_path": (  # a tree for little, a chain for much
        lambda c, odd: c.broadcast(np.zeros(LARGE if odd else 8), 0),
        [r"float64\[8\] root 0", rf"float64\[{LARGE}\] root 0"],
    ),
    "collective": (
        lambda c, odd: c.barrier() if odd else c.all_reduce(np.zeros(8)),
        [r"all_reduce #1", r"barrier #1"],
    ),
    "uneven_all_to_all": (
        lambda c, odd: c.all_to_all(_zeros(*[2] * c.size), _zeros(*[2] * c.size), uneven=bool(odd)),
        [r"all_to_all #1"],
    ),
    "all_to_all_and_all_reduce": (
        lambda c, odd: (
            c.all_to_all(_zeros(*[2] * c.size), _zeros(*[2] * c.size), uneven=True)
            if odd
            else c.all_reduce(np.zeros(8))
        ),
        [r"all_reduce #1", r"all_to_all #1"],
    ),
    "block_sizes": (  # as much in all, cut in another way
        lambda c, odd: c.all_gather(
            np.zeros(4 + (odd if c.size == 2 else 0), np.float32),
            _zeros(4 - odd, 4 + odd, *[4] * (c.size - 2)),
        ),
        ["with blocks of other sizes"],
    ),
    "blocks": (
        lambda c, odd: c.all_gather(
            np.zeros(2 + (odd and c.rank), np.float32),
            _zeros(*(2 + (odd and r == c.rank and r) for r in range(c.size))),
        ),
        [r"all_gather #1 float32"],
    ),
    "order": (
        lambda c, odd: (
            [c.broadcast(np.zeros(8), 0), c.all_reduce(np.zeros(8))]
            if odd
            else [c.all_reduce(np.zeros(8)), c.broadcast(np.zeros(8), 0)]
        ),
        [r"broadcast #1", r"all_reduce #1"],
    ),
}


def mismatch(comm: Communicator, call: Wrong, told: Sequence[str]) -> None:
    """All ranks raise within a second, and are told who asked for what.

    On several hosts a rank may have done its part when the news comes (the root of a broadcast):
    then its next call raises.
    """
    if comm.size == 1:
        return
    began = time.monotonic()

    def disagree() -> None:
        nonlocal began
        # Where a rank is slow, this may fail: the others are ahead, and the group is over.
        comm.barrier()
        began = time.monotonic()
        call(comm, int(comm.rank == comm.size - 1))
        if any(comm.route(peer) in ("loopback", "mpi", "tcp") for peer in range(comm.size)):
            comm.barrier()

    with pytest.raises((UsageError, TransportError), match="ranks disagree") as caught:
        disagree()
    took = time.monotonic() - began
    assert took < 1.0, f"it took {took} s"
    caught.match(rf"\[quoit rank {comm.size - 1} on|rank {comm.size - 1} called")  # it is named
    for words in told:
        caught.match(words.replace("#1", "#2"))
    caught.match(r"rank \d+ called .*this rank called .*must make the same calls")
    with pytest.raises(TransportError, match="ranks disagree"):
        comm.barrier()  # the group is over, and says why
