"""The collectives on NumPy arrays, without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quoit import _core
from quoit.work import DONE, Work, received

Array = NDArray[Any]
ReduceOp = Literal["SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR", "PREMUL_SUM"]
Rendezvous = Callable[[str], list[str]]

ANY_SOURCE = -1


class Communicator:
    """A group of ranks that communicate arrays in the memory of the CPU.

    Every method takes C-contiguous arrays of one dtype, of NumPy or of any library that speaks
    DLPack (torch, CuPy, JAX, TensorFlow), and works in place where it says so. Arrays of JAX and
    TensorFlow do not change: they can be sent, and received into arrays of others. With
    ``async_op=True`` it returns a :class:`Work` at once; otherwise it returns when this rank's part
    is done. All ranks make the same calls in the same order. Methods raise `quoit.UsageError` (a
    ValueError) for calls that are wrong or that differ between ranks, `quoit.TransportError` when a
    rank died or left, `quoit.TimeoutError` when time ran out.

    bfloat16 and float8 arrays, which NumPy lacks, are passed as uint16 / uint8 with
    ``dtype="bfloat16"`` / ``"float8"``.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        rendezvous: Rendezvous,
        *,
        timeout: float | None = None,
        transport: str | None = None,
        algorithm: str | None = None,
    ) -> None:
        """Joins the group; collective over its `size` ranks.

        rendezvous: gives this rank's text and returns everybody's, by rank; called a few times.
            Over mpi4py: ``comm.allgather``.
        timeout: seconds, of this call and of every operation (default 1800, or QUOIT_TIMEOUT_S).
        transport: "auto", "shm", "mpi", "tcp", "shm+mpi" or "shm+tcp".
        algorithm: "auto", "direct", "ring" or "hierarchy".
        """
        from quoit import backend, launch

        options = _core.ConnectOptions()
        if timeout is not None:
            options.timeout = timeout
        if transport is not None:
            options.transport = transport
        if algorithm is not None:
            options.algorithm = algorithm
        started_by = backend.launcher()
        if started_by is not None:
            options.mpi_library = launch.find_mpi_library(started_by) or ""
            options.mpi_size = started_by.size
        _core.watch_signals()
        backend.end_in_order()
        self._native = _core.connect(rank, size, rendezvous, options)

    @classmethod
    def from_mpi4py(cls, comm: Any, *, timeout: float | None = None) -> Communicator:
        """The group of an mpi4py communicator, which is used to meet and not afterwards."""
        return cls(comm.Get_rank(), comm.Get_size(), comm.allgather, timeout=timeout)

    @classmethod
    def threads(cls, hosts: Sequence[str], **options: Any) -> list[Communicator]:
        """One communicator per rank for threads of this process; rank r lives on ``hosts[r]``.

        For tests: ranks on one host share memory, others exchange messages. Options as for the
        constructor; with transport="shm+tcp" the others use TCP.
        """
        native = _core.ConnectOptions()
        for name, value in options.items():
            setattr(native, name, value)
        world = []
        for communicator in _core.connect_threads(list(hosts), native):
            rank = cls.__new__(cls)
            rank._native = communicator
            world.append(rank)
        return world

    @property
    def rank(self) -> int:
        """This process's rank, 0 <= rank < size."""
        return self._native.rank

    @property
    def size(self) -> int:
        """How many ranks the group has."""
        return self._native.size

    def route(self, peer: int) -> str:
        """Name of the transport that reaches `peer`: "shm", "mpi", "tcp", "loopback" or "self"."""
        return self._native.route(peer)

    def close(self) -> None:
        """Leaves the group. Collectives in flight get 5 s to complete; what is left fails."""
        self._native.close()

    def abort(self, why: str = "aborted by the program") -> None:
        """Fails all pending and later operations, here and on the other ranks."""
        self._native.abort(why)

    def empty(self, shape: int | Sequence[int], dtype: Any = np.float32) -> Array:
        """An array of undefined content that the other ranks of this host can read in place.

        all_reduce in place, all_gather of it and reduce_scatter of its rows then skip a copy, which
        pays from some 128 KiB on. Its memory is kept for the next one of about its size.
        """
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        count = math.prod(sizes)
        memory = self._native.allocate(count * np.dtype(dtype).itemsize)
        return np.frombuffer(memory, dtype, count).reshape(sizes)

    def all_reduce(
        self,
        array: Array,
        op: ReduceOp = "SUM",
        *,
        out: Array | None = None,
        factor: float = 1.0,
        dtype: str | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Work:
        """Reduces `array` over all ranks, in place or into `out` of the same shape.

        op: AVG divides by the number of ranks (integers truncate towards zero); PREMUL_SUM
        multiplies every input by `factor` first. Sums run in rank order, and all ranks get the same
        bits.
        """
        if not (async_op or dtype) and self._native.plain_all_reduce(
            array, out, op, factor, timeout
        ):
            return DONE
        array = _array(array)
        target = array if out is None else _array(out)
        arguments = (array, target, _name([array, target], dtype, op), op, factor)
        return self._run(self._native.all_reduce, arguments, async_op, timeout)

    def reduce(
        self,
        array: Array,
        root: int,
        op: ReduceOp = "SUM",
        *,
        out: Array | None = None,
        factor: float = 1.0,
        dtype: str | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Work:
        """As :meth:`all_reduce`, but only `root` receives; the others' `out` is left alone."""
        array = _array(array)
        target = array if out is None else _array(out)
        arguments = (array, target, _name([array, target], dtype, op), op, factor, root)
        return self._run(self._native.reduce, arguments, async_op, timeout)

    def broadcast(
        self,
        array: Array,
        root: int,
        *,
        dtype: str | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Work:
        """Copies `root`'s array into everybody's, which has the same shape."""
        if not (async_op or dtype) and self._native.plain_broadcast(array, root, timeout):
            return DONE
        array = _array(array)
        arguments = (array, _name([array], dtype), root)
        return self._run(self._native.broadcast, arguments, async_op, timeout)

    def reduce_scatter(
        self,
        blocks: Sequence[Array],
        out: Array,
        op: ReduceOp = "SUM",
        *,
        factor: float = 1.0,
        dtype: str | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Work:
        """Reduces block r of all ranks into the `out` of rank r. Blocks may differ in size."""
        ins, out = _arrays(blocks), _array(out)
        arguments = (ins, out, _name([*ins, out], dtype, op), op, factor)
        return self._run(self._native.reduce_scatter, arguments, async_op, timeout)

    def all_gather(
        self,
        array: Array,
        outs: Sequence[Array],
        *,
        dtype: str | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Work:
        """Copies rank r's `array` into ``outs[r]`` on all ranks. Sizes may differ between ranks."""
        array, outs = _array(array), _arrays(outs)
        arguments = (array, outs, _name([array, *outs], dtype))
        return self._run(self._native.all_gather, arguments, async_op, timeout)

    def all_to_all(
        self,
        ins: Sequence[Array],
        outs: Sequence[Array],
        *,
        uneven: bool = False,
        dtype: str | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Work:
        """Copies ``ins[r]`` into ``outs[self.rank]`` of rank r.

        uneven: whether block sizes may differ anywhere; the same on all ranks.
        """
        ins, outs = _arrays(ins), _arrays(outs)
        arguments = (ins, outs, _name([*ins, *outs], dtype), uneven)
        return self._run(self._native.all_to_all, arguments, async_op, timeout)

    def gather(
        self,
        array: Array,
        outs: Sequence[Array] | None,
        root: int,
        *,
        dtype: str | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Work:
        """Copies rank r's `array` into ``outs[r]`` of `root`; the others pass None."""
        array, outs = _array(array), _arrays(outs or ())
        arguments = (array, outs, _name([array, *outs], dtype), root)
        return self._run(self._native.gather, arguments, async_op, timeout)

    def scatter(
        self,
        ins: Sequence[Array] | None,
        out: Array,
        root: int,
        *,
        dtype: str | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Work:
        """Copies ``ins[r]`` of `root` into the `out` of rank r; the others pass None."""
        ins, out = _arrays(ins or ()), _array(out)
        arguments = (ins, out, _name([*ins, out], dtype), root)
        return self._run(self._native.scatter, arguments, async_op, timeout)

    def barrier(self, *, async_op: bool = False, timeout: float | None = None) -> Work:
        """Returns when all ranks have called it."""
        if not async_op and self._native.plain_barrier(timeout):
            return DONE
        return self._run(self._native.barrier, (), async_op, timeout)

    def send(
        self,
        array: Array,
        to: int,
        tag: int = 0,
        *,
        dtype: str | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Work:
        """Sends a message; messages match by (sender, tag >= 0), in order."""
        if not (async_op or dtype) and self._native.plain_send(array, to, tag, timeout):
            return DONE
        array = _array(array)
        arguments = (array, _name([array], dtype), to, tag)
        return self._run(self._native.send, arguments, async_op, timeout)

    def recv(
        self,
        array: Array,
        source: int = ANY_SOURCE,
        tag: int = 0,
        *,
        dtype: str | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Work:
        """Receives a message of exactly the size of `array`; see :attr:`Work.source`."""
        if not (async_op or dtype) and self._native.plain_recv(array, source, tag, timeout):
            return received(source)
        array = _array(array)
        arguments = (array, _name([array], dtype), source, tag)
        return self._run(self._native.recv, arguments, async_op, timeout)

    @staticmethod
    def _run(
        start: Callable[..., _core.Work],
        arguments: tuple[Any, ...],
        async_op: bool,
        timeout: float | None,
    ) -> Work:
        return Work(start(*arguments, async_op, timeout or 0.0))


_CPU, _CUDA = 1, 2  # DLDeviceType of dlpack.h


def _array(array: Any) -> Array:
    """NumPy's view of an array; the memory is the same."""
    if isinstance(array, np.ndarray):
        return array
    if not hasattr(array, "__dlpack__"):
        raise _core.UsageError(
            f"a {type(array).__name__} is no array: pass one of NumPy, or of a library that speaks "
            "DLPack (torch, CuPy, JAX, TensorFlow)"
        )
    kind = array.__dlpack_device__()[0]
    if kind != _CPU:
        place = "a GPU" if kind == _CUDA else f"a device of kind {kind}"
        raise _core.UsageError(
            f"the {type(array).__name__} lies in the memory of {place}, and quoit moves memory of "
            "the CPU only so far: copy it there first (cupy.asnumpy, tensor.cpu())"
        )
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError) as error:
        raise _core.UsageError(
            f"NumPy cannot view the {type(array).__name__} ({error}): for bfloat16 and float8 pass "
            'its bits, as tensor.view(torch.uint16) with dtype="bfloat16"'
        ) from error


def _arrays(arrays: Sequence[Any]) -> list[Array]:
    return [_array(array) for array in arrays]


# What carries the element types that NumPy lacks.
_CARRIERS = {"bfloat16": "uint16", "float8": "uint8"}
_REAL = {"complex64": "float32", "complex128": "float64"}


@cache
def _text(dtype: np.dtype[Any]) -> str:
    return str(dtype)  # NumPy takes its time over this


def _name(arrays: Sequence[Array], dtype: str | None, op: ReduceOp = "SUM") -> str:
    """The runtime's name of the arrays' element type; complex numbers travel as pairs of floats."""
    if not arrays:
        return "uint8"
    first = arrays[0].dtype
    for array in arrays:
        if array.dtype != first:
            raise _core.UsageError(
                f"the arrays of a call must have one dtype, but one is {first} and another "
                f"{array.dtype}: convert them with astype()"
            )
    name = _text(first)
    if dtype is not None:
        carrier = _CARRIERS.get(dtype, dtype)
        if name != carrier:
            raise _core.UsageError(
                f"an array of {name} cannot be taken as {dtype}: pass one of {carrier}, which "
                f"holds the bits of {dtype}"
                if carrier != dtype
                else f"an array of {name} cannot be taken as {dtype}: convert it with astype()"
            )
        return dtype
    if name in _REAL and op not in ("SUM", "AVG", "PREMUL_SUM"):
        raise _core.UsageError(f"{op} has no meaning for {name}: use SUM, AVG or PREMUL_SUM")
    return _REAL.get(name, name)
