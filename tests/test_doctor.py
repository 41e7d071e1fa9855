"""`quoit doctor`: what it makes of made-up findings, how ranks gather, and whole reports."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fake_cuda
import mpirun
import worlds
from quoit import doctor, doctor_measure, doctor_show, doctor_software, doctor_text, gathering
from quoit.doctor_advice import VARIABLES, Advice
from quoit.doctor_findings import (
    Address,
    Cores,
    Failure,
    Findings,
    Limits,
    Measurement,
    Memory,
    Mpi,
    Network,
    Peers,
    Process,
    RankFindings,
    Software,
    Torch,
    read,
    written,
)
from quoit.doctor_probes import Attempts
from quoit.launch import Launch, without_launcher

GIB = 1 << 30
ROOT = Path(__file__).resolve().parent.parent

HEALTHY = RankFindings(
    rank=0,
    size=2,
    launcher="quoit",
    local_rank=0,
    local_size=2,
    launch_problem="",
    host="node0",
    identity="node0/boot0/pid",
    transport="auto",
    tcp=False,
    environment={"OMP_NUM_THREADS": "4", "QUOIT_JOB": "job"},
    software=Software("0.1.0", "/q", "x86-64-v3", "3.11.7", "2.1.0", "2.13.0", "4.1.2", ""),
    torch=Torch("2.13.0", 4, "", (), "", "/q", "g++", ""),
    mpi=Mpi((), (), "", "", "", "", ""),
    cores=Cores(8, 8, tuple(range(8)), 8, None),
    memory=Memory(64 * GIB, 32 * GIB, 32 * GIB, ""),
    process=Process(100, 1000, "boot0", 1, 1, 5),
    network=Network(
        "node0",
        ("10.0.0.1",),
        (Address("eth0", "10.0.0.1", True, "tried first by others"),),
        "32768-60999",
        "",
    ),
    limits=Limits(4096, -1, -1, 0),
    driver="",
    failures=(),
)


def job(*hosts: int, route: str = "mpi", **changes: Any) -> Findings:
    """Healthy ranks; hosts: how many on each. changes: to all ranks."""
    ranks: list[RankFindings] = []
    for number, local in enumerate(hosts):
        for local_rank in range(local):
            one = replace(
                HEALTHY,
                rank=len(ranks),
                size=sum(hosts),
                local_rank=local_rank,
                local_size=local,
                host=f"node{number}",
                identity=f"node{number}/boot{number}/pid",
                process=Process(100 + local_rank, 1000, f"boot{number}", 1, 1, 5),
                network=replace(HEALTHY.network, name=f"node{number}"),
            )
            ranks.append(replace(one, **changes))
    peers = tuple(
        Peers(
            a.rank,
            tuple(
                "self" if a is b else "shm" if a.identity == b.identity else route for b in ranks
            ),
            {},
            {},
        )
        for a in ranks
    )
    return Findings(tuple(ranks), peers, True, None, ())


def changed(found: Findings, rank: int, **changes: Any) -> Findings:
    ranks = list(found.ranks)
    ranks[rank] = replace(ranks[rank], **changes)
    return replace(found, ranks=tuple(ranks))


def bound(found: Findings, cores: Sequence[Sequence[int]]) -> Findings:
    """Each rank bound to these of its 8 cores."""
    for rank, its in enumerate(cores):
        found = changed(found, rank, cores=Cores(8, 8, tuple(its), len(its), None))
    return found


def with_peers(found: Findings, rank: int, **changes: Any) -> Findings:
    peers = list(found.peers)
    peers[rank] = replace(peers[rank], **changes)
    return replace(found, peers=tuple(peers))


LOOPBACK = Network(
    "node0",
    ("127.0.1.1",),
    (Address("lo", "127.0.0.1", False, "loopback"), Address("eth0", "10.0.0.1", True, "first")),
    "32768-60999",
    "",
)
NOWHERE = replace(LOOPBACK, resolves_to=("10.0.0.1",), addresses=LOOPBACK.addresses[:1])
MEASURED = Measurement(2, False, ("self", "shm"), 8.0, 64 << 20, 9e3, 9e3, (9e3, 9e3))

# A trap: made-up findings; level, ranks and a phrase of what is said, a phrase of the cure.
TRAPS: dict[str, tuple[Findings, str, tuple[int, ...], str, str]] = {
    "launch": (
        job(1, launch_problem="RANK=3 but WORLD_SIZE=2"),
        *("problem", (0,), "RANK=3 but WORLD_SIZE=2", ""),
    ),
    "group": (
        replace(job(2), failures=(Failure("group of all ranks", "rank 1: gone"),)),
        *("problem", (), "group of all ranks: rank 1: gone", ""),
    ),
    "nothing between hosts": (
        job(2, 1, route="none"),
        *("problem", (0, 1, 2), "rank 0 on node0 and rank 2 on node1 share no memory", "mpirun"),
    ),
    "closed /proc": (
        with_peers(job(2), 1, closed={"0": "/proc/100/fd/5: Permission denied"}),
        *("problem", (0, 1), "rank 1 cannot open rank 0's memory", "look at its own processes"),
    ),
    "two users": (
        with_peers(
            changed(job(2), 1, process=Process(101, 1001, "boot0", 1, 1, 5)),
            *(1,),
            closed={"0": "/proc/100/fd/5: Permission denied"},
        ),
        *("problem", (0, 1), "cannot open", "run all ranks as one user"),
    ),
    "no memfd": (
        changed(job(2), 1, memory=Memory(GIB, GIB, GIB, "OSError: not permitted")),
        *("problem", (1,), "memfd_create: OSError: not permitted", "seccomp"),
    ),
    "containers of one machine": (
        changed(job(1, 1), 1, process=Process(100, 1000, "boot0", 2, 1, 5)),
        *("warning", (0, 1), "their host names differ (node0, node1)", "one container"),
    ),
    "wrong MPI": (
        changed(job(2), 1, mpi=Mpi((), (), "", "", "", "", "MPICH's mpirun started, but")),
        *("problem", (1,), "MPICH's mpirun started, but", ""),
    ),
    "foreign mpi4py": (
        job(
            2,
            launcher="openmpi",
            software=replace(HEALTHY.software, mpi4py_family="mpich"),
        ),
        *("warning", (0, 1), "mpi4py is built for MPICH", "use MPICH's mpirun"),
    ),
    "another torch": (
        changed(job(4), 2, software=replace(HEALTHY.software, torch="2.9.1")),
        *("warning", (2,), "torch differs: 2.9.1 here, 2.13.0 on ranks 0-1, 3", "same"),
    ),
    "another quoit": (
        changed(job(3), 0, software=replace(HEALTHY.software, quoit="0.0.9")),
        *("problem", (0,), "quoit differs: 0.0.9 here", "same"),
    ),
    "Open MPI binds": (
        bound(job(2, launcher="openmpi"), [[0], [1]]),
        *("warning", (0, 1), "as Open MPI does by default, to 1 core each", "--bind-to none"),
    ),
    "all on one core": (
        bound(job(2, environment={"OMP_NUM_THREADS": "1"}), [[0], [0]]),
        *("warning", (0, 1), "2 ranks share 1 core", "others are idle"),
    ),
    "more ranks than cores": (
        job(12),
        *("warning", tuple(range(12)), "12 ranks share 8 cores", "no more ranks than cores"),
    ),
    "more ranks than a quota": (
        job(2, cores=Cores(8, 8, tuple(range(8)), 1, 1.5)),
        *("warning", (0, 1), "2 ranks share 1 core", "no more ranks than cores"),
    ),
    "too many threads": (
        job(2, environment={}, torch=replace(HEALTHY.torch, threads=8)),
        *("warning", (0, 1), "16 threads of torch on 8 cores (OMP_NUM_THREADS is not set)", "=4"),
    ),
    "too many threads, asked for": (
        job(2, environment={"OMP_NUM_THREADS": "6"}),
        *("warning", (0, 1), "12 threads of torch on 8 cores (OMP_NUM_THREADS=6)", "THREADS=4"),
    ),
    "a quota of threads": (
        job(1, cores=Cores(64, 64, tuple(range(64)), 2, 2.0), environment={}),
        *("warning", (0,), "4 threads of torch on 2 cores", "OMP_NUM_THREADS=2"),
    ),
    "torchcomms": (
        changed(job(2), 1, environment={"TORCH_DISTRIBUTED_USE_TORCHCOMMS": "1"}),
        *("problem", (1,), "hands every backend", "unset it"),
    ),
    "loopback name": (
        job(2, network=LOOPBACK),
        *("note", (0, 1), "resolves to 127.0.1.1 only", "GLOO_SOCKET_IFNAME=eth0"),
    ),
    "nameless hosts": (
        job(1, 1, network=replace(LOOPBACK, resolves_to=())),
        *("warning", (0, 1), "own name does not resolve", "/etc/hosts"),
    ),
    "loopback names of hosts": (
        job(1, 1, network=LOOPBACK),
        *("warning", (0, 1), "resolves to 127.0.1.1 only", "/etc/hosts"),
    ),
    "all names are 127.0.1.1": (
        with_peers(job(1, 1), 0, names={"node0": "127.0.1.1", "node1": "127.0.1.1"}),
        *("problem", (0,), "names of other hosts resolve to itself (node1 to 127.0.1.1)", "hosts"),
    ),
    "no interface": (
        changed(job(1, 1), 0, network=NOWHERE, environment={"QUOIT_IFACE": "^eth0"}),
        *("problem", (0,), "no address that another host can reach (QUOIT_IFACE=^eth0)", "ip addr"),
    ),
    "wrong QUOIT_IFACE": (
        changed(job(2), 1, network=replace(NOWHERE, problem="QUOIT_IFACE=ib9 asks for ib9")),
        *("problem", (1,), "QUOIT_IFACE=ib9 asks for ib9", ""),
    ),
    "small /dev/shm": (
        job(2, memory=Memory(GIB, 64 << 20, 64 << 20, "")),
        *("note", (0, 1), "/dev/shm has 64 MiB. Quoit does not use it", "--shm-size"),
    ),
    "few ports": (
        job(3, network=replace(HEALTHY.network, ports="20000-20001")),
        *("problem", (0, 1, 2), "ports 20000-20001 are 2, and 3 ranks", "QUOIT_PORTS"),
    ),
    "few files": (
        changed(job(8), 1, limits=Limits(256, -1, -1, -1)),
        *("warning", (1,), "only 256 open files are allowed; 8 ranks", "ulimit -n 4096"),
    ),
    "module to be built": (
        job(1, torch=replace(HEALTHY.torch, module="")),
        *("note", (0,), "not built for torch 2.13.0 yet", "b.load_c10d()"),
    ),
    "module cannot be built": (
        job(1, torch=replace(HEALTHY.torch, module="", problem="needs a C++20 compiler")),
        *("problem", (0,), "needs a C++20 compiler", ""),
    ),
    "misspelt variable": (
        job(1, environment={"QUOIT_TRANSPROT": "shm"}),
        *("warning", (), "QUOIT_TRANSPROT is set", "did you mean QUOIT_TRANSPORT?"),
    ),
    "slow rank": (
        replace(job(3), measurement=replace(MEASURED, memcpy_by_rank=(9e3, 9e4, 1e4))),
        *("warning", (1,), "9.0 times slower by rank 1", "NUMA"),
    ),
    "slow small messages": (
        replace(job(2), measurement=replace(MEASURED, small_us=900.0)),
        *("warning", (), "4 bytes take 900 µs", "core of its own"),
    ),
    "failed probe": (
        changed(job(2), 1, cores=None, failures=(Failure("cores", "OSError: no /proc"),)),
        *("warning", (1,), "cores could not be examined: OSError: no /proc", ""),
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_is_seen_and_has_a_cure(trap: str) -> None:
    found, level, ranks, what, do = TRAPS[trap]
    told = [one for one in doctor.advise(found) if what in one.what]
    assert len(told) == 1, doctor.advise(found)
    assert (told[0].level, told[0].ranks) == (level, ranks)
    assert do in told[0].do
    assert bool(do) == bool(told[0].do)


@pytest.mark.parametrize(
    "found",
    [
        job(1),
        job(2),
        job(2, 2, mpi=Mpi((), (), "/m", "/m", "mpich", "MPICH 5", ""), launcher="mpich"),
        replace(job(2), measurement=MEASURED),
        bound(job(2, environment={"OMP_NUM_THREADS": "4"}), [range(4), range(4, 8)]),
        replace(job(2), measurement=replace(MEASURED, memcpy_by_rank=(9e3, 1.5e4))),
    ],
)
def test_a_healthy_job_gets_no_advice(found: Findings) -> None:
    assert doctor.advise(found) == []


def test_what_could_not_be_examined_is_no_trap() -> None:
    unknown = {
        field.name: None
        for field in dataclasses.fields(RankFindings)
        if "| None" in str(field.type) and "local" not in field.name
    }
    assert len(unknown) == 8
    found = job(2, 2, **unknown)
    assert doctor.advise(found) == []
    assert "4 ranks on 2 hosts" in doctor_show.plain(doctor_text.sections(found, []))


def test_advice_is_ordered_and_joined_over_hosts() -> None:
    found = replace(job(12, 12), failures=(Failure("group", "broken"),))
    levels = [one.level for one in doctor.advise(found)]
    assert levels == ["problem", "warning"]
    assert doctor.advise(found)[1].ranks == tuple(range(24))


def test_findings_travel_as_text() -> None:
    found = replace(job(2, 1), measurement=MEASURED, failures=(Failure("a", "b"),))
    found = with_peers(found, 0, closed={"1": "why"}, names={"node1": ""})
    assert read(Findings, written(found)) == found
    nothing = changed(found, 0, torch=None, mpi=None, cores=None, local_rank=None)
    assert read(Findings, written(nothing)) == nothing


def test_findings_of_another_version_are_told_from_ours() -> None:
    text = written(HEALTHY).replace('"tcp"', '"udp"')
    with pytest.raises(ValueError, match="same version of quoit"):
        read(RankFindings, text)


def test_every_documented_variable_is_known() -> None:
    documented = set(re.findall(r"QUOIT_\w+", (ROOT / "docs/environment.md").read_text()))
    assert {name for name in documented if not name.startswith("QUOIT_TEST_")} <= set(VARIABLES)


def shown(found: Findings, width: int = 100) -> str:
    return doctor_show.plain(doctor_text.sections(found, doctor.advise(found)), width)


def test_the_report_says_once_what_all_ranks_share_and_names_those_that_differ() -> None:
    found = changed(
        replace(job(4), measurement=MEASURED),
        *(2,),
        software=replace(HEALTHY.software, quoit="0.0.9", kernels="baseline"),
    )
    report = shown(found)
    assert report.startswith("quoit doctor: 4 ranks on node0, started by quoit run\n")
    assert "quoit    ranks 0-1, 3: 0.1.0, kernels for x86-64-v3" in report
    assert "         rank 2: 0.0.9, kernels for baseline" in report
    assert report.count("10.0.0.1 (tried first") == 1
    assert "shm  every pair of ranks\n" in report
    assert "4 B 8.0 µs; 64 MiB 9.0 ms" in report
    assert "✗  rank 2: quoit differs: 0.0.9 here, 0.1.0 on ranks 0-1, 3" in report
    assert "nothing to improve was found" in shown(job(2))


def test_a_rank_that_met_nobody_reports_on_itself() -> None:
    found = Findings((job(3).ranks[0],), (), False, None, (Failure("meeting", "nobody came"),))
    report = shown(found)
    assert report.startswith("quoit doctor: rank 0 of 3 alone, on node0, started by quoit run\n")
    assert "✗  meeting: nobody came" in report
    assert "Between ranks" not in report


def test_the_report_has_a_table_of_hosts() -> None:
    report = shown(job(2, 1))
    assert re.search(r"node0 \(ranks 0-1\) +shm +mpi\n", report)
    assert re.search(r"node1 \(rank 2\) +mpi +–\n", report)
    assert "expected" in shown(replace(job(2, 1), measured=False))
    assert re.search(r"mpi +144 pairs of ranks", shown(job(*[2] * 9)))


def test_the_report_says_what_mpi_is_given() -> None:
    found = job(1, 1)
    assert "CUDA memory" not in shown(replace(found, measurement=MEASURED))
    for route, words in (("mpi", "MPI is given what"), ("host", "through the host: a rank's MPI")):
        measurement = replace(MEASURED, routes=("self", "mpi"), device_route=route)
        assert re.search(rf"CUDA memory +.*{words}", shown(replace(found, measurement=measurement)))


def test_a_long_report_is_cut() -> None:
    found = job(20, cores=None)
    for rank in range(20):
        found = changed(found, rank, environment={"UCX_X": f"{rank:02}" * 100})
    report = shown(found)
    assert "and 12 more" in report
    assert max(map(len, report.splitlines())) <= 100


@pytest.mark.parametrize("colours", [True, False])
def test_a_terminal_gets_colours_where_rich_is_installed(
    colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    if not colours:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    out = Terminal()
    doctor_show.show(doctor_text.sections(job(12), doctor.advise(job(12))), out)
    said = out.getvalue()
    assert ("\x1b[" in said) == colours
    plain = re.sub(r"\x1b\[[\d;]*m", "", said)
    assert "!  12 ranks share 8 cores" in plain
    assert "quoit    0.1.0" in plain


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_line_is_wider_than_asked(width: int) -> None:
    for found, *_ in TRAPS.values():
        assert max(map(len, shown(found, width).splitlines())) <= width


ROUTES = [
    ("auto", "auto", True, (), (), "shm"),
    ("auto", "auto", False, (), (), "none"),
    ("auto", "auto", False, ("mpi",), ("mpi",), "mpi"),
    ("auto", "auto", False, ("mpi", "tcp"), ("tcp",), "tcp"),
    ("auto", "auto", False, ("mpi", "tcp"), ("mpi", "tcp"), "mpi"),
    ("mpi", "mpi", True, ("mpi",), ("mpi",), "mpi"),
    ("tcp", "tcp", True, ("tcp",), ("tcp",), "tcp"),
    ("shm+tcp", "shm+tcp", True, ("mpi", "tcp"), ("mpi", "tcp"), "shm"),
    ("shm+tcp", "shm+tcp", False, ("mpi", "tcp"), ("mpi", "tcp"), "tcp"),
    ("shm+mpi", "shm+mpi", False, ("mpi", "tcp"), ("mpi", "tcp"), "mpi"),
    ("shm+mpi", "shm+mpi", False, ("tcp",), ("tcp",), "none"),
    ("shm", "shm", False, ("mpi",), ("mpi",), "none"),
]


@pytest.mark.parametrize(("mine", "theirs", "one_host", "have", "they_have", "route"), ROUTES)
def test_the_expected_transport(
    mine: str,
    theirs: str,
    one_host: bool,
    have: Sequence[str],
    they_have: Sequence[str],
    route: str,
) -> None:
    def rank(number: int, transport: str, has: Sequence[str]) -> RankFindings:
        mpi = replace(HEALTHY.mpi, used="/libmpi.so" if "mpi" in has else "")
        identity = "same" if one_host else str(number)
        changes = {"identity": identity, "transport": transport, "mpi": mpi, "tcp": "tcp" in has}
        return replace(HEALTHY, rank=number, **changes)

    a, b = rank(0, mine, have), rank(1, theirs, they_have)
    assert doctor_measure.expected_route(a, b) == route
    assert doctor_measure.expected_route(a, a) == "self"


def test_large_buffers_shrink_where_memory_is_short() -> None:
    assert doctor_measure.large_bytes(job(2).ranks) == 64 << 20
    tight = job(4, memory=Memory(GIB, GIB, GIB, "")).ranks
    assert doctor_measure.large_bytes(tight) == 16 << 20


def test_a_probe_that_fails_or_hangs_is_a_finding() -> None:
    attempts, forever = Attempts(), threading.Event()

    def broken() -> int:
        raise OSError("no such thing")

    assert attempts.attempt("good", lambda: 3) == 3
    assert attempts.attempt("broken", broken) is None
    assert attempts.attempt("gone", lambda: sys.exit(2)) is None
    assert attempts.attempt("hanging", forever.wait, 0.05) is None
    forever.set()
    assert attempts.failures == [
        Failure("broken", "OSError: no such thing"),
        Failure("gone", "SystemExit: 2"),
        Failure("hanging", "no answer within 0.05 s"),
    ]


def test_a_program_that_gives_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_software, "_ASK_S", 0.2)
    with pytest.raises(TimeoutError, match=r"^it gave no answer within 0\.2 s$"):
        doctor_software._ask("import time; time.sleep(60)")
    monkeypatch.setattr(doctor_software, "_ASK_S", 60)
    with pytest.raises(RuntimeError, match=r"^boom \(exit code 1\)$"):
        doctor_software._ask("import sys; sys.exit('boom')")


def play(size: int, part: Callable[[gathering.Gather, int], Any]) -> list[Any]:
    """What each of `size` ranks, which are threads, returns or raises after having met."""
    name, said = uuid.uuid4().hex, list[Any]([None] * size)

    def be(rank: int) -> None:
        try:
            gather = gathering.meet(Launch("quoit", rank, size, rank, size, name), 20)
            said[rank] = part(gather, rank)
            gather.leave()
        except Exception as error:
            said[rank] = error

    ranks = [threading.Thread(target=be, args=(rank,), daemon=True) for rank in range(size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(30)
    return said


def test_ranks_tell_each_other() -> None:
    def part(gather: gathering.Gather, rank: int) -> list[list[str]]:
        return [gather(topic, f"{topic} of {rank}\n", 10) for topic in ("a", "b", "c")]

    expected = [[f"{topic} of {rank}\n" for rank in range(3)] for topic in "abc"]
    assert play(3, part) == [expected] * 3


def test_a_rank_that_is_silent_is_named_and_may_take_part_again() -> None:
    def part(gather: gathering.Gather, rank: int) -> tuple[str, list[str]]:
        error = ""
        if rank != 2:
            try:
                gather("a", "", 0.2)
            except TimeoutError as late:
                error = str(late)
        return error, gather("b", str(rank), 10)

    for rank, said in enumerate(play(4, part)):
        error, texts = said
        assert texts == ["0", "1", "2", "3"]
        assert error == ("" if rank == 2 else "rank 2 said nothing about a within 0.2 s")


def test_a_stranger_at_the_desk_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[gathering._Server] = []
    original = gathering._Server.serve_forever
    monkeypatch.setattr(
        gathering._Server,
        "serve_forever",
        lambda self, poll_s: (served.append(self), original(self, poll_s))[1],
    )

    def part(gather: gathering.Gather, rank: int) -> list[str]:
        if rank == 1:
            deadline = time.monotonic() + 10
            while not served and time.monotonic() < deadline:
                time.sleep(0.01)
            for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096, b""):
                with socket.create_connection(served[0].server_address[:2], 5) as stranger:
                    stranger.sendall(greeting)
        return gather("after", str(rank), 10)

    assert play(2, part) == [["0", "1"]] * 2


def report_of(world: worlds.World, arguments: Sequence[str], env: Mapping[str, str]) -> str:
    """Standard output of `quoit doctor` there."""
    with worlds.launched(world, ["-m", "quoit.cli", "doctor", *arguments], env) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    return str(out)


def as_findings(text: str) -> tuple[Findings, list[Advice]]:
    said = json.loads(text[text.index("{") :])
    advice = [Advice(**one) for one in said.pop("advice")]
    return read(Findings, json.dumps(said)), advice


@pytest.mark.parametrize("kind", ["processes", "torchrun", "mpich", "openmpi"])
def test_under_each_launcher_rank_0_reports_on_all(kind: str) -> None:
    found, _ = as_findings(report_of(worlds.World(kind, "aa"), ["--json"], {}))
    launcher = {"processes": "quoit"}.get(kind, kind)
    assert [(one.rank, one.size, one.launcher) for one in found.ranks] == [
        (0, 2, launcher),
        (1, 2, launcher),
    ]
    assert found.failures == ()
    assert [one.failures for one in found.ranks] == [(), ()]
    assert found.measured
    assert [one.routes for one in found.peers] == [("self", "shm"), ("shm", "self")]
    assert [one.closed for one in found.peers] == [{}, {}]
    assert found.ranks[0].torch is not None
    assert found.ranks[0].torch.module
    measured = found.measurement
    assert measured is not None
    assert (measured.ranks, measured.started) == (2, False)
    assert 0 < measured.small_us < measured.large_us
    assert len(measured.memcpy_by_rank) == 2
    mpi = found.ranks[1].mpi
    assert mpi is not None
    assert mpi.family == (kind if kind in mpirun.FAMILIES else "")
    names = {"mpich": "MPICH", "openmpi": "Open MPI"}
    assert mpi.version.startswith(names.get(kind, ""))


ACROSS = """
import os, sys
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("PMI_RANK") or 0)
os.environ["QUOIT_HOST"] = f"node{rank // 2}"
for name in ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "LOCAL_WORLD_SIZE"):
    os.environ.pop(name, None)
