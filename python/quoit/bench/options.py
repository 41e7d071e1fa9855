"""The command line of `quoit bench`, and the plan that follows from it."""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path

from quoit.bench import hosts, sizes
from quoit.bench.cases import bytes_needed
from quoit.bench.data import DTYPES, most_ranks
from quoit.bench.plan import BACKENDS, MODES, OPS, REDUCE_OPS, REDUCING, SPLITTING, Plan

LAUNCHERS = ("mpich", "openmpi", "quoit")
_PICTURES = (".png", ".svg", ".pdf")
_LARGEST = 64 << 20
_SHARE = 0.7  # of the memory that is free; the rest is for the peers' own buffers


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "quoit bench OPERATION [options]"
    # Checked in plan(), where one rank of many can speak for all.
    parser.add_argument("op", metavar="OPERATION", help=", ".join(OPS))
    ranks = parser.add_argument_group("ranks")
    ranks.add_argument("-n", "--ranks", metavar="N", help="on this host (default: 2)")
    ranks.add_argument(
        "--launcher",
        metavar="NAMES",
        help=f"who starts them, one after the other: {', '.join(LAUNCHERS)} (default: each MPI "
        "that is there, else quoit). Behind mpirun, torchrun or quoit run the ranks are there",
    )
    ranks.add_argument(
        "--backends", metavar="NAMES", help=f"of {','.join(BACKENDS)} (default: all that are there)"
    )
    ranks.add_argument(
        "--algo", default="auto", metavar="NAME", help="quoit's algorithm (default: its choice)"
    )
    ranks.add_argument(
        "--torch-threads", default="1", metavar="N", help="of each rank (default: %(default)s)"
    )
    hosts.configure(parser)
    what = parser.add_argument_group("what")
    what.add_argument("-b", "--begin", metavar="SIZE", help="the first size: 4, 16K, 64M, 1G")
    what.add_argument("-e", "--end", metavar="SIZE", help="the last size (default: 64M)")
    what.add_argument(
        "-f", "--factor", default="4", metavar="N", help="between sizes (default: %(default)s)"
    )
    what.add_argument(
        "--dtype", default="float32", help=f"{', '.join(DTYPES)} (default: %(default)s)"
    )
    what.add_argument(
        "--op", dest="redop", default="sum", help=f"{', '.join(REDUCE_OPS)} (default: %(default)s)"
    )
    what.add_argument(
        "--mode", metavar="NAME", help=f"of send_recv: {', '.join(MODES)} (default: latency)"
    )
    what.add_argument(
        "--root", default="0", metavar="RANK", help="of broadcast (default: %(default)s)"
    )
    what.add_argument(
        "--async",
        dest="in_flight",
        metavar="N",
        help="start N calls, then wait for all (default: one call, which is waited for)",
    )
    what.add_argument(
        "--seconds",
        default="1",
        help="for each size, under each launcher (default: %(default)s); at least five rounds",
    )
    what.add_argument("--rounds", metavar="N", help="exactly so many rounds instead")
    out = parser.add_argument_group("report")
    out.add_argument("--wide", action="store_true", help="all columns for every peer")
    out.add_argument("--markdown", action="store_true", help="a table for GitHub")
    out.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    out.add_argument("--csv", type=Path, metavar="FILE", help="write the table there")
    out.add_argument(
        "--plot", type=Path, metavar="FILE", help=f"draw it there ({', '.join(_PICTURES)})"
    )


