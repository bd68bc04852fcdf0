"""Password guessing is slow, tokens and passwords are checked, and the access log contains no patient data."""

from __future__ import annotations

import asyncio
import io
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urljoin, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_ledger.errors import BadSettings
from storage_ledger.system import logs
from storage_ledger.web.auth import credentials
from storage_ledger.web.auth.access_log import AccessLog, record_view
from storage_ledger.web.auth.credentials import BrowseSettings, hash_password, new_token, read_access
from storage_ledger.web.auth.redirects import LONGEST, login_query, safe_target
from storage_ledger.web.auth.throttle import FREE, LONGEST_S, REMEMBERED, Attempts, OneAtATime
from storage_ledger.web.auth.token_scopes import Grant


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def fail(attempts: Attempts, times: int, address: str = "192.0.2.1", user: str = "jane") -> None:
    for _ in range(times):
        attempts.failed(address, user)


def test_a_few_mistyped_passwords_cause_no_delay():
    attempts = Attempts(Clock())
    fail(attempts, FREE - 1)
    assert attempts.wait_s("192.0.2.1", "jane") == 0


def test_delays_grow_to_at_most_a_minute():
    clock = Clock()
    attempts = Attempts(clock)
    pauses = []
    for _ in range(60):
        fail(attempts, 1)
        pauses.append(attempts.wait_s("192.0.2.1", "jane"))
        clock.now += pauses[-1]
        assert attempts.wait_s("192.0.2.1", "jane") == 0  # no user is locked out
    assert pauses[FREE - 1 : FREE + 3] == [1, 2, 4, 8]
    assert max(pauses) == pauses[-1] == LONGEST_S


def test_failures_count_per_address_for_any_user_and_per_user_from_any_address():
    attempts = Attempts(Clock())
    for number in range(FREE + 2):
        attempts.failed("192.0.2.1", f"user{number}")
        attempts.failed(f"198.51.100.{number}", "joe")
    assert attempts.wait_s("192.0.2.1", "somebody") > 0
    assert attempts.wait_s("203.0.113.9", "joe") > 0
    assert attempts.wait_s("203.0.113.9", "jane") == 0


def test_a_user_known_at_an_address_is_not_delayed_by_guesses_from_elsewhere():
    attempts = Attempts(Clock())
    attempts.succeeded("192.0.2.7", "jane")
    fail(attempts, 100, "198.51.100.1")
    assert attempts.wait_s("192.0.2.7", "jane") == 0
    assert attempts.wait_s("192.0.2.8", "jane") > 0
    fail(attempts, FREE, "192.0.2.7")
    assert attempts.wait_s("192.0.2.7", "jane") > 0  # but his own failures still count


def test_a_success_ends_the_pauses_of_that_place_and_time_those_of_all():
    clock = Clock()
    attempts = Attempts(clock)
    fail(attempts, 20)
    clock.now += 1000
    assert attempts.wait_s("192.0.2.1", "jane") == 0
    fail(attempts, 1)
    assert attempts.wait_s("192.0.2.1", "jane") == 0
    fail(attempts, 20)
    attempts.succeeded("192.0.2.1", "jane")
    assert attempts.wait_s("192.0.2.1", "jane") == 0


def test_successful_logins_anywhere_do_not_count_as_failures():
    attempts = Attempts(Clock())
    for number in range(20):
        assert attempts.wait_s(f"192.0.2.{number}", "jane") == 0
        attempts.failed(f"192.0.2.{number}", "jane")
        attempts.succeeded(f"192.0.2.{number}", "jane")
    assert attempts.wait_s("203.0.113.1", "jane") == 0


def test_a_network_of_ipv6_is_one_place():
    attempts = Attempts(Clock())
    for number in range(FREE):
        attempts.failed(f"2001:db8::{number:x}", f"user{number}")
    assert attempts.wait_s("2001:db8::ffff", "other") > 0
    assert attempts.wait_s("2001:db8:0:1::1", "other") == 0


def test_memory_is_bounded_for_any_attempts():
    attempts = Attempts(Clock())
    for number in range(REMEMBERED):
        attempts.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", f"{number}" * 100)
    assert len(attempts._failed) == REMEMBERED


def test_the_queue_of_password_checks_is_limited():
    async def three() -> tuple[bool, bool, list[bool]]:
        line = OneAtATime("test", waiting=3)
        asked = [asyncio.ensure_future(line.ask(lambda: True)) for _ in range(3)]
        await asyncio.sleep(0)
        full = line.full()
        answers = await asyncio.gather(*asked)
        return full, line.full(), answers

    assert asyncio.run(three()) == (True, False, [True] * 3)


def test_a_hash_is_of_its_password_alone(tmp_path: Path):
    access = read_access(BrowseSettings(browse_user="jane", browse_password_hash=hash_password("größe")), tmp_path, is_open=False)
    assert access.password_is("jane", "größe")
    assert not access.password_is("jane", "grösse")
    assert not access.password_is("joe", "größe")


