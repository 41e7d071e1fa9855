"""`quoit bench`: exact results, figures that mean what they say, reports, and ends of all kinds."""

from __future__ import annotations

import csv
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bench_ranks
import mpirun
import worlds
from quoit import cli
from quoit.bench import codec, command, data, launch, results, show, sizes, table
from quoit.bench.cases import Case, Memory
from quoit.bench.data import DTYPES
from quoit.bench.launch import Command, Launcher
from quoit.bench.measure import Control, Runner, Times, measure, turn
from quoit.bench.plan import COLLECTIVES, Plan
from quoit.bench.results import Launched
from quoit.launch import without_launcher

REPOSITORY = Path(__file__).resolve().parent.parent
RANKS_PROGRAM = str(Path(__file__).with_name("bench_ranks.py"))
ONCE = ("--rounds", "1")
DEADLINE_S = 120.0
MESSAGES = ("send_recv:latency", "send_recv:bandwidth", "send_recv:bidirectional")
EVERY = (*COLLECTIVES, *MESSAGES, "barrier", "ddp")


def element(rank: int, index: int) -> int:
    return (7 * index + 5 * rank) % 13


# ---------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [("4", 4), ("16K", 16 << 10), ("64m", 64 << 20), ("1G", 1 << 30), ("2MiB", 2 << 20)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert sizes.parse(text, "-b") == size
    assert sizes.parse(sizes.written(size).replace(" ", ""), "-b") == size


