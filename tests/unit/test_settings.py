"""The environment: all that is wrong named at once, and no value shown."""

from pathlib import Path

import pytest
import redis

from storage_ledger.errors import BadSettings
from storage_ledger.settings import Settings
from storage_ledger.web.auth.credentials import BrowseSettings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def load(monkeypatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings.load()


def wrong(monkeypatch, **variables: str) -> str:
    with pytest.raises(BadSettings) as caught:
        load(monkeypatch, **variables)
    return caught.value.detail


def test_without_an_environment_the_fixed_defaults_hold(monkeypatch):
    settings = load(monkeypatch)
    found = {
        name: str(getattr(settings, name)) for name in ("redis_url", "status_service_url", "uploads_path", "archive_path", "ledger_path")
    }
    assert found == {
        "redis_url": "redis://localhost:6379",
        "status_service_url": "http://status-service:8003",
        "uploads_path": "/app/uploads",
        "archive_path": "/app/archive",
        "ledger_path": "/app/ledger",
    }
    assert (settings.environment, settings.log_level, settings.http_host, settings.http_port) == ("production", "INFO", "0.0.0.0", 8004)  # noqa: S104
    assert (settings.neighbour_uploads_paths, settings.described_channel) == (("/app/uploads",), "described")
    assert settings.described_stream is None
    assert (settings.status_confirm_seconds, settings.missing_file_grace_seconds) == (10, 300)
    assert (settings.reconcile_seconds, settings.reconcile_grace_seconds) == (300, 60)
    assert settings.rejected_per_hour == 20_000


def test_an_empty_variable_is_an_unset_one(monkeypatch):
    assert load(monkeypatch, DESCRIBED_STREAM="").described_stream is None
    assert load(monkeypatch, LOG_LEVEL="", HTTP_PORT="", NEIGHBOUR_UPLOADS_PATHS="").http_port == 8004


def test_all_wrong_variables_are_named_at_once_each_on_a_line(monkeypatch):
    text = wrong(
        monkeypatch,
        HTTP_PORT="eighty",
        LOG_LEVEL="loud",
        REDIS_URL="http://x",
        STATUS_SERVICE_URL="status",
        NEIGHBOUR_UPLOADS_PATHS="relative",
        MISSING_FILE_GRACE_SECONDS="-1",
        STATUS_CONFIRM_SECONDS="nan",
        REJECTED_PER_HOUR="1.5",
    )
    assert {line.split(":")[0] for line in text.splitlines()} == {
        "HTTP_PORT", "LOG_LEVEL", "REDIS_URL", "STATUS_SERVICE_URL", "NEIGHBOUR_UPLOADS_PATHS",
        "MISSING_FILE_GRACE_SECONDS", "STATUS_CONFIRM_SECONDS", "REJECTED_PER_HOUR",
    }  # fmt: skip


def test_folders_that_overlap_are_named_together_with_other_wrong_variables(monkeypatch):
    text = wrong(monkeypatch, HTTP_PORT="eighty", uploads_path="/data", ARCHIVE_PATH="/data/archive")
    assert "HTTP_PORT" in text
    assert "UPLOADS_PATH" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "redis://:hunter2@host:notaport"),
        ("REDIS_URL", "hunter2://host"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://host:6379/hunter2"),
        ("REDIS_URL", "redis://host:6379/0\n"),
        ("STATUS_SERVICE_URL", "ftp://hunter2@host"),
        ("STATUS_SERVICE_URL", "http://[hunter2"),
        ("STATUS_SERVICE_URL", "http://"),
        ("STATUS_SERVICE_URL", "http://hunter2..example"),
        ("STATUS_SERVICE_URL", f"http://{'hunter2' * 10}.example"),
        ("REDIS_URL", "redis://hunter2..example"),
        ("STATUS_SERVICE_URL", "http://host:8003/?key=hunter2"),
        ("STATUS_SERVICE_URL", "http://host:8003/#hunter2"),
        ("HTTP_PORT", "hunter2"),
        ("HTTP_PORT", "65536"),
        ("LOG_LEVEL", "hunter2"),
        ("NEIGHBOUR_UPLOADS_PATHS", "/ok:hunter2"),
        ("NEIGHBOUR_UPLOADS_PATHS", "/"),
        ("NEIGHBOUR_UPLOADS_PATHS", "/ok/../hunter2"),
        ("MISSING_FILE_GRACE_SECONDS", "hunter2"),
        ("MISSING_FILE_GRACE_SECONDS", "inf"),
    ],
)
def test_a_wrong_value_is_never_shown(monkeypatch, name, value):
    with pytest.raises(BadSettings) as caught:
        load(monkeypatch, **{name: value})
    assert caught.value.detail.startswith(f"{name}: ")
    assert "hunter2" not in f"{caught.value}{caught.value.__cause__}"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "folders",
    [
        {"UPLOADS_PATH": "/data", "ARCHIVE_PATH": "/data"},
        {"UPLOADS_PATH": "/data/uploads", "ARCHIVE_PATH": "/data"},
        {"UPLOADS_PATH": "/data", "ARCHIVE_PATH": "/data/archive"},
        {"LEDGER_PATH": "/app/archive/ledger"},
        {"LEDGER_PATH": "/app/uploads"},
        {"UPLOADS_PATH": "/data/x/../archive", "ARCHIVE_PATH": "/data/archive/"},
        {"uploads_path": "/data", "archive_path": "/data"},
        {"Uploads_Path": "/data/archive", "ARCHIVE_PATH": "/data"},
        {"ledger_path": "/app/archive"},
    ],
)
def test_folders_that_overlap_are_refused(monkeypatch, folders):
    text = wrong(monkeypatch, **folders)
    assert all(name.upper() in text for name in folders)


