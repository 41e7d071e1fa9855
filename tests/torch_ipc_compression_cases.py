"""Compression of tensors of an accelerator by CUDA IPC, between ranks of one host.

The cases of torch_device_compression_cases.py that any way must play; and those of this one. On the
test accelerator with the stand-in for CUDA's driver, or on one GPU that all ranks share.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import accelerator
import quoit
import tested_device
import torch_compression_cases as on_cpu
import torch_device_compression_cases as by_nccl
import torch_ipc_cases
from quoit import compression_calls
from quoit.codecs import Codec, LowRank
from stage import Job, of_several
from torch_cases import Case
from torch_device_compression_cases import _given, _home, _launches, _matrix, _pair, _same

# Captures, failures, and what a rank lacks, are told otherwise here.
_OF_NCCL = {
    *("in_a_capture", "captured_in_graphs", "one_rank_without_kernels", "a_launch_that_fails"),
}


def by_ipc(function: Case) -> Case:
    """By this way, and by kernels, which through the host are none."""

    @functools.wraps(function)
    def play(pg: Any) -> None:
        home = torch.device(tested_device.NAME, 0)
        assert compression_calls.home_of(home, pg) == home
        assert torch_ipc_cases.route(pg) == "ipc"
        before = _launches()
        function(pg)
        assert _launches() > before or not tested_device.FAKE, "nothing was done on the device"

    return play


def _plain(function: Any) -> Case:
    """What by_nccl() was put around, if it was."""
    plain: Any = function
    while hasattr(plain, "__wrapped__"):
        plain = plain.__wrapped__
    if "of_several" in vars(function):
        of_several(plain)
    case: Case = plain
    return case


CASES: dict[str, Case] = {
    name: by_ipc(_plain(function))
    for name, function in by_nccl.CASES.items()
    if name not in _OF_NCCL
}


def case(function: Case) -> Case:
    CASES[function.__name__] = by_ipc(function)
    return function


def case_of_its_own(function: Case) -> Case:
    """That asks, or begins, otherwise."""
    CASES[function.__name__] = function
    return function


@contextlib.contextmanager
def group(job: Job, rank: int, number: int) -> Iterator[Any]:
    with torch_ipc_cases.group(job, rank, number) as pg:
        on_cpu.DEVICE = tested_device.NAME
        yield pg


@case
@of_several
def longer_than_a_slot(pg: Any) -> None:
    """In several steps, while the ranks' devices are slow in turns."""
    rank, n = dist.get_rank(pg), dist.get_world_size(pg)
    here, there = _pair()
    count = n * (5 << 20) + 77  # elements, of two bytes
    codec = quoit.Bf16(stochastic=True)
    for slow in range(n):
        x = _given(count, 10 * slow + rank)
        lost = torch.zeros(count)
        y, lost_there = x.to(tested_device.NAME), lost.to(tested_device.NAME)
        with tested_device.delay(0.02 if rank == slow else 0):
            quoit.all_reduce(y, dist.ReduceOp.AVG, there, codec=codec, residual=lost_there)
        quoit.all_reduce(x, dist.ReduceOp.AVG, here, codec=codec, residual=lost)
        _same(y, x, slow)
        _same(lost_there, lost, slow)


@case
@of_several
def codecs_that_differ(pg: Any) -> None:
    """Are found out, as they are on the CPU; also where one rank has nothing to send."""
    rank, home = dist.get_rank(pg), _home()
    x = torch.zeros(9000, device=home)
    for others in (quoit.Int4(), quoit.TopK(0.05)):
        one = dist.new_group()
        with pytest.raises((ValueError, dist.DistBackendError), match="ranks disagree"):
            quoit.all_reduce(x, group=one, codec=others if rank > 0 else quoit.Int8())
    for count in (0, 5000):
        one = dist.new_group()
        with pytest.raises((ValueError, dist.DistBackendError), match="ranks disagree"):
            quoit.all_reduce(x[: count if rank > 0 else 9000], group=one, codec=quoit.Int8())


