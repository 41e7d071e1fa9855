"""A stand-in for CUDA's driver, and arrays on its devices, as libraries give them to others.

The driver is accelerator/cuda.cpp: device memory is memory of the host, streams are threads, and
what is freed is overwritten, so that what forgets to wait computes wrong numbers. CuPy is not
needed, and could not run.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import building
import fake_streams

LIBRARY = building.FOLDER / "libfakecuda.so"
KERNELS = building.FOLDER / "libfakecudakernels.so"
LEGACY, PER_THREAD = 1, 2  # streams
CUDA, CUDA_MANAGED = 2, 13  # DLDeviceType
_SOURCES = Path(__file__).resolve().parent / "accelerator"
_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}  # DLDataTypeCode, by NumPy's kind
_VOID, _SIZE = ctypes.c_void_p, ctypes.c_size_t


@functools.cache
def library() -> ctypes.CDLL:
    """The driver, built when it must be."""
    with building.locked():
        building.build(
            LIBRARY,
            [_SOURCES / name for name in ("streams.cpp", "cuda.cpp", "cuda_ipc.cpp")],
            [_SOURCES / "streams.h", _SOURCES / "cuda_fake.h"],
        )
        building.build_kernels(KERNELS, LIBRARY)
    made = fake_streams.declare(ctypes.CDLL(str(LIBRARY)))
    for name, result, arguments in (
        ("fake_cuda_fail", None, [ctypes.c_char_p, ctypes.c_int]),
        ("fake_cuda_untouched", ctypes.c_int, []),
        ("fake_cuda_stream", _VOID, [ctypes.c_int]),
        ("fake_cuda_allocate", _VOID, [_VOID, _SIZE]),
        ("fake_cuda_free", None, [_VOID]),
        ("fake_cuda_put", None, [_VOID, _VOID, _VOID, _SIZE]),
        ("fake_cuda_get", None, [_VOID, _VOID, _VOID, _SIZE]),
        ("fake_cuda_order", None, [_VOID, _VOID]),
        ("fake_cuda_set_peer_access", None, [ctypes.c_int]),
        ("fake_cuda_host_copies", ctypes.c_long, []),
        ("fake_cuda_own_memories", ctypes.c_int, []),
        ("fake_cuda_others_memories", ctypes.c_int, []),
        ("fake_cuda_synchronize", None, [_VOID]),
    ):
        function = getattr(made, name)
        function.restype, function.argtypes = result, arguments
    return made


def install() -> None:
    """Makes it the driver of this process, which has not asked for one yet."""
    library()
    os.environ["QUOIT_CUDA_DRIVER"] = str(LIBRARY)


@functools.cache
def kernels() -> ctypes.CDLL:
    """The library of kernels for its devices, for its C functions; see accelerator/kernels.cpp."""
    library()
    made = ctypes.CDLL(str(KERNELS))
    made.fake_kernel_launches.restype = ctypes.c_long
    return made


def new_stream(device: int = 0) -> int:
    """A stream that waits for no other, which lives as long as the process."""
    handle: int = library().fake_cuda_stream(device)
    return handle


def delay(seconds: float) -> AbstractContextManager[None]:
    """Within, each asynchronous work of this process first sleeps for so long."""
    return fake_streams.delay(library(), seconds)


def capturing() -> AbstractContextManager[None]:
    """Within, every stream says that it is being captured."""
    return fake_streams.capturing(library())


@contextlib.contextmanager
def failing(function: str, result: int) -> Iterator[None]:
    """Within, a function of the driver returns this."""
    library().fake_cuda_fail(function.encode(), result)
    try:
        yield
    finally:
        library().fake_cuda_fail(b"", 0)


class Memory:
    """Of a device; freed in the order of the stream."""

    def __init__(self, stream: int, size: int) -> None:
        self.address: int = library().fake_cuda_allocate(stream, max(1, size))

    def __del__(self) -> None:
        library().fake_cuda_free(self.address)


class DeviceArray:
    """An array on a device that is used on one stream; tells nobody how, as derived classes do.

    strides: in bytes, as NumPy has them; None for those of a contiguous array.
    """

    def __init__(
        self,
        values: NDArray[Any],
        stream: int = LEGACY,
        *,
        strides: Sequence[int] | None = None,
        read_only: bool = False,
    ) -> None:
        self.shape, self.dtype, self.nbytes = values.shape, values.dtype, values.nbytes
        self.stream, self.strides, self.read_only = stream, strides, read_only
        self.memory = Memory(stream, values.nbytes)
        self.put(values)

    def put(self, values: NDArray[Any]) -> None:
        """Asynchronously, on its stream."""
        values = np.ascontiguousarray(values)
        library().fake_cuda_put(self.stream, self.memory.address, values.ctypes.data, values.nbytes)

    def get(self, stream: int | None = None) -> NDArray[Any]:
        """What it holds when its stream, or another, comes to this call; waits for that alone."""
        values = np.empty(self.shape, self.dtype)
        library().fake_cuda_get(
            stream or self.stream, values.ctypes.data, self.memory.address, values.nbytes
        )
        return values


class Cupy(DeviceArray):
    """Tells its stream by version 3 of the interface, as CuPy's arrays do."""

    mask: object = None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.memory.address if self.nbytes else 0, self.read_only),
            "strides": self.strides,
            "mask": self.mask,
            "version": 3,
            "stream": self.stream,
        }


