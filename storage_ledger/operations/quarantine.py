"""List quarantined uploads and record an operator's decision: `released` (retry) or `discarded` (nothing more is done).

Works whether or not `serve` is running: a decision is an entry, and a retry is a work item in the queue of `serve`.
A retry does not restart the grace period for a missing file, because the operator wants an answer now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from storage_ledger.domain.entries import Entry, Kind
from storage_ledger.domain.error_catalogue.explanation import BY, REASON
from storage_ledger.domain.payloads import DiscardedPayload, QuarantinedPayload, ReleasedPayload
from storage_ledger.domain.study import OUTCOMES, State, Study
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import Retryable
from storage_ledger.ledger.contract import Ledger, Transaction

MAX_BY = 100
MAX_REASON = 1000
STUDIES_A_COMMIT = 100  # small, because `serve` cannot write during a commit


@dataclass(frozen=True, slots=True)
class QuarantinedUpload:
    """An upload in quarantine. `position`: of its `quarantined` entry."""

    study_id: str
    upload_path: str
    position: int
    recorded_at: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Decision:
    """An operator's decision, name and reason.

    Raises `ValueError` with the problem if `by` or `reason` cannot be stored: both appear unchanged in the ledger and on terminals.
    """

    kind: Literal[Kind.RELEASED, Kind.DISCARDED]
    by: str
    reason: str

    def __post_init__(self) -> None:
        check_words(self.by, self.reason)


@dataclass(frozen=True, slots=True)
class DecisionTarget:
    """All quarantined uploads of a study, or one of them; with `position`, only if that entry is still its latest."""

    study_id: str
    upload_path: str | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class DecisionResult:
    """The effect of a decision on one upload. `position`: of the new entry; None if there was nothing to decide.

    `found`: the upload's state before; None if it is not in the ledger or its entries are damaged. `code`: why it was
    quarantined; `entry-damaged` if its entries are damaged.
    """

    study_id: str
    upload_path: str | None
    found: State | None
    code: str | None = None
    position: int | None = None


def in_quarantine(ledger: Ledger, studies: Iterable[str]) -> Iterator[QuarantinedUpload]:
    """Yield the quarantined uploads of these studies, study by study; damaged entries are left out."""
    for study_id in studies:
        quarantined: dict[int, Entry] = {}
        for path, upload in Study.as_far_as_whole(study_id, _noted(ledger.study(study_id), quarantined)).uploads.items():
            if upload.state is State.QUARANTINED:
                entry = quarantined[upload.position]
                yield QuarantinedUpload(
                    study_id, path, entry.position, entry.recorded_at, upload.code or "", QuarantinedPayload.of(entry).detail
                )


def _noted(entries: Iterable[Entry], quarantined: dict[int, Entry]) -> Iterator[Entry]:
    """Pass the entries through, and collect the `quarantined` ones by position."""
    for entry in entries:
        if entry.kind == Kind.QUARANTINED:
            quarantined[entry.position] = entry
        yield entry


def decide(ledger: Ledger, decision: Decision, targets: Sequence[DecisionTarget]) -> Iterator[DecisionResult]:
    """Append the decision for each quarantined upload; a decision is durable when its result is yielded.

    The check and the append share a transaction, so of two simultaneous decisions the second finds the upload no longer
    quarantined. May be called again. Raises `LedgerBusy`; decisions whose results were not yielded were then not appended.
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
    if any(tx.is_pending(each, Stage.PLACE) for each in described):  # a redelivery that arrived while the first message was being processed
        return DecisionResult(study.study_id, path, State.PENDING)
    if upload.state is not State.QUARANTINED or position not in {None, upload.position}:
        return DecisionResult(study.study_id, path, upload.state)
    code = upload.code or ""
    new = (
        # The last message about the upload counts, whichever was processed last.
        ReleasedPayload(path, code, decision.by, decision.reason, described=max(described)).entry(
            study.study_id, quarantined=upload.position
        )
        if decision.kind is Kind.RELEASED
        else DiscardedPayload(path, code, decision.by, decision.reason).entry(study.study_id, quarantined=upload.position)
    )
    return DecisionResult(study.study_id, path, upload.state, upload.code, tx.append(new).position)


def outcome(ledger: Ledger, released: DecisionResult) -> tuple[State, str | None] | None:
    """Return what became of an upload that was released: archived, quarantined again or discarded, and the code. None: not known yet."""
    upload = Study.as_far_as_whole(released.study_id, ledger.study(released.study_id)).uploads.get(released.upload_path or "")
    if upload is None or released.position is None or upload.position <= released.position or upload.state not in OUTCOMES:
        return None
    return upload.state, upload.code


def check_words(by: str, reason: str) -> None:
    """Raise `ValueError` with the problem if these cannot be stored in the ledger as a person's name and reason."""
    _check("--by", by, MAX_BY)
    _check("--reason", reason, MAX_REASON)


def _check(name: str, text: str, most: int) -> None:
    if not text.strip():
        raise ValueError(f"{name} is empty; it is kept in the ledger as the record of who decided and why")
    if text in {BY, REASON}:
        raise ValueError(f"{name} '{text}' is a placeholder: fill in your own words")
    if len(text) > most:
        raise ValueError(f"{name} has {len(text)} characters; the limit is {most}")
    if not text.isprintable():
        raise ValueError(f"{name} contains line breaks or invisible characters; use one plain line")
