"""The installed package: its metadata, importing it without torch, and its two ways to _c10d."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ANOTHER_TORCH = """
import sys, torch
torch.__version__ = "99.1.0"
import quoit
from quoit import _build
module = _build.load_c10d()
assert module is sys.modules["quoit._c10d"] is quoit._c10d is _build.load_c10d()
print(module.__file__)
"""
# For what fails before torch itself matters: quick, and its version can be anything.
PRETENDED_TORCH = """
import sys, types
from quoit import _build
abi = types.SimpleNamespace(_GLIBCXX_USE_CXX11_ABI=True)
sys.modules["torch"] = types.SimpleNamespace(__version__={version!r}, __file__="torch/a.py", _C=abi)
_build.load_c10d()
"""
A_TORCH = PRETENDED_TORCH.format(version="99.1.0")


def start(code: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Python running `code` in an empty folder, so that only the installed package is found."""
    kept = {key: value for key, value in os.environ.items() if key not in {"CXX", "PYTHONPATH"}}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=kept | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 120) -> tuple[int, str, str]:
    """Exit code, output and error output."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


def fails(code: str, cwd: Path, **environment: str) -> str:
    """The error output of code that must fail."""
    status, out, err = finish(start(code, cwd, **environment))
    assert status != 0, out + err
    return err


@pytest.fixture
def compiler(tmp_path: Path) -> Path:
    """A stand-in for the compiler: quick, and it writes down each thing that it is asked to build.

    Its product is the module that was built at install time, so what it makes can be imported.
    """
    script = tmp_path / "compiler"
    script.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, quoit, shutil, sys, time\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('-o') + 1])\n"
        "with open(pathlib.Path(__file__).with_name('made'), 'a') as made:\n"
        "    made.write(out.name + '\\n')\n"
        "time.sleep(0.5)\n"
        "built = pathlib.Path(quoit.__path__[0]) / out.name\n"
        "shutil.copy(built, out) if '-shared' in sys.argv else out.touch()\n"
    )
    script.chmod(0o755)
    return script


def test_metadata() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    quoit = importlib.metadata.distribution("quoit")
    assert quoit.version == version[1]
    always = [line for line in quoit.requires or [] if "extra ==" not in line]
    assert [re.split(r"[<>=]", line)[0] for line in always] == ["numpy"]
    entry_points = {(entry.group, entry.name): entry.value for entry in quoit.entry_points}
    assert entry_points == {
        ("console_scripts", "quoit"): "quoit.cli:main",
        ("torch.backends", "quoit"): "quoit.backend:autoload",
        ("torch.distributed.backends", "quoit"): "quoit.backend:register",
    }


@pytest.mark.parametrize(
    "group", ["console_scripts", "torch.backends", "torch.distributed.backends"]
)
def test_entry_points_can_be_loaded(group: str) -> None:
    (entry,) = importlib.metadata.entry_points(group=group, name="quoit")
    assert callable(entry.load())


def test_files() -> None:
    installed = {str(file) for file in importlib.metadata.files("quoit") or []}
    ours = {file.relative_to(ROOT / "csrc").as_posix() for file in ROOT.glob("csrc/**/*.h")}
    ours |= {file.relative_to(ROOT / "csrc").as_posix() for file in ROOT.glob("csrc/torch/*.cpp")}
    assert {"quoit/py.typed", "quoit/libquoit.so", "quoit/_c10d.json"} <= installed
    assert {f"quoit/_src/{file}" for file in ours} <= installed


def test_the_core_needs_neither_torch_nor_mpi4py(tmp_path: Path) -> None:
    blocked = "import sys; sys.modules['torch'] = sys.modules['mpi4py'] = None; "
    status, _, err = finish(start(blocked + "import quoit, quoit._core", tmp_path))
    assert (status, err) == (0, "")
    status, _, err = finish(start(blocked + "import torch", tmp_path))
    assert status != 0
    assert "ModuleNotFoundError" in err


def test_the_installed_module_serves_its_own_torch(tmp_path: Path) -> None:
    code = "import torch; from quoit import _build; print(_build.load_c10d().__file__)"
    status, out, err = finish(start(code, tmp_path, QUOIT_CACHE=str(tmp_path / "cache")))
    assert (status, err) == (0, "")
    stamp = json.loads(Path(out.strip()).with_name("_c10d.json").read_text())
    assert stamp["torch"] == importlib.metadata.version("torch")
    assert not (tmp_path / "cache").exists()


def test_another_torch_gets_one_build(tmp_path: Path, compiler: Path) -> None:
    cache = tmp_path / "cache"
    environment = {"QUOIT_CACHE": str(cache), "CXX": str(compiler)}
    processes = [start(ANOTHER_TORCH, tmp_path, **environment) for _ in range(3)]
    results = [finish(process) for process in processes]
    assert [status for status, _, _ in results] == [0, 0, 0], results
    assert len({out for _, out, _ in results}) == 1
    assert Path(results[0][1].strip()).is_relative_to(cache)
    said = "".join(err for _, _, err in results)
    assert re.fullmatch(r"quoit: building its torch module for torch 99\.1\.0 \(.*\)\.\.\.\n", said)
    made = (tmp_path / "made").read_text().split()
    assert made[:-1] == ["c10d.o"]
    assert made[-1].startswith("_c10d.")

    status, _, err = finish(start(ANOTHER_TORCH, tmp_path, **environment))
    assert (status, err) == (0, "")
    assert (tmp_path / "made").read_text().split() == made
    (folder,) = cache.iterdir()
    assert {file.name for file in folder.iterdir()} == {"lock", "_c10d.json", made[-1]}


def test_a_changed_stamp_is_not_trusted(tmp_path: Path, compiler: Path) -> None:
    environment = {"QUOIT_CACHE": str(tmp_path / "cache"), "CXX": str(compiler)}
    assert finish(start(ANOTHER_TORCH, tmp_path, **environment))[0] == 0
    made = len((tmp_path / "made").read_text().split())
    (folder,) = (tmp_path / "cache").iterdir()
    (folder / "_c10d.json").write_text("{")
    assert finish(start(ANOTHER_TORCH, tmp_path, **environment))[0] == 0
    assert len((tmp_path / "made").read_text().split()) == 2 * made


@pytest.mark.slow
def test_a_real_build(tmp_path: Path) -> None:
    """The sources in the package compile, alone, with the real compiler, once for two processes."""
    environment = {"QUOIT_CACHE": str(tmp_path / "cache")}
    processes = [start(ANOTHER_TORCH, tmp_path, **environment) for _ in range(2)]
    results = [finish(process, timeout=900) for process in processes]
    assert [status for status, _, _ in results] == [0, 0], results
    assert "".join(err for _, _, err in results).count("building its torch module") == 1
    assert all(Path(out.strip()).is_relative_to(tmp_path) for _, out, _ in results)


def test_no_compiler(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    environment = {"QUOIT_CACHE": str(tmp_path / "cache"), "PATH": str(tmp_path / "bin")}
    said = fails(A_TORCH, tmp_path, **environment)
    assert "RuntimeError: quoit: building its torch module needs a C++20 compiler" in said
    assert "apt-get install g++" in said
    said = fails(A_TORCH, tmp_path, CXX="no-such-compiler -O2", **environment)
    assert "CXX is 'no-such-compiler -O2', and 'no-such-compiler' cannot be run" in said


def test_a_compiler_that_fails(tmp_path: Path, compiler: Path) -> None:
    compiler.write_text("#!/bin/sh\necho such a pity >&2\nexit 3\n")
    cache = tmp_path / "cache"
    said = fails(A_TORCH, tmp_path, QUOIT_CACHE=str(cache), CXX=str(compiler))
    assert "RuntimeError: quoit: building its torch module failed (exit code 3)" in said
    assert "such a pity" in said
    (folder,) = cache.iterdir()
    assert [file.name for file in folder.iterdir()] == ["lock"]


def test_a_compiler_that_never_ends(tmp_path: Path, compiler: Path) -> None:
    """The deadline ends the compiler and whatever it has started."""
    compiler.write_text("#!/bin/sh\nsleep 1000 & echo $! >> $(dirname $0)/made\nwait\n")
    code = f"""
