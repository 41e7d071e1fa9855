"""Tables and plots of what bench/training.py measured: bench/RESULTS-training.md, bench/plots."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from training_runs import TIMED_ONLY, TIMED_STEPS, WARM_UP, WAYS, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).resolve().parent
MARKS = ("<!-- bench/training.py: begin -->", "<!-- bench/training.py: end -->")
NAMES = {"gpt": "GPT on the standard library", "digits": "convolutional net on digits"}
# What training has to reach: float32 does in less than half of the steps, and ends at about 3.3 and
# 0.993. And the names of what that is.
TARGET = {"gpt": 3.6, "digits": 0.98}
WHAT = {"gpt": "validation loss", "digits": "validation accuracy"}
BETTER = {"gpt": -1, "digits": 1}


@dataclass(frozen=True)
class Line:
    """One way of training one model at one rate; finals and seconds are by seed."""

    way: str
    chosen: str  # by Auto
    step_ms: float
    megabytes: float  # sent by a rank in a step
    curves: list[dict[int, float]]  # validation by step
    begun: float  # seconds before the first step
    warm_up: int  # steps before the codecs begin that begin late
    early: float  # seconds of one of those
    target: float
    better: int

    @property
    def finals(self) -> list[float]:
        return [list(curve.values())[-1] for curve in self.curves]

    @property
    def steps(self) -> list[float]:
        """To the target, of the seeds that reached it."""
        reached = [steps_to(self.target, curve, self.better) for curve in self.curves]
        return [n for n in reached if n is not None]

    @property
    def seconds(self) -> list[float]:
        """To the target, of the seeds that reached it."""
        late = self.step_ms / 1e3
        return [
            self.begun + min(n, self.warm_up) * self.early + max(n - self.warm_up, 0) * late
            for n in self.steps
        ]

    @property
    def mean_seconds(self) -> float | None:
        """None: not every seed reached the target."""
        whole = len(self.steps) == len(self.curves)
        return statistics.mean(self.seconds) if whole else None


def steps_to(target: float, curve: Mapping[int, float], better: int) -> float | None:
    """Steps to the target, on straight lines between evaluations; None where it is not reached."""
    before: tuple[int, float] | None = None
    for step, value in curve.items():
        if better * (value - target) >= 0:
            if before is None:
                return float(step)
            share = (target - before[1]) / (value - before[1])
            return before[0] + share * (step - before[0])
        before = (step, value)
    return None


def lines(runs: Sequence[Run], model: str, rate: str) -> list[Line]:
    found, warm_up = [], WARM_UP[model]
    for way in WAYS:
        at = [r for r in runs if (r.key.model, r.key.way, r.key.rate) == (model, way, rate)]
        if not at:
            continue
        curves = [validation(run) for run in whole_runs(runs, model, bits_of(at[0]))]
        if not curves:  # Auto chose what was not run
            continue
        found.append(
            Line(
                way,
                at[0].chosen,
                statistics.median([s for r in at for s in r.seconds[warm_up:]]) * 1e3,
                statistics.median([b for r in at for b in r.sent[warm_up:]]) * 1e-6,
                curves,
                statistics.median([r.began for r in at]),
                warm_up,
                statistics.median([s for r in at for s in r.seconds[:warm_up]]),
                TARGET[model],
                BETTER[model],
            )
        )
    return found


def bits_of(run: Run) -> str:
    """The way that has the same gradients, bit for bit, and is trained to the end."""
    if run.key.way == "gloo":  # of two ranks, means are the same in any order
        return "float32"
    named = {"none": "float32", "": run.key.way}
    return named.get(run.chosen, run.chosen.split("(")[0].replace("topk", "topk 1 %"))


def whole_runs(runs: Sequence[Run], model: str, way: str) -> list[Run]:
    return [r for r in runs if (r.key.model, r.key.way) == (model, way) and is_whole(r)]


def is_whole(run: Run) -> bool:
    return run.key.steps > TIMED_STEPS


def validation(run: Run) -> dict[int, float]:
    return {int(step): value for step, value in run.validation.items()}


def write(runs: Sequence[Run], about: str) -> None:
    plot_bytes(runs)
    plot_times(runs)
    (HERE / "RESULTS-training.md").write_text(report(runs, about))
    docs = HERE.parent / "docs" / "compression.md"
    before, rest = docs.read_text().split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    docs.write_text(f"{before}{MARKS[0]}\n{summary(runs)}\n{MARKS[1]}{after}")


# ---- Text.


def report(runs: Sequence[Run], about: str) -> str:
    models = models_of(runs)
    warm_ups = " and ".join(f"{WARM_UP[model]} ({model})" for model in models)
    said = [
        "# Training with compressed gradients",
        "",
        "Made by `sudo python bench/training.py`; "
        "[docs/compression.md](../docs/compression.md) tells which codec when.",
        "",
        f"- machine: {about}",
        "- seeds: every way was trained to the end with each seed at the first rate, because "
        "gradients do not depend on the links",
        f"- step: the median time of one, of the slower rank, after the warm-up; at the "
        f"other rates, of {TIMED_STEPS} steps with the first seed. Evaluation is not in it",
        f"- top-k, low rank, sign and PowerSGD begin after a warm-up of float32: {warm_ups} steps",
        "- time to target: steps until an evaluation reaches it (on a straight line from the one "
        "before), times the step, and for Auto what it measures first; the mean over the "
        "seeds, and from the least to the largest",
        "- auto and gloo have the gradients of what Auto chose, and of float32, bit for bit, and "
        f"were run for {TIMED_STEPS} steps",
        f"- {same_bits(runs)}",
        f"- {same_replicas(runs)}",
        "",
        "![Validation against bytes sent](plots/training_bytes.png)",
        "",
        "![Time to the target](plots/training_time.png)",
        "",
    ]
    for model in models:
        said += [f"## {NAMES[model]}", "", *quality(runs, model), ""]
        for rate in rates_of(runs, model):
            said += [f"### {rate}", "", *times(lines(runs, model, rate)), ""]
    return "\n".join(said)


def models_of(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.key.model for run in runs))


def rates_of(runs: Sequence[Run], model: str) -> list[str]:
    return list(dict.fromkeys(run.key.rate for run in runs if run.key.model == model))


def quality(runs: Sequence[Run], model: str) -> list[str]:
    """Finals of every way beside float32's, seed by seed."""
    said = [
        f"| way | final {WHAT[model]} | least – largest | beside float32 | sent in a step, MB |",
        "|---|---|---|---|---|",
    ]
    table = lines(runs, model, rates_of(runs, model)[0])
    plain = next((line.finals for line in table if line.way == "float32"), None)
    for line in table:
        if line.way in TIMED_ONLY:
            continue
        beside = "" if plain is None else difference(line.finals, plain, model)
        finals = f"{min(line.finals):.4f} – {max(line.finals):.4f}"
        said.append(
            f"| {line.way} | {statistics.mean(line.finals):.4f} | {finals} | {beside} | "
            f"{line.megabytes:.3f} |"
        )
    return said


