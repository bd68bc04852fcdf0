"""The web pages over real HTTP, from the real process, on a ledger made by the package."""

from __future__ import annotations

import html
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.errors import BadSettings
from storage_ledger.index.follower import Index
from storage_ledger.ledger.migrate import migrate
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.operations.verify import unrecorded_result
from storage_ledger.settings import SERVE_LOCK
from storage_ledger.system.locks import held
from storage_ledger.system.sqlite import sqlite
from storage_ledger.web.auth.credentials import BrowseSettings, read_access
from storage_ledger.web.auth.redirects import safe_target
from storage_ledger.web.datasette.table_metadata import COLUMNS, HIDDEN, QUERIES
from tests.support.waiting import until
from tests.support.warm import shared

PASSWORD = "correct horse ✓"  # noqa: S105 - of these tests only
HOSTILE = "<script>alert('x')</script>^EVE"
PATIENTS = {"s1": "DOE^JANE", "s2": "MÜLLER^JÖRG", "s3": HOSTILE, "s4": "WAITING^WANDA"}
CANARIES = ("DOE", "JANE", "P-1", "A-17", "s1", "THORAX")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: str

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def cookies(self) -> dict[str, str]:
        lines = [value for key, value in self.headers if key == "set-cookie"]
        return dict(line.partition(";")[0].split("=", 1) for line in lines)

    def json(self) -> Any:
        return json.loads(self.body)


class Browse:
    """`storage-ledger browse` in its own process, forked from a warm one, on a free port."""

    def __init__(self, ledger: Path, log: Path, *arguments: str, **environment: str) -> None:
        self.log = log
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BROWSE_")}
        given = {**inherited, "LEDGER_PATH": str(ledger), "BROWSE_WORKERS": "1", **environment}
        self.process = shared("browse").start(given, log, log.parent, "storage-ledger", "browse", "--port", "0", *arguments)
        self.cookies: dict[str, str] = {}

    def said(self) -> str:
        return self.log.read_text()

    def ready(self) -> Browse:
        try:
            until(lambda: "Browse on http" in self.said() or self.process.poll() is not None, 60, what="browse to listen")
        except AssertionError:
            self.stop()  # left open it would become a warning, hence an error, in some later test
            raise
        found = re.search(r"Browse on http://127\.0\.0\.1:(\d+)/", self.said())
        assert found, self.said()
        self.port = int(found[1])
        return self

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def ask(self, path: str, method: str = "GET", body: str | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            sent.setdefault("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))
        if body is not None:
            sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
        try:
            connection.putrequest(method, path, skip_accept_encoding=True, skip_host="Host" in sent)
            data = None if body is None else body.encode()
            for name, value in sent.items():
                connection.putheader(name, value)
            if data is not None:
                connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data)
            answer = connection.getresponse()
            told = [(name.lower(), value) for name, value in answer.getheaders()]
            return Answer(answer.status, told, answer.read().decode(errors="replace"))
        finally:
            connection.close()

    def page(self, path: str) -> Answer:
        return self.ask(path, Accept="text/html,*/*")

    def log_in(self, user: str, password: str, *, at: str = "/-/login", **headers: str) -> Answer:
        """Log in through the form on the page `at`, with all its fields."""
        form = self.page(at)
        self.cookies |= form.cookies
        fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form.body))
        assert fields["csrftoken"]
        fields = {"username": user, "password": password, **{name: html.unescape(value) for name, value in fields.items()}}
        answer = self.ask("/-/login", "POST", urllib.parse.urlencode(fields), **headers)
        self.cookies |= answer.cookies
        return answer


def described(study_id: str, name: str, patient_id: str, accession: str) -> NewEntry:
    metadata = {
        "patient_info": {"patient_name": name, "patient_id": patient_id},
        "study_info": {"study_date": "20240131", "study_description": "THORAX", "accession_number": accession},
        "modality_info": {"modality": "CT"},
    }
    message = {"study_id": study_id, "file_path": f"/app/uploads/{study_id}.dcm", "metadata": metadata}
    data = {"message": message, "source": "pubsub", "raw_sha256": "0" * 64, "upload_path": f"{study_id}.dcm"}
    return NewEntry(Kind.DESCRIBED, data, study_id)


