"""Gradient compression of torch models, by quoit's codecs and by torch's own hooks.

Most models here are a loss that is linear in its parameters, so that each rank's gradient is known
beforehand, whatever was trained before.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import (
    default_hooks,
    powerSGD_hook,
    quantization_hooks,
)
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import quoit
from quoit import compression_auto
from quoit.codecs import Codec
from torch_cases import group  # noqa: F401  (stage.py asks for it)

Case = Callable[[Any], None]

CASES: dict[str, Case] = {}

DEVICE = "cpu"  # where models are: torch_device_compression_cases.py has another

CODECS: tuple[Codec, ...] = (
    quoit.Bf16(),
    quoit.Bf16(stochastic=True),
    quoit.Fp8(),
    quoit.Int8(),
    quoit.Int4(),
    quoit.Int4(hadamard=True),
    quoit.TopK(0.05),
    quoit.TopK(0.05),
    quoit.Sign(),
    quoit.LowRank(2),
    quoit.LowRank(2, alternate=False),
)
# Uncompressed: the last two.
SHAPES = {
    "wide": (30, 400),
    "conv": (24, 16, 5, 5),
    "tall": (5000, 3),
    "bias": (70,),
    "few": (4, 9),
}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


class Linear(nn.Module):
    """The sum of parameters times given numbers, which are its gradients."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.parts = nn.ParameterDict(
            {name: torch.zeros(shape, dtype=dtype) for name, shape in SHAPES.items()}
        )

    def forward(self, gradients: dict[str, Tensor]) -> Tensor:
        used = [(self.parts[name] * g.to(DEVICE)).sum() for name, g in gradients.items()]
        return torch.stack(used).sum()


class ChannelsLast(nn.Module):
    """The same of one parameter, whose innermost dimension is not the last."""

    def __init__(self) -> None:
        super().__init__()
        zeros = torch.zeros(SHAPES["conv"]).to(memory_format=torch.channels_last)
        self.weight = nn.Parameter(zeros)

    def forward(self, gradient: Tensor) -> Tensor:
        return (self.weight * gradient).sum()