import torch
from pathlib import Path
from quoit import _build
package = Path(_build.__file__).parent
arguments = (package / "_src/torch", package / "_src", package / "libquoit.so")
_build.build(Path({str(tmp_path / "out")!r}), *arguments, deadline_s=3)
"""
    began = time.monotonic()
    said = fails(code, tmp_path, CXX=str(compiler))
    assert "TimeoutError: quoit: building its torch module did not end before its deadline" in said
    assert time.monotonic() - began < 60
    sleepers = (tmp_path / "made").read_text().split()
    assert sleepers
    assert [pid for pid in sleepers if _is_running(pid)] == []


def _is_running(pid: str) -> bool:
    status = Path("/proc", pid, "status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = fails(A_TORCH, tmp_path, QUOIT_CACHE=str(tmp_path / "file"))
    assert "RuntimeError: quoit: its torch module must be built once" in said
    assert "Set QUOIT_CACHE to a folder that can" in said


def test_a_cached_module_that_cannot_be_loaded(tmp_path: Path, compiler: Path) -> None:
    environment = {"QUOIT_CACHE": str(tmp_path / "cache"), "CXX": str(compiler)}
    assert finish(start(ANOTHER_TORCH, tmp_path, **environment))[0] == 0
    (folder,) = (tmp_path / "cache").iterdir()
    (module,) = folder.glob("_c10d.*.so")
    module.write_bytes(b"no module")
    said = fails(ANOTHER_TORCH, tmp_path, **environment)
    assert f"ImportError: quoit: its torch module in {folder} cannot be loaded" in said
    assert "Delete that folder to build it anew" in said


@pytest.mark.parametrize("version", ["2.8.1", "1.13.0+cu117", "unknown"])
def test_an_old_torch(tmp_path: Path, version: str) -> None:
    said = fails(PRETENDED_TORCH.format(version=version), tmp_path)
    assert f"RuntimeError: quoit: needs torch 2.9 or later, found torch {version} in " in said
    assert "pip install --upgrade torch" in said


def test_no_torch(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from quoit import _build; _build.load_c10d()"
    said = fails(code, tmp_path)
    assert "ImportError: quoit: its torch.distributed backend needs torch 2.9 or later" in said
    assert "pip install torch" in said
