"""All-reduce by quoit, gloo and MPI beside memcpy: starts the ranks, collects, makes a table.

python bench/run.py                          # two ranks, 4 B to 256 MiB
python bench/run.py -n 4 --max 4194304 --plot all_reduce.png
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

from quoit.cores import usable_cores
from quoit.launch import without_launcher

REPOSITORY = Path(__file__).resolve().parent.parent
FAMILIES = {"mpich": "MPICH", "openmpi": "Open MPI"}
DEADLINE_S = 330.0  # for one size, or the start; the ranks themselves give up a little earlier


def find_mpirun(family: str) -> str | None:
    """The family's mpirun: in .mpi, where QUOIT_TEST_<FAMILY> says, or on PATH."""
    prefixes = [REPOSITORY / ".mpi" / family]
    if asked := os.environ.get(f"QUOIT_TEST_{family.upper()}"):
        prefixes.append(Path(asked))
    for prefix in prefixes:
        if (prefix / "bin" / "mpirun").is_file():
            return str(prefix / "bin" / "mpirun")
    if found := shutil.which("mpirun"):
        asked_version = [found, "--version"]
        said = subprocess.run(asked_version, capture_output=True, text=True, timeout=60).stdout
        is_openmpi = "Open MPI" in said or "OpenRTE" in said
        return found if is_openmpi == (family == "openmpi") else None
    return None


def launchers(ranks: int) -> tuple[dict[str, list[str]], list[str]]:
    """By name, the commands that start ranks of a Python script; and which are left out, and why."""
    commands, missing = {}, []
    for family, name in FAMILIES.items():
        if importlib.util.find_spec("mpi4py") is None:
            missing.append(f"{name} (mpi4py is not installed)")
        elif (mpirun := find_mpirun(family)) is None:
            places = f".mpi/{family}, $QUOIT_TEST_{family.upper()} or PATH"
            missing.append(f"{name} (no mpirun of it in {places})")
        else:
            options = openmpi_options(ranks) if family == "openmpi" else []
            commands[name] = [mpirun, *options, "-n", str(ranks), sys.executable]
    run = [sys.executable, "-m", "quoit.cli", "run", "-n", str(ranks)]
    return commands or {"quoit run": run}, missing


def openmpi_options(ranks: int) -> list[str]:
    """Makes Open MPI do as MPICH does: bind to no core, run as root, outnumber the cores."""
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return ["--bind-to", "none", *root, *(["--oversubscribe"] if ranks > usable_cores() else [])]


def run(name: str, command: list[str], sizes: list[int], seconds: float) -> list[dict[str, Any]]:
    """What rank 0 wrote: about the software, then each size. A failure is said, not raised."""
    rank = str(Path(__file__).resolve().with_name("all_reduce.py"))
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        results.touch()
        command = [*command, rank, str(results), str(seconds), *map(str, sizes)]
        print(f"{len(sizes)} sizes under {name} ...", file=sys.stderr, flush=True)
        try:
            deadline = DEADLINE_S * (len(sizes) + 1)
            env = without_launcher(os.environ)
            code: int | str = subprocess.run(
                command, env=env, stdin=subprocess.DEVNULL, stdout=2, timeout=deadline
            ).returncode
        except subprocess.TimeoutExpired:
            code = f"none after {deadline:.0f} s"
        said = [json.loads(line) for line in results.read_text().splitlines()]
    if code != 0:
        done = f"{max(0, len(said) - 1)} of {len(sizes)} sizes done"
        print(f"bench: the ranks under {name} failed (exit code {code}), {done}", file=sys.stderr)
    return said


