"""The whole demo: start the servers, send the studies, check the results, stop the servers."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from storage_ledger.demo import dicom_files, printing
from storage_ledger.demo.dicom_files import Case, DemoUpload
from storage_ledger.demo.expected_outcomes import Watch
from storage_ledger.demo.neighbours import CHANNEL, Neighbours
from storage_ledger.demo.servers import LOOPBACK, CannotRun, DemoServer, DemoServers, answers, find_valkey, free_ports, this_or_free
from storage_ledger.errors import Retryable
from storage_ledger.ledger.contract import Ledger
from storage_ledger.operations.report.status import current_status
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.settings import Settings
from storage_ledger.wiring.stores import reading

GRACE_S = 1.0
CONFIRM_S = 1.0
STALLED_S = 30.0
"""If nothing happens for this long, the demo stops waiting and reports."""

INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The command's options. `folder`: None for a temporary one."""

    exit_when_done: bool = False
    port: int = 8001
    folder: Path | None = None
    keep: bool = False
    viewer: Path | None = None
    """A folder that scripts/viewer has prepared."""


def run(options: DemoOptions, out: Console, tell: Callable[[dict[str, Any]], None] = lambda _: None) -> int:
    """Run the demo. Returns 0 if all is as expected, 1 if not, 130 if interrupted before that. Raises `CannotRun`.

    `out` is for people; `tell` is called once with the results. On return, all processes have ended, and a temporary folder is
    removed unless it is to be kept. Call it in the main thread: it handles SIGINT, SIGTERM and SIGHUP, and a second signal
    ends it faster.
    """
    find_valkey()
    with _signals() as signals, ExitStack() as stack:
        try:
            folder = stack.enter_context(_folder(options))
            demo = _Demo(options, out, tell, folder, signals)
            stack.callback(demo.close)
            return demo.run()
        except Interrupted:
            return INTERRUPTED


class Interrupted(Exception):
    """The demo received a signal."""


class _Signals:
    """Counts signals. All waits check the count often, so that a signal never interrupts a step."""

    def __init__(self) -> None:
        self.count = 0

    def check(self) -> None:
        if self.count:
            raise Interrupted

    def again(self) -> bool:
        """Return whether a second signal came."""
        return self.count > 1

    def __call__(self, _: int, __: FrameType | None) -> None:
        self.count += 1


class _Demo:
    def __init__(self, options: DemoOptions, out: Console, tell: Callable[[dict[str, Any]], None], folder: Path, signals: _Signals) -> None:
        self._options = options
        self._out = out
        self._tell = tell
        self._folder = folder
        self._signals = signals
        self._settings = _settings(folder, options.viewer)
        self._environment = folder / "env"
        self._servers = DemoServers(folder, self._settings, signals.check)
        self._client = StatusClient(self._settings["STATUS_SERVICE_URL"])
        self._neighbours: Neighbours | None = None

    def run(self) -> int:
        out, options = self._out, self._options
        printing.header(out)
        with printing.starting(out):
            page_port, uploads = self._start()
        page = f"http://{LOOPBACK}:{page_port}/"
        printing.places(out, self._places(page))
        if page_port != options.port:
            out.print(f"Port {options.port} is taken: the web page is on {page_port}.\n", style="yellow")
        uploads_path, archive_path, ledger_path = (Path(self._settings[name]) for name in _PATHS)
        settings = Settings.model_construct(uploads_path=uploads_path, archive_path=archive_path, ledger_path=ledger_path)
        with reading(settings) as ledger:
            watch = self._archive(ledger, uploads, settings)
            differences = watch.differences(settings.archive_path)
        figures = watch.figures()
        printing.happened(out, figures, GRACE_S)
        printing.verdict(out, differences)
        document = {"as_expected": not differences, "differences": differences, **dataclasses.asdict(figures)}
        self._tell({**document, "folder": str(self._folder), "page": None if options.exit_when_done else page})
        study_id = to_show(watch.resent, uploads)
        missing = next(upload.study_id for upload in uploads if upload.case is Case.MISSING)
        with self._environment.open("a", encoding="utf-8") as file:
            file.write(f"export A_STUDY={study_id}\nexport QUARANTINED={missing}\n")
        if not options.exit_when_done:
            printing.next_steps(out, page=page, environment=self._environment, study_id=study_id)
            self._wait()
        elif _is_kept(options):
            printing.next_steps(out, page=None, environment=self._environment, study_id=study_id)
        return 1 if differences else 0

    def close(self) -> None:
        """Stop everything. The simulated neighbours stop first: without the servers they would fail."""
        if self._neighbours is not None:
            self._neighbours.close()
        self._servers.close(self._signals.again)
        self._client.close()

    def _start(self) -> tuple[int, list[DemoUpload]]:
        settings, servers = self._settings, self._servers
        self._environment.write_text(_environment_file(settings), encoding="utf-8")
        for name in _PATHS:
            Path(settings[name]).mkdir(mode=0o750)
        servers.start_valkey(_port(settings["REDIS_URL"]))
        status_port, http_port, page_port = (
            _port(settings["STATUS_SERVICE_URL"]),
            int(settings["HTTP_PORT"]),
            this_or_free(self._options.port),
        )
        status_service = servers.start("Status Service", "status-service", "--port", str(status_port), port=status_port)
        serve = servers.start("Storage service", "serve", port=http_port)
        browse = servers.start("Web page", "browse", "--port", str(page_port), "--no-login", port=page_port)
        today = datetime.now().astimezone().date()
        uploads = dicom_files.make(today, between=servers.check)
        ready: tuple[tuple[DemoServer, str], ...] = ((status_service, "/health"), (serve, "/readyz"), (browse, "/-/health"))
        for server, path in ready:
            servers.until(partial(answers, server.port, path), server)
        return page_port, uploads

    def _places(self, page: str) -> dict[str, str]:
        gone = "kept" if _is_kept(self._options) else "removed when the demo ends"
        return {
            "Valkey": self._settings["REDIS_URL"],
            "Status Service": self._settings["STATUS_SERVICE_URL"],
            "Storage service": f"http://{LOOPBACK}:{self._settings['HTTP_PORT']}/readyz",
            "Web page": f"{page}  (no login)",
            "Folder": f"{self._folder}  ({gone})",
        }

    def _archive(self, ledger: Ledger, uploads: list[DemoUpload], settings: Settings) -> Watch:
        """Send everything, and watch until all of it has its outcome or nothing happens for `STALLED_S`."""
        self._neighbours = neighbours = Neighbours(uploads, settings.uploads_path, self._settings["REDIS_URL"], self._client)
        watch = Watch(ledger, uploads)
        progress = printing.Archiving(self._out, watch)
        to_redeliver = [upload.study_id for upload in uploads if upload.case is Case.TWICE]
        neighbours.start()
        changed_at, before = time.monotonic(), (0, 0)
        with progress.shown():
            while not (watch.is_done and current_status(ledger, settings).index_position == watch.position):
                self._servers.check()
                if neighbours.failure is not None:
                    raise self._why(neighbours.failure) from neighbours.failure
                progress.update(watch.look())
                for study_id in [study_id for study_id in to_redeliver if watch.is_archived(study_id)]:
                    neighbours.redeliver(study_id)
                    to_redeliver.remove(study_id)
                try:
                    watch.check_statuses(neighbours.spoken, self._client.read)
                except Retryable as error:
                    raise self._why(error) from error
                if before != (before := (watch.position, watch.settled)):
                    changed_at = time.monotonic()
                elif time.monotonic() - changed_at > STALLED_S:
                    break
                time.sleep(0.05)
            progress.update(watch.look())
        return watch

    def _why(self, error: Exception) -> CannotRun:
        """Return the error to raise. If a server cannot be reached because it ended, `check` raises, naming it and the reason."""
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            self._servers.check()
            time.sleep(0.05)
        return CannotRun(f"the simulated gateway and descriptor failed: {error}.")

    def _wait(self) -> None:
        """Wait until the user ends the demo."""
        goes = "" if _is_kept(self._options) else " and remove the folder"
        self._out.print(f"Press [bold]Ctrl-C[/bold] to stop everything{goes}.")
        try:
            while True:
                self._servers.check()
                time.sleep(0.1)
        except Interrupted:
            self._out.print("\nStopping.")


