"""How ranks tell each other short texts before there is a group, whoever started them.

Unlike a group of quoit, a gathering survives ranks that fail, as `quoit doctor` must: every
exchange has a topic and a deadline, so a rank that gave one up takes part in the next.
"""

from __future__ import annotations

import contextlib
import hmac
import importlib
import itertools
import json
import secrets
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Any, Protocol

from quoit import backend
from quoit.interfaces import own_hosts
from quoit.launch import Launch, LaunchError, detect, find_mpi_library
from quoit.meeting import Place, tell_host

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_WELCOME = b"quoit\n"
_PROBE_S = 3.0
_POLL_S = 0.05  # how soon rank 0 may go
_SLACK_S = 5.0  # for an answer that says who was missing
_NUMBERS = itertools.count()  # of gatherings at stores, which outlive them; alike on all ranks


class Gather(Protocol):
    """What a rank holds of the gathering."""

    def __call__(self, topic: str, text: str, timeout_s: float) -> list[str]:
        """Everybody's text on a topic, by rank; TimeoutError names the ranks that did not come."""

    def leave(self) -> None:
        """The last call. Rank 0 waits a moment for the others to have got their answers."""


def meet(launch: Launch, timeout_s: float) -> Gather:
    """A gathering of the launcher's ranks; every rank calls it. Raises when they cannot meet."""
    if launch.one_host and launch.job:
        place = Place(f"gathering-{launch.job}", launch.rank, launch.size)
        return _at_rank_0(launch, "127.0.0.1", lambda text: tell_host(place, text, timeout_s))
    library = find_mpi_library(launch)
    if library is not None:
        core = importlib.import_module("quoit._core")
        backend.end_in_order()

        def tell(text: str) -> str:
            said: list[str] = core.mpi_all_gather_strings(
                library, text, expected_size=launch.size, timeout=timeout_s
            )
            return said[0]

        return _at_rank_0(launch, "", tell)
    return _over_torch(launch, timeout_s)


@contextlib.contextmanager
def of_launcher(timeout_s: float) -> Iterator[tuple[int, int, Callable[[str], list[str]]]]:
    """This rank, how many there are, and what gives this rank's text and returns everybody's.

    Every rank that the launcher started enters it; a program that nothing started is alone.
    """
    launch = detect()
    if launch is None or launch.size == 1:
        yield 0, 1, lambda text: [text]
        return
    gather = meet(launch, timeout_s)
    rounds = itertools.count(1)
    try:
        yield (
            launch.rank,
            launch.size,
            lambda text: gather(f"its group, round {next(rounds)},", text, timeout_s),
        )
    finally:
        gather.leave()


