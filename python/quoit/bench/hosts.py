"""`quoit bench --cluster`: hosts that are network namespaces, and launchers that start ranks there.

The launchers stand in for those of `launch`, which start ranks on this host.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quoit import units
from quoit.bench import launch
from quoit.bench.launch import FAMILIES, QUOIT_RUN, Command, Launcher
from quoit.cluster import Cluster

_DEVICE = "eth0"  # of every host
# gloo would take the address that the host's name stands for; torch warns that the namespaces'
# addresses have no names.
_SETTINGS = {"GLOO_SOCKET_IFNAME": _DEVICE, "TORCH_CPP_LOG_LEVEL": "ERROR"}
_MESSAGES = ("send_recv", "all_to_all", "barrier", "ddp", "codec")  # they have no such limit


@dataclass(frozen=True)
class Asked:
    """What the command line asks for. rate, delay: as in quoit.cluster, or None."""

    hosts: int
    ranks_per_host: int
    rate: str | None
    delay: str | None

    @property
    def ranks(self) -> int:
        return self.hosts * self.ranks_per_host


@dataclass(frozen=True)
class Hosts:
    """A cluster that is up, with a folder for what mpirun reads. What it offers is `launch`'s."""

    asked: Asked
    cluster: Cluster
    folder: Path

    def by_mpirun(self, family: str, threads: int) -> Launcher:
        """The family's mpirun on the first host, which starts its proxies on the others."""
        mpirun = launch.find_mpirun(family)
        if mpirun is None:
            raise ValueError(f"--launcher {family}: {launch.no_mpi(family)}")
        ssh, hosts = self.folder / "ssh", self.folder / f"hosts-{family}"
        self.cluster.write_ssh(ssh)
        line = {"mpich": "{}:{}\n", "openmpi": "{} slots={}\n"}[family]
        names = map(self.cluster.name, range(self.asked.hosts))
        hosts.write_text("".join(line.format(name, self.asked.ranks_per_host) for name in names))
        options = {
            "mpich": f"-launcher ssh -launcher-exec {ssh} -f {hosts} -iface {_DEVICE}",
            "openmpi": f"--allow-run-as-root --bind-to none --prtemca plm_ssh_agent {ssh} "
            f"--hostfile {hosts} --mca btl_tcp_if_include {_DEVICE}",
        }[family]

        def commands(ranks: int, program: Sequence[str]) -> list[Command]:
            start = (mpirun, *options.split(), "-n", str(ranks), sys.executable, *program)
            return [self._command(0, start, launch.environment(threads))]

        return Launcher(FAMILIES[family], True, commands)

    def by_quoit(self, threads: int) -> Launcher:
        """A process for each rank, which is told its place."""

        def commands(ranks: int, program: Sequence[str]) -> list[Command]:
            port = _free_port()
            made = []
            for rank in range(ranks):
                host, local = divmod(rank, self.asked.ranks_per_host)
                place = {
                    "RANK": rank,
                    "WORLD_SIZE": ranks,
                    "LOCAL_RANK": local,
                    "LOCAL_WORLD_SIZE": self.asked.ranks_per_host,
                    "MASTER_ADDR": self.cluster.address(0),
                    "MASTER_PORT": port,
                }
                environment = {name: str(value) for name, value in place.items()}
                made.append(
                    self._command(
                        host,
                        (sys.executable, *program),
                        {**launch.environment(threads), **environment},
                    )
                )
            return made

        return Launcher(QUOIT_RUN, False, commands)

    def _command(
        self, host: int, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> Command:
        return Command((*self.cluster.command(host), *arguments), {**environment, **_SETTINGS})

    def facts(self, op: str) -> dict[str, str]:
        """For the report's header."""
        asked = self.asked
        links = f"links of {asked.rate or 'no limit'}"
        if asked.delay:
            by = {"netem": "the kernel's netem", "switch": "a switch of quoit's"}
            links += f", {asked.delay} one way (by {by[self.cluster.delayed_by]})"
        facts = {"cluster": f"{asked.hosts} hosts × {asked.ranks_per_host} ranks, {links}"}
        if asked.rate and (limit := busbw_limit(op, asked)):
            facts["line"] = f"{asked.rate} for each host allow a busbw of {limit:.3f} GB/s"
        return facts


def busbw_limit(op: str, asked: Asked) -> float | None:
    """GB/s that the busbw of a collective cannot pass, headers of packets aside.

    A host must take in, and give away, as much as one of its ranks would if it were alone there.
    None where there is no such bound: without a rate, or for other operations.
    """
    if not asked.rate or asked.hosts < 2 or op in _MESSAGES:
        return None
    factor = {"broadcast": 1.0}.get(op, (asked.ranks - 1) / asked.ranks)
    of_host = {"broadcast": 1.0}.get(op, (asked.hosts - 1) / asked.hosts)
    return units.bytes_per_second(asked.rate) * factor / of_host / 1e9


def configure(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("hosts that are network namespaces; needs root")
    group.add_argument("--cluster", metavar="HOSTSxRANKS", help="2x2: two hosts of two ranks each")
    group.add_argument("--rate", help="of each host's link, each way: 1gbit (default: no limit)")
    group.add_argument("--delay", help="from host to host, one way: 2ms (default: none)")


def asked(options: argparse.Namespace) -> Asked | None:
    """What the command line asks for; None where the ranks are to be on this host."""
    if not options.cluster:
        for option in ("rate", "delay"):
            if value := getattr(options, option):
                raise ValueError(f"--{option} {value} belongs to --cluster HOSTSxRANKS")
        return None
    found = re.fullmatch(r"([1-9]\d*)[x×]([1-9]\d*)", options.cluster)
    if found is None:
        raise ValueError(f"--cluster {options.cluster}: give hosts and ranks of each, as 2x2")
    made = Asked(int(found[1]), int(found[2]), options.rate, options.delay)
    if options.ranks and options.ranks != str(made.ranks):
        raise ValueError(f"-n {options.ranks}: --cluster {options.cluster} has {made.ranks} ranks")
    if why := Cluster.missing(made.rate, made.delay):
        raise ValueError(f"--cluster {options.cluster}: {why}")
    Cluster(made.hosts, made.rate, made.delay)  # reads them
    return made


@contextlib.contextmanager
def up(asked: Asked) -> Iterator[Hosts]:
    """The hosts, for as long as the context lasts. Raises ValueError when they cannot be made."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="quoit-cluster-"))
        cluster = Cluster(asked.hosts, asked.rate, asked.delay)
        try:
            stack.enter_context(cluster)
        except RuntimeError as error:
            raise ValueError(f"--cluster: {error}") from error
        yield Hosts(asked, cluster, Path(folder))


def _free_port() -> int:
    """Of this machine; the hosts, which are new, have it free as well."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
