"""The processes above this one, as /proc tells them."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """An ancestor of this process; started is in clock ticks since boot, exe None if hidden."""

    pid: int
    name: str
    exe: str | None
    started: int

    @property
    def prefix(self) -> str | None:
        """The installation that holds exe: the folder above its bin."""
        return str(Path(self.exe).parent.parent) if self.exe else None


def ancestors() -> list[Process]:
    """Parent, grandparent and so on up to init; empty where /proc is missing."""
    found: list[Process] = []
    pid = os.getppid()
    while pid > 0:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            break
        # The name stands in parentheses and may itself hold spaces and parentheses.
        name, rest = stat.split("(", 1)[1].rsplit(")", 1)
        fields = rest.split()
        try:
            exe = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
        except OSError:
            exe = None
        found.append(Process(pid, name, exe, started=int(fields[19])))
        pid = int(fields[1])
    return found


def nearest(above: Sequence[Process], names: Collection[str]) -> Process | None:
    """The first of `above` whose name or executable is one of names."""
    for process in above:
        if process.name in names or (process.exe and Path(process.exe).name in names):
            return process
    return None


def pid_namespace() -> int:
    """Tells apart equal pids of containers that share a network."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
