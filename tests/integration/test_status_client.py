"""The Status Service client over real HTTP, against a server with faults on demand."""

from __future__ import annotations

import base64
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage_ledger.errors import BadSettings, Retryable
from storage_ledger.pipeline.status_client import MAX_ANSWER_BYTES, StatusClient
from tests.support.status_server import Call, Fault, StatusServer
from tests.support.valkey import free_port

CANARY = "canary-DOE^JANE"
DETAILS = {"archive_path": "/app/archive/s1", "metadata_file": "/app/archive/s1/metadata.json"}


@pytest.fixture
def client(status_server: StatusServer) -> Iterator[StatusClient]:
    client = StatusClient(status_server.url, timeout_s=10)
    yield client
    client.close()


@pytest.fixture
def hasty(status_server: StatusServer) -> Iterator[StatusClient]:
    """A client with a short time-out, for tests that use all of it."""
    client = StatusClient(status_server.url, timeout_s=1.0)
    yield client
    client.close()


def refused(code: str, call: Callable[[], object], *, shared: bool) -> Retryable:
    with pytest.raises(Retryable) as caught:
        call()
    assert caught.value.code == code
    assert caught.value.shared is shared
    assert CANARY not in str(caught.value)
    return caught.value


def test_a_sent_status_is_read_back(status_server, client):
    assert client.tell("s1", "archived", DETAILS) == 200
    assert client.read("s1") == "archived"
    assert status_server.posts == [Call("POST", "s1", {"status": "archived", "details": DETAILS})]
    status_server.late_described("s1", {"patient_info": {}})
    assert client.read("s1") == "described"


def test_an_unknown_study_has_no_status(status_server, client):
    assert client.read("s1") is None
    client.tell("s1", "archived", {})
    status_server.forget()
    assert client.read("s1") is None


@pytest.mark.parametrize("study_id", ["a/../b", "a b", "a?b=c#d", "%2e%2e", "ä", "a%2Fb", "a\\b", "x" * 128])
def test_a_study_id_is_quoted_whatever_it_holds(study_id, status_server, client):
    client.tell(study_id, "failed", {"error": "no-such-file"})
    assert [call.study_id for call in status_server.posts] == [study_id]
    assert client.read(study_id) == "failed"


def test_details_of_any_text_arrive(status_server, client):
    details = {"path": "/app/Jürgen/\ud800", "n": 1, "nested": {"list": [None, True]}}
    client.tell("s1", "archived", details)
    assert status_server.posts[0].body["details"] == details


def test_a_base_url_may_have_a_path(status_server):
    client = StatusClient(status_server.url + "/api/", timeout_s=10)
    client.tell("s1", "archived", {})
    client.close()
    assert status_server.posts[0].study_id == "/api/status/s1"


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
def test_any_2xx_is_an_acceptance(code, status_server, client):
    body = b"" if code == 204 else b"thanks"
    status_server.next(Fault(code=code, body=body))
    assert client.tell("s1", "archived", {}) == code


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504, 599])
def test_a_service_in_trouble_is_a_shared_cause(code, status_server, client):
    status_server.always = Fault(code=code, body=CANARY.encode())
    error = refused("status-service-away", lambda: client.tell("s1", "archived", {}), shared=True)
    assert error.detail == f"HTTP {code}"
    refused("status-service-away", lambda: client.read("s1"), shared=True)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 409, 413, 422, 300, 304])
def test_a_refusal_is_that_of_this_study_alone(code, status_server, client):
    status_server.always = Fault(code=code, body=b"" if code == 304 else CANARY.encode())
    error = refused("status-refused", lambda: client.tell("s1", "archived", {}), shared=False)
    assert error.detail == f"HTTP {code}"
    if code != 404:
        refused("status-refused", lambda: client.read("s1"), shared=False)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(code, status_server, client):
    status_server.next(Fault(code=code, headers={"Location": "/status/other"}))
    refused("status-refused", lambda: client.tell("s1", "archived", {}), shared=False)
    assert len(status_server.posts) == 1
    assert not status_server.reads