def archived(study_id: str, name: str, patient_id: str, accession: str, cause: int) -> NewEntry:
    uid = f"1.2.3.{study_id[1:]}"
    header = {
        "StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.1", "SOPInstanceUID": f"{uid}.1.1", "PatientName": name,
        "PatientID": patient_id, "AccessionNumber": accession, "StudyDescription": "THORAX", "StudyDate": "20240131", "Modality": "CT",
    }  # fmt: skip
    file = {"name": f"{study_id}.dcm", "original_name": f"{study_id}.dcm", "bytes": 1_234_567, "sha256": "a" * 64}
    data = {
        "file": file, "placement": "copied", "metadata_sha256": "b" * 64, "dicom": header, "upload_path": f"{study_id}.dcm",
        "software": "0", "host": "h",
    }  # fmt: skip
    return NewEntry(Kind.ARCHIVED, data, study_id, cause)


def make_ledger(folder: Path) -> Path:
    migrate(folder / "ledger.db")
    ledger = SqliteLedger(folder / "ledger.db")
    index = Index(folder / "index.db", ledger)
    index.ensure()
    for number, (study_id, name) in enumerate(PATIENTS.items(), 1):
        about = (study_id, name, f"P-{number}", f"A-{number}{number * 7}")
        with ledger.write() as tx:
            cause = tx.append(described(*about)).position
        index.follow()  # each in a batch of its own: the index knows the row before it changes
        if study_id != "s4":
            with ledger.write() as tx:
                tx.append(archived(*about, cause))
            index.follow()
    data = {"code": "upload-missing", "detail": "", "upload_path": "s4.dcm", "by": "projector"}
    with ledger.write() as tx:
        tx.append(NewEntry(Kind.QUARANTINED, data, "s4", cause))
    index.follow()
    index.close()
    ledger.close()
    return folder


def hash_of(password: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "storage_ledger", "browse", "--hash-password"],
        input=password + "\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ledger(tmp_path_factory.mktemp("ledger"))


@pytest.fixture(scope="module")
def password_hash() -> str:
    return hash_of(PASSWORD)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Browse]]:
    begun: list[Browse] = []

    def begin(folder: Path, *arguments: str, **environment: str) -> Browse:
        begun.append(Browse(folder, tmp_path_factory.mktemp("log") / "log", *arguments, **environment))
        return begun[-1]

    yield begin
    for each in begun:
        each.process.kill()
        each.process.wait(20)


@pytest.fixture(scope="module")
def guarded(start: Callable[..., Browse], ledger: Path, password_hash: str) -> Browse:
    """Web pages where jane may log in."""
    return start(ledger, BROWSE_USER="jane", BROWSE_PASSWORD_HASH=password_hash).ready()


@pytest.fixture(scope="module")
def opened(start: Callable[..., Browse], ledger: Path) -> Browse:
    """Web pages open to everyone."""
    return start(ledger, "--no-login", BROWSE_SQL_USERS="*").ready()


@pytest.fixture
def stranger(guarded: Browse) -> Iterator[Browse]:
    guarded.cookies = {}
    yield guarded
    guarded.cookies = {}


