"""Compression of an accelerator's tensors: there, by NCCL and kernels, and by way of the host."""

from __future__ import annotations

import warnings

import pytest

import accelerator
from conftest import Outcome
from worlds import World, played

with warnings.catch_warnings():  # torch's own, about torch.jit
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch_device_compression_cases
    import torch_staged_compression_cases


@pytest.mark.parametrize(
    ("world", "case"),
    [
        *played(
            torch_device_compression_cases,
            [World("processes", "aaa")],
            [World("processes", "a"), World("processes", "aa"), World("processes", "aaaa")],
        ),
        *played(torch_staged_compression_cases, [], [World("processes", "aa")]),
    ],
)
def test_torch_device_compression(world: World, case: str, outcome: Outcome) -> None:
    accelerator.build()  # which may take longer than a launch
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)
