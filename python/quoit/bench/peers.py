"""Connects the peers on a rank, and makes each ready to take turns on a case."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from importlib import util
from typing import Any

import numpy as np

from quoit.bench import calls, machine, messages
from quoit.bench.calls import Calls, Tensors, Unsupported, Waitable
from quoit.bench.cases import Case
from quoit.bench.data import DTYPES
from quoit.bench.measure import Control, Runner
from quoit.bench.plan import DISPATCH, DISPATCHED, MEMCPY, Plan, Record
from quoit.communicator import Communicator
from quoit.launch import Launch

DEADLINE_S = 300.0  # the longest that any wait may take
_TORCH = ("quoit", "gloo", "nccl")  # through torch.distributed

Prepare = Callable[[Case], Runner]
Meet = Callable[[str], list[str]]


@dataclass(frozen=True)
class Peers:
    """What a rank is connected to.

    prepare: by the peer's name. groups: torch's, by the peer's name. left_out: who is not there,
    and why. about: versions, and where the ranks are; for rank 0 to tell.
    """

    control: Control
    prepare: dict[str, Prepare]
    groups: dict[str, Any]
    left_out: dict[str, str]
    about: Record
    close: Callable[[], None]


def connect(plan: Plan, started_by: Launch) -> Peers:
    """Collective over the launcher's ranks."""
    has_torch = util.find_spec("torch") is not None
    if plan.algorithm != "auto":
        os.environ["QUOIT_ALGORITHM"] = plan.algorithm
    # First of all: quoit uses the MPI that is loaded.
    wanted = "mpi" in plan.backends and plan.op != "ddp"
    mpi = _load_mpi(started_by) if wanted else "it was not asked for"
    meet, leave = _meet_by_torch(plan) if has_torch else _meet_without(started_by)
    rank, ranks = started_by.rank, started_by.size
    # The benchmark's own messages do not go over what it measures.
    own = Communicator(rank, ranks, meet, timeout=DEADLINE_S, algorithm="auto")
    left_out: dict[str, str] = {}
    groups: dict[str, Any] = {}
    prepare: dict[str, Prepare] = {}
    for name in plan.backends:
        # What one rank lacks, on a host that differs, nobody can use.
        if why := next(filter(None, meet(_lacking(name, plan, started_by, has_torch, mpi))), ""):
            left_out[name] = why
        elif name in _TORCH:
            groups[name] = _torch_group(name, started_by)
            device = f"cuda:{started_by.local_rank or 0}" if name == "nccl" else "cpu"
            prepare[name] = partial(_torch_runner, plan, rank, ranks, groups[name], device)
        elif name == "mpi":
            prepare[name] = partial(_mpi_runner, plan, rank, ranks, mpi)
        else:
            comm = Communicator(rank, ranks, meet, timeout=DEADLINE_S, algorithm=plan.algorithm)
            prepare[name] = partial(_numpy_runner, plan, rank, ranks, comm)
    if groups and plan.op in DISPATCHED and plan.mode in ("", "latency"):
        prepare[DISPATCH] = partial(_dispatch_runner, plan, rank, ranks, _idle_group())
    if plan.op not in ("barrier", "ddp"):
        prepare[MEMCPY] = memcpy_runner
    about = _about(plan, meet, has_torch, mpi)

    def close() -> None:
        own.close()
        leave()

    return Peers(Control(own), prepare, groups, left_out, about, close)


def _load_mpi(started_by: Launch) -> Any:
    """mpi4py's MPI for the mpirun that started this rank, or why there is none."""
    if started_by.launcher not in ("mpich", "openmpi"):
        return f"the ranks were started by {started_by.launcher}, not by mpirun"
    if util.find_spec("mpi4py") is None:
        return "mpi4py is not installed"
    if started_by.mpi_library is not None:
        os.environ["MPI4PY_LIBMPI"] = started_by.mpi_library
    if started_by.one_host:
        # MPI at its best: the locks of MPI_THREAD_MULTIPLE would slow MPICH's small calls. Between
        # hosts quoit may use the same MPI, from a thread of its own.
        importlib.import_module("mpi4py").rc.thread_level = "funneled"
    return importlib.import_module("mpi4py.MPI")


