"""The cheap reading of an answer's head: what it accepts means the same to h11."""

from __future__ import annotations

import h11
from hypothesis import event, example, given
from hypothesis import strategies as st

from storage_ledger.system.http_connection import plain_head

NAMES = [
    "Content-Length",
    "content-length",
    "Content-Type",
    "Transfer-Encoding",
    "Connection",
    "Keep-Alive",
    "Upgrade",
    "X-a",
    "X a",
    "",
    " X",
]
VALUES = [
    "0",
    "3",
    " 3 ",
    "3,3",
    "-1",
    "+3",
    "03",
    "\uff13",
    "chunked",
    "close",
    "keep-alive",
    "Keep-Alive",
    "text/html; charset=utf-8",
    "",
    "\t",
]
STARTS = [f"HTTP/1.1 {code}{reason}" for code in (100, 101, 200, 204, 205, 299, 304, 404, 599, 600, 999) for reason in (" OK", " ", "")]
lines = st.builds(
    "{}{}{}".format, st.sampled_from(NAMES), st.sampled_from([":", ": ", " : "]), st.sampled_from(VALUES) | st.text(max_size=3)
)
heads = st.builds(
    lambda start, lines, end: end.join([start, *lines, "", ""]).encode(),
    st.sampled_from([*STARTS, "HTTP/1.0 200 OK", "HTTP/2 200 OK", "http/1.1 200 OK"]),
    st.lists(lines, max_size=5),
    st.sampled_from(["\r\n", "\r\n", "\r\n", "\n"]),
)


@given(heads, st.binary(max_size=8))
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Type: a\r\n\r\n", b"abcd")
@example(b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", b"abc")
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n", b"abc")
def test_a_plain_head_means_the_same_to_h11(head, rest):
    found = plain_head(head + rest)
    event("plain" if found else "left to h11")
    if found is None:
        return
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(head + rest)
    answer = parser.next_event()
    assert isinstance(answer, h11.Response)
    assert found.code == answer.status_code
    assert found.content_type == next((value.decode() for name, value in answer.headers if name == b"content-type"), "")
    assert found.size == len(head)
    body = b""
    while isinstance(data := parser.next_event(), h11.Data):
        body += bytes(data.data)
    assert body == rest[: found.length]
    if len(rest) < found.length:
        assert data is h11.NEED_DATA
    else:
        assert isinstance(data, h11.EndOfMessage)
        assert (parser.our_state, parser.their_state) == (h11.DONE, h11.DONE)