EVERYWHERE = [
    "/", "/.json", "/index", "/index.json", "/index.db", "/ledger", "/ledger.json", "/_internal", "/_internal/databases.json", "/_memory",
    "/index/studies", "/index/studies.json", "/index/studies.csv", "/index/studies.csv?_stream=on", "/index/studies.json?_shape=array",
    "/index/studies/s1", "/index/studies/s1.json", "/index/dicom_studies?_search=doe", "/index/files", "/index/studies_fts.json",
    "/ledger/entries", "/ledger/entries.csv", "/ledger/entries/1", "/ledger/entries/1.json", "/ledger/entries/1.blob?_blob_column=salt",
    "/index.json?sql=select+*+from+studies", "/index.csv?sql=select+*+from+studies", "/ledger?sql=select+payload+from+entries",
    "/index/failed_by_code", "/index/archived_per_day.json", "/ledger/waiting_longest", "/ledger/what_happened.csv?study_id=s1",
    "/dicom", "/dicom?q=doe", "/dicom/1.2.3.1", "/studies/s1", "/attention", "/-/ledger/browse.js", "/-/ledger/viewer.js",
    "/-/metadata", "/-/metadata.json", "/-/versions.json", "/-/plugins.json", "/-/settings.json", "/-/databases.json", "/-/threads.json",
    "/-/actor.json", "/-/permissions", "/-/messages", "/-/allow-debug", "/-/patterns", "/-/auth-token?token=x", "/-/password-tool",
    "/-/logout", "/-/search?q=doe", "/-/ledger/row.html", "/-/static/table.js", "/-/static/../static/app.css", "/-/nothing", "/nothing/",
    "//index/studies", "/-/login/", "/-/login/x", "/-/health/../../index",
    "/-/static-plugins/storage_ledger.web.datasette.plugin/browse.css",
]  # fmt: skip


@pytest.mark.parametrize("path", EVERYWHERE)
def test_no_page_is_served_without_a_login(stranger: Browse, path: str):
    for accept in ("text/html", "*/*"):
        answer = stranger.ask(path, Accept=accept)
        assert answer.status in {302, 400, 403}, path
        wanted = safe_target(path)
        assert answer.status != 302 or answer.header("location") == "/-/login" + ("" if wanted == "/" else f"?next={quote(wanted)}")
        assert not [canary for canary in CANARIES if canary in answer.body]
        assert answer.header("cache-control") == "no-store"


def test_who_turns_up_with_a_forged_cookie_or_basic_credentials_stays_outside(stranger: Browse):
    for headers in (
        {"Cookie": "ds_actor=eyJhIjp7ImlkIjoiamFuZSJ9fQ.xxxx"},
        {"Cookie": "ds_actor=; ds_actor=[;\x7f"},
        {"Authorization": "Basic amFuZTpjb3JyZWN0"},
        {"Authorization": "Basic"},
        {"Authorization": "Bearer x"},
    ):
        assert stranger.ask("/index/studies.json", **headers).status == 403


@pytest.mark.parametrize(
    "path", ["/", "/dicom", "/dicom/1.2.3.1", "/studies/s1", "/attention", "/index/studies", "/-/messages", "/-/password-tool", "/-/health"]
)
def test_nothing_can_be_posted(guarded: Browse, opened: Browse, path: str):
    for browse in (guarded, opened):
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            answer = browse.ask(path, method, "sql=delete+from+studies")
            assert (answer.status, answer.header("allow")) == (405, "GET, HEAD")


def test_health_needs_no_login_and_says_nothing(stranger: Browse):
    assert (stranger.ask("/-/health").status, stranger.ask("/-/health").body) == (200, "ok")
    assert (stranger.ask("/-/health", "HEAD").status, stranger.ask("/-/health", "HEAD").body) == (200, "")


def test_the_right_password_opens_all_and_the_cookie_is_kept_from_scripts(stranger: Browse):
    answer = stranger.log_in("jane", PASSWORD)
    assert (answer.status, answer.header("location")) == (302, "/")
    (line,) = [value for key, value in answer.headers if key == "set-cookie" and value.startswith("ds_actor=")]
    assert {part.strip() for part in line.split(";")[1:]} == {"Path=/", "HttpOnly", "SameSite=Lax"}
    assert "DOE^JANE" in stranger.page("/index/studies").body
    assert stranger.page("/-/login").status == 200
    for name in ("ds_actor", "ds_csrftoken"):
        assert name in stranger.cookies


