"""The kernels for CUDA: what the compiler makes of them, and what they take on a device.

    python bench/cuda_kernels.py                   # registers and spills; needs nvcc, no GPU
    python bench/cuda_kernels.py --run PROGRAM     # times, by what make bench-cuda builds

Each writes its section of bench/RESULTS-cuda.md. Exits with 1 when a kernel spills registers or
uses local memory: that is in DRAM, whose rate is all that these kernels have.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "bench/RESULTS-cuda.md"
ARCHITECTURES = ("sm_80", "sm_90")
# As cmake/cuda.cmake has them.
FLAGS = (
    *("-std=c++20", "-O3", "-DNDEBUG", "-fmad=false", "-ftz=false"),
    *("-prec-div=true", "-prec-sqrt=true", "-Xcompiler=-fPIC"),
    "--generate-code=arch=compute_80,code=[" + ",".join(ARCHITECTURES) + "]",
    '-DQUOIT_CUDA_ARCHITECTURES="report"',
)


@dataclass(frozen=True)
class Kernel:
    """What ptxas says of one kernel for one architecture; stack and spills in bytes."""

    source: str
    name: str
    architecture: str
    registers: int
    shared: int
    stack: int
    spills: int


def parse(source: str, report: str) -> list[Kernel]:
    """The kernels in what `nvcc -Xptxas -v` writes, with mangled names."""
    kernels, name, architecture, stack, spills = [], "", "", 0, 0
    for line in report.splitlines():
        if found := re.search(r"entry function '(\S+)' for '(\w+)'", line):
            name, architecture = found[1], found[2]
        elif found := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            stack, spills = int(found[1]), int(found[2]) + int(found[3])
        elif found := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            kernels.append(
                Kernel(
                    *(source, name, architecture, int(found[1])),
                    *(int(shared[1]) if shared else 0, stack, spills),
                )
            )
    return kernels


def readable(names: list[str]) -> dict[str, str]:
    """Mangled names -> `tile_kernel<Encode<Added<Int4Rows>>>`."""
    text = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True, timeout=60
    ).stdout
    clean = {}
    for name, line in zip(names, text.splitlines(), strict=True):
        line = re.sub(r"quoit::(\(anonymous namespace\)::|cuda::)?", "", line)
        line = re.sub(r"\(anonymous namespace\)::|^void ", "", line)
        line = re.sub(r"\(\(?\w+ \(\*\)\(\w[\w ]*\)\)?\)?&?\(?(\w+)\([^()]*\)\)+", r"\1", line)
        clean[name] = re.sub(r"\([^()]*\)$", "", line).replace(" >", ">").replace("> >", ">>")
    return clean


def compile_all(nvcc: str) -> list[Kernel]:
    sources = sorted((ROOT / "csrc/kernels").glob("*.cu"))

    def compile_one(source: Path) -> list[Kernel]:
        with tempfile.TemporaryDirectory() as folder:
            command = [nvcc, *FLAGS, "-Xptxas=-v", f"-I{ROOT / 'csrc'}", "-c", str(source)]
            command += ["-o", f"{folder}/{source.stem}.o"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"bench/cuda_kernels.py: {source.name} does not compile:\n{done.stderr}")
        return parse(source.stem, done.stdout + done.stderr)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        kernels = [kernel for found in pool.map(compile_one, sources) for kernel in found]
    names = readable([kernel.name for kernel in kernels])
    return [Kernel(**{**vars(kernel), "name": names[kernel.name]}) for kernel in kernels]


def table(kernels: list[Kernel]) -> str:
    """A line for each kernel; those of a reduction share one for each format."""
    rows: dict[tuple[str, str], list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        name = re.sub(r"^reduce_kernel<(.*), \w+<[^<>]*>>$", r"reduce_kernel<\1, …>", kernel.name)
        rows[kernel.source, name].append(kernel)
    lines = [
        "| file | kernel | " + " | ".join(f"registers, {a}" for a in ARCHITECTURES)
        + " | shared | stack | spills |",
        "|---" * (5 + len(ARCHITECTURES)) + "|",
    ]  # fmt: skip
    for (source, name), its in sorted(rows.items()):
        cells = []
        for architecture in ARCHITECTURES:
            used = [kernel.registers for kernel in its if kernel.architecture == architecture]
            one = str(min(used)) if min(used) == max(used) else f"{min(used)}–{max(used)}"
            cells.append(one)
        most = [
            max(getattr(kernel, what) for kernel in its) for what in ("shared", "stack", "spills")
        ]
        cells += [f"{value} B" for value in most]
        lines.append(f"| {source}.cu | `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_section(title: str, text: str, page: Path = PAGE) -> None:
    """Replaces the section of that title, or adds it at the end."""
    old = page.read_text() if page.exists() else "# Kernels for CUDA\n"
    section = f"## {title}\n\n{text.strip()}\n"
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    if pattern.search(old):
        new = pattern.sub(lambda _: section + "\n", old)
    else:
        new = old.rstrip() + "\n\n" + section
    page.write_text(new.rstrip() + "\n")


def report(nvcc: str) -> int:
    kernels = compile_all(nvcc)
    bad = [kernel for kernel in kernels if kernel.stack or kernel.spills]
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"V([\d.]+)", version)
    count = len({(kernel.source, kernel.name) for kernel in kernels})
    text = (
        f"`python bench/cuda_kernels.py`, nvcc {release[1] if release else '?'}: what ptxas says "
        f"of {count} kernels, {len(bad)} of them with spills or local memory. Of a reduction's "
        "operations on one format, the least and the most registers.\n\n" + table(kernels)
    )
    write_section("Registers", text)
    print(f"{count} kernels, for {' and '.join(ARCHITECTURES)}; written to {PAGE.name}")
    for kernel in bad:
        print(
            f"{kernel.name} for {kernel.architecture}: {kernel.stack} bytes of stack, "
            f"{kernel.spills} bytes spilt",
            file=sys.stderr,
        )
    return 1 if bad else 0


def run(program: str) -> int:
    done = subprocess.run([program], stdout=subprocess.PIPE, text=True, check=False, timeout=600)
    print(done.stdout, end="")
    if done.returncode != 0:
        return done.returncode
    device, _, rest = done.stdout.partition("\n")
    write_section(
        "On a device",
        f"`make bench-cuda` on {device}. Medians; bytes that are read and written, beside a copy "
        f"on the device (cudaMemcpyAsync) in the same run.\n\n{rest.strip()}",
    )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nvcc", default=os.environ.get("CUDACXX", "nvcc"))
    parser.add_argument("--run", metavar="PROGRAM", help="the times that the program measures")
    options = parser.parse_args()
    if options.run:
        return run(options.run)
    if shutil.which(options.nvcc) is None:
        sys.exit(
            f"bench/cuda_kernels.py: there is no '{options.nvcc}': install the CUDA toolkit, or "
            "name its nvcc with --nvcc"
        )
    return report(options.nvcc)


if __name__ == "__main__":
    sys.exit(main())
