"""Kernels of one process beside memcpy: what a byte costs before any rank is waited for.

Whatever works on memory alone belongs here: `runners` names the kernels, and a codec that encodes
or decodes an array is one more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from quoit import _core
from quoit.bench import machine
from quoit.bench.data import DTYPES, Array, DType, inputs, reduced, spoil
from quoit.bench.measure import Control, Runner, measure
from quoit.bench.plan import MEMCPY, Plan, Record

SUMMANDS = 2


def work(plan: Plan, tell: Callable[[Record], None]) -> list[Record]:
    """Measures each size; `tell` hears of the progress. Returns what a rank 0 would have said."""
    dtype, control = DTYPES[plan.dtype], Control(None)
    about: Record = {"ranks": 1, "places": [machine.place()], "versions": machine.versions("numpy")}
    records: list[Record] = [{"about": about, "left_out": {}}]
    most = max(plan.sizes) // dtype.size
    arrays = [np.ones(most, dtype.carrier) for _ in range(SUMMANDS + 1)]
    for size in plan.sizes:
        count = size // dtype.size
        *ins, out = (array[:count] for array in arrays)
        record = measure(
            control,
            runners(dtype, ins, out),
            plan.seconds,
            plan.rounds,
            lambda part, size=size: tell({"progress": part, "bytes": size}),  # type: ignore[misc]
        )
        records.append({"bytes": size, "count": count, **record})
        tell(records[-1])
    return records


def runners(dtype: DType, ins: list[Array], out: Array) -> dict[str, Runner]:
    """By the names of the tables. Each reads `ins`, or the first of them, and writes `out`."""
    sources = [inputs(rank, dtype) for rank in range(len(ins))]
    total = reduced(len(ins), "sum", dtype)

    def fresh() -> None:
        for source, array in zip(sources, ins, strict=True):
            source.fill(array)
        spoil(out)

    def copied() -> int:
        return sources[0].wrong(out)

    def summed() -> int:
        return total.wrong(out)

    found = {
        "copy": Runner(partial(_core.copy, ins[0], out), 1, fresh, copied),
        "copy (non-temporal)": Runner(partial(_core.copy, ins[0], out, True), 1, fresh, copied),
    }
    for isa in _core.isas():
        call = partial(_core.sum, ins, out, dtype.name, isa)
        found[f"sum of {len(ins)} ({isa})"] = Runner(call, 1, fresh, summed)
    return {**found, MEMCPY: Runner(partial(np.copyto, out, ins[0]), 1, fresh, copied)}