os.execv(sys.executable, [sys.executable, "-m", "quoit.cli", "doctor", *sys.argv[1:]])
"""


@pytest.mark.parametrize(
    ("family", "measure"), [("mpich", True), ("mpich", False), ("openmpi", True)]
)
def test_between_hosts_it_is_mpi(family: str, measure: bool, tmp_path: Path) -> None:
    program = tmp_path / "across.py"
    program.write_text(ACROSS)
    arguments = ["--json", *([] if measure else ["--no-measure"])]
    done = mpirun.mpirun(
        family, 3, [sys.executable, str(program), *arguments], {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    found, advice = as_findings(done.stdout)
    assert found.failures == ()
    assert found.measured == measure
    assert [one.routes for one in found.peers] == [
        ("self", "shm", "mpi"),
        ("shm", "self", "mpi"),
        ("mpi", "mpi", "self"),
    ]
    assert (found.measurement is not None) == measure
    assert found.measurement is None or found.measurement.device_route == "host"
    assert any("their host names differ (node0, node1)" in one.what for one in advice)


def test_between_hosts_without_mpi(tmp_path: Path) -> None:
    program = tmp_path / "across.py"
    program.write_text(ACROSS.replace('"PMI_RANK"', '"RANK"'))
    world = worlds.World("torchrun", "aab")
    with worlds.launched(world, [str(program), "--json"]) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found, advice = as_findings(out)
    tcp = found.ranks[0].tcp
    route = "tcp" if tcp else "none"
    assert [one.routes for one in found.peers] == [
        ("self", "shm", route),
        ("shm", "self", route),
        (route, route, "self"),
    ]
    assert found.measured == tcp
    problems = [one.what for one in advice if one.level == "problem"]
    assert tcp == (not problems)
    assert tcp or "share no memory" in problems[0]


def alone(arguments: Sequence[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quoit.cli", "doctor", *arguments],
        env={**without_launcher(os.environ), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_alone_it_starts_two_ranks_to_measure() -> None:
    done = alone([], {})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"quoit doctor on {socket.gethostname()}\n")
    assert "2 ranks that it started itself, shm" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_what_is_broken_is_reported_and_breaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("import os; os.kill(os.getpid(), 11)\n")
    env = {
        "PYTHONPATH": str(tmp_path),
        "QUOIT_TIMEOUT_S": "soon",
        "QUOIT_IFACE": "nosuch0",
        "RANK": "2",
        "WORLD_SIZE": "2",
        "PYTHONIOENCODING": "ascii",
    }
    done = alone([], env)
    assert (done.returncode, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    assert "torch could not be examined: RuntimeError: it said nothing (signal 11)" in said
    assert "QUOIT_TIMEOUT_S=soon in the environment is not a number" in said
    assert "QUOIT_IFACE=nosuch0 asks for nosuch0" in said
    assert "RANK=2 but WORLD_SIZE=2" in said


def test_a_group_that_cannot_be_made_is_reported() -> None:
    out = report_of(worlds.World("processes", "aa"), ["--json"], {"QUOIT_TRANSPORT": "pigeon"})
    found, advice = as_findings(out)
    assert not found.measured
    assert found.measurement is None
    problems = [one.what for one in advice if one.level == "problem"]
    assert len(problems) == 1
    assert "transport 'pigeon' is not known" in problems[0]


@pytest.mark.parametrize(
    ("failing", "words"),
    [
        ("", ""),
        ("cuIpcGetMemHandle", "cuIpcGetMemHandle failed: CUDA_ERROR_INVALID_HANDLE"),
        ("cuIpcOpenMemHandle", "cuIpcOpenMemHandle_v2 failed: CUDA_ERROR_INVALID_HANDLE"),
    ],
)
def test_cuda_ipc_is_tried_between_two_processes(
    failing: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cuda.library()
    monkeypatch.setenv("QUOIT_CUDA_DRIVER", str(fake_cuda.LIBRARY))
    if failing:
        monkeypatch.setenv("FAKE_CUDA_FAIL", failing)
    answer = doctor_software.no_ipc()
    assert words in answer
    assert bool(words) == bool(answer)


def test_a_report_says_whether_processes_share_devices() -> None:
    for no_cuda, no_ipc, words in [
        ("", "", "and CUDA 13.0: sm_90, CUDA IPC between processes; "),
        ("", "it is not supported", "and CUDA 13.0: sm_90 (no CUDA IPC: it is not supported); "),
        ("no device", "", "and CUDA 13.0: sm_90 (off: no device); "),
    ]:
        software = replace(
            _software(HEALTHY), cuda="CUDA 13.0: sm_90", no_cuda=no_cuda, no_ipc=no_ipc
        )
        assert words in doctor_text._quoit(replace(HEALTHY, software=software))


def _software(one: RankFindings) -> Software:
    assert one.software is not None
    return one.software
