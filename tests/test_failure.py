"""A rank dies, leaves, stops or is interrupted: the others say so quickly, and can go on."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import worlds

PROGRAM = str(Path(__file__).with_name("failing_rank.py"))
DEADLINE_S = 40.0


def start(arguments: list[str], mark: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **worlds.marked(mark), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def survive(folder: Path, hosts: str, fate: str, **environment: str) -> list[dict[str, Any]]:
    """Starts a rank for each letter of `hosts` by hand, so that no launcher ends them.

    Returns what survivors noticed. Between ranks of different letters is TCP.
    """
    mark = secrets.token_hex(8)
    size = len(hosts)
    before = set(os.listdir("/dev/shm"))
    ranks = [
        start(
            [PROGRAM, str(folder), str(r), str(size), fate],
            mark,
            QUOIT_HOST=h,
            QUOIT_IFACE="lo",
            **environment,
        )
        for r, h in enumerate(hosts)
    ]
    try:
        words = [ranks[r].communicate(timeout=DEADLINE_S) for r in range(size) if r != 1]
    finally:
        # A stopped process, and one that sleeps after it left, do not end by themselves.
        ranks[1].kill()
        ranks[1].communicate()
        left = worlds.end_all(mark)
    assert not left, f"processes were left behind: {left}"
    mine = {name for name in set(os.listdir("/dev/shm")) - before if "quoit" in name}
    assert not mine, f"files were left in /dev/shm: {mine}"
    for out, err in words:
        assert out, f"a survivor did not report:\n{err}"
    return [json.loads(out) for out, _ in words]


@pytest.mark.parametrize("hosts", ["aa", "aaa", "ab", "aba", "abcd"])
def test_a_killed_rank_is_named_within_two_seconds(tmp_path: Path, hosts: str) -> None:
    for noticed in survive(tmp_path, hosts, "killed"):
        assert noticed["kind"] == "TransportError"
        assert re.search("rank 1 (on b )?died", noticed["said"])
        assert "all_reduce #31" in noticed["said"]
        assert re.search("rank 1 (on b )?died", noticed["again"]), "later calls repeat the cause"
        assert noticed["late_s"] < 2
        assert noticed["went_on_with"] == len(hosts) - 1


@pytest.mark.parametrize("hosts", ["aa", "aaaa"])
@pytest.mark.parametrize("fate", ["killed", "leaves"])
def test_with_memory_of_devices(tmp_path: Path, fate: str, hosts: str) -> None:
    """Which ranks share by CUDA IPC: the others say so as quickly, and their device goes on."""
    for noticed in survive(tmp_path, hosts, fate, QUOIT_TEST_MEMORY="device"):
        assert noticed["kind"] == "TransportError"
        assert re.search("rank 1 (died|left)", noticed["said"])
        assert noticed["late_s"] < 2
        assert noticed["went_on_with"] == len(hosts) - 1


@pytest.mark.parametrize("hosts", ["aaa", "abc"])
@pytest.mark.parametrize("fate", ["leaves", "exits", "raises"])
def test_a_rank_that_ends_early_is_named(tmp_path: Path, fate: str, hosts: str) -> None:
    for noticed in survive(tmp_path, hosts, fate):
        assert noticed["kind"] == "TransportError"
        assert "rank 1 " in noticed["said"]
        assert noticed["waited_s"] < 2
        assert noticed["went_on_with"] == 2


@pytest.mark.parametrize("hosts", ["aaa", "abc"])
def test_a_stopped_rank_runs_into_the_timeout(tmp_path: Path, hosts: str) -> None:
    noticed = survive(tmp_path, hosts, "stopped")
    assert all(1.5 < one["waited_s"] < 4 for one in noticed)
    assert any(one["kind"] == "TimeoutError" for one in noticed)
    assert all("timed out waiting for" in one["said"] for one in noticed)
    assert all(" rank 1" in one["said"] for one in noticed)


WAITING = """
import sys
sys.modules["torch"] = None
import pathlib, quoit, stage
rank = int(sys.argv[2])
comm = quoit.Communicator(rank, 2, stage.file_rendezvous(pathlib.Path(sys.argv[1]), rank, 2))
print("ready", flush=True)
if rank == 1:
    sys.stdin.read()
else:
    comm.barrier()
"""


def test_ctrl_c_ends_a_wait(tmp_path: Path) -> None:
    mark = secrets.token_hex(8)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", WAITING, str(tmp_path), str(rank)],
            env={**os.environ, "PYTHONPATH": path, **worlds.marked(mark)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in ranks:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)  # rank 0 sleeps on its bell by now
        interrupted = time.monotonic()
        ranks[0].send_signal(signal.SIGINT)
        _, err = ranks[0].communicate(timeout=10)
        assert time.monotonic() - interrupted < 2
        assert "KeyboardInterrupt" in err
    finally:
        ranks[1].communicate(timeout=10)
        left = worlds.end_all(mark)
    assert not left
