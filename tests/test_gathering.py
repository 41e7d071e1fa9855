"""quoit.Communicator.from_launcher, under every launcher; what the ranks tell each other by it is
tested with `quoit doctor`, which uses it too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import worlds
from quoit.launch import without_launcher
from worlds import World

PROGRAM = str(Path(__file__).with_name("launched_rank.py"))


def ranks_of(said: str) -> list[list[list[object]]]:
    """What each rank printed, by rank."""
    lines = [line[line.index("[[") :] for line in said.splitlines() if "[[" in line]
    return sorted(json.loads(line) for line in lines)


@pytest.mark.parametrize(
    "world",
    [
        *(World(kind, "aa") for kind in ("processes", "torchrun", "mpich", "openmpi")),
        *(
            pytest.param(World(kind, "aab"), marks=worlds.NEEDS_CLUSTER)
            for kind in ("cluster-torchrun", "cluster-mpich")
        ),
    ],
    ids=str,
)
def test_the_launchers_ranks_are_a_group(world: World) -> None:
    env = {"QUOIT_IFACE": "eth0"} if world.kind.startswith("cluster") else {}
    without = [] if world.kind.endswith("torchrun") else ["--no-torch"]
    with worlds.launched(world, [PROGRAM, *without], env) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    said = ranks_of(out)
    total = [world.size * (world.size + 1) // 2] * 3
    between = "tcp" if world.kind.endswith("torchrun") else "mpi"
    routes = [
        [
            "self" if a == b else "shm" if world.hosts[a] == world.hosts[b] else between
            for b in range(world.size)
        ]
        for a in range(world.size)
    ]
    expected = [[[rank, world.size, total, routes[rank]]] * 2 for rank in range(world.size)]
    assert said == expected, err


def alone(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, PROGRAM, "--no-torch"],
        env={**without_launcher(os.environ), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_program_that_nothing_started_is_alone() -> None:
    done = alone()
    assert ranks_of(done.stdout) == [[[0, 1, [1, 1, 1], ["self"]]] * 2], done.stderr


def test_ranks_that_need_torch_to_meet_say_so() -> None:
    done = alone(RANK="1", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    assert done.returncode != 0
    assert "would meet at torch's store, and torch is not installed" in done.stderr
