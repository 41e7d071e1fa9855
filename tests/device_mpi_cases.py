"""Cases for arrays of CUDA devices in ranks of several hosts whose MPI is given their memory.

On the stand-in of fake_cuda.py, whose memory is the host's in truth: so any MPI moves it when it is
told that it can (QUOIT_MPI_CUDA=on). What does not wait for the device computes wrong numbers.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import cases
import device_array_cases
import fake_cuda
import quoit
from device_array_cases import COUNTS, SLOW_S, Case, check, mine, of, total, zeros
from device_ipc_cases import OF_ANY_WORLD, meeting, on_device, sums_of_two_groups
from elements import ELEMENTS, FACTOR
from fake_cuda import Cupy, delay, new_stream
from quoit import Communicator, TransportError, UsageError
from stage import Job

LONG_S = 0.02  # of each kernel and copy, where a case is about the order of streams

# Those about copies to the host and back.
_OF_STAGING = ("what_the_driver_fails_with", "arrays_that_are_forgotten")

CASES: dict[str, Case] = {
    name: played for name, played in device_array_cases.CASES.items() if name not in _OF_STAGING
}
for _name in OF_ANY_WORLD:
    CASES[f"any_{_name}"] = functools.partial(on_device, played=cases.CASES[_name])


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


@contextlib.contextmanager
def group(job: Job, rank: int, number: int) -> Iterator[Communicator]:
    os.environ["QUOIT_MPI_CUDA"] = "on"
    fake_cuda.install()
    fake_cuda.kernels().fake_offer_kernels()
    with cases.group(job, rank, number) as comm:
        assert comm.device_route() == "mpi"
        yield comm
    assert fake_cuda.library().fake_cuda_untouched(), "a context was left current"


@contextlib.contextmanager
def another(comm: Communicator, **environment: str) -> Iterator[Communicator]:
    """A second group of the same ranks, made with these variables on this rank."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        other = Communicator(comm.rank, comm.size, meeting(comm), timeout=cases.CASE_S)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    yield other
    other.close()


@contextlib.contextmanager
def nothing_by_the_host() -> Iterator[None]:
    """Within, no byte goes between memory of the device and of the host."""
    library = fake_cuda.library()
    before = library.fake_cuda_host_copies()
    yield
    assert library.fake_cuda_host_copies() == before, "something went by way of the host"


def play_collectives(comm: Communicator, count: int) -> None:
    """Each once, on streams of their own."""
    me, size = comm.rank, comm.size
    array = Cupy(mine(count, me), new_stream())
    of(comm).all_reduce(array)
    check(array, total(comm, count), "all_reduce")
    of(comm).broadcast(array, size - 1)
    array = Cupy(mine(count, me), new_stream())
    of(comm).broadcast(array, size - 1)
    check(array, mine(count, size - 1), "broadcast")
    array = Cupy(mine(count, me), new_stream())
    of(comm).reduce(array, 0, "MAX")
    largest = np.maximum.reduce([mine(count, r) for r in range(size)])
    check(array, largest if me == 0 else mine(count, me), "reduce")
    stream = new_stream()
    outs = [zeros(count, stream=stream) for _ in range(size)]
    of(comm).all_gather(Cupy(mine(count, me), stream), outs)
    for rank, out in enumerate(outs):
        check(out, mine(count, rank), "all_gather")
    out = zeros(count, stream=stream)
    of(comm).reduce_scatter([Cupy(mine(count, me + r), stream) for r in range(size)], out)
    check(out, np.add.reduce([mine(count, r + me) for r in range(size)]), "reduce_scatter")
    outs = [zeros(count, stream=stream) for _ in range(size)]
    of(comm).all_to_all([Cupy(mine(count, me + r), stream) for r in range(size)], outs)
    for rank, out in enumerate(outs):
        check(out, mine(count, rank + me), "all_to_all")
    outs = [zeros(count, stream=stream) for _ in range(size)]
    of(comm).gather(Cupy(mine(count, me), stream), outs if me == 0 else None, 0)
    for rank, out in enumerate(outs if me == 0 else []):
        check(out, mine(count, rank), "gather")
    out = zeros(count, stream=stream)
    ins = [Cupy(mine(count, r), stream) for r in range(size)] if me == 0 else None
    of(comm).scatter(ins, out, 0)
    check(out, mine(count, me), "scatter")


