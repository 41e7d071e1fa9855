"""Functions of torch.distributed that quoit stands in front of: what is not its own is torch's."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from datetime import timedelta
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch.distributed as dist

import quoit.backend
import worlds
from quoit import torch_calls
from worlds import World

c10d = dist.distributed_c10d
NAMES = ["monitored_barrier", "_set_pg_timeout", "split_group", "shrink_group"]


def test_functions_are_replaced_once_and_keep_their_names() -> None:
    quoit.backend.register()
    before = [getattr(c10d, name) for name in NAMES]
    torch_calls.install()
    assert [getattr(c10d, name) for name in NAMES] == before
    for name, function in zip(NAMES, before, strict=True):
        assert function.__name__ == name
        assert function.__doc__
        assert not hasattr(function._quoit_original, "_quoit_original")
    assert dist.monitored_barrier is c10d.monitored_barrier
    assert dist.split_group is c10d.split_group


def test_torch_finds_the_backend_by_either_entry_point() -> None:
    for group, function in (
        ("torch.backends", quoit.backend.autoload),
        ("torch.distributed.backends", quoit.backend.register),
    ):
        (entry,) = entry_points(group=group, name="quoit")
        assert entry.load() is function
        entry.load()()
        assert dist.Backend("quoit") == "quoit"


def test_groups_of_other_backends_are_served_by_torch(tmp_path: Path) -> None:
    """And one rank is a group too."""
    for backend in ("gloo", "quoit"):
        dist.init_process_group(
            backend, init_method=f"file://{tmp_path}/{backend}", rank=0, world_size=1
        )
        try:
            dist.monitored_barrier(timeout=timedelta(seconds=5))
            c10d._set_pg_timeout(timedelta(seconds=5))
            if backend == "gloo":
                with pytest.raises(RuntimeError, match="No device associated"):
                    dist.split_group(None, [[0]])
            else:
                assert dist.split_group(None, [[0]]) is not None
        finally:
            dist.destroy_process_group()


def played(tmp_path: Path, program: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A Python program beside a `torchcomms` that knows no backend."""
    package = tmp_path / "torchcomms"
    package.mkdir()
    (package / "__init__.py").write_text(
        "def new_comm(backend, *_, **__):\n    raise ValueError(f'torchcomms has no {backend}')\n"
    )
    (package / "_comms.py").write_text("class _BackendWrapper: pass")
    (package / "hooks.py").write_text("class FlightRecorderHook: pass")
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": str(tmp_path), **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


PROGRAM = """
    import torch.distributed as dist, quoit
    try:
        dist.init_process_group("{backend}",
            store=dist.HashStore(), rank=0, world_size=1)
    except ValueError as error:
        print("refused:", error)
    else:
        print("made")
"""


@pytest.mark.parametrize(
    ("backend", "switch", "said", "warned"),
    [
        ("quoit", "1", "refused: torchcomms has no quoit\n", True),
        ("gloo", "1", "refused: torchcomms has no gloo\n", False),
        ("quoit", "0", "made\n", False),
    ],
)
def test_torchcomms_is_told_of(
    backend: str, switch: str, said: str, warned: bool, tmp_path: Path
) -> None:
    ended = played(
        tmp_path, PROGRAM.format(backend=backend), TORCH_DISTRIBUTED_USE_TORCHCOMMS=switch
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == said, ended.stderr
    assert ("makes torch ask torchcomms for the backend 'quoit'" in ended.stderr) == warned


def test_a_program_that_says_who_it_is_needs_no_whole_environment(tmp_path: Path) -> None:
    """torch's own tests set WORLD_SIZE, and no RANK."""
    ended = played(tmp_path, PROGRAM.format(backend="quoit"), WORLD_SIZE="3")
    assert ended.stdout == "made\n", ended.stderr


@pytest.mark.parametrize("kind", ["processes", "torchrun", "mpich"])
def test_the_default_group_may_be_watched_by_torch(kind: str) -> None:
    """TORCH_DISTRIBUTED_DEBUG=DETAIL in the environment of the whole program."""
    program = str(Path(__file__).with_name("debug_rank.py"))
    with worlds.launched(
        World(kind, "aaa"), [program], {"TORCH_DISTRIBUTED_DEBUG": "DETAIL"}
    ) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.count("well") == 3
