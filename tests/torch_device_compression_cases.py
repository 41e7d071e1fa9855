"""Compression of tensors of an accelerator, on the accelerator: NCCL, and kernels for it.

The cases of torch_compression_cases.py with models there; and each codec beside the CPU's, whose
bits must come out. The kernels are the host's stand-in, queued on the test accelerator's streams,
or, with QUOIT_TEST_DEVICE=cuda, CUDA's own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import accelerator
import quoit
import tested_device
import torch_compression_cases as on_cpu
import torch_nccl_cases
from quoit import compression_calls
from quoit.codecs import Codec, LowRank
from stage import Job, of_several
from torch_cases import Case
from torch_nccl_cases import asks_nccl_for


def by_nccl(function: Case) -> Case:
    """Encoded bytes go by NCCL, where there is somebody to send them to."""
    return of_several(asks_nccl_for("ncclSend", "ncclRecv")(function))


CASES: dict[str, Case] = {
    name: by_nccl(on_cpu.CASES[name])
    for name in (
        "every_codec_in_ddp",
        "codecs_by_name",
        "accumulation_scaling_and_views",
        "unused_parameters",
        "what_is_not_finite_passes",
        "other_dtypes_and_layouts",
        "a_checkpoint_goes_on",
        "a_checkpoint_goes_to_fewer_ranks",
        "replicas_are_compared",
        "one_tensor",
        "auto_measures",
        "sharded_models",
    )
}
CODECS: tuple[Codec | None, ...] = (*on_cpu.CODECS[:-2], quoit.Sign(vote=True), quoit.TopK(0.2))
_EXAMPLE = Path(__file__).parents[1] / "examples/train_gpt.py"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


@contextlib.contextmanager
def group(job: Job, rank: int, number: int) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        pg = stack.enter_context(torch_nccl_cases.group(job, rank, number))
        if tested_device.FAKE:
            stack.enter_context(accelerator.kernels())
        on_cpu.DEVICE = tested_device.NAME
        yield pg


def _pair() -> tuple[Any, Any]:
    """Two groups whose calls have the same numbers, for tensors of the CPU and of the device."""
    return dist.new_group(), dist.new_group()


def _home() -> torch.device:
    return torch.device(tested_device.NAME, 0)


def _launches() -> int:
    return int(accelerator.kernels_library().fake_kernel_launches()) if tested_device.FAKE else 0


def _given(count: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _same(got: Tensor, wanted: Tensor, *what: object) -> None:
    assert got.device.type == tested_device.NAME, what
    bits = [t.detach().cpu().contiguous().view(-1).view(torch.uint8) for t in (got, wanted)]
    assert torch.equal(*bits), (what, got, wanted)


@case
@by_nccl
def every_codec_as_on_the_cpu(pg: Any) -> None:
    """Bit for bit: data and what is lost, call after call."""
    rank = dist.get_rank(pg)
    here, there = _pair()
    for codec in CODECS:
        assert codec is not None
        for dtype in DTYPES:
            for count, op, kept in (
                (1, dist.ReduceOp.SUM, False),
                (4096, dist.ReduceOp.AVG, True),
                (50001, dist.ReduceOp.SUM, True),
                (30000, dist.ReduceOp.AVG, False),
            ):
                lost = torch.zeros(count) if kept else None
                lost_there = lost.to(tested_device.NAME) if lost is not None else None
                for step in range(2 if kept else 1):
                    x = _given(count, 100 * step + rank, dtype)
                    y = x.to(tested_device.NAME)
                    before = _launches()
                    quoit.all_reduce(x, op, here, codec=codec, residual=lost)
                    quoit.all_reduce(y, op, there, codec=codec, residual=lost_there)
                    _same(y, x, codec, dtype, count, op)
                    if lost is not None and lost_there is not None:
                        _same(lost_there, lost, codec, dtype, count, "residual")
                    assert not tested_device.FAKE or _launches() > before


def _trained(device: str, codec: Codec, pg: Any, **options: Any) -> tuple[list[Tensor], Any]:
    """Gradients step by step, and the state, of a model whose gradients are given."""
    model = on_cpu.Linear().to(device)
    ddp = DistributedDataParallel(model, process_group=pg, bucket_cap_mb=0.05, **options)
    state = quoit.compress(ddp, codec, feedback=True)
    seen = []
    on_cpu.DEVICE = device
    for step in range(5):
        ddp.zero_grad()
        ddp(on_cpu._gradients(step, dist.get_rank(pg))).backward()
        seen += [p.grad.cpu() for p in model.parameters()]
    on_cpu.DEVICE = tested_device.NAME
    return seen, state


@case
@by_nccl
def models_as_on_the_cpu(pg: Any) -> None:
    """DistributedDataParallel with every codec; LowRank's bases, too."""
    for codec in (*CODECS, LowRank(2), LowRank(2, alternate=False)):
        assert codec is not None
        here, there = _pair()
        ours, state = _trained(tested_device.NAME, codec, there)
        wanted, expected = _trained("cpu", codec, here)
        for i, (one, other) in enumerate(zip(ours, wanted, strict=True)):
            assert torch.equal(one, other), (codec, i, one, other)
        for name, kept in expected._kept.items():
            for what, tensor in kept.tensors().items():
                got = state._kept[name].tensors()[what]
                assert got.device.type == ("cpu" if what == "turn" else tested_device.NAME)
                assert torch.equal(got.cpu(), tensor), (codec, name, what)
        assert state.report().sent_bytes == expected.report().sent_bytes
        assert state.report().plain_bytes == expected.report().plain_bytes


