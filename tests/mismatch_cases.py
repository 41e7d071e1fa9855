"""Calls on which ranks disagree: all of them must raise, at once, and be told by whom."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from elements import Array
from quoit import Communicator, TransportError, UsageError

LARGE = 1 << 20  # elements: many rounds of everything

Wrong = Callable[[Communicator, int], object]  # the int: 1 on a rank that does something else

# Which ranks do something else; "last" where nothing else is said.
WHO: dict[str, Callable[[int, int], bool]] = {
    "last": lambda rank, size: rank == size - 1,
    "first": lambda rank, size: rank == 0,
    "half": lambda rank, size: rank >= (size + 1) // 2,
    "every_other": lambda rank, size: rank % 2 == 1,
}


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
    "reduce": (  # its leaves need nothing from anybody
        lambda c, odd: c.reduce(np.zeros(8), 0, "MAX" if odd else "SUM"),
        [r"reduce #1 float64\[8\] SUM root 0", r"reduce #1 float64\[8\] MAX root 0"],
    ),
    "gather": (  # only the root receives
        lambda c, odd: c.gather(
            np.zeros(8 + odd), [np.zeros(8 + odd) for _ in range(c.size)] * (c.rank == 0), 0
        ),
        [r"gather #1 float64\[8\] root 0", r"gather #1 float64\[9\] root 0"],
    ),
    "scatter": (  # only the root sends
        lambda c, odd: c.scatter(
            [np.zeros(8 + odd) for _ in range(c.size)] * (c.rank == 0), np.zeros(8 + odd), 0
        ),
        [r"scatter #1 float64\[8\] root 0", r"scatter #1 float64\[9\] root 0"],
    ),
    "rooted_and_not": (
        lambda c, odd: c.broadcast(np.zeros(3), 0) if odd else c.all_reduce(np.zeros(3)),
        [r"broadcast #1 float64\[3\] root 0", r"all_reduce #1 float64\[3\] SUM"],
    ),
    "nothing_to_reduce": (
        lambda c, odd: c.all_reduce(np.zeros(0), "MAX" if odd else "SUM"),
        [r"all_reduce #1 float64 SUM", r"all_reduce #1 float64 MAX"],
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


# Those whose news must come to ranks that are done with their part, whoever is the odd one.
FROM_ANYWHERE = (
    "op",
    "count",
    "path",
    "collective",
    "all_to_all_and_all_reduce",
    "root",
    "reduce",
    "gather",
    "scatter",
    "rooted_and_not",
)


def mismatch(comm: Communicator, call: Wrong, told: Sequence[str], who: str = "last") -> None:
    """All ranks raise in that very call, within a second, and are told who asked for what."""
    ranks = [rank for rank in range(comm.size) if WHO[who](rank, comm.size)]
    if not 0 < len(ranks) < comm.size:
        return
    began = time.monotonic()

    def disagree() -> None:
        nonlocal began
        # The others may be ahead of a slow rank, and the group over before it is through with this.
        comm.barrier()
        began = time.monotonic()
        call(comm, int(comm.rank in ranks))

    with pytest.raises((UsageError, TransportError), match="ranks disagree") as caught:
        disagree()
    took = time.monotonic() - began
    assert took < 1.0, f"it took {took} s"
    odd = "|".join(map(str, ranks))
    caught.match(rf"\[quoit rank ({odd}) on|rank ({odd}) called")  # one of them is named
    for words in told:
        caught.match(words.replace("#1", "#2"))
    caught.match(r"rank \d+ called .*this rank called .*must make the same calls")
    with pytest.raises(TransportError, match="ranks disagree"):
        comm.barrier()  # the group is over, and says why


def mismatch_of_splits(comm: Communicator) -> None:
    """Rank 0 sends the last rank less than that expects. The two alone can see it; all raise."""
    if comm.size == 1:
        return
    last = comm.size - 1
    ins, outs = _zeros(*[4] * comm.size), _zeros(*[4] * comm.size)
    if comm.rank == 0:
        ins[last] = np.zeros(3, np.float32)
    began = time.monotonic()
    with pytest.raises(TransportError, match=r"all_to_all #1") as caught:
        comm.all_to_all(ins, outs, uneven=True)
    took = time.monotonic() - began
    assert took < 1.0, f"it took {took} s"
    caught.match(rf"quoit rank {last} on .*rank 0 sent 12 bytes, this rank expected 16")
    with pytest.raises(TransportError, match="rank 0 sent 12 bytes"):
        comm.barrier()