def to_show(resent: Iterable[str], uploads: list[DemoUpload]) -> str:
    """Return a study for `show`: with a re-sent status if possible, and one intact file, which the tutorial copies."""
    by_case = {upload.study_id: upload.case for upload in uploads}
    ordinary = (study_id for study_id in resent if by_case[study_id] is Case.ORDINARY)
    return next(ordinary, None) or next(upload.study_id for upload in uploads if upload.case is Case.TWICE)


_PATHS = ("UPLOADS_PATH", "ARCHIVE_PATH", "LEDGER_PATH")


def _settings(folder: Path, viewer: Path | None) -> dict[str, str]:
    redis_port, status_port, http_port = free_ports(3)
    return {
        "REDIS_URL": f"redis://{LOOPBACK}:{redis_port}",
        "DESCRIBED_CHANNEL": CHANNEL,
        "DESCRIBED_STREAM": "",
        "STATUS_SERVICE_URL": f"http://{LOOPBACK}:{status_port}",
        **{name: str(folder / name.removesuffix("_PATH").lower()) for name in _PATHS},
        "NEIGHBOUR_UPLOADS_PATHS": "/app/uploads",
        "HTTP_HOST": LOOPBACK,
        "HTTP_PORT": str(http_port),
        "ENVIRONMENT": "demo",
        "BROWSE_SERVICE_URL": f"http://{LOOPBACK}:{http_port}",
        "BROWSE_SQL_USERS": "*",
        "BROWSE_VIEWER_PATH": str(viewer.resolve()) if viewer is not None else "",
        "BROWSE_NOTICE": "This is a demo: its patients are made up.",
        "MISSING_FILE_GRACE_SECONDS": f"{GRACE_S:g}",
        "STATUS_CONFIRM_SECONDS": f"{CONFIRM_S:g}",
    }


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


def _environment_file(settings: Mapping[str, str]) -> str:
    """Return a file for the user's shell: the demo's settings, and this `storage-ledger` first on PATH."""
    lines = ["# Load it into a shell: . this-file"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    lines.append(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"')
    return "\n".join(lines) + "\n"


def _is_kept(options: DemoOptions) -> bool:
    return options.keep or options.folder is not None


@contextmanager
def _folder(options: DemoOptions) -> Iterator[Path]:
    """Create a folder for everything, and remove it at the end unless it is to be kept. Raises `CannotRun`."""
    try:
        if options.folder is None:
            folder = Path(tempfile.mkdtemp(prefix="storage-ledger-demo-")).resolve()
        else:
            folder = options.folder.resolve()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise CannotRun(f"{folder} is not empty: choose an empty or a new folder.")
    except OSError as error:
        raise CannotRun(f"cannot create the folder ({error.filename}): {error.strerror}.") from error
    try:
        yield folder
    finally:
        if not _is_kept(options):
            shutil.rmtree(folder)


@contextmanager
def _signals() -> Iterator[_Signals]:
    signals = _Signals()
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # keep nohup working
            before[number] = signal.signal(number, signals)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
