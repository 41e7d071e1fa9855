"""What compression does to training: how fast, and how well, on links of a given rate.

    sudo python bench/training.py                      # all of it: about an hour on two idle cores
    sudo python bench/training.py --models digits --rates 1gbit --ways float32,int8 --seeds 1
    python bench/training.py --report                  # tables and plots of what there is

Two hosts of one rank (network namespaces, joined by links of that rate) train a small GPT on the
source of Python's standard library (examples/train_gpt.py) and a convolutional net on
scikit-learn's digits. Every run is kept in --out as it ends; runs that are there are not repeated.

Gradients do not depend on the links, so every seed trains to the end at the first rate only; at the
other rates the first seed runs for some steps, for the time of a step, and its losses must be the
same bits. So it is everywhere with Auto, whose gradients are those of what it chose, and with gloo,
whose are float32's. Time to accuracy is the number of steps times the median step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from quoit.cluster import Cluster
from training_report import HERE, write
from training_runs import (
    RANKS,
    STEPS,
    TASKS,
    TIMED_ONLY,
    TIMED_STEPS,
    WAYS,
    Key,
    Run,
    be_rank,
    from_json,
    load,
    prepare_gpt,
)

DEADLINE_S = 600.0


def wanted(chosen: argparse.Namespace) -> Iterator[Key]:
    for rate in chosen.rates:
        for model in chosen.models:
            for seed in range(chosen.seeds):
                for way in chosen.ways:
                    whole = rate == chosen.rates[0] and way not in TIMED_ONLY
                    if whole or seed == 0:
                        yield Key(model, way, rate, seed, STEPS[model] if whole else TIMED_STEPS)


def measure(chosen: argparse.Namespace) -> list[str]:
    """Runs what is not there yet; returns what failed."""
    runs, failed = load(chosen.out), []
    todo = [key for key in wanted(chosen) if key not in {run.key for run in runs}]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        if any(key.model == "gpt" for key in todo):
            prepare_gpt(data)
        for rate in dict.fromkeys(key.rate for key in todo):
            with Cluster(RANKS, rate=rate) as cluster:
                for key in (k for k in todo if k.rate == rate):
                    number = todo.index(key)
                    minutes = (time.monotonic() - begun) / 60
                    print(f"{number + 1}/{len(todo)}, {minutes:.1f} min: {key}", flush=True)
                    run = launch(cluster, key, data, data / str(number))
                    if run is None:
                        failed.append(str(key))
                        continue
                    runs.append(run)
                    chosen.out.parent.mkdir(parents=True, exist_ok=True)
                    chosen.out.write_text(json.dumps([asdict(run) for run in runs]) + "\n")
    return failed


def launch(cluster: Cluster, key: Key, data: Path, meeting: Path) -> Run | None:
    environment = {
        "GLOO_SOCKET_IFNAME": "eth0",
        "QUOIT_IFACE": "eth0",
        "OMP_NUM_THREADS": "1",
    }
    ranks = [
        cluster.start(
            rank,
            [
                sys.executable,
                __file__,
                "--rank",
                json.dumps([asdict(key), str(data), str(meeting), rank]),
            ],
            environment,
        )
        for rank in range(RANKS)
    ]
    try:
        codes = [rank.wait(DEADLINE_S) for rank in ranks]
    except subprocess.TimeoutExpired:
        for rank in ranks:
            rank.kill()
        codes = [rank.wait() for rank in ranks]
    if any(codes):
        print(f"{key}: ranks ended with {codes}", file=sys.stderr)
        return None
    return from_json(json.loads(meeting.with_suffix(".json").read_text()))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training with compressed gradients.")
    parser.add_argument("--models", default=",".join(TASKS))
    parser.add_argument("--rates", default="1gbit,200mbit", help="the first one trains to the end")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--out", type=Path, default=HERE.parent / "build" / "bench" / "training.json"
    )
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    for name in ("models", "rates", "ways"):
        setattr(chosen, name, getattr(chosen, name).split(","))
    for name, known in (("models", TASKS), ("ways", WAYS)):
        for value in getattr(chosen, name):
            if value not in known:
                parser.error(f"--{name}: '{value}' is none of {', '.join(known)}")
    return chosen


def main() -> int:
    chosen = parse()
    if chosen.rank:
        key, data, meeting, rank = json.loads(chosen.rank)
        be_rank(Key(**key), Path(data), Path(meeting), rank)
        return 0
    failed: list[str] = []
    if not chosen.report:
        if why := Cluster.missing(chosen.rates[0]):
            print(why, file=sys.stderr)
            return 1
        failed = measure(chosen)
    write(load(chosen.out), f"{os.cpu_count()} cores, torch {torch.__version__}")
    for key in failed:
        print(f"failed: {key}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
