"""The files that an auditor gets: proofs, the checkpoint that they end with, a program that checks them, and what it all means."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

from storage_ledger.domain.signed_note import VerifierKey
from storage_ledger.domain.witnesses import log_lines
from storage_ledger.operations.prove.covering import SignedCheckpoint
from storage_ledger.operations.prove.proofs import Proof

README = "README.txt"
PROGRAM = "verify.py"
POLICY = "policy-for-orientation.txt"

_TEXT = """\
What this is
------------
Proofs that entries are in the ledger {ledger}
of a DICOM archive, in the state that this checkpoint signs:

{note}
Each file NUMBER.tlog-proof proves one entry; NUMBER is its position.
{payloads}

What it proves
--------------
- Each of these entries, with every byte of its header{and_payload}, is one of the {size} entries that the checkpoint stands for.
- The holder of the log's key signed that.
- A file is the one that was archived, if its SHA-256 is in an entry's payload (the program compares FILE with them).

What it does not prove
----------------------
- That there is no other entry about the same study. Only the whole ledger shows that.
- That the clock was right: `recorded_at` is what the ledger says. A witness's signature or a time stamp, if there is one, shows
  that the entries are not newer than its own time.
- Who did something: names in entries are whatever was typed.
- That the key's holder shows everybody the same ledger. Compare the checkpoint with one that others keep: a witness, a mail, a printout.

How to check it
---------------
1. Get the policy, which lists the public keys, from the archive's operator by another route than these files: by post, by telephone
   or in person. {policy} shows what to expect, but anyone who can forge the proofs can forge it too.
2. With Python 3.8 or newer, in this folder:

       python3 {program} POLICY *.tlog-proof
       python3 {program} POLICY *.tlog-proof FILE      FILE is an archived DICOM file

   In PowerShell:  python {program} POLICY (Get-Item *.tlog-proof)
   It prints what is proved and what is not, and why. You can read all of it: it is one short file and needs nothing else.
   Or use another program for c2sp.org/tlog-proof, for instance proofbundle from PyPI.
{stamp}"""

_STAMP = """\
3. The time stamp says that the checkpoint is not newer than the time in it:

       openssl ts -verify -data {size}.checkpoint -in {size}.tsr -CAfile CERTIFICATE-OF-THE-AUTHORITY.pem
"""


class File(NamedTuple):
    """A file of a bundle."""

    name: str
    data: bytes


def bundle(proofs: Sequence[Proof], signed: SignedCheckpoint, keys: Sequence[VerifierKey], *, with_payload: bool) -> list[File]:
    """Return all files of a bundle. `keys`: those that the ledger records, newest first."""
    size = signed.checkpoint.size
    text = _TEXT.format(
        ledger=signed.checkpoint.origin,
        note="".join(f"    {line}\n" for line in signed.joined.decode().splitlines()),
        size=size,
        payloads="They hold the entries' payloads, so patients' data: keep them as confidential as the images."
        if with_payload
        else "They do not hold the entries' payloads. A header can still name a study.",
        and_payload=" and its payload" if with_payload else "",
        policy=POLICY,
        program=PROGRAM,
        stamp=_STAMP.format(size=size) if signed.time_stamp is not None else "",
    )
    found = [
        File(README, text.encode()),
        File(PROGRAM, program()),
        File(POLICY, _policy(keys)),
        File(f"{size}.checkpoint", signed.note),
    ]
    if signed.time_stamp is not None:
        found.append(File(f"{size}.tsr", signed.time_stamp))
    return [*found, *(File(each.name, each.data) for each in proofs)]


def program() -> bytes:
    """Return the source of the program that checks proofs."""
    return (files("storage_ledger.operations.prove") / PROGRAM).read_bytes()


def _policy(keys: Sequence[VerifierKey]) -> bytes:
    lines = [
        "# For orientation only: anyone who can forge the proofs beside it can forge this file too.",
        "# Get the policy from the operator by another route; this prints it: storage-ledger checkpoint --policy",
        *log_lines(keys),
        "quorum none",
    ]
    return "".join(f"{line}\n" for line in lines).encode()
