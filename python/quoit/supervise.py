"""Watches over the ranks that `quoit run` started: their output, their end, and the launcher's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quoit import warden
from quoit.relay import Outlet, Stream, last_words, relay

TIMED_OUT = 124  # exit code, as timeout(1) has it
_DRAIN_S = 2.0
_GUARD_S = 10.0


@dataclass
class Rank:
    """A started rank; it leads a session of its own. streams: [stdout if relayed,] stderr."""

    process: subprocess.Popen[bytes]
    streams: list[Stream]
    status: int | None = None  # exit code, or the negative number of the signal that killed it


@dataclass
class Watch:
    """A job on its way, known to its processes by the name in QUOIT_JOB.

    All of it happens in one thread, so that a rank can be forked at any time.
    wake: readable after a signal; stops: signals that told us to stop and are not yet obeyed.
    code: the job's exit code, once something other than its ranks has decided it.
    """

    name: str
    wake: int
    stops: list[int]
    ranks: list[Rank] = field(default_factory=list)
    outlets: dict[int, Outlet] = field(default_factory=lambda: {fd: Outlet(fd) for fd in (1, 2)})
    started: float = field(default_factory=time.monotonic)
    kill_at: float | None = None
    code: int | None = None

    @property
    def sessions(self) -> set[int]:
        return {rank.process.pid for rank in self.ranks}

    def say(self, text: str) -> None:
        self.outlets[2].put(f"quoit run: {text}\n".encode())

    def relay(self, until: float | None) -> None:
        """Pass on output until some was ready, a signal came, or the time is reached."""
        streams = [stream for rank in self.ranks for stream in rank.streams]
        wait_s = None if until is None else until - time.monotonic()
        relay(streams, list(self.outlets.values()), self.wake, wait_s)

    def stop(self, number: int, grace_s: float) -> None:
        """Signal the ranks and their process groups, and set the time to kill them."""
        self.kill_at = time.monotonic() + grace_s
        for rank in self.ranks:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(rank.process.pid, number)


def supervise(watch: Watch, timeout_s: float | None, grace_s: float) -> Rank | None:
    """Wait for all ranks, ending them when one fails; returns the one that failed first, if any."""
    timeout_at = None if timeout_s is None else watch.started + timeout_s
    failed: Rank | None = None
    while True:
        running = _collect(watch.ranks)
        failed = failed or min(filter(_has_failed, watch.ranks), key=_blame, default=None)
        if not running:
            return failed
        now = time.monotonic()
        if watch.stops:
            number = watch.stops.pop(0)
            if watch.kill_at is None:
                watch.code = 128 + number
                watch.stop(number, grace_s)
            else:
                watch.kill_at = now  # asked twice: wait no longer
        elif watch.kill_at is None and failed:
            watch.stop(signal.SIGTERM, grace_s)
        elif watch.kill_at is None and timeout_at is not None and now >= timeout_at:
            watch.say(
                f"not done after {timeout_s:g} s; still running: ranks {running}. If they are only "
                "slow, give a longer --timeout"
            )
            watch.code = TIMED_OUT
            watch.stop(signal.SIGTERM, grace_s)
        elif watch.kill_at is not None and now >= watch.kill_at:
            if left := warden.sweep(watch.name, watch.sessions):
                watch.say(f"these processes cannot be killed (waiting for a disk?): {left}")
                return failed
        else:
            watch.relay(timeout_at if watch.kill_at is None else watch.kill_at)


def end(watch: Watch) -> None:
    """Leave no process of the job alive, and take in what they last wrote."""
    warden.sweep(watch.name, watch.sessions, warden.LAST_RITES_S)
    deadline = time.monotonic() + _DRAIN_S
    streams = [stream for rank in watch.ranks for stream in rank.streams]
    while any(stream.open for stream in streams) and time.monotonic() < deadline:
        watch.relay(deadline)
    for stream in streams:
        stream.close()
    for rank in watch.ranks:
        with contextlib.suppress(subprocess.TimeoutExpired):
            rank.process.wait(timeout=0)


def report(watch: Watch, failed: Rank) -> int:
    """Say how and where a rank failed; returns the exit code that follows from it."""
    status = failed.status or 0
    if status > 0:
        how, code = f"failed with exit code {status}", status
    else:
        how, code = f"was killed by {_signal_name(-status)}", 128 - status
        if -status == signal.SIGKILL:
            how += " (out of memory?)"
    index, size = watch.ranks.index(failed), len(watch.ranks)
    who = f"rank {index} of {size}" if size > 1 else "the program"
    words = last_words(failed.streams[-1].tail)
    wrote = f"; the end of its stderr:\n\n{words}\n" if words else "; it wrote nothing to stderr"
    watch.say(f"{who} {how} after {time.monotonic() - watch.started:.1f} s{wrote}")
    return code


def flush(watch: Watch) -> None:
    """Write the rest out, however slow the reader; a signal ends the waiting."""
    watch.stops.clear()
    while any(outlet.waiting for outlet in watch.outlets.values()) and not watch.stops:
        watch.relay(None)


@contextlib.contextmanager
def guarded(watch: Watch) -> Iterator[Callable[[int], None]]:
    """A warden beside the job, which is told the pid of each rank; nothing is left of either."""
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(warden.__file__).resolve()), watch.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        bufsize=0,
        start_new_session=True,
    )
    pipe = guard.stdin
    assert pipe is not None

    def announce(pid: int) -> None:
        with contextlib.suppress(BrokenPipeError):
            pipe.write(f"{pid}\n".encode())

    try:
        yield announce
    finally:
        end(watch)
        pipe.close()
        try:
            guard.wait(timeout=_GUARD_S)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()


@contextlib.contextmanager
def signals() -> Iterator[tuple[int, list[int]]]:
    """A descriptor that becomes readable at a signal, and the list of those that say stop."""
    caught: list[int] = []
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    # What nohup or a shell's & has made deaf stays deaf.
    stops = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    stops = [number for number in stops if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.getsignal(number) for number in (*stops, signal.SIGCHLD)}
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in stops:
        signal.signal(number, lambda number, _: caught.append(number))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        yield reader, caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous)
        os.close(reader)
        os.close(writer)


def _collect(ranks: Sequence[Rank]) -> list[int]:
    """Note which ranks have ended; returns those still running.

    They are left as zombies until the end of the job, so that their process groups, which
    grandchildren may still be in, keep their numbers.
    """
    for rank in ranks:
        if rank.status is None:
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            ended = os.waitid(os.P_PID, rank.process.pid, flags)
            if ended is not None:
                normal = ended.si_code == os.CLD_EXITED
                rank.status = ended.si_status if normal else -ended.si_status
    return [index for index, rank in enumerate(ranks) if rank.status is None]


def _has_failed(rank: Rank) -> bool:
    return rank.status not in (None, 0)


def _blame(rank: Rank) -> bool:
    """Of ranks seen failing at once, one that crashed is the likelier cause."""
    return rank.status is not None and rank.status > 0


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return f"signal {number} ({signal.Signals(number).name})"
    return f"signal {number}"
