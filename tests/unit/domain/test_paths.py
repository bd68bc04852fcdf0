"""Names and paths: what DESIGN §2 fixes."""

import pytest

from storage_ledger.domain.paths import (
    UploadPaths,
    archive_name,
    beside_name,
    damaged_name,
    is_attempt,
    is_temporary,
    putting_back_name,
    study_folder,
    temporary_name,
    valid_study_id,
)

SHA = "0123456789abcdef" * 4
PATHS = UploadPaths("/data/uploads", ("/app/uploads", "/mnt/in"))


@pytest.mark.parametrize("text", ["a", "0", "S-1_2.3", "A" * 128, "metadata.json", "123e4567-e89b-12d3-a456-426614174000", "a.", "CON"])
def test_valid_study_ids(text):
    assert valid_study_id(text)


@pytest.mark.parametrize(
    "text",
    ["", ".a", "-a", "_a", "a..b", "..", "a/b", "a b", "a\n", "a\0", "é", "٣", "ａ", "A" * 129, ".ledger", None, 7, ["a"], b"a"],  # noqa: RUF001
)
def test_invalid_study_ids(text):
    assert not valid_study_id(text)


@pytest.mark.parametrize(
    ("stated", "meant"),
    [
        ("a.dcm", "a.dcm"),
        ("sub/a.dcm", "sub/a.dcm"),
        ("./sub//a.dcm", "sub/a.dcm"),
        ("/data/uploads/a.dcm", "a.dcm"),
        ("//data///uploads/./sub/a.dcm", "sub/a.dcm"),
        ("/app/uploads/a.dcm", "a.dcm"),
        ("/mnt/in/a/b", "a/b"),
        ("app/uploads/a.dcm", "app/uploads/a.dcm"),
        ("..a", "..a"),
        ("a..", "a.."),
        ("...", "..."),
        ("a\\..\\b", "a\\..\\b"),
        ("~/a", "~/a"),
        ("a\nb", "a\nb"),
    ],
)
def test_a_file_path_means_a_place_below_uploads(stated, meant):
    assert PATHS.resolve(stated) == meant


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ("", "empty"),
        (".", "UPLOADS_PATH itself"),
        ("./", "UPLOADS_PATH itself"),
        ("/data/uploads", "UPLOADS_PATH itself"),
        ("/app/uploads/", "UPLOADS_PATH itself"),
        ("/mnt/in/.", "UPLOADS_PATH itself"),
        ("/", "outside"),
        ("/etc/passwd", "outside"),
        ("/data/uploads2/a", "outside"),
        ("/data", "outside"),
        ("/app/uploadsa", "outside"),
        ("..", "'..'"),
        ("a/../b", "'..'"),
        ("a/..", "'..'"),
        ("/data/uploads/../uploads/a", "'..'"),
        ("a\0", "NUL"),
        ("a\udc80", "UTF-8"),
    ],
)
def test_a_path_that_leads_elsewhere_is_refused_with_the_reason(stated, reason):
    with pytest.raises(ValueError, match=reason):
        PATHS.resolve(stated)


def test_without_neighbours_only_our_own_prefix_counts():
    with pytest.raises(ValueError, match="outside"):
        UploadPaths("/data/uploads").resolve("/app/uploads/a.dcm")


@pytest.mark.parametrize(
    "name", ["a.dcm", "a", "Å.dcm", "a b.dcm", "metadata.json.dcm", "METADATA.JSON", "a~b.dcm", "x" * 196 + ".dcm", "a.", "-rf"]
)
def test_a_file_keeps_its_name(name):
    assert archive_name(name, SHA) == name


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        (".hidden", SHA[:12]),
        (".hidden.dcm", SHA[:12] + ".dcm"),
        ("..", SHA[:12]),
        ("metadata.json", SHA[:12] + ".json"),
        ("x" * 197 + ".dcm", SHA[:12] + ".dcm"),
        ("é" * 100 + ".dcm", SHA[:12] + ".dcm"),
        ("x" * 201, SHA[:12]),
        ("x" * 200 + "." + "y" * 16, SHA[:12]),
        ("x" * 200 + "." + "y" * 15, SHA[:12] + "." + "y" * 15),
        (".place-7.tmp", SHA[:12] + ".tmp"),
    ],
)
def test_a_hidden_reserved_or_too_long_name_is_replaced_with_the_digest_and_suffix(name, kept):
    assert archive_name(name, SHA) == kept


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("a.dcm", f"a~{SHA[:12]}.dcm"),
        ("a", f"a~{SHA[:12]}"),
        ("a.tar.gz", f"a.tar~{SHA[:12]}.gz"),
        ("a.", f"a.~{SHA[:12]}"),
        ("a..dcm", f"a.~{SHA[:12]}.dcm"),
        (" .dcm", f" ~{SHA[:12]}.dcm"),
    ],
)
def test_different_bytes_of_the_same_name_get_a_name_with_the_digest_before_the_suffix(name, beside):
    assert beside_name(name, SHA) == beside


@pytest.mark.parametrize("name", ["x" * 196 + ".dcm", "x" * 200, "a." + "y" * 198])
def test_every_name_that_is_made_fits_into_a_file_system(name):
    beside = beside_name(archive_name(name, SHA), SHA)
    assert len(damaged_name(10**15, beside).encode()) + len(".999") <= 255


@pytest.mark.parametrize(("what", "position"), [("place-7", 7), (f"place-{2**63}", 2**63), ("metadata", None), ("renew", None)])
def test_a_temporary_name_says_which_worker_writes_it_in_which_attempt(what, position):
    name = temporary_name(what, "a1", 12)
    assert name == f".{what}-a1-12.tmp"
    assert len({name, temporary_name(what, "a1", 13), temporary_name(what, "a11", 2), temporary_name(what, "b", 12)}) == 4
    assert archive_name(name, SHA) != name, "no archived file has such a name"
    assert is_temporary(name)
    assert is_attempt(name)
    assert position is None or (is_attempt(name, position) and not is_attempt(name, position + 1))
    assert position is not None or not is_attempt(name, 7)
    assert len(temporary_name(f"place-{2**63}", "w" * 32, 2**63)) < 255


@pytest.mark.parametrize("name", [".place-7.tmp", ".metadata.json.tmp", ".renew.tmp"])
def test_the_temporary_names_of_earlier_versions_are_known(name):
    assert is_temporary(name)
    assert is_attempt(name)
    assert is_attempt(name, 7) == (name == ".place-7.tmp")


@pytest.mark.parametrize(
    "name", ["a.dcm", "metadata.json", ".place-.tmp", ".place-7-a.tmp", ".place-7-a-1.tmp\n", ".place-7-a-1.tmpx", ".segment.tmp"]
)
def test_other_names_are_not_temporary(name):
    assert not is_temporary(name)
    assert not is_attempt(name)


def test_the_mark_of_a_file_that_is_put_back_is_temporary_and_stays_until_it_is_recorded():
    name = putting_back_name("a.dcm", 3)
    assert is_temporary(name)
    assert not is_attempt(name)


@pytest.mark.parametrize("worker", ["", "a-b", "a/b", ".", "é", "a\n", "x" * 33])
def test_a_workers_name_is_letters_and_digits(worker):
    with pytest.raises(ValueError, match="letters and digits"):
        temporary_name("place-7", worker, 1)


def test_the_study_folder_sent_to_the_status_service_has_no_double_slash():
    assert study_folder("/app/archive/", "S1") == study_folder("/app/archive", "S1") == "/app/archive/S1"
