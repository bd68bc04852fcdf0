"""How long to wait before the next attempt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential waits: about `base_s` seconds after the first failure, twice as long after each further one, at most `cap_s`."""

    base_s: float
    cap_s: float

    def wait_s(self, attempt: int, *, chance: float) -> float:
        """Seconds before attempt `attempt + 1`, spread over its upper half by `chance` in [0, 1).

        The spread keeps a thousand studies that failed together from coming back together.
        """
        whole = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 40))
        return whole * (0.5 + chance / 2)


# One work item, by itself.
PLACE_AGAIN = Backoff(0.5, 300)
NOT_WHOLE_YET = Backoff(0.25, 15)
"""The upload is missing, being written or still settling."""
REMOVE_AGAIN = Backoff(1, 600)
TELL_AGAIN_REFUSED = Backoff(0.25, 900)
TELL_AGAIN_AWAY = Backoff(0.25, 15)
INTERNAL_ERROR_AGAIN = Backoff(0.5, 300)

# A whole step, because of a cause that all work items share.
PLACE_PAUSES = Backoff(0.5, 30)
REMOVE_PAUSES = Backoff(0.5, 60)
TELL_PAUSES = Backoff(0.5, 15)
MIRROR_PAUSES = Backoff(0.5, 15)
LEDGER_BUSY = Backoff(0.5, 30)
INTAKE_PAUSES = Backoff(0.2, 15)

REPLAY_STATUS_AWAY = Backoff(0.5, 4)


def worth_an_entry(attempt: int) -> bool:
    """Whether this failed attempt is recorded: the 1st, 10th, 100th …, so that a day of them leaves a handful of entries."""
    while attempt >= 10 and attempt % 10 == 0:
        attempt //= 10
    return attempt == 1


def calm_s(times: int) -> float:
    """Seconds for which a cause must be gone before it counts as ended, after it has ended `times` times lately.

    0 at first, then 15 s, 1 min, 4 min …, an hour at the most: a cause that comes and goes all day leaves a handful of entries.
    """
    return 0.0 if times == 0 else min(3600.0, 15 * 4.0 ** min(times - 1, 10))
