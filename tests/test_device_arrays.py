"""quoit.Communicator on arrays of a CUDA device, which here is a stand-in; see fake_cuda.py."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import building
import device_array_cases
import device_ipc_cases
import device_mpi_cases
import fake_cuda
import mpirun
from conftest import Outcome
from device_array_cases import COUNTS, mine
from quoit import Communicator, UnavailableError, _core
from test_collectives import on_all
from worlds import World, launched, played, run_launched

WORLDS = [World("processes", "aa")]
SLOW_WORLDS = [
    World("processes", "a"),
    World("processes", "aab", transport="tcp"),
    World("processes", "aab"),
    World("mpich", "ab"),
    World("openmpi", "aab"),
]

IPC_WORLDS = [World("processes", "aa")]
SLOW_IPC_WORLDS = [
    World("processes", "a"),
    World("processes", "aaa"),
    World("processes", "aaaa"),
    World("processes", "aaa", algorithm="ring"),
    World("openmpi", "aaa"),
]


@pytest.mark.parametrize(("world", "case"), played(device_ipc_cases, IPC_WORLDS, SLOW_IPC_WORLDS))
def test_device_arrays_by_ipc(world: World, case: str, outcome: Outcome) -> None:
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)


MPI_WORLDS = [World("mpich", "ab")]
SLOW_MPI_WORLDS = [
    World("openmpi", "aab"),
    World("mpich", "abc", algorithm="ring"),
    World("openmpi", "abcde", algorithm="doubling"),
    World("mpich", "abcde", algorithm="halving"),
    World("openmpi", "abc"),
    World("mpich", "aabb"),
]


# Those that other ways play, too.
SLOW_MPI_CASES = [
    name
    for name in device_mpi_cases.CASES
    if name.startswith("any_") or device_mpi_cases.CASES[name] is device_array_cases.CASES.get(name)
]


@pytest.mark.parametrize(
    ("world", "case"),
    played(device_mpi_cases, MPI_WORLDS, SLOW_MPI_WORLDS, SLOW_MPI_CASES),
)
def test_device_arrays_over_mpi(world: World, case: str, outcome: Outcome) -> None:
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)


@pytest.mark.parametrize("family", mpirun.FAMILIES)
def test_an_mpi_that_says_that_it_takes_memory_of_devices_is_given_it(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = building.FOLDER / "libmpisays.so"
    with building.locked():
        source = Path(__file__).with_name("accelerator") / "mpi_says.cpp"
        building.build(library, [source], [])
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("QUOIT_TEST_MPI_SAYS", "mpi")
    played = ("as_the_library_says", "nothing_goes_by_the_host")
    wrong = run_launched(World(family, "ab"), "device_mpi_cases", played, tmp_path)
    assert not any(wrong.values()), wrong


DYING = """
import os, signal, sys, time
from pathlib import Path
sys.modules["torch"] = None
sys.path.insert(0, sys.argv[1])
import numpy as np
import fake_cuda, quoit, stage
from quoit.launch import detect

