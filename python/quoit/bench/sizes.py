"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse(text: str, option: str) -> int:
    """ "16K", "64M", "1GiB" or "4" in bytes; units are powers of 1024, as nccl-tests has them."""
    digits = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = digits[-1:] if digits[-1:] in ("K", "M", "G") else ""
    number = digits.removesuffix(unit)
    if not number.isdecimal() or int(number) == 0:
        raise ValueError(f"{option} {text}: give a number of bytes, as 4, 16K, 64M or 1G")
    return int(number) * _UNITS[unit]


def written(size: int) -> str:
    """As short as it can be said exactly: "16 Ki", "1000"."""
    for unit in ("Gi", "Mi", "Ki"):
        factor = _UNITS[unit[0]]
        if size and size % factor == 0:
            return f"{size // factor} {unit}"
    return str(size)


def named(size: int) -> str:
    """With its unit: "16 KiB", "1000 B"."""
    text = written(size)
    return f"{text}B" if text.endswith("i") else f"{text} B"


def series(first: int, last: int, factor: int) -> tuple[int, ...]:
    """first, first * factor, ... up to and including last."""
    sizes = [first]
    while sizes[-1] * factor <= last:
        sizes.append(sizes[-1] * factor)
    return tuple(sizes)
