"""Cases for the torch.distributed backend "quoit", in any world; each has a group of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import quoit  # noqa: F401  (registers the backend)
from quoit import launch
from stage import CASE_S, Job

Case = Callable[[Any], None]

CASES: dict[str, Case] = {}
_TIMEOUT = timedelta(seconds=CASE_S)


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def _init(job: Job, rank: int) -> None:
    """As a script would: with no variable exported, or as torch.multiprocessing's users do."""
    if not job.kind.startswith("spawn"):
        dist.init_process_group("quoit", timeout=_TIMEOUT)
        return
    method = f"file://{job.folder}/store"
    if job.kind == "spawn-tcp":
        place = Path(job.folder) / "port"
        if rank == 0:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                (draft := place.with_suffix(".draft")).write_text(str(free.getsockname()[1]))
            draft.rename(place)
        while not place.exists():
            time.sleep(0.01)
        method = f"tcp://127.0.0.1:{place.read_text()}"
    dist.init_process_group(
        "quoit", init_method=method, rank=rank, world_size=job.size, timeout=_TIMEOUT
    )


@contextlib.contextmanager
def group(job: Job, rank: int, number: int) -> Iterator[Any]:
    torch.set_num_threads(1)
    if not dist.is_initialized():
        _init(job, rank)
        assert dist.get_rank() == rank
        assert dist.get_world_size() == job.size
    pg = dist.new_group(timeout=_TIMEOUT)
    try:
        yield pg
    finally:
        if dist.is_initialized():
            dist.destroy_process_group(pg)


def _ones(*shape: int) -> Tensor:
    """This rank's number plus one, in every element."""
    return torch.full(shape, float(dist.get_rank() + 1))


def _sum(pg: Any) -> float:
    return float(sum(range(1, dist.get_world_size(pg) + 1)))


@case
def reductions(pg: Any) -> None:
    n = dist.get_world_size(pg)
    for op, expected in (
        (dist.ReduceOp.SUM, _sum(pg)),
        (dist.ReduceOp.AVG, _sum(pg) / n),
        (dist.ReduceOp.MAX, float(n)),
        (dist.ReduceOp.MIN, 1.0),
        (dist._make_nccl_premul_sum(0.5), _sum(pg) / 2),
    ):
        x = _ones(3, 5)
        dist.all_reduce(x, op, group=pg)
        assert torch.equal(x, torch.full((3, 5), expected)), op
    bits = torch.tensor([1 << dist.get_rank()])
    dist.all_reduce(bits, dist.ReduceOp.BOR, group=pg)
    assert bits.item() == (1 << n) - 1
    x = _ones(4)
    dist.reduce(x, 0, group=pg)
    assert x[0].item() == (_sum(pg) if dist.get_rank() == 0 else dist.get_rank() + 1)
    x = torch.complex(_ones(4), -_ones(4))
    dist.all_reduce(x, group=pg)
    assert torch.equal(x, torch.full((4,), complex(_sum(pg), -_sum(pg))))


@case
def every_dtype_is_moved(pg: Any) -> None:
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.bool, torch.complex64, torch.complex128),
    ):
        x = (
            torch.arange(7).remainder(2).to(dtype)
            if dist.get_rank() == 0
            else torch.zeros(7).to(dtype)
        )
        dist.broadcast(x, 0, group=pg)
        bits = x.view(torch.uint8)
        assert torch.equal(bits, torch.arange(7).remainder(2).to(dtype).view(torch.uint8)), dtype


@case
def gathers_and_scatters(pg: Any) -> None:
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    outs = [torch.empty(3) for _ in range(n)]
    dist.all_gather(outs, _ones(3), group=pg)
    assert [out[0].item() for out in outs] == list(range(1, n + 1))
    uneven = [torch.empty(r) for r in range(n)]
    dist.all_gather(uneven, _ones(rank), group=pg)
    assert all(torch.equal(out, torch.full((r,), r + 1.0)) for r, out in enumerate(uneven))
    flat = torch.empty(2 * n)
    dist.all_gather_into_tensor(flat, _ones(2), group=pg)
    assert torch.equal(flat, torch.arange(1, n + 1).repeat_interleave(2).float())
    dist.gather(_ones(3), outs if rank == 0 else None, 0, group=pg)
    back = torch.empty(3)
    dist.scatter(back, outs if rank == 0 else None, 0, group=pg)
    assert back[0].item() == rank + 1
    own = torch.empty(4)
    dist.reduce_scatter_tensor(own, torch.arange(4.0 * n), group=pg)
    assert torch.equal(own, torch.arange(4.0 * rank, 4.0 * rank + 4) * n)
    dist.reduce_scatter(own, list(torch.arange(4.0 * n).chunk(n)), group=pg)
    assert torch.equal(own, torch.arange(4.0 * rank, 4.0 * rank + 4) * n)
    into = torch.empty(2 * n)
    dist.all_to_all_single(into, torch.arange(2.0 * n) + 100 * rank, group=pg)
    expected = torch.cat([torch.arange(2.0 * rank, 2 * rank + 2) + 100 * r for r in range(n)])
    assert torch.equal(into, expected)
    splits = [r + rank for r in range(n)]
    into = torch.empty(sum(splits), 2)
    dist.all_to_all_single(into, _ones(sum(splits), 2), splits, splits, group=pg)
    assert torch.equal(
        into[:, 0], torch.cat([torch.full((s,), r + 1.0) for r, s in enumerate(splits)])
    )
    dist.all_to_all(outs, [_ones(3) for _ in range(n)], group=pg)
    assert [out[0].item() for out in outs] == list(range(1, n + 1))


