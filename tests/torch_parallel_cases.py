"""Torch's own ways to train in parallel, on quoit: each gives what one process alone computes.

Numbers are float64, so that the order of a sum shows in the last digits only.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import (
    default_hooks,
    post_localSGD_hook,
    powerSGD_hook,
)
from torch.distributed.algorithms.join import Join
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import PostLocalSGDOptimizer, ZeroRedundancyOptimizer
from torch.distributed.pipelining import PipelineStage, schedules
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from torch_cases import group  # noqa: F401  (stage.py asks for it)

Case = Callable[[Any], None]

CASES: dict[str, Case] = {}
WIDTH, ROWS, STEPS = 8, 6, 4


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


class Model(nn.Module):
    """Two layers, and a third that a rank may leave out."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, dtype=torch.float64)
        self.down = nn.Linear(4 * WIDTH, WIDTH, dtype=torch.float64)
        self.side = nn.Linear(WIDTH, WIDTH, dtype=torch.float64)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)

    def forward(self, x: Tensor, beside: bool = True) -> Tensor:
        y: Tensor = self.down(torch.tanh(self.up(x)))
        return y + self.side(x) if beside else y


def _batch(step: int, rank: int, rows: int = ROWS) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64)


def _loss(y: Tensor) -> Tensor:
    return y.square().mean()


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def _adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


def _alone(
    make: Callable[[nn.Module], torch.optim.Optimizer],
    loss: Callable[[nn.Module, int, int], Tensor] = lambda model, step, rank: _loss(
        model(_batch(step, rank))
    ),
    steps: int = STEPS,
) -> nn.Module:
    """One process that trains on the mean of all ranks' losses."""
    model, n = Model(), dist.get_world_size()
    optimizer = make(model)
    for step in range(steps):
        optimizer.zero_grad()
        for rank in range(n):
            (loss(model, step, rank) / n).backward()
        optimizer.step()
    return model


def _train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: Iterable[int] = range(STEPS),
    rank: int | None = None,
) -> None:
    for step in steps:
        optimizer.zero_grad()
        _loss(model(_batch(step, dist.get_rank() if rank is None else rank))).backward()
        optimizer.step()


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _same(mine: nn.Module, alone: nn.Module, tolerance: float = 1e-12) -> None:
    theirs = dict(alone.named_parameters())
    for name, parameter in mine.named_parameters():
        expected = theirs[name.removeprefix("module.")]
        torch.testing.assert_close(
            _whole(parameter.detach()), expected.detach(), rtol=tolerance, atol=tolerance, msg=name
        )


@case
def ddp(pg: Any) -> None:
    for options in ({}, {"static_graph": True}, {"gradient_as_bucket_view": True}):
        model = DistributedDataParallel(Model(), process_group=pg, bucket_cap_mb=0.001, **options)
        _train(model, _sgd(model))
        _same(model, _alone(_sgd))


@case
def ddp_with_parameters_that_some_ranks_do_not_use(pg: Any) -> None:
    def loss(model: nn.Module, step: int, rank: int) -> Tensor:
        return _loss(model(_batch(step, rank), beside=(step + rank) % 2 == 0))

    model = DistributedDataParallel(Model(), process_group=pg, find_unused_parameters=True)
    optimizer = _sgd(model)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss(model, step, dist.get_rank()).backward()
        optimizer.step()
    _same(model, _alone(_sgd, loss))


@case
def ddp_no_sync(pg: Any) -> None:
    """Gradients of two batches, of which only the second is exchanged."""
    model, rank = DistributedDataParallel(Model(), process_group=pg), dist.get_rank()
    optimizer = _sgd(model)
    for step in range(STEPS):
        optimizer.zero_grad()
        with model.no_sync():
            _loss(model(_batch(step, rank))).backward()
        _loss(model(_batch(step + 100, rank))).backward()
        optimizer.step()

    def loss(model: nn.Module, step: int, rank: int) -> Tensor:
        return _loss(model(_batch(step, rank))) + _loss(model(_batch(step + 100, rank)))

    _same(model, _alone(_sgd, loss))


@case
def ddp_join(pg: Any) -> None:
    """Rank r has r + 2 batches; those that are through add nothing to the others' gradients."""
    rank, n = dist.get_rank(), dist.get_world_size()
    model = DistributedDataParallel(Model(), process_group=pg)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Join([model]):
        _train(model, optimizer, range(rank + 2))

    def loss(model: nn.Module, step: int, rank: int) -> Tensor:
        return _loss(model(_batch(step, rank))) * (step < rank + 2)

    _same(model, _alone(lambda m: torch.optim.SGD(m.parameters(), lr=0.1), loss, n + 1))