def rows(launches: dict[str, list[dict[str, Any]]], ranks: int) -> list[dict[str, Any]]:
    """One row for each size. Times are means over the launches; a ratio is of one launch only."""
    by_size: dict[int, dict[str, dict[str, Any]]] = {}
    for name, said in launches.items():
        for result in said[1:]:
            by_size.setdefault(result["bytes"], {})[name] = result
    table = []
    for size, results in by_size.items():
        us: dict[str, list[float]] = {}
        for name, result in results.items():
            for peer, value in result["us"].items():
                us.setdefault(name if peer == "mpi" else peer, []).append(value)
        gloo = [r["us"]["gloo"] / r["us"]["quoit"] for r in results.values()]
        mpi = [r["us"]["mpi"] / r["us"]["quoit"] for r in results.values() if "mpi" in r["us"]]
        times = {peer: fmean(values) for peer, values in us.items()}
        table.append(
            {
                "bytes": size,
                "us": times,
                "busbw": 2 * (ranks - 1) / ranks * size / times["quoit"] / 1e3,
                "gloo / quoit": fmean(gloo),
                "MPI / quoit": min(mpi, default=None),
                "wrong": sum(result["wrong"] for result in results.values()),
            }
        )
    return table


def cells(table: list[dict[str, Any]]) -> list[list[str]]:
    """The table as text: a line of headings, then the rows."""
    peers = ["quoit", "quoit NumPy", "gloo", *FAMILIES.values(), "memcpy"]
    peers = [peer for peer in peers if any(peer in row["us"] for row in table)]
    lines = [["bytes", *peers, "busbw", "gloo / quoit", "MPI / quoit", "#wrong"]]
    for row in table:
        size, units = row["bytes"], ["", " Ki", " Mi", " Gi"]
        while size % 1024 == 0:
            size, units = size // 1024, units[1:]
        times = [number(row["us"].get(peer)) for peer in peers]
        figures = [number(row[key]) for key in ("busbw", "gloo / quoit", "MPI / quoit")]
        lines.append([f"{size}{units[0]}", *times, *figures, str(row["wrong"])])
    return lines


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def print_table(lines: list[list[str]]) -> None:
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
        return
    table = Table(*lines[0], box=box.SIMPLE)
    for column in table.columns:
        column.justify = "right"
    for line in lines[1:]:
        table.add_row(*line)
    Console().print(table)


def plot(table: list[dict[str, Any]], title: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for peer in dict.fromkeys(peer for row in table for peer in row["us"]):
        points = [(row["bytes"], row["us"][peer]) for row in table if peer in row["us"]]
        style = "k--" if peer == "memcpy" else "o-"
        axes.loglog(*zip(*points, strict=True), style, markersize=3, label=peer)
    axes.set(title=title, xlabel="bytes", ylabel="µs per call")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def header(launches: dict[str, list[dict[str, Any]]], ranks: int, load: float) -> dict[str, str]:
    about = [said[0] for said in launches.values()]
    mpis = [one["mpi"] for one in about if "mpi" in one]
    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(": ")[2]
    settings = [f"{k}={v}" for k, v in os.environ.items() if k.startswith("QUOIT_") and k[6:10] != "TEST"]
    return {
        "all-reduce": f"float32 sum in place, {ranks} ranks on one host; µs per call, busbw in GB/s",
        "machine": f"{cpu}, {usable_cores()} cores, load {load:.1f} at the start",
        "kernel": f"Linux {platform.release()}",
        "software": ", ".join([f"quoit {about[0]['quoit']}", f"torch {about[0]['torch']}", *mpis]),
        "date": date.today().isoformat(),
        "command": " ".join([*sorted(settings), shlex.join(sys.orig_argv)]),
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="All-reduce by quoit and its peers, in µs.")
    parser.add_argument("-n", "--ranks", type=int, default=2)
    parser.add_argument("--min", type=int, default=4, help="bytes of the smallest size, a multiple of 4")
    parser.add_argument("--max", type=int, default=1 << 28, help="bytes; sizes grow by a factor of 4")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each size under each MPI")
    parser.add_argument("--markdown", action="store_true", help="print a GitHub table")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--plot", type=Path, help="draw times by size into this file")
    args = parser.parse_args(arguments)
    ...
