"""Who started this process, which rank it is, and whose MPI library goes with that launcher."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from quoit import libmpi
from quoit.ancestry import Process, ancestors, nearest, pid_namespace

Launcher = Literal["mpich", "openmpi", "slurm", "torchrun", "quoit", "env"]


class LaunchError(ValueError):
    """The environment left by the launcher contradicts itself; the text says what to do."""


@dataclass(frozen=True)
class Launch:
    """What the launcher told this process.

    launcher: "env" means that RANK and WORLD_SIZE were exported by hand (or by
        `torch.multiprocessing` code); "mpich" is Hydra, so Intel MPI and MVAPICH too.
    rank, size: 0 <= rank < size.
    local_rank, local_size: place among the ranks of this host; None where the launcher is silent.
    job: shared by all ranks of the job on this host and by no other job; "" where unknown.
    mpi_library: path of the launcher's own libmpi, when its installation could be found.
        Use `find_mpi_library` for the one to load.
    """

    launcher: Launcher
    rank: int
    size: int
    local_rank: int | None
    local_size: int | None
    job: str
    mpi_library: str | None = None

    @property
    def one_host(self) -> bool:
        """Whether the launcher says that every rank of the job runs on this host."""
        return self.local_size == self.size


@dataclass(frozen=True)
class _Names:
    """The variables in which one launcher gives a place, and how people call that launcher.

    local_size is "" for a launcher that has no such variable.
    """

    rank: str
    size: str
    local_rank: str
    local_size: str
    called: str


@dataclass(frozen=True)
class _Place:
    rank: int
    size: int
    local_rank: int | None
    local_size: int | None
    told_by: _Names

    @property
    def said(self) -> str:
        return (
            f"{self.told_by.called} says {self.told_by.rank}={self.rank}, "
            f"{self.told_by.size}={self.size}"
        )


_OPENMPI = _Names(
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "Open MPI's mpirun",
)
_MPICH = _Names("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "MPICH's mpirun")
_TORCH = _Names("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "torchrun")

# Nearest ancestors that mark the job on this host and lie in the launcher's bin directory.
_MPICH_PROCESSES = {"hydra_pmi_proxy", "pmi_proxy", "mpiexec.gforker"}
_OPENMPI_PROCESSES = {"prted", "prterun", "prte", "orted", "orterun", "mpirun", "mpiexec"}

# Slurm numbers the batch script, the interactive shell and other non-srun steps from here up.
_FIRST_SPECIAL_SLURM_STEP = 0xFFFFFFF0

_INHERITED_PREFIXES = ("PMI_", "PMIX_", "HYDI_", "OMPI_COMM_WORLD_", "TORCHELASTIC_")
_INHERITED = {
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "QUOIT_JOB"),
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE"),
    *("MPI_LOCALRANKID", "MPI_LOCALNRANKS", "MASTER_ADDR", "MASTER_PORT"),
}


def detect(
    environ: Mapping[str, str] = os.environ,
    find_ancestors: Callable[[], Sequence[Process]] = ancestors,
) -> Launch | None:
    """The launcher that started this process, or None when nothing did.

    `find_ancestors` is asked only under an mpirun. Raises LaunchError when the environment is
    broken: half of a launcher's variables, a rank outside the size, text where a number belongs,
    or two launchers that disagree. A Slurm allocation around another launcher is no disagreement.
    """
    openmpi = _read(environ, _OPENMPI)
    mpich = _read(environ, _MPICH)
    torch = _read(environ, _TORCH)
    slurm = _read_slurm(environ)
    _check_agreement([place for place in (openmpi, mpich, torch) if place])

    if openmpi:
        return _from_openmpi(openmpi, environ, find_ancestors())
    if mpich and not (slurm and mpich.local_size is None and _same(mpich, slurm)):
        return _from_mpich(mpich, find_ancestors())
    # `srun --mpi=pmi2` sets PMI_RANK as well; and RANK may be our own export under srun.
    if torch and not (slurm and _same(torch, slurm) and not _elastic(environ)):
        return _from_torch(torch, environ)
    if slurm:
        step = f"{environ.get('SLURM_JOB_ID', '')}.{_slurm_step(environ)}"
        return _launch("slurm", slurm, step, None)
    if "PMIX_RANK" in environ:
        raise LaunchError(
            f"PMIX_RANK={environ['PMIX_RANK']} gives a rank but nothing gives the number of "
            "ranks. Start with Open MPI's mpirun, with srun or with torchrun, or export RANK and "
            "WORLD_SIZE."
        )
    return None


def export(launch: Launch, environ: MutableMapping[str, str] = os.environ) -> None:
    """Set the unset ones of torchrun's RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE.

    Scripts that read LOCAL_RANK then work under mpirun and srun. What the launcher did not say
    stays unset, and torchrun's own variables are never touched.
    """
    if launch.launcher not in ("mpich", "openmpi", "slurm"):
        return
    values = (launch.rank, launch.size, launch.local_rank, launch.local_size)
    names = (_TORCH.rank, _TORCH.size, _TORCH.local_rank, _TORCH.local_size)
    for name, value in zip(names, values, strict=True):
        if value is not None:
            environ.setdefault(name, str(value))


def without_launcher(environ: Mapping[str, str]) -> dict[str, str]:
    """A copy of environ with no trace of a launcher, for processes that get a new one."""
    return {
        name: value
        for name, value in environ.items()
        if name not in _INHERITED and not name.startswith(_INHERITED_PREFIXES)
    }


def find_mpi_library(launch: Launch, environ: Mapping[str, str] = os.environ) -> str | None:
    """Path of the libmpi that can talk to the launcher, or None when it came with none.

    A libmpi that this process has already loaded (mpi4py may have come first) must be the one;
    QUOIT_MPI_LIBRARY comes next, then the library beside the launcher. Raises LaunchError when
    the choice is of another family than the launcher: its ranks would not find each other.
    """
    if launch.launcher not in ("mpich", "openmpi", "slurm"):
        return None
    asked = environ.get("QUOIT_MPI_LIBRARY") or None
    loaded = libmpi.loaded()
    if len(loaded) > 1:
        raise LaunchError(
            f"this process has loaded several MPI libraries: {', '.join(loaded)}. Only one can "
            "work: import only modules that were built for one of them."
        )
    if asked and loaded and not _same_file(asked, loaded[0]):
        raise LaunchError(
            f"QUOIT_MPI_LIBRARY={asked}, but this process has already loaded {loaded[0]}. Unset "
            "QUOIT_MPI_LIBRARY, or let the module that came first (mpi4py?) use the same library."
        )
    path = loaded[0] if loaded else asked or launch.mpi_library
    if path is None:
        return None
    source = "already loaded" if loaded else "from QUOIT_MPI_LIBRARY" if asked else "found"
    _check_family(path, source, launch.launcher)
    return path


def _read(environ: Mapping[str, str], names: _Names) -> _Place | None:
    rank, size = _integer(environ, names.rank), _integer(environ, names.size)
    if rank is None and size is None:
        return None
    if rank is None or size is None:
        have, lack = (names.rank, names.size) if size is None else (names.size, names.rank)
        raise LaunchError(
            f"{have}={environ[have]} is set but {lack} is not, so this is half of what "
            f"{names.called} sets. Set both, or unset {have}."
        )
    local_rank = _integer(environ, names.local_rank)
    local_size = _integer(environ, names.local_size)
    _check_range(names.rank, rank, names.size, size, names.called)
    if local_size is not None and local_size > size:
        raise LaunchError(
            f"{names.local_size}={local_size} is more than {names.size}={size}: one host cannot "
            f"hold more ranks than the job has. Let {names.called} set both."
        )
    if local_rank is not None and local_size is not None:
        _check_range(names.local_rank, local_rank, names.local_size, local_size, names.called)
    return _Place(rank, size, local_rank, local_size, names)


def _read_slurm(environ: Mapping[str, str]) -> _Place | None:
    step = _slurm_step(environ)
    if not step.isdigit() or int(step) >= _FIRST_SPECIAL_SLURM_STEP:
        return None  # in an allocation, but not started by srun
    size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    place = _read(environ, _Names("SLURM_PROCID", size, "SLURM_LOCALID", "", "srun"))
    tasks = _tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node = _integer(environ, "SLURM_NODEID")
    if place is None or node is None or not 0 <= node < len(tasks):
        return place
    return replace(place, local_size=tasks[node])


def _slurm_step(environ: Mapping[str, str]) -> str:
    return environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", ""))


def _tasks_per_node(text: str) -> list[int]:
    """Slurm's "2(x3),1" as [2, 2, 2, 1]; empty when it reads otherwise."""
    tasks: list[int] = []
    for part in text.split(","):
        count, _, times = part.partition("(x")
        times = times.removesuffix(")") or "1"
        if not (count.isdigit() and times.isdigit()):
            return []
        tasks += [int(count)] * int(times)
    return tasks


