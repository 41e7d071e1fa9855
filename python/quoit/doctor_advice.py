"""What the findings of `quoit doctor` mean for a job: one pure function for each trap.

doctor_host_advice.py has the traps of hosts.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from quoit.doctor_findings import Findings, RankFindings

T = TypeVar("T", bound=Hashable)

# Those of docs/environment.md, which a test compares.
VARIABLES = (
    *("QUOIT_ALGORITHM", "QUOIT_CACHE", "QUOIT_HOST", "QUOIT_IFACE", "QUOIT_JOB", "QUOIT_LOG"),
    *("QUOIT_MPI_LIBRARY", "QUOIT_PORTS", "QUOIT_STREAMS", "QUOIT_TIMEOUT_S", "QUOIT_TRANSPORT"),
    *("QUOIT_CODEC_BLOCKS", "QUOIT_CUDA_DRIVER", "QUOIT_IPC", "QUOIT_NCCL"),
    *("QUOIT_SINGLE_COPY", "QUOIT_TUNING"),
    "QUOIT_MPI_CUDA",
)
FAMILIES = {"mpich": "MPICH", "openmpi": "Open MPI"}


@dataclass(frozen=True)
class Advice:
    """problem: something will fail; warning: it will be slow or surprise; note: good to know.

    ranks: whom it concerns, () for all. what: the finding; do: the cure, "" when there is none.
    """

    level: Literal["problem", "warning", "note"]
    ranks: tuple[int, ...]
    what: str
    do: str


def by_host(ranks: Sequence[RankFindings]) -> list[list[RankFindings]]:
    """The ranks that can share memory, as groups."""
    groups: dict[str, list[RankFindings]] = {}
    for one in ranks:
        groups.setdefault(one.identity or f"rank {one.rank}", []).append(one)
    return list(groups.values())


def spelled(ranks: Sequence[int]) -> str:
    """As in "ranks 0-2, 5"."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    words = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(words)}"


def grouped(said: Iterable[tuple[int, T]]) -> list[tuple[T, tuple[int, ...]]]:
    """(rank, value) pairs as (value, its ranks), in the order of first mention."""
    ranks: dict[T, list[int]] = {}
    for rank, value in said:
        ranks.setdefault(value, []).append(rank)
    return [(value, tuple(its)) for value, its in ranks.items()]


def count(number: int, noun: str) -> str:
    """As in "1 core", "2 cores"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def broken_launch(found: Findings) -> Iterator[Advice]:
    for one in found.ranks:
        if one.launch_problem:
            yield Advice("problem", (one.rank,), one.launch_problem, "")


def failed_together(found: Findings) -> Iterator[Advice]:
    for failure in found.failures:
        yield Advice("problem", (), f"{failure.probe}: {failure.why}", "")


def failed_probes(found: Findings) -> Iterator[Advice]:
    for (probe, why), ranks in grouped(
        (one.rank, (failure.probe, failure.why)) for one in found.ranks for failure in one.failures
    ):
        yield Advice("warning", ranks, f"{probe} could not be examined: {why}", "")


def unreachable_ranks(found: Findings) -> Iterator[Advice]:
    pairs = [(one.rank, other) for one in found.peers for other, to in enumerate(one.routes)
             if to == "none"]  # fmt: skip
    if pairs and not found.failures:
        a, b = pairs[0]
        yield Advice(
            "problem",
            tuple(sorted({rank for pair in pairs for rank in pair})),
            f"nothing joins these hosts: {_at(found, a)} and {_at(found, b)} share no memory, and "
            "there is no MPI library of the launcher",
            "start the program with mpirun, or set QUOIT_MPI_LIBRARY to the launcher's libmpi",
        )


def wrong_mpi(found: Findings) -> Iterator[Advice]:
    for problem, ranks in grouped((one.rank, one.mpi.problem) for one in found.ranks if one.mpi):
        if problem:
            yield Advice("problem", ranks, problem, "")


def foreign_mpi4py(found: Findings) -> Iterator[Advice]:
    def wrong(one: RankFindings) -> tuple[str, str] | None:
        family = one.software.mpi4py_family if one.software else ""
        if family and one.launcher in FAMILIES and family != one.launcher:
            return FAMILIES[family], FAMILIES[one.launcher]
        return None

    for pair, ranks in grouped((one.rank, wrong(one)) for one in found.ranks):
        if pair:
            yield Advice(
                "warning",
                ranks,
                f"mpi4py is built for {pair[0]}, and {pair[1]}'s mpirun started the ranks: a "
                "program that imports mpi4py sees ranks that are alone",
                f"use {pair[0]}'s mpirun, or an mpi4py for {pair[1]} (4.1 and later take any MPI)",
            )


def unlike_ranks(found: Findings) -> Iterator[Advice]:
    """Software that is not the same everywhere; the smaller camp is named."""
    for what, of in _COMPARED:
        camps = grouped((one.rank, of(one)) for one in found.ranks if one.software)
        camps.sort(key=lambda camp: -len(camp[1]))
        for version, ranks in camps[1:]:
            yield Advice(
                "problem" if what == "quoit" else "warning",
                ranks,
                f"{what} differs: {version or 'none'} here, {camps[0][0] or 'none'} on "
                f"{spelled(camps[0][1])}",
                "install the same on all hosts",
            )


def torchcomms(found: Findings) -> Iterator[Advice]:
    for value, ranks in _variable(found, "TORCH_DISTRIBUTED_USE_TORCHCOMMS"):
        if value not in ("", "0"):
            yield Advice(
                "problem",
                ranks,
                f'TORCH_DISTRIBUTED_USE_TORCHCOMMS={value}: torch hands every backend, "quoit" '
                "too, to torchcomms, which does not know it",
                "unset it",
            )


def loopback_name(found: Findings) -> Iterator[Advice]:
    """A host whose own name means 127.x or nothing: a trap for what asks for its address."""
    several = len(by_host(found.ranks)) > 1
    for host in by_host(found.ranks):
        network = host[0].network
        if not network or not all(map(_loopback, network.resolves_to)):
            continue
        elsewhere = [address for address in network.addresses if address.usable]
        if not elsewhere and not several:
            continue  # the host has no network: there is nobody to be misled
        better = elsewhere[0].interface if elsewhere else "the interface that joins the hosts"
        means = ", ".join(network.resolves_to)
        yield Advice(
            "warning" if several else "note",
            tuple(one.rank for one in host),
            f"the host's own name {f'resolves to {means} only' if means else 'does not resolve'}: "
            "quoit asks the interfaces instead, but gloo and MASTER_ADDR would be misled",
            "give that name its real address in /etc/hosts; for gloo, set "
            f"GLOO_SOCKET_IFNAME={better}",
        )


def names_of_others(found: Findings) -> Iterator[Advice]:
    """Other hosts' names that resolve to this host: MPI and torchrun then talk to themselves."""
    for one in found.peers:
        network = found.ranks[one.rank].network
        own = network.name if network else ""
        wrong = {name: to for name, to in one.names.items() if name != own and _loopback(to)}
        if wrong:
            names = ", ".join(f"{name} to {to}" for name, to in list(wrong.items())[:3])
            yield Advice(
                "problem",
                (one.rank,),
                f"on {own} the names of other hosts resolve to itself ({names})",
                "correct /etc/hosts there: 127.0.1.1 belongs to no name that others use",
            )
            return


