"""The web pages' protection in the real process: tokens, slow guessing, and a policy under which Datasette's pages still work."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from storage_ledger.web.auth.credentials import hash_password
from tests.integration.test_browse import Browse, make_ledger
from tests.support.waiting import until

PASSWORD = "correct horse"  # noqa: S105 - of these tests only


def machine(name: str, may: str) -> str:
    """Return a line for BROWSE_TOKENS; the token is its name."""
    return f"{name}:{may}{hashlib.sha256(name.encode()).hexdigest()}"


LIMITED = (machine("usual", ""), machine("board", "index/arrivals:"), machine("viewer", "index/files,files:"))


@pytest.fixture(scope="module")
def token() -> tuple[str, str]:
    """Return the token and the line for BROWSE_TOKENS that the command prints."""
    command = [sys.executable, "-m", "storage_ledger", "browse", "--new-token", "export", "--may", "index,ledger,files,sql"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stderr.split()[-1], done.stdout.strip()


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory, token: tuple[str, str]) -> Iterator[Browse]:
    folder = tmp_path_factory.mktemp("guard")
    hashed = hash_password(PASSWORD)
    environment = {"BROWSE_PASSWORD_HASH": f"jane:{hashed} sql:{hashed}", "BROWSE_TOKENS": " ".join([token[1], *LIMITED]),
                   "BROWSE_SQL_USERS": "sql", "BROWSE_NOTICE": "Not for <b>diagnosis</b>.", "ARCHIVE_PATH": "/nowhere/archive",
                   "BROWSE_TITLE": "City <i>Hospital</i>", "BROWSE_CONTACT": "The <b>PACS</b> team"}  # fmt: skip
    browse = Browse(make_ledger(folder), folder / "log", BROWSE_TRUSTED_PROXIES="127.0.0.1", **environment).ready()
    yield browse
    browse.process.kill()
    browse.process.wait(20)


@pytest.fixture
def stranger(browse: Browse) -> Browse:
    browse.cookies = {}
    return browse


PATHS = [
    "/image/s1/s1.dcm", "/image/s1/s1.dcm/about", "/header/s1/s1.dcm", "/metadata/s1", "/file/s1/s1.dcm", "/zip/1.2.3.1", "/zip-study/s1",
    "/proof/1.2.3.1", "/proof-study/s1", "/studies/s1/report", "/dicom/1.2.3.1/report", "/proof/1.2%5C1.3",
    "/file/s1/%5c", "/dicom/1.2%5C1.3", "/zip/1.2%5C1.3", "/image/", "/studies/s1", "/dicom/1.2.3.1", "/attention", "/-/ledger/viewer.js",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_the_archive_is_not_served_without_a_login(stranger: Browse, path: str):
    answer = stranger.ask(path)
    assert answer.status == 403
    assert answer.header("cache-control") == "no-store"
    assert (stranger.page(path).header("location") or "").startswith("/-/login")
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        assert stranger.ask(path, method, "x=y").status == 405


def test_checkpoint_needs_no_login(stranger: Browse):
    answer = stranger.ask("/checkpoint")
    assert (answer.status, answer.body) == (503, "The archive is not available\n")
    assert answer.header("cache-control") == "no-store"
    assert stranger.page("/checkpoint").status == 503, "no redirect to the login"
    assert stranger.ask("/checkpoint", "POST", "x=y").status == 405


def test_only_a_valid_token_admits_a_program(stranger: Browse, token: tuple[str, str]):
    answer = stranger.ask("/index/studies.json?_shape=array", Authorization=f"Bearer {token[0]}")
    assert (answer.status, len(answer.json())) == (200, 4)
    assert stranger.ask("/file/s1/s1.dcm", Authorization=f"bearer {token[0]}").status == 503  # it may ask; there is no archive here
    for wrong in (token[0][:-1], token[1].rpartition(":")[2], "", "Bearer", "\xff"):
        assert stranger.ask("/index/studies.json", Authorization=f"Bearer {wrong}").status == 403
    assert stranger.ask("/index/studies.json", Authorization=f"Basic {token[0]}").status == 403
    assert "actor=token:export" in stranger.said()
    assert token[0] not in stranger.said()


ADDRESSES = {
    "counts": ("/index/arrivals.json", "/index/arrivals.csv?_stream=on", "/index/arrivals"),
    "files table": ("/index/files.json", "/index/files/s1,s1~2Edcm.json"),
    "patients": ("/index/studies.json", "/index/dicom_studies.csv?_search=doe", "/index.json", "/index/failed_by_code.json"),
    "entries": ("/ledger/entries.json", "/ledger.json", "/ledger/what_happened.json?study_id=s1"),
    "pages": ("/", "/dicom", "/dicom/1.2.3.1", "/studies/s1", "/studies/s1/report", "/attention", "/ledger/entries/1"),
    "files": (
        "/file/s1/s1.dcm",
        "/image/s1/s1.dcm",
        "/header/s1/s1.dcm",
        "/metadata/s1",
        "/zip/1.2.3.1",
        "/zip-study/s1",
        "/proof/1.2.3.1",
        "/proof-study/s1",
        "/image/s1/s1.dcm/about",
    ),
    "sql": ("/index.json?sql=select+1", "/index.csv?sql=select+1", "/ledger?sql=select+1", "/index/arrivals.json?_where=1%3D1"),
    "inside": ("/.json", "/-/databases.json", "/-/metadata.json", "/-/threads.json", "/_internal.json", "/index.db", "/index/STUDIES.json"),
}
MAY = {
    "usual": {"counts", "files table", "patients", "entries", "pages"},
    "board": {"counts"},
    "viewer": {"files table", "files"},
}


@pytest.mark.parametrize("who", MAY)
def test_a_machine_sees_what_its_token_is_for_and_nothing_else(stranger: Browse, who: str):
    for kind, addresses in ADDRESSES.items():
        for address in addresses:
            answer = stranger.ask(address, Authorization=f"Bearer {who}", Accept="text/html")
            if kind in MAY[who]:
                assert answer.status in {200, 503}, address  # 503: there is no archive here
            else:
                assert answer.status in {403, 404}, address
                assert answer.status == 404 or "_where" in address or "This token does not allow that. It allows: " in answer.body, address
                assert not [word for word in ("DOE", "THORAX") if word in answer.body]


@pytest.mark.parametrize(
    "path",
    [
        "/%66ile/s1/s1.dcm",
        "/fil%65/s1/s1.dcm",
        "/im~61ge/s1/s1.dcm",
        "/~69ndex/studies.json",
        "/index/stu~64ies.json",
        "/index/stu%64ies/s1",
        "/%69ndex/studies",
        "/ledger/%65ntries/1",
        "/index%2Fstudies",
    ],
)
def test_nothing_has_a_second_address_by_which_grants_and_the_access_log_would_not_know_it(
    stranger: Browse, token: tuple[str, str], path: str
):
    for who in ("usual", token[0]):
        assert stranger.ask(path, Authorization=f"Bearer {who}").status == 400


def test_a_notice_is_shown_at_the_foot_of_every_page(stranger: Browse, token: tuple[str, str]):
    for path in ("/-/login", "/", "/index/studies", "/nothing"):
        page = stranger.ask(path, Authorization=f"Bearer {token[0]}", Accept="text/html").body
        assert "Not for &lt;b&gt;diagnosis&lt;/b&gt;." in page.partition("<footer")[2]


def test_the_title_is_on_every_page_and_the_contact_where_somebody_may_need_it(stranger: Browse, token: tuple[str, str]):
    for path, helps in {"/-/login": True, "/": False, "/index/studies": False, "/nothing": True, "/studies/nobody": True}.items():
        page = stranger.ask(path, Authorization=f"Bearer {token[0]}", Accept="text/html").body
        assert page.count("City &lt;i&gt;Hospital&lt;/i&gt;") == 2, path
        assert ("Help: The &lt;b&gt;PACS&lt;/b&gt; team" in page) == helps, path


def test_sql_is_for_who_may(stranger: Browse):
    for user in ("sql", "jane"):
        stranger.cookies = {}
        assert stranger.log_in(user, PASSWORD, X_Forwarded_For=f"203.0.113.{len(user)}").status == 302
        for address in ("/index.json?sql=select+1", "/ledger?sql=select+1", "/index/studies.json?_where=1%3D1"):
            assert stranger.ask(address).status == (200 if user == "sql" else 403)
        assert ("sql=select" in stranger.page("/dicom").body) == (user == "sql")
        assert ("<textarea" in stranger.page("/index").body) == (user == "sql")
        assert stranger.page("/ledger/waiting_longest").status == 200
    assert "BROWSE_SQL_USERS" in stranger.page("/index?sql=select+1").body


def test_guessing_becomes_slow_and_only_for_who_guesses(stranger: Browse):
    for number in range(5, 10):  # on a busy machine the second may be over before the sixth try comes
        address = f"192.0.2.{number}"
        for guess in range(5):
            assert stranger.log_in("jane", f"wrong {guess}", X_Forwarded_For=address).status in {200, 429}
        stranger.cookies = {}
        answer = stranger.log_in("jane", PASSWORD, X_Forwarded_For=f"10.0.0.1, {address}")
        if answer.status != 302:
            break
    assert (answer.status, answer.header("retry-after")) == (429, "1")
    assert "Too many attempts: try again in 1 s." in answer.body
    assert "ds_actor" not in answer.cookies
    assert "browse.login-refused" in stranger.said()
    assert f"address={address}" in stranger.said()
    assert stranger.log_in("joe", PASSWORD, X_Forwarded_For="192.0.2.2").status == 200
    assert not [word for word in ("wrong", "joe") if word in stranger.said()]


def test_a_login_ends(tmp_path: Path):
    environment = {"BROWSE_PASSWORD_HASH": f"jane:{hash_password(PASSWORD)}", "BROWSE_LOGIN_HOURS": "0.0001"}  # 0.36 s
    browse = Browse(make_ledger(tmp_path), tmp_path / "log", **environment).ready()
    try:
        assert browse.log_in("jane", PASSWORD).status == 302
        assert "ds_actor" in browse.cookies
        until(lambda: browse.ask("/index/studies.json").status == 403, 10, what="the login to end")
    finally:
        browse.stop()


def test_a_logout_ends_the_login_for_every_copy_of_its_cookie_also_across_a_restart(tmp_path: Path):
    folder = make_ledger(tmp_path)
    environment = {"BROWSE_PASSWORD_HASH": f"jane:{hash_password(PASSWORD)}"}
    browse = Browse(folder, tmp_path / "log", **environment).ready()
    try:
        logins = []
        for _ in range(2):
            browse.cookies = {}
            assert browse.log_in("jane", PASSWORD).status == 302
            logins.append(browse.cookies)
        first, second = logins
        browse.cookies = dict(first)
        form = browse.page("/-/logout")
        assert form.status == 200
        token = re.search(r'name="csrftoken" value="([^"]+)"', form.body)
        assert token
        assert browse.ask("/-/logout", "POST", "csrftoken=wrong").status == 403
        assert browse.ask("/index/studies.json").status == 200
        assert browse.ask("/-/logout", "POST", f"csrftoken={token[1]}").status == 302
        browse.cookies = dict(first)
        assert browse.ask("/index/studies.json").status == 403
        assert browse.ask("/-/logout", "POST", f"csrftoken={token[1]}").status == 403
        browse.cookies = dict(second)
        assert browse.ask("/index/studies.json").status == 200
    finally:
        browse.stop()
    again = Browse(folder, tmp_path / "second log", **environment).ready()
    try:
        for cookies, status in ((first, 403), (second, 200)):
            again.cookies = dict(cookies)
            assert again.ask("/index/studies.json").status == status
    finally:
        again.stop()
    kept = folder / "browse-ended-logins"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert len(kept.read_text().splitlines()) == 1
    assert "event=browse.logout actor=jane" in browse.said()


FORM = "application/x-www-form-urlencoded"
NO_FORMS: list[tuple[bytes, dict[str, str]]] = [
    (b"username=\xff\xfe\xfd", {}),
    (b"csrftoken=\xff", {"Cookie": "ds_csrftoken=x"}),
    (b"csrftoken=%C3%A9", {"Cookie": "ds_csrftoken=x"}),
    (b"abc", {"Content-Type": "multipart/form-data", "Cookie": "ds_csrftoken=x"}),
    (b"abc", {"Content-Type": "text/plain"}),
    (b"abc", {"Content-Type": ""}),
]


@pytest.mark.parametrize(("body", "headers"), NO_FORMS)
def test_a_form_that_nothing_can_decode_is_refused(stranger: Browse, body: bytes, headers: dict[str, str]):
    assert post(stranger, body, headers) == 400
    assert "error" not in stranger.said()


@pytest.mark.parametrize("name", ["x-csrftoken", "Cookie"])
def test_headers_that_nothing_can_decode_are_ignored(stranger: Browse, name: str):
    assert post(stranger, b"username=%ED%A0%80&password=%FF", {name: "\xff"}) == 200
    assert "error" not in stranger.said()


def post(browse: Browse, body: bytes, headers: dict[str, str]) -> int:
    """Send the login form, from an address that no other test guesses from."""
    with closing(http.client.HTTPConnection("127.0.0.1", browse.port, timeout=10)) as connection:
        connection.request("POST", "/-/login", body, {"Content-Type": FORM, "X-Forwarded-For": "198.51.100.7", **headers})
        return connection.getresponse().status


ELSEWHERE = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "https://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://{host}"},
]


@pytest.mark.parametrize("headers", ELSEWHERE)
def test_a_form_that_another_site_sends_logs_nobody_in(stranger: Browse, headers: dict[str, str]):
    """With no cookie at all, a form needs no token of ours."""
    host = f"127.0.0.1:{stranger.port}"
    sent = {name: value.format(host=host) for name, value in headers.items()}
    answer = stranger.ask(
        "/-/login", "POST", f"username=jane&password={PASSWORD.replace(' ', '+')}", **sent, X_Forwarded_For="203.0.113.77"
    )
    assert answer.status == 403
    assert answer.cookies == {}
    for own in ({"Origin": f"http://{host}"}, {"Sec-Fetch-Site": "same-origin", "Origin": "http://behind.a.proxy"}, {}):
        stranger.cookies = {}
        assert stranger.log_in("jane", PASSWORD, X_Forwarded_For="203.0.113.78", **own).status == 302


def test_over_tls_cookies_are_of_this_host_alone_and_tls_stays(stranger: Browse):
    tls = {"X_Forwarded_Proto": "https", "X_Forwarded_For": "203.0.113.79"}
    form = stranger.ask("/-/login", Accept="text/html", **tls)
    assert form.header("strict-transport-security") == "max-age=31536000"
    fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form.body))
    stranger.cookies = form.cookies
    answer = stranger.ask("/-/login", "POST", f"username=jane&password={PASSWORD.replace(' ', '+')}&csrftoken={fields['csrftoken']}", **tls)
    assert answer.status == 302
    for line in [value for name, value in (*form.headers, *answer.headers) if name == "set-cookie"]:
        assert line.startswith("__Host-")
        assert {"Path=/", "Secure", "HttpOnly"} <= {part.strip() for part in line.split(";")}
        assert "omain" not in line
    login = answer.cookies["__Host-ds_actor"]
    stranger.cookies = {"__Host-ds_actor": login}
    assert stranger.ask("/index/studies.json", **tls).status == 200
    assert "/-/logout" in stranger.ask("/", Accept="text/html", **tls).body
    stranger.cookies = {"ds_actor": login}  # another host of the domain may have set it
    assert stranger.ask("/index/studies.json", **tls).status == 403
    plain = stranger.page("/-/login")
    assert plain.header("strict-transport-security") is None
    assert not [name for name in plain.cookies if name.startswith("__Host-")]


HOSTS = [
    "rebind.evil.example",
    "rebind.evil.example:8001",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evil.example.",
    "[::1",
    "x y",
    "2130706433",
]
OURS = ["localhost", "localhost:8001", "LOCALHOST.", "127.0.0.1:1", "[::1]:8001", "127.8.9.10", "192.0.2.7"]


def test_without_a_login_only_names_that_no_other_site_can_have_are_answered(tmp_path: Path):
    browse = Browse(make_ledger(tmp_path), tmp_path / "log", "--no-login").ready()
    try:
        for host in HOSTS:
            for path in ("/", "/index/studies.json", "/file/s1/s1.dcm", "/-/health", "/-/login"):
                answer = browse.ask(path, Host=host)
                assert (answer.status, "DOE" in answer.body) == (421, False), (host, path)
        for host in OURS:
            assert browse.ask("/index/studies.json", Host=host).status == 200, host
    finally:
        browse.stop()


def test_the_names_of_the_page_can_be_set(tmp_path: Path):
    environment = {"BROWSE_HOSTS": "Archive.example other", "BROWSE_TOKENS": LIMITED[0]}
    browse = Browse(make_ledger(tmp_path), tmp_path / "log", **environment).ready()
    try:
        for host, status in {
            "archive.example": 200,
            "archive.example:443": 200,
            "OTHER": 200,
            "localhost": 200,
            "evil.example": 421,
            "192.0.2.7": 421,
        }.items():
            assert browse.ask("/index/studies.json", Host=host, Authorization="Bearer usual").status == status, host
    finally:
        browse.stop()


def test_no_page_has_script_or_style_in_line_and_the_policy_forbids_it(stranger: Browse, token: tuple[str, str]):
    for path in ("/", "/index", "/index/studies", "/index/studies/s1", "/ledger/entries", "/ledger?sql=select+1", "/-/login"):
        page = stranger.ask(path, Accept="text/html", Authorization=f"Bearer {token[0]}")
        assert page.status == 200
        csp = set((page.header("content-security-policy") or "").split("; "))
        assert {"default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "object-src 'none'"} <= csp
        assert not [part for part in csp if "unsafe" in part]
        assert not re.search(r"<script>|<style|<[^>]+\son[a-z]+\s*=|<[^>]+\sstyle\s*=", page.body), path


def test_an_archive_that_is_not_mounted_is_not_called_empty(stranger: Browse, token: tuple[str, str]):
    answer = stranger.ask("/file/s1/s1.dcm", Authorization=f"Bearer {token[0]}")
    assert (answer.status, answer.json()["why"]) == (503, "archive-missing")
    assert stranger.ask("/image/s1/s1.dcm/about", Authorization=f"Bearer {token[0]}").json()["why"] == "archive-missing"
    assert stranger.ask("/index/studies/s1.json", Authorization=f"Bearer {token[0]}").status == 200


def test_the_log_tells_who_looked(stranger: Browse, token: tuple[str, str]):
    stranger.ask("/index/studies/s1", Authorization=f"Bearer {token[0]}")
    stranger.ask("/index/dicom_studies?_search=MULLER", Authorization=f"Bearer {token[0]}")
    assert "actor=token:export" in stranger.said()
    assert "study_id=s1" in stranger.said()
    assert "MULLER" not in stranger.said()


def test_a_token_needs_a_name_that_can_be_told_and_something_to_see():
    for wrong in (["a b"], ["board", "--may", "index/nothing"], ["board", "--may", ""]):
        command = [sys.executable, "-m", "storage_ledger", "browse", "--new-token", *wrong]
        assert subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 2


def test_serve_loads_nothing_that_decodes_pictures():
    program = (
        "import sys; from storage_ledger.cli.serve import _without_pictures; _without_pictures();"
        "import storage_ledger.wiring.serve, pydicom;"
        "sys.exit(any(sys.modules.get(name) for name in ('numpy', 'PIL', 'gdcm', '_gdcm', 'pylibjpeg', 'datasette')))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 0


def test_a_cache_that_cannot_be_written_ends_it_with_2(tmp_path: Path):
    make_ledger(tmp_path)
    browse = Browse(tmp_path, tmp_path / "log", "--no-login", BROWSE_CACHE_PATH="/proc/cache")
    assert browse.process.wait(20) == 2
    assert "BROWSE_CACHE_PATH: /proc/cache cannot be written to" in browse.said()


def test_a_form_in_chunks_is_refused_whatever_length_it_announces(stranger: Browse):
    for headers in ({}, {"Content-Length": "3"}):
        for path in ("/-/login", "/-/logout"):
            connection = http.client.HTTPConnection("127.0.0.1", stranger.port, timeout=10)
            connection.putrequest("POST", path)
            for name, value in {"Transfer-Encoding": "chunked", **headers}.items():
                connection.putheader(name, value)
            connection.endheaders(iter([b"x=1"]), encode_chunked=True)
            assert connection.getresponse().status == 413
            connection.close()


def test_what_lives_as_long_as_the_process_is_not_scanned_while_pages_are_made(tmp_path: Path):
    make_ledger(tmp_path)
    program = (
        "import gc, runpy, sys; from storage_ledger.web import server;"
        "server.Server.run = lambda *_: print('kept', gc.get_freeze_count());"
        "sys.argv = ['storage-ledger', 'browse', '--no-login', '--port', '0']; runpy.run_module('storage_ledger', run_name='__main__')"
    )
    environment = {**os.environ, "LEDGER_PATH": str(tmp_path), "ARCHIVE_PATH": "/nowhere/archive", "BROWSE_WORKERS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout.split()[-1]) > 10_000
