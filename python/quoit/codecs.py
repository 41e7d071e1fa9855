"""Codecs: how numbers travel in fewer bytes. See docs/compression.md for what each one loses."""

from __future__ import annotations

from dataclasses import dataclass

from quoit import _core


@dataclass(frozen=True)
class Bf16:
    """bfloat16: 2 bytes an element, rounded to nearest even, or at random without bias."""

    stochastic: bool = False

    @property
    def name(self) -> str:
        return "bf16(stochastic)" if self.stochastic else "bf16"


@dataclass(frozen=True)
class Fp8:
    """float8 e4m3 with a bfloat16 scale for each block of 128: 8.125 bits an element."""

    @property
    def name(self) -> str:
        return "fp8"


@dataclass(frozen=True)
class Int8:
    """8-bit integers with a bfloat16 scale for each block of 128: 8.125 bits an element."""

    @property
    def name(self) -> str:
        return "int8"


@dataclass(frozen=True)
class Int4:
    """4-bit integers over the range of each block of 64, in which zero is exact; 4.375 bits.

    With `hadamard`, blocks of 128 are rotated first (random signs, then a Walsh-Hadamard
    transform), which helps where few elements are much larger than the rest; 4.125 bits.
    """

    hadamard: bool = False

    @property
    def name(self) -> str:
        return "int4(hadamard)" if self.hadamard else "int4"


@dataclass(frozen=True)
class Sign:
    """The sign, times the mean magnitude of each block of 256: 1.0625 bits an element.

    With `vote` (signSGD with majority vote, Bernstein et al. 2018), every rank has one vote on each
    sign, and the magnitude is the sum, or the mean, of the ranks'. Without it, use a residual.
    """

    vote: bool = False

    @property
    def name(self) -> str:
        return "sign(vote)" if self.vote else "sign"


@dataclass(frozen=True)
class TopK:
    """The largest `ratio` of each 4096 numbers; the others count as 0. Use a residual.

    Each that is kept takes 12 bits for its place and `bits` (2, 4 or 8) for its sign and its size,
    on a grid between the least and the largest of them: 0.22 bits an element by default.
    """

    ratio: float = 0.01
    bits: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 0.25:
            raise _core.UsageError(
                f"TopK: ratio is {self.ratio:g}, but must be above 0 and at most 0.25: where so "
                "many count, Int4 loses less"
            )
        if self.bits not in (2, 4, 8):
            raise _core.UsageError(f"TopK: bits is {self.bits}, but must be 2, 4 or 8")

    @property
    def name(self) -> str:
        return f"topk(ratio={float(self.ratio)!r}, bits={self.bits})"


Codec = Bf16 | Fp8 | Int8 | Int4 | Sign | TopK
