"""What is typed finds what is stored: in SQLite's full-text search, by the words of a row and the expression for what was typed."""

# ruff: noqa: E501, RUF001 - tables; and letters that look alike are what this is about

from __future__ import annotations

import unicodedata
from contextlib import closing

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from storage_ledger.domain.search_text import Described, compact, search_text
from storage_ledger.domain.text_folding import fold, spelled
from storage_ledger.index.schema import COLUMNS, SEARCH, SEARCHED
from storage_ledger.system.sqlite import sqlite
from storage_ledger.web.pages.search_terms import LONGEST, expression, period, terms

NOBODY = Described(None, None, None, None, None, None)


class Searched:
    """The full-text search of an index over one row."""

    def __init__(self, row: Described, *more: Described) -> None:
        self._connection = sqlite.connect(":memory:")
        self._connection.execute(f"CREATE TABLE studies ({', '.join(COLUMNS['studies'])})")
        self._connection.execute(SEARCH["studies"])
        values = [{value for each in (row, *more) if (value := each[at])} for at in range(len(row))]
        words = search_text(row, [sorted(each) for each in values] if more else ())
        self._connection.execute(
            f"INSERT INTO studies_fts (rowid, {', '.join(SEARCHED)}) VALUES (1, ?, ?, ?, ?, ?)", (*row[: len(SEARCHED) - 1], words)
        )

    def finds(self, typed: str) -> bool:
        sql = "SELECT rowid FROM studies_fts WHERE studies_fts MATCH ?"
        return self._connection.execute(sql, (expression(typed),)).fetchone() is not None

    def close(self) -> None:
        self._connection.close()


def finds(row: Described, typed: str) -> bool:
    with closing(Searched(row)) as searched:
        return searched.finds(typed)


NAMES = {
    "DOE^JANE": 'doe|Jane|JANE DOE|doe jane|jan d|doejane|JaneDoe|Doe, Jane|Jane,Doe|DOE^JANE|jane^doe|ＤＯＥ|doe;jane|\u201cdoe\u201d|"Jane Doe"',
    "Γεώργιος^Παπαδόπουλος": "ΓΕΩΡΓΙΟΣ|Γεωργιος|παπαδοπουλος|ΠΑΠΑΔΌΠΟΥΛΟΣ|γεώργιοσ",
    "ΠΑΠΑΣ^ΝΙΚΟΣ": "Πάπας|Νίκος|πάπασ|νικοσ παπασ",
    "WEISS^PETER": "Weiß|weiss|WEIẞ",
    "Weiß^Peter": "WEISS|weiss|Weiß|peterweiss",
    "Strauß^Johann": "STRAUSS|straus",
    "Sørensen^Søren": "Sorensen|SØRENSEN|soerensen|sren|Søren" .replace("sren|", ""),
    "Kjær^Åse": "Kjaer|kjær|aase|Ase|ÅSE",
    "Đorđević^Željko": "Dordevic|djordjevic|zeljko|ĐORĐEVIĆ",
    "Þórsson^Guðmundur": "Thorsson|Gudmundur|þórsson",
    "Œuvrard^Zoë": "Oeuvrard|zoe|ŒUVRARD",
    "Ёлкин^Пётр": "елкин|Петр|ЁЛКИН|Елкин Пётр|пётрёлкин",
    "Достоевский^Фёдор": "достоевскии|Федор|ДОСТОЕВСКИЙ",
    "IŞIK^İBRAHİM": "ışık|isik|Işık|ibrahim|İbrahim|IBRAHIM",
    "ışık^selin": "IŞIK|ISIK",
    "Łukasiewicz^Michał": "lukasiewicz|michal|ŁUKASIEWICZ",
    "Ħal^Ŋuna": "hal|nuna|nguna",
    "Əliyev^İlham": "aliyev|eliyev|ƏLİYEV|ilham",
    "Қасымов^Ғани": "касымов|гани",
    "Müller^Jörg": "MUELLER|muller|mülle|Joerg|jorg|MÜLLER JÖRG|Joerg Mueller|Mu\u0308ller|ＭÜＬＬＥＲ",
    "Mu\u0308ller^Jo\u0308rg": "Müller|mueller|Jörg",
    "MUELLER^JOERG": "Müller|mueller|Jörg",
    "O'BRIEN^SEAN": "obrien|O\u2019Brien|o'brien|O`Brien|o brien|OʻBrien",
    "O\u2019Brien^Seán": "O'Brien|obrien|sean",
    "Al-Hassan^Ali": "alhassan|al-hassan|al hassan|hassan|Al\u2010Hassan|Al\u2013Hassan",
    "ALHASSAN^ALI": "Al-Hassan|al hassan",
    "Van den Berg^Sanne": "vandenberg|van den berg|berg sanne|sannevandenberg",
    "VANDENBERG^SANNE": "Van den Berg|vandenberg",
    "Müller-Lüdenscheidt^Jörg": "mueller-luedenscheidt|ludenscheidt|Lüdenscheidt Müller|mullerludenscheidt",
    "Jane Doe": "janedoe|doejane|doe jane|Doe, Jane",
    "Yamada^Tarou=山田^太郎=やまだ^たろう": "山田太郎|山田 太郎|山田|太郎|太郎山田|山|郎|田太郎|やまだたろう|ヤマダ|ﾔﾏﾀﾞ|たろう|yamadatarou|TAROU|山田　太郎|山田＾太郎"
    "|Yamada^Tarou=山田^太郎=やまだ^たろう|山田・太郎|たろう やまだ",
    "ﾔﾏﾀﾞ^ﾀﾛｳ": "ヤマダ|やまだ|ﾔﾏﾀﾞ|ヤマダタロウ|ヤマダ タロウ",
    "=金^民俊=김^민준": "金民俊|민준|김민준|民|김 민준|金 民俊|ᄀ\u1175ᆷ",
    "王小明": "小明|王 小明|王|明|王小明",
    "𠮷田^茂": "𠮷田|茂|𠮷田茂|田茂",
    "สมชาย^ใจดี": "ชาย|สมชาย",
    "مُحَمَّد^أحمد": "محمد|احمد|أحمد",
    "Nguyễn^Đức": "nguyen|duc|NGUYỄN ĐỨC|Nguye\u0302\u0303n",
    "שָׁלוֹם^כהן": "שלום|כהן",
    "Ǆajić^Ǉubo": "dzajic|ljubo",
    "Ĳsselmuiden^ﬁona": "ijssel|fiona",
}  # fmt: skip
"""A stored name → what is typed, each with | between."""


