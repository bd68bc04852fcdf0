"""A cache of study folds, so that a study of ten thousand files is not folded again for each batch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from storage_ledger.domain.entries import Entry, require_whole
from storage_ledger.domain.study import Study
from storage_ledger.ledger.contract import Ledger

MOST = 64
MOST_LENT = 512  # any more belong to work that raised
MOST_FILES = 50_000  # in all kept folds: about 2 KiB each


class StudyFolds:
    """Lends the fold of a study, brought up to date with the ledger. Thread-safe; only one worker has a study at a time.

    The borrower may feed it outcomes that are about to be appended. The fold is kept only if they were: see `keep`.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._lent: dict[str, Study] = {}
        self._kept: OrderedDict[str, Study] = OrderedDict()

    def lend(self, study_id: str, at_hand: Sequence[Entry]) -> Study:
        """Return the study folded from all its entries. Each entry is verified when it is first folded, and those in `at_hand` always.

        Raises as `Study.of` does.
        """
        with self._lock:
            self._lent.pop(study_id, None)
            study = self._kept.pop(study_id, None) or Study(study_id)
        checked: set[int] = set()
        same = {entry.position: entry for entry in at_hand}
        study.follow(_noting(self._ledger.study(study_id, after=study.version), same, checked))
        require_whole(entry for entry in at_hand if entry.position not in checked)
        with self._lock:
            self._lent[study_id] = study
            while len(self._lent) > MOST_LENT:
                del self._lent[next(iter(self._lent))]
        return study

    def forget(self, study_id: str) -> None:
        """Drop a lent fold that was fed something that was not, or may not have been, appended."""
        with self._lock:
            self._lent.pop(study_id, None)

    def keep(self, study_id: str) -> None:
        """Keep a lent fold: everything it was fed is in the ledger. Does nothing if it was forgotten."""
        with self._lock:
            study = self._lent.pop(study_id, None)
            if study is None:
                return
            self._kept[study_id] = study
            while len(self._kept) > MOST or (len(self._kept) > 1 and sum(len(each.files) for each in self._kept.values()) > MOST_FILES):
                self._kept.popitem(last=False)


def _noting(entries: Iterable[Entry], at_hand: Mapping[int, Entry], checked: set[int]) -> Iterator[Entry]:
    """Yield the entries unchanged, noting which of those at hand are verified by being equal."""
    for entry in entries:
        if at_hand.get(entry.position) == entry:
            checked.add(entry.position)
        yield entry
