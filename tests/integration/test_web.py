"""The service's HTTP endpoints over a real port."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from storage_ledger import __version__
from storage_ledger.domain.reason import Reason
from storage_ledger.errors import BadSettings, Retryable
from storage_ledger.service.health import HEALTH, make_app
from storage_ledger.system.http_server import MOST_OF_THE_SERVICE, RESERVE, SHARE_OF_NETWORK, Server, WebServer, listen
from storage_ledger.system.metrics import Metrics
from tests.support.waiting import until


class Face:
    """A running web server, with the values that it asks the service for."""

    def __init__(self) -> None:
        self.reasons: list[Reason] = []
        self.metrics = Metrics()
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()
        self.threads: set[str] = set()
        self.note: bytes | None = None
        self.read = threading.Event()
        self.away: Exception | None = None
        self.server = WebServer(make_app(self._reasons, self.metrics.render, self._note), "127.0.0.1", 0, health=HEALTH)
        self.server.start()
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.server.port}", trust_env=False, timeout=20)

    def _reasons(self) -> list[Reason]:
        self.threads.add(threading.current_thread().name)
        self.asked.set()
        self.gate.wait(20)
        return self.reasons

    def _note(self) -> bytes | None:
        self.read.set()
        self.gate.wait(20)
        if self.away:
            raise self.away
        return self.note

    def close(self) -> None:
        self.http.close()
        self.server.stop()


@pytest.fixture
def face() -> Iterator[Face]:
    with contextlib.closing(Face()) as face:
        yield face


def test_healthz_says_that_it_lives_and_which_version(face):
    answer = face.http.get("/healthz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "version": __version__}


def test_readyz_is_200_without_reasons_and_503_with_them(face):
    assert face.http.get("/readyz").json() == {"status": "ready"}
    face.reasons = [Reason("not-subscribed", "channel described"), Reason("archive-full")]
    answer = face.http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "not-ready",
        "reasons": [{"code": "not-subscribed", "detail": "channel described"}, {"code": "archive-full", "detail": ""}],
    }
    face.reasons = []
    assert face.http.get("/readyz").status_code == 200


def test_metrics_are_prometheus_text_with_the_type_of_its_format(face):
    face.metrics.received.inc(3)
    answer = face.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert families["storage_ledger_messages_received"].samples[0].value == 3


def test_checkpoint_is_a_text_that_caches_may_keep_for_seconds(face):
    answer = face.http.get("/checkpoint")
    assert (answer.status_code, answer.text) == (404, "No checkpoint has been signed yet\n")
    face.note = "a/b\n1\n\n— a/b x\n".encode()
    for answer in (face.http.get("/checkpoint"), face.http.head("/checkpoint")):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["cache-control"] == "public, max-age=5"
    face.read.clear()
    assert face.http.get("/checkpoint").content == face.note
    assert not face.read.is_set(), "whoever asks often gets the same answer, and nothing is read"


def test_checkpoint_of_an_archive_that_is_away_or_hangs_is_503_in_time(face):
    face.away = Retryable("archive-missing", "/srv/archive")
    answer = face.http.get("/checkpoint")
    assert (answer.status_code, answer.text) == (503, "The archive is not available\n")
    face.gate.clear()
    face.read.clear()
    assert face.http.get("/checkpoint").status_code == 503
    assert face.read.is_set()
    assert face.http.get("/healthz").status_code == 200
    face.away, face.note = None, b"x"
    face.gate.set()
    until(lambda: face.http.get("/checkpoint").status_code == 200, 30)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_head_is_answered_and_other_methods_are_405(path, face):
    head = face.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert face.http.request(method, path).status_code == 405


@pytest.mark.parametrize("path", ["/", "/healthz/", "/docs", "/status/s1", "/%00"])
def test_other_paths_are_404(path, face):
    assert face.http.get(path).status_code == 404


def test_a_stuck_check_does_not_keep_healthz_from_answering(face):
    face.gate.clear()
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(face.http.get("/readyz").status_code))
    waiting.start()
    assert face.asked.wait(30)
    assert face.http.get("/healthz").status_code == 200
    assert face.http.get("/metrics").status_code == 200
    assert not answers
    face.gate.set()
    waiting.join()
    assert answers == [200]
    assert "web" not in face.threads


def test_a_failing_check_returns_500_and_is_run_again_by_the_next_request(log):
    def reasons() -> list[dict[str, str]]:
        raise RuntimeError("canary-DOE^JANE")

    server = WebServer(make_app(reasons, lambda: b""), "127.0.0.1", 0)
    server.start()
    for _ in range(2):
        answer = httpx.get(f"http://127.0.0.1:{server.port}/readyz", trust_env=False)
        assert answer.status_code == 500
        assert "canary" not in answer.text
    server.stop()
    assert "error_type='RuntimeError'" in log.getvalue() or "error_type=RuntimeError" in log.getvalue()
    assert "canary" not in log.getvalue()


def test_a_request_leaves_no_line_in_the_log(log, capfd, face):
    face.http.get("/healthz")
    face.http.get("/nothing-here")
    assert log.getvalue() == ""
    assert capfd.readouterr() == ("", "")


def test_a_port_in_use_is_a_bad_setting_that_names_it(face):
    again = WebServer(make_app(list, lambda: b""), "127.0.0.1", face.server.port)
    with pytest.raises(BadSettings, match=f"HTTP_PORT: {face.server.port} is in use") as caught:
        again.start()
    assert caught.value.code == "bad-settings"
    again.stop()
    assert face.http.get("/healthz").status_code == 200


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid", "a..b"])
def test_a_host_that_is_not_ours_is_a_bad_setting_that_names_it(host):
    with pytest.raises(BadSettings, match="HTTP_HOST"):
        WebServer(make_app(list, lambda: b""), host, 0).start()


def test_stop_closes_the_port_and_ends_the_thread_though_a_client_keeps_its_connection():
    face = Face()
    port = face.server.port
    assert face.http.get("/healthz").status_code == 200
    assert "web" in {thread.name for thread in threading.enumerate()}
    face.server.stop()
    assert "web" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    again = WebServer(make_app(list, lambda: b""), "127.0.0.1", port)
    again.start()
    assert again.port == port
    again.stop()
    face.close()


def test_a_server_that_is_stopped_at_once_ends():
    server = WebServer(make_app(list, lambda: b""), "127.0.0.1", 0)
    server.start()
    server.stop()
    server.stop()


def test_connections_that_ask_nothing_do_not_take_all_descriptors_of_the_service(face):
    with contextlib.ExitStack() as held:

        def begin() -> socket.socket:
            connection = held.enter_context(socket.create_connection(("127.0.0.1", face.server.port), 10))
            connection.sendall(b"GET /healthz HTT")
            return connection

        def is_closed(connection: socket.socket) -> bool:
            connection.setblocking(False)
            try:
                return connection.recv(1) == b""
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True

        connections = [begin() for _ in range(MOST_OF_THE_SERVICE + 20)]
        share = int(MOST_OF_THE_SERVICE * SHARE_OF_NETWORK)  # all of them are from one address
        until(
            lambda: sum(map(is_closed, connections)) == MOST_OF_THE_SERVICE + 20 - share - RESERVE,
            what="those that are too many to be closed",
        )
        assert not any(map(is_closed, connections[:share]))
        for _ in range(3):
            assert face.http.get("/healthz").status_code == 200
            assert face.http.get("/readyz").status_code == 200
        assert face.http.get("/metrics").status_code == 503
        with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2"), base_url=face.http.base_url) as other:
            assert other.get("/metrics").status_code == 200
    until(lambda: _answers(face), what="an answer once they have gone")


def test_clients_of_several_addresses_that_hold_all_connections_leave_the_reserve(face):
    with contextlib.ExitStack() as held:
        for number in range(MOST_OF_THE_SERVICE + 50):
            source = (f"127.0.1.{number % 4}", 0)
            connection = held.enter_context(socket.create_connection(("127.0.0.1", face.server.port), 10, source_address=source))
            with contextlib.suppress(OSError):
                connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        for _ in range(3):
            assert face.http.get("/readyz").status_code == 200


def _answers(face: Face) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return face.http.get("/healthz").status_code == 200
    return False


async def reads_the_body(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer once the whole body has come, or not at all."""
    if scope["type"] == "http":
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.request":
            await PlainTextResponse("ok")(scope, receive, send)


