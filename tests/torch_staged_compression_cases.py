"""The cases of torch_compression_cases.py with models on an accelerator that NCCL does not serve.

Their gradients are compressed on the host, and what is lost of them is kept there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tested_device
import torch_compression_cases as on_cpu
import torch_device_cases
from stage import Job
from torch_cases import Case

CASES: dict[str, Case] = {
    name: on_cpu.CASES[name]
    for name in (
        "every_codec_in_ddp",
        "accumulation_scaling_and_views",
        "unused_parameters",
        "a_checkpoint_goes_on",
        "replicas_are_compared",
        "one_tensor",
        "sharded_models",
    )
}


@contextlib.contextmanager
def group(job: Job, rank: int, number: int) -> Iterator[Any]:
    with torch_device_cases.group(job, rank, number) as pg:
        on_cpu.DEVICE = tested_device.NAME
        yield pg
