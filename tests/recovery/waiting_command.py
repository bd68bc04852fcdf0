"""Waits until a tracer has come (a line on the FIFO that is its first argument), then is `storage-ledger` with the others."""

import sys
from pathlib import Path

from storage_ledger.cli.main import main

Path(sys.argv[1]).read_text(encoding="utf-8")
sys.argv = ["storage-ledger", *sys.argv[2:]]
main()
