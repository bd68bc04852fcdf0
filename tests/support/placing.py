"""Places single files in an archive, each in a batch of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from storage_ledger.archive.contract import Archive, Placed, StudyFolder
from storage_ledger.archive.uploads import OpenUpload


@contextmanager
def study_of(
    archive: Archive,
    study_id: str = "S1",
    *,
    known: Mapping[str, str] | None = None,
    is_ours: Callable[[bytes], bool] = lambda _: True,
) -> Iterator[StudyFolder]:
    """Yield the study's folder; at the end its names are synced."""
    with archive.batch(1) as batch:
        yield batch.study(study_id, known=known or {}, is_ours=is_ours)
        failed, _ = batch.sync_names()
        if failed:
            raise failed[study_id]


def place_in(
    archive: Archive,
    upload: OpenUpload,
    name: str,
    *,
    study_id: str = "S1",
    known: Mapping[str, str] | None = None,
    position: int = 1,
    studies: int = 1,
) -> Placed:
    """Place a file durably, as the step does in a batch of that many studies."""
    with archive.batch(studies) as batch:
        folder = batch.study(study_id, known=known or {}, is_ours=lambda _: True)
        copied = folder.copy(upload, position=position)
        if lost := batch.sync_copies():
            raise lost
        placed = folder.link(copied, name)
        failed, _ = batch.sync_names()
        if failed:
            raise failed[study_id]
        return placed
