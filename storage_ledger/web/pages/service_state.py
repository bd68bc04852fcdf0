"""Whether `serve` works, as far as the web page knows. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from storage_ledger.domain.reason import Reason
from storage_ledger.operations.report.service_answer import ServiceAnswer, Space

Word = Literal["not-serving", "not-asked", "not-answering", "not-ready", "ready"]


@dataclass(frozen=True, slots=True)
class ServiceState:
    """`serving`: whether `serve` runs on this ledger (it holds its lock). `asked`: whether it was asked how it is.

    `answer`: its last answer; None if it was not asked or did not answer.
    """

    serving: bool = True
    asked: bool = False
    answer: ServiceAnswer | None = None

    @property
    def word(self) -> Word:
        """Return the state in one word: an error code, `ready`, or `not-asked`."""
        if not self.serving:
            return "not-serving"
        if not self.asked:
            return "not-asked"
        if self.answer is None:
            return "not-answering"
        return "not-ready" if self.answer.not_ready else "ready"

    def reasons(self, known: Collection[str] = ()) -> list[Reason]:
        """Return why the service needs attention, without the codes that the ledger also tells, as `storage-ledger status` does."""
        match self.word:
            case "not-serving" | "not-answering" as code:
                return [Reason(code)]
            case "not-ready" if self.answer is not None:
                return [each for each in self.answer.not_ready if each.code not in known]
            case _:
                return []

    @property
    def unexplained(self) -> int | None:
        """Return the number of unexplained files in uploads; None if it is not known."""
        return self.answer.unexplained if self.answer else None

    @property
    def volumes(self) -> dict[str, Space]:
        """Return the space of each volume; empty if it is not known."""
        return self.answer.volumes if self.answer else {}
