"""The service's parts in one thread, on a real ledger, archive and uploads, to be called step by step in any order."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.archive.uploads import Uploads
from storage_ledger.domain.entries import Kind
from storage_ledger.domain.ids import instant
from storage_ledger.domain.metadata_json import metadata_json
from storage_ledger.domain.paths import UploadPaths
from storage_ledger.domain.payloads import DescribedPayload
from storage_ledger.domain.study import Study
from storage_ledger.domain.work_queue import Stage
from storage_ledger.index.follower import Index
from storage_ledger.ledger.contract import WorkItem
from storage_ledger.pipeline import notify, remove
from storage_ledger.pipeline.failures import Outages
from storage_ledger.pipeline.notify import Notifier
from storage_ledger.pipeline.place import placer as place
from storage_ledger.pipeline.place.placer import Placer
from storage_ledger.pipeline.place.recorder import PlaceRecorder
from storage_ledger.pipeline.receive.intake import Intake
from storage_ledger.pipeline.receive.source import Delivery
from storage_ledger.pipeline.remove import Remover
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.pipeline.wakeups import Wakeups
from storage_ledger.pipeline.worker_pool import WorkerPool
from storage_ledger.service.clock_watch import ClockWatch
from storage_ledger.system.metrics import Metrics
from tests.support.making import Clock, Ledgers


class Acknowledging:
    """A source that delivers nothing and records acknowledgements."""

    name = "pubsub"
    subscribed = True

    def __init__(self) -> None:
        self.acknowledged: list[Delivery] = []

    def run(self, *_: object) -> None:
        """Deliver nothing."""

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Record the acknowledgements."""
        self.acknowledged += deliveries


