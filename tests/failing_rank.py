"""A rank of which one comes to grief; see test_failure.py.

    failing_rank.py FOLDER RANK SIZE FATE

Rank 1 meets its FATE in the middle of a loop of all_reduces. The others report what they noticed,
and how long it took, as one line of JSON; then they make a group without it and go on. Numbers are
in the memory of a device, the stand-in's, with QUOIT_TEST_MEMORY=device.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import fake_cuda
import quoit
import stage

VICTIM = 1
LOOPS = 1_000_000
ON_DEVICE = os.environ.get("QUOIT_TEST_MEMORY") == "device"


def meet_fate(fate: str, comm: quoit.Communicator, folder: Path) -> None:
    (folder / "fate").write_text(str(time.time()))
    if fate == "cut_off":
        return  # the test does it, as soon as it reads this
    if fate == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fate == "raises":
        raise RuntimeError("the victim's own mistake")
    if fate == "leaves":
        comm.close()
        time.sleep(10)
    if fate == "exits":
        sys.exit(0)


def in_memory(values: Any) -> Any:
    """The array, or one on a device."""
    return fake_cuda.Cupy(values, fake_cuda.new_stream()) if ON_DEVICE else values


def main() -> None:
    if ON_DEVICE:
        fake_cuda.install()
        fake_cuda.kernels().fake_offer_kernels()
    folder, rank, size, fate = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    timeout = {"stopped": 2.0, "cut_off": 3.0}.get(fate, 60.0)
    meet = stage.file_rendezvous(folder / "first", rank, size)
    comm = quoit.Communicator(rank, size, meet, timeout=timeout)
    data: Any = in_memory(np.ones(200_000, np.float32))
    began = time.monotonic()
    try:
        for loop in range(LOOPS):
            if rank == VICTIM and loop == 30:
                meet_fate(fate, comm, folder)
            began = time.monotonic()
            comm.all_reduce(data, "MAX")
    except quoit.Error as error:
        waited = time.monotonic() - began
        late = time.time() - float((folder / "fate").read_text())
        again = ""
        try:
            comm.barrier()
        except quoit.Error as second:
            again = str(second)
        comm.close()
        survivors = [other for other in range(size) if other != VICTIM]
        place = survivors.index(rank)
        meet = stage.file_rendezvous(folder / "second", place, len(survivors))
        rest = quoit.Communicator(place, len(survivors), meet, timeout=20)
        count: Any = in_memory(np.ones(3, np.int32))
        rest.all_reduce(count)
        if ON_DEVICE:
            count = count.get()
        rest.close()
        print(
            json.dumps(
                {
                    "kind": type(error).__name__,
                    "said": str(error),
                    "again": again,
                    "waited_s": waited,
                    "late_s": late,
                    "went_on_with": int(count[0]),
                }
            )
        )


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # a rank starts ten times as fast
    main()
