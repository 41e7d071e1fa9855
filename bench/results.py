"""Makes bench/RESULTS.md and its plots: every operation by `quoit bench`, several times over.

python bench/results.py                              # everything, about a quarter of an hour
python bench/results.py --quick                      # a minute or two, into build/bench
python bench/results.py --only all_reduce,barrier

The runs are gone through REPEATS times, one after the other, so that what changes slowly hits all.
Figures are medians over the repeats, and so are ratios, each of which was taken within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import targets
from quoit.bench import plot, show, table
from quoit.bench.plan import LIMITS, Plan
from quoit.bench.results import OURS, Cell, Row
from quoit.launch import without_launcher

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
REPEATS = 3
DEADLINE_S = 1800.0  # for one run

Report = dict[str, Any]  # what `quoit bench --json` wrote


@dataclass(frozen=True)
class Run:
    """arguments: of `quoit bench`. sized: whether it has sizes. root: whether it needs root.
    environment: what is set for it."""

    name: str
    arguments: str
    sized: bool = True
    root: bool = False
    environment: tuple[tuple[str, str], ...] = ()

    def command(self, extra: Sequence[str] = ()) -> str:
        """For people to type."""
        settings = [f"{name}={value}" for name, value in self.environment]
        return " ".join([*settings, "quoit bench", self.arguments, *extra])

    @property
    def key(self) -> str:
        """The name without spaces."""
        return self.name.replace(", ", "-").replace(" ", "_")


RUNS = (
    Run("all_reduce", "all_reduce -n 2 -b 4 -e 256M -f 4 --seconds 0.3"),
    Run("all_reduce, 4 ranks", "all_reduce -n 4 -b 4 -e 4M -f 8 --seconds 0.3"),
    *(
        Run(op, f"{op} -n 2 -b 16 -e 64M -f 8 --seconds 0.3")
        for op in ("reduce_scatter", "all_gather", "broadcast", "all_to_all")
    ),
    Run("send_recv", "send_recv -n 2 -b 8 -e 4M -f 2 --seconds 0.2"),
    Run("send_recv, bandwidth", "send_recv -n 2 --mode bandwidth -b 1K -e 64M -f 4 --seconds 0.3"),
    Run(
        "send_recv, bidirectional",
        "send_recv -n 2 --mode bidirectional -b 1K -e 64M -f 4 --seconds 0.3",
    ),
    Run("barrier", "barrier -n 2", sized=False),
    Run("ddp", "ddp -n 2 --seconds 10", sized=False),
    Run("codec", "codec -b 4K -e 64M -f 8"),
    Run(
        "all_reduce, 2 hosts of 2 ranks",
        "all_reduce --cluster 2x2 --rate 1gbit -b 64K -e 64M -f 32 --rounds 3",
        root=True,
        environment=(("QUOIT_TRANSPORT", "shm+tcp"),),  # an mpirun would have it use MPI's wire
    ),
)
QUICK = {"sized": "-e 64K -f 16 --rounds 2", "not": "--rounds 2"}


def more(run: Run, quick: bool) -> list[str]:
    """Arguments of `quoit bench` that make a quick run of it."""
    return QUICK["sized" if run.sized else "not"].split() if quick else []


def measure(run: Run, quick: bool) -> tuple[Report | None, str]:
    """The report of one run, and what it said on stderr."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.json")
        line = [
            sys.executable,
            "-m",
            "quoit.cli",
            "bench",
            *run.arguments.split(),
            *more(run, quick),
        ]
        ended = subprocess.run(
            [*line, "--json", str(path)],
            env={**without_launcher(os.environ), **dict(run.environment)},
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DEADLINE_S,
        )
        return (json.loads(path.read_text()) if path.exists() else None), ended.stderr.strip()


def merged(reports: Sequence[Report]) -> list[Row]:
    """Medians over the runs that have a size, of every peer that was in all of these."""
    rows = []
    for size in dict.fromkeys(row["bytes"] for report in reports for row in report["rows"]):
        same = [row for report in reports for row in report["rows"] if row["bytes"] == size]
        peers = {
            name: _median(size, [Cell(**row["peers"][name]) for row in same])
            for name in same[0]["peers"]
            if all(name in row["peers"] for row in same)
        }
        others = {n: c.ratio for n, c in peers.items() if n not in (*OURS, *LIMITS) and c.ratio}
        best = min(others.items(), key=lambda pair: pair[1], default=None)
        codec = reports[0]["plan"]["op"] == "codec"
        rows.append(Row(size, same[0]["count"], peers, None if codec else best))
    return rows


def _median(size: int, cells: Sequence[Cell]) -> Cell:
    values: dict[str, Any] = {}
    for field in fields(Cell):
        of = [value for cell in cells if (value := getattr(cell, field.name)) is not None]
        values[field.name] = median(of) if of else None
    wrong = [cell.wrong for cell in cells if cell.wrong is not None]
    values["wrong"] = sum(wrong) if wrong else None
    if values["algbw"]:  # it goes with the time, which need not be that of the run in the middle
        algbw = size / values["us"] / 1e3
        factor = (cells[0].busbw or 0.0) / (cells[0].algbw or 1.0)
        values |= {"algbw": algbw, "busbw": algbw * factor or None}
    return Cell(**values)


