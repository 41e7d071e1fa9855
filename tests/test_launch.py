"""Who started us: every launcher's environment, real or imitated, and every way to break it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path

import pytest

from mpirun import FAMILIES, mpirun, prefixes
from quoit import libmpi
from quoit.ancestry import Process, ancestors
from quoit.launch import Launch, LaunchError, detect, export, find_mpi_library, without_launcher

UID = os.getuid()

OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "PMIX_RANK": "5",
    "PMIX_NAMESPACE": "prterun-node7-4252@1",
    "PMIX_SERVER_URI2": "prterun-node7-4252@0.0;tcp4://127.0.0.1:60947",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
SRUN = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "3",
    "SLURM_PROCID": "6",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_NTASKS": "7",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
}
TORCH = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
ELASTIC = {
    **TORCH,
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "1",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}
SBATCH = {"SLURM_JOB_ID": "77", "SLURM_PROCID": "0", "SLURM_NTASKS": "7", "SLURM_LOCALID": "0"}

SHELL = Process(300, "sh", "/bin/sh", 900)
PROXY = Process(200, "hydra_pmi_proxy", "/nowhere/bin/hydra_pmi_proxy", 800)
OUTER_PROXY = Process(100, "hydra_pmi_proxy", "/elsewhere/bin/hydra_pmi_proxy", 700)


def unasked() -> list[Process]:
    raise AssertionError("ancestors were asked for, and no mpirun was there")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"LOCAL_RANK": "0"}, None, id="local rank alone"),
        pytest.param(SBATCH, None, id="slurm batch script"),
        pytest.param({**SRUN, "SLURM_STEP_ID": "4294967290"}, None, id="slurm interactive step"),
        pytest.param(SRUN, Launch("slurm", 6, 7, 0, 1, f"slurm-{UID}-77.3"), id="srun"),
        pytest.param(
            {**SRUN, "PMI_RANK": "6", "PMI_SIZE": "7"},
            Launch("slurm", 6, 7, 0, 1, f"slurm-{UID}-77.3"),
            id="srun with PMI2",
        ),
        pytest.param(
            {**SRUN, "PMIX_RANK": "6", "PMIX_NAMESPACE": "slurm.pmix.77.3"},
            Launch("slurm", 6, 7, 0, 1, f"slurm-{UID}-77.3"),
            id="srun with PMIx",
        ),
        pytest.param(
            {**SRUN, "RANK": "6", "WORLD_SIZE": "7", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
            Launch("slurm", 6, 7, 0, 1, f"slurm-{UID}-77.3"),
            id="srun after export",
        ),
        pytest.param(
            {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "many"},
            Launch("slurm", 6, 7, 0, None, f"slurm-{UID}-77.3"),
            id="srun without tasks per node",
        ),
        pytest.param(
            {**SRUN, **ELASTIC},
            Launch("torchrun", 3, 4, 1, 2, f"torchrun-{UID}-none-1-node1-29500"),
            id="torchrun under srun",
        ),
        pytest.param(
            ELASTIC,
            Launch("torchrun", 3, 4, 1, 2, f"torchrun-{UID}-none-1-node1-29500"),
            id="torchrun",
        ),
        pytest.param(
            {**ELASTIC, "QUOIT_JOB": "outer"},
            Launch("torchrun", 3, 4, 1, 2, f"torchrun-{UID}-none-1-node1-29500"),
            id="torchrun under quoit run",
        ),
        pytest.param(
            {**TORCH, "QUOIT_JOB": "1-ab", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
            Launch("quoit", 3, 4, 1, 2, f"quoit-{UID}-1-ab"),
            id="quoit run",
        ),
        pytest.param(
            {"RANK": " 3 ", "WORLD_SIZE": "4", "MASTER_ADDR": "n", "MASTER_PORT": "5"},
            Launch("env", 3, 4, None, None, f"env-{UID}-n-5"),
            id="exported by hand",
        ),
        pytest.param(TORCH, Launch("env", 3, 4, 1, 2, ""), id="exported without an address"),
    ],
)
def test_detects_without_mpirun(environ: Mapping[str, str], expected: Launch | None) -> None:
    assert detect(environ, unasked) == expected


@pytest.mark.parametrize("around", [{}, SRUN, SBATCH], ids=["alone", "in srun", "in sbatch"])
def test_detects_openmpi(around: Mapping[str, str]) -> None:
    launch = detect({**around, **OPENMPI}, list)
    assert launch == Launch(
        "openmpi", 5, 8, 1, 4, f"openmpi-{UID}-prterun-node7-4252@1-60947", None
    )
    assert not launch.one_host


@pytest.mark.parametrize("around", [{}, SRUN, SBATCH], ids=["alone", "in srun", "in sbatch"])
def test_detects_mpich_by_the_nearest_proxy(around: Mapping[str, str]) -> None:
    environ = {**around, **MPICH}
    launch = detect(environ, lambda: [SHELL, PROXY, OUTER_PROXY])
    assert launch is not None
    assert (launch.launcher, launch.rank, launch.size) == ("mpich", 1, 2)
    assert (launch.local_rank, launch.local_size, launch.one_host) == (1, 2, True)
    assert launch.job.startswith(f"mpich-{UID}-200-800-")
    nested = detect(environ, lambda: [OUTER_PROXY])
    assert nested is not None
    assert nested.job != launch.job


def test_an_mpich_without_a_proxy_has_no_job() -> None:
    assert detect(MPICH, lambda: [SHELL]) == Launch("mpich", 1, 2, 1, 2, "", None)


def test_torch_variables_that_agree_are_mpiruns_own() -> None:
    environ = {**OPENMPI, "RANK": "5", "WORLD_SIZE": "8"}
    launch = detect(environ, list)
    assert launch is not None
    assert launch.launcher == "openmpi"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        pytest.param(
            {"RANK": "1"},
            ["RANK=1 is set but WORLD_SIZE is not", "Set both, or unset RANK"],
            id="rank without size",
        ),
        pytest.param(
            {"WORLD_SIZE": "2"},
            ["WORLD_SIZE=2 is set but RANK is not", "unset WORLD_SIZE"],
            id="size without rank",
        ),
        pytest.param({"PMI_RANK": "0"}, ["PMI_SIZE is not", "Set both"], id="half of MPICH"),
        pytest.param(
            {**TORCH, "RANK": "4"},
            ["RANK=4 but WORLD_SIZE=4", "from 0 to 3", "correct or unset"],
            id="rank beyond size",
        ),
        pytest.param({**TORCH, "RANK": "-1"}, ["RANK=-1", "from 0 to 3"], id="negative rank"),
        pytest.param(
            {"RANK": "0", "WORLD_SIZE": "0"},
            ["WORLD_SIZE=0", "at least 1", "Let torchrun set it"],
            id="no ranks",
        ),
        pytest.param(
            {**OPENMPI, "OMPI_COMM_WORLD_LOCAL_RANK": "4"},
            ["OMPI_COMM_WORLD_LOCAL_RANK=4", "from 0 to 3", "Open MPI's mpirun"],
            id="local rank beyond local size",
        ),
        pytest.param(
            {**TORCH, "LOCAL_WORLD_SIZE": "5"},
            ["LOCAL_WORLD_SIZE=5 is more than WORLD_SIZE=4"],
            id="local size beyond size",
        ),
        pytest.param(
            {**MPICH, "PMI_SIZE": "two"},
            ["PMI_SIZE='two' is not an integer", "Unset PMI_SIZE"],
            id="text for a number",
        ),
        pytest.param(
            {**MPICH, **ELASTIC},
            [
                "two launchers",
                "MPICH's mpirun says PMI_RANK=1, PMI_SIZE=2",
                "torchrun says RANK=3, WORLD_SIZE=4",
                "`env -u PMI_RANK -u PMI_SIZE ...` leaves torchrun",
                "`env -u RANK -u WORLD_SIZE ...` leaves MPICH's mpirun",
            ],
            id="mpirun inside torchrun",
        ),
        pytest.param(
            {**MPICH, **OPENMPI},
            ["two launchers", "Open MPI's mpirun says", "MPICH's mpirun says", "one of them only"],
            id="both families",
        ),
        pytest.param(
            {"PMIX_RANK": "0", "PMIX_NAMESPACE": "x"},
            ["PMIX_RANK=0", "Open MPI's mpirun", "export RANK and WORLD_SIZE"],
            id="PMIx without a size",
        ),
    ],
)
def test_a_broken_environment_says_what_to_do(environ: Mapping[str, str], words: list[str]) -> None:
    with pytest.raises(LaunchError) as caught:
        detect(environ, list)
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, str(caught.value)


def test_export_sets_what_is_unset_and_known() -> None:
    environ = {"LOCAL_RANK": "7"}
    export(Launch("mpich", 1, 4, 1, 2, "j"), environ)
    assert environ == {
        "RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "7",
        "LOCAL_WORLD_SIZE": "2",
    }
    environ = {}
    export(Launch("mpich", 1, 4, None, None, "j"), environ)
    assert environ == {"RANK": "1", "WORLD_SIZE": "4"}
    environ = {}
    export(Launch("torchrun", 1, 4, 1, 2, "j"), environ)
    assert environ == {}


def test_what_export_wrote_is_detected_as_before() -> None:
    for before in (MPICH, OPENMPI, SRUN):
        environ = dict(before)
        launch = detect(environ, lambda: [PROXY])
        assert launch is not None
        export(launch, environ)
        assert detect(environ, lambda: [PROXY]) == launch


def test_without_launcher_leaves_nothing_to_detect() -> None:
    environ = {**MPICH, **ELASTIC, **OPENMPI, "QUOIT_JOB": "x", "PATH": "/bin", "HOME": "/"}
    rest = without_launcher(environ)
    assert rest == {"PATH": "/bin", "HOME": "/"}


def test_ancestors_begin_with_the_parent() -> None:
    code = "from quoit.ancestry import ancestors; print(*(one.pid for one in ancestors()))"
    shell = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", code]
    with subprocess.Popen(shell, stdout=subprocess.PIPE, text=True) as process:
        out, _ = process.communicate(timeout=60)
    pids = [int(pid) for pid in out.split()]
    assert pids[:2] == [process.pid, os.getpid()]
    assert pids[2:] == [one.pid for one in ancestors()]


REPORT = """
import dataclasses, json, os
from quoit import launch
found = launch.detect()
said = json.dumps({**dataclasses.asdict(found), "found": launch.find_mpi_library(found)})
os.write(1, f"{said}\\n".encode())  # at once, for ranks may share the pipe
"""
# Two shells, with a command after python so that neither is replaced by it.
WRAPPED = ("sh", "-c", 'sh -c \'"$@"; exit $?\' sh "$@"; exit $?', "sh", sys.executable, "-c")


@pytest.mark.parametrize("family", FAMILIES)
def test_real_mpirun_through_shells(family: str) -> None:
    jobs = []
    library = {"mpich": "libmpi.so.12", "openmpi": "libmpi.so.40"}[family]
    for _ in range(2):
        done = mpirun(family, 3, [*WRAPPED, REPORT])
        assert done.returncode == 0, done.stderr
        ranks = sorted(map(json.loads, done.stdout.splitlines()), key=itemgetter("rank"))
        # Open MPI may number the ranks of a host in another order than those of the job.
        assert [one["rank"] for one in ranks] == [0, 1, 2]
        assert {one["local_rank"] for one in ranks} == {0, 1, 2}
        assert {(one["launcher"], one["size"], one["local_size"]) for one in ranks} == {
            (family, 3, 3)
        }
        (found,) = {one["found"] for one in ranks}
        assert os.path.samefile(found, prefixes()[family] / "lib" / library)
        (job,) = {one["job"] for one in ranks}
        jobs.append(job)
    assert jobs[0] != jobs[1]
    assert all(jobs)


def test_real_torchrun(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    script = tmp_path / "report.py"
    script.write_text(REPORT)
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    ranks = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(one["rank"] for one in ranks) == [0, 1]
    assert {(one["launcher"], one["size"], one["found"]) for one in ranks} == {
        ("torchrun", 2, None)
    }
    assert len({one["job"] for one in ranks}) == 1


def library(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(b"\x7fELF" + content)
    return path


def test_family_of(tmp_path: Path) -> None:
    for family, prefix in prefixes().items():
        name = {"mpich": "libmpi.so.12", "openmpi": "libmpi.so.40"}[family]
        assert libmpi.family_of(prefix / "lib" / name) == family
    standard = library(tmp_path, "libmpi_abi.so.1", b"\0PMPI_Init\0libmpi_abi.so.1\0")
    assert libmpi.family_of(standard) == "mpich"
    with pytest.raises(ValueError, match="no MPI_Init"):
        libmpi.family_of(library(tmp_path, "libother.so", b"\0MPI_Initialized\0"))
    script = tmp_path / "libmpi.so"
    script.write_text("INPUT(libmpi.so.12)")
    with pytest.raises(ValueError, match=r"linker script.*libmpi\.so\.12"):
        libmpi.family_of(script)


def test_installed_knows_debian_and_prefers_the_named_folder(tmp_path: Path) -> None:
    multiarch = tmp_path / "lib" / f"{os.uname().machine}-linux-gnu"
    multiarch.mkdir(parents=True)
    named = tmp_path / "named"
    named.mkdir()
    assert libmpi.installed("mpich", [str(tmp_path)]) is None
    debian = library(multiarch, "libmpich.so.12", b"")
    assert libmpi.installed("mpich", ["/nowhere", str(tmp_path)]) == str(debian)
    assert libmpi.installed("openmpi", [str(tmp_path)]) is None
    own = library(named, "libmpich.so.12", b"")
    assert libmpi.installed("mpich", [str(tmp_path)], str(named)) == str(own)


def test_the_library_asked_for_is_checked(tmp_path: Path) -> None:
    mpich = library(tmp_path, "libmpi.so.12", b"\0MPI_Init\0")
    openmpi = library(tmp_path, "libmpi.so.40", b"\0MPI_Init\0ompi_mpi_comm_world\0")
    under_mpich = Launch("mpich", 0, 2, 0, 2, "j", str(mpich))
    assert find_mpi_library(under_mpich, {}) == str(mpich)
    with pytest.raises(LaunchError, match=r"MPICH's mpirun .* is Open MPI's"):
        find_mpi_library(under_mpich, {"QUOIT_MPI_LIBRARY": str(openmpi)})
    with pytest.raises(LaunchError, match=r"cannot be used: .*No such file"):
        find_mpi_library(under_mpich, {"QUOIT_MPI_LIBRARY": str(tmp_path / "gone")})
    under_srun = Launch("slurm", 0, 2, 0, 2, "j")
    assert find_mpi_library(under_srun, {}) is None
    assert find_mpi_library(under_srun, {"QUOIT_MPI_LIBRARY": str(openmpi)}) == str(openmpi)
    under_torchrun = Launch("torchrun", 0, 2, 0, 2, "j")
    assert find_mpi_library(under_torchrun, {"QUOIT_MPI_LIBRARY": str(mpich)}) is None


LOADED = """
import ctypes, sys
from quoit import launch
ctypes.CDLL(sys.argv[1])
try:
    print(launch.find_mpi_library(launch.detect()))
