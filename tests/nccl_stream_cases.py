"""Cases for NCCL on the test accelerator: the order of streams, messages, futures, training."""

from __future__ import annotations

import copy
import random
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist

import accelerator
from nccl_world import Case, World, barrier, inputs_of, options, same

CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


@case
def streams_wait_and_the_host_does_not(world: World) -> None:
    group = world.group()
    tensor = torch.zeros(1000, device=world.device)
    group.allreduce([tensor]).wait()  # the communicator is there
    total = float(sum(range(1, world.size + 1)))
    with accelerator.delay(0.3):
        tensor.fill_(world.rank + 1.0)
        work = group.allreduce([tensor])
        work.wait()
        assert not work.is_completed()  # so the host did not wait
        tensor.mul_(2.0)
    assert tensor.cpu().eq(2 * total).all()
    assert work.is_completed()
    assert work.is_success()
    with accelerator.delay(0.1):  # on a stream of the program's own
        stream = torch.Stream(world.device)
        event = torch.Event(world.device)
        event.record()
        stream.wait_event(event)
        with stream:
            tensor.fill_(world.rank + 2.0)
            group.allreduce([tensor]).wait()
            tensor.add_(1.0)
    stream.synchronize()
    assert tensor.cpu().eq(total + world.size + 1).all()


@case
def memory_is_kept_until_the_device_is_done(world: World) -> None:
    group = world.group()
    n, device = world.size, world.device
    group.allreduce([torch.zeros(1, device=device)]).wait()
    with accelerator.delay(0.05):
        for turn in range(5):
            out = torch.zeros(n * 512, device=device)
            given = torch.zeros(512, device=device)
            given.fill_(world.rank + turn)
            work = group._allgather_base(out, given)
            del given  # its memory is overwritten as soon as no stream is known to use it
            again = torch.zeros(512, device=device)
            again.fill_(-1.0)
            work.wait()
            wanted = torch.arange(n).repeat_interleave(512) + float(turn)
            same(out, wanted.float())
    pieces = [torch.zeros(64, device=device) for _ in range(n)]
    with accelerator.delay(0.05):
        mine = torch.zeros(64, device=device)
        mine.fill_(float(world.rank))
        work = group.send([mine], (world.rank + 1) % n, 0)
        del mine
        torch.zeros(64, device=device).fill_(-1.0)
        group.recv([pieces[0]], (world.rank - 1) % n, 0).wait()
    assert pieces[0].cpu().eq((world.rank - 1) % n).all()
    work.wait()


@case
def calls_that_are_not_asynchronous(world: World) -> None:
    group = world.group()
    mine = torch.ones(100, device=world.device)
    group.allreduce([mine]).wait()
    with accelerator.delay(0.02):
        for turn in range(6):  # one in the caller's stream, one in the communicator's, ...
            mine.fill_(1.0)
            work = group.allreduce([mine], options("Allreduce", asyncOp=turn % 2 == 0))
            assert (work is None) == (turn % 2 == 1)
            if work is not None:
                work.wait()
            mine.add_(1.0)
            assert mine.cpu().eq(world.size + 1).all()
        first, second = mine.clone().fill_(1.0), mine.clone().fill_(2.0)
        work = group.allreduce([first])
        assert group.allreduce([second], options("Allreduce", asyncOp=False)) is None
        work.wait()
        assert first.cpu().eq(world.size).all()
        assert second.cpu().eq(2 * world.size).all()


@case
def futures_hold_values_in_order(world: World) -> None:
    group = world.group()
    mine = torch.ones(10, device=world.device)
    with accelerator.delay(0.05):
        mine.fill_(world.rank + 1.0)
        work = group.allreduce([mine])
        future = work.get_future().then(lambda done: done.value()[0].mul_(2.0))
        got = future.wait()
    assert got.cpu().eq(sum(range(1, world.size + 1)) * 2.0).all()
    assert work.result()[0] is mine or work.result()[0].data_ptr() == mine.data_ptr()
    outs = [torch.empty(2, 3, device=world.device) for _ in range(world.size)]
    given = inputs_of(world, torch.float32, 2, 3)
    value = group.allgather([outs], [given[world.rank].to(world.device)]).get_future().wait()
    same(value[0], torch.stack(given))