@case
def nothing_goes_by_the_host(comm: Communicator) -> None:
    for count in COUNTS:
        with nothing_by_the_host():
            play_collectives(comm, count)


@case
def slow_devices(comm: Communicator) -> None:
    """In turns: messages wait for sums, and sums for messages."""
    for slow in range(comm.size):
        for count in (0, 1, 1003, 70_001):
            with delay(LONG_S / 2 if comm.rank == slow else 0):
                play_collectives(comm, count)


@case
def no_bits_but_the_hosts(comm: Communicator) -> None:
    """Sums that are rounded are those of the same algorithm on the host, for all types.

    Where hosts have several ranks, the host's memory goes another way.
    """
    shared = np.array([any(comm.route(peer) == "shm" for peer in range(comm.size))])
    comm.all_reduce(shared, "MAX")
    exact = bool(shared[0])
    numbers = np.random.default_rng(comm.rank)
    for name in ELEMENTS:
        element = ELEMENTS[name]
        for count in (5, 10_007, (1 << 19) + 77):
            given = (
                element.input("SUM", count, comm.rank)
                if exact or name[0] in "iub"
                else element.encode(numbers.standard_normal(count) * 100)
            )
            for op in element.ops:
                if exact and op == "PRODUCT":
                    continue
                on_host, array = given.copy(), Cupy(given, new_stream())
                comm.all_reduce(on_host, op, factor=FACTOR, dtype=element.dtype)
                of(comm).all_reduce(array, op, factor=FACTOR, dtype=element.dtype)
                check(array, on_host, (name, op, count))
                to = comm.size - 1
                on_host, array = given.copy(), Cupy(given, new_stream())
                comm.reduce(on_host, to, op, factor=FACTOR, dtype=element.dtype)
                of(comm).reduce(array, to, op, factor=FACTOR, dtype=element.dtype)
                check(array, on_host, ("reduce", name, op, count))
                blocks = [given] * comm.size
                out, there = np.zeros_like(given), Cupy(np.zeros_like(given), new_stream())
                comm.reduce_scatter(blocks, out, op, factor=FACTOR, dtype=element.dtype)
                copies = [Cupy(given, there.stream) for _ in blocks]
                of(comm).reduce_scatter(copies, there, op, factor=FACTOR, dtype=element.dtype)
                check(there, out, ("reduce_scatter", name, op, count))


@case
def calls_one_after_another(comm: Communicator) -> None:
    """On the same memory, and the host's beside it, none waited for before the next."""
    with delay(LONG_S / 4):
        for k in range(6):
            array, on_host = Cupy(mine(3000, comm.rank + k), new_stream()), mine(3000, comm.rank)
            outs = [zeros(3000, stream=array.stream) for _ in range(comm.size)]
            works = [of(comm).all_reduce(array, async_op=True)]
            works.append(comm.all_reduce(on_host, async_op=True))
            works.append(of(comm).all_gather(array, outs, async_op=True))
            works.append(of(comm).all_reduce(array, async_op=True))
            for work in reversed(works):
                work.wait()
            once = np.add.reduce([mine(3000, r + k) for r in range(comm.size)])
            for out in outs:
                check(out, once, k)
            check(array, once * comm.size, k)
            cases.equal(on_host, total(comm, 3000), k)


@case
def what_one_call_leaves_to_the_next(comm: Communicator) -> None:
    """A copy that is still in the stream comes before what MPI writes there."""
    last = comm.size - 1
    for count in (9, 100_003):
        outs = [zeros(count, stream=new_stream()) for _ in range(comm.size)]
        given = Cupy(mine(count, comm.rank + 1), new_stream())
        of(comm).all_reduce(zeros(3))
        with delay(LONG_S * 5):
            first = of(comm).gather(given, outs if comm.rank == 0 else None, 0, async_op=True)
            target = given if comm.rank == last else outs[0]
            second = of(comm).broadcast(target, last, async_op=True)
            second.wait()
            first.wait()
        check(target, mine(count, last + 1), count)


