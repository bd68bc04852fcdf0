"""What `serve` says about itself at /readyz and /metrics, for `status` and the web page."""

from __future__ import annotations

import http.client
import json
import math
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from storage_ledger.domain.reason import Reason

UNEXPLAINED = "storage_ledger_unexplained_files"
FREE = "storage_ledger_free_bytes"
TOTAL = "storage_ledger_total_bytes"
_MAX_BYTES = 1 << 20
OUTSIDE_ENTRIES = "storage_ledger_checkpoint_outside_entries"
OUTSIDE_WAITING = "storage_ledger_checkpoint_outside_waiting_seconds"
_SAMPLE = re.compile(r'^(\w+)(?:\{(?:volume|place)="([^"]*)"\})? (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Space:
    """Free and total bytes of a volume."""

    free_bytes: int
    total_bytes: int

    @property
    def share_free(self) -> float:
        """Return the free share, from 0 to 1."""
        return self.free_bytes / self.total_bytes


@dataclass(frozen=True, slots=True)
class PlaceOutside:
    """A place that gets checkpoints. `entries`: of the newest that it has taken since `serve` started, or 0.

    `waiting_s`: for how many seconds it has lacked a newer one.
    """

    name: str
    entries: int
    waiting_s: int


@dataclass(frozen=True, slots=True)
class ServiceAnswer:
    """`not_ready`: why the service is not ready; empty if it is. `unexplained`: number of unexplained files in uploads.

    `volumes`: the space of each volume by name, without those that `serve` cannot read. `outside`: the places that get checkpoints.
    An older `serve` reports none of these.
    """

    not_ready: list[Reason]
    unexplained: int | None
    volumes: dict[str, Space]
    outside: tuple[PlaceOutside, ...] = ()


def ask(url: str, within_s: float) -> ServiceAnswer | None:
    """Ask the `serve` at `url`, such as `http://127.0.0.1:8004`. Returns None without a valid answer.

    `within_s` limits each read from the connection, not the whole call.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=within_s)
    try:
        reasons = json.loads(_read(connection, "/readyz")).get("reasons", [])
        not_ready = [Reason(str(reason["code"]), str(reason["detail"])) for reason in reasons]
        return _answer(not_ready, _read(connection, "/metrics").decode())
    except (OSError, http.client.HTTPException, ValueError, OverflowError, KeyError, TypeError, AttributeError):
        return None
    finally:
        connection.close()


def _answer(not_ready: list[Reason], metrics: str) -> ServiceAnswer:
    wanted = {UNEXPLAINED, FREE, TOTAL, OUTSIDE_ENTRIES, OUTSIDE_WAITING}
    found = {(name, label): float(value) for name, label, value in _SAMPLE.findall(metrics) if name in wanted}
    unexplained = found.get((UNEXPLAINED, ""))
    volumes = {}
    for (name, volume), total in found.items():
        free = found.get((FREE, volume), math.nan)
        if name == TOTAL and math.isfinite(free) and math.isfinite(total) and total > 0:
            volumes[volume] = Space(int(free), int(total))
    outside = tuple(
        PlaceOutside(place, int(found.get((OUTSIDE_ENTRIES, place), 0)), int(waiting_s))
        for (name, place), waiting_s in sorted(found.items())
        if name == OUTSIDE_WAITING
    )
    return ServiceAnswer(not_ready, None if unexplained is None else int(unexplained), volumes, outside)


def _read(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    return connection.getresponse().read(_MAX_BYTES)
