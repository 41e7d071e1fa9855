"""Cases for the test accelerator itself, in a process of its own."""

from __future__ import annotations

import contextlib
import copy
import io
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

import accelerator
import quoit
from quoit import _core
from stage import Job

Case = Callable[[None], None]

CASES: dict[str, Case] = {}

SIZE = 1000
DELAY_S = 0.3  # of each asynchronous work: long beside what the host does meanwhile


def case(function: Callable[[], None]) -> None:
    CASES[function.__name__] = lambda _: function()


@contextlib.contextmanager
def group(job: Job, rank: int, number: int) -> Iterator[None]:
    """None: a process has the accelerator for itself."""
    accelerator.install()
    yield


def fake() -> torch.Tensor:
    """Zeros on fake:0 that are there."""
    zeros = torch.zeros(SIZE, device="fake:0")
    torch.accelerator.synchronize()
    return zeros


def pinned(value: float) -> torch.Tensor:
    return torch.full((SIZE,), value).pin_memory()


def stream() -> torch.Stream:
    return torch.Stream("fake:0")


def all_are(tensor: torch.Tensor, value: float) -> bool:
    assert tensor.is_cpu
    return bool((tensor == value).all())


@case
def a_copy_is_seen_after_a_wait() -> None:
    there, back, source = fake(), pinned(0), pinned(1)
    with accelerator.delay(DELAY_S):
        there.copy_(source, non_blocking=True)
        back.copy_(there, non_blocking=True)
        assert all_are(back, 0)
        torch.accelerator.current_stream().synchronize()
    assert all_are(back, 1)


@case
def a_copy_of_pageable_memory_waits() -> None:
    there = fake()
    back = torch.zeros(SIZE)
    assert not back.is_pinned()
    there.copy_(torch.ones(SIZE), non_blocking=True)
    with accelerator.delay(DELAY_S):
        there.add_(1)
        back.copy_(there, non_blocking=True)
    assert all_are(back, 2)


@case
def streams_are_ordered_by_events_only() -> None:
    there, early, late, source = fake(), pinned(5), pinned(5), pinned(1)
    first, second, third = stream(), stream(), stream()
    with accelerator.delay(DELAY_S), first:
        there.copy_(source, non_blocking=True)
        there.mul_(2)
    written = first.record_event()
    with second:
        early.copy_(there, non_blocking=True)  # no delay: before the write
    second.synchronize()
    assert all_are(early, 0)
    third.wait_event(written)
    with third:
        late.copy_(there, non_blocking=True)
    assert not third.query()
    third.synchronize()
    assert all_are(late, 2)


@case
def an_event_is_recorded_and_reached() -> None:
    event = torch.Event("fake:0", enable_timing=True)
    assert event.query()  # was never recorded
    begin = torch.Event("fake:0", enable_timing=True)
    begin.record()
    there = fake()
    with accelerator.delay(DELAY_S):
        there.add_(1)
        event.record()
        assert not event.query()
        event.synchronize()
    assert event.query()
    assert begin.elapsed_time(event) >= DELAY_S * 1e3
    other = torch.Stream("fake:1")
    other.wait_event(event)
    other.synchronize()


@case
def freed_memory_is_poisoned_unless_its_streams_are_known() -> None:
    for known in (False, True):
        tensor, back, side = fake().fill_(1), pinned(0), stream()
        torch.accelerator.synchronize()
        with accelerator.delay(DELAY_S), side:
            back.copy_(tensor, non_blocking=True)
        if known:
            tensor.record_stream(side)
        del tensor
        side.synchronize()
        assert all_are(back, 1) is known


@case
def freed_memory_is_used_by_its_own_stream_until_then() -> None:
    tensor, back = fake().fill_(1), pinned(0)
    with accelerator.delay(DELAY_S):
        back.copy_(tensor, non_blocking=True)
        del tensor
        torch.accelerator.synchronize()
    assert all_are(back, 1)


@case
def pinned_memory_lives_until_its_copies_are_done() -> None:
    there, source = fake(), pinned(1)
    assert source.is_pinned()
    assert source[3:].is_pinned()
    with accelerator.delay(DELAY_S):
        there.copy_(source, non_blocking=True)
        address = source.data_ptr()
        del source
        assert pinned(7).data_ptr() != address
        torch.accelerator.synchronize()
    assert all_are(there.cpu(), 1)
    assert torch.empty(3, pin_memory=True).is_pinned()