@case
@by_nccl
def order_of_streams(pg: Any) -> None:
    """What is compressed is written late; memory is freed early; nothing waits but streams."""
    rank, codec = dist.get_rank(pg), quoit.Int8()
    here, there = _pair()
    quoit.all_reduce(torch.zeros(8, device=tested_device.NAME), group=there, codec=codec)
    quoit.all_reduce(torch.zeros(8), group=here, codec=codec)
    for async_op in (False, True):
        x = _given(20000, rank)
        source = x.clone()
        lost, lost_there = torch.zeros(20000), torch.zeros(20000, device=tested_device.NAME)
        source = source.pin_memory()
        y = torch.zeros(20000, device=tested_device.NAME)
        with tested_device.delay(0.02):
            y.copy_(source, non_blocking=True)
            work = quoit.all_reduce(
                y, dist.ReduceOp.AVG, there, async_op, codec=codec, residual=lost_there
            )
            again = torch.full((20000,), 7.0, device=tested_device.NAME)  # takes no memory in use
            if work is not None:
                work.wait()
            y.mul_(2.0)
            del again
        quoit.all_reduce(x, dist.ReduceOp.AVG, here, codec=codec, residual=lost)
        _same(y, x * 2, async_op)
        _same(lost_there, lost, async_op)


@case
@by_nccl
def many_in_flight(pg: Any) -> None:
    """Asynchronous ones, whose memory is dropped at once, in coalescing regions and out of them."""
    rank = dist.get_rank(pg)
    here, there = _pair()
    given = [_given(9000 + 1000 * i, 10 * i + rank) for i in range(6)]
    wanted = [x.clone() for x in given]
    for x in wanted:
        quoit.all_reduce(x, dist.ReduceOp.SUM, here, codec=quoit.Int4())
    ours = [x.to(tested_device.NAME) for x in given]
    with tested_device.delay(0.005):
        works = [
            quoit.all_reduce(y, dist.ReduceOp.SUM, there, True, codec=quoit.Int4()) for y in ours
        ]
        for work in works:
            assert work is not None
            work.wait()
    for y, x in zip(ours, wanted, strict=True):
        _same(y, x)
    ours = [x.to(tested_device.NAME) for x in given]
    plain = torch.full((5,), float(rank), device=tested_device.NAME)
    with dist._coalescing_manager(there, async_ops=True) as region:
        for y in ours:
            quoit.all_reduce(y, dist.ReduceOp.SUM, there, True, codec=quoit.Int4())
        dist.all_reduce(plain, group=there)
    region.wait()
    for y, x in zip(ours, wanted, strict=True):
        _same(y, x)
    assert plain.cpu().eq(sum(range(dist.get_world_size(pg)))).all()


