"""What is to be measured: the plan that every rank gets, and what is known of each operation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

Record = dict[str, Any]  # what rank 0 tells: a line of JSON

COLLECTIVES = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "all_to_all")
OPS = (*COLLECTIVES, "send_recv", "barrier", "ddp", "codec")
REDUCING = ("all_reduce", "reduce_scatter")
SPLITTING = ("reduce_scatter", "all_gather", "all_to_all")  # a size is that of one part per rank
MODES = ("latency", "bandwidth", "bidirectional")
BACKENDS = ("quoit", "quoit-numpy", "gloo", "mpi", "nccl")
REDUCE_OPS = ("sum", "avg", "min", "max", "product")
MEMCPY = "memcpy"
DISPATCH = "dispatch"  # a call of torch.distributed that reaches a backend which does nothing
LIMITS = (DISPATCH, MEMCPY)  # are timed beside the peers, and are none
DISPATCHED = ("all_reduce", "broadcast", "send_recv", "barrier")  # in others it copies, too

# What busbw is, as a multiple of algbw, with n ranks: the bytes that each rank must send or receive
# at least, over the bytes of the size (nccl-tests' PERFORMANCE.md).
BUS_FACTORS: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "all_to_all": lambda n: (n - 1) / n,
    "broadcast": lambda n: 1.0,
    "send_recv": lambda n: 1.0,
}


@dataclass(frozen=True)
class Plan:
    """The same on all ranks.

    op, mode: of OPS; of MODES for send_recv, else "". sizes: bytes, ascending; empty for a barrier
    and for ddp. dtype: of data.DTYPES. redop: of REDUCE_OPS. root: of a broadcast. backends: of
    BACKENDS; strict: they were asked for by name, so none may be missing. algorithm: of quoit, or
    "auto". in_flight: calls at a time; 0: as the operation has it. seconds: for each size; rounds:
    exactly so many instead, unless 0.
    """

    op: str
    mode: str
    sizes: tuple[int, ...]
    dtype: str
    redop: str
    root: int
    backends: tuple[str, ...]
    strict: bool
    algorithm: str
    in_flight: int
    seconds: float
    rounds: int
    torch_threads: int

    def written(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Plan:
        fields = json.loads(text)
        return cls(
            **{
                **fields,
                "sizes": tuple(fields["sizes"]),
                "backends": tuple(fields["backends"]),
            }
        )