@case
def nothing_to_send(pg: Any) -> None:
    x = torch.zeros(0, device=_home())
    for _ in range(5):
        quoit.all_reduce(x, group=pg, codec=quoit.Int8())
        quoit.all_reduce(torch.ones(5, device=_home()), group=pg, codec=quoit.Int8())


@case
def beside_other_calls(pg: Any) -> None:
    """Plain ones on the device, and those of the CPU, in one group and in the same order."""
    rank, n = dist.get_rank(pg), dist.get_world_size(pg)
    here, there = _pair()
    lost, lost_there = torch.zeros(20000), torch.zeros(20000, device=_home())
    with tested_device.delay(0.005 if rank == 0 else 0):
        for step in range(6):
            x, plain = _given(20000, 10 * step + rank), torch.full((3000,), float(rank + step))
            y, z, w = x.to(_home()), plain.to(_home()), plain.clone()
            works = [
                quoit.all_reduce(y, group=there, async_op=True, codec=quoit.Int4()),
                dist.all_reduce(z, group=there, async_op=True),
                dist.all_reduce(w, group=there, async_op=True),
                quoit.all_reduce(
                    y, dist.ReduceOp.AVG, there, True, codec=quoit.Sign(), residual=lost_there
                ),
            ]
            for work in works:
                assert work is not None
                work.wait()
            quoit.all_reduce(x, group=here, codec=quoit.Int4())
            dist.all_reduce(plain, group=here)
            dist.all_reduce(plain.clone(), group=here)
            quoit.all_reduce(x, dist.ReduceOp.AVG, here, codec=quoit.Sign(), residual=lost)
            _same(y, x, step)
            _same(z, plain, step)
            assert torch.equal(w, plain)
            _same(lost_there, lost, step)
            assert plain[0] == sum(r + step for r in range(n))


@case_of_its_own
@of_several
def a_capture_is_refused(pg: Any) -> None:
    if not tested_device.FAKE:
        return  # whose captures are not by word
    here, there = _pair()
    home = _home()
    x = _given(9000, dist.get_rank(pg))
    y = x.to(home)
    for _ in range(2):
        with accelerator.capturing(), pytest.raises(ValueError, match="captured into a graph"):
            quoit.all_reduce(y, group=there, codec=quoit.Int8())
        quoit.all_reduce(x.clone(), group=here, codec=quoit.Int8())  # it had a number, too
    quoit.all_reduce(y, group=there, codec=quoit.Int8())
    quoit.all_reduce(x, group=here, codec=quoit.Int8())
    _same(y, x)
    by, _, turn = _matrix(120, 300, tested_device.NAME)
    native, backend = quoit._build.load_c10d(), compression_calls.native_backend(there)
    with accelerator.capturing(), pytest.raises(ValueError, match="captured into a graph"):
        native.compressed_all_reduce(backend, _given(120 * 300, 1).to(home), by, True)
    assert int(turn) == 0, "a turn was taken"


def _goes_by_host(pg: Any, why: str) -> None:
    """All of it, with residuals there, and with the numbers of the CPU. `why` is a pattern."""
    home, rank = _home(), dist.get_rank(pg)
    here, there = _pair()
    native = quoit._build.load_c10d()
    backend = compression_calls.native_backend(there)
    said = native.compressed_on_host(backend, home)
    assert "no NCCL: rank " in said, said
    assert re.search(why, said), said
    assert compression_calls.home_of(home, there).type == "cpu"
    before = _launches()
    ours, state = by_nccl._trained(tested_device.NAME, quoit.Int4(), there)
    wanted, _ = by_nccl._trained("cpu", quoit.Int4(), here)
    for one, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)
    assert all(kept.residual.is_cpu for kept in state._kept.values())
    assert _launches() == before
    lost = torch.zeros(9000, device=home)
    part = native.Compression([native.Part(9000, "int8", lost)], native.CompressionReport())
    with pytest.raises(ValueError, match=r"must be on the CPU: .* as no NCCL: rank .* no CUDA IPC"):
        native.compressed_all_reduce(backend, _given(9000, rank).to(home), part, True)