@case
def not_contiguous(pg: Any) -> None:
    here, there = _pair()
    x = _given(200 * 70, dist.get_rank(pg)).view(200, 70)
    y = x.to(tested_device.NAME).T.contiguous().T
    assert not y.is_contiguous()
    quoit.all_reduce(x, group=here, codec=quoit.Int8())
    quoit.all_reduce(y, group=there, codec=quoit.Int8())
    _same(y, x)


@case
@of_several
def where_residuals_are(pg: Any) -> None:
    """Anywhere: those that are elsewhere go there and back."""
    device = torch.device(tested_device.NAME, 0)
    assert compression_calls.home_of(device, pg) == device
    rank = dist.get_rank(pg)
    here, there = _pair()
    lost, elsewhere = torch.zeros(9000), torch.zeros(9000)
    for step in range(3):
        x = _given(9000, 10 * step + rank)
        y = x.to(tested_device.NAME)
        quoit.all_reduce(x, group=here, codec=quoit.Int4(), residual=lost)
        quoit.all_reduce(y, group=there, async_op=True, codec=quoit.Int4(), residual=elsewhere)
        _same(y, x)
        assert torch.equal(lost, elsewhere)
    native = quoit._build.load_c10d()
    parts = [native.Part(9000, "int8", lost)]
    by = native.Compression(parts, native.CompressionReport())
    backend = compression_calls.native_backend(there)
    with pytest.raises(ValueError, match=r"its residual is on the CPU, and must be on \w+:0"):
        native.compressed_all_reduce(backend, y, by, True)
    parts = [native.Part(9000, "int8", lost.to(tested_device.NAME))]
    by = native.Compression(parts, native.CompressionReport())
    with pytest.raises(ValueError, match=r"its residual is on \w+:0, and must be on the CPU"):
        native.compressed_all_reduce(backend, x, by, True)


@case
@of_several
def one_rank_without_kernels(pg: Any) -> None:
    """Then all go by way of the host, residuals too, and with the same numbers."""
    if not tested_device.FAKE:
        return
    rank = dist.get_rank(pg)
    here, there = _pair()
    library = accelerator.kernels_library()
    if rank == 1:
        library.fake_withdraw_kernels()
    device = torch.device(tested_device.NAME, 0)
    native = quoit._build.load_c10d()
    backend = compression_calls.native_backend(there)
    why = native.compressed_on_host(backend, device)
    assert why.startswith("rank 1: quoit's kernels are for CUDA devices, not for fake:0"), why
    before = _launches()
    ours, state = _trained(tested_device.NAME, quoit.Int4(), there)
    wanted, _ = _trained("cpu", quoit.Int4(), here)
    for one, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)
    assert all(kept.residual.is_cpu for kept in state._kept.values())
    assert _launches() == before
    lost = torch.zeros(9000, device=device)
    x = _given(9000, rank).to(device)
    quoit.all_reduce(x, dist.ReduceOp.AVG, there, codec=quoit.Int4(), residual=lost)
    assert lost.cpu().any()
    library.fake_offer_kernels()


@case
@of_several
def in_a_capture(pg: Any) -> None:
    """It only queues; what has to wait, or to count, is refused."""
    if not tested_device.FAKE:
        return  # see captured_in_graphs
    rank, codec = dist.get_rank(pg), quoit.Int8()
    here, there = _pair()
    x = _given(9000, rank)
    y = x.to(tested_device.NAME)
    with (
        accelerator.capturing(),
        pytest.raises(ValueError, match="is the first collective of its group"),
    ):
        quoit.all_reduce(y, group=there, codec=codec)
    dist.all_reduce(torch.zeros(1, device=tested_device.NAME), group=there)
    dist.all_reduce(torch.zeros(1), group=here)
    with accelerator.capturing():
        quoit.all_reduce(y, group=there, codec=codec)
    quoit.all_reduce(x, group=here, codec=codec)
    _same(y, x)
    ddp = DistributedDataParallel(on_cpu.Linear().to(tested_device.NAME), process_group=there)
    state = quoit.CompressionState(ddp, LowRank(2))
    kept = state._kept["parts.wide"]
    native = quoit._build.load_c10d()
    part = native.Part(kept.residual.numel(), LowRank(2).name, *kept.native())
    by = native.Compression([part], native.CompressionReport())
    z = torch.zeros(kept.residual.numel(), device=tested_device.NAME)
    backend = compression_calls.native_backend(there)
    with accelerator.capturing(), pytest.raises(ValueError, match="LowRank takes turns"):
        native.compressed_all_reduce(backend, z, by, True)
    by = native.Compression([native.Part(z.numel(), "int8")], native.CompressionReport())
    with accelerator.capturing(), pytest.raises(ValueError, match="compares on the host"):
        native.compressed_all_reduce(backend, z, by, True, fingerprint=1)
    native.compressed_all_reduce(backend, z, by, True, fingerprint=1)


