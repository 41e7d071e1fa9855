"""A report as JSON and as CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from quoit.bench import table
from quoit.bench.plan import Plan
from quoit.bench.results import Launched, Row

COLUMNS = (
    *("size", "count", "type", "redop", "root", "peer", "time_us", "algbw_GBps", "busbw_GBps"),
    *("wrong", "p50_us", "p99_us", "ratio", "alone_us", "ddp_us", "exposed_us"),
)


def to_json(
    path: Path,
    facts: Mapping[str, str],
    plan: Plan,
    ranks: int,
    rows: Sequence[Row],
    launches: Sequence[Launched],
) -> None:
    """Everything: header, plan, rows, and what each launch said."""
    whole = {
        "facts": dict(facts),
        "plan": asdict(plan),
        "ranks": ranks,
        "rows": [asdict(row) for row in rows],
        "launches": [
            {
                "name": one.name,
                "failure": one.failure,
                "about": one.about,
                "sizes": one.done,
            }
            for one in launches
        ],
    }
    path.write_text(json.dumps(whole, indent=1) + "\n")


def to_csv(path: Path, plan: Plan, rows: Sequence[Row]) -> None:
    """A line for each size and peer; empty where there is nothing to say."""
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(COLUMNS)
        for row in rows:
            for name, cell in row.peers.items():
                facts = (row.bytes, row.count, plan.dtype, table.redop(plan), table.root(plan))
                figures = (cell.us, cell.algbw, cell.busbw, cell.wrong, cell.p50, cell.p99)
                more = (cell.ratio, cell.alone_us, cell.ddp_us, cell.exposed_us)
                lines.writerow((*facts, name, *figures, *more))
