"""A rank of a launched world: plays cases, one after the other, and reports on each.

Run as a program, with a Job as its argument; see worlds.py for the other side.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import itertools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

CASE_S = 20.0  # the longest that any operation of a case may take


@dataclass(frozen=True)
class Job:
    """What a rank is to do.

    module: where the cases are; see Module. torch: whether they need it. kind: the World's. hosts:
        a letter for each rank; equal letters share memory. deadline_s: for all cases together.
    """

    module: str
    torch: bool
    kind: str
    hosts: str
    algorithm: str
    transport: str
    cases: tuple[str, ...]
    folder: str
    deadline_s: float

    def written(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Job:
        fields = json.loads(text)
        return cls(**{**fields, "cases": tuple(fields["cases"])})

    @property
    def size(self) -> int:
        return len(self.hosts)

    def route(self, rank: int, peer: int) -> str:
        """Which transport must go between these ranks, as Communicator.route() names it."""
        if rank == peer:
            return "self"
        if self.transport in ("auto", "shm+tcp") and self.hosts[rank] == self.hosts[peer]:
            return "shm"
        under_mpi = self.kind.endswith(("mpich", "openmpi"))
        return "mpi" if under_mpi and self.transport == "auto" else "tcp"

    def report_of(self, rank: int) -> Path:
        return Path(self.folder) / f"{rank}.jsonl"


class Module(Protocol):
    """A module of cases: functions of a group that raise when something is wrong."""

    CASES: dict[str, Callable[[Any], None]]

    def group(self, job: Job, rank: int, number: int) -> contextlib.AbstractContextManager[Any]:
        """The group for the case with that number; on leaving it is closed, or aborted."""


def of_several(case: Callable[[Any], None]) -> Callable[[Any], None]:
    """Marks a case in which a rank alone would do nothing: worlds.played() leaves it out there."""
    vars(case)["of_several"] = True
    return case


def play(job: Job, rank: int) -> None:
    """Plays the job's cases as this rank."""
    if job.kind.startswith("cluster"):
        os.environ["QUOIT_IFACE"] = "eth0"  # and the host is one, with a name of its own
    else:
        os.environ["QUOIT_HOST"] = job.hosts[rank]
        os.environ["QUOIT_IFACE"] = "lo"
    os.environ["QUOIT_TRANSPORT"] = job.transport
    module: Module = importlib.import_module(job.module)  # type: ignore[assignment]
    faulthandler.dump_traceback_later(job.deadline_s, exit=True)
    with open(job.report_of(rank), "w", buffering=1) as report:
        for number, name in enumerate(job.cases):
            report.write(json.dumps([name, None]) + "\n")
            try:
                with module.group(job, rank, number) as group:
                    module.CASES[name](group)
                said = ""
            except (Exception, pytest.fail.Exception):
                said = traceback.format_exc()
            report.write(json.dumps([name, said]) + "\n")
    faulthandler.cancel_dump_traceback_later()


def reports(job: Job) -> dict[str, str]:
    """What went wrong, or nothing, in each case, as the ranks reported."""
    said: dict[str, list[str]] = {case: ["it did not begin\n"] * job.size for case in job.cases}
    for rank in range(job.size):
        with contextlib.suppress(FileNotFoundError):
            for line in job.report_of(rank).read_text().splitlines():
                case, words = json.loads(line)
                said[case][rank] = "it did not end\n" if words is None else words
    return {
        case: "".join(f"rank {rank}: {words}" for rank, words in enumerate(ranks) if words)
        for case, ranks in said.items()
    }


@contextlib.contextmanager
def left_or_aborted(comm: Any, rank: int) -> Iterator[None]:
    """Leaves a quoit.Communicator; a rank that fails tells the others, which wait for it."""
    try:
        yield
    except BaseException as error:
        comm.abort(f"the case failed on rank {rank}: {error!r}")
        raise
    finally:
        comm.close()


def file_rendezvous(folder: Path, rank: int, size: int) -> Callable[[str], list[str]]:
    """For quoit.Communicator: ranks tell each other their texts in files."""
    rounds = itertools.count()

    def meet(text: str) -> list[str]:
        place = folder / str(next(rounds))
        place.mkdir(parents=True, exist_ok=True)
        draft = place / f"draft-{rank}"
        draft.write_text(text)
        draft.rename(place / str(rank))
        deadline = time.monotonic() + CASE_S
        while not all((place / str(other)).exists() for other in range(size)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"rank {rank} met only {sorted(os.listdir(place))} in {place}")
            time.sleep(0.001)
        return [(place / str(other)).read_text() for other in range(size)]

    return meet


def _spawned(rank: int, job: Job) -> None:
    play(job, rank)


def main() -> None:
    job = Job.read(sys.argv[1])
    if not job.torch:
        sys.modules["torch"] = None  # type: ignore[assignment]  # ranks start ten times as fast
    if job.kind.startswith("spawn"):
        multiprocessing = importlib.import_module("torch.multiprocessing")
        multiprocessing.spawn(_spawned, args=(job,), nprocs=job.size)
        return
    place = importlib.import_module("quoit.launch").detect()
    assert place is not None, "a launched rank has a launcher"
    play(job, place.rank)


if __name__ == "__main__":
    main()
