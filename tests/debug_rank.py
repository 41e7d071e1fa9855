"""A rank under TORCH_DISTRIBUTED_DEBUG=DETAIL; see test_torch_calls.py."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("quoit", timeout=timedelta(seconds=30))
rank, n = dist.get_rank(), dist.get_world_size()
pg: Any = dist.group.WORLD
assert type(pg._get_backend(torch.device("cpu"))).__name__ == "_ProcessGroupWrapper"
total = torch.ones(4)
dist.all_reduce(total)
assert total.tolist() == [n] * 4
model = DistributedDataParallel(torch.nn.Linear(4, 4))
for _ in range(3):
    model(torch.full((2, 4), float(rank))).sum().backward()
dist.monitored_barrier()
objects: list[Any] = [None] * n
dist.all_gather_object(objects, rank)
assert objects == list(range(n))
pair = dist.new_group([0, n - 1])
if rank in (0, n - 1):
    dist.broadcast(total, 0, group=pair)
send = dist.isend(total, (rank + 1) % n)
dist.recv(total, (rank - 1) % n)
assert send is not None
send.wait()
with pytest.raises(RuntimeError, match=r"mismatch between collectives|ranks disagree"):
    dist.all_reduce(torch.ones(12 if rank else 16))
dist.destroy_process_group()
print("well", flush=True)
