"""Models, data, and what one rank of bench/training.py does."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

import quoit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

RANKS = 2
STEPS = {"gpt": 280, "digits": 280}
TIMED_STEPS = 70  # where only the time of a step is asked for
WARM_UP = {"gpt": 40, "digits": 20}  # steps before the codecs begin that lose much
EVALUATE_EVERY = {"gpt": 20, "digits": 5}
BUCKET_MB = 1.0  # several of either model, as large models have


def power_sgd(ddp: DistributedDataParallel, rank: int, start: int) -> powerSGD_hook.PowerSGDState:
    state = powerSGD_hook.PowerSGDState(
        None, matrix_approximation_rank=rank, start_powerSGD_iter=start, min_compression_rate=2
    )
    ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    return state


# With when to begin, for those that lose much.
WAYS: dict[str, Callable[[DistributedDataParallel, int], Any]] = {
    "float32": lambda ddp, start: None,
    "bf16": lambda ddp, start: quoit.compress(ddp, quoit.Bf16()),
    "fp8": lambda ddp, start: quoit.compress(ddp, quoit.Fp8()),
    "int8": lambda ddp, start: quoit.compress(ddp, quoit.Int8()),
    "int4": lambda ddp, start: quoit.compress(ddp, quoit.Int4()),
    "topk 1 %": lambda ddp, start: quoit.compress(ddp, quoit.TopK(0.01), start=start),
    "low rank 4": lambda ddp, start: quoit.compress(ddp, quoit.LowRank(4), start=start),
    "PowerSGD 4": lambda ddp, start: quoit.compress(
        ddp, quoit.LowRank(4, alternate=False), start=start
    ),
    "sign": lambda ddp, start: quoit.compress(ddp, quoit.Sign(), start=start),
    "auto": lambda ddp, start: quoit.compress(ddp, quoit.Auto(max_loss=0.1)),
    "gloo": lambda ddp, start: None,
    "gloo PowerSGD 4": lambda ddp, start: power_sgd(ddp, 4, start),
}
# Their gradients are those of another way, bit for bit.
TIMED_ONLY = ("auto", "gloo")


@dataclass(frozen=True)
class Key:
    model: str
    way: str
    rate: str
    seed: int
    steps: int

    def __str__(self) -> str:
        return f"{self.model}, {self.way}, {self.rate}, seed {self.seed}, {self.steps} steps"


@dataclass
class Run:
    """What came of one training.

    began: seconds that the way took before the first step (Auto measures). seconds: of each step,
    of the slower rank. sent: bytes of gradients that a rank sent in each step. validation: by the
    number of steps taken: loss for the GPT, accuracy for the digits. chosen: by Auto.
    """

    key: Key
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    validation: dict[str, float] = field(default_factory=dict)
    began: float = 0.0
    identical: bool = False
    chosen: str = ""


@dataclass(frozen=True)
class Task:
    """A model and how it is trained."""

    batch: int
    model: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module, int], tuple[torch.optim.Optimizer, Any]]
    loss: Callable[[nn.Module, Tensor], Tensor]  # of the examples with these numbers
    examples: int
    evaluate: Callable[[nn.Module], float]


def load(path: Path) -> list[Run]:
    return [from_json(run) for run in json.loads(path.read_text())] if path.exists() else []


def from_json(run: dict[str, Any]) -> Run:
    """The reverse of `asdict`."""
    return Run(**{**run, "key": Key(**run["key"])})


# ---- The models.


def sum_of_ranks(values: Iterable[Tensor]) -> float:
    total = torch.zeros(1)
    for value in values:
        total += value
    dist.all_reduce(total)
    return float(total)


def gpt(data: Path) -> Task:
    import train_gpt

    loaded = torch.load(data / "gpt.pt")
    training, validation, size = loaded["training"], loaded["validation"], loaded["vocabulary"]
    context = 128

    def optimizer(model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, Any]:
        adam = torch.optim.AdamW(
            model.parameters(),
            lr=train_gpt.LEARNING_RATE,
            betas=(0.9, 0.95),
            weight_decay=0.1,
            fused=True,
        )
        return adam, torch.optim.lr_scheduler.LambdaLR(
            adam, lambda step: min((step + 1) / 40, 1 - step / steps)
        )

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        windows = 64
        spacing = (len(validation) - context - 1) // windows
        mine = torch.arange(windows)[dist.get_rank() :: RANKS] * spacing
        return (
            sum_of_ranks(
                train_gpt.prediction_loss(model, validation, some, context) * len(some)
                for some in mine.split(16)
            )
            / windows
        )

    return Task(
        batch=16,
        model=lambda: train_gpt.GPT(size, 128, 4),
        optimizer=optimizer,
        loss=lambda model, starts: train_gpt.prediction_loss(model, training, starts, context),
        examples=len(training) - context,
        evaluate=evaluate,
    )


def prepare_gpt(data: Path) -> None:
    import train_gpt

    texts = train_gpt.read_library()
    vocabulary = train_gpt.build_vocabulary(texts[0])
    training, validation = (train_gpt.encode(text, vocabulary) for text in texts)
    torch.save(
        {"training": training, "validation": validation, "vocabulary": len(vocabulary)},
        data / "gpt.pt",
    )


def digits(_: Path) -> Task:
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)[order] / 16
    y = torch.tensor(targets)[order]
    held = len(y) // 4

    def model() -> nn.Module:
        net = nn.Sequential(
            nn.Conv2d(1, 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 192, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(768, 512),
            nn.ReLU(),
            nn.Linear(512, 10),
        )
        for layer in net:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        return net

    def optimizer(model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, Any]:
        sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        return sgd, torch.optim.lr_scheduler.LambdaLR(
            sgd, lambda step: min((step + 1) / 10, (1 + math.cos(math.pi * step / steps)) / 2)
        )

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        mine = slice(dist.get_rank(), held, RANKS)
        return sum_of_ranks([(model(x[mine]).argmax(1) == y[mine]).sum()]) / held

    return Task(
        batch=64,
        model=model,
        optimizer=optimizer,
        loss=lambda net, numbers: F.cross_entropy(net(x[held + numbers]), y[held + numbers]),
        examples=len(y) - held,
        evaluate=evaluate,
    )


TASKS: dict[str, Callable[[Path], Task]] = {"gpt": gpt, "digits": digits}


# ---- One rank.


def train(key: Key, data: Path) -> Run:
    torch.set_num_threads(1)
    torch.manual_seed(key.seed)
    task = TASKS[key.model](data)
    model = task.model()
    # torch's PowerSGD does not end on gloo with more than one bucket.
    bucket = 1000.0 if key.way == "gloo PowerSGD 4" else BUCKET_MB
    ddp = DistributedDataParallel(model, bucket_cap_mb=bucket)
    begun = time.perf_counter()
    state = WAYS[key.way](ddp, WARM_UP[key.model])
    began = time.perf_counter() - begun
    optimizer, schedule = task.optimizer(model, STEPS[key.model])
    generator = torch.Generator().manual_seed(1000 + key.seed)
    run = Run(key, began=began)
    rank, share = dist.get_rank(), task.batch // RANKS
    sent = meter(state, 4 * sum(p.numel() for p in model.parameters()) * 2 * (RANKS - 1) // RANKS)
    for step in range(key.steps):
        numbers = torch.randint(task.examples, (task.batch,), generator=generator)
        dist.barrier()
        start = time.perf_counter()
        loss = task.loss(ddp, numbers[rank * share : (rank + 1) * share])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        took = torch.tensor([time.perf_counter() - start], dtype=torch.float64)
        dist.all_reduce(took, dist.ReduceOp.MAX)
        mean = loss.detach().double()
        dist.all_reduce(mean)
        run.losses.append(float(mean) / RANKS)
        run.seconds.append(float(took))
        run.sent.append(sent())
        if (step + 1) % EVALUATE_EVERY[key.model] == 0 or step + 1 == STEPS[key.model]:
            run.validation[str(step + 1)] = task.evaluate(model)
    if isinstance(state, quoit.CompressionState) and state.chosen is not None:
        run.chosen = state.chosen.codec.name if state.chosen.codec else "none"
    numbers = torch.cat([p.detach().view(-1) for p in model.parameters()])
    others = [torch.empty_like(numbers) for _ in range(RANKS)]
    dist.all_gather(others, numbers)
    run.identical = all(torch.equal(numbers, other) for other in others)
    return run


def meter(state: Any, plain: int) -> Callable[[], int]:
    """Tells after each step what a rank sent in it; `plain` where no codec was at work."""
    before = 0

    def sent() -> int:
        nonlocal before
        by_codec = 0
        if isinstance(state, quoit.CompressionState):
            by_codec = state.report().sent_bytes
        elif isinstance(state, powerSGD_hook.PowerSGDState):
            total = state.total_numel_after_compression * 4 * 2 * (RANKS - 1) // RANKS
            by_codec, before = total - before, total
        return by_codec or plain

    return sent


def be_rank(key: Key, data: Path, meeting: Path, rank: int) -> None:
    backend = "gloo" if key.way.startswith("gloo") else "quoit"
    dist.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=RANKS)
    run = train(key, data)
    if rank == 0:
        (meeting.with_suffix(".json")).write_text(json.dumps(asdict(run)))
    dist.barrier()
    dist.destroy_process_group()
