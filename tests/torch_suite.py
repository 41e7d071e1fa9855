"""Runs torch's own tests of torch.distributed on quoit: four ranks, CPU tensors.

torch_suite.py [--mode plugin gloo mpi] [--only PATTERN] [--deadline SECONDS] [--json FILE]

Which tests there are depends on the name that torch's suite is told to test:

    plugin    "quoit", announced as torch asks of backends that are not its own
    gloo      "gloo", and wherever torch would make a group of gloo's it gets one of quoit's
    mpi       "mpi", likewise; torch keeps the tests of all_to_all for it
    baseline  "gloo" itself: what passes here is what the others are measured by

Prints passed, failed, and skipped with torch's reasons and what they mean. Ends with 0 when no test
failed, each skip is explained, and, of the three modes, there is one for each test.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from quoit.launch import without_launcher

MODES = {"plugin": "quoit", "gloo": "gloo", "mpi": "mpi", "baseline": "gloo"}
ELSEWHERE = "runs in another mode"
# What torch's reasons for a skip mean; the first that is found in a reason counts.
EXPLAINED = {
    r"CUDA|NCCL|Only Nccl|\{'nccl'\}": "needs GPUs or NCCL; quoit takes CPU tensors",
    r"one of \{.*'gloo'|Only (gloo|Gloo|MPI) |GLOO|on mpi, nccl and gloo|mpi does not": ELSEWHERE,
    r"stands in": ELSEWHERE,
    r"github.com/pytorch/pytorch/(issues|pull)/": "switched off by torch, for every backend",
    r"torchvision": "needs torchvision, which is not installed",
}
RANKS = Path(__file__).with_name("torch_suite_ranks.py")

Row = dict[str, Any]  # test, outcome, words, s


def meaning(reason: str) -> str | None:
    return next((words for found, words in EXPLAINED.items() if re.search(found, reason)), None)


def play(mode: str, only: str, deadline_s: float) -> list[Row]:
    """The outcomes of the tests whose names `only` matches; no process is left."""
    with tempfile.TemporaryDirectory(prefix="torch-suite-") as folder:
        for name in ("barrier", "test_dir", "init_dir"):  # torch wants them to be there
            (Path(folder) / name).mkdir()
        results, log = Path(folder) / "results", Path(folder) / "log"
        results.touch()
        env = {
            **without_launcher(os.environ),
            "BACKEND": MODES[mode],
            "WORLD_SIZE": "4",
            "TEMP_DIR": folder,
            "TMPDIR": folder,  # torch leaves files there
            "INIT_METHOD": f"file://{folder}/init_dir/again",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, str(RANKS), mode, str(results), str(log), str(deadline_s), only]
        process = subprocess.Popen(command, env=env, start_new_session=True)
        try:
            code = process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        rows: list[Row] = [json.loads(line) for line in results.read_text().splitlines()]
        if code != 0 or not rows:
            said = log.read_text()[-4000:] if log.exists() else ""
            words = f"mode {mode}: exit code {code} after {len(rows)} tests\n{said}"
            rows.append({"test": "(the suite)", "outcome": "failed", "words": words, "s": 0.0})
        return rows


def tell(mode: str, rows: list[Row]) -> None:
    counts = Counter(row["outcome"] for row in rows)
    seconds = sum(row["s"] for row in rows)
    print(
        f"\nmode {mode}: {counts['passed']} passed, {counts['failed']} failed, "
        f"{counts['skipped']} skipped, {seconds:.0f} s"
    )
    for row in rows:
        if row["outcome"] == "failed":
            print(f"  FAILED {row['test']}\n    " + row["words"].strip().replace("\n", "\n    "))
    reasons = Counter(row["words"] for row in rows if row["outcome"] == "skipped")
    for words in dict.fromkeys(meaning(reason) for reason in reasons):
        group = {reason: n for reason, n in reasons.most_common() if meaning(reason) == words}
        print(f"  {sum(group.values())} skipped: {words or 'NOT EXPLAINED'}")
        for reason, n in group.items():
            print(f"      {n:3}  {reason}")


def left_out(results: dict[str, list[Row]]) -> dict[str, list[str]]:
    """Tests that ran in no mode and whose skip says nothing but that they run in another one."""
    reasons: dict[str, list[str | None]] = {}
    for rows in results.values():
        for row in rows:
            ran = row["outcome"] != "skipped"
            reasons.setdefault(row["test"], []).append("ran" if ran else meaning(row["words"]))
    whole = {"plugin", "gloo", "mpi"} <= results.keys()
    unexplained = [test for test, words in reasons.items() if None in words]
    nowhere = [test for test, words in reasons.items() if set(words) == {ELSEWHERE}]
    return {"not explained": unexplained, "in no mode": nowhere if whole else []}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--mode", nargs="+", choices=MODES, default=["plugin", "gloo", "mpi"])
    parser.add_argument("--only", default="", metavar="PATTERN", help="names to search for")
    parser.add_argument("--deadline", type=float, default=120.0, metavar="SECONDS")
    parser.add_argument("--json", type=Path, metavar="FILE")
    chosen = parser.parse_args(arguments)
    results = {mode: play(mode, chosen.only, chosen.deadline) for mode in chosen.mode}
    for mode, rows in results.items():
        tell(mode, rows)
    missing = left_out(results)
    for what, tests in missing.items():
        if tests:
            print(f"\n{what}: {', '.join(tests)}")
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    failed = any(row["outcome"] == "failed" for rows in results.values() for row in rows)
    return 1 if failed or any(missing.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
