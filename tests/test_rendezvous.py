"""Ranks meet with nothing exported: on one host, under both mpiruns, and across hosts."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from ipaddress import ip_address
from json import dumps
from pathlib import Path
from typing import Any

import pytest

from mpirun import FAMILIES, mpirun, prefixes, start
from quoit import rendezvous
from quoit.interfaces import Interface, interfaces, reachable
from quoit.launch import Launch, LaunchError, without_launcher
from quoit.meeting import Place, tell_host

GLOO = """
import os, sys
from datetime import timedelta
import torch, torch.distributed as dist
from quoit import rendezvous
rendezvous.install()
said = []
for round in range(3):
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    value = torch.tensor([10 ** dist.get_rank() * int(sys.argv[1]) + round])
    dist.all_reduce(value)
    said.append(value.item())
    dist.destroy_process_group()
os.write(1, f"{said}\\n".encode())
"""


@pytest.fixture
def place() -> Callable[[int, int], Place]:
    job = f"test-{secrets.token_hex(8)}"
    return lambda rank, size: Place(job, rank, size)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as executor:
        yield executor


@pytest.mark.parametrize("family", FAMILIES)
def test_gloo_meets_under_mpirun_again_and_again(family: str) -> None:
    pytest.importorskip("torch")
    done = mpirun(family, 3, [sys.executable, "-c", GLOO, "1"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[111, 114, 117]"] * 3


@pytest.mark.parametrize("family", FAMILIES)
def test_gloo_meets_across_hosts_through_mpi(family: str) -> None:
    pytest.importorskip("torch")
    # As two ranks see it that are alone on their hosts.
    alone = {
        "mpich": ["MPI_LOCALRANKID=0", "MPI_LOCALNRANKS=1"],
        "openmpi": ["OMPI_COMM_WORLD_LOCAL_RANK=0", "OMPI_COMM_WORLD_LOCAL_SIZE=1"],
    }[family]
    done = mpirun(family, 2, ["env", *alone, sys.executable, "-c", GLOO, "1"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[11, 13, 15]"] * 2


def test_jobs_at_the_same_time_never_meet() -> None:
    pytest.importorskip("torch")
    jobs = {
        (family, seed): start(family, 2, [sys.executable, "-c", GLOO, str(seed)])
        for family in prefixes()
        for seed in (1, 2)
    }
    for (_, seed), job in jobs.items():
        out, err = job.communicate(timeout=120)
        assert job.returncode == 0, err
        assert out.splitlines() == [str([11 * seed, 11 * seed + 2, 11 * seed + 4])] * 2


def test_gloo_meets_under_quoit_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    script = tmp_path / "gloo.py"
    script.write_text(GLOO)
    command = ["-m", "quoit.cli", "run", "--no-prefix", "-n", "2", str(script), "1"]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[11, 13, 15]"] * 2


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_every_rank_hears_rank_0_in_every_meeting(
    size: int, place: Callable[[int, int], Place], pool: ThreadPoolExecutor
) -> None:
    def rank(index: int) -> list[str]:
        said = [f"meeting {n} of {size}" if index == 0 else "ignored" for n in range(40)]
        return [tell_host(place(index, size), text, 20.0) for text in said]

    heard = list(pool.map(rank, range(size)))
    assert heard == [[f"meeting {n} of {size}" for n in range(40)]] * size


def test_rank_0_may_be_late(place: Callable[[int, int], Place], pool: ThreadPoolExecutor) -> None:
    early = pool.submit(tell_host, place(1, 2), "", 20.0)
    time.sleep(0.3)
    assert not early.done()
    assert tell_host(place(0, 2), "text", 20.0) == "text"
    assert early.result() == "text"


def test_a_missing_rank_is_named(
    place: Callable[[int, int], Place], pool: ThreadPoolExecutor
) -> None:
    present = pool.submit(tell_host, place(2, 4), "", 20.0)
    with pytest.raises(TimeoutError, match=r"quoit rank 0 on .*ranks 1, 3 of 4 did not .*0\.5 s"):
        tell_host(place(0, 4), "text", 0.5)
    with pytest.raises(TimeoutError, match=r"quoit rank 2 on .*ranks 1, 3 of 4 did not"):
        present.result()


def test_a_missing_rank_0_is_named(place: Callable[[int, int], Place]) -> None:
    words = (
        r"quoit rank 1 on .*rank 0 did not open the meeting point within 0\.3 s: is it alive, "
        r"did it call init_process_group\?"
    )
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=words):
        tell_host(place(1, 2), "", 0.3)
    assert 0.3 <= time.monotonic() - began < 2.0


def test_a_rank_may_give_up_and_come_back(
    place: Callable[[int, int], Place], pool: ThreadPoolExecutor
) -> None:
    host = pool.submit(tell_host, place(0, 3), "text", 20.0)
    with pytest.raises(TimeoutError, match="rank 0 is there, but other ranks did not come"):
        tell_host(place(1, 3), "", 0.4)
    others = [pool.submit(tell_host, place(rank, 3), "", 20.0) for rank in (1, 2)]
    assert [one.result() for one in (host, *others)] == ["text"] * 3


def test_strangers_are_not_answered_and_do_no_harm(
    place: Callable[[int, int], Place], pool: ThreadPoolExecutor
) -> None:
    host = pool.submit(tell_host, place(0, 2), "secret", 20.0)
    token = place(1, 2).token
    silent = connect(place(0, 2))
    for message in (b"?", token, token + bytes(3), bytes(16) + b"\0\0\0\1", token + bytes(50)):
        with connect(place(0, 2)) as stranger:
            stranger.send(message)
            assert stranger.recv(100) == b""
    for rank in (0, 2, 2**32 - 1):
        with connect(place(0, 2)) as stranger:
            stranger.send(token + rank.to_bytes(4, "big") + (2).to_bytes(4, "big"))
            assert b"secret" not in stranger.recv(100)
    assert not host.done()
    assert tell_host(place(1, 2), "", 20.0) == "secret"
    assert host.result() == "secret"
    assert silent.recv(100) == b""
    silent.close()


def connect(place: Place) -> socket.socket:
    """A stranger's connection to the meeting point, made once it is open."""
    deadline = time.monotonic() + 10
    while True:
        stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stranger.settimeout(10)
        try:
            stranger.connect(place.name)
            return stranger
        except ConnectionRefusedError:
            stranger.close()
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_two_processes_of_one_rank_are_told(
    place: Callable[[int, int], Place], pool: ThreadPoolExecutor
) -> None:
    host = pool.submit(tell_host, place(0, 3), "text", 20.0)
    twins = [pool.submit(tell_host, place(1, 3), "", 20.0) for _ in range(2)]
    while not any(twin.done() for twin in twins):
        time.sleep(0.01)
    loser, winner = sorted(twins, key=lambda twin: not twin.done())
    with pytest.raises(RuntimeError, match=r"two processes of job .* act as rank 1 of 3"):
        loser.result()
    assert tell_host(place(2, 3), "", 20.0) == "text"
    assert winner.result() == host.result() == "text"


