"""Arrays of NumPy and other libraries, as the runtime takes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quoit import _core, device_arrays

Array = NDArray[Any]

# DLDeviceType of dlpack.h. Page-locked memory is the CPU's as well.
_CPU, _CUDA, _CUDA_HOST, _CUDA_MANAGED = 1, 2, 3, 13

# What carries the element types that NumPy lacks.
_CARRIERS = {"bfloat16": "uint16", "float8": "uint8"}
_REAL = {"complex64": "float32", "complex128": "float64"}


@cache
def _text(dtype: np.dtype[Any] | str) -> str:
    return str(dtype)  # NumPy takes its time over this


def view(array: Any) -> Array | _core.DeviceArray:
    """The memory of an array, as the runtime takes it: NumPy's view of it, where that is the CPU's.

    An array of a CUDA device is in the order of its stream only for the call that is made next.
    """
    if isinstance(array, np.ndarray):
        return array
    kind = _kind(array)
    if kind in (_CUDA, _CUDA_MANAGED):
        return device_arrays.view(array)
    if kind not in (_CPU, _CUDA_HOST):
        raise _core.UsageError(
            f"the {type(array).__name__} lies in the memory of a device of kind {kind} "
            "(DLDeviceType), and quoit moves memory of the CPU and of CUDA devices: copy it there "
            "first"
        )
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError) as error:
        raise _core.UsageError(
            f"NumPy cannot view the {type(array).__name__} ({error}): for bfloat16 and float8 "
            'pass its bits, as tensor.view(torch.uint16) with dtype="bfloat16"'
        ) from error


def _kind(array: Any) -> int:
    """DLPack's number of the kind of memory that it lies in."""
    if hasattr(array, "__dlpack__"):
        kind: int = array.__dlpack_device__()[0]
        return kind
    if hasattr(array, "__cuda_array_interface__"):
        return _CUDA
    raise _core.UsageError(
        f"a {type(array).__name__} is no array: pass one of NumPy, or of a library that "
        "speaks DLPack (torch, CuPy, JAX, TensorFlow) or __cuda_array_interface__ (Numba)"
    )


def name_of(arrays: Sequence[Array | _core.DeviceArray], dtype: str | None, op: str = "SUM") -> str:
    """The runtime's name of the element type; complex numbers travel as pairs of floats."""
    if not arrays:
        return "uint8"
    name = _text(arrays[0].dtype)
    for array in arrays:
        if _text(array.dtype) != name:
            raise _core.UsageError(
                f"the arrays of a call must have one dtype, but one is {name} and another "
                f"{array.dtype}: convert them with astype()"
            )
    if dtype is not None:
        carrier = _CARRIERS.get(dtype, dtype)
        if name not in (carrier, dtype):
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