def test_an_older_hash_is_accepted_and_takes_no_less_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    old = "pbkdf2_sha256$480000$5b6bd8a9e0f1$%s" % credentials._hashed("correct horse", 480_000, "5b6bd8a9e0f1").rpartition("$")[2]  # noqa: UP031
    settings = BrowseSettings(browse_password_hash=f"old:{old} new:{hash_password('battery staple')}")
    access = read_access(settings, tmp_path, is_open=False)
    assert access.password_is("old", "correct horse")
    assert not access.password_is("old", "battery staple")
    assert access.password_is("new", "battery staple")
    rounds: list[int] = []
    monkeypatch.setattr(credentials, "_hashed", lambda _password, count, _salt: rounds.append(count) or "x$1$x$x")
    for user in ("old", "new", "nobody"):
        access.password_is(user, "x")
        assert sum(rounds) == 600_000
        rounds.clear()


def test_a_token_is_known_by_its_hash_and_is_no_user(tmp_path: Path):
    token, hashed = new_token()
    access = read_access(BrowseSettings(browse_tokens=f"export:{hashed}"), tmp_path, is_open=False)
    assert access.token(token) == "token:export"
    assert access.token(hashed) is None
    assert access.token("") is None
    assert access.allow == {"id": ["token:export"]}
    assert token not in repr(access)


@pytest.mark.parametrize(
    ("given", "who"),
    [(None, set()), ("-", set()), ("jane", {"jane"}), ("jane -", {"jane"}), ("*", {"jane", "joe", None})],
)
def test_only_named_users_may_run_sql(tmp_path: Path, given: str | None, who: set[str | None]):
    hashes = " ".join(f"{user}:{hash_password('x')}" for user in ("jane", "joe"))
    access = read_access(BrowseSettings(browse_password_hash=hashes, browse_sql_users=given), tmp_path, is_open=False)
    assert {user for user in ("jane", "joe", None) if access.may_sql(user)} == who


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"browse_tokens": "export"}, "BROWSE_TOKENS: not a line from `storage-ledger browse --new-token`"),
        ({"browse_tokens": f"a:everything:{'0' * 64}"}, "BROWSE_TOKENS: a: unknown grant; a token may be granted index, ledger,"),
        ({"browse_tokens": f"a:index/x:{'0' * 64}"}, "unknown table; index has studies,"),
        ({"browse_tokens": f"a:sql,files:{'0' * 64}"}, "sql needs all of index or ledger"),
        ({"browse_password_hash": hash_password("x"), "browse_sql_users": "admin joe"}, "BROWSE_SQL_USERS: no password is set for joe"),
        ({"browse_tokens": f"a:{'0' * 64} a:{'1' * 64}"}, "twice"),
        ({"browse_tokens": "x", "browse_tokens_file": "/dev/null"}, "set only one of them"),
        ({"browse_tokens_file": "/nowhere"}, "BROWSE_TOKENS_FILE: /nowhere cannot be read"),
        ({"browse_trusted_proxies": "proxy"}, "BROWSE_TRUSTED_PROXIES"),
        ({"browse_hosts": "https://archive.example"}, "BROWSE_HOSTS: not a list of host names"),
    ],
)
def test_wrong_tokens_are_named_and_not_repeated(tmp_path: Path, settings: dict[str, Any], named: str):
    with pytest.raises(BadSettings) as caught:
        read_access(BrowseSettings(**settings), tmp_path, is_open=False)
    assert named in str(caught.value)


def test_a_token_without_a_grant_allows_tables_only(tmp_path: Path):
    access = read_access(BrowseSettings(browse_tokens=f"export:{'0' * 64} board:index/arrivals,files:{'1' * 64}"), tmp_path, is_open=False)
    assert str(access.grant("token:export")) == "index,ledger"
    assert str(access.grant("token:board")) == "files,index/arrivals"
    assert access.grant("export") is None
    assert access.grant(None) is None


def test_sql_alone_is_granted_by_name_and_only_of_whole_databases():
    grant = Grant.of("index,ledger/pending,sql")
    asked = [
        ("execute-sql", "index"),
        ("execute-sql", "ledger"),
        ("view-table", ("ledger", "pending")),
        ("view-table", ("ledger", "entries")),
        ("view-query", ("ledger", "waiting_longest")),
        ("view-instance", None),
        ("debug-menu", None),
    ]
    assert [grant.action(*each) for each in asked] == [True, False, True, False, False, False, False]


PAGES = ("/dicom", "/dicom?q=doe+jane&sort=name", "/dicom/1.2.3?file=ct-1%2Fct-1.dcm", "/index/files/ct-1,ct-1~2Edcm", "/studies/100%25",
         "/dicom?q=%E5%B1%B1%E7%94%B0", "/index.json?sql=select+1", "/dicom?q=http://x//y/../")  # fmt: skip
