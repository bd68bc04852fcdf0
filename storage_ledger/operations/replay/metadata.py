"""Rewrite each study's metadata.json where it does not match the ledger.

The place step's code builds the bytes; a dry run passes an `ArchiveRepair` that writes nothing (`dry_run.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from storage_ledger.archive.contract import ArchiveReader, ArchiveRepair, Fixity
from storage_ledger.domain.paths import METADATA, archive_path
from storage_ledger.domain.study import Study
from storage_ledger.errors import StorageLedgerError
from storage_ledger.ledger.contract import Ledger
from storage_ledger.operations.progress import ShowProgress
from storage_ledger.operations.replay.report import ReplayCounts
from storage_ledger.operations.unresolved_problems import Problem, Problems
from storage_ledger.pipeline.study_metadata import metadata_bytes
from storage_ledger.system.parallel import batches, each_batch

WORKERS = 6
BATCH = 64


def rewrite_metadata(
    ledger: Ledger,
    archive: ArchiveReader,
    repair: ArchiveRepair,
    studies: Iterable[str],
    *,
    problems: Problems,
    counts: ReplayCounts,
    show: ShowProgress,
) -> None:
    """Rewrite metadata.json of each study with an archived file, unless its bytes match the ledger's entries exactly.

    Durable on return. If one study fails, that is reported as a problem. Raises `LedgerError`, and `Retryable` for a cause that affects
    all studies.
    """

    def write(study_id: str) -> int | None:
        return _write_if_different(ledger, archive, repair, study_id)

    done = 0
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="metadata") as pool:
        for outcomes in each_batch(pool, write, batches(studies, BATCH)):
            written: list[str] = []
            for study_id, size in outcomes:
                if isinstance(size, StorageLedgerError):
                    counts.left += 1
                    problems.add(Problem(size.code, study_id, archive_path(study_id, METADATA), detail=size.detail))
                elif size is not None:
                    counts.looked_at += 1
                    counts.bytes += size
                    written += [study_id] if size else []
            if written:
                _make_durable(repair, written, problems, counts)
            done += len(outcomes)
            show(done)


def _write_if_different(ledger: Ledger, archive: ArchiveReader, repair: ArchiveRepair, study_id: str) -> int | None:
    """Return how many bytes were written (0: the file is right); None for a study that has no metadata.json."""
    study = Study.of(study_id, ledger.study(study_id))
    if study.speaker is None:
        return None
    data = metadata_bytes(study, ledger)
    if archive.check(study_id, METADATA, hashlib.sha256(data).hexdigest(), len(data)) is Fixity.INTACT:
        return 0
    repair.write_metadata(study_id, data)
    return len(data)


def _make_durable(repair: ArchiveRepair, written: list[str], problems: Problems, counts: ReplayCounts) -> None:
    lost = repair.sync_new_folders(written)
    counts.mended += len(written) - len(lost)
    counts.left += len(lost)
    for study_id in sorted(lost):
        text = "the study's new folder could not be fsynced and was removed again"
        problems.add(Problem("archive-io", study_id, archive_path(study_id, METADATA), detail=text))