def test_folders_that_are_one_through_a_link_are_refused(monkeypatch, tmp_path):
    (tmp_path / "uploads").mkdir()
    (tmp_path / "archive").symlink_to("uploads")
    assert "separate" in wrong(monkeypatch, UPLOADS_PATH=str(tmp_path / "uploads"), ARCHIVE_PATH=str(tmp_path / "archive"))


def test_folders_whose_names_only_begin_alike_are_accepted(monkeypatch):
    assert load(monkeypatch, UPLOADS_PATH="/data/a", ARCHIVE_PATH="/data/ab", LEDGER_PATH="/data/abc")


def test_neighbours_paths_are_a_list_with_colons(monkeypatch):
    assert load(monkeypatch, NEIGHBOUR_UPLOADS_PATHS="/app/uploads:/mnt/in::").neighbour_uploads_paths == ("/app/uploads", "/mnt/in")


def test_a_level_may_be_written_small_and_a_url_with_a_slash_at_its_end(monkeypatch):
    settings = load(monkeypatch, LOG_LEVEL="debug", STATUS_SERVICE_URL="http://host:1/")
    assert (settings.log_level, settings.status_service_url) == ("DEBUG", "http://host:1")


@pytest.mark.parametrize(("name", "most"), [("BROWSE_TITLE", 60), ("BROWSE_CONTACT", 200), ("BROWSE_NOTICE", 500)])
def test_what_pages_show_of_the_installation_has_a_bounded_length(monkeypatch, name, most):
    monkeypatch.setenv(name, "x" * most)
    assert getattr(BrowseSettings.load(), name.lower()) == "x" * most
    monkeypatch.setenv(name, "x" * (most + 1))
    with pytest.raises(BadSettings, match=name):
        BrowseSettings.load()


@pytest.mark.parametrize(("name", "field"), [*Settings.model_fields.items(), *BrowseSettings.model_fields.items()])
def test_every_setting_is_described_in_sentences(name, field):
    assert len(field.description) > 20
    assert field.description.endswith("."), name


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://redis:6379", "redis://:p%40ss%2F%20w@redis:6379"),
        ("rediss://redis/2", "rediss://:p%40ss%2F%20w@redis/2"),
        ("redis://jane@redis", "redis://jane:p%40ss%2F%20w@redis"),
        ("redis://jane:own@redis", "redis://jane:own@redis"),
        ("unix:///run/redis.sock", "unix://:p%40ss%2F%20w@/run/redis.sock"),
    ],
)
def test_the_password_of_redis_may_be_set_by_itself_or_in_a_file(url: str, address: str, tmp_path: Path):
    (tmp_path / "password").write_text("p@ss/ w\n")
    for how in ({"redis_password": "p@ss/ w"}, {"redis_password_file": tmp_path / "password"}):
        settings = Settings(redis_url=url, **how)
        assert settings.redis_address == address
        assert redis.ConnectionPool.from_url(settings.redis_address).connection_kwargs["password"] == ("own" if "own" in url else "p@ss/ w")
    assert Settings(redis_url=url).redis_address == url
    assert Settings(redis_url=url, redis_password_file="/dev/null").redis_address == url  # noqa: S106 - no password
    for wrong in ({"redis_password": "a", "redis_password_file": "/dev/null"}, {"redis_password_file": "/nowhere"}):
        with pytest.raises(BadSettings, match="REDIS_PASSWORD_FILE"):
            _ = Settings(redis_url=url, **wrong).redis_address
