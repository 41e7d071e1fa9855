"""What each peer is made to call for a collective, with nothing left to do but the call itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from quoit.bench.data import Array, DType
from quoit.bench.plan import Plan
from quoit.communicator import ReduceOp

if TYPE_CHECKING:
    import torch

    from quoit import Communicator


class Waitable(Protocol):
    def wait(self) -> object: ...


@dataclass(frozen=True)
class Buffers:
    """The memory of one call of a rank: what goes in and what comes out, one array if in place."""

    give: Array
    take: Array


@dataclass(frozen=True)
class Tensors:
    """As Buffers."""

    give: torch.Tensor
    take: torch.Tensor


@dataclass(frozen=True)
class Calls:
    """A peer's call on some buffers.

    call: returns when it is done. start: returns at once; what it returns is waited for.
    """

    call: Callable[[], object]
    start: Callable[[], Waitable]


class Unsupported(Exception):
    """A peer has no such operation; the text says what it lacks."""


def of_torch(plan: Plan, tensors: Tensors, group: Any) -> Calls:
    """Through torch.distributed, by one of its groups."""
    import torch.distributed as dist

    give, take = tensors.give, tensors.take
    redop = getattr(dist.ReduceOp, plan.redop.upper())
    # The names since torch 2.13, which warns of the older ones, and those before.
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    call = {
        "all_reduce": partial(dist.all_reduce, take, op=redop),
        "reduce_scatter": partial(scatter, take, give, op=redop),
        "all_gather": partial(gather, take, give),
        "broadcast": partial(dist.broadcast, take, src=plan.root),
        "all_to_all": partial(dist.all_to_all_single, take, give),
        "barrier": partial(dist.barrier),
    }[plan.op]
    call = partial(call, group=group)
    return Calls(call, partial(call, async_op=True))


def tensors(buffers: Buffers, dtype: DType) -> Tensors:
    """The same memory, for torch."""
    import torch

    def tensor(array: Array) -> torch.Tensor:
        return torch.from_numpy(array).view(getattr(torch, dtype.name))

    take = tensor(buffers.take)
    return Tensors(take if buffers.give is buffers.take else tensor(buffers.give), take)


def of_communicator(plan: Plan, dtype: DType, buffers: Buffers, comm: Communicator) -> Calls:
    """Through quoit.Communicator, on NumPy arrays."""
    parts = partial(np.split, indices_or_sections=comm.size)
    give, take, redop = buffers.give, buffers.take, cast(ReduceOp, plan.redop.upper())
    name = dtype.name if dtype.name == "bfloat16" else None
    calls: dict[str, Callable[[], Callable[..., Waitable]]] = {
        "all_reduce": lambda: partial(comm.all_reduce, take, redop, dtype=name),
        "reduce_scatter": lambda: partial(
            comm.reduce_scatter,
            parts(give),
            take,
            redop,
            dtype=name,
        ),
        "all_gather": lambda: partial(comm.all_gather, give, parts(take), dtype=name),
        "broadcast": lambda: partial(comm.broadcast, take, plan.root, dtype=name),
        "all_to_all": lambda: partial(comm.all_to_all, parts(give), parts(take), dtype=name),
        "barrier": lambda: comm.barrier,
    }
    call = calls[plan.op]()
    return Calls(call, partial(call, async_op=True))


def of_mpi(plan: Plan, dtype: DType, buffers: Buffers, mpi: Any) -> Calls:
    """Through mpi4py, on MPI_COMM_WORLD. mpi: the module mpi4py.MPI."""
    world, kind = mpi.COMM_WORLD, mpi_type(plan, dtype, mpi)
    give, take = [buffers.give, kind], [buffers.take, kind]
    name, arguments = {
        "all_reduce": ("allreduce", (mpi.IN_PLACE, take)),
        "reduce_scatter": ("reduce_scatter_block", (give, take)),
        "all_gather": ("allgather", (give, take)),
        "broadcast": ("bcast", (take,)),
        "all_to_all": ("alltoall", (give, take)),
        "barrier": ("barrier", ()),
    }[plan.op]
    named: dict[str, Any] = {}
    if plan.op in ("all_reduce", "reduce_scatter"):
        ops = {"sum": mpi.SUM, "min": mpi.MIN, "max": mpi.MAX, "product": mpi.PROD}
        if plan.redop not in ops:
            raise Unsupported(f"MPI has no {plan.redop}")
        named["op"] = ops[plan.redop]
    if plan.op == "broadcast":
        named["root"] = plan.root
    call = partial(getattr(world, name.capitalize()), *arguments, **named)
    return Calls(call, partial(getattr(world, f"I{name}"), *arguments, **named))


def mpi_type(plan: Plan, dtype: DType, mpi: Any) -> Any:
    """MPI's type of the elements; what is only moved may be bytes to it."""
    if dtype.mpi:
        return getattr(mpi, dtype.mpi)
    if plan.op in ("all_reduce", "reduce_scatter"):
        raise Unsupported(f"MPI has no {dtype.name}")
    return mpi.UINT16_T
