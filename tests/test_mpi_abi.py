"""csrc/transport/mpi_abi.h against the headers of the MPI families it describes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import mpirun

ROOT = Path(__file__).resolve().parent.parent
CHECK = ROOT / "tests/mpi_abi_check.cpp"

# The family that has it, its compiler, and the ABI that the compiler builds for.
ABIS = {
    "MpichAbi": ("mpich", "mpicxx"),
    "OpenMpiAbi": ("openmpi", "mpicxx"),
    "StandardAbi": ("mpich", "mpicxx_abi"),
}


def compile_check(
    abi: str, compiler: Path, output: Path, check: Path = CHECK, include: Path = ROOT / "csrc"
) -> subprocess.CompletedProcess[str]:
    """Build the check of `abi` with an MPI's compiler."""
    return subprocess.run(
        [compiler, "-std=c++20", f"-DQUOIT_ABI={abi}", "-I", include, check, "-o", output],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )


def compiler_of(abi: str) -> Path:
    family, name = ABIS[abi]
    compiler = mpirun.prefixes()[family] / "bin" / name
    if abi == "StandardAbi" and not compiler.exists():
        pytest.skip("this MPICH is older than 5 and has no standard ABI")
    return compiler


@pytest.mark.parametrize("abi", ABIS)
def test_the_header_agrees(abi: str, tmp_path: Path) -> None:
    compiler = compiler_of(abi)
    program = tmp_path / "check"
    built = compile_check(abi, compiler, program)
    assert built.returncode == 0, built.stdout
    library = compiler.parent.parent / "lib"
    found = os.environ.get("LD_LIBRARY_PATH")
    done = subprocess.run(
        [program],
        env={**os.environ, "LD_LIBRARY_PATH": f"{library}:{found}" if found else str(library)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout == "30 functions, 0 differences\n"


@pytest.mark.parametrize(
    ("abi", "described"), [("MpichAbi", "OpenMpiAbi"), ("OpenMpiAbi", "StandardAbi")]
)
def test_the_check_tells_families_apart(abi: str, described: str, tmp_path: Path) -> None:
    built = compile_check(described, compiler_of(abi), tmp_path / "check")
    assert built.returncode != 0
    assert "static assertion failed" in built.stdout


def test_a_wrong_value_is_found(tmp_path: Path) -> None:
    """A copy of the header with another MPI_ANY_SOURCE and a wrong name must not pass."""
    header = (ROOT / "csrc/transport/mpi_abi.h").read_text()
    wrong = header.replace("kAnySource = -2", "kAnySource = -1").replace("MPI_Imrecv", "MPI_Irecv")
    assert wrong != header
    (tmp_path / "transport").mkdir()
    (tmp_path / "transport/mpi_abi.h").write_text(wrong)
    (tmp_path / "check.cpp").write_text(CHECK.read_text())
    program = tmp_path / "check"
    built = compile_check(
        "MpichAbi", compiler_of("MpichAbi"), program, tmp_path / "check.cpp", tmp_path
    )
    assert built.returncode == 0, built.stdout
    done = subprocess.run([program], stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "MPI_ANY_SOURCE differs\nMPI_Imrecv differs\n" in done.stdout
