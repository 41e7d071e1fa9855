"""NCCL for accelerator tensors, on the test accelerator and a library that has NCCL's interface.

Ranks are processes; each plays all cases in one launch, every case with groups of its own.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import accelerator
import nccl_cases
from quoit import nccl

_HERE = Path(__file__).resolve().parent
_LAUNCH_S = 150.0

Outcomes = Callable[[int], dict[str, str]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What went wrong in each case with so many ranks; nothing where all went right."""

    @functools.cache
    def play(size: int) -> dict[str, str]:
        accelerator.build()
        folder = tmp_path_factory.mktemp(f"nccl{size}")
        environ = os.environ | {"QUOIT_NCCL": str(accelerator.NCCL_LIBRARY), "OMP_NUM_THREADS": "1"}
        ranks = [
            subprocess.Popen(
                [sys.executable, str(_HERE / "nccl_rank.py"), str(folder), str(rank), str(size)]
                + list(nccl_cases.CASES),
                env=environ,
                cwd=_HERE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(size)
        ]
        printed = []
        for process in ranks:
            try:
                printed.append(process.communicate(timeout=_LAUNCH_S)[0])
            except subprocess.TimeoutExpired:
                process.kill()
                printed.append(process.communicate()[0])
        said = [_read(folder / f"{rank}.json") for rank in range(size)]
        return {
            name: "".join(
                f"rank {rank}: {said[rank].get(name, f'did not end: {printed[rank]}')}\n"
                for rank in range(size)
                if said[rank].get(name, "missing")
            )
            for name in nccl_cases.CASES
        }

    return play


def _read(file: Path) -> dict[str, str]:
    said: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    return said


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("case", nccl_cases.CASES)
def test_nccl(case: str, size: int, outcomes: Outcomes) -> None:
    if wrong := outcomes(size)[case]:
        pytest.fail(wrong, pytrace=False)


_ALONE = """
import sys
sys.path.insert(0, {here!r})
import accelerator
accelerator.install()
import torch, torch.distributed as dist
from quoit import _build
c10d = _build.load_c10d()
group = c10d.nccl_group(dist.HashStore(), 0, 1, 5.0, {libraries!r}, "a device")
print(c10d.nccl_unusable(group, torch.device("fake", 0)))
"""


def _said_alone(libraries: list[str], asked: str | None) -> str:
    environ = {name: value for name, value in os.environ.items() if name != "QUOIT_NCCL"}
    if asked is not None:
        environ["QUOIT_NCCL"] = asked
    done = subprocess.run(
        [sys.executable, "-c", _ALONE.format(here=str(_HERE), libraries=libraries)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60.0,
        check=True,
    )
    return done.stdout.strip()


def test_a_library_that_is_missing_says_where_it_was_looked_for() -> None:
    said = _said_alone([], "/no/libnccl.so")
    assert said.startswith("rank 0: cannot load the NCCL library that QUOIT_NCCL names (/no/")
    said = _said_alone(["/no/such/libnccl.so.2"], None)
    assert said.startswith("rank 0: no NCCL library can be loaded (/no/such/libnccl.so.2: ")
    assert said.endswith("or set QUOIT_NCCL to the path of a libnccl.so.2")


def test_candidates_are_tried_in_order() -> None:
    accelerator.build()
    assert _said_alone(["/no/libnccl.so.2", str(accelerator.NCCL_LIBRARY)], None) == ""


def test_a_library_that_is_none_says_what_it_lacks(tmp_path: Path) -> None:
    source, library = tmp_path / "old.c", tmp_path / "libold.so"
    source.write_text("int ncclGetVersion(int* v) { *v = 21803; return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    assert f"the NCCL library {library} lacks ncclGetUniqueId" in _said_alone([], str(library))


def test_wheels_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "nvidia/nccl/lib/libnccl.so.2"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    assert str(file) in nccl.libraries()


def test_off_is_off() -> None:
    assert nccl.wanted(True, {})
    assert not nccl.wanted(False, {})
    assert nccl.wanted(False, {"QUOIT_NCCL": "/lib/libxccl.so"})
    assert nccl.device_identity("fake", 1) != nccl.device_identity("fake", 0)
