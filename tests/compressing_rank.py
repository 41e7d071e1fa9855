"""A rank that compresses tensors of the test accelerator until another is killed.

    compressing_rank.py FOLDER RANK SIZE nccl|ipc

Encoded bytes go by NCCL or by CUDA IPC. Rank 1 kills itself in the middle. The others report what
they noticed and how long it took, as one line of JSON; see test_torch_device_compression.py.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import accelerator
import quoit
from quoit import compression_calls

VICTIM = 1
TIMEOUT_S = 3.0


def main() -> None:
    folder, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    accelerator.install()
    by_nccl = sys.argv[4] == "nccl"
    os.environ["QUOIT_NCCL"] = str(accelerator.NCCL_LIBRARY) if by_nccl else "off"
    os.environ["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
    os.environ["QUOIT_CUDA_DRIVER"] = str(accelerator.DRIVER_LIBRARY)
    dist.Backend.backend_capability["quoit"] = ["cpu", accelerator.NAME]
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group(
        "quoit", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=TIMEOUT_S)
    )
    began = time.monotonic()
    with accelerator.kernels():
        residual = torch.zeros(50_000, device=accelerator.NAME)
        assert compression_calls.home_of(residual.device) == residual.device
        try:
            for loop in range(1_000_000):
                if rank == VICTIM and loop == 20:
                    os.kill(os.getpid(), signal.SIGKILL)
                began = time.monotonic()
                x = torch.ones(50_000, device=accelerator.NAME)
                work = quoit.all_reduce(
                    x, async_op=loop % 2 == 0, codec=quoit.Int4(), residual=residual
                )
                if work is not None:
                    work.wait(timedelta(seconds=10 * TIMEOUT_S))
        except dist.DistBackendError as error:
            said = {"loop": loop, "error": str(error), "waited": time.monotonic() - began}
            print(json.dumps(said), flush=True)
    os._exit(0)  # the group is broken; nothing is to be ended in order


if __name__ == "__main__":
    main()
