"""`quoit plan` and `quoit tune`: the model's limits, a step reckoned by hand, and the reports."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import worlds
from quoit import _core, cli, plan_model, plan_published, plan_report, tune
from quoit.bench import hosts
from quoit.plan_model import Codec, Links, Shape, Training

ROOT = Path(__file__).resolve().parent.parent
LINKS = Links(1e-6, 1e-10, 30e-6, 8e-10, 5e-11)  # an ordinary machine, 10 Gbit/s
SHAPES = [Shape(2, 1), Shape(2, 4), Shape(5, 3), Shape(64, 8), Shape(12500, 8)]
SIZES = [4, 1 << 10, 1 << 16, 1 << 20, 1 << 26, 1 << 30]


def _seconds(algorithm: str, size: int, shape: Shape, links: Links = LINKS) -> float:
    return plan_model.ways("all_reduce", size, shape, links, greeting=False)[algorithm]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op", ["all_reduce", "reduce_scatter", "all_gather", "broadcast"])
def test_more_bytes_take_longer(op: str, shape: Shape) -> None:
    for name in plan_model.ways(op, 4, shape, LINKS):
        times = [plan_model.ways(op, size, shape, LINKS)[name] for size in SIZES]
        assert times == sorted(times)
        assert times[0] > 0
        assert times[-1] > times[0]
        assert all(map(math.isfinite, times))


def test_a_ring_wins_large_and_doubling_small() -> None:
    for shape in (Shape(3, 1), Shape(16, 1), Shape(100, 1)):
        small = plan_model.ways("all_reduce", 1024, shape, LINKS)
        assert small["doubling"] < small["ring"]
        large = plan_model.ways("all_reduce", 1 << 30, shape, LINKS)
        assert large["ring"] < large["doubling"]


@pytest.mark.parametrize("hosts", [2, 3, 7, 100])
def test_a_ring_meets_its_bound(hosts: int) -> None:
    size = 1 << 34
    wire = 2 * (hosts - 1) / hosts * size * LINKS.net_beta
    assert wire < _seconds("ring", size, Shape(hosts, 1)) < 1.15 * wire
    assert _seconds("ring", 4, Shape(hosts, 1)) == pytest.approx(
        2 * (hosts - 1) * LINKS.net_alpha, rel=1e-3
    )


def test_one_rank_needs_nobody_and_one_host_takes_its_memory() -> None:
    assert plan_model.choice("all_reduce", 1 << 20, Shape(1, 1), LINKS) == ("none", 0.0)
    assert plan_model.ways("all_reduce", 1 << 20, Shape(1, 1), LINKS) == {"none": 0.0}
    assert plan_model.choice("all_reduce", 1 << 20, Shape(1, 8), LINKS)[0] == "direct"


def test_compression_saves_on_the_wire_and_costs_at_both_ends() -> None:
    size, shape = 1 << 28, Shape(8, 1)
    _, plain = plan_model.choice("all_reduce", size, shape, LINKS)
    _, free = plan_model.choice("all_reduce", size, shape, LINKS, Codec("int8", 4.0))
    name, slow = plan_model.choice("all_reduce", size, shape, LINKS, Codec("int8", 4.0, 1e-8))
    assert plain / 4 < free < plain / 3
    assert slow - free == pytest.approx(size * (1.5 + 0.5 / 8) * 1e-8, rel=0.01), name
    # Inside a host there is nothing to save.
    one = plan_model.choice("all_reduce", size, Shape(1, 8), LINKS)
    assert plan_model.choice("all_reduce", size, Shape(1, 8), LINKS, Codec("x", 4.0, 1e-8)) == one


def test_buckets_are_ddps() -> None:
    mib = 1 << 20
    assert plan_model.buckets(60 * mib, 25 * mib) == [mib, 25 * mib, 25 * mib, 9 * mib]
    assert plan_model.buckets(100, 25 * mib) == [100]
    assert plan_model.buckets(100, 40) == [40, 40, 20]
    assert plan_model.buckets(0, 40) == []


def _step(overlap: float, took: float, **changes: object) -> plan_model.Step:
    """Four buckets of a quarter each; a backward pass of 8 s, forward 3 s."""
    training = Training(400, 8.0, 3.0, 1.0, 100, overlap)
    return plan_model.simulate(plan_model.replace(training, **changes), lambda size: took)


@pytest.mark.parametrize(
    ("overlap", "took", "exposed"),
    [
        # Ready at 2, 4, 6, 8. Communication that keeps up leaves its last bucket.
        (1.0, 1.5, 1.5),
        # 2-5, 5-8, 8-11, 11-14.
        (1.0, 3.0, 6.0),
        # Each holds the backward pass up: it takes 8 + 4 * 1.5.
        (0.0, 1.5, 6.0),
        # Half speed meanwhile: three buckets cost 0.5 each, the last 1.
        (0.5, 1.0, 2.5),
        (1.0, 0.0, 0.0),
    ],
)
def test_a_step_as_reckoned_by_hand(overlap: float, took: float, exposed: float) -> None:
    step = _step(overlap, took)
    assert step.exposed == pytest.approx(exposed)
    assert step.seconds == pytest.approx(12.0 + exposed)
    assert step.communication == pytest.approx(4 * took)
    assert step.buckets == 4
    assert step.efficiency == pytest.approx(12.0 / (12.0 + exposed))


def test_gradients_that_come_early_leave_more_time() -> None:
    # Three quarters are there after a tenth of 8 s: 0.8 * (1/3, 2/3, 1), and the last at the end.
    step = _step(1.0, 3.0, curve=((0.1, 0.75), (1.0, 1.0)))
    assert step.exposed == pytest.approx(0.8 / 3 + 12 - 8)


def test_a_step_on_more_hosts_takes_longer_and_one_without_links_no_longer() -> None:
    training = Training(10**8, 0.1, 0.05)
    steps = [plan_model.step(training, shape, LINKS, Codec()) for shape in SHAPES]
    assert [one.seconds for one in steps] == sorted(one.seconds for one in steps)
    free = Links(0, 0, 0, 0, 0)
    assert plan_model.step(training, Shape(9, 3), free, Codec()).seconds == pytest.approx(0.15)
    assert plan_model.step(training, Shape(1, 1), LINKS, Codec()).exposed == 0


def test_what_is_recommended_is_no_slower() -> None:
    codecs = [Codec(name, ratio, 2e-10) for name, ratio in plan_model.RATIOS.items()]
    slow = plan_report.make(
        LINKS, [Shape(16, 1)], "all_reduce", [4, 1 << 26], Training(10**8, 0.1), codecs
    )
    assert slow.advice is not None
    assert slow.advice.codec != "none"
    assert slow.advice.best.seconds < slow.advice.exact.seconds <= slow.advice.plain.seconds
    said = " ".join(plan_report.recommendation(slow))
    assert "doubling up to 4 B, then" in said
    assert f"compression to {slow.advice.codec}" in said
    fast = Links(1e-7, 1e-13, 1e-7, 1e-13, 1e-13)
    kept = plan_report.make(fast, [Shape(2, 1)], "all_reduce", [4], Training(10**8, 1.0), codecs)
    assert "DDP as it is" in " ".join(plan_report.recommendation(kept))


def _plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["plan", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(autouse=True)
def _no_tuning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("QUOIT_TUNING", raising=False)
    monkeypatch.setenv("QUOIT_CACHE", str(tmp_path / "cache"))


def test_a_plan_for_two_to_a_hundred_thousand_ranks(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data, picture = tmp_path / "plan.json", tmp_path / "plan.png"
    code, out, _ = _plan(
        capsys,
        *("--hosts", "2..100000", "--parameters", "10M", "--backward", "60ms"),
        *("--json", str(data), "--plot", str(picture), "--compress", "none,int8,topk:50"),
    )
    assert code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    written = json.loads(data.read_text())
    ranks = [line["shape"]["hosts"] for line in written["scaling"]]
    assert (ranks[0], ranks[-1], len(ranks)) == (2, 100000, 17)
    assert list(written["scaling"][0]["steps"]) == ["none", "int8", "topk"]
    # The table says what the file says.
    line = next(line for line in out.splitlines() if line.split()[:2] == ["100000", "100000"])
    seconds = written["scaling"][-1]["steps"]["none"]["seconds"]
    assert line.split()[2:4] == plan_report.units.spell_seconds(seconds).split()
    for one in written["collectives"]:
        assert min(one["ways"].values()) == one["ways"][one["chosen"]]


def test_links_come_from_the_file_and_the_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    costs = _core.Costs()
    costs.net_alpha, costs.net_beta = 4e-6, 2e-9
    file = tmp_path / "tuning"
    tune.write(file, costs, "# by hand")
    assert "host" not in file.read_text()  # what nobody measured stays the default
    read = _core.read_costs(str(file))
    assert (read.net_alpha, read.net_beta, read.host_alpha) == (4e-6, 2e-9, costs.host_alpha)
    _, out, _ = _plan(capsys, "--costs", str(file), "--bandwidth", "10gbit")
    assert "4.00 us a message, 10 Gbit/s for each host" in out
    assert f"links from the command line, the rest from {file}" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--hosts", "1"), "1 ranks; a plan is for 2 to 1000000"),
        (("--hosts", "0"), "--hosts 0: give a whole number, at least 1"),
        (("--hosts", "8..2"), "from fewer to more"),
        (("--hosts", "many"), "'many' is no count"),
        (("--hosts", "2M"), "a plan is for"),
        (("--op", "sing"), "--op sing: choose all_reduce"),
        (("--sizes", "4,x"), "--sizes: 'x' is no size"),
        (("--sizes", "0"), "a collective has at least one byte"),
        (("--alpha", "5"), "--alpha: '5' is no time"),
        (("--bandwidth", "10gbps"), "--bandwidth: '10gbps' is no rate"),
        (("--parameters", "7B"), "both --parameters and --backward"),
        (("--parameters", "7B", "--backward", "1s", "--overlap", "2"), "from 0 to 1"),
        (("--parameters", "7B", "--backward", "1s", "--curve", "1"), "give points as"),
        (("--parameters", "7B", "--backward", "1s", "--curve", ".5:.5,.6:.4"), "must grow"),
        (("--parameters", "7B", "--backward", "1s", "--bucket", "0"), "at least one byte"),
        (("--compress", "zip"), "--compress zip: choose none, bf16, int8, int4"),
        (("--compress", "zip:0.5"), "give a ratio"),
        (("--costs", "/nowhere"), "there is no such file"),
    ],
)
def test_mistakes_are_named(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = _plan(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_predictions_are_near_what_was_published(capsys: pytest.CaptureFixture[str]) -> None:
    errors = {one.what: one.error for one in plan_published.FIGURES}
    assert max(map(abs, errors.values())) < 0.15, errors
    assert _plan(capsys, "--published")[1] == plan_published.table()


def test_the_page_shows_them() -> None:
    page = (ROOT / "docs/plan.md").read_text()
    assert plan_published.table() in page
    assert set(re.findall(r"`(--[a-z-]+)", page)) - {"--output", "--passes"} <= set(_options())


def _options() -> list[str]:
    said = subprocess.run(
        [sys.executable, "-m", "quoit.cli", "plan", "--help"], capture_output=True, text=True
    ).stdout
    return re.findall(r"--[a-z-]+", said)


def _tune(path: Path, *launcher: str) -> str:
    command = [sys.executable, *launcher, "-m", "quoit.cli", "tune", f"--output={path}"]
    done = subprocess.run(
        [*command, "--passes=2"],
        env={**os.environ, "QUOIT_TRANSPORT": "auto"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert f"written to {path}" in done.stdout
    return path.read_text()


def test_two_ranks_are_started_to_tune_and_the_runtime_reads_their_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "tuning"
    text = _tune(path)
    assert text.startswith("# 2 ranks, between them shm; ")
    costs = _core.read_costs(str(path))
    assert 0 < costs.host_alpha < 1
    assert 0 < costs.host_beta < 1e-6
    assert 0 < costs.gamma < 1e-6
    assert "net_" not in text


def test_ranks_of_a_launcher_tune_together(tmp_path: Path) -> None:
    text = _tune(tmp_path / "tuning", "-m", "quoit.cli", "run", "-n", "3")
    assert text.startswith("# 3 ranks, between them shm; ")


@worlds.NEEDS_CLUSTER
def test_links_between_hosts_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "tuning"
    asked = hosts.Asked(2, 1, "200mbit", "10ms")
    with hosts.up(asked) as there:
        tuning = ["-m", "quoit.cli", "tune", f"--output={path}", "--passes=2"]
        ranks = [
            subprocess.Popen(command.arguments, env=command.environment)
            for command in there.by_quoit(1).commands(2, tuning)
        ]
        assert [rank.wait(120) for rank in ranks] == [0, 0]
    assert path.read_text().startswith("# 2 ranks, between them tcp; ")
    assert "host_" not in path.read_text()
    costs = _core.read_costs(str(path))
    assert 0.01 <= costs.net_alpha < 0.5
    assert 1 / 3 < costs.net_beta * 200e6 / 8 < 3


def test_wrong_options_of_tune(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune", "--passes", "0"]) == 2
    assert "--passes 0: give a whole number" in capsys.readouterr().err
