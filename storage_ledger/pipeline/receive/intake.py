"""Messages → entries. No message is dropped: an invalid one becomes `rejected`."""

from __future__ import annotations

import base64
import hashlib
import random
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime

from storage_ledger.domain.backoff import INTAKE_PAUSES
from storage_ledger.domain.entries import Entry, Kind, NewEntry
from storage_ledger.domain.message import parse
from storage_ledger.domain.paths import UploadPaths
from storage_ledger.domain.payloads import DescribedPayload, RejectedPayload
from storage_ledger.errors import LedgerBusy, LedgerError, LedgerRefused, Rejected
from storage_ledger.ledger.contract import Ledger, Transaction
from storage_ledger.pipeline.receive.source import Delivery, Source
from storage_ledger.pipeline.wakeups import Signal, Wakeups
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics

MAX_WAITING = 10_000
MAX_WAITING_BYTES = 16 << 20
MAX_GROUP = 500
MAX_GROUP_BYTES = 2 << 20  # a megabyte of brackets is fifty megabytes of objects
REJECTED_RAW_BYTES = 4096
NOT_PROCESSABLE = "not-processable"


class Intake:
    """A bounded queue between the source and the ledger, and the group commit that empties it."""

    def __init__(
        self,
        ledger: Ledger,
        source: Source,
        paths: UploadPaths,
        *,
        metrics: Metrics,
        clock: Callable[[], datetime],
        rejected_per_hour: int,
        wakeups: Wakeups,
    ) -> None:
        self._ledger = ledger
        self._source = source
        self._paths = paths
        self._metrics = metrics
        self._clock = clock
        self._rejected_per_hour = rejected_per_hour
        self._wakeups = wakeups
        self._group: list[Delivery] = []  # in hand: taken from the queue, not recorded yet
        self._waiting: deque[Delivery] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._hour: tuple[int, int] = (0, 0)
        self._full: str | None = None
        self._closed = False

    @property
    def trouble(self) -> str | None:
        """Return the code of what prevents writing to the ledger, or None."""
        return self._full

    def deliver(self, delivery: Delivery) -> None:
        """Take one message. Blocks while the queue is full, so that the source stops reading (backpressure)."""
        with self._changed:
            while (
                self._waiting
                and not self._closed
                and (len(self._waiting) >= MAX_WAITING or self._bytes + len(delivery.raw) > MAX_WAITING_BYTES)
            ):
                self._changed.wait()
            self._waiting.append(delivery)
            self._bytes += len(delivery.raw)
            self._changed.notify_all()

    def run(self, stop: threading.Event, reading_ended: threading.Event) -> None:
        """Append until `stop` is set, the source has ended, and the queue is empty.

        May be called again after it raised: messages already taken from the queue come first.
        """
        attempt = 0
        behind = False
        while True:
            self._group = group = self._group or self._take()
            if not group:
                if stop.is_set() and reading_ended.is_set():
                    return
                if behind:  # all queued messages are recorded; those that Redis dropped meanwhile are not
                    behind = False
                    self._wakeups.ring(Signal.CAUGHT_UP)
                continue
            try:
                self.append(group)
            except (LedgerBusy, LedgerRefused) as error:
                # Nothing was recorded: keep the messages, stop reading, retry. Messages that Redis drops can be recovered from uploads.
                attempt += 1
                behind = True
                self._full = error.code
                wait_s = INTAKE_PAUSES.wait_s(attempt, chance=random.random())  # noqa: S311 - spreads retries
                logs.get().error("intake.ledger-busy", code=error.code, count=len(group), due_in_s=round(wait_s, 1))
                if stop.wait(wait_s) and attempt > 3:
                    logs.get().error("intake.gave-up", code=error.code, count=len(group) + len(self._waiting))
                    self.close()
                    return
                continue
            attempt, self._full = 0, None

    def append(self, deliveries: list[Delivery]) -> list[Entry]:
        """Append the entries of these messages in one commit, then acknowledge them.

        Raises `LedgerBusy` or `LedgerRefused`: nothing was done, and the messages are kept. On any other failure, each message is
        tried alone, so that one that cannot be processed is rejected with all its bytes and the others continue.
        """
        judged = [self._judge(delivery) for delivery in deliveries]
        try:
            entries = self._record(judged)
        except LedgerError:
            raise
        except Exception as error:  # noqa: BLE001 - the message that fails alone is rejected; what fails then, too, is raised
            if len(deliveries) > 1:
                return [entry for delivery in deliveries for entry in self.append([delivery])]
            judged = [_not_processable(deliveries[0], error)]
            entries = self._record(judged)
        done = {id(delivery) for delivery in deliveries}
        self._group = [delivery for delivery in self._group if id(delivery) not in done]
        self._source.acknowledge(deliveries)
        self._metrics.received.inc(len(deliveries))
        for new, entry in zip(judged, entries, strict=True):
            if new.kind is Kind.REJECTED:
                self._count_rejected(new, entry)
        return [entry for entry in entries if entry is not None]

    def close(self) -> None:
        """Stop recording, and release the callers that wait for room in `deliver`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _record(self, judged: list[NewEntry]) -> list[Entry | None]:
        """Append the entries in one commit; None for a rejected message that is only counted."""
        hour = self._hour
        try:
            with self._ledger.write() as tx:
                tx.expect({new.study_id for new in judged if new.study_id is not None})
                return [self._append(tx, new) for new in judged]
        except BaseException:
            self._hour = hour  # unrecorded messages do not count towards the limit
            raise

    def _take(self) -> list[Delivery]:
        with self._changed:
            if not self._waiting:
                self._changed.wait(0.2)
            group: list[Delivery] = []
            left = MAX_GROUP_BYTES
            while self._waiting and len(group) < MAX_GROUP and (not group or len(self._waiting[0].raw) <= left):
                delivery = self._waiting.popleft()
                left -= len(delivery.raw)
                group.append(delivery)
            self._bytes -= sum(len(delivery.raw) for delivery in group)
            self._changed.notify_all()
            return group

    def _judge(self, delivery: Delivery) -> NewEntry:
        try:
            parsed = parse(delivery.raw, self._paths)
            return DescribedPayload(
                message=parsed.message,
                source=delivery.source,
                raw_sha256=hashlib.sha256(delivery.raw).hexdigest(),
                upload_path=parsed.upload_path,
                raw=None if parsed.plain else base64.b64encode(delivery.raw).decode("ascii"),
            ).entry(parsed.study_id)
        except Rejected as error:
            return _rejected(delivery, error)
        except Exception as error:  # noqa: BLE001 - whatever a message does to the parser, it is recorded, and the others go on
            return _not_processable(delivery, error)

    def _append(self, tx: Transaction, new: NewEntry) -> Entry | None:
        if new.kind is Kind.REJECTED:
            return self._append_rejected(tx, new)
        return tx.append(new)

    def _append_rejected(self, tx: Transaction, new: NewEntry) -> Entry | None:
        hour = int(self._clock().timestamp() // 3600)
        count = self._hour[1] if self._hour[0] == hour else 0
        self._hour = (hour, count + 1)
        if count >= self._rejected_per_hour and new.payload["reason"] != NOT_PROCESSABLE:  # one that may have been a valid event
            return None
        # `failed` is sent only if the study has no valid message: the notifier checks that again.
        study_id = new.payload.get("study_id")
        return tx.append(new, work_item=study_id is not None and not tx.knows_study(study_id))

    def _count_rejected(self, new: NewEntry, entry: Entry | None) -> None:
        self._metrics.rejected.labels(new.payload["reason"]).inc()
        if entry is None:
            self._metrics.rejected_unlogged.inc()
        else:
            logs.get().warning("rejected", position=entry.position, code=new.payload["reason"], bytes=new.payload["bytes"])


def _not_processable(delivery: Delivery, error: Exception) -> NewEntry:
    logs.get().error("intake.not-processable", error_type=type(error).__name__, frames_at=logs.where(error), bytes=len(delivery.raw))
    detail = f"reading or recording it failed unexpectedly ({type(error).__name__}); the log says where"
    return _rejected(delivery, Rejected("not-processable", detail), raw_bytes=len(delivery.raw))


def _rejected(delivery: Delivery, error: Rejected, raw_bytes: int = REJECTED_RAW_BYTES) -> NewEntry:
    return RejectedPayload(
        reason=error.code,
        detail=error.detail,
        source=delivery.source,
        bytes=len(delivery.raw),
        raw_sha256=hashlib.sha256(delivery.raw).hexdigest(),
        raw=base64.b64encode(delivery.raw[:raw_bytes]).decode("ascii"),
        study_id=error.study_id,
    ).entry()
