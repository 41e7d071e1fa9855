"""Compression of an accelerator's tensors: there, by NCCL or CUDA IPC, and by way of the host."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import accelerator
import compressing_rank
from conftest import Outcome
from worlds import World, played

with warnings.catch_warnings():  # torch's own, about torch.jit
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch_device_compression_cases
    import torch_ipc_compression_cases
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


@pytest.mark.parametrize(
    ("world", "case"),
    played(
        torch_ipc_compression_cases,
        [World("processes", "aa")],
        [World("processes", "a"), World("processes", "aaa"), World("processes", "aaaa")],
    ),
)
def test_torch_ipc_compression(world: World, case: str, outcome: Outcome) -> None:
    accelerator.build()
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)


@pytest.mark.parametrize("way", ["nccl", "ipc"])
def test_a_rank_is_killed(way: str, tmp_path: Path) -> None:
    """The others raise within their timeout; none hangs, or ends with wrong numbers."""
    accelerator.build()
    script = Path(__file__).with_name("compressing_rank.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, script, tmp_path, str(rank), "3", way],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    try:
        said = [rank.communicate(timeout=100)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert ranks[compressing_rank.VICTIM].returncode == -signal.SIGKILL
    for number in (0, 2):
        report = json.loads(said[number])
        assert report["loop"] >= 20
        assert f"[quoit rank {number} on " in report["error"]
        assert report["waited"] < 5 * compressing_rank.TIMEOUT_S