def _gradients(step: int, rank: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return {
        name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()
    }


def _mean(step: int, ranks: int) -> dict[str, Tensor]:
    each = [_gradients(step, rank) for rank in range(ranks)]
    return {name: torch.stack([g[name].double() for g in each]).mean(0) for name in SHAPES}


def _ddp(pg: Any, model: nn.Module | None = None, **options: Any) -> DistributedDataParallel:
    """With several buckets, which are built anew after the first step."""
    return DistributedDataParallel(
        (Linear() if model is None else model).to(DEVICE),
        process_group=pg,
        bucket_cap_mb=0.05,
        **options,
    )


def _same_everywhere(pg: Any, *tensors: Tensor) -> None:
    for tensor in [each.cpu() for each in tensors]:
        others = [torch.empty_like(tensor) for _ in range(dist.get_world_size(pg))]
        dist.all_gather(others, tensor.contiguous(), group=pg)
        bits = [other.contiguous().view(torch.uint8) for other in others]
        assert all(torch.equal(bits[0], other) for other in bits)


def _exact(tensor: Tensor) -> Tensor:
    """In double precision on the CPU."""
    return tensor.detach().cpu().double()


def _near(got: Tensor, wanted: Tensor, tolerance: float) -> None:
    wanted = _exact(wanted)
    wrong = float((_exact(got) - wanted).norm() / wanted.norm())
    assert wrong <= tolerance, (wrong, tolerance)


def _residuals(state: Any, ranks: int) -> dict[str, Tensor]:
    """The sums over ranks, in double precision and in the shapes of the parameters."""
    sums = {}
    for name, kept in state._kept.items():
        total = _exact(kept.residual)
        dist.all_reduce(total, group=state.group)
        sums[name.removeprefix("parts.")] = total.view(SHAPES[name.removeprefix("parts.")])
    return sums


@case
def every_codec_in_ddp(pg: Any) -> None:
    """What comes out plus what is kept is the mean of what went in; the same on all ranks."""
    rank, n = dist.get_rank(pg), dist.get_world_size(pg)
    for codec in CODECS:
        model = _ddp(pg)
        state = quoit.compress(model, codec, feedback=True)
        out = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
        for step in range(6):
            model.zero_grad()
            model(_gradients(step, rank)).backward()
            for name, parameter in model.module.parts.items():
                _same_everywhere(pg, parameter.grad)
                out[name] += _exact(parameter.grad)
        kept = _residuals(state, n)
        compressed = {name for name, of in state.codecs.items() if of is not None}
        assert compressed == {f"parts.{name}" for name in kept} >= {"parts.wide", "parts.conv"}
        for name in SHAPES:
            wanted = torch.stack([_mean(step, n)[name] for step in range(6)]).sum(0)
            _near(out[name] + kept.get(name, torch.zeros(())), wanted, 2e-6)
        assert state.report().step == 6
        assert (state.report().ratio > 1.3) or isinstance(codec, quoit.LowRank)
        assert state.residual_norm() > 0


@case
def feedback_is_what_the_codec_advises(pg: Any) -> None:
    for codec, kept in ((quoit.Int8(), 0), (quoit.Int4(), 3), (quoit.Sign(vote=True), 0)):
        state = quoit.CompressionState(_ddp(pg), codec)
        assert len(state.state_dict()["parameters"]) == kept
    state = quoit.CompressionState(_ddp(pg), quoit.Int4(), feedback=False)
    assert not state.state_dict()["parameters"]
    with pytest.raises(quoit.UsageError, match=r"'parts\.conv' by LowRank with feedback=False"):
        quoit.CompressionState(_ddp(pg), quoit.LowRank(), feedback=False)


@case
def codecs_by_name(pg: Any) -> None:
    rank, n = dist.get_rank(pg), dist.get_world_size(pg)
    model = _ddp(pg)
    state = quoit.CompressionState(
        model,
        {"*.conv": quoit.Int4(), "*.tall": None, "*": quoit.Int8()},
        exclude=["*.wide"],
    )
    model.register_comm_hook(state, quoit.compression_hook)
    assert {name: of and of.name for name, of in state.codecs.items()} == {
        "parts.wide": None,
        "parts.conv": "int4",
        "parts.tall": None,
        "parts.bias": None,
        "parts.few": None,
    }
    model(_gradients(0, rank)).backward()
    for name, parameter in model.module.parts.items():
        _near(parameter.grad, _mean(0, n)[name], 0.2 if name == "conv" else 1e-6)
    with pytest.raises(quoit.UsageError, match=r"compression of 'embed\.\*': no parameter"):
        quoit.CompressionState(model, {"embed.*": quoit.Int8(), "*": None})


@case
def it_starts_later(pg: Any) -> None:
    rank, n = dist.get_rank(pg), dist.get_world_size(pg)
    model = _ddp(pg)
    state = quoit.compress(model, quoit.Sign(), start=2)
    for step in range(4):
        model.zero_grad()
        model(_gradients(step, rank)).backward()
        wrong = _exact(model.module.parts["wide"].grad) - _mean(step, n)["wide"]
        assert (float(wrong.norm()) > 1) == (step >= 2)
    assert state.step == 4


@case
def accumulation_scaling_and_views(pg: Any) -> None:
    """no_sync; a loss scale that changes: what was lost is kept without it; gradients in place."""
    rank, n = dist.get_rank(pg), dist.get_world_size(pg)

    class Scaler(torch.amp.GradScaler):
        scale_now = 1.0

        def get_scale(self) -> float:
            return self.scale_now

    scaler = Scaler("cpu", enabled=False)
    model = _ddp(pg, gradient_as_bucket_view=True)
    state = quoit.compress(model, quoit.Int4(), scaler=scaler)
    out = torch.zeros(SHAPES["wide"], dtype=torch.float64)
    for step in range(6):
        scaler.scale_now = 2.0 ** (7 * step % 5)
        model.zero_grad()
        with model.no_sync():
            (model(_gradients(2 * step, rank)) * scaler.scale_now).backward()
        (model(_gradients(2 * step + 1, rank)) * scaler.scale_now).backward()
        out += _exact(model.module.parts["wide"].grad) / scaler.scale_now
    wanted = torch.stack([_mean(step, n)["wide"] for step in range(12)]).sum(0)
    _near(out + _residuals(state, n)["wide"], wanted, 2e-6)


@case
def unused_parameters(pg: Any) -> None:
    """A parameter that a rank leaves out, and one that all do: DDP then ignores what comes out."""
    rank, n = dist.get_rank(pg), dist.get_world_size(pg)
    model = _ddp(pg, find_unused_parameters=True)
    state = quoit.compress(model, quoit.Int4())
    out = torch.zeros(SHAPES["wide"], dtype=torch.float64)
    wanted = torch.zeros(SHAPES["wide"], dtype=torch.float64)
    for step in range(6):
        given = _gradients(step, rank)
        users = {0: n, 1: 0, 2: 1}[step % 3]  # how many ranks use it
        if rank >= users:
            del given["wide"]
        model.zero_grad()
        model(given).backward()
        assert (model.module.parts["wide"].grad is None) == (users == 0)
        if users > 0:
            out += _exact(model.module.parts["wide"].grad)
        wanted += sum(_gradients(step, r)["wide"].double() for r in range(users)) / n
    _near(out + _residuals(state, n)["wide"], wanted, 2e-6)


@case
def what_is_not_finite_passes(pg: Any) -> None:
    """All ranks see it in that step, and none in the next."""
    rank, n = dist.get_rank(pg), dist.get_world_size(pg)
    for codec in CODECS:
        model = _ddp(pg)
        quoit.compress(model, codec, feedback=True)
        for step in range(5):
            given = _gradients(step, rank)
            if step == 2 and rank == n - 1:
                given["wide"][3, 5] = math.inf
                given["few"][0, 0] = math.nan
            model.zero_grad()
            model(given).backward()
            gradients = [p.grad for p in model.parameters()]
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            assert bool(norm.isfinite()) == (step != 2), (codec, step)
            assert all(bool(g.isfinite().all()) for g in gradients) == (step != 2)


@case
def other_dtypes_and_layouts(pg: Any) -> None:
    rank, n = dist.get_rank(pg), dist.get_world_size(pg)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        model = _ddp(pg, Linear(dtype))
        state = quoit.compress(model, quoit.Int8())
        model(_gradients(0, rank, dtype)).backward()
        assert (state.codecs["parts.wide"] is None) == (dtype == torch.float64)
        for name, parameter in model.module.parts.items():
            _near(parameter.grad, _mean(0, n)[name], 0.02)
            _same_everywhere(pg, parameter.grad.cpu().view(torch.uint8))
    for codec in (quoit.Int8(), quoit.LowRank(2)):
        model = _ddp(pg, ChannelsLast())
        state = quoit.compress(model, codec, feedback=True)
        given = [_gradients(7, r)["conv"] for r in range(n)]
        model(given[rank].to(DEVICE)).backward()
        kept = state._kept["weight"].residual.cpu().clone()
        dist.all_reduce(kept, group=pg)
        weight = model.module.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)
        lost = torch.as_strided(kept, weight.size(), weight.stride())
        _near(weight.grad.cpu() + lost, torch.stack(given).double().mean(0), 2e-6)