class _Desk:
    """Where the texts lie, on rank 0."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._texts: dict[str, dict[int, str]] = {}
        self._changed = threading.Condition()
        self._visitors = 0

    @contextlib.contextmanager
    def visit(self) -> Iterator[None]:
        with self._changed:
            self._visitors += 1
        try:
            yield
        finally:
            with self._changed:
                self._visitors -= 1
                self._changed.notify_all()

    def wait_until_empty(self, timeout_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._visitors == 0, timeout_s)

    def gather(self, topic: str, rank: int, text: str, timeout_s: float) -> list[str]:
        with self._changed:
            said = self._texts.setdefault(topic, {})
            said[rank] = text
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: len(said) == self._size, timeout_s):
                raise TimeoutError(_missing(topic, set(range(self._size)) - said.keys(), timeout_s))
            return [said[rank] for rank in range(self._size)]


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024
    desk: _Desk
    token: str


class _Clerk(socketserver.StreamRequestHandler):
    """Serves one rank: a line with the token, then a line for each exchange, answered by one."""

    def handle(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        self.request.settimeout(_PROBE_S)  # a stranger may connect and say nothing
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if not hmac.compare_digest(self.rfile.readline(256).strip(), server.token.encode()):
                return
            self.request.settimeout(None)
            with server.desk.visit():
                self.wfile.write(_WELCOME)
                for line in self.rfile:
                    self.wfile.write(json.dumps(_answer(server.desk, line)).encode() + b"\n")


def _answer(desk: _Desk, line: bytes) -> dict[str, list[str] | str]:
    try:
        return {"texts": desk.gather(**json.loads(line))}
    except TimeoutError as error:
        return {"error": str(error)}


@dataclass(frozen=True)
class _AtDesk:
    """Rank 0."""

    server: _Server

    def __call__(self, topic: str, text: str, timeout_s: float) -> list[str]:
        return self.server.desk.gather(topic, 0, text, timeout_s)

    def leave(self) -> None:
        self.server.desk.wait_until_empty(_SLACK_S)
        self.server.shutdown()
        self.server.server_close()


@dataclass(frozen=True)
class _Visitor:
    """Another rank."""

    rank: int
    connection: socket.socket
    answers: IO[bytes]

    def __call__(self, topic: str, text: str, timeout_s: float) -> list[str]:
        asked = {"topic": topic, "rank": self.rank, "text": text, "timeout_s": timeout_s}
        self.connection.settimeout(timeout_s + _SLACK_S)
        self.connection.sendall(json.dumps(asked).encode() + b"\n")
        answer = json.loads(self.answers.readline() or '{"error": "rank 0 has gone"}')
        if "error" in answer:
            raise TimeoutError(answer["error"])
        texts: list[str] = answer["texts"]
        return texts

    def leave(self) -> None:
        self.answers.close()
        self.connection.close()


@dataclass(frozen=True)
class _AtStore:
    """Any rank, at a store of torch."""

    rank: int
    size: int
    store: Store
    number: int

    def __call__(self, topic: str, text: str, timeout_s: float) -> list[str]:
        keys = self._keys(topic)
        self.store.set(keys[self.rank], text)
        try:
            self.store.wait(keys, timedelta(seconds=timeout_s))
        except RuntimeError as error:
            missing = {rank for rank, key in enumerate(keys) if not self.store.check([key])}
            raise TimeoutError(_missing(topic, missing, timeout_s)) from error
        return [self.store.get(key).decode() for key in keys]

    def leave(self) -> None:
        keys = self._keys("the end")
        with contextlib.suppress(RuntimeError):  # the store may have gone with rank 0
            self.store.set(keys[self.rank], "")
            if self.rank == 0:
                self.store.wait(keys, timedelta(seconds=_SLACK_S))

    def _keys(self, topic: str) -> list[str]:
        return [f"quoit-gathering/{self.number}/{topic}/{rank}" for rank in range(self.size)]


def _at_rank_0(launch: Launch, listen_at: str, tell: Callable[[str], str]) -> Gather:
    """tell: gives every rank what rank 0 says."""
    if launch.rank == 0:
        return _serve(launch, listen_at, tell)
    offer = json.loads(tell(""))
    if "error" in offer:
        raise ConnectionError(f"rank 0 cannot be reached: {offer['error']}")
    connection = _connect(offer)
    return _Visitor(launch.rank, connection, connection.makefile("rb"))


def _serve(launch: Launch, listen_at: str, tell: Callable[[str], str]) -> Gather:
    try:
        server = _Server((listen_at, 0), _Clerk)
        server.desk, server.token = _Desk(launch.size), secrets.token_hex(16)
        threading.Thread(target=server.serve_forever, args=[_POLL_S], daemon=True).start()
        hosts = [listen_at] if listen_at else own_hosts()
    except Exception as error:
        tell(json.dumps({"error": str(error)}))  # or the others would wait for us
        raise
    offer = {"hosts": hosts, "port": server.server_address[1], "token": server.token}
    tell(json.dumps(offer))
    return _AtDesk(server)


def _connect(offer: dict[str, Any]) -> socket.socket:
    failures = []
    for host in offer["hosts"]:
        try:
            connection = socket.create_connection((host, offer["port"]), timeout=_PROBE_S)
            connection.sendall(offer["token"].encode() + b"\n")
            if connection.recv(len(_WELCOME)) == _WELCOME:
                return connection
            connection.close()
            failures.append(f"{host}: somebody else answers")
        except OSError as error:
            failures.append(f"{host}: {error}")
    raise ConnectionError(
        f"rank 0 was not reached at port {offer['port']} ({'; '.join(failures)}). Is a firewall "
        "between the hosts? Set QUOIT_IFACE on rank 0's host to the interface that joins them."
    )


def _over_torch(launch: Launch, timeout_s: float) -> Gather:
    """Through the store of torch's own env://, as init_process_group would use it."""
    try:
        from torch.distributed.rendezvous import rendezvous
    except ImportError as error:
        raise LaunchError(
            f"the {launch.size} ranks of this job ({launch.launcher}) would meet at torch's store, "
            "and torch is not installed: start with mpirun or `quoit run`, or give "
            "quoit.Communicator a rendezvous."
        ) from error
    store, _, _ = next(iter(rendezvous("env://", timeout=timedelta(seconds=timeout_s))))
    return _AtStore(launch.rank, launch.size, store, next(_NUMBERS))


def _missing(topic: str, ranks: set[int], timeout_s: float) -> str:
    names = ", ".join(map(str, sorted(ranks)))
    return (
        f"rank{'s' if len(ranks) > 1 else ''} {names} said nothing about {topic} within "
        f"{timeout_s:g} s"
    )
