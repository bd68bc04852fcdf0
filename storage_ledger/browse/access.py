"""Who may enter: users with their password hashes, and the secret that signs their cookies."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from storage_ledger.errors import BadSettings

ADVICE = (
    "Nobody can log in yet: set BROWSE_PASSWORD_HASH (or BROWSE_PASSWORD_HASH_FILE) to what "
    "`storage-ledger browse --hash-password` prints, and start it again."
)
_HASH = re.compile(r"pbkdf2_sha256\$[1-9][0-9]{0,8}\$[^$\s]+\$[A-Za-z0-9+/]+=*")
_USER = re.compile(r"(?!.*_password_hash)[A-Za-z0-9._@-]{1,64}")  # so datasette-auth-passwords names a user's setting


class BrowseSettings(BaseSettings):
    """What the environment says of browsing. Every field is the environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    browse_user: str = Field("admin", description="Name of the user whose hash stands without a name.")
    browse_password_hash: str | None = Field(
        None, description="Hash of the password, made by `storage-ledger browse --hash-password`; or `user:hash`, several with a space."
    )
    browse_password_hash_file: Path | None = Field(
        None, description="A file that holds the same, one a line; for secrets. Only one of the two may be set."
    )
    browse_secret: str | None = Field(
        None, min_length=32, description="Signs the cookies; without it one is made and kept in LEDGER_PATH/browse-secret."
    )
    browse_wait_seconds: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] = Field(
        60, description="How long to wait at the start for ledger.db and index.db, which `serve` makes."
    )

    @classmethod
    def load(cls) -> Self:
        """Read the environment. Raises `BadSettings` naming every wrong variable at once, never its value."""
        try:
            return cls()
        except ValidationError as error:
            lines = [f"{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()]
            raise BadSettings("bad-settings", "\n".join(lines)) from None


@dataclass(frozen=True, slots=True)
class Access:
    """`open`: everybody may enter. Otherwise only `users` (name → hash), of whom there may be none."""

    users: Mapping[str, str]
    secret: str
    open: bool = False

    @property
    def allow(self) -> dict[str, list[str]] | None:
        """As Datasette's `allow` blocks say it: also somebody whose cookie is still good, but who was taken out, stays outside."""
        return None if self.open else {"id": sorted(self.users)}


def read_access(settings: BrowseSettings, folder: Path, *, is_open: bool) -> Access:
    """Put it together from the settings. Raises `BadSettings`; `folder` is where the secret is kept."""
    users = {} if is_open else _users(settings)
    kept = settings.browse_secret or (_kept_secret(folder / "browse-secret") if users else secrets.token_hex(32))
    # Another password, another secret: whoever changes one wants the old cookies to end.
    told = "\n".join(f"{name}:{users[name]}" for name in sorted(users))
    return Access(users, hmac.digest(kept.encode(), told.encode(), hashlib.sha256).hex(), is_open)


def _users(settings: BrowseSettings) -> dict[str, str]:
    name, text = _told(settings)
    users: dict[str, str] = {}
    for word in text.split():
        user, colon, hashed = word.rpartition(":")
        user = user if colon else settings.browse_user
        if not _HASH.fullmatch(hashed):
            raise BadSettings(
                "bad-settings",
                f"{name}: is no hash as `storage-ledger browse --hash-password` makes it: pbkdf2_sha256$480000$… "
                "(in a shell, .env or compose file it stands in single quotes: a $ would begin a variable)",
            )
        if not _USER.fullmatch(user):
            raise BadSettings("bad-settings", f"{name if colon else 'BROWSE_USER'}: a user name is 1 to 64 of A-Z a-z 0-9 . _ @ -")
        if user in users:
            raise BadSettings("bad-settings", f"{name}: names a user twice")
        users[user] = hashed
    return users


def _told(settings: BrowseSettings) -> tuple[str, str]:
    file = settings.browse_password_hash_file
    if file is None:
        return "BROWSE_PASSWORD_HASH", settings.browse_password_hash or ""
    if settings.browse_password_hash is not None:
        raise BadSettings("bad-settings", "BROWSE_PASSWORD_HASH and BROWSE_PASSWORD_HASH_FILE: set one of the two")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else "it is not text"
        raise BadSettings("bad-settings", f"BROWSE_PASSWORD_HASH_FILE: {file} cannot be read: {why}") from error
    return "BROWSE_PASSWORD_HASH_FILE", text


def _kept_secret(file: Path) -> str:
    """The secret of this ledger, made at the first start; whoever reads it can enter as anybody, hence 0600."""
    try:
        _make(file)
        kept = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else "it is not text"
        raise BadSettings("bad-settings", f"BROWSE_SECRET: is not set, and {file} cannot be used: {why}") from error
    if len(kept) < 32:
        raise BadSettings("bad-settings", f"BROWSE_SECRET: is not set, and {file} is too short: remove it, and start again")
    return kept


def _make(file: Path) -> None:
    """Complete or not at all, and never over another's: a second process may be starting, too."""
    if file.exists():
        return
    file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, (secrets.token_hex(32) + "\n").encode())
        os.fsync(descriptor)
        if not file.exists():
            os.link(part, file)
    except FileExistsError:
        pass
    finally:
        os.close(descriptor)
        part.unlink(missing_ok=True)
