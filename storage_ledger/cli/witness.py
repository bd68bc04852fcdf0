"""`storage-ledger witness`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from storage_ledger.domain.signed_note import VerifierKey
    from storage_ledger.witness.records import Records


def witness(
    data: Annotated[
        Path,
        typer.Option(help="Folder for the witness's key and records; created at the first start.", envvar="WITNESS_DATA", metavar="DIR"),
    ],
    name: Annotated[
        str,
        typer.Option(
            help="Name of the witness, such as hospital-b.example/witness. It cannot be changed.", envvar="WITNESS_NAME", metavar="NAME"
        ),
    ] = "",
    log: Annotated[
        list[str] | None, typer.Option(help="Public key of a log to cosign for. Can be repeated.", envvar="WITNESS_LOGS", metavar="VKEY")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="File with such keys, from `storage-ledger checkpoint --policy`.", envvar="WITNESS_POLICY", metavar="FILE"),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.", envvar="WITNESS_HOST", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 picks a free one.", envvar="WITNESS_PORT", min=0, max=65535, metavar="PORT")
    ] = 8005,
    evidence: Annotated[bool, typer.Option("--evidence", help="Print checkpoints that contradict each other, and exit.")] = False,
) -> None:
    """Run a witness, which cosigns the checkpoints of other organisations' ledgers.

    It cosigns a checkpoint only if it continues the last one that it cosigned for the same ledger, so nobody can be shown a different
    history. It prints its public key as a line for their policy. It speaks plain HTTP without a login, and receives no patient data. It
    accepts checkpoints of any log that follows c2sp.org/tlog-witness.

    Exit code 1 if `--evidence` prints anything.
    """
    from storage_ledger.settings import Settings
    from storage_ledger.system import logs
    from storage_ledger.system.clock import utc_now
    from storage_ledger.system.sandbox import hide_memory
    from storage_ledger.witness import server
    from storage_ledger.witness.records import Records

    settings = Settings.load()
    logs.configure(settings.log_level, environment=settings.environment)
    if evidence:
        if not (data / server.RECORDS).is_file():
            raise typer.BadParameter(f"{data} has no records of a witness")
        raise typer.Exit(_print_evidence(Records(data / server.RECORDS)))
    keys = _keys(log or [], policy)
    if not _is_name(name):
        raise typer.BadParameter("--name: letters, digits and ._~- with single slashes between, such as hospital-b.example/witness")

    def ready(key: VerifierKey, on_port: int) -> None:
        print(f"witness {key.name} {key.text} http://{f'[{host}]' if ':' in host else host}:{on_port}", flush=True)

    hide_memory()
    server.run(data, name, keys, host=host, port=port, clock=utc_now, on_ready=ready)


def _is_name(name: str) -> bool:
    import re

    return re.fullmatch(r"[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*", name) is not None and name != "none"


def _keys(texts: list[str], policy: Path | None) -> list[VerifierKey]:
    from storage_ledger.domain.signed_note import ED25519, VerifierKey
    from storage_ledger.domain.witnesses import read_logs

    if policy is not None:
        try:
            texts = [*texts, *read_logs(policy.read_text(encoding="utf-8"))]
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"--policy: {policy} cannot be read") from error
    found = []
    for number, text in enumerate(texts, 1):
        try:
            key = VerifierKey.parse(text)
        except ValueError as error:
            raise typer.BadParameter(f"log {number} is not a verifier key: {error}") from None
        if key.type != ED25519:
            raise typer.BadParameter(f"log {number} is a witness's key, not a log's")
        found.append(key)
    if not found:
        raise typer.BadParameter("--log or --policy: name at least one log")
    return found


def _print_evidence(records: Records) -> int:
    from datetime import UTC, datetime

    from storage_ledger.domain.ids import rfc3339

    found = records.evidence()
    records.close()
    for each in found:
        print(f"{rfc3339(datetime.fromtimestamp(each.at, UTC))} {each.origin}: refused, because {each.reason}\n")
        print("Cosigned before:\n")
        print(each.cosigned.decode("utf-8"))
        print("Refused:\n")
        print(each.refused.decode("utf-8"))
    return 1 if found else 0
