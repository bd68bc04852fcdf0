"""The base class of all payloads: decoding an entry's payload, and encoding one to store."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, ClassVar, Self

import msgspec

from storage_ledger.domain.entries import CURRENT_SCHEMA, Entry, Kind


class UnreadablePayload(ValueError):
    """The stored payload does not have the fields that its kind requires.

    The entry's hashes may still match: whoever can compute those can store any payload.
    """


class Payload:
    """The base of all payloads. `of` reads one; `stored` and the `entry` method of each class write one."""

    __slots__ = ()
    KIND: ClassVar[Kind]

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """Decode the payload of an entry of this kind. It is decoded at each call, so keep the result.

        Raises `UnreadablePayload`, and `LedgerUnusable` (`ledger-newer`) for a schema that this program does not know.
        It checks no hash: see `require_whole`.
        """
        if entry.kind != cls.KIND:
            raise UnreadablePayload(f"the entry at position {entry.position} is of kind {entry.kind!r}, not {cls.KIND.value!r}")
        try:
            if entry.schema != CURRENT_SCHEMA:
                return msgspec.convert(entry.data, cls)
            decoded: Self = _decoder(cls).decode(entry.payload)  # type: ignore[arg-type]  # mypy doubts that classes are hashable
        except (ValueError, TypeError, RecursionError) as error:  # msgspec's own error is a ValueError
            text = f"the payload at position {entry.position} does not have the fields of kind {cls.KIND.value!r}"
            raise UnreadablePayload(text) from error
        return decoded

    @classmethod
    def prepare(cls) -> None:
        """Make the decoder, once, in the thread that imports the class.

        msgspec (0.22) builds what it knows of a class at its first use and takes no lock: two threads that are the first at the same
        time crash the process.
        """
        _decoder(cls)  # type: ignore[arg-type]  # mypy doubts that classes are hashable

    def stored(self) -> dict[str, Any]:
        """Return the JSON object that the ledger stores."""
        return _stored(self)


@cache
def _decoder(payload: type[Payload]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(payload)


@cache
def _defaults(record: type[Any]) -> tuple[tuple[str, object], ...]:
    """Return each field with its default. That of a required field is MISSING, which is never a value."""
    return tuple((each.name, each.default) for each in fields(record))


def _stored(record: Any) -> dict[str, Any]:
    defaults = _defaults(type(record))  # type: ignore[arg-type]  # mypy doubts that classes are hashable
    return {name: _plain(value) for name, default in defaults if (value := getattr(record, name)) is not default}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return _stored(value) if is_dataclass(value) else value
