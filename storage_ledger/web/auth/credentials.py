"""Who may log in: users with their password hashes, machines with their tokens, and the secret that signs cookies."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from storage_ledger.errors import BadSettings
from storage_ledger.web.auth.token_scopes import USUAL, Grant

ADVICE = (
    "Nobody can log in yet: set BROWSE_PASSWORD_HASH (or BROWSE_PASSWORD_HASH_FILE) to what "
    "`storage-ledger browse --hash-password` prints, and start it again."
)
_HASH = re.compile(r"pbkdf2_sha256\$[1-9][0-9]{0,8}\$[^$\s]+\$[A-Za-z0-9+/]+=*")
_USER = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_TOKEN_HASH = re.compile(r"[0-9a-f]{64}")
_MACHINE = "token:"
ROUNDS = 480_000
NOBODY = f"pbkdf2_sha256${ROUNDS}$nobody$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
"""A hash that no password has: checking an unknown user takes as long as a known one."""


class BrowseSettings(BaseSettings):
    """What the environment says of browsing. Every field is the environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    browse_user: str = Field("admin", description="User name for a password hash that has none.")
    browse_password_hash: str | None = Field(
        None,
        description="Password hash from `storage-ledger browse --hash-password`, or `user:hash`; several are separated by spaces. Put "
        "it in single quotes in a shell, `.env` or compose file: it contains `$`.",
    )
    browse_password_hash_file: Path | None = Field(
        None, description="File with the password hashes, one per line, instead of BROWSE_PASSWORD_HASH."
    )
    browse_secret: str | None = Field(
        None, min_length=32, description="Secret that signs login cookies. If not set, one is created in `LEDGER_PATH/browse-secret`."
    )
    browse_tokens: str | None = Field(
        None,
        description="API tokens as `storage-ledger browse --new-token` prints them, `name:may:hash`; several are separated by spaces. "
        "Programs send the token itself, `Authorization: Bearer TOKEN`.",
    )
    browse_tokens_file: Path | None = Field(None, description="File with the API tokens, one per line, instead of BROWSE_TOKENS.")
    browse_sql_users: str | None = Field(
        None, description="Users who may write their own SQL, separated by spaces; `-`: nobody. If not set, all users may."
    )
    browse_notice: str | None = Field(
        None, max_length=500, description="Text at the foot of every page, also of the login page: `Test system, not for diagnosis`."
    )
    browse_login_hours: Annotated[float, Field(gt=0, le=8760, allow_inf_nan=False)] = Field(12, description="How long a login lasts.")
    browse_trusted_proxies: str | None = Field(
        None,
        description="IP addresses of proxies whose `X-Forwarded-For` is trusted, separated by spaces. If not set, wrong passwords "
        "slow down everyone behind a proxy.",
    )
    browse_cache_path: Path | None = Field(
        None,
        description="Folder for rendered images; if not set, a temporary one. It shows patients: give it to the service's user alone "
        "(0750), and not on the ledger's volume. It may be emptied at any time.",
    )
    browse_cache_mb: int = Field(
        512, ge=0, le=1_000_000, description="Space for rendered images; those not seen for longest are removed first. 0: keep none."
    )
    browse_workers: int = Field(
        2, ge=1, le=32, description="Number of processes that render images. Each takes about 90 MB, and up to 768 MB more for one file."
    )
    browse_wait_seconds: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] = Field(
        60, description="How long to wait at the start for ledger.db and index.db, which `serve` creates."
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
    """`open`: everybody may enter. Otherwise only `users` (name → hash) and `tokens` (hash → name); there may be none.

    `grants`: what each machine may see, by the name of its token. `sql_users`: who may ask with SQL, None is all users.
    `notice` stands at the foot of every page.
    """

    users: Mapping[str, str]
    secret: str
    open: bool = False
    tokens: Mapping[str, str] = field(default_factory=dict)
    login_s: int = 12 * 3600
    proxies: frozenset[str] = frozenset()
    grants: Mapping[str, Grant] = field(default_factory=dict)
    sql_users: frozenset[str] | None = None
    notice: str = ""

    @property
    def allow(self) -> dict[str, list[str]] | None:
        """A Datasette `allow` block: it also refuses a user who was removed, but whose cookie is still valid."""
        return None if self.open else {"id": sorted([*self.users, *map(actor_of_token, self.tokens.values())])}

    def token(self, text: str) -> str | None:
        """The name that belongs to this token; None if there is none."""
        name = self.tokens.get(hashlib.sha256(text.encode("utf-8", "replace")).hexdigest())
        return None if name is None else actor_of_token(name)

    def grant(self, actor: str | None) -> Grant | None:
        """What a machine may see; None for a user."""
        return self.grants.get(actor.removeprefix(_MACHINE)) if actor is not None and actor.startswith(_MACHINE) else None

    def may_sql(self, user: str) -> bool:
        """Whether a user may ask with SQL."""
        return self.sql_users is None or user in self.sql_users

    def password_is(self, user: str, password: str) -> bool:
        """Whether it is this user's. Takes 0.1 s of CPU, also for one whom there is not; for a thread."""
        return password_matches(password, self.users.get(user, NOBODY)) and user in self.users


def is_user_name(text: str) -> bool:
    """1 to 64 of A-Z a-z 0-9 . _ @ -"""
    return _USER.fullmatch(text) is not None


def actor_of_token(name: str) -> str:
    """No user's name has a colon."""
    return f"{_MACHINE}{name}"


def hash_password(password: str) -> str:
    """PBKDF2 with SHA-256, in Django's notation."""
    return _hashed(password, ROUNDS, secrets.token_hex(16))


def password_matches(password: str, hashed: str) -> bool:
    """Whether `hashed` was made of it."""
    _, rounds, salt, _ = hashed.split("$")
    return hmac.compare_digest(_hashed(password, int(rounds), salt), hashed)


def _hashed(password: str, rounds: int, salt: str) -> str:
    derived = hashlib.pbkdf2_hmac("sha256", password.encode("utf-8", "surrogatepass"), salt.encode(), rounds)
    return f"pbkdf2_sha256${rounds}${salt}${base64.b64encode(derived).decode()}"


def new_token() -> tuple[str, str]:
    """A token of 256 random bits, and its hash: the one cannot be guessed, nor derived from the other."""
    token = f"slt_{secrets.token_urlsafe(32)}"
    return token, hashlib.sha256(token.encode()).hexdigest()


def read_access(settings: BrowseSettings, folder: Path, *, is_open: bool) -> Access:
    """Put it together from the settings. Raises `BadSettings`; `folder` is where the secret is kept."""
    notice = "No login is asked for here: whoever reaches this address may look." if is_open else ""
    users = {} if is_open else _users(settings)
    kept = settings.browse_secret or (_kept_secret(folder / "browse-secret") if users else secrets.token_hex(32))
    tokens, grants = ({}, {}) if is_open else _tokens(settings)
    # Another password, another secret: whoever changes one wants the old cookies to end.
    told = "\n".join(f"{name}:{users[name]}" for name in sorted(users))
    return Access(
        users,
        hmac.digest(kept.encode(), told.encode(), hashlib.sha256).hex(),
        is_open,
        tokens=tokens,
        login_s=round(settings.browse_login_hours * 3600),
        proxies=_proxies(settings),
        grants=grants,
        sql_users=_sql_users(settings, users),
        notice=f"{notice} {settings.browse_notice or ''}".strip(),
    )


def _users(settings: BrowseSettings) -> dict[str, str]:
    name, text = _text("BROWSE_PASSWORD_HASH", settings.browse_password_hash, settings.browse_password_hash_file)
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


def _tokens(settings: BrowseSettings) -> tuple[dict[str, str], dict[str, Grant]]:
    """Hash → name, and name → what it may see."""
    name, text = _text("BROWSE_TOKENS", settings.browse_tokens, settings.browse_tokens_file)
    tokens: dict[str, str] = {}
    grants: dict[str, Grant] = {}
    for word in text.split():
        about, _, hashed = word.rpartition(":")
        owner, _, granted = about.partition(":")
        if not _USER.fullmatch(owner) or not _TOKEN_HASH.fullmatch(hashed):
            raise BadSettings(
                "bad-settings", f"{name}: is not name:hash or name:what-it-may:hash as `storage-ledger browse --new-token` prints it"
            )
        if owner in grants or hashed in tokens:
            raise BadSettings("bad-settings", f"{name}: names a machine, or a token, twice")
        try:
            grants[owner] = Grant.of(granted or USUAL)
        except ValueError as error:
            raise BadSettings("bad-settings", f"{name}: {owner}: {error}") from None
        tokens[hashed] = owner
    return tokens, grants


def _sql_users(settings: BrowseSettings, users: Mapping[str, str]) -> frozenset[str] | None:
    if settings.browse_sql_users is None:
        return None
    named = frozenset(settings.browse_sql_users.split()) - {"-"}
    if users and (unknown := sorted(named - users.keys())):
        raise BadSettings("bad-settings", f"BROWSE_SQL_USERS: has no password: {', '.join(unknown)}")
    return named


def _proxies(settings: BrowseSettings) -> frozenset[str]:
    try:
        return frozenset(str(ipaddress.ip_address(word)) for word in (settings.browse_trusted_proxies or "").split())
    except ValueError:
        raise BadSettings("bad-settings", "BROWSE_TRUSTED_PROXIES: is no list of IP addresses") from None


def _text(name: str, given: str | None, file: Path | None) -> tuple[str, str]:
    """The name of the setting that was set, and what it says; a file may say it in its place."""
    if file is None:
        return name, given or ""
    if given is not None:
        raise BadSettings("bad-settings", f"{name} and {name}_FILE: set one of the two")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else "it is not text"
        raise BadSettings("bad-settings", f"{name}_FILE: {file} cannot be read: {why}") from error
    return f"{name}_FILE", text


def _kept_secret(file: Path) -> str:
    """The secret of this ledger, made at the first start. With it one can log in as anybody, hence 0600."""
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