def test_ranks_that_say_other_sizes_are_told(
    place: Callable[[int, int], Place], pool: ThreadPoolExecutor
) -> None:
    ranks = [pool.submit(tell_host, place(rank, 3), "", 20.0) for rank in (0, 1)]
    time.sleep(0.3)  # for rank 1 to come: who comes to a meeting that failed finds nobody
    ranks.append(pool.submit(tell_host, place(2, 4), "", 20.0))
    for one in ranks:
        with pytest.raises(RuntimeError, match=r"there are 3 ranks, rank 2 says 4"):
            one.result()


def test_a_second_rank_0_is_told(place: Callable[[int, int], Place]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as holder:
        holder.bind(place(0, 2).name)
        with pytest.raises(RuntimeError, match=r"meeting point of job .* is taken"):
            tell_host(place(0, 2), "text", 1.0)


Handlers = dict[str, Callable[..., Iterator[Any]]]


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Handlers:
    """torch's table with a recognisable original, in an environment with no launcher."""
    module = pytest.importorskip("torch.distributed.rendezvous")
    table: Handlers = {"env": lambda url, **options: iter([("original", url, options)])}
    monkeypatch.setattr(module, "_rendezvous_handlers", table)
    alone = without_launcher(os.environ)
    for name in set(os.environ) - set(alone):
        monkeypatch.delenv(name)
    return table


def under_mpirun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "OMPI_COMM_WORLD_RANK": "0",
        "OMPI_COMM_WORLD_SIZE": "1",
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
        "PMIX_NAMESPACE": f"test-{secrets.token_hex(8)}",
    }.items():
        monkeypatch.setenv(name, value)


def test_install_is_idempotent(handlers: Handlers) -> None:
    rendezvous.install()
    ours = handlers["env"]
    rendezvous.install()
    assert handlers["env"] is ours


