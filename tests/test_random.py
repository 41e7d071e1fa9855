"""Random programs: no hang, no wrong result, whatever is mixed with what."""

from __future__ import annotations

from pathlib import Path

import pytest

import worlds
from worlds import World

pytest.importorskip("torch")

PROGRAM = str(Path(__file__).with_name("random_rank.py"))


def play(world: World, first: int, programs: int, deadline_s: float) -> None:
    hosts = {f"QUOIT_TEST_HOST_{rank}": host for rank, host in enumerate(world.hosts)}
    env = {"QUOIT_IFACE": "lo", **hosts}
    with worlds.launched(world, [PROGRAM, str(first), str(programs)], env) as process:
        out, err = process.communicate(timeout=deadline_s)
    assert process.returncode == 0, f"{out[-500:]}{err}"
    assert out.count(": ok") == programs


@pytest.mark.parametrize("hosts", ["aaaa", "aabb", "abc"])
def test_random_programs(hosts: str) -> None:
    play(World("processes", hosts), 0, 25, 120)


@pytest.mark.slow
@pytest.mark.parametrize("hosts", ["aaaa", "aabb"])
def test_a_thousand_random_programs(hosts: str) -> None:
    play(World("processes", hosts), 1000, 1000, 3600)
