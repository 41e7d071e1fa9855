"""examples/train_gpt.py learns the same thing alone, on two ranks, and with either backend."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "train_gpt.py"
STEPS = 20
TINY = f"--steps {STEPS} --batch 4 --context 32 --layers 1 --width 32 --bound 9".split()
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def python(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs this Python as a user would, outside any launcher."""
    inherited = {k: v for k, v in os.environ.items() if k not in LAUNCHER_VARIABLES}
    # Threads that spin for each other make a busy machine crawl.
    inherited["OMP_WAIT_POLICY"] = "passive"
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


def two_ranks(*arguments: object) -> subprocess.CompletedProcess[str]:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    return python(*torchrun, *arguments)


@dataclass(frozen=True)
class Run:
    output: str
    losses: list[float]
    losses_file: Path
    plot: Path


def train(folder: Path, backend: str | None, *arguments: object) -> Run:
    """A tiny training run: alone, or on two ranks when a backend is named."""
    losses, plot = folder / "losses.json", folder / "loss.png"
    command = (SCRIPT, *TINY, "--losses", losses, "--plot", plot, *arguments)
    result = two_ranks(*command, "--backend", backend) if backend else python(*command)
    assert result.returncode == 0, result.stdout + result.stderr
    return Run(result.stdout, json.loads(losses.read_text())["losses"], losses, plot)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("alone"), None)


@pytest.fixture(scope="module")
def gloo(tmp_path_factory: pytest.TempPathFactory, alone: Run) -> Run:
    return train(tmp_path_factory.mktemp("gloo"), "gloo", "--compare", alone.losses_file)


@pytest.fixture(scope="module")
def quoit(tmp_path_factory: pytest.TempPathFactory, gloo: Run) -> Run:
    return train(tmp_path_factory.mktemp("quoit"), "quoit", "--compare", gloo.losses_file)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with arguments and ranks that a test may set."""
    spec = importlib.util.spec_from_file_location("train_gpt", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_gpt", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("backend", ["gloo", "quoit"])
def test_two_ranks_follow_one_process(
    backend: str, alone: Run, request: pytest.FixtureRequest
) -> None:
    both: Run = request.getfixturevalue(backend)
    assert len(alone.losses) == len(both.losses) == STEPS
    # One process sums the gradients of a batch in another order, hence not exactly equal. Another
    # batch or a gradient that was not averaged would differ by more than 1e-3.
    assert both.losses == pytest.approx(alone.losses, rel=1e-5)
    assert both.losses[-1] < both.losses[0] - 0.1


def test_backends_are_bit_equal(gloo: Run, quoit: Run) -> None:
    # Two ranks add two numbers, a + b and b + a are the same float, and everything else is
    # computed by the same code: no backend has a choice. (With three ranks it would.)
    assert quoit.losses == gloo.losses
    assert "losses differ from gloo, 2 ranks: no, every step is bit-equal\n" in quoit.output


@pytest.mark.parametrize("name", ["alone", "gloo", "quoit"])
def test_report(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    lines = run.output.splitlines()
    assert "replicas identical: yes" in lines
    (overlap,) = (line for line in lines if line.startswith("communication not overlapped"))
    if name == "alone":
        assert overlap == "communication not overlapped with backward: not applicable (one process)"
    else:
        share = float(overlap.split(": ")[1].split(" %")[0])
        assert 0 < share < 100
        assert overlap.endswith(f" % of step time ({name}, 2 ranks)")
    (verdict,) = (line for line in lines if line.startswith("validation loss"))
    assert verdict.endswith("(bound 9.00: ok)")
    assert f"step {STEPS}/{STEPS}" in run.output
    assert "class Queue:" in run.output
    assert run.plot.read_bytes().startswith(b"\x89PNG")


def test_failure_and_hints(alone: Run, tmp_path: Path) -> None:
    """One run that misses its bound, has no matplotlib and differs from its reference."""
    (tmp_path / "matplotlib.py").write_text("raise ImportError('left out')\n")
    reference = json.loads(alone.losses_file.read_text())
    reference["losses"][6] *= 1.5
    altered = tmp_path / "altered.json"
    altered.write_text(json.dumps(reference))
    plot = tmp_path / "loss.png"
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    result = python(
        SCRIPT, *TINY, "--bound", "1", "--compare", altered, "--plot", plot, PYTHONPATH=path
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "(bound 1.00: too high)" in result.stdout
    assert "pip install matplotlib" in result.stdout
    assert not plot.exists()
    assert "losses differ from one process: by up to 3.3e-01 (relative), at step 7" in result.stdout


def test_one_wrong_bit_is_seen(tmp_path: Path) -> None:
    """replicas_identical() says no on every rank when one bit of one rank differs."""
    check = tmp_path / "check.py"
    check.write_text(
        f"""
import sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import torch
import torch.distributed as dist
import train_gpt

dist.init_process_group("gloo")
model = torch.nn.Linear(3, 3)
torch.nn.init.ones_(model.weight)
torch.nn.init.ones_(model.bias)
same = train_gpt.replicas_identical(model)
if dist.get_rank() == 1:
    with torch.no_grad():
        model.weight[2, 2] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
sys.stdout.write(f"answers {{same}} {{train_gpt.replicas_identical(model)}}\\n")
sys.stdout.flush()
dist.destroy_process_group()
"""
    )
    result = two_ranks(check)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("answers True False") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--batch 15", "--batch 15 cannot be divided evenly among 2 ranks"),
        ("--steps 0", "--steps must be at least 1, got 0"),
        ("--width 48", "--width must be a multiple of 32, got 48"),
        ("--backend mpi", "invalid choice: 'mpi'"),
        ("--losses missing/losses.json", "cannot write missing/losses.json: there is no folder"),
        ("--compare missing.json", "cannot read missing.json, expected a file written by --losses"),
        ("--compare empty.json", "cannot read empty.json, expected a file written by --losses"),
        ("--compare other.json", "that run had {'steps': 3}"),
    ],
)
def test_bad_arguments(
    arguments: str,
    message: str,
    example: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.json").write_text("{}")
    Path("other.json").write_text('{"name": "", "settings": {"steps": 3}, "losses": []}')
    monkeypatch.setattr(example, "RANKS", 2)
    monkeypatch.setattr(sys, "argv", ["train_gpt.py", *arguments.split()])
    with pytest.raises(SystemExit) as stop:
        example.parse_arguments()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
