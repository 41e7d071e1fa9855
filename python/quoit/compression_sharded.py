"""Gradient compression for FSDP2: `fully_shard`'s reduce-scatter, and its all-gather, by a codec.

    for layer in model.layers:
        fully_shard(layer)
    fully_shard(model)
    state = quoit.compress(model, quoit.Int8())

The work is one native call per module and direction (csrc/collective/compressed.h); here is how
gradients lie in fully_shard's blocks, and what was lost of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard

from quoit import _build, _core, compression_auto
from quoit.codecs import Auto, Choice, Codec, LowRank, first_match, patterns_of
from quoit.compression_calls import DTYPES, finished, home_of, is_mean, native_backend
from quoit.compression_state import Kept, check, norm_of, restore, summed, unit_of
from quoit.torch_calls import or_default


@dataclass(frozen=True)
class _Piece:
    """A parameter's place in the blocks of its module: so many elements of each rank's block."""

    name: str
    shape: torch.Size
    begin: int
    count: int


class ShardedState:
    """Which codec each sharded module has, and what compression lost of its gradients.

    model: fully_shard was applied to it, or to some of its submodules.
    codec: of gradients: one for all modules, or by patterns (as in a shell) of the names of the
        modules that fully_shard was applied to, the first that matches counting; "" is the name of
        `model` itself. None: as they are. Or quoit.Auto(), which measures the links here and now.
    parameters: of parameters on their way to the ranks that compute with them: all ranks then
        compute with the same rounded ones, and each optimizes its own shard of the exact ones.
    start: how many steps of a module go by before compression begins.
    feedback: whether what was lost is added to the next gradient, by default as the codec advises.
        It takes 4 bytes for each parameter of the whole module, on every rank.
    scaler: the torch.amp.GradScaler in use, if any: what was lost is kept unscaled.
    min_elements: modules with fewer travel as they are.

    With HSDP, what travels inside a shard group is compressed, and not the all_reduce across them.
    """

    def __init__(
        self,
        model: nn.Module,
        codec: Choice | Auto,
        *,
        parameters: Codec | None = None,
        start: int = 0,
        feedback: bool | None = None,
        scaler: torch.amp.GradScaler | None = None,
        min_elements: int = 4096,
    ) -> None:
        self.start = start
        self.scaler = scaler
        self.counts = _build.load_c10d().CompressionReport()
        self._units: dict[str, _ReduceScatter] = {}
        self.chosen: compression_auto.Chosen | None = None
        if isinstance(codec, Auto):
            largest = max(p.numel() * p.element_size() for p in model.parameters())
            group = or_default(None)
            device = next(model.parameters()).device
            self.chosen = compression_auto.choose(codec, group, largest, device)
            codec = self.chosen.codec
        patterns = patterns_of(codec)
        for name, module in model.named_modules():
            if not isinstance(module, FSDPModule):
                continue
            assert isinstance(module, nn.Module)
            of = first_match(patterns, name)
            if of is None and parameters is None:
                continue
            pieces, group = _pieces(name, module)
            if sum(math.prod(piece.shape) for piece in pieces) < max(1, min_elements):
                continue
            for each in (of, parameters):
                if isinstance(each, LowRank):
                    raise _core.UsageError(
                        f"compression of '{name}' by LowRank: the shards of fully_shard are no "
                        "matrices; choose another codec, or DistributedDataParallel"
                    )
            if of is not None:
                wanted = of.feedback if feedback is None else feedback
                unit = _ReduceScatter(self, of, pieces, group, wanted)
                self._units[name] = unit
                module.set_custom_reduce_scatter(unit)  # type: ignore[arg-type]
            if parameters is not None:
                module.set_custom_all_gather(_AllGather(parameters, group))  # type: ignore[arg-type]
        self._group = next((unit.group for unit in self._units.values()), None)

    @property
    def codecs(self) -> Mapping[str, Codec]:
        """Of the gradients of each module by name; those that are not here travel as they are."""
        return {name: unit.codec for name, unit in self._units.items()}

    def report(self) -> Mapping[str, int | float]:
        """Bytes and seconds of this rank since the beginning, gradients only."""
        return {
            "calls": self.counts.calls,
            "plain_bytes": self.counts.plain_bytes,
            "sent_bytes": self.counts.sent_bytes,
            "codec_seconds": self.counts.codec_seconds,
        }

    def residual_norm(self) -> float:
        """The 2-norm of all that this rank lost and has not sent, as if the loss were unscaled."""
        residuals = (unit.residual for unit in self._units.values())
        return norm_of(residual for residual in residuals if residual is not None)

    def state_dict(self) -> dict[str, Any]:
        """Residuals by parameter name, whole and summed over the ranks; all ranks call this."""
        kept = self._kept()
        parameters = {} if self._group is None else summed(kept, self._group)
        return {"step": self._step(), "parameters": parameters}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what :meth:`state_dict` gave, to any number of ranks."""
        if self._group is None:
            return
        kept = self._kept()
        check(state, kept, self._group)
        for name, tensors in kept.items():
            restore(Kept(tensors["residual"]), state["parameters"][name], self._group.size())
        for unit in self._units.values():
            unit.step = int(state["step"])
            unit.pack({name: each["residual"] for name, each in kept.items()})

    def _step(self) -> int:
        return max((unit.step for unit in self._units.values()), default=0)

    def _kept(self) -> dict[str, dict[str, Tensor]]:
        return {
            name: {"residual": residual}
            for unit in self._units.values()
            for name, residual in unit.unpack().items()
        }


