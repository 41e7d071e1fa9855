"""`quoit bench --cluster`: hosts are made, measured across, and taken down."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import mpirun
import worlds
from quoit.bench import hosts, options
from quoit.cluster import Cluster

BENCH = [sys.executable, "-m", "quoit.cli", "bench"]
SIZES = ["-b", "4K", "-e", "256K", "-f", "64", "--rounds", "3"]


def _parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.configure(parser)
    return parser.parse_args(["all_reduce", *arguments])


def test_hosts_and_ranks_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cluster, "missing", lambda rate=None, delay=None: "")
    assert hosts.asked(_parsed()) is None
    for text in ("3x2", "3×2"):
        found = hosts.asked(_parsed("--cluster", text, "--rate", "1gbit", "--delay", "2ms"))
        assert found == hosts.Asked(3, 2, "1gbit", "2ms")
        assert found.ranks == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cluster", "2"), "--cluster 2: give hosts and ranks of each, as 2x2"),
        (("--cluster", "0x2"), "give hosts and ranks of each"),
        (("--cluster", "2x2", "-n", "5"), "-n 5: --cluster 2x2 has 4 ranks"),
        (("--rate", "1gbit"), "--rate 1gbit belongs to --cluster"),
        (("--delay", "1ms"), "--delay 1ms belongs to --cluster"),
        (("--cluster", "2x2", "--rate", "1gbps"), "'1gbps' is no rate"),
        (("--cluster", "2x2", "--delay", "1"), "'1' is no time"),
        (("--cluster", "300x1"), "a cluster of 300 hosts: choose 1 to 200"),
    ],
)
def test_mistakes_are_named(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr(Cluster, "missing", lambda rate=None, delay=None: "")
    with pytest.raises(ValueError, match=re.escape(said)):
        hosts.asked(_parsed(*arguments))


def test_it_needs_root_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ValueError, match="--cluster 2x2: network namespaces need root"):
        hosts.asked(_parsed("--cluster", "2x2"))


def test_the_line_bounds_busbw() -> None:
    # Two hosts of one rank: busbw of all_reduce is what a link carries.
    assert hosts.busbw_limit("all_reduce", hosts.Asked(2, 1, "8gbit", None)) == pytest.approx(1)
    # Two ranks share it, but half of what a rank exchanges stays inside.
    limit = hosts.busbw_limit("all_reduce", hosts.Asked(2, 2, "8gbit", None))
    assert limit == pytest.approx(3 / 4 / (1 / 2))
    assert hosts.busbw_limit("broadcast", hosts.Asked(2, 2, "8gbit", None)) == pytest.approx(1)
    assert hosts.busbw_limit("all_reduce", hosts.Asked(2, 2, None, None)) is None
    assert hosts.busbw_limit("barrier", hosts.Asked(2, 2, "8gbit", None)) is None


def _bench(tmp_path: Path, *arguments: str) -> Any:
    path = tmp_path / "report.json"
    done = subprocess.run(
        [*BENCH, "all_reduce", *SIZES, *arguments, f"--json={path}"],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


def _environment() -> dict[str, str]:
    prefixes = mpirun.prefixes()
    return {
        **os.environ,
        **{f"QUOIT_TEST_{name.upper()}": str(prefixes[name]) for name in prefixes},
    }


def _namespaces() -> set[str]:
    said = subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
    return {line.split()[0] for line in said.splitlines()}


@worlds.NEEDS_CLUSTER
@pytest.mark.parametrize(
    ("launcher", "peers"), [("quoit", {"quoit", "gloo"}), ("mpich", {"quoit", "MPICH"})]
)
def test_ranks_on_other_hosts_are_measured(tmp_path: Path, launcher: str, peers: set[str]) -> None:
    backends = "quoit,mpi" if "MPICH" in peers else "quoit,gloo"
    report = _bench(
        tmp_path,
        *("--cluster", "2x1", "--rate", "400mbit", "--delay", "5ms"),
        *("--launcher", launcher, "--backends", backends),
    )
    facts = report["facts"]
    assert facts["cluster"].startswith("2 hosts × 1 ranks, links of 400mbit, 5ms one way")
    assert facts["line"] == "400mbit for each host allow a busbw of 0.050 GB/s"
    assert "2 on 2 hosts" in facts["ranks"]
    assert [row["bytes"] for row in report["rows"]] == [4 << 10, 256 << 10]
    for row in report["rows"]:
        assert peers <= set(row["peers"])
        for name in peers:
            cell = row["peers"][name]
            assert cell["wrong"] == 0
            assert cell["us"] >= 5000, (name, "no message is faster than its link")


@worlds.NEEDS_CLUSTER
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_after_an_interrupt(number: int) -> None:
    before = _namespaces()
    process = subprocess.Popen(
        [*BENCH, "barrier", "--cluster", "2x1", "--launcher", "quoit", "--seconds", "600"],
        env=_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (made := _namespaces() - before) or not _ranks(made):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, number)
    assert process.wait(60) == 128 + number
    assert not made & _namespaces()


def _ranks(names: set[str]) -> list[str]:
    """Whether something runs on all of them."""
    pids = [
        subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
        for name in names
    ]
    return [pid for each in pids for pid in each] if all(pids) else []
