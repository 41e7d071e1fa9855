"""Cases for quoit.Communicator: what every collective and every message must do, in any world."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from elements import ELEMENTS, FACTOR, Array, Element, pattern
from mismatch_cases import FROM_ANYWHERE, LARGE, MISMATCHES, WHO, mismatch, mismatch_of_splits
from quoit import Communicator, TimeoutError, TransportError
from stage import CASE_S, Job, file_rendezvous, left_or_aborted

Case = Callable[[Communicator], None]

CASES: dict[str, Case] = {}

FLOAT32 = ELEMENTS["float32"]
_MESSAGE = 8 << 20  # bytes: more than any buffer on the way
_FENCE = 64  # elements on both sides of an output


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


@contextlib.contextmanager
def group(job: Job, rank: int, number: int) -> Iterator[Communicator]:
    meet = file_rendezvous(Path(job.folder) / str(number), rank, job.size)
    comm = Communicator(rank, job.size, meet, timeout=CASE_S, algorithm=job.algorithm)
    with left_or_aborted(comm, rank):
        for peer in range(job.size):
            assert comm.route(peer) == job.route(rank, peer), f"from rank {rank} to {peer}"
        yield comm


def counts(size: int) -> list[int]:
    return sorted({0, 1, size - 1, size, size + 1, 1000})


def roots(comm: Communicator) -> set[int]:
    return {0, comm.size - 1}


def floats(count: int, sender: int) -> Array:
    """What `sender` gives in cases about movement."""
    return pattern(count, sender).astype(np.float32) + np.float32(sender * 100)


def equal(got: Array, expected: Array, what: object) -> None:
    """Raises unless both have the same bits."""
    assert got.dtype == expected.dtype, f"{what}: {got.dtype}, expected {expected.dtype}"
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    if got.tobytes() == expected.tobytes():
        return
    bytes_each = got.dtype.itemsize
    differ = np.flatnonzero(
        _bytes(got).reshape(-1, bytes_each) != _bytes(expected).reshape(-1, bytes_each)
    )
    at = differ[0] // bytes_each
    raise AssertionError(
        f"{what}: element {at} of {got.size} is {got.flat[at]}, not {expected.flat[at]}"
    )


def _bytes(array: Array) -> Array:
    return np.frombuffer(array.tobytes(), np.uint8)


@contextlib.contextmanager
def outputs(*shapes: int, dtype: object = np.float32) -> Iterator[list[Array]]:
    """Arrays of that many elements, filled with nonsense; around them nothing may be written."""
    wholes = [
        np.full((count + 2 * _FENCE) * np.dtype(dtype).itemsize, 0xA5, np.uint8) for count in shapes
    ]
    yield [whole.view(dtype)[_FENCE : len(whole.view(dtype)) - _FENCE] for whole in wholes]
    for whole in wholes:
        fence = _FENCE * np.dtype(dtype).itemsize
        for part in (whole[:fence], whole[len(whole) - fence :]):
            assert (part == 0xA5).all(), "bytes around an output were overwritten"


def alike(comm: Communicator, digest: bytes) -> None:
    """Raises unless all ranks give the same digest."""
    mine = np.frombuffer(digest, np.uint8).copy()
    all_of_them = [np.zeros_like(mine) for _ in range(comm.size)]
    comm.all_gather(mine, all_of_them)
    for rank, theirs in enumerate(all_of_them):
        assert theirs.tobytes() == digest, f"rank {rank} got other bits"


def _all_reduce(comm: Communicator, element: Element) -> None:
    results = hashlib.blake2b()
    for op in element.ops:
        # Large ones exercise the way of the bytes, and each op works on them as on small ones.
        large = [LARGE] if element is FLOAT32 and op in ("SUM", "AVG") else []
        for count in [*counts(comm.size), *large]:
            mine = element.input(op, count, comm.rank)
            expected = element.result(op, count, comm.size)
            what = f"{element.name} {op}, {count} elements"
            with outputs(count, count, dtype=element.carrier) as (here, there):
                here[:] = mine
                comm.all_reduce(here, op, factor=FACTOR, dtype=element.dtype)
                equal(here, expected, f"{what}, in place")
                comm.all_reduce(mine, op, out=there, factor=FACTOR, dtype=element.dtype)
                equal(there, expected, what)
            equal(mine, element.input(op, count, comm.rank), f"{what}: the input")
            results.update(here.tobytes() + there.tobytes())
    alike(comm, results.digest())


for _name, _element in ELEMENTS.items():
    CASES[f"all_reduce_{_name}"] = functools.partial(_all_reduce, element=_element)


@case
def all_reduce_of_any_numbers(comm: Communicator) -> None:
    """Where sums are rounded, all ranks still get the same bits, and again the same."""
    numbers = np.random.default_rng(comm.rank)
    results = hashlib.blake2b()
    for count in (5, 1000, 100_003):
        mine = numbers.standard_normal(count).astype(np.float32)
        first, second = np.empty_like(mine), np.empty_like(mine)
        comm.all_reduce(mine, out=first)
        comm.all_reduce(mine, out=second)
        equal(second, first, f"the second sum of {count}")
        results.update(first.tobytes())
    alike(comm, results.digest())


@case
def non_finite_numbers_pass(comm: Communicator) -> None:
    mine = np.ones(4 * comm.size, np.float32)
    mine[comm.rank] = np.nan
    mine[comm.size + comm.rank] = np.inf
    mine[2 * comm.size] = np.inf if comm.rank == 0 else -np.inf
    comm.all_reduce(mine)
    assert np.isnan(mine[: comm.size]).all()
    assert np.isposinf(mine[comm.size : 2 * comm.size]).all()
    assert np.isnan(mine[2 * comm.size]) or comm.size == 1
    equal(mine[2 * comm.size + 1 :], np.full(2 * comm.size - 1, comm.size, np.float32), "the rest")


_REDUCTIONS: list[tuple[Element, str, list[int]]] = [
    (FLOAT32, "AVG", [50_003]),
    (ELEMENTS["int16"], "SUM", []),
    (ELEMENTS["bfloat16"], "PREMUL_SUM", []),
]


@case
def reduce(comm: Communicator) -> None:
    for element, op, large in _REDUCTIONS:
        how = {"factor": FACTOR, "dtype": element.dtype}
        for count in [*counts(comm.size), *large]:
            for root in roots(comm):
                what = f"{element.name} {op} of {count} to {root}"
                mine = element.input(op, count, comm.rank)
                expected = element.result(op, count, comm.size)
                with outputs(count, count, dtype=element.carrier) as (here, there):
                    untouched = there.copy()
                    comm.reduce(mine, root, op, out=there, **how)
                    equal(there, expected if comm.rank == root else untouched, what)
                    here[:] = mine
                    comm.reduce(here, root, op, **how)
                    equal(here, expected if comm.rank == root else mine, f"{what}, in place")
                equal(mine, element.input(op, count, comm.rank), f"{what}: the input")


@case
def broadcast(comm: Communicator) -> None:
    for count in [*counts(comm.size), 10_000, 300_001]:
        for root in roots(comm):
            with outputs(count) as (data,):
                data[:] = floats(count, comm.rank)
                comm.broadcast(data, root)
                equal(data, floats(count, root), f"{count} from {root}")


def _blocks(comm: Communicator, count: int, uneven: bool) -> list[int]:
    """A size per rank: equal, or different, and 0 for rank 0."""
    return [count * rank // 2 if uneven else count for rank in range(comm.size)]


@case
def all_gather(comm: Communicator) -> None:
    for count in [*counts(comm.size), 50_003]:
        for uneven in (False, True):
            sizes = _blocks(comm, count, uneven)
            mine = floats(sizes[comm.rank], comm.rank)
            for in_place in (False, True):
                with outputs(*sizes) as outs:
                    outs[comm.rank][:] = mine
                    comm.all_gather(outs[comm.rank] if in_place else mine, outs)
                    for rank, out in enumerate(outs):
                        equal(out, floats(sizes[rank], rank), f"block {rank} of {sizes}")
            equal(mine, floats(sizes[comm.rank], comm.rank), "the input")


@case
def reduce_scatter(comm: Communicator) -> None:
    for element, op, large in _REDUCTIONS:
        for count in [*counts(comm.size), *large]:
            for uneven in (False, True):
                _reduce_scatter(comm, element, op, _blocks(comm, count, uneven))


def _reduce_scatter(comm: Communicator, element: Element, op: str, sizes: list[int]) -> None:
    what = f"{element.name} {op} of {sizes}"
    how = {"factor": FACTOR, "dtype": element.dtype}
    blocks = [element.input(op, size, comm.rank) for size in sizes]
    expected = element.result(op, sizes[comm.rank], comm.size)
    with outputs(sizes[comm.rank], dtype=element.carrier) as (out,):
        comm.reduce_scatter(blocks, out, op, **how)
        equal(out, expected, what)
    for rank, block in enumerate(blocks):
        equal(block, element.input(op, sizes[rank], comm.rank), f"{what}: input {rank}")
    comm.reduce_scatter(blocks, blocks[comm.rank], op, **how)
    equal(blocks[comm.rank], expected, f"{what}, in place")


@case
def all_to_all(comm: Communicator) -> None:
    for count in [*counts(comm.size), 50_003]:
        for uneven in (False, True):

            def size(sender: int, receiver: int, count: int = count, uneven: bool = uneven) -> int:
                return count * ((sender + 2 * receiver) % 3) if uneven else count

            def block(sender: int, receiver: int) -> Array:
                return floats(size(sender, receiver), 10 * sender + receiver)

            ins = [block(comm.rank, other) for other in range(comm.size)]
            with outputs(*(size(other, comm.rank) for other in range(comm.size))) as outs:
                comm.all_to_all(ins, outs, uneven=uneven)
                for other, out in enumerate(outs):
                    equal(out, block(other, comm.rank), f"{count}, uneven={uneven}, from {other}")


@case
def gather(comm: Communicator) -> None:
    for count in [*counts(comm.size), 50_003]:
        for root in roots(comm):
            mine = floats(count, comm.rank)
            with outputs(*[count] * comm.size) as outs:
                comm.gather(mine, outs if comm.rank == root else None, root)
                for rank, out in enumerate(outs if comm.rank == root else []):
                    equal(out, floats(count, rank), f"{count} of {rank} at {root}")


@case
def scatter(comm: Communicator) -> None:
    for count in [*counts(comm.size), 50_003]:
        for root in roots(comm):
            ins = [floats(count, 10 * root + rank) for rank in range(comm.size)]
            with outputs(count) as (out,):
                comm.scatter(ins if comm.rank == root else None, out, root)
                equal(out, floats(count, 10 * root + comm.rank), f"{count} from {root}")


@case
def reductions_of_every_dtype(comm: Communicator) -> None:
    """Those that have a case of their own only with some dtypes: reduce, and reduce_scatter."""
    for element in ELEMENTS.values():
        how = {"factor": FACTOR, "dtype": element.dtype}
        for op in element.ops:
            for count in (1, 1003):
                mine = element.input(op, count, comm.rank)
                with outputs(count, dtype=element.carrier) as (out,):
                    comm.reduce(mine, 0, op, out=out, **how)
                    if comm.rank == 0:
                        equal(out, element.result(op, count, comm.size), f"{element.name} {op}")
                _reduce_scatter(comm, element, op, [count] * comm.size)


@case
def every_dtype_is_moved(comm: Communicator) -> None:
    for element in ELEMENTS.values():
        _move(comm, element)


def _move(comm: Communicator, element: Element) -> None:
    dtype, size, last = element.dtype, comm.size, comm.size - 1
    parts = [element.input("SUM", 1003, rank) for rank in range(size)]
    mine = parts[comm.rank]

    def check(outs: Sequence[Array], expected: Sequence[Array], what: str) -> None:
        for out, right in zip(outs, expected, strict=True):
            equal(out, right, f"{what} of {element.name}")

    with outputs(*[1003] * size, dtype=element.carrier) as outs:
        comm.all_gather(mine, outs, dtype=dtype)
        check(outs, parts, "all_gather")
    with outputs(*[1003] * size, dtype=element.carrier) as outs:
        comm.all_to_all([mine] * size, outs, dtype=dtype)
        check(outs, parts, "all_to_all")
    with outputs(*[1003] * size, dtype=element.carrier) as outs:
        comm.gather(mine, outs if comm.rank == last else None, last, dtype=dtype)
        if comm.rank == last:
            check(outs, parts, "gather")
    with outputs(1003, 1003, 1003, dtype=element.carrier) as (one, all_of_it, message):
        comm.scatter(parts if comm.rank == last else None, one, last, dtype=dtype)
        all_of_it[:] = mine
        comm.broadcast(all_of_it, last, dtype=dtype)
        send = comm.send(mine, (comm.rank + 1) % size, dtype=dtype, async_op=True)
        comm.recv(message, (comm.rank - 1) % size, dtype=dtype)
        send.wait()
        received = [mine, parts[last], parts[comm.rank - 1]]
        check([one, all_of_it, message], received, "scatter, broadcast, a message")


@case
def barrier(comm: Communicator) -> None:
    """Nobody leaves before everybody has come."""
    for late in range(comm.size):
        if comm.rank == late:
            time.sleep(0.05)
        came = np.array([time.monotonic()])
        comm.barrier()
        left = time.monotonic()
        everybody = [np.empty(1) for _ in range(comm.size)]
        comm.all_gather(came, everybody)
        assert max(float(one[0]) for one in everybody) <= left


@case
def messages_by_tag(comm: Communicator) -> None:
    """Every rank to every rank and to itself; asked for in another order than sent."""
    tags = (0, 1, 2, 1 << 20)
    sends, receives = [], []
    for peer in range(comm.size):
        for tag in tags:
            sends.append(comm.send(floats(tag % 100 + peer, comm.rank), peer, tag, async_op=True))
    for peer in reversed(range(comm.size)):
        for tag in reversed(tags):
            into = np.empty(tag % 100 + comm.rank, np.float32)
            receives.append((comm.recv(into, peer, tag, async_op=True), into, peer, tag))
    for work, into, peer, tag in reversed(receives):
        work.wait()
        equal(into, floats(tag % 100 + comm.rank, peer), f"tag {tag} from {peer}")
        assert work.source == peer
    for work in sends:
        work.wait()


@case
def messages_with_one_tag_keep_their_order(comm: Communicator) -> None:
    peer, source = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    sends = [comm.send(floats(k, comm.rank), peer, 3, async_op=True) for k in range(50)]
    for k in range(50):
        into = np.empty(k, np.float32)
        comm.recv(into, source, 3)
        equal(into, floats(k, source), f"message {k}")
    for work in sends:
        work.wait()


@case
def messages_from_anybody(comm: Communicator) -> None:
    sends = [comm.send(floats(10, comm.rank), peer, 7, async_op=True) for peer in range(comm.size)]
    heard = []
    for _ in range(comm.size):
        into = np.empty(10, np.float32)
        work = comm.recv(into, tag=7)
        equal(into, floats(10, work.source), f"from {work.source}")
        heard.append(work.source)
    assert sorted(heard) == list(range(comm.size))
    for work in sends:
        work.wait()


@case
def large_messages_both_ways(comm: Communicator) -> None:
    """Both sides send first, without waiting and with it."""
    if comm.size == 1:
        return
    peer = comm.rank ^ 1
    if peer >= comm.size:
        return
    mine, into = floats(_MESSAGE // 4, comm.rank), np.zeros(_MESSAGE // 4, np.float32)
    send = comm.send(mine, peer, async_op=True)
    comm.recv(into, peer)
    send.wait()
    equal(into, floats(_MESSAGE // 4, peer), "the message")
    # The receiver takes them in the other order: the first one must be set aside whole.
    sends = [comm.send(mine + tag, peer, tag, async_op=True) for tag in (1, 2)]
    for tag in (2, 1):
        comm.recv(into, peer, tag)
        equal(into, floats(_MESSAGE // 4, peer) + np.float32(tag), f"tag {tag}")
    for work in sends:
        work.wait()


@case
def a_message_of_another_size_is_refused(comm: Communicator) -> None:
    peer, source = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    send = comm.send(np.ones(3, np.float32), peer, async_op=True)
    with pytest.raises(
        TransportError, match=rf"rank {source} sent 12 bytes.* expected 16.*same size"
    ):
        comm.recv(np.empty(4, np.float32), source)
    send.wait()
    # It is that message's fault alone.
    total = np.ones(1)
    comm.all_reduce(total)
    assert total[0] == comm.size


@case
def a_message_that_nobody_takes_runs_out_of_time(comm: Communicator) -> None:
    """It is more than the buffers hold; those after it still arrive."""
    last = comm.size - 1
    if comm.rank == 0 < last:
        cpu, began = time.thread_time(), time.monotonic()
        with pytest.raises(TimeoutError, match=rf"send to rank {last}: timed out .* rank {last}"):
            comm.send(np.zeros(_MESSAGE, np.uint8), last, tag=1, timeout=0.3)
        assert 0.3 <= time.monotonic() - began < 3
        assert time.thread_time() - cpu < 0.2  # it slept meanwhile
        comm.send(floats(1, 0), last, tag=3)
    elif comm.rank == last > 0:
        time.sleep(0.6)
        comm.recv(np.empty(1, np.float32), 0, tag=3)
    if comm.rank == 0 < last:
        comm.send(floats(10, 0), last, tag=2)
    elif comm.rank == last > 0:
        into = np.empty(10, np.float32)
        comm.recv(into, 0, tag=2)
        equal(into, floats(10, 0), "the message after")
    comm.barrier()


@case
def numbers_of_any_kind_do(comm: Communicator) -> None:
    """Calls are made in C where all arguments are of the usual types; others must do the same."""
    peer, source = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    total = sum(floats(5, rank) for rank in range(comm.size)) * np.float32(2)
    for number, real in ((int, float), (np.int64, np.float32), (int, int)):
        timeout, summed, given = real(60), floats(5, comm.rank), floats(5, comm.rank)
        comm.all_reduce(summed, "PREMUL_SUM", factor=real(2), timeout=timeout)
        equal(summed, total, "all_reduce")
        work = comm.broadcast(given, number(comm.size - 1), timeout=timeout)
        equal(given, floats(5, comm.size - 1), "broadcast")
        assert work.done()
        send = comm.send(floats(5, comm.rank), number(peer), number(4), async_op=True)
        received = comm.recv(given, number(source), number(4), timeout=timeout)
        equal(given, floats(5, source), "message")
        assert received.done()
        assert received.source == source
        for work in (send, received, comm.barrier(timeout=timeout)):
            work.wait(5)


@case
def calls_that_wait_and_calls_that_do_not(comm: Communicator) -> None:
    """Each rank takes its own way; their order is one."""
    data = [floats(k * 31 % 6000, comm.rank) for k in range(120)]
    works = [
        comm.all_reduce(one, async_op=(k // 3 + comm.rank) % 2 == 0) for k, one in enumerate(data)
    ]
    for work in works:
        work.wait()
    for one in data:
        equal(one, sum(floats(one.size, rank) for rank in range(comm.size)), f"{one.size} elements")


@case
def many_at_once_waited_backwards(comm: Communicator) -> None:
    data = [floats(100 + k, comm.rank) for k in range(60)]
    works = [comm.all_reduce(one, async_op=True) for one in data]
    for work in reversed(works):
        work.wait()
        assert work.done()
    for k, one in enumerate(data):
        equal(one, sum((floats(100 + k, r) for r in range(comm.size)), np.float32(0)), f"sum {k}")


@case
def messages_pass_collectives(comm: Communicator) -> None:
    """A collective that waits for a rank holds up no message that this rank sends first."""
    last = comm.size - 1
    total = np.ones(1000)
    if comm.rank == last:
        for peer in range(last):
            comm.recv(np.empty(4), peer, tag=5)
            comm.send(np.full(4, peer, float), peer, tag=6)
        comm.all_reduce(total)
    else:
        work = comm.all_reduce(total, async_op=True)
        comm.send(np.zeros(4), last, tag=5)
        answer = np.empty(4)
        comm.recv(answer, last, tag=6)
        equal(answer, np.full(4, comm.rank, float), "the answer")
        work.wait()
    equal(total, np.full(1000, comm.size, float), "the sum")


@case
def operations_end_unattended(comm: Communicator) -> None:
    """What nobody waits for makes progress while the program does something else."""
    data = np.ones(300_000)
    work = comm.all_reduce(data, async_op=True)
    deadline = time.monotonic() + CASE_S
    while not work.done():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    equal(data, np.full(300_000, comm.size, float), "the sum")
    comm.barrier()


@case
def a_wait_may_give_up_and_come_back(comm: Communicator) -> None:
    go = np.zeros(1)
    if comm.rank == 0:
        total = np.ones(10)
        work = comm.all_reduce(total, async_op=True)
        if comm.size > 1:
            began = time.monotonic()
            with pytest.raises(
                TimeoutError, match=r"^\[quoit rank 0 on \S+\] all_reduce #1.* not done in"
            ):
                work.wait(0.1)
            assert 0.1 <= time.monotonic() - began < 5
            assert not work.done()
        for peer in range(1, comm.size):
            comm.send(go, peer)
        work.wait()
    else:
        comm.recv(go, 0)
        total = np.ones(10)
        comm.all_reduce(total)
    equal(total, np.full(10, comm.size, float), "the sum")


@case
def a_gathered_rank_may_leave_first(comm: Communicator) -> None:
    """Whose part is done may go; the root still waits for the slowest."""
    if comm.rank == comm.size - 1:
        time.sleep(0.5)
    mine = np.full(3, comm.rank, float)
    outs = [np.empty(3) for _ in range(comm.size)]
    comm.gather(mine, outs if comm.rank == 0 else None, root=0)
    if comm.rank == 0:
        for rank, out in enumerate(outs):
            equal(out, np.full(3, rank, float), f"part {rank}")


def _watched(comm: Communicator) -> bool:
    """Whether a rank that leaves is noticed at once; MPI and loopback do not tell."""
    return all(comm.route(peer) in ("shm", "tcp", "self") for peer in range(comm.size))


@case
def a_rank_that_leaves_early_is_named(comm: Communicator) -> None:
    """Not at the timeout but at once."""
    if not _watched(comm):
        return
    last = comm.size - 1
    comm.barrier()
    if comm.rank == last:
        return
    began = time.monotonic()
    with pytest.raises(TransportError, match=f"rank {last} left the group") as caught:
        comm.all_reduce(np.ones(100_000))
    assert time.monotonic() - began < 2
    caught.match(rf"\[quoit rank {comm.rank} on .*all_reduce #\d")


@case
def a_message_from_a_rank_that_left_still_arrives(comm: Communicator) -> None:
    if not _watched(comm):
        return
    last = comm.size - 1
    if comm.rank == last:
        works = [comm.send(floats(10, last), peer, async_op=True) for peer in range(last)]
        for work in works:
            work.wait()
        return
    time.sleep(0.3)
    into = np.empty(10, np.float32)
    comm.recv(into, last)
    equal(into, floats(10, last), "the message")
    with pytest.raises(TransportError, match=f"recv from rank {last}: rank {last} left the group"):
        comm.recv(into, last)


for _name, (_call, _told) in MISMATCHES.items():
    CASES[f"mismatch_of_{_name}"] = functools.partial(mismatch, call=_call, told=_told)
for _name, _who in itertools.product(FROM_ANYWHERE, list(WHO)[1:]):
    _call, _told = MISMATCHES[_name]
    CASES[f"mismatch_of_{_name}_at_{_who}"] = functools.partial(
        mismatch, call=_call, told=_told, who=_who
    )
case(mismatch_of_splits)
