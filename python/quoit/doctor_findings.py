"""What `quoit doctor` finds, as plain data: it travels between ranks as JSON and is printed as it.

Findings hold no judgement (doctor_advice.py has that) and no layout (doctor_text.py). Sizes are in
bytes, times in microseconds. A part that could not be examined is None, and `failures` says why.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """A probe that did not work, and why."""

    probe: str
    why: str


@dataclass(frozen=True)
class Software:
    """Versions; "" where a package is not installed.

    kernels: instruction set of quoit's kernels. mpi4py_family: the MPI that mpi4py was built for,
    "" when it takes any. cuda: what the kernels for CUDA are built for, "" in a build without.
    no_cuda: why they have no device, "" when they have one. no_ipc: why processes cannot share the
    memory of one (CUDA IPC), "" when they can, or where there is none.
    """

    quoit: str
    place: str
    kernels: str
    python: str
    numpy: str
    torch: str
    mpi4py: str
    mpi4py_family: str
    cuda: str = ""
    no_cuda: str = ""
    no_ipc: str = ""


@dataclass(frozen=True)
class Torch:
    """What torch itself says, asked in a process of its own.

    threads: of its CPU operators. cuda: its version, "" in a CPU build. module: where quoit's torch
    module lies, "" while it is not built; compiler: what would build it, "" if none; problem: why
    torch cannot be used with quoit. peers: of each pair of GPUs, whether one reads the other's
    memory (P2P, which CUDA IPC needs as well).
    """

    version: str
    threads: int
    cuda: str
    gpus: tuple[str, ...]
    nccl: str
    module: str
    compiler: str
    problem: str
    peers: tuple[bool, ...] = ()


@dataclass(frozen=True)
class MpiInstallation:
    """An mpirun on PATH, and the libmpi beside it ("" and family "" where none was found)."""

    mpirun: str
    library: str
    family: str


@dataclass(frozen=True)
class Mpi:
    """used: the libmpi that quoit would load here, "" for none; problem: why it cannot be used."""

    on_path: tuple[MpiInstallation, ...]
    loaded: tuple[str, ...]
    beside_launcher: str
    used: str
    family: str
    version: str
    problem: str


@dataclass(frozen=True)
class Cores:
    """present: in the machine; allowed: to the launcher of this process; bound: to this process.

    usable: bound, less what the quota of the control group takes away (None: no quota).
    """

    present: int
    allowed: int
    bound: tuple[int, ...]
    usable: int
    quota: float | None


@dataclass(frozen=True)
class Memory:
    """memfd: why shared memory without a name cannot be made, "" when it can."""

    available: int
    shm_total: int
    shm_free: int
    memfd: str


@dataclass(frozen=True)
class Process:
    """ptrace_scope: Yama's, None where there is none. offer: a descriptor for peers to open."""

    pid: int
    uid: int
    boot: str
    pid_namespace: int
    ptrace_scope: int | None
    offer: int


@dataclass(frozen=True)
class Address:
    """One address of an interface; why: what it is used for, or why not."""

    interface: str
    address: str
    usable: bool
    why: str


@dataclass(frozen=True)
class Network:
    """name: the host's; resolves_to: its addresses as the resolver sees them.

    ports: "first-last" of those that are listened at, from QUOIT_PORTS or the kernel's own.
    """

    name: str
    resolves_to: tuple[str, ...]
    addresses: tuple[Address, ...]
    ports: str
    problem: str


@dataclass(frozen=True)
class Limits:
    """Soft limits; -1 is unlimited."""

    open_files: int
    processes: int
    locked_memory: int
    core_file: int


@dataclass(frozen=True)
class RankFindings:
    """All that one rank found about itself and its host.

    launcher: "" when nothing started it; launch_problem: why the environment makes no sense.
    identity: equal for ranks that can share memory.
    """

    rank: int
    size: int
    launcher: str
    local_rank: int | None
    local_size: int | None
    launch_problem: str
    host: str
    identity: str
    transport: str
    tcp: bool
    environment: dict[str, str]
    software: Software | None
    torch: Torch | None
    mpi: Mpi | None
    cores: Cores | None
    memory: Memory | None
    process: Process | None
    network: Network | None
    limits: Limits | None
    driver: str
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Peers:
    """What one rank found out about the others.

    routes: the transport to each rank, in rank order; closed: "rank: why" for every rank of the
    host whose memory cannot be opened; names: host name to address as resolved here, "" if not.
    """

    rank: int
    routes: tuple[str, ...]
    closed: dict[str, str]
    names: dict[str, str]


@dataclass(frozen=True)
class Measurement:
    """Medians, of rank 0 but for memcpy_by_rank.

    ranks: how many took part. large_bytes: the size of large_us and memcpy_us; all ranks copied at
    the same time. started: whether the doctor started these ranks itself. device_route: how memory
    of CUDA devices goes where some ranks talk over MPI, as Communicator.device_route(), else "".
    """

    ranks: int
    started: bool
    routes: tuple[str, ...]
    small_us: float
    large_bytes: int
    large_us: float
    memcpy_us: float
    memcpy_by_rank: tuple[float, ...]
    device_route: str = ""


@dataclass(frozen=True)
class Findings:
    """The whole job's. measured: whether routes are those of a group that was really made.

    failures: of what the ranks do together.
    """

    ranks: tuple[RankFindings, ...]
    peers: tuple[Peers, ...]
    measured: bool
    measurement: Measurement | None
    failures: tuple[Failure, ...]


def written(findings: Any) -> str:
    """A dataclass of this file as JSON."""
    return json.dumps(dataclasses.asdict(findings))


def read(kind: type[T], text: str) -> T:
    """The dataclass that `written` wrote; ValueError when it is another version's."""
    try:
        made: T = _value(kind, json.loads(text))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"another rank's findings cannot be read ({error!r}): do all ranks run the same "
            "version of quoit?"
        ) from error
    return made


def _value(kind: Any, data: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        values = {
            field.name: _value(hints[field.name], data[field.name])
            for field in dataclasses.fields(kind)
        }
        return kind(**values)  # type: ignore[operator]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return tuple(_value(arguments[0], item) for item in data)
    if origin is types.UnionType:
        return None if data is None else _value(arguments[0], data)
    return data
