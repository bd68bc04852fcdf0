"""A time-stamping authority on loopback: `openssl ts` behind HTTP."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CONFIG = """
[req]
distinguished_name = dn
[dn]
[ca]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign
[signer]
basicConstraints = CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
[tsa]
serial = serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ess_cert_id_alg = sha256
"""


class Authority:
    """`answers`: what it answers to a query, instead of a time stamp. `certificates`: with all of the chain, as `certs=` of openssl."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        self.folder = folder
        self.answers: Callable[[bytes], tuple[int, bytes]] | None = None
        self.whole_chain = False
        (folder / "config").write_text(CONFIG)
        (folder / "serial").write_text("01\n")
        new = ("-newkey", "rsa:2048", "-nodes", "-config", "config", "-subj")
        self._openssl("req", "-x509", *new, "/CN=root", "-extensions", "ca", "-keyout", "root.key", "-out", "root.pem", "-days", "2")
        self._openssl("req", "-new", *new, "/CN=tsa", "-keyout", "tsa.key", "-out", "tsa.csr")
        sign = ("-req", "-in", "tsa.csr", "-CA", "root.pem", "-CAkey", "root.key", "-set_serial", "7", "-days", "2")
        self._openssl("x509", *sign, "-extfile", "config", "-extensions", "signer", "-out", "tsa.pem")
        (folder / "chain.pem").write_bytes(self.roots + (folder / "tsa.pem").read_bytes())

    @property
    def roots(self) -> bytes:
        return (self.folder / "root.pem").read_bytes()

    def stamp(self, query: bytes) -> bytes:
        (self.folder / "query").write_bytes(query)
        chain = ("-chain", "chain.pem") if self.whole_chain else ()
        signer = ("-config", "config", "-section", "tsa", "-signer", "tsa.pem", "-inkey", "tsa.key", *chain)
        self._openssl("ts", "-reply", "-queryfile", "query", *signer, "-out", "response")
        return (self.folder / "response").read_bytes()

    def verify(self, note: Path, response: Path) -> bool:
        arguments = ["openssl", "ts", "-verify", "-data", str(note), "-in", str(response), "-CAfile", str(self.folder / "root.pem")]
        return subprocess.run(arguments, capture_output=True, check=False).returncode == 0

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    @contextlib.contextmanager
    def listening(self) -> Iterator[str]:
        """Answer requests; yields the URL."""
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = self.rfile.read(int(self.headers["Content-Length"]))
                is_query = self.headers["Content-Type"] == "application/timestamp-query"
                code, body = authority.answers(query) if authority.answers else (200, authority.stamp(query)) if is_query else (415, b"")
                self.send_response(code)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/tsa"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