@pytest.mark.parametrize("text", ["", "0", "K", "-4", "1.5M", "4T", "many"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^-e .*: give a number of bytes"):
        sizes.parse(text, "-e")


def test_series() -> None:
    assert sizes.series(4, 64, 4) == (4, 16, 64)
    assert sizes.series(4, 63, 4) == (4, 16)
    assert sizes.series(8, 8, 2) == (8,)


# --------------------------------------------------------------------------- inputs and results


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("redop", ["sum", "avg", "min", "max", "product"])
def test_reductions_are_what_they_should_be(name: str, redop: str) -> None:
    torch = pytest.importorskip("torch")
    dtype, ranks, count = DTYPES[name], 2, 30
    pattern = data.reduced(ranks, redop, dtype)
    got = np.empty(count, dtype.carrier)
    pattern.fill(got)
    columns = [[element(rank, i) for rank in range(ranks)] for i in range(count)]
    one = {"sum": sum, "min": min, "max": max, "product": np.prod}.get(redop)
    exact = [one(column) if one else sum(column) / ranks for column in columns]
    if not dtype.floating:
        exact = [int(value) for value in exact]
    asked = torch.tensor(exact, dtype=torch.float64).to(getattr(torch, name))
    assert torch.equal(torch.from_numpy(got).view(getattr(torch, name)), asked)


def test_a_pattern_begins_anywhere_and_is_longer_than_its_tile() -> None:
    dtype = DTYPES["int32"]
    pattern, count = data.inputs(3, dtype), 3 * 13 * 1024 + 5
    got = np.empty(count, np.int32)
    pattern.fill(got, first=8)
    assert got.tolist() == [element(3, i + 8) for i in range(count)]
    assert pattern.wrong(got, first=8) == 0
    assert pattern.wrong(got, first=9) > count // 2
    got[count - 1] += 1
    assert pattern.wrong(got, first=8) == 1


def right(plan: Plan, rank: int, ranks: int, case: Case) -> None:
    """Does to the buffers what the operation should, element by element."""
    count = case.count
    part = count // ranks
    sums = [sum(element(r, i) for r in range(ranks)) for i in range(count)]
    partner = (rank + ranks // 2) % ranks
    made = {
        "all_reduce": sums,
        "reduce_scatter": sums[rank * part :][:part],
        "all_gather": [element(r, i) for r in range(ranks) for i in range(part)],
        "broadcast": [element(plan.root, i) for i in range(count)],
        "all_to_all": [element(r, i + rank * part) for r in range(ranks) for i in range(part)],
        "send_recv": [element(partner, i) for i in range(count)],
    }[plan.op]
    for buffers in case.sets:
        buffers.take[:] = made


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("in_flight", [0, 3])
@pytest.mark.parametrize("operation", [*COLLECTIVES, "send_recv:bandwidth"])
def test_wrong_results_are_counted(operation: str, in_flight: int, rank: int) -> None:
    """Right results have no wrong element, a changed one has one, none at all are all wrong."""
    plan = bench_ranks.plan(operation, sizes=(104,), in_flight=in_flight)
    case = Memory(plan, rank, 2).case(104)
    calls = in_flight or (16 if plan.mode else 1)
    assert (case.count, len(case.sets)) == (26, calls)
    case.fresh()
    before = case.wrong()
    right(plan, rank, 2, case)
    assert case.wrong() == 0
    if plan.mode and rank == 0:
        return  # it sends, and receives nothing
    takes = [buffers.take for buffers in case.sets]
    if not (plan.op == "broadcast" and rank == plan.root):
        assert before > 0.5 * sum(take.size for take in takes)
    takes[-1][-1] += 1
    assert case.wrong() == 1


def test_a_peer_that_computes_wrongly_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    plan = bench_ranks.plan("all_reduce", sizes=(104,))
    case = Memory(plan, 0, 2).case(104)

    def one_wrong() -> None:
        right(plan, 0, 2, case)
        case.sets[0].take[7] = 99

    runners = {
        "quoit": Runner(lambda: right(plan, 0, 2, case), 1, case.fresh, case.wrong),
        "gloo": Runner(one_wrong, 1, case.fresh, case.wrong),
    }
    record = {"bytes": 104, "count": 26, **measure(Control(None), runners, 1.0, 4)}
    assert record["peers"]["quoit"]["wrong"] == 0
    assert record["peers"]["gloo"]["wrong"] == 5  # a round finds out how many calls make a turn
    rows = results.rows(plan, 2, [Launched("quoit", "", (record,))])
    assert rows[0].wrong == 5
    lines = show.plain({"what": "all_reduce"}, table.of(plan, rows, wide=True)).splitlines()
    assert [line.split()[-4] for line in lines if "gloo" in line] == ["5"]


# ----------------------------------------------------------------------------------- the clock


def test_times_are_those_of_a_call() -> None:
    """A call that sleeps 4 ms, of which two are in flight, is one of 2 ms."""
    fresh: list[int] = []
    runner = Runner(lambda: time.sleep(0.004), 2, lambda: fresh.append(1), None)
    record = measure(Control(None), {"quoit": runner}, 1.0, 5)
    times = record["peers"]["quoit"]
    assert record["rounds"] == 5
    assert len(fresh) == 6
    assert times["single"] == 5
    assert times["wrong"] is None
    assert 2000 <= times["p50"] <= times["p99"]
    assert 2000 <= times["us"] < 200_000


def test_short_calls_are_repeated() -> None:
    runner = Runner(lambda: None, 2, lambda: None, None, most=900)
    assert Times().repeats(runner) == 1
    assert Times(means=[1e-3, 1e-5, 2e-5]).repeats(runner) == 100  # 2 ms, in calls of 2 at 10 us
    assert Times(means=[1e-9]).repeats(runner) == 900
    assert Times(means=[1.0]).repeats(runner) == 1


@pytest.mark.parametrize("singly", [False, True])
def test_a_turn(singly: bool) -> None:
    """Fresh input, a call that is checked, and then those that are timed, singly or together."""
    said: list[str] = []

    def wrong() -> int:
        said.append("check")
        return 2

    runner = Runner(lambda: said.append("call"), 1, lambda: said.append("fresh"), wrong)
    times = Times()
    turn(Control(None), runner, times, 20, singly)
    assert said == ["fresh", "call", "check", *(["call"] * 20)]
    assert times.wrong == 2
    assert len(times.means) == 1
    assert (len(times.single), len(times.shared)) == ((20, 0) if singly else (0, 1))


def test_sums_of_sums_stay_finite() -> None:
    half = Memory(bench_ranks.plan("all_reduce", dtype="float16"), 0, 2).case(8)
    assert 12 * 2 * 2.0**half.most < 65504
    assert 12 * 2 * 2.0 ** (half.most + 1) > 65504 / 2
    assert Memory(bench_ranks.plan("all_reduce", redop="max"), 0, 2).case(8).most > 1 << 20
    assert Memory(bench_ranks.plan("all_gather"), 0, 2).case(8).most > 1 << 20


# ------------------------------------------------------------------------------------ the table


def launched(name: str, mpi: str, us: dict[str, float], size: int = 1 << 20) -> Launched:
    peers = {
        peer: {"us": time, "p50": time, "p99": 2 * time, "single": 9, "wrong": 0}
        for peer, time in us.items()
    }
    about = {"ranks": 4, "places": [], "versions": {"quoit": "0"}}
    records = (
        {"about": about, "left_out": {}},
        {"bytes": size, "count": size // 4, "peers": peers},
    )
    return Launched(name, mpi, records)


def test_launches_merge_into_rows() -> None:
    """Times are means over launches, ratios are of one launch, and the best peer is named."""
    plan = bench_ranks.plan("all_reduce")
    two = [
        launched(
            *("MPICH", "MPICH"),
            {"quoit": 100.0, "gloo": 1000.0, "mpi": 300.0, "dispatch": 5.0, "memcpy": 50.0},
        ),
        launched("Open MPI", "Open MPI", {"quoit": 200.0, "gloo": 1000.0, "mpi": 240.0}),
    ]
    (row,) = results.rows(plan, 4, two)
    assert list(row.peers) == ["quoit", "gloo", "MPICH", "Open MPI", "dispatch", "memcpy"]
    assert row.peers["dispatch"].busbw is None  # it moves nothing
    quoit = row.peers["quoit"]
    assert (quoit.us, quoit.p99, quoit.ratio) == (150.0, 300.0, None)
    assert quoit.algbw == pytest.approx((1 << 20) / 150e-6 / 1e9)
    assert quoit.busbw == pytest.approx(1.5 * (1 << 20) / 150e-6 / 1e9)  # 2 (n - 1) / n
    assert row.peers["gloo"].ratio == pytest.approx((10 + 5) / 2)
    assert row.best == ("Open MPI", pytest.approx(1.2))
    assert row.peers["memcpy"].ratio == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("op", "factor"),
    [("reduce_scatter", 0.75), ("all_gather", 0.75), ("all_to_all", 0.75), ("broadcast", 1.0)],
)
def test_busbw(op: str, factor: float) -> None:
    (row,) = results.rows(bench_ranks.plan(op), 4, [launched("q", "", {"quoit": 10.0}, 4000)])
    assert row.peers["quoit"].busbw == pytest.approx(factor * 4000 / 10e-6 / 1e9)


@pytest.mark.parametrize("wide", [False, True])
def test_the_table_fits_a_terminal(wide: bool) -> None:
    us = {"quoit": 1234.5, "quoit-numpy": 1134.5, "gloo": 98765.4, "dispatch": 12.3}
    us["memcpy"] = 999.9
    two = [
        launched(name, name, {**us, "mpi": 43210.1}, 256 << 20) for name in ("MPICH", "Open MPI")
    ]
    plan = bench_ranks.plan("reduce_scatter")
    made = table.of(plan, results.rows(plan, 4, two), wide)
    text = show.plain({"what": "reduce_scatter"}, made)
    assert max(map(len, text.splitlines())) <= 120, text
    assert ("268435456" if wide else "256 Mi") in text


# ------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("reduce", "operation reduce is unknown: choose all_reduce, "),
        ("all_reduce -n 1", "all_reduce needs at least 2 ranks: one rank has nobody to talk to"),
        ("all_reduce -n two", "-n two: give a whole number, at least 1"),
        ("all_reduce -b 4X", "-b 4X: give a number of bytes, as 4, 16K, 64M or 1G"),
        ("all_reduce -b 1M -e 4", "-b 1M is more than -e 4"),
        ("all_reduce -b 6", "-b 6: float32 needs a multiple of 4 bytes"),
        ("all_gather -b 4", "-b 4: 2 parts of float32 need a multiple of 8 bytes"),
        ("all_reduce -f 1", "-f 1: give a whole number, at least 2"),
        ("all_reduce -e 800000G", "ranks with sizes up to"),
        (
            "all_reduce --backends gloo,mvapich",
            "--backends mvapich is unknown: choose quoit, quoit-numpy, ",
        ),
        ("all_reduce --dtype float12", "--dtype float12 is unknown: choose float32, "),
        ("all_reduce --op mean", "--op mean is unknown: choose sum, avg, min, max, product"),
        ("all_reduce --dtype bfloat16 -n 22", "--dtype bfloat16 --op sum is exact on at most 21"),
        ("all_reduce --mode latency", "--mode latency belongs to send_recv, not to all_reduce"),
        (
            "send_recv --mode fast",
            "--mode fast is unknown: choose latency, bandwidth, bidirectional",
        ),
        ("send_recv -n 3", "send_recv pairs the ranks, so their number must be even, not 3"),
        ("send_recv --async 4", "--async has no meaning for send_recv --mode latency"),
        ("broadcast --root 2", "--root 2: there are ranks 0 to 1"),
        ("barrier -b 4", "-b 4: barrier has no sizes"),
        ("codec -n 2", "codec measures one process, but there are 2 ranks: start it alone"),
        ("all_reduce --seconds soon", "--seconds soon: give a number above 0"),
        (
            "all_reduce --launcher slurm",
            "--launcher slurm is unknown: choose mpich, openmpi, quoit",
        ),
        ("all_reduce --json missing/a.json", "cannot write missing/a.json: choose a file in a "),
        ("all_reduce --plot a.gif", "--plot a.gif: its name must end in .png, .svg, .pdf"),
        ("all_reduce --plot .", "cannot write .: choose a file in a "),
    ],
)
def test_mistakes_are_one_line(
    arguments: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", *arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("quoit bench: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.fixture
def no_mpirun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for family in launch.FAMILIES:
        monkeypatch.delenv(f"QUOIT_TEST_{family.upper()}", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("no_mpirun")
@pytest.mark.parametrize("arguments", ["--backends quoit,mpi", "--launcher mpich"])
def test_an_mpi_that_is_missing_is_named(
    arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "all_reduce", *arguments.split()]) == 2
    assert "no mpirun of it at $QUOIT_TEST_MPICH" in capsys.readouterr().err


# ------------------------------------------------------------------------------ ranks that fail


def fake(program: str) -> Launcher:
    """A launcher of something else than ranks; it is given the plan and the file for results."""

    def commands(ranks: int, arguments: Sequence[str]) -> list[Command]:
        text = f"import json, sys, time\nplan, path = sys.argv[-2:]\n{program}"
        return [Command((sys.executable, "-c", text, *arguments), dict(os.environ))]

    return Launcher("quoit", False, commands)


SAYS = """
def say(record):
    with open(path, "a") as file: file.write(json.dumps(record) + "\\n")
times = {"us": 5.0, "p50": 5.0, "p99": 5.0, "single": 1, "wrong": 0}
about = {"ranks": 2, "places": [{"host": "a", "cores": [0]}] * 2, "versions": {}}
say({"about": about, "left_out": {}})
say({"bytes": 4, "count": 1, "rounds": 1, "peers": {"quoit": times}})
"""


def test_what_was_measured_before_a_rank_died_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dying = fake(f"{SAYS}\nprint('its last words', file=sys.stderr); sys.exit(3)")
    monkeypatch.setattr(launch, "by_quoit", lambda threads: dying)
    assert cli.main(["bench", "all_reduce", "-e", "64", "--launcher", "quoit"]) == 1
    out, err = capsys.readouterr()
    assert [line.split()[:2] for line in out.splitlines()[-3:-2]] == [["4", "5.00"]]
    assert "its last words" in err
    assert "the ranks under quoit failed (exit code 3); 1 of 3 sizes were done" in err


def test_wrong_results_make_the_run_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        launch, "by_quoit", lambda _: fake(SAYS.replace('"wrong": 0', '"wrong": 7'))
    )
    assert cli.main(["bench", "all_reduce", "-e", "4", "--launcher", "quoit"]) == 1
    assert "7 elements of results were wrong" in capsys.readouterr().err


def test_ranks_that_say_nothing_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "SILENCE_S", 0.5)
    outcome = launch.start(fake("time.sleep(600)"), 2, bench_ranks.plan("barrier"))
    assert "nothing was heard" in outcome.failure


