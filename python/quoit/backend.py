"""The ``torch.distributed`` backend ``"quoit"``: registration, and nothing that connects."""

from __future__ import annotations

import atexit
import os
import sys
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from quoit import launch

if TYPE_CHECKING:
    import torch.distributed as dist


def register() -> None:
    """Makes ``"quoit"`` known to ``torch.distributed``. Safe to call more than once."""
    try:
        import torch.distributed as dist
    except ModuleNotFoundError:
        return  # no torch, no backend; the rest of quoit works
    from quoit import rendezvous, torch_calls

    if not dist.is_available() or hasattr(dist.Backend, "QUOIT"):
        return
    dist.Backend.register_backend("quoit", _create, extended_api=True, devices=_devices())
    rendezvous.install()
    torch_calls.install()


def _devices() -> list[str]:
    """The CPU, and the accelerators that this torch was built for. Others take a device map."""
    import torch

    backends: Any = torch.backends  # untyped functions
    built = {"cuda": backends.cuda.is_built(), "xpu": torch.xpu._is_compiled()}
    return ["cpu", *(name for name, there in built.items() if there)]


def autoload() -> None:
    """For torch's entry point ``torch.backends``, which runs inside ``import torch``.

    A failure here would break ``import torch`` itself, so it is reported and nothing else: the
    backend then appears at ``import quoit``, with the full error.
    """
    try:
        register()
    except Exception as error:
        print(
            f'quoit: its torch backend "quoit" was not registered ({error}); `import quoit` gives '
            "the full error",
            file=sys.stderr,
        )


def _create(options: Any, _group_options: Any) -> dist.Backend:
    """Makes the backend of one group; torch calls it on the members only."""
    import torch

    from quoit import _build, nccl

    module = _build.load_c10d()
    if torch.version.cuda is None:
        # DDP then takes its buckets from allocate_tensor, which spares all_reduce a copy. With
        # CUDA it would change what NCCL's groups do, so there that is the user's choice.
        os.environ.setdefault("DDP_DISABLE_COMM_MEM", "0")
    library, started = prepare()
    backend: dist.Backend = module.create(
        options.store,
        options.group_rank,
        options.group_size,
        _seconds(options.timeout),
        library,
        started,
        list(options.global_ranks_in_group),
        nccl.libraries() if nccl.wanted(torch.version.cuda is not None) else None,
    )
    return backend


def prepare() -> tuple[str, int]:
    """Makes this process ready for a group, to be interrupted and to end.

    Returns the libmpi of the launcher ("" without one) and how many ranks that launcher started.
    """
    from quoit import _core

    started_by = launcher()
    library = launch.find_mpi_library(started_by) if started_by is not None else None
    _core.watch_signals()
    end_in_order()
    return library or "", started_by.size if started_by is not None else 0


def launcher() -> launch.Launch | None:
    """Who started the ranks. They have met already, perhaps by what the program itself says."""
    try:
        return launch.detect()
    except launch.LaunchError:
        return None


def _seconds(timeout: timedelta) -> float:
    """torch's timeout, unless it is torch's default and QUOIT_TIMEOUT_S says something else."""
    from torch.distributed.constants import default_pg_timeout

    from quoit import _core

    if os.environ.get("QUOIT_TIMEOUT_S") and timeout == default_pg_timeout:
        return _core.ConnectOptions().timeout
    return timeout.total_seconds()


@cache
def end_in_order() -> None:
    """At exit: leave the groups, stop the engine's threads, end MPI if quoit began it."""
    atexit.register(_at_exit, os.getpid())


def _at_exit(owner: int) -> None:
    if os.getpid() != owner:
        return  # a forked child has nothing to end
    from quoit import _core

    # A program that ends by an exception must not wait for ranks that may be waiting for it.
    failed = (
        getattr(sys, "last_exc", None) is not None or getattr(sys, "last_value", None) is not None
    )
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_initialized() and not failed:
        dist.destroy_process_group()
    _core.stop()
    if not failed:
        _core.mpi_finalize()
