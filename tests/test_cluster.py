"""Hosts that are network namespaces: they are made, cut off, and taken down."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import worlds
from quoit.cluster import Cluster

PROGRAM = str(Path(__file__).with_name("failing_rank.py"))
TIMEOUT_S = 3.0  # failing_rank.py's

pytestmark = worlds.NEEDS_CLUSTER


def _namespaces() -> str:
    return subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout


def test_hosts_have_names_addresses_and_no_common_memory() -> None:
    script = (
        "import os, socket; print(socket.gethostname()); open('/dev/shm/mine', 'x').close();"
        "print(socket.create_connection((os.environ['PEER'], 4711), 5).getsockname()[0])"
    )
    listen = "import socket; s = socket.create_server(('', 4711)); print('on', flush=True); "
    with Cluster(2, rate="100mbit") as cluster:
        server = cluster.start(
            0, [sys.executable, "-c", listen + "s.accept()"], stdout=subprocess.PIPE
        )
        assert server.stdout is not None
        assert server.stdout.readline() == "on\n"
        caller = cluster.start(
            1,
            [sys.executable, "-c", script],
            {"PEER": cluster.address(0)},
            stdout=subprocess.PIPE,
        )
        assert caller.communicate(timeout=20)[0].split() == [cluster.name(1), cluster.address(1)]
        server.wait(20)
        name = cluster.name(0)
        assert name in _namespaces()
    assert name not in _namespaces()
    assert not Path("/dev/shm/mine").exists()


def test_what_still_runs_is_ended_with_the_cluster() -> None:
    with Cluster(1) as cluster:
        process = cluster.start(0, ["sleep", "600"])
    assert process.wait(0) != 0


def test_a_host_that_is_cut_off_is_named_at_the_timeout(tmp_path: Path) -> None:
    with Cluster(3) as cluster:
        ranks = [
            cluster.start(
                host,
                [sys.executable, PROGRAM, str(tmp_path), str(host), "3", "cut_off"],
                {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for host in range(3)
        ]
        deadline = time.monotonic() + 60
        while not (tmp_path / "fate").exists():
            assert time.monotonic() < deadline, [rank.poll() for rank in ranks]
            time.sleep(0.01)
        cluster.cut(1)
        for survivor in (0, 2):
            out, err = ranks[survivor].communicate(timeout=60)
            assert out, err
            noticed = json.loads(out)
            assert "timed out waiting for" in noticed["said"]
            assert "rank 1" in noticed["said"]
            assert noticed["waited_s"] < TIMEOUT_S + 3
            assert noticed["went_on_with"] == 2
