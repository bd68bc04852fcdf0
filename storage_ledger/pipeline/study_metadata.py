"""Computes a study's metadata.json from its fold and the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from storage_ledger.domain.entries import Entry, require_whole
from storage_ledger.domain.metadata_json import metadata_json, speaks_of
from storage_ledger.domain.payloads import DescribedPayload
from storage_ledger.domain.study import Study
from storage_ledger.ledger.contract import Ledger


def metadata_bytes(study: Study, ledger: Ledger, at_hand: Mapping[int, Entry] = MappingProxyType({})) -> bytes:
    """Return the metadata.json of a study with at least one archived file. `at_hand`: verified entries that need not be read again.

    Raises `LedgerError`, and `Retryable` (`entry-damaged`).
    """
    position = study.speaker.position if study.speaker else 0
    speaker = at_hand.get(position)
    if speaker is None:
        speaker = ledger.get(position)
        if speaker is None:
            raise ValueError("a study with an archived file has an event that speaks for it")
        require_whole([speaker])
    return metadata_json(study, DescribedPayload.of(speaker))


def may_overwrite(study: Study) -> Callable[[bytes], bool]:
    """Return a function that decides from its bytes whether a metadata.json in the study's folder may be overwritten.

    If the ledger has no file of the study, it may be from the old service; or we wrote it before a crash, and then it names an
    event of ours, or a power cut left only its name.
    """
    if study.files:
        return lambda _: True
    recorded = {each.recorded_at for each in study.described.values()}
    return lambda data: not data.strip(b"\0") or speaks_of(data, recorded=recorded)
