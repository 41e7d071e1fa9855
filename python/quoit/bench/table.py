"""The cells of the tables as text, for whoever draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quoit.bench import results, sizes
from quoit.bench.plan import LIMITS, REDUCING, Plan
from quoit.bench.results import Cell, Row

_OF_RANKS = ("redop", "root", "busbw")  # columns


@dataclass(frozen=True)
class Text:
    """mark: for colours; "best", "ahead", "behind", "wrong" or ""."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """groups: of lines that belong together. note: what the columns are."""

    headings: tuple[str, ...]
    groups: tuple[tuple[tuple[Text, ...], ...], ...]
    note: str


def of(plan: Plan, rows: Sequence[Row], wide: bool) -> Table:
    if plan.op == "ddp":
        return _steps(rows)
    return _wide(plan, rows) if wide or plan.op == "codec" else _compact(plan, rows)


def number(value: float | None) -> str:
    """Three digits, as far as there are no more before the point."""
    if value is None:
        return "–"
    return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"


def redop(plan: Plan) -> str:
    return plan.redop if plan.op in REDUCING else "none"


def root(plan: Plan) -> str:
    return str(plan.root) if plan.op == "broadcast" else "-1"


def _peers(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.peers))


def _compact(plan: Plan, rows: Sequence[Row]) -> Table:
    """A line for each size; everybody's time, and the rest of quoit's columns."""
    peers = _peers(rows)
    peers.sort(key=lambda name: name in LIMITS)
    ours = results.base(plan, peers) or peers[0]
    bandwidth = plan.op != "barrier"
    headings = [*(["size"] if bandwidth else []), *peers]
    headings += [*(["algbw", "busbw"] if bandwidth else []), "p50", "p99", "#wrong", "best peer"]
    groups = []
    for row in rows:
        fastest = min((cell.us, name) for name, cell in row.peers.items() if name not in LIMITS)[1]
        line = [Text(sizes.written(row.bytes))] if bandwidth else []
        for name in peers:
            time = number(row.peers[name].us if name in row.peers else None)
            line.append(Text(time, "best" if name == fastest else ""))
        own = row.peers.get(ours)
        figures = [own.p50, own.p99] if own else [None, None]
        if bandwidth:
            figures = [*([own.algbw, own.busbw] if own else [None, None]), *figures]
        line += [*map(Text, map(number, figures)), _wrong(row)]
        line.append(_best(row))
        groups.append((tuple(line),))
    note = f"µs per call; {'algbw and busbw in GB/s, ' if bandwidth else ''}p50 and p99 of {ours}"
    if any(row.best for row in rows):
        note += f"; best peer: how many times as long as {ours} it takes"
    return Table(tuple(headings), tuple(groups), note)


def _wide(plan: Plan, rows: Sequence[Row]) -> Table:
    """A line for each size and peer, with the columns of nccl-tests and ours."""
    groups = []
    headings: tuple[str, ...] = ()
    for row in rows:
        lines: list[tuple[Text, ...]] = []
        for name, cell in row.peers.items():
            columns = {
                "size": str(row.bytes),
                "count": str(row.count),
                "type": plan.dtype,
                "redop": redop(plan),
                "root": root(plan),
            }
            if lines:
                columns = dict.fromkeys(columns, "")  # said once for each size
            columns |= {
                "peer": name,
                "time": number(cell.us),
                "algbw": number(cell.algbw),
                "busbw": number(cell.busbw),
            }
            texts = {heading: Text(text) for heading, text in columns.items()}
            texts["#wrong"] = _errors(cell)
            texts |= {"p50": Text(number(cell.p50)), "p99": Text(number(cell.p99))}
            texts["ratio"] = _ratio(name, cell)
            if plan.op == "codec":  # it moves nothing between ranks
                texts = {h: text for h, text in texts.items() if h not in _OF_RANKS}
            lines.append(tuple(texts.values()))
            headings = tuple(texts)
        groups.append(tuple(lines))
    against = results.base(plan, _peers(rows))
    bandwidths = "algbw" if plan.op == "codec" else "algbw and busbw"
    note = f"size in bytes, times in µs, {bandwidths} in GB/s"
    if against:
        note += f"; ratio: time / {against}'s"
    return Table(headings, tuple(groups), note)


def _steps(rows: Sequence[Row]) -> Table:
    """ddp: a line for each backend."""
    headings: tuple[str, ...] = ("backend", "step", "alone", "DDP", "exposed", "share")
    lines = []
    for name, cell in rows[0].peers.items() if rows else ():
        exposed = cell.exposed_us or 0.0
        times = [cell.us, cell.alone_us or 0.0, cell.ddp_us or 0.0, exposed]
        texts = [Text(number(time / 1e3)) for time in times]
        share = Text(f"{100 * exposed / cell.us:.1f} %")
        quantiles = [Text(number(cell.p50 / 1e3)), Text(number(cell.p99 / 1e3))]
        lines.append((Text(name), *texts, share, *quantiles, _errors(cell), _ratio(name, cell)))
    note = "ms per step; alone: under no_sync(); DDP: what its buckets add to that; exposed: what "
    note += "communication adds to both; "
    headings += ("p50", "p99", "#wrong", "ratio")
    return Table(headings, (tuple(lines),), note + "share: of the step; ratio: exposed / quoit's")


def _errors(cell: Cell) -> Text:
    return Text("–" if cell.wrong is None else str(cell.wrong), "wrong" if cell.wrong else "")


def _wrong(row: Row) -> Text:
    checked = any(cell.wrong is not None for cell in row.peers.values())
    return Text(str(row.wrong) if checked else "–", "wrong" if row.wrong else "")


def _best(row: Row) -> Text:
    if row.best is None:
        return Text("–")
    name, ratio = row.best
    return Text(f"{number(ratio)}× {name}", "ahead" if ratio >= 1 else "behind")


def _ratio(name: str, cell: Cell) -> Text:
    if cell.ratio is None:
        return Text("")
    is_peer = name not in (*results.OURS, *LIMITS)
    return Text(number(cell.ratio), ("ahead" if cell.ratio >= 1 else "behind") if is_peer else "")
