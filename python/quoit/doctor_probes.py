"""Probes of this process and its host. None may raise, hang, or change anything."""

from __future__ import annotations

import dataclasses
import os
import resource
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from quoit import doctor_software as software_of
from quoit.cores import cpu_quota, usable_cores
from quoit.doctor_findings import (
    Address,
    Cores,
    Failure,
    Limits,
    Memory,
    Network,
    Process,
    RankFindings,
)
from quoit.interfaces import interfaces, reachable
from quoit.launch import Launch, LaunchError, detect

T = TypeVar("T")

PROBE_S = 10.0
TORCH_S = 40.0  # importing torch from a cold network disk takes its time

# Prefixes of the variables that matter to ranks; what is in them is shown to whoever asks for help.
_WATCHED = (
    *("QUOIT_", "OMP_", "MKL_NUM", "OPENBLAS_NUM", "KMP_AFF", "GOMP_", "MASTER_", "GLOO_", "NCCL_"),
    *("TORCH_DISTRIBUTED_", "TORCH_NCCL_", "TORCH_DEVICE_BACKEND", "TORCHELASTIC_", "MPI4PY_"),
    *("OMPI_", "PMI_RANK", "PMI_SIZE", "MPI_LOCAL", "MPICH_", "I_MPI_", "UCX_", "FI_PROV"),
    *("CUDA_VISIBLE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP", "SLURM_LOCALID"),
)
_WATCHED_WHOLE = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "CXX"}


class Attempts:
    """Runs probes, each with a deadline; what fails is noted instead of raised."""

    def __init__(self) -> None:
        self.failures: list[Failure] = []

    def attempt(self, name: str, probe: Callable[[], T], timeout_s: float = PROBE_S) -> T | None:
        """What the probe returns, or None and a failure; a probe that hangs is left behind."""
        return self.begin(name, probe)(timeout_s)

    def begin(self, name: str, probe: Callable[[], T]) -> Callable[[float], T | None]:
        """Starts a probe; the result waits for it, and is what `attempt` returns."""
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(probe())
            except BaseException as error:  # SystemExit too: a probe decides nothing
                errors.append(error)

        thread = threading.Thread(target=work, name=f"quoit doctor: {name}", daemon=True)
        thread.start()

        def finish(timeout_s: float) -> T | None:
            thread.join(timeout_s)
            if results:
                return results[0]
            why = f"no answer within {timeout_s:g} s" if not errors else _said(errors[0])
            self.failures.append(Failure(name, why))
            return None

        return finish


def examine(attempts: Attempts) -> RankFindings:
    """All that this rank can find out alone."""
    launch, launch_problem = _launch()
    # The two that take long, side by side with the rest.
    ask_torch = launch is None or launch.local_rank in (0, None)
    torch = attempts.begin("torch", software_of.torch) if ask_torch else None
    mpi = attempts.begin("MPI", lambda: software_of.mpi(launch))
    native = attempts.attempt("quoit's runtime", software_of.native)
    findings = RankFindings(
        rank=launch.rank if launch else 0,
        size=launch.size if launch else 1,
        launcher=launch.launcher if launch else "",
        local_rank=launch.local_rank if launch else None,
        local_size=launch.local_size if launch else None,
        launch_problem=launch_problem,
        host=os.environ.get("QUOIT_HOST") or socket.gethostname(),
        identity=native.identity if native else "",
        transport=native.transport if native else "",
        tcp=native is not None and native.tcp,
        environment=_environment(),
        software=attempts.attempt("installed packages", software_of.packages),
        torch=None,
        mpi=None,
        cores=attempts.attempt("cores", _cores),
        memory=attempts.attempt("shared memory", _memory),
        process=attempts.attempt("/proc", _process),
        network=attempts.attempt("network", _network),
        limits=attempts.attempt("limits", _limits),
        driver=attempts.attempt("NVIDIA driver", _driver) or "",
        failures=(),
    )
    return dataclasses.replace(
        findings,
        mpi=mpi(2 * PROBE_S),
        torch=torch(TORCH_S) if torch else None,
        failures=tuple(attempts.failures),
    )


def _launch() -> tuple[Launch | None, str]:
    try:
        return detect(), ""
    except LaunchError as error:
        return None, str(error)


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(_WATCHED) or name in _WATCHED_WHOLE
    }


def _cores() -> Cores:
    bound = tuple(sorted(os.sched_getaffinity(0)))
    present = os.cpu_count() or len(bound)
    try:
        # The launcher is not bound itself: what it may use is what it could have given.
        allowed = len(os.sched_getaffinity(os.getppid()))
    except OSError:
        allowed = present
    return Cores(present, max(allowed, len(bound)), bound, usable_cores(), cpu_quota())


def _memory() -> Memory:
    usage = shutil.disk_usage("/dev/shm")
    try:
        descriptor = os.memfd_create("quoit-doctor")
        os.ftruncate(descriptor, 1 << 16)
        os.close(descriptor)
        problem = ""
    except (OSError, AttributeError) as error:
        problem = _said(error)
    return Memory(_available_memory(), usage.total, usage.free, problem)


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _process() -> Process:
    try:
        scope = int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except OSError:
        scope = None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = os.stat("/proc/self/ns/pid").st_ino
    offer = os.memfd_create("quoit-doctor-offer")
    return Process(os.getpid(), os.geteuid(), boot, namespace, scope, offer)


def _network() -> Network:
    name = socket.gethostname()
    try:
        resolved = tuple(sorted({str(info[4][0]) for info in socket.getaddrinfo(name, None)}))
    except OSError:
        resolved = ()
    found, asked = interfaces(), os.environ.get("QUOIT_IFACE", "")
    try:
        usable, problem = reachable(found, asked), ""
    except ValueError as error:
        usable, problem = [], str(error)
    addresses = []
    for one in found:
        if one in usable:
            why = "tried first by other hosts" if one == usable[0] else "tried next"
        elif one.address.is_loopback:
            why = "loopback: means something else on another host"
        elif one.address.version == 6 and one.address.is_link_local:
            why = "link-local: means something else on another host"
        else:
            why = f"left out by QUOIT_IFACE={asked}"
        addresses.append(Address(one.name, str(one.address), one in usable, why))
    ports = os.environ.get("QUOIT_PORTS") or "-".join(
        Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    )
    return Network(name, resolved, tuple(addresses), ports, problem)


def _limits() -> Limits:
    kinds = (
        *(resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC),
        *(resource.RLIMIT_MEMLOCK, resource.RLIMIT_CORE),
    )
    return Limits(*(resource.getrlimit(kind)[0] for kind in kinds))


def _driver() -> str:
    """Version of the NVIDIA driver, "" where there is none."""
    try:
        first = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except OSError:
        return ""
    numbers = [word for word in first.split() if word[:1].isdigit() and "." in word]
    return numbers[0] if numbers else first


def _said(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