@case
def messages_go_both_ways_at_once(world: World) -> None:
    group = world.group()
    n, me, device = world.size, world.rank, world.device
    peers = [peer for peer in range(n) if peer != me]
    for turn in range(3):
        # Everybody sends first, and receives in another order than was sent.
        works = [
            group.send([torch.full((5,), float(10 * me + turn), device=device)], peer, 0)
            for peer in peers
        ]
        got = {peer: torch.empty(5, device=device) for peer in peers}
        works += [group.recv([got[peer]], peer, 0) for peer in reversed(peers)]
        for work in works:
            work.wait()
        for peer in peers:
            assert got[peer].cpu().eq(10 * peer + turn).all()
    if me < 2:  # an order of their own, big after small
        small_, big = torch.empty(3, device=device), torch.empty(100_000, device=device)
        for _ in range(2):
            works = [
                group.send([torch.full((3,), float(me), device=device)], 1 - me, 0),
                group.send([torch.full((100_000,), me + 0.5, device=device)], 1 - me, 0),
                group.recv([small_], 1 - me, 0),
                group.recv([big], 1 - me, 0),
            ]
            for work in works:
                work.wait()
            assert small_.cpu().eq(1 - me).all()
            assert big.cpu().eq(1.5 - me).all()


@case
def a_send_does_not_wait_for_its_receiver(world: World) -> None:
    group = world.group()
    group.allreduce([torch.ones(1, device=world.device)]).wait()  # ranks know of each other
    tensor = torch.full((4,), 7.0, device=world.device)
    if world.rank == 0:
        work = group.send([tensor], 1, 0)
        assert not work.is_completed()
    world.meet("sent")  # rank 1 receives only now
    group.allreduce([torch.ones(1, device=world.device)]).wait()
    if world.rank == 1:
        tensor.zero_()
        group.recv([tensor], 0, 0).wait()
        assert tensor.cpu().eq(7).all()
    if world.rank == 0:
        work.wait()
    barrier(world, group)


@case
def the_first_calls_may_cross(world: World) -> None:
    group = world.group()
    message = torch.full((4,), 3.0, device=world.device)
    tensor = torch.ones(2, device=world.device)
    if world.rank == 0:  # meets rank 1 only in all_reduce, which comes after its recv
        work = group.send([message], 1, 0)
        group.allreduce([tensor]).wait()
        work.wait()
    elif world.rank == 1:
        message.zero_()
        group.recv([message], 0, 0).wait()
        assert message.cpu().eq(3).all()
        group.allreduce([tensor]).wait()
    else:
        group.allreduce([tensor]).wait()
    assert tensor.cpu().eq(world.size).all()


@case
def many_calls_of_all_kinds(world: World) -> None:
    group = world.group()
    n, me, device = world.size, world.rank, world.device
    order = random.Random(7)  # the same on all ranks
    with accelerator.delay(0.0005):
        for turn in range(60):
            kind, count = order.randrange(5), order.randrange(1, 3000)
            is_async = order.random() < 0.6
            mine = torch.zeros(count, device=device)
            mine.fill_(float(me + turn))
            total = float(sum(rank + turn for rank in range(n)))
            if kind == 0:
                work = group.allreduce([mine], options("Allreduce", asyncOp=is_async))
                got, wanted = mine, torch.full((count,), total)
            elif kind == 1:
                got = torch.zeros(n * count, device=device)
                work = group._allgather_base(got, mine, options("Allgather", asyncOp=is_async))
                wanted = (torch.arange(n).repeat_interleave(count) + turn).float()
            elif kind == 2:
                root = order.randrange(n)
                how = options("Broadcast", rootRank=root, asyncOp=is_async)
                work = group.broadcast([mine], how)
                got, wanted = mine, torch.full((count,), float(root + turn))
            elif kind == 3:
                got = torch.zeros(count, device=device)
                sent = group.send([mine], (me + 1) % n, 0)
                work = group.recv([got], (me - 1) % n, 0)
                sent.wait()
                wanted = torch.full((count,), float((me - 1) % n + turn))
            else:
                got = torch.zeros(n, device=device)
                whole = torch.zeros(n, device=device)
                whole.fill_(float(me + turn))
                work = group.alltoall_base(
                    got, whole, [], [], options("AllToAll", asyncOp=is_async)
                )
                wanted = (torch.arange(n) + turn).float()
            del mine
            if work is not None:
                work.wait()
            got.mul_(2.0)
            same(got, wanted * 2.0)


