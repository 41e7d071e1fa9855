"""Cases for quoit.Communicator on tensors of one GPU that several ranks share, by CUDA IPC.

What the stand-in cannot tell: that CUDA is as it has it. Played by `make test-cuda` alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

import cases
from device_array_cases import COUNTS, mine, total
from device_ipc_cases import meeting
from quoit import Communicator
from stage import Job

Case = Callable[[Communicator], None]

CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


@contextlib.contextmanager
def group(job: Job, rank: int, number: int) -> Iterator[Communicator]:
    os.environ.pop("QUOIT_IPC", None)
    torch.cuda.set_device(0)
    with cases.group(job, rank, number) as comm, torch.cuda.stream(torch.cuda.Stream()):
        yield comm


def on_gpu(values: Any) -> torch.Tensor:
    return torch.from_numpy(values).cuda()


def check(got: torch.Tensor, wanted: Any, what: object = "") -> None:
    cases.equal(got.cpu().numpy(), wanted, what)


@case
def collectives(comm: Any) -> None:
    me, last = comm.rank, comm.size - 1
    for count in [*COUNTS, (9 << 20) + 3]:
        torch.cuda._sleep(50_000_000)
        tensor = on_gpu(mine(count, me))
        comm.all_reduce(tensor)
        check(tensor, total(comm, count), count)
        tensor = on_gpu(mine(count, me))
        comm.broadcast(tensor, last)
        check(tensor, mine(count, last), count)
        outs = [on_gpu(np.zeros(count, np.float32)) for _ in range(comm.size)]
        comm.all_gather(on_gpu(mine(count, me)), outs)
        for rank, out in enumerate(outs):
            check(out, mine(count, rank), count)
        comm.all_to_all([on_gpu(mine(count, me + r)) for r in range(comm.size)], outs)
        for rank, out in enumerate(outs):
            check(out, mine(count, rank + me), count)
        comm.reduce_scatter([on_gpu(mine(count, me + r)) for r in range(comm.size)], tensor)
        check(tensor, np.add.reduce([mine(count, r + me) for r in range(comm.size)]), count)
    assert comm.device_route() == "ipc"


@case
def many_small_ones(comm: Any) -> None:
    tensors = [on_gpu(mine(100 + k, comm.rank + k)) for k in range(200)]
    works = [comm.all_reduce(tensor, async_op=True) for tensor in tensors]
    for work in works:
        work.wait()
    for k, tensor in enumerate(tensors):
        check(tensor, np.add.reduce([mine(100 + k, r + k) for r in range(comm.size)]), k)
    assert comm.device_route() == "ipc"


@case
def messages(comm: Any) -> None:
    to, source = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    for count in COUNTS:
        sent = comm.send(on_gpu(mine(count, comm.rank)), to, async_op=True)
        into = on_gpu(np.zeros(count, np.float32))
        comm.recv(into, source)
        check(into, mine(count, source), count)
        sent.wait()
        sent = comm.send(on_gpu(mine(count, comm.rank)), to, async_op=True)
        on_host = np.zeros(count, np.float32)
        comm.recv(on_host, source)
        cases.equal(on_host, mine(count, source), count)
        sent.wait()


@case
def groups_one_after_another(comm: Any) -> None:
    """Each with memory of its own, which the device gets back."""
    comm.all_reduce(on_gpu(mine(3, comm.rank)))
    free = []
    for _ in range(20):
        other = Communicator(comm.rank, comm.size, meeting(comm), timeout=cases.CASE_S)
        tensor = on_gpu(mine(1000, comm.rank))
        other.all_reduce(tensor)  # type: ignore[arg-type]
        check(tensor, total(comm, 1000))
        other.close()
        torch.cuda.synchronize()
        comm.barrier()
        free.append(torch.cuda.mem_get_info()[0])
        comm.barrier()
    assert free[4] - free[-1] < (128 << 20) * comm.size, "memory of closed groups was kept"