def test_a_program_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Launcher("quoit", False, lambda ranks, program: [Command(("/no/such",), {})])
    assert launch.start(nothing, 2, bench_ranks.plan("barrier")).failure == "/no/such is not there"


# ----------------------------------------------------------------------------- ranks that work


def bench(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quoit.cli", "bench", *arguments],
        env={**without_launcher(os.environ), **(env or {})},
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What is said of every operation on two ranks of `quoit run`."""
    said = tmp_path_factory.mktemp("bench") / "said"
    world = worlds.World("processes", "aa")
    with worlds.launched(world, [RANKS_PROGRAM, str(said), *EVERY]) as process:
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, out + err
    return dict(map(json.loads, said.read_text().splitlines()))


@pytest.mark.parametrize("operation", EVERY)
def test_every_operation(operation: str, everything: dict[str, list[dict[str, Any]]]) -> None:
    plan = bench_ranks.plan(operation)
    done = results.Launched("quoit", "", tuple(everything[operation])).done
    does_nothing = plan.op in ("all_reduce", "broadcast", "send_recv", "barrier")
    limits = ["dispatch"] if does_nothing and plan.mode in ("", "latency") else []
    names = {*plan.backends, *limits, *(["memcpy"] if plan.sizes else [])}
    if plan.op == "ddp":
        assert 9.5e6 < done[0]["count"] < 10.5e6
    else:
        assert [record["bytes"] for record in done] == list(plan.sizes or (0,))
    for record in done:
        assert set(record["peers"]) == names
        for name, times in record["peers"].items():
            unchecked = plan.op == "barrier" or name == "dispatch"
            assert times["wrong"] == (None if unchecked else 0)
            assert 0 < times["p50"] <= times["p99"]
            assert times["us"] > 0
    assert results.rows(plan, 2, [Launched("quoit", "", tuple(everything[operation]))])


def test_reports_can_be_read_back(tmp_path: Path) -> None:
    """One run under both MPIs; the table, JSON, CSV and the plot say the same."""
    files = {name: tmp_path / f"out.{name}" for name in ("json", "csv", "png")}
    outputs = ("--json", files["json"], "--csv", files["csv"], "--plot", files["png"])
    sized = ("-b", "1K", "-e", "64K", "-f", "64")
    ran = bench("all_reduce", *sized, *ONCE, "--markdown", *map(str, outputs))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    names = ["quoit", "quoit-numpy", "gloo", "MPICH", "Open MPI", "dispatch", "memcpy"]
    rows = [line.strip("| ").split(" | ") for line in ran.stdout.splitlines() if line[:1] == "|"]
    heading, rule, *lines = ([cell.strip() for cell in row] for row in rows)
    assert heading[: 1 + len(names)] == ["size", *names]
    assert all(set(cell) <= set("-:") for cell in rule)
    assert [line[0] for line in lines] == ["1 Ki", "64 Ki"]
    facts = dict(line[2:].split(": ", 1) for line in ran.stdout.splitlines() if line[:2] == "- ")
    assert facts["what"] == "all_reduce, float32 sum, 2 ranks"
    assert facts["started by"] == "MPICH, Open MPI"
    assert facts["command"].startswith("quoit bench all_reduce -b 1K -e 64K")
    assert {"machine", "ranks", "software", "date", "left out"} <= facts.keys()

    whole = json.loads(files["json"].read_text())
    assert whole["facts"] == facts
    assert [row["bytes"] for row in whole["rows"]] == [1024, 65536]
    assert list(whole["rows"][0]["peers"]) == names
    assert [one["name"] for one in whole["launches"]] == ["MPICH", "Open MPI"]
    for line, row in zip(lines, whole["rows"], strict=True):
        assert line[1 : 1 + len(names)] == [
            table.number(row["peers"][name]["us"]) for name in names
        ]
    with files["csv"].open() as file:
        table_of = list(csv.DictReader(file))
    assert [(int(one["size"]), one["peer"]) for one in table_of] == [
        (size, name) for size in (1024, 65536) for name in names
    ]
    first = table_of[0]
    assert float(first["time_us"]) == whole["rows"][0]["peers"]["quoit"]["us"]
    assert (first["count"], first["type"], first["redop"], first["root"]) == (
        *("256", "float32", "sum", "-1"),
    )
    assert {one["wrong"] for one in table_of if one["peer"] != "dispatch"} == {"0"}
    assert files["png"].read_bytes().startswith(b"\x89PNG")


def test_under_an_mpirun(tmp_path: Path) -> None:
    """The ranks are there already; rank 0 reports, also on what is wrong."""
    path = tmp_path / "out.csv"
    line = [sys.executable, "-m", "quoit.cli", "bench"]
    asked = ["all_to_all", "-e", "8", *ONCE, "--wide", "--csv", str(path)]
    ran = mpirun.mpirun("openmpi", 2, [*line, *asked])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("all_to_all, float32, 2 ranks") == 1
    with path.open() as file:
        peers = [one["peer"] for one in csv.DictReader(file)]
    assert peers == ["quoit", "quoit-numpy", "gloo", "Open MPI", "memcpy"]
    wrong = mpirun.mpirun("openmpi", 2, [*line, "all_reduce", "-b", "3"])
    assert wrong.returncode == 2
    assert wrong.stderr.count("quoit bench: -b 3: float32 needs a multiple of 4 bytes") == 1


def test_kernels(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    ran = bench("codec", "-b", "4K", "-e", "64K", *ONCE, "--json", str(path))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    whole = json.loads(path.read_text())
    for row in whole["rows"]:
        assert {"copy", "copy (non-temporal)", "sum of 2 (baseline)", "memcpy"} <= set(row["peers"])
        for name in codec.LOSSES:
            parts = ("encode", "encode, feedback", "decode", "add")
            assert {f"{name} {part}" for part in parts} <= set(row["peers"])
        for part in ("M Q", "M^T P", "restore"):
            assert {f"lowrank(rank=4) {part}{end}" for end in ("", ", feedback")} <= set(
                row["peers"]
            )
        assert all(cell["wrong"] == 0 for cell in row["peers"].values())
        assert row["peers"]["memcpy"]["ratio"] is None


# ----------------------------------------------------------------------------------- and ends


@pytest.fixture
def endless() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a benchmark that would take an hour, and waits until its ranks are at work."""
    mark = secrets.token_hex(8)
    started: list[subprocess.Popen[str]] = []

    def start(launcher: str) -> subprocess.Popen[str]:
        line = ["all_reduce", "-e", "4", "--seconds", "3600", "--launcher", launcher]
        process = subprocess.Popen(
            [sys.executable, "-m", "quoit.cli", "bench", *line],
            env={**without_launcher(os.environ), **worlds.marked(mark)},
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        deadline = time.monotonic() + DEADLINE_S
        while len(rank_pids(mark)) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    left = worlds.end_all(mark)
    assert not left, f"processes were left behind: {left}"


def rank_pids(mark: str) -> list[int]:
    """Of the ranks that were started from a process with this mark."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            if b"quoit.bench.ranks" in line[2:4]:  # those who start them have it further on
                marked = Path(f"/proc/{entry}/environ").read_bytes()
                if mark.encode() in marked:
                    found.append(int(entry))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("launcher", ["mpich", "quoit"])
def test_ctrl_c_ends_all_ranks_quietly(
    launcher: str, endless: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = endless(launcher)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (command.INTERRUPTED, "", "")


def test_ranks_end_when_the_benchmark_is_killed(
    endless: Callable[[str], subprocess.Popen[str]],
) -> None:
    endless("quoit").kill()  # on leaving, the fixture looks for what is left


def test_a_rank_that_is_killed_ends_the_benchmark(
    endless: Callable[[str], subprocess.Popen[str]],
) -> None:
    process = endless("quoit")
    mark = dict(
        pair.split("=", 1)
        for pair in Path(f"/proc/{process.pid}/environ").read_text().split("\0")
        if "=" in pair
    )["QUOIT_TEST_LAUNCH"]
    os.kill(rank_pids(mark)[-1], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out.startswith("what ")
    assert "the ranks under quoit failed" in err
