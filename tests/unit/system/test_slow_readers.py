"""How much of an answer a client has to take in time. What a real connection does is in `test_web.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from storage_ledger.system.http_server import LEAST_TAKEN_BYTES, _Bounded

FULL = 128 << 10


@dataclass
class Connection:
    """In place of the transport and of the loop: so many bytes are not taken yet at each look, until `abort`."""

    sizes: list[int]
    later: list[Any] = field(default_factory=list)
    aborted: bool = False

    def get_write_buffer_size(self) -> int:
        return self.sizes.pop(0)

    def abort(self) -> None:
        self.aborted = True

    def call_later(self, _: float, *call: Any) -> None:
        self.later.append(call)


def is_closed(sizes: list[int], resumed: int = 0) -> bool:
    """Return whether the connection is closed at the last look. `resumed`: before which look the buffer was nearly empty."""
    there = Connection(list(sizes))
    bounded = _Bounded()
    bounded.write_within_s = 30
    bounded.transport = bounded.loop = cast("Any", there)
    bounded._watch_writing(0)
    for look in range(1, len(sizes)):
        assert not there.aborted
        bounded._has_taken = look == resumed
        call, *arguments = there.later.pop()
        call(*arguments)
    return there.aborted


@pytest.mark.parametrize(
    "sizes",
    [
        [FULL, FULL],
        [FULL, FULL - 1],
        [0, 0, FULL, FULL - LEAST_TAKEN_BYTES, FULL - LEAST_TAKEN_BYTES - 100],
        [1000, 999],
    ],
)
def test_a_client_that_takes_too_little_is_disconnected(sizes: list[int]) -> None:
    assert is_closed(sizes)


def test_a_client_that_takes_enough_or_the_rest_is_not() -> None:
    assert not is_closed([FULL, FULL - LEAST_TAKEN_BYTES, FULL - 2 * LEAST_TAKEN_BYTES, 0, 0])
    assert not is_closed([1000, 0])
    assert not is_closed([FULL, FULL], resumed=1)  # it has taken nearly all, and the next piece is there
