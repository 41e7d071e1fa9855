"""The collectives on arrays of NumPy and its like, without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from quoit import _core, arrays
from quoit.arrays import Array
from quoit.codecs import Codec, of_one_tensor
from quoit.work import DONE, Work, received

ReduceOp = Literal["SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR", "PREMUL_SUM"]
Rendezvous = Callable[[str], list[str]]

ANY_SOURCE = -1


class Communicator:
    """A group of ranks that communicate arrays in the memory of the CPU or of a CUDA device.

    Every method takes C-contiguous arrays of one dtype and in one memory, of any library that
    speaks DLPack or ``__cuda_array_interface__`` (NumPy, torch, CuPy, Numba, JAX, TensorFlow), and
    works in place where it says so. Those of JAX and TensorFlow can only be sent. With
    ``async_op=True`` it returns a :class:`Work` at once; otherwise when this rank's part is done,
    on a CUDA device: when the array's stream finds it done. All ranks make the same calls in the
    same order. They raise `quoit.UsageError` for calls that are wrong or that differ between ranks,
    `quoit.TransportError` when a rank died or left, `quoit.TimeoutError` when time ran out.
    bfloat16 and float8, which NumPy lacks, are passed as uint16 and uint8 with ``dtype="bfloat16"``
    or ``"float8"``.
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
        from quoit import backend

        options = _core.ConnectOptions()
        if timeout is not None:
            options.timeout = timeout
        if transport is not None:
            options.transport = transport
        if algorithm is not None:
            options.algorithm = algorithm
        options.mpi_library, options.mpi_size = backend.prepare()
        self._be(_core.connect(rank, size, rendezvous, options))

    def _be(self, native: _core.Communicator) -> None:
        self._native = native
        self._where = native.where

    @classmethod
    def from_mpi4py(cls, comm: Any, *, timeout: float | None = None) -> Communicator:
        """The group of an mpi4py communicator, which is used to meet and not afterwards."""
        return cls(comm.Get_rank(), comm.Get_size(), comm.allgather, timeout=timeout)

    @classmethod
    def from_launcher(cls, *, timeout: float | None = None) -> Communicator:
        """The group of all ranks that mpirun, srun, torchrun or `quoit run` started; collective.

        A program that was started by none of them is a group of its own.
        """
        from quoit import gathering

        patience = _core.ConnectOptions().timeout if timeout is None else timeout
        with gathering.of_launcher(patience) as (rank, size, meet):
            return cls(rank, size, meet, timeout=timeout)

    @classmethod
    def threads(cls, hosts: Sequence[str], **options: Any) -> list[Communicator]:
        """For tests: ranks that are threads; rank r lives on ``hosts[r]``. Options as above.

        Those on one host share memory, others send messages (transport="shm+tcp": by TCP).
        """
        native = _core.ConnectOptions()
        for name, value in options.items():
            setattr(native, name, value)
        world = []
        for communicator in _core.connect_threads(list(hosts), native):
            rank = cls.__new__(cls)
            rank._be(communicator)
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

    def device_route(self) -> str:
        """How collectives on arrays of CUDA devices go: "ipc", "mpi", "host"; "" if unknown."""
        return self._native.device_route()

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
        memory = self._native.allocate(math.prod(sizes) * np.dtype(dtype).itemsize)
        array: Array = np.ndarray(sizes, dtype, memoryview(memory))
        return array

    def all_reduce(
        self,
        array: Array,
        op: ReduceOp = "SUM",
        *,
        out: Array | None = None,
        factor: float = 1.0,
        dtype: str | None = None,
        codec: Codec | None = None,
        residual: Array | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Work:
        """Reduces `array` over all ranks, in place or into `out` of the same shape.

        op: AVG divides by the number of ranks (integers truncate towards zero); PREMUL_SUM
        multiplies every input by `factor` first. Sums run in rank order, and all ranks get the same
        bits.

        codec: encodes what travels (SUM and AVG of float16, bfloat16 and float32, in place only).
        residual: NumPy's float32 array of as many elements, zero at first, for what the codec lost
        and the next call adds (error feedback, Karimireddy et al. 2019); of the mean, with AVG.
        """
        if codec is not None:
            return self._compressed(array, op, out, codec, residual, dtype, async_op, timeout)
        if residual is not None:
            raise _core.UsageError("all_reduce: a residual without a codec: give both, or neither")
        if not dtype and (
            made := self._native.plain_all_reduce(array, out, op, factor, timeout, async_op)
        ):
            return DONE if made is True else Work(made)
        array = self._array(array)
        target = array if out is None else self._array(out)
        arguments = (array, target, self._name([array, target], dtype, op), op, factor)
        return self._run(self._native.all_reduce, arguments, async_op, timeout)

    def _compressed(
        self,
        array: Array,
        op: ReduceOp,
        out: Array | None,
        codec: Codec,
        residual: Array | None,
        dtype: str | None,
        async_op: bool,
        timeout: float | None,
    ) -> Work:
        if out is not None:
            raise _core.UsageError(
                "all_reduce with a codec works in place: copy the array, and leave `out` away"
            )
        array = self._array(array)
        kept = None if residual is None else self._array(residual)
        if isinstance(kept, _core.DeviceArray):
            raise self._wrong(
                "all_reduce: the residual is on a CUDA device, but is used by the CPU: pass an "
                "array of NumPy"
            )
        if kept is not None and (kept.dtype != np.float32 or kept.size != array.size):
            raise _core.UsageError(
                f"all_reduce: the residual is {kept.dtype}[{kept.size}]; for {array.size} elements "
                f"it must be float32[{array.size}]"
            )
        arguments = (array, self._name([array], dtype, op), op, of_one_tensor(codec), kept)
        return self._run(self._native.compressed_all_reduce, arguments, async_op, timeout)

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
        array = self._array(array)
        target = array if out is None else self._array(out)
        arguments = (array, target, self._name([array, target], dtype, op), op, factor, root)
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
        if not dtype and (made := self._native.plain_broadcast(array, root, timeout, async_op)):
            return DONE if made is True else Work(made)
        array = self._array(array)
        arguments = (array, self._name([array], dtype), root)
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
        if not dtype and (
            made := self._native.plain_reduce_scatter(blocks, out, op, factor, timeout, async_op)
        ):
            return DONE if made is True else Work(made)
        ins, out = self._arrays(blocks), self._array(out)
        arguments = (ins, out, self._name([*ins, out], dtype, op), op, factor)
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
        if not dtype and (made := self._native.plain_all_gather(array, outs, timeout, async_op)):
            return DONE if made is True else Work(made)
        array, outs = self._array(array), self._arrays(outs)
        arguments = (array, outs, self._name([array, *outs], dtype))
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
        if not dtype and (
            made := self._native.plain_all_to_all(ins, outs, uneven, timeout, async_op)
        ):
            return DONE if made is True else Work(made)
        ins, outs = self._arrays(ins), self._arrays(outs)
        arguments = (ins, outs, self._name([*ins, *outs], dtype), uneven)
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
        array, outs = self._array(array), self._arrays(outs or ())
        arguments = (array, outs, self._name([array, *outs], dtype), root)
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
        ins, out = self._arrays(ins or ()), self._array(out)
        arguments = (ins, out, self._name([*ins, out], dtype), root)
        return self._run(self._native.scatter, arguments, async_op, timeout)

    def barrier(self, *, async_op: bool = False, timeout: float | None = None) -> Work:
        """Returns when all ranks have called it."""
        if made := self._native.plain_barrier(timeout, async_op):
            return DONE if made is True else Work(made)
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
        if not dtype and (made := self._native.plain_send(array, to, tag, timeout, async_op)):
            return DONE if made is True else Work(made)
        array = self._array(array)
        arguments = (array, self._name([array], dtype), to, tag)
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
        if not dtype and (made := self._native.plain_recv(array, source, tag, timeout, async_op)):
            return received(source) if made is True else Work(made)
        array = self._array(array)
        arguments = (array, self._name([array], dtype), source, tag)
        return self._run(self._native.recv, arguments, async_op, timeout)

    def _run(
        self,
        start: Callable[..., _core.Work],
        arguments: tuple[Any, ...],
        async_op: bool,
        timeout: float | None,
    ) -> Work:
        try:
            return Work(start(*arguments, async_op, timeout or 0.0))
        except _core.UsageError as error:
            raise self._wrong(str(error)) from None

    def _wrong(self, text: str) -> _core.UsageError:
        """What is wrong with a call of this rank; the runtime may have said whose it is."""
        who = "" if text.startswith("[quoit ") else f"[quoit {self._where}] "
        return _core.UsageError(who + text)

    def _array(self, array: Any) -> Any:
        """What the native calls take: NumPy's view, or a DeviceArray."""
        return self._checked(arrays.view, array)

    def _arrays(self, several: Sequence[Any]) -> list[Any]:
        return [self._array(array) for array in several]

    def _name(self, several: Sequence[Array], dtype: str | None, op: ReduceOp = "SUM") -> str:
        name: str = self._checked(arrays.name_of, several, dtype, op)
        return name

    def _checked(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except _core.UsageError as error:
            raise self._wrong(str(error)) from error.__cause__
