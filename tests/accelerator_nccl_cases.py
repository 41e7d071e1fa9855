"""Cases for the fake NCCL: two ranks, which are processes, call it by ctypes."""

from __future__ import annotations

import ctypes
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import accelerator
from accelerator_cases import DELAY_S, all_are, pinned, stream
from stage import CASE_S, Job

ABORT_S = 5.0  # that an abort may take on a loaded machine
SIZE = 2
SUCCESS, INVALID_ARGUMENT, INVALID_USAGE, IN_PROGRESS = 0, 4, 5, 7
SUM, PROD, MAX, MIN, AVG = range(5)
TYPES = {
    torch.int8: 0,
    torch.uint8: 1,
    torch.int32: 2,
    torch.int64: 4,
    torch.float16: 6,
    torch.float32: 7,
    torch.float64: 8,
    torch.bfloat16: 9,
    torch.float8_e4m3fn: 10,
    torch.float8_e5m2: 11,
}

Comm = ctypes.c_void_p


class Unique(ctypes.Structure):
    _fields_ = (("internal", ctypes.c_byte * 128),)


class Config(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("magic", ctypes.c_uint),
        ("version", ctypes.c_uint),
        ("blocking", ctypes.c_int),
    )


@functools.cache
def nccl() -> ctypes.CDLL:
    library = ctypes.CDLL(str(accelerator.NCCL_LIBRARY))
    library.fakenccl_calls.restype = ctypes.c_long
    library.ncclGetErrorString.restype = ctypes.c_char_p
    library.ncclGetLastError.restype = ctypes.c_char_p
    return library


def call(name: str, *arguments: object) -> int:
    """Tensors are given as their address, streams as their native handle."""
    return int(getattr(nccl(), name)(*(_plain(value) for value in arguments)))


def do(name: str, *arguments: object) -> None:
    if result := call(name, *arguments):
        raise AssertionError(f"{name} gave {result}: {nccl().ncclGetLastError(None).decode()}")


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, torch.Stream):
        return ctypes.c_void_p(value.native_handle)  # type: ignore[attr-defined]
    return value


