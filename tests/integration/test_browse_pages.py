"""The content of our own web pages, from real databases; tests/browser checks how they look."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.ids import rfc3339
from storage_ledger.domain.work_queue import Stage
from storage_ledger.index.follower import Index
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.operations.clock_ahead import acknowledge_ahead
from storage_ledger.operations.report.status import current_status
from storage_ledger.settings import Settings
from storage_ledger.system.sqlite import sqlite
from storage_ledger.web.datasette.table_metadata import QUERIES
from storage_ledger.web.pages import attention, dicom_study, home, ledger_entries, pipeline_study, study_list, unarchived, views
from storage_ledger.web.pages.search_terms import terms
from storage_ledger.web.pages.service_state import ServiceState
from storage_ledger.web.pages.study_list import ListRequest
from storage_ledger.web.pages.views import PageRequest
from tests.support.browsing import ANNOUNCED, CT, EVIL, FOUND, JAPANESE, MR, TWINS, make_archive
from tests.support.making import Clock, Ledgers, archived, made_entry
from tests.support.making import described as described_payload
from tests.support.pipeline import Pipeline


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture
def index(archive: Path) -> Iterator[Any]:
    connection = sqlite.connect(f"file:{archive / 'ledger' / 'index.db'}?mode=ro", uri=True)
    yield connection
    connection.close()


@pytest.fixture
def book(archive: Path) -> Iterator[Any]:
    connection = sqlite.connect(f"file:{archive / 'ledger' / 'ledger.db'}?mode=ro", uri=True)
    yield connection
    connection.close()


def found(index: Any, **arguments: str) -> list[str]:
    return [row["study_instance_uid"] for row in study_list.of_index(index, ListRequest.of(arguments))["rows"]]


def test_the_start_page_counts_what_is_there(index: Any, book: Any):
    told = home.of_index(index, datetime.now(UTC).date())
    assert (told["dicom_studies"], told["files"], told["states"], told["flagged"], told["damaged"]) == (6, 13, {"quarantined": 1}, 3, 0)
    assert told["chart"].total == 13
    assert {row["study_instance_uid"] for row in told["latest"]} == {CT, MR, JAPANESE, EVIL, TWINS, FOUND}
    assert all(row["cover"] for row in told["latest"])
    facts = home.of_ledger(book)
    assert (facts["verified"], facts["outages"], facts["rejected"]["n"]) == (None, [], 1)
    assert facts["last"]["position"] == told["followed"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("doe", [CT]), ("jan d", [CT]), ("P-2", [MR]), ("müll", [MR]), ("mull", [MR]), ("山田", [JAPANESE]), ("spine", [JAPANESE]),
     ("zzz", []), ('"', []),
     ("<script>", [EVIL]), ("doe müller", []),
     (MR, [MR]), (f"doe {MR}", []), ("2026-01-01 müll", [MR]), ("2026-01-02 müll", []), ("19991231", []), (f"{MR} 2026-01-01", [MR]),
     ("MUELLER", [MR]), ("joergmueller", [MR]), ("山田太郎", [JAPANESE]), ("太郎", [JAPANESE]), ("ヤマダ", [JAPANESE]), ("p2", [MR]),
     (f"{MR}.2", [MR]), (f"{CT}.1.3", [CT]), (ANNOUNCED, [FOUND]), ("ct-4", [CT]), ("CT-4", [CT]), (f"doe {CT}.1", [CT]),
     (f"{CT} {MR}", []),
     ("müll 1.1.2026", [MR]), ("müll 2026-01..2026-02", [MR]), ("müll 1 Jan 2026", [MR]), ("müll 2026", [MR]), ("müll 2025", [])],
)  # fmt: skip
def test_a_search_finds_by_name_id_and_description(index: Any, text: str, wanted: list[str]):
    assert found(index, q=text) == wanted


def test_facets_count_what_is_found_and_narrow_it(index: Any):
    everything = study_list.of_index(index, ListRequest())
    assert everything["total"] == 6
    (modality,) = [facet for facet in everything["facets"] if facet["name"] == "modality"]
    assert {entry["value"]: entry["count"] for entry in modality["entries"]} == {"CT": 5, "MR": 1}
    assert found(index, modality="MR") == [MR]
    assert found(index, modality="M") == []
    assert set(found(index, flagged="1")) == {TWINS, FOUND}
    assert found(index, year="2026", institution="</title><i>x") == [EVIL]
    assert found(index, year="1999") == found(index, institution="-") == []
    assert found(index, year="9" * 20) == found(index, year="20260") == []
    chosen = study_list.of_index(index, ListRequest.of({"modality": "US"}))
    assert [entry["count"] for facet in chosen["facets"] for entry in facet["entries"] if entry["chosen"]] == [0]
    assert chosen["known"]


def test_a_period_of_study_dates_can_be_chosen(index: Any):
    everything = {CT, MR, JAPANESE, EVIL, TWINS, FOUND}  # of 1 January 2026
    for arguments in (
        {"from": "2026-01-01", "to": "2026-01-01"}, {"from": "2026-01-01"}, {"to": "2026-01-01"}, {"from": "1 Jan"}, {"to": "2026-13-01"},
        {"days": "8"}, {"days": "x"},
    ):  # fmt: skip
        assert set(found(index, **arguments)) == everything, arguments
    assert found(index, **{"from": "2026-01-02"}) == found(index, to="2025-12-31") == []
    assert found(index, q="doe", to="2026-01-01") == [CT]
    for days, last, is_in in ((1, 1, True), (1, 2, False), (7, 7, True), (7, 8, False), (30, 30, True), (30, 31, False)):
        wanted = ListRequest.of({"days": str(days), "to": "2025-01-01"}, date(2026, 1, last))
        assert bool(study_list.of_index(index, wanted)["rows"]) == is_in, (days, last)
        assert wanted.address() == f"/dicom?days={days}"
    assert ListRequest.of({"from": "2026-01-01"}).address(sort="name", way="asc") == "/dicom?from=2026-01-01&sort=name&way=asc"


def test_studies_can_be_narrowed_to_a_condition(archive: Path, tmp_path: Path):
    shutil.copy(archive / "ledger" / "index.db", tmp_path / "index.db")
    with closing(sqlite.connect(tmp_path / "index.db")) as connection:
        connection.execute("UPDATE files SET fixity = 'intact', verified_at = '2026-01-01T00:00:00.000000Z'")
        assert [entry["value"] for entry in conditions(connection)] == ["Flagged", "Not verified"]
        connection.execute("UPDATE files SET fixity = 'missing' WHERE name = 'ct-2.dcm'")
        connection.execute("UPDATE files SET fixity = 'unverified' WHERE name = 'mr-1.dcm'")
        connection.execute("UPDATE files SET dicom_error = 'header-cut' WHERE name = 'jp-1.dcm'")
        connection.execute("UPDATE studies SET study_instance_uid = ? WHERE study_id = 'gone-1'", (EVIL,))
        wanted = {"damaged": {CT}, "incomplete": {EVIL}, "flagged": {TWINS, FOUND}, "unread": {JAPANESE}, "unverified": {MR}}
        assert {name: set(found(connection, condition=name)) for name in wanted} == wanted
        assert [(entry["value"], entry["count"]) for entry in conditions(connection)] == [
            ("Damaged", 1), ("Incomplete", 1), ("Flagged", 2), ("Header not readable", 1), ("Not verified", None),
        ]  # fmt: skip
        assert [entry["value"] for entry in conditions(connection, q="doe")] == ["Damaged", "Not verified"]
        chosen = conditions(connection, condition="damaged", q="yamada")
        assert [(entry["value"], entry["chosen"], entry["href"]) for entry in chosen][:1] == [("Damaged", True, "/dicom?q=yamada")]
        assert len(found(connection, condition="x")) == 6


def conditions(index: Any, **arguments: str) -> list[dict[str, Any]]:
    facets = study_list.of_index(index, ListRequest.of(arguments))["facets"]
    return next(facet["entries"] for facet in facets if facet["name"] == "condition")


def test_the_order_can_be_chosen(index: Any):
    names = [row["patient_name"] for row in study_list.of_index(index, ListRequest.of({"sort": "name"}))["rows"]]
    assert names == sorted(names)
    sizes = [row["bytes"] for row in study_list.of_index(index, ListRequest.of({"sort": "size"}))["rows"]]
    assert sizes == sorted(sizes, reverse=True)
    assert found(index, page="2") == []


def test_a_row_of_the_list_shows_the_studys_condition(index: Any):
    rows = {row["study_instance_uid"]: row for row in study_list.of_index(index, ListRequest())["rows"]}
    assert (rows[CT]["fixity"], rows[CT]["waiting"], rows[CT]["cover"]["name"]) == ({"unverified": 6}, {}, "ct-3.dcm")
    assert rows[TWINS]["flagged"] == 2


def test_a_study_shows_a_series_from_the_middle_or_the_file_that_is_asked_for(index: Any):
    told = dicom_study.of_index(index, CT, None, None, 1)
    assert told
    assert told["current"]["name"] == "ct-3.dcm"
    assert [file["name"] for file in told["files"]] == [f"ct-{number}.dcm" for number in range(1, 7)]
    told = dicom_study.of_index(index, CT, None, "ct-5/ct-5.dcm", 1)
    assert told
    assert told["current"]["name"] == "ct-5.dcm"
    for nonsense in ("ct-5", "mr-1/mr-1.dcm", "/", "../x"):
        told = dicom_study.of_index(index, CT, None, nonsense, 1)
        assert told
        assert told["current"]["name"] == "ct-3.dcm"
    told = dicom_study.of_index(index, MR, f"{MR}.2", None, 1)
    assert told
    assert [file["name"] for file in told["files"]] == ["mr-2.dcm"]
    assert dicom_study.of_index(index, "1.2.3", None, None, 1) is None
    told = dicom_study.of_index(index, CT, None, None, 99)
    assert told
    assert told["files"] == []
    assert told["current"] is None


def test_a_flag_says_what_is_the_matter(index: Any):
    told = dicom_study.of_index(index, TWINS, None, None, 1)
    assert told
    assert [(flag["name"], flag["others"][0]["name"]) for flag in told["flags"]] == [("twin-a.dcm", "twin-b.dcm")]  # sent once
    assert told["more_flags"] == 0
    told = dicom_study.of_index(index, FOUND, None, None, 1)
    assert told
    assert [flag["announced"] for flag in told["flags"]] == [ANNOUNCED]


def test_a_study_that_waits_tells_why_and_what_mends_it(book: Any):
    told = pipeline_study.of_ledger(book, "gone-1")
    (trouble,) = told["troubles"]
    assert (trouble["code"], trouble["state"]) == ("upload-missing", "quarantined")
    assert "No such file" in trouble["means"]
    assert [command.split()[2] for command in trouble["commands"]] == ["retry", "discard"]
    assert [each["stage"] for each in told["next"]] == ["tell"]
    assert pipeline_study.of_ledger(book, "nobody")["entries"] == []


def test_a_timeline_tells_the_time_between(book: Any, index: Any):
    told = pipeline_study.of_ledger(book, "ct-1")
    assert [each["kind"] for each in told["entries"]] == ["described", "archived"]
    assert told["entries"][1]["after_s"] == told["took_s"] == 0
    assert pipeline_study.of_index(index, "ct-1")["dicom"] == [{"uid": CT, "href": f"/dicom/{CT}"}]


BRACKETS = "[" * 50 + ",".join(["[]"] * 6000) + "]" * 50
"""JSON of 18 kB that has 700 kB when it is indented."""


def test_a_study_with_endless_messages_is_shown_with_its_newest_entries_and_the_state_of_the_index(tmp_path: Path):
    pipeline = Pipeline(tmp_path, Ledgers(tmp_path), grace_s=0)
    pipeline.say("S1", "gone.dcm")
    pipeline.place()
    with pipeline.ledger.write() as tx:
        for _ in range(40):
            payload = described_payload("b.dcm", {"patient_info": {"x": json.loads(BRACKETS)}, "more": "x" * 100_000})
            tx.append(NewEntry(Kind.DESCRIBED, payload, "S1"))
    index = Index(tmp_path / "ledger" / "index.db", pipeline.ledger)
    index.ensure()
    index.close()
    pipeline.ledger.close()
    page = asyncio.run(views.pipeline(replace(asked(tmp_path, serving=True), place={"study_id": "S1"}))).context
    assert page["is_cut"]
    assert len(page["entries"]) <= pipeline_study.MOST_READ // 100_000
    assert [each["position"] for each in page["entries"]][-1] == 42
    assert len(page["entries"]) + page["left_out"] == 42
    assert page["state"] == "quarantined", "the entry that says so was not read"


def test_payloads_on_the_page_of_a_study_have_a_limit_together(tmp_path: Path):
    store = Ledgers(tmp_path).open(tmp_path / "ledger")
    with store.write() as tx:
        for _ in range(40):
            tx.append(NewEntry(Kind.DESCRIBED, described_payload("a.dcm", {"a": json.loads(BRACKETS)}), "S1"))
    store.close()
    with closing(sqlite.connect(f"file:{tmp_path / 'ledger' / 'ledger.db'}?mode=ro", uri=True)) as connection:
        told = pipeline_study.of_ledger(connection, "S1")
    shown = [each["payload"] for each in told["entries"]]
    assert (len(shown), told["is_cut"]) == (40, False)
    assert shown[-1]
    assert sum(len(each or "") for each in shown) < 1_300_000


def test_only_what_quarantined_a_file_is_explained_beside_it_in_the_timeline(tmp_path: Path):
    pipeline = Pipeline(tmp_path, Ledgers(tmp_path), grace_s=0)
    pipeline.say("S1", "gone.dcm")
    pipeline.place()
    word = {"code": "upload-missing", "upload_path": "gone.dcm", "described": 1, "by": "me", "reason": "the file is there now"}
    with pipeline.ledger.write() as tx:
        for kind in (Kind.RELEASED, Kind.DISCARDED):
            tx.append(NewEntry(kind, word, "S1", 2), work_item=False)
    pipeline.ledger.close()
    connection = sqlite.connect(f"file:{tmp_path / 'ledger' / 'ledger.db'}?mode=ro", uri=True)
    told = pipeline_study.of_ledger(connection, "S1")
    connection.close()
    explained = [(entry["kind"], entry["summary"].partition(":")[0], bool(entry["meaning"].means)) for entry in told["entries"]]
    assert explained[1:] == [
        ("quarantined", "upload-missing, no such file", True),
        ("released", "by me", False),
        ("discarded", "by me", False),
    ]
    assert told["troubles"][0]["means"].startswith("No such file in uploads"), "what was given up is explained above"


def test_a_table_does_not_read_a_long_payload_to_summarise_it():
    for length, summary in ((100, "a.dcm (pubsub)"), (ledger_entries.SUMMARISED_CHARACTERS, "")):
        entry = made_entry(1, "described", described_payload("a.dcm", {"study_info": {"study_description": "x" * length}}))
        assert ledger_entries.summary_of_row({**entry._asdict(), "position": "1"}) == summary


def test_a_command_is_safe_to_paste_whatever_the_study_is_called():
    assert pipeline_study.commands("a; rm -rf x", "upload-is-folder")[0].startswith("storage-ledger quarantine discard 'a; rm -rf x' --by")


def test_attention_lists_each_kind_with_its_meaning(index: Any, book: Any):
    told = attention.of_index(index)
    assert [(group["state"], group["code"], group["count"]) for group in told["uploads"]] == [("quarantined", "upload-missing", 1)]
    assert {group["code"]: group["count"] for group in told["flagged"]} == {
        "message-differs": 1,
        "study-uid-differs": 1,
        "sop-conflict": 2,
    }
    assert told["damaged"] == []
    assert [(group["code"], group["count"]) for group in attention.of_ledger(book)["rejected"]] == [("not-json", 1)]


def asked(archive: Path, *, serving: bool) -> PageRequest:
    """Make a request for a page without parameters."""

    async def databases(name: str, question: Any) -> Any:
        connection = sqlite.connect(f"file:{archive / 'ledger' / f'{name}.db'}?mode=ro", uri=True)
        try:
            return question(connection)
        finally:
            connection.close()

    return PageRequest({}, {}, databases, service=ServiceState(serving))


def test_home_counts_what_status_counts(archive: Path):
    """Flags are permanent: an alarm on them would never end."""
    settings = Settings(uploads_path=archive / "uploads", archive_path=archive / "archive", ledger_path=archive / "ledger")
    (archive / "uploads").mkdir(exist_ok=True)
    page = asyncio.run(views.start(asked(archive, serving=True)))
    ledger = SqliteLedger(settings.ledger_file)
    told = current_status(ledger, settings)
    ledger.close()
    codes = {item.code for item in told.attention} - {"mirror-missing", "not-serving"}  # this archive was made without
    assert (page.context["needs"], codes) == (1, {"quarantined"})
    assert page.context["flagged"] == told.flagged == 3
    assert asyncio.run(views.start(asked(archive, serving=False))).context["needs"] == 2


def test_status_counts_the_studies_of_the_index_and_those_beyond_it(tmp_path: Path):
    settings = Settings(uploads_path=tmp_path / "uploads", archive_path=tmp_path / "archive", ledger_path=tmp_path / "ledger")
    store = Ledgers(tmp_path).open(settings.ledger_path)
    index = Index(settings.index_file, store)

    def described(study_id: str) -> int:
        with store.write() as tx:
            tx.append(NewEntry(Kind.DESCRIBED, described_payload(f"{study_id}.dcm"), study_id))
        return current_status(store, settings).studies

    assert [described("A"), described("B")] == [1, 2]
    index.ensure()
    assert [described("A"), described("C")] == [2, 3]
    with closing(sqlite.connect(settings.index_file)) as connection:
        connection.execute("DELETE FROM studies")
        connection.commit()
        assert described("D") == 2, "the index is not asked"
        connection.execute("INSERT INTO damaged VALUES (1, 'payload-hash')")
        connection.commit()
        assert described("E") == 5
    index.close()
    store.close()


def test_a_cause_that_stops_several_steps_is_reported_once(tmp_path: Path):
    store = Ledgers(tmp_path).open(tmp_path / "ledger")
    for step in ("place", "mirror"):
        payload = {"step": step, "code": "archive-missing", "detail": "", "errno": 2, "attempt": 1, "retry_at": None}
        with store.write() as tx:
            tx.append(NewEntry(Kind.FAILED, payload))
    connection = sqlite.connect(f"file:{tmp_path / 'ledger' / 'ledger.db'}?mode=ro", uri=True)
    (outage,) = ledger_entries.outages(connection)
    assert (outage["steps"], outage["position"]) == (["mirror", "place"], 1)
    connection.close()


def test_what_happened_between_two_times_is_found_by_halving(tmp_path: Path):
    pipeline = Pipeline(tmp_path / "run", Ledgers(tmp_path))
    for n in range(45):
        pipeline.clock.move(n % 3)  # now and then nothing: several entries have one time
        pipeline.say(f"S{n}", f"{n}.dcm")
    connection = sqlite.connect(f"file:{pipeline.ledger.path}?mode=ro", uri=True)
    entries = list(connection.execute("SELECT position, recorded_at FROM entries ORDER BY position"))
    assert len(entries) == 45
    times = ["", *dict.fromkeys(at for _, at in entries), "9"]
    sql = QUERIES["ledger"]["what_happened_between"]["sql"]
    for since in times:
        for until in (times[len(times) // 2], times[-2], ""):
            rows = connection.execute(sql, {"since": since.replace("T", " "), "until": until}).fetchall()
            wanted = [position for position, at in entries if since <= at and (not until or at < until)]
            assert [row[0] for row in rows] == wanted
    plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", {"since": "", "until": ""}))
    assert "SCAN entries" not in plan, "a long ledger would be read whole"
    connection.close()


def test_outages_are_listed_with_start_and_end(tmp_path: Path):
    store = Ledgers(tmp_path).open(tmp_path / "ledger")
    for code, ends in (("archive-full", True), ("status-service-away", False)):
        with store.write() as tx:
            payload = {"step": "place", "code": code, "detail": "", "errno": 2, "attempt": 1, "retry_at": None}
            begun = tx.append(NewEntry(Kind.FAILED, payload)).position
            if ends:
                tx.append(NewEntry(Kind.RECOVERED, {"step": "place", "code": code}, cause=begun))
    connection = sqlite.connect(f"file:{tmp_path / 'ledger' / 'ledger.db'}?mode=ro", uri=True)
    rows = connection.execute(QUERIES["ledger"]["outages"]["sql"]).fetchall()
    assert [(row[2], row[1] is None, row[4], row[5]) for row in rows] == [
        ("status-service-away", True, 3, None),
        ("archive-full", False, 1, 2),
    ]
    connection.close()


def test_a_clock_that_was_ahead_is_on_the_pages_until_it_is_acknowledged(tmp_path: Path):
    clock = Clock(datetime.now(UTC) + timedelta(days=900))
    store = Ledgers(tmp_path).open(tmp_path / "ledger", clock)
    with store.write() as tx:
        tx.append(NewEntry(Kind.DESCRIBED, described_payload("a.dcm"), "S1"))
    connection = sqlite.connect(f"file:{store.path}?mode=ro", uri=True)
    assert (attention.of_ledger(connection)["ahead"].ledger_time, home.of_ledger(connection)["ahead"] is None) == (rfc3339(clock()), False)
    assert acknowledge_ahead(store, lambda: datetime.now(UTC), by="Ada", reason="known") is not None
    assert (attention.of_ledger(connection)["ahead"], home.of_ledger(connection)["ahead"]) == (None, None)
    connection.close()


def test_what_waits_for_long_is_on_the_pages_too(tmp_path: Path):
    pipeline = Pipeline(tmp_path / "run", Ledgers(tmp_path))
    pipeline.say("S1", "S1.dcm")
    connection = sqlite.connect(f"file:{pipeline.ledger.path}?mode=ro", uri=True)
    (waiting,) = attention.of_ledger(connection)["waiting"]
    assert (waiting["stage"], waiting["n"], home.of_ledger(connection)["waits_long"]) == ("place", 1, True)
    for step in ("tell", "place"):
        assert pipeline_study.of_ledger(connection, "S1")["outages"] == []  # an outage of another step blocks nothing here
        with pipeline.ledger.write() as tx:
            tx.append(NewEntry(Kind.FAILED, {"step": step, "code": "x", "detail": "", "errno": 2, "attempt": 1, "retry_at": None}))
    assert [each["steps"] for each in pipeline_study.of_ledger(connection, "S1")["outages"]] == [["place", "tell"]]
    pipeline.clock.now = datetime.now(UTC)
    with pipeline.ledger.write() as tx:
        tx.drop(1, Stage.PLACE)
    pipeline.say("S2", "S2.dcm")
    assert (attention.of_ledger(connection)["waiting"], home.of_ledger(connection)["waits_long"]) == ([], False)
    connection.close()


def test_damage_to_any_file_of_a_large_pipeline_study_is_reported(archive: Path, tmp_path: Path):
    shutil.copy(archive / "ledger" / "index.db", tmp_path / "index.db")
    connection = sqlite.connect(tmp_path / "index.db")
    columns = [row[1] for row in connection.execute("PRAGMA table_info(files)")]
    others = ", ".join(f'"{name}"' for name in columns if name not in {"id", "name", "position", "fixity"})
    connection.executemany(
        f"INSERT INTO files (name, position, fixity, {others}) SELECT ?, ?, ?, {others} FROM files WHERE name = 'ct-1.dcm'",
        [(f"{n:03}.dcm", 1000 + n, "missing" if n >= 250 else "intact") for n in range(300)],
    )
    told = pipeline_study.of_index(connection, "ct-1")
    connection.close()
    (group,) = told["damaged"]
    assert (group["fixity"], group["count"], len(group["rows"]), group["rows"][0]["name"]) == ("missing", 50, 20, "250.dcm")
    assert (len(told["files"]), told["more_files"]) == (200, 101)


def test_what_is_damaged_is_shown_wherever_the_study_is(archive: Path, tmp_path: Path):
    shutil.copy(archive / "ledger" / "index.db", tmp_path / "index.db")
    connection = sqlite.connect(tmp_path / "index.db")
    connection.execute("UPDATE files SET fixity = 'changed', verified_at = '2026-01-01T00:00:00.000000Z' WHERE name = 'ct-2.dcm'")
    connection.execute("UPDATE files SET fixity = 'intact', verified_at = '2026-01-01T00:00:00.000000Z' WHERE name = 'ct-1.dcm'")
    assert home.of_index(connection, datetime.now(UTC).date())["damaged"] == 1
    (group,) = attention.of_index(connection)["damaged"]
    assert (group["code"], group["count"], group["rows"][0]["name"]) == ("file-changed", 1, "ct-2.dcm")
    rows = {row["study_instance_uid"]: row for row in study_list.of_index(connection, ListRequest())["rows"]}
    assert rows[CT]["fixity"] == {"changed": 1, "intact": 1, "unverified": 4}
    told = dicom_study.of_index(connection, CT, None, None, 1)
    assert told
    assert [file["name"] for file in told["damaged"]] == ["ct-2.dcm"]
    alone = pipeline_study.of_index(connection, "ct-2")
    assert [(group["fixity"], group["count"], [row["name"] for row in group["rows"]]) for group in alone["damaged"]] == [
        ("changed", 1, ["ct-2.dcm"])
    ]
    assert alone["put_back"] == "storage-ledger repair files --study ct-2 --source FOLDER"
    assert pipeline_study.of_index(connection, "ct-1")["damaged"] == []
    assert attention.of_index(connection)["broken"] == []
    connection.execute("INSERT INTO damaged (position, code) VALUES (7, 'payload-changed')")
    assert attention.of_index(connection)["broken"] == [{"position": 7, "code": "payload-changed"}]
    assert home.of_index(connection, datetime.now(UTC).date())["broken"] == 1
    connection.close()


def verified(*findings: dict[str, Any], by: str = "verify", began: str, complete: bool = True, selection: str = "all") -> NewEntry:
    counts = {"files": 2, "intact": 1, "damaged": 1, "unchecked": 0, "bytes": 7, "findings": len(findings)}
    scope = {"parts": ["files"], "selection": selection, "up_to": 1, "ranges": []}
    payload = {"by": by, "began": began, "scope": scope, "counts": counts, "findings": [*findings], "unchecked": [], "complete": complete}
    return NewEntry(Kind.VERIFIED, {**payload, "software": "0"})


def test_what_verify_found_stays_until_a_whole_run_does_not_find_it(tmp_path: Path):
    stranger = {"code": "untracked-file", "position": None, "study_id": "a", "path": "a/x"}
    gone = {"code": "file-missing", "position": 1, "study_id": "a", "path": "a/a.dcm"}
    bare = {"code": "metadata-missing", "position": 1, "study_id": "a", "path": "a/metadata.json"}
    store = Ledgers(tmp_path).open(tmp_path / "ledger")
    seen = []
    for entry in (
        verified(stranger, began="1", complete=False),
        verified(gone, began="1"),
        verified(began="2", selection="study"),
        verified(bare, by="scrub", began="3", complete=False),
        verified(began="4", complete=False),
        verified(began="5"),
        verified(by="scrub", began="6"),
    ):
        with store.write() as tx:
            tx.append(entry)
        connection = sqlite.connect(f"file:{tmp_path / 'ledger' / 'ledger.db'}?mode=ro", uri=True)
        told = home.of_ledger(connection)
        groups = attention.of_ledger(connection)["found"]
        connection.close()
        assert all(group["means"] and group["action"] for group in groups)
        assert told["found"] == len(groups)
        last = told["verified"]
        seen.append((last.by, last.findings, last.files, {group["code"] for group in groups}))
    assert seen == [
        ("verify", 1, 2, {"untracked-file"}),
        ("verify", 2, 4, {"untracked-file"}),
        ("verify", 0, 2, {"untracked-file"}),
        ("scrub", 1, 2, {"untracked-file", "metadata-missing"}),
        ("verify", 0, 2, {"untracked-file", "metadata-missing"}),
        ("verify", 0, 2, set()),
        ("scrub", 0, 2, set()),
    ]


def test_a_long_series_comes_page_by_page(archive: Path, tmp_path: Path):
    shutil.copy(archive / "ledger" / "index.db", tmp_path / "index.db")
    connection = sqlite.connect(tmp_path / "index.db")
    columns = [row[1] for row in connection.execute("PRAGMA table_info(files)")]
    chosen = {"study_id": "'ct-x'", "name": "n || '.dcm'", "instance_number": "n", "position": "1000 + n"}
    named = ", ".join(chosen.get(column, f'"{column}"') for column in columns)
    connection.execute(
        "WITH RECURSIVE c (n) AS (SELECT 7 UNION ALL SELECT n + 1 FROM c WHERE n < 1200) "
        f"INSERT INTO files SELECT {named} FROM files, c WHERE study_id = 'ct-1'"
    )
    connection.execute("UPDATE series SET files = 1200 WHERE study_instance_uid = ?", (CT,))
    told = dicom_study.of_index(connection, CT, None, None, 2)
    assert told
    assert (told["page"], told["pages"], told["files"][0]["instance_number"], len(told["files"])) == (2, 3, 501, 500)
    told = dicom_study.of_index(connection, CT, None, "ct-x/1100.dcm", 1)
    assert told
    assert (told["page"], told["current"]["instance_number"]) == (3, 1100)
    connection.close()


def test_an_entry_leads_to_its_cause_and_what_it_caused_and_its_hashes_are_looked_at(book: Any):
    position = next(book.execute("SELECT position FROM entries WHERE study_id = 'ct-1' AND kind = 'described'"))[0]
    told = ledger_entries.entry(book, position)
    assert told
    assert (told["faults"], told["cause"], [each["kind"] for each in told["effects"]]) == ([], None, ["archived"])
    assert json.loads(told["payload"])["message"]["study_id"] == "ct-1"
    assert ledger_entries.entry(book, 10_000) is None


def test_outages_and_the_last_verification_are_reported(tmp_path: Path):
    made = Ledgers(tmp_path).open(tmp_path / "ledger")
    failed = {"step": "place", "code": "archive-full", "detail": "", "errno": 28, "attempt": 1, "retry_at": "2026-01-01T12:00:00.000000Z"}
    with made.write() as tx:
        tx.append(NewEntry(Kind.FAILED, {**failed, "step": "tell", "code": "status-service-away"}))
        tx.append(NewEntry(Kind.RECOVERED, {"step": "tell", "code": "status-service-away"}, cause=1))
        tx.append(NewEntry(Kind.FAILED, failed))
    connection = sqlite.connect(tmp_path / "ledger" / "ledger.db")
    (outage,) = ledger_entries.outages(connection)
    assert (outage["code"], outage["position"]) == ("archive-full", 3)
    assert "No space" in outage["means"]
    assert home.of_ledger(connection)["verified"] is None
    for payload in ('{"findings":[]}', "[]", "no JSON"):  # it does not match its hash: it is ignored and breaks no page
        connection.execute(
            "INSERT INTO entries SELECT max(position) + 1, hex(randomblob(16)), NULL, NULL, 'verified', 1, max(recorded_at), NULL, ?, "
            "payload_sha256, salt, leaf_hash FROM entries",
            (payload,),
        )
        assert home.of_ledger(connection)["verified"] is None
    connection.close()
    made.close()


def test_arrivals_are_the_same_when_followed_and_when_rebuilt(tmp_path: Path):
    folder = make_archive(tmp_path) / "ledger"
    book = SqliteLedger(folder / "ledger.db")
    anew = arrivals(folder)
    (folder / "index.db").unlink()
    index = Index(folder / "index.db", book)
    last = index.rebuild()
    assert arrivals(folder) == anew != []
    work_item = {"name": "late.dcm", "original_name": "late.dcm", "bytes": 5, "sha256": "c" * 64}
    with book.write() as tx:
        for study_id, name in (("late-1", "late.dcm"), ("late-1", "late.dcm"), ("late-2", "other.dcm")):
            message = {
                "message": {"study_id": study_id, "file_path": name},
                "source": "pubsub",
                "raw_sha256": "0" * 64,
                "upload_path": name,
            }
            cause = tx.append(NewEntry(Kind.DESCRIBED, message, study_id)).position
            data = {
                "file": {**work_item, "name": name},
                "placement": "copied",
                "metadata_sha256": "b" * 64,
                "dicom": None,
                "upload_path": name,
            }
            tx.append(NewEntry(Kind.ARCHIVED, data | {"software": "0", "host": "h"}, study_id, cause))
    while index.follow():
        pass
    followed = arrivals(folder)
    assert sum(row[2] for row in followed) == sum(row[2] for row in anew) + 2
    assert index.rebuild() > last
    assert arrivals(folder) == followed
    index.close()
    book.close()


def arrivals(folder: Path) -> list[Any]:
    connection = sqlite.connect(folder / "index.db")
    rows = connection.execute("SELECT * FROM arrivals ORDER BY 1, 2").fetchall()
    connection.close()
    return rows


def shown(index: Any, text: str) -> list[tuple[str, str, str | None]]:
    """Return the rows above the DICOM studies: study_id, state and reason."""
    return [(row["study_id"], row["state"], row["code"]) for row in unarchived.of_index(index, terms(text))["rows"]]


def test_a_search_also_finds_what_is_not_archived_with_its_state_and_reason(index: Any):
    for text in ("gone", "GUS gone", "gonegus", "P-7", "p7", "gone-1"):
        assert shown(index, text) == [("gone-1", "quarantined", "upload-missing")], text
    assert [shown(index, text) for text in ("doe", "", "zzz", "gone doe")] == [[], [], [], []]
    assert "No such file" in unarchived.of_index(index, terms("gone"))["rows"][0]["means"]
    assert shown(index, "lost") == shown(index, ANNOUNCED) == [("found-1", "archived", "message-differs")]


def test_every_state_that_no_dicom_study_shows_is_found(tmp_path: Path):
    ledgers = Ledgers(tmp_path)
    ledger_entries = ledgers.open(tmp_path / "made")
    index = Index(tmp_path / "made" / "index.db", ledger_entries)
    index.ensure()
    about = {"patient_info": {"patient_name": "Đorđević^Ana"}, "study_info": {"study_instance_uid": "2.25.77"}}
    code = {"code": "upload-missing", "upload_path": "a.dcm"}
    by = {"by": "x", "reason": "y", "described": 1}
    ways = {
        "b01bc802-pending": [],
        "b01bc802-failed": [(Kind.FAILED, {"step": "place", "code": "archive-io", "upload_path": "a.dcm"})],
        "b01bc802-quarantined": [(Kind.QUARANTINED, code)],
        "b01bc802-released": [(Kind.QUARANTINED, code), (Kind.RELEASED, code | by)],
        "b01bc802-discarded": [(Kind.QUARANTINED, code), (Kind.DISCARDED, code | by)],
        "b01bc802-headless": [(Kind.ARCHIVED, archived("a.dcm") | {"dicom": None, "dicom_error": "header-unreadable"})],
        "b01bc802-archived": [
            (Kind.ARCHIVED, archived("a.dcm", content="x", dicom={"StudyInstanceUID": "2.25.77", "SOPInstanceUID": "9.1"}))
        ],
    }
    with ledger_entries.write() as tx:
        for study_id, entries in ways.items():
            for kind, payload in [(Kind.DESCRIBED, described_payload("a.dcm", about)), *entries]:
                tx.append(NewEntry(kind, payload, study_id), work_item=False)
    while index.follow():
        pass
    expected = {
        ("b01bc802-pending", "pending", None),
        ("b01bc802-failed", "failed", "archive-io"),
        ("b01bc802-quarantined", "quarantined", "upload-missing"),
        ("b01bc802-released", "pending", None),
        ("b01bc802-discarded", "discarded", "upload-missing"),
        ("b01bc802-headless", "archived", "header-unreadable"),
    }  # fmt: skip
    with closing(sqlite.connect(index.path)) as connection:
        for text in ("dordevic", "Djordjević Ana", "2.25.77", "b01bc802", "B01BC802", "ana 2.25.77"):
            assert set(shown(connection, text)) == expected, text
        for text in ("2.25.77", "b01bc802", "B01BC802", "b01bc802-archived"):
            assert found(connection, q=text) == ["2.25.77"], text
        # Only the message has this name.
        assert found(connection, q="dordevic") == []
        told = unarchived.of_index(connection, terms("dordevic"), archived=True)
        assert {(row["study_id"], row["state"], row["code"]) for row in told["rows"]} == expected | {
            ("b01bc802-archived", "archived", None)
        }
        assert shown(connection, "b01bc802-fail") == [("b01bc802-failed", "failed", "archive-io")]
        assert shown(connection, "b01bc80") == shown(connection, "berta b01bc802") == []
    index.close()
    ledger_entries.close()


@pytest.mark.parametrize("uid", ["2.25.329800735698586629295641978511506172918", "1.2.840.0029.1.05.7", "448137", "1.2", "0.0"])
def test_a_uid_of_any_form_and_an_id_that_looks_like_one_are_found(tmp_path: Path, uid: str):
    ledger_entries = Ledgers(tmp_path).open(tmp_path / "made")
    index = Index(tmp_path / "made" / "index.db", ledger_entries)
    index.ensure()
    headers = [
        {"StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.1", "SOPInstanceUID": f"{uid}.1.1"},
        {"StudyInstanceUID": "1.9.1", "PatientID": uid},
        {"StudyInstanceUID": "1.9.2", "AccessionNumber": uid},
        {"StudyInstanceUID": "1.9.3", "SeriesInstanceUID": uid},
        {"StudyInstanceUID": "1.9.4", "SOPInstanceUID": uid},
        {"StudyInstanceUID": "1.9.5", "PatientName": "DOE^JANE"},
    ]
    with ledger_entries.write() as tx:
        for number, dicom in enumerate(headers):
            tx.append(NewEntry(Kind.ARCHIVED, archived(f"{number}.dcm", content=str(number), dicom=dicom), f"S{number}"), work_item=False)
    while index.follow():
        pass
    with closing(sqlite.connect(index.path)) as connection:
        assert set(found(connection, q=uid)) == {uid, "1.9.1", "1.9.2", "1.9.3", "1.9.4"}
        assert found(connection, q=f"{uid}.1") == found(connection, q=f"{uid}.1.1") == [uid]
        assert found(connection, q=f"doe {uid}") == []
    index.close()
    ledger_entries.close()
