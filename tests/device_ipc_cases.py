"""Cases for arrays of CUDA devices in ranks of one host that share their memory by CUDA IPC.

On the stand-in of fake_cuda.py, whose kernels run on streams that are threads: what does not wait
for another process's stream computes wrong numbers, most of all under `delay`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cases
import device_array_cases
import fake_cuda
import quoit
from device_array_cases import COUNTS, SLOW_S, check, mine, of, total, zeros
from elements import ELEMENTS, FACTOR
from fake_cuda import Cupy, Numba, delay, new_stream
from quoit import Communicator, TransportError, UsageError
from stage import Job, of_several

Case = Callable[[Communicator], None]
Array = NDArray[Any]

# Those about copies to the host, which this way has none of, or about two devices of one rank.
_OF_STAGING = {
    *("compressed", "what_the_driver_fails_with", "a_device_that_does_not_come", "two_devices"),
}

CASES: dict[str, Case] = {
    name: case for name, case in device_array_cases.CASES.items() if name not in _OF_STAGING
}
LONG_S = 0.02  # of each kernel, where a case is about the order of streams


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


@contextlib.contextmanager
def group(job: Job, rank: int, number: int) -> Iterator[Communicator]:
    os.environ.pop("QUOIT_IPC", None)
    fake_cuda.install()
    kernels = fake_cuda.kernels()
    kernels.fake_offer_kernels()
    before = kernels.fake_kernel_launches()
    with cases.group(job, rank, number) as comm:
        yield comm
    assert fake_cuda.library().fake_cuda_untouched(), "a context was left current"
    may_launch_nothing = (
        *("any_mismatch", "mismatch", "no_", "ranks_that_differ", "captures", "any_a_rank_that"),
        *("any_large_messages", "any_a_message"),  # of which some ranks have no part
    )
    if not job.cases[number].startswith(may_launch_nothing):
        assert kernels.fake_kernel_launches() > before, "it went by way of the host"


class OnDevice:
    """A communicator that takes arrays of NumPy, and works on copies of them on a device.

    Equal arrays have one copy, so that calls in place are so there.
    """

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.comm, name)
        if name in ("rank", "size", "barrier", "abort", "close", "route"):
            return method

        def call(*arguments: Any, **named: Any) -> Any:
            copies = Copies()
            work = method(
                *map(copies.of, arguments),
                **{key: copies.of(value) for key, value in named.items()},
            )
            return Copied(work, copies, named.get("async_op", False))

        return call


class Copies:
    def __init__(self) -> None:
        self.stream = new_stream()
        self.made: dict[tuple[Any, ...], tuple[Array, Cupy]] = {}

    def of(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [self.of(one) for one in value]
        if not isinstance(value, np.ndarray):
            return value
        key = (value.ctypes.data, value.nbytes, value.dtype, value.shape)
        if key not in self.made:
            self.made[key] = value, Cupy(value, self.stream)
        return self.made[key][1]

    def bring_back(self) -> None:
        for array, copy in self.made.values():
            np.copyto(array, copy.get())


class Copied:
    """The work of such a call; when it is waited for, its results are in NumPy's arrays."""

    def __init__(self, work: Any, copies: Copies, background: bool) -> None:
        self.work, self.copies = work, copies
        if not background:
            copies.bring_back()

    def wait(self, timeout: float | None = None) -> None:
        self.work.wait(timeout)
        self.copies.bring_back()

    def done(self) -> bool:
        done: bool = self.work.done()
        return done

    @property
    def source(self) -> int:
        source: int = self.work.source
        return source


def on_device(comm: Communicator, played: Case) -> None:
    played(OnDevice(comm))  # type: ignore[arg-type]


