"""The settings, read from the environment once, when a command starts.

scripts/reference writes docs/reference/settings.md, .env.example and the README's table from the descriptions: the first sentence of
each must make sense alone.
"""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from storage_ledger.errors import BadSettings

Seconds = Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)]

SERVE_LOCK = "serve.lock"
TREE_CACHE = "tree.cache"


class _Folders(BaseSettings):
    """The three folders, apart from the rest so that they can be compared even if another setting is wrong."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    uploads_path: Path = Field(Path("/app/uploads"), description="Folder with the uploaded files. A file is removed once it is archived.")
    archive_path: Path = Field(
        Path("/app/archive"),
        description="Folder of the archive, with one folder per study_id. Created at the first start; once the ledger has entries, a "
        "missing folder counts as not mounted.",
    )
    ledger_path: Path = Field(
        Path("/app/ledger"),
        description="Folder of the ledger and the index, on a local disk. Network file systems are refused.",
    )

    @field_validator("uploads_path", "archive_path", "ledger_path")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if "\0" in str(value):
            raise ValueError("must not contain NUL")
        return Path(os.path.abspath(value))

    def overlaps(self) -> list[str]:
        """Return an error for each pair of folders that overlap: uploads are removed, the archive is kept."""
        paths = (("UPLOADS_PATH", self.uploads_path), ("ARCHIVE_PATH", self.archive_path), ("LEDGER_PATH", self.ledger_path))
        real = [(name, Path(os.path.realpath(path))) for name, path in paths]
        return [
            f"{a} and {b}: must be separate folders, neither inside the other"
            for (a, first), (b, second) in combinations(real, 2)
            if first == second or first in second.parents or second in first.parents
        ]


class Settings(_Folders):
    """The settings of the service and the commands. Each field is the environment variable of the same name in capitals."""

    ledger_url: str | None = Field(
        None,
        description="PostgreSQL database that holds the ledger instead of LEDGER_PATH/ledger.db: "
        "`postgresql+psycopg://user:secret@host/database`, with libpq's parameters, such as `?sslmode=verify-full`. Needs the extra "
        "`postgres`.",
    )
    ledger_password_file: Path | None = Field(None, description="File with the password of that database, if LEDGER_URL has none.")
    redis_url: str = Field(
        "redis://localhost:6379",
        description="Redis or Valkey server that carries the messages. `redis://`, `rediss://` (TLS) or `unix://`, if needed with user, "
        "password and database: `redis://user:secret@redis:6379/0`.",
    )
    redis_password: str | None = Field(
        None, description="Password of Redis, if REDIS_URL has none; any characters except quotes and backslashes."
    )
    redis_password_file: Path | None = Field(None, description="File with the password of Redis, instead of REDIS_PASSWORD.")
    status_service_url: str = Field(
        "http://status-service:8003",
        description="Base URL of the Status Service. A path is kept: with `http://gateway/pipeline`, requests go to "
        "`http://gateway/pipeline/status/<study_id>`. Proxy variables such as `http_proxy` are ignored.",
    )
    environment: str = Field("production", description="Label in every log line.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Lowest level that is logged.")
    http_host: str = Field(
        "0.0.0.0",  # noqa: S104 - it runs in a container
        description="Address on which the service answers /healthz, /readyz, /metrics and /checkpoint. They need no login: publish the "
        "port only where it is needed.",
    )
    http_port: int = Field(8004, ge=0, le=65535, description="Port of that address. 0 picks a free one, which is logged.")
    neighbour_uploads_paths: Annotated[tuple[str, ...], NoDecode] = Field(
        ("/app/uploads",),
        description="Path of the uploads folder as other services write it in `file_path`; several are separated by colons. It is replaced "
        "by UPLOADS_PATH.",
    )
    described_channel: str = Field(
        "described", min_length=1, description="Redis pub/sub channel of the messages. Not used if DESCRIBED_STREAM is set."
    )
    described_stream: str | None = Field(
        None, min_length=1, description="Redis stream to read instead of the channel, with the consumer group `storage-ledger`."
    )
    rejected_per_hour: int = Field(
        20_000,
        ge=0,
        description="Maximum number of rejected messages recorded per clock hour; the rest are only counted, in "
        "`storage_ledger_messages_rejected_unlogged_total`. A restart resets the count.",
    )
    missing_file_grace_seconds: Seconds = Field(
        300,
        description="How long a described file may be missing or unreadable before it is quarantined. The time starts again when the "
        "service starts or the clock is set. 0: no waiting.",
    )
    upload_settle_seconds: Seconds = Field(
        5,
        description="How long an archived upload must stay unchanged before it is removed. It is removed immediately if the kernel "
        "reports that no process has it open for writing (local file system, same user). Raise this if another user's program "
        "publishes files before it has finished writing them. 0: no waiting.",
    )
    status_confirm_seconds: Seconds = Field(
        10, description="Each status is read back after 1, 6 and 60 times this, and re-sent if it was overwritten. 0: never read back."
    )

    reconcile_seconds: Seconds = Field(
        300,
        description="How often uploads are searched for [files whose message was lost](../how-to/make-up-for-lost-messages.md). 0: never "
        "automatically.",
    )
    reconcile_grace_seconds: Seconds = Field(
        60, description="Reconciliation ignores files younger than this: their message may still be on its way."
    )

    workers: int | None = Field(
        None,
        ge=0,
        le=64,
        description="Number of processes that archive. If not set: one for each processor, at most 4. 0: everything in one process.",
    )

    scrub_rate_mb_s: float = Field(
        0,
        ge=0,
        le=100_000,
        allow_inf_nan=False,
        description="Rate of background [verification](../how-to/verify.md#continuously). 0: off.",
    )

    checkpoint_seconds: Seconds = Field(
        3600,
        description="Shortest time between two [checkpoints](../explanation/what-a-proof-shows.md). None is signed while no entries are "
        "appended. 0: `serve` signs none.",
    )
    checkpoint_origin: str = Field(
        "storage-ledger",
        pattern=r"^[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*$",
        max_length=200,
        description="First part of the name under which checkpoints are signed, such as the hospital's domain. The ledger_id is the "
        "second.",
    )
    checkpoint_key_file: Path | None = Field(
        None, description="File with the private key that signs checkpoints; created at first use. If not set: LEDGER_PATH/checkpoint.key."
    )

    checkpoint_witnesses: str = Field(
        "",
        description="[Witnesses](../how-to/keep-heads-elsewhere.md) that cosign each checkpoint: `<verifier key> <URL>`; several are "
        "separated by commas.",
    )
    checkpoint_tsa: str | None = Field(None, description="URL of an authority that time-stamps each checkpoint (RFC 3161).")
    checkpoint_tsa_certificates: Path | None = Field(
        None,
        description="PEM file with the root certificates with which [time stamps](../how-to/keep-heads-elsewhere.md#time-stamps) are "
        "verified.",
    )
    checkpoint_exec: str | None = Field(
        None,
        description="Command that gets each checkpoint on standard input, for example to "
        "[mail or print it](../how-to/keep-heads-elsewhere.md#mail-git-a-printer).",
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("neighbour_uploads_paths", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part for part in value.split(":") if part) if isinstance(value, str) else value

    @field_validator("neighbour_uploads_paths")
    @classmethod
    def _all_absolute(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [part for part in value if not part.startswith("/") or ".." in part.split("/") or not part.strip("/")]
        if wrong:
            raise ValueError("each must be an absolute path below /, without '..'; several are separated by colons")
        return value

    @field_validator("status_service_url")
    @classmethod
    def _http(cls, value: str) -> str:
        checked = checked_url(value, ("http", "https"))
        if "?" in checked or "#" in checked:  # /status/<study_id> would become part of it, and the root path would answer
            raise ValueError("must have neither a query nor a fragment")
        return checked.rstrip("/")

    @field_validator("checkpoint_tsa")
    @classmethod
    def _tsa(cls, value: str | None) -> str | None:
        return None if value is None else checked_url(value, ("http", "https"))

    @field_validator("checkpoint_exec")
    @classmethod
    def _command(cls, value: str | None) -> str | None:
        try:
            is_command = value is None or bool(shlex.split(value))
        except ValueError:
            is_command = False
        if not is_command:
            raise ValueError("is not a command: is a quote missing?")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: str) -> str:
        checked = checked_url(value, ("redis", "rediss", "unix"))
        parts = urlsplit(checked)
        if parts.scheme != "unix" and not (parts.path.strip("/") or "0").isdecimal():
            raise ValueError("must end with the host or a database number, such as redis://host:6379/0")
        return checked

    @field_validator("ledger_url")
    @classmethod
    def _database(cls, value: str | None) -> str | None:
        return None if value is None else checked_url(value, ("postgresql+psycopg", "postgresql"))

    @property
    def ledger_address(self) -> str:
        """Return LEDGER_URL with the password, if that is in a file. Raises `BadSettings` if it cannot be read."""
        url = self.ledger_url or ""
        if self.ledger_password_file is None:
            return url
        password = _password_in("LEDGER_PASSWORD_FILE", self.ledger_password_file)
        return _with_password(url, password)

    @property
    def redis_address(self) -> str:
        """Return REDIS_URL with the password, if that is set by itself. Raises `BadSettings` if its file cannot be read."""
        password = self.redis_password
        if password and self.redis_password_file is not None:
            raise BadSettings("bad-settings", "REDIS_PASSWORD and REDIS_PASSWORD_FILE: set only one of them")
        if self.redis_password_file is not None:
            password = _password_in("REDIS_PASSWORD_FILE", self.redis_password_file)
        return _with_password(self.redis_url, password) if password else self.redis_url

    @property
    def ledger_file(self) -> Path:
        """Return `LEDGER_PATH/ledger.db`."""
        return self.ledger_path / "ledger.db"

    @property
    def index_file(self) -> Path:
        """Return `LEDGER_PATH/index.db`."""
        return self.ledger_path / "index.db"

    @property
    def lock_file(self) -> Path:
        """Return `LEDGER_PATH/serve.lock`."""
        return self.ledger_path / SERVE_LOCK

    @property
    def repair_lock_file(self) -> Path:
        """The file that a command holds while it writes into the archive: one at a time."""
        return self.ledger_path / "repair.lock"

    @property
    def mirror_lock_file(self) -> Path:
        """Return `LEDGER_PATH/mirror.lock`."""
        return self.ledger_path / "mirror.lock"

    @property
    def checkpoint_key(self) -> Path:
        """Return CHECKPOINT_KEY_FILE, or `LEDGER_PATH/checkpoint.key`."""
        return self.checkpoint_key_file or self.ledger_path / "checkpoint.key"

    @classmethod
    def load(cls) -> Self:
        """Read the environment. Raises `BadSettings` with the name of every wrong variable, but no value."""
        wrong: list[str] = []
        settings = None
        try:
            settings = cls()
        except ValidationError as error:
            wrong = [f"{str(e['loc'][0]).upper()}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        with suppress(ValidationError):  # the wrong folder is already in the list
            wrong += (settings or _Folders()).overlaps()
        if wrong or settings is None:
            raise BadSettings("bad-settings", "\n".join(wrong)) from None
        return settings


def _password_in(name: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings("bad-settings", f"{name}: {file} cannot be read") from error


def _with_password(url: str, password: str) -> str:
    """Return the URL with this password, unless it has one."""
    parts = urlsplit(url)
    if parts.password is not None:
        return url
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{parts.username or ''}:{quote(password, safe='')}@{rest.rpartition('@')[2]}"


def checked_url(value: str, schemes: tuple[str, ...]) -> str:
    """Return a URL with one of these schemes and a host. Raises `ValueError` with a message that does not show the value."""
    if not value.isprintable() or " " in value:
        raise ValueError("must not contain a space or a control character")
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in schemes:
        raise ValueError(f"must begin with {' or '.join(s + '://' for s in schemes)}")
    if not (parts.hostname or (parts.scheme == "unix" and parts.path)):
        raise ValueError("has no host")
    try:
        (parts.hostname or "").encode("idna")  # as Python does before it resolves the name
    except UnicodeError:
        raise ValueError("has an impossible host: a part between dots is empty or longer than 63 characters") from None
    return value
