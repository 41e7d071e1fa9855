"""What collectives and training steps are thought to take; see docs/plan.md.

The formulas of the collectives are those by which the runtime chooses, in csrc/collective/cost.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from quoit import _core

FIRST_BUCKET = 1 << 20  # bytes; DDP starts with a small one, so that the network has work early
MOST_RANKS = 1_000_000

# Bits of float32 over bits on the wire, scales included: bfloat16; int8 with a 16-bit scale for
# each 128 numbers; int4 with 16-bit scale and 16-bit zero for each 64.
RATIOS = {"none": 1.0, "bf16": 2.0, "int8": 32 / 8.125, "int4": 32 / 4.5}


@dataclass(frozen=True)
class Links:
    """Seconds per message (alpha) and per byte (beta) inside hosts and between them.

    host_*: of a round in which all ranks of a host take part. net_*: of a host's one link, which
    its ranks share. gamma: seconds to add a byte to another. source: where the figures are from.
    """

    host_alpha: float
    host_beta: float
    net_alpha: float
    net_beta: float
    gamma: float
    source: str = ""

    def costs(self, ratio: float = 1.0) -> _core.Costs:
        """For the runtime's model, when `ratio` times fewer bytes go between hosts."""
        costs = _core.Costs()
        costs.host_alpha, costs.host_beta = self.host_alpha, self.host_beta
        costs.net_alpha, costs.net_beta = self.net_alpha, self.net_beta / ratio
        costs.gamma = self.gamma
        return costs


@dataclass(frozen=True)
class Shape:
    """Equally many ranks on every host."""

    hosts: int
    ranks_per_host: int

    @property
    def ranks(self) -> int:
        return self.hosts * self.ranks_per_host


@dataclass(frozen=True)
class Codec:
    """Compression of what goes between hosts.

    ratio: how many times fewer bytes. seconds_per_byte: to encode and decode a byte of gradient.
    """

    name: str = "none"
    ratio: float = 1.0
    seconds_per_byte: float = 0.0


@dataclass(frozen=True)
class Training:
    """One step of training with DDP.

    gradient_bytes: of all gradients. forward, backward, other: seconds of computing; other comes
    after the gradients (the optimizer). bucket_bytes: DDP's bucket_cap_mb. overlap: how much of the
    backward pass goes on while gradients are reduced: 1 when other hardware moves them, 0 when the
    same cores do. curve: points (part of the backward pass, part of the gradients that are there by
    then), ascending, the last (1, 1); between them, straight lines from (0, 0).
    """

    gradient_bytes: int
    backward: float
    forward: float = 0.0
    other: float = 0.0
    bucket_bytes: int = 25 << 20
    overlap: float = 1.0
    curve: Sequence[tuple[float, float]] = ((1.0, 1.0),)

    @property
    def compute(self) -> float:
        return self.forward + self.backward + self.other


@dataclass(frozen=True)
class Step:
    """How a step is thought to go; seconds. exposed: what communication adds to computing."""

    seconds: float
    exposed: float
    communication: float
    buckets: int
    efficiency: float  # computing over the step
    algorithm: str = ""  # of the largest bucket


def ways(
    op: str, size: float, shape: Shape, links: Links, greeting: bool = True
) -> dict[str, float]:
    """Seconds by algorithm, the fastest first.

    greeting: no less than quoit's ranks take to compare their calls; others do not.
    """
    if shape.ranks == 1:
        return {"none": 0.0}
    costs = links.costs()
    names = _core.algorithms(op, shape.hosts, shape.ranks_per_host)
    least = _core.greeting(shape.hosts, shape.ranks_per_host, costs) if greeting else 0.0
    times = {
        name: max(least, _core.predict(op, name, size, shape.hosts, shape.ranks_per_host, costs))
        for name in names
    }
    return dict(sorted(times.items(), key=lambda one: one[1]))


def choice(
    op: str, size: float, shape: Shape, links: Links, codec: Codec | None = None
) -> tuple[str, float]:
    """The algorithm that the runtime takes, and its seconds; compressed where a codec is given."""
    if shape.ranks == 1:
        return "none", 0.0
    codec = codec or Codec()
    # On one host the runtime takes shared memory, and nothing is worth compressing.
    names = (
        ["direct"] if shape.hosts == 1 else _core.algorithms(op, shape.hosts, shape.ranks_per_host)
    )
    costs = links.costs(codec.ratio)
    best = ("", float("inf"))
    for name in names:
        seconds = _core.predict(op, name, size, shape.hosts, shape.ranks_per_host, costs)
        if shape.hosts > 1:
            seconds += _coding(name, size, shape, codec)
        best = min(best, (name, seconds), key=lambda one: one[1])
    return best[0], max(best[1], _core.greeting(shape.hosts, shape.ranks_per_host, costs))


def _coding(name: str, size: float, shape: Shape, codec: Codec) -> float:
    """Seconds that a rank encodes and decodes.

    It encodes all it sends, decodes what others send of its part (as much), encodes the sum of its
    part and decodes everybody's sums: one and a half times there and back, and half a part. In a
    hierarchy the ranks of a host share the work.
    """
    mine = size / (shape.ranks_per_host if name == "hierarchy" else 1)
    parts = shape.hosts if name == "hierarchy" else shape.ranks
    return mine * (1.5 + 0.5 / parts) * codec.seconds_per_byte


def buckets(gradient_bytes: int, bucket_bytes: int) -> list[int]:
    """DDP's buckets, in the order in which they become ready."""
    sizes: list[int] = []
    left = gradient_bytes
    while left > 0:
        most = bucket_bytes if sizes else min(bucket_bytes, FIRST_BUCKET)
        sizes.append(min(left, most))
        left -= sizes[-1]
    return sizes


def simulate(training: Training, all_reduce: Callable[[int], float]) -> Step:
    """A step in which buckets are reduced one after another as they become ready."""
    now = done = spent = 0.0  # clock; how far the backward pass is; in communication
    gradients = 0
    sizes = buckets(training.gradient_bytes, training.bucket_bytes)
    for size in sizes:
        gradients += size
        ready = training.backward * _moment(training.curve, gradients / training.gradient_bytes)
        if done < ready:
            now += ready - done
            done = ready
        took = all_reduce(size)
        now += took
        spent += took
        done = min(training.backward, done + training.overlap * took)
    backward = now + training.backward - done
    seconds = backward + training.forward + training.other
    return Step(
        seconds=seconds,
        exposed=backward - training.backward,
        communication=spent,
        buckets=len(sizes),
        efficiency=training.compute / seconds if seconds > 0 else 1.0,
    )


def _moment(curve: Sequence[tuple[float, float]], part: float) -> float:
    """When that part of the gradients is there, as part of the backward pass."""
    before = (0.0, 0.0)
    for point in curve:
        if part <= point[1]:
            rise = point[1] - before[1]
            return before[0] + (point[0] - before[0]) * ((part - before[1]) / rise if rise else 1.0)
        before = point
    return 1.0


def step(training: Training, shape: Shape, links: Links, codec: Codec) -> Step:
    """A training step on that many hosts."""
    memory: dict[int, tuple[str, float]] = {}

    def all_reduce(size: int) -> float:
        if size not in memory:
            memory[size] = choice("all_reduce", size, shape, links, codec)
        return memory[size][1]

    made = simulate(training, all_reduce)
    largest = max(memory, default=None)
    return replace(made, algorithm=memory[largest][0] if largest is not None else "none")
