"""csrc/transport/cuda_abi.h against the header of CUDA's driver, where there is a toolkit."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from quoit._build import compiler

ROOT = Path(__file__).resolve().parent.parent


def _include() -> Path | None:
    nvcc = shutil.which(os.environ.get("CUDACXX", "nvcc"))
    homes = [Path(nvcc).resolve().parent.parent] if nvcc else []
    for home in (*homes, Path("/usr/local/cuda")):
        if (home / "include/cuda.h").exists():
            return home / "include"
    return None


@pytest.mark.skipif(_include() is None, reason="there is no CUDA toolkit, and so no cuda.h")
@pytest.mark.parametrize(
    ("wrong", "right", "words"),
    [
        ("", "", "32 of 32 functions, 0 differences\n"),
        ("cuEventDestroy_v2", "cuEventDestroy", "cuEventDestroy is cuEventDestroy_v2\n"),
        ("CudaCall<CudaEvent> event_query", "CudaCall<CudaStream> event_query", "static assertion"),
        ("NotReady = 600", "NotReady = 601", "static assertion"),
        ("char bytes[64]", "char bytes[72]", "static assertion"),
        ("cuIpcOpenMemHandle_v2", "cuIpcOpenMemHandle", "OpenMemHandle is cuIpcOpenMemHandle_v2\n"),
    ],
)
def test_the_header_agrees(wrong: str, right: str, words: str, tmp_path: Path) -> None:
    """As it is; and with something wrong in it, it does not."""
    header = (ROOT / "csrc/transport/cuda_abi.h").read_text()
    assert wrong in header
    (tmp_path / "transport").mkdir()
    (tmp_path / "transport/cuda_abi.h").write_text(
        header.replace(wrong, right) if wrong else header
    )
    program, folders = tmp_path / "check", ("-I", str(tmp_path), "-I", str(_include()))
    command = [*compiler(), "-std=c++20", *folders, str(ROOT / "tests/cuda_abi_check.cpp")]
    built = subprocess.run(
        [*command, "-o", str(program)], capture_output=True, text=True, timeout=120, check=False
    )
    if "assertion" in words:
        assert words in built.stderr
        return
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert words in done.stdout
    assert (done.returncode == 0) == (not wrong)
