"""Parameters of Datasette's tables: none reaches another table, and nonsense is the asker's mistake, not an error of the page."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import datasette
import pytest

from storage_ledger.web.datasette.parameters import OF_ONE_TABLE, OF_WHOLE_DATABASES
from tests.integration.test_browse import Browse, make_ledger
from tests.integration.test_browse_gate import machine

REFUSED = {
    "_fts_table", "_fts_pk", "_searchmode",  # search another table, or with FTS5's own syntax
    "_through",  # joins other tables
    "_trace",  # shows SQL
    "_context", "_success",  # of features that are off
}  # fmt: skip


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browse]:
    folder = tmp_path_factory.mktemp("parameters")
    tokens = " ".join((machine("board", "index/arrivals:"), machine("usual", ""), machine("sql", "index,ledger,sql:")))
    browse = Browse(make_ledger(folder), folder / "log", BROWSE_TOKENS=tokens).ready()
    yield browse
    browse.stop()


def status(browse: Browse, who: str, path: str) -> int:
    return browse.ask(path, Authorization=f"Bearer {who}").status


def test_a_token_for_one_table_cannot_search_another(browse: Browse):
    search = "_search=patient_name+:+do*"
    for who in ("board", "usual", "sql"):
        for more in (
            "_fts_table=studies_fts&_fts_pk=files&_searchmode=raw",
            "_fts_table=studies_fts&_fts_pk=files",
            "_fts_pk=files",
            "_searchmode=raw",
        ):
            for form in ("", ".json", ".csv"):
                assert status(browse, who, f"/index/arrivals{form}?{search}&{more}") == 400, (who, more, form)
        assert status(browse, who, "/index/arrivals.json?_size=5&_sort_desc=files&modality=CT&_facet=modality&_col=files") == 200


@pytest.mark.parametrize("name", ["_where", "_label", "_labels", "_extras", "_through", "_search_patient_name", "_nothing", "_show_sql"])
def test_a_token_for_one_table_has_only_parameters_that_stay_in_it(browse: Browse, name: str):
    assert status(browse, "board", f"/index/arrivals.json?{name}=1") in {400, 403}


def test_every_parameter_that_datasette_reads_is_allowed_or_refused_on_purpose():
    source = Path(datasette.__file__).parent
    texts = [path.read_text() for path in [*source.glob("*.py"), *source.glob("views/*.py")]]
    found = {
        name
        for text in texts
        for name in re.findall(r"""(?:args(?:\.get|\.getlist)?[\[(]|params\.get\(|\bin )\s*["'](_[a-z_]+)["']""", text)
    }
    found |= {name for text in texts for name in re.findall(r'"(_[a-z_]+)" in request\.args', text)}
    assert len(found) > 20
    assert found - OF_WHOLE_DATABASES <= REFUSED
    assert not OF_WHOLE_DATABASES & {"_fts_table", "_fts_pk", "_searchmode", "_through"}
    assert OF_ONE_TABLE < OF_WHOLE_DATABASES


WAYS = ("exact", "not", "contains", "gt", "lte", "glob", "in", "notin", "arraycontains", "date", "isnull", "nothing")
NONSENSE = ("", "x", "-1", "99999999999999999999", "\u00b2", "%00", "{{", "[1,{}]", "[" * 2000)
PAGES = {
    "/index/files": sorted(OF_ONE_TABLE | {"_label", "_labels", "_extras", "_show_sql", "_where", *(f"rows__{way}" for way in WAYS)}),
    "/index/archived_per_day.json": ["_json", "_json_infinity", "_nl", "_shape", "_size"],
    "/ledger/pending.json": ["_next", "_sort", "_sort_desc", "_size", "_shape", "_facet", "_search", *(f"position__{way}" for way in WAYS)],
    "/ledger/entries.csv": ["_stream", "_next", "_size", "_col", "_dl", "_header", "payload__arraycontains", "payload__date"],
    "/ledger/entries/1.blob": ["_blob_column", "_blob_hash"],
    "/index.json": ["sql", "_size", "_timelimit", "_shape"],
    "/ledger/what_happened": ["study_id", "_size", "_timelimit", "_show_sql"],
    "/ledger/what_happened_between.json": ["since", "until"],
    "/dicom": ["q", "page", "year", "modality", "institution", "sort", "way", "flagged"],
    "/dicom/1.2.3.1": ["page", "series", "file"],
    "/image/s1/s1.dcm": ["size", "frame", "window"],
    "/image/s1/s1.dcm/about": ["frame"],
}
ROWS = (
    "/index/files/x",
    "/index/files/x,y,z",
    "/index/arrivals/x",
    "/ledger/pending/1",
    "/ledger/pending/1.json",
    "/index/series/x",
    "/index/uploads/~",
    "/index/progress/x",
    "/ledger/entries/1,2",
    "/ledger/entries/x",
    "/ledger/entries/99999999999999999999",
    "/ledger/meta/x,y",
    "/index/studies_fts/1",
    "/studies/%00",
    "/dicom/%00",
    "/studies/%ff",
    "/file/%00/%00",
    "/zip/%00",
    "/metadata/%ff",
    "/index/x",
    "/index/x.json",
    "/x",
    "/index/files/x.csv",
    "/index/files/x.blob",
    "/index/files.blob",
    "/index/files.nothing",
    "/index.nothing",
    "/-/nothing",
    "/index/files?_through=x",
    "/index/files?_where=1%00",
)


def is_answer(status: int) -> bool:
    return status in {200, 302, 400, 403, 404, 416, 503}


@pytest.mark.parametrize("page", PAGES)
def test_nonsense_in_a_parameter_is_no_error_of_the_page(browse: Browse, page: str):
    wrong = []
    for name in PAGES[page]:
        for value in NONSENSE:
            path = f"{page}?{name}={quote(value, safe='%')}"
            if not is_answer(found := status(browse, "sql", path)):
                wrong.append((found, path[:200]))
    assert wrong == []
    assert "browse.failed" not in browse.said()


def test_a_row_that_cannot_be_is_not_found(browse: Browse):
    wrong = [(path, found) for path in ROWS if not is_answer(found := status(browse, "sql", path))]
    assert wrong == []
    for path in ("/index/files/x", "/index/arrivals/x", "/ledger/pending/1"):
        assert status(browse, "sql", path) == 404


@pytest.mark.parametrize(
    "query", ["nothing=1", "study_id__nothing=1", "_nothing=1", "_sort=nothing", "_col=nothing", "_sort=study_id&_sort_desc=study_id"]
)
def test_a_misspelt_filter_is_refused_and_not_left_out(browse: Browse, query: str):
    for form in ("", ".json", ".csv"):
        assert status(browse, "usual", f"/index/studies{form}?{query}") == 400


@pytest.mark.parametrize(
    ("value", "expected"),
    [("'\u00e4'", "\u00e4"), ("7", "7"), ("1.5", "1.5"), ("null", ""), ("x'616263'", "abc"), ("'a' AS a UNION SELECT 'b'", "a")],
)
def test_a_value_of_any_type_is_sent_whole_as_a_file(browse: Browse, value: str, expected: str):
    query = f"/index.blob?sql={quote(f'SELECT {value} AS a')}&_blob_column=a"
    answer = browse.ask(query, Authorization="Bearer sql")
    assert (answer.status, answer.body) == (200, expected)
    digest = hashlib.sha256(expected.encode()).hexdigest()
    assert browse.ask(f"{query}&_blob_hash={digest}", Authorization="Bearer sql").body == expected
    assert status(browse, "sql", f"{query}&_blob_hash=abc") == 400


def test_a_file_of_no_row_or_column_is_refused(browse: Browse):
    assert status(browse, "usual", "/index/files.blob?_blob_column=name&name=nothing") == 400
    assert status(browse, "sql", "/index.blob?sql=SELECT+1+AS+a&_blob_column=b") == 400
    assert status(browse, "sql", "/index.blob?sql=SELECT+1+AS+a") == 400
    assert status(browse, "usual", "/ledger/entries/1.blob?_blob_column=payload&_blob_hash=1") == 404


@pytest.mark.parametrize("query", ["", "?actor=1&allow=2", "?actor=%22x%22&allow=%5B1%5D", "?actor=NaN", "?allow=%5B%5B"])
def test_datasette_s_form_for_trying_rules_is_not_there(browse: Browse, query: str):
    for who in ("board", "usual", "sql"):
        assert status(browse, who, f"/-/allow-debug{query}") in {403, 404}


def test_no_page_repeats_the_host_that_the_asker_named(browse: Browse):
    for path in (
        "/index/studies?_size=1&_facet=modality",
        "/index/studies.json?_size=1&_facet=modality",
        "/ledger/entries.csv",
        "/ledger/entries",
    ):
        with closing(socket.create_connection(("127.0.0.1", browse.port), timeout=60)) as asker:
            head = ["Host: evil.example", "Authorization: Bearer usual", "Accept: text/html", "Connection: close"]
            asker.sendall("\r\n".join([f"GET {path} HTTP/1.1", *head, "", ""]).encode())
            with asker.makefile() as file:
                answer = file.read()
        assert answer.startswith("HTTP/1.1 200 ")
        assert "evil.example" not in answer
