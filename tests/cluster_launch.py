"""Starts the ranks of a job on hosts that are network namespaces, by torchrun or a real mpirun.

cluster_launch.py LAUNCHER RANKS,RANKS,... ARGUMENTS...

LAUNCHER: torchrun, mpich or openmpi. RANKS: of each host. ARGUMENTS: of python, on every rank.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import mpirun
from quoit.cluster import Cluster

DEADLINE_S = 600.0
# gloo would take the address that the host's name stands for; torch warns that the namespaces'
# addresses have no names.
_ENV = {"GLOO_SOCKET_IFNAME": "eth0", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def torchrun(
    cluster: Cluster, ranks: Sequence[int], arguments: Sequence[str]
) -> list[subprocess.Popen[str]]:
    """One torchrun on each host."""
    options = {
        "--nnodes": cluster.size,
        "--master-addr": cluster.address(0),
        "--master-port": 29500,
    }
    return [
        cluster.start(
            host,
            [
                *[sys.executable, "-m", "torch.distributed.run"],
                *[f"--node-rank={host}", f"--nproc-per-node={count}"],
                *(f"{name}={value}" for name, value in options.items()),
                *arguments,
            ],
            _ENV,
        )
        for host, count in enumerate(ranks)
    ]


def by_mpirun(
    family: str, folder: Path, cluster: Cluster, ranks: Sequence[int], arguments: Sequence[str]
) -> list[subprocess.Popen[str]]:
    """One mpirun on the first host, which starts its proxies on the others as by ssh."""
    ssh, hosts = folder / "ssh", folder / "hosts"
    cluster.write_ssh(ssh)
    line = {"mpich": "{}:{}\n", "openmpi": "{} slots={}\n"}[family]
    names = map(cluster.name, range(cluster.size))
    hosts.write_text("".join(line.format(*host) for host in zip(names, ranks, strict=True)))
    options = {
        "mpich": f"-launcher ssh -launcher-exec {ssh} -f {hosts} -iface eth0",
        "openmpi": f"--prtemca plm_ssh_agent {ssh} --hostfile {hosts} --bind-to none "
        "--mca btl_tcp_if_include eth0",
    }[family]
    command = mpirun.command_line(family, sum(ranks), [sys.executable, *arguments], options.split())
    return [cluster.start(0, command, _ENV, stdin=subprocess.DEVNULL)]


def main() -> int:
    launcher, arguments = sys.argv[1], sys.argv[3:]
    ranks = [int(count) for count in sys.argv[2].split(",")]

    def end(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)  # through the cluster's exit, which takes it down

    signal.signal(signal.SIGTERM, end)
    with Cluster(len(ranks)) as cluster, tempfile.TemporaryDirectory() as folder:
        if launcher == "torchrun":
            launched = torchrun(cluster, ranks, arguments)
        else:
            launched = by_mpirun(launcher, Path(folder), cluster, ranks, arguments)
        return max(abs(process.wait(DEADLINE_S)) for process in launched)


if __name__ == "__main__":
    sys.exit(main())
