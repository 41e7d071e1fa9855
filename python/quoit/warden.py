"""Ends every process that a job of `quoit run` left behind.

Run as a program it guards against the launcher's own violent death: it waits for its input to end,
which happens when the launcher is gone however it went, and then sweeps. It imports nothing but the
standard library, so that it starts at once and can run with no package installed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Collection

LAST_RITES_S = 1.0

_PAUSE_S = 0.02
_SWEEP_S = 5.0


def survivors(job: str, sessions: Collection[int]) -> list[int]:
    """Pids of living processes of the job, except this one.

    A process belongs to the job when it is in the session of one of the ranks or when it inherited
    the job's QUOIT_JOB, which also finds daemons that left their session.
    """
    tag = f"QUOIT_JOB={job}".encode()
    own = os.getpid()
    return [
        int(entry)
        for entry in os.listdir("/proc")
        if entry.isdigit() and int(entry) != own and _belongs(entry, tag, sessions)
    ]


def sweep(job: str, sessions: Collection[int], patience_s: float = 0.0) -> list[int]:
    """Kill all processes of the job; returns those that would not die within five seconds.

    They have patience_s to end by themselves: Python's resource tracker and torch's shared memory
    manager outlive their rank for a moment, to remove its files.
    """
    start = time.monotonic()
    while (left := survivors(job, sessions)) and time.monotonic() - start < patience_s + _SWEEP_S:
        if time.monotonic() - start >= patience_s:
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE_S)
    return left


def _belongs(pid: str, tag: bytes, sessions: Collection[int]) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # After the name in parentheses: state, parent, process group, session.
            state, _, _, session = file.read().rsplit(b")", 1)[1].split()[:4]
        if state in (b"Z", b"X"):
            return False
        if int(session) in sessions:
            return True
        with open(f"/proc/{pid}/environ", "rb") as file:
            return tag in file.read().split(b"\0")
    except OSError:
        return False  # ended meanwhile, or another user's


def _guard(job: str) -> None:
    """Reads the ranks' pids, one a line, until the launcher is gone; then sweeps."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sweep(job, {int(line) for line in sys.stdin}, LAST_RITES_S)


if __name__ == "__main__":
    _guard(sys.argv[1])
