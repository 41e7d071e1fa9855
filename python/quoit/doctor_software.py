"""Probes of installed software. What could crash or hang is asked in a process of its own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quoit import libmpi
from quoit.doctor_findings import Mpi, MpiInstallation, Software, Torch
from quoit.launch import Launch, LaunchError, find_mpi_library

_ASK_S = 35.0
_NEEDED = {b"libmpi.so.12": "mpich", b"libmpich.so.12": "mpich", b"libmpi.so.40": "openmpi"}

# The second program, which the first one starts, opens what that offers.
_ASK_IPC = """
import json, subprocess, sys
from quoit import _core
try:
    offer = _core.cuda_ipc_offer(0).hex()
    opener = [sys.executable, "-c", sys.argv[1], offer]
    said = subprocess.run(opener, capture_output=True, text=True, timeout=60)
    lines = said.stdout.splitlines() or said.stderr.splitlines() or ["it said nothing"]
    print(json.dumps("" if lines[-1] == "opened" else lines[-1]))
except (_core.Error, subprocess.TimeoutExpired) as error:
    print(json.dumps(str(error)))
"""
_OPEN_IPC = """
import sys
from quoit import _core
try:
    _core.cuda_ipc_open(0, bytes.fromhex(sys.argv[1]))
    print("opened")
except _core.Error as error:
    print(error)
"""
_ASK_CUDA = "import json; from quoit import _core; print(json.dumps(_core.cuda_devices()))"

_ASK_TORCH = """
import json, torch
import quoit
from quoit import _build
module = compiler = problem = ""
try:
    module = _build.built_c10d() or ""
except Exception as error:
    problem = str(error)
try:
    compiler = " ".join(_build.compiler())
except Exception as error:
    problem = problem or ("" if module else str(error))
gpus, peers, nccl = [], [], ""
if torch.version.cuda:
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        gpus = [torch.cuda.get_device_name(i) for i in range(count)]
        peers = [torch.cuda.can_device_access_peer(a, b) for a in range(count) for b in range(a)]
    if torch.distributed.is_available() and torch.distributed.is_nccl_available():
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
print(json.dumps([str(torch.__version__), torch.get_num_threads(), torch.version.cuda or "", gpus,
                  nccl, module, compiler, problem, peers]))
"""

# The standard allows this call before MPI_Init.
_ASK_MPI = """
import ctypes, sys
words, length = ctypes.create_string_buffer(65536), ctypes.c_int()
ctypes.CDLL(sys.argv[1]).MPI_Get_library_version(words, ctypes.byref(length))
print(words.value.decode(errors="replace"))
"""


@dataclass(frozen=True)
class Native:
    """What quoit's own runtime says: see RankFindings."""

    identity: str
    transport: str
    tcp: bool


def native() -> Native:
    from quoit import _core

    options = _core.ConnectOptions()
    return Native(_core.host_identity(), options.transport, _knows("tcp"))


def packages() -> Software:
    import quoit
    from quoit import _core

    return Software(
        quoit=quoit.__version__,
        place=str(Path(quoit.__file__).parent),
        kernels=_core.isa(),
        python=platform.python_version(),
        numpy=_version("numpy"),
        torch=_version("torch"),
        mpi4py=_version("mpi4py"),
        mpi4py_family=_mpi4py_family(),
        cuda=_core.cuda_built(),
        no_cuda=(no_cuda := _no_cuda() if _core.cuda_built() else ""),
        no_ipc=no_ipc() if _core.cuda_built() and not no_cuda else "",
    )


def _no_cuda() -> str:
    """Why quoit's kernels for CUDA have no device, asked in a process of its own."""
    devices, problem = json.loads(_ask(_ASK_CUDA).splitlines()[-1])
    return "" if devices else str(problem)


def no_ipc() -> str:
    """Why two processes cannot share memory of the first CUDA device; "" when they can."""
    answer: str = json.loads(_ask(_ASK_IPC, _OPEN_IPC).splitlines()[-1])
    return answer


def torch() -> Torch | None:
    """None when torch is not installed; raises with torch's own words when it cannot be used."""
    if not _version("torch"):
        return None
    said = json.loads(_ask(_ASK_TORCH).splitlines()[-1])
    version, threads, cuda, gpus, nccl, module, compiler, problem, peers = said
    return Torch(version, threads, cuda, tuple(gpus), nccl, module, compiler, problem, tuple(peers))


def mpi(launch: Launch | None) -> Mpi:
    used, problem = "", ""
    if launch is not None:
        try:
            used = find_mpi_library(launch) or ""
        except LaunchError as error:
            problem = str(error)
    family = version = ""
    if used:
        family = libmpi.family_of(used)
        version = _mpi_version(used)
    return Mpi(
        on_path=_installations(),
        loaded=tuple(libmpi.loaded()),
        beside_launcher=(launch.mpi_library if launch else None) or "",
        used=used,
        family=family,
        version=version,
        problem=problem,
    )


def _knows(transport: str) -> bool:
    """Whether this build has the transport; a group of one tells without connecting anything."""
    from quoit import _core

    options = _core.ConnectOptions()
    options.transport = transport
    try:
        _core.connect(0, 1, lambda text: [text], options).close()
    except _core.UsageError:
        return False
    return True


def _installations() -> tuple[MpiInstallation, ...]:
    found: dict[str, MpiInstallation] = {}
    for folder in os.get_exec_path():
        for name in ("mpirun", "mpiexec"):
            path = Path(folder, name)
            if not (path.is_file() and os.access(path, os.X_OK)):
                continue
            real = path.resolve()
            prefixes = [str(path.parent.parent), str(real.parent.parent)]
            if str(path.parent) not in {str(Path(known).parent) for known in found}:
                found[str(path)] = _installation(str(path), prefixes)
    return tuple(found.values())


def _installation(mpirun: str, prefixes: list[str]) -> MpiInstallation:
    families: tuple[libmpi.Family, ...] = ("openmpi", "mpich")
    for family in families:
        library = libmpi.installed(family, prefixes)
        if library is not None:
            return MpiInstallation(mpirun, library, family)
    return MpiInstallation(mpirun, "", "")


def _mpi_version(library: str) -> str:
    """As in "Open MPI v5.0.11", "MPICH 5.0.2": what comes before the details."""
    first = _ask(_ASK_MPI, library).strip().split("\n")[0].split(",")[0]
    return " ".join(first.split()).replace(" Version:", "")


def _mpi4py_family() -> str:
    """The one family that mpi4py's modules need, "" when there are modules for several."""
    spec = importlib.util.find_spec("mpi4py")
    needs: set[str] = set()
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for file in Path(folder).glob("MPI.*.so"):
            content = file.read_bytes()
            needs |= {family for name, family in _NEEDED.items() if name in content}
            if b"libmpi_abi.so" in content:
                return ""
    return needs.pop() if len(needs) == 1 else ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _ask(program: str, *arguments: str) -> str:
    return output_of(["-c", program, *arguments], _ASK_S)


def output_of(arguments: Sequence[str], limit_s: float) -> str:
    """What Python writes, run so; RuntimeError with its last words when it fails, or is silent."""
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"it gave no answer within {limit_s:g} s") from None
    if done.returncode != 0 or not done.stdout.strip():
        words = done.stderr.strip().splitlines()
        how = (
            f"exit code {done.returncode}" if done.returncode >= 0 else f"signal {-done.returncode}"
        )
        raise RuntimeError(f"{words[-1] if words else 'it said nothing'} ({how})")
    return done.stdout
