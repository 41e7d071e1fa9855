"""`quoit tune`: measures what links cost between the ranks of a job, and writes it to a file.

Behind a launcher (`mpirun -n 4 quoit tune`, `torchrun ... -m quoit.cli tune`) it measures between
those ranks; alone it starts two on this host. The runtime reads the file that QUOIT_TUNING names.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from quoit import _core, units
from quoit.communicator import Communicator
from quoit.gathering import meet
from quoit.launch import Launch, detect

NAMES = ("host_alpha", "host_beta", "net_alpha", "net_beta", "gamma")
PASSES = 5
_SIZES = (64 << 10, 1 << 20, 16 << 20)  # bytes
_WARM_UP, _LEAST, _MOST, _BYTES = 20, 40, 2000, 512 << 20  # calls for each size, and bytes
_MEET_S = 60.0
_STEP_S = 120.0
_ALONE_S = 180.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of `quoit tune`."""
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write there (default: what QUOIT_TUNING names, or tuning in quoit's cache)",
    )
    parser.add_argument(
        "--passes",
        default=str(PASSES),
        metavar="N",
        help="measure so many times and keep the best (default: %(default)s)",
    )


def main(options: argparse.Namespace) -> int:
    """Returns 0, or 1 when the ranks that it started failed."""
    passes = int(options.passes) if options.passes.isdecimal() else 0
    if passes < 1:
        raise ValueError(f"--passes {options.passes}: give a whole number, at least 1")
    launch = detect()
    path = options.output or default_path()
    if launch is None or launch.size == 1:
        return _alone(path, passes)
    return _together(launch, path, passes)


def default_path() -> Path:
    """Where the file is: $QUOIT_TUNING, or tuning in $QUOIT_CACHE or in the user's cache."""
    if named := os.environ.get("QUOIT_TUNING"):
        return Path(named)
    cache = os.environ.get("QUOIT_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quoit"
    return (Path(cache) if cache else home).absolute() / "tuning"


def find(named: str | None) -> Path | None:
    """The file to plan with: the named one, or the one in its usual place if there is one."""
    if named is not None:
        if not Path(named).is_file():
            raise ValueError(f"--costs {named}: there is no such file; `quoit tune` writes one")
        return Path(named)
    path = default_path()
    return path if path.is_file() else None


def _alone(path: Path, passes: int) -> int:
    # The ranks are another `quoit tune`, behind a launcher.
    command = [sys.executable, "-m", "quoit.cli", "run", "-n", "2", "-m", "quoit.cli", "tune"]
    try:
        done = subprocess.run(
            [*command, f"--output={path}", f"--passes={passes}"], timeout=_ALONE_S
        )
    except subprocess.TimeoutExpired:
        print(f"quoit tune: two ranks did not end within {_ALONE_S:.0f} s", file=sys.stderr)
        return 1
    return min(done.returncode, 1)


def _together(launch: Launch, path: Path, passes: int) -> int:
    gather = meet(launch, _MEET_S)
    topics = iter(range(100))

    def rendezvous(text: str) -> list[str]:
        return gather(f"tune {next(topics)}", text, _MEET_S)

    comm = Communicator(launch.rank, launch.size, rendezvous, timeout=_STEP_S)
    costs = measure(comm, passes)
    if all(comm.route(peer) in ("shm", "self") for peer in range(launch.size)):
        costs.host_alpha, costs.host_beta = memory(comm)
    routes = sorted({comm.route(peer) for peer in range(launch.size) if peer != launch.rank})
    comm.close()
    if launch.rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        head = f"# {launch.size} ranks, between them {', '.join(routes)}; {time.strftime('%F %T')}"
        write(path, costs, head)
        print(f"{spelled(costs)}\nwritten to {path}")
        if os.environ.get("QUOIT_TUNING") != str(path):
            print(f"export QUOIT_TUNING={path}    # for jobs that shall use it")
    with contextlib.suppress(OSError):
        gather.leave()
    return 0


def measure(comm: Communicator, passes: int) -> _core.Costs:
    """Collective: what links cost; the defaults stand for those that the group has not."""
    comm._run(comm._native.measure, (passes,), False, _STEP_S)
    return comm._native.costs


def memory(comm: Communicator) -> tuple[float, float]:
    """Collective over ranks of one host: alpha and beta of their memory, from whole all_reduces.

    Unlike `measure`, which has some milliseconds, it takes what calls take on the whole.
    """
    alpha = _median(comm, 4)
    share = 2 * (comm.size - 1) / comm.size
    rates = []
    for size in _SIZES:
        seconds = _median(comm, size)
        if seconds > 4 * alpha or size == _SIZES[-1]:  # else it says little of the bytes
            rates.append(max(seconds - 2 * alpha, seconds / 2) / (share * size))
    return alpha, math.sqrt(min(rates) * max(rates))  # as far from the one as from the other


def _median(comm: Communicator, size: int) -> float:
    """Seconds of an all_reduce of so many bytes, on the slowest rank."""
    data = np.zeros(size // 4, np.float32)
    times: list[float] = []
    for _ in range(_WARM_UP + max(_LEAST, min(_MOST, _BYTES // size))):
        start = time.perf_counter()
        comm.all_reduce(data)
        times.append(time.perf_counter() - start)
    slowest = np.array([statistics.median(times[_WARM_UP:])])
    comm.all_reduce(slowest, "MAX")
    return float(slowest[0])


def measured(costs: _core.Costs) -> dict[str, float]:
    """The figures that are not the defaults."""
    unknown = _core.Costs()
    return {
        name: getattr(costs, name)
        for name in NAMES
        if getattr(costs, name) != getattr(unknown, name)
    }


def write(path: Path, costs: _core.Costs, head: str) -> None:
    """The file, as the runtime reads it."""
    lines = [head, "# seconds, and seconds per byte"]
    lines += [f"{name} = {value:.6g}" for name, value in measured(costs).items()]
    path.write_text("\n".join(lines) + "\n")


def spelled(costs: _core.Costs) -> str:
    """A line for each kind of link that was measured."""
    found = measured(costs)
    lines = []
    for kind, where in (("host", "inside a host"), ("net", "between hosts")):
        if f"{kind}_alpha" in found:
            alpha = units.spell_seconds(found[f"{kind}_alpha"])
            rate = units.spell_rate(1 / max(getattr(costs, f"{kind}_beta"), 1e-15))
            lines.append(f"{where + ':':15} {alpha}, {rate}")
    lines.append(f"{'addition:':15} {1e-9 / max(costs.gamma, 1e-15):.1f} GB/s")
    return "\n".join(lines)