@pytest.mark.parametrize(
    "path", ["/dicom/1.2.3.1?file=s1%2Fs1.dcm", "/dicom?q=m%C3%BCller+j&sort=name", "/index/files/s1,s1~2Edcm", "/studies/s1"]
)
def test_a_login_leads_to_the_page_that_was_asked_for_also_at_the_second_try(stranger: Browse, path: str):
    told = stranger.page(path)
    assert told.status == 302
    form = told.header("location") or ""
    assert stranger.log_in("jane", "wrong", at=form).status == 200
    answer = stranger.log_in("jane", PASSWORD, at=form)
    assert (answer.status, answer.header("location")) == (302, path)
    assert stranger.page(path).status == 200


@pytest.mark.parametrize(
    "wanted",
    [
        "//evil.example",
        "https://evil.example",
        "/%5Cevil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "/-/logout",
        "/-/login?next=/",
        '/"><x>\r\nSet-Cookie: a=b',
    ],
)
def test_a_login_never_redirects_to_another_site_whatever_the_address_or_form(stranger: Browse, wanted: str):
    at = f"/-/login?next={quote(wanted, safe='')}"
    assert 'name="next"' not in stranger.page(at).body
    stranger.cookies = stranger.page(at).cookies
    token = re.search(r'name="csrftoken" value="([^"]+)"', stranger.page("/-/login").body)
    assert token
    fields = {"username": "jane", "password": PASSWORD, "csrftoken": token[1], "next": wanted}
    answer = stranger.ask(at, "POST", urllib.parse.urlencode(fields))
    assert (answer.status, answer.header("location")) == (302, "/")


def test_only_a_page_that_was_asked_for_leads_to_the_login(stranger: Browse):
    assert stranger.ask("/studies/s1", "HEAD", Accept="text/html").header("location") == "/-/login"
    assert stranger.ask("/studies/s1", Accept="application/json").status == 403
    assert stranger.ask("/studies/s1", "POST", "x=y", Accept="text/html").status == 405


def test_behind_tls_cookies_are_for_tls_only(stranger: Browse):
    answer = stranger.log_in("jane", PASSWORD, X_Forwarded_Proto="https")
    assert "Secure" in (answer.header("set-cookie") or "")


@pytest.mark.parametrize(
    ("user", "password"), [("jane", "wrong"), ("jane", ""), ("", PASSWORD), ("root", PASSWORD), ("jane", PASSWORD + " ")]
)
def test_a_wrong_password_is_refused(stranger: Browse, user: str, password: str):
    answer = stranger.log_in(user, password)
    assert "Invalid username or password" in answer.body
    assert "ds_actor" not in answer.cookies
    assert stranger.ask("/index/studies.json").status == 403


def test_a_login_form_from_another_site_is_refused(stranger: Browse):
    stranger.cookies = stranger.page("/-/login").cookies
    body = urllib.parse.urlencode({"username": "jane", "password": PASSWORD})
    assert stranger.ask("/-/login", "POST", body).status == 403


def test_password_hashes_are_not_shown_to_logged_in_users(stranger: Browse, password_hash: str):
    stranger.log_in("jane", PASSWORD)
    for path in ("/-/metadata.json", "/-/settings.json", "/-/plugins.json", "/.json"):
        answer = stranger.ask(path)
        assert answer.status == 200
        assert password_hash.rpartition("$")[2] not in answer.body
    assert "pbkdf2" not in stranger.ask("/-/metadata.json").body


def test_the_secret_is_for_the_owner_only(guarded: Browse, ledger: Path):
    assert (ledger / "browse-secret").stat().st_mode & 0o777 == 0o600


