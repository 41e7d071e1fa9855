"""Several hosts on one machine: network namespaces on a bridge, each with a limited link.

For tests and benchmarks of what happens between hosts. Needs root (CAP_NET_ADMIN and
CAP_SYS_ADMIN) and the programs `ip`, `unshare` and, for a rate, `tc`. Every host has its own name,
network and /dev/shm, so that ranks on different ones share no memory.

    with Cluster(2, rate="1gbit") as cluster:
        ranks = [cluster.start(host, [sys.executable, "program.py"]) for host in range(2)]
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

_BURST = "512kb"  # what a link takes at once beyond its rate
_QUEUE = "20ms"  # the longest that a packet waits in a link's queue
# A host of its own in more than the network: a name, and a /dev/shm.
_ENTER = 'hostname "$0" && mount -t tmpfs tmpfs /dev/shm && exec "$@"'
# Called as ssh is: options, a host, a command for its shell.
_SSH = f"""#!/bin/sh
while case "$1" in -*) true ;; *) false ;; esac; do shift; done
host=$1
shift
exec ip netns exec "$host" unshare --uts --mount sh -c '{_ENTER}' "$host" sh -c "$*"
"""


class Cluster:
    """Hosts 0, 1, ... joined by a bridge; a context manager that takes everything down again.

    hosts: how many, 1 to 200. rate: of each host's link in each direction, as tc writes it
    ("1gbit"); None leaves it as fast as the machine is. Raises RuntimeError with what is missing
    when the hosts cannot be made.
    """

    def __init__(self, hosts: int, rate: str | None = None) -> None:
        if not 1 <= hosts <= 200:
            raise ValueError(f"a cluster of {hosts} hosts: choose 1 to 200")
        self.size = hosts
        self.rate = rate
        self._key = secrets.token_hex(3)
        self._subnet = f"10.77.{secrets.randbelow(250)}"
        self._processes: list[subprocess.Popen[str]] = []

    @staticmethod
    def missing(rate: str | None = None) -> str:
        """Why there can be no cluster here, or nothing."""
        if os.geteuid() != 0:
            return "network namespaces need root"
        programs = ["ip", "unshare", *(["tc"] if rate else [])]
        absent = [name for name in programs if shutil.which(name) is None]
        return f"not installed: {', '.join(absent)}" if absent else ""

    def name(self, host: int) -> str:
        """The host's name, and its namespace's."""
        return f"quoit{self._key}{host}"

    def address(self, host: int) -> str:
        """The host's IPv4 address, at which the others reach it."""
        return f"{self._subnet}.{host + 1}"

    @property
    def bridge(self) -> str:
        """The interface on which this machine itself sees the hosts, at address .254."""
        return f"quoit{self._key}"

    def start(
        self,
        host: int,
        arguments: Sequence[str],
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[str]:
        """A process on a host; options are Popen's. It is killed when the cluster is left."""
        process = subprocess.Popen(
            [*self.command(host), *arguments],
            env={**os.environ, **(env or {})},
            text=True,
            start_new_session=True,
            **options,
        )
        self._processes.append(process)
        return process

    def command(self, host: int) -> list[str]:
        """What to put in front of a command to run it on a host."""
        inside = f"ip netns exec {self.name(host)} unshare --uts --mount sh -c"
        return [*inside.split(), _ENTER, self.name(host)]

    def write_ssh(self, program: Path) -> None:
        """Writes a program that stands in for ssh between the hosts, for an mpirun to call.

        PROGRAM [options] HOST COMMAND... runs the command on the host of that name. Options that
        take an argument of their own are not understood.
        """
        program.write_text(_SSH)
        program.chmod(0o755)

    def cut(self, host: int) -> None:
        """Cuts the host off: nothing reaches it and nothing leaves it."""
        _do(f"ip link set {self._port(host)} down")

    def __enter__(self) -> Cluster:
        if why := self.missing(self.rate):
            raise RuntimeError(f"a cluster of network namespaces cannot be made here: {why}")
        try:
            _do(f"ip link add {self.bridge} type bridge")
            _do(f"ip addr add {self._subnet}.254/24 dev {self.bridge}")
            _do(f"ip link set {self.bridge} up")
            for host in range(self.size):
                self._make(host)
        except BaseException:
            self._take_down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._take_down()

    def _port(self, host: int) -> str:
        return f"qv{self._key}{host}"

    def _make(self, host: int) -> None:
        name, port = self.name(host), self._port(host)
        _do(f"ip netns add {name}")
        _do(f"ip link add {port} type veth peer name eth0 netns {name}")
        _do(f"ip link set {port} master {self.bridge} up")
        _do(f"ip -n {name} addr add {self.address(host)}/24 dev eth0")
        _do(f"ip -n {name} link set eth0 up")
        _do(f"ip -n {name} link set lo up")
        if self.rate:
            # Both directions: what leaves the host, and what the bridge sends to it.
            shape = f"root tbf rate {self.rate} burst {_BURST} latency {_QUEUE}"
            _do(f"tc -n {name} qdisc add dev eth0 {shape}")
            _do(f"tc qdisc add dev {port} {shape}")

    def _take_down(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for host in range(self.size):
            _try(f"ip netns del {self.name(host)}")
        _try(f"ip link del {self.bridge}")


def _do(command: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stderr.strip() or done.stdout.strip()}")


def _try(command: str) -> None:
    """For taking down, where what was never made is not missed."""
    subprocess.run(command.split(), capture_output=True)
