"""The ports and connections of ranks over TCP; more of it is in tests/cpp/test_tcp.cpp."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import worlds
from worlds import World

PROGRAM = str(Path(__file__).with_name("tcp_rank.py"))


def free_ports(count: int) -> range:
    """Neighbours that nobody listens on now, outside the range that the system gives out."""
    for first in range(21_000, 31_000, 100):
        try:
            for port in range(first, first + count):
                with socket.create_server(("", port)):
                    pass
        except OSError:
            continue
        return range(first, first + count)
    raise AssertionError("no free ports")


def ranks(size: int, ports: range, folder: Path) -> tuple[list[Any], str]:
    env = {"QUOIT_TRANSPORT": "tcp", "QUOIT_PORTS": f"{ports[0]}-{ports[-1]}", "QUOIT_IFACE": "lo"}
    with worlds.launched(World("processes", "a" * size), [PROGRAM, str(folder)], env) as process:
        out, err = process.communicate(timeout=120)
    return sorted(json.loads(text) for text in re.findall(r"\[\d+, .*\]", out)), err


def test_ranks_listen_in_their_range_and_connect_when_they_must(tmp_path: Path) -> None:
    ports = free_ports(6)
    said, err = ranks(3, ports, tmp_path)
    listening = []
    for rank, routes, its, before, after in said:
        assert routes == ["self" if peer == rank else "tcp" for peer in range(3)]
        listening += its
        assert before == 0  # nobody is called before there is something to say
        assert after > 0
    assert len(set(listening)) == 3, err
    assert set(listening) <= set(ports)


def test_a_range_that_is_too_small_is_refused(tmp_path: Path) -> None:
    ports = free_ports(1)
    said, err = ranks(2, ports, tmp_path)
    assert said == []
    assert f"all TCP ports from {ports[0]} to {ports[0]} are taken: give QUOIT_PORTS a wider" in err