def test_a_login_survives_a_restart_but_not_the_user(start: Callable[..., Browse], ledger: Path, tmp_path: Path, password_hash: str):
    file = tmp_path / "hashes"
    file.write_text(f"jane:{password_hash}\njoe:{password_hash}\n")
    first = start(ledger, BROWSE_PASSWORD_HASH_FILE=str(file)).ready()
    first.log_in("joe", PASSWORD)
    assert first.ask("/index/studies.json").status == 200
    assert first.stop() == 0
    second = start(ledger, BROWSE_PASSWORD_HASH_FILE=str(file)).ready()
    second.cookies = first.cookies
    assert second.ask("/index/studies.json").status == 200
    file.write_text(f"jane:{password_hash}\n")
    third = start(ledger, BROWSE_PASSWORD_HASH_FILE=str(file)).ready()
    third.cookies = first.cookies
    assert third.ask("/index/studies.json").status == 403


def test_without_a_password_it_starts_admits_nobody_and_says_what_to_set(start: Callable[..., Browse], ledger: Path):
    browse = start(ledger).ready()
    page = browse.page("/index/studies")
    assert page.status == 302
    assert (page.header("location") or "").startswith("/-/login")
    for text in (browse.said(), browse.page("/-/login").body, browse.ask("/index/studies.json").json()["error"]):
        assert "BROWSE_PASSWORD_HASH" in text
        assert "--hash-password" in text
    answer = browse.ask("/-/login", "POST", "username=admin&password=admin")
    assert "ds_actor" not in answer.cookies


def test_no_login_opens_it_and_warns_only_when_others_can_reach_it(opened: Browse, start: Callable[..., Browse], ledger: Path):
    assert "DOE^JANE" in opened.page("/index/studies").body
    assert "WARNING" not in opened.said()
    browse = start(ledger, "--no-login", "--host", "0.0.0.0")  # noqa: S104 - that is what is asked about
    until(lambda: "Browse on http" in browse.said(), 60, what="browse to listen")
    assert "WARNING: no login" in browse.said()


@pytest.mark.parametrize("table", ["studies", "dicom_studies"])
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("doe", ["s1"]), ("do", ["s1"]), ("jane doe", ["s1"]), ("MULL", ["s2"]), ("müller jö", ["s2"]), ("p-1", ["s1"]), ("A-32", ["s3"]),
        ("thor", ["s1", "s2", "s3"]), ("doe müller", []), ("oe", []), ('"', []), ('doe"', ["s1"]), ("doe*", ["s1"]), ("doe -", ["s1"]),
        ("NOT doe", []), ("doe OR eve", []), ("(", []), ("patient_id:doe", []), ("'; drop table studies", []), ("zzz", []),
    ],
)  # fmt: skip
def test_search_finds_beginnings_of_words_and_nothing_else(opened: Browse, table: str, text: str, wanted: list[str]):
    where = urllib.parse.urlencode({"_search": text, "_shape": "array"})
    rows = opened.ask(f"/index/{table}.json?{where}").json()
    found = {"1.2.3." + row["study_id"][1:] if table == "studies" else row["study_instance_uid"] for row in rows}
    if table == "studies":
        found.discard("1.2.3.4")  # was never archived, and so is no DICOM study
    assert found == {f"1.2.3.{study_id[1:]}" for study_id in wanted}


@pytest.mark.parametrize("text", ["wanda", "WAITING^WANDA", "wandawaiting", "s4"])
def test_a_study_that_is_not_archived_is_found_with_its_state_and_the_reason(opened: Browse, text: str):
    page = opened.page(f"/dicom?{urllib.parse.urlencode({'q': text})}").body
    assert 'href="/studies/s4"' in page
    assert "quarantined" in page
    assert "upload-missing" in page
    assert "No study matches your search" not in page


def test_search_follows_what_a_study_is_called_now(tmp_path: Path):
    folder = make_ledger(tmp_path)
    ledger = SqliteLedger(folder / "ledger.db")
    index = Index(folder / "index.db", ledger)
    index.ensure()
    with ledger.write() as tx:
        tx.append(described("s1", "ROE^RICHARD", "P-9", "A-9"))
    index.follow()
    live = found(folder, "doe"), found(folder, "roe"), rows(folder)
    index.rebuild()
    assert (found(folder, "doe"), found(folder, "roe"), rows(folder)) == live
    assert live[:2] == ((set(), {"1.2.3.1"}), ({"s1"}, set()))
    index.close()
    ledger.close()


