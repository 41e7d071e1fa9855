"""Takes clusters of network namespaces down, whatever became of the process that made them.

    cluster_keeper.py KEY

As a program it waits for its input to end, which happens when the cluster's owner is gone, however
it went, and takes down what the owner left. It inherits the descriptor of the cluster's lock, which
the owner has too; when both were killed the lock is free, and the next cluster takes this one down.

It imports nothing but the standard library, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

LOCKS = Path("/run/quoit")
_NAMESPACES = Path("/run/netns")
_PATIENCE_S = 5.0


def lock(key: str) -> int:
    """A descriptor that says, as long as a process has it, that the cluster is in use."""
    LOCKS.mkdir(exist_ok=True)
    while True:
        descriptor = os.open(_path(key), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_file(descriptor, _path(key)):
            return descriptor
        os.close(descriptor)  # somebody took it for a left-over before we held it


def take_down_abandoned() -> list[str]:
    """Take down clusters that nobody holds any more; returns their keys."""
    keys = []
    for path in LOCKS.glob("cluster-*.lock"):
        with contextlib.suppress(OSError):  # in use, or just gone
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_file(descriptor, path):
                    key = path.name.removeprefix("cluster-").removesuffix(".lock")
                    take_down(key)
                    keys.append(key)
            finally:
                os.close(descriptor)
    return keys


def take_down(key: str) -> None:
    """End what runs on the cluster's hosts, and remove its namespaces, links and lock."""
    names = _names(key)
    deadline = time.monotonic() + _PATIENCE_S
    while (pids := list(_processes(names))) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    for name in names:
        _try("ip", "netns", "del", name)
    for device in _devices(key):
        _try("ip", "link", "del", device)
    with contextlib.suppress(OSError):
        _path(key).unlink()


def _path(key: str) -> Path:
    return LOCKS / f"cluster-{key}.lock"


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _names(key: str) -> list[str]:
    try:
        return [name for name in os.listdir(_NAMESPACES) if re.fullmatch(rf"quoit{key}\d+", name)]
    except OSError:
        return []


def _devices(key: str) -> list[str]:
    """The cluster's devices outside its namespaces: the bridge, and ports that lost their host."""
    mine = re.compile(rf"(quoit{key}|qv{key}\d+)")
    return [name for name in os.listdir("/sys/class/net") if mine.fullmatch(name)]


def _processes(names: list[str]) -> Iterator[int]:
    """Pids of the processes in these namespaces."""
    places = set()
    for name in names:
        with contextlib.suppress(OSError):
            place = (_NAMESPACES / name).stat()
            places.add((place.st_dev, place.st_ino))
    for entry in os.listdir("/proc") if places else []:
        if entry.isdigit():
            with contextlib.suppress(OSError):
                place = os.stat(f"/proc/{entry}/ns/net")
                if (place.st_dev, place.st_ino) in places:
                    yield int(entry)


def _try(*command: str) -> None:
    """For what may be gone already."""
    subprocess.run(command, capture_output=True)


def _keep(key: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    take_down(key)


if __name__ == "__main__":
    _keep(sys.argv[1])
