"""What compression does to training: how fast, and how well, on links of a given rate.

    sudo python bench/training.py                      # all of it: about an hour on two idle cores
    sudo python bench/training.py --models digits --rates 1gbit --ways float32,int8 --seeds 1
    python bench/training.py --report                  # tables and plots of what there is

Two hosts of one rank (network namespaces, joined by links of that rate) train a small GPT on the
source of Python's standard library (examples/train_gpt.py) and a convolutional net on
scikit-learn's digits. Every run is kept in --out as it ends; runs that are there are not repeated.

Gradients do not depend on the links, so every seed trains to the end at the first rate only; at the
other rates the first seed runs for some steps, for the time of a step, and its losses must be the
same bits. Time to accuracy is the number of steps times the median step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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
from quoit.cluster import Cluster

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))

RANKS = 2
TIMED_STEPS = 40  # where only the time of a step is asked for
WARM_UP = 20  # steps before the codecs begin that lose much
DEADLINE_S = 1200.0
WAYS: dict[str, Callable[[DistributedDataParallel], Any]] = {
    "float32": lambda ddp: None,
    "bf16": lambda ddp: quoit.compress(ddp, quoit.Bf16()),
    "fp8": lambda ddp: quoit.compress(ddp, quoit.Fp8()),
    "int8": lambda ddp: quoit.compress(ddp, quoit.Int8()),
    "int4": lambda ddp: quoit.compress(ddp, quoit.Int4()),
    "topk 1 %": lambda ddp: quoit.compress(ddp, quoit.TopK(0.01), start=WARM_UP),
    "low rank 4": lambda ddp: quoit.compress(ddp, quoit.LowRank(4), start=WARM_UP),
    "sign": lambda ddp: quoit.compress(ddp, quoit.Sign(), start=WARM_UP),
    "auto": lambda ddp: quoit.compress(ddp, quoit.Auto(max_loss=0.1)),
    "gloo": lambda ddp: None,
    "gloo PowerSGD 4": lambda ddp: ddp.register_comm_hook(
        powerSGD_hook.PowerSGDState(
            None, matrix_approximation_rank=4, start_powerSGD_iter=WARM_UP, min_compression_rate=2
        ),
        powerSGD_hook.powerSGD_hook,
    ),
}


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
    """seconds: of each step, of the slower rank. validation: by the number of steps taken: loss for
    the GPT, accuracy for the digits. sent: bytes a rank and step, plain where nothing is known."""

    key: Key
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    validation: dict[str, float] = field(default_factory=dict)
    sent: float = 0.0
    identical: bool = False
    chosen: str = ""


@dataclass(frozen=True)
class Task:
    """A model and how it is trained; better: 1 where more is, -1 where less is."""

    evaluate_every: int
    batch: int
    model: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module, int], tuple[torch.optim.Optimizer, Any]]
    loss: Callable[[nn.Module, Tensor], Tensor]  # of the examples with these numbers
    examples: int
    evaluate: Callable[[nn.Module], float]
    bucket_mb: float


# ---- The models.


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
        total = torch.zeros(1)
        for some in mine.split(16):
            total += train_gpt.prediction_loss(model, validation, some, context) * len(some)
        dist.all_reduce(total)
        return float(total) / windows

    return Task(
        evaluate_every=30,
        batch=16,
        model=lambda: train_gpt.GPT(size, 128, 4),
        optimizer=optimizer,
        loss=lambda model, starts: train_gpt.prediction_loss(model, training, starts, context),
        examples=len(training) - context,
        evaluate=evaluate,
        bucket_mb=1.0,
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
        return nn.Sequential(
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

    def optimizer(model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, Any]:
        sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        return sgd, torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps)

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        return float((model(x[:held]).argmax(1) == y[:held]).float().mean())

    return Task(
        evaluate_every=10,
        batch=64,
        model=model,
        optimizer=optimizer,
        loss=lambda net, numbers: F.cross_entropy(net(x[held + numbers]), y[held + numbers]),
        examples=len(y) - held,
        evaluate=evaluate,
        bucket_mb=1.0,
    )


TASKS: dict[str, Callable[[Path], Task]] = {"gpt": gpt, "digits": digits}
STEPS = {"gpt": 300, "digits": 200}
BETTER = {"gpt": -1, "digits": 1}


# ---- One rank.


def train(key: Key, data: Path) -> Run:
    torch.set_num_threads(1)
    torch.manual_seed(key.seed)
    task = TASKS[key.model](data)
    model = task.model()
    # torch's PowerSGD does not end on gloo with more than one bucket.
    bucket = 1000.0 if key.way == "gloo PowerSGD 4" else task.bucket_mb
    ddp = DistributedDataParallel(model, bucket_cap_mb=bucket)
    state = WAYS[key.way](ddp)
    optimizer, schedule = task.optimizer(model, STEPS[key.model])
    generator = torch.Generator().manual_seed(1000 + key.seed)
    run = Run(key)
    rank, share = dist.get_rank(), task.batch // RANKS
    sent = []
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
        if isinstance(state, quoit.CompressionState):
            sent.append(state.report().sent_bytes)
        if (step + 1) % task.evaluate_every == 0:
            run.validation[str(step + 1)] = task.evaluate(model)
    plain = 4 * sum(p.numel() for p in model.parameters()) * 2 * (RANKS - 1) // RANKS
    run.sent = statistics.mean(sent) if sent and any(sent) else float(plain)
    if isinstance(state, quoit.CompressionState) and state.chosen is not None:
        run.chosen = state.chosen.codec.name if state.chosen.codec else "none"
    numbers = torch.cat([p.detach().view(-1) for p in model.parameters()])
    others = [torch.empty_like(numbers) for _ in range(RANKS)]
    dist.all_gather(others, numbers)
    run.identical = all(torch.equal(numbers, other) for other in others)
    return run


def be_rank(key: Key, data: Path, meeting: Path, rank: int) -> None:
    backend = "gloo" if key.way.startswith("gloo") else "quoit"
    dist.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=RANKS)
    run = train(key, data)
    if rank == 0:
        (meeting.with_suffix(".json")).write_text(json.dumps(asdict(run)))
    dist.barrier()
    dist.destroy_process_group()


# ---- All runs.


def wanted(chosen: argparse.Namespace) -> Iterator[Key]:
    for number, rate in enumerate(chosen.rates):
        for model in chosen.models:
            for seed in range(chosen.seeds if number == 0 else 1):
                for way in chosen.ways:
                    steps = STEPS[model] if number == 0 else TIMED_STEPS
                    yield Key(model, way, rate, seed, steps)


def load(path: Path) -> list[Run]:
    runs = json.loads(path.read_text()) if path.exists() else []
    return [Run(**{**run, "key": Key(**run["key"])}) for run in runs]


def measure(chosen: argparse.Namespace) -> None:
    runs = load(chosen.out)
    todo = [key for key in wanted(chosen) if key not in {run.key for run in runs}]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        if any(key.model == "gpt" for key in todo):
            prepare_gpt(data)
        for rate in dict.fromkeys(key.rate for key in todo):
            with Cluster(RANKS, rate=rate) as cluster:
                for number, key in enumerate(k for k in todo if k.rate == rate):
                    print(key, flush=True)
                    meeting = data / f"{rate}-{number}"
                    runs.append(launch(cluster, key, data, meeting))
                    chosen.out.write_text(json.dumps([asdict(run) for run in runs]) + "\n")


def launch(cluster: Cluster, key: Key, data: Path, meeting: Path) -> Run:
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
    codes = [rank.wait(DEADLINE_S) for rank in ranks]
    if any(codes):
        sys.exit(f"{key}: ranks ended with {codes}")
    run = json.loads(meeting.with_suffix(".json").read_text())
    return Run(**{**run, "key": Key(**run["key"])})


# ---- What came of it.


@dataclass(frozen=True)
class Line:
    """One way of training one model at one rate; final and its spread over the seeds."""

    way: str
    step_ms: float
    megabytes: float  # sent by a rank in a step
    final: float
    spread: float  # from the least to the largest over the seeds
    seconds: float | None  # to the target; None: not reached
    chosen: str


def lines(runs: Sequence[Run], model: str, rate: str, target: float) -> list[Line]:
    found = []
    for way in WAYS:
        at = [r for r in runs if (r.key.model, r.key.way, r.key.rate) == (model, way, rate)]
        if not at:
            continue
        chosen = at[0].chosen
        curves = curves_of(runs, model, way, chosen)
        if not curves:  # Auto chose what was not run
            continue
        finals = [list(curve.values())[-1] for curve in curves]
        step = statistics.median([s for r in at for s in r.seconds[WARM_UP:]])
        steps = [reached(curve, target, BETTER[model]) for curve in curves]
        known = [n for n in steps if n is not None]
        found.append(
            Line(
                way,
                step * 1e3,
                statistics.mean([r.sent for r in at]) * 1e-6,
                statistics.mean(finals),
                max(finals) - min(finals),
                statistics.mean(known) * step if len(known) == len(steps) else None,
                chosen,
            )
        )
    return found


def curves_of(runs: Sequence[Run], model: str, way: str, chosen: str) -> list[dict[int, float]]:
    """Validation by step of each seed: of the runs that went to the end. Auto's curves are those of
    what it chose, whose gradients have the same bits."""
    named = {"none": "float32", "": way}
    same = named.get(chosen, chosen.split("(")[0].replace("topk", "topk 1 %"))
    whole = [
        run
        for run in runs
        if run.key.model == model and run.key.way == same and run.key.steps > TIMED_STEPS
    ]
    return [{int(step): v for step, v in run.validation.items()} for run in whole]


def reached(curve: dict[int, float], target: float, better: int) -> int | None:
    return next((n for n, value in curve.items() if better * value >= better * target), None)


def target_of(runs: Sequence[Run], model: str) -> float:
    """What float32 reaches with every seed at nine tenths of the way; rounded."""
    curves = curves_of(runs, model, "float32", "")
    at = [list(curve.values())[int(0.8 * len(curve))] for curve in curves]
    worst = max(at) if BETTER[model] < 0 else min(at)
    return round(worst, 2)


def check_bits(runs: Sequence[Run]) -> list[str]:
    """Where a run at another rate had other losses than the first."""
    first = {(r.key.model, r.key.way, r.key.seed): r for r in runs if r.key.steps > TIMED_STEPS}
    return [
        str(run.key)
        for run in runs
        if run.key.way not in ("auto",)
        and run.losses != first[run.key.model, run.key.way, run.key.seed].losses[: run.key.steps]
    ]


def report(chosen: argparse.Namespace) -> str:
    runs = load(chosen.out)
    said = []
    for model in dict.fromkeys(run.key.model for run in runs):
        target = target_of(runs, model)
        what = "loss" if BETTER[model] < 0 else "accuracy"
        for rate in dict.fromkeys(run.key.rate for run in runs if run.key.model == model):
            said.append(f"\n### {model}, {rate}: time to a validation {what} of {target}\n")
            said.append(
                "| way | step, ms | sent a step, MB | final | spread | time to target | vs bf16 |"
            )
            said.append("|---|---|---|---|---|---|---|")
            table = lines(runs, model, rate, target)
            bf16 = next((line.seconds for line in table if line.way == "bf16"), None)
            for line in table:
                way = f"{line.way} ({line.chosen})" if line.chosen else line.way
                seconds = "not reached" if line.seconds is None else f"{line.seconds:.1f} s"
                faster = f"{bf16 / line.seconds:.2f}x" if bf16 and line.seconds else ""
                said.append(
                    f"| {way} | {line.step_ms:.1f} | {line.megabytes:.3f} | {line.final:.4f} | "
                    f"{line.spread:.4f} | {seconds} | {faster} |"
                )
    other = check_bits(runs)
    said.append(
        "\nRuns at other rates had the same losses, bit for bit."
        if not other
        else "\nOther losses at another rate: " + "; ".join(other)
    )
    diverged = [str(run.key) for run in runs if not run.identical]
    said.append(
        "All ranks ended with the same parameters, bit for bit, in every run."
        if not diverged
        else "Ranks ended with different parameters: " + "; ".join(diverged)
    )
    return "\n".join(said) + "\n"


def plot(chosen: argparse.Namespace) -> None:
    from matplotlib.figure import Figure

    runs = load(chosen.out)
    colors = dict(zip(WAYS, [f"C{i}" for i in range(10)] + ["black"], strict=True))
    for model in dict.fromkeys(run.key.model for run in runs):
        rates = list(dict.fromkeys(run.key.rate for run in runs if run.key.model == model))
        figure = Figure(figsize=(5 * (len(rates) + 1), 4.4), layout="constrained")
        panels = figure.subplots(1, len(rates) + 1, squeeze=False)[0]
        what = "loss" if BETTER[model] < 0 else "accuracy"
        for axes, rate in zip(panels, rates, strict=False):
            for line in lines(runs, model, rate, target_of(runs, model)):
                if line.way == "auto":
                    continue
                curves = curves_of(runs, model, line.way, "")
                steps = list(curves[0])
                means = [statistics.mean(curve[n] for curve in curves) for n in steps]
                seconds = [n * line.step_ms / 1e3 for n in steps]
                style = "--" if line.way.startswith("gloo") else "-"
                axes.plot(seconds, means, style, color=colors[line.way], label=line.way, lw=1.4)
            axes.axhline(target_of(runs, model), color="gray", lw=0.8, ls=":")
            axes.set(
                title=f"{model} at {rate}",
                xlabel="seconds of training",
                ylabel=f"validation {what}",
            )
        for line in lines(runs, model, rates[0], target_of(runs, model)):
            if line.way in ("auto", "gloo"):
                continue
            panels[-1].errorbar(
                line.megabytes,
                line.final,
                yerr=line.spread / 2,
                fmt="o",
                color=colors[line.way],
                capsize=3,
            )
            panels[-1].annotate(
                line.way, (line.megabytes, line.final), textcoords="offset points", xytext=(6, 4)
            )
        panels[-1].set(
            title="quality and bytes", xscale="log", xlabel="MB sent a step", ylabel=f"final {what}"
        )
        for axes in panels:
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
            if BETTER[model] > 0:
                axes.set_ylim(0.9, 1.0)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(HERE / "plots" / f"training_{model}.png", dpi=110)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training with compressed gradients.")
    parser.add_argument("--models", default=",".join(TASKS))
    parser.add_argument("--rates", default="1gbit,200mbit", help="the first one trains to the end")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "training.json")
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
    if not chosen.report:
        if why := Cluster.missing(chosen.rates[0]):
            print(why, file=sys.stderr)
            return 1
        measure(chosen)
    plot(chosen)
    machine = f"{RANKS} hosts of one rank on {os.cpu_count()} cores, torch {torch.__version__}"
    print(f"{machine}\n{report(chosen)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
