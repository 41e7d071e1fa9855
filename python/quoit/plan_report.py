"""The report of `quoit plan`: what is reckoned, as tables, curves and advice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from quoit import plan_model as model
from quoit import units
from quoit.plan_model import Codec, Links, Shape, Step, Training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BUCKETS = tuple(1 << power for power in range(20, 31))  # 1 MiB to 1 GiB
_WORTH = 0.97  # of the time; what saves less is not worth a setting


@dataclass(frozen=True)
class Collective:
    """A size on one shape. ways: seconds by algorithm; chosen: the one that the runtime takes."""

    size: int
    ways: dict[str, float]
    chosen: str


@dataclass(frozen=True)
class Scaling:
    """A training step on one shape, by codec."""

    shape: Shape
    steps: dict[str, Step]


@dataclass(frozen=True)
class Advice:
    """The fastest setting on the last shape. plain: without compression, as the command line has
    it; exact: without compression, with the best bucket; best: with the best of all."""

    plain: Step
    exact: Step
    exact_bucket: int
    best: Step
    best_bucket: int
    codec: str


@dataclass(frozen=True)
class Report:
    """All that a plan says; collectives and advice are for the last of the shapes."""

    op: str
    links: Links
    shapes: Sequence[Shape]
    collectives: Sequence[Collective]
    training: Training | None
    scaling: Sequence[Scaling]
    advice: Advice | None


def make(
    links: Links,
    shapes: Sequence[Shape],
    op: str,
    sizes: Sequence[int],
    training: Training | None,
    codecs: Sequence[Codec],
) -> Report:
    last = shapes[-1]
    collectives = [
        Collective(size, model.ways(op, size, last, links), model.choice(op, size, last, links)[0])
        for size in sizes
    ]
    if training is None:
        return Report(op, links, shapes, collectives, None, (), None)
    scaling = [
        Scaling(shape, {codec.name: model.step(training, shape, links, codec) for codec in codecs})
        for shape in shapes
    ]
    advice = _advice(links, last, training, codecs)
    return Report(op, links, shapes, collectives, training, scaling, advice)


def _advice(links: Links, shape: Shape, training: Training, codecs: Sequence[Codec]) -> Advice:
    plain = model.step(training, shape, links, Codec())
    exact, exact_bucket = _best_bucket(links, shape, training, Codec())
    name, best, best_bucket = "none", exact, exact_bucket
    for codec in sorted(codecs, key=lambda codec: codec.ratio):  # the gentlest that does it
        step, bucket = _best_bucket(links, shape, training, codec)
        if step.seconds < _WORTH * best.seconds:
            name, best, best_bucket = codec.name, step, bucket
    return Advice(plain, exact, exact_bucket, best, best_bucket, name)


def _best_bucket(links: Links, shape: Shape, training: Training, codec: Codec) -> tuple[Step, int]:
    """The given size of buckets, unless another is worth it."""
    best, chosen = model.step(training, shape, links, codec), training.bucket_bytes
    for size in _BUCKETS:
        step = model.step(replace(training, bucket_bytes=size), shape, links, codec)
        if step.seconds < (_WORTH if chosen == training.bucket_bytes else 1.0) * best.seconds:
            best, chosen = step, size
    return best, chosen


def show(report: Report, out: TextIO) -> None:
    """As text."""
    links, last = report.links, report.shapes[-1]
    out.write(
        f"{spelled(last)}; links from {links.source}\n"
        f"  inside a host  {units.spell_seconds(links.host_alpha)} a round, "
        f"{_rate(links.host_beta)} between its ranks\n"
        f"  between hosts  {units.spell_seconds(links.net_alpha)} a message, "
        f"{_rate(links.net_beta)} for each host\n"
        f"  addition       {_rate(links.gamma)}\n\n"
    )
    _show_collectives(report, out)
    if report.training is not None:
        out.write("\n")
        _show_scaling(report, report.training, out)
    out.write("\n" + "\n".join(recommendation(report)) + "\n")


def _show_collectives(report: Report, out: TextIO) -> None:
    names = sorted({name for one in report.collectives for name in one.ways})
    rows = [[report.op, *names]]
    for one in report.collectives:
        cells = [
            units.spell_seconds(one.ways[name]) + ("*" if name == one.chosen else " ")
            for name in names
        ]
        rows.append([units.spell_size(one.size), *cells])
    out.write(_columns(rows) + "* what quoit takes\n")


def _show_scaling(report: Report, training: Training, out: TextIO) -> None:
    codecs = list(report.scaling[0].steps)
    out.write(
        f"step: {units.spell_size(training.gradient_bytes)} of gradients in buckets of "
        f"{units.spell_size(training.bucket_bytes)}, computing "
        f"{units.spell_seconds(training.compute)}; time of a step, and computing's part of it\n"
    )
    rows = [["hosts", "ranks", *codecs]]
    for line in report.scaling:
        cells = [
            f"{units.spell_seconds(line.steps[name].seconds)} {line.steps[name].efficiency:4.0%}"
            for name in codecs
        ]
        rows.append([str(line.shape.hosts), str(line.shape.ranks), *cells])
    out.write(_columns(rows))


def recommendation(report: Report) -> list[str]:
    """What to set for the last of the shapes, in words."""
    last = report.shapes[-1]
    lines = [f"{spelled(last)}: {report.op} {_crossovers(report.collectives)}."]
    advice = report.advice
    if advice is None or report.training is None:
        return lines
    asked = report.training.bucket_bytes
    settings = []
    if advice.best_bucket != asked:
        settings.append(f"bucket_cap_mb={advice.best_bucket >> 20}")
    if advice.codec != "none":
        settings.append(f"compression to {advice.codec}")
    if not settings:
        lines.append(
            f"DDP as it is: a step takes {units.spell_seconds(advice.plain.seconds)}, "
            f"{units.spell_seconds(advice.plain.exposed)} of it for communication; neither other "
            "buckets nor compression would save 3 % of it."
        )
        return lines
    lines.append(
        f"DDP with {' and '.join(settings)}: a step takes "
        f"{units.spell_seconds(advice.best.seconds)} instead of "
        f"{units.spell_seconds(advice.plain.seconds)}, "
        f"{advice.plain.seconds / advice.best.seconds:.2f} times as fast; "
        f"{units.spell_seconds(advice.best.exposed)} of it for communication."
    )
    if advice.codec != "none":
        lines.append(
            f"Without compression the best is {units.spell_seconds(advice.exact.seconds)}, with "
            f"buckets of {units.spell_size(advice.exact_bucket)}."
        )
    return lines


def spelled(shape: Shape) -> str:
    hosts = f"{shape.hosts} host{'s'[: shape.hosts > 1]}"
    ranks = f"{shape.ranks_per_host} rank{'s'[: shape.ranks_per_host > 1]}"
    return f"{hosts} of {ranks}" + (f", {shape.ranks} in all" if shape.hosts > 1 else "")


def _crossovers(collectives: Sequence[Collective]) -> str:
    """By size: "doubling up to 16 KiB, then ring"."""
    parts: list[tuple[str, int]] = []
    for one in collectives:
        if parts and parts[-1][0] == one.chosen:
            parts[-1] = (one.chosen, one.size)
        else:
            parts.append((one.chosen, one.size))
    said = [f"{name} up to {units.spell_size(size)}" for name, size in parts[:-1]]
    return "by " + ", ".join([*said, f"then {parts[-1][0]}" if said else parts[-1][0]])


def _rate(beta: float) -> str:
    return units.spell_rate(1 / beta) if beta > 0 else "no limit"


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def draw(report: Report, path: Path) -> None:
    """Curves on log axes: a collective by size, and a training step by ranks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11 if report.scaling else 6, 4.6), layout="constrained")
    figure.suptitle(
        f"{spelled(report.shapes[-1])}; links from {report.links.source}", fontsize="medium"
    )
    both = figure.subplots(1, 2) if report.scaling else [figure.subplots()]
    _draw_collectives(report, both[0])
    if report.training is not None:
        _draw_scaling(report, report.training, both[1])
    for axes in both:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=140)


def _draw_collectives(report: Report, axes: Axes) -> None:
    sizes = [one.size for one in report.collectives]
    names = list(dict.fromkeys(name for one in report.collectives for name in one.ways))
    for name in names:
        axes.plot(sizes, [one.ways[name] for one in report.collectives], ".-", label=name)
    chosen = [one.ways[one.chosen] for one in report.collectives]
    axes.plot(sizes, chosen, color="#555555", linewidth=5, alpha=0.25, label="quoit's choice")
    axes.set(xscale="log", yscale="log", xlabel="size, bytes", ylabel=f"{report.op}, s")


def _draw_scaling(report: Report, training: Training, axes: Axes) -> None:
    ranks = [line.shape.ranks for line in report.scaling]
    for name in report.scaling[0].steps:
        seconds = [line.steps[name].seconds for line in report.scaling]
        axes.plot(ranks, seconds, ".-", label=name)
    axes.axhline(training.compute, color="#555555", linestyle="--", label="computing")
    axes.set(xscale="log", yscale="log", xlabel="ranks", ylabel="step, s")
    if math.isclose(min(ranks), max(ranks)):
        axes.set_xlim(ranks[0] / 2, ranks[0] * 2)
