"""A training step under DistributedDataParallel: how long it takes, and what communication adds."""

from __future__ import annotations

import copy
import faulthandler
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from quoit.bench.measure import FEWEST_ROUNDS, Control
from quoit.bench.peers import DEADLINE_S, Peers
from quoit.bench.plan import Plan, Record

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import GradBucket
    from torch.nn.parallel import DistributedDataParallel

WIDTH, LAYERS = 1120, 8  # 8 x (1120 x 1120 + 1120) = 10 044 160 parameters
BATCH = 32
_WARM_UP = 3  # DDP rebuilds its buckets after the first step
_TOLERANCE = 1e-5


# Kinds of steps: under no_sync(); with buckets that DDP fills and empties but that are not sent; as
# it comes. What a kind adds to the one before it: what DDP itself costs, what communication does.
ALONE, SILENT, WHOLE = KINDS = ("alone", "silent", "whole")


@dataclass
class Steps:
    """Of one backend; seconds on the slowest rank, by kind, in turns that followed each other."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    wrong: int = 0


class Trainer:
    """A model of its own for each backend, with the same weights and the same data."""

    def __init__(self, group: Any, rank: int) -> None:
        import torch
        from torch import nn
        from torch.nn.parallel import DistributedDataParallel

        torch.manual_seed(1)
        layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
        model = nn.Sequential(*layers)
        self.model = DistributedDataParallel(copy.deepcopy(model), process_group=group)
        self.silent = DistributedDataParallel(model, process_group=group)
        self.silent.register_comm_hook(None, _send_nothing)
        # A step of no length takes as long as any, and weights stay equal without communication.
        self.optimizers = {
            one: torch.optim.SGD(one.parameters(), lr=0.0) for one in (self.model, self.silent)
        }
        generator = torch.Generator().manual_seed(100 + rank)
        self.batch = torch.randn(BATCH, WIDTH, generator=generator)

    def gradients(self, kind: str) -> DistributedDataParallel:
        model = self.silent if kind == SILENT else self.model
        self.optimizers[model].zero_grad()
        with model.no_sync() if kind == ALONE else nullcontext():
            model(self.batch).square().mean().backward()
        return model

    def step(self, kind: str) -> None:
        self.optimizers[self.gradients(kind)].step()

    def flat(self) -> torch.Tensor:
        import torch

        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None])


def _send_nothing(_: object, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    import torch

    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


_send_nothing.quoit_overlaps = True  # type: ignore[attr-defined]  # nothing comes out of order
_send_nothing.__annotations__.clear()  # which torch compares with its own objects


def work(plan: Plan, peers: Peers, tell: Callable[[Record], None]) -> None:
    """Rounds in which every backend makes a step of each kind."""
    control = peers.control
    trainers = {name: Trainer(group, control.rank) for name, group in peers.groups.items()}
    tell({"about": peers.about, "left_out": peers.left_out})
    steps = {name: Steps() for name in trainers}
    for name, trainer in trainers.items():
        for _ in range(_WARM_UP):
            for kind in KINDS:
                trainer.step(kind)
        steps[name].wrong = control.total(wrong(control, trainer))
    count = sum(p.numel() for p in next(iter(trainers.values())).model.parameters())
    done, start = 0, time.perf_counter()
    while True:
        faulthandler.dump_traceback_later(DEADLINE_S, exit=True)
        for name, trainer in trainers.items():
            # In turns, so that none is always the one that follows another.
            for kind in KINDS if done % 2 else reversed(KINDS):
                steps[name].seconds[kind].append(_timed(control, trainer, kind))
        done += 1
        spent = control.longest(time.perf_counter() - start)
        part = (
            done / plan.rounds if plan.rounds else min(spent / plan.seconds, done / FEWEST_ROUNDS)
        )
        tell({"progress": min(1.0, part), "bytes": 0})
        if part >= 1.0:
            break
    told = {name: summary(one) for name, one in steps.items()}
    tell({"bytes": 4 * count, "count": count, "rounds": done, "peers": told})


def _timed(control: Control, trainer: Trainer, kind: str) -> float:
    control.barrier()
    start = time.perf_counter()
    trainer.step(kind)
    return control.longest(time.perf_counter() - start)


def wrong(control: Control, trainer: Trainer) -> int:
    """Elements of the gradient that are not the mean of what the ranks computed alone.

    Backends add in different orders, so the comparison has a tolerance.
    """
    trainer.gradients(ALONE)
    mean = trainer.flat().numpy().copy()
    control.average(mean)
    trainer.gradients(WHOLE)
    got = trainer.flat().numpy()
    scale = float(np.abs(mean).max())
    return int(np.count_nonzero(~(np.abs(got - mean) <= _TOLERANCE * scale)))


def summary(steps: Steps) -> Record:
    alone, silent, whole = (np.array(steps.seconds[kind]) for kind in KINDS)
    return {
        "us": 1e6 * float(np.median(whole)),
        "p50": 1e6 * float(np.quantile(whole, 0.50)),
        "p99": 1e6 * float(np.quantile(whole, 0.99)),
        "alone_us": 1e6 * float(np.median(alone)),
        "ddp_us": 1e6 * float(np.median(silent - alone)),
        "exposed_us": 1e6 * float(np.median(whole - silent)),
        "single": len(whole),
        "wrong": steps.wrong,
    }