def page(
    done: dict[Run, list[Report]],
    said: dict[Run, list[str]],
    quick: bool,
    command: str,
    folder: Path,
) -> str:
    """RESULTS.md; draws the plots beside it."""
    rows = {run.name: merged(reports) for run, reports in done.items() if reports}
    some = next(reports[-1]["facts"] for reports in done.values() if reports)
    versions: dict[str, None] = {}
    for reports in done.values():
        for report in reports[-1:]:
            versions |= dict.fromkeys(report["facts"].get("software", "").split(", "))
    head = {
        "machine": some["machine"],
        "ranks": "one to a core, unless a title says more; not bound",
        "software": ", ".join(filter(None, versions)),
        "date": _dates([report for reports in done.values() for report in reports]),
        "command": f"`{command}`",
    }
    everything = [report["facts"] for reports in done.values() for report in reports]
    if busy := sum("busy" in facts for facts in everything):
        count = len(everything)
        head["**busy**"] = f"the machine was, before {busy} of {count} runs: trust no figure"
    parts = [
        "# Results\n\nMade by `make bench`; [docs/performance.md](../docs/performance.md) tells "
        "the method and what the columns are. Figures are medians over the runs that each section "
        "names, ratios are medians of ratios that were each taken within one run.\n\n"
        + "".join(f"- {name}: {fact}\n" for name, fact in head.items()),
        "## Targets\n\nOn two cores. The measured figure is that of the worst size.\n\n"
        + targets.markdown(targets.verdicts(rows)),
    ]
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for run, reports in done.items():
        command = run.command(more(run, quick))
        parts.append(_section(run, command, reports, rows.get(run.name, []), said[run], folder))
    return "\n".join(parts)


def _section(
    run: Run,
    command: str,
    reports: Sequence[Report],
    rows: Sequence[Row],
    said: Sequence[str],
    folder: Path,
) -> str:
    title = f"## {run.name}\n\n"
    words = "".join(f"- {line}\n" for line in dict.fromkeys(said) if line)
    if not rows:
        return f"{title}Not measured.\n\n{words}"
    fields = reports[-1]["plan"]
    plan = Plan(
        **{**fields, "sizes": tuple(fields["sizes"]), "backends": tuple(fields["backends"])}
    )
    facts = reports[-1]["facts"]
    image = f"plots/{run.key}.png"
    plot.draw(plan, rows, f"{facts['what']}\n{facts['machine']}", folder / image)
    loads = ", ".join(report["facts"]["date"].rsplit("load ", 1)[-1] for report in reports)
    told = {
        "command": f"`{command}`, {len(reports)} time{'s'[: len(reports) > 1]}",
        "load before each": loads.replace(" before", ""),
        "left out": facts["left out"],
    }
    text = show.markdown(told, table.of(plan, rows, wide=False))
    return f"{title}{text}{words and chr(10)}{words}\n![{run.name}]({image})\n"


def _dates(reports: Sequence[Report]) -> str:
    dates = [report["facts"]["date"].split(", load")[0] for report in reports]
    return dates[0] if dates[0] == dates[-1] else f"{min(dates)} to {max(dates)}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make bench/RESULTS.md and its plots.")
    parser.add_argument("--quick", action="store_true", help="small sizes, once, in build/bench")
    parser.add_argument("--repeats", type=int, help=f"of every run (default: {REPEATS})")
    parser.add_argument("--only", help="names of runs, separated by commas")
    parser.add_argument("--out", type=Path, help="folder of the page (default: bench)")
    parser.add_argument("--list", action="store_true", help="name the runs and end")
    return parser.parse_args()


def main() -> int:
    args = parse()
    names = {run.key: run for run in RUNS}
    if args.list:
        print("\n".join(f"{name:40} {run.command()}" for name, run in names.items()))
        return 0
    chosen = [name.strip() for name in args.only.split(",")] if args.only else list(names)
    if unknown := [name for name in chosen if name not in names]:
        print(f"no run is called {', '.join(unknown)}: choose {', '.join(names)}", file=sys.stderr)
        return 2
    runs = [run for name, run in names.items() if name in chosen]
    repeats = args.repeats or (1 if args.quick else REPEATS)
    done: dict[Run, list[Report]] = {run: [] for run in runs}
    said: dict[Run, list[str]] = {run: [] for run in runs}
    for number in range(1, repeats + 1):
        for run in runs:
            if run.root and os.geteuid() != 0:
                said[run].append("network namespaces need root")
                continue
            print(f"{number} of {repeats}: {run.name}", file=sys.stderr, flush=True)
            report, words = measure(run, args.quick)
            done[run] += [report] if report and report["rows"] else []
            said[run] += words.splitlines()[-1:]
    if not any(done.values()):
        print("\n".join(words for every in said.values() for words in every), file=sys.stderr)
        return 1
    folder = args.out or (REPOSITORY / "build" / "bench" if args.quick else HERE)
    folder.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python bench/results.py", *sys.argv[1:]])
    (folder / "RESULTS.md").write_text(page(done, said, args.quick, command, folder))
    print(folder / "RESULTS.md")
    return 0 if all(done.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
