"""What a long run costs: memory stays flat, waiting ranks sleep, crowded ranks yield."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import test_failure
import worlds

PROGRAM = str(Path(__file__).with_name("resource_rank.py"))


def measure(
    folder: Path, size: int, what: str, deadline_s: float = 120.0
) -> list[dict[str, float]]:
    """What each rank used."""
    mark = secrets.token_hex(8)
    ranks = [
        test_failure.start([PROGRAM, str(folder), str(rank), str(size), what], mark)
        for rank in range(size)
    ]
    try:
        words = [rank.communicate(timeout=deadline_s) for rank in ranks]
    finally:
        left = worlds.end_all(mark)
    assert not left, f"processes were left behind: {left}"
    for out, err in words:
        assert out, f"a rank did not report:\n{err}"
    return [json.loads(out) for out, _ in words]


def test_ten_thousand_collectives_leave_nothing(tmp_path: Path) -> None:
    for used in measure(tmp_path, 2, "soak"):
        assert used["grown_kib"] < 512
        assert used["new_files"] == 0


def test_groups_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    for used in measure(tmp_path, 2, "groups"):
        assert used["grown_kib"] < 1024
        assert used["new_files"] == 0


def test_a_rank_that_waits_sleeps(tmp_path: Path) -> None:
    assert measure(tmp_path, 2, "wait")[0]["share"] < 0.1


def test_an_idle_group_uses_no_core(tmp_path: Path) -> None:
    assert all(used["share"] < 0.03 for used in measure(tmp_path, 2, "idle"))


def test_more_ranks_than_cores_do_not_spin(tmp_path: Path) -> None:
    # A rank that spun would hold its core until its time slice ends: milliseconds for each call.
    assert all(used["us"] < 1500 for used in measure(tmp_path, 4, "crowd"))
