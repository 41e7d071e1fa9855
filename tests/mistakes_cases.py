"""Mistakes that programs make with torch.distributed, each played by every rank of a small group.

mistakes.py is their program. A case joins the group, calls `begin()` just before the mistake, and
makes it: what it raises is noted, what it returns is a wrong result, or nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT_S = 6.0  # of every group
LIMIT_S = 15.0  # after which a rank that still waits is killed
LATE_S = 2.0
FOREVER_S = 120.0  # longer than anybody looks

# Bytes that a stranger sends to an open port: other protocols, zeros, and large lengths.
GARBAGE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\0" * 4096,
    b"\xff" * 65536,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 100,
)


class Rank:
    """One rank of a mistake: who it is, and what it tells the harness."""

    def __init__(self, backend: str, mistake: str, rank: int, size: int, folder: str) -> None:
        self.backend, self.mistake, self.rank, self.size = backend, mistake, rank, size
        self.folder = Path(folder)

    def join(self, rank: int | None = None, size: int | None = None) -> None:
        dist.init_process_group(
            self.backend,
            init_method=f"file://{self.folder}/meet",
            rank=self.rank if rank is None else rank,
            world_size=self.size if size is None else size,
            timeout=timedelta(seconds=TIMEOUT_S),
        )

    def ready(self) -> None:
        """Joins, and makes sure that the group works."""
        self.join()
        data = torch.ones(4)
        dist.all_reduce(data)
        assert data.tolist() == [self.size] * 4

    def begin(self) -> None:
        self.note("begin", time.monotonic())

    def note(self, what: str, said: object) -> None:
        write(self.folder / f"{what}{self.rank}", said)

    def wait_for(self, name: str, limit_s: float = FOREVER_S) -> None:
        deadline = time.monotonic() + limit_s
        while not (self.folder / name).exists() and time.monotonic() < deadline:
            time.sleep(0.005)

    @property
    def last(self) -> bool:
        return self.rank == self.size - 1


def write(path: Path, said: object) -> None:
    """Readers see all of it or nothing."""
    draft = path.with_name(f".{path.name}")
    draft.write_text(json.dumps(said))
    draft.rename(path)


Play = Callable[[Rank], "str | None"]


@dataclass(frozen=True)
class Mistake:
    """
    title: its name in the table. size: how many ranks play it.
    raises: the ranks that quoit tells; by default all. spared: those that make the mistake by
        ending or by staying away, and so tell nothing.
    names: what every such rank must be told, a pattern in which {other} is "rank " and the other
        one's number (of two ranks).
    quick: whether quoit tells at once, and not at the timeout.
    place: "" for a process forked from one that has loaded torch, "fresh" for one of its own,
        "hosts" for a network namespace for each rank, "no shm" for a full /dev/shm, "mpich" for
        MPICH's mpirun.
    event: what the harness does when all ranks have begun: "cut", "garbage" or "interrupt".
    env: for every rank, {rank} is its number.
    """

    name: str
    title: str
    play: Play
    size: int = 2
    raises: tuple[int, ...] = (0, 1)
    spared: tuple[int, ...] = ()
    names: str = ""
    quick: bool = True
    place: str = ""
    event: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


MISTAKES: dict[str, Mistake] = {}


def mistake(title: str, **options: Any) -> Callable[[Play], Play]:
    def add(play: Play) -> Play:
        name = play.__name__
        MISTAKES[name] = Mistake(name, title, play, **options)
        return play

    return add


def pick(rank: Rank, first: Any, last: Any) -> Any:
    return last if rank.last else first


def unlike(data: torch.Tensor, expected: float) -> str | None:
    """What is wrong with a result, when it is not `expected` everywhere."""
    if bool((data == expected).all()):
        return None
    return f"got {data.flatten()[:6].tolist()}, not {expected}"


# Ranks that do not do the same.

DISAGREE = "ranks disagree.*{other} called"


def all_reduce_of(sizes: tuple[int, int]) -> Play:
    def play(rank: Rank) -> str | None:
        rank.ready()
        data = torch.ones(pick(rank, *sizes))
        rank.begin()
        dist.all_reduce(data)
        return unlike(data, 2) or "a sum of unlike tensors"

    return play


for _name, _sizes in (("another_size", (12, 16)), ("another_large_size", (1000, 2000))):
    _title = f"all_reduce of {_sizes[0]} and of {_sizes[1]} floats"
    MISTAKES[_name] = Mistake(_name, _title, all_reduce_of(_sizes), names=DISAGREE)


@mistake("all_reduce of float32 and of int32", names=DISAGREE)
def another_dtype(rank: Rank) -> str | None:
    rank.ready()
    data = torch.ones(8, dtype=pick(rank, torch.float32, torch.int32))
    rank.begin()
    dist.all_reduce(data)
    return unlike(data, 2)


@mistake("all_reduce: SUM against MAX", names=DISAGREE)
def sum_against_max(rank: Rank) -> str | None:
    rank.ready()
    data = torch.full((4,), rank.rank + 1.0)
    rank.begin()
    dist.all_reduce(data, pick(rank, dist.ReduceOp.SUM, dist.ReduceOp.MAX))
    return f"got {data.tolist()}"


@mistake("all_reduce against broadcast", names=DISAGREE)
def another_operation(rank: Rank) -> str | None:
    rank.ready()
    data = torch.ones(8)
    rank.begin()
    if rank.last:
        dist.broadcast(data, 0)
    else:
        dist.all_reduce(data)
    return unlike(data, 2)


@mistake("two all_reduces of different sizes in another order", names=DISAGREE)
def another_order(rank: Rank) -> str | None:
    rank.ready()
    tensors = [torch.ones(8), torch.ones(32)]
    rank.begin()
    for data in reversed(tensors) if rank.last else tensors:
        dist.all_reduce(data)
    return unlike(tensors[0], 2) or unlike(tensors[1], 2)


@mistake("two all_reduces of the same size in another order", raises=())
def another_order_of_equals(rank: Rank) -> str | None:
    """Nothing tells them apart: no library can know."""
    rank.ready()
    tensors = [torch.full((8,), 1.0), torch.full((8,), 10.0)]
    rank.begin()
    for data in reversed(tensors) if rank.last else tensors:
        dist.all_reduce(data)
    return unlike(tensors[0], 2)


@mistake("broadcast from root 0 and from root 1", names=DISAGREE)
def another_root(rank: Rank) -> str | None:
    rank.ready()
    data = torch.full((8,), float(rank.rank))
    rank.begin()
    dist.broadcast(data, rank.rank)
    return "each rank kept its own"


def all_to_all_with(rank: Rank, splits: list[int]) -> str | None:
    """Rank 1 expects `splits` where both ranks send 2 and 2."""
    rank.ready()
    splits = splits if rank.last else [2, 2]
    memory = torch.zeros(sum(splits) + 4)
    into, behind = memory[: sum(splits)], memory[sum(splits) :]
    rank.begin()
    dist.all_to_all_single(into, torch.ones(4), splits, [2, 2])
    if bool(behind.any()):
        return "it wrote beyond the end of the output"
    return unlike(into, 1)


@mistake(
    "all_to_all_single: rank 1 expects 3 elements of rank 0, which sends 2",
    names="bytes, this rank expected",
)
def unfit_splits(rank: Rank) -> str | None:
    return all_to_all_with(rank, [3, 2])


@mistake("all_to_all_single: rank 1 expects 3 elements of itself, and sends 2", quick=False)
def unfit_split_of_its_own(rank: Rank) -> str | None:
    return all_to_all_with(rank, [2, 3])


@mistake("all_to_all_single: rank 1 expects 1 element of itself, and sends 2", quick=False)
def short_split_of_its_own(rank: Rank) -> str | None:
    return all_to_all_with(rank, [2, 1])


@mistake("recv of 12 floats, 16 were sent", raises=(1,), names="{other}")
def another_size_received(rank: Rank) -> str | None:
    rank.ready()
    rank.begin()
    if rank.rank == 0:
        dist.send(torch.ones(16), 1)
        return None
    data = torch.zeros(12)
    dist.recv(data, 0)
    return f"got {data[:4].tolist()} of another size"


@mistake("recv of int32, as many float32 were sent", raises=())
def another_dtype_received(rank: Rank) -> str | None:
    rank.ready()
    rank.begin()
    if rank.rank == 0:
        dist.send(torch.ones(4), 1)
        return None
    data = torch.zeros(4, dtype=torch.int32)
    dist.recv(data, 0)
    return unlike(data, 1)


@mistake("send with tag 1, recv with tag 2", raises=(1,), names="timed out.*{other}", quick=False)
def another_tag(rank: Rank) -> str | None:
    rank.ready()
    rank.begin()
    if rank.rank == 0:
        dist.send(torch.ones(4), 1, tag=1)
    else:
        dist.recv(torch.zeros(4), 0, tag=2)
    return None


@mistake("both ranks send 4 MiB before they receive", raises=())
def both_send_first(rank: Rank) -> str | None:
    rank.ready()
    data = torch.full((1 << 20,), float(rank.rank))
    into = torch.zeros(1 << 20)
    rank.begin()
    dist.send(data, 1 - rank.rank)
    dist.recv(into, 1 - rank.rank)
    return unlike(into, 1 - rank.rank)


# Groups.


@mistake(
    "new_group of [0, 1] and of [0, 1, 2] made in another order",
    size=3,
    raises=(0, 1),
    names="ranks disagree about the process group.*ranks 0, 1(, 2)? of the job",
)
def groups_made_in_another_order(rank: Rank) -> str | None:
    rank.ready()
    rank.begin()
    members = [[0, 1], [0, 1, 2]]
    groups = {}
    for ranks in reversed(members) if rank.rank == 1 else members:
        groups[len(ranks)] = dist.new_group(ranks, timeout=timedelta(seconds=TIMEOUT_S))
    data = torch.ones(4)
    dist.all_reduce(data, group=groups[3])
    return unlike(data, 3)


@mistake(
    "new_group of [0, 1] on rank 0, of [1, 2] on ranks 1 and 2",
    size=3,
    raises=(0, 1, 2),
    names="ranks (0, 1|1, 2) of the job",
    quick=False,  # it is, unless 1 and 2 meet before 0 comes
)
def groups_of_other_ranks(rank: Rank) -> str | None:
    rank.ready()
    rank.begin()
    ranks = [0, 1] if rank.rank == 0 else [1, 2]
    group = dist.new_group(ranks, timeout=timedelta(seconds=TIMEOUT_S))
    data = torch.ones(4)
    dist.all_reduce(data, group=group)
    return unlike(data, 2)


@mistake("two groups of the same ranks used in another order", names="timed out", quick=False)
def groups_used_in_another_order(rank: Rank) -> str | None:
    rank.ready()
    timeout = timedelta(seconds=TIMEOUT_S)  # a new group does not take that of the default one
    groups = [dist.new_group([0, 1], timeout=timeout) for _ in range(2)]
    data = torch.ones(4)
    rank.begin()
    for group in reversed(groups) if rank.last else groups:
        dist.all_reduce(data, group=group)
    return unlike(data, 4)


@mistake("a group used after destroy_process_group")
def use_after_destroy(rank: Rank) -> str | None:
    rank.ready()
    group = dist.new_group([0, 1])
    dist.destroy_process_group()
    rank.begin()
    data = torch.ones(4)
    work = group.allreduce([data])
    work.wait()
    return f"it went on as if nothing had happened: got {data.tolist()}"


# Ranks that are not there.


@mistake("a rank does not call (it sleeps)", raises=(0,), spared=(1,), names="{other}", quick=False)
def missing_rank(rank: Rank) -> str | None:
    rank.ready()
    rank.begin()
    if rank.last:
        time.sleep(FOREVER_S)
    dist.all_reduce(torch.ones(4))
    return None


@mistake(
    "a rank never calls init_process_group", raises=(0,), spared=(1,), names="{other}", quick=False
)
def missing_at_the_start(rank: Rank) -> str | None:
    rank.begin()
    if rank.last:
        time.sleep(FOREVER_S)
    rank.ready()
    return None


@mistake(f"a rank comes {LATE_S:.0f} s late, within the timeout", raises=())
def late_rank(rank: Rank) -> str | None:
    rank.ready()
    rank.begin()
    if rank.last:
        time.sleep(LATE_S)
    data = torch.ones(4)
    dist.all_reduce(data)
    return unlike(data, 2)


def reduce_on(rank: Rank) -> None:
    """Until it fails; the last rank does not come back from the 20th."""
    rank.ready()
    data = torch.ones(1000)
    for _ in range(20):
        dist.all_reduce(data, dist.ReduceOp.MAX)
    rank.begin()
    if not rank.last:
        dist.all_reduce(data, dist.ReduceOp.MAX)


@mistake("a rank of three is killed (kill -9)", size=3, spared=(2,), names="rank 2 died \\(process")
def killed_rank(rank: Rank) -> str | None:
    reduce_on(rank)
    if rank.last:
        os.kill(os.getpid(), signal.SIGKILL)
    return None


APART = {"QUOIT_HOST": "host{rank}", "QUOIT_IFACE": "lo"}


@mistake(
    "a rank of three is killed, on another host",
    size=3,
    spared=(2,),
    names="rank 2",
    env=APART,
)
def killed_on_another_host(rank: Rank) -> str | None:
    return killed_rank(rank)


@mistake("a rank is stopped (SIGSTOP)", raises=(0,), spared=(1,), names="{other}", quick=False)
def stopped_rank(rank: Rank) -> str | None:
    reduce_on(rank)
    if rank.last:
        os.kill(os.getpid(), signal.SIGSTOP)
    return None


@mistake(
    "a rank's program ends early", raises=(0,), spared=(1,), names="{other} left", place="fresh"
)
def early_end(rank: Rank) -> str | None:
    reduce_on(rank)
    if rank.last:
        sys.exit(0)
    return None


@mistake(
    "a rank's program ends by an exception",
    raises=(0,),
    spared=(1,),
    names="{other}",
    place="fresh",
)
def early_exception(rank: Rank) -> str | None:
    reduce_on(rank)
    if rank.last:
        sys.excepthook(ValueError, ValueError("the program's own mistake"), None)
        sys.last_value = ValueError()
        sys.exit(1)
    return None


@mistake(
    "a host is cut off from the network",
    names="timed out.*{other}",
    quick=False,
    place="hosts",
    event="cut",
)
def cut_network(rank: Rank) -> str | None:
    rank.ready()
    rank.begin()
    data = torch.ones(100_000)
    while True:
        dist.all_reduce(data, dist.ReduceOp.MAX)


@mistake("garbage is sent to every open port", raises=(), env=APART, event="garbage")
def garbage_on_the_port(rank: Rank) -> str | None:
    rank.join()  # no more: where connections are made at the first message, none is there yet
    for turn in ("1", "2"):
        rank.note(f"begin{turn}-", 0)
        if turn == "1":
            rank.begin()
        rank.wait_for(f"garbage{turn}")
        for _ in range(20):
            data = torch.ones(100_000)
            dist.all_reduce(data)
            if said := unlike(data, 2):
                return said
    return None


@mistake("Ctrl-C on a rank that waits", raises=(0,), spared=(1,), event="interrupt")
def interrupted(rank: Rank) -> str | None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rank.ready()
    rank.begin()
    if rank.last:
        time.sleep(FOREVER_S)
    dist.all_reduce(torch.ones(4))
    return None


# Starting.


def by_environment(rank: Rank) -> None:
    rank.begin()
    dist.init_process_group(rank.backend, timeout=timedelta(seconds=TIMEOUT_S))


@mistake("plain `python`: no launcher, no environment", place="fresh")
def no_launcher(rank: Rank) -> str | None:
    by_environment(rank)
    return f"each process is alone: a group of {dist.get_world_size()}"


@mistake(
    "RANK is set, WORLD_SIZE is not", names="WORLD_SIZE", place="fresh", env={"RANK": "{rank}"}
)
def half_an_environment(rank: Rank) -> str | None:
    by_environment(rank)
    return f"a group of {dist.get_world_size()}"


TWO = {"PMI_RANK": "{rank}", "PMI_SIZE": "2", "RANK": "{rank}", "WORLD_SIZE": "4"}


@mistake(
    "two launchers: mpirun -n 2, RANK and WORLD_SIZE=4 of another job",
    names="two launchers",
    place="fresh",
    env=TWO,
)
def two_launchers(rank: Rank) -> str | None:
    by_environment(rank)
    return f"a group of {dist.get_world_size()}"


@mistake(
    "the same with MASTER_ADDR and MASTER_PORT, which torch obeys",
    quick=False,
    place="fresh",
    env={**TWO, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "{port}"},
)
def two_launchers_and_an_address(rank: Rank) -> str | None:
    by_environment(rank)
    return f"a group of {dist.get_world_size()}"


@mistake(
    "MPICH's mpirun with Open MPI's library (nothing exported for gloo)",
    names="MPICH.*Open MPI",
    place="mpich",
    env={"QUOIT_MPI_LIBRARY": "{openmpi}", "QUOIT_TRANSPORT": "mpi"},
)
def wrong_launcher(rank: Rank) -> str | None:
    by_environment(rank)
    return f"a group of {dist.get_world_size()}"


@mistake(
    "the ranks say different world sizes, 2 and 3",
    names="ranks disagree about the process group.*rank 0 of 2.*rank 1 of 3|"
    "ranks disagree about the process group.*rank 1 of 3.*rank 0 of 2",
)
def another_world_size(rank: Rank) -> str | None:
    rank.begin()
    rank.join(size=pick(rank, 2, 3))
    data = torch.ones(4)
    dist.all_reduce(data)
    return unlike(data, 2)


@mistake(
    "two processes of three say that they are rank 1",
    size=3,
    raises=(0, 1, 2),
    names="two processes join the process group as rank 1 of 3",
)
def twice_the_same_rank(rank: Rank) -> str | None:
    rank.begin()
    rank.join(rank=min(rank.rank, 1))
    return None


@mistake(
    "a third process says that it is rank 1 of 2",
    size=3,
    raises=(2,),
    names="is this process a second one with that rank",
    quick=False,
)
def one_rank_too_many(rank: Rank) -> str | None:
    if rank.rank == 2:
        rank.wait_for("met1")
    rank.begin()
    rank.join(rank=min(rank.rank, 1), size=2)
    rank.note("met", True)
    data = torch.ones(4)
    dist.all_reduce(data)
    return unlike(data, 2)


@mistake("/dev/shm is full", raises=(), place="no shm")
def full_dev_shm(rank: Rank) -> str | None:
    rank.begin()
    rank.join()
    data = torch.ones(1 << 20)
    dist.all_reduce(data)
    return unlike(data, 2)


@mistake(
    "a forked child of rank 0 (a DataLoader worker) uses the group", raises=(0,), names="forked"
)
def fork_after_init(rank: Rank) -> str | None:
    """Rank 0 tells what its child met."""
    rank.ready()
    rank.begin()
    data = torch.ones(4)
    if rank.rank == 0:
        child = os.fork()
        if child == 0:
            said = "no error"
            try:
                dist.all_reduce(data)
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            write(rank.folder / "child", said)
            os._exit(0)
        rank.wait_for("child", LIMIT_S - 2)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if not (rank.folder / "child").exists():
            time.sleep(FOREVER_S)  # the child still waits, and so did its parent
        kind, _, words = json.loads((rank.folder / "child").read_text()).partition(": ")
        rank.note("time", time.monotonic())
        dist.all_reduce(data)
        raise Told(kind, words)
    dist.all_reduce(data)
    return unlike(data, 2)


@mistake("all_reduce of an expanded tensor, all of whose elements are one")
def expanded_tensor(rank: Rank) -> str | None:
    rank.ready()
    memory = torch.ones(8)
    rank.begin()
    dist.all_reduce(memory[:1].expand(4))
    return unlike(memory[:1], 2) or unlike(memory[1:], 1)


class Told(Exception):
    """What another process raised: its type and its words."""


# Calls that mean nothing.


def every_rank(title: str, call: Callable[[Rank], Any], name: str, **options: Any) -> None:
    def play(rank: Rank) -> str | None:
        rank.ready()
        rank.begin()
        call(rank)
        return "it was accepted"

    MISTAKES[name] = Mistake(name, title, play, **options)


def _on_meta(rank: Rank) -> None:
    """To the backend itself: torch answers for a meta tensor without asking it."""
    backend = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
    backend.allreduce([torch.ones(4, device="meta")]).wait()


def _ints(dtype: torch.dtype) -> torch.Tensor:
    return torch.ones(4, dtype=dtype)


every_rank(
    "BXOR of floats", lambda r: dist.all_reduce(torch.ones(4), dist.ReduceOp.BXOR), "xor_of_floats"
)
every_rank(
    "AVG of bools", lambda r: dist.all_reduce(_ints(torch.bool), dist.ReduceOp.AVG), "avg_of_bools"
)
every_rank(
    "SUM of float8",
    lambda r: dist.all_reduce(torch.ones(4).to(torch.float8_e4m3fn)),
    "sum_of_float8",
)
every_rank("a tensor that is not on the CPU (meta, for want of CUDA)", _on_meta, "another_device")
every_rank(
    "all_reduce of sparse tensors with MAX",
    lambda r: dist.all_reduce(torch.eye(4).to_sparse(), dist.ReduceOp.MAX),
    "max_of_sparse",
)
every_rank(
    "send and recv with tag -2",
    lambda r: (
        dist.send(torch.ones(4), 1, tag=-2) if r.rank == 0 else dist.recv(torch.ones(4), 0, tag=-2)
    ),
    "negative_tag",
)
every_rank("broadcast from rank 7 of 2", lambda r: dist.broadcast(torch.ones(4), 7), "no_such_rank")
every_rank(
    "all_gather into 3 tensors, of 2 ranks",
    lambda r: dist.all_gather([torch.ones(4) for _ in range(3)], torch.ones(4)),
    "too_many_outputs",
)
every_rank(
    "reduce_scatter_tensor of 7 elements to 2 ranks",
    lambda r: dist.reduce_scatter_tensor(torch.ones(3), torch.ones(7)),
    "uneven_scatter",
)