def found(folder: Path, text: str) -> tuple[set[str], set[str]]:
    """Return the matches in studies and dicom_studies, and check that the search agrees with its tables."""
    connection = sqlite.connect(folder / "index.db")
    answer = []
    for table, key in (("studies", "study_id"), ("dicom_studies", "study_instance_uid")):
        connection.execute(f"INSERT INTO {table}_fts ({table}_fts, rank) VALUES ('integrity-check', 1)")
        sql = f"SELECT {key} FROM {table} WHERE first_position IN (SELECT rowid FROM {table}_fts WHERE {table}_fts MATCH ?)"
        answer.append({row[0] for row in connection.execute(sql, (f'"{text}"*',))})
    connection.close()
    return answer[0], answer[1]


def rows(folder: Path) -> list[Any]:
    connection = sqlite.connect(folder / "index.db")
    tables = ("studies", "dicom_studies", "series", "files", "uploads")
    answer = [connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall() for table in tables]
    connection.close()
    return answer


def test_every_column_of_every_table_is_explained(ledger: Path):
    for database in ("index", "ledger"):
        connection = sqlite.connect(ledger / f"{database}.db")
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")]
        visible = [name for name in names if not name.startswith(tuple(HIDDEN[database]))]
        assert visible
        for table in {*visible, *COLUMNS[database]}:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_xinfo({table})")]
            assert set(columns) == set(COLUMNS[database][table]), table
        connection.close()


@pytest.mark.parametrize(
    "path", ["/", "/index", "/ledger", "/index/studies", "/index/dicom_studies", "/index/series", "/index/files", "/ledger/entries"]
)
def test_the_pages_can_be_shown(opened: Browse, path: str):
    page = opened.page(path)
    assert page.status == 200
    assert "/-/ledger/browse.css" in page.body
    assert page.header("content-type") == "text/html; charset=utf-8"


def test_only_what_people_look_for_is_listed(opened: Browse):
    for database in ("index", "ledger"):
        listed = {table["name"]: table["hidden"] for table in opened.ask(f"/{database}.json").json()["tables"]}
        visible = {name for name, hidden in listed.items() if not hidden}
        assert visible == ({"studies", "dicom_studies", "series", "files"} if database == "index" else {"entries", "pending"})


def test_facets_are_there_with_the_year(opened: Browse):
    for table, count, names in (("studies", 4, {"state", "modality"}), ("dicom_studies", 3, {"modalities"})):
        answer = opened.ask(f"/index/{table}.json").json()
        assert set(answer["facet_results"]) == {*names, "institution_name", "year"}
        assert [(one["value"], one["count"]) for one in answer["facet_results"]["year"]["results"]] == [(2024, count)]
        assert answer["suggested_facets"] == []


@pytest.mark.parametrize(("database", "query"), [(database, query) for database, known in QUERIES.items() for query in known])
def test_ready_made_queries_run(opened: Browse, database: str, query: str):
    assert opened.page(f"/{database}/{query}").status == 200
    answer = opened.ask(f"/{database}/{query}.json?_shape=objects&study_id=s4").json()
    assert answer["ok"] is True
    assert answer["rows"] or query == "outages"  # there was none


def test_a_studys_events_are_shown_in_order(opened: Browse):
    told = opened.ask("/ledger/what_happened.json?_shape=array&study_id=s1").json()
    assert [(one["kind"], one["what"]) for one in told] == [("described", "s1.dcm (pubsub)"), ("archived", "s1.dcm, copied")]
    assert opened.ask("/ledger/what_happened.json?_shape=array&study_id=nobody").json() == []


