"""How long to wait before the next attempt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff: about `base_s` seconds after the first failure, doubling with each further one, at most `cap_s`."""

    base_s: float
    cap_s: float

    def wait_s(self, attempt: int, *, chance: float) -> float:
        """Return the seconds to wait after attempt number `attempt`; `chance` in [0, 1) picks a point in the upper half of the wait.

        This jitter keeps a thousand studies that failed together from retrying together.
        """
        whole = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 40))
        return whole * (0.5 + chance / 2)


# Retries of one work item.
PLACE_AGAIN = Backoff(0.5, 300)
NOT_WHOLE_YET = Backoff(0.25, 15)
"""The upload is missing, still being written, or changed too recently."""
REMOVE_AGAIN = Backoff(1, 600)
TELL_AGAIN_REFUSED = Backoff(0.25, 900)
TELL_AGAIN_AWAY = Backoff(0.25, 15)
INTERNAL_ERROR_AGAIN = Backoff(0.5, 300)

# Pauses of a whole step, for a cause that all work items share.
PLACE_PAUSES = Backoff(0.5, 30)
REMOVE_PAUSES = Backoff(0.5, 60)
TELL_PAUSES = Backoff(0.5, 15)
MIRROR_PAUSES = Backoff(0.5, 15)
LEDGER_BUSY = Backoff(0.5, 30)
INTAKE_PAUSES = Backoff(0.2, 15)

OUTSIDE_AGAIN = Backoff(2, 600)
"""A checkpoint that a place outside has not taken."""

REPLAY_STATUS_AWAY = Backoff(0.5, 4)


def worth_an_entry(attempt: int) -> bool:
    """Return whether to record this failed attempt: the 1st, 10th, 100th …, so a day of retries leaves only a few entries."""
    while attempt >= 10 and attempt % 10 == 0:
        attempt //= 10
    return attempt == 1


def calm_s(times: int) -> float:
    """Return how long a cause must be gone before its outage counts as over, if it has recently ended `times` times.

    0 at first, then 15 s, 1 min, 4 min …, at most an hour, so a cause that comes and goes all day leaves only a few entries.
    """
    return 0.0 if times == 0 else min(3600.0, 15 * 4.0 ** min(times - 1, 10))