# What any world must do, on copies. Left out is what is about memory of the host.
OF_ANY_WORLD = [
    name
    for name in cases.CASES
    if name.startswith(("all_reduce_", "mismatch_of_"))
    or name
    in (
        *("reduce", "broadcast", "all_gather", "reduce_scatter", "all_to_all", "gather", "scatter"),
        *("non_finite_numbers_pass", "reductions_of_every_dtype", "every_dtype_is_moved"),
        *("messages_by_tag", "messages_with_one_tag_keep_their_order", "messages_from_anybody"),
        *("large_messages_both_ways", "a_message_of_another_size_is_refused"),
        *("a_message_that_nobody_takes_runs_out_of_time", "messages_pass_collectives"),
        *("a_rank_that_leaves_early_is_named", "a_message_from_a_rank_that_left_still_arrives"),
    )
]
for _name in OF_ANY_WORLD:
    if _name != "mismatch_of_splits":  # on the host only those concerned tell
        CASES[f"any_{_name}"] = functools.partial(on_device, played=cases.CASES[_name])


@case
def no_bits_but_the_hosts(comm: Communicator) -> None:
    """Sums that are rounded are those of the direct algorithm on the host, for all types."""
    numbers = np.random.default_rng(comm.rank)
    for name in ("float64", "float32", "float16", "bfloat16"):
        element = ELEMENTS[name]
        for count in (5, 100_003, (1 << 20) + 77):
            given = element.encode(numbers.standard_normal(count) * 100)
            for op in element.ops:
                on_host, array = given.copy(), Cupy(given, new_stream())
                comm.all_reduce(on_host, op, factor=FACTOR, dtype=element.dtype)
                of(comm).all_reduce(array, op, factor=FACTOR, dtype=element.dtype)
                check(array, on_host, (name, op, count))


@case
def slots_are_used_again_in_order(comm: Communicator) -> None:
    """Many spans, and ranks whose devices are slow in turns: nobody overwrites what is read."""
    count = (9 << 20) + 3  # elements: some steps of each kind
    for slow in range(comm.size):
        with delay(LONG_S if comm.rank == slow else 0):
            array = Cupy(mine(count, comm.rank), new_stream())
            of(comm).all_reduce(array)
            check(array, total(comm, count), "all_reduce")
            of(comm).broadcast(array, slow)
            out = [zeros(count, stream=array.stream) for _ in range(comm.size)]
            of(comm).all_gather(array, out)
            for one in out:
                check(one, total(comm, count), "all_gather")
    with delay(LONG_S if comm.rank == 0 else 0):
        for k in range(30):  # one step each, and rank 0 is late
            array = Cupy(mine(500, comm.rank + k), new_stream())
            of(comm).all_reduce(array, async_op=True).wait()
            inputs = [mine(500, r + k) for r in range(comm.size)]
            check(array, np.add.reduce(inputs), k)


@case
def the_host_beside_it(comm: Communicator) -> None:
    """Rounds of the board that belong to the host's memory lie between those of devices."""
    with delay(LONG_S / 4):
        for k in range(12):
            array, on_host = Cupy(mine(3000, comm.rank + k), new_stream()), mine(3000, comm.rank)
            first = of(comm).all_reduce(array, async_op=True)
            for _ in range(k % 4):
                comm.barrier()
            beside = comm.all_reduce(on_host, async_op=True)
            first.wait()
            beside.wait()
            inputs = [mine(3000, r + k) for r in range(comm.size)]
            check(array, np.add.reduce(inputs), k)
            cases.equal(on_host, total(comm, 3000), k)


@case
def it_does_not_wait_for_the_device(comm: Communicator) -> None:
    """A call is over when all is in streams."""
    of(comm).all_reduce(Cupy(mine(3, comm.rank)))
    comm.barrier()
    with delay(0.2):
        array = Cupy(mine(3, comm.rank), new_stream())
        begun = time.monotonic()
        of(comm).all_reduce(array)
        took = time.monotonic() - begun
        check(array, total(comm, 3))
        assert took < 0.15, f"it took {took} s"
        assert time.monotonic() - begun > 0.4


