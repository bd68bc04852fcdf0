"""A job that fails is started again, and says so; only a ledger that cannot be used ends the others."""

from __future__ import annotations

import threading
import weakref

import pytest

from storage_ledger.errors import LedgerBusy, LedgerUnusable, Locked, Permanent, Rejected, Retryable
from storage_ledger.service.supervisor import CALM_S, TRIES_ONCE_STOPPED, Supervisor
from storage_ledger.system.metrics import Metrics


class Watched:
    """A supervisor with a clock that is moved by hand, and how often it found the ledger unusable."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.ended = 0
        self.metrics = Metrics()
        self.stop = threading.Event()
        self.supervisor = Supervisor(self.metrics, on_unusable=self._end, monotonic=lambda: self.now_s, first_s=0.001)

    def _end(self) -> None:
        self.ended += 1
        self.stop.set()

    def failures(self, name: str) -> float:
        return self.metrics.registry.get_sample_value("storage_ledger_thread_failures_total", {"thread": name}) or 0.0

    def run(self, job, **more) -> None:
        """In a thread, as the service does."""
        thread = threading.Thread(target=self.supervisor.run, args=("place", job, self.stop), kwargs=more)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def watched() -> Watched:
    return Watched()


ERRORS = [
    ValueError("canary-DOE^JANE"),
    KeyError("canary-DOE^JANE"),
    RecursionError("canary-DOE^JANE"),
    MemoryError("canary-DOE^JANE"),
    OSError(5, "canary-DOE^JANE"),
    UnicodeDecodeError("utf-8", b"canary-DOE^JANE", 0, 1, "canary-DOE^JANE"),
    StopIteration("canary-DOE^JANE"),
    AssertionError("canary-DOE^JANE"),
    NotImplementedError("canary-DOE^JANE"),
    LedgerBusy("ledger-busy", ""),
    Retryable("archive-io", ""),
    Permanent("upload-missing", ""),
    Rejected("not-json", ""),
    Locked("locked", ""),
    SystemExit("canary-DOE^JANE"),
    KeyboardInterrupt("canary-DOE^JANE"),
    GeneratorExit("canary-DOE^JANE"),
    BaseException("canary-DOE^JANE"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_job_that_raises_is_restarted_and_no_other_job_is_stopped(watched, log, error):
    ran = []

    def job() -> None:
        ran.append(1)
        if len(ran) < 4:
            raise error
        watched.stop.set()

    watched.run(job)
    assert len(ran) == 4
    assert (watched.ended, watched.supervisor.exit_code) == (0, 0)
    assert watched.failures("place") == 3
    assert watched.supervisor.failing() == ["place"]
    assert log.getvalue().count("thread.failed") == 3
    assert type(error).__name__ in log.getvalue()
    assert "canary" not in log.getvalue()


def test_a_job_that_returns_early_is_restarted(watched, log):
    ran = []

    def job() -> None:
        ran.append(1)
        if len(ran) == 3:
            watched.stop.set()

    watched.run(job)
    assert len(ran) == 3
    assert log.getvalue().count("ended by itself") == 2


def test_a_ledger_that_cannot_be_used_ends_the_service_once(watched, log):
    ended = []

    def job() -> None:
        raise LedgerUnusable("ledger-damaged", "canary")

    for _ in range(2):
        watched.run(job, at_end=lambda: ended.append(1))
    assert (watched.ended, watched.supervisor.exit_code, len(ended)) == (1, 2, 2)
    assert "thread.died" in log.getvalue()
    assert "code='ledger-damaged'" in log.getvalue() or "code=ledger-damaged" in log.getvalue()


def test_it_counts_as_failing_until_it_has_run_well_for_a_while(watched):
    ran = []

    def job() -> None:
        ran.append(1)
        if len(ran) == 1:
            raise ValueError
        watched.stop.set()

    watched.run(job)
    watched.now_s = CALM_S - 1
    assert watched.supervisor.failing() == ["place"]
    watched.now_s = CALM_S
    assert watched.supervisor.failing() == []


def test_at_end_is_called_once_and_only_when_the_job_has_ended_for_good(watched):
    order = []

    def job() -> None:
        order.append("run")
        if len(order) < 3:
            raise ValueError
        watched.stop.set()

    watched.run(job, at_end=lambda: order.append("end"))
    assert order == ["run", "run", "run", "end"]


def test_a_job_that_still_fails_after_the_stop_is_left_after_a_few_tries_and_the_exit_code_says_so(watched, log):
    ran = []

    def job() -> None:
        ran.append(1)
        raise ValueError

    watched.stop.set()
    watched.run(job)
    assert len(ran) == TRIES_ONCE_STOPPED
    assert watched.supervisor.exit_code == 2
    assert "thread.gave-up" in log.getvalue()


def test_objects_of_a_failed_job_are_released(watched):
    class Large:
        pass

    gone = threading.Event()

    def job() -> None:
        if not gone.is_set():
            large = Large()
            weakref.finalize(large, gone.set)
            raise ValueError
        watched.stop.set()

    watched.run(job)
    assert gone.is_set()
