"""Of the libraries that are made of accelerator/streams.cpp: how slow they are, and captures."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """With the types of the functions that are called here."""
    library.fake_set_delay_us.argtypes = [ctypes.c_long]
    library.fake_set_capturing.argtypes = [ctypes.c_int]
    return library


@contextlib.contextmanager
def delay(library: ctypes.CDLL, seconds: float) -> Iterator[None]:
    """Within, each asynchronous work of this process first sleeps for so long."""
    library.fake_set_delay_us(round(seconds * 1e6))
    try:
        yield
    finally:
        library.fake_set_delay_us(0)


@contextlib.contextmanager
def capturing(library: ctypes.CDLL) -> Iterator[None]:
    """Within, every stream says that it is being captured."""
    library.fake_set_capturing(1)
    try:
        yield
    finally:
        library.fake_set_capturing(0)
