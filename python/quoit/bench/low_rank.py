"""The kernels of low-rank codecs: both products of a matrix, and what is made of the factors."""

from __future__ import annotations

from functools import partial

import numpy as np

from quoit import _core
from quoit.bench.data import DTYPES, Array, inputs, spoil
from quoit.bench.measure import Runner

RANK = 4


def runners(ins: list[Array]) -> dict[str, Runner]:
    """Of ins[0] as a matrix that is as square as can be, and ins[1] as its residual."""
    count = ins[0].size
    cols = 1 << int(np.ceil(np.log2(count) / 2))
    rows = count // cols
    matrix, residual = (array[: rows * cols].reshape(rows, cols) for array in ins)
    rank = min(RANK, rows, cols)
    left, right = _factor(rows, rank), _factor(cols, rank)
    down, across = np.empty_like(left), np.empty_like(right)
    truth = inputs(0, DTYPES["float32"])

    def fresh() -> None:
        truth.fill(ins[0])
        ins[1][:] = 1
        spoil(down)
        spoil(across)

    # Small whole numbers: all results are exact.
    def times(carried: int) -> int:
        return int(np.count_nonzero(down[:, :rows] != right[:, :cols] @ (matrix + carried).T))

    def transposed(carried: int) -> int:
        return int(np.count_nonzero(across[:, :cols] != left[:, :rows] @ (matrix + carried)))

    def restored() -> int:
        return int(np.count_nonzero(matrix != left[:, :rows].T @ right[:, :cols]))

    def kept() -> int:
        wrong, given = restored(), matrix.copy()
        truth.fill(ins[0])
        return wrong + int(np.count_nonzero(residual != matrix + 1 - given))

    name = f"lowrank(rank={rank})"
    found: dict[str, Runner] = {}
    for label, carried in (("", None), (", feedback", residual)):
        so_far = 0 if carried is None else 1
        found |= {
            f"{name} M Q{label}": Runner(
                partial(_core.low_rank_times, matrix, right, down, carried),
                1,
                fresh,
                partial(times, so_far),
            ),
            f"{name} M^T P{label}": Runner(
                partial(_core.low_rank_transposed_times, matrix, left, across, carried),
                1,
                fresh,
                partial(transposed, so_far),
            ),
            f"{name} restore{label}": Runner(
                partial(_core.low_rank_restore, matrix, left, right, carried),
                1,
                fresh,
                restored if carried is None else kept,
            ),
        }
    return found


def _factor(length: int, rank: int) -> Array:
    """Columns of -1, 0 and 1, padded."""
    factor = np.zeros((rank, _core.low_rank_stride(length)), np.float32)
    numbers = np.arange(length)
    for column in range(rank):
        factor[column, :length] = (numbers * (column + 2) + column) % 3 - 1
    return factor
