"""One rank of tests/test_nccl.py: plays cases on the test accelerator with the fake NCCL.

    python nccl_rank.py FOLDER RANK SIZE CASE...

Writes FOLDER/RANK.json: for each case what went wrong, or nothing.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist

import accelerator
import quoit  # noqa: F401  (what builds the module when it must be)
from quoit import _build


class World:
    """This rank, and groups for it; each case has its own."""

    def __init__(self, folder: Path, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.device = torch.device("fake", 0)
        self.c10d = _build.load_c10d()
        self.store = dist.FileStore(str(folder / "store"), size)
        self._groups = 0
        self.case = ""

    def backend(self, timeout_s: float = 20.0, device: str | None = None) -> Any:
        """A new NCCL backend of all ranks; device: what this rank says its device is."""
        self._groups += 1
        store = dist.PrefixStore(f"{self.case}/{self._groups}", self.store)
        identity = f"device {self.rank}" if device is None else device
        return self.c10d.nccl_group(store, self.rank, self.size, timeout_s, [], identity)

    def group(self, timeout_s: float = 20.0, device: str | None = None) -> Any:
        """A torch process group with such a backend and no other."""
        return self.around(self.backend(timeout_s, device))

    def around(self, backend: Any) -> Any:
        group = dist.ProcessGroup(self.store, self.rank, self.size)
        kind = dist.ProcessGroup.BackendType.CUSTOM
        group._set_default_backend(kind)
        group._register_backend(self.device, kind, backend)
        return group

    def meet(self, name: str) -> None:
        """Waits until all ranks are here; not through any group."""
        key = f"{self.case}/meet/{name}"
        self.store.add(key, 1)
        end = time.monotonic() + 60.0
        while self.store.add(key, 0) < self.size:
            if time.monotonic() > end:
                raise TimeoutError(f"not all ranks came to {key}")
            time.sleep(0.005)


def main() -> None:
    folder, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    accelerator.install()
    import nccl_cases

    world = World(folder, rank, size)
    said: dict[str, str] = {}
    for name in sys.argv[4:]:
        world.case = name
        world.meet("begin")
        try:
            _case(nccl_cases, name)(world)
            said[name] = ""
        except BaseException:
            said[name] = traceback.format_exc()
        (folder / f"{rank}.json").write_text(json.dumps(said))
    with contextlib.suppress(Exception):
        world.meet("end")


def _case(module: ModuleType, name: str) -> Callable[[World], None]:
    function: Callable[[World], None] = module.CASES[name]
    return function


if __name__ == "__main__":
    main()