def _meet_by_torch(plan: Plan) -> tuple[Meet, Callable[[], None]]:
    """How the ranks tell each other a few lines of text, and what ends it."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(plan.torch_threads)
    dist.init_process_group("quoit", timeout=timedelta(seconds=DEADLINE_S))

    def meet(text: str) -> list[str]:
        texts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(texts, text)
        return texts

    return meet, dist.destroy_process_group


def _meet_without(started_by: Launch) -> tuple[Meet, Callable[[], None]]:
    """The same without torch."""
    from quoit.gathering import meet

    gather = meet(started_by, DEADLINE_S)
    topics = iter(range(1 << 30))
    return lambda text: gather(f"bench {next(topics)}", text, DEADLINE_S), gather.leave


def _lacking(name: str, plan: Plan, started_by: Launch, has_torch: bool, mpi: Any) -> str:
    """Why this rank cannot use a backend, or nothing. mpi: the module, or why there is none."""
    if plan.op == "ddp" and name not in _TORCH:
        return "DDP needs a backend of torch.distributed"
    if name in _TORCH and not has_torch:
        return "torch is not installed"
    if name == "mpi":
        return mpi if isinstance(mpi, str) else ""
    if name not in ("gloo", "nccl"):
        return ""
    import torch
    import torch.distributed as dist

    if name == "gloo":
        return "" if dist.is_gloo_available() else "this torch has no gloo"
    if not dist.is_nccl_available():
        return "this torch has no NCCL"
    devices, needed = torch.cuda.device_count(), started_by.local_size or started_by.size
    if devices < needed:
        return f"it needs a CUDA device for each rank: {devices} for {needed} on this host"
    return ""


def _torch_group(name: str, started_by: Launch) -> Any:
    """A group of all ranks."""
    import torch
    import torch.distributed as dist

    if name == "quoit":
        return dist.group.WORLD
    if name == "nccl":
        torch.cuda.set_device(started_by.local_rank or 0)
    return dist.new_group(backend=name, timeout=timedelta(seconds=DEADLINE_S))


def _idle_group() -> Any:
    """A group of all ranks whose backend, torch's own, does nothing."""
    import torch.distributed as dist

    importlib.import_module("torch.testing._internal.distributed.fake_pg")  # registers it
    return dist.new_group(backend="fake", timeout=timedelta(seconds=DEADLINE_S))


def _runner(plan: Plan, case: Case, every: Sequence[Calls], **named: Any) -> Runner:
    """A collective's: the call, or all that are in flight together."""
    once = every[0].call
    if len(every) > 1 or plan.in_flight:

        def once() -> None:
            works: list[Waitable] = [one.start() for one in every]
            for work in works:
                work.wait()

    defaults: dict[str, Any] = {"fresh": case.fresh, "wrong": _checked(plan, case)}
    return Runner(once, len(every), most=case.most, **{**defaults, **named})


def _checked(plan: Plan, case: Case) -> Callable[[], int] | None:
    return None if plan.op == "barrier" else case.wrong


