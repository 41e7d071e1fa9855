"""One rank of a benchmark: connects, goes through the sizes, and lets rank 0 tell.

As a program it is a rank that `quoit bench` started: PLAN RESULTS, where rank 0 writes a line of
JSON for whatever there is to know. The records:

    {"about": ...}                  once: versions, places, who is left out and why
    {"error": ...}                  instead: what was asked for is not there
    {"progress": 0.5, "bytes": n}   from time to time; of that size
    {"bytes": n, "count": ..., "rounds": ..., "peers": {name: {...}}}    a size that is done
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping

from quoit.bench.cases import Case, Memory
from quoit.bench.measure import Control, Runner, measure
from quoit.bench.peers import DEADLINE_S, Peers, Prepare, connect
from quoit.bench.plan import LIMITS, Plan, Record
from quoit.launch import Launch, detect

_NOT_OFTENER_S = 0.1

Say = Callable[[Record], None]


def work(plan: Plan, started_by: Launch, say: Say) -> None:
    """Measures the plan as one of the launcher's ranks; of `say`, only rank 0's is used."""
    faulthandler.dump_traceback_later(DEADLINE_S, exit=True)
    tell: Say = say if started_by.rank == 0 else (lambda _: None)
    try:
        peers = connect(plan, started_by)
    except ValueError as error:  # an algorithm that there is not, a variable that makes no sense
        tell({"error": str(error)})
        return
    problem = ""
    if plan.strict and peers.left_out:
        problem = "; ".join(f"--backends {name}: {why}" for name, why in peers.left_out.items())
    elif not peers.groups and not set(peers.prepare) - set(LIMITS):
        why = "; ".join(f"{name}: {why}" for name, why in peers.left_out.items())
        problem = f"there is nobody to measure ({why})"
    if problem:
        tell({"error": problem})
        peers.close()
        return
    gc.disable()  # a collection would land in somebody's turn
    try:
        if plan.op == "ddp":
            from quoit.bench import ddp

            ddp.work(plan, peers, tell)
        else:
            _sizes(plan, peers, tell)
    finally:
        gc.enable()
    peers.close()
    faulthandler.cancel_dump_traceback_later()


def _sizes(plan: Plan, peers: Peers, tell: Say) -> None:
    control = peers.control
    sizes = plan.sizes or (0,)
    memory = Memory(plan, control.rank, control.ranks)
    able = _able(peers, memory.case(sizes[0]))
    tell({"about": peers.about, "left_out": peers.left_out})
    for size in sizes:
        faulthandler.dump_traceback_later(DEADLINE_S, exit=True)
        case = memory.case(size)
        runners = {name: prepare(case) for name, prepare in able.items()}
        record = measure(control, runners, plan.seconds, plan.rounds, progress(tell, size))
        tell({"bytes": size, "count": case.count, **record})


def _able(peers: Peers, case: Case) -> Mapping[str, Prepare]:
    """The peers that can do the operation: each tries it once. The others are left out."""
    able = {}
    for name, prepare in peers.prepare.items():
        why = attempt(peers.control, lambda prepare=prepare: _try(prepare(case)))  # type: ignore[misc]
        if why:
            peers.left_out[name] = why
        else:
            able[name] = prepare
    return able


def _try(runner: Runner) -> None:
    runner.fresh()
    runner.once()
    if runner.settle:
        runner.settle()


def attempt(control: Control, do: Callable[[], object]) -> str:
    """Collective: why it failed on this rank, or that it did on another; else nothing."""
    try:
        do()
        why = ""
    except Exception as error:  # whatever a peer says to what it cannot do
        why = (str(error) or repr(error)).strip().splitlines()[0]
    failed = control.total(bool(why))
    return why or ("it failed on another rank" if failed else "")


def progress(tell: Say, size: int) -> Callable[[float], None]:
    last = 0.0

    def tell_part(part: float) -> None:
        nonlocal last
        if (now := time.monotonic()) - last > _NOT_OFTENER_S:
            last = now
            tell({"progress": part, "bytes": size})

    return tell_part


def main(plan: Plan, path: str) -> int:
    started_by = detect()
    assert started_by is not None, "a launcher started this rank"
    with open(path if started_by.rank == 0 else os.devnull, "a", buffering=1) as file:
        work(plan, started_by, lambda record: print(json.dumps(record), file=file))
    return 0


if __name__ == "__main__":
    sys.exit(main(Plan.read(sys.argv[1]), sys.argv[2]))
