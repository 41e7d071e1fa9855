"""A rank of the cases for NCCL: groups of its own, on the test accelerator with the fake NCCL."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

import accelerator
import quoit  # noqa: F401  (what builds the module when it must be)
from quoit import _build
from stage import CASE_S, Job

_MEET_S = 3 * CASE_S  # for ranks whose operations fail meanwhile


class World:
    """This rank, and groups for it; each case has its own."""

    def __init__(self, store: dist.Store, rank: int, size: int) -> None:
        self.rank, self.size, self.store = rank, size, store
        self.device = torch.device(accelerator.NAME, 0)
        self.c10d = _build.load_c10d()
        self._backends: list[Any] = []

    def backend(self, timeout_s: float = CASE_S, device: str | None = None) -> Any:
        """A new NCCL backend of all ranks; device: what this rank says its device is."""
        store = dist.PrefixStore(f"backend {len(self._backends)}", self.store)
        identity = f"device {self.rank}" if device is None else device
        made = self.c10d.nccl_group(store, self.rank, self.size, timeout_s, [], identity)
        self._backends.append(made)
        return made

    def group(self, timeout_s: float = CASE_S, device: str | None = None) -> Any:
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
        came = f"meet/{name}"
        self.store.add(came, 1)
        end = time.monotonic() + _MEET_S
        while (there := self.store.add(came, 0)) < self.size:
            if time.monotonic() > end:
                raise TimeoutError(f"only {there} of {self.size} ranks came to {name!r}")
            time.sleep(0.005)

    def abort(self) -> None:
        """Tells the other ranks, which may wait for this one, that it failed."""
        for backend in self._backends:
            backend.abort()

    def forget(self) -> None:
        self._backends.clear()


Case = Callable[[World], None]


@functools.cache
def _store(file: Path, size: int) -> dist.FileStore:
    return dist.FileStore(str(file), size)


@contextlib.contextmanager
def group(job: Job, rank: int, number: int) -> Iterator[World]:
    """Of all ranks, which begin the case together and leave it together."""
    accelerator.install()
    os.environ["QUOIT_NCCL"] = str(accelerator.NCCL_LIBRARY)
    store = _store(Path(job.folder) / "store", job.size)
    world = World(dist.PrefixStore(f"case {number}", store), rank, job.size)
    world.meet("begin")
    try:
        yield world
    except BaseException:
        world.abort()
        raise
    finally:
        world.forget()
        world.meet("end")


# ---- What cases give to groups, and look at.


def small(dtype: torch.dtype, *shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    least = 0 if dtype in (torch.uint8, torch.bool) else -4
    return torch.randint(least, 5, shape, generator=generator).to(dtype)


def inputs_of(world: World, dtype: torch.dtype, *shape: int, seed: int = 0) -> list[Tensor]:
    """What each rank puts in: all know all, and can tell what must come out."""
    return [small(dtype, *shape, seed=100 * seed + rank) for rank in range(world.size)]


def same(got: Tensor, wanted: Tensor) -> None:
    got = got.cpu()
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    flat = [one.contiguous().reshape(-1).view(torch.uint8) for one in (got, wanted)]
    assert torch.equal(*flat), (got, wanted)


def options(kind: str, **values: Any) -> Any:
    made = getattr(distributed_c10d, f"{kind}Options")()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def barrier(world: World, group: Any) -> None:
    group.barrier(options("Barrier", device=world.device)).wait()
