"""Carries the output of several processes to the launcher's own, line by line where it matters."""

from __future__ import annotations

import os
import re
import select
from collections.abc import Sequence
from typing import IO

_PIPE_BUF = 4096  # what a pipe that polls writable takes without blocking
_FULL = 1 << 20
_TAIL = 64 << 10
_LONGEST_LINE = 64 << 10
_LINE_BREAK = re.compile(rb"\n(?!\Z)|\r(?!\n|\Z)")  # one that another line follows


class Outlet:
    """Bytes on their way to a file descriptor that may be slow, or gone."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.waiting = bytearray()
        self.gone = False

    @property
    def full(self) -> bool:
        """Whether to stop reading what goes here until some of it is written."""
        return len(self.waiting) >= _FULL

    def put(self, data: bytes) -> None:
        if not self.gone:
            self.waiting += data

    def write_some(self) -> None:
        """Write what a descriptor that polls writable takes; its reader may have gone."""
        try:
            del self.waiting[: os.write(self.fd, self.waiting[:_PIPE_BUF])]
        except BlockingIOError:
            return  # the other end of this open file made it non-blocking
        except OSError:
            self.gone = True
            self.waiting.clear()


class Stream:
    """One output of one rank, read from a pipe and passed on to an outlet.

    Whole lines are passed on, each behind the prefix, so that those of several ranks do not mix;
    with prefix None, bytes as they come. The last 64 KiB are kept for the report on a failure.
    """

    def __init__(self, pipe: IO[bytes], outlet: Outlet, prefix: bytes | None) -> None:
        self.fd = pipe.fileno()
        os.set_blocking(self.fd, False)
        self._pipe = pipe
        self.outlet = outlet
        self.prefix = prefix
        self.open = True
        self.tail = b""
        self._line = b""

    def read_some(self) -> None:
        try:
            data = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.tail = (self.tail + data)[-_TAIL:]
        if self.prefix is None:
            self.outlet.put(data)
            return
        self._line += data
        # A last carriage return waits: the next read may bring its line feed.
        end = 1 + max(self._line.rfind(b"\n"), self._line.rfind(b"\r", 0, -1))
        if end:
            inner = _LINE_BREAK.sub(rb"\g<0>" + self.prefix, self._line[:end])
            self.outlet.put(self.prefix + inner)
            self._line = self._line[end:]
        if len(self._line) > _LONGEST_LINE:
            self._end_line()

    def close(self) -> None:
        if self.open:
            self.open = False
            self._pipe.close()
            self._end_line()

    def _end_line(self) -> None:
        if self._line and self.prefix is not None:
            ended = self._line.endswith(b"\r")
            self.outlet.put(self.prefix + self._line + (b"" if ended else b"\n"))
        self._line = b""


def relay(
    streams: Sequence[Stream], outlets: Sequence[Outlet], wake: int, timeout_s: float | None
) -> None:
    """Pass on what is ready; returns after some was, after a byte on `wake`, or at the timeout."""
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    readers = {stream.fd: stream for stream in streams if stream.open and not stream.outlet.full}
    writers = {outlet.fd: outlet for outlet in outlets if outlet.waiting}
    for fd in readers:
        poll.register(fd, select.POLLIN)
    for fd in writers:
        poll.register(fd, select.POLLOUT)
    for fd, _ in poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000) + 1)):
        if fd == wake:
            os.read(wake, 4096)
        elif fd in readers:
            readers[fd].read_some()
        else:
            writers[fd].write_some()


def last_words(tail: bytes, lines: int = 100) -> str:
    """What is worth repeating of a failed rank's error output: the traceback, or the last lines."""
    text = tail.decode(errors="replace").replace("\r\n", "\n")
    # Of a progress bar, only what its last carriage return left on the screen.
    shown = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")][-lines:]
    starts = ("Traceback (most recent call last)", "Fatal Python error")
    first = next((i for i, line in enumerate(shown) if line.startswith(starts)), -20)
    return "\n".join(shown[first:]).strip("\n")
