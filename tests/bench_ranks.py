"""A rank that measures every operation once, and says what `quoit bench` would hear.

bench_ranks.py RESULTS OPERATION...    (an operation, or send_recv:mode)
"""

from __future__ import annotations

import json
import sys
from typing import Any

from quoit.bench import ranks
from quoit.bench.plan import Plan
from quoit.launch import detect

SMALL = {
    "dtype": "float32",
    "redop": "sum",
    "root": 1,
    "strict": True,
    "algorithm": "auto",
    "in_flight": 0,
    "seconds": 1.0,
    "rounds": 2,
    "torch_threads": 1,
}


def plan(operation: str, **changes: Any) -> Plan:
    op, _, mode = operation.partition(":")
    sizes = () if op in ("barrier", "ddp") else (8, 40_000)
    backends = ("quoit", "gloo", *(() if op == "ddp" else ("quoit-numpy",)))
    fields = {**SMALL, "op": op, "mode": mode, "sizes": sizes, "backends": backends, **changes}
    return Plan(**fields)


def main() -> None:
    path, *operations = sys.argv[1:]
    started_by = detect()
    assert started_by is not None
    with open(path if started_by.rank == 0 else "/dev/null", "w") as file:
        for operation in operations:
            said: list[dict[str, Any]] = []
            ranks.work(plan(operation), started_by, said.append)
            file.write(json.dumps([operation, said]) + "\n")


if __name__ == "__main__":
    main()
