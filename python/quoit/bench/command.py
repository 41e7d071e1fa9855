"""`quoit bench` itself: starts ranks or is one, and reports."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Protocol

from quoit.bench import export, hosts, launch, machine, plot, progress, results, show, table
from quoit.bench import options as command_line
from quoit.bench.launch import Launcher
from quoit.bench.plan import REDUCING, Plan, Record
from quoit.bench.results import Launched
from quoit.launch import Launch, detect

INTERRUPTED = 130
GRACE_S = 3.0


class Starters(Protocol):
    """Where launchers come from: the module `launch`, or hosts that are up."""

    def by_mpirun(self, family: str, threads: int) -> Launcher: ...

    def by_quoit(self, threads: int) -> Launcher: ...


def main(options: argparse.Namespace) -> int:
    """Returns 0; 1 when ranks failed or results were wrong; 130 after Ctrl-C."""
    started_by = detect()
    inside = started_by is not None and (started_by.size > 1 or options.op != "codec")
    try:
        if inside and started_by:
            return _inside(options, started_by)
        with _terminated_as_interrupted():
            return _outside(options)
    except ValueError:
        if started_by is not None and started_by.rank > 0:
            time.sleep(GRACE_S)  # rank 0 says it, before the launcher ends all as one has failed
            return 2
        raise
    except KeyboardInterrupt:
        return INTERRUPTED


def _outside(options: argparse.Namespace) -> int:
    """Starts the ranks itself."""
    cluster = hosts.asked(options)
    ranks = command_line.ranks(options) or (1 if options.op == "codec" else 2)
    ranks = cluster.ranks if cluster else ranks
    plan = command_line.plan(options, ranks)
    command_line.check_outputs(options)
    load = machine.load()
    if plan.op == "codec":
        from quoit.bench import codec

        with progress.bar(plan, 1) as hearing:
            launched = [Launched("this process", "", tuple(codec.work(plan, hearing("codec"))))]
        return _report(options, plan, ranks, launched, {}, load)
    names = command_line.launchers(options)
    if cluster is None:
        launches, missing = _launched(plan, ranks, names, launch)
        return _report(options, plan, ranks, launches, missing, load)
    with hosts.up(cluster) as there:
        launches, missing = _launched(plan, ranks, names, there)
        facts = there.facts(plan.op)
    return _report(options, plan, ranks, launches, missing, load, facts)


def _launched(
    plan: Plan, ranks: int, names: Sequence[str], starters: Starters
) -> tuple[list[Launched], dict[str, str]]:
    """Runs the plan under each launcher; the second: which MPIs are not there, and why."""
    found, missing = _launchers(plan, names, starters)
    launches: list[Launched] = []
    with progress.bar(plan, len(found)) as hearing:
        for launcher in found:
            outcome = launch.start(launcher, ranks, plan, hearing(launcher.name))
            mpi = launcher.name if launcher.mpi else ""
            launches.append(Launched(launcher.name, mpi, outcome.records, outcome.failure))
            if launches[-1].error:
                raise ValueError(launches[-1].error)
            if outcome.failure:
                _say(outcome.words)
    return launches, missing


def _launchers(
    plan: Plan, named: Sequence[str], starters: Starters
) -> tuple[list[Launcher], dict[str, str]]:
    """Who shall start the ranks; and which MPIs are not there, and why."""
    threads = plan.torch_threads
    missing: dict[str, str] = {}
    if named:
        made = [
            starters.by_quoit(threads)
            if name == launch.QUOIT_RUN
            else starters.by_mpirun(name, threads)
            for name in named
        ]
        return made, missing
    made = []
    if "mpi" in plan.backends and plan.op != "ddp":
        for family, name in launch.FAMILIES.items():
            if why := launch.no_mpi(family):
                missing[name] = why
            else:
                made.append(starters.by_mpirun(family, threads))
        if not made and plan.strict:
            said = "; ".join(f"{name}: {why}" for name, why in missing.items())
            raise ValueError(f"--backends mpi: {said}")
    return made or [starters.by_quoit(threads)], missing


def _inside(options: argparse.Namespace, started_by: Launch) -> int:
    """Is a rank of a launcher's."""
    from quoit.bench import ranks

    asked = command_line.ranks(options)
    if asked and asked != started_by.size:
        raise ValueError(f"-n {asked}: {started_by.launcher} has started {started_by.size} ranks")
    if options.cluster:
        raise ValueError(f"--cluster: {started_by.launcher} has already started the ranks")
    if options.launcher:
        raise ValueError(f"--launcher: {started_by.launcher} has already started the ranks")
    plan = command_line.plan(options, started_by.size)
    if started_by.rank > 0:
        ranks.work(plan, started_by, lambda _: None)
        return 0
    command_line.check_outputs(options)
    load, failure = os.getloadavg()[0], ""  # the other ranks are at work already
    records: list[Record] = []
    name = launch.FAMILIES.get(started_by.launcher, started_by.launcher)

    def report(failure: str) -> int:
        mpi = name if started_by.launcher in launch.FAMILIES else ""
        launched = Launched(name, mpi, tuple(records), failure)
        if launched.error:
            raise ValueError(launched.error)
        return _report(options, plan, started_by.size, [launched], {}, load)

    with progress.bar(plan, 1) as hearing, _at_sigterm(lambda: report("told to end")):
        hear = hearing(name)

        def say(record: Record) -> None:
            records.append(record)
            hear(record)

        try:
            ranks.work(plan, started_by, say)
        except Exception as error:  # whoever noticed first that a rank is gone
            failure = (str(error) or repr(error)).splitlines()[0]
    return report(failure)


