"""quoit.Communicator in every world, and what it answers to requests that mean nothing."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

import cases
import worlds
from conftest import Outcome
from elements import ELEMENTS, Array
from quoit import Communicator, UsageError
from worlds import World

SOME_ELEMENTS = ("float32", "bfloat16", "int32", "bool", "complex64")
REDUCTIONS = [f"all_reduce_{name}" for name in ELEMENTS]
SOME_REDUCTIONS = [f"all_reduce_{name}" for name in SOME_ELEMENTS]
OTHERS = [name for name in cases.CASES if name not in REDUCTIONS]
ODD_RANKS = [name for name in OTHERS if "mismatch" in name and "_at_" in name]
FEWER = [name for name in OTHERS if name not in ODD_RANKS]

THREADS = [World("threads", "a" * size) for size in (1, 2, 3, 5, 8)]
# Other ways to go, and other places to live: ranks of a host apart, hosts of unequal size.
MORE_THREADS = [
    *(World("threads", "a" * size, "ring") for size in (2, 3, 5)),
    World("threads", "aaa", "direct"),
    World("threads", "ab"),
    World("threads", "aab"),
    World("threads", "aabb"),
    World("threads", "abab"),
    World("threads", "abca", "hierarchy"),
    World("threads", "aaabbcca"),
    World("threads", "aabbb", "ring"),
    World("threads", "abc", transport="shm+tcp"),
]
# Where it matters most which rank is the odd one.
ODD_WORLDS = [World("threads", hosts) for hosts in ("aaa", "aab", "abab")]
MPIS = ("mpich", "openmpi")
LAUNCHED = [
    *(World("processes", "a" * size) for size in (1, 2, 4)),
    *(World(family, hosts) for family, hosts in product(MPIS, ("aa", "ab", "aab", "abab"))),
    World("processes", "ab"),
    World("processes", "aabb"),
    World("mpich", "aba", transport="shm+tcp"),
    # Hosts that are network namespaces: one rank each, and unevenly many.
    World("cluster-torchrun", "ab"),
    *(World(f"cluster-{family}", hosts) for family, hosts in product(MPIS, ("ab", "aab"))),
]
SLOW = [
    *(World("processes", "a" * size) for size in (3, 5, 8)),
    World("processes", "abcde"),
    World("processes", "aaaaabbb"),
    World("processes", "aaabbb", "ring"),
    World("processes", "aaaa", transport="tcp"),
    World("processes", "aaaa", "ring"),
    *(
        World(family, hosts)
        for family, hosts in product(
            MPIS, ("a", "aaa", "aaaa", "abc", "aaaaa", "aabbb", "aaaaaaaa", "aaaaabbb")
        )
    ),
    *(World(family, "aabb", "ring") for family in MPIS),
    *(
        World(f"cluster-{launcher}", hosts)
        for launcher, hosts in product(("torchrun", *MPIS), ("aabb", "aaabb", "aaaaabbb"))
    ),
    World("cluster-torchrun", "aab"),
]


def plays(
    places: Sequence[World], names: Sequence[str], *marks: pytest.MarkDecorator
) -> Iterator[object]:
    for world, name in product(places, names):
        yield pytest.param(
            world, f"cases.{name}", id=f"{world}-{name}", marks=[*world.marks, *marks]
        )


@pytest.mark.parametrize(
    ("world", "case"),
    [
        *plays(THREADS, [*REDUCTIONS, *FEWER]),
        *plays(MORE_THREADS, [*SOME_REDUCTIONS, *FEWER]),
        *plays(ODD_WORLDS, ODD_RANKS),
        *plays(
            [world for world in (*THREADS, *MORE_THREADS) if world not in ODD_WORLDS],
            ODD_RANKS,
            pytest.mark.slow,
        ),
        *plays(MORE_THREADS, sorted({*REDUCTIONS} - {*SOME_REDUCTIONS}), pytest.mark.slow),
    ],
)
def test_on_threads(world: World, case: str) -> None:
    if wrong := worlds.run_threads(world, cases.CASES[case.removeprefix("cases.")]):
        pytest.fail(wrong, pytrace=False)


@pytest.mark.parametrize(
    ("world", "case"),
    [
        *plays(LAUNCHED, [*SOME_REDUCTIONS, *FEWER]),
        *plays(
            LAUNCHED,
            [*sorted({*REDUCTIONS} - {*SOME_REDUCTIONS}), *ODD_RANKS],
            pytest.mark.slow,
        ),
        *plays(SLOW, [*REDUCTIONS, *OTHERS], pytest.mark.slow),
    ],
)
def test_on_processes(world: World, case: str, outcome: Outcome) -> None:
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)


def on_all(group: Sequence[Communicator], body: Callable[[Communicator], None]) -> None:
    """Runs the body on ranks that are threads; what one of them raises is raised here."""
    raised: list[BaseException] = []

    def be(comm: Communicator) -> None:
        try:
            body(comm)
        except BaseException as error:
            raised.append(error)

    ranks = [threading.Thread(target=be, args=[comm], daemon=True) for comm in group]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join(cases.CASE_S)
        assert not thread.is_alive()
    if raised:
        raise raised[0]


@pytest.fixture(params=["aa", "ab"])
def two(request: pytest.FixtureRequest) -> Iterator[list[Communicator]]:
    """Two ranks, on one host and on two."""
    group = Communicator.threads(request.param, timeout=cases.CASE_S)
    yield group
    for comm in group:
        comm.close()


def test_sums_of_one_host_run_in_rank_order(two: list[Communicator]) -> None:
    group = Communicator.threads("aaaaa", timeout=cases.CASE_S)
    numbers = np.random.default_rng(0).standard_normal((5, 200_000)).astype(np.float32)
    expected = numbers[0].copy()
    for one in numbers[1:]:
        expected += one
    assert expected.tobytes() != numbers.sum(axis=0, dtype=np.float64).astype(np.float32).tobytes()

    def reduce(comm: Communicator) -> None:
        for count in (1000, 200_000):
            mine = numbers[comm.rank, :count].copy()
            comm.all_reduce(mine)
            cases.equal(mine, expected[:count], f"{count} numbers")

    on_all(group, reduce)


def zeros(*counts: int, dtype: str = "float32") -> list[Array]:
    return [np.zeros(count, dtype) for count in counts]


ONES = np.ones(4, np.float32)
FIXED = np.ones(4, np.float32)
FIXED.flags.writeable = False

# What a call asks of rank 0 of two that means nothing, and what the answer tells.
NONSENSE: dict[str, tuple[Callable[[Communicator], object], str]] = {
    "bits of floats": (
        lambda c: c.all_reduce(ONES, "BAND"),
        "BAND of float32 has no meaning; float32 supports SUM, AVG, PRODUCT, MIN, MAX or PREMUL",
    ),
    "average of bools": (
        lambda c: c.all_reduce(np.ones(4, bool), "AVG"),
        "AVG of bool has no meaning; bool supports SUM, PRODUCT",
    ),
    "scaled integers": (
        lambda c: c.reduce(np.ones(4, np.int32), 0, "PREMUL_SUM"),
        "PREMUL_SUM of int32 has no meaning; int32 supports SUM",
    ),
    "sum of float8": (
        lambda c: c.all_reduce(np.ones(4, np.uint8), dtype="float8"),
        "float8 is moved but never reduced; convert it to",
    ),
    "order of complex numbers": (
        lambda c: c.all_reduce(np.ones(4, np.complex64), "MAX"),
        "MAX has no meaning for complex64: use SUM, AVG or PREMUL_SUM",
    ),
    "unknown op": (
        lambda c: c.all_reduce(ONES, "MEAN"),  # type: ignore[arg-type]
        "'MEAN' is not known: choose SUM, AVG",
    ),
    "unknown dtype": (
        lambda c: c.all_reduce(np.ones(4, "float32"), dtype="float31"),
        "float32 cannot be taken as float31",
    ),
    "dates": (
        lambda c: c.broadcast(np.zeros(4, "datetime64[s]"), 0),
        r"datetime64.* is not known",
    ),
    "objects": (lambda c: c.broadcast(np.zeros(4, object), 0), "object.* is not known"),
    "dtype of another size": (
        lambda c: c.broadcast(ONES, 0, dtype="bfloat16"),
        "float32.*bfloat16",
    ),
    "strides": (
        lambda c: c.all_reduce(np.ones(8, np.float32)[::2]),
        r"not contiguous: pass numpy.ascontiguousarray\(array\)",
    ),
    "columns": (
        lambda c: c.send(np.ones((4, 4)).T, 1),
        r"not contiguous: pass numpy.ascontiguousarray\(array\)",
    ),
    "fixed output": (lambda c: c.all_reduce(FIXED), "read-only"),
    "root too high": (lambda c: c.broadcast(ONES, 2), "root rank 2 .* ranks 0 to 1"),
    "root too low": (lambda c: c.reduce(ONES, -1), "root rank -1 .* ranks 0 to 1"),
    "no such destination": (lambda c: c.send(ONES, 7), "destination rank 7 .* ranks 0 to 1"),
    "no such source": (lambda c: c.recv(ONES, 2), "source rank 2 .* ranks 0 to 1"),
    "negative tag": (lambda c: c.send(ONES, 1, -1), "tag -1 is negative; tags are 0 or more"),
    "negative tag to receive": (lambda c: c.recv(ONES, 1, -4), "tag -4 is negative"),
    "output of another size": (
        lambda c: c.all_reduce(ONES, out=zeros(5)[0]),
        r"input is float32\[4\], output is float32\[5\]: they must be alike",
    ),
    "output of another dtype": (
        lambda c: c.all_reduce(ONES, out=zeros(2, dtype="float64")[0]),
        "float32.*float64",
    ),
    "reduced to another dtype": (
        lambda c: c.reduce(ONES, 0, out=zeros(4, dtype="int32")[0]),
        "float32.*int32",
    ),
    "too few outputs": (
        lambda c: c.all_gather(ONES, zeros(4)),
        "got 1 blocks; give one for each of the 2 ranks",
    ),
    "own output of another size": (
        lambda c: c.all_gather(ONES, zeros(5, 4)),
        "output 0 has 5 elements, the input 4: they must be alike",
    ),
    "gathered as another dtype": (
        lambda c: c.all_gather(ONES, [ONES.copy(), np.zeros(2)]),
        "float64.*float32|float32.*float64",
    ),
    "too many blocks": (
        lambda c: c.reduce_scatter(zeros(4, 4, 4), zeros(4)[0]),
        "got 3 blocks; give one for each of the 2 ranks",
    ),
    "own block of another size": (
        lambda c: c.reduce_scatter(zeros(3, 4), zeros(4)[0]),
        "block 0 of the input has 3 elements, the output 4",
    ),
    "blocks of two dtypes": (
        lambda c: c.reduce_scatter([ONES, np.zeros(2)], zeros(4)[0]),
        "float64.*float32|float32.*float64",
    ),
    "nothing to all": (lambda c: c.all_to_all([], []), "give one block per rank"),
    "unequal to all": (
        lambda c: c.all_to_all(zeros(1, 2), zeros(1, 2)),
        "uneven=True",
    ),
    "two dtypes to all": (
        lambda c: c.all_to_all([ONES, np.zeros(2)], zeros(4, 4)),
        "float64.*float32|float32.*float64",
    ),
    "root without outputs": (
        lambda c: c.gather(ONES, None, 0),
        "gather output: got 0 blocks; give one for each of the 2 ranks",
    ),
    "outputs too small": (
        lambda c: c.gather(ONES, zeros(4, 3), 0),
        "every output must have the 4 elements of the input",
    ),
    "root without inputs": (
        lambda c: c.scatter(None, zeros(4)[0], 0),
        "scatter input: got 0 blocks; give one for each of the 2 ranks",
    ),
    "inputs too small": (
        lambda c: c.scatter(zeros(4, 3), zeros(4)[0], 0),
        "every input must have the 4 elements of the output",
    ),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_is_refused_at_once(what: str, two: list[Communicator]) -> None:
    """By the rank that asks for it, alone; and the group goes on as if nothing had been asked."""
    call, told = NONSENSE[what]
    with pytest.raises(UsageError) as caught:
        call(two[0])
    assert re.search(told, str(caught.value), re.DOTALL), str(caught.value)
    assert str(caught.value).startswith("[quoit rank 0 on a] ")
    assert isinstance(caught.value, ValueError)
    on_all(two, cases.CASES["messages_with_one_tag_keep_their_order"])


def test_direct_needs_one_host() -> None:
    with pytest.raises(UsageError, match=r"'direct' needs all ranks on one host.*use 'auto'"):
        Communicator.threads("ab", algorithm="direct")


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(UsageError, match="'fast' is not known: choose auto, direct, ring, chain, "):
        Communicator.threads("aa", algorithm="fast")


@pytest.mark.parametrize(
    ("rank", "size", "told"),
    [
        (0, 3, "rank 0 of 3 heard from 2 ranks when meeting the others"),
        (1, 2, "rank 1 of 2 met a process on .* that is rank 1 of 2 where rank 0 of 2 should be"),
    ],
)
def test_a_rendezvous_of_other_ranks_is_refused(rank: int, size: int, told: str) -> None:
    with pytest.raises(UsageError, match=rf"\[quoit rank {rank} on .*{told}"):
        Communicator(rank, size, lambda text: [text, text], timeout=5)


def test_a_rank_outside_the_group_is_refused() -> None:
    with pytest.raises(UsageError, match="a group of 2 ranks has no rank 2"):
        Communicator(2, 2, lambda text: [text] * 2)


def test_an_unknown_transport_is_refused() -> None:
    with pytest.raises(UsageError, match="'carrier pigeon' is not known: choose auto, shm, mpi"):
        Communicator(0, 1, lambda text: [text], transport="carrier pigeon")


def test_a_closed_group_says_so() -> None:
    (alone,) = Communicator.threads("a")
    alone.close()
    with pytest.raises(UsageError, match="closed"):
        alone.all_reduce(np.ones(1))


def test_arrays_of_other_libraries_are_taken_by_dlpack(two: list[Communicator]) -> None:
    torch = pytest.importorskip("torch")
    tensors = [torch.full((5,), float(rank + 1)) for rank in range(2)]
    frozen = np.arange(3.0)
    frozen.flags.writeable = False
    into = torch.zeros(3, dtype=torch.float64)
    bits = [torch.tensor([1.5, rank], dtype=torch.bfloat16) for rank in range(2)]

    def body(comm: Communicator) -> None:
        comm.all_reduce(tensors[comm.rank])
        if comm.rank == 0:
            comm.send(frozen, 1)
        else:
            comm.recv(into, 0)
        comm.all_reduce(bits[comm.rank].view(torch.uint16), dtype="bfloat16")

    on_all(two, body)
    assert all(tensor.tolist() == [3.0] * 5 for tensor in tensors)
    assert into.tolist() == [0.0, 1.0, 2.0]
    assert [tensor.tolist() for tensor in bits] == [[3.0, 1.0]] * 2


def test_what_is_no_array_is_refused(two: list[Communicator]) -> None:
    class OnRocm:
        def __dlpack__(self) -> object:
            raise AssertionError("not asked for")

        def __dlpack_device__(self) -> tuple[int, int]:
            return (10, 0)

    torch = pytest.importorskip("torch")
    comm: Any = two[0]
    for wrong, words in (
        ([1.0, 2.0], "a list is no array: pass one of NumPy"),
        (OnRocm(), "the OnRocm lies in the memory of a device of kind 10"),
        (torch.ones(2, dtype=torch.bfloat16), r'pass its bits, .* dtype="bfloat16"'),
    ):
        with pytest.raises(UsageError, match=words):
            comm.all_reduce(wrong)
    frozen = np.ones(3)
    frozen.flags.writeable = False
    with pytest.raises(UsageError, match="pass one that may be written to"):
        comm.all_reduce(frozen)
