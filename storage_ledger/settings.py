"""The settings: read once, from the environment, in the composition root."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from storage_ledger.errors import BadSettings

Seconds = Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)]

SERVE_LOCK = "serve.lock"


class _Folders(BaseSettings):
    """The three folders, which can be compared although another setting is wrong."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    uploads_path: Path = Field(Path("/app/uploads"), description="Folder in which the described files lie.")
    archive_path: Path = Field(Path("/app/archive"), description="Folder of the archive: one folder a study_id.")
    ledger_path: Path = Field(Path("/app/ledger"), description="Folder of ledger.db and index.db; a local file system.")

    @field_validator("uploads_path", "archive_path", "ledger_path")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if "\0" in str(value):
            raise ValueError("a path holds no NUL")
        return Path(os.path.abspath(value))

    def overlaps(self) -> list[str]:
        """Uploads are removed and the archive is kept: neither may be the other, nor inside it."""
        paths = (("UPLOADS_PATH", self.uploads_path), ("ARCHIVE_PATH", self.archive_path), ("LEDGER_PATH", self.ledger_path))
        real = [(name, Path(os.path.realpath(path))) for name, path in paths]
        return [
            f"{a} and {b}: must be separate folders, neither inside the other"
            for (a, first), (b, second) in combinations(real, 2)
            if first == second or first in second.parents or second in first.parents
        ]


class Settings(_Folders):
    """What the environment says. Every field is the environment variable of the same name in capitals."""

    redis_url: str = Field("redis://localhost:6379", description="Redis or Valkey server that carries the channel or stream.")
    status_service_url: str = Field("http://status-service:8003", description="Base URL of the Status Service.")
    environment: str = Field("production", description="A label that each log line carries.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    http_host: str = Field("0.0.0.0", description="Address of /healthz, /readyz and /metrics.")  # noqa: S104 - fixed default: it runs in a container
    http_port: int = Field(8004, ge=0, le=65535, description="Port of /healthz, /readyz and /metrics; 0 takes a free one.")
    neighbour_uploads_paths: Annotated[tuple[str, ...], NoDecode] = Field(
        ("/app/uploads",), description="The uploads volume as neighbours name it in file_path; several with a colon."
    )
    described_channel: str = Field("described", min_length=1, description="Redis pub/sub channel of the events.")
    described_stream: str | None = Field(
        None, min_length=1, description="Redis stream of the events, read through a consumer group instead of the channel."
    )
    rejected_per_hour: int = Field(
        20_000, ge=0, description="So many rejected messages an hour become entries; beyond it they are only counted."
    )
    missing_file_grace_seconds: Seconds = Field(
        300, description="How long a described file may be missing before its study is quarantined."
    )
    upload_settle_seconds: Seconds = Field(
        5,
        description="An archived upload is removed once it has not changed for this long, or at once where the kernel says that "
        "nobody has it open for writing.",
    )
    status_confirm_seconds: Seconds = Field(10, description="A status is read back after 1, 6 and 60 times this; 0 switches that off.")

    reconcile_seconds: Seconds = Field(
        300, description="How often uploads are searched for files whose message never came, besides each start and reconnection; 0: never."
    )
    reconcile_grace_seconds: Seconds = Field(60, description="A file that was written less than this ago is left alone by such a search.")

    scrub_rate_mb_s: float = Field(
        0,
        ge=0,
        le=100_000,
        allow_inf_nan=False,
        description="So many MB of archived files are read in a second to verify them; 0: none.",
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
            raise ValueError("each must be an absolute path below /, without '..'; several are separated by a colon")
        return value

    @field_validator("status_service_url")
    @classmethod
    def _http(cls, value: str) -> str:
        checked = _checked_url(value, ("http", "https"))
        if "?" in checked or "#" in checked:  # /status/<study_id> would end up behind it, and whatever answers at the root be believed
            raise ValueError("must have neither a query nor a fragment")
        return checked.rstrip("/")

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: str) -> str:
        checked = _checked_url(value, ("redis", "rediss", "unix"))
        parts = urlsplit(checked)
        if parts.scheme != "unix" and not (parts.path.strip("/") or "0").isdecimal():
            raise ValueError("must end with its host or the number of a database, such as redis://host:6379/0")
        return checked

    @property
    def ledger_file(self) -> Path:
        """`LEDGER_PATH/ledger.db`."""
        return self.ledger_path / "ledger.db"

    @property
    def index_file(self) -> Path:
        """`LEDGER_PATH/index.db`."""
        return self.ledger_path / "index.db"

    @property
    def lock_file(self) -> Path:
        """`LEDGER_PATH/serve.lock`."""
        return self.ledger_path / SERVE_LOCK

    @property
    def mirror_lock_file(self) -> Path:
        """`LEDGER_PATH/mirror.lock`."""
        return self.ledger_path / "mirror.lock"

    @classmethod
    def load(cls) -> Self:
        """Read the environment. Raises `BadSettings` naming every wrong variable at once, never its value."""
        wrong: list[str] = []
        settings = None
        try:
            settings = cls()
        except ValidationError as error:
            wrong = [f"{str(e['loc'][0]).upper()}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        with suppress(ValidationError):  # then the folder itself is named above
            wrong += (settings or _Folders()).overlaps()
        if wrong or settings is None:
            raise BadSettings("bad-settings", "\n".join(wrong)) from None
        return settings


def _checked_url(value: str, schemes: tuple[str, ...]) -> str:
    if not value.isprintable() or " " in value:
        raise ValueError("has a space or a control character in it")
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in schemes:
        raise ValueError(f"must begin with {' or '.join(s + '://' for s in schemes)}")
    if not (parts.hostname or (parts.scheme == "unix" and parts.path)):
        raise ValueError("names no host")
    try:
        (parts.hostname or "").encode("idna")  # as Python does before it looks the name up
    except UnicodeError:
        raise ValueError("names a host that cannot be: a part between its dots is empty, or longer than 63 characters") from None
    return value
