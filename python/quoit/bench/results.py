"""From what the launches said to the rows of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from quoit.bench.plan import BUS_FACTORS, DISPATCH, LIMITS, MEMCPY, Plan, Record

OURS = ("quoit", "quoit-numpy")  # whoever else is timed, but for LIMITS, is a peer of these
_OF_DDP = ("alone_us", "ddp_us", "exposed_us")  # see Cell
_ORDER = (*OURS, "gloo", "nccl", "MPICH", "Open MPI", "mpi")


@dataclass(frozen=True)
class Launched:
    """What one launch said. mpi: the name of its MPI, or "". failure: why it ended early, or ""."""

    name: str
    mpi: str
    records: tuple[Record, ...]
    failure: str = ""

    @property
    def about(self) -> Record:
        return next((record for record in self.records if "about" in record), {})

    @property
    def left_out(self) -> dict[str, str]:
        """Who, and why."""
        return {self._named(peer): why for peer, why in self.about.get("left_out", {}).items()}

    @property
    def error(self) -> str:
        return next((record["error"] for record in self.records if "error" in record), "")

    @property
    def done(self) -> list[Record]:
        """A record for each size that was measured."""
        return [
            {
                **record,
                "peers": {self._named(peer): times for peer, times in record["peers"].items()},
            }
            for record in self.records
            if "peers" in record
        ]

    def _named(self, peer: str) -> str:
        return (self.mpi or peer) if peer == "mpi" else peer


@dataclass(frozen=True)
class Cell:
    """One peer on one size; µs, GB/s.

    us: median over the turns of a launch, mean over launches; p50, p99: of single calls. wrong:
    elements, over all ranks and turns. ratio: how many times as long as quoit it took (in codec: as
    memcpy). alone_us, ddp_us, exposed_us: of ddp; a step under no_sync(), what DDP's buckets add to
    it, and what communication adds to that.
    """

    us: float
    p50: float
    p99: float
    wrong: int | None
    algbw: float | None
    busbw: float | None
    ratio: float | None
    alone_us: float | None = None
    ddp_us: float | None = None
    exposed_us: float | None = None


@dataclass(frozen=True)
class Row:
    """One size. best: the peer that does best against quoit, and its ratio."""

    bytes: int
    count: int
    peers: dict[str, Cell]
    best: tuple[str, float] | None

    @property
    def wrong(self) -> int:
        return sum(cell.wrong or 0 for cell in self.peers.values())


def base(plan: Plan, peers: Sequence[str]) -> str | None:
    """Whom the others are compared with."""
    wanted = (MEMCPY,) if plan.op == "codec" else OURS
    return next((name for name in wanted if name in peers), None)


def rows(plan: Plan, ranks: int, launches: Sequence[Launched]) -> list[Row]:
    """A row for each size. Times are means over the launches; ratios are taken within one."""
    by_size: dict[int, list[Record]] = {}
    for launched in launches:
        for record in launched.done:
            by_size.setdefault(record["bytes"], []).append(record)
    return [_row(plan, ranks, size, records) for size, records in sorted(by_size.items())]


def _row(plan: Plan, ranks: int, size: int, records: Sequence[Record]) -> Row:
    names = list(dict.fromkeys(name for record in records for name in record["peers"]))
    names.sort(key=lambda name: (name in LIMITS, _ORDER.index(name) if name in _ORDER else 0))
    against = base(plan, names)
    cells = {}
    for name in names:
        mine = [record["peers"][name] for record in records if name in record["peers"]]
        ratios = [
            _shown(record["peers"][name]) / _shown(record["peers"][against])
            for record in records
            if against in record["peers"] and name in record["peers"] and against != name
        ]
        us = _mean(mine, "us")
        moves = size and plan.op != "ddp" and name != DISPATCH
        algbw = size / us / 1e3 if moves else None
        factor = BUS_FACTORS[plan.op](ranks) if plan.op in BUS_FACTORS else None
        wrong = [one["wrong"] for one in mine if one["wrong"] is not None]
        cells[name] = Cell(
            us=us,
            p50=_mean(mine, "p50"),
            p99=_mean(mine, "p99"),
            wrong=sum(wrong) if wrong else None,
            algbw=algbw,
            busbw=algbw * factor if algbw and factor else None,
            ratio=fmean(ratios) if ratios else None,
            **{name: _mean(mine, name) for name in _OF_DDP if name in mine[0]},
        )
    peers = {n: c.ratio for n, c in cells.items() if n not in (*OURS, *LIMITS) and c.ratio}
    best = min(peers.items(), key=lambda pair: pair[1], default=None)
    return Row(size, records[0]["count"], cells, best if plan.op != "codec" else None)


def _shown(times: Mapping[str, float]) -> float:
    """What is compared: of ddp the exposed communication, which is never taken to be nothing."""
    return max(times["exposed_us"], 1.0) if "exposed_us" in times else times["us"]


def _mean(records: Sequence[Mapping[str, float]], key: str) -> float:
    return fmean(record[key] for record in records)