@case
@of_several
def a_launch_that_fails(pg: Any) -> None:
    """Is told, as an error of the machine's, by the rank that it befell."""
    if not tested_device.FAKE:
        return
    _, there = _pair()
    x = torch.zeros(9000, device=tested_device.NAME)
    quoit.all_reduce(x, group=there, codec=quoit.Int8())
    accelerator.kernels_library().fake_fail_launches(1)
    with pytest.raises(dist.DistBackendError, match="was told that encode fails"):
        quoit.all_reduce(x, group=there, codec=quoit.Int8())


@case
def how_wide_kernels_are(pg: Any) -> None:
    """A quarter of the device, or what QUOIT_CODEC_BLOCKS says."""
    if not tested_device.FAKE:
        return
    library = accelerator.kernels_library()
    x = torch.zeros(9000, device=tested_device.NAME)
    for asked, blocks in ((None, 8), ("3", 3), ("0", 0)):
        with pytest.MonkeyPatch.context() as patch:
            if asked is not None:
                patch.setenv("QUOIT_CODEC_BLOCKS", asked)
            library.fake_widest_launch()
            quoit.all_reduce(x, group=pg, codec=quoit.Int8(), residual=torch.zeros(9000))
            assert library.fake_widest_launch() == blocks


class _Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(20, 300), nn.ReLU(), nn.Linear(300, 4))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


@case
@by_nccl
def sharded_as_on_the_cpu(pg: Any) -> None:
    """fully_shard, gradients and parameters by codecs: the same bits as on the CPU."""
    here, there = _pair()

    def trained(device: str, mine: Any) -> list[Tensor]:
        mesh = dist.DeviceMesh.from_group(mine, device)
        model = _Tiny().to(device)
        for layer in (model.layers[0], model.layers[2]):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        quoit.compress(model, quoit.Int4(), parameters=quoit.Bf16(), min_elements=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(4):
            x = _given(160, 10 * step + dist.get_rank(mine)).view(8, 20)
            model(x.to(device)).square().mean().backward()
            optimizer.step()
            if device != "cpu":  # the stand-in overwrites what is freed sooner than CUDA would
                torch.accelerator.synchronize()
            optimizer.zero_grad()
        return [p.full_tensor().detach().cpu() for p in model.parameters()]  # type: ignore[attr-defined]

    for one, other in zip(trained(tested_device.NAME, there), trained("cpu", here), strict=True):
        # A GPU multiplies matrices in an order of its own.
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.0 if tested_device.FAKE else 0.02)