@pytest.mark.parametrize("close", ["before-storing", "after-storing"])
def test_a_connection_closed_without_an_answer_is_a_shared_cause(close, status_server, client):
    status_server.next(Fault(close=close))
    refused("status-service-away", lambda: client.tell("s1", "archived", {}), shared=True)
    assert len(status_server.posts) == 1  # it is not sent a second time behind our back
    assert status_server.status("s1") == ("archived" if close == "after-storing" else None)
    assert client.tell("s1", "archived", {}) == 200


def test_nobody_listening_is_a_shared_cause():
    client = StatusClient(f"http://127.0.0.1:{free_port()}", timeout_s=10)
    refused("status-service-away", lambda: client.tell("s1", "archived", {}), shared=True)
    refused("status-service-away", lambda: client.read("s1"), shared=True)
    client.close()


def test_a_host_that_does_not_exist_is_a_shared_cause():
    client = StatusClient("http://status-service.invalid:8003", timeout_s=10)
    refused("status-service-away", lambda: client.tell("s1", "archived", {}), shared=True)
    client.close()


def test_a_service_that_hangs_is_given_up_on(status_server, hasty):
    status_server.always = Fault(hang=threading.Event())
    refused("status-service-away", lambda: hasty.tell("s1", "archived", {}), shared=True)
    refused("status-service-away", lambda: hasty.read("s1"), shared=True)


def test_a_service_that_never_accepts_is_given_up_on():
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:
        client = StatusClient(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.3)
        refused("status-service-away", lambda: client.tell("s1", "archived", {}), shared=True)
        client.close()


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"null", b'"archived"', b"{}", b'{"status": null}', b'{"status": 1}', b'{"status": ["a"]}',
     b"\xff\xfe", b"[" * 100_000, b'{"status": "archived", "n": ' + b"9" * 6000 + b"}", b"\x1f\x8b\x08\x00"],
)  # fmt: skip
def test_an_answer_that_means_nothing_is_unreadable(body, status_server, client):
    status_server.next(Fault(body=body))
    refused("status-unreadable", lambda: client.read("s1"), shared=False)
    assert client.read("s1") is None  # and the next one is read well


def test_a_compressed_answer_is_not_unpacked(status_server, client):
    status_server.next(Fault(body=b"\x1f\x8b\x08\x00", headers={"Content-Encoding": "gzip"}))
    refused("status-unreadable", lambda: client.read("s1"), shared=False)


def test_a_large_status_is_read_and_a_larger_one_is_not(status_server, client):
    def answer(size: int) -> bytes:
        text = json.dumps({"status": "described", "details": ""})
        return text.replace('""', f'"{"x" * (size - len(text))}"').encode()

    status_server.next(Fault(body=answer(MAX_ANSWER_BYTES)), Fault(body=answer(MAX_ANSWER_BYTES + 1)))
    assert client.read("s1") == "described"
    refused("status-unreadable", lambda: client.read("s1"), shared=False)


def test_an_endless_answer_is_left(status_server, client):
    sent = itertools.count()
    status_server.next(Fault(chunks=lambda: (b"x" * 65536 for _ in sent)))
    refused("status-unreadable", lambda: client.read("s1"), shared=False)
    status_server.next(Fault(chunks=lambda: (b"x" * 65536 for _ in sent)))
    assert client.tell("s1", "archived", {}) == 200  # only its code matters


def dripping(first: bytes, drop: bytes) -> Callable[[], Iterator[bytes]]:
    """Yield bytes endlessly, each well within the read time-out."""

    def drip() -> Iterator[bytes]:
        yield first
        while True:
            time.sleep(0.02)
            yield drop

    return drip


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_headers_that_drip_without_end_are_given_up_on(first, status_server, hasty):
    drop = b"HTTP/1.1 100 Continue\r\n\r\n" if b"100" in first else b"X"
    status_server.next(Fault(raw=dripping(first, drop)), Fault(raw=dripping(first, drop)))
    refused("status-service-away", lambda: hasty.tell("s1", "archived", {}), shared=True)
    refused("status-service-away", lambda: hasty.read("s1"), shared=True)


def test_a_body_that_drips_without_end_is_given_up_on(status_server, hasty):
    status_server.next(Fault(chunks=dripping(b"{", b" ")), Fault(chunks=dripping(b"{", b" ")))
    refused("status-unreadable", lambda: hasty.read("s1"), shared=False)
    assert hasty.tell("s1", "archived", {}) == 200


