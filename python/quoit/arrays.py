"""Arrays of NumPy and other libraries, as the runtime takes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quoit import _core

Array = NDArray[Any]

_CPU, _CUDA = 1, 2  # DLDeviceType of dlpack.h

# What carries the element types that NumPy lacks.
_CARRIERS = {"bfloat16": "uint16", "float8": "uint8"}
_REAL = {"complex64": "float32", "complex128": "float64"}


@cache
def _text(dtype: np.dtype[Any]) -> str:
    return str(dtype)  # NumPy takes its time over this


def view(array: Any) -> Array:
    """NumPy's view of an array; the memory is the same."""
    if isinstance(array, np.ndarray):
        return array
    if not hasattr(array, "__dlpack__"):
        raise _core.UsageError(
            f"a {type(array).__name__} is no array: pass one of NumPy, or of a library that "
            "speaks DLPack (torch, CuPy, JAX, TensorFlow)"
        )
    kind = array.__dlpack_device__()[0]
    if kind != _CPU:
        place = "a GPU" if kind == _CUDA else f"a device of kind {kind}"
        raise _core.UsageError(
            f"the {type(array).__name__} lies in the memory of {place}, and quoit moves memory "
            "of the CPU only so far: copy it there first (cupy.asnumpy, tensor.cpu())"
        )
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError) as error:
        raise _core.UsageError(
            f"NumPy cannot view the {type(array).__name__} ({error}): for bfloat16 and float8 "
            'pass its bits, as tensor.view(torch.uint16) with dtype="bfloat16"'
        ) from error


def name_of(arrays: Sequence[Array], dtype: str | None, op: str = "SUM") -> str:
    """The runtime's name of the element type; complex numbers travel as pairs of floats."""
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
