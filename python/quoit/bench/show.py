"""A report on a terminal, in a file, or for GitHub."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TextIO

from quoit.bench.table import Table, Text

_WIDTH = 120  # of what is no terminal
_STYLES = {"ahead": "green", "behind": "yellow", "wrong": "bold red", "best": "bold", "": ""}
_LEFT = ("peer", "backend", "best peer", "type", "redop")  # columns of words


def show(facts: Mapping[str, str], table: Table | None, out: TextIO | None = None) -> None:
    """With colours on a terminal, by rich where that is installed; else as plain text."""
    out = out or sys.stdout
    if not out.isatty() or importlib.util.find_spec("rich") is None:
        out.write(plain(facts, table))
        return
    from rich.console import Console

    console = Console(file=out, highlight=False)
    if table is not None:
        # A line that is too long is better than figures that are cut off.
        console.width = max(console.width, sum(_widths(table)) + 2 * len(table.headings))
    _show_rich(facts, table, console)


def _show_rich(facts: Mapping[str, str], table: Table | None, console: object) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

    assert isinstance(console, Console)
    grid = RichTable.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for name, fact in facts.items():
        grid.add_row(RichText(name, "cyan"), RichText(fact, "bold red" if name == "busy" else ""))
    console.print(grid)
    if table is None:
        return
    rich = RichTable(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, header_style="cyan")
    for heading in table.headings:
        rich.add_column(heading, justify="left" if heading in _LEFT else "right", no_wrap=True)
    for group in table.groups:
        for line in group:
            rich.add_row(
                *(RichText(cell.text, _STYLES[cell.mark]) for cell in line),
                end_section=len(group) > 1 and line is group[-1],
            )
    console.print(rich)
    console.print(RichText(table.note, "dim"))


def plain(facts: Mapping[str, str], table: Table | None) -> str:
    """Without rich."""
    margin = max(map(len, facts))
    lines = []
    for name, fact in facts.items():
        lines += textwrap.wrap(
            fact,
            _WIDTH,
            initial_indent=f"{name:{margin}}  ",
            subsequent_indent=" " * (margin + 2),
            break_on_hyphens=False,
        )
    if table is not None:
        widths = _widths(table)
        lines += ["", "  ".join(_fitted([Text(h) for h in table.headings], table, widths))]
        for group in table.groups:
            lines += [""] if len(group) > 1 else []
            lines += ["  ".join(_fitted(line, table, widths)) for line in group]
        lines += ["", *textwrap.wrap(table.note, _WIDTH)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def markdown(facts: Mapping[str, str], table: Table | None) -> str:
    """GitHub's, which reads well as it is."""
    lines = [f"- {name}: {fact}" for name, fact in facts.items()]
    if table is not None:
        widths = [max(2, width) for width in _widths(table)]
        rule = [
            "-" * width if heading in _LEFT else "-" * (width - 1) + ":"
            for heading, width in zip(table.headings, widths, strict=True)
        ]
        rows = [[Text(heading) for heading in table.headings]]
        rows += [list(line) for group in table.groups for line in group]
        cells = [_fitted(row, table, widths) for row in rows]
        lines += ["", *(f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:]))]
        lines += ["", f"Columns: {table.note}."]
    return "\n".join(lines) + "\n"


def _widths(table: Table) -> list[int]:
    lines = [line for group in table.groups for line in group]
    return [
        max(len(heading), *(len(line[i].text) for line in lines)) if lines else len(heading)
        for i, heading in enumerate(table.headings)
    ]


def _fitted(line: Sequence[Text], table: Table, widths: Sequence[int]) -> list[str]:
    return [
        cell.text.ljust(width) if heading in _LEFT else cell.text.rjust(width)
        for cell, heading, width in zip(line, table.headings, widths, strict=True)
    ]