UNFINISHED = {
    "nothing": b"",
    "part of a head": b"GET /healthz HTT",
    "a form without its body": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\nx",
    "a chunk without an end": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
    "a promise of a body": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    "a second form behind a first": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\nx",
}


@pytest.mark.parametrize("protocol", [H11Protocol, HttpToolsProtocol])
@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED)
@pytest.mark.parametrize("app", [make_app(list, bytes), reads_the_body])
def test_a_connection_without_a_whole_request_is_closed_after_a_while(before, sent, app, protocol):
    with contextlib.closing(listen("127.0.0.1", 0, "HTTP")) as listener:
        server = Server(app, request_within_s=0.2, protocol=protocol)
        server.config.timeout_keep_alive = 60 if sent else 1
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            with socket.create_connection(listener.getsockname(), 10) as connection:
                for _ in range(before):
                    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                    assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK")
                connection.sendall(sent)
                connection.setblocking(True)
                while connection.recv(4096):  # an answer to what it has got; then the end
                    pass
        finally:
            server.should_exit = True
            thread.join()


def test_a_connection_whose_client_takes_nothing_is_closed_and_one_that_reads_is_not():
    body = b"x" * (20 << 20)

    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})

    with contextlib.closing(listen("127.0.0.1", 0, "HTTP")) as listener:
        server = Server(large, write_within_s=1)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), 30) as deaf,
                socket.create_connection(listener.getsockname(), 30) as other,
            ):
                deaf.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                other.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                assert sum(map(len, iter(lambda: other.recv(1 << 16), b""))) > len(body)
                until(lambda: not server.server_state.connections, 30, what="the connection to be closed")
        finally:
            server.should_exit = True
            thread.join()