except launch.LaunchError as error:
    print("LaunchError:", error)
"""


def test_the_loaded_library_wins_and_is_checked(tmp_path: Path) -> None:
    mpich = prefixes()["mpich"] / "lib" / "libmpi.so.12"
    openmpi = prefixes()["openmpi"] / "lib" / "libmpi.so.40"
    run = [sys.executable, "-c", LOADED]

    done = mpirun("mpich", 1, [*run, str(mpich)])
    assert os.path.samefile(done.stdout.strip(), mpich), done.stderr
    done = mpirun("mpich", 1, [*run, str(openmpi)])
    assert "MPICH's mpirun started this process" in done.stdout, done.stderr
    assert "(already loaded) is Open MPI's. Start with Open MPI's mpirun" in done.stdout
    link = tmp_path / "libmpi.so.12"
    link.symlink_to(mpich)
    done = mpirun("mpich", 1, [*run, str(mpich)], env={"QUOIT_MPI_LIBRARY": str(link)})
    assert os.path.samefile(done.stdout.strip(), mpich), done.stderr
    done = mpirun("mpich", 1, [*run, str(mpich)], env={"QUOIT_MPI_LIBRARY": str(openmpi)})
    assert f"already loaded {os.path.realpath(mpich)}. Unset QUOIT_MPI_LIBRARY" in done.stdout


def test_works_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import quoit.launch, quoit.run, quoit.cli"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
