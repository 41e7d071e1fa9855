"""Curves of a report: latency and busbw by size; for ddp, bars of the step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quoit.bench import sizes
from quoit.bench.plan import DISPATCH, LIMITS, MEMCPY, Plan
from quoit.bench.results import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that colour-blind people tell apart (Okabe and Ito); ours stand out.
_STYLES = {
    "quoit": {"color": "#D55E00", "marker": "o", "linewidth": 2.2},
    "quoit-numpy": {"color": "#E69F00", "marker": "s", "linewidth": 1.6},
    "gloo": {"color": "#0072B2", "marker": "^", "linewidth": 1.3},
    "nccl": {"color": "#56B4E9", "marker": "v", "linewidth": 1.3},
    "MPICH": {"color": "#009E73", "marker": "D", "linewidth": 1.3},
    "Open MPI": {"color": "#CC79A7", "marker": "P", "linewidth": 1.3},
    DISPATCH: {"color": "#999999", "linestyle": ":", "linewidth": 1.2},
    MEMCPY: {"color": "#555555", "linestyle": "--", "linewidth": 1.2},
}
_MOST_TICKS = 9


def draw(plan: Plan, rows: Sequence[Row], title: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    if plan.op in ("ddp", "barrier"):
        _bars(plan, rows, figure.subplots())
    else:
        latency, bandwidth = figure.subplots(1, 2)
        _curves(rows, latency, [("us", "time per call, µs")])
        _curves(rows, bandwidth, [("busbw", "busbw, GB/s"), ("algbw", "GB/s")])
        handles, labels = latency.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=140)


def _label(name: str) -> str:
    return f"{name} (limit)" if name in LIMITS else name


def _curves(rows: Sequence[Row], axes: Axes, choices: Sequence[tuple[str, str]]) -> None:
    """The first of `choices` that there is, by size; log axes."""
    cells = [cell for row in rows for cell in row.peers.values()]
    what, label = next(one for one in choices if any(getattr(c, one[0]) is not None for c in cells))
    for name in dict.fromkeys(name for row in rows for name in row.peers):
        points = [
            (row.bytes, value)
            for row in rows
            if name in row.peers and (value := getattr(row.peers[name], what)) is not None
        ]
        if not points:
            continue
        style: dict[str, Any] = {"markersize": 4, **_STYLES.get(name, {"marker": "."})}
        style["label"] = _label(name)
        axes.plot(*zip(*points, strict=True), zorder=3 if "quoit" in name else 2, **style)
    axes.set(xscale="log", yscale="log", xlabel="size, bytes", ylabel=label)
    every = -(-len(rows) // _MOST_TICKS)
    ticks = [row.bytes for row in rows[::every]]
    axes.set_xticks(ticks, [sizes.written(size) for size in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _bars(plan: Plan, rows: Sequence[Row], axes: Axes) -> None:
    cells = rows[0].peers
    names = list(cells)
    labels = [_label(name) for name in names]
    if plan.op == "ddp":
        alone = [(cells[name].alone_us or 0.0) / 1e3 for name in names]
        buckets = [max(0.0, cells[name].ddp_us or 0.0) / 1e3 for name in names]
        exposed = [max(0.0, cells[name].exposed_us or 0.0) / 1e3 for name in names]
        axes.barh(labels, alone, color="#BBBBBB", label="computation")
        axes.barh(labels, buckets, left=alone, color="#56B4E9", label="buckets of DDP")
        done = [first + second for first, second in zip(alone, buckets, strict=True)]
        bars = axes.barh(labels, exposed, left=done, color="#D55E00", label="exposed communication")
        axes.bar_label(bars, labels=[f"{value:.1f} ms" for value in exposed], padding=4)
        axes.set_xlabel("ms per step")
        axes.legend(frameon=False)
    else:
        bars = axes.barh(labels, [cells[name].us for name in names], color="#D55E00")
        axes.bar_label(bars, fmt="%.2f", padding=4)
        axes.set(xscale="log", xlabel="time per call, µs")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
