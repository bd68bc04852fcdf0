"""A real nginx with the configuration of docs/how-to/nginx.conf and a certificate of its own, on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.valkey import free_port
from tests.support.waiting import until

SITE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "nginx.conf"


def nginx_binary() -> str:
    """Return nginx's path; skips the test, and says so, if nginx or openssl is not installed."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if found is None or shutil.which("openssl") is None:
        pytest.skip("no nginx, or no openssl: apt-get install nginx-light openssl")
    return found


class Nginx:
    """`public_url`: what goes into BROWSE_PUBLIC_URL. `path`: where the page is, `/` or `/archive/`. Serves after `start`."""

    def __init__(self, folder: Path, path: str = "/") -> None:
        self._binary = nginx_binary()
        self._folder = folder
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None
        self.port, self.plain_port = free_port(), free_port()
        self.public_url = f"https://localhost:{self.port}{path.rstrip('/')}"
        self.certificate = folder / "localhost.pem"

    def start(self, upstream: str) -> None:
        """Start it in front of `upstream`, such as `http://127.0.0.1:8001`."""
        key = self._folder / "localhost.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", self.certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        site = SITE.read_text()
        for written, ours in {
            "listen 443": f"listen 127.0.0.1:{self.port}",
            "listen 80": f"listen 127.0.0.1:{self.plain_port}",
            "images.example.org;": "localhost;",
            "/etc/ssl/images.example.org.pem": str(self.certificate),
            "/etc/ssl/images.example.org.key": str(key),
            "/var/log/nginx/images.error.log": str(self._folder / "error.log"),
            "location / {": f"location {self._path} {{",
            "http://127.0.0.1:8001": upstream,
        }.items():
            assert written in site, written
            site = site.replace(written, ours)
        (self._folder / "site.conf").write_text(site)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = " ".join(f"{kind}_temp_path {self._folder}/{kind};" for kind in kinds)
        user = "user root;" if os.geteuid() == 0 else ""
        (self._folder / "nginx.conf").write_text(
            f"daemon off; {user} worker_processes 1; pid {self._folder}/pid; error_log {self._folder}/main.log; events {{}}\n"
            f"http {{ access_log {self._folder}/access.log; {temporary} include {self._folder}/site.conf; }}\n"
        )
        self._process = subprocess.Popen(
            [self._binary, "-p", self._folder, "-c", self._folder / "nginx.conf", "-e", self._folder / "main.log"]
        )
        until(self._listens, 20, what=lambda: f"nginx to listen: {self.said()}")

    def said(self) -> str:
        """Return everything in its logs."""
        return "".join(path.read_text() for path in sorted(self._folder.glob("*.log")))

    def context(self) -> ssl.SSLContext:
        """Return a context that trusts its certificate."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.said()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False
