"""Programs on the torch backend end well, however they end: no hang, no crash, nothing left."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import worlds

pytest.importorskip("torch")

PROGRAM = str(Path(__file__).with_name("torch_ending.py"))
DEADLINE_S = 60.0

Start = Callable[[str, int], list[subprocess.Popen[str]]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the ranks of an ending by hand, so that no launcher ends them."""
    mark = secrets.token_hex(8)
    before = set(os.listdir("/dev/shm"))
    ranks: list[subprocess.Popen[str]] = []

    def begin(ending: str, size: int) -> list[subprocess.Popen[str]]:
        for rank in range(size):
            process = subprocess.Popen(
                [sys.executable, PROGRAM, str(tmp_path), str(rank), str(size), ending],
                env={**os.environ, "OMP_NUM_THREADS": "1", **worlds.marked(mark)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            ranks.append(process)
        return ranks

    yield begin
    for process in ranks:
        if process.poll() is None:
            process.kill()
        process.communicate()
    assert worlds.end_all(mark) == []
    assert {name for name in set(os.listdir("/dev/shm")) - before if "quoit" in name} == set()


def ends(process: subprocess.Popen[str], code: int = 0, deadline_s: float = DEADLINE_S) -> str:
    """What a rank wrote to standard output; fails when it ends otherwise than expected."""
    out, err = process.communicate(timeout=deadline_s)
    assert process.returncode == code, f"exit code {process.returncode}:\n{out}{err}"
    if code == 0:
        assert err == "", err
    return out


def hears(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != f"{word}\n":
        pytest.fail(line + "".join(process.communicate(timeout=DEADLINE_S)))


def test_survivors_of_a_kill_make_a_new_group(start: Start) -> None:
    ranks = start("killed", 3)
    assert ends(ranks[0]) == ends(ranks[2]) == "survivors: 2\n"
    ends(ranks[1], -signal.SIGKILL)


def test_survivors_of_a_kill_shrink_the_group(start: Start) -> None:
    ranks = start("killed_then_shrunk", 3)
    assert ends(ranks[0]) == "rank 0 of 2: 2\n"
    assert ends(ranks[2]) == "rank 1 of 2: 2\n"
    ends(ranks[1], -signal.SIGKILL)


def test_a_monitored_barrier_names_the_dead(start: Start) -> None:
    ranks = start("killed_before_a_monitored_barrier", 3)
    assert ends(ranks[0]) == ends(ranks[2]) == "heard True\n"
    ends(ranks[1], -signal.SIGKILL)


def test_ctrl_c_ends_the_program(start: Start) -> None:
    ranks = start("interrupted", 2)
    for process in ranks:
        hears(process, "ready")
    time.sleep(0.3)
    began = time.monotonic()
    ranks[0].send_signal(signal.SIGINT)
    _, err = ranks[0].communicate(timeout=DEADLINE_S)
    assert time.monotonic() - began < 2
    assert err.rstrip().endswith("KeyboardInterrupt"), err
    ends(ranks[1])


@pytest.mark.slow  # half a minute
def test_a_callback_that_waits_does_not_hold_up_a_failed_program(start: Start) -> None:
    ranks = start("raises_while_a_callback_waits", 2)
    for process in ranks:
        hears(process, "ready")
    began = time.monotonic()
    _, err = ranks[0].communicate(timeout=DEADLINE_S)
    assert time.monotonic() - began < 3
    assert ranks[0].returncode == 1
    assert "RuntimeError: the program's own mistake" in err
    ends(ranks[1])


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("nothing_destroyed", "done\n"),
        ("in_flight", "done 5\n"),
        ("destroyed_in_flight", "again: 2\n"),
    ],
)
def test_all_ranks_end_well(ending: str, words: str, start: Start) -> None:
    for process in start(ending, 2):
        assert ends(process) == words


def test_an_abort_is_heard(start: Start) -> None:
    ranks = start("aborted", 2)
    assert ends(ranks[0]) == "aborted\n"
    assert ends(ranks[1]) == "heard\n"
