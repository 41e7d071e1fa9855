"""The same cases in every world: ranks as threads, as processes, and under both mpiruns.

A case is a function of a group that raises when something is wrong. Ranks that are processes play
many cases to a launch (stage.py is their program). Each case gets a group of its own, so that one
that fails takes no other with it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

import mpirun
import stage
from quoit import Communicator
from quoit.cluster import Cluster
from quoit.launch import without_launcher

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

_STAGE = str(Path(stage.__file__))
_CLUSTER = str(Path(__file__).with_name("cluster_launch.py"))
_GRACE_S = 5.0  # for a launch whose time is over, and for processes that are about to end
_MARK = "QUOIT_TEST_LAUNCH"
_WITHOUT_TORCH = {"cases"}  # modules whose ranks can do without it
_LAUNCHERS = {
    "processes": "-m quoit.cli run -n {size}",
    "torchrun": "-m torch.distributed.run --standalone --nproc-per-node {size}",
    "spawn-file": "",
    "spawn-tcp": "",
}


@dataclass(frozen=True)
class World:
    """Where ranks live.

    kind: "threads", "processes" (`quoit run`), "torchrun", "mpich", "openmpi", "spawn-file" and
        "spawn-tcp" (torch.multiprocessing, and how the ranks meet), or "cluster-" and "torchrun",
        "mpich" or "openmpi" (that launcher on hosts that are network namespaces).
    hosts: a letter for each rank. Ranks with the same letter share memory; the others exchange
        messages: under an mpirun by MPI, as threads over loopback, else over TCP. In a cluster the
        ranks of a host follow each other.
    transport: what QUOIT_TRANSPORT says.
    """

    kind: str
    hosts: str
    algorithm: str = "auto"
    transport: str = "auto"

    def __str__(self) -> str:
        choices = [choice for choice in (self.algorithm, self.transport) if choice != "auto"]
        return "-".join([self.kind, self.hosts, *choices])

    @property
    def size(self) -> int:
        return len(self.hosts)

    @property
    def marks(self) -> list[pytest.MarkDecorator]:
        """What pytest must know of the world's tests."""
        return [NEEDS_CLUSTER] if self.kind.startswith("cluster") else []


NEEDS_CLUSTER = pytest.mark.skipif(bool(Cluster.missing()), reason=Cluster.missing())


def played(
    module: ModuleType,
    worlds: Sequence[World],
    slow_worlds: Sequence[World] = (),
    slow_cases: Collection[str] = (),
) -> list[ParameterSet]:
    """Parameters of a test, (world, "MODULE.CASE"): all module.CASES in all worlds.

    But for what is @of_several ranks in worlds of one.
    """
    return [
        pytest.param(
            world,
            f"{module.__name__}.{name}",
            id=f"{world}-{name}",
            marks=[
                *world.marks,
                *([pytest.mark.slow] if world in slow_worlds or name in slow_cases else []),
            ],
        )
        for world in (*worlds, *slow_worlds)
        for name, case in module.CASES.items()
        if world.size > 1 or "of_several" not in vars(case)
    ]


def run_threads(world: World, case: Callable[[Communicator], None]) -> str:
    """Plays one case on ranks that are threads; returns what went wrong, or nothing."""
    said = [f"rank {rank} did not end\n" for rank in range(world.size)]

    def be(rank: int, comm: Communicator) -> None:
        try:
            with stage.left_or_aborted(comm, rank):
                case(comm)
            said[rank] = ""
        except (Exception, pytest.fail.Exception):
            said[rank] = f"rank {rank}: {traceback.format_exc()}"

    options = {
        "algorithm": world.algorithm,
        "transport": world.transport,
        "interfaces": "lo",
        "timeout": stage.CASE_S,
    }
    group = Communicator.threads(world.hosts, **options)
    ranks = [threading.Thread(target=be, args=pair, daemon=True) for pair in enumerate(group)]
    for thread in ranks:
        thread.start()
    deadline = time.monotonic() + stage.CASE_S + _GRACE_S
    for thread in ranks:
        thread.join(max(0.0, deadline - time.monotonic()))
    return "".join(said)


def run_launched(
    world: World, module: str, cases: Sequence[str], folder: Path, deadline_s: float = 120.0
) -> dict[str, str]:
    """Plays cases of `module` in one launch; returns what went wrong, or nothing, in each.

    folder: an empty one, for this launch alone. After `deadline_s` the launch is ended, and the
    cases that did not get their turn count as failed. No process outlives the call.
    """
    job = stage.Job(
        module=module,
        torch=module not in _WITHOUT_TORCH,
        kind=world.kind,
        hosts=world.hosts,
        algorithm=world.algorithm,
        transport=world.transport,
        cases=tuple(cases),
        folder=str(folder),
        deadline_s=deadline_s,
    )
    with launched(world, [_STAGE, job.written()]) as process:
        try:
            out, err = process.communicate(timeout=deadline_s + _GRACE_S)
        except subprocess.TimeoutExpired:
            out, err = mpirun.end(process)
    wrong = stage.reports(job)
    if process.returncode != 0 and not any(wrong.values()):
        wrong[cases[-1]] = f"the case went well, but then the exit code was {process.returncode}\n"
    words = f"--- what the ranks wrote:\n{out}{err}"
    return {case: report and f"{world}, {case}\n{report}{words}" for case, report in wrong.items()}


@contextlib.contextmanager
def launched(
    world: World, arguments: Sequence[str], env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Ranks that run `python ARGUMENTS...`; env is added to the environment.

    On leaving, all their processes must have ended or be about to: those that are not are killed,
    and named in an AssertionError.
    """
    mark = secrets.token_hex(8)
    env = {"OMP_NUM_THREADS": "1", **(env or {}), _MARK: mark}
    process = _start(world, arguments, env)
    try:
        yield process
    finally:
        if process.poll() is None:
            mpirun.end(process)
        left = end_all(mark)
    assert not left, f"processes were left behind: {left}"


def marked(mark: str) -> dict[str, str]:
    """An addition to the environment by which end_all() finds a process and its descendants."""
    return {_MARK: mark}


def end_all(mark: str, patience_s: float = _GRACE_S) -> list[str]:
    """Kills the processes with this mark that do not end by themselves; returns their commands."""
    deadline = time.monotonic() + patience_s
    while (pids := _with_mark(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    commands = []
    for pid in pids:
        with contextlib.suppress(OSError):  # it ended meanwhile
            commands.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:200])
            os.kill(pid, signal.SIGKILL)
    return commands


def _with_mark(mark: str) -> list[int]:
    tag = f"{_MARK}={mark}".encode()
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
            if tag in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                found.append(int(entry))
    return found


def _start(world: World, arguments: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[str]:
    if world.kind in mpirun.FAMILIES:
        return mpirun.start(world.kind, world.size, [sys.executable, *arguments], env)
    if world.kind.startswith("cluster-"):
        ranks = [str(len(list(host))) for _, host in itertools.groupby(world.hosts)]
        launcher = f"{_CLUSTER} {world.kind.removeprefix('cluster-')} {','.join(ranks)}"
    else:
        launcher = _LAUNCHERS[world.kind].format(size=world.size)
    return subprocess.Popen(
        [sys.executable, *launcher.split(), *arguments],
        env={**without_launcher(os.environ), **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
