"""Create the file named by the first argument, wait for SIGUSR1, then become `storage-ledger` with the other arguments.

This lets a tracer attach at a fixed point, so that it counts the same calls each time.
"""

import signal
import sys
from pathlib import Path

from storage_ledger.cli.main import main

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
Path(sys.argv[1]).touch()
signal.sigwait([signal.SIGUSR1])
sys.argv = ["storage-ledger", *sys.argv[2:]]
main()
