"""`storage-ledger prove` and `storage-ledger verify-proof`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def prove(
    study_id: Annotated[
        str | None, typer.Argument(metavar="STUDY_ID", help="The pipeline's study_id, or its first 8 or more characters.")
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="A new or empty folder to write to, or a new ZIP file if the name ends with `.zip`."
        ),
    ] = ...,  # type: ignore[assignment] # typer's mark of a required option
    dicom_study: Annotated[
        str | None, typer.Option("--dicom-study", metavar="UID", help="Prove all studies that have a file with this Study Instance UID.")
    ] = None,
    position: Annotated[int | None, typer.Option("--position", metavar="N", min=1, help="Prove only this entry.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="PATH", help="Prove all studies in which exactly this file was archived.")
    ] = None,
    no_payload: Annotated[bool, typer.Option("--no-payload", help="Leave out the entries' payloads, which hold patient data.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prove to an auditor that a study's entries are in the ledger, unchanged.

    Writes a proof for each entry (`<position>.tlog-proof`), a program that checks them and needs only Python (`verify.py`), and a
    README.txt that says what they prove and what they do not. Each proof ends with the newest checkpoint. Nothing is overwritten;
    `serve` may be running.

    Exit code 1 if there is no such study, entry or file; 2 if nothing was written, for example because the entries are newer than the
    last checkpoint.
    """
    from storage_ledger.cli.study_prefix import meant
    from storage_ledger.domain.signed_note import encoded
    from storage_ledger.operations.prove.selection import Wanted
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import prove
    from storage_ledger.wiring.stores import reading

    if sum(each is not None for each in (study_id, dicom_study, position, file)) != 1:
        raise typer.BadParameter("give exactly one of STUDY_ID, --dicom-study, --position and --file")
    settings = Settings.load()
    if study_id is not None:
        with reading(settings) as ledger:
            study_id = meant(ledger, study_id)
    made = prove.prove(settings, Wanted(study_id, dicom_study, position, file), output, with_payload=not no_payload)
    if made is None:
        print("Nothing to prove: the ledger has no such study, entry or file.")
        raise typer.Exit(1)
    signed = made.checkpoint
    if as_json:
        from storage_ledger.cli.output import print_json

        checkpoint = {"origin": signed.origin, "size": signed.size, "root": encoded(signed.root)}
        print_json(
            {"output": str(made.output), "study_ids": made.study_ids, "positions": made.positions, "payloads": not no_payload}
            | {"checkpoint": checkpoint}
        )
    else:
        proofs = "1 proof" if len(made.positions) == 1 else f"{len(made.positions)} proofs"
        print(f"{made.output}: {proofs}, with the checkpoint of {signed.size} entries.")


def verify_proof(
    policy: Annotated[
        Path, typer.Argument(metavar="POLICY", help="File with the public keys to trust, from `storage-ledger checkpoint --policy`.")
    ],
    files: Annotated[
        list[Path],
        typer.Argument(metavar="PROOF", help="Proofs (`*.tlog-proof`), and optionally one archived file."),
    ],
) -> None:
    """Check proofs written by `prove` and, if given, that a file is the one that was archived.

    Needs neither a ledger nor settings. Does the same as `verify.py`, which `prove` writes beside the proofs.

    Exit code 1 if something is not proved, 2 if the policy is wrong or a file cannot be read.
    """
    from storage_ledger.operations.prove import verify

    raise typer.Exit(verify.main([str(policy), *map(str, files)]))
