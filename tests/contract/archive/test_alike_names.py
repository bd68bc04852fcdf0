"""The archive on a file system with case-insensitive names (SMB, APFS, NTFS) or without hard links: no file replaces another."""

from __future__ import annotations

import pytest

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.archive.uploads import Uploads
from storage_ledger.errors import Permanent, Retryable
from tests.contract.archive.test_archive import Placing, content_of, digest, discard_attempts, tree
from tests.support.alike import alike
from tests.support.placing import study_of


@pytest.fixture(params=[("numbers",), ()], ids=["one number a file", "a number a name"])
def archive(request, tmp_path):
    with alike(tmp_path / "backing", tmp_path / "mounted", *request.param) as root:
        yield FilesystemArchive(root)


@pytest.fixture
def place(tmp_path, archive):
    (tmp_path / "uploads").mkdir()
    return Placing(Uploads(tmp_path / "uploads"), archive)


@pytest.mark.parametrize("name", ["METADATA.JSON", "Metadata.json", "metadata.json."])
def test_a_file_whose_name_is_taken_for_metadata_json_is_not_replaced_by_it(place, archive, name):
    placed = place(b"an image", name)
    archive.write_metadata("S1", b"{}")
    assert (content_of(archive, "S1", placed.name), content_of(archive, "S1", "metadata.json")) == (b"an image", b"{}")
    assert sorted(tree(archive.root)) == sorted([f"S1/{placed.name}", "S1/metadata.json"])
    again = place(b"an image", name)
    assert (again.name, again.placement) == (placed.name, "already-there")
    other = place(b"another image", name)
    assert other.name not in {placed.name, name}
    assert content_of(archive, "S1", "metadata.json") == b"{}"


def test_what_a_crash_left_under_such_a_name_is_not_taken_for_the_file(place, archive):
    place(b"first", "a.dcm", study_id="S1")
    (archive.root / "S1" / "METADATA.JSON").write_bytes(b"an image")  # linked just before the crash
    placed = place(b"an image", "METADATA.JSON")
    with study_of(archive, is_ours=lambda _: False) as folder:
        folder.write_metadata(b"{}")
    assert content_of(archive, "S1", placed.name) == b"an image"
    assert content_of(archive, "S1", "metadata.json") == b"{}"


def test_a_file_that_the_ledger_has_under_such_a_name_waits_for_a_person(place, archive):
    """The study was archived elsewhere, and the archive was then moved here."""
    archive.write_metadata("S1", b"{}")
    with pytest.raises(Permanent) as caught:
        place(b"an image", "METADATA.JSON", owned={"METADATA.JSON": digest(b"an image")})
    assert caught.value.code == "archive-name-taken"
    assert tree(archive.root) == {"S1/metadata.json": b"{}"}


@pytest.mark.parametrize(("first", "second"), [("abc", "ABC"), ("aBc", "AbC"), ("S1", "S1."), ("1.", "1")])
def test_two_studies_never_share_a_folder(place, archive, first, second):
    place(b"an image", study_id=first, owned={})
    archive.write_metadata(first, b"{}")
    before = tree(archive.root)
    with pytest.raises(Permanent) as caught:
        place(b"another image", study_id=second, owned={})
    assert caught.value.code == "archive-folder-taken"
    discard_attempts(archive, second, 2)
    assert tree(archive.root) == before
    place(b"a third image", study_id=first, owned={})  # as after a crash before its entry


def test_names_of_one_study_that_differ_by_case_are_two_files(place, archive):
    placed = [place(content, name).name for content, name in ((b"one", "IMG.dcm"), (b"two", "img.dcm"), (b"three", "Img.DCM"))]
    assert [content_of(archive, "S1", name) for name in placed] == [b"one", b"two", b"three"]


def test_without_hard_links_all_wait_and_the_reason_is_told(tmp_path):
    (tmp_path / "uploads").mkdir()
    with alike(tmp_path / "backing", tmp_path / "mounted", "no-links") as root:
        place = Placing(Uploads(tmp_path / "uploads"), FilesystemArchive(root))
        with pytest.raises(Retryable) as caught:
            place(b"an image")
        assert (caught.value.code, caught.value.shared) == ("archive-no-links", True)
        assert tree(root) == {}