def _steps(
    model: DistributedDataParallel, steps: range, given: Callable[..., Any] = _gradients
) -> Iterator[Tensor]:
    for step in steps:
        model.zero_grad()
        model(given(step, dist.get_rank(model.process_group))).backward()
        yield model.module.parts["wide"].grad.clone()


@case
def a_checkpoint_goes_on(pg: Any) -> None:
    """With its own state, as if nothing had been; with the summed one, nothing is lost."""
    n = dist.get_world_size(pg)
    for codec in (quoit.Int4(), quoit.LowRank(2), quoit.TopK(0.05)):
        model = _ddp(pg)
        state = quoit.compress(model, codec)
        list(_steps(model, range(3)))
        local, summed = copy.deepcopy(state.state_dict(local=True)), state.state_dict()
        expected = list(_steps(model, range(3, 6)))
        state.load_state_dict(local)
        for got, wanted in zip(_steps(model, range(3, 6)), expected, strict=True):
            assert torch.equal(got, wanted)

        model = _ddp(pg)
        again = quoit.compress(model, codec)
        again.load_state_dict(summed)
        assert again.step == 3
        for name, kept in again._kept.items():
            whole = kept.residual.clone()
            dist.all_reduce(whole, group=pg)
            _near(whole, _exact(summed["parameters"][name]["residual"]), 1e-6)
        with pytest.raises(quoit.UsageError, match="only that rank of as many can load it"):
            again.load_state_dict({**local, "ranks": n + 1})
        del local["parameters"]["parts.wide"]
        with pytest.raises(quoit.UsageError, match=r"has nothing of 'parts\.wide'"):
            again.load_state_dict(local)


