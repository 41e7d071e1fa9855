"""`quoit run` as users meet it: real ranks, real failures, and nothing left behind."""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from quoit import cli, run
from quoit.cores import usable_cores
from quoit.launch import without_launcher

DEADLINE_S = 30.0  # for what should take a moment, on a machine that is busy

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a program whose ranks can tell that they are up; returns its path."""

    def write(body: str) -> Path:
        path = tmp_path / "program.py"
        path.write_text(
            "import os, signal, subprocess, sys, time\n"
            "rank = int(os.environ['RANK'])\n"
            f"folder = {str(tmp_path)!r}\n"
            "def up(name, pid=os.getpid()):\n"
            "    open(f'{folder}/~{name}', 'w').write(str(pid))\n"
            "    os.rename(f'{folder}/~{name}', f'{folder}/{name}.pid')\n"
            "def wait_for(count):\n"
            "    while len([n for n in os.listdir(folder) if n.endswith('.pid')]) < count:\n"
            "        time.sleep(0.01)\n"
            f"{body}\n"
        )
        return path

    return write


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `quoit run` with these arguments; ends it if the test does not."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object, **options: object) -> subprocess.Popen[str]:
        settings: dict[str, object] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "env": without_launcher(os.environ),
            **options,
        }
        command = [sys.executable, "-m", "quoit.cli", "run", *map(str, arguments)]
        started.append(subprocess.Popen(command, text=True, **settings))  # type: ignore[call-overload]
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


def pids(folder: Path, count: int) -> dict[str, int]:
    """The pids of `count` processes of the program, once they are up."""
    wait_until(lambda: len(list(folder.glob("*.pid"))) >= count)
    return {path.stem: int(path.read_text()) for path in folder.glob("*.pid")}


def wait_until(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < deadline_s, "it did not come about in time"
        time.sleep(0.01)
    return time.monotonic() - began


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def none_alive(pids: Sequence[int]) -> Callable[[], bool]:
    return lambda: not any(map(alive, pids))


def test_ranks_get_their_places(script: Callable[[str], Path], start: Start) -> None:
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR"]
    body = f"print(*(os.environ[name] for name in {names}), *sys.argv[1:])"
    code, out, err = outcome(start("-n", 3, script(body), "-n", "7", "--prefix"))
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == [
        "0 0 3 3 127.0.0.1 -n 7 --prefix",
        "[1] 1 1 3 3 127.0.0.1 -n 7 --prefix",
        "[2] 2 2 3 3 127.0.0.1 -n 7 --prefix",
    ]


def test_what_ranks_share_and_do_not_inherit(script: Callable[[str], Path], start: Start) -> None:
    body = "print(os.environ['QUOIT_JOB'], os.environ['MASTER_PORT'], 'PMI_RANK' in os.environ)"
    env = {**without_launcher(os.environ), "PMI_RANK": "0", "PMI_SIZE": "1"}
    jobs = []
    for _ in range(2):
        code, out, err = outcome(start("--no-prefix", "-n", 2, script(body), env=env))
        assert (code, err) == (0, "")
        (line,) = set(out.splitlines())
        assert line.endswith(" False")
        jobs.append(line.split()[0])
    assert jobs[0] != jobs[1]


@pytest.mark.parametrize(("given", "expected"), [(None, None), ("5", "5")])
def test_threads_per_rank(
    given: str | None, expected: str | None, script: Callable[[str], Path], start: Start
) -> None:
    env = {name: v for name, v in without_launcher(os.environ).items() if name != "OMP_NUM_THREADS"}
    env |= {} if given is None else {"OMP_NUM_THREADS": given}
    program = script("print(os.environ['OMP_NUM_THREADS'])")
    for ranks in (1, usable_cores() + 1):
        _, out, _ = outcome(start("--no-prefix", "-n", ranks, program, env=env))
        share = str(usable_cores()) if ranks == 1 else "1"
        assert set(out.split()) == {expected or share}


@pytest.mark.parametrize(
    ("options", "out", "err"),
    [
        ([], ["[1] out", "out"], ["[1] err", "err"]),
        (["--prefix"], ["[0] out", "[1] out"], ["[0] err", "[1] err"]),
        (["--no-prefix"], ["out", "out"], ["err", "err"]),
    ],
)
def test_prefixes(
    options: list[str],
    out: list[str],
    err: list[str],
    script: Callable[[str], Path],
    start: Start,
) -> None:
    program = script("print('out'); print('err', file=sys.stderr)")
    code, *written = outcome(start("-n", 2, *options, program))
    assert code == 0
    assert [sorted(text.splitlines()) for text in written] == [out, err]


def test_a_module_and_the_default_number_of_ranks(
    script: Callable[[str], Path], start: Start
) -> None:
    folder = script("print(rank, *sys.argv[1:])").parent
    process = start("--no-prefix", "-m", "program", "-m", "x", cwd=folder)
    code, out, err = outcome(process)
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == sorted(f"{rank} -m x" for rank in range(usable_cores()))


def test_input_goes_to_rank_0(script: Callable[[str], Path], start: Start) -> None:
    process = start("-n", 2, script("print(repr(sys.stdin.read()))"), stdin=subprocess.PIPE)
    out, _ = process.communicate("for rank 0", timeout=DEADLINE_S)
    assert sorted(out.splitlines()) == ["'for rank 0'", "[1] ''"]


@pytest.mark.parametrize(
    ("death", "code", "words"),
    [
        ("raise ValueError('the cause')", 1, "failed with exit code 1"),
        ("sys.exit(7)", 7, "failed with exit code 7"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 139, "was killed by signal 11 (SIGSEGV)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "(SIGKILL) (out of memory?)"),
    ],
)
def test_a_failing_rank_ends_the_job(
    death: str,
    code: int,
    words: str,
    script: Callable[[str], Path],
    start: Start,
    tmp_path: Path,
) -> None:
    program = script(
        f"""
