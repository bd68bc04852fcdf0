"""The kept connection against servers that send raw bytes: forms of answers, what is kept, and the bytes that are sent."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpcore
import httpx
import pytest

from storage_ledger.errors import Retryable
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.system.http_connection import BROKEN, Connection, plain_head
from storage_ledger.system.http_post import post
from tests.support.scripted_server import ScriptedServer

STATUS = b'{"status": "archived"}'
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n" + STATUS
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSE = ScriptedServer.CLOSE


@contextmanager
def client_of(server: ScriptedServer, timeout_s: float = 10) -> Iterator[StatusClient]:
    with closing(StatusClient(f"http://127.0.0.1:{server.port}", timeout_s=timeout_s)) as client:
        yield client


@pytest.mark.parametrize(
    ("script", "kept"),
    [
        ([GOOD], True),
        ([GOOD[:20], GOOD[20:45], GOOD[45:]], True),
        ([bytes([byte]) for byte in GOOD], True),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD], True),
        ([b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", GOOD], True),
        ([b"HTTP/1.1 200\r\ncontent-length:22\r\n\r\n", STATUS], True),
        ([b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 22, 22\r\n\r\n" + STATUS], True),
        ([b"HTTP/1.1 200 OK\r\nX: " + b"x" * 90_000 + b"\r\nContent-Length: 22\r\n\r\n" + STATUS], True),
        ([CHUNKED + b"5;a=b\r\n" + STATUS[:5] + b"\r\n", b"11\r\n" + STATUS[5:] + b"\r\n0\r\nT: 1\r\n\r\n"], True),
        ([b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 22\r\n\r\n" + STATUS, CLOSE], False),
        ([b"HTTP/1.0 200 OK\r\nContent-Length: 22\r\n\r\n" + STATUS, CLOSE], False),
        ([b"HTTP/1.1 200 OK\r\n\r\n", STATUS, CLOSE], False),
    ],
)
def test_an_answer_is_read_in_every_form_and_its_connection_kept_if_it_may_be(script, kept):
    with ScriptedServer(script, [GOOD]) as server, client_of(server) as client:
        assert client.read("s1") == "archived"
        assert client.read("s2") == "archived"
        assert [number for number, _ in server.requests] == [1, 1 if kept else 2]


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 204 No Content\r\nContent-Length: 22\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]
)
def test_an_answer_without_a_body_keeps_the_connection(head):
    with ScriptedServer([head], [GOOD]) as server, client_of(server) as client:
        assert client.tell("s1", "archived", {}) in {200, 204}
        assert client.read("s1") == "archived"
        assert [number for number, _ in server.requests] == [1, 1]


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"zz\r\n",
        CHUNKED + b"5\r\n" + STATUS[:5] + b"no\r\n",
        CHUNKED + b"5\r\n" + STATUS[:5],
        GOOD[:-1],
        GOOD.replace(b": 22", b": -22"),
        GOOD.replace(b": 22", b": +22"),
        GOOD.replace(b"\r\n\r\n", b"\r\nContent-Length: 21\r\n\r\n"),
        GOOD.replace(b"Content-Length", b"Content Length"),
        GOOD.replace(b"\r\n\r\n", b"\r\nX: a\x00b\r\n\r\n"),
        GOOD.replace(b"HTTP/1.1 200", b"HTTP/1.1 101"),
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000 + b"\r\n" + GOOD[17:],
        GOOD[:10],
    ],
)
def test_an_answer_that_breaks_the_rules_is_a_shared_cause(answer):
    with ScriptedServer([answer, CLOSE], [GOOD]) as server, client_of(server) as client:
        with pytest.raises(Retryable) as caught:
            client.read("s1")
        assert (caught.value.code, caught.value.detail, caught.value.shared) == ("status-service-away", "RemoteProtocolError", True)
        assert client.read("s1") == "archived"
        assert [number for number, _ in server.requests] == [1, 2]


@pytest.mark.parametrize("form", [GOOD, CHUNKED + b"16\r\n" + STATUS + b"\r\n0\r\n\r\n"])
def test_bytes_after_an_answer_are_not_the_answer_to_the_next_call(form):
    other = GOOD.replace(b"archived", b"failedxx")
    with ScriptedServer([form + other], [GOOD]) as server, client_of(server) as client:
        assert client.read("s1") == "archived"
        assert client.read("s2") == "archived"
        assert [number for number, _ in server.requests] == [1, 2]


def test_an_idle_connection_that_the_server_closed_loses_no_status():
    with ScriptedServer([GOOD, CLOSE], [GOOD]) as server, client_of(server) as client:
        assert client.tell("s1", "archived", {}) == 200
        assert server.closed.wait(10)
        assert client.tell("s2", "archived", {}) == 200
        assert [number for number, _ in server.requests] == [1, 2]


def test_a_connection_that_was_idle_for_too_long_is_not_used_again():
    with ScriptedServer([GOOD], [GOOD]) as server:
        connection = Connection(httpx.URL(f"http://127.0.0.1:{server.port}"), ssl.create_default_context(), keep_idle_s=0)
        for _ in range(2):
            with closing(connection.call(b"GET / HTTP/1.1\r\n\r\n", time.monotonic() + 10)) as answer:
                assert b"".join(answer.body()) == STATUS
        connection.close()
        assert [number for number, _ in server.requests] == [1, 2]


def test_a_refusal_is_read_though_the_server_left_the_request_unread():
    refusal = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"
    with ScriptedServer([refusal, CLOSE], reads=False) as server, client_of(server) as client:
        with pytest.raises(Retryable) as caught:
            client.tell("s1", "archived", {"much": "x" * 30_000_000})
        assert (caught.value.code, caught.value.detail) == ("status-refused", "HTTP 413")


def test_a_late_answer_is_not_the_answer_to_the_next_call():
    with ScriptedServer([GOOD], [], [GOOD]) as server, client_of(server, timeout_s=0.5) as client:
        assert client.tell("s1", "archived", {}) == 200
        with pytest.raises(Retryable) as caught:
            client.tell("s2", "archived", {})
        assert (caught.value.code, caught.value.detail) == ("status-service-away", "ReadTimeout")
        assert client.tell("s3", "archived", {}) == 200
        assert [number for number, _ in server.requests] == [1, 1, 2]


def test_a_deadline_that_has_passed_sends_nothing():
    with ScriptedServer() as server, client_of(server, timeout_s=-1) as client:
        with pytest.raises(Retryable) as caught:
            client.tell("s1", "archived", {})
        assert (caught.value.code, caught.value.detail, server.requests) == ("status-service-away", "ConnectTimeout", [])


def test_the_requests_are_those_that_httpx_would_send():
    with ScriptedServer([GOOD], [GOOD], [GOOD], [GOOD]) as server:
        base = f"http://us%20er:p%40ss@127.0.0.1:{server.port}/a%20b/"
        with closing(StatusClient(base)) as client:
            client.tell("a/b c", "archived", {"n": 1})
            client.read("a/b c")
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "storage-ledger"}
        headers["Authorization"] = "Basic dXMgZXI6cEBzcw=="
        body = b'{"status": "archived", "details": {"n": 1}}'
        with httpx.HTTPTransport() as transport:
            for method, content, more in [("POST", body, {"Content-Type": "application/json"}), ("GET", None, {})]:
                request = httpx.Request(method, f"{base}status/a%2Fb%20c", content=content, headers=headers | more)
                transport.handle_request(request).read()
    (_, our_post), (_, our_get), (_, post), (_, get) = server.requests
    assert (our_post, our_get) == (post, get)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_server_with_tls_is_reached_if_its_certificate_is_trusted(address, tmp_path, monkeypatch):
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command, to make a certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=test",
         "-keyout", tmp_path / "key", "-out", tmp_path / "cert", "-addext", f"subjectAltName=IP:{address}"],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    tls.set_alpn_protocols(["h2", "http/1.1"])
    with ScriptedServer([GOOD], [GOOD], [GOOD], host=address, tls=tls) as server:
        url = f"https://{'[::1]' if ':' in address else address}:{server.port}"
        with closing(StatusClient(url)) as stranger:
            with pytest.raises(Retryable) as caught:
                stranger.tell("s1", "archived", {})
            assert (caught.value.code, caught.value.detail) == ("status-service-away", "ConnectError")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
        with closing(StatusClient(url)) as client:
            assert client.tell("s1", "archived", {}) == 200
            assert client.read("s1") == "archived"
        assert [number for number, _ in server.requests] == [2, 2]
        assert post(f"{url}/x", b"body", "text/plain", within_s=10, most_bytes=99).body == STATUS
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(httpcore.ConnectError):
            post(f"{url}/x", b"body", "text/plain", within_s=10, most_bytes=99)
        assert server.protocols == ["http/1.1", "http/1.1"]


def test_the_names_of_errors_are_those_of_httpx():
    names = {each.__name__ for kind in BROKEN for each in [kind, *kind.__subclasses__()]}
    assert {"ConnectError", "ConnectTimeout", "ReadError", "ReadTimeout", "WriteTimeout", "RemoteProtocolError"} <= names
    assert all(issubclass(getattr(httpx, name), httpx.TransportError) for name in names)
    assert issubclass(httpcore.WriteError, httpcore.NetworkError)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ndate: Mon\r\nserver: uvicorn\r\ncontent-length: 28\r\ncontent-type: application/json\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nServer: nginx/1.27\r\nContent-Type: application/json\r\nContent-Length: 28\r\nConnection: keep-alive\r\n\r\n",
        b"HTTP/1.1 404 NOT FOUND\r\nServer: gunicorn\r\nConnection: keep-alive\r\nContent-Type: text/html\r\nContent-Length: 28\r\n\r\n",
    ],
)
def test_the_answers_of_usual_servers_take_the_cheap_way(head):
    found = plain_head(head + b"{")
    assert found is not None
    assert (found.length, found.size) == (28, len(head))
