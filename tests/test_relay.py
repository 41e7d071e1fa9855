"""What `quoit run` does to the output of ranks on its way."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from quoit.relay import Outlet, Stream, last_words


def relayed(prefix: bytes | None, writes: Sequence[bytes]) -> tuple[bytes, bytes]:
    """What a stream passes on, and keeps, of these writes."""
    reader, writer = os.pipe()
    outlet = Outlet(1)
    stream = Stream(os.fdopen(reader, "rb", buffering=0), outlet, prefix)
    for data in writes:
        os.write(writer, data)
        stream.read_some()
    os.close(writer)
    stream.read_some()
    assert not stream.open
    return bytes(outlet.waiting), stream.tail


@pytest.mark.parametrize(
    ("writes", "expected"),
    [
        ([b"a\nb\n"], b"[1] a\n[1] b\n"),
        ([b"a", b"b\nc", b"\n"], b"[1] ab\n[1] c\n"),
        ([b"no end"], b"[1] no end\n"),
        ([b"10%\r20%\r", b"30%\n"], b"[1] 10%\r[1] 20%\r[1] 30%\n"),
        ([b"a\r", b"\nb\r\n"], b"[1] a\r\n[1] b\r\n"),
        ([b"bar\r"], b"[1] bar\r"),
        ([b"\n\n"], b"[1] \n[1] \n"),
        ([], b""),
    ],
)
def test_lines_are_passed_on_whole(writes: list[bytes], expected: bytes) -> None:
    assert relayed(b"[1] ", writes) == (expected, b"".join(writes))
    assert relayed(b"", writes) == (expected.replace(b"[1] ", b""), b"".join(writes))
    assert relayed(None, writes) == (b"".join(writes), b"".join(writes))


def test_the_tail_and_an_endless_line_are_bounded() -> None:
    writes = [bytes([65 + i]) * 50000 for i in range(3)]
    passed, tail = relayed(b"[1] ", writes)
    assert passed == b"[1] " + writes[0] + writes[1] + b"\n[1] " + writes[2] + b"\n"
    assert tail == b"".join(writes)[-65536:]


def test_last_words() -> None:
    traceback = "Traceback (most recent call last):\n  File\nValueError: x"
    chained = f"{traceback}\n\nDuring handling of the above:\n\n{traceback}"
    assert last_words(f"noise\n{chained}\n".encode()) == chained
    assert last_words(b"1%\r50%\r100%\ndone\r\n") == "100%\ndone"
    assert last_words("".join(f"{i}\n" for i in range(50)).encode()) == "\n".join(
        map(str, range(31, 50))
    )
    assert last_words(b"") == ""
