"""quoit.Auto: which codec, if any, is the fastest on the links of a group."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from quoit import compression_calls
from quoit.codecs import Auto, Bf16, Codec, Int4, Int8, Sign, TopK

log = logging.getLogger("quoit")

CANDIDATES: tuple[Codec, ...] = (Bf16(), Int8(), Int4(), TopK(), Sign())
# Bytes to measure with: about what one bucket has, but no more than a slow link moves in a moment.
MOST_BYTES = 4 << 20
LEAST_BYTES = 64 << 10
ROUNDS = 5


@dataclass(frozen=True)
class Chosen:
    """What was measured, and what follows."""

    codec: Codec | None
    nbytes: int
    plain_seconds: float  # of an all_reduce of so many bytes
    codec_seconds: float  # the same with the codec; without one, of the best that is allowed
    every: int  # steps between reports to the log

    def saved(self, nbytes: int) -> float:
        """Seconds of communication that the codec saves on so many bytes of gradients."""
        if self.codec is None:
            return 0.0
        return (self.plain_seconds - self.codec_seconds) * nbytes / self.nbytes


def choose(
    auto: Auto, group: dist.ProcessGroup, gradient_bytes: int, device: torch.device
) -> Chosen:
    """Measures an all_reduce without and with each allowed codec, in turn; collective.

    All ranks choose the same: by the time of the slowest, the median of some rounds.
    """
    nbytes = max(LEAST_BYTES, min(MOST_BYTES, gradient_bytes)) // 4 * 4
    codecs = [codec for codec in CANDIDATES if codec.loss <= auto.max_loss]
    plain, *times = _measure([None, *codecs], group, nbytes, device)
    best = min(range(len(codecs)), key=lambda i: times[i], default=None)
    fastest = plain if best is None else times[best]
    pays = best is not None and fastest <= (1 - auto.gain) * plain
    codec = codecs[best] if best is not None and pays else None
    chosen = Chosen(codec, nbytes, plain, fastest, auto.every)
    if group.rank() == 0:
        told = ", ".join(
            f"{name} {seconds * 1e3:.2f} ms"
            for name, seconds in zip(
                ["without", *(codec.name for codec in codecs)], [plain, *times], strict=True
            )
        )
        what = chosen.codec.name if chosen.codec else "no codec"
        log.info("quoit.Auto chose %s: all_reduce of %d KiB %s", what, nbytes >> 10, told)
    return chosen


def _measure(
    ways: Sequence[Codec | None], group: dist.ProcessGroup, nbytes: int, device: torch.device
) -> list[float]:
    # Not torch's generator: what the model draws stays the same.
    generator = torch.Generator().manual_seed(group.rank())
    numbers = torch.randn(nbytes // 4, generator=generator).to(device)
    buffer = torch.empty_like(numbers)
    rounds = torch.zeros(ROUNDS, len(ways), dtype=torch.float64)
    for turn in range(-1, ROUNDS):  # the first one warms up
        for i, codec in enumerate(ways):
            buffer.copy_(numbers)
            _settle(device)
            dist.barrier(group)
            seconds = _time(buffer, codec, group)
            if turn >= 0:
                rounds[turn, i] = seconds
    dist.all_reduce(rounds, dist.ReduceOp.MAX, group)
    return [statistics.median(column) for column in rounds.T.tolist()]


def _time(buffer: Tensor, codec: Codec | None, group: dist.ProcessGroup) -> float:
    start = time.perf_counter()
    compression_calls.all_reduce(buffer, dist.ReduceOp.AVG, group, codec=codec)
    _settle(buffer.device)
    return time.perf_counter() - start


def _settle(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
