"""Witnesses in processes of their own, ours and a stranger's, and a log in memory that asks them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.merkle_tree import consistency_path, root_of
from storage_ledger.domain.signed_note import SignedNote, VerifierKey
from storage_ledger.domain.witnesses import Submission, Witness
from storage_ledger.ledger.proof.cosignatures import cosigner
from storage_ledger.ledger.proof.keys import SigningKey
from storage_ledger.system.clock import utc_now
from storage_ledger.system.http_server import Server, listen, port_of
from storage_ledger.witness.cosigner import Cosigner
from storage_ledger.witness.server import make_app, open_folder
from tests.support.judges import judge
from tests.support.valkey import free_port
from tests.support.waiting import until
from tests.support.warm import WarmProcess, shared

POLICY_LINE = re.compile(r"^witness (\S+) (\S+) (\S+)$", re.MULTILINE)


class Log:
    """A log of random leaves. `fork` makes one with the same key and another history after some leaves."""

    def __init__(self, name: str = "hospital-a.example/log", *, key: Ed25519PrivateKey | None = None, seed: str = "a") -> None:
        self.key = SigningKey(name, key or Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))
        self._leaves: list[bytes] = []
        self._seed = seed

    def grown(self, size: int) -> Log:
        self._leaves += [hashlib.sha256(f"{self._seed}{i}".encode()).digest() for i in range(len(self._leaves), size)]
        return self

    def fork(self, at: int, seed: str = "other") -> Log:
        other = Log(self.key.name, key=self.key.private, seed=seed)
        other._leaves = self._leaves[:at]
        return other

    def root(self, begin: int, end: int) -> bytes:
        return root_of(self._leaves[begin:end])

    def note(self, size: int) -> bytes:
        self.grown(size)
        text = Checkpoint(self.key.name, size, self.root(0, size)).text
        return SignedNote(text, (self.key.sign(text),)).data

    def proof(self, old: int, new: int) -> tuple[bytes, ...]:
        return tuple(consistency_path(old, new, self.root)) if 0 < old < new else ()

    def submission(self, old: int, new: int) -> bytes:
        self.grown(new)
        return Submission(old, self.proof(old, new), self.note(new)).data


@contextlib.contextmanager
def listening(folder: Path, logs: Sequence[VerifierKey], port: int = 0, name: str = "hospital-b.example/w") -> Iterator[Witness]:
    """Run ours in a thread of this process."""
    opened = open_folder(folder, name)
    server = Server(make_app(Cosigner(opened.key, logs, opened.records, utc_now)))
    with contextlib.closing(opened.records), contextlib.closing(listen("127.0.0.1", port, "WITNESS")) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield Witness(cosigner(opened.key), f"http://127.0.0.1:{port_of(listener)}")
        finally:
            server.should_exit = True
            thread.join()


class OurWitness:
    """`storage-ledger witness`."""

    def __init__(self, folder: Path, logs: Sequence[VerifierKey], name: str = "hospital-b.example/w") -> None:
        self.folder = folder
        self.data = folder / "witness"
        self.log = folder / "witness.log"
        self.port = free_port()
        self._arguments = ["--name", name, *(part for each in logs for part in ("--log", each.text))]
        self.process: WarmProcess | None = None

    def start(self) -> OurWitness:
        before = len(self._printed())
        command = ["storage-ledger", "witness", "--data", str(self.data), "--port", str(self.port), *self._arguments]
        self.process = shared().start(dict(os.environ), self.log, self.folder, *command)
        until(lambda: len(self._printed()) > before or self.process.poll() is not None, what=self.log.read_text)
        return self

    def _printed(self) -> list[tuple[str, str, str]]:
        return POLICY_LINE.findall(self.log.read_text()) if self.log.exists() else []

    @property
    def key(self) -> VerifierKey:
        return VerifierKey.parse(self._printed()[-1][1])

    @property
    def url(self) -> str:
        return self._printed()[-1][2]

    def stop(self) -> int:
        os.kill(self.process.pid, signal.SIGTERM)
        return self.process.wait(30)

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def evidence(self) -> str:
        return (
            shared()
            .run(dict(os.environ), self.folder, "storage-ledger", "witness", "--data", str(self.data), "--evidence", timeout_s=60)
            .stdout
        )

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


class AicsWitness:
    """aics-witness 0.1.0 from PyPI."""

    def __init__(self, folder: Path, logs: Sequence[VerifierKey], name: str = "hospital-c.example/w") -> None:
        self._program = str(judge("aics-witness==0.1.0", oldest=(3, 12)) / "aics-witness")
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.key = VerifierKey.parse(self._run("init", "--name", name, "--listen", f"127.0.0.1:{self.port}").strip())
        for each in logs:
            self._run("add-log", "--origin", each.name, "--vkey", each.text)

    def _run(self, *arguments: str) -> str:
        return subprocess.run([self._program, *arguments], cwd=self.folder, capture_output=True, text=True, check=True, timeout=60).stdout

    def start(self) -> AicsWitness:
        with (self.folder / "aics.log").open("ab") as log:
            self.process = subprocess.Popen([self._program, "serve"], cwd=self.folder, stdout=log, stderr=log)
        until(self._answers, what="aics-witness")
        return self

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(30)

    def evidence(self) -> str:
        return json.dumps(json.loads(self._run("evidence")))

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
