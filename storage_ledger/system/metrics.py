"""The metrics of one service: names and labels are documented in docs/reference/metrics.md and stay as they are."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """One registry and its instruments; made in the composition root, passed to who counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        p = "storage_ledger_"
        self.entries = Counter(p + "entries", "Entries appended by this process.", ["kind"], registry=r)
        self.received = Counter(p + "messages_received", "Messages taken from the source.", registry=r)
        self.rejected = Counter(p + "messages_rejected", "Messages that were rejected, logged or not.", ["reason"], registry=r)
        self.rejected_unlogged = Counter(
            p + "messages_rejected_unlogged",
            "Rejected messages beyond REJECTED_PER_HOUR: counted, not in the ledger.",
            registry=r,
        )
        self.subscribed = Gauge(p + "source_subscribed", "1 while subscribed to the channel, or reading the stream.", registry=r)
        self.reconnects = Counter(p + "source_reconnects", "Lost connections to Redis.", registry=r)
        self.stream_pending = Gauge(p + "stream_pending", "Entries of the stream that we took and have not acknowledged.", registry=r)
        self.stream_taken_over = Counter(p + "stream_taken_over", "Entries taken over from other consumers of the stream.", registry=r)
        self.stream_missed = Counter(p + "stream_missed", "Entries that had gone from the stream before they came to us.", registry=r)
        self.files = Counter(p + "files_archived", "Files archived, by how they came to lie there.", ["placement"], registry=r)
        self.bytes = Counter(p + "bytes_archived", "Bytes copied into the archive.", registry=r)
        self.quarantined = Counter(p + "files_quarantined", "Files that now wait for a person.", ["code"], registry=r)
        self.retries = Counter(p + "retries", "Attempts that failed and will be made again.", ["stage", "code"], registry=r)
        self.told = Counter(p + "statuses_told", "Statuses that the Status Service accepted.", ["status"], registry=r)
        self.overwritten = Counter(p + "statuses_overwritten", "Statuses that had to be told again.", registry=r)
        self.outage = Gauge(p + "outage", "1 while a shared cause keeps a step from going on.", ["step", "code"], registry=r)
        self.reconciled = Counter(p + "files_reconciled", "Files found in uploads for which something was done.", ["outcome"], registry=r)
        self.unexplained = Gauge(
            p + "unexplained_files", "Files in uploads that nothing explains, when all were last looked at.", registry=r
        )
        self.sweeps = Counter(p + "sweeps", "Searches of uploads, by how they ended.", ["outcome"], registry=r)
        self.swept = Gauge(p + "last_sweep_timestamp_seconds", "When all of uploads had last been looked at.", registry=r)
        self.hanging = Gauge(p + "hanging", "Calls into uploads or the archive that have not come back for minutes.", ["stage"], registry=r)
        self.scrubbed_files = Counter(p + "scrub_files", "Files that the scrub has read.", ["outcome"], registry=r)
        self.scrubbed_bytes = Counter(p + "scrub_bytes", "Bytes that the scrub has read.", registry=r)
        self.scrub_findings = Counter(p + "scrub_findings", "What the scrub has found to be damaged.", ["code"], registry=r)
        self.scrubbed = Gauge(p + "last_scrub_timestamp_seconds", "When the scrub had last been through the whole archive.", registry=r)
        self.pending = Gauge(p + "pending", "Rows of the work queue.", ["stage"], registry=r)
        self.oldest_pending = Gauge(p + "oldest_pending_seconds", "Age of the oldest row of the work queue.", ["stage"], registry=r)
        self.position = Gauge(p + "ledger_position", "Last position of the ledger.", registry=r)
        self.mirror_position = Gauge(p + "mirror_position", "Position up to which the mirror on the archive volume goes.", registry=r)
        self.index_position = Gauge(p + "index_position", "Position up to which the index follows.", registry=r)
        self.damaged_entries = Gauge(
            p + "damaged_entries", "Entries that are not what their hashes say, as far as the index met them.", registry=r
        )
        self.index_failing = Gauge(p + "index_failing", "1 while index.db can be neither written nor rebuilt.", registry=r)
        self.thread_failures = Counter(
            p + "thread_failures", "Unexpected errors that ended a thread's job, which was started again.", ["thread"], registry=r
        )
        self.clock_ahead = Gauge(
            p + "clock_ahead_seconds", "How far the ledger's last time is ahead of the clock; 0 below a minute.", registry=r
        )
        self.free_bytes = Gauge(p + "free_bytes", "Free bytes on a volume.", ["volume"], registry=r)
        self.archive_seconds = Histogram(
            p + "archive_seconds", "From `described` in the ledger to `archived` in the ledger.", registry=r,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
        )  # fmt: skip
        self.info = Gauge(p + "info", "Always 1; the labels say what runs.", ["version", "sqlite"], registry=r)

    def render(self) -> bytes:
        """The Prometheus text exposition format, version 0.0.4."""
        return generate_latest(self.registry)