if rank == 1:
    wait_for(2)
    {death}
up(rank)
time.sleep(600)
"""
    )
    process = start("-n", 3, program)
    others = pids(tmp_path, 2)
    began = time.monotonic()
    returned, _, err = outcome(process)
    assert time.monotonic() - began < 5.0
    assert returned == code
    assert none_alive(list(others.values()))()
    report = err[err.index("quoit run: rank 1 of 3 ") :]
    assert words in report
    if "ValueError" in death:
        assert "Traceback (most recent call last):\n" in report
        assert report.rstrip().endswith("\nValueError: the cause")
        assert "\n[1] ValueError: the cause\n" in err
    elif "SIGSEGV" in death:
        assert "Fatal Python error: Segmentation fault" in report
    else:
        assert "it wrote nothing to stderr" in report


def test_a_rank_deaf_to_sigterm_is_killed(
    script: Callable[[str], Path], start: Start, tmp_path: Path
) -> None:
    program = script(
        """
if rank == 0:
    wait_for(1)
    sys.exit(3)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
up(rank)
time.sleep(600)
"""
    )
    process = start("-n", 2, "--grace", "0.3", program)
    (deaf,) = pids(tmp_path, 1).values()
    code, _, _ = outcome(process)
    assert code == 3
    assert not alive(deaf)


FAMILY = """
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
up(f'child of {rank}', child.pid)
daemon = subprocess.Popen(
    [sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)
up(f'daemon of {rank}', daemon.pid)
if os.fork() == 0:
    os.setsid()
    up(f'fork of {rank}', os.getpid())
    time.sleep(600)
up(f'rank {rank}')
"""


def test_the_launchers_violent_death_leaves_no_orphans(
    script: Callable[[str], Path], start: Start, tmp_path: Path
) -> None:
    process = start("-n", 2, script(FAMILY + "time.sleep(600)"))
    family = pids(tmp_path, 8)
    assert all(map(alive, family.values()))
    (warden,) = wardens_of(process.pid)
    process.kill()
    wait_until(none_alive([*family.values(), warden]), 10.0)


@pytest.mark.parametrize("ending", ["pass", "sys.exit(rank)"])
def test_a_finished_job_leaves_no_orphans(
    ending: str, script: Callable[[str], Path], start: Start, tmp_path: Path
) -> None:
    process = start("-n", 2, script(f"{FAMILY}\nwait_for(8)\n{ending}"))
    family = pids(tmp_path, 8)
    (warden,) = wardens_of(process.pid) or [0]
    code, _, _ = outcome(process)
    assert code == (0 if ending == "pass" else 1)
    assert none_alive([*family.values(), warden])()


def wardens_of(launcher: int) -> list[int]:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(pid) for pid in children if "warden.py" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_the_wardens_death_is_survived(
    script: Callable[[str], Path], start: Start, tmp_path: Path
) -> None:
    process = start("-n", 2, script("up(rank)\nwait_for(3)"))
    pids(tmp_path, 2)
    (warden,) = wardens_of(process.pid)
    os.kill(warden, signal.SIGKILL)
    (tmp_path / "go.pid").write_text("0")
    code, _, err = outcome(process)
    assert (code, err) == (0, "")


WAITING = """
up(rank)
try:
    time.sleep(600)
except KeyboardInterrupt:
    print(f'rank {rank} was interrupted', flush=True)
    raise
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_job(
    number: signal.Signals,
    code: int,
    script: Callable[[str], Path],
    start: Start,
    tmp_path: Path,
) -> None:
    process = start("-n", 2, script(WAITING))
    ranks = pids(tmp_path, 2)
    process.send_signal(number)
    returned, out, err = outcome(process)
    assert returned == code
    assert none_alive(list(ranks.values()))()
    assert "quoit" not in err  # neither a report nor a traceback of our own
    interrupted = ["[1] rank 1 was interrupted", "rank 0 was interrupted"]
    assert sorted(out.splitlines()) == (interrupted if number == signal.SIGINT else [])


def test_a_second_signal_kills(script: Callable[[str], Path], start: Start, tmp_path: Path) -> None:
    deaf = "signal.signal(signal.SIGINT, lambda *_: up('heard'))\nup(rank)\nwhile 1: time.sleep(9)"
    process = start("-n", 1, "--grace", "600", script(deaf))
    ranks = pids(tmp_path, 1)
    process.send_signal(signal.SIGINT)
    pids(tmp_path, 2)
    process.send_signal(signal.SIGINT)
    code, _, _ = outcome(process)
    assert code == 130
    assert none_alive(list(ranks.values()))()


def test_ctrl_c_at_a_terminal(script: Callable[[str], Path], start: Start, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        process = start(
            *("-n", 2, script("assert sys.stdout.isatty() == (rank == 0)\n" + WAITING)),
            **{"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True},
            preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
        )
        ranks = pids(tmp_path, 2)
        os.write(ours, b"\x03")
        assert process.wait(DEADLINE_S) == 130
        wait_until(none_alive(list(ranks.values())))
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_time_limit(script: Callable[[str], Path], start: Start, tmp_path: Path) -> None:
    process = start("-n", 2, "--timeout", "1", script("up(rank)\nif rank: time.sleep(600)"))
    ranks = pids(tmp_path, 2)
    code, _, err = outcome(process)
    assert code == 124
    assert "not done after 1 s; still running: ranks [1]" in err
    assert none_alive(list(ranks.values()))()


def test_much_output_to_a_slow_reader_is_whole(script: Callable[[str], Path], start: Start) -> None:
    lines, width = 20000, 120
    program = script(
        f"for i in range({lines}): sys.stdout.write(f'{{rank}} {{i}} '.ljust({width}, '.') + '\\n')"
    )
    process = start("--prefix", "-n", 2, program)
    assert process.stdout is not None
    time.sleep(1.0)  # longer than the pipes and our own buffer take to fill
    seen = {0: 0, 1: 0}
    for line in process.stdout:
        _, rank, number = line.split()[:3]
        assert line == f"[{rank}] {rank} {number} ".ljust(width + 4, ".") + "\n"
        assert int(number) == seen[int(rank)]
        seen[int(rank)] += 1
    assert seen == {0: lines, 1: lines}
    assert process.wait(DEADLINE_S) == 0


def test_a_reader_that_has_gone_does_not_stop_the_job(
    script: Callable[[str], Path], start: Start, tmp_path: Path
) -> None:
    program = script("wait_for(1)\nif rank: print('x' * 3000000)\nup(rank)")
    process = start("-n", 2, program)
    assert process.stdout is not None
    process.stdout.close()
    (tmp_path / "go.pid").write_text("0")
    assert process.wait(DEADLINE_S) == 0
    assert set(pids(tmp_path, 3)) == {"go", "0", "1"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch.py"], ["no file nosuch.py", "-m before its name"]),
        ([], ["nothing to run", "name a script"]),
        (["-n", "0", "x.py"], ["'0' is not a whole number above 0"]),
        (["-n", "two", "x.py"], ["'two' is not a whole number above 0"]),
        (["--timeout", "nan", "x.py"], ["'nan' is not a number of seconds above 0"]),
    ],
)
def test_bad_arguments_say_what_to_do(arguments: list[str], words: list[str], start: Start) -> None:
    code, out, err = outcome(start(*arguments))
    assert (code, out) == (2, "")
    assert all(word in err for word in words), err
    assert "Traceback" not in err


def test_inside_another_launcher_it_says_what_to_do(
    script: Callable[[str], Path], start: Start
) -> None:
    env = {**without_launcher(os.environ), "PMI_RANK": "1", "PMI_SIZE": "2"}
    code, _, err = outcome(start("-n", 2, script("pass"), env=env))
    assert code == 2
    assert "already rank 1 of 2, started by mpich" in err
    assert "without `quoit run`" in err


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, words in (
        (["--version"], 0, "quoit "),
        (["--help"], 0, "run"),
        (["run", "--help"], 0, "--timeout SECONDS"),
        ([], 2, "command"),
        (["rnu"], 2, "invalid choice: 'rnu'"),
    ):
        with pytest.raises(SystemExit) as exit:
            cli.main(arguments)
        assert exit.value.code == code
        printed = capsys.readouterr()
        assert words in printed.out + printed.err


def test_an_interrupted_command_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("quoit.doctor.main", interrupt)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "quoit doctor: interrupted\n"


def test_options_end_where_the_program_begins() -> None:
    parser = argparse.ArgumentParser()
    run.configure(parser)
    options = parser.parse_args(["-n", "2", "-m", "package", "-n", "3", "--grace", "x"])
    assert (options.ranks, options.module) == (2, True)
    assert options.command == ["package", "-n", "3", "--grace", "x"]
