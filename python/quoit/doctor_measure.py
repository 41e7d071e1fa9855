"""What the ranks under `quoit doctor` do together: look at each other, make a group, measure.

Run as a program it is one of the two ranks that a doctor without a launcher starts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from quoit.arrays import Array
from quoit.communicator import Communicator
from quoit.doctor_findings import (
    Failure,
    Findings,
    Measurement,
    Peers,
    RankFindings,
    read,
    written,
)
from quoit.doctor_software import output_of
from quoit.gathering import Gather, meet
from quoit.launch import detect

STEP_S = 15.0  # for any step that ranks do together
MEET_S = 60.0  # ranks may be that far apart: one of a host asks torch
_PAIR_S = 45.0
_PAIR = ("-m", "quoit.cli", "run", "-n", "2", "--timeout", str(_PAIR_S - 10))
_PHASE_S = 0.5  # for each of the three things that are timed
_SMALL = 1  # elements: 4 bytes
_LARGE = 64 << 20
_MOST_REPEATS = 2000


def together(mine: RankFindings, gather: Gather, measure: bool) -> Findings:
    """Everybody's findings, the same on all ranks; every rank calls it."""
    ranks = tuple(read(RankFindings, said) for said in gather("findings", written(mine), MEET_S))
    failures: list[Failure] = []
    routes: tuple[str, ...] = ()
    measurement = None
    if measure:
        try:
            routes, measurement = _measured(mine.rank, len(ranks), large_bytes(ranks), gather)
        except Exception as error:
            failures.append(Failure("group of all ranks", f"rank {mine.rank}: {error}"))
    peers = Peers(
        rank=mine.rank,
        routes=routes or tuple(expected_route(mine, other) for other in ranks),
        closed=_closed(mine, ranks),
        names=_names(ranks),
    )
    own = Findings((), (peers,), bool(routes), measurement, tuple(failures))
    all_of = [read(Findings, said) for said in gather("each other", written(own), 3 * STEP_S)]
    return Findings(
        ranks=ranks,
        peers=tuple(one.peers[0] for one in all_of),
        measured=all(one.measured for one in all_of),
        measurement=all_of[0].measurement,
        failures=_distinct([failure for one in all_of for failure in one.failures]),
    )


def alone(mine: RankFindings, measure: bool) -> Findings:
    """The findings of a process that no launcher started; two ranks are started to measure."""
    found = Findings((mine,), (), False, None, ())
    if not measure:
        return found
    try:
        return replace(found, measurement=_pair(large_bytes([mine])))
    except (OSError, RuntimeError, ValueError) as error:
        return replace(found, failures=(Failure("measurement on two ranks", str(error)),))


def expected_route(mine: RankFindings, other: RankFindings) -> str:
    """The transport that a group would use to `other`, as far as it can be told without one.

    Follows connect() in collective/connect.cpp; "none" where that would raise.
    """
    if other.rank == mine.rank:
        return "self"
    chosen = mine.transport
    if chosen in ("mpi", "tcp"):
        return chosen
    if mine.identity == other.identity:
        return "shm"
    if chosen in ("auto", "shm+mpi") and all(one.mpi and one.mpi.used for one in (mine, other)):
        return "mpi"
    return "tcp" if chosen in ("auto", "shm+tcp") and mine.tcp and other.tcp else "none"


def _closed(mine: RankFindings, ranks: Sequence[RankFindings]) -> dict[str, str]:
    """Tries what sharing memory takes: to open a descriptor of each rank on this host."""
    closed = {}
    for other in ranks:
        if other.rank == mine.rank or other.identity != mine.identity or not other.process:
            continue
        path = f"/proc/{other.process.pid}/fd/{other.process.offer}"
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            closed[str(other.rank)] = f"{path}: {error.strerror}"
    return closed