@pytest.mark.parametrize(("stored", "typed"), [(stored, typed) for stored, several in NAMES.items() for typed in several.split("|")])
def test_a_name_is_found_as_people_type_it(stored: str, typed: str):
    assert finds(NOBODY._replace(patient_name=stored), typed)


@pytest.mark.parametrize(
    ("stored", "typed"),
    [("DOE^JANE", "doe müller"), ("DOE^JANE", "oe"), ("DOE^JANE", "d o e x"), ("DOE^JANE", "2026"), ("DOE^JANE", "janes"), ("Weiß^P", "weis b"),
     ("山田^太郎", "田山"), ("Müller^J", "moller"), ("DOE^JANE", '"'), ("DOE^JANE", ""), ("DOE^JANE", "😀"), ("DOE^JANE", "NOT doe")],
)  # fmt: skip
def test_a_name_is_not_found_by_what_it_is_not(stored: str, typed: str):
    assert not finds(NOBODY._replace(patient_name=stored, study_date="19990101"), typed)


@pytest.mark.parametrize(
    ("stored", "typed"),
    [("010190-1234", "0101901234"), ("0101901234", "010190-1234"), ("A2026-17", "a2026"), ("A2026-17", "A202617"), ("1.2.3.4.5.6", "1.2.3.4.5.6"),
     ("20260603", "20260603"), ("2026-06", "2026-06"), ("202606031", "20260603"), ("３４５", "345"), ("٣٤٥", "345"), ("0029", "0029"),
     ("1.1.2026-3", "1.1.2026-3"), ("P_1", "p_1"), ("20260101-20260131", "20260101-20260131"), ("Ä-12", "ae12"),
     ("943 476 5919", "9434765919"), ("9434765919", "943 476 5919"), ("AB 12 34 56 C", "ab123456c"), ("ACC 2026/06", "ACC202606")],
)  # fmt: skip
def test_a_number_is_found_with_and_without_its_punctuation_also_where_it_looks_like_a_date(stored: str, typed: str):
    assert finds(NOBODY._replace(patient_id=stored), typed)
    assert finds(NOBODY._replace(accession_number=stored), typed)


@pytest.mark.parametrize(
    ("stored", "typed"),
    [("Schädel nativ", "schadel"), ("Schädel nativ", "SCHAEDEL"), ("X-ray chest", "xray"), ("Fuß rechts", "fuss"), ("胸部CT検査", "検査"),
     ("CT胸部", "胸部"), ("CT胸部", "ct胸"), ("T-Spine a.p./lat.", "tspine"), ("THORAX", "Thorax")],
)  # fmt: skip
def test_a_description_is_found_as_people_type_it(stored: str, typed: str):
    assert finds(NOBODY._replace(study_description=stored), typed)


