"""Cases of training with tensors of an accelerator, by any way: the same as on one CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import quoit
import tested_device
from torch_cases import Case
from torch_device_cases import group, on_device, ranks  # noqa: F401  (`group` is for stage.py)

CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def _trained(wrap: Callable[[nn.Module], nn.Module], device: str, part: slice) -> list[Tensor]:
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(20, 300), nn.ReLU(), nn.Linear(300, 4))
    model = wrap(model.to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(5):
        torch.manual_seed(step)
        x, y = torch.randn(12, 20), torch.randn(12, 4)
        loss = nn.functional.mse_loss(model(x[part].to(device)), y[part].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()]
    return [p.detach().cpu() for p in whole]


def _my_part(pg: Any) -> slice:
    each = 12 // dist.get_world_size(pg)
    return slice(dist.get_rank(pg) * each, (dist.get_rank(pg) + 1) * each)


def _same(got: list[Tensor], wanted: list[Tensor]) -> None:
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@case
def data_parallel_training(pg: Any) -> None:
    alone = _trained(lambda model: model, "cpu", slice(0, 12))
    for buckets in (25.0, 0.01):

        def ddp(model: nn.Module, size: float = buckets) -> nn.Module:
            return DistributedDataParallel(model, process_group=pg, bucket_cap_mb=size)

        _same(_trained(ddp, tested_device.NAME, _my_part(pg)), alone)


@case
def compressed_data_parallel_training(pg: Any) -> None:
    states = []

    def ddp(model: nn.Module) -> nn.Module:
        parallel = DistributedDataParallel(model, process_group=pg)
        states.append(quoit.compress(parallel, quoit.Int8()))
        return parallel

    alone = _trained(lambda model: model, "cpu", slice(0, 12))
    ours = _trained(ddp, tested_device.NAME, _my_part(pg))
    for one, tensor in zip(alone, ours, strict=True):
        torch.testing.assert_close(one, tensor, rtol=0.0, atol=2e-3)
        others = [torch.empty_like(tensor) for _ in ranks(pg)]
        dist.all_gather(others, tensor, group=pg)
        assert all(torch.equal(other, tensor) for other in others)
    # Of 7504 numbers, 6000 went as one byte, if this rank sends anything at all.
    report = states[0].report()
    assert report.step == 5
    assert report.sent_bytes <= report.plain_bytes / 2, report


@case
def sharded_training(pg: Any) -> None:
    mesh = dist.DeviceMesh.from_group(pg, tested_device.NAME)

    def sharded(model: nn.Module) -> nn.Module:
        for layer in (model[0], model[2]):
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    alone = _trained(lambda model: model, "cpu", slice(0, 12))
    _same(_trained(sharded, tested_device.NAME, _my_part(pg)), alone)


@case
def pipeline(pg: Any) -> None:
    """torch's own, of a stage for each rank."""
    me, size = dist.get_rank(pg), dist.get_world_size(pg)
    torch.manual_seed(3)
    layers = [nn.Linear(30, 30) for _ in range(size)]
    alone = nn.Sequential(*copy.deepcopy(layers))
    device = torch.device(tested_device.NAME, 0)
    mine_ = layers[me].to(device)
    stage = PipelineStage(mine_, me, size, device, group=pg)
    schedule = Schedule1F1B(stage, n_microbatches=4, loss_fn=nn.MSELoss())
    x, target = torch.randn(8, 30), torch.randn(8, 30)
    inputs = (on_device(x),) if me == 0 else ()
    schedule.step(*inputs, **({"target": on_device(target)} if me == size - 1 else {}))
    nn.MSELoss()(alone(x), target).backward()
    for one, other in zip(mine_.parameters(), alone[me].parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad.cpu(), other.grad, rtol=1e-4, atol=1e-6)
