"""What test modules share: outcomes of cases, of which one launch plays many."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

import worlds
from worlds import World

Outcome = Callable[[World, str, str], str]


@pytest.fixture(scope="session")
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What went wrong, or nothing, in the case (world, module, name).

    The first question about a launched world plays all of its cases that this session asks about,
    as told by the parameters `world` and `case` of its tests.
    """

    @functools.cache
    def launched(world: World, module: str, cases: tuple[str, ...]) -> dict[str, str]:
        return worlds.run_launched(world, module, cases, tmp_path_factory.mktemp(str(world)))

    def ask(world: World, module: str, case: str) -> str:
        asked = tuple(
            item.callspec.params["case"]
            for item in request.session.items
            if isinstance(item, pytest.Function)
            and item.module.__name__ == request.node.name  # placeholder
        )
        return launched(world, module, asked)[case]

    return ask
