"""A second process that appends to the same ledger, as an operator's command would: repeated messages and bad ones.

python appender.py SEED FILE      one message a line in FILE, in hexadecimal
"""

import os
import random
import sys
from pathlib import Path

from storage_ledger.domain.paths import UploadPaths
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.pipeline.receive.intake import Intake
from storage_ledger.pipeline.receive.source import Delivery, Source
from storage_ledger.pipeline.wakeups import Wakeups
from storage_ledger.settings import Settings
from storage_ledger.system.clock import utc_now
from storage_ledger.system.metrics import Metrics

GROUPS = 12


class Nobody(Source):
    """A source that acknowledges nothing."""

    name = "reconcile"
    subscribed = True

    def run(self, deliver, stop):
        """Deliver nothing."""

    def acknowledge(self, deliveries):
        """Nothing to do."""


def main() -> None:
    rng = random.Random(sys.argv[1])
    messages = [bytes.fromhex(line) for line in Path(sys.argv[2]).read_text().splitlines()]
    settings = Settings.load()
    os.umask(0o027)
    ledger = SqliteLedger(settings.ledger_file)
    intake = Intake(
        ledger,
        Nobody(),
        UploadPaths(str(settings.uploads_path), settings.neighbour_uploads_paths),
        metrics=Metrics(),
        clock=utc_now,
        rejected_per_hour=settings.rejected_per_hour,
        wakeups=Wakeups(),
    )
    for _ in range(GROUPS):
        intake.append([Delivery(rng.choice(messages), Nobody.name) for _ in range(rng.randrange(1, 4))])
    ledger.close()


if __name__ == "__main__":
    main()
