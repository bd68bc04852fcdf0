"""With any order, repetition and crashes, the archive ends the same and matches the ledger."""

import hashlib
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.domain.entries import Kind, faults
from tests.support.pipeline import Pipeline, tree

# study, path, content, metadata: file names are unique within a study, so that archive names do not depend on the order
EVENTS = [
    ("S1", "one/a.dcm", b"a", {"n": 1}),
    ("S1", "one/b.dcm", b"b" * 5000, {"n": 2}),
    ("S1", "one/metadata.json", b"{}", {"n": 1}),
    ("S2", "two/a.dcm", b"a", None),
    ("S2", "two/.hidden.dcm", b"h", {"error": "x", "files": "hostile"}),
    ("S3", "c.dcm", b"t", {"patient_info": {"patient_name": "DOE^JANE"}}),
]
CLASHING = [("S1", f"{folder}/a.dcm", content, {"n": n}) for n, (folder, content) in enumerate([("x", b"1"), ("y", b"2"), ("z", b"1")])]
# Several messages about one upload: the last one counts.
TALKING = [("S1", "a.dcm", b"a", {"n": n}) for n in (1, 2, 3)]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 5)),
        st.tuples(st.just("place"), st.integers(1, 3)),
        st.tuples(st.just("remove"), st.integers(1, 3)),
        st.tuples(st.just("judge and crash"), st.integers(1, 3)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("wait"), st.sampled_from([1, 60])),
        st.tuples(st.just("upload"), st.integers(0, 5)),
    ),
    max_size=25,
)


def run(pipeline: Pipeline, events, story) -> None:
    """Play the story, then upload and publish the rest, and finish all work. Files may arrive after their messages."""
    said, missing = set(), {event[1]: event[2] for event in events}
    start = pipeline.clock.now.timestamp()
    for step, number in story:
        match step:
            case "say":
                event = events[number % len(events)]
                said.add(event[1])
                pipeline.say(event[0], event[1], event[3])
            case "place":
                pipeline.place(studies=number, most=number)
            case "remove":
                pipeline.remove(most=number)
            case "judge and crash":  # the file is in the archive, and not recorded
                for work_items in pipeline.due("place")[:number]:
                    pipeline.placer.place_batch(work_items)
                pipeline.restart()
            case "restart":
                pipeline.restart()
            case "wait" if pipeline.clock.now.timestamp() - start < 200:  # within the grace period
                pipeline.clock.move(number)
            case "upload":
                path = events[number % len(events)][1]
                if path in missing:
                    pipeline.upload(path, missing.pop(path))
    for path, content in missing.items():
        pipeline.upload(path, content)
    for study, path, _, metadata in events:
        if path not in said:
            pipeline.say(study, path, metadata)
    pipeline.finish()


def outcome(ledgers, events, story) -> tuple[dict[str, str], dict[str, dict]]:
    """Check all invariants; return the archive's files and each study's parsed metadata."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline(Path(folder), ledgers)
        try:
            run(pipeline, events, story)
            files = pipeline.files()
            assert tree(pipeline.uploads) == {}, "every upload is archived and gone"
            assert set(pipeline.kinds()) <= {"described", "archived"}
            assert len(pipeline.source.acknowledged) == pipeline.kinds().count("described")
            pipeline.check_metadata()
            entries = pipeline.ledger.read(0, 10_000)
            assert all(faults(entry) == [] for entry in entries)
            archive = FilesystemArchive(pipeline.archive)
            for entry in entries:
                if entry.kind == Kind.ARCHIVED:
                    file = entry.data["file"]
                    assert archive.check(entry.study_id, file["name"], file["sha256"], file["bytes"]) == "intact"
            known = {f"{entry.study_id}/{entry.data['file']['name']}" for entry in entries if entry.kind == Kind.ARCHIVED}
            assert set(files) == known, "nothing lies there that the ledger does not know"
            studies = {study: pipeline.metadata(study) for study in {event[0] for event in events}}
            return files, studies
        finally:
            pipeline.ledger.close()


def without_order(document: dict) -> list[tuple]:
    """Return the files in metadata.json without their positions, which differ from run to run."""
    return sorted((file["name"], file["bytes"], file["sha256"]) for file in document["files"])


@settings(max_examples=40)
@given(steps)
def test_any_order_and_repetition_of_deliveries_ends_in_the_same_archive(ledgers, story):
    plain_files, plain_studies = outcome(ledgers, EVENTS, [])
    files, studies = outcome(ledgers, EVENTS, story)
    assert files == plain_files
    assert {study: without_order(found) for study, found in studies.items()} == {
        study: without_order(found) for study, found in plain_studies.items()
    }


@settings(max_examples=25)
@given(steps)
def test_of_files_with_clashing_names_every_content_is_kept(ledgers, story):
    files, _ = outcome(ledgers, CLASHING, story)
    assert set(files.values()) == {hashlib.sha256(content).hexdigest() for _, _, content, _ in CLASHING}
    assert "S1/a.dcm" in files


talk = st.lists(
    st.one_of(st.tuples(st.just("say"), st.integers(0, 2)), st.sampled_from([("place", 1), ("upload", 0), ("wait", 1), ("remove", 1)])),
    max_size=8,
)


@settings(max_examples=80)
@given(story=talk)
@example(story=[("say", 0), ("say", 1), ("place", 1)])
@example(story=[("say", 0), ("place", 1), ("upload", 0), ("say", 1), ("place", 1), ("remove", 1)])
@example(story=[("say", 0), ("say", 1), ("place", 1), ("upload", 0), ("say", 0), ("place", 1), ("wait", 1)])
def test_the_last_word_about_an_upload_is_the_one_in_its_metadata(ledgers, story):
    files, studies = outcome(ledgers, TALKING, story)
    words = [TALKING[number % 3][3]["n"] for step, number in story if step == "say"] or [1, 2, 3]
    assert list(files) == ["S1/a.dcm"]
    assert studies["S1"]["n"] == words[-1]