@case
def ddp_hooks_built_in(pg: Any) -> None:
    """Of Python and of C++. Gradients are small whole numbers, which 16 bits hold exactly."""
    n, rank = dist.get_world_size(), dist.get_rank()

    def bf16(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """torch refuses the hook itself, by its name, where it was built without NCCL."""
        return default_hooks.bf16_compress_hook(state, bucket)

    bf16.__annotations__["return"] = torch.futures.Future[Tensor]
    bf16.__annotations__["bucket"] = dist.GradBucket
    built_in = dist.BuiltinCommHookType
    for hook in (
        *(default_hooks.allreduce_hook, default_hooks.fp16_compress_hook, bf16),
        *(built_in.ALLREDUCE, built_in.FP16_COMPRESS),
    ):
        layer = nn.Linear(WIDTH, WIDTH, bias=False)
        model = DistributedDataParallel(layer, process_group=pg)
        if isinstance(hook, built_in):
            model._register_builtin_comm_hook(hook)
        else:
            model.register_comm_hook(pg if hook is default_hooks.allreduce_hook else None, hook)
        for _ in range(2):
            model.zero_grad()
            x = torch.arange(WIDTH, dtype=torch.float32).repeat(2, 1) + rank
            model(x).sum().backward()
        expected = torch.stack([2.0 * torch.arange(WIDTH) + 2 * r for r in range(n)]).mean(0)
        assert torch.equal(layer.weight.grad, expected.repeat(WIDTH, 1)), hook


@case
def ddp_power_sgd(pg: Any) -> None:
    """Each rank's gradient has rank 1, so an approximation by n ranks is exact."""
    n = dist.get_world_size()

    def loss(model: nn.Module, step: int, rank: int) -> Tensor:
        return _loss(model(_batch(step, rank, rows=1)))

    model = DistributedDataParallel(Model(), process_group=pg)
    state = powerSGD_hook.PowerSGDState(
        pg, matrix_approximation_rank=n, start_powerSGD_iter=2, min_compression_rate=0.01
    )
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    optimizer = _sgd(model)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss(model, step, dist.get_rank()).backward()
        optimizer.step()
    _same(model, _alone(_sgd, loss), tolerance=1e-6)
    assert state.compression_stats()[2] > 0  # something was compressed


def _sharded(mesh: DeviceMesh) -> nn.Module:
    model = Model()
    fully_shard(model.up, mesh=mesh)
    fully_shard(model.down, mesh=mesh)
    return fully_shard(model, mesh=mesh)


@case
def fsdp(pg: Any) -> None:
    n = dist.get_world_size()
    model = _sharded(init_device_mesh("cpu", (n,)))
    assert model.up.weight.to_local().shape == (4 * WIDTH // n, WIDTH)
    _train(model, _adam(model))
    _same(model, _alone(_adam))


@case
def fsdp_in_memory_that_ranks_share(pg: Any) -> None:
    """FSDP takes its buffers from the backend's allocate_tensor; so may anybody.

    Where no host has two ranks there is nobody to share with: FSDP then uses memory of its own.
    """
    device, n = torch.device("cpu"), dist.get_world_size()
    backend = pg._get_backend(device)
    hosts: list[Any] = [None] * n
    dist.all_gather_object(hosts, os.environ.get("QUOIT_HOST"))
    assert backend.supports_tensor_alloc(device) == (len(set(hosts)) < n)
    tensor = backend.allocate_tensor(100_000, dtype=torch.float64, device=device)
    assert tensor.shape == (100_000,)
    assert tensor.dtype == torch.float64
    tensor.copy_(torch.arange(100_000) + dist.get_rank())
    dist.all_reduce(tensor)
    assert torch.equal(tensor, n * torch.arange(100_000.0).double() + n * (n - 1) / 2)

    model = _sharded(init_device_mesh("cpu", (n,)))
    model.set_allocate_memory_from_process_group_for_comm(True)
    _train(model, _adam(model))
    _same(model, _alone(_adam))


@case
def fsdp_in_float32(pg: Any) -> None:
    """Here FSDP asks for AVG, and for PREMUL_SUM when it is told what to divide by."""
    n, rank = dist.get_world_size(), dist.get_rank()
    for factor in (None, 2.0):
        alone, mine = Model().float(), Model().float()
        fully_shard(mine, mesh=init_device_mesh("cpu", (n,)))
        if factor is not None:
            mine.set_gradient_divide_factor(factor)
        for peer in range(n):
            (_loss(alone(_batch(0, peer).float())) / (factor or n)).backward()
        _loss(mine(_batch(0, rank).float())).backward()
        expected = dict(alone.named_parameters())
        for name, parameter in mine.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(_whole(parameter.grad), expected[name].grad, msg=name)


@case
def fsdp_in_two_precisions(pg: Any) -> None:
    """The layers compute in bfloat16; gradients are averaged in float32."""
    n, rank = dist.get_world_size(), dist.get_rank()
    alone, mine = Model().bfloat16(), Model().float()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    fully_shard(mine, mesh=init_device_mesh("cpu", (n,)), mp_policy=policy)
    sums = [torch.zeros(parameter.shape) for parameter in alone.parameters()]
    for peer in range(n):
        alone.zero_grad()
        _loss(alone(_batch(0, peer).bfloat16())).backward()
        for total, parameter in zip(sums, alone.parameters(), strict=True):
            assert parameter.grad is not None
            total += parameter.grad.float()
    _loss(mine(_batch(0, rank).float())).backward()
    for total, parameter in zip(sums, mine.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(_whole(parameter.grad), total / n)


@case
def hsdp(pg: Any) -> None:
    """Shards inside pairs of ranks, copies across the pairs."""
    n = dist.get_world_size()
    mesh = init_device_mesh("cpu", (n // 2, 2), mesh_dim_names=("replicate", "shard"))
    model = _sharded(mesh)
    assert model.up.weight.to_local().shape == (4 * WIDTH // 2, WIDTH)
    _train(model, _adam(model))
    _same(model, _alone(_adam))


@case
def dtensors(pg: Any) -> None:
    n, rank = dist.get_world_size(), dist.get_rank()
    mesh = init_device_mesh("cpu", (n,))
    whole = torch.arange(4.0 * n * (n + 1)).reshape(n + 1, 4 * n)  # n + 1 rows: an uneven shard
    rows = distribute_tensor(whole, mesh, [Shard(0)])
    columns = rows.redistribute(mesh, [Shard(1)])
    assert torch.equal(columns.to_local(), whole[:, 4 * rank : 4 * rank + 4])
    assert torch.equal(columns.redistribute(mesh, [Replicate()]).to_local(), whole)
    assert torch.equal(rows.full_tensor(), whole)
    product = columns @ distribute_tensor(whole.t().contiguous(), mesh, [Shard(0)])
    assert product.placements == (Partial(),)
    assert torch.equal(product.full_tensor(), whole @ whole.t())
    scattered = product.redistribute(mesh, [Shard(0)])
    assert torch.equal(scattered.full_tensor(), whole @ whole.t())


@case
def data_and_tensor_parallel(pg: Any) -> None:
    """A mesh of n / 2 copies, each of two ranks that share every layer."""
    n = dist.get_world_size()
    mesh = init_device_mesh("cpu", (n // 2, 2), mesh_dim_names=("dp", "tp"))
    plan = {
        "up": ColwiseParallel(),
        "down": RowwiseParallel(),
        "side": ColwiseParallel(output_layouts=Replicate()),
    }
    model = parallelize_module(Model(), mesh["tp"], plan)
    fully_shard(model, mesh=mesh["dp"])
    _train(model, _adam(model), rank=mesh["dp"].get_local_rank())

    def loss(model: nn.Module, step: int, rank: int) -> Tensor:
        return _loss(model(_batch(step, rank % (n // 2))))  # twice the mean over half as many

    _same(model, _alone(_adam, loss))


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, dtype=torch.float64)
        self.mlp = Model()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mlp(self.norm(x))
        return y


@case
def sequence_parallel(pg: Any) -> None:
    """The rows of a batch are shared out for the norm, and come together for the layers."""
    n = dist.get_world_size()
    alone, x = Normed(), _batch(0, 0, rows=4 * n)
    mine = copy.deepcopy(alone)
    _loss(alone(x)).backward()
    mesh = init_device_mesh("cpu", (n,))
    parallelize_module(
        mine,
        mesh,
        {
            "norm": SequenceParallel(sequence_dim=0),
            "mlp.up": ColwiseParallel(input_layouts=Shard(0)),
            "mlp.down": RowwiseParallel(output_layouts=Shard(0)),
            "mlp.side": ColwiseParallel(input_layouts=Shard(0), output_layouts=Shard(0)),
        },
    )
    y = DTensor.from_local(mine(distribute_tensor(x, mesh, [Shard(0)])), mesh, [Shard(0)])
    _loss(y).backward()
    expected = dict(alone.named_parameters())
    for name, parameter in mine.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(_whole(parameter.grad), expected[name].grad, msg=name)


def _layers(count: int) -> list[nn.Module]:
    torch.manual_seed(3)
    linear = [nn.Linear(WIDTH, WIDTH, dtype=torch.float64) for _ in range(count)]
    return [nn.Sequential(layer, nn.Tanh()) for layer in linear]


def _pipeline(pg: Any, name: str) -> None:
    """Two layers for each rank: one stage, or two stages that lie as the schedule wants them."""
    kind = getattr(schedules, name)
    n, rank = dist.get_world_size(), dist.get_rank()
    layers = _layers(2 * n)
    alone = nn.Sequential(*copy.deepcopy(layers))
    pieces, last = 2 * n, n - 1
    if not issubclass(kind, schedules.PipelineScheduleMulti):
        own = {rank: nn.Sequential(*layers[2 * rank : 2 * rank + 2])}
    else:
        v_shaped = name in ("ScheduleZBVZeroBubble", "ScheduleDualPipeV")
        second = 2 * n - 1 - rank if v_shaped else n + rank
        own = {rank: layers[rank], second: layers[second]}
        last = 0 if v_shaped else n - 1
    count = n if len(own) == 1 else 2 * n
    stages = [
        PipelineStage(module, index, count, torch.device("cpu"), group=pg)
        for index, module in own.items()
    ]
    schedule = kind(
        stages if len(own) > 1 else stages[0], n_microbatches=pieces, loss_fn=nn.MSELoss()
    )
    x, target = _batch(0, 0, rows=2 * pieces), _batch(0, 1, rows=2 * pieces)
    losses: list[Tensor] = []
    for _ in range(2):
        alone.zero_grad()
        for stage in stages:
            stage.submod.zero_grad()
        losses.clear()
        passed = {"target": target, "losses": losses} if rank == last else {}
        schedule.step(*((x,) if rank == 0 else ()), **passed)
        nn.MSELoss()(alone(x), target).backward()
    gradients = [parameter.grad for parameter in alone.parameters()]
    for index, module in own.items():
        width = 2 * (2 * n // count)
        own_gradients = [parameter.grad for parameter in module.parameters()]
        torch.testing.assert_close(own_gradients, gradients[width * index : width * (index + 1)])
    if rank == last:
        torch.testing.assert_close(torch.stack(losses).mean(), nn.MSELoss()(alone(x), target))


SCHEDULES = (
    "ScheduleGPipe",
    "Schedule1F1B",
    "ScheduleLoopedBFS",
    "ScheduleInterleaved1F1B",
    "ScheduleInterleavedZeroBubble",
    "ScheduleZBVZeroBubble",
    "ScheduleDualPipeV",
)
for _name in SCHEDULES:
    CASES[f"pipeline_{_name}"] = lambda pg, name=_name: _pipeline(pg, name)


@case
def pipeline_of_shards(pg: Any) -> None:
    """Two stages, each of them sharded among half of the ranks."""
    n = dist.get_world_size()
    mesh = init_device_mesh("cpu", (2, n // 2), mesh_dim_names=("pp", "dp"))
    index, part = mesh["pp"].get_local_rank(), mesh["dp"].get_local_rank()
    layers = _layers(4)
    alone = nn.Sequential(*copy.deepcopy(layers))
    module = nn.Sequential(*layers[2 * index : 2 * index + 2])
    fully_shard(module, mesh=mesh["dp"])
    stage = PipelineStage(module, index, 2, torch.device("cpu"), group=mesh.get_group("pp"))
    schedule = schedules.Schedule1F1B(stage, n_microbatches=4, loss_fn=nn.MSELoss())
    if index == 0:
        schedule.step(_batch(0, part, rows=8))
    else:
        schedule.step(target=_batch(1, part, rows=8))
    for peer in range(n // 2):
        loss = nn.MSELoss()(alone(_batch(0, peer, rows=8)), _batch(1, peer, rows=8))
        (loss / (n // 2)).backward()
    gradients = [_whole(parameter.grad) for parameter in module.parameters()]
    expected = [parameter.grad for parameter in alone.parameters()]
    torch.testing.assert_close(gradients, expected[4 * index : 4 * index + 4])


@case
def checkpoints(pg: Any) -> None:
    """Saved in shards and loaded into others; training goes on as if nothing had happened."""
    n = dist.get_world_size()
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(folder, 0)
    model = _sharded(init_device_mesh("cpu", (n,)))
    optimizer = _adam(model)
    _train(model, optimizer, range(2))
    model_state, optimizer_state = get_state_dict(model, optimizer)
    saved = {"model": model_state, "optimizer": optimizer_state}
    dcp.save(saved, checkpoint_id=f"{folder[0]}/at_once")
    dcp.async_save(saved, checkpoint_id=f"{folder[0]}/meanwhile").result()
    for name in ("at_once", "meanwhile"):
        other = _sharded(init_device_mesh("cpu", (n // 2, 2), mesh_dim_names=("copy", "shard")))
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        other_optimizer = _adam(other)
        model_state, optimizer_state = get_state_dict(other, other_optimizer)
        state = {"model": model_state, "optimizer": optimizer_state}
        dcp.load(state, checkpoint_id=f"{folder[0]}/{name}")
        set_state_dict(
            other,
            other_optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
        _train(other, other_optimizer, range(2, STEPS))
        _same(other, _alone(_adam))
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(folder[0])


@case
def zero_redundancy_optimizer(pg: Any) -> None:
    model = DistributedDataParallel(Model(), process_group=pg)
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(), torch.optim.Adam, process_group=pg, lr=0.01
    )
    _train(model, optimizer, range(2))
    optimizer.consolidate_state_dict(to=0)
    if dist.get_rank() == 0:
        assert len(optimizer.state_dict()["state"]) == len(list(model.parameters()))
    _train(model, optimizer, range(2, STEPS))
    _same(model, _alone(_adam))


@case
def post_local_sgd(pg: Any) -> None:
    """Gradients within halves of the ranks, then models among all, every second step."""
    n, rank = dist.get_world_size(), dist.get_rank()
    size, warm = max(1, n // 2), 2
    half, _ = dist.new_subgroups(size)
    model = DistributedDataParallel(Model(), process_group=pg)
    model.register_comm_hook(
        post_localSGD_hook.PostLocalSGDState(pg, half, start_localSGD_iter=warm),
        post_localSGD_hook.post_localSGD_hook,
    )
    optimizer = PostLocalSGDOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1), PeriodicModelAverager(2, warm, pg)
    )
    steps = 2 * STEPS
    _train(model, optimizer, range(steps))
    replicas = [Model() for _ in range(n)]
    for step in range(steps):
        for peer, replica in enumerate(replicas):
            replica.zero_grad()
            _loss(replica(_batch(step, peer))).backward()
        gradients = [[p.grad for p in replica.parameters()] for replica in replicas]
        for peer, replica in enumerate(replicas):
            first = 0 if step < warm else peer // size * size
            peers = gradients[first : first + (n if step < warm else size)]
            with torch.no_grad():
                for number, parameter in enumerate(replica.parameters()):
                    parameter -= 0.1 * torch.stack([p[number] for p in peers]).mean(0)
        if step >= warm and (step - warm) % 2 == 0:
            with torch.no_grad():
                for copies in zip(*(replica.parameters() for replica in replicas), strict=True):
                    mean = torch.stack(list(copies)).mean(0)
                    for parameter in copies:
                        parameter.copy_(mean)
    _same(model, replicas[rank])


def _collectives(pg: Any, x: Tensor) -> Tensor:
    total = functional.all_reduce(x * 2, "sum", pg)
    rows = functional.all_gather_tensor(total + dist.get_rank(), 0, pg)
    part = functional.reduce_scatter_tensor(rows, "avg", 0, pg)
    swapped = functional.all_to_all_single(rows, None, None, pg)
    return part.sum() + swapped.sum() + total.sum()


def _compiled(pg: Any, backend: str) -> None:
    n = dist.get_world_size()
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: _collectives(pg, x), backend=backend, fullgraph=True)
    x = torch.arange(float(WIDTH * n)).reshape(n, WIDTH) + dist.get_rank()
    for shift in range(2):
        total = 2.0 * sum(x - dist.get_rank() + r + shift for r in range(n))
        rows = total + dist.get_rank()  # what reduce_scatter averages, and each part of all_to_all
        expected = rows.sum() + n * rows.sum() + total.sum()
        assert torch.equal(compiled(x + shift), expected)
        assert torch.equal(_collectives(pg, x + shift), expected)


@case
def compiled_by_aot_eager(pg: Any) -> None:
    _compiled(pg, "aot_eager")


@case
def compiled_by_inductor(pg: Any) -> None:
    _compiled(pg, "inductor")


@case
def compiled_ddp(pg: Any) -> None:
    torch._dynamo.reset()
    model = DistributedDataParallel(Model(), process_group=pg)
    _train(torch.compile(model, backend="aot_eager"), _sgd(model))
    _same(model, _alone(_sgd))


@case
def compiled_fsdp(pg: Any) -> None:
    torch._dynamo.reset()
    model = _sharded(init_device_mesh("cpu", (dist.get_world_size(),)))
    _train(torch.compile(model, backend="aot_eager"), _adam(model))
    _same(model, _alone(_adam))
