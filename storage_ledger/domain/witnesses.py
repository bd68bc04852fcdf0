"""Witnesses of checkpoints, and the request in which one is asked to cosign: c2sp.org/tlog-witness v1.0.0, c2sp.org/tlog-policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from storage_ledger.domain.checkpoint import CONSISTENCY_HASHES, SIZE
from storage_ledger.domain.signed_note import COSIGNATURE, VerifierKey, decoded, encoded

SIZE_TYPE = "text/x.tlog.size"
"""Content type of the answer 409, whose body is the size that the witness has cosigned."""
MOST_SIZE = (1 << 63) - 1
_NO_NAME = "none"


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness: its key, and the URL below which it takes checkpoints, without a slash at the end."""

    key: VerifierKey
    url: str

    @property
    def policy_line(self) -> str:
        """The line of a policy."""
        return f"witness {self.key.name} {self.key.text} {self.url}"


def read_witnesses(text: str) -> list[Witness]:
    """Read `<vkey> <url>, <vkey> <url> …`. Raises `ValueError` with the number of the wrong one, and what is wrong."""
    found: list[Witness] = []
    for number, each in enumerate((part for part in text.split(",") if part.strip()), 1):
        vkey, _, url = each.strip().partition(" ")
        try:
            key = VerifierKey.parse(vkey)
        except ValueError as error:
            raise ValueError(f"number {number} does not begin with a verifier key: {error}") from None
        if key.type != COSIGNATURE or key.name == _NO_NAME:
            raise ValueError(f"number {number} is not the key of a witness (type 4, with a name other than `none`)")
        if not url.strip() or " " in url.strip():
            raise ValueError(f"number {number} is not a verifier key and a URL, separated by a space")
        if any(key.name == other.key.name or key.public_key == other.key.public_key for other in found):
            raise ValueError(f"number {number} has the name or the key of an earlier one")
        found.append(Witness(key, url.strip().rstrip("/")))
    return found


def log_lines(keys: Iterable[VerifierKey]) -> list[str]:
    """Return the lines of a policy that trusts the log's keys, given newest first.

    A policy has each public key once. So its older names, from before a change of CHECKPOINT_ORIGIN, are comments.
    """
    lines, known = [], set[bytes]()
    for key in keys:
        lines.append(
            f"# the same key before CHECKPOINT_ORIGIN was changed: log {key.text}" if key.public_key in known else f"log {key.text}"
        )
        known.add(key.public_key)
    return lines


def quorum(witnesses: list[Witness]) -> list[str]:
    """Return the lines of a policy that asks for one of these witnesses; for none if there are none."""
    if not witnesses:
        return ["quorum none"]
    names = " ".join(each.key.name for each in witnesses)
    return [*(each.policy_line for each in witnesses), f"group witnesses any {names}", "quorum witnesses"]


@dataclass(frozen=True, slots=True)
class Submission:
    """The body of `add-checkpoint`. `old`: the size from which the proof leads to the note's."""

    old: int
    proof: tuple[bytes, ...]
    note: bytes

    @property
    def data(self) -> bytes:
        """The body as sent."""
        return f"old {self.old}\n{''.join(encoded(each) + chr(10) for each in self.proof)}\n".encode() + self.note

    @classmethod
    def parse(cls, data: bytes) -> Submission:
        """Read a body; its note is not looked at. Raises `ValueError` with what is wrong."""
        head, blank, note = data.partition(b"\n\n")
        if not blank:
            raise ValueError("no blank line before the checkpoint")
        try:
            first, *lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError:
            raise ValueError("the proof is not ASCII") from None
        old = first.removeprefix("old ")
        if old == first or SIZE.fullmatch(old) is None:
            raise ValueError("the first line is not `old` and a size")
        if len(lines) > CONSISTENCY_HASHES:
            raise ValueError(f"more than {CONSISTENCY_HASHES} hashes")
        proof = tuple(decoded(line) for line in lines)
        if any(len(each) != 32 for each in proof):
            raise ValueError("a hash does not have 32 bytes")
        return cls(int(old), proof, note)


def read_size(body: bytes) -> int | None:
    """Return the size in the answer 409; None if there is none."""
    text = body.decode("ascii", "replace").removesuffix("\n")
    return int(text) if SIZE.fullmatch(text) else None


def read_logs(policy: str) -> list[str]:
    """Return the verifier keys in the `log` lines of a policy."""
    lines = [line.split() for line in policy.splitlines()]
    return [words[1] for words in lines if len(words) > 1 and words[0] == "log"]
