"""What test modules share: outcomes of cases, many of which are played in one launch."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable

import pytest

import worlds
from worlds import World

# A shell's background job ignores Ctrl-C, and so would all that the tests start.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)

Outcome = Callable[[World, str], str]


@pytest.fixture(scope="session")
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What went wrong, or nothing, in a case ("module.name") played in a launched world.

    The first question about a world plays all the cases that the selected tests will ask about, as
    their parameters `world` and `case` tell.
    """
    asked: dict[tuple[World, str], list[str]] = {}
    for item in request.session.items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if {"world", "case"} <= parameters.keys():
            module, _, name = parameters["case"].partition(".")
            asked.setdefault((parameters["world"], module), []).append(name)

    @functools.cache
    def launch(world: World, module: str) -> dict[str, str]:
        folder = tmp_path_factory.mktemp(str(world))
        cases = asked[world, module]
        return worlds.run_launched(world, module, cases, folder, max(120.0, 10.0 * len(cases)))

    def ask(world: World, case: str) -> str:
        module, _, name = case.partition(".")
        return launch(world, module)[name]

    return ask