@case
def a_checkpoint_goes_to_fewer_ranks(pg: Any) -> None:
    """By torch.distributed.checkpoint: what was lost on all ranks is kept by those that remain."""
    rank, n = dist.get_rank(pg), dist.get_world_size(pg)
    model = _ddp(pg)
    state = quoit.compress(model, quoit.Int4())
    list(_steps(model, range(3)))
    lost = _residuals(state, n)["wide"]
    folder = [tempfile.mkdtemp() if rank == 0 else ""]
    dist.broadcast_object_list(folder, 0, group=pg)
    dcp.save({"compression": state}, checkpoint_id=folder[0], process_group=pg)
    fewer = list(range(max(1, n - 1)))
    smaller = dist.new_group(fewer)
    if rank in fewer:
        model = _ddp(smaller)
        again = quoit.compress(model, quoit.Int4())
        dcp.load({"compression": again}, checkpoint_id=folder[0], process_group=smaller)
        assert again.step == 3
        _near(_residuals(again, len(fewer))["wide"], lost, 1e-6)
        list(_steps(model, range(3, 5)))
        assert (Path(folder[0]) / ".metadata").exists()
    dist.barrier(pg)


@case
def replicas_are_compared(pg: Any) -> None:
    rank = dist.get_rank(pg)
    model = _ddp(pg)
    quoit.compress(model, quoit.Int8(), check_every=2)
    list(_steps(model, range(4)))
    if rank == dist.get_world_size(pg) - 1:
        with torch.no_grad():
            model.module.parts["conv"].view(-1)[7] += 1e-6
    list(_steps(model, range(4, 5)))
    with pytest.raises(Exception, match="replicas differ"):
        list(_steps(model, range(5, 6)))


@case
def one_tensor(pg: Any) -> None:
    rank, n = dist.get_rank(pg), dist.get_world_size(pg)
    given = [_gradients(0, r)["wide"] for r in range(n)]
    wanted = torch.stack(given).double().sum(0)
    residual = torch.zeros(30, 400, device=DEVICE)
    for op, scale in ((dist.ReduceOp.SUM, 1), (dist.ReduceOp.AVG, n)):
        x = given[rank].to(DEVICE, copy=True)
        assert quoit.all_reduce(x, op, pg, codec=quoit.Int8()) is None
        _near(x, wanted / scale, 0.02)
    x = given[rank].to(DEVICE, copy=True)
    work = quoit.all_reduce(x, dist.ReduceOp.AVG, pg, True, codec=quoit.Int4(), residual=residual)
    assert work is not None
    assert work.get_future().wait()[0].data_ptr() == x.data_ptr()
    dist.all_reduce(residual, group=pg)
    _near(x + residual, wanted / n, 2e-6)
    x = given[rank].to(DEVICE, copy=True)
    quoit.all_reduce(x, group=pg)
    _near(x, wanted, 1e-6)
    strided = torch.zeros(400, 30, device=DEVICE).T
    strided.copy_(given[rank])
    quoit.all_reduce(strided, group=pg, codec=quoit.Int8())
    _near(strided, wanted, 0.02)
    for message, arguments in {
        "only SUM and AVG": {"op": dist.ReduceOp.MAX, "codec": quoit.Int8()},
        "a residual without a codec": {"residual": residual},
        "LowRank: it keeps bases": {"codec": quoit.LowRank()},
        "it must be contiguous on": {"codec": quoit.Int8(), "residual": residual.double()},
    }.items():
        with pytest.raises(ValueError, match=message):
            quoit.all_reduce(x, group=pg, **arguments)
    with pytest.raises(ValueError, match="only float32, bfloat16 and float16"):
        quoit.all_reduce(
            torch.ones(5000, dtype=torch.int32, device=DEVICE), group=pg, codec=quoit.Int8()
        )