ELSEWHERE = (
    "", None, "//evil.example", "///evil.example", "https://evil.example/", "javascript:alert(1)", "evil.example",
    "/\\evil.example", "\\\\evil.example", "/\tevil", "/\t/evil.example", "/%09/evil.example", "/%2F/evil.example",
    "/%2f%2fevil.example", "/%5Cevil.example", "/%255Cevil.example", "/%25255Cevil.example",
    "/%2525252525255Cevil.example", "/.//evil.example", "/x/..//evil.example", "/x/%2e%2e/%2e/",
    "/dicom?q=a%0d%0aSet-Cookie:%20x", "/dicom\r\nX: y", "/dicom\x7f", "/ /evil.example", "/\u2028/evil.example",
    "/山田", " /dicom", "/-/login", "/-/login?next=/dicom", "/%2D/logout", "/-/logout", "/-/versions.json", "/-",
    "?q=x", "/" + "x" * LONGEST,
)  # fmt: skip


@pytest.mark.parametrize("address", PAGES)
def test_a_login_redirects_back_to_the_requested_page(address: str):
    assert safe_target(address) == address
    path, _, query = address.partition("?")
    assert parse_qs(login_query(path, query).removeprefix("?")) == {"next": [address]}


@pytest.mark.parametrize("address", ELSEWHERE)
def test_an_address_outside_the_site_redirects_to_the_start_page(address: str | None):
    assert safe_target(address) == "/"
    assert login_query(*(address or "/").partition("?")[::2]) == ""


@given(st.text(alphabet="/\\%25CcFf09.~-:@?#&=a \t\r\né", max_size=24))
@settings(max_examples=500)
def test_any_redirect_target_stays_on_this_site_however_often_it_is_decoded(text: str):
    address = safe_target(text)
    for _ in range(6):
        as_a_browser = re.sub(r"[\t\r\n]", "", address).replace("\\", "/")
        assert re.match(r"/(?!/)", as_a_browser)
        assert urlsplit(urljoin("https://ours.example/-/login", as_a_browser)).netloc == "ours.example"
        assert not as_a_browser.startswith("/-/")
        address = unquote(address)


class FakeShelf:
    async def knows(self, study_id: str) -> bool:
        return study_id == "s1"

    async def first_position(self, uid: str) -> int | None:
        return 7 if uid == "1.2.3" else None


def told(*looks: tuple[str, str, dict[str, Any]], clock: Clock | None = None) -> list[str]:
    """Return the log lines for requests: path, query string, what the route recorded."""
    stream = io.StringIO()
    logs.configure("INFO", stream=stream)
    log = AccessLog(FakeShelf(), clock or Clock())  # type: ignore[arg-type]
    for path, query, said in looks:
        scope: Any = {"query_string": query.encode()}
        log.begin(scope, "jane")
        if said:
            record_view(scope, **said)
        asyncio.run(log.end(scope, path, "jane", 200))
    return [line.partition("event=browse.looked ")[2] or line for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("path", "query", "fields"),
    [
        ("/studies/s1", "", "route=studies http_status=200 study_id=s1"),
        ("/index/studies/s1.json", "", "route=index/studies http_status=200 study_id=s1"),
        ("/index/files/s1,x~2Edcm", "", "route=index/files http_status=200 study_id=s1"),
        ("/index/files.csv", "study_id=s1", "route=index/files http_status=200 study_id=s1"),
        ("/dicom/1.2.3", "", "route=dicom http_status=200 position=7"),
        ("/index/dicom_studies/1~2E2~2E3", "", "route=index/dicom_studies http_status=200 position=7"),
        ("/index/series", "study_instance_uid=1.2.3", "route=index/series http_status=200 position=7"),
        ("/index/studies", "_search=DOE", "route=index/studies http_status=200"),
        ("/index/studies", "study_id=DOE", "route=index/studies http_status=200"),
        ("/studies/DOE", "", "route=studies http_status=200"),
        ("/ledger", "sql=select+DOE", "route=ledger http_status=200"),
        ("/ledger/entries/12", "", "route=ledger/entries http_status=200 position=12"),
        ("/ledger/entries/12.blob", "_blob_column=payload", "route=ledger/entries http_status=200 position=12"),
        ("/index/studies/s1.blob", "_blob_column=study_id", "route=index/studies http_status=200 study_id=s1"),
        ("/index/files/s1,x~2Edcm.csv", "", "route=index/files http_status=200 study_id=s1"),
        ("/index/dicom_studies/1~2E2~2E3.blob", "", "route=index/dicom_studies http_status=200 position=7"),
        ("/", "", "route=home http_status=200"),
    ],
)
def test_a_view_is_logged_without_identifying_the_patient(path: str, query: str, fields: str):
    (line,) = told((path, query, {}))
    assert fields in line
    assert "actor=jane" in line
    assert "DOE" not in line
    assert "1.2.3" not in line


def test_images_are_logged_once_a_minute_for_each_study():
    clock = Clock()
    picture = ("/image/s1/x.dcm", "size=128", {"study_id": "s1"})
    about = ("/image/s1/x.dcm/about", "", {"study_id": "s1"})
    assert len(told(picture, picture, about, picture, clock=clock)) == 1
    assert len(told(picture, ("/image/s2/x.dcm", "", {"study_id": "s2"}), clock=clock)) == 2
    assert told(("/-/static/app.css", "", {}), ("/-/login", "", {})) == []
