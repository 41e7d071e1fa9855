"""Starts the ranks of a job by torchrun on hosts that are network namespaces.

cluster_launch.py HOSTS RANKS_PER_HOST ARGUMENTS...    (of python, on every rank)
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

from quoit.cluster import Cluster

DEADLINE_S = 300.0


def main() -> int:
    hosts, ranks, arguments = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]

    def end(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)  # through the cluster's exit, which takes it down

    signal.signal(signal.SIGTERM, end)
    with Cluster(hosts) as cluster:
        options = {
            "--nnodes": hosts,
            "--nproc-per-node": ranks,
            "--master-addr": cluster.address(0),
            "--master-port": 29500,
        }
        launched = [
            cluster.start(
                host,
                [
                    *[sys.executable, "-m", "torch.distributed.run", f"--node-rank={host}"],
                    *(f"{name}={value}" for name, value in options.items()),
                    *arguments,
                ],
                # gloo would take the address that the host's name stands for; torch warns that the
                # namespaces' addresses have no names.
                {"GLOO_SOCKET_IFNAME": "eth0", "TORCH_CPP_LOG_LEVEL": "ERROR"},
            )
            for host in range(hosts)
        ]
        return max(abs(process.wait(DEADLINE_S)) for process in launched)


if __name__ == "__main__":
    sys.exit(main())
