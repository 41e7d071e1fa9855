"""Which MPI a shared library is, and which one this process has loaded, without loading any."""

from __future__ import annotations

import mmap
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

Family = Literal["mpich", "openmpi"]

_LIBMPI = re.compile(r"libmpi(ch|_abi|_cray|_intel)?\.so(\.\d+)*")
_FILES = {"mpich": ("libmpi.so.12", "libmpich.so.12"), "openmpi": ("libmpi.so.40",)}
_MULTIARCH = f"lib/{platform.machine()}-linux-gnu"
_FOLDERS = ("lib", "lib64", "lib/release", _MULTIARCH, f"{_MULTIARCH}/openmpi/lib")


def family_of(path: str | os.PathLike[str]) -> Family:
    """Whose MPI the shared library at path is, and so which mpirun it can talk to.

    "mpich" stands for all that descend from it, such as Intel MPI. Either family may offer its own
    ABI or the standard one. Raises OSError when the file cannot be read and ValueError when it is
    not an MPI library.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"\x7fELF":
            raise ValueError(
                "it is not a shared library (a linker script?): give the file with the version "
                "in its name, such as libmpi.so.12 or libmpi.so.40"
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # Symbol names end in a null; they may begin inside a longer one (PMPI_Init).
            if content.find(b"MPI_Init\0") < 0:
                raise ValueError("it has no MPI_Init, so it is not an MPI library")
            return "openmpi" if content.find(b"\0ompi_mpi_") >= 0 else "mpich"


def installed(family: Family, prefixes: Sequence[str], folder: str | None = None) -> str | None:
    """The first libmpi of the family in `folder`, else below one of the prefixes, if any.

    Knows the layouts of source builds, Python wheels, Intel MPI, Fedora and Debian.
    """
    names = _FILES[family]
    folders = [Path(folder)] if folder else []
    folders += [Path(prefix) / inside for prefix in prefixes for inside in _FOLDERS]
    paths = (place / name for place in folders for name in names)
    return next((str(path) for path in paths if path.is_file()), None)


def loaded() -> list[str]:
    """Paths of the libmpi files that are mapped into this process; empty without /proc."""
    try:
        with open("/proc/self/maps", errors="replace") as maps:
            fields = [line.split(maxsplit=5) for line in maps]
    except OSError:
        return []
    paths = {field[5].strip().removesuffix(" (deleted)") for field in fields if len(field) == 6}
    return sorted(path for path in paths if _LIBMPI.fullmatch(os.path.basename(path)))