def _names(ranks: Sequence[RankFindings]) -> dict[str, str]:
    names = sorted({one.network.name for one in ranks if one.network})
    if len(names) < 2:
        return {}
    resolved = {}
    for name in names[:64]:
        resolved[name] = ""
        with contextlib.suppress(OSError):
            resolved[name] = socket.gethostbyname(name)
    return resolved


def _measured(
    rank: int, size: int, large: int, gather: Gather
) -> tuple[tuple[str, ...], Measurement]:
    """The group's transports from this rank, and times on buffers of `large` bytes."""
    calls = iter(range(1000))

    def rendezvous(text: str) -> list[str]:
        return gather(f"the group, step {next(calls)}", text, STEP_S)

    comm = Communicator(rank, size, rendezvous, timeout=STEP_S)
    try:
        routes = tuple(comm.route(other) for other in range(comm.size))
        measurement = _time(comm, large, routes)
        copies = gather("the measurement", str(measurement.memcpy_us), STEP_S)
        return routes, replace(measurement, memcpy_by_rank=tuple(map(float, copies)))
    except BaseException as error:
        comm.abort(f"quoit doctor failed on rank {rank}: {error}")
        raise
    finally:
        comm.close()


def large_bytes(ranks: Sequence[RankFindings]) -> int:
    """64 MiB, or less where three buffers of each rank would fill a quarter of a host's memory."""
    fits = [_LARGE]
    for one in ranks:
        if one.memory and one.memory.available:
            local = sum(other.identity == one.identity for other in ranks)
            fits.append(one.memory.available // (4 * 3 * max(2, local)))
    size = _LARGE
    while size > min(fits) and size > 1 << 16:
        size //= 2
    return size


def _time(comm: Communicator, size: int, routes: tuple[str, ...]) -> Measurement:
    small = np.zeros(_SMALL, np.float32)
    large = np.zeros(size // 4, np.float32)
    source, target = np.ones_like(large), np.ones_like(large)
    small_us = _median_us(comm, lambda: comm.all_reduce(small))
    large_us = _median_us(comm, lambda: comm.all_reduce(large))
    memcpy_us = _median_us(comm, lambda: np.copyto(target, source))
    return Measurement(
        ranks=comm.size,
        started=False,
        routes=routes,
        small_us=small_us,
        large_bytes=size,
        large_us=large_us,
        memcpy_us=memcpy_us,
        memcpy_by_rank=(),
        device_route=comm.device_route() if "mpi" in routes else "",
    )


def _median_us(comm: Communicator, action: Callable[[], object]) -> float:
    """Median time of an action that all ranks do as often; rank 0 finds out how often."""
    action()
    comm.barrier()
    begin = time.perf_counter()
    action()
    took = max(time.perf_counter() - begin, 1e-7)
    repeats: Array = np.array([min(_MOST_REPEATS, max(3, int(_PHASE_S / took)))], np.int64)
    comm.broadcast(repeats, 0)
    times = []
    for _ in range(int(repeats[0])):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    comm.barrier()
    return statistics.median(times) * 1e6


def _distinct(failures: Sequence[Failure]) -> tuple[Failure, ...]:
    """The first of each kind: what one rank suffers the others report too."""
    return tuple({failure.probe: failure for failure in reversed(failures)}.values())


def _pair(large: int) -> Measurement:
    try:
        lines = output_of([*_PAIR, "-m", __name__, str(large)], _PAIR_S).strip().splitlines()
        return replace(read(Measurement, lines[-1]), started=True)
    except (RuntimeError, TimeoutError) as error:
        raise type(error)(f"two ranks of `quoit run`: {error}") from None


def _main() -> None:
    launch = detect()
    assert launch is not None, "started by `quoit run`"
    gather = meet(launch, STEP_S)
    _, measurement = _measured(launch.rank, launch.size, int(sys.argv[1]), gather)
    gather.leave()
    if launch.rank == 0:
        print(written(measurement))


if __name__ == "__main__":
    _main()
