"""What compression keeps of parameters from step to step, and how it is saved and loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from quoit import _core
from quoit.codecs import Codec, LowRank


@dataclass(frozen=True)
class LowRankBases:
    """The factors of a low-rank codec: the last ones that all ranks agreed on."""

    rows: int
    columns: int
    p: Tensor  # float32[rank * rows], column by column
    q: Tensor  # float32[rank * columns], column by column
    turn: Tensor  # int64[1], on the CPU: how many calls there were


@dataclass(frozen=True)
class Kept:
    """Of one parameter."""

    residual: Tensor  # float32, flat, in the order of the parameter's memory: lost and not yet sent
    bases: LowRankBases | None = None

    def native(self) -> tuple[Any, ...]:
        """The arguments of _c10d.Part that follow its codec."""
        if self.bases is None:
            return (self.residual,)
        b = self.bases
        return self.residual, b.rows, b.columns, b.p, b.q, b.turn

    def tensors(self) -> dict[str, Tensor]:
        """By name, as they are saved."""
        if self.bases is None:
            return {"residual": self.residual}
        return {
            "residual": self.residual,
            "p": self.bases.p,
            "q": self.bases.q,
            "turn": self.bases.turn,
        }


def keep(parameter: Tensor, codec: Codec, home: torch.device) -> Kept:
    """Zeros, where the codec works: nothing was lost yet."""
    residual = torch.zeros(parameter.numel(), device=home)
    if not isinstance(codec, LowRank):
        return Kept(residual)
    rows, columns = matrix_shape(parameter)
    p = torch.zeros(codec.rank * rows, device=home)
    q = torch.zeros(codec.rank * columns, device=home)
    return Kept(residual, LowRankBases(rows, columns, p, q, torch.zeros(1, dtype=torch.int64)))


def norm_of(residuals: Iterable[Tensor]) -> float:
    """The 2-norm of all of them together."""
    return math.sqrt(sum(float(residual.double().square().sum()) for residual in residuals))


def unit_of(scaler: torch.amp.GradScaler | None) -> float:
    """What gradients are multiples of, and residuals are kept without."""
    return 1.0 if scaler is None else scaler.get_scale()


def matrix_shape(parameter: Tensor) -> tuple[int, int]:
    """Rows and columns of a parameter of two or more dimensions, as it lies in memory: the
    outermost dimension is that of the rows (also of a channels_last convolution)."""
    if parameter.numel() == 0:
        return 0, 0
    outermost = max(range(parameter.dim()), key=lambda i: (parameter.stride(i), -i))
    rows = parameter.size(outermost)
    return rows, parameter.numel() // rows


# A parameter that no rank used has no gradient, and DDP ignores what comes out for it: what earlier
# steps lost of it must not go that way. On a device nothing waits to see the flags.
def announce_unused(
    gradients: Iterable[Tensor], home: torch.device, group: dist.ProcessGroup
) -> Tensor:
    """A flag for each gradient, to come: whether any rank used it."""
    used = torch.stack([gradient.any() for gradient in gradients])
    flags = used.to(home, torch.int8)
    dist.all_reduce(flags, dist.ReduceOp.MAX, group, async_op=True)
    return flags


def take_back(
    views: Iterable[Tensor], kept: Iterable[Kept | None], flags: Tensor, share: float
) -> None:
    """Where a flag says that nobody used a gradient, its view becomes zero, and goes back, times
    `share`, to what is kept."""
    if flags.device.type != "cpu":
        # They were made on another stream than this one, of callbacks.
        flags.record_stream(torch.get_device_module(flags.device).current_stream(flags.device))
        for view, each, used in zip(views, kept, flags.bool(), strict=True):
            if each is not None:
                lost = each.residual
                lost.copy_(torch.where(used, lost, torch.add(lost, view, alpha=share)))
                view.copy_(torch.where(used, view, torch.zeros_like(view)))
        return
    for view, each, used in zip(views, kept, flags.tolist(), strict=True):
        if each is not None and not used:
            each.residual.add_(view.to(each.residual.device), alpha=share)
            view.zero_()


Saved = Mapping[str, Mapping[str, Tensor]]  # tensors by name, of parameters by name


def summed(kept: Saved, group: dist.ProcessGroup) -> dict[str, dict[str, Tensor]]:
    """Copies, the residuals added up over the ranks; everything else is equal on all of them."""
    copies = {name: {what: t.clone() for what, t in each.items()} for name, each in kept.items()}
    works = [
        dist.all_reduce(each["residual"], group=group, async_op=True) for each in copies.values()
    ]
    for work in works:
        work.wait()
    return copies


def restore(kept: Kept, saved: Mapping[str, Tensor], ranks: int) -> None:
    """Takes a saved state; a residual that is a sum is shared out among so many ranks."""
    for what, tensor in kept.tensors().items():
        tensor.copy_(saved[what].view(-1))
    if ranks > 1:
        kept.residual.div_(ranks)


def check(state: Mapping[str, Any], own: Saved, group: dist.ProcessGroup) -> None:
    """Raises UsageError where a saved state is not one for this rank and these parameters."""
    if "ranks" in state:
        saved, here = (
            f"rank {state['rank']} of {state['ranks']}",
            f"rank {group.rank()} of {group.size()}",
        )
        if saved != here:
            raise _core.UsageError(
                f"load_state_dict: a local state of {saved}, for {here}: only that rank of as many "
                "can load it; state_dict() without local=True is for any number of ranks"
            )
    saved_of = state["parameters"]
    for name in (*own, *saved_of):
        problem = None
        if name not in saved_of:
            problem = f"has nothing of '{name}', which has a residual now"
        elif name not in own:
            problem = f"has a residual of '{name}', which has none now"
        else:
            sizes = [{what: t.numel() for what, t in of[name].items()} for of in (saved_of, own)]
            if sizes[0] != sizes[1]:
                problem = f"has {sizes[0]} elements of '{name}', which needs {sizes[1]}"
        if problem is not None:
            raise _core.UsageError(
                f"load_state_dict: the state {problem}: load it with the model and the codecs that "
                "it was saved with, or begin with a new state"
            )