@case
def objects(pg: Any) -> None:
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    everybody: list[Any] = [None] * n
    dist.all_gather_object(everybody, {"rank": rank, "words": "x" * rank}, group=pg)
    assert everybody == [{"rank": r, "words": "x" * r} for r in range(n)]
    told = [("from", 0)] if rank == 0 else [None]
    dist.broadcast_object_list(told, 0, group=pg)
    assert told == [("from", 0)]


@case
def coalesced(pg: Any) -> None:
    n = dist.get_world_size(pg)
    tensors = [_ones(3), _ones(5)]
    pg.allreduce_coalesced(tensors).wait()
    assert [t[0].item() for t in tensors] == [_sum(pg)] * 2
    outs = [torch.empty(2 * n), torch.empty(3 * n)]
    pg.allgather_into_tensor_coalesced(outs, [_ones(2), _ones(3)]).wait()
    assert torch.equal(outs[1], torch.arange(1, n + 1).repeat_interleave(3).float())
    parts = [torch.empty(2), torch.empty(3)]
    pg.reduce_scatter_tensor_coalesced(parts, [_ones(2 * n), _ones(3 * n)]).wait()
    assert [part[0].item() for part in parts] == [_sum(pg)] * 2


@case
def layouts_that_are_not_contiguous(pg: Any) -> None:
    x = _ones(4, 6).t()[::2]
    assert not x.is_contiguous()
    dist.all_reduce(x, group=pg)
    assert torch.equal(x, torch.full((3, 4), _sum(pg)))
    image = _ones(2, 3, 4, 4).to(memory_format=torch.channels_last)
    work = dist.all_reduce(image, group=pg, async_op=True)
    assert work is not None
    work.get_future().wait()
    assert torch.equal(image, torch.full((2, 3, 4, 4), _sum(pg)))
    n = dist.get_world_size(pg)
    outs = [torch.zeros(8)[::2] for _ in range(n)]
    dist.all_gather(outs, _ones(8)[::2], group=pg)
    assert [out[3].item() for out in outs] == list(range(1, n + 1))


@case
def messages(pg: Any) -> None:
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    after, before = (rank + 1) % n, (rank - 1) % n
    one, two = torch.empty(3), torch.empty(3)
    sends = [dist.isend(_ones(3) * t, after, group=pg, tag=t) for t in (1, 2)]
    dist.recv(two, before, group=pg, tag=2)
    dist.recv(one, before, group=pg, tag=1)
    for send in sends:
        assert send is not None
        send.wait()
    assert (one[0].item(), two[0].item()) == (before + 1, 2 * (before + 1))
    big, got = torch.full((2 << 20,), float(rank)), torch.empty(2 << 20)
    for work in dist.batch_isend_irecv(
        [dist.P2POp(dist.isend, big, after, pg), dist.P2POp(dist.irecv, got, before, pg)]
    ):
        work.wait()
    assert torch.equal(got, torch.full((2 << 20,), float(before)))
    send = dist.isend(_ones(2), after, group=pg)
    assert dist.recv(any_of := torch.empty(2), None, group=pg) == before
    assert any_of[0].item() == before + 1
    assert send is not None
    send.wait()


@case
def callbacks_that_wait(pg: Any) -> None:
    """A chain of futures, each of whose callbacks waits for a collective of its own."""
    done: list[int] = []

    def link(left: int) -> Any:
        x = _ones(10)
        work = dist.all_reduce(x, group=pg, async_op=True)
        assert work is not None

        def then(_: Any) -> Tensor:
            inner = dist.all_reduce(_ones(5), group=pg, async_op=True)
            assert inner is not None
            inner.wait()
            done.append(left)
            if left > 0:
                link(left - 1).wait()
            return x

        return work.get_future().then(then)

    link(20).wait()
    assert done == list(range(20, -1, -1))


@case
def subgroups(pg: Any) -> None:
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    for members in ([0], list(range(n - 1, -1, -1)), list(range(0, n, 2))):
        sub = dist.new_group(members, timeout=_TIMEOUT)
        if rank not in members:
            continue
        x = _ones(2)
        dist.all_reduce(x, group=sub)
        assert x[0].item() == sum(member + 1 for member in members)
        dist.destroy_process_group(sub)


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 300), nn.ReLU(), nn.Linear(300, 300), nn.Linear(300, 5))