@case_of_its_own
@of_several
def turned_off_on_one_rank(pg: Any) -> None:
    if dist.get_rank(pg) == 1:
        os.environ["QUOIT_IPC"] = "off"
    try:
        _goes_by_host(pg, "no CUDA IPC: rank 1: QUOIT_IPC=off")
    finally:
        os.environ.pop("QUOIT_IPC", None)


@case_of_its_own
@of_several
def one_rank_without_kernels(pg: Any) -> None:
    if not tested_device.FAKE:
        return
    library = accelerator.kernels_library()
    if dist.get_rank(pg) == 1:
        library.fake_withdraw_kernels()
    try:
        _goes_by_host(pg, r"no CUDA IPC: rank 1: .*CUDA asked for, but this (build|machine)")
    finally:
        library.fake_offer_kernels()


@case
@of_several
def a_launch_that_fails(pg: Any) -> None:
    """On one rank: all are told, by whom and what."""
    if not tested_device.FAKE:
        quoit.all_reduce(torch.zeros(9000, device=_home()), group=pg, codec=quoit.Int8())
        return
    _, there = _pair()
    x = torch.zeros(9000, device=_home())
    quoit.all_reduce(x, group=there, codec=quoit.Int8())
    if dist.get_rank(pg) == 0:
        accelerator.kernels_library().fake_fail_launches(1)
    with pytest.raises(
        dist.DistBackendError, match=r"quoit rank 0 on .* was told that encode fails"
    ):
        quoit.all_reduce(x, group=there, codec=quoit.Int8())


@case_of_its_own
@of_several
def asked_by_one_rank_alone(pg: Any) -> None:
    """While another makes a call: both are told, and soon."""
    begun = time.monotonic()
    ask = functools.partial(compression_calls.home_of, _home(), pg)
    call = functools.partial(dist.all_reduce, torch.zeros(5), group=pg)
    with pytest.raises((ValueError, dist.DistBackendError), match="ranks disagree"):
        (ask if dist.get_rank(pg) == 0 else call)()
    assert time.monotonic() - begun < 5


@case_of_its_own
@of_several
def asked_at_different_times(pg: Any) -> None:
    """Who has the answer goes on, while others have still to ask."""
    rank, home = dist.get_rank(pg), _home()
    for turn in range(10):
        one = dist.new_group()
        if rank == turn % 2:
            time.sleep(0.02)
        assert compression_calls.home_of(home, one) == home
        x = torch.full((5,), float(rank), device=home if turn % 3 else "cpu")
        dist.all_reduce(x, group=one)
        assert x.cpu().eq(sum(range(dist.get_world_size(pg)))).all()


class _Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.layers = nn.Sequential(nn.Linear(70, 90), nn.Tanh(), nn.Linear(90, 61, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


@case
@of_several
def training_as_on_the_cpu(pg: Any) -> None:
    """DistributedDataParallel of a small model: all parameters, bit for bit."""
    here, there = _pair()
    codecs: tuple[Codec, ...] = (quoit.Int8(), quoit.Int4(hadamard=True), LowRank(2))
    for codec in codecs:
        trained = []
        for device, one in (("cpu", here), (tested_device.NAME, there)):
            model = _Odd().to(device)
            ddp = DistributedDataParallel(model, process_group=one, bucket_cap_mb=0.01)
            quoit.compress(ddp, codec, min_elements=64)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for step in range(4):
                x = _given(8 * 70, 10 * step + dist.get_rank(pg)).view(8, 70)
                optimizer.zero_grad()
                ddp(x.to(device)).square().mean().backward()
                optimizer.step()
            trained.append([p.detach().cpu() for p in model.parameters()])
        for one, other in zip(*trained, strict=True):
            # A GPU multiplies matrices in an order of its own.
            torch.testing.assert_close(
                one, other, rtol=0.0, atol=0.0 if tested_device.FAKE else 0.02
            )
