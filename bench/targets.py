"""What Quoit shall reach on a machine of two cores, and whether the measured rows do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from quoit.bench.results import Row
from quoit.bench.sizes import named

KI, MI = 1 << 10, 1 << 20
MPIS = ("MPICH", "Open MPI")
LINE = 125e6  # bytes per second of the cluster's links, in each direction

Rows = Mapping[str, Sequence[Row]]  # by the name of the run


@dataclass(frozen=True)
class Verdict:
    """measured: a figure and where it was; met: None when nothing was measured."""

    target: str
    measured: str
    met: bool | None


def verdicts(rows: Rows) -> list[Verdict]:
    found = []
    for first, last, gloo, mpi in (
        (4, KI, 60.0, None),
        (16 * KI, 16 * KI, 30.0, 1.2),
        (256 * KI, 16 * MI, 5.0, 1.2),
        (64 * MI, 256 * MI, 5.0, 3.0),
    ):
        span = _span(first, last)
        of = _between(rows.get("all_reduce", ()), first, last)
        found.append(_least(f"all_reduce {span}: ≥ {gloo:g}× gloo", of, _against("gloo"), gloo))
        if mpi:
            what = f"all_reduce {span}: ≥ {mpi:g}× the better MPI"
            found.append(_least(what, of, _against(*MPIS), mpi))
    small = _between(rows.get("all_reduce", ()), 4, KI)
    large = _between(rows.get("all_reduce", ()), 64 * MI, 256 * MI)
    found += [
        _most("all_reduce 4 B – 1 KiB: ≤ 6 µs through torch", small, _time("quoit"), 6.0),
        _least(
            "all_reduce 4 B – 1 KiB: Communicator no slower than the better MPI",
            small,
            _against(*MPIS, base="quoit-numpy"),
            1.0,
        ),
        _least(
            "all_reduce 64 – 256 MiB: ≥ 0.8 of concurrent memcpys",
            large,
            _against("memcpy"),
            0.8,
        ),
    ]
    four = rows.get("all_reduce, 4 ranks", ())
    found += [
        _least("all_reduce, 4 ranks: never slower than the better MPI", four, _against(*MPIS), 1.0),
        _least(
            "all_reduce, 4 ranks, up to 16 KiB: ≥ 20× gloo",
            _between(four, 4, 16 * KI),
            _against("gloo"),
            20.0,
        ),
    ]
    for op in ("reduce_scatter", "all_gather", "broadcast", "all_to_all"):
        of = rows.get(op, ())
        found += [
            _least(f"{op}: ≥ 3× gloo", of, _against("gloo"), 3.0),
            _least(f"{op}: not behind the better MPI", of, _against(*MPIS), 1.0),
            _least(
                f"{op}: Communicator not behind the better MPI",
                of,
                _against(*MPIS, base="quoit-numpy"),
                1.0,
            ),
        ]
    one_way, band = rows.get("send_recv", ()), rows.get("send_recv, bandwidth", ())
    eight = _between(one_way, 8, 8)
    found += [
        _most("send_recv 8 B: ≤ 3 µs through Communicator", eight, _time("quoit-numpy"), 3.0),
        _most("send_recv 8 B: ≤ 8 µs through torch", eight, _time("quoit"), 8.0),
        _least(
            "send_recv 1 MiB, one way: ≥ the better MPI",
            _between(one_way, MI, MI),
            _against(*MPIS),
            1.0,
        ),
        _least(
            "send_recv 1 MiB, bandwidth: ≥ the better MPI",
            _between(band, MI, MI),
            _against(*MPIS),
            1.0,
        ),
        _most(
            "barrier: ≤ 2 µs through Communicator",
            rows.get("barrier", ()),
            _time("quoit-numpy"),
            2.0,
        ),
        _least(
            "ddp: exposed communication at most a quarter of gloo's",
            rows.get("ddp", ()),
            _against("gloo"),
            4.0,
        ),
    ]
    wire = _between(rows.get("all_reduce, 2 hosts of 2 ranks", ()), 64 * MI, 64 * MI)
    found += [
        _least("2 hosts, 64 MiB: ≥ 94 % of the line", wire, _of_line, 0.94),
        _least("2 hosts, 64 MiB: ≥ the better MPI", wire, _against(*MPIS), 1.0),
    ]
    return found


def markdown(found: Sequence[Verdict]) -> str:
    said = {True: "yes", False: "**no**", None: "not measured"}
    lines = ["| target | measured | met? |", "|---|---|---|"]
    lines += [f"| {one.target} | {one.measured} | {said[one.met]} |" for one in found]
    return "\n".join(lines) + "\n"


def _between(rows: Sequence[Row], first: int, last: int) -> list[Row]:
    return [row for row in rows if first <= row.bytes <= last]


def _against(*peers: str, base: str = "quoit") -> Callable[[Row], float | None]:
    """How many times as long as quoit, or another base, the best of these peers takes."""

    def ratio(row: Row) -> float | None:
        found = [row.peers[peer].ratio for peer in peers if peer in row.peers]
        own = row.peers.get(base)
        if own is None or not found or None in found:
            return None
        # The base of all ratios of a row is quoit, and its own ratio is None.
        return min(filter(None, found)) / (own.ratio or 1.0)

    return ratio


def _time(peer: str) -> Callable[[Row], float | None]:
    return lambda row: row.peers[peer].us if peer in row.peers else None


def _of_line(row: Row) -> float | None:
    """Of 2 hosts each sends and receives the size once, at least: 2 (h - 1) / h, with h = 2."""
    return row.bytes / (row.peers["quoit"].us / 1e6) / LINE if "quoit" in row.peers else None


def _least(
    target: str, rows: Sequence[Row], figure: Callable[[Row], float | None], bound: float
) -> Verdict:
    values = [(value, row.bytes) for row in rows if (value := figure(row)) is not None]
    if not values:
        return Verdict(target, "–", None)
    value, size = min(values)
    return Verdict(target, _words(value, size, len(values), "least"), value >= bound)


def _most(
    target: str, rows: Sequence[Row], figure: Callable[[Row], float | None], bound: float
) -> Verdict:
    values = [(value, row.bytes) for row in rows if (value := figure(row)) is not None]
    if not values:
        return Verdict(target, "–", None)
    value, size = max(values)
    return Verdict(target, _words(value, size, len(values), "most"), value <= bound)


def _words(value: float, size: int, count: int, which: str) -> str:
    figure = f"{value:.3g}"
    return f"{figure}, the {which}, at {_span(size, size)}" if count > 1 else figure


def _span(first: int, last: int) -> str:
    return named(first) if first == last else f"{named(first)} – {named(last)}"