def _train(model: nn.Module, steps: int = 5) -> list[Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(dist.get_rank())
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 20)).square().mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@case
def ddp_trains_as_with_gloo(pg: Any) -> None:
    other = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    mine = _train(DistributedDataParallel(_model(), process_group=pg, bucket_cap_mb=0.1))
    theirs = _train(DistributedDataParallel(_model(), process_group=other, bucket_cap_mb=0.1))
    for a, b in zip(mine, theirs, strict=True):
        # Two numbers have one sum; three may be added in another order.
        assert torch.equal(a, b) if dist.get_world_size(pg) == 2 else torch.allclose(a, b)
    for parameter in mine:
        copies = [torch.empty_like(parameter) for _ in range(dist.get_world_size(pg))]
        dist.all_gather(copies, parameter, group=pg)
        assert all(torch.equal(one, parameter) for one in copies)
    dist.destroy_process_group(other)


@case
def workers_of_a_data_loader_are_forked(pg: Any) -> None:
    data = TensorDataset(torch.arange(32.0).reshape(16, 2), torch.arange(16.0))
    model = DistributedDataParallel(nn.Linear(2, 1), process_group=pg)
    seen = 0
    for x, _ in DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context="fork"):
        model(x).sum().backward()
        seen += len(x)
    assert seen == 16


@case
def a_forked_child_is_refused(pg: Any) -> None:
    dist.all_reduce(_ones(1), group=pg)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            dist.all_reduce(_ones(1), group=pg)
            os.write(writer, b"it worked")
        except BaseException as error:
            os.write(writer, str(error).encode()[:400])
        os._exit(0)
    os.waitpid(child, 0)
    said = os.read(reader, 1000).decode()
    os.close(reader)
    os.close(writer)
    assert "forked child process" in said, said
    dist.all_reduce(_ones(1), group=pg)  # the parent goes on


@case
def wrong_requests(pg: Any) -> None:
    with pytest.raises(ValueError, match="BAND of float32 has no meaning"):
        dist.all_reduce(_ones(2), dist.ReduceOp.BAND, group=pg)
    with pytest.raises(ValueError, match="split sizes add up to 3"):
        dist.all_to_all_single(
            torch.empty(12),
            torch.empty(12),
            [3] + [0] * (dist.get_world_size(pg) - 1),
            None,
            group=pg,
        )
    dist.barrier(group=pg)  # none of these did any harm


@case
def ranks_that_disagree(pg: Any) -> None:
    rank, n = dist.get_rank(), dist.get_world_size(pg)
    if n == 1:
        return
    dist.barrier(group=pg)
    began = time.monotonic()
    with pytest.raises((ValueError, dist.DistBackendError), match="ranks disagree") as caught:
        dist.all_reduce(_ones(12 if rank == n - 1 else 16), group=pg)
    assert time.monotonic() - began < 1
    assert "float32[12]" in str(caught.value)
    assert "float32[16]" in str(caught.value)
    with pytest.raises(dist.DistBackendError, match="ranks disagree"):
        dist.barrier(group=pg)


@case
def a_short_timeout(pg: Any) -> None:
    hasty = dist.new_group(timeout=timedelta(seconds=0.5))
    if dist.get_rank() == 0 and dist.get_world_size(pg) > 1:
        work = dist.barrier(group=hasty, async_op=True)
        assert work is not None
        with pytest.raises(dist.DistBackendError, match="barrier #1: timed out waiting for"):
            work.wait()
    dist.barrier(group=pg)
    dist.destroy_process_group(hasty)


@case
def mpi4py_beside(pg: Any) -> None:
    """Under mpirun only: messages of mpi4py's users and ours do not meet."""
    started_by = launch.detect()
    if started_by is None or started_by.launcher not in ("mpich", "openmpi"):
        return
    # mpi4py's wheel looks where the linker looks, and the tests' MPIs are elsewhere.
    os.environ["MPI4PY_LIBMPI"] = str(launch.find_mpi_library(started_by))
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    assert (world.rank, world.size) == (dist.get_rank(), dist.get_world_size())
    after, before = (world.rank + 1) % world.size, (world.rank - 1) % world.size
    for i in range(50):
        request = world.isend(("mpi4py", i), dest=after, tag=i)
        x = _ones(1000)
        dist.all_reduce(x, group=pg)
        assert x[0].item() == _sum(pg)
        assert world.recv(source=before, tag=i) == ("mpi4py", i)
        request.wait()
    assert world.allreduce(1) == world.size


@case
def z_destroy_and_begin_again(pg: Any) -> None:
    """Last, because it takes the default group away. A store may outlive it (torchrun's does)."""
    if "RANK" not in os.environ:
        return  # torch.multiprocessing's ranks meet where a program says, once
    dist.destroy_process_group()
    for _ in range(3):
        dist.init_process_group("quoit", timeout=_TIMEOUT)
        x = _ones(4)
        dist.all_reduce(x)
        assert x[0].item() == sum(range(1, dist.get_world_size() + 1))
        dist.destroy_process_group()