place = detect()
os.environ.update(QUOIT_HOST="ab"[place.rank], QUOIT_IFACE="lo", QUOIT_MPI_CUDA="on")
fake_cuda.install()
fake_cuda.kernels().fake_offer_kernels()
comm = quoit.Communicator(place.rank, 2, stage.file_rendezvous(Path(sys.argv[2]), place.rank, 2))
assert comm.device_route() == "mpi"
array = fake_cuda.Cupy(np.ones(200_000, np.float32), fake_cuda.new_stream())
for loop in range(1_000_000):
    if place.rank == 1 and loop == 30:
        print("dies", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    comm.all_reduce(array, "MAX")
"""


@pytest.mark.parametrize("family", mpirun.FAMILIES)
def test_a_rank_that_dies_ends_a_job_over_mpi(family: str, tmp_path: Path) -> None:
    """As both MPIs have it, also while memory of devices is under way; nothing is left."""
    program = tmp_path / "dying.py"
    program.write_text(DYING)
    arguments = [str(program), str(Path(__file__).parent), str(tmp_path / "meeting")]
    with launched(World(family, "ab"), arguments) as process:
        out, err = process.communicate(timeout=40)
    assert "dies" in out, err
    assert process.returncode != 0


@pytest.mark.parametrize(("world", "case"), played(device_array_cases, WORLDS, SLOW_WORLDS))
def test_device_arrays(world: World, case: str, outcome: Outcome) -> None:
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        ("/no/libcuda.so.1", r"no CUDA driver can be loaded \(/no/libcuda.so.1: cannot open sh"),
        ("libm.so.6", r"the CUDA driver libm.so.6 lacks cuGetErrorName: one for CUDA 11.4"),
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


@pytest.mark.parametrize("version", [None, (1, 0)])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_capsules_are_read_as_libraries_make_them(
    library: str, version: tuple[int, int] | None
) -> None:
    if version and tuple(map(int, np.__version__.split(".")[:2])) < (2, 1):
        pytest.skip("this NumPy gives no version")
    array: Any = np.arange(24, dtype=np.int16).reshape(4, 6)[1:, ::2]
    if library == "torch":
        array = pytest.importorskip("torch").arange(24).short().view(4, 6)[1:, ::2]
    capsule = array.__dlpack__(max_version=version)
    address, code, bits, lanes, shape, strides, writable = _core.dlpack_tensor(capsule)
    data = array.data_ptr() if library == "torch" else array.ctypes.data
    assert (address, code, bits, lanes, writable) == (data, 0, 16, 1, True)
    assert (shape, strides) == ([3, 3], [6, 2])


def test_a_capsule_says_that_it_is_read_only() -> None:
    fixed = np.arange(3)
    fixed.flags.writeable = False
    if not hasattr(np, "from_dlpack") or tuple(map(int, np.__version__.split(".")[:2])) < (2, 1):
        pytest.skip("this NumPy does not tell")
    assert _core.dlpack_tensor(fixed.__dlpack__(max_version=(1, 0)))[-1] is False


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


@pytest.mark.skipif(
    os.environ.get("QUOIT_TEST_DEVICE") != "cuda", reason="needs a GPU: make test-cuda"
)
@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_on_a_gpu(library: str) -> None:
    """What the stand-in cannot tell: that the driver and the libraries are as it has them."""
    there: Any = pytest.importorskip(library)
    group = Communicator.threads("aa", timeout=60)

    def body(comm: Any) -> None:
        for count in COUNTS:
            numbers = np.stack([mine(count, rank) for rank in range(comm.size)])
            with _on_a_stream(there):
                array = _on_the_gpu(there, numbers[comm.rank])
                comm.all_reduce(array)
                array *= 2
                out = _on_the_gpu(there, np.zeros_like(numbers[0]))
                comm.broadcast(array, 0, async_op=True).wait()
                comm.all_reduce(array, "MAX", out=out)
                result = out.cpu().numpy() if library == "torch" else out.get()
            np.testing.assert_array_equal(result, 2 * numbers.sum(0))
        if library == "torch":
            narrow = _on_the_gpu(there, numbers[comm.rank, :1000]).bfloat16()
            comm.all_reduce(narrow)
            wanted = numbers[:, :1000].sum(0)
            np.testing.assert_array_equal(narrow.float().cpu().numpy(), wanted)

    on_all(group, body)
    for comm in group:
        comm.close()


# Several ranks on one GPU. The module of the cases needs torch.
GPU_IPC_CASES = ("collectives", "many_small_ones", "messages", "groups_one_after_another")
GPU_WORLDS = [World("processes", "a" * ranks) for ranks in (1, 2, 4)]


@pytest.mark.skipif(
    os.environ.get("QUOIT_TEST_DEVICE") != "cuda", reason="needs a GPU: make test-cuda"
)
@pytest.mark.parametrize(
    ("world", "case"),
    [(world, f"gpu_ipc_cases.{name}") for world in GPU_WORLDS for name in GPU_IPC_CASES],
)
def test_by_ipc_on_a_gpu(world: World, case: str, outcome: Outcome) -> None:
    pytest.importorskip("torch")
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)


def _on_a_stream(library: Any) -> contextlib.AbstractContextManager[object]:
    """One of its own, on which something takes its time."""
    stack = contextlib.ExitStack()
    if library.__name__ == "torch":
        stack.enter_context(library.cuda.stream(library.cuda.Stream()))
        library.cuda._sleep(100_000_000)
    else:
        stack.enter_context(library.cuda.Stream(non_blocking=True))
    return stack


def _on_the_gpu(library: Any, values: Any) -> Any:
    if library.__name__ == "torch":
        return library.from_numpy(values).cuda(non_blocking=True)
    return library.asarray(values)
