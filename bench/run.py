"""All-reduce by quoit, gloo and MPI beside memcpy: starts the ranks, collects, makes a table.

python bench/run.py                          # two ranks, 4 B to 256 MiB, about 90 s
python bench/run.py -n 4 --max 4194304 --plot all_reduce.png
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

from quoit.cores import usable_cores
from quoit.launch import without_launcher

HERE = Path(__file__).resolve().parent
FAMILIES = {"mpich": "MPICH", "openmpi": "Open MPI"}
PEERS = ("quoit", "quoit NumPy", "gloo", *FAMILIES.values(), "memcpy")
RATIOS = ("gloo / quoit", "MPI / quoit")
DEADLINE_S = 330.0  # for one size, or the start; the ranks themselves give up a little earlier

Record = dict[str, Any]  # a line that rank 0 wrote, or one of the table


def find_mpirun(family: str) -> str | None:
    """The family's mpirun: in .mpi, where QUOIT_TEST_<FAMILY> says, or on PATH."""
    asked = os.environ.get(f"QUOIT_TEST_{family.upper()}")
    for prefix in (HERE.parent / ".mpi" / family, *([Path(asked)] if asked else [])):
        if (prefix / "bin" / "mpirun").is_file():
            return str(prefix / "bin" / "mpirun")
    if (found := shutil.which("mpirun")) is None:
        return None
    said = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60).stdout
    is_openmpi = "Open MPI" in said or "OpenRTE" in said
    return found if is_openmpi == (family == "openmpi") else None


def launchers(ranks: int) -> tuple[dict[str, list[str]], list[str]]:
    """The commands that start ranks of a script, by name; and what is left out, with the reason."""
    python, count = sys.executable, ["-n", str(ranks)]
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    crowd = ["--oversubscribe"] if ranks > usable_cores() else []
    # MPICH binds ranks to no core, and runs as root; Open MPI does as it does.
    options = {"mpich": [], "openmpi": ["--bind-to", "none", *root, *crowd]}
    commands, missing = {}, []
    for family, name in FAMILIES.items():
        if importlib.util.find_spec("mpi4py") is None:
            missing.append(f"{name} (mpi4py is not installed)")
        elif (mpirun := find_mpirun(family)) is None:
            places = f".mpi/{family}, $QUOIT_TEST_{family.upper()} or PATH"
            missing.append(f"{name} (no mpirun of it in {places})")
        else:
            commands[name] = [mpirun, *options[family], *count, python]
    return commands or {"quoit run": [python, "-m", "quoit.cli", "run", *count]}, missing


