"""Codecs: how numbers travel in fewer bytes. See docs/compression.md for what each one loses."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from quoit import _core

# What every codec says of itself, besides its name:
#   feedback  whether it is meant to be used with a residual (error feedback)
#   loss      the error of one mean over ranks, without a residual: E|out - mean|^2 / E|mean|^2 of
#             heavy-tailed numbers on 4 ranks (see docs/compression.md)


@dataclass(frozen=True)
class Bf16:
    """bfloat16: 2 bytes an element, rounded to nearest even, or at random without bias."""

    stochastic: bool = False
    feedback: ClassVar[bool] = False
    loss: ClassVar[float] = 5e-6

    @property
    def name(self) -> str:
        return "bf16(stochastic)" if self.stochastic else "bf16"


@dataclass(frozen=True)
class Fp8:
    """float8 e4m3 with a bfloat16 scale for each block of 128: 8.125 bits an element."""

    feedback: ClassVar[bool] = False
    loss: ClassVar[float] = 1.1e-3

    @property
    def name(self) -> str:
        return "fp8"


@dataclass(frozen=True)
class Int8:
    """8-bit integers with a bfloat16 scale for each block of 128: 8.125 bits an element."""

    feedback: ClassVar[bool] = False
    loss: ClassVar[float] = 2.2e-4

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
    feedback: ClassVar[bool] = True
    loss: ClassVar[float] = 2.3e-2

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
    loss: ClassVar[float] = 0.7

    @property
    def feedback(self) -> bool:
        return not self.vote  # a majority is no mean, so there is no saying what it lost

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
    feedback: ClassVar[bool] = True
    loss: ClassVar[float] = 0.9

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


@dataclass(frozen=True)
class LowRank:
    """Matrices as products of two thin ones, of `rank` columns; 32 rank (m + n) / (m n) bits.

    ACP-SGD (Zhang et al. 2023): steps take turns at sending the left factor and the right one. With
    ``alternate=False``, every step sends both, one after the other: PowerSGD (Vogels et al. 2019).
    Tensors of more dimensions are matrices of their first and all others. Those that would not
    become half as large travel as they are.
    """

    rank: int = 4
    alternate: bool = True
    feedback: ClassVar[bool] = True
    loss: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if not (isinstance(self.rank, int) and self.rank >= 1):
            raise _core.UsageError(f"LowRank(rank={self.rank}): the rank is 1 or more")

    @property
    def name(self) -> str:
        return f"{'lowrank' if self.alternate else 'powersgd'}(rank={self.rank})"


Codec = Bf16 | Fp8 | Int8 | Int4 | Sign | TopK | LowRank


@dataclass(frozen=True)
class Auto:
    """The fastest codec for the links that there are, or none: measured when training begins.

    max_loss: what one mean may lose: E|out - mean|^2 / E|mean|^2 (a codec's `loss`), of those with
        error feedback before it. The default allows Bf16 and Int8; 0.1 allows Int4 too.
    gain: how much faster than without a codec it must be, as a share of the time. Compression
        takes time from the computation that communication would else overlap with.
    every: steps between reports to the log (`logging.getLogger("quoit")`); 0: none.
    """

    max_loss: float = 1e-3
    gain: float = 0.1
    every: int = 100


# One for all names, or by patterns of names (as in a shell); None: as it is.
Choice = Codec | Mapping[str, Codec | None] | None


def patterns_of(choice: Choice) -> dict[str, Codec | None]:
    return dict(choice) if isinstance(choice, Mapping) else {"*": choice}


def first_match(patterns: Mapping[str, Codec | None], name: str) -> Codec | None:
    """The codec of the first pattern that the name matches."""
    return next((codec for p, codec in patterns.items() if fnmatch.fnmatchcase(name, p)), None)


def of_one_tensor(codec: Codec) -> str:
    """The codec's name, for an all_reduce of a tensor by itself. Raises UsageError for LowRank."""
    if isinstance(codec, LowRank):
        raise _core.UsageError(
            "all_reduce with LowRank: it keeps bases from call to call, which quoit.compress holds "
            "for a model; a single tensor can have any other codec"
        )
    return codec.name