def difference(finals: Sequence[float], plain: Sequence[float], model: str) -> str:
    mine, other = statistics.mean(finals), statistics.mean(plain)
    if BETTER[model] > 0:
        return f"{100 * (mine - other):+.2f} points"
    return f"{100 * (mine / other - 1):+.2f} % loss"


def times(table: Sequence[Line]) -> list[str]:
    said = [
        "| way | step, ms | steps to target | time to target, s | beside bf16 |",
        "|---|---|---|---|---|",
    ]
    bf16 = next((line.mean_seconds for line in table if line.way == "bf16"), None)
    for line in table:
        way = f"{line.way}: {line.chosen}" if line.chosen else line.way
        if line.mean_seconds is None:
            took, faster = f"reached by {len(line.steps)} of {len(line.curves)} seeds", ""
            steps = ""
        else:
            took = f"{line.mean_seconds:.1f} ({min(line.seconds):.1f} – {max(line.seconds):.1f})"
            faster = f"{bf16 / line.mean_seconds:.2f}x" if bf16 else ""
            steps = f"{statistics.mean(line.steps):.0f}"
        said.append(f"| {way} | {line.step_ms:.1f} | {steps} | {took} | {faster} |")
    return said


def same_bits(runs: Sequence[Run]) -> str:
    """Whether short runs had the losses of those that they stand for, where there are such."""
    whole = {(r.key.model, r.key.way, r.key.seed): r.losses for r in runs if is_whole(r)}
    same, other, alone = [], [], []
    for run in runs:
        if is_whole(run):
            continue
        losses = whole.get((run.key.model, bits_of(run), run.key.seed))
        if not losses:
            alone.append(str(run.key))
        else:
            (same if run.losses == losses[: run.key.steps] else other).append(str(run.key))
    said = []
    if other:
        said.append("**other losses** than in the run to the end: " + "; ".join(other))
    if same:
        said.append(
            "short runs had the losses of the run to the end with the same seed in every step, bit "
            f"for bit ({len(same)} compared)"
        )
    if alone:
        said.append("**not compared**, as there is no such run to the end: " + "; ".join(alone))
    return ". ".join(said) or "no short runs, whose losses could be compared"


def same_replicas(runs: Sequence[Run]) -> str:
    diverged = [str(run.key) for run in runs if not run.identical]
    if diverged:
        return "**ranks ended with different parameters**: " + "; ".join(diverged)
    return "ranks ended with the same parameters, bit for bit, in every run"


