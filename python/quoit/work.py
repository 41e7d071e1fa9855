"""The handle that calls of a Communicator return."""

from __future__ import annotations

from functools import cache

from quoit import _core


class Work:
    """Handle on an operation in flight. Keep it until :meth:`wait` returned."""

    __slots__ = ("__weakref__", "_native")

    def __init__(self, native: _core.Work) -> None:
        self._native = native

    def wait(self, timeout: float | None = None) -> None:
        """Returns when the operation is over, driving it meanwhile.

        timeout: seconds; None waits as long as the group's own timeout allows. Raises
        `quoit.TimeoutError` when it passes, and whatever the operation failed with.
        """
        self._native.wait(timeout or 0.0)

    def done(self) -> bool:
        """Whether :meth:`wait` would return at once."""
        return self._native.done()

    @property
    def source(self) -> int:
        """Who sent, after a finished receive."""
        return self._native.source


@cache
def received(source: int) -> Work:
    """The handle on a receive from `source` that is over."""
    return Work(_core.Work(source))


DONE = received(-1)