@pytest.mark.parametrize(
    "path", ["/index/studies", "/index/dicom_studies", "/index/studies/s3", "/ledger/entries", "/ledger/what_happened?study_id=s3"]
)
def test_a_hostile_name_is_text(opened: Browse, path: str):
    body = opened.page(path).body
    assert html.escape(HOSTILE) in body or str(html.escape(HOSTILE, quote=False)).replace("'", "&#39;") in body
    assert "<script>alert" not in body


def test_the_list_of_entries_has_a_sentence_for_each_in_place_of_its_json(opened: Browse):
    said = re.findall(r"<summary>(.*?)</summary>", opened.page("/ledger/entries?study_id=s1&_sort=position").body)
    assert said[:2] == ["s1.dcm (pubsub)", "s1.dcm, 1234567 bytes, copied"]
    without_kind = opened.page("/ledger/entries?study_id=s1&_nocol=kind")
    assert without_kind.status == 200
    assert "<summary>Payload</summary>" in without_kind.body


def test_studies_files_and_entries_lead_to_each_other(opened: Browse):
    studies, entries = opened.page("/index/studies").body, opened.page("/ledger/entries").body
    for link in ("/studies/s1", "/index/files?study_id=s1", "/dicom/1.2.3.1", "/ledger/entries/1"):
        assert f'href="{link}"' in studies
        assert opened.page(link).status == 200
    for link in ("/studies/s1", "/ledger/entries/1"):
        assert f'href="{link}"' in entries
    assert '<span title="1,234,567 bytes">1.2 MB</span>' in studies
    assert "/dicom/1.2.3.4" not in studies  # was never archived


@pytest.mark.parametrize("path", ["/\\evil.example/", "/index\\studies", "/%5cevil.example/", "/%5Cevil.example/", "//evil.example/"])
def test_addresses_that_could_lead_elsewhere_are_refused(stranger: Browse, opened: Browse, path: str):
    for browse in (stranger, opened):
        answer = browse.ask(path, Accept="text/html")
        assert (answer.status, answer.header("location")) == (400, None)


def test_every_answer_has_the_headers_of_a_careful_server(stranger: Browse, opened: Browse):
    for answer in (stranger.ask("/"), stranger.ask("/-/login"), opened.ask("/index/studies.csv"), opened.ask("/index/nothing")):
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("x-frame-options") == "DENY"
        assert answer.header("referrer-policy") == "same-origin"
        assert answer.header("cache-control") == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "/index/nothing", "/index/studies/nobody", "/index.json?sql=delete+from+studies", "/index.json?sql=select+DOE",
        "/index/studies?_sort=DOE", "/index/studies.json?_searchmode=raw&_search=DOE%22", "/index/studies?_search_patient_name=DOE",
        "/index/studies.csv?_stream=on&_searchmode=raw&_search=DOE%22", "/index.db", "/index/files?_through=DOE",
        "/index?_size=DOE&sql=select+1",
    ],
)  # fmt: skip
def test_nonsense_is_answered_and_not_written_into_the_log(opened: Browse, path: str):
    assert opened.page(path).status in {200, 400, 403, 404, 500}
    assert not [word for word in ("DOE", "Traceback", "locals") if word in opened.said()]


def test_a_query_without_end_is_stopped(opened: Browse):
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"
    answer = opened.ask("/index.json?" + urllib.parse.urlencode({"sql": endless}))
    assert answer.status == 400
    assert "took too long" in answer.body


def test_missing_files_are_named(start: Callable[..., Browse], tmp_path: Path):
    browse = start(tmp_path, BROWSE_WAIT_SECONDS="0")
    assert browse.process.wait(20) == 2
    for text in ("ledger-missing", "ledger.db", "index.db", "storage-ledger serve"):
        assert text in browse.said()
    assert "Traceback" not in browse.said()


def test_it_waits_for_the_files_and_then_starts(start: Callable[..., Browse], tmp_path: Path):
    browse = start(tmp_path, "--no-login")
    until(lambda: "Waiting for" in browse.said(), 20, what="browse to wait")
    make_ledger(tmp_path)
    assert "DOE^JANE" in browse.ready().page("/index/studies").body


