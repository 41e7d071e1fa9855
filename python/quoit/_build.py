"""Builds and loads ``quoit._c10d``, the one module that is compiled against torch.

CMake runs this file as a script at install time when torch is importable; after a torch upgrade,
or when torch arrived later, :func:`load_c10d` runs the same :func:`build` once and keeps the result
in the user's cache. The script form must not import quoit, which does not exist yet at that time.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO

OLDEST_TORCH = (2, 9)
BUILD_DEADLINE_S = 900.0
_NAME = "quoit._c10d"
_MODULE = f"_c10d{sysconfig.get_config_var('EXT_SUFFIX')}"
_STAMP = "_c10d.json"


def stamp() -> dict[str, str | bool]:
    """What a built module must have been built for: the torch, C++ ABI and Python of this process.

    Raises ImportError when torch is missing, and RuntimeError when it is older than 2.9.
    """
    torch = _torch()
    return {
        "torch": str(torch.__version__),
        "cxx11_abi": bool(torch._C._GLIBCXX_USE_CXX11_ABI),
        "python": str(sysconfig.get_config_var("EXT_SUFFIX")),
    }


def load_c10d() -> ModuleType:
    """Imports ``quoit._c10d``, building it first when the installed one is for another torch.

    Many processes may call this at once; one builds and the others wait for it. Raises ImportError,
    RuntimeError (old torch, no compiler, failed build) or TimeoutError, each saying what to do.
    """
    if _NAME in sys.modules:
        return sys.modules[_NAME]
    wanted = stamp()
    if _packaged(wanted) is not None:
        return importlib.import_module(_NAME)
    return _import_from(_build_cached(wanted))


def built_c10d() -> str | None:
    """The folder of the module that :func:`load_c10d` would import, None if it had to build it."""
    wanted = stamp()
    folder = _packaged(wanted) or _cached(wanted)[0]
    return str(folder) if _is_built(folder, wanted) else None


def build(
    destination: Path,
    sources: Path,
    include: Path,
    library: Path,
    deadline_s: float = BUILD_DEADLINE_S,
) -> Path:
    """Compiles ``sources/*.cpp`` against the installed torch and returns the module's path.

    ``include`` is the root of Quoit's headers and ``library`` its libquoit.so, which the module
    finds again beside itself when both share a folder, and by absolute path otherwise. The module
    and its stamp appear in ``destination`` by atomic renames, the stamp last.
    """
    end = time.monotonic() + deadline_s
    built_for = stamp()
    torch_dir = Path(str(_torch().__file__)).parent
    command = compiler()
    flags = _compile_flags(include, torch_dir, bool(built_for["cxx11_abi"]))
    files = sorted(sources.glob("*.cpp"))
    if not files:
        raise FileNotFoundError(f"quoit: no C++ sources in {sources}; reinstall quoit")

    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=destination) as folder:
        work = Path(folder)
        # As one unit: nearly all the time goes into reading torch's headers, once instead of often.
        unit = work / "c10d.cpp"
        unit.write_text("".join(f'#include "{file.resolve()}"\n' for file in files))
        compiled = str(work / "c10d.o")
        _run([*command, *flags, "-c", str(unit), "-o", compiled], work, end)
        origin = "$ORIGIN" if library.parent.samefile(destination) else str(library.parent)
        link = [*command, "-shared", "-pthread", "-s", compiled, "-o", str(work / _MODULE)]
        link += [f"-L{library.parent}", "-lquoit", f"-Wl,-rpath,{origin}"]
        # No rpath to torch: it is always imported first, and its libraries are matched by name.
        link += [f"-L{torch_dir / 'lib'}", "-ltorch_python", "-ltorch", "-ltorch_cpu", "-lc10"]
        _run(link, work, end)
        (work / _STAMP).write_text(json.dumps(built_for))
        for name in (_MODULE, _STAMP):
            os.replace(work / name, destination / name)
    return destination / _MODULE


def cache_dir() -> Path:
    """Where modules built on first use are kept: $QUOIT_CACHE, or quoit in the user's cache."""
    if chosen := os.environ.get("QUOIT_CACHE"):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "quoit"


def _torch() -> ModuleType:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise ImportError(
            f"quoit: its torch.distributed backend needs torch 2.9 or later, and torch cannot be "
            f"imported ({error}). Install it: pip install torch"
        ) from error
    version = re.match(r"(\d+)\.(\d+)", str(torch.__version__))
    if version is None or (int(version[1]), int(version[2])) < OLDEST_TORCH:
        raise RuntimeError(
            f"quoit: needs torch 2.9 or later, found torch {torch.__version__} in "
            f"{Path(str(torch.__file__)).parent}. Upgrade it: pip install --upgrade torch"
        )
    return torch


def compiler() -> list[str]:
    """The command that starts the C++ compiler: $CXX, which may carry arguments, or one found."""
    if chosen := shlex.split(os.environ.get("CXX", "")):
        if shutil.which(chosen[0]) is None:
            raise RuntimeError(
                f"quoit: CXX is {os.environ['CXX']!r}, and {chosen[0]!r} cannot be run. "
                "Set CXX to a C++20 compiler, or unset it."
            )
        return chosen
    for name in ("g++", "c++", "clang++"):
        if shutil.which(name) is not None:
            return [name]
    raise RuntimeError(
        "quoit: building its torch module needs a C++20 compiler, and none of g++, c++ and "
        "clang++ is on PATH. Install one (Debian, Ubuntu: apt-get install g++; Fedora: dnf "
        "install gcc-c++; conda: conda install gxx), or set CXX."
    )


def _compile_flags(include: Path, torch_dir: Path, cxx11_abi: bool) -> list[str]:
    python = Path(sysconfig.get_path("include"))
    if not (python / "Python.h").exists():
        raise RuntimeError(
            f"quoit: building its torch module needs Python's headers, and {python}/Python.h does "
            "not exist. Install them (Debian, Ubuntu: apt-get install python3-dev; Fedora: dnf "
            "install python3-devel)."
        )
    headers = torch_dir / "include"
    system = (headers, headers / "torch/csrc/api/include", python)
    flags = ["-std=c++20", "-O2", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
    flags += ["-pthread", f"-D_GLIBCXX_USE_CXX11_ABI={int(cxx11_abi)}", f"-I{include}"]
    return flags + [part for folder in system for part in ("-isystem", str(folder))]


def _run(command: Sequence[str], work: Path, end: float) -> None:
    """Runs a compiler command; kills it, with all it started, at the deadline or an interrupt."""
    log = work / "log"
    with log.open("wb") as output:
        # A session of its own, so that a stop reaches the compiler behind its driver.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = process.wait(max(0.0, end - time.monotonic()))
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise TimeoutError(
                "quoit: building its torch module did not end before its deadline, in: "
                f"{shlex.join(command)}. Is the machine overloaded?"
            ) from None
        raise
    if code:
        said = log.read_text(errors="replace").strip()
        raise RuntimeError(
            f"quoit: building its torch module failed (exit code {code}): "
            f"{shlex.join(command)}\n{said}"
        )


def _in_package(name: str) -> Path | None:
    """A file of the installed package; an editable install spreads the package over two folders."""
    folders = sys.modules["quoit"].__path__
    return next((Path(folder, name) for folder in folders if Path(folder, name).exists()), None)


def _is_built(folder: Path, wanted: dict[str, str | bool]) -> bool:
    with contextlib.suppress(OSError, ValueError):
        built_for = json.loads((folder / _STAMP).read_text())
        return built_for == wanted and (folder / _MODULE).exists()
    return False


def _packaged(wanted: dict[str, str | bool]) -> Path | None:
    """The folder of the module that came with the package, if it was built for this torch."""
    found = _in_package(_STAMP)
    return found.parent if found is not None and _is_built(found.parent, wanted) else None


def _cached(wanted: dict[str, str | bool]) -> tuple[Path, Path, Path]:
    """Where the module for this torch is kept once it is built; its source root and library."""
    source_root, library = _in_package("_src"), _in_package("libquoit.so")
    if source_root is None or library is None:
        raise ImportError(
            f"quoit: the installation in {list(sys.modules['quoit'].__path__)} is incomplete: "
            "libquoit.so or _src is missing. Reinstall quoit."
        )
    digest = hashlib.sha256(json.dumps([wanted, str(library)]).encode())
    for file in sorted(path for path in source_root.rglob("*") if path.is_file()):
        digest.update(str(file.relative_to(source_root)).encode() + file.read_bytes())
    version = importlib.metadata.version("quoit")
    tag = f"quoit-{version}-torch-{wanted['torch']}-{sys.implementation.cache_tag}"
    return cache_dir() / f"{tag}-{digest.hexdigest()[:16]}", source_root, library


def _build_cached(wanted: dict[str, str | bool]) -> Path:
    """The folder of the cached module for this torch, built now unless some process has done it."""
    folder, source_root, library = _cached(wanted)
    if _is_built(folder, wanted):
        return folder
    with _locked(folder):
        if not _is_built(folder, wanted):
            print(
                f"quoit: building its torch module for torch {wanted['torch']} "
                "(once, about a minute)...",
                file=sys.stderr,
                flush=True,
            )
            build(folder, source_root / "torch", source_root, library)
    return folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock that every process takes to write ``folder``."""
    end = time.monotonic() + BUILD_DEADLINE_S
    while (lock := _take_lock(folder)) is None:
        if time.monotonic() > end:
            raise TimeoutError(
                f"quoit: another process has been building the torch module in {folder} for "
                f"{BUILD_DEADLINE_S:.0f} s. Is it stuck? End it and try again."
            )
        time.sleep(0.05)
    with lock:
        yield


def _take_lock(folder: Path) -> IO[bytes] | None:
    """The lock of ``folder``, held until it is closed; None while another process has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as closing:
            lock = closing.enter_context(open(folder / "lock", "wb"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            closing.pop_all()
            return lock
    except BlockingIOError:
        return None
    except OSError as error:
        raise RuntimeError(
            f"quoit: its torch module must be built once, and the cache cannot be written and "
            f"locked ({error}). Set QUOIT_CACHE to a folder that can."
        ) from error


def _import_from(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_NAME, folder / _MODULE)
    assert spec is not None
    assert spec.loader is not None
    try:
        module = importlib.util.module_from_spec(spec)
        sys.modules[_NAME] = module
        spec.loader.exec_module(module)
    except ImportError as error:
        sys.modules.pop(_NAME, None)
        raise ImportError(
            f"quoit: its torch module in {folder} cannot be loaded ({error}). Delete that "
            "folder to build it anew."
        ) from error
    vars(sys.modules["quoit"])["_c10d"] = module
    return module


def _main() -> None:
    parser = argparse.ArgumentParser(description="Build quoit._c10d against the installed torch.")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("stamp", help="print what a module built now would be built for")
    building = actions.add_parser("build", help="build the module")
    for name in ("destination", "sources", "include", "library"):
        building.add_argument(name, type=Path)
    arguments = parser.parse_args()
    # Run by path, Python looks in this folder first, also for what torch imports.
    sys.path = [folder for folder in sys.path if Path(folder) != Path(__file__).parent]
    # Importing torch would load an earlier installation of the backend that is being built.
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    try:
        if arguments.action == "stamp":
            print(json.dumps(stamp()))
        else:
            build(arguments.destination, arguments.sources, arguments.include, arguments.library)
    except (OSError, ImportError, RuntimeError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main()
