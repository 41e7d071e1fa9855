"""The accelerator of a case: that of tests/accelerator, or CUDA with QUOIT_TEST_DEVICE=cuda.

Ranks of one machine share its first device.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

import accelerator

NAME = os.environ.get("QUOIT_TEST_DEVICE", accelerator.NAME)
FAKE = NAME == accelerator.NAME
_CYCLES = 1.5e9  # about a second's, of a GPU


def install() -> None:
    if FAKE:
        accelerator.install()
    else:
        torch.cuda.set_device(0)


@contextlib.contextmanager
def delay(seconds: float) -> Iterator[None]:
    """Within, each copy and kernel takes so long; on CUDA, the first one begins so late."""
    if FAKE:
        with accelerator.delay(seconds):
            yield
        return
    torch.cuda._sleep(int(seconds * _CYCLES))
    yield