def no_interface(found: Findings) -> Iterator[Advice]:
    several = len(by_host(found.ranks)) > 1
    for one in found.ranks:
        network = one.network
        if network and network.problem:
            yield Advice("problem", (one.rank,), network.problem, "")
        elif network and several and not any(address.usable for address in network.addresses):
            asked = one.environment.get("QUOIT_IFACE", "")
            yield Advice(
                "problem",
                (one.rank,),
                f"{network.name} has no address that another host can reach"
                + (f" (QUOIT_IFACE={asked})" if asked else ""),
                "check `ip address`" + (" and QUOIT_IFACE" if asked else ""),
            )


def torch_module(found: Findings) -> Iterator[Advice]:
    for one in found.ranks:
        if one.torch is None or one.torch.module:
            continue
        if one.torch.problem:
            yield Advice("problem", (one.rank,), one.torch.problem, "")
        else:
            yield Advice(
                "note",
                (one.rank,),
                f"quoit's torch module is not built for torch {one.torch.version} yet: the first "
                f"program that uses it waits about 40 s for {one.torch.compiler}",
                'build it now: python -c "import torch, quoit._build as b; b.load_c10d()"',
            )


def unknown_variable(found: Findings) -> Iterator[Advice]:
    names = {
        name
        for one in found.ranks
        for name in one.environment
        if name.startswith("QUOIT_") and name not in VARIABLES
    }
    for name in sorted(names):
        if name.startswith("QUOIT_TEST_"):
            continue
        alike = difflib.get_close_matches(name, VARIABLES, 1)
        yield Advice(
            "warning",
            (),
            f"{name} is set, and quoit has no such variable",
            f"did you mean {alike[0]}?" if alike else "unset it",
        )


def _at(found: Findings, rank: int) -> str:
    return f"rank {rank} on {found.ranks[rank].host}"


def _variable(found: Findings, name: str) -> list[tuple[str, tuple[int, ...]]]:
    return grouped((one.rank, one.environment.get(name, "")) for one in found.ranks)


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _of_software(name: str) -> Callable[[RankFindings], str]:
    return lambda one: str(getattr(one.software, name)) if one.software else ""


_COMPARED: tuple[tuple[str, Callable[[RankFindings], str]], ...] = (
    ("quoit", _of_software("quoit")),
    ("torch", _of_software("torch")),
    ("Python", _of_software("python")),
    ("NumPy", _of_software("numpy")),
    ("MPI", lambda one: one.mpi.version if one.mpi else ""),
    ("QUOIT_TRANSPORT", lambda one: one.transport),
)

TRAPS = (
    *(broken_launch, failed_together, unreachable_ranks, wrong_mpi, names_of_others, no_interface),
    *(torchcomms, torch_module, unlike_ranks, foreign_mpi4py, loopback_name, unknown_variable),
    failed_probes,
)
