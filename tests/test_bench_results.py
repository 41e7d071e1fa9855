"""The pages of bench/: medians over runs, verdicts about targets, and what was compared."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quoit.bench.results import Cell, Row

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture
def page_maker(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCH))
    yield importlib.import_module("results")
    for name in ("results", "targets"):
        sys.modules.pop(name)


def cell(us: float, ratio: float | None = None, **more: Any) -> dict[str, Any]:
    algbw = 1024 / us / 1e3
    fields = {"p50": us, "p99": us, "wrong": 0, "algbw": algbw, "busbw": 1.5 * algbw}
    return {"us": us, "ratio": ratio, **fields, **more}


def report(op: str, quoit: float, gloo: float, mpi: float) -> dict[str, Any]:
    peers = {
        "quoit": cell(quoit),
        "quoit-numpy": cell(quoit / 2, 0.5),
        "gloo": cell(gloo, gloo / quoit),
        "MPICH": cell(mpi, mpi / quoit),
        "memcpy": cell(1.0, 1 / quoit),
    }
    plan = {
        **{"op": op, "mode": "", "sizes": [1024], "dtype": "float32", "redop": "sum", "root": 0},
        **{"backends": ["quoit"], "strict": False, "algorithm": "auto", "in_flight": 0},
        **{"seconds": 1.0, "rounds": 0, "torch_threads": 1},
    }
    facts = {
        **{"what": f"{op}, 4 ranks", "machine": "a machine", "software": "quoit 1, gloo 2"},
        **{"date": "2026-01-01 00:00 UTC, load 0.01 before", "left out": "nccl (no GPU)"},
    }
    row = {"bytes": 1024, "count": 256, "peers": peers, "best": None}
    return {"facts": facts, "plan": plan, "ranks": 4, "rows": [row]}


def test_medians_over_runs(page_maker: ModuleType) -> None:
    runs = [report("all_reduce", us, gloo, 30.0) for us, gloo in ((4, 400), (5, 300), (20, 5000))]
    runs[1]["rows"][0]["peers"]["gloo"]["wrong"] = 3
    (row,) = page_maker.merged(runs)
    quoit, gloo = row.peers["quoit"], row.peers["gloo"]
    assert (quoit.us, quoit.ratio) == (5, None)
    assert quoit.algbw == pytest.approx(1024 / 5e-6 / 1e9)
    assert quoit.busbw == pytest.approx(1.5 * 1024 / 5e-6 / 1e9)
    assert gloo.ratio == pytest.approx(100)  # of 100, 60 and 250
    assert gloo.wrong == 3
    assert row.best == ("MPICH", pytest.approx(6))  # of 7.5, 6 and 1.5


def test_the_page(page_maker: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every run has its section; those that could not be measured say why."""
    runs = {run.name: run for run in page_maker.RUNS}

    def measure(run: Any, quick: bool) -> tuple[dict[str, Any] | None, str]:
        if run.name == "all_gather":
            return None, "quoit bench: the ranks under MPICH failed"
        return report(run.name.split(",")[0], 5.0, 400.0, 4.0), ""

    monkeypatch.setattr(page_maker, "measure", measure)
    monkeypatch.setattr(page_maker.os, "geteuid", lambda: 1000)
    chosen = "all_reduce,all_gather,all_reduce-2_hosts_of_2_ranks"
    monkeypatch.setattr(sys, "argv", ["results.py", "--only", chosen, "--out", str(tmp_path)])
    assert page_maker.main() == 1  # not all could be measured
    text = (tmp_path / "RESULTS.md").read_text()
    for name in ("all_reduce", "all_gather", "all_reduce, 2 hosts of 2 ranks"):
        assert f"\n## {name}\n" in text
    assert "the ranks under MPICH failed" in text
    assert "network namespaces need root" in text
    assert f"`quoit bench {runs['all_reduce'].arguments}`, 3 times" in text
    assert "| all_reduce 4 B – 1 KiB: ≥ 60× gloo | 80 | yes |" in text
    assert "| all_reduce 4 B – 1 KiB: ≤ 6 µs through torch | 5 | yes |" in text
    assert "Communicator no slower than the better MPI | 1.6 | yes |" in text
    assert "| all_gather: ≥ 3× gloo | – | not measured |" in text
    assert (tmp_path / "plots" / "all_reduce.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("us", "met", "measured"), [(520_000.0, True, "1.03"), (600_000.0, False, "0.895")]
)
def test_the_line_between_hosts(
    page_maker: ModuleType, us: float, met: bool, measured: str
) -> None:
    """64 MiB over 1 Gbit/s take 537 ms at least."""
    targets = importlib.import_module("targets")
    quoit = Cell(us, us, us, 0, None, None, None)
    mpi = Cell(us / 2, us, us, 0, None, None, 0.5)
    row = Row(64 << 20, 16 << 20, {"quoit": quoit, "MPICH": mpi}, None)
    found = {one.target: one for one in targets.verdicts({"all_reduce, 2 hosts of 2 ranks": [row]})}
    line = found["2 hosts, 64 MiB: ≥ 94 % of the line"]
    assert (line.met, line.measured) == (met, measured)
    assert found["2 hosts, 64 MiB: ≥ the better MPI"].met is False
    assert found["barrier: ≤ 2 µs through Communicator"].met is None


def test_losses_that_were_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(BENCH))
    same_bits = importlib.import_module("training_report").same_bits
    training = importlib.import_module("training_runs")

    def run(way: str, steps: int, losses: list[float]) -> Any:
        return training.Run(training.Key("gpt", way, "1gbit", 0, steps), losses)

    short, least = training.TIMED_STEPS, [0.5] * training.TIMED_STEPS
    whole = run("float32", 2 * short, [0.5] * (2 * short))
    assert same_bits([whole]) == "no short runs, whose losses could be compared"
    alone = run("bf16", short, least)
    words = "**not compared**, as there is no such run to the end: gpt, bf16, 1gbit, seed 0, "
    assert same_bits([alone, whole]).startswith(words)
    like = run("gloo", short, least)  # stands for float32
    assert same_bits([like, whole]).endswith("in every step, bit for bit (1 compared)")
    unlike = run("float32", short, [*least[1:], 0.25])
    said = same_bits([alone, like, unlike, whole])
    assert said.startswith("**other losses** than in the run to the end: gpt, float32, 1gbit")
    assert "bit for bit (1 compared)" in said
    assert f". {words}" in said