class _Comm:
    """One module's way between ranks. counts: where its calls are counted."""

    def __init__(self, codec: Codec, group: dist.ProcessGroup, counts: Any) -> None:
        self.codec = codec
        self.group = group
        self._counts = counts
        self._compressions: dict[int, Any] = {}

    def _compression(self, count: int, device: torch.device) -> Any:
        """Of blocks of so many elements on the device, one for each rank; made once."""
        if count not in self._compressions:
            native = _build.load_c10d()
            residuals = self._residuals(count, device)
            parts = [native.Part(count, self.codec.name, one) for one in residuals]
            self._compressions[count] = native.Compression(parts, self._counts)
        return self._compressions[count]

    def _residuals(self, count: int, device: torch.device) -> Sequence[Tensor | None]:
        return [None] * self.group.size()

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory for fully_shard's buffers: what ranks of one host read in place, if possible."""
        backend = native_backend(self.group)
        if device.type == "cpu" and backend.supports_tensor_alloc(device):
            memory: Tensor = backend.allocate_tensor(math.prod(size), dtype=dtype, device=device)
            return memory
        return torch.empty(*size, dtype=dtype, device=device)


class _ReduceScatter(_Comm):
    """One module's reduce-scatter, of gradients laid out rank by rank."""

    def __init__(
        self,
        state: ShardedState,
        codec: Codec,
        pieces: Sequence[_Piece],
        group: dist.ProcessGroup,
        feedback: bool,
    ) -> None:
        super().__init__(codec, group, state.counts)
        self.state = state
        self.pieces = pieces
        self.step = 0
        self._block = sum(piece.count for piece in pieces)
        self.residual = torch.zeros(group.size() * self._block) if feedback else None

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> dist.Work | None:
        self.step += 1
        if self.step <= self.state.start or input_tensor.dtype not in DTYPES:
            plain: dist.Work | None = dist.reduce_scatter_tensor(
                output_tensor, input_tensor, op, group, async_op
            )
            return plain
        count = input_tensor.numel() // group.size()
        work: dist.Work | None = _build.load_c10d().compressed_reduce_scatter(
            native_backend(group),
            input_tensor,
            output_tensor,
            self._compression(count, input_tensor.device),
            is_mean(op),
            unit_of(self.state.scaler),
            async_op=async_op,
        )
        return finished(work, async_op)

    def _residuals(self, count: int, device: torch.device) -> Sequence[Tensor | None]:
        # Parameters without a gradient are left out, and then nothing lies where it used to.
        if self.residual is None or count != self._block:
            return super()._residuals(count, device)
        self.residual = self.residual.to(home_of(device, self.group))
        return torch.split(self.residual, count)

    def unpack(self) -> dict[str, Tensor]:
        """Copies of the residuals of whole parameters, by name."""
        if self.residual is None:
            return {}
        blocks = self.residual.view(self.group.size(), self._block)
        return {
            piece.name: blocks[:, piece.begin : piece.begin + piece.count].flatten()[
                : math.prod(piece.shape)
            ]
            for piece in self.pieces
        }

    def pack(self, residuals: Mapping[str, Tensor]) -> None:
        """The reverse of :meth:`unpack`."""
        if self.residual is None:
            return
        ranks = self.group.size()
        self.residual.zero_()
        blocks = self.residual.view(ranks, self._block)
        for piece in self.pieces:
            padded = torch.zeros(ranks * piece.count, device=self.residual.device)
            padded[: math.prod(piece.shape)] = residuals[piece.name].view(-1)
            blocks[:, piece.begin : piece.begin + piece.count] = padded.view(ranks, piece.count)


class _AllGather(_Comm):
    """One module's all-gather of parameters."""

    def __init__(self, codec: Codec, group: dist.ProcessGroup) -> None:
        super().__init__(codec, group, _build.load_c10d().CompressionReport())

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        async_op: bool = False,
    ) -> dist.Work | None:
        if input_tensor.dtype not in DTYPES:
            plain: dist.Work | None = dist.all_gather_into_tensor(
                output_tensor, input_tensor, group, async_op
            )
            return plain
        mine = output_tensor.view(group.size(), -1)[group.rank()]
        if mine.data_ptr() != input_tensor.data_ptr():
            mine.copy_(input_tensor.view(-1))
        work: dist.Work | None = _build.load_c10d().compressed_all_gather(
            native_backend(group),
            output_tensor,
            self._compression(mine.numel(), output_tensor.device),
            async_op=async_op,
        )
        return finished(work, async_op)


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(module, FSDPModule) for module in model.modules())


def _pieces(name: str, module: nn.Module) -> tuple[list[_Piece], dist.ProcessGroup]:
    """How the gradients of a module's own parameters lie in the blocks, in the order of FSDP2."""
    inner = {
        p
        for other in module.modules()
        if other is not module and isinstance(other, FSDPModule)
        for p in other.parameters()
    }
    pieces: list[_Piece] = []
    begin = 0
    group: dist.ProcessGroup | None = None
    for own, parameter in module.named_parameters():
        if parameter in inner:
            continue
        full = f"{name}.{own}" if name else own
        sharded: Any = parameter if isinstance(parameter, DTensor) else None
        shard = sharded.placements[-1] if sharded is not None else None
        if not isinstance(shard, Shard) or shard.dim != 0:
            raise _core.UsageError(
                f"compression of '{full}', which is laid out as {shard}: only parameters that "
                "fully_shard splits along dimension 0 can be compressed; give its module None as "
                "codec"
            )
        mesh = sharded.device_mesh
        group = mesh.get_group(mesh.ndim - 1)
        shape = parameter.shape
        rows = -(-shape[0] // group.size())
        pieces.append(_Piece(full, shape, begin, rows * math.prod(shape[1:])))
        begin += pieces[-1].count
    return pieces, or_default(group)