@case
def each_thread_has_its_current_stream() -> None:
    seen: list[torch.Stream] = []
    default = torch.accelerator.current_stream()
    with stream() as mine:
        thread = threading.Thread(target=lambda: seen.append(torch.accelerator.current_stream()))
        thread.start()
        thread.join(10)
        assert torch.accelerator.current_stream() == mine
    assert torch.accelerator.current_stream() == default
    assert seen == [default]
    assert mine != default


@case
def devices_wait_for_each_other_in_a_copy() -> None:
    source, here, there = pinned(1), fake(), torch.zeros(SIZE, device="fake:1")
    torch.accelerator.synchronize("fake:1")
    back = pinned(0)
    with accelerator.delay(DELAY_S):
        here.copy_(source, non_blocking=True)
        for _ in range(4):  # takes longer than all that goes before the copy on fake:0
            there.fill_(5)
        there.copy_(here, non_blocking=True)
        here.fill_(9)
        with torch.accelerator.device_index(1):
            back.copy_(there, non_blocking=True)
            assert torch.empty(1, device="fake").device == torch.device("fake:1")
        assert torch.accelerator.current_device_index() == 0
        torch.accelerator.synchronize("fake:1")
    assert all_are(back, 1)


@case
def in_place_work_is_queued_and_refused_at_once() -> None:
    there = torch.ones(SIZE, device="fake:0")
    number = torch.tensor(3.0)
    with accelerator.delay(DELAY_S):
        there.mul_(number).add_(there).sub_(1).div_(2.5)
        assert not torch.accelerator.current_stream().query()
        number.fill_(100)
    assert all_are(there.cpu(), 2)
    counts = torch.ones(3, dtype=torch.int64, device="fake:0")
    for target, other in ((counts, there[:3]), (there, counts)):
        with pytest.raises(RuntimeError):
            target.div_(other)


@case
def a_linear_trains_as_on_the_cpu() -> None:
    torch.manual_seed(0)
    mine = torch.nn.Linear(8, 4)
    other = copy.deepcopy(mine).to("fake")
    data = torch.randn(16, 8)
    for model, inputs in ((mine, data), (other, data.to("fake"))):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(5):
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()
    for left, right in zip(mine.parameters(), other.parameters(), strict=True):
        assert right.device == torch.device("fake:0")
        assert torch.equal(left, right.cpu())


@case
def storages_are_resized_and_saved() -> None:
    tensor = torch.arange(6.0, device="fake:1")
    storage = tensor.untyped_storage()
    storage.resize_(0)
    storage.resize_(24)
    tensor.copy_(torch.arange(6.0))
    storage.resize_(48)
    assert tensor.tolist() == list(range(6))
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    loaded = torch.load(file)
    assert loaded.device == tensor.device
    assert loaded.tolist() == tensor.tolist()
    assert tensor.to(torch.complex64).mul(1j).conj().cpu()[2] == -2j


@case
def a_stream_says_that_it_is_captured() -> None:
    module = torch.get_device_module("fake")
    assert not module.is_current_stream_capturing()
    with accelerator.capturing():
        assert module.is_current_stream_capturing()


@case
def torch_finds_its_device_module() -> None:
    module = torch.get_device_module("fake")
    assert module.is_available()
    assert module.device_count() == 2
    assert torch.accelerator.current_accelerator() == torch.device("fake")
    with module.device(1):
        assert module.current_device() == 1
        assert module.Stream().device == torch.device("fake:1")
    assert module.default_stream() == module.current_stream()
    with module.stream(module.Stream()) as _, module.stream(None):
        assert module.default_stream() != module.current_stream()
    state = module.get_rng_state()
    first = torch.rand(3, device="fake")
    module.set_rng_state(state)
    assert torch.equal(first.cpu(), torch.rand(3, device="fake").cpu())
    event = module.Event()
    event.record()
    event.synchronize()


@case
def kernels_of_the_device_run_in_its_streams() -> None:
    one, two, there = fake().add_(1), fake().add_(2), fake()
    addresses = [tensor.data_ptr() for tensor in (one, two, there)]
    torch.accelerator.synchronize()
    with accelerator.kernels() as library:
        before = library.fake_kernel_launches()
        _core.require_cuda()
        with accelerator.delay(DELAY_S):
            library.fake_add_by_kernels(*addresses, SIZE)
        assert not torch.accelerator.current_stream().query()
        assert all_are(there.cpu(), 3)
        assert library.fake_kernel_launches() == before + 1
    if not _core.cuda_devices()[0]:
        with pytest.raises(quoit.UnavailableError):
            _core.require_cuda()
