"""Inputs whose results are exact, and the count of elements that are wrong.

Element i of rank r is (7 i + 5 r) % 13: small whole numbers, nowhere zero on all ranks, of period
13. So is every result, and none of either is ever held in full: a tile in the cache is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

PERIOD = 13
LARGEST = PERIOD - 1
_TILE = PERIOD << 10  # elements; with one period more it can begin anywhere in the period


@dataclass(frozen=True)
class DType:
    """name: as torch has it. carrier: NumPy's dtype of the same bits. exact: the largest whole
    number up to which all are represented. mpi: MPI's name, or "" if it has none that reduces.
    """

    name: str
    carrier: str
    exact: int
    mpi: str

    @property
    def size(self) -> int:
        return np.dtype(self.carrier).itemsize

    @property
    def floating(self) -> bool:
        return "float" in self.name


DTYPES = {
    dtype.name: dtype
    for dtype in (
        DType("float32", "float32", 1 << 24, "FLOAT"),
        DType("float64", "float64", 1 << 53, "DOUBLE"),
        DType("float16", "float16", 1 << 11, ""),
        DType("bfloat16", "uint16", 1 << 8, ""),
        DType("int8", "int8", (1 << 7) - 1, "INT8_T"),
        DType("uint8", "uint8", (1 << 8) - 1, "UINT8_T"),
        DType("int32", "int32", (1 << 31) - 1, "INT32_T"),
        DType("int64", "int64", (1 << 63) - 1, "INT64_T"),
    )
}


def most_ranks(dtype: DType, redop: str) -> int | None:
    """The most ranks whose reduction is exact; None without a limit. Whole numbers may wrap."""
    if redop == "avg" or (redop == "sum" and dtype.floating):
        return dtype.exact // LARGEST
    if redop == "product" and dtype.floating:
        return next(n for n in range(64) if LARGEST ** (n + 1) > dtype.exact)
    return None


class Pattern:
    """A sequence of period 13, as elements of a dtype."""

    def __init__(self, values: Array, dtype: DType) -> None:
        """values: one period."""
        self._tile = np.resize(_as(values, dtype), _TILE + PERIOD)
        self._bits = self._tile.view(f"u{dtype.size}")

    def fill(self, out: Array, first: int = 0) -> None:
        """Writes elements first, first + 1, ... into `out`."""
        shift = first % PERIOD
        for start in range(0, out.size, _TILE):
            part = out[start : start + _TILE]
            part[:] = self._tile[shift : shift + part.size]

    def wrong(self, got: Array, first: int = 0) -> int:
        """How many elements of `got` have other bits than elements first, first + 1, ..."""
        shift, bits, wrong = first % PERIOD, got.view(self._bits.dtype), 0
        for start in range(0, got.size, _TILE):
            part = bits[start : start + _TILE]
            wrong += int(np.count_nonzero(part != self._bits[shift : shift + part.size]))
        return wrong


def inputs(rank: int, dtype: DType) -> Pattern:
    return Pattern(_period(rank), dtype)


def reduced(ranks: int, redop: str, dtype: DType) -> Pattern:
    """What a reduction over all ranks must give."""
    periods: Sequence[Array] = [_period(rank) for rank in range(ranks)]
    if redop == "avg":
        total = np.sum(periods, axis=0)
        # As the runtime does it: whole numbers truncate; the narrow floats divide in float32.
        wide = np.float64 if dtype.name == "float64" else np.float32
        mean = total.astype(wide) / wide(ranks) if dtype.floating else total // ranks
        return Pattern(mean, dtype)
    combine = {"sum": np.add, "min": np.minimum, "max": np.maximum, "product": np.multiply}[redop]
    return Pattern(reduce(combine, periods), dtype)


def spoil(out: Array) -> None:
    """Fills `out` with what no result is, so that one that was not written is seen."""
    out.view(np.uint8)[:] = 0xA5


def _period(rank: int) -> Array:
    return (7 * np.arange(PERIOD) + 5 * rank) % PERIOD


def _as(values: Array, dtype: DType) -> Array:
    if dtype.name != "bfloat16":
        return values.astype(dtype.carrier)
    bits = values.astype(np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)  # to nearest, ties to even
    return (rounded >> 16).astype(np.uint16)
