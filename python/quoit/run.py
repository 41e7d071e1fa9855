"""`quoit run`: starts the ranks of a Python program on this host and leaves none behind."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from quoit.cores import usable_cores
from quoit.launch import LaunchError, detect, without_launcher
from quoit.relay import Outlet, Stream
from quoit.supervise import TIMED_OUT, Rank, Watch, flush, guarded, report, signals, supervise

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """What to run.

    command: what follows `python`.
    prefix: whether lines get "[rank] " before them; None: those of rank 1 and up.
    timeout_s: end the job after so long; None: never.
    grace_s: how long ended ranks may take before they are killed.
    """

    ranks: int
    command: tuple[str, ...]
    prefix: bool | None = None
    timeout_s: float | None = None
    grace_s: float = 3.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of `quoit run`."""
    parser.usage = (
        "quoit run [options] script.py [args...] | quoit run [options] -m module [args...]"
    )
    parser.add_argument(
        "-n",
        "--ranks",
        type=_positive_integer,
        metavar="N",
        help="how many ranks to start (default: the cores this process may use)",
    )
    parser.add_argument(
        "-m", dest="module", action="store_true", help="run a module, as `python -m` does"
    )
    parser.add_argument(
        "--prefix",
        action=argparse.BooleanOptionalAction,
        help="put [rank] before every line, or before none (default: not for rank 0)",
    )
    parser.add_argument(
        "--timeout",
        type=_positive_seconds,
        metavar="SECONDS",
        help=f"end the job after so long, with exit code {TIMED_OUT} (default: never)",
    )
    parser.add_argument(
        "--grace",
        type=_positive_seconds,
        metavar="SECONDS",
        default=Job.grace_s,
        help="time that ended ranks have before they are killed (default: %(default)g)",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def main(options: argparse.Namespace) -> int:
    """Run the job that the command line describes; returns the exit code."""
    command = tuple(options.command)
    if not command:
        raise LaunchError("nothing to run: name a script, or a module after -m")
    if options.module:
        command = ("-m", *command)
    elif not os.path.exists(command[0]):
        raise LaunchError(f"there is no file {command[0]}; to run a module, put -m before its name")
    ranks = options.ranks or usable_cores()
    return run(Job(ranks, command, options.prefix, options.timeout, options.grace))


def run(job: Job) -> int:
    """Start the ranks and wait for all; returns the exit code of the first that failed, else 0.

    128 + n for a rank that signal n killed, and for a launcher that was told to stop by signal n.
    Whatever happens, no process of the job outlives the call, nor the launcher's own death.
    """
    outer = detect()
    if outer and outer.size > 1 and outer.launcher != "env":
        raise LaunchError(
            f"this is already rank {outer.rank} of {outer.size}, started by {outer.launcher}. "
            "Start the program itself there, without `quoit run`; or run `quoit run` alone."
        )
    # Held, but not listened at, until the job ends: the kernel gives the port to nobody else, while
    # rank 0's store, which sets SO_REUSEADDR as we do, can take it.
    with signals() as (wake, stops), _reserve_port() as port:
        watch = Watch(f"{os.getpid()}-{secrets.token_hex(8)}", wake, stops)
        with guarded(watch) as announce:
            environ = _environment(os.environ, job, watch.name, port.getsockname()[1])
            for index in range(job.ranks):
                watch.ranks.append(_start(index, job, environ, watch.outlets))
                announce(watch.ranks[-1].process.pid)
            failed = supervise(watch, job.timeout_s, job.grace_s)
        if failed and watch.code is None:
            watch.code = report(watch, failed)
        flush(watch)
    return watch.code or 0


def _start(index: int, job: Job, environ: Mapping[str, str], outlets: Mapping[int, Outlet]) -> Rank:
    prefixed = job.ranks > 1 and index > 0 if job.prefix is None else job.prefix
    # A terminal is handed on as it is, with its width, colours and progress bars; what Python
    # writes to it is whole lines already.
    as_it_is = {fd: not prefixed and (job.ranks == 1 or os.isatty(fd)) for fd in (1, 2)}
    process = subprocess.Popen(
        [sys.executable, *([] if os.isatty(1) and as_it_is[1] else ["-u"]), *job.command],
        env={**environ, "RANK": str(index), "LOCAL_RANK": str(index)},
        stdin=None if index == 0 else subprocess.DEVNULL,
        stdout=None if as_it_is[1] else subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
        preexec_fn=_die_with(os.getpid()),
    )
    prefix = f"[{index}] ".encode() if prefixed else b""
    pipes = ((1, process.stdout), (2, process.stderr))
    streams = [
        Stream(pipe, outlets[fd], None if as_it_is[fd] else prefix) for fd, pipe in pipes if pipe
    ]
    return Rank(process, streams)


def _die_with(launcher: int) -> Callable[[], None]:
    """A hook for the child: it shall be killed when the launcher dies, however that happens."""
    libc = ctypes.CDLL(None)

    def arm() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:
            os._exit(1)  # it died before we asked

    return arm


def _environment(inherited: Mapping[str, str], job: Job, name: str, port: int) -> dict[str, str]:
    environ = without_launcher(inherited)
    environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // job.ranks)))
    environ.setdefault("PYTHONFAULTHANDLER", "1")  # a crash then tells where it happened
    environ |= {
        "WORLD_SIZE": str(job.ranks),
        "LOCAL_WORLD_SIZE": str(job.ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "QUOIT_JOB": name,
    }
    return environ


def _reserve_port() -> socket.socket:
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("", 0))
    return reserved


def _positive_integer(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (value := int(text)) > 0:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")


def _positive_seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