def _report(
    options: argparse.Namespace,
    plan: Plan,
    ranks: int,
    launches: Sequence[Launched],
    missing: dict[str, str],
    load: float,
    cluster: Mapping[str, str] | None = None,
) -> int:
    rows = results.rows(plan, ranks, launches)
    facts = {**_facts(plan, ranks, launches, missing, load), **(cluster or {})}
    cells = table.of(plan, rows, options.wide) if rows else None
    if options.markdown:
        print(show.markdown(facts, cells), end="")
    else:
        show.show(facts, cells)
    if options.json:
        export.to_json(options.json, facts, plan, ranks, rows, launches)
    if options.csv:
        export.to_csv(options.csv, plan, rows)
    if options.plot and rows:
        plot.draw(plan, rows, f"{facts['what']}\n{facts['machine']}", options.plot)
    failed = [one for one in launches if one.failure]
    for one in failed:
        of = len(plan.sizes) or 1
        _say(
            f"quoit bench: the ranks under {one.name} failed ({one.failure}); {len(one.done)} of "
            f"{of} {'sizes' if of > 1 else 'measurements'} were done"
        )
    if wrong := sum(row.wrong for row in rows):
        _say(f"quoit bench: {wrong} elements of results were wrong: see #wrong")
    return 1 if failed or wrong else 0


def _facts(
    plan: Plan, ranks: int, launches: Sequence[Launched], missing: dict[str, str], load: float
) -> dict[str, str]:
    """The header."""
    abouts = [one.about for one in launches if one.about]
    versions: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for one in launches:
        versions |= one.about["about"]["versions"] if one.about else {}
        left_out |= one.left_out
    if missing:
        left_out.pop("mpi", None)  # it is said of each MPI why it is missing
    left_out |= missing
    facts = {"what": _what(plan, ranks), "machine": machine.hardware()}
    if abouts:
        places = machine.places(abouts[0]["about"]["places"])
        threads = "one thread" if plan.torch_threads == 1 else f"{plan.torch_threads} threads"
        facts["ranks"] = f"{places}; {threads} of torch in each"
    if versions:
        facts["software"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    facts |= {
        "started by": ", ".join(one.name for one in launches),
        "date": f"{machine.now()}, load {load:.2f} before",
        "command": machine.command(),
        "left out": "; ".join(f"{name} ({why})" for name, why in left_out.items()) or "nothing",
    }
    if machine.is_busy(load):
        facts["busy"] = f"the machine was busy (load {load:.2f}) before this began: trust no figure"
    return facts


def _what(plan: Plan, ranks: int) -> str:
    words = [f"{plan.op}{f' ({plan.mode})' if plan.mode else ''}"]
    if plan.op not in ("barrier", "ddp"):
        words.append(plan.dtype + (f" {plan.redop}" if plan.op in REDUCING else ""))
    if plan.op != "codec":
        words.append(f"{ranks} ranks")
    if plan.in_flight:
        words.append(f"{plan.in_flight} in flight")
    if plan.algorithm != "auto":
        words.append(f"quoit's algorithm {plan.algorithm}")
    return ", ".join(words)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM takes down what Ctrl-C does."""

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _at_sigterm(do: Callable[[], int]) -> Iterator[None]:
    """When the launcher ends the ranks because one of them died, `do`, and exit with its result.

    In a thread of its own, for this one may be waiting for that rank inside a library.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        while number := os.read(reader, 1):
            if number[0] == signal.SIGTERM:
                code = do()
                sys.stdout.flush()
                os._exit(code)

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd)
        signal.signal(signal.SIGTERM, before)
        os.close(writer)
        thread.join()
        os.close(reader)


def _say(words: str) -> None:
    if words:
        print(words, file=sys.stderr, flush=True)
