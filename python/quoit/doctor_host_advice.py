"""What the findings of `quoit doctor` mean for hosts: cores, memory, limits, speed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from quoit.doctor_advice import Advice, by_host, count, grouped, spelled
from quoit.doctor_findings import Cores, Findings, RankFindings

_MIB = 1 << 20


def closed_memory(found: Findings) -> Iterator[Advice]:
    for one in found.peers:
        for other, why in one.closed.items():
            a, b = found.ranks[one.rank].process, found.ranks[int(other)].process
            users = a is not None and b is not None and a.uid != b.uid
            yield Advice(
                "problem",
                (one.rank, int(other)),
                f"they are on one host but rank {one.rank} cannot open rank {other}'s memory "
                f"({why})",
                "run all ranks as one user"
                if users
                else "give the container the right to look at its own processes "
                "(seccomp or AppArmor profile, hidepid of /proc), or do without shared memory: "
                f"QUOIT_TRANSPORT={'tcp' if found.ranks[0].tcp else 'mpi'}",
            )
            return  # one such pair explains the others


def no_memfd(found: Findings) -> Iterator[Advice]:
    for why, ranks in grouped((one.rank, one.memory.memfd) for one in found.ranks if one.memory):
        if why:
            yield Advice(
                "problem",
                ranks,
                f"shared memory without a name cannot be made (memfd_create: {why})",
                "allow memfd_create in the container's seccomp profile; Linux 3.17 or later has it",
            )


def split_host(found: Findings) -> Iterator[Advice]:
    """One machine, several containers: memory is not shared, and nobody told the user."""
    groups = by_host(found.ranks)
    for i, group in enumerate(groups):
        for other in groups[i + 1 :]:
            a, b = group[0], other[0]
            if not a.process or not b.process or a.process.boot != b.process.boot:
                continue
            apart = (
                f"their host names differ ({a.host}, {b.host})"
                if a.host != b.host
                else "they do not see each other's processes"
            )
            yield Advice(
                "warning",
                tuple(one.rank for one in (*group, *other)),
                f"one machine, but no shared memory between all its ranks: {apart}",
                "unset QUOIT_HOST"
                if "QUOIT_HOST" in a.environment
                else "start all ranks of a machine in one container, or let its containers share "
                "host name and processes (docker run --uts --pid)",
            )
            return


def starved_cores(found: Findings) -> Iterator[Advice]:
    """Ranks that were bound to fewer cores than their share; torch then has as few threads."""
    for host in by_host(found.ranks):
        known = [(one, one.cores) for one in host if one.cores and one.launcher]
        ranks = []
        for one, cores in known:
            fair = cores.allowed // max(1, one.local_size or len(host))
            if len(cores.bound) < max(1, fair):
                ranks.append((one, cores, fair))
        if not ranks:
            continue
        one, cores, fair = ranks[0]
        flags = {
            "openmpi": f"mpirun --bind-to none, or --map-by slot:PE={fair}",
            "mpich": f"mpirun -bind-to none, or -bind-to core:{fair}",
            "slurm": f"srun --cpus-per-task={fair} (and --cpu-bind=none)",
        }
        why = ", as Open MPI does by default," if one.launcher == "openmpi" else ""
        number = one.local_size or len(host)
        yield Advice(
            "warning",
            tuple(rank.rank for rank, _, _ in ranks),
            f"bound{why} to {count(len(cores.bound), 'core')}{' each' if number > 1 else ''}, "
            f"though {cores.allowed} are there for {count(number, 'rank')}: torch computes with "
            f"{count(len(cores.bound), 'thread')}",
            flags.get(one.launcher, "let the launcher bind ranks to more cores, or to none"),
        )


def shared_cores(found: Findings) -> Iterator[Advice]:
    """More ranks than cores, by their number or because they were bound to the same ones."""
    for host in by_host(found.ranks):
        known = [one.cores for one in host if one.cores]
        if not known or len(host) <= (usable := usable_of_host(known)):
            continue
        union = {core for cores in known for core in cores.bound}
        allowed = max(cores.allowed for cores in known)
        pile = len(union) < min(len(host), allowed)
        yield Advice(
            "warning",
            tuple(one.rank for one in host),
            f"{len(host)} ranks share {count(usable, 'core')}; they "
            "take turns, and every wait costs a turn",
            "mpirun --bind-to none: the ranks are bound to the same cores, others are idle"
            if pile
            else "start no more ranks than cores",
        )


def too_many_threads(found: Findings) -> Iterator[Advice]:
    for host in by_host(found.ranks):
        known = [(one, one.cores) for one in host if one.cores]
        if not known or not any(one.software and one.software.torch for one in host):
            continue
        usable = usable_of_host([cores for _, cores in known])
        threads = sum(threads_of(host))
        if threads <= usable or len(host) > usable:
            continue  # more ranks than cores has its own advice
        fair = max(1, usable // len(host))
        set_to = known[0][0].environment.get("OMP_NUM_THREADS")
        yield Advice(
            "warning",
            tuple(one.rank for one, _ in known),
            f"{threads} threads of torch on {count(usable, 'core')} "
            + (f"(OMP_NUM_THREADS={set_to})" if set_to else "(OMP_NUM_THREADS is not set)")
            + ": they take cores from each other and from communication",
            f"export OMP_NUM_THREADS={fair} (`quoit run` does so by itself)",
        )


def slow_ranks(found: Findings) -> Iterator[Advice]:
    measured = found.measurement
    if not measured or len(measured.memcpy_by_rank) < 2:
        return
    times = sorted(measured.memcpy_by_rank)
    typical = times[(len(times) - 1) // 2]
    slow = [rank for rank, us in enumerate(measured.memcpy_by_rank) if us > 2.5 * typical]
    if slow:
        worst = max(measured.memcpy_by_rank)
        yield Advice(
            "warning",
            () if measured.started else tuple(slow),
            f"memory is copied {worst / typical:.1f} times slower by {spelled(slow)} than by "
            "others, and all wait for it",
            "look for other programs on those cores (top), and for memory of another NUMA node",
        )


def slow_small(found: Findings) -> Iterator[Advice]:
    measured = found.measurement
    if measured and set(measured.routes) <= {"self", "shm"} and measured.small_us > 200:
        yield Advice(
            "warning",
            (),
            f"4 bytes take {measured.small_us:.0f} µs through shared memory, where 10 are usual: "
            "ranks wait for a core",
            "give each rank a core of its own, and end what else runs there",
        )


def few_files(found: Findings) -> Iterator[Advice]:
    need = 256 + 8 * len(found.ranks)
    for allowed, ranks in grouped(
        (one.rank, one.limits.open_files) for one in found.ranks if one.limits
    ):
        if 0 <= allowed < need:
            yield Advice(
                "warning",
                ranks,
                f"only {allowed} open files are allowed; {count(len(found.ranks), 'rank')} and "
                f"torch may need {need}",
                f"ulimit -n {max(4096, need)}",
            )


def few_ports(found: Findings) -> Iterator[Advice]:
    for host in by_host(found.ranks):
        network = host[0].network
        ends = re.fullmatch(r"(\d+)-(\d+)", network.ports if network else "")
        there = int(ends[2]) - int(ends[1]) + 1 if ends else len(host)
        if ends and there < len(host):
            yield Advice(
                "problem",
                tuple(one.rank for one in host),
                f"ports {ends[0]} are {max(0, there)}, and {len(host)} ranks of a host listen",
                "give QUOIT_PORTS a wider range, and open it in the firewall",
            )


def small_shm(found: Findings) -> Iterator[Advice]:
    for host in by_host(found.ranks):
        memory = host[0].memory
        if memory and memory.shm_total < 256 * _MIB:
            yield Advice(
                "note",
                tuple(one.rank for one in host),
                f"/dev/shm has {memory.shm_total // _MIB} MiB. Quoit does not use it, but torch's "
                "DataLoader workers and MPI do, and die of a bus error when it is full",
                "docker run --shm-size=8g, or --ipc=host (Kubernetes: an emptyDir of medium "
                "Memory at /dev/shm)",
            )


def usable_of_host(known: Sequence[Cores]) -> int:
    """Cores that ranks bound like this can use together; at least 1."""
    union = {core for cores in known for core in cores.bound}
    quotas = [cores.quota for cores in known if cores.quota is not None]
    return max(1, int(min([len(union), *quotas])))


def threads_of(host: Sequence[RankFindings]) -> list[int]:
    """Threads with which torch computes, in each rank of a host; one rank has asked torch."""
    asked = next((one.torch.threads for one in host if one.torch), None)
    threads = []
    for one in host:
        said = one.environment.get("OMP_NUM_THREADS", "").split(",")[0]
        if said.isdigit() and int(said) > 0:
            threads.append(int(said))
        else:
            threads.append(asked or (len(one.cores.bound) if one.cores else 1))
    return threads


TRAPS = (
    *(closed_memory, no_memfd, split_host, starved_cores, shared_cores, too_many_threads),
    *(slow_ranks, slow_small, few_files, few_ports, small_shm),
)
