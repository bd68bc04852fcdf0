"""The keys that sign checkpoints: Ed25519, one PEM file each (PKCS #8), which only the service's user can read.

The `key` entries of the ledger record which key signs from which position on. A key is made once, before the first checkpoint. After
that, a missing key is never replaced without a person: whoever checks signatures must hear of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key

from storage_ledger.domain.entries import Entry, Kind, faults
from storage_ledger.domain.ids import instant
from storage_ledger.domain.payloads import KeyPayload, UnreadablePayload
from storage_ledger.domain.signed_note import ED25519, Signature, VerifierKey
from storage_ledger.errors import CheckpointRefused, LedgerUnusable, Retryable
from storage_ledger.ledger.contract import Ledger
from storage_ledger.system import files, logs
from storage_ledger.system.files import opened

MODE = 0o400
MOST_BYTES = 16_384
KEYS_READ = 1000
TEMPORARY = ".checkpoint.key.tmp"
NEXT, PREVIOUS = ".next", ".previous"
"""Added to the name of the key's file: the key that a rotation has made, and the one that still signs beside the present one."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key. `name`: the origin of the checkpoints that it signs."""

    name: str
    private: Ed25519PrivateKey

    @property
    def verifier(self) -> VerifierKey:
        """The public key."""
        return VerifierKey(self.name, ED25519, self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def sign(self, text: str) -> Signature:
        """Sign the text of a note. The same text gets the same signature."""
        key = self.verifier
        return Signature(key.name, key.key_id, self.private.sign(text.encode()))


def is_signed(message: bytes, signature: bytes, key: VerifierKey) -> bool:
    """Return whether an Ed25519 signature is valid: 64 bytes over `message`."""
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def recorded_keys(ledger: Ledger) -> list[KeyPayload]:
    """Return the `key` entries, newest first, without damaged ones."""
    return _payloads(ledger.of_no_study([Kind.KEY.value], KEYS_READ))


def recorded_verifier_keys(ledger: Ledger) -> list[VerifierKey]:
    """Return the keys that the ledger records, newest first, without damaged ones."""
    return verifier_keys(ledger.of_no_study([Kind.KEY.value], KEYS_READ))


def verifier_keys(entries: Iterable[Entry]) -> list[VerifierKey]:
    """Return the keys that these `key` entries record, without damaged ones."""
    return [VerifierKey.parse(each.vkey) for each in _payloads(entries)]


def _payloads(entries: Iterable[Entry]) -> list[KeyPayload]:
    found = []
    for entry in entries:
        if not faults(entry):
            try:
                found.append(KeyPayload.of(entry))
            except (UnreadablePayload, LedgerUnusable):
                continue
    return found


def signing_keys(ledger: Ledger, path: Path, origin: str, now: datetime) -> list[SigningKey]:
    """Return the keys that sign now: the present one, and for a while after a rotation the one before.

    The first call makes the key at `path` and appends the `key` entry; both are durable on return. The caller holds the lock of
    checkpoints. Raises `CheckpointRefused` (`checkpoint-key-missing`, `-wrong`, `-unreadable`), and `Retryable` if a volume fails.
    """
    recorded = next(iter(recorded_keys(ledger)), None)
    key = load(path, origin)
    if recorded is None:
        key = key or make(path, origin)
        _record(ledger, KeyPayload(key.verifier.text))
        return [key]
    if key is None or key.verifier.text != recorded.vkey:
        key = _finish_rotation(path, origin, recorded.vkey) or key
    if key is None:
        text = f"{path} is missing, but the ledger records a key"
        raise CheckpointRefused("checkpoint-key-missing", text)
    if key.verifier.text != recorded.vkey:
        before = VerifierKey.parse(recorded.vkey)
        if before.public_key != key.verifier.public_key:
            raise CheckpointRefused("checkpoint-key-wrong", f"{path} holds a different key from the ledger's last `key` entry")
        recorded = KeyPayload(key.verifier.text, replaces=recorded.vkey)  # CHECKPOINT_ORIGIN was changed
        _record(ledger, recorded)
    if recorded.both_until is not None and now < instant(recorded.both_until):
        try:
            before_it = load(path.with_name(path.name + PREVIOUS), origin)
        except CheckpointRefused as error:  # the present key is what counts
            logs.get().error("checkpoint.previous-key", code=error.code, errno=error.errno)
            return [key]
        if before_it is not None and before_it.verifier.text == recorded.replaces:
            return [key, before_it]
    return [key]


def load(path: Path, name: str) -> SigningKey | None:
    """Read a key; None if there is no file. Raises `CheckpointRefused` (`checkpoint-key-unreadable`)."""
    try:
        with opened(path, files.READ) as descriptor:
            data = os.pread(descriptor, MOST_BYTES, 0)
        private = load_pem_private_key(data, None)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointRefused("checkpoint-key-unreadable", f"{path}: {os.strerror(error.errno or 0)}", errno=error.errno) from error
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise CheckpointRefused("checkpoint-key-unreadable", f"{path} is not an unencrypted private key in PEM form") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise CheckpointRefused("checkpoint-key-unreadable", f"{path} holds a key that is not Ed25519")
    return SigningKey(name, private)


def make(path: Path, name: str, *, replaces: bool = False) -> SigningKey:
    """Make a key. Bytes and name are durable on return. A file that is there is not replaced, unless `replaces`.

    Raises `Retryable` (`checkpoint-key-not-made`) if the folder is missing, read-only or full.
    """
    private = Ed25519PrivateKey.generate()
    data = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        with opened(path.parent, files.VOLUME) as folder:
            files.unlink_if_exists(TEMPORARY, folder)  # a killed caller may have left another key
            files.write_file(TEMPORARY, data, folder, MODE)
            if replaces:
                files.unlink_if_exists(path.name, folder)
            os.link(TEMPORARY, path.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            os.unlink(TEMPORARY, dir_fd=folder)
            os.fsync(folder)
    except OSError as error:
        text = f"{path} cannot be created: {os.strerror(error.errno or 0)}"
        raise Retryable("checkpoint-key-not-made", text, errno=error.errno) from error
    return SigningKey(name, private)


def _record(ledger: Ledger, payload: KeyPayload) -> None:
    with ledger.write() as tx:
        tx.append(payload.entry())


def _finish_rotation(path: Path, origin: str, vkey: str) -> SigningKey | None:
    """Put the next key in place if the ledger records it already: the rotation was interrupted after its entry.

    The name in `vkey` is another one if CHECKPOINT_ORIGIN was changed meanwhile.
    """
    following = path.with_name(path.name + NEXT)
    key = load(following, origin)
    if key is None or key.verifier.public_key != VerifierKey.parse(vkey).public_key:
        return None
    put_in_place(path)
    return key


def require_no_folder(path: Path) -> None:
    """Raise `Retryable` (`checkpoint-key-not-made`) if a folder has the name of one of the key's files.

    Docker makes a folder in place of a file that is to be mounted and is missing.
    """
    for each in (path, *(path.with_name(path.name + end) for end in (NEXT, PREVIOUS)), path.with_name(TEMPORARY)):
        if os.path.isdir(each):
            raise Retryable("checkpoint-key-not-made", f"{each} is a folder: move it away")


def put_in_place(path: Path) -> None:
    """Rename the present key to the previous one, and the next to the present. Durable on return; may be called again."""
    require_no_folder(path)
    try:
        with opened(path.parent, files.VOLUME) as folder:
            if files.exists(path.name, folder):
                os.rename(path.name, path.name + PREVIOUS, src_dir_fd=folder, dst_dir_fd=folder)
            os.rename(path.name + NEXT, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
    except OSError as error:
        text = f"{path} cannot be replaced: {os.strerror(error.errno or 0)}"
        raise Retryable("checkpoint-key-not-made", text, errno=error.errno) from error
