"""Builds libraries of tests/accelerator, once, into build/accelerator."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from quoit import _core
from quoit._build import compiler

_TESTS = Path(__file__).resolve().parent
FOLDER = _TESTS.parent / "build" / "accelerator"
_BUILD_S = 600.0


def build(
    target: Path,
    sources: Sequence[Path],
    headers: Sequence[Path],
    flags: Sequence[str] = (),
    version: str = "",
) -> None:
    """Compiles the library unless it is there for these sources, flags and this version.

    Within :func:`locked`. version: of what the library is built against.
    """
    stamp = target.with_suffix(".stamp")
    wanted = hashlib.sha256(repr((compiler(), version, flags)).encode())
    for file in (*sources, *headers, Path(__file__)):
        wanted.update(file.read_bytes())
    if target.exists() and stamp.exists() and stamp.read_text() == wanted.hexdigest():
        return
    print(f"building {target.name} of the test accelerator (once)...", file=sys.stderr)
    # As one unit: where torch's headers are read, that takes nearly all the time.
    unit, made = target.with_suffix(".cpp"), target.with_suffix(".new")
    unit.write_text("".join(f'#include "{file}"\n' for file in sources))
    command = [*compiler(), "-std=c++20", "-O1", "-fPIC", "-pthread", "-shared"]
    command += [f"-I{folder}" for folder in sorted({str(file.parent) for file in headers})]
    command += [str(unit), *flags, f"-Wl,-soname,{target.name}", "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_S)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")
    os.replace(made, target)
    stamp.write_text(wanted.hexdigest())


def build_kernels(target: Path, streams: Path) -> None:
    """Compiles accelerator/kernels.cpp for the library that has the streams; within locked()."""
    csrc, home = _TESTS.parent / "csrc", Path(_core.__file__).parent
    headers = ("accelerator/streams.h", "cpp/cuda_host.h", "cpp/device_plain.h")
    kernels = [file for layer in ("core", "kernels") for file in sorted(csrc.glob(f"{layer}/*.h"))]
    flags = ["-O2", "-ffp-contract=off"]  # the bits of the CPU's own: see CMakeLists.txt
    flags += [f"-I{csrc}", f"-L{FOLDER}", f"-l:{streams.name}", f"-L{home}", "-lquoit"]
    build(
        target,
        [_TESTS / "accelerator/kernels.cpp"],
        [_TESTS / name for name in headers],
        [*flags, f"-Wl,-rpath,$ORIGIN:{home}"],
        _hash_of(kernels),
    )


def _hash_of(files: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """No other process builds meanwhile."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + _BUILD_S
    with (FOLDER / "lock").open("wb") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TimeoutError(f"{FOLDER / 'lock'} was held for {_BUILD_S:.0f} s") from None
                time.sleep(0.05)
        yield
