"""The torch.distributed backend's native half. Use it through `init_process_group("quoit")`."""

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

def create(
    store: Any,  # a c10d Store
    rank: int,
    size: int,
    timeout: float,
    mpi_library: str = "",
    mpi_size: int = 0,
    members: Sequence[int] = (),
) -> dist.Backend: ...
