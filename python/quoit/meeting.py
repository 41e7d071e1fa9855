"""One rank tells the other ranks of its host a short text, with nothing agreed beforehand.

The ranks meet at an abstract Unix socket named after the job: it leaves no file behind and is gone
with the process that opened it. Nobody is answered before all have come, so a meeting takes place
for all ranks or for none, and a job may meet again and again under the same name.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import selectors
import socket
import struct
import time
from dataclasses import dataclass
from typing import NoReturn

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_RANK = struct.Struct("!II")  # of how many
_TOKEN_BYTES = 16
_LONGEST_TEXT = 65536
_AGREED, _TWICE, _GAVE_UP, _DISAGREED = b"+", b"2", b"-", b"!"


@dataclass(frozen=True)
class Place:
    """Where a rank stands in a job; job must be shared by its ranks and by no other job."""

    job: str
    rank: int
    size: int

    @property
    def name(self) -> bytes:
        """The address of the meeting point; the leading null makes it abstract."""
        digest = hashlib.blake2b(self.job.encode(), digest_size=16, person=b"quoit-name")
        return f"\0quoit/{os.geteuid()}/{digest.hexdigest()}".encode()

    @property
    def token(self) -> bytes:
        """What a rank of the job says first, so that a stranger is told from one of us."""
        return hashlib.blake2b(
            self.job.encode(), digest_size=_TOKEN_BYTES, person=b"quoit-token"
        ).digest()


def tell_host(place: Place, text: str, timeout_s: float) -> str:
    """Rank 0's text, given to every rank of the job; all of them run on this host.

    Each rank calls it once per meeting; the `text` of other ranks is ignored. Raises TimeoutError
    naming the missing ranks, and RuntimeError when another user or process holds the name or a
    rank, or when ranks say different sizes.
    """
    if place.size == 1:
        return text
    if place.rank == 0:
        _Host(place, timeout_s).tell(text)
        return text
    return _ask(place, timeout_s)


class _Host:
    """Rank 0's side: gathers one connection from each other rank, then answers them all."""

    def __init__(self, place: Place, timeout_s: float) -> None:
        self.place = place
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.selector = selectors.DefaultSelector()
        self.came: dict[int, socket.socket] = {}

    def tell(self, text: str) -> None:
        try:
            with self._open() as listener:
                while len(self.came) < self.place.size - 1:
                    if time.monotonic() >= self.deadline:
                        self._give_up()
                    self._serve_once(listener)
            # The name is free again: who is answered now can only come back to the next meeting.
            for connection in self.came.values():
                _send(connection, _AGREED + text.encode())
        finally:
            for key in list(self.selector.get_map().values()):
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()
            self.selector.close()

    def _open(self) -> socket.socket:
        listener = _socket()
        try:
            listener.bind(self.place.name)
        except OSError as error:
            listener.close()
            raise RuntimeError(
                f"{_who(self.place)}: the meeting point of job {self.place.job!r} is taken "
                f"({error.strerror}). Is another process of this job acting as rank 0, for "
                "instance one that rank 0 started and that inherited its environment?"
            ) from error
        listener.listen(max(128, self.place.size))
        listener.setblocking(False)
        self.selector.register(listener, selectors.EVENT_READ)
        return listener

    def _serve_once(self, listener: socket.socket) -> None:
        for key, _ in self.selector.select(max(0.0, self.deadline - time.monotonic())):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            if connection is listener:
                self._accept(listener)
            else:
                self._hear(connection)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # it left before we opened the door
        connection.setblocking(False)
        if _uid_of_peer(connection) == os.geteuid():
            self.selector.register(connection, selectors.EVENT_READ)
        else:
            connection.close()

    def _hear(self, connection: socket.socket) -> None:
        try:
            message = connection.recv(_TOKEN_BYTES + _RANK.size + 1)
        except OSError:
            message = b""
        token, number = message[:_TOKEN_BYTES], message[_TOKEN_BYTES:]
        if len(number) != _RANK.size or not hmac.compare_digest(token, self.place.token):
            self._dismiss(connection)  # a stranger, or a rank that no longer waits
            return
        rank, size = _RANK.unpack(number)
        if size != self.place.size:
            self._disagree(rank, size)
        if not 0 < rank < self.place.size or rank in self.came:
            _send(connection, _TWICE)
            self._dismiss(connection)
            return
        self.came[rank] = connection

    def _dismiss(self, connection: socket.socket) -> None:
        self.came = {rank: other for rank, other in self.came.items() if other is not connection}
        self.selector.unregister(connection)
        connection.close()

    def _disagree(self, rank: int, size: int) -> NoReturn:
        problem = (
            f"rank 0 of job {self.place.job!r} says that there are {self.place.size} ranks, rank "
            f"{rank} says {size}: was WORLD_SIZE changed for some of them?"
        )
        self._tell_all(_DISAGREED, problem)
        raise RuntimeError(f"{_who(self.place)}: {problem}")

    def _tell_all(self, what: bytes, problem: str) -> None:
        for key in list(self.selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                _send(key.fileobj, what + problem.encode())

    def _give_up(self) -> NoReturn:
        missing = [rank for rank in range(1, self.place.size) if rank not in self.came]
        ranks = f"rank{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
        problem = (
            f"{ranks} of {self.place.size} did not come to the meeting point within "
            f"{self.timeout_s:g} s. Did every rank call init_process_group, and is it alive?"
        )
        self._tell_all(_GAVE_UP, problem)
        raise TimeoutError(f"{_who(self.place)}: {problem}")


def _ask(place: Place, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    pause, met = 0.001, False
    while (left := deadline - time.monotonic()) > 0:
        with _socket() as connection:
            connection.settimeout(left)
            try:
                connection.connect(place.name)
                _check_host(connection, place)
                connection.send(place.token + _RANK.pack(place.rank, place.size))
                met = True
                answer = connection.recv(_LONGEST_TEXT)
            except (ConnectionError, BlockingIOError):
                answer, met = b"", False  # not open yet, or rank 0 has gone
            except TimeoutError:
                break
        if answer:
            return _read_answer(answer, place)
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(2 * pause, 0.05)
    if met:
        raise TimeoutError(
            f"{_who(place)}: rank 0 is there, but other ranks did not come to the meeting point "
            f"within {timeout_s:g} s: rank 0's error names them."
        )
    raise TimeoutError(
        f"{_who(place)}: rank 0 did not open the meeting point within {timeout_s:g} s: is it "
        "alive, did it call init_process_group?"
    )


def _read_answer(answer: bytes, place: Place) -> str:
    text = answer[1:].decode()
    if answer[:1] == _AGREED:
        return text
    if answer[:1] == _TWICE:
        raise RuntimeError(
            f"{_who(place)}: two processes of job {place.job!r} act as rank {place.rank} of "
            f"{place.size}. Did a rank start a process that inherited its environment?"
        )
    kind = RuntimeError if answer[:1] == _DISAGREED else TimeoutError
    raise kind(f"{_who(place)}: {text}")


def _check_host(connection: socket.socket, place: Place) -> None:
    uid = _uid_of_peer(connection)
    if uid != os.geteuid():
        raise RuntimeError(
            f"{_who(place)}: user {uid} holds the meeting point of job {place.job!r}, and this "
            f"process runs as user {os.geteuid()}. Run all ranks as one user."
        )


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _uid_of_peer(connection: socket.socket) -> int:
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(packed)[1])


def _send(connection: socket.socket, message: bytes) -> None:
    with contextlib.suppress(OSError):  # that rank may have gone; its own error says why
        connection.send(message)


def _who(place: Place) -> str:
    return f"[quoit rank {place.rank} on {socket.gethostname()}]"
