"""Proofs on the web page: whether a study can be proved now, and the bundle that `storage-ledger prove` would write, as a ZIP file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

from storage_ledger.domain.entries import Entry, Kind
from storage_ledger.domain.error_catalogue.checkpoints import CHECKPOINTS
from storage_ledger.domain.error_catalogue.explanation import plain
from storage_ledger.domain.signed_note import VerifierKey
from storage_ledger.errors import ProofError, Retryable, StorageLedgerError
from storage_ledger.ledger.entry_rows import LEAF_HASHES
from storage_ledger.ledger.proof.checkpoints import CheckpointFolder
from storage_ledger.ledger.proof.keys import KEYS_READ, verifier_keys
from storage_ledger.ledger.proof.tree_hashes import BlockFile
from storage_ledger.operations.prove.bundle import bundle
from storage_ledger.operations.prove.covering import SignedCheckpoint, newest, require_covered
from storage_ledger.operations.prove.output import zipped
from storage_ledger.operations.prove.proofs import Proof, proofs
from storage_ledger.operations.prove.selection import in_order
from storage_ledger.web.pages.ledger_entries import entries, of_no_study
from storage_ledger.web.pages.queries import ask_one, marks

CURRENT_FOR_S = 5.0
"""How long the newest checkpoint is remembered: the folder may have a hundred thousand, and every page of a study asks."""
WITHIN_S = 2.0
MOST_STUDIES = 5_000
MOST_CHARACTERS = 16_000_000
"""Of all payloads of a bundle, which is made in memory."""
TOO_LARGE = "the web page makes no bundle of this size: run `storage-ledger prove`"
AT_A_TIME = 100
"""Studies, or proofs, in one question to the ledger: a question has a second."""


def reason(error: StorageLedgerError) -> str:
    """Return a sentence for the page: what the error's code means, or the error's own text."""
    meant = CHECKPOINTS.find(error.code)
    return plain(meant.means) if meant else f"{error.detail[:1].upper()}{error.detail[1:]}."


class AskLedger(Protocol):
    """Asks a database a question, within its time limit."""

    async def __call__(self, database: str, question: Callable[[Any], Any]) -> Any:
        """Run `question` with a connection to that database in another thread, and return its result."""


@dataclass(frozen=True, slots=True)
class SignedLedger:
    """The newest checkpoint, and the keys that the ledger records."""

    ledger_id: str
    keys: list[VerifierKey]
    signed: SignedCheckpoint


class StudyProofs:
    """Makes proofs from the ledger's file and the archive's checkpoints. Raises `ProofError` and `Retryable`."""

    def __init__(self, databases: AskLedger, archive_root: Path, blocks: Path, *, within_s: float = WITHIN_S) -> None:
        self._databases = databases
        self._within_s = within_s
        self._folder = CheckpointFolder(archive_root)
        self._blocks = blocks
        self._newest: tuple[float, SignedLedger | ProofError | Retryable] | None = None
        self._reading: asyncio.Future[None] | None = None

    async def newest(self) -> SignedLedger:
        """Return the newest valid checkpoint, or raise why there is none. However many ask, one thread reads.

        Raises `Retryable` (`hangs`) if the archive's volume does not answer soon: the rest of a study's page does not need it.
        """
        if self._newest is None or time.monotonic() - self._newest[0] > CURRENT_FOR_S:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.ensure_future(self._read_newest())
            done, _ = await asyncio.wait([self._reading], timeout=self._within_s)
            if not done:
                raise Retryable("hangs", "the archive's volume does not answer")
            self._reading.result()  # a bug crashes the request that meets it
        assert self._newest is not None  # noqa: S101 - the reading has set it
        if isinstance(self._newest[1], SignedLedger):
            return self._newest[1]
        raise self._newest[1]

    async def refusal(self, position: int | None) -> str:
        """Return why the entries up to `position` cannot be proved now; empty if they can."""
        try:
            require_covered((await self.newest()).signed, position or 0)
        except (ProofError, Retryable) as error:
            return reason(error)
        return ""

    async def entries_of(self, studies: Sequence[str]) -> list[Entry]:
        """Return the entries of these pipeline studies in order. Raises `ProofError` (`proof-too-large`)."""
        if len(studies) > MOST_STUDIES:
            raise ProofError("proof-too-large", TOO_LARGE)
        found: list[Entry] = []
        left = MOST_CHARACTERS
        for at in range(0, len(studies), AT_A_TIME):
            some = tuple(studies[at : at + AT_A_TIME])

            def question(connection: Any, some: tuple[str, ...] = some, left: int = left) -> list[Entry]:
                where = f"study_id IN ({marks(some)})"
                total = ask_one(connection, f"SELECT sum(length(payload)) AS n FROM entries WHERE {where}", some)  # noqa: S608 - marks
                if ((total or {}).get("n") or 0) > left:
                    raise ProofError("proof-too-large", TOO_LARGE)
                return entries(connection, where, some)

            more = await self._databases("ledger", question)
            left -= sum(len(str(each.payload)) for each in more)
            found += more
        return in_order(found)

    async def proofs(self, signed: SignedLedger, chosen: Sequence[Entry], *, with_payload: bool) -> list[Proof]:
        """Return a proof of each entry, checked against the signed root."""
        blocks = await asyncio.to_thread(BlockFile(self._blocks, signed.ledger_id).read)
        found: list[Proof] = []
        for at in range(0, len(chosen), AT_A_TIME):
            some = chosen[at : at + AT_A_TIME]

            def question(connection: Any, some: Sequence[Entry] = some) -> list[Proof]:
                def leaf_hashes(after: int, up_to: int) -> Any:
                    return map(itemgetter(0), connection.execute(LEAF_HASHES, (after, up_to)))

                return proofs(some, signed.signed, leaf_hashes, blocks, with_payload=with_payload)

            found += await self._databases("ledger", question)
        return found

    async def zip_of(self, studies: Sequence[str], name: str) -> bytes | None:
        """Return the bundle of these studies as a ZIP file with one folder; None if they have no entries."""
        chosen = await self.entries_of(studies)
        if not chosen:
            return None
        signed = await self.newest()
        require_covered(signed.signed, chosen[-1].position)
        made = await self.proofs(signed, chosen, with_payload=True)
        return await asyncio.to_thread(lambda: zipped(bundle(made, signed.signed, signed.keys, with_payload=True), name))

    async def _read_newest(self) -> None:
        try:
            found: SignedLedger | ProofError | Retryable = await self._signed_ledger()
        except (ProofError, Retryable) as error:
            found = error
        self._newest = time.monotonic(), found

    async def _signed_ledger(self) -> SignedLedger:
        def question(connection: Any) -> tuple[str, list[VerifierKey]]:
            row = ask_one(connection, "SELECT value FROM meta WHERE name = 'ledger_id'") or {"value": ""}
            return row["value"], verifier_keys(of_no_study(connection, (Kind.KEY.value,), KEYS_READ))

        ledger_id, keys = await self._databases("ledger", question)
        signed = await asyncio.to_thread(newest, self._folder, ledger_id, keys)
        return SignedLedger(ledger_id, keys, signed)
