"""A rank that knows only what its launcher told it; see test_gathering.py."""

from __future__ import annotations

import json
import sys

import numpy as np

import quoit

if "--no-torch" in sys.argv:
    sys.modules["torch"] = None  # type: ignore[assignment]
said = []
for _ in range(2):  # one group after the other, in one process
    comm = quoit.Communicator.from_launcher(timeout=30)
    total = np.full(3, comm.rank + 1, np.int32)
    comm.all_reduce(total)
    routes = [comm.route(peer) for peer in range(comm.size)]
    said.append([comm.rank, comm.size, total.tolist(), routes])
    comm.close()
# In one piece: lines of ranks that write at once stay whole.
sys.stdout.write(json.dumps(said) + "\n")
sys.stdout.flush()
