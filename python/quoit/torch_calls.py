"""Functions of torch.distributed that work with torch's own backends only, by name or by type.

`install` puts one in front of each that serves groups of quoit, and hands everything else to the
original. The work itself is done by the backend; these only let it be reached.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch.distributed as dist

    Group = dist.ProcessGroup | None

_OURS = "_quoit_original"
_HOOKS = "torch.distributed.algorithms.ddp_comm_hooks"
# Hooks that start one collective for each bucket and none later: they may overlap with the backward
# pass. So may those with an attribute `quoit_overlaps` that is true.
_OVERLAP = {
    f"{_HOOKS}.default_hooks.{name}"
    for name in ("allreduce_hook", "fp16_compress_hook", "bf16_compress_hook")
} | {"quoit.compression.compression_hook"}


def install() -> None:
    """Safe to call more than once; a function that this torch does not have is left out."""
    places = [
        importlib.import_module("torch.distributed.distributed_c10d"),
        importlib.import_module("torch.distributed"),
    ]
    for name, made in (
        ("monitored_barrier", _monitored_barrier),
        ("_set_pg_timeout", _set_pg_timeout),
        ("split_group", _split_group),
        ("shrink_group", _shrink_group),
        ("new_comm", _new_comm),
    ):
        original = getattr(places[0], name, None)
        if original is None or hasattr(original, _OURS):
            continue
        ours = functools.wraps(original)(made(original))
        setattr(ours, _OURS, original)
        for place in places:
            if getattr(place, name, None) is original:
                setattr(place, name, ours)
    ddp = importlib.import_module("torch.nn.parallel").DistributedDataParallel
    if not hasattr(ddp.register_comm_hook, _OURS):
        original = ddp.register_comm_hook
        ours = functools.wraps(original)(_register_comm_hook(original))
        setattr(ours, _OURS, original)
        ddp.register_comm_hook = ours


def _monitored_barrier(original: Callable[..., None]) -> Callable[..., None]:
    def monitored_barrier(
        group: Group = None,
        timeout: timedelta | float | None = None,
        wait_all_ranks: bool = False,
    ) -> None:
        pg = or_default(group)
        if backend_of(pg, "cpu") is None:
            original(group, timeout, wait_all_ranks)
            return
        if isinstance(timeout, (int, float)):
            timeout = timedelta(seconds=timeout)
        limit = () if timeout is None else (timeout,)  # without: the group's own
        pg.monitored_barrier(*limit, wait_all_ranks=wait_all_ranks)

    return monitored_barrier


def _set_pg_timeout(original: Callable[..., None]) -> Callable[..., None]:
    def _set_pg_timeout(timeout: timedelta, group: Group = None) -> None:
        pg = or_default(group)
        ours = backend_of(pg, "cpu")
        if ours is not None:
            ours.set_timeout(timeout)
        if ours is None or not _all_ours(pg):
            original(timeout, group)

    return _set_pg_timeout


def _split_group(original: Callable[..., Any]) -> Callable[..., Any]:
    def split_group(
        parent_pg: Group = None,
        split_ranks: Sequence[Sequence[int]] | None = None,
        timeout: timedelta | None = None,
        pg_options: Any = None,
        group_desc: str | None = None,
        **more: Any,
    ) -> dist.ProcessGroup | None:
        parent = or_default(parent_pg)
        if not _all_ours(parent):
            split: dist.ProcessGroup | None = original(
                parent_pg, split_ranks, timeout, pg_options, group_desc, **more
            )
            return split
        return _split(parent, split_ranks or [], timeout, group_desc)

    return split_group


def _split(
    parent: Any,
    split_ranks: Sequence[Sequence[int]],
    timeout: timedelta | None,
    group_desc: str | None,
) -> dist.ProcessGroup | None:
    """The group of this rank among `split_ranks`, which are ranks of the parent, or None.

    All ranks of the parent call it; only those of one new group wait for each other. Without a
    timeout the parent's is used.
    """
    c10d = importlib.import_module("torch.distributed.distributed_c10d")
    world = c10d._world
    if parent not in world.pg_map:
        raise ValueError("split_group: this rank is not part of the parent group")
    for ranks in split_ranks:
        if not ranks or len(set(ranks)) < len(ranks) or not set(ranks) <= set(range(parent.size())):
            raise ValueError(
                f"split_group: {list(ranks)} is not a set of ranks of the parent group, which has "
                f"ranks 0 to {parent.size() - 1}"
            )
    if not split_ranks:
        raise ValueError("split_group: split_ranks is empty; give a list of lists of ranks")
    backend, store = world.pg_map[parent]
    # Every rank counts its own calls, in a store that may outlive the parent: all of them split it
    # equally often, and a rank that is alone in its group may be ahead of the others.
    number = store.add(f"quoit/splits/{parent.rank()}", 1) - 1
    mine = next((sorted(ranks) for ranks in split_ranks if parent.rank() in ranks), None)
    if mine is None:
        return None
    name = f"{parent.group_name}:split:{number}:{'_'.join(map(str, mine))}"
    pg: dist.ProcessGroup = parent.split_group(
        mine, timeout=timeout, group_name=name, group_desc=group_desc
    )
    # What torch's own split_group notes.
    global_of = {member: rank for rank, member in world.pg_group_ranks[parent].items()}
    world.pg_map[pg] = (backend, c10d.PrefixStore(f"{name}/", store))
    world.pg_names[pg] = name
    world.pg_backend_config[pg] = world.pg_backend_config[parent]
    world.pg_group_ranks[pg] = {global_of[member]: rank for rank, member in enumerate(mine)}
    world.tags_to_pg.setdefault(f"ptd:{name}", []).append(pg)
    world.pg_to_tag[pg] = f"ptd:{name}"
    c10d._register_process_group(name, pg)
    return pg


def _shrink_group(original: Callable[..., Any]) -> Callable[..., Any]:
    """torch takes every smaller group on CPUs for one of gloo, and DDP takes it at its word."""

    def shrink_group(*arguments: Any, **named: Any) -> dist.ProcessGroup:
        import torch

        pg: dist.ProcessGroup = original(*arguments, **named)
        if backend_of(pg, "cpu") is not None:
            cpu, custom = torch.device("cpu"), type(pg).BackendType.CUSTOM
            pg._register_backend(cpu, custom, pg._get_backend(cpu))
            pg._set_default_backend(custom)
        return pg

    return shrink_group


def _new_comm(original: Callable[..., Any]) -> Callable[..., Any]:
    """torchcomms, which torch asks for every backend when it is told to, does not know quoit."""

    def new_comm(backend: str, *arguments: Any, **named: Any) -> Any:
        if backend == "quoit":
            told = "TORCH_DISTRIBUTED_USE_TORCHCOMMS"
            by = f"{told}={os.environ[told]}" if told in os.environ else "use_torchcomms"
            warnings.warn(
                f"{by} makes torch ask torchcomms for the backend 'quoit', which is not one of "
                f"its own: unset it (torch.distributed.config.use_torchcomms = False) to use quoit",
                RuntimeWarning,
                stacklevel=2,
            )
        return original(backend, *arguments, **named)

    return new_comm


def _register_comm_hook(original: Callable[..., None]) -> Callable[..., None]:
    """Hooks whose callbacks start collectives, such as PowerSGD's, start them on every rank at
    another moment between those of later buckets, unless each bucket is waited for."""

    def register_comm_hook(self: Any, state: object, hook: Callable[..., Any]) -> None:
        if backend_of(getattr(self, "process_group", None), "cpu") is not None:
            hook = _on_cpus(hook) if _overlaps(hook) else _on_cpus(_in_order(hook))
        original(self, state, hook)

    return register_comm_hook


def _on_cpus(hook: Callable[..., Any]) -> Callable[..., Any]:
    """torch refuses hooks of these names where there is no NCCL, for the sake of gloo."""
    if getattr(hook, "__name__", "") not in ("bf16_compress_hook", "bf16_compress_wrapper_hook"):
        return hook

    def in_bf16(state: object, bucket: Any) -> Any:
        return hook(state, bucket)

    in_bf16.__annotations__.clear()  # which torch compares with its own objects
    return in_bf16


def _overlaps(hook: Callable[..., Any]) -> bool:
    name = f"{getattr(hook, '__module__', '')}.{getattr(hook, '__qualname__', '')}"
    return bool(getattr(hook, "quoit_overlaps", False)) or name in _OVERLAP


def _in_order(hook: Callable[..., Any]) -> Callable[..., Any]:
    from quoit import _build

    call = _build.load_c10d().call_in_order
    logging.getLogger("quoit").info(
        "communication hook %s: every bucket is waited for, because what callbacks start must come "
        "in the same order on all ranks. If its callbacks start no collectives, set "
        "hook.quoit_overlaps = True",
        getattr(hook, "__qualname__", hook),
    )

    @functools.wraps(hook)
    def in_order(state: object, bucket: Any) -> Any:
        return call(hook, state, bucket)

    return in_order


def or_default(group: Group) -> Any:
    """The group, or for None the default one."""
    c10d = importlib.import_module("torch.distributed.distributed_c10d")
    return c10d._get_default_group() if group is None else group


def _all_ours(pg: Any) -> bool:
    devices = getattr(pg, "_device_types", [])
    return bool(devices) and all(backend_of(pg, device) is not None for device in devices)


def backend_of(pg: Any, device: Any) -> Any:
    """The backend of quoit that serves a device of the group, or None."""
    import torch

    try:
        backend = pg._get_backend(torch.device(device))
    except (AttributeError, RuntimeError):  # not a group (of this rank); no backend for the device
        return None
    # TORCH_DISTRIBUTED_DEBUG=DETAIL wraps it.
    backend = getattr(backend, "wrapped_pg", backend)
    return backend if backend.name() == "quoit" else None
