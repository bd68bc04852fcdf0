"""Shared causes (a full disk, an absent neighbour): one `failed` entry when one begins, one `recovered` when it ends."""

from __future__ import annotations

import threading

from storage_ledger.core.entries import Kind, NewEntry
from storage_ledger.ledger.contract import Ledger, Transaction
from storage_ledger.metrics import Metrics


class Outages:
    """What goes on just now, by step and code; what the ledger tells of before this process counts."""

    def __init__(self, ledger: Ledger, metrics: Metrics) -> None:
        self._metrics = metrics
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], int] = {}
        ended: set[tuple[str, str]] = set()
        for entry in ledger.of_no_study((Kind.FAILED.value, Kind.RECOVERED.value), limit=64):
            data = entry.data
            key = (data["step"], data["code"])
            if entry.kind == Kind.FAILED and key not in ended:
                self._open[key] = entry.position
                self._metrics.outage.labels(*key).set(1)
            ended.add(key)

    def current(self) -> list[tuple[str, str]]:
        """(step, code) of each."""
        with self._lock:
            return sorted(self._open)

    def begin(self, tx: Transaction, step: str, code: str, *, detail: str, errno: int | None, attempt: int, retry_at: str) -> bool:
        """Append `failed` unless it is going on already. True if it is new."""
        with self._lock:
            if (step, code) in self._open:
                return False
        payload = {
            "step": step,
            "code": code,
            "detail": detail,
            "errno": errno,
            "attempt": attempt,
            "retry_at": retry_at,
        }
        position = tx.append(NewEntry(Kind.FAILED, payload)).position

        def opened() -> None:
            with self._lock:
                self._open[step, code] = position
            self._metrics.outage.labels(step, code).set(1)

        tx.on_commit(opened)
        return True

    def end(self, tx: Transaction, step: str) -> list[str]:
        """Append `recovered` for what goes on at this step. Returns the codes."""
        with self._lock:
            over = {key: position for key, position in self._open.items() if key[0] == step}
        for (_, code), position in over.items():
            tx.append(NewEntry(Kind.RECOVERED, {"step": step, "code": code}, cause=position))

        def closed() -> None:
            with self._lock:
                for key in over:
                    del self._open[key]
            for key in over:
                self._metrics.outage.labels(*key).set(0)

        tx.on_commit(closed)
        return [code for _, code in over]
