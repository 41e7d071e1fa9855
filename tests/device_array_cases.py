"""Cases for quoit.Communicator with arrays of a CUDA device, on the stand-in of fake_cuda.py.

Under `delay`, each piece of the device's work takes its time; nothing here waits for more than a
user waits for: what is read is read on the array's own stream.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cases
import fake_cuda
import quoit
from elements import ELEMENTS
from fake_cuda import Cupy, DeviceArray, Jax, Ml, Numba, OldJax, delay, new_stream
from quoit import Communicator, TimeoutError, TransportError, UsageError
from stage import Job

Case = Callable[[Communicator], None]
Array = NDArray[Any]

CASES: dict[str, Case] = {}
SLOW_S = 0.05  # of one copy under delay()
# Elements of one line, of a few pieces, and of more pieces than there are slots for.
COUNTS = [0, 1, 7, 1000, (3 << 20) + 5, (5 << 20) + 1]


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


@contextlib.contextmanager
def group(job: Job, rank: int, number: int) -> Iterator[Communicator]:
    os.environ["QUOIT_IPC"] = "off"  # which device_ipc_cases.py is about
    fake_cuda.install()
    with cases.group(job, rank, number) as comm:
        yield comm
    assert fake_cuda.library().fake_cuda_untouched(), "a context was left current"


def mine(count: int, rank: int, dtype: str = "float32") -> Array:
    """What a rank puts in: small integers, whose sums are exact."""
    return ((np.arange(count) + 3 * rank) % 11).astype(dtype)


def total(comm: Communicator, count: int, dtype: str = "float32") -> Array:
    return np.add.reduce([mine(count, r, dtype) for r in range(comm.size)], dtype=dtype)


def zeros(count: int, dtype: str = "float32", stream: int = fake_cuda.LEGACY) -> Cupy:
    return Cupy(np.zeros(count, dtype), stream)


def check(got: DeviceArray, wanted: Array, what: object = "") -> None:
    cases.equal(got.get(), wanted, what)


# The methods are made for arrays of NumPy, as far as types go.
def of(comm: Communicator) -> Any:
    return comm


@case
def all_reduce(comm: Communicator) -> None:
    for count in COUNTS:
        array, out = Cupy(mine(count, comm.rank)), zeros(count)
        of(comm).all_reduce(array, out=out)
        check(out, total(comm, count), count)
        check(array, mine(count, comm.rank), "the input")
        of(comm).all_reduce(array)
        check(array, total(comm, count), count)
    for dtype in ("float64", "float16", "int32", "uint8", "complex64"):
        array = Cupy(mine(5000, comm.rank, dtype).reshape(50, 100))
        of(comm).all_reduce(array)
        check(array, total(comm, 5000, dtype).reshape(50, 100), dtype)
    array = Cupy(mine(5000, comm.rank))
    of(comm).all_reduce(array, "MAX")
    check(array, np.maximum.reduce([mine(5000, r) for r in range(comm.size)]))


@case
def broadcast_and_reduce(comm: Communicator) -> None:
    last = comm.size - 1
    for count in COUNTS:
        array = Cupy(mine(count, comm.rank))
        of(comm).broadcast(array, last)
        check(array, mine(count, last), count)
        array = Cupy(mine(count, comm.rank))
        of(comm).reduce(array, last)
        check(array, total(comm, count) if comm.rank == last else mine(count, comm.rank), count)


@case
def all_gather_and_reduce_scatter(comm: Communicator) -> None:
    for count in COUNTS:
        outs = [zeros(count) for _ in range(comm.size)]
        of(comm).all_gather(Cupy(mine(count, comm.rank)), outs)
        for rank, out in enumerate(outs):
            check(out, mine(count, rank), count)
        # In place: the input is where its output will be.
        outs = [zeros(count) for _ in range(comm.size)]
        outs[comm.rank] = Cupy(mine(count, comm.rank))
        of(comm).all_gather(outs[comm.rank], outs)
        for rank, out in enumerate(outs):
            check(out, mine(count, rank), count)
        blocks = [Cupy(mine(count, comm.rank + block)) for block in range(comm.size)]
        out = zeros(count)
        of(comm).reduce_scatter(blocks, out)
        inputs = [mine(count, rank + comm.rank) for rank in range(comm.size)]
        check(out, np.add.reduce(inputs), count)
    uneven = [zeros(1000 * rank) for rank in range(comm.size)]
    of(comm).all_gather(Cupy(mine(1000 * comm.rank, comm.rank)), uneven)
    for rank, out in enumerate(uneven):
        check(out, mine(1000 * rank, rank))


@case
def all_to_all_gather_and_scatter(comm: Communicator) -> None:
    for count in COUNTS:
        outs = [zeros(count) for _ in range(comm.size)]
        of(comm).all_to_all([Cupy(mine(count, comm.rank + r)) for r in range(comm.size)], outs)
        for rank, out in enumerate(outs):
            check(out, mine(count, rank + comm.rank), count)
        outs = [zeros(count) for _ in range(comm.size)]
        of(comm).gather(Cupy(mine(count, comm.rank)), outs if comm.rank == 0 else None, 0)
        for rank, out in enumerate(outs if comm.rank == 0 else []):
            check(out, mine(count, rank), count)
        ins, out = [Cupy(mine(count, r)) for r in range(comm.size)], zeros(count)
        of(comm).scatter(ins if comm.rank == 0 else None, out, 0)
        check(out, mine(count, comm.rank), count)
    ins = [Cupy(mine(100 * (comm.rank + 2 * r), comm.rank)) for r in range(comm.size)]
    outs = [zeros(100 * (r + 2 * comm.rank)) for r in range(comm.size)]
    of(comm).all_to_all(ins, outs, uneven=True)
    for rank, out in enumerate(outs):
        check(out, mine(100 * (rank + 2 * comm.rank), rank))


@case
def messages(comm: Communicator) -> None:
    to, source = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    for count in COUNTS:
        into = zeros(count)
        with delay(SLOW_S / 5):
            sent = of(comm).send(Cupy(mine(count, comm.rank)), to, 3, async_op=True)
            work = of(comm).recv(into, source, 3)
            check(into, mine(count, source), count)
            sent.wait()
        assert work.source == source
    # One side's array may be the CPU's, and the sender anybody.
    if comm.rank > 0:
        of(comm).send(Cupy(mine(5, comm.rank)) if comm.rank % 2 else mine(5, comm.rank), 0)
    for _ in range(comm.size - 1 if comm.rank == 0 else 0):
        into = zeros(5)
        work = of(comm).recv(into)
        check(into, mine(5, work.source))


@case
def compressed(comm: Communicator) -> None:
    """As on the CPU, bit for bit."""
    numbers = np.random.default_rng(comm.rank).standard_normal(100_003).astype(np.float32)
    for codec in (quoit.Int8(), quoit.TopK(ratio=0.05)):
        residuals = [np.zeros_like(numbers) for _ in range(2)]
        for _ in range(3):
            on_host, array = numbers.copy(), Cupy(numbers)
            comm.all_reduce(on_host, "AVG", codec=codec, residual=residuals[0])
            of(comm).all_reduce(array, "AVG", codec=codec, residual=residuals[1])
            check(array, on_host, codec)
            cases.equal(residuals[1], residuals[0], "the residual")
    array = Cupy(mine(5000, comm.rank))
    of(comm).all_reduce(array, codec=quoit.Bf16())
    check(array, total(comm, 5000))


@case
def order_of_streams(comm: Communicator) -> None:
    """Before the call comes what made its input; after it, what uses its output."""
    last = comm.size - 1
    for stream in (fake_cuda.LEGACY, fake_cuda.PER_THREAD, new_stream()):
        for count in (1000, (5 << 20) + 1):
            with delay(SLOW_S):
                array = Cupy(mine(count, comm.rank), stream)  # not there yet when the call is made
                of(comm).all_reduce(array)
                check(array, total(comm, count), "the sum")
                array.put(mine(count, comm.rank))
                work = of(comm).broadcast(array, last, async_op=True)
                work.wait()
                check(array, mine(count, last), "what was broadcast")
                array.put(mine(count, last + 1))  # nor may what comes later come too early
            check(array, mine(count, last + 1), "what was put there later")


@case
def several_streams_in_a_call(comm: Communicator) -> None:
    one, other = new_stream(), new_stream()
    with delay(SLOW_S):
        array, out = Cupy(mine(1000, comm.rank), one), zeros(1000, stream=other)
        of(comm).all_reduce(array, out=out)
        check(out, total(comm, 1000))
        cases.equal(out.get(one), total(comm, 1000), "on the input's stream")


@case
def a_stream_that_is_not_told(comm: Communicator) -> None:
    """The caller made the input ready; and the result is, for whatever stream, after the call."""
    for count in (1000, (5 << 20) + 1):
        array = Numba(mine(count, comm.rank))
        array.get()
        out = Numba(np.zeros(count, np.float32))
        out.get()
        for background in (False, True):
            with delay(SLOW_S):
                of(comm).all_reduce(array, out=out, async_op=background).wait()
            cases.equal(out.get(new_stream()), total(comm, count), "on any stream")


@case
def by_dlpack(comm: Communicator) -> None:
    """Its producer makes our stream wait for its own, whatever that is."""
    to, source = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    for kind in (Jax, OldJax):
        for count in (0, 1000, (5 << 20) + 1):
            with delay(SLOW_S):
                array, out = kind(mine(count, comm.rank), new_stream()), zeros(count)
                of(comm).all_reduce(array, out=out)
                check(out, total(comm, count), kind)
            # And the result is there for whatever stream.
            of(comm).all_reduce(array)
            cases.equal(array.get(new_stream()), total(comm, count), kind)
    managed = Jax(mine(9, comm.rank))
    managed.kind = fake_cuda.CUDA_MANAGED
    of(comm).all_reduce(managed)
    check(managed, total(comm, 9))
    # A library that cannot write into its arrays can send them.
    fixed, into = Jax(mine(9, comm.rank), read_only=True), zeros(9)
    sent = of(comm).send(fixed, to, async_op=True)
    of(comm).recv(into, source)
    check(into, mine(9, source))
    sent.wait()
    del sent, array, managed, fixed
    gc.collect()
    comm.barrier()
    deadline = time.monotonic() + cases.CASE_S
    while fake_cuda.exported():
        assert time.monotonic() < deadline, "capsules were kept"
        a_call_to_itself(comm)


@case
def element_types_that_numpy_lacks(comm: Communicator) -> None:
    """By DLPack under their own names, and by their bits as on the CPU."""
    bfloat16 = ELEMENTS["bfloat16"]
    given, wanted = (
        bfloat16.input("SUM", 1003, comm.rank),
        bfloat16.result("SUM", 1003, comm.size),
    )
    for array in (Jax(given, code=4), Ml(given, new_stream(), code=4)):
        with delay(SLOW_S):
            of(comm).all_reduce(array)
            check(array, wanted)
    named, bits = Jax(given, code=4), Cupy(given)
    of(comm).all_reduce(named, dtype="bfloat16")
    check(named, wanted)
    of(comm).all_reduce(bits, dtype="bfloat16")
    check(bits, wanted)
    for code in (7, 10, 14):
        array, out = Jax(mine(100, comm.rank, "uint8"), code=code), Jax(mine(100, 0, "u1"), code=12)
        of(comm).broadcast(array, 0)
        check(array, mine(100, 0, "uint8"))
        of(comm).all_gather(array, [out] * comm.size)
        check(out, mine(100, 0, "uint8"))
    flags = Jax(np.arange(4) > comm.rank)
    of(comm).all_reduce(flags, "MAX")
    check(flags, np.arange(4) > 0)


@case
def several_in_flight(comm: Communicator) -> None:
    """Collectives and messages of two streams, in any order of waiting."""
    streams = [new_stream(), new_stream()]
    with delay(SLOW_S / 10):
        arrays = [Cupy(mine(20_000 * (i + 1), comm.rank + i), streams[i % 2]) for i in range(6)]
        works = [of(comm).all_reduce(array, async_op=True) for array in arrays]
        into = zeros(30)
        message = of(comm).recv(into, (comm.rank - 1) % comm.size, async_op=True)
        sent = of(comm).send(Cupy(mine(30, comm.rank)), (comm.rank + 1) % comm.size, async_op=True)
        on_host = mine(9000, comm.rank)
        beside = comm.all_reduce(on_host, async_op=True)
        for i in (5, 0, 3, 1, 4, 2):
            works[i].wait()
            inputs = [mine(20_000 * (i + 1), r + i) for r in range(comm.size)]
            check(arrays[i], np.add.reduce(inputs), i)
        message.wait()
        sent.wait()
        beside.wait()
        check(into, mine(30, (comm.rank - 1) % comm.size))
    cases.equal(on_host, total(comm, 9000), "beside them")


@case
def arrays_that_are_forgotten(comm: Communicator) -> None:
    """They live until the copies are over, also when nobody waits."""
    with delay(SLOW_S / 5):
        count = (2 << 20) + 3
        out = zeros(count)
        work = of(comm).all_reduce(Cupy(mine(count, comm.rank)), out=out, async_op=True)
        gc.collect()
        work.wait()
        check(out, total(comm, count))
    with delay(1.0):
        array = Cupy(mine(1000, comm.rank))
        work = of(comm).all_reduce(array, async_op=True)
        kept = weakref.ref(array)
        del array
        while not work.done():
            time.sleep(0.001)
        del work  # while the copy back has a second to go
        time.sleep(SLOW_S)
        assert kept() is not None, "an array was let go although it is still to be written"
    deadline = time.monotonic() + cases.CASE_S
    while kept() is not None:
        assert time.monotonic() < deadline, "an array was kept for good"
        a_call_to_itself(comm)


def a_call_to_itself(comm: Communicator) -> None:
    """What nobody joined is let go with a later call, when the copies are over."""
    sent = of(comm).send(Cupy(mine(1, 0)), comm.rank, async_op=True)
    of(comm).recv(zeros(1), comm.rank)
    sent.wait()


@case
def two_devices(comm: Communicator) -> None:
    other = new_stream(1)
    for count in (1000, (5 << 20) + 1):
        array = Cupy(mine(count, comm.rank), other)
        of(comm).all_reduce(array)
        check(array, total(comm, count))
    with pytest.raises(UsageError, match=r"is on CUDA device 0, another on 1: copy one of them"):
        of(comm).all_reduce(array, out=zeros((5 << 20) + 1))
    comm.barrier()


@case
def ranks_that_differ_in_memory(comm: Communicator) -> None:
    if comm.size == 1:
        return
    values = mine(100, comm.rank)
    with pytest.raises((UsageError, TransportError), match="on an accelerator"):
        of(comm).all_reduce(Cupy(values) if comm.rank == 0 else values)


@case
def what_cannot_be_used(comm: Communicator) -> None:
    """Said by the rank that gives it, and the group goes on."""
    plain, masked = Cupy(mine(6, 0)), Cupy(mine(6, 0))
    masked.mask = plain
    freed = Cupy(mine(6, 0))
    fake_cuda.library().fake_cuda_synchronize(fake_cuda.LEGACY)
    freed.memory.address += 1 << 40
    wrong: dict[str, Callable[[Any], object]] = {
        r"Cupy on a CUDA device cannot be used \(it is not contiguous\): pass a plain one": (
            lambda c: c.all_reduce(Cupy(mine(6, 0), strides=(8,)))
        ),
        r"Jax on a CUDA device cannot be used \(it is not contiguous\)": (
            lambda c: c.all_reduce(Jax(mine(6, 0).reshape(2, 3), strides=(4, 8)))
        ),
        r"cannot be used \(it has a mask\)": lambda c: c.all_reduce(masked),
        r"stream 0, which has no meaning": lambda c: c.all_reduce(_on_stream_0()),
        r"read-only: pass one that may be written to": (
            lambda c: c.all_reduce(Cupy(mine(6, 0), read_only=True))
        ),
        r"is read-only: ": lambda c: c.broadcast(Jax(mine(6, 0), read_only=True), 0),
        r"is that of no CUDA device \(CUDA_ERROR_INVALID_VALUE \(invalid": (
            lambda c: c.all_reduce(freed)
        ),
        r"in the memory of the CPU, another in that of a CUDA device: copy one": (
            lambda c: c.all_reduce(plain, out=mine(6, 0))
        ),
        r"one dtype, but one is float32 and another int32": (
            lambda c: c.all_reduce(plain, out=zeros(6, "int32"))
        ),
        r"the residual is on a CUDA device, but is used by the CPU": (
            lambda c: c.all_reduce(plain, codec=quoit.Int8(), residual=zeros(6))
        ),
        r"dtype '>f4' is not known": lambda c: c.all_reduce(Cupy(mine(6, 0, ">f4"))),
        r"dtype 'DLPack's 3 of 1 x 32 bits' is not known": (
            lambda c: c.all_reduce(Jax(mine(6, 0), code=3))
        ),
        r"BAND of float32 has no meaning": lambda c: c.all_reduce(plain, "BAND"),
        r"input is float32\[6\], output is float32\[5\]": (
            lambda c: c.all_reduce(plain, out=zeros(5))
        ),
        r"float32 cannot be taken as bfloat16": lambda c: c.all_reduce(plain, dtype="bfloat16"),
    }
    for words, call in wrong.items():
        with pytest.raises(UsageError, match=words) as caught:
            call(comm)
        assert str(caught.value).startswith(f"[quoit rank {comm.rank} on "), str(caught.value)
    freed.memory.address -= 1 << 40
    array = Cupy(mine(6, comm.rank), strides=(4,))
    of(comm).all_reduce(array)
    check(array, total(comm, 6))


def _on_stream_0() -> Cupy:
    array = Cupy(mine(6, 0))
    array.stream = 0
    return array


@case
def captures(comm: Communicator) -> None:
    """A captured stream is refused; one that is captured elsewhere is not disturbed."""
    array = Cupy(mine(3, comm.rank))
    with fake_cuda.capturing(), pytest.raises(UsageError, match="captured into a graph"):
        of(comm).all_reduce(array)
    with delay(SLOW_S):
        work = of(comm).send(array, comm.rank, async_op=True)
        with fake_cuda.capturing():
            into = mine(3, 50)
            comm.recv(into, comm.rank)
            work.wait()
    cases.equal(into, mine(3, comm.rank), "sent meanwhile")


@case
def what_the_driver_fails_with(comm: Communicator) -> None:
    """Is told by its name, in the call that met it."""
    array = Cupy(mine(3, comm.rank))
    of(comm).all_reduce(array)
    with (
        fake_cuda.failing("cuMemcpyAsync", 700),
        pytest.raises(
            TransportError,
            match=r"cuMemcpyAsync failed: CUDA_ERROR_ILLEGAL_ADDRESS \(an illegal memory access",
        ),
    ):
        of(comm).all_reduce(array)
    with (
        fake_cuda.failing("cuMemHostAlloc", 2),
        pytest.raises(TransportError, match="CUDA_ERROR_OUT_OF_MEMORY"),
    ):
        of(comm).send(zeros(50_000_000), comm.rank)
    work = None
    with fake_cuda.failing("cuEventQuery", 999), pytest.raises(TransportError, match="error 999"):
        work = of(comm).send(array, comm.rank)
    assert work is None


@case
def a_device_that_does_not_come(comm: Communicator) -> None:
    """The deadline holds although nobody can wake who waits for a device."""
    begun = time.monotonic()
    with delay(2.0):
        array = Cupy(mine(3, comm.rank))
        with pytest.raises((TimeoutError, TransportError), match=r"accelerator|timed out"):
            of(comm).all_reduce(array, timeout=0.5)
        assert time.monotonic() - begun < 1.9
    del array


@case
def tensors_of_torch(comm: Communicator) -> None:
    """Whose interface tells no stream: torch's current one is asked for."""

    class Tensor(Numba):
        device = "cuda:0"

    stream = new_stream()
    torch: Any = types.ModuleType("torch")
    torch.Tensor = Tensor
    torch.cuda = types.SimpleNamespace(
        current_stream=lambda device: types.SimpleNamespace(cuda_stream=stream)
    )
    before = sys.modules.get("torch")
    sys.modules["torch"] = torch
    try:
        with delay(SLOW_S):
            tensor = Tensor(mine(1000, comm.rank), stream)
            of(comm).all_reduce(tensor)
            check(tensor, total(comm, 1000))
    finally:
        sys.modules["torch"] = before  # type: ignore[assignment]