DAY = "20260603|2026-06-03|2026-6-3|2026/06/03|2026.06.03|3.6.2026|03.06.2026|03/06/2026|3-6-2026|3 Jun 2026|3. Juni 2026|3 June 2026|3rd June 2026"
DAY += "|June 3, 2026|Jun 3 2026|jun 3rd, 2026|3-Jun-2026|2026年6月3日|２０２６－０６－０３|2026 Jun 3|2026-06-03,"
PERIODS = "2026-06|2026/6|06/2026|6.2026|202606|June 2026|jun 2026|Juni 2026|2026 June|2026年6月|2026|2026-06-01..2026-06-30|2026-06-01 - 2026-06-30"
PERIODS += "|1.6.2026-30.6.2026|1.6.2026 – 30.6.2026|20260601-20260630|2026-06-01/2026-06-30|2026-06..2026-07|2025-2026|2026-06..|..2026-06|2026..|2026-06-03.."
PERIODS += "|..2026-06-03|from 1 Jun 2026 to 30 Jun 2026|2026-06-30..2026-06-01|since June 2026|until June 2026|2020 - 2030|2026-06-01 to 2026-06-30|seit 2026"
OTHERS = "20260604|2026-07|2025|4.6.2026|6.3.2026|2026-06-04..2026-06-30|2026-05-01..2026-06-02|2026-06-04..|..2026-06-02|May 2026|2027-2030|31.6.2026|2026-13|since July 2026"


@pytest.mark.parametrize("stored", ["20260603", "2026.06.03", "2026-06-03"])
def test_a_study_date_is_found_in_every_form_by_its_month_its_year_and_a_period(stored: str):
    with closing(Searched(NOBODY._replace(patient_name="DOE^JANE", study_date=stored))) as searched:
        assert [typed for typed in f"{DAY}|{PERIODS}".split("|") if not searched.finds(typed)] == []
        assert [typed for typed in f"{DAY}|{PERIODS}".split("|") if not searched.finds(f"doe {typed} jane")] == []
        assert [typed for typed in OTHERS.split("|") if searched.finds(typed)] == []


def test_a_birth_date_is_found_as_a_whole_and_by_no_period():
    with closing(Searched(NOBODY._replace(patient_birth_date="20260603"))) as searched:
        assert [typed for typed in DAY.split("|") if not searched.finds(typed)] == []
        assert [typed for typed in PERIODS.split("|") if searched.finds(typed)] == []


def test_of_several_files_every_value_is_found():
    first = Described("NOTFALL^EINS", "TEMP0001", "TMPACC", "CT", "20260101", None)
    second = Described("Lehmann^Anna", "47-11", "A2026-17", "MR Schädel", "19970609", "19440506")
    with closing(Searched(first, second)) as searched:
        for typed in (
            "notfall",
            "LEHMANN anna",
            "4711",
            "47-11",
            "A2026-17",
            "schaedel",
            "9.6.1997",
            "6 May 1944",
            "1 Jan 2026",
            "annalehmann",
        ):
            assert searched.finds(typed), typed


@given(st.text() | st.text("äÄßİIıŞσςΣЁйﾞｶガがㅏ가각ǅⅧ①\u0301\u0308\u3099\u200fẞŉﷺ"))
def test_folding_twice_changes_nothing(text: str):
    assert fold(fold(text)) == fold(text)
    assert spelled(spelled(text)) == spelled(text)


letters = st.characters(codec="utf-8", categories=("Lu", "Ll", "Lo"), max_codepoint=0x9FFF)
words = st.text(letters, min_size=1, max_size=8)


@given(st.lists(words, min_size=1, max_size=4), st.integers(0, 3))
def test_a_name_is_found_by_each_of_its_words_in_any_case(parts: list[str], number: int):
    word = parts[number % len(parts)]
    assume(compact(fold(word)))  # a letter that says nothing by itself, such as the Arabic tatweel, is none
    with closing(Searched(NOBODY._replace(patient_name="^".join(parts)))) as searched:
        for typed in (word, word.lower(), word.upper(), word.swapcase(), unicodedata.normalize("NFD", word)):
            assert searched.finds(typed)


@given(st.text() | st.text("0123456789.-/ ^=,\"'()*:+~–年月日 toANDNEARunilsce"))
def test_any_typed_text_gives_a_valid_fts_expression(typed: str):
    finds(NOBODY._replace(patient_name="DOE^JANE", study_date="20260603"), typed)


def test_a_very_long_text_is_cut():
    assert len("".join(term.text for term in terms("1.1.2026-2.2.2026 x " * 5000))) <= LONGEST
    finds(NOBODY, "a^" * 5000)


def test_text_without_a_date_is_not_a_period():
    assert [
        text
        for text in (
            "2026-02-31",
            "20261301",
            "31/02/2026",
            "13/13/2026",
            "2026-00",
            "3 Foo 2026",
            "june",
            "12",
            "3.6.",
            "..",
            "-",
            "to",
            "since",
        )
        if period(text)
    ] == []