def sums_of_two_groups(comm: Communicator, other: Communicator, turn: int) -> None:
    """In turns, waited for in another order; `turn` is told where one is wrong."""
    works = []
    for k in range(4):
        one = Cupy(mine(5000, comm.rank + k), new_stream())
        two = Cupy(mine(7000, comm.rank + k), new_stream())
        works.append((k, one, of(comm).all_reduce(one, async_op=True)))
        works.append((k, two, of(other).all_reduce(two, async_op=True)))
    for k, array, work in reversed(works):
        work.wait()
        inputs = [mine(array.shape[0], r + k) for r in range(comm.size)]
        check(array, np.add.reduce(inputs), (turn, k))


@case
def several_groups(comm: Communicator) -> None:
    """Groups of other ranks, each with memory of its own, at once and one after another."""
    for turn in range(3):
        meet = meeting(comm)
        other = Communicator(comm.rank, comm.size, meet, timeout=cases.CASE_S)
        with delay(LONG_S / 4):
            sums_of_two_groups(comm, other, turn)
        other.close()
    library, deadline = fake_cuda.library(), time.monotonic() + cases.CASE_S
    # What the closed groups had is given back, as soon as nobody uses it, when another is made.
    while (
        library.fake_cuda_own_memories() > 3 or library.fake_cuda_others_memories() > 2 * comm.size
    ):
        assert time.monotonic() < deadline, "memory of closed groups was kept"
        other = Communicator(comm.rank, comm.size, meeting(comm), timeout=cases.CASE_S)
        of(other).all_reduce(Cupy(mine(3, comm.rank)))
        other.close()


def meeting(comm: Communicator) -> Callable[[str], list[str]]:
    def meet(text: str) -> list[str]:
        given = np.zeros(4096, np.uint8)
        given[: len(text)] = np.frombuffer(text.encode(), np.uint8)
        all_of_it = [np.zeros_like(given) for _ in range(comm.size)]
        comm.all_gather(given, all_of_it)
        return [bytes(one).rstrip(b"\0").decode() for one in all_of_it]

    return meet


@case
@of_several
def messages_in_all_directions(comm: Communicator) -> None:
    """To all and from all at once, with large ones among them, in any order of receiving."""
    sizes = [0, 1, 1000, (2 << 20) + 3]
    with delay(LONG_S / 4):
        works = [
            of(comm).send(Cupy(mine(size, comm.rank + tag), new_stream()), peer, tag, async_op=True)
            for peer in range(comm.size)
            for tag, size in enumerate(sizes)
        ]
        for tag in reversed(range(len(sizes))):
            for peer in range(comm.size):
                into = zeros(sizes[tag], stream=new_stream())
                of(comm).recv(into, peer, tag)
                check(into, mine(sizes[tag], peer + tag), (tag, peer))
        for work in works:
            work.wait()


@case
@of_several
def a_slow_receiver(comm: Communicator) -> None:
    """Whose device comes to the first pieces when the sender's has long had the last."""
    count = 6 << 20  # elements: six pieces, through two slots
    with delay(LONG_S if comm.rank == 1 else 0):
        for turn in range(3):
            if comm.rank == 0:
                of(comm).send(Cupy(mine(count, turn), new_stream()), 1)
            if comm.rank == 1:
                into = zeros(count, stream=new_stream())
                of(comm).recv(into, 0)
                check(into, mine(count, turn), turn)
    array = Cupy(mine(9, comm.rank))
    of(comm).all_reduce(array)
    check(array, total(comm, 9))


@case
@of_several
def left_while_devices_work(comm: Communicator) -> None:
    """A group that is closed when its calls are in streams: no memory goes before it was read."""
    for _ in range(2):
        other = Communicator(comm.rank, comm.size, meeting(comm), timeout=cases.CASE_S)
        of(other).all_reduce(Cupy(mine(3, comm.rank)))
        comm.barrier()
        with delay(0.15 if comm.rank > 0 else 0):
            array = Cupy(mine(100_000, comm.rank), new_stream())
            of(other).all_reduce(array)
        other.close()
        del other
        # What groups have left is looked through when others are made.
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            (alone,) = Communicator.threads("a")
            of(alone).all_reduce(Cupy(mine(3, 0)))
            alone.close()
        check(array, total(comm, 100_000))


