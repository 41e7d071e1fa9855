"""Runs the C++ tests that `make test` has built, each executable as one test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "tests/cpp").glob("*.cpp"))
DEADLINE_S = 280


@pytest.fixture(scope="module")
def build() -> Path:
    """The build folder: QUOIT_CPP_BUILD, relative to the project's root."""
    if chosen := os.environ.get("QUOIT_CPP_BUILD"):
        return ROOT / chosen
    pytest.skip("the C++ tests are not built by pytest alone; `make test` builds and runs them")


def test_there_are_cpp_tests() -> None:
    assert SOURCES


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_cpp(build: Path, source: Path) -> None:
    executable = build / "tests" / source.stem
    assert executable.exists(), f"{executable} is not built"
    done = subprocess.run(
        [executable],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=DEADLINE_S,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}"


@pytest.mark.parametrize("kernels", ["isa", "codecs"])
@pytest.mark.parametrize("level", [3, 4])
def test_instruction_sets_do_not_leak(build: Path, level: int, kernels: str) -> None:
    """The linker may keep any one copy of an inline function, for CPUs that cannot run it, too."""
    folder = build / "CMakeFiles/quoit.dir/csrc/kernels"
    compiled = folder / f"{kernels}_x86_v{level}.cpp.o"
    if not compiled.exists() and (folder / "no_x86.cpp.o").exists():
        pytest.skip("this is no x86-64 machine: nothing is built for another instruction set")
    listing = subprocess.run(
        ["nm", "--demangle", "--defined-only", compiled],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    symbols = [line.split(maxsplit=2)[1:] for line in listing.splitlines()]
    assert symbols
    assert [name for kind, name in symbols if kind in "WwVvu" and not _is_data(name)] == []


def _is_data(name: str) -> bool:
    return name.startswith(("typeinfo ", "vtable ", "DW.ref."))
