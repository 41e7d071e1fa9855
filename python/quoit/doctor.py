"""`quoit doctor`: what is there, what would be used between ranks, how fast it is, what to change.

Runs alone, and under every launcher as the ranks of a job, of which rank 0 reports on all. It
changes nothing, and it always ends: each step has a deadline, and a step that fails is reported.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import sys
import threading
from dataclasses import replace

from quoit import doctor_advice, doctor_host_advice, doctor_show, doctor_text
from quoit.doctor_advice import Advice
from quoit.doctor_findings import Failure, Findings, RankFindings
from quoit.doctor_probes import TORCH_S, Attempts, examine
from quoit.launch import detect

_ALL_S = 180.0  # above the sum of the deadlines inside
_TRAPS = (*doctor_advice.TRAPS, *doctor_host_advice.TRAPS)
_ORDER = {"problem": 0, "warning": 1, "note": 2}


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of `quoit doctor`."""
    parser.add_argument("--json", action="store_true", help="findings and advice as JSON")
    parser.add_argument(
        "--no-measure",
        dest="measure",
        action="store_false",
        help="make no group of the ranks and measure nothing",
    )


def main(options: argparse.Namespace) -> int:
    """Examine, and report if this is rank 0. The exit code says whether there was a report."""
    attempts = Attempts()
    mine = examine(attempts)
    attempts.failures.clear()  # examine() has them
    found = attempts.attempt("the ranks together", lambda: _job(mine, options.measure), _ALL_S)
    lost = attempts.failures[0].why if attempts.failures else ""
    if found is None:
        found = Findings((replace(mine, rank=0),), (), False, None, tuple(attempts.failures))
    if reports(mine):
        report(found, as_json=options.json)
    elif lost:
        print(f"quoit doctor: rank {mine.rank} was not examined: {lost}", file=sys.stderr)
    if any(thread.name.startswith("quoit doctor") for thread in threading.enumerate()):
        sys.stdout.flush()
        os._exit(0)  # a probe hangs, and must not hold up the end
    return 0


def advise(found: Findings) -> list[Advice]:
    """Everything worth saying, problems first; what several hosts have in common is said once."""
    ranks: dict[Advice, tuple[int, ...]] = {}
    for one in (advice for trap in _TRAPS for advice in trap(found)):
        same = replace(one, ranks=())
        ranks[same] = ranks.get(same, ()) + one.ranks
    said = [replace(one, ranks=tuple(sorted(set(its)))) for one, its in ranks.items()]
    return sorted(said, key=lambda advice: _ORDER[advice.level])


def report(found: Findings, as_json: bool) -> None:
    """Write the report to standard output."""
    advice = advise(found)
    if as_json:
        whole = dataclasses.asdict(found) | {"advice": [dataclasses.asdict(one) for one in advice]}
        print(json.dumps(whole, indent=2))
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # in a locale without a tick or an arrow
    doctor_show.show(doctor_text.sections(found, advice))


def reports(mine: RankFindings) -> bool:
    """Whether this process prints; every one does that cannot tell which rank it is."""
    return mine.rank == 0 or bool(mine.launch_problem)


def _job(mine: RankFindings, measure: bool) -> Findings:
    # numpy and the sockets are needed from here on only; a probe above has said if they lack.
    from quoit import doctor_measure, gathering

    launch = None if mine.launch_problem else detect()
    if launch is None or launch.size == 1:
        return doctor_measure.alone(mine, measure and not mine.launch_problem)
    try:
        # Rank 0 gives up first, for only it can name who is missing.
        patience_s = doctor_measure.MEET_S + (TORCH_S if launch.rank else 0)
        gather = gathering.meet(launch, patience_s)
    except Exception as error:
        why = Failure("meeting of the ranks", str(error))
        return Findings((replace(mine, rank=0),), (), False, None, (why,))
    try:
        return doctor_measure.together(mine, gather, measure)
    finally:
        gather.leave()
