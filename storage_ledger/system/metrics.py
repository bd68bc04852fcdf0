"""The service's metrics. Names and labels are stable; scripts/reference writes docs/reference/metrics.md from this module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.samples import Sample

Snapshot = dict[str, tuple[str, list[tuple[str, dict[str, str], float]]]]
"""Values by family: its type, and name, labels and value of each sample."""


class Metrics:
    """One registry and its instruments, created in the composition root. `/metrics` shows the help texts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        p = "storage_ledger_"
        self.entries = Counter(p + "entries", "Entries appended by this process.", ["kind"], registry=r)
        self.received = Counter(p + "messages_received", "Messages taken from the source and recorded, or counted as rejected.", registry=r)
        self.rejected = Counter(
            p + "messages_rejected", "Rejected messages, including those that were not recorded in the ledger.", ["reason"], registry=r
        )
        self.rejected_unlogged = Counter(
            p + "messages_rejected_unlogged",
            "Messages rejected beyond REJECTED_PER_HOUR: counted, not recorded in the ledger.",
            registry=r,
        )
        self.subscribed = Gauge(
            p + "source_subscribed",
            "1 while subscribed to the channel or reading the stream. A silent loss is noticed within 25 seconds.",
            registry=r,
        )
        self.reconnects = Counter(
            p + "source_reconnects",
            "Subscribed connections to Redis that were lost. Messages published to a channel in the meantime never arrive.",
            registry=r,
        )
        self.stream_pending = Gauge(
            p + "stream_pending",
            "Stream entries delivered to this process and not yet acknowledged. Grows while the ledger cannot be written.",
            registry=r,
        )
        self.stream_taken_over = Counter(
            p + "stream_taken_over",
            "Stream entries taken over from another consumer that had not acknowledged them for an hour or more.",
            registry=r,
        )
        self.stream_missed = Counter(
            p + "stream_missed",
            "Stream entries that were deleted before they were acknowledged: the stream is trimmed too early. "
            "Their events may be lost; look for their uploads.",
            registry=r,
        )
        self.files = Counter(
            p + "files_archived",
            "Files archived: copied, or already-there (a redelivery, or an interrupted attempt).",
            ["placement"],
            registry=r,
        )
        self.bytes = Counter(p + "bytes_archived", "Bytes copied into the archive.", registry=r)
        self.quarantined = Counter(
            p + "files_quarantined",
            "Files quarantined by this process. `storage-ledger status` shows how many there are now.",
            ["code"],
            registry=r,
        )
        self.retries = Counter(
            p + "retries",
            "Attempts at place, remove or tell that failed and will be retried. Failed read-backs count under tell.",
            ["stage", "code"],
            registry=r,
        )
        self.told = Counter(p + "statuses_told", "Statuses accepted by the Status Service.", ["status"], registry=r)
        self.overwritten = Counter(
            p + "statuses_overwritten",
            "Statuses re-sent because they were overwritten or missing when read back; statuses_told counts them too.",
            registry=r,
        )
        self.outage = Gauge(
            p + "outage",
            "1 during an outage: a cause that all studies share blocks a step. Restored from the ledger after a restart.",
            ["step", "code"],
            registry=r,
        )
        self.reconciled = Counter(
            p + "files_reconciled",
            "Files that reconciliation found in uploads and queued: described (recovered after its message was lost) "
            "or leftover (already archived, to be removed).",
            ["outcome"],
            registry=r,
        )
        self.unexplained = Gauge(
            p + "unexplained_files", "Unexplained files in uploads at the last complete reconciliation pass; 0 until then.", registry=r
        )
        self.sweeps = Counter(
            p + "sweeps",
            "Reconciliation passes: complete; to-be-continued (stopped after 1,000 requests to the Status Service that found nothing); "
            "or the code of what stopped it.",
            ["outcome"],
            registry=r,
        )
        self.swept = Gauge(
            p + "last_sweep_timestamp_seconds",
            "When a reconciliation pass was last complete, in seconds since 1970; 0 until then.",
            registry=r,
        )
        self.hanging = Gauge(
            p + "hanging",
            "Calls into uploads or the archive (place, remove) that have made no progress for two minutes.",
            ["stage"],
            registry=r,
        )
        self.scrubbed_files = Counter(
            p + "scrub_files",
            "Archived files read by the scrub (background verification): intact, damaged, or unchecked (could not be read).",
            ["outcome"],
            registry=r,
        )
        self.scrubbed_bytes = Counter(p + "scrub_bytes", "Bytes read by the scrub.", registry=r)
        self.scrub_findings = Counter(p + "scrub_findings", "Problems found by the scrub.", ["code"], registry=r)
        self.scrubbed = Gauge(
            p + "last_scrub_timestamp_seconds",
            "When the scrub last finished a round of the whole archive, in seconds since 1970; 0 if never.",
            registry=r,
        )
        self.pending = Gauge(
            p + "pending",
            "Work items in the queue: place, remove, tell, confirm. Do not alert on confirm: a status is read back "
            "for 60 times STATUS_CONFIRM_SECONDS.",
            ["stage"],
            registry=r,
        )
        self.oldest_pending = Gauge(
            p + "oldest_pending_seconds",
            "Age of the oldest entry with a work item at that stage, in seconds; 0 if there is none.",
            ["stage"],
            registry=r,
        )
        self.position = Gauge(p + "ledger_position", "Last position in the ledger.", registry=r)
        self.mirror_position = Gauge(
            p + "mirror_position",
            "Last position durably in the mirror.",
            registry=r,
        )
        self.index_position = Gauge(p + "index_position", "Last position in the index.", registry=r)
        self.damaged_entries = Gauge(
            p + "damaged_entries",
            "Entries left out of the index because they do not match their hashes. New entries are checked as they arrive, "
            "all when the index is rebuilt.",
            registry=r,
        )
        self.index_failing = Gauge(p + "index_failing", "1 while index.db can be neither written nor rebuilt.", registry=r)
        self.thread_failures = Counter(
            p + "thread_failures",
            "Unexpected errors that ended a thread, which was restarted.",
            ["thread"],
            registry=r,
        )
        self.clock_ahead = Gauge(
            p + "clock_ahead_seconds",
            "How far the ledger's last time is ahead of the clock, in seconds; 0 up to a minute, and once acknowledged.",
            registry=r,
        )
        self.free_bytes = Gauge(
            p + "free_bytes",
            "Bytes free for unprivileged users on the volumes of uploads, archive and ledger; "
            "NaN if the folder cannot be accessed or hangs.",
            ["volume"],
            registry=r,
        )
        self.total_bytes = Gauge(
            p + "total_bytes",
            "Size of these volumes in bytes; NaN likewise.",
            ["volume"],
            registry=r,
        )
        self.backed_up = Gauge(
            p + "last_backup_timestamp_seconds",
            "When the last backup of the ledger was made, in seconds since 1970; 0 if none is known.",
            registry=r,
        )
        self.checkpoint_size = Gauge(
            p + "checkpoint_size", "Entries that the last signed checkpoint covers; 0 if there is none.", registry=r
        )
        self.checkpoint_signed = Gauge(
            p + "last_checkpoint_timestamp_seconds",
            "When the last checkpoint was signed, in seconds since 1970; 0 if there is none. None is signed while nothing is appended.",
            registry=r,
        )
        self.checkpoint_failing = Gauge(
            p + "checkpoint_failing", "1 while no checkpoint can be signed, or the service refuses to sign one.", registry=r
        )
        self.wal_bytes = Gauge(
            p + "wal_bytes",
            "Size of ledger.db-wal in bytes: usually below 64 MB. It grows while a program reads ledger.db without end.",
            registry=r,
        )
        self.outside_entries = Gauge(
            p + "checkpoint_outside_entries",
            "Entries in the newest checkpoint that a place outside has taken: `witness` and its name, `tsa`, or `exec`.",
            ["place"],
            registry=r,
        )
        self.outside_waiting = Gauge(
            p + "checkpoint_outside_waiting_seconds",
            "How long a place outside has lacked a checkpoint, in seconds; 0 if it has the newest.",
            ["place"],
            registry=r,
        )
        self.outside_failures = Counter(
            p + "checkpoint_outside_failures", "Attempts to take a checkpoint outside that failed.", ["place", "code"], registry=r
        )
        self.witness_forked = Gauge(
            p + "checkpoint_witness_forked",
            "1 while a witness says that it has cosigned another history of this ledger.",
            ["place"],
            registry=r,
        )
        self.archive_seconds = Histogram(
            p + "archive_seconds", "Seconds from `described` to `archived` in the ledger.", registry=r,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
        )  # fmt: skip
        self.info = Gauge(
            p + "info", "Always 1; the labels are the versions of the program and of SQLite.", ["version", "sqlite"], registry=r
        )

    def snapshot(self) -> Snapshot:
        """Return all values, for another process."""
        return {
            family.name: (family.type, [(sample.name, sample.labels, sample.value) for sample in family.samples])
            for family in self.registry.collect()
        }

    def render(self, others: Iterable[Snapshot] = ()) -> bytes:
        """Return all metrics in the Prometheus text format, version 0.0.4, with those of other processes."""
        return generate_latest(_Together(self.registry, list(others)))