@case
@of_several
def messages_between_memories(comm: Communicator) -> None:
    """From a device to the host, and back, of any size, from anybody."""
    to, source = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    for count in COUNTS:
        for from_device in (True, False):
            with delay(LONG_S / 4):
                values = mine(count, comm.rank)
                given = Cupy(values, new_stream()) if from_device else values
                sent = of(comm).send(given, to, async_op=True)
                if from_device:
                    on_host = np.zeros(count, np.float32)
                    comm.recv(on_host, source)
                    cases.equal(on_host, mine(count, source), count)
                else:
                    into = zeros(count, stream=new_stream())
                    work = of(comm).recv(into)
                    assert work.source == source
                    check(into, mine(count, source), count)
                sent.wait()
    sent = of(comm).send(Cupy(mine(3, 0)), to, async_op=True)
    with pytest.raises(TransportError, match=rf"rank {source} sent 12 bytes.* expected 16"):
        comm.recv(np.zeros(4, np.float32), source)
    sent.wait()
    array = Cupy(mine(9, comm.rank))
    of(comm).all_reduce(array)
    check(array, total(comm, 9))


@case
@of_several
def a_message_that_was_given_up(comm: Communicator) -> None:
    """Who asks for it later is told; those after it arrive."""
    if comm.rank == 0:
        with pytest.raises(quoit.TimeoutError, match="send to rank 1: timed out"):
            of(comm).send(Cupy(mine(7, 0)), 1, tag=1, timeout=0.3)
    comm.barrier()
    if comm.rank == 0:
        of(comm).send(Cupy(mine(5, 0)), 1, tag=2)
    if comm.rank == 1:
        late = of(comm).recv(zeros(7), 0, tag=1, async_op=True)
        into = zeros(5)
        of(comm).recv(into, 0, tag=2)
        check(into, mine(5, 0))
        with pytest.raises(TransportError, match="rank 0 gave the message up"):
            late.wait()
    array = Cupy(mine(9, comm.rank))
    of(comm).all_reduce(array)
    check(array, total(comm, 9))


@case
@of_several
def mismatch_of_splits(comm: Communicator) -> None:
    """All ranks see it, and say it."""
    last = comm.size - 1
    of(comm).all_reduce(Cupy(mine(3, comm.rank)))
    ins, outs = ([zeros(4) for _ in range(comm.size)] for _ in range(2))
    if comm.rank == 0:
        ins[last] = zeros(3)
    with pytest.raises(TransportError, match=rf"rank 0 sent 12 bytes, rank {last} expected 16"):
        of(comm).all_to_all(ins, outs, uneven=True)


@case
@of_several
def ranks_that_differ_in_memory(comm: Communicator) -> None:
    """Whoever comes first, and whether or not they know each other."""
    values = mine(100, comm.rank)
    begun = time.monotonic()
    with pytest.raises((UsageError, TransportError), match="on an accelerator"):
        of(comm).all_reduce(Cupy(values) if comm.rank == 0 else values)
    assert time.monotonic() - begun < 2


@case
@of_several
def mismatch_of_memories_later(comm: Communicator) -> None:
    values = mine(100, comm.rank)
    of(comm).all_reduce(Cupy(values))
    with pytest.raises((UsageError, TransportError), match="on an accelerator"):
        of(comm).all_reduce(Cupy(values) if comm.rank == 0 else values)


@case
@of_several
def mismatch_of_devices_calls(comm: Communicator) -> None:
    array = Cupy(mine(8, comm.rank))
    with pytest.raises((UsageError, TransportError), match="ranks disagree"):
        of(comm).all_reduce(array, "MAX" if comm.rank == 0 else "SUM")