def test_while_it_waits_a_signal_ends_it_well(start: Callable[..., Browse], tmp_path: Path):
    browse = start(tmp_path)
    until(lambda: "Waiting for" in browse.said(), 20, what="browse to wait")
    assert browse.stop() == 0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"browse_password_hash": "secret"}, "BROWSE_PASSWORD_HASH: not a hash"),
        ({"browse_password_hash": "pbkdf2_sha256"}, "single quotes"),
        ({"browse_password_hash": "jane:{hash} jane:{hash}"}, "BROWSE_PASSWORD_HASH: contains the user jane twice"),
        ({"browse_password_hash": "{hash}", "browse_user": "a b"}, "BROWSE_USER: a user name"),
        ({"browse_password_hash": "{hash}", "browse_password_hash_file": "/dev/null"}, "set only one of them"),
        ({"browse_password_hash_file": "/nowhere"}, "BROWSE_PASSWORD_HASH_FILE: /nowhere cannot be read"),
    ],
)
def test_wrong_credentials_are_named_and_not_repeated(tmp_path: Path, password_hash: str, settings: dict[str, str], named: str):
    given = {name: value.format(hash=password_hash) for name, value in settings.items()}
    with pytest.raises(BadSettings) as caught:
        read_access(BrowseSettings(**given), tmp_path, is_open=False)
    assert named in str(caught.value)
    assert "secret" not in str(caught.value)


def test_bad_settings_end_it_with_2(start: Callable[..., Browse], ledger: Path):
    browse = start(ledger, BROWSE_WAIT_SECONDS="soon", BROWSE_SECRET="short")  # noqa: S106 - a wrong one
    assert browse.process.wait(20) == 2
    assert "BROWSE_SECRET: " in browse.said()
    assert "BROWSE_WAIT_SECONDS: " in browse.said()
    assert "short" not in browse.said().replace("shorter", "")


def test_sigterm_ends_it_with_0_though_a_browser_keeps_its_connection(start: Callable[..., Browse], ledger: Path):
    browse = start(ledger, "--no-login").ready()
    with socket.create_connection(("127.0.0.1", browse.port)) as kept:
        kept.sendall(b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert kept.recv(4096).startswith(b"HTTP/1.1 200")
        assert browse.stop() == 0
    assert "Traceback" not in browse.said()


def test_a_port_that_is_taken_is_named(start: Callable[..., Browse], ledger: Path, opened: Browse):
    browse = start(ledger, "--no-login", "--port", str(opened.port))
    assert browse.process.wait(20) == 2
    assert f"BROWSE_PORT: {opened.port} is in use" in browse.said()


def test_the_hash_of_an_empty_or_short_password_is_not_made():
    for text in ("", "\n", "correct horse\nbattery staple\n", "elevenchars\n", "x           \n"):
        done = subprocess.run(
            [sys.executable, "-m", "storage_ledger", "browse", "--hash-password"],
            input=text,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")


def test_home_and_attention_say_whether_the_service_runs(opened: Browse, ledger: Path):
    for path in ("/", "/attention"):
        assert "not-serving" in opened.page(path).body
    with held(ledger / SERVE_LOCK, "serve"):
        for path in ("/", "/attention"):
            assert "not-serving" not in opened.page(path).body


def test_home_and_attention_say_what_verify_found_and_could_not_record(opened: Browse, ledger: Path):
    unrecorded_result.keep(ledger, {"mirror-damaged": 3}, "2026-02-03T04:05:06.000Z")
    assert "3 other findings" in opened.page("/").body
    told = opened.page("/attention").body
    assert ("mirror-damaged" in told, "3 findings, " in told) == (True, True)
    unrecorded_result.forget(ledger)
    assert "mirror-damaged" not in opened.page("/attention").body
