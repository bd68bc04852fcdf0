"""What waits for a person, and the person's decision: `released`, it is tried again, or `discarded`, nothing more is done about it.

It does not matter whether `serve` runs: a decision is an entry, and what it asks for is in the work queue of `serve`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from storage_ledger.domain.entries import Entry, Kind
from storage_ledger.domain.error_catalogue.explanation import BY, REASON
from storage_ledger.domain.payloads import DiscardedPayload, QuarantinedPayload, ReleasedPayload
from storage_ledger.domain.study import State, Study
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import Retryable
from storage_ledger.ledger.contract import Ledger, Transaction

MAX_BY = 100
MAX_REASON = 1000
STUDIES_A_COMMIT = 100  # `serve` waits for its turn meanwhile


@dataclass(frozen=True, slots=True)
class QuarantinedUpload:
    """An upload that is quarantined. `position`: of the entry that says so."""

    study_id: str
    upload_path: str
    position: int
    recorded_at: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's. Raises `ValueError`, which says what is wrong with a text: texts go into the ledger, and onto terminals, as they are."""

    kind: Literal[Kind.RELEASED, Kind.DISCARDED]
    by: str
    reason: str

    def __post_init__(self) -> None:
        check_words(self.by, self.reason)


@dataclass(frozen=True, slots=True)
class DecisionTarget:
    """All of the study that is quarantined, or one upload, or that upload only while `position` is the last entry about it."""

    study_id: str
    upload_path: str | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class DecisionResult:
    """What a decision did to one upload. `position`: of the new entry; None if there was nothing to decide.

    `found`: the state of the upload; None if the ledger knows nothing of it, or nothing that can be believed: then `code` is
    `entry-damaged`. Otherwise `code`: why it was quarantined.
    """

    study_id: str
    upload_path: str | None
    found: State | None
    code: str | None = None
    position: int | None = None


def in_quarantine(ledger: Ledger, studies: Iterable[str]) -> Iterator[QuarantinedUpload]:
    """What is quarantined of these studies, study by study, as far as their entries can be believed."""
    for study_id in studies:
        quarantined: dict[int, Entry] = {}
        for path, upload in Study.as_far_as_whole(study_id, _noted(ledger.study(study_id), quarantined)).uploads.items():
            if upload.state is State.QUARANTINED:
                entry = quarantined[upload.position]
                yield QuarantinedUpload(
                    study_id, path, entry.position, entry.recorded_at, upload.code or "", QuarantinedPayload.of(entry).detail
                )


def _noted(entries: Iterable[Entry], quarantined: dict[int, Entry]) -> Iterator[Entry]:
    """Hands the entries on, and notes those that quarantine something by their position."""
    for entry in entries:
        if entry.kind == Kind.QUARANTINED:
            quarantined[entry.position] = entry
        yield entry


def decide(ledger: Ledger, decision: Decision, targets: Sequence[DecisionTarget]) -> Iterator[DecisionResult]:
    """Append the decision for each quarantined upload; it is durable when its result is yielded.

    Checked and appended in one transaction: the second of two persons learns that it is no longer quarantined. Raises
    `LedgerBusy`: what was not yielded was not appended, and all of it may be decided again.
    """
    for start in range(0, len(targets), STUDIES_A_COMMIT):
        with ledger.write() as tx:
            results = [result for each in targets[start : start + STUDIES_A_COMMIT] for result in _decide(tx, decision, each)]
        yield from results


def _decide(tx: Transaction, decision: Decision, target: DecisionTarget) -> list[DecisionResult]:
    try:
        study = Study.of(target.study_id, tx.study(target.study_id))
    except Retryable as damaged:
        return [DecisionResult(target.study_id, target.upload_path, None, damaged.code)]
    paths = [path for path, upload in study.uploads.items() if upload.state is State.QUARANTINED]
    if target.upload_path is not None:
        paths = [target.upload_path]
    if not paths:
        return [DecisionResult(target.study_id, None, study.state if study.uploads else None)]
    return [_decide_one(tx, decision, study, path, target.position) for path in paths]


def _decide_one(tx: Transaction, decision: Decision, study: Study, path: str, position: int | None) -> DecisionResult:
    upload = study.uploads.get(path)
    if upload is None:
        return DecisionResult(study.study_id, path, None)
    described = [each.position for each in study.described.values() if each.upload_path == path]
    if any(tx.is_pending(each, Stage.PLACE) for each in described):  # a redelivery that came while the first was being judged
        return DecisionResult(study.study_id, path, State.PENDING)
    if upload.state is not State.QUARANTINED or position not in {None, upload.position}:
        return DecisionResult(study.study_id, path, upload.state)
    code = upload.code or ""
    new = (
        # The last message about it counts, whichever was judged last.
        ReleasedPayload(path, code, decision.by, decision.reason, described=max(described)).entry(
            study.study_id, quarantined=upload.position
        )
        if decision.kind is Kind.RELEASED
        else DiscardedPayload(path, code, decision.by, decision.reason).entry(study.study_id, quarantined=upload.position)
    )
    return DecisionResult(study.study_id, path, upload.state, upload.code, tx.append(new).position)


def check_words(by: str, reason: str) -> None:
    """Raises `ValueError`, which says what is wrong, for what cannot stand in the ledger as a person's name and reason."""
    _check("--by", by, MAX_BY)
    _check("--reason", reason, MAX_REASON)


def _check(name: str, text: str, most: int) -> None:
    if not text.strip():
        raise ValueError(f"{name} is empty: whoever asks later wants to know")
    if text in {BY, REASON}:
        raise ValueError(f"{name} '{text}' stands for words of your own: whoever asks later wants to know")
    if len(text) > most:
        raise ValueError(f"{name} has {len(text)} characters; {most} are allowed")
    if not text.isprintable():
        raise ValueError(f"{name} has line breaks or characters that cannot be seen; one plain line is allowed")
