"""What codecs gain on slow links: one all_reduce, plain and by each codec, between imitated hosts.

    sudo python bench/links.py [--hosts 2] [--ranks 1] [--rate 1gbit] [--bytes 64M] [--rounds 5]

The ways take turns, so that noise is shared; each figure is the median of the rounds, and each
round's time that of its slowest rank. Needs root: see `quoit bench --cluster`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import quoit
from quoit import units
from quoit.cluster import Cluster
from quoit.codecs import Codec

WAYS: dict[str, Codec | None] = {
    "float32": None,
    "bf16": quoit.Bf16(),
    "fp8": quoit.Fp8(),
    "int8": quoit.Int8(),
    "int4": quoit.Int4(),
    "int4(hadamard)": quoit.Int4(hadamard=True),
    "sign": quoit.Sign(),
}
DEADLINE_S = 600.0


def everybodys(folder: Path, rank: int, size: int, mine: str) -> list[str]:
    """A rendezvous by files, which appear whole."""
    (folder / f"{rank}.new").write_text(mine)
    (folder / f"{rank}.new").rename(folder / f"{rank}")
    given_up = time.monotonic() + 60.0
    while not all((folder / f"{r}").exists() for r in range(size)):
        if time.monotonic() > given_up:
            raise TimeoutError("the ranks of the benchmark did not meet within 60 s")
        time.sleep(0.01)
    return [(folder / f"{r}").read_text() for r in range(size)]


def work(folder: Path, rank: int, size: int, count: int, rounds: int) -> None:
    """One rank: prints, on rank 0, the seconds of every round by way."""
    meetings = iter(range(1_000))

    def meet(mine: str) -> list[str]:
        place = folder / f"meeting{next(meetings)}"
        place.mkdir(exist_ok=True)
        return everybodys(place, rank, size, mine)

    comm = quoit.Communicator(rank, size, meet, timeout=120.0)
    given = np.random.default_rng(rank).standard_normal(count).astype(np.float32)
    array, slowest = np.empty_like(given), np.empty(1)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(rounds + 1):
        for name, codec in WAYS.items():
            array[:] = given
            comm.barrier()
            start = time.perf_counter()
            comm.all_reduce(array, "AVG", codec=codec)
            slowest[0] = time.perf_counter() - start
            comm.all_reduce(slowest, "MAX")
            if turn > 0:  # the first one warms up
                seconds[name].append(float(slowest[0]))
    comm.close()
    if rank == 0:
        print(json.dumps(seconds))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=1, help="of each host")
    parser.add_argument("--rate", default="1gbit")
    parser.add_argument("--bytes", type=units.size, default="64M")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rank", help=argparse.SUPPRESS)  # of a rank: FOLDER:RANK
    chosen = parser.parse_args()
    size, count = chosen.hosts * chosen.ranks, chosen.bytes // 4
    if chosen.rank:
        folder, _, rank = chosen.rank.rpartition(":")
        work(Path(folder), int(rank), size, count, chosen.rounds)
        return 0
    if reason := Cluster.missing(chosen.rate):
        print(reason, file=sys.stderr)
        return 1
    options = [
        *(f"--{name}={getattr(chosen, name)}" for name in ("hosts", "ranks", "rounds", "bytes")),
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        Cluster(chosen.hosts, rate=chosen.rate) as cluster,
    ):
        ranks = []
        for rank in range(size):
            out = Path(folder) / f"said{rank}"
            command = [sys.executable, __file__, *options, f"--rank={folder}:{rank}"]
            with out.open("w") as said:
                ranks.append(cluster.start(rank // chosen.ranks, command, stdout=said))
        codes = [rank.wait(DEADLINE_S) for rank in ranks]
        if any(codes):
            print(f"ranks ended with {codes}", file=sys.stderr)
            return 1
        seconds = json.loads((Path(folder) / "said0").read_text())
    shape = f"{chosen.hosts} hosts x {chosen.ranks}"
    print(f"{units.spell_size(chosen.bytes)} on {shape} at {chosen.rate}")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        spread = f"{min(seconds[name]) * 1e3:.0f} to {max(seconds[name]) * 1e3:.0f}"
        ratios = (
            f"{medians['float32'] / median:5.2f}x float32  {medians['bf16'] / median:5.2f}x bf16"
        )
        print(f"{name:16} {median * 1e3:8.1f} ms  ({spread})  {ratios}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