class _Together:
    """A registry's metrics with those of other processes: counters are added, of gauges the largest counts."""

    def __init__(self, registry: CollectorRegistry, others: list[Snapshot]) -> None:
        self._registry = registry
        self._others = others

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            values = {(sample.name, *sorted(sample.labels.items())): sample for sample in family.samples}
            for other in self._others:
                for name, labels, value in other.get(family.name, ("", []))[1]:
                    key = (name, *sorted(labels.items()))
                    before = values.get(key)
                    together = value if before is None else _joined(family.type, name, before.value, value)
                    values[key] = Sample(name, labels, together)
            family.samples = list(values.values())
            yield family


def counted(*snapshots: Snapshot) -> Snapshot:
    """Return the sums of what the snapshots counted, without gauges: what remains of a process that has ended."""
    found: dict[str, tuple[str, dict[tuple[Any, ...], tuple[str, dict[str, str], float]]]] = {}
    for snapshot in snapshots:
        for family, (kind, samples) in snapshot.items():
            if kind == "gauge":
                continue
            values = found.setdefault(family, (kind, {}))[1]
            for name, labels, value in samples:
                key = (name, *sorted(labels.items()))
                values[key] = (name, labels, _joined(kind, name, values[key][2], value) if key in values else value)
    return {family: (kind, list(values.values())) for family, (kind, values) in found.items()}


def _joined(kind: str, name: str, one: float, other: float) -> float:
    if name.endswith("_created"):
        return min(one, other)
    return max(one, other) if kind == "gauge" else one + other