def summary(runs: Sequence[Run]) -> str:
    """For docs/compression.md: quality, and time beside bf16's, of all models and rates."""
    models = models_of(runs)
    panels = [(model, rate) for model in models for rate in rates_of(runs, model)]
    heads = [f"{m}: final" for m in models] + [f"{m}, {rate}" for m, rate in panels]
    tables = {panel: {line.way: line for line in lines(runs, *panel)} for panel in panels}
    first = {model: tables[model, rates_of(runs, model)[0]] for model in models}
    said = [
        "![Validation against bytes sent](../bench/plots/training_bytes.png)",
        "",
        "![Time to the target](../bench/plots/training_time.png)",
        "",
        "Finals are beside float32's; the other columns are how many times sooner than by bf16 the "
        "target was reached. [All figures, and how they were taken](../bench/RESULTS-training.md).",
        "",
        f"| way | {' | '.join(heads)} |",
        f"|---|{'---|' * len(heads)}",
    ]
    for way in WAYS:
        if not any(way in table for table in tables.values()):
            continue
        cells = [final_cell(first[model], way, model) for model in models]
        cells += [sooner_cell(tables[panel], way) for panel in panels]
        said.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(said)


def final_cell(table: Mapping[str, Line], way: str, model: str) -> str:
    if not {way, "float32"} <= set(table):
        return "–"
    return difference(table[way].finals, table["float32"].finals, model)


def sooner_cell(table: Mapping[str, Line], way: str) -> str:
    line, bf16 = table.get(way), table.get("bf16")
    if line is None:
        return "–"
    if line.mean_seconds is None:
        return "not reached"
    if bf16 is None or bf16.mean_seconds is None:
        return f"{line.mean_seconds:.1f} s"
    chosen = f" ({line.chosen})" if line.chosen else ""
    return f"{bf16.mean_seconds / line.mean_seconds:.2f}x{chosen}"


# ---- Pictures.


def color(way: str) -> str:
    return dict(zip(WAYS, [*(f"C{i}" for i in range(10)), "navy", "black"], strict=True))[way]


def plot_bytes(runs: Sequence[Run]) -> None:
    """Validation against what a rank has sent; of an accuracy, what is missing."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    models = models_of(runs)
    figure = Figure(figsize=(5.4 * len(models), 4.6), layout="constrained")
    panels = figure.subplots(1, len(models), squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        accuracy = BETTER[model] > 0

        def shown(value: float, accuracy: bool = accuracy) -> float:
            return 100 * max(1 - value, 1e-3) if accuracy else value

        for line in lines(runs, model, rates_of(runs, model)[0]):
            if line.way in TIMED_ONLY:
                continue
            sent = whole_runs(runs, model, line.way)[0].sent
            steps = list(line.curves[0])
            axes.plot(
                [sum(sent[:n]) * 1e-6 for n in steps],
                [shown(statistics.mean(curve[n] for curve in line.curves)) for n in steps],
                "--" if line.way.startswith("gloo") else "-",
                color=color(line.way),
                label=line.way,
                lw=1.5,
            )
        axes.axhline(shown(TARGET[model]), color="gray", lw=0.9, ls=":")
        axes.set(
            title=NAMES[model],
            xscale="log",
            xlabel="MB sent by a rank",
            ylabel="validation error, %" if accuracy else f"{WHAT[model]}, nats a token",
        )
        if accuracy:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(HERE / "plots" / "training_bytes.png", dpi=110)


def plot_times(runs: Sequence[Run]) -> None:
    """Bars of the time to the target, with bf16's as a line to compare with."""
    from matplotlib.figure import Figure

    models = models_of(runs)
    rates = list(dict.fromkeys(run.key.rate for run in runs))
    figure = Figure(figsize=(5.4 * len(rates), 3.6 * len(models)), layout="constrained")
    panels = figure.subplots(len(models), len(rates), squeeze=False)
    for row, model in zip(panels, models, strict=True):
        for axes, rate in zip(row, rates, strict=True):
            draw_bars(axes, lines(runs, model, rate))
            axes.set(
                title=f"{NAMES[model]}, {rate}",
                xlabel=f"seconds to a {WHAT[model]} of {TARGET[model]:g}",
            )
    figure.suptitle(
        "Time to the target; in brackets, how many times sooner than by bf16", fontsize=11
    )
    figure.savefig(HERE / "plots" / "training_time.png", dpi=110)


def draw_bars(axes: Axes, table: Sequence[Line]) -> None:
    bf16 = next((line.mean_seconds for line in table if line.way == "bf16"), None)
    longest = max((max(ln.seconds) for ln in table if ln.mean_seconds is not None), default=0.0)
    for place, line in enumerate(table):
        mean = line.mean_seconds
        if mean is None:
            axes.text(0, place, " not reached", va="center", color="gray")
            continue
        spread = [[mean - min(line.seconds)], [max(line.seconds) - mean]]
        axes.barh(place, mean, color=color(line.way), alpha=0.85)
        axes.errorbar(mean, place, xerr=spread, color="black", capsize=2, lw=0.9)
        sooner = f" ({bf16 / mean:.2f}x)" if bf16 else ""
        axes.annotate(
            f"{mean:.1f} s{sooner}",
            (max(line.seconds), place),
            textcoords="offset points",
            xytext=(6, 0),
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.85},
        )
    if bf16:
        axes.axvline(bf16, color="gray", lw=0.9, ls="--")
    if longest:
        axes.set_xlim(0, 1.35 * longest)
    axes.set_yticks(
        range(len(table)), [f"auto: {ln.chosen}" if ln.chosen else ln.way for ln in table]
    )
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, axis="x")
