"""Torch's own tests of torch.distributed, on quoit; see torch_suite.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import torch_suite

pytest.importorskip("torch")
pytest.importorskip("expecttest")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["plugin", "gloo", "mpi"])
def test_torch_suite(mode: str, tmp_path: Path) -> None:
    rows = torch_suite.play(mode, "", 60.0)
    torch_suite.tell(mode, rows)
    ran = [row for row in rows if row["outcome"] != "skipped"]
    failed = {row["test"] for row in ran if row["outcome"] == "failed"}
    assert failed == set()
    assert len(ran) > 60
    skips = {row["words"] for row in rows if row["outcome"] == "skipped"}
    assert {words for words in skips if torch_suite.meaning(words) is None} == set()


def test_the_script_says_what_failed(tmp_path: Path) -> None:
    """One test that passes, one that is skipped; and a deadline that none can keep."""
    pattern = "^test_(get_rank|all_to_all_cuda)$"
    report = tmp_path / "report.json"
    command = [sys.executable, torch_suite.__file__, "--mode", "plugin", "--only", pattern]
    done = subprocess.run([*command, "--json", str(report)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mode plugin: 1 passed, 0 failed, 1 skipped" in done.stdout
    assert "1 skipped: needs GPUs or NCCL; quoit takes CPU tensors" in done.stdout
    rows = json.loads(report.read_text())["plugin"]
    assert [row["outcome"] for row in rows] == ["skipped", "passed"]
    late = subprocess.run([*command, "--deadline", "0"], capture_output=True, text=True)
    assert late.returncode == 1
    assert "FAILED test_get_rank" in late.stdout
