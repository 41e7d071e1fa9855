"""Both MPI families' mpirun for tests: where they are, and a run that cannot hang or leak."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from quoit import warden

FAMILIES = ("mpich", "openmpi")

_REPOSITORY = Path(__file__).resolve().parent.parent
_ARGUMENTS = {"mpich": (), "openmpi": ("--allow-run-as-root", "--oversubscribe")}
_GRACE_S = 5.0


def prefixes() -> dict[str, Path]:
    """Where each family is installed; the test fails, with what to do, when one is missing."""
    return {family: _prefix(family) for family in FAMILIES}


def mpirun(
    family: str,
    n: int,
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    timeout: float = 90.0,
) -> subprocess.CompletedProcess[str]:
    """Run `command` as n ranks; env is added to this process's environment.

    Fails the test, with the output so far, after `timeout` seconds; no process is left then.
    """
    process = start(family, n, command, env)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        out, err = end(process)
        pytest.fail(f"{process.args!r} took more than {timeout} s.\n{out}\n{err}")
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start(
    family: str, n: int, command: Sequence[str], env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """As `mpirun`, without waiting; the caller communicates with it, or ends it."""
    return subprocess.Popen(
        command_line(family, n, command),
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def command_line(
    family: str, n: int, command: Sequence[str], options: Sequence[str] = ()
) -> list[str]:
    """What starts `command` as n ranks; options are added to the mpirun's own."""
    program = str(_prefix(family) / "bin" / "mpirun")
    return [program, *_ARGUMENTS[family], *options, "-n", str(n), *command]


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """End an mpirun and its ranks, first asking; returns what it wrote."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.communicate(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        warden.sweep("", {process.pid})
        return process.communicate(timeout=_GRACE_S)


def _prefix(family: str) -> Path:
    variable = f"QUOIT_TEST_{family.upper()}"
    places = [_REPOSITORY / ".mpi" / family]
    if variable in os.environ:
        places.append(Path(os.environ[variable]))
    for place in places:
        if (place / "bin" / "mpirun").is_file():
            return place
    pytest.fail(
        f"no {family} mpirun in {' or '.join(map(str, places))}: `make test` installs one, or set "
        f"{variable} to the prefix of an installation"
    )