def run(name: str, command: list[str], sizes: list[int], seconds: float) -> list[Record]:
    """What rank 0 wrote: about the software, then each size. Failure is said, and ends the list."""
    print(f"measuring under {name} ...", file=sys.stderr, flush=True)
    deadline = DEADLINE_S * (len(sizes) + 1)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results")
        results.touch()
        work = [HERE / "all_reduce.py", results, seconds, *sizes]
        try:
            ended = subprocess.run(
                [*command, *map(str, work)],
                env=without_launcher(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                timeout=deadline,
            )
            failure = f"exit code {ended.returncode}" if ended.returncode else ""
        except subprocess.TimeoutExpired:
            failure = f"not done after {deadline:.0f} s"
        said: list[Record] = [json.loads(line) for line in results.read_text().splitlines()]
    if failure:
        done = f"{max(0, len(said) - 1)} of {len(sizes)} sizes were measured"
        print(f"bench: the ranks under {name} failed ({failure}); {done}", file=sys.stderr)
    return said


def tabulate(launches: dict[str, list[Record]], ranks: int) -> list[Record]:
    """A record for each size. Times are means over the launches; ratios are taken within one."""
    by_size: dict[int, dict[str, Record]] = {}
    for name, said in launches.items():
        for result in said[1:]:
            by_size.setdefault(result["bytes"], {})[name] = result
    table = []
    for size, results in by_size.items():
        us: dict[str, list[float]] = {}
        for name, result in results.items():
            for peer, value in result["us"].items():
                us.setdefault(name if peer == "mpi" else peer, []).append(value)
        times = {peer: fmean(values) for peer, values in us.items()}
        gloo, mpi = (
            [r["us"][peer] / r["us"]["quoit"] for r in results.values() if peer in r["us"]]
            for peer in ("gloo", "mpi")
        )
        busbw = 2 * (ranks - 1) / ranks * size / times["quoit"] / 1e3
        wrong = sum(result["wrong"] for result in results.values())
        # Of two MPIs the better one counts: the one that loses least to quoit, or wins most.
        ratios = dict(zip(RATIOS, (fmean(gloo), min(mpi, default=None)), strict=True))
        table.append({"bytes": size, "us": times, "busbw": busbw, **ratios, "wrong": wrong})
    return table


def texts(table: list[Record]) -> list[list[str]]:
    """The cells as text: the headings, then the rows."""
    peers = [peer for peer in PEERS if any(peer in row["us"] for row in table)]
    lines = [["bytes", *peers, "busbw", *RATIOS, "#wrong"]]
    for row in table:
        size, units = row["bytes"], ["", " Ki", " Mi", " Gi"]
        while size % 1024 == 0:
            size, units = size // 1024, units[1:]
        values = [*map(row["us"].get, peers), row["busbw"], *map(row.get, RATIOS)]
        lines.append([f"{size}{units[0]}", *map(number, values), str(row["wrong"])])
    return lines


def number(value: float | None) -> str:
    """Three digits, as far as there are no more before the point."""
    if value is None:
        return "–"
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def show(lines: list[list[str]], markdown: bool) -> None:
    """Print a table: GitHub's, which reads well as it is, or rich's where that is installed."""
    if not markdown and importlib.util.find_spec("rich") is not None:
        from rich import box
        from rich.console import Console
        from rich.table import Column, Table

        table = Table(*(Column(name, justify="right") for name in lines[0]), box=box.SIMPLE_HEAD)
        for line in lines[1:]:
            table.add_row(*line)
        Console(width=None if sys.stdout.isatty() else 120).print(table)
        return
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in [lines[0], ["-" * (width - 1) + ":" for width in widths], *lines[1:]]:
        cells = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        print(f"| {' | '.join(cells)} |")


def plot(table: list[Record], title: str, path: Path) -> None:
    """Time by size, one line a peer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel="bytes", ylabel="µs per call")
    for peer in PEERS:
        points = [(row["bytes"], row["us"][peer]) for row in table if peer in row["us"]]
        if points:
            style = "k--" if peer == "memcpy" else "o-"
            axes.plot(*zip(*points, strict=True), style, markersize=3, label=peer)
    axes.set_title(title, fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def about_machine() -> str:
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    cores, load = usable_cores(), os.getloadavg()[0]
    busy = ", which is busy: trust no figure" if load > cores / 2 else ""
    return f"{cpu[1] if cpu else platform.machine()}, {cores} cores, load {load:.1f} before{busy}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="All-reduce by quoit and its peers, in µs.")
    parser.add_argument("-n", "--ranks", type=int, default=2, help="on this host (default: 2)")
    parser.add_argument("--min", type=int, default=4, help="bytes of the first size (default: 4)")
    parser.add_argument("--max", type=int, default=1 << 28, help="bytes; sizes grow fourfold")
    parser.add_argument("--seconds", type=float, default=1.5, help="per size, under each MPI")
    parser.add_argument("--markdown", action="store_true", help="print a GitHub table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the times there")
    args = parser.parse_args()
    if args.ranks < 2:
        parser.error(
            f"--ranks must be at least 2, got {args.ranks}: one rank has nobody to talk to"
        )
    if args.min < 4 or args.min % 4 or args.max < args.min:
        parser.error(
            f"sizes must be whole float32 elements, 4 <= min <= max and min a multiple of 4; "
            f"got --min {args.min} --max {args.max}"
        )
    for path in filter(None, (args.json, args.plot)):
        if not path.parent.is_dir():
            parser.error(f"cannot write {path}: there is no folder {path.parent}")
    if args.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib")
    return args


def main() -> int:
    args = parse()
    machine = about_machine()
    sizes = [args.min * 4**k for k in range(32) if args.min * 4**k <= args.max]
    commands, missing = launchers(args.ranks)
    launches = {name: run(name, cmd, sizes, args.seconds) for name, cmd in commands.items()}
    failed = [name for name, said in launches.items() if len(said) <= len(sizes)]
    missing += [f"{name} (its ranks failed)" for name in failed]
    table = tabulate(launches, args.ranks)
    if not table:
        return 1
    versions = {k: v for said in launches.values() if said for k, v in said[0].items()}
    settings = [f"{k}={v}" for k, v in os.environ.items() if re.match("QUOIT_(?!TEST_)", k)]
    facts = {
        "all-reduce": f"float32 sum in place, {args.ranks} ranks of one host; µs, busbw in GB/s",
        "machine": machine,
        "software": ", ".join([*versions.values(), f"Linux {platform.release()}"]),
        "date": date.today().isoformat(),
        "command": " ".join([*sorted(settings), shlex.join(sys.orig_argv)]),
        "left out": "; ".join(missing) or "nothing",
    }
    for name, fact in facts.items():
        print(f"- {name}: {fact}" if args.markdown else f"{name + ':':12} {fact}")
    print()
    show(texts(table), args.markdown)
    if args.json:
        everything = {**facts, "ranks": args.ranks, "table": table, "launches": launches}
        args.json.write_text(json.dumps(everything, indent=1) + "\n")
    if args.plot:
        plot(table, f"all-reduce, {args.ranks} ranks, {machine}", args.plot)
    return 1 if failed or any(row["wrong"] for row in table) else 0


if __name__ == "__main__":
    sys.exit(main())
