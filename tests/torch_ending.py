"""A rank of torch.distributed whose program ends in some way; see test_torch_endings.py.

torch_ending.py FOLDER RANK SIZE ENDING
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

FOLDER, RANK, SIZE, ENDING = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
VICTIM = 1
LATE_S = 60.0  # longer than any test waits


def init(name: str, rank: int, size: int) -> None:
    dist.init_process_group(
        "quoit",
        init_method=f"file://{FOLDER}/{name}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=30),
    )


def reduced(count: int = 100_000) -> Any:
    data = torch.ones(count)
    dist.all_reduce(data)
    return data


def say(*words: object) -> None:
    print(*words, flush=True)


def killed() -> None:
    """Survivors are told, drop the group, and go on in another one of the same process."""
    try:
        for loop in range(1_000_000):
            if RANK == VICTIM and loop == 30:
                (FOLDER / "killed").write_text(str(time.time()))
                os.kill(os.getpid(), signal.SIGKILL)
            reduced()
    except dist.DistBackendError as error:
        late = time.time() - float((FOLDER / "killed").read_text())
        assert "rank 1 died" in str(error), error
        assert late < 2, late
    dist.destroy_process_group()
    init("second", RANK // 2, SIZE - 1)
    say("survivors:", int(reduced(3)[0]))
    dist.destroy_process_group()


def killed_then_shrunk() -> None:
    """Survivors leave the dead rank out of the default group, and go on in what is left."""
    reduced()
    if RANK == VICTIM:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        while True:
            reduced(3)
    except dist.DistBackendError as error:
        if "rank 1 died" not in str(error):
            raise
    flags = dist.distributed_c10d.SHRINK_ABORT
    dist.shrink_group([VICTIM], shrink_flags=flags)
    say(f"rank {dist.get_rank()} of {dist.get_world_size()}:", int(reduced(3)[0]))
    dist.destroy_process_group()


def killed_before_a_monitored_barrier() -> None:
    """Nobody waits for the dead."""
    reduced()
    if RANK == VICTIM:
        os.kill(os.getpid(), signal.SIGKILL)
    began = time.monotonic()
    try:
        dist.monitored_barrier(wait_all_ranks=RANK == 0)
    except dist.DistBackendError as error:
        if "rank 1 died" not in str(error):
            raise
        say("heard", time.monotonic() - began < 5)
    dist.destroy_process_group()


def interrupted() -> None:
    """Rank 0 waits for rank 1, which does not come."""
    reduced()
    say("ready")
    if RANK == 1:
        sys.stdin.read()
    else:
        dist.all_reduce(torch.ones(10))


def raises_while_a_callback_waits() -> None:
    """The callback waits for a collective that rank 1 never joins; the program ends all the same."""
    reduced()
    if RANK == 1:
        dist.all_reduce(torch.ones(10))
        say("ready")
        sys.stdin.read()
        return
    waiting = threading.Event()

    def wait(_: Any) -> None:
        waiting.set()
        dist.barrier()

    work = dist.all_reduce(torch.ones(10), async_op=True)
    assert work is not None
    work.get_future().then(wait)
    waiting.wait()
    time.sleep(0.2)
    say("ready")
    raise RuntimeError("the program's own mistake")


def nothing_destroyed() -> None:
    reduced()
    say("done")


def in_flight() -> None:
    """The last works are not waited for: whether they complete, nobody asked."""
    reduced()
    works = [dist.all_reduce(torch.ones(100_000), async_op=True) for _ in range(5)]
    say("done", len(works))


def destroyed_in_flight() -> None:
    """What waits in another thread is told that the group went away."""
    reduced()
    said: list[str] = []

    def wait() -> None:
        try:
            dist.recv(torch.ones(3), 1 - RANK)
        except dist.DistBackendError as error:
            said.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    dist.barrier()
    dist.destroy_process_group()
    thread.join(10)
    assert not thread.is_alive()
    # Whoever destroyed first is named by the other.
    assert len(said) == 1
    assert "left the group" in said[0] or "destroyed while work was in flight" in said[0], said
    init("second", RANK, SIZE)
    say("again:", int(reduced(3)[0]))
    dist.destroy_process_group()


def aborted() -> None:
    """One rank gives up; the others hear of it."""
    reduced()
    if RANK == 0:
        time.sleep(0.3)
        dist.distributed_c10d._abort_process_group()
        say("aborted")
        return
    began = time.monotonic()
    try:
        dist.all_reduce(torch.ones(10))
    except dist.DistBackendError as error:
        assert "rank 0" in str(error), error
        assert "abort" in str(error), error
    assert time.monotonic() - began < 2
    dist.destroy_process_group()
    say("heard")


ENDINGS: list[Callable[[], None]] = [
    killed,
    killed_then_shrunk,
    killed_before_a_monitored_barrier,
    interrupted,
    raises_while_a_callback_waits,
    nothing_destroyed,
    in_flight,
    destroyed_in_flight,
    aborted,
]

if __name__ == "__main__":
    init("first", RANK, SIZE)
    {ending.__name__: ending for ending in ENDINGS}[ENDING]()
