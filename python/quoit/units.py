"""Rates, times, sizes and counts as people write them: 10gbit, 5us, 64M, 1.5B."""

from __future__ import annotations

import re

_NUMBER = r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)"
_TIMES = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0}
_STEPS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def seconds(text: str) -> float:
    """ "5us" as 5e-06; the unit is needed unless the number is 0. Raises ValueError."""
    found = re.fullmatch(rf"{_NUMBER}\s*(ns|us|µs|μs|ms|s)", text.strip())
    if found is None:
        if text.strip() == "0":
            return 0.0
        raise ValueError(f"{text!r} is no time: write a number and ns, us, ms or s, such as 5us")
    return float(found[1]) * _TIMES[found[2]]


def bytes_per_second(text: str) -> float:
    """ "10gbit" as 1.25e9, "3GB/s" as 3e9, "3GiB/s" with steps of 1024. Raises ValueError.

    "gbps" is refused: to most it is bits, to tc it is bytes.
    """
    found = re.fullmatch(rf"{_NUMBER}\s*([kmgt]?)(i?)(bit(?:/s)?|b/s)", text.strip().lower())
    rate = 0.0
    if found is not None:
        rate = float(found[1]) * float(1024 if found[3] else 1000) ** _STEPS[found[2]]
    if found is None or rate == 0:
        raise ValueError(
            f"{text!r} is no rate above 0: write a number and kbit, mbit or gbit (bits a second) "
            "or MB/s or GB/s (bytes a second), such as 10gbit"
        )
    return rate / 8 if found[4].startswith("bit") else rate


def size(text: str) -> int:
    """ "64M" as 64 * 2**20 bytes, as nccl-tests has it; "64MB" has steps of 1000, "64MiB" of 1024.

    Raises ValueError.
    """
    found = re.fullmatch(rf"{_NUMBER}\s*([kmgt]?)(i?)(b?)", text.strip().lower())
    if found is None or (found[3] and not found[4]):
        raise ValueError(f"{text!r} is no size: write a number of bytes, such as 64K, 25MB or 1GiB")
    decimal = found[2] and found[4] and not found[3]
    return round(float(found[1]) * float(1000 if decimal else 1024) ** _STEPS[found[2]])


def count(text: str) -> int:
    """ "1.5B" as 1.5e9, "10M" as 1e7, "7000" as it is. Raises ValueError."""
    found = re.fullmatch(rf"{_NUMBER}\s*([kmbgt]?)", text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is no count: write a number, such as 7000, 10M or 1.5B")
    steps = _STEPS["g" if found[2] == "b" else found[2]]
    return round(float(found[1]) * 1000.0**steps)


def spell_seconds(value: float) -> str:
    """A time with three digits and the unit that suits it: 2.00 ms."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{_three(value / scale)} {unit}"
    return f"{_three(value / 1e-9)} ns" if value > 0 else "0 s"


def spell_size(value: float) -> str:
    """A number of bytes with steps of 1024: 64 MiB."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= scale:
            return f"{_short(value / scale)} {unit}"
    return f"{_short(value)} B"


def spell_rate(value: float) -> str:
    """A number of bytes per second, as bits: 10 Gbit/s."""
    bits = 8 * value
    for unit, scale in (("Tbit/s", 1e12), ("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bits >= scale:
            return f"{_short(bits / scale)} {unit}"
    return f"{_short(bits)} bit/s"


def _three(value: float) -> str:
    return (
        f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
    )


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