@case
def auto_chooses_by_what_it_measures(pg: Any) -> None:
    auto = quoit.Auto(max_loss=0.1)
    measured = {"without": 10.0, "bf16": 6.0, "int8": 5.0, "int4": 4.0, "topk": 1.0, "sign": 0.5}

    def times(ways: list[Codec | None], *_: Any) -> list[float]:
        return [measured["without" if way is None else way.name.split("(")[0]] for way in ways]

    with mock.patch.object(compression_auto, "_measure", times):
        model = _ddp(pg)
        state = quoit.compress(model, auto)
        assert state.codecs["parts.wide"] == quoit.Int4()
        assert state.chosen.saved(2 * state.chosen.nbytes) == 12.0
        list(_steps(model, range(2)))
        measured |= {"int4": 9.5, "int8": 9.5, "bf16": 9.5}
        model = _ddp(pg)
        state = quoit.compress(model, auto)
        assert not any(state.codecs.values())
        list(_steps(model, range(2)))
        assert state.step == 0  # no hook


@case
def auto_measures(pg: Any) -> None:
    """Whatever the links are like, all ranks choose alike."""
    model = _ddp(pg)
    state = quoit.compress(model, quoit.Auto(max_loss=0.1, every=1))
    names = [str(state.chosen.codec)]
    everybodys: list[Any] = [None] * dist.get_world_size(pg)
    dist.all_gather_object(everybodys, names, group=pg)
    assert all(other == names for other in everybodys)
    list(_steps(model, range(2)))


@case
def torchs_own_hooks(pg: Any) -> None:
    """Also those whose callbacks start collectives, with many buckets and unused parameters.

    Not batched_powerSGD_hook, which fails by itself in torch 2.13: it hands a matrix to a function
    that takes batches of them.
    """
    rank, n = dist.get_rank(pg), dist.get_world_size(pg)
    hooks: dict[Any, tuple[Callable[[], Any], float]] = {
        default_hooks.allreduce_hook: (lambda: pg, 1e-6),
        default_hooks.fp16_compress_hook: (lambda: pg, 1e-3),
        default_hooks.bf16_compress_hook: (lambda: pg, 1e-2),
        quantization_hooks.quantization_pertensor_hook: (lambda: pg, 0.1),
        quantization_hooks.quantization_perchannel_hook: (lambda: pg, 0.1),
        powerSGD_hook.powerSGD_hook: (lambda: _power_sgd(pg), 2.0),
        default_hooks.fp16_compress_wrapper(powerSGD_hook.powerSGD_hook): (
            lambda: _power_sgd(pg),
            2.0,
        ),
    }
    for find_unused in (False, True):
        for hook, (state, tolerance) in hooks.items():
            model = _ddp(pg, find_unused_parameters=find_unused)
            model.register_comm_hook(state(), hook)
            for step in range(5):
                model.zero_grad()
                model(_gradients(step, rank)).backward()
                for name, parameter in model.module.parts.items():
                    _near(parameter.grad, _mean(step, n)[name], tolerance)
                    _same_everywhere(pg, parameter.grad)


def _power_sgd(pg: Any) -> powerSGD_hook.PowerSGDState:
    return powerSGD_hook.PowerSGDState(
        pg, matrix_approximation_rank=2, start_powerSGD_iter=2, min_compression_rate=0.5
    )


