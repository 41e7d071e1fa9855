"""Turns: the peers take them one after the other, and the slowest rank's time counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from quoit.bench.data import Array
from quoit.bench.plan import Record

if TYPE_CHECKING:
    from quoit import Communicator

TURN_S = 2e-3  # a turn repeats short calls for about so long
FEWEST_ROUNDS = 5
SINGLY_BELOW = 8  # calls in a turn: so few are long, and the clock may be read between them
SINGLY_EVERY = 3  # rounds; in these it is read between short calls too


@dataclass(frozen=True)
class Runner:
    """A peer that is ready to take turns on one size.

    once: the call, or as many as are in flight together; `calls` says how many these count for.
    fresh: writes the inputs. wrong: after one `once`, the wrong elements of this rank; None where
    there is nothing to check. most: `once` may follow itself so often. settle: waits for a device.
    """

    once: Callable[[], object]
    calls: int
    fresh: Callable[[], object]
    wrong: Callable[[], int] | None
    most: int = 1 << 30
    settle: Callable[[], object] | None = None


class Control:
    """What the benchmark itself needs to say between the ranks, apart from what it measures."""

    def __init__(self, comm: Communicator | None) -> None:
        """comm: of all ranks; None where there is only this process."""
        self._comm = comm
        self.rank, self.ranks = (comm.rank, comm.size) if comm else (0, 1)

    def barrier(self) -> None:
        if self._comm:
            self._comm.barrier()

    def slowest(self, seconds: Array) -> Array:
        """The largest of all ranks, element by element; overwrites its argument."""
        if self._comm:
            self._comm.all_reduce(seconds, "MAX")
        return seconds

    def longest(self, seconds: float) -> float:
        return float(self.slowest(np.array([seconds]))[0])

    def average(self, values: Array) -> None:
        """Of all ranks, in place."""
        if self._comm:
            self._comm.all_reduce(values, "AVG")

    def total(self, number: int) -> int:
        all_of = np.array([number])
        if self._comm:
            self._comm.all_reduce(all_of)
        return int(all_of[0])


@dataclass
class Times:
    """Of one peer; seconds. means: of a call, by turn. single: of calls that were timed singly."""

    means: list[float] = field(default_factory=list)
    shared: list[float] = field(default_factory=list)  # means of turns not timed singly
    single: list[float] = field(default_factory=list)
    wrong: int = 0

    def repeats(self, runner: Runner) -> int:
        """How often `once` makes a turn."""
        once = min(self.means, default=TURN_S) * runner.calls
        return max(1, min(round(TURN_S / max(once, 1e-9)), runner.most))


def turn(control: Control, runner: Runner, times: Times, repeats: int, singly: bool) -> None:
    """Fresh input, a call that warms up and is checked, then `repeats` that are timed."""
    runner.fresh()
    runner.once()
    if runner.settle:
        runner.settle()
    times.wrong += runner.wrong() if runner.wrong else 0
    control.barrier()
    once, settle, clock = runner.once, runner.settle, time.perf_counter
    if singly:
        stamps = [clock()]
        for _ in range(repeats):
            once()
            if settle:
                settle()
            stamps.append(clock())
        spans = np.append(np.diff(stamps), stamps[-1] - stamps[0])
        *each, whole = (control.slowest(spans) / runner.calls).tolist()
        times.single += each
    else:
        start = clock()
        for _ in range(repeats):
            once()
        if settle:
            settle()
        whole = control.longest(clock() - start) / runner.calls
        times.shared.append(whole / repeats)
    times.means.append(whole / repeats)


def measure(
    control: Control,
    runners: Mapping[str, Runner],
    seconds: float,
    rounds: int,
    tell: Callable[[float], None] = lambda _: None,
) -> Record:
    """Rounds of one turn for each peer: `rounds`, or if that is 0, for about so many seconds.

    tell: hears from time to time which part of this is done. Collective; the record is the same on
    all ranks: medians over the rounds, quantiles over single calls, in µs.
    """
    all_times = {name: Times() for name in runners}
    done, start = -1, time.perf_counter()
    while True:
        for name, runner in runners.items():
            times = all_times[name]
            repeats = times.repeats(runner)
            singly = repeats < SINGLY_BELOW or done % SINGLY_EVERY == SINGLY_EVERY - 1
            turn(control, runner, times, repeats, singly)
            if done < 0:  # this round found out how many calls make a turn
                times.shared.clear()
                times.single.clear()
        done += 1
        spent = control.longest(time.perf_counter() - start)
        part = done / rounds if rounds else min(spent / seconds, done / FEWEST_ROUNDS)
        tell(min(1.0, part))
        if part >= 1.0:
            break
    return {
        "rounds": done,
        "peers": {
            name: summary(times, control.total(times.wrong) if runners[name].wrong else None)
            for name, times in all_times.items()
        },
    }


def summary(times: Times, wrong: int | None) -> Record:
    means = times.shared or times.means[1:]
    single = times.single or means
    return {
        "us": 1e6 * float(np.median(means)),
        "p50": 1e6 * float(np.quantile(single, 0.50)),
        "p99": 1e6 * float(np.quantile(single, 0.99)),
        "single": len(times.single),
        "wrong": wrong,
    }