@case
def arrays_that_are_forgotten(comm: Communicator) -> None:
    """They live until nothing uses them any more, also when nobody waits, and no longer."""
    count = 100_003
    outs, kept = [], []
    with delay(SLOW_S / 2):
        for k in range(3):
            array, out = Cupy(mine(count, comm.rank + k), new_stream()), zeros(count)
            of(comm).all_reduce(array, out=out, async_op=True)
            outs.append(out)
            kept.append(weakref.ref(array))
            del array
            gc.collect()
            Cupy(np.full(count, -1, np.float32))  # in the memory that was freed, if it was
        last = Cupy(mine(9, comm.rank))
        of(comm).all_reduce(last)  # comes after them all
        check(last, total(comm, 9))
        for k, out in enumerate(outs):
            check(out, np.add.reduce([mine(count, r + k) for r in range(comm.size)]), k)
    deadline = time.monotonic() + cases.CASE_S
    while any(one() is not None for one in kept):
        assert time.monotonic() < deadline, "an array was kept for good"
        device_array_cases.a_call_to_itself(comm)


@case
def several_groups(comm: Communicator) -> None:
    play_collectives(comm, 1000)
    most = fake_cuda.library().fake_cuda_own_memories() + 2  # pieces, and those of one more group
    for turn in range(2):
        with another(comm) as other, delay(LONG_S / 4):
            sums_of_two_groups(comm, other, turn)
    # What the closed groups had is given back, when the device has come to its end.
    deadline, kept = time.monotonic() + cases.CASE_S / 2, np.array([True])
    while kept[0]:
        assert time.monotonic() < deadline, "memory of closed groups was kept"
        with another(comm) as other:
            of(other).all_reduce(Cupy(mine(3, comm.rank)))
        kept[0] = fake_cuda.library().fake_cuda_own_memories() > most
        comm.all_reduce(kept, "MAX")


@case
def left_while_the_device_works(comm: Communicator) -> None:
    """No memory goes that the device still reads."""
    for count in (1000, 100_000):
        with another(comm) as other:
            of(other).all_reduce(Cupy(mine(3, comm.rank)))
            comm.barrier()
            with delay(0.15 if comm.rank > 0 else 0):
                array = Cupy(mine(count, comm.rank), new_stream())
                of(other).all_reduce(array)
        del other
        check(array, total(comm, count))


def _far(comm: Communicator) -> list[int]:
    """The ranks that MPI reaches from this one."""
    return [peer for peer in range(comm.size) if comm.route(peer) == "mpi"]


@case
def messages_to_those_who_wait(comm: Communicator) -> None:
    """Go straight into memory of the device, also while the receiver's stream is not there yet."""
    for count in COUNTS:
        for slow in (0, SLOW_S * 2):  # then it is not there when the message is
            with delay(slow):
                into = [zeros(count, stream=new_stream()) for _ in _far(comm)]
                given = [Cupy(mine(count, comm.rank)) for _ in _far(comm)]
                with nothing_by_the_host():
                    works = [
                        of(comm).recv(one, peer, async_op=True)
                        for one, peer in zip(into, _far(comm), strict=True)
                    ]
                    comm.barrier()
                    works += [
                        of(comm).send(one, peer, async_op=True)
                        for one, peer in zip(given, _far(comm), strict=True)
                    ]
                    for work in works:
                        work.wait()
            for one, peer in zip(into, _far(comm), strict=True):
                check(one, mine(count, peer), (count, slow))


@case
def messages_that_come_first(comm: Communicator) -> None:
    """Of those, that have no place yet, some go by the host."""
    for count in COUNTS:
        works = [
            of(comm).send(Cupy(mine(count, comm.rank + tag)), peer, tag, async_op=True)
            for peer in _far(comm)
            for tag in range(2)
        ]
        comm.barrier()
        comm.barrier()
        with delay(SLOW_S / 5):
            for tag in (1, 0):
                for peer in _far(comm):
                    into = zeros(count, stream=new_stream())
                    of(comm).recv(into, peer, tag)
                    check(into, mine(count, peer + tag), (count, peer, tag))
        for work in works:
            work.wait()


