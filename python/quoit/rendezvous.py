"""How ranks find each other when nobody exported MASTER_ADDR.

`install` teaches torch's own `env://`, the default of `init_process_group`, to ask the launcher
(mpirun, srun, `quoit run`) when MASTER_ADDR is missing. Any backend can then be used under mpirun.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import secrets
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlparse

from quoit.interfaces import own_hosts
from quoit.launch import Launch, LaunchError, detect, find_mpi_library
from quoit.meeting import Place, tell_host

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store, TCPStore  # torch.distributed's, as mypy sees it

    Handler = Callable[..., Iterator[tuple[Store, int, int]]]

_SCHEME = "env"
_KEY = "quoit/meeting"
_PROBE_S = 3.0  # for one of rank 0's addresses to answer; a dead route swallows packets silently
_BY_HAND = (
    "export MASTER_ADDR (a name or address of rank 0's host) and MASTER_PORT (a free port there) "
    "for all ranks, or start with torchrun"
)


def install() -> None:
    """Make `init_process_group(...)` work under mpirun, srun and `quoit run`; needs torch.

    torch's own handler keeps everything else: whenever MASTER_ADDR is set, and wherever no such
    launcher is found. A second call changes nothing. Where this torch does not let itself be
    taught, a warning says what to export, if it matters to this process.
    """
    try:
        rendezvous = importlib.import_module("torch.distributed.rendezvous")
        original = rendezvous._rendezvous_handlers[_SCHEME]
        if not isinstance(original, _AskLauncher):
            rendezvous._rendezvous_handlers[_SCHEME] = _AskLauncher(original)
    except (ImportError, AttributeError, KeyError, TypeError) as error:
        with contextlib.suppress(LaunchError):
            if _meets_here(""):
                warnings.warn(
                    "this torch.distributed cannot be taught to meet under a launcher "
                    f"({error!r}): {_BY_HAND}.",
                    RuntimeWarning,
                    stacklevel=2,
                )


def meet(launch: Launch, timeout: timedelta) -> Store:
    """The store that the ranks of the launcher's job share; every rank calls it, in step.

    Ranks of one host meet by themselves; ranks of several hosts through the launcher's MPI. Raises
    TimeoutError when a rank does not come within the timeout.
    """
    if launch.one_host and launch.job:
        return _meet_on_host(launch, timeout)
    library = find_mpi_library(launch)
    if library is None:
        raise LaunchError(
            f"the {launch.size} ranks of this job ({launch.launcher}) are not known to share a "
            f"host, and no MPI library was found to connect them: {_BY_HAND}. If the job has an "
            "MPI, set QUOIT_MPI_LIBRARY to its libmpi."
        )
    core = importlib.import_module("quoit._core")

    def all_gather(text: str) -> list[str]:
        gathered: list[str] = core.mpi_all_gather_strings(
            library, text, expected_size=launch.size, timeout=timeout.total_seconds()
        )
        _end_mpi_at_exit(core)
        return gathered

    return meet_across_hosts(launch, timeout, all_gather)


def meet_across_hosts(
    launch: Launch, timeout: timedelta, all_gather: Callable[[str], list[str]]
) -> Store:
    """As `meet`, for ranks that can so far only gather one string from each rank, in rank order."""
    if launch.rank == 0:
        try:
            hosts, token = _own_hosts(), secrets.token_hex(16)
            # It listens on every address of this host; a rank tries which one it can reach.
            server = _store(launch, "localhost", 0, timeout, is_master=True)
            server.set(_KEY, token)
        except Exception as error:
            all_gather(json.dumps({"error": str(error)}))  # or the others would wait for us
            raise
        all_gather(json.dumps({"port": server.port, "token": token, "hosts": hosts}))
        return server
    offer = json.loads(all_gather("")[0])
    if "error" in offer:
        raise LaunchError(
            f"rank 0 cannot open a store for the job: {offer['error']} (see rank 0's own error)"
        )
    return _connect(launch, timeout, offer)


@dataclass(frozen=True)
class _AskLauncher:
    """The handler of env:// in torch's table; `original` is torch's own."""

    original: Handler

    def __call__(self, url: str, **options: Any) -> Iterator[tuple[Store, int, int]]:
        launch = _meets_here(url)
        if launch is None:
            yield from self.original(url, **options)
            return
        store = meet(launch, options.get("timeout", timedelta(minutes=30)))
        yield store, launch.rank, launch.size
        raise RuntimeError("env:// meets once for each init_process_group: call that again")


