"""The page docs/mistakes.md, made of what mistakes.py has seen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mistakes_cases import LIMIT_S, MISTAKES, TIMEOUT_S, Mistake

LONGEST = 125

HEAD = f"""# Provoked mistakes

What a program that makes a mistake gets to see from quoit, and from gloo. This page is made by
`python tests/mistakes.py --markdown docs/mistakes.md`: two or three ranks make each mistake through
`torch.distributed`, in groups with a timeout of {TIMEOUT_S:.0f} s. A rank that has raised stays
alive until the others are done, so that nobody learns of a mistake by its exit.

*all* says whether every rank that could have been told was told by an exception; "–" stands where
nobody has to be: the program is right, or nothing that ranks tell each other shows the mistake. *s*
is the time from the mistake to the last of these exceptions, in seconds; "still waiting" is after
{LIMIT_S:.0f} s. A rank that died could not catch anything. Texts are shortened;
[errors.md](errors.md) has quoit's in full, with cause and cure.
"""

TAIL = """
## Where quoit is no better, or not good enough

- Equal calls in another order look alike, so both libraries add up what does not belong together.
  A message's size is compared, its dtype is not.
- Where groups are made in different orders, a rank that is not in the group over which the others
  disagree hears nothing of it, and waits for them in its next group. A process that comes with a
  rank of a group that is complete, or makes other groups than ranks that are complete without it,
  is warned after 5 s, and raises at the timeout.
- A `new_group` without `timeout=` has torch's own, 30 minutes, whatever the default group's is.
- `MASTER_ADDR` is obeyed as torch obeys it, so that variables of another job are believed.
- Who has done its part is told nothing, or in its next call: the sender of a message of the wrong
  size, the rank of an all_to_all whose own blocks have all arrived.
- Without any launcher the text is torch's own.
- A killed rank, one that ends, and a cut network are noticed by gloo as soon as by quoit, without
  saying which rank it was. A full /dev/shm and garbage on a port harm neither.
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
    return "\n".join(lines) + "\n" + TAIL


def _cells(mistake: Mistake, ranks: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    """What is said, whether by all, and when."""
    if not ranks:
        return "not played", "", ""
    told = [_words(rank) for rank in ranks]
    raised = [rank["kind"] == "raised" for rank in ranks]
    due = [rank["rank"] in mistake.raises for rank in ranks]
    alike = all(raised) or len(set(told)) == 1
    if alike:
        said = told[0] + (", right result" if told[0] == "no error" else "")
    else:
        said = "<br>".join(
            f"rank {rank['rank']}: {word}" for rank, word in zip(ranks, told, strict=True)
        )
    missed = any(d and not r for d, r in zip(due, raised, strict=True))
    everybody = "–" if not any(due) else "no" if missed else "yes"
    times = [rank["after_s"] for rank in ranks if rank["after_s"] is not None]
    return said, everybody, _seconds(max(times)) if times else ""


def _words(rank: Mapping[str, Any]) -> str:
    kind = rank["kind"]
    if kind == "nothing":
        return "no error"
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
    text = re.sub(r"\[rank\d\]:\[F[^\]]*\] ", "", text)  # when, in a message of torch's
    text = re.sub(r"(?<!\S)/\S*/", "…/", text)
    text = re.sub(r"terminate called .*? what\(\): ", "", text)
    text = text.replace("|", "\\|").replace("<", "&lt;")
    if len(text) > LONGEST:
        text = text[:LONGEST].rsplit(" ", 1)[0] + " …"
    return text


def _seconds(after: float) -> str:
    return "< 0.1" if after < 0.1 else f"{after:.1f}"
