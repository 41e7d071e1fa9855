"""The layout rules of csrc and python, read from the tree itself.

A file includes only what lies to its left in LAYERS; outside headers, getenv and long files have
their places. Each rule is shown to fail on a small tree that breaks it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Left to right. Folders that stand together do not include each other.
LAYERS = (
    {"core"},
    {"transport", "kernels"},
    {"engine"},
    {"compress"},
    {"collective"},
    {"pipeline"},
    {"python", "torch"},
)
RANK = {folder: rank for rank, folders in enumerate(LAYERS) for folder in folders}

# Whose headers may be included where: a prefix of the included path, and prefixes of files' paths.
FOREIGN = {
    "torch/": ("torch/",),
    "c10/": ("torch/",),
    "ATen/": ("torch/",),
    "pybind11/": ("python/", "torch/"),
    "nccl.h": ("transport/nccl.cpp",),
    "mpi.h": (),  # transport/mpi_abi.h declares what is used; libmpi is loaded at run time
}
ENVIRONMENT = re.compile(r"\b(secure_getenv|getenv|setenv|putenv|unsetenv)\s*\(")
ENVIRONMENT_HOME = "core/env.cpp"
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
SOURCES = {".h", ".cpp", ".cu", ".cuh", ".py", ".pyi"}
LONGEST = 400


def violations(root: Path) -> Iterator[str]:
    """One line for every broken rule in root/csrc and root/python."""
    for file in sorted(root.glob("csrc/**/*")):
        if file.suffix in SOURCES:
            name = file.relative_to(root / "csrc").as_posix()
            text = file.read_text()
            for problem in (
                *_opening(file, name, text),
                *_includes(root / "csrc", name, text),
                *_environment(name, text),
            ):
                yield f"csrc/{name}: {problem}"
    for folder in ("csrc", "python"):
        for file in sorted(root.glob(f"{folder}/**/*")):
            if file.suffix in SOURCES and (lines := len(file.read_text().splitlines())) > LONGEST:
                yield f"{file.relative_to(root).as_posix()}: {lines} lines, more than {LONGEST}"


def _opening(file: Path, name: str, text: str) -> Iterator[str]:
    """A header begins with its guard; a source with its own header or with what it is for."""
    first = text.partition("\n")[0]
    if file.suffix in {".h", ".cuh"}:
        if first != "#pragma once":
            yield "the first line is not #pragma once"
        return
    own = Path(name).with_suffix(".h").as_posix()
    included = [path for _, path in INCLUDE.findall(text)]
    if file.with_suffix(".h").exists() and included[:1] != [own]:
        yield f'the first include is not "{own}"'
    if not first.startswith(("//", f'#include "{own}"')):
        yield "begins neither with its own header nor with a comment that says what it is for"


def _includes(csrc: Path, name: str, text: str) -> Iterator[str]:
    home = name.partition("/")[0]
    if home not in RANK:
        yield f"{home} is no known layer"
        return
    for bracket, path in INCLUDE.findall(text):
        for prefix, places in FOREIGN.items():
            if _is_foreign(csrc, bracket, path, prefix) and not name.startswith(places):
                yield f"includes {path}, which belongs in {' and '.join(places) or 'no file'}"
        if bracket == '"':
            target = path.partition("/")[0]
            if not (csrc / path).is_file():
                yield f'includes "{path}", which is no file under csrc'
            elif target != home and RANK.get(target, len(LAYERS)) >= RANK[home]:
                yield f"includes {path}, which does not lie to its left"


def _is_foreign(csrc: Path, bracket: str, path: str, prefix: str) -> bool:
    ours = bracket == '"' and (csrc / path).is_file()
    return path.startswith(prefix) and not ours


def _environment(name: str, text: str) -> Iterator[str]:
    if name != ENVIRONMENT_HOME and (call := ENVIRONMENT.search(COMMENT.sub("", text))):
        yield f"calls {call[1]}, which belongs in {ENVIRONMENT_HOME}"


def test_the_tree_keeps_the_rules() -> None:
    assert list(violations(ROOT)) == []


def test_the_tree_is_read() -> None:
    folders = {file.parent.name for file in ROOT.glob("csrc/*/*.cpp")}
    assert {"core", "transport", "kernels", "engine", "collective", "python", "torch"} <= folders


HEADER = "#pragma once\n// A header.\n"
GOOD = {
    "csrc/core/env.h": HEADER,
    "csrc/core/env.cpp": '#include "core/env.h"\n\n#include <cstdlib>\nint v = !getenv("V");\n',
    "csrc/transport/link.h": HEADER + '#include "core/env.h"\n',
    "csrc/transport/nccl.cpp": "// NCCL.\n#include <nccl.h>\n// Reads no getenv() itself.\n",
    "csrc/kernels/add.h": HEADER + '#include "core/env.h"\n',
    "csrc/engine/engine.h": HEADER + '#include "transport/link.h"\n#include "kernels/add.h"\n',
    "csrc/compress/codec.h": HEADER + '#include "engine/engine.h"\n',
    "csrc/collective/ring.h": HEADER + '#include "compress/codec.h"\n#include "collective/n.h"\n',
    "csrc/collective/n.h": HEADER,
    "csrc/pipeline/channel.h": HEADER + '#include "collective/ring.h"\n',
    "csrc/python/module.cpp": '// M.\n#include <pybind11/pybind11.h>\n#include "core/env.h"\n',
    "csrc/torch/group.cpp": "// A group.\n#include <torch/torch.h>\n#include <c10/a.h>\n",
    "csrc/torch/work.h": HEADER + "#include <ATen/ATen.h>\n#include <pybind11/pybind11.h>\n",
    "python/quoit/__init__.py": "x = 1\n" * LONGEST,
}


def _plant(root: Path, files: dict[str, str]) -> list[str]:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return list(violations(root))


def test_a_good_tree_has_no_violations(tmp_path: Path) -> None:
    assert _plant(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("core/a.h", HEADER + '#include "transport/link.h"\n', "does not lie to its left"),
        ("transport/a.h", HEADER + '#include "kernels/add.h"\n', "does not lie to its left"),
        ("kernels/a.h", HEADER + '#include "transport/link.h"\n', "does not lie to its left"),
        ("kernels/a.h", HEADER + '#include "engine/engine.h"\n', "does not lie to its left"),
        ("engine/a.h", HEADER + '#include "compress/codec.h"\n', "does not lie to its left"),
        ("engine/a.h", HEADER + '#include "collective/ring.h"\n', "does not lie to its left"),
        ("compress/a.h", HEADER + '#include "collective/ring.h"\n', "does not lie to its left"),
        ("collective/a.h", HEADER + '#include "pipeline/channel.h"\n', "does not lie to its left"),
        ("python/a.h", HEADER + '#include "torch/work.h"\n', "does not lie to its left"),
        ("core/a.h", HEADER + '#  include   "engine/engine.h"\n', "does not lie to its left"),
        ("core/a.h", HEADER + '#include "env.h"\n', "no file under csrc"),
        ("tools/a.h", HEADER, "no known layer"),
        ("collective/a.h", HEADER + "#include <torch/torch.h>\n", "belongs in torch/"),
        ("python/a.h", HEADER + "#include <c10/util.h>\n", "belongs in torch/"),
        ("python/a.h", HEADER + "#include <ATen/ATen.h>\n", "belongs in torch/"),
        ("core/a.h", HEADER + "#include <pybind11/stl.h>\n", "belongs in python/ and torch/"),
        ("transport/mpi.cpp", "// MPI.\n#include <mpi.h>\n", "belongs in no file"),
        ("transport/mpi.cpp", '// MPI.\n#include "mpi.h"\n', "belongs in no file"),
        ("transport/a.cpp", "// A.\n#include <nccl.h>\n", "belongs in transport/nccl.cpp"),
        ("transport/a.cpp", '// A.\nauto v = std::getenv("V");\n', "belongs in core/env.cpp"),
        ("engine/a.cpp", '// A.\nint v = setenv ("V", "1", 1);\n', "belongs in core/env.cpp"),
        ("core/a.h", "// A header.\n#pragma once\n", "not #pragma once"),
        ("core/a.h", "", "not #pragma once"),
        ("core/env.cpp", '// Env.\n#include <span>\n#include "core/env.h"\n', "first include"),
        ("core/a.cpp", "#include <span>\n", "begins neither"),
        ("core/a.cpp", "// A.\n" + "int f();\n" * LONGEST, "401 lines"),
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, name: str, text: str, problem: str) -> None:
    found = _plant(tmp_path, GOOD | {f"csrc/{name}": text})
    assert found
    assert all(line.startswith(f"csrc/{name}: ") for line in found)
    assert any(problem in line for line in found)


def test_a_long_python_file_is_found(tmp_path: Path) -> None:
    found = _plant(tmp_path, GOOD | {"python/quoit/long.py": "x = 1\n" * (LONGEST + 1)})
    assert found == [f"python/quoit/long.py: {LONGEST + 1} lines, more than {LONGEST}"]
