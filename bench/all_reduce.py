"""One rank of the all-reduce benchmark: times quoit and its peers in turns, on the same memory.

    mpirun -n 2 python bench/all_reduce.py SECONDS BYTES [BYTES ...]

Rank 0 prints one line of JSON that says what it runs on, then one for each size, after about
SECONDS of turns. `run.py` starts this under each MPI and makes the table.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

import quoit
from quoit import launch

Array = NDArray[np.float32]

DEADLINE_S = 300.0  # the longest that one size may take, or the start
TURN_S = 2e-3  # a turn repeats short calls for about so long
FEWEST_ROUNDS = 5
PERIOD = 13  # of the inputs (7 * index + 5 * rank) % 13


@dataclass(frozen=True)
class World:
    """What the peers talk through. mpi: mpi4py's MPI module, or None without an mpirun."""

    comm: quoit.Communicator
    gloo: dist.ProcessGroup
    mpi: Any


@dataclass(frozen=True)
class Memory:
    """Arrays of one length: what is reduced in place, this rank's input, the sum over all ranks."""

    buffer: Array
    fresh: Array
    total: Array
    differs: NDArray[np.bool_]

    @classmethod
    def of(cls, count: int, rank: int, ranks: int) -> Memory:
        inputs = [(7 * np.arange(PERIOD) + 5 * r) % PERIOD for r in range(ranks)]
        fresh, total = (np.resize(v.astype(np.float32), count) for v in (inputs[rank], sum(inputs)))
        return cls(fresh.copy(), fresh, total, np.zeros(count, np.bool_))

    def first(self, count: int) -> Memory:
        return Memory(
            self.buffer[:count], self.fresh[:count], self.total[:count], self.differs[:count]
        )


@dataclass(frozen=True)
class Peer:
    """call: works on the buffer, in place. result: what one call makes of fresh input."""

    call: Callable[[], object]
    result: Array


def connect() -> World:
    """Joins the groups of all peers; collective over the ranks that the launcher started."""
    started_by = launch.detect()
    if started_by is None or started_by.size < 2:
        sys.exit("bench/all_reduce.py is one rank of several: start it with bench/run.py or mpirun")
    mpi = None
    if started_by.launcher in ("mpich", "openmpi"):
        # mpi4py would take the libmpi of its own choice; only the launcher's can talk to it.
        if started_by.mpi_library is not None:
            os.environ["MPI4PY_LIBMPI"] = started_by.mpi_library
        # MPI at its best: the locks of MPI_THREAD_MULTIPLE would slow MPICH's small calls.
        importlib.import_module("mpi4py").rc.thread_level = "funneled"
        mpi = importlib.import_module("mpi4py.MPI")
    timeout = timedelta(seconds=DEADLINE_S)
    dist.init_process_group("quoit", timeout=timeout)
    gloo = dist.new_group(backend="gloo", timeout=timeout)
    assert gloo is not None, "every rank is a member"

    def meet(text: str) -> list[str]:
        texts = [""] * dist.get_world_size()
        dist.all_gather_object(texts, text)
        return texts

    rank, ranks = dist.get_rank(), dist.get_world_size()
    return World(quoit.Communicator(rank, ranks, meet, timeout=DEADLINE_S), gloo, mpi)


def peers(world: World, memory: Memory) -> dict[str, Peer]:
    """Who takes part, in the order of the turns."""
    tensor = torch.from_numpy(memory.buffer)
    calls: dict[str, Callable[[], object]] = {
        "quoit": partial(dist.all_reduce, tensor),
        "gloo": partial(dist.all_reduce, tensor, group=world.gloo),
        "numpy": partial(world.comm.all_reduce, memory.buffer),
    }
    if world.mpi is not None:
        arguments = world.mpi.IN_PLACE, [memory.buffer, world.mpi.FLOAT]
        calls["mpi"] = partial(world.mpi.COMM_WORLD.Allreduce, *arguments)
    taking_part = {name: Peer(call, memory.total) for name, call in calls.items()}
    # copyto of contiguous arrays is one memmove by the calling thread.
    memcpy = partial(np.copyto, memory.buffer, memory.fresh)
    return {**taking_part, "memcpy": Peer(memcpy, memory.fresh)}


def slowest(comm: quoit.Communicator, seconds: float) -> float:
    """The largest value of all ranks, on all ranks."""
    value = np.array([seconds])
    comm.all_reduce(value, "MAX")
    return float(value[0])


def turn(comm: quoit.Communicator, peer: Peer, memory: Memory, calls: int) -> tuple[float, int]:
    """Seconds per call on the slowest rank, and how many elements were wrong on this one.

    The first call, on fresh input, warms up and is checked; `calls` more are timed.
    """
    np.copyto(memory.buffer, memory.fresh)
    peer.call()
    wrong = int(np.count_nonzero(np.not_equal(memory.buffer, peer.result, out=memory.differs)))
    comm.barrier()
    start = time.perf_counter()
    for _ in range(calls):
        peer.call()
    return slowest(comm, (time.perf_counter() - start) / calls), wrong


def most_calls(ranks: int) -> int:
    """How many more sums of sums stay finite: each multiplies the values by the number of ranks."""
    largest = float(np.finfo(np.float32).max) / (PERIOD * ranks)
    return max(1, int(math.log(largest, ranks)))


def measure(world: World, memory: Memory, seconds: float) -> dict[str, Any]:
    """Rounds in which each peer has one turn, for about `seconds`; medians over the rounds."""
    comm = world.comm
    taking_part = peers(world, memory)
    limit = most_calls(comm.size)
    times: dict[str, list[float]] = {name: [] for name in taking_part}
    wrong = 0
    start = time.perf_counter()
    for rounds in itertools.count():
        for name, peer in taking_part.items():
            estimate = min(times[name], default=TURN_S)
            calls = min(limit, max(1, round(TURN_S / estimate)))
            spent, errors = turn(comm, peer, memory, calls)
            times[name].append(spent)
            wrong += errors
        if rounds >= FEWEST_ROUNDS and slowest(comm, time.perf_counter() - start) > seconds:
            break
    total_wrong = np.array([wrong])
    comm.all_reduce(total_wrong)
    return {
        "bytes": memory.buffer.nbytes,
        # The first round found out how many calls make a turn.
        "us": {name: 1e6 * median(values[1:]) for name, values in times.items()},
        "rounds": rounds,
        "wrong": int(total_wrong[0]),
    }


def about(world: World) -> dict[str, str]:
    """Versions of what is measured."""
    versions = {"torch": torch.__version__, "quoit": quoit.__version__}
    if world.mpi is not None:
        words = world.mpi.Get_library_version().partition("\n")[0].partition(",")[0].split()
        versions["mpi"] = " ".join(words).replace(" Version:", "").replace(" v", " ")
    return versions


def main(arguments: Sequence[str]) -> None:
    seconds, sizes = float(arguments[0]), [int(argument) for argument in arguments[1:]]
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(DEADLINE_S, exit=True)
    world = connect()
    rank, ranks = world.comm.rank, world.comm.size

    def say(what: dict[str, Any]) -> None:
        if rank == 0:
            print(json.dumps(what), flush=True)

    say(about(world))
    memory = Memory.of(max(sizes) // 4, rank, ranks)
    gc.disable()  # a collection would land in somebody's turn
    for size in sizes:
        faulthandler.dump_traceback_later(DEADLINE_S, exit=True)
        say(measure(world, memory.first(size // 4), seconds))
    faulthandler.cancel_dump_traceback_later()
    world.comm.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