@case
def one_device_for_a_rank(comm: Communicator) -> None:
    of(comm).all_reduce(Cupy(mine(3, comm.rank)))
    with pytest.raises(UsageError, match=r"memory of CUDA device 1, but this group .* is on 0"):
        of(comm).all_reduce(Cupy(mine(3, comm.rank), new_stream(1)))


@case
def ranks_on_two_devices(comm: Communicator) -> None:
    """Whose memory the others reach."""
    device = comm.rank % 2
    for count in COUNTS[1:]:  # an empty array does not tell its device
        with delay(SLOW_S / 10):
            array = Cupy(mine(count, comm.rank), new_stream(device))
            of(comm).all_reduce(array)
            check(array, total(comm, count), count)


@case
@of_several
def no_peer_access(comm: Communicator) -> None:
    """Then all go by way of the host, and messages too, as if nothing were."""
    library = fake_cuda.library()
    library.fake_cuda_set_peer_access(0)
    try:
        _without(comm, comm.rank % 2)
    finally:
        library.fake_cuda_set_peer_access(1)


@case
@of_several
def no_handle_can_be_opened(comm: Communicator) -> None:
    """On one rank, and so nowhere."""
    kernels = fake_cuda.kernels()
    function = "cuIpcOpenMemHandle" if comm.rank == 0 else ""
    with fake_cuda.failing(function, 999):
        before = kernels.fake_kernel_launches()
        array = Cupy(mine(1000, comm.rank))
        of(comm).all_reduce(array)
        check(array, total(comm, 1000))
        assert kernels.fake_kernel_launches() == before
        _without(comm, 0)


@case
@of_several
def no_kernels_on_one_rank(comm: Communicator) -> None:
    kernels = fake_cuda.kernels()
    if comm.rank == comm.size - 1:
        kernels.fake_withdraw_kernels()
    try:
        _without(comm, 0)
    finally:
        kernels.fake_offer_kernels()


@case
@of_several
def no_ipc_asked_for(comm: Communicator) -> None:
    """QUOIT_IPC=off on one rank, when the group is made."""
    if comm.rank == 0:
        os.environ["QUOIT_IPC"] = "off"
    try:
        other = Communicator(comm.rank, comm.size, meeting(comm), timeout=cases.CASE_S)
    finally:
        os.environ.pop("QUOIT_IPC", None)
    _without(other, 0)
    other.close()


def _without(comm: Communicator, device: int) -> None:
    """Collectives and messages that go by way of the host, all or some of them."""
    stream = new_stream(device)
    to, source = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    for count in (1, 1000, (5 << 20) + 1):
        array, into = Cupy(mine(count, comm.rank), stream), zeros(count, stream=stream)
        sent = of(comm).send(array, to, async_op=True)
        of(comm).recv(into, source)
        check(into, mine(count, source), count)
        sent.wait()
        of(comm).all_reduce(array)
        check(array, total(comm, count), count)
    assert comm.device_route() == "host"


@case
@of_several
def no_driver_fails_unseen(comm: Communicator) -> None:
    """What the driver says is told by its name, and to all."""
    array = Cupy(mine(3, comm.rank))
    of(comm).all_reduce(array)
    comm.barrier()
    function = "cuStreamWaitEvent" if comm.rank == 0 else ""
    with (
        fake_cuda.failing(function, 700),
        pytest.raises(TransportError, match="cuStreamWaitEvent failed: CUDA_ERROR_ILLEGAL_ADDRESS"),
    ):
        of(comm).all_reduce(array)
    with pytest.raises(TransportError, match="cuStreamWaitEvent failed"):
        comm.barrier()


@case
def the_deadline_of_one_who_must_wait(comm: Communicator) -> None:
    """Where no stream is told, a call is over when the device has come to it."""
    array = Numba(mine(3, comm.rank))
    of(comm).all_reduce(array)
    comm.barrier()
    begun = time.monotonic()
    with delay(1.5):
        with pytest.raises((quoit.TimeoutError, TransportError), match=r"accelerator|timed out"):
            of(comm).all_reduce(array, timeout=0.5)
        assert time.monotonic() - begun < 1.4