def _talker(plan: Plan, case: Case, line: messages.Line, rank: int, ranks: int) -> Runner:
    """send_recv's; a ping-pong is two messages, and its time that of one."""
    once = messages.exchange(plan, line, len(case.sets), rank < ranks // 2)
    per = 2 if plan.mode == "latency" else len(case.sets)
    return Runner(once, per, case.fresh, case.wrong)


def _torch_runner(plan: Plan, rank: int, ranks: int, group: Any, device: str, case: Case) -> Runner:
    dtype = DTYPES[plan.dtype]
    hosts = [calls.tensors(buffers, dtype) for buffers in case.sets]
    sets, moves = (hosts, {}) if device == "cpu" else _on_device(case, hosts, device)
    if plan.op == "send_recv":
        if moves and plan.mode == "bidirectional":
            raise Unsupported("it takes messages in both directions only as one grouped call")
        line = messages.of_torch(sets, group, messages.partner(rank, ranks))
        talker = _talker(plan, case, line, rank, ranks)
        return Runner(
            talker.once, talker.calls, **{"fresh": case.fresh, "wrong": case.wrong, **moves}
        )
    return _runner(plan, case, [calls.of_torch(plan, one, group) for one in sets], **moves)


def _dispatch_runner(plan: Plan, rank: int, ranks: int, group: Any, case: Case) -> Runner:
    """The limit that torch sets to what is called through it."""
    return replace(_torch_runner(plan, rank, ranks, group, "cpu", case), wrong=None)


def _on_device(
    case: Case, hosts: Sequence[Tensors], device: str
) -> tuple[list[Tensors], dict[str, Any]]:
    """Tensors like `hosts` on a device, and what carries inputs there and results back."""
    import torch

    sets = []
    for host in hosts:
        take = torch.empty_like(host.take, device=device)
        in_place = host.give is host.take
        sets.append(Tensors(take if in_place else torch.empty_like(host.give, device=device), take))

    def fresh() -> None:
        case.fresh()
        for host, there in zip(hosts, sets, strict=True):
            there.give.copy_(host.give)
            there.take.copy_(host.take)
        torch.cuda.synchronize()

    def wrong() -> int:
        for host, there in zip(hosts, sets, strict=True):
            host.take.copy_(there.take)
        return case.wrong()

    return sets, {"fresh": fresh, "wrong": wrong, "settle": torch.cuda.synchronize}


def _numpy_runner(plan: Plan, rank: int, ranks: int, comm: Communicator, case: Case) -> Runner:
    if plan.op == "send_recv":
        line = messages.of_communicator(case.sets, comm, messages.partner(rank, ranks))
        return _talker(plan, case, line, rank, ranks)
    dtype = DTYPES[plan.dtype]
    return _runner(plan, case, [calls.of_communicator(plan, dtype, one, comm) for one in case.sets])


def _mpi_runner(plan: Plan, rank: int, ranks: int, mpi: Any, case: Case) -> Runner:
    dtype = DTYPES[plan.dtype]
    if plan.op == "send_recv":
        line = messages.of_mpi(plan, dtype, case.sets, mpi, messages.partner(rank, ranks))
        return _talker(plan, case, line, rank, ranks)
    return _runner(plan, case, [calls.of_mpi(plan, dtype, one, mpi) for one in case.sets])


def memcpy_runner(case: Case) -> Runner:
    """The limit that memory sets: all ranks copy as much as the size says, at once."""
    # Between contiguous arrays copyto is one memmove.
    copies = [partial(np.copyto, one.take, one.give) for one in case.spare]

    def all_of_them() -> None:
        for copy in copies:
            copy()

    def wrong() -> int:
        return sum(int(np.count_nonzero(one.take != one.give)) for one in case.spare)

    once = copies[0] if len(copies) == 1 else all_of_them
    return Runner(once, len(copies), case.fresh, wrong)


def _about(plan: Plan, meet: Meet, has_torch: bool, mpi: Any) -> Record:
    """Collective: versions of this rank, and places of all."""
    places = [json.loads(text) for text in meet(json.dumps(machine.place()))]
    names = ["torch"] if has_torch else []
    versions = machine.versions(*names, "numpy", *(["mpi4py"] if not isinstance(mpi, str) else []))
    if not isinstance(mpi, str):
        words = mpi.Get_library_version().partition("\n")[0].partition(",")[0].split()
        version = words.pop().lstrip("v")
        versions[" ".join(words).removesuffix(" Version:")] = version
    return {"ranks": len(places), "places": places, "versions": versions}
