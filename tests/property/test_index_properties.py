"""An index that followed the ledger and a rebuilt one are equal, row for row."""

import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.index.follower import Index
from storage_ledger.system.sqlite import sqlite
from tests.support.making import archived, described

STUDIES = ["S1", "S2", "S3"]
PATHS = ["a.dcm", "sub/a.dcm", "b.dcm"]
UIDS = ["1.2.1", "1.2.2", "", None]

cells = st.sampled_from(
    [None, "", "CT", "Å^B", 7, 1.5, ["CT", "MR"], [], "Weiß^P", "20260603", "山田^太郎", {"Alphabetic": "X"}, "x\0y", True, "  ", "9" * 30]
)
names = st.sampled_from(["A^B", "a^b^^", "A^C", "^", "=\u5c71\u7530", "A^B=\u5c71\u7530", "A^B=\u7530"])
headers = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "StudyInstanceUID": st.sampled_from(UIDS),
        "SeriesInstanceUID": st.sampled_from(UIDS),
        "SOPInstanceUID": st.sampled_from(["9.1", "9.2", "", None, ["9.1", "9.3"]]),
        "Modality": cells,
        "PatientID": cells,
        "PatientName": cells | names,
        "PatientBirthDate": cells,
        "PatientSex": st.sampled_from(["F", "M", "f", None]),
        "SeriesDescription": cells,
        "AccessionNumber": cells,
        "StudyDescription": cells,
        "SeriesNumber": cells,
        "InstanceNumber": cells,
        "NumberOfFrames": cells,
        "StudyDate": cells,
    },
)
metadata = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "patient_info": st.none() | st.dictionaries(st.sampled_from(["patient_id", "patient_name", "patient_sex"]), cells | names),
        "study_info": st.none() | st.dictionaries(st.sampled_from(["study_instance_uid", "study_date"]), st.sampled_from(UIDS) | cells),
        "modality_info": st.none() | st.dictionaries(st.just("modality"), cells),
        "error": cells,
    },
)
studies = st.sampled_from(STUDIES)
paths = st.sampled_from(PATHS)
contents = st.sampled_from(["x", "y", ""])
errors = st.sampled_from([{}, {"dicom_error": "header-cut"}])
causes = st.integers(1, 12) | st.none()
steps = st.one_of(
    st.builds(lambda study, path, said: NewEntry(Kind.DESCRIBED, described(path, said), study), studies, paths, metadata),
    st.builds(
        lambda study, path, content, header, more, cause: NewEntry(
            Kind.ARCHIVED, archived(path, content=content, dicom=header) | more, study, cause
        ),
        studies,
        paths,
        contents,
        headers,
        st.sampled_from([{}, {"dicom_error": "not-dicom"}, {"placement": "already-there"}, {"unconfirmed": True}, {"supersedes": "a.dcm"}]),
        causes,
    ),
    st.builds(
        lambda study, path, content, header, error: NewEntry(
            Kind.HEADER_READ, {"file": archived(path, content=content)["file"], "dicom": header} | error, study
        ),
        studies,
        paths,
        contents,
        headers,
        errors,
    ),
    st.builds(lambda study, path: NewEntry(Kind.QUARANTINED, {"code": "upload-missing", "upload_path": path}, study), studies, paths),
    st.builds(
        lambda kind, study, path: NewEntry(
            kind, {"code": "upload-missing", "upload_path": path, "described": 1, "by": "x", "reason": "y"}, study
        ),
        st.sampled_from([Kind.RELEASED, Kind.DISCARDED]),
        studies,
        paths,
    ),
    st.builds(
        lambda study, step, path: NewEntry(
            Kind.FAILED, {"step": step, "code": "archive-io"} | ({"upload_path": path} if path else {}), study
        ),
        studies | st.none(),
        st.sampled_from(["place", "remove", "tell"]),
        st.none() | paths,
    ),
    st.builds(
        lambda study, status: NewEntry(Kind.STATUS_SENT, {"status": status, "tells": []}, study),
        studies | st.none(),
        st.sampled_from(["archived", "failed"]),
    ),
    st.builds(lambda study: NewEntry(Kind.RESTORED, {"file": {"name": "a.dcm"}, "found": "missing", "source": None}, study), studies),
    st.builds(lambda: NewEntry(Kind.REJECTED, {"reason": "not-json", "study_id": "S1"})),
    st.builds(
        lambda first, length, up_to, found, unseen: NewEntry(
            Kind.VERIFIED,
            {
                "scope": {"up_to": up_to, "ranges": [[first, first + length], [first + length + 3, first + length + 4]]},
                "findings": [{"code": code, "position": position} for code, position in found],
                "unchecked": [{"position": position} for position in unseen],
            },
        ),
        st.integers(1, 12),
        st.integers(0, 12),
        st.integers(1, 40),
        st.lists(st.tuples(st.sampled_from(["file-missing", "file-changed", "untracked-file"]), st.integers(1, 30)), max_size=2),
        st.lists(st.integers(1, 30) | st.none(), max_size=2),
    ),
    st.builds(lambda: NewEntry(Kind.RECOVERED, {"step": "tell", "code": "status-service-away"})),
)


def rows(path: Path) -> dict[str, list[tuple]]:
    """Return the contents of the index, table by table, independent of their layout in the file."""
    with closing(sqlite.connect(path)) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
        assert {"studies", "uploads", "files", "dicom_studies", "series", "progress"} <= set(names)
        shadows = ("_data", "_idx", "_docsize", "_config")  # of full-text search: depends on how it was written
        return {
            name: sorted(connection.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr) for name in names if not name.endswith(shadows)
        }


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.tuples(steps, st.integers(0, 3)), min_size=1, max_size=6), min_size=1, max_size=8),
    st.integers(1, 5),
    st.integers(0, 2),
)
def test_following_in_any_batches_comes_to_the_same_as_making_it_anew(ledgers, batches, partitions, keep):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ledger = ledgers.open(folder)
        index = Index(folder / "index.db", ledger)
        index.ensure()
        appended = 0
        for batch in batches:
            with ledger.write() as tx:
                for new, which in batch:
                    appended += 1
                    described_at = [e.position for e in tx.study(new.study_id) if e.kind == Kind.DESCRIBED] if new.study_id else []
                    if described_at and new.kind == Kind.ARCHIVED and which:
                        new = replace(new, cause=described_at[which % len(described_at)])  # noqa: PLW2901 - its own
                    tx.append(new if (new.cause or 0) < appended else replace(new, cause=None), work_item=False)
            while index.follow():
                pass
        followed = rows(index.path)
        anew = Index(folder / "anew.db", ledger, rebuild_partitions=partitions, rebuild_keep=keep)
        anew.rebuild()
        made_anew = rows(anew.path)
        index.rebuild()
        again = rows(index.path)
        for one in (index, anew, ledger):
            one.close()
    assert followed == made_anew
    assert again == made_anew
