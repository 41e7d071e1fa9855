"""quoit.all_reduce: one tensor by a codec. And the way from a torch group to quoit's own calls."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from quoit import _build, _core
from quoit.codecs import Codec, of_one_tensor
from quoit.torch_calls import backend_of, or_default

# What codecs know. Everything else travels as it is.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def all_reduce(
    tensor: Tensor,
    op: Any = dist.ReduceOp.SUM,
    group: dist.ProcessGroup | None = None,
    async_op: bool = False,
    *,
    codec: Codec | None = None,
    residual: Tensor | None = None,
) -> dist.Work | None:
    """torch.distributed.all_reduce by a codec: in place, SUM or AVG, of a float tensor.

    residual: float32 of as many elements, zero at first: carries what the codec lost into the next
        call with it (error feedback); of the mean, with AVG. One that is not where the codec works
        (:func:`home_of`) is copied there and back, and the call waits for that.

    Raises UsageError for what cannot be compressed, and what torch.distributed.all_reduce does.
    """
    if codec is None:
        if residual is not None:
            raise _core.UsageError("all_reduce: a residual without a codec: give both, or neither")
        plain: dist.Work | None = dist.all_reduce(tensor, op, group, async_op)
        return plain
    flat = None if residual is None else residual.view(-1)
    kept = None if flat is None else flat.to(home_of(tensor.device, group))
    native = _build.load_c10d()
    parts = [native.Part(tensor.numel(), of_one_tensor(codec), kept)]
    work: dist.Work | None = native.compressed_all_reduce(
        native_backend(group),
        tensor,
        native.Compression(parts, native.CompressionReport()),
        is_mean(op),
        async_op=async_op,
    )
    if flat is not None and kept is not None and kept is not flat:
        if work is not None:
            work.wait()
        flat.copy_(kept)
    return finished(work, async_op)


def finished(work: dist.Work | None, async_op: bool) -> dist.Work | None:
    """What torch's collectives return: the work if it goes on, and None once it is over."""
    if work is None or async_op:
        return work
    work.wait()
    return None


def is_mean(op: Any) -> bool:
    """Whether a reduce op is AVG; raises UsageError unless it is that or SUM."""
    if op == dist.ReduceOp.AVG:
        return True
    if op == dist.ReduceOp.SUM:
        return False
    raise _core.UsageError(
        f"a compressed {op}: only SUM and AVG can be compressed; use another op, or no codec"
    )


def home_of(device: torch.device, group: dist.ProcessGroup | None = None) -> torch.device:
    """Where tensors of this device are compressed in the group, and their residuals must be: there,
    if all ranks have kernels for it, and NCCL or CUDA IPC, else on the CPU. All ranks call this."""
    if device.type == "cpu":
        return device
    on_host = _build.load_c10d().compressed_on_host(native_backend(group), device)
    return torch.device("cpu") if on_host else device


def native_backend(group: dist.ProcessGroup | None) -> Any:
    """The backend of a group, which must be quoit's."""
    pg = or_default(group)
    backend = backend_of(pg, "cpu")
    if backend is None:
        raise _core.UsageError(
            f"compression in a group of backend '{dist.get_backend(pg)}': it takes one of quoit: "
            'init_process_group("quoit")'
        )
    return backend