def test_torchs_own_handler_keeps_the_rest(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendezvous.install()

    def asked(url: str) -> Any:
        return next(handlers["env"](url, timeout=timedelta(seconds=5)))[0]

    assert asked("env://") == "original"
    under_mpirun(monkeypatch)
    assert asked("env://?rank=1&world_size=3") == "original"
    assert asked("env://?rank=0&world_size=1") != "original"
    assert asked("env://") != "original"
    monkeypatch.setenv("MASTER_ADDR", "node1")
    assert asked("env://") == "original"


def test_a_torch_that_cannot_be_taught(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    # By name, pytest would find torch's function rendezvous, which hides the module.
    monkeypatch.delattr(sys.modules["torch.distributed.rendezvous"], "_rendezvous_handlers")
    rendezvous.install()
    assert not recwarn.list
    under_mpirun(monkeypatch)
    with pytest.warns(RuntimeWarning, match="export MASTER_ADDR .* and MASTER_PORT"):
        rendezvous.install()


def gathering(size: int) -> Callable[[int], Callable[[str], list[str]]]:
    """What MPI offers, for ranks that are threads: give a string, get everybody's."""
    texts = [""] * size
    barrier = threading.Barrier(size, timeout=20)

    def of_rank(rank: int) -> Callable[[str], list[str]]:
        def all_gather(text: str) -> list[str]:
            texts[rank] = text
            barrier.wait()
            return list(texts)

        return all_gather

    return of_rank


def meet_threads(pool: ThreadPoolExecutor, size: int, timeout_s: float) -> list[Future[Any]]:
    gather = gathering(size)
    return [
        pool.submit(
            rendezvous.meet_across_hosts,
            Launch("mpich", rank, size, 0, 1, "j"),
            timedelta(seconds=timeout_s),
            gather(rank),
        )
        for rank in range(size)
    ]


def test_across_hosts_a_rank_finds_the_address_that_answers(
    monkeypatch: pytest.MonkeyPatch, pool: ThreadPoolExecutor
) -> None:
    pytest.importorskip("torch")
    # Nothing can connect to the first; the last is this host.
    monkeypatch.setattr(rendezvous, "_own_hosts", lambda: ["255.255.255.255", "127.0.0.1"])
    stores = [rank.result() for rank in meet_threads(pool, 3, 20.0)]
    for rank, store in enumerate(stores):
        store.set(f"from {rank}", str(rank))
    assert [[store.get(f"from {rank}") for rank in range(3)] for store in stores] == [
        [b"0", b"1", b"2"]
    ] * 3
    assert {store.timeout for store in stores} == {timedelta(seconds=20)}


def test_across_hosts_an_unreachable_rank_0_is_named(
    monkeypatch: pytest.MonkeyPatch, pool: ThreadPoolExecutor
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(rendezvous, "_own_hosts", lambda: ["255.255.255.255"])
    server, client = meet_threads(pool, 2, 0.5)
    server.result()
    words = r"quoit rank 1 on .*255\.255\.255\.255, port .* not reached within 0\.5 s .*QUOIT_IFACE"
    with pytest.raises(TimeoutError, match=words):
        client.result()


def test_across_hosts_another_jobs_store_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, pool: ThreadPoolExecutor
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(rendezvous, "_own_hosts", lambda: ["127.0.0.1"])
    (server,) = meet_threads(pool, 1, 20.0)
    store = server.result()
    offer = {"hosts": ["127.0.0.1"], "port": store.port, "token": "of another job"}
    launch = Launch("mpich", 1, 2, 0, 1, "j")
    with pytest.raises(TimeoutError, match="another job's store answers there"):
        rendezvous.meet_across_hosts(launch, timedelta(seconds=0.5), lambda _: [dumps(offer)])


def test_across_hosts_an_error_of_rank_0_reaches_all(
    monkeypatch: pytest.MonkeyPatch, pool: ThreadPoolExecutor
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("QUOIT_IFACE", "nosuch0")
    server, client = meet_threads(pool, 2, 20.0)
    with pytest.raises(ValueError, match="QUOIT_IFACE=nosuch0 asks for nosuch0, but this host has"):
        server.result()
    with pytest.raises(LaunchError, match=r"rank 0 cannot open a store .*QUOIT_IFACE=nosuch0"):
        client.result()


def test_no_way_to_meet_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUOIT_MPI_LIBRARY", raising=False)
    with pytest.raises(LaunchError) as caught:
        rendezvous.meet(Launch("slurm", 0, 4, 0, 2, "j"), timedelta(seconds=1))
    for word in ("MASTER_ADDR", "MASTER_PORT", "torchrun", "QUOIT_MPI_LIBRARY"):
        assert word in str(caught.value)


LO = Interface("lo", ip_address("127.0.0.1"))
ETH = Interface("eth0", ip_address("192.0.2.2"))
ETH6 = Interface("eth0", ip_address("2001:db8::2"))
LINK = Interface("eth0", ip_address("fe80::1"))
IB = Interface("ib0", ip_address("198.51.100.2"))
ALL = [LO, ETH, ETH6, LINK, IB]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("", [ETH, ETH6, IB]),
        ("eth0", [ETH, ETH6]),
        ("ib0, eth0", [ETH, ETH6, IB]),
        ("^eth0", [IB]),
        ("^eth0,docker0", [IB]),
        ("eth0,^docker0", [ETH, ETH6]),
        ("ib0, eth0, ^ib0", [ETH, ETH6]),
        ("^eth0, ^docker0", [IB]),
        ("^eth0,ib0", []),
        ("lo", [LO]),
    ],
)
def test_interfaces_are_chosen_by_name(chosen: str, expected: list[Interface]) -> None:
    assert reachable(ALL, chosen) == expected


def test_an_unknown_interface_is_named() -> None:
    with pytest.raises(ValueError, match="asks for eth1, but this host has eth0, ib0, lo"):
        reachable(ALL, "eth1,ib0")


def test_the_loopback_interface_is_found() -> None:
    names = {name for _, name in socket.if_nameindex()}
    found = interfaces()
    assert LO in found
    assert {one.name for one in found} <= names
