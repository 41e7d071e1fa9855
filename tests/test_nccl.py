"""NCCL for accelerator tensors, on the test accelerator and a library that has NCCL's interface."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import accelerator
import nccl_cases
from conftest import Outcome
from quoit import nccl
from quoit._build import compiler
from worlds import World, played

_HERE = Path(__file__).resolve().parent

# The default run has these with three ranks, too.
DIFFER_ON_THREE = {
    "sums_and_others_of_every_dtype",
    "reduce_scatter_in_all_its_forms",
    "moves_every_dtype",
    "all_to_all_and_uneven_sizes",
    "coalesced_forms_and_regions",
    "messages_go_both_ways_at_once",
    "the_first_calls_may_cross",
    "many_calls_of_all_kinds",
    "a_rank_that_stops_coming_is_named_on_all",
}
assert nccl_cases.CASES.keys() >= DIFFER_ON_THREE


@pytest.mark.parametrize(
    ("world", "case"),
    [
        *played(nccl_cases, [World("processes", "aa")]),
        *played(
            nccl_cases,
            [World("processes", "aaa")],
            slow_cases=nccl_cases.CASES.keys() - DIFFER_ON_THREE,
        ),
    ],
)
def test_nccl(world: World, case: str, outcome: Outcome) -> None:
    accelerator.build()  # which may take longer than a launch
    if wrong := outcome(world, case):
        pytest.fail(wrong, pytrace=False)


_ALONE = """
import json, os, sys
sys.path.insert(0, {here!r})
import accelerator
accelerator.install()
import torch, torch.distributed as dist
from quoit import _build
c10d = _build.load_c10d()
said = []
for candidates, asked in {tries!r}:
    os.environ.pop("QUOIT_NCCL", None)
    if asked:
        os.environ["QUOIT_NCCL"] = asked
    group = c10d.nccl_group(dist.HashStore(), 0, 1, 5.0, candidates, "a device")
    said.append(c10d.nccl_unusable(group, torch.device("fake", 0)))
print(json.dumps(said))
"""


def test_libraries_are_tried_in_order_and_errors_say_where(tmp_path: Path) -> None:
    accelerator.build()
    source, none = tmp_path / "old.c", tmp_path / "libold.so"
    source.write_text("int ncclGetVersion(int* v) { *v = 21803; return 0; }\n")
    subprocess.run([*compiler(), "-xc", "-shared", "-fPIC", source, "-o", none], check=True)
    tries = [
        ([], "/no/libnccl.so"),
        (["/no/such/libnccl.so.2"], None),
        ([], str(none)),
        (["/no/such/libnccl.so.2", str(accelerator.NCCL_LIBRARY)], None),
    ]
    done = subprocess.run(
        [sys.executable, "-c", _ALONE.format(here=str(_HERE), tries=tries)],
        capture_output=True,
        text=True,
        timeout=100.0,
        check=True,
    )
    asked, nowhere, lacking, found = json.loads(done.stdout)
    assert asked.startswith("rank 0: cannot load the NCCL library that QUOIT_NCCL names (/no/lib")
    assert nowhere.startswith("rank 0: no NCCL library can be loaded (/no/such/libnccl.so.2: ")
    assert nowhere.endswith("or set QUOIT_NCCL to the path of a libnccl.so.2")
    assert f"the NCCL library {none} lacks ncclGetUniqueId: NCCL 2.19 or later is need" in lacking
    assert found == ""


def test_wheels_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "nvidia/nccl/lib/libnccl.so.2"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    assert str(file) in nccl.libraries()


def test_who_asks_for_nccl() -> None:
    assert nccl.wanted(True, {})
    assert not nccl.wanted(False, {})
    assert nccl.wanted(False, {"QUOIT_NCCL": "/lib/libxccl.so"})
    assert nccl.wanted(False, {"QUOIT_NCCL": "off"})  # says that it has none


def test_devices_have_identities() -> None:
    assert nccl.device_identity("fake", 1) == nccl.device_identity("fake", 1)
    assert nccl.device_identity("fake", 1) != nccl.device_identity("fake", 0)
