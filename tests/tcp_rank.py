"""A rank that tells which sockets it has; see test_tcp.py."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np

import quoit

_LISTENS, _CONNECTED = "0A", "01"


def ports(state: str) -> list[int]:
    """The local ports of this process's TCP sockets in that state."""
    mine: set[str] = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            mine |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(link)))
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
    ]
    return [int(row[1].split(":")[1], 16) for row in rows if row[3] == state and row[9] in mine]


comm = quoit.Communicator.from_launcher(timeout=30)
listening = ports(_LISTENS)
before = sum(port in listening for port in ports(_CONNECTED))
# None begins before all have counted.
(Path(sys.argv[1]) / str(comm.rank)).touch()
deadline = time.monotonic() + 30
while len(os.listdir(sys.argv[1])) < comm.size and time.monotonic() < deadline:
    time.sleep(0.01)
comm.all_reduce(np.ones(1000, np.float32))
after = sum(port in listening for port in ports(_CONNECTED))
comm.barrier()
routes = [comm.route(peer) for peer in range(comm.size)]
said = [comm.rank, routes, listening, before, after]
comm.close()
# In one piece: lines of ranks that write at once stay whole.
sys.stdout.write(json.dumps(said) + "\n")
sys.stdout.flush()