class Numba(Cupy):
    """Tells no stream: it is the caller who sees to the order."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        told = super().__cuda_array_interface__
        return {**told, "version": 2, "stream": None}


class Jax(DeviceArray):
    """Comes by DLPack alone, with a version; `code` and `bits` are those of DLDataType."""

    kind = CUDA

    def __init__(self, values: NDArray[Any], *arguments: Any, **named: Any) -> None:
        self.code = named.pop("code", _CODES[values.dtype.kind])
        super().__init__(values, *arguments, **named)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, *, stream: int, max_version: tuple[int, int]) -> object:
        assert max_version >= (1, 0)
        return self._capsule(stream, versioned=True)

    def _capsule(self, stream: int, versioned: bool) -> object:
        if stream != -1:
            library().fake_cuda_order(self.stream, stream)
        return _capsule(self, versioned)


class OldJax(Jax):
    """As before DLPack had versions."""

    def __dlpack__(self, *, stream: int) -> object:  # type: ignore[override]
        return self._capsule(stream, versioned=False)


class Ml(Jax):
    """By either way, with an element type that NumPy lacks."""

    __cuda_array_interface__ = property(
        lambda self: {
            "shape": self.shape,
            "typestr": f"<V{self.dtype.itemsize}",
            "data": (self.memory.address, False),
            "version": 3,
            "stream": self.stream,
        }
    )


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", _VOID),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", _VOID), ("deleter", _VOID))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", _VOID),
        ("deleter", _VOID),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


# What capsules hold, by the address of the structure.
_exported: dict[int, tuple[object, ...]] = {}
_python = ctypes.pythonapi
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = [_VOID, ctypes.c_char_p, _VOID]
_python.PyCapsule_GetName.restype = ctypes.c_char_p
_python.PyCapsule_GetName.argtypes = [_VOID]
_python.PyCapsule_GetPointer.restype = _VOID
_python.PyCapsule_GetPointer.argtypes = [_VOID, ctypes.c_char_p]


@ctypes.PYFUNCTYPE(None, _VOID)
def _forget(capsule: int) -> None:
    name = _python.PyCapsule_GetName(capsule)
    del _exported[_python.PyCapsule_GetPointer(capsule, name)]


def exported() -> int:
    """How many capsules there are."""
    return len(_exported)


def _capsule(array: Jax, versioned: bool) -> object:
    rank = len(array.shape)
    shape = (ctypes.c_int64 * rank)(*array.shape)
    strides = None
    if array.strides is not None:
        strides = (ctypes.c_int64 * rank)(*(s // array.dtype.itemsize for s in array.strides))
    offset = 16  # is to be added
    tensor = _Tensor(
        data=array.memory.address - offset,
        device_type=array.kind,
        ndim=rank,
        code=array.code,
        bits=8 * array.dtype.itemsize,
        lanes=1,
        shape=shape,
        strides=strides,
        byte_offset=offset,
    )
    if versioned:
        managed: Any = _Versioned(major=1, flags=int(array.read_only), tensor=tensor)
    else:
        managed = _Managed(tensor=tensor)
    address = ctypes.addressof(managed)
    _exported[address] = (managed, shape, strides, array.memory)
    name = b"dltensor_versioned" if versioned else b"dltensor"
    return _python.PyCapsule_New(address, name, ctypes.cast(_forget, _VOID))
