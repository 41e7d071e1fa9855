"""Arrays in the memory of a CUDA device, as the runtime takes them: CuPy's, torch's, Numba's...

They come by `__cuda_array_interface__`, which may tell the stream on which the array is used, or by
DLPack, which makes a stream of ours wait for that one and does not tell it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from quoit import _core

_DEFAULT_STREAM = 1
_NO_ORDER = -1  # to DLPack: the one who asks sees to the order
_BOOL, _FLOAT8 = 6, range(7, 15)  # DLDataTypeCode of dlpack.h
_NUMBERS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex"}


def view(array: Any) -> _core.DeviceArray:
    """The memory of an array of a CUDA device."""
    interface = _interface(array)
    stream = _stream(array, interface)
    if interface is not None:
        dtype = np.dtype(interface["typestr"])
        if dtype.kind != "V" or not hasattr(array, "__dlpack__"):  # V: NumPy has no such type
            return _by_interface(array, interface, dtype, stream)
    return _by_dlpack(array, stream)


def _interface(array: Any) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = array.__cuda_array_interface__
    except AttributeError:
        return None
    except Exception as error:  # torch: of a tensor that requires a gradient, or of float8
        if hasattr(array, "__dlpack__"):
            return None
        raise _unusable(array, error) from error
    return found


def _stream(array: Any, interface: dict[str, Any] | None) -> int | None:
    """The stream on which the array is used, if it is told."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return torch.cuda.current_stream(array.device).cuda_stream or _DEFAULT_STREAM
    stream: int | None = None if interface is None else interface.get("stream")
    if stream == 0:
        raise _unusable(array, "its __cuda_array_interface__ names stream 0, which has no meaning")
    return stream


def _by_interface(
    array: Any, interface: dict[str, Any], dtype: np.dtype[Any], stream: int | None
) -> _core.DeviceArray:
    if interface.get("mask") is not None:
        raise _unusable(array, "it has a mask")
    address, read_only = interface["data"]
    shape = interface["shape"]
    _check_contiguous(array, shape, interface.get("strides"), dtype.itemsize)
    name = str(dtype)
    return _described(array, address or 0, name, shape, dtype.itemsize, stream, not read_only)


def _by_dlpack(array: Any, stream: int | None) -> _core.DeviceArray:
    order = _NO_ORDER
    if stream is None:
        order = _core.cuda_copy_stream(array.__dlpack_device__()[1])
    try:
        try:
            capsule = array.__dlpack__(stream=order, max_version=(1, 0))
        except TypeError:  # it is older than versions
            capsule = array.__dlpack__(stream=order)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise _unusable(array, error) from error
    address, code, bits, lanes, shape, strides, writable = _core.dlpack_tensor(capsule)
    _check_contiguous(array, shape, strides, 1)
    name = _name(code, bits, lanes)
    return _described(capsule, address, name, shape, bits * lanes // 8, stream, writable)


def _name(code: int, bits: int, lanes: int) -> str:
    if lanes == 1 and code in _NUMBERS:
        return f"{_NUMBERS[code]}{bits}"
    if lanes == 1 and bits == 8 and (code == _BOOL or code in _FLOAT8):
        return "bool" if code == _BOOL else "float8"
    return f"DLPack's {code} of {lanes} x {bits} bits"


def _described(
    owner: Any,
    address: int,
    dtype: str,
    shape: Sequence[int],
    itemsize: int,
    stream: int | None,
    writable: bool,
) -> _core.DeviceArray:
    size = math.prod(shape)
    return _core.DeviceArray(
        owner=owner,
        data=address,
        dtype=dtype,
        size=size,
        bytes=size * itemsize,
        stream=stream,
        writable=writable,
    )


def _check_contiguous(
    array: Any, shape: Sequence[int], strides: Sequence[int] | None, step: int
) -> None:
    """Raises unless the rows lie one after another; `step` is an element's own stride."""
    if strides is None or 0 in shape:
        return
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != step:
            raise _unusable(array, "it is not contiguous")
        step *= length


def _unusable(array: Any, why: object) -> _core.UsageError:
    return _core.UsageError(
        f"the {type(array).__name__} on a CUDA device cannot be used ({why}): pass a plain one "
        "(cupy.ascontiguousarray, tensor.detach().contiguous())"
    )
