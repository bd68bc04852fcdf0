"""Users with password hashes, programs with API tokens, and the secret that signs login cookies."""

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

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from storage_ledger.errors import BadSettings
from storage_ledger.settings import checked_url
from storage_ledger.web.auth.hosts import Hosts
from storage_ledger.web.auth.token_scopes import USUAL, Grant
from storage_ledger.web.prefix import prefix_of
from storage_ledger.web.viewer.links import checked_template

ADVICE = (
    "Login is not set up yet: set BROWSE_PASSWORD_HASH (or BROWSE_PASSWORD_HASH_FILE) to the output of "
    "`storage-ledger browse --hash-password`, then restart `storage-ledger browse`."
)
_HASH = re.compile(r"pbkdf2_sha256\$[1-9][0-9]{0,8}\$[^$\s]+\$[A-Za-z0-9+/]+=*")
_USER = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_TOKEN_HASH = re.compile(r"[0-9a-f]{64}")
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?")
_MACHINE = "token:"
EVERYONE = "*"
"""In BROWSE_SQL_USERS."""

ROUNDS = 600_000
NOBODY = f"pbkdf2_sha256${ROUNDS}$nobody$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
"""A hash that matches no password, so that checking an unknown user takes as long as checking a known one."""


class BrowseSettings(BaseSettings):
    """Settings of the web page. Each field is read from the environment variable of the same name in capitals."""

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
        None,
        description="Users who may write their own SQL, separated by spaces; `*`: everyone, even with --no-login. If not set, nobody.",
    )
    browse_service_url: str | None = Field(
        None,
        description="Base URL of `serve`, such as `http://storage-service:8004`. The pages then show what its `/readyz` and `/metrics` "
        "report: Redis, volumes, free space, unexplained uploads. If not set, they say that this is not known.",
    )
    browse_notice: str | None = Field(
        None, max_length=500, description="Text at the foot of every page, including the login page: `Test system, not for diagnosis`."
    )
    browse_title: str | None = Field(
        None,
        max_length=60,
        description="Name of this installation, shown in place of `storage-ledger` at the head of every page and on the login page: "
        "`City Hospital, test`.",
    )
    browse_contact: str | None = Field(
        None, max_length=200, description="Whom to ask for help, on the login page and on error pages: `PACS team, phone 1234`."
    )
    browse_login_hours: Annotated[float, Field(gt=0, le=8760, allow_inf_nan=False)] = Field(12, description="How long a login lasts.")
    browse_hosts: str | None = Field(
        None,
        description="Host names of the page, without ports, separated by spaces; requests for another are refused, loopback excepted. "
        "`*`: any. If not set: any, but with `--no-login` only `localhost` and IP addresses.",
    )
    browse_public_url: str | None = Field(
        None,
        description="Address of the page as its users know it, such as `https://images.example.org/archive`: DICOMweb answers contain it, "
        "and the page's links begin with its path. If not set, the page is at the root of its host, and the address is taken from each "
        "request (`X-Forwarded-Host`, `X-Forwarded-Proto`, `Host`).",
    )
    browse_cors_origins: str | None = Field(
        None,
        description="Other sites whose pages may read DICOMweb with a token, separated by spaces: `https://viewer.example.org`. "
        "If not set, none.",
    )
    browse_trusted_proxies: str | None = Field(
        None,
        description="IP addresses of proxies whose `X-Forwarded-For` is trusted, separated by spaces. If not set, wrong passwords "
        "slow down everyone behind a proxy.",
    )
    tlog_public: bool = Field(
        False,
        description="Whether anyone who can reach the page may read [`/tlog/`](http.md#hash-tiles): checkpoints and hashes. They reveal "
        "how many entries there are, and so how many studies arrive each hour, but nothing about any study.",
    )
    browse_cache_path: Path | None = Field(
        None,
        description="Folder for rendered images; if not set, a temporary one. It holds patients' images: give access to the service's "
        "user only (0750), and keep it off the ledger's volume. It may be emptied at any time.",
    )
    browse_cache_mb: int = Field(
        512, ge=0, le=1_000_000, description="Space for rendered images; the least recently used are removed first. 0: keep none."
    )
    browse_workers: int = Field(
        2, ge=1, le=32, description="Number of processes that render images. Each takes about 90 MB, and up to 768 MB more for one file."
    )
    browse_wait_seconds: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] = Field(
        60, description="How long to wait at startup for ledger.db and index.db, which `serve` creates."
    )

    browse_viewer_path: Path | None = Field(
        None,
        description="Folder with the image viewer OHIF as `scripts/viewer` prepares it. The page then serves it at `/ohif/`, and each "
        "DICOM study has a link to it.",
    )
    browse_viewer_url: str | None = Field(
        None,
        description="Link of each DICOM study to another viewer: an address with `{StudyInstanceUID}` in it, such as "
        "`https://viewer.example/open?study={StudyInstanceUID}`. It takes precedence over BROWSE_VIEWER_PATH.",
    )

    @field_validator("browse_viewer_url")
    @classmethod
    def _template(cls, value: str | None) -> str | None:
        return None if value is None else checked_template(value)

    @field_validator("browse_service_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        return None if value is None else checked_url(value, ("http",)).rstrip("/")

    @field_validator("browse_public_url")
    @classmethod
    def _http_or_https(cls, value: str | None) -> str | None:
        prefix_of(value)
        return None if value is None else checked_url(value, ("http", "https")).rstrip("/")

    @classmethod
    def load(cls) -> Self:
        """Read the environment. Raises `BadSettings`, which names every invalid variable but never its value."""
        try:
            return cls()
        except ValidationError as error:
            lines = [f"{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()]
            raise BadSettings("bad-settings", "\n".join(lines)) from None


@dataclass(frozen=True, slots=True)
class Access:
    """Access rules. `open`: no login needed; otherwise only `users` (name → hash) and `tokens` (hash → name) have access.

    `grants`: what each program may see, by the name of its token. `sql_users`: users who may run SQL; `*` means everyone.
    `tlog_public`: whether `/tlog/` needs no login.
    `title`: name of the installation. `notice`: text at the foot of every page. `contact`: whom to ask for help; all may be empty.
    `public_url`: the page's address as clients know it. `cors_origins`: sites whose pages may read DICOMweb.
    """

    users: Mapping[str, str]
    secret: str
    open: bool = False
    tokens: Mapping[str, str] = field(default_factory=dict)
    login_s: int = 12 * 3600
    proxies: frozenset[str] = frozenset()
    grants: Mapping[str, Grant] = field(default_factory=dict)
    sql_users: frozenset[str] = frozenset()
    tlog_public: bool = False
    title: str = ""
    notice: str = ""
    contact: str = ""
    hosts: Hosts = Hosts(None, open=False)  # noqa: RUF009 - it is frozen
    public_url: str | None = None
    cors_origins: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """The path of the page's address, such as `/archive`; empty at the root of its host."""
        return prefix_of(self.public_url)

    @property
    def allow(self) -> dict[str, list[str]] | None:
        """A Datasette `allow` block. It also refuses a user who has been removed but still has a valid cookie."""
        return None if self.open else {"id": sorted([*self.users, *map(actor_of_token, self.tokens.values())])}

    def token(self, text: str) -> str | None:
        """Return the actor of this token; None if the token is unknown."""
        name = self.tokens.get(hashlib.sha256(text.encode("utf-8", "replace")).hexdigest())
        return None if name is None else actor_of_token(name)

    def grant(self, actor: str | None) -> Grant | None:
        """Return what a program may see; None for a user."""
        return self.grants.get(actor.removeprefix(_MACHINE)) if actor is not None and actor.startswith(_MACHINE) else None

    def may_sql(self, user: str | None) -> bool:
        """Return whether a user may run SQL; None: whoever comes without a login."""
        return EVERYONE in self.sql_users or user in self.sql_users

    def password_is(self, user: str, password: str) -> bool:
        """Return whether the password is correct. Call it in a thread: it takes 0.2 s of CPU, for unknown users and old hashes too."""
        hashed = self.users.get(user, NOBODY)
        if (missing := max(map(_rounds, (NOBODY, *self.users.values()))) - _rounds(hashed)) > 0:
            _hashed(password, missing, "")  # a short time would tell who has an old hash, or none
        return password_matches(password, hashed) and user in self.users


def is_user_name(text: str) -> bool:
    """Return whether the text is a valid user name: 1 to 64 of A-Z a-z 0-9 . _ @ -"""
    return _USER.fullmatch(text) is not None


def actor_of_token(name: str) -> str:
    """Return the actor id of a token. It contains a colon, which no user name does."""
    return f"{_MACHINE}{name}"


def hash_password(password: str) -> str:
    """Hash a password with PBKDF2 and SHA-256, in Django's format."""
    return _hashed(password, ROUNDS, secrets.token_hex(16))


def password_matches(password: str, hashed: str) -> bool:
    """Return whether `hashed` is a hash of the password."""
    _, _, salt, _ = hashed.split("$")
    return hmac.compare_digest(_hashed(password, _rounds(hashed), salt), hashed)


def _rounds(hashed: str) -> int:
    return int(hashed.split("$")[1])


def _hashed(password: str, rounds: int, salt: str) -> str:
    derived = hashlib.pbkdf2_hmac("sha256", password.encode("utf-8", "surrogatepass"), salt.encode(), rounds)
    return f"pbkdf2_sha256${rounds}${salt}${base64.b64encode(derived).decode()}"


def new_token() -> tuple[str, str]:
    """Create a token of 256 random bits. Returns the token and its SHA-256, from which it cannot be derived."""
    token = f"slt_{secrets.token_urlsafe(32)}"
    return token, hashlib.sha256(token.encode()).hexdigest()


def read_access(settings: BrowseSettings, folder: Path, *, is_open: bool) -> Access:
    """Build the access rules from the settings. `folder` keeps the secret. Raises `BadSettings`."""
    notice = "No login required: anyone who can reach this address can view it." if is_open else ""
    users = {} if is_open else _users(settings)
    kept = settings.browse_secret or (_stored_secret(folder / "browse-secret") if users else secrets.token_hex(32))
    tokens, grants = ({}, {}) if is_open else _tokens(settings)
    # Changing a password changes the secret, which ends all earlier logins.
    hashes = "\n".join(f"{name}:{users[name]}" for name in sorted(users))
    return Access(
        users,
        hmac.digest(kept.encode(), hashes.encode(), hashlib.sha256).hex(),
        is_open,
        tokens=tokens,
        login_s=round(settings.browse_login_hours * 3600),
        proxies=_proxies(settings),
        grants=grants,
        sql_users=_sql_users(settings, users),
        tlog_public=settings.tlog_public,
        hosts=Hosts.of(settings.browse_hosts, is_open=is_open),
        title=(settings.browse_title or "").strip(),
        contact=(settings.browse_contact or "").strip(),
        public_url=settings.browse_public_url,
        cors_origins=_origins(settings),
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
                f"{name}: not a hash from `storage-ledger browse --hash-password`, which begins with pbkdf2_sha256$600000$ "
                "(put it in single quotes in a shell, .env or compose file, because it contains $)",
            )
        if not _USER.fullmatch(user):
            raise BadSettings(
                "bad-settings", f"{name if colon else 'BROWSE_USER'}: a user name has 1 to 64 characters of A-Z a-z 0-9 . _ @ -"
            )
        if user in users:
            raise BadSettings("bad-settings", f"{name}: contains the user {user} twice")
        users[user] = hashed
    return users


def _tokens(settings: BrowseSettings) -> tuple[dict[str, str], dict[str, Grant]]:
    """Return the tokens (hash → name) and their grants (name → grant)."""
    name, text = _text("BROWSE_TOKENS", settings.browse_tokens, settings.browse_tokens_file)
    tokens: dict[str, str] = {}
    grants: dict[str, Grant] = {}
    for word in text.split():
        about, _, hashed = word.rpartition(":")
        owner, _, granted = about.partition(":")
        if not _USER.fullmatch(owner) or not _TOKEN_HASH.fullmatch(hashed):
            raise BadSettings("bad-settings", f"{name}: not a line from `storage-ledger browse --new-token`: name:hash or name:may:hash")
        if owner in grants or hashed in tokens:
            raise BadSettings("bad-settings", f"{name}: names a machine, or a token, twice")
        try:
            grants[owner] = Grant.of(granted or USUAL)
        except ValueError as error:
            raise BadSettings("bad-settings", f"{name}: {owner}: {error}") from None
        tokens[hashed] = owner
    return tokens, grants


def _sql_users(settings: BrowseSettings, users: Mapping[str, str]) -> frozenset[str]:
    named = frozenset((settings.browse_sql_users or "").split()) - {"-"}  # `-` is what once meant nobody
    if users and (unknown := sorted(named - users.keys() - {EVERYONE})):
        raise BadSettings("bad-settings", f"BROWSE_SQL_USERS: no password is set for {', '.join(unknown)}")
    return named


def _proxies(settings: BrowseSettings) -> frozenset[str]:
    try:
        return frozenset(str(ipaddress.ip_address(word)) for word in (settings.browse_trusted_proxies or "").split())
    except ValueError:
        raise BadSettings("bad-settings", "BROWSE_TRUSTED_PROXIES: not a list of IP addresses separated by spaces") from None


def _origins(settings: BrowseSettings) -> tuple[str, ...]:
    origins = tuple((settings.browse_cors_origins or "").split())
    if not all(map(_ORIGIN.fullmatch, origins)):
        raise BadSettings(
            "bad-settings", "BROWSE_CORS_ORIGINS: not a list of origins separated by spaces, such as https://viewer.example.org"
        )
    return origins


def _text(name: str, given: str | None, file: Path | None) -> tuple[str, str]:
    """Return the name of the setting that is set, and its text, which may come from a file."""
    if file is None:
        return name, given or ""
    if given is not None:
        raise BadSettings("bad-settings", f"{name} and {name}_FILE: set only one of them")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else "it is not text"
        raise BadSettings("bad-settings", f"{name}_FILE: {file} cannot be read: {why}") from error
    return f"{name}_FILE", text


def _stored_secret(file: Path) -> str:
    """Return this ledger's secret, created at the first start. Its mode is 0600: it allows a login as any user."""
    try:
        _make(file)
        kept = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else "it is not text"
        raise BadSettings("bad-settings", f"BROWSE_SECRET: not set, and {file} cannot be used: {why}") from error
    if len(kept) < 32:
        raise BadSettings("bad-settings", f"BROWSE_SECRET: not set, and {file} is too short: remove it and restart")
    return kept


def _make(file: Path) -> None:
    """Create the file, whole or not at all. Keeps an existing one: another process may be starting at the same time."""
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
