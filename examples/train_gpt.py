"""Train a small GPT on the source of Python's own standard library, in about two minutes.

    python examples/train_gpt.py                           # one process, no communication
    mpirun -n 2 python examples/train_gpt.py               # two ranks, by any of three launchers
    quoit run -n 2 examples/train_gpt.py
    torchrun --nproc-per-node 2 examples/train_gpt.py

The global batches are the same whatever the number of ranks, so runs can be compared:

    mpirun -n 2 python examples/train_gpt.py --backend gloo --losses gloo.json
    mpirun -n 2 python examples/train_gpt.py --backend quoit --compare gloo.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import sysconfig
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from rich.progress import BarColumn, Progress, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import quoit  # noqa: F401  (registers the backend and learns the ranks from the launcher)

RANK = int(os.environ.get("RANK", "0"))
RANKS = int(os.environ.get("WORLD_SIZE", "1"))

# Runs in one process with seeds 0, 1 and 2 ended at 3.04, 3.05 and 3.06 (Python 3.11), and with the
# libraries of Python 3.10 and 3.13 at 2.88 and 2.94. The bound is the worst plus about the spread.
BOUND = 3.25
LEARNING_RATE = 3e-3
HEAD_WIDTH = 32
VOCABULARY_SIZE = 2048
VALIDATION_WINDOWS = 128

# Parts of the library that are generated, are no ordinary code or are not on every machine.
SKIPPED = re.compile(
    r"(^|/)((encodings|ensurepip|idlelib|lib2to3|pydoc_data|tests?|(dist|site)-packages)/"
    r"|_sysconfigdata)"
)
MAX_FILE_BYTES = 200_000
# A line break and the indentation after it, a word, punctuation and digits, or a single space.
PIECE = re.compile(rb"\n *| ?[A-Za-z]+| ?[^\sA-Za-z]+|\s")


def read_library() -> tuple[bytes, bytes]:
    """Training and validation text: the standard library, every 16th file held out."""
    root = Path(sysconfig.get_path("stdlib"))
    sources = []
    for path in sorted(root.rglob("*.py")):
        if not SKIPPED.search(path.relative_to(root).as_posix()) and os.access(path, os.R_OK):
            sources.append(path.read_bytes())
    sources = [source for source in sources if len(source) <= MAX_FILE_BYTES]
    validation = b"".join(sources[7::16])
    del sources[7::16]
    if len(validation) < 100_000:
        sys.exit(
            f"found {len(sources)} files of Python source in {root}, need some hundreds: "
            "use a Python that was installed with the source of its standard library"
        )
    return b"".join(sources), validation


def build_vocabulary(text: bytes) -> list[bytes]:
    """Every single byte, then the pieces of `text` that save the most tokens."""
    counts = Counter(PIECE.findall(text))
    ranked = sorted(counts, key=lambda piece: ((1 - len(piece)) * counts[piece], piece))
    return [bytes([value]) for value in range(256)] + ranked[: VOCABULARY_SIZE - 256]


def encode(text: bytes, vocabulary: list[bytes]) -> Tensor:
    """Tokens of `text`, int64[n]; a piece outside the vocabulary is spelled byte by byte."""
    tokens = {piece: token for token, piece in enumerate(vocabulary)}
    encoded: list[int] = []
    for piece in PIECE.findall(text):
        token = tokens.get(piece)
        encoded.extend(piece if token is None else (token,))
    return torch.tensor(encoded)


def rotate(x: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., 2021) of x[..., position, channel]."""
    positions, channels = x.shape[-2:]
    frequencies = 10_000.0 ** (-torch.arange(0, channels, 2, device=x.device) / channels)
    angles = torch.arange(positions, device=x.device)[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class Block(nn.Module):
    """One pre-norm transformer layer: causal attention, then a two-layer perceptron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)
        # Each layer starts as the identity, which makes the first steps quick and safe.
        nn.init.zeros_(self.attention_out.weight)
        nn.init.zeros_(self.mlp_out.weight)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.attention_in(self.attention_norm(x)).unflatten(-1, (3, -1, HEAD_WIDTH))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each [batch, head, position, channel]
        mixed = F.scaled_dot_product_attention(rotate(query), rotate(key), value, is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp_out(F.relu(self.mlp_in(self.mlp_norm(x))).square())


class GPT(nn.Module):
    """Tokens int64[batch, position] to next-token logits float32[batch, position, vocabulary]."""

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.embedding(tokens)))
        return F.linear(x, self.embedding.weight)  # input and output share one embedding


def prediction_loss(model: nn.Module, tokens: Tensor, starts: Tensor, context: int) -> Tensor:
    """Mean cross-entropy, in nats a token, over windows of `tokens` that begin at `starts`."""
    windows = tokens[starts[:, None] + torch.arange(context + 1)]
    logits = model(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def sum_over_ranks(values: Tensor) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


@torch.no_grad()
def evaluate(model: nn.Module, tokens: Tensor, context: int) -> float:
    """Mean loss over windows spread evenly over `tokens`; each rank evaluates its share."""
    spacing = (len(tokens) - context - 1) // VALIDATION_WINDOWS
    starts = torch.arange(VALIDATION_WINDOWS)[RANK::RANKS] * spacing
    total = torch.zeros(1)
    for some in starts.split(16):
        total += prediction_loss(model, tokens, some, context) * len(some)
    return float(sum_over_ranks(total)) / VALIDATION_WINDOWS


@dataclass(frozen=True)
class History:
    losses: list[float]  # of each step, over the global batch
    validation: dict[int, float]  # by the number of steps taken
    exposed: float  # communication that backward() did not overlap, as a share of step time


def train(
    model: nn.Module, training: Tensor, validation: Tensor, args: argparse.Namespace
) -> History:
    ddp = DistributedDataParallel(model) if dist.is_initialized() else model
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 40, 1 - step / args.steps)
    )
    # DDP reduces gradients while backward() computes others. What it cannot hide, the wait for
    # slower ranks included, is the time from the last local gradient to the end of backward().
    last_gradient = 0.0

    def gradient_ready(_: Tensor) -> None:
        nonlocal last_gradient
        last_gradient = time.perf_counter()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(gradient_ready)

    losses = torch.zeros(args.steps)
    seconds = torch.zeros(args.steps, 2)  # of each step: communication exposed, and all of it
    warm_up = min(10, args.steps // 2)
    curve = {}
    generator = torch.Generator().manual_seed(args.seed)
    share = args.batch // RANKS
    terminal = sys.stdout.isatty()
    columns = "step {task.completed}/{task.total}", BarColumn(), "{task.description}"
    with Progress(*columns, TimeRemainingColumn(), disable=RANK > 0 or not terminal) as bar:
        task = bar.add_task("", total=args.steps)
        for step in range(args.steps):
            started = time.perf_counter()
            starts = torch.randint(len(training) - args.context, (args.batch,), generator=generator)
            mine = starts[RANK * share : (RANK + 1) * share]
            loss = prediction_loss(ddp, training, mine, args.context)
            optimizer.zero_grad()
            loss.backward()
            exposed = time.perf_counter() - last_gradient if RANKS > 1 else 0.0
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses[step] = loss.detach()
            seconds[step] = torch.tensor([exposed, time.perf_counter() - started])

            done = step + 1
            if done % max(1, args.steps // 10) == 0 or done == args.steps:
                curve[done] = evaluate(model, validation, args.context)
            waiting, total = seconds[max(0, done - 20) : done].mean(dim=0).tolist()
            status = f"loss {loss:.3f}  {args.batch * args.context / total:.0f} tokens/s"
            status += f"  {100 * waiting / total:.1f} % exposed" if RANKS > 1 else ""
            bar.update(task, completed=done, description=status)
            if RANK == 0 and not terminal and done % max(1, args.steps // 20) == 0:
                print(f"step {done}/{args.steps}  {status}", flush=True)

    waiting, total = sum_over_ranks(seconds[warm_up:].sum(dim=0)).tolist()
    return History((sum_over_ranks(losses) / RANKS).tolist(), curve, waiting / total)


def replicas_identical(model: nn.Module) -> bool:
    """Whether every rank holds the same parameters, bit for bit."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    digests = [""] * RANKS
    if dist.is_initialized():
        dist.all_gather_object(digests, digest.hexdigest())
    return len(set(digests)) == 1


@torch.no_grad()
def sample(model: nn.Module, vocabulary: list[bytes], context: int) -> str:
    """Code that the model writes after a prompt."""
    tokens = encode(b"class Queue:\n    def ", vocabulary)[None]
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        logits = model(tokens[:, -context:])[:, -1]
        choice = torch.multinomial((logits / 0.7).softmax(-1), 1, generator=generator)
        tokens = torch.cat((tokens, choice), dim=1)
    return b"".join(vocabulary[token] for token in tokens[0]).decode(errors="replace")


def plot(history: History, title: str, args: argparse.Namespace) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{args.plot} not drawn: matplotlib is missing, pip install matplotlib brings it")
        return
    steps, losses = torch.arange(args.steps) + 1.0, torch.tensor(history.losses)
    window = max(1, args.steps // 40)
    smooth_steps, smooth = (values.unfold(0, window, 1).mean(1) for values in (steps, losses))
    at, validation = zip(*history.validation.items(), strict=True)
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, losses, color="C0", alpha=0.25, linewidth=0.8)
    axes.plot(smooth_steps, smooth, color="C0", label="training, moving mean")
    axes.plot(at, validation, "o-", color="C1", label=f"validation, ends at {validation[-1]:.2f}")
    axes.axhline(args.bound, color="gray", linestyle="--", linewidth=1, label="bound")
    axes.set(title=title, xlabel="step", ylabel="loss (nats per token)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(args.plot, dpi=100)
    print(f"loss curve: {args.plot}")


def recorded_run(path: str) -> dict[str, Any]:
    """What --losses wrote to `path`; its errors become those of --compare."""
    try:
        run = json.loads(Path(path).read_text())
        return {name: run[name] for name in ("name", "settings", "losses")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise argparse.ArgumentTypeError(
            f"cannot read {path}, expected a file written by --losses ({error!r})"
        ) from error


def difference(losses: list[float], reference: list[float]) -> str:
    relative = [abs(a - b) / b for a, b in zip(losses, reference, strict=True)]
    if losses == reference:
        return "no, every step is bit-equal"
    return f"by up to {max(relative):.1e} (relative), at step {relative.index(max(relative)) + 1}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small GPT on the standard library.")
    parser.add_argument("--backend", choices=("gloo", "quoit"), default="quoit")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16, help="windows a step, over all ranks")
    parser.add_argument("--context", type=int, default=128, help="tokens a window")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128, help=f"a multiple of {HEAD_WIDTH}")
    parser.add_argument("--bound", type=float, default=BOUND, help="validation loss to end below")
    parser.add_argument("--plot", type=Path, default=Path("train_gpt_loss.png"))
    parser.add_argument("--losses", type=Path, help="write every step's loss to this file")
    parser.add_argument("--compare", type=recorded_run, help="a file written by --losses")
    args = parser.parse_args()
    args.settings = {}
    for name in ("steps", "batch", "context", "layers", "width", "seed"):
        value = args.settings[name] = getattr(args, name)
        if value < 1 and name != "seed":
            parser.error(f"--{name} must be at least 1, got {value}")
    if args.batch % RANKS:
        parser.error(f"--batch {args.batch} cannot be divided evenly among {RANKS} ranks")
    if args.width % HEAD_WIDTH:
        parser.error(f"--width must be a multiple of {HEAD_WIDTH}, got {args.width}")
    for path in filter(None, (args.plot, args.losses)):
        if not path.parent.is_dir():
            parser.error(f"cannot write {path}: there is no folder {path.parent}")
    if args.compare and args.compare["settings"] != args.settings:
        parser.error(
            f"--compare: that run had {args.compare['settings']}, this has {args.settings}"
        )
    return args


