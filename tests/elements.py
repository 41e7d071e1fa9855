"""Element types and what reductions of them must give, computed with NumPy.

Inputs are small whole numbers, so every result is exact, in every order and precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FACTOR = 0.5  # of PREMUL_SUM: halves are exact
_FLOAT_OPS = ("SUM", "AVG", "PRODUCT", "MIN", "MAX", "PREMUL_SUM")
_INTEGER_OPS = ("SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR")
_BOOL_OPS = ("SUM", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR")
_COMPLEX_OPS = ("SUM", "AVG", "PREMUL_SUM")

_SIGNED_FACTORS = np.array([1, -2, 2, -1])  # products stay exact in 8 bits of precision
_UNSIGNED_FACTORS = np.array([1, 3, 2, 1])


@dataclass(frozen=True)
class Element:
    """An element type: the runtime's name, and the NumPy types that carry and compute it."""

    name: str
    carrier: np.dtype[Any]
    arithmetic: np.dtype[Any]
    ops: tuple[str, ...]

    @property
    def dtype(self) -> str | None:
        """For the `dtype` argument of Communicator's methods."""
        return self.name if self.name == "bfloat16" else None

    def encode(self, values: Array) -> Array:
        """Numbers as the array that travels."""
        if self.name == "bfloat16":
            return _bfloat16(values)
        return values.astype(self.carrier)

    def input(self, op: str, count: int, rank: int) -> Array:
        """What rank `rank` gives."""
        return self.encode(self._values(op, count, rank))

    @lru_cache(maxsize=64)  # noqa: B019  (elements live as long as the program)
    def result(self, op: str, count: int, size: int) -> Array:
        """What the inputs of `size` ranks reduce to; ranks that are threads share it."""
        inputs = np.stack([self._values(op, count, rank) for rank in range(size)])
        return self.encode(_REDUCE[op](inputs))

    def _values(self, op: str, count: int, rank: int) -> Array:
        values = pattern(count, rank)
        kind = self.arithmetic.kind
        if kind == "b":
            # Of OR and AND of many values few are to be true, or false.
            return values > 1 if op in ("PRODUCT", "MIN", "BAND") else values > 10
        if kind == "c":
            return (values - 6 + 1j * pattern(count, rank + 1)).astype(self.arithmetic)
        if op == "PRODUCT":
            factors = _UNSIGNED_FACTORS if kind == "u" else _SIGNED_FACTORS
            return factors[values % 4].astype(self.arithmetic)
        return (values if kind == "u" else values - 6).astype(self.arithmetic)


def pattern(count: int, rank: int) -> Array:
    """Whole numbers from 0 to 12 that differ between neighbours and between ranks."""
    return (7 * np.arange(count) + 5 * rank) % 13


def _bfloat16(values: Array) -> Array:
    """float32 rounded to nearest even, as the upper halves of their bits."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _sum(inputs: Array) -> Array:
    return np.add.reduce(inputs, axis=0, dtype=inputs.dtype)


def _average(inputs: Array) -> Array:
    total, size = _sum(inputs), len(inputs)
    if inputs.dtype.kind in "iu":
        return (np.sign(total) * (np.abs(total) // size)).astype(inputs.dtype)  # towards zero
    if inputs.dtype.kind == "c":
        return total.real / size + 1j * (total.imag / size)  # NumPy divides as if size were complex
    return total / inputs.dtype.type(size)


def _product(inputs: Array) -> Array:
    return np.multiply.reduce(inputs, axis=0, dtype=inputs.dtype)


_REDUCE: dict[str, Callable[[Array], Array]] = {
    "SUM": _sum,
    "AVG": _average,
    "PRODUCT": _product,
    "MIN": lambda inputs: np.minimum.reduce(inputs, axis=0),
    "MAX": lambda inputs: np.maximum.reduce(inputs, axis=0),
    "BAND": lambda inputs: np.bitwise_and.reduce(inputs, axis=0, dtype=inputs.dtype),
    "BOR": lambda inputs: np.bitwise_or.reduce(inputs, axis=0, dtype=inputs.dtype),
    "BXOR": lambda inputs: np.bitwise_xor.reduce(inputs, axis=0, dtype=inputs.dtype),
    "PREMUL_SUM": lambda inputs: _sum(inputs * inputs.dtype.type(FACTOR)),
}


def _element(name: str, ops: tuple[str, ...], carrier: str = "", arithmetic: str = "") -> Element:
    return Element(name, np.dtype(carrier or name), np.dtype(arithmetic or name), ops)


ELEMENTS = {
    element.name: element
    for element in (
        _element("float64", _FLOAT_OPS),
        _element("float32", _FLOAT_OPS),
        _element("float16", _FLOAT_OPS, arithmetic="float32"),
        _element("bfloat16", _FLOAT_OPS, carrier="uint16", arithmetic="float32"),
        *(_element(f"{u}int{bits}", _INTEGER_OPS) for u in ("", "u") for bits in (8, 16, 32, 64)),
        _element("bool", _BOOL_OPS),
        _element("complex64", _COMPLEX_OPS),
        _element("complex128", _COMPLEX_OPS),
    )
}
