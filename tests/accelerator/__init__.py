"""The test accelerator: a torch device "fake" whose streams are threads of the host.

``install()`` builds its library once, into build/accelerator, and makes the device known to torch.
Streams, events, pinned memory and freed memory behave as on a GPU, so that what forgets to wait,
or to note a stream, computes wrong numbers here, too. See streams.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import types
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch.utils.backend_registration import (
    generate_methods_for_privateuse1_backend,
    rename_privateuse1_backend,
)

import building
import fake_streams

_HERE = Path(__file__).resolve().parent
NAME = "fake"
FOLDER = building.FOLDER
DEVICE_LIBRARY = FOLDER / "libfakedevice.so"
NCCL_LIBRARY = FOLDER / "libfakenccl.so"
KERNELS_LIBRARY = FOLDER / "libfakekernels.so"


def build() -> None:
    """Compiles the libraries unless they are there for these sources and this torch."""
    torch_dir = Path(torch.__file__).parent
    headers = (torch_dir / "include", torch_dir / "include/torch/csrc/api/include")
    flags = [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"]
    flags += [part for folder in headers for part in ("-isystem", str(folder))]
    flags += [f"-L{torch_dir / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    nccl_flags = [f"-L{FOLDER}", "-lfakedevice", "-Wl,-rpath,$ORIGIN"]
    with building.locked():
        building.build(
            DEVICE_LIBRARY,
            [_HERE / name for name in ("streams.cpp", "device.cpp", "ops.cpp")],
            [_HERE / "streams.h"],
            flags,
            torch.__version__,
        )
        building.build(
            NCCL_LIBRARY,
            [_HERE / name for name in ("nccl_comm.cpp", "nccl.cpp", "nccl_operations.cpp")],
            [_HERE / name for name in ("nccl_comm.h", "nccl_reduce.h", "streams.h")],
            nccl_flags,
        )
        building.build_kernels(KERNELS_LIBRARY, DEVICE_LIBRARY)


@functools.cache
def device_library() -> ctypes.CDLL:
    """The library of the device, built when it must be, for its C functions; see streams.h."""
    build()
    return fake_streams.declare(ctypes.CDLL(str(DEVICE_LIBRARY), mode=ctypes.RTLD_GLOBAL))


@functools.cache
def install() -> None:
    """Makes the device "fake" known to torch, in this process."""
    device_library()
    rename_privateuse1_backend(NAME)
    anything: Any = torch  # untyped functions
    anything._register_device_module(NAME, _module())
    generate_methods_for_privateuse1_backend(for_storage=True)


@functools.cache
def kernels_library() -> ctypes.CDLL:
    """The library of the device's kernels, for its C functions; see kernels.cpp."""
    device_library()
    library = ctypes.CDLL(str(KERNELS_LIBRARY))
    library.fake_kernel_launches.restype = ctypes.c_long
    library.fake_add_by_kernels.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_long]
    return library


@contextlib.contextmanager
def kernels() -> Iterator[ctypes.CDLL]:
    """Within, quoit has kernels for the device, as a build for CUDA has them for CUDA's."""
    library = kernels_library()
    library.fake_offer_kernels()
    try:
        yield library
    finally:
        library.fake_withdraw_kernels()


def delay(seconds: float) -> AbstractContextManager[None]:
    """Within, each asynchronous work of this process first sleeps for so long."""
    return fake_streams.delay(device_library(), seconds)


def capturing() -> AbstractContextManager[None]:
    """Within, every stream says that it is being captured."""
    return fake_streams.capturing(device_library())


class Stream(torch.Stream):
    """A torch.Stream of the fake device unless another is named."""

    def __new__(cls, device: Any = None, priority: int = 0, **named: int) -> Stream:
        if named:
            return super().__new__(cls, **named)
        return super().__new__(cls, _device(device), priority=priority)


class Event(torch.Event):
    """A torch.Event of the fake device."""

    def __new__(cls, enable_timing: bool = False, **_: bool) -> Event:
        return super().__new__(cls, NAME, enable_timing=enable_timing)


class _Device:
    """The current device is this one within; None or a negative index changes nothing."""

    def __init__(self, device: Any) -> None:
        self.index = -1 if device is None else _device(device).index
        self.before = -1

    def __enter__(self) -> None:
        if self.index >= 0:
            self.before = torch._C._accelerator_exchangeDevice(self.index)

    def __exit__(self, *error: object) -> None:
        if self.index >= 0:
            torch._C._accelerator_setDeviceIndex(self.before)


@contextlib.contextmanager
def _stream(stream: torch.Stream | None) -> Iterator[None]:
    if stream is None:
        yield
        return
    with stream:
        yield


def _device(device: Any) -> torch.device:
    if isinstance(device, int):
        return torch.device(NAME, device)
    named = torch.device(NAME if device is None else device)
    current = torch.accelerator.current_device_index()
    return named if named.index is not None else torch.device(NAME, current)


def _module() -> types.ModuleType:
    """What torch looks for in torch.fake."""
    module = types.ModuleType(f"torch.{NAME}", "The test accelerator.")
    generic = torch.accelerator
    parts: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_is_in_bad_fork": lambda: False,
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "device_count": device_library().fake_device_count,  # which torch.accelerator asks here
        "current_device": generic.current_device_index,
        "set_device": lambda device: generic.set_device_index(_device(device)),
        "synchronize": generic.synchronize,
        "current_stream": generic.current_stream,
        "default_stream": lambda device=None: Stream(
            stream_id=0,
            device_index=_device(device).index,
            device_type=int(torch._C._autograd.DeviceType.PrivateUse1.value),
        ),
        "set_stream": generic.set_stream,
        "stream": _stream,
        "device": _Device,
        "Stream": Stream,
        "Event": Event,
        # What is random is drawn on the CPU, whose seed torch.manual_seed sets already.
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "get_amp_supported_dtype": lambda: [torch.float16, torch.bfloat16],
        "is_current_stream_capturing": lambda: bool(device_library().fake_is_capturing()),
        "empty_cache": lambda: None,
    }
    vars(module).update(parts)
    return module