@case
def messages_keep_their_order(comm: Communicator) -> None:
    """Whichever tensor is ready first, on either side."""
    with delay(SLOW_S):
        slow, quick = Cupy(mine(9, comm.rank), new_stream()), new_stream()
        fake_cuda.library().fake_cuda_synchronize(quick)
    given = [slow, *(Cupy(mine(9, comm.rank + k), quick) for k in (1, 2, 3))]
    works = [of(comm).send(one, peer, async_op=True) for one in given for peer in _far(comm)]
    for peer in _far(comm):
        with delay(SLOW_S):
            into = [zeros(9, stream=new_stream())]
        into += [zeros(9, stream=new_stream()) for _ in range(3)]
        received = [of(comm).recv(one, peer, async_op=True) for one in into]
        for k in (3, 1, 0, 2):
            received[k].wait()
            check(into[k], mine(9, peer + k), (peer, k))
    for work in works:
        work.wait()


@case
def messages_between_memories(comm: Communicator) -> None:
    """From a device to the host, and back, of any size, from anybody, also of the same host."""
    to, source = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    for count in COUNTS:
        for early in (True, False):
            for from_device in (True, False):
                values, work = mine(count, comm.rank), None
                given = Cupy(values, new_stream()) if from_device else values
                on_host, into = np.zeros(count, np.float32), zeros(count, stream=new_stream())
                target: Any = on_host if from_device else into
                if early:
                    work = of(comm).recv(target, async_op=True)
                    comm.barrier()
                sent = of(comm).send(given, to, async_op=True)
                if not early:
                    comm.barrier()
                    work = of(comm).recv(target, async_op=True)
                assert work is not None
                work.wait()
                assert work.source == source
                got = on_host if from_device else into.get()
                cases.equal(got, mine(count, source), (count, early, from_device))
                sent.wait()
                comm.barrier()
    sent = of(comm).send(Cupy(mine(3, 0)), to, async_op=True)
    with pytest.raises(TransportError, match=rf"rank {source} sent 12 bytes.* expected 16"):
        of(comm).recv(zeros(4), source)
    sent.wait()
    late = of(comm).recv(zeros(4), source, 7, async_op=True)
    comm.barrier()
    of(comm).send(Cupy(mine(3, 0)), to, 7)
    with pytest.raises(TransportError, match=rf"rank {source} sent 12 bytes.* expected 16"):
        late.wait()
    play_collectives(comm, 11)


@case
def a_message_whose_time_is_over(comm: Communicator) -> None:
    """Does not keep those after it."""
    peers = _far(comm)
    with delay(1.0):
        slow = Cupy(mine(9, comm.rank), new_stream())
    work = of(comm).send(slow, peers[0], 3, timeout=0.3, async_op=True)
    after = of(comm).send(Cupy(mine(5, comm.rank)), peers[0], 3, async_op=True)
    with pytest.raises(quoit.TimeoutError, match=r"accelerator, which has not come to this call"):
        work.wait()
    sent_to = [np.zeros(1, np.int64) for _ in range(comm.size)]
    comm.all_gather(np.array([peers[0]]), sent_to)
    for peer in range(comm.size):
        if sent_to[peer] != comm.rank:
            continue
        into = zeros(5)
        of(comm).recv(into, peer, 3)
        check(into, mine(5, peer))
    after.wait()


@case
def one_rank_that_lacks_it(comm: Communicator) -> None:
    """Then all go by way of the host, as if nothing were."""
    last = comm.rank == comm.size - 1
    with another(comm, QUOIT_MPI_CUDA="off" if last else "on") as other:
        assert other.device_route() == "host"
        for count in (1, 1000, (3 << 20) + 5):
            play_collectives(other, count)
            _pass_round(other, count)


