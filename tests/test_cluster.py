"""Hosts that are network namespaces: they are made, slowed down, cut off, and taken down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import worlds
from quoit.cluster import Cluster
from quoit.cluster_keeper import LOCKS

PROGRAM = str(Path(__file__).with_name("failing_rank.py"))
TIMEOUT_S = 3.0  # failing_rank.py's

pytestmark = worlds.NEEDS_CLUSTER


def _namespaces() -> str:
    return subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout


def test_hosts_have_names_addresses_and_no_common_memory() -> None:
    script = (
        "import os, socket; print(socket.gethostname()); open('/dev/shm/mine', 'x').close();"
        "print(socket.create_connection((os.environ['PEER'], 4711), 5).getsockname()[0]);"
        "print(os.readlink('/proc/self/ns/ipc'))"
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
        name, address, ipc = caller.communicate(timeout=20)[0].split()
        assert (name, address) == (cluster.name(1), cluster.address(1))
        assert ipc != os.readlink("/proc/self/ns/ipc")
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


ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 4711))
print("on", flush=True)
while True:
    said, who = s.recvfrom(100)
    s.sendto(said, who)
"""
# Times of round trips; those of 2 s and more are given up.
PING = """
import os, socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((os.environ["PEER"], 4711))
s.settimeout(2)
for line in sys.stdin:
    start = time.monotonic()
    try:
        s.send(line.encode())
        s.recv(100)
        print(time.monotonic() - start, flush=True)
    except TimeoutError:
        print("lost", flush=True)
"""


def _pings(cluster: Cluster) -> Callable[[], float | None]:
    """A function that times a round trip from host 1 to host 0 and back, or gives None."""
    echo = cluster.start(0, [sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 1}
    pinger = cluster.start(1, [sys.executable, "-c", PING], {"PEER": cluster.address(0)}, **pipes)
    assert echo.stdout is not None
    assert echo.stdout.readline() == "on\n"

    def ping() -> float | None:
        assert pinger.stdin is not None
        assert pinger.stdout is not None
        pinger.stdin.write("ping\n")
        said = pinger.stdout.readline()
        return None if said == "lost\n" else float(said)

    return ping


@pytest.mark.parametrize("rate", [None, "100mbit"])
def test_a_round_trip_takes_twice_the_delay(rate: str | None) -> None:
    with Cluster(2, rate=rate, delay="30ms") as cluster:
        ping = _pings(cluster)
        times = [ping() for _ in range(11)]
    times = [time for time in times[1:] if time is not None]  # the first asks for an address
    assert len(times) == 10
    assert min(times) >= 0.06
    assert sorted(times)[5] < 0.06 + 1.0


def test_a_host_that_is_cut_off_hears_nothing_over_a_slow_link() -> None:
    with Cluster(2, delay="1ms") as cluster:
        ping = _pings(cluster)
        assert ping() is not None
        cluster.cut(0)
        assert ping() is None


# Sends 16 MB to the next host and takes as much from the one before; datagrams count upwards.
EXCHANGE = """
import hashlib, os, random, socket, threading
me, peer = int(os.environ["ME"]), os.environ["PEER"]
server = socket.create_server(("", 4711))
numbers = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
numbers.bind(("", 4712))
print("on", flush=True)
input()
out = socket.create_connection((peer, 4711), 20)
into, _ = server.accept()
bytes_of = lambda rank: random.Random(rank).randbytes(1 << 24)
def send():
    for number in range(300):
        numbers.sendto(number.to_bytes(2, "big") * 600, (peer, 4712))
    out.sendall(bytes_of(me))
    out.shutdown(socket.SHUT_WR)
sender = threading.Thread(target=send)
sender.start()
took = hashlib.sha256()
while part := into.recv(1 << 20):
    took.update(part)
sender.join()
assert took.digest() == hashlib.sha256(bytes_of(1 - me)).digest()
numbers.settimeout(1)
seen = []
try:
    while len(seen) < 300:
        said = numbers.recv(2000)
        assert said == said[:2] * 600
        seen.append(int.from_bytes(said[:2], "big"))
except TimeoutError:
    pass
assert seen and seen == sorted(set(seen)), seen
print("unharmed", flush=True)
"""


def test_what_goes_over_a_slow_link_is_unharmed_and_in_order() -> None:
    with Cluster(2, rate="400mbit", delay="2ms") as cluster:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 1}
        hosts = [
            cluster.start(
                host,
                [sys.executable, "-c", EXCHANGE],
                {"ME": str(host), "PEER": cluster.address(1 - host)},
                **pipes,
            )
            for host in range(2)
        ]
        for host in hosts:
            assert host.stdout is not None
            assert host.stdout.readline() == "on\n"
        for host in hosts:
            assert host.stdin is not None
            host.stdin.write("go\n")
        assert [host.communicate(timeout=60)[0] for host in hosts] == ["unharmed\n"] * 2


# A cluster that stays until its owner is ended; it tells its name and its keeper.
OWNER = """
import sys, time
from quoit.cluster import Cluster
with Cluster(2, delay=sys.argv[1] or None) as cluster:
    cluster.start(1, ["sleep", "600"])
    print(cluster.bridge, cluster._keeper.pid, flush=True)
    time.sleep(600)
"""


def _traces(bridge: str) -> list[str]:
    """What there is of a cluster."""
    found = [line for line in _namespaces().splitlines() if line.startswith(bridge)]
    found += [name for name in os.listdir("/sys/class/net") if bridge.removeprefix("quoit") in name]
    return found + [str(path) for path in LOCKS.glob(f"*{bridge.removeprefix('quoit')}*")]


def _owner(delay: str) -> tuple[subprocess.Popen[str], str, int]:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, delay],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert owner.stdout is not None
    bridge, keeper = owner.stdout.readline().split()
    assert len(_traces(bridge)) >= 4
    return owner, bridge, int(keeper)


@pytest.mark.parametrize("delay", ["", "1ms"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_whatever_ends_the_owner(number: int, delay: str) -> None:
    owner, bridge, _ = _owner(delay)
    os.killpg(owner.pid, number)
    owner.wait(30)
    deadline = time.monotonic() + 30
    while _traces(bridge):
        assert time.monotonic() < deadline, _traces(bridge)
        time.sleep(0.05)


def test_what_a_killed_owner_and_keeper_left_is_taken_down_by_the_next() -> None:
    owner, bridge, keeper = _owner("")
    with Cluster(1):
        assert _traces(bridge)  # it is in use
    os.kill(keeper, signal.SIGKILL)
    owner.kill()
    owner.wait(30)
    assert _traces(bridge)
    deadline = time.monotonic() + 30
    while _traces(bridge):  # the killed keeper may take its time
        assert time.monotonic() < deadline, _traces(bridge)
        with Cluster(1) as cluster:
            assert _traces(cluster.bridge)


@pytest.mark.parametrize(("rate", "delay"), [("fast", None), ("1gbps", None), (None, "2")])
def test_rates_and_delays_are_read_before_anything_is_made(
    rate: str | None, delay: str | None
) -> None:
    with pytest.raises(ValueError, match=r"is no (rate|time)"):
        Cluster(2, rate=rate, delay=delay)
