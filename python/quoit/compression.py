"""Gradient compression of torch models: DistributedDataParallel's communication hook.

    ddp = DistributedDataParallel(model)
    state = quoit.compress(ddp, quoit.Int8())

The work is one native call per bucket, in the order of the buckets (csrc/collective/compressed.h);
here is what belongs to the parameters: which codec each has, and what was lost of it.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from quoit import _build, _core, compression_auto
from quoit.codecs import Auto, Choice, Codec, Int8, LowRank, first_match, patterns_of
from quoit.compression_calls import DTYPES, home_of, native_backend
from quoit.compression_state import (
    Kept,
    announce_unused,
    check,
    keep,
    matrix_shape,
    norm_of,
    restore,
    summed,
    take_back,
    unit_of,
)

if TYPE_CHECKING:
    from torch._C._distributed_c10d import GradBucket

log = logging.getLogger("quoit")

# Tensors below this travel as they are, and so do those of one dimension: biases and norms, which
# are few, and sensitive.
SMALL = 4096

_DEFAULT = Int8()


@dataclass(frozen=True)
class StepReport:
    """What this rank sent in one step, or up to one."""

    step: int = 0
    calls: int = 0
    plain_bytes: int = 0  # that it would have sent without codecs
    sent_bytes: int = 0
    codec_seconds: float = 0.0  # in kernels, on the engine's thread

    @property
    def ratio(self) -> float:
        """Of the bytes without codecs to those with."""
        return self.plain_bytes / self.sent_bytes if self.sent_bytes else 1.0

    def since(self, before: StepReport) -> StepReport:
        return StepReport(
            self.step,
            self.calls - before.calls,
            self.plain_bytes - before.plain_bytes,
            self.sent_bytes - before.sent_bytes,
            self.codec_seconds - before.codec_seconds,
        )


@dataclass(frozen=True)
class _Plan:
    """How one bucket goes; made when its parameters are seen together for the first time."""

    native: Any  # _c10d.Compression
    names: list[str]
    counts: list[int]


class CompressionState:
    """Which codec each parameter has, and what compression lost of it: the state of the hook.

    model: a DistributedDataParallel, whose parameters are meant by name (without "module.").
    codec: one for all parameters, or by patterns (as in a shell) of their names, the first that
        matches counting: ``{"embed.*": quoit.TopK(0.01), "*": quoit.Int8()}``. None: as it is.
        Or quoit.Auto(), which measures the links here and now; all ranks then get here together.
    start: how many steps go by before compression begins.
    exclude: patterns of names that travel as they are.
    feedback: whether what was lost of a parameter is added to its next gradient, by default as the
        codec advises. It takes 4 bytes a parameter.
    scaler: the torch.amp.GradScaler in use, if any: what was lost is kept unscaled.
    check_every: in every so many steps, compare gradients and parameters of all ranks, bit by bit;
        ranks that differ raise an error. 0: never.
    min_elements: tensors with fewer travel as they are.

    Parameters of one dimension, with fewer than `min_elements`, or with another dtype than float32,
    bfloat16 and float16 travel as they are. Raises UsageError for a model whose group does not
    belong to quoit, and for patterns that match nothing.
    """

    def __init__(
        self,
        model: DistributedDataParallel,
        codec: Choice | Auto,
        *,
        start: int = 0,
        exclude: Iterable[str] = (),
        feedback: bool | None = None,
        scaler: torch.amp.GradScaler | None = None,
        check_every: int = 0,
        min_elements: int = SMALL,
    ) -> None:
        if start < 0 or check_every < 0 or min_elements < 0:
            raise _core.UsageError(
                f"compression with start={start}, check_every={check_every}, "
                f"min_elements={min_elements}: none may be negative"
            )
        self.step = 0
        self.start = start
        self.check_every = check_every
        self.group: dist.ProcessGroup = model.process_group
        self.chosen: compression_auto.Chosen | None = None
        self._backend = native_backend(self.group)
        self._scaler = scaler
        parameters = [(name, p) for name, p in model.module.named_parameters() if p.requires_grad]
        device = parameters[0][1].device if parameters else torch.device("cpu")
        self._home = home_of(device, self.group)
        self._gradient_bytes = sum(p.numel() * p.element_size() for _, p in parameters)
        if isinstance(codec, Auto):
            self.chosen = compression_auto.choose(codec, self.group, self._gradient_bytes, device)
            codec = self.chosen.codec
        self._names = {p: name for name, p in parameters}
        self._codecs = choose(parameters, codec, tuple(exclude), min_elements)
        self._kept: dict[str, Kept] = {}
        for name, parameter in parameters:
            of = self._codecs[name]
            if of is not None and (of.feedback if feedback is None else feedback):
                self._kept[name] = keep(parameter, of, self._home)
            elif isinstance(of, LowRank):
                raise _core.UsageError(
                    f"compression of '{name}' by LowRank with feedback=False: what it loses of one "
                    "gradient must go into the next: leave feedback out, or choose another codec"
                )
        # Only then may a parameter take part that no rank uses, whose gradient DDP throws away.
        self._unused = bool(self._kept) and model.find_unused_parameters and not model.static_graph
        self._plans: dict[tuple[int, ...], _Plan] = {}
        self._unit = (-1, 1.0)  # of this step
        self._counts = _build.load_c10d().CompressionReport()
        self._total = self._last = self._logged = StepReport()

    @property
    def codecs(self) -> Mapping[str, Codec | None]:
        """Of each parameter by name; None: as it is."""
        return self._codecs

    def report(self) -> StepReport:
        """Of the last step that is over."""
        return self._last

    def residual_norm(self) -> float:
        """The 2-norm of all that this rank has lost and not yet sent, as if the loss were unscaled.

        Reads all residuals. Between steps only.
        """
        return norm_of(kept.residual for kept in self._kept.values())

    # ---- Checkpoints.

    def state_dict(self, *, local: bool = False) -> dict[str, Any]:
        """By parameter name, for torch.save and for torch.distributed.checkpoint.

        Residuals are summed over the ranks, so every rank has the same state, and any number of
        ranks may load it: all ranks call this. With ``local=True`` nothing is communicated, and the
        state is this rank's own: only the same rank out of as many can load it.
        """
        kept = {name: each.tensors() for name, each in self._kept.items()}
        state: dict[str, Any] = {"step": self.step, "parameters": kept}
        if local:
            return {**state, "rank": self.group.rank(), "ranks": self.group.size()}
        return {**state, "parameters": summed(kept, self.group)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what either form of :meth:`state_dict` gave. Raises UsageError where it is that of
        other parameters or codecs, or of another rank or number of ranks."""
        check(state, {name: each.tensors() for name, each in self._kept.items()}, self.group)
        ranks = 1 if "ranks" in state else self.group.size()
        for name, each in self._kept.items():
            restore(each, state["parameters"][name], ranks)
        self.step = int(state["step"])

    # ---- The hook's part.

    def reduce(self, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        """Means of a bucket's gradients, to come."""
        buffer = bucket.buffer()
        active = self.step >= self.start
        if not active or buffer.is_sparse or buffer.dtype not in DTYPES:
            future = _plain_mean(buffer, self.group)
        else:
            future = self._compressed_mean(buffer, bucket)
        if bucket.is_last():
            self.step += 1
            number = self.step

            def over(done: torch.futures.Future[Tensor]) -> Tensor:
                result: Tensor = done.value()
                self._note(number)
                return result

            future = future.then(over)
        return future

    def _compressed_mean(self, buffer: Tensor, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        native, plan = _build.load_c10d(), self._plan(bucket)
        used = bucket.gradients() if self._unused else ()
        flags = announce_unused(used, self._home, self.group) if used else None
        fingerprint = None
        if self.check_every and (self.step + 1) % self.check_every == 0:
            fingerprint = native.fingerprint([p.detach() for p in bucket.parameters()])
        unit = self._unit_now()
        work = native.compressed_all_reduce(
            self._backend, buffer, plan.native, True, unit, 0, fingerprint, True
        )

        def over(done: torch.futures.Future[list[Tensor]]) -> Tensor:
            result: Tensor = done.value()[0]
            if flags is not None:
                kept = [self._kept.get(name) for name in plan.names]
                views = torch.split(result, plan.counts)
                take_back(views, kept, flags, 1 / (self.group.size() * unit))
            return result

        mean: torch.futures.Future[Tensor] = work.get_future().then(over)
        return mean

    # Asks the scaler once a step: its answer may have to come from a device.
    def _unit_now(self) -> float:
        if self._unit[0] != self.step:
            self._unit = (self.step, unit_of(self._scaler))
        return self._unit[1]

    def _plan(self, bucket: GradBucket) -> _Plan:
        parameters = bucket.parameters()
        key = tuple(map(id, parameters))  # DDP builds its buckets anew after the first step
        plan = self._plans.get(key)
        if plan is None:
            names = [self._names[p] for p in parameters]
            counts = [p.numel() for p in parameters]
            _check_layout(bucket, counts)
            parts = [self._part(*each) for each in zip(names, counts, strict=True)]
            native = _build.load_c10d().Compression(parts, self._counts)
            plan = self._plans[key] = _Plan(native, names, counts)
        return plan

    def _part(self, name: str, count: int) -> Any:
        part = _build.load_c10d().Part
        codec, kept = self._codecs[name], self._kept.get(name)
        if codec is None:
            return part(count, "raw")
        return part(count, codec.name, *(() if kept is None else kept.native()))

    def _note(self, step: int) -> None:
        counts = self._counts
        total = StepReport(
            step, counts.calls, counts.plain_bytes, counts.sent_bytes, counts.codec_seconds
        )
        self._last, self._total = total.since(self._total), total
        chosen, since = self.chosen, self._logged.step
        if chosen is None or chosen.codec is None or not chosen.every:
            return
        if step - since < chosen.every:
            return
        lately, self._logged = total.since(self._logged), total
        if self.group.rank() == 0:
            log.info(
                "quoit.Auto: %s in steps %d to %d: sent %.1f MB instead of %.1f MB (%.2fx), which "
                "spared about %.2f s of communication",
                chosen.codec.name,
                since + 1,
                step,
                lately.sent_bytes * 1e-6,
                lately.plain_bytes * 1e-6,
                lately.ratio,
                chosen.saved(self._gradient_bytes) * (step - since),
            )


def compression_hook(state: CompressionState, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """A communication hook of DDP::

        ddp.register_comm_hook(quoit.CompressionState(ddp, quoit.Int8()), quoit.compression_hook)

    Gives the mean of a bucket's gradients over the ranks.
    """
    return state.reduce(bucket)


# DistributedDataParallel wants these objects, not their names.
compression_hook.__annotations__.update(
    {"bucket": dist.GradBucket, "return": torch.futures.Future[Tensor]}  # type: ignore[attr-defined]
)


def compress(model: nn.Module, codec: Choice | Auto = _DEFAULT, **options: Any) -> Any:
    """Compresses the gradients of `model` from now on.

    model: a DistributedDataParallel; or a module that fully_shard was applied to, or submodules of
        it, when nothing more will be sharded.
    codec: quoit.Int8() by default; see :class:`CompressionState`, and :class:`ShardedState`, which
        also have the options.

    Returns the state, to be saved with the model where it has residuals. With quoit.Auto() that
    found no codec worth its while, nothing changes in the model.
    """
    if isinstance(model, DistributedDataParallel):
        state = CompressionState(model, codec, **options)
        if state.chosen is None or state.chosen.codec is not None:
            model.register_comm_hook(state, compression_hook)
        return state
    from quoit import compression_sharded  # FSDP2 takes a while to import

    if compression_sharded.is_sharded(model):
        return compression_sharded.ShardedState(model, codec, **options)
    raise _core.UsageError(
        f"quoit.compress({type(model).__name__}): it takes a DistributedDataParallel, or a module "
        "that fully_shard was applied to; for single tensors there is quoit.all_reduce"
    )


def choose(
    parameters: Sequence[tuple[str, nn.Parameter]],
    codec: Choice,
    exclude: tuple[str, ...],
    min_elements: int,
) -> dict[str, Codec | None]:
    """The codec of each parameter by name. Raises UsageError for patterns that match nothing."""
    patterns = patterns_of(codec)
    names = [name for name, _ in parameters]
    for pattern in (*patterns, *exclude):
        if pattern != "*" and not fnmatch.filter(names, pattern):
            raise _core.UsageError(
                f"compression of '{pattern}': no parameter has such a name; they are "
                f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
            )

    def of(name: str, parameter: nn.Parameter) -> Codec | None:
        if parameter.dtype not in DTYPES:
            return None
        if parameter.dim() < 2 or parameter.numel() < min_elements:
            return None
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in exclude):
            return None
        first = first_match(patterns, name)
        if isinstance(first, LowRank) and not pays(first, parameter):
            return None
        return first

    return {name: of(name, parameter) for name, parameter in parameters}


def pays(codec: LowRank, parameter: Tensor) -> bool:
    """Whether the factors of a matrix are at most half as large as it is."""
    rows, columns = matrix_shape(parameter)
    return 2 * codec.rank * (rows + columns) <= rows * columns and codec.rank <= min(rows, columns)


def _plain_mean(buffer: Tensor, group: dist.ProcessGroup) -> torch.futures.Future[Tensor]:
    if buffer.is_sparse:
        buffer.div_(group.size())
        work = dist.all_reduce(buffer, group=group, async_op=True)
    else:
        work = dist.all_reduce(buffer, dist.ReduceOp.AVG, group, async_op=True)
    mean: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return mean


def _check_layout(bucket: GradBucket, counts: Sequence[int]) -> None:
    """The gradients of a bucket follow one another: so it is in all versions of torch up to now."""
    buffer = bucket.buffer()
    begin = buffer.data_ptr()
    for gradient, count in zip(bucket.gradients(), counts, strict=True):
        if gradient.data_ptr() != begin and count:
            break
        begin += count * buffer.element_size()
    if begin != buffer.data_ptr() + buffer.nbytes:
        raise _core.UsageError(
            "compression: the gradients of a bucket of DistributedDataParallel do not follow one "
            f"another, as they do in the versions of torch that quoit knows; this is torch "
            f"{torch.__version__}: train without compression, and report it"
        )
