"""The report of `quoit doctor` as people read it: what is the same for all ranks is said once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quoit.doctor_advice import FAMILIES, Advice, by_host, count, grouped, spelled
from quoit.doctor_findings import Cores, Findings, Measurement, RankFindings
from quoit.doctor_host_advice import threads_of
from quoit.doctor_show import Line, Section

_MOST = 8  # lines of what differs
_MARKS = {"problem": ("✗", "bold red"), "warning": ("!", "bold yellow"), "note": ("·", "cyan")}
_LAUNCHERS = {
    "mpich": "MPICH's mpirun",
    "openmpi": "Open MPI's mpirun",
    "slurm": "srun",
    "torchrun": "torchrun",
    "quoit": "quoit run",
    "env": "RANK and WORLD_SIZE in the environment",
}
_PLACEMENT = ("OMPI_", "PMI_", "PMIX_", "MPI_LOCAL", "SLURM_", "TORCHELASTIC_", "QUOIT_JOB")
_PLACEMENT_WHOLE = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}


def sections(found: Findings, advice: Sequence[Advice]) -> list[Section]:
    """The whole report; sections without lines are left out."""
    parts = [
        Section(_headline(found), tuple(_found(found))),
        Section("Between ranks", tuple(_between(found))),
        Section("Measured", tuple(_measured(found.measurement))),
        Section("Advice", tuple(_advice(found, advice))),
    ]
    return [part for part in parts if part.lines]


def _headline(found: Findings) -> str:
    hosts = by_host(found.ranks)
    first = found.ranks[0]
    if not first.launcher:
        return "quoit doctor on " + first.host
    if len(found.ranks) < first.size:
        return (
            f"quoit doctor: rank {first.rank} of {first.size} alone, on {first.host}, started by "
            f"{_LAUNCHERS[first.launcher]}"
        )
    where = first.host if len(hosts) == 1 else f"{len(hosts)} hosts"
    return (
        f"quoit doctor: {count(len(found.ranks), 'rank')} on {where}, started by "
        f"{_LAUNCHERS[first.launcher]}"
    )


def _found(found: Findings) -> list[Line]:
    hosts = by_host(found.ranks)
    lines = [
        *_per_rank(found, "quoit", _quoit),
        *_per_host(hosts, "torch", _torch),
        *_per_host(hosts, "CUDA", _cuda),
        *_per_rank(found, "MPI", _mpi),
        *_per_host(hosts, "cores", _cores),
        *_per_host(hosts, "memory", _memory),
        *_per_host(hosts, "network", _network),
        *_per_rank(found, "limits", _limits),
        *_per_rank(found, "set", _environment),
    ]
    return [line for line in lines if line.text]


def _per_rank(found: Findings, label: str, say: Callable[[RankFindings], str]) -> list[Line]:
    said = grouped((one.rank, say(one)) for one in found.ranks)
    if len(said) == 1:
        return [Line(label, said[0][0])]
    return _differing(label, [f"{spelled(ranks)}: {text or 'nothing'}" for text, ranks in said])


def _per_host(
    hosts: Sequence[Sequence[RankFindings]],
    label: str,
    say: Callable[[Sequence[RankFindings]], str],
) -> list[Line]:
    said = grouped((number, say(host)) for number, host in enumerate(hosts))
    if len(said) == 1:
        return [Line(label, said[0][0])]
    return _differing(
        label,
        [f"{', '.join(hosts[n][0].host for n in numbers[:4])}: {text}" for text, numbers in said],
    )


def _differing(label: str, texts: Sequence[str]) -> list[Line]:
    shown = list(texts[:_MOST]) + ([f"and {len(texts) - _MOST} more"] if len(texts) > _MOST else [])
    return [Line(label if number == 0 else "", text) for number, text in enumerate(shown)]


def _quoit(one: RankFindings) -> str:
    software = one.software
    if not software:
        return ""
    kernels = f"kernels for {software.kernels}"
    if not software.cuda:
        kernels += ", without CUDA"
    else:
        kernels += f" and {software.cuda}" + (
            f" (off: {software.no_cuda})"
            if software.no_cuda
            else f" (no CUDA IPC: {software.no_ipc})"
            if software.no_ipc
            else ", CUDA IPC between processes"
        )
    return f"{software.quoit}, {kernels}; Python {software.python}"


def _torch(host: Sequence[RankFindings]) -> str:
    asked = next((one.torch for one in host if one.torch), None)
    software = host[0].software
    if not asked:
        if not software or software.torch:
            return software.torch if software else ""
        return "not installed: quoit.Communicator works on NumPy arrays"
    if asked.module:
        built = "quoit's module is built for it"
    elif asked.problem:
        built = "quoit's module cannot be built"
    else:
        built = "quoit's module will be built at first use"
    threads = sorted(set(threads_of(host)))
    number = str(threads[0]) if len(threads) == 1 else f"{threads[0]} to {threads[-1]}"
    each = " in each rank" if len(host) > 1 else ""
    return f"{asked.version}, {built}; {number} thread{'' if threads == [1] else 's'}{each}"


def _cuda(host: Sequence[RankFindings]) -> str:
    asked, driver = next((one.torch for one in host if one.torch), None), host[0].driver
    if not asked or not asked.cuda:
        return f"driver {driver}, but torch is a CPU build" if driver else "none"
    gpus = ", ".join(f"{len(ranks)} × {gpu}" for gpu, ranks in grouped(enumerate(asked.gpus)))
    if asked.peers:
        count = sum(asked.peers)
        among = "all" if all(asked.peers) else f"{count} of {len(asked.peers)}" if count else "no"
        gpus += f" (P2P between {among} pairs)"
    nccl = f"NCCL {asked.nccl}" if asked.nccl else "no NCCL"
    return f"{asked.cuda}, {gpus or 'no GPU'}, {nccl}" + (f", driver {driver}" if driver else "")


def _mpi(one: RankFindings) -> str:
    mpi, parts = one.mpi, []
    if mpi and mpi.used:
        source = "loaded already" if mpi.used in mpi.loaded else "the launcher's"
        if mpi.used != mpi.beside_launcher and not mpi.loaded:
            source = "from QUOIT_MPI_LIBRARY"
        parts.append(f"{mpi.version}, {source}: {mpi.used}")
    elif mpi and one.launcher in ("mpich", "openmpi"):
        parts.append("the launcher's library was not found")
    elif mpi and mpi.on_path:
        parts.append(
            "on PATH: "
            + ", ".join(
                f"{FAMILIES.get(each.family, 'some MPI')} ({each.mpirun})" for each in mpi.on_path
            )
        )
    elif mpi:
        parts.append("none on PATH" + (", none needed" if one.tcp or _one_host(one) else ""))
    if one.software and one.software.mpi4py:
        parts.append(f"mpi4py {one.software.mpi4py}")
    return "; ".join(parts)


def _one_host(one: RankFindings) -> bool:
    return one.size in (1, one.local_size)


def _cores(host: Sequence[RankFindings]) -> str:
    known = [one.cores for one in host if one.cores]
    if not known:
        return ""
    first = known[0]
    bound = grouped(enumerate(cores.bound for cores in known))
    text = count(first.present, "core")
    if first.quota is not None:
        text += f", time for {first.quota:g} of them (control group)"
    if all(len(cores.bound) >= cores.allowed for cores in known):
        text += ", ranks not bound" if host[0].launcher else ""
    elif len(bound) == 1:
        text += f", bound to {_numbers(first)}"
    else:
        shown = " | ".join(_numbers(cores) for cores in known[:8])
        text += f", ranks bound to {shown}" + (" | …" if len(known) > 8 else "")
    return text


def _numbers(cores: Cores) -> str:
    return spelled(cores.bound).removeprefix("ranks ").removeprefix("rank ")


def _memory(host: Sequence[RankFindings]) -> str:
    memory, process = host[0].memory, host[0].process
    if not memory:
        return ""
    text = f"{_size(memory.available)} available; /dev/shm {_size(memory.shm_total)}"
    if memory.memfd:
        return text + "; no shared memory without a name"
    if process and process.ptrace_scope:
        text += f"; ptrace_scope {process.ptrace_scope}"
    return text


def _network(host: Sequence[RankFindings]) -> str:
    network = host[0].network
    if not network:
        return ""
    used = [one for one in network.addresses if one.usable]
    unused = [one for one in network.addresses if not one.usable and "QUOIT_IFACE" in one.why]
    parts = []
    if network.problem:
        parts.append("QUOIT_IFACE is wrong")
    elif used:
        first, *others = used
        text = f"{first.interface} {first.address} ({first.why})"
        parts.append(", ".join([text, *(f"{one.interface} {one.address}" for one in others[:6])]))
    else:
        parts.append("loopback only" if not unused else "no interface is left")
    if unused and not network.problem:
        names = dict.fromkeys(one.interface for one in unused)
        parts.append("left out by QUOIT_IFACE: " + ", ".join(list(names)[:6]))
    parts.append(f"{network.name} is {', '.join(network.resolves_to[:3]) or 'not resolved'}")
    parts.append(f"ports {network.ports}")
    return "; ".join(parts)


def _limits(one: RankFindings) -> str:
    limits = one.limits
    if not limits:
        return ""
    return (
        f"open files {_limit(limits.open_files)}, processes {_limit(limits.processes)}, locked "
        f"memory {_limit(limits.locked_memory, _size)}, core file {_limit(limits.core_file, _size)}"
    )


def _limit(value: int, say: Callable[[int], str] = str) -> str:
    return "unlimited" if value < 0 else say(value)


def _environment(one: RankFindings) -> str:
    """Without what only places a rank, which launchers set and the headline says."""
    shown = {
        name: value
        for name, value in one.environment.items()
        if name not in _PLACEMENT_WHOLE and not name.startswith(_PLACEMENT)
    }
    return "  ".join(f"{name}={_short(value)}" for name, value in shown.items())


def _short(value: str, most: int = 60) -> str:
    return value if len(value) <= most else value[: most - 1] + "…"


def _between(found: Findings) -> list[Line]:
    if not found.peers or len(found.ranks) < 2:
        return []
    hosts = by_host(found.ranks)
    expected = "" if found.measured else " (expected: no group was made)"
    kinds = {route for one in found.peers for route in one.routes} - {"self"}
    if len(kinds) == 1:
        return [Line(kinds.pop(), f"every pair of ranks{expected}")]
    if len(hosts) > 8:
        return [Line(kind, _pairs(found, kind) + expected) for kind in sorted(kinds)]
    names = [f"{host[0].host} ({spelled([one.rank for one in host])})" for host in hosts]
    width = max(5, *(len(name) for name in names))
    rows = [Line("", "".join(f"{name:<{width + 2}}" for name in names))]
    for host, name in zip(hosts, names, strict=True):
        cells = [_route(found, host, other) for other in hosts]
        rows.append(Line(name, "".join(f"{cell:<{width + 2}}" for cell in cells)))
    return rows + ([Line("", expected.strip())] if expected else [])


def _route(found: Findings, a: Sequence[RankFindings], b: Sequence[RankFindings]) -> str:
    """What joins two hosts, or the ranks of one."""
    routes = {found.peers[one.rank].routes[other.rank] for one in a for other in b}
    return "/".join(sorted(routes - {"self"})) or "–"


def _pairs(found: Findings, kind: str) -> str:
    number = sum(one.routes.count(kind) for one in found.peers) // 2
    return f"{number} pairs of ranks"


def _measured(measured: Measurement | None) -> list[Line]:
    if not measured:
        return []
    who = f"{measured.ranks} ranks" + (" that it started itself" if measured.started else "")
    over = "/".join(sorted(set(measured.routes) - {"self"}))
    large = _size(measured.large_bytes)
    return [
        Line(
            "all_reduce",
            f"4 B {_time(measured.small_us)}; {large} {_time(measured.large_us)}"
            f"  ({who}, {over}, float32, medians)",
        ),
        Line(
            "memcpy",
            f"{large} {_time(measured.memcpy_us)} on all ranks at once; the all_reduce "
            f"takes {measured.large_us / measured.memcpy_us:.1f} times as long",
        ),
        *([Line("CUDA memory", _of_devices(measured))] if measured.device_route else []),
    ]


def _of_devices(measured: Measurement) -> str:
    if measured.device_route == "mpi":
        return "MPI is given what NCCL does not serve"
    return (
        "what NCCL does not serve goes through the host: a rank's MPI does not say that it takes "
        "memory of CUDA devices, or QUOIT_MPI_CUDA is off"
    )


def _advice(found: Findings, advice: Sequence[Advice]) -> list[Line]:
    if not advice:
        return [Line("✓", "nothing to improve was found", "bold green")]
    lines = []
    for one in advice:
        mark, style = _MARKS[one.level]
        named = one.ranks and 0 < len(one.ranks) < len(found.ranks)
        lines.append(Line(mark, f"{spelled(one.ranks)}: {one.what}" if named else one.what, style))
        if one.do:
            lines.append(Line("", f"→ {one.do}"))
    return lines


def _size(number: int) -> str:
    value, units = float(number), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return (
        f"{value:.0f} {units[0]}"
        if value >= 10 or value.is_integer()
        else f"{value:.1f} {units[0]}"
    )


def _time(us: float) -> str:
    if us < 100:
        return f"{us:.1f} µs"
    return f"{us:.0f} µs" if us < 1000 else f"{us / 1000:.1f} ms"
