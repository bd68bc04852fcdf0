"""Headers missing from the ledger are read again from the archive: real ledgers, archives and DICOM files."""

import hashlib
from contextlib import closing

import pytest

from storage_ledger.archive.dicom_header import read_header
from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.errors import Retryable
from storage_ledger.operations.repair_headers import HeaderCounts, headers_of, reread_headers, studies_to_read, studies_with_reread_headers
from storage_ledger.operations.replay.metadata import rewrite_metadata
from storage_ledger.operations.replay.report import ReplayCounts
from storage_ledger.operations.replay.studies import described_studies
from storage_ledger.operations.unresolved_problems import Problems
from tests.support.dicom import make_file
from tests.support.making import damage
from tests.support.pipeline import Pipeline


class Repairing(Pipeline):
    """A pipeline whose ledger lacks headers, as an earlier version left it."""

    def archived_before(self, study_id, *, seed=1, data=None, dicom=None, error="header-too-large", said=None):
        """Archive a file with the entry of a version that could not read its header; return the header."""
        path = self.uploads / "made.dcm"
        make_file(path, seed=seed, study_uid="1.2.3")
        data = path.read_bytes() if data is None else data
        path.unlink()
        name = f"{study_id}.dcm"
        folder = self.archive / study_id
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        file = {"name": name, "original_name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        message = {"study_id": study_id, "file_path": name, "metadata": said or {}}
        with self.ledger.write() as tx:
            described = tx.append(
                NewEntry(Kind.DESCRIBED, {"message": message, "source": "pubsub", "raw_sha256": "", "upload_path": name}, study_id),
                work_item=False,
            )
            payload = {"file": file, "placement": "copied", "metadata_sha256": "", "dicom": dicom, "upload_path": name}
            payload |= {"software": "0", "host": "h"}
            tx.append(
                NewEntry(Kind.ARCHIVED, payload | ({"dicom_error": error} if error else {}), study_id, described.position), work_item=False
            )
        self.write_metadata()
        with (folder / name).open("rb") as opened:
            return read_header(opened)[0]

    def write_metadata(self, chosen=None):
        with closing(Problems()) as problems:
            counts = ReplayCounts()
            archive = FilesystemArchive(self.archive)
            rewrite_metadata(
                self.ledger, archive, archive, chosen or described_studies(self.ledger), problems=problems, counts=counts, show=show
            )
            assert len(problems) == 0
            return counts.mended

    def repair(self, *, every=False, chosen=None):
        """Run what the command runs; return the counts, the problems as (code, path), and how many metadata.json were written."""
        counts = HeaderCounts()
        with closing(Problems()) as problems:
            if chosen is None:
                chosen = list(described_studies(self.ledger)) if every else studies_to_read(self.ledger, self.ledger.last().position, show)
            archive = FilesystemArchive(self.archive)
            reread_headers(
                self.ledger,
                archive,
                chosen,
                every=every,
                dry_run=False,
                problems=problems,
                counts=counts,
                show=show,
            )
            found = [(each.code, each.path) for each in problems]
        return counts, found, self.write_metadata(studies_with_reread_headers(self.ledger, None))

    def headers_read(self):
        return [entry for entry in self.ledger.read(0, 10_000) if entry.kind == Kind.HEADER_READ]


def show(done, size=None):
    assert done >= 0
    assert size is None


@pytest.fixture
def pipeline(tmp_path, ledgers):
    made = Repairing(tmp_path, ledgers)
    yield made
    made.ledger.close()


@pytest.mark.parametrize(
    ("dicom", "error"), [(None, "header-too-large"), ({"SOPInstanceUID": "1.2"}, "some-attributes-unreadable"), (None, None)]
)
def test_a_header_missing_from_the_ledger_is_reread_and_recorded_once(pipeline, dicom, error):
    header = pipeline.archived_before("S1", dicom=dicom, error=error)
    assert pipeline.repair() == (HeaderCounts(looked_at=1, changed=1), [], 1)
    [entry] = pipeline.headers_read()
    described, archived = pipeline.ledger.read(0, 2)
    assert (entry.study_id, entry.cause) == ("S1", archived.position)
    data = entry.data
    assert data["file"] == {"name": "S1.dcm", "sha256": archived.data["file"]["sha256"]}
    assert (data["dicom"], "dicom_error" in data) == (header, False)
    assert pipeline.metadata("S1")["files"][0]["sop_instance_uid"] == header["SOPInstanceUID"]
    assert pipeline.metadata("S1")["files"][0]["position"] == described.position
    pipeline.check_metadata()
    assert pipeline.repair() == (HeaderCounts(), [], 0)
    assert len(pipeline.headers_read()) == 1


def test_a_complete_header_is_not_reread_unless_every_header_is_requested(pipeline):
    header = pipeline.archived_before("S1", dicom={"SOPInstanceUID": "1.2"}, error=None)
    assert pipeline.repair() == (HeaderCounts(), [], 0)
    assert pipeline.repair(every=True) == (HeaderCounts(looked_at=1, changed=1), [], 1)
    assert pipeline.headers_read()[0].data["dicom"] == header
    assert pipeline.repair(every=True) == (HeaderCounts(looked_at=1), [], 0)


def test_a_header_that_still_cannot_be_read_is_counted_and_adds_nothing(pipeline):
    pipeline.archived_before("S1", data=b"no DICOM at all", error="not-dicom")
    before = pipeline.ledger.last()
    assert pipeline.repair() == (HeaderCounts(looked_at=1, left=1), [], 0)
    assert pipeline.ledger.last() == before


def test_another_reason_is_recorded_once(pipeline):
    pipeline.archived_before("S1", data=b"no DICOM at all", error="header-unreadable")
    assert pipeline.repair() == (HeaderCounts(looked_at=1, changed=1, left=1), [], 0)
    assert (pipeline.headers_read()[0].data["dicom"], pipeline.headers_read()[0].data["dicom_error"]) == (None, "not-dicom")
    assert pipeline.repair() == (HeaderCounts(looked_at=1, left=1), [], 0)


@pytest.mark.parametrize("how", ["changed", "missing"])
def test_the_header_of_a_file_that_does_not_match_the_ledger_is_not_recorded(pipeline, how):
    pipeline.archived_before("S1")
    pipeline.archived_before("S2", seed=2)
    file = pipeline.archive / "S1" / "S1.dcm"
    if how == "changed":
        make_file(file, seed=9)
    else:
        file.unlink()
    assert pipeline.repair() == (HeaderCounts(looked_at=1, changed=1), [(f"file-{how}", "S1/S1.dcm")], 1)
    assert [entry.study_id for entry in pipeline.headers_read()] == ["S2"]


def test_a_damaged_entry_is_a_finding_and_does_not_stop_other_studies(pipeline):
    pipeline.archived_before("S1")
    pipeline.archived_before("S2", seed=2)
    damage(pipeline.ledger, "UPDATE entries SET payload = payload || ' ' WHERE position = 2")
    counts, found, _ = pipeline.repair(chosen=["S1", "S2"])
    assert (counts, found) == (HeaderCounts(looked_at=1, changed=1), [("entry-damaged", None)])


def test_metadata_left_unwritten_by_a_killed_run_is_written_by_the_next_run(pipeline):
    header = pipeline.archived_before("S1")
    counts = HeaderCounts()
    with closing(Problems()) as problems:
        archive = FilesystemArchive(pipeline.archive)
        reread_headers(pipeline.ledger, archive, ["S1"], every=False, dry_run=False, problems=problems, counts=counts, show=show)
    assert pipeline.metadata("S1")["files"][0]["sop_instance_uid"] is None
    assert pipeline.repair() == (HeaderCounts(), [], 1)
    assert pipeline.metadata("S1")["files"][0]["sop_instance_uid"] == header["SOPInstanceUID"]


def test_an_error_that_ends_a_repair_early_keeps_what_was_recorded(pipeline):
    for number in range(3):
        pipeline.archived_before(f"S{number}", seed=number)
    pipeline.archive.rename(pipeline.archive.with_name("elsewhere"))
    with pytest.raises(Retryable, match="archive-missing"):
        pipeline.repair()
    assert pipeline.headers_read() == []


def test_the_most_recently_read_header_counts(pipeline):
    """A redelivery's header counts only if there was none before."""
    first = pipeline.archived_before("S1", dicom={"SOPInstanceUID": "1.2"}, error=None)
    archived = pipeline.ledger.last()
    with pipeline.ledger.write() as tx:
        tx.append(
            NewEntry(Kind.ARCHIVED, archived.data | {"placement": "already-there", "dicom": first}, "S1", archived.cause), work_item=False
        )
    [known] = headers_of("S1", pipeline.ledger.study("S1"))
    assert (known.dicom, known.position) == ({"SOPInstanceUID": "1.2"}, archived.position)
    pipeline.archived_before("S2", seed=2)
    archived = pipeline.ledger.last()
    with pipeline.ledger.write() as tx:
        tx.append(NewEntry(Kind.ARCHIVED, {**archived.data, "dicom": first}, "S2", archived.cause), work_item=False)
    [known] = headers_of("S2", pipeline.ledger.study("S2"))
    assert (known.dicom, known.position) == (first, archived.position)