def plan(options: argparse.Namespace, ranks: int) -> Plan:
    """What the command line asks of so many ranks. Raises ValueError with what is wrong with it."""
    op = _one_of(options.op, OPS, "operation")
    _check_ranks(op, ranks)
    dtype = DTYPES[_one_of(options.dtype, tuple(DTYPES), "--dtype")]
    redop = _one_of(options.redop, REDUCE_OPS, "--op")
    limit = most_ranks(dtype, redop)
    if op in REDUCING and limit is not None and ranks > limit:
        raise ValueError(
            f"--dtype {dtype.name} --op {redop} is exact on at most {limit} ranks, so results on "
            f"{ranks} could not be checked: choose a wider dtype"
        )
    if options.mode and op != "send_recv":
        raise ValueError(f"--mode {options.mode} belongs to send_recv, not to {op}")
    mode = _one_of(options.mode or MODES[0], MODES, "--mode") if op == "send_recv" else ""
    in_flight = _number(options.in_flight, "--async") if options.in_flight else 0
    if in_flight and (op in ("ddp", "codec") or mode == "latency"):
        raise ValueError(f"--async has no meaning for {op}{f' --mode {mode}' if mode else ''}")
    if (root := _number(options.root, "--root", least=0)) >= ranks:
        raise ValueError(f"--root {root}: there are ranks 0 to {ranks - 1}")
    if (seconds := _seconds(options.seconds)) <= 0:
        raise ValueError(f"--seconds {options.seconds}: give a number above 0")
    backends = tuple(dict.fromkeys(options.backends.split(","))) if options.backends else BACKENDS
    for name in backends:
        _one_of(name, BACKENDS, "--backends")
    made = Plan(
        op=op,
        mode=mode,
        sizes=_sizes(options, op, ranks, dtype.size),
        dtype=dtype.name,
        redop=redop,
        root=root,
        backends=backends,
        strict=bool(options.backends),
        algorithm=options.algo,
        in_flight=in_flight,
        seconds=seconds,
        rounds=_number(options.rounds, "--rounds") if options.rounds else 0,
        torch_threads=_number(options.torch_threads, "--torch-threads"),
    )
    _check_memory(made, ranks)
    return made


def check_outputs(options: argparse.Namespace) -> None:
    """Raises ValueError for a file that cannot be written, before anything is measured."""
    for path in filter(None, (options.json, options.csv, options.plot)):
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ValueError(f"cannot write {path}: choose a file in a folder that can be written")
    if options.plot and options.plot.suffix not in _PICTURES:
        raise ValueError(f"--plot {options.plot}: its name must end in {', '.join(_PICTURES)}")
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib: pip install matplotlib")


def launchers(options: argparse.Namespace) -> tuple[str, ...]:
    """The launchers that were named, each once; none were if it is empty."""
    names = tuple(dict.fromkeys(options.launcher.split(","))) if options.launcher else ()
    return tuple(_one_of(name, LAUNCHERS, "--launcher") for name in names)


def ranks(options: argparse.Namespace) -> int | None:
    """As -n says."""
    return _number(options.ranks, "-n") if options.ranks else None


def _check_ranks(op: str, ranks: int) -> None:
    if op == "codec" and ranks > 1:
        raise ValueError(f"codec measures one process, but there are {ranks} ranks: start it alone")
    if op != "codec" and ranks < 2:
        raise ValueError(f"{op} needs at least 2 ranks: one rank has nobody to talk to")
    if op == "send_recv" and ranks % 2:
        raise ValueError(f"send_recv pairs the ranks, so their number must be even, not {ranks}")


def _sizes(options: argparse.Namespace, op: str, ranks: int, element: int) -> tuple[int, ...]:
    if op in ("barrier", "ddp"):
        for option, value in (("-b", options.begin), ("-e", options.end)):
            if value:
                raise ValueError(f"{option} {value}: {op} has no sizes")
        return ()
    unit = element * ranks if op in SPLITTING else element
    whole = f"{options.dtype} needs"
    needs = f"{ranks} parts of {options.dtype} need" if op in SPLITTING else whole
    first = sizes.parse(options.begin, "-b") if options.begin else max(4, unit)
    last = sizes.parse(options.end, "-e") if options.end else max(first, _LARGEST)
    if first > last:
        raise ValueError(f"-b {options.begin or first} is more than -e {options.end}")
    if first % unit:
        raise ValueError(f"-b {options.begin}: {needs} a multiple of {unit} bytes")
    return sizes.series(first, last, _number(options.factor, "-f", least=2))


def _check_memory(plan: Plan, ranks: int) -> None:
    needed, free = bytes_needed(plan) * ranks, _free_memory()
    if needed > _SHARE * free:
        raise ValueError(
            f"{ranks} ranks with sizes up to {sizes.named(max(plan.sizes))} need "
            f"{needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free here: choose a "
            "smaller -e, or fewer calls in flight"
        )


def _free_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _one_of(text: str, choices: tuple[str, ...], what: str) -> str:
    if text not in choices:
        raise ValueError(f"{what} {text} is unknown: choose {', '.join(choices)}")
    return text


def _number(text: str, option: str, least: int = 1) -> int:
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"{option} {text}: give a whole number, at least {least}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