@case
def a_model_trains_as_alone(world: World) -> None:
    """DistributedDataParallel, and torch.distributed's own functions, on such a group."""
    n, me, device = world.size, world.rank, world.device

    def backend(store: Any, rank: int, size: int, timeout: Any) -> Any:
        seconds = timeout.total_seconds()
        return world.c10d.nccl_group(store, rank, size, seconds, [], f"device {rank}")

    dist.Backend.register_backend("only_nccl", backend, devices=["fake"])
    store = dist.PrefixStore("model", world.store)
    dist.init_process_group("only_nccl", store=store, rank=me, world_size=n)
    try:
        torch.manual_seed(3)
        alone = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        model = copy.deepcopy(alone).to(device)
        shared = torch.nn.parallel.DistributedDataParallel(model, bucket_cap_mb=1)
        data = torch.randn(n, 6, 4)
        for step in range(3):
            alone.zero_grad()
            shared.zero_grad()
            alone(data.reshape(-1, 4) + step).pow(2).mean().backward()
            shared((data[me] + step).to(device)).pow(2).mean().backward()
            with torch.no_grad():
                for one, other in zip(alone.parameters(), model.parameters(), strict=True):
                    torch.testing.assert_close(other.grad.cpu(), one.grad)
                    one -= 0.1 * one.grad
                    other -= 0.1 * other.grad
        got = torch.zeros(3, device=device)
        ops = [
            dist.P2POp(dist.isend, torch.full((3,), float(me), device=device), (me + 1) % n),
            dist.P2POp(dist.irecv, got, (me - 1) % n),
        ]
        for work in dist.batch_isend_irecv(ops):
            work.wait()
        assert got.cpu().eq((me - 1) % n).all()
        first, second = torch.ones(2, device=device), torch.ones(3, device=device)
        with dist._coalescing_manager(device=device):
            dist.all_reduce(first)
            dist.all_reduce(second)
        assert first.cpu().eq(n).all()
        assert second.cpu().eq(n).all()
    finally:
        dist.destroy_process_group()


@case
def a_barrier_holds_the_host(world: World) -> None:
    group = world.group()
    barrier(world, group)
    with accelerator.delay(0.2):
        tensor = torch.zeros(10, device=world.device)
        tensor.fill_(1.0)
        event = torch.Event(world.device)
        event.record()
        assert not event.query()
        barrier(world, group)
        assert event.query()
    if world.rank == 0:
        time.sleep(0.5)
        world.store.set("the last one came", "")
    barrier(world, group)
    assert world.store.check(["the last one came"])


@case
def captures(world: World) -> None:
    group = world.group()
    tensor = torch.ones(3, device=world.device)
    with accelerator.capturing():
        with pytest.raises(ValueError, match="in a graph capture is the first collective"):
            group.allreduce([tensor])
        with pytest.raises(ValueError, match="in a graph capture: the first message"):
            group.send([tensor], (world.rank + 1) % world.size, 0)
    group.allreduce([tensor]).wait()
    with accelerator.capturing():
        work = group.allreduce([tensor])
        work.wait()
        tensor.add_(1.0)
    assert tensor.cpu().eq(world.size**2 + 1).all()
    assert not work.is_completed()  # nobody may ask
    group.allreduce([tensor]).wait()
    assert tensor.cpu().eq(world.size * (world.size**2 + 1)).all()
