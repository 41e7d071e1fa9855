"""The page docs/mistakes.md, made of what mistakes.py has seen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mistakes_cases import LIMIT_S, MISTAKES, TIMEOUT_S, Mistake

LONGEST = 150

HEAD = f"""# Provoked mistakes

What a program that makes a mistake gets to see from quoit, and from gloo. `python tests/mistakes.py
--markdown docs/mistakes.md` makes this page: each mistake is played by two or three ranks through
`torch.distributed`, with a timeout of {TIMEOUT_S:.0f} s. A rank that has raised stays alive until the
others are done, so that nobody learns of a mistake by its exit.

*all* says whether every rank that could raises: "–" where none has to, because the program is right
or because no library can know better. *s* is the time from the mistake to the last rank's error, in
seconds. "still waiting" is after {LIMIT_S:.0f} s, more than twice the timeout. Texts are shortened;
[errors.md](errors.md) has quoit's in full, with cause and cure.
"""


def page(results: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> str:
    backends = list(results)
    lines = [
        HEAD,
        "| mistake | " + " | ".join(f"{one} | all | s" for one in backends) + " |",
        "|---|" + "---|---|---|" * len(backends),
    ]
    for name, mistake in MISTAKES.items():
        if not any(name in results[backend] for backend in backends):
            continue
        cells = [cell for one in backends for cell in _cells(mistake, results[one].get(name, []))]
        lines.append(f"| {mistake.title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cells(mistake: Mistake, ranks: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    """What is said, whether by all, and when."""
    if not ranks:
        return "not played", "", ""
    told = [_words(rank) for rank in ranks]
    raised = [rank["kind"] == "raised" for rank in ranks]
    due = [rank["rank"] in mistake.raises for rank in ranks]
    alike = all(raised) or len(set(told)) == 1
    if alike:
        said = told[0]
    else:
        said = "<br>".join(f"rank {rank['rank']}: {word}" for rank, word in zip(ranks, told))
    missed = any(d and not r for d, r in zip(due, raised))
    everybody = "–" if not any(due) else "no" if missed else "yes"
    times = [rank["after_s"] for rank in ranks if rank["after_s"] is not None]
    return said, everybody, _seconds(max(times)) if times else ""


def _words(rank: Mapping[str, Any]) -> str:
    kind = rank["kind"]
    if kind == "nothing":
        return "no error, right result"
    if kind == "wrong":
        return f"**no error**: {_short(rank['said'])}"
    if kind == "waiting":
        return "**still waiting**"
    if kind == "died":
        return f"**died**: {_short(rank['said'])}"
    return _short(rank["said"]) or rank["error"]


def _short(text: str) -> str:
    text = " ".join(text.split())
    text = re.sub(r"\[(enforce fail at )?/[^ \]]*\]?\s*", "", text)  # where in gloo's sources
    text = re.sub(r"\[quoit (rank \d+) on [^\]]*\]", r"[\1]", text)
    text = re.sub(r"/tmp/\S+", "…", text)
    text = text.replace("|", "\\|").replace("<", "&lt;")
    if len(text) > LONGEST:
        text = text[:LONGEST].rsplit(" ", 1)[0] + " …"
    return text


def _seconds(after: float) -> str:
    return "< 0.1" if after < 0.1 else f"{after:.1f}"
