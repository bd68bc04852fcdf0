"""Signed notes, their keys and signatures: the text form of C2SP signed-note v1.0.0 (c2sp.org/signed-note).

A note is a text, a blank line, and one line for each signature. Nothing here computes a signature: see `ledger.proof.keys`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Self

ED25519 = 1
"""Type of a key that signs the text itself."""
COSIGNATURE = 4
"""Type of a witness's key, which signs the text with a time: c2sp.org/tlog-cosignature."""
MARK = "\u2014 "
MOST_BYTES = 65_536
"""Of a note that is read: a checkpoint with dozens of signatures has a few kilobytes."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key, with the name of its owner."""

    name: str
    type: int
    public_key: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `name+key ID+key`. Raises `ValueError` if it is anything else, or the key ID does not fit."""
        name, _, rest = text.partition("+")
        key_id, _, encoded = rest.partition("+")
        key = decoded(encoded)
        found = cls(_name(name), key[0] if key else 0, key[1:])
        if found.key_id.hex() != key_id:
            raise ValueError("the key ID does not fit the name and the key")
        if found.type not in {ED25519, COSIGNATURE} or len(found.public_key) != 32:
            raise ValueError("only Ed25519 keys are supported (types 1 and 4)")
        return found

    @property
    def key_id(self) -> bytes:
        """The first four bytes of a hash over name and key."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.type]) + self.public_key).digest()[:4]

    @property
    def origin_hash(self) -> str:
        """The hash under which a witness shows the checkpoints of the log with this name (c2sp.org/tlog-witness)."""
        return hashlib.sha256(self.name.encode()).hexdigest()

    @property
    def text(self) -> str:
        """The form that policies and `parse` use."""
        return f"{self.name}+{self.key_id.hex()}+{encoded(bytes([self.type]) + self.public_key)}"


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line. `value`: what follows the key ID."""

    name: str
    key_id: bytes
    value: bytes

    @property
    def line(self) -> str:
        """The line, with its line feed."""
        return f"{MARK}{self.name} {encoded(self.key_id + self.value)}\n"

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a line without its line feed. Raises `ValueError`."""
        if not line.startswith(MARK):
            raise ValueError("a signature line does not begin with a dash and a space")
        name, _, value = line.removeprefix(MARK).partition(" ")
        data = decoded(value)
        if len(data) < 5:
            raise ValueError("a signature is too short")
        return cls(_name(name), data[:4], data[4:])

    def is_by(self, key: VerifierKey) -> bool:
        """Return whether name and key ID are those of `key`. The signature may be wrong nevertheless."""
        return self.name == key.name and self.key_id == key.key_id


@dataclass(frozen=True, slots=True)
class SignedNote:
    """A note. `text` ends with a line feed."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a note. Raises `ValueError` with what is wrong."""
        if len(data) > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES} bytes")
        try:
            whole = data.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("it is not UTF-8") from None
        if any(each < " " and each != "\n" for each in whole):
            raise ValueError("it has a control character")
        text, blank, lines = whole.rpartition("\n\n")
        if not blank or not lines.endswith("\n"):
            raise ValueError("it has no signature, or ends without a line feed")
        return cls(text + "\n", tuple(Signature.parse(line) for line in lines.removesuffix("\n").split("\n")))

    @property
    def data(self) -> bytes:
        """The note as stored."""
        return f"{self.text}\n{''.join(each.line for each in self.signatures)}".encode()


def encoded(data: bytes) -> str:
    """Return standard Base64, padded."""
    return base64.b64encode(data).decode("ascii")


def decoded(text: str) -> bytes:
    """Decode standard Base64. Raises `ValueError` for any other spelling of the same bytes."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("it is not Base64") from None
    if encoded(data) != text:
        raise ValueError("it is not canonical Base64")
    return data


def _name(text: str) -> str:
    if not text or "+" in text or any(each.isspace() or each < " " for each in text):
        raise ValueError("a key's name must not be empty, nor have spaces, control characters or a plus sign")
    return text
