"""One rank of the all-reduce benchmark; run.py starts it and reads what rank 0 writes.

    mpirun -n 2 python bench/all_reduce.py RESULTS SECONDS BYTES [BYTES ...]

RESULTS gets a line of JSON about the software, then one for each size, timed for about SECONDS.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import math
import os
import sys
import time
from collections.abc import Callable
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


def load_mpi() -> Any:
    """mpi4py's MPI for the mpirun that started this rank, or None when none did."""
    started_by = launch.detect()
    if started_by is None or started_by.size < 2:
        sys.exit(
            "this is one rank of several: start bench/run.py, or mpirun with two ranks or more"
        )
    if started_by.launcher not in ("mpich", "openmpi"):
        return None
    if started_by.mpi_library is not None:
        os.environ["MPI4PY_LIBMPI"] = started_by.mpi_library
    # MPI at its best: the locks of MPI_THREAD_MULTIPLE would slow MPICH's small calls.
    importlib.import_module("mpi4py").rc.thread_level = "funneled"
    return importlib.import_module("mpi4py.MPI")


def meet(text: str) -> list[str]:
    texts = [""] * dist.get_world_size()
    dist.all_gather_object(texts, text)
    return texts


def inputs(count: int, rank: int) -> Array:
    """Small whole numbers, so that sums are exact; nowhere zero on all ranks."""
    return np.resize(((7 * np.arange(13) + 5 * rank) % 13).astype(np.float32), count)


class Benchmark:
    """Times the peers in turns, all of them on one buffer; collective over the ranks."""

    def __init__(self, mpi: Any, count: int) -> None:
        """count: the most elements that a size will have."""
        timeout = timedelta(seconds=DEADLINE_S)
        dist.init_process_group("quoit", timeout=timeout)
        self.gloo = dist.new_group(backend="gloo", timeout=timeout)
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.comm = quoit.Communicator(self.rank, self.ranks, meet, timeout=DEADLINE_S)
        self.mpi = mpi
        self.fresh = inputs(count, self.rank)
        self.total = np.sum([inputs(13, rank) for rank in range(self.ranks)], axis=0)
        self.total = np.resize(self.total, count)
        self.buffer = self.fresh.copy()
        self.differs = np.zeros(count, np.bool_)
        # Each further sum of sums multiplies the values by the number of ranks; all stay finite.
        largest = float(np.finfo(np.float32).max) / (13 * self.ranks)
        self.most_calls = max(1, int(math.log(largest, self.ranks)))

    def peers(self, count: int) -> dict[str, Callable[[], object]]:
        """What each peer calls, in the order of the turns."""
        buffer = self.buffer[:count]
        tensor = torch.from_numpy(buffer)
        calls: dict[str, Callable[[], object]] = {
            "quoit": partial(dist.all_reduce, tensor),
            "gloo": partial(dist.all_reduce, tensor, group=self.gloo),
            "quoit NumPy": partial(self.comm.all_reduce, buffer),
        }
        if self.mpi is not None:
            arguments = self.mpi.IN_PLACE, [buffer, self.mpi.FLOAT]
            calls["mpi"] = partial(self.mpi.COMM_WORLD.Allreduce, *arguments)
        # Between contiguous arrays copyto is one memmove by the calling thread.
        return {**calls, "memcpy": partial(np.copyto, buffer, self.fresh[:count])}

    def slowest(self, seconds: float) -> float:
        value = np.array([seconds])
        self.comm.all_reduce(value, "MAX")
        return float(value[0])

    def turn(self, call: Callable[[], object], result: Array, calls: int) -> tuple[float, int]:
        """Seconds per call on the slowest rank, and this rank's number of wrong elements.

        The first call, on fresh input, warms up and is checked; `calls` more are timed.
        """
        buffer, differs = self.buffer[: result.size], self.differs[: result.size]
        np.copyto(buffer, self.fresh[: result.size])
        call()
        wrong = int(np.count_nonzero(np.not_equal(buffer, result, out=differs)))
        self.comm.barrier()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return self.slowest((time.perf_counter() - start) / calls), wrong

    def measure(self, count: int, seconds: float) -> dict[str, Any]:
        """Rounds of one turn for each peer, for about `seconds`; medians over the rounds."""
        peers = self.peers(count)
        times: dict[str, list[float]] = {name: [] for name in peers}
        rounds, wrong, start = 0, 0, time.perf_counter()
        while rounds <= FEWEST_ROUNDS or self.slowest(time.perf_counter() - start) < seconds:
            for name, call in peers.items():
                result = self.fresh if name == "memcpy" else self.total
                repeat = max(1, round(TURN_S / min(times[name], default=TURN_S)))
                spent, errors = self.turn(call, result[:count], min(repeat, self.most_calls))
                times[name].append(spent)
                wrong += errors
            rounds += 1
        all_wrong = np.array([wrong])
        self.comm.all_reduce(all_wrong)
        # The first round found out how many calls make a turn.
        us = {name: 1e6 * median(values[1:]) for name, values in times.items()}
        return {"bytes": 4 * count, "us": us, "rounds": rounds - 1, "wrong": int(all_wrong[0])}


def main(path: str, seconds: float, sizes: list[int]) -> None:
    faulthandler.dump_traceback_later(DEADLINE_S, exit=True)
    torch.set_num_threads(1)
    mpi = load_mpi()
    benchmark = Benchmark(mpi, max(sizes) // 4)
    said = {"quoit": f"quoit {quoit.__version__}", "torch": f"torch {torch.__version__}"}
    if mpi is not None:
        words = mpi.Get_library_version().partition("\n")[0].partition(",")[0].split()
        version = words.pop().lstrip("v")
        name = " ".join(words).removesuffix(" Version:")
        said[name] = f"{name} {version}"
    gc.disable()  # a collection would land in somebody's turn
    with open(path if benchmark.rank == 0 else os.devnull, "w", buffering=1) as results:
        results.write(json.dumps(said) + "\n")
        for size in sizes:
            faulthandler.dump_traceback_later(DEADLINE_S, exit=True)
            results.write(json.dumps(benchmark.measure(size // 4, seconds)) + "\n")
    faulthandler.cancel_dump_traceback_later()
    benchmark.comm.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), [int(size) for size in sys.argv[3:]])
