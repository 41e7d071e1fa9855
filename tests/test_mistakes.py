"""Provoked mistakes (mistakes.py): who should raise does, soon, and names the other side."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import worlds

pytest.importorskip("torch")

import mistakes_cases
import mistakes_table
from mistakes_cases import MISTAKES

PROGRAM = str(Path(__file__).with_name("mistakes.py"))
SOON_S = 3.0
QUICK = [name for name, one in MISTAKES.items() if one.quick and one.place != "mpich"]

# What it cannot notice: nothing that ranks tell each other shows it.
UNKNOWABLE = ("another_order_of_equals", "another_dtype_received")
# Where a rank that is not to be told at once raises later, at the timeout.
LATER = ("groups_made_in_another_order",)

pytestmark = [pytest.mark.slow, worlds.NEEDS_CLUSTER]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("mistakes") / "outcomes"
    words = ["--only", ",".join(QUICK), "--backends", "quoit", "--json", str(file)]
    subprocess.run([sys.executable, PROGRAM, *words], check=True, timeout=240)
    told: dict[str, Any] = json.loads(file.read_text())["quoit"]
    return told


@pytest.mark.parametrize("name", QUICK)
def test_a_mistake_explains_itself(name: str, outcomes: dict[str, Any]) -> None:
    mistake = MISTAKES[name]
    for one in outcomes[name]:
        if one["rank"] not in mistake.raises:
            assert one["kind"] == "nothing" or name in (*UNKNOWABLE, *LATER), one
            continue
        assert one["kind"] == "raised", one
        assert one["after_s"] < SOON_S, one
        pattern = mistake.names.replace("{other}", f"rank {1 - one['rank']}")
        assert re.search(pattern, " ".join(one["said"].split())), one


def test_a_table_tells_apart_what_happened() -> None:
    rank = functools.partial(dict, said="", error="", after_s=None)
    told = {
        "another_size": [
            rank(rank=0, kind="wrong", said="got 3"),
            rank(rank=1, kind="raised", said="[/a/b.cc:7] closed [x]", after_s=1.23),
        ],
        "missing_rank": [rank(rank=0, kind="waiting")],
        "late_rank": [rank(rank=0, kind="nothing"), rank(rank=1, kind="nothing")],
    }
    page = mistakes_table.page({"gloo": told})
    assert "rank 0: **no error**: got 3<br>rank 1: closed [x] | no | 1.2 |" in page
    assert "| **still waiting** | no |" in page
    assert "| no error, right result | – |" in page
    assert str(mistakes_cases.TIMEOUT_S)[0] in page