class Pipeline:
    """All parts of one service below `folder`. `restart` keeps what survives a crash: everything except memory."""

    def __init__(
        self, folder: Path, ledgers: Ledgers, *, grace_s: float = 300, client: StatusClient | None = None, uploads: Path | None = None
    ) -> None:
        self.uploads = uploads or folder / "uploads"
        self.archive = folder / "archive"
        self.uploads.mkdir(parents=True, exist_ok=uploads is not None)
        self.archive.mkdir(parents=True)
        self.clock = Clock()
        self.clock_set_by_s = 0.0
        self.grace_s = grace_s
        self.client = client
        self.ledger_folder = folder / "ledger"
        self.ledger = ledgers.open(self.ledger_folder, self.clock)
        self.source = Acknowledging()
        self.restart()

    def restart(self) -> None:
        """Discard everything that is only in memory."""
        self.metrics = Metrics()
        uploads, archive = Uploads(self.uploads), FilesystemArchive(self.archive)
        self.remover = Remover(uploads, archive, metrics=self.metrics, clock=self.clock, settle_s=5, monotonic=self._seconds)
        self.clock_watch = ClockWatch(
            self.clock, on_set=self._clock_was_set, monotonic=lambda: self.clock.now.timestamp() - self.clock_set_by_s
        )
        self.placer = Placer(
            self.ledger,
            uploads,
            archive,
            clock=self.clock,
            grace_s=self.grace_s,
            steady_since=self.clock_watch.steady_since,
        )
        self.recorder = PlaceRecorder(self.placer.folds, metrics=self.metrics, clock=self.clock, on_copied=self.remover.remember)
        self.notifier = self.client and Notifier(
            self.ledger, self.client, archive_root=str(self.archive), metrics=self.metrics, clock=self.clock, confirm_s=10
        )
        shared = {
            "outages": Outages(self.ledger, self.metrics),
            "metrics": self.metrics,
            "clock": self.clock,
            "wakeup": threading.Event(),
        }
        self.placing = WorkerPool(
            place.POLICY,
            self.ledger,
            work=self.placer.place_batch,
            before_commit=self.placer.sync_new_folders,
            record=self.recorder.record,
            **shared,
        )
        self.removing = WorkerPool(remove.POLICY, self.ledger, work=self.remover.remove_batch, record=self.remover.record, **shared)
        self.notifying = self.notifier and WorkerPool(
            notify.POLICY, self.ledger, work=self.notifier.tell, record=self.notifier.record, **shared
        )
        self.intake = Intake(
            self.ledger,
            self.source,
            UploadPaths(str(self.uploads), ("/app/uploads",)),
            metrics=self.metrics,
            clock=self.clock,
            rejected_per_hour=5,
            wakeups=Wakeups(),
        )

    def set_clock(self, seconds: float) -> None:
        """Set the clock, forward or back, without time passing."""
        self.clock.move(seconds)
        self.clock_set_by_s += seconds

    def _seconds(self) -> float:
        return self.clock.now.timestamp()

    def _clock_was_set(self) -> None:
        with self.ledger.write() as tx:
            tx.make_due(beyond_s=600)

    def upload(self, path: str, content: bytes) -> None:
        """Let a file appear in uploads."""
        target = self.uploads / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def say(self, study_id: str, path: str, metadata: dict[str, Any] | None = None) -> None:
        """Deliver the message of a file."""
        self.deliver(json.dumps({"study_id": study_id, "file_path": path, "metadata": metadata}).encode())

    def deliver(self, *raws: bytes) -> None:
        """Deliver these messages in one group."""
        self.intake.append([Delivery(raw, "pubsub") for raw in raws])

    def due(self, *stages: Stage) -> list[list[WorkItem]]:
        """Return the work items due now, by study."""
        groups: dict[str | None, list[WorkItem]] = {}
        for work_item in self.ledger.due(stages, limit=1000):
            groups.setdefault(work_item.entry.study_id, []).append(work_item)
        return [sorted(group, key=lambda work_item: work_item.entry.position) for group in groups.values()]

    def place(self, studies: int = 1000, most: int = 64) -> int:
        """Place and record due work items, up to this many studies and items of each; return the number of studies."""
        groups = [group[:most] for group in self.due(Stage.PLACE)[:studies]]
        if groups:
            self.placing.record([self.placer.place_batch(group) for group in groups], fresh=True)
        return len(groups)

    def archive_all(self) -> None:
        """Place and remove everything that is due, make the index, and close the ledger."""
        while self.place() + self.remove():
            self.clock.move(1)
        index = Index(self.ledger_folder / "index.db", self.ledger)
        index.ensure()
        index.close()
        self.ledger.close()

    def remove(self, most: int = 1000) -> int:
        """Remove up to this many due uploads and record that; return how many."""
        work_items = [work_item for group in self.due(Stage.REMOVE) for work_item in group][:most]
        if work_items:
            self.removing.record([self.remover.remove_batch(work_items)], fresh=True)
        return len(work_items)

    def tell(self) -> int:
        """Send or read back the statuses that are due, and record that; return the number of studies."""
        if self.notifying is None or self.notifier is None:
            return 0
        groups = self.due(Stage.TELL, Stage.CONFIRM)
        if groups:
            self.notifying.record([self.notifier.tell(group) for group in groups], fresh=True)
        return len(groups)

    def finish(self) -> None:
        """Work until nothing is left to place, remove or send, moving the clock to whatever is due next."""
        stages = [Stage.PLACE, Stage.REMOVE, *([Stage.TELL, Stage.CONFIRM] if self.notifier else [])]
        for _ in range(1000):
            if self.place() + self.remove() + self.tell():
                continue
            due = self.ledger.next_due(stages)
            if due is None:
                return
            self.clock.now = instant(due)
        raise AssertionError("it never comes to rest")

    def kinds(self) -> list[str]:
        """Return the kinds of all entries."""
        return [entry.kind for entry in self.ledger.read(0, 10_000)]

    def files(self) -> dict[str, str]:
        """Return all files in the archive except metadata.json: path → SHA-256."""
        return {path: digest for path, digest in tree(self.archive).items() if not path.endswith("/metadata.json")}

    def check_metadata(self) -> None:
        """Assert that each study's metadata.json matches its entries."""
        for study_id in self.ledger.studies_with_kind(Kind.ARCHIVED):
            entries = list(self.ledger.study(study_id))
            study = Study.of(study_id, entries)
            assert self.placer.folds.lend(study_id, entries) == study, "the fold that is kept is that of the entries"
            [described] = [DescribedPayload.of(entry) for entry in entries if entry.position == study.speaker.position]
            assert (self.archive / study_id / "metadata.json").read_bytes() == metadata_json(study, described)

    def metadata(self, study_id: str) -> dict[str, Any]:
        """Return a study's parsed metadata.json."""
        return json.loads((self.archive / study_id / "metadata.json").read_text(encoding="utf-8"))


def tree(root: Path) -> dict[str, str]:
    """Return every file below a folder: path → SHA-256."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.rglob("*")) if path.is_file()
    }