@case
@by_nccl
def the_demo_gpt(pg: Any) -> None:
    """examples/train_gpt.py's model learns, and all ranks hold the same bits."""
    spec = importlib.util.spec_from_file_location("train_gpt", _EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    sys.modules["train_gpt"] = example  # where its dataclass looks for itself
    spec.loader.exec_module(example)
    torch.manual_seed(5)
    tokens = (torch.arange(4000) * 7 % 61).to(tested_device.NAME)
    for codec in (quoit.Int4(), LowRank(4)):
        model = example.GPT(64, 64, 2).to(tested_device.NAME)
        ddp = DistributedDataParallel(model, process_group=pg, bucket_cap_mb=0.1)
        state = quoit.compress(ddp, codec, check_every=4)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        losses = []
        for step in range(12):
            at = 50 * step + 1000 * dist.get_rank(pg)
            window = tokens[at : at + 4 * 33].view(4, 33)
            logits = ddp(window[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        assert losses[-1] < losses[0] - 0.5, losses
        on_cpu._same_everywhere(pg, *(p.detach() for p in model.parameters()))
        assert state.report().ratio > 1.5


def _blocks(counts: list[int], codec: str, lost: Tensor | None, report: Any) -> Any:
    native = quoit._build.load_c10d()
    kept = [None] * len(counts) if lost is None else list(lost.split(counts))
    parts = [native.Part(count, codec, one) for count, one in zip(counts, kept, strict=True)]
    return native.Compression(parts, report)


@case
@by_nccl
def blocks_of_different_sizes(pg: Any) -> None:
    """Summed into other memory and in place, and handed round; none, and more than a slot."""
    rank, n = dist.get_rank(pg), dist.get_world_size(pg)
    here, there = _pair()
    native = quoit._build.load_c10d()
    for codec, unit in (("bf16", 100), ("int4", 4099), ("bf16(stochastic)", (9 << 20) // n)):
        counts = [unit * (2 * r % 5) for r in range(n)]  # the first has none
        count, mine = sum(counts), slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        seen: list[list[Tensor]] = []
        for device, one in (("cpu", here), (tested_device.NAME, there)):
            backend = compression_calls.native_backend(one)
            lost = torch.zeros(count, device=device)
            tensors, report = [lost], native.CompressionReport()
            for step in range(3):
                x = _given(count, 10 * step + rank).to(device)
                inside = step == 2
                out = x[mine] if inside else torch.zeros(counts[rank], device=device)
                by = _blocks(counts, codec, lost, report)
                work = native.compressed_reduce_scatter(
                    backend, x, out, by, mean=step == 1, async_op=step == 0
                )
                if work is not None:
                    assert work.get_future().wait()[0].data_ptr() == out.data_ptr()
                whole = torch.zeros(count, device=device)
                whole[mine] = out
                by = _blocks(counts, codec, None, report)
                work = native.compressed_all_gather(backend, whole, by, async_op=step == 0)
                if work is not None:
                    work.wait()
                tensors += [out.clone(), whole]
            tensors.append(torch.tensor([report.calls, report.plain_bytes, report.sent_bytes]))
            seen.append([t.cpu() for t in tensors])
        for i, (wanted, got) in enumerate(zip(*seen, strict=True)):
            assert torch.equal(wanted, got), (codec, i, wanted, got)


@case
@of_several
def blocks_that_do_not_fit(pg: Any) -> None:
    """Are refused, as on the CPU, before anything is sent."""
    n, native = dist.get_world_size(pg), quoit._build.load_c10d()
    backend = compression_calls.native_backend(pg)
    x, report = torch.zeros(5000 * n, device=_home()), native.CompressionReport()
    by, fewer = (_blocks([5000 * n // k] * k, "int8", None, report) for k in (n, 1))
    matrix, _, _ = _matrix(50, 100 * n, tested_device.NAME)
    for message, compression, out in (
        ("got 1 blocks; give one for each of the", fewer, x[:5000]),
        ("block . of the input is float32.5000., the output float32.4999.", by, x[:4999]),
        ("got 1 blocks; give one for each of the", matrix, x[:5000]),
    ):
        with pytest.raises(ValueError, match=message):
            native.compressed_reduce_scatter(backend, x, out, compression, True)
    with pytest.raises(ValueError, match="all_gather: got 1 blocks; give one for each of the"):
        native.compressed_all_gather(backend, x, fewer)
    native.compressed_reduce_scatter(backend, x, x[:5000], by, True)  # nothing is broken


@case
@by_nccl
def forgotten_at_once(pg: Any) -> None:
    """What a call works on is not given to others before, residuals and memory of its own too."""
    rank = dist.get_rank(pg)
    here, there = _pair()
    outs, wanted = [], []
    with tested_device.delay(0.01):
        for step in range(4):
            x = _given(30000, 10 * step + rank)
            lost = _given(30000, 100 + step)
            y, lost_there = x.to(_home()), lost.to(_home())
            kept = torch.zeros(30000, device=_home())
            quoit.all_reduce(
                y, dist.ReduceOp.AVG, there, True, codec=quoit.Int4(), residual=lost_there
            )
            del lost_there
            for _ in range(3):
                torch.full((30000,), -1.0, device=_home())  # in the memory that was freed, if so
            quoit.all_reduce(x, dist.ReduceOp.AVG, here, codec=quoit.Int4(), residual=lost)
            outs.append((y, kept))
            wanted.append(x)
        dist.all_reduce(torch.ones(3, device=_home()), group=there)  # comes after them all
        for (y, kept), x in zip(outs, wanted, strict=True):
            _same(y, x)
            assert not kept.cpu().any()


@case
@by_nccl
def replicas_compared_on_the_way(pg: Any) -> None:
    """Which changes no bit, although the codec rounds at random by the numbers of calls."""
    here, there = _pair()
    seen = []
    for device, one in (("cpu", here), (tested_device.NAME, there)):
        model = on_cpu.Linear().to(device)
        ddp = DistributedDataParallel(model, process_group=one, bucket_cap_mb=0.05)
        quoit.compress(ddp, quoit.Bf16(stochastic=True), check_every=2)
        on_cpu.DEVICE = device
        gradients = []
        for step in range(5):
            ddp.zero_grad()
            ddp(on_cpu._gradients(step, dist.get_rank(pg))).backward()
            gradients += [p.grad.cpu() for p in model.parameters()]
        on_cpu.DEVICE = tested_device.NAME
        seen.append(gradients)
    for one, other in zip(*seen, strict=True):
        assert torch.equal(one, other)


def _matrix(rows: int, cols: int, device: str) -> tuple[Any, list[Tensor], Tensor]:
    """A compression of one low-rank part, what it keeps on the device, and its turn."""
    native = quoit._build.load_c10d()
    kept = [torch.zeros(rows * cols), torch.zeros(2 * rows), _given(2 * cols, 3)]
    kept = [each.to(device) for each in kept]
    turn = torch.zeros(1, dtype=torch.int64)
    part = native.Part(rows * cols, LowRank(2).name, kept[0], rows, cols, *kept[1:], turn)
    return native.Compression([part], native.CompressionReport()), kept, turn


@case
@by_nccl
def turns_of_calls_in_flight(pg: Any) -> None:
    """A factor travels in turns also where one call is made before another is over."""
    rank = dist.get_rank(pg)
    here, there = _pair()
    native = quoit._build.load_c10d()
    rows, cols = 120, 300
    seen = []
    for device, one in (("cpu", here), (tested_device.NAME, there)):
        by, kept, turn = _matrix(rows, cols, device)
        given = [_given(rows * cols, 10 * step + rank).to(device) for step in range(5)]
        backend = compression_calls.native_backend(one)
        with tested_device.delay(0.002):
            works = [
                native.compressed_all_reduce(backend, x, by, True, async_op=True) for x in given
            ]
            for work in works:
                work.wait()
        seen.append([t.cpu() for t in (*given, *kept, turn)])
    for i, (wanted, got) in enumerate(zip(*seen, strict=True)):
        assert torch.equal(wanted, got), i


def captured_in_graphs(pg: Any) -> None:
    """Replays compress and add up what lies in the memory then; so do NCCL's own collectives."""
    rank, n = dist.get_rank(pg), dist.get_world_size(pg)
    here, there = _pair()
    x, y = torch.zeros(50001, device="cuda"), torch.zeros(1000, device="cuda")
    lost = torch.zeros(50001, device="cuda")
    expected_lost = torch.zeros(50001)

    def both(async_op: bool) -> None:
        work = quoit.all_reduce(
            x, dist.ReduceOp.AVG, there, async_op, codec=quoit.Int4(), residual=lost
        )
        plain = dist.all_reduce(y, group=there, async_op=async_op)
        for each in (work, plain):
            if each is not None:
                each.wait()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        both(False)  # kernels are loaded, and the communicator is made, before a capture
        both(True)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    for async_op in (False, True):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            both(async_op)
        for step in range(4):
            given = _given(50001, 10 * step + rank)
            x.copy_(given)
            y.fill_(float(rank + step))
            graph.replay()
            torch.cuda.synchronize()
            quoit.all_reduce(
                given, dist.ReduceOp.AVG, here, codec=quoit.Int4(), residual=expected_lost
            )
            _same(x, given, step, async_op)
            _same(lost, expected_lost, step, async_op)
            assert y.cpu().eq(sum(r + step for r in range(n))).all()


if not tested_device.FAKE:  # whose captures are by word
    case(captured_in_graphs)
