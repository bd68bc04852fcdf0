"""The witness's HTTP server, its key and its folder."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from storage_ledger.domain.signed_note import MOST_BYTES, VerifierKey
from storage_ledger.errors import BadSettings, CheckpointRefused, LedgerError
from storage_ledger.ledger.proof import keys
from storage_ledger.ledger.proof.cosignatures import cosigner
from storage_ledger.ledger.proof.keys import SigningKey
from storage_ledger.system import logs
from storage_ledger.system.http_server import Server, ended_by_signals, listen, port_of
from storage_ledger.witness.cosigner import TEXT, Cosigner
from storage_ledger.witness.records import Records

KEY, RECORDS = "witness.key", "witness.db"
MOST_REQUEST_BYTES = MOST_BYTES + 4096
"""A note, and 63 hashes."""
FOLDER_MODE = 0o750
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class WitnessFolder:
    """A witness's opened folder."""

    key: SigningKey
    records: Records


def open_folder(folder: Path, name: str) -> WitnessFolder:
    """Open the folder of a witness; make key and records at its first start.

    Raises `CheckpointRefused` if only one of them is there, or they do not belong together: the witness would cosign a second history,
    or under another name. Raises `Retryable` if the key cannot be made.
    """
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise BadSettings("bad-settings", f"--data: {folder} cannot be created: {os.strerror(error.errno or 0)}") from error
    key_file, records_file = folder / KEY, folder / RECORDS
    if key_file.exists() and not records_file.exists():
        raise CheckpointRefused("witness-records-missing", f"{records_file}, the records of what {key_file} has cosigned, are missing")
    records = Records(records_file)
    recorded = records.vkey
    key = keys.load(key_file, name)
    if key is None:
        if recorded is not None:
            raise CheckpointRefused("witness-key-missing", f"{key_file} is missing, and {records_file} records what it has cosigned")
        key = keys.make(key_file, name)
    vkey = cosigner(key).text
    if recorded is None:
        records.begin(vkey)
    elif recorded != vkey:
        raise CheckpointRefused("witness-key-wrong", f"{records_file} belongs to {recorded}; the key or the name is a different one now")
    return WitnessFolder(key, records)


def make_app(witness: Cosigner) -> Starlette:
    """Return the app: `POST /add-checkpoint`, `GET /<SHA-256 of an origin>/checkpoint`, `GET /healthz`."""

    async def add(request: Request) -> Response:
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_REQUEST_BYTES:
                    return PlainTextResponse("The request is too large\n", 413, {"Connection": "close"})
            answer = await run_in_threadpool(witness.add_checkpoint, bytes(body))
        except ClientDisconnect:
            return PlainTextResponse("The request is incomplete\n", 400)
        except LedgerError as error:
            return _failed(error)
        return Response(answer.body, answer.code, {"Content-Type": answer.content_type})

    def newest(request: Request) -> Response:
        origin_hash = request.path_params["origin_hash"]
        try:
            note = witness.newest(origin_hash) if _HASH.fullmatch(origin_hash) else None
        except LedgerError as error:
            return _failed(error)
        if note is None:
            return PlainTextResponse("Not Found\n", 404)
        return Response(note, headers={"Content-Type": TEXT, "Cache-Control": "no-store"})

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n", headers={"Cache-Control": "no-store"})

    app = Starlette(
        routes=[
            Route("/add-checkpoint", add, methods=["POST"]),
            Route("/{origin_hash}/checkpoint", newest),
            Route("/healthz", healthz),
        ]
    )
    app.router.redirect_slashes = False
    return app


def run(
    folder: Path,
    name: str,
    log_keys: Sequence[VerifierKey],
    *,
    host: str,
    port: int,
    clock: Callable[[], datetime],
    on_ready: Callable[[VerifierKey, int], None],
) -> None:
    """Serve until SIGTERM or SIGINT. Call it in the main thread. `on_ready` gets the witness's key, and the port (0 takes a free one).

    Raises what `open_folder` raises, and `BadSettings` if the address cannot be used.
    """
    opened = open_folder(folder, name)
    with contextlib.closing(opened.records):
        if any(each.public_key == cosigner(opened.key).public_key for each in log_keys):
            raise BadSettings("bad-settings", "--log: is this witness's own key")
        server = Server(make_app(Cosigner(opened.key, log_keys, opened.records, clock)), health=["/healthz"])
        with ended_by_signals(server), contextlib.closing(listen(host, port, "WITNESS")) as listener:
            logs.get().info("witness.listening", host=host, port=port_of(listener))
            on_ready(cosigner(opened.key), port_of(listener))
            server.run([listener])


def _failed(error: LedgerError) -> Response:
    logs.get().error("witness.failed", code=error.code, errno=error.errno)
    return PlainTextResponse("The records cannot be read or written now\n", 503)
