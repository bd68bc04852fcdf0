"""How long to wait before the next attempt."""

from __future__ import annotations


def backoff_s(attempt: int, *, base_s: float, cap_s: float, chance: float) -> float:
    """Seconds before attempt `attempt + 1`: exponential up to `cap_s`, spread over its upper half by `chance` in [0, 1).

    The spread keeps a thousand studies that failed together from coming back together.
    """
    whole = min(cap_s, base_s * 2.0 ** min(attempt - 1, 40))
    return whole * (0.5 + chance / 2)


def worth_an_entry(attempt: int) -> bool:
    """Whether this failed attempt is recorded: the 1st, 10th, 100th …, so that a day of them leaves a handful of entries."""
    while attempt >= 10 and attempt % 10 == 0:
        attempt //= 10
    return attempt == 1


def calm_s(times: int) -> float:
    """For how many seconds a cause must be gone before it counts as ended, after it has ended so many times lately.

    At once the first time, then 15 s, 1 min, 4 min …, an hour at the most: who comes and goes all day leaves a handful of
    entries.
    """
    return 0.0 if times == 0 else min(3600.0, 15 * 4.0 ** min(times - 1, 10))
