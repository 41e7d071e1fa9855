"""quoit.Communicator on arrays of a CUDA device, which here is a stand-in; see fake_cuda.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import device_array_cases
import fake_cuda
from conftest import Outcome
from quoit import Communicator, UnavailableError
from worlds import World, played

WORLDS = [World("processes", "aa"), World("processes", "aab", transport="tcp")]
SLOW_WORLDS = [
    World("processes", "a"),
    World("processes", "aab"),
    World("mpich", "ab"),
    World("openmpi", "aab"),
]


@pytest.mark.parametrize(("world", "case"), played(device_array_cases, WORLDS, SLOW_WORLDS))
def test_device_arrays(world: World, case: str, outcome: Outcome) -> None:
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        ("/no/libcuda.so.1", r"no CUDA driver can be loaded \(/no/libcuda.so.1: cannot open sh"),
        ("libm.so.6", r"the CUDA driver libm.so.6 lacks cuGetErrorName: one for CUDA 10.1"),
    ],
)
def test_without_a_driver_an_array_of_a_device_is_refused(
    driver: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUOIT_CUDA_DRIVER", driver)
    (alone,) = Communicator.threads("a")
    comm: Any = alone
    for array in (fake_cuda.Cupy(np.ones(3)), fake_cuda.Jax(np.ones(3))):
        with pytest.raises(UnavailableError, match=words):
            comm.all_reduce(array)
    total = np.ones(3)
    alone.all_reduce(total)
    assert total.tolist() == [1.0] * 3


def test_a_driver_without_a_device_says_so() -> None:
    program = """
import numpy as np
import fake_cuda, quoit
fake_cuda.install()
(comm,) = quoit.Communicator.threads("a")
array = fake_cuda.Cupy(np.ones(3))
with fake_cuda.failing("cuInit", 100):
    try:
        comm.all_reduce(array)
    except quoit.UnavailableError as error:
        print(error)
comm.all_reduce(array)
print(array.get())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).resolve().parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said, result = done.stdout.splitlines()
    assert "cannot be used: CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected)" in said
    assert result == "[1. 1. 1.]"
