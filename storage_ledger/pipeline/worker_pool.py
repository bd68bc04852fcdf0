"""Workers for some stages of the work queue: claim due work items, process them in a few threads, record the outcomes in groups.

An exception from one work item is a failure of that item only: it is recorded and retried later, and stops no other. Only an
unusable ledger ends a pool.
A cause that all work items share (a full disk, an unreachable service) pauses the whole pool; the step only reports it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Generic

from storage_ledger.domain.backoff import LEDGER_BUSY, Backoff
from storage_ledger.domain.ids import instant, later, rfc3339
from storage_ledger.domain.share import Share
from storage_ledger.domain.work_queue import Stage, StepName
from storage_ledger.errors import LedgerBusy, LedgerUnusable, Retryable
from storage_ledger.ledger.contract import Ledger, Transaction, WorkItem
from storage_ledger.pipeline.failures import Outages, postpone_unsaid, record_hanging, record_internal_error
from storage_ledger.pipeline.worker_threads import Outcome, WorkerTask, WorkerThreads, WorkResult, is_of_the_ledger
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics

AHEAD = 4  # groups claimed per worker
LARGE_SHARE, MOST_OF_LARGE = 16, 4096  # of a study with many entries, a sixteenth of their number is done at a time
GATHER_S = 0.01
CALM_S = 60.0  # after this time without a shared cause, pauses start short again
LOOK_EVERY_S = 1.0  # another process may append without waking us
HANGS_AFTER_S = 120.0
SCAN_SHARE = 5  # after a scan that found no other study, wait this many times its duration before the next one


@dataclass(frozen=True, slots=True)
class Policy:
    """How a pool processes the work items of one step.

    step: its name in entries and metrics. thread: in the log.
    by_study: at most one worker has a study at a time, and its work items are done in order; without it, everything due is one group.
    studies: most studies in one group.
    most: most work items in one group. With `studies`, more of a large study: each group rewrites its metadata.json.
    room: most groups claimed, those in work included; None: four per worker.
    gather_s: how long to wait for more work: fewer and larger groups cost less.
    drain: at a stop, finish what is due.
    pauses: the waits after a shared cause was met `pause_after` times in a row; after `outage_after` times it is recorded as an outage.
    resumes_unless_met: work that met no shared cause ends the pauses; without it, only successful work does.
    hangs_after_s: a call without a sign of life (`beat`) for this long is given up. With `into_volumes`, that is recorded as `failed`.
    """

    step: StepName
    thread: str
    stages: tuple[Stage, ...]
    workers: int
    pauses: Backoff
    pause_after: int = 1
    outage_after: int = 1
    by_study: bool = True
    studies: int = 1
    most: int = 64
    room: int | None = None
    gather_s: float = 0.0
    drain: bool = False
    into_volumes: bool = True
    resumes_unless_met: bool = True
    hangs_after_s: float = HANGS_AFTER_S


@dataclass(frozen=True, slots=True)
class Report:
    """What a step recorded for a group of outcomes.

    met: the shared causes, in order. works: a success shows that no shared cause remains.
    on_commit: called once everything is durable.
    """

    met: Sequence[Retryable]
    works: bool
    on_commit: Callable[[], None]


class WorkerPool(Generic[Outcome]):
    """The worker threads of one step.

    `work` gets the due work items of one study (without `Policy.by_study`: all of them) and returns an outcome.
    `before_commit` makes durable what several outcomes share, and may change them.
    `record` appends the outcomes, in one commit for all that are ready: the slower the disk, the larger the groups. Its last
    argument says whether all of them began after the last pause: only then does a success show that a shared cause is gone.

    Work that could not be committed (`LedgerBusy`) is done again: every effect may be done twice. If any of the three raises
    something else, the work items are taken one by one, and the one that raises is recorded as `failed` (`internal-error`) and
    retried with backoff.

    `wakeup` is set when there may be something to do. `up_to`: only work items of entries up to this position are claimed.
    `share`: only those of the studies in it; other processes work on the rest. `together`: whether that many studies are best one group.
    """

    def __init__(
        self,
        policy: Policy,
        ledger: Ledger,
        *,
        work: Callable[[list[WorkItem]], Outcome],
        before_commit: Callable[[list[Outcome]], list[Outcome]] = lambda outcomes: outcomes,
        record: Callable[[Transaction, list[Outcome], bool], Report],
        outages: Outages,
        metrics: Metrics,
        clock: Callable[[], datetime],
        wakeup: threading.Event,
        up_to: Callable[[], int] | None = None,
        share: Share | None = None,
        together: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self.policy = policy
        self._ledger = ledger
        self._before_commit = before_commit
        self._record = record
        self._outages = outages
        self._metrics = metrics
        self._clock = clock
        self._wakeup = wakeup
        self._up_to = up_to
        self._share = share
        self._threads: WorkerThreads[Outcome] = WorkerThreads(policy.thread, work, wakeup)
        self._met_in_a_row = 0
        self._paused_until = 0.0
        self._probing = False
        self._pauses = 0
        self._round = 0
        self._resumed_at = 0.0
        self._scan_at = 0.0
        self._page = policy.most
        self._too_long = False
        self._together = together
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing

    @property
    def hanging(self) -> int:
        """Return the number of calls that have given no sign of life for too long and have not returned."""
        return self._threads.hanging

    def run(self, stop: threading.Event) -> None:
        """Run until `stop` is set and all started work is recorded, except hanging calls. May be called again after it raised."""
        self._threads.hire(self.policy.workers)
        self._go_round(stop)
        self._threads.dismiss()

    def record(self, outcomes: list[Outcome], *, fresh: bool) -> None:
        """Record outcomes in one commit. `fresh`: the work began after the last pause. Raises `LedgerError`, and bugs."""
        self._commit(self._before_commit(outcomes), fresh=fresh)

    def _commit(self, outcomes: list[Outcome], *, fresh: bool) -> None:
        with self._ledger.write() as tx:
            report = self._record(tx, outcomes, fresh)
            self._account(tx, report, works=fresh and report.works)
        if fresh and (report.works or (self.policy.resumes_unless_met and not report.met)):
            self._resume()
        report.on_commit()

    def _account(self, tx: Transaction, report: Report, *, works: bool) -> None:
        """Pause, and begin or end an outage, according to the report."""
        policy = self.policy
        self._met_in_a_row = 0 if works else self._met_in_a_row + len(report.met)
        pause_s = self._pause(policy.pauses) if report.met and self._met_in_a_row >= policy.pause_after else 0.0
        if report.met and self._met_in_a_row >= policy.outage_after:
            retry_at = later(rfc3339(self._clock()), pause_s)
            self._outages.begin(tx, policy.step, report.met[0], attempt=self._met_in_a_row, retry_at=retry_at)
        elif works:
            self._outages.end(tx, policy.step)

    def _pause(self, pauses: Backoff) -> float:
        """Claim nothing for a while, longer each time, then one group at a time. Returns the seconds."""
        if not self._probing and time.monotonic() - self._resumed_at > CALM_S:
            self._pauses = 0
        self._pauses += 1
        self._round += 1
        seconds = pauses.wait_s(self._pauses, chance=self._random.random())
        self._paused_until = time.monotonic() + seconds
        self._probing = True
        return seconds

    def _resume(self) -> None:
        """Note that the shared cause is gone. If it returns soon, the next pause is still longer than the last one."""
        if self._probing:
            self._resumed_at = time.monotonic()
        self._paused_until = 0.0
        self._probing = False

    def _go_round(self, stop: threading.Event) -> None:
        while True:
            if self.policy.gather_s and not stop.is_set():
                stop.wait(self.policy.gather_s)
            elif self._threads.at_work() > 1:
                stop.wait(GATHER_S)  # others are about to finish: one commit for all of them
            self._wakeup.clear()
            self._collect()
            self._give_up_on_hanging()
            if stop.is_set():
                if not self._threads.at_work() and self.policy.drain:
                    self._claim()
                if not self._threads.at_work():
                    return
                self._wakeup.wait(LOOK_EVERY_S)
                continue
            self._wakeup.wait(self._claim())

    def _give_up_on_hanging(self) -> None:
        for work_items, others in self._threads.give_up_on_hanging(self.policy.hangs_after_s):
            logs.get().error(f"{self.policy.thread}.hangs", position=work_items[0].entry.position, count=len(work_items))
            for study in self._by_study(others):  # each on its own: more of them may hang
                self._begin(study)
            if self.policy.into_volumes:
                self._record_hanging(work_items)

    def _record_hanging(self, work_items: list[WorkItem]) -> None:
        try:
            record_hanging(self._ledger, self.policy.step, work_items if self.policy.by_study else work_items[:1])
        except LedgerBusy as error:
            self._stumbled(error)

    def _claim(self) -> float:
        """Hand out due work; return the seconds until the next check."""
        paused_s = self._paused_until - time.monotonic()
        if paused_s > 0:
            return min(paused_s, LOOK_EVERY_S)
        # Some groups wait in the pool, so that a free worker need not wait for the ledger.
        room = 1 if self._probing else self.policy.room or self.policy.workers * AHEAD
        at_work = self._threads.at_work()
        free = room - at_work
        if free <= 0 or (free < room / 2 and at_work > self.policy.workers):
            return LOOK_EVERY_S
        try:
            if self._hand_out(free) == free:
                return LOOK_EVERY_S
            scan_s = self._scan_at - time.monotonic()
            return min(scan_s, LOOK_EVERY_S) if scan_s > 0 else self._next_due_s()
        except LedgerBusy as error:
            return self._stumbled(error)

    def _hand_out(self, free: int) -> int:
        """Hand out up to `free` groups of work items. Returns their number.

        A page may be full of one study's work items, but only one group of a study is handed out at a time. The next page is then
        read without that study, so that the others get their turn.
        """
        in_hand = self._threads.in_hand()
        studies = {entry.study_id for entry in in_hand if entry.study_id} if self.policy.by_study else set()
        busy = [entry.position for entry in in_hand if entry.study_id not in studies]
        limit = max(self._page, free)
        handed_out = 0
        while handed_out < free:
            began = time.monotonic()
            if studies and began < self._scan_at:
                break
            up_to = self._up_to() if self._up_to else None
            due = self._ledger.due(self.policy.stages, limit=limit, busy=busy, busy_studies=studies, up_to=up_to, share=self._share)
            self._page = max([self.policy.most, *(_at_once(work_item, self.policy) for work_item in due)])
            if not due and studies:  # the scan read all their work items: with a hundred thousand of them, not at each wake-up
                self._scan_at = time.monotonic() + SCAN_SHARE * (time.monotonic() - began)
            groups = self._groups(due)[: free - handed_out]
            for group in groups:
                self._begin(group)
                busy += [work_item.entry.position for work_item in group if not work_item.entry.study_id]
                studies |= {work_item.entry.study_id for work_item in group if work_item.entry.study_id}
            handed_out += len(groups)
            if len(due) < limit or not self.policy.by_study:
                break
        return handed_out

    def _begin(self, work_items: list[WorkItem], *, singly: bool = False) -> None:
        self._threads.hand_out(work_items, begun=self._round, singly=singly)

    def _groups(self, due: list[WorkItem]) -> list[list[WorkItem]]:
        if not self.policy.by_study:
            return [due] if due else []
        found = self._by_study(due)
        apart = self._probing or self._too_long or not self._together(len(found))
        return found if apart else self._merged(found)

    def _by_study(self, work_items: list[WorkItem]) -> list[list[WorkItem]]:
        groups: dict[str | int, list[WorkItem]] = {}
        for work_item in work_items:
            groups.setdefault(work_item.entry.study_id or work_item.entry.position, []).append(work_item)
        return [sorted(group[: _at_once(group[0], self.policy)], key=lambda each: each.entry.position) for group in groups.values()]

    def _merged(self, studies: list[list[WorkItem]]) -> list[list[WorkItem]]:
        merged: list[list[list[WorkItem]]] = [[]]
        for work_items in studies:
            if len(merged[-1]) == self.policy.studies or sum(map(len, merged[-1])) + len(work_items) > self.policy.most:
                merged.append([])
            merged[-1].append(work_items)
        return [[work_item for study in group for work_item in study] for group in merged if group]

    def _collect(self) -> None:
        done = self._threads.done()
        if not done:
            return
        try:
            self._take(done)
        except LedgerBusy as error:
            self._stumbled(error)
        finally:
            self._threads.put_away(done)

    def _take(self, done: list[WorkerTask[Outcome]]) -> None:
        """Record the outcomes of these tasks. Work that raised `LedgerBusy` is claimed again; `LedgerUnusable` is raised."""
        fresh = all(task.begun == self._round for task in done)
        results = [result for task in done for result in task.future.result()]
        for result in results:
            if isinstance(result.error, LedgerUnusable) and is_of_the_ledger(result.error):
                raise result.error
            if isinstance(result.error, LedgerBusy):
                self._stumbled(result.error)
            elif result.error is not None:
                self._put_off(result.work_items, result.error)
        together = [result for task in done if not task.singly for result in task.future.result() if result.error is None]
        by_themselves = [[result] for task in done if task.singly for result in task.future.result() if result.error is None]
        for group in (together, *by_themselves):
            good = self._prepared(group)
            if good and not self._recorded(good, fresh):
                for result in good:
                    if len(good) == 1 or not self._recorded([result], fresh):
                        self._begin(result.work_items, singly=True)
        self._too_long = any(task.handed_back for task in done)
        for task in done:
            if (rest := task.work_items[sum(len(result.work_items) for result in task.future.result()) :]) and not task.handed_back:
                self._begin(rest, singly=True)

    def _prepared(self, results: list[WorkResult[Outcome]]) -> list[WorkResult[Outcome]]:
        """Apply `before_commit` to the outcomes, once for each, because it may change one."""
        if not results:
            return []
        try:
            outcomes = self._before_commit([result.outcome for result in results if result.outcome is not None])
        except BaseException as error:
            if is_of_the_ledger(error):
                raise
            if len(results) == 1 and len(results[0].work_items) == 1:
                self._put_off(results[0].work_items, error)
                return []
            logs.get().error(f"{self.policy.thread}.record-failed", error_type=type(error).__name__, frames_at=logs.where(error))
            for result in results:  # it may have undone any of them: each on its own, from the start
                self._begin(result.work_items, singly=True)
            return []
        return [replace(result, outcome=outcome) for result, outcome in zip(results, outcomes, strict=True)]

    def _recorded(self, results: list[WorkResult[Outcome]], fresh: bool) -> bool:
        """Return whether these outcomes could be recorded. Raises `LedgerError` if the ledger is the cause; then nothing was committed."""
        try:
            self._commit([result.outcome for result in results if result.outcome is not None], fresh=fresh)
        except BaseException as error:
            if is_of_the_ledger(error):
                raise
            if len(results) == 1 and len(results[0].work_items) == 1:
                self._put_off(results[0].work_items, error)
                return True
            logs.get().error(f"{self.policy.thread}.record-failed", error_type=type(error).__name__, frames_at=logs.where(error))
            return False
        return True

    def _put_off(self, work_items: list[WorkItem], error: BaseException) -> None:
        for work_item in work_items:
            try:
                record_internal_error(self._ledger, self._metrics, work_item, error)
            except BaseException as another:
                if is_of_the_ledger(another):
                    raise
                position = work_item.entry.position
                logs.get().error(f"{self.policy.thread}.record-failed", position=position, error_type=type(another).__name__)
                self._put_off_unsaid(work_item)

    def _put_off_unsaid(self, work_item: WorkItem) -> None:
        """Postpone a work item whose failure could not be recorded: it must not be claimed again at once, nor delay the others."""
        try:
            postpone_unsaid(self._ledger, work_item)
        except BaseException as error:
            if is_of_the_ledger(error):
                raise
            self._pause(LEDGER_BUSY)

    def _stumbled(self, error: LedgerBusy) -> float:
        seconds = self._pause(LEDGER_BUSY)
        logs.get().warning("ledger.busy", thread=self.policy.thread, code=error.code, due_in_s=round(seconds, 1))
        return seconds

    def _next_due_s(self) -> float:
        due = self._ledger.next_due(self.policy.stages, share=self._share)
        with suppress(ValueError):  # that row holds no valid time
            return LOOK_EVERY_S if due is None else min(LOOK_EVERY_S, max(0.005, instant(due).timestamp() - time.time()))
        return LOOK_EVERY_S


def _at_once(work_item: WorkItem, policy: Policy) -> int:
    return policy.most if policy.studies == 1 else max(policy.most, min(MOST_OF_LARGE, (work_item.entry.version or 0) // LARGE_SHARE))
