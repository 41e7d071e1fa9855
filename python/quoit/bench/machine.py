"""What the header says of the machine, of the ranks' places and of the command."""

from __future__ import annotations

import os
import platform
import re
import shlex
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from quoit import _core
from quoit.cores import cpu_quota
from quoit.doctor_advice import VARIABLES

_BUSY = 0.3  # a part of the cores


def hardware(root: Path = Path("/")) -> str:
    """Processor, cores, caches, memory."""
    cpu = re.search(r"^model name\s*: (.*)$", _read(root / "proc/cpuinfo"), re.MULTILINE)
    parts = [cpu[1] if cpu else platform.machine(), f"{_cores()} cores"]
    with suppress(OSError, ValueError):
        caches = list((root / "sys/devices/system/cpu/cpu0/cache").glob("index*"))
        last = max(caches, key=lambda cache: int(_read(cache / "level")))
        size, shared = _read(last / "size"), _read(last / "shared_cpu_list")
        parts.append(f"L{_read(last / 'level')} {size} for cores {shared}")
    nodes = len(list((root / "sys/devices/system/node").glob("node[0-9]*")))
    parts += [f"{nodes} NUMA nodes"] if nodes > 1 else []
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return ", ".join([*parts, f"{memory / 2**30:.0f} GiB", f"Linux {platform.release()}"])


def load(seconds: float = 0.5) -> float:
    """Cores that are in use, over a moment: the load average remembers the benchmark before."""
    before = _ticks()
    time.sleep(seconds)
    busy, every = (now - then for now, then in zip(_ticks(), before, strict=True))
    return busy / every * (os.cpu_count() or 1) if every else os.getloadavg()[0]


def _ticks() -> tuple[int, int]:
    """Of all cores since the machine began: those in use, stolen ones too, and all."""
    first = _read(Path("/proc/stat")).partition("\n")[0].split()[1:9]
    ticks = [int(word) for word in first]  # user nice system idle iowait irq softirq steal
    return sum(ticks) - sum(ticks[3:5]), sum(ticks)


def is_busy(load: float) -> bool:
    return load > _BUSY * _cores()


def versions(*packages: str) -> dict[str, str]:
    """Of quoit with its instruction set, of these packages, and of Python."""
    found = {"quoit": f"{metadata.version('quoit')} ({_core.isa()})"}
    found |= {name: metadata.version(name) for name in packages}
    return {**found, "Python": platform.python_version()}


def place() -> dict[str, Any]:
    """Of this process."""
    return {"host": socket.gethostname(), "cores": sorted(os.sched_getaffinity(0))}


def places(ranks: Sequence[dict[str, Any]]) -> str:
    """Where the ranks are: hosts, and the cores that each may use."""
    hosts = list(dict.fromkeys(rank["host"] for rank in ranks))
    count = f"{len(ranks)} on {'this host' if len(hosts) == 1 else f'{len(hosts)} hosts'}"
    free = {spans(rank["cores"]) for rank in ranks}
    if len(free) == 1:
        return (
            f"{count}, not bound: each may use core{'s'[: len(ranks[0]['cores']) > 1]} {free.pop()}"
        )
    bound = (f"rank {i} core {spans(rank['cores'])}" for i, rank in enumerate(ranks))
    return f"{count}, bound: {', '.join(bound)}"


def spans(numbers: Sequence[int]) -> str:
    """0-3,8 for [0, 1, 2, 3, 8]."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def command() -> str:
    """As it was typed, with the variables that matter."""
    settings = [f"{k}={os.environ[k]}" for k in VARIABLES if k in os.environ and k != "QUOIT_JOB"]
    program, *arguments = sys.argv
    name = "quoit" if Path(program).name in ("quoit", "cli.py", "__main__.py") else program
    return " ".join([*settings, shlex.join([name, *arguments])])


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _cores() -> int:
    """Of the machine, whatever this process is bound to; as many as it has of a part of one."""
    quota = cpu_quota()
    return max(1, min(os.cpu_count() or 1, int(quota) if quota else sys.maxsize))


def _read(path: Path) -> str:
    return path.read_text().strip()
