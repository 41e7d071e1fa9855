"""What a build says of CUDA, with and without it, and the report on its kernels.

The kernels' arithmetic is tested by tests/cpp/test_cuda_twins.cpp; on a device by `make test-cuda`.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import quoit
from quoit import _core, doctor_text
from quoit.doctor_software import packages

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = Path(_core.__file__).parent / "libquoit.so"


def test_a_build_says_what_it_has() -> None:
    assert quoit.__cuda__ == _core.cuda_built()
    assert re.fullmatch(r"(CUDA \d+\.\d+: sm_80, sm_90, PTX)?", quoit.__cuda__)


def test_cuda_is_refused_where_it_cannot_run() -> None:
    devices, problem = _core.cuda_devices()
    if devices:
        _core.require_cuda()
        return
    assert problem
    with pytest.raises(quoit.UnavailableError) as raised:
        _core.require_cuda()
    why = "no device that can be used: " + problem if quoit.__cuda__ else "this build of quoit has"
    assert why in str(raised.value)


def test_the_doctor_says_whether_there_is_cuda() -> None:
    software = packages()
    devices, problem = _core.cuda_devices()
    assert software.cuda == quoit.__cuda__
    assert software.no_cuda == (problem if quoit.__cuda__ and not devices else "")


@pytest.mark.parametrize(
    ("cuda", "no_cuda", "no_ipc", "said"),
    [
        ("", "", "", "0.1.0, kernels for x86-64-v3, without CUDA; Python"),
        (
            *("CUDA 13.0: sm_80", "", ""),
            "kernels for x86-64-v3 and CUDA 13.0: sm_80, CUDA IPC between processes; Python",
        ),
        ("CUDA 13.0: sm_80", "", "no", "and CUDA 13.0: sm_80 (no CUDA IPC: no); Python"),
        ("CUDA 13.0: sm_80", "no driver", "", "and CUDA 13.0: sm_80 (off: no driver); Python"),
    ],
)
def test_the_doctor_says_it_in_words(cuda: str, no_cuda: str, no_ipc: str, said: str) -> None:
    from test_doctor import HEALTHY

    software = HEALTHY.software
    assert software is not None
    changed = {**vars(software), "cuda": cuda, "no_cuda": no_cuda, "no_ipc": no_ipc}
    one = type(HEALTHY)(**{**vars(HEALTHY), "software": type(software)(**changed)})
    assert said in doctor_text._quoit(one)


@pytest.mark.parametrize(
    ("peers", "said"),
    [
        ((True, True, True), "13.0, 3 × H200 (P2P between all pairs), NCCL 2.27"),
        ((True, False, False), "13.0, 3 × H200 (P2P between 1 of 3 pairs), NCCL 2.27"),
        ((False, False, False), "13.0, 3 × H200 (P2P between no pairs), NCCL 2.27"),
    ],
)
def test_the_doctor_says_which_gpus_reach_each_other(peers: tuple[bool, ...], said: str) -> None:
    from test_doctor import HEALTHY

    told = replace(HEALTHY.torch, cuda="13.0", gpus=("H200",) * 3, nccl="2.27", peers=peers)
    assert doctor_text._cuda([replace(HEALTHY, torch=told)]) == said


def test_the_library_needs_no_driver_and_hides_the_runtime() -> None:
    """A process may load torch's libcudart, too; neither may find the other's functions."""
    tool = ["readelf", "--wide", "--dynamic", "--dyn-syms", str(LIBRARY)]
    listing = subprocess.run(tool, capture_output=True, text=True, timeout=60, check=True).stdout
    assert not re.findall(r"NEEDED.*libcuda", listing)
    exported = [line.split() for line in listing.splitlines() if " GLOBAL " in line]
    assert exported
    assert [e[-1] for e in exported if e[-1].startswith(("cuda", "cu")) and e[6] != "UND"] == []


# ---- bench/cuda_kernels.py


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cuda_kernels", ROOT / "bench/cuda_kernels.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["cuda_kernels"] = module
    spec.loader.exec_module(module)
    return module


PTXAS = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z3addPf' for 'sm_80'
ptxas info    : Function properties for _Z3addPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 1 barriers, 512 bytes smem, 360 bytes cmem[0]
ptxas info    : Compiling entry function '_Z3mulPf' for 'sm_90'
ptxas info    : Function properties for _Z3mulPf
    16 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 80 registers, used 0 barriers
"""


def test_spills_are_found(report: ModuleType) -> None:
    add, mul = report.parse("a", PTXAS)
    assert (add.registers, add.shared, add.stack, add.spills) == (12, 512, 0, 0)
    assert (mul.architecture, mul.registers, mul.stack, mul.spills) == ("sm_90", 80, 16, 32)


def test_a_section_is_replaced(report: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for title, text in [("A", "one"), ("B", "two"), ("A", "three")]:
        report.write_section(title, text, page)
    assert page.read_text() == "# Kernels for CUDA\n\n## A\n\nthree\n\n## B\n\ntwo\n"


def test_every_kernel_is_in_the_report_and_none_spills(report: ModuleType) -> None:
    page = report.PAGE.read_text()
    for source in ROOT.glob("csrc/kernels/*.cu"):
        assert source.stem == "cuda_device" or f"| {source.name} |" in page, source
    rows = [line.split("|")[-4:-1] for line in page.splitlines() if ".cu | `" in line]
    assert rows
    assert {cell.strip() for _, *cells in rows for cell in cells} == {"0 B"}