def _meets_here(url: str) -> Launch | None:
    """The launch whose ranks meet by our means when init_process_group is given this url."""
    # `quoit run` sets MASTER_ADDR too, for scripts that do not import quoit.
    if os.environ.get("MASTER_ADDR") and "QUOIT_JOB" not in os.environ:
        return None
    launch = detect()
    if launch is None or launch.launcher not in ("mpich", "openmpi", "slurm", "quoit"):
        return None
    query = parse_qs(urlparse(url).query)
    rank, size = (query.get(name, [""])[0] for name in ("rank", "world_size"))
    # Other numbers than the launcher's make a group that only the caller knows.
    ours = rank in ("", "-1", str(launch.rank)) and size in ("", "-1", str(launch.size))
    return launch if ours else None


def _meet_on_host(launch: Launch, timeout: timedelta) -> Store:
    place = Place(launch.job, launch.rank, launch.size)
    if launch.rank == 0:
        # TCPStore itself would listen on every address; nobody outside this host has business here.
        with socket.create_server(("127.0.0.1", 0), backlog=max(128, launch.size)) as listener:
            port = listener.getsockname()[1]
            own = {"is_master": True, "master_listen_fd": listener.detach()}
            store = _store(launch, "127.0.0.1", port, timeout, **own)
        tell_host(place, str(port), timeout.total_seconds())
        return store
    port = int(tell_host(place, "", timeout.total_seconds()))
    return _store(launch, "127.0.0.1", port, timeout)


def _store(
    launch: Launch, host: str, port: int, timeout: timedelta, **server: bool | int
) -> TCPStore:
    """As torch's own env:// makes its store, except that the meeting has counted the ranks."""
    store: TCPStore = importlib.import_module("torch.distributed").TCPStore(
        host,
        port,
        world_size=launch.size,
        timeout=timeout,
        wait_for_workers=False,
        multi_tenant=True,
        **{"is_master": False, **server},
    )
    return store


@cache
def _end_mpi_at_exit(core: ModuleType) -> None:
    """Registered once, before any group exists, so that it runs after they have been left."""

    def finalize() -> None:
        # A program that ends by an exception must not wait for ranks that may be waiting for it.
        if not hasattr(sys, "last_value"):
            core.mpi_finalize()

    atexit.register(finalize)


def _own_hosts() -> list[str]:
    """Addresses of this host, and its name, in the order in which others should try them."""
    hosts = own_hosts()
    if len(hosts) == 1:
        raise LaunchError(
            f"rank 0's host {socket.gethostname()} has no address that another host can reach "
            f"(QUOIT_IFACE={os.environ.get('QUOIT_IFACE', '')!r}): check `ip address`, or "
            f"{_BY_HAND}."
        )
    return hosts


def _connect(launch: Launch, timeout: timedelta, offer: dict[str, Any]) -> Store:
    deadline = time.monotonic() + timeout.total_seconds()
    failures: dict[str, str] = {}
    while True:
        for host in offer["hosts"]:
            left = deadline - time.monotonic()
            if left <= 0:
                tried = "; ".join(f"{name}: {why}" for name, why in failures.items())
                raise TimeoutError(
                    f"[quoit rank {launch.rank} on {socket.gethostname()}] rank 0's store on "
                    f"{offer['hosts'][-1]}, port {offer['port']}, was not reached within "
                    f"{timeout.total_seconds():g} s ({tried}). Is a firewall in between? Set "
                    "QUOIT_IFACE to the interface that joins the hosts, on rank 0's host."
                )
            try:
                return _connect_to(host, launch, timeout, offer, min(left, _PROBE_S))
            except (OSError, RuntimeError) as error:  # torch's network errors are RuntimeErrors
                failures[host] = str(error).splitlines()[0] if str(error) else repr(error)
        time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))


def _connect_to(
    host: str, launch: Launch, timeout: timedelta, offer: dict[str, Any], patience_s: float
) -> TCPStore:
    # An address such as a container bridge's may exist on both hosts: probe, then ask for the
    # token, so that neither silence nor somebody else's server is taken for rank 0.
    socket.create_connection((host, offer["port"]), timeout=patience_s).close()
    store = _store(launch, host, offer["port"], timedelta(seconds=patience_s))
    if store.get(_KEY) != offer["token"].encode():
        raise ConnectionError("another job's store answers there")
    store.set_timeout(timeout)
    return store
