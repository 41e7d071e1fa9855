"""Several hosts on one machine: network namespaces on a bridge, each with a limited, slow link.

For tests and benchmarks of what happens between hosts. Needs root (CAP_NET_ADMIN and
CAP_SYS_ADMIN) and the programs `ip`, `unshare` and, for a rate, `tc`. Every host has its own name,
network, IPC and /dev/shm, so that ranks on different ones share no memory.

    with Cluster(2, rate="1gbit", delay="2ms") as cluster:
        ranks = [cluster.start(host, [sys.executable, "program.py"]) for host in range(2)]

Whatever becomes of this process, nothing of the cluster stays: a keeper takes it down, and the next
cluster takes down those whose keeper was killed too.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from quoit import cluster_delay, cluster_keeper, units

_QUEUE_PACKETS = 100_000  # room for all that is on a slow link
_READY_S = 20.0
_END_S = 20.0
_MACHINE = 254  # the last number of this machine's own address among the hosts
# A host of its own in more than the network: a name, a /dev/shm, and IPC: by its namespace UCX, and
# so MPICH, knows whether two ranks are on one host and may share memory.
_ENTER = 'hostname "$0" && mount -t tmpfs tmpfs /dev/shm && exec "$@"'
# Called as ssh is: options, a host, a command for its shell.
_SSH = f"""#!/bin/sh
while case "$1" in -*) true ;; *) false ;; esac; do shift; done
host=$1
shift
exec ip netns exec "$host" unshare --uts --mount --ipc sh -c '{_ENTER}' "$host" sh -c "$*"
"""


class Cluster:
    """Hosts 0, 1, ... joined by a bridge; a context manager that takes everything down again.

    hosts: how many, 1 to 200. rate: of each host's link in each direction ("1gbit"); None leaves it
    as fast as the machine is. delay: how long a packet takes from one host to another, one way
    ("2ms"), so a round trip takes twice that. It is the kernel's netem that holds packets up, or,
    where there is none, a switch of ours on TAP devices. Raises RuntimeError with what is missing
    when the hosts cannot be made, and ValueError for a rate or delay that cannot be read.
    """

    def __init__(self, hosts: int, rate: str | None = None, delay: str | None = None) -> None:
        if not 1 <= hosts <= 200:
            raise ValueError(f"a cluster of {hosts} hosts: choose 1 to 200")
        self.size = hosts
        self.rate = rate
        self.delay = delay
        self._bytes_per_s = units.bytes_per_second(rate) if rate else 0.0
        self._delay_s = units.seconds(delay) if delay else 0.0
        self._key = secrets.token_hex(3)
        self._subnet = "10.77.0"
        self._netem = False
        self._lock: int | None = None
        self._keeper: subprocess.Popen[str] | None = None
        self._switch: subprocess.Popen[str] | None = None
        self._processes: list[subprocess.Popen[str]] = []

    @staticmethod
    def missing(rate: str | None = None, delay: str | None = None) -> str:
        """Why there can be no cluster here, or nothing."""
        if os.geteuid() != 0:
            return "network namespaces need root"
        programs = ["ip", "unshare", *(["tc"] if rate or delay else [])]
        absent = [name for name in programs if shutil.which(name) is None]
        return f"not installed: {', '.join(absent)}" if absent else ""

    def name(self, host: int) -> str:
        """The host's name, and its namespace's."""
        return f"{self.bridge}{host}"

    def address(self, host: int) -> str:
        """The host's IPv4 address, at which the others reach it."""
        return f"{self._subnet}.{host + 1}"

    @property
    def bridge(self) -> str:
        """The interface on which this machine itself sees the hosts, at address .254."""
        return f"quoit{self._key}"

    @property
    def delayed_by(self) -> str:
        """What holds packets up: "netem", "switch" (ours), or nothing."""
        return "switch" if self._switch else "netem" if self._netem else ""

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
        inside = f"ip netns exec {self.name(host)} unshare --uts --mount --ipc sh -c"
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
        if self._switch:
            assert self._switch.stdin is not None
            self._switch.stdin.write(f"cut {host}\n")
            self._switch.stdin.flush()
        else:
            _do(f"ip link set {self._port(host)} down")

    def __enter__(self) -> Cluster:
        if why := self.missing(self.rate, self.delay):
            raise RuntimeError(f"a cluster of network namespaces cannot be made here: {why}")
        cluster_keeper.take_down_abandoned()
        try:
            self._subnet = _free_subnet()
            self._lock = cluster_keeper.lock(self._key)
            self._keeper = _program(cluster_keeper, [self._key], pass_fds=[self._lock])
            for host in range(self.size):
                _do(f"ip netns add {self.name(host)}")
            self._netem = self._delay_s > 0 and _has_netem(self.name(0))
            if self._delay_s > 0 and not self._netem:
                self._make_switch()
            else:
                self._make_bridge()
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
        silent = self._switch is not None and self._switch.poll() is not None
        self._take_down()
        if silent and kind is None:
            raise RuntimeError("the switch between the cluster's hosts ended before them")

    def _port(self, host: int) -> str:
        return f"qv{self._key}{host}"

    def _make_bridge(self) -> None:
        _do(f"ip link add {self.bridge} type bridge")
        self._make_machine()
        for host in range(self.size):
            name, port = self.name(host), self._port(host)
            _do(f"ip link add {port} type veth peer name eth0 netns {name}")
            _do(f"ip link set {port} master {self.bridge} up")
            self._make_host(host)
            # Both directions: what leaves the host, and what the bridge sends to it.
            parent = "root"
            if self._netem:
                late = f"netem delay {self._delay_s * 1e6:.0f}us limit {_QUEUE_PACKETS}"
                _do(f"tc -n {name} qdisc add dev eth0 root handle 1: {late}")
                parent = "parent 1:1"
            if self.rate:
                _do(f"tc -n {name} qdisc add dev eth0 {parent} {self._shape}")
                _do(f"tc qdisc add dev {port} root {self._shape}")

    def _make_switch(self) -> None:
        hosts = [*map(str, range(self.size)), str(_MACHINE)]
        arguments = [str(self._delay_s), str(self._bytes_per_s), f"qv{self._key}", *hosts]
        self._switch = _program(
            cluster_delay, arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        _wait_until_ready(self._switch)
        _do(f"ip link set {self._port(_MACHINE)} name {self.bridge} address {_mac(_MACHINE)}")
        self._make_machine()
        for host in range(self.size):
            name, port = self.name(host), self._port(host)
            _do(f"ip link set {port} netns {name}")
            _do(
                f"ip -n {name} link set {port} name eth0 address {_mac(host)} "
                f"txqueuelen {_QUEUE_PACKETS}"
            )
            self._make_host(host)
            if self.rate:  # the switch limits the other direction
                _do(f"tc -n {name} qdisc add dev eth0 root {self._shape}")

    def _make_machine(self) -> None:
        _do(f"ip addr add {self._subnet}.{_MACHINE}/24 dev {self.bridge}")
        _do(f"ip link set {self.bridge} up")

    def _make_host(self, host: int) -> None:
        name = self.name(host)
        _do(f"ip -n {name} addr add {self.address(host)}/24 dev eth0")
        _do(f"ip -n {name} link set eth0 up")
        _do(f"ip -n {name} link set lo up")

    @property
    def _shape(self) -> str:
        rate = f"{8 * self._bytes_per_s:.0f}bit"
        wait = f"{cluster_delay.QUEUE_S * 1e3:.0f}ms"
        burst = cluster_delay.burst(self._bytes_per_s)
        return f"tbf rate {rate} burst {burst} latency {wait}"

    def _take_down(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        cluster_keeper.take_down(self._key)
        for helper in (self._switch, self._keeper):
            if helper:
                _end(helper)
        self._switch = self._keeper = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _program(module: Any, arguments: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """A helper that ends with its input: when we close it, or are gone."""
    path = str(Path(module.__file__).resolve())
    return subprocess.Popen(
        [sys.executable, "-I", "-S", path, *arguments],
        stdin=subprocess.PIPE,
        cwd="/",
        text=True,
        start_new_session=True,
        **options,
    )


def _end(helper: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError):
        assert helper.stdin is not None
        helper.stdin.close()
    try:
        helper.wait(_END_S)
    except subprocess.TimeoutExpired:
        helper.kill()
        helper.wait()
    for pipe in (helper.stdout, helper.stderr):
        if pipe:
            pipe.close()


def _wait_until_ready(switch: subprocess.Popen[str]) -> None:
    assert switch.stdout is not None
    assert switch.stderr is not None
    if switch.stdout.readline() != "ready\n":
        words = switch.stderr.read().strip().splitlines()[-1:]
        raise RuntimeError(
            "a cluster with a delay needs the kernel's netem or TAP devices, and there is neither: "
            f"{''.join(words)}"
        )


def _has_netem(namespace: str) -> bool:
    probe = f"tc -n {namespace} qdisc add dev lo root netem delay 1ms"
    if subprocess.run(probe.split(), capture_output=True).returncode != 0:
        return False
    _do(f"tc -n {namespace} qdisc del dev lo root")
    return True


def _free_subnet() -> str:
    taken = subprocess.run(["ip", "-o", "-4", "addr"], capture_output=True, text=True).stdout
    free = [net for net in (f"10.77.{n}" for n in range(256)) if f" {net}." not in taken]
    if not free:
        raise RuntimeError("a cluster needs a network 10.77.N.0/24, and all of them are in use")
    return secrets.choice(free)


def _mac(host: int) -> str:
    return f"02:71:75:6f:69:{host:02x}"


def _do(command: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stderr.strip() or done.stdout.strip()}")