@case
def no_kernels_on_one_rank(comm: Communicator) -> None:
    """Then all move without the host, and add with it."""
    kernels, library = fake_cuda.kernels(), fake_cuda.library()
    if comm.rank == 0:
        kernels.fake_withdraw_kernels()
    try:
        with another(comm) as other:
            assert other.device_route() == "mpi"
            launches = kernels.fake_kernel_launches()
            play_collectives(other, 1000)
            assert kernels.fake_kernel_launches() == launches
            array, before = Cupy(mine(9, comm.rank)), library.fake_cuda_host_copies()
            of(other).broadcast(array, 0)
            assert library.fake_cuda_host_copies() == before
            of(other).all_reduce(array)
            assert library.fake_cuda_host_copies() > before
            check(array, mine(9, 0) * comm.size)
            _pass_round(other, 1000)
    finally:
        kernels.fake_offer_kernels()


def _pass_round(comm: Communicator, count: int) -> None:
    into = zeros(count, stream=new_stream())
    sent = of(comm).send(Cupy(mine(count, comm.rank)), (comm.rank + 1) % comm.size, async_op=True)
    of(comm).recv(into, (comm.rank - 1) % comm.size)
    check(into, mine(count, (comm.rank - 1) % comm.size), count)
    sent.wait()


@case
def as_the_library_says(comm: Communicator) -> None:
    """Neither of the tests' MPIs is built for CUDA."""
    says = os.environ.get("QUOIT_TEST_MPI_SAYS", "host")
    with another(comm, QUOIT_MPI_CUDA="auto") as other:
        assert other.device_route() == says
        play_collectives(other, 1000)


@case
def a_choice_that_is_none(comm: Communicator) -> None:
    with (
        pytest.raises(UsageError, match=r"QUOIT_MPI_CUDA='yes' is not known: choose on, off or"),
        another(comm, QUOIT_MPI_CUDA="yes"),
    ):
        pass


@case
def mismatch_of_devices_calls(comm: Communicator) -> None:
    """All ranks say so, of small calls and large ones."""
    for count in (8, 1_000_003):
        with another(comm) as other:
            of(other).all_reduce(zeros(3))  # links are measured, and calls compared, before it
            array = Cupy(mine(count, comm.rank))
            with pytest.raises((UsageError, TransportError), match="ranks disagree"):
                of(other).all_reduce(array, "MAX" if comm.rank == 0 else "SUM")
            comm.barrier()  # all have heard before somebody leaves
        with another(comm) as other:
            of(other).all_reduce(zeros(3))
            values = mine(count, comm.rank)
            with pytest.raises((UsageError, TransportError), match="accelerator, whose memory MPI"):
                of(other).all_reduce(Cupy(values) if comm.rank == 0 else values)
            comm.barrier()


@case
def what_the_driver_fails_with(comm: Communicator) -> None:
    """Is told by its name, and fails the call on all ranks."""
    for function, code, name in (
        ("cuMemcpyAsync", 700, "CUDA_ERROR_ILLEGAL_ADDRESS"),
        ("cuMemAlloc", 2, "CUDA_ERROR_OUT_OF_MEMORY"),
        ("cuEventQuery", 700, "CUDA_ERROR_ILLEGAL_ADDRESS"),
    ):
        with another(comm) as other:
            array = Cupy(mine(300_000, comm.rank))
            comm.barrier()
            with (
                fake_cuda.failing(function if comm.rank == 0 else "", code),
                pytest.raises(TransportError, match=rf"{function}.* failed: {name}"),
            ):
                of(other).all_reduce(array, out=zeros(300_000))
            comm.barrier()


def _without_end(comm: Communicator, array: Cupy) -> None:
    for _ in range(1000):
        of(comm).all_reduce(array)


@case
def a_rank_that_gives_up(comm: Communicator) -> None:
    """The others hear of it while they wait for its messages."""
    with another(comm) as other:
        array = Cupy(mine(300_000, comm.rank))
        of(other).all_reduce(array)
        begun = time.monotonic()
        if comm.rank == 0:
            other.abort("enough")
        with pytest.raises(TransportError, match="enough"):
            _without_end(other, array)
        assert time.monotonic() - begun < 5
