"""The reference Status Service over real HTTP, on a real Valkey."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from storage_ledger.demo.status_service import MAX_BODY_BYTES, make_server, run
from storage_ledger.errors import BadSettings
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.system.http_server import listen, port_of
from tests.support.valkey import Valkey
from tests.support.waiting import until

JSON = {"Content-Type": "application/json; charset=utf-8"}


@contextlib.contextmanager
def running(redis_url: str) -> Iterator[int]:
    """Run the service in a thread; yields its port."""
    server = make_server(redis_url)
    with contextlib.closing(listen("127.0.0.1", 0, "STATUS_SERVICE")) as listener:
        port = port_of(listener)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield port
        server.should_exit = True
        thread.join()


@pytest.fixture
def port(valkey: Valkey) -> Iterator[int]:
    with running(valkey.url) as port:
        yield port


@pytest.fixture
def http_client(port: int) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
        yield client


def test_a_posted_status_is_read_back_as_the_contract_says(http_client):
    answer = http_client.post("/status/s1", json={"status": "archived", "details": {"archive_path": "/app/archive/s1"}})
    assert answer.status_code == 200
    assert answer.json()["study_id"] == "s1"
    assert answer.json()["message"]
    answer = http_client.get("/status/s1")
    assert answer.status_code == 200
    value = answer.json()
    assert datetime.fromisoformat(value.pop("timestamp")).utcoffset() == timedelta(0)
    assert value == {"study_id": "s1", "status": "archived", "details": {"archive_path": "/app/archive/s1"}}


def test_the_last_post_wins_and_details_are_optional(http_client):
    for body in ({"status": "described", "details": {"a": 1}}, {"status": "archived"}, {"status": "x", "details": None}):
        assert http_client.post("/status/s1", json=body).status_code == 200
        assert http_client.get("/status/s1").json()["status"] == body["status"]
    assert http_client.get("/status/s1").json()["details"] is None


def test_it_is_kept_in_redis_as_the_neighbours_keep_it_and_never_expires(http_client, valkey):
    http_client.post("/status/s1", json={"status": "described", "details": {"patient_info": {}}})
    with contextlib.closing(valkey.client()) as client:
        kept = json.loads(client.get("status:s1"))
        assert client.ttl("status:s1") == -1
    assert set(kept) == {"status", "timestamp", "details"}
    assert kept["details"] == {"patient_info": {}}


def test_an_unknown_study_is_404_in_json(http_client):
    answer = http_client.get("/status/nobody")
    assert answer.status_code == 404
    assert isinstance(answer.json()["detail"], str)


def test_health_answers_in_the_words_of_the_contract(http_client):
    assert http_client.get("/health").json() == {"status": "healthy", "service": "status-service"}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"archived"', b"{}", b'{"status": ""}', b'{"status": 1}', b'{"status": null}',
     b'{"status": "a", "details": []}', b'{"status": "a", "details": "text"}', b"\xff", b'{"status": "a", "details": {"n": NaN}}',
     b'{"status": "a", "details": {"n": 1e400}}', b"[" * 50_000, b'{"status": "a", "details": {"n": ' + b"9" * 5000 + b"}}"],
)  # fmt: skip
def test_a_body_that_is_no_status_is_400_in_json(body, http_client):
    answer = http_client.post("/status/s1", headers=JSON, content=body)
    assert answer.status_code == 400
    assert isinstance(answer.json()["detail"], str)
    assert http_client.get("/status/s1").status_code == 404


@pytest.mark.parametrize(
    "kind", ["text/plain", "text/plain; application/json", "application/x-www-form-urlencoded", "multipart/form-data", "", None]
)
def test_what_a_page_of_another_site_can_send_without_being_asked_is_415(kind, http_client):
    headers = {"Origin": "http://evil.example"} | ({} if kind is None else {"Content-Type": kind})
    answer = http_client.post("/status/s1", content=b'{"status": "archived"}', headers=headers)
    assert answer.status_code == 415
    assert "application/json" in answer.json()["detail"]
    assert http_client.get("/status/s1").status_code == 404
    asked = http_client.options("/status/s1", headers={**headers, "Access-Control-Request-Method": "POST"})
    assert (asked.status_code, [name for name in asked.headers if name.startswith("access-control")]) == (405, [])


def test_a_body_of_one_mebibyte_is_taken_and_a_larger_one_is_413(http_client):
    def body(size: int) -> bytes:
        frame = b'{"status": "a", "details": {"x": ""}}'
        return frame.replace(b'""', b'"%s"' % (b"x" * (size - len(frame))))

    assert http_client.post("/status/s1", headers=JSON, content=body(MAX_BODY_BYTES)).status_code == 200
    answer = http_client.post("/status/s1", headers=JSON, content=body(MAX_BODY_BYTES + 1))
    assert answer.status_code == 413
    assert isinstance(answer.json()["detail"], str)


def test_an_endless_body_is_413_before_it_ends(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST /status/s1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = connection.recv(4096)
    assert answer == b"" or b" 413 " in answer  # the answer may be lost where we were still sending


def test_an_endless_head_is_refused_before_it_ends(port):
    head = b"GET /status/s1 HTTP/1.1\r\nHost: x\r\n" + b"long: %b\r\n" % (b"x" * 65536) * 500
    with socket.create_connection(("127.0.0.1", port)) as connection, pytest.raises(ConnectionError):
        connection.sendall(head)


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_long_body_that_nobody_reads_is_no_head(method, http_client):
    for _ in range(3):
        assert http_client.request(method, "/nothing-here", content=b"x" * 1_000_000).status_code == 404
        assert http_client.get("/health").status_code == 200


def test_requests_sent_at_once_are_answered_in_order(port):
    one = b"POST /status/s%d HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n" + b'{"status": "a"}'
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as answers:
        connection.sendall(
            b"".join(one % number for number in range(20)) + b"HEAD /status/s7 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        text = answers.read()
    assert text.count(b"HTTP/1.1 200 OK") == 21
    assert re.findall(rb'"study_id": "s(\d+)"', text) == [b"%d" % number for number in range(20)]
    assert text.endswith(b"\r\n\r\n")  # HEAD has no body


def test_a_lone_surrogate_in_the_details_comes_back_as_it_was(http_client):
    http_client.post("/status/s1", headers=JSON, content=rb'{"status": "a", "details": {"name": "\ud800"}}')
    assert http_client.get("/status/s1").json()["details"] == {"name": "\ud800"}


@pytest.mark.parametrize("study_id", ["a", "x" * 128, "123e4567-e89b-12d3-a456-426614174000", "1.2.840.1", "a_b~c", "a:b@c", "..a"])
def test_any_id_that_is_safe_in_a_path_is_taken(study_id, http_client):
    assert http_client.post(f"/status/{study_id}", json={"status": "a"}).status_code == 200
    assert http_client.get(f"/status/{study_id}").json()["study_id"] == study_id


@pytest.mark.parametrize("study_id", ["x" * 129, "a%20b", "%00", "a%0Ab", "%C3%A4", "%FF", "a%5Cb", "%2E%2E", "a%3Cb"])
def test_any_other_id_is_400(study_id, port):
    for method in ("GET", "POST"):
        connection = http.client.HTTPConnection("127.0.0.1", port)  # sends the path as it is
        connection.request(method, f"/status/{study_id}", body=b'{"status": "a"}')
        answer = connection.getresponse()
        assert answer.status == 400
        assert json.loads(answer.read())["detail"]
        connection.close()


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/status/s1"), ("DELETE", "/status/s1"), ("PATCH", "/status/s1"), ("POST", "/health")]
)
def test_other_methods_are_405_in_json(method, path, http_client):
    answer = http_client.request(method, path)
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]
    assert answer.json()["detail"]


@pytest.mark.parametrize("path", ["/", "/status", "/status/", "/status/a/b", "/status/a/", "/docs"])
def test_other_paths_are_404_in_json(path, http_client):
    answer = http_client.get(path)
    assert answer.status_code == 404
    assert answer.json()["detail"]


def test_without_its_redis_it_answers_500_in_json_and_recovers(tmp_path):
    valkey = Valkey(tmp_path)
    valkey.start()
    with running(valkey.url) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
        for end in (valkey.kill, valkey.stop):
            assert client.post("/status/s1", json={"status": "archived"}).status_code == 200
            end()
            for answer in (client.post("/status/s1", json={"status": "archived"}), client.get("/status/s1")):
                assert answer.status_code == 500
                assert answer.json() == {"detail": "Redis is unavailable"}
            assert client.get("/health").status_code == 200
            valkey.start()
            assert client.get("/status/s1").status_code == 404  # immediately, with what was lost
    valkey.stop()


def test_our_client_and_the_service_understand_each_other(port):
    client = StatusClient(f"http://127.0.0.1:{port}")
    assert client.read("s1") is None
    assert client.tell("s1", "archived", {"archive_path": "/app/archive/s1"}) == 200
    assert client.read("s1") == "archived"
    client.close()


PROGRAM = """
import sys
from storage_ledger.demo import status_service
from storage_ledger.system import logs
logs.configure("INFO")
status_service.run(sys.argv[1], "127.0.0.1", 0)
print("ended well")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_cleanly(number, valkey, tmp_path: Path):
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, valkey.url], stdout=subprocess.PIPE, stderr=stream)
    found = until(lambda: re.search(r"status_service\.listening.* port=(\d+)", log.read_text()), 30)
    with httpx.Client(base_url=f"http://127.0.0.1:{found[1]}", trust_env=False) as client:
        assert client.post("/status/study-of-the-log-test", json={"status": "archived"}).status_code == 200
        process.send_signal(number)  # the client's connection is kept open meanwhile
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == b"ended well\n"
    assert len(log.read_text().splitlines()) == 1
    assert "study-of-the-log-test" not in log.read_text()
    assert "host='127.0.0.1'" in log.read_text() or "host=127.0.0.1" in log.read_text()


def test_a_port_in_use_is_named(valkey):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadSettings, match=f"STATUS_SERVICE_PORT: {port} is in use"):
            run(valkey.url, "127.0.0.1", port)
