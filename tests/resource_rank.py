"""A rank that measures what it uses; see test_resources.py.

    resource_rank.py FOLDER RANK SIZE WHAT

Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

import quoit
import stage

SMALL = 10_000
LARGE = 200


def memory_kib() -> int:
    """Resident memory of this process, without what it shares with the other ranks."""
    fields = Path("/proc/self/smaps_rollup").read_text().split("\n")
    private = [line for line in fields if line.startswith("Private")]
    return sum(int(line.split()[1]) for line in private)


def mixed(comm: quoit.Communicator, rounds: int) -> None:
    """Small collectives of all kinds, eight to a round, and two messages."""
    n = comm.size
    one = np.ones(17, np.float32)
    blocks = [np.ones(5, np.float32) for _ in range(n)]
    peer, source = (comm.rank + 1) % n, (comm.rank - 1) % n
    for _ in range(rounds):
        comm.all_reduce(one, "MAX")
        comm.broadcast(one, 0)
        comm.reduce(one, 0, "MAX")
        comm.all_gather(blocks[0], blocks)
        comm.reduce_scatter(blocks, blocks[0], "MAX")
        comm.all_to_all(blocks, blocks)
        comm.all_to_all(blocks, blocks, uneven=True)
        comm.barrier()
        send = comm.send(one, peer, async_op=True)
        comm.recv(one, source)
        send.wait()


def soak(comm: quoit.Communicator) -> dict[str, float]:
    large = np.ones(1 << 20, np.float32)
    mixed(comm, 300)
    for _ in range(10):
        comm.all_reduce(large, "MAX")
    before, files = memory_kib(), len(os.listdir("/proc/self/fd"))
    mixed(comm, SMALL // 10)
    for _ in range(LARGE):
        comm.all_reduce(large, "MAX")
    return {
        "grown_kib": memory_kib() - before,
        "new_files": len(os.listdir("/proc/self/fd")) - files,
    }


def groups(comm: quoit.Communicator, folder: Path) -> dict[str, float]:
    """Groups that come and go leave nothing."""

    def one(number: int) -> None:
        meet = stage.file_rendezvous(folder / f"group{number}", comm.rank, comm.size)
        with stage.left_or_aborted(quoit.Communicator(comm.rank, comm.size, meet), comm.rank):
            pass

    for number in range(5):
        one(number)
    before, files = memory_kib(), len(os.listdir("/proc/self/fd"))
    for number in range(5, 55):
        one(number)
    return {
        "grown_kib": memory_kib() - before,
        "new_files": len(os.listdir("/proc/self/fd")) - files,
    }


def share_of_a_core(seconds: float, wait: bool, comm: quoit.Communicator) -> dict[str, float]:
    """CPU time that rank 0 uses while rank 1 comes late to a barrier, or while nothing happens."""
    comm.barrier()
    cpu, clock = time.process_time(), time.monotonic()
    if comm.rank == 1 or not wait:
        time.sleep(seconds)
    if wait:
        comm.barrier()
    return {"share": (time.process_time() - cpu) / (time.monotonic() - clock)}


def crowd(comm: quoit.Communicator) -> dict[str, float]:
    """Many small all_reduces on more ranks than cores."""
    one = np.ones(1, np.float32)
    comm.barrier()
    began = time.monotonic()
    for _ in range(2000):
        comm.all_reduce(one, "MAX")
    return {"us": (time.monotonic() - began) / 2000 * 1e6}


def main() -> None:
    folder, rank, size, what = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    comm = quoit.Communicator(rank, size, stage.file_rendezvous(folder / "all", rank, size))
    if what == "soak":
        used = soak(comm)
    elif what == "groups":
        used = groups(comm, folder)
    elif what == "crowd":
        used = crowd(comm)
    else:
        used = share_of_a_core(3.0, what == "wait", comm)
    comm.barrier()
    comm.close()
    print(json.dumps(used))


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # a rank starts ten times as fast
    main()