def _integer(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise LaunchError(
            f"{name}={text!r} is not an integer. Unset {name}, or let the launcher set it."
        ) from None


def _check_range(rank_name: str, rank: int, size_name: str, size: int, called: str) -> None:
    if size < 1:
        raise LaunchError(f"{size_name}={size}: a job has at least 1 rank. Let {called} set it.")
    if not 0 <= rank < size:
        raise LaunchError(
            f"{rank_name}={rank} but {size_name}={size}, so it must be from 0 to {size - 1}. Let "
            f"{called} set both; if they were set by hand, correct or unset them."
        )


def _same(a: _Place, b: _Place) -> bool:
    return (a.rank, a.size) == (b.rank, b.size)


def _check_agreement(places: Iterable[_Place]) -> None:
    for a, b in combinations(places, 2):
        if not _same(a, b):
            raise LaunchError(
                f"two launchers started this process and they disagree: {a.said}; {b.said}. Start "
                "the ranks with one of them only. If one is meant to be inside the other, take "
                f"away the outer one's variables: `env -u {a.told_by.rank} -u {a.told_by.size} "
                f"...` leaves {b.told_by.called}, `env -u {b.told_by.rank} -u {b.told_by.size} "
                f"...` leaves {a.told_by.called}."
            )


def _elastic(environ: Mapping[str, str]) -> bool:
    return "TORCHELASTIC_RUN_ID" in environ or "QUOIT_JOB" in environ


def _from_openmpi(place: _Place, environ: Mapping[str, str], above: Sequence[Process]) -> Launch:
    # The namespace is host name and pid, which containers can share; the port they cannot.
    server = environ.get("PMIX_SERVER_URI2", "").rsplit(":", 1)[-1]
    namespace = environ.get("PMIX_NAMESPACE", "")
    job = f"{namespace}-{server}" if namespace else ""
    prefixes = [environ[name] for name in ("OPAL_PREFIX", "PMIX_PREFIX") if environ.get(name)]
    starter = nearest(above, _OPENMPI_PROCESSES)
    if starter and starter.prefix:
        prefixes.append(starter.prefix)
    library = libmpi.installed("openmpi", prefixes, environ.get("OMPI_LIBDIR_LOC"))
    return _launch("openmpi", place, job, library)


def _from_mpich(place: _Place, above: Sequence[Process]) -> Launch:
    proxy = nearest(above, _MPICH_PROCESSES)
    if proxy is None:
        return _launch("mpich", place, "", None)
    job = f"{proxy.pid}-{proxy.started}-{pid_namespace()}"
    library = libmpi.installed("mpich", [proxy.prefix]) if proxy.prefix else None
    return _launch("mpich", place, job, library)


def _from_torch(place: _Place, environ: Mapping[str, str]) -> Launch:
    if "TORCHELASTIC_RUN_ID" in environ:  # the innermost, for `quoit run` takes it away
        # The run id defaults to "none"; the port tells two such jobs apart.
        names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
        return _launch("torchrun", place, "-".join(environ.get(n, "") for n in names), None)
    if "QUOIT_JOB" in environ:
        return _launch("quoit", place, environ["QUOIT_JOB"], None)
    meeting = (environ.get("MASTER_ADDR", ""), environ.get("MASTER_PORT", ""))
    return _launch("env", place, "-".join(meeting) if all(meeting) else "", None)


def _launch(launcher: Launcher, place: _Place, job: str, mpi_library: str | None) -> Launch:
    named = f"{launcher}-{os.getuid()}-{job}" if job else ""
    numbers = (place.rank, place.size, place.local_rank, place.local_size)
    return Launch(launcher, *numbers, named, mpi_library)


def _same_file(a: str, b: str) -> bool:
    try:
        return os.path.samefile(a, b)
    except OSError:
        return False


def _check_family(path: str, source: str, launcher: Launcher) -> None:
    try:
        family = libmpi.family_of(path)
    except (OSError, ValueError) as error:
        raise LaunchError(
            f"the MPI library {path} ({source}) cannot be used: {error}. Set QUOIT_MPI_LIBRARY to "
            "the libmpi of the mpirun that starts the job."
        ) from error
    if launcher in (family, "slurm"):
        return
    names = {"mpich": "MPICH", "openmpi": "Open MPI"}
    raise LaunchError(
        f"{names[launcher]}'s mpirun started this process, but the MPI library {path} ({source}) "
        f"is {names[family]}'s. Start with {names[family]}'s mpirun, or use modules (mpi4py?) and "
        f"QUOIT_MPI_LIBRARY of {names[launcher]}."
    )
