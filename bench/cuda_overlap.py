"""What a compressed all_reduce takes from a backward pass that runs beside it on the same GPU.

    python bench/cuda_overlap.py          # two ranks, on two GPUs if there are, else on one

Writes its section of bench/RESULTS-cuda.md. Without a GPU it says there that nothing was run,
unless there are figures already, and exits with 1; so it does where the target is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import quoit
from cuda_kernels import PAGE, write_section

TITLE = "Beside a backward pass"
TARGET = 0.05  # the part by which a backward pass may become longer
RANKS = 2
ROUNDS = 40
WARM_UP = 8
WIDTH, LAYERS, BATCH = 4096, 12, 4096
BUCKET = 25 << 20  # bytes, as DDP has them
WAYS: dict[str, Any] = {
    "nothing": None,
    "NCCL, float32": None,
    "Int8": quoit.Int8(),
    "Int4": quoit.Int4(),
    "Bf16": quoit.Bf16(),
    "TopK": quoit.TopK(0.01),
    "Int8, no limit of blocks": quoit.Int8(),
}


def run(mine: Tensor, seconds: dict[str, list[float]]) -> None:
    """One round: each way in turn, timed by CUDA's events on the stream of the backward pass."""
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))
    model = model.to(mine.device, torch.bfloat16)
    count = sum(p.numel() for p in model.parameters())
    buckets = list(torch.zeros(count, device=mine.device).split(BUCKET // 4))
    lost = [torch.zeros_like(bucket) for bucket in buckets]
    for turn in range(WARM_UP + ROUNDS):
        for way, codec in WAYS.items():
            for bucket in buckets:
                bucket.normal_()
            loss = model(mine).float().square().mean()
            torch.cuda.synchronize()
            dist.barrier()
            os.environ["QUOIT_CODEC_BLOCKS"] = "0" if way.endswith("no limit of blocks") else ""
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            works = []
            begin.record()
            if way != "nothing":
                works = [
                    quoit.all_reduce(
                        bucket,
                        dist.ReduceOp.AVG,
                        async_op=True,
                        codec=codec,
                        residual=residual if codec is not None else None,
                    )
                    for bucket, residual in zip(buckets, lost, strict=True)
                ]
            loss.backward()
            end.record()
            for work in works:
                if work is not None:
                    work.wait()
            torch.cuda.synchronize()
            if turn >= WARM_UP:
                seconds[way].append(begin.elapsed_time(end) / 1e3)


def rank_part() -> None:
    rank, devices = int(os.environ["RANK"]), torch.cuda.device_count()
    torch.cuda.set_device(rank % devices)
    dist.init_process_group("quoit")
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    torch.manual_seed(rank)
    run(torch.randn(BATCH, WIDTH, device="cuda", dtype=torch.bfloat16), seconds)
    alone = statistics.median(seconds["nothing"])
    slower = {way: statistics.median(times) / alone - 1 for way, times in seconds.items()}
    everybodys: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everybodys, slower)
    dist.destroy_process_group()
    if rank > 0:
        return
    worst = {way: max(one[way] for one in everybodys) for way in WAYS}
    name = torch.cuda.get_device_name()
    shared = "one GPU" if devices < RANKS else f"{RANKS} GPUs"
    lines = [
        f"`make bench-cuda` on {name}, {RANKS} ranks on {shared}: a backward pass of {LAYERS} "
        f"linear layers of {WIDTH}, bfloat16, {alone * 1e3:.1f} ms, while as many float32 "
        f"gradients as it has parameters are reduced in buckets of 25 MiB. Medians of {ROUNDS} "
        f"rounds, ways in turns, of the rank that is slowed most; the target is {TARGET:.0%}.",
        "",
        "| reduced beside it | backward pass longer by |",
        "|---|---|",
        *(f"| {way} | {worst[way]:+.1%} |" for way in WAYS if way != "nothing"),
    ]
    write_section(TITLE, "\n".join(lines))
    print("\n".join(lines))
    missed = [way for way in ("Int8", "Int4", "Bf16", "TopK") if worst[way] > TARGET]
    if missed:
        sys.exit(f"bench/cuda_overlap.py: more than {TARGET:.0%}: {', '.join(missed)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank-part", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().rank_part:
        rank_part()
        return 0
    if not torch.cuda.is_available() or not quoit.__cuda__:
        lacks = "no GPU here" if quoit.__cuda__ else "this quoit has no kernels for CUDA"
        if f"## {TITLE}" not in PAGE.read_text():
            write_section(TITLE, "Not run: no GPU was at hand. `make bench-cuda` measures it.")
        print(f"bench/cuda_overlap.py: not run: {lacks}")
        return 1
    command = [sys.executable, "-m", "quoit.cli", "run", "-n", str(RANKS)]
    command += [sys.executable, __file__, "--rank-part"]
    several = {"NCCL_MULTI_RANK_GPU_ENABLE": "1"} if torch.cuda.device_count() < RANKS else {}
    done = subprocess.run(command, env={**os.environ, **several}, check=False, timeout=900)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
