"""Compressed all_reduce on NumPy arrays: what comes out, what the residual keeps, what is refused.

tests/cpp/test_compressed.cpp has the collective itself, over all transports and shapes of groups.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

import quoit
from quoit.codecs import Codec

# With how much error of a mean of noise, relative to its length. Bounds, not expectations.
LOSSES: dict[Codec, float] = {
    quoit.Bf16(): 0.005,
    quoit.Bf16(stochastic=True): 0.008,
    quoit.Fp8(): 0.05,
    quoit.Int8(): 0.02,
    quoit.Int4(): 0.2,
    quoit.Int4(hadamard=True): 0.25,
    quoit.Sign(): 1.0,
    quoit.TopK(): 1.0,
    quoit.TopK(ratio=0.1, bits=2): 1.0,
}
COUNT = 10_000


def on_threads(hosts: list[str], body: Callable[[quoit.Communicator], None]) -> None:
    world = quoit.Communicator.threads(hosts, timeout=60.0)
    errors: list[BaseException] = []

    def run(comm: quoit.Communicator) -> None:
        try:
            body(comm)
        except BaseException as error:
            errors.append(error)
            comm.abort(str(error))

    threads = [threading.Thread(target=run, args=(comm,)) for comm in world]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def noise(rank: int, step: int = 0) -> np.ndarray:
    return np.random.default_rng(100 * step + rank).standard_normal(COUNT).astype(np.float32)


@pytest.mark.parametrize("codec", LOSSES, ids=lambda codec: codec.name)
@pytest.mark.parametrize("hosts", [["a", "a"], ["a", "b", "c"], ["a", "a", "b", "b"]], ids=len)
def test_a_mean_is_near_and_alike_everywhere(codec: Codec, hosts: list[str]) -> None:
    results: dict[int, np.ndarray] = {}

    def body(comm: quoit.Communicator) -> None:
        x = noise(comm.rank)
        comm.all_reduce(x, "AVG", codec=codec)
        results[comm.rank] = x

    on_threads(hosts, body)
    mean = np.mean([noise(rank) for rank in range(len(hosts))], axis=0)
    loss = np.linalg.norm(results[0] - mean) / np.linalg.norm(mean)
    assert loss < LOSSES[codec]
    assert len({x.tobytes() for x in results.values()}) == 1


@pytest.mark.parametrize("codec", LOSSES, ids=lambda codec: codec.name)
def test_what_is_lost_is_in_the_residuals(codec: Codec) -> None:
    steps, ranks = 10, 2
    sums = [np.zeros(COUNT) for _ in range(ranks)]
    residuals = [np.zeros(COUNT, np.float32) for _ in range(ranks)]

    def body(comm: quoit.Communicator) -> None:
        for step in range(steps):
            x = noise(comm.rank, step)
            comm.all_reduce(x, "AVG", codec=codec, residual=residuals[comm.rank])
            sums[comm.rank] += x

    on_threads(["a", "a"], body)
    given = sum(noise(rank, step) / ranks for rank in range(ranks) for step in range(steps))
    wrong = sums[0] + sum(residuals) - given
    assert np.linalg.norm(wrong) < 1e-6 * np.linalg.norm(given)


def test_a_vote_has_the_sign_of_the_majority() -> None:
    results: dict[int, np.ndarray] = {}

    def body(comm: quoit.Communicator) -> None:
        x = noise(comm.rank)
        comm.all_reduce(x, "AVG", codec=quoit.Sign(vote=True))
        results[comm.rank] = x

    on_threads(["a", "a", "a"], body)
    votes = sum(np.sign(noise(rank)) for rank in range(3))
    assert np.array_equal(np.sign(results[0]), np.sign(votes))


def test_top_k_takes_what_has_a_meaning() -> None:
    assert quoit.TopK().name == "topk(ratio=0.01, bits=8)"
    assert quoit.TopK(ratio=1e-5, bits=2).name == "topk(ratio=1e-05, bits=2)"
    for ratio in (0, -0.1, 0.26, float("nan")):
        with pytest.raises(quoit.UsageError, match="above 0 and at most"):
            quoit.TopK(ratio=ratio)
    with pytest.raises(quoit.UsageError, match="bits is 3"):
        quoit.TopK(bits=3)
    for codec in (quoit.TopK(), quoit.TopK(ratio=0.25), quoit.TopK(ratio=1e-5, bits=4)):
        assert quoit._core.Codec(codec.name).name == codec.name
    for name in ("topk(ratio=0.3, bits=8)", "topk(ratio=0.1, bits=5)", "topk(0.1)"):
        with pytest.raises(quoit.UsageError):
            quoit._core.Codec(name)


def test_asynchronous_and_16_bit() -> None:
    def body(comm: quoit.Communicator) -> None:
        x = np.full(COUNT, comm.rank + 1, np.float16)
        work = comm.all_reduce(x, codec=quoit.Int8(), async_op=True)
        work.wait()
        assert np.allclose(x, 3, rtol=0.02)

    on_threads(["a", "b"], body)


def test_mistakes() -> None:
    def body(comm: quoit.Communicator) -> None:
        x = np.ones(COUNT, np.float32)
        int8 = quoit.Int8()
        with pytest.raises(quoit.UsageError, match="only SUM and AVG"):
            comm.all_reduce(x, "MAX", codec=int8)
        with pytest.raises(quoit.UsageError, match="only float32, bfloat16 and float16"):
            comm.all_reduce(x.astype(np.float64), codec=int8)
        with pytest.raises(quoit.UsageError, match="works in place"):
            comm.all_reduce(x, out=x.copy(), codec=int8)
        with pytest.raises(quoit.UsageError, match="a residual without a codec"):
            comm.all_reduce(x, residual=x.copy())
        with pytest.raises(quoit.UsageError, match=r"must be float32\[10000\]"):
            comm.all_reduce(x, codec=int8, residual=np.zeros(3, np.float32))
        # Only the ranks together can see this.
        with pytest.raises(quoit.UsageError, match="with tensors of other sizes or codecs"):
            comm.all_reduce(x, codec=int8 if comm.rank else quoit.Fp8())

    on_threads(["a", "a"], body)