def test_sending_a_status_does_not_wait_for_a_slow_body(status_server):
    client = StatusClient(status_server.url, timeout_s=3600)
    status_server.next(Fault(chunks=dripping(b"{", b" ")))
    assert client.tell("s1", "archived", {}) == 200
    client.close()


@pytest.mark.parametrize("kind", ["text/html", "text/html; charset=utf-8", "TEXT/HTML"])
def test_a_web_page_is_no_acceptance_whatever_its_code(kind, status_server, client):
    status_server.next(Fault(headers={"Content-Type": kind}, body=b"<html>Log in"))
    refused("status-refused", lambda: client.tell("s1", "archived", {}), shared=False)


def test_a_truncated_body_is_a_shared_cause_for_a_read_but_not_for_a_sent_status(status_server, client):
    broken = Fault(raw=lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"])
    status_server.next(broken, broken)
    refused("status-service-away", lambda: client.read("s1"), shared=True)
    assert client.tell("s1", "archived", {}) == 200


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n", b"\x00" * 64, b"HTTP/1.1 abc\r\n\r\n", b"A" * 300_000])
def test_what_is_no_http_is_a_shared_cause(answer, status_server, client):
    status_server.next(Fault(raw=lambda: [answer]))
    refused("status-service-away", lambda: client.tell("s1", "archived", {}), shared=True)


def test_one_connection_serves_many_calls(status_server, client):
    for number in range(20):
        client.tell(f"s{number}", "archived", {})
        client.read(f"s{number}")
        client.read("unknown")
    assert status_server.connections == 1


def test_a_refusal_and_an_unreadable_answer_keep_the_connection(status_server, client):
    status_server.next(Fault(code=500), Fault(code=422), Fault(body=b"<html>"))
    refused("status-service-away", lambda: client.tell("s1", "archived", {}), shared=True)
    refused("status-refused", lambda: client.tell("s1", "archived", {}), shared=False)
    refused("status-unreadable", lambda: client.read("s1"), shared=False)
    client.tell("s1", "archived", {})
    assert status_server.connections == 1


def test_threads_share_the_connections(status_server):
    client = StatusClient(status_server.url, timeout_s=10, connections=4)
    with ThreadPoolExecutor(8) as pool:  # more threads than connections: httpx's own pool fails about 1 in 100 of these
        codes = list(pool.map(lambda n: client.tell(f"s{n}", "archived", {"n": n}), range(1000)))
    assert codes == [200] * 1000
    assert len(status_server.statuses) == 1000
    assert status_server.connections <= 4
    client.close()


def test_a_restarted_service_is_reached_again(client, status_server):
    client.tell("s1", "archived", {})
    status_server.close()
    refused("status-service-away", lambda: client.tell("s1", "archived", {}), shared=True)
    again = StatusServer(status_server.port)
    assert client.tell("s1", "archived", {}) == 200
    again.close()


def test_a_proxy_of_the_environment_and_cookies_of_the_service_are_ignored(status_server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    client = StatusClient(status_server.url, timeout_s=10)
    status_server.next(Fault(headers={"Set-Cookie": f"name={CANARY}; Path=/"}))
    for _ in range(2):
        assert client.tell("s1", "archived", {}) == 200
    client.close()
    assert all(CANARY not in str(headers) for headers in status_server.headers)


@pytest.mark.parametrize("url", ["http://[::1", "http://a\x00b", "http://h:99999x"])
def test_a_base_url_that_is_none_is_a_bad_setting(url):
    with pytest.raises(BadSettings, match="STATUS_SERVICE_URL"):
        StatusClient(url)


def test_a_name_and_password_in_the_base_url_are_sent_with_each_call_and_nowhere_else(status_server):
    client = StatusClient(status_server.url.replace("://", "://us%20er:p%40ss@"))
    client.tell("s1", "archived", {})
    client.read("s1")
    client.close()
    wanted = "Basic " + base64.b64encode(b"us er:p@ss").decode()
    assert [headers.get("authorization") or headers.get("Authorization") for headers in status_server.headers] == [wanted, wanted]
    assert all("p@ss" not in str(headers) and "p%40ss" not in str(headers) for headers in status_server.headers)
