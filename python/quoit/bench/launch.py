"""Starts the ranks of a benchmark, listens to rank 0, and leaves no process behind.

A `Launcher` is a name and a function from (ranks, program) to the commands that start those ranks:
one mpirun here, one process for each host of a cluster elsewhere. `start` knows nothing else about
them, so another way to start ranks is another Launcher.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from quoit import warden
from quoit.bench.plan import Plan, Record
from quoit.cores import usable_cores
from quoit.launch import without_launcher

FAMILIES = {"mpich": "MPICH", "openmpi": "Open MPI"}
QUOIT_RUN = "quoit"
SILENCE_S = 330.0  # without a word of rank 0; the ranks themselves give up a little earlier
_GRACE_S = 5.0
_PR_SET_PDEATHSIG = 1
_PAUSE_S = 0.05
_LAST_WORDS = 30  # lines


@dataclass(frozen=True)
class Command:
    """A process to start. environment: all of it."""

    arguments: tuple[str, ...]
    environment: dict[str, str]


@dataclass(frozen=True)
class Launcher:
    """A way to start ranks.

    name: for tables and messages; where `mpi` is set it is the name under which the times of mpi4py
    appear there ("MPICH").
    commands: given how many ranks, and what each is to run (the arguments of `python`), returns the
    processes that together start all ranks. They are started at once, each in a session of its own;
    the launch is over when all have ended, and has failed when one did. Their environments must let
    the ranks find each other: `quoit.launch.detect()` is what a rank asks.
    """

    name: str
    mpi: bool
    commands: Callable[[int, Sequence[str]], list[Command]]


@dataclass(frozen=True)
class Outcome:
    """What rank 0 said, and why the launch failed, or nothing. words: the end of its stderr."""

    records: tuple[Record, ...]
    failure: str = ""
    words: str = ""


def start(
    launcher: Launcher, ranks: int, plan: Plan, heard: Callable[[Record], None] = lambda _: None
) -> Outcome:
    """Runs the plan on so many ranks; `heard` gets every record as soon as rank 0 has said it.

    Whatever happens, Ctrl-C included, no process of the launch outlives the call.
    """
    with tempfile.TemporaryDirectory(prefix="quoit-bench-") as folder:
        results = Path(folder, "results")
        results.touch()
        program = ["-m", "quoit.bench.ranks", plan.written(), str(results)]
        with results.open() as said, Path(folder, "words").open("w+") as words:
            tail, failure = _Tail(said, heard), ""
            try:
                with _running(launcher.commands(ranks, program), words) as processes:
                    failure = _watch(processes, tail)
            except FileNotFoundError as error:
                failure = f"{error.filename} is not there"
            tail.read()
            words.seek(0)
            ends = words.read().splitlines()[-_LAST_WORDS:] if failure else []
            return Outcome(tuple(tail.records), failure, "\n".join(ends))


class _Tail:
    """The lines of a file that somebody else writes."""

    def __init__(self, file: IO[str], heard: Callable[[Record], None]) -> None:
        self.records: list[Record] = []
        self.last = time.monotonic()
        self._file, self._heard, self._part = file, heard, ""

    def read(self) -> None:
        *lines, self._part = (self._part + self._file.read()).split("\n")
        for line in lines:
            self.last = time.monotonic()
            self.records.append(json.loads(line))
            self._heard(self.records[-1])


def _watch(processes: Sequence[subprocess.Popen[bytes]], tail: _Tail) -> str:
    """Waits for all; returns what went wrong, or nothing."""
    while True:
        tail.read()
        codes = [process.poll() for process in processes]
        if failed := [code for code in codes if code]:
            return f"exit code {failed[0]}" if failed[0] > 0 else f"killed by signal {-failed[0]}"
        if None not in codes:
            return ""
        if time.monotonic() - tail.last > SILENCE_S:
            return f"nothing was heard for {SILENCE_S:.0f} s"
        time.sleep(_PAUSE_S)


@contextlib.contextmanager
def _running(
    commands: Sequence[Command], words: IO[str]
) -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    libc = ctypes.CDLL(None)

    def end_with_us() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # even if we are killed

    try:
        for command in commands:
            processes.append(
                subprocess.Popen(
                    command.arguments,
                    env=command.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=words,
                    stderr=words,
                    start_new_session=True,
                    preexec_fn=end_with_us,
                )
            )
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)  # every launcher ends its ranks then
        deadline = time.monotonic() + _GRACE_S
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        warden.sweep("", {process.pid for process in processes})
        for process in processes:
            process.wait(_GRACE_S)


def find_mpirun(family: str) -> str | None:
    """The family's mpirun: where QUOIT_TEST_<FAMILY> says, in ./.mpi, or on PATH."""
    asked = os.environ.get(f"QUOIT_TEST_{family.upper()}")
    for prefix in (*([Path(asked)] if asked else []), Path(".mpi", family)):
        if (program := prefix / "bin" / "mpirun").is_file():
            return str(program.absolute())
    if (found := shutil.which("mpirun")) is None:
        return None
    said = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60).stdout
    is_openmpi = "Open MPI" in said or "OpenRTE" in said
    return found if is_openmpi == (family == "openmpi") else None


def no_mpi(family: str) -> str:
    """Why mpi4py cannot be measured under the family's mpirun, or nothing."""
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is not installed"
    if find_mpirun(family) is None:
        return f"no mpirun of it at $QUOIT_TEST_{family.upper()}, in .mpi/{family} or on PATH"
    return ""


def environment(threads: int) -> dict[str, str]:
    """Of a rank: ours, without the traces of a launcher."""
    return {**without_launcher(os.environ), "OMP_NUM_THREADS": str(threads)}


def by_mpirun(family: str, threads: int) -> Launcher:
    """The family's mpirun on this host; nobody is bound to cores, whatever the family does."""
    mpirun = find_mpirun(family)
    if mpirun is None:
        raise ValueError(f"--launcher {family}: {no_mpi(family)}")

    def commands(ranks: int, program: Sequence[str]) -> list[Command]:
        # MPICH binds ranks to no core, and runs as root; Open MPI does as it does.
        root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        crowd = ["--oversubscribe"] if ranks > usable_cores() else []
        options = {"mpich": [], "openmpi": ["--bind-to", "none", *root, *crowd]}[family]
        line = (mpirun, *options, "-n", str(ranks), sys.executable, *program)
        return [Command(line, environment(threads))]

    return Launcher(FAMILIES[family], True, commands)


def by_quoit(threads: int) -> Launcher:
    """`quoit run` on this host."""

    def commands(ranks: int, program: Sequence[str]) -> list[Command]:
        line = (sys.executable, "-m", "quoit.cli", "run", "-n", str(ranks), *program)
        return [Command(line, environment(threads))]

    return Launcher(QUOIT_RUN, False, commands)