@case
def hooks_may_overlap(pg: Any) -> None:
    """One that says so is called as it is; the others get futures that are complete."""
    rank = dist.get_rank(pg)
    complete: list[bool] = []

    def hook(state: Any, bucket: Any) -> Any:
        work = dist.all_reduce(bucket.buffer(), group=pg, async_op=True)
        future = work.get_future()
        complete.append(future.done())
        return future.then(lambda done: done.value()[0])

    hook.__annotations__.clear()
    model = _ddp(pg)
    model.register_comm_hook(None, hook)
    model(_gradients(0, rank)).backward()
    assert complete
    assert all(complete)
    hook.quoit_overlaps = True  # type: ignore[attr-defined]
    model = _ddp(pg)
    model.register_comm_hook(None, hook)
    assert model.reducer is not None
    model(_gradients(0, rank)).backward()


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Linear(48, 130)
        self.second = nn.Linear(130, 48)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.tanh(self.first(x)))
        return y


def _sharded(pg: Any) -> nn.Module:
    mesh = dist.DeviceMesh.from_group(pg, DEVICE)
    model = Layers().to(DEVICE)
    fully_shard(model.first, mesh=mesh)
    fully_shard(model.second, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def _rows(rank: int, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(8, 48, generator=generator)


@case
def sharded_models(pg: Any) -> None:
    """fully_shard: gradients by every codec; what is lost is kept; checkpoints; parameters too."""
    rank, n = dist.get_rank(pg), dist.get_world_size(pg)
    for codec in CODECS[:-2]:
        model, alone = _sharded(pg), Layers()
        state = quoit.compress(model, codec, feedback=True)
        assert set(state.codecs) == {"first", "second"}
        out = torch.zeros(130, 48, dtype=torch.float64)
        wanted = torch.zeros(130, 48, dtype=torch.float64)
        for step in range(4):
            model.zero_grad()
            model(_rows(rank, step).to(DEVICE)).square().mean().backward()
            out += _exact(model.first.weight.grad.full_tensor())
            alone.zero_grad()
            for r in range(n):
                (alone(_rows(r, step)).square().mean() / n).backward()
            wanted += alone.first.weight.grad.double()
        saved = state.state_dict()
        assert saved["step"] == 4
        lost = _exact(saved["parameters"]["first.weight"]["residual"]).view(130, 48)
        _near(out + lost, wanted, 1e-5)
        again = quoit.compress(model, codec, feedback=True)
        again.load_state_dict(saved)
        kept = again.state_dict()["parameters"]
        for name, tensors in saved["parameters"].items():
            _near(kept[name]["residual"], _exact(tensors["residual"]), 1e-6)
        report = state.report()
        assert report["plain_bytes"] > 1.5 * report["sent_bytes"] > 0
        model.zero_grad()
        model(_rows(rank, 9).to(DEVICE)).square().mean().backward()  # from the loaded state

    model, alone = _sharded(pg), Layers()
    quoit.compress(model, quoit.Int8(), parameters=quoit.Int8())
    got = model(_rows(rank, 0).to(DEVICE))
    _near(got, alone(_rows(rank, 0)).double(), 0.05)
    _same_everywhere(pg, model.first.weight.full_tensor())
    with pytest.raises(quoit.UsageError, match="are no matrices"):
        quoit.compress(_sharded(pg), quoit.LowRank())


@case
def mistakes(pg: Any) -> None:
    with pytest.raises(quoit.UsageError, match="takes a DistributedDataParallel, or a module"):
        quoit.compress(Linear())
    with pytest.raises(quoit.UsageError, match="none may be negative"):
        quoit.compress(_ddp(pg), start=-1)
    gloo = dist.new_group(backend="gloo")
    with pytest.raises(quoit.UsageError, match="in a group of backend 'gloo'"):
        quoit.compress(_ddp(gloo))
    with pytest.raises(quoit.UsageError, match="in a group of backend 'gloo'"):
        quoit.all_reduce(torch.ones(5), group=gloo, codec=quoit.Int8())
    dist.destroy_process_group(gloo)
