"""A training step under DistributedDataParallel: how long it takes, and what communication adds."""

from __future__ import annotations

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

WIDTH, LAYERS = 1120, 8  # 8 x (1120 x 1120 + 1120) = 10 044 160 parameters
BATCH = 32
_WARM_UP = 3  # DDP rebuilds its buckets after the first step
_TOLERANCE = 1e-5


@dataclass
class Steps:
    """Of one backend; seconds on the slowest rank, in pairs that followed each other."""

    whole: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    wrong: int = 0


class Trainer:
    """A model of its own for each backend, with the same weights and the same data."""

    def __init__(self, group: Any, rank: int) -> None:
        import torch
        from torch import nn
        from torch.nn.parallel import DistributedDataParallel

        torch.manual_seed(1)
        layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
        self.model = DistributedDataParallel(nn.Sequential(*layers), process_group=group)
        # A step of no length takes as long as any, and weights stay equal without communication.
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        generator = torch.Generator().manual_seed(100 + rank)
        self.batch = torch.randn(BATCH, WIDTH, generator=generator)

    def gradients(self, communicate: bool) -> None:
        self.optimizer.zero_grad()
        with nullcontext() if communicate else self.model.no_sync():
            self.model(self.batch).square().mean().backward()

    def step(self, communicate: bool) -> None:
        self.gradients(communicate)
        self.optimizer.step()

    def flat(self) -> torch.Tensor:
        import torch

        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None])


def work(plan: Plan, peers: Peers, tell: Callable[[Record], None]) -> None:
    """Rounds in which every backend makes a step with and one without communication."""
    control = peers.control
    trainers = {name: Trainer(group, control.rank) for name, group in peers.groups.items()}
    tell({"about": peers.about, "left_out": peers.left_out})
    steps = {name: Steps() for name in trainers}
    for name, trainer in trainers.items():
        for _ in range(_WARM_UP):
            trainer.step(True)
        steps[name].wrong = control.total(wrong(control, trainer))
    count = sum(p.numel() for p in next(iter(trainers.values())).model.parameters())
    done, start = 0, time.perf_counter()
    while True:
        faulthandler.dump_traceback_later(DEADLINE_S, exit=True)
        for name, trainer in trainers.items():
            # In turns, so that neither is always the one that follows the other.
            for communicate in (True, False) if done % 2 else (False, True):
                spent = _timed(control, trainer, communicate)
                (steps[name].whole if communicate else steps[name].alone).append(spent)
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


def _timed(control: Control, trainer: Trainer, communicate: bool) -> float:
    control.barrier()
    start = time.perf_counter()
    trainer.step(communicate)
    return control.longest(time.perf_counter() - start)


def wrong(control: Control, trainer: Trainer) -> int:
    """Elements of the gradient that are not the mean of what the ranks computed alone.

    Backends add in different orders, so the comparison has a tolerance.
    """
    trainer.gradients(False)
    mean = trainer.flat().numpy().copy()
    control.average(mean)
    trainer.gradients(True)
    got = trainer.flat().numpy()
    scale = float(np.abs(mean).max())
    return int(np.count_nonzero(~(np.abs(got - mean) <= _TOLERANCE * scale)))


def summary(steps: Steps) -> Record:
    whole, alone = np.array(steps.whole), np.array(steps.alone)
    return {
        "us": 1e6 * float(np.median(whole)),
        "p50": 1e6 * float(np.quantile(whole, 0.50)),
        "p99": 1e6 * float(np.quantile(whole, 0.99)),
        "alone_us": 1e6 * float(np.median(alone)),
        "exposed_us": 1e6 * float(np.median(whole - alone)),
        "single": len(whole),
        "wrong": steps.wrong,
    }
