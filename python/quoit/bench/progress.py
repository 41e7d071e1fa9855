"""A progress bar on a terminal; elsewhere nothing is shown."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from quoit.bench import sizes
from quoit.bench.plan import Plan, Record


@contextlib.contextmanager
def bar(plan: Plan, launches: int) -> Iterator[Callable[[str], Callable[[Record], None]]]:
    """Yields a function that, given a launch's name, makes what hears the launch's records."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ModuleNotFoundError:
        yield lambda name: lambda record: None
        return
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    steps = max(1, len(plan.sizes))
    with Progress(
        *columns, console=console, transient=True, disable=not sys.stderr.isatty()
    ) as progress:
        task = progress.add_task(plan.op, total=launches * steps)
        started = 0

        def launch(name: str) -> Callable[[Record], None]:
            nonlocal started
            base, started = started * steps, started + 1
            progress.update(task, completed=base, description=f"{plan.op} under {name}: starting")

            def hear(record: Record) -> None:
                size = record.get("bytes", 0)
                done = plan.sizes.index(size) if size in plan.sizes else 0
                words = f"{plan.op} under {name}" + (f": {sizes.named(size)}" if size else "")
                part = record.get("progress", float("peers" in record))
                progress.update(task, completed=base + done + part, description=words)

            return hear

        yield launch