def main() -> int:
    args = parse_arguments()
    if "RANK" in os.environ:
        dist.init_process_group(args.backend)
    name = f"{args.backend}, {RANKS} ranks" if dist.is_initialized() else "one process"
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks_here))
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)

    texts = read_library()
    vocabulary = build_vocabulary(texts[0])
    training, validation = (encode(text, vocabulary) for text in texts)
    model = GPT(len(vocabulary), args.width, args.layers)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    title = f"GPT of {millions:.2f} M parameters on the Python standard library ({name})"
    if RANK == 0:
        print(f"{title}, {len(training) / 1e6:.1f} M training tokens", flush=True)

    history = train(model, training, validation, args)
    final = history.validation[args.steps]
    identical = replicas_identical(model)
    if RANK == 0:
        print(sample(model, vocabulary, args.context), end="\n\n")
        plot(history, title, args)
        if args.losses:
            run = {"name": name, "settings": args.settings, "losses": history.losses}
            args.losses.write_text(json.dumps(run))
        if args.compare:
            answer = difference(history.losses, args.compare["losses"])
            print(f"losses differ from {args.compare['name']}: {answer}")
        exposed = f"{100 * history.exposed:.1f} % of step time" if RANKS > 1 else "not applicable"
        verdict = "ok" if final < args.bound else "too high"
        print(f"communication not overlapped with backward: {exposed} ({name})")
        print(f"replicas identical: {'yes' if identical else 'no'}")
        print(f"validation loss {final:.2f} (bound {args.bound:.2f}: {verdict})", flush=True)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    return 0 if identical and final < args.bound else 1


if __name__ == "__main__":
    sys.exit(main())
