"""How the web page formats names, dates, codes and charts."""

# ruff: noqa: RUF001 - letters that look alike are what this is about
from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest

from storage_ledger.web.datasette.routes import routes
from storage_ledger.web.pages import formatting
from storage_ledger.web.pages.chart import REST, stacked
from storage_ledger.web.pages.search_terms import expression
from storage_ledger.web.pages.study_list import ListRequest
from storage_ledger.web.pages.views import ROUTES, duration


@pytest.mark.parametrize(
    ("value", "text", "other"),
    [
        ("DOE^JANE", "Doe, Jane", ""),
        ("Van den Berg^Sanne", "Van den Berg, Sanne", ""),
        ("O'BRIEN^SEAN^PAUL^DR^PHD", "O'Brien, Dr Sean Paul, Phd", ""),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou", "山田 太郎 やまだ たろう"),
        ("=金^民俊", "金 民俊", ""),
        ("MÜLLER-LÜDENSCHEIDT^JÖRG", "Müller-Lüdenscheidt, Jörg", ""),
        ("SMITH", "Smith", ""),
        ("Al-Hassan^^", "Al-Hassan", ""),
        ("a^b^c^d^e^f^g", "a, d b c, e, f, g", ""),
        ("A^B^C^D^E^F", "A, D B C, E, F", ""),
        ("İBRAHİM^IŞIK", "İbrahim, Işık", ""),
        ("IŞIK^SELİN", "Işık, Selin", ""),
        ("YILDIZ^AYŞE", "Yıldız, Ayşe", ""),
        ("I\u0307BRAHI\u0307M^ALI", "İbrahim, Alı", ""),
        ("BINGHAM^IAN", "Bingham, Ian", ""),
        ("MU\u0308LLER^JO\u0308RG", "Müller, Jörg", ""),
        ("ΠΑΠΑΣ^ΝΙΚΟΣ", "Παπας, Νικος", ""),
        ("DŽAJIĆ^LJUBO", "Džajić, Ljubo", ""),
        ("^^^^", "", ""),
        ("", "", ""),
        (None, "", ""),
        ("<b>X</b>^Y", "<b>X</b>, Y", ""),
    ],
)
def test_a_persons_name_is_formatted_as_people_write_it(value: str | None, text: str, other: str):
    assert formatting.person(value) == formatting.Name(text, other)


def test_invalid_dates_and_times_are_unchanged():
    assert [formatting.day(each) for each in ("20260131", "2026-01-31", "20260231", "1990", "", None)] == [
        "31 Jan 2026", "31 Jan 2026", "20260231", "1990", "", "",
    ]  # fmt: skip
    assert [formatting.time(each) for each in ("142903.25", "0905", "2561", "x", None)] == ["14:29", "09:05", "2561", "x", ""]


@pytest.mark.parametrize(
    ("born", "on", "age"),
    [("19700101", "20260101", "56 y"), ("19700102", "20260101", "55 y"), ("20251101", "20260101", "2 mo"), ("20251220", "20260101", "12 d"),
     ("20260102", "20260101", ""), ("", "20260101", ""), ("19700101", None, "")],
)  # fmt: skip
def test_an_age_is_that_on_the_day_of_the_study(born: str, on: str | None, age: str):
    assert formatting.patient_age(born, on) == age


def test_modalities_are_explained_where_they_are_known():
    assert formatting.modalities("CT, XQ\\SR") == [("CT", "Computed tomography"), ("XQ", ""), ("SR", "Structured report")]
    assert formatting.modalities(None) == []


def test_a_chart_has_every_day_and_loses_no_file():
    days = ["2026-01-01", "2026-01-02", "2026-01-03"]
    counts = [("2026-01-01", kind, number) for number, kind in enumerate("ABCDEFGH", 1)] + [
        ("2026-01-03", "A", 7),
        ("2025-12-31", "A", 100),
    ]
    chart = stacked(days, counts)
    assert [(bar.day, bar.count) for bar in chart.bars] == [("2026-01-01", 36), ("2026-01-02", 0), ("2026-01-03", 7)]
    assert chart.top == 50
    assert chart.total == sum(count for _, count in chart.kinds) == 43
    assert [kind for kind, _ in chart.kinds][-1] == REST
    for bar in chart.bars:
        assert sum(part.height for part in bar.parts) == pytest.approx(2 * bar.count, abs=0.01)
        assert all(part.y >= 0 for part in bar.parts)


def test_a_chart_without_data_is_valid():
    assert stacked(["2026-01-01"], []).total == 0


def test_any_address_gives_a_list_that_can_be_shown():
    wanted = ListRequest.of(
        {
            "q": " x" * 500,
            "sort": "'; drop table",
            "way": "up",
            "page": "-1",
            "year": "x",
            "modality": "'",
            "flagged": "yes",
            "condition": "x",
            "from": "x",
            "to": "-",
            "days": "-1",
        }
    )
    assert (wanted.sort, wanted.way, wanted.page, wanted.condition, wanted.first_day, wanted.last_day, wanted.days) == (
        "arrived",
        "desc",
        1,
        "",
        "",
        "",
        0,
    )
    assert len(wanted.text) <= 200
    for page in ("0", "999999999999", "\uff11", "1e3", ""):
        assert 1 <= ListRequest.of({"page": page}).page <= 2000
    assert (
        ListRequest.of({"q": "a b", "modality": "CT", "sort": "name"}).address(page=2)
        == "/dicom?q=a+b&modality=CT&sort=name&way=asc&page=2"
    )
    assert ListRequest().address() == "/dicom"


def test_a_search_has_no_syntax():
    assert expression('doe "9') == '("doe"* AND "9"*) OR ("doe9"*)'
    assert expression("- ( )") == '""'


@pytest.mark.parametrize(("seconds", "text"), [(0.0312, "0.031 s"), (4.21, "4.2 s"), (720, "12 min"), (7201, "2 h"), (400_000, "5 d")])
def test_a_duration_is_shown_in_a_suitable_unit(seconds: float, text: str):
    assert duration(seconds) == text


class Asked:
    """A request with only what a route reads."""

    actor = None
    url_vars: ClassVar[dict[str, str]] = {}
    args: ClassVar[dict[str, str]] = {}

    def __init__(self, method: str) -> None:
        self.method = method


class Closed:
    """A Datasette that refuses every actor."""

    async def ensure_permissions(self, *_: object) -> None:
        raise PermissionError


@pytest.mark.parametrize("number", range(len(ROUTES)))
def test_every_page_is_locked_by_itself_also_behind_the_gate(number: int):
    _, answer = routes()[number]
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert asyncio.run(answer(Asked(method), Closed())).status == 405
    with pytest.raises(PermissionError):
        asyncio.run(answer(Asked("GET"), Closed()))
