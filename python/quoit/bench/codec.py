"""Kernels of one process beside memcpy: what a byte costs before any rank is waited for.

Whatever works on memory alone belongs here: `runners` names the kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from quoit import _core
from quoit.bench import low_rank, machine
from quoit.bench.data import DTYPES, Array, DType, inputs, reduced, spoil
from quoit.bench.measure import Control, Runner, measure
from quoit.bench.plan import MEMCPY, Plan, Record

SUMMANDS = 2

# What a number may differ by when it is decoded, over the largest of all.
LOSSES = {
    "bf16": 2**-8,
    "bf16(stochastic)": 2**-7,
    "fp8": 2**-4,
    "int8": 1 / 252,
    "int4": 1 / 14,
    "int4(hadamard)": 1 / 2,
    "sign": 1,
    "topk(ratio=0.01, bits=8)": 1,
}
NOISE = 65521  # numbers, then again the same: no multiple of a tile


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
    if dtype.name == "float32":
        for name, loss in LOSSES.items():
            found |= codec_runners(_core.Codec(name), loss, ins, out)
        found |= low_rank.runners(ins)
    return {**found, MEMCPY: Runner(partial(np.copyto, out, ins[0]), 1, fresh, copied)}


def codec_runners(
    codec: _core.Codec, loss: float, ins: list[Array], out: Array
) -> dict[str, Runner]:
    """Encode ins[0], also with ins[1] as what was lost before; decode into `out` or add to it."""
    noise = np.random.default_rng(0).standard_normal(NOISE, np.float32)
    encoded = np.empty(codec.bytes(out.size), np.uint8)
    allowed = loss * np.abs(noise).max()

    def fill(array: Array) -> None:
        for start in range(0, array.size, NOISE):
            part = array[start : start + NOISE]
            part[:] = noise[: part.size]

    def raw() -> None:
        fill(ins[0])
        spoil(encoded)

    def nothing_lost() -> None:
        raw()
        ins[1][:] = 0

    def ready() -> None:
        fill(ins[0])
        codec.encode(ins[0], encoded)
        spoil(out)

    def ready_to_add() -> None:
        ready()
        fill(out)

    def decoded() -> int:
        return int(np.count_nonzero(~(np.abs(out - ins[0]) <= allowed)))

    def encoded_well() -> int:
        codec.decode(encoded, out)
        return decoded()

    def kept() -> int:
        wrong = encoded_well()
        return wrong + int(np.count_nonzero(ins[1] != ins[0] - out))

    def added() -> int:
        np.subtract(out, ins[0], out)
        return decoded()

    with_feedback = partial(codec.encode, ins[0], encoded, ins[1])
    return {
        f"{codec.name} encode": Runner(
            partial(codec.encode, ins[0], encoded), 1, raw, encoded_well
        ),
        f"{codec.name} encode, feedback": Runner(with_feedback, 1, nothing_lost, kept),
        f"{codec.name} decode": Runner(partial(codec.decode, encoded, out), 1, ready, decoded),
        f"{codec.name} add": Runner(partial(codec.add, encoded, out), 1, ready_to_add, added),
    }
