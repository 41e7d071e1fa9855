"""Puts the report of `quoit doctor` on a terminal or into a file: labels, wrapped text, colours."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

_WIDEST = 100


@dataclass(frozen=True)
class Line:
    """label: the left column. style: for a terminal with colours, of the label."""

    label: str
    text: str
    style: str = "bold"


@dataclass(frozen=True)
class Section:
    title: str
    lines: tuple[Line, ...]


def show(parts: Sequence[Section], out: TextIO = sys.stdout) -> None:
    """With colours on a terminal where rich is installed, else as plain text."""
    if out.isatty() and "NO_COLOR" not in os.environ:
        try:
            from rich.console import Console
        except ModuleNotFoundError:
            pass
        else:
            _show_rich(parts, Console(file=out, highlight=False))
            return
    out.write(plain(parts, min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns)))


def plain(parts: Sequence[Section], width: int = _WIDEST) -> str:
    blocks = []
    for part in parts:
        margin = _margin(part)
        lines = [part.title]
        for line in part.lines:
            lines += textwrap.wrap(
                line.text,
                max(40, width),
                initial_indent=f"  {line.label:<{margin}}  ",
                subsequent_indent=" " * (margin + 4),
                break_long_words=False,
                break_on_hyphens=False,
            )
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _show_rich(parts: Sequence[Section], console: object) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    assert isinstance(console, Console)
    for number, part in enumerate(parts):
        if number:
            console.print()
        console.print(Text(part.title, "bold cyan"))
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, min_width=_margin(part))
        table.add_column()
        for line in part.lines:
            cure = line.text.startswith("→")
            table.add_row(
                Text(line.label, line.style if line.label else ""),
                Text(line.text, "green" if cure else ""),
            )
        console.print(Padding(table, (0, 0, 0, 2)), width=min(_WIDEST, console.width))


def _margin(part: Section) -> int:
    return max(len(line.label) for line in part.lines)