def until(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + CASE_S
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {CASE_S} s")
        time.sleep(0.005)


class Rank:
    """One of the two, in one case; folder: where they leave their unique ids."""

    def __init__(self, rank: int, folder: Path) -> None:
        self.rank, self.peer, self.folder = rank, 1 - rank, folder
        self._numbers = itertools.count()

    def unique(self) -> Unique:
        """The same on both ranks."""
        file = self.folder / str(next(self._numbers))
        made = Unique()
        if self.rank == 0:
            do("ncclGetUniqueId", ctypes.byref(made))
            new = file.with_suffix(".new")
            new.write_bytes(bytes(made))
            new.rename(file)
            return made
        until(file.exists)
        return Unique.from_buffer_copy(file.read_bytes())

    @contextmanager
    def communicator(self) -> Iterator[Comm]:
        comm = Comm()
        do("ncclCommInitRank", ctypes.byref(comm), SIZE, self.unique(), self.rank)
        try:
            yield comm
        except BaseException:
            call("ncclCommAbort", comm)
            raise
        do("ncclCommDestroy", comm)


Case = Callable[[Rank], None]

CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


@contextmanager
def group(job: Job, rank: int, number: int) -> Iterator[Rank]:
    accelerator.install()
    folder = Path(job.folder) / str(number)
    folder.mkdir(exist_ok=True)
    yield Rank(rank, folder)


@contextmanager
def one_group(expected: int = SUCCESS) -> Iterator[None]:
    do("ncclGroupStart")
    yield
    assert call("ncclGroupEnd") == expected


def state(comm: Comm) -> int:
    result = ctypes.c_int()
    do("ncclCommGetAsyncError", comm, ctypes.byref(result))
    return result.value


def sends(
    name: str, data: torch.Tensor, peer: int, comm: Comm, on: torch.Stream | None = None
) -> None:
    on = on or torch.accelerator.current_stream()
    do(name, data, ctypes.c_size_t(data.numel()), TYPES[data.dtype], peer, comm, on)


def rank_data(dtype: torch.dtype, rank: int, count: int = 37) -> torch.Tensor:
    """1, 2, 3 and 4 in another order on each rank: their products are exact in every dtype."""
    return ((torch.arange(count) * (rank + 1) + rank) % 4 + 1).to(dtype)


def reduced(op: int, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """In the dtype of both, of what was computed in float64."""
    one, other = left.double(), right.double()
    if op == PROD:
        total = one * other
    elif op in (MAX, MIN):
        total = torch.maximum(one, other) if op == MAX else torch.minimum(one, other)
    else:
        total = one + other
    if op == AVG:
        total = total / 2 if left.dtype.is_floating_point else total // 2
    return total.to(left.dtype)


@case
def every_type_and_reduction(me: Rank) -> None:
    now = torch.accelerator.current_stream()
    with me.communicator() as comm:
        for dtype, number in TYPES.items():
            mine = rank_data(dtype, me.rank).to("fake")
            out = torch.empty_like(mine)
            for op in range(5):
                count = ctypes.c_size_t(mine.numel())
                do("ncclAllReduce", mine, out, count, number, op, comm, now)
                expected = reduced(op, rank_data(dtype, 0), rank_data(dtype, 1))
                assert torch.equal(out.cpu().double(), expected.double()), (dtype, op)


@case
def the_other_collectives(me: Rank) -> None:
    now = torch.accelerator.current_stream()
    parts = [rank_data(torch.float32, rank, 10) for rank in range(SIZE)]
    mine, total = parts[me.rank].to("fake"), parts[0] + parts[1]
    ten, five = ctypes.c_size_t(10), ctypes.c_size_t(5)
    number = TYPES[torch.float32]
    with me.communicator() as comm:
        out = torch.zeros(20, device="fake")
        do("ncclAllGather", mine, out, ten, number, comm, now)
        assert torch.equal(out.cpu(), torch.cat(parts))
        out = torch.zeros(5, device="fake")
        do("ncclReduceScatter", mine, out, five, number, SUM, comm, now)
        assert torch.equal(out.cpu(), total[5 * me.rank : 5 * me.rank + 5])
        out = torch.zeros(10, device="fake")
        do("ncclBroadcast", mine, out, ten, number, 1, comm, now)
        assert torch.equal(out.cpu(), parts[1])
        do("ncclReduce", mine, out, ten, number, MAX, 0, comm, now)
        assert torch.equal(out.cpu(), torch.maximum(*parts) if me.rank == 0 else parts[1])
        do("ncclAllReduce", mine, mine, ten, number, SUM, comm, now)  # in place
        assert torch.equal(mine.cpu(), total)


@case
def a_scaled_sum(me: Rank) -> None:
    now = torch.accelerator.current_stream()
    with me.communicator() as comm:
        for device in (False, True):
            factor = torch.tensor([2.0 + me.rank], device="fake" if device else "cpu")
            op = ctypes.c_int()
            number = TYPES[torch.float32]
            do("ncclRedOpCreatePreMulSum", ctypes.byref(op), factor, number, int(not device), comm)
            data = torch.ones(3, device="fake")
            do("ncclAllReduce", data, data, ctypes.c_size_t(3), number, op.value, comm, now)
            assert data.tolist() == [5, 5, 5]
            do("ncclRedOpDestroy", op.value, comm)
            assert call("ncclRedOpDestroy", op.value, comm) == INVALID_ARGUMENT


@case
def both_directions_in_one_group(me: Rank) -> None:
    """More than a socket holds, both ranks sending first, twice, and each to itself."""
    count = 1 << 20
    data = [torch.full((count,), 1.0 + me.rank + 2 * i, device="fake") for i in range(2)]
    heard = [torch.zeros(count, device="fake") for _ in range(2)]
    own = torch.zeros(count, device="fake")
    with me.communicator() as comm:
        with one_group():
            for tensor in data:
                sends("ncclSend", tensor, me.peer, comm)
            sends("ncclSend", data[0], me.rank, comm)
            sends("ncclRecv", own, me.rank, comm)
            for tensor in heard:
                sends("ncclRecv", tensor, me.peer, comm)
        for i in range(2):
            assert all_are(heard[i].cpu(), 1.0 + me.peer + 2 * i)
        assert torch.equal(own.cpu(), data[0].cpu())


@case
def a_group_of_two_communicators_and_two_streams(me: Rank) -> None:
    """The ranks name the two in opposite orders, and one communicator is on both streams."""
    count = 1 << 20
    side, now = stream(), torch.accelerator.current_stream()
    data = torch.full((count,), 1.0 + me.rank, device="fake")
    with me.communicator() as first, me.communicator() as second:
        for readers in ((side, now), (now, side)):
            heard = {on: torch.zeros(count, device="fake") for on in readers}
            other = torch.zeros(count, device="fake")
            torch.accelerator.synchronize()
            with accelerator.delay(DELAY_S), one_group():
                for comm in (first, second) if me.rank == 0 else (second, first):
                    sends("ncclSend", data, me.peer, comm)
                    sends("ncclRecv", heard[now] if comm is first else other, me.peer, comm)
                sends("ncclSend", data, me.peer, second, side)
                sends("ncclRecv", heard[side], me.peer, second, side)
            # Either stream, looked at first and alone, is behind the group.
            for on in readers:
                with on:
                    assert all_are(heard[on].cpu(), 1.0 + me.peer)
            assert all_are(other.cpu(), 1.0 + me.peer)


@case
def work_is_on_the_stream(me: Rank) -> None:
    """Behind what is queued there, without the caller; a stream that does not wait sees none."""
    data, early, late = torch.zeros(1000, device="fake"), pinned(5), pinned(5)
    side, other = stream(), stream()
    source = pinned(1)
    torch.accelerator.synchronize()
    with me.communicator() as comm:
        with accelerator.delay(DELAY_S), side:
            data.copy_(source, non_blocking=True)
            number = TYPES[torch.float32]
            do("ncclAllReduce", data, data, ctypes.c_size_t(1000), number, SUM, comm, side)
        done = side.record_event()
        with other:
            early.copy_(data, non_blocking=True)
        other.synchronize()
        assert all_are(early, 0)
        other.wait_event(done)
        with other:
            late.copy_(data, non_blocking=True)
        other.synchronize()
        assert all_are(late, SIZE)


@case
def a_non_blocking_communicator(me: Rank) -> None:
    config = Config(ctypes.sizeof(Config), 0xCAFEBEEF, 21903, 0)
    comm = Comm()
    begun = call(
        "ncclCommInitRankConfig",
        ctypes.byref(comm),
        SIZE,
        me.unique(),
        me.rank,
        ctypes.byref(config),
    )
    assert begun == IN_PROGRESS
    until(lambda: state(comm) == SUCCESS)
    data, heard = torch.full((3,), 1.0 + me.rank, device="fake"), torch.zeros(3, device="fake")
    torch.accelerator.synchronize()
    for expected in (IN_PROGRESS, SUCCESS):
        with one_group(expected):
            sends("ncclSend", data, me.peer, comm)
            sends("ncclRecv", heard, me.peer, comm)
        until(lambda: state(comm) == SUCCESS)
        assert all_are(heard.cpu(), 1.0 + me.peer)
    assert call("ncclCommFinalize", comm) == IN_PROGRESS
    until(lambda: state(comm) == SUCCESS)
    do("ncclCommDestroy", comm)
    assert call("ncclCommDestroy", comm) == INVALID_ARGUMENT


@case
def an_abort_frees_a_rank_that_waits(me: Rank) -> None:
    """Rank 1 takes no part; the work of rank 0, and what is queued behind it, then ends."""
    comm = Comm()
    do("ncclCommInitRank", ctypes.byref(comm), SIZE, me.unique(), me.rank)
    if me.rank == 0:
        side = stream()
        data = torch.ones(1000, device="fake")
        torch.accelerator.synchronize()
        number = TYPES[torch.float32]
        for _ in range(2):
            do("ncclAllReduce", data, data, ctypes.c_size_t(1000), number, SUM, comm, side)
        time.sleep(DELAY_S)
        assert not side.query()
        begin = time.monotonic()
        do("ncclCommAbort", comm)
        side.synchronize()
        assert time.monotonic() - begin < ABORT_S
        assert all_are(data.cpu(), 1)
    else:
        do("ncclCommAbort", comm)


@case
def an_abort_frees_a_rank_that_is_alone(me: Rank) -> None:
    """Only rank 0 comes, without blocking."""
    config = Config(ctypes.sizeof(Config), 0xCAFEBEEF, 21903, 0)
    comm, meeting = Comm(), me.unique()
    if me.rank == 0:
        begun = call(
            "ncclCommInitRankConfig", ctypes.byref(comm), SIZE, meeting, 0, ctypes.byref(config)
        )
        assert begun == IN_PROGRESS
        data = torch.ones(3, device="fake")
        stuck = call(
            "ncclSend", data, ctypes.c_size_t(3), 7, 1, comm, torch.accelerator.current_stream()
        )
        assert stuck == INVALID_ARGUMENT
        assert state(comm) == IN_PROGRESS
        do("ncclCommAbort", comm)


@case
def a_wrong_length_is_an_error(me: Rank) -> None:
    comm = Comm()
    do("ncclCommInitRank", ctypes.byref(comm), SIZE, me.unique(), me.rank)
    data = torch.zeros(3 + me.rank, device="fake")
    sends("ncclSend" if me.rank == 0 else "ncclRecv", data, me.peer, comm)
    if me.rank == 0:
        torch.accelerator.synchronize()
    else:
        until(lambda: state(comm) == INVALID_USAGE)
        assert b"expected 16 bytes of rank 0, which sent 12" in nccl().ncclGetLastError(comm)
    do("ncclCommAbort", comm)
    torch.accelerator.synchronize()


@case
def calls_are_counted_and_named(me: Rank) -> None:
    def calls() -> int:
        return int(nccl().fakenccl_calls(b"ncclGetVersion"))

    version = ctypes.c_int()
    before = calls()
    do("ncclGetVersion", ctypes.byref(version))
    assert version.value >= 21900
    assert calls() == before + 1
    assert nccl().fakenccl_calls(b"none") == 0
    assert nccl().ncclGetErrorString(SUCCESS) == b"no error"
    assert nccl().ncclGetErrorString(99) == b"unknown result code"
    assert call("ncclGroupEnd") == INVALID_USAGE
    with me.communicator() as comm:
        size = ctypes.c_int()
        do("ncclCommCount", comm, ctypes.byref(size))
        assert size.value == SIZE
        data = torch.zeros(3, device="fake")
        now = torch.accelerator.current_stream()
        wrong = call("ncclAllReduce", data, data, ctypes.c_size_t(3), 12, SUM, comm, now)
        assert wrong == INVALID_ARGUMENT
