"""Tables and plots of what bench/training.py measured."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training_runs import BETTER, TIMED_STEPS, WARM_UP, WAYS, Run, load

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Line:
    """One way of training one model at one rate; final and its spread over the seeds."""

    way: str
    step_ms: float
    megabytes: float  # sent by a rank in a step
    final: float
    spread: float  # from the least to the largest over the seeds
    seconds: float | None  # to the target; None: not reached
    chosen: str


def lines(runs: Sequence[Run], model: str, rate: str, target: float) -> list[Line]:
    found = []
    for way in WAYS:
        at = [r for r in runs if (r.key.model, r.key.way, r.key.rate) == (model, way, rate)]
        if not at:
            continue
        chosen = at[0].chosen
        curves = curves_of(runs, model, way, chosen)
        if not curves:  # Auto chose what was not run
            continue
        finals = [list(curve.values())[-1] for curve in curves]
        step = statistics.median([s for r in at for s in r.seconds[WARM_UP:]])
        steps = [reached(curve, target, BETTER[model]) for curve in curves]
        known = [n for n in steps if n is not None]
        found.append(
            Line(
                way,
                step * 1e3,
                statistics.mean([r.sent for r in at]) * 1e-6,
                statistics.mean(finals),
                max(finals) - min(finals),
                statistics.mean(known) * step if len(known) == len(steps) else None,
                chosen,
            )
        )
    return found


def curves_of(runs: Sequence[Run], model: str, way: str, chosen: str) -> list[dict[int, float]]:
    """Validation by step of each seed: of the runs that went to the end. Auto's curves are those of
    what it chose, whose gradients have the same bits."""
    named = {"none": "float32", "": way}
    same = named.get(chosen, chosen.split("(")[0].replace("topk", "topk 1 %"))
    whole = [
        run
        for run in runs
        if run.key.model == model and run.key.way == same and run.key.steps > TIMED_STEPS
    ]
    return [{int(step): v for step, v in run.validation.items()} for run in whole]


def reached(curve: dict[int, float], target: float, better: int) -> int | None:
    return next((n for n, value in curve.items() if better * value >= better * target), None)


def target_of(runs: Sequence[Run], model: str) -> float:
    """What float32 reaches with every seed at nine tenths of the way; rounded."""
    curves = curves_of(runs, model, "float32", "")
    at = [list(curve.values())[int(0.8 * len(curve))] for curve in curves]
    worst = max(at) if BETTER[model] < 0 else min(at)
    return round(worst, 2)


def check_bits(runs: Sequence[Run]) -> list[str]:
    """Where a run at another rate had other losses than the first."""
    first = {(r.key.model, r.key.way, r.key.seed): r for r in runs if r.key.steps > TIMED_STEPS}
    return [
        str(run.key)
        for run in runs
        if run.key.way not in ("auto",)
        and run.losses != first[run.key.model, run.key.way, run.key.seed].losses[: run.key.steps]
    ]


def report(chosen: argparse.Namespace) -> str:
    runs = load(chosen.out)
    said = []
    for model in dict.fromkeys(run.key.model for run in runs):
        target = target_of(runs, model)
        what = "loss" if BETTER[model] < 0 else "accuracy"
        for rate in dict.fromkeys(run.key.rate for run in runs if run.key.model == model):
            said.append(f"\n### {model}, {rate}: time to a validation {what} of {target}\n")
            said.append(
                "| way | step, ms | sent a step, MB | final | spread | time to target | vs bf16 |"
            )
            said.append("|---|---|---|---|---|---|---|")
            table = lines(runs, model, rate, target)
            bf16 = next((line.seconds for line in table if line.way == "bf16"), None)
            for line in table:
                way = f"{line.way} ({line.chosen})" if line.chosen else line.way
                seconds = "not reached" if line.seconds is None else f"{line.seconds:.1f} s"
                faster = f"{bf16 / line.seconds:.2f}x" if bf16 and line.seconds else ""
                said.append(
                    f"| {way} | {line.step_ms:.1f} | {line.megabytes:.3f} | {line.final:.4f} | "
                    f"{line.spread:.4f} | {seconds} | {faster} |"
                )
    other = check_bits(runs)
    said.append(
        "\nRuns at other rates had the same losses, bit for bit."
        if not other
        else "\nOther losses at another rate: " + "; ".join(other)
    )
    diverged = [str(run.key) for run in runs if not run.identical]
    said.append(
        "All ranks ended with the same parameters, bit for bit, in every run."
        if not diverged
        else "Ranks ended with different parameters: " + "; ".join(diverged)
    )
    return "\n".join(said) + "\n"


def plot(chosen: argparse.Namespace) -> None:
    from matplotlib.figure import Figure

    runs = load(chosen.out)
    colors = dict(zip(WAYS, [f"C{i}" for i in range(10)] + ["black"], strict=True))
    for model in dict.fromkeys(run.key.model for run in runs):
        rates = list(dict.fromkeys(run.key.rate for run in runs if run.key.model == model))
        figure = Figure(figsize=(5 * (len(rates) + 1), 4.4), layout="constrained")
        panels = figure.subplots(1, len(rates) + 1, squeeze=False)[0]
        what = "loss" if BETTER[model] < 0 else "accuracy"
        for axes, rate in zip(panels, rates, strict=False):
            for line in lines(runs, model, rate, target_of(runs, model)):
                if line.way == "auto":
                    continue
                curves = curves_of(runs, model, line.way, "")
                steps = list(curves[0])
                means = [statistics.mean(curve[n] for curve in curves) for n in steps]
                seconds = [n * line.step_ms / 1e3 for n in steps]
                style = "--" if line.way.startswith("gloo") else "-"
                axes.plot(seconds, means, style, color=colors[line.way], label=line.way, lw=1.4)
            axes.axhline(target_of(runs, model), color="gray", lw=0.8, ls=":")
            axes.set(
                title=f"{model} at {rate}",
                xlabel="seconds of training",
                ylabel=f"validation {what}",
            )
        for line in lines(runs, model, rates[0], target_of(runs, model)):
            if line.way in ("auto", "gloo"):
                continue
            panels[-1].errorbar(
                line.megabytes,
                line.final,
                yerr=line.spread / 2,
                fmt="o",
                color=colors[line.way],
                capsize=3,
            )
            panels[-1].annotate(
                line.way, (line.megabytes, line.final), textcoords="offset points", xytext=(6, 4)
            )
        panels[-1].set(
            title="quality and bytes", xscale="log", xlabel="MB sent a step", ylabel=f"final {what}"
        )
        for axes in panels:
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
            if BETTER[model] > 0:
                axes.set_ylim(0.9, 1.0)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(HERE / "plots" / f"training_{model}.png", dpi=110)
