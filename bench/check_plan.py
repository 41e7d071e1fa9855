"""Compares what `quoit plan` reckons with what is measured here, on 2 to 8 ranks.

python bench/check_plan.py [WORLD...]

WORLD: 2 or 4 (ranks on this host), 2x1, 2x2, 4x2 (hosts and ranks of each, as namespaces; needs
root); by default all of these. For each, `quoit tune` measures the links, `quoit bench` times
all_reduce as a Communicator and a DDP step, and the model is asked for the same. Prints a table for
GitHub, with the error of each prediction, and says whether all are within 15 %. Figures of a busy
machine mean nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from quoit import _core, plan_model, units
from quoit.bench import hosts
from quoit.cores import usable_cores
from quoit.plan_model import Codec, Links, Shape, Training

GOAL = 0.15
WORLDS = ("2", "4", "2x1", "2x2", "4x2")
SIZES = ("-b", "4K", "-e", "64M", "-f", "16")
QUOIT = (sys.executable, "-m", "quoit.cli")
_TUNE_S = 120.0


@dataclass(frozen=True)
class Line:
    """A row of the table; microseconds."""

    world: str
    what: str
    by: str
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("worlds", nargs="*", default=WORLDS, metavar="WORLD")
    parser.add_argument("--rate", default="1gbit", help="between hosts (default: %(default)s)")
    parser.add_argument("--delay", default="500us", help="between hosts (default: %(default)s)")
    parser.add_argument("--seconds", default="3", help="for each size (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="medians of N runs (3)")
    options = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for world in options.worlds:
            lines += measured(world, options, Path(folder))
            print(f"{world} is done", file=sys.stderr)
    print("| ranks | what | by | measured | predicted | error |\n|---|---|---|---|---|---|")
    for line in lines:
        times = (units.spell_seconds(1e-6 * us) for us in (line.measured, line.predicted))
        print(
            f"| {line.world} | {line.what} | {line.by} | {' | '.join(times)} | {line.error:+.0%} |"
        )
    errors = sorted(abs(line.error) for line in lines)
    good = sum(error <= GOAL for error in errors)
    print(f"\n{good} of {len(errors)} within {GOAL:.0%}, median error {median(errors):.0%}")
    return 0 if good == len(errors) else 1


def measured(world: str, options: argparse.Namespace, folder: Path) -> list[Line]:
    where, shape = ["-n", world], Shape(1, int(world)) if world.isdecimal() else None
    asked = None
    if shape is None:
        where = ["--cluster", world, "--rate", options.rate, "--delay", options.delay]
        parsed = argparse.Namespace(
            cluster=world, ranks=None, rate=options.rate, delay=options.delay
        )
        asked = hosts.asked(parsed)
        assert asked is not None
        shape = Shape(asked.hosts, asked.ranks_per_host)
    runs = []
    for _ in range(options.repeat):
        links = tuned(asked, shape, folder / "tuning")
        runs.append(compared(world, links, shape, where, options, folder))
    return [
        Line(
            *(same[0].world, same[0].what, same[0].by),
            median(line.measured for line in same),
            median(line.predicted for line in same),
        )
        for same in zip(*runs, strict=True)
    ]


def tuned(asked: hosts.Asked | None, shape: Shape, path: Path) -> Links:
    """What `quoit tune` says of the links."""
    tune = ["-m", "quoit.cli", "tune", f"--output={path}"]
    if asked is None:
        command = [*QUOIT, "run", "-n", str(shape.ranks), *tune]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=_TUNE_S)
    else:
        with hosts.up(asked) as there:
            ranks = [
                subprocess.Popen(
                    command.arguments, env=command.environment, stdout=subprocess.DEVNULL
                )
                for command in there.by_quoit(1).commands(shape.ranks, tune)
            ]
            if codes := [code for rank in ranks if (code := rank.wait(_TUNE_S))]:
                sys.exit(f"quoit tune failed: {codes}")
    costs = _core.read_costs(str(path))
    return Links(
        costs.host_alpha,
        costs.host_beta,
        costs.net_alpha,
        costs.net_beta,
        costs.gamma,
        "quoit tune",
    )


def compared(
    world: str,
    links: Links,
    shape: Shape,
    where: list[str],
    options: argparse.Namespace,
    folder: Path,
) -> list[Line]:
    lines = []
    report = bench(folder, "all_reduce", *where, *SIZES, "--seconds", options.seconds)
    for row in report["rows"]:
        name, seconds = plan_model.choice("all_reduce", row["bytes"], shape, links)
        what = f"all_reduce {units.spell_size(row['bytes'])}"
        lines.append(Line(world, what, name, row["peers"]["quoit-numpy"]["us"], 1e6 * seconds))
    report = bench(folder, "ddp", *where, "--seconds", options.seconds)
    row = report["rows"][0]
    cell = row["peers"]["quoit"]
    alone = 1e-6 * (cell["alone_us"] + cell["ddp_us"])
    training = Training(
        gradient_bytes=row["bytes"],
        backward=alone * 2 / 3,
        forward=alone / 3,
        # Cores that all compute must also reduce; between hosts they mostly wait for the wire.
        overlap=0.0 if shape.hosts == 1 and shape.ranks >= usable_cores() else 1.0,
    )
    step = plan_model.step(training, shape, links, Codec())
    lines.append(Line(world, "DDP step", step.algorithm, cell["us"], 1e6 * step.seconds))
    return lines


def bench(folder: Path, op: str, *arguments: str) -> Any:
    path = folder / "report.json"
    backends = "quoit" if op == "ddp" else "quoit-numpy"
    command = [*QUOIT, "bench", op, *arguments, "--launcher", "quoit", "--backends", backends]
    subprocess.run([*command, f"--json={path}"], check=True, stdout=subprocess.DEVNULL)
    return json.loads(path.read_text())


if __name__ == "__main__":
    sys.exit(main())
